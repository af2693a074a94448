#include "pipeline/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void grows_and_is_capped(void **state)
{
    (void)state;
    assert_int_equal(retry_delay_ms(0, 1000, 600000, 0, UINT32_MAX), 1000);
    assert_int_equal(retry_delay_ms(1, 1000, 600000, 0, UINT32_MAX), 2000);
    assert_int_equal(retry_delay_ms(5, 1000, 600000, 0, UINT32_MAX), 32000);
    assert_int_equal(retry_delay_ms(10, 1000, 600000, 0, UINT32_MAX), 600000);
    assert_int_equal(retry_delay_ms(UINT32_MAX, 1000, 600000, 0, UINT32_MAX), 600000);
    assert_int_equal(retry_delay_ms(64, 1, UINT64_MAX / 2, 0, 0), 0);
}

static void jitter_is_full_above_half_the_minimum(void **state)
{
    (void)state;
    assert_int_equal(retry_delay_ms(5, 1000, 600000, 0, 0), 500);
    for (uint32_t r = 0; r < UINT32_MAX - 100000; r += 99991 * 100) {
        uint64_t d = retry_delay_ms(4, 1000, 600000, 0, r);
        assert_in_range(d, 500, 16000);
    }
}

static void the_server_may_ask_for_more_but_not_for_ever(void **state)
{
    (void)state;
    assert_int_equal(retry_delay_ms(1, 1000, 600000, 90000, 0), 90000);
    assert_int_equal(retry_delay_ms(1, 1000, 600000, UINT64_MAX, 0), 3600000);
    assert_int_equal(retry_delay_ms(9, 1000, 600000, 10, UINT32_MAX), 512000);
}

static void a_maximum_below_the_minimum_is_the_minimum(void **state)
{
    (void)state;
    assert_int_equal(retry_delay_ms(3, 5000, 1000, 0, UINT32_MAX), 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_is_capped),
        cmocka_unit_test(jitter_is_full_above_half_the_minimum),
        cmocka_unit_test(the_server_may_ask_for_more_but_not_for_ever),
        cmocka_unit_test(a_maximum_below_the_minimum_is_the_minimum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
