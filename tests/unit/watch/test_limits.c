/* The kernel's limits and mounts, in namespaces of our own so that nobody else is touched. */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text);
}

static bool enter_namespaces(void)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return false;
    snprintf(map, sizeof map, "0 %u 1", (unsigned)uid);
    if (!write_text("/proc/self/setgroups", "deny") || !write_text("/proc/self/uid_map", map))
        return false;
    snprintf(map, sizeof map, "0 %u 1", (unsigned)gid);
    return write_text("/proc/self/gid_map", map);
}

static bool limit(const char *name, unsigned value)
{
    char path[64], text[16];
    snprintf(path, sizeof path, "/proc/sys/user/%s", name);
    snprintf(text, sizeof text, "%u", value);
    return write_text(path, text);
}

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
    umount2(r->root, MNT_DETACH);
    rig_end(r);
    free(r);
    limit("max_inotify_watches", 100000);
    limit("max_inotify_instances", 100);
    return 0;
}

static void watch_limit_means_polling_the_rest(void **state)
{
    struct rig *r = *state;
    if (!limit("max_inotify_watches", 4))
        skip();
    char rel[32];
    for (int i = 0; i < 10; i++) {
        snprintf(rel, sizeof rel, "d%d", i);
        make(r, rel);
        snprintf(rel, sizeof rel, "d%d/standing", i);
        put(r, rel, "x");
    }
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_NO_WATCHES] == 1 && rig_distinct(r) == 10);
    assert_int_equal(r->notice_n[WATCH_NOTICE_NO_WATCHES], 7);
    rig_forget(r);
    for (int i = 0; i < 10; i++) {
        snprintf(rel, sizeof rel, "d%d/new", i);
        put(r, rel, "x");
    }
    make(r, "late");
    put(r, "late/new", "x");
    RUN_UNTIL(r, rig_distinct(r) == 11 && watch_settling(r->w) == 0);
    assert_int_equal(rig_count(r, "d0/new") + rig_count(r, "d9/standing"), 1);
    /* When there is room again, they are watched. */
    assert_true(limit("max_inotify_watches", 100));
    rig_run_ms(r, 500);
    RUN_UNTIL(r, watch_settling(r->w) == 0);
    rig_forget(r);
    put(r, "late/event", "x");
    RUN_UNTIL(r, rig_count(r, "late/event") >= 1);
    assert_int_equal(r->notices[WATCH_NOTICE_NO_WATCHES], 0); /* said once */
}

static void no_instance_means_polling_all(void **state)
{
    struct rig *r = *state;
    if (!limit("max_inotify_instances", 0))
        skip();
    make(r, "a");
    put(r, "a/x", "x");
    rig_open(r);
    RUN_UNTIL(r, rig_count(r, "a/x") == 1);
    assert_int_equal(r->notices[WATCH_NOTICE_NO_WATCHES], 1);
    put(r, "a/y", "y");
    RUN_UNTIL(r, rig_count(r, "a/y") == 1);
    assert_int_equal(rig_count(r, "a/x"), 1);
}

static void mounts_are_walked_and_their_loss_is_told(void **state)
{
    struct rig *r = *state;
    if (mount("none", r->root, "tmpfs", 0, "size=1m") != 0)
        skip();
    make(r, "inner");
    char inner[128];
    full(r, "inner", inner, sizeof inner);
    assert_int_equal(mount("none", inner, "tmpfs", 0, "size=1m"), 0);
    put_old(r, "inner/x", "x");
    r->o.settle_ms = 50;
    rig_open(r);
    RUN_UNTIL(r, rig_count(r, "inner/x") == 1 && rig_quiet(r));
    put(r, "inner/y", "y");
    RUN_UNTIL(r, rig_count(r, "inner/y") == 1);
    assert_int_equal(umount(inner), 0);
    assert_int_equal(umount(r->root), 0);
    /* The mount point stands there, empty: that is not the drop folder. */
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    put(r, "stray", "x");
    rig_forget(r);
    assert_int_equal(mount("none", r->root, "tmpfs", 0, "size=1m"), 0);
    put(r, "z", "z");
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_BACK] == 1 && rig_count(r, "z") == 1);
    assert_int_equal(rig_count(r, "stray"), 0);
    assert_int_equal(umount2(r->root, MNT_DETACH), 0);
}

int main(void)
{
    if (!enter_namespaces()) {
        fprintf(stderr, "skipped: no user namespace of our own (%s)\n", strerror(errno));
        return 77;
    }
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(watch_limit_means_polling_the_rest),
        T(no_instance_means_polling_all),
        T(mounts_are_walked_and_their_loss_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
