/* The binary frames of the PostDICOM Cloud API (wire protocol, section 2), both directions, for
 * client and sandbox. Pure; thread-safe; nothing is owned: decoded pointers point into the input.
 */
#ifndef POSTDICOM_FRAME_H
#define POSTDICOM_FRAME_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_type {
    FRAME_SESSION = 3,
    FRAME_SESSION_ANSWER = 4,
    FRAME_GENERAL = 17,
    FRAME_GENERAL_ANSWER = 18,
    FRAME_UPLOAD = 23,
    FRAME_UPLOAD_ANSWER = 24, /* unseen on the real server; what the sandbox uses */
};

enum frame_session_management {
    FRAME_CREATE_SESSION = 1,
    FRAME_REGISTER_SESSION = 2,
    FRAME_FORCE_REGISTER = 3,
    FRAME_CREATE_API_SESSION = 4
};

enum frame_upload_management {
    FRAME_INITIALIZE = 1,
    FRAME_CHECK_FILE_EXIST = 2,
    FRAME_PROCESS_FILE = 3,
    FRAME_PROCESS_DOCUMENTS = 4,
    FRAME_ATTACH_DOCUMENT = 5,
    FRAME_CANCEL = 6,
    FRAME_ERROR = 7,
};

struct frame_request {
    uint16_t type;
    uint32_t id;
    int32_t management;
    const char *json; /* not NUL-terminated */
    size_t json_size;
    const uint8_t *bytes; /* type 23: the file part; may be NULL */
    size_t bytes_size;
    const char *user; /* type 23: the user's UUID as text */
    size_t user_size;
};

struct frame_answer {
    uint16_t type;
    uint32_t id; /* the server's own */
    uint32_t request_id;
    bool success;
    const char *message; /* not NUL-terminated */
    size_t message_size;
    int32_t management;
    const char *json;
    size_t json_size;
};

/* The frame without the file bytes, in two pieces: *head up to the file bytes' length, *tail what
 * follows them (the user's UUID for type 23, and the vendor's zero byte for types 17 and 23). head
 * + bytes + tail is the message. */
void frame_encode_request(const struct frame_request *r, struct buf *head, struct buf *tail);
/* The whole frame in one buffer. */
void frame_encode_request_whole(const struct frame_request *r, struct buf *out);
void frame_encode_answer(const struct frame_answer *a, struct buf *out);

/* ERR_PROTOCOL with the offset in *e for frames that are cut short, have impossible lengths, are of
 * no request type, or have trailing bytes beyond the one zero byte. */
int frame_decode_request(const void *data, size_t size, struct frame_request *ret, struct err *e);
/* The same, but of any type, and bytes after the result are ignored: the real server's answers were
 * never seen. */
int frame_decode_answer(const void *data, size_t size, struct frame_answer *ret, struct err *e);

#endif
