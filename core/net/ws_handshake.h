/* The opening handshake of a WebSocket client (RFC 6455, section 4.1). Pure, no I/O, thread-safe.
 */
#ifndef NET_WS_HANDSHAKE_H
#define NET_WS_HANDSHAKE_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>

#define WS_KEY_SIZE      25    /* base64 of 16 bytes, with NUL */
#define WS_ACCEPT_SIZE   29    /* base64 of a SHA-1, with NUL */
#define WS_MAX_HANDSHAKE 16384 /* bytes of an answer's header, 1xx answers before it included */

/* A fresh random Sec-WebSocket-Key. */
int ws_handshake_key(char out[WS_KEY_SIZE]);
/* The Sec-WebSocket-Accept that belongs to it. */
int ws_handshake_accept(const char *key, char out[WS_ACCEPT_SIZE]);

/* Appends the request. `host` with port where it is not the scheme's own; `target` is path and
 * query. ERR_INVALID if one of them holds a control character or a blank. */
int ws_handshake_request(struct buf *b, const char *host, const char *target, const char *key,
                         const char *user_agent);

/* Reads an answer. Returns the bytes of its header when the upgrade is accepted, 0 when more bytes
 * are needed, else a negative ERR_ code with *e filled and *ret_status the HTTP status that was
 * given, or 0: ERR_AUTH (401, 403, 407), ERR_BUSY (429, 503), ERR_PROTOCOL. Nothing that the server
 * wrote gets into *e but the status. */
int ws_handshake_parse(const char *data, size_t size, const char *accept, int *ret_status,
                       struct err *e);

#endif
