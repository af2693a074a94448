#include "worker/job.h"

#include "base/err.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

struct mount {
    uint64_t id;
    unsigned running;
    struct job *first, *last; /* waiting, in order */
    UT_hash_handle hh;
};

struct job_queue {
    uv_loop_t *loop;
    unsigned per_mount;
    unsigned pending;
    unsigned calling; /* `done` callbacks that run */
    bool closing;
    struct mount *mounts; /* those with jobs */
};

void job_setup(unsigned threads)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", threads);
    setenv("UV_THREADPOOL_SIZE", text, 0);
}

int job_queue_open(struct job_queue **ret, uv_loop_t *loop, unsigned per_mount)
{
    struct job_queue *q = calloc(1, sizeof(*q));
    if (!q)
        return ERR_NOMEM;
    q->loop = loop;
    q->per_mount = per_mount ? per_mount : 1;
    *ret = q;
    return 0;
}

static void on_work(uv_work_t *request)
{
    struct job *job = request->data;
    job->work(job);
}

static void on_done(uv_work_t *request, int status);

static void start(struct job_queue *q, struct job *job)
{
    job->request.data = job;
    int r = uv_queue_work(q->loop, &job->request, on_work, on_done);
    assert(r == 0); /* it fails without a callback only */
    (void)r;
}

/* A job of the mount ended: its place goes to the next one. */
static void leave_mount(struct job_queue *q, uint64_t id)
{
    struct mount *m;
    HASH_FIND(hh, q->mounts, &id, sizeof(id), m);
    m->running--;
    struct job *next = m->first;
    if (next) {
        m->first = next->next;
        if (!m->first)
            m->last = NULL;
        m->running++;
        start(q, next);
    } else if (m->running == 0) {
        HASH_DEL(q->mounts, m);
        free(m);
    }
}

static void maybe_free(struct job_queue *q)
{
    if (q->closing && q->pending == 0 && q->calling == 0)
        free(q);
}

static void on_done(uv_work_t *request, int status)
{
    (void)status; /* nothing here is ever canceled */
    struct job *job = request->data;
    struct job_queue *q = job->queue;
    if (job->mount)
        leave_mount(q, job->mount);
    q->pending--;
    job->queue = NULL;
    q->calling++;
    job->done(job);
    q->calling--;
    maybe_free(q);
}

void job_submit(struct job_queue *q, struct job *job)
{
    struct mount *m = NULL;
    job->queue = q;
    job->next = NULL;
    q->pending++;
    if (job->mount) {
        HASH_FIND(hh, q->mounts, &job->mount, sizeof(job->mount), m);
        if (!m) {
            m = calloc(1, sizeof(*m));
            if (!m)
                abort(); /* 80 bytes a mount: as uthash does when its table cannot grow */
            m->id = job->mount;
            HASH_ADD(hh, q->mounts, id, sizeof(m->id), m);
        }
        if (m->running >= q->per_mount) {
            if (m->last)
                m->last->next = job;
            else
                m->first = job;
            m->last = job;
            return;
        }
        m->running++;
    }
    start(q, job);
}

unsigned job_queue_pending(const struct job_queue *q)
{
    return q->pending;
}

void job_queue_close(struct job_queue *q)
{
    if (!q)
        return;
    q->closing = true;
    maybe_free(q);
}
