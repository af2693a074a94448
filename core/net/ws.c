/* A WebSocket client connection.
 *
 *   CONNECTING --curl is done--> UPGRADING --101--> OPEN --ws_close, end--> CLOSED --handles
 * closed--> freed
 *        \_______________________________\_____________\__failure: closed()__/
 *
 * libcurl connects (proxy, TLS) and keeps the connection: the easy handle stays in the multi
 * handle, done, and curl_easy_send and curl_easy_recv move the bytes. curl no longer polls the
 * socket, so a poll handle here does. TLS hides received bytes from poll: the socket is read until
 * CURLE_AGAIN.
 *
 * The deadline timer is not reset by each byte: when it fires it looks at when the last one was. */
#include "net/ws.h"

#include "net/net_internal.h"
#include "net/ws_codec.h"
#include "net/ws_handshake.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define OUT_SIZE     (65536 + WS_CODEC_CONTROL_ROOM)
#define ROUND_BYTES  (1 << 20) /* moved in one direction before other sockets get their turn */
#define CLOSE_NORMAL 1000

_Static_assert(WS_MAX_HANDSHAKE >= CURL_MAX_WRITE_SIZE, "a TLS record fits into the input buffer");

enum ws_state { WS_CONNECTING, WS_UPGRADING, WS_OPEN, WS_CLOSED };

struct ws {
    struct net_transfer transfer;
    enum ws_state state;
    struct ws_handler handler;
    uint64_t ping_interval_ms;
    char *shown_url; /* redacted */
    char *host;      /* with port, as in the request */
    char *target;    /* path and query: holds keys */
    char accept[WS_ACCEPT_SIZE];
    struct ws_codec *codec;

    uv_poll_t poll;
    uv_timer_t timer;
    bool polled; /* the poll handle was initialised */
    int handles; /* not yet closed */
    int events;  /* polled for */
    curl_socket_t fd;

    uint8_t in[WS_MAX_HANDSHAKE];
    size_t in_begin, in_end;
    uint8_t *out; /* OUT_SIZE */
    size_t out_begin, out_end;
    bool more; /* reading stopped before CURLE_AGAIN */

    uint64_t received_ms, written_ms; /* the last byte */
    uint64_t acked_ms;                /* when the peer's TCP was last seen to take bytes */
    int64_t acked;                    /* how many it had taken then */
    uint64_t written;                 /* bytes in all */
    uint64_t ping_ms;                 /* of the ping that is not answered; 0: none */
    bool suspect;                     /* the idle time is over; one more look at the socket */
};

static void update(struct ws *w);

static uint64_t now_ms(const struct ws *w)
{
    return uv_now(w->transfer.net->loop);
}

static void free_ws(struct ws *w)
{
    ws_codec_free(w->codec);
    free(w->shown_url);
    free(w->host);
    free(w->target);
    free(w->out);
    free(w);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct ws *w = handle->data;
    if (--w->handles > 0)
        return;
    struct net *n = w->transfer.net;
    free_ws(w);
    net_release(n);
}

/* The poll handle goes first: curl closes the socket. Memory lives until the handles are closed, so
 * that callers up the stack can still see the state. */
static void tear_down(struct ws *w)
{
    w->state = WS_CLOSED;
    if (w->codec)
        ws_codec_stop(w->codec);
    uv_timer_stop(&w->timer);
    uv_close((uv_handle_t *)&w->timer, on_handle_closed);
    if (w->polled) {
        uv_poll_stop(&w->poll);
        uv_close((uv_handle_t *)&w->poll, on_handle_closed);
    }
    net_transfer_stop(&w->transfer);
}

static void fail(struct ws *w, int http_status, const struct err *e)
{
    tear_down(w);
    w->handler.closed(w, e->code, http_status, e, w->handler.ctx);
}

static void fail_curl(struct ws *w, CURLcode result)
{
    struct err e;
    net_transfer_error(&w->transfer, result, w->shown_url, &e);
    fail(w, 0, &e);
}

static void fail_wrapped(struct ws *w, int http_status, struct err *e)
{
    err_wrap(e, "%s", w->shown_url);
    fail(w, http_status, e);
}

/* About how many bytes the other end's TCP (a proxy's counts) has acknowledged: what is not yet is
 * in SIOCOUTQ, tcp(7). TLS adds a little that is not counted in `written`; only growth matters. */
static int64_t acked_bytes(const struct ws *w)
{
    int queued = 0;
    return ioctl(w->fd, SIOCOUTQ, &queued) ? 0 : (int64_t)w->written - queued;
}

/* Something is awaited from now on. */
static void start_waiting(struct ws *w)
{
    w->acked_ms = now_ms(w);
    w->acked = acked_bytes(w);
}

static bool is_waiting(const struct ws *w)
{
    return w->state == WS_UPGRADING || w->ping_ms > 0 || w->out_begin < w->out_end ||
           ws_codec_unsent(w->codec) > 0;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The last sign of life. While a ping is out, bytes that only went into our own socket are none. */
static uint64_t alive_ms(const struct ws *w)
{
    return max64(max64(w->received_ms, w->acked_ms), w->ping_ms ? w->ping_ms : w->written_ms);
}

static void on_timer(uv_timer_t *timer);

static void arm_timer(struct ws *w)
{
    uint64_t idle = w->transfer.net->idle_timeout_ms;
    uint64_t due = UINT64_MAX, now = now_ms(w);
    if (idle && is_waiting(w))
        due = alive_ms(w) + idle;
    if (w->state == WS_OPEN && w->ping_interval_ms && !w->ping_ms &&
        w->received_ms + w->ping_interval_ms < due)
        due = w->received_ms + w->ping_interval_ms;
    if (w->more || w->suspect)
        due = now + w->suspect;
    if (due == UINT64_MAX)
        uv_timer_stop(&w->timer);
    else
        uv_timer_start(&w->timer, on_timer, due > now ? due - now : 0, 0);
}

/* Returns false when the connection is gone. */
static bool flush(struct ws *w)
{
    while (w->out_begin < w->out_end) {
        size_t n;
        CURLcode rc =
            curl_easy_send(w->transfer.easy, w->out + w->out_begin, w->out_end - w->out_begin, &n);
        if (rc == CURLE_AGAIN)
            return true;
        if (rc) {
            fail_curl(w, rc);
            return false;
        }
        w->out_begin += n;
        w->written += n;
        w->written_ms = now_ms(w);
        w->suspect = false;
    }
    w->out_begin = w->out_end = 0;
    return true;
}

static bool write_some(struct ws *w)
{
    size_t moved = 0;
    for (;;) {
        if (!flush(w))
            return false;
        if (w->out_begin < w->out_end || w->state != WS_OPEN)
            return true;
        ws_codec_flushed(w->codec);
        uint64_t tag;
        while (ws_codec_sent(w->codec, &tag)) {
            if (w->handler.sent)
                w->handler.sent(w, tag, w->handler.ctx);
            if (w->state != WS_OPEN)
                return false;
        }
        if (moved >= ROUND_BYTES)
            return true;
        ssize_t n = ws_codec_produce(w->codec, w->out, OUT_SIZE);
        if (n < 0) {
            struct err e;
            err_set(&e, (int)n, "%s: a WebSocket frame cannot be made", w->shown_url);
            fail(w, 0, &e);
            return false;
        }
        if (n == 0)
            return true;
        w->out_end = (size_t)n;
        moved += (size_t)n;
    }
}

/* The close frame that answers the peer's, or tells it what was wrong, if it can be written at
 * once. */
static void fail_codec(struct ws *w, struct err *e)
{
    if (w->out_begin == w->out_end) {
        ssize_t n = ws_codec_produce(w->codec, w->out, OUT_SIZE);
        size_t written;
        if (n > 0)
            curl_easy_send(w->transfer.easy, w->out, (size_t)n, &written);
    }
    fail_wrapped(w, 0, e);
}

static bool take_upgrade(struct ws *w)
{
    struct err e;
    int status;
    int n = ws_handshake_parse((const char *)w->in, w->in_end, w->accept, &status, &e);
    if (n < 0) {
        fail_wrapped(w, status == 101 ? 0 : status, &e);
        return false;
    }
    if (n == 0)
        return true;
    w->in_begin = (size_t)n;
    w->state = WS_OPEN;
    w->handler.opened(w, w->handler.ctx);
    return w->state == WS_OPEN;
}

static bool take_input(struct ws *w)
{
    if (w->state == WS_UPGRADING && !take_upgrade(w))
        return false;
    while (w->state == WS_OPEN && w->in_begin < w->in_end && !ws_codec_congested(w->codec)) {
        size_t n = w->in_end - w->in_begin;
        if (n > WS_CODEC_FEED_MAX)
            n = WS_CODEC_FEED_MAX;
        const uint8_t *data = w->in + w->in_begin;
        w->in_begin += n;
        struct err e;
        int rc = ws_codec_feed(w->codec, data, n, &e);
        if (w->state != WS_OPEN)
            return false;
        if (rc) {
            fail_codec(w, &e);
            return false;
        }
    }
    if (w->in_begin == w->in_end)
        w->in_begin = w->in_end = 0;
    return true;
}

static bool read_some(struct ws *w)
{
    size_t moved = 0;
    for (;;) {
        if (!take_input(w))
            return false;
        w->more = false;
        if (w->state == WS_OPEN && w->in_end > 0)
            return true; /* congested: goes on when the pongs are written */
        size_t n;
        CURLcode rc =
            curl_easy_recv(w->transfer.easy, w->in + w->in_end, sizeof w->in - w->in_end, &n);
        if (rc == CURLE_AGAIN)
            return true;
        if (!rc && n == 0) {
            struct err e;
            net_transfer_lost(&w->transfer, "the server closed the connection", w->shown_url, &e);
            fail(w, 0, &e);
            return false;
        }
        if (rc) {
            fail_curl(w, rc);
            return false;
        }
        w->in_end += n;
        w->transfer.answered = true;
        w->received_ms = now_ms(w);
        w->ping_ms = 0;
        w->suspect = false;
        moved += n;
        if (moved >= ROUND_BYTES) {
            w->more = true;
            return true;
        }
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status; /* an error shows when reading */
    (void)events; /* TLS may want to read in order to write */
    struct ws *w = poll->data;
    if (read_some(w) && write_some(w))
        update(w);
}

/* Polls for what is wanted, and arms the timer where something new is awaited. */
static void update(struct ws *w)
{
    bool congested = w->state == WS_OPEN && w->in_end > 0;
    bool writes =
        w->out_begin < w->out_end || (w->state == WS_OPEN && ws_codec_wants_write(w->codec));
    /* Congestion ends with the writing of the pongs: input that waits here may be all there is. */
    int events = (congested ? 0 : UV_READABLE) | (writes || congested ? UV_WRITABLE : 0);
    if (events != w->events || !uv_is_active((uv_handle_t *)&w->poll)) {
        int rc = uv_poll_start(&w->poll, events, on_poll);
        if (rc) {
            struct err e;
            err_set(&e, ERR_IO, "%s: cannot wait for the socket: %s", w->shown_url,
                    uv_strerror(rc));
            fail(w, 0, &e);
            return;
        }
        w->events = events;
    }
    if (w->more || !uv_is_active((uv_handle_t *)&w->timer))
        arm_timer(w);
}

/* A loop that was held up sees its timers before its sockets: so one more round before an idle time
 * counts. */
static void on_timer(uv_timer_t *timer)
{
    struct ws *w = timer->data;
    if (w->more && !(read_some(w) && write_some(w)))
        return;
    uint64_t now = now_ms(w), idle = w->transfer.net->idle_timeout_ms;
    if (idle && is_waiting(w) && now >= alive_ms(w) + idle) {
        int64_t acked = acked_bytes(w);
        if (acked > w->acked) {
            w->acked = acked;
            w->acked_ms = now;
        } else if (w->suspect) {
            struct err e;
            err_set(&e, ERR_TIMEOUT, "%s: no sign of life for %.3g s", w->shown_url,
                    (double)idle / 1000);
            fail(w, 0, &e);
            return;
        } else {
            w->suspect = true;
        }
    } else {
        w->suspect = false;
    }
    if (w->state == WS_OPEN && w->ping_interval_ms && !w->ping_ms &&
        now >= w->received_ms + w->ping_interval_ms && ws_codec_ping(w->codec) == 0) {
        if (!is_waiting(w))
            start_waiting(w);
        w->ping_ms = now;
    }
    arm_timer(w);
    update(w);
}

static int write_request(struct ws *w, struct err *e)
{
    char key[WS_KEY_SIZE];
    struct buf b = {0};
    int rc = ws_handshake_key(key);
    if (!rc)
        rc = ws_handshake_accept(key, w->accept);
    if (!rc)
        rc = ws_handshake_request(&b, w->host, w->target, key, w->transfer.net->user_agent);
    if (!rc && b.size > OUT_SIZE)
        rc = ERR_INVALID;
    if (!rc) {
        memcpy(w->out, b.data, b.size);
        w->out_end = b.size;
    }
    buf_free(&b);
    return rc ? err_set(e, rc, "the WebSocket request cannot be made: %s", err_text(rc)) : 0;
}

/* curl has connected, or failed to. */
static void on_connected(struct net_transfer *t, CURLcode result)
{
    struct ws *w = (struct ws *)((char *)t - offsetof(struct ws, transfer));
    if (result) {
        fail_curl(w, result);
        return;
    }
    struct err e;
    w->fd = CURL_SOCKET_BAD;
    curl_easy_getinfo(t->easy, CURLINFO_ACTIVESOCKET, &w->fd);
    int rc =
        w->fd == CURL_SOCKET_BAD ? UV_EBADF : uv_poll_init_socket(t->net->loop, &w->poll, w->fd);
    if (rc) {
        err_set(&e, ERR_IO, "%s: cannot wait for the socket: %s", w->shown_url, uv_strerror(rc));
        fail(w, 0, &e);
        return;
    }
    w->poll.data = w;
    w->polled = true;
    w->handles++;
    if (write_request(w, &e)) {
        fail_wrapped(w, 0, &e);
        return;
    }
    w->state = WS_UPGRADING;
    w->received_ms = w->written_ms = now_ms(w);
    start_waiting(w);
    /* Sent from here, not from the loop's next round: a connection that is not yet used may be
     * pruned by curl. */
    if (flush(w))
        update(w);
}

/* Takes the address apart: w->host, w->target and in *ret_base the http(s) address without path,
 * for curl. */
static int set_url(struct ws *w, const char *url, char **ret_base, struct err *e)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *query = NULL, *user = NULL;
    int rc = 0;
    bool plain = false, tls = false;
    if (!u)
        return err_set(e, ERR_NOMEM, "no memory for a WebSocket");
    if (!curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE) &&
        !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0)) {
        plain = !strcmp(scheme, "ws") || !strcmp(scheme, "http");
        tls = !strcmp(scheme, "wss") || !strcmp(scheme, "https");
    }
    curl_url_get(u, CURLUPART_USER, &user, 0);
    if ((!plain && !tls) || curl_url_set(u, CURLUPART_SCHEME, plain ? "http" : "https", 0) ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) || !*host ||
        curl_url_get(u, CURLUPART_PATH, &path, CURLU_URLENCODE))
        rc = err_set(e, ERR_INVALID, "%s: not a ws:// or wss:// address", w->shown_url);
    else if (user)
        rc = err_set(e, ERR_INVALID, "%s: a WebSocket's address takes no user name", w->shown_url);
    if (!rc) {
        curl_url_get(u, CURLUPART_QUERY, &query, CURLU_URLENCODE);
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT);
        if (asprintf(&w->host, "%s%s%s", host, port ? ":" : "", port ? port : "") < 0)
            w->host = NULL;
        if (asprintf(&w->target, "%s%s%s", path, query ? "?" : "", query ? query : "") < 0)
            w->target = NULL;
        if (!w->host || !w->target ||
            asprintf(ret_base, "%s://%s/", plain ? "http" : "https", w->host) < 0)
            rc = err_set(e, ERR_NOMEM, "no memory for a WebSocket");
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    curl_free(user);
    curl_url_cleanup(u);
    return rc;
}

static void on_codec_message(bool binary, const uint8_t *data, size_t size, void *ctx)
{
    struct ws *w = ctx;
    w->handler.message(w, binary, data, size, w->handler.ctx);
}

static int start(struct ws *w, struct net *net, const char *url, const struct ws_options *options,
                 struct err *e)
{
    w->shown_url = net_redact_url(url);
    w->out = malloc(OUT_SIZE);
    w->codec = ws_codec_new(options->max_message, on_codec_message, w);
    if (!w->shown_url || !w->out || !w->codec)
        return err_set(e, ERR_NOMEM, "no memory for a WebSocket");
    char *base = NULL;
    int rc = set_url(w, url, &base, e);
    if (!rc)
        rc = net_transfer_init(&w->transfer, net, base, e);
    free(base);
    if (rc)
        return rc;
    w->transfer.done = on_connected;
    /* Through a proxy by CONNECT also where there is no TLS. */
    CURLcode cc = curl_easy_setopt(w->transfer.easy, CURLOPT_CONNECT_ONLY, 1L);
    if (!cc)
        cc = curl_easy_setopt(w->transfer.easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
    if (cc) {
        curl_easy_cleanup(w->transfer.easy);
        return err_set(e, ERR_UNSUPPORTED, "this libcurl cannot open a bare connection");
    }
    return net_transfer_start(&w->transfer, e);
}

int ws_open(struct ws **ret, struct net *net, const char *url, const struct ws_options *options,
            const struct ws_handler *handler, struct err *e)
{
    struct ws *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, ERR_NOMEM, "no memory for a WebSocket");
    w->handler = *handler;
    w->ping_interval_ms = options->ping_interval_ms;
    int rc = start(w, net, url, options, e);
    if (rc) {
        free_ws(w);
        return rc;
    }
    uv_timer_init(net->loop, &w->timer);
    w->timer.data = w;
    w->received_ms = uv_now(net->loop);
    w->handles = 1;
    net_hold(net);
    *ret = w;
    return 0;
}

int ws_send(struct ws *w, const struct ws_piece *pieces, size_t n, uint64_t tag)
{
    if (w->state == WS_CLOSED)
        return ERR_CLOSED;
    bool waiting = w->state != WS_OPEN || is_waiting(w);
    int rc = ws_codec_send(w->codec, pieces, n, tag);
    if (rc || w->state != WS_OPEN)
        return rc;
    if (!waiting) {
        start_waiting(w);
        arm_timer(w);
    }
    if (!(w->events & UV_WRITABLE) &&
        uv_poll_start(&w->poll, w->events | UV_WRITABLE, on_poll) == 0)
        w->events |= UV_WRITABLE;
    return 0;
}

size_t ws_unsent(const struct ws *w)
{
    return ws_codec_unsent(w->codec);
}

uint64_t ws_silent_ms(const struct ws *w)
{
    return now_ms(w) - w->received_ms;
}

void ws_close(struct ws *w)
{
    if (!w || w->state == WS_CLOSED)
        return;
    if (w->state == WS_OPEN && w->out_begin == w->out_end && ws_codec_unsent(w->codec) == 0 &&
        ws_codec_close(w->codec, CLOSE_NORMAL) == 0) {
        ssize_t n = ws_codec_produce(w->codec, w->out, OUT_SIZE);
        size_t written;
        if (n > 0)
            curl_easy_send(w->transfer.easy, w->out, (size_t)n, &written);
    }
    tear_down(w);
}
