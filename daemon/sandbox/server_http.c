#include "sandbox/server_http.h"

#include "base/buf.h"
#include "base/log.h"
#include "sandbox/dispatch.h"
#include "sandbox/server_ws.h"
#include "sandbox/sessions.h"
#include "sandbox/tls.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CONTROL 65536

struct server_http {
    struct sandbox *sandbox;
    struct MHD_Daemon *daemon;
    int listen_fd;
    struct tls *tls; /* NULL: plain */
    uv_poll_t poll;
    uv_poll_t accept; /* with TLS: then libmicrohttpd does not listen itself */
    uv_timer_t timer;
    unsigned handles;
    bool closing;
    char url[300];
    char authority[256]; /* host:port as listened on */
};

/* What libmicrohttpd keeps for a request. */
struct exchange {
    struct buf body;
};

static void run(struct server_http *h);

/* ---- Answers ---- */

static enum MHD_Result respond(struct MHD_Connection *c, unsigned status, const char *type,
                               const char *text)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    /* The vendor's client runs in a browser, on another origin. */
    MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    MHD_add_response_header(response, "Cache-Control", "no-store");
    result = MHD_queue_response(c, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result respond_json(struct MHD_Connection *c, cJSON *json)
{
    char *text = cJSON_PrintUnformatted(json);
    enum MHD_Result result = text ? respond(c, MHD_HTTP_OK, "application/json", text) : MHD_NO;

    free(text);
    cJSON_Delete(json);
    return result;
}

static enum MHD_Result answer(struct MHD_Connection *c, enum response_code code,
                              const char *message)
{
    cJSON *json = cJSON_CreateObject();

    cJSON_AddNumberToObject(json, "ResponseCode", code);
    cJSON_AddStringToObject(json, "ResponseMessage", message);
    if (code != RESPONSE_OK)
        log_info("HTTP request refused", LOG_INT("code", code), LOG_STR("reason", message));
    return respond_json(c, json);
}

/* ---- Router and region ---- */

static bool is_authority(const char *s)
{
    if (*s == '\0' || strlen(s) > 255)
        return false;
    for (; *s; s++) {
        if (!isalnum((unsigned char)*s) && !strchr(".-:[]_", *s))
            return false;
    }
    return true;
}

static const char *text(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

static enum MHD_Result answer_router(struct server_http *h, struct MHD_Connection *c,
                                     const cJSON *p)
{
    const struct sandbox_options *o = &h->sandbox->options;
    const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    const char *type = text(p, "AddressType");
    const char *secure = o->tls_cert ? "s" : "";
    char address[300];

    if (strcasecmp(text(p, "RouterKey"), o->account_key) != 0)
        return answer(c, RESPONSE_AUTH, "The account key is not valid.");
    if (!host || !is_authority(host))
        host = h->authority;
    if (strcmp(type, "1") == 0)
        snprintf(address, sizeof address, "http%s://%s/region/", secure, host);
    else if (strcmp(type, "2") == 0)
        snprintf(address, sizeof address, "ws%s://%s/socket", secure, host);
    else
        return answer(c, RESPONSE_INVALID, "AddressType is neither 1 nor 2.");
    return answer(c, RESPONSE_OK, address);
}

static enum MHD_Result answer_region(struct server_http *h, struct MHD_Connection *c,
                                     const cJSON *p)
{
    struct sandbox *sb = h->sandbox;
    char uuid[UUID_TEXT_SIZE];

    if (strcasecmp(text(p, "AccountKey"), sb->options.account_key) != 0 ||
        strcasecmp(text(p, "ApiKey"), sb->options.api_key) != 0 ||
        faults_strike(&sb->faults, FAULT_REFUSE_AUTH, FAULT_ON_ANY, NULL))
        return answer(c, RESPONSE_AUTH, "The account key or the API key is not valid.");
    if (strcmp(text(p, "TransactionType"), "3") != 0)
        return answer(c, RESPONSE_INVALID, "TransactionType is not 3.");
    if (sessions_create(sb->sessions, uuid) != 0)
        return answer(c, RESPONSE_FAILED, "out of memory");
    return answer(c, RESPONSE_OK, uuid);
}

static bool client_id_valid(struct server_http *h, struct MHD_Connection *c)
{
    const char *id = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "ClientUniqueId");

    return id && strcasecmp(id, h->sandbox->options.api_key) == 0;
}

static enum MHD_Result answer_get(struct server_http *h, struct MHD_Connection *c)
{
    const char *type = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "RequestType");
    const char *parameters = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "Parameters");
    enum MHD_Result result;
    uint32_t status;
    cJSON *p;

    if (faults_strike(&h->sandbox->faults, FAULT_HTTP_STATUS, FAULT_ON_ANY, &status))
        return respond(c, status, "text/plain", "An error on purpose.\n");
    if (!type)
        return respond(c, MHD_HTTP_NOT_FOUND, "text/plain", "dcmferry-sandbox: no RequestType.\n");
    if (!client_id_valid(h, c))
        return answer(c, RESPONSE_AUTH, "ClientUniqueId is not valid.");
    p = parameters ? cJSON_Parse(parameters) : NULL;
    if (!p)
        return answer(c, RESPONSE_INVALID, "Parameters is no JSON.");
    if (strcmp(type, "4") == 0)
        result = answer_router(h, c, p);
    else if (strcmp(type, "7") == 0)
        result = answer_region(h, c, p);
    else
        result = answer(c, RESPONSE_INVALID, "RequestType is neither 4 nor 7.");
    cJSON_Delete(p);
    return result;
}

/* ---- Upgrade ---- */

static void on_upgrade(void *ctx, struct MHD_Connection *c, void *con_cls, const char *extra,
                       size_t extra_size, MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
    struct server_http *h = ctx;

    (void)c;
    (void)con_cls;
    conn_open(h->sandbox, fd, urh, extra, extra_size);
}

static enum MHD_Result answer_upgrade(struct server_http *h, struct MHD_Connection *c)
{
    const char *key = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Sec-WebSocket-Key");
    const char *version = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Sec-WebSocket-Version");
    struct MHD_Response *response;
    enum MHD_Result result;
    uint32_t status;
    char accept[29];

    if (faults_strike(&h->sandbox->faults, FAULT_REFUSE_UPGRADE, FAULT_ON_ANY, &status))
        return respond(c, status, "text/plain", "An error on purpose.\n");
    if (!key || !version || strcmp(version, "13") != 0)
        return respond(c, MHD_HTTP_BAD_REQUEST, "text/plain", "This is no WebSocket handshake.\n");
    if (!client_id_valid(h, c))
        return respond(c, MHD_HTTP_FORBIDDEN, "text/plain", "ClientUniqueId is not valid.\n");
    ws_accept_key(key, accept);
    response = MHD_create_response_for_upgrade(on_upgrade, h);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_UPGRADE, "websocket");
    MHD_add_response_header(response, "Sec-WebSocket-Accept", accept);
    result = MHD_queue_response(c, MHD_HTTP_SWITCHING_PROTOCOLS, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- Control ---- */

static bool is_loopback(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;

    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;

        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;

        return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && in6->sin6_addr.s6_addr[12] == 127);
    }
    return false;
}

/* A page in a browser must not be able to control it: browsers say where they come from. */
static enum MHD_Result answer_control(struct server_http *h, struct MHD_Connection *c,
                                      const char *method, struct buf *body)
{
    struct err e;
    cJSON *list;
    int rc;

    if (!is_loopback(c) || MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin"))
        return respond(c, MHD_HTTP_FORBIDDEN, "text/plain", "Only from this machine.\n");
    if (strcmp(method, "POST") == 0) {
        list = cJSON_Parse(buf_cstr(body));
        rc = faults_replace(&h->sandbox->faults, list, &e);
        cJSON_Delete(list);
        if (rc)
            return respond(c, MHD_HTTP_BAD_REQUEST, "text/plain", e.text);
        log_notice("faults were changed");
    }
    return respond_json(c, faults_json(&h->sandbox->faults));
}

/* ---- libmicrohttpd ---- */

static bool wants_upgrade(struct MHD_Connection *c)
{
    const char *upgrade = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_UPGRADE);

    return upgrade && strcasecmp(upgrade, "websocket") == 0;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **con_cls)
{
    struct server_http *h = ctx;
    struct exchange *x = *con_cls;
    bool get = strcmp(method, "GET") == 0;
    bool control = strcmp(url, "/_sandbox/faults") == 0;

    (void)version;
    if (!x) {
        *con_cls = calloc(1, sizeof *x);
        return *con_cls ? MHD_YES : MHD_NO;
    }
    if (*size != 0) {
        if (x->body.size + *size > MAX_CONTROL)
            return MHD_NO;
        buf_put(&x->body, data, *size);
        *size = 0;
        return MHD_YES;
    }
    if (control && (get || strcmp(method, "POST") == 0))
        return answer_control(h, c, method, &x->body);
    if (!get)
        return respond(c, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "Only GET.\n");
    if (wants_upgrade(c))
        return answer_upgrade(h, c);
    return answer_get(h, c);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *con_cls;

    (void)ctx;
    (void)c;
    (void)code;
    if (x)
        buf_free(&x->body);
    free(x);
    *con_cls = NULL;
}

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    run(poll->data);
}

static void run(struct server_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (h->closing)
        return;
    MHD_run(h->daemon);
    if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
        uv_timer_start(&h->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&h->timer);
}

void server_http_give_back(struct server_http *h, struct MHD_UpgradeResponseHandle *urh)
{
    MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
    /* It closes the socket the next time it runs, and does not ask for that by itself. */
    if (!h->closing)
        uv_timer_start(&h->timer, on_timer, 0, 0);
}

static void on_accept(uv_poll_t *poll, int status, int events)
{
    struct server_http *h = poll->data;
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd, plain;

    (void)status;
    (void)events;
    fd = accept4(h->listen_fd, (struct sockaddr *)&address, &size, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    plain = tls_wrap(h->tls, fd);
    if (plain < 0)
        return;
    /* It makes the socket non-blocking, and closes it if it refuses. */
    (void)MHD_add_connection(h->daemon, plain, (struct sockaddr *)&address, size);
    run(h);
}

/* ---- Opening ---- */

static int listen_on(struct server_http *h, struct err *e)
{
    const struct sandbox_options *o = &h->sandbox->options;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char port[8], host[NI_MAXHOST];
    int one = 1, rc;

    snprintf(port, sizeof port, "%u", (unsigned)o->port);
    rc = getaddrinfo(o->listen, port, &hints, &addresses);
    if (rc != 0)
        return err_set(e, ERR_INVALID, "--listen %s: %s", o->listen, gai_strerror(rc));
    h->listen_fd = socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->listen_fd >= 0)
        setsockopt(h->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (h->listen_fd < 0 || bind(h->listen_fd, addresses->ai_addr, addresses->ai_addrlen) < 0 ||
        listen(h->listen_fd, 128) < 0 ||
        getsockname(h->listen_fd, (struct sockaddr *)&bound, &size) < 0) {
        rc = err_set_errno(e, errno, "cannot listen on %s port %s", o->listen, port);
        freeaddrinfo(addresses);
        return rc;
    }
    freeaddrinfo(addresses);
    if (getnameinfo((struct sockaddr *)&bound, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return err_set(e, ERR_IO, "cannot tell the address that is listened on");
    snprintf(h->authority, sizeof h->authority, strchr(host, ':') ? "[%.240s]:%s" : "%.240s:%s",
             host, port);
    snprintf(h->url, sizeof h->url, "http%s://%s/", o->tls_cert ? "s" : "", h->authority);
    return 0;
}

static int start_daemon(struct server_http *h, struct err *e)
{
    const struct sandbox_options *o = &h->sandbox->options;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_UPGRADE;
    struct MHD_OptionItem options[2] = {{MHD_OPTION_LISTEN_SOCKET, h->listen_fd, NULL},
                                        {MHD_OPTION_END, 0, NULL}};
    int rc;

    if (o->tls_cert) {
        rc = tls_open(&h->tls, o->tls_cert, o->tls_key, o->tls_client_ca, e);
        if (rc)
            return rc;
        flags |= MHD_USE_NO_LISTEN_SOCKET;
        options[0].option = MHD_OPTION_END;
    }
    h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_NOTIFY_COMPLETED,
                                 on_completed, h, MHD_OPTION_CONNECTION_LIMIT, 4096u,
                                 MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    return h->daemon ? 0 : err_set(e, ERR_IO, "cannot start the HTTP server");
}

/* With TLS the listening socket is ours, otherwise libmicrohttpd's once it runs. */
static void free_http(struct server_http *h)
{
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    if (h->listen_fd >= 0 && (h->tls || !h->daemon))
        close(h->listen_fd);
    tls_close(h->tls);
    free(h);
}

int server_http_open(struct server_http **ret, struct sandbox *sb, struct err *e)
{
    struct server_http *h = calloc(1, sizeof *h);
    const union MHD_DaemonInfo *info;
    int rc;

    if (!h)
        return err_set(e, ERR_NOMEM, "out of memory");
    h->sandbox = sb;
    h->listen_fd = -1;
    rc = listen_on(h, e);
    if (rc == 0)
        rc = start_daemon(h, e);
    if (rc) {
        free_http(h);
        return rc;
    }
    info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || uv_poll_init(sb->loop, &h->poll, info->epoll_fd) != 0) {
        free_http(h);
        return err_set(e, ERR_IO, "cannot poll the HTTP server");
    }
    uv_timer_init(sb->loop, &h->timer);
    h->poll.data = h->timer.data = h->accept.data = h;
    h->handles = 2;
    uv_poll_start(&h->poll, UV_READABLE, on_poll);
    if (h->tls && uv_poll_init(sb->loop, &h->accept, h->listen_fd) == 0) {
        h->handles = 3;
        uv_poll_start(&h->accept, UV_READABLE, on_accept);
    }
    *ret = h;
    run(h);
    return 0;
}

const char *server_http_url(const struct server_http *h)
{
    return h->url;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct server_http *h = handle->data;

    if (--h->handles == 0)
        free_http(h);
}

void server_http_close(struct server_http *h)
{
    if (!h)
        return;
    h->closing = true;
    if (h->handles == 3)
        uv_close((uv_handle_t *)&h->accept, on_handle_closed);
    uv_close((uv_handle_t *)&h->poll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
}
