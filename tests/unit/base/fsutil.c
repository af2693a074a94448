#include "base/fsutil.h"
#include "base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* File systems that lack things, and failing disks: the linker sends these calls here. */
int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __real_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __real_fsync(int fd);
int __wrap_fsync(int fd);

static int renameat2_errno, link_errno;
static int fsync_calls, fsync_fails_at; /* 1: the first one */
static char vanishing[128];             /* a folder that goes… */
static int vanishes_before;             /* …so many times before a rename */
static bool vanishes_after;             /* …after it */

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (renameat2_errno) {
        errno = renameat2_errno;
        return -1;
    }
    if (vanishes_before > 0) {
        vanishes_before--;
        assert_int_equal(rmdir(vanishing), 0);
    }
    int r = __real_renameat2(from_fd, from, to_fd, to, flags);
    if (vanishes_after)
        assert_int_equal(rmdir(vanishing), 0);
    return r;
}

int __wrap_link(const char *from, const char *to)
{
    if (link_errno) {
        errno = link_errno;
        return -1;
    }
    return __real_link(from, to);
}

int __wrap_fsync(int fd)
{
    if (++fsync_calls == fsync_fails_at) {
        errno = EIO;
        return -1;
    }
    return __real_fsync(fd);
}

static char top[64], far[64]; /* on two file systems, where the machine has two */
static bool two_file_systems;
static char from[128], to[128];

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void expect_text(const char *path, const char *text)
{
    char *data;
    size_t size;
    struct err e;
    assert_int_equal(fsutil_read_file(path, 1 << 20, &data, &size, &e), 0);
    assert_string_equal(data, text);
    assert_int_equal(size, strlen(text));
    free(data);
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void clear(const char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(folder, 0700), 0);
}

static int count_one_n;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)st;
    (void)type;
    (void)ftw;
    count_one_n++;
    return 0;
}

static int count(const char *folder)
{
    count_one_n = -1; /* the folder itself */
    nftw(folder, count_one, 16, FTW_PHYS);
    return count_one_n;
}

static int setup(void **state)
{
    (void)state;
    clear(top);
    clear(far);
    snprintf(from, sizeof(from), "%s/from", top);
    snprintf(to, sizeof(to), "%s/to", top);
    renameat2_errno = link_errno = 0;
    vanishes_before = 0;
    vanishes_after = false;
    fsync_fails_at = 0;
    struct err e; /* what is above is durable, and known as that */
    assert_int_equal(folder_make(top, 0700, &e), 0);
    assert_int_equal(folder_make(far, 0700, &e), 0);
    fsync_calls = 0;
    return 0;
}

static void test_write_file(void **state)
{
    (void)state;
    struct err e;
    struct stat st;
    mode_t mask = umask(077);
    assert_int_equal(fsutil_write_file(to, "one", 3, 0644, &e), 0);
    umask(mask);
    expect_text(to, "one");
    assert_int_equal(stat(to, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644); /* whatever the umask */
    assert_int_equal(fsync_calls, 2);
    assert_int_equal(fsutil_write_file(to, "", 0, 0600, &e), 0);
    expect_text(to, "");
    assert_int_equal(count(top), 1);
    /* A failing disk: the old bytes stay, and no temporary file. */
    put(to, "old");
    fsync_calls = 0;
    fsync_fails_at = 1;
    assert_int_equal(fsutil_write_file(to, "new", 3, 0600, &e), ERR_IO);
    expect_text(to, "old");
    assert_int_equal(count(top), 1);
    fsync_calls = 0;
    fsync_fails_at = 2; /* that of the folder */
    assert_int_equal(fsutil_write_file(to, "new", 3, 0600, &e), ERR_IO);
    fsync_fails_at = 0;
    assert_true(fsutil_write_file(top, "x", 1, 0600, &e) < 0); /* a folder stands there */
    char path[200];
    snprintf(path, sizeof(path), "%s/missing/x", top);
    assert_int_equal(fsutil_write_file(path, "x", 1, 0600, &e), ERR_VANISHED);
    assert_null(strstr(e.text, top)); /* rule 6: the text is logged */
    assert_int_equal(count(top), 1);
    assert_int_equal(chdir(top), 0);
    assert_int_equal(fsutil_write_file("plain", "x", 1, 0600, &e), 0);
    expect_text("plain", "x");
    assert_int_equal(chdir("/"), 0);
}

static void test_read_file(void **state)
{
    (void)state;
    struct err e;
    char *data;
    size_t size;
    put(from, "12345");
    assert_int_equal(fsutil_read_file(from, 5, &data, &size, &e), 0);
    assert_int_equal(size, 5);
    assert_string_equal(data, "12345");
    free(data);
    assert_int_equal(fsutil_read_file(from, 4, &data, &size, &e), ERR_TOO_LARGE);
    assert_null(data);
    assert_int_equal(fsutil_read_file(to, 4, &data, &size, &e), ERR_VANISHED);
    assert_int_equal(fsutil_read_file(top, 4000000, &data, &size, &e), ERR_INVALID);
    assert_int_equal(mkfifo(to, 0600), 0);
    assert_int_equal(fsutil_read_file(to, 4, &data, &size, &e),
                     ERR_INVALID); /* and does not hang */
    /* Longer than stat says. */
    assert_int_equal(fsutil_read_file("/proc/self/status", 1 << 20, &data, &size, &e), 0);
    assert_true(size > 100);
    assert_int_equal(strlen(data), size);
    free(data);
    assert_int_equal(fsutil_read_file("/proc/self/status", 20, &data, &size, &e), ERR_TOO_LARGE);
}

static void test_rename_new(void **state)
{
    (void)state;
    struct err e;
    put(from, "new");
    assert_int_equal(fsutil_rename_new(from, to, &e), 0);
    assert_int_equal(fsync_calls, 1); /* one folder, one fsync */
    assert_false(exists(from));
    expect_text(to, "new");
    put(from, "newer");
    assert_int_equal(fsutil_rename_new(from, to, &e), ERR_EXISTS);
    expect_text(from, "newer");
    expect_text(to, "new");
    char path[200];
    snprintf(path, sizeof(path), "%s/folder", top);
    assert_int_equal(mkdir(path, 0700), 0);
    strcat(path, "/x");
    fsync_calls = 0;
    assert_int_equal(fsutil_rename_new(from, path, &e), 0);
    assert_int_equal(fsync_calls, 2);
    assert_int_equal(fsutil_rename_new(from, path, &e), ERR_VANISHED);
    fsync_calls = 0;
    fsync_fails_at = 1;
    assert_int_equal(fsutil_rename_new(path, from, &e), ERR_IO);
}

static void test_rename_replace(void **state)
{
    (void)state;
    struct err e;
    put(from, "new");
    put(to, "old");
    assert_int_equal(fsutil_rename_replace(from, to, &e), 0);
    expect_text(to, "new");
    assert_false(exists(from));
    assert_int_equal(fsutil_rename_replace(from, to, &e), ERR_VANISHED);
}

/* On file systems without RENAME_NOREPLACE, and those without hard links too: the promises stay. */
static void test_lesser_file_systems(void **state)
{
    (void)state;
    struct err e;
    for (int links = 1; links >= 0; links--) {
        setup(NULL);
        renameat2_errno = EINVAL;
        link_errno = links ? 0 : EPERM;
        put(from, "one");
        assert_int_equal(fsutil_rename_new(from, to, &e), 0);
        assert_false(exists(from));
        expect_text(to, "one");
        put(from, "two");
        assert_int_equal(fsutil_rename_new(from, to, &e), ERR_EXISTS);
        expect_text(from, "two");
        expect_text(to, "one");
        assert_int_equal(fsutil_move(from, to, &e), ERR_EXISTS);
        assert_int_equal(count(top), 2);
        unlink(from);
        assert_int_equal(fsutil_rename_new(from, to, &e), ERR_VANISHED);
        unlink(to);
        assert_int_equal(fsutil_rename_new(from, to, &e), ERR_VANISHED);
        assert_false(exists(to)); /* no empty file is left */
    }
    /* A crash between link and unlink: the second time it is carried through. */
    setup(NULL);
    renameat2_errno = EINVAL;
    put(from, "one");
    assert_int_equal(__real_link(from, to), 0);
    assert_int_equal(fsutil_rename_new(from, to, &e), 0);
    assert_false(exists(from));
    expect_text(to, "one");
}

static void test_across_file_systems(void **state)
{
    (void)state;
    struct err e;
    struct stat before, after;
    if (!two_file_systems)
        skip();
    char *large = malloc(700001);
    assert_non_null(large);
    for (int i = 0; i < 700000; i++)
        large[i] = (char)('a' + i % 23);
    large[700000] = '\0';
    put(from, large);
    chmod(from, 0640);
    struct timespec times[2] = {{1600000000, 5}, {1600000001, 123456789}};
    utimensat(AT_FDCWD, from, times, 0);
    assert_int_equal(stat(from, &before), 0);
    snprintf(to, sizeof(to), "%s/new/folder/to", far);
    assert_int_equal(fsutil_rename_new(from, to, &e), ERR_VANISHED); /* no folder yet */
    assert_int_equal(fsutil_move(from, to, &e), 0);
    assert_false(exists(from));
    expect_text(to, large);
    assert_int_equal(stat(to, &after), 0);
    assert_int_equal(after.st_mode, before.st_mode);
    assert_int_equal(after.st_mtim.tv_sec, 1600000001);
    assert_int_equal(after.st_mtim.tv_nsec, 123456789);
    assert_int_equal(count(far), 3); /* no temporary file */
    free(large);

    put(from, "other");
    assert_int_equal(fsutil_move(from, to, &e), ERR_EXISTS);
    expect_text(from, "other");
    assert_int_equal(count(far), 3);
    strcat(to, "2");
    assert_int_equal(fsutil_rename_new(from, to, &e), ERR_UNSUPPORTED);
    assert_int_equal(fsutil_rename_replace(from, to, &e), ERR_UNSUPPORTED);
    assert_int_equal(fsutil_move(from, to, &e), 0);
    expect_text(to, "other");
}

/* Whichever fsync fails, the source stays unless all of the copy is durable; and the next try goes
 * through. */
static void test_across_with_failures(void **state)
{
    (void)state;
    struct err e;
    if (!two_file_systems)
        skip();
    int fails_at = 1;
    for (;; fails_at++) {
        setup(NULL);
        put(from, "precious");
        snprintf(to, sizeof(to), "%s/new/to", far);
        fsync_fails_at = fails_at;
        int r = fsutil_move(from, to, &e);
        bool gone = !exists(from);
        if (r == 0) {
            assert_true(gone);
            break;
        }
        assert_int_equal(r, ERR_IO);
        /* Made: folder 1, file 2, its folder 3, the source's folder 4: only the last comes after
         * the unlink. */
        assert_int_equal(gone, fails_at == 4);
        fsync_fails_at = 0;
        if (!gone)
            assert_int_equal(fsutil_move(from, to, &e), 0);
        assert_false(exists(from));
        expect_text(to, "precious");
        assert_int_equal(count(far), 2);
    }
    assert_int_equal(fails_at, 5);
}

/* What an earlier, killed move left: half a copy under the temporary name; the whole copy beside
 * the source. */
static void test_across_after_crash(void **state)
{
    (void)state;
    struct err e;
    struct stat st;
    if (!two_file_systems)
        skip();
    put(from, "precious");
    assert_int_equal(stat(from, &st), 0);
    char temporary[160];
    snprintf(temporary, sizeof(temporary), "%s/.dcmferry-%llx-%llx.tmp", far,
             (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    put(temporary, "prec");
    snprintf(to, sizeof(to), "%s/to", far);
    assert_int_equal(fsutil_move(from, to, &e), 0);
    expect_text(to, "precious");
    assert_int_equal(count(far), 1);

    put(from, "precious");
    assert_int_equal(fsutil_move(from, to, &e), ERR_EXISTS); /* of another time: somebody else's */
    assert_int_equal(stat(to, &st), 0);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    utimensat(AT_FDCWD, from, times, 0);
    fsync_calls = 0;
    assert_int_equal(fsutil_move(from, to, &e), 0);
    assert_int_equal(fsync_calls, 3); /* the copy may not have been durable yet */
    assert_false(exists(from));
    expect_text(to, "precious");

    put(from, "precIous");
    utimensat(AT_FDCWD, from, times, 0);
    assert_int_equal(fsutil_move(from, to, &e), ERR_EXISTS);
    expect_text(from, "precIous");
    expect_text(to, "precious");
}

static void test_move(void **state)
{
    (void)state;
    struct err e;
    put(from, "x");
    snprintf(to, sizeof(to), "%s/a/b/to", top);
    assert_int_equal(fsutil_move(from, to, &e), 0);
    expect_text(to, "x");
    put(from, "y");
    assert_int_equal(fsutil_move(from, to, &e), ERR_EXISTS);
    expect_text(to, "x");
    expect_text(from, "y");
    unlink(from);
    assert_int_equal(fsutil_move(from, to, &e), ERR_VANISHED);
    assert_int_equal(symlink(to, from), 0);
    char other[200];
    snprintf(other, sizeof(other), "%s/other", top);
    assert_int_equal(fsutil_move(from, other, &e), ERR_INVALID);
    assert_int_equal(fsutil_move(top, other, &e), ERR_INVALID);
    /* The target's folder is a file. */
    snprintf(other, sizeof(other), "%s/below", to);
    unlink(from);
    put(from, "y");
    assert_int_equal(fsutil_move(from, other, &e), ERR_EXISTS);
    expect_text(from, "y");
}

/* Others take empty folders away: the one moved to before the file gets there, the one it left. */
static void test_vanishing_folders(void **state)
{
    (void)state;
    struct err e;
    char target[200];
    snprintf(vanishing, sizeof(vanishing), "%s/day", top);
    snprintf(target, sizeof(target), "%s/file", vanishing);
    put(from, "x");
    vanishes_before = 3;
    assert_int_equal(fsutil_move(from, target, &e), 0);
    expect_text(target, "x");
    put(from, "y");
    assert_int_equal(unlink(target), 0);
    vanishes_before = 3;
    assert_int_equal(fsutil_rename_into(from, target, 0700, &e), 0);
    vanishes_after = true;
    assert_int_equal(fsutil_move(target, from, &e), 0);
    assert_false(exists(vanishing));
    vanishes_after = false;
    vanishes_before = 1000; /* never said to be gone while it stands */
    assert_int_equal(fsutil_move(from, target, &e), ERR_BUSY);
    expect_text(from, "y");
    vanishes_before = 0;
    assert_int_equal(unlink(from), 0);
    assert_int_equal(fsutil_move(from, target, &e), ERR_VANISHED);
}

static void test_unlink(void **state)
{
    (void)state;
    struct err e;
    put(from, "x");
    assert_int_equal(fsutil_unlink(from, &e), 0);
    assert_int_equal(fsync_calls, 1);
    assert_false(exists(from));
    assert_int_equal(fsutil_unlink(from, &e), ERR_VANISHED);
    assert_int_equal(chdir(top), 0);
    put("plain", "x");
    assert_int_equal(fsutil_unlink("plain", &e), 0);
    assert_int_equal(chdir("/"), 0);
}

static void test_network(void **state)
{
    (void)state;
    struct err e;
    bool network = true;
    assert_int_equal(fsutil_is_network("/proc", &network, &e), 0);
    assert_false(network);
    assert_int_equal(fsutil_is_network("/nonexistent", &network, &e), ERR_VANISHED);
}

static void test_within(void **state)
{
    (void)state;
    assert_true(fsutil_path_within("/a/b", "/a/b"));
    assert_true(fsutil_path_within("/a/b/c", "/a/b"));
    assert_false(fsutil_path_within("/a/bc", "/a/b"));
    assert_false(fsutil_path_within("/a", "/a/b"));
    assert_true(fsutil_path_within("/a", "/"));
    assert_true(fsutil_path_within("/", "/"));
    assert_false(fsutil_path_within("/", "/a"));
}

static void test_normalise(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"/", "/"},
        {"//", "/"},
        {"/.", "/"},
        {"/..", "/"},
        {"/a", "/a"},
        {"/a/", "/a"},
        {"//a//b//", "/a/b"},
        {"/a/./b/.", "/a/b"},
        {"/a/../b", "/b"},
        {"/a/b/../../..", "/"},
        {"/a/b/../../../c", "/c"},
        {"/...", "/..."},
        {"/a/.b", "/a/.b"},
        {"/a/..b/c", "/a/..b/c"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *out = fsutil_normalise(cases[i][0]);
        assert_string_equal(out, cases[i][1]);
        free(out);
    }
    assert_int_equal(chdir(top), 0);
    static const char *const relative[][2] = {
        {"", ""}, {".", ""}, {"x", "/x"}, {"./x/../y/", "/y"}};
    for (size_t i = 0; i < 4; i++) {
        char want[100];
        snprintf(want, sizeof(want), "%s%s", top, relative[i][1]);
        char *out = fsutil_normalise(relative[i][0]);
        assert_string_equal(out, want);
        free(out);
    }
    assert_int_equal(chdir("/"), 0);
    char *out = fsutil_normalise("../x");
    assert_string_equal(out, "/x");
    free(out);
}

static void test_lock(void **state)
{
    (void)state;
    struct err e;
    int fd, ready[2];
    assert_int_equal(fsutil_lock(to, &fd, &e), 0);
    int again;
    assert_int_equal(fsutil_lock(to, &again, &e), ERR_LOCKED);
    char pid[32];
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_non_null(strstr(e.text, pid));
    close(fd);
    assert_int_equal(fsutil_lock(to, &fd, &e), 0);
    close(fd);

    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (fsutil_lock(to, &fd, &e) != 0 || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(fsutil_lock(to, &fd, &e), ERR_LOCKED);
    snprintf(pid, sizeof(pid), "process %ld", (long)child);
    assert_non_null(strstr(e.text, pid));
    kill(child, SIGKILL); /* its lock goes with it */
    waitpid(child, NULL, 0);
    assert_int_equal(fsutil_lock(to, &fd, &e), 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(fd);
    close(ready[0]);
    close(ready[1]);

    unlink(to); /* one whose pid is not readable */
    put(to, "garbage");
    assert_int_equal(fsutil_lock(to, &again, &e), 0);
    assert_int_equal(ftruncate(again, 0), 0);
    assert_int_equal(fsutil_lock(to, &fd, &e), ERR_LOCKED);
    assert_string_equal(e.text, "in use by another process");
    close(again);
    snprintf(from, sizeof(from), "%s/missing/lock", top);
    assert_int_equal(fsutil_lock(from, &fd, &e), ERR_VANISHED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_write_file, setup),
        cmocka_unit_test_setup(test_read_file, setup),
        cmocka_unit_test_setup(test_rename_new, setup),
        cmocka_unit_test_setup(test_rename_replace, setup),
        cmocka_unit_test_setup(test_lesser_file_systems, setup),
        cmocka_unit_test_setup(test_across_file_systems, setup),
        cmocka_unit_test_setup(test_across_with_failures, setup),
        cmocka_unit_test_setup(test_across_after_crash, setup),
        cmocka_unit_test_setup(test_move, setup),
        cmocka_unit_test_setup(test_vanishing_folders, setup),
        cmocka_unit_test_setup(test_unlink, setup),
        cmocka_unit_test_setup(test_network, setup),
        cmocka_unit_test_setup(test_within, setup),
        cmocka_unit_test_setup(test_normalise, setup),
        cmocka_unit_test_setup(test_lock, setup),
    };
    struct stat a, b;
    strcpy(top, "/tmp/fsutil-test-XXXXXX");
    strcpy(far, "/dev/shm/fsutil-test-XXXXXX");
    if (!mkdtemp(top))
        return 1;
    if (!mkdtemp(far)) {
        strcpy(far, "/tmp/fsutil-test-XXXXXX");
        if (!mkdtemp(far))
            return 1;
    }
    two_file_systems = stat(top, &a) == 0 && stat(far, &b) == 0 && a.st_dev != b.st_dev;
    umask(022);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    nftw(far, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return r;
}
