/* `custody: rename`: a file that is whole is renamed before it is taken in, so that who cleans up
 * the drop folder does not take it away. Ends in intake_file_route, or in intake_file_finish. */
#include "pipeline/intake_internal.h"

#include "base/fsutil.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* Into the hidden folder on the same file system, under the same relative path, or a numbered one
 * if that is taken; f->moved is where it is then. */
static int take_custody(struct intake_file *f)
{
    const struct config_watch *w = intake_watch_of(f);
    const char *relative = intake_relative(w, f->path);
    for (unsigned i = 0; i < 1000; i++) {
        char number[16] = "", *target;
        if (i > 0)
            snprintf(number, sizeof number, "~%u", i);
        if (asprintf(&target, "%s/" INTAKE_CUSTODY "/%s%s", w->path, relative, number) < 0)
            return err_set(&f->err, ERR_NOMEM, "out of memory");
        int rc = fsutil_rename_into(f->path, target, 0700, &f->err);
        if (rc == 0) {
            f->moved = target;
            return 0;
        }
        free(target);
        if (rc != ERR_EXISTS)
            return rc;
    }
    return err_set(&f->err, ERR_EXISTS, "too many files of one name in the custody folder");
}

static void custody_work(struct job *job)
{
    struct intake_file *f = intake_file_of_job(job);
    struct stat st;
    f->err = (struct err){0};
    f->status = take_custody(f);
    if (f->status == 0 &&
        (lstat(f->moved, &st) != 0 || (uint64_t)st.st_size != f->size ||
         (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec != f->mtime_ns))
        f->status = ERR_CHANGED;
}

static void custody_asked(struct journal_op *op, int status, const struct err *err);

/* A row may stand for the new path: of a file that left it unseen. */
static void ask_custody(struct intake_file *f)
{
    f->entry =
        (struct journal_lookup_entry){.path = f->path, .size = f->size, .mtime_ns = f->mtime_ns};
    f->op.lookup = (struct journal_lookup){
        .op = {.cb = custody_asked, .ctx = f}, .entries = &f->entry, .n = 1};
    journal_lookup(f->intake->env.journal, &f->op.lookup);
}

static void ask_custody_again(struct trouble_waiter *w)
{
    ask_custody(intake_file_of_waiter(w));
}

static void custody_asked(struct journal_op *op, int status, const struct err *err)
{
    struct intake_file *f = op->ctx;
    if (f->intake->closing) {
        intake_file_finish(f);
    } else if (status != 0) {
        intake_file_wait(f, ask_custody_again, err);
    } else {
        trouble_over(f->intake->env.trouble, &f->waiter);
        if (f->entry.seen != JOURNAL_UNKNOWN && f->entry.file_id != f->file_id)
            f->replaces = f->entry.file_id;
        intake_file_route(f);
    }
}

static void custody_again(struct trouble_waiter *w)
{
    struct intake_file *f = intake_file_of_waiter(w);
    if (f->intake->closing)
        intake_file_finish(f);
    else
        intake_custody_take(f);
}

static void custody_taken(struct job *job)
{
    struct intake_file *f = intake_file_of_job(job);
    struct intake_watch *w = &f->intake->watches[f->watch];
    bool ours = !f->moved || intake_file_moved(f);
    if (f->intake->closing || f->status == ERR_VANISHED || !ours) {
        intake_file_finish(f);
    } else if (f->status == 0) {
        ask_custody(f);
    } else if (f->status == ERR_CHANGED) {
        f->again = true; /* another version came in between: from the start */
        intake_file_finish(f);
    } else if (err_class(f->status) == ERR_CLASS_LOCAL) {
        intake_file_wait(f, custody_again, &f->err);
    } else {
        if (!w->told_custody)
            log_warning("files of a drop folder cannot be taken into custody and are read where "
                        "they are: see dcmferry check",
                        LOG_UINT("watch", (uint64_t)f->watch + 1), LOG_STR("reason", f->err.text),
                        LOG_PATH("path", f->path));
        w->told_custody = true;
        intake_file_route(f);
    }
}

void intake_custody_take(struct intake_file *f)
{
    f->job = (struct job){
        .work = custody_work, .done = custody_taken, .mount = pipeline_mount(f->watch)};
    job_submit(f->intake->env.jobs, &f->job);
}
