#include "postdicom/frame.h"

#include <string.h>

static void put_blob(struct buf *b, const void *data, size_t size)
{
    buf_put_u32le(b, (uint32_t)size);
    if (size > 0)
        buf_put(b, data, size);
}

void frame_encode_request(const struct frame_request *r, struct buf *head, struct buf *tail)
{
    buf_put_u16le(head, r->type);
    buf_put_u32le(head, r->id);
    buf_put_u32le(head, (uint32_t)r->management);
    put_blob(head, r->json, r->json_size);
    if (r->type == FRAME_UPLOAD) {
        buf_put_u32le(head, (uint32_t)r->bytes_size);
        buf_put_u8(tail, (uint8_t)r->user_size);
        if (r->user_size > 0)
            buf_put(tail, r->user, (uint8_t)r->user_size);
    }
    /* The vendor's buffer is one byte too long here; equal frames are easier to compare. */
    if (r->type == FRAME_UPLOAD || r->type == FRAME_GENERAL)
        buf_put_u8(tail, 0);
}

void frame_encode_request_whole(const struct frame_request *r, struct buf *out)
{
    struct buf tail = {0};
    frame_encode_request(r, out, &tail);
    if (r->type == FRAME_UPLOAD && r->bytes_size > 0)
        buf_put(out, r->bytes, r->bytes_size);
    if (tail.size > 0)
        buf_put(out, tail.data, tail.size);
    if (buf_failed(&tail))
        out->failed = true;
    buf_free(&tail);
}

void frame_encode_answer(const struct frame_answer *a, struct buf *out)
{
    buf_put_u16le(out, a->type);
    buf_put_u32le(out, a->id);
    buf_put_u32le(out, a->request_id);
    buf_put_u8(out, a->success ? 1 : 0);
    put_blob(out, a->message, a->message_size);
    buf_put_u32le(out, (uint32_t)a->management);
    put_blob(out, a->json, a->json_size);
}

static int cut_short(const struct buf_reader *r, struct err *e, const char *what)
{
    return err_set(e, ERR_PROTOCOL, "frame of %zu bytes is cut short in its %s (offset %zu)",
                   r->size, what, r->pos);
}

/* An int32 length and that many bytes in place; negative lengths are larger than any frame. */
static const uint8_t *get_blob(struct buf_reader *r, size_t *ret_size)
{
    uint32_t size = buf_get_u32le(r);
    if (r->failed || size > INT32_MAX || size > buf_left(r)) {
        r->failed = true;
        return NULL;
    }
    *ret_size = size;
    return buf_get(r, size);
}

int frame_decode_request(const void *data, size_t size, struct frame_request *ret, struct err *e)
{
    struct buf_reader r = buf_reader(data, size);
    memset(ret, 0, sizeof(*ret));
    ret->type = buf_get_u16le(&r);
    ret->id = buf_get_u32le(&r);
    ret->management = (int32_t)buf_get_u32le(&r);
    if (r.failed)
        return cut_short(&r, e, "head");
    if (ret->type != FRAME_SESSION && ret->type != FRAME_GENERAL && ret->type != FRAME_UPLOAD)
        return err_set(e, ERR_PROTOCOL, "frame has the unknown message type %u (offset 0)",
                       (unsigned)ret->type);
    ret->json = (const char *)get_blob(&r, &ret->json_size);
    if (r.failed)
        return cut_short(&r, e, "parameters");
    if (ret->type == FRAME_UPLOAD) {
        ret->bytes = get_blob(&r, &ret->bytes_size);
        if (r.failed)
            return cut_short(&r, e, "file bytes");
        ret->user_size = buf_get_u8(&r);
        ret->user = (const char *)buf_get(&r, ret->user_size);
        if (r.failed)
            return cut_short(&r, e, "user");
    }
    size_t left = buf_left(&r);
    if (left > 1 || (left == 1 && ((const uint8_t *)data)[r.pos] != 0))
        return err_set(e, ERR_PROTOCOL, "frame has %zu bytes too many (offset %zu)", left, r.pos);
    return 0;
}

int frame_decode_answer(const void *data, size_t size, struct frame_answer *ret, struct err *e)
{
    struct buf_reader r = buf_reader(data, size);
    memset(ret, 0, sizeof(*ret));
    ret->type = buf_get_u16le(&r);
    ret->id = buf_get_u32le(&r);
    ret->request_id = buf_get_u32le(&r);
    ret->success = buf_get_u8(&r) == 1;
    if (r.failed)
        return cut_short(&r, e, "head");
    ret->message = (const char *)get_blob(&r, &ret->message_size);
    if (r.failed)
        return cut_short(&r, e, "message");
    ret->management = (int32_t)buf_get_u32le(&r);
    if (r.failed)
        return cut_short(&r, e, "management type");
    ret->json = (const char *)get_blob(&r, &ret->json_size);
    if (r.failed)
        return cut_short(&r, e, "result");
    return 0;
}
