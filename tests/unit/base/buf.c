#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_put_and_get(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_put_u8(&b, 0xAB);
    buf_put_u16le(&b, 0x1234);
    buf_put_u32le(&b, 0xDEADBEEF);
    buf_put_u64le(&b, UINT64_C(0x0123456789ABCDEF));
    buf_put_str(&b, "text");
    buf_put(&b, NULL, 0);
    static const uint8_t want[] = {0xAB, 0x34, 0x12, 0xEF, 0xBE, 0xAD, 0xDE, 0xEF, 0xCD, 0xAB,
                                   0x89, 0x67, 0x45, 0x23, 0x01, 't',  'e',  'x',  't'};
    assert_int_equal(b.size, sizeof(want));
    assert_memory_equal(b.data, want, sizeof(want));
    assert_false(buf_failed(&b));

    struct buf_reader r = buf_reader(b.data, b.size);
    assert_int_equal(buf_get_u8(&r), 0xAB);
    assert_int_equal(buf_get_u16le(&r), 0x1234);
    assert_int_equal(buf_get_u32le(&r), 0xDEADBEEF);
    assert_true(buf_get_u64le(&r) == UINT64_C(0x0123456789ABCDEF));
    assert_int_equal(buf_left(&r), 4);
    assert_ptr_equal(buf_get(&r, 4), b.data + 15);
    assert_int_equal(buf_left(&r), 0);
    assert_non_null(buf_get(&r, 0));
    assert_false(r.failed);
    buf_free(&b);
    assert_null(b.data);
    buf_free(&b);
    buf_free(NULL);
}

/* Each read at each distance from the end: never beyond it, and sticky from then on. */
static void test_read_past_end(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 9; size++) {
        uint8_t *data = malloc(size ? size : 1);
        assert_non_null(data);
        memset(data, 0xFF, size);
        for (size_t width = 1; width <= 9; width++) {
            struct buf_reader r = buf_reader(data, size);
            uint64_t v = 0;
            bool fits = width <= size;
            switch (width) {
            case 1:
                v = buf_get_u8(&r);
                break;
            case 2:
                v = buf_get_u16le(&r);
                break;
            case 4:
                v = buf_get_u32le(&r);
                break;
            case 8:
                v = buf_get_u64le(&r);
                break;
            default:
                v = buf_get(&r, width) ? 1 : 0;
                break;
            }
            assert_int_equal(v != 0, fits);
            assert_int_equal(r.failed, !fits);
            if (!fits) {
                assert_int_equal(buf_get_u8(&r), 0);
                assert_null(buf_get(&r, 0));
                assert_int_equal(buf_left(&r), 0);
            }
        }
        free(data);
    }
    struct buf_reader r = buf_reader(NULL, 0);
    assert_non_null(buf_get(&r, 0));
    assert_null(buf_get(&r, SIZE_MAX));
    r = buf_reader("abc", 3);
    buf_get_u8(&r);
    assert_null(buf_get(&r, SIZE_MAX));
    assert_null(buf_get(&r, SIZE_MAX - 1));
}

static void test_growth(void **state)
{
    (void)state;
    struct buf b = {0};
    for (unsigned i = 0; i < 100000; i++)
        buf_put_u8(&b, (uint8_t)(i * 7));
    assert_int_equal(b.size, 100000);
    for (unsigned i = 0; i < 100000; i++)
        assert_int_equal(b.data[i], (uint8_t)(i * 7));
    size_t capacity = b.capacity;
    buf_clear(&b);
    assert_int_equal(b.size, 0);
    assert_int_equal(b.capacity, capacity);
    buf_free(&b);
}

static void test_text(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_string_equal(buf_cstr(&b), "");
    assert_int_equal(b.size, 0);
    for (int n = 0; n < 300; n++) {
        buf_clear(&b);
        buf_printf(&b, "%0*d", n, 0);
        assert_int_equal(b.size, n ? n : 1);
        assert_int_equal(strlen(buf_cstr(&b)), b.size);
    }
    buf_clear(&b);
    buf_printf(&b, "%s", "");
    assert_int_equal(b.size, 0);
    buf_printf(&b, "%s-%u", "a", 5u);
    buf_put_str(&b, "!");
    assert_string_equal(buf_cstr(&b), "a-5!");
    assert_string_equal(buf_cstr(&b), "a-5!");
    assert_int_equal(b.size, 4);
    buf_free(&b);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_put_str(&b, "kept");
    assert_null(buf_extend(&b, SIZE_MAX));
    assert_null(buf_extend(&b, SIZE_MAX / 2));
    assert_true(buf_failed(&b));
    buf_put_u8(&b, 1); /* does nothing */
    buf_printf(&b, "x");
    assert_int_equal(b.size, 4);
    assert_string_equal(buf_cstr(&b), "");
    buf_clear(&b);
    assert_false(buf_failed(&b));
    buf_put_str(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_and_get),   cmocka_unit_test(test_read_past_end),
        cmocka_unit_test(test_growth),        cmocka_unit_test(test_text),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
