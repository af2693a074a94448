/* What was made is removed again. An order is deleted only if it is listed in a folder that this
 * run made, under the synthetic patient's name: whatever else a server may do, nothing of others
 * goes. */
#include "trial.h"

#include "base/text.h"

#include <stdio.h>
#include <string.h>

#define DELETE_FOLDER 4
#define DELETE_ORDER  6
#define MAX_FOLDERS   64
#define MAX_ORDERS    64

struct removal {
    struct trial *trial;
    unsigned orders, left;                  /* removed; not */
    char removed[MAX_ORDERS][PD_UUID_SIZE]; /* an order may lie in several folders */
    bool folder_left;
    struct err why;
};

/* The server may write the name in its own way. */
static bool is_ours(const cJSON *order)
{
    const char *name = pd_answer_string(order, "PatientName");
    return name && strcasestr(name, "DCMFERRY") && strcasestr(name, "DOCTOR");
}

static bool is_removed(const struct removal *m, const char *uuid)
{
    for (unsigned i = 0; i < m->orders && i < MAX_ORDERS; i++)
        if (strcmp(m->removed[i], uuid) == 0)
            return true;
    return false;
}

static int delete_order(struct removal *m, const cJSON *order, struct err *e)
{
    struct trial *t = m->trial;
    char uuid[PD_UUID_SIZE], institution[PD_UUID_SIZE];
    if (!is_ours(order))
        return err_set(e, ERR_REFUSED, "an order in its folder is not of its patient");
    if (!pd_answer_id(order, "PatientOrderUuid", uuid))
        return err_set(e, ERR_UNSUPPORTED, "the list of orders does not tell their UUIDs");
    if (is_removed(m, uuid))
        return 0;
    if (!pd_answer_id(order, "PatientOrderInstitutionUuid", institution))
        text_copy(institution, sizeof(institution), t->session.account.institution_uuid);
    struct peer_request *r = trial_ask(
        t, FRAME_GENERAL, DELETE_ORDER,
        pd_params_delete_order(&t->peer->keys, t->session.account.user_uuid, institution, uuid),
        false, e);
    if (!r)
        return e->code;
    peer_request_free(r);
    if (m->orders < MAX_ORDERS)
        memcpy(m->removed[m->orders], uuid, sizeof(uuid));
    m->orders++;
    return 0;
}

static void delete_orders(struct removal *m, const char *folder)
{
    const cJSON *list, *order;
    struct peer_request *r = trial_list(m->trial, folder, "", true, &list, &m->why);
    if (!r) {
        m->left++;
        return;
    }
    cJSON_ArrayForEach(order, list) m->left += delete_order(m, order, &m->why) != 0;
    peer_request_free(r);
}

static int delete_folder(struct trial *t, const char *uuid, struct err *e)
{
    int status = trial_session(t, e);
    if (status)
        return status;
    struct peer_request *r = trial_ask(
        t, FRAME_GENERAL, DELETE_FOLDER,
        pd_params_delete_folder(&t->peer->keys, t->session.account.user_uuid, uuid), false, e);
    peer_request_free(r);
    return r ? 0 : e->code;
}

/* Orders of all folders of the run. */
static void delete_all_orders(struct removal *m)
{
    char folders[MAX_FOLDERS][PD_UUID_SIZE];
    size_t n = 0;
    const cJSON *list, *item;
    struct peer_request *r = trial_list(m->trial, m->trial->folder, "", false, &list, &m->why);
    if (!r) {
        m->left++;
        return;
    }
    cJSON_ArrayForEach(item, list)
    {
        if (n < MAX_FOLDERS && pd_answer_id(item, "FolderUuid", folders[n]))
            n++;
    }
    peer_request_free(r);
    for (size_t i = 0; i < n; i++)
        delete_orders(m, folders[i]);
}

/* The folder that was given, if this run made it and nothing else has come into it. */
static void delete_top(struct trial *t)
{
    const cJSON *list;
    struct err e;
    bool empty = false;
    if (strcmp(t->top, t->top_made) != 0)
        return; /* it was there, or more than one level was made: they stay */
    struct peer_request *r = trial_list(t, t->top, "", false, &list, &e);
    empty = r && cJSON_GetArraySize(list) == 0;
    peer_request_free(r);
    r = empty ? trial_list(t, t->top, "", true, &list, &e) : NULL;
    empty = r && cJSON_GetArraySize(list) == 0;
    peer_request_free(r);
    if (empty)
        delete_folder(t, t->top, &e);
}

static void report_removed(struct removal *m)
{
    struct trial *t = m->trial;
    if (!m->folder_left) {
        report_step(t->report, REPORT_OK, "removed",
                    "what PostDICOM keeps of deleted orders may still lie in its recycle bin",
                    "%u orders of patient %s and the folder \"%s\" in \"%s\"", m->orders,
                    INSTANCE_PATIENT_NAME, t->run, t->path);
        return;
    }
    char advice[400];
    snprintf(advice, sizeof(advice),
             "delete by hand: all orders of patient %s (ID %s), then the folder \"%s\" in \"%s\"",
             INSTANCE_PATIENT_NAME, t->patient_id, t->run, t->path);
    report_step(t->report, REPORT_WARNING, "left behind", advice, "not all could be removed: %s",
                m->why.text);
}

void trial_remove(struct trial *t)
{
    struct removal m = {.trial = t};
    if (t->peer->interrupted)
        report_step(t->report, REPORT_FAILED, "interrupted", NULL, "not all was tried");
    if (t->left_before > 0)
        report_step(t->report, REPORT_WARNING, "left before",
                    "delete them by hand, with the orders in them",
                    "%u folders, of earlier runs perhaps, are in \"%s\"", t->left_before, t->path);
    if (!t->folder[0])
        return;
    if (t->keep) {
        char advice[400];
        snprintf(advice, sizeof(advice),
                 "to remove it: delete all orders of patient %s (ID %s), then that folder",
                 INSTANCE_PATIENT_NAME, t->patient_id);
        report_step(t->report, REPORT_OK, "left behind", advice,
                    "%u instances of patient %s in the folder \"%s\" in \"%s\"", t->n_instances,
                    INSTANCE_PATIENT_NAME, t->run, t->path);
        return;
    }
    t->peer->interrupted = false; /* this much time must be */
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        transcript_say(t->report->transcript, "-- removing%s", attempt ? " (once more)" : "");
        trial_drop_session(t); /* the trials may have left it in any state */
        m.left = 0;
        delete_all_orders(&m);
        m.folder_left = m.left > 0 || delete_folder(t, t->folder, &m.why) != 0;
        if (!m.folder_left || t->peer->interrupted)
            break;
    }
    if (!m.folder_left)
        delete_top(t);
    report_removed(&m);
}
