/* Two wslay contexts share the stream: its event interface receives (it checks what RFC 6455
 * demands, answers pings and closes) and sends the control frames; its frame interface sends the
 * messages, because the event interface would copy a message whole or cut it into fragments. They
 * take turns at frame boundaries only. */
#include "net/ws_codec.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>
#include <wslay/wslay.h>

#define MAX_PIECES    3
#define FRAME_HEADER  14 /* the longest: 2, 8 of length, 4 of mask */
#define MAX_PONGS     16 /* waiting, before feeding stops */
#define KEEP_CAPACITY 65536

struct message {
    struct message *prev, *next;
    uint64_t tag;
    size_t size;   /* of all pieces */
    size_t piece;  /* being sent… */
    size_t offset; /* …from here */
    size_t n;
    struct ws_piece pieces[MAX_PIECES];
};

struct ws_codec {
    wslay_event_context_ptr event;
    wslay_frame_context_ptr frame;
    size_t max_message;
    ws_codec_message message;
    void *ctx;

    /* receiving */
    const uint8_t *in; /* during ws_codec_feed */
    size_t in_size;
    struct buf body; /* of the message that is arriving */
    bool control;    /* the frame that is arriving is a control frame */
    bool stopped;
    bool too_long;

    /* sending */
    struct message *queue;   /* the first is being framed if in_frame */
    struct message *staged;  /* wholly produced, not yet flushed */
    struct message *flushed; /* waiting for ws_codec_sent */
    bool in_frame;
    uint8_t *out; /* during ws_codec_produce */
    size_t out_size, out_room;
    size_t unsent;
    size_t produced; /* payload among the bytes produced and not yet flushed */

    uint8_t random[256];
    size_t random_left;
};

/* RFC 6455, 10.3: masks must not be predictable. */
static int gen_mask(struct ws_codec *c, uint8_t *out, size_t n)
{
    if (c->random_left < n) {
        if (getrandom(c->random, sizeof c->random, 0) != (ssize_t)sizeof c->random)
            return -1;
        c->random_left = sizeof c->random;
    }
    c->random_left -= n;
    memcpy(out, c->random + c->random_left, n);
    return 0;
}

static int on_event_mask(wslay_event_context_ptr event, uint8_t *out, size_t n, void *ctx)
{
    (void)event;
    return gen_mask(ctx, out, n);
}

static int on_frame_mask(uint8_t *out, size_t n, void *ctx)
{
    return gen_mask(ctx, out, n);
}

static ssize_t put_out(struct ws_codec *c, const uint8_t *data, size_t n, size_t room)
{
    if (n > room - c->out_size)
        n = room - c->out_size;
    memcpy(c->out + c->out_size, data, n);
    c->out_size += n;
    return (ssize_t)n;
}

static ssize_t on_event_send(wslay_event_context_ptr event, const uint8_t *data, size_t n,
                             int flags, void *ctx)
{
    (void)flags;
    struct ws_codec *c = ctx;
    ssize_t r = put_out(c, data, n, c->out_room);
    if (r > 0)
        return r;
    wslay_event_set_error(event, WSLAY_ERR_WOULDBLOCK);
    return -1;
}

static ssize_t on_frame_send(const uint8_t *data, size_t n, int flags, void *ctx)
{
    (void)flags;
    struct ws_codec *c = ctx;
    ssize_t r = put_out(c, data, n, c->out_room - WS_CODEC_CONTROL_ROOM);
    return r > 0 ? r : -1;
}

static ssize_t on_recv(wslay_event_context_ptr event, uint8_t *out, size_t n, int flags, void *ctx)
{
    (void)flags;
    struct ws_codec *c = ctx;
    if (c->in_size == 0) {
        wslay_event_set_error(event, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (n > c->in_size)
        n = c->in_size;
    memcpy(out, c->in, n);
    c->in += n;
    c->in_size -= n;
    return (ssize_t)n;
}

static void on_frame_start(wslay_event_context_ptr event,
                           const struct wslay_event_on_frame_recv_start_arg *arg, void *ctx)
{
    struct ws_codec *c = ctx;
    c->control = wslay_is_ctrl_frame(arg->opcode);
    if (c->control)
        return;
    if (arg->opcode != WSLAY_CONTINUATION_FRAME)
        buf_clear(&c->body);
    if (arg->payload_length > c->max_message - c->body.size) {
        c->too_long = true;
        wslay_event_queue_close(event, WSLAY_CODE_MESSAGE_TOO_BIG, NULL, 0);
        wslay_event_shutdown_read(event);
    }
}

static void on_frame_chunk(wslay_event_context_ptr event,
                           const struct wslay_event_on_frame_recv_chunk_arg *arg, void *ctx)
{
    (void)event;
    struct ws_codec *c = ctx;
    if (!c->control && !c->too_long && arg->data_length > 0)
        buf_put(&c->body, arg->data, arg->data_length);
}

static void on_message(wslay_event_context_ptr event, const struct wslay_event_on_msg_recv_arg *arg,
                       void *ctx)
{
    (void)event;
    struct ws_codec *c = ctx;
    if (wslay_is_ctrl_frame(arg->opcode) || c->stopped || c->too_long || buf_failed(&c->body))
        return;
    const uint8_t *data = c->body.size > 0 ? c->body.data : (const uint8_t *)"";
    c->message(arg->opcode == WSLAY_BINARY_FRAME, data, c->body.size, c->ctx);
    if (c->body.capacity > KEEP_CAPACITY)
        buf_free(&c->body);
    else
        buf_clear(&c->body);
}

struct ws_codec *ws_codec_new(size_t max_message, ws_codec_message message, void *ctx)
{
    static const struct wslay_event_callbacks event_callbacks = {
        .recv_callback = on_recv,
        .send_callback = on_event_send,
        .genmask_callback = on_event_mask,
        .on_frame_recv_start_callback = on_frame_start,
        .on_frame_recv_chunk_callback = on_frame_chunk,
        .on_msg_recv_callback = on_message,
    };
    static const struct wslay_frame_callbacks frame_callbacks = {
        .send_callback = on_frame_send,
        .genmask_callback = on_frame_mask,
    };
    struct ws_codec *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->max_message = max_message;
    c->message = message;
    c->ctx = ctx;
    if (wslay_event_context_client_init(&c->event, &event_callbacks, c) ||
        wslay_frame_context_init(&c->frame, &frame_callbacks, c)) {
        ws_codec_free(c);
        return NULL;
    }
    wslay_event_config_set_no_buffering(c->event, 1);
    wslay_event_config_set_max_recv_msg_length(c->event, UINT64_MAX); /* on_frame_start checks */
    return c;
}

static void free_messages(struct message *list)
{
    struct message *m, *next;
    DL_FOREACH_SAFE(list, m, next)
    free(m);
}

void ws_codec_free(struct ws_codec *c)
{
    if (!c)
        return;
    free_messages(c->queue);
    free_messages(c->staged);
    free_messages(c->flushed);
    if (c->event)
        wslay_event_context_free(c->event);
    wslay_frame_context_free(c->frame);
    buf_free(&c->body);
    free(c);
}

static const char *close_name(unsigned code)
{
    static const struct {
        unsigned code;
        const char *name;
    } names[] = {
        {1000, "normal closure"},   {1001, "going away"},      {1002, "protocol error"},
        {1003, "unsupported data"}, {1005, "without a code"},  {1007, "invalid data"},
        {1008, "policy violation"}, {1009, "message too big"}, {1010, "missing extension"},
        {1011, "internal error"},   {1012, "service restart"}, {1013, "try again later"},
        {1014, "bad gateway"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code)
            return names[i].name;
    return "private use";
}

int ws_codec_feed(struct ws_codec *c, const uint8_t *data, size_t size, struct err *e)
{
    c->in = data;
    c->in_size = size;
    int rc = 0;
    /* It also returns when it needs more bytes for a header than one call of on_recv gave. */
    while (rc == 0 && c->in_size > 0 && wslay_event_get_read_enabled(c->event))
        rc = wslay_event_recv(c->event);
    if (c->stopped)
        return 0;
    if (rc == WSLAY_ERR_NOMEM || buf_failed(&c->body))
        return err_set(e, ERR_NOMEM, "no memory for a WebSocket message");
    if (c->too_long)
        return err_set(e, ERR_PROTOCOL, "the server sent a WebSocket message longer than %zu bytes",
                       c->max_message);
    if (wslay_event_get_close_received(c->event)) {
        unsigned code = wslay_event_get_status_code_received(c->event);
        return err_set(e, ERR_CLOSED, "the server closed the WebSocket (%u, %s)", code,
                       close_name(code));
    }
    if (rc || !wslay_event_get_read_enabled(c->event))
        return err_set(e, ERR_PROTOCOL, "the server sent what is not a WebSocket frame");
    return 0;
}

void ws_codec_stop(struct ws_codec *c)
{
    c->stopped = true;
    wslay_event_shutdown_read(c->event);
}

bool ws_codec_congested(const struct ws_codec *c)
{
    return wslay_event_get_queued_msg_count(c->event) >= MAX_PONGS;
}

int ws_codec_send(struct ws_codec *c, const struct ws_piece *pieces, size_t n, uint64_t tag)
{
    if (n > MAX_PIECES)
        return ERR_INVALID;
    struct message *m = calloc(1, sizeof *m);
    if (!m)
        return ERR_NOMEM;
    m->tag = tag;
    m->n = n;
    for (size_t i = 0; i < n; i++) {
        m->pieces[i] = pieces[i];
        m->size += pieces[i].size;
    }
    DL_APPEND(c->queue, m);
    c->unsent += m->size;
    return 0;
}

int ws_codec_ping(struct ws_codec *c)
{
    struct wslay_event_msg ping = {.opcode = WSLAY_PING};
    return wslay_event_queue_msg(c->event, &ping) == WSLAY_ERR_NOMEM ? ERR_NOMEM : 0;
}

int ws_codec_close(struct ws_codec *c, uint16_t code)
{
    return wslay_event_queue_close(c->event, code, NULL, 0) == WSLAY_ERR_NOMEM ? ERR_NOMEM : 0;
}

bool ws_codec_wants_write(const struct ws_codec *c)
{
    return c->in_frame || wslay_event_want_write(c->event) ||
           (c->queue && wslay_event_get_write_enabled(c->event));
}

/* Frames more of the first message; 0, or 1 when the room is used up, or an ERR_ code. */
static int produce_message(struct ws_codec *c)
{
    struct message *m = c->queue;
    size_t room = c->out_room - WS_CODEC_CONTROL_ROOM;
    if (!c->in_frame && room - c->out_size < FRAME_HEADER)
        return 1;
    c->in_frame = true;
    for (;;) {
        while (m->piece < m->n && m->offset == m->pieces[m->piece].size) {
            m->piece++;
            m->offset = 0;
        }
        bool last = m->piece == m->n;
        if (last && m->size > 0)
            break;
        struct wslay_frame_iocb frame = {
            .fin = 1,
            .opcode = WSLAY_BINARY_FRAME,
            .payload_length = m->size,
            .mask = 1,
            .data = last ? NULL : (const uint8_t *)m->pieces[m->piece].data + m->offset,
            .data_length = last ? 0 : m->pieces[m->piece].size - m->offset,
        };
        ssize_t r = wslay_frame_send(c->frame, &frame);
        if (r == WSLAY_ERR_WANT_WRITE)
            return 1;
        if (r < 0)
            return ERR_IO;
        if (last)
            break;
        m->offset += (size_t)r;
        c->produced += (size_t)r;
    }
    c->in_frame = false;
    DL_DELETE(c->queue, m);
    DL_APPEND(c->staged, m);
    return 0;
}

ssize_t ws_codec_produce(struct ws_codec *c, uint8_t *out, size_t room)
{
    c->out = out;
    c->out_size = 0;
    c->out_room = room;
    int rc = 0;
    while (rc == 0) {
        /* ws_codec_congested bounds them: they fit into the room that messages leave. */
        if (!c->in_frame && wslay_event_want_write(c->event) &&
            (wslay_event_send(c->event) || wslay_event_want_write(c->event)))
            return ERR_IO;
        /* Nothing may follow a close frame. */
        if (!c->queue || (!c->in_frame && !wslay_event_get_write_enabled(c->event)))
            break;
        rc = produce_message(c);
    }
    return rc < 0 ? rc : (ssize_t)c->out_size;
}

void ws_codec_flushed(struct ws_codec *c)
{
    c->unsent -= c->produced;
    c->produced = 0;
    DL_CONCAT(c->flushed, c->staged);
    c->staged = NULL;
}

bool ws_codec_sent(struct ws_codec *c, uint64_t *ret_tag)
{
    struct message *m = c->flushed;
    if (!m)
        return false;
    *ret_tag = m->tag;
    DL_DELETE(c->flushed, m);
    free(m);
    return true;
}

size_t ws_codec_unsent(const struct ws_codec *c)
{
    return c->unsent;
}
