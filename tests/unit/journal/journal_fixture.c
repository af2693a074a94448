#include "journal_fixture.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void make_folder(struct fixture *f)
{
    strcpy(f->folder, "/tmp/journal-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
}

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            assert_int_equal(unlinkat(dirfd(dir), entry->d_name, 0), 0);
    closedir(dir);
    assert_int_equal(rmdir(folder), 0);
}

struct fixture *fixture_new(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    make_folder(f);
    return f;
}

void fixture_free(struct fixture *f)
{
    fixture_close(f);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    remove_folder(f->folder);
    free(f);
}

static void on_damaged(const struct err *e, void *ctx)
{
    struct fixture *f = ctx;

    assert_int_equal(e->code, ERR_DAMAGED);
    f->damaged++;
}

int fixture_open(struct fixture *f)
{
    struct journal_options options = {
        .folder = f->folder, .backup_ms = f->backup_ms, .damaged = on_damaged, .ctx = f};

    assert_null(f->journal);
    return journal_open(&f->journal, &f->loop, &options, &f->opened, &f->err);
}

static void on_closed(int status, void *ctx)
{
    struct fixture *f = ctx;

    f->journal = NULL;
    f->close_status = status;
}

void fixture_close(struct fixture *f)
{
    if (f->journal == NULL)
        return;
    journal_close(f->journal, on_closed, f);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_null(f->journal);
}

static void copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    char buffer[65536];
    ssize_t n;

    assert_true(in >= 0 && out >= 0);
    while ((n = read(in, buffer, sizeof(buffer))) > 0)
        assert_int_equal(write(out, buffer, (size_t)n), n);
    close(in);
    close(out);
}

void fixture_crash(struct fixture *f)
{
    static const char *const names[] = {"journal.db", "journal.db-wal", "backup.db",
                                        "journal.damaged"};
    char old[64], from[128], to[128];

    strcpy(old, f->folder);
    make_folder(f);
    /* While the journal is idle its files are what a crash would leave. */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(from, sizeof(from), "%s/%s", old, names[i]);
        snprintf(to, sizeof(to), "%s/%s", f->folder, names[i]);
        if (access(from, F_OK) == 0)
            copy_file(from, to);
    }
    fixture_close(f);
    remove_folder(old);
    assert_int_equal(fixture_open(f), 0);
}

const char *fixture_path(const struct fixture *f, const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", f->folder, name);
    return path;
}

static void on_timeout(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

void fixture_until(struct fixture *f, const bool *flag)
{
    uv_timer_t timer;
    bool late = false;

    uv_timer_init(&f->loop, &timer);
    timer.data = &late;
    uv_timer_start(&timer, on_timeout, 60000, 0);
    while (!*flag && !late)
        uv_run(&f->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    assert_false(late);
}

struct waiting {
    struct fixture *fixture;
    bool done;
    int status;
};

static void on_done(struct journal_op *op, int status, const struct err *e)
{
    struct waiting *w = op->ctx;

    assert_false(w->done);
    assert_int_equal(status, e->code);
    w->done = true;
    w->status = status;
    w->fixture->err = *e;
}

static struct waiting waiting;

void fixture_begin(struct fixture *f, struct journal_op *op)
{
    waiting = (struct waiting){.fixture = f};
    op->cb = on_done;
    op->ctx = &waiting;
}

int fixture_end(struct fixture *f, struct journal_op *op)
{
    (void)op;
    assert_false(waiting.done); /* never from within the call */
    fixture_until(f, &waiting.done);
    return waiting.status;
}

uint64_t fixture_admit(struct fixture *f, const char *path, const char *sop, int priority)
{
    struct journal_new_delivery d = {
        .destination = "cloud", .route = "all", .folder = "A/B", .priority = priority};
    struct journal_admit a = {
        .watch = "/in",
        .path = path,
        .size = 1000,
        .mtime_ns = 5,
        .state = FILE_QUEUED,
        .sop_class_uid = "1.2.840.10008.5.1.4.1.1.2",
        .sop_instance_uid = sop,
        .study_instance_uid = "1.2.3",
        .series_instance_uid = "1.2.3.4",
        .transfer_syntax_uid = "1.2.840.10008.1.2.1",
        .deliveries = &d,
        .n_deliveries = 1,
    };

    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_not_equal(a.file_id, 0);
    return a.file_id;
}

size_t fixture_claim(struct fixture *f, const char *destination, size_t limit, int64_t now,
                     uint64_t *ids)
{
    struct journal_claim c = {.destination = destination, .limit = limit, .now_ms = now};

    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_true(c.n <= limit);
    for (size_t i = 0; i < c.n; i++) {
        ids[i] = c.rows[i]->id;
        journal_delivery_row_free(c.rows[i]);
    }
    free(c.rows);
    return c.n;
}

int fixture_settle(struct fixture *f, uint64_t delivery, enum delivery_state state,
                   bool *file_delivered)
{
    struct journal_settle s = {.delivery_id = delivery,
                               .state = state,
                               .count_attempt = true,
                               .next_ms = 5000,
                               .remote_id = "order-1",
                               .bytes = 1000};
    int rc;

    s.has_sha256 = state == DELIVERY_DELIVERED || state == DELIVERY_DUPLICATE;
    memset(s.sha256, 0xab, sizeof(s.sha256));
    rc = fixture_do(f, settle, &s);
    if (file_delivered != NULL)
        *file_delivered = s.file_delivered;
    return rc;
}

int64_t fixture_number(struct fixture *f, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    int64_t n;

    assert_int_equal(
        sqlite3_open_v2(fixture_path(f, "journal.db"), &db, SQLITE_OPEN_READWRITE, NULL),
        SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    n = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n;
}

void fixture_check_counts(struct fixture *f)
{
    struct journal_counts c = {0};
    char sql[256];

    assert_int_equal(fixture_do(f, counts, &c), 0);
    for (int s = 0; s < FILE_STATE_MAX; s++) {
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM file WHERE +state = %d", s);
        assert_int_equal(c.files[s], fixture_number(f, sql));
        snprintf(sql, sizeof(sql), "SELECT coalesce(sum(size), 0) FROM file WHERE +state = %d", s);
        assert_int_equal(c.file_bytes[s], fixture_number(f, sql));
    }
    for (int s = 0; s < DELIVERY_STATE_MAX; s++) {
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM delivery WHERE +state = %d", s);
        assert_int_equal(c.deliveries[s], fixture_number(f, sql));
        snprintf(sql, sizeof(sql), "SELECT coalesce(sum(size), 0) FROM delivery WHERE +state = %d",
                 s);
        assert_int_equal(c.delivery_bytes[s], fixture_number(f, sql));
    }
    assert_int_equal(
        c.oldest_open_ms,
        fixture_number(f, "SELECT coalesce(min(f.created_ms), 0x7fffffffffffffff) FROM file f "
                          "JOIN delivery d ON d.file_id = f.id WHERE d.state IN (0, 1, 2, 5)"));
}
