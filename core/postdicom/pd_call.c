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

/* Callbacks send and cancel calls, and may come to end others in their turn: so each is taken from
 * the list when it is due. */
static void end_all(struct pd_session *s)
{
    struct pd_call *c;
    while ((c = s->ending) != NULL) {
        DL_DELETE(s->ending, c);
        c->place = PD_CALL_GONE;
        struct err e = c->why;
        finish(s, c, e.code, NULL, &e);
    }
}

static void end_queued(struct pd_session *s, unsigned channel, int status, const struct err *e)
{
    struct pd_call *c;
    DL_FOREACH(s->queue[channel], c)
    {
        c->why = *e;
        c->why.code = status;
        c->place = PD_CALL_ENDING;
    }
    DL_CONCAT(s->ending, s->queue[channel]);
    s->queue[channel] = NULL;
}

static void end_failing(struct pd_session *s)
{
    struct pd_call *c;
    DL_FOREACH(s->failing, c)
    {
        c->place = PD_CALL_ENDING;
    }
    DL_CONCAT(s->ending, s->failing);
    s->failing = NULL;
}

void pd_calls_fail_queued(struct pd_session *s, int status, const struct err *e)
{
    end_queued(s, 0, status, e);
    end_queued(s, 1, status, e);
    end_all(s);
}

void pd_calls_tell_failed(struct pd_session *s)
{
    end_failing(s);
    end_all(s);
}

void pd_calls_cancel(struct pd_session *s, const struct err *e)
{
    struct pd_call *c;
    pd_calls_fail_queued(s, ERR_CANCELED, e);
    while (s->failing) {
        DL_FOREACH(s->failing, c)
        {
            c->why = *e;
        }
        pd_calls_tell_failed(s);
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
        if (status == 0 && a.ok && c->request.bytes)
            s->progress = true;
    }
    if (lost)
        pd_session_lose(s, e.text);
    finish(s, c, status, status ? NULL : &a, &e);
    pd_answer_free(&a);
    pd_calls_pump(s);
    pd_session_watch_idle(s);
}

static void fail_soon(struct pd_session *s, struct pd_call *c)
{
    c->place = PD_CALL_FAILING;
    DL_APPEND(s->failing, c);
    pd_session_soon(s);
}

/* Hands a queued call to a connection. */
static void dispatch(struct pd_session *s, unsigned channel, struct pd_slot *slot)
{
    struct pd_call *c = s->queue[channel];
    DL_DELETE(s->queue[channel], c);
    c->place = PD_CALL_GONE;
    c->slot = slot;
    c->request.cb = on_call_done;
    int status = pd_connection_send(slot->connection, &c->request);
    if (status) {
        err_set(&c->why, status, "%s", err_text(status));
        fail_soon(s, c);
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
        fail_soon(s, c);
        return;
    }
    c->place = PD_CALL_QUEUED;
    DL_APPEND(s->queue[c->upload], c);
    pd_calls_pump(s);
}

bool pd_session_cancel(struct pd_session *s, struct pd_call *c)
{
    if (c->place == PD_CALL_GONE)
        return false;
    if (c->place == PD_CALL_QUEUED)
        DL_DELETE(s->queue[c->upload], c);
    else if (c->place == PD_CALL_FAILING)
        DL_DELETE(s->failing, c);
    else
        DL_DELETE(s->ending, c);
    c->place = PD_CALL_GONE;
    s->active--;
    pd_session_watch_idle(s);
    return true;
}
