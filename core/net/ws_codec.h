/* WebSocket frames of a client (RFC 6455, section 5) on wslay, without I/O: bytes received go in,
 * messages come out; messages to send go in, bytes come out. Each message is one unfragmented
 * frame, made in bounded steps. Single thread. */
#ifndef NET_WS_CODEC_H
#define NET_WS_CODEC_H

#include "net/ws.h"

/* What control frames may need at most on top of data, see ws_codec_congested. */
#define WS_CODEC_CONTROL_ROOM 16384
/* Bytes that ws_codec_feed takes at most in one call. */
#define WS_CODEC_FEED_MAX 4096

struct ws_codec;

/* A whole message; ws_codec_stop may be called from within, ws_codec_free may not. */
typedef void (*ws_codec_message)(bool binary, const uint8_t *data, size_t size, void *ctx);

/* NULL when out of memory. */
struct ws_codec *ws_codec_new(size_t max_message, ws_codec_message message, void *ctx);
void ws_codec_free(struct ws_codec *c);

/* Decodes received bytes (at most WS_CODEC_FEED_MAX). 0, or the end of the connection: ERR_CLOSED
 * (by the peer, its code in *e), ERR_PROTOCOL (nonsense, or over max_message), ERR_NOMEM. */
int ws_codec_feed(struct ws_codec *c, const uint8_t *data, size_t size, struct err *e);
/* No further message comes from the running ws_codec_feed. */
void ws_codec_stop(struct ws_codec *c);
/* Answers to pings wait to be written: feed no more until they are. */
bool ws_codec_congested(const struct ws_codec *c);

int ws_codec_send(struct ws_codec *c, const struct ws_piece *pieces, size_t n, uint64_t tag);
int ws_codec_ping(struct ws_codec *c);
int ws_codec_close(struct ws_codec *c, uint16_t code);
/* Whether ws_codec_produce would give bytes. */
bool ws_codec_wants_write(const struct ws_codec *c);
/* Writes masked frames to out, of data at most room - WS_CODEC_CONTROL_ROOM bytes. Returns the
 * bytes written or a negative ERR_ code. */
ssize_t ws_codec_produce(struct ws_codec *c, uint8_t *out, size_t room);
/* All bytes produced so far are written. */
void ws_codec_flushed(struct ws_codec *c);
/* Takes the tag of a message whose last byte is among the flushed ones. */
bool ws_codec_sent(struct ws_codec *c, uint64_t *ret_tag);
/* Bytes of messages not yet flushed. */
size_t ws_codec_unsent(const struct ws_codec *c);

#endif
