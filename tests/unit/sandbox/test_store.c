#include "sandbox/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* One store on a loop; operations write into `meta` and note what they were told. */
struct fixture {
    uv_loop_t loop;
    char dir[64];
    struct store *store;
};

struct note {
    struct store_op op;
    const char *key;
    int result; /* of run */
    int status; /* told to done */
    bool bad_sql;
    unsigned *order, at;
};

static int run(struct store *s, struct store_op *op)
{
    struct note *n = (struct note *)op;

    store_exec(s, "INSERT INTO meta(key, value) VALUES(?, 'x')", "s", n->key);
    if (n->bad_sql)
        store_exec(s, "INSERT INTO nowhere VALUES(1)", "");
    return n->result;
}

static void done(struct store_op *op, int status, const struct err *e)
{
    struct note *n = (struct note *)op;

    n->status = status;
    n->at = ++*n->order;
    if (status < 0)
        assert_true(e && e->text[0] != '\0');
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e;

    assert_non_null(f);
    uv_loop_init(&f->loop);
    strcpy(f->dir, "/tmp/sandbox-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(&f->store, &f->loop, f->dir, true, &e), 0);
    *state = f;
    return 0;
}

static void close_store(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    close_store(f);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void settle(struct fixture *f)
{
    while (store_pending(f->store) != 0)
        uv_run(&f->loop, UV_RUN_ONCE);
}

static bool has(struct fixture *f, const char *key)
{
    struct store *reader;
    struct err e;
    bool found;

    assert_int_equal(store_open_reader(&reader, f->dir, &e), 0);
    found = store_get_int(reader, 0, "SELECT count(*) FROM meta WHERE key = ?", "s", key) == 1;
    store_close(reader);
    return found;
}

static void in_order_and_durable(void **state)
{
    struct fixture *f = *state;
    struct note notes[1000] = {0};
    char keys[1000][8];
    unsigned order = 0;

    for (unsigned i = 0; i < 1000; i++) {
        snprintf(keys[i], sizeof keys[i], "k%u", i);
        notes[i] = (struct note){
            .op = {.run = run, .done = done}, .key = keys[i], .order = &order, .status = 99};
        store_submit(f->store, &notes[i].op);
    }
    assert_int_equal(order, 0); /* never from within */
    settle(f);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(notes[i].status, 0);
        assert_int_equal(notes[i].at, i + 1);
    }
    assert_true(has(f, "k0") && has(f, "k999"));
}

/* What refuses is undone alone; a failing statement fails all that were with it, and then the store
 * goes on. */
static void refusals_and_failures(void **state)
{
    struct fixture *f = *state;
    unsigned order = 0;
    struct note a = {.op = {.run = run, .done = done}, .key = "a", .order = &order};
    struct note b = {.op = {.run = run, .done = done}, .key = "b", .order = &order, .result = 1};
    struct note c = {.op = {.run = run, .done = done}, .key = "c", .order = &order};
    struct note bad = {
        .op = {.run = run, .done = done}, .key = "bad", .order = &order, .bad_sql = true};
    struct note after = {.op = {.run = run, .done = done}, .key = "after", .order = &order};

    store_submit(f->store, &a.op);
    store_submit(f->store, &b.op);
    store_submit(f->store, &c.op);
    settle(f);
    assert_int_equal(a.status, 0);
    assert_int_equal(b.status, 1);
    assert_int_equal(c.status, 0);
    assert_true(has(f, "a") && !has(f, "b") && has(f, "c"));
    store_submit(f->store, &bad.op);
    settle(f);
    assert_true(bad.status < 0);
    store_submit(f->store, &after.op);
    settle(f);
    assert_int_equal(after.status, 0);
    assert_true(!has(f, "bad") && has(f, "after"));
}

static struct store_file make_file(struct fixture *f, const char *to)
{
    struct store_file file = {.from = store_incoming_path(f->store)};

    assert_non_null(file.from);
    file.fd = open(file.from, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(file.fd >= 0);
    assert_int_equal(write(file.fd, "data", 4), 4);
    strcpy(file.to, to);
    return file;
}

static bool exists(struct fixture *f, const char *name)
{
    char path[160];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    return stat(path, &st) == 0;
}

static void files(void **state)
{
    struct fixture *f = *state;
    unsigned order = 0;
    struct store_file kept = make_file(f, "instances/ab/kept.dcm");
    struct store_file refused = make_file(f, "instances/cd/refused.dcm");
    struct store_file again = make_file(f, "instances/ab/kept.dcm");
    struct store_file lost = make_file(f, "instances/ef/lost.dcm");
    struct note n1 = {
        .op = {.run = run, .done = done, .file = &kept}, .key = "kept", .order = &order};
    struct note n2 = {.op = {.run = run, .done = done, .file = &refused},
                      .key = "refused",
                      .order = &order,
                      .result = 7};
    struct note n3 = {
        .op = {.run = run, .done = done, .file = &again}, .key = "again", .order = &order};
    struct note n4 = {
        .op = {.run = run, .done = done, .file = &lost}, .key = "lost", .order = &order};

    store_submit(f->store, &n1.op);
    store_submit(f->store, &n2.op);
    store_submit(f->store, &n3.op);
    settle(f);
    assert_int_equal(n1.status, 0);
    assert_int_equal(n2.status, 7);
    assert_int_equal(n3.status, 0);
    assert_true(exists(f, "instances/ab/kept.dcm"));
    assert_false(exists(f, "instances/cd/refused.dcm"));
    assert_int_equal(kept.fd, -1);
    assert_int_equal(refused.fd, -1);
    assert_int_equal(access(refused.from, F_OK), 0); /* the caller's to remove */
    /* A file that is gone fails its operation, and no row speaks of it. */
    unlink(lost.from);
    store_submit(f->store, &n4.op);
    settle(f);
    assert_true(n4.status < 0);
    assert_false(has(f, "lost"));
    unlink(refused.from);
    free(kept.from);
    free(refused.from);
    free(again.from);
    free(lost.from);
}

static void one_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct store *second;
    struct err e;

    assert_int_equal(store_open(&second, &f->loop, f->dir, true, &e), ERR_LOCKED);
}

static void reopened(void **state)
{
    struct fixture *f = *state;
    unsigned order = 0;
    struct note n = {.op = {.run = run, .done = done}, .key = "kept", .order = &order};
    struct store_file left = make_file(f, "nowhere");
    struct err e;

    store_submit(f->store, &n.op);
    settle(f);
    close(left.fd);
    close_store(f);
    assert_int_equal(store_open(&f->store, &f->loop, f->dir, true, &e), 0);
    assert_true(has(f, "kept"));
    assert_int_equal(access(left.from, F_OK), -1); /* parts do not survive */
    free(left.from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_order_and_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_and_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(files, setup, teardown),
        cmocka_unit_test_setup_teardown(one_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(reopened, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
