/* The thread of a watch: everything that touches the watched file system happens on it, so the loop
 * never blocks on a hung mount. It walks the tree, adds inotify watches, looks at what events and
 * the settling list name, and posts batches and notices to the loop.
 *
 * `struct watch_channel` is all that the loop (watch.c) and the thread share: under `lock`, but for
 * the atomics. What comes after it in `struct watch_scanner` is the thread's alone. */
#ifndef WATCH_WATCH_SCANNER_H
#define WATCH_WATCH_SCANNER_H

#include "watch/watch.h"
#include "watch/watch_filter.h"
#include "watch/watch_folders.h"
#include "watch/watch_seen.h"
#include "watch/watch_settle.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define WATCH_RELAY_SIZE (64 * 1024)
#define WATCH_MAX_NOTES  4096 /* events wait while that many are not yet given out */

enum watch_origin { WATCH_ORIGIN_EVENTS, WATCH_ORIGIN_SCAN, WATCH_ORIGIN_SETTLE, WATCH_ORIGINS };

struct watch_batch {
    size_t n;
    struct watch_file files[WATCH_BATCH]; /* paths are malloc'ed */
};
void watch_batch_free(struct watch_batch *b);

struct watch_note {
    enum watch_notice what;
    char *path; /* NULL: the drop folder's */
    uint64_t n;
    struct watch_note *next;
};

struct watch_channel {
    pthread_mutex_t lock;
    pthread_cond_t
        wake;          /* CLOCK_MONOTONIC; the thread waits on it (watch_open too, for `checked`) */
    uv_async_t *async; /* wakes the loop; NULL once the loop has left */

    /* the loop's wishes */
    bool attention; /* something below changed */
    bool go;        /* watch_open has decided: polling or not */
    bool stop;
    bool late; /* watch_open did not wait for the first look to end */
    bool rescan;
    char *relay; /* raw inotify events, WATCH_RELAY_SIZE */
    size_t relay_size;
    bool relay_stalled; /* the loop stopped reading because it is full */

    /* the thread's answers */
    bool checked; /* the drop folder was looked at for the first time: check_* hold */
    int check_code;
    struct err check_err;
    bool check_network;
    bool working; /* it does something that may block on the file system */
    bool idle;    /* nothing is left to do but to wait for time to pass */
    bool gone;    /* the drop folder is missing */
    bool ended;   /* the thread touches nothing any more */
    struct watch_note *notes, *notes_end;
    size_t n_notes;
    struct {
        struct watch_batch *posted; /* waits for its turn */
        bool out;                   /* the user has one */
    } slots[WATCH_ORIGINS];

    atomic_uint beat; /* counts while the thread gets on */
    atomic_size_t settling;
};

/* What an event said of a path that has yet to be looked at. */
enum watch_hint {
    WATCH_HINT_COMPLETE = 1, /* closed after writing, or renamed here */
    WATCH_HINT_APPEARED = 2, /* a link or a folder entry was made */
    WATCH_HINT_CHANGED = 4,  /* mode, owner or times */
};
struct watch_pending;

/* A folder to walk. */
struct watch_walk_task {
    struct watch_walk_task *next;
    UT_hash_handle hh; /* in `subscans` */
    char rel[];        /* path relative to the root, "" for the root itself */
};

struct watch_scanner {
    struct watch_channel ch;

    /* set by watch_open before the thread starts, or before `go` */
    char *root;
    size_t root_prefix; /* length of what stands before "/rel": 0 for the root "/" */
    bool recursive, follow, make;
    uint64_t settle_ms, poll_ms, rescan_ms;
    int64_t opened_ms; /* since the epoch */
    struct watch_filter filter;
    bool poll; /* no inotify at all */

    /* the drop folder as last opened */
    dev_t root_dev;
    ino_t root_ino;
    bool root_is_mount;
    bool root_known;
    bool root_doubt; /* an event says that it was removed, renamed or unmounted */
    bool gone;
    uint64_t probe_due_ms;

    struct watch_folders folders;
    uint64_t unwatched; /* folders that could not be watched, as of the last walk */
    bool said_unwatched;
    char *parse; /* events being worked on */
    size_t parse_size, parse_at;
    struct watch_pending *pending;
    struct watch_walk_task *subscans;

    bool scan_wanted;        /* a whole walk… */
    uint64_t scan_due_ms;    /* …not before this time; UINT64_MAX: none planned */
    uint64_t partial_due_ms; /* the next walk over folders without a watch */
    uint64_t last_walk_ms;   /* how long the last whole walk took */
    bool incomplete;         /* this walk missed something for want of descriptors or memory */
    bool missed;             /* …or for any other reason than that it vanished */
    uint64_t spilled;        /* files of the last walk that settle but had no place in the list */
    uint64_t spill_due_ms;

    struct watch_settle settle;
    struct watch_seen seen;
    uint64_t unreadable[1024]; /* hashes of the paths already spoken of, the newest of each place */
    struct watch_batch *filling[WATCH_ORIGINS];
    uint64_t offered; /* by this walk */
    uint64_t breath_ms;
};

/* The thread's function. */
void *watch_scanner_main(void *scanner);
/* Frees everything; the thread must have ended (or never been started). Closes the inotify
 * descriptor. */
void watch_scanner_free(struct watch_scanner *s);

/* --- for the thread's own parts
 * ------------------------------------------------------------------------------- */

/* watch_scanner.c */
void watch_scanner_note(struct watch_scanner *s, enum watch_notice what, const char *path,
                        uint64_t n);
/* Says once that `path` cannot be read. */
void watch_scanner_unreadable(struct watch_scanner *s, const char *path);
/* Adds a file to the batch of `origin`. A full one of the scan is posted and room waited for
 * (false: stop); for the others the caller has seen to room by watch_scanner_room. */
bool watch_scanner_offer(struct watch_scanner *s, enum watch_origin origin, const char *path,
                         const struct stat *st);
void watch_scanner_post(struct watch_scanner *s, enum watch_origin origin);
size_t watch_scanner_room(struct watch_scanner *s, enum watch_origin origin);
/* Does what cannot wait for the end of a walk. Returns false when the thread is to stop. Call it
 * often. */
bool watch_scanner_breathe(struct watch_scanner *s);
/* Cheap: breathes now and then. Once per file. */
bool watch_scanner_tick(struct watch_scanner *s);
/* The absolute path; false if it is longer than PATH_MAX. */
bool watch_scanner_path(const struct watch_scanner *s, const char *rel, char out[PATH_MAX]);
/* A whole walk is to be made, not before `due_ms` (monotonic). */
void watch_scanner_want_scan(struct watch_scanner *s, uint64_t due_ms);

/* watch_rules.c: when a file is complete */
enum watch_rule {
    WATCH_RULE_EVENT,   /* an event said that it is: now, unless it is empty */
    WATCH_RULE_AGE,     /* unchanged since `settle` by its time stamps */
    WATCH_RULE_CHANGED, /* the same, and offered again even if it was offered already */
    WATCH_RULE_STILL,   /* size and mtime the same in two looks, `settle` apart */
};
/* `dir`/`name` and `path` are the same file. False: stop. */
bool watch_rules_file(struct watch_scanner *s, enum watch_origin origin, enum watch_rule rule,
                      int dir, const char *name, const char *path, const struct stat *st);
/* Looks at the files whose time has come, as far as there is room for them. */
void watch_rules_settle(struct watch_scanner *s);
/* Publishes how many files are settling. */
void watch_rules_count(struct watch_scanner *s);
/* Resolves a link at the absolute `path`: true with *st and the target's path relative to the root,
 * if it is in the tree and the walk would not come to it by itself. */
bool watch_rules_follow(struct watch_scanner *s, const char *path, char rel[PATH_MAX],
                        struct stat *st);

/* watch_inotify.c */
/* Works on events handed over by the loop. */
void watch_inotify_events(struct watch_scanner *s);
/* Whether events were taken over but not yet worked on. */
bool watch_inotify_waiting(const struct watch_scanner *s);
/* Looks at the paths that events named, as far as there is room for them. */
void watch_inotify_pending(struct watch_scanner *s);
void watch_inotify_free(struct watch_scanner *s);

/* watch_scan.c */
enum watch_walk {
    WATCH_WALK_WHOLE,
    WATCH_WALK_BELOW,    /* one folder that appeared, and what is below it */
    WATCH_WALK_UNWATCHED /* the folders that have no watch */
};
/* Walks from `tasks` (taken over). False: stop. */
bool watch_scan_walk(struct watch_scanner *s, enum watch_walk kind, struct watch_walk_task *tasks);
/* Opens the drop folder. On failure it is gone, or (*retry) the failure is ours. */
int watch_scan_open_root(struct watch_scanner *s, bool *retry);
/* malloc'ed; NULL when out of memory. */
struct watch_walk_task *watch_scan_task(const char *rel);

#endif
