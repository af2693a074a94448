/* The connections of a session. Slot 0 is for general requests; it begins as the login's
 * connection. The others are opened as the queue of uploads asks for them, and register themselves
 * in the session first. */
#include "postdicom/pd_session_internal.h"

#include "base/clock.h"

#define SLOT_BACKOFF_MIN 1000U
#define SLOT_BACKOFF_MAX 60000U

static bool any_upload(const struct pd_session *s, enum pd_slot_state at_least)
{
    for (size_t i = 1; i < s->n_slots; i++)
        if (s->slots[i].state >= at_least)
            return true;
    return false;
}

void pd_slot_failed(struct pd_slot *slot, bool opening, int status, int http_status,
                    const struct err *e)
{
    struct pd_session *s = slot->session;
    unsigned channel = slot == s->slots ? 0 : 1;
    bool others = channel == 1 && any_upload(s, SLOT_READY);
    if (http_status >= 400 && http_status < 500 && http_status != 407 && http_status != 429) {
        pd_session_lose(s, e->text);
        return;
    }
    slot->backoff_ms = slot->backoff_ms ? slot->backoff_ms * 2 : SLOT_BACKOFF_MIN;
    if (slot->backoff_ms > SLOT_BACKOFF_MAX)
        slot->backoff_ms = SLOT_BACKOFF_MAX;
    slot->not_before_ms = clock_monotonic_ms() + slot->backoff_ms;
    if (others)
        return; /* they take over; perhaps there may not be so many */
    pd_session_tell_down(s, status, 0, e);
    if (opening) {
        if (channel == 0 || !any_upload(s, SLOT_CONNECTING))
            pd_session_drop(s, status, e);
        return;
    }
    if (++s->barren[channel] >= 2)
        pd_session_lose(s, "its connections end without an answer");
}

static void on_closed(struct pd_connection *c, int status, int http_status, const struct err *e,
                      void *ctx)
{
    struct pd_slot *slot = ctx;
    bool opening = slot->state != SLOT_READY;
    bool barren = slot->carried > 0 && slot->in_flight > 0 && pd_connection_answered(c) <= 1;
    slot->connection = NULL;
    slot->state = SLOT_NONE;
    slot->session->losses += slot != slot->session->slots;
    if (opening || barren)
        pd_slot_failed(slot, opening, status, http_status, e);
}

static void on_registered(struct pd_request *r, int status, const struct frame_answer *answer,
                          const struct err *e)
{
    struct pd_slot *slot = (struct pd_slot *)((char *)r - offsetof(struct pd_slot, request));
    struct pd_answer a;
    struct err ignored;
    (void)e;
    if (status)
        return; /* on_closed has dealt with it */
    /* Whatever it says, it means registered; but what it said may explain what comes. */
    slot->doubtful =
        pd_answer_parse_frame(answer, &slot->session->keys, &a, &ignored) != 0 || !a.ok;
    pd_answer_free(&a);
    slot->state = SLOT_READY;
    pd_calls_pump(slot->session);
}

static void on_opened(struct pd_connection *c, void *ctx)
{
    struct pd_slot *slot = ctx;
    slot->state = SLOT_REGISTERING;
    slot->request = (struct pd_request){.type = FRAME_SESSION,
                                        .management = FRAME_REGISTER_SESSION,
                                        .json = slot->session->register_json,
                                        .cb = on_registered};
    if (pd_connection_send(c, &slot->request)) {
        struct err e;
        err_set(&e, ERR_NOMEM, "no memory to register a connection");
        slot->connection = NULL;
        slot->state = SLOT_NONE;
        pd_connection_close(c, e.code, e.text);
        pd_slot_failed(slot, true, e.code, 0, &e);
    }
}

struct pd_connection_handler pd_slot_handler(struct pd_slot *slot)
{
    return (struct pd_connection_handler){.opened = on_opened, .closed = on_closed, .ctx = slot};
}

int pd_slot_open(struct pd_slot *slot, struct err *e)
{
    struct pd_session *s = slot->session;
    struct pd_connection_options o = {.idle_timeout_ms = s->options->idle_timeout_ms,
                                      .ping_interval_ms = s->options->ping_interval_ms};
    struct pd_connection_handler h = pd_slot_handler(slot);
    int status = pd_connection_open(&slot->connection, s->loop, s->net, s->socket_url, &o, &h, e);
    if (status)
        return status;
    slot->state = SLOT_CONNECTING;
    slot->carried = 0;
    return 0;
}

struct pd_slot *pd_slots_best(struct pd_session *s)
{
    struct pd_slot *best = NULL;
    for (size_t i = 1; i < s->n_slots; i++) {
        struct pd_slot *slot = &s->slots[i];
        if (slot->state == SLOT_READY && slot->in_flight < s->options->pipeline &&
            (!best || slot->in_flight < best->in_flight))
            best = slot;
    }
    return best;
}

void pd_slots_open(struct pd_session *s)
{
    struct pd_call *c = s->queue[1];
    unsigned opening = 0, closed = 0, queued = 0;
    uint64_t now = clock_monotonic_ms();
    for (size_t i = 1; i < s->n_slots; i++) {
        enum pd_slot_state state = s->slots[i].state;
        closed += state == SLOT_NONE;
        opening += state == SLOT_CONNECTING || state == SLOT_REGISTERING;
    }
    for (; c && queued < opening + closed; c = c->next)
        queued++;
    bool alive = any_upload(s, SLOT_CONNECTING);
    for (size_t i = 1; i < s->n_slots && opening < queued; i++) {
        struct pd_slot *slot = &s->slots[i];
        if (slot->state != SLOT_NONE || (alive && now < slot->not_before_ms))
            continue;
        struct err e;
        int status = pd_slot_open(slot, &e);
        if (status) {
            pd_slot_failed(slot, true, status, 0, &e);
            return;
        }
        alive = true;
        opening++;
    }
}

void pd_slots_close(struct pd_session *s, int status, const char *why)
{
    for (size_t i = 0; i < s->n_slots; i++) {
        struct pd_slot *slot = &s->slots[i];
        struct pd_connection *c = slot->connection;
        slot->connection = NULL;
        slot->state = SLOT_NONE;
        slot->not_before_ms = slot->backoff_ms = 0;
        if (c)
            pd_connection_close(c, status, why);
    }
}
