#include "pipeline/source_file.h"

#include "base/aside.h"
#include "base/folder.h"
#include "base/fsutil.h"
#include "pipeline/intake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool same_version(const struct source_file *f, const struct stat *st)
{
    return S_ISREG(st->st_mode) && (uint64_t)st->st_size == f->size &&
           (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec == f->mtime_ns;
}

/* What stands at `from` goes to the target folder, by the name that it had. */
static int move_away(struct source_file *f, const char *from)
{
    const char *slash = strrchr(f->path, '/');
    const char *name = slash ? slash + 1 : f->path;
    for (unsigned i = 0; i < 10000; i++) {
        char number[16] = "", *target;
        if (i > 0)
            snprintf(number, sizeof number, "~%u", i);
        if (asprintf(&target, "%s/%s%s", f->target_folder, name, number) < 0)
            return err_set(&f->err, ERR_NOMEM, "out of memory");
        int rc = fsutil_move(from, target, &f->err);
        if (rc == 0) {
            f->target = target;
            return 0;
        }
        free(target);
        if (rc != ERR_EXISTS)
            return rc;
    }
    return ERR_EXISTS;
}

/* Where the file lay, and where it was dropped if it was taken into custody from there; the drop
 * folder itself stays. */
static void prune_parents(const struct source_file *f)
{
    const char *relative = intake_relative(f->watch, f->path);
    char *root = strndup(f->path, (size_t)(relative - f->path - 1)), *dropped = NULL;
    if (asprintf(&dropped, "%s/%s", f->watch->path, relative) < 0)
        dropped = NULL;
    if (root && dropped) {
        folder_prune_above(f->path, root);
        folder_prune_above(dropped, f->watch->path);
    }
    free(root);
    free(dropped);
}

/* Whether its folder lets files go; that the target may not be written to is another matter. */
static bool may_unlink(const char *path)
{
    char *folder = strdup(path);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash)
        *slash = '\0';
    bool may =
        slash && faccessat(AT_FDCWD, slash == folder ? "/" : folder, W_OK | X_OK, AT_EACCESS) == 0;
    free(folder);
    return may;
}

static void put_back(struct source_file *f, const char *aside)
{
    struct err e;
    int rc = aside_put_back(aside, &e);
    if (rc != 0 && rc != ERR_VANISHED && f->err.code == 0)
        f->err = e; /* then the next scan does it */
}

static int take_from(struct source_file *f, const char *from)
{
    return f->remove ? fsutil_unlink(from, &f->err) : move_away(f, from);
}

/* Set aside first: it is then looked at once more, as another version may have taken its path since
 * it was. ERR_CHANGED: one had, and stands there again. */
static int take(struct source_file *f)
{
    struct stat st;
    char *aside = aside_name(f->path);
    if (!aside)
        return err_set(&f->err, ERR_NOMEM, "out of memory");
    int rc = aside_take(f->path, aside, &f->err);
    if (rc == ERR_EXISTS) { /* a crash left it */
        put_back(f, aside);
        rc = aside_take(f->path, aside, &f->err);
    }
    if (rc == ERR_TOO_LARGE) {
        f->err = (struct err){0};
        rc = take_from(f, f->path);
    } else if (rc == 0) {
        f->err = (struct err){0};
        if (lstat(aside, &st) != 0)
            rc = err_set_errno(&f->err, errno, "the source cannot be looked at");
        else if (!same_version(f, &st))
            rc = ERR_CHANGED;
        else
            rc = take_from(f, aside);
        if (rc != 0)
            put_back(f, aside);
    }
    free(aside);
    return rc;
}

static void another_version(struct source_file *f)
{
    f->gone = true;
    f->note = "another version stood at its path and was left";
}

void source_file_dispose(struct source_file *f)
{
    struct stat st;
    f->err = (struct err){0};
    if (lstat(f->path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            f->gone = true;
        else
            err_set_errno(&f->err, errno, "the source cannot be looked at");
        return;
    }
    if (!same_version(f, &st)) {
        another_version(f);
        return;
    }
    int rc = take(f);
    if (rc == ERR_CHANGED) {
        another_version(f);
    } else if (rc == 0 || rc == ERR_VANISHED) {
        f->gone = true;
        f->err = (struct err){0};
        if (f->watch->prune_empty)
            prune_parents(f);
    } else if (rc == ERR_ACCESS && !may_unlink(f->path)) {
        f->note = "read-only source: left as it is";
        f->read_only = true;
        f->err = (struct err){0};
    } else if (rc == ERR_EXISTS) {
        f->note = "its place in the target folder is taken: left as it is";
        f->err = (struct err){0};
    }
}
