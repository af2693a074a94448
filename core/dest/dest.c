/* Life of a destination, and its breaker. */
#include "dest/dest_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#define FAILURES_TO_OPEN 3
#define AUTH_PROBE_MS    30000U
#define LEAST_REFUSALS   8
#define MOST_REFUSED_MS  (24U * 60 * 60 * 1000)

void dest_changed(struct dest *d)
{
    if (d->env.changed && !d->closing)
        d->env.changed(d, d->env.ctx);
}

/* ---- breaker ---- */

static uint64_t chance(void)
{
    uint64_t v = 0;
    if (getrandom(&v, sizeof(v), GRND_NONBLOCK) != sizeof(v))
        v = clock_monotonic_us() * UINT64_C(0x9E3779B97F4A7C15);
    return v;
}

static void on_probe(uv_timer_t *timer);

static void plan_probe(struct dest *d)
{
    uint64_t now = clock_monotonic_ms();
    if (d->breaker.open && !d->closing)
        uv_timer_start(&d->probe, on_probe, dest_breaker_wait(&d->breaker, now), 0);
    else
        uv_timer_stop(&d->probe);
}

/* The loop's time lags behind the clock by what it has been doing since it last looked: the timer
 * may be early. */
static void on_probe(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    if (dest_breaker_wait(&d->breaker, clock_monotonic_ms()) > 0)
        plan_probe(d);
    else
        dest_changed(d);
}

void dest_link_up(struct dest *d)
{
    d->retry_after_ms = 0;
    if (dest_breaker_success(&d->breaker) || !d->was_up) {
        d->was_up = true;
        plan_probe(d);
        dest_changed(d);
    }
}

void dest_link_down(struct dest *d, int status, uint64_t retry_after_ms, const struct err *e)
{
    if (status == ERR_CANCELED)
        return;
    d->last_error = *e;
    d->retry_after_ms = retry_after_ms;
    dest_breaker_failure(&d->breaker, err_class(status) == ERR_CLASS_AUTH, retry_after_ms,
                         clock_monotonic_ms(), chance());
    plan_probe(d);
    dest_changed(d);
}

void dest_probe_now(struct dest *d)
{
    dest_breaker_poke(&d->breaker, clock_monotonic_ms());
    plan_probe(d);
}

/* ---- interface ---- */

static void on_soon(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    struct dest_delivery *delivery;
    struct dest_transfer *t, *next;
    while ((delivery = d->unstarted) != NULL) {
        struct dest_result r = {.verdict = DEST_RETRY};
        d->unstarted = delivery->state;
        delivery->state = NULL;
        d->in_flight--;
        err_set(&r.err, ERR_NOMEM, "no memory to send a file");
        delivery->cb(delivery, &r);
    }
    if (d->closing) {
        bool found = true;
        while (found) { /* each end may change the list */
            found = false;
            DL_FOREACH_SAFE(d->transfers, t, next)
            {
                if (t->with_type && d->type->begun(t))
                    continue;
                if (t->state == CHECKING)
                    continue;
                struct err e;
                err_set(&e, ERR_CANCELED, "the destination is being closed");
                found = true;
                dest_transfer_fail(t, &e);
                break;
            }
            if (d->type_closing)
                return;
        }
        dest_maybe_close(d);
        return;
    }
    while ((t = d->start_line) != NULL) {
        dest_line_leave(t);
        dest_transfer_start(t);
    }
}

int dest_open(struct dest **ret, const struct dest_env *env,
              const struct config_destination *config, struct err *e)
{
    struct dest *d = calloc(1, sizeof(*d));
    *ret = NULL;
    if (!d)
        return err_set(e, ERR_NOMEM, "no memory for a destination");
    d->env = *env;
    d->config = config;
    d->type = &dest_postdicom;
    d->breaker.threshold = FAILURES_TO_OPEN;
    d->breaker.min_ms = config->retry_min_ms;
    d->breaker.max_ms = config->retry_max_ms;
    d->breaker.auth_min_ms =
        config->retry_max_ms < AUTH_PROBE_MS ? config->retry_max_ms : AUTH_PROBE_MS;
    d->refusals.least = LEAST_REFUSALS;
    d->refusals.least_ms = config->retry_max_ms;
    d->refusals.most_ms =
        config->retry_max_ms > MOST_REFUSED_MS ? config->retry_max_ms : MOST_REFUSED_MS;
    dest_bucket_init(&d->bucket, config->rate_limit, clock_monotonic_ms());
    int status = d->type->open(&d->impl, d, env, config, e);
    if (status) {
        free(d);
        return status;
    }
    uv_timer_t *timers[] = {&d->soon, &d->probe, &d->rate, &d->deadline, &d->pause};
    for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++) {
        uv_timer_init(env->loop, timers[i]);
        timers[i]->data = d;
    }
    *ret = d;
    return 0;
}

void dest_limits(struct dest *d, size_t part_size, size_t memory, unsigned deliveries)
{
    d->part_size = part_size;
    d->memory = memory;
    d->limit = deliveries;
}

const char *dest_name(const struct dest *d)
{
    return d->config->name;
}

unsigned dest_capacity(const struct dest *d)
{
    if (d->closing || uv_is_active((const uv_handle_t *)&d->pause))
        return 0;
    if (d->breaker.open)
        return dest_breaker_allows(&d->breaker, clock_monotonic_ms()) ? 1 : 0;
    unsigned limit = dest_refusals_all(&d->refusals) ? 1 : d->limit;
    return d->in_flight < limit ? limit - d->in_flight : 0;
}

void dest_send(struct dest *d, struct dest_delivery *delivery)
{
    struct dest_transfer *t = calloc(1, sizeof(*t));
    d->in_flight++;
    dest_breaker_begin(&d->breaker);
    if (t) {
        t->dest = d;
        t->delivery = delivery;
        t->line = START_LINE;
        delivery->state = t;
        DL_APPEND2(d->start_line, t, line_prev, line_next);
        DL_APPEND(d->transfers, t);
    } else {
        delivery->state = d->unstarted;
        d->unstarted = delivery;
    }
    if (!uv_is_active((uv_handle_t *)&d->soon))
        uv_timer_start(&d->soon, on_soon, 0, 0);
}

void dest_get_status(const struct dest *d, struct dest_status *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->health = d->breaker.open && d->breaker.auth ? DEST_AUTH_FAILED
                  : d->breaker.open                  ? DEST_BROKEN
                  : d->was_up                        ? DEST_HEALTHY
                                                     : DEST_CONNECTING;
    ret->last_error = d->last_error;
    ret->next_probe_ms = dest_breaker_wait(&d->breaker, clock_monotonic_ms());
    ret->in_flight = d->in_flight;
    ret->bytes_sent = d->bytes_sent;
    ret->paused = uv_is_active((const uv_handle_t *)&d->pause);
}

void dest_poke(struct dest *d)
{
    d->type->poke(d->impl);
    dest_probe_now(d);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct dest *d = handle->data;
    if (--d->handles > 0)
        return;
    void (*cb)(void *ctx) = d->closed_cb;
    void *ctx = d->closed_ctx;
    dest_refusals_clear(&d->refusals);
    free(d);
    cb(ctx);
}

static void on_type_closed(void *ctx)
{
    struct dest *d = ctx;
    uv_timer_t *timers[] = {&d->soon, &d->probe, &d->rate, &d->deadline, &d->pause};
    d->handles = sizeof(timers) / sizeof(timers[0]);
    for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++)
        uv_close((uv_handle_t *)timers[i], on_handle_closed);
}

void dest_maybe_close(struct dest *d)
{
    if (!d->closing || d->type_closing || d->in_flight > 0)
        return;
    d->type_closing = true;
    d->type->close(d->impl, on_type_closed, d);
}

static void on_deadline(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    struct err e;
    err_set(&e, ERR_CANCELED, "not finished when the destination was closed");
    while (d->transfers)
        dest_transfer_fail(d->transfers, &e);
}

void dest_close(struct dest *d, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx)
{
    d->closing = true;
    d->closed_cb = cb;
    d->closed_ctx = ctx;
    uv_timer_stop(&d->probe);
    uv_timer_stop(&d->pause);
    uv_timer_start(&d->soon, on_soon, 0, 0);
    uv_timer_start(&d->deadline, on_deadline, deadline_ms, 0);
}

static void on_pause_over(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    uv_timer_stop(timer);
    dest_changed(d);
}

bool dest_pause(struct dest *d, uint64_t for_ms)
{
    if (d->closing)
        return false;
    if (for_ms == 0) {
        if (uv_is_active((uv_handle_t *)&d->pause))
            on_pause_over(&d->pause);
        return false;
    }
    uv_timer_start(&d->pause, on_pause_over, for_ms, 0);
    return d->in_flight == 0 && d->type->rest(d->impl);
}
