/* The pool (worker.c): which request is where, and which process gets it. One process of it with
 * its slots (worker_process.c). Loop thread only. */
#ifndef WORKER_WORKER_INTERNAL_H
#define WORKER_WORKER_INTERNAL_H

#include "worker/process.h"
#include "worker/worker.h"

#include <stdbool.h>

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

/* ---- worker.c ---- */

/* Milliseconds of the loop's clock, read now. */
uint64_t worker_pool_now_ms(const struct worker_pool *p);
/* Into the queue of its try. */
void worker_pool_enqueue(struct worker_pool *p, struct worker_request *r, bool front);
void worker_pool_dequeue(struct worker_pool *p, struct worker_request *r);
/* Its callback comes soon, from the timer. */
__attribute__((format(printf, 4, 5))) void worker_pool_finish(struct worker_pool *p,
                                                              struct worker_request *r, int status,
                                                              const char *format, ...);
/* A process could not be started, or ended before it was ready: the next one a little later. */
void worker_pool_start_failed(struct worker_pool *p, const char *reason);
/* Hands out what can be handed out, starts what is needed, and sets the timer. */
void worker_pool_dispatch(struct worker_pool *p);
void worker_pool_arm_timer(struct worker_pool *p);
/* Ends the pool if it is closing and nothing is left. */
void worker_pool_check_closed(struct worker_pool *p);

/* ---- worker_process.c ---- */

/* False if it cannot be started; worker_pool_start_failed was told. */
bool worker_start(struct worker_pool *p);
/* Hands it a request that is in a queue. */
void worker_assign(struct worker *w, struct worker_request *r);
void worker_remove_slot(struct worker *w, unsigned i);
/* Back into the queue, in order and before the others; they lose no try. */
void worker_requeue_slots(struct worker *w);
/* From now on it has nothing to do. */
void worker_begin_idle(struct worker *w);
/* Asks it to go; it has nothing to do. */
void worker_end(struct worker *w);
void worker_kill(struct worker *w);
/* Its deadline has passed. */
void worker_time_out(struct worker *w, uint64_t now);

#endif
