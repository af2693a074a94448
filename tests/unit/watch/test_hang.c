/* A mount that hangs: readdir(3), wrapped by the linker, does not come back until it is told to. */
#include "harness.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool hangs;
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
        T(close_does_not_wait_for_a_hung_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
