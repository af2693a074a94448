/* The steps of one file, from the table of files in the works to its row in the journal (see
 * intake.h for the way). Each step ends in exactly one of: the next step, intake_file_settle (look
 * again later), intake_file_finish. */
#include "pipeline/intake_internal.h"

#include "base/clock.h"
#include "base/fsutil.h"
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

static const struct config_watch *watch_of(const struct intake_file *f)
{
    return &f->intake->env.config->watches[f->watch];
}

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
    f->has_header = false;
    f->new_study = f->new_series = false;
}

/* The admission failed: what it was to bind is not bound. */
static void unbind(struct intake_file *f)
{
    if (f->new_study)
        binding_forget(f->intake->bindings, f->study.key);
    if (f->new_series)
        binding_forget(f->intake->bindings, f->series.key);
}

/* The file cannot be taken in as it is: wait while it may become better, else reject it with the
 * reason in f->err. */
static void settle_or_reject(struct intake_file *f)
{
    if (f->intake->closing) {
        intake_file_finish(f);
        return;
    }
    if (!intake_file_settle(f))
        admit(f);
}

/* ---- Open ---- */

/* Into the hidden folder on the same file system, under the same relative path, or a numbered one
 * if that is taken. */
static int take_custody(struct intake_file *f, struct err *e)
{
    const struct config_watch *w = watch_of(f);
    const char *relative = intake_relative(w, f->path);
    char *target = NULL;
    if (strncmp(f->path + strlen(w->path), "/" INTAKE_CUSTODY "/", strlen(INTAKE_CUSTODY) + 2) == 0)
        return 0; /* it is there already: left over from a crash */
    for (unsigned i = 0; i < 1000; i++) {
        char number[16] = "";
        if (i > 0)
            snprintf(number, sizeof number, "~%u", i);
        free(target);
        if (asprintf(&target, "%s/" INTAKE_CUSTODY "/%s%s", w->path, relative, number) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        char *slash = strrchr(target, '/');
        *slash = '\0';
        int rc = fsutil_mkdirs(target, 0700, e);
        *slash = '/';
        if (rc == 0)
            rc = fsutil_rename_new(f->path, target, e);
        if (rc == 0) {
            f->status = 1; /* moved: the table is rekeyed on the loop */
            f->job.data = target;
            return 0;
        }
        if (rc != ERR_EXISTS) {
            free(target);
            return rc;
        }
    }
    free(target);
    return err_set(e, ERR_EXISTS, "too many files of one name in the custody folder");
}

static void open_work(struct job *job)
{
    struct intake_file *f = (struct intake_file *)((char *)job - offsetof(struct intake_file, job));
    struct stat st;
    f->status = 0;
    f->job.data = NULL;
    f->err = (struct err){0};
    if (watch_of(f)->custody == CONFIG_CUSTODY_RENAME && take_custody(f, &f->err) != 0) {
        f->status = f->err.code;
        return;
    }
    const char *path = f->job.data ? f->job.data : f->path;
    f->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (f->fd < 0) {
        f->status = err_set_errno(&f->err, errno, "the file cannot be opened");
    } else if (fstat(f->fd, &st) != 0) {
        f->status = err_set_errno(&f->err, errno, "the file cannot be looked at");
    } else if (!S_ISREG(st.st_mode)) {
        f->status = err_set(&f->err, ERR_VANISHED, "not a regular file");
    } else {
        int64_t mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        if ((uint64_t)st.st_size != f->size || mtime_ns != f->mtime_ns || f->job.data) {
            f->size = (uint64_t)st.st_size;
            f->mtime_ns = mtime_ns;
            f->known_size = false;
            f->unchanged_since_ms = 0;
        }
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
    struct intake_file *f = (struct intake_file *)((char *)job - offsetof(struct intake_file, job));
    if (job->data) {
        HASH_DEL(f->intake->files, f);
        free(f->path);
        f->path = job->data;
        HASH_ADD_KEYPTR(hh, f->intake->files, f->path, strlen(f->path), f);
        f->status = f->fd >= 0 ? 0 : f->err.code;
    }
    if (f->intake->closing || f->status == ERR_VANISHED) {
        intake_file_finish(f);
    } else if (f->status != 0) {
        settle_or_reject(f);
    } else if (!f->known_size) {
        look_up(f);
    } else {
        evaluate(f);
    }
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
        f->waiter.again = look_up_again;
        trouble_wait(f->intake->env.trouble, &f->waiter, err);
    } else {
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
    if (status != 0)
        log_warning("a study's binding cannot be read",
                    LOG_STR("study", f->header.study_instance_uid), LOG_STR("reason", err->text));
    struct template_values values = {
        .attribute = attribute, .ctx = f, .relative_path = intake_relative(watch_of(f), f->path)};
    if (route_decide(f->intake->env.config, &values, routes, f->bound_series, &f->decision) != 0) {
        err_set(&f->err, ERR_NOMEM, "out of memory");
        settle_or_reject(f);
        return;
    }
    if (f->decision.bind_study && f->study.key[0])
        f->new_study = binding_remember(f->intake->bindings, f->study.key, f->decision.bind_study);
    if (f->decision.bind_series && f->series.key[0])
        f->new_series =
            binding_remember(f->intake->bindings, f->series.key, f->decision.bind_series);
    f->err = (struct err){0};
    admit(f);
}

static void series_found(struct binding_lookup *l, int status, const char *routes,
                         const struct err *err)
{
    struct intake_file *f =
        (struct intake_file *)((char *)l - offsetof(struct intake_file, series));
    (void)err;
    f->bound_series = status == 0 && routes ? strdup(routes) : NULL;
    if (f->study.key[0])
        binding_find(f->intake->bindings, &f->study);
    else
        study_found(&f->study, 0, NULL, NULL);
}

static void find_bindings(struct intake_file *f)
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

/* A file that was written just now may be DICOM in a moment. */
static bool is_young(const struct intake_file *f)
{
    int64_t age_ms = clock_realtime_ms() - f->mtime_ns / 1000000;
    return age_ms >= 0 && (uint64_t)age_ms < watch_of(f)->settle_ms;
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
        find_bindings(f);
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
    struct intake_file *f =
        (struct intake_file *)((char *)w - offsetof(struct intake_file, waiter));
    if (f->intake->closing) {
        unbind(f);
        intake_file_finish(f);
    } else {
        submit_admission(f);
    }
}

static void admitted(struct journal_op *op, int status, const struct err *err)
{
    struct intake_file *f = op->ctx;
    struct intake *in = f->intake;
    if (status == 0) {
        trouble_over(in->env.trouble);
        in->handler.admitted(f->watch, &f->op.admit, in->handler.ctx);
    } else if (err_class(status) == ERR_CLASS_LOCAL && !in->closing) {
        f->waiter.again = admit_again;
        trouble_wait(in->env.trouble, &f->waiter, err);
        return;
    } else {
        unbind(f);
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
        if (f->new_study) {
            a->binding_key = f->study.key;
            a->binding_routes = d->bind_study;
        } else if (f->new_series) {
            a->binding_key = f->series.key;
            a->binding_routes = d->bind_series;
        }
    }
    journal_admit(f->intake->env.journal, a);
}

/* With f->err set: rejected for that reason; else as the routes decided. */
static void admit(struct intake_file *f)
{
    const struct config *c = f->intake->env.config;
    const struct route_decision *d = &f->decision;
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
