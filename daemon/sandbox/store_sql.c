/* The database: its tables, statements that are kept, errors that stick to the transaction. */
#include "sandbox/store_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SCHEMA_VERSION 1
#define STORE_ERR_SQL  ERR_DAMAGED

static const char SCHEMA[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE users(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL,"
    " full_name TEXT NOT NULL);"
    "CREATE TABLE institutions(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT NOT "
    "NULL);"
    /* parent 0 is the root */
    "CREATE TABLE folders(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, parent INTEGER NOT "
    "NULL,"
    " name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '');"
    "CREATE INDEX folders_by_name ON folders(parent, name);"
    /* study_key: what makes two instances one order; NULL for orders made by hand */
    "CREATE TABLE orders(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, institution INTEGER "
    "NOT NULL,"
    " study_key TEXT, study_uid TEXT NOT NULL DEFAULT '', patient_name TEXT NOT NULL DEFAULT '',"
    " patient_id TEXT NOT NULL DEFAULT '', other_patient_id TEXT NOT NULL DEFAULT '',"
    " birth_date TEXT NOT NULL DEFAULT '', sex TEXT NOT NULL DEFAULT '', modality TEXT NOT NULL "
    "DEFAULT '',"
    " description TEXT NOT NULL DEFAULT '', accession TEXT NOT NULL DEFAULT '',"
    " performed TEXT NOT NULL DEFAULT '', procedure TEXT NOT NULL DEFAULT '',"
    " referring TEXT NOT NULL DEFAULT '', deleted INTEGER NOT NULL DEFAULT 0,"
    " UNIQUE(institution, study_key));"
    "CREATE INDEX orders_by_study ON orders(study_uid);"
    "CREATE TABLE folder_orders(folder INTEGER NOT NULL, order_id INTEGER NOT NULL,"
    " PRIMARY KEY(folder, order_id)) WITHOUT ROWID;"
    "CREATE INDEX folder_orders_by_order ON folder_orders(order_id);"
    /* One row for each SOP Instance UID and bytes; `current` is the version that counts. */
    "CREATE TABLE instances(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, institution INTEGER "
    "NOT NULL,"
    " sop_uid TEXT NOT NULL, series_uid TEXT NOT NULL, sop_class TEXT NOT NULL,"
    " transfer_syntax TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,"
    " receipts INTEGER NOT NULL DEFAULT 0, current INTEGER NOT NULL DEFAULT 1,"
    " received_ms INTEGER NOT NULL, UNIQUE(order_id, sop_uid, sha256));"
    "CREATE INDEX instances_by_sop ON instances(sop_uid);"
    "CREATE TABLE documents(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, name TEXT NOT NULL,"
    " type TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, receipts INTEGER NOT NULL "
    "DEFAULT 0,"
    " received_ms INTEGER NOT NULL, UNIQUE(order_id, name, sha256));"
    "PRAGMA user_version = 1;";

static void fail_sql(struct store *s)
{
    int rc = sqlite3_errcode(s->db) & 0xff;
    int code = STORE_ERR_SQL;

    if (s->failed)
        return;
    if (rc == SQLITE_FULL)
        code = ERR_NOSPACE;
    else if (rc == SQLITE_IOERR || rc == SQLITE_CANTOPEN)
        code = ERR_IO;
    else if (rc == SQLITE_NOMEM)
        code = ERR_NOMEM;
    s->failed = true;
    err_set(&s->error, code, "the store's database: %s", sqlite3_errmsg(s->db));
}

bool store_failed(const struct store *s, struct err *e)
{
    if (s->failed && e)
        *e = s->error;
    return s->failed;
}

static struct store_sql *find_statement(struct store *s, const char *sql)
{
    struct store_sql *q;

    for (size_t i = 0; i < s->n_statements; i++) {
        if (s->statements[i].sql == sql)
            return &s->statements[i];
    }
    if (s->n_statements == STORE_STATEMENTS_MAX) {
        s->failed = true;
        err_set(&s->error, STORE_ERR_SQL, "the store has more statements than it has room for");
        return NULL;
    }
    q = &s->statements[s->n_statements];
    q->store = s;
    if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &q->stmt, NULL) !=
        SQLITE_OK) {
        fail_sql(s);
        return NULL;
    }
    q->sql = sql;
    s->n_statements++;
    return q;
}

static struct store_sql *bind_args(struct store *s, const char *sql, const char *types, va_list ap)
{
    struct store_sql *q = s->failed ? NULL : find_statement(s, sql);
    int rc = SQLITE_OK;

    if (!q)
        return NULL;
    sqlite3_reset(q->stmt);
    for (int i = 0; types[i] != '\0' && rc == SQLITE_OK; i++) {
        if (types[i] == 's')
            rc = sqlite3_bind_text(q->stmt, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        else
            rc = sqlite3_bind_int64(q->stmt, i + 1, va_arg(ap, int64_t));
    }
    if (rc != SQLITE_OK) {
        fail_sql(s);
        return NULL;
    }
    return q;
}

struct store_sql *store_sql(struct store *s, const char *sql, const char *types, ...)
{
    struct store_sql *q;
    va_list ap;

    va_start(ap, types);
    q = bind_args(s, sql, types, ap);
    va_end(ap);
    return q;
}

bool store_row(struct store_sql *q)
{
    int rc;

    if (!q || q->store->failed)
        return false;
    rc = sqlite3_step(q->stmt);
    if (rc == SQLITE_ROW)
        return true;
    if (rc != SQLITE_DONE)
        fail_sql(q->store);
    sqlite3_reset(q->stmt);
    return false;
}

const char *store_text(struct store_sql *q, int column)
{
    const unsigned char *text = sqlite3_column_text(q->stmt, column);

    return text ? (const char *)text : "";
}

int64_t store_int(struct store_sql *q, int column)
{
    return sqlite3_column_int64(q->stmt, column);
}

void store_end(struct store_sql *q)
{
    if (q)
        sqlite3_reset(q->stmt);
}

int64_t store_exec(struct store *s, const char *sql, const char *types, ...)
{
    struct store_sql *q;
    va_list ap;

    va_start(ap, types);
    q = bind_args(s, sql, types, ap);
    va_end(ap);
    while (store_row(q))
        ;
    return s->failed ? 0 : sqlite3_changes(s->db);
}

int64_t store_get_int(struct store *s, int64_t otherwise, const char *sql, const char *types, ...)
{
    struct store_sql *q;
    va_list ap;

    va_start(ap, types);
    q = bind_args(s, sql, types, ap);
    va_end(ap);
    if (store_row(q)) {
        otherwise = store_int(q, 0);
        store_end(q);
    }
    return otherwise;
}

int64_t store_last_id(struct store *s)
{
    return sqlite3_last_insert_rowid(s->db);
}

int store_sql_open(struct store *s, bool reader, struct err *e)
{
    char *path;
    int flags = reader ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    int64_t version;
    int rc;

    if (asprintf(&path, "%s/store.db", s->dir) < 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = sqlite3_open_v2(path, &s->db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    free(path);
    if (rc != SQLITE_OK)
        return err_set(e, ERR_IO, "cannot open the store's database: %s",
                       s->db ? sqlite3_errmsg(s->db) : "out of memory");
    sqlite3_busy_timeout(s->db, 10000);
    if (!reader) {
        rc = sqlite3_exec(s->db,
                          s->sync ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
                                  : "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
                          NULL, NULL, NULL);
        if (rc != SQLITE_OK)
            return err_set(e, ERR_IO, "cannot set up the store's database: %s",
                           sqlite3_errmsg(s->db));
    }
    version = store_get_int(s, -1, "PRAGMA user_version", "");
    if (store_failed(s, e))
        return e ? e->code : ERR_IO;
    if (version == 0 && !reader) {
        char *sql = NULL;

        if (asprintf(&sql, "BEGIN IMMEDIATE;%sCOMMIT", SCHEMA) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
        free(sql);
        if (rc != SQLITE_OK)
            return err_set(e, ERR_IO, "cannot make the store's tables: %s", sqlite3_errmsg(s->db));
    } else if (version != SCHEMA_VERSION) {
        return err_set(e, ERR_UNSUPPORTED, "the store has format %lld, this program knows %d",
                       (long long)version, SCHEMA_VERSION);
    }
    return 0;
}

void store_sql_close(struct store *s)
{
    for (size_t i = 0; i < s->n_statements; i++)
        sqlite3_finalize(s->statements[i].stmt);
    sqlite3_close(s->db);
}
