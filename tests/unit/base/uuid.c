#include "base/uuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_generate(void **state)
{
    (void)state;
    static char all[200][UUID_TEXT_SIZE];
    unsigned char seen_or[36] = {0};
    for (int i = 0; i < 200; i++) {
        uuid_generate(all[i]);
        assert_true(uuid_valid(all[i]));
        assert_int_equal(all[i][14], '4');
        assert_non_null(strchr("89ab", all[i][19]));
        for (int j = 0; j < 36; j++) {
            assert_true(all[i][j] < 'A' || all[i][j] > 'F'); /* lower case */
            seen_or[j] |= (unsigned char)(all[i][j] ^ all[0][j]);
        }
        for (int j = 0; j < i; j++)
            assert_string_not_equal(all[i], all[j]);
    }
    /* All digits but dashes and the version vary. */
    for (int j = 0; j < 36; j++)
        assert_int_equal(seen_or[j] != 0, j != 8 && j != 13 && j != 14 && j != 18 && j != 23);
}

static void test_valid(void **state)
{
    (void)state;
    static const char good[] = "01234567-89ab-4def-8123-456789abcDEF";
    assert_true(uuid_valid(good));
    assert_true(uuid_valid(UUID_NIL));
    assert_false(uuid_valid(""));
    assert_false(uuid_valid("01234567-89ab-4def-8123-456789abcDEF0"));
    char text[UUID_TEXT_SIZE];
    /* Every character at every place. */
    for (size_t i = 0; i < 36; i++)
        for (int c = 0; c < 256; c++) {
            memcpy(text, good, sizeof(text));
            text[i] = (char)c;
            bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
            bool want = i == 8 || i == 13 || i == 18 || i == 23 ? c == '-'
                        : i == 14                               ? c >= '1' && c <= '5'
                        : i == 19 ? c != 0 && strchr("89abAB", c) != NULL
                                  : hex;
            assert_int_equal(uuid_valid(text), want);
        }
    memcpy(text, UUID_NIL, sizeof(text));
    text[0] = '1';
    assert_false(uuid_valid(text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
