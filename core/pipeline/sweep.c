/* One pager goes through the journal; the rows of a page are looked at by one job a drop folder,
 * all at once. The next page waits for them, but not for those that hang: their folder is passed
 * over.
 *
 *   page -> runs (job: lstat -> journal: gone) -> next page … -> prune -> rest */
#include "pipeline/sweep.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PAGE       256
#define PRUNE_PAGE 1000
#define HANG_MS    20000 /* a run that takes so long is not waited for */
#define REST_MS    10000 /* between two sweeps, at least… */
#define REST_TIMES 20    /* …and so many times as long as the last one took */

struct page {
    struct journal_standing standing;
    unsigned refs; /* the pager's and the runs' */
};

/* The rows of a page that are of one drop folder. */
struct run {
    struct sweep *sweep;
    size_t watch;
    bool due;    /* it was scanned since the last sweep began */
    bool chosen; /* it is looked at in this sweep */
    bool busy;   /* …just now */
    bool late;   /* …and is not waited for any more */
    struct page *page;
    size_t rows[PAGE];
    size_t n;
    struct job job;
    struct root_look root;
    uint64_t gone[PAGE];
    size_t n_gone;
    struct journal_gone record;
};

struct sweep {
    struct pipeline_env env;
    bool active, closing, timer_closed;
    uv_timer_t timer; /* waits for runs, or rests */
    uint64_t started_ms, looked_at;
    struct page *page; /* being read, or looked at */
    size_t n_awaited;  /* runs of it */
    size_t n_busy;     /* runs, the late ones too */
    struct journal_prune prune;
    const char **retaining; /* drop folders whose moved files are to be found again */
    size_t n_retaining;
    void (*closed)(void *ctx);
    void *closed_ctx;
    struct run runs[]; /* one a drop folder */
};

static void next_page(struct sweep *s, uint64_t after);

int sweep_open(struct sweep **ret, const struct pipeline_env *env)
{
    const struct config *c = env->config;
    struct sweep *s = calloc(1, sizeof *s + c->n_watches * sizeof s->runs[0]);
    const char **retaining = calloc(c->n_watches + 1, sizeof *retaining);
    if (!s || !retaining) {
        free(s);
        free(retaining);
        return ERR_NOMEM;
    }
    s->env = *env;
    s->retaining = retaining;
    for (size_t i = 0; i < c->n_watches; i++) {
        s->runs[i].sweep = s;
        s->runs[i].watch = i;
        if (c->watches[i].after_upload == CONFIG_MOVE && c->watches[i].retention_ms > 0)
            retaining[s->n_retaining++] = c->watches[i].path;
    }
    uv_timer_init(env->loop, &s->timer);
    s->timer.data = s;
    *ret = s;
    return 0;
}

static void release_page(struct page *page)
{
    if (--page->refs > 0)
        return;
    journal_standing_clear(&page->standing);
    free(page);
}

static void maybe_closed(struct sweep *s)
{
    if (!s->closing || s->active || s->n_busy > 0 || !s->timer_closed)
        return;
    void (*closed)(void *) = s->closed;
    void *ctx = s->closed_ctx;
    free(s->retaining);
    free(s);
    closed(ctx);
}

static void begin(struct sweep *s)
{
    s->active = true;
    s->started_ms = clock_monotonic_ms();
    s->looked_at = 0;
    for (size_t i = 0; i < s->env.config->n_watches; i++) {
        s->runs[i].chosen = s->runs[i].due && !s->runs[i].busy;
        s->runs[i].due = s->runs[i].due && s->runs[i].busy;
    }
    next_page(s, 0);
}

static void rested(uv_timer_t *timer)
{
    struct sweep *s = timer->data;
    for (size_t i = 0; i < s->env.config->n_watches; i++)
        if (s->runs[i].due && !s->runs[i].busy) {
            begin(s);
            return;
        }
}

/* The end of a sweep. */
static void rest(struct sweep *s)
{
    uint64_t took = clock_monotonic_ms() - s->started_ms;
    uint64_t pause = took * REST_TIMES;
    if (s->page)
        release_page(s->page);
    s->page = NULL;
    s->active = false;
    log_debug("drop folders swept", LOG_UINT("files", s->looked_at), LOG_UINT("ms", took));
    if (!s->closing)
        uv_timer_start(&s->timer, rested, pause < REST_MS ? REST_MS : pause, 0);
    maybe_closed(s);
}

static void pruned(struct journal_op *op, int status, const struct err *e)
{
    struct sweep *s = op->ctx;
    if (status != 0)
        log_warning("the history cannot be pruned", LOG_STR("reason", e->text));
    else if (s->prune.pruned == PRUNE_PAGE && !s->closing) {
        s->prune.op = (struct journal_op){.cb = pruned, .ctx = s};
        journal_prune(s->env.journal, &s->prune);
        return;
    }
    rest(s);
}

static void page_done(struct sweep *s)
{
    const struct journal_standing *p = &s->page->standing;
    uv_timer_stop(&s->timer);
    if (s->closing) {
        rest(s);
    } else if (p->n == PAGE) {
        next_page(s, p->rows[PAGE - 1].id);
    } else {
        int64_t history_ms = (int64_t)s->env.config->history_ms;
        s->prune = (struct journal_prune){.op = {.cb = pruned, .ctx = s},
                                          .before_ms = clock_realtime_ms() - history_ms,
                                          .retaining = s->retaining,
                                          .n_retaining = s->n_retaining,
                                          .limit = PRUNE_PAGE};
        journal_prune(s->env.journal, &s->prune);
    }
}

/* ---- Runs ---- */

static void end_run(struct run *r)
{
    struct sweep *s = r->sweep;
    bool awaited = !r->late;
    r->busy = r->late = false;
    release_page(r->page);
    r->page = NULL;
    s->n_busy--;
    if (!awaited)
        maybe_closed(s);
    else if (--s->n_awaited == 0)
        page_done(s);
}

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct run *r = op->ctx;
    const struct config_watch *w = &r->sweep->env.config->watches[r->watch];
    if (status != 0)
        log_warning("files that left cannot be recorded", LOG_STR("reason", e->text));
    else if (r->record.vanished > 0)
        log_error("files left a drop folder before they were delivered",
                  LOG_UINT("files", r->record.vanished), LOG_PATH("watch", w->path));
    end_run(r);
}

static void look_work(struct job *job)
{
    struct run *r = job->data;
    const struct journal_file_row *rows = r->page->standing.rows;
    struct stat st;
    r->n_gone = 0;
    for (size_t i = 0; i < r->n; i++)
        if (lstat(rows[r->rows[i]].path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR))
            r->gone[r->n_gone++] = rows[r->rows[i]].id;
    /* Asked last: a share that went away while we looked has lost nothing. */
    root_look(r->sweep->env.config->watches[r->watch].path, &r->root);
}

static void looked(struct job *job)
{
    struct run *r = job->data;
    struct sweep *s = r->sweep;
    bool others = r->n_gone < r->n;
    /* What was found so late may have changed since. */
    if (s->closing || r->late || !roots_trust(s->env.roots, r->watch, &r->root, others) ||
        r->n_gone == 0) {
        end_run(r);
        return;
    }
    r->record = (struct journal_gone){.op = {.cb = recorded, .ctx = r},
                                      .file_ids = r->gone,
                                      .n = r->n_gone,
                                      .reason = "left the drop folder before it was delivered"};
    journal_gone(s->env.journal, &r->record);
}

static void hung(uv_timer_t *timer)
{
    struct sweep *s = timer->data;
    for (size_t i = 0; i < s->env.config->n_watches; i++) {
        struct run *r = &s->runs[i];
        if (!r->busy || r->late)
            continue;
        r->late = true;
        r->chosen = false;
        s->n_awaited--;
    }
    s->started_ms += HANG_MS; /* that was no work */
    if (s->n_awaited == 0)
        page_done(s);
}

/* ---- Pages ---- */

static void page_read(struct journal_op *op, int status, const struct err *e)
{
    struct sweep *s = op->ctx;
    const struct config *c = s->env.config;
    const struct journal_standing *p = &s->page->standing;
    if (status != 0) {
        log_warning("the journal cannot be swept", LOG_STR("reason", e->text));
        rest(s);
        return;
    }
    for (size_t i = 0; i < c->n_watches; i++)
        if (s->runs[i].chosen)
            s->runs[i].n = 0;
    for (size_t i = 0, w = 0; i < p->n && !s->closing; i++) {
        if (w == c->n_watches || strcmp(c->watches[w].path, p->rows[i].watch) != 0)
            for (w = 0; w < c->n_watches && strcmp(c->watches[w].path, p->rows[i].watch) != 0;)
                w++;
        if (w < c->n_watches && s->runs[w].chosen) /* else: no longer configured, or not now */
            s->runs[w].rows[s->runs[w].n++] = i;
    }
    for (size_t i = 0; i < c->n_watches && !s->closing; i++) {
        struct run *r = &s->runs[i];
        if (!r->chosen || r->n == 0)
            continue;
        s->looked_at += r->n;
        r->busy = true;
        r->page = s->page;
        s->page->refs++;
        s->n_awaited++;
        s->n_busy++;
        r->job = (struct job){
            .work = look_work, .done = looked, .mount = pipeline_mount(r->watch), .data = r};
        job_submit(s->env.jobs, &r->job);
    }
    if (s->n_awaited == 0)
        page_done(s);
    else
        uv_timer_start(&s->timer, hung, HANG_MS, 0);
}

static void next_page(struct sweep *s, uint64_t after)
{
    struct page *page = calloc(1, sizeof *page);
    if (s->page)
        release_page(s->page);
    s->page = page;
    if (!page) {
        log_warning("the journal cannot be swept: out of memory");
        rest(s);
        return;
    }
    page->refs = 1;
    page->standing =
        (struct journal_standing){.op = {.cb = page_read, .ctx = s}, .after = after, .limit = PAGE};
    journal_standing(s->env.journal, &page->standing);
}

void sweep_start(struct sweep *s, size_t watch)
{
    s->runs[watch].due = true;
    if (!s->active && !s->closing && !uv_is_active((uv_handle_t *)&s->timer))
        rested(&s->timer);
}

static void timer_closed(uv_handle_t *handle)
{
    struct sweep *s = handle->data;
    s->timer_closed = true;
    maybe_closed(s);
}

void sweep_close(struct sweep *s, void (*cb)(void *ctx), void *ctx)
{
    s->closing = true;
    s->closed = cb;
    s->closed_ctx = ctx;
    uv_close((uv_handle_t *)&s->timer, timer_closed);
}
