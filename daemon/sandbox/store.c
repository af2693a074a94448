/* Happy path of a batch: one transaction with a savepoint an operation; put the files of those that
 * succeeded in their places and make them durable (fsync of each and its folder, or one syncfs when
 * there are many); COMMIT (SQLite syncs its log); tell the loop. If a file or the commit fails,
 * every operation of the batch is told so and no row was written. */
#include "sandbox/store_internal.h"

#include "base/fsutil.h"

#include <stdlib.h>
#include <unistd.h>

#define BATCH_MAX 512

const char *store_dir(const struct store *s)
{
    return s->dir;
}

unsigned store_pending(const struct store *s)
{
    return s->pending;
}

/* ---- A batch ---- */

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
        rc = store_files_place(s, ops, e);
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

/* ---- Opening ---- */

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
    rc = store_files_open(s, e);
    if (rc == 0)
        rc = store_sql_open(s, false, e);
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
    rc = store_sql_open(s, true, e);
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
    store_sql_close(s);
    store_files_close(s);
    if (s->async_open)
        uv_close((uv_handle_t *)&s->async, on_async_closed);
    else
        free_store(s);
}
