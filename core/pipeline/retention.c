#include "pipeline/retention.h"

#include "base/clock.h"
#include "base/folder.h"
#include "base/fsutil.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_MS (60 * 60 * 1000)
#define PAGE    64

static const char removed_note[] = "removed where it was moved to: its retention was over";

/* What the files of one drop folder are moved to. */
struct shelf {
    struct retention *retention;
    size_t watch;
    char *root; /* stays when it is empty; NULL: nothing in it is removed */
    bool active;
    struct journal_moved page;
    size_t next;      /* row of the page */
    uint64_t removed; /* of this drop folder, in this look */
    bool told;        /* in this look, that one cannot be removed */
    struct job job;
    const char *note; /* what became of the row's file; NULL: it could not be removed */
    struct err err;
    struct journal_unmoved record;
};

struct retention {
    struct pipeline_env env;
    uv_timer_t timer;
    bool closing, timer_closed;
    size_t n_active;
    void (*closed)(void *ctx);
    void *closed_ctx;
    struct shelf shelves[]; /* one a drop folder */
};

static void next_row(struct shelf *f);

static bool wants(const struct config_watch *w)
{
    return w->after_upload == CONFIG_MOVE && w->retention_ms > 0;
}

static void free_retention(struct retention *r)
{
    for (size_t i = 0; i < r->env.config->n_watches; i++)
        free(r->shelves[i].root);
    free(r);
}

static void maybe_closed(struct retention *r)
{
    if (!r->closing || r->n_active > 0 || !r->timer_closed)
        return;
    void (*closed)(void *) = r->closed;
    void *ctx = r->closed_ctx;
    free_retention(r);
    closed(ctx);
}

static void rest(struct shelf *f)
{
    struct retention *r = f->retention;
    journal_moved_clear(&f->page);
    f->active = false;
    r->n_active--;
    maybe_closed(r);
}

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct shelf *f = op->ctx;
    if (status != 0)
        log_warning("what became of a moved file cannot be recorded: the next look does it",
                    LOG_STR("reason", e->text));
    next_row(f);
}

static void remove_work(struct job *job)
{
    struct shelf *f = job->data;
    const struct journal_file_row *row = &f->page.rows[f->next - 1];
    struct stat st;
    f->err = (struct err){0};
    f->note = NULL;
    if (lstat(row->path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            f->note = "it left the place it was moved to";
        else
            err_set_errno(&f->err, errno, "it cannot be looked at");
    } else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != row->size ||
               (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec != row->mtime_ns) {
        f->note = "another file stands where it was moved to, and was left";
    } else {
        int rc = fsutil_unlink(row->path, &f->err);
        if (rc == 0 || rc == ERR_VANISHED)
            f->note = removed_note;
    }
    if (f->note)
        folder_prune_above(row->path, f->root);
}

static void removed(struct job *job)
{
    struct shelf *f = job->data;
    const struct journal_file_row *row = &f->page.rows[f->next - 1];
    if (!f->note) {
        if (!f->told)
            log_warning("a moved file whose retention is over cannot be removed: the next look, in "
                        "an hour, tries again",
                        LOG_UINT("file", row->id), LOG_STR("reason", f->err.text),
                        LOG_PATH("path", row->path));
        f->told = true;
        next_row(f);
        return;
    }
    f->removed += f->note == removed_note;
    f->record = (struct journal_unmoved){
        .op = {.cb = recorded, .ctx = f}, .file_id = row->id, .note = f->note};
    journal_unmoved(f->retention->env.journal, &f->record);
}

static void page_read(struct journal_op *op, int status, const struct err *e)
{
    struct shelf *f = op->ctx;
    if (status != 0) {
        log_warning("moved files cannot be listed: the next look does it",
                    LOG_STR("reason", e->text));
        rest(f);
        return;
    }
    f->next = 0;
    next_row(f);
}

static void next_page(struct shelf *f, int64_t after_ms, uint64_t after_id)
{
    const struct config_watch *w = &f->retention->env.config->watches[f->watch];
    journal_moved_clear(&f->page);
    f->page = (struct journal_moved){.op = {.cb = page_read, .ctx = f},
                                     .watch = w->path,
                                     .before_ms = clock_realtime_ms() - (int64_t)w->retention_ms,
                                     .after_ms = after_ms,
                                     .after_id = after_id,
                                     .limit = PAGE};
    journal_moved(f->retention->env.journal, &f->page);
}

/* One at a time: there is no hurry. */
static void next_row(struct shelf *f)
{
    if (f->retention->closing) {
        rest(f);
    } else if (f->next < f->page.n) {
        f->next++;
        f->job = (struct job){
            .work = remove_work, .done = removed, .mount = pipeline_mount(f->watch), .data = f};
        job_submit(f->retention->env.jobs, &f->job);
    } else if (f->page.n == PAGE) {
        const struct journal_file_row *last = &f->page.rows[PAGE - 1];
        next_page(f, last->changed_ms, last->id);
    } else {
        if (f->removed > 0)
            log_info("files were removed from the folder moved to: their retention is over",
                     LOG_UINT("watch", (uint64_t)f->watch + 1), LOG_UINT("files", f->removed));
        rest(f);
    }
}

static void look(uv_timer_t *timer)
{
    struct retention *r = timer->data;
    for (size_t i = 0; i < r->env.config->n_watches; i++) {
        struct shelf *f = &r->shelves[i];
        if (f->active || !f->root)
            continue;
        f->active = true;
        r->n_active++;
        f->told = false;
        f->removed = 0;
        next_page(f, 0, 0);
    }
}

int retention_open(struct retention **ret, const struct pipeline_env *env)
{
    const struct config *c = env->config;
    struct retention *r = calloc(1, sizeof *r + c->n_watches * sizeof r->shelves[0]);
    bool any = false, nomem = false;
    if (!r)
        return ERR_NOMEM;
    r->env = *env;
    for (size_t i = 0; i < c->n_watches && !nomem; i++) {
        struct shelf *f = &r->shelves[i];
        *f = (struct shelf){.retention = r, .watch = i};
        if (!wants(&c->watches[i]))
            continue;
        char *literal = template_literal_prefix(c->watches[i].move_to);
        f->root = literal ? fsutil_normalise(literal) : NULL;
        free(literal);
        nomem = !f->root;
        any = true;
    }
    if (nomem) {
        free_retention(r);
        return ERR_NOMEM;
    }
    uv_timer_init(env->loop, &r->timer);
    r->timer.data = r;
    if (any)
        uv_timer_start(&r->timer, look, 0, LOOK_MS);
    *ret = r;
    return 0;
}

static void timer_closed(uv_handle_t *handle)
{
    struct retention *r = handle->data;
    r->timer_closed = true;
    maybe_closed(r);
}

void retention_close(struct retention *r, void (*cb)(void *ctx), void *ctx)
{
    r->closing = true;
    r->closed = cb;
    r->closed_ctx = ctx;
    uv_close((uv_handle_t *)&r->timer, timer_closed);
}
