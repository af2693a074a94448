#include "client.h"

#include "config/config.h"
#include "net/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/var/lib/dcmferry/control.sock" /* of the default state folder */
#define MAX_ANSWER     (32 * 1024 * 1024)

struct call {
    int status, http_status;
    cJSON *json;
    char *text;
    struct err *e;
};

static void answered(struct http_request *r, int status, const struct http_answer *answer,
                     const struct err *e, void *ctx)
{
    struct call *c = ctx;
    (void)r;
    c->status = status;
    if (status != 0) {
        if (c->e)
            *c->e = *e;
        return;
    }
    c->http_status = answer->status;
    c->json = cJSON_ParseWithLength(answer->body, answer->size);
    c->text = strndup((const char *)answer->body, answer->size);
    if (!c->text)
        c->status = err_set(c->e, ERR_NOMEM, "out of memory");
    else if (!c->json)
        c->status = err_set(c->e, ERR_PROTOCOL, "the daemon's answer is not JSON");
}

static void closed(void *ctx)
{
    (void)ctx;
}

/* Whether someone listens there: what curl would say names a host and a port that there are not. */
static int knock(const char *path, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fault = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot make a socket");
    if (strlen(path) >= sizeof address.sun_path)
        fault = ENAMETOOLONG;
    else {
        memcpy(address.sun_path, path, strlen(path));
        fault = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
    }
    close(fd);
    switch (fault) {
    case 0:
    case EAGAIN: /* many are asking */
        return 0;
    case EACCES:
    case EPERM:
        return err_set(e, ERR_ACCESS,
                       "%s: not allowed: run as root or as a member of the service's group", path);
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED: /* left behind by one that was killed */
        return err_set(
            e, ERR_CONNECT,
            "%s: no daemon listens there: is dcmferryd running? (--socket names another one)",
            path);
    default:
        return err_set_errno(e, fault, "%s: cannot be reached", path);
    }
}

int client_call(const char *socket_path, const char *method, const char *path, uint64_t idle_ms,
                cJSON **ret, char **ret_text, struct err *e)
{
    struct net_options options = {.proxy = "",
                                  .unix_socket = socket_path,
                                  .connect_timeout_ms = 5000,
                                  .idle_timeout_ms = idle_ms};
    struct call call = {.e = e};
    struct net *net;
    uv_loop_t loop;
    char url[2048];
    int n = snprintf(url, sizeof url, "http://localhost%s", path);
    if (n < 0 || (size_t)n >= sizeof url)
        return err_set(e, ERR_TOO_LARGE, "the request is too long");
    int rc = knock(socket_path, e);
    if (rc != 0)
        return rc;
    if (uv_loop_init(&loop) != 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = net_open(&net, &loop, &options, e);
    if (rc == 0) {
        rc = http_send(NULL, net, method, url, NULL, NULL, 0, MAX_ANSWER, answered, &call);
        if (rc == 0)
            uv_run(&loop, UV_RUN_DEFAULT);
        net_close(net, closed, NULL);
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&loop);
    if (rc == 0)
        rc = call.status;
    if (rc == 0 && call.http_status >= 400) {
        const cJSON *text = cJSON_GetObjectItem(call.json, "error");
        rc = err_set(e, call.http_status == 404 ? ERR_NOT_FOUND : ERR_REFUSED, "%s",
                     cJSON_IsString(text) ? text->valuestring : "the daemon refused");
    }
    if (rc == 0)
        *ret = call.json;
    else
        cJSON_Delete(call.json);
    if (rc == 0 && ret_text)
        *ret_text = call.text;
    else
        free(call.text);
    return rc;
}

char *client_socket(const char *option, const char *config_path)
{
    if (option)
        return strdup(option);
    char *path = config_control_socket(config_path);
    if (path)
        return path;
    fprintf(stderr,
            "dcmferry: %s does not tell the control socket (see: dcmferry check): trying %s "
            "(--socket names another one)\n",
            config_path, DEFAULT_SOCKET);
    return strdup(DEFAULT_SOCKET);
}
