/* Watches one drop folder tree and offers the files in it that look complete. Architecture,
 * "Watching".
 *
 * The watch knows nothing of the journal: it offers every candidate it sees (by an inotify event, a
 * scan, or a poll) in batches; its user says when a batch is dealt with. No more than one batch of
 * each origin is out at a time, so memory stays bounded: a scan waits, and events that do not fit
 * (more than WATCH_MAX_PENDING paths) become one rescan.
 *
 * A candidate from IN_CLOSE_WRITE or IN_MOVED_TO is offered at once, unless it is empty; that, and
 * one from a scan on a local file system, when its mtime and its ctime (which `cp -p` cannot set
 * back) are at least `settle` old, else it is looked at again when they are; one from polling when
 * size and mtime stood still for `settle` between two looks, so each version once per run. A scan
 * that is not a poll offers everything that stands there. The same version may be offered more than
 * once.
 *
 * Loop thread only. A thread per watch does everything that touches the watched file system (scans,
 * stat, adding inotify watches), so a mount that hangs stops this watch alone. Idle, nothing wakes
 * up but for rescans and polls. */
#ifndef WATCH_WATCH_H
#define WATCH_WATCH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define WATCH_BATCH       256
#define WATCH_MAX_PENDING 16384

enum watch_mode { WATCH_MODE_AUTO, WATCH_MODE_INOTIFY, WATCH_MODE_POLL };

struct watch_options {
    const char *path;     /* absolute, normalised; must be a folder when the watch opens */
    bool make;            /* …or is made then, for ourselves (0700) */
    bool silent;          /* it did not answer a moment ago: not waited for */
    enum watch_mode mode; /* AUTO: inotify, poll on network file systems */
    bool recursive;
    bool follow_symlinks; /* links are followed, only to targets inside the tree that the scan would
                           * not come to (in a dot folder, say), which are offered under their own
                           * name; false: not at all */
    uint64_t settle_ms;
    uint64_t poll_ms;           /* interval of poll mode */
    uint64_t rescan_ms;         /* interval of the safety net's rescan; 0: none */
    const char *const *include; /* globs (text_glob, ignoring case) on the path relative to `path`;
                                   none: all files */
    size_t n_include;
    const char *const *exclude; /* beside dot files, which are never offered */
    size_t n_exclude;
};

struct watch_file {
    const char *path; /* absolute; bytes as the file system has them (not always UTF-8); valid
                         during the call only */
    uint64_t size;
    int64_t mtime_ns;
    uint64_t dev, ino; /* good for this run only */
};

enum watch_notice {
    WATCH_NOTICE_SCAN_DONE,  /* a whole scan was offered and dealt with; n = files offered */
    WATCH_NOTICE_OVERFLOW,   /* events were lost; a rescan is under way */
    WATCH_NOTICE_NO_WATCHES, /* the limit of inotify watches is reached (said once); the rest is
                                polled; n = folders */
    WATCH_NOTICE_UNREADABLE, /* a file or folder cannot be read (said once per path); path is given
                              */
    WATCH_NOTICE_GONE, /* the drop folder itself is gone or its mount hangs; it is looked for again
                        */
    WATCH_NOTICE_BACK, /* …and it is back */
    WATCH_NOTICE_REMOVED, /* an event said that `path` is no longer there: a file (n = 0; deleted or
                           * moved away) or a folder moved away with all that was in it (n = 1;
                           * maybe within the tree: it is offered under its new path then) */
};

struct watch;

struct watch_handler {
    /* n files to look at. Call watch_batch_done(w, token) once they are dealt with (at once or
     * later). */
    void (*batch)(struct watch *w, unsigned token, const struct watch_file *files, size_t n,
                  void *ctx);
    void (*notice)(struct watch *w, enum watch_notice notice, const char *path, uint64_t n,
                   void *ctx);
    void *ctx;
};

/* Options and handler are copied. The first scan starts at once; batches come from the loop only.
 * Waits for the first look at the folder, for 2 s at most, and not for a `silent` one: a mount that
 * does not answer is told of as gone, and taken up whenever it does. After a failure the loop must
 * run on a little, to close handles. */
int watch_open(struct watch **ret, uv_loop_t *loop, const struct watch_options *options,
               const struct watch_handler *handler, struct err *e);
void watch_batch_done(struct watch *w, unsigned token);
/* Whether no scan is under way and no event is waiting: everything that stood there was offered and
 * dealt with, but for files that have yet to settle (watch_settling of them). No callback tells:
 * ask again, now and then. */
bool watch_idle(const struct watch *w);
size_t watch_settling(const struct watch *w);
/* Scan the whole tree again now (SIGHUP, journal restored). */
void watch_rescan(struct watch *w);
const char *watch_path(const struct watch *w);
/* No callbacks from now on but `cb`, which comes when the scanner thread is gone or, if the mount
 * hangs, after `deadline_ms` (the thread is then left to its fate). The watch is freed before cb.
 */
void watch_close(struct watch *w, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx);

#endif
