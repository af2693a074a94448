#include "postdicom/frame.h"
#include "vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* From the wire protocol, section 2, by hand. */
static const uint8_t GOLDEN_SESSION[] = {3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, '{', '}'};
static const uint8_t GOLDEN_GENERAL[] = {17, 0, 2, 1, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, '{', '}', 0};
static const uint8_t GOLDEN_UPLOAD[] = {23,  0, 5, 0, 0, 0, 3, 0, 0, 0, 2,   0,   0,   0, '{',
                                        '}', 4, 0, 0, 0, 1, 2, 3, 4, 3, 'a', 'b', 'c', 0};
static const uint8_t GOLDEN_ANSWER[] = {18, 0,   9,   0, 0, 0, 2, 1, 0, 0, 1, 2,   0,  0,
                                        0,  'o', 'k', 3, 0, 0, 0, 2, 0, 0, 0, '{', '}'};

static void check_request(const uint8_t *golden, size_t size, const struct frame_request *r)
{
    struct buf out = {0}, head = {0}, tail = {0};
    frame_encode_request_whole(r, &out);
    assert_false(buf_failed(&out));
    assert_int_equal(out.size, size);
    assert_memory_equal(out.data, golden, size);
    frame_encode_request(r, &head, &tail);
    assert_int_equal(head.size + r->bytes_size + tail.size, size);
    assert_memory_equal(head.data, golden, head.size);
    if (tail.size)
        assert_memory_equal(tail.data, golden + size - tail.size, tail.size);
    buf_free(&out);
    buf_free(&head);
    buf_free(&tail);

    struct frame_request d;
    struct err e;
    assert_int_equal(frame_decode_request(golden, size, &d, &e), 0);
    assert_int_equal(d.type, r->type);
    assert_int_equal(d.id, r->id);
    assert_int_equal(d.management, r->management);
    assert_int_equal(d.json_size, r->json_size);
    assert_memory_equal(d.json, r->json, r->json_size);
    assert_int_equal(d.bytes_size, r->bytes_size);
    if (d.bytes_size)
        assert_memory_equal(d.bytes, r->bytes, r->bytes_size);
    assert_int_equal(d.user_size, r->user_size);
    if (d.user_size)
        assert_memory_equal(d.user, r->user, r->user_size);
}

static void test_golden(void **state)
{
    (void)state;
    static const uint8_t part[] = {1, 2, 3, 4};
    struct frame_request session = {
        .type = 3, .id = 1, .management = 4, .json = "{}", .json_size = 2};
    check_request(GOLDEN_SESSION, sizeof(GOLDEN_SESSION), &session);
    struct frame_request general = {
        .type = 17, .id = 0x102, .management = 3, .json = "{}", .json_size = 2};
    check_request(GOLDEN_GENERAL, sizeof(GOLDEN_GENERAL), &general);
    struct frame_request upload = {.type = 23,
                                   .id = 5,
                                   .management = 3,
                                   .json = "{}",
                                   .json_size = 2,
                                   .bytes = part,
                                   .bytes_size = 4,
                                   .user = "abc",
                                   .user_size = 3};
    check_request(GOLDEN_UPLOAD, sizeof(GOLDEN_UPLOAD), &upload);

    struct frame_answer a = {.type = 18,
                             .id = 9,
                             .request_id = 0x102,
                             .success = true,
                             .message = "ok",
                             .message_size = 2,
                             .management = 3,
                             .json = "{}",
                             .json_size = 2};
    struct buf out = {0};
    frame_encode_answer(&a, &out);
    assert_int_equal(out.size, sizeof(GOLDEN_ANSWER));
    assert_memory_equal(out.data, GOLDEN_ANSWER, sizeof(GOLDEN_ANSWER));
    struct frame_answer d;
    assert_int_equal(frame_decode_answer(out.data, out.size, &d, NULL), 0);
    assert_int_equal(d.request_id, 0x102);
    assert_true(d.success);
    assert_int_equal(d.message_size, 2);
    assert_int_equal(d.json_size, 2);
    assert_memory_equal(d.json, "{}", 2);
    buf_free(&out);
}

/* The zero byte may be missing; nothing else may follow. */
static void test_trailing(void **state)
{
    (void)state;
    struct frame_request d;
    struct err e;
    assert_int_equal(frame_decode_request(GOLDEN_GENERAL, sizeof(GOLDEN_GENERAL) - 1, &d, &e), 0);
    assert_int_equal(frame_decode_request(GOLDEN_UPLOAD, sizeof(GOLDEN_UPLOAD) - 1, &d, &e), 0);
    uint8_t more[sizeof(GOLDEN_GENERAL) + 1] = {0};
    memcpy(more, GOLDEN_GENERAL, sizeof(GOLDEN_GENERAL));
    assert_int_equal(frame_decode_request(more, sizeof(more), &d, &e), ERR_PROTOCOL);
    more[sizeof(GOLDEN_GENERAL) - 1] = 1;
    assert_int_equal(frame_decode_request(more, sizeof(GOLDEN_GENERAL), &d, &e), ERR_PROTOCOL);
    uint8_t answer[sizeof(GOLDEN_ANSWER) + 2] = {0};
    memcpy(answer, GOLDEN_ANSWER, sizeof(GOLDEN_ANSWER));
    struct frame_answer a;
    assert_int_equal(frame_decode_answer(answer, sizeof(answer), &a, &e), 0);
}

/* Every prefix of a frame fails, in memory of exactly that size (ASan sees a read beyond). */
static void test_cut_short(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof(GOLDEN_UPLOAD) - 1; n++) {
        uint8_t *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, GOLDEN_UPLOAD, n);
        struct frame_request d;
        struct err e = {0};
        assert_int_equal(frame_decode_request(copy, n, &d, &e), ERR_PROTOCOL);
        assert_non_null(strstr(e.text, "offset"));
        free(copy);
    }
    for (size_t n = 0; n < sizeof(GOLDEN_ANSWER); n++) {
        uint8_t *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, GOLDEN_ANSWER, n);
        struct frame_answer d;
        assert_int_equal(frame_decode_answer(copy, n, &d, NULL), ERR_PROTOCOL);
        free(copy);
    }
}

static void test_impossible(void **state)
{
    (void)state;
    struct frame_request d;
    uint8_t f[sizeof(GOLDEN_GENERAL)];
    memcpy(f, GOLDEN_GENERAL, sizeof(f));
    f[13] = 0x80; /* a negative length */
    assert_int_equal(frame_decode_request(f, sizeof(f), &d, NULL), ERR_PROTOCOL);
    f[13] = 0x7f;
    assert_int_equal(frame_decode_request(f, sizeof(f), &d, NULL), ERR_PROTOCOL);
    memcpy(f, GOLDEN_GENERAL, sizeof(f));
    f[0] = 99;
    assert_int_equal(frame_decode_request(f, sizeof(f), &d, NULL), ERR_PROTOCOL);
}

/* Every recorded frame decodes and encodes to itself. */
static void test_vectors(void **state)
{
    (void)state;
    cJSON *root = vectors_load();
    if (!root)
        return; /* not at hand: test_golden holds the same facts */
    const cJSON *vector, *frame;
    unsigned n = 0;
    cJSON_ArrayForEach(vector, cJSON_GetObjectItem(root, "vectors"))
    {
        cJSON_ArrayForEach(frame, cJSON_GetObjectItem(vector, "frames"))
        {
            size_t size, whole;
            uint8_t *bytes = vectors_bytes(frame, &size, &whole);
            assert_non_null(bytes);
            struct frame_request r;
            struct err e = {0};
            int status = frame_decode_request(bytes, size, &r, &e);
            n++;
            if (whole > size) { /* only its beginning is recorded */
                assert_int_equal(status, ERR_PROTOCOL);
                assert_int_equal(r.type, FRAME_UPLOAD);
                assert_non_null(r.json);
                free(bytes);
                continue;
            }
            if (status)
                fail_msg("frame %u: %s", n, e.text);
            struct buf out = {0};
            frame_encode_request_whole(&r, &out);
            assert_int_equal(out.size, size);
            assert_memory_equal(out.data, bytes, size);
            buf_free(&out);
            free(bytes);
        }
    }
    assert_true(n >= 55);
    cJSON_Delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_trailing),
        cmocka_unit_test(test_cut_short), cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
