/* dcmferryd: watches drop folders for DICOM files and ferries them to their destinations. See
 * dcmferryd(8). */
#include "app.h"

#include "base/log.h"
#include "worker/job.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each drop folder may have six jobs hang with its mount (pipeline.c); some threads are left then
 * for the others. */
#define POOL_THREADS_PER_WATCH 6
#define POOL_THREADS_BESIDE    3
#define POOL_THREADS_MAX       128
#define FILES_WANTED           65536

static const char usage[] =
    "Usage: dcmferryd [--config FILE] [--check] [--once] [--version]\n"
    "\n"
    "  -c, --config FILE  the configuration (default /etc/dcmferry/dcmferry.yaml)\n"
    "      --check        check the configuration, tell all faults, and exit\n"
    "      --once         deliver what is in the drop folders and exit: 0 if all of it arrived\n"
    "      --version      print the version and exit\n"
    "  -h, --help         this\n";

struct signals {
    struct app *app;
    uv_signal_t term, interrupt, hangup;
};

static void terminate(uv_signal_t *handle, int number)
{
    struct signals *s = handle->data;
    (void)number;
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->interrupt, NULL);
    uv_close((uv_handle_t *)&s->hangup, NULL);
    app_stop(s->app);
}

static void hang_up(uv_signal_t *handle, int number)
{
    struct signals *s = handle->data;
    (void)number;
    app_reload(s->app, NULL, NULL);
}

static void watch_signals(uv_loop_t *loop, struct signals *s)
{
    uv_signal_t *handles[] = {&s->term, &s->interrupt, &s->hangup};
    int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < 3; i++) {
        uv_signal_init(loop, handles[i]);
        handles[i]->data = s;
        uv_signal_start(handles[i], i < 2 ? terminate : hang_up, numbers[i]);
        uv_unref((uv_handle_t *)handles[i]); /* --once ends without a signal */
    }
}

static int tell_faults(const char *path, const struct config_faults *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct config_fault *x = &f->items[i];
        if (x->mark.line > 0)
            fprintf(stderr, "%s:%u:%u: %s\n", path, x->mark.line, x->mark.column, x->text);
        else
            fprintf(stderr, "%s: %s\n", path, x->text);
    }
    fprintf(stderr, "%s: %zu %s\n", path, f->n, f->n == 1 ? "fault" : "faults");
    return 2;
}

/* A share that is mounted late, or a key that is not there yet, may come: whoever restarts us shall
 * try again. What is wrong with the file itself stays wrong. */
static int exit_code_of_fault(const char *path)
{
    struct config *config = NULL;
    struct config_faults faults = {0};
    int rc = config_load(path, false, &config, &faults);
    config_faults_free(&faults);
    config_free(config);
    return rc == 0 ? 1 : 2;
}

static void close_handle(uv_handle_t *handle, void *ctx)
{
    (void)ctx;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Some hundred files of each drop folder may be open at a time. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= FILES_WANTED)
        return;
    limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int serve(const struct app_options *options, struct config *config)
{
    uv_loop_t loop;
    struct signals signals = {0};
    struct err e = {0};
    raise_file_limit();
    /* Most threads allocate next to nothing: an arena each is a waste. */
    mallopt(M_ARENA_MAX, 2);
    size_t threads = config->n_watches * POOL_THREADS_PER_WATCH + POOL_THREADS_BESIDE;
    job_setup(threads < POOL_THREADS_MAX ? (unsigned)threads : POOL_THREADS_MAX);
    if (uv_loop_init(&loop) != 0) {
        fprintf(stderr, "dcmferryd: no event loop\n");
        config_free(config);
        return 1;
    }
    int code = 1;
    int rc = app_start(&signals.app, &loop, options, config, &e);
    if (rc != 0)
        log_error("cannot start", LOG_STR("reason", e.text));
    else
        watch_signals(&loop, &signals);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_walk(&loop, close_handle, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (signals.app)
        code = app_finish(signals.app);
    if (uv_loop_close(&loop) != 0)
        log_debug("handles were left open");
    return rc != 0 ? 1 : code;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
        {"once", no_argument, NULL, 'o'},         {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {0}};
    struct app_options app = {.config_path = "/etc/dcmferry/dcmferry.yaml"};
    bool check = false;
    int c;
    while ((c = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            app.config_path = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'o':
            app.once = true;
            break;
        case 'V':
            printf("dcmferryd %s\n", DCMFERRY_VERSION);
            return 0;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "dcmferryd: unexpected argument: %s\n%s", argv[optind], usage);
        return 2;
    }
    umask(0077);
    signal(SIGPIPE, SIG_IGN);
    struct config *config = NULL;
    struct config_faults faults = {0};
    enum config_paths paths = check ? CONFIG_PATHS_CHECK : CONFIG_PATHS_START;
    if (config_load(app.config_path, paths, &config, &faults) != 0) {
        int code = tell_faults(app.config_path, &faults);
        config_faults_free(&faults);
        return check ? code : exit_code_of_fault(app.config_path);
    }
    config_faults_free(&faults);
    if (check) {
        printf("%s: no faults\n", app.config_path);
        config_free(config);
        return 0;
    }
    return serve(&app, config);
}
