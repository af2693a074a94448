/* Happy path of a batch: one transaction with a savepoint an operation; put the files of those that
 * succeeded in their places and make them durable (fsync of each and its folder, or one syncfs when
 * there are many); COMMIT (SQLite syncs its log); tell the loop. If a file or the commit fails,
 * every operation of the batch is told so and no row was written. */
#include "sandbox/store.h"

#include "base/folder.h"
#include "base/fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_MAX      512
#define SYNCFS_FROM    4 /* files in a batch from which one syncfs is cheaper than their fsyncs */
#define SCHEMA_VERSION 1
#define STATEMENTS_MAX 128
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

struct store_sql {
    struct store *store;
    const char *sql;
    sqlite3_stmt *stmt;
};

struct store {
    char *dir;
    int dir_fd;
    int lock_fd;
    bool sync;
    sqlite3 *db;
    struct store_sql statements[STATEMENTS_MAX];
    size_t n_statements;
    bool failed; /* the store's thread only: an SQL error of the running operation or batch */
    struct err error;
    atomic_uint_fast64_t next_incoming;

    pthread_t thread;
    bool thread_runs;
    uv_async_t async;
    bool async_open;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under lock */
    struct store_op *queue, **queue_end;
    struct store_op *finished, **finished_end;
    struct err finished_error; /* of the last batch that failed */
    bool stop;
    /* the loop only */
    unsigned pending;
};

const char *store_dir(const struct store *s)
{
    return s->dir;
}

unsigned store_pending(const struct store *s)
{
    return s->pending;
}

char *store_incoming_path(struct store *s)
{
    char *path;
    uint64_t n = atomic_fetch_add(&s->next_incoming, 1);

    if (asprintf(&path, "%s/incoming/%llu", s->dir, (unsigned long long)n) < 0)
        return NULL;
    return path;
}

/* --- SQL
 * ----------------------------------------------------------------------------------------------------------
 */

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
    if (s->n_statements == STATEMENTS_MAX) {
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

/* --- a batch
 * -------------------------------------------------------------------------------------------------------
 */

static int sync_fd(int fd, struct err *e)
{
    if (fsync(fd) < 0)
        return err_set_errno(e, errno, "cannot make a stored file durable");
    return 0;
}

/* The name is the content's hash: what lies there already may be replaced (it might be torn, left
 * by a lost power supply before any row named it). */
static int place_file(struct store *s, struct store_file *f, struct err *e)
{
    char folder[sizeof f->to];
    char *slash;

    if (renameat(AT_FDCWD, f->from, s->dir_fd, f->to) == 0)
        return 0;
    if (errno == ENOENT) {
        snprintf(folder, sizeof folder, "%s", f->to);
        slash = strrchr(folder, '/');
        if (slash) {
            *slash = '\0';
            if (mkdirat(s->dir_fd, folder, 0700) < 0 && errno != EEXIST)
                return err_set_errno(e, errno, "cannot make a folder of the store");
        }
        if (renameat(AT_FDCWD, f->from, s->dir_fd, f->to) == 0)
            return 0;
    }
    return err_set_errno(e, errno, "cannot put a stored file in its place");
}

static int sync_file(struct store *s, struct store_file *f, struct err *e)
{
    char path[sizeof f->to];
    int rc, fd;

    rc = sync_fd(f->fd, e);
    if (rc)
        return rc;
    /* The file's folder, and the one above it, since the folder may be new. */
    snprintf(path, sizeof path, "%s", f->to);
    for (char *slash = strrchr(path, '/'); slash; slash = strrchr(path, '/')) {
        *slash = '\0';
        fd = openat(s->dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return err_set_errno(e, errno, "cannot open a folder of the store");
        rc = sync_fd(fd, e);
        close(fd);
        if (rc)
            return rc;
    }
    return 0;
}

/* Of those that were refused nothing is kept. */
static bool has_file(const struct store_op *op)
{
    return op->file && op->file->from && op->status == 0;
}

static int place_files(struct store *s, struct store_op *ops, struct err *e)
{
    unsigned n = 0;
    int rc;

    for (struct store_op *op = ops; op; op = op->next) {
        if (!has_file(op))
            continue;
        n++;
        rc = place_file(s, op->file, e);
        if (rc)
            return rc;
    }
    if (!s->sync || n == 0)
        return 0;
    if (n >= SYNCFS_FROM) {
        if (syncfs(s->dir_fd) < 0)
            return err_set_errno(e, errno, "cannot make the store durable");
        return 0;
    }
    for (struct store_op *op = ops; op; op = op->next) {
        if (has_file(op) && (rc = sync_file(s, op->file, e)) != 0)
            return rc;
    }
    return 0;
}

static void run_one(struct store *s, struct store_op *op)
{
    if (!op->read_only)
        store_exec(s, "SAVEPOINT op", "");
    op->status = op->run(s, op);
    if (op->status != 0 && !op->read_only)
        store_exec(s, "ROLLBACK TO op", "");
    if (!op->read_only)
        store_exec(s, "RELEASE op", "");
}

static int run_batch(struct store *s, struct store_op *ops, struct err *e)
{
    int rc = 0;

    s->failed = false;
    store_exec(s, "BEGIN", "");
    for (struct store_op *op = ops; op; op = op->next)
        run_one(s, op);
    if (!store_failed(s, e))
        rc = place_files(s, ops, e);
    if (rc == 0)
        store_exec(s, "COMMIT", "");
    if (rc == 0 && !store_failed(s, e))
        return 0;
    sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    s->failed = false;
    return e->code;
}

static struct store_op *take_batch(struct store *s)
{
    struct store_op *ops = s->queue;
    struct store_op *last = ops;

    for (unsigned n = 1; n < BATCH_MAX && last->next; n++)
        last = last->next;
    s->queue = last->next;
    last->next = NULL;
    if (!s->queue)
        s->queue_end = &s->queue;
    return ops;
}

static void *thread_main(void *arg)
{
    struct store *s = arg;
    struct store_op *ops, *last;
    struct err e;
    int rc;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->queue && !s->stop)
            pthread_cond_wait(&s->wake, &s->lock);
        if (!s->queue)
            break;
        ops = take_batch(s);
        pthread_mutex_unlock(&s->lock);

        rc = run_batch(s, ops, &e);
        for (struct store_op *op = ops; op; op = op->next) {
            if (rc)
                op->status = rc;
            if (op->file && op->file->fd >= 0) {
                close(op->file->fd);
                op->file->fd = -1;
            }
        }

        for (last = ops; last->next; last = last->next)
            ;
        pthread_mutex_lock(&s->lock);
        *s->finished_end = ops;
        s->finished_end = &last->next;
        if (rc)
            s->finished_error = e;
        uv_async_send(&s->async);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void on_async(uv_async_t *async)
{
    struct store *s = async->data;
    struct store_op *ops, *op;
    struct err e;

    pthread_mutex_lock(&s->lock);
    ops = s->finished;
    s->finished = NULL;
    s->finished_end = &s->finished;
    e = s->finished_error;
    pthread_mutex_unlock(&s->lock);

    while ((op = ops) != NULL) {
        ops = op->next;
        s->pending--;
        op->done(op, op->status, op->status < 0 ? &e : NULL);
    }
}

void store_submit(struct store *s, struct store_op *op)
{
    op->next = NULL;
    s->pending++;
    pthread_mutex_lock(&s->lock);
    *s->queue_end = op;
    s->queue_end = &op->next;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* --- opening
 * -------------------------------------------------------------------------------------------------------
 */

static int open_db(struct store *s, bool reader, struct err *e)
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

static int remove_incoming(struct store *s, struct err *e)
{
    int fd = openat(s->dir_fd, "incoming", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        if (fd >= 0)
            close(fd);
        return err_set_errno(e, errno, "cannot read the store's folder for parts");
    }
    for (struct dirent *entry = readdir(d); entry; entry = readdir(d)) {
        if (entry->d_name[0] != '.')
            unlinkat(fd, entry->d_name, 0);
    }
    closedir(d);
    return 0;
}

static int prepare_dir(struct store *s, struct err *e)
{
    static const char *const folders[] = {"incoming", "instances", "documents"};
    char *path;
    int rc = folder_make(s->dir, 0700, e);

    for (size_t i = 0; i < 3 && rc == 0; i++) {
        if (asprintf(&path, "%s/%s", s->dir, folders[i]) < 0)
            return err_set(e, ERR_NOMEM, "out of memory");
        rc = folder_make(path, 0700, e);
        free(path);
    }
    if (rc)
        return rc;
    if (asprintf(&path, "%s/lock", s->dir) < 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = fsutil_lock(path, &s->lock_fd, e);
    free(path);
    return rc == ERR_LOCKED ? err_wrap(e, "another sandbox runs on this state folder: it is") : rc;
}

static struct store *allocate(const char *dir)
{
    struct store *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->dir = fsutil_normalise(dir);
    s->dir_fd = -1;
    s->lock_fd = -1;
    s->queue_end = &s->queue;
    s->finished_end = &s->finished;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (!s->dir) {
        store_close(s);
        return NULL;
    }
    return s;
}

int store_open(struct store **ret, uv_loop_t *loop, const char *dir, bool sync, struct err *e)
{
    struct store *s = allocate(dir);
    int rc;

    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    s->sync = sync;
    rc = prepare_dir(s, e);
    if (rc)
        goto fail;
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0) {
        rc = err_set_errno(e, errno, "cannot open the state folder");
        goto fail;
    }
    rc = remove_incoming(s, e);
    if (rc == 0)
        rc = open_db(s, false, e);
    if (rc)
        goto fail;
    if (uv_async_init(loop, &s->async, on_async) != 0) {
        rc = err_set(e, ERR_IO, "cannot set up the store's wake-up");
        goto fail;
    }
    s->async.data = s;
    s->async_open = true;
    if (pthread_create(&s->thread, NULL, thread_main, s) != 0) {
        rc = err_set(e, ERR_NOMEM, "cannot start the store's thread");
        goto fail;
    }
    s->thread_runs = true;
    *ret = s;
    return 0;
fail:
    store_close(s);
    return rc;
}

int store_open_reader(struct store **ret, const char *dir, struct err *e)
{
    struct store *s = allocate(dir);
    int rc;

    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = open_db(s, true, e);
    if (rc) {
        store_close(s);
        return rc;
    }
    *ret = s;
    return 0;
}

static void free_store(struct store *s)
{
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s->dir);
    free(s);
}

static void on_async_closed(uv_handle_t *handle)
{
    free_store(handle->data);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    if (s->thread_runs) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (size_t i = 0; i < s->n_statements; i++)
        sqlite3_finalize(s->statements[i].stmt);
    sqlite3_close(s->db);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    if (s->async_open)
        uv_close((uv_handle_t *)&s->async, on_async_closed);
    else
        free_store(s);
}
