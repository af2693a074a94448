#include "base/probe.h"
#include "base/clock.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (200 * 1024) /* more than a pipe takes at once */

static int hung_ms = 5000; /* not for ever: nobody ends it */

static void fill(const void *in, void *out)
{
    memset(out, *(const char *)in, SIZE);
}

static void hang(const void *in, void *out)
{
    (void)in;
    (void)out;
    usleep((useconds_t)hung_ms * 1000);
}

static void die(const void *in, void *out)
{
    (void)in;
    (void)out;
    abort();
}

static void answers(void **state)
{
    struct probe p;
    char *out = calloc(1, SIZE);
    enum probe_where where = *(enum probe_where *)*state;
    assert_non_null(out);
    assert_true(probe_start(&p, where, fill, "x", 1, out, SIZE));
    assert_int_equal(out[0], 0); /* not here */
    assert_true(probe_wait(&p, out, SIZE, clock_monotonic_ms() + 60000));
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(out[i], 'x');
    free(out);
}

static void a_deadline_holds(void **state)
{
    struct probe p[3];
    int out = 0;
    enum probe_where where = *(enum probe_where *)*state;
    uint64_t start = clock_monotonic_ms();
    for (size_t i = 0; i < 3; i++)
        assert_true(probe_start(&p[i], where, hang, "", 1, &out, sizeof(out)));
    for (size_t i = 0; i < 3; i++)
        assert_false(probe_wait(&p[i], &out, sizeof(out), start + 300));
    assert_in_range(clock_monotonic_ms() - start, 300, (uint64_t)hung_ms / 2);
    assert_true(probe_start(&p[0], PROBE_PROCESS, die, "", 1, &out, sizeof(out)));
    assert_false(probe_wait(&p[0], &out, sizeof(out), clock_monotonic_ms() + 60000));
}

/* Nor does what hangs keep anything of ours. */
static void a_lock_is_not_held_on(void **state)
{
    char path[] = "/tmp/probe-test-XXXXXX";
    struct probe p;
    int out = 0, fd = mkostemp(path, O_CLOEXEC);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_true(probe_start(&p, PROBE_PROCESS, hang, "", 1, &out, sizeof(out)));
    assert_false(probe_wait(&p, &out, sizeof(out), clock_monotonic_ms() + 500));
    close(fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    close(fd);
    unlink(path);
}

int main(void)
{
    enum probe_where process = PROBE_PROCESS, thread = PROBE_THREAD;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(answers, &process),
        cmocka_unit_test_prestate(answers, &thread),
        cmocka_unit_test_prestate(a_deadline_holds, &process),
        cmocka_unit_test_prestate(a_deadline_holds, &thread),
        cmocka_unit_test(a_lock_is_not_held_on),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    usleep((useconds_t)hung_ms * 1100); /* threads that are left behind clean up */
    return r;
}
