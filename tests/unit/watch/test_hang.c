/* A mount that hangs: readdir(3) and stat(2), wrapped by the linker, do not come back until they
 * are told to. */
#include "harness.h"

#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool hangs;      /* readdir */
static bool stat_hangs; /* of the drop folder's own path */
static const char *root;
static unsigned hanging;

struct dirent64 *__real_readdir64(DIR *dir);
struct dirent64 *__wrap_readdir64(DIR *dir);

struct dirent64 *__wrap_readdir64(DIR *dir)
{
    pthread_mutex_lock(&lock);
    hanging++;
    while (hangs)
        pthread_cond_wait(&wake, &lock);
    hanging--;
    pthread_mutex_unlock(&lock);
    return __real_readdir64(dir);
}

int __real_stat64(const char *path, struct stat *st);
int __wrap_stat64(const char *path, struct stat *st);

int __wrap_stat64(const char *path, struct stat *st)
{
    pthread_mutex_lock(&lock);
    while (stat_hangs && strcmp(path, root) == 0)
        pthread_cond_wait(&wake, &lock);
    pthread_mutex_unlock(&lock);
    return __real_stat64(path, st);
}

static void set_stat_hang(bool on)
{
    pthread_mutex_lock(&lock);
    stat_hangs = on;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
}

static void set_hang(bool on)
{
    pthread_mutex_lock(&lock);
    hangs = on;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
}

static unsigned count_hanging(void)
{
    pthread_mutex_lock(&lock);
    unsigned n = hanging;
    pthread_mutex_unlock(&lock);
    return n;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -1;
    rig_init(r);
    r->o.settle_ms = 0;
    root = r->root;
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

static void hang_is_told_and_its_end(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    set_hang(true);
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    assert_int_equal(r->n, 0);
    assert_false(watch_idle(r->w));
    set_hang(false);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_BACK] == 1 && r->n == 1);
    assert_int_equal(r->notices[WATCH_NOTICE_GONE], 1);
}

/* It hangs before anything is known of it. */
static void a_folder_that_is_silent_at_the_start(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    r->o.mode = WATCH_MODE_AUTO;
    r->o.poll_ms = 1000000;
    r->o.silent = true;
    set_stat_hang(true);
    uint64_t start = uv_hrtime();
    rig_open(r);
    assert_true(uv_hrtime() - start < 1500000000); /* not waited for */
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    rig_run_ms(r, 4500); /* over two looks of the watchdog */
    assert_int_equal(r->notices[WATCH_NOTICE_GONE], 1);
    assert_int_equal(r->notices[WATCH_NOTICE_BACK], 0);
    assert_false(watch_idle(r->w));
    set_stat_hang(false);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_BACK] == 1 && r->n == 1 && watch_idle(r->w));
    put(r, "y", "y"); /* polled, that would take a while */
    RUN_UNTIL(r, r->n >= 2);
}

static void one_that_is_not_there_once_it_answers(void **state)
{
    struct rig *r = *state;
    set_stat_hang(true);
    r->o.silent = true;
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    assert_int_equal(rmdir(r->root), 0);
    set_stat_hang(false);
    rig_run_ms(r, 500);
    assert_int_equal(r->notices[WATCH_NOTICE_BACK], 0);
    assert_int_equal(mkdir(r->root, 0700), 0);
    put(r, "x", "x");
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_BACK] == 1 && r->n >= 1);
    assert_int_equal(r->notices[WATCH_NOTICE_GONE], 1);
}

static void one_that_hangs_only_now_is_waited_for(void **state)
{
    struct rig *r = *state;
    set_stat_hang(true);
    rig_open(r); /* a little */
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    rig_close_within(r, 200);
    RUN_UNTIL(r, r->closed);
    set_stat_hang(false);
    rig_run_ms(r, 200);
}

static void the_folder_is_made_but_not_what_it_lies_in(void **state)
{
    struct rig *r = *state;
    char below[PATH_MAX];
    struct watch *w;
    struct err e;
    struct stat st;
    const struct watch_handler none = {0};
    snprintf(below, sizeof below, "%s/a/b", r->root);
    r->o.make = true;
    r->o.path = below;
    assert_int_equal(watch_open(&w, &r->loop, &r->o, &none, &e), ERR_VANISHED);
    snprintf(below, sizeof below, "%s/a", r->root);
    assert_int_not_equal(stat(below, &st), 0);
    rig_open(r);
    assert_int_equal(stat(below, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void close_does_not_wait_for_a_hung_mount(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    set_hang(true);
    rig_open(r);
    RUN_UNTIL(r, count_hanging() == 1);
    uint64_t start = uv_hrtime();
    rig_close_within(r, 200);
    RUN_UNTIL(r, r->closed);
    assert_true(uv_hrtime() - start >= 190000000);
    assert_int_equal(count_hanging(), 1); /* it is still there */
    set_hang(false);
    RUN_UNTIL(r, count_hanging() == 0);
    rig_run_ms(r, 200); /* and cleans up after itself: the leak checker would tell */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(hang_is_told_and_its_end),
        T(a_folder_that_is_silent_at_the_start),
        T(one_that_is_not_there_once_it_answers),
        T(one_that_hangs_only_now_is_waited_for),
        T(the_folder_is_made_but_not_what_it_lies_in),
        T(close_does_not_wait_for_a_hung_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
