/* The files below DIR. Each gets its name, that of its content, before the rows that speak of it
 * are committed; many of a batch are made durable by one syncfs. */
#include "sandbox/store_internal.h"

#include "base/folder.h"
#include "base/fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNCFS_FROM 4 /* files in a batch from which one syncfs is cheaper than their fsyncs */

char *store_incoming_path(struct store *s)
{
    char *path;
    uint64_t n = atomic_fetch_add(&s->next_incoming, 1);

    if (asprintf(&path, "%s/incoming/%llu", s->dir, (unsigned long long)n) < 0)
        return NULL;
    return path;
}

static int remove_incoming(struct store *s, struct err *e)
{
    int fd = openat(s->dir_fd, "incoming", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        if (fd >= 0)
            close(fd);
        return err_set_errno(e, errno, "cannot read the store's folder for parts");
    }
    for (struct dirent *entry = readdir(d); entry; entry = readdir(d)) {
        if (entry->d_name[0] != '.')
            unlinkat(fd, entry->d_name, 0);
    }
    closedir(d);
    return 0;
}

static int prepare_dir(struct store *s, struct err *e)
{
    static const char *const folders[] = {"incoming", "instances", "documents"};
    char *path;
    int rc = folder_make(s->dir, 0700, e);

    for (size_t i = 0; i < 3 && rc == 0; i++) {
        if (asprintf(&path, "%s/%s", s->dir, folders[i]) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        rc = folder_make(path, 0700, e);
        free(path);
    }
    if (rc)
        return rc;
    if (asprintf(&path, "%s/lock", s->dir) < 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = fsutil_lock(path, &s->lock_fd, e);
    free(path);
    return rc == ERR_LOCKED ? err_wrap(e, "another sandbox runs on this state folder: it is") : rc;
}

int store_files_open(struct store *s, struct err *e)
{
    int rc = prepare_dir(s, e);

    if (rc)
        return rc;
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return err_set_errno(e, errno, "cannot open the state folder");
    return remove_incoming(s, e);
}

void store_files_close(struct store *s)
{
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
}

static int sync_fd(int fd, struct err *e)
{
    if (fsync(fd) < 0)
        return err_set_errno(e, errno, "cannot make a stored file durable");
    return 0;
}

/* The name is the content's hash: what lies there already may be replaced (it might be torn, left
 * by a lost power supply before any row named it). */
static int place_file(struct store *s, struct store_file *f, struct err *e)
{
    char folder[sizeof f->to];
    char *slash;

    if (renameat(AT_FDCWD, f->from, s->dir_fd, f->to) == 0)
        return 0;
    if (errno == ENOENT) {
        snprintf(folder, sizeof folder, "%s", f->to);
        slash = strrchr(folder, '/');
        if (slash) {
            *slash = '\0';
            if (mkdirat(s->dir_fd, folder, 0700) < 0 && errno != EEXIST)
                return err_set_errno(e, errno, "cannot make a folder of the store");
        }
        if (renameat(AT_FDCWD, f->from, s->dir_fd, f->to) == 0)
            return 0;
    }
    return err_set_errno(e, errno, "cannot put a stored file in its place");
}

static int sync_file(struct store *s, struct store_file *f, struct err *e)
{
    char path[sizeof f->to];
    int rc, fd;

    rc = sync_fd(f->fd, e);
    if (rc)
        return rc;
    /* The file's folder, and the one above it, since the folder may be new. */
    snprintf(path, sizeof path, "%s", f->to);
    for (char *slash = strrchr(path, '/'); slash; slash = strrchr(path, '/')) {
        *slash = '\0';
        fd = openat(s->dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return err_set_errno(e, errno, "cannot open a folder of the store");
        rc = sync_fd(fd, e);
        close(fd);
        if (rc)
            return rc;
    }
    return 0;
}

/* Of those that were refused nothing is kept. */
static bool has_file(const struct store_op *op)
{
    return op->file && op->file->from && op->status == 0;
}

int store_files_place(struct store *s, struct store_op *ops, struct err *e)
{
    unsigned n = 0;
    int rc;

    for (struct store_op *op = ops; op; op = op->next) {
        if (!has_file(op))
            continue;
        n++;
        rc = place_file(s, op->file, e);
        if (rc)
            return rc;
    }
    if (!s->sync || n == 0)
        return 0;
    if (n >= SYNCFS_FROM) {
        if (syncfs(s->dir_fd) < 0)
            return err_set_errno(e, errno, "cannot make the store durable");
        return 0;
    }
    for (struct store_op *op = ops; op; op = op->next) {
        if (has_file(op) && (rc = sync_file(s, op->file, e)) != 0)
            return rc;
    }
    return 0;
}
