/* Orders into folders: AddOrderToFolder, once per order and folder. */
#include "postdicom/pd_upload_internal.h"

#include <stdlib.h>

#define ADD_ORDER_TO_FOLDER 8 /* management type */

static void on_filed(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct pd_transfer *t = c->ctx;
    t->pending--;
    free(t->json);
    t->json = NULL;
    if (!t->file && !t->filing) {
        pd_transfer_unref(t);
        return;
    }
    if (status && pd_transfer_resendable(c, status, t->sends)) {
        pd_filing_send(t); /* adding twice is harmless */
    } else if (status) {
        pd_transfer_failed(t, status, e);
    } else if (!a->ok && !t->carried) {
        pd_transfer_refused_answer(t, a, "the server does not add the order to the folder");
    } else if (!a->ok && !t->refiled) {
        /* The file was sent into the folder, which may be another one by now. */
        pd_transfer_refile(t);
    } else {
        /* Or the server minds that the order is there already. */
        pd_filed_add(&t->upload->filed, t->order, t->folder_uuid);
        pd_transfer_finish(t, 0, NULL, false);
    }
}

void pd_filing_send(struct pd_transfer *t)
{
    struct pd_session *s = t->upload->session;
    const struct pd_account *account = pd_session_account(s);
    const char *folder = t->folder_uuid;
    t->state = FILE_ORDER;
    t->json = pd_params_add_order_to_folder(pd_session_keys(s), account->user_uuid,
                                            account->institution_uuid, t->order, &folder, 1);
    if (!t->json) {
        pd_transfer_finish_nomem(t);
        return;
    }
    t->call = (struct pd_call){
        .request = {.type = FRAME_GENERAL, .management = ADD_ORDER_TO_FOLDER, .json = t->json},
        .cb = on_filed,
        .ctx = t};
    t->sends++;
    t->pending++;
    pd_session_send(s, &t->call);
}

void pd_filing_make_sure(struct pd_transfer *t)
{
    pd_initialize_leave(t);
    if (!t->folder_uuid[0] || !t->order[0] ||
        pd_filed_has(&t->upload->filed, t->order, t->folder_uuid)) {
        pd_transfer_finish(t, 0, NULL, false);
        return;
    }
    t->sends = 0;
    pd_filing_send(t);
}
