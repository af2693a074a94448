/* What store.c (operations and their thread), store_sql.c (the database) and store_files.c (the
 * files that its rows name) share. */
#ifndef SANDBOX_STORE_INTERNAL_H
#define SANDBOX_STORE_INTERNAL_H

#include "sandbox/store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#define STORE_STATEMENTS_MAX 128

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
    struct store_sql statements[STORE_STATEMENTS_MAX];
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

/* Opens DIR/store.db and makes its tables where they are missing. */
int store_sql_open(struct store *s, bool reader, struct err *e);
void store_sql_close(struct store *s);

/* Makes DIR and its folders, opens and locks it, empties DIR/incoming. */
int store_files_open(struct store *s, struct err *e);
void store_files_close(struct store *s);
/* Puts the files of those operations in their places that succeeded, and makes them durable. */
int store_files_place(struct store *s, struct store_op *ops, struct err *e);

#endif
