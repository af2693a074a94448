#include "app.h"

#include "api.h"
#include "base/clock.h"
#include "base/fsutil.h"
#include "base/log.h"
#include "control.h"
#include "notify.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_NOT_ALL 3 /* --once: nothing failed, but not all was delivered */
#define ONCE_LOOK_MS 100
#define GRACE_MS     10000 /* beyond shutdown_timeout, for what the timeout itself sets off */

struct app {
    uv_loop_t *loop;
    struct app_options options;
    struct config *config, *next_config, *old_config;
    struct journal *journal;
    struct pipeline *pipeline;
    struct control *control;
    uv_timer_t once_timer, watchdog, deadline;
    struct journal_counts counts;
    bool counting, stopping, drained, reloading, journal_damaged, rebuilding;
    bool reload_again;      /* a SIGHUP came while the file was, or had been, read */
    bool replacing, ending; /* the pipeline is being closed: not to be asked */
    unsigned n_closing;
    int exit_code;
    uv_work_t load;
    struct config_faults faults;
    int load_status, open_status;
    struct err open_err;
    void (*reloaded)(int status, const char *text, void *ctx);
    void *reloaded_ctx;
};

struct journal *app_journal(const struct app *a)
{
    return a->journal;
}

struct pipeline *app_pipeline(const struct app *a)
{
    return a->replacing || a->ending ? NULL : a->pipeline;
}

static void setup_log(const struct config *c)
{
    enum log_format format = c->log_format;
    if (c->log_format_auto)
        format = notify_under_journald() ? LOG_FORMAT_JOURNALD : LOG_FORMAT_HUMAN;
    log_setup(c->log_level, format, c->log_paths);
    if (format == LOG_FORMAT_JOURNALD)
        notify_log_to_journald();
    else
        log_set_sink(NULL, NULL);
}

static void report_opened(const struct journal_opened *o)
{
    if (o->restored)
        log_error("the journal was damaged: it was set aside, the last backup took its place, and "
                  "what is newer is taken in "
                  "again from the drop folders",
                  LOG_STR("set_aside", o->set_aside),
                  LOG_STR("action", "keep the damaged file for inspection"));
    if (o->unclean)
        log_notice("the last run did not end cleanly: the journal is being checked");
    if (o->requeued > 0)
        log_notice("deliveries were under way: the destination is asked before they are sent again",
                   LOG_UINT("deliveries", o->requeued));
}

static void damaged(const struct err *e, void *ctx)
{
    struct app *a = ctx;
    a->journal_damaged = true;
    a->exit_code = 1;
    log_error(
        "the journal is damaged: stopping; the next start sets it aside and takes the last backup",
        LOG_STR("reason", e->text));
    app_stop(a);
}

static void told(const char *text, void *ctx)
{
    char state[300];
    (void)ctx;
    snprintf(state, sizeof state, "STATUS=%s", text);
    notify_state(state);
}

static int open_pipeline(struct app *a, struct err *e)
{
    struct pipeline_options options = {.loop = a->loop,
                                       .config = a->config,
                                       .journal = a->journal,
                                       .dicom_program = a->options.dicom_program,
                                       .rebuilding = a->rebuilding,
                                       .told = told,
                                       .ctx = a};
    return pipeline_open(&a->pipeline, &options, e);
}

/* ---- --once: stop when everything has its fate ---- */

static void look_if_drained(uv_timer_t *timer);

static void counted(struct journal_op *op, int status, const struct err *e)
{
    struct app *a = op->ctx;
    const struct journal_counts *c = &a->counts;
    (void)e;
    a->counting = false;
    if (a->stopping)
        return;
    bool open = status != 0 || c->deliveries[DELIVERY_QUEUED] + c->deliveries[DELIVERY_SENDING] +
                                       c->deliveries[DELIVERY_WAITING] >
                                   0;
    const struct pipeline *p = app_pipeline(a);
    if (open || !p || !pipeline_idle(p)) {
        uv_timer_start(&a->once_timer, look_if_drained, ONCE_LOOK_MS, 0);
        return;
    }
    struct progress_totals t;
    pipeline_totals(p, &t);
    a->drained = true;
    if (c->deliveries[DELIVERY_FAILED] > 0)
        a->exit_code = 1;
    else if (c->files[FILE_HELD] + c->deliveries[DELIVERY_HELD] + t.rejected + t.conflicts +
                 t.vanished >
             0)
        a->exit_code = EXIT_NOT_ALL;
    app_stop(a);
}

static void look_if_drained(uv_timer_t *timer)
{
    struct app *a = timer->data;
    if (a->stopping || a->counting)
        return;
    const struct pipeline *p = app_pipeline(a);
    if (!p || !pipeline_idle(p)) {
        uv_timer_start(&a->once_timer, look_if_drained, ONCE_LOOK_MS, 0);
        return;
    }
    a->counting = true;
    a->counts.op = (struct journal_op){.cb = counted, .ctx = a};
    journal_counts(a->journal, &a->counts);
}

/* ---- The last resort ---- */

static void overdue(uv_timer_t *timer)
{
    struct app *a = timer->data;
    log_error(
        a->stopping
            ? "the end takes too long: ending now. Nothing is lost: the journal is safe at any "
              "moment, and the next start asks the destination where it must"
            : "the reload takes too long: ending now, to be started again. Nothing is lost: the "
              "journal is safe at any moment",
        LOG_STR("action", "look for a drop folder whose mount does not answer"));
    _exit(1);
}

/* The loop itself does not answer any more. */
static void alarm_rang(int number)
{
    static const char text[] =
        "dcmferryd: the end takes too long and the event loop does not answer: ending now; "
        "the journal is safe\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

/* Work on a mount that hangs cannot be cancelled, and what waits for room on a full disk may wait
 * for ever. */
static void set_deadline(struct app *a)
{
    uint64_t ms = a->config->shutdown_timeout_ms + GRACE_MS;
    uv_timer_start(&a->deadline, overdue, ms, 0);
    uv_unref((uv_handle_t *)&a->deadline);
    signal(SIGALRM, alarm_rang);
    alarm((unsigned)((ms + GRACE_MS) / 1000));
}

static void clear_deadline(struct app *a)
{
    uv_timer_stop(&a->deadline);
    alarm(0);
}

static void feed_watchdog(uv_timer_t *timer)
{
    (void)timer;
    notify_state("WATCHDOG=1");
}

/* ---- Start ---- */

static void control_request(struct control_request *r, void *ctx)
{
    api_request(ctx, r);
}

int app_start(struct app **ret, uv_loop_t *loop, const struct app_options *options,
              struct config *config, struct err *e)
{
    struct app *a = calloc(1, sizeof *a);
    if (!a) {
        config_free(config);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    a->loop = loop;
    a->options = *options;
    a->config = config;
    *ret = a;
    setup_log(config);
    struct journal_options journal_options = {
        .folder = config->state, .backup_ms = config->backup_ms, .damaged = damaged, .ctx = a};
    struct journal_opened opened;
    int rc = journal_open(&a->journal, loop, &journal_options, &opened, e);
    if (rc != 0)
        return rc;
    report_opened(&opened);
    a->rebuilding = opened.rebuilding;
    uv_timer_init(loop, &a->once_timer);
    uv_timer_init(loop, &a->watchdog);
    uv_timer_init(loop, &a->deadline);
    a->once_timer.data = a->watchdog.data = a->deadline.data = a;
    rc = open_pipeline(a, e);
    struct control_handler handler = {.request = control_request, .ctx = a};
    if (rc == 0)
        rc = control_open(&a->control, loop, config->control_socket, &handler, e);
    if (rc != 0) {
        app_stop(a);
        return rc;
    }
    if (options->once)
        uv_timer_start(&a->once_timer, look_if_drained, ONCE_LOOK_MS, 0);
    uint64_t watchdog_ms = notify_watchdog_ms();
    if (watchdog_ms > 0)
        uv_timer_start(&a->watchdog, feed_watchdog, watchdog_ms, watchdog_ms);
    log_info("started", LOG_STR("version", DCMFERRY_VERSION),
             LOG_UINT("drop_folders", config->n_watches),
             LOG_UINT("destinations", config->n_destinations),
             LOG_UINT("routes", config->n_routes));
    notify_state("READY=1\nSTATUS=watching");
    return 0;
}

/* ---- Reload ---- */

static void end_reload(struct app *a, int status, const char *text)
{
    a->reloading = false;
    notify_state("READY=1");
    if (a->reloaded)
        a->reloaded(status, text, a->reloaded_ctx);
    a->reloaded = NULL;
    if (a->stopping)
        app_stop(a);
    else if (a->reload_again)
        app_reload(a, NULL, NULL);
}

static void load_work(uv_work_t *work)
{
    struct app *a = work->data;
    a->load_status =
        config_load(a->options.config_path, CONFIG_PATHS_START, &a->next_config, &a->faults);
}

/* It was valid a moment ago and cannot be opened now: back to the old one. */
static void open_old(void *ctx)
{
    struct app *a = ctx;
    struct err e = {0};
    char text[640];
    int rc = a->open_status;
    bool fatal = false;
    a->pipeline = NULL;
    config_free(a->config);
    a->config = a->old_config;
    a->old_config = NULL;
    setup_log(a->config);
    snprintf(text, sizeof text,
             "the new configuration cannot be opened, the old one stays in force: %s",
             a->open_err.text);
    if (!a->stopping) {
        log_error("the new configuration cannot be opened, the old one stays in force",
                  LOG_STR("reason", a->open_err.text));
        if (open_pipeline(a, &e) != 0) {
            log_error("the old configuration cannot be opened again either: stopping",
                      LOG_STR("reason", e.text));
            a->exit_code = 1;
            fatal = true;
        }
    }
    if (!a->stopping)
        clear_deadline(a);
    a->replacing = false;
    end_reload(a, rc, text);
    if (fatal)
        app_stop(a);
}

static void pipeline_replaced(void *ctx)
{
    struct app *a = ctx;
    a->pipeline = NULL;
    a->old_config = a->config;
    a->config = a->next_config;
    a->next_config = NULL;
    setup_log(a->config);
    a->open_err = (struct err){0};
    a->open_status = a->stopping ? ERR_CANCELED : open_pipeline(a, &a->open_err);
    if (a->open_status != 0) {
        if (a->pipeline)
            pipeline_close(a->pipeline, 0, open_old, a);
        else
            open_old(a);
        return;
    }
    clear_deadline(a);
    journal_set_backup(a->journal, a->config->backup_ms);
    a->replacing = false;
    config_free(a->old_config);
    a->old_config = NULL;
    log_notice("the new configuration is in force");
    end_reload(a, 0, "the new configuration is in force");
}

static char *faults_text(const struct app *a)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    fprintf(f, "the new configuration is refused, the old one stays in force:\n");
    for (size_t i = 0; i < a->faults.n; i++)
        if (a->faults.items[i].mark.line > 0)
            fprintf(f, "%s:%u:%u: %s\n", a->options.config_path, a->faults.items[i].mark.line,
                    a->faults.items[i].mark.column, a->faults.items[i].text);
        else
            fprintf(f, "%s: %s\n", a->options.config_path, a->faults.items[i].text);
    fclose(f);
    return text;
}

static void loaded(uv_work_t *work, int status)
{
    struct app *a = work->data;
    (void)status;
    if (a->load_status != 0) {
        char *text = faults_text(a);
        log_error("the new configuration is refused, the old one stays in force",
                  LOG_UINT("faults", a->faults.n), LOG_STR("action", "run dcmferryd --check"));
        config_faults_free(&a->faults);
        end_reload(a, a->load_status, text ? text : "refused");
        free(text);
        return;
    }
    config_faults_free(&a->faults);
    if (strcmp(a->next_config->state, a->config->state) != 0 ||
        strcmp(a->next_config->control_socket, a->config->control_socket) != 0) {
        config_free(a->next_config);
        a->next_config = NULL;
        log_error("`state` and `control` cannot change while running: restart the service; the old "
                  "configuration stays in force");
        end_reload(a, ERR_CONFIG,
                   "`state` and `control` cannot change while running: restart the service; the "
                   "old configuration stays in force");
        return;
    }
    if (!a->stopping && pipeline_stuck(a->pipeline)) {
        static const char text[] =
            "a drop folder does not answer, and files of it are being read: the old configuration "
            "stays in force; reload again once it answers, or restart the service";
        config_free(a->next_config);
        a->next_config = NULL;
        log_error(text);
        end_reload(a, ERR_BUSY, text);
        return;
    }
    if (a->stopping) {
        config_free(a->next_config);
        a->next_config = NULL;
        end_reload(a, ERR_CANCELED, "stopping");
        return;
    }
    a->replacing = true;
    set_deadline(a);
    pipeline_close(a->pipeline, a->config->shutdown_timeout_ms, pipeline_replaced, a);
}

void app_reload(struct app *a, void (*done)(int status, const char *text, void *ctx), void *ctx)
{
    if (a->reloading || a->stopping) {
        a->reload_again = !done;
        if (done)
            done(ERR_BUSY, a->stopping ? "stopping" : "a reload is under way", ctx);
        return;
    }
    a->reloading = true;
    a->reload_again = false;
    a->reloaded = done;
    a->reloaded_ctx = ctx;
    notify_reloading();
    log_info("reloading the configuration");
    a->load.data = a;
    if (uv_queue_work(a->loop, &a->load, load_work, loaded) != 0)
        end_reload(a, ERR_NOMEM, "out of memory");
}

/* ---- Stop: pipeline, then control socket and journal ---- */

static void closed_one(struct app *a)
{
    a->n_closing--;
}

static void control_closed(void *ctx)
{
    closed_one(ctx);
}

static void journal_closed(int status, void *ctx)
{
    struct app *a = ctx;
    if (status == ERR_NOSPACE) {
        log_warning("the disk is full: the journal could not note that it was closed, and is "
                    "checked at the next start");
    } else if (status != 0 && !a->journal_damaged) {
        log_error("the journal could not be closed cleanly", LOG_STR("error", err_text(status)));
        a->exit_code = 1;
    }
    a->journal = NULL;
    closed_one(a);
    log_info("stopped");
}

static void pipeline_closed(void *ctx)
{
    struct app *a = ctx;
    a->pipeline = NULL;
    if (a->control) {
        a->n_closing++;
        control_close(a->control, control_closed, a);
        a->control = NULL;
    }
    if (a->journal) {
        a->n_closing++;
        journal_close(a->journal, journal_closed, a);
    }
    uv_close((uv_handle_t *)&a->once_timer, NULL);
    uv_close((uv_handle_t *)&a->watchdog, NULL);
}

void app_stop(struct app *a)
{
    bool first = !a->stopping;
    a->stopping = true;
    if (first) {
        notify_stopping(a->config->shutdown_timeout_ms + 2 * GRACE_MS);
        log_info("stopping");
        set_deadline(a);
    }
    if (a->reloading || a->n_closing > 0 || a->ending)
        return; /* a reload under way comes back here when it ends */
    a->ending = true;
    if (a->pipeline)
        pipeline_close(a->pipeline, a->config->shutdown_timeout_ms, pipeline_closed, a);
    else
        pipeline_closed(a);
}

int app_finish(struct app *a)
{
    int code = a->exit_code;
    if (a->options.once && !a->drained && code == 0)
        code = 1; /* stopped before the end */
    alarm(0);
    config_free(a->config);
    free(a);
    return code;
}
