/* Breaker and rate limit: pure. */
#include "dest/dest_breaker.h"
#include "dest/dest_bucket.h"
#include "dest/dest_refusals.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct dest_breaker breaker(void)
{
    return (struct dest_breaker){.threshold = 3, .min_ms = 100, .max_ms = 1000, .auth_min_ms = 500};
}

static void test_opens(void **state)
{
    struct dest_breaker b = breaker();
    (void)state;
    assert_true(dest_breaker_allows(&b, 0));
    assert_false(dest_breaker_failure(&b, false, 0, 0, 0));
    assert_false(dest_breaker_failure(&b, false, 0, 0, 0));
    dest_breaker_success(&b); /* in a row, not in all */
    assert_false(dest_breaker_failure(&b, false, 0, 0, 0));
    assert_false(dest_breaker_failure(&b, false, 0, 0, 0));
    assert_true(dest_breaker_allows(&b, 0));
    assert_true(dest_breaker_failure(&b, false, 0, 10, 0));
    assert_false(dest_breaker_allows(&b, 10));
    assert_int_equal(dest_breaker_wait(&b, 10), 100);
    assert_false(dest_breaker_allows(&b, 109));
    assert_true(dest_breaker_allows(&b, 110));
    /* Echoes of the same failure change nothing. */
    assert_false(dest_breaker_failure(&b, false, 0, 20, 0));
    assert_int_equal(dest_breaker_wait(&b, 20), 90);
}

static void test_one_probe(void **state)
{
    struct dest_breaker b = breaker();
    (void)state;
    for (int i = 0; i < 3; i++)
        dest_breaker_failure(&b, false, 0, 0, 0);
    dest_breaker_begin(&b);
    assert_false(dest_breaker_allows(&b, 100000));
    assert_int_equal(dest_breaker_wait(&b, 0), 0);
    dest_breaker_unprobed(&b);
    assert_true(dest_breaker_allows(&b, 100000));
    dest_breaker_begin(&b);
    assert_true(dest_breaker_success(&b));
    assert_true(dest_breaker_allows(&b, 0));
    assert_false(dest_breaker_success(&b));
}

/* Longer and longer, never beyond the cap, spread by chance. */
static void test_delays(void **state)
{
    static const uint64_t most[] = {100, 200, 400, 800, 1000, 1000, 1000};
    (void)state;
    for (unsigned chance = 0; chance < 50; chance++) {
        struct dest_breaker b = breaker();
        uint64_t now = 0;
        for (int i = 0; i < 2; i++)
            dest_breaker_failure(&b, false, 0, now, 0);
        for (size_t i = 0; i < sizeof(most) / sizeof(most[0]); i++) {
            dest_breaker_failure(&b, false, 0, now, (uint64_t)rand() * 7919);
            uint64_t wait = dest_breaker_wait(&b, now);
            assert_in_range(wait, 100, most[i]);
            now += wait;
            assert_true(dest_breaker_allows(&b, now));
            dest_breaker_begin(&b);
        }
    }
    struct dest_breaker b = breaker();
    for (int i = 0; i < 3; i++)
        dest_breaker_failure(&b, false, 0, 0, UINT64_MAX);
    dest_breaker_begin(&b);
    dest_breaker_failure(&b, false, 0, 0, 100); /* the longest of the second */
    assert_int_equal(dest_breaker_wait(&b, 0), 200);
}

static void test_auth_and_retry_after(void **state)
{
    struct dest_breaker b = breaker();
    (void)state;
    assert_true(dest_breaker_failure(&b, true, 0, 0, 0));
    assert_true(b.auth);
    assert_int_equal(dest_breaker_wait(&b, 0), 500);
    dest_breaker_poke(&b, 7);
    assert_true(dest_breaker_allows(&b, 7));
    b = breaker();
    assert_true(dest_breaker_failure(&b, false, 70000, 0, 0));
    assert_int_equal(dest_breaker_wait(&b, 0), 70000);
    /* A destination that answers again is asked for nothing. */
    dest_breaker_success(&b);
    dest_breaker_poke(&b, 5);
    assert_true(dest_breaker_allows(&b, 5));
}

static void test_bucket(void **state)
{
    struct dest_bucket b;
    uint64_t now = 1000, taken = 0;
    (void)state;
    dest_bucket_init(&b, 0, now);
    assert_int_equal(dest_bucket_take(&b, UINT64_MAX, now), 0);

    static const uint64_t rates[] = {1, 1000, 1000000, 20000000, UINT64_MAX};
    static const uint64_t parts[] = {1, 700, 524288};
    for (size_t r = 0; r < 5; r++) {
        for (size_t p = 0; p < 3; p++) {
            now = 5000;
            taken = 0;
            dest_bucket_init(&b, rates[r], now);
            for (int i = 0; i < 200; i++) {
                uint64_t wait = dest_bucket_take(&b, parts[p], now);
                if (wait > 0) {
                    now += wait;
                    assert_int_equal(dest_bucket_take(&b, parts[p], now), 0);
                }
                taken += parts[p];
            }
            /* All but the last part and a short burst had to be paid for. */
            double allowed =
                (double)rates[r] * (double)(now - 5000 + 250) / 1000 + (double)parts[p] + 1;
            assert_true((double)taken <= allowed);
            /* And it is not slower than that. */
            if (now > 5000)
                assert_true((double)taken * 1.02 + (double)rates[r] / 100 + (double)parts[p] >=
                            (double)rates[r] * (double)(now - 5000) / 1000);
        }
    }
}

/* A pause earns a short burst, no more. */
static void test_bucket_burst(void **state)
{
    struct dest_bucket b;
    uint64_t n = 0;
    (void)state;
    dest_bucket_init(&b, 1000000, 0);
    while (dest_bucket_take(&b, 1000, 3600000) == 0)
        n++;
    assert_in_range(n, 240, 260);
}

/* Given up only when it was refused often, for long, and others were taken meanwhile. */
static void test_refusals(void **state)
{
    struct dest_refusals r = {.least = 3, .least_ms = 100, .most_ms = 1000};
    (void)state;
    dest_refusals_accepted(&r, 0);
    for (uint64_t now = 10; now < 1000; now += 10) /* nothing else is taken */
        assert_false(dest_refusals_add(&r, 7, now));
    assert_false(dest_refusals_add(&r, 8, 1000));
    assert_true(dest_refusals_add(&r, 7, 1010)); /* a day */
    dest_refusals_forget(&r, 7);
    assert_false(dest_refusals_has(&r, 7));
    assert_false(dest_refusals_add(&r, 7, 1020)); /* from the start again */
    dest_refusals_accepted(&r, 1020);
    assert_false(dest_refusals_add(&r, 7, 1030));
    assert_false(dest_refusals_add(&r, 7, 1119)); /* three times, but not long enough */
    assert_true(dest_refusals_add(&r, 7, 1120));
    /* Long enough, but not three times. */
    assert_false(dest_refusals_add(&r, 9, 2000));
    dest_refusals_accepted(&r, 2050);
    assert_false(dest_refusals_add(&r, 9, 2500));
    assert_true(dest_refusals_add(&r, 9, 2501));
    dest_refusals_clear(&r);
}

static void test_refusals_all(void **state)
{
    struct dest_refusals r = {.least = 3, .least_ms = 100, .most_ms = 1000};
    (void)state;
    for (uint64_t i = 0; i < 3; i++)
        dest_refusals_add(&r, i, i);
    assert_false(dest_refusals_all(&r));
    dest_refusals_add(&r, 3, 3);
    assert_true(dest_refusals_all(&r));
    dest_refusals_accepted(&r, 4);
    assert_false(dest_refusals_all(&r));
    /* Bounded: what came first is counted to its end, then there is room for others. */
    for (uint64_t i = 10; i < 20000; i++)
        assert_false(dest_refusals_add(&r, i, 10));
    assert_true(dest_refusals_has(&r, 10));
    assert_false(dest_refusals_has(&r, 19999));
    dest_refusals_forget(&r, 10);
    assert_false(dest_refusals_add(&r, 19999, 11));
    assert_true(dest_refusals_has(&r, 19999));
    assert_false(dest_refusals_add(&r, 30000, 2000)); /* one that was not tried for so long goes */
    assert_true(dest_refusals_has(&r, 30000));
    dest_refusals_clear(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens),    cmocka_unit_test(test_one_probe),
        cmocka_unit_test(test_delays),   cmocka_unit_test(test_auth_and_retry_after),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_refusals_all),
        cmocka_unit_test(test_bucket),   cmocka_unit_test(test_bucket_burst),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
