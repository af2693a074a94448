/* Destinations that an operator holds: nothing is claimed for them, and what would be is held,
 * until they are released. */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#define CHUNK 10000

int journal_hold_set(struct journal *j, const char *destination, struct err *e)
{
    return journal_run(&j->db, e, "INSERT INTO hold VALUES (?, ?) ON CONFLICT DO NOTHING",
                       journal_text(destination), journal_int(clock_realtime_ms()));
}

int journal_hold_end(struct journal *j, const char *destination, bool *ret_ended, struct err *e)
{
    int rc = journal_run(&j->db, e, "DELETE FROM hold WHERE ?1 IS NULL OR destination = ?1",
                         journal_text(destination));

    *ret_ended = rc == 0 && sqlite3_changes(j->db.sqlite) > 0;
    return rc;
}

int journal_hold_find(struct journal *j, const char *destination, bool *ret, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(&j->db, e, &stmt,
                           "SELECT 1 FROM hold WHERE ?1 IS NULL OR destination = ?1 LIMIT 1",
                           journal_text(destination));

    *ret = rc == 1;
    if (rc == 1)
        journal_db_done(stmt);
    return rc < 0 ? rc : 0;
}

int journal_hold_rest(struct journal *j, const char *destination, struct err *e)
{
    int rc;

    do {
        rc = journal_run(
            &j->db, e,
            "UPDATE delivery SET state = 5, next_ms = NULL, changed_ms = ?2 WHERE id IN"
            " (SELECT * FROM (SELECT id FROM delivery INDEXED BY delivery_queue"
            "   WHERE destination = ?1 AND state = 0 AND blocked = 0 LIMIT ?3)"
            "  UNION ALL SELECT * FROM (SELECT id FROM delivery INDEXED BY delivery_waiting"
            "   WHERE destination = ?1 AND state = 2 LIMIT ?3))",
            journal_text(destination), journal_int(clock_realtime_ms()), journal_int(CHUNK));
    } while (rc == 0 && sqlite3_changes(j->db.sqlite) >= CHUNK);
    return rc;
}

int journal_run_holds(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_holds *h = (struct journal_holds *)op;
    cJSON *object = cJSON_CreateObject();
    bool oom = object == NULL;
    sqlite3_stmt *stmt;
    int more = journal_query(&j->db, e, &stmt, "SELECT destination, since_ms FROM hold");

    for (; more == 1; more = journal_db_next(&j->db, e, stmt)) {
        char *destination = journal_column_dup(stmt, 0, &oom), since[25];

        clock_format(sqlite3_column_int64(stmt, 1), since);
        if (destination != NULL && cJSON_AddStringToObject(object, destination, since) == NULL)
            oom = true;
        free(destination);
    }
    if (more == 0)
        h->json = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    if (more == 0 && (oom || h->json == NULL))
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    return more;
}

void journal_reset_holds(struct journal_op *op)
{
    struct journal_holds *h = (struct journal_holds *)op;

    free(h->json);
    h->json = NULL;
}
