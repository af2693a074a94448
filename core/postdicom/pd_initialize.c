/* Upload sessions on the wire: Initialize, and the files that wait for it. Which files share one is
 * decided in pd_burst. */
#include "postdicom/pd_upload_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <utlist.h>

#define RENEW_MS 15000U /* longer than a session counts as lost right after it was opened */

struct opening {
    struct pd_call call;
    struct pd_upload *upload;
    struct pd_burst *burst;
    char *json;
    unsigned sends;
};

static void burst_ready(struct pd_transfer *t)
{
    if (t->refusal.code) {
        struct err e = t->refusal;
        pd_transfer_finish(t, e.code, &e, false);
    } else if (t->file->ask && t->file->may_ask) {
        pd_exists_ask(t);
    } else {
        pd_part_send_all(t);
    }
}

/* A refused Initialize may mean that the server no longer knows the session. In one that was opened
 * for that reason just now it means something else. */
static bool may_renew(struct pd_upload *u)
{
    uint64_t now = clock_monotonic_ms();
    if (u->renewed_ms > 0 && now - u->renewed_ms < RENEW_MS)
        return false;
    u->renewed_ms = now;
    return true;
}

static void on_initialized(struct pd_call *c, int status, const struct pd_answer *a,
                           const struct err *e)
{
    struct opening *o = c->ctx;
    struct pd_upload *u = o->upload;
    struct pd_burst *b = o->burst;
    struct err refused;
    bool renew = false;
    if (status && pd_transfer_resendable(c, status, o->sends)) {
        o->sends++;
        pd_session_send(u->session, &o->call);
        return;
    }
    free(o->json);
    free(o);
    if (status == 0 && a->ok &&
        (pd_answer_id(a->root, "SessionUniqueUuid", b->uuid) ||
         pd_answer_id(a->result, "SessionUniqueUuid", b->uuid))) {
        b->state = b->state == PD_BURST_ENDED ? PD_BURST_ENDED : PD_BURST_READY;
        u->renewed_ms = 0;
    } else {
        if (status == 0) {
            renew = may_renew(u);
            status = err_set(&refused, renew ? ERR_SESSION : ERR_REFUSED,
                             "the server does not open an upload session: %s",
                             a->text[0] ? a->text : "(it gives no reason)");
            e = &refused;
        }
        pd_bursts_end(&u->bursts, b);
    }
    struct err why = e ? *e : (struct err){0};
    unsigned generation = b->generation;
    /* The burst has one more user while we go through those that wait. */
    struct pd_transfer *t;
    while ((t = b->waiters) != NULL) {
        struct pd_transfer *waiters = t;
        DL_DELETE(waiters, t);
        b->waiters = waiters;
        t->state = SEND;
        if (status)
            pd_transfer_failed(t, status, &why);
        else
            burst_ready(t);
    }
    pd_bursts_release(&u->bursts, b);
    if (renew)
        pd_session_renew(u->session, generation);
}

static int open_burst(struct pd_upload *u, struct pd_burst *b, uint64_t size)
{
    const struct pd_account *account = pd_session_account(u->session);
    struct opening *o = calloc(1, sizeof(*o));
    if (!o)
        return ERR_NOMEM;
    o->upload = u;
    o->burst = b;
    o->sends = 1;
    o->json = pd_params_initialize(pd_session_keys(u->session), account->user_uuid,
                                   account->institution_uuid, size, account->full_name);
    if (!o->json) {
        free(o);
        return ERR_NOMEM;
    }
    o->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_INITIALIZE,
                                           .json = o->json,
                                           .user = account->user_uuid},
                               .cb = on_initialized,
                               .ctx = o};
    b->state = PD_BURST_OPENING;
    b->users++;
    pd_session_send(u->session, &o->call);
    return 0;
}

void pd_initialize_join(struct pd_transfer *t)
{
    struct pd_upload *u = t->upload;
    t->burst = pd_bursts_get(&u->bursts, t->file->study, t->generation, clock_monotonic_ms());
    if (!t->burst) {
        pd_transfer_finish_nomem(t);
        return;
    }
    if (t->burst->state == PD_BURST_READY) {
        burst_ready(t);
        return;
    }
    t->state = WAIT_BURST;
    struct pd_transfer *waiters = t->burst->waiters;
    DL_APPEND(waiters, t);
    t->burst->waiters = waiters;
    if (t->burst->state == PD_BURST_NEW && open_burst(u, t->burst, t->file->size)) {
        struct pd_burst *b = t->burst;
        pd_transfer_finish_nomem(t);
        pd_bursts_end(&u->bursts, b);
    }
}

void pd_initialize_leave(struct pd_transfer *t)
{
    struct pd_burst *b = t->burst;
    if (!b)
        return;
    t->burst = NULL;
    if (t->state == WAIT_BURST) {
        struct pd_transfer *waiters = b->waiters;
        DL_DELETE(waiters, t);
        b->waiters = waiters;
    }
    pd_bursts_release(&t->upload->bursts, b);
}
