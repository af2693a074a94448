/* wslay takes the frames apart, but for one kind: it unmasks byte by byte, which for a part of 512
 * KiB is two thirds of all the work there is. So frames are told apart here by their headers (RFC
 * 6455, 5.2); a long binary one that is a whole message is read from the socket straight into the
 * message's memory and unmasked by words, all others are fed to wslay one by one. A message's
 * memory goes to its request. Reading stops while too many requests of the connection wait for
 * their answers. */
#include "sandbox/server_ws.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/dispatch.h"
#include "sandbox/server_http.h"
#include "sandbox/sessions.h"
#include "sandbox/upload.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>
#include <wslay/wslay.h>

#define READ_SIZE       (256 * 1024)
#define UNANSWERED_MAX  64
#define CLOSE_TOO_LARGE 1009
#define DIRECT_FROM     16384 /* payload from which a frame bypasses wslay */

struct ws_socket {
    struct conn *conn;
    int fd;
    struct MHD_UpgradeResponseHandle *urh;
    uv_poll_t poll;
    uv_timer_t timer; /* slow reading, idle close */
    unsigned handles;
    wslay_event_context_ptr ws;
    uint8_t in[READ_SIZE];
    size_t in_pos, in_size;
    uint64_t feed_left; /* of the frame that is wslay's, bytes to come */
    size_t direct_left; /* of the frame that is read directly, bytes to come */
    uint8_t mask[4];    /* of that frame */
    bool fragmented;    /* a message of several frames has begun */
    struct buf out;
    size_t out_pos;
    uint8_t *message;
    size_t message_size, message_capacity;
    uint8_t opcode;
    bool control;     /* the frame being read */
    bool read_paused; /* by the slow fault, until the timer */
    bool in_callback;
};

static void update_poll(struct ws_socket *s);

void ws_accept_key(const char *key, char out[29])
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();

    if (md && EVP_DigestInit_ex(md, EVP_sha1(), NULL)) {
        EVP_DigestUpdate(md, key, strlen(key));
        EVP_DigestUpdate(md, magic, sizeof magic - 1);
        EVP_DigestFinal_ex(md, digest, &size);
    }
    EVP_MD_CTX_free(md);
    out[0] = '\0';
    if (size == 20)
        EVP_EncodeBlock((unsigned char *)out, digest, 20);
}

/* ---- wslay ---- */

static ssize_t ws_recv(wslay_event_context_ptr ws, uint8_t *buffer, size_t size, int flags,
                       void *ctx)
{
    struct ws_socket *s = ctx;
    size_t n = s->in_size - s->in_pos;

    (void)flags;
    if (n > s->feed_left)
        n = (size_t)s->feed_left;
    if (n == 0) {
        wslay_event_set_error(ws, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (n > size)
        n = size;
    memcpy(buffer, s->in + s->in_pos, n);
    s->in_pos += n;
    s->feed_left -= n;
    return (ssize_t)n;
}

static ssize_t ws_send(wslay_event_context_ptr ws, const uint8_t *data, size_t size, int flags,
                       void *ctx)
{
    struct ws_socket *s = ctx;

    (void)flags;
    buf_put(&s->out, data, size);
    if (buf_failed(&s->out)) {
        wslay_event_set_error(ws, WSLAY_ERR_CALLBACK_FAILURE);
        return -1;
    }
    return (ssize_t)size;
}

static bool reserve(struct ws_socket *s, size_t size)
{
    uint8_t *grown;

    if (size <= s->message_capacity)
        return true;
    grown = realloc(s->message, size);
    if (!grown)
        return false;
    s->message = grown;
    s->message_capacity = size;
    return true;
}

static void on_frame_start(wslay_event_context_ptr ws,
                           const struct wslay_event_on_frame_recv_start_arg *arg, void *ctx)
{
    struct ws_socket *s = ctx;
    s->control = wslay_is_ctrl_frame(arg->opcode);
    if (s->control)
        return;
    s->fragmented = !arg->fin;
    if (arg->opcode != WSLAY_CONTINUATION_FRAME) {
        s->opcode = arg->opcode;
        s->message_size = 0;
    }
    if (arg->payload_length > SANDBOX_MAX_MESSAGE - s->message_size) {
        wslay_event_queue_close(ws, CLOSE_TOO_LARGE, NULL, 0);
        wslay_event_shutdown_read(ws);
        return;
    }
    if (!reserve(s, s->message_size + (size_t)arg->payload_length)) {
        wslay_event_set_error(ws, WSLAY_ERR_NOMEM);
        wslay_event_shutdown_read(ws);
    }
}

static void on_frame_chunk(wslay_event_context_ptr ws,
                           const struct wslay_event_on_frame_recv_chunk_arg *arg, void *ctx)
{
    struct ws_socket *s = ctx;

    (void)ws;
    if (s->control || arg->data_length > s->message_capacity - s->message_size)
        return;
    memcpy(s->message + s->message_size, arg->data, arg->data_length);
    s->message_size += arg->data_length;
}

/* The message is whole. */
static void deliver(struct ws_socket *s)
{
    struct conn *c = s->conn;
    uint8_t *message = s->message;
    size_t size = s->message_size;

    if (c->closing)
        return;
    s->message = NULL;
    s->message_size = s->message_capacity = 0;
    c->frames++;
    if (s->opcode == WSLAY_BINARY_FRAME) {
        dispatch_frame(c, message, size);
        return;
    }
    log_error("text message on a connection: only binary ones are frames",
              LOG_UINT("connection", c->number), LOG_UINT("bytes", size));
    free(message);
}

static void on_message(wslay_event_context_ptr ws, const struct wslay_event_on_msg_recv_arg *arg,
                       void *ctx)
{
    (void)ws;
    if (!wslay_is_ctrl_frame(arg->opcode))
        deliver(ctx);
}

static const struct wslay_event_callbacks callbacks = {
    .recv_callback = ws_recv,
    .send_callback = ws_send,
    .on_frame_recv_start_callback = on_frame_start,
    .on_frame_recv_chunk_callback = on_frame_chunk,
    .on_msg_recv_callback = on_message,
};

/* ---- Writing ---- */

/* Takes the pongs out of the frames (unmasked, so their headers are plain) that were just appended.
 */
static void remove_pongs(struct buf *out, size_t from)
{
    while (from + 2 <= out->size) {
        const uint8_t *p = out->data + from;
        size_t length = p[1] & 0x7f;
        size_t header = 2;

        if (length == 126) {
            header = 4;
            length = (size_t)p[2] << 8 | p[3];
        } else if (length == 127) {
            header = 10;
            length = 0;
            for (size_t i = 2; i < 10; i++)
                length = length << 8 | p[i];
        }
        if ((p[0] & 0x0f) != WSLAY_PONG) {
            from += header + length;
            continue;
        }
        memmove(out->data + from, p + header + length, out->size - from - header - length);
        out->size -= header + length;
    }
}

/* Frames what is queued and writes what the socket takes; -1 when the connection is lost. */
static int flush(struct ws_socket *s)
{
    size_t before = s->out.size;

    if (wslay_event_want_write(s->ws) && wslay_event_send(s->ws) != 0)
        return -1;
    if (s->conn->sandbox->assume.pong != 0)
        remove_pongs(&s->out, before);
    while (s->out_pos < s->out.size) {
        ssize_t n = send(s->fd, s->out.data + s->out_pos, s->out.size - s->out_pos,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
        s->out_pos += (size_t)n;
    }
    buf_clear(&s->out);
    s->out_pos = 0;
    return 0;
}

void conn_send(struct conn *c, bool binary, const void *data, size_t size)
{
    struct ws_socket *s = c->socket;
    struct wslay_event_msg message = {
        .opcode = binary ? WSLAY_BINARY_FRAME : WSLAY_TEXT_FRAME, .msg = data, .msg_length = size};

    if (c->closing || !s)
        return;
    if (wslay_event_queue_msg(s->ws, &message) != 0) {
        conn_drop(c, 0);
        return;
    }
    if (s->in_callback)
        return; /* flushed when wslay returns */
    if (flush(s) != 0)
        conn_drop(c, 0);
    else
        update_poll(s);
}

/* ---- Reading ---- */

static void unmask(uint8_t *p, size_t n, const uint8_t mask[4], size_t offset)
{
    uint8_t key[8];
    uint64_t word, key_word;
    size_t i = 0;

    for (size_t k = 0; k < sizeof key; k++)
        key[k] = mask[(offset + k) % 4];
    memcpy(&key_word, key, sizeof key_word);
    for (; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, p + i, sizeof word);
        word ^= key_word;
        memcpy(p + i, &word, sizeof word);
    }
    for (; i < n; i++)
        p[i] ^= key[i % sizeof key];
}

/* n more bytes of the frame that is read directly stand behind the message. */
static void direct_received(struct ws_socket *s, size_t n)
{
    unmask(s->message + s->message_size, n, s->mask, s->message_size);
    s->message_size += n;
    s->direct_left -= n;
    if (s->direct_left == 0)
        deliver(s);
}

/* Length of the header and of the payload of the frame that begins at p; false: more bytes are
 * needed. */
static bool frame_lengths(const uint8_t *p, size_t n, size_t *header, uint64_t *payload)
{
    size_t extended;

    if (n < 2)
        return false;
    extended = (p[1] & 0x7f) == 127 ? 8 : (p[1] & 0x7f) == 126 ? 2 : 0;
    *header = 2 + extended + (p[1] & 0x80 ? 4 : 0);
    if (n < *header)
        return false;
    *payload = extended ? 0 : p[1] & 0x7f;
    for (size_t i = 0; i < extended; i++)
        *payload = *payload << 8 | p[2 + i];
    return true;
}

/* A frame begins: decides whose it is. False: its header is not there yet, or it was dropped for
 * lack of memory. */
static bool begin_frame(struct ws_socket *s)
{
    const uint8_t *p = s->in + s->in_pos;
    size_t header, available;
    uint64_t payload;

    if (!frame_lengths(p, s->in_size - s->in_pos, &header, &payload))
        return false;
    /* FIN, no reserved bits, binary, masked; whatever is wrong with a frame, wslay says it. */
    if (p[0] != (0x80 | WSLAY_BINARY_FRAME) || !(p[1] & 0x80) || s->fragmented ||
        payload < DIRECT_FROM || payload > SANDBOX_MAX_MESSAGE) {
        s->feed_left = payload > UINT64_MAX - header ? UINT64_MAX : header + payload;
        return true;
    }
    s->message_size = 0;
    if (!reserve(s, (size_t)payload)) {
        conn_drop(s->conn, 1011);
        return false;
    }
    memcpy(s->mask, p + header - 4, 4);
    s->opcode = WSLAY_BINARY_FRAME;
    s->direct_left = (size_t)payload;
    s->in_pos += header;
    available = s->in_size - s->in_pos;
    if (available > s->direct_left)
        available = s->direct_left;
    memcpy(s->message, s->in + s->in_pos, available);
    s->in_pos += available;
    direct_received(s, available);
    return true;
}

/* All that is buffered; 0, or -1 when the connection is to end. */
static int process_frames(struct ws_socket *s)
{
    struct conn *c = s->conn;
    int rc;

    while (s->in_pos < s->in_size && !c->closing) {
        if (s->feed_left == 0) {
            if (!begin_frame(s))
                break;
            continue;
        }
        s->in_callback = true;
        rc = wslay_event_recv(s->ws);
        s->in_callback = false;
        if (rc != 0 || !wslay_event_get_read_enabled(s->ws) ||
            wslay_event_get_close_received(s->ws))
            return -1;
    }
    s->in_size -= s->in_pos;
    memmove(s->in, s->in + s->in_pos, s->in_size); /* less than a header */
    s->in_pos = 0;
    return 0;
}

static void process(struct ws_socket *s)
{
    struct conn *c = s->conn;
    int rc;

    conn_ref(c);
    rc = process_frames(s);
    if (!c->closing) {
        if (flush(s) != 0 || rc != 0)
            conn_drop(c, 0);
        else
            update_poll(s);
    }
    conn_unref(c);
}

static void on_timer(uv_timer_t *timer)
{
    struct ws_socket *s = timer->data;

    if (s->read_paused) {
        s->read_paused = false;
        update_poll(s);
    } else {
        conn_drop(s->conn, 1000);
        return;
    }
    if (s->conn->sandbox->assume.idle_close != 0)
        uv_timer_start(timer, on_timer, s->conn->sandbox->assume.idle_close * (uint64_t)1000, 0);
}

static void on_readable(struct ws_socket *s)
{
    struct sandbox *sb = s->conn->sandbox;
    uint32_t slow = faults_value(&sb->faults, FAULT_SLOW);
    bool direct = s->direct_left != 0;
    uint8_t *to = direct ? s->message + s->message_size : s->in + s->in_size;
    size_t room = direct ? s->direct_left : READ_SIZE - s->in_size;
    ssize_t n;

    if (slow != 0 && slow / 20 + 1 < room)
        room = slow / 20 + 1;
    n = recv(s->fd, to, room, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (n <= 0) {
        conn_drop(s->conn, 0);
        return;
    }
    if (slow != 0) {
        s->read_paused = true;
        uv_timer_start(&s->timer, on_timer, 50, 0);
    } else if (sb->assume.idle_close != 0) {
        uv_timer_start(&s->timer, on_timer, sb->assume.idle_close * (uint64_t)1000, 0);
    }
    if (direct)
        direct_received(s, (size_t)n);
    else
        s->in_size += (size_t)n;
    if (!s->conn->closing)
        process(s);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct ws_socket *s = poll->data;
    struct conn *c = s->conn;

    conn_ref(c);
    if (status != 0)
        conn_drop(c, 0);
    if (!c->closing && (events & UV_WRITABLE)) {
        if (flush(s) != 0)
            conn_drop(c, 0);
        else
            update_poll(s);
    }
    if (!c->closing && (events & (UV_READABLE | UV_DISCONNECT)))
        on_readable(s);
    conn_unref(c);
}

static void update_poll(struct ws_socket *s)
{
    int events = 0;

    if (s->conn->closing)
        return;
    if (!s->read_paused && s->conn->unanswered < UNANSWERED_MAX)
        events |= UV_READABLE;
    if (s->out_pos < s->out.size)
        events |= UV_WRITABLE;
    if (events == 0)
        uv_poll_stop(&s->poll);
    else
        uv_poll_start(&s->poll, events, on_poll);
}

void conn_answered(struct conn *c)
{
    c->unanswered--;
    if (c->socket && !c->socket->in_callback && c->unanswered == UNANSWERED_MAX - 1)
        update_poll(c->socket);
}

/* ---- Life ---- */

void conn_ref(struct conn *c)
{
    c->refs++;
}

void conn_unref(struct conn *c)
{
    if (--c->refs == 0)
        free(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct ws_socket *s = handle->data;

    if (--s->handles != 0)
        return;
    server_http_give_back(s->conn->sandbox->http, s->urh);
    wslay_event_context_free(s->ws);
    buf_free(&s->out);
    free(s->message);
    conn_unref(s->conn);
    free(s);
}

void conn_drop(struct conn *c, uint16_t status)
{
    struct ws_socket *s = c->socket;

    if (c->closing)
        return;
    if (status != 0 && wslay_event_queue_close(s->ws, status, NULL, 0) == 0)
        (void)flush(s);
    c->closing = true;
    c->socket = NULL;
    DL_DELETE(c->sandbox->conns, c);
    uploads_connection_lost(c->sandbox->uploads, c->number);
    log_debug("connection closed", LOG_UINT("connection", c->number),
              LOG_UINT("frames", c->frames));
    uv_close((uv_handle_t *)&s->poll, on_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
}

void conn_drop_all(struct sandbox *sb)
{
    struct conn *c, *next;

    DL_FOREACH_SAFE(sb->conns, c, next)
    conn_drop(c, 1001);
}

void conn_open(struct sandbox *sb, int fd, struct MHD_UpgradeResponseHandle *urh, const void *extra,
               size_t extra_size)
{
    static uint32_t counter;
    struct conn *c = calloc(1, sizeof *c);
    struct ws_socket *s = calloc(1, sizeof *s);
    int one = 1;

    if (!c || !s || extra_size > sizeof s->in ||
        wslay_event_context_server_init(&s->ws, &callbacks, s) != 0)
        goto fail;
    if (uv_poll_init(sb->loop, &s->poll, fd) != 0) {
        wslay_event_context_free(s->ws);
        goto fail;
    }
    uv_timer_init(sb->loop, &s->timer);
    s->poll.data = s->timer.data = s;
    s->handles = 2;
    s->conn = c;
    s->fd = fd;
    s->urh = urh;
    wslay_event_config_set_no_buffering(s->ws, 1);
    wslay_event_config_set_max_recv_msg_length(s->ws, SANDBOX_MAX_MESSAGE);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
                     sizeof one); /* fails on TLS's socketpair */
    c->sandbox = sb;
    c->socket = s;
    c->refs = 1;
    c->number = ++counter;
    DL_APPEND(sb->conns, c);
    log_debug("connection opened", LOG_UINT("connection", c->number));
    if (sb->assume.idle_close != 0)
        uv_timer_start(&s->timer, on_timer, sb->assume.idle_close * (uint64_t)1000, 0);
    update_poll(s);
    if (extra_size != 0) {
        memcpy(s->in, extra, extra_size);
        s->in_size = extra_size;
        process(s);
    }
    return;
fail:
    free(c);
    free(s);
    server_http_give_back(sb->http, urh);
}
