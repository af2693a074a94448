/* Deliveries to PostDICOM: keys from their secrets, a session, uploads. The secrets are read on the
 * pool before the first session and again after the keys were refused; deliveries wait for that. */
#include "dest/dest_type.h"
#include "postdicom/pd_upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define TAG_PATIENT_NAME 0x00100010U
#define TAG_PATIENT_ID   0x00100020U

enum keys_state { KEYS_WANTED, KEYS_READING, KEYS_READY };

struct transfer;

struct impl {
    struct dest *front;
    struct dest_env env;
    const struct config_destination *config;
    struct pd_options options;
    struct pd_session *session;
    struct pd_upload *upload;
    enum keys_state keys;
    struct job keys_job;
    char *account_key, *api_key, *proxy_password; /* while KEYS_READING */
    int keys_status;
    struct err keys_err;
    struct transfer *waiting; /* for the keys */
    unsigned jobs;            /* on the pool, and with the DICOM reader */
    bool closing;
    void (*closed_cb)(void *ctx);
    void *closed_ctx;
};

/* PatientName and PatientID of a file, read when an existence check needs them and kept no longer.
 */
struct identify {
    struct job job;
    struct dicom_read read;
    struct impl *impl;
    struct transfer *transfer; /* NULL: nobody waits any more */
    char *path;
    int fd;
    int status;
    struct err err;
};

struct transfer {
    struct impl *impl;
    struct dest_transfer *t;
    struct pd_upload_file file;
    struct pd_upload_filing filing;
    bool is_filing;
    bool waits; /* in impl->waiting */
    struct identify *identify;
    struct transfer *prev, *next;
};

static void read_keys(struct impl *impl);
static void maybe_closed(struct impl *impl);

static void finish(struct transfer *x, const struct dest_outcome *o)
{
    struct dest_transfer *t = x->t;
    t->type_state = NULL;
    free(x);
    dest_done(t, o);
}

/* ---- the patient, for existence checks ---- */

static void identify_free(struct identify *i)
{
    struct impl *impl = i->impl;
    if (i->fd >= 0)
        close(i->fd);
    free(i->path);
    free(i);
    impl->jobs--;
    maybe_closed(impl);
}

static void identify_done(struct identify *i, int status, const char *name, const char *id,
                          const struct err *e)
{
    struct transfer *x = i->transfer;
    if (x) {
        x->identify = NULL;
        pd_upload_identified(&x->file, status, name, id, e);
    }
    identify_free(i);
}

static void on_header(struct dicom_read *r, int status, const struct dicom_header *header,
                      const struct err *e)
{
    struct identify *i = r->ctx;
    if (status == ERR_TRUNCATED || status == ERR_NO_UID)
        status = 0; /* it was good enough to be journalled */
    if (status == 0 && header && header->n_values == 2)
        identify_done(i, 0, header->values[0], header->values[1], NULL);
    else
        identify_done(i, status, NULL, NULL, e);
}

static void identify_open(struct job *job)
{
    struct identify *i = job->data;
    i->fd = open(i->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (i->fd < 0)
        i->status = err_set_errno(&i->err, errno, "cannot read the file");
}

static void identify_opened(struct job *job)
{
    static const uint32_t tags[] = {TAG_PATIENT_NAME, TAG_PATIENT_ID};
    struct identify *i = job->data;
    if (i->status || !i->transfer || i->impl->closing) {
        identify_done(i, i->status ? i->status : ERR_CANCELED, NULL, NULL, &i->err);
        return;
    }
    i->read =
        (struct dicom_read){.fd = i->fd, .tags = tags, .n_tags = 2, .cb = on_header, .ctx = i};
    dicom_reader_read(i->impl->env.reader, &i->read);
}

static void on_identify(struct pd_upload_file *f)
{
    struct transfer *x = f->ctx;
    struct impl *impl = x->impl;
    struct identify *i = calloc(1, sizeof(*i));
    char *path = strdup(x->t->delivery->path);
    if (!i || !path || !impl->env.reader) {
        struct err e;
        free(i);
        free(path);
        err_set(&e, ERR_NOMEM, "no memory to read the patient's name");
        pd_upload_identified(f, impl->env.reader ? e.code : 0, NULL, NULL, &e);
        return;
    }
    i->impl = impl;
    i->transfer = x;
    i->path = path;
    i->fd = -1;
    i->job = (struct job){
        .work = identify_open, .done = identify_opened, .mount = x->t->delivery->mount, .data = i};
    x->identify = i;
    impl->jobs++;
    job_submit(impl->env.jobs, &i->job);
}

/* ---- transfers ---- */

static void on_want(struct pd_upload_file *f)
{
    struct transfer *x = f->ctx;
    dest_want(x->t);
}

static void on_done(struct pd_upload_file *f, const struct pd_upload_result *r)
{
    struct transfer *x = f->ctx;
    struct dest_outcome o = {.status = r->status,
                             .err = r->err,
                             .again = r->again,
                             .uncertain = r->uncertain,
                             .bytes = r->bytes};
    memcpy(o.remote_id, r->order, sizeof(o.remote_id));
    finish(x, &o);
}

static void on_filed(struct pd_upload_filing *f, int status, const struct err *e)
{
    struct transfer *x = f->ctx;
    struct dest_outcome o = {.status = status, .again = status == ERR_SESSION};
    if (e)
        o.err = *e;
    strncpy(o.remote_id, x->filing.order, sizeof(o.remote_id) - 1);
    finish(x, &o);
}

static void fail(struct transfer *x, const struct err *e)
{
    struct dest_outcome o = {.status = e->code, .err = *e};
    finish(x, &o);
}

/* The keys are there. */
static void go(struct transfer *x)
{
    struct impl *impl = x->impl;
    const struct dest_delivery *delivery = x->t->delivery;
    int status;
    if (x->is_filing) {
        x->filing = (struct pd_upload_filing){.order = delivery->sibling_remote_id,
                                              .folder = delivery->folder,
                                              .done = on_filed,
                                              .ctx = x};
        status = pd_upload_file_order(impl->upload, &x->filing);
    } else {
        enum config_check_existing mode = impl->config->postdicom.check_existing;
        bool doubt = (delivery->uncertain || x->t->sent_before || x->t->known_whole) &&
                     !delivery->send_anyway;
        x->file = (struct pd_upload_file){
            .size = delivery->size,
            .study = delivery->study_instance_uid ? delivery->study_instance_uid : "",
            .series = delivery->series_instance_uid ? delivery->series_instance_uid : "",
            .sop = delivery->sop_instance_uid,
            .folder = delivery->folder,
            .may_ask = mode != CONFIG_CHECK_NEVER,
            .known_whole = x->t->known_whole,
            .attempt = x->t->attempt,
            .want = on_want,
            .identify = on_identify,
            .done = on_done,
            .ctx = x,
        };
        /* The answer about a file of several parts would not be believed. */
        x->file.ask = (doubt || (mode == CONFIG_CHECK_ALWAYS && !delivery->send_anyway)) &&
                      (delivery->size <= PD_PART_SIZE || x->t->known_whole);
        status = pd_upload_start(impl->upload, &x->file);
    }
    if (status) {
        struct err e;
        err_set(&e, status, "no memory to send a file");
        fail(x, &e);
    }
}

static void begin(struct impl *impl, struct dest_transfer *t, bool is_filing)
{
    struct transfer *x = calloc(1, sizeof(*x));
    if (!x) {
        struct dest_outcome o = {.status = ERR_NOMEM};
        err_set(&o.err, ERR_NOMEM, "no memory to send a file");
        dest_done(t, &o);
        return;
    }
    x->impl = impl;
    x->t = t;
    x->is_filing = is_filing;
    t->type_state = x;
    if (impl->keys == KEYS_READY) {
        go(x);
        return;
    }
    x->waits = true;
    DL_APPEND(impl->waiting, x);
    if (impl->keys == KEYS_WANTED)
        read_keys(impl);
}

static void type_send(void *impl, struct dest_transfer *t)
{
    begin(impl, t, false);
}

static void type_file_sibling(void *impl, struct dest_transfer *t)
{
    begin(impl, t, true);
}

static void type_part(void *impl, struct dest_transfer *t, uint8_t *buffer, size_t size)
{
    struct transfer *x = t->type_state;
    (void)impl;
    pd_upload_part(&x->file, buffer, size);
}

static void type_abort(void *p, struct dest_transfer *t)
{
    struct impl *impl = p;
    struct transfer *x = t->type_state;
    if (x->waits)
        DL_DELETE(impl->waiting, x);
    if (x->identify)
        x->identify->transfer = NULL;
    if (x->is_filing)
        pd_upload_abort_filing(&x->filing);
    else
        pd_upload_abort(&x->file);
    t->type_state = NULL;
    free(x);
}

static bool type_begun(const struct dest_transfer *t)
{
    const struct transfer *x = t->type_state;
    return x && pd_upload_begun(&x->file);
}

static void release(uint8_t *buffer, size_t size, void *ctx)
{
    struct impl *impl = ctx;
    dest_release(impl->front, buffer, size);
}

/* ---- keys ---- */

static void keys_work(struct job *job)
{
    struct impl *impl = job->data;
    const struct config_postdicom *c = &impl->config->postdicom;
    impl->keys_status = secret_read(&c->account_key, &impl->account_key, &impl->keys_err);
    if (impl->keys_status == 0)
        impl->keys_status = secret_read(&c->api_key, &impl->api_key, &impl->keys_err);
    const struct secret *password = &impl->config->proxy_password;
    if (impl->keys_status == 0 && password->source != SECRET_NONE)
        impl->keys_status = secret_read(password, &impl->proxy_password, &impl->keys_err);
}

static void keys_done(struct job *job)
{
    struct impl *impl = job->data;
    struct transfer *x, *list = impl->waiting;
    struct err e = impl->keys_err;
    int status = impl->keys_status;
    impl->jobs--;
    impl->waiting = NULL;
    impl->keys = KEYS_WANTED;
    if (status == 0 && !impl->closing) {
        struct pd_keys keys = {impl->account_key, impl->api_key};
        status = pd_session_set_keys(impl->session, &keys);
        if (status == 0)
            status = pd_session_set_proxy_password(impl->session, impl->proxy_password);
        if (status)
            err_set(&e, status, "no memory for the keys");
        else
            impl->keys = KEYS_READY;
    } else if (status) {
        /* Without its keys the destination stands still, as it does with wrong ones. */
        e.code = ERR_AUTH;
        err_wrap(&e, "keys");
        dest_link_down(impl->front, e.code, 0, &e);
    }
    secret_wipe(impl->account_key);
    secret_wipe(impl->api_key);
    secret_wipe(impl->proxy_password);
    impl->account_key = impl->api_key = impl->proxy_password = NULL;
    while ((x = list) != NULL) {
        DL_DELETE(list, x);
        x->waits = false;
        if (status)
            fail(x, &e);
        else
            go(x);
    }
    maybe_closed(impl);
}

static void read_keys(struct impl *impl)
{
    impl->keys = KEYS_READING;
    impl->keys_job = (struct job){.work = keys_work, .done = keys_done, .data = impl};
    impl->jobs++;
    job_submit(impl->env.jobs, &impl->keys_job);
}

static void type_poke(void *p)
{
    struct impl *impl = p;
    if (impl->keys == KEYS_READY)
        impl->keys = KEYS_WANTED;
}

/* ---- the session's news ---- */

static void on_up(void *ctx)
{
    struct impl *impl = ctx;
    dest_link_up(impl->front);
}

static void on_down(int status, uint64_t retry_after_ms, const struct err *e, void *ctx)
{
    struct impl *impl = ctx;
    if (status == ERR_AUTH && impl->keys == KEYS_READY)
        impl->keys = KEYS_WANTED; /* they may have been replaced */
    dest_link_down(impl->front, status, retry_after_ms, e);
}

static bool type_rest(void *p)
{
    struct impl *impl = p;
    return pd_session_rest(impl->session);
}

/* ---- open and close ---- */

static int type_open(void **ret, struct dest *front, const struct dest_env *env,
                     const struct config_destination *config, struct err *e)
{
    const struct config_postdicom *c = &config->postdicom;
    struct impl *impl = calloc(1, sizeof(*impl));
    *ret = NULL;
    if (!impl)
        return err_set(e, ERR_NOMEM, "no memory for a destination");
    impl->front = front;
    impl->env = *env;
    impl->config = config;
    impl->options = (struct pd_options){
        .router = c->router,
        .user = c->user,
        .institution = c->institution,
        .client_host_name = c->client_host_name,
        .allowed_hosts = (const char *const *)c->allowed_hosts,
        .n_allowed_hosts = c->n_allowed_hosts,
        .connections = c->connections ? c->connections : 1,
        .pipeline = c->pipeline ? c->pipeline : 1,
        .session_files = c->session_files ? c->session_files : 1,
        .session_idle_ms = c->session_idle_ms,
        .idle_timeout_ms = config->idle_timeout_ms,
        .ping_interval_ms = config->ping_interval_ms,
        .idle_close_ms = config->idle_close_ms,
        .net = {.ca_file = config->ca_file,
                .client_cert = config->client_cert,
                .client_key = config->client_key,
                .proxy = config->proxy,
                .proxy_user = config->proxy_user,
                .connect_timeout_ms = config->connect_timeout_ms,
                .idle_timeout_ms = config->idle_timeout_ms},
    };
    struct pd_session_events events = {.up = on_up, .down = on_down, .ctx = impl};
    int status = pd_session_new(&impl->session, env->loop, &impl->options, &events, e);
    if (status) {
        free(impl);
        return status;
    }
    status = pd_upload_new(&impl->upload, impl->session, &impl->options, release, impl, e);
    if (status) {
        /* The session goes in its own time. */
        impl->closed_cb = NULL;
        pd_session_close(impl->session, free, impl);
        return status;
    }
    /* Every connection busy, as many parts read ahead, and some deliveries more that are being
     * opened or checked, for which small files need hardly any memory. */
    unsigned parts = impl->options.connections * impl->options.pipeline;
    unsigned ahead = impl->options.connections + 4;
    dest_limits(front, PD_PART_SIZE, (size_t)(parts + ahead) * PD_PART_SIZE, 2 * parts + 8);
    *ret = impl;
    return 0;
}

static void on_session_closed(void *ctx)
{
    struct impl *impl = ctx;
    void (*cb)(void *ctx) = impl->closed_cb;
    void *closed_ctx = impl->closed_ctx;
    pd_upload_free(
        impl->upload); /* not before: we may have been closed from one of its callbacks */
    free(impl);
    cb(closed_ctx);
}

static void maybe_closed(struct impl *impl)
{
    if (!impl->closing || impl->jobs > 0 || !impl->session)
        return;
    struct pd_session *session = impl->session;
    impl->session = NULL;
    pd_session_close(session, on_session_closed, impl);
}

static void type_close(void *p, void (*cb)(void *ctx), void *ctx)
{
    struct impl *impl = p;
    impl->closing = true;
    impl->closed_cb = cb;
    impl->closed_ctx = ctx;
    maybe_closed(impl);
}

const struct dest_type dest_postdicom = {
    .open = type_open,
    .send = type_send,
    .part = type_part,
    .file_sibling = type_file_sibling,
    .abort = type_abort,
    .begun = type_begun,
    .poke = type_poke,
    .rest = type_rest,
    .close = type_close,
};
