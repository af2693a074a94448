/* Files that come in: looking them up, taking them in with their deliveries, and what becomes of a
 * row whose file left. */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

int journal_run_lookup(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_lookup *l = (struct journal_lookup *)op;

    for (size_t i = 0; i < l->n; i++) {
        struct journal_lookup_entry *entry = &l->entries[i];
        sqlite3_stmt *stmt;
        int rc = journal_query(
            &j->db, e, &stmt,
            "SELECT id, size, mtime_ns, state, sha256 FROM file WHERE path = ? AND past = 0",
            journal_path(entry->path));

        if (rc < 0)
            return rc;
        entry->seen = JOURNAL_UNKNOWN;
        entry->file_id = 0;
        entry->has_sha256 = false;
        if (rc == 0)
            continue;
        entry->file_id = journal_column_id(stmt, 0);
        entry->old_size = journal_column_id(stmt, 1);
        entry->state = (enum file_state)sqlite3_column_int(stmt, 3);
        entry->has_sha256 = journal_column_sha256(stmt, 4, entry->sha256);
        entry->seen =
            entry->old_size == entry->size && sqlite3_column_int64(stmt, 2) == entry->mtime_ns
                ? JOURNAL_KNOWN
                : JOURNAL_ALTERED;
        journal_db_done(stmt);
    }
    return 0;
}

int journal_run_binding(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_binding *b = (struct journal_binding *)op;
    sqlite3_stmt *stmt;
    bool oom = false;
    int rc = journal_query(&j->db, e, &stmt, "SELECT routes FROM binding WHERE key = ?",
                           journal_text(b->key));

    if (rc != 1)
        return rc;
    b->routes = journal_column_dup(stmt, 0, &oom);
    journal_db_done(stmt);
    return oom ? err_set(e, ERR_NOMEM, "journal: out of memory") : 0;
}

void journal_reset_binding(struct journal_op *op)
{
    struct journal_binding *b = (struct journal_binding *)op;

    free(b->routes);
    b->routes = NULL;
}

int journal_end_deliveries(struct journal *j, uint64_t file_id, struct err *e)
{
    sqlite3_stmt *stmt;
    int more =
        journal_query(&j->db, e, &stmt,
                      "UPDATE delivery SET state = 8, blocked = 0, next_ms = NULL, changed_ms = ?"
                      " WHERE file_id = ? AND state IN (0, 1, 2, 4, 5)"
                      " RETURNING destination, sop_instance_uid",
                      journal_int(clock_realtime_ms()), journal_id(file_id));

    /* With RETURNING all rows are changed before the first is given. */
    while (more == 1) {
        bool oom = false;
        char *destination = journal_column_dup(stmt, 0, &oom);
        char *sop = journal_column_dup(stmt, 1, &oom);
        int rc = oom ? err_set(e, ERR_NOMEM, "journal: out of memory")
                     : journal_unblock(j, destination, sop, e);

        free(destination);
        free(sop);
        if (rc != 0) {
            journal_db_done(stmt);
            return rc;
        }
        more = journal_db_next(&j->db, e, stmt);
    }
    return more;
}

int journal_file_left(struct journal *j, uint64_t file_id, const char *reason, bool *ret_vanished,
                      struct err *e)
{
    int64_t now = clock_realtime_ms();
    sqlite3_stmt *stmt;
    enum file_state state;
    bool past;
    int rc = journal_query(&j->db, e, &stmt, "SELECT state, past FROM file WHERE id = ?",
                           journal_id(file_id));

    *ret_vanished = false;
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "journal: there is no file %llu",
                       (unsigned long long)file_id);
    state = (enum file_state)sqlite3_column_int(stmt, 0);
    past = sqlite3_column_int64(stmt, 1) != 0;
    journal_db_done(stmt);
    if (past)
        return 0;
    if (!file_state_may(state, FILE_VANISHED))
        return journal_run(&j->db, e, "UPDATE file SET gone_ms = ?, past = id WHERE id = ?",
                           journal_int(now), journal_id(file_id));
    *ret_vanished = true;
    rc = journal_run(&j->db, e,
                     "UPDATE file SET state = 5, reason = ?, changed_ms = ?, gone_ms = ?, past = "
                     "id, acknowledged_ms = NULL WHERE id = ?",
                     journal_text(reason), journal_int(now), journal_int(now), journal_id(file_id));
    return rc != 0 ? rc : journal_end_deliveries(j, file_id, e);
}

static int insert_file(struct journal *j, const struct journal_admit *a, uint64_t *ret_id,
                       struct err *e)
{
    int64_t now = clock_realtime_ms();
    int rc = journal_run(
        &j->db, e,
        "INSERT INTO file (watch, path, size, mtime_ns, state, reason, sop_class_uid, "
        "sop_instance_uid,"
        " study_instance_uid, series_instance_uid, transfer_syntax_uid, created_ms, changed_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        journal_path(a->watch), journal_path(a->path), journal_id(a->size),
        journal_int(a->mtime_ns), journal_int(a->state), journal_text(a->reason),
        journal_text(a->sop_class_uid), journal_text(a->sop_instance_uid),
        journal_text(a->study_instance_uid), journal_text(a->series_instance_uid),
        journal_text(a->transfer_syntax_uid), journal_int(now), journal_int(now));

    if (rc == ERR_EXISTS)
        return err_set(e, ERR_EXISTS, "journal: another row stands for this path");
    if (rc == 0)
        *ret_id = (uint64_t)sqlite3_last_insert_rowid(j->db.sqlite);
    return rc;
}

/* The row gets a new fate; *ret_same tells whether it is still the same version of the file. */
static int readmit_file(struct journal *j, const struct journal_admit *a, bool *ret_same,
                        struct err *e)
{
    sqlite3_stmt *stmt;
    enum file_state state;
    int rc =
        journal_query(&j->db, e, &stmt,
                      "SELECT state, size = ? AND mtime_ns = ? FROM file WHERE id = ? AND past = 0",
                      journal_id(a->size), journal_int(a->mtime_ns), journal_id(a->file_id));

    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "journal: no file %llu stands",
                       (unsigned long long)a->file_id);
    state = (enum file_state)sqlite3_column_int(stmt, 0);
    *ret_same = sqlite3_column_int(stmt, 1) != 0;
    journal_db_done(stmt);
    if (state == FILE_DELIVERED || (state != a->state && !file_state_may(state, a->state)))
        return err_set(e, ERR_INVALID, "journal: file %llu is %s and may not become %s",
                       (unsigned long long)a->file_id, file_state_name(state),
                       file_state_name(a->state));
    rc = journal_run(
        &j->db, e,
        "UPDATE file SET watch = ?, path = ?, size = ?, mtime_ns = ?, state = ?, reason = ?,"
        " sop_class_uid = ?, sop_instance_uid = ?, study_instance_uid = ?, series_instance_uid = ?,"
        " transfer_syntax_uid = ?, changed_ms = ?, disposed_ms = NULL, target = NULL, note = NULL,"
        " acknowledged_ms = NULL,"
        " sha256 = CASE WHEN ? THEN sha256 END WHERE id = ?",
        journal_path(a->watch), journal_path(a->path), journal_id(a->size),
        journal_int(a->mtime_ns), journal_int(a->state), journal_text(a->reason),
        journal_text(a->sop_class_uid), journal_text(a->sop_instance_uid),
        journal_text(a->study_instance_uid), journal_text(a->series_instance_uid),
        journal_text(a->transfer_syntax_uid), journal_int(clock_realtime_ms()),
        journal_int(*ret_same), journal_id(a->file_id));
    return rc;
}

/* Whether a re-admitted file has this delivery already: arrived, or on its way. */
static int delivery_stands(struct journal *j, const struct journal_admit *a,
                           const struct journal_new_delivery *d, bool *ret, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc =
        journal_query(&j->db, e, &stmt,
                      "SELECT 1 FROM delivery WHERE file_id = ? AND destination = ? AND folder = ?"
                      " AND sop_instance_uid = ? AND state IN (1, 3, 6)",
                      journal_id(a->file_id), journal_text(d->destination), journal_text(d->folder),
                      journal_text(a->sop_instance_uid));

    *ret = rc == 1;
    if (rc == 1)
        journal_db_done(stmt);
    return rc < 0 ? rc : 0;
}

/* Deliveries that did not arrive make room for new ones. One that is under way stays if it is
 * wanted still. */
static int readmit_deliveries(struct journal *j, const struct journal_admit *a, bool same,
                              struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = 0;
    int more;

    /* What is under way to where it shall go is told apart by parking the rest only. */
    more = journal_query(&j->db, e, &stmt,
                         "SELECT id, destination, folder, sop_instance_uid FROM delivery"
                         " WHERE file_id = ? AND state IN (0, 1, 2, 4, 5, 7) ORDER BY id",
                         journal_id(a->file_id));
    while (more == 1) {
        uint64_t id = journal_column_id(stmt, 0);
        bool oom = false, wanted = false;
        char *destination = journal_column_dup(stmt, 1, &oom);
        char *folder = journal_column_dup(stmt, 2, &oom);
        char *sop = journal_column_dup(stmt, 3, &oom);

        if (oom)
            rc = err_set(e, ERR_NOMEM, "journal: out of memory");
        for (size_t i = 0; !oom && same && i < a->n_deliveries; i++)
            wanted |= strcmp(a->deliveries[i].destination, destination) == 0 &&
                      strcmp(a->deliveries[i].folder, folder) == 0 &&
                      strcmp(a->sop_instance_uid, sop) == 0;
        if (rc == 0)
            rc = journal_run(
                &j->db, e,
                "UPDATE delivery SET state = 8, blocked = 0, next_ms = NULL, changed_ms = ?"
                " WHERE id = ? AND NOT (state = 1 AND ?)",
                journal_int(clock_realtime_ms()), journal_id(id), journal_int(wanted));
        if (rc == 0 && sqlite3_changes(j->db.sqlite) > 0)
            rc = journal_unblock(j, destination, sop, e);
        free(destination);
        free(folder);
        free(sop);
        if (rc != 0) {
            journal_db_done(stmt);
            return rc;
        }
        more = journal_db_next(&j->db, e, stmt);
    }
    return more;
}

static int insert_deliveries(struct journal *j, const struct journal_admit *a, uint64_t file_id,
                             bool same, struct err *e)
{
    int64_t now = clock_realtime_ms();

    for (size_t i = 0; i < a->n_deliveries; i++) {
        const struct journal_new_delivery *d = &a->deliveries[i];
        bool stands = false;
        int rc = 0;

        if (same)
            rc = delivery_stands(j, a, d, &stands, e);
        if (rc == 0 && !stands)
            rc = journal_run(&j->db, e,
                             "INSERT INTO delivery (file_id, destination, route, folder, priority, "
                             "sop_instance_uid, size,"
                             " state, uncertain, created_ms, changed_ms) VALUES (?, ?, ?, ?, ?, ?, "
                             "?, 0, ?, ?, ?)",
                             journal_id(file_id), journal_text(d->destination),
                             journal_text(d->route), journal_text(d->folder),
                             journal_int(d->priority), journal_text(a->sop_instance_uid),
                             journal_id(a->size), journal_int(a->uncertain || j->rebuilding),
                             journal_int(now), journal_int(now));
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int admit_check(const struct journal_admit *a, struct err *e)
{
    if (!file_state_may(FILE_FOUND, a->state) || a->state == FILE_VANISHED)
        return err_set(e, ERR_INVALID,
                       "journal: a file is taken in as queued, rejected or held only");
    if ((a->state == FILE_QUEUED) != (a->n_deliveries > 0))
        return err_set(e, ERR_INVALID, "journal: a queued file, and no other, has deliveries");
    if (a->state == FILE_QUEUED && (a->sop_instance_uid == NULL || a->sop_instance_uid[0] == '\0'))
        return err_set(e, ERR_INVALID, "journal: a queued file needs a SOP Instance UID");
    for (size_t i = 0; i < a->n_deliveries; i++)
        if (a->deliveries[i].destination == NULL || a->deliveries[i].route == NULL ||
            a->deliveries[i].folder == NULL)
            return err_set(e, ERR_INVALID,
                           "journal: a delivery needs destination, route and folder");
    return 0;
}

int journal_run_admit(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_admit *a = (struct journal_admit *)op;
    uint64_t id = a->file_id;
    bool same = false, vanished;
    int rc = admit_check(a, e);

    a->file_delivered = false;
    if (rc == 0 && a->replaces != 0)
        rc = journal_file_left(j, a->replaces, "rewritten", &vanished, e);
    if (rc == 0 && id == 0)
        rc = insert_file(j, a, &id, e);
    else if (rc == 0)
        rc = readmit_file(j, a, &same, e);
    if (rc == 0 && a->file_id != 0)
        rc = readmit_deliveries(j, a, same, e);
    if (rc == 0)
        rc = insert_deliveries(j, a, id, same, e);
    if (rc == 0 && a->file_id != 0 && a->state == FILE_QUEUED)
        rc = journal_complete(j, id, NULL, &a->file_delivered, e);
    for (size_t i = 0; i < a->n_bindings && rc == 0; i++)
        rc =
            a->bindings[i].rebind
                ? journal_run(&j->db, e,
                              "INSERT INTO binding VALUES (?, ?)"
                              " ON CONFLICT (key) DO UPDATE SET routes = excluded.routes",
                              journal_text(a->bindings[i].key), journal_text(a->bindings[i].routes))
                : journal_run(
                      &j->db, e, "INSERT INTO binding VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
                      journal_text(a->bindings[i].key), journal_text(a->bindings[i].routes));
    op->result = id;
    return rc;
}

int journal_run_touch(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_touch *t = (struct journal_touch *)op;
    int rc = journal_run(&j->db, e, "UPDATE file SET mtime_ns = ? WHERE id = ? AND past = 0",
                         journal_int(t->mtime_ns), journal_id(t->file_id));

    if (rc == 0 && sqlite3_changes(j->db.sqlite) == 0)
        return err_set(e, ERR_NOT_FOUND, "journal: no file %llu stands",
                       (unsigned long long)t->file_id);
    return rc;
}

int journal_run_vanish(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_vanish *v = (struct journal_vanish *)op;
    bool vanished;

    return journal_file_left(j, v->file_id, v->reason, &vanished, e);
}
