/* Lookup, admission and re-admission, bindings, touch. */
#include "journal_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static struct journal_admit queued(const char *path, const char *sop)
{
    return (struct journal_admit){.watch = "/in",
                                  .path = path,
                                  .size = 10,
                                  .mtime_ns = 20,
                                  .state = FILE_QUEUED,
                                  .sop_instance_uid = sop,
                                  .study_instance_uid = "1.5",
                                  .deliveries = &cloud,
                                  .n_deliveries = 1};
}

static struct journal_admit rejected(const char *path)
{
    return (struct journal_admit){.watch = "/in",
                                  .path = path,
                                  .size = 10,
                                  .mtime_ns = 20,
                                  .state = FILE_REJECTED,
                                  .reason = "not DICOM"};
}

static enum journal_seen seen(struct fixture *f, const char *path, uint64_t size, int64_t mtime_ns,
                              struct journal_lookup_entry *entry)
{
    struct journal_lookup l = {.entries = entry, .n = 1};

    *entry = (struct journal_lookup_entry){.path = path, .size = size, .mtime_ns = mtime_ns};
    assert_int_equal(fixture_do(f, lookup, &l), 0);
    return entry->seen;
}

static void test_lookup(void **state)
{
    struct fixture *f = *state;
    struct journal_admit a = queued("/in/\xff\xfe name.dcm", "1.1"); /* not UTF-8 */
    struct journal_lookup_entry e;
    struct journal_touch t = {.mtime_ns = 21};
    struct journal_lookup none = {.n = 0};
    uint64_t ids[2];

    assert_int_equal(seen(f, a.path, 10, 20, &e), JOURNAL_UNKNOWN);
    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_equal(seen(f, a.path, 10, 20, &e), JOURNAL_KNOWN);
    assert_int_equal(e.file_id, a.file_id);
    assert_int_equal(e.state, FILE_QUEUED);
    assert_int_equal(seen(f, a.path, 10, 21, &e), JOURNAL_ALTERED);
    assert_false(e.has_sha256);
    assert_int_equal(e.old_size, 10);
    assert_int_equal(seen(f, a.path, 11, 20, &e), JOURNAL_ALTERED);
    assert_int_equal(seen(f, "/in/other", 10, 20, &e), JOURNAL_UNKNOWN);
    assert_int_equal(fixture_do(f, lookup, &none), 0);
    /* The bytes are known once they were sent; a new mtime over the same bytes is the same version.
     */
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(seen(f, a.path, 10, 21, &e), JOURNAL_ALTERED);
    assert_true(e.has_sha256);
    assert_int_equal(e.sha256[31], 0xab);
    t.file_id = a.file_id;
    assert_int_equal(fixture_do(f, touch, &t), 0);
    assert_int_equal(seen(f, a.path, 10, 21, &e), JOURNAL_KNOWN);
    t.file_id = 99;
    assert_int_equal(fixture_do(f, touch, &t), ERR_NOT_FOUND);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct journal_admit a = queued("/in/1", "1.1");
    struct journal_new_delivery half = {.destination = "cloud"};

    assert_int_equal(fixture_do(f, admit, &a), 0);
    a = queued("/in/1", "1.2"); /* a row stands there */
    assert_int_equal(fixture_do(f, admit, &a), ERR_EXISTS);
    assert_int_equal(a.file_id, 0);
    a = queued("/in/2", NULL);
    assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    a = queued("/in/2", "");
    assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    a = queued("/in/2", "1.2");
    a.n_deliveries = 0;
    assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    a = queued("/in/2", "1.2");
    a.deliveries = &half;
    assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    a = rejected("/in/2");
    a.deliveries = &cloud;
    a.n_deliveries = 1;
    assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    for (int s = 0; s < FILE_STATE_MAX; s++) {
        a = rejected("/in/2");
        a.state = (enum file_state)s;
        if (s != FILE_REJECTED && s != FILE_HELD)
            assert_int_equal(fixture_do(f, admit, &a), ERR_INVALID);
    }
    a = queued("/in/2", "1.2");
    a.file_id = 99;
    assert_int_equal(fixture_do(f, admit, &a), ERR_NOT_FOUND);
    a = queued("/in/2", "1.2");
    a.replaces = 99;
    assert_int_equal(fixture_do(f, admit, &a), ERR_NOT_FOUND);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 1);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery"), 1);
}

/* What fails after a change changes nothing: here `replaces` is done before the new row is refused.
 */
static void test_failure_is_whole(void **state)
{
    struct fixture *f = *state;
    struct journal_admit a = queued("/in/1", "1.1"), b = queued("/in/2", "1.2"),
                         c = queued("/in/1", "1.3");
    struct journal_lookup_entry e;

    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_equal(fixture_do(f, admit, &b), 0);
    c.replaces = b.file_id;
    assert_int_equal(fixture_do(f, admit, &c), ERR_EXISTS);
    assert_int_equal(seen(f, "/in/2", 10, 20, &e), JOURNAL_KNOWN);
    assert_int_equal(e.state, FILE_QUEUED);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 0"), 2);
    fixture_check_counts(f);
}

static void test_replaces(void **state)
{
    struct fixture *f = *state;
    struct journal_admit a = queued("/in/1", "1.1"), b = queued("/in/1", "1.1"),
                         c = queued("/in/1", "1.1");
    struct journal_lookup_entry e;
    uint64_t ids[2];

    assert_int_equal(fixture_do(f, admit, &a), 0);
    b.mtime_ns = 30;
    b.replaces = a.file_id;
    assert_int_equal(fixture_do(f, admit, &b), 0);
    assert_int_not_equal(a.file_id, b.file_id);
    assert_int_equal(
        fixture_number(
            f, "SELECT count(*) FROM file WHERE id = 1 AND state = 5 AND reason = 'rewritten'"),
        1);
    assert_int_equal(fixture_number(f, "SELECT state FROM delivery WHERE id = 1"), DELIVERY_ENDED);
    assert_int_equal(seen(f, "/in/1", 10, 30, &e), JOURNAL_KNOWN);
    assert_int_equal(e.file_id, b.file_id);
    assert_int_equal(fixture_claim(f, "cloud", 2, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    /* One that was delivered stays delivered. */
    c.mtime_ns = 40;
    c.replaces = b.file_id;
    assert_int_equal(fixture_do(f, admit, &c), 0);
    assert_int_equal(
        fixture_number(f, "SELECT count(*) FROM file WHERE id = 2 AND state = 2 AND gone_ms > 0"),
        1);
    assert_int_equal(seen(f, "/in/1", 10, 40, &e), JOURNAL_KNOWN);
    fixture_check_counts(f);
}

static void test_bindings(void **state)
{
    struct fixture *f = *state;
    struct journal_binding b = {.key = "study:1.5"};
    struct journal_admit a = queued("/in/1", "1.1"), c = queued("/in/2", "1.2"),
                         bad = queued("/in/1", "1.3");

    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_null(b.routes);
    const struct journal_bind first[] = {{"study:1.5", "first\nsecond", false},
                                         {"series:1.5.1", "fourth", false}},
                              third[] = {{"study:1.5", "third", false}},
                              other[] = {{"study:1.6", "x", false}};
    struct journal_bind again = {"study:1.5", "fifth", true};
    a.bindings = first;
    a.n_bindings = 2;
    c.bindings = third;
    bad.bindings = other;
    c.n_bindings = bad.n_bindings = 1;
    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_equal(fixture_do(f, admit, &c), 0);
    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_string_equal(b.routes, "first\nsecond");
    free(b.routes);
    b.key = "series:1.5.1";
    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_string_equal(b.routes, "fourth");
    free(b.routes);
    c = queued("/in/3", "1.3");
    c.bindings = &again;
    c.n_bindings = 1;
    assert_int_equal(fixture_do(f, admit, &c), 0);
    b.key = "study:1.5";
    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_string_equal(b.routes, "fifth");
    free(b.routes);
    assert_int_equal(fixture_do(f, admit, &bad), ERR_EXISTS);
    b.key = "study:1.6";
    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_null(b.routes);
}

/* held -> queued -> held -> rejected -> queued, the same row all along. */
static void test_readmit(void **state)
{
    struct fixture *f = *state;
    struct journal_admit a = {.watch = "/in",
                              .path = "/in/1",
                              .size = 1,
                              .state = FILE_HELD,
                              .reason = "no route",
                              .study_instance_uid = "1.5",
                              .sop_instance_uid = "1.1"};
    struct journal_admit held = a, q = queued("/in/1", "1.1"), r = rejected("/in/1");
    struct journal_files files = {.state = FILE_HELD, .study = "1.5", .limit = 10};
    uint64_t id, ids[2];

    assert_int_equal(fixture_do(f, admit, &a), 0);
    id = a.file_id;
    assert_int_equal(fixture_do(f, files, &files), 0);
    assert_int_equal(files.n, 1);
    assert_int_equal(files.rows[0].id, id);
    assert_string_equal(files.rows[0].reason, "no route");
    assert_string_equal(files.rows[0].study_instance_uid, "1.5");
    journal_files_clear(&files);
    q.file_id = held.file_id = r.file_id = id;
    assert_int_equal(fixture_do(f, admit, &q), 0);
    assert_int_equal(q.file_id, id);
    r.file_id = id;
    assert_int_equal(fixture_do(f, admit, &r), ERR_INVALID); /* queued is not rejected any more */
    assert_int_equal(fixture_do(f, admit, &held), 0);
    assert_int_equal(fixture_claim(f, "cloud", 2, 0, ids), 0);
    assert_int_equal(fixture_number(f, "SELECT state FROM delivery"), DELIVERY_ENDED);
    assert_int_equal(fixture_do(f, admit, &r), 0);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_REJECTED);
    assert_int_equal(fixture_do(f, admit, &q), 0);
    assert_int_equal(fixture_claim(f, "cloud", 2, 0, ids), 1);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 1);
    fixture_check_counts(f);
}

/* Two destinations, one is taken away: what arrived is not sent again, what is under way stays. */
static void test_readmit_queued(void **state)
{
    struct fixture *f = *state;
    struct journal_new_delivery d[3] = {{.destination = "a", .route = "r", .folder = "F"},
                                        {.destination = "b", .route = "r", .folder = "F"},
                                        {.destination = "c", .route = "r", .folder = "F"}};
    struct journal_admit first = queued("/in/1", "1.1"), again = queued("/in/1", "1.1");
    struct journal_admit last = queued("/in/1", "1.1"), rewritten = queued("/in/2", "1.2");
    uint64_t a, b, id;
    bool delivered;

    first.deliveries = d;
    first.n_deliveries = 3;
    assert_int_equal(fixture_do(f, admit, &first), 0);
    id = first.file_id;
    assert_int_equal(fixture_claim(f, "a", 1, 0, &a), 1);
    assert_int_equal(fixture_settle(f, a, DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(fixture_claim(f, "b", 1, 0, &b), 1);
    /* The same again: only c, which did not begin, is made anew. */
    again.file_id = id;
    again.deliveries = d;
    again.n_deliveries = 3;
    assert_int_equal(fixture_do(f, admit, &again), 0);
    assert_false(again.file_delivered);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery"), 4);
    assert_int_equal(
        fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 8 AND destination = 'c'"),
        1);
    assert_int_equal(
        fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 0 AND destination = 'c'"),
        1);
    assert_int_equal(fixture_settle(f, b, DELIVERY_WAITING, &delivered), 0);
    /* Only a is left, and it has it: done. */
    last.file_id = id;
    last.deliveries = d;
    assert_int_equal(fixture_do(f, admit, &last), 0);
    assert_true(last.file_delivered);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_DELIVERED);
    last.file_id = id;
    assert_int_equal(fixture_do(f, admit, &last),
                     ERR_INVALID); /* delivered files are not taken in again */
    /* Other bytes: what arrived before does not count. */
    assert_int_equal(fixture_do(f, admit, &rewritten), 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &a), 1);
    assert_int_equal(fixture_settle(f, a, DELIVERY_CONFLICT, NULL), 0);
    rewritten.size = 77;
    assert_int_equal(fixture_do(f, admit, &rewritten), 0);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 7"), 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &b), 1);
    assert_int_equal(fixture_settle(f, b, DELIVERY_DELIVERED, &delivered), 0);
    assert_true(delivered);
    fixture_check_counts(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lookup, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failure_is_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replaces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bindings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readmit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readmit_queued, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
