/* The schema and its history. A step, once released, never changes: later versions are new steps.
 *
 * `past` is 0 while a file stands at its path and its id afterwards, so that (path, past) is
 * unique: one row that stands per path. `blocked` deliveries wait behind another one of their SOP
 * Instance UID (journal_send.c). `count` is kept by journal_counts.c: row 0 + state for files, 16 +
 * state for deliveries. What most rows pass through, or most end in, is in no index of its own:
 * each costs every delivery two changes of a page. */
#include "journal/journal_internal.h"

#include <stdio.h>

static const char version_1[] =
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"

    "CREATE TABLE file ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  watch BLOB NOT NULL,"
    "  path BLOB NOT NULL,"
    "  size INTEGER NOT NULL,"
    "  mtime_ns INTEGER NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  reason TEXT,"
    "  sop_class_uid TEXT,"
    "  sop_instance_uid TEXT,"
    "  study_instance_uid TEXT,"
    "  series_instance_uid TEXT,"
    "  transfer_syntax_uid TEXT,"
    "  sha256 BLOB,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL,"
    "  disposed_ms INTEGER,"
    "  target BLOB,"
    "  note TEXT,"
    "  gone_ms INTEGER,"
    "  past INTEGER NOT NULL DEFAULT 0,"
    "  acknowledged_ms INTEGER"
    ");"
    "CREATE UNIQUE INDEX file_path ON file (path, past);"
    "CREATE INDEX file_study ON file (study_instance_uid) WHERE study_instance_uid IS NOT NULL;"
    "CREATE INDEX file_sop_instance ON file (sop_instance_uid) WHERE sop_instance_uid IS NOT NULL;"
    "CREATE INDEX file_state ON file (state) WHERE state NOT IN (2, 3);"
    /* One that was moved away is in file_moved, all others in file_gone. */
    "CREATE INDEX file_gone ON file (gone_ms) WHERE NOT (state = 3 AND target IS NOT NULL);"
    "CREATE INDEX file_moved ON file (watch, disposed_ms) WHERE state = 3 AND target IS NOT NULL;"
    /* Delivered, and could not be deleted or moved. */
    "CREATE INDEX file_left ON file (acknowledged_ms)"
    "  WHERE state = 2 AND note IS NOT NULL AND past = 0;"
    "CREATE INDEX file_undisposed ON file (watch, state)"
    "  WHERE disposed_ms IS NULL AND past = 0 AND state IN (2, 4);"

    "CREATE TABLE delivery ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  file_id INTEGER NOT NULL REFERENCES file (id) DEFERRABLE INITIALLY DEFERRED,"
    "  destination TEXT NOT NULL,"
    "  route TEXT NOT NULL,"
    "  folder TEXT NOT NULL,"
    "  priority INTEGER NOT NULL,"
    "  sop_instance_uid TEXT NOT NULL,"
    "  size INTEGER NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  blocked INTEGER NOT NULL DEFAULT 0,"
    "  attempts INTEGER NOT NULL DEFAULT 0,"
    "  next_ms INTEGER,"
    "  uncertain INTEGER NOT NULL,"
    "  send_anyway INTEGER NOT NULL DEFAULT 0,"
    "  reason TEXT,"
    "  sha256 BLOB,"
    "  remote_id TEXT,"
    "  bytes INTEGER,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL,"
    "  acknowledged_ms INTEGER"
    ");"
    "CREATE INDEX delivery_file ON delivery (file_id);"
    "CREATE INDEX delivery_state ON delivery (state, file_id) WHERE state NOT IN (0, 1, 3);"
    "CREATE INDEX delivery_queue ON delivery (destination, priority DESC, id) WHERE state = 0 AND "
    "blocked = 0;"
    "CREATE INDEX delivery_waiting ON delivery (destination, next_ms) WHERE state = 2;"
    "CREATE UNIQUE INDEX delivery_sending ON delivery (destination, sop_instance_uid) WHERE state "
    "= 1;"
    "CREATE INDEX delivery_blocked ON delivery (destination, sop_instance_uid, priority DESC, id) "
    "WHERE blocked = 1;"
    "CREATE INDEX delivery_there ON delivery (destination, sop_instance_uid, changed_ms) WHERE "
    "state IN (3, 6);"

    "CREATE TABLE binding (key TEXT PRIMARY KEY, routes TEXT NOT NULL) WITHOUT ROWID;"

    "CREATE TABLE hold (destination TEXT PRIMARY KEY, since_ms INTEGER NOT NULL) WITHOUT ROWID;"

    "CREATE TABLE count (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, bytes INTEGER NOT NULL);"
    "WITH RECURSIVE i (id) AS (VALUES (0) UNION ALL SELECT id + 1 FROM i WHERE id < 31)"
    "  INSERT INTO count SELECT id, 0, 0 FROM i;";

static const char *const steps[] = {version_1};

static int version_get(struct journal_db *db, int64_t *ret, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(db, e, &stmt, "PRAGMA user_version");

    if (rc < 0)
        return rc;
    *ret = sqlite3_column_int64(stmt, 0);
    journal_db_done(stmt);
    return 0;
}

static int step_run(struct journal_db *db, const char *step, size_t version, struct err *e)
{
    char set[64];
    int rc = journal_db_exec(db, "BEGIN IMMEDIATE", e);

    if (rc != 0)
        return rc;
    snprintf(set, sizeof(set), "PRAGMA user_version = %zu", version);
    rc = journal_db_exec(db, step, e);
    if (rc == 0)
        rc = journal_db_exec(db, set, e);
    if (rc == 0)
        rc = journal_db_exec(db, "COMMIT", e);
    if (rc != 0)
        journal_db_exec(db, "ROLLBACK", NULL);
    return rc;
}

int journal_schema_migrate(struct journal_db *db, const char *const *list, size_t n, struct err *e)
{
    int64_t version;
    int rc = version_get(db, &version, e);

    if (rc != 0)
        return rc;
    if (version < 0 || version > (int64_t)n)
        return err_set(
            e, ERR_UNSUPPORTED,
            "journal: it was written by a newer version (schema %lld, this program knows %zu): "
            "install that version again, or move the state folder away",
            (long long)version, n);
    for (size_t i = (size_t)version; i < n && rc == 0; i++) {
        rc = step_run(db, list[i], i + 1, e);
        if (rc != 0)
            err_wrap(e, "journal: update of the schema to version %zu", i + 1);
    }
    return rc;
}

int journal_schema_update(struct journal_db *db, struct err *e)
{
    return journal_schema_migrate(db, steps, sizeof(steps) / sizeof(steps[0]), e);
}
