/* Walks the tree: depth first, entries as readdir gives them, one folder open per level, nothing
 * remembered. */
#include "watch/watch_scanner.h"

#include "base/aside.h"
#include "base/clock.h"
#include "base/fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Folders further below their walk's start become tasks of their own, so that descriptors stay few.
 */
#define MAX_DEPTH 32

#define OPEN_FOLDER (O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC)

struct level {
    DIR *dir;
    size_t length; /* of the path of this folder in `path` */
    int wd;        /* -1: has no watch */
    bool known;    /* had one before this walk */
};

struct followed {
    UT_hash_handle hh;
    struct {
        uint64_t dev, ino;
    } id;
};

struct walk {
    struct watch_scanner *s;
    enum watch_walk kind;
    struct watch_walk_task *tasks;
    struct followed *followed; /* targets of links, so that links in a circle end */
    int depth;
    struct level levels[MAX_DEPTH];
    char path[PATH_MAX]; /* absolute */
};

struct watch_walk_task *watch_scan_task(const char *rel)
{
    size_t length = strlen(rel);
    struct watch_walk_task *task = calloc(1, sizeof *task + length + 1);
    if (task == NULL)
        return NULL;
    memcpy(task->rel, rel, length + 1);
    return task;
}

static bool is_mount(int fd, const struct stat *st)
{
    struct stat above;
    return fstatat(fd, "..", &above, 0) == 0 &&
           (above.st_dev != st->st_dev || above.st_ino == st->st_ino);
}

static bool ours(int errnum)
{
    return errnum == EMFILE || errnum == ENFILE || errnum == ENOMEM;
}

int watch_scan_open_root(struct watch_scanner *s, bool *retry)
{
    int fd = open(s->root, OPEN_FOLDER);
    if (fd < 0) {
        *retry = ours(errno);
        if (errno == EACCES || errno == EPERM)
            watch_scanner_unreadable(s, s->root);
        return -1;
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        close(fd);
        return -1;
    }
    bool mount = is_mount(fd, &st);
    if (s->root_is_mount && !mount) { /* only the mount point is left */
        close(fd);
        return -1;
    }
    s->root_is_mount = mount;
    return fd;
}

static const char *relative(const struct walk *w)
{
    return w->path[w->s->root_prefix] == '\0' ? "" : w->path + w->s->root_prefix + 1;
}

/* Why a folder could not be opened or read on. */
static void failed(struct walk *w, int errnum)
{
    if (errnum == ENOENT || errnum == ENOTDIR || errnum == ELOOP)
        return; /* gone or replaced meanwhile */
    w->s->missed = true;
    if (ours(errnum))
        w->s->incomplete = true;
    else
        watch_scanner_unreadable(w->s, w->path);
}

/* Takes `fd`, the folder at w->path. Watches it before anything of it is listed: what comes later
 * gives an event. */
static void push(struct walk *w, int fd, int parent, const char *name)
{
    struct watch_scanner *s = w->s;
    int wd = -1;
    bool known = false;
    if (!s->poll) {
        if (parent <= 0) {
            parent = WATCH_FOLDERS_ROOT;
            name = relative(w);
        }
        known = watch_folders_child(&s->folders, parent, name) != 0;
        wd = watch_folders_add(&s->folders, fd, parent, name);
        s->unwatched += wd < 0;
    }
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        failed(w, errno);
        close(fd);
        return;
    }
    w->levels[w->depth++] =
        (struct level){.dir = dir, .length = strlen(w->path), .wd = wd, .known = known};
}

/* Opens the folder of a task step by step from the root, through no link. *parent is what is
 * watched above it now; what was when the task was made may have gone elsewhere since. */
static int open_task(struct walk *w, const struct watch_walk_task *task, int *parent)
{
    struct watch_scanner *s = w->s;
    if (!watch_scanner_path(s, task->rel, w->path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(s->root, OPEN_FOLDER);
    int at = s->folders.root;
    *parent = WATCH_FOLDERS_ROOT;
    char part[NAME_MAX + 1];
    for (const char *p = task->rel; fd >= 0 && *p != '\0';) {
        size_t n = strcspn(p, "/");
        if (n > NAME_MAX) {
            close(fd);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(part, p, n);
        part[n] = '\0';
        int next = openat(fd, part, OPEN_FOLDER | O_NOFOLLOW);
        int errnum = errno;
        close(fd);
        errno = errnum;
        fd = next;
        *parent = at;
        at = at != WATCH_FOLDERS_ROOT ? watch_folders_child(&s->folders, at, part)
                                      : WATCH_FOLDERS_ROOT;
        p += n + (p[n] == '/');
    }
    return fd;
}

static bool add_task(struct walk *w, const char *rel)
{
    struct watch_walk_task *task = watch_scan_task(rel);
    if (task == NULL) {
        w->s->incomplete = true;
        return false;
    }
    task->next = w->tasks;
    w->tasks = task;
    return true;
}

static void enter(struct walk *w, const struct level *above, const char *name)
{
    if (w->depth == MAX_DEPTH) {
        add_task(w, relative(w));
        return;
    }
    int fd = openat(dirfd(above->dir), name, OPEN_FOLDER | O_NOFOLLOW);
    if (fd < 0)
        failed(w, errno);
    else
        push(w, fd, above->wd, name);
}

static bool file(struct walk *w, const struct level *in, int dir, const char *name,
                 const char *path, const struct stat *st)
{
    bool polled = in->wd < 0;
    return watch_rules_file(w->s, WATCH_ORIGIN_SCAN, polled ? WATCH_RULE_STILL : WATCH_RULE_AGE,
                            dir, name, path, st);
}

/* Whether the target was not yet met in this walk. */
static bool first_visit(struct walk *w, const struct stat *st)
{
    struct followed *f = calloc(1, sizeof *f);
    if (f == NULL)
        return false;
    f->id.dev = st->st_dev;
    f->id.ino = st->st_ino;
    struct followed *known;
    HASH_FIND(hh, w->followed, &f->id, sizeof f->id, known);
    if (known == NULL)
        HASH_ADD(hh, w->followed, id, sizeof f->id, f);
    if (known != NULL || f->hh.tbl == NULL) {
        free(f);
        return false;
    }
    return true;
}

/* A link is walked as what it points to, under the target's own name. */
static bool follow(struct walk *w, const struct level *in)
{
    char rel[PATH_MAX];
    struct stat st;
    if (!watch_rules_follow(w->s, w->path, rel, &st) || !first_visit(w, &st))
        return true;
    if (S_ISDIR(st.st_mode)) {
        add_task(w, rel);
        return true;
    }
    char path[PATH_MAX];
    if (!watch_scanner_path(w->s, rel, path))
        return true;
    return file(w, in, AT_FDCWD, path, path, &st);
}

/* The hidden name of a file that was about to be removed or moved when the power failed, or we did:
 * it gets its own name back, and what it is then is found out as for any other. One that was set
 * aside just now is being seen to. */
static void put_back(struct walk *w, size_t folder_length)
{
    const int64_t seen_to_ms = 60000;
    struct stat st;
    struct err e;
    if (lstat(w->path, &st) != 0 || !S_ISREG(st.st_mode))
        return;
    int64_t changed_ms = (int64_t)st.st_ctim.tv_sec * 1000 + st.st_ctim.tv_nsec / 1000000;
    if (changed_ms >= w->s->opened_ms && clock_realtime_ms() - changed_ms < seen_to_ms)
        return;
    if (aside_put_back(w->path, &e) != 0)
        return; /* the next scan tries again */
    /* This walk may be past its name by now. */
    w->path[folder_length] = '\0';
    add_task(w, relative(w));
}

/* One entry of the folder on top. False: stop. */
static bool entry(struct walk *w, const struct dirent *de)
{
    struct watch_scanner *s = w->s;
    const struct level *top = &w->levels[w->depth - 1];
    const char *name = de->d_name;
    size_t at = top->length, length = strlen(name);
    bool slash = at > 0 && w->path[at - 1] != '/';
    if (at + slash + length >= sizeof w->path) {
        w->path[at] = '\0';
        watch_scanner_unreadable(s, w->path); /* nothing can be opened by so long a path */
        return true;
    }
    if (slash)
        w->path[at] = '/';
    memcpy(w->path + at + slash, name, length + 1);

    unsigned char type = de->d_type;
    struct stat st;
    bool have_stat = false;
    if (type == DT_UNKNOWN) {
        if (fstatat(dirfd(top->dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return true;
        have_stat = true;
        type = S_ISDIR(st.st_mode)   ? DT_DIR
               : S_ISREG(st.st_mode) ? DT_REG
               : S_ISLNK(st.st_mode) ? DT_LNK
                                     : DT_UNKNOWN;
    }
    if (type == DT_DIR) {
        if (s->recursive && watch_filter_folder(&s->filter, relative(w)))
            enter(w, top, name);
        return true;
    }
    if (type == DT_LNK)
        return !s->follow || !watch_filter_folder(&s->filter, relative(w)) || follow(w, top);
    if (type == DT_REG && aside_is(name)) {
        put_back(w, at);
        return true;
    }
    if (type != DT_REG || !watch_filter_file(&s->filter, relative(w)))
        return true;
    if (w->kind == WATCH_WALK_UNWATCHED && top->wd > 0 && top->known)
        return true;
    if (!have_stat && fstatat(dirfd(top->dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return true;
    return file(w, top, dirfd(top->dir), name, w->path, &st);
}

static bool walk_levels(struct walk *w)
{
    while (w->depth > 0) {
        if (!watch_scanner_tick(w->s))
            return false;
        struct level *top = &w->levels[w->depth - 1];
        errno = 0;
        const struct dirent *de = readdir(top->dir);
        if (de == NULL) {
            w->path[top->length] = '\0';
            if (errno != 0)
                failed(w, errno);
            closedir(top->dir);
            w->depth--;
        } else if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0) {
            if (!entry(w, de))
                return false;
        }
    }
    return true;
}

bool watch_scan_walk(struct watch_scanner *s, enum watch_walk kind, struct watch_walk_task *tasks)
{
    struct walk w = {.s = s, .kind = kind, .tasks = tasks};
    bool go_on = true;
    while (go_on && w.tasks != NULL) {
        struct watch_walk_task *task = w.tasks;
        w.tasks = task->next;
        int parent;
        int fd = open_task(&w, task, &parent);
        const char *slash = strrchr(task->rel, '/');
        if (fd < 0)
            failed(&w, errno);
        else
            push(&w, fd, parent, slash != NULL ? slash + 1 : task->rel);
        free(task);
        go_on = walk_levels(&w);
    }
    while (w.depth > 0)
        closedir(w.levels[--w.depth].dir);
    while (w.tasks != NULL) {
        struct watch_walk_task *task = w.tasks;
        w.tasks = task->next;
        free(task);
    }
    struct followed *f, *next;
    HASH_ITER(hh, w.followed, f, next)
    {
        HASH_DEL(w.followed, f);
        free(f);
    }
    return go_on;
}
