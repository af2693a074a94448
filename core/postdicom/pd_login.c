#include "postdicom/pd_login.h"

#include "base/clock.h"
#include "net/http.h"
#include "postdicom/pd_address.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HTTP_ANSWER (256U * 1024)

/* Exactly one of http and connection is non-NULL, but within callbacks. */
struct pd_login {
    uv_loop_t *loop;
    struct net *net;
    const struct pd_options *options;
    char *account_key, *api_key;
    struct pd_keys keys;
    struct pd_connection_handler handler;
    pd_login_cb cb;
    void *ctx;
    enum pd_login_step step;
    struct http_request *http;
    struct pd_connection *connection;
    struct pd_request request; /* CreateApiSession */
    char *request_json;
    bool over; /* what still comes back is of no interest */
    char *region_url;
    struct pd_login_result result;
};

const char *pd_login_step_name(enum pd_login_step step)
{
    static const char *const names[] = {"router",    "region",  "router (WebSocket address)",
                                        "WebSocket", "session", "done"};
    return names[step];
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

static void login_free(struct pd_login *l)
{
    wipe(l->account_key);
    wipe(l->api_key);
    free(l->request_json);
    free(l->region_url);
    free(l->result.socket_url);
    free(l);
}

static void drop_connection(struct pd_login *l)
{
    struct pd_connection *c = l->connection;
    l->over = true;
    l->connection = NULL;
    if (c)
        pd_connection_close(c, ERR_CANCELED, "the session is not opened");
}

static void fail(struct pd_login *l, uint64_t retry_after_ms, struct err *e)
{
    err_wrap(e, "%s", pd_login_step_name(l->step));
    drop_connection(l);
    l->cb(e->code, NULL, retry_after_ms, e, l->ctx);
    login_free(l);
}

static void done(struct pd_login *l)
{
    l->result.connection = l->connection;
    pd_connection_set_handler(l->connection, &l->handler);
    l->cb(0, &l->result, 0, NULL, l->ctx);
    l->result.socket_url = NULL; /* the receiver's now */
    login_free(l);
}

static int open_socket(struct pd_login *l, struct err *e);

int pd_login_http_error(int s, struct err *e)
{
    if (s == 401 || s == 403)
        return err_set(e, ERR_AUTH, "HTTP status %d: access refused", s);
    if (s == 407)
        return err_set(e, ERR_AUTH, "HTTP status 407: the proxy wants a user and password");
    if (s == 429 || s == 503)
        return err_set(e, ERR_BUSY, "HTTP status %d: the server is busy", s);
    if (s >= 300 && s < 400)
        return err_set(e, ERR_PROTOCOL, "HTTP status %d: a redirect, which is not followed", s);
    return err_set(e, s >= 500 ? ERR_CONNECT : ERR_PROTOCOL, "HTTP status %d", s);
}

static void on_http(struct http_request *r, int status, const struct http_answer *answer,
                    const struct err *e, void *ctx);

static int get(struct pd_login *l, const char *address, int type, char *parameters, struct err *e)
{
    char *url = parameters ? pd_address_request(address, type, parameters, l->keys.api_key,
                                                clock_realtime_ms())
                           : NULL;
    int status =
        url ? http_send(&l->http, l->net, "GET", url, NULL, NULL, 0, MAX_HTTP_ANSWER, on_http, l)
            : ERR_NOMEM;
    free(parameters);
    wipe(url);
    if (status)
        err_set(e, status, "%s", err_text(status));
    return status;
}

static int check_address(struct pd_login *l, const char *address, struct err *e)
{
    return pd_address_check(l->options->router, address, l->options->allowed_hosts,
                            l->options->n_allowed_hosts, e);
}

/* The step that just answered, and the start of the next. */
static int advance(struct pd_login *l, const struct pd_answer *a, struct err *e)
{
    int status;
    switch (l->step) {
    case PD_LOGIN_ROUTER:
        if ((status = check_address(l, a->value, e)))
            return status;
        l->region_url = strdup(a->value);
        if (!l->region_url)
            return err_set(e, ERR_NOMEM, "no memory for an address");
        l->step = PD_LOGIN_REGION;
        return get(l, l->region_url, 7, pd_params_region(&l->keys, l->options->client_host_name),
                   e);
    case PD_LOGIN_REGION:
        if (!pd_answer_id(a->root, "ResponseMessage", l->result.session_uuid))
            return err_set(e, ERR_PROTOCOL, "the answer holds no session");
        l->step = PD_LOGIN_ROUTER_WS;
        return get(l, l->options->router, 4, pd_params_router(&l->keys, PD_ADDRESS_WEB_SOCKET), e);
    default:
        if ((status = check_address(l, a->value, e)))
            return status;
        l->result.socket_url = pd_address_socket(a->value, l->keys.api_key);
        if (!l->result.socket_url)
            return err_set(e, ERR_NOMEM, "no memory for an address");
        l->step = PD_LOGIN_WEBSOCKET;
        return open_socket(l, e);
    }
}

static void on_http(struct http_request *r, int status, const struct http_answer *answer,
                    const struct err *error, void *ctx)
{
    struct pd_login *l = ctx;
    struct pd_answer a = {0};
    struct err e = {0};
    uint64_t retry_after_ms = 0;
    (void)r;
    l->http = NULL;
    if (status) {
        e = *error;
    } else if (answer->status != 200) {
        retry_after_ms = answer->retry_after_ms;
        status = pd_login_http_error(answer->status, &e);
    } else {
        status = pd_answer_parse(answer->body, answer->size, &l->keys, &a, &e);
        if (status == 0 && !a.ok) {
            /* The third question asks what the first did: by now the keys are good. */
            int code = l->step == PD_LOGIN_ROUTER_WS ? ERR_PROTOCOL : ERR_AUTH;
            status = err_set(&e, code, "the server refused: %s",
                             a.text[0] ? a.text : "(it gives no reason)");
        } else if (status == 0 && !a.value) {
            status = err_set(&e, ERR_PROTOCOL, "the answer's ResponseMessage is not text");
        }
        if (status == 0)
            status = advance(l, &a, &e);
    }
    pd_answer_free(&a);
    if (status)
        fail(l, retry_after_ms, &e);
}

static void on_session(struct pd_request *r, int status, const struct frame_answer *frame,
                       const struct err *error)
{
    struct pd_login *l = (struct pd_login *)((char *)r - offsetof(struct pd_login, request));
    struct pd_answer a = {0};
    struct err e = {0};
    if (l->over)
        return;
    if (status) {
        e = *error;
        fail(l, 0, &e);
        return;
    }
    status = pd_answer_parse_frame(frame, &l->keys, &a, &e);
    if (status == 0 && !a.ok)
        status = err_set(&e, ERR_AUTH, "the server refused: %s",
                         a.text[0] ? a.text : "(it gives no reason)");
    if (status == 0)
        status = pd_answer_account(&a, l->options->user, l->options->institution,
                                   &l->result.account, &e);
    pd_answer_free(&a);
    if (status) {
        fail(l, 0, &e);
        return;
    }
    l->step = PD_LOGIN_DONE;
    done(l);
}

static void on_opened(struct pd_connection *c, void *ctx)
{
    struct pd_login *l = ctx;
    struct err e;
    l->step = PD_LOGIN_SESSION;
    l->request_json = pd_params_session(&l->keys, l->result.session_uuid);
    l->request.type = FRAME_SESSION;
    l->request.management = FRAME_CREATE_API_SESSION;
    l->request.json = l->request_json;
    l->request.cb = on_session;
    int status = l->request_json ? pd_connection_send(c, &l->request) : ERR_NOMEM;
    if (status) {
        err_set(&e, status, "%s", err_text(status));
        fail(l, 0, &e);
    }
}

static void on_closed(struct pd_connection *c, int status, int http_status, const struct err *error,
                      void *ctx)
{
    struct pd_login *l = ctx;
    (void)c;
    (void)status;
    l->connection = NULL;
    if (l->request.cb)
        return; /* on_session comes next */
    struct err e = *error;
    if (http_status == 401 || http_status == 403)
        err_set(&e, ERR_AUTH, "HTTP status %d: access refused", http_status);
    fail(l, 0, &e);
}

static int open_socket(struct pd_login *l, struct err *e)
{
    struct pd_connection_options o = {.idle_timeout_ms = l->options->idle_timeout_ms,
                                      .ping_interval_ms = l->options->ping_interval_ms};
    struct pd_connection_handler h = {.opened = on_opened, .closed = on_closed, .ctx = l};
    return pd_connection_open(&l->connection, l->loop, l->net, l->result.socket_url, &o, &h, e);
}

int pd_login_start(struct pd_login **ret, uv_loop_t *loop, struct net *net,
                   const struct pd_options *options, const struct pd_keys *keys,
                   const struct pd_connection_handler *handler, pd_login_cb cb, void *ctx,
                   struct err *e)
{
    struct pd_login *l = calloc(1, sizeof(*l));
    *ret = NULL;
    if (!l)
        return err_set(e, ERR_NOMEM, "no memory to open a session");
    l->loop = loop;
    l->net = net;
    l->options = options;
    l->handler = *handler;
    l->cb = cb;
    l->ctx = ctx;
    l->account_key = strdup(keys->account_key);
    l->api_key = strdup(keys->api_key);
    l->keys = (struct pd_keys){l->account_key, l->api_key};
    int status =
        l->account_key && l->api_key
            ? get(l, options->router, 4, pd_params_router(&l->keys, PD_ADDRESS_WEB_SERVICE), e)
            : err_set(e, ERR_NOMEM, "no memory to open a session");
    if (status) {
        login_free(l);
        return status;
    }
    *ret = l;
    return 0;
}

void pd_login_cancel(struct pd_login *l)
{
    if (l->http)
        http_cancel(l->http);
    drop_connection(l);
    login_free(l);
}
