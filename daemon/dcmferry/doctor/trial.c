#include "trial.h"

#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ROWS 4

/* In the order in which they run; some use what an earlier one found. */
static const struct {
    trial_fn *run;
    enum report_row rows[MAX_ROWS];
    unsigned n_rows;
} trials[] = {
    {trial_folder_search, {REPORT_FOLDER_SEARCH}, 1},
    {trial_create_existing, {REPORT_CREATE_EXISTING}, 1},
    {trial_existence,
     {REPORT_EXISTS_DELAY, REPORT_EXISTS_ORDER, REPORT_EXISTS_SCOPE, REPORT_ANSWER_TYPE},
     4},
    {trial_parts, {REPORT_PART_ANSWER, REPORT_EXISTS_MEANS}, 2},
    {trial_repeated, {REPORT_REPEATED_PART}, 1},
    {trial_survive, {REPORT_PARTS_SURVIVE}, 1},
    {trial_session_uuid, {REPORT_SESSION_UUID}, 1},
    {trial_merge, {REPORT_ORDERS_MERGE}, 1},
    {trial_folder_list, {REPORT_FOLDER_LIST}, 1},
    {trial_same_instance, {REPORT_SAME_INSTANCE}, 1},
    {trial_folder_gone, {REPORT_FOLDER_GONE}, 1},
    {trial_in_flight, {REPORT_PARTS_IN_FLIGHT}, 1},
    {trial_connections, {REPORT_MAX_CONNECTIONS}, 1},
    {trial_pong, {REPORT_PONG}, 1},
    {trial_lost, {REPORT_SESSION_LOST}, 1},
    {trial_displace, {REPORT_DISPLACE}, 1},
    {trial_time, {REPORT_UPLOAD_SESSION_IDLE, REPORT_SESSION_LIFETIME, REPORT_IDLE_CLOSE}, 3},
};

/* The last failed attempt's reason is the rows'. */
static void run_one(struct trial *t, trial_fn *run, const enum report_row *rows, unsigned n)
{
    char names[200] = "";
    struct err e = {0};
    bool wanted = false;
    int status = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
                 report_row_name(rows[i]));
        wanted = wanted || t->report->rows[rows[i]].wanted;
    }
    if (!wanted)
        return;
    for (unsigned attempt = 0; attempt < 2 && !t->peer->interrupted; attempt++) {
        transcript_say(t->report->transcript, "-- %s%s", names, attempt ? " (once more)" : "");
        status = run(t, &e);
        if (status == 0 || status == ERR_UNSUPPORTED || status == ERR_CANCELED)
            break;
        transcript_say(t->report->transcript, "  it could not be told: %s", e.text);
        trial_drop_session(t);
    }
    for (unsigned i = 0; i < n; i++)
        report_untold(t->report, rows[i], "%s", t->peer->interrupted ? "interrupted" : e.text);
}

static void name_run(struct trial *t)
{
    time_t now = (time_t)t->now_s;
    struct tm tm;
    char when[24], id[INSTANCE_UID_SIZE];
    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "%Y-%m-%d %H.%M.%S", &tm);
    instance_uid(id); /* two that begin in the same second */
    snprintf(t->run, sizeof(t->run), "%s %.6s", when, id + 5);
    snprintf(t->patient_id, sizeof(t->patient_id), "DCMFERRY-DOCTOR-%.12s", id + 5);
    transcript_known(t->report->transcript, INSTANCE_PATIENT_NAME);
    transcript_known(t->report->transcript, t->patient_id);
    transcript_known(t->report->transcript, t->run);
}

void trial_run(struct trial *t)
{
    static const enum report_row created[] = {REPORT_CREATE_ANSWER};
    struct report *r = t->report;
    bool was_wanted = r->rows[REPORT_CREATE_ANSWER].wanted;
    name_run(t);
    r->rows[REPORT_CREATE_ANSWER].wanted = true; /* without its folder nothing is sent */
    run_one(t, trial_create, created, 1);
    r->rows[REPORT_CREATE_ANSWER].wanted = was_wanted;
    if (!t->a[0] || !t->b[0]) {
        for (unsigned i = 0; i < REPORT_N_ROWS; i++)
            report_untold(r, i, "its folder could not be made: %s",
                          r->rows[REPORT_CREATE_ANSWER].text);
        report_step(r, REPORT_FAILED, "folder for the trials",
                    "the user may lack the right to make folders: try another `user:` or --folder",
                    "%s", r->rows[REPORT_CREATE_ANSWER].text);
        return;
    }
    for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]); i++)
        run_one(t, trials[i].run, trials[i].rows, trials[i].n_rows);
}

void trial_end(struct trial *t)
{
    trial_drop_session(t);
}
