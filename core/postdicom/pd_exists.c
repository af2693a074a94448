/* Existence checks: CheckFileExist, before a file is sent that may have arrived already, when
 * the answer to it was lost, and after one was sent of which parts may have been lost. */
#include "postdicom/pd_upload_internal.h"

#include <stdlib.h>

static void identify(struct pd_transfer *t)
{
    t->state = IDENTIFY;
    t->file->identify(t->file);
}

void pd_exists_ask(struct pd_transfer *t)
{
    t->sends = 0;
    identify(t);
}

static void on_check(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct pd_transfer *t = c->ctx;
    t->pending--;
    free(t->json);
    t->json = NULL;
    if (!t->file) {
        pd_transfer_unref(t);
        return;
    }
    if (status && pd_transfer_resendable(c, status, t->sends)) {
        identify(t);
        return;
    }
    if (status) {
        pd_transfer_failed(t, status, e);
        return;
    }
    if (!a->ok && !t->doubted && (pd_transfer_attempt(t) == 0 || t->verifying)) {
        pd_transfer_refused_answer(t, a, "the server does not say whether it has the file");
        return;
    }
    bool exists = a->ok && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(a->result, "FileIfExist"));
    if (exists && !t->order[0])
        pd_answer_order(a, t->order);
    if (t->verifying) {
        struct err lost;
        err_set(&lost, ERR_CLOSED, "a connection was lost, and parts of the file with it");
        if (exists)
            pd_filing_make_sure(t);
        else
            pd_transfer_finish(t, lost.code, &lost, pd_transfer_attempt(t) < 2);
        return;
    }
    /* It exists: that proves neither that all parts arrived nor that the order is in the folder. */
    bool enough =
        exists && (t->n_parts == 1 || t->file->known_whole) && (!t->folder_uuid[0] || t->order[0]);
    if (!enough)
        t->order[0] = '\0';
    if (t->doubted)
        pd_part_settle_doubt(t, enough);
    else if (enough)
        pd_filing_make_sure(t);
    else
        pd_part_send_all(t);
}

static void check(struct pd_transfer *t, const char *patient_name, const char *patient_id)
{
    struct pd_session *s = t->upload->session;
    const struct pd_account *account = pd_session_account(s);
    struct pd_params_instance instance = {.study = t->file->study,
                                          .patient_name = patient_name,
                                          .patient_id = patient_id,
                                          .series = t->file->series,
                                          .sop = t->file->sop};
    t->state = CHECK;
    t->json = pd_params_check_file_exist(pd_session_keys(s), t->burst->uuid,
                                         account->institution_uuid, account->user_uuid,
                                         t->folder_uuid[0] ? t->folder_uuid : NULL, &instance);
    if (!t->json) {
        pd_transfer_finish_nomem(t);
        return;
    }
    t->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_CHECK_FILE_EXIST,
                                           .json = t->json,
                                           .user = account->user_uuid},
                               .upload = true,
                               .cb = on_check,
                               .ctx = t};
    t->sends++;
    t->pending++;
    pd_session_send(s, &t->call);
}

void pd_upload_identified(struct pd_upload_file *f, int status, const char *patient_name,
                          const char *patient_id, const struct err *e)
{
    struct pd_transfer *t = f->transfer;
    if (status)
        pd_transfer_finish(t, status, e, false);
    else if (!pd_transfer_outdated(t))
        check(t, patient_name ? patient_name : "", patient_id ? patient_id : "");
}
