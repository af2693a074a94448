/* The files that may still be written to, and when to look at each again. Bounded. Not thread-safe,
 * no file access. */
#ifndef WATCH_WATCH_SETTLE_H
#define WATCH_WATCH_SETTLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct watch_settle_file {
    UT_hash_handle hh;
    uint64_t size; /* as of the first look… */
    int64_t mtime_ns;
    uint64_t since_ms; /* …which was then (monotonic) */
    uint64_t due_ms;   /* when to look again */
    bool polled;       /* only stillness counts, not the age */
    bool again;        /* to be offered even if this version was offered lately */
    char path[];
};

struct watch_settle {
    struct watch_settle_file *files;
    size_t count, max;
    uint64_t next_due_ms; /* not later than the earliest due_ms; UINT64_MAX: none */
};

enum watch_settle_verdict { WATCH_SETTLE_KEEP, WATCH_SETTLE_DROP, WATCH_SETTLE_STOP };

void watch_settle_init(struct watch_settle *l, size_t max);
void watch_settle_free(struct watch_settle *l);

/* Adds the file, or updates it: an unchanged version keeps its first look. False if the list is
 * full. */
bool watch_settle_put(struct watch_settle *l, const struct watch_settle_file *file,
                      const char *path);
void watch_settle_remove(struct watch_settle *l, const char *path);

/* Calls `look` for every file that is due; it may change the file (KEEP), have it removed (DROP),
 * or have it left as it is with all that follow (STOP). It may not touch the list. */
void watch_settle_visit(struct watch_settle *l, uint64_t now_ms,
                        enum watch_settle_verdict (*look)(struct watch_settle_file *file,
                                                          void *ctx),
                        void *ctx);

#endif
