#include "sandbox/dispatch.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/text.h"
#include "sandbox/methods.h"
#include "sandbox/sessions.h"
#include "sandbox/upload.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *request_text(const struct request *r, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->params, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

int64_t request_number(const struct request *r, const char *name, int64_t max)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->params, name);

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > (double)max ||
        item->valuedouble != (double)(int64_t)item->valuedouble)
        return -1;
    return (int64_t)item->valuedouble;
}

int request_fail(struct request *r, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(r->failure, sizeof r->failure, format, ap);
    va_end(ap);
    return 1;
}

/* ---- Answering ---- */

void request_free(struct request *r)
{
    struct conn *c = r->conn;

    if (r->kind & FAULT_ON_PART)
        c->parts_unanswered--;
    conn_answered(c);
    conn_unref(c);
    cJSON_Delete(r->params);
    cJSON_Delete(r->answer);
    free(r->message);
    free(r);
}

static cJSON *wrap(struct request *r)
{
    cJSON *result;

    if (r->frame.type == FRAME_UPLOAD) {
        result = r->answer ? r->answer : cJSON_CreateObject();
        r->answer = NULL;
        cJSON_AddNumberToObject(result, "ResponseCode", r->code);
        if (r->code != RESPONSE_OK)
            cJSON_AddStringToObject(result, "Message", r->failure);
        return result;
    }
    result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "ResponseCode", r->code);
    if (r->answer) {
        cJSON_AddItemToObject(result, "ResponseMessage", r->answer);
        r->answer = NULL;
    } else {
        cJSON_AddStringToObject(result, "ResponseMessage", r->failure);
    }
    return result;
}

static void send_answer(struct request *r)
{
    struct faults *faults = &r->sandbox->faults;
    struct conn *c = r->conn;
    cJSON *result = wrap(r);
    char *json = cJSON_PrintUnformatted(result);
    struct buf out = {0};
    struct frame_answer a = {
        .type = (uint16_t)(r->frame.type == FRAME_UPLOAD ? r->sandbox->assume.answer_type
                                                         : r->frame.type + 1u),
        .id = ++c->next_id,
        .request_id = r->frame.id,
        .success = r->code == RESPONSE_OK,
        .message = r->code == RESPONSE_OK ? "OK" : r->failure,
        .management = r->frame.management,
        .json = json ? json : "",
    };

    a.message_size = strlen(a.message);
    a.json_size = strlen(a.json);
    frame_encode_answer(&a, &out);
    cJSON_Delete(result);
    if (!json || buf_failed(&out))
        conn_drop(c, 1011);
    else if (faults_strike(faults, FAULT_GARBAGE, r->kind, NULL))
        conn_send(c, true, "\x04\x00garbage\xff\xff\xff\x7f", 13);
    else
        conn_send(c, !faults_strike(faults, FAULT_TEXT, r->kind, NULL), out.data, out.size);
    free(json);
    buf_free(&out);
    request_free(r);
}

static void on_late_closed(uv_handle_t *handle)
{
    struct request *r = handle->data;

    free(handle);
    send_answer(r);
}

static void on_late(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, on_late_closed);
}

static void finish(struct request *r)
{
    uint32_t ms;

    if (r->drop_instead) {
        conn_drop(r->conn, 0);
        request_free(r);
    } else if (r->lose_answer || r->conn->closing) {
        request_free(r);
    } else if (faults_strike(&r->sandbox->faults, FAULT_ANSWER_LATE, r->kind, &ms) &&
               (r->late = malloc(sizeof *r->late)) != NULL) {
        uv_timer_init(r->sandbox->loop, r->late);
        r->late->data = r;
        uv_timer_start(r->late, on_late, ms, 0);
    } else {
        send_answer(r);
    }
}

void request_answer(struct request *r, enum response_code code, cJSON *response)
{
    cJSON_Delete(r->answer);
    r->answer = response;
    r->code = code;
    finish(r);
}

void request_refuse(struct request *r, enum response_code code, const char *text)
{
    if (text != r->failure)
        text_copy(r->failure, sizeof r->failure, text);
    log_info("request refused", LOG_UINT("connection", r->conn->number),
             LOG_UINT("type", r->frame.type), LOG_INT("management", r->frame.management),
             LOG_INT("code", code), LOG_STR("reason", r->failure));
    request_answer(r, code, NULL);
}

void request_session_lost(struct request *r)
{
    if (r->sandbox->assume.session_lost == ASSUME_LOST_CLOSE) {
        conn_drop(r->conn, 1008);
        request_free(r);
        return;
    }
    request_refuse(r, RESPONSE_SESSION, "The session is not known.");
}

/* ---- Dispatching ---- */

static unsigned kind_of(const struct frame_request *f)
{
    if (f->type == FRAME_SESSION)
        return FAULT_ON_SESSION;
    if (f->type == FRAME_GENERAL)
        return FAULT_ON_GENERAL;
    if (f->management == FRAME_PROCESS_FILE || f->management == FRAME_PROCESS_DOCUMENTS)
        return FAULT_ON_UPLOAD | FAULT_ON_PART;
    return FAULT_ON_UPLOAD;
}

/* Whether the request goes on; otherwise it was ended. */
static bool apply_faults(struct request *r)
{
    struct faults *f = &r->sandbox->faults;
    struct conn *c = r->conn;

    if (faults_strike_at(f, FAULT_DROP_BEFORE, r->kind, c->frames) ||
        faults_strike(f, FAULT_LOSE_REQUEST, r->kind, NULL)) {
        if (f->switches[FAULT_DROP_BEFORE].hits != 0 &&
            c->frames == f->switches[FAULT_DROP_BEFORE].value)
            conn_drop(c, 0);
        request_free(r);
        return false;
    }
    if (c->session[0] != '\0' && faults_strike(f, FAULT_FORGET_SESSION, r->kind, NULL))
        sessions_forget(r->sandbox->sessions, c->session);
    if (c->session[0] != '\0' && faults_strike(f, FAULT_DISPLACE, r->kind, NULL))
        sessions_displace(r->sandbox->sessions, NULL,
                          r->sandbox->assume.displace != ASSUME_DISPLACE_CLOSE);
    r->drop_instead = faults_strike_at(f, FAULT_DROP_AFTER, r->kind, c->frames);
    r->lose_answer = faults_strike(f, FAULT_NEVER_ANSWER, r->kind, NULL);
    if (faults_strike(f, FAULT_ANSWER_ERROR, r->kind, NULL)) {
        request_refuse(r, RESPONSE_FAILED, "An error on purpose.");
        return false;
    }
    return true;
}

static bool check_keys(struct request *r)
{
    const struct sandbox_options *o = &r->sandbox->options;

    return strcasecmp(request_text(r, "ApiKey"), o->api_key) == 0 &&
           strcasecmp(request_text(r, "AccountKey"), o->account_key) == 0;
}

static void dispatch_request(struct request *r)
{
    struct sandbox *sb = r->sandbox;
    struct conn *c = r->conn;

    if (r->frame.type == FRAME_SESSION) {
        sessions_handle(r);
        return;
    }
    if (!check_keys(r)) {
        request_refuse(r, RESPONSE_AUTH, "The keys are not valid.");
        return;
    }
    if (c->session[0] == '\0') {
        request_refuse(r, RESPONSE_SESSION, "The connection is not registered.");
        return;
    }
    if (!sessions_known(sb->sessions, c->session)) {
        request_session_lost(r);
        return;
    }
    if (r->frame.type == FRAME_GENERAL)
        methods_handle(r);
    else
        uploads_handle(r);
}

/* The parameters, if they are one JSON object in UTF-8 and nothing behind it. */
static cJSON *parse_params(const struct frame_request *f)
{
    const char *end = NULL;
    cJSON *params;

    if (!text_utf8_valid(f->json, f->json_size))
        return NULL;
    params = cJSON_ParseWithLengthOpts(f->json, f->json_size, &end, false);
    if (params && cJSON_IsObject(params) && end == f->json + f->json_size)
        return params;
    cJSON_Delete(params);
    return NULL;
}

void dispatch_frame(struct conn *c, uint8_t *message, size_t size)
{
    struct request *r = calloc(1, sizeof *r);
    struct err e;

    if (!r) {
        free(message);
        conn_drop(c, 1011);
        return;
    }
    r->message = message;
    r->sandbox = c->sandbox;
    r->conn = c;
    conn_ref(c);
    c->unanswered++;
    if (frame_decode_request(message, size, &r->frame, &e) != 0 ||
        (r->params = parse_params(&r->frame)) == NULL) {
        log_error("message on a connection that is no frame", LOG_UINT("connection", c->number),
                  LOG_UINT("bytes", size));
        conn_drop(c, 1002);
        request_free(r);
        return;
    }
    r->kind = kind_of(&r->frame);
    if (r->kind & FAULT_ON_PART) {
        if (++c->parts_unanswered > 1 && c->sandbox->assume.parts_in_flight == ASSUME_PARTS_ONE) {
            conn_drop(c, 1008);
            request_free(r);
            return;
        }
    }
    if (apply_faults(r))
        dispatch_request(r);
}
