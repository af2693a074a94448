#include "pipeline/intake_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

static void maybe_closed(struct intake *in);
static void start_ready(struct intake *in);

int intake_open(struct intake **ret, const struct pipeline_env *env,
                const struct intake_handler *handler)
{
    struct intake *in = calloc(1, sizeof *in);
    if (!in)
        return ERR_NOMEM;
    in->watches = calloc(env->config->n_watches + 1, sizeof *in->watches);
    if (!in->watches || binding_cache_open(&in->bindings, env->journal) != 0) {
        free(in->watches);
        free(in);
        return ERR_NOMEM;
    }
    in->env = *env;
    in->handler = *handler;
    uv_timer_init(env->loop, &in->timer);
    in->timer.data = in;
    *ret = in;
    return 0;
}

const char *intake_relative(const struct config_watch *w, const char *path)
{
    size_t root = strlen(w->path);
    if (strncmp(path, w->path, root) != 0)
        return path;
    path += root;
    while (*path == '/')
        path++;
    size_t custody = strlen(INTAKE_CUSTODY);
    if (w->custody == CONFIG_CUSTODY_RENAME && strncmp(path, INTAKE_CUSTODY "/", custody + 1) == 0)
        path += custody + 1;
    return path;
}

/* ---- The table of files in the works ---- */

static struct intake_file *find_file(struct intake *in, const char *path)
{
    struct intake_file *f;
    HASH_FIND_STR(in->files, path, f);
    return f;
}

static void make_ready(struct intake_file *f)
{
    DL_APPEND(f->intake->watches[f->watch].ready, f);
}

static struct intake_file *add_file(struct intake *in, size_t watch, const char *path)
{
    struct intake_file *f = calloc(1, sizeof *f);
    if (!f || !(f->path = strdup(path))) {
        free(f);
        return NULL;
    }
    f->intake = in;
    f->watch = watch;
    f->fd = -1;
    HASH_ADD_KEYPTR(hh, in->files, f->path, strlen(f->path), f);
    make_ready(f);
    return f;
}

static void batch_step(struct intake_batch *b)
{
    if (--b->left > 0)
        return;
    b->intake->n_batches--;
    trouble_forget(b->intake->env.trouble, &b->waiter);
    if (!b->intake->closing)
        b->done(b->ctx, b->token);
    free(b);
}

static void leave_batch(struct intake_file *f)
{
    struct intake_batch *b = f->batch;
    f->batch = NULL;
    if (b)
        batch_step(b);
}

static void start_ready(struct intake *in)
{
    for (size_t i = 0; i < in->env.config->n_watches; i++) {
        struct intake_watch *w = &in->watches[i];
        while (w->ready && w->n_active < INTAKE_ACTIVE_MAX && !in->closing) {
            struct intake_file *f = w->ready;
            DL_DELETE(w->ready, f);
            w->n_active++;
            intake_file_start(f);
        }
    }
}

static void free_file(struct intake_file *f)
{
    intake_file_clear(f);
    HASH_DEL(f->intake->files, f);
    leave_batch(f);
    trouble_forget(f->intake->env.trouble, &f->waiter);
    free(f->path);
    free(f);
}

bool intake_file_moved(struct intake_file *f)
{
    char *path = f->moved;
    f->moved = NULL;
    if (find_file(f->intake, path)) {
        free(path);
        return false;
    }
    HASH_DEL(f->intake->files, f);
    free(f->path);
    f->path = path;
    HASH_ADD_KEYPTR(hh, f->intake->files, f->path, strlen(f->path), f);
    return true;
}

void intake_file_finish(struct intake_file *f)
{
    struct intake *in = f->intake;
    in->watches[f->watch].n_active--;
    if (f->again && !in->closing) {
        /* What it is now may be another version: from the start, with a new look at the journal. */
        f->again = false;
        intake_file_clear(f);
        leave_batch(f);
        f->known_size = f->compare = false;
        f->replaces = f->file_id = 0;
        f->unchanged_since_ms = 0;
        trouble_forget(in->env.trouble, &f->waiter);
        make_ready(f);
    } else {
        free_file(f);
    }
    start_ready(in);
    maybe_closed(in);
}

/* ---- Waiting to become whole ---- */

static void settle_due(uv_timer_t *timer)
{
    struct intake *in = timer->data;
    uint64_t now = clock_monotonic_ms();
    while (in->settling && in->settling->due_ms <= now) {
        struct intake_file *f = in->settling;
        DL_DELETE(in->settling, f);
        in->n_settling--;
        f->in_settling = false;
        make_ready(f);
    }
    if (in->settling)
        uv_timer_start(&in->timer, settle_due, in->settling->due_ms - now, 0);
    start_ready(in);
}

/* From the end: most are due after those that wait already. */
static void insert_settling(struct intake *in, struct intake_file *f)
{
    struct intake_file *at = in->settling ? in->settling->prev : NULL;
    while (at && at->due_ms > f->due_ms)
        at = at == in->settling ? NULL : at->prev;
    if (at)
        DL_APPEND_ELEM(in->settling, at, f);
    else
        DL_PREPEND(in->settling, f);
}

bool intake_file_settle(struct intake_file *f)
{
    struct intake *in = f->intake;
    const struct config_watch *w = &in->env.config->watches[f->watch];
    uint64_t now = clock_monotonic_ms();
    if (f->unchanged_since_ms == 0)
        f->unchanged_since_ms = now;
    if (now - f->unchanged_since_ms >= w->settle_timeout_ms)
        return false;
    if (in->n_settling >= INTAKE_SETTLING_MAX) {
        in->handler.crowded(f->watch, in->handler.ctx);
        intake_file_finish(f);
        return true;
    }
    /* Less and less often: a change is offered anew by the watch. */
    uint64_t pause = (now - f->unchanged_since_ms) / 2;
    if (pause < w->settle_ms)
        pause = w->settle_ms;
    if (pause < 500)
        pause = 500;
    uint64_t left = w->settle_timeout_ms - (now - f->unchanged_since_ms);
    f->due_ms = now + (pause < left ? pause : left);
    intake_file_clear(f);
    leave_batch(f);
    in->watches[f->watch].n_active--;
    in->n_settling++;
    f->in_settling = true;
    insert_settling(in, f);
    if (in->settling == f)
        uv_timer_start(&in->timer, settle_due, f->due_ms - now, 0);
    start_ready(in);
    maybe_closed(in);
    return true;
}

/* A new event for a file that waits, or is being worked on. */
static void offered_once_more(struct intake_file *f)
{
    if (!f->in_settling) {
        f->again = true;
        return;
    }
    DL_DELETE(f->intake->settling, f);
    f->intake->n_settling--;
    f->in_settling = false;
    make_ready(f);
}

/* ---- Batches ---- */

static void lookup_batch(struct intake_batch *b);

static void lookup_again(struct trouble_waiter *w)
{
    struct intake_batch *b =
        (struct intake_batch *)((char *)w - offsetof(struct intake_batch, waiter));
    lookup_batch(b);
}

static void take_entry(struct intake_batch *b, const struct journal_lookup_entry *e)
{
    struct intake *in = b->intake;
    if (e->seen == JOURNAL_KNOWN) {
        batch_step(b);
        return;
    }
    struct intake_file *f = find_file(in, e->path);
    if (f) {
        if (f->size != e->size || f->mtime_ns != e->mtime_ns || f->in_settling)
            offered_once_more(f);
        batch_step(b);
        return;
    }
    f = add_file(in, b->watch, e->path);
    if (!f) { /* no memory: the next scan offers it again */
        in->handler.crowded(b->watch, in->handler.ctx);
        batch_step(b);
        return;
    }
    f->batch = b;
    f->size = e->size;
    f->mtime_ns = e->mtime_ns;
    f->known_size = true;
    f->entry = *e;
    f->entry.path = f->path;
}

static void batch_looked_up(struct journal_op *op, int status, const struct err *err)
{
    struct intake_batch *b = op->ctx;
    struct intake *in = b->intake;
    if (status != 0 && !in->closing) {
        trouble_wait(in->env.trouble, &b->waiter, err);
        return;
    }
    trouble_over(in->env.trouble, &b->waiter);
    struct journal_lookup_entry *entries = b->entries;
    size_t n = b->n;
    b->entries = NULL;
    b->left++; /* held until the loop below is through */
    for (size_t i = 0; i < n; i++) {
        if (in->closing)
            batch_step(b);
        else
            take_entry(b, &entries[i]);
    }
    for (size_t i = 0; i < n; i++)
        free((char *)entries[i].path);
    free(entries);
    batch_step(b);
    start_ready(in);
    maybe_closed(in);
}

static void lookup_batch(struct intake_batch *b)
{
    b->lookup = (struct journal_lookup){
        .op = {.cb = batch_looked_up, .ctx = b}, .entries = b->entries, .n = b->n};
    journal_lookup(b->intake->env.journal, &b->lookup);
}

void intake_offer(struct intake *in, size_t watch, const struct watch_file *files, size_t n,
                  void (*done)(void *ctx, unsigned token), void *ctx, unsigned token)
{
    struct intake_batch *b = calloc(1, sizeof *b);
    struct journal_lookup_entry *entries = calloc(n + 1, sizeof *entries);
    size_t copied = 0;
    for (; b && entries && copied < n; copied++) {
        entries[copied].path = strdup(files[copied].path);
        entries[copied].size = files[copied].size;
        entries[copied].mtime_ns = files[copied].mtime_ns;
        if (!entries[copied].path)
            break;
    }
    if (!b || !entries) {
        free(b);
        free(entries);
        in->handler.crowded(watch, in->handler.ctx);
        return; /* out of memory: the watch stays as it is until the tree is offered again */
    }
    if (copied < n)
        in->handler.crowded(watch, in->handler.ctx);
    *b = (struct intake_batch){.intake = in,
                               .watch = watch,
                               .entries = entries,
                               .n = copied,
                               .left = copied,
                               .done = done,
                               .ctx = ctx,
                               .token = token,
                               .waiter = {.again = lookup_again}};
    in->n_batches++;
    lookup_batch(b);
}

/* Takes a path into the works; its file, NULL if it is there already (or out of memory). */
static struct intake_file *take_path(struct intake *in, size_t watch, const char *path)
{
    struct intake_file *f = find_file(in, path);
    if (f) {
        offered_once_more(f);
        return NULL;
    }
    f = add_file(in, watch, path);
    if (!f)
        in->handler.crowded(watch, in->handler.ctx);
    return f;
}

void intake_again(struct intake *in, size_t watch, const char *path)
{
    if (in->closing)
        return;
    take_path(in, watch, path);
    start_ready(in);
}

void intake_reroute(struct intake *in, const struct intake_held *held, size_t n,
                    void (*done)(void *ctx, unsigned token), void *ctx, unsigned token)
{
    struct intake_batch *b = in->closing ? NULL : calloc(1, sizeof *b);
    if (!b)
        return;
    /* `left` holds it until the loop is through. */
    *b = (struct intake_batch){
        .intake = in, .left = n + 1, .done = done, .ctx = ctx, .token = token};
    in->n_batches++;
    for (size_t i = 0; i < n; i++) {
        struct intake_file *f = take_path(in, held[i].watch, held[i].path);
        if (f) {
            f->file_id = held[i].file_id;
            f->batch = b;
        } else {
            batch_step(b);
        }
    }
    batch_step(b);
    start_ready(in);
}

size_t intake_pending(const struct intake *in)
{
    return HASH_COUNT(in->files) + in->n_batches;
}

size_t intake_settling(const struct intake *in)
{
    return in->n_settling;
}

enum intake_place intake_find(const struct intake *in, const char *path, char *reason, size_t size)
{
    const struct intake_file *f;
    HASH_FIND_STR(in->files, path, f);
    if (!f)
        return INTAKE_NOT_THERE;
    if (!f->in_settling)
        return INTAKE_WORKING;
    snprintf(reason, size, "%s", f->err.text);
    return INTAKE_SETTLING;
}

/* ---- The end ---- */

static void timer_closed(uv_handle_t *handle)
{
    struct intake *in = handle->data;
    in->timer_closed = true;
    maybe_closed(in);
}

static void maybe_closed(struct intake *in)
{
    if (!in->closing || in->files || in->n_batches > 0 || !in->timer_closed)
        return;
    void (*closed)(void *) = in->closed;
    void *ctx = in->closed_ctx;
    binding_cache_close(in->bindings);
    free(in->watches);
    free(in);
    closed(ctx);
}

void intake_close(struct intake *in, void (*cb)(void *ctx), void *ctx)
{
    in->closing = true;
    in->closed = cb;
    in->closed_ctx = ctx;
    struct intake_file *f, *next;
    for (size_t i = 0; i < in->env.config->n_watches; i++)
        DL_FOREACH_SAFE(in->watches[i].ready, f, next)
        {
            DL_DELETE(in->watches[i].ready, f);
            free_file(f);
        }
    DL_FOREACH_SAFE(in->settling, f, next)
    {
        DL_DELETE(in->settling, f);
        in->n_settling--;
        free_file(f);
    }
    uv_close((uv_handle_t *)&in->timer, timer_closed);
}
