/* Private to core/journal: one SQLite connection with its statements, and what the files of the
 * module share.
 *
 * Who touches what: the loop thread the fields marked so; the journal thread `db` and the
 * operations it took; the background thread (check, backup) a connection of its own; what they
 * exchange lies behind `mutex`. */
#ifndef JOURNAL_JOURNAL_INTERNAL_H
#define JOURNAL_JOURNAL_INTERNAL_H

#include "journal/journal.h"

#include <limits.h>
#include <sqlite3.h>

/* ---- journal_db.c: a connection ---- */

struct journal_stmt;

#define JOURNAL_COUNTS 32 /* rows of the table count */

struct journal_db {
    sqlite3 *sqlite;
    struct journal_stmt *stmts; /* by the address of their text */
    /* What the rows of the table count are to be changed by before the transaction's end. */
    struct journal_counted {
        int64_t n, bytes;
    } counted[JOURNAL_COUNTS];
    bool uncounted;
};

/* A value to bind. Texts and blobs are not copied: they must live until the statement is reset. */
struct journal_value {
    enum {
        JOURNAL_VALUE_END,
        JOURNAL_VALUE_INT,
        JOURNAL_VALUE_TEXT,
        JOURNAL_VALUE_BLOB,
        JOURNAL_VALUE_NULL
    } type;
    int64_t i;
    const void *p;
    size_t size;
};

struct journal_value journal_int(int64_t v);
struct journal_value journal_id(uint64_t v);
struct journal_value journal_text(const char *s); /* NULL: NULL */
struct journal_value journal_path(const char *s); /* the bytes, as a blob; NULL: NULL */
struct journal_value journal_blob(const void *data, size_t size); /* NULL: NULL */

/* Opens an existing file. `cache_kib` bounds the page cache. */
int journal_db_open(struct journal_db *db, const char *path, int cache_kib, struct err *e);
int journal_db_close(struct journal_db *db, struct err *e);
/* Gives back the memory of the prepared statements; none may be in use. */
void journal_db_forget_statements(struct journal_db *db);
/* It is known to be good: closing it empties its log, which stays beside it otherwise. */
void journal_db_trust(struct journal_db *db);
/* Runs SQL without results or parameters, several statements too. */
int journal_db_exec(struct journal_db *db, const char *sql, struct err *e);
/* The ERR_ code of a SQLite result, with the message in *e. */
int journal_db_error(struct journal_db *db, int rc, struct err *e);

/* `sql` must be a string literal: statements are kept by its address. `query` gives 1 and a row in
 * *ret, or 0 and no row, or a negative code; after the last row or an error the statement is reset.
 * `next` goes on; `done` ends early. */
int journal_db_query(struct journal_db *db, struct err *e, sqlite3_stmt **ret, const char *sql,
                     const struct journal_value *values);
int journal_db_next(struct journal_db *db, struct err *e, sqlite3_stmt *stmt);
void journal_db_done(sqlite3_stmt *stmt);
int journal_db_run(struct journal_db *db, struct err *e, const char *sql,
                   const struct journal_value *values);

#define VALUES(...)                                                                                \
    ((const struct journal_value[]){__VA_ARGS__ __VA_OPT__(, ){.type = JOURNAL_VALUE_END}})
#define journal_query(db, e, ret, sql, ...)                                                        \
    journal_db_query((db), (e), (ret), (sql), VALUES(__VA_ARGS__))
#define journal_run(db, e, sql, ...) journal_db_run((db), (e), (sql), VALUES(__VA_ARGS__))

uint64_t journal_column_id(sqlite3_stmt *stmt, int column);
/* Copies text or blob, NUL-terminated; NULL for NULL, and with *oom set when out of memory. */
char *journal_column_dup(sqlite3_stmt *stmt, int column, bool *oom);
bool journal_column_sha256(sqlite3_stmt *stmt, int column, uint8_t out[JOURNAL_SHA256_SIZE]);

int journal_meta_get(struct journal_db *db, const char *key, int64_t *ret,
                     struct err *e); /* 0 where missing */
int journal_meta_set(struct journal_db *db, const char *key, int64_t value, struct err *e);

/* ---- journal_schema.c ---- */

/* Brings the schema up to the last of n steps (version i + 1 = after steps[i]), each in a
 * transaction of its own. ERR_UNSUPPORTED if it is newer. */
int journal_schema_migrate(struct journal_db *db, const char *const *steps, size_t n,
                           struct err *e);
/* The same with this program's steps. */
int journal_schema_update(struct journal_db *db, struct err *e);

/* ---- journal_counts.c ---- */

/* From now on the changes of states that come through this connection are checked and counted. */
int journal_counts_watch(struct journal_db *db, struct err *e);
/* Before each COMMIT: stores what was counted. After a ROLLBACK it is dropped instead. */
int journal_counts_store(struct journal_db *db, struct err *e);
void journal_counts_drop(struct journal_db *db);

/* ---- journal_recover.c ---- */

/* Opens journal.db in `folder`, making, restoring or updating it as needed. */
int journal_recover(struct journal_db *db, const char *folder, struct journal_opened *opened,
                    struct err *e);
/* Writes down durably that journal.db is damaged, so that the next journal_recover sets it aside.
 */
int journal_recover_mark(const char *folder, struct err *e);
/* PRAGMA quick_check; ERR_DAMAGED with what it found, ERR_CANCELED when interrupted. */
int journal_recover_check(struct journal_db *db, struct err *e);

/* ---- journal_backup.c ---- */

enum journal_background_kind {
    JOURNAL_BACKGROUND_NONE,
    JOURNAL_BACKGROUND_CHECK,
    JOURNAL_BACKGROUND_BACKUP,
};

/* The one thing that runs in the background at a time. Behind the journal's mutex but for `thread`.
 */
struct journal_background {
    uv_thread_t thread;
    enum journal_background_kind kind;
    bool finished; /* the thread is at its end: join it */
    bool stop;
    sqlite3 *connection; /* to interrupt */
    int status;
    struct err err;
};

/* Journal thread: starts, stops early, and joins (giving status and *e). */
int journal_background_start(struct journal *j, enum journal_background_kind kind, struct err *e);
void journal_background_stop(struct journal *j);
int journal_background_join(struct journal *j, struct err *e);
/* An empty file, 0600, for a database at `path`, in place of what is there. */
int journal_backup_create(const char *path, struct err *e);
/* Copies the database `from` to `to` with SQLite's backup, checks and syncs the copy. `stop` may be
 * NULL. */
int journal_backup_copy(struct journal_db *from, const char *to, bool (*stop)(void *ctx), void *ctx,
                        struct err *e);
/* fsync of `from`, then durable rename to `to`. */
int journal_backup_publish(const char *from, const char *to, struct err *e);
/* Removes a database and what SQLite keeps beside it, where they are. */
int journal_backup_discard(const char *path, struct err *e);

/* ---- journal_thread.c: the journal thread ---- */

enum journal_kind {
    JOURNAL_KIND_LOOKUP,
    JOURNAL_KIND_BINDING,
    JOURNAL_KIND_ADMIT,
    JOURNAL_KIND_TOUCH,
    JOURNAL_KIND_FILES,
    JOURNAL_KIND_CLAIM,
    JOURNAL_KIND_SETTLE,
    JOURNAL_KIND_VANISH,
    JOURNAL_KIND_DISPOSED,
    JOURNAL_KIND_STANDING,
    JOURNAL_KIND_GONE,
    JOURNAL_KIND_PRUNE,
    JOURNAL_KIND_MOVED,
    JOURNAL_KIND_UNMOVED,
    JOURNAL_KIND_STUDY,
    JOURNAL_KIND_ACT,
    JOURNAL_KIND_COUNTS,
    JOURNAL_KIND_LIST,
    JOURNAL_KIND_HOLDS,
    JOURNAL_KIND_REBUILT,
    JOURNAL_KIND_REFUSED,
    JOURNAL_KIND_BACKUP,
    JOURNAL_KIND_MAX,
};

/* What an operation does on the journal thread. It may run more than once (after a rollback): `run`
 * must not change what it was given, `reset` frees and zeroes what it gave out. */
struct journal_kind_table {
    int (*run)(struct journal *j, struct journal_op *op, struct err *e);
    void (*reset)(struct journal_op *op); /* NULL: nothing to free */
    bool reads;                           /* changes nothing */
};

extern const struct journal_kind_table journal_kinds[JOURNAL_KIND_MAX];

struct journal_queue {
    struct journal_op *head, **tail;
};

struct journal {
    /* loop thread */
    uv_loop_t *loop;
    uv_async_t async;
    unsigned pending;
    void (*damaged_cb)(const struct err *e, void *ctx);
    void *ctx;
    void (*close_cb)(int status, void *ctx);
    void *close_ctx;
    bool joined;
    uv_thread_t thread;

    /* fixed after journal_open */
    char folder[PATH_MAX];
    int lock_fd;

    uv_mutex_t mutex;
    uv_cond_t cond;
    struct journal_queue queue; /* to do */
    struct journal_queue done;  /* to call back */
    uint64_t wanted_backup_ms;
    bool closing;
    bool ended; /* the journal thread is at its end */
    int close_status;
    bool tell_damaged; /* call damaged_cb with `damage` */
    struct err damage;
    struct journal_background background;

    /* journal thread (and journal_open before it starts) */
    struct journal_db db;
    bool rebuilding; /* since a restore the drop folders were not read again */
    bool damaged;
    bool check_due;        /* the check is to be started */
    bool unchecked;        /* and has not ended well yet */
    bool changed;          /* since the last backup */
    bool housekeeping_due; /* since it was last idle for a while */
    uint64_t trim_at_ms;   /* monotonic: when memory is given back once more, 0: not */
    bool memory_held;      /* pages and statements, since then */
    bool no_space;         /* a change did not fit on the disk */
    uint64_t backup_ms;
    uint64_t backup_at_ms;        /* monotonic: when the next one is due, if changed */
    struct journal_queue backups; /* operations that wait for the backup */
};

void journal_queue_init(struct journal_queue *q);
void journal_queue_put(struct journal_queue *q, struct journal_op *op);
struct journal_op *journal_queue_take(struct journal_queue *q);
void journal_thread(void *arg);
/* Hands an operation to the journal thread. */
void journal_submit(struct journal *j, struct journal_op *op, enum journal_kind kind);

/* ---- What the operations share ---- */

/* Files whose disposal was given up, as the index file_left has them. */
#define JOURNAL_LEFT "state = 2 AND note IS NOT NULL AND past = 0"

/* Loads into `row` the columns id, watch, path, size, mtime_ns, state, reason, study, sop,
 * changed_ms. */
#define JOURNAL_FILE_COLUMNS                                                                       \
    "id, watch, path, size, mtime_ns, state, reason, study_instance_uid, sop_instance_uid, "       \
    "changed_ms"
/* Collects the rows of a query that is at its first row (`more` is what journal_query gave). */
int journal_file_rows(struct journal *j, sqlite3_stmt *stmt, int more, size_t limit,
                      struct journal_file_row **rows, size_t *n, struct err *e);
void journal_file_rows_free(struct journal_file_row **rows, size_t *n);

/* Ends the open deliveries of a file. */
int journal_end_deliveries(struct journal *j, uint64_t file_id, struct err *e);
/* The file left its path: vanished with the reason if it was not yet at an end, else its history
 * starts. */
int journal_file_left(struct journal *j, uint64_t file_id, const char *reason, bool *ret_vanished,
                      struct err *e);
/* Makes a queued file delivered when all its deliveries arrived; then it gets `sha256`, if given.
 */
int journal_complete(struct journal *j, uint64_t file_id, const uint8_t *sha256,
                     bool *ret_delivered, struct err *e);
/* A delivery of this instance left `queued` or `sending`: the next that stands behind it may go. */
int journal_unblock(struct journal *j, const char *destination, const char *sop_instance_uid,
                    struct err *e);
/* Forgets one file with its deliveries and what only it needed; study and series may be NULL. */
int journal_forget(struct journal *j, uint64_t id, const char *study, const char *series,
                   struct err *e);
/* Of the moved files that are not retained, one that left before that. 1: there was one. */
int journal_prune_moved(struct journal *j, const struct journal_prune *p, struct err *e);
/* Removes bindings of this study and series that no file needs. */
int journal_drop_bindings(struct journal *j, const char *study, const char *series, struct err *e);

/* journal_hold.c: holds a destination (if it is not held), and releases it, or all of them (NULL);
 * whether it, or any, is held; holds what is queued or waiting for it. */
int journal_hold_set(struct journal *j, const char *destination, struct err *e);
int journal_hold_end(struct journal *j, const char *destination, bool *ret_ended, struct err *e);
int journal_hold_find(struct journal *j, const char *destination, bool *ret, struct err *e);
int journal_hold_rest(struct journal *j, const char *destination, struct err *e);

int journal_run_lookup(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_binding(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_admit(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_touch(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_files(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_claim(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_settle(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_vanish(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_disposed(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_standing(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_gone(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_prune(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_moved(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_unmoved(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_study(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_act(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_counts(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_holds(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_list(struct journal *j, struct journal_op *op, struct err *e);
int journal_run_rebuilt(struct journal *j, struct journal_op *op, struct err *e);
void journal_reset_binding(struct journal_op *op);
void journal_reset_files(struct journal_op *op);
void journal_reset_claim(struct journal_op *op);
void journal_reset_standing(struct journal_op *op);
void journal_reset_moved(struct journal_op *op);
void journal_reset_holds(struct journal_op *op);
void journal_reset_list(struct journal_op *op);

#endif
