#include "sandbox/receive.h"

#include "base/text.h"
#include "sandbox/receipts.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the order of struct orders_instance's texts below. */
static const uint32_t tags[] = {
    0x00100010, /* PatientName */
    0x00100020, /* PatientID */
    0x00101000, /* OtherPatientIDs */
    0x00100030, /* PatientBirthDate */
    0x00100040, /* PatientSex */
    0x00080060, /* Modality */
    0x00081030, /* StudyDescription */
    0x00080050, /* AccessionNumber */
    0x00080020, /* StudyDate */
    0x00080030, /* StudyTime */
    0x00321060, /* RequestedProcedureDescription */
    0x00080090, /* ReferringPhysicianName */
};

#define N_TAGS (sizeof tags / sizeof tags[0])
#define N_UIDS 5

void receive_meta_unref(struct receive_meta *m)
{
    if (!m || --m->refs != 0)
        return;
    free(m->texts);
    free(m);
}

static void end(struct receive *rc, enum response_code code)
{
    struct receive_meta *meta = rc->meta;
    cJSON *order = rc->order;

    rc->meta = NULL;
    rc->order = NULL;
    if (!rc->header_only) {
        if (rc->fd >= 0)
            close(rc->fd);
        if (rc->path) {
            unlink(rc->path); /* still there only if it was not stored */
            free(rc->path);
        }
    }
    if (code != RESPONSE_OK) {
        receive_meta_unref(meta);
        meta = NULL;
    }
    rc->cb(rc, code, meta, order);
    free(rc);
}

static void refuse(struct receive *rc, enum response_code code, const char *text)
{
    text_copy(rc->request->failure, sizeof rc->request->failure, text);
    end(rc, code);
}

/* ---- The store ---- */

static int run_store(struct store *s, struct store_op *op)
{
    struct receive *rc = (struct receive *)((char *)op - offsetof(struct receive, op));
    struct receive_meta *m = rc->meta;
    int64_t order = 0;
    int status;

    if (m->document)
        status = receipts_document(rc->request, s, m->sha256, m->size, &order);
    else
        status = receipts_instance(rc->request, s, &m->instance, &order);
    if (status == 0)
        rc->order = orders_brief_json(s, order);
    return status;
}

static void store_done(struct store_op *op, int status, const struct err *e)
{
    struct receive *rc = (struct receive *)((char *)op - offsetof(struct receive, op));

    if (rc->op.file) {
        rc->fd = -1; /* closed by the store */
        rc->op.file = NULL;
    }
    if (status < 0) {
        cJSON_Delete(rc->order);
        rc->order = NULL;
        refuse(rc, RESPONSE_FAILED, e->text);
    } else if (status > 0) {
        end(rc, RESPONSE_FILE);
    } else {
        end(rc, RESPONSE_OK);
    }
}

static void submit(struct receive *rc)
{
    struct receive_meta *m = rc->meta;

    if (faults_strike(&rc->request->sandbox->faults, FAULT_DISK_FULL, rc->request->kind, NULL)) {
        refuse(rc, RESPONSE_FAILED, "no space left on the file system");
        return;
    }
    rc->op.run = run_store;
    rc->op.done = store_done;
    if (!rc->header_only && rc->path) {
        snprintf(m->to, sizeof m->to, "%s/%.2s/%s%s", m->document ? "documents" : "instances",
                 m->sha256, m->sha256, m->document ? "" : ".dcm");
        rc->file.from = rc->path;
        rc->file.fd = rc->fd;
        memcpy(rc->file.to, m->to, sizeof m->to);
        rc->op.file = &rc->file;
    }
    store_submit(rc->request->sandbox->store, &rc->op);
}

/* ---- The DICOM header ---- */

/* Copies the header's texts into one block. */
static bool copy_header(struct receive_meta *m, const struct dicom_header *h)
{
    const char *texts[N_UIDS + N_TAGS] = {h->sop_instance_uid, h->study_instance_uid,
                                          h->series_instance_uid, h->sop_class_uid,
                                          h->transfer_syntax_uid};
    const char **to[N_UIDS + N_TAGS] = {
        &m->instance.sop_uid,    &m->instance.study_uid,        &m->instance.series_uid,
        &m->instance.sop_class,  &m->instance.transfer_syntax,  &m->instance.patient_name,
        &m->instance.patient_id, &m->instance.other_patient_id, &m->instance.birth_date,
        &m->instance.sex,        &m->instance.modality,         &m->instance.description,
        &m->instance.accession,  &m->instance.study_date,       &m->instance.study_time,
        &m->instance.procedure,  &m->instance.referring};
    size_t size = 0, pos = 0;

    for (size_t i = 0; i < N_TAGS; i++)
        texts[N_UIDS + i] = i < h->n_values && h->values[i] ? h->values[i] : "";
    for (size_t i = 0; i < N_UIDS + N_TAGS; i++)
        size += strlen(texts[i]) + 1;
    m->texts = malloc(size);
    if (!m->texts)
        return false;
    for (size_t i = 0; i < N_UIDS + N_TAGS; i++) {
        size_t n = strlen(texts[i]) + 1;

        memcpy(m->texts + pos, texts[i], n);
        *to[i] = m->texts + pos;
        pos += n;
    }
    return true;
}

static void on_header(struct dicom_read *read, int status, const struct dicom_header *header,
                      const struct err *e)
{
    struct receive *rc = read->ctx;
    struct receive_meta *m = rc->meta;

    if (rc->header_only && status == ERR_TRUNCATED && header && header->sop_instance_uid[0] != '\0')
        status = 0;
    if (status != 0) {
        refuse(rc, err_class(status) == ERR_CLASS_PERMANENT ? RESPONSE_FILE : RESPONSE_FAILED,
               e->text);
        return;
    }
    if (!copy_header(m, header)) {
        refuse(rc, RESPONSE_FAILED, "out of memory");
        return;
    }
    m->instance.sha256 = rc->header_only ? "" : m->sha256;
    m->instance.size = m->size;
    m->instance.upload_session = m->upload_session;
    submit(rc);
}

static void read_header(struct receive *rc)
{
    rc->read.fd = rc->fd;
    rc->read.tags = tags;
    rc->read.n_tags = N_TAGS;
    rc->read.cb = on_header;
    rc->read.ctx = rc;
    dicom_reader_read(rc->request->sandbox->reader, &rc->read);
}

/* ---- Writing and hashing ---- */

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size != 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int hash_file(int fd, EVP_MD_CTX *md, int64_t *size)
{
    uint8_t *buffer = malloc(SANDBOX_PART_SIZE);
    ssize_t n = -1;

    *size = 0;
    while (buffer && (n = pread(fd, buffer, SANDBOX_PART_SIZE, *size)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        EVP_DigestUpdate(md, buffer, (size_t)n);
        *size += n;
    }
    free(buffer);
    return n == 0 ? 0 : errno ? errno : ENOMEM;
}

static void work(uv_work_t *request)
{
    struct receive *rc = request->data;
    struct receive_meta *m = rc->meta;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    int rc_errno = 0;

    if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL)) {
        rc_errno = ENOMEM;
    } else if (rc->bytes) {
        rc->path = store_incoming_path(rc->request->sandbox->store);
        rc->fd = rc->path ? open(rc->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
        rc_errno = !rc->path ? ENOMEM : rc->fd < 0 ? errno : write_all(rc->fd, rc->bytes, rc->size);
        EVP_DigestUpdate(md, rc->bytes, rc->size);
        m->size = (int64_t)rc->size;
    } else {
        rc_errno = hash_file(rc->fd, md, &m->size);
    }
    if (rc_errno == 0 && !EVP_DigestFinal_ex(md, digest, &n))
        rc_errno = ENOMEM;
    EVP_MD_CTX_free(md);
    if (rc_errno == 0)
        text_hex(digest, 32, m->sha256);
    else
        rc->status = err_set_errno(&rc->error, rc_errno, "cannot write a received file");
}

static void work_done(uv_work_t *request, int status)
{
    struct receive *rc = request->data;

    (void)status; /* never canceled */
    if (rc->status != 0)
        refuse(rc, RESPONSE_FAILED, rc->error.text);
    else if (rc->document)
        submit(rc);
    else
        read_header(rc);
}

static struct receive_meta *make_meta(const struct receive *rc)
{
    struct receive_meta *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->refs = 1;
    m->document = rc->document;
    memcpy(m->upload_session, rc->upload_session, sizeof m->upload_session);
    return m;
}

static void nothing(uv_work_t *request)
{
    (void)request;
}

void receive_start(struct receive *rc)
{
    rc->meta = make_meta(rc);
    rc->work.data = rc;
    if (!rc->meta)
        rc->status = err_set(&rc->error, ERR_NOMEM, "out of memory");
    uv_queue_work(rc->request->sandbox->loop, &rc->work,
                  rc->status != 0 || rc->header_only ? nothing : work, work_done);
}

void receive_again(struct receive *rc, struct receive_meta *meta)
{
    rc->meta = meta;
    meta->refs++;
    submit(rc);
}
