#include "peer.h"

#include "base/clock.h"
#include "net/http.h"
#include "postdicom/pd_address.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HTTP_ANSWER (256U * 1024)
#define ANSWER_MAX_MS   30000U

/* ---- life ---- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct peer *p = handle->data;
    (void)number;
    p->interrupted = true;
}

static void on_wake(uv_timer_t *timer)
{
    (void)timer; /* the loop comes round */
}

static void nothing(void *ctx)
{
    (void)ctx;
}

static int read_secrets(struct peer *p, const struct config_destination *config, char **ret_proxy,
                        struct err *e)
{
    int status = secret_read(&config->postdicom.account_key, &p->account_key, e);
    if (status)
        return err_wrap(e, "account_key");
    status = secret_read(&config->postdicom.api_key, &p->api_key, e);
    if (status)
        return err_wrap(e, "api_key");
    if (config->proxy_password.source != SECRET_NONE)
        status = secret_read(&config->proxy_password, ret_proxy, e);
    return status ? err_wrap(e, "proxy_password") : 0;
}

int peer_open(struct peer *p, const struct config_destination *config, struct transcript *t,
              struct err *e)
{
    const struct config_postdicom *c = &config->postdicom;
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    char *proxy_password = NULL;
    memset(p, 0, sizeof(*p));
    int status = read_secrets(p, config, &proxy_password, e);
    if (status) {
        secret_wipe(p->account_key);
        secret_wipe(p->api_key);
        return status;
    }
    p->keys = (struct pd_keys){p->account_key, p->api_key};
    p->transcript = t;
    transcript_keys(t, &p->keys);
    p->options = (struct pd_options){.router = c->router,
                                     .user = c->user,
                                     .institution = c->institution,
                                     .client_host_name = c->client_host_name,
                                     .allowed_hosts = (const char *const *)c->allowed_hosts,
                                     .n_allowed_hosts = c->n_allowed_hosts,
                                     .net = {.ca_file = config->ca_file,
                                             .client_cert = config->client_cert,
                                             .client_key = config->client_key,
                                             .proxy = config->proxy,
                                             .proxy_user = config->proxy_user,
                                             .proxy_password = proxy_password,
                                             .connect_timeout_ms = config->connect_timeout_ms,
                                             .idle_timeout_ms = config->idle_timeout_ms}};
    p->answer_ms =
        config->idle_timeout_ms < ANSWER_MAX_MS ? config->idle_timeout_ms : ANSWER_MAX_MS;
    status = uv_loop_init(&p->loop) == 0 ? net_open(&p->net, &p->loop, &p->options.net, e)
                                         : err_set(e, ERR_NOMEM, "out of memory");
    p->options.net.proxy_password = NULL;
    secret_wipe(proxy_password);
    if (status) {
        secret_wipe(p->account_key);
        secret_wipe(p->api_key);
        return status;
    }
    uv_timer_init(&p->loop, &p->wake);
    for (size_t i = 0; i < sizeof(p->signals) / sizeof(p->signals[0]); i++) {
        uv_signal_init(&p->loop, &p->signals[i]);
        p->signals[i].data = p;
        uv_signal_start(&p->signals[i], on_signal, numbers[i]);
    }
    return 0;
}

void peer_close(struct peer *p)
{
    net_close(p->net, nothing, NULL);
    uv_close((uv_handle_t *)&p->wake, NULL);
    for (size_t i = 0; i < sizeof(p->signals) / sizeof(p->signals[0]); i++)
        uv_close((uv_handle_t *)&p->signals[i], NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    uv_loop_close(&p->loop);
    secret_wipe(p->account_key);
    secret_wipe(p->api_key);
}

bool peer_wait(struct peer *p, const bool *flag, uint64_t ms)
{
    uint64_t end = clock_monotonic_ms() + ms;
    while (!p->interrupted && !(flag && *flag)) {
        uint64_t now = clock_monotonic_ms();
        if (now >= end)
            break;
        uv_update_time(&p->loop);
        uv_timer_start(&p->wake, on_wake, end - now, 0);
        uv_run(&p->loop, UV_RUN_ONCE);
    }
    uv_timer_stop(&p->wake);
    return flag && *flag;
}

/* ---- HTTP ---- */

struct get {
    struct peer *peer;
    struct pd_answer *answer;
    int64_t *date_s;
    uint64_t sent_ms;
    bool done;
    int status;
    struct err *e;
};

static void on_http(struct http_request *r, int status, const struct http_answer *answer,
                    const struct err *e, void *ctx)
{
    struct get *g = ctx;
    struct peer *p = g->peer;
    unsigned long long ms = clock_monotonic_ms() - g->sent_ms;
    (void)r;
    g->done = true;
    g->status = status;
    if (status) {
        *g->e = *e;
        transcript_say(p->transcript, "< %s", e->text);
        return;
    }
    transcript_json(p->transcript, answer->body, answer->size,
                    "< HTTP %d, %zu bytes, %llu ms:", answer->status, answer->size, ms);
    *g->date_s = answer->date_s;
    if (answer->status != 200)
        g->status = pd_login_http_error(answer->status, g->e);
    else
        g->status = pd_answer_parse(answer->body, answer->size, &p->keys, g->answer, g->e);
    if (g->status == 0 && !g->answer->ok)
        transcript_say(p->transcript, "  refused: %s", g->answer->text);
}

int peer_get(struct peer *p, const char *address, int request_type, char *parameters,
             struct pd_answer *ret, int64_t *ret_date_s, struct err *e)
{
    struct get g = {.peer = p, .answer = ret, .date_s = ret_date_s, .e = e};
    struct http_request *request;
    char *shown = net_redact_url(address);
    char *url = parameters ? pd_address_request(address, request_type, parameters, p->keys.api_key,
                                                clock_realtime_ms())
                           : NULL;
    memset(ret, 0, sizeof(*ret));
    *ret_date_s = 0;
    g.sent_ms = clock_monotonic_ms();
    if (shown && url)
        transcript_json(p->transcript, parameters, strlen(parameters),
                        "> GET %s RequestType %d:", shown, request_type);
    g.status = url && shown ? http_send(&request, p->net, "GET", url, NULL, NULL, 0,
                                        MAX_HTTP_ANSWER, on_http, &g)
                            : ERR_NOMEM;
    free(shown);
    free(parameters);
    secret_wipe(url);
    if (g.status)
        return err_set(e, g.status, "%s", err_text(g.status));
    /* Connect and idle timeouts are the request's own. */
    while (!g.done && !p->interrupted)
        peer_wait(p, &g.done, ANSWER_MAX_MS);
    if (!g.done) {
        http_cancel(request);
        return err_set(e, ERR_CANCELED, "interrupted");
    }
    return g.status;
}

/* ---- WebSockets ---- */

static void on_opened(struct pd_connection *c, void *ctx)
{
    struct peer_line *l = ctx;
    (void)c;
    l->opened = l->settled = true;
    l->opened_ms = clock_monotonic_ms();
    transcript_say(l->peer->transcript, "W%u open", l->number);
}

static void on_closed(struct pd_connection *c, int status, int http_status, const struct err *e,
                      void *ctx)
{
    struct peer_line *l = ctx;
    (void)c;
    l->connection = NULL;
    l->ended = l->settled = true;
    l->ended_ms = clock_monotonic_ms();
    l->why = *e;
    l->why.code = status;
    if (http_status)
        pd_login_http_error(http_status, &l->why);
    transcript_say(l->peer->transcript, "W%u ended: %s", l->number, e->text);
}

int peer_line_open(struct peer *p, const char *url, uint64_t ping_ms, struct peer_line **ret,
                   struct err *e)
{
    struct pd_connection_options options = {.idle_timeout_ms = p->answer_ms,
                                            .ping_interval_ms = ping_ms};
    struct peer_line *l = calloc(1, sizeof(*l));
    char *shown = net_redact_url(url);
    *ret = NULL;
    if (!l || !shown) {
        free(l);
        free(shown);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    struct pd_connection_handler handler = {.opened = on_opened, .closed = on_closed, .ctx = l};
    l->peer = p;
    l->number = ++p->n_lines;
    transcript_say(p->transcript, "> W%u WebSocket %s", l->number, shown);
    free(shown);
    int status = pd_connection_open(&l->connection, &p->loop, p->net, url, &options, &handler, e);
    while (status == 0 && !l->settled && !p->interrupted)
        peer_wait(p, &l->settled, ANSWER_MAX_MS);
    if (status == 0 && !l->opened) {
        if (l->ended)
            *e = l->why;
        else
            err_set(e, ERR_CANCELED, "interrupted");
        status = e->code;
    }
    if (status) {
        peer_line_close(l);
        return status;
    }
    *ret = l;
    return 0;
}

void peer_line_close(struct peer_line *l)
{
    if (!l)
        return;
    struct pd_connection *c = l->connection;
    l->connection = NULL;
    if (c) {
        transcript_say(l->peer->transcript, "> W%u close", l->number);
        pd_connection_close(c, ERR_CANCELED, "closed by us");
    }
    free(l);
}

static void on_answer(struct pd_request *request, int status, const struct frame_answer *frame,
                      const struct err *e)
{
    struct peer_request *r = (struct peer_request *)request;
    struct peer *p = r->line->peer;
    unsigned long long ms = clock_monotonic_ms() - r->sent_ms;
    r->done = true;
    r->status = status;
    if (status) {
        r->err = *e;
        transcript_say(p->transcript, "< W%u #%u no answer: %s", r->line->number, request->id,
                       e->text);
        return;
    }
    r->type = frame->type;
    transcript_json(p->transcript, frame->json, frame->json_size,
                    "< W%u #%u type %u, %s, %zu bytes, %llu ms:", r->line->number, request->id,
                    (unsigned)frame->type, frame->success ? "success" : "failure", frame->json_size,
                    ms);
    r->status = pd_answer_parse_frame(frame, &p->keys, &r->answer, &r->err);
    if (r->status == 0 && !r->answer.ok)
        transcript_say(p->transcript, "  refused: %s",
                       r->answer.text[0] ? r->answer.text : "(no reason given)");
}

static const char *method_name(uint16_t type, int32_t management)
{
    static const struct {
        uint16_t type;
        int32_t management;
        const char *name;
    } names[] = {
        {3, 2, "RegisterSession"}, {3, 4, "CreateApiSession"}, {17, 2, "CreateFolder"},
        {17, 3, "SearchFolder"},   {17, 4, "DeleteFolder"},    {17, 6, "DeletePatientOrder"},
        {23, 1, "Initialize"},     {23, 2, "CheckFileExist"},  {23, 3, "ProcessFile"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].type == type && names[i].management == management)
            return names[i].name;
    return "?";
}

struct peer_request *peer_send(struct peer_line *l, uint16_t type, int32_t management, char *json,
                               const struct pd_account *user, const void *bytes, size_t size)
{
    struct peer_request *r = json ? calloc(1, sizeof(*r)) : NULL;
    if (!r) {
        free(json);
        return NULL;
    }
    r->line = l;
    r->json = json;
    r->sent_ms = clock_monotonic_ms();
    r->request = (struct pd_request){.type = type,
                                     .management = management,
                                     .json = json,
                                     .bytes = bytes,
                                     .bytes_size = size,
                                     .user = user ? user->user_uuid : NULL,
                                     .cb = on_answer};
    r->status = l->connection ? pd_connection_send(l->connection, &r->request) : ERR_CLOSED;
    if (r->status) {
        r->done = true;
        err_set(&r->err, r->status, "%s", l->ended ? l->why.text : err_text(r->status));
        return r;
    }
    transcript_json(l->peer->transcript, json, strlen(json),
                    "> W%u #%u %d/%d %s, %zu + %zu bytes:", l->number, r->request.id, type,
                    management, method_name(type, management), strlen(json), size);
    return r;
}

int peer_receive(struct peer_request *r)
{
    struct peer *p = r->line->peer;
    if (!r->done && !peer_wait(p, &r->done, 2 * p->answer_ms) && r->line->connection) {
        struct pd_connection *c = r->line->connection;
        r->line->connection = NULL;
        r->line->ended = true;
        err_set(&r->line->why, p->interrupted ? ERR_CANCELED : ERR_TIMEOUT, "%s",
                p->interrupted ? "interrupted" : "no answer in time");
        pd_connection_close(c, r->line->why.code, r->line->why.text); /* it is done now */
    }
    return r->status;
}

void peer_request_free(struct peer_request *r)
{
    if (!r)
        return;
    pd_answer_free(&r->answer);
    free(r->json);
    free(r);
}

struct peer_request *peer_ask(struct peer_line *l, uint16_t type, int32_t management, char *json,
                              const struct pd_account *user, struct err *e)
{
    struct peer_request *r = peer_send(l, type, management, json, user, NULL, 0);
    if (!r) {
        err_set(e, ERR_NOMEM, "out of memory");
        return NULL;
    }
    if (peer_receive(r) == 0)
        return r;
    *e = r->err;
    peer_request_free(r);
    return NULL;
}
