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

cJSON *ask_both(const struct command_options *o, const char *method, struct buf *query,
                char **ret_text, int *ret_code)
{
    struct err e = {0};
    cJSON *json = NULL;
    char *socket_path = client_socket(o->socket_path, o->config_path);
    *ret_code = 1;
    *ret_text = NULL;
    if (!socket_path || buf_failed(query))
        err_set(&e, ERR_NOMEM, "out of memory");
    else
        client_call(socket_path, method, buf_cstr(query), IDLE_MS, &json, ret_text, &e);
    free(socket_path);
    if (!json) {
        fprintf(stderr, "dcmferry: %s\n", e.text);
        return NULL;
    }
    *ret_code = 0;
    return json;
}

cJSON *ask(const struct command_options *o, const char *method, struct buf *query, int *ret_code)
{
    char *text;
    cJSON *json = ask_both(o, method, query, &text, ret_code);
    if (json && o->json) {
        puts(text);
        cJSON_Delete(json);
        json = NULL;
    }
    free(text);
    return json;
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
