#include "worker/worker.h"

#include "worker/process.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define START_TIMEOUT_MS  30000 /* dictionaries and gconv modules on a loaded machine */
#define END_TIMEOUT_MS    5000
#define START_ATTEMPTS    3
#define START_BACKOFF_MS  100
#define START_BACKOFF_MAX 5000
#define HUNG_CPU_FRACTION 10 /* of the time limit: below it a request waited rather than worked */
#define MAX_ENDING_FACTOR                                                                          \
    4 /* processes that cannot be killed (a hung share) per process allowed                        \
       */

enum where { WHERE_WAITING, WHERE_ALONE, WHERE_PROCESS, WHERE_FINISHED };

struct slot {
    struct worker_request *request; /* NULL: canceled, its answer is dropped */
    bool sent;
};

struct worker {
    struct worker_pool *pool;
    struct process *process;
    struct worker *prev, *next;
    bool ready;    /* it said so */
    bool ending;   /* gets nothing any more; until it is reaped */
    bool expected; /* ... because we ended it */
    bool killed;
    bool violated;        /* broke the protocol */
    bool alone;           /* has one request on its second try and gets no other */
    bool draining;        /* gets nothing any more, to make room for a fresh one */
    bool used;            /* had a request */
    uint64_t deadline_ms; /* of the start, of the oldest request, of the idle time or of the end */
    uint64_t cpu_ms;      /* when the oldest request began */
    uint64_t cpu_at_ms;   /* when that was asked: a millisecond has many requests */
    unsigned n;           /* slots in use: requests handed to it, the oldest first */
    struct slot slots[];
};

struct worker_pool {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct worker_options options;
    char **argv;
    struct worker *workers;
    struct worker_request *waiting;  /* first try */
    struct worker_request *alone;    /* second try */
    struct worker_request *finished; /* callbacks to come */
    unsigned n_waiting, n_alone, pending;
    unsigned start_failures; /* in a row */
    uint64_t start_after_ms;
    bool start_waits; /* for start_after_ms */
    struct err start_error;
    bool closing;
    void (*close_cb)(void *ctx);
    void *close_ctx;
    uint8_t buffer[WORKER_MAX_MESSAGE];
};

static void dispatch(struct worker_pool *p);
static void arm_timer(struct worker_pool *p);
static const struct process_events events;

static uint64_t now_ms(const struct worker_pool *p)
{
    uv_update_time(p->loop);
    return uv_now(p->loop);
}

/* Requests: each is in one place, which `where` names. */

static void enqueue(struct worker_pool *p, struct worker_request *r, bool front)
{
    r->process = NULL;
    r->where = r->attempts ? WHERE_ALONE : WHERE_WAITING;
    struct worker_request **list = r->attempts ? &p->alone : &p->waiting;
    if (front)
        DL_PREPEND(*list, r);
    else
        DL_APPEND(*list, r);
    if (r->attempts)
        p->n_alone++;
    else
        p->n_waiting++;
}

static void dequeue(struct worker_pool *p, struct worker_request *r)
{
    if (r->where == WHERE_ALONE) {
        DL_DELETE(p->alone, r);
        p->n_alone--;
    } else {
        DL_DELETE(p->waiting, r);
        p->n_waiting--;
    }
}

/* The callback comes from the timer. */
__attribute__((format(printf, 4, 5))) static void
finish(struct worker_pool *p, struct worker_request *r, int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->reason, sizeof(r->reason), format, args);
    va_end(args);
    r->status = status;
    r->where = WHERE_FINISHED;
    r->process = NULL;
    DL_APPEND(p->finished, r);
}

static void fail_queued(struct worker_pool *p, int status, const char *reason)
{
    struct worker_request *r;
    while ((r = p->alone ? p->alone : p->waiting)) {
        dequeue(p, r);
        finish(p, r, status, "%s", reason);
    }
}

/* Workers */

static void remove_slot(struct worker *w, unsigned i)
{
    w->n--;
    memmove(&w->slots[i], &w->slots[i + 1], (w->n - i) * sizeof(w->slots[0]));
}

/* Back into the queue, in order and before the others; they lose no try. */
static void requeue_slots(struct worker *w)
{
    while (w->n > 0) {
        struct worker_request *r = w->slots[--w->n].request;
        if (r)
            enqueue(w->pool, r, true);
    }
}

static void kill_worker(struct worker *w)
{
    w->ending = true;
    w->killed = true;
    process_kill(w->process);
}

/* Asks it to go; it has nothing to do. */
static void end_worker(struct worker *w)
{
    w->ending = true;
    w->expected = true;
    w->deadline_ms = now_ms(w->pool) + END_TIMEOUT_MS;
    process_end(w->process);
}

static void begin_oldest(struct worker *w)
{
    uint64_t now = now_ms(w->pool);
    w->deadline_ms = now + w->pool->options.request_timeout_ms;
    if (w->cpu_at_ms != now)
        w->cpu_ms = process_cpu_ms(w->process);
    w->cpu_at_ms = now;
}

static void begin_idle(struct worker *w)
{
    w->deadline_ms = now_ms(w->pool) + w->pool->options.idle_ms;
}

static void send_slots(struct worker *w)
{
    for (unsigned i = 0; i < w->n && !w->ending;) {
        struct worker_request *r = w->slots[i].request;
        if (w->slots[i].sent) {
            i++;
            continue;
        }
        int s = process_send(w->process, r->data, r->size, r->fds, r->n_fds);
        if (s > 0)
            return;
        if (s == ERR_CLOSED) {
            kill_worker(w); /* what is to blame shows when it is reaped */
        } else if (s < 0) {
            remove_slot(w, i);
            finish(w->pool, r, s, "cannot hand the request to a worker: %s", err_text(s));
            if (w->n == 0)
                begin_idle(w);
        } else {
            w->slots[i].sent = true;
            w->used = true;
            if (i == 0)
                begin_oldest(w);
            i++;
        }
    }
}

static void assign(struct worker *w, struct worker_request *r)
{
    dequeue(w->pool, r);
    w->alone = r->where == WHERE_ALONE;
    r->where = WHERE_PROCESS;
    r->process = w;
    w->slots[w->n++] = (struct slot){.request = r};
    send_slots(w);
}

__attribute__((format(printf, 3, 4))) static void blame_oldest(struct worker *w, int status,
                                                               const char *format, ...)
{
    struct worker_pool *p = w->pool;
    struct worker_request *r = NULL;
    if (w->n > 0 && w->slots[0].sent) {
        r = w->slots[0].request;
        remove_slot(w, 0);
    }
    requeue_slots(w);
    if (!r)
        return;
    if (status == ERR_HOSTILE && ++r->attempts == 1) {
        enqueue(p, r, false);
        return;
    }
    char reason[sizeof(r->reason)];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    finish(p, r, status, "%s", reason);
}

static void start_failed(struct worker_pool *p, const char *reason)
{
    uint64_t delay = START_BACKOFF_MS;
    for (unsigned i = 0; i < p->start_failures && delay < START_BACKOFF_MAX; i++)
        delay *= 2;
    p->start_failures++;
    p->start_after_ms = now_ms(p) + (delay < START_BACKOFF_MAX ? delay : START_BACKOFF_MAX);
    p->start_waits = true;
    err_set(&p->start_error, ERR_IO, "%s", reason);
}

/* Without a single worker there is no use in waiting: the caller pauses and tells. */
static void give_up_if_none(struct worker_pool *p)
{
    struct worker *w;
    if (p->start_failures < START_ATTEMPTS)
        return;
    DL_FOREACH(p->workers, w) if (!w->ending) return;
    fail_queued(p, ERR_IO, p->start_error.text);
}

static bool start_worker(struct worker_pool *p)
{
    struct err e;
    struct worker *w = calloc(1, sizeof(*w) + p->options.depth * sizeof(w->slots[0]));
    if (!w) {
        start_failed(p, "cannot start a worker: out of memory");
        return false;
    }
    struct process_options options = {
        .argv = (const char *const *)p->argv,
        .address_space = p->options.address_space,
        .buffer = p->buffer,
        .capacity = sizeof(p->buffer),
        .events = &events,
        .ctx = w,
    };
    w->pool = p;
    if (process_start(&w->process, p->loop, &options, &e) < 0) {
        free(w);
        start_failed(p, e.text);
        return false;
    }
    w->deadline_ms = now_ms(p) + START_TIMEOUT_MS;
    DL_APPEND(p->workers, w);
    return true;
}

/* What its processes do */

static void on_message(struct process *pr, const uint8_t *data, size_t size, void *ctx)
{
    struct worker *w = ctx;
    struct worker_pool *p = w->pool;
    (void)pr;
    if (!w->ready && size == 1) {
        w->ready = true;
        p->start_failures = 0;
        p->start_after_ms = 0;
        begin_idle(w);
        dispatch(p);
        return;
    }
    if (!w->ready || w->n == 0 || !w->slots[0].sent) {
        w->violated = true;
        kill_worker(w);
        return;
    }
    struct worker_request *r = w->slots[0].request;
    remove_slot(w, 0);
    w->alone = false;
    if (w->n == 0)
        begin_idle(w);
    else if (w->slots[0].sent)
        begin_oldest(w);
    if (w->draining && w->n == 0)
        end_worker(w);
    dispatch(p); /* the process works on while the answer is looked at */
    if (r) {
        p->pending--;
        r->cb(r, 0, data, size, NULL);
    }
}

static void on_broken(struct process *pr, void *ctx)
{
    struct worker *w = ctx;
    (void)pr;
    kill_worker(w);
}

static void on_writable(struct process *pr, void *ctx)
{
    struct worker *w = ctx;
    (void)pr;
    send_slots(w);
    arm_timer(w->pool);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct worker_pool *p = handle->data;
    void (*cb)(void *) = p->close_cb;
    void *ctx = p->close_ctx;
    for (char **a = p->argv; a && *a; a++)
        free(*a);
    free(p->argv);
    free(p);
    if (cb)
        cb(ctx);
}

static void check_closed(struct worker_pool *p)
{
    if (p->closing && !p->workers && !p->finished && !uv_is_closing((uv_handle_t *)&p->timer))
        uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

static void on_exited(struct process *pr, int64_t status, int signal, void *ctx)
{
    struct worker *w = ctx;
    struct worker_pool *p = w->pool;
    char how[64];
    (void)pr;
    if (signal)
        snprintf(how, sizeof(how), "was ended by signal %d", signal);
    else
        snprintf(how, sizeof(how), "ended with status %d", (int)status);
    DL_DELETE(p->workers, w);
    if (!w->ready && !w->expected) {
        char reason[128];
        snprintf(reason, sizeof(reason), "a worker %s before it was ready", how);
        start_failed(p, reason);
    } else if (w->violated)
        blame_oldest(w, ERR_HOSTILE, "the worker broke the protocol");
    else
        blame_oldest(w, ERR_HOSTILE, "the worker %s", how);
    free(w);
    dispatch(p);
    check_closed(p);
}

static const struct process_events events = {
    .message = on_message,
    .broken = on_broken,
    .writable = on_writable,
    .exited = on_exited,
};

/* Who gets what */

static unsigned count_live(const struct worker_pool *p, unsigned *ret_starting,
                           unsigned *ret_ending)
{
    unsigned live = 0;
    struct worker *w;
    *ret_starting = *ret_ending = 0;
    DL_FOREACH(p->workers, w)
    {
        live += !w->ending;
        *ret_ending += w->ending;
        *ret_starting += !w->ending && !w->ready;
    }
    return live;
}

static bool is_available(const struct worker *w)
{
    return w->ready && !w->ending && !w->alone && !w->draining;
}

static struct worker *find_fresh(struct worker_pool *p)
{
    struct worker *w;
    DL_FOREACH(p->workers, w) if (is_available(w) && !w->used && w->n == 0) return w;
    return NULL;
}

/* The idle one that worked last, so that the others may go; else the one with the least to do. */
static struct worker *find_least_loaded(struct worker_pool *p)
{
    struct worker *w, *best = NULL;
    DL_FOREACH(p->workers, w)
    {
        if (!is_available(w) || w->n >= p->options.depth)
            continue;
        if (!best || w->n < best->n ||
            (w->n == 0 && best->n == 0 && w->deadline_ms > best->deadline_ms))
            best = w;
    }
    return best;
}

/* A request on its second try needs a fresh process where all are in use. */
static void make_room(struct worker_pool *p)
{
    struct worker *w, *least = NULL;
    DL_FOREACH(p->workers, w)
    {
        if (w->draining)
            return;
        if (is_available(w) && (!least || w->n < least->n))
            least = w;
    }
    if (!least)
        return;
    least->draining = true;
    if (least->n == 0)
        end_worker(least);
}

static void dispatch(struct worker_pool *p)
{
    unsigned starting, ending;
    struct worker *w;
    if (p->closing) {
        arm_timer(p);
        return;
    }
    while (p->alone && (w = find_fresh(p)))
        assign(w, p->alone);
    unsigned live = count_live(p, &starting, &ending);
    p->start_waits = now_ms(p) < p->start_after_ms;
    bool may_start = !p->start_waits && ending <= MAX_ENDING_FACTOR * p->options.max;
    /* A second request in a process waits for the first one: only when there is no other place for
     * it. */
    while (p->waiting && (w = find_least_loaded(p))) {
        unsigned places =
            starting + (may_start && live < p->options.max ? p->options.max - live : 0);
        if (w->n > 0 && p->n_waiting + p->n_alone <= places)
            break;
        assign(w, p->waiting);
    }
    if (p->alone && starting == 0 && live >= p->options.max) {
        make_room(p);
        live = count_live(p, &starting, &ending);
    }
    while (may_start && live < p->options.max && starting < p->n_waiting + p->n_alone) {
        if (!start_worker(p))
            break;
        starting++;
        live++;
    }
    give_up_if_none(p);
    arm_timer(p);
}

/* Time */

static void time_out(struct worker *w, uint64_t now)
{
    struct worker_pool *p = w->pool;
    uint64_t limit = p->options.request_timeout_ms;
    if (w->ending) {
        w->expected = true;
        kill_worker(w);
    } else if (!w->ready)
        kill_worker(w);
    else if (w->n == 0)
        end_worker(w);
    else {
        /* The loop may have been held up while the answer was there. */
        process_drain(w->process);
        if (w->ending || w->n == 0 || now < w->deadline_ms)
            return;
        uint64_t cpu_ms = process_cpu_ms(w->process);
        uint64_t used = cpu_ms > w->cpu_ms ? cpu_ms - w->cpu_ms : 0;
        /* Not only when it is reaped: a process that hangs in a file system cannot be killed. */
        kill_worker(w);
        w->expected = true;
        if (used >= limit / HUNG_CPU_FRACTION)
            blame_oldest(w, ERR_HOSTILE, "the worker took longer than %llu ms",
                         (unsigned long long)limit);
        else
            blame_oldest(w, ERR_TIMEOUT, "the file could not be read within %llu ms",
                         (unsigned long long)limit);
    }
}

static void deliver_finished(struct worker_pool *p)
{
    /* Not those that the callbacks add. */
    struct worker_request *list = p->finished, *r;
    p->finished = NULL;
    while ((r = list)) {
        struct err e;
        DL_DELETE(list, r);
        err_set(&e, r->status, "%s", r->reason);
        p->pending--;
        r->cb(r, r->status, NULL, 0, &e);
    }
}

static bool is_timed(const struct worker *w)
{
    return !w->killed && (!w->ready || w->ending || w->n == 0 || w->slots[0].sent);
}

static void on_timer(uv_timer_t *timer)
{
    struct worker_pool *p = timer->data;
    uint64_t now = now_ms(p);
    struct worker *w, *next;
    DL_FOREACH_SAFE(p->workers, w, next)
    {
        if (is_timed(w) && w->deadline_ms <= now)
            time_out(w, now);
    }
    deliver_finished(p);
    dispatch(p);
    check_closed(p);
}

static void arm_timer(struct worker_pool *p)
{
    uint64_t due = UINT64_MAX, now = now_ms(p);
    struct worker *w;
    if (uv_is_closing((uv_handle_t *)&p->timer))
        return;
    DL_FOREACH(p->workers, w) if (is_timed(w) && w->deadline_ms < due) due = w->deadline_ms;
    if ((p->waiting || p->alone) && p->start_waits && p->start_after_ms < due)
        due = p->start_after_ms;
    if (p->finished)
        due = now;
    if (due == UINT64_MAX)
        uv_timer_stop(&p->timer);
    else
        uv_timer_start(&p->timer, on_timer, due > now ? due - now : 0, 0);
}

/* What the caller does */

static char **copy_argv(const char *const *argv)
{
    size_t n = 0;
    while (argv[n])
        n++;
    char **copy = calloc(n + 1, sizeof(*copy));
    for (size_t i = 0; copy && i < n; i++)
        if (!(copy[i] = strdup(argv[i]))) {
            while (i > 0)
                free(copy[--i]);
            free(copy);
            return NULL;
        }
    return copy;
}

int worker_pool_open(struct worker_pool **ret, uv_loop_t *loop,
                     const struct worker_options *options, struct err *e)
{
    if (!options->argv || !options->argv[0] || !options->max || !options->depth)
        return err_set(e, ERR_INVALID, "a worker pool needs a program, processes and depth");
    struct worker_pool *p = calloc(1, sizeof(*p));
    char **argv = copy_argv(options->argv);
    if (!p || !argv) {
        free(p);
        for (char **a = argv; a && *a; a++)
            free(*a);
        free(argv);
        return err_set(e, ERR_NOMEM, "cannot open a worker pool: out of memory");
    }
    p->loop = loop;
    p->options = *options;
    p->argv = argv;
    p->options.argv = (const char *const *)argv;
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    *ret = p;
    return 0;
}

void worker_submit(struct worker_pool *p, struct worker_request *r)
{
    r->attempts = 0;
    r->process = NULL;
    p->pending++;
    if (p->closing)
        finish(p, r, ERR_CANCELED, "the worker pool is closing");
    else if (r->size == 0)
        finish(p, r, ERR_INVALID, "an empty request");
    else if (r->size > WORKER_MAX_MESSAGE || r->n_fds > WORKER_MAX_FDS)
        finish(p, r, ERR_TOO_LARGE, "the request is too large for a worker");
    else
        enqueue(p, r, false);
    dispatch(p);
}

void worker_cancel(struct worker_pool *p, struct worker_request *r)
{
    if (r->where == WHERE_FINISHED)
        return;
    struct worker *w = r->process;
    if (!w)
        dequeue(p, r);
    else {
        unsigned i = 0;
        while (w->slots[i].request != r)
            i++;
        bool begun = i == 0 && w->slots[i].sent;
        w->slots[i].request = NULL;
        if (!w->slots[i].sent)
            remove_slot(w, i);
        if (w->n == 0 && !w->ending)
            begin_idle(w);
        if (begun && !w->ending) {
            kill_worker(w);
            w->expected = true;
            requeue_slots(w);
        }
    }
    finish(p, r, ERR_CANCELED, "canceled");
    dispatch(p);
}

unsigned worker_pending(const struct worker_pool *p)
{
    return p->pending;
}

void worker_pool_close(struct worker_pool *p, void (*cb)(void *ctx), void *ctx)
{
    struct worker *w;
    p->closing = true;
    p->close_cb = cb;
    p->close_ctx = ctx;
    DL_FOREACH(p->workers, w)
    {
        bool idle = w->ready && w->n == 0;
        for (unsigned i = 0; i < w->n; i++)
            if (w->slots[i].request)
                finish(p, w->slots[i].request, ERR_CANCELED, "canceled");
        w->n = 0;
        if (w->ending)
            continue;
        if (idle)
            end_worker(w);
        else {
            kill_worker(w);
            w->expected = true;
        }
    }
    fail_queued(p, ERR_CANCELED, "canceled");
    /* The timer delivers and, when nothing is left, ends the pool. */
    uv_timer_start(&p->timer, on_timer, 0, 0);
}
