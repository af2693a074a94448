/* Requests of a session: they wait in one of two queues (general, uploads) until a connection can
 * take them. A callback never comes from within pd_session_send. */
#include "postdicom/pd_session_internal.h"

#include <utlist.h>

#define MAIN_IN_FLIGHT 32

static void finish(struct pd_session *s, struct pd_call *c, int status, const struct pd_answer *a,
                   const struct err *e)
{
    s->active--;
    c->cb(c, status, a, e);
}

/* All that is queued fails; the list is taken aside, since callbacks queue anew. */
void pd_calls_fail_queued(struct pd_session *s, unsigned channel, int status, const struct err *e)
{
    struct pd_call *c, *next, *list = s->queue[channel];
    s->queue[channel] = NULL;
    DL_FOREACH_SAFE(list, c, next)
    {
        DL_DELETE(list, c);
        finish(s, c, status, NULL, e);
    }
}

void pd_calls_tell_failed(struct pd_session *s)
{
    struct pd_call *c, *list = s->failing;
    s->failing = NULL;
    while ((c = list) != NULL) {
        DL_DELETE(list, c);
        struct err e = c->why;
        finish(s, c, e.code, NULL, &e);
    }
}

void pd_calls_cancel(struct pd_session *s, const struct err *e)
{
    struct pd_call *c;
    pd_calls_fail_queued(s, 0, ERR_CANCELED, e);
    pd_calls_fail_queued(s, 1, ERR_CANCELED, e);
    while ((c = s->failing) != NULL) {
        DL_DELETE(s->failing, c);
        finish(s, c, ERR_CANCELED, NULL, e);
    }
}

static void on_call_done(struct pd_request *r, int status, const struct frame_answer *frame,
                         const struct err *error)
{
    struct pd_call *c = (struct pd_call *)((char *)r - offsetof(struct pd_call, request));
    struct pd_session *s = c->session;
    struct pd_answer a = {0};
    struct err e = {0};
    bool lost = false;
    c->slot->in_flight--;
    if (status) {
        e = *error;
    } else {
        s->barren[c->upload] = 0;
        c->slot->backoff_ms = 0;
        if (s->events.up)
            s->events.up(s->events.ctx);
        status = pd_answer_parse_frame(frame, &s->keys, &a, &e);
        if (status == 0 && !a.ok && c->slot->doubtful) {
            /* Not the call's fault: the connection does not belong to the session. */
            status = err_set(&e, ERR_SESSION, "the connection is not registered: %s", a.text);
            lost = true;
        }
    }
    if (lost)
        pd_session_lose(s, e.text);
    finish(s, c, status, status ? NULL : &a, &e);
    pd_answer_free(&a);
    pd_calls_pump(s);
    pd_session_watch_idle(s);
}

/* Hands a queued call to a connection. */
static void dispatch(struct pd_session *s, unsigned channel, struct pd_slot *slot)
{
    struct pd_call *c = s->queue[channel];
    DL_DELETE(s->queue[channel], c);
    c->slot = slot;
    c->request.cb = on_call_done;
    int status = pd_connection_send(slot->connection, &c->request);
    if (status) {
        err_set(&c->why, status, "%s", err_text(status));
        DL_APPEND(s->failing, c);
        pd_session_soon(s);
        return;
    }
    c->carried = true;
    slot->in_flight++;
    slot->carried++;
}

void pd_calls_pump(struct pd_session *s)
{
    if (s->state != SESSION_OPEN)
        return;
    struct pd_slot *main_slot = &s->slots[0];
    while (s->queue[0] && main_slot->state == SLOT_READY && main_slot->in_flight < MAIN_IN_FLIGHT)
        dispatch(s, 0, main_slot);
    if (s->queue[0] && main_slot->state == SLOT_NONE) {
        struct err e;
        int status = pd_slot_open(main_slot, &e);
        if (status)
            pd_slot_failed(main_slot, true, status, 0, &e);
    }
    if (s->state != SESSION_OPEN)
        return;
    struct pd_slot *slot;
    while (s->queue[1] && (slot = pd_slots_best(s)) != NULL)
        dispatch(s, 1, slot);
    if (s->queue[1])
        pd_slots_open(s);
}

void pd_session_send(struct pd_session *s, struct pd_call *c)
{
    c->session = s;
    c->slot = NULL;
    c->carried = false;
    s->active++;
    uv_timer_stop(&s->idle);
    if (s->state != SESSION_OPEN) {
        err_set(&c->why, ERR_SESSION, "the session is closed");
        DL_APPEND(s->failing, c);
        pd_session_soon(s);
        return;
    }
    DL_APPEND(s->queue[c->upload], c);
    pd_calls_pump(s);
}
