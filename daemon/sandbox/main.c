#include "base/log.h"
#include "sandbox/accounts.h"
#include "sandbox/ls.h"
#include "sandbox/sandbox.h"
#include "sandbox/server_http.h"
#include "sandbox/server_ws.h"
#include "sandbox/sessions.h"
#include "sandbox/upload.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_STEP_MS 10

enum {
    OPT_STATE = 256,
    OPT_LISTEN,
    OPT_PORT,
    OPT_ACCOUNT_KEY,
    OPT_API_KEY,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_TLS_CLIENT_CA,
    OPT_USER,
    OPT_INSTITUTION,
    OPT_DISCARD,
    OPT_NO_FSYNC,
    OPT_PERMISSIVE,
    OPT_FAULT,
    OPT_WORKERS,
    OPT_DICOM_PROGRAM,
    OPT_LOG_LEVEL,
    OPT_LOG_FORMAT,
    OPT_VERSION,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"state", required_argument, NULL, OPT_STATE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"port", required_argument, NULL, OPT_PORT},
    {"account-key", required_argument, NULL, OPT_ACCOUNT_KEY},
    {"api-key", required_argument, NULL, OPT_API_KEY},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"tls-client-ca", required_argument, NULL, OPT_TLS_CLIENT_CA},
    {"user", required_argument, NULL, OPT_USER},
    {"institution", required_argument, NULL, OPT_INSTITUTION},
    {"discard", no_argument, NULL, OPT_DISCARD},
    {"no-fsync", no_argument, NULL, OPT_NO_FSYNC},
    {"permissive", no_argument, NULL, OPT_PERMISSIVE},
    {"fault", required_argument, NULL, OPT_FAULT},
    {"workers", required_argument, NULL, OPT_WORKERS},
    {"dicom-program", required_argument, NULL, OPT_DICOM_PROGRAM},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"log-format", required_argument, NULL, OPT_LOG_FORMAT},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static void print_help(FILE *out)
{
    fputs("usage: dcmferry-sandbox --state DIR --account-key GUID --api-key GUID [options]\n"
          "       dcmferry-sandbox ls --state DIR [-l] [--json]\n"
          "\n"
          "A PostDICOM Cloud API server for this machine.\n"
          "\n"
          "  --state DIR              where everything is kept (made if missing)\n"
          "  --listen ADDRESS         default 127.0.0.1\n"
          "  --port N                 default 0: any free one, printed at start\n"
          "  --account-key GUID, --api-key GUID\n"
          "                           what clients must show\n"
          "  --tls-cert F --tls-key F PEM files: https and wss\n"
          "  --tls-client-ca F        demand a client certificate of this CA\n"
          "  --user NAME, --institution NAME\n"
          "                           members of the account (each may be given several times)\n"
          "  --discard                check and answer, but neither parse nor keep files\n"
          "  --no-fsync               do not make writes durable (for benches)\n"
          "  --permissive             any well-formed UUID exists as soon as it is named\n"
          "  --workers N              DICOM reading processes, default 2\n"
          "  --dicom-program F        the dcmferry-dicom to run\n"
          "  --log-level LEVEL        error, warning, notice, info, debug; default notice\n"
          "  --log-format FORMAT      human, json\n"
          "  --fault NAME[=VALUE][:every=N][:p=0..1][:times=N][:on=session|general|upload|part]\n"
          "                           misbehave; may be given several times; NAME is one of\n",
          out);
    faults_print(out);
    fputs("\nBehaviour of the real server that is not known (docs/postdicom-assumptions.md):\n",
          out);
    assume_print(out);
}

__attribute__((format(printf, 1, 2))) static int fail(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fputs("dcmferry-sandbox: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    return -1;
}

static int parse_number(const char *option, const char *text, unsigned long max, unsigned long *ret)
{
    char *end;

    *ret = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || *ret > max)
        return fail("--%s %s is not a number in range", option, text);
    return 0;
}

static int parse_key(const char *option, const char *text, char out[UUID_TEXT_SIZE])
{
    if (!uuid_valid(text))
        return fail("--%s is not a GUID", option);
    memcpy(out, text, UUID_TEXT_SIZE);
    return 0;
}

static int parse_log(int option, const char *value, enum log_level *level, enum log_format *format)
{
    static const char *const levels[] = {"error", "warning", "notice", "info", "debug"};

    if (option == OPT_LOG_FORMAT) {
        *format = strcmp(value, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_HUMAN;
        return strcmp(value, "json") == 0 || strcmp(value, "human") == 0
                   ? 0
                   : fail("--%s takes human or json, not %s", "log-format", value);
    }
    for (unsigned i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(levels[i], value) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return fail("--%s: no level is called %s", "log-level", value);
}

static int add_name(const char **names, size_t *n, const char *name)
{
    if (*n == SANDBOX_MAX_NAMES || *name == '\0')
        return fail("too many users or institutions, or an empty name");
    names[(*n)++] = name;
    return 0;
}

/* 0; 1: done (help, version); -1: wrong, and said so. */
static int parse_option(struct sandbox *sb, int option, const char *value)
{
    struct sandbox_options *o = &sb->options;
    unsigned long n;
    struct err e;

    switch (option) {
    case OPT_STATE:
        o->state = value;
        return 0;
    case OPT_LISTEN:
        o->listen = value;
        return 0;
    case OPT_PORT:
        if (parse_number("port", value, 65535, &n))
            return -1;
        o->port = (uint16_t)n;
        return 0;
    case OPT_ACCOUNT_KEY:
        return parse_key("account-key", value, o->account_key);
    case OPT_API_KEY:
        return parse_key("api-key", value, o->api_key);
    case OPT_TLS_CERT:
        o->tls_cert = value;
        return 0;
    case OPT_TLS_KEY:
        o->tls_key = value;
        return 0;
    case OPT_TLS_CLIENT_CA:
        o->tls_client_ca = value;
        return 0;
    case OPT_USER:
        return add_name(o->users, &o->n_users, value);
    case OPT_INSTITUTION:
        return add_name(o->institutions, &o->n_institutions, value);
    case OPT_DISCARD:
        o->discard = true;
        return 0;
    case OPT_NO_FSYNC:
        o->no_fsync = true;
        return 0;
    case OPT_PERMISSIVE:
        o->permissive = true;
        return 0;
    case OPT_FAULT:
        return faults_set(&sb->faults, value, &e) ? fail("--fault: %s", e.text) : 0;
    case OPT_WORKERS:
        if (parse_number("workers", value, 64, &n))
            return -1;
        if (n == 0)
            return fail("--workers must be at least 1");
        o->workers = (unsigned)n;
        return 0;
    case OPT_DICOM_PROGRAM:
        o->dicom_program = value;
        return 0;
    case OPT_VERSION:
        puts("dcmferry-sandbox " DCMFERRY_VERSION);
        return 1;
    case OPT_HELP:
        print_help(stdout);
        return 1;
    default:
        return -1; /* getopt has said it */
    }
}

/* --assume-<row>=<value> is taken out before getopt, so that the rows stand in one table only. */
static int take_assumptions(struct sandbox *sb, int *argc, char **argv)
{
    int n = 1;
    struct err e;

    for (int i = 1; i < *argc; i++) {
        if (strncmp(argv[i], "--assume-", 9) != 0)
            argv[n++] = argv[i];
        else if (assume_set(&sb->assume, argv[i] + 9, &e) != 0)
            return fail("--assume: %s", e.text);
    }
    argv[n] = NULL;
    *argc = n;
    return 0;
}

static int parse_options(struct sandbox *sb, int argc, char **argv)
{
    struct sandbox_options *o = &sb->options;
    enum log_level level = LOG_LEVEL_NOTICE;
    enum log_format format = LOG_FORMAT_HUMAN;
    int option, rc;

    assume_init(&sb->assume);
    faults_init(&sb->faults);
    o->listen = "127.0.0.1";
    o->workers = 2;
    if (take_assumptions(sb, &argc, argv))
        return -1;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == OPT_LOG_LEVEL || option == OPT_LOG_FORMAT)
            rc = parse_log(option, optarg, &level, &format);
        else
            rc = parse_option(sb, option, optarg);
        if (rc)
            return rc;
    }
    if (optind < argc)
        return fail("%s is no option", argv[optind]);
    if (!o->state || !o->account_key[0] || !o->api_key[0])
        return fail("--state, --account-key and --api-key are needed (see --help)");
    if (!o->tls_cert != !o->tls_key || (o->tls_client_ca && !o->tls_cert))
        return fail("--tls-cert and --tls-key go together, --tls-client-ca needs them");
    log_setup(level, format, false);
    return 0;
}

/* ---- Running ---- */

struct program {
    struct sandbox sandbox;
    uv_signal_t term, interrupt;
    uv_timer_t closing;
    bool stopping, reader_closed;
};

static void on_reader_closed(void *ctx)
{
    struct program *p = ctx;

    p->reader_closed = true;
}

static void close_handle(uv_handle_t *handle, void *ctx)
{
    (void)ctx;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* What runs is waited for: requests answer into closed connections, then the parts close from top
 * to bottom. */
static void on_closing(uv_timer_t *timer)
{
    struct program *p = timer->data;
    struct sandbox *sb = &p->sandbox;

    if (store_pending(sb->store) != 0 || uploads_pending(sb->uploads) != 0)
        return;
    if (sb->reader) {
        dicom_reader_close(sb->reader, on_reader_closed, p);
        sb->reader = NULL;
        return;
    }
    if (!p->reader_closed)
        return;
    server_http_close(sb->http);
    sb->http = NULL;
    uploads_close(sb->uploads);
    sessions_close(sb->sessions);
    store_close(sb->store);
    uv_close((uv_handle_t *)&p->closing, NULL);
    close_handle((uv_handle_t *)&p->term, NULL);
    close_handle((uv_handle_t *)&p->interrupt, NULL);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct program *p = handle->data;

    (void)signum;
    if (p->stopping)
        return;
    p->stopping = true;
    p->reader_closed = p->sandbox.reader == NULL;
    conn_drop_all(&p->sandbox);
    uv_timer_start(&p->closing, on_closing, CLOSE_STEP_MS, CLOSE_STEP_MS);
}

static int start(struct program *p, struct err *e)
{
    struct sandbox *sb = &p->sandbox;
    int rc = store_open(&sb->store, sb->loop, sb->options.state, !sb->options.no_fsync, e);

    if (rc)
        return rc;
    accounts_setup(sb->store, &sb->options);
    if (store_failed(sb->store, e))
        return e->code;
    if (sessions_open(&sb->sessions, sb) != 0 || uploads_open(&sb->uploads, sb) != 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!sb->options.discard) {
        rc = dicom_reader_open(&sb->reader, sb->loop, sb->options.dicom_program,
                               sb->options.workers, e);
        if (rc)
            return rc;
    }
    return server_http_open(&sb->http, sb, e);
}

static void watch_signal(struct program *p, uv_signal_t *handle, int signum)
{
    uv_signal_init(p->sandbox.loop, handle);
    handle->data = p;
    uv_signal_start(handle, on_signal, signum);
}

static int serve(struct program *p)
{
    struct sandbox *sb = &p->sandbox;
    struct err e;

    signal(SIGPIPE, SIG_IGN);
    sb->loop = uv_default_loop();
    if (start(p, &e) != 0) {
        fail("%s", e.text);
        return 1; /* the process ends: what was opened needs no closing */
    }
    watch_signal(p, &p->term, SIGTERM);
    watch_signal(p, &p->interrupt, SIGINT);
    uv_timer_init(sb->loop, &p->closing);
    p->closing.data = p;
    accounts_print(sb->store, stdout);
    printf("listening on %s\n", server_http_url(sb->http));
    fflush(stdout);
    uv_run(sb->loop, UV_RUN_DEFAULT);
    uv_loop_close(sb->loop);
    return 0;
}

int main(int argc, char **argv)
{
    static struct program program;
    int rc;

    if (argc > 1 && strcmp(argv[1], "ls") == 0)
        return ls_main(argc - 1, argv + 1);
    rc = parse_options(&program.sandbox, argc, argv);
    if (rc)
        return rc > 0 ? 0 : 2;
    /* A part's memory is used again for the next one: given back to the system in between, its
     * pages would be made anew each time. */
    mallopt(M_MMAP_THRESHOLD, 16 * 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
    return serve(&program);
}
