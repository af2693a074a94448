/* The bytes of a file: its parts are spread over the upload connections. One whose answer is lost
 * is sent again; where it was the whole file, only if the server says that it has not got it: it
 * would be stored twice otherwise. Of a file of several parts the server's word proves nothing, and
 * one part more makes no second file. */
#include "postdicom/pd_upload_internal.h"

#include <stdlib.h>
#include <utlist.h>

struct pd_part {
    struct pd_call call;
    struct pd_transfer *transfer;
    uint8_t *buffer;
    size_t size;
    unsigned sends;
    char *json;
    struct pd_part *prev, *next;
};

static void want_parts(struct pd_transfer *t)
{
    unsigned window = t->upload->options->connections * t->upload->options->pipeline + 1;
    if (t->wanting || t->next_part >= t->n_parts || t->parts_out >= window)
        return;
    t->wanting = true;
    t->file->want(t->file);
}

/* The acknowledgements hold only as long as the server kept the parts of lost connections. */
static void all_acknowledged(struct pd_transfer *t)
{
    if (t->n_parts == 1 || t->losses == pd_session_losses(t->upload->session)) {
        pd_filing_make_sure(t);
    } else if (t->file->may_ask) {
        t->verifying = true;
        pd_exists_ask(t);
    } else if (pd_transfer_attempt(t) == 0) {
        struct err e;
        err_set(&e, ERR_CLOSED, "a connection was lost while the file was sent");
        pd_transfer_finish(t, e.code, &e, true);
    } else {
        pd_filing_make_sure(t);
    }
}

static void part_free(struct pd_part *p)
{
    struct pd_upload *u = p->transfer->upload;
    DL_DELETE(p->transfer->parts, p);
    free(p->json);
    u->release(p->buffer, p->size, u->ctx);
    free(p);
}

static void part_send(struct pd_part *p)
{
    p->sends++;
    p->transfer->pending++;
    pd_session_send(p->transfer->upload->session, &p->call);
}

static void on_part(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct pd_part *p = c->ctx;
    struct pd_transfer *t = p->transfer;
    t->pending--;
    t->carried = t->carried || c->carried;
    if (!t->file) {
        part_free(p);
        pd_transfer_unref(t);
        return;
    }
    if (status && !t->refusal.code && pd_transfer_resendable(c, status, p->sends)) {
        if (t->n_parts == 1 && t->file->may_ask) {
            t->doubted = p;
            pd_exists_ask(t);
        } else {
            part_send(p);
        }
        return;
    }
    t->parts_out--;
    if (status == 0 && a->ok) {
        t->acknowledged++;
        t->bytes += p->size;
        if (!t->order[0])
            pd_answer_order(a, t->order);
    }
    part_free(p);
    if (t->refusal.code)
        return; /* another part was refused */
    if (status)
        pd_transfer_failed(t, status, e);
    else if (!a->ok)
        pd_transfer_refused_answer(t, a, "the server does not take the file");
    else if (t->acknowledged == t->n_parts)
        all_acknowledged(t);
    else
        want_parts(t);
}

void pd_part_settle_doubt(struct pd_transfer *t, bool arrived)
{
    struct pd_part *p = t->doubted;
    t->doubted = NULL;
    t->state = SEND;
    if (!arrived) {
        part_send(p);
        return;
    }
    t->parts_out--;
    t->acknowledged++;
    t->bytes += p->size;
    part_free(p);
    all_acknowledged(t);
}

void pd_part_withdraw(struct pd_transfer *t)
{
    struct pd_part *p, *next;
    DL_FOREACH_SAFE(t->parts, p, next)
    {
        if (p != t->doubted && !pd_session_cancel(t->upload->session, &p->call))
            continue;
        t->pending -= p != t->doubted;
        part_free(p);
    }
    t->doubted = NULL;
}

bool pd_part_carried(const struct pd_transfer *t)
{
    const struct pd_part *p;
    DL_FOREACH(t->parts, p)
    {
        if (p->call.carried)
            return true;
    }
    return t->carried;
}

void pd_upload_part(struct pd_upload_file *f, uint8_t *buffer, size_t size)
{
    struct pd_transfer *t = f->transfer;
    struct pd_upload *u = t->upload;
    const struct pd_account *account = pd_session_account(u->session);
    t->wanting = false;
    if (pd_transfer_outdated(t)) {
        u->release(buffer, size, u->ctx);
        return;
    }
    struct pd_part *p = calloc(1, sizeof(*p));
    if (p)
        p->json = pd_params_process_file(pd_session_keys(u->session), t->burst->uuid,
                                         account->institution_uuid, account->user_uuid, t->index,
                                         t->next_part, t->n_parts,
                                         t->folder_uuid[0] ? t->folder_uuid : NULL);
    if (!p || !p->json) {
        free(p);
        u->release(buffer, size, u->ctx);
        pd_transfer_finish_nomem(t);
        return;
    }
    p->transfer = t;
    p->buffer = buffer;
    p->size = size;
    p->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_PROCESS_FILE,
                                           .json = p->json,
                                           .bytes = buffer,
                                           .bytes_size = size,
                                           .user = account->user_uuid},
                               .upload = true,
                               .cb = on_part,
                               .ctx = p};
    DL_APPEND(t->parts, p);
    t->next_part++;
    t->parts_out++;
    part_send(p);
    want_parts(t);
}

void pd_part_send_all(struct pd_transfer *t)
{
    t->state = SEND;
    t->index = t->burst->files++;
    t->losses = pd_session_losses(t->upload->session);
    want_parts(t);
}
