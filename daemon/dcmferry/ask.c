#include "ask.h"

#include "client.h"
#include "net/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_MS 120000

void ask_argument(struct buf *query, const char *name, const char *value)
{
    char *encoded = net_url_encode(value);
    bool first = !memchr(query->data, '?', query->size);
    buf_printf(query, "%c%s=%s", first ? '?' : '&', name, encoded ? encoded : "");
    if (!encoded)
        query->failed = true;
    free(encoded);
}

cJSON *ask_first(const struct command_options *o, const char *method, struct buf *query,
                 int *ret_code)
{
    struct err e = {0};
    cJSON *json = NULL;
    char *socket_path = client_socket(o->socket_path, o->config_path);
    *ret_code = 1;
    if (!socket_path || buf_failed(query))
        err_set(&e, ERR_NOMEM, "out of memory");
    else
        client_call(socket_path, method, buf_cstr(query), IDLE_MS, &json, &e);
    free(socket_path);
    if (!json) {
        fprintf(stderr, "dcmferry: %s\n", e.text);
        return NULL;
    }
    *ret_code = 0;
    return json;
}

cJSON *ask_raw(const struct command_options *o, cJSON *json)
{
    if (!o->json || !json)
        return json;
    char *text = cJSON_Print(json);
    if (text)
        puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
    return NULL;
}

cJSON *ask(const struct command_options *o, const char *method, struct buf *query, int *ret_code)
{
    return ask_raw(o, ask_first(o, method, query, ret_code));
}

const char *ask_s(double n)
{
    return n == 1 ? "" : "s"; /* whole numbers */
}

const char *ask_text(const cJSON *object, const char *member)
{
    const cJSON *x = cJSON_GetObjectItem(object, member);
    return cJSON_IsString(x) ? x->valuestring : "";
}

double ask_number(const cJSON *object, const char *member)
{
    const cJSON *x = cJSON_GetObjectItem(object, member);
    return cJSON_IsNumber(x) ? x->valuedouble : 0;
}
