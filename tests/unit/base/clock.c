#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <time.h>

static void expect(int64_t ms, const char *text)
{
    char out[25];
    clock_format(ms, out);
    assert_string_equal(out, text);
}

static void test_format(void **state)
{
    (void)state;
    expect(0, "1970-01-01T00:00:00.000Z");
    expect(1, "1970-01-01T00:00:00.001Z");
    expect(-1, "1969-12-31T23:59:59.999Z");
    expect(-1000, "1969-12-31T23:59:59.000Z");
    expect(951782400000, "2000-02-29T00:00:00.000Z");
    expect(1795471020000, "2026-11-23T21:57:00.000Z");
    expect(253402300799999, "9999-12-31T23:59:59.999Z");
    expect(INT64_MAX, "9999-12-31T23:59:59.999Z");
    expect(-62167219200000, "0000-01-01T00:00:00.000Z");
    expect(INT64_MIN, "0000-01-01T00:00:00.000Z");
}

/* In the operator's time zone too it is UTC. */
static void test_zone(void **state)
{
    (void)state;
    setenv("TZ", "Asia/Tokyo", 1);
    tzset();
    expect(0, "1970-01-01T00:00:00.000Z");
    unsetenv("TZ");
    tzset();
}

static void test_advances(void **state)
{
    (void)state;
    uint64_t us = clock_monotonic_us(), ms = clock_monotonic_ms();
    int64_t real = clock_realtime_ms();
    assert_true(ms >= us / 1000);
    struct timespec t = {0, 5000000};
    nanosleep(&t, NULL);
    assert_true(clock_monotonic_us() >= us + 5000);
    assert_true(clock_monotonic_ms() >= ms + 4);
    assert_true(real / 1000 - time(NULL) <= 1 && time(NULL) - real / 1000 <= 1);
}

static uint64_t fake_us(void)
{
    return 123456789;
}

static int64_t fake_ms(void)
{
    return -5;
}

static void test_source(void **state)
{
    (void)state;
    clock_set_source(fake_us, fake_ms);
    assert_int_equal(clock_monotonic_us(), 123456789);
    assert_int_equal(clock_monotonic_ms(), 123456);
    assert_int_equal(clock_realtime_ms(), -5);
    clock_set_source(NULL, NULL);
    assert_true(clock_realtime_ms() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_zone),
        cmocka_unit_test(test_advances),
        cmocka_unit_test(test_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
