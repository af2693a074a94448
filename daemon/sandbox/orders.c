#include "sandbox/orders.h"

#include "base/clock.h"
#include "sandbox/accounts.h"
#include "sandbox/folders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t orders_find(struct request *r, struct store *s, const char *uuid)
{
    int64_t id =
        store_get_int(s, 0, "SELECT id FROM orders WHERE uuid = lower(?1) AND (deleted = 0 OR ?2)",
                      "si", uuid, (int64_t)r->sandbox->options.permissive);

    if (id == 0 && r->sandbox->options.permissive && uuid_valid(uuid)) {
        store_exec(s, "INSERT INTO orders(uuid, institution) VALUES(lower(?), 0)", "s", uuid);
        id = store_last_id(s);
    }
    return id;
}

#define ORDER_COLUMNS                                                                              \
    "o.uuid, i.uuid, i.name, o.study_uid, o.patient_name, o.patient_id, o.other_patient_id,"       \
    " o.birth_date, o.sex, o.modality, o.description, o.accession, o.performed, o.procedure,"      \
    " o.referring,"                                                                                \
    " (SELECT count(*) FROM instances n WHERE n.order_id = o.id AND n.current),"                   \
    " (SELECT coalesce(sum(n.size), 0) FROM instances n WHERE n.order_id = o.id AND n.current),"   \
    " (SELECT count(*) FROM documents d WHERE d.order_id = o.id)"                                  \
    " FROM orders o LEFT JOIN institutions i ON i.id = o.institution"

static cJSON *row_json(struct store_sql *q)
{
    static const char *const names[] = {"PatientOrderUuid",
                                        "PatientOrderInstitutionUuid",
                                        "InstitutionName",
                                        "StudyInstanceUid",
                                        "PatientName",
                                        "PatientId",
                                        "OtherPatientId",
                                        "PatientBirthdate",
                                        "PatientSex",
                                        "OrderModality",
                                        "StudyDescription",
                                        "AccessionNumber",
                                        "PerformedDatetime",
                                        "RequestingProcedureDescription",
                                        "ReferringPhysiciansName"};
    cJSON *order = cJSON_CreateObject();
    int n = (int)(sizeof names / sizeof names[0]);

    for (int i = 0; i < n; i++)
        cJSON_AddStringToObject(order, names[i], store_text(q, i));
    cJSON_AddStringToObject(order, "OrderStatus", store_int(q, n) > 0 ? "Completed" : "Scheduled");
    cJSON_AddNumberToObject(order, "ImagesCount", (double)store_int(q, n));
    cJSON_AddNumberToObject(order, "OrderSize", (double)((store_int(q, n + 1) + 1023) / 1024));
    cJSON_AddNumberToObject(order, "DocumentsCount", (double)store_int(q, n + 2));
    return order;
}

cJSON *orders_json(struct store *s, int64_t id)
{
    struct store_sql *q = store_sql(s, "SELECT " ORDER_COLUMNS " WHERE o.id = ?", "i", id);
    cJSON *order;

    if (!store_row(q))
        return NULL;
    order = row_json(q);
    store_end(q);
    return order;
}

cJSON *orders_brief_json(struct store *s, int64_t id)
{
    static const char *const names[] = {"PatientOrderUuid", "PatientOrderInstitutionUuid",
                                        "StudyInstanceUid", "PatientName",
                                        "PatientId",        "OrderModality"};
    struct store_sql *q =
        store_sql(s,
                  "SELECT o.uuid, i.uuid, o.study_uid, o.patient_name, o.patient_id,"
                  " o.modality FROM orders o LEFT JOIN institutions i"
                  " ON i.id = o.institution WHERE o.id = ?",
                  "i", id);
    cJSON *order;

    if (!store_row(q))
        return NULL;
    order = cJSON_CreateObject();
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        cJSON_AddStringToObject(order, names[i], store_text(q, i));
    store_end(q);
    return order;
}

void orders_list_in_folder(struct store *s, int64_t folder, cJSON *list)
{
    struct store_sql *q =
        store_sql(s,
                  "SELECT " ORDER_COLUMNS " JOIN folder_orders fo ON fo.order_id = o.id"
                  " WHERE fo.folder = ? AND o.deleted = 0 ORDER BY o.id",
                  "i", folder);

    while (store_row(q))
        cJSON_AddItemToArray(list, row_json(q));
}

/* --- receiving
 * -----------------------------------------------------------------------------------------------------
 */

static const char *performed(const struct orders_instance *in, char out[20])
{
    const char *d = in->study_date, *t = in->study_time;

    out[0] = '\0';
    if (strlen(d) >= 8)
        snprintf(out, 20, "%.4s-%.2s-%.2s%s%.2s%s%.2s", d, d + 4, d + 6, strlen(t) >= 4 ? " " : "",
                 strlen(t) >= 4 ? t : "", strlen(t) >= 4 ? ":" : "", strlen(t) >= 4 ? t + 2 : "");
    return out;
}

static const char *birth_date(const struct orders_instance *in, char out[11])
{
    const char *d = in->birth_date;

    out[0] = '\0';
    if (strlen(d) == 8)
        snprintf(out, 11, "%.4s-%.2s-%.2s", d, d + 4, d + 6);
    return out;
}

static int64_t make_order(struct store *s, int64_t institution, const char *key,
                          const struct orders_instance *in)
{
    char uuid[UUID_TEXT_SIZE], when[20], born[11];

    uuid_generate(uuid);
    store_exec(
        s,
        "INSERT INTO orders(uuid, institution, study_key, study_uid, patient_name, patient_id,"
        " other_patient_id, birth_date, sex, modality, description, accession, performed,"
        " procedure, referring) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "sisssssssssssss", uuid, institution, key, in->study_uid, in->patient_name, in->patient_id,
        in->other_patient_id, birth_date(in, born), in->sex, in->modality, in->description,
        in->accession, performed(in, when), in->procedure, in->referring);
    return store_last_id(s);
}

/* An order lists the modalities of its instances, as ModalitiesInStudy does. */
static void add_modality(struct store *s, int64_t order, const char *modality)
{
    if (modality[0] != '\0')
        store_exec(s,
                   "UPDATE orders SET modality = CASE WHEN modality = '' THEN ?2"
                   " ELSE modality || '\\' || ?2 END WHERE id = ?1 AND"
                   " instr('\\' || modality || '\\', '\\' || ?2 || '\\') = 0",
                   "is", order, modality);
}

/* FolderUuidList: all folders must be there, before anything is written. */
static int put_into_folders(struct request *r, struct store *s, int64_t order, bool made)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(r->params, "FolderUuidList"))
    {
        int64_t folder = folders_find(r, s, cJSON_IsString(item) ? item->valuestring : "");

        if (folder == FOLDERS_UNKNOWN) {
            if (r->sandbox->assume.folder_gone == ASSUME_GONE_IGNORE)
                continue;
            return request_fail(r, "The folder is not known.");
        }
        if (folder != FOLDERS_ROOT && (made || r->sandbox->assume.folder_list != ASSUME_LIST_FIRST))
            folders_put_order(s, folder, order);
    }
    return 0;
}

static void count_instance(struct request *r, struct store *s, int64_t order, int64_t institution,
                           const struct orders_instance *in)
{
    int64_t now = clock_realtime_ms();
    bool keep = r->sandbox->assume.same_instance == ASSUME_INSTANCE_KEEP;

    if (store_exec(s,
                   "UPDATE instances SET receipts = receipts + 1"
                   " WHERE order_id = ? AND sop_uid = ? AND sha256 = ?",
                   "iss", order, in->sop_uid, in->sha256) == 0)
        store_exec(s,
                   "INSERT INTO instances(order_id, institution, sop_uid, series_uid, sop_class,"
                   " transfer_syntax, sha256, size, receipts, current, received_ms)"
                   " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, NOT EXISTS (SELECT 1 FROM instances"
                   " WHERE order_id = ?1 AND sop_uid = ?3), ?9)",
                   "iisssssii", order, institution, in->sop_uid, in->series_uid, in->sop_class,
                   in->transfer_syntax, in->sha256, in->size, now);
    if (!keep)
        store_exec(
            s,
            "UPDATE instances SET current = (sha256 = ?3) WHERE order_id = ?1 AND sop_uid = ?2"
            " AND current <> (sha256 = ?3)",
            "iss", order, in->sop_uid, in->sha256);
}

int orders_receive_instance(struct request *r, struct store *s, const struct orders_instance *in,
                            int64_t *ret_order)
{
    bool permissive = r->sandbox->options.permissive;
    int64_t institution = accounts_institution(s, request_text(r, "InstitutionUuid"), permissive);
    bool made = false;
    char key[2 * DICOM_UID_SIZE + UUID_TEXT_SIZE];
    int64_t order;
    int rc;

    if (institution == 0)
        return request_fail(r, "The institution is not known.");
    if (accounts_user(s, request_text(r, "UserUuid"), permissive) == 0)
        return request_fail(r, "The user is not known.");
    /* Without a Study Instance UID an instance is a study by itself. */
    snprintf(key, sizeof key, "%s%s%s%s", in->study_uid, in->study_uid[0] ? "" : "/",
             in->study_uid[0] ? "" : in->sop_uid,
             r->sandbox->assume.orders_merge == ASSUME_MERGE_SESSION ? in->upload_session : "");
    order = store_get_int(s, 0, "SELECT id FROM orders WHERE institution = ? AND study_key = ?",
                          "is", institution, key);
    if (order == 0) {
        order = make_order(s, institution, key, in);
        made = true;
    } else {
        store_exec(s, "UPDATE orders SET deleted = 0 WHERE id = ? AND deleted", "i", order);
    }
    rc = put_into_folders(r, s, order, made);
    if (rc)
        return rc;
    if (in->sha256[0] != '\0') {
        add_modality(s, order, in->modality);
        count_instance(r, s, order, institution, in);
    }
    *ret_order = order;
    return 0;
}

int orders_receive_document(struct request *r, struct store *s, const char *sha256, int64_t size,
                            int64_t *ret_order)
{
    int64_t order = orders_find(r, s, request_text(r, "PatientOrderUuid"));
    const char *name = request_text(r, "FileName");

    if (order == 0)
        return request_fail(r, "The order is not known.");
    if (store_exec(s,
                   "UPDATE documents SET receipts = receipts + 1"
                   " WHERE order_id = ? AND name = ? AND sha256 = ?",
                   "iss", order, name, sha256) == 0)
        store_exec(
            s,
            "INSERT INTO documents(order_id, name, type, sha256, size, receipts, received_ms)"
            " VALUES(?, ?, ?, ?, ?, 1, ?)",
            "isssii", order, name, request_text(r, "FileType"), sha256, size, clock_realtime_ms());
    *ret_order = order;
    return 0;
}

int orders_check(struct request *r, struct store *s, struct orders_exists *ret)
{
    static const char sql[] =
        "SELECT n.order_id FROM instances n JOIN orders o ON o.id = n.order_id"
        " WHERE n.sop_uid = ?1 AND n.institution = ?2 AND o.study_uid = ?3 AND o.deleted = 0"
        " AND n.received_ms <= ?4 AND (?5 = 0 OR EXISTS (SELECT 1 FROM folder_orders fo"
        " WHERE fo.folder = ?5 AND fo.order_id = o.id)) ORDER BY n.id DESC LIMIT 1";
    int64_t institution =
        accounts_institution(s, request_text(r, "InstitutionUuid"), r->sandbox->options.permissive);
    int64_t folder = folders_find(r, s, request_text(r, "FolderUuid"));
    int64_t before = clock_realtime_ms() - r->sandbox->assume.exists_delay;
    int64_t order;

    if (institution == 0)
        return request_fail(r, "The institution is not known.");
    if (r->sandbox->assume.exists_scope != ASSUME_SCOPE_FOLDER)
        folder = FOLDERS_ROOT;
    order = store_get_int(s, 0, sql, "sisii", request_text(r, "SopInstanceUid"), institution,
                          request_text(r, "StudyInstanceUid"), before, folder);
    ret->exists = order != 0;
    if (order == 0)
        order = store_get_int(s, 0,
                              "SELECT id FROM orders WHERE study_uid = ? AND study_uid <> ''"
                              " AND institution = ? AND deleted = 0 ORDER BY id DESC LIMIT 1",
                              "si", request_text(r, "StudyInstanceUid"), institution);
    if (order != 0 && r->sandbox->assume.exists_order != ASSUME_EXISTS_NO_ORDER)
        ret->order = orders_brief_json(s, order);
    return 0;
}

/* --- general methods
 * -----------------------------------------------------------------------------------------------
 */

/* "CT", ["CT", "MR"]: as ",CT,MR,"; "" for any. malloc'ed. */
static char *list_text(const cJSON *list)
{
    char *text = strdup(""), *longer;
    const cJSON *item;

    if (cJSON_IsString(list) && list->valuestring[0] != '\0') {
        free(text);
        return asprintf(&text, ",%s,", list->valuestring) < 0 ? NULL : text;
    }
    cJSON_ArrayForEach(item, list)
    {
        if (!text || !cJSON_IsString(item))
            continue;
        if (asprintf(&longer, "%s%s%s,", text, text[0] ? "" : ",", item->valuestring) < 0)
            longer = NULL;
        free(text);
        text = longer;
    }
    return text;
}

static int search_in_folder(struct request *r, struct store *s, cJSON *list)
{
    int64_t folder = folders_find(r, s, request_text(r, "FolderUuid"));

    if (folder == FOLDERS_UNKNOWN)
        return request_fail(r, "The folder is not known.");
    orders_list_in_folder(s, folder, list);
    return 0;
}

int orders_search(struct request *r, struct store *s, cJSON *answer)
{
    static const char sql[] =
        "SELECT " ORDER_COLUMNS " WHERE o.deleted = 0"
        " AND (?1 = '' OR instr(?1, ',' || i.uuid || ',') > 0)"
        " AND (?2 = '' OR instr(lower(o.patient_name), lower(?2)) > 0)"
        " AND (?3 = '' OR o.accession = ?3) AND (?4 = '' OR o.patient_id = ?4)"
        " AND (?5 = '' OR o.other_patient_id = ?5)"
        " AND (?6 = '' OR EXISTS (WITH RECURSIVE part(one, rest) AS"
        "  (SELECT '', o.modality || '\\' UNION ALL SELECT substr(rest, 1, instr(rest, '\\') - 1),"
        "   substr(rest, instr(rest, '\\') + 1) FROM part WHERE rest <> '')"
        "  SELECT 1 FROM part WHERE one <> '' AND instr(?6, ',' || one || ',') > 0))"
        " AND (?7 = '' OR substr(o.performed, 1, 10) >= ?7)"
        " AND (?8 = '' OR (o.performed <> '' AND substr(o.performed, 1, 10) <= ?8))"
        " AND (?9 = '' OR o.birth_date >= ?9)"
        " AND (?10 = '' OR (o.birth_date <> '' AND o.birth_date <= ?10)) ORDER BY o.id";
    cJSON *list = cJSON_AddArrayToObject(answer, "SearchResultList");
    char *institutions, *modalities;
    struct store_sql *q;

    if (cJSON_HasObjectItem(r->params, "FolderUuid"))
        return search_in_folder(r, s, list);
    institutions = list_text(cJSON_GetObjectItemCaseSensitive(r->params, "InstitutionUuidList"));
    modalities = list_text(cJSON_GetObjectItemCaseSensitive(r->params, "Modalities"));
    q = store_sql(s, sql, "ssssssssss", institutions ? institutions : "",
                  request_text(r, "PatientName"), request_text(r, "AccessionNumber"),
                  request_text(r, "PatientId"), request_text(r, "OtherPatientId"),
                  modalities ? modalities : "", request_text(r, "StartDate"),
                  request_text(r, "EndDate"), request_text(r, "StartBirthdate"),
                  request_text(r, "EndBirthdate"));
    while (store_row(q))
        cJSON_AddItemToArray(list, row_json(q));
    free(institutions);
    free(modalities);
    return 0;
}

static int create(struct request *r, struct store *s, const struct orders_instance *in,
                  cJSON *answer)
{
    int64_t institution =
        accounts_institution(s, request_text(r, "InstitutionUuid"), r->sandbox->options.permissive);
    int64_t order;

    if (institution == 0)
        return request_fail(r, "The institution is not known.");
    order = make_order(s, institution, NULL, in);
    store_exec(s, "UPDATE orders SET performed = ?, birth_date = ? WHERE id = ?", "ssi",
               in->study_date, in->birth_date, order);
    cJSON_AddItemToObject(answer, "PatientOrder", orders_json(s, order));
    return 0;
}

int orders_create(struct request *r, struct store *s, cJSON *answer)
{
    struct orders_instance in = {
        .study_uid = "",
        .patient_name = request_text(r, "PatientName"),
        .patient_id = request_text(r, "PatientID"),
        .other_patient_id = request_text(r, "OtherPatientId"),
        .birth_date = request_text(r, "PatientsBirthDate"),
        .sex = request_text(r, "PatientSex"),
        .modality = request_text(r, "OrderModality"),
        .description = request_text(r, "StudyDescription"),
        .accession = request_text(r, "OrderAccessionNumber"),
        .study_date = request_text(r, "PerformedDatetime"),
        .study_time = "",
        .procedure = request_text(r, "RequestingProcedureDescription"),
        .referring = request_text(r, "ReferringPhysiciansName"),
    };

    return create(r, s, &in, answer);
}

static const char *member(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

int orders_create_json(struct request *r, struct store *s, cJSON *answer)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(r->params, "JsonParameters");
    const cJSON *identity = cJSON_GetObjectItemCaseSensitive(all, "IdentityInformation");
    const cJSON *study = cJSON_GetObjectItemCaseSensitive(all, "StudyInformation");
    const cJSON *other = cJSON_GetObjectItemCaseSensitive(all, "OtherInformation");
    struct orders_instance in = {
        .study_uid = "",
        .patient_name = member(identity, "Name"),
        .patient_id = member(identity, "Id"),
        .other_patient_id = member(identity, "OtherId"),
        .birth_date = member(identity, "Birthdate"),
        .sex = member(identity, "Sex"),
        .modality = member(all, "Modality"),
        .description = member(study, "StudyDescription"),
        .accession = member(all, "AccessionNumber"),
        .study_date = member(study, "StudyDate"),
        .study_time = "",
        .procedure = member(other, "RequestedProcedureDescription"),
        .referring = member(other, "ReferringPhysiciansName"),
    };

    return create(r, s, &in, answer);
}

int orders_delete(struct request *r, struct store *s, cJSON *answer)
{
    int64_t id = orders_find(r, s, request_text(r, "PatientOrderUuid"));

    (void)answer;
    if (id == 0)
        return request_fail(r, "The order is not known.");
    store_exec(s, "UPDATE orders SET deleted = 1 WHERE id = ?", "i", id);
    return 0;
}

int orders_properties(struct request *r, struct store *s, cJSON *answer)
{
    int64_t id = orders_find(r, s, request_text(r, "PatientOrderUuid"));

    if (id == 0)
        return request_fail(r, "The order is not known.");
    cJSON_AddItemToObject(answer, "PatientOrder", orders_json(s, id));
    return 0;
}

int orders_acknowledge(struct request *r, struct store *s, cJSON *answer)
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

int orders_share_url(struct request *r, struct store *s, cJSON *answer)
{
    char url[128], id[UUID_TEXT_SIZE];
    int rc = orders_acknowledge(r, s, answer);

    if (rc)
        return rc;
    uuid_generate(id);
    snprintf(url, sizeof url, "http%s://localhost/view/%s", r->sandbox->options.tls_cert ? "s" : "",
             id);
    cJSON_AddStringToObject(answer, "Result", url);
    return 0;
}

int orders_view_url(struct request *r, struct store *s, cJSON *answer)
{
    const char *name = request_text(r, "PatientName");

    if (name[0] != '\0' && !r->sandbox->options.permissive &&
        store_get_int(s, 0,
                      "SELECT count(*) FROM orders WHERE patient_name = ?1 AND deleted = 0"
                      " AND (?2 = '' OR birth_date = ?2)",
                      "ss", name, request_text(r, "BirthDate")) == 0)
        return request_fail(r, "No order is known of this patient.");
    return orders_share_url(r, s, answer);
}

int orders_user_list(struct request *r, struct store *s, cJSON *answer)
{
    cJSON *account = accounts_json(s);

    (void)r;
    cJSON_AddItemToObject(answer, "UserList", cJSON_DetachItemFromObject(account, "UserList"));
    cJSON_Delete(account);
    return 0;
}

int orders_empty_list(struct request *r, struct store *s, cJSON *answer)
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
