/* dcmferry doctor: tries a destination step by step, and what is assumed of its server with a
 * synthetic patient. In this process, with the destination's own configuration: so it works before
 * the daemon ever ran, and what it does to connections and sessions does not happen to deliveries.
 * A running daemon pauses the destination meanwhile. */
#include "base/clock.h"
#include "base/text.h"
#include "client.h"
#include "dcmferry.h"
#include "doctor/diagnose.h"
#include "doctor/pause.h"
#include "doctor/trial.h"

#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_FOLDER      "dcmferry doctor"
#define CREDENTIALS         "/run/credentials/dcmferryd.service"
#define WAIT_MARGIN_MS      10000U
#define WAIT_DEFAULT_MAX_MS 300000U

struct doctor {
    const struct command_options *command;
    const char *destination, *folder, *transcript_path, *only;
    bool read_only, yes, keep, wait_given;
    uint64_t wait_ms;
    struct config *config;
    const struct config_destination *dest;
    char *socket_path;
    struct transcript *transcript;
    struct report report;
    struct peer peer;
    struct pause pause;
    bool tried;
};

/* ---- arguments ---- */

static int wrong(const char *what, const char *value)
{
    fprintf(stderr, "dcmferry doctor: %s%s%s%s\n", what, value ? " '" : "", value ? value : "",
            value ? "'" : "");
    return 2;
}

static int parse(struct doctor *d, int argc, char **argv)
{
    static const struct option options[] = {{"destination", required_argument, NULL, 'd'},
                                            {"read-only", no_argument, NULL, 'r'},
                                            {"yes", no_argument, NULL, 'y'},
                                            {"folder", required_argument, NULL, 'f'},
                                            {"keep", no_argument, NULL, 'k'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"wait", required_argument, NULL, 'w'},
                                            {"transcript", required_argument, NULL, 't'},
                                            {0}};
    int c, code;
    d->folder = DEFAULT_FOLDER;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'd':
            d->destination = optarg;
            break;
        case 'r':
            d->read_only = true;
            break;
        case 'y':
            d->yes = true;
            break;
        case 'f':
            d->folder = optarg;
            break;
        case 'k':
            d->keep = true;
            break;
        case 'o':
            d->only = optarg;
            break;
        case 'w':
            d->wait_given = true;
            if (text_parse_duration(optarg, &d->wait_ms) != 0)
                return wrong("--wait takes a time such as 70s, not", optarg);
            break;
        case 't':
            d->transcript_path = optarg;
            break;
        default:
            return 2;
        }
    }
    if ((code = command_no_more(optind, argc, argv)) != 0)
        return code;
    if (!d->destination)
        return wrong("--destination NAME is missing", NULL);
    if (d->folder[strspn(d->folder, "/")] == '\0')
        return wrong("--folder: there is no name in", d->folder);
    return 0;
}

/* "row,row": some rows need what others find. */
static int choose_rows(struct doctor *d)
{
    struct report_verdict *rows = d->report.rows;
    for (unsigned i = 0; i < REPORT_N_ROWS; i++)
        rows[i].wanted = d->only == NULL && !d->read_only;
    for (const char *p = d->only; p && *p;) {
        char name[40];
        size_t n = strcspn(p, ",");
        if (n >= sizeof(name))
            return wrong("--only: no assumption is called", p);
        memcpy(name, p, n);
        name[n] = '\0';
        int row = report_row_find(name);
        if (row < 0)
            return wrong("--only: no assumption is called", name);
        rows[row].wanted = true;
        p += n + (p[n] == ',');
    }
    if (rows[REPORT_PARTS_SURVIVE].wanted)
        rows[REPORT_EXISTS_MEANS].wanted = true;
    if (rows[REPORT_EXISTS_MEANS].wanted)
        rows[REPORT_EXISTS_DELAY].wanted = true;
    return 0;
}

/* ---- configuration ---- */

static int load(struct doctor *d)
{
    struct config_faults faults;
    if (config_load(d->command->config_path, CONFIG_PATHS_UNSEEN, &d->config, &faults) != 0) {
        for (size_t i = 0; i < faults.n; i++) {
            if (faults.items[i].mark.line > 0)
                fprintf(stderr, "%s:%u:%u: %s\n", d->command->config_path,
                        faults.items[i].mark.line, faults.items[i].mark.column,
                        faults.items[i].text);
            else
                fprintf(stderr, "%s: %s\n", d->command->config_path, faults.items[i].text);
        }
        config_faults_free(&faults);
        return 1;
    }
    config_faults_free(&faults);
    for (size_t i = 0; i < d->config->n_destinations; i++)
        if (strcmp(d->config->destinations[i].name, d->destination) == 0)
            d->dest = &d->config->destinations[i];
    if (!d->dest) {
        fprintf(stderr, "dcmferry: no such destination in the configuration: %s\n", d->destination);
        return 1;
    }
    d->socket_path = client_socket(d->command->socket_path, d->command->config_path);
    if (!d->wait_given) {
        uint64_t longest = d->dest->idle_close_ms;
        if (longest < d->dest->postdicom.session_idle_ms)
            longest = d->dest->postdicom.session_idle_ms;
        if (longest > WAIT_DEFAULT_MAX_MS)
            longest = WAIT_DEFAULT_MAX_MS;
        d->wait_ms = longest + WAIT_MARGIN_MS;
    }
    return 0;
}

/* What systemd handed to the service lies there as long as that runs. */
static void find_credentials(const struct config_postdicom *c)
{
    if ((c->account_key.source == SECRET_CREDENTIAL || c->api_key.source == SECRET_CREDENTIAL) &&
        access(CREDENTIALS, R_OK | X_OK) == 0)
        setenv("CREDENTIALS_DIRECTORY", CREDENTIALS, 0);
}

/* ---- the trials ---- */

static void say_plan(struct doctor *d)
{
    char text[400];
    struct transcript *t = d->transcript;
    transcript_text(t, "");
    snprintf(text, sizeof(text),
             "To find out what holds of docs/postdicom-assumptions.md, this will, in the account:");
    transcript_text(t, text);
    snprintf(text, sizeof(text), "  - make the folder \"%s\" if it is not there, and one in it",
             d->folder);
    transcript_text(t, text);
    snprintf(text, sizeof(text),
             "  - upload some 25 synthetic images (about 8 MB) of the patient %s into that",
             INSTANCE_PATIENT_NAME);
    transcript_text(t, text);
    transcript_text(
        t,
        "  - open sessions and connections, leave them, and close them; another machine that uses");
    transcript_text(t, "    the same API key may be cut off meanwhile, and disturb the trials");
    if (d->wait_ms > 0) {
        snprintf(text, sizeof(text), "  - wait %llu s for what the server ends by itself",
                 (unsigned long long)(d->wait_ms / 1000));
        transcript_text(t, text);
    }
    transcript_text(t, d->keep ? "  - leave all of that there (--keep)"
                               : "  - delete these images' orders and the folder again");
    transcript_text(t, "It touches no other folder, order or patient.");
}

/* Whether to go on; with why not. */
static bool confirm(struct doctor *d, const char **ret_why)
{
    char line[16];
    *ret_why = "not confirmed";
    if (d->yes)
        return true;
    if (d->command->json || !isatty(STDIN_FILENO)) {
        *ret_why = "there is no terminal to ask at: --yes confirms";
        return false;
    }
    fputs("Go on? [y/N] ", stdout);
    fflush(stdout);
    /* Meanwhile the daemon must stay asked to pause. */
    for (struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN}; poll(&in, 1, 200) <= 0;) {
        peer_wait(&d->peer, NULL, 1);
        if (d->peer.interrupted)
            return false;
    }
    return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

static void try_assumptions(struct doctor *d, struct login *session)
{
    struct trial t = {.peer = &d->peer,
                      .report = &d->report,
                      .config = d->dest,
                      .wait_ms = d->wait_ms,
                      .keep = d->keep,
                      .now_s = clock_realtime_ms() / 1000,
                      .session = *session,
                      .session_open = true,
                      .path = d->folder};
    const char *why = NULL;
    say_plan(d);
    d->tried = confirm(d, &why);
    if (d->tried) {
        transcript_text(d->transcript, "");
        trial_run(&t);
        trial_remove(&t);
    } else {
        for (unsigned i = 0; i < REPORT_N_ROWS; i++)
            report_untold(&d->report, i, "%s", why);
        char text[120];
        snprintf(text, sizeof(text), "Not tried: %s.", why);
        transcript_text(d->transcript, text);
    }
    trial_end(&t);
}

/* ---- all of it ---- */

static void run(struct doctor *d)
{
    struct err e = {0};
    struct login session;
    find_credentials(&d->dest->postdicom);
    if (peer_open(&d->peer, d->dest, d->transcript, &e) != 0) {
        report_step(&d->report, REPORT_FAILED, "keys",
                    "as root, or as the service's user, they should be readable: dcmferry check "
                    "tells more",
                    "%s", e.text);
        return;
    }
    report_step(&d->report, REPORT_OK, "keys", NULL, "can be read");
    if (diagnose_network(&d->report, d->dest) == 0 &&
        pause_begin(&d->pause, &d->report, &d->peer, d->socket_path, d->destination) == 0) {
        if (diagnose_session(&d->report, &d->peer, &session) == 0) {
            if (d->read_only)
                login_close(&session);
            else
                try_assumptions(d, &session);
        }
        pause_end(&d->pause);
    }
    peer_close(&d->peer);
}

static int conclude(struct doctor *d)
{
    unsigned faults = report_faults(&d->report);
    struct transcript *t = d->transcript;
    for (unsigned i = 0; i < REPORT_N_ROWS; i++)
        report_untold(&d->report, i, "not tried");
    if (d->tried)
        report_table(&d->report);
    transcript_text(t, "");
    transcript_text(t, faults == 0 ? d->report.warnings ? "all well, but for the warnings above"
                                                        : "all well"
                                   : "something is wrong: see above");
    if (d->command->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "destination", d->destination);
        report_json(&d->report, o);
        cJSON_AddItemToObject(o, "transcript", transcript_lines(t));
        char *text = cJSON_Print(o);
        puts(text ? text : "{\"ok\": false}");
        cJSON_free(text);
        cJSON_Delete(o);
    }
    return faults == 0 ? 0 : 1;
}

int command_doctor(const struct command_options *o, int argc, char **argv)
{
    struct doctor d = {.command = o};
    struct err e;
    int code = parse(&d, argc, argv);
    if (code == 0)
        code = choose_rows(&d);
    if (code == 0)
        code = load(&d);
    if (code == 0 && transcript_open(&d.transcript, d.transcript_path, !o->json, &e) != 0) {
        fprintf(stderr, "dcmferry doctor: %s\n", e.text);
        code = 1;
    }
    if (code == 0 && report_init(&d.report, d.transcript) == 0) {
        run(&d);
        code = conclude(&d);
        report_free(&d.report);
    }
    if (d.transcript && transcript_close(d.transcript, &e) != 0) {
        fprintf(stderr, "dcmferry doctor: %s\n", e.text);
        code = 1;
    }
    free(d.socket_path);
    config_free(d.config);
    return code;
}
