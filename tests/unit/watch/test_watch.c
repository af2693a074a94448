/* Real folders, real events. */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -1;
    rig_init(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    rig_end(r);
    free(r);
    return 0;
}

static void open_quiet(struct rig *r)
{
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] == 1 && rig_quiet(r));
}

static void offers_what_stands_there_at_start(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    make(r, "a/b");
    put(r, "one", "1");
    put(r, "a/two", "22");
    put(r, "a/b/three", "333");
    rig_open(r);
    assert_int_equal(r->n, 0); /* callbacks come from the loop only */
    RUN_UNTIL(r, r->n == 3 && rig_quiet(r));
    assert_int_equal(rig_last(r, "a/b/three")->size, 3);
    assert_int_equal(rig_count(r, "one"), 1);
    assert_int_equal(rig_count(r, "a/two"), 1);
    assert_int_equal(r->notices[WATCH_NOTICE_SCAN_DONE], 1);
    assert_string_equal(watch_path(r->w), r->root);
}

static void closed_file_is_offered_at_once(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 60000;
    open_quiet(r);
    put(r, "x", "data");
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_last(r, "x")->size, 4);
    put(r, "x", "other data");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_last(r, "x")->size, 10);
}

static void renamed_into_place_is_offered_at_once(void **state)
{
    struct rig *r = *state;
    const char *exclude[] = {"*.tmp"};
    r->o.exclude = exclude;
    r->o.n_exclude = 1;
    r->o.settle_ms = 60000;
    open_quiet(r);
    put(r, "x.TMP", "data");
    put(r, ".hidden", "data");
    shift(r, "x.TMP", "x");
    shift(r, ".hidden", "y");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_count(r, "x"), 1);
    assert_int_equal(rig_count(r, "y"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(offers_what_stands_there_at_start),
        T(closed_file_is_offered_at_once),
        T(renamed_into_place_is_offered_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
