#include "sandbox/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void off(void **state)
{
    struct faults f;

    (void)state;
    faults_init(&f);
    for (unsigned i = 0; i < FAULTS_N; i++) {
        assert_false(faults_strike(&f, (enum fault)i, FAULT_ON_ANY, NULL));
        assert_false(faults_strike_at(&f, (enum fault)i, FAULT_ON_ANY, 0));
        assert_int_equal(faults_value(&f, (enum fault)i), 0);
    }
}

static void every(void **state)
{
    struct faults f;
    struct err e;
    uint32_t value = 0;

    (void)state;
    faults_init(&f);
    assert_int_equal(faults_set(&f, "answer-error=3", &e), 0);
    for (unsigned i = 1; i <= 30; i++)
        assert_int_equal(faults_strike(&f, FAULT_ANSWER_ERROR, FAULT_ON_GENERAL, NULL), i % 3 == 0);
    assert_int_equal(faults_set(&f, "answer-late=250:every=2:times=2", &e), 0);
    for (unsigned i = 1; i <= 10; i++)
        assert_int_equal(faults_strike(&f, FAULT_ANSWER_LATE, FAULT_ON_PART, &value),
                         i == 2 || i == 4);
    assert_int_equal(value, 250);
}

static void kinds(void **state)
{
    struct faults f;
    struct err e;

    (void)state;
    faults_init(&f);
    assert_int_equal(faults_set(&f, "never-answer=1:on=part", &e), 0);
    assert_false(faults_strike(&f, FAULT_NEVER_ANSWER, FAULT_ON_UPLOAD, NULL));
    assert_false(faults_strike(&f, FAULT_NEVER_ANSWER, FAULT_ON_SESSION, NULL));
    assert_true(faults_strike(&f, FAULT_NEVER_ANSWER, FAULT_ON_UPLOAD | FAULT_ON_PART, NULL));
}

static void at(void **state)
{
    struct faults f;
    struct err e;

    (void)state;
    faults_init(&f);
    assert_int_equal(faults_set(&f, "drop-after=3", &e), 0);
    for (unsigned i = 1; i <= 6; i++)
        assert_int_equal(faults_strike_at(&f, FAULT_DROP_AFTER, FAULT_ON_GENERAL, i), i == 3);
    assert_true(
        faults_strike_at(&f, FAULT_DROP_AFTER, FAULT_ON_GENERAL, 3)); /* the next connection */
}

static void probability(void **state)
{
    struct faults f;
    struct err e;
    unsigned hits = 0;

    (void)state;
    faults_init(&f);
    assert_int_equal(faults_set(&f, "refuse-auth:p=0.25", &e), 0);
    for (unsigned i = 0; i < 4000; i++)
        hits += faults_strike(&f, FAULT_REFUSE_AUTH, FAULT_ON_ANY, NULL);
    assert_in_range(hits, 850, 1150);
}

static void replace(void **state)
{
    struct faults f;
    struct err e;
    cJSON *good = cJSON_Parse("[\"slow=10\", \"disk-full\"]");
    cJSON *bad = cJSON_Parse("[\"http-status=503\", \"nonsense\"]");
    cJSON *none = cJSON_Parse("[]");
    cJSON *odd = cJSON_Parse("[1]");

    (void)state;
    faults_init(&f);
    assert_int_equal(faults_set(&f, "drop-after=3", &e), 0);
    assert_int_equal(faults_replace(&f, good, &e), 0);
    assert_int_equal(faults_value(&f, FAULT_DROP_AFTER), 0);
    assert_int_equal(faults_value(&f, FAULT_SLOW), 10);
    assert_int_equal(faults_replace(&f, bad, &e), ERR_INVALID);
    assert_int_equal(faults_replace(&f, odd, &e), ERR_INVALID);
    assert_int_equal(faults_replace(&f, NULL, &e), ERR_INVALID);
    assert_int_equal(faults_value(&f, FAULT_SLOW), 10);
    assert_int_equal(faults_replace(&f, none, &e), 0);
    assert_int_equal(faults_value(&f, FAULT_SLOW), 0);
    cJSON_Delete(good);
    cJSON_Delete(bad);
    cJSON_Delete(none);
    cJSON_Delete(odd);
}

static void wrong(void **state)
{
    static const char *const texts[] = {"",
                                        ":",
                                        "=",
                                        "drop-after",
                                        "drop-after=",
                                        "drop-after=0",
                                        "drop-after=x",
                                        "disk-full=1",
                                        "slow=1:every",
                                        "slow=1:every=x",
                                        "slow=1:p=1.5",
                                        "slow=1:p=",
                                        "slow=1:on=",
                                        "slow=4294967296"};
    struct faults f;
    struct err e;

    (void)state;
    faults_init(&f);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(faults_set(&f, texts[i], &e), ERR_INVALID);
    assert_int_equal(faults_set(&f, "drop-aftr=1", &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "drop-after"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(off),         cmocka_unit_test(every),
                                       cmocka_unit_test(kinds),       cmocka_unit_test(at),
                                       cmocka_unit_test(probability), cmocka_unit_test(replace),
                                       cmocka_unit_test(wrong)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
