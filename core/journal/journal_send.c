/* Claiming and settling deliveries.
 *
 * Never two deliveries of one SOP Instance UID are under way to one destination. A queued one that
 * finds another under way is taken out of the queue's index (`blocked`), so that a claim costs
 * O(log n + limit) however many share a UID. As long as any is blocked, another of its instance is
 * `sending` or queued and not blocked; when such a one leaves these states, one blocked one takes
 * its place (journal_unblock). */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <stdlib.h>

/* How many waiting deliveries one claim puts back into the queue: when a dead destination is back
 * they are many. */
#define DUE_MAX 1024
/* Candidates looked at in one go, beyond those wanted. */
#define SPARE 16

int journal_unblock(struct journal *j, const char *destination, const char *sop_instance_uid,
                    struct err *e)
{
    return journal_run(&j->db, e,
                       "UPDATE delivery SET blocked = 0 WHERE id = (SELECT id FROM delivery"
                       " WHERE destination = ? AND sop_instance_uid = ? AND blocked = 1"
                       " ORDER BY priority DESC, id LIMIT 1)",
                       journal_text(destination), journal_text(sop_instance_uid));
}

int journal_complete(struct journal *j, uint64_t file_id, const uint8_t *sha256,
                     bool *ret_delivered, struct err *e)
{
    int rc =
        journal_run(&j->db, e,
                    "UPDATE file SET state = 2, changed_ms = ?1, sha256 = coalesce(?3, sha256)"
                    " WHERE id = ?2 AND state = 1 AND NOT EXISTS"
                    " (SELECT 1 FROM delivery WHERE file_id = ?2 AND state NOT IN (3, 6, 8))"
                    " AND EXISTS (SELECT 1 FROM delivery WHERE file_id = ?2 AND state IN (3, 6))",
                    journal_int(clock_realtime_ms()), journal_id(file_id),
                    journal_blob(sha256, JOURNAL_SHA256_SIZE));

    *ret_delivered = rc == 0 && sqlite3_changes(j->db.sqlite) > 0;
    return rc;
}

void journal_delivery_row_free(struct journal_delivery_row *row)
{
    if (row == NULL)
        return;
    free(row->watch);
    free(row->path);
    free(row->sop_class_uid);
    free(row->sop_instance_uid);
    free(row->study_instance_uid);
    free(row->series_instance_uid);
    free(row->transfer_syntax_uid);
    free(row->route);
    free(row->folder);
    free(row->sibling_folder);
    free(row->sibling_remote_id);
    free(row);
}

void journal_reset_claim(struct journal_op *op)
{
    struct journal_claim *c = (struct journal_claim *)op;

    for (size_t i = 0; i < c->n; i++)
        journal_delivery_row_free(c->rows[i]);
    free(c->rows);
    c->rows = NULL;
    c->n = 0;
}

static int load_sibling(struct journal *j, const char *destination,
                        struct journal_delivery_row *row, struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT sha256, folder, remote_id FROM delivery WHERE destination = ? AND sop_instance_uid "
        "= ?"
        " AND state IN (3, 6) AND sha256 IS NOT NULL ORDER BY changed_ms DESC, id DESC LIMIT 1",
        journal_text(destination), journal_text(row->sop_instance_uid));

    if (rc != 1)
        return rc;
    row->has_sibling = journal_column_sha256(stmt, 0, row->sibling_sha256);
    row->sibling_folder = journal_column_dup(stmt, 1, &oom);
    row->sibling_remote_id = journal_column_dup(stmt, 2, &oom);
    journal_db_done(stmt);
    return oom ? err_set(e, ERR_NOMEM, "journal: out of memory") : 0;
}

/* What a candidate is, and whether another delivery of its instance is under way: then *ret_busy,
 * and no row. */
static int load_row(struct journal *j, const char *destination, uint64_t id,
                    struct journal_delivery_row *row, bool *ret_busy, struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false, sibling;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT EXISTS (SELECT 1 FROM delivery s INDEXED BY delivery_sending WHERE s.state = 1"
        "  AND s.destination = d.destination AND s.sop_instance_uid = d.sop_instance_uid),"
        " EXISTS (SELECT 1 FROM delivery s INDEXED BY delivery_there WHERE s.state IN (3, 6)"
        "  AND s.destination = d.destination AND s.sop_instance_uid = d.sop_instance_uid),"
        " file_id, watch, path, f.size, mtime_ns, sop_class_uid, d.sop_instance_uid,"
        " study_instance_uid, series_instance_uid, transfer_syntax_uid, route, folder, attempts,"
        " d.created_ms, uncertain, send_anyway FROM delivery d JOIN file f ON f.id = file_id WHERE "
        "d.id = ?",
        journal_id(id));

    if (rc <= 0)
        return rc < 0 ? rc : err_set(e, ERR_DAMAGED, "journal: a delivery without its file");
    *ret_busy = sqlite3_column_int(stmt, 0) != 0;
    if (*ret_busy) {
        journal_db_done(stmt);
        return 0;
    }
    sibling = sqlite3_column_int(stmt, 1) != 0;
    row->id = id;
    row->file_id = journal_column_id(stmt, 2);
    row->watch = journal_column_dup(stmt, 3, &oom);
    row->path = journal_column_dup(stmt, 4, &oom);
    row->size = journal_column_id(stmt, 5);
    row->mtime_ns = sqlite3_column_int64(stmt, 6);
    row->sop_class_uid = journal_column_dup(stmt, 7, &oom);
    row->sop_instance_uid = journal_column_dup(stmt, 8, &oom);
    row->study_instance_uid = journal_column_dup(stmt, 9, &oom);
    row->series_instance_uid = journal_column_dup(stmt, 10, &oom);
    row->transfer_syntax_uid = journal_column_dup(stmt, 11, &oom);
    row->route = journal_column_dup(stmt, 12, &oom);
    row->folder = journal_column_dup(stmt, 13, &oom);
    row->attempts = (unsigned)sqlite3_column_int(stmt, 14);
    row->created_ms = sqlite3_column_int64(stmt, 15);
    row->uncertain = sqlite3_column_int(stmt, 16) != 0;
    row->send_anyway = sqlite3_column_int(stmt, 17) != 0;
    journal_db_done(stmt);
    if (oom)
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    return sibling ? load_sibling(j, destination, row, e) : 0;
}

/* Claims or blocks one candidate. */
static int claim_one(struct journal *j, struct journal_claim *c, uint64_t id, struct err *e)
{
    struct journal_delivery_row *row = calloc(1, sizeof(*row));
    bool busy = false;
    int rc;

    if (row == NULL)
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    rc = load_row(j, c->destination, id, row, &busy, e);
    if (rc == 0 && !busy) {
        c->rows[c->n++] = row;
        return journal_run(&j->db, e, "UPDATE delivery SET state = 1, changed_ms = ? WHERE id = ?",
                           journal_int(clock_realtime_ms()), journal_id(id));
    }
    journal_delivery_row_free(row);
    if (rc == 0)
        rc = journal_run(&j->db, e, "UPDATE delivery SET blocked = 1 WHERE id = ?", journal_id(id));
    return rc;
}

/* The next candidates, as ids: what is done to them changes the index they are read from. */
static int candidates(struct journal *j, const char *destination, uint64_t *ids, size_t max,
                      size_t *ret_n, struct err *e)
{
    sqlite3_stmt *stmt;
    int more = journal_query(
        &j->db, e, &stmt,
        "SELECT id FROM delivery INDEXED BY delivery_queue WHERE destination = ? AND state = 0"
        " AND blocked = 0 ORDER BY priority DESC, id LIMIT ?",
        journal_text(destination), journal_id(max));

    *ret_n = 0;
    while (more == 1) {
        ids[(*ret_n)++] = journal_column_id(stmt, 0);
        more = journal_db_next(&j->db, e, stmt);
    }
    return more;
}

static int claim_next_due(struct journal *j, struct journal_claim *c, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(&j->db, e, &stmt,
                           "SELECT next_ms FROM delivery INDEXED BY delivery_waiting WHERE "
                           "destination = ? AND state = 2"
                           " ORDER BY next_ms LIMIT 1",
                           journal_text(c->destination));

    c->next_due_ms = INT64_MAX;
    if (rc == 1) {
        c->next_due_ms = sqlite3_column_int64(stmt, 0);
        journal_db_done(stmt);
        rc = 0;
    }
    return rc;
}

int journal_run_claim(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_claim *c = (struct journal_claim *)op;
    size_t n, max = c->limit + SPARE;
    uint64_t *ids;
    int rc = journal_hold_find(j, c->destination, &c->held, e);

    if (rc == 0 && c->held)
        return journal_hold_rest(j, c->destination, e);
    if (rc != 0)
        return rc;
    rc = journal_run(
        &j->db, e,
        "UPDATE delivery SET state = 0, next_ms = NULL, changed_ms = ?1 WHERE id IN (SELECT id "
        "FROM delivery"
        " INDEXED BY delivery_waiting WHERE destination = ?2 AND state = 2 AND next_ms <= ?1"
        " ORDER BY next_ms LIMIT ?3)",
        journal_int(c->now_ms), journal_text(c->destination), journal_int(DUE_MAX));
    if (rc != 0)
        return rc;
    c->moved = (uint64_t)sqlite3_changes64(j->db.sqlite);
    if (c->limit > 0) {
        ids = calloc(max, sizeof(*ids));
        c->rows = calloc(c->limit, sizeof(struct journal_delivery_row *));
        if (ids == NULL || c->rows == NULL) {
            free(ids);
            return err_set(e, ERR_NOMEM, "journal: out of memory");
        }
        do {
            rc = candidates(j, c->destination, ids, max, &n, e);
            for (size_t i = 0; i < n && c->n < c->limit && rc == 0; i++)
                rc = claim_one(j, c, ids[i], e);
        } while (rc == 0 && c->n < c->limit && n == max);
        free(ids);
        if (rc != 0)
            return rc;
    }
    return claim_next_due(j, c, e);
}

/* The row of a delivery that is to be settled. */
struct settled {
    enum delivery_state state;
    char *destination, *sop_instance_uid; /* where another one waits behind it, else NULL */
};

static int settle_load(struct journal *j, struct journal_settle *s, struct settled *ret,
                       struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT state, file_id, destination, sop_instance_uid, EXISTS (SELECT 1 FROM delivery b"
        " INDEXED BY delivery_blocked WHERE b.destination = d.destination"
        " AND b.sop_instance_uid = d.sop_instance_uid AND b.blocked = 1)"
        " FROM delivery d WHERE id = ?",
        journal_id(s->delivery_id));

    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "journal: there is no delivery %llu",
                       (unsigned long long)s->delivery_id);
    ret->state = (enum delivery_state)sqlite3_column_int(stmt, 0);
    s->file_id = journal_column_id(stmt, 1);
    if (sqlite3_column_int(stmt, 4) != 0) {
        ret->destination = journal_column_dup(stmt, 2, &oom);
        ret->sop_instance_uid = journal_column_dup(stmt, 3, &oom);
    }
    journal_db_done(stmt);
    return oom ? err_set(e, ERR_NOMEM, "journal: out of memory") : 0;
}

static int settle_store(struct journal *j, const struct journal_settle *s, bool arrived,
                        struct err *e)
{
    const void *sha256 = s->has_sha256 ? s->sha256 : NULL;
    bool waits = s->state == DELIVERY_WAITING;

    /* A doubt stays until the delivery arrived: that one more try began and was given up says
     * nothing about the last. */
    return journal_run(&j->db, e,
                       "UPDATE delivery SET state = ?, reason = ?, next_ms = ?, uncertain = "
                       "(uncertain OR ?) AND NOT ?,"
                       " attempts = attempts + ?, sha256 = coalesce(?, sha256), remote_id = "
                       "coalesce(?, remote_id),"
                       " bytes = ?, changed_ms = ? WHERE id = ?",
                       journal_int(s->state), journal_text(s->reason),
                       waits ? journal_int(s->next_ms) : journal_blob(NULL, 0),
                       journal_int(s->uncertain), journal_int(arrived),
                       journal_int(s->count_attempt), journal_blob(sha256, JOURNAL_SHA256_SIZE),
                       journal_text(s->remote_id), journal_id(s->bytes),
                       journal_int(clock_realtime_ms()), journal_id(s->delivery_id));
}

static int settle(struct journal *j, struct journal_settle *s, struct settled *old, struct err *e)
{
    bool arrived = s->state == DELIVERY_DELIVERED || s->state == DELIVERY_DUPLICATE;
    const uint8_t *sha256;
    int rc = settle_load(j, s, old, e);

    if (rc != 0)
        return rc;
    /* Its file vanished meanwhile, and it did not arrive: nothing to say. */
    if (old->state == DELIVERY_ENDED && !arrived)
        return 0;
    if (s->state == DELIVERY_ENDED || /* its file says so, not a try */
        (old->state != DELIVERY_SENDING && old->state != DELIVERY_ENDED) ||
        !delivery_state_may(old->state, s->state))
        return err_set(e, ERR_INVALID, "journal: delivery %llu is %s and may not become %s",
                       (unsigned long long)s->delivery_id, delivery_state_name(old->state),
                       delivery_state_name(s->state));
    /* What ended meanwhile was sent from an older version of the file than its row is about. */
    sha256 = s->has_sha256 && old->state != DELIVERY_ENDED ? s->sha256 : NULL;
    rc = settle_store(j, s, arrived, e);
    if (rc == 0 && old->destination != NULL && old->state == DELIVERY_SENDING &&
        s->state != DELIVERY_QUEUED)
        rc = journal_unblock(j, old->destination, old->sop_instance_uid, e);
    if (rc == 0 && arrived)
        rc = journal_complete(j, s->file_id, sha256, &s->file_delivered, e);
    if (rc == 0 && sha256 != NULL && !s->file_delivered)
        rc = journal_run(&j->db, e, "UPDATE file SET sha256 = ? WHERE id = ? AND past = 0",
                         journal_blob(sha256, JOURNAL_SHA256_SIZE), journal_id(s->file_id));
    return rc;
}

int journal_run_settle(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_settle *s = (struct journal_settle *)op;
    struct settled old = {0};
    int rc;

    s->file_delivered = false;
    s->file_id = 0;
    rc = settle(j, s, &old, e);
    free(old.destination);
    free(old.sop_instance_uid);
    return rc;
}
