#include "trial.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREATE_FOLDER 2
#define SEARCH_FOLDER 3
#define POLL_MIN_MS   100U
#define POLL_MAX_MS   1000U

static const char *reason(const struct peer_request *r)
{
    return r->answer.text[0] ? r->answer.text : "(the server gives no reason)";
}

/* ---- session ---- */

void trial_drop_session(struct trial *t)
{
    if (t->session_open)
        login_close(&t->session);
    t->session_open = false;
}

int trial_session(struct trial *t, struct err *e)
{
    struct err again;
    int status;
    if (t->session_open && t->session.line && t->session.line->connection)
        return 0;
    if (t->session_open) { /* the connection may have gone and the session not */
        peer_line_close(t->session.line);
        t->session.line = NULL;
        if (login_line(&t->session, t->peer, 0, &t->session.line, &again) == 0 &&
            !t->session.line->doubtful)
            return 0;
        trial_drop_session(t);
    }
    status = login_open(&t->session, t->peer, NULL, NULL, e);
    if (status)
        return err_wrap(e, "%s", pd_login_step_name(t->session.step));
    t->session_open = true;
    return 0;
}

struct peer_request *trial_ask(struct trial *t, uint16_t type, int32_t management, char *json,
                               bool refusable, struct err *e)
{
    int status = trial_session(t, e);
    if (status) {
        free(json);
        return NULL;
    }
    struct peer_request *r = peer_ask(t->session.line, type, management, json,
                                      type == FRAME_UPLOAD ? &t->session.account : NULL, e);
    if (r && !r->answer.ok && !refusable) {
        err_set(e, ERR_REFUSED, "the server refused: %s", reason(r));
        peer_request_free(r);
        return NULL;
    }
    return r;
}

int trial_initialize(struct trial *t, uint64_t bytes, char ret_uuid[PD_UUID_SIZE], struct err *e)
{
    int status = trial_session(t, e);
    if (status)
        return status;
    const struct pd_account *a = &t->session.account;
    struct peer_request *r =
        trial_ask(t, FRAME_UPLOAD, FRAME_INITIALIZE,
                  pd_params_initialize(&t->peer->keys, a->user_uuid, a->institution_uuid, bytes,
                                       a->full_name),
                  false, e);
    if (!r)
        return err_wrap(e, "Initialize");
    if (!pd_answer_id(r->answer.root, "SessionUniqueUuid", ret_uuid) &&
        !pd_answer_id(r->answer.result, "SessionUniqueUuid", ret_uuid))
        status = err_set(e, ERR_PROTOCOL, "Initialize answers no SessionUniqueUuid");
    peer_request_free(r);
    return status;
}

int trial_alive(struct trial *t, struct err *e)
{
    char uuid[PD_UUID_SIZE];
    struct err why;
    if (t->session_open && t->session.line && t->session.line->connection &&
        trial_initialize(t, 0, uuid, &why) == 0)
        return 0;
    return err_set(e, ERR_SESSION, "the session was lost meanwhile");
}

int trial_line(struct trial *t, struct peer_line **ret, struct err *e)
{
    struct peer_line *l;
    *ret = NULL;
    int status = trial_session(t, e);
    if (status)
        return status;
    status = login_line(&t->session, t->peer, 0, &l, e);
    if (status == 0 && l->doubtful && (status = trial_alive(t, e)) != 0)
        peer_line_close(l);
    else if (status == 0)
        *ret = l;
    return status;
}

/* ---- files ---- */

int trial_file_make(struct trial *t, const char study[INSTANCE_UID_SIZE], enum trial_size size,
                    struct trial_file *ret, struct err *e)
{
    struct transcript *transcript = t->peer->transcript;
    memset(ret, 0, sizeof(*ret));
    ret->instance.patient_id = t->patient_id;
    ret->instance.number = ++t->n_instances;
    ret->instance.rows = (unsigned)size;
    ret->instance.columns = size == TRIAL_SMALL ? 64 : 1024;
    memcpy(ret->instance.study, study, INSTANCE_UID_SIZE);
    instance_uid(ret->instance.series);
    instance_uid(ret->instance.sop);
    instance_write(&ret->instance, t->now_s, &ret->bytes);
    transcript_known(transcript, ret->instance.study);
    transcript_known(transcript, ret->instance.series);
    transcript_known(transcript, ret->instance.sop);
    ret->n_parts = (unsigned)((ret->bytes.size + PD_PART_SIZE - 1) / PD_PART_SIZE);
    return buf_failed(&ret->bytes) ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

void trial_file_free(struct trial_file *f)
{
    buf_free(&f->bytes);
}

struct peer_request *trial_part(struct trial *t, struct peer_line *l, const char *upload,
                                const struct trial_file *f, unsigned index, unsigned part,
                                const char *folder)
{
    const struct pd_account *a = &t->session.account;
    size_t from = (size_t)part * PD_PART_SIZE;
    size_t size = f->bytes.size - from < PD_PART_SIZE ? f->bytes.size - from : PD_PART_SIZE;
    t->bytes += size;
    return peer_send(l, FRAME_UPLOAD, FRAME_PROCESS_FILE,
                     pd_params_process_file(&t->peer->keys, upload, a->institution_uuid,
                                            a->user_uuid, index, part, f->n_parts, folder),
                     a, f->bytes.data + from, size);
}

struct peer_request *trial_put(struct trial *t, struct peer_line *l, const char *upload,
                               const struct trial_file *f, unsigned index, unsigned part,
                               const char *folder, struct err *e)
{
    struct peer_request *r = trial_part(t, l, upload, f, index, part, folder);
    if (!r) {
        err_set(e, ERR_NOMEM, "out of memory");
        return NULL;
    }
    if (peer_receive(r) == 0)
        return r;
    *e = r->err;
    peer_request_free(r);
    return NULL;
}

int trial_send(struct trial *t, struct peer_line *l, const char *upload, const struct trial_file *f,
               unsigned index, unsigned from, const char *folder, char *ret_order, struct err *e)
{
    char order[PD_UUID_SIZE] = "";
    int status = 0;
    for (unsigned part = from; status == 0 && part < f->n_parts; part++) {
        struct peer_request *r = trial_put(t, l, upload, f, index, part, folder, e);
        if (!r)
            return e->code;
        if (!r->answer.ok)
            status = err_set(e, ERR_REFUSED, "the server does not take a file: %s", reason(r));
        else if (!order[0])
            pd_answer_order(&r->answer, order);
        peer_request_free(r);
    }
    if (ret_order)
        memcpy(ret_order, order, sizeof(order));
    return status;
}

int trial_exists(struct trial *t, const char *upload, const struct trial_file *f,
                 const char *folder, bool *ret_exists, char *ret_order, struct err *e)
{
    int status = trial_session(t, e);
    if (status)
        return status;
    const struct pd_account *a = &t->session.account;
    struct pd_params_instance instance = {.study = f->instance.study,
                                          .patient_name = INSTANCE_PATIENT_NAME,
                                          .patient_id = f->instance.patient_id,
                                          .series = f->instance.series,
                                          .sop = f->instance.sop};
    struct peer_request *r =
        trial_ask(t, FRAME_UPLOAD, FRAME_CHECK_FILE_EXIST,
                  pd_params_check_file_exist(&t->peer->keys, upload, a->institution_uuid,
                                             a->user_uuid, folder, &instance),
                  false, e);
    if (!r)
        return err_wrap(e, "CheckFileExist");
    const cJSON *exists = cJSON_GetObjectItemCaseSensitive(r->answer.result, "FileIfExist");
    if (!cJSON_IsBool(exists))
        status = err_set(e, ERR_PROTOCOL, "CheckFileExist answers no FileIfExist");
    *ret_exists = cJSON_IsTrue(exists);
    if (ret_order)
        pd_answer_order(&r->answer, ret_order);
    peer_request_free(r);
    return status;
}

int trial_exists_within(struct trial *t, const char *upload, const struct trial_file *f,
                        uint64_t ms, bool *ret_exists, uint64_t *ret_ms, char *ret_order,
                        struct err *e)
{
    uint64_t start = clock_monotonic_ms(), asked = 0, pause = POLL_MIN_MS;
    for (;;) {
        int status = trial_exists(t, upload, f, NULL, ret_exists, ret_order, e);
        if (ret_ms)
            *ret_ms = asked;
        if (status || *ret_exists || asked >= ms)
            return status;
        peer_wait(t->peer, NULL, pause);
        if (t->peer->interrupted)
            return err_set(e, ERR_CANCELED, "interrupted");
        pause = pause * 2 > POLL_MAX_MS ? POLL_MAX_MS : pause * 2;
        asked = clock_monotonic_ms() - start;
    }
}

/* ---- folders ---- */

int trial_create_folder(struct trial *t, const char *parent, const char *name,
                        char ret_uuid[PD_UUID_SIZE], struct err *e)
{
    int status = trial_session(t, e);
    if (status)
        return status;
    transcript_known(t->peer->transcript, name);
    struct peer_request *r = trial_ask(
        t, FRAME_GENERAL, CREATE_FOLDER,
        pd_params_create_folder(&t->peer->keys, t->session.account.user_uuid, parent, name), false,
        e);
    if (!r)
        return err_wrap(e, "CreateFolder");
    const cJSON *folder = cJSON_GetObjectItemCaseSensitive(r->answer.result, "Folder");
    if (!pd_answer_id(folder, "FolderUuid", ret_uuid))
        pd_answer_id(r->answer.result, "FolderUuid", ret_uuid);
    peer_request_free(r);
    return 0;
}

struct peer_request *trial_list(struct trial *t, const char *parent, const char *name, bool orders,
                                const cJSON **ret_list, struct err *e)
{
    if (trial_session(t, e))
        return NULL;
    struct peer_request *r = trial_ask(
        t, FRAME_GENERAL, SEARCH_FOLDER,
        pd_params_folder_list(&t->peer->keys, t->session.account.user_uuid, parent, name, orders),
        false, e);
    if (!r) {
        err_wrap(e, "GetFolderList");
        return NULL;
    }
    const char *member = orders ? "PatientOrderList" : "SubFolderList";
    const cJSON *folder = cJSON_GetObjectItemCaseSensitive(r->answer.result, "Folder");
    *ret_list = cJSON_GetObjectItemCaseSensitive(folder, member);
    if (cJSON_IsArray(*ret_list))
        return r;
    err_set(e, ERR_PROTOCOL, "GetFolderList answers no Folder.%s", member);
    peer_request_free(r);
    return NULL;
}

int trial_find_folder(struct trial *t, const char *parent, const char *name,
                      char ret_uuid[PD_UUID_SIZE], struct err *e)
{
    const cJSON *list, *item;
    ret_uuid[0] = '\0';
    transcript_known(t->peer->transcript, name);
    struct peer_request *r = trial_list(t, parent, name, false, &list, e);
    if (!r)
        return e->code;
    cJSON_ArrayForEach(item, list)
    {
        const char *found = pd_answer_string(item, "FolderName");
        if (found && strcmp(found, name) == 0 && pd_answer_id(item, "FolderUuid", ret_uuid))
            break;
    }
    peer_request_free(r);
    return 0;
}

int trial_own_folder(struct trial *t, const char *name, char ret_uuid[PD_UUID_SIZE], struct err *e)
{
    char numbered[64];
    snprintf(numbered, sizeof(numbered), "%s %u", name, ++t->n_folders);
    int status = trial_create_folder(t, t->folder, numbered, ret_uuid, e);
    if (status == 0 && !*ret_uuid)
        status = trial_find_folder(t, t->folder, numbered, ret_uuid, e);
    if (status == 0 && !*ret_uuid)
        status = err_set(e, ERR_PROTOCOL, "the server created a folder and does not list it");
    return status;
}
