/* What people ask for: retry, hold, release, acknowledge. */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 1000

/* Deliveries in state ?1, of files that stand, that the filters match, after (?6, ?7); each text
 * has its index to go by. */
#define CHOOSE "SELECT d.file_id, d.id FROM delivery d JOIN file f ON f.id = d.file_id WHERE "
#define CHOSEN(file_id)                                                                            \
    " AND f.past = 0 AND (?2 = 0 OR d.id = ?2) AND (?3 = 0 OR d.file_id = ?3)"                     \
    " AND (?4 IS NULL OR d.destination = ?4) AND (?5 IS NULL OR f.study_instance_uid = ?5)"        \
    " AND (" file_id ", d.id) > (?6, ?7) ORDER BY " file_id ", d.id LIMIT ?8"

struct chosen {
    uint64_t file_id, id;
};

static int choose(struct journal *j, const struct journal_act_on *a, enum delivery_state from,
                  struct chosen after, struct chosen *chosen, size_t *ret_n, struct err *e)
{
    const struct journal_value values[] = {
        journal_int(from),           journal_id(a->delivery_id),
        journal_id(a->file_id),      journal_text(a->destination),
        journal_text(a->study),      journal_id(after.file_id),
        journal_id(after.id),        journal_int(CHUNK),
        {.type = JOURNAL_VALUE_END},
    };
    sqlite3_stmt *stmt;
    int more;

    *ret_n = 0;
    if (a->delivery_id != 0)
        more = journal_db_query(&j->db, e, &stmt,
                                CHOOSE "d.id = ?2 AND +d.state = ?1" CHOSEN("d.file_id"), values);
    else if (a->file_id != 0)
        more =
            journal_db_query(&j->db, e, &stmt,
                             CHOOSE "d.file_id = ?3 AND +d.state = ?1" CHOSEN("d.file_id"), values);
    else if (a->study != NULL)
        more = journal_db_query(
            &j->db, e, &stmt,
            CHOOSE "f.study_instance_uid = ?5 AND +d.state = ?1" CHOSEN("d.file_id"), values);
    else if (from == DELIVERY_QUEUED) /* by their files */
        more =
            journal_db_query(&j->db, e, &stmt,
                             "SELECT d.file_id, d.id FROM file f INDEXED BY file_state CROSS JOIN"
                             " delivery d INDEXED BY delivery_file ON d.file_id = f.id WHERE"
                             " f.state = 1 AND f.state NOT IN (2, 3) AND f.id >= ?6"
                             " AND d.state = ?1" CHOSEN("f.id"),
                             values);
    else
        more = journal_db_query(
            &j->db, e, &stmt,
            CHOOSE "d.state = ?1 AND d.state NOT IN (0, 1, 3)" CHOSEN("d.file_id"), values);
    for (; more == 1; more = journal_db_next(&j->db, e, stmt))
        chosen[(*ret_n)++] =
            (struct chosen){journal_column_id(stmt, 0), journal_column_id(stmt, 1)};
    return more;
}

static int act_delivery(struct journal *j, const struct journal_act_on *a, uint64_t id,
                        struct err *e)
{
    int64_t now = clock_realtime_ms();

    if (a->act == JOURNAL_HOLD)
        return journal_run(&j->db, e,
                           "UPDATE delivery SET state = 5, next_ms = NULL, blocked = 0, changed_ms "
                           "= ?, acknowledged_ms = NULL WHERE id = ?",
                           journal_int(now), journal_id(id));
    if (a->act == JOURNAL_RELEASE)
        return journal_run(&j->db, e,
                           "UPDATE delivery SET state = 0, created_ms = ?1, changed_ms = ?1,"
                           " acknowledged_ms = NULL WHERE id = ?2",
                           journal_int(now), journal_id(id));
    /* It is given up (give_up_after) so long after this, not after it was queued first. */
    return journal_run(&j->db, e,
                       "UPDATE delivery SET state = 0, next_ms = NULL, attempts = 0, send_anyway = "
                       "send_anyway OR ?1,"
                       " created_ms = ?2, changed_ms = ?2, acknowledged_ms = NULL WHERE id = ?3",
                       journal_int(a->send_anyway), journal_int(now), journal_id(id));
}

static int act_deliveries(struct journal *j, struct journal_act_on *a, enum delivery_state from,
                          struct err *e)
{
    struct chosen *chosen = calloc(CHUNK, sizeof(*chosen));
    struct chosen after = {0, 0};
    size_t n;
    int rc;

    if (chosen == NULL)
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    do {
        rc = choose(j, a, from, after, chosen, &n, e);
        for (size_t i = 0; i < n && rc == 0; i++) {
            rc = act_delivery(j, a, chosen[i].id, e);
            a->changed++;
            after = chosen[i];
        }
    } while (rc == 0 && n == CHUNK);
    free(chosen);
    return rc;
}

/* One rejected file that stands is forgotten, so that the next scan finds it anew. One that has
 * deliveries (it was taken in before) stays as history. 1: there was one. */
static int forget_rejected(struct journal *j, const struct journal_act_on *a, uint64_t *after,
                           struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false, used;
    uint64_t id;
    char *study, *series;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT id, study_instance_uid, series_instance_uid,"
        " EXISTS (SELECT 1 FROM delivery WHERE file_id = file.id) FROM file"
        " WHERE state = 4 AND state NOT IN (2, 3) AND past = 0 AND id > ?3 AND (?1 = 0 OR id = ?1)"
        " AND (?2 IS NULL OR study_instance_uid = ?2) ORDER BY id LIMIT 1",
        journal_id(a->file_id), journal_text(a->study), journal_id(*after));

    if (rc != 1)
        return rc;
    id = *after = journal_column_id(stmt, 0);
    study = journal_column_dup(stmt, 1, &oom);
    series = journal_column_dup(stmt, 2, &oom);
    used = sqlite3_column_int(stmt, 3) != 0;
    journal_db_done(stmt);
    rc = oom ? err_set(e, ERR_NOMEM, "journal: out of memory") : 0;
    if (rc == 0 && used)
        rc = journal_run(&j->db, e, "UPDATE file SET gone_ms = ?, past = id WHERE id = ?",
                         journal_int(clock_realtime_ms()), journal_id(id));
    else if (rc == 0)
        rc = journal_run(&j->db, e, "DELETE FROM file WHERE id = ?", journal_id(id));
    if (rc == 0)
        rc = journal_drop_bindings(j, study, series, e);
    free(study);
    free(series);
    return rc == 0 ? 1 : rc;
}

/* Files that were left, chosen by ?3 and ?5. */
#define LEFT                                                                                       \
    "SELECT id FROM file INDEXED BY file_left WHERE " JOURNAL_LEFT                                 \
    " AND (?3 = 0 OR id = ?3) AND (?5 IS NULL OR study_instance_uid = ?5)"

/* Their disposal is to be tried again. */
static int dispose_again(struct journal *j, struct journal_act_on *a, struct err *e)
{
    const struct journal_value values[] = {
        {.type = JOURNAL_VALUE_NULL}, {.type = JOURNAL_VALUE_NULL}, journal_id(a->file_id),
        {.type = JOURNAL_VALUE_NULL}, journal_text(a->study),       {.type = JOURNAL_VALUE_END},
    };
    int rc = journal_db_run(&j->db, e,
                            "UPDATE file SET disposed_ms = NULL, note = NULL, acknowledged_ms = "
                            "NULL WHERE id IN (" LEFT ")",
                            values);

    if (rc == 0)
        a->changed += (uint64_t)sqlite3_changes64(j->db.sqlite);
    return rc;
}

/* What is wrong with these files and deliveries is known to those who should: `lead` chooses the
 * index. One that stands in the way no more is acknowledged, too: vanished, or of a file that
 * left. */
#define ACKNOWLEDGE_FILES(lead)                                                                    \
    "UPDATE file SET acknowledged_ms = ?1 WHERE " lead                                             \
    " AND acknowledged_ms IS NULL AND state IN (4, 5, 6) AND (?3 = 0 OR id = ?3)"                  \
    " AND (?5 IS NULL OR study_instance_uid = ?5)"
#define ACKNOWLEDGE_DELIVERIES(lead)                                                               \
    "UPDATE delivery SET acknowledged_ms = ?1 WHERE " lead                                         \
    " AND acknowledged_ms IS NULL AND state IN (4, 5, 7) AND (?2 = 0 OR id = ?2)"                  \
    " AND (?3 = 0 OR file_id = ?3) AND (?4 IS NULL OR destination = ?4)"                           \
    " AND (?5 IS NULL OR"                                                                          \
    "  EXISTS (SELECT 1 FROM file f WHERE f.id = file_id AND f.study_instance_uid = ?5))"

static int acknowledge(struct journal *j, struct journal_act_on *a, struct err *e)
{
    const struct journal_value values[] = {
        journal_int(clock_realtime_ms()), journal_id(a->delivery_id), journal_id(a->file_id),
        journal_text(a->destination),     journal_text(a->study),     {.type = JOURNAL_VALUE_END},
    };
    int rc = 0;

    if (a->delivery_id == 0 && a->destination == NULL) {
        if (a->file_id != 0)
            rc = journal_db_run(&j->db, e, ACKNOWLEDGE_FILES("id = ?3"), values);
        else if (a->study != NULL)
            rc = journal_db_run(&j->db, e, ACKNOWLEDGE_FILES("study_instance_uid = ?5"), values);
        else
            rc = journal_db_run(&j->db, e, ACKNOWLEDGE_FILES("state NOT IN (2, 3)"), values);
        a->changed += (uint64_t)sqlite3_changes64(j->db.sqlite);
        if (rc == 0)
            rc = journal_db_run(&j->db, e,
                                "UPDATE file SET acknowledged_ms = ?1 WHERE id IN (" LEFT
                                " AND acknowledged_ms IS NULL)",
                                values);
        if (rc == 0)
            a->changed += (uint64_t)sqlite3_changes64(j->db.sqlite);
    }
    if (rc != 0)
        return rc;
    if (a->delivery_id != 0)
        rc = journal_db_run(&j->db, e, ACKNOWLEDGE_DELIVERIES("id = ?2"), values);
    else if (a->file_id != 0)
        rc = journal_db_run(&j->db, e, ACKNOWLEDGE_DELIVERIES("file_id = ?3"), values);
    else
        rc = journal_db_run(&j->db, e, ACKNOWLEDGE_DELIVERIES("state NOT IN (0, 1, 3)"), values);
    if (rc == 0)
        a->changed += (uint64_t)sqlite3_changes64(j->db.sqlite);
    return rc;
}

/* Nothing was changed: is it that there is no such thing? A name mistyped shall not pass for one
 * that has nothing to do. */
static int find_unknown(struct journal *j, struct journal_act_on *a, struct err *e)
{
    const struct {
        const char *name;
        bool asked;
        const char *sql;
        struct journal_value value;
    } filters[] = {
        {"delivery", a->delivery_id != 0, "SELECT 1 FROM delivery WHERE id = ?",
         journal_id(a->delivery_id)},
        {"file", a->file_id != 0, "SELECT 1 FROM file WHERE id = ?", journal_id(a->file_id)},
        {"study", a->study != NULL, "SELECT 1 FROM file WHERE study_instance_uid = ? LIMIT 1",
         journal_text(a->study)},
        {"destination", a->destination != NULL,
         "SELECT 1 FROM delivery WHERE destination = ? LIMIT 1", journal_text(a->destination)},
    };
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
        const struct journal_value values[] = {filters[i].value, {.type = JOURNAL_VALUE_END}};
        sqlite3_stmt *stmt;

        if (!filters[i].asked)
            continue;
        int more = journal_db_query(&j->db, e, &stmt, filters[i].sql, values);
        if (more == 1) {
            journal_db_done(stmt);
        } else {
            a->unknown = filters[i].name;
            return more;
        }
    }
    return 0;
}

int journal_run_act(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_act_on *a = (struct journal_act_on *)op;
    bool whole = a->delivery_id == 0 && a->file_id == 0 && a->study == NULL, ended = false;
    uint64_t after = 0;
    int rc = 0;

    a->changed = 0;
    a->unknown = NULL;
    a->still_held = false;
    switch (a->act) {
    case JOURNAL_RETRY:
        rc = act_deliveries(j, a, DELIVERY_FAILED, e);
        if (rc == 0)
            rc = act_deliveries(j, a, DELIVERY_WAITING, e);
        if (rc == 0 && a->send_anyway)
            rc = act_deliveries(j, a, DELIVERY_CONFLICT, e);
        if (rc == 0 && a->delivery_id == 0 && a->destination == NULL)
            while ((rc = forget_rejected(j, a, &after, e)) == 1)
                a->changed++;
        if (rc == 0 && a->delivery_id == 0 && a->destination == NULL)
            rc = dispose_again(j, a, e);
        break;
    case JOURNAL_HOLD:
        rc = act_deliveries(j, a, DELIVERY_QUEUED, e);
        if (rc == 0)
            rc = act_deliveries(j, a, DELIVERY_WAITING, e);
        if (rc == 0)
            rc = act_deliveries(j, a, DELIVERY_FAILED, e);
        /* Those that held others back may be among them: all may stand in the queue again, a claim
         * sorts them out. */
        if (rc == 0 && a->changed > 0)
            rc = journal_run(&j->db, e, "UPDATE delivery SET blocked = 0 WHERE blocked = 1");
        if (rc == 0 && a->and_later)
            rc = journal_hold_set(j, a->destination, e);
        break;
    case JOURNAL_RELEASE:
        if (whole)
            rc = journal_hold_end(j, a->destination, &ended, e);
        if (rc == 0)
            rc = act_deliveries(j, a, DELIVERY_HELD, e);
        break;
    case JOURNAL_ACKNOWLEDGE:
        rc = acknowledge(j, a, e);
        break;
    default:
        rc = err_set(e, ERR_INVALID, "journal: there is no such act");
    }
    if (rc == 0 && (a->act == JOURNAL_RETRY || a->act == JOURNAL_RELEASE))
        rc = journal_hold_find(j, a->destination, &a->still_held, e);
    if (rc == 0 && a->changed == 0 && !ended)
        rc = find_unknown(j, a, e);
    return rc;
}

int journal_run_rebuilt(struct journal *j, struct journal_op *op, struct err *e)
{
    (void)op;
    return journal_meta_set(&j->db, "rebuilding", 0, e);
}
