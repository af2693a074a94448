/* A pool of worker processes: each on a SOCK_SEQPACKET socketpair (its descriptor 3), started when
 * needed, gone after a time without work, killed when over its time, replaced when it dies.
 * Architecture, "Workers".
 *
 * A request is bytes and open descriptors (SCM_RIGHTS), the answer is bytes; what they mean is the
 * caller's affair. A request whose worker died, hung or broke the protocol is tried once more alone
 * in a fresh worker, then fails with ERR_HOSTILE. Guilty is the oldest one in the process; the
 * others there are handed to another process and lose no try. One whose time ran out while its
 * process used next to no CPU waits for a file system, not for a parser: ERR_TIMEOUT at once
 * (transient), never ERR_HOSTILE. When workers cannot be started at all, requests fail with ERR_IO
 * (local).
 *
 * A process says that it is ready (its first message, sent by worker_receive) before it is handed
 * anything, so what goes wrong earlier is no file's fault. It has no core files, and its
 * address-space limit is set from outside before the first request. Environment: LANG, LC_ALL,
 * LC_CTYPE, TZ, DCMDICTPATH, the sanitizers' options, DCMFERRY_WORKER_*; nothing else. Loop thread
 * only. */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define WORKER_MAX_FDS     4
#define WORKER_MAX_MESSAGE (192 * 1024) /* bytes of a request or an answer */

struct worker_pool;

struct worker_options {
    const char *const *argv; /* program and arguments, NULL-terminated; copied */
    unsigned max;            /* processes at most */
    unsigned
        depth; /* requests handed to one process before it answers (answers come in order); >= 1 */
    uint64_t idle_ms;            /* a process without work ends after that */
    uint64_t request_timeout_ms; /* wall time a request may take in the process, from when it is the
                                    oldest there */
    uint64_t address_space;      /* RLIMIT_AS in bytes, 0: none (under ASan) */
};

/* Owned by the caller until cb was called, exactly once (ERR_CANCELED after worker_cancel or at
 * close). */
struct worker_request {
    const void *data; /* must live until cb */
    size_t size;
    int fds[WORKER_MAX_FDS]; /* stay the caller's to close, not before cb */
    size_t n_fds;
    /* status 0: `answer` is the worker's bytes, valid during the call. */
    void (*cb)(struct worker_request *r, int status, const uint8_t *answer, size_t size,
               const struct err *e);
    void *ctx;
    /* private */
    struct worker_request *prev, *next;
    void *process;
    unsigned attempts;
    int where, status;
    char reason[128];
};

int worker_pool_open(struct worker_pool **ret, uv_loop_t *loop,
                     const struct worker_options *options, struct err *e);
/* Queues a request. Never calls back from within. ERR_INVALID comes by cb for an empty request,
 * ERR_TOO_LARGE for one above WORKER_MAX_MESSAGE or WORKER_MAX_FDS. */
void worker_submit(struct worker_pool *p, struct worker_request *r);
/* The callback comes soon, with ERR_CANCELED, unless it was on its way; the process is replaced if
 * it had begun. */
void worker_cancel(struct worker_pool *p, struct worker_request *r);
/* Requests that are queued or under way. */
unsigned worker_pending(const struct worker_pool *p);
/* Cancels everything, ends the processes (SIGKILL for those that do not go at once); cb when the
 * last is reaped. The pool is freed before cb. */
void worker_pool_close(struct worker_pool *p, void (*cb)(void *ctx), void *ctx);

/* In the worker program, which should begin with prctl(PR_SET_PDEATHSIG, SIGKILL): one message from
 * descriptor 3, blocking. fds[*n_fds] are the receiver's to close. Returns the size, 0 at the end
 * of file, a negative ERR_ code otherwise. */
long worker_receive(void *buffer, size_t capacity, int fds[WORKER_MAX_FDS], size_t *n_fds);
/* In the worker program: sends the answer. */
int worker_answer(const void *data, size_t size);

#endif
