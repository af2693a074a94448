/* Claiming, settling, operators. */
#include "journal_fixture.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int setup(void **state)
{
    struct fixture *f = fixture_new();

    *state = f;
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.created);
    assert_false(f->opened.unclean);
    assert_false(f->opened.restored);
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void test_happy(void **state)
{
    struct fixture *f = *state;
    uint64_t file = fixture_admit(f, "/in/a.dcm", "1.2.3.4.5", 0);
    struct journal_claim c = {.destination = "cloud", .limit = 5, .now_ms = 1000};
    struct journal_delivery_row *row;
    struct journal_disposed d = {.file_id = file, .gone = true, .target = "/sent/a.dcm"};
    struct journal_lookup_entry entry = {.path = "/in/a.dcm", .size = 1000, .mtime_ns = 5};
    struct journal_lookup l = {.entries = &entry, .n = 1};
    bool delivered;

    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.next_due_ms, INT64_MAX);
    row = c.rows[0];
    assert_int_equal(row->file_id, file);
    assert_string_equal(row->watch, "/in");
    assert_string_equal(row->path, "/in/a.dcm");
    assert_int_equal(row->size, 1000);
    assert_int_equal(row->mtime_ns, 5);
    assert_string_equal(row->sop_class_uid, "1.2.840.10008.5.1.4.1.1.2");
    assert_string_equal(row->sop_instance_uid, "1.2.3.4.5");
    assert_string_equal(row->study_instance_uid, "1.2.3");
    assert_string_equal(row->series_instance_uid, "1.2.3.4");
    assert_string_equal(row->transfer_syntax_uid, "1.2.840.10008.1.2.1");
    assert_string_equal(row->route, "all");
    assert_string_equal(row->folder, "A/B");
    assert_int_equal(row->attempts, 0);
    assert_false(row->uncertain);
    assert_false(row->send_anyway);
    assert_false(row->has_sibling);
    assert_true(row->created_ms > 0);

    assert_int_equal(fixture_settle(f, row->id, DELIVERY_DELIVERED, &delivered), 0);
    assert_true(delivered);
    journal_delivery_row_free(row);
    free(c.rows);
    assert_int_equal(fixture_do(f, lookup, &l), 0);
    assert_int_equal(entry.seen, JOURNAL_KNOWN);
    assert_int_equal(entry.state, FILE_DELIVERED);
    assert_int_equal(fixture_do(f, disposed, &d), 0);
    assert_int_equal(fixture_do(f, lookup, &l), 0);
    assert_int_equal(entry.seen, JOURNAL_UNKNOWN);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_DISPOSED);
    fixture_check_counts(f);
}

static void test_order(void **state)
{
    struct fixture *f = *state;
    uint64_t files[4], ids[8];
    char sql[128];

    files[0] = fixture_admit(f, "/in/0", "1.0", 0);
    files[1] = fixture_admit(f, "/in/1", "1.1", 5);
    files[2] = fixture_admit(f, "/in/2", "1.2", 0);
    files[3] = fixture_admit(f, "/in/3", "1.3", 5);
    assert_int_equal(fixture_claim(f, "elsewhere", 8, 0, ids), 0);
    assert_int_equal(fixture_claim(f, "cloud", 3, 0, ids), 3);
    for (int i = 0; i < 3; i++) {
        static const int expected[] = {1, 3, 0};

        snprintf(sql, sizeof(sql), "SELECT file_id FROM delivery WHERE id = %d", (int)ids[i]);
        assert_int_equal(fixture_number(f, sql), files[expected[i]]);
    }
    assert_int_equal(fixture_claim(f, "cloud", 8, 0, ids), 1);
    assert_int_equal(fixture_claim(f, "cloud", 8, 0, ids), 0);
}

/* Fifty files of one instance: one at a time, in order, and none is forgotten, whatever becomes of
 * those before. */
static void test_one_instance_at_a_time(void **state)
{
    static const enum delivery_state ends[] = {DELIVERY_DELIVERED, DELIVERY_FAILED,
                                               DELIVERY_CONFLICT,  DELIVERY_HELD,
                                               DELIVERY_DUPLICATE, DELIVERY_WAITING};
    struct fixture *f = *state;
    char path[32];
    uint64_t ids[64], last = 0, other;

    for (int i = 0; i < 50; i++) {
        snprintf(path, sizeof(path), "/in/%d", i);
        fixture_admit(f, path, "1.7", 0);
    }
    other = fixture_admit(f, "/in/other", "1.8", 0);
    for (size_t i = 0; i < 50; i++) {
        size_t n = fixture_claim(f, "cloud", 64, 0, ids);

        assert_int_equal(n, i == 0 ? 2 : 1);
        assert_true(ids[0] > last);
        last = ids[0];
        assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE blocked = 1"),
                         49 - i);
        if (i == 0)
            assert_int_equal(fixture_settle(f, ids[1], DELIVERY_DELIVERED, NULL), 0);
        assert_int_equal(fixture_claim(f, "cloud", 64, 0, ids + 2), 0);
        if (i == 20) { /* given back: it comes again */
            assert_int_equal(fixture_settle(f, ids[0], DELIVERY_QUEUED, NULL), 0);
            assert_int_equal(fixture_claim(f, "cloud", 64, 0, ids), 1);
            assert_int_equal(ids[0], last);
        }
        assert_int_equal(fixture_settle(f, ids[0], ends[i % 6], NULL), 0);
    }
    assert_int_equal(fixture_claim(f, "cloud", 64, 0, ids), 0);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE state IN (0, 1)"), 0);
    assert_true(other != 0);
    fixture_check_counts(f);
}

/* The one in front is held while others stand behind it: they go on. */
static void test_blocked_and_held(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[4], first;
    struct journal_act_on hold = {.act = JOURNAL_HOLD};
    struct journal_act_on release = {.act = JOURNAL_RELEASE};

    fixture_admit(f, "/in/1", "1.7", 0);
    fixture_admit(f, "/in/2", "1.7", 0);
    fixture_admit(f, "/in/3", "1.7", 0);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    first = ids[0];
    assert_int_equal(fixture_settle(f, first, DELIVERY_QUEUED, NULL), 0);
    hold.delivery_id = first;
    assert_int_equal(fixture_do(f, act_on, &hold), 0);
    assert_int_equal(hold.changed, 1);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_not_equal(ids[0], first);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(fixture_do(f, act_on, &release), 0);
    assert_int_equal(release.changed, 1);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(ids[0], first);
}

static void test_waiting(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[4];
    struct journal_claim c = {.destination = "cloud", .limit = 4, .now_ms = 4999};

    fixture_admit(f, "/in/1", "1.1", 0);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_WAITING, NULL), 0); /* until 5000 */
    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 0);
    assert_int_equal(c.moved, 0);
    assert_int_equal(c.next_due_ms, 5000);
    free(c.rows);
    c.now_ms = 5000;
    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.moved, 1);
    assert_int_equal(c.next_due_ms, INT64_MAX);
    assert_int_equal(c.rows[0]->attempts, 1);
    journal_delivery_row_free(c.rows[0]);
    free(c.rows);
    /* With no room a claim still tells what is due. */
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_WAITING, NULL), 0);
    c.limit = 0;
    c.now_ms = 0;
    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 0);
    assert_int_equal(c.next_due_ms, 5000);
}

static void test_sibling(void **state)
{
    struct fixture *f = *state;
    struct journal_claim c = {.destination = "cloud", .limit = 4};
    uint64_t ids[4];
    uint8_t sha256[JOURNAL_SHA256_SIZE];

    memset(sha256, 0xab, sizeof(sha256));
    fixture_admit(f, "/in/1", "1.1", 0);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    fixture_admit(f, "/in/2", "1.1", 0);
    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 1);
    assert_true(c.rows[0]->has_sibling);
    assert_memory_equal(c.rows[0]->sibling_sha256, sha256, sizeof(sha256));
    assert_string_equal(c.rows[0]->sibling_folder, "A/B");
    assert_string_equal(c.rows[0]->sibling_remote_id, "order-1");
    journal_delivery_row_free(c.rows[0]);
    free(c.rows);
}

static void test_illegal_settles(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[4];

    fixture_admit(f, "/in/1", "1.1", 0);
    assert_int_equal(fixture_settle(f, 77, DELIVERY_DELIVERED, NULL), ERR_NOT_FOUND);
    assert_int_equal(fixture_settle(f, 1, DELIVERY_DELIVERED, NULL), ERR_INVALID);
    assert_int_equal(fixture_settle(f, 1, DELIVERY_DUPLICATE, NULL), ERR_INVALID);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_SENDING, NULL), ERR_INVALID);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), ERR_INVALID);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_FAILED, NULL), ERR_INVALID);
    assert_int_equal(fixture_number(f, "SELECT state FROM delivery"), DELIVERY_DELIVERED);
    fixture_check_counts(f);
}

/* A doubt stays until the delivery arrived. */
static void test_uncertain(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[4];
    struct journal_settle s = {.state = DELIVERY_QUEUED, .uncertain = true};

    fixture_admit(f, "/in/1", "1.1", 0);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    s.delivery_id = ids[0];
    assert_int_equal(fixture_do(f, settle, &s), 0);
    assert_int_equal(fixture_number(f, "SELECT uncertain FROM delivery"), 1);
    assert_int_equal(fixture_number(f, "SELECT attempts FROM delivery"), 0);
    s.uncertain = false;
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(fixture_do(f, settle, &s), 0);
    assert_int_equal(fixture_number(f, "SELECT uncertain FROM delivery"), 1);
    assert_int_equal(fixture_claim(f, "cloud", 4, 0, ids), 1);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(fixture_number(f, "SELECT uncertain FROM delivery"), 0);
}

/* What was under way at the crash is queued again and in doubt. */
static void test_requeue(void **state)
{
    struct fixture *f = *state;
    struct journal_claim c = {.destination = "cloud", .limit = 4};
    struct journal_vanish v = {.reason = "gone"};
    uint64_t ids[4];

    fixture_admit(f, "/in/1", "1.1", 0);
    fixture_admit(f, "/in/2", "1.2", 0);
    v.file_id = fixture_admit(f, "/in/3", "1.3", 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, ids), 1);
    assert_int_equal(fixture_do(f, vanish, &v), 0);
    fixture_crash(f);
    assert_true(f->opened.unclean);
    assert_false(f->opened.restored);
    assert_int_equal(f->opened.requeued, 1);
    assert_int_equal(fixture_do(f, claim, &c), 0);
    assert_int_equal(c.n, 2);
    assert_true(c.rows[0]->uncertain);
    assert_int_equal(c.rows[0]->attempts, 0);
    assert_false(c.rows[1]->uncertain);
    for (size_t i = 0; i < c.n; i++)
        journal_delivery_row_free(c.rows[i]);
    free(c.rows);
    fixture_check_counts(f);
}

/* Two destinations: the file is delivered with the last, and stays queued while one is at odds. */
static void test_two_destinations(void **state)
{
    struct fixture *f = *state;
    struct journal_new_delivery d[2] = {{.destination = "cloud", .route = "r", .folder = ""},
                                        {.destination = "archive", .route = "r", .folder = ""}};
    struct journal_admit a = {.watch = "/in",
                              .path = "/in/1",
                              .size = 7,
                              .state = FILE_QUEUED,
                              .sop_instance_uid = "1.1",
                              .deliveries = d,
                              .n_deliveries = 2};
    struct journal_act_on retry = {.act = JOURNAL_RETRY, .destination = "archive"};
    uint64_t cloud, archive;
    bool delivered;

    assert_int_equal(fixture_do(f, admit, &a), 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &cloud), 1);
    assert_int_equal(fixture_claim(f, "archive", 1, 0, &archive), 1);
    assert_int_equal(fixture_settle(f, cloud, DELIVERY_DELIVERED, &delivered), 0);
    assert_false(delivered);
    assert_int_equal(fixture_settle(f, archive, DELIVERY_CONFLICT, &delivered), 0);
    assert_false(delivered);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_QUEUED);
    assert_int_equal(fixture_do(f, act_on, &retry), 0);
    assert_int_equal(retry.changed, 0); /* a conflict is sent when that is said in so many words */
    retry.send_anyway = true;
    assert_int_equal(fixture_do(f, act_on, &retry), 0);
    assert_int_equal(retry.changed, 1);
    assert_int_equal(
        fixture_number(f, "SELECT send_anyway FROM delivery WHERE destination = 'archive'"), 1);
    assert_int_equal(fixture_claim(f, "archive", 1, 0, &archive), 1);
    assert_int_equal(fixture_settle(f, archive, DELIVERY_DUPLICATE, &delivered), 0);
    assert_true(delivered);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_DELIVERED);
    fixture_check_counts(f);
}

/* The file vanishes while it is under way: an arrival is recorded, all else is nothing. */
static void test_vanish_under_way(void **state)
{
    struct fixture *f = *state;
    uint64_t a = fixture_admit(f, "/in/1", "1.1", 0), b = fixture_admit(f, "/in/2", "1.2", 0);
    struct journal_vanish v = {.file_id = a, .reason = "gone"};
    uint64_t ids[2];
    bool delivered;

    assert_int_equal(fixture_claim(f, "cloud", 2, 0, ids), 2);
    assert_int_equal(fixture_do(f, vanish, &v), 0);
    assert_int_equal(fixture_do(f, vanish, &v), 0); /* again: nothing */
    v.file_id = b;
    assert_int_equal(fixture_do(f, vanish, &v), 0);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_WAITING, &delivered), 0);
    assert_int_equal(fixture_settle(f, ids[1], DELIVERY_DELIVERED, &delivered), 0);
    assert_false(delivered);
    assert_int_equal(
        fixture_number(f, "SELECT count(*) FROM file WHERE state = 5 AND reason = 'gone'"), 2);
    assert_int_equal(fixture_number(f, "SELECT state FROM delivery WHERE id = 1"), DELIVERY_ENDED);
    assert_int_equal(fixture_number(f, "SELECT state FROM delivery WHERE id = 2"),
                     DELIVERY_DELIVERED);
    v.file_id = 99;
    assert_int_equal(fixture_do(f, vanish, &v), ERR_NOT_FOUND);
    fixture_check_counts(f);
}

static void test_operator(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[8];
    struct journal_act_on act = {.act = JOURNAL_HOLD, .study = "9.9"};
    char path[32], sop[32];

    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof(path), "/in/%d", i);
        snprintf(sop, sizeof(sop), "1.%d", i);
        fixture_admit(f, path, sop, 0);
    }
    assert_int_equal(fixture_claim(f, "cloud", 3, 0, ids), 3);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_FAILED, NULL), 0);
    assert_int_equal(fixture_settle(f, ids[1], DELIVERY_WAITING, NULL), 0);
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 0);
    act.study = "1.2.3";
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 4); /* all but the one under way */
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 5"), 4);
    act = (struct journal_act_on){.act = JOURNAL_RELEASE, .file_id = 1};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 1);
    act = (struct journal_act_on){.act = JOURNAL_RELEASE, .destination = "cloud"};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 3);
    assert_int_equal(fixture_claim(f, "cloud", 8, 0, ids + 3), 4);
    assert_int_equal(fixture_settle(f, ids[3], DELIVERY_FAILED, NULL), 0);
    assert_int_equal(fixture_settle(f, ids[4], DELIVERY_WAITING, NULL), 0);
    act = (struct journal_act_on){.act = JOURNAL_RETRY};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 2);
    assert_int_equal(fixture_claim(f, "cloud", 8, 0, ids), 2);
    fixture_check_counts(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_happy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_instance_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blocked_and_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waiting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sibling, setup, teardown),
        cmocka_unit_test_setup_teardown(test_illegal_settles, setup, teardown),
        cmocka_unit_test_setup_teardown(test_uncertain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requeue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_destinations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vanish_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_operator, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
