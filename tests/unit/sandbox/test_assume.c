#include "sandbox/assume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void defaults(void **state)
{
    struct assume a;

    (void)state;
    memset(&a, 0xff, sizeof a);
    assume_init(&a);
    assert_int_equal(a.parts_in_flight, 0);
    assert_int_equal(a.same_instance, 0);
    assert_int_equal(a.exists_delay, 0);
    assert_int_equal(a.answer_type, 24);
}

/* Every word of every row gives its index; nothing else changes. */
static void words(void **state)
{
    static const struct {
        const char *name, *words;
        size_t offset;
    } rows[] = {
#define X(field, name, words) {name, words, offsetof(struct assume, field)},
        ASSUME_WORDS(X)
#undef X
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char list[64], text[96];
        char *rest = NULL;
        uint32_t index = 0;

        strcpy(list, rows[i].words);
        for (char *w = strtok_r(list, " ", &rest); w; w = strtok_r(NULL, " ", &rest), index++) {
            struct assume a, expected;
            struct err e;

            assume_init(&a);
            assume_init(&expected);
            memcpy((char *)&expected + rows[i].offset, &index, sizeof index);
            snprintf(text, sizeof text, "%s=%s", rows[i].name, w);
            assert_int_equal(assume_set(&a, text, &e), 0);
            assert_memory_equal(&a, &expected, sizeof a);
        }
        assert_true(index >= 2);
    }
}

static void numbers(void **state)
{
    struct assume a;
    struct err e;

    (void)state;
    assume_init(&a);
    assert_int_equal(assume_set(&a, "exists-delay=4294967295", &e), 0);
    assert_int_equal(a.exists_delay, UINT32_MAX);
    assert_int_equal(assume_set(&a, "answer-type=6", &e), 0);
    assert_int_equal(a.answer_type, 6);
}

static void wrong(void **state)
{
    static const char *const texts[] = {"",
                                        "=",
                                        "pong",
                                        "pong=",
                                        "pong=ye",
                                        "pong=yes no",
                                        "pongs=yes",
                                        "exists-delay=",
                                        "exists-delay=-1",
                                        "exists-delay=1s",
                                        "exists-delay=4294967296",
                                        "exists_delay=1"};
    struct assume a, before;
    struct err e;

    (void)state;
    assume_init(&a);
    before = a;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(assume_set(&a, texts[i], &e), ERR_INVALID);
        assert_true(e.text[0] != '\0');
        assert_memory_equal(&a, &before, sizeof a);
    }
    assume_set(&a, "pongs=no", &e);
    assert_non_null(strstr(e.text, "did you mean 'pong'"));
    assume_set(&a, "displace=never", &e);
    assert_non_null(strstr(e.text, "none close forget"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(defaults), cmocka_unit_test(words),
                                       cmocka_unit_test(numbers), cmocka_unit_test(wrong)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
