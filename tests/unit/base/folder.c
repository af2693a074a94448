#include "base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

int __real_fsync(int fd);
int __wrap_fsync(int fd);

static int fsync_calls, fsync_fails_at; /* 1: the first one */
static ino_t synced;                    /* the folder that was synced last */
static char top[64], path[200];
static struct err e;

int __wrap_fsync(int fd)
{
    struct stat st;
    if (++fsync_calls == fsync_fails_at) {
        errno = EIO;
        return -1;
    }
    assert_int_equal(fstat(fd, &st), 0);
    synced = st.st_ino;
    return __real_fsync(fd);
}

static const char *in_top(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", top, name);
    return path;
}

static struct stat look(const char *name)
{
    struct stat st;
    assert_int_equal(stat(in_top(name), &st), 0);
    return st;
}

static mode_t mode_of(const char *name)
{
    return look(name).st_mode & 07777;
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(name);
}

static int setup(void **state)
{
    (void)state;
    strcpy(top, "/tmp/folder-test-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    umask(022);
    fsync_fails_at = 0;
    int r = folder_make(top, 0700, &e);
    fsync_calls = 0;
    return r;
}

static int teardown(void **state)
{
    (void)state;
    return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void makes_what_is_missing(void **state)
{
    (void)state;
    assert_int_equal(folder_make(in_top("/a/b/./c/"), 0750, &e), 0);
    assert_true(fsync_calls >= 3); /* one a folder made */
    assert_int_equal(mode_of("a/b/c"), 0750);
    assert_int_equal(chdir(top), 0);
    assert_int_equal(folder_make("r/s", 0750, &e), 0);
    assert_int_equal(mode_of("r/s"), 0750);
    assert_int_equal(chdir("/"), 0);
}

static void tells_what_is_in_the_way(void **state)
{
    (void)state;
    int fd = open(in_top("file"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(folder_make(in_top("file"), 0750, &e), ERR_EXISTS);
    assert_true(folder_make(in_top("file/below"), 0750, &e) < 0);
    assert_int_equal(folder_make("", 0750, &e), ERR_VANISHED);
    char *giant = malloc(9000);
    assert_non_null(giant);
    memset(giant, 'a', 8999);
    giant[0] = '/';
    giant[8999] = '\0';
    assert_true(folder_make(giant, 0750, &e) < 0);
    free(giant);
}

/* Who made a folder may have died before its fsync, or never made one. */
static void syncs_the_name_of_what_others_made(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_top("others"), 0755), 0);
    assert_int_equal(folder_make(in_top("others"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 1);
    assert_int_equal(synced, look(".").st_ino);
    assert_int_equal(mkdir(in_top("others/deeper"), 0755), 0);
    assert_int_equal(folder_make(in_top("others/deeper/own"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 3);
    assert_int_equal(synced, look("others/deeper").st_ino);
    if (mode_of("others") != 0755) /* it is theirs */
        fail();
}

/* Where the file system tells birth times, which makes a folder known by. */
static void syncs_once(void **state)
{
    (void)state;
    struct statx st;
    assert_int_equal(statx(AT_FDCWD, top, 0, STATX_BTIME, &st), 0);
    if (!(st.stx_mask & STATX_BTIME))
        skip();
    assert_int_equal(folder_make(in_top("a/b"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 2);
    assert_int_equal(folder_make(in_top("a/b"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 2);
    /* Another one under its name. */
    assert_int_equal(rmdir(in_top("a/b")), 0);
    assert_int_equal(mkdir(in_top("a/b"), 0755), 0);
    assert_int_equal(folder_make(in_top("a/b"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 3);
}

static void a_disk_that_fails_is_tried_again(void **state)
{
    (void)state;
    fsync_fails_at = 1;
    assert_int_equal(folder_make(in_top("new"), 0750, &e), ERR_IO);
    assert_int_equal(folder_make(in_top("new"), 0750, &e), 0);
    assert_int_equal(fsync_calls, 2);
}

static void folders_above_may_be_closed_to_us(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(mkdir(in_top("closed"), 0711), 0);
    assert_int_equal(mkdir(in_top("closed/own"), 0755), 0);
    assert_int_equal(chown(in_top("closed/own"), 65534, 65534), 0);
    assert_int_equal(chmod(top, 0711), 0);
    assert_int_equal(seteuid(65534), 0);
    int r = folder_make(in_top("closed/own/new"), 0750, &e);
    int closed = folder_make(in_top("closed/new"), 0750, &e);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, 0);
    assert_int_equal(closed, ERR_ACCESS);
}

static void as_the_folder_above(void **state)
{
    (void)state;
    umask(077);
    assert_int_equal(mkdir(in_top("group"), 0700), 0);
    gid_t group = geteuid() == 0 ? 12345 : getegid();
    assert_int_equal(chown(in_top("group"), (uid_t)-1, group), 0);
    assert_int_equal(chmod(in_top("group"), 02770), 0);
    assert_int_equal(folder_make(in_top("group/a/b"), FOLDER_AS_ABOVE, &e), 0);
    assert_int_equal(mode_of("group/a"), 02770);
    assert_int_equal(mode_of("group/a/b"), 02770);
    assert_int_equal(look("group/a/b").st_gid, group);
    /* The group without the bit that the kernel hands on. */
    assert_int_equal(chmod(in_top("group"), 0750), 0);
    assert_int_equal(folder_make(in_top("group/c"), FOLDER_AS_ABOVE, &e), 0);
    assert_int_equal(mode_of("group/c"), 0750);
    assert_int_equal(look("group/c").st_gid, group);
    /* Not what makes a folder unsafe, or useless to its owner. */
    assert_int_equal(chmod(in_top("group"), 01777), 0);
    assert_int_equal(folder_make(in_top("group/d"), FOLDER_AS_ABOVE, &e), 0);
    assert_int_equal(mode_of("group/d"), 0775);
    if (geteuid() == 0) {
        assert_int_equal(chmod(in_top("group"), 0050), 0);
        assert_int_equal(folder_make(in_top("group/e"), FOLDER_AS_ABOVE, &e), 0);
        assert_int_equal(mode_of("group/e"), 0750);
    }
    /* What was there is left as it is. */
    assert_int_equal(chmod(in_top("group"), 0770), 0);
    assert_int_equal(folder_make(in_top("group/c"), FOLDER_AS_ABOVE, &e), 0);
    assert_int_equal(mode_of("group/c"), 0750);
}

/* As the service has it: not root, not a member, and chmod of that bit forbidden. */
static void a_group_that_is_not_ours(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    umask(077);
    assert_int_equal(mkdir(in_top("group"), 0700), 0);
    assert_int_equal(chown(in_top("group"), 65534, 12345), 0);
    assert_int_equal(chmod(in_top("group"), 02750), 0);
    assert_int_equal(chmod(top, 0711), 0);
    assert_int_equal(seteuid(65534), 0);
    int r = folder_make(in_top("group/a/b"), FOLDER_AS_ABOVE, &e);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, 0);
    assert_int_equal(mode_of("group/a"), 02750);
    assert_int_equal(mode_of("group/a/b"), 02750);
    assert_int_equal(look("group/a/b").st_gid, 12345);
    assert_int_equal(umask(022), 077);
}

static void prunes_what_is_empty(void **state)
{
    (void)state;
    char stop[200];
    snprintf(stop, sizeof(stop), "%s", in_top("sent"));
    assert_int_equal(folder_make(in_top("sent/a/b/c"), 0700, &e), 0);
    assert_int_equal(folder_make(in_top("sent/a/other"), 0700, &e), 0);
    folder_prune_above(in_top("sent/a/b/c/d/file"), stop); /* also when some is gone already */
    assert_int_not_equal(access(in_top("sent/a/b"), F_OK), 0);
    assert_int_equal(access(in_top("sent/a/other"), F_OK), 0);
    folder_prune_above(in_top("sent/a/other/file"), stop);
    assert_int_not_equal(access(in_top("sent/a"), F_OK), 0);
    assert_int_equal(access(stop, F_OK), 0);
    assert_int_equal(folder_make(in_top("sentry/a"), 0700, &e), 0);
    folder_prune_above(in_top("sentry/a/file"), stop); /* not in it */
    folder_prune_above(in_top("sent/file"), stop);
    assert_int_equal(access(in_top("sentry/a"), F_OK), 0);
    assert_int_equal(access(stop, F_OK), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(makes_what_is_missing),
        T(tells_what_is_in_the_way),
        T(syncs_the_name_of_what_others_made),
        T(syncs_once),
        T(a_disk_that_fails_is_tried_again),
        T(folders_above_may_be_closed_to_us),
        T(as_the_folder_above),
        T(a_group_that_is_not_ours),
        T(prunes_what_is_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
