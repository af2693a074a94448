/* The loop's side of the journal: opening, handing operations over, calling back, closing. */
#include "journal/journal.h"

#include "base/clock.h"
#include "base/folder.h"
#include "base/fsutil.h"
#include "journal/journal_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void journal_submit(struct journal *j, struct journal_op *op, enum journal_kind kind)
{
    op->status = 0;
    j->pending++;
    uv_mutex_lock(&j->mutex);
    op->kind = (int)(j->closing ? JOURNAL_KIND_REFUSED : kind);
    if (j->ended) {
        op->status = err_set(&op->err, ERR_CANCELED, "journal: it is closing");
        journal_queue_put(&j->done, op);
        uv_async_send(&j->async);
    } else {
        journal_queue_put(&j->queue, op);
        uv_cond_signal(&j->cond);
    }
    uv_mutex_unlock(&j->mutex);
}

unsigned journal_pending(const struct journal *j)
{
    return j->pending;
}

static void on_closed(uv_handle_t *handle)
{
    struct journal *j = handle->data;
    void (*cb)(int status, void *ctx) = j->close_cb;
    void *ctx = j->close_ctx;
    int status = j->close_status;

    uv_cond_destroy(&j->cond);
    uv_mutex_destroy(&j->mutex);
    close(j->lock_fd);
    free(j);
    if (cb != NULL)
        cb(status, ctx);
}

static void on_async(uv_async_t *async)
{
    struct journal *j = async->data;
    struct journal_queue done;
    struct journal_op *op;
    struct err damage;
    bool ended, damaged;

    uv_mutex_lock(&j->mutex);
    journal_queue_init(&done);
    if (j->done.head != NULL) {
        done = j->done;
        journal_queue_init(&j->done);
    }
    damaged = j->tell_damaged;
    j->tell_damaged = false;
    damage = j->damage;
    uv_mutex_unlock(&j->mutex);

    while ((op = journal_queue_take(&done)) != NULL) {
        j->pending--;
        op->cb(op, op->status, &op->err);
    }
    if (damaged && j->damaged_cb != NULL)
        j->damaged_cb(&damage, j->ctx);

    uv_mutex_lock(&j->mutex);
    ended = j->ended && j->done.head == NULL;
    uv_mutex_unlock(&j->mutex);
    if (ended && !uv_is_closing((uv_handle_t *)async)) {
        uv_thread_join(&j->thread);
        uv_close((uv_handle_t *)async, on_closed);
    }
}

/* The folder, the lock, the database. */
static int open_files(struct journal *j, struct journal_opened *opened, struct err *e)
{
    char path[PATH_MAX + 32];
    bool network;
    int rc = folder_make(j->folder, 0700, e);

    if (rc == 0)
        rc = fsutil_is_network(j->folder, &network, e);
    if (rc == 0 && network)
        rc = err_set(e, ERR_UNSUPPORTED,
                     "journal: the state folder is on a network file system, where SQLite's log is "
                     "not safe: "
                     "choose a local one");
    snprintf(path, sizeof(path), "%s/journal.lock", j->folder);
    if (rc == 0)
        rc = fsutil_lock(path, &j->lock_fd, e);
    if (rc == ERR_LOCKED)
        err_wrap(e, "journal: another dcmferryd runs on this state folder: it is");
    return rc != 0 ? rc : journal_recover(&j->db, j->folder, opened, e);
}

static uv_once_t configured = UV_ONCE_INIT;

/* Nobody asks SQLite how much memory it has, and each allocation costs a mutex to know it. Where
 * another part of the program used SQLite before it stays as it was. */
static void configure_sqlite(void)
{
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static int start(struct journal *j, uv_loop_t *loop, struct err *e)
{
    int rc = uv_mutex_init(&j->mutex);

    if (rc != 0)
        goto err_files;
    rc = uv_cond_init(&j->cond);
    if (rc != 0)
        goto err_mutex;
    rc = uv_async_init(loop, &j->async, on_async);
    if (rc != 0)
        goto err_cond;
    j->async.data = j;
    rc = uv_thread_create(&j->thread, journal_thread, j);
    if (rc == 0)
        return 0;
    /* The loop frees the rest: j must live until the handle is closed. */
    journal_db_close(&j->db, NULL);
    uv_close((uv_handle_t *)&j->async, on_closed);
    return err_set(e, ERR_NOMEM, "journal: cannot start its thread: %s", uv_strerror(rc));
err_cond:
    uv_cond_destroy(&j->cond);
err_mutex:
    uv_mutex_destroy(&j->mutex);
err_files:
    journal_db_close(&j->db, NULL);
    close(j->lock_fd);
    free(j);
    return err_set(e, ERR_NOMEM, "journal: %s", uv_strerror(rc));
}

int journal_open(struct journal **ret, uv_loop_t *loop, const struct journal_options *options,
                 struct journal_opened *ret_opened, struct err *e)
{
    struct journal *j = calloc(1, sizeof(*j));
    struct err ignored;
    int rc;

    e = e != NULL ? e : &ignored;
    *ret_opened = (struct journal_opened){0};
    if (j == NULL)
        return err_set(e, ERR_NOMEM, "journal: out of memory");
    j->loop = loop;
    j->lock_fd = -1;
    j->damaged_cb = options->damaged;
    j->ctx = options->ctx;
    j->backup_ms = j->wanted_backup_ms = options->backup_ms;
    j->backup_at_ms = clock_monotonic_ms() + j->backup_ms;
    journal_queue_init(&j->queue);
    journal_queue_init(&j->done);
    journal_queue_init(&j->backups);
    if (strlen(options->folder) >= sizeof(j->folder)) {
        free(j);
        return err_set(e, ERR_INVALID, "journal: the state folder's path is too long");
    }
    strcpy(j->folder, options->folder);
    uv_once(&configured, configure_sqlite);
    rc = open_files(j, ret_opened, e);
    if (rc != 0) {
        if (j->lock_fd >= 0)
            close(j->lock_fd);
        free(j);
        return rc;
    }
    j->rebuilding = ret_opened->rebuilding;
    j->check_due = j->unchecked = ret_opened->unclean;
    rc = start(j, loop, e);
    if (rc == 0)
        *ret = j;
    return rc;
}

void journal_close(struct journal *j, void (*cb)(int status, void *ctx), void *ctx)
{
    j->close_cb = cb;
    j->close_ctx = ctx;
    uv_mutex_lock(&j->mutex);
    j->closing = true;
    uv_cond_signal(&j->cond);
    uv_mutex_unlock(&j->mutex);
}

void journal_set_backup(struct journal *j, uint64_t backup_ms)
{
    uv_mutex_lock(&j->mutex);
    j->wanted_backup_ms = backup_ms;
    uv_cond_signal(&j->cond);
    uv_mutex_unlock(&j->mutex);
}

void journal_lookup(struct journal *j, struct journal_lookup *l)
{
    journal_submit(j, &l->op, JOURNAL_KIND_LOOKUP);
}

void journal_binding(struct journal *j, struct journal_binding *b)
{
    b->routes = NULL;
    journal_submit(j, &b->op, JOURNAL_KIND_BINDING);
}

void journal_admit(struct journal *j, struct journal_admit *a)
{
    a->file_delivered = false;
    journal_submit(j, &a->op, JOURNAL_KIND_ADMIT);
}

void journal_touch(struct journal *j, struct journal_touch *t)
{
    journal_submit(j, &t->op, JOURNAL_KIND_TOUCH);
}

void journal_files(struct journal *j, struct journal_files *f)
{
    f->rows = NULL;
    f->n = 0;
    journal_submit(j, &f->op, JOURNAL_KIND_FILES);
}

void journal_claim(struct journal *j, struct journal_claim *c)
{
    c->rows = NULL;
    c->n = 0;
    c->moved = 0;
    c->next_due_ms = INT64_MAX;
    journal_submit(j, &c->op, JOURNAL_KIND_CLAIM);
}

void journal_settle(struct journal *j, struct journal_settle *s)
{
    s->file_delivered = false;
    s->file_id = 0;
    journal_submit(j, &s->op, JOURNAL_KIND_SETTLE);
}

void journal_vanish(struct journal *j, struct journal_vanish *v)
{
    journal_submit(j, &v->op, JOURNAL_KIND_VANISH);
}

void journal_disposed(struct journal *j, struct journal_disposed *d)
{
    journal_submit(j, &d->op, JOURNAL_KIND_DISPOSED);
}

void journal_standing(struct journal *j, struct journal_standing *s)
{
    s->rows = NULL;
    s->n = 0;
    journal_submit(j, &s->op, JOURNAL_KIND_STANDING);
}

void journal_gone(struct journal *j, struct journal_gone *g)
{
    g->vanished = 0;
    journal_submit(j, &g->op, JOURNAL_KIND_GONE);
}

void journal_prune(struct journal *j, struct journal_prune *p)
{
    p->pruned = 0;
    journal_submit(j, &p->op, JOURNAL_KIND_PRUNE);
}

void journal_moved(struct journal *j, struct journal_moved *m)
{
    m->rows = NULL;
    m->n = 0;
    journal_submit(j, &m->op, JOURNAL_KIND_MOVED);
}

void journal_unmoved(struct journal *j, struct journal_unmoved *u)
{
    journal_submit(j, &u->op, JOURNAL_KIND_UNMOVED);
}

void journal_study(struct journal *j, struct journal_study *s)
{
    s->open = false;
    journal_submit(j, &s->op, JOURNAL_KIND_STUDY);
}

void journal_act_on(struct journal *j, struct journal_act_on *a)
{
    a->changed = 0;
    journal_submit(j, &a->op, JOURNAL_KIND_ACT);
}

void journal_counts(struct journal *j, struct journal_counts *c)
{
    journal_submit(j, &c->op, JOURNAL_KIND_COUNTS);
}

void journal_list(struct journal *j, struct journal_list *l)
{
    l->json = NULL;
    journal_submit(j, &l->op, JOURNAL_KIND_LIST);
}

void journal_holds(struct journal *j, struct journal_holds *h)
{
    h->json = NULL;
    journal_submit(j, &h->op, JOURNAL_KIND_HOLDS);
}

void journal_rebuilt(struct journal *j, struct journal_rebuilt *r)
{
    journal_submit(j, &r->op, JOURNAL_KIND_REBUILT);
}

void journal_backup(struct journal *j, struct journal_backup *b)
{
    journal_submit(j, &b->op, JOURNAL_KIND_BACKUP);
}
