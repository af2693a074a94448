/* Files with their deliveries as JSON, for people. */
#include "journal/journal_internal.h"

#include "base/clock.h"
#include "base/text.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MAX 10000

/* Adds a text column; bytes that are not UTF-8 become U+FFFD, and the bytes themselves go into
 * <key>_hex. */
static bool add_text(cJSON *o, const char *key, sqlite3_stmt *stmt, int column)
{
    const unsigned char *p = sqlite3_column_blob(stmt, column);
    size_t size = (size_t)sqlite3_column_bytes(stmt, column);
    char name[64];
    char *text, *out;
    bool ok, valid = true;

    if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
        return true;
    text = out = malloc(3 * size + 1);
    if (text == NULL)
        return false;
    for (size_t i = 0; i < size;) {
        size_t n = 1;

        while (n <= 4 && i + n <= size && !text_utf8_valid((const char *)p + i, n))
            n++;
        if (n > 4 || i + n > size || p[i] == '\0') {
            memcpy(out, "\xEF\xBF\xBD", 3);
            out += 3;
            i++;
            valid = false;
        } else {
            memcpy(out, p + i, n);
            out += n;
            i += n;
        }
    }
    *out = '\0';
    ok = cJSON_AddStringToObject(o, key, text) != NULL;
    free(text);
    if (!ok || valid)
        return ok;
    text = malloc(2 * size + 1);
    if (text == NULL)
        return false;
    text_hex(p, size, text);
    snprintf(name, sizeof(name), "%s_hex", key);
    ok = cJSON_AddStringToObject(o, name, text) != NULL;
    free(text);
    return ok;
}

static bool add_sha256(cJSON *o, sqlite3_stmt *stmt, int column)
{
    uint8_t sha256[JOURNAL_SHA256_SIZE];
    char text[2 * JOURNAL_SHA256_SIZE + 1];

    if (!journal_column_sha256(stmt, column, sha256))
        return true;
    text_hex(sha256, sizeof(sha256), text);
    return cJSON_AddStringToObject(o, "sha256", text) != NULL;
}

static bool add_number(cJSON *o, const char *key, sqlite3_stmt *stmt, int column)
{
    char text[24];

    if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
        return true;
    /* cJSON's numbers are doubles: digits as they are, or large ones lose some. */
    snprintf(text, sizeof(text), "%lld", (long long)sqlite3_column_int64(stmt, column));
    return cJSON_AddRawToObject(o, key, text) != NULL;
}

static bool add_time(cJSON *o, const char *key, sqlite3_stmt *stmt, int column)
{
    char text[25];

    if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
        return true;
    clock_format(sqlite3_column_int64(stmt, column), text);
    return cJSON_AddStringToObject(o, key, text) != NULL;
}

static bool add_delivery(cJSON *array, sqlite3_stmt *stmt)
{
    cJSON *o = cJSON_CreateObject();

    if (o == NULL || !cJSON_AddItemToArray(array, o)) {
        cJSON_Delete(o);
        return false;
    }
    return add_number(o, "id", stmt, 0) && add_text(o, "destination", stmt, 1) &&
           add_text(o, "route", stmt, 2) && add_text(o, "folder", stmt, 3) &&
           add_number(o, "priority", stmt, 4) &&
           cJSON_AddStringToObject(
               o, "state", delivery_state_name((enum delivery_state)sqlite3_column_int(stmt, 5))) !=
               NULL &&
           add_number(o, "attempts", stmt, 6) && add_time(o, "next", stmt, 7) &&
           cJSON_AddBoolToObject(o, "uncertain", sqlite3_column_int(stmt, 8)) != NULL &&
           cJSON_AddBoolToObject(o, "send_anyway", sqlite3_column_int(stmt, 9)) != NULL &&
           add_text(o, "reason", stmt, 10) && add_sha256(o, stmt, 11) &&
           add_text(o, "remote_id", stmt, 12) && add_number(o, "bytes", stmt, 13) &&
           add_time(o, "created", stmt, 14) && add_time(o, "changed", stmt, 15) &&
           add_time(o, "acknowledged", stmt, 16);
}

static int add_file(struct journal *j, cJSON *array, uint64_t id, struct err *e)
{
    cJSON *o = cJSON_CreateObject(), *deliveries;
    sqlite3_stmt *stmt;
    bool ok;
    int rc;

    if (o == NULL || !cJSON_AddItemToArray(array, o)) {
        cJSON_Delete(o);
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    }
    rc = journal_query(&j->db, e, &stmt,
                       "SELECT id, watch, path, size, state, reason, sop_class_uid, "
                       "sop_instance_uid, study_instance_uid,"
                       " series_instance_uid, transfer_syntax_uid, sha256, created_ms, changed_ms, "
                       "disposed_ms, target,"
                       " note, gone_ms, mtime_ns, acknowledged_ms FROM file WHERE id = ?",
                       journal_id(id));
    if (rc <= 0)
        return rc;
    ok = add_number(o, "id", stmt, 0) && add_text(o, "watch", stmt, 1) &&
         add_text(o, "path", stmt, 2) && add_number(o, "size", stmt, 3) &&
         cJSON_AddStringToObject(
             o, "state", file_state_name((enum file_state)sqlite3_column_int(stmt, 4))) != NULL &&
         add_text(o, "reason", stmt, 5) && add_text(o, "sop_class_uid", stmt, 6) &&
         add_text(o, "sop_instance_uid", stmt, 7) && add_text(o, "study_instance_uid", stmt, 8) &&
         add_text(o, "series_instance_uid", stmt, 9) &&
         add_text(o, "transfer_syntax_uid", stmt, 10) && add_sha256(o, stmt, 11) &&
         add_time(o, "created", stmt, 12) && add_time(o, "changed", stmt, 13) &&
         add_time(o, "disposed", stmt, 14) && add_text(o, "target", stmt, 15) &&
         add_text(o, "note", stmt, 16) && add_time(o, "gone", stmt, 17) &&
         add_number(o, "mtime_ns", stmt, 18) && add_time(o, "acknowledged", stmt, 19);
    journal_db_done(stmt);
    deliveries = ok ? cJSON_AddArrayToObject(o, "deliveries") : NULL;
    if (deliveries == NULL)
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    rc = journal_query(
        &j->db, e, &stmt,
        "SELECT id, destination, route, folder, priority, state, attempts, next_ms, uncertain, "
        "send_anyway,"
        " reason, sha256, remote_id, bytes, created_ms, changed_ms, acknowledged_ms FROM delivery"
        " WHERE file_id = ? ORDER BY id",
        journal_id(id));
    for (; rc == 1; rc = journal_db_next(&j->db, e, stmt))
        if (!add_delivery(deliveries, stmt)) {
            journal_db_done(stmt);
            return err_set(e, ERR_NOMEM, "journal: out of memory");
        }
    return rc;
}

/* Newest first. What is asked for decides which index leads: UIDs and the path; else, for problems,
 * the newest of each state in question, so that a million waiting ones are not sorted; else states
 * that are in an index; else all by id. */
#define FILTERS                                                                                    \
    " (?1 IS NULL OR f.study_instance_uid = ?1) AND (?2 IS NULL OR f.sop_instance_uid = ?2)"       \
    " AND (?3 IS NULL OR f.path = ?3) AND (?5 < 0 OR f.state = ?5)"                                \
    " AND ((?4 IS NULL AND ?6 < 0) OR EXISTS (SELECT 1 FROM delivery d WHERE d.file_id = f.id"     \
    "  AND (?4 IS NULL OR d.destination = ?4) AND (?6 < 0 OR d.state = ?6)))"                      \
    " AND (NOT ?7 OR ((f.state IN (4, 5, 6) OR (f.state = 2 AND f.note IS NOT NULL AND f.past = "  \
    "0))"                                                                                          \
    "   AND (?10 OR f.acknowledged_ms IS NULL))"                                                   \
    "  OR EXISTS (SELECT 1 FROM delivery d WHERE d.file_id = f.id AND d.state IN (2, 4, 5, 7)"     \
    "   AND (?10 OR d.acknowledged_ms IS NULL)))"
#define PAGE     " ORDER BY f.id DESC LIMIT ?8 OFFSET ?9"
#define BY(lead) "SELECT f.id FROM file f WHERE " lead " AND" FILTERS PAGE
#define BY_DELIVERY(index, lead)                                                                   \
    "SELECT DISTINCT s.file_id FROM delivery s INDEXED BY " index                                  \
    " JOIN file f ON f.id = s.file_id WHERE " lead " AND" FILTERS                                  \
    " ORDER BY s.file_id DESC LIMIT ?8 OFFSET ?9"
#define NEWEST_FILES(s)                                                                            \
    "SELECT * FROM (SELECT id FROM file WHERE state = " #s " AND state NOT IN (2, 3)"              \
    " AND (?10 OR acknowledged_ms IS NULL)"                                                        \
    " ORDER BY id DESC LIMIT ?8 + ?9)"
#define NEWEST_LEFT(which)                                                                         \
    "SELECT * FROM (SELECT id FROM file INDEXED BY file_left WHERE " JOURNAL_LEFT " AND " which    \
    " ORDER BY id DESC LIMIT ?8 + ?9)"
#define NEWEST_DELIVERIES(s)                                                                       \
    "SELECT * FROM (SELECT DISTINCT file_id FROM delivery WHERE state = " #s                       \
    " AND state NOT IN (0, 1, 3) AND (?10 OR acknowledged_ms IS NULL)"                             \
    " ORDER BY file_id DESC LIMIT ?8 + ?9)"

static const char by_problem
    [] = "SELECT f.id FROM (" NEWEST_FILES(4) " UNION " NEWEST_FILES(5) " UNION " NEWEST_FILES(6) " UNION " NEWEST_LEFT("acknowledged_ms IS NULL") " UNION " NEWEST_LEFT(
        "acknowledged_ms IS NOT NULL AND ?10") " UNION " NEWEST_DELIVERIES(2) " UNION"
                                                                              " " NEWEST_DELIVERIES(4) " UNION " NEWEST_DELIVERIES(
                                                                                  5) " UNION"
                                                                                     " " NEWEST_DELIVERIES(
                                                                                         7) ") "
                                                                                            "f" PAGE;

static int list_ids(struct journal *j, const struct journal_list *l, uint64_t *ids, size_t limit,
                    size_t *ret_n, struct err *e)
{
    const struct journal_value values[] = {
        journal_text(l->study),      journal_text(l->sop_instance),
        journal_path(l->path),       journal_text(l->destination),
        journal_int(l->file_state),  journal_int(l->delivery_state),
        journal_int(l->problems),    journal_id(limit),
        journal_id(l->offset),       journal_int(l->acknowledged),
        {.type = JOURNAL_VALUE_END},
    };
    bool plain = l->destination == NULL && l->file_state < 0 && l->delivery_state < 0;
    sqlite3_stmt *stmt;
    int more;

    *ret_n = 0;
    if (l->path != NULL)
        more = journal_db_query(&j->db, e, &stmt, BY("f.path = ?3"), values);
    else if (l->sop_instance != NULL)
        more = journal_db_query(&j->db, e, &stmt, BY("f.sop_instance_uid = ?2"), values);
    else if (l->study != NULL)
        more = journal_db_query(&j->db, e, &stmt, BY("f.study_instance_uid = ?1"), values);
    else if (l->problems && plain)
        more = journal_db_query(&j->db, e, &stmt, by_problem, values);
    else if (l->file_state >= 0 && l->file_state != FILE_DELIVERED &&
             l->file_state != FILE_DISPOSED)
        more = journal_db_query(&j->db, e, &stmt, BY("f.state = ?5 AND f.state NOT IN (2, 3)"),
                                values);
    else if (l->file_state < 0 && l->delivery_state == DELIVERY_QUEUED)
        more =
            journal_db_query(&j->db, e, &stmt, BY("f.state = 1 AND f.state NOT IN (2, 3)"), values);
    else if (l->file_state < 0 && l->delivery_state == DELIVERY_SENDING)
        more = journal_db_query(&j->db, e, &stmt, BY_DELIVERY("delivery_sending", "s.state = 1"),
                                values);
    else if (l->file_state < 0 && l->delivery_state >= 0 && l->delivery_state != DELIVERY_DELIVERED)
        more = journal_db_query(
            &j->db, e, &stmt,
            BY_DELIVERY("delivery_state", "s.state = ?6 AND s.state NOT IN (0, 1, 3)"), values);
    else
        more = journal_db_query(&j->db, e, &stmt, BY("f.id > 0"), values);
    for (; more == 1; more = journal_db_next(&j->db, e, stmt))
        ids[(*ret_n)++] = journal_column_id(stmt, 0);
    return more;
}

int journal_run_list(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_list *l = (struct journal_list *)op;
    size_t limit = l->limit < LIMIT_MAX ? l->limit : LIMIT_MAX;
    uint64_t *ids = calloc(limit + 1, sizeof(*ids));
    cJSON *array = cJSON_CreateArray();
    size_t n = 0;
    int rc = 0;

    if (ids == NULL || array == NULL)
        rc = err_set(e, ERR_NOMEM, "journal: out of memory");
    if (rc == 0)
        rc = list_ids(j, l, ids, limit, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = add_file(j, array, ids[i], e);
    if (rc == 0) {
        l->json = cJSON_PrintUnformatted(array);
        if (l->json == NULL)
            rc = err_set(e, ERR_NOMEM, "journal: out of memory");
    }
    cJSON_Delete(array);
    free(ids);
    return rc;
}

void journal_reset_list(struct journal_op *op)
{
    struct journal_list *l = (struct journal_list *)op;

    free(l->json);
    l->json = NULL;
}
