#include "base/err.h"

#include "base/text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int codes[] = {
#define X(name, code, class, text) name,
    ERR_MAP(X)
#undef X
};
#define N_CODES (sizeof(codes) / sizeof(codes[0]))

static void test_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        assert_true(codes[i] < 0);
        assert_true(strlen(err_text(codes[i])) > 3);
        assert_int_not_equal(err_class(codes[i]), ERR_CLASS_NONE);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(codes[i], codes[j]);
            assert_string_not_equal(err_text(codes[i]), err_text(codes[j]));
        }
    }
    assert_int_equal(err_class(0), ERR_CLASS_NONE);
    assert_int_equal(err_class(-5), ERR_CLASS_PERMANENT);
    assert_int_equal(err_class(1), ERR_CLASS_PERMANENT);
    assert_string_equal(err_text(-5), "unknown error");
    assert_string_equal(err_text(0), "no error");
    assert_int_equal(err_class(ERR_NOSPACE), ERR_CLASS_LOCAL);
    assert_int_equal(err_class(ERR_TIMEOUT), ERR_CLASS_TRANSIENT);
    assert_int_equal(err_class(ERR_AUTH), ERR_CLASS_AUTH);
    assert_int_equal(err_class(ERR_HOSTILE), ERR_CLASS_PERMANENT);
}

static void test_errno(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        int want = i == ENOSPC || i == EDQUOT                ? ERR_NOSPACE
                   : i == ENOENT                             ? ERR_VANISHED
                   : i == EACCES || i == EPERM || i == EROFS ? ERR_ACCESS
                   : i == ENOMEM                             ? ERR_NOMEM
                   : i == EEXIST                             ? ERR_EXISTS
                                                             : ERR_IO;
        assert_int_equal(err_from_errno(i), want);
    }
}

static void test_set(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(err_set(&e, ERR_BUSY, "a %d %s", 7, "b"), ERR_BUSY);
    assert_int_equal(e.code, ERR_BUSY);
    assert_string_equal(e.text, "a 7 b");
    assert_int_equal(err_set_errno(&e, ENOSPC, "cannot write %s", "it"), ERR_NOSPACE);
    assert_int_equal(e.code, ERR_NOSPACE);
    assert_string_equal(e.text, "cannot write it: No space left on device");
    assert_int_equal(err_wrap(&e, "journal"), ERR_NOSPACE);
    assert_string_equal(e.text, "journal: cannot write it: No space left on device");
    /* An argument may be the old text. */
    assert_int_equal(err_set(&e, ERR_IO, "[%s]", e.text), ERR_IO);
    assert_string_equal(e.text, "[journal: cannot write it: No space left on device]");
    assert_int_equal(err_wrap(&e, "<%s>", e.text), ERR_IO);
    assert_int_equal(err_set(NULL, ERR_BUSY, "x"), ERR_BUSY);
    assert_int_equal(err_set_errno(NULL, ENOENT, "x"), ERR_VANISHED);
    err_wrap(NULL, "x");
}

/* Cut at each place it stays UTF-8: it goes into JSON. */
static void test_cut(void **state)
{
    (void)state;
    static const char *const units[] = {"a", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (size_t u = 0; u < 4; u++)
        for (int shift = 0; shift < 4; shift++) {
            struct err e, tail;
            char text[1200] = "";
            memset(text, 'x', (size_t)shift);
            for (size_t n = (size_t)shift; n + 4 < 1100; n += strlen(units[u]))
                memcpy(text + n, units[u], strlen(units[u]) + 1);
            err_set(&e, ERR_IO, "%s", text);
            size_t n = strlen(e.text);
            assert_true(n >= sizeof(e.text) - 4 && n < sizeof(e.text));
            assert_true(text_utf8_valid(e.text, n));
            assert_memory_equal(e.text, text, n);
            err_set(&tail, ERR_IO, "%.300s", "tail");
            memcpy(tail.text, e.text, n + 1);
            err_wrap(&tail, "head");
            assert_true(text_utf8_valid(tail.text, strlen(tail.text)));
            err_set_errno(&tail, EIO, "%s", text);
            assert_true(text_utf8_valid(tail.text, strlen(tail.text)));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
