/* The control socket: HTTP with JSON on a Unix socket, by libmicrohttpd on the daemon's loop. Loop
 * thread only. */
#ifndef DCMFERRYD_CONTROL_H
#define DCMFERRYD_CONTROL_H

#include "base/err.h"

#include <stddef.h>
#include <uv.h>

struct control;
struct control_request;

struct control_handler {
    /* A request has come: answer it with control_answer, now or later. */
    void (*request)(struct control_request *r, void *ctx);
    void *ctx;
};

/* Binds `path` with mode 0660. A stale socket (no one listens) is replaced, a live one is
 * ERR_LOCKED. */
int control_open(struct control **ret, uv_loop_t *loop, const char *path,
                 const struct control_handler *handler, struct err *e);

const char *control_method(const struct control_request *r); /* "GET", "POST" */
const char *control_path(const struct control_request *r);   /* "/status" */
/* The value of a query argument, NULL if it was not given. */
const char *control_argument(const struct control_request *r, const char *name);

/* Answers and frees the request; `body` is copied. Exactly once a request, also when the peer is
 * gone by then. */
void control_answer(struct control_request *r, unsigned status, const char *body);

/* Unlinks the socket and drops open connections. Requests that are not yet answered stay valid for
 * control_answer. cb when the handles are closed and the last request was answered; freed before.
 */
void control_close(struct control *c, void (*cb)(void *ctx), void *ctx);

#endif
