#include "pipeline/held.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define PAGE 64

struct query {
    struct held *held;
    struct journal_files files;
    char study[DICOM_UID_SIZE];
    struct query *prev, *next;
};

struct held {
    struct pipeline_env env;
    struct intake *intake;
    struct query *queries; /* a page of each is asked for, or being taken in */
    size_t n_asked;
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void found(struct journal_op *op, int status, const struct err *e);

int held_open(struct held **ret, const struct pipeline_env *env, struct intake *intake)
{
    struct held *h = calloc(1, sizeof *h);
    if (!h)
        return ERR_NOMEM;
    h->env = *env;
    h->intake = intake;
    *ret = h;
    return 0;
}

static void next_page(struct query *q)
{
    q->files.op = (struct journal_op){.cb = found, .ctx = q};
    q->held->n_asked++;
    journal_files(q->held->env.journal, &q->files);
}

void held_route(struct held *h, const char *study)
{
    struct query *q = calloc(1, sizeof *q);
    if (!q)
        return; /* the next start does it */
    q->held = h;
    snprintf(q->study, sizeof q->study, "%s", study ? study : "");
    q->files = (struct journal_files){
        .state = FILE_HELD, .study = q->study[0] ? q->study : NULL, .limit = PAGE};
    DL_APPEND(h->queries, q);
    next_page(q);
}

static void taken_in(void *ctx, unsigned full)
{
    struct query *q = ctx;
    if (full) {
        next_page(q);
        return;
    }
    DL_DELETE(q->held->queries, q);
    free(q);
}

static void maybe_closed(struct held *h)
{
    struct query *q, *next;
    if (!h->closing || h->n_asked > 0)
        return;
    void (*closed)(void *) = h->closed;
    void *ctx = h->closed_ctx;
    DL_FOREACH_SAFE(h->queries, q, next)
    {
        DL_DELETE(h->queries, q);
        free(q);
    }
    free(h);
    closed(ctx);
}

/* The next page is asked for when this one was taken in. */
static void found(struct journal_op *op, int status, const struct err *e)
{
    struct query *q = op->ctx;
    struct held *h = q->held;
    const struct config *c = h->env.config;
    struct journal_files page = q->files;
    struct intake_held held[PAGE];
    size_t n = 0;
    q->files.rows = NULL;
    q->files.n = 0;
    h->n_asked--;
    if (status != 0)
        log_warning("held files cannot be listed: they stay held until the next start or reload",
                    LOG_STR("reason", e->text));
    if (h->closing) {
        journal_files_clear(&page);
        maybe_closed(h);
        return;
    }
    for (size_t i = 0; status == 0 && i < page.n; i++) {
        const struct journal_file_row *row = &page.rows[i];
        q->files.after = row->id;
        for (size_t w = 0; w < c->n_watches; w++)
            if (strcmp(c->watches[w].path, row->watch) == 0)
                held[n++] = (struct intake_held){.watch = w, .file_id = row->id, .path = row->path};
    }
    intake_reroute(h->intake, held, n, taken_in, q, status == 0 && page.n == PAGE);
    journal_files_clear(&page);
}

size_t held_pending(const struct held *h)
{
    return h->n_asked;
}

void held_close(struct held *h, void (*cb)(void *ctx), void *ctx)
{
    h->closing = true;
    h->closed = cb;
    h->closed_ctx = ctx;
    maybe_closed(h);
}
