/* Disk faults, by a SQLite VFS that hands everything on and fails when told to; and that a callback
 * means: on disk. */
#include "journal_fixture.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

struct shim_file {
    sqlite3_file base;
    bool log;
    sqlite3_file real[];
};

static sqlite3_vfs shim, *real_vfs;
static atomic_int fail_write_in,
    fail_sync_in;            /* 1: the next one fails, and all after it; 0: none */
static atomic_int fault;     /* the code */
static atomic_bool unsynced; /* the log has bytes that were not synced */
static atomic_int failures;

#define REAL(f) (((struct shim_file *)(f))->real)

static bool fails(atomic_int *countdown)
{
    int n = atomic_load(countdown);

    if (n == 0)
        return false;
    if (n > 1) {
        atomic_store(countdown, n - 1);
        return false;
    }
    atomic_fetch_add(&failures, 1);
    return true;
}

static int shim_close(sqlite3_file *f)
{
    return REAL(f)->pMethods->xClose(REAL(f));
}

static int shim_read(sqlite3_file *f, void *p, int n, sqlite3_int64 offset)
{
    return REAL(f)->pMethods->xRead(REAL(f), p, n, offset);
}

static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
    if (fails(&fail_write_in))
        return atomic_load(&fault);
    if (((struct shim_file *)f)->log)
        atomic_store(&unsynced, true);
    return REAL(f)->pMethods->xWrite(REAL(f), p, n, offset);
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    return REAL(f)->pMethods->xTruncate(REAL(f), size);
}

static int shim_sync(sqlite3_file *f, int flags)
{
    if (fails(&fail_sync_in))
        return SQLITE_IOERR_FSYNC;
    if (((struct shim_file *)f)->log)
        atomic_store(&unsynced, false);
    return REAL(f)->pMethods->xSync(REAL(f), flags);
}

static int shim_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), size);
}

static int shim_lock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xLock(REAL(f), lock);
}

static int shim_unlock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), lock);
}

static int shim_reserved(sqlite3_file *f, int *result)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), result);
}

static int shim_control(sqlite3_file *f, int op, void *arg)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}

static int shim_sector(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}

static int shim_device(sqlite3_file *f)
{
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}

static int shim_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **p)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, p);
}

static int shim_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return REAL(f)->pMethods->xShmLock(REAL(f), offset, n, flags);
}

static void shim_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}

static int shim_shm_unmap(sqlite3_file *f, int delete)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), delete);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 2,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector,
    .xDeviceCharacteristics = shim_device,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_shm_barrier,
    .xShmUnmap = shim_shm_unmap,
};

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    struct shim_file *file = (struct shim_file *)f;
    int rc = real_vfs->xOpen(real_vfs, name, file->real, flags, out_flags);

    (void)vfs;
    file->log = (flags & SQLITE_OPEN_WAL) != 0;
    file->base.pMethods = file->real->pMethods != NULL ? &shim_methods : NULL;
    return rc;
}

static void heal(void)
{
    atomic_store(&fail_write_in, 0);
    atomic_store(&fail_sync_in, 0);
}

static int setup(void **state)
{
    struct fixture *f = fixture_new();

    *state = f;
    assert_int_equal(fixture_open(f), 0);
    return 0;
}

static int teardown(void **state)
{
    heal();
    fixture_free(*state);
    return 0;
}

static struct journal_new_delivery cloud = {.destination = "cloud", .route = "r", .folder = "F"};

static struct journal_admit queued(const char *path)
{
    static struct journal_bind bind[64];
    static unsigned next;
    struct journal_bind *b = &bind[next++ % 64];
    *b = (struct journal_bind){.key = path, .routes = "r"};
    return (struct journal_admit){.watch = "/in",
                                  .path = path,
                                  .size = 10,
                                  .state = FILE_QUEUED,
                                  .sop_instance_uid = path,
                                  .study_instance_uid = "1.5",
                                  .deliveries = &cloud,
                                  .n_deliveries = 1,
                                  .bindings = b,
                                  .n_bindings = 1};
}

static void test_callback_means_on_disk(void **state)
{
    struct fixture *f = *state;
    char path[32];
    uint64_t id;

    for (int i = 0; i < 50; i++) {
        struct journal_admit a = queued(path);

        snprintf(path, sizeof(path), "/in/%d", i);
        assert_int_equal(fixture_do(f, admit, &a), 0);
        assert_false(atomic_load(&unsynced));
        assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
        assert_false(atomic_load(&unsynced));
        assert_int_equal(fixture_settle(f, id, DELIVERY_DELIVERED, NULL), 0);
        assert_false(atomic_load(&unsynced));
    }
}

/* Fails the n-th write (and all later ones) of an admission, for every n: an error, no change, and
 * then it works. */
static void fail_at_every(struct fixture *f, atomic_int *countdown, int code, int expected)
{
    int n = 0;
    bool failed = true;
    char path[32];

    atomic_store(&fault, code);
    for (n = 1; failed; n++) {
        struct journal_admit a = queued(path);
        struct journal_lookup_entry entry = {.path = path, .size = 10};
        struct journal_lookup l = {.entries = &entry, .n = 1};
        struct journal_binding b = {.key = path};
        int before = atomic_load(&failures);

        snprintf(path, sizeof(path), "/in/%d/%d/%d", code, expected, n);
        atomic_store(countdown, n);
        failed = fixture_do(f, admit, &a) != 0;
        if (failed)
            assert_int_equal(f->err.code, expected);
        else
            assert_int_equal(atomic_load(&failures), before);
        /* Reading goes on while nothing can be written. */
        assert_int_equal(fixture_do(f, lookup, &l), 0);
        assert_int_equal(entry.seen, failed ? JOURNAL_UNKNOWN : JOURNAL_KNOWN);
        assert_int_equal(fixture_do(f, binding, &b), 0);
        assert_int_equal(b.routes != NULL, !failed);
        free(b.routes);
        heal();
        if (failed)
            assert_int_equal(fixture_do(f, admit, &a), 0);
        assert_true(n < 500);
    }
    assert_true(n > 2);
    assert_int_equal(f->damaged, 0);
    fixture_check_counts(f);
}

static void test_full_disk(void **state)
{
    fail_at_every(*state, &fail_write_in, SQLITE_FULL, ERR_NOSPACE);
}

static void test_write_error(void **state)
{
    fail_at_every(*state, &fail_write_in, SQLITE_IOERR_WRITE, ERR_IO);
}

static void test_sync_error(void **state)
{
    fail_at_every(*state, &fail_sync_in, SQLITE_IOERR_FSYNC, ERR_IO);
}

struct counted {
    unsigned done, failed;
    bool end;
    unsigned total;
};

static void on_counted(struct journal_op *op, int status, const struct err *e)
{
    struct counted *c = op->ctx;

    assert_int_equal(status, e->code);
    assert_true(status == 0 || status == ERR_NOSPACE);
    c->failed += status != 0;
    c->end = ++c->done == c->total;
}

/* A group that cannot be committed: what would change something fails, what reads succeeds. */
static void test_group(void **state)
{
    struct fixture *f = *state;
    struct journal_admit admits[64];
    struct journal_claim claim = {.destination = "cloud", .limit = 8};
    struct journal_lookup_entry entry = {.path = "/in/0", .size = 10};
    struct journal_lookup lookup = {.entries = &entry, .n = 1};
    struct journal_counts counts;
    struct counted writes = {.total = 65}, reads = {.total = 2};
    char paths[64][16];

    for (int round = 0; round < 2; round++) { /* the second time it works */
        atomic_store(&fault, SQLITE_FULL);
        atomic_store(&fail_write_in, round == 0);
        writes = (struct counted){.total = 65};
        reads = (struct counted){.total = 2};
        for (int i = 0; i < 64; i++) {
            snprintf(paths[i], sizeof(paths[i]), "/in/%d", i);
            admits[i] = queued(paths[i]);
            admits[i].op.cb = on_counted;
            admits[i].op.ctx = &writes;
            journal_admit(f->journal, &admits[i]);
        }
        claim.op = (struct journal_op){.cb = on_counted, .ctx = &writes};
        lookup.op = counts.op = (struct journal_op){.cb = on_counted, .ctx = &reads};
        journal_claim(f->journal, &claim);
        journal_lookup(f->journal, &lookup);
        journal_counts(f->journal, &counts);
        fixture_until(f, &writes.end);
        fixture_until(f, &reads.end);
        assert_int_equal(reads.failed, 0);
        if (round == 0) {
            /* A claim that finds nothing changes nothing: it may have been in a group of its own.
             */
            assert_true(writes.failed >= 64);
            assert_int_equal(claim.n, 0);
            assert_int_equal(entry.seen, JOURNAL_UNKNOWN);
            assert_int_equal(counts.files[FILE_QUEUED], 0);
            assert_int_equal(admits[0].file_id, 0);
        } else {
            assert_int_equal(writes.failed, 0);
            assert_int_equal(claim.n, 8);
            assert_int_equal(entry.seen, JOURNAL_KNOWN);
            assert_int_equal(counts.files[FILE_QUEUED], 64);
        }
        for (size_t i = 0; i < claim.n; i++)
            journal_delivery_row_free(claim.rows[i]);
        free(claim.rows);
        heal();
    }
}

/* A real full file system: it fails, and goes on when there is room. */
static void test_small_file_system(void **state)
{
    struct fixture *f = *state;
    char path[32];
    struct journal_admit a;
    FILE *ballast;
    unsigned long i, had;
    int rc = 0;

    fixture_close(f);
    if (mount("tmpfs", f->folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=2m,mode=0700") < 0) {
        print_message("skipped: a tmpfs can be mounted by root only\n");
        skip();
    }
    assert_int_equal(fixture_open(f), 0);
    ballast = fopen(fixture_path(f, "ballast"), "we");
    assert_non_null(ballast);
    for (i = 0; i < 1024 * 1024; i++)
        putc(0, ballast);
    fclose(ballast);
    for (i = 0; i < 100000 && rc == 0; i++) {
        a = queued(path);
        snprintf(path, sizeof(path), "/in/%lu", i);
        rc = fixture_do(f, admit, &a);
    }
    had = i - 1;
    assert_int_equal(rc, ERR_NOSPACE);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), had);
    assert_int_equal(unlink(fixture_path(f, "ballast")), 0);
    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), had + 1);
    fixture_check_counts(f);
    fixture_close(f);
    assert_int_equal(f->close_status, 0);
    assert_int_equal(fixture_open(f), 0);
    assert_false(f->opened.unclean);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), had + 1);
    fixture_close(f);
    assert_int_equal(umount(f->folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_callback_means_on_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sync_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_file_system, setup, teardown),
    };

    sqlite3_initialize();
    real_vfs = sqlite3_vfs_find(NULL);
    shim = *real_vfs;
    shim.zName = "shim";
    shim.szOsFile += (int)sizeof(struct shim_file);
    shim.xOpen = shim_open;
    sqlite3_vfs_register(&shim, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
