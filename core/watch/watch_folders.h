/* Folders and their inotify watches. A node knows its parent's watch descriptor and its own name,
 * so a path is put together when it is asked for, and a folder that is renamed takes everything
 * below it along.
 *
 * Descriptors are not used again by the kernel (inotify(7)), so a node whose parent is gone is an
 * orphan: it stays until a walk finds the folder under its new path (the kernel then gives the same
 * descriptor again) or watch_folders_sweep drops it. Scanner thread only. */
#ifndef WATCH_WATCH_FOLDERS_H
#define WATCH_WATCH_FOLDERS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct watch_folder;

struct watch_folders {
    int fd; /* inotify; -1: there is none and no folder can be watched. Not owned. */
    struct watch_folder *by_wd;
    struct watch_folder *by_name;
    int root;      /* the drop folder's own descriptor, 0 if it has none */
    unsigned walk; /* number of the whole walk under way or last done */
    bool orphans;  /* a sweep may find some */
};

/* Parent of a node whose name is its whole path relative to the root ("" for the root itself). */
#define WATCH_FOLDERS_ROOT 0

/* Watches the open folder `dir`. Returns its descriptor, > 0, or -1 if it cannot be watched (limit
 * reached, no memory). A folder that is known already changes its place. */
int watch_folders_add(struct watch_folders *m, int dir, int parent, const char *name);

/* Writes the path relative to the root, followed by "/name" if `name` is not NULL. False for an
 * unknown descriptor, an orphan (which is dropped) or a path longer than PATH_MAX. */
bool watch_folders_path(struct watch_folders *m, int wd, const char *name, char out[PATH_MAX]);
/* The descriptor of the child folder `name`, or 0. */
int watch_folders_child(const struct watch_folders *m, int parent, const char *name);

/* Stops watching a folder (what is below it becomes orphans). */
void watch_folders_drop(struct watch_folders *m, int wd);
/* The kernel says that this watch is gone. */
void watch_folders_forget(struct watch_folders *m, int wd);
void watch_folders_clear(struct watch_folders *m);
/* Drops orphans and, if `unmet`, what the last whole walk did not come to. */
void watch_folders_sweep(struct watch_folders *m, bool unmet);

#endif
