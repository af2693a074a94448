#include "journal/journal_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
/* Before the include: out of memory is an error here, not the end. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct journal_stmt {
    const char *sql; /* key: the address */
    sqlite3_stmt *stmt;
    UT_hash_handle hh;
};

struct journal_value journal_int(int64_t v)
{
    return (struct journal_value){.type = JOURNAL_VALUE_INT, .i = v};
}

struct journal_value journal_id(uint64_t v)
{
    return journal_int((int64_t)v);
}

struct journal_value journal_text(const char *s)
{
    if (s == NULL)
        return (struct journal_value){.type = JOURNAL_VALUE_NULL};
    return (struct journal_value){.type = JOURNAL_VALUE_TEXT, .p = s, .size = strlen(s)};
}

struct journal_value journal_blob(const void *data, size_t size)
{
    if (data == NULL)
        return (struct journal_value){.type = JOURNAL_VALUE_NULL};
    return (struct journal_value){.type = JOURNAL_VALUE_BLOB, .p = data, .size = size};
}

struct journal_value journal_path(const char *s)
{
    return journal_blob(s, s == NULL ? 0 : strlen(s));
}

static int code_of(sqlite3 *sqlite, int rc)
{
    int errnum = sqlite == NULL ? 0 : sqlite3_system_errno(sqlite);

    switch (rc & 0xff) {
    case SQLITE_FULL:
        return ERR_NOSPACE;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ERR_DAMAGED;
    case SQLITE_NOMEM:
        return ERR_NOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ERR_BUSY;
    case SQLITE_INTERRUPT:
        return ERR_CANCELED;
    case SQLITE_TOOBIG:
        return ERR_TOO_LARGE;
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return ERR_ACCESS;
    case SQLITE_CONSTRAINT:
        return rc == SQLITE_CONSTRAINT_UNIQUE ? ERR_EXISTS : ERR_INVALID;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        if (rc == SQLITE_IOERR_NOMEM)
            return ERR_NOMEM;
        if (rc == SQLITE_IOERR_CORRUPTFS)
            return ERR_DAMAGED;
        return errnum == ENOSPC || errnum == EDQUOT ? ERR_NOSPACE : ERR_IO;
    default:
        return ERR_IO;
    }
}

int journal_db_error(struct journal_db *db, int rc, struct err *e)
{
    int code = code_of(db->sqlite, rc);

    /* SQLite's messages name tables and columns, never values. */
    return err_set(e, code, "journal: %s (%s)", err_text(code),
                   db->sqlite == NULL ? sqlite3_errstr(rc) : sqlite3_errmsg(db->sqlite));
}

int journal_db_open(struct journal_db *db, const char *path, int cache_kib, struct err *e)
{
    /* FULL: a commit is on disk when it returns (WAL's NORMAL may lose the last ones). Checkpoints
     * every 16 MiB of WAL. */
    static const char pragmas[] = "PRAGMA synchronous = FULL;"
                                  "PRAGMA foreign_keys = ON;"
                                  "PRAGMA temp_store = MEMORY;"
                                  "PRAGMA secure_delete = FAST;"
                                  "PRAGMA wal_autocheckpoint = 4000;"
                                  "PRAGMA journal_size_limit = 67108864;";
    char cache[64];
    int rc;

    *db = (struct journal_db){0};
    rc = sqlite3_open_v2(path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        rc = journal_db_error(db, rc, e);
        sqlite3_close(db->sqlite);
        db->sqlite = NULL;
        return rc;
    }
    sqlite3_extended_result_codes(db->sqlite, 1);
    /* What is found damaged is closed as it is: a checkpoint would write into it, and take away the
     * log, which may hold what is to be recovered. */
    sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(db->sqlite, 2000);
    snprintf(cache, sizeof(cache), "PRAGMA cache_size = -%d;", cache_kib);
    rc = journal_db_exec(db, cache, e);
    if (rc == 0)
        rc = journal_db_exec(db, pragmas, e);
    if (rc != 0)
        journal_db_close(db, NULL);
    return rc;
}

void journal_db_forget_statements(struct journal_db *db)
{
    struct journal_stmt *s, *tmp;

    HASH_ITER(hh, db->stmts, s, tmp)
    {
        HASH_DEL(db->stmts, s);
        sqlite3_finalize(s->stmt);
        free(s);
    }
}

int journal_db_close(struct journal_db *db, struct err *e)
{
    int rc;

    journal_db_forget_statements(db);
    rc = sqlite3_close(db->sqlite);
    if (rc != SQLITE_OK) {
        rc = journal_db_error(db, rc, e);
        sqlite3_close_v2(db->sqlite);
    }
    db->sqlite = NULL;
    return rc;
}

void journal_db_trust(struct journal_db *db)
{
    sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
}

int journal_db_exec(struct journal_db *db, const char *sql, struct err *e)
{
    int rc = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : journal_db_error(db, rc, e);
}

static int prepare(struct journal_db *db, const char *sql, sqlite3_stmt **ret, struct err *e)
{
    struct journal_stmt *s;
    int rc;

    HASH_FIND_PTR(db->stmts, &sql, s);
    if (s == NULL) {
        s = calloc(1, sizeof(*s));
        if (s == NULL)
            return err_set(e, ERR_NOMEM, "journal: out of memory");
        s->sql = sql;
        rc = sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmt, NULL);
        if (rc != SQLITE_OK) {
            free(s);
            return journal_db_error(db, rc, e);
        }
        HASH_ADD_PTR(db->stmts, sql, s);
        if (s->hh.tbl == NULL) {
            sqlite3_finalize(s->stmt);
            free(s);
            return err_set(e, ERR_NOMEM, "journal: out of memory");
        }
    }
    *ret = s->stmt;
    return 0;
}

static int bind_values(struct journal_db *db, sqlite3_stmt *stmt, const struct journal_value *v,
                       struct err *e)
{
    int rc = SQLITE_OK;

    for (int i = 1; v->type != JOURNAL_VALUE_END && rc == SQLITE_OK; i++, v++) {
        switch (v->type) {
        case JOURNAL_VALUE_INT:
            rc = sqlite3_bind_int64(stmt, i, v->i);
            break;
        case JOURNAL_VALUE_TEXT:
            rc = sqlite3_bind_text64(stmt, i, v->p, v->size, SQLITE_STATIC, SQLITE_UTF8);
            break;
        case JOURNAL_VALUE_BLOB:
            rc = sqlite3_bind_blob64(stmt, i, v->p, v->size, SQLITE_STATIC);
            break;
        case JOURNAL_VALUE_NULL:
        case JOURNAL_VALUE_END:
            rc = sqlite3_bind_null(stmt, i);
            break;
        }
    }
    return rc == SQLITE_OK ? 0 : journal_db_error(db, rc, e);
}

int journal_db_next(struct journal_db *db, struct err *e, sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);

    if (rc == SQLITE_ROW)
        return 1;
    rc = rc == SQLITE_DONE ? 0 : journal_db_error(db, rc, e);
    journal_db_done(stmt);
    return rc;
}

int journal_db_query(struct journal_db *db, struct err *e, sqlite3_stmt **ret, const char *sql,
                     const struct journal_value *values)
{
    int rc = prepare(db, sql, ret, e);

    if (rc != 0)
        return rc;
    rc = bind_values(db, *ret, values, e);
    if (rc != 0) {
        journal_db_done(*ret);
        return rc;
    }
    return journal_db_next(db, e, *ret);
}

void journal_db_done(sqlite3_stmt *stmt)
{
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
}

int journal_db_run(struct journal_db *db, struct err *e, const char *sql,
                   const struct journal_value *values)
{
    sqlite3_stmt *stmt;
    int rc = journal_db_query(db, e, &stmt, sql, values);

    if (rc == 1) {
        journal_db_done(stmt);
        rc = 0;
    }
    return rc;
}

uint64_t journal_column_id(sqlite3_stmt *stmt, int column)
{
    return (uint64_t)sqlite3_column_int64(stmt, column);
}

char *journal_column_dup(sqlite3_stmt *stmt, int column, bool *oom)
{
    const void *p;
    size_t size;
    char *s;

    if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
        return NULL;
    p = sqlite3_column_blob(stmt, column);
    size = (size_t)sqlite3_column_bytes(stmt, column);
    s = malloc(size + 1);
    if (s == NULL || (p == NULL && size > 0)) {
        free(s);
        *oom = true;
        return NULL;
    }
    if (size > 0)
        memcpy(s, p, size);
    s[size] = '\0';
    return s;
}

bool journal_column_sha256(sqlite3_stmt *stmt, int column, uint8_t out[JOURNAL_SHA256_SIZE])
{
    const void *p = sqlite3_column_blob(stmt, column);

    if (p == NULL || sqlite3_column_bytes(stmt, column) != JOURNAL_SHA256_SIZE)
        return false;
    memcpy(out, p, JOURNAL_SHA256_SIZE);
    return true;
}

int journal_meta_get(struct journal_db *db, const char *key, int64_t *ret, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(db, e, &stmt, "SELECT value FROM meta WHERE key = ?", journal_text(key));

    *ret = 0;
    if (rc == 1) {
        *ret = sqlite3_column_int64(stmt, 0);
        journal_db_done(stmt);
        rc = 0;
    }
    return rc;
}

int journal_meta_set(struct journal_db *db, const char *key, int64_t value, struct err *e)
{
    return journal_run(
        db, e,
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        journal_text(key), journal_int(value));
}
