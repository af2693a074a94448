/* States: CLOSED -> OPENING (a login runs) -> OPEN -> CLOSED (lost, idle, renewed).
 *
 * Lost are: a connection (its calls fail with ERR_CLOSED and may be sent again, the slot reopens at
 * need), or the session (everything fails with ERR_SESSION). A session counts as lost when its user
 * says so (a refused Initialize), when two connections in a row end without an answer while no
 * other one works, or when the server refuses a connection to it. */
#include "postdicom/pd_session_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define YOUNG_MS     10000U /* a session lost earlier than that may have been displaced */
#define YOUNG_LOSSES 3
#define HOLD_MIN_MS  2000U
#define HOLD_MAX_MS  120000U

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void pd_session_tell_down(struct pd_session *s, int status, uint64_t retry_after_ms,
                          const struct err *e)
{
    if (s->events.down && s->state != SESSION_CLOSING)
        s->events.down(status, retry_after_ms, e, s->events.ctx);
}

static void on_soon(uv_timer_t *timer);

void pd_session_soon(struct pd_session *s)
{
    if (!uv_is_active((uv_handle_t *)&s->soon))
        uv_timer_start(&s->soon, on_soon, 0, 0);
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

bool pd_session_rest(struct pd_session *s)
{
    if (s->state == SESSION_OPEN && s->active == 0 && !s->waiters) {
        s->state = SESSION_CLOSED;
        s->young_losses = 0;
        pd_slots_close(s, ERR_CLOSED, "idle");
    }
    return s->state == SESSION_CLOSED;
}

static void on_idle(uv_timer_t *timer)
{
    pd_session_rest(timer->data);
}

void pd_session_watch_idle(struct pd_session *s)
{
    if (s->active == 0 && s->state == SESSION_OPEN && s->options->idle_close_ms > 0)
        uv_timer_start(&s->idle, on_idle, s->options->idle_close_ms, 0);
}

/* ---- the session is lost ---- */

/* Who displaces us may be displaced by us: so the waiting does not end with progress, but it begins
 * anew. */
static void count_young_loss(struct pd_session *s, uint64_t now)
{
    s->young_losses = now - s->opened_ms < YOUNG_MS ? s->young_losses + 1 : 0;
    if (s->progress && s->young_losses > YOUNG_LOSSES)
        s->young_losses = YOUNG_LOSSES;
}

void pd_session_lose(struct pd_session *s, const char *why)
{
    uint64_t now = clock_monotonic_ms();
    struct err e;
    if (s->state != SESSION_OPEN)
        return;
    s->state = SESSION_CLOSED;
    count_young_loss(s, now);
    s->barren[0] = s->barren[1] = 0;
    err_set(&e, ERR_SESSION, "the session is lost: %s", why);
    pd_slots_close(s, ERR_SESSION, e.text);
    pd_calls_fail_queued(s, ERR_SESSION, &e);
    if (s->young_losses >= YOUNG_LOSSES) {
        unsigned doublings = s->young_losses - YOUNG_LOSSES;
        uint64_t hold = HOLD_MIN_MS << (doublings > 6 ? 6 : doublings);
        hold = hold > HOLD_MAX_MS ? HOLD_MAX_MS : hold;
        s->hold_until_ms = now + hold;
        err_set(&e, ERR_DISPLACED,
                "the session was lost %u times in a row right after it was opened; perhaps another "
                "client uses the same API key",
                s->young_losses);
        pd_session_tell_down(s, e.code, hold, &e);
    }
}

void pd_session_drop(struct pd_session *s, int status, const struct err *error)
{
    struct err e = *error;
    if (s->state != SESSION_OPEN)
        return;
    s->state = SESSION_CLOSED;
    s->young_losses = 0;
    s->barren[0] = s->barren[1] = 0;
    pd_slots_close(s, ERR_SESSION, e.text);
    pd_calls_fail_queued(s, status, &e);
}

/* ---- opening ---- */

static void on_login(int status, struct pd_login_result *result, uint64_t retry_after_ms,
                     const struct err *e, void *ctx)
{
    struct pd_session *s = ctx;
    s->login = NULL;
    if (status) {
        s->state = SESSION_CLOSED;
        pd_session_tell_down(s, status, retry_after_ms, e);
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
    s->state = SESSION_OPEN;
    s->generation++;
    s->progress = false;
    s->opened_ms = clock_monotonic_ms();
    if (!s->register_json) {
        struct err nomem;
        err_set(&nomem, ERR_NOMEM, "no memory for a session");
        s->state = SESSION_CLOSED;
        pd_slots_close(s, ERR_NOMEM, nomem.text);
        tell_waiters(s, ERR_NOMEM, &nomem);
        return;
    }
    pd_session_watch_idle(s);
    pd_session_soon(s);
}

static void open_session(struct pd_session *s)
{
    struct err e;
    int status;
    struct pd_connection_handler h = pd_slot_handler(&s->slots[0]);
    if (clock_monotonic_ms() < s->hold_until_ms)
        status = err_set(&e, ERR_DISPLACED,
                         "waiting, since another client seems to use the same API key");
    else
        status =
            pd_login_start(&s->login, s->loop, s->net, s->options, &s->keys, &h, on_login, s, &e);
    if (status)
        tell_waiters(s, status, &e);
    else
        s->state = SESSION_OPENING;
}

static void on_soon(uv_timer_t *timer)
{
    struct pd_session *s = timer->data;
    pd_calls_tell_failed(s);
    if (s->waiters && s->state == SESSION_CLOSED)
        open_session(s);
    if (s->waiters && s->state == SESSION_OPEN)
        tell_waiters(s, 0, NULL);
    pd_calls_pump(s);
    pd_session_watch_idle(s);
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
    if (s->state != SESSION_OPENING)
        pd_session_soon(s);
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
    return s->state == SESSION_OPEN;
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

void pd_session_renew(struct pd_session *s, unsigned generation)
{
    if (s->generation == generation)
        pd_session_lose(s, "the server does not know it any more");
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
    err_set(&e, ERR_CANCELED, "the destination is being closed");
    s->state = SESSION_CLOSING;
    s->closed_cb = cb;
    s->closed_ctx = ctx;
    s->handles = 3;
    if (s->login)
        pd_login_cancel(s->login);
    s->login = NULL;
    pd_slots_close(s, ERR_CANCELED, e.text);
    pd_calls_cancel(s, &e);
    tell_waiters(s, ERR_CANCELED, &e);
    uv_close((uv_handle_t *)&s->soon, on_handle_closed);
    uv_close((uv_handle_t *)&s->idle, on_handle_closed);
    net_close(s->net, on_net_closed, s);
}
