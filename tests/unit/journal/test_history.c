/* Disposal, the sweep, forgetting, and the list for people. */
#include "journal_fixture.h"

#include "base/clock.h"

#include <cjson/cJSON.h>
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

static uint64_t admit_as(struct fixture *f, const char *path, enum file_state fate)
{
    struct journal_admit a = {.watch = "/in",
                              .path = path,
                              .size = 3,
                              .state = fate,
                              .reason = "because",
                              .study_instance_uid = "1.9",
                              .series_instance_uid = "1.9.1"};

    assert_int_equal(fixture_do(f, admit, &a), 0);
    return a.file_id;
}

static uint64_t deliver(struct fixture *f, const char *path, const char *sop)
{
    uint64_t file = fixture_admit(f, path, sop, 100), id;
    bool delivered;

    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
    assert_int_equal(fixture_settle(f, id, DELIVERY_DELIVERED, &delivered), 0);
    assert_true(delivered);
    return file;
}

static enum journal_seen seen(struct fixture *f, const char *path)
{
    struct journal_lookup_entry entry = {.path = path, .size = 1000, .mtime_ns = 5};
    struct journal_lookup l = {.entries = &entry, .n = 1};

    assert_int_equal(fixture_do(f, lookup, &l), 0);
    return entry.seen;
}

static size_t pending(struct fixture *f, enum file_state state)
{
    struct journal_files files = {
        .state = state, .pending_disposal = true, .watch = "/in", .limit = 100};
    size_t n;

    assert_int_equal(fixture_do(f, files, &files), 0);
    n = files.n;
    journal_files_clear(&files);
    return n;
}

static void test_disposal(void **state)
{
    struct fixture *f = *state;
    uint64_t kept = deliver(f, "/in/kept", "1.1"), moved = deliver(f, "/in/moved", "1.2");
    uint64_t rejected = admit_as(f, "/in/rejected", FILE_REJECTED),
             queued = fixture_admit(f, "/in/queued", "1.3", 0);
    struct journal_disposed d = {.file_id = kept, .note = "the folder is read-only"};
    struct journal_files wrong = {.state = FILE_QUEUED, .pending_disposal = true, .limit = 1};

    assert_int_equal(pending(f, FILE_DELIVERED), 2);
    assert_int_equal(pending(f, FILE_REJECTED), 1);
    assert_int_equal(fixture_do(f, files, &wrong), ERR_INVALID);
    wrong.state = FILE_DELIVERED; /* of which drop folder? */
    assert_int_equal(fixture_do(f, files, &wrong), ERR_INVALID);
    /* Left where it is: it stays known, or it would be sent again. */
    assert_int_equal(fixture_do(f, disposed, &d), 0);
    assert_int_equal(pending(f, FILE_DELIVERED), 1);
    assert_int_equal(seen(f, "/in/kept"), JOURNAL_KNOWN);
    d = (struct journal_disposed){.file_id = moved, .gone = true, .target = "/sent/\xff"};
    assert_int_equal(fixture_do(f, disposed, &d), 0);
    assert_int_equal(pending(f, FILE_DELIVERED), 0);
    assert_int_equal(seen(f, "/in/moved"), JOURNAL_UNKNOWN);
    d = (struct journal_disposed){.file_id = rejected, .gone = true, .target = "/rejected/x"};
    assert_int_equal(fixture_do(f, disposed, &d), 0);
    assert_int_equal(pending(f, FILE_REJECTED), 0);
    assert_int_equal(fixture_number(f, "SELECT state FROM file WHERE id = 3"), FILE_REJECTED);
    /* Rule 1: one that is not delivered is not touched. */
    d = (struct journal_disposed){.file_id = queued, .gone = true};
    assert_int_equal(fixture_do(f, disposed, &d), ERR_INVALID);
    assert_int_equal(seen(f, "/in/queued"), JOURNAL_KNOWN);
    d.file_id = 99;
    assert_int_equal(fixture_do(f, disposed, &d), ERR_INVALID);
    fixture_check_counts(f);
}

/* The sweep saw that it is gone before its move was recorded. */
static void test_disposal_after_sweep(void **state)
{
    struct fixture *f = *state;
    uint64_t id = deliver(f, "/in/1", "1.1");
    struct journal_gone g = {.file_ids = &id, .n = 1, .reason = "left"};
    struct journal_disposed d = {.file_id = id, .gone = true, .target = "/sent/1"};

    assert_int_equal(fixture_do(f, gone, &g), 0);
    assert_int_equal(g.vanished, 0);
    assert_int_equal(fixture_do(f, disposed, &d), 0);
    assert_int_equal(fixture_number(f, "SELECT state FROM file"), FILE_DISPOSED);
    assert_int_equal(
        fixture_number(f, "SELECT count(*) FROM file WHERE target IS NOT NULL AND gone_ms > 0"), 1);
}

/* Pages of the sweep: each standing file once, whatever leaves meanwhile. */
static void test_standing(void **state)
{
    struct fixture *f = *state;
    struct journal_standing s = {.limit = 7};
    bool met[101] = {false};
    unsigned n = 0;
    char path[32], sop[32];

    for (int i = 1; i <= 100; i++) {
        snprintf(path, sizeof(path), "/in/%d", i);
        snprintf(sop, sizeof(sop), "1.%d", i);
        assert_int_equal(fixture_admit(f, path, sop, 0), i);
    }
    do {
        uint64_t leaving[2];
        struct journal_gone g = {.file_ids = leaving, .n = 2, .reason = "left"};

        assert_int_equal(fixture_do(f, standing, &s), 0);
        for (size_t i = 0; i < s.n; i++) {
            snprintf(path, sizeof(path), "/in/%d", (int)s.rows[i].id);
            assert_string_equal(s.rows[i].path, path);
            assert_string_equal(s.rows[i].watch, "/in");
            assert_int_equal(s.rows[i].size, 1000);
            assert_int_equal(s.rows[i].mtime_ns, 5);
            assert_int_equal(s.rows[i].state, FILE_QUEUED);
            assert_false(met[s.rows[i].id]);
            met[s.rows[i].id] = true;
            n++;
        }
        if (s.n < 7)
            break;
        s.after = s.rows[s.n - 1].id;
        leaving[0] = s.rows[0].id; /* behind */
        leaving[1] = s.after + 1;  /* and ahead */
        assert_int_equal(fixture_do(f, gone, &g), 0);
        assert_int_equal(g.vanished, s.after < 100 ? 2 : 1);
        journal_standing_clear(&s);
    } while (true);
    journal_standing_clear(&s);
    assert_int_equal(n, fixture_number(f, "SELECT count(*) FROM file WHERE gone_ms IS NULL") +
                            fixture_number(f, "SELECT count(*) / 2 FROM file WHERE state = 5"));
    fixture_check_counts(f);
}

static void test_gone(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[6];
    struct journal_gone g = {.file_ids = ids, .n = 6, .reason = "left the drop folder"};

    ids[0] = deliver(f, "/in/0", "1.0");
    ids[1] = fixture_admit(f, "/in/1", "1.1", 0);
    ids[2] = admit_as(f, "/in/2", FILE_REJECTED);
    ids[3] = admit_as(f, "/in/3", FILE_HELD);
    ids[4] = ids[1]; /* twice */
    ids[5] = 4711;   /* nobody */
    assert_int_equal(fixture_do(f, gone, &g), 0);
    assert_int_equal(g.vanished, 2);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file WHERE gone_ms IS NULL"), 0);
    assert_int_equal(fixture_number(f, "SELECT state FROM file WHERE id = 1"), FILE_DELIVERED);
    assert_int_equal(fixture_number(f, "SELECT state FROM file WHERE id = 2"), FILE_VANISHED);
    assert_int_equal(fixture_number(f, "SELECT state FROM file WHERE id = 3"), FILE_REJECTED);
    assert_int_equal(fixture_number(f, "SELECT state FROM file WHERE id = 4"), FILE_VANISHED);
    fixture_check_counts(f);
}

static int64_t fake_now;

static int64_t fake_realtime(void)
{
    return fake_now;
}

static size_t moved(struct fixture *f, const char *watch, int64_t before)
{
    struct journal_moved m = {.watch = watch, .before_ms = before, .limit = 10};
    size_t n;

    assert_int_equal(fixture_do(f, moved, &m), 0);
    n = m.n;
    journal_moved_clear(&m);
    return n;
}

/* Moved files are remembered as long as their retention wants it, whatever the history. */
static void test_retention(void **state)
{
    struct fixture *f = *state;
    const char *const retaining[] = {"/other", "/in"};
    struct journal_prune p = {.before_ms = 9000, .limit = 10};
    struct journal_moved m = {.watch = "/in", .before_ms = 9000, .limit = 2};
    struct journal_unmoved u = {.note = "retention is over"};
    struct journal_disposed d = {.gone = true, .target = "/sent/x"};
    uint64_t ids[3];

    for (int i = 0; i < 3; i++) {
        char path[16], sop[16];
        snprintf(path, sizeof(path), "/in/%d", i);
        snprintf(sop, sizeof(sop), "1.%d", i);
        ids[i] = deliver(f, path, sop);
        fake_now = 1000 * (i + 1);
        clock_set_source(NULL, fake_realtime);
        d.file_id = ids[i];
        assert_int_equal(fixture_do(f, disposed, &d), 0);
        clock_set_source(NULL, NULL);
    }
    assert_int_equal(moved(f, "/in", 3000), 2);
    assert_int_equal(moved(f, "/in", 9000), 3);
    assert_int_equal(moved(f, "/i", 9000), 0);
    /* Pages. */
    assert_int_equal(fixture_do(f, moved, &m), 0);
    assert_int_equal(m.n, 2);
    assert_string_equal(m.rows[0].path, "/sent/x");
    assert_int_equal(m.rows[1].id, ids[1]);
    m.after_ms = m.rows[1].changed_ms;
    m.after_id = m.rows[1].id;
    journal_moved_clear(&m);
    assert_int_equal(fixture_do(f, moved, &m), 0);
    assert_int_equal(m.n, 1);
    journal_moved_clear(&m);

    p.retaining = retaining;
    p.n_retaining = 2;
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 0);
    u.file_id = ids[0];
    assert_int_equal(fixture_do(f, unmoved, &u), 0);
    assert_int_equal(moved(f, "/in", 9000), 2);
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 1);
    /* Without retention they go as all others. */
    p.n_retaining = 1;
    p.before_ms = 3000;
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 1);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 1);
    u.file_id = 99;
    assert_int_equal(fixture_do(f, unmoved, &u), 0);
    fixture_check_counts(f);
}

static void test_study(void **state)
{
    struct fixture *f = *state;
    struct journal_study s = {.study = "1.5", .destination = "cloud"};
    uint64_t id;

    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_false(s.open);
    fixture_admit(f, "/in/1", "1.1", 0);
    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_false(s.open);
    s.study = "1.2.3";
    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_true(s.open);
    s.destination = "other";
    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_false(s.open);
    s.destination = "cloud";
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_true(s.open);
    assert_int_equal(fixture_settle(f, id, DELIVERY_DELIVERED, NULL), 0);
    assert_int_equal(fixture_do(f, study, &s), 0);
    assert_false(s.open);
}

static void test_prune(void **state)
{
    struct fixture *f = *state;
    const struct journal_bind bind = {.key = "study:1.77", .routes = "r"};
    struct journal_admit a = {.watch = "/in",
                              .path = "/in/bound",
                              .state = FILE_HELD,
                              .reason = "x",
                              .study_instance_uid = "1.77",
                              .series_instance_uid = "1.77.1",
                              .bindings = &bind,
                              .n_bindings = 1};
    struct journal_prune p = {.before_ms = 2000, .limit = 2};
    struct journal_gone g = {.reason = "left"};
    struct journal_binding b = {.key = "study:1.77"};
    uint64_t ids[5], id;

    fixture_close(f); /* the clock is replaced while no thread looks at it */
    fake_now = 1000;
    clock_set_source(NULL, fake_realtime);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(fixture_do(f, admit, &a), 0);
    ids[0] = a.file_id;
    ids[1] = deliver(f, "/in/1", "1.1");
    ids[2] = deliver(f, "/in/2", "1.2");
    ids[3] = deliver(f, "/in/late", "1.3");
    deliver(f, "/in/stands", "1.4");
    ids[4] = fixture_admit(f, "/in/under-way", "1.5", 0);
    g.file_ids = ids;
    g.n = 3;
    assert_int_equal(fixture_do(f, gone, &g), 0);
    fake_now = 2000;
    g.file_ids = ids + 3;
    g.n = 1;
    assert_int_equal(fixture_do(f, gone, &g), 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 2);
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 1);
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 0); /* left at 2000 is not before 2000 */
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 3);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM delivery"), 3);
    assert_int_equal(fixture_do(f, binding, &b), 0);
    assert_null(b.routes);
    /* Rule 10: what stands is remembered however old it is. */
    p.before_ms = INT64_MAX;
    p.limit = 100;
    assert_int_equal(fixture_do(f, prune, &p), 0);
    assert_int_equal(p.pruned, 1);
    assert_int_equal(seen(f, "/in/stands"), JOURNAL_KNOWN);
    assert_int_equal(seen(f, "/in/under-way"), JOURNAL_KNOWN);
    /* Ids are never used again. */
    assert_true(fixture_admit(f, "/in/new", "1.6", 0) > ids[4]);
    fixture_check_counts(f);
    fixture_close(f);
    clock_set_source(NULL, NULL);
}

/* An operator's retry: rejected files are found anew; one that was taken in before keeps its
 * history. */
static void test_retry_rejected(void **state)
{
    struct fixture *f = *state;
    struct journal_act_on act = {.act = JOURNAL_RETRY, .study = "8.8"}; /* known to no one */
    uint64_t id = deliver(f, "/in/0", "1.0");

    admit_as(f, "/in/1", FILE_REJECTED);
    admit_as(f, "/in/2", FILE_REJECTED);
    admit_as(f, "/in/3", FILE_REJECTED);
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 0);
    assert_string_equal(act.unknown, "study");
    act = (struct journal_act_on){.act = JOURNAL_RETRY, .destination = "cloud"};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 0);
    assert_null(act.unknown);
    act = (struct journal_act_on){.act = JOURNAL_RETRY, .destination = "clod"};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_string_equal(act.unknown, "destination");
    act = (struct journal_act_on){.act = JOURNAL_HOLD, .file_id = id, .delivery_id = 99};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_string_equal(act.unknown, "delivery");
    act = (struct journal_act_on){.act = JOURNAL_RETRY, .file_id = 99};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_string_equal(act.unknown, "file");
    act = (struct journal_act_on){.act = JOURNAL_RETRY, .file_id = 2};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 1);
    assert_null(act.unknown);
    assert_int_equal(seen(f, "/in/1"), JOURNAL_UNKNOWN);
    act = (struct journal_act_on){.act = JOURNAL_RETRY};
    assert_int_equal(fixture_do(f, act_on, &act), 0);
    assert_int_equal(act.changed, 2);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 1);
    assert_int_equal(fixture_number(f, "SELECT id FROM file"), id);
    fixture_check_counts(f);
}

static cJSON *list(struct fixture *f, struct journal_list *l)
{
    cJSON *json;

    assert_int_equal(fixture_do(f, list, l), 0);
    json = cJSON_Parse(l->json);
    assert_non_null(json);
    assert_true(cJSON_IsArray(json));
    free(l->json);
    l->json = NULL;
    return json;
}

static int listed(struct fixture *f, struct journal_list l)
{
    cJSON *json = list(f, &l);
    int n = cJSON_GetArraySize(json);
    double last = 1e18;

    for (int i = 0; i < n; i++) { /* newest first, none twice */
        double id = cJSON_GetObjectItem(cJSON_GetArrayItem(json, i), "id")->valuedouble;

        assert_true(id < last);
        last = id;
    }
    cJSON_Delete(json);
    return n;
}

#define ALL .file_state = -1, .delivery_state = -1, .limit = 100

static uint64_t act(struct fixture *f, struct journal_act_on a)
{
    assert_int_equal(fixture_do(f, act_on, &a), 0);
    assert_null(a.unknown);
    return a.changed;
}

static int problems(struct fixture *f)
{
    int n = listed(f, (struct journal_list){ALL, .problems = true});

    /* By another index, the same. */
    assert_int_equal(listed(f, (struct journal_list){ALL, .problems = true, .study = "1.2.3"}) +
                         listed(f, (struct journal_list){ALL, .problems = true, .study = "1.9"}),
                     n);
    return n;
}

/* Acknowledged problems are no more, until their state changes. */
static void test_acknowledge(void **state)
{
    struct fixture *f = *state;
    struct journal_vanish v = {.reason = "left"};
    uint64_t id, held, failed, gone;

    admit_as(f, "/in/1", FILE_REJECTED);
    held = admit_as(f, "/in/2", FILE_HELD);
    gone = v.file_id = fixture_admit(f, "/in/3", "1.3", 0);
    assert_int_equal(fixture_do(f, vanish, &v), 0);
    failed = fixture_admit(f, "/in/4", "1.4", 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
    assert_int_equal(fixture_settle(f, id, DELIVERY_FAILED, NULL), 0);
    deliver(f, "/in/5", "1.5");
    assert_int_equal(problems(f), 4);

#define ACKNOWLEDGE(...) act(f, (struct journal_act_on){.act = JOURNAL_ACKNOWLEDGE, __VA_ARGS__})
    assert_int_equal(ACKNOWLEDGE(.file_id = gone), 1);
    assert_int_equal(ACKNOWLEDGE(.file_id = gone), 0);
    assert_int_equal(problems(f), 3);
    assert_int_equal(ACKNOWLEDGE(.study = "1.9"), 2);
    assert_int_equal(problems(f), 1);
    assert_int_equal(ACKNOWLEDGE(.destination = "cloud"), 1);
    assert_int_equal(problems(f), 0);
    assert_int_equal(listed(f, (struct journal_list){ALL, .problems = true, .acknowledged = true}),
                     4);
    assert_int_equal(ACKNOWLEDGE(.study = NULL), 0);

    /* It fails again. */
    assert_int_equal(act(f, (struct journal_act_on){.act = JOURNAL_RETRY, .file_id = failed}), 1);
    assert_int_equal(problems(f), 0);
    assert_int_equal(fixture_claim(f, "cloud", 1, 0, &id), 1);
    assert_int_equal(fixture_settle(f, id, DELIVERY_FAILED, NULL), 0);
    assert_int_equal(problems(f), 1);
    assert_int_equal(ACKNOWLEDGE(.delivery_id = id), 1);
    assert_int_equal(problems(f), 0);

    v = (struct journal_vanish){.file_id = held, .reason = "left"};
    assert_int_equal(fixture_do(f, vanish, &v), 0);
    assert_int_equal(problems(f), 1);
    assert_int_equal(ACKNOWLEDGE(.study = NULL), 1);
    assert_int_equal(problems(f), 0);
}

static void test_list(void **state)
{
    struct fixture *f = *state;
    struct journal_list l = {.path = "/in/\xc3\xa4\xff.dcm", ALL};
    uint64_t ids[4];
    cJSON *json, *file, *delivery;

    deliver(f, "/in/0", "1.0");
    deliver(f, "/in/\xc3\xa4\xff.dcm", "1.1");
    admit_as(f, "/in/2", FILE_REJECTED);
    admit_as(f, "/in/3", FILE_HELD);
    fixture_admit(f, "/in/4", "1.4", 0);
    fixture_admit(f, "/in/5", "1.5", 0);
    fixture_admit(f, "/in/6", "1.6", 0);
    assert_int_equal(fixture_claim(f, "cloud", 2, 0, ids), 2);
    assert_int_equal(fixture_settle(f, ids[0], DELIVERY_FAILED, NULL), 0);
    assert_int_equal(fixture_settle(f, ids[1], DELIVERY_WAITING, NULL), 0);

    json = list(f, &l);
    assert_int_equal(cJSON_GetArraySize(json), 1);
    file = cJSON_GetArrayItem(json, 0);
    assert_string_equal(cJSON_GetObjectItem(file, "path")->valuestring,
                        "/in/\xc3\xa4\xef\xbf\xbd.dcm");
    assert_string_equal(cJSON_GetObjectItem(file, "path_hex")->valuestring,
                        "2f696e2fc3a4ff2e64636d");
    assert_string_equal(cJSON_GetObjectItem(file, "state")->valuestring, "delivered");
    assert_string_equal(cJSON_GetObjectItem(file, "sop_instance_uid")->valuestring, "1.1");
    assert_int_equal(strlen(cJSON_GetObjectItem(file, "sha256")->valuestring), 64);
    delivery = cJSON_GetArrayItem(cJSON_GetObjectItem(file, "deliveries"), 0);
    assert_string_equal(cJSON_GetObjectItem(delivery, "state")->valuestring, "delivered");
    assert_string_equal(cJSON_GetObjectItem(delivery, "destination")->valuestring, "cloud");
    assert_string_equal(cJSON_GetObjectItem(delivery, "remote_id")->valuestring, "order-1");
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(delivery, "uncertain")));
    cJSON_Delete(json);

    assert_int_equal(listed(f, (struct journal_list){ALL}), 7);
    assert_int_equal(listed(f, (struct journal_list){ALL, .offset = 5}), 2);
    assert_int_equal(
        listed(f, (struct journal_list){.file_state = -1, .delivery_state = -1, .limit = 3}), 3);
    assert_int_equal(listed(f, (struct journal_list){ALL, .problems = true}), 4);
    assert_int_equal(listed(f, (struct journal_list){ALL, .problems = true, .offset = 1}), 3);
    assert_int_equal(
        listed(f, (struct journal_list){ALL, .problems = true, .destination = "cloud"}), 2);
    assert_int_equal(listed(f, (struct journal_list){ALL, .problems = true, .study = "1.9"}), 2);
    assert_int_equal(listed(f, (struct journal_list){ALL, .study = "1.2.3"}), 5);
    assert_int_equal(listed(f, (struct journal_list){ALL, .sop_instance = "1.4"}), 1);
    assert_int_equal(
        listed(f, (struct journal_list){ALL, .sop_instance = "1.4", .destination = "elsewhere"}),
        0);
    assert_int_equal(listed(f, (struct journal_list){ALL, .destination = "cloud"}), 5);
    assert_int_equal(
        listed(f, (struct journal_list){.file_state = FILE_HELD, .delivery_state = -1, .limit = 9}),
        1);
    assert_int_equal(listed(f, (struct journal_list){.file_state = -1,
                                                     .delivery_state = DELIVERY_QUEUED,
                                                     .limit = 9}),
                     1);
    assert_int_equal(listed(f, (struct journal_list){.file_state = FILE_HELD,
                                                     .delivery_state = DELIVERY_QUEUED,
                                                     .limit = 9}),
                     0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_disposal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disposal_after_sweep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_standing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_study, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_rejected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_acknowledge, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
