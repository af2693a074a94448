#include "pipeline/disposal.h"

#include "base/log.h"
#include "pipeline/intake.h"
#include "pipeline/source_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define ACTIVE_MAX 8   /* of a drop folder */
#define QUEUE_MAX  256 /* what does not fit is found in the journal later */
#define PAGE       100

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
    bool gone, read_only;
    struct err err;
    struct job job;
    struct dicom_read read;
    struct journal_disposed op;
    struct trouble_waiter waiter;
    struct item *prev, *next;
    UT_hash_handle hh;
};

/* A drop folder. */
struct folder {
    struct disposal *disposal;
    size_t watch;
    struct item *queue;
    size_t n_active, n_queued;
    struct journal_files page;
    struct trouble_waiter waiter;
    bool paging;        /* a page is asked for, or waits for better times */
    bool more;          /* the pass through the journal is not at its end */
    bool again;         /* something did not fit meanwhile: one more pass */
    bool page_rejected; /* the pass is through the delivered ones */
    bool told_readonly;
};

struct disposal {
    struct pipeline_env env;
    struct item *items; /* by file_id: a file once at a time */
    struct folder *folders;
    size_t n_pending, n_paging;
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void start_next(struct folder *f);
static void next_page(struct folder *f);

static struct item *item_of_job(struct job *job)
{
    return (struct item *)((char *)job - offsetof(struct item, job));
}

int disposal_open(struct disposal **ret, const struct pipeline_env *env)
{
    struct disposal *d = calloc(1, sizeof *d);
    struct folder *folders = calloc(env->config->n_watches + 1, sizeof *folders);
    if (!d || !folders) {
        free(d);
        free(folders);
        return ERR_NOMEM;
    }
    d->env = *env;
    d->folders = folders;
    for (size_t i = 0; i < env->config->n_watches; i++)
        folders[i] = (struct folder){.disposal = d, .watch = i};
    *ret = d;
    return 0;
}

bool disposal_wanted(const struct config_watch *w, bool rejected)
{
    return rejected ? w->rejected != NULL : w->after_upload != CONFIG_KEEP;
}

static void maybe_closed(struct disposal *d)
{
    if (!d->closing || d->n_pending > 0 || d->n_paging > 0)
        return;
    void (*closed)(void *) = d->closed;
    void *ctx = d->closed_ctx;
    free(d->folders);
    free(d);
    closed(ctx);
}

static void free_item(struct item *x)
{
    HASH_DEL(x->disposal->items, x);
    trouble_forget(x->disposal->env.trouble, &x->waiter);
    if (x->fd >= 0)
        close(x->fd);
    free(x->path);
    free(x->target_folder);
    free(x->target);
    free(x);
}

static struct folder *folder_of(const struct item *x)
{
    return &x->disposal->folders[x->watch];
}

static void finish(struct item *x)
{
    struct disposal *d = x->disposal;
    struct folder *f = folder_of(x);
    free_item(x);
    f->n_active--;
    d->n_pending--;
    if (!d->closing)
        start_next(f);
    maybe_closed(d);
}

/* ---- Touch the file ---- */

static void touch_work(struct job *job)
{
    struct item *x = item_of_job(job);
    struct source_file f = {.watch = &x->disposal->env.config->watches[x->watch],
                            .path = x->path,
                            .size = x->size,
                            .mtime_ns = x->mtime_ns,
                            .remove = x->remove,
                            .target_folder = x->target_folder};
    source_file_dispose(&f);
    x->gone = f.gone;
    x->target = f.target;
    x->note = f.note;
    x->read_only = f.read_only;
    x->err = f.err;
}

static void submit_touch(struct item *x);
static void submit_record(struct item *x);

static void start(struct item *x);

static struct item *item_of_waiter(struct trouble_waiter *w)
{
    return (struct item *)((char *)w - offsetof(struct item, waiter));
}

static void wait_for_better_times(struct item *x, void (*again)(struct trouble_waiter *w),
                                  const struct err *e)
{
    if (x->disposal->closing) {
        finish(x); /* the next start finds it */
        return;
    }
    x->waiter.again = again;
    trouble_wait(x->disposal->env.trouble, &x->waiter, e);
}

static void touch_again(struct trouble_waiter *w)
{
    struct item *x = item_of_waiter(w);
    if (x->disposal->closing)
        finish(x);
    else
        submit_touch(x);
}

static void start_again(struct trouble_waiter *w)
{
    struct item *x = item_of_waiter(w);
    if (x->disposal->closing)
        finish(x);
    else
        start(x);
}

static void record_again(struct trouble_waiter *w)
{
    struct item *x = item_of_waiter(w);
    if (x->disposal->closing)
        finish(x);
    else
        submit_record(x);
}

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct item *x = op->ctx;
    if (status != 0 && err_class(status) == ERR_CLASS_LOCAL && status != ERR_DAMAGED) {
        wait_for_better_times(x, record_again, e);
        return;
    }
    if (status != 0)
        log_debug("a disposal came too late", LOG_UINT("file", x->file_id),
                  LOG_STR("reason", e->text));
    if (status == 0)
        trouble_over(x->disposal->env.trouble, &x->waiter);
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
        wait_for_better_times(x, touch_again, &x->err);
        return;
    }
    trouble_over(x->disposal->env.trouble, &x->waiter);
    if (x->read_only && !folder_of(x)->told_readonly) {
        folder_of(x)->told_readonly = true;
        log_warning(
            "files of a drop folder cannot be removed or moved: they are left, which is noted "
            "in the journal; see dcmferry check",
            LOG_UINT("watch", (uint64_t)x->watch + 1), LOG_PATH("path", x->path));
    } else if (x->note && !x->read_only)
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
    } else if (status != 0 && err_class(status) != ERR_CLASS_PERMANENT) {
        wait_for_better_times(x, start_again, e);
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
    x->err = (struct err){0};
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
    } else if (x->fd < 0 && x->err.code != ERR_VANISHED && x->err.code != ERR_ACCESS) {
        wait_for_better_times(x, start_again, &x->err);
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

static void start_next(struct folder *f)
{
    while (f->queue && f->n_active < ACTIVE_MAX) {
        struct item *x = f->queue;
        DL_DELETE(f->queue, x);
        f->n_queued--;
        f->n_active++;
        start(x);
    }
    if (f->again && !f->more && !f->paging) {
        f->again = false;
        f->more = true;
        f->page_rejected = false;
        f->page.after = 0;
    }
    if (!f->queue && f->more && !f->paging && !f->disposal->closing)
        next_page(f);
}

void disposal_file(struct disposal *d, size_t watch, uint64_t file_id, const char *path,
                   uint64_t size, int64_t mtime_ns, bool rejected)
{
    struct folder *f = &d->folders[watch];
    struct item *x;
    HASH_FIND(hh, d->items, &file_id, sizeof file_id, x);
    if (x)
        return;
    x = f->n_queued < QUEUE_MAX ? calloc(1, sizeof *x) : NULL;
    if (!x || !(x->path = strdup(path))) {
        free(x);
        f->again = true;
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
    f->n_queued++;
    HASH_ADD(hh, d->items, file_id, sizeof x->file_id, x);
    DL_APPEND(f->queue, x);
    start_next(f);
}

/* ---- What a crash left open, or did not fit ---- */

static void page_again(struct trouble_waiter *w)
{
    struct folder *f = (struct folder *)((char *)w - offsetof(struct folder, waiter));
    struct disposal *d = f->disposal;
    f->paging = false;
    d->n_paging--;
    if (d->closing)
        maybe_closed(d);
    else
        next_page(f);
}

static void page_read(struct journal_op *op, int status, const struct err *e)
{
    struct folder *f = op->ctx;
    struct disposal *d = f->disposal;
    if (status != 0 && err_class(status) == ERR_CLASS_LOCAL && status != ERR_DAMAGED &&
        !d->closing) {
        f->waiter.again = page_again;
        trouble_wait(d->env.trouble, &f->waiter, e);
        return;
    }
    trouble_over(d->env.trouble, &f->waiter);
    f->paging = false;
    d->n_paging--;
    size_t n = status == 0 && !d->closing ? f->page.n : 0;
    struct journal_file_row *rows = f->page.rows;
    f->more = n == PAGE;
    if (n > 0)
        f->page.after = rows[n - 1].id;
    if (status == 0 && !f->more && !f->page_rejected) {
        f->page_rejected = true;
        f->page.after = 0;
        f->more = true;
    }
    bool wanted =
        disposal_wanted(&d->env.config->watches[f->watch], f->page.state == FILE_REJECTED);
    struct journal_files page = f->page; /* what follows may ask for the next one */
    f->page.rows = NULL;
    f->page.n = 0;
    for (size_t i = 0; wanted && i < n; i++)
        disposal_file(d, f->watch, rows[i].id, rows[i].path, rows[i].size, rows[i].mtime_ns,
                      page.state == FILE_REJECTED);
    journal_files_clear(&page);
    if (!d->closing)
        start_next(f);
    maybe_closed(d);
}

static void next_page(struct folder *f)
{
    struct disposal *d = f->disposal;
    const struct config_watch *w = &d->env.config->watches[f->watch];
    if (!f->page_rejected && !disposal_wanted(w, false)) {
        f->page_rejected = true;
        f->page.after = 0;
    }
    f->more = false;
    if (f->page_rejected && !disposal_wanted(w, true))
        return;
    f->paging = true;
    d->n_paging++;
    f->page = (struct journal_files){.op = {.cb = page_read, .ctx = f},
                                     .state = f->page_rejected ? FILE_REJECTED : FILE_DELIVERED,
                                     .pending_disposal = true,
                                     .watch = w->path,
                                     .after = f->page.after,
                                     .limit = PAGE};
    journal_files(d->env.journal, &f->page);
}

void disposal_resume(struct disposal *d)
{
    for (size_t i = 0; i < d->env.config->n_watches; i++) {
        d->folders[i].again = true;
        start_next(&d->folders[i]);
    }
}

size_t disposal_pending(const struct disposal *d)
{
    return d->n_pending + d->n_paging;
}

void disposal_close(struct disposal *d, void (*cb)(void *ctx), void *ctx)
{
    d->closing = true;
    d->closed = cb;
    d->closed_ctx = ctx;
    for (size_t i = 0; i < d->env.config->n_watches; i++) {
        struct item *x, *next;
        DL_FOREACH_SAFE(d->folders[i].queue, x, next)
        {
            DL_DELETE(d->folders[i].queue, x);
            d->n_pending--;
            free_item(x);
        }
    }
    maybe_closed(d);
}
