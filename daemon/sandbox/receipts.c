#include "sandbox/receipts.h"

#include "base/clock.h"
#include "sandbox/accounts.h"
#include "sandbox/folders.h"

#include <stdio.h>

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

int receipts_instance(struct request *r, struct store *s, const struct orders_instance *in,
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
        order = orders_make(s, institution, key, in);
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

int receipts_document(struct request *r, struct store *s, const char *sha256, int64_t size,
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

int receipts_check(struct request *r, struct store *s, struct receipts_exists *ret)
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
