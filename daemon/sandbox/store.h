/* The sandbox's durable state: DIR/store.db (SQLite, WAL) and the files below DIR.
 *
 *   DIR/incoming/             parts and instances on their way; emptied at start
 *   DIR/instances/<xx>/       <sha256>.dcm, byte for byte as received
 *   DIR/documents/<xx>/       <sha256>
 *
 * One thread of its own runs all operations, in order. Those that wait together are one transaction
 * and one sync (group commit): files first, then the commit of the rows that speak of them, then
 * the answers. Whatever an operation's `done` was told with status 0 is on disk. A kill leaves at
 * most files that no row names. */
#ifndef SANDBOX_STORE_H
#define SANDBOX_STORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct store;
struct store_sql;

/* A file that an operation puts in its place, if its `run` returned 0, before the transaction is
 * committed. */
struct store_file {
    char *from;  /* in DIR/incoming, malloc'ed; NULL: none */
    int fd;      /* open on it; closed by the store */
    char to[96]; /* relative to DIR */
};

/* Owned by the caller until `done`, which comes exactly once, on the loop. */
struct store_op {
    /* On the store's thread, inside a transaction. A return other than 0 undoes what this operation
     * wrote; the number is the caller's own. */
    int (*run)(struct store *s, struct store_op *op);
    /* status: 0, what `run` returned, or a negative ERR_ code if the transaction or a file failed.
     */
    void (*done)(struct store_op *op, int status, const struct err *e);
    struct store_file *file;
    bool read_only; /* writes nothing: does not wait for a sync */
    /* private */
    struct store_op *next;
    int status;
};

/* Opens or creates DIR. `sync` false: no fsync at all, for benches. ERR_LOCKED if another sandbox
 * has it. */
int store_open(struct store **ret, uv_loop_t *loop, const char *dir, bool sync, struct err *e);
/* The same for reading only, beside a running sandbox: operations cannot be submitted, only
 * store_sql_* used. */
int store_open_reader(struct store **ret, const char *dir, struct err *e);
void store_submit(struct store *s, struct store_op *op);
/* Submitted and not done. */
unsigned store_pending(const struct store *s);
/* Waits for what was submitted; no `done` comes any more for it. Frees. */
void store_close(struct store *s);

const char *store_dir(const struct store *s);
/* A new name in DIR/incoming, malloc'ed, NULL when out of memory. Thread-safe. */
char *store_incoming_path(struct store *s);

/* SQL, in `run` only (or before the first store_submit). `sql` must be a literal: statements are
 * kept by its address. The letters of `types` bind the arguments: s text (NULL is NULL), i int64_t.
 * Errors are sticky and fail the whole transaction, so nothing has to be checked at each step. */
struct store_sql *store_sql(struct store *s, const char *sql, const char *types, ...);
/* The next row; false at the end, and then the statement is reset. */
bool store_row(struct store_sql *q);
/* Text of a column, valid until the next step; never NULL. */
const char *store_text(struct store_sql *q, int column);
int64_t store_int(struct store_sql *q, int column);
/* Resets a statement whose rows were not read to the end. */
void store_end(struct store_sql *q);
/* Runs a statement that gives no rows; the number of rows it changed. */
int64_t store_exec(struct store *s, const char *sql, const char *types, ...);
/* First column of the first row, or `otherwise`. */
int64_t store_get_int(struct store *s, int64_t otherwise, const char *sql, const char *types, ...);
int64_t store_last_id(struct store *s);
bool store_failed(const struct store *s, struct err *e);

#endif
