/* Which states may follow which, checked as they change, and how many rows are in each.
 *
 * TEMP triggers, so that the database itself stays free of functions that only this program has,
 * and added up here: the table `count` is written once a transaction, not twice a change. */
#include "journal/journal_internal.h"

#include <stdlib.h>
#include <string.h>

#define DELIVERIES 16 /* row of the table count for deliveries in state 0 */

_Static_assert(FILE_STATE_MAX <= DELIVERIES &&
                   DELIVERIES + (int)DELIVERY_STATE_MAX <= JOURNAL_COUNTS,
               "rows of the table count");

static void add(struct journal_db *db, int row, int64_t n, int64_t bytes)
{
    if (row < 0 || row >= JOURNAL_COUNTS)
        return;
    db->counted[row].n += n;
    db->counted[row].bytes += n * bytes;
    db->uncounted = true;
}

/* counted(row, n, size): so many more rows. */
static void counted(sqlite3_context *context, int n, sqlite3_value **v)
{
    (void)n;
    add(sqlite3_user_data(context), sqlite3_value_int(v[0]), sqlite3_value_int64(v[1]),
        sqlite3_value_int64(v[2]));
}

static void moved(sqlite3_context *context, int first, bool may, sqlite3_value **v)
{
    struct journal_db *db = sqlite3_user_data(context);

    if (!may) {
        sqlite3_result_error(context, "illegal change of a state", -1);
        sqlite3_result_error_code(context, SQLITE_CONSTRAINT_TRIGGER);
        return;
    }
    add(db, first + sqlite3_value_int(v[0]), -1, sqlite3_value_int64(v[1]));
    add(db, first + sqlite3_value_int(v[2]), 1, sqlite3_value_int64(v[3]));
}

/* file_moved(old state, old size, new state, new size) */
static void file_moved(sqlite3_context *context, int n, sqlite3_value **v)
{
    const enum file_state from = (enum file_state)sqlite3_value_int(v[0]);
    const enum file_state to = (enum file_state)sqlite3_value_int(v[2]);

    (void)n;
    moved(context, 0, from == to || file_state_may(from, to), v);
}

static void delivery_moved(sqlite3_context *context, int n, sqlite3_value **v)
{
    const enum delivery_state from = (enum delivery_state)sqlite3_value_int(v[0]);
    const enum delivery_state to = (enum delivery_state)sqlite3_value_int(v[2]);

    (void)n;
    moved(context, DELIVERIES, from == to || delivery_state_may(from, to), v);
}

int journal_counts_watch(struct journal_db *db, struct err *e)
{
    static const struct {
        const char *name;
        int n;
        void (*function)(sqlite3_context *context, int n, sqlite3_value **v);
    } functions[] = {{"counted", 3, counted},
                     {"file_moved", 4, file_moved},
                     {"delivery_moved", 4, delivery_moved}};
    static const char triggers[] =
        "CREATE TEMP TRIGGER file_insert AFTER INSERT ON main.file BEGIN"
        "  SELECT counted(new.state, 1, new.size);"
        "END;"
        "CREATE TEMP TRIGGER file_delete AFTER DELETE ON main.file BEGIN"
        "  SELECT counted(old.state, -1, old.size);"
        "END;"
        "CREATE TEMP TRIGGER file_update AFTER UPDATE OF state, size ON main.file"
        "  WHEN old.state <> new.state OR old.size <> new.size BEGIN"
        "  SELECT file_moved(old.state, old.size, new.state, new.size);"
        "END;"
        "CREATE TEMP TRIGGER delivery_insert AFTER INSERT ON main.delivery BEGIN"
        "  SELECT counted(16 + new.state, 1, new.size);"
        "END;"
        "CREATE TEMP TRIGGER delivery_delete AFTER DELETE ON main.delivery BEGIN"
        "  SELECT counted(16 + old.state, -1, old.size);"
        "END;"
        "CREATE TEMP TRIGGER delivery_update AFTER UPDATE OF state ON main.delivery"
        "  WHEN old.state <> new.state BEGIN"
        "  SELECT delivery_moved(old.state, old.size, new.state, new.size);"
        "END;";

    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        int rc =
            sqlite3_create_function_v2(db->sqlite, functions[i].name, functions[i].n, SQLITE_UTF8,
                                       db, functions[i].function, NULL, NULL, NULL);

        if (rc != SQLITE_OK)
            return journal_db_error(db, rc, e);
    }
    return journal_db_exec(db, triggers, e);
}

int journal_counts_store(struct journal_db *db, struct err *e)
{
    int rc = 0;

    for (int i = 0; i < JOURNAL_COUNTS && db->uncounted && rc == 0; i++)
        if (db->counted[i].n != 0 || db->counted[i].bytes != 0)
            rc = journal_run(db, e, "UPDATE count SET n = n + ?, bytes = bytes + ? WHERE id = ?",
                             journal_int(db->counted[i].n), journal_int(db->counted[i].bytes),
                             journal_int(i));
    if (rc == 0)
        journal_counts_drop(db);
    return rc;
}

void journal_counts_drop(struct journal_db *db)
{
    memset(db->counted, 0, sizeof(db->counted));
    db->uncounted = false;
}

static int load(struct journal *j, struct journal_counts *c, struct err *e)
{
    sqlite3_stmt *stmt;
    int more = journal_query(&j->db, e, &stmt, "SELECT id, n, bytes FROM count");

    for (; more == 1; more = journal_db_next(&j->db, e, stmt)) {
        const int64_t id = sqlite3_column_int64(stmt, 0);
        uint64_t n, bytes;

        if (id < 0 || id >= JOURNAL_COUNTS)
            continue;
        n = (uint64_t)(sqlite3_column_int64(stmt, 1) + j->db.counted[id].n);
        bytes = (uint64_t)(sqlite3_column_int64(stmt, 2) + j->db.counted[id].bytes);
        if (id < FILE_STATE_MAX) {
            c->files[id] = n;
            c->file_bytes[id] = bytes;
        } else if (id >= DELIVERIES && id - DELIVERIES < DELIVERY_STATE_MAX) {
            c->deliveries[id - DELIVERIES] = n;
            c->delivery_bytes[id - DELIVERIES] = bytes;
        }
    }
    return more;
}

/* Takes the time of the file that the query gives, if it is older. */
static int older(struct journal *j, int more, sqlite3_stmt *stmt, int64_t *oldest, struct err *e)
{
    sqlite3_stmt *file;
    int rc = more;

    if (more != 1)
        return more;
    if (sqlite3_column_type(stmt, 0) != SQLITE_NULL)
        rc = journal_query(&j->db, e, &file, "SELECT created_ms FROM file WHERE id = ?",
                           journal_id(journal_column_id(stmt, 0)));
    else
        rc = 0;
    if (rc == 1) {
        const int64_t ms = sqlite3_column_int64(file, 0);

        *oldest = ms < *oldest ? ms : *oldest;
        journal_db_done(file);
    }
    return rc < 0 ? rc : 0;
}

/* The first of each destination and priority in the queue: a jump each, however long it is. */
static int oldest_queued(struct journal *j, int64_t *oldest, struct err *e)
{
    char *destination = NULL;
    int64_t priority = 0;
    int rc = 0;

    for (bool next_destination = true; rc == 0;) {
        sqlite3_stmt *stmt;
        bool oom = false;
        int more =
            next_destination
                ? journal_query(&j->db, e, &stmt,
                                "SELECT file_id, destination, priority FROM delivery INDEXED BY "
                                "delivery_queue WHERE state = 0 AND blocked = 0 AND destination > ?"
                                " ORDER BY destination, priority DESC, id LIMIT 1",
                                journal_text(destination == NULL ? "" : destination))
                : journal_query(&j->db, e, &stmt,
                                "SELECT file_id, destination, priority FROM delivery INDEXED BY "
                                "delivery_queue WHERE state = 0 AND blocked = 0 AND destination = ?"
                                " AND priority < ? ORDER BY priority DESC, id LIMIT 1",
                                journal_text(destination), journal_int(priority));

        if (more == 0 && next_destination)
            break;
        if (more == 0) {
            next_destination = true;
            continue;
        }
        rc = older(j, more, stmt, oldest, e);
        if (more == 1) {
            free(destination);
            destination = journal_column_dup(stmt, 1, &oom);
            priority = sqlite3_column_int64(stmt, 2);
            next_destination = false;
            journal_db_done(stmt);
        }
        if (oom)
            rc = err_set(e, ERR_NOMEM, "journal: out of memory");
    }
    free(destination);
    return rc;
}

static int oldest_in(struct journal *j, enum delivery_state state, int64_t *oldest, struct err *e)
{
    sqlite3_stmt *stmt;
    int more = state == DELIVERY_SENDING
                   ? journal_query(&j->db, e, &stmt,
                                   "SELECT min(file_id) FROM delivery INDEXED BY delivery_sending"
                                   " WHERE state = 1")
                   : journal_query(&j->db, e, &stmt,
                                   "SELECT file_id FROM delivery INDEXED BY delivery_state"
                                   " WHERE state = ? AND state NOT IN (0, 1, 3)"
                                   " ORDER BY file_id LIMIT 1",
                                   journal_int(state));
    int rc = older(j, more, stmt, oldest, e);

    if (more == 1)
        journal_db_done(stmt);
    return rc;
}

static int count_left(struct journal *j, struct journal_counts *c, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT count(*) FROM (SELECT 1 FROM file INDEXED BY file_left WHERE " JOURNAL_LEFT
        " AND acknowledged_ms IS NULL LIMIT ?)",
        journal_int(JOURNAL_LEFT_MAX));

    if (rc < 0)
        return rc;
    c->left = journal_column_id(stmt, 0);
    journal_db_done(stmt);
    return 0;
}

int journal_run_counts(struct journal *j, struct journal_op *op, struct err *e)
{
    static const enum delivery_state open[] = {DELIVERY_SENDING, DELIVERY_WAITING, DELIVERY_HELD};
    struct journal_counts *c = (struct journal_counts *)op;
    int rc = load(j, c, e);

    c->oldest_open_ms = INT64_MAX;
    if (rc == 0)
        rc = oldest_queued(j, &c->oldest_open_ms, e);
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]) && rc == 0; i++)
        rc = oldest_in(j, open[i], &c->oldest_open_ms, e);
    return rc == 0 ? count_left(j, c, e) : rc;
}
