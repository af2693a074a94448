/* Rows about what ends by itself when nothing happens: an upload session, an API session, a
 * connection. All at once, looked at after an eighth, a quarter, a half and all of the time. */
#include "trial.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LOOKS 4

struct idle {
    uint64_t start_ms;
    struct peer_line *line;            /* nothing is sent on it */
    char uploads[LOOKS][PD_UUID_SIZE]; /* one for each look, since a look is a use */
    char study[INSTANCE_UID_SIZE];
    uint64_t good_ms; /* the last look at which all was well */
};

static unsigned seconds(uint64_t ms)
{
    return (unsigned)((ms + 999) / 1000);
}

static int prepare(struct idle *s, struct trial *t, struct err *e)
{
    memset(s, 0, sizeof(*s));
    instance_uid(s->study);
    trial_drop_session(t);
    int status = trial_line(t, &s->line, e);
    for (size_t i = 0; status == 0 && i < LOOKS; i++)
        status = trial_initialize(t, 0, s->uploads[i], e);
    s->start_ms = clock_monotonic_ms();
    return status;
}

/* Until `ms` after the start; the idle line may end meanwhile. */
static void wait_until(struct idle *s, struct trial *t, uint64_t ms)
{
    uint64_t now = clock_monotonic_ms(), end = s->start_ms + ms;
    if (now < end && peer_wait(t->peer, &s->line->ended, end - now) &&
        (now = clock_monotonic_ms()) < end)
        peer_wait(t->peer, NULL, end - now);
}

/* On a connection of its own, for others may be closed by now. *ret_alive: whether the API session
 * is; *ret_taken: whether the upload session took a file. */
static int look(struct idle *s, struct trial *t, size_t i, bool *ret_alive, bool *ret_taken,
                struct err *e)
{
    struct trial_file f = {0};
    struct peer_line *l;
    struct peer_request *r = NULL;
    struct err why;
    *ret_alive = *ret_taken = false;
    int status = login_line(&t->session, t->peer, 0, &l, e);
    if (status == ERR_CLOSED || status == ERR_AUTH)
        return 0; /* it is not let in any more */
    if (status)
        return status;
    peer_line_close(t->session.line);
    t->session.line = l; /* that trial_alive and others go by */
    *ret_alive = !l->doubtful && trial_alive(t, &why) == 0;
    if (*ret_alive && !t->report->rows[REPORT_UPLOAD_SESSION_IDLE].told) {
        status = trial_file_make(t, s->study, TRIAL_SMALL, &f, e);
        if (status == 0 && !(r = trial_put(t, l, s->uploads[i], &f, 0, 0, t->a, e)))
            status = e->code;
        *ret_taken = r && r->answer.ok;
    }
    peer_request_free(r);
    trial_file_free(&f);
    return status;
}

static void report_idle_close(struct idle *s, struct trial *t)
{
    uint64_t ours = t->config->idle_close_ms;
    if (!s->line->ended) {
        report_found_number(t->report, REPORT_IDLE_CLOSE, 0, "within %u s", seconds(t->wait_ms));
        return;
    }
    uint64_t ms = s->line->ended_ms - s->line->opened_ms;
    report_found_number(t->report, REPORT_IDLE_CLOSE, seconds(ms > 500 ? ms - 500 : ms),
                        "it was closed after %.1f s", (double)ms / 1000);
    if (ours > 0 && ours < ms)
        report_advise(t->report, REPORT_IDLE_CLOSE, false, "nothing to set: `idle_close:` is %u s",
                      seconds(ours));
    else
        report_advise(t->report, REPORT_IDLE_CLOSE, false,
                      "set `idle_close: %us` (it is %u s); connections are reopened at need, so "
                      "nothing is lost",
                      ms >= 2000 ? (unsigned)(ms / 2000) : 1, seconds(ours));
}

static void report_upload_session(struct idle *s, struct trial *t, uint64_t now_ms)
{
    uint64_t ours = t->config->postdicom.session_idle_ms;
    report_found_number(t->report, REPORT_UPLOAD_SESSION_IDLE, seconds(now_ms),
                        "forgotten after more than %u s and less than %u s", seconds(s->good_ms),
                        seconds(now_ms));
    if (ours < s->good_ms)
        report_advise(t->report, REPORT_UPLOAD_SESSION_IDLE, false,
                      "nothing to set: `session_idle:` is %u s", seconds(ours));
    else
        report_advise(t->report, REPORT_UPLOAD_SESSION_IDLE, false,
                      "set `session_idle: %us` (it is %u s); a refused file is sent again, so "
                      "nothing is lost",
                      s->good_ms >= 1000 ? (unsigned)(s->good_ms / 1000) : 1, seconds(ours));
}

static void report_lifetime(struct idle *s, struct trial *t, uint64_t now_ms)
{
    report_found_number(t->report, REPORT_SESSION_LIFETIME, seconds(now_ms),
                        "it ended after more than %u s and less than %u s", seconds(s->good_ms),
                        seconds(now_ms));
    report_advise(t->report, REPORT_SESSION_LIFETIME, false, "nothing to set: it is renewed");
}

static int watch(struct idle *s, struct trial *t, struct err *e)
{
    for (size_t i = 0; i < LOOKS; i++) {
        bool alive, taken;
        wait_until(s, t, t->wait_ms >> (LOOKS - 1 - i));
        if (t->peer->interrupted)
            return err_set(e, ERR_CANCELED, "interrupted");
        uint64_t now_ms = clock_monotonic_ms() - s->start_ms;
        int status = look(s, t, i, &alive, &taken, e);
        if (status)
            return status;
        if (!alive) {
            report_lifetime(s, t, now_ms);
            report_untold(t->report, REPORT_UPLOAD_SESSION_IDLE,
                          "the API session ended before, within %u s", seconds(now_ms));
            break;
        }
        if (!taken && !t->report->rows[REPORT_UPLOAD_SESSION_IDLE].told)
            report_upload_session(s, t, now_ms);
        s->good_ms = now_ms;
    }
    report_idle_close(s, t);
    if (!t->report->rows[REPORT_SESSION_LIFETIME].told) {
        report_found_number(t->report, REPORT_SESSION_LIFETIME, 0, "%u s at least",
                            seconds(t->wait_ms));
        if (!t->report->rows[REPORT_UPLOAD_SESSION_IDLE].told)
            report_found_number(t->report, REPORT_UPLOAD_SESSION_IDLE, 0, "of %u s at least",
                                seconds(t->wait_ms));
    }
    return 0;
}

int trial_time(struct trial *t, struct err *e)
{
    struct idle s;
    char text[80];
    if (t->wait_ms == 0)
        return err_set(e, ERR_CANCELED, "that takes time: not with --wait 0");
    snprintf(text, sizeof(text), "waiting %u s for what ends by itself…", seconds(t->wait_ms));
    transcript_text(t->report->transcript, text);
    int status = prepare(&s, t, e);
    if (status == 0)
        status = watch(&s, t, e);
    peer_line_close(s.line);
    return status;
}
