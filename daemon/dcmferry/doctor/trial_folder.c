/* Rows about folders. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

#define DELETE_FOLDER 4
#define MORE          "A and more"

/* Finds or makes one folder. */
static int find_or_make(struct trial *t, const char *parent, const char *name,
                        char ret_uuid[PD_UUID_SIZE], bool *ret_made, struct err *e)
{
    int status = trial_find_folder(t, parent, name, ret_uuid, e);
    *ret_made = status == 0 && !*ret_uuid;
    if (!*ret_made)
        return status;
    status = trial_create_folder(t, parent, name, ret_uuid, e);
    if (status)
        return status;
    if (!t->report->rows[REPORT_CREATE_ANSWER].told)
        report_found(t->report, REPORT_CREATE_ANSWER, *ret_uuid ? "uuid" : "none", NULL);
    if (!*ret_uuid)
        status = trial_find_folder(t, parent, name, ret_uuid, e);
    if (status == 0 && !*ret_uuid)
        status = err_set(e, ERR_PROTOCOL, "the server created a folder and does not list it");
    return status;
}

/* `path`, component by component. */
static int make_top(struct trial *t, struct err *e)
{
    char name[256], uuid[PD_UUID_SIZE], parent[PD_UUID_SIZE] = "";
    for (const char *p = t->path; *p;) {
        size_t n = strcspn(p, "/");
        bool made;
        if (n >= sizeof(name))
            return err_set(e, ERR_INVALID, "a folder's name is too long");
        memcpy(name, p, n);
        name[n] = '\0';
        p += n + strspn(p + n, "/");
        if (n == 0)
            continue;
        int status = find_or_make(t, parent, name, uuid, &made, e);
        if (status)
            return status;
        if (made && !t->top_made[0])
            memcpy(t->top_made, uuid, sizeof(uuid));
        memcpy(parent, uuid, sizeof(uuid));
    }
    if (!parent[0])
        return err_set(e, ERR_INVALID, "the folder has no name");
    memcpy(t->top, parent, sizeof(parent));
    return 0;
}

static int count_earlier(struct trial *t, struct err *e)
{
    const cJSON *list;
    struct peer_request *r = trial_list(t, t->top, "", false, &list, e);
    if (!r)
        return e->code;
    t->left_before = (unsigned)cJSON_GetArraySize(list);
    peer_request_free(r);
    return 0;
}

int trial_create(struct trial *t, struct err *e)
{
    bool made;
    int status = t->top[0] ? 0 : make_top(t, e);
    if (status == 0 && !t->folder[0])
        status = count_earlier(t, e);
    if (status == 0 && !t->folder[0])
        status = find_or_make(t, t->top, t->run, t->folder, &made, e);
    if (status == 0)
        status = find_or_make(t, t->folder, "A", t->a, &made, e);
    if (status == 0)
        status = find_or_make(t, t->folder, "B", t->b, &made, e);
    return status;
}

int trial_folder_search(struct trial *t, struct err *e)
{
    char uuid[PD_UUID_SIZE];
    const cJSON *list, *item;
    bool exact = false, more = false, made;
    int status = find_or_make(t, t->folder, MORE, uuid, &made, e);
    if (status)
        return status;
    struct peer_request *r = trial_list(t, t->folder, "A", false, &list, e);
    if (!r)
        return e->code;
    cJSON_ArrayForEach(item, list)
    {
        const char *name = pd_answer_string(item, "FolderName");
        exact = exact || (name && strcmp(name, "A") == 0);
        more = more || (name && strcmp(name, MORE) == 0);
    }
    peer_request_free(r);
    if (!exact)
        return err_set(e, ERR_PROTOCOL, "a folder that was just made is not found by its name");
    report_found(t->report, REPORT_FOLDER_SEARCH, more ? "contains" : "exact", NULL);
    return 0;
}

/* How many folders of this very name there are. */
static int count_named(struct trial *t, const char *name, unsigned *ret, struct err *e)
{
    const cJSON *list, *item;
    struct peer_request *r = trial_list(t, t->folder, name, false, &list, e);
    if (!r)
        return e->code;
    *ret = 0;
    cJSON_ArrayForEach(item, list)
    {
        const char *found = pd_answer_string(item, "FolderName");
        *ret += found && strcmp(found, name) == 0;
    }
    peer_request_free(r);
    return 0;
}

int trial_create_existing(struct trial *t, struct err *e)
{
    char uuid[PD_UUID_SIZE];
    unsigned n = 0;
    int status = trial_create_folder(t, t->folder, "A", uuid, e);
    if (status == ERR_REFUSED) {
        if ((status = trial_alive(t, e)) == 0)
            report_found(t->report, REPORT_CREATE_EXISTING, "error", NULL);
        return status;
    }
    if (status == 0)
        status = count_named(t, "A", &n, e);
    if (status)
        return status;
    report_found(t->report, REPORT_CREATE_EXISTING,
                 n > 1 || (*uuid && strcmp(uuid, t->a) != 0) ? "twin" : "same", NULL);
    return 0;
}

/* The study has its order in another folder, so that nothing ends outside of ours. */
static int send_into(struct trial *t, struct peer_line *l, const char *gone, struct err *e)
{
    char upload[PD_UUID_SIZE], study[INSTANCE_UID_SIZE];
    struct trial_file first = {0}, second = {0};
    instance_uid(study);
    int status = trial_file_make(t, study, TRIAL_SMALL, &first, e);
    if (status == 0)
        status = trial_file_make(t, study, TRIAL_SMALL, &second, e);
    if (status == 0)
        status = trial_initialize(t, first.bytes.size + second.bytes.size, upload, e);
    if (status == 0)
        status = trial_send(t, l, upload, &first, 0, 0, t->a, NULL, e);
    struct peer_request *r = status == 0 ? trial_put(t, l, upload, &second, 1, 0, gone, e) : NULL;
    if (status == 0 && !r)
        status = e->code;
    else if (r && r->answer.ok)
        report_found(t->report, REPORT_FOLDER_GONE, "ignore", NULL);
    else if (r && (status = trial_alive(t, e)) == 0)
        report_found(t->report, REPORT_FOLDER_GONE, "refuse", NULL);
    peer_request_free(r);
    trial_file_free(&first);
    trial_file_free(&second);
    return status;
}

int trial_folder_gone(struct trial *t, struct err *e)
{
    char gone[PD_UUID_SIZE];
    struct peer_line *l;
    int status = trial_own_folder(t, "gone", gone, e);
    if (status)
        return status;
    struct peer_request *r = trial_ask(
        t, FRAME_GENERAL, DELETE_FOLDER,
        pd_params_delete_folder(&t->peer->keys, t->session.account.user_uuid, gone), false, e);
    if (!r)
        return err_wrap(e, "DeleteFolder");
    peer_request_free(r);
    status = trial_line(t, &l, e);
    if (status == 0)
        status = send_into(t, l, gone, e);
    peer_line_close(l);
    return status;
}
