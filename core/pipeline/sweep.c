#include "pipeline/sweep.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PAGE       256
#define PRUNE_PAGE 1000

struct sweep {
    struct pipeline_env env;
    bool active, again, closing;
    struct journal_standing page;
    size_t next;            /* row of the page to look at: rows of one drop folder go in one job */
    size_t from, to, watch; /* of the job */
    struct job job;
    struct root_look root;
    const char **retaining; /* drop folders whose moved files are to be found again */
    size_t n_retaining;
    uint64_t *gone;
    size_t n_gone;
    struct journal_gone record;
    struct journal_prune prune;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void next_page(struct sweep *s, uint64_t after);
static void next_run(struct sweep *s);

int sweep_open(struct sweep **ret, const struct pipeline_env *env)
{
    struct sweep *s = calloc(1, sizeof *s);
    uint64_t *gone = calloc(PAGE, sizeof *gone);
    const struct config *c = env->config;
    const char **retaining = calloc(c->n_watches + 1, sizeof *retaining);
    if (!s || !gone || !retaining) {
        free(s);
        free(gone);
        free(retaining);
        return ERR_NOMEM;
    }
    s->env = *env;
    s->retaining = retaining;
    for (size_t i = 0; i < c->n_watches; i++)
        if (c->watches[i].after_upload == CONFIG_MOVE && c->watches[i].retention_ms > 0)
            retaining[s->n_retaining++] = c->watches[i].path;
    s->gone = gone;
    *ret = s;
    return 0;
}

/* The end of a round, or of the sweep. */
static void rest(struct sweep *s)
{
    s->active = false;
    journal_standing_clear(&s->page);
    if (s->closing) {
        void (*closed)(void *) = s->closed;
        void *ctx = s->closed_ctx;
        free(s->gone);
        free(s->retaining);
        free(s);
        closed(ctx);
    } else if (s->again) {
        sweep_start(s);
    }
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

static void recorded(struct journal_op *op, int status, const struct err *e)
{
    struct sweep *s = op->ctx;
    if (status != 0)
        log_warning("files that left cannot be recorded", LOG_STR("reason", e->text));
    else if (s->record.vanished > 0)
        log_error("files left a drop folder before they were delivered",
                  LOG_UINT("files", s->record.vanished),
                  LOG_PATH("watch", s->env.config->watches[s->watch].path));
    next_run(s);
}

static void look_work(struct job *job)
{
    struct sweep *s = job->data;
    struct stat st;
    s->n_gone = 0;
    for (size_t i = s->from; i < s->to; i++)
        if (lstat(s->page.rows[i].path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR))
            s->gone[s->n_gone++] = s->page.rows[i].id;
    /* Asked last: a share that went away while we looked has lost nothing. */
    root_look(s->env.config->watches[s->watch].path, &s->root);
}

static void looked(struct job *job)
{
    struct sweep *s = job->data;
    bool others = s->n_gone < s->to - s->from;
    if (s->closing || !roots_trust(s->env.roots, s->watch, &s->root, others) || s->n_gone == 0) {
        next_run(s);
        return;
    }
    s->record = (struct journal_gone){.op = {.cb = recorded, .ctx = s},
                                      .file_ids = s->gone,
                                      .n = s->n_gone,
                                      .reason = "left the drop folder before it was delivered"};
    journal_gone(s->env.journal, &s->record);
}

/* The next rows of one drop folder, in one job. */
static void next_run(struct sweep *s)
{
    const struct config *c = s->env.config;
    while (s->next < s->page.n && !s->closing) {
        const char *watch = s->page.rows[s->next].watch;
        s->from = s->next;
        while (s->next < s->page.n && strcmp(s->page.rows[s->next].watch, watch) == 0)
            s->next++;
        s->to = s->next;
        for (s->watch = 0;
             s->watch < c->n_watches && strcmp(c->watches[s->watch].path, watch) != 0;)
            s->watch++;
        if (s->watch == c->n_watches)
            continue; /* no longer configured */
        s->job = (struct job){
            .work = look_work, .done = looked, .mount = pipeline_mount(s->watch), .data = s};
        job_submit(s->env.jobs, &s->job);
        return;
    }
    if (s->closing) {
        rest(s);
    } else if (s->page.n == PAGE) {
        next_page(s, s->page.rows[PAGE - 1].id);
    } else {
        s->prune = (struct journal_prune){.op = {.cb = pruned, .ctx = s},
                                          .before_ms = clock_realtime_ms() - (int64_t)c->history_ms,
                                          .retaining = s->retaining,
                                          .n_retaining = s->n_retaining,
                                          .limit = PRUNE_PAGE};
        journal_prune(s->env.journal, &s->prune);
    }
}

static void page_read(struct journal_op *op, int status, const struct err *e)
{
    struct sweep *s = op->ctx;
    if (status != 0) {
        log_warning("the journal cannot be swept", LOG_STR("reason", e->text));
        rest(s);
        return;
    }
    s->next = 0;
    next_run(s);
}

static void next_page(struct sweep *s, uint64_t after)
{
    journal_standing_clear(&s->page);
    s->page =
        (struct journal_standing){.op = {.cb = page_read, .ctx = s}, .after = after, .limit = PAGE};
    journal_standing(s->env.journal, &s->page);
}

void sweep_start(struct sweep *s)
{
    s->again = s->active;
    if (s->active || s->closing)
        return;
    s->active = true;
    next_page(s, 0);
}

void sweep_close(struct sweep *s, void (*cb)(void *ctx), void *ctx)
{
    s->closing = true;
    s->closed = cb;
    s->closed_ctx = ctx;
    if (!s->active)
        rest(s);
}
