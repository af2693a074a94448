/* Polling: as on a network file system, no events, only looks. */
#include "harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -1;
    rig_init(r);
    r->o.mode = WATCH_MODE_POLL;
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

static void each_version_is_offered_once(void **state)
{
    struct rig *r = *state;
    put_old(r, "x", "x");
    uint64_t start = uv_hrtime() / 1000000;
    rig_open(r);
    RUN_UNTIL(r, r->n == 1);
    /* its age does not count: the server's clock may be another */
    assert_true(r->offers[0].at_ms - start >= 290);
    unsigned scans = r->notices[WATCH_NOTICE_SCAN_DONE];
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] > scans + 3);
    assert_int_equal(r->n, 1);
    put_old(r, "x", "xx");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_last(r, "x")->size, 2);
    watch_rescan(r->w);
    RUN_UNTIL(r, r->n == 3);
    drop(r, "x");
    scans = r->notices[WATCH_NOTICE_SCAN_DONE];
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] > scans + 3);
    put_old(r, "x", "xx"); /* the same once more, after it was gone */
    RUN_UNTIL(r, r->n == 4);
}

static void slow_writer_is_waited_for(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 800;
    rig_open(r);
    char path[128];
    full(r, "slow", path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    uint64_t last = uv_hrtime() / 1000000;
    for (int i = 0; i < 20; i++) {
        rig_run_ms(r, 100);
        if (uv_hrtime() / 1000000 - last >= 800)
            skip(); /* this machine was too busy to write in time */
        assert_int_equal(r->n, 0);
        assert_int_equal(write(fd, "1", 1), 1);
        last = uv_hrtime() / 1000000;
    }
    close(fd);
    assert_int_equal(watch_settling(r->w), 1);
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_last(r, "slow")->size, 20);
    assert_true(rig_last(r, "slow")->at_ms - last >= 790);
    RUN_UNTIL(r, rig_quiet(r));
}

static void more_files_than_can_settle_at_once(void **state)
{
    struct rig *r = *state;
    const int many = WATCH_MAX_PENDING + 3000;
    char rel[32];
    for (int i = 0; i < many; i++) {
        if (i % 1000 == 0) {
            snprintf(rel, sizeof rel, "%d", i / 1000);
            make(r, rel);
        }
        snprintf(rel, sizeof rel, "%d/%d", i / 1000, i);
        put(r, rel, "x");
    }
    r->o.poll_ms = 3600000; /* the rest is not left to the next poll */
    r->o.settle_ms = 6000;  /* longer than a busy machine needs to see them all */
    rig_open(r);
    RUN_UNTIL(r, watch_settling(r->w) == (size_t)many);
    RUN_UNTIL(r, rig_distinct(r) == (size_t)many);
    assert_int_equal(r->n, many);
    RUN_UNTIL(r, rig_quiet(r));
}

static void folders_come_and_go(void **state)
{
    struct rig *r = *state;
    rig_open(r);
    make(r, "a");
    make(r, "a/b");
    put(r, "a/b/x", "x");
    RUN_UNTIL(r, rig_count(r, "a/b/x") == 1);
    shift(r, "a", "c");
    RUN_UNTIL(r, rig_count(r, "c/b/x") == 1);
    assert_int_equal(r->notices[WATCH_NOTICE_REMOVED], 0);
}

static void root_goes_and_comes_back(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    rig_open(r);
    RUN_UNTIL(r, watch_settling(r->w) == 1);
    remove_tree(r->root);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1 && rig_quiet(r));
    assert_int_equal(mkdir(r->root, 0755), 0);
    put(r, "x", "x");
    RUN_UNTIL(r, rig_count(r, "x") >= 1);
    assert_int_equal(r->notices[WATCH_NOTICE_GONE], 1);
    assert_int_equal(r->notices[WATCH_NOTICE_BACK], 1);
}

static void unreadable_file_is_told_once_and_offered_later(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 50;
    put(r, "x", "x");
    char path[128];
    full(r, "x", path, sizeof path);
    bool root = geteuid() == 0;
    if (root) {
        assert_int_equal(chown(r->root, 65534, 65534), 0);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(seteuid(65534), 0);
    }
    assert_int_equal(chmod(path, 0), 0);
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] >= 8);
    assert_int_equal(r->notices[WATCH_NOTICE_UNREADABLE], 1);
    assert_int_equal(r->n, 0);
    assert_int_equal(chmod(path, 0644), 0);
    RUN_UNTIL(r, r->n == 1);
    if (root)
        assert_int_equal(seteuid(0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(each_version_is_offered_once),       T(slow_writer_is_waited_for),
        T(more_files_than_can_settle_at_once), T(folders_come_and_go),
        T(root_goes_and_comes_back),           T(unreadable_file_is_told_once_and_offered_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
