#include "control.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#define CONNECTIONS_MAX      32
#define CONNECTION_TIMEOUT_S 60

struct control {
    struct MHD_Daemon *http;
    struct control_handler handler;
    char *path;
    uv_poll_t poll;
    uv_timer_t timer;
    struct control_request *suspended;
    unsigned n_requests, n_handles;
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

struct control_request {
    struct control *control;
    struct MHD_Connection *connection; /* NULL: the peer is gone */
    char *method, *path;
    struct MHD_Response *response;
    unsigned status;
    bool answered, suspended;
    bool owed; /* the handler has yet to answer: it holds the request */
    struct control_request *prev, *next;
};

static void maybe_closed(struct control *c)
{
    if (!c->closing || c->n_requests > 0 || c->n_handles > 0)
        return;
    void (*closed)(void *) = c->closed;
    void *ctx = c->closed_ctx;
    free(c->path);
    free(c);
    closed(ctx);
}

static void free_request(struct control_request *r)
{
    struct control *c = r->control;
    if (r->response)
        MHD_destroy_response(r->response);
    free(r->method);
    free(r->path);
    free(r);
    c->n_requests--;
    maybe_closed(c);
}

static void run(struct control *c);

static void timed_out(uv_timer_t *timer)
{
    run(timer->data);
}

static void readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    run(poll->data);
}

static void run(struct control *c)
{
    MHD_UNSIGNED_LONG_LONG wait;
    if (c->closing)
        return;
    MHD_run(c->http);
    if (MHD_get_timeout(c->http, &wait) == MHD_YES)
        uv_timer_start(&c->timer, timed_out, wait, 0);
    else
        uv_timer_stop(&c->timer);
}

static enum MHD_Result access_handler(void *cls, struct MHD_Connection *connection, const char *url,
                                      const char *method, const char *version, const char *upload,
                                      size_t *upload_size, void **state)
{
    struct control *c = cls;
    struct control_request *r = *state;
    (void)version;
    (void)upload;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return MHD_NO;
        r->control = c;
        r->connection = connection;
        r->method = strdup(method);
        r->path = strdup(url);
        c->n_requests++;
        *state = r;
        if (!r->method || !r->path)
            return MHD_NO;
        return MHD_YES;
    }
    if (*upload_size > 0) { /* arguments travel in the query: a body is read and ignored */
        *upload_size = 0;
        return MHD_YES;
    }
    if (!r->answered) {
        r->owed = true;
        c->handler.request(r, c->handler.ctx);
        if (!r->answered) {
            r->suspended = true;
            DL_APPEND(c->suspended, r);
            MHD_suspend_connection(connection);
            return MHD_YES;
        }
    }
    return r->response ? MHD_queue_response(connection, r->status, r->response) : MHD_NO;
}

static void completed(void *cls, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode code)
{
    struct control_request *r = *state;
    (void)cls;
    (void)connection;
    (void)code;
    *state = NULL;
    if (!r)
        return;
    r->connection = NULL;
    if (!r->owed)
        free_request(r); /* else control_answer does */
}

const char *control_method(const struct control_request *r)
{
    return r->method;
}

const char *control_path(const struct control_request *r)
{
    return r->path;
}

const char *control_argument(const struct control_request *r, const char *name)
{
    return r->connection ? MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name)
                         : NULL;
}

static void resume(struct control_request *r)
{
    r->suspended = false;
    DL_DELETE(r->control->suspended, r);
    MHD_resume_connection(r->connection);
}

void control_answer(struct control_request *r, unsigned status, const char *body)
{
    r->answered = true;
    r->owed = false;
    r->status = status;
    if (!r->connection) {
        free_request(r);
        return;
    }
    r->response = MHD_create_response_from_buffer(strlen(body), (void *)(uintptr_t)body,
                                                  MHD_RESPMEM_MUST_COPY);
    if (r->response)
        MHD_add_response_header(r->response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    if (r->suspended) {
        struct control *c = r->control;
        resume(r);
        run(c);
    }
}

static int bind_socket(const char *path, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return err_set(e, ERR_CONFIG, "control: the socket's path is longer than %zu bytes",
                       sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set_errno(e, errno, "control: no socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        close(fd);
        return err_set(e, ERR_LOCKED, "control: %s: another dcmferryd listens there", path);
    }
    if (errno == ECONNREFUSED)
        unlink(path);
    mode_t mask = umask(0117);
    int rc = bind(fd, (struct sockaddr *)&address, sizeof address);
    int bind_errno = errno;
    umask(mask);
    if (rc != 0 || listen(fd, CONNECTIONS_MAX) != 0) {
        rc = err_set_errno(e, rc != 0 ? bind_errno : errno, "control: %s: cannot listen", path);
        close(fd);
        return rc;
    }
    return fd;
}

int control_open(struct control **ret, uv_loop_t *loop, const char *path,
                 const struct control_handler *handler, struct err *e)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    c->handler = *handler;
    int fd = bind_socket(path, e);
    if (fd < 0) {
        free(c->path);
        free(c);
        return fd;
    }
    c->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                               access_handler, c, MHD_OPTION_LISTEN_SOCKET, fd,
                               MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                               MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_TIMEOUT_S,
                               MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        c->http ? MHD_get_daemon_info(c->http, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info || uv_poll_init(loop, &c->poll, info->epoll_fd) != 0) {
        if (c->http)
            MHD_stop_daemon(c->http);
        else
            close(fd);
        unlink(path);
        free(c->path);
        free(c);
        return err_set(e, ERR_IO, "control: the HTTP server does not start");
    }
    c->poll.data = c;
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    c->n_handles = 2;
    uv_poll_start(&c->poll, UV_READABLE, readable);
    *ret = c;
    return 0;
}

static void handle_closed(uv_handle_t *handle)
{
    struct control *c = handle->data;
    c->n_handles--;
    maybe_closed(c);
}

static void poll_closed(uv_handle_t *handle)
{
    struct control *c = handle->data;
    /* libuv has let go of the epoll descriptor: now the server may close it. It may have no
     * suspended connections then. */
    while (c->suspended)
        resume(c->suspended);
    MHD_stop_daemon(c->http);
    handle_closed(handle);
}

void control_close(struct control *c, void (*cb)(void *ctx), void *ctx)
{
    c->closing = true;
    c->closed = cb;
    c->closed_ctx = ctx;
    unlink(c->path);
    uv_close((uv_handle_t *)&c->timer, handle_closed);
    uv_close((uv_handle_t *)&c->poll, poll_closed);
}
