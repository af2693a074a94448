/* Order, sharing of commits, closing, backups in the background, and random operations against a
 * model of the counts. */
#include "journal_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
    struct fixture *f = fixture_new();

    *state = f;
    assert_int_equal(fixture_open(f), 0);
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static struct journal_new_delivery cloud = {.destination = "cloud", .route = "r", .folder = "F"};

struct many {
    unsigned next, total, failed;
    bool end;
};

struct item {
    union {
        struct journal_op op;
        struct journal_admit admit;
        struct journal_lookup lookup;
        struct journal_counts counts;
    };
    struct journal_lookup_entry entry;
    struct many *many;
    unsigned index;
    char path[32];
};

static void on_item(struct journal_op *op, int status, const struct err *e)
{
    struct item *item = op->ctx;

    assert_int_equal(status, e->code);
    assert_int_equal(item->index, item->many->next); /* in the order of the calls */
    item->many->failed += status != 0;
    item->many->end = ++item->many->next == item->many->total;
}

static struct journal_admit queued(const char *path)
{
    return (struct journal_admit){.watch = "/in",
                                  .path = path,
                                  .size = 10,
                                  .state = FILE_QUEUED,
                                  .sop_instance_uid = path,
                                  .deliveries = &cloud,
                                  .n_deliveries = 1};
}

static void start_admit(struct fixture *f, struct item *item, struct many *many, unsigned index,
                        unsigned number)
{
    item->many = many;
    item->index = index;
    snprintf(item->path, sizeof(item->path), "/in/%u", number);
    item->admit = queued(item->path);
    item->op = (struct journal_op){.cb = on_item, .ctx = item};
    journal_admit(f->journal, &item->admit);
}

/* 5,000 at once, some of which must fail alone (a path twice), each followed by a lookup that sees
 * it. */
static void test_many(void **state)
{
    enum { N = 5000 };
    struct fixture *f = *state;
    struct item *items = calloc(2 * N, sizeof(*items));
    struct many many = {.total = 2 * N};

    assert_non_null(items);
    for (unsigned i = 0; i < N; i++) {
        struct item *look = &items[2 * i + 1];

        start_admit(f, &items[2 * i], &many, 2 * i, i % 10 == 9 ? i - 1 : i);
        look->many = &many;
        look->index = 2 * i + 1;
        look->entry = (struct journal_lookup_entry){.path = items[2 * i].path, .size = 10};
        look->lookup = (struct journal_lookup){
            .op = {.cb = on_item, .ctx = look}, .entries = &look->entry, .n = 1};
        journal_lookup(f->journal, &look->lookup);
        assert_int_equal(many.next, 0); /* never from within the call */
    }
    assert_int_equal(journal_pending(f->journal), 2 * N);
    fixture_until(f, &many.end);
    assert_int_equal(journal_pending(f->journal), 0);
    assert_int_equal(many.failed, N / 10);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(items[2 * i].op.status, i % 10 == 9 ? ERR_EXISTS : 0);
        assert_int_equal(items[2 * i + 1].entry.seen, JOURNAL_KNOWN);
        if (i % 10 != 9)
            assert_int_equal(items[2 * i + 1].entry.file_id, items[2 * i].admit.file_id);
    }
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), N - N / 10);
    fixture_check_counts(f);
    free(items);
}

static struct fixture *closing;
static struct item late;

static void on_late(struct journal_op *op, int status, const struct err *e)
{
    (void)e;
    assert_int_equal(status, ERR_CANCELED);
    *(bool *)op->ctx = true;
}

static void on_last(struct journal_op *op, int status, const struct err *e)
{
    struct item *item = op->ctx;

    on_item(op, status, e);
    if (!item->many->end)
        return;
    late.admit = queued("/in/late");
    late.op = (struct journal_op){.cb = on_late, .ctx = &late.many->end};
    journal_admit(closing->journal, &late.admit);
}

/* What was submitted before runs; what comes after, also out of the last callback, is refused;
 * close comes last. */
static void test_close(void **state)
{
    struct fixture *f = *state;
    struct item items[100];
    struct many many = {.total = 100}, refused = {0}, last = {0};
    struct item after;

    closing = f;
    late.many = &last;
    for (unsigned i = 0; i < 100; i++) {
        start_admit(f, &items[i], &many, i, i);
        items[i].op.cb = on_last;
    }
    journal_close(f->journal, NULL, NULL); /* the fixture asks again below, with its callback */
    after.admit = queued("/in/after");
    after.op = (struct journal_op){.cb = on_late, .ctx = &refused.end};
    journal_admit(f->journal, &after.admit);
    fixture_close(f);
    assert_int_equal(f->close_status, 0);
    assert_true(many.end);
    assert_int_equal(many.failed, 0);
    assert_true(refused.end);
    assert_true(last.end);
    assert_int_equal(fixture_open(f), 0);
    assert_false(f->opened.unclean);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 100);
}

static void test_close_at_once(void **state)
{
    struct fixture *f = *state;
    struct many many = {0};
    struct journal_backup b = {.op = {.cb = on_late, .ctx = &many.end}};

    for (int i = 0; i < 20; i++) {
        fixture_close(f);
        assert_int_equal(f->close_status, 0);
        assert_int_equal(fixture_open(f), 0);
        assert_false(f->opened.created);
        assert_false(f->opened.unclean);
    }
    /* A backup that has no time any more is cancelled. */
    journal_close(f->journal, NULL, NULL);
    journal_backup(f->journal, &b);
    fixture_close(f);
    assert_true(many.end);
}

static int64_t backup_number(struct fixture *f, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    int64_t n = -1;

    if (sqlite3_open_v2(fixture_path(f, "backup.db"), &db, SQLITE_OPEN_READONLY, NULL) ==
            SQLITE_OK &&
        sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) {
        if (sqlite3_step(stmt) == SQLITE_ROW)
            n = sqlite3_column_int64(stmt, 0);
        sqlite3_finalize(stmt);
    }
    sqlite3_close(db);
    return n;
}

/* While there are changes it is made by itself, operations go on meanwhile; without any it is not.
 */
static void test_periodic_backup(void **state)
{
    struct fixture *f = *state;
    char path[32], sop[32];
    struct stat st, again;
    int n = 0;

    fixture_close(f);
    f->backup_ms = 50;
    assert_int_equal(fixture_open(f), 0);
    for (; n < 3000 && backup_number(f, "SELECT count(*) FROM file") < 100; n++) {
        snprintf(path, sizeof(path), "/in/%d", n);
        snprintf(sop, sizeof(sop), "1.%d", n);
        fixture_admit(f, path, sop, 0);
    }
    assert_true(backup_number(f, "SELECT count(*) FROM file") >= 100);
    for (int i = 0; i < 600 && backup_number(f, "SELECT count(*) FROM file") < n; i++)
        usleep(100000);
    assert_int_equal(backup_number(f, "SELECT count(*) FROM file"), n);
    assert_int_equal(stat(fixture_path(f, "backup.db"), &st), 0);
    usleep(300000);
    assert_int_equal(stat(fixture_path(f, "backup.db"), &again), 0);
    assert_int_equal(st.st_ino, again.st_ino); /* not made anew */
    assert_int_equal(access(fixture_path(f, "backup.db-wal"), F_OK), -1);
    assert_int_equal(
        backup_number(f,
                      "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
        0);
}

/* The interval may change while it runs: to a shorter one, and to none. */
static void test_backup_interval(void **state)
{
    struct fixture *f = *state;
    struct journal_backup b = {0};

    fixture_close(f);
    f->backup_ms = 3600000;
    assert_int_equal(fixture_open(f), 0);
    fixture_admit(f, "/in/a", "1.1", 0);
    assert_int_equal(access(fixture_path(f, "backup.db"), F_OK), -1);
    journal_set_backup(f->journal, 50); /* and nothing else happens */
    for (int i = 0; i < 600 && backup_number(f, "SELECT count(*) FROM file") != 1; i++)
        usleep(100000);
    assert_int_equal(backup_number(f, "SELECT count(*) FROM file"), 1);
    journal_set_backup(f->journal, 0);
    assert_int_equal(fixture_do(f, backup, &b), 0); /* one may have been under way */
    fixture_admit(f, "/in/b", "1.2", 0);
    usleep(300000);
    assert_int_equal(backup_number(f, "SELECT count(*) FROM file"), 1);
}

/* Random operations; the counts stay what a recount of all rows gives, and no two of an instance
 * are under way. */
static void run_random(struct fixture *f, unsigned seed)
{
    char path[32], sop[32];
    uint64_t ids[16];

    srand(seed);
    for (int i = 0; i < 600; i++) {
        uint64_t file = (uint64_t)(rand() % 80 + 1);
        struct journal_new_delivery d[2] = {
            {.destination = "cloud", .route = "r", .folder = "F", .priority = rand() % 3},
            {.destination = "archive", .route = "r", .folder = ""}};
        struct journal_admit a = {.watch = "/in",
                                  .path = path,
                                  .size = (uint64_t)(rand() % 1000),
                                  .mtime_ns = i,
                                  .sop_instance_uid = sop,
                                  .study_instance_uid = rand() % 2 ? "1.5" : "1.6",
                                  .deliveries = d};
        struct journal_act_on act = {.act = (enum journal_act)(rand() % 3),
                                     .send_anyway = rand() % 2};
        struct journal_vanish v = {.file_id = file, .reason = "x"};
        struct journal_disposed disposed = {.file_id = file, .gone = rand() % 2};
        struct journal_prune p = {.before_ms = INT64_MAX, .limit = (size_t)(rand() % 4)};
        size_t n;

        snprintf(path, sizeof(path), "/in/%d", rand() % 40);
        snprintf(sop, sizeof(sop), "1.%d", rand() % 12);
        switch (rand() % 10) {
        case 0:
        case 1:
        case 2:
            a.state = rand() % 4 ? FILE_QUEUED : rand() % 2 ? FILE_REJECTED : FILE_HELD;
            a.n_deliveries = a.state == FILE_QUEUED ? 1 + (size_t)(rand() % 2) : 0;
            a.file_id = rand() % 4 ? 0 : file;
            a.replaces = rand() % 4 || a.file_id != 0 ? 0 : (uint64_t)(rand() % 80 + 1);
            fixture_do(f, admit, &a);
            break;
        case 3:
        case 4:
        case 5:
            n = fixture_claim(f, rand() % 3 ? "cloud" : "archive", (size_t)(rand() % 8),
                              rand() % 10000, ids);
            for (size_t k = 0; k < n; k++)
                if (rand() % 4)
                    fixture_settle(f, ids[k], (enum delivery_state)(rand() % DELIVERY_STATE_MAX),
                                   NULL);
            break;
        case 6:
            act.destination = rand() % 2 ? "cloud" : NULL;
            act.file_id = rand() % 2 ? file : 0;
            act.study = rand() % 4 ? NULL : "1.5";
            assert_int_equal(fixture_do(f, act_on, &act), 0);
            break;
        case 7:
            if (rand() % 3 == 0)
                fixture_do(f, vanish, &v);
            break;
        case 8:
            fixture_do(f, disposed, &disposed);
            break;
        case 9:
            assert_int_equal(fixture_do(f, prune, &p), 0);
            break;
        }
        if (i % 100 == 99) {
            fixture_check_counts(f);
            assert_int_equal(
                fixture_number(
                    f, "SELECT count(*) - count(DISTINCT destination || '/' || sop_instance_uid)"
                       " FROM delivery WHERE state = 1"),
                0);
            /* Behind nothing nobody stands. */
            assert_int_equal(
                fixture_number(
                    f, "SELECT count(*) FROM delivery b WHERE blocked = 1 AND (state <> 0 OR NOT "
                       "EXISTS (SELECT 1 FROM delivery d WHERE d.destination = b.destination AND "
                       "d.sop_instance_uid = b.sop_instance_uid AND (d.state = 1 OR (d.state = 0 "
                       "AND d.blocked = 0))))"),
                0);
            /* A file is delivered exactly if nothing of it is open. */
            assert_int_equal(
                fixture_number(
                    f, "SELECT count(*) FROM file f WHERE (state = 1) <> (EXISTS (SELECT 1 FROM "
                       "delivery d WHERE d.file_id = f.id AND d.state NOT IN (3, 6, 8))) AND "
                       "state IN (1, 2, 3)"),
                0);
        }
    }
}

static void test_random(void **state)
{
    struct fixture *f = *state;

    for (unsigned seed = 1; seed <= 4; seed++) {
        run_random(f, seed);
        if (seed % 2)
            fixture_crash(f);
        fixture_check_counts(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_periodic_backup, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backup_interval, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
