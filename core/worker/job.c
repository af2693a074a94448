/* A mount's jobs wait in one list; runners, each a piece of libuv's work, take from it until it is
 * empty. Most jobs are over in microseconds, and to wake a thread for each would cost more than
 * they do: a runner is started for every few jobs that wait, and one more whenever none was taken
 * for a moment, up to the cap, so that those that hang hold up nobody for long.
 *
 *   submit -> waiting -> (runner: work) -> finished -> (async: done) */
#include "worker/job.h"

#include "base/err.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>
#include <utlist.h>

#define JOBS_PER_RUNNER 4 /* that wait before another one is started */
#define STUCK_MS        2

struct mount;

struct runner {
    uv_work_t request;
    struct mount *mount;
    struct runner *next; /* idle */
};

struct mount {
    uint64_t id;
    struct job_queue *queue;
    struct runner *idle; /* loop thread */
    unsigned pending;    /* likewise: jobs submitted and not done */
    /* behind the queue's mutex */
    struct job *first, *last; /* waiting, in order */
    unsigned waiting;
    unsigned active; /* runners that will look at the list again */
    bool taken;      /* one was, since the timer last looked */
    UT_hash_handle hh;
    struct runner runners[];
};

struct job_queue {
    uv_loop_t *loop;
    unsigned per_mount;
    unsigned pending;
    unsigned working; /* pieces of libuv's work */
    unsigned calling; /* `done` callbacks that run */
    bool closing;
    unsigned handles;
    struct mount *mounts;
    uv_timer_t timer; /* runs while jobs wait */
    uv_async_t async; /* there are finished ones */
    uv_mutex_t mutex;
    struct job *finished_first, *finished_last; /* behind the mutex */
};

void job_setup(unsigned threads)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", threads);
    setenv("UV_THREADPOOL_SIZE", text, 0);
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *handle)
{
    struct job_queue *q = handle->data;
    struct mount *m, *next;
    if (--q->handles > 0)
        return;
    HASH_ITER(hh, q->mounts, m, next)
    {
        HASH_DEL(q->mounts, m);
        free(m);
    }
    uv_mutex_destroy(&q->mutex);
    free(q);
}

static void maybe_free(struct job_queue *q)
{
    if (!q->closing || q->pending > 0 || q->working > 0 || q->calling > 0 || q->handles > 0)
        return;
    q->handles = 2;
    uv_close((uv_handle_t *)&q->timer, on_closed);
    uv_close((uv_handle_t *)&q->async, on_closed);
}

/* ---- done ---- */

static void call_done(struct job_queue *q, struct job *job)
{
    struct mount *m;
    HASH_FIND(hh, q->mounts, &job->mount, sizeof(job->mount), m);
    if (m)
        m->pending--;
    q->pending--;
    job->queue = NULL;
    q->calling++;
    job->done(job);
    q->calling--;
}

static void finish_all(struct job_queue *q)
{
    uv_mutex_lock(&q->mutex);
    struct job *job = q->finished_first;
    q->finished_first = q->finished_last = NULL;
    uv_mutex_unlock(&q->mutex);
    q->calling++;
    while (job) {
        struct job *next = job->next;
        call_done(q, job);
        job = next;
    }
    q->calling--;
    maybe_free(q);
}

static void on_async(uv_async_t *async)
{
    finish_all(async->data);
}

/* ---- runners ---- */

static void on_run(uv_work_t *request)
{
    struct runner *r = request->data;
    struct mount *m = r->mount;
    struct job_queue *q = m->queue;
    struct job *job;
    uv_mutex_lock(&q->mutex);
    while ((job = m->first) != NULL) {
        m->first = job->next;
        m->waiting--;
        m->taken = true;
        uv_mutex_unlock(&q->mutex);
        job->work(job);
        uv_mutex_lock(&q->mutex);
        bool first = !q->finished_first;
        job->next = NULL;
        if (first)
            q->finished_first = job;
        else
            q->finished_last->next = job;
        q->finished_last = job;
        if (first)
            uv_async_send(&q->async);
    }
    m->active--;
    uv_mutex_unlock(&q->mutex);
}

static void start_runners(struct mount *m, bool stuck);

static void on_ran(uv_work_t *request, int status)
{
    struct runner *r = request->data;
    struct mount *m = r->mount;
    struct job_queue *q = m->queue;
    (void)status; /* nothing here is ever canceled */
    q->working--;
    LL_PREPEND(m->idle, r);
    start_runners(m, false);
    finish_all(q);
}

/* One for every few jobs that wait, or one more because those that run are stuck. */
static void start_runners(struct mount *m, bool stuck)
{
    struct job_queue *q = m->queue;
    for (; m->idle; stuck = false) {
        struct runner *r = m->idle;
        uv_mutex_lock(&q->mutex);
        bool wanted = m->waiting > m->active * JOBS_PER_RUNNER || (stuck && m->waiting > 0);
        m->active += wanted;
        uv_mutex_unlock(&q->mutex);
        if (!wanted)
            return;
        LL_DELETE(m->idle, r);
        q->working++;
        int rc = uv_queue_work(q->loop, &r->request, on_run, on_ran);
        assert(rc == 0); /* it fails without a callback only */
        (void)rc;
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct job_queue *q = timer->data;
    bool waiting = false;
    for (struct mount *m = q->mounts; m; m = m->hh.next) {
        uv_mutex_lock(&q->mutex);
        bool stuck = m->waiting > 0 && !m->taken;
        waiting = waiting || (m->waiting > 0 && m->idle);
        m->taken = false;
        uv_mutex_unlock(&q->mutex);
        if (stuck)
            start_runners(m, true);
    }
    if (!waiting)
        uv_timer_stop(timer);
}

/* ---- interface ---- */

int job_queue_open(struct job_queue **ret, uv_loop_t *loop, unsigned per_mount)
{
    struct job_queue *q = calloc(1, sizeof(*q));
    if (!q)
        return ERR_NOMEM;
    if (uv_mutex_init(&q->mutex) != 0) {
        free(q);
        return ERR_NOMEM;
    }
    if (uv_async_init(loop, &q->async, on_async) != 0) {
        uv_mutex_destroy(&q->mutex);
        free(q);
        return ERR_NOMEM;
    }
    uv_timer_init(loop, &q->timer);
    q->async.data = q->timer.data = q;
    /* libuv's work keeps the loop going. */
    uv_unref((uv_handle_t *)&q->async);
    uv_unref((uv_handle_t *)&q->timer);
    q->loop = loop;
    q->per_mount = per_mount ? per_mount : 1;
    *ret = q;
    return 0;
}

static struct mount *find_mount(struct job_queue *q, uint64_t id)
{
    struct mount *m;
    HASH_FIND(hh, q->mounts, &id, sizeof(id), m);
    if (m)
        return m;
    m = calloc(1, sizeof(*m) + q->per_mount * sizeof(m->runners[0]));
    if (!m)
        abort(); /* about a kilobyte a mount: as uthash does when its table cannot grow */
    m->id = id;
    m->queue = q;
    for (unsigned i = 0; i < q->per_mount; i++) {
        m->runners[i].mount = m;
        m->runners[i].request.data = &m->runners[i];
        LL_PREPEND(m->idle, &m->runners[i]);
    }
    HASH_ADD(hh, q->mounts, id, sizeof(m->id), m);
    return m;
}

static void on_single(uv_work_t *request)
{
    struct job *job = request->data;
    job->work(job);
}

static void on_single_done(uv_work_t *request, int status)
{
    struct job *job = request->data;
    struct job_queue *q = job->queue;
    (void)status;
    q->working--;
    call_done(q, job);
    maybe_free(q);
}

void job_submit(struct job_queue *q, struct job *job)
{
    job->queue = q;
    job->next = NULL;
    q->pending++;
    if (job->mount == 0) {
        job->request.data = job;
        q->working++;
        int rc = uv_queue_work(q->loop, &job->request, on_single, on_single_done);
        assert(rc == 0);
        (void)rc;
        return;
    }
    struct mount *m = find_mount(q, job->mount);
    m->pending++;
    uv_mutex_lock(&q->mutex);
    if (m->first)
        m->last->next = job;
    else
        m->first = job;
    m->last = job;
    m->waiting++;
    uv_mutex_unlock(&q->mutex);
    start_runners(m, false);
    if (!uv_is_active((uv_handle_t *)&q->timer))
        uv_timer_start(&q->timer, on_timer, STUCK_MS, STUCK_MS);
}

unsigned job_queue_pending(const struct job_queue *q)
{
    return q->pending;
}

unsigned job_queue_pending_of(const struct job_queue *q, uint64_t mount)
{
    struct mount *m;
    HASH_FIND(hh, q->mounts, &mount, sizeof(mount), m);
    return m ? m->pending : 0;
}

void job_queue_close(struct job_queue *q)
{
    if (!q)
        return;
    q->closing = true;
    maybe_free(q);
}
