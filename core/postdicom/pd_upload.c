/* A file's way: session ready -> folder known -> upload session open -> (patient known -> existence
 * check) -> parts, all acknowledged -> (existence check again where a connection was lost on the
 * way) -> order in its folder -> done.
 *
 * Failure modes: a part without an answer is sent again, MAX_SENDS times in all; a lost session,
 * and the first refusal of a file, start the file over under a fresh upload session (a refused
 * Initialize renews the session), since the server's texts are not known well enough to tell one
 * refusal from another; a second refusal is the file's fault.
 *
 * A transfer outlives its file while callbacks are pending for it (`pending`); `file` is then NULL.
 */
#include "postdicom/pd_upload.h"

#include "base/clock.h"
#include "postdicom/pd_burst.h"
#include "postdicom/pd_filed.h"
#include "postdicom/pd_folder.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define MAX_SENDS           4
#define ADD_ORDER_TO_FOLDER 8

enum state { WAIT_SESSION, WAIT_FOLDER, WAIT_BURST, IDENTIFY, CHECK, SEND, FILE_ORDER };

struct pd_transfer {
    struct pd_upload *upload;
    struct pd_upload_file *file;     /* NULL: done or given up */
    struct pd_upload_filing *filing; /* in place of a file */
    enum state state;
    unsigned pending;
    unsigned generation;
    char folder_uuid[PD_UUID_SIZE];
    struct pd_waiter waiter;
    bool waiting;
    struct pd_folder_request folder_request;
    struct pd_burst *burst;
    unsigned index; /* FileIndex */
    unsigned n_parts, next_part, acknowledged, parts_out;
    bool wanting;
    bool refiled;    /* the folder was looked up again after all parts were sent */
    bool verifying;  /* the check comes after the parts */
    uint64_t losses; /* of connections, when it began */
    bool carried;    /* bytes were handed to a connection */
    uint64_t bytes;
    struct err refusal; /* code != 0: only the session is asked about yet */
    char order[PD_UUID_SIZE];
    struct pd_call call; /* CheckFileExist, AddOrderToFolder */
    char *json;
    unsigned sends;
    struct pd_transfer *prev, *next; /* waits for the burst */
};

struct part {
    struct pd_call call;
    struct pd_transfer *transfer;
    uint8_t *buffer;
    size_t size;
    unsigned sends;
    char *json;
};

struct opening {
    struct pd_call call;
    struct pd_upload *upload;
    struct pd_burst *burst;
    char *json;
    unsigned sends;
};

struct pd_upload {
    struct pd_session *session;
    const struct pd_options *options;
    struct pd_folders *folders;
    struct pd_bursts bursts;
    struct pd_filed filed;
    void (*release)(uint8_t *buffer, size_t size, void *ctx);
    void *ctx;
};

static void on_burst_ready(struct pd_transfer *t);
static void file_order(struct pd_transfer *t);

/* ---- the end of a transfer ---- */

static void transfer_unref(struct pd_transfer *t)
{
    if (t->pending > 0 || t->file || t->filing)
        return;
    free(t->json);
    free(t);
}

static void leave_burst(struct pd_transfer *t)
{
    struct pd_burst *b = t->burst;
    if (!b)
        return;
    t->burst = NULL;
    if (t->state == WAIT_BURST) {
        struct pd_transfer *waiters = b->waiters;
        DL_DELETE(waiters, t);
        b->waiters = waiters;
    }
    pd_bursts_release(&t->upload->bursts, b);
}

static void detach(struct pd_transfer *t)
{
    leave_burst(t);
    if (t->waiting) {
        t->waiting = false;
        pd_session_unwait(t->upload->session, &t->waiter);
    }
}

/* t may be gone afterwards. */
static void finish(struct pd_transfer *t, int status, const struct err *e, bool again)
{
    struct pd_upload_file *f = t->file;
    struct pd_upload_filing *filing = t->filing;
    detach(t);
    t->file = NULL;
    t->filing = NULL;
    if (f) {
        struct pd_upload_result r = {.status = status, .again = again, .bytes = t->bytes};
        if (e)
            r.err = *e;
        r.uncertain = status != 0 && status != ERR_REFUSED && (t->carried || t->parts_out > 0);
        r.existed = status == 0 && !t->carried;
        memcpy(r.order, t->order, sizeof(r.order));
        f->transfer = NULL;
        transfer_unref(t);
        f->done(f, &r);
    } else if (filing) {
        filing->transfer = NULL;
        transfer_unref(t);
        filing->done(filing, status, e);
    } else {
        transfer_unref(t);
    }
}

static void finish_nomem(struct pd_transfer *t)
{
    struct err e;
    err_set(&e, ERR_NOMEM, "no memory for an upload");
    finish(t, e.code, &e, false);
}

static unsigned attempt(const struct pd_transfer *t)
{
    return t->file ? t->file->attempt : 1;
}

static void join_burst(struct pd_transfer *t);

/* The server said no. The first time that may be the fault of what we knew of upload session and
 * folder: the file starts over with fresh ones. The second time it may be that of the API session:
 * a fresh Initialize tells. */
static void finish_refused(struct pd_transfer *t, const struct err *e)
{
    struct pd_upload *u = t->upload;
    const char *folder = t->file ? t->file->folder : t->filing->folder;
    if (folder && *folder)
        pd_folders_forget(u->folders, folder);
    if (t->file)
        pd_bursts_forget(&u->bursts, t->file->study);
    if (!t->file || attempt(t) == 0) {
        finish(t, e->code, e, t->file != NULL);
        return;
    }
    leave_burst(t);
    t->refusal = *e;
    join_burst(t);
}

static void finish_refused_answer(struct pd_transfer *t, const struct pd_answer *a,
                                  const char *what)
{
    struct err e;
    err_set(&e, ERR_REFUSED, "%s: %s", what, a->text[0] ? a->text : "(the server gives no reason)");
    finish_refused(t, &e);
}

/* A call failed that cannot, or no longer, be sent again. */
static void finish_failed(struct pd_transfer *t, int status, const struct err *e)
{
    finish(t, status, e, status == ERR_SESSION && attempt(t) < 3);
}

/* Whether a call that failed so may be sent again on another connection. */
static bool resendable(const struct pd_call *c, int status, unsigned sends)
{
    return c->carried && sends < MAX_SENDS &&
           (status == ERR_CLOSED || status == ERR_TIMEOUT || status == ERR_PROTOCOL);
}

/* ---- order into folder ---- */

static void on_folder(struct pd_folder_request *r, int status, const char *uuid,
                      const struct err *e);

static void on_filed(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct pd_transfer *t = c->ctx;
    t->pending--;
    free(t->json);
    t->json = NULL;
    if (!t->file && !t->filing) {
        transfer_unref(t);
        return;
    }
    if (status && resendable(c, status, t->sends)) {
        file_order(t); /* adding twice is harmless */
    } else if (status) {
        finish_failed(t, status, e);
    } else if (!a->ok && !t->carried) {
        finish_refused_answer(t, a, "the server does not add the order to the folder");
    } else if (!a->ok && !t->refiled) {
        /* The file was sent into the folder, which may be another one by now. */
        t->refiled = true;
        t->state = WAIT_FOLDER;
        t->folder_request = (struct pd_folder_request){.cb = on_folder, .ctx = t};
        t->pending++;
        pd_folders_forget(t->upload->folders, t->file->folder);
        pd_folders_resolve(t->upload->folders, t->file->folder, &t->folder_request);
    } else {
        /* Or the server minds that the order is there already. */
        pd_filed_add(&t->upload->filed, t->order, t->folder_uuid);
        finish(t, 0, NULL, false);
    }
}

static void file_order(struct pd_transfer *t)
{
    struct pd_session *s = t->upload->session;
    const struct pd_account *account = pd_session_account(s);
    const char *folder = t->folder_uuid;
    t->state = FILE_ORDER;
    t->json = pd_params_add_order_to_folder(pd_session_keys(s), account->user_uuid,
                                            account->institution_uuid, t->order, &folder, 1);
    if (!t->json) {
        finish_nomem(t);
        return;
    }
    t->call = (struct pd_call){
        .request = {.type = FRAME_GENERAL, .management = ADD_ORDER_TO_FOLDER, .json = t->json},
        .cb = on_filed,
        .ctx = t};
    t->sends++;
    t->pending++;
    pd_session_send(s, &t->call);
}

/* The file is there; its order must be in the folder. */
static void make_sure_of_folder(struct pd_transfer *t)
{
    leave_burst(t);
    if (!t->folder_uuid[0] || !t->order[0] ||
        pd_filed_has(&t->upload->filed, t->order, t->folder_uuid)) {
        finish(t, 0, NULL, false);
        return;
    }
    t->sends = 0;
    file_order(t);
}

/* ---- parts ---- */

/* While the caller reads, the session may have become another one. */
static bool outdated(struct pd_transfer *t)
{
    struct err e;
    struct pd_session *s = t->upload->session;
    if (pd_session_is_open(s) && pd_session_generation(s) == t->generation)
        return false;
    err_set(&e, ERR_SESSION, "the session was lost meanwhile");
    finish_failed(t, e.code, &e);
    return true;
}

static void want_parts(struct pd_transfer *t)
{
    unsigned window = t->upload->options->connections * t->upload->options->pipeline + 1;
    if (t->wanting || t->next_part >= t->n_parts || t->parts_out >= window)
        return;
    t->wanting = true;
    t->file->want(t->file);
}

static void all_acknowledged(struct pd_transfer *t);

static void part_free(struct part *p)
{
    struct pd_upload *u = p->transfer->upload;
    free(p->json);
    u->release(p->buffer, p->size, u->ctx);
    free(p);
}

static void part_send(struct part *p)
{
    p->sends++;
    p->transfer->pending++;
    pd_session_send(p->transfer->upload->session, &p->call);
}

static void on_part(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct part *p = c->ctx;
    struct pd_transfer *t = p->transfer;
    t->pending--;
    t->carried = t->carried || c->carried;
    if (!t->file) {
        part_free(p);
        transfer_unref(t);
        return;
    }
    if (status && !t->refusal.code && resendable(c, status, p->sends)) {
        part_send(p);
        return;
    }
    t->parts_out--;
    if (status == 0 && a->ok) {
        t->acknowledged++;
        t->bytes += p->size;
        if (!t->order[0])
            pd_answer_order(a, t->order);
    }
    part_free(p);
    if (t->refusal.code)
        return; /* another part was refused */
    if (status)
        finish_failed(t, status, e);
    else if (!a->ok)
        finish_refused_answer(t, a, "the server does not take the file");
    else if (t->acknowledged == t->n_parts)
        all_acknowledged(t);
    else
        want_parts(t);
}

void pd_upload_part(struct pd_upload_file *f, uint8_t *buffer, size_t size)
{
    struct pd_transfer *t = f->transfer;
    struct pd_upload *u = t->upload;
    const struct pd_account *account = pd_session_account(u->session);
    t->wanting = false;
    if (outdated(t)) {
        u->release(buffer, size, u->ctx);
        return;
    }
    struct part *p = calloc(1, sizeof(*p));
    if (p)
        p->json = pd_params_process_file(pd_session_keys(u->session), t->burst->uuid,
                                         account->institution_uuid, account->user_uuid, t->index,
                                         t->next_part, t->n_parts,
                                         t->folder_uuid[0] ? t->folder_uuid : NULL);
    if (!p || !p->json) {
        free(p);
        u->release(buffer, size, u->ctx);
        finish_nomem(t);
        return;
    }
    p->transfer = t;
    p->buffer = buffer;
    p->size = size;
    p->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_PROCESS_FILE,
                                           .json = p->json,
                                           .bytes = buffer,
                                           .bytes_size = size,
                                           .user = account->user_uuid},
                               .upload = true,
                               .cb = on_part,
                               .ctx = p};
    t->next_part++;
    t->parts_out++;
    part_send(p);
    want_parts(t);
}

static void send_parts(struct pd_transfer *t)
{
    t->state = SEND;
    t->index = t->burst->files++;
    t->losses = pd_session_losses(t->upload->session);
    want_parts(t);
}

/* ---- existence check ---- */

static void identify(struct pd_transfer *t)
{
    t->state = IDENTIFY;
    t->file->identify(t->file);
}

/* The acknowledgements hold only as long as the server kept the parts of lost connections. */
static void all_acknowledged(struct pd_transfer *t)
{
    if (t->n_parts == 1 || t->losses == pd_session_losses(t->upload->session)) {
        make_sure_of_folder(t);
    } else if (t->file->may_ask) {
        t->verifying = true;
        t->sends = 0;
        identify(t);
    } else if (attempt(t) == 0) {
        struct err e;
        err_set(&e, ERR_CLOSED, "a connection was lost while the file was sent");
        finish(t, e.code, &e, true);
    } else {
        make_sure_of_folder(t);
    }
}

static void check(struct pd_transfer *t, const char *patient_name, const char *patient_id);

static void on_check(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct pd_transfer *t = c->ctx;
    t->pending--;
    free(t->json);
    t->json = NULL;
    if (!t->file) {
        transfer_unref(t);
        return;
    }
    if (status && resendable(c, status, t->sends)) {
        identify(t);
        return;
    }
    if (status) {
        finish_failed(t, status, e);
        return;
    }
    if (!a->ok && (attempt(t) == 0 || t->verifying)) {
        finish_refused_answer(t, a, "the server does not say whether it has the file");
        return;
    }
    bool exists = a->ok && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(a->result, "FileIfExist"));
    if (exists && !t->order[0])
        pd_answer_order(a, t->order);
    if (t->verifying) {
        struct err lost;
        err_set(&lost, ERR_CLOSED, "a connection was lost, and parts of the file with it");
        if (exists)
            make_sure_of_folder(t);
        else
            finish(t, lost.code, &lost, attempt(t) < 2);
        return;
    }
    /* It exists: that proves neither that all parts arrived nor that the order is in the folder. */
    if (exists && (t->n_parts == 1 || t->file->known_whole) &&
        (!t->folder_uuid[0] || t->order[0])) {
        make_sure_of_folder(t);
        return;
    }
    t->order[0] = '\0';
    send_parts(t);
}

static void check(struct pd_transfer *t, const char *patient_name, const char *patient_id)
{
    struct pd_session *s = t->upload->session;
    const struct pd_account *account = pd_session_account(s);
    struct pd_params_instance instance = {.study = t->file->study,
                                          .patient_name = patient_name,
                                          .patient_id = patient_id,
                                          .series = t->file->series,
                                          .sop = t->file->sop};
    t->state = CHECK;
    t->json = pd_params_check_file_exist(pd_session_keys(s), t->burst->uuid,
                                         account->institution_uuid, account->user_uuid,
                                         t->folder_uuid[0] ? t->folder_uuid : NULL, &instance);
    if (!t->json) {
        finish_nomem(t);
        return;
    }
    t->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_CHECK_FILE_EXIST,
                                           .json = t->json,
                                           .user = account->user_uuid},
                               .upload = true,
                               .cb = on_check,
                               .ctx = t};
    t->sends++;
    t->pending++;
    pd_session_send(s, &t->call);
}

void pd_upload_identified(struct pd_upload_file *f, int status, const char *patient_name,
                          const char *patient_id, const struct err *e)
{
    struct pd_transfer *t = f->transfer;
    if (status)
        finish(t, status, e, false);
    else if (!outdated(t))
        check(t, patient_name ? patient_name : "", patient_id ? patient_id : "");
}

/* ---- upload session ---- */

static void on_initialized(struct pd_call *c, int status, const struct pd_answer *a,
                           const struct err *e)
{
    struct opening *o = c->ctx;
    struct pd_upload *u = o->upload;
    struct pd_burst *b = o->burst;
    struct err refused;
    if (status && resendable(c, status, o->sends)) {
        o->sends++;
        pd_session_send(u->session, &o->call);
        return;
    }
    free(o->json);
    free(o);
    if (status == 0 && a->ok && pd_answer_id(a->root, "SessionUniqueUuid", b->uuid)) {
        b->state = b->state == PD_BURST_ENDED ? PD_BURST_ENDED : PD_BURST_READY;
    } else if (status == 0 && a->ok && pd_answer_id(a->result, "SessionUniqueUuid", b->uuid)) {
        b->state = b->state == PD_BURST_ENDED ? PD_BURST_ENDED : PD_BURST_READY;
    } else {
        if (status == 0) {
            status =
                err_set(&refused, ERR_SESSION, "the server does not open an upload session: %s",
                        a->text[0] ? a->text : "(it gives no reason)");
            e = &refused;
        }
        pd_bursts_end(&u->bursts, b);
    }
    struct err why = e ? *e : (struct err){0};
    unsigned generation = b->generation;
    /* The burst has one more user while we go through those that wait. */
    struct pd_transfer *t;
    while ((t = b->waiters) != NULL) {
        struct pd_transfer *waiters = t;
        DL_DELETE(waiters, t);
        b->waiters = waiters;
        t->state = SEND;
        if (status)
            finish_failed(t, status, &why);
        else
            on_burst_ready(t);
    }
    pd_bursts_release(&u->bursts, b);
    if (e == &refused)
        pd_session_renew(u->session, generation);
}

static int open_burst(struct pd_upload *u, struct pd_burst *b, uint64_t size)
{
    const struct pd_account *account = pd_session_account(u->session);
    struct opening *o = calloc(1, sizeof(*o));
    if (!o)
        return ERR_NOMEM;
    o->upload = u;
    o->burst = b;
    o->sends = 1;
    o->json = pd_params_initialize(pd_session_keys(u->session), account->user_uuid,
                                   account->institution_uuid, size, account->full_name);
    if (!o->json) {
        free(o);
        return ERR_NOMEM;
    }
    o->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_INITIALIZE,
                                           .json = o->json,
                                           .user = account->user_uuid},
                               .cb = on_initialized,
                               .ctx = o};
    b->state = PD_BURST_OPENING;
    b->users++;
    pd_session_send(u->session, &o->call);
    return 0;
}

static void on_burst_ready(struct pd_transfer *t)
{
    if (t->refusal.code) {
        struct err e = t->refusal;
        finish(t, e.code, &e, false);
    } else if (t->file->ask && t->file->may_ask) {
        t->sends = 0;
        identify(t);
    } else {
        send_parts(t);
    }
}

static void join_burst(struct pd_transfer *t)
{
    struct pd_upload *u = t->upload;
    t->burst = pd_bursts_get(&u->bursts, t->file->study, t->generation, clock_monotonic_ms());
    if (!t->burst) {
        finish_nomem(t);
        return;
    }
    if (t->burst->state == PD_BURST_READY) {
        on_burst_ready(t);
        return;
    }
    t->state = WAIT_BURST;
    struct pd_transfer *waiters = t->burst->waiters;
    DL_APPEND(waiters, t);
    t->burst->waiters = waiters;
    if (t->burst->state == PD_BURST_NEW && open_burst(u, t->burst, t->file->size)) {
        struct pd_burst *b = t->burst;
        finish_nomem(t);
        pd_bursts_end(&u->bursts, b);
    }
}

/* ---- session and folder ---- */

static void folder_known(struct pd_transfer *t, const char *uuid)
{
    memcpy(t->folder_uuid, uuid, strlen(uuid) + 1);
    if (t->file && !t->refiled)
        join_burst(t);
    else if (pd_filed_has(&t->upload->filed, t->order, t->folder_uuid))
        finish(t, 0, NULL, false);
    else
        file_order(t);
}

static void on_folder(struct pd_folder_request *r, int status, const char *uuid,
                      const struct err *e)
{
    struct pd_transfer *t = r->ctx;
    t->pending--;
    if (!t->file && !t->filing)
        transfer_unref(t);
    else if (status == ERR_REFUSED)
        finish_refused(t, e);
    else if (status)
        finish_failed(t, status, e);
    else
        folder_known(t, uuid);
}

static void on_ready(struct pd_waiter *w, int status, const struct err *e)
{
    struct pd_transfer *t = w->ctx;
    struct pd_upload *u = t->upload;
    t->waiting = false;
    if (status) {
        finish(t, status, e, false);
        return;
    }
    t->generation = pd_session_generation(u->session);
    const char *path = t->file ? t->file->folder : t->filing->folder;
    if (!path || !*path) {
        if (t->file)
            join_burst(t);
        else
            finish(t, 0, NULL, false);
        return;
    }
    const char *uuid = pd_folders_cached(u->folders, path);
    if (uuid) {
        folder_known(t, uuid);
        return;
    }
    t->state = WAIT_FOLDER;
    t->folder_request = (struct pd_folder_request){.cb = on_folder, .ctx = t};
    t->pending++;
    pd_folders_resolve(u->folders, path, &t->folder_request);
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
    return f->transfer && (f->transfer->carried || f->transfer->next_part > 0);
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
    transfer_unref(t);
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
    transfer_unref(t);
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

struct pd_folders *pd_upload_folders(struct pd_upload *u)
{
    return u->folders;
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
