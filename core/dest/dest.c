/* A delivery's way: wait for memory -> open the source and read its first part -> (hash, compare
 * with the sibling) -> the type sends it, part by part -> check the source again -> one result.
 *
 * Memory for parts is one sum per destination: who wants to read waits in line for it. It cannot
 * lock up, since a part that was read needs no more of it to be sent and released. */
#include "dest/dest.h"

#include "base/clock.h"
#include "dest/dest_breaker.h"
#include "dest/dest_bucket.h"
#include "dest/dest_type.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#define FAILURES_TO_OPEN 3
#define AUTH_PROBE_MS    30000U
#define MAX_ATTEMPTS     4

enum transfer_state { OPENING, HASHING, REREADING, SENDING, CHECKING };
enum line { NO_LINE, START_LINE, MEMORY_LINE, RATE_LINE };

struct dest {
    struct dest_env env;
    const struct config_destination *config;
    const struct dest_type *type;
    void *impl;
    size_t part_size, memory, memory_used;
    unsigned limit;
    struct dest_transfer *transfers;
    unsigned in_flight;
    struct dest_transfer *start_line, *memory_line, *rate_line;
    struct dest_delivery *unstarted; /* no memory for a transfer; chained by their `state` */
    struct dest_breaker breaker;
    struct dest_bucket bucket;
    struct err last_error;
    bool was_up;
    uint64_t retry_after_ms; /* of the last failure */
    uint64_t bytes_sent;
    uv_timer_t soon;     /* runs exactly while there is something to start */
    uv_timer_t probe;    /* runs while the breaker is open */
    uv_timer_t rate;     /* runs exactly while the rate line is not empty */
    uv_timer_t deadline; /* runs while closing with transfers begun */
    unsigned handles;
    bool closing, type_closing;
    void (*closed_cb)(void *ctx);
    void *closed_ctx;
};

static void maybe_close(struct dest *d);
static void start(struct dest_transfer *t);

static void changed(struct dest *d)
{
    if (d->env.changed && !d->closing)
        d->env.changed(d, d->env.ctx);
}

/* ---- lines ---- */

static void leave_line(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    if (t->line == START_LINE)
        DL_DELETE2(d->start_line, t, line_prev, line_next);
    else if (t->line == MEMORY_LINE)
        DL_DELETE2(d->memory_line, t, line_prev, line_next);
    else if (t->line == RATE_LINE)
        DL_DELETE2(d->rate_line, t, line_prev, line_next);
    t->line = NO_LINE;
}

static void read_granted(struct dest_transfer *t);

/* One reader at least, whatever the sum is. */
static bool memory_fits(const struct dest *d, size_t bytes)
{
    return d->memory_used == 0 || d->memory_used + bytes <= d->memory;
}

static void grant_memory(struct dest *d)
{
    struct dest_transfer *t;
    while ((t = d->memory_line) != NULL && memory_fits(d, t->reserved)) {
        leave_line(t);
        d->memory_used += t->reserved;
        read_granted(t);
    }
}

/* Memory for the next part, then read_granted. */
static void reserve(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    uint64_t left = t->delivery->size - t->offset;
    t->reserved = left < d->part_size ? (size_t)left : d->part_size;
    if (t->reserved == 0)
        t->reserved = 1; /* an empty file still has one part */
    t->line = MEMORY_LINE;
    DL_APPEND2(d->memory_line, t, line_prev, line_next);
    grant_memory(d);
}

static void unreserve(struct dest *d, size_t bytes)
{
    d->memory_used -= bytes;
    grant_memory(d);
}

void dest_release(struct dest *d, uint8_t *buffer, size_t size)
{
    free(buffer);
    unreserve(d, size ? size : 1);
}

/* ---- the end of a delivery ---- */

static void drop_source(struct dest_transfer *t)
{
    uint8_t *buffer = t->buffer;
    size_t reserved = t->line == MEMORY_LINE ? 0 : t->reserved; /* there it is only waited for */
    leave_line(t);
    t->buffer = NULL;
    t->reserved = 0;
    t->reading = false;
    if (t->source)
        source_close_free(t->source, buffer);
    else
        free(buffer);
    t->source = NULL;
    if (reserved)
        unreserve(t->dest, reserved);
}

static void finish(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    struct dest_delivery *delivery = t->delivery;
    struct dest_result result = t->result;
    drop_source(t);
    DL_DELETE(d->transfers, t);
    d->in_flight--;
    d->bytes_sent += result.bytes;
    if (d->breaker.probing && d->in_flight == 0)
        dest_breaker_unprobed(&d->breaker);
    delivery->state = NULL;
    free(t);
    delivery->cb(delivery, &result);
    changed(d);
    maybe_close(d);
}

static void finish_with(struct dest_transfer *t, enum dest_verdict verdict, const struct err *e)
{
    t->result.verdict = verdict;
    if (e)
        t->result.err = *e;
    finish(t);
}

static enum dest_verdict verdict_of(int status)
{
    switch (status) {
    case ERR_VANISHED:
        return DEST_VANISHED;
    case ERR_CHANGED:
        return DEST_CHANGED;
    case ERR_CANCELED:
        return DEST_ABANDONED;
    case ERR_ACCESS:
        return DEST_RETRY; /* rights come back */
    default:
        return err_class(status) == ERR_CLASS_PERMANENT ? DEST_FAILED : DEST_RETRY;
    }
}

/* Trouble of ours with the file while the type has it. */
static void fail(struct dest_transfer *t, const struct err *e)
{
    struct dest *d = t->dest;
    if (t->with_type) {
        t->result.uncertain = t->result.uncertain || d->type->begun(t);
        t->with_type = false;
        d->type->abort(d->impl, t);
    }
    t->result.uncertain = t->result.uncertain || t->sent_before || t->result.bytes > 0;
    finish_with(t, verdict_of(e->code), e);
}

static void fail_nomem(struct dest_transfer *t)
{
    struct err e;
    err_set(&e, ERR_NOMEM, "no memory to send a file");
    fail(t, &e);
}

/* ---- the source is checked a last time ---- */

static void on_checked(struct source *s, int status, size_t bytes_read, const struct err *e,
                       void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)bytes_read;
    t->reading = false;
    /* Gone since: what was sent is what was journalled, and there is nothing left to compare. */
    if (status && status != ERR_VANISHED) {
        struct err why = *e;
        fail(t, &why);
        return;
    }
    source_sha256(s, t->result.sha256);
    finish_with(t, t->check_verdict_duplicate ? DEST_DUPLICATE : DEST_DELIVERED, NULL);
}

static void check(struct dest_transfer *t)
{
    t->state = CHECKING;
    t->reading = true;
    int status = source_check(t->source, on_checked, t);
    if (status) {
        struct err e;
        t->reading = false;
        err_set(&e, status, "%s", err_text(status));
        fail(t, &e);
    }
}

/* ---- between us and the type ---- */

static void hand_over(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    uint8_t *buffer = t->buffer;
    size_t size = t->buffer_size;
    t->buffer = NULL;
    t->reserved = 0; /* goes with the buffer: dest_release */
    t->wanted = false;
    d->type->part(d->impl, t, buffer, size);
}

static void on_rate(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    struct dest_transfer *t;
    while ((t = d->rate_line) != NULL) {
        uint64_t wait = dest_bucket_take(&d->bucket, t->buffer_size, clock_monotonic_ms());
        if (wait > 0) {
            uv_timer_start(&d->rate, on_rate, wait, 0);
            return;
        }
        leave_line(t);
        hand_over(t);
    }
}

/* A part is read and wanted. */
static void give(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    if (d->bucket.rate == 0) {
        hand_over(t);
        return;
    }
    t->line = RATE_LINE;
    DL_APPEND2(d->rate_line, t, line_prev, line_next);
    if (!uv_is_active((uv_handle_t *)&d->rate))
        on_rate(&d->rate);
}

static void on_read(struct source *s, int status, size_t bytes_read, const struct err *e, void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)s;
    t->reading = false;
    if (status) {
        struct err why = *e;
        fail(t, &why);
        return;
    }
    t->buffer_size = bytes_read;
    t->offset += bytes_read;
    if (t->wanted)
        give(t);
}

void dest_want(struct dest_transfer *t)
{
    t->wanted = true;
    if (t->buffer && !t->reading)
        give(t); /* the first part */
    else
        reserve(t);
}

static void restart(struct dest_transfer *t)
{
    t->attempt++;
    t->offset = 0;
    t->wanted = false;
    drop_source(t);
    start(t);
}

static void send_compared(struct dest_transfer *t);

void dest_done(struct dest_transfer *t, const struct dest_outcome *o)
{
    struct dest *d = t->dest;
    t->with_type = false;
    t->result.bytes += o->bytes;
    memcpy(t->result.remote_id, o->remote_id, sizeof(t->result.remote_id));
    if (o->status == 0) {
        check(t);
        return;
    }
    if (t->check_verdict_duplicate && o->status == ERR_REFUSED) {
        send_compared(t); /* the sibling's order is not there any more */
        return;
    }
    t->sent_before = t->sent_before || o->uncertain || o->bytes > 0;
    if (o->again && t->attempt + 1 < MAX_ATTEMPTS && !d->closing) {
        restart(t);
        return;
    }
    t->result.uncertain = o->status != ERR_REFUSED && (o->uncertain || t->sent_before);
    t->result.retry_after_ms = d->retry_after_ms;
    finish_with(t, verdict_of(o->status), &o->err);
}

static void send_it(struct dest_transfer *t)
{
    t->state = SENDING;
    t->with_type = true;
    t->dest->type->send(t->dest->impl, t);
}

/* ---- duplicates ---- */

static void on_reread(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    on_read(s, status, bytes_read, e, t);
    if (status == 0)
        send_it(t);
}

/* Sends it, although the destination had it once. */
static void send_compared(struct dest_transfer *t)
{
    t->check_verdict_duplicate = false;
    if (t->delivery->size <= t->buffer_size) {
        send_it(t);
        return;
    }
    /* Hashing went over the whole file: the first part is the next one again. */
    t->state = REREADING;
    t->offset = 0;
    t->reading = true;
    if (source_read(t->source, t->buffer, t->reserved, on_reread, t)) {
        t->reading = false;
        fail_nomem(t);
    }
}

/* The whole file is hashed: against the sibling. */
static void compare(struct dest_transfer *t)
{
    const struct dest_delivery *delivery = t->delivery;
    uint8_t own[SOURCE_SHA256_SIZE];
    if (!source_sha256(t->source, own)) {
        fail_nomem(t);
        return;
    }
    if (memcmp(own, delivery->sibling_sha256, sizeof(own)) != 0) {
        struct err e;
        err_set(&e, ERR_EXISTS,
                "the destination has other bytes under this SOP Instance UID, from an earlier "
                "delivery");
        memcpy(t->result.sha256, own, sizeof(own));
        finish_with(t, DEST_CONFLICT, &e);
        return;
    }
    const char *folder = delivery->folder ? delivery->folder : "";
    const char *sibling = delivery->sibling_folder ? delivery->sibling_folder : "";
    const char *remote = delivery->sibling_remote_id ? delivery->sibling_remote_id : "";
    t->check_verdict_duplicate = true;
    if (!*folder || strcmp(folder, sibling) == 0) {
        strncpy(t->result.remote_id, remote, sizeof(t->result.remote_id) - 1);
        check(t);
    } else if (*remote) {
        t->state = SENDING;
        t->with_type = true;
        t->dest->type->file_sibling(t->dest->impl, t);
    } else {
        /* Which order it is can be found out only by asking for the file, or by sending it. */
        t->known_whole = true;
        send_compared(t);
    }
}

static void on_hashed(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)s;
    (void)bytes_read;
    t->reading = false;
    if (status) {
        struct err why = *e;
        fail(t, &why);
        return;
    }
    compare(t);
}

static void on_opened(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    on_read(s, status, bytes_read, e, t);
    if (status)
        return;
    if (!t->delivery->has_sibling || t->delivery->send_anyway) {
        send_it(t);
        return;
    }
    t->state = HASHING;
    if (source_sha256(t->source, t->result.sha256)) {
        compare(t);
        return;
    }
    t->reading = true;
    if (source_hash(t->source, on_hashed, t)) {
        t->reading = false;
        fail_nomem(t);
    }
}

/* ---- reading ---- */

static void read_granted(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    const struct dest_delivery *delivery = t->delivery;
    int status;
    t->buffer = malloc(t->reserved);
    t->reading = true;
    if (!t->buffer) {
        t->reading = false;
        fail_nomem(t);
        return;
    }
    if (t->source)
        status = source_read(t->source, t->buffer, t->reserved, on_read, t);
    else
        status =
            source_open(&t->source, d->env.jobs, delivery->mount, delivery->path, delivery->size,
                        delivery->mtime_ns, t->buffer, t->reserved, on_opened, t);
    if (status) {
        t->reading = false;
        fail_nomem(t);
    }
}

static void start(struct dest_transfer *t)
{
    t->state = OPENING;
    reserve(t);
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
        changed(d);
}

void dest_link_up(struct dest *d)
{
    d->retry_after_ms = 0;
    if (dest_breaker_success(&d->breaker) || !d->was_up) {
        d->was_up = true;
        plan_probe(d);
        changed(d);
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
    changed(d);
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
                fail(t, &e);
                break;
            }
            if (d->type_closing)
                return;
        }
        maybe_close(d);
        return;
    }
    while ((t = d->start_line) != NULL) {
        leave_line(t);
        start(t);
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
    dest_bucket_init(&d->bucket, config->rate_limit, clock_monotonic_ms());
    int status = d->type->open(&d->impl, d, env, config, e);
    if (status) {
        free(d);
        return status;
    }
    uv_timer_t *timers[] = {&d->soon, &d->probe, &d->rate, &d->deadline};
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
    if (d->closing)
        return 0;
    if (d->breaker.open)
        return dest_breaker_allows(&d->breaker, clock_monotonic_ms()) ? 1 : 0;
    return d->in_flight < d->limit ? d->limit - d->in_flight : 0;
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
    free(d);
    cb(ctx);
}

static void on_type_closed(void *ctx)
{
    struct dest *d = ctx;
    uv_timer_t *timers[] = {&d->soon, &d->probe, &d->rate, &d->deadline};
    d->handles = sizeof(timers) / sizeof(timers[0]);
    for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++)
        uv_close((uv_handle_t *)timers[i], on_handle_closed);
}

static void maybe_close(struct dest *d)
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
        fail(d->transfers, &e);
}

void dest_close(struct dest *d, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx)
{
    d->closing = true;
    d->closed_cb = cb;
    d->closed_ctx = ctx;
    uv_timer_stop(&d->probe);
    uv_timer_start(&d->soon, on_soon, 0, 0);
    uv_timer_start(&d->deadline, on_deadline, deadline_ms, 0);
}

void dest_doctor(struct dest *d, void (*line)(const char *text, void *ctx),
                 void (*done)(int status, void *ctx), void *ctx)
{
    d->type->doctor(d->impl, line, done, ctx);
}
