/* The steps of one file, from the table of files in the works to its row in the journal (see
 * intake.h for the way). Each step ends in exactly one of: the next step, intake_file_settle (look
 * again later), intake_file_finish. */
#include "pipeline/intake_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void evaluate(struct intake_file *f);
static void read_header(struct intake_file *f);
static void admit(struct intake_file *f);

void intake_file_clear(struct intake_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
    route_decision_clear(&f->decision);
    free(f->deliveries);
    f->deliveries = NULL;
    free(f->values);
    f->values = NULL;
    free(f->bound_series);
    f->bound_series = NULL;
    free(f->moved);
    f->moved = NULL;
    f->has_header = false;
    f->n_bind = 0;
}

/* The admission failed: what it was to bind is not bound. */
static void unbind(struct intake_file *f)
{
    for (size_t i = 0; i < f->n_bind; i++)
        binding_forget(f->intake->bindings, f->bind[i].key);
    f->n_bind = 0;
}

void intake_file_wait(struct intake_file *f, void (*again)(struct trouble_waiter *w),
                      const struct err *e)
{
    f->waiter.again = again;
    trouble_wait(f->intake->env.trouble, &f->waiter, e);
}

/* The file cannot be taken in as it is: wait while it may become better, else reject it with the
 * reason in f->err. */
static void settle_or_reject(struct intake_file *f)
{
    struct intake *in = f->intake;
    if (in->closing) {
        intake_file_finish(f);
    } else if (intake_file_settle(f)) {
        return;
    } else if (err_class(f->err.code) == ERR_CLASS_PERMANENT) {
        admit(f);
    } else {
        /* Nothing is wrong with the file. */
        log_warning("a file cannot be read for now: it is tried again in a minute",
                    LOG_STR("reason", f->err.text), LOG_PATH("path", f->path));
        in->handler.crowded(f->watch, in->handler.ctx);
        intake_file_finish(f);
    }
}

/* ---- Open ---- */

static void open_failed(struct intake_file *f, int errnum)
{
    if (errnum == ELOOP || errnum == ENXIO || errnum == ENOTDIR || errnum == ESTALE)
        f->status = err_set(&f->err, ERR_VANISHED, "no file stands there any more");
    else
        f->status = err_set_errno(&f->err, errnum, "the file cannot be opened");
}

static void open_work(struct job *job)
{
    struct intake_file *f = intake_file_of_job(job);
    struct stat st;
    f->status = 0;
    f->err = (struct err){0};
    f->fd = open(f->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (f->fd < 0) {
        open_failed(f, errno);
    } else if (fstat(f->fd, &st) != 0) {
        f->status = err_set_errno(&f->err, errno, "the file cannot be looked at");
    } else if (!S_ISREG(st.st_mode)) {
        f->status = err_set(&f->err, ERR_VANISHED, "not a regular file");
    } else {
        f->found_size = (uint64_t)st.st_size;
        f->found_mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    }
}

static void looked_up(struct journal_op *op, int status, const struct err *err);

static void look_up(struct intake_file *f)
{
    f->entry =
        (struct journal_lookup_entry){.path = f->path, .size = f->size, .mtime_ns = f->mtime_ns};
    f->op.lookup =
        (struct journal_lookup){.op = {.cb = looked_up, .ctx = f}, .entries = &f->entry, .n = 1};
    journal_lookup(f->intake->env.journal, &f->op.lookup);
}

static void opened(struct job *job)
{
    struct intake_file *f = intake_file_of_job(job);
    if (f->intake->closing || f->status == ERR_VANISHED) {
        intake_file_finish(f);
        return;
    }
    if (f->status != 0) {
        settle_or_reject(f);
        return;
    }
    if (f->found_size != f->size || f->found_mtime_ns != f->mtime_ns) {
        f->size = f->found_size;
        f->mtime_ns = f->found_mtime_ns;
        f->known_size = false;
        f->unchanged_since_ms = 0;
    }
    if (f->known_size)
        evaluate(f);
    else
        look_up(f);
}

void intake_file_start(struct intake_file *f)
{
    f->job = (struct job){.work = open_work, .done = opened, .mount = pipeline_mount(f->watch)};
    job_submit(f->intake->env.jobs, &f->job);
}

/* ---- What the journal knows of it ---- */

static void look_up_again(struct trouble_waiter *w)
{
    look_up((struct intake_file *)((char *)w - offsetof(struct intake_file, waiter)));
}

static void looked_up(struct journal_op *op, int status, const struct err *err)
{
    struct intake_file *f = op->ctx;
    if (f->intake->closing) {
        intake_file_finish(f);
    } else if (status != 0) {
        intake_file_wait(f, look_up_again, err);
    } else {
        trouble_over(f->intake->env.trouble, &f->waiter);
        f->known_size = true;
        evaluate(f);
    }
}

static void touched(struct journal_op *op, int status, const struct err *err)
{
    (void)status; /* if it failed, the next scan compares again */
    (void)err;
    intake_file_finish(op->ctx);
}

static void compared(struct source *s, int status, size_t size, const struct err *err, void *ctx)
{
    struct intake_file *f = ctx;
    uint8_t sha256[SOURCE_SHA256_SIZE];
    (void)size;
    (void)err;
    bool equal =
        status == 0 && source_sha256(s, sha256) && memcmp(sha256, f->sha256, sizeof sha256) == 0;
    f->source = NULL;
    source_close_free(s, NULL);
    if (f->intake->closing) {
        intake_file_finish(f);
    } else if (equal) {
        f->op.touch = (struct journal_touch){
            .op = {.cb = touched, .ctx = f}, .file_id = f->replaces, .mtime_ns = f->mtime_ns};
        journal_touch(f->intake->env.journal, &f->op.touch);
    } else {
        read_header(f);
    }
}

static void compare_opened(struct source *s, int status, size_t size, const struct err *err,
                           void *ctx)
{
    struct intake_file *f = ctx;
    if (status == 0 && !f->intake->closing && source_hash(s, compared, f) == 0)
        return;
    compared(s, status != 0 ? status : ERR_NOMEM, size, err, ctx);
}

static void evaluate(struct intake_file *f)
{
    const struct journal_lookup_entry *e = &f->entry;
    f->replaces = 0;
    f->compare = false;
    if (f->file_id != 0 && (e->seen != JOURNAL_KNOWN || e->file_id != f->file_id))
        f->file_id = 0; /* another version stands there by now */
    if (e->seen == JOURNAL_KNOWN && (f->file_id == 0 || e->state != FILE_HELD)) {
        intake_file_finish(f);
        return;
    }
    if (e->seen == JOURNAL_ALTERED) {
        f->replaces = e->file_id;
        f->compare = e->has_sha256 && e->old_size == f->size;
        memcpy(f->sha256, e->sha256, sizeof f->sha256);
    }
    if (f->size == 0) {
        err_set(&f->err, ERR_NOT_DICOM, "the file is empty");
        settle_or_reject(f);
    } else if (!f->compare) {
        read_header(f);
    } else if (source_open(&f->source, f->intake->env.jobs, pipeline_mount(f->watch), f->path,
                           f->size, f->mtime_ns, NULL, 0, compare_opened, f) != 0) {
        read_header(f);
    }
}

/* ---- Its header ---- */

static int copy_header(struct intake_file *f, const struct dicom_header *h)
{
    size_t size = 1;
    for (size_t i = 0; i < h->n_values; i++)
        if (h->values[i])
            size += strlen(h->values[i]) + 1;
    char *p = malloc(size);
    if (!p)
        return err_set(&f->err, ERR_NOMEM, "out of memory");
    free(f->values);
    f->values = p;
    f->header = *h;
    for (size_t i = 0; i < h->n_values; i++) {
        if (!h->values[i])
            continue;
        size_t n = strlen(h->values[i]) + 1;
        memcpy(p, h->values[i], n);
        f->header.values[i] = p;
        p += n;
    }
    f->has_header = true;
    return 0;
}

static const char *attribute(uint32_t tag, void *ctx)
{
    const struct intake_file *f = ctx;
    int i = config_tag_index(f->intake->env.config, tag);
    return i >= 0 && (size_t)i < f->header.n_values ? f->header.values[i] : NULL;
}

/* Remembers what the decision binds, unless it is bound already, and to all of it. */
static void bind_routes(struct intake_file *f, const char *key, const char *names, bool more)
{
    struct binding_cache *cache = f->intake->bindings;
    if (!names || !key[0])
        return;
    if (more)
        binding_forget(cache, key);
    if (binding_remember(cache, key, names))
        f->bind[f->n_bind++] = (struct journal_bind){.key = key, .routes = names, .rebind = more};
}

static void find_bindings_again(struct trouble_waiter *w)
{
    struct intake_file *f = intake_file_of_waiter(w);
    if (f->intake->closing)
        intake_file_finish(f);
    else
        intake_file_route(f);
}

/* With the bindings known: the decision and the admission are made in one go, so that the next
 * instance sees the binding. */
static void study_found(struct binding_lookup *l, int status, const char *routes,
                        const struct err *err)
{
    struct intake_file *f = (struct intake_file *)((char *)l - offsetof(struct intake_file, study));
    if (f->intake->closing) {
        intake_file_finish(f);
        return;
    }
    if (status != 0) { /* to guess would part the study */
        intake_file_wait(f, find_bindings_again, err);
        return;
    }
    trouble_over(f->intake->env.trouble, &f->waiter);
    const struct config *c = f->intake->env.config;
    struct template_values values = {.attribute = attribute,
                                     .ctx = f,
                                     .relative_path = intake_relative(intake_watch_of(f), f->path)};
    if (route_decide(c, &values, routes, f->bound_series, &f->decision) != 0) {
        err_set(&f->err, ERR_NOMEM, "out of memory");
        settle_or_reject(f);
        return;
    }
    bool more_study = routes && route_adds(routes, f->decision.bind_study);
    bool more_series = f->bound_series && route_adds(f->bound_series, f->decision.bind_series);
    f->n_bind = 0;
    bind_routes(f, f->study.key, f->decision.bind_study, more_study);
    bind_routes(f, f->series.key, f->decision.bind_series, more_series);
    f->err = (struct err){0};
    admit(f);
}

static void series_found(struct binding_lookup *l, int status, const char *routes,
                         const struct err *err)
{
    struct intake_file *f =
        (struct intake_file *)((char *)l - offsetof(struct intake_file, series));
    if (status != 0) {
        study_found(&f->study, status, NULL, err);
        return;
    }
    free(f->bound_series);
    f->bound_series = routes ? strdup(routes) : NULL;
    if (f->study.key[0])
        binding_find(f->intake->bindings, &f->study);
    else
        study_found(&f->study, 0, NULL, NULL);
}

void intake_file_route(struct intake_file *f)
{
    const struct config *c = f->intake->env.config;
    const struct dicom_header *h = &f->header;
    f->study.cb = study_found;
    f->series.cb = series_found;
    f->study.key[0] = f->series.key[0] = '\0';
    if (h->study_instance_uid[0] && route_has_scope(c, CONFIG_SCOPE_STUDY))
        snprintf(f->study.key, sizeof f->study.key, "study:%s", h->study_instance_uid);
    if (h->series_instance_uid[0] && route_has_scope(c, CONFIG_SCOPE_SERIES))
        snprintf(f->series.key, sizeof f->series.key, "series:%s", h->series_instance_uid);
    if (f->series.key[0])
        binding_find(f->intake->bindings, &f->series);
    else
        series_found(&f->series, 0, NULL, NULL);
}

/* It is whole: now it may be renamed; before, its writer might not find it again. */
static void header_known(struct intake_file *f)
{
    const struct config_watch *w = intake_watch_of(f);
    bool there =
        strncmp(f->path + strlen(w->path), "/" INTAKE_CUSTODY "/", strlen(INTAKE_CUSTODY) + 2) == 0;
    if (w->custody == CONFIG_CUSTODY_RENAME && !there)
        intake_custody_take(f);
    else
        intake_file_route(f);
}

/* A file that was written just now may be DICOM in a moment. */
static bool is_young(const struct intake_file *f)
{
    int64_t age_ms = clock_realtime_ms() - f->mtime_ns / 1000000;
    return age_ms >= 0 && (uint64_t)age_ms < intake_watch_of(f)->settle_ms;
}

static void header_read(struct dicom_read *r, int status, const struct dicom_header *header,
                        const struct err *err)
{
    struct intake_file *f = (struct intake_file *)((char *)r - offsetof(struct intake_file, read));
    close(f->fd);
    f->fd = -1;
    if (f->intake->closing || status == ERR_CANCELED) {
        intake_file_finish(f);
        return;
    }
    if (header && (status == 0 || status == ERR_TRUNCATED || status == ERR_NO_UID))
        status = copy_header(f, header) != 0 ? ERR_NOMEM : status;
    if (status == 0) {
        header_known(f);
        return;
    }
    if (err && status != ERR_NOMEM)
        f->err = *err;
    f->err.code = status;
    if (status == ERR_TRUNCATED || err_class(status) != ERR_CLASS_PERMANENT ||
        (status == ERR_NOT_DICOM && is_young(f)))
        settle_or_reject(f);
    else
        admit(f);
}

static void read_header(struct intake_file *f)
{
    const struct config *c = f->intake->env.config;
    f->read =
        (struct dicom_read){.fd = f->fd, .tags = c->tags, .n_tags = c->n_tags, .cb = header_read};
    dicom_reader_read(f->intake->env.reader, &f->read);
}

/* ---- Into the journal ---- */

static void submit_admission(struct intake_file *f);

static void admit_again(struct trouble_waiter *w)
{
    struct intake_file *f = intake_file_of_waiter(w);
    if (f->intake->closing) {
        unbind(f);
        intake_file_finish(f);
    } else if (f->err.code == 0 && f->decision.fate == ROUTE_HELD) {
        route_decision_clear(&f->decision); /* its study may have been bound meanwhile */
        intake_file_route(f);
    } else {
        submit_admission(f);
    }
}

static void admitted(struct journal_op *op, int status, const struct err *err)
{
    struct intake_file *f = op->ctx;
    struct intake *in = f->intake;
    if (status == 0) {
        trouble_over(in->env.trouble, &f->waiter);
        in->handler.admitted(f->watch, &f->op.admit, in->handler.ctx);
    } else if (err_class(status) == ERR_CLASS_LOCAL && !in->closing) {
        intake_file_wait(f, admit_again, err);
        return;
    } else {
        unbind(f);
        if (!in->closing)
            log_warning("a file could not be journalled; the next scan offers it again",
                        LOG_STR("reason", err->text), LOG_PATH("path", f->path));
    }
    intake_file_finish(f);
}

static void submit_admission(struct intake_file *f)
{
    const struct config *c = f->intake->env.config;
    const struct dicom_header *h = f->has_header ? &f->header : NULL;
    const struct route_decision *d = &f->decision;
    bool rejected = f->err.code != 0 || d->fate == ROUTE_REJECTED;
    bool held = !rejected && d->fate == ROUTE_HELD;
    struct journal_admit *a = &f->op.admit;
    *a = (struct journal_admit){
        .op = {.cb = admitted, .ctx = f},
        .file_id = f->file_id,
        .replaces = f->replaces,
        .watch = c->watches[f->watch].path,
        .path = f->path,
        .size = f->size,
        .mtime_ns = f->mtime_ns,
        .state = rejected ? FILE_REJECTED
                 : held   ? FILE_HELD
                          : FILE_QUEUED,
        .reason = f->err.code != 0 ? f->err.text : d->reason,
        .sop_class_uid = h ? h->sop_class_uid : "",
        .sop_instance_uid = h ? h->sop_instance_uid : "",
        .study_instance_uid = h ? h->study_instance_uid : "",
        .series_instance_uid = h ? h->series_instance_uid : "",
        .transfer_syntax_uid = h ? h->transfer_syntax_uid : "",
    };
    if (a->state == FILE_QUEUED) {
        a->deliveries = f->deliveries;
        a->n_deliveries = d->n;
        a->bindings = f->bind;
        a->n_bindings = f->n_bind;
    }
    journal_admit(f->intake->env.journal, a);
}

/* With f->err set: rejected for that reason; else as the routes decided. */
static void admit(struct intake_file *f)
{
    const struct config *c = f->intake->env.config;
    const struct route_decision *d = &f->decision;
    if (f->file_id != 0 && f->err.code == 0 && d->fate == ROUTE_HELD) {
        intake_file_finish(f); /* held it was, held it stays */
        return;
    }
    if (f->err.code == 0 && d->n > 0) {
        f->deliveries = calloc(d->n, sizeof *f->deliveries);
        if (!f->deliveries) {
            err_set(&f->err, ERR_NOMEM, "out of memory");
            settle_or_reject(f);
            return;
        }
        for (size_t i = 0; i < d->n; i++)
            f->deliveries[i] = (struct journal_new_delivery){
                .destination = c->destinations[d->deliveries[i].destination].name,
                .route = c->routes[d->deliveries[i].route].name,
                .folder = d->deliveries[i].folder,
                .priority = c->routes[d->deliveries[i].route].priority,
            };
    }
    submit_admission(f);
}
