#include "client.h"

#include "config/config.h"
#include "net/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/var/lib/dcmferry/control.sock" /* of the default state folder */
#define MAX_ANSWER     (32 * 1024 * 1024)

struct call {
    int status, http_status;
    cJSON *json;
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
    if (!c->json)
        c->status = err_set(c->e, ERR_PROTOCOL, "the daemon's answer is not JSON");
}

static void closed(void *ctx)
{
    (void)ctx;
}

int client_call(const char *socket_path, const char *method, const char *path, uint64_t idle_ms,
                cJSON **ret, struct err *e)
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
    if (access(socket_path, F_OK) != 0)
        return err_set(
            e, ERR_CONNECT,
            "%s: no daemon listens there: is dcmferryd running? (--socket names another one)",
            socket_path);
    if (access(socket_path, W_OK) != 0)
        return err_set(e, ERR_ACCESS,
                       "%s: not allowed: run as root or as a member of the service's group",
                       socket_path);
    if (uv_loop_init(&loop) != 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = net_open(&net, &loop, &options, e);
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
        cJSON_Delete(call.json);
        return rc;
    }
    if (rc == 0)
        *ret = call.json;
    else
        cJSON_Delete(call.json);
    return rc;
}

char *client_socket(const char *option, const char *config_path)
{
    struct config *c = NULL;
    struct config_faults faults = {0};
    char *path = NULL;
    if (option)
        return strdup(option);
    if (config_load(config_path, false, &c, &faults) == 0) {
        path = strdup(c->control_socket);
        config_free(c);
    } else {
        path = strdup(DEFAULT_SOCKET);
        fprintf(stderr,
                "dcmferry: %s has %zu faults (see: dcmferry check), so it does not tell the "
                "control socket: trying %s "
                "(--socket names another one)\n",
                config_path, faults.n, DEFAULT_SOCKET);
    }
    config_faults_free(&faults);
    return path;
}
