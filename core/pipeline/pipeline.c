#include "pipeline/pipeline.h"

#include "base/log.h"
#include "pipeline/disposal.h"
#include "pipeline/held.h"
#include "pipeline/intake.h"
#include "pipeline/retention.h"
#include "pipeline/schedule.h"
#include "pipeline/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOBS_PER_MOUNT  6
#define CROWDED_MS      60000 /* a tree that could not be taken in whole is offered again after that */
#define REBUILD_LOOK_MS 250
#define WATCH_CLOSE_MS  2000
#define NEVER_MS        (365ULL * 24 * 60 * 60 * 1000)

/* A drop folder, or the custody folder in it. */
struct pipeline_watch {
    struct pipeline *pipeline;
    size_t index;
    struct watch *watch;
    bool scanned, gone;
    struct unread unread;
};

struct pipeline {
    struct pipeline_env env;
    struct intake *intake;
    struct held *held;
    struct disposal *disposal;
    struct sweep *sweep;
    struct retention *retention;
    struct progress *progress;
    struct schedule **schedules;    /* one a destination */
    struct pipeline_watch *watches; /* the configured ones, then the custody folders */
    size_t n_watches, n_scanned;
    void (*told)(const char *text, void *ctx);
    void *told_ctx;
    bool rebuilding;
    uint64_t rebuild_ms; /* until the next look whether it is */
    struct journal_rebuilt rebuilt;
    unsigned n_calls; /* of the journal or the pool, not yet called back */
    uv_timer_t crowded, rebuild;
    bool closing;
    unsigned n_closing; /* parts that are not yet closed */
    uint64_t deadline_ms;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

/* ---- Intake's and schedules' news ---- */

static void look_soon_if_rebuilt(struct pipeline *p);
static void close_next_stage(struct pipeline *p);

static void admitted(size_t watch, const struct journal_admit *a, void *ctx)
{
    struct pipeline *p = ctx;
    const struct config *c = p->env.config;
    progress_admitted(p->progress, a);
    if (p->closing)
        return;
    look_soon_if_rebuilt(p);
    for (size_t i = 0; i < a->n_deliveries; i++)
        for (size_t d = 0; d < c->n_destinations; d++)
            if (strcmp(c->destinations[d].name, a->deliveries[i].destination) == 0)
                schedule_kick(p->schedules[d]);
    bool rejected = a->state == FILE_REJECTED;
    if ((rejected || a->file_delivered) && disposal_wanted(&c->watches[watch], rejected))
        disposal_file(p->disposal, watch, a->file_id, a->path, a->size, a->mtime_ns, rejected);
    if (a->n_bindings > 0 && a->study_instance_uid[0])
        held_route(p->held, a->study_instance_uid);
}

static size_t watch_of_path(const struct config *c, const char *path)
{
    size_t i = 0;
    while (i < c->n_watches && strcmp(c->watches[i].path, path) != 0)
        i++;
    return i;
}

static void settled(const struct schedule_outcome *o, void *ctx)
{
    struct pipeline *p = ctx;
    const struct config *c = p->env.config;
    const struct journal_delivery_row *row = o->row;
    progress_outcome(p->progress, o);
    size_t watch = watch_of_path(c, row->watch);
    if (o->file_delivered && !p->closing && watch < c->n_watches &&
        disposal_wanted(&c->watches[watch], false))
        disposal_file(p->disposal, watch, row->file_id, row->path, row->size, row->mtime_ns, false);
}

static void changed(const struct journal_delivery_row *row, void *ctx)
{
    struct pipeline *p = ctx;
    size_t watch = watch_of_path(p->env.config, row->watch);
    if (!p->closing && watch < p->env.config->n_watches)
        intake_again(p->intake, watch, row->path);
}

static void offer_again(uv_timer_t *timer)
{
    struct pipeline *p = timer->data;
    pipeline_rescan(p);
}

static void crowded(size_t watch, void *ctx)
{
    struct pipeline *p = ctx;
    (void)watch;
    if (!p->closing && !uv_is_active((uv_handle_t *)&p->crowded))
        uv_timer_start(&p->crowded, offer_again, CROWDED_MS, 0);
}

/* ---- Watches ---- */

static void batch_done(void *ctx, unsigned token)
{
    struct pipeline_watch *w = ctx;
    if (w->watch)
        watch_batch_done(w->watch, token);
    look_soon_if_rebuilt(w->pipeline);
}

static void batch(struct watch *watch, unsigned token, const struct watch_file *files, size_t n,
                  void *ctx)
{
    struct pipeline_watch *w = ctx;
    (void)watch;
    if (n > 0)
        roots_learn(w->pipeline->env.roots, w->index, files[0].dev);
    for (size_t i = 0; i < n && w->unread.n > 0; i++)
        unread_read(&w->unread, files[i].path);
    intake_offer(w->pipeline->intake, w->index, files, n, batch_done, w, token);
}

static void rebuilt(struct journal_op *op, int status, const struct err *e)
{
    struct pipeline *p = op->ctx;
    p->n_calls--;
    if (status != 0)
        log_warning("the journal cannot note that it is rebuilt: the next start says it again",
                    LOG_STR("reason", e->text));
    else
        log_notice("the journal is rebuilt from the drop folders");
    if (p->closing)
        close_next_stage(p);
}

/* Whether all that stood in the drop folders has its row. */
static bool all_taken_in(const struct pipeline *p)
{
    for (size_t i = 0; i < p->n_watches; i++)
        if (!p->watches[i].scanned || !watch_idle(p->watches[i].watch) ||
            watch_settling(p->watches[i].watch) > 0)
            return false;
    return intake_pending(p->intake) == 0;
}

/* Not when the scans end: what they found has yet to settle and to be read, and is taken in as
 * uncertain only until the journal is told. Less and less often while nothing happens: a mount may
 * hang for days. */
static void look_if_rebuilt(uv_timer_t *timer)
{
    struct pipeline *p = timer->data;
    if (!all_taken_in(p)) {
        p->rebuild_ms *= 2;
        uv_timer_start(timer, look_if_rebuilt, p->rebuild_ms, 0);
        return;
    }
    p->rebuilding = false;
    p->n_calls++;
    p->rebuilt.op = (struct journal_op){.cb = rebuilt, .ctx = p};
    journal_rebuilt(p->env.journal, &p->rebuilt);
}

/* Something was found, or taken in. */
static void look_soon_if_rebuilt(struct pipeline *p)
{
    if (!p->rebuilding || p->closing || p->n_scanned < p->n_watches ||
        p->rebuild_ms == REBUILD_LOOK_MS)
        return;
    p->rebuild_ms = REBUILD_LOOK_MS;
    uv_timer_start(&p->rebuild, look_if_rebuilt, p->rebuild_ms, 0);
}

static void scan_done(struct pipeline_watch *w)
{
    struct pipeline *p = w->pipeline;
    if (!w->scanned) {
        w->scanned = true;
        p->n_scanned++;
    }
    look_soon_if_rebuilt(p);
    sweep_start(p->sweep, w->index);
}

static void notice(struct watch *watch, enum watch_notice what, const char *path, uint64_t n,
                   void *ctx)
{
    struct pipeline_watch *w = ctx;
    uint64_t number = (uint64_t)w->index + 1;
    (void)watch;
    switch (what) {
    case WATCH_NOTICE_SCAN_DONE:
        log_debug("drop folder scanned", LOG_UINT("watch", number), LOG_UINT("files", n));
        scan_done(w);
        break;
    case WATCH_NOTICE_OVERFLOW:
        log_notice("events of a drop folder were lost: scanning it again",
                   LOG_UINT("watch", number));
        break;
    case WATCH_NOTICE_NO_WATCHES:
        log_warning(
            "the limit of inotify watches is reached: the rest of the drop folder is polled (raise "
            "fs.inotify.max_user_watches)",
            LOG_UINT("watch", number), LOG_UINT("folders", n));
        break;
    case WATCH_NOTICE_UNREADABLE:
        log_warning("something in a drop folder cannot be read: check its owner and mode "
                    "(`dcmferry status` names it)",
                    LOG_UINT("watch", number), LOG_PATH("path", path));
        unread_add(&w->unread, path);
        break;
    case WATCH_NOTICE_GONE:
        w->gone = true;
        log_error("a drop folder is gone or does not answer: looking for it",
                  LOG_UINT("watch", number), LOG_PATH("path", path));
        break;
    case WATCH_NOTICE_BACK:
        w->gone = false;
        log_notice("a drop folder is back", LOG_UINT("watch", number), LOG_PATH("path", path));
        break;
    case WATCH_NOTICE_REMOVED: /* the sweep, or the sending, finds out what else it means */
        unread_gone(&w->unread, path);
        break;
    }
}

static int open_watch(struct pipeline *p, size_t index, const char *path, struct err *e)
{
    static const enum watch_mode modes[] = {[CONFIG_WATCH_AUTO] = WATCH_MODE_AUTO,
                                            [CONFIG_WATCH_INOTIFY] = WATCH_MODE_INOTIFY,
                                            [CONFIG_WATCH_POLL] = WATCH_MODE_POLL};
    const struct config_watch *c = &p->env.config->watches[index];
    struct pipeline_watch *w = &p->watches[p->n_watches];
    *w = (struct pipeline_watch){.pipeline = p, .index = index};
    bool custody = path != c->path;
    struct watch_options options = {
        .path = path,
        .silent = c->silent,
        .mode = modes[c->mode],
        .recursive = c->recursive,
        .follow_symlinks = c->follow_symlinks,
        .settle_ms = c->settle_ms,
        .poll_ms = c->poll_ms,
        .rescan_ms = c->rescan_ms,
        .include = (const char *const *)c->include,
        .n_include = c->n_include,
        .exclude = (const char *const *)c->exclude,
        .n_exclude = c->n_exclude,
    };
    /* What lies there was chosen before, and only we put files there: what a crash left is found at
     * the start, the rest is for the safety net. */
    if (custody)
        options = (struct watch_options){
            .path = path,
            .make = true,
            .silent = c->silent,
            .mode = WATCH_MODE_POLL,
            .recursive = true,
            .poll_ms = c->rescan_ms > 0 ? c->rescan_ms : NEVER_MS,
        };
    struct watch_handler handler = {.batch = batch, .notice = notice, .ctx = w};
    int rc = watch_open(&w->watch, p->env.loop, &options, &handler, e);
    if (rc == 0)
        p->n_watches++;
    return rc;
}

static int open_watches(struct pipeline *p, struct err *e)
{
    const struct config *c = p->env.config;
    p->watches = calloc(2 * c->n_watches + 1, sizeof *p->watches);
    if (!p->watches)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = 0;
    for (size_t i = 0; i < c->n_watches && rc == 0; i++)
        rc = open_watch(p, i, c->watches[i].path, e);
    for (size_t i = 0; i < c->n_watches && rc == 0; i++) {
        char *custody;
        if (c->watches[i].custody != CONFIG_CUSTODY_RENAME)
            continue;
        if (asprintf(&custody, "%s/" INTAKE_CUSTODY, c->watches[i].path) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        rc = open_watch(p, i, custody, e);
        free(custody);
    }
    return rc;
}

/* ---- Open ---- */

static int open_schedules(struct pipeline *p, struct err *e)
{
    const struct config *c = p->env.config;
    struct schedule_handler handler = {.settled = settled, .changed = changed, .ctx = p};
    p->schedules = calloc(c->n_destinations + 1, sizeof(struct schedule *));
    if (!p->schedules)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < c->n_destinations; i++) {
        int rc = schedule_open(&p->schedules[i], &p->env, &c->destinations[i], &handler, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void told(const char *text, void *ctx)
{
    struct pipeline *p = ctx;
    if (p->told)
        p->told(text, p->told_ctx);
}

static void why(char *text, size_t size, void *ctx)
{
    const struct pipeline *p = ctx;
    size_t used = 0;
    for (size_t i = 0; !p->closing && i < p->env.config->n_destinations && used < size; i++) {
        const char *reason = schedule_why(p->schedules[i]);
        int n = reason ? snprintf(text + used, size - used, "%s%s: %s", used > 0 ? "; " : "",
                                  p->env.config->destinations[i].name, reason)
                       : 0;
        used += n > 0 ? (size_t)n : 0;
    }
}

static int open_parts(struct pipeline *p, const struct pipeline_options *o, struct err *e)
{
    struct intake_handler handler = {.admitted = admitted, .crowded = crowded, .ctx = p};
    int rc = trouble_open(&p->env.trouble, o->loop);
    if (rc == 0)
        rc = roots_open(&p->env.roots, o->config->n_watches);
    if (rc == 0)
        rc = job_queue_open(&p->env.jobs, o->loop, JOBS_PER_MOUNT);
    if (rc != 0)
        return err_set(e, rc, "%s", err_text(rc));
    rc = dicom_reader_open(&p->env.reader, o->loop, o->dicom_program, o->config->workers, e);
    if (rc != 0)
        return rc;
    struct progress_handler progress = {.why = why, .told = told, .ctx = p};
    if ((rc = progress_open(&p->progress, &p->env, &progress)) != 0 ||
        (rc = disposal_open(&p->disposal, &p->env)) != 0 ||
        (rc = sweep_open(&p->sweep, &p->env)) != 0 ||
        (rc = retention_open(&p->retention, &p->env)) != 0 ||
        (rc = intake_open(&p->intake, &p->env, &handler)) != 0 ||
        (rc = held_open(&p->held, &p->env, p->intake)) != 0)
        return err_set(e, rc, "%s", err_text(rc));
    rc = open_schedules(p, e);
    return rc == 0 ? open_watches(p, e) : rc;
}

int pipeline_open(struct pipeline **ret, const struct pipeline_options *options, struct err *e)
{
    struct pipeline *p = calloc(1, sizeof *p);
    *ret = p;
    if (!p)
        return err_set(e, ERR_NOMEM, "out of memory");
    p->env = (struct pipeline_env){
        .loop = options->loop, .config = options->config, .journal = options->journal};
    uv_timer_init(options->loop, &p->crowded);
    uv_timer_init(options->loop, &p->rebuild);
    p->crowded.data = p->rebuild.data = p;
    p->told = options->told;
    p->told_ctx = options->ctx;
    int rc = open_parts(p, options, e);
    if (rc != 0)
        return rc;
    p->rebuilding = options->rebuilding;
    disposal_resume(p->disposal);
    held_route(p->held, NULL);
    for (size_t i = 0; i < options->config->n_destinations; i++)
        schedule_kick(p->schedules[i]);
    return 0;
}

/* ---- Questions and orders ---- */

bool pipeline_idle(const struct pipeline *p)
{
    for (size_t i = 0; i < p->env.config->n_destinations; i++)
        if (schedule_in_flight(p->schedules[i]) > 0)
            return false;
    return all_taken_in(p) && !p->rebuilding && disposal_pending(p->disposal) == 0 &&
           p->n_calls == 0 && held_pending(p->held) == 0;
}

void pipeline_kick(struct pipeline *p)
{
    for (size_t i = 0; i < p->env.config->n_destinations; i++) {
        dest_poke(schedule_dest(p->schedules[i]));
        schedule_kick(p->schedules[i]);
    }
}

void pipeline_rescan(struct pipeline *p)
{
    disposal_resume(p->disposal);
    for (size_t i = 0; i < p->n_watches; i++)
        watch_rescan(p->watches[i].watch);
}

const struct config *pipeline_config(const struct pipeline *p)
{
    return p->env.config;
}

struct dest *pipeline_dest(const struct pipeline *p, size_t index)
{
    return schedule_dest(p->schedules[index]);
}

size_t pipeline_in_flight(const struct pipeline *p, size_t index)
{
    return schedule_in_flight(p->schedules[index]);
}

void pipeline_totals(const struct pipeline *p, struct progress_totals *ret)
{
    progress_get(p->progress, ret);
}

void pipeline_intake(const struct pipeline *p, size_t *ret_pending, size_t *ret_settling)
{
    *ret_pending = intake_pending(p->intake);
    *ret_settling = intake_settling(p->intake);
}

struct question {
    struct pipeline *pipeline;
    where_cb cb;
    void *ctx;
};

static bool question_present(size_t watch, void *ctx)
{
    const struct question *q = ctx;
    return pipeline_watch_present(q->pipeline, watch);
}

static const struct intake *question_intake(void *ctx)
{
    const struct question *q = ctx;
    return q->pipeline->closing ? NULL : q->pipeline->intake;
}

static void answered(const char *state, const char *text, void *ctx)
{
    struct question *q = ctx;
    struct pipeline *p = q->pipeline;
    q->cb(state, text, q->ctx);
    free(q);
    p->n_calls--;
    if (p->closing)
        close_next_stage(p);
}

int pipeline_where(struct pipeline *p, const char *path, where_cb cb, void *ctx)
{
    struct question *q = malloc(sizeof *q);
    if (!q)
        return ERR_NOMEM;
    *q = (struct question){.pipeline = p, .cb = cb, .ctx = ctx};
    const struct where_handler handler = {
        .present = question_present, .intake = question_intake, .cb = answered, .ctx = q};
    int rc = where_ask(&p->env, path, &handler);
    if (rc == 0)
        p->n_calls++;
    else
        free(q);
    return rc;
}

const char *pipeline_trouble(const struct pipeline *p)
{
    return trouble_text(p->env.trouble);
}

bool pipeline_stuck(const struct pipeline *p)
{
    for (size_t i = 0; i < p->n_watches; i++) {
        size_t watch = p->watches[i].index;
        if (!p->watches[i].gone)
            continue;
        if (job_queue_pending_of(p->env.jobs, pipeline_mount(watch)) > 0)
            return true;
        for (size_t d = 0; d < p->env.config->n_destinations; d++)
            if (schedule_sends_from(p->schedules[d], watch))
                return true;
    }
    return false;
}

bool pipeline_watch_present(const struct pipeline *p, size_t index)
{
    return !p->watches[index].gone;
}

const struct unread *pipeline_watch_unread(const struct pipeline *p, size_t index)
{
    return &p->watches[index].unread;
}

/* ---- Close: each stage ends before the one it rests on ---- */

static void part_closed(void *ctx)
{
    struct pipeline *p = ctx;
    p->n_closing--;
    close_next_stage(p);
}

static void timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

static void free_pipeline(struct pipeline *p)
{
    void (*closed)(void *) = p->closed;
    void *ctx = p->closed_ctx;
    trouble_close(p->env.trouble);
    roots_close(p->env.roots);
    if (p->env.jobs)
        job_queue_close(p->env.jobs);
    free(p->schedules);
    free(p->watches);
    free(p);
    closed(ctx);
}

/* Takes a part out of the pipeline and closes it, if it is there. */
#define CLOSE_PART(part, close_call)                                                               \
    do {                                                                                           \
        if (part) {                                                                                \
            p->n_closing++;                                                                        \
            close_call;                                                                            \
            (part) = NULL;                                                                         \
        }                                                                                          \
    } while (0)

static void close_next_stage(struct pipeline *p)
{
    if (p->n_closing > 0 || p->n_calls > 0)
        return;
    p->n_closing++; /* a part may close at once */
    bool first = p->intake || p->n_watches > 0;
    if (first) {
        for (size_t i = 0; i < p->n_watches; i++) {
            unread_clear(&p->watches[i].unread);
            CLOSE_PART(p->watches[i].watch,
                       watch_close(p->watches[i].watch, WATCH_CLOSE_MS, part_closed, p));
        }
        p->n_watches = 0;
        CLOSE_PART(p->intake, intake_close(p->intake, part_closed, p));
        CLOSE_PART(p->held, held_close(p->held, part_closed, p));
        for (size_t i = 0; p->schedules && i < p->env.config->n_destinations; i++)
            CLOSE_PART(p->schedules[i],
                       schedule_close(p->schedules[i], p->deadline_ms, part_closed, p));
    } else if (p->disposal || p->sweep || p->retention || p->progress) {
        CLOSE_PART(p->disposal, disposal_close(p->disposal, part_closed, p));
        CLOSE_PART(p->sweep, sweep_close(p->sweep, part_closed, p));
        CLOSE_PART(p->retention, retention_close(p->retention, part_closed, p));
        CLOSE_PART(p->progress, progress_close(p->progress, part_closed, p));
    } else if (p->env.reader) {
        CLOSE_PART(p->env.reader, dicom_reader_close(p->env.reader, part_closed, p));
    } else {
        free_pipeline(p);
        return;
    }
    p->n_closing--;
    close_next_stage(p);
}

void pipeline_close(struct pipeline *p, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx)
{
    p->closing = true;
    p->deadline_ms = deadline_ms;
    p->closed = cb;
    p->closed_ctx = ctx;
    p->n_closing += 2;
    uv_close((uv_handle_t *)&p->crowded, timer_closed);
    uv_close((uv_handle_t *)&p->rebuild, timer_closed);
}
