/* Rows about connections and sessions, but for those that take time (trial_time.c). */
#include "trial.h"

#include "base/clock.h"
#include "base/uuid.h"

#include <string.h>

#define CLOSE_MS        2000U /* within which a server closes what it does not want */
#define PING_MS         500U
#define PONG_MS         5000U
#define MIN_CONNECTIONS 8
#define MAX_CONNECTIONS 32
#define AT_ONCE         7 /* parts */

static int initialize_on(struct trial *t, struct peer_line *l, bool *ret_ok, struct err *e)
{
    const struct pd_account *a = &t->session.account;
    struct peer_request *r = peer_ask(
        l, FRAME_UPLOAD, FRAME_INITIALIZE,
        pd_params_initialize(&t->peer->keys, a->user_uuid, a->institution_uuid, 0, a->full_name), a,
        e);
    *ret_ok = r && r->answer.ok;
    int status = r ? 0 : e->code;
    peer_request_free(r);
    return status;
}

/* Of a connection that the server closed, not the network or ourselves. */
static bool was_closed(int status)
{
    return status == ERR_CLOSED || status == ERR_AUTH || status == ERR_PROTOCOL;
}

/* ---- parts-in-flight ---- */

struct load {
    struct trial_file files[5]; /* four of one part, and one of three */
    char upload[PD_UUID_SIZE];
};

static int load_make(struct load *load, struct trial *t, struct err *e)
{
    char study[INSTANCE_UID_SIZE];
    int status = 0;
    memset(load, 0, sizeof(*load));
    instance_uid(study);
    for (size_t i = 0; status == 0 && i < 5; i++)
        status =
            trial_file_make(t, study, i < 4 ? TRIAL_SMALL : TRIAL_THREE_PARTS, &load->files[i], e);
    return status ? status : trial_initialize(t, load->files[4].bytes.size, load->upload, e);
}

static void load_free(struct load *load)
{
    for (size_t i = 0; i < 5; i++)
        trial_file_free(&load->files[i]);
}

/* All parts without waiting; how many were taken, and how many refused. */
static void send_at_once(struct trial *t, struct peer_line *l, const struct load *load,
                         unsigned *ret_taken, unsigned *ret_refused)
{
    struct peer_request *requests[AT_ONCE] = {0};
    for (unsigned i = 0; i < AT_ONCE; i++)
        requests[i] = trial_part(t, l, load->upload, &load->files[i < 4 ? i : 4], i < 4 ? i : 4,
                                 i < 4 ? 0 : i - 4, t->a);
    *ret_taken = *ret_refused = 0;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        if (requests[i] && peer_receive(requests[i]) == 0)
            ++*(requests[i]->answer.ok ? ret_taken : ret_refused);
        peer_request_free(requests[i]);
    }
}

/* The same, one at a time: then it was not the parts' fault. */
static int send_one_by_one(struct trial *t, struct load *load, struct err *e)
{
    struct peer_line *l;
    int status = trial_line(t, &l, e);
    if (status == 0)
        status = trial_initialize(t, load->files[4].bytes.size, load->upload, e);
    for (unsigned i = 0; status == 0 && i < 5; i++)
        status = trial_send(t, l, load->upload, &load->files[i], i, 0, t->a, NULL, e);
    peer_line_close(l);
    return status;
}

static int in_flight(struct trial *t, struct load *load, struct err *e)
{
    unsigned taken, refused, pipeline = t->config->postdicom.pipeline;
    struct peer_line *l;
    int status = trial_line(t, &l, e);
    if (status)
        return status;
    send_at_once(t, l, load, &taken, &refused);
    bool closed = l->ended && was_closed(l->why.code);
    peer_line_close(l);
    if (taken == AT_ONCE) {
        report_found(t->report, REPORT_PARTS_IN_FLIGHT, "any",
                     "`pipeline:` may be raised: faster where the way to the server is long");
        return 0;
    }
    if (!closed && refused == 0)
        return err_set(e, ERR_TIMEOUT, "not all of %d parts were answered", AT_ONCE);
    if ((status = send_one_by_one(t, load, e)) != 0)
        return status;
    report_found(t->report, REPORT_PARTS_IN_FLIGHT, "one", closed ? NULL : "it refuses them");
    if (pipeline > 1)
        report_advise(t->report, REPORT_PARTS_IN_FLIGHT, true, "set `pipeline: 1` (it is %u)",
                      pipeline);
    return 0;
}

int trial_in_flight(struct trial *t, struct err *e)
{
    struct load load;
    int status = load_make(&load, t, e);
    if (status == 0)
        status = in_flight(t, &load, e);
    load_free(&load);
    return status;
}

/* ---- max-connections ---- */

int trial_connections(struct trial *t, struct err *e)
{
    struct peer_line *lines[MAX_CONNECTIONS] = {0};
    unsigned wanted = t->config->postdicom.connections, got = 0;
    int status = trial_session(t, e);
    if (wanted < MIN_CONNECTIONS)
        wanted = MIN_CONNECTIONS;
    if (wanted > MAX_CONNECTIONS)
        wanted = MAX_CONNECTIONS;
    for (unsigned i = 0; status == 0 && i < wanted; i++) {
        status = login_line(&t->session, t->peer, 0, &lines[i], e);
        if (i > 0 && was_closed(status))
            status = 0;
    }
    if (status == 0)
        peer_wait(t->peer, NULL, CLOSE_MS / 4);
    for (unsigned i = 0; status == 0 && i < wanted; i++) {
        bool ok = false;
        if (!lines[i] || !lines[i]->connection)
            continue;
        status = initialize_on(t, lines[i], &ok, e);
        status = was_closed(status) ? 0 : status;
        got += ok;
    }
    for (unsigned i = 0; i < wanted; i++)
        peer_line_close(lines[i]);
    if (status == 0)
        status = got == 0 ? err_set(e, ERR_PROTOCOL, "not one upload connection worked")
                          : trial_alive(t, e);
    if (status)
        return status;
    if (got == wanted) {
        report_found_number(t->report, REPORT_MAX_CONNECTIONS, 0, "%u at least", wanted);
        return 0;
    }
    report_found_number(t->report, REPORT_MAX_CONNECTIONS, got, "it takes %u of %u", got, wanted);
    if (t->config->postdicom.connections > got)
        report_advise(t->report, REPORT_MAX_CONNECTIONS, false, "set `connections: %u` (it is %u)",
                      got, t->config->postdicom.connections);
    else
        report_advise(t->report, REPORT_MAX_CONNECTIONS, false,
                      "nothing to set: `connections:` is %u", t->config->postdicom.connections);
    return 0;
}

/* ---- pong ---- */

int trial_pong(struct trial *t, struct err *e)
{
    struct peer_line *l;
    int status = trial_session(t, e);
    if (status == 0)
        status = login_line(&t->session, t->peer, PING_MS, &l, e);
    if (status)
        return status;
    /* Nothing else is under way: a byte that comes is a pong. */
    uint64_t start = clock_monotonic_ms(), passed = 0;
    bool pong = false;
    while (!pong && passed < PONG_MS && !t->peer->interrupted) {
        peer_wait(t->peer, &l->ended, 100);
        passed = clock_monotonic_ms() - start;
        if (l->ended)
            break;
        pong = pd_connection_silent_ms(l->connection) + PING_MS / 2 < passed;
    }
    if (l->ended)
        status = err_set(e, l->why.code, "%s", l->why.text);
    else if (t->peer->interrupted)
        status = err_set(e, ERR_CANCELED, "interrupted");
    else
        report_found(t->report, REPORT_PONG, pong ? "yes" : "no", NULL);
    peer_line_close(l);
    return status;
}

/* ---- session-lost ---- */

int trial_lost(struct trial *t, struct err *e)
{
    char unknown[UUID_TEXT_SIZE];
    struct peer_line *l;
    bool ok = false, refused;
    int status = trial_session(t, e);
    if (status)
        return status;
    uuid_generate(unknown);
    status = login_line_as(&t->session, t->peer, unknown, 0, &l, e);
    refused = status == 0 && l->doubtful;
    if (status == 0 && !refused) {
        status = initialize_on(t, l, &ok, e);
        refused = status == 0 && !ok;
    }
    peer_line_close(l);
    if (status == 0 && !refused)
        return err_set(e, ERR_UNSUPPORTED,
                       "a session that the server never gave is taken for one as well");
    bool closed = was_closed(status);
    if ((status != 0 && !closed) || (status = trial_alive(t, e)) != 0)
        return status;
    report_found(t->report, REPORT_SESSION_LOST, closed ? "close" : "refuse", NULL);
    return 0;
}

/* ---- displace ---- */

static int look_at_first(struct trial *t, struct login *first, struct peer_line *upload,
                         const char **ret, struct err *e)
{
    bool ok;
    for (unsigned i = 0; i < CLOSE_MS / 100; i++) {
        if (first->line->ended || upload->ended)
            break;
        peer_wait(t->peer, NULL, 100);
    }
    if (first->line->ended || upload->ended) {
        *ret = "close";
        return 0;
    }
    int status = initialize_on(t, first->line, &ok, e);
    if (status && !was_closed(status))
        return status;
    *ret = status == 0 && ok ? "none" : "forget";
    return 0;
}

int trial_displace(struct trial *t, struct err *e)
{
    struct peer_line *upload;
    struct login first;
    const char *found = NULL;
    trial_drop_session(t); /* a fresh one, that is not about to end by itself */
    int status = trial_line(t, &upload, e);
    if (status)
        return status;
    first = t->session;
    t->session_open = false;
    status = trial_session(t, e); /* the second client */
    if (status == 0)
        status = look_at_first(t, &first, upload, &found, e);
    if (status == 0)
        status = trial_alive(t, e);
    if (status == 0)
        report_found(t->report, REPORT_DISPLACE, found, NULL);
    peer_line_close(upload);
    login_close(&first);
    return status;
}
