/* Happy path: ws_open -> opened -> send (id, table) -> sent -> message -> callback -> … ->
 * pd_connection_close. Failures: the WebSocket ends, an answer is not understood, or none comes:
 * all of these end the connection, and what was in flight fails once, since no one can tell any
 * more which answer belongs to what. */
#include "postdicom/pd_connection.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ANSWER (64U * 1024 * 1024) /* a folder list with its orders may be long */

struct pd_connection {
    struct ws *ws; /* non-NULL exactly while it may be used */
    struct pd_connection_options options;
    struct pd_connection_handler handler;
    struct pd_request *table; /* by id, in the order of sending */
    uint32_t next_id;
    uint64_t answered;
    bool open;
    size_t unsent;    /* at the last look */
    uv_timer_t timer; /* runs exactly while something is in flight */
    struct err why;
};

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void forget(struct pd_connection *c, struct pd_request *r)
{
    HASH_DEL(c->table, r);
    buf_free(&r->head);
    buf_free(&r->tail);
    if (!c->table)
        uv_timer_stop(&c->timer);
}

/* Everything in flight fails; the table is taken aside first, since callbacks start new requests
 * elsewhere. */
static void fail_all(struct pd_connection *c, int status)
{
    struct pd_request *r, *next, *table = c->table;
    c->table = NULL;
    HASH_ITER(hh, table, r, next)
    {
        HASH_DEL(table, r);
        buf_free(&r->head);
        buf_free(&r->tail);
        buf_free(&r->early);
        r->cb(r, status, NULL, &c->why);
    }
}

/* `ws` is gone already, or goes here. The memory stays until the loop comes round, for those on the
 * stack. */
static void end(struct pd_connection *c, int status, int http_status, const struct err *e,
                bool tell)
{
    if (e)
        c->why = *e;
    c->open = false;
    if (c->ws)
        ws_close(c->ws);
    c->ws = NULL;
    uv_timer_stop(&c->timer);
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
    if (tell)
        c->handler.closed(c, status, http_status, &c->why, c->handler.ctx);
    fail_all(c, status);
}

static void on_opened(struct ws *w, void *ctx)
{
    struct pd_connection *c = ctx;
    (void)w;
    c->open = true;
    c->handler.opened(c, c->handler.ctx);
}

static void complete(struct pd_connection *c, struct pd_request *r, const uint8_t *data,
                     size_t size)
{
    struct frame_answer answer;
    struct pd_request *other;
    struct err e;
    uint64_t now = clock_monotonic_ms();
    if (frame_decode_answer(data, size, &answer, &e)) {
        end(c, e.code, 0, &e, true);
        return;
    }
    /* Those behind it had to wait for it. */
    for (other = r->hh.next; other; other = other->hh.next)
        other->active_ms = now;
    forget(c, r);
    c->answered++;
    r->cb(r, 0, &answer, NULL);
}

static void on_message(struct ws *w, bool binary, const uint8_t *data, size_t size, void *ctx)
{
    struct pd_connection *c = ctx;
    struct frame_answer answer;
    struct err e;
    (void)w;
    if (!binary)
        return; /* the protocol has none; what it says cannot belong to a request */
    if (frame_decode_answer(data, size, &answer, &e)) {
        end(c, e.code, 0, &e, true);
        return;
    }
    struct pd_request *r;
    HASH_FIND(hh, c->table, &answer.request_id, sizeof(answer.request_id), r);
    if (!r)
        return; /* the server's own initiative, or an answer twice */
    if (!r->sent) {
        /* The socket has all of it, but we have not been told yet; the bytes are lent until then.
         */
        buf_clear(&r->early);
        buf_put(&r->early, data, size);
        if (buf_failed(&r->early)) {
            err_set(&e, ERR_NOMEM, "no memory for an answer");
            end(c, e.code, 0, &e, true);
        }
        return;
    }
    complete(c, r, data, size);
}

static void on_sent(struct ws *w, uint64_t tag, void *ctx)
{
    struct pd_connection *c = ctx;
    uint32_t id = (uint32_t)tag;
    struct pd_request *r;
    (void)w;
    HASH_FIND(hh, c->table, &id, sizeof(id), r);
    if (!r)
        return;
    r->sent = true;
    r->active_ms = clock_monotonic_ms();
    buf_free(&r->head);
    buf_free(&r->tail);
    if (r->early.size > 0) {
        struct buf early = r->early;
        r->early = (struct buf){0};
        complete(c, r, early.data, early.size);
        buf_free(&early);
    }
}

static void on_ws_closed(struct ws *w, int status, int http_status, const struct err *e, void *ctx)
{
    struct pd_connection *c = ctx;
    (void)w;
    c->ws = NULL;
    end(c, status ? status : ERR_CLOSED, http_status, e, true);
}

/* Only what cannot be waiting for anything else counts: bytes that still leave us keep everything
 * alive. */
static void on_tick(uv_timer_t *timer)
{
    struct pd_connection *c = timer->data;
    uint64_t now = clock_monotonic_ms();
    size_t unsent = ws_unsent(c->ws);
    bool moving = unsent != c->unsent;
    struct pd_request *r, *next;
    c->unsent = unsent;
    HASH_ITER(hh, c->table, r, next)
    {
        if (moving && !r->sent)
            r->active_ms = now;
        if (now - r->active_ms < c->options.idle_timeout_ms)
            continue;
        struct err e;
        err_set(&e, ERR_TIMEOUT, r->sent ? "no answer for %llu s" : "could not send for %llu s",
                (unsigned long long)(c->options.idle_timeout_ms / 1000));
        end(c, e.code, 0, &e, true);
        return;
    }
}

int pd_connection_open(struct pd_connection **ret, uv_loop_t *loop, struct net *net,
                       const char *url, const struct pd_connection_options *options,
                       const struct pd_connection_handler *handler, struct err *e)
{
    struct pd_connection *c = calloc(1, sizeof(*c));
    *ret = NULL;
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for a connection");
    c->options = *options;
    c->handler = *handler;
    c->next_id = 1;
    struct ws_handler ws_handler = {.opened = on_opened,
                                    .message = on_message,
                                    .sent = on_sent,
                                    .closed = on_ws_closed,
                                    .ctx = c};
    struct ws_options ws_options = {.ping_interval_ms = options->ping_interval_ms,
                                    .max_message = MAX_ANSWER};
    int status = ws_open(&c->ws, net, url, &ws_options, &ws_handler, e);
    if (status) {
        free(c);
        return status;
    }
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    *ret = c;
    return 0;
}

int pd_connection_send(struct pd_connection *c, struct pd_request *r)
{
    if (!c->open || !c->ws)
        return ERR_CLOSED;
    r->id = c->next_id++;
    r->sent = false;
    r->active_ms = clock_monotonic_ms();
    r->head = r->tail = r->early = (struct buf){0};
    struct frame_request frame = {.type = r->type,
                                  .id = r->id,
                                  .management = r->management,
                                  .json = r->json,
                                  .json_size = strlen(r->json),
                                  .bytes = r->bytes,
                                  .bytes_size = r->bytes_size,
                                  .user = r->user,
                                  .user_size = r->user ? strlen(r->user) : 0};
    frame_encode_request(&frame, &r->head, &r->tail);
    struct ws_piece pieces[3];
    size_t n = 0;
    pieces[n++] = (struct ws_piece){r->head.data, r->head.size};
    if (r->bytes_size > 0)
        pieces[n++] = (struct ws_piece){r->bytes, r->bytes_size};
    if (r->tail.size > 0)
        pieces[n++] = (struct ws_piece){r->tail.data, r->tail.size};
    int status = buf_failed(&r->head) || buf_failed(&r->tail) ? ERR_NOMEM : 0;
    if (status == 0) {
        HASH_ADD(hh, c->table, id, sizeof(r->id), r);
        if (!r->hh.tbl)
            status = ERR_NOMEM;
    }
    if (status == 0) {
        if (!uv_is_active((uv_handle_t *)&c->timer)) {
            uint64_t tick = c->options.idle_timeout_ms / 8;
            tick = tick < 20 ? 20 : tick > 1000 ? 1000 : tick;
            uv_timer_start(&c->timer, on_tick, tick, tick);
        }
        status = ws_send(c->ws, pieces, n, r->id);
        if (status)
            forget(c, r);
    }
    if (status) {
        buf_free(&r->head);
        buf_free(&r->tail);
    }
    return status;
}

void pd_connection_set_handler(struct pd_connection *c, const struct pd_connection_handler *handler)
{
    c->handler = *handler;
}

unsigned pd_connection_in_flight(const struct pd_connection *c)
{
    return HASH_COUNT(c->table);
}

uint64_t pd_connection_silent_ms(const struct pd_connection *c)
{
    return ws_silent_ms(c->ws);
}

uint64_t pd_connection_answered(const struct pd_connection *c)
{
    return c->answered;
}

void pd_connection_close(struct pd_connection *c, int status, const char *why)
{
    struct err e;
    err_set(&e, status, "%s", why);
    end(c, status, 0, &e, false);
}
