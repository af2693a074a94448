/* The parts that touch no file system: filter, table of versions, settling list. */
#include "harness.h"

#include "watch/watch_filter.h"
#include "watch/watch_seen.h"
#include "watch/watch_settle.h"

#include <stdio.h>
#include <string.h>

static void filter_names(void **state)
{
    (void)state;
    const char *const include[] = {"*.dcm", "raw/**"};
    const char *const exclude[] = {"*.part", "old/**", "autorun.inf"};
    const struct watch_options o = {
        .include = include, .n_include = 2, .exclude = exclude, .n_exclude = 3};
    struct watch_filter f;
    assert_int_equal(watch_filter_init(&f, &o), 0);
    static const struct {
        const char *rel;
        bool file, folder;
    } cases[] = {
        {"a.dcm", true, true},         {"A.DCM", true, true},        {"deep/er/a.dcm", true, true},
        {"a.txt", false, true},        {"raw/a.txt", true, true},    {"raw/b/a.txt", true, true},
        {"a.part", false, false},      {"raw/A.Part", false, false}, {".a.dcm", false, false},
        {"raw/.dot", false, false},    {"old/a.dcm", false, false},  {"old/b/a.dcm", false, false},
        {"AutoRun.inf", false, false}, {"x/old/a.dcm", true, true},  {"\xff.dcm", true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(watch_filter_file(&f, cases[i].rel), cases[i].file);
        assert_int_equal(watch_filter_folder(&f, cases[i].rel), cases[i].folder);
    }
    watch_filter_free(&f);
    const struct watch_options none = {0};
    assert_int_equal(watch_filter_init(&f, &none), 0);
    assert_true(watch_filter_file(&f, "anything"));
    assert_false(watch_filter_file(&f, "a/.hidden"));
    watch_filter_free(&f);
}

static uint64_t number(const struct watch_seen *t, unsigned i)
{
    char path[32];
    snprintf(path, sizeof path, "/inbox/%u", i);
    return watch_seen_hash(t, path, i, -5);
}

static void seen_remembers_versions(void **state)
{
    (void)state;
    struct watch_seen t;
    watch_seen_init(&t, 1U << 18);
    const unsigned n = 100000;
    for (unsigned i = 0; i < n; i++) {
        assert_null(watch_seen_find(&t, number(&t, i)));
        assert_non_null(watch_seen_add(&t, number(&t, i), 1000 + i));
    }
    assert_in_range(t.capacity, n, 1U << 18); /* 16 bytes each */
    for (unsigned i = 0; i < n; i++) {
        const struct watch_seen_entry *e = watch_seen_find(&t, number(&t, i));
        assert_non_null(e);
        assert_int_equal(e->offered, 0);
        /* never more than what has passed, and less by two ticks at most */
        assert_in_range(watch_seen_age(e, 1000 + i + 500), 500 - 2 * WATCH_SEEN_TICK_MS, 500);
    }
    uint64_t h = watch_seen_hash(&t, "a", 1, 1);
    assert_true(h != watch_seen_hash(&t, "b", 1, 1) && h != watch_seen_hash(&t, "a", 2, 1) &&
                h != watch_seen_hash(&t, "a", 1, 2));
    watch_seen_free(&t);
}

static void seen_forgets_what_a_round_did_not_meet(void **state)
{
    (void)state;
    struct watch_seen t;
    watch_seen_init(&t, 1U << 16);
    for (unsigned i = 0; i < 10000; i++)
        watch_seen_add(&t, number(&t, i), 0)->offered = 1;
    watch_seen_round_begin(&t);
    for (unsigned i = 0; i < 100; i++)
        assert_non_null(watch_seen_find(&t, number(&t, i)));
    watch_seen_add(&t, number(&t, 20000), 0);
    watch_seen_round_end(&t);
    assert_int_equal(t.used, 101);
    assert_int_equal(t.capacity, 1024); /* and gives the memory back */
    assert_int_equal(watch_seen_find(&t, number(&t, 99))->offered, 1);
    assert_null(watch_seen_find(&t, number(&t, 100)));
    watch_seen_reoffer(&t);
    assert_int_equal(watch_seen_find(&t, number(&t, 99))->offered, 0);
    watch_seen_round_begin(&t);
    watch_seen_round_end(&t);
    assert_int_equal(t.used, 0);
    watch_seen_free(&t);
}

static void seen_is_bounded(void **state)
{
    (void)state;
    struct watch_seen t;
    watch_seen_init(&t, 1024);
    for (unsigned i = 0; i < 10000; i++) {
        assert_non_null(watch_seen_add(&t, number(&t, i), 0));
        assert_non_null(watch_seen_find(&t, number(&t, i)));
    }
    assert_int_equal(t.capacity, 1024);
    assert_in_range(t.used, 900, 1024);
    watch_seen_free(&t);
}

struct visit {
    enum watch_settle_verdict verdict;
    unsigned n;
    uint64_t due_ms;
};

static enum watch_settle_verdict visit(struct watch_settle_file *file, void *ctx)
{
    struct visit *v = ctx;
    v->n++;
    if (v->verdict == WATCH_SETTLE_KEEP)
        file->due_ms = v->due_ms;
    return v->verdict;
}

static void settle_list(void **state)
{
    (void)state;
    struct watch_settle l;
    watch_settle_init(&l, 3);
    assert_true(l.next_due_ms == UINT64_MAX);
    struct watch_settle_file file = {.size = 1, .mtime_ns = 2, .since_ms = 10, .due_ms = 1000};
    assert_true(watch_settle_put(&l, &file, "a"));
    assert_in_range(l.next_due_ms, 1000, 1031);
    file.due_ms = 500;
    assert_true(watch_settle_put(&l, &file, "b"));
    assert_true(watch_settle_put(&l, &file, "c"));
    assert_false(watch_settle_put(&l, &file, "d")); /* full… */
    file.since_ms = 20;
    assert_true(watch_settle_put(&l, &file, "a")); /* …but not for one that is there */
    assert_int_equal(l.files->since_ms, 10);       /* the same version: first seen then */
    file.size = 9;
    assert_true(watch_settle_put(&l, &file, "a"));
    assert_int_equal(l.files->since_ms, 20);
    assert_int_equal(l.count, 3);

    struct visit v = {.verdict = WATCH_SETTLE_DROP};
    watch_settle_visit(&l, 499, visit, &v);
    assert_int_equal(v.n, 0);
    v = (struct visit){.verdict = WATCH_SETTLE_STOP};
    watch_settle_visit(&l, 600, visit, &v);
    assert_int_equal(v.n, 1);
    v = (struct visit){.verdict = WATCH_SETTLE_KEEP, .due_ms = 5000};
    watch_settle_visit(&l, 600, visit, &v);
    assert_int_equal(v.n, 3);
    assert_in_range(l.next_due_ms, 5000, 5031);
    watch_settle_remove(&l, "b");
    watch_settle_remove(&l, "b");
    assert_int_equal(l.count, 2);
    v = (struct visit){.verdict = WATCH_SETTLE_DROP};
    watch_settle_visit(&l, 6000, visit, &v);
    assert_int_equal(v.n, 2);
    assert_int_equal(l.count, 0);
    assert_true(l.next_due_ms == UINT64_MAX);
    assert_true(watch_settle_put(&l, &file, "left"));
    watch_settle_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filter_names),
        cmocka_unit_test(seen_remembers_versions),
        cmocka_unit_test(seen_forgets_what_a_round_did_not_meet),
        cmocka_unit_test(seen_is_bounded),
        cmocka_unit_test(settle_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
