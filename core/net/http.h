/* One HTTP request and its whole answer in bounded memory. Loop thread only. */
#ifndef NET_HTTP_H
#define NET_HTTP_H

#include "net/net.h"

struct http_request;

struct http_answer {
    int status;       /* HTTP status; 0 if there was no answer */
    const char *body; /* NUL-terminated (not counted) */
    size_t size;
    uint64_t retry_after_ms; /* from Retry-After; 0: none */
    int64_t date_s;          /* from Date: the server's clock, seconds since the epoch; 0: none */
};

/* status 0: an HTTP answer came, whatever its status. Else ERR_CONNECT, ERR_TLS, ERR_TIMEOUT,
 * ERR_CLOSED, ERR_TOO_LARGE… with a message whose URL is redacted. Valid during the call only. */
typedef void (*http_cb)(struct http_request *r, int status, const struct http_answer *answer,
                        const struct err *e, void *ctx);

/* Sends `method` (GET, POST, …) with an optional body (copied) of `content_type`. Answers over
 * max_answer bytes fail. cb comes exactly once and never from within; *ret (may be NULL) is valid
 * until then, for http_cancel. */
int http_send(struct http_request **ret, struct net *net, const char *method, const char *url,
              const char *content_type, const void *body, size_t body_size, size_t max_answer,
              http_cb cb, void *ctx);
/* The callback will not come. */
void http_cancel(struct http_request *r);

#endif
