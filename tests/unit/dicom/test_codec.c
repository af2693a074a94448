#include "dicom/dicom_codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_request(void **state)
{
    (void)state;
    uint32_t tags[DICOM_MAX_TAGS + 1];
    struct dicom_request request;
    for (size_t i = 0; i <= DICOM_MAX_TAGS; i++) {
        tags[i] = 0xfffe0000u - (uint32_t)i;
    }
    for (size_t n = 0; n <= DICOM_MAX_TAGS; n++) {
        struct buf b = {0};
        assert_int_equal(dicom_codec_put_request(&b, tags, n), 0);
        assert_int_equal(dicom_codec_get_request(b.data, b.size, &request), 0);
        assert_int_equal(request.n_tags, n);
        assert_memory_equal(request.tags, tags, n * sizeof(tags[0]));
        for (size_t cut = 0; cut < b.size; cut++) {
            assert_int_equal(dicom_codec_get_request(b.data, cut, &request), ERR_PROTOCOL);
        }
        buf_put_u8(&b, 0);
        assert_int_equal(dicom_codec_get_request(b.data, b.size, &request), ERR_PROTOCOL);
        buf_free(&b);
    }
    struct buf b = {0};
    assert_int_equal(dicom_codec_put_request(&b, tags, DICOM_MAX_TAGS + 1), ERR_INVALID);
    assert_int_equal(b.size, 0);
    buf_free(&b);
}

static struct dicom_answer example(void)
{
    struct dicom_answer a = {.status = ERR_TRUNCATED,
                             .reason = "it ends within the element (7fe0,0010)"};
    strcpy(a.header.sop_class_uid, "1.2.840.10008.5.1.4.1.1.2");
    strcpy(a.header.sop_instance_uid, "1.2.3");
    memset(a.header.study_instance_uid, '1', 64);
    strcpy(a.header.transfer_syntax_uid, "1.2.840.10008.1.2.1");
    a.header.n_values = 3;
    a.header.values[0] = "Bücher^Anna";
    a.header.values[1] = NULL;
    a.header.values[2] = "";
    return a;
}

static void test_answer(void **state)
{
    (void)state;
    const struct dicom_answer a = example();
    struct dicom_answer got;
    struct buf b = {0};
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 3, &got), 0);
    assert_int_equal(got.status, ERR_TRUNCATED);
    assert_string_equal(got.reason, a.reason);
    assert_string_equal(got.header.sop_class_uid, a.header.sop_class_uid);
    assert_string_equal(got.header.sop_instance_uid, "1.2.3");
    assert_string_equal(got.header.study_instance_uid, a.header.study_instance_uid);
    assert_string_equal(got.header.series_instance_uid, "");
    assert_string_equal(got.header.transfer_syntax_uid, a.header.transfer_syntax_uid);
    assert_int_equal(got.header.n_values, 3);
    assert_string_equal(got.header.values[0], "Bücher^Anna");
    assert_null(got.header.values[1]);
    assert_string_equal(got.header.values[2], "");
    for (size_t cut = 0; cut < b.size; cut++) {
        assert_int_equal(dicom_codec_get_answer(b.data, cut, 3, &got), ERR_PROTOCOL);
    }
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 2, &got), ERR_PROTOCOL);
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 4, &got), ERR_PROTOCOL);
    buf_put_u8(&b, 0);
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 3, &got), ERR_PROTOCOL);
    buf_free(&b);
}

/* What the encoder is given too much of is cut at a character. */
static void test_cut(void **state)
{
    (void)state;
    struct dicom_answer a = example(), got;
    char value[DICOM_MAX_VALUE + 100], reason[1000];
    memset(reason, 'r', sizeof(reason) - 1);
    reason[sizeof(reason) - 1] = '\0';
    value[0] = 'x';
    for (size_t i = 1; i + 2 < sizeof(value); i += 2) {
        memcpy(value + i, "ü", 3);
    }
    a.reason = reason;
    a.header.values[0] = value;
    struct buf b = {0};
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 3, &got), 0);
    assert_int_equal(strlen(got.reason), DICOM_MAX_REASON);
    assert_int_equal(strlen(got.header.values[0]), DICOM_MAX_VALUE - 1);
    buf_free(&b);
}

/* Swaps one byte of an encoded answer for every other value: decoded or refused, but never harmful.
 */
static void test_mutations(void **state)
{
    (void)state;
    const struct dicom_answer a = example();
    struct buf b = {0};
    unsigned refused = 0;
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    for (size_t i = 0; i < b.size; i++) {
        const uint8_t saved = b.data[i];
        for (unsigned v = 0; v < 256; v++) {
            struct dicom_answer got;
            /* a block of its own, so that a read past the end shows under ASan */
            uint8_t *copy = malloc(b.size);
            assert_non_null(copy);
            b.data[i] = (uint8_t)v;
            memcpy(copy, b.data, b.size);
            if (dicom_codec_get_answer(copy, b.size, 3, &got) == 0) {
                assert_true(strlen(got.reason) <= DICOM_MAX_REASON);
                assert_true(got.header.sop_instance_uid[0] == '\0' ||
                            dicom_codec_is_uid(got.header.sop_instance_uid));
            } else {
                refused++;
            }
            free(copy);
        }
        b.data[i] = saved;
    }
    assert_true(refused > b.size * 64);
    buf_free(&b);
}

static void refuse(const void *bytes, size_t n, size_t n_tags)
{
    struct dicom_answer got;
    assert_int_equal(dicom_codec_get_answer(bytes, n, n_tags, &got), ERR_PROTOCOL);
}

static void test_hostile_answers(void **state)
{
    (void)state;
    struct dicom_answer a = example();
    struct buf b = {0};
    /* status 0 without the UID that everything rests on */
    a.status = 0;
    a.header.sop_instance_uid[0] = '\0';
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    refuse(b.data, b.size, 3);
    /* a status that a worker has no business with */
    buf_clear(&b);
    a = example();
    a.status = ERR_AUTH;
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    refuse(b.data, b.size, 3);
    /* UIDs with other characters are not sent */
    buf_clear(&b);
    a = example();
    strcpy(a.header.sop_class_uid, "1.2/../3");
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    struct dicom_answer got;
    assert_int_equal(dicom_codec_get_answer(b.data, b.size, 3, &got), 0);
    assert_string_equal(got.header.sop_class_uid, "");
    /* nor taken: the first UID follows the reason */
    buf_clear(&b);
    a = example();
    assert_int_equal(dicom_codec_put_answer(&b, &a), 0);
    const size_t uid = 1 + 4 + 2 + strlen(a.reason) + 1 + 1;
    assert_memory_equal(b.data + uid, "1.2.840", 7);
    b.data[uid] = '/';
    refuse(b.data, b.size, 3);
    b.data[uid] = '\0';
    refuse(b.data, b.size, 3);
    b.data[uid] = '1';
    /* text that is no UTF-8, holds a NUL, or lacks its NUL */
    uint8_t *value = memmem(b.data, b.size, "B\xc3\xbc", 3);
    assert_non_null(value);
    value[1] = 0xff;
    refuse(b.data, b.size, 3);
    value[1] = 0;
    refuse(b.data, b.size, 3);
    value[1] = 0xc3;
    value[strlen("Bücher^Anna")] = 'x';
    refuse(b.data, b.size, 3);
    buf_free(&b);
    refuse("", 0, 0);
    refuse(NULL, 0, 0);
}

static void test_is_uid(void **state)
{
    (void)state;
    char uid[66];
    assert_true(dicom_codec_is_uid("1.2.840.10008.1.1"));
    assert_true(dicom_codec_is_uid("1.02"));
    assert_false(dicom_codec_is_uid(""));
    assert_false(dicom_codec_is_uid("1.2 "));
    assert_false(dicom_codec_is_uid("1.2a"));
    assert_false(dicom_codec_is_uid("../1"));
    memset(uid, '1', sizeof(uid));
    uid[64] = '\0';
    assert_true(dicom_codec_is_uid(uid));
    uid[64] = '1';
    uid[65] = '\0';
    assert_false(dicom_codec_is_uid(uid));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_hostile_answers),
        cmocka_unit_test(test_is_uid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
