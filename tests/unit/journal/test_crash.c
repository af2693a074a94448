/* kill -9 in the midst of a stream of operations: what was acknowledged is there, and the journal
 * is sound. */
#include "journal_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define IN_FLIGHT 48
#define ROUNDS    12

/* What the child says once an operation was acknowledged; written at once, so it survives the
 * child. */
struct ack {
    uint64_t id;
    int64_t number; /* of the path; -1: delivery `id` was settled as delivered */
};

static int out;
static struct fixture *child_fixture;
static int64_t next_number;
static unsigned claims;

struct slot {
    struct journal_admit admit;
    struct journal_new_delivery delivery;
    char path[32], sop[32];
    int64_t number;
};

static void say(uint64_t id, int64_t number)
{
    struct ack ack = {id, number};

    if (write(out, &ack, sizeof(ack)) != sizeof(ack))
        _exit(2);
}

static void admit_next(struct slot *s);
static void claim_next(void);

static void on_admitted(struct journal_op *op, int status, const struct err *e)
{
    struct slot *s = op->ctx;

    (void)e;
    if (status != 0)
        _exit(3);
    say(s->admit.file_id, s->number);
    admit_next(s);
    claim_next();
}

static void admit_next(struct slot *s)
{
    s->number = next_number++;
    snprintf(s->path, sizeof(s->path), "/in/%lld", (long long)s->number);
    snprintf(s->sop, sizeof(s->sop), "1.%lld", (long long)s->number / 2); /* two of each */
    s->delivery = (struct journal_new_delivery){.destination = "cloud", .route = "r", .folder = ""};
    s->admit = (struct journal_admit){.op = {.cb = on_admitted, .ctx = s},
                                      .watch = "/in",
                                      .path = s->path,
                                      .state = FILE_QUEUED,
                                      .sop_instance_uid = s->sop,
                                      .deliveries = &s->delivery,
                                      .n_deliveries = 1};
    journal_admit(child_fixture->journal, &s->admit);
}

static void on_settled(struct journal_op *op, int status, const struct err *e)
{
    struct journal_settle *s = (struct journal_settle *)op;

    (void)e;
    if (status != 0)
        _exit(4);
    say(s->delivery_id, -1);
    free(s);
}

static void on_claimed(struct journal_op *op, int status, const struct err *e)
{
    struct journal_claim *c = (struct journal_claim *)op;

    (void)e;
    if (status != 0)
        _exit(5);
    for (size_t i = 0; i < c->n; i++) {
        struct journal_settle *s = calloc(1, sizeof(*s));

        if (s == NULL)
            _exit(6);
        s->op.cb = on_settled;
        s->delivery_id = c->rows[i]->id;
        s->state = DELIVERY_DELIVERED;
        s->has_sha256 = true;
        journal_settle(child_fixture->journal, s);
        journal_delivery_row_free(c->rows[i]);
    }
    free(c->rows);
    free(c);
    claims--;
}

static void claim_next(void)
{
    struct journal_claim *c;

    if (claims > 0)
        return;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        _exit(6);
    c->op.cb = on_claimed;
    c->destination = "cloud";
    c->limit = 8;
    claims++;
    journal_claim(child_fixture->journal, c);
}

static void child_main(struct fixture *f, int fd, int64_t first)
{
    static struct slot slots[IN_FLIGHT];

    out = fd;
    child_fixture = f;
    next_number = first;
    f->backup_ms = 20; /* backups are under way as well */
    if (fixture_open(f) != 0)
        _exit(1);
    for (int i = 0; i < IN_FLIGHT; i++)
        admit_next(&slots[i]);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    _exit(7);
}

static void check_ack(struct fixture *f, const struct ack *ack, sqlite3 *db)
{
    sqlite3_stmt *stmt;
    char path[32];

    (void)f;
    if (ack->number >= 0) {
        snprintf(path, sizeof(path), "/in/%lld", (long long)ack->number);
        assert_int_equal(
            sqlite3_prepare_v2(db,
                               "SELECT count(*) FROM file f JOIN delivery d ON d.file_id = f.id"
                               " WHERE f.id = ? AND path = ?",
                               -1, &stmt, NULL),
            SQLITE_OK);
        sqlite3_bind_blob(stmt, 2, path, (int)strlen(path), SQLITE_STATIC);
    } else {
        assert_int_equal(
            sqlite3_prepare_v2(db,
                               "SELECT count(*) FROM file f JOIN delivery d ON d.file_id = f.id"
                               " WHERE d.id = ? AND d.state = 3 AND f.state = 2",
                               -1, &stmt, NULL),
            SQLITE_OK);
    }
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)ack->id);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(stmt, 0), 1);
    sqlite3_finalize(stmt);
}

static void check_acks(struct fixture *f, const struct ack *acks, size_t n)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(fixture_path(f, "journal.db"), &db), SQLITE_OK);
    for (size_t i = 0; i < n; i++)
        check_ack(f, &acks[i], db);
    sqlite3_close(db);
}

static void test_kill(void **state)
{
    struct fixture *f = fixture_new();
    struct ack *acks = calloc(4000000, sizeof(*acks));
    size_t n = 0, settled = 0;
    int64_t first = 0;

    (void)state;
    assert_non_null(acks);
    srand(20261123);
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec pause = {.tv_nsec = (rand() % 5000) * 1000L};
        struct ack ack;
        int fds[2], status;
        pid_t child;
        size_t before = n;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(fds[0]);
            child_main(f, fds[1], first);
        }
        close(fds[1]);
        /* At a random instant after a random number of acknowledgements; the last round has settled
         * some at least. */
        fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);
        for (int wanted = round == ROUNDS - 1 ? 500 : 1 + rand() % 200; wanted > 0; wanted--) {
            assert_int_equal(read(fds[0], &ack, sizeof(ack)), sizeof(ack));
            acks[n++] = ack;
        }
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        while (read(fds[0], &ack, sizeof(ack)) == sizeof(ack) && n < 4000000)
            acks[n++] = ack;
        close(fds[0]);
        assert_true(n > before);

        assert_int_equal(fixture_open(f), 0);
        assert_true(f->opened.unclean);
        assert_false(f->opened.restored);
        assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 1"), 0);
        assert_int_equal(
            fixture_number(
                f, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
            0);
        assert_int_equal(fixture_number(f, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
        check_acks(f, acks + before, n - before);
        if (round == ROUNDS - 1)
            check_acks(f, acks, n);
        fixture_check_counts(f);
        first = fixture_number(f, "SELECT count(*) FROM file"); /* at least what was acknowledged */
        for (size_t i = before; i < n; i++) {
            first = acks[i].number >= first ? acks[i].number + 1 : first;
            settled += acks[i].number < 0;
        }
        first += IN_FLIGHT + 1; /* some were journalled and not acknowledged */
        fixture_close(f);
        assert_int_equal(f->damaged, 0);
    }
    print_message("%zu acknowledged, %zu of them settled, %d kills\n", n, settled, ROUNDS);
    assert_true(settled > 0);
    free(acks);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
