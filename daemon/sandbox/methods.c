#include "sandbox/methods.h"

#include "sandbox/accounts.h"
#include "sandbox/folders.h"
#include "sandbox/orders.h"

#include <stdio.h>

/* ---- Those that belong to no table of the store ---- */

/* Checks that the folders and orders that are named exist, and says yes. */
static int acknowledge(struct request *r, struct store *s, cJSON *answer)
{
    static const char *const lists[] = {"PatientOrderUuidList", "OrderUuidList"};
    const cJSON *item;

    (void)answer;
    if (cJSON_HasObjectItem(r->params, "FolderUuid") &&
        folders_find(r, s, request_text(r, "FolderUuid")) <= FOLDERS_ROOT)
        return request_fail(r, "The folder is not known.");
    if (cJSON_HasObjectItem(r->params, "PatientOrderUuid") &&
        orders_find(r, s, request_text(r, "PatientOrderUuid")) == 0)
        return request_fail(r, "The order is not known.");
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(r->params, lists[i]))
        {
            if (orders_find(r, s, cJSON_IsString(item) ? item->valuestring : "") == 0)
                return request_fail(r, "An order is not known.");
        }
    }
    return 0;
}

static int share_url(struct request *r, struct store *s, cJSON *answer)
{
    char url[128], id[UUID_TEXT_SIZE];
    int rc = acknowledge(r, s, answer);

    if (rc)
        return rc;
    uuid_generate(id);
    snprintf(url, sizeof url, "http%s://localhost/view/%s", r->sandbox->options.tls_cert ? "s" : "",
             id);
    cJSON_AddStringToObject(answer, "Result", url);
    return 0;
}

static int view_url(struct request *r, struct store *s, cJSON *answer)
{
    const char *name = request_text(r, "PatientName");

    if (name[0] != '\0' && !r->sandbox->options.permissive &&
        store_get_int(s, 0,
                      "SELECT count(*) FROM orders WHERE patient_name = ?1 AND deleted = 0"
                      " AND (?2 = '' OR birth_date = ?2)",
                      "ss", name, request_text(r, "BirthDate")) == 0)
        return request_fail(r, "No order is known of this patient.");
    return share_url(r, s, answer);
}

static int user_list(struct request *r, struct store *s, cJSON *answer)
{
    cJSON *account = accounts_json(s);

    (void)r;
    cJSON_AddItemToObject(answer, "UserList", cJSON_DetachItemFromObject(account, "UserList"));
    cJSON_Delete(account);
    return 0;
}

static int empty_list(struct request *r, struct store *s, cJSON *answer)
{
    static const struct {
        int32_t management;
        const char *name;
    } lists[] = {
        {22, "UserGroupList"}, {23, "DicomNodeList"}, {24, "ContactList"}, {30, "FlagDictionary"}};

    (void)s;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (lists[i].management == r->frame.management)
            cJSON_AddArrayToObject(answer, lists[i].name);
    }
    return 0;
}

/* ---- All of them ---- */

/* Section 4 of the wire protocol, in its order. */
static const struct general_method methods[] = {
    {1, "SearchPatientOrder", orders_search, true},
    {2, "CreateFolder", folders_create, false},
    {3, "SearchFolder", folders_search, false},
    {4, "DeleteFolder", folders_delete, false},
    {5, "GetViewUrl", view_url, false},
    {6, "DeletePatientOrder", orders_delete, false},
    {7, "CreatePatientOrder", orders_create, false},
    {8, "AddOrderToFolder", folders_add_order, false},
    {9, "RemoveOrderFromFolder", folders_remove_orders, false},
    {10, "CreateOrderGroup", acknowledge, false},
    {11, "AddOrdersToOrderGroup", acknowledge, false},
    {12, "RemoveOrdersFromGroup", acknowledge, false},
    {13, "GetPatientOrderProperties", orders_properties, false},
    {14, "ShareFolderWithEmail", acknowledge, false},
    {15, "ShareFolderWithURL", share_url, false},
    {16, "ShareFolderToUploadWithEmail", acknowledge, false},
    {17, "ShareFolderToUploadWithUrl", share_url, false},
    {18, "ShareFolderWithAccountUser", acknowledge, false},
    {19, "ShareFolderWithAccountUserGroup", acknowledge, false},
    {20, "SharePatientOrderWithEmail", acknowledge, false},
    {21, "SharePatientOrderWithUrl", share_url, false},
    {22, "GetUserGroupList", empty_list, true},
    {23, "GetDicomNodeList", empty_list, true},
    {24, "GetContactList", empty_list, true},
    {25, "CreatePatientOrderWithJson", orders_create_json, false},
    {26, "GetFolderViewUrl", share_url, false},
    {27, "UpdateFolderWithJson", folders_update, false},
    {28, "AssignPatientOrderToUser", acknowledge, false},
    {29, "AssignPatientOrderToUserGroup", acknowledge, false},
    {30, "GetAccountFlagDictionary", empty_list, true},
    {31, "SetFlagToPatientOrder", acknowledge, false},
    {32, "UnassignPatientOrderFromUser", acknowledge, false},
    {33, "UnassignPatientOrderFromUserGroup", acknowledge, false},
    {34, "GetUserList", user_list, true},
    {35, "AssignPatientOrderToInstitution", acknowledge, false},
    {36, "SharePatientOrderWithEmailWithExpireDate", acknowledge, false},
    {37, "SharePatientOrderWithUrlWithExpireDate", share_url, false},
};

static int run_general(struct store *s, struct store_op *op)
{
    struct request *r = (struct request *)op;

    r->answer = cJSON_CreateObject();
    if (accounts_user(s, request_text(r, "UserUuid"), r->sandbox->options.permissive) == 0)
        return request_fail(r, "The user is not known.");
    return r->method->run(r, s, r->answer);
}

static void general_done(struct store_op *op, int status, const struct err *e)
{
    struct request *r = (struct request *)op;
    cJSON *answer;

    if (status < 0) {
        request_refuse(r, RESPONSE_FAILED, e->text);
        return;
    }
    /* The method's own failure is a success of the frame: the callback is told. */
    if (status > 0) {
        answer = cJSON_CreateObject();
        cJSON_AddFalseToObject(answer, "Success");
        cJSON_AddStringToObject(answer, "Message", r->failure);
    } else {
        answer = r->answer;
        r->answer = NULL;
        cJSON_AddTrueToObject(answer, "Success");
    }
    request_answer(r, RESPONSE_OK, answer);
}

void methods_handle(struct request *r)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (methods[i].management != r->frame.management)
            continue;
        r->method = &methods[i];
        r->op.run = run_general;
        r->op.done = general_done;
        r->op.read_only = methods[i].read_only && !r->sandbox->options.permissive;
        store_submit(r->sandbox->store, &r->op);
        return;
    }
    request_refuse(r, RESPONSE_INVALID, "This management type is not known.");
}
