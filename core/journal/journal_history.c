/* What comes after delivery: disposal, files that left, forgetting. */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <stdlib.h>

int journal_run_disposed(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_disposed *d = (struct journal_disposed *)op;
    int rc =
        journal_run(&j->db, e,
                    "UPDATE file SET disposed_ms = ?1, target = ?2, note = ?3,"
                    " state = CASE WHEN ?4 AND state = 2 THEN 3 ELSE state END,"
                    " gone_ms = CASE WHEN ?4 THEN coalesce(gone_ms, ?1) ELSE gone_ms END,"
                    " past = CASE WHEN ?4 THEN id ELSE past END WHERE id = ?5 AND state IN (2, 4)",
                    journal_int(clock_realtime_ms()), journal_path(d->target),
                    journal_text(d->note), journal_int(d->gone), journal_id(d->file_id));

    if (rc == 0 && sqlite3_changes(j->db.sqlite) == 0)
        return err_set(
            e, ERR_INVALID,
            "journal: file %llu is neither delivered nor rejected: it is not to be disposed of",
            (unsigned long long)d->file_id);
    return rc;
}

void journal_file_rows_free(struct journal_file_row **rows, size_t *n)
{
    for (size_t i = 0; i < *n; i++) {
        struct journal_file_row *row = &(*rows)[i];

        free(row->watch);
        free(row->path);
        free(row->reason);
        free(row->study_instance_uid);
        free(row->sop_instance_uid);
    }
    free(*rows);
    *rows = NULL;
    *n = 0;
}

int journal_file_rows(struct journal *j, sqlite3_stmt *stmt, int more, size_t limit,
                      struct journal_file_row **rows, size_t *n, struct err *e)
{
    size_t capacity = 0;
    bool oom = false;

    for (; more == 1; more = journal_db_next(&j->db, e, stmt)) {
        struct journal_file_row *row;

        if (*n == capacity) {
            struct journal_file_row *grown;

            capacity = capacity == 0 ? 64 : capacity * 2;
            capacity = capacity < limit ? capacity : limit;
            grown = reallocarray(*rows, capacity, sizeof(*grown));
            if (grown == NULL) {
                oom = true;
                break;
            }
            *rows = grown;
        }
        row = &(*rows)[(*n)++];
        row->id = journal_column_id(stmt, 0);
        row->watch = journal_column_dup(stmt, 1, &oom);
        row->path = journal_column_dup(stmt, 2, &oom);
        row->size = journal_column_id(stmt, 3);
        row->mtime_ns = sqlite3_column_int64(stmt, 4);
        row->state = (enum file_state)sqlite3_column_int(stmt, 5);
        row->reason = journal_column_dup(stmt, 6, &oom);
        row->study_instance_uid = journal_column_dup(stmt, 7, &oom);
        row->sop_instance_uid = journal_column_dup(stmt, 8, &oom);
        row->changed_ms = sqlite3_column_int64(stmt, 9);
        if (oom)
            break;
    }
    if (oom) {
        journal_db_done(stmt);
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    }
    return more;
}

int journal_run_standing(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_standing *s = (struct journal_standing *)op;
    sqlite3_stmt *stmt;
    int more;

    more = journal_query(&j->db, e, &stmt,
                         "SELECT " JOURNAL_FILE_COLUMNS " FROM file INDEXED BY file_gone"
                         " WHERE gone_ms IS NULL AND NOT (state = 3 AND target IS NOT NULL)"
                         " AND id > ? ORDER BY id LIMIT ?",
                         journal_id(s->after), journal_id(s->limit));
    return journal_file_rows(j, stmt, more, s->limit, &s->rows, &s->n, e);
}

void journal_standing_clear(struct journal_standing *s)
{
    journal_file_rows_free(&s->rows, &s->n);
}

void journal_reset_standing(struct journal_op *op)
{
    journal_standing_clear((struct journal_standing *)op);
}

int journal_run_files(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_files *f = (struct journal_files *)op;
    sqlite3_stmt *stmt;
    int more;

    if (f->pending_disposal && f->state != FILE_DELIVERED && f->state != FILE_REJECTED)
        return err_set(e, ERR_INVALID,
                       "journal: only delivered and rejected files are disposed of");
    if (f->pending_disposal && f->study == NULL && f->watch == NULL)
        return err_set(e, ERR_INVALID, "journal: disposals are listed by drop folder");
    if (!f->pending_disposal && f->study == NULL &&
        (f->state == FILE_DELIVERED || f->state == FILE_DISPOSED))
        return err_set(e, ERR_INVALID, "journal: delivered files are listed by study");
    /* Each text has one index to go by, in the order of ids; the unary plus keeps SQLite from
     * taking another. */
    if (f->study != NULL)
        more = journal_query(
            &j->db, e, &stmt,
            "SELECT " JOURNAL_FILE_COLUMNS " FROM file WHERE study_instance_uid = ? AND +state = ?"
            " AND id > ? AND (NOT ? OR (disposed_ms IS NULL AND past = 0)) ORDER BY id LIMIT ?",
            journal_text(f->study), journal_int(f->state), journal_id(f->after),
            journal_int(f->pending_disposal), journal_id(f->limit));
    else if (f->pending_disposal)
        more = journal_query(&j->db, e, &stmt,
                             "SELECT " JOURNAL_FILE_COLUMNS
                             " FROM file INDEXED BY file_undisposed WHERE watch = ? AND state = ?"
                             " AND state IN (2, 4) AND disposed_ms IS NULL AND past = 0 AND id > ? "
                             "ORDER BY id LIMIT ?",
                             journal_path(f->watch), journal_int(f->state), journal_id(f->after),
                             journal_id(f->limit));
    else
        more =
            journal_query(&j->db, e, &stmt,
                          "SELECT " JOURNAL_FILE_COLUMNS
                          " FROM file INDEXED BY file_state WHERE state = ? AND state NOT IN (2, 3)"
                          " AND id > ?"
                          " ORDER BY id LIMIT ?",
                          journal_int(f->state), journal_id(f->after), journal_id(f->limit));
    return journal_file_rows(j, stmt, more, f->limit, &f->rows, &f->n, e);
}

void journal_files_clear(struct journal_files *f)
{
    journal_file_rows_free(&f->rows, &f->n);
}

void journal_reset_files(struct journal_op *op)
{
    journal_files_clear((struct journal_files *)op);
}

int journal_run_gone(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_gone *g = (struct journal_gone *)op;
    int rc = 0;

    g->vanished = 0;
    for (size_t i = 0; i < g->n && rc == 0; i++) {
        bool vanished;

        rc = journal_file_left(j, g->file_ids[i], g->reason, &vanished, e);
        if (rc == ERR_NOT_FOUND) /* forgotten meanwhile (an operator's retry) */
            rc = 0;
        g->vanished += vanished;
    }
    return rc;
}

int journal_drop_bindings(struct journal *j, const char *study, const char *series, struct err *e)
{
    int rc = 0;

    if (study != NULL)
        rc = journal_run(&j->db, e,
                         "DELETE FROM binding WHERE key = 'study:' || ?1"
                         " AND NOT EXISTS (SELECT 1 FROM file WHERE study_instance_uid = ?1)",
                         journal_text(study));
    if (rc == 0 && study != NULL && series != NULL)
        rc = journal_run(&j->db, e,
                         "DELETE FROM binding WHERE key = 'series:' || ?1"
                         " AND NOT EXISTS (SELECT 1 FROM file WHERE study_instance_uid = ?2 AND "
                         "series_instance_uid = ?1)",
                         journal_text(series), journal_text(study));
    return rc;
}

int journal_forget(struct journal *j, uint64_t id, const char *study, const char *series,
                   struct err *e)
{
    int rc = journal_run(&j->db, e, "DELETE FROM delivery WHERE file_id = ?", journal_id(id));

    if (rc == 0)
        rc = journal_run(&j->db, e, "DELETE FROM file WHERE id = ?", journal_id(id));
    return rc == 0 ? journal_drop_bindings(j, study, series, e) : rc;
}

/* One file that left long ago. 1: there was one. */
static int prune_one(struct journal *j, int64_t before_ms, struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false;
    uint64_t id;
    char *study, *series;
    /* One whose delivery is under way is left: its row is needed when that ends. */
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT id, study_instance_uid, series_instance_uid FROM file INDEXED BY file_gone"
        " WHERE gone_ms < ? AND NOT (state = 3 AND target IS NOT NULL) AND NOT EXISTS"
        " (SELECT 1 FROM delivery WHERE file_id = file.id AND delivery.state = 1)"
        " ORDER BY gone_ms LIMIT 1",
        journal_int(before_ms));

    if (rc != 1)
        return rc;
    id = journal_column_id(stmt, 0);
    study = journal_column_dup(stmt, 1, &oom);
    series = journal_column_dup(stmt, 2, &oom);
    journal_db_done(stmt);
    rc = oom ? err_set(e, ERR_NOMEM, "journal: out of memory")
             : journal_forget(j, id, study, series, e);
    free(study);
    free(series);
    return rc == 0 ? 1 : rc;
}

int journal_run_prune(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_prune *p = (struct journal_prune *)op;
    int rc = 1;

    p->pruned = 0;
    while (p->pruned < p->limit && (rc = prune_one(j, p->before_ms, e)) == 1)
        p->pruned++;
    while (rc >= 0 && p->pruned < p->limit && (rc = journal_prune_moved(j, p, e)) == 1)
        p->pruned++;
    return rc < 0 ? rc : 0;
}

int journal_run_study(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_study *s = (struct journal_study *)op;
    sqlite3_stmt *stmt;
    int rc = journal_query(&j->db, e, &stmt,
                           "SELECT 1 FROM file f JOIN delivery d ON d.file_id = f.id"
                           " WHERE f.study_instance_uid = ? AND d.destination = ? AND +d.state IN "
                           "(0, 1, 2) LIMIT 1",
                           journal_text(s->study), journal_text(s->destination));

    s->open = rc == 1;
    if (rc == 1)
        journal_db_done(stmt);
    return rc < 0 ? rc : 0;
}
