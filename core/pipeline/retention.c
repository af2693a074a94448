#include "pipeline/retention.h"

#include "base/clock.h"
#include "base/fsutil.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_MS (60 * 60 * 1000)
#define PAGE    64

static const char removed_note[] = "removed where it was moved to: its retention was over";

struct retention {
    struct pipeline_env env;
    uv_timer_t timer;
    bool active, closing, timer_closed;
    size_t watch; /* whose files are looked at */
    struct journal_moved page;
    size_t next;      /* row of the page */
    uint64_t removed; /* of this drop folder, in this look */
    bool told;        /* in this look, that one cannot be removed */
    struct job job;
    const char *note; /* what became of the row's file; NULL: it could not be removed */
    struct err err;
    struct journal_unmoved record;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void next_watch(struct retention *r);
static void next_row(struct retention *r);

static bool wants(const struct config_watch *w)
{
    return w->after_upload == CONFIG_MOVE && w->retention_ms > 0;
}

static void maybe_closed(struct retention *r)
{
    if (!r->closing || r->active || !r->timer_closed)
        return;
    void (*closed)(void *) = r->closed;
    void *ctx = r->closed_ctx;
    free(r);
    closed(ctx);
}

static void rest(struct retention *r)
{
    journal_moved_clear(&r->page);
    r->active = false;
    maybe_closed(r);
}

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct retention *r = op->ctx;
    if (status != 0)
        log_warning("what became of a moved file cannot be recorded: the next look does it",
                    LOG_STR("reason", e->text));
    next_row(r);
}

static void remove_work(struct job *job)
{
    struct retention *r = job->data;
    const struct journal_file_row *row = &r->page.rows[r->next - 1];
    struct stat st;
    r->err = (struct err){0};
    r->note = NULL;
    if (lstat(row->path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            r->note = "it left the place it was moved to";
        else
            err_set_errno(&r->err, errno, "it cannot be looked at");
    } else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != row->size ||
               (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec != row->mtime_ns) {
        r->note = "another file stands where it was moved to, and was left";
    } else {
        int rc = fsutil_unlink(row->path, &r->err);
        if (rc == 0 || rc == ERR_VANISHED)
            r->note = removed_note;
    }
}

static void removed(struct job *job)
{
    struct retention *r = job->data;
    const struct journal_file_row *row = &r->page.rows[r->next - 1];
    if (!r->note) {
        if (!r->told)
            log_warning("a moved file whose retention is over cannot be removed: the next look, in "
                        "an hour, tries again",
                        LOG_UINT("file", row->id), LOG_STR("reason", r->err.text),
                        LOG_PATH("path", row->path));
        r->told = true;
        next_row(r);
        return;
    }
    r->removed += r->note == removed_note;
    r->record = (struct journal_unmoved){
        .op = {.cb = recorded, .ctx = r}, .file_id = row->id, .note = r->note};
    journal_unmoved(r->env.journal, &r->record);
}

static void page_read(struct journal_op *op, int status, const struct err *e)
{
    struct retention *r = op->ctx;
    if (status != 0) {
        log_warning("moved files cannot be listed: the next look does it",
                    LOG_STR("reason", e->text));
        rest(r);
        return;
    }
    r->next = 0;
    next_row(r);
}

static void next_page(struct retention *r, int64_t after_ms, uint64_t after_id)
{
    const struct config_watch *w = &r->env.config->watches[r->watch];
    journal_moved_clear(&r->page);
    r->page = (struct journal_moved){.op = {.cb = page_read, .ctx = r},
                                     .watch = w->path,
                                     .before_ms = clock_realtime_ms() - (int64_t)w->retention_ms,
                                     .after_ms = after_ms,
                                     .after_id = after_id,
                                     .limit = PAGE};
    journal_moved(r->env.journal, &r->page);
}

/* One at a time: there is no hurry. */
static void next_row(struct retention *r)
{
    if (r->closing) {
        rest(r);
    } else if (r->next < r->page.n) {
        r->next++;
        r->job = (struct job){
            .work = remove_work, .done = removed, .mount = pipeline_mount(r->watch), .data = r};
        job_submit(r->env.jobs, &r->job);
    } else if (r->page.n == PAGE) {
        const struct journal_file_row *last = &r->page.rows[PAGE - 1];
        next_page(r, last->changed_ms, last->id);
    } else {
        if (r->removed > 0)
            log_info("files were removed from the folder moved to: their retention is over",
                     LOG_UINT("watch", (uint64_t)r->watch + 1), LOG_UINT("files", r->removed));
        r->watch++;
        next_watch(r);
    }
}

static void next_watch(struct retention *r)
{
    const struct config *c = r->env.config;
    while (r->watch < c->n_watches && !wants(&c->watches[r->watch]))
        r->watch++;
    if (r->watch == c->n_watches) {
        rest(r);
        return;
    }
    r->removed = 0;
    next_page(r, 0, 0);
}

static void look(uv_timer_t *timer)
{
    struct retention *r = timer->data;
    if (r->active)
        return;
    r->active = true;
    r->told = false;
    r->watch = 0;
    next_watch(r);
}

int retention_open(struct retention **ret, const struct pipeline_env *env)
{
    struct retention *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_NOMEM;
    r->env = *env;
    uv_timer_init(env->loop, &r->timer);
    r->timer.data = r;
    for (size_t i = 0; i < env->config->n_watches; i++)
        if (wants(&env->config->watches[i]) && !uv_is_active((uv_handle_t *)&r->timer))
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
