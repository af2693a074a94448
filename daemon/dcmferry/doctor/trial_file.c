/* Rows about files, their parts, and whether they exist. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

#define EXISTS_MS  30000U /* what does not exist by then never will */
#define SURVIVE_MS 3000U

/* What most of these need: a connection, an upload session, a file of a new study. */
struct set {
    struct peer_line *line;
    char upload[PD_UUID_SIZE];
    struct trial_file file;
};

static int set_make(struct set *s, struct trial *t, enum trial_size size, struct err *e)
{
    char study[INSTANCE_UID_SIZE];
    memset(s, 0, sizeof(*s));
    instance_uid(study);
    int status = trial_file_make(t, study, size, &s->file, e);
    if (status == 0)
        status = trial_line(t, &s->line, e);
    return status ? status : trial_initialize(t, s->file.bytes.size, s->upload, e);
}

static void set_free(struct set *s)
{
    peer_line_close(s->line);
    trial_file_free(&s->file);
}

/* One part that has to be taken; ret_order (NULL) "" if the answer names none. */
static int put(struct trial *t, struct set *s, unsigned part, char *ret_order, struct err *e)
{
    int status = 0;
    struct peer_request *r = trial_put(t, s->line, s->upload, &s->file, 0, part, t->a, e);
    if (!r)
        return e->code;
    if (!r->answer.ok)
        status = err_set(e, ERR_REFUSED, "the server does not take a part: %s", r->answer.text);
    if (ret_order)
        pd_answer_order(&r->answer, ret_order);
    peer_request_free(r);
    return status;
}

/* ---- exists-delay, exists-order, exists-scope, answer-type ---- */

static int scope(struct trial *t, struct set *s, struct err *e)
{
    bool here, there;
    int status = trial_exists(t, s->upload, &s->file, t->b, &there, NULL, e);
    if (status == 0)
        status = trial_exists(t, s->upload, &s->file, t->a, &here, NULL, e);
    if (status == 0 && !here && !there)
        return err_set(e, ERR_PROTOCOL, "it does not even exist in the folder it was sent to");
    if (status == 0)
        report_found(t->report, REPORT_EXISTS_SCOPE, there ? "account" : "folder", NULL);
    return status;
}

static int existence(struct trial *t, struct set *s, struct err *e)
{
    char order[PD_UUID_SIZE];
    bool exists;
    uint64_t ms;
    struct peer_request *r = trial_put(t, s->line, s->upload, &s->file, 0, 0, t->a, e);
    if (!r)
        return e->code;
    uint16_t type = r->type;
    bool ok = r->answer.ok;
    if (!ok)
        err_set(e, ERR_REFUSED, "the server does not take the file: %s", r->answer.text);
    peer_request_free(r);
    if (!ok)
        return e->code;
    report_found_number(t->report, REPORT_ANSWER_TYPE, type, NULL);
    int status = trial_exists_within(t, s->upload, &s->file, EXISTS_MS, &exists, &ms, order, e);
    if (status)
        return status;
    if (!exists)
        return err_set(e, ERR_PROTOCOL,
                       "CheckFileExist denies for %u s a file that was acknowledged",
                       EXISTS_MS / 1000);
    t->exists_ms = ms;
    report_found_number(t->report, REPORT_EXISTS_DELAY, ms, NULL);
    report_found(t->report, REPORT_EXISTS_ORDER, order[0] ? "uuid" : "none", NULL);
    return scope(t, s, e);
}

int trial_existence(struct trial *t, struct err *e)
{
    struct set s;
    int status = set_make(&s, t, TRIAL_SMALL, e);
    if (status == 0)
        status = existence(t, &s, e);
    set_free(&s);
    return status;
}

/* ---- part-answer, exists-means ---- */

static int parts(struct trial *t, struct set *s, struct err *e)
{
    char first[PD_UUID_SIZE], last[PD_UUID_SIZE];
    bool early, exists;
    int status = put(t, s, 0, first, e);
    if (status)
        return status;
    if (t->exists_ms > 0) /* a no may only be a late yes */
        peer_wait(t->peer, NULL, 2 * t->exists_ms + 200);
    status = trial_exists(t, s->upload, &s->file, NULL, &early, NULL, e);
    for (unsigned part = 1; status == 0 && part < s->file.n_parts; part++)
        status = put(t, s, part, last, e);
    if (status)
        return status;
    report_found(t->report, REPORT_PART_ANSWER,
                 first[0]  ? "each"
                 : last[0] ? "last"
                           : "none",
                 NULL);
    if (!early) {
        status = trial_exists_within(t, s->upload, &s->file, EXISTS_MS, &exists, NULL, NULL, e);
        if (status)
            return status;
        if (!exists)
            return err_set(e, ERR_PROTOCOL,
                           "CheckFileExist denies a file all parts of which were acknowledged");
    }
    report_found(t->report, REPORT_EXISTS_MEANS, early ? "any-part" : "whole", NULL);
    return 0;
}

int trial_parts(struct trial *t, struct err *e)
{
    struct set s;
    int status = set_make(&s, t, TRIAL_THREE_PARTS, e);
    if (status == 0)
        status = parts(t, &s, e);
    set_free(&s);
    return status;
}

/* ---- repeated-part ---- */

static int repeated(struct trial *t, struct set *s, struct err *e)
{
    int status = put(t, s, 0, NULL, e);
    struct peer_request *r =
        status == 0 ? trial_put(t, s->line, s->upload, &s->file, 0, 0, t->a, e) : NULL;
    if (!r)
        return status ? status : e->code;
    bool ok = r->answer.ok;
    peer_request_free(r);
    if (!ok && (status = trial_alive(t, e)) != 0)
        return status;
    report_found(t->report, REPORT_REPEATED_PART, ok ? "accept" : "refuse", NULL);
    return put(t, s, 1, NULL, e); /* so that nothing stays unfinished */
}

int trial_repeated(struct trial *t, struct err *e)
{
    struct set s;
    int status = set_make(&s, t, TRIAL_TWO_PARTS, e);
    if (status == 0)
        status = repeated(t, &s, e);
    set_free(&s);
    return status;
}

/* ---- parts-survive ---- */

static int survive(struct trial *t, struct set *s, struct err *e)
{
    char other[PD_UUID_SIZE];
    bool exists;
    int status = put(t, s, 0, NULL, e);
    if (status)
        return status;
    peer_line_close(s->line);
    status = trial_line(t, &s->line, e);
    /* The server needs a moment to notice. */
    peer_wait(t->peer, NULL, 500);
    if (status == 0)
        status = trial_initialize(t, 0, other, e);
    if (status == 0)
        status = put(t, s, 1, NULL, e);
    uint64_t ms = 3 * t->exists_ms < SURVIVE_MS ? SURVIVE_MS : 3 * t->exists_ms;
    if (status == 0)
        status = trial_exists_within(t, s->upload, &s->file, ms, &exists, NULL, NULL, e);
    if (status)
        return status;
    report_found(t->report, REPORT_PARTS_SURVIVE, exists ? "yes" : "no", NULL);
    return exists ? 0 : put(t, s, 0, NULL, e);
}

int trial_survive(struct trial *t, struct err *e)
{
    struct set s;
    if (t->report->rows[REPORT_EXISTS_MEANS].told && !report_holds(t->report, REPORT_EXISTS_MEANS))
        return err_set(e, ERR_UNSUPPORTED, "one part is enough for \"it exists\" here");
    int status = set_make(&s, t, TRIAL_TWO_PARTS, e);
    if (status == 0)
        status = survive(t, &s, e);
    set_free(&s);
    return status;
}

/* ---- session-uuid ---- */

int trial_session_uuid(struct trial *t, struct err *e)
{
    struct set s;
    struct peer_request *r = NULL;
    int status = set_make(&s, t, TRIAL_SMALL, e);
    if (status == 0 && !(r = trial_put(t, s.line, t->session.session_uuid, &s.file, 0, 0, t->a, e)))
        status = e->code;
    if (r && r->answer.ok)
        report_found(t->report, REPORT_SESSION_UUID, "both", NULL);
    else if (r && (status = trial_alive(t, e)) == 0)
        report_found(t->report, REPORT_SESSION_UUID, "initialize", NULL);
    peer_request_free(r);
    set_free(&s);
    return status;
}
