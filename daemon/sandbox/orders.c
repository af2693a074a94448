#include "sandbox/orders.h"

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

/* ---- Making one ---- */

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

int64_t orders_make(struct store *s, int64_t institution, const char *key,
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

/* ---- Methods ---- */

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
    order = orders_make(s, institution, NULL, in);
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
