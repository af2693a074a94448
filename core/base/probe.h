/* A look at a file system that may not answer (a dead NFS server, a FUSE one that is stuck), with a
 * deadline. A call that hangs in the kernel cannot be taken back: it is left behind, and ends by
 * itself when it is answered. Thread-safe. */
#ifndef BASE_PROBE_H
#define BASE_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum probe_where {
    /* For commands: a process cannot end while one of its threads hangs. Not for a program that has
     * source files open: the child closes its copies, which may hang itself (FUSE's flush). It has
     * no descriptor of ours, not even the standard streams. */
    PROBE_PROCESS,
    /* For the daemon. */
    PROBE_THREAD
};

struct probe {
    int fd; /* -1: none */
};

typedef void (*probe_work)(const void *in, void *out);

/* Begins `work(in, out)` elsewhere, on copies of the bytes at both; what it makes of `out` comes
 * back with probe_wait. False if that cannot be done (errno). */
bool probe_start(struct probe *p, enum probe_where where, probe_work work, const void *in,
                 size_t in_size, const void *out, size_t out_size);
/* Waits for the answer until clock_monotonic_ms() is `deadline_ms`; false: there is none, and *out
 * holds nothing of use. The probe is at its end in any case. */
bool probe_wait(struct probe *p, void *out, size_t out_size, uint64_t deadline_ms);

#endif
