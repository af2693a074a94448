/* The pool: which request is where, which process gets it, and when. */
#include "worker/worker_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define START_ATTEMPTS    3
#define START_BACKOFF_MS  100
#define START_BACKOFF_MAX 5000
#define MAX_ENDING_FACTOR                                                                          \
    4 /* processes that cannot be killed (a hung share) per process allowed                        \
       */

uint64_t worker_pool_now_ms(const struct worker_pool *p)
{
    uv_update_time(p->loop);
    return uv_now(p->loop);
}

/* ---- Requests: each is in one place, which `where` names ---- */

void worker_pool_enqueue(struct worker_pool *p, struct worker_request *r, bool front)
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

void worker_pool_dequeue(struct worker_pool *p, struct worker_request *r)
{
    if (r->where == WHERE_ALONE) {
        DL_DELETE(p->alone, r);
        p->n_alone--;
    } else {
        DL_DELETE(p->waiting, r);
        p->n_waiting--;
    }
}

void worker_pool_finish(struct worker_pool *p, struct worker_request *r, int status,
                        const char *format, ...)
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
        worker_pool_dequeue(p, r);
        worker_pool_finish(p, r, status, "%s", reason);
    }
}

void worker_pool_start_failed(struct worker_pool *p, const char *reason)
{
    uint64_t delay = START_BACKOFF_MS;
    for (unsigned i = 0; i < p->start_failures && delay < START_BACKOFF_MAX; i++)
        delay *= 2;
    p->start_failures++;
    p->start_after_ms =
        worker_pool_now_ms(p) + (delay < START_BACKOFF_MAX ? delay : START_BACKOFF_MAX);
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

void worker_pool_check_closed(struct worker_pool *p)
{
    if (p->closing && !p->workers && !p->finished && !uv_is_closing((uv_handle_t *)&p->timer))
        uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

/* ---- Who gets what ---- */

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
        worker_end(least);
}

void worker_pool_dispatch(struct worker_pool *p)
{
    unsigned starting, ending;
    struct worker *w;
    if (p->closing) {
        worker_pool_arm_timer(p);
        return;
    }
    while (p->alone && (w = find_fresh(p)))
        worker_assign(w, p->alone);
    unsigned live = count_live(p, &starting, &ending);
    p->start_waits = worker_pool_now_ms(p) < p->start_after_ms;
    bool may_start = !p->start_waits && ending <= MAX_ENDING_FACTOR * p->options.max;
    /* A second request in a process waits for the first one: only when there is no other place for
     * it. */
    while (p->waiting && (w = find_least_loaded(p))) {
        unsigned places =
            starting + (may_start && live < p->options.max ? p->options.max - live : 0);
        if (w->n > 0 && p->n_waiting + p->n_alone <= places)
            break;
        worker_assign(w, p->waiting);
    }
    if (p->alone && starting == 0 && live >= p->options.max) {
        make_room(p);
        live = count_live(p, &starting, &ending);
    }
    while (may_start && live < p->options.max && starting < p->n_waiting + p->n_alone) {
        if (!worker_start(p))
            break;
        starting++;
        live++;
    }
    give_up_if_none(p);
    worker_pool_arm_timer(p);
}

/* ---- Time ---- */

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
    uint64_t now = worker_pool_now_ms(p);
    struct worker *w, *next;
    DL_FOREACH_SAFE(p->workers, w, next)
    {
        if (is_timed(w) && w->deadline_ms <= now)
            worker_time_out(w, now);
    }
    deliver_finished(p);
    worker_pool_dispatch(p);
    worker_pool_check_closed(p);
}

void worker_pool_arm_timer(struct worker_pool *p)
{
    uint64_t due = UINT64_MAX, now = worker_pool_now_ms(p);
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

/* ---- What the caller does ---- */

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
        worker_pool_finish(p, r, ERR_CANCELED, "the worker pool is closing");
    else if (r->size == 0)
        worker_pool_finish(p, r, ERR_INVALID, "an empty request");
    else if (r->size > WORKER_MAX_MESSAGE || r->n_fds > WORKER_MAX_FDS)
        worker_pool_finish(p, r, ERR_TOO_LARGE, "the request is too large for a worker");
    else
        worker_pool_enqueue(p, r, false);
    worker_pool_dispatch(p);
}

void worker_cancel(struct worker_pool *p, struct worker_request *r)
{
    if (r->where == WHERE_FINISHED)
        return;
    struct worker *w = r->process;
    if (!w)
        worker_pool_dequeue(p, r);
    else {
        unsigned i = 0;
        while (w->slots[i].request != r)
            i++;
        bool begun = i == 0 && w->slots[i].sent;
        w->slots[i].request = NULL;
        if (!w->slots[i].sent)
            worker_remove_slot(w, i);
        if (w->n == 0 && !w->ending)
            worker_begin_idle(w);
        if (begun && !w->ending) {
            worker_kill(w);
            w->expected = true;
            worker_requeue_slots(w);
        }
    }
    worker_pool_finish(p, r, ERR_CANCELED, "canceled");
    worker_pool_dispatch(p);
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
                worker_pool_finish(p, w->slots[i].request, ERR_CANCELED, "canceled");
        w->n = 0;
        if (w->ending)
            continue;
        if (idle)
            worker_end(w);
        else {
            worker_kill(w);
            w->expected = true;
        }
    }
    fail_queued(p, ERR_CANCELED, "canceled");
    /* The timer delivers and, when nothing is left, ends the pool. */
    uv_timer_start(&p->timer, on_timer, 0, 0);
}
