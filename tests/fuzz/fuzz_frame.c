/* The frame decoder, both directions, and the reader of the answers' JSON. What decodes must encode
 * to itself. */
#include "postdicom/frame.h"
#include "postdicom/pd_answer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_request(const uint8_t *data, size_t size)
{
    struct frame_request r;
    struct buf out = {0};
    if (frame_decode_request(data, size, &r, NULL))
        return;
    frame_encode_request_whole(&r, &out);
    /* The zero byte at the end may be missing, or stand where the vendor's client has none. */
    size_t same = out.size < size ? out.size : size;
    if (buf_failed(&out) || out.size + 1 < size || size + 1 < out.size ||
        memcmp(out.data, data, same) != 0)
        abort();
    buf_free(&out);
}

static void check_answer(const uint8_t *data, size_t size)
{
    static const struct pd_keys keys = {"44444444-4444-4444-8444-444444444444",
                                        "55555555-5555-4555-8555-555555555555"};
    struct frame_answer f;
    struct pd_answer a;
    struct pd_account account;
    struct buf out = {0};
    char order[PD_UUID_SIZE];
    if (frame_decode_answer(data, size, &f, NULL))
        return;
    frame_encode_answer(&f, &out);
    if (buf_failed(&out) || out.size > size)
        abort();
    buf_free(&out);
    if (pd_answer_parse_frame(&f, &keys, &a, NULL) == 0 && a.root) {
        pd_answer_order(&a, order);
        pd_answer_account(&a, NULL, NULL, &account, NULL);
        if (strlen(a.text) >= sizeof(a.text))
            abort();
    }
    pd_answer_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_request(data, size);
    check_answer(data, size);
    return 0;
}
