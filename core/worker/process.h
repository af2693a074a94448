/* One worker process and our end of its socketpair: start, send, receive, end. What its messages
 * mean is worker_process.c's affair. Loop thread only. */
#ifndef WORKER_PROCESS_H
#define WORKER_PROCESS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct process;

struct process_events {
    /* A message, at most `capacity` bytes of the buffer given to process_start. */
    void (*message)(struct process *pr, const uint8_t *data, size_t size, void *ctx);
    /* The end of file, a message that is too long, or an error: the process is of no further use.
     */
    void (*broken)(struct process *pr, void *ctx);
    /* process_send will take something again. */
    void (*writable)(struct process *pr, void *ctx);
    /* It was reaped, after its last messages; the last event: *pr is freed by itself. */
    void (*exited)(struct process *pr, int64_t status, int signal, void *ctx);
};

struct process_options {
    const char *const *argv;
    uint64_t address_space; /* RLIMIT_AS, 0: none */
    uint8_t *buffer;        /* for messages received; may be shared by processes of one loop */
    size_t capacity;
    const struct process_events *events;
    void *ctx;
};

/* Starts the program in a session of its own (a terminal's Ctrl-C is the daemon's to handle), with
 * the socket as descriptor 3, stdin and stdout on /dev/null, and a short allow-list of environment
 * variables: secrets may be among the others. No core files, since they would hold patient data.
 * The limits are set from outside with prlimit(2) before anything is sent, so no request is ever
 * handled without them. */
int process_start(struct process **ret, uv_loop_t *loop, const struct process_options *options,
                  struct err *e);

/* One message. 0, 1 if it must wait for `writable`, ERR_CLOSED if the process is of no further use,
 * another negative code if the message cannot be sent (a bad descriptor). */
int process_send(struct process *pr, const void *data, size_t size, const int *fds, size_t n_fds);

/* Reads what has arrived already. */
void process_drain(struct process *pr);

/* Closes our end, which tells the worker to go; no messages come any more. */
void process_end(struct process *pr);

/* process_end and SIGKILL. */
void process_kill(struct process *pr);

/* CPU time used so far, in milliseconds. */
uint64_t process_cpu_ms(const struct process *pr);

#endif
