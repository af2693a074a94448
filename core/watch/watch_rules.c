/* When a file is complete. Architecture, "Watching". */
#include "watch/watch_scanner.h"

#include "base/clock.h"
#include "base/fsutil.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t ns(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static uint64_t size_of(const struct stat *st)
{
    return st->st_size < 0 ? 0 : (uint64_t)st->st_size;
}

/* Milliseconds since the file last changed, negative if its stamps lie in the future. The change
 * time counts too: programs that copy set the modification time back, nobody can set back the
 * change time. */
static int64_t age_ms(const struct stat *st)
{
    int64_t mtime = ns(&st->st_mtim), ctime = ns(&st->st_ctim);
    return clock_realtime_ms() - (mtime > ctime ? mtime : ctime) / 1000000;
}

void watch_rules_count(struct watch_scanner *s)
{
    atomic_store(&s->ch.settling, s->settle.count + (size_t)s->spilled);
}

/* Puts the file on the list, or, if that is full, leaves it to another walk. */
static void let_settle(struct watch_scanner *s, const char *path, const struct stat *st,
                       uint64_t since_ms, uint64_t due_ms, bool polled, bool again)
{
    struct watch_settle_file file = {
        .size = size_of(st),
        .mtime_ns = ns(&st->st_mtim),
        .since_ms = since_ms,
        .due_ms = due_ms,
        .polled = polled,
        .again = again,
    };
    if (!watch_settle_put(&s->settle, &file, path)) {
        s->spilled++;
        if (due_ms < s->spill_due_ms)
            s->spill_due_ms = due_ms;
    }
    watch_rules_count(s);
}

static uint64_t version(struct watch_scanner *s, const char *path, const struct stat *st)
{
    return watch_seen_hash(&s->seen, path, size_of(st), ns(&st->st_mtim));
}

/* Offers the file unless this version was offered already (and `again` does not ask for it). */
static bool offer(struct watch_scanner *s, enum watch_origin origin, const char *path,
                  const struct stat *st, bool again, bool remember)
{
    uint64_t hash = version(s, path, st);
    struct watch_seen_entry *e = watch_seen_find(&s->seen, hash);
    if (e != NULL && e->offered && !again)
        return true;
    if (e == NULL && remember)
        e = watch_seen_add(&s->seen, hash, clock_monotonic_ms());
    if (e != NULL)
        e->offered = 1;
    return watch_scanner_offer(s, origin, path, st);
}

static bool readable(struct watch_scanner *s, int dir, const char *name, const char *path)
{
    if (faccessat(dir, name, R_OK, AT_EACCESS) == 0)
        return true;
    if (errno == EACCES || errno == EPERM)
        watch_scanner_unreadable(s, path);
    return false;
}

/* Network file systems answer stat from a cache; opening makes them ask the server (close-to-open,
 * nfs(5)). */
static bool still_after_open(struct watch_scanner *s, int dir, const char *name, const char *path,
                             const struct stat *st)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == EACCES || errno == EPERM)
            watch_scanner_unreadable(s, path);
        return false;
    }
    struct stat now;
    bool same = fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && now.st_size == st->st_size &&
                ns(&now.st_mtim) == ns(&st->st_mtim);
    close(fd);
    return same;
}

static bool by_stillness(struct watch_scanner *s, enum watch_origin origin, int dir,
                         const char *name, const char *path, const struct stat *st)
{
    uint64_t now = clock_monotonic_ms();
    uint64_t hash = version(s, path, st);
    struct watch_seen_entry *e = watch_seen_find(&s->seen, hash);
    if (e == NULL) {
        (void)watch_seen_add(&s->seen, hash, now);
        let_settle(s, path, st, now, now + s->settle_ms, true, false);
        return true;
    }
    if (e->offered)
        return true;
    uint64_t age = watch_seen_age(e, now);
    if (age < s->settle_ms || !still_after_open(s, dir, name, path, st)) {
        uint64_t due = age < s->settle_ms ? now + s->settle_ms - age : now + s->settle_ms;
        let_settle(s, path, st, now - age, due, true, false);
        return true;
    }
    watch_settle_remove(&s->settle, path);
    watch_rules_count(s);
    return offer(s, origin, path, st, false, true);
}

bool watch_rules_file(struct watch_scanner *s, enum watch_origin origin, enum watch_rule rule,
                      int dir, const char *name, const char *path, const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return true;
    if (rule == WATCH_RULE_STILL)
        return by_stillness(s, origin, dir, name, path, st);
    if (!readable(s, dir, name, path))
        return true;
    bool event = rule == WATCH_RULE_EVENT;
    bool again = event || rule == WATCH_RULE_CHANGED;
    int64_t age = age_ms(st);
    bool settled = age >= 0 && (uint64_t)age >= s->settle_ms;
    if (!settled && !(event && st->st_size > 0)) {
        uint64_t now = clock_monotonic_ms();
        uint64_t wait = age < 0 ? s->settle_ms : s->settle_ms - (uint64_t)age;
        let_settle(s, path, st, now, now + wait, false, again);
        return true;
    }
    watch_settle_remove(&s->settle, path);
    watch_rules_count(s);
    /* A walk over a local tree offers all that stands there, and is not worth remembering: there
     * may be millions. */
    return offer(s, origin, path, st, again || origin == WATCH_ORIGIN_SCAN, event);
}

static enum watch_settle_verdict look(struct watch_settle_file *f, void *ctx)
{
    struct watch_scanner *s = ctx;
    if (watch_scanner_room(s, WATCH_ORIGIN_SETTLE) == 0)
        return WATCH_SETTLE_STOP;
    atomic_fetch_add(&s->ch.beat, 1);
    struct stat st;
    if (fstatat(AT_FDCWD, f->path, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return WATCH_SETTLE_DROP;
    uint64_t now = clock_monotonic_ms();
    if (size_of(&st) != f->size || ns(&st.st_mtim) != f->mtime_ns) {
        f->size = size_of(&st);
        f->mtime_ns = ns(&st.st_mtim);
        f->since_ms = now;
        if (f->polled && watch_seen_find(&s->seen, version(s, f->path, &st)) == NULL)
            (void)watch_seen_add(&s->seen, version(s, f->path, &st), now);
    }
    int64_t age = age_ms(&st);
    bool old = !f->polled && age >= 0 && (uint64_t)age >= s->settle_ms;
    bool still = now - f->since_ms >= s->settle_ms;
    if (!old && !still) {
        uint64_t by_look = f->since_ms + s->settle_ms;
        uint64_t by_age = f->polled || age < 0 ? UINT64_MAX : now + s->settle_ms - (uint64_t)age;
        f->due_ms = by_look < by_age ? by_look : by_age;
        return WATCH_SETTLE_KEEP;
    }
    if (f->polled && !still_after_open(s, AT_FDCWD, f->path, f->path, &st)) {
        f->since_ms = now;
        f->due_ms = now + s->settle_ms;
        return access(f->path, R_OK) == 0 ? WATCH_SETTLE_KEEP : WATCH_SETTLE_DROP;
    }
    if (!f->polled && !readable(s, AT_FDCWD, f->path, f->path))
        return WATCH_SETTLE_DROP;
    (void)offer(s, WATCH_ORIGIN_SETTLE, f->path, &st, f->again, true);
    return WATCH_SETTLE_DROP;
}

void watch_rules_settle(struct watch_scanner *s)
{
    uint64_t now = clock_monotonic_ms();
    if (s->settle.next_due_ms > now || watch_scanner_room(s, WATCH_ORIGIN_SETTLE) == 0)
        return;
    watch_settle_visit(&s->settle, now, look, s);
    watch_scanner_post(s, WATCH_ORIGIN_SETTLE);
    watch_rules_count(s);
}

/* Whether a walk comes to this path by itself. */
static bool walked_anyway(const struct watch_scanner *s, const char *rel, bool folder)
{
    char part[PATH_MAX];
    for (const char *p = strchr(rel, '/'); p != NULL; p = strchr(p + 1, '/')) {
        size_t length = (size_t)(p - rel);
        memcpy(part, rel, length);
        part[length] = '\0';
        if (!s->recursive || !watch_filter_folder(&s->filter, part))
            return false;
    }
    return folder ? s->recursive && watch_filter_folder(&s->filter, rel)
                  : watch_filter_file(&s->filter, rel);
}

bool watch_rules_follow(struct watch_scanner *s, const char *path, char rel[PATH_MAX],
                        struct stat *st)
{
    if (!s->follow)
        return false;
    bool inside = false;
    char *root = realpath(s->root, NULL);
    char *target = realpath(path, NULL);
    if (root != NULL && target != NULL && fsutil_path_within(target, root) &&
        strcmp(root, target) != 0 && strlen(target) < PATH_MAX &&
        fstatat(AT_FDCWD, target, st, AT_SYMLINK_NOFOLLOW) == 0) {
        const char *tail = target + (strcmp(root, "/") == 0 ? 0 : strlen(root)) + 1;
        bool folder = S_ISDIR(st->st_mode);
        inside = (folder ? s->recursive : S_ISREG(st->st_mode)) && !walked_anyway(s, tail, folder);
        if (inside)
            memcpy(rel, tail, strlen(tail) + 1);
    }
    free(root);
    free(target);
    return inside;
}
