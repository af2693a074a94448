/* Files that were moved away after their delivery: kept in mind as long as `retention` wants to
 * find them again. */
#include "journal/journal_internal.h"

#include <stdlib.h>
#include <string.h>

int journal_run_moved(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_moved *m = (struct journal_moved *)op;
    sqlite3_stmt *stmt;
    int more;

    more =
        journal_query(&j->db, e, &stmt,
                      "SELECT id, watch, target, size, mtime_ns, state, reason, study_instance_uid,"
                      " sop_instance_uid, disposed_ms FROM file INDEXED BY file_moved"
                      " WHERE watch = ? AND state = 3 AND target IS NOT NULL AND disposed_ms < ?"
                      " AND (disposed_ms, id) > (?, ?) ORDER BY disposed_ms, id LIMIT ?",
                      journal_path(m->watch), journal_int(m->before_ms), journal_int(m->after_ms),
                      journal_id(m->after_id), journal_id(m->limit));
    return journal_file_rows(j, stmt, more, m->limit, &m->rows, &m->n, e);
}

void journal_moved_clear(struct journal_moved *m)
{
    journal_file_rows_free(&m->rows, &m->n);
}

void journal_reset_moved(struct journal_op *op)
{
    journal_moved_clear((struct journal_moved *)op);
}

int journal_run_unmoved(struct journal *j, struct journal_op *op, struct err *e)
{
    struct journal_unmoved *u = (struct journal_unmoved *)op;

    return journal_run(&j->db, e,
                       "UPDATE file SET target = NULL, note = ? WHERE id = ? AND state = 3",
                       journal_text(u->note), journal_id(u->file_id));
}

static bool retained(const struct journal_prune *p, const char *watch)
{
    for (size_t i = 0; i < p->n_retaining; i++)
        if (strcmp(p->retaining[i], watch) == 0)
            return true;
    return false;
}

/* The next drop folder that has moved files; NULL in *ret: no more. */
static int next_watch(struct journal *j, const char *after, char **ret, struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false;
    int rc = journal_query(&j->db, e, &stmt,
                           "SELECT watch FROM file INDEXED BY file_moved WHERE watch > ?"
                           " AND state = 3 AND target IS NOT NULL ORDER BY watch LIMIT 1",
                           journal_path(after));

    *ret = NULL;
    if (rc != 1)
        return rc;
    *ret = journal_column_dup(stmt, 0, &oom);
    journal_db_done(stmt);
    return oom ? err_set(e, ERR_NOMEM, "journal: out of memory") : 0;
}

static int prune_watch(struct journal *j, const char *watch, int64_t before_ms, struct err *e)
{
    sqlite3_stmt *stmt;
    bool oom = false;
    int rc = journal_query(
        &j->db, e, &stmt,
        "SELECT id, study_instance_uid, series_instance_uid FROM file INDEXED BY file_moved"
        " WHERE watch = ? AND state = 3 AND target IS NOT NULL AND disposed_ms < ?"
        " ORDER BY disposed_ms LIMIT 1",
        journal_path(watch), journal_int(before_ms));
    uint64_t id;
    char *study, *series;

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

int journal_prune_moved(struct journal *j, const struct journal_prune *p, struct err *e)
{
    char *watch = NULL, *next;
    int rc = next_watch(j, "", &next, e);

    while (rc == 0 && next != NULL) {
        free(watch);
        watch = next;
        if (!retained(p, watch))
            rc = prune_watch(j, watch, p->before_ms, e);
        if (rc == 0)
            rc = next_watch(j, watch, &next, e);
    }
    free(watch);
    return rc;
}
