/* States: CLOSED -> OPENING (a login runs) -> OPEN -> CLOSED (lost, idle, renewed).
 *
 * Connections are slots. Slot 0 is for general requests; it begins as the login's connection. The
 * others are opened as the queue of uploads asks for them, and register themselves in the session
 * first.
 *
 * Lost are: a connection (its calls fail with ERR_CLOSED and may be sent again, the slot reopens at
 * need), or the session (everything fails with ERR_SESSION). A session counts as lost when its user
 * says so (a refused Initialize), when two connections in a row end without an answer while no
 * other one works, or when the server refuses a connection to it. */
#include "postdicom/pd_session.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define MAIN_IN_FLIGHT   32
#define YOUNG_MS         10000U /* a session lost earlier than that may have been displaced */
#define YOUNG_LOSSES     3
#define HOLD_MIN_MS      2000U
#define HOLD_MAX_MS      120000U
#define SLOT_BACKOFF_MIN 1000U
#define SLOT_BACKOFF_MAX 60000U

enum state { CLOSED, OPENING, OPEN, CLOSING };
enum slot_state { SLOT_NONE, SLOT_CONNECTING, SLOT_REGISTERING, SLOT_READY };

struct pd_slot {
    struct pd_session *session;
    enum slot_state state;
    struct pd_connection *connection; /* non-NULL unless SLOT_NONE */
    struct pd_request request;        /* RegisterSession */
    unsigned in_flight;
    bool doubtful;          /* RegisterSession was answered with a refusal */
    uint64_t carried;       /* calls handed to this connection */
    uint64_t not_before_ms; /* no new attempt before that, while others work */
    uint64_t backoff_ms;
};

struct pd_session {
    uv_loop_t *loop;
    struct net *net;
    const struct pd_options *options;
    struct pd_session_events events;
    enum state state;
    char *account_key, *api_key;
    struct pd_keys keys;
    struct pd_login *login; /* non-NULL exactly while OPENING */
    unsigned generation;
    char uuid[PD_UUID_SIZE];
    char *socket_url;
    char *register_json;
    struct pd_account account;
    uint64_t opened_ms;
    unsigned young_losses;
    uint64_t hold_until_ms; /* displaced: no opening before that */
    uint64_t losses;        /* upload connections that ended by themselves */
    unsigned barren[2]; /* connections in a row that ended without an answer: general, uploads */
    struct pd_waiter *waiters, *told; /* told: being called back just now */
    struct pd_call *queue[2];         /* general, uploads */
    struct pd_call *failing;          /* their callbacks come with the next turn of the loop */
    unsigned active;                  /* calls queued and in flight */
    struct pd_slot *slots;
    size_t n_slots;
    uv_timer_t soon; /* runs exactly while waiters or failing calls are to be told */
    uv_timer_t idle; /* runs while open without work */
    unsigned handles;
    void (*closed_cb)(void *ctx);
    void *closed_ctx;
};

static void pump(struct pd_session *s);

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void tell_down(struct pd_session *s, int status, uint64_t retry_after_ms,
                      const struct err *e)
{
    if (s->events.down && s->state != CLOSING)
        s->events.down(status, retry_after_ms, e, s->events.ctx);
}

static void on_soon(uv_timer_t *timer);

static void soon(struct pd_session *s)
{
    if (!uv_is_active((uv_handle_t *)&s->soon))
        uv_timer_start(&s->soon, on_soon, 0, 0);
}

static void finish_call(struct pd_session *s, struct pd_call *c, int status,
                        const struct pd_answer *a, const struct err *e)
{
    s->active--;
    c->cb(c, status, a, e);
}

/* All that is queued fails; the list is taken aside, since callbacks queue anew. */
static void fail_queue(struct pd_session *s, unsigned channel, int status, const struct err *e)
{
    struct pd_call *c, *next, *list = s->queue[channel];
    s->queue[channel] = NULL;
    DL_FOREACH_SAFE(list, c, next)
    {
        DL_DELETE(list, c);
        finish_call(s, c, status, NULL, e);
    }
}

static void tell_waiters(struct pd_session *s, int status, const struct err *e)
{
    struct pd_waiter *w;
    DL_CONCAT(s->told, s->waiters);
    s->waiters = NULL;
    DL_FOREACH(s->told, w)
    {
        w->being_told = true;
    }
    while ((w = s->told) != NULL) {
        DL_DELETE(s->told, w);
        w->cb(w, status, e);
    }
}

/* ---- idle ---- */

static void close_slots(struct pd_session *s, int status, const char *why)
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

static void on_idle(uv_timer_t *timer)
{
    struct pd_session *s = timer->data;
    if (s->state != OPEN || s->active > 0)
        return;
    s->state = CLOSED;
    s->young_losses = 0;
    close_slots(s, ERR_CLOSED, "idle");
}

static void watch_idle(struct pd_session *s)
{
    if (s->active == 0 && s->state == OPEN && s->options->idle_close_ms > 0)
        uv_timer_start(&s->idle, on_idle, s->options->idle_close_ms, 0);
}

/* ---- the session is lost ---- */

static void lose_session(struct pd_session *s, const char *why)
{
    uint64_t now = clock_monotonic_ms();
    struct err e;
    if (s->state != OPEN)
        return;
    s->state = CLOSED;
    s->young_losses = now - s->opened_ms < YOUNG_MS ? s->young_losses + 1 : 0;
    s->barren[0] = s->barren[1] = 0;
    err_set(&e, ERR_SESSION, "the session is lost: %s", why);
    close_slots(s, ERR_SESSION, e.text);
    fail_queue(s, 0, ERR_SESSION, &e);
    fail_queue(s, 1, ERR_SESSION, &e);
    if (s->young_losses >= YOUNG_LOSSES) {
        unsigned doublings = s->young_losses - YOUNG_LOSSES;
        uint64_t hold = HOLD_MIN_MS << (doublings > 6 ? 6 : doublings);
        hold = hold > HOLD_MAX_MS ? HOLD_MAX_MS : hold;
        s->hold_until_ms = now + hold;
        err_set(&e, ERR_DISPLACED,
                "the session was lost %u times in a row right after it was opened; perhaps another "
                "client uses the same API key",
                s->young_losses);
        tell_down(s, e.code, hold, &e);
    }
}

/* The server cannot be reached: the next attempt begins with the router, which may send us
 * elsewhere. */
static void drop_session(struct pd_session *s, int status, const struct err *error)
{
    struct err e = *error;
    if (s->state != OPEN)
        return;
    s->state = CLOSED;
    s->young_losses = 0;
    s->barren[0] = s->barren[1] = 0;
    close_slots(s, ERR_SESSION, e.text);
    fail_queue(s, 0, status, &e);
    fail_queue(s, 1, status, &e);
}

/* ---- slots ---- */

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
        lose_session(s, e.text);
    finish_call(s, c, status, status ? NULL : &a, &e);
    pd_answer_free(&a);
    pump(s);
    watch_idle(s);
}

static bool any_upload_slot(const struct pd_session *s, enum slot_state at_least)
{
    for (size_t i = 1; i < s->n_slots; i++)
        if (s->slots[i].state >= at_least)
            return true;
    return false;
}

static void slot_failed(struct pd_slot *slot, bool opening, int status, int http_status,
                        const struct err *e)
{
    struct pd_session *s = slot->session;
    unsigned channel = slot == s->slots ? 0 : 1;
    bool others = channel == 1 && any_upload_slot(s, SLOT_READY);
    if (http_status >= 400 && http_status < 500 && http_status != 407 && http_status != 429) {
        lose_session(s, e->text);
        return;
    }
    slot->backoff_ms = slot->backoff_ms ? slot->backoff_ms * 2 : SLOT_BACKOFF_MIN;
    if (slot->backoff_ms > SLOT_BACKOFF_MAX)
        slot->backoff_ms = SLOT_BACKOFF_MAX;
    slot->not_before_ms = clock_monotonic_ms() + slot->backoff_ms;
    if (others)
        return; /* they take over; perhaps there may not be so many */
    tell_down(s, status, 0, e);
    if (opening) {
        if (channel == 0 || !any_upload_slot(s, SLOT_CONNECTING))
            drop_session(s, status, e);
        return;
    }
    if (++s->barren[channel] >= 2)
        lose_session(s, "its connections end without an answer");
}

static void on_slot_closed(struct pd_connection *c, int status, int http_status,
                           const struct err *e, void *ctx)
{
    struct pd_slot *slot = ctx;
    bool opening = slot->state != SLOT_READY;
    bool barren = slot->carried > 0 && slot->in_flight > 0 && pd_connection_answered(c) <= 1;
    slot->connection = NULL;
    slot->state = SLOT_NONE;
    slot->session->losses += slot != slot->session->slots;
    if (opening || barren)
        slot_failed(slot, opening, status, http_status, e);
}

static void on_registered(struct pd_request *r, int status, const struct frame_answer *answer,
                          const struct err *e)
{
    struct pd_slot *slot = (struct pd_slot *)((char *)r - offsetof(struct pd_slot, request));
    struct pd_answer a;
    struct err ignored;
    (void)e;
    if (status)
        return; /* on_slot_closed has dealt with it */
    /* Whatever it says, it means registered; but what it said may explain what comes. */
    slot->doubtful =
        pd_answer_parse_frame(answer, &slot->session->keys, &a, &ignored) != 0 || !a.ok;
    pd_answer_free(&a);
    slot->state = SLOT_READY;
    pump(slot->session);
}

static void on_slot_opened(struct pd_connection *c, void *ctx)
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
        slot_failed(slot, true, e.code, 0, &e);
    }
}

static int open_slot(struct pd_slot *slot, struct err *e)
{
    struct pd_session *s = slot->session;
    struct pd_connection_options o = {.idle_timeout_ms = s->options->idle_timeout_ms,
                                      .ping_interval_ms = s->options->ping_interval_ms};
    struct pd_connection_handler h = {
        .opened = on_slot_opened, .closed = on_slot_closed, .ctx = slot};
    int status = pd_connection_open(&slot->connection, s->loop, s->net, s->socket_url, &o, &h, e);
    if (status)
        return status;
    slot->state = SLOT_CONNECTING;
    slot->carried = 0;
    return 0;
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
        soon(s);
        return;
    }
    c->carried = true;
    slot->in_flight++;
    slot->carried++;
}

static struct pd_slot *best_slot(struct pd_session *s)
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

static void pump_uploads(struct pd_session *s)
{
    struct pd_slot *slot;
    struct pd_call *c;
    unsigned opening = 0, queued;
    uint64_t now = clock_monotonic_ms();
    while (s->queue[1] && (slot = best_slot(s)) != NULL)
        dispatch(s, 1, slot);
    if (!s->queue[1])
        return;
    DL_COUNT(s->queue[1], c, queued);
    for (size_t i = 1; i < s->n_slots; i++)
        opening += s->slots[i].state == SLOT_CONNECTING || s->slots[i].state == SLOT_REGISTERING;
    bool alive = any_upload_slot(s, SLOT_CONNECTING);
    for (size_t i = 1; i < s->n_slots && opening < queued; i++) {
        slot = &s->slots[i];
        if (slot->state != SLOT_NONE || (alive && now < slot->not_before_ms))
            continue;
        struct err e;
        int status = open_slot(slot, &e);
        if (status) {
            slot_failed(slot, true, status, 0, &e);
            return;
        }
        alive = true;
        opening++;
    }
}

static void pump(struct pd_session *s)
{
    if (s->state != OPEN)
        return;
    struct pd_slot *main_slot = &s->slots[0];
    while (s->queue[0] && main_slot->state == SLOT_READY && main_slot->in_flight < MAIN_IN_FLIGHT)
        dispatch(s, 0, main_slot);
    if (s->queue[0] && main_slot->state == SLOT_NONE) {
        struct err e;
        int status = open_slot(main_slot, &e);
        if (status)
            slot_failed(main_slot, true, status, 0, &e);
    }
    if (s->state == OPEN)
        pump_uploads(s);
}

/* ---- opening ---- */

static void on_login(int status, struct pd_login_result *result, uint64_t retry_after_ms,
                     const struct err *e, void *ctx)
{
    struct pd_session *s = ctx;
    s->login = NULL;
    if (status) {
        s->state = CLOSED;
        tell_down(s, status, retry_after_ms, e);
        tell_waiters(s, status, e);
        return;
    }
    struct pd_slot *main_slot = &s->slots[0];
    wipe(s->socket_url);
    s->socket_url = result->socket_url;
    memcpy(s->uuid, result->session_uuid, sizeof(s->uuid));
    s->account = result->account;
    cJSON_free(s->register_json);
    s->register_json = pd_params_session(&s->keys, s->uuid);
    main_slot->connection = result->connection;
    main_slot->state = SLOT_READY;
    main_slot->carried = 0;
    main_slot->doubtful = false;
    s->state = OPEN;
    s->generation++;
    s->opened_ms = clock_monotonic_ms();
    if (!s->register_json) {
        struct err nomem;
        err_set(&nomem, ERR_NOMEM, "no memory for a session");
        s->state = CLOSED;
        close_slots(s, ERR_NOMEM, nomem.text);
        tell_waiters(s, ERR_NOMEM, &nomem);
        return;
    }
    watch_idle(s);
    soon(s);
}

static void on_step(enum pd_login_step step, void *ctx)
{
    struct pd_session *s = ctx;
    if (s->events.step)
        s->events.step(step, s->events.ctx);
}

static void open_session(struct pd_session *s)
{
    struct err e;
    int status;
    struct pd_connection_handler h = {
        .opened = on_slot_opened, .closed = on_slot_closed, .ctx = &s->slots[0]};
    if (clock_monotonic_ms() < s->hold_until_ms)
        status = err_set(&e, ERR_DISPLACED,
                         "waiting, since another client seems to use the same API key");
    else
        status = pd_login_start(&s->login, s->loop, s->net, s->options, &s->keys, &h, on_step,
                                on_login, s, &e);
    if (status)
        tell_waiters(s, status, &e);
    else
        s->state = OPENING;
}

static void on_soon(uv_timer_t *timer)
{
    struct pd_session *s = timer->data;
    struct pd_call *c, *list = s->failing;
    s->failing = NULL;
    while ((c = list) != NULL) {
        DL_DELETE(list, c);
        struct err e = c->why;
        finish_call(s, c, e.code, NULL, &e);
    }
    if (s->waiters && s->state == CLOSED)
        open_session(s);
    if (s->waiters && s->state == OPEN)
        tell_waiters(s, 0, NULL);
    pump(s);
    watch_idle(s);
}

/* ---- interface ---- */

int pd_session_new(struct pd_session **ret, uv_loop_t *loop, const struct pd_options *options,
                   const struct pd_session_events *events, struct err *e)
{
    struct pd_session *s = calloc(1, sizeof(*s));
    *ret = NULL;
    if (!s)
        return err_set(e, ERR_NOMEM, "no memory for a session");
    s->n_slots = 1 + (size_t)options->connections;
    s->slots = calloc(s->n_slots, sizeof(*s->slots));
    int status = s->slots ? net_open(&s->net, loop, &options->net, e)
                          : err_set(e, ERR_NOMEM, "no memory for a session");
    if (status) {
        free(s->slots);
        free(s);
        return status;
    }
    for (size_t i = 0; i < s->n_slots; i++)
        s->slots[i].session = s;
    s->loop = loop;
    s->options = options;
    if (events)
        s->events = *events;
    uv_timer_init(loop, &s->soon);
    uv_timer_init(loop, &s->idle);
    s->soon.data = s->idle.data = s;
    *ret = s;
    return 0;
}

int pd_session_set_keys(struct pd_session *s, const struct pd_keys *keys)
{
    char *account = strdup(keys->account_key), *api = strdup(keys->api_key);
    if (!account || !api) {
        wipe(account);
        wipe(api);
        return ERR_NOMEM;
    }
    wipe(s->account_key);
    wipe(s->api_key);
    s->account_key = account;
    s->api_key = api;
    s->keys = (struct pd_keys){account, api};
    return 0;
}

int pd_session_set_proxy_password(struct pd_session *s, const char *password)
{
    return net_set_proxy_password(s->net, password);
}

const struct pd_keys *pd_session_keys(const struct pd_session *s)
{
    return &s->keys;
}

void pd_session_ready(struct pd_session *s, struct pd_waiter *w)
{
    w->being_told = false;
    DL_APPEND(s->waiters, w);
    if (s->state != OPENING)
        soon(s);
}

void pd_session_unwait(struct pd_session *s, struct pd_waiter *w)
{
    if (w->being_told)
        DL_DELETE(s->told, w);
    else
        DL_DELETE(s->waiters, w);
}

bool pd_session_is_open(const struct pd_session *s)
{
    return s->state == OPEN;
}

unsigned pd_session_generation(const struct pd_session *s)
{
    return s->generation;
}

const struct pd_account *pd_session_account(const struct pd_session *s)
{
    return &s->account;
}

const char *pd_session_uuid(const struct pd_session *s)
{
    return s->uuid;
}

void pd_session_send(struct pd_session *s, struct pd_call *c)
{
    c->session = s;
    c->slot = NULL;
    c->carried = false;
    s->active++;
    uv_timer_stop(&s->idle);
    if (s->state != OPEN) {
        err_set(&c->why, ERR_SESSION, "the session is closed");
        DL_APPEND(s->failing, c);
        soon(s);
        return;
    }
    DL_APPEND(s->queue[c->upload], c);
    pump(s);
}

void pd_session_renew(struct pd_session *s, unsigned generation)
{
    if (s->generation == generation)
        lose_session(s, "the server does not know it any more");
}

uint64_t pd_session_losses(const struct pd_session *s)
{
    return s->losses;
}

unsigned pd_session_connected(const struct pd_session *s)
{
    unsigned n = 0;
    for (size_t i = 0; i < s->n_slots; i++)
        n += s->slots[i].state == SLOT_READY;
    return n;
}

static void session_free(struct pd_session *s)
{
    void (*cb)(void *ctx) = s->closed_cb;
    void *ctx = s->closed_ctx;
    wipe(s->account_key);
    wipe(s->api_key);
    wipe(s->socket_url);
    cJSON_free(s->register_json);
    free(s->slots);
    free(s);
    cb(ctx);
}

static void on_net_closed(void *ctx)
{
    struct pd_session *s = ctx;
    if (--s->handles == 0)
        session_free(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
    on_net_closed(handle->data);
}

void pd_session_close(struct pd_session *s, void (*cb)(void *ctx), void *ctx)
{
    struct err e;
    struct pd_call *c;
    err_set(&e, ERR_CANCELED, "the destination is being closed");
    s->state = CLOSING;
    s->closed_cb = cb;
    s->closed_ctx = ctx;
    s->handles = 3;
    if (s->login)
        pd_login_cancel(s->login);
    s->login = NULL;
    close_slots(s, ERR_CANCELED, e.text);
    fail_queue(s, 0, ERR_CANCELED, &e);
    fail_queue(s, 1, ERR_CANCELED, &e);
    while ((c = s->failing) != NULL) {
        DL_DELETE(s->failing, c);
        finish_call(s, c, ERR_CANCELED, NULL, &e);
    }
    tell_waiters(s, ERR_CANCELED, &e);
    uv_close((uv_handle_t *)&s->soon, on_handle_closed);
    uv_close((uv_handle_t *)&s->idle, on_handle_closed);
    net_close(s->net, on_net_closed, s);
}
