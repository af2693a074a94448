/* The WebSocket connections (RFC 6455), framed by wslay on sockets that the HTTP server upgraded.
 * Loop thread only. */
#ifndef SANDBOX_SERVER_WS_H
#define SANDBOX_SERVER_WS_H

#include "sandbox/sandbox.h"

#include <microhttpd.h>
#include <stddef.h>
#include <stdint.h>

struct conn {
    struct sandbox *sandbox;
    struct conn *prev, *next;
    uint32_t number;
    unsigned refs; /* the socket's own and one for each request that was not answered */
    bool closing;
    char session[UUID_TEXT_SIZE]; /* of the registered session, "" before */
    bool counts;                  /* as an upload connection of its session */
    uint64_t frames;
    uint32_t next_id; /* of the server's messages */
    unsigned unanswered;
    unsigned parts_unanswered;
    struct ws_socket *socket; /* NULL when closed */
};

/* Accept header value for a client's Sec-WebSocket-Key (RFC 6455, 4.2.2) into out[29]. */
void ws_accept_key(const char *key, char out[29]);

/* Takes over an upgraded socket with the bytes that came behind the request. */
void conn_open(struct sandbox *sb, int fd, struct MHD_UpgradeResponseHandle *urh, const void *extra,
               size_t extra_size);
/* Sends one message; copied. Nothing happens on a closing connection. */
void conn_send(struct conn *c, bool binary, const void *data, size_t size);
/* Closes it in this turn of the loop, with a close frame of that status if it can be written at
 * once, 0: without. */
void conn_drop(struct conn *c, uint16_t status);
void conn_ref(struct conn *c);
void conn_unref(struct conn *c);
/* A request of the connection was answered (or never will be): reading may go on. */
void conn_answered(struct conn *c);
void conn_drop_all(struct sandbox *sb);

#endif
