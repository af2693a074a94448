/* One WebSocket of a session: requests in flight by message id, answers in any order (wire
 * protocol, section 2). Loop thread only.
 *
 * Each request's callback comes exactly once: with its answer, or with the reason why the
 * connection ended. It never comes from within pd_connection_send. */
#ifndef POSTDICOM_PD_CONNECTION_H
#define POSTDICOM_PD_CONNECTION_H

#include "net/ws.h"
#include "postdicom/frame.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <uv.h>

struct pd_connection;

/* Owned by the caller until cb, with all it points to. */
struct pd_request {
    uint16_t type; /* enum frame_type */
    int32_t management;
    const char *json;     /* parameters, NUL-terminated */
    const uint8_t *bytes; /* type 23: file bytes; NULL */
    size_t bytes_size;
    const char *user; /* type 23: the user's UUID */
    /* status 0: `answer` holds, valid during the call. Otherwise the connection ended (ERR_CLOSED,
     * ERR_TIMEOUT, ERR_PROTOCOL, …) and the request may have been carried out. */
    void (*cb)(struct pd_request *r, int status, const struct frame_answer *answer,
               const struct err *e);
    /* private */
    uint32_t id;
    bool sent;             /* written to the socket entirely */
    uint64_t active_ms;    /* when something last happened that it has to wait for */
    struct buf head, tail; /* live until it was sent */
    struct buf early;      /* an answer that came before `sent` did */
    UT_hash_handle hh;
};

struct pd_connection_options {
    uint64_t idle_timeout_ms;  /* a request whose answer does not come, with nothing before it under
                                  way, for that long:  the connection is given up */
    uint64_t ping_interval_ms; /* 0: none */
};

struct pd_connection_handler {
    void (*opened)(struct pd_connection *c, void *ctx);
    /* The end, exactly once unless pd_connection_close was called; before the callbacks of what was
     * in flight. */
    void (*closed)(struct pd_connection *c, int status, int http_status, const struct err *e,
                   void *ctx);
    void *ctx;
};

int pd_connection_open(struct pd_connection **ret, uv_loop_t *loop, struct net *net,
                       const char *url, const struct pd_connection_options *options,
                       const struct pd_connection_handler *handler, struct err *e);
/* Only between `opened` and the end. On failure (ERR_NOMEM, ERR_CLOSED) the callback does not come.
 */
int pd_connection_send(struct pd_connection *c, struct pd_request *r);
/* Another owner takes over. */
void pd_connection_set_handler(struct pd_connection *c,
                               const struct pd_connection_handler *handler);
unsigned pd_connection_in_flight(const struct pd_connection *c);
/* Milliseconds since the peer's last byte, pongs included. Only between `opened` and the end. */
uint64_t pd_connection_silent_ms(const struct pd_connection *c);
/* Requests answered since it was opened. */
uint64_t pd_connection_answered(const struct pd_connection *c);
/* Ends it: what is in flight fails with `status` (from within this call); the memory goes when the
 * loop has let go of it. */
void pd_connection_close(struct pd_connection *c, int status, const char *why);

#endif
