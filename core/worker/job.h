/* Blocking work on libuv's thread pool, with a cap per mount, so that a hung share stops only its
 * own files (rule 8).
 *
 * Loop thread only. The pool of threads is libuv's (set UV_THREADPOOL_SIZE before the loop runs:
 * job_setup). */
#ifndef WORKER_JOB_H
#define WORKER_JOB_H

#include <stdint.h>
#include <uv.h>

struct job_queue; /* the caps; one per loop */

/* Owned by the caller until `done` was called. */
struct job {
    void (*work)(struct job *job); /* on a pool thread; may block */
    void (*done)(
        struct job *job); /* on the loop, exactly once after work; may free or resubmit the job */
    uint64_t mount; /* whose cap counts: any stable number of a mount or watch root; 0: no cap */
    void *data;
    /* private */
    uv_work_t request;
    struct job_queue *queue;
    struct job *next;
};

/* Sets UV_THREADPOOL_SIZE to `threads` if the environment does not; before any other use of libuv.
 */
void job_setup(unsigned threads);

/* `per_mount` jobs of one mount at most run at a time; others of it wait, and begin in order. A job
 * of a mount on which none is stuck may wait some milliseconds for another one. */
int job_queue_open(struct job_queue **ret, uv_loop_t *loop, unsigned per_mount);
void job_submit(struct job_queue *q, struct job *job);
/* Jobs submitted and not yet done. Work that runs cannot be canceled: a shutdown waits for 0, with
 * a deadline. */
unsigned job_queue_pending(const struct job_queue *q);
/* Those of one mount (0: of none are not counted). */
unsigned job_queue_pending_of(const struct job_queue *q, uint64_t mount);
/* No more jobs but of those that run (a source that was left closes its file); freed by the loop
 * when the last is done, which for work on a hung mount may be never. */
void job_queue_close(struct job_queue *q);

#endif
