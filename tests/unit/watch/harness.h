/* A watch on a real folder, with everything it says written down. */
#ifndef TEST_WATCH_HARNESS_H
#define TEST_WATCH_HARNESS_H

#include "watch/watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct offer {
    char *path; /* relative to the root */
    uint64_t size;
    int64_t mtime_ns;
    uint64_t at_ms;
};

struct rig {
    char root[64];
    uv_loop_t loop;
    struct watch *w;
    struct watch_options o;
    struct offer *offers;
    size_t n, capacity;
    unsigned notices[16];
    uint64_t notice_n[16];
    char *last_path[16];
    char **removed;
    size_t n_removed;
    bool hold;        /* batches are not acknowledged */
    unsigned held[8]; /* their tokens */
    size_t n_held;
    size_t out, max_batch;
    bool close_in_batch;
    bool closed;
};

/* A fresh folder and the options most tests want: inotify, recursive, settle 300 ms, poll 100 ms,
 * no rescan. */
void rig_init(struct rig *r);
void rig_open(struct rig *r);
void rig_close(struct rig *r);
void rig_close_within(struct rig *r, uint64_t deadline_ms);
/* Closes the watch, checks that nothing is left on the loop, removes the folder. */
void rig_end(struct rig *r);

/* Runs the loop until `done` says so; fails after `seconds`. */
#define RUN_UNTIL(r, condition)                                                                    \
    do {                                                                                           \
        uint64_t deadline_ = rig_deadline();                                                       \
        while (!(condition)) {                                                                     \
            if (uv_hrtime() > deadline_)                                                           \
                fail_msg("never became true: %s", #condition);                                     \
            rig_turn(r);                                                                           \
        }                                                                                          \
    } while (0)
uint64_t rig_deadline(void);
void rig_turn(struct rig *r); /* one turn of the loop, 20 ms at most */
void rig_run_ms(struct rig *r, uint64_t ms);
/* Idle and nothing settling. */
bool rig_quiet(struct rig *r);

size_t rig_count(const struct rig *r, const char *rel);
/* How many different paths were offered. */
size_t rig_distinct(const struct rig *r);
const struct offer *rig_last(const struct rig *r, const char *rel);
void rig_forget(struct rig *r);
void rig_release(struct rig *r);
bool rig_removed(const struct rig *r, const char *rel);

/* The rest is relative to the root. */
void put(const struct rig *r, const char *rel, const char *content);
void put_old(const struct rig *r, const char *rel, const char *content); /* settled long ago */
void make(const struct rig *r, const char *rel);                         /* a folder */
void shift(const struct rig *r, const char *from, const char *to);       /* rename */
void drop(const struct rig *r, const char *rel);                         /* unlink */
void full(const struct rig *r, const char *rel, char *out, size_t size);
void remove_tree(const char *path);

#endif
