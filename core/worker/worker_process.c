/* One process of the pool: the requests it was handed, and what becomes of them when it answers,
 * dies or hangs. */
#include "worker/worker_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define START_TIMEOUT_MS  30000 /* dictionaries and gconv modules on a loaded machine */
#define END_TIMEOUT_MS    5000
#define HUNG_CPU_FRACTION 10 /* of the time limit: below it a request waited rather than worked */

static const struct process_events events;

/* ---- Its slots ---- */

void worker_remove_slot(struct worker *w, unsigned i)
{
    w->n--;
    memmove(&w->slots[i], &w->slots[i + 1], (w->n - i) * sizeof(w->slots[0]));
}

void worker_requeue_slots(struct worker *w)
{
    while (w->n > 0) {
        struct worker_request *r = w->slots[--w->n].request;
        if (r)
            worker_pool_enqueue(w->pool, r, true);
    }
}

void worker_kill(struct worker *w)
{
    w->ending = true;
    w->killed = true;
    process_kill(w->process);
}

void worker_end(struct worker *w)
{
    w->ending = true;
    w->expected = true;
    w->deadline_ms = worker_pool_now_ms(w->pool) + END_TIMEOUT_MS;
    process_end(w->process);
}

static void begin_oldest(struct worker *w)
{
    uint64_t now = worker_pool_now_ms(w->pool);
    w->deadline_ms = now + w->pool->options.request_timeout_ms;
    if (w->cpu_at_ms != now)
        w->cpu_ms = process_cpu_ms(w->process);
    w->cpu_at_ms = now;
}

void worker_begin_idle(struct worker *w)
{
    w->deadline_ms = worker_pool_now_ms(w->pool) + w->pool->options.idle_ms;
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
            worker_kill(w); /* what is to blame shows when it is reaped */
        } else if (s < 0) {
            worker_remove_slot(w, i);
            worker_pool_finish(w->pool, r, s, "cannot hand the request to a worker: %s",
                               err_text(s));
            if (w->n == 0)
                worker_begin_idle(w);
        } else {
            w->slots[i].sent = true;
            w->used = true;
            if (i == 0)
                begin_oldest(w);
            i++;
        }
    }
}

void worker_assign(struct worker *w, struct worker_request *r)
{
    worker_pool_dequeue(w->pool, r);
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
        worker_remove_slot(w, 0);
    }
    worker_requeue_slots(w);
    if (!r)
        return;
    if (status == ERR_HOSTILE && ++r->attempts == 1) {
        worker_pool_enqueue(p, r, false);
        return;
    }
    char reason[sizeof(r->reason)];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    worker_pool_finish(p, r, status, "%s", reason);
}

/* ---- Its life ---- */

bool worker_start(struct worker_pool *p)
{
    struct err e;
    struct worker *w = calloc(1, sizeof(*w) + p->options.depth * sizeof(w->slots[0]));
    if (!w) {
        worker_pool_start_failed(p, "cannot start a worker: out of memory");
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
        worker_pool_start_failed(p, e.text);
        return false;
    }
    w->deadline_ms = worker_pool_now_ms(p) + START_TIMEOUT_MS;
    DL_APPEND(p->workers, w);
    return true;
}

/* ---- What it does ---- */

static void on_message(struct process *pr, const uint8_t *data, size_t size, void *ctx)
{
    struct worker *w = ctx;
    struct worker_pool *p = w->pool;
    (void)pr;
    if (!w->ready && size == 1) {
        w->ready = true;
        p->start_failures = 0;
        p->start_after_ms = 0;
        worker_begin_idle(w);
        worker_pool_dispatch(p);
        return;
    }
    if (!w->ready || w->n == 0 || !w->slots[0].sent) {
        w->violated = true;
        worker_kill(w);
        return;
    }
    struct worker_request *r = w->slots[0].request;
    worker_remove_slot(w, 0);
    w->alone = false;
    if (w->n == 0)
        worker_begin_idle(w);
    else if (w->slots[0].sent)
        begin_oldest(w);
    if (w->draining && w->n == 0)
        worker_end(w);
    worker_pool_dispatch(p); /* the process works on while the answer is looked at */
    if (r) {
        p->pending--;
        r->cb(r, 0, data, size, NULL);
    }
}

static void on_broken(struct process *pr, void *ctx)
{
    struct worker *w = ctx;
    (void)pr;
    worker_kill(w);
}

static void on_writable(struct process *pr, void *ctx)
{
    struct worker *w = ctx;
    (void)pr;
    send_slots(w);
    worker_pool_arm_timer(w->pool);
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
        worker_pool_start_failed(p, reason);
    } else if (w->violated)
        blame_oldest(w, ERR_HOSTILE, "the worker broke the protocol");
    else
        blame_oldest(w, ERR_HOSTILE, "the worker %s", how);
    free(w);
    worker_pool_dispatch(p);
    worker_pool_check_closed(p);
}

static const struct process_events events = {
    .message = on_message,
    .broken = on_broken,
    .writable = on_writable,
    .exited = on_exited,
};

void worker_time_out(struct worker *w, uint64_t now)
{
    struct worker_pool *p = w->pool;
    uint64_t limit = p->options.request_timeout_ms;
    if (w->ending) {
        w->expected = true;
        worker_kill(w);
    } else if (!w->ready)
        worker_kill(w);
    else if (w->n == 0)
        worker_end(w);
    else {
        /* The loop may have been held up while the answer was there. */
        process_drain(w->process);
        if (w->ending || w->n == 0 || now < w->deadline_ms)
            return;
        uint64_t cpu_ms = process_cpu_ms(w->process);
        uint64_t used = cpu_ms > w->cpu_ms ? cpu_ms - w->cpu_ms : 0;
        /* Not only when it is reaped: a process that hangs in a file system cannot be killed. */
        worker_kill(w);
        w->expected = true;
        if (used >= limit / HUNG_CPU_FRACTION)
            blame_oldest(w, ERR_HOSTILE, "the worker took longer than %llu ms",
                         (unsigned long long)limit);
        else
            blame_oldest(w, ERR_TIMEOUT, "the file could not be read within %llu ms",
                         (unsigned long long)limit);
    }
}
