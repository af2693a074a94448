/* The thread: what is done next, and the handing over to the loop. */
#include "watch/watch_scanner.h"

#include "base/clock.h"
#include "base/folder.h"
#include "base/fsutil.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BREATH_MS  2
#define PROBE_MS   2000
#define RETRY_MS   5000
#define MAX_SEEN   (1U << 21)
#define MAX_RECENT (1U << 14)

void watch_batch_free(struct watch_batch *b)
{
    if (b == NULL)
        return;
    for (size_t i = 0; i < b->n; i++)
        free((char *)(uintptr_t)b->files[i].path);
    free(b);
}

static void wake_loop(struct watch_scanner *s) /* locked */
{
    if (s->ch.async != NULL)
        uv_async_send(s->ch.async);
}

/* --- handing over
 * --------------------------------------------------------------------------------------------- */

void watch_scanner_note(struct watch_scanner *s, enum watch_notice what, const char *path,
                        uint64_t n)
{
    struct watch_note *note = calloc(1, sizeof *note);
    if (note == NULL)
        return;
    note->what = what;
    note->n = n;
    if (path != NULL) {
        note->path = strdup(path);
        if (note->path == NULL) {
            free(note);
            return;
        }
    }
    pthread_mutex_lock(&s->ch.lock);
    struct watch_note **end = &s->ch.notes_end;
    if (s->ch.notes == NULL)
        s->ch.notes = note;
    else
        (*end)->next = note;
    *end = note;
    s->ch.n_notes++;
    wake_loop(s);
    pthread_mutex_unlock(&s->ch.lock);
}

void watch_scanner_unreadable(struct watch_scanner *s, const char *path)
{
    uint64_t hash = watch_seen_hash(&s->seen, path, 0, 0);
    size_t place = hash % (sizeof s->unreadable / sizeof s->unreadable[0]);
    if (s->unreadable[place] == hash)
        return;
    s->unreadable[place] = hash;
    watch_scanner_note(s, WATCH_NOTICE_UNREADABLE, path, 0);
}

static bool slot_free(struct watch_scanner *s, enum watch_origin origin)
{
    pthread_mutex_lock(&s->ch.lock);
    bool is_free = s->ch.slots[origin].posted == NULL;
    pthread_mutex_unlock(&s->ch.lock);
    return is_free;
}

size_t watch_scanner_room(struct watch_scanner *s, enum watch_origin origin)
{
    if (!slot_free(s, origin))
        return 0;
    const struct watch_batch *b = s->filling[origin];
    return b == NULL ? WATCH_BATCH : WATCH_BATCH - b->n;
}

void watch_scanner_post(struct watch_scanner *s, enum watch_origin origin)
{
    struct watch_batch *b = s->filling[origin];
    if (b == NULL || b->n == 0)
        return;
    s->filling[origin] = NULL;
    pthread_mutex_lock(&s->ch.lock);
    s->ch.slots[origin].posted = b;
    wake_loop(s);
    pthread_mutex_unlock(&s->ch.lock);
}

/* Waits, while the rest goes on, until the scan's slot is free (`dealt_with`: and the user is done
 * with the last one). False: stop. */
static bool wait_scan_slot(struct watch_scanner *s, bool dealt_with)
{
    for (;;) {
        if (!watch_scanner_breathe(s))
            return false;
        pthread_mutex_lock(&s->ch.lock);
        while (!s->ch.stop && !s->ch.attention &&
               (s->ch.slots[WATCH_ORIGIN_SCAN].posted != NULL ||
                (dealt_with && s->ch.slots[WATCH_ORIGIN_SCAN].out))) {
            uint64_t now = clock_monotonic_ms();
            uint64_t due = s->settle.next_due_ms;
            if (due <= now && s->ch.slots[WATCH_ORIGIN_SETTLE].posted == NULL)
                break;
            s->ch.working = false;
            if (due <= now || due == UINT64_MAX) {
                pthread_cond_wait(&s->ch.wake, &s->ch.lock);
            } else {
                struct timespec at = {.tv_sec = (time_t)(due / 1000),
                                      .tv_nsec = (long)(due % 1000) * 1000000};
                pthread_cond_timedwait(&s->ch.wake, &s->ch.lock, &at);
            }
        }
        s->ch.working = true;
        bool done = s->ch.slots[WATCH_ORIGIN_SCAN].posted == NULL &&
                    !(dealt_with && s->ch.slots[WATCH_ORIGIN_SCAN].out);
        bool stop = s->ch.stop;
        pthread_mutex_unlock(&s->ch.lock);
        if (stop)
            return false;
        if (done)
            return true;
    }
}

bool watch_scanner_offer(struct watch_scanner *s, enum watch_origin origin, const char *path,
                         const struct stat *st)
{
    struct watch_batch *b = s->filling[origin];
    if (b == NULL)
        b = s->filling[origin] = calloc(1, sizeof *b);
    char *copy = b != NULL ? strdup(path) : NULL;
    if (copy == NULL) { /* not offered now, so once more later */
        watch_scanner_want_scan(s, clock_monotonic_ms() + RETRY_MS);
        return true;
    }
    b->files[b->n++] = (struct watch_file){
        .path = copy,
        .size = st->st_size < 0 ? 0 : (uint64_t)st->st_size,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
        .dev = st->st_dev,
        .ino = st->st_ino,
    };
    if (origin != WATCH_ORIGIN_SCAN)
        return true;
    s->offered++;
    if (b->n < WATCH_BATCH)
        return true;
    if (!wait_scan_slot(s, false))
        return false;
    watch_scanner_post(s, origin);
    return true;
}

bool watch_scanner_path(const struct watch_scanner *s, const char *rel, char out[PATH_MAX])
{
    size_t length = strlen(rel);
    bool slash = length > 0 || s->root_prefix == 0;
    if (s->root_prefix + slash + length >= PATH_MAX)
        return false;
    memcpy(out, s->root, s->root_prefix);
    if (slash)
        out[s->root_prefix] = '/';
    memcpy(out + s->root_prefix + slash, rel, length + 1);
    return true;
}

/* --- what to do
 * ------------------------------------------------------------------------------------------------
 */

void watch_scanner_want_scan(struct watch_scanner *s, uint64_t due_ms)
{
    if (!s->scan_wanted || due_ms < s->scan_due_ms)
        s->scan_due_ms = due_ms;
    s->scan_wanted = true;
}

bool watch_scanner_breathe(struct watch_scanner *s)
{
    atomic_fetch_add(&s->ch.beat, 1);
    pthread_mutex_lock(&s->ch.lock);
    s->ch.attention = false;
    bool stop = s->ch.stop;
    bool rescan = s->ch.rescan;
    s->ch.rescan = false;
    pthread_mutex_unlock(&s->ch.lock);
    if (stop)
        return false;
    s->breath_ms = clock_monotonic_ms();
    if (rescan) {
        watch_seen_reoffer(&s->seen);
        watch_scanner_want_scan(s, s->breath_ms);
    }
    watch_inotify_events(s);
    watch_inotify_pending(s);
    watch_rules_settle(s);
    return true;
}

bool watch_scanner_tick(struct watch_scanner *s)
{
    unsigned beat = atomic_fetch_add(&s->ch.beat, 1);
    if (beat % 16 != 0)
        return true;
    if (clock_monotonic_ms() - s->breath_ms < BREATH_MS)
        return true;
    return watch_scanner_breathe(s);
}

static void set_gone(struct watch_scanner *s, bool gone)
{
    s->gone = gone;
    pthread_mutex_lock(&s->ch.lock);
    if (s->ch.gone != gone) {
        s->ch.gone = gone;
        wake_loop(s);
    }
    pthread_mutex_unlock(&s->ch.lock);
}

static bool same_root(struct watch_scanner *s, const struct stat *st)
{
    return s->root_known && s->root_dev == st->st_dev && s->root_ino == st->st_ino;
}

/* Opens the drop folder and notes whether it is gone, back or another one than before. -1: not now.
 */
static int open_root(struct watch_scanner *s)
{
    bool retry = false;
    int fd = watch_scan_open_root(s, &retry);
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) != 0) {
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        if (!retry) {
            watch_folders_clear(&s->folders);
            watch_seen_reoffer(&s->seen);
            s->spilled = 0;
            watch_rules_count(s);
            set_gone(s, true);
            s->probe_due_ms = clock_monotonic_ms() + PROBE_MS;
        }
        return -1;
    }
    if (!same_root(s, &st)) {
        watch_folders_clear(&s->folders);
        s->root_dev = st.st_dev;
        s->root_ino = st.st_ino;
        s->root_known = true;
    }
    if (s->gone)
        set_gone(s, false);
    return fd;
}

/* Plans the next walks after one has ended. */
static void plan(struct watch_scanner *s, bool whole)
{
    uint64_t now = clock_monotonic_ms();
    if (whole && !s->scan_wanted) {
        uint64_t every = s->poll ? s->poll_ms : s->rescan_ms;
        if (every != 0) {
            s->scan_wanted = true;
            s->scan_due_ms = now + every;
        }
    }
    if (s->spilled > 0) {
        /* A large tree of which a few files keep changing is not walked without a pause. */
        uint64_t due = s->spill_due_ms;
        uint64_t rest = now + s->last_walk_ms;
        if (due < rest)
            due = rest;
        watch_scanner_want_scan(s, due);
    }
    if (s->incomplete)
        watch_scanner_want_scan(s, now + RETRY_MS);
    s->incomplete = false;
    if (s->unwatched > 0 && !s->poll) {
        if (s->partial_due_ms == UINT64_MAX)
            s->partial_due_ms = now + s->poll_ms;
        s->seen.max = MAX_SEEN;
        if (!s->said_unwatched)
            watch_scanner_note(s, WATCH_NOTICE_NO_WATCHES, NULL, s->unwatched);
        s->said_unwatched = true;
    }
}

/* A whole walk, or one over what has no watch. False: stop. */
static bool walk_all(struct watch_scanner *s, enum watch_walk kind)
{
    bool whole = kind == WATCH_WALK_WHOLE;
    int fd = open_root(s);
    if (whole)
        s->scan_wanted = false;
    s->root_doubt = false;
    s->partial_due_ms = UINT64_MAX;
    if (fd < 0) {
        if (!s->gone)
            watch_scanner_want_scan(s, clock_monotonic_ms() + RETRY_MS);
        return true;
    }
    close(fd);
    struct watch_walk_task *task = watch_scan_task("");
    if (task == NULL) {
        watch_scanner_want_scan(s, clock_monotonic_ms() + RETRY_MS);
        return true;
    }
    uint64_t start = clock_monotonic_ms();
    s->unwatched = 0;
    s->spilled = 0;
    s->spill_due_ms = UINT64_MAX;
    s->offered = 0;
    s->missed = false;
    s->folders.walk++;
    watch_seen_round_begin(&s->seen);
    if (!watch_scan_walk(s, kind, task))
        return false;
    uint64_t offered = s->offered;
    s->last_walk_ms = clock_monotonic_ms() - start;
    if (!wait_scan_slot(s, false))
        return false;
    watch_scanner_post(s, WATCH_ORIGIN_SCAN);
    if (!wait_scan_slot(s, true))
        return false;
    watch_folders_sweep(&s->folders, !s->missed);
    if (s->poll || s->unwatched > 0)
        watch_seen_round_end(&s->seen);
    if (whole)
        watch_scanner_note(s, WATCH_NOTICE_SCAN_DONE, NULL, offered);
    plan(s, whole);
    return true;
}

static bool walk_below(struct watch_scanner *s)
{
    struct watch_walk_task *task = s->subscans;
    HASH_DEL(s->subscans, task);
    if (!watch_scan_walk(s, WATCH_WALK_BELOW, task))
        return false;
    if (!wait_scan_slot(s, false))
        return false;
    watch_scanner_post(s, WATCH_ORIGIN_SCAN);
    if (s->subscans == NULL)
        plan(s, false);
    return true;
}

static void probe(struct watch_scanner *s)
{
    s->root_doubt = false;
    bool was_gone = s->gone;
    dev_t dev = s->root_dev;
    ino_t ino = s->root_ino;
    int fd = open_root(s);
    if (fd < 0)
        return;
    close(fd);
    if (was_gone || dev != s->root_dev || ino != s->root_ino || s->folders.root == 0)
        watch_scanner_want_scan(s, clock_monotonic_ms());
}

/* The time of the next thing to do; 0: now. */
static uint64_t next_due(struct watch_scanner *s) /* locked */
{
    const struct watch_channel *ch = &s->ch;
    if (ch->stop || ch->attention || ch->rescan || s->root_doubt)
        return 0;
    uint64_t due = UINT64_MAX;
    if (watch_inotify_waiting(s) && ch->n_notes < WATCH_MAX_NOTES)
        return 0;
    if (s->pending != NULL && ch->slots[WATCH_ORIGIN_EVENTS].posted == NULL)
        return 0;
    if (s->settle.count > 0 && ch->slots[WATCH_ORIGIN_SETTLE].posted == NULL)
        due = s->settle.next_due_ms;
    if (s->gone)
        return s->probe_due_ms < due ? s->probe_due_ms : due;
    if (s->subscans != NULL || s->folders.orphans)
        return 0;
    if (s->scan_wanted && s->scan_due_ms < due)
        due = s->scan_due_ms;
    return s->partial_due_ms < due ? s->partial_due_ms : due;
}

/* Whether only time or an event can bring something new, once the loop has given out what is
 * posted. */
static bool is_idle(const struct watch_scanner *s, uint64_t now) /* locked */
{
    if (s->gone)
        return true;
    return s->pending == NULL && s->subscans == NULL && !watch_inotify_waiting(s) &&
           !(s->scan_wanted && s->scan_due_ms <= now);
}

/* Waits until there is something to do. False: stop. */
static bool wait_for_work(struct watch_scanner *s)
{
    pthread_mutex_lock(&s->ch.lock);
    bool waited = false, timed = false;
    for (;;) {
        uint64_t now = clock_monotonic_ms();
        uint64_t due = next_due(s);
        if (due <= now)
            break;
        s->ch.working = false;
        s->ch.idle = is_idle(s, now);
        waited = true;
        if (due == UINT64_MAX) {
            pthread_cond_wait(&s->ch.wake, &s->ch.lock);
            timed = false;
        } else {
            struct timespec at = {.tv_sec = (time_t)(due / 1000),
                                  .tv_nsec = (long)(due % 1000) * 1000000};
            timed = pthread_cond_timedwait(&s->ch.wake, &s->ch.lock, &at) == ETIMEDOUT;
        }
    }
    s->ch.working = true;
    s->ch.idle = false;
    if (waited && timed)
        wake_loop(s); /* its watchdog has to run while the thread works */
    bool stop = s->ch.stop;
    pthread_mutex_unlock(&s->ch.lock);
    return !stop;
}

/* In a folder that is there: what it lies in is not ours to make. */
static int make_root(struct watch_scanner *s, struct err *e)
{
    char above[PATH_MAX];
    struct stat st;
    const char *slash = strrchr(s->root, '/');
    snprintf(above, sizeof above, "%.*s/.", (int)(slash - s->root), s->root);
    if (stat(above, &st) != 0)
        return err_set_errno(e, errno, "the drop folder cannot be opened");
    return folder_make(s->root, 0700, e);
}

static int look_first(struct watch_scanner *s, bool *network, struct err *e)
{
    struct stat st;
    int code = s->make ? make_root(s, e) : 0;
    if (code != 0)
        return code;
    if (stat(s->root, &st) != 0)
        return err_set_errno(e, errno, "the drop folder cannot be opened");
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ERR_INVALID, "the drop folder is not a folder");
    if (access(s->root, R_OK | X_OK) != 0)
        return err_set_errno(e, errno,
                             "the drop folder cannot be read; give the service's user "
                             "read and search permission on it");
    return fsutil_is_network(s->root, network, e);
}

/* The first look, for watch_open; of one that it did not wait for, as many as it takes. */
static bool check(struct watch_scanner *s)
{
    for (;;) {
        struct err e = {0};
        bool network = false;
        int code = look_first(s, &network, &e);
        pthread_mutex_lock(&s->ch.lock);
        if (code == 0 || !s->ch.late || s->ch.stop) {
            s->ch.check_code = code;
            s->ch.check_err = e;
            s->ch.check_network = network;
            s->ch.checked = true;
            break;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += PROBE_MS / 1000;
        while (!s->ch.stop && pthread_cond_timedwait(&s->ch.wake, &s->ch.lock, &until) == 0)
            continue;
        bool stop = s->ch.stop;
        pthread_mutex_unlock(&s->ch.lock);
        if (stop)
            return false;
    }
    pthread_cond_broadcast(&s->ch.wake);
    if (s->ch.late)
        wake_loop(s);
    while (!s->ch.go && !s->ch.stop)
        pthread_cond_wait(&s->ch.wake, &s->ch.lock);
    bool go = !s->ch.stop;
    pthread_mutex_unlock(&s->ch.lock);
    return go;
}

static void run(struct watch_scanner *s)
{
    watch_settle_init(&s->settle, WATCH_MAX_PENDING);
    watch_seen_init(&s->seen, s->poll ? MAX_SEEN : MAX_RECENT);
    s->spill_due_ms = s->partial_due_ms = UINT64_MAX;
    watch_scanner_want_scan(s, 0);
    while (wait_for_work(s) && watch_scanner_breathe(s)) {
        uint64_t now = clock_monotonic_ms();
        bool go_on = true;
        if (s->root_doubt || (s->gone && s->probe_due_ms <= now))
            probe(s);
        else if (s->gone)
            continue;
        else if (s->scan_wanted && s->scan_due_ms <= now)
            go_on = walk_all(s, WATCH_WALK_WHOLE);
        else if (s->subscans != NULL)
            go_on = walk_below(s);
        else if (s->partial_due_ms <= now)
            go_on = walk_all(s, WATCH_WALK_UNWATCHED);
        else if (s->folders.orphans)
            watch_folders_sweep(&s->folders, false);
        if (!go_on)
            break;
    }
}

void *watch_scanner_main(void *arg)
{
    struct watch_scanner *s = arg;
    pthread_setname_np(pthread_self(), "watch");
    if (check(s))
        run(s);
    pthread_mutex_lock(&s->ch.lock);
    s->ch.working = false;
    s->ch.ended = true;
    bool abandoned = s->ch.async == NULL;
    wake_loop(s);
    pthread_mutex_unlock(&s->ch.lock);
    if (abandoned)
        watch_scanner_free(s);
    return NULL;
}

void watch_scanner_free(struct watch_scanner *s)
{
    for (int i = 0; i < WATCH_ORIGINS; i++) {
        watch_batch_free(s->filling[i]);
        watch_batch_free(s->ch.slots[i].posted);
    }
    while (s->ch.notes != NULL) {
        struct watch_note *note = s->ch.notes;
        s->ch.notes = note->next;
        free(note->path);
        free(note);
    }
    watch_inotify_free(s);
    struct watch_walk_task *task, *next;
    HASH_ITER(hh, s->subscans, task, next)
    {
        HASH_DEL(s->subscans, task);
        free(task);
    }
    watch_folders_clear(&s->folders);
    if (s->folders.fd >= 0)
        close(s->folders.fd);
    watch_settle_free(&s->settle);
    watch_seen_free(&s->seen);
    watch_filter_free(&s->filter);
    free(s->ch.relay);
    free(s->parse);
    free(s->root);
    pthread_cond_destroy(&s->ch.wake);
    pthread_mutex_destroy(&s->ch.lock);
    free(s);
}
