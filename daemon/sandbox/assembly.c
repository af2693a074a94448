/* A file of one part goes straight to receive.c. Of a longer one the parts are written into one
 * file at their offsets, on the thread pool, each answered when it is written; the one that
 * completes the file is answered when the instance is in the store.
 *
 * The states of an assembly: open (parts missing or being written) -> finishing (in receive.c; what
 * comes meanwhile waits) -> complete (parts that come again are compared with what was stored; when
 * all came again, that is one more receipt) or, if the file was refused, gone. A part that differs
 * from the stored one begins another file. */
#include "sandbox/upload_internal.h"

#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utlist.h>

#define PARTS_MAX    (1 << 20)
#define COMPLETE_MAX 1024 /* complete files an upload session remembers */

/* A request that waits for an assembly to finish. */
struct waiter {
    struct request *request;
    struct waiter *next;
};

/* One request with a part. */
struct part {
    struct request *request;
    struct uploads *uploads;
    struct assembly *assembly;
    int64_t index;
    uint32_t number, total;
    bool document;
    uv_work_t work;
    int error;
    bool equal;
};

static void part_arrived(struct part *p);

static void assembly_unref(struct assembly *a)
{
    if (--a->refs != 0)
        return;
    if (a->fd >= 0)
        close(a->fd);
    if (a->path) {
        unlink(a->path);
        free(a->path);
    }
    receive_meta_unref(a->meta);
    cJSON_Delete(a->order);
    free(a->connections);
    free(a);
}

void assembly_remove(struct assembly *a)
{
    struct upload *u = a->upload;

    if (!u)
        return;
    HASH_DEL(u->files, a);
    if (a->state == ASSEMBLY_COMPLETE) {
        DL_DELETE(u->complete, a);
        u->n_complete--;
    }
    a->upload = NULL;
    assembly_unref(a);
}

void assembly_connection_lost(struct assembly *a, uint32_t connection)
{
    for (uint32_t i = 0; a->state == ASSEMBLY_OPEN && i < a->total; i++) {
        if (a->connections[i] == connection) {
            a->connections[i] = 0;
            a->received--;
        }
    }
}

/* ---- Answers ---- */

static void part_free(struct part *p)
{
    if (p->assembly)
        assembly_unref(p->assembly);
    p->uploads->pending--;
    free(p);
}

static void part_refuse(struct part *p, enum response_code code, const char *text)
{
    struct request *r = p->request;

    part_free(p);
    request_refuse(r, code, text);
}

/* `order` is owned; NULL: an answer that names none. */
static void part_answer(struct part *p, cJSON *order)
{
    struct request *r = p->request;
    cJSON *result = cJSON_CreateObject();
    cJSON *message = cJSON_AddObjectToObject(result, "ResponseMessage");

    if (order)
        cJSON_AddItemToObject(message, "PatientOrder", order);
    part_free(p);
    request_answer(r, RESPONSE_OK, result);
}

/* Of a part that does not complete its file. */
static void part_answer_middle(struct part *p)
{
    struct assembly *a = p->assembly;
    bool each = p->uploads->sandbox->assume.part_answer != ASSUME_ANSWER_LAST;

    part_answer(p, each && a->order ? cJSON_Duplicate(a->order, true) : NULL);
}

/* ---- Files of one part ---- */

static struct receive *make_receive(struct part *p)
{
    struct receive *rc = calloc(1, sizeof *rc);

    if (!rc) {
        part_refuse(p, RESPONSE_FAILED, "out of memory");
        return NULL;
    }
    rc->request = p->request;
    rc->document = p->document;
    rc->fd = -1;
    rc->ctx = p;
    text_copy(rc->upload_session, sizeof rc->upload_session,
              request_text(p->request, "SessionUniqueUuid"));
    return rc;
}

static void on_single(struct receive *rc, enum response_code code, struct receive_meta *meta,
                      cJSON *order)
{
    struct part *p = rc->ctx;

    receive_meta_unref(meta);
    if (code != RESPONSE_OK)
        part_refuse(p, code, p->request->failure);
    else
        part_answer(p, order);
}

static void receive_single(struct part *p)
{
    static const uint8_t none;
    struct receive *rc = make_receive(p);

    if (!rc)
        return;
    rc->bytes = p->request->frame.bytes ? p->request->frame.bytes : &none;
    rc->size = p->request->frame.bytes_size;
    rc->cb = on_single;
    receive_start(rc);
}

/* ---- Assemblies ---- */

static void run_waiters(struct assembly *a)
{
    struct waiter *waiting = a->waiting, *w;

    a->waiting = NULL;
    while ((w = waiting) != NULL) {
        waiting = w->next;
        assembly_handle(w->request, w->request->frame.management == FRAME_PROCESS_DOCUMENTS);
        free(w);
    }
}

static void assembly_completed(struct assembly *a, struct receive_meta *meta, cJSON *order)
{
    receive_meta_unref(a->meta);
    a->meta = meta;
    cJSON_Delete(a->order);
    a->order = order;
    a->state = ASSEMBLY_COMPLETE;
    a->received = 0;
    memset(a->connections, 0, a->total * sizeof *a->connections);
    if (!a->upload)
        return;
    DL_APPEND(a->upload->complete, a);
    if (++a->upload->n_complete > COMPLETE_MAX)
        assembly_remove(a->upload->complete);
}

static void on_whole(struct receive *rc, enum response_code code, struct receive_meta *meta,
                     cJSON *order)
{
    struct part *p = rc->ctx;
    struct assembly *a = p->assembly;

    a->refs++; /* until the waiters went on */
    if (code != RESPONSE_OK) {
        assembly_remove(a);
        part_refuse(p, code, p->request->failure);
    } else {
        assembly_completed(a, meta, order);
        part_answer(p, cJSON_Duplicate(order, true));
    }
    run_waiters(a);
    assembly_unref(a);
}

static void receive_whole(struct part *p)
{
    struct assembly *a = p->assembly;
    struct receive *rc = make_receive(p);

    if (!rc)
        return;
    a->state = ASSEMBLY_FINISHING;
    rc->path = a->path;
    rc->fd = a->fd;
    a->path = NULL;
    a->fd = -1;
    rc->cb = on_whole;
    receive_start(rc);
}

static void on_again(struct receive *rc, enum response_code code, struct receive_meta *meta,
                     cJSON *order)
{
    struct part *p = rc->ctx;

    receive_meta_unref(meta);
    if (code != RESPONSE_OK)
        part_refuse(p, code, p->request->failure);
    else
        part_answer(p, order);
}

/* The order is known as soon as the first part is. */
static void on_first_part(struct receive *rc, enum response_code code, struct receive_meta *meta,
                          cJSON *order)
{
    struct part *p = rc->ctx;
    struct assembly *a = p->assembly;

    a->writing--;
    if (code == RESPONSE_OK && a->state == ASSEMBLY_OPEN) {
        receive_meta_unref(a->meta);
        a->meta = meta;
        cJSON_Delete(a->order);
        a->order = order;
    } else {
        /* What is wrong with the file is said when it is whole. */
        receive_meta_unref(meta);
        cJSON_Delete(order);
    }
    if (a->received == a->total && a->writing == 0)
        receive_whole(p);
    else
        part_answer_middle(p);
}

static void read_first_part(struct part *p)
{
    struct assembly *a = p->assembly;
    struct receive *rc = make_receive(p);

    if (!rc)
        return;
    a->writing++;
    rc->header_only = true;
    rc->fd = a->fd;
    rc->cb = on_first_part;
    receive_start(rc);
}

static void write_part(uv_work_t *work)
{
    struct part *p = work->data;
    const struct frame_request *f = &p->request->frame;
    bool whole = p->document && f->bytes_size > SANDBOX_PART_SIZE;
    off_t offset = whole ? 0 : (off_t)p->number * SANDBOX_PART_SIZE;
    size_t done = 0;

    while (done < f->bytes_size) {
        ssize_t n =
            pwrite(p->assembly->fd, f->bytes + done, f->bytes_size - done, offset + (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            p->error = errno;
            return;
        }
        done += (size_t)n;
    }
}

static void part_written(uv_work_t *work, int status)
{
    struct part *p = work->data;
    struct assembly *a = p->assembly;
    const struct assume *assume = &p->uploads->sandbox->assume;
    bool wants_order =
        assume->part_answer != ASSUME_ANSWER_LAST || assume->exists_means == ASSUME_EXISTS_ANY_PART;

    (void)status; /* never canceled */
    a->writing--;
    if (p->error != 0) {
        part_refuse(p, RESPONSE_FAILED, strerror(p->error));
        return;
    }
    if (p->request->conn->closing && assume->parts_survive == ASSUME_PARTS_LOST) {
        part_answer_middle(p);
        return;
    }
    if (a->connections[p->number] == 0)
        a->received++;
    a->connections[p->number] = p->request->conn->number;
    if (a->received == a->total && a->writing == 0) {
        receive_whole(p);
    } else if (p->number == 0 && !p->document && wants_order && !a->meta) {
        read_first_part(p);
    } else {
        part_answer_middle(p);
    }
}

/* Whether a part that came again is what was stored. */
static void compare_part(uv_work_t *work)
{
    struct part *p = work->data;
    const struct frame_request *f = &p->request->frame;
    struct receive_meta *m = p->assembly->meta;
    off_t offset = (off_t)p->number * SANDBOX_PART_SIZE;
    uint8_t *stored = malloc(f->bytes_size + 1);
    char *path = NULL;
    int fd = -1;

    if (p->document && f->bytes_size > SANDBOX_PART_SIZE)
        offset = 0;
    if (stored && asprintf(&path, "%s/%s", store_dir(p->uploads->sandbox->store), m->to) >= 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        /* One byte more than the part would show that the stored one is longer; a last part ends
         * the file. */
        ssize_t n = pread(fd, stored, f->bytes_size, offset);

        p->equal = n == (ssize_t)f->bytes_size && memcmp(stored, f->bytes, f->bytes_size) == 0 &&
                   (p->number + 1 < p->total || offset + (off_t)f->bytes_size == m->size);
        close(fd);
    }
    free(path);
    free(stored);
}

static void part_compared(uv_work_t *work, int status)
{
    struct part *p = work->data;
    struct assembly *a = p->assembly;
    struct receive *rc;

    (void)status;
    if (!p->equal) { /* another file under a number that was used before */
        assembly_remove(a);
        assembly_unref(a);
        p->assembly = NULL;
        part_arrived(p);
        return;
    }
    if (a->connections[p->number] == 0)
        a->received++;
    a->connections[p->number] = p->request->conn->number;
    if (a->received < a->total) {
        part_answer_middle(p);
        return;
    }
    a->received = 0;
    memset(a->connections, 0, a->total * sizeof *a->connections);
    rc = make_receive(p);
    if (rc) {
        rc->cb = on_again;
        receive_again(rc, a->meta);
    }
}

static struct assembly *assembly_add(struct part *p, struct upload *u)
{
    struct assembly *a = calloc(1, sizeof *a);

    if (!a)
        return NULL;
    a->refs = 1;
    a->fd = -1;
    a->index = p->index;
    a->total = p->total;
    a->connections = calloc(p->total, sizeof *a->connections);
    if (!p->uploads->sandbox->options.discard) {
        a->path = store_incoming_path(p->uploads->sandbox->store);
        a->fd = a->path ? open(a->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    }
    if (!a->connections || (!p->uploads->sandbox->options.discard && a->fd < 0)) {
        assembly_unref(a);
        return NULL;
    }
    a->upload = u;
    HASH_ADD(hh, u->files, index, sizeof a->index, a);
    return a;
}

/* Makes or finds the assembly; p->assembly holds a reference. */
static bool find_assembly(struct part *p, struct upload *u)
{
    struct assembly *a;

    HASH_FIND(hh, u->files, &p->index, sizeof p->index, a);
    if (a && a->total != p->total) {
        assembly_remove(a);
        a = NULL;
    }
    if (!a)
        a = assembly_add(p, u);
    if (!a)
        return false;
    a->refs++;
    p->assembly = a;
    return true;
}

static void discard(struct part *p, struct upload *u)
{
    struct assembly *a = p->assembly;
    cJSON *order = cJSON_CreateObject();

    cJSON_AddStringToObject(order, "PatientOrderUuid", u->order);
    if (a && a->connections[p->number] == 0) {
        a->connections[p->number] = p->request->conn->number;
        if (++a->received == a->total)
            assembly_remove(a);
    }
    part_answer(p, order);
}

static void part_arrived(struct part *p)
{
    struct sandbox *sb = p->uploads->sandbox;
    bool refuse_repeated = sb->assume.repeated_part == ASSUME_REPEAT_REFUSE;
    struct upload *u = upload_find(p->request);
    struct assembly *a;
    struct waiter *w;

    if (!u) {
        part_refuse(p, RESPONSE_SESSION, "The upload session is not known.");
        return;
    }
    if (p->total > 1 || refuse_repeated) {
        if (!find_assembly(p, u)) {
            part_refuse(p, RESPONSE_FAILED, "A file for the parts cannot be made.");
            return;
        }
    }
    a = p->assembly;
    if (refuse_repeated && (a->state != ASSEMBLY_OPEN || a->connections[p->number] != 0)) {
        part_refuse(p, RESPONSE_REPEATED, "This part came before.");
    } else if (sb->options.discard) {
        discard(p, u);
    } else if (!a) {
        receive_single(p);
    } else if (a->state == ASSEMBLY_FINISHING) {
        w = calloc(1, sizeof *w);
        if (!w) {
            part_refuse(p, RESPONSE_FAILED, "out of memory");
            return;
        }
        w->request = p->request;
        LL_APPEND(a->waiting, w);
        part_free(p);
    } else {
        p->work.data = p;
        if (a->state == ASSEMBLY_COMPLETE) {
            uv_queue_work(sb->loop, &p->work, compare_part, part_compared);
        } else {
            a->writing++;
            uv_queue_work(sb->loop, &p->work, write_part, part_written);
        }
    }
}

/* ---- A request ---- */

static bool is_document_type(const char *name)
{
    static const char *const types[] = {".pdf", ".jpeg", ".jpg", ".png", ".bmp", ".mp4"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++) {
        if (strcasecmp(dot, types[i]) == 0)
            return true;
    }
    return false;
}

void assembly_handle(struct request *r, bool document)
{
    int64_t index = request_number(r, "FileIndex", INT32_MAX);
    int64_t number = request_number(r, "CurrentFilePartIndex", PARTS_MAX);
    int64_t total = request_number(r, "CurrentFileTotalPartCount", PARTS_MAX);
    size_t size = r->frame.bytes_size;
    struct part *p;

    if (index < 0 || number < 0 || total < 1 || number >= total) {
        request_refuse(r, RESPONSE_INVALID, "FileIndex or part numbers are wrong.");
        return;
    }
    if (document && !is_document_type(request_text(r, "FileName"))) {
        request_refuse(r, RESPONSE_FILE,
                       "Only .pdf, .jpeg, .jpg, .png, .bmp and .mp4 are documents.");
        return;
    }
    /* The vendor's client sends a long document whole in every part. */
    if (!document &&
        (size > SANDBOX_PART_SIZE || (number + 1 < total && size != SANDBOX_PART_SIZE) ||
         (total > 1 && size == 0))) {
        request_refuse(r, RESPONSE_INVALID,
                       "All parts but the last have 524288 bytes, the last not more.");
        return;
    }
    p = calloc(1, sizeof *p);
    if (!p) {
        request_refuse(r, RESPONSE_FAILED, "out of memory");
        return;
    }
    p->request = r;
    p->uploads = r->sandbox->uploads;
    p->index = index;
    p->number = (uint32_t)number;
    p->total = (uint32_t)total;
    p->document = document;
    p->uploads->pending++;
    part_arrived(p);
}
