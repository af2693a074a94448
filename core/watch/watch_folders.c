#include "watch/watch_folders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct watch_folder {
    UT_hash_handle hh_wd;
    UT_hash_handle hh_name;
    int wd;
    unsigned walk;     /* the whole walk that met it last */
    unsigned children; /* about how many watched folders name this one as their parent */
    size_t key_size;
    struct folder_key { /* key of by_name, as one run of bytes */
        int parent;
        char name[];
    } key;
};

#define MASK                                                                                       \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB |            \
     IN_ONLYDIR | IN_EXCL_UNLINK)
#define ROOT_MASK (MASK | IN_DELETE_SELF | IN_MOVE_SELF)

static struct watch_folder *find(const struct watch_folders *m, int wd)
{
    struct watch_folder *f;
    HASH_FIND(hh_wd, m->by_wd, &wd, sizeof wd, f);
    return f;
}

static struct watch_folder *find_name(const struct watch_folders *m, int parent, const char *name)
{
    char key[sizeof(int) + PATH_MAX];
    size_t length = strlen(name);
    if (length >= PATH_MAX)
        return NULL;
    memcpy(key, &parent, sizeof parent);
    memcpy(key + sizeof parent, name, length);
    struct watch_folder *f;
    HASH_FIND(hh_name, m->by_name, key, sizeof parent + length, f);
    return f;
}

static void unlink_node(struct watch_folders *m, struct watch_folder *f)
{
    HASH_DELETE(hh_wd, m->by_wd, f);
    HASH_DELETE(hh_name, m->by_name, f);
    struct watch_folder *parent = find(m, f->key.parent);
    if (parent != NULL && parent->children > 0)
        parent->children--;
    if (f->children > 0)
        m->orphans = true;
    if (m->root == f->wd)
        m->root = 0;
    free(f);
}

void watch_folders_forget(struct watch_folders *m, int wd)
{
    struct watch_folder *f = find(m, wd);
    if (f != NULL)
        unlink_node(m, f);
}

static void drop(struct watch_folders *m, struct watch_folder *f)
{
    inotify_rm_watch(m->fd, f->wd);
    unlink_node(m, f);
}

void watch_folders_drop(struct watch_folders *m, int wd)
{
    struct watch_folder *f = find(m, wd);
    if (f != NULL)
        drop(m, f);
}

void watch_folders_clear(struct watch_folders *m)
{
    struct watch_folder *f, *next;
    HASH_ITER(hh_wd, m->by_wd, f, next)
    drop(m, f);
    m->orphans = false;
}

/* A node of the same place that is another folder was replaced; one of the same descriptor has
 * moved here. */
static bool insert(struct watch_folders *m, int wd, int parent, const char *name)
{
    if (parent == wd) /* a bind mount of a folder into itself: no path of its own */
        return false;
    size_t length = strlen(name);
    struct watch_folder *here = find_name(m, parent, name);
    struct watch_folder *known = find(m, wd);
    if (here != NULL && here == known) {
        known->walk = m->walk;
        return true;
    }
    if (here != NULL)
        drop(m, here);
    struct watch_folder *f = calloc(1, sizeof *f + length + 1);
    if (f == NULL)
        return false;
    f->wd = wd;
    f->walk = m->walk;
    f->key.parent = parent;
    memcpy(f->key.name, name, length + 1);
    f->key_size = sizeof f->key.parent + length;
    if (known != NULL) {
        f->children = known->children;
        known->children = 0; /* they go with it, and are no orphans */
        unlink_node(m, known);
    }
    HASH_ADD(hh_wd, m->by_wd, wd, sizeof f->wd, f);
    if (f->hh_wd.tbl == NULL) {
        free(f);
        return false;
    }
    HASH_ADD_KEYPTR(hh_name, m->by_name, &f->key, f->key_size, f);
    if (f->hh_name.tbl == NULL) {
        HASH_DELETE(hh_wd, m->by_wd, f);
        free(f);
        return false;
    }
    struct watch_folder *above = find(m, parent);
    if (above != NULL)
        above->children++;
    if (parent == WATCH_FOLDERS_ROOT && name[0] == '\0')
        m->root = wd;
    return true;
}

int watch_folders_add(struct watch_folders *m, int dir, int parent, const char *name)
{
    if (m->fd < 0)
        return -1;
    /* By descriptor, so that exactly the folder that is about to be listed is watched, whatever
     * happened to its name. */
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
    bool root = parent == WATCH_FOLDERS_ROOT && name[0] == '\0';
    int wd = inotify_add_watch(m->fd, path, root ? ROOT_MASK : MASK);
    if (wd < 0)
        return -1;
    if (!insert(m, wd, parent, name)) {
        inotify_rm_watch(m->fd, wd);
        return -1;
    }
    return wd;
}

/* Depth-first from the root needs the parents first: the chain is walked up, and the path written
 * from its end. */
bool watch_folders_path(struct watch_folders *m, int wd, const char *name, char out[PATH_MAX])
{
    char *end = out + PATH_MAX;
    char *p = end;
    *--p = '\0';
    const char *part = name;
    for (int at = wd;;) {
        if (part != NULL && part[0] != '\0') {
            size_t length = strlen(part);
            bool slash = *p != '\0';
            if ((size_t)(p - out) < length + slash)
                return false;
            if (slash)
                *--p = '/';
            p -= length;
            memcpy(p, part, length);
        }
        if (at == WATCH_FOLDERS_ROOT)
            break;
        struct watch_folder *f = find(m, at);
        if (f == NULL) {
            watch_folders_drop(m, wd);
            return false;
        }
        part = f->key.name;
        at = f->key.parent;
    }
    memmove(out, p, (size_t)(end - p));
    return true;
}

int watch_folders_child(const struct watch_folders *m, int parent, const char *name)
{
    const struct watch_folder *f = find_name(m, parent, name);
    return f != NULL ? f->wd : 0;
}

void watch_folders_sweep(struct watch_folders *m, bool unmet)
{
    /* Dropping an orphan makes orphans of its children: as often as there are some. */
    do {
        m->orphans = false;
        struct watch_folder *f, *next;
        HASH_ITER(hh_wd, m->by_wd, f, next)
        {
            bool orphan = f->key.parent != WATCH_FOLDERS_ROOT && find(m, f->key.parent) == NULL;
            if (orphan || (unmet && f->walk != m->walk))
                drop(m, f);
        }
    } while (m->orphans);
}
