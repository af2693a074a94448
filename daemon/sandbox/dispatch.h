/* Frames become requests, requests find their handler by message and management type, answers
 * become frames. */
#ifndef SANDBOX_DISPATCH_H
#define SANDBOX_DISPATCH_H

#include "postdicom/frame.h"
#include "sandbox/sandbox.h"
#include "sandbox/server_ws.h"

#include <cjson/cJSON.h>

/* ResponseCodes; the real server's other than 1 were never seen. */
enum response_code {
    RESPONSE_OK = 1,
    RESPONSE_REPEATED = 2, /* a part that came before */
    RESPONSE_SESSION = 3,  /* session or upload session not known */
    RESPONSE_AUTH = 4,
    RESPONSE_INVALID = 5, /* a parameter that is missing or wrong */
    RESPONSE_FAILED = 6,  /* the server's own trouble */
    RESPONSE_FILE = 7,    /* the file is not taken */
};

/* One request, from its frame to its answer; freed by the answering. */
struct request {
    struct store_op op; /* first: for handlers that run in the store */
    struct sandbox *sandbox;
    struct conn *conn;
    uint8_t *message;
    struct frame_request frame; /* points into message */
    cJSON *params;
    unsigned kind; /* enum fault_kind */
    bool lose_answer, drop_instead;
    const struct general_method *method;
    cJSON *answer;
    enum response_code code;
    char failure[256];
    bool any_part; /* CheckFileExist: part of an unfinished file is there */
    uv_timer_t *late;
};

/* Takes ownership of `message`. */
void dispatch_frame(struct conn *c, uint8_t *message, size_t size);

/* Text member, "" where it is absent or no text. */
const char *request_text(const struct request *r, const char *name);
/* Whole number in [0, max]; -1 otherwise. */
int64_t request_number(const struct request *r, const char *name, int64_t max);

/* Each of these ends the request. `response` is owned: for types 3 and 17 the ResponseMessage; for
 * type 23 the whole result, to which the code is added. */
void request_answer(struct request *r, enum response_code code, cJSON *response);
/* A refusal with a text for a person; no patient data in it. */
void request_refuse(struct request *r, enum response_code code, const char *text);
/* The session is not known, said the way the assumption has it. */
void request_session_lost(struct request *r);
void request_free(struct request *r);

/* For handlers on the store's thread: notes the failure, returns 1. */
int request_fail(struct request *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
