#include "dicom/dicom_codec.h"

#include "base/text.h"

#include <string.h>

#define CODEC_REQUEST 0xd1
#define CODEC_ANSWER  0xd2
#define NO_VALUE      UINT16_MAX

int dicom_codec_put_request(struct buf *out, const uint32_t *tags, size_t n_tags)
{
    if (n_tags > DICOM_MAX_TAGS) {
        return ERR_INVALID;
    }
    buf_put_u8(out, CODEC_REQUEST);
    buf_put_u16le(out, (uint16_t)n_tags);
    for (size_t i = 0; i < n_tags; i++) {
        buf_put_u32le(out, tags[i]);
    }
    return buf_failed(out) ? ERR_NOMEM : 0;
}

int dicom_codec_get_request(const void *data, size_t size, struct dicom_request *ret)
{
    struct buf_reader r = buf_reader(data, size);
    const uint8_t type = buf_get_u8(&r);
    ret->n_tags = buf_get_u16le(&r);
    if (r.failed || type != CODEC_REQUEST || ret->n_tags > DICOM_MAX_TAGS) {
        return ERR_PROTOCOL;
    }
    for (size_t i = 0; i < ret->n_tags; i++) {
        ret->tags[i] = buf_get_u32le(&r);
    }
    return r.failed || buf_left(&r) != 0 ? ERR_PROTOCOL : 0;
}

bool dicom_codec_is_uid(const char *s)
{
    const size_t length = strspn(s, "0123456789.");
    return length > 0 && length < DICOM_UID_SIZE && s[length] == '\0';
}

/* Length, bytes, NUL: so that the decoder can point into the message. */
static void put_text(struct buf *out, const char *text, size_t max)
{
    char cut[DICOM_MAX_VALUE + 1];
    text_copy(cut, max + 1, text);
    const size_t length = strlen(cut);
    buf_put_u16le(out, (uint16_t)length);
    buf_put(out, cut, length + 1);
}

static const char *get_text(struct buf_reader *r, uint16_t length, size_t max)
{
    const char *text = length <= max ? (const char *)buf_get(r, (size_t)length + 1) : NULL;
    if (text == NULL || memchr(text, '\0', (size_t)length + 1) != text + length ||
        !text_utf8_valid(text, length)) {
        r->failed = true;
        return NULL;
    }
    return text;
}

static void put_uid(struct buf *out, const char *uid)
{
    const size_t length = dicom_codec_is_uid(uid) ? strlen(uid) : 0;
    buf_put_u8(out, (uint8_t)length);
    buf_put(out, uid, length);
}

static void get_uid(struct buf_reader *r, char ret[DICOM_UID_SIZE])
{
    const uint8_t length = buf_get_u8(r);
    const uint8_t *uid = length < DICOM_UID_SIZE ? buf_get(r, length) : NULL;
    ret[0] = '\0';
    if (uid == NULL) {
        r->failed = true;
        return;
    }
    memcpy(ret, uid, length);
    ret[length] = '\0';
    if (length > 0 && (strlen(ret) != length || !dicom_codec_is_uid(ret))) {
        r->failed = true;
    }
}

int dicom_codec_put_answer(struct buf *out, const struct dicom_answer *answer)
{
    const struct dicom_header *header = &answer->header;
    buf_put_u8(out, CODEC_ANSWER);
    buf_put_u32le(out, (uint32_t)answer->status);
    put_text(out, answer->reason, DICOM_MAX_REASON);
    put_uid(out, header->sop_class_uid);
    put_uid(out, header->sop_instance_uid);
    put_uid(out, header->study_instance_uid);
    put_uid(out, header->series_instance_uid);
    put_uid(out, header->transfer_syntax_uid);
    buf_put_u16le(out, (uint16_t)header->n_values);
    for (size_t i = 0; i < header->n_values; i++) {
        if (header->values[i] == NULL) {
            buf_put_u16le(out, NO_VALUE);
        } else {
            put_text(out, header->values[i], DICOM_MAX_VALUE);
        }
    }
    return buf_failed(out) ? ERR_NOMEM : 0;
}

/* What a worker may say; anything else is a worker gone astray. */
static bool is_status(int status)
{
    switch (status) {
    case 0:
    case ERR_TRUNCATED:
    case ERR_NOT_DICOM:
    case ERR_NO_UID:
    case ERR_HOSTILE:
    case ERR_IO:
    case ERR_NOMEM:
    case ERR_CHANGED:
        return true;
    default:
        return false;
    }
}

int dicom_codec_get_answer(const void *data, size_t size, size_t n_tags, struct dicom_answer *ret)
{
    struct buf_reader r = buf_reader(data, size);
    struct dicom_header *header = &ret->header;
    memset(ret, 0, sizeof(*ret));
    const uint8_t type = buf_get_u8(&r);
    ret->status = (int)(int32_t)buf_get_u32le(&r);
    if (r.failed || type != CODEC_ANSWER || !is_status(ret->status)) {
        return ERR_PROTOCOL;
    }
    ret->reason = get_text(&r, buf_get_u16le(&r), DICOM_MAX_REASON);
    get_uid(&r, header->sop_class_uid);
    get_uid(&r, header->sop_instance_uid);
    get_uid(&r, header->study_instance_uid);
    get_uid(&r, header->series_instance_uid);
    get_uid(&r, header->transfer_syntax_uid);
    header->n_values = buf_get_u16le(&r);
    if (r.failed || header->n_values != n_tags || n_tags > DICOM_MAX_TAGS) {
        return ERR_PROTOCOL;
    }
    for (size_t i = 0; i < n_tags; i++) {
        const uint16_t length = buf_get_u16le(&r);
        if (!r.failed && length != NO_VALUE) {
            header->values[i] = get_text(&r, length, DICOM_MAX_VALUE);
        }
    }
    if (r.failed || buf_left(&r) != 0) {
        return ERR_PROTOCOL;
    }
    if (ret->status == 0 && header->sop_instance_uid[0] == '\0') {
        return ERR_PROTOCOL;
    }
    return 0;
}
