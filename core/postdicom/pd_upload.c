/* A file's way: session ready -> folder known -> upload session open -> (patient known -> existence
 * check) -> parts, all acknowledged -> (existence check again where a connection or an answer was
 * lost on the way) -> order in its folder -> done.
 *
 * Failure modes: a part without an answer is sent again (see pd_part), MAX_SENDS times in all; a
 * lost session, and the first refusal of a file, start the file over under a fresh upload session
 * (a refused Initialize renews the session, now and then), since the server's texts are not known
 * well enough to tell one refusal from another; a second one is the end of this try. */
#include "postdicom/pd_upload_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SENDS 4

/* ---- the end of a transfer ---- */

void pd_transfer_unref(struct pd_transfer *t)
{
    if (t->pending > 0 || t->file || t->filing)
        return;
    free(t->json);
    free(t);
}

static void detach(struct pd_transfer *t)
{
    pd_initialize_leave(t);
    if (t->waiting) {
        t->waiting = false;
        pd_session_unwait(t->upload->session, &t->waiter);
    }
}

void pd_transfer_finish(struct pd_transfer *t, int status, const struct err *e, bool again)
{
    struct pd_upload_file *f = t->file;
    struct pd_upload_filing *filing = t->filing;
    detach(t);
    if (pd_part_carried(t))
        t->carried = true;
    t->file = NULL;
    t->filing = NULL;
    pd_part_withdraw(t);
    if (f) {
        struct pd_upload_result r = {.status = status, .again = again, .bytes = t->bytes};
        if (e)
            r.err = *e;
        r.uncertain = status != 0 && status != ERR_REFUSED && t->carried;
        r.existed = status == 0 && !t->carried;
        memcpy(r.order, t->order, sizeof(r.order));
        f->transfer = NULL;
        pd_transfer_unref(t);
        f->done(f, &r);
    } else if (filing) {
        filing->transfer = NULL;
        pd_transfer_unref(t);
        filing->done(filing, status, e);
    } else {
        pd_transfer_unref(t);
    }
}

void pd_transfer_finish_nomem(struct pd_transfer *t)
{
    struct err e;
    err_set(&e, ERR_NOMEM, "no memory for an upload");
    pd_transfer_finish(t, e.code, &e, false);
}

unsigned pd_transfer_attempt(const struct pd_transfer *t)
{
    return t->file ? t->file->attempt : 1;
}

/* The server said no. The first time that may be the fault of what we knew of upload session and
 * folder: the file starts over with fresh ones. The second time it may be that of the API session:
 * a fresh Initialize tells. */
void pd_transfer_refused(struct pd_transfer *t, const struct err *e)
{
    struct pd_upload *u = t->upload;
    const char *folder = t->file ? t->file->folder : t->filing->folder;
    if (folder && *folder)
        pd_folders_forget(u->folders, folder);
    if (t->file)
        pd_bursts_forget(&u->bursts, t->file->study);
    if (!t->file || pd_transfer_attempt(t) == 0) {
        pd_transfer_finish(t, e->code, e, t->file != NULL);
        return;
    }
    pd_initialize_leave(t);
    t->refusal = *e;
    pd_initialize_join(t);
}

void pd_transfer_refused_answer(struct pd_transfer *t, const struct pd_answer *a, const char *what)
{
    struct err e;
    err_set(&e, ERR_REFUSED, "%s: %s", what, a->text[0] ? a->text : "(the server gives no reason)");
    pd_transfer_refused(t, &e);
}

void pd_transfer_failed(struct pd_transfer *t, int status, const struct err *e)
{
    pd_transfer_finish(t, status, e, status == ERR_SESSION && pd_transfer_attempt(t) < 3);
}

bool pd_transfer_resendable(const struct pd_call *c, int status, unsigned sends)
{
    return c->carried && sends < MAX_SENDS &&
           (status == ERR_CLOSED || status == ERR_TIMEOUT || status == ERR_PROTOCOL);
}

bool pd_transfer_outdated(struct pd_transfer *t)
{
    struct err e;
    struct pd_session *s = t->upload->session;
    if (pd_session_is_open(s) && pd_session_generation(s) == t->generation)
        return false;
    err_set(&e, ERR_SESSION, "the session was lost meanwhile");
    pd_transfer_failed(t, e.code, &e);
    return true;
}

/* ---- session and folder ---- */

static void folder_known(struct pd_transfer *t, const char *uuid)
{
    memcpy(t->folder_uuid, uuid, strlen(uuid) + 1);
    if (t->file && !t->refiled)
        pd_initialize_join(t);
    else if (pd_filed_has(&t->upload->filed, t->order, t->folder_uuid))
        pd_transfer_finish(t, 0, NULL, false);
    else
        pd_filing_send(t);
}

static void on_folder(struct pd_folder_request *r, int status, const char *uuid,
                      const struct err *e)
{
    struct pd_transfer *t = r->ctx;
    t->pending--;
    if (!t->file && !t->filing)
        pd_transfer_unref(t);
    else if (status == ERR_REFUSED)
        pd_transfer_refused(t, e);
    else if (status)
        pd_transfer_failed(t, status, e);
    else
        folder_known(t, uuid);
}

static void find_folder(struct pd_transfer *t, const char *path)
{
    t->state = WAIT_FOLDER;
    t->folder_request = (struct pd_folder_request){.cb = on_folder, .ctx = t};
    t->pending++;
    pd_folders_resolve(t->upload->folders, path, &t->folder_request);
}

void pd_transfer_refile(struct pd_transfer *t)
{
    t->refiled = true;
    pd_folders_forget(t->upload->folders, t->file->folder);
    find_folder(t, t->file->folder);
}

static void on_ready(struct pd_waiter *w, int status, const struct err *e)
{
    struct pd_transfer *t = w->ctx;
    struct pd_upload *u = t->upload;
    t->waiting = false;
    if (status) {
        pd_transfer_finish(t, status, e, false);
        return;
    }
    t->generation = pd_session_generation(u->session);
    const char *path = t->file ? t->file->folder : t->filing->folder;
    if (!path || !*path) {
        if (t->file)
            pd_initialize_join(t);
        else
            pd_transfer_finish(t, 0, NULL, false);
        return;
    }
    const char *uuid = pd_folders_cached(u->folders, path);
    if (uuid)
        folder_known(t, uuid);
    else
        find_folder(t, path);
}

static void begin(struct pd_upload *u, struct pd_transfer *t)
{
    t->upload = u;
    t->state = WAIT_SESSION;
    t->waiter = (struct pd_waiter){.cb = on_ready, .ctx = t};
    t->waiting = true;
    pd_session_ready(u->session, &t->waiter);
}

/* ---- interface ---- */

int pd_upload_start(struct pd_upload *u, struct pd_upload_file *f)
{
    struct pd_transfer *t = calloc(1, sizeof(*t));
    f->transfer = t;
    if (!t)
        return ERR_NOMEM;
    t->file = f;
    t->n_parts = f->size == 0 ? 1 : (unsigned)((f->size + PD_PART_SIZE - 1) / PD_PART_SIZE);
    begin(u, t);
    return 0;
}

int pd_upload_file_order(struct pd_upload *u, struct pd_upload_filing *f)
{
    struct pd_transfer *t = calloc(1, sizeof(*t));
    f->transfer = t;
    if (!t)
        return ERR_NOMEM;
    t->filing = f;
    if (strlen(f->order) < sizeof(t->order))
        memcpy(t->order, f->order, strlen(f->order) + 1);
    begin(u, t);
    return 0;
}

bool pd_upload_begun(const struct pd_upload_file *f)
{
    return f->transfer && pd_part_carried(f->transfer);
}

bool pd_upload_abort(struct pd_upload_file *f)
{
    struct pd_transfer *t = f->transfer;
    bool begun = pd_upload_begun(f);
    if (!t)
        return false;
    detach(t);
    f->transfer = NULL;
    t->file = NULL;
    pd_part_withdraw(t);
    pd_transfer_unref(t);
    return begun;
}

void pd_upload_abort_filing(struct pd_upload_filing *f)
{
    struct pd_transfer *t = f->transfer;
    if (!t)
        return;
    detach(t);
    f->transfer = NULL;
    t->filing = NULL;
    pd_transfer_unref(t);
}

int pd_upload_new(struct pd_upload **ret, struct pd_session *session,
                  const struct pd_options *options,
                  void (*release)(uint8_t *buffer, size_t size, void *ctx), void *ctx,
                  struct err *e)
{
    struct pd_upload *u = calloc(1, sizeof(*u));
    *ret = NULL;
    if (!u || pd_folders_new(&u->folders, session)) {
        free(u);
        return err_set(e, ERR_NOMEM, "no memory for uploads");
    }
    u->session = session;
    u->options = options;
    u->bursts.max_files = options->session_files;
    u->bursts.idle_ms = options->session_idle_ms;
    u->release = release;
    u->ctx = ctx;
    *ret = u;
    return 0;
}

void pd_upload_free(struct pd_upload *u)
{
    if (!u)
        return;
    pd_filed_clear(&u->filed);
    pd_bursts_clear(&u->bursts);
    pd_folders_free(u->folders);
    free(u);
}
