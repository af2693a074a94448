/* A WebSocket client connection (RFC 6455): libcurl opens the connection (CURLOPT_CONNECT_ONLY:
 * proxy, TLS and client certificates as for HTTP, forced to HTTP/1.1), wslay frames it. Loop thread
 * only. */
#ifndef NET_WS_H
#define NET_WS_H

#include "net/net.h"

struct ws;

struct ws_handler {
    /* The upgrade was accepted. */
    void (*opened)(struct ws *w, void *ctx);
    /* A whole message; `binary` or text. Valid during the call. ws_close may be called from within.
     */
    void (*message)(struct ws *w, bool binary, const uint8_t *data, size_t size, void *ctx);
    /* A message handed to ws_send was written to the socket entirely; `tag` as given. */
    void (*sent)(struct ws *w, uint64_t tag, void *ctx);
    /* The end, exactly once unless ws_close was called before. ERR_AUTH (401, 403), ERR_BUSY (429,
     * 503) or ERR_PROTOCOL for a refused upgrade, whose HTTP status is given, else 0; ERR_CLOSED
     * when lost or closed by the peer (its code, not its reason, is in the message); ERR_PROTOCOL
     * for nonsense and messages over max_message; ERR_TIMEOUT when for idle_timeout_ms an answer to
     * the upgrade or to a ping was awaited, or bytes could not be written, and the peer's TCP took
     * none; ERR_CONNECT, ERR_TLS, ERR_AUTH (proxy). The ws is freed after the call. */
    void (*closed)(struct ws *w, int status, int http_status, const struct err *e, void *ctx);
    void *ctx;
};

struct ws_options {
    uint64_t ping_interval_ms; /* a ping when nothing was received for that long; 0: none */
    size_t max_message;        /* longer messages from the peer end the connection */
};

/* Connects to a ws:// or wss:// URL (http and https are taken for those). Handler and options are
 * copied. */
int ws_open(struct ws **ret, struct net *net, const char *url, const struct ws_options *options,
            const struct ws_handler *handler, struct err *e);
struct ws_piece {
    const void *data;
    size_t size;
};

/* Sends one binary message made of up to three pieces (head, file bytes, tail), as one unfragmented
 * frame, masked into the socket in bounded steps: the bytes are not copied as a whole and must live
 * until `sent`, or until closed or ws_close returned. The array itself is copied. Messages go out
 * in order; those sent before `opened` wait for it. ERR_CLOSED, ERR_INVALID (more than three),
 * ERR_NOMEM. */
int ws_send(struct ws *w, const struct ws_piece *pieces, size_t n, uint64_t tag);
/* Bytes handed to ws_send and not yet written. */
size_t ws_unsent(const struct ws *w);
/* The clock of received bytes: milliseconds since the last one. */
uint64_t ws_silent_ms(const struct ws *w);
/* Ends it, with a close frame if that can be written at once; no callback comes after; freed. */
void ws_close(struct ws *w);

#endif
