/* What the events say: inotify(7). The loop reads them, the thread works on them here. */
#include "watch/watch_scanner.h"

#include "base/clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#define MAX_SUBSCANS 4096

struct watch_pending {
    UT_hash_handle hh;
    unsigned hints;
    char path[];
};

static void clear_pending(struct watch_scanner *s)
{
    struct watch_pending *p, *next;
    HASH_ITER(hh, s->pending, p, next)
    {
        HASH_DEL(s->pending, p);
        free(p);
    }
}

void watch_inotify_free(struct watch_scanner *s)
{
    clear_pending(s);
}

static void overflow(struct watch_scanner *s)
{
    uint64_t now = clock_monotonic_ms();
    watch_seen_reoffer(&s->seen);
    if (s->scan_wanted && s->scan_due_ms <= now + s->last_walk_ms)
        return;
    watch_scanner_note(s, WATCH_NOTICE_OVERFLOW, NULL, 0);
    watch_scanner_want_scan(s, now + s->last_walk_ms);
}

static void expect(struct watch_scanner *s, const char *path, enum watch_hint hint)
{
    struct watch_pending *p;
    size_t length = strlen(path);
    HASH_FIND(hh, s->pending, path, length, p);
    if (p == NULL) {
        if (HASH_COUNT(s->pending) >= WATCH_MAX_PENDING) {
            clear_pending(s);
            overflow(s);
            return;
        }
        p = calloc(1, sizeof *p + length + 1);
        if (p == NULL) {
            overflow(s);
            return;
        }
        memcpy(p->path, path, length + 1);
        HASH_ADD_KEYPTR(hh, s->pending, p->path, length, p);
        if (p->hh.tbl == NULL) {
            free(p);
            overflow(s);
            return;
        }
    }
    p->hints |= (unsigned)hint;
}

static void forget_file(struct watch_scanner *s, const char *path)
{
    struct watch_pending *p;
    HASH_FIND(hh, s->pending, path, strlen(path), p);
    if (p != NULL) {
        HASH_DEL(s->pending, p);
        free(p);
    }
    watch_settle_remove(&s->settle, path);
    watch_rules_count(s);
}

static void want_subscan(struct watch_scanner *s, const char *rel)
{
    struct watch_walk_task *task, *next;
    size_t length = strlen(rel);
    HASH_FIND(hh, s->subscans, rel, length, task);
    if (task != NULL)
        return;
    if (HASH_COUNT(s->subscans) < MAX_SUBSCANS) {
        task = watch_scan_task(rel);
        if (task != NULL) {
            HASH_ADD_KEYPTR(hh, s->subscans, task->rel, length, task);
            if (task->hh.tbl != NULL)
                return;
            free(task);
        }
    }
    HASH_ITER(hh, s->subscans, task, next)
    { /* too many: one walk over everything does it as well */
        HASH_DEL(s->subscans, task);
        free(task);
    }
    watch_scanner_want_scan(s, clock_monotonic_ms());
}

static void folder_event(struct watch_scanner *s, const struct inotify_event *ev, const char *rel,
                         const char *path)
{
    if (!s->recursive || !watch_filter_folder(&s->filter, rel))
        return;
    int child = watch_folders_child(&s->folders, ev->wd, ev->name);
    if (ev->mask & IN_MOVED_FROM) {
        if (child != 0)
            watch_folders_drop(&s->folders, child);
        watch_seen_reoffer(&s->seen); /* it may come back as it is */
        watch_scanner_note(s, WATCH_NOTICE_REMOVED, path, 1);
    } else if ((ev->mask & (IN_CREATE | IN_MOVED_TO)) || ((ev->mask & IN_ATTRIB) && child == 0)) {
        want_subscan(s, rel);
    }
}

static void file_event(struct watch_scanner *s, const struct inotify_event *ev, const char *path)
{
    if (ev->mask & (IN_DELETE | IN_MOVED_FROM)) {
        forget_file(s, path);
        watch_scanner_note(s, WATCH_NOTICE_REMOVED, path, 0);
    } else if (ev->mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) {
        expect(s, path, WATCH_HINT_COMPLETE);
    } else if (ev->mask & IN_CREATE) {
        expect(s, path, WATCH_HINT_APPEARED);
    } else if (ev->mask & IN_ATTRIB) {
        expect(s, path, WATCH_HINT_CHANGED);
    }
}

static void event(struct watch_scanner *s, const struct inotify_event *ev)
{
    if (ev->mask & IN_Q_OVERFLOW) {
        overflow(s);
        return;
    }
    if (ev->wd == s->folders.root &&
        (ev->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)))
        s->root_doubt = true;
    else if (ev->mask & IN_UNMOUNT) /* what was covered by the mount can be seen now */
        watch_scanner_want_scan(s, clock_monotonic_ms() + 1000);
    if (ev->mask & IN_IGNORED) {
        watch_folders_forget(&s->folders, ev->wd);
        return;
    }
    char rel[PATH_MAX], path[PATH_MAX];
    if (ev->len == 0 || !watch_folders_path(&s->folders, ev->wd, ev->name, rel) ||
        !watch_scanner_path(s, rel, path))
        return;
    if (ev->mask & IN_ISDIR)
        folder_event(s, ev, rel, path);
    else if (watch_filter_file(&s->filter, rel))
        file_event(s, ev, path);
}

static size_t count_notes(struct watch_scanner *s)
{
    pthread_mutex_lock(&s->ch.lock);
    size_t n = s->ch.n_notes;
    pthread_mutex_unlock(&s->ch.lock);
    return n;
}

bool watch_inotify_waiting(const struct watch_scanner *s)
{
    return s->parse_at < s->parse_size || s->ch.relay_size > 0;
}

void watch_inotify_events(struct watch_scanner *s)
{
    while (count_notes(s) < WATCH_MAX_NOTES) {
        if (s->parse_at == s->parse_size) {
            pthread_mutex_lock(&s->ch.lock);
            char *full = s->ch.relay;
            s->parse_size = s->ch.relay_size;
            s->parse_at = 0;
            s->ch.relay = s->parse;
            s->ch.relay_size = 0;
            s->parse = full;
            if (s->ch.relay_stalled && s->ch.async != NULL)
                uv_async_send(s->ch.async);
            pthread_mutex_unlock(&s->ch.lock);
            if (s->parse_size == 0)
                return;
        }
        const struct inotify_event *ev =
            (const struct inotify_event *)(const void *)(s->parse + s->parse_at);
        s->parse_at += sizeof *ev + ev->len;
        atomic_fetch_add(&s->ch.beat, 1);
        event(s, ev);
    }
}

static void look(struct watch_scanner *s, const struct watch_pending *p)
{
    struct stat st;
    if (fstatat(AT_FDCWD, p->path, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    if (S_ISLNK(st.st_mode)) {
        char rel[PATH_MAX], path[PATH_MAX];
        if (!watch_rules_follow(s, p->path, rel, &st))
            return;
        if (S_ISDIR(st.st_mode))
            want_subscan(s, rel);
        else if (watch_scanner_path(s, rel, path))
            watch_rules_file(s, WATCH_ORIGIN_EVENTS, WATCH_RULE_AGE, AT_FDCWD, path, path, &st);
        return;
    }
    enum watch_rule rule = WATCH_RULE_CHANGED;
    if (p->hints & WATCH_HINT_COMPLETE) {
        rule = WATCH_RULE_EVENT;
    } else if (!(p->hints & WATCH_HINT_CHANGED)) {
        /* An entry that appeared is a file about to be written, whose close will tell, or a hard
         * link to one that is complete already (link(2) sets the change time alone), which nothing
         * else will tell. */
        bool linked = st.st_nlink > 1 || st.st_ctim.tv_sec != st.st_mtim.tv_sec ||
                      st.st_ctim.tv_nsec != st.st_mtim.tv_nsec;
        if (!linked)
            return;
        rule = WATCH_RULE_AGE;
    }
    watch_rules_file(s, WATCH_ORIGIN_EVENTS, rule, AT_FDCWD, p->path, p->path, &st);
}

void watch_inotify_pending(struct watch_scanner *s)
{
    if (s->pending == NULL || watch_scanner_room(s, WATCH_ORIGIN_EVENTS) == 0)
        return;
    struct watch_pending *p, *next;
    HASH_ITER(hh, s->pending, p, next)
    {
        const struct watch_batch *b = s->filling[WATCH_ORIGIN_EVENTS];
        if (b != NULL && b->n == WATCH_BATCH)
            break;
        HASH_DEL(s->pending, p);
        atomic_fetch_add(&s->ch.beat, 1);
        look(s, p);
        free(p);
    }
    watch_scanner_post(s, WATCH_ORIGIN_EVENTS);
}
