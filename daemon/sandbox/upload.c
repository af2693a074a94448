#include "sandbox/upload_internal.h"

#include "base/clock.h"
#include "base/text.h"
#include "sandbox/receipts.h"

#include <stdlib.h>
#include <string.h>

/* ---- Upload sessions ---- */

static void upload_reset(struct upload *u)
{
    struct assembly *a, *next;

    HASH_ITER(hh, u->files, a, next)
    assembly_remove(a);
}

static void upload_remove(struct uploads *us, struct upload *u)
{
    upload_reset(u);
    HASH_DEL(us->all, u);
    free(u);
}

static struct upload *upload_add(struct uploads *us, const char *uuid, const char *session)
{
    struct upload *u = calloc(1, sizeof *u);

    if (!u)
        return NULL;
    text_copy(u->uuid, sizeof u->uuid, uuid);
    text_copy(u->session, sizeof u->session, session);
    uuid_generate(u->order);
    u->used_ms = clock_monotonic_ms();
    HASH_ADD_STR(us->all, uuid, u);
    return u;
}

struct upload *upload_find(struct request *r)
{
    struct sandbox *sb = r->sandbox;
    const char *uuid = request_text(r, "SessionUniqueUuid");
    uint64_t idle_ms = sb->assume.upload_session_idle * (uint64_t)1000;
    uint64_t now = clock_monotonic_ms();
    struct upload *u;

    HASH_FIND_STR(sb->uploads->all, uuid, u);
    if (u && idle_ms != 0 && now - u->used_ms > idle_ms) {
        upload_remove(sb->uploads, u);
        u = NULL;
    }
    if (strcmp(uuid, r->conn->session) == 0) {
        if (sb->assume.session_uuid == ASSUME_UUID_INITIALIZE)
            return NULL;
        if (!u)
            u = upload_add(sb->uploads, uuid, uuid);
    }
    if (!u && sb->options.permissive && uuid_valid(uuid))
        u = upload_add(sb->uploads, uuid, r->conn->session);
    if (u)
        u->used_ms = now;
    return u;
}

int uploads_open(struct uploads **ret, struct sandbox *sb)
{
    struct uploads *us = calloc(1, sizeof *us);

    if (!us)
        return ERR_NOMEM;
    us->sandbox = sb;
    *ret = us;
    return 0;
}

unsigned uploads_pending(const struct uploads *us)
{
    return us->pending;
}

void uploads_close(struct uploads *us)
{
    struct upload *u, *next;

    if (!us)
        return;
    HASH_ITER(hh, us->all, u, next)
    upload_remove(us, u);
    free(us);
}

void uploads_session_forgotten(struct uploads *us, const char *session)
{
    struct upload *u, *next;

    HASH_ITER(hh, us->all, u, next)
    {
        if (strcmp(u->session, session) == 0)
            upload_remove(us, u);
    }
}

void uploads_connection_lost(struct uploads *us, uint32_t connection)
{
    struct upload *u, *next;
    struct assembly *a, *next_file;

    if (us->sandbox->assume.parts_survive != ASSUME_PARTS_LOST)
        return;
    HASH_ITER(hh, us->all, u, next)
    {
        HASH_ITER(hh, u->files, a, next_file)
        assembly_connection_lost(a, connection);
    }
}

/* ---- Requests ---- */

static void initialize(struct request *r)
{
    struct uploads *us = r->sandbox->uploads;
    struct upload *own, *u;
    char uuid[UUID_TEXT_SIZE];
    cJSON *result;

    HASH_FIND_STR(us->all, r->conn->session, own);
    if (own)
        upload_reset(own);
    uuid_generate(uuid);
    u = upload_add(us, uuid, r->conn->session);
    if (!u) {
        request_refuse(r, RESPONSE_FAILED, "out of memory");
        return;
    }
    result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "SessionUniqueUuid", u->uuid);
    request_answer(r, RESPONSE_OK, result);
}

/* A part of an unfinished file of that instance is there (exists-means=any-part). */
static bool any_part(struct request *r)
{
    struct upload *u, *next;
    struct assembly *a, *next_file;
    const char *sop = request_text(r, "SopInstanceUid");

    HASH_ITER(hh, r->sandbox->uploads->all, u, next)
    {
        HASH_ITER(hh, u->files, a, next_file)
        {
            if (a->state == ASSEMBLY_OPEN && a->meta && strcmp(a->meta->instance.sop_uid, sop) == 0)
                return true;
        }
    }
    return false;
}

static int run_check(struct store *s, struct store_op *op)
{
    struct request *r = (struct request *)op;
    struct receipts_exists exists = {0};
    cJSON *message;
    int rc;

    if (!r->sandbox->options.discard) {
        rc = receipts_check(r, s, &exists);
        if (rc)
            return rc;
    }
    r->answer = cJSON_CreateObject();
    cJSON_AddStringToObject(r->answer, "StudyInstanceUid", request_text(r, "StudyInstanceUid"));
    message = cJSON_AddObjectToObject(r->answer, "ResponseMessage");
    cJSON_AddBoolToObject(message, "FileIfExist", exists.exists || r->any_part);
    if (exists.order)
        cJSON_AddItemToObject(message, "PatientOrder", exists.order);
    return 0;
}

static void check_done(struct store_op *op, int status, const struct err *e)
{
    struct request *r = (struct request *)op;
    cJSON *answer = r->answer;

    if (status != 0) {
        request_refuse(r, status < 0 ? RESPONSE_FAILED : RESPONSE_INVALID,
                       status < 0 ? e->text : r->failure);
        return;
    }
    r->answer = NULL;
    request_answer(r, RESPONSE_OK, answer);
}

static void check_exists(struct request *r)
{
    if (!upload_find(r)) {
        request_refuse(r, RESPONSE_SESSION, "The upload session is not known.");
        return;
    }
    r->any_part = r->sandbox->assume.exists_means == ASSUME_EXISTS_ANY_PART && any_part(r);
    r->op.run = run_check;
    r->op.done = check_done;
    r->op.read_only = !r->sandbox->options.permissive;
    store_submit(r->sandbox->store, &r->op);
}

void uploads_handle(struct request *r)
{
    struct upload *u;

    switch (r->frame.management) {
    case FRAME_INITIALIZE:
        initialize(r);
        return;
    case FRAME_CHECK_FILE_EXIST:
        check_exists(r);
        return;
    case FRAME_PROCESS_FILE:
        assembly_handle(r, false);
        return;
    case FRAME_PROCESS_DOCUMENTS:
        assembly_handle(r, true);
        return;
    case FRAME_CANCEL:
    case FRAME_ERROR:
        u = upload_find(r);
        if (u)
            upload_reset(u);
        request_answer(r, RESPONSE_OK, cJSON_CreateObject());
        return;
    default:
        request_refuse(r, RESPONSE_INVALID, "This upload management type is not served.");
    }
}
