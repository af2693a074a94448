#include "pipeline/disposal.h"

#include "base/fsutil.h"
#include "base/log.h"
#include "pipeline/intake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define ACTIVE_MAX  16
#define RESUME_PAGE 100

struct item {
    struct disposal *disposal;
    size_t watch;
    uint64_t file_id;
    char *path;
    uint64_t size;
    int64_t mtime_ns;
    bool rejected;
    int fd;      /* while the header is read for the template */
    bool remove; /* else: move */
    char *target_folder;
    char *target; /* where it went */
    const char *note;
    bool gone;
    struct err err;
    struct job job;
    struct dicom_read read;
    struct journal_disposed op;
    struct trouble_waiter waiter;
    struct item *prev, *next;
    UT_hash_handle hh;
};

struct disposal {
    struct pipeline_env env;
    struct item *items; /* by file_id: a file once at a time */
    struct item *queue;
    size_t n_active, n_pending;
    struct journal_files resume;
    bool resuming, more, resume_rejected, closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void start_next(struct disposal *d);
static void resume_page(struct disposal *d);

static struct item *item_of_job(struct job *job)
{
    return (struct item *)((char *)job - offsetof(struct item, job));
}

int disposal_open(struct disposal **ret, const struct pipeline_env *env)
{
    struct disposal *d = calloc(1, sizeof *d);
    if (!d)
        return ERR_NOMEM;
    d->env = *env;
    *ret = d;
    return 0;
}

bool disposal_wanted(const struct config_watch *w, bool rejected)
{
    return rejected ? w->rejected != NULL : w->after_upload != CONFIG_KEEP;
}

static void maybe_closed(struct disposal *d)
{
    if (!d->closing || d->n_active > 0 || d->resuming)
        return;
    void (*closed)(void *) = d->closed;
    void *ctx = d->closed_ctx;
    free(d);
    closed(ctx);
}

static void free_item(struct item *x)
{
    HASH_DEL(x->disposal->items, x);
    if (x->fd >= 0)
        close(x->fd);
    free(x->path);
    free(x->target_folder);
    free(x->target);
    free(x);
}

static void finish(struct item *x)
{
    struct disposal *d = x->disposal;
    free_item(x);
    d->n_active--;
    d->n_pending--;
    if (!d->closing)
        start_next(d);
    maybe_closed(d);
}

/* ---- On the pool: touch the file ---- */

static bool same_version(const struct item *x, const struct stat *st)
{
    return S_ISREG(st->st_mode) && (uint64_t)st->st_size == x->size &&
           (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec == x->mtime_ns;
}

static int move_away(struct item *x)
{
    const char *slash = strrchr(x->path, '/');
    const char *name = slash ? slash + 1 : x->path;
    for (unsigned i = 0; i < 10000; i++) {
        char number[16] = "", *target;
        if (i > 0)
            snprintf(number, sizeof number, "~%u", i);
        if (asprintf(&target, "%s/%s%s", x->target_folder, name, number) < 0)
            return err_set(&x->err, ERR_NOMEM, "out of memory");
        int rc = fsutil_move(x->path, target, &x->err);
        if (rc == 0) {
            x->target = target;
            return 0;
        }
        free(target);
        if (rc != ERR_EXISTS)
            return rc;
    }
    return ERR_EXISTS;
}

/* Empty folders between a file that was at `path` and its drop folder; the drop folder itself
 * stays. */
static void prune_above(char *path, const char *root)
{
    char *slash;
    size_t length = strlen(root);
    while (path && (slash = strrchr(path, '/')) && (size_t)(slash - path) > length) {
        *slash = '\0';
        if (rmdir(path) != 0 && errno != ENOENT)
            break;
    }
}

/* Where the file lay, and where it was dropped if it was taken into custody from there. */
static void prune_parents(const struct item *x, const struct config_watch *w)
{
    const char *relative = intake_relative(w, x->path);
    char *path = strdup(x->path), *dropped = NULL, *root = NULL;
    if (path && asprintf(&root, "%.*s", (int)(relative - x->path - 1), x->path) >= 0)
        prune_above(path, root);
    if (asprintf(&dropped, "%s/%s", w->path, relative) >= 0)
        prune_above(dropped, w->path);
    else
        dropped = NULL;
    free(path);
    free(root);
    free(dropped);
}

static void touch_work(struct job *job)
{
    struct item *x = item_of_job(job);
    const struct config_watch *w = &x->disposal->env.config->watches[x->watch];
    struct stat st;
    x->err = (struct err){0};
    if (lstat(x->path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            x->gone = true;
        else
            err_set_errno(&x->err, errno, "the source cannot be looked at");
        return;
    }
    if (!same_version(x, &st)) {
        x->gone = true;
        x->note = "another version stood at its path and was left";
        return;
    }
    int rc = x->remove ? fsutil_unlink(x->path, &x->err) : move_away(x);
    if (rc == 0 || rc == ERR_VANISHED) {
        x->gone = true;
        x->err = (struct err){0};
        if (w->prune_empty)
            prune_parents(x, w);
    } else if (rc == ERR_ACCESS || rc == ERR_EXISTS) {
        x->note = rc == ERR_ACCESS ? "read-only source: left as it is"
                                   : "its place in the target folder is taken: left as it is";
        x->err = (struct err){0};
    }
}

/* ---- On the loop ---- */

static void submit_touch(struct item *x);
static void submit_record(struct item *x);

static void touch_again(struct trouble_waiter *w)
{
    struct item *x = (struct item *)((char *)w - offsetof(struct item, waiter));
    if (x->disposal->closing)
        finish(x);
    else
        submit_touch(x);
}

static void record_again(struct trouble_waiter *w)
{
    struct item *x = (struct item *)((char *)w - offsetof(struct item, waiter));
    if (x->disposal->closing)
        finish(x);
    else
        submit_record(x);
}

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct item *x = op->ctx;
    if (status != 0 && err_class(status) == ERR_CLASS_LOCAL && !x->disposal->closing &&
        status != ERR_DAMAGED) {
        x->waiter.again = record_again;
        trouble_wait(x->disposal->env.trouble, &x->waiter, e);
        return;
    }
    if (status == 0)
        trouble_over(x->disposal->env.trouble);
    finish(x);
}

static void submit_record(struct item *x)
{
    x->op = (struct journal_disposed){.op = {.cb = recorded, .ctx = x},
                                      .file_id = x->file_id,
                                      .gone = x->gone,
                                      .target = x->target,
                                      .note = x->note};
    journal_disposed(x->disposal->env.journal, &x->op);
}

static void touched(struct job *job)
{
    struct item *x = item_of_job(job);
    if (x->err.code != 0) {
        if (x->disposal->closing) {
            finish(x);
            return;
        }
        x->waiter.again = touch_again;
        trouble_wait(x->disposal->env.trouble, &x->waiter, &x->err);
        return;
    }
    if (x->note)
        log_warning("a source file was left", LOG_UINT("file", x->file_id),
                    LOG_STR("reason", x->note), LOG_PATH("path", x->path));
    submit_record(x);
}

static void submit_touch(struct item *x)
{
    x->job = (struct job){.work = touch_work, .done = touched, .mount = pipeline_mount(x->watch)};
    job_submit(x->disposal->env.jobs, &x->job);
}

struct lookup {
    const struct config *config;
    const struct dicom_header *header;
};

static const char *attribute(uint32_t tag, void *ctx)
{
    const struct lookup *l = ctx;
    int i = l->header ? config_tag_index(l->config, tag) : -1;
    return i >= 0 && (size_t)i < l->header->n_values ? l->header->values[i] : NULL;
}

/* The move template's folder, absolute. */
static int expand_target(struct item *x, const struct dicom_header *header)
{
    const struct config *c = x->disposal->env.config;
    const struct config_watch *w = &c->watches[x->watch];
    struct lookup l = {.config = c, .header = header};
    struct template_values values = {
        .attribute = attribute, .ctx = &l, .relative_path = intake_relative(w, x->path)};
    char *folder = template_expand(w->move_to, &values);
    int n =
        folder ? asprintf(&x->target_folder, "/%s", folder[0] == '/' ? folder + 1 : folder) : -1;
    free(folder);
    if (n < 0) {
        x->target_folder = NULL;
        return ERR_NOMEM;
    }
    return 0;
}

static void header_read(struct dicom_read *r, int status, const struct dicom_header *header,
                        const struct err *e)
{
    struct item *x = (struct item *)((char *)r - offsetof(struct item, read));
    close(x->fd);
    x->fd = -1;
    if (x->disposal->closing || status == ERR_CANCELED) {
        finish(x);
    } else if (status == 0 && expand_target(x, header) == 0) {
        submit_touch(x);
    } else {
        log_warning("a delivered file's header cannot be read again", LOG_UINT("file", x->file_id),
                    LOG_STR("reason", status == 0 ? "out of memory" : e->text));
        x->note = "its header cannot be read again: left as it is";
        submit_record(x);
    }
}

static void open_work(struct job *job)
{
    struct item *x = item_of_job(job);
    x->fd = open(x->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (x->fd < 0)
        err_set_errno(&x->err, errno, "it cannot be opened again");
}

static void opened(struct job *job)
{
    struct item *x = item_of_job(job);
    const struct config *c = x->disposal->env.config;
    if (x->disposal->closing) {
        finish(x);
    } else if (x->fd < 0) {
        x->gone = x->err.code == ERR_VANISHED;
        x->note = x->gone ? NULL : "it cannot be opened again: left as it is";
        submit_record(x);
    } else {
        x->read = (struct dicom_read){
            .fd = x->fd, .tags = c->tags, .n_tags = c->n_tags, .cb = header_read};
        dicom_reader_read(x->disposal->env.reader, &x->read);
    }
}

static void note_tag(uint32_t tag, void *ctx)
{
    (void)tag;
    *(bool *)ctx = true;
}

/* The folder of the rejected file, with its sub-folders below the drop folder. */
static int reject_target(struct item *x)
{
    const struct config_watch *w = &x->disposal->env.config->watches[x->watch];
    const char *relative = intake_relative(w, x->path), *slash = strrchr(relative, '/');
    int length = slash ? (int)(slash - relative) : 0;
    if (asprintf(&x->target_folder, "%s%s%.*s", w->rejected, length > 0 ? "/" : "", length,
                 relative) < 0) {
        x->target_folder = NULL;
        return ERR_NOMEM;
    }
    return 0;
}

static void start(struct item *x)
{
    const struct config_watch *w = &x->disposal->env.config->watches[x->watch];
    bool needs_header = false;
    int rc = 0;
    if (x->rejected) {
        rc = reject_target(x);
    } else if (w->after_upload == CONFIG_MOVE) {
        template_each_tag(w->move_to, note_tag, &needs_header);
        if (needs_header) {
            x->job =
                (struct job){.work = open_work, .done = opened, .mount = pipeline_mount(x->watch)};
            job_submit(x->disposal->env.jobs, &x->job);
            return;
        }
        rc = expand_target(x, NULL);
    } else {
        x->remove = true;
    }
    if (rc != 0) {
        x->note = "out of memory: left as it is";
        submit_record(x);
        return;
    }
    submit_touch(x);
}

static void start_next(struct disposal *d)
{
    while (d->queue && d->n_active < ACTIVE_MAX) {
        struct item *x = d->queue;
        DL_DELETE(d->queue, x);
        d->n_active++;
        start(x);
    }
    if (!d->queue && d->more && !d->resuming && !d->closing)
        resume_page(d);
}

void disposal_file(struct disposal *d, size_t watch, uint64_t file_id, const char *path,
                   uint64_t size, int64_t mtime_ns, bool rejected)
{
    struct item *x;
    HASH_FIND(hh, d->items, &file_id, sizeof file_id, x);
    if (x)
        return;
    x = calloc(1, sizeof *x);
    if (!x || !(x->path = strdup(path))) {
        free(x); /* the next start finds it */
        return;
    }
    x->disposal = d;
    x->watch = watch;
    x->file_id = file_id;
    x->size = size;
    x->mtime_ns = mtime_ns;
    x->rejected = rejected;
    x->fd = -1;
    d->n_pending++;
    HASH_ADD(hh, d->items, file_id, sizeof x->file_id, x);
    DL_APPEND(d->queue, x);
    start_next(d);
}

/* ---- What a crash left open ---- */

static void resumed(struct journal_op *op, int status, const struct err *e)
{
    struct disposal *d = op->ctx;
    const struct config *c = d->env.config;
    d->resuming = false;
    if (status != 0)
        log_warning("open disposals cannot be listed", LOG_STR("reason", e->text));
    size_t n = status == 0 && !d->closing ? d->resume.n : 0;
    for (size_t i = 0; i < n; i++) {
        const struct journal_file_row *row = &d->resume.rows[i];
        d->resume.after = row->id;
        for (size_t w = 0; w < c->n_watches; w++)
            if (strcmp(c->watches[w].path, row->watch) == 0 &&
                disposal_wanted(&c->watches[w], d->resume_rejected))
                disposal_file(d, w, row->id, row->path, row->size, row->mtime_ns,
                              d->resume_rejected);
    }
    d->more = n == RESUME_PAGE;
    journal_files_clear(&d->resume);
    if (!d->more && status == 0 && !d->closing && !d->resume_rejected) {
        d->resume_rejected = true;
        d->resume.after = 0;
        d->more = true;
    }
    if (!d->closing)
        start_next(d);
    maybe_closed(d);
}

static void resume_page(struct disposal *d)
{
    uint64_t after = d->resume.after;
    d->resuming = true;
    d->more = false;
    d->resume = (struct journal_files){.op = {.cb = resumed, .ctx = d},
                                       .state = d->resume_rejected ? FILE_REJECTED : FILE_DELIVERED,
                                       .pending_disposal = true,
                                       .after = after,
                                       .limit = RESUME_PAGE};
    journal_files(d->env.journal, &d->resume);
}

void disposal_resume(struct disposal *d)
{
    const struct config *c = d->env.config;
    bool wanted = false;
    for (size_t i = 0; i < c->n_watches; i++)
        wanted = wanted || disposal_wanted(&c->watches[i], false) ||
                 disposal_wanted(&c->watches[i], true);
    if (!wanted)
        return;
    d->resume.after = 0;
    d->resume_rejected = false;
    d->more = true;
    start_next(d);
}

size_t disposal_pending(const struct disposal *d)
{
    return d->n_pending + (d->resuming || d->more ? 1 : 0);
}

void disposal_close(struct disposal *d, void (*cb)(void *ctx), void *ctx)
{
    d->closing = true;
    d->closed = cb;
    d->closed_ctx = ctx;
    struct item *x, *next;
    DL_FOREACH_SAFE(d->queue, x, next)
    {
        DL_DELETE(d->queue, x);
        d->n_pending--;
        free_item(x);
    }
    maybe_closed(d);
}
