#include "api.h"

#include "base/clock.h"
#include "base/log.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX     1000
#define PAUSE_MAX_MS 60000U

/* One request that waits for the journal or a reload. */
struct call {
    struct app *app;
    struct control_request *request;
    cJSON *json;
    char *study, *instance, *path, *destination; /* copies: the peer may go before the answer */
    union {
        struct {
            struct journal_counts counts;
            struct journal_holds holds;
        } status;
        struct journal_list list;
        struct journal_act_on act;
        struct journal_backup backup;
    } op;
};

static void answer(struct control_request *r, unsigned status, cJSON *json)
{
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    control_answer(r, text ? status : 500, text ? text : "{\"error\":\"out of memory\"}");
    cJSON_free(text);
    cJSON_Delete(json);
}

static void answer_error(struct control_request *r, unsigned status, const char *text)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "error", text);
    answer(r, status, json);
}

static void free_call(struct call *c)
{
    cJSON_Delete(c->json);
    free(c->study);
    free(c->instance);
    free(c->path);
    free(c->destination);
    free(c);
}

static void finish(struct call *c, unsigned status, cJSON *json)
{
    answer(c->request, status, json);
    free_call(c);
}

static void finish_error(struct call *c, const struct err *e, int status)
{
    answer_error(c->request, status == ERR_NOT_FOUND ? 404 : 500,
                 e && e->text[0] ? e->text : err_text(status));
    free_call(c);
}

/* An optional decimal argument; false (and answered) if it is not a number. */
static bool number(struct control_request *r, const char *name, uint64_t *ret)
{
    const char *text = control_argument(r, name);
    char *end;
    if (!text || !*text)
        return true;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0 || *end || text[0] == '-') {
        char message[80];
        snprintf(message, sizeof message, "%s: a number was expected", name);
        answer_error(r, 400, message);
        return false;
    }
    *ret = v;
    return true;
}

/* Copies the arguments that choose; false (and answered) when out of memory. */
static bool copy_arguments(struct call *c)
{
    struct {
        const char *name;
        char **copy;
    } arguments[] = {{"study", &c->study},
                     {"instance", &c->instance},
                     {"path", &c->path},
                     {"destination", &c->destination}};
    for (size_t i = 0; i < sizeof arguments / sizeof arguments[0]; i++) {
        const char *text = control_argument(c->request, arguments[i].name);
        if (text && *text && !(*arguments[i].copy = strdup(text))) {
            answer_error(c->request, 500, "out of memory");
            return false;
        }
    }
    return true;
}

static const char *text_argument(struct control_request *r, const char *name)
{
    const char *text = control_argument(r, name);
    return text && *text ? text : NULL;
}

/* ---- Status ---- */

static cJSON *describe_destination(const struct pipeline *p, size_t i)
{
    static const char *const health[] = {[DEST_HEALTHY] = "healthy",
                                         [DEST_CONNECTING] = "connecting",
                                         [DEST_BROKEN] = "not reachable",
                                         [DEST_AUTH_FAILED] = "refuses our keys or certificate"};
    struct dest_status s;
    cJSON *o = cJSON_CreateObject();
    dest_get_status(pipeline_dest(p, i), &s);
    cJSON_AddStringToObject(o, "name", pipeline_config(p)->destinations[i].name);
    cJSON_AddStringToObject(o, "health", health[s.health]);
    cJSON_AddBoolToObject(o, "paused", s.paused);
    if (s.health != DEST_HEALTHY && s.last_error.text[0])
        cJSON_AddStringToObject(o, "error", s.last_error.text);
    cJSON_AddNumberToObject(o, "next_probe_ms", (double)s.next_probe_ms);
    cJSON_AddNumberToObject(o, "in_flight", (double)pipeline_in_flight(p, i));
    cJSON_AddNumberToObject(o, "bytes_sent", (double)s.bytes_sent);
    return o;
}

/* Nothing where all can be read. */
static void describe_unread(cJSON *watch, const struct unread *u)
{
    cJSON *paths = u->n > 0 ? cJSON_AddArrayToObject(watch, "unreadable") : NULL;
    for (size_t i = 0; i < u->n; i++)
        cJSON_AddItemToArray(paths, cJSON_CreateString(u->paths[i]));
    if (u->n > 0)
        cJSON_AddBoolToObject(watch, "more_unreadable", u->more);
}

static cJSON *describe_pipeline(const struct pipeline *p)
{
    cJSON *o = cJSON_CreateObject();
    const struct config *c = pipeline_config(p);
    struct progress_totals t;
    size_t pending, settling;
    pipeline_totals(p, &t);
    pipeline_intake(p, &pending, &settling);
    cJSON *watches = cJSON_AddArrayToObject(o, "drop_folders");
    for (size_t i = 0; i < c->n_watches; i++) {
        cJSON *w = cJSON_CreateObject();
        cJSON_AddStringToObject(w, "path", c->watches[i].path);
        cJSON_AddBoolToObject(w, "present", pipeline_watch_present(p, i));
        describe_unread(w, pipeline_watch_unread(p, i));
        cJSON_AddItemToArray(watches, w);
    }
    cJSON *destinations = cJSON_AddArrayToObject(o, "destinations");
    for (size_t i = 0; i < c->n_destinations; i++)
        cJSON_AddItemToArray(destinations, describe_destination(p, i));
    cJSON_AddNumberToObject(o, "reading", (double)pending);
    cJSON_AddNumberToObject(o, "incomplete", (double)settling);
    cJSON_AddNumberToObject(o, "delivered_since_start", (double)t.files);
    cJSON_AddNumberToObject(o, "bytes_since_start", (double)t.bytes);
    if (pipeline_trouble(p))
        cJSON_AddStringToObject(o, "trouble", pipeline_trouble(p));
    return o;
}

/* Since when they are held as a whole. */
static void add_holds(cJSON *destinations, const char *json)
{
    cJSON *holds = cJSON_Parse(json), *d;
    cJSON_ArrayForEach(d, destinations)
    {
        const cJSON *name = cJSON_GetObjectItem(d, "name");
        const cJSON *since = cJSON_GetObjectItemCaseSensitive(holds, cJSON_GetStringValue(name));
        if (since)
            cJSON_AddStringToObject(d, "held_since", cJSON_GetStringValue(since));
    }
    cJSON_Delete(holds);
}

static void holds_known(struct journal_op *op, int status, const struct err *e)
{
    struct call *call = op->ctx;
    const struct journal_counts *c = &call->op.status.counts;
    char *holds = call->op.status.holds.json;
    if (status != 0) {
        finish_error(call, e, status);
        return;
    }
    struct pipeline *p = app_pipeline(call->app);
    cJSON *o = p ? describe_pipeline(p) : cJSON_CreateObject();
    add_holds(cJSON_GetObjectItem(o, "destinations"), holds);
    free(holds);
    cJSON_AddStringToObject(o, "version", DCMFERRY_VERSION);
    cJSON_AddBoolToObject(o, "reloading", p == NULL);
    cJSON *files = cJSON_AddObjectToObject(o, "files"),
          *deliveries = cJSON_AddObjectToObject(o, "deliveries");
    cJSON *bytes = cJSON_AddObjectToObject(o, "delivery_bytes");
    for (int s = 0; s < FILE_STATE_MAX; s++)
        cJSON_AddNumberToObject(files, file_state_name((enum file_state)s), (double)c->files[s]);
    for (int s = 0; s < DELIVERY_STATE_MAX; s++) {
        cJSON_AddNumberToObject(deliveries, delivery_state_name((enum delivery_state)s),
                                (double)c->deliveries[s]);
        cJSON_AddNumberToObject(bytes, delivery_state_name((enum delivery_state)s),
                                (double)c->delivery_bytes[s]);
    }
    cJSON_AddNumberToObject(o, "left", (double)c->left);
    if (c->oldest_open_ms != INT64_MAX)
        cJSON_AddNumberToObject(o, "oldest_open_seconds",
                                (double)(clock_realtime_ms() - c->oldest_open_ms) / 1000.0);
    finish(call, 200, o);
}

static void counted(struct journal_op *op, int status, const struct err *e)
{
    struct call *c = op->ctx;
    if (status != 0) {
        finish_error(c, e, status);
        return;
    }
    c->op.status.holds.op = (struct journal_op){.cb = holds_known, .ctx = c};
    journal_holds(app_journal(c->app), &c->op.status.holds);
}

static void status_call(struct call *c)
{
    c->op.status.counts.op = (struct journal_op){.cb = counted, .ctx = c};
    journal_counts(app_journal(c->app), &c->op.status.counts);
}

/* ---- Files ---- */

static void listed(struct journal_op *op, int status, const struct err *e)
{
    struct call *c = op->ctx;
    char *json = c->op.list.json;
    if (status != 0) {
        finish_error(c, e, status);
    } else {
        control_answer(c->request, 200, json ? json : "[]");
        free_call(c);
    }
    free(json);
}

static void files_call(struct call *c)
{
    struct control_request *r = c->request;
    uint64_t limit = 100, offset = 0;
    if (!number(r, "limit", &limit) || !number(r, "offset", &offset) || !copy_arguments(c)) {
        free_call(c);
        return;
    }
    c->op.list = (struct journal_list){.op = {.cb = listed, .ctx = c},
                                       .study = c->study,
                                       .sop_instance = c->instance,
                                       .path = c->path,
                                       .destination = c->destination,
                                       .file_state = -1,
                                       .delivery_state = -1,
                                       .problems = text_argument(r, "problems") != NULL,
                                       .acknowledged = text_argument(r, "acknowledged") != NULL,
                                       .limit = limit < LIST_MAX ? (size_t)limit : LIST_MAX,
                                       .offset = (size_t)offset};
    journal_list(app_journal(c->app), &c->op.list);
}

/* Whether the newest row is of a file that stands at its path. */
static bool one_stands(const cJSON *files)
{
    const cJSON *newest = cJSON_GetArrayItem(files, 0);
    return newest && !cJSON_GetObjectItem(newest, "gone");
}

static void explained(const char *state, const char *why, void *ctx)
{
    struct call *c = ctx;
    cJSON *o = c->json;
    c->json = NULL;
    cJSON_AddStringToObject(o, "state", state);
    cJSON_AddStringToObject(o, "why", why);
    finish(c, 200, o);
}

static void found(struct journal_op *op, int status, const struct err *e)
{
    struct call *c = op->ctx;
    char *json = c->op.list.json;
    if (status != 0) {
        finish_error(c, e, status);
        return;
    }
    cJSON *files = cJSON_Parse(json);
    bool stands = one_stands(files);
    cJSON_Delete(files);
    c->json = cJSON_CreateObject();
    cJSON_AddRawToObject(c->json, "files", json);
    free(json);
    struct pipeline *p = app_pipeline(c->app);
    if (stands) {
        cJSON *o = c->json;
        c->json = NULL;
        finish(c, 200, o);
    } else if (!p) {
        answer_error(c->request, 503, "reloading: try again");
        free_call(c);
    } else if (pipeline_where(p, c->path, explained, c) != 0) {
        finish_error(c, NULL, ERR_NOMEM);
    }
}

static void where_call(struct call *c)
{
    if (!copy_arguments(c)) {
        free_call(c);
        return;
    }
    if (!c->path || c->path[0] != '/') {
        answer_error(c->request, 400, "path: an absolute path was expected");
        free_call(c);
        return;
    }
    c->op.list = (struct journal_list){.op = {.cb = found, .ctx = c},
                                       .path = c->path,
                                       .file_state = -1,
                                       .delivery_state = -1,
                                       .limit = 10};
    journal_list(app_journal(c->app), &c->op.list);
}

/* ---- Acts ---- */

static bool is_configured(const struct pipeline *p, const char *destination)
{
    const struct config *config = pipeline_config(p);
    for (size_t i = 0; i < config->n_destinations; i++)
        if (strcmp(config->destinations[i].name, destination) == 0)
            return true;
    return false;
}

static void acted(struct journal_op *op, int status, const struct err *e)
{
    struct call *c = op->ctx;
    if (status != 0) {
        finish_error(c, e, status);
        return;
    }
    struct pipeline *p = app_pipeline(c->app);
    const char *unknown = c->op.act.unknown;
    if (unknown &&
        !(strcmp(unknown, "destination") == 0 && p && is_configured(p, c->destination))) {
        char text[64];
        snprintf(text, sizeof text, "no %s of that name or number is known", unknown);
        answer_error(c->request, 404, text);
        free_call(c);
        return;
    }
    if (p && c->op.act.act != JOURNAL_ACKNOWLEDGE)
        pipeline_kick(p);
    if (p && c->op.act.act == JOURNAL_RETRY)
        pipeline_rescan(p);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "changed", (double)c->op.act.changed);
    if (c->op.act.and_later)
        cJSON_AddBoolToObject(o, "and_later", true);
    if (c->op.act.still_held)
        cJSON_AddBoolToObject(o, "still_held", true);
    finish(c, 200, o);
}

static void act_call(struct call *c, enum journal_act act)
{
    struct control_request *r = c->request;
    uint64_t delivery = 0, file = 0;
    if (!number(r, "delivery", &delivery) || !number(r, "file", &file) || !copy_arguments(c)) {
        free_call(c);
        return;
    }
    const struct pipeline *p = app_pipeline(c->app);
    bool and_later =
        act == JOURNAL_HOLD && c->destination && delivery == 0 && file == 0 && !c->study;
    if (and_later && !p) {
        answer_error(r, 503, "reloading: try again");
        free_call(c);
        return;
    }
    c->op.act = (struct journal_act_on){.op = {.cb = acted, .ctx = c},
                                        .act = act,
                                        .delivery_id = delivery,
                                        .file_id = file,
                                        .destination = c->destination,
                                        .study = c->study,
                                        .and_later = and_later && is_configured(p, c->destination),
                                        .send_anyway = text_argument(r, "anyway") != NULL};
    journal_act_on(app_journal(c->app), &c->op.act);
}

static void retry_call(struct call *c)
{
    act_call(c, JOURNAL_RETRY);
}

static void hold_call(struct call *c)
{
    act_call(c, JOURNAL_HOLD);
}

static void release_call(struct call *c)
{
    act_call(c, JOURNAL_RELEASE);
}

static void acknowledge_call(struct call *c)
{
    act_call(c, JOURNAL_ACKNOWLEDGE);
}

/* ---- The others ---- */

static void reloaded(int status, const char *text, void *ctx)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "ok", status == 0);
    cJSON_AddStringToObject(o, "text", text);
    finish(ctx, 200, o);
}

static void reload_call(struct call *c)
{
    app_reload(c->app, reloaded, c);
}

static void backed_up(struct journal_op *op, int status, const struct err *e)
{
    struct call *c = op->ctx;
    if (status != 0) {
        finish_error(c, e, status);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "ok", true);
    finish(c, 200, o);
}

static void backup_call(struct call *c)
{
    c->op.backup.op = (struct journal_op){.cb = backed_up, .ctx = c};
    journal_backup(app_journal(c->app), &c->op.backup);
}

/* `dcmferry doctor` is a second client with the same keys, which might displace ours. It asks again
 * and again: if it dies, the pause ends by itself. */
static void pause_call(struct call *c)
{
    struct pipeline *p = app_pipeline(c->app);
    const char *name = text_argument(c->request, "destination");
    const struct config *config = p ? pipeline_config(p) : NULL;
    uint64_t for_ms = 0;
    if (!number(c->request, "for", &for_ms)) {
        free_call(c);
        return;
    }
    for (size_t i = 0; config && name && i < config->n_destinations; i++) {
        struct dest *d = pipeline_dest(p, i);
        struct dest_status before;
        if (strcmp(config->destinations[i].name, name) != 0)
            continue;
        dest_get_status(d, &before);
        if (for_ms > PAUSE_MAX_MS)
            for_ms = PAUSE_MAX_MS;
        if (before.paused != (for_ms > 0))
            log_notice(for_ms > 0 ? "a destination pauses for dcmferry doctor"
                                  : "a destination goes on after dcmferry doctor",
                       LOG_STR("destination", name));
        cJSON *o = cJSON_CreateObject();
        cJSON_AddBoolToObject(o, "quiet", dest_pause(d, for_ms));
        cJSON_AddNumberToObject(o, "in_flight", (double)pipeline_in_flight(p, i));
        finish(c, 200, o);
        return;
    }
    answer_error(c->request, p ? 404 : 503,
                 p ? "no such destination in the configuration" : "reloading: try again");
    free_call(c);
}

void api_request(struct app *a, struct control_request *r)
{
    static const struct {
        const char *method, *path;
        void (*call)(struct call *c);
    } calls[] = {
        {"GET", "/status", status_call},
        {"GET", "/files", files_call},
        {"GET", "/where", where_call},
        {"POST", "/retry", retry_call},
        {"POST", "/hold", hold_call},
        {"POST", "/release", release_call},
        {"POST", "/acknowledge", acknowledge_call},
        {"POST", "/reload", reload_call},
        {"POST", "/backup", backup_call},
        {"POST", "/pause", pause_call},
    };
    if (!app_journal(a)) {
        answer_error(r, 503, "stopping");
        return;
    }
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (strcmp(calls[i].path, control_path(r)) != 0)
            continue;
        if (strcmp(calls[i].method, control_method(r)) != 0) {
            answer_error(r, 405, "wrong method");
            return;
        }
        struct call *c = calloc(1, sizeof *c);
        if (!c) {
            answer_error(r, 500, "out of memory");
            return;
        }
        c->app = a;
        c->request = r;
        calls[i].call(c);
        return;
    }
    answer_error(r, 404, "no such thing here");
}
