#include "postdicom/pd_answer.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void blank_out(char *text, const char *secret)
{
    size_t n = secret ? strlen(secret) : 0;
    if (n < 4)
        return;
    for (char *p = text; (p = strcasestr(p, secret)) != NULL; p += n)
        memset(p, '*', n);
}

void pd_answer_clean(const char *text, size_t n, const struct pd_keys *keys, char *out, size_t size)
{
    char *copy = malloc(n + 1);
    out[0] = '\0';
    if (!copy)
        return;
    for (size_t i = 0; i < n; i++)
        copy[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
    copy[n] = '\0';
    if (text_utf8_valid(copy, n)) {
        if (keys) {
            blank_out(copy, keys->account_key);
            blank_out(copy, keys->api_key);
        }
        text_copy(out, size, copy);
    }
    free(copy);
}

const char *pd_answer_string(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

bool pd_answer_id(const cJSON *object, const char *name, char out[PD_UUID_SIZE])
{
    const char *s = pd_answer_string(object, name);
    out[0] = '\0';
    if (!s || !*s || strlen(s) >= PD_UUID_SIZE)
        return false;
    for (const char *c = s; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return false;
    memcpy(out, s, strlen(s) + 1);
    return true;
}

bool pd_answer_order(const struct pd_answer *a, char out[PD_UUID_SIZE])
{
    const cJSON *order = cJSON_GetObjectItemCaseSensitive(a->result, "PatientOrder");
    return pd_answer_id(order, "PatientOrderUuid", out);
}

static bool is_one(const cJSON *code)
{
    return (cJSON_IsNumber(code) && code->valuedouble == 1) ||
           (cJSON_IsString(code) && strcmp(code->valuestring, "1") == 0);
}

int pd_answer_parse(const char *json, size_t size, const struct pd_keys *keys,
                    struct pd_answer *ret, struct err *e)
{
    memset(ret, 0, sizeof(*ret));
    while (size > 0 && json[size - 1] == '\0')
        size--;
    ret->root = cJSON_ParseWithLength(json, size);
    if (!cJSON_IsObject(ret->root))
        return err_set(e, ERR_PROTOCOL, "the answer (%zu bytes) is not a JSON object", size);
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(ret->root, "ResponseCode");
    cJSON *message = cJSON_GetObjectItemCaseSensitive(ret->root, "ResponseMessage");
    ret->ok = !code || is_one(code);
    ret->result = cJSON_IsObject(message) ? message : ret->root;
    if (cJSON_IsString(message)) {
        ret->value = message->valuestring;
        /* JSON within text: kept in the tree, so that it is freed with it. */
        cJSON *inner = *ret->value == '{' ? cJSON_Parse(ret->value) : NULL;
        if (cJSON_IsObject(inner) && cJSON_AddItemToObject(ret->root, " inner", inner))
            ret->result = inner;
        else
            cJSON_Delete(inner);
    }
    if (cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(ret->result, "Success")))
        ret->ok = false;
    if (!ret->ok) {
        const char *text = pd_answer_string(ret->result, "Message");
        if (!text)
            text = pd_answer_string(ret->root, "Message");
        if (!text)
            text = ret->value;
        if (text)
            pd_answer_clean(text, strlen(text), keys, ret->text, sizeof(ret->text));
    }
    return 0;
}

int pd_answer_parse_frame(const struct frame_answer *frame, const struct pd_keys *keys,
                          struct pd_answer *ret, struct err *e)
{
    int status = 0;
    if (frame->json_size > 0) {
        status = pd_answer_parse(frame->json, frame->json_size, keys, ret, e);
    } else {
        memset(ret, 0, sizeof(*ret));
        if (frame->success)
            status = err_set(e, ERR_PROTOCOL, "the answer holds no result");
    }
    if (!frame->success) { /* whatever the JSON says */
        ret->ok = false;
        status = 0;
        if (!ret->text[0])
            pd_answer_clean(frame->message, frame->message_size, keys, ret->text,
                            sizeof(ret->text));
    }
    return status;
}

void pd_answer_free(struct pd_answer *a)
{
    cJSON_Delete(a->root);
    memset(a, 0, sizeof(*a));
}

static bool named(const cJSON *item, const char *wanted, const char *uuid, const char *name,
                  const char *other)
{
    const char *id = pd_answer_string(item, uuid), *n = pd_answer_string(item, name);
    const char *o = other ? pd_answer_string(item, other) : NULL;
    return (id && strcasecmp(id, wanted) == 0) || (n && strcmp(n, wanted) == 0) ||
           (o && strcmp(o, wanted) == 0);
}

/* The one item of the list that is wanted; NULL with the number of those that fit. */
static const cJSON *pick(const cJSON *list, const char *wanted, const char *uuid, const char *name,
                         const char *other, size_t *ret_fit)
{
    const cJSON *item, *found = NULL;
    *ret_fit = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (!wanted || named(item, wanted, uuid, name, other)) {
            found = item;
            (*ret_fit)++;
        }
    }
    return *ret_fit == 1 ? found : NULL;
}

static int not_one(struct err *e, const char *what, const char *wanted, size_t fit, size_t n,
                   const char *whose)
{
    if (wanted)
        return err_set(e, ERR_AUTH,
                       "the configured %s fits %zu of %zu that the %s has; give its exact name, or "
                       "its UUID",
                       what, fit, n, whose);
    return err_set(e, ERR_AUTH,
                   "the %s has %zu of them: name the %s to upload with in the configuration", whose,
                   n, what);
}

int pd_answer_account(const struct pd_answer *a, const char *user, const char *institution,
                      struct pd_account *ret, struct err *e)
{
    const cJSON *account = cJSON_GetObjectItemCaseSensitive(a->result, "Account");
    const cJSON *users = cJSON_GetObjectItemCaseSensitive(account, "UserList");
    size_t fit;
    memset(ret, 0, sizeof(*ret));
    if (!cJSON_IsArray(users))
        return err_set(e, ERR_PROTOCOL,
                       "the answer to CreateApiSession holds no Account with a UserList");
    ret->n_users = (size_t)cJSON_GetArraySize(users);
    const cJSON *u = pick(users, user, "UserUuid", "UserName", "FullName", &fit);
    if (!u)
        return not_one(e, "user", user, fit, ret->n_users, "account");
    const cJSON *institutions = cJSON_GetObjectItemCaseSensitive(u, "InstitutionList");
    ret->n_institutions = (size_t)cJSON_GetArraySize(institutions);
    const cJSON *i =
        pick(institutions, institution, "InstitutionUuid", "InstitutionName", NULL, &fit);
    if (!i)
        return not_one(e, "institution", institution, fit, ret->n_institutions, "user");
    const char *name = pd_answer_string(u, "FullName");
    text_copy(ret->full_name, sizeof(ret->full_name), name ? name : "");
    if (!pd_answer_id(u, "UserUuid", ret->user_uuid) ||
        !pd_answer_id(i, "InstitutionUuid", ret->institution_uuid))
        return err_set(e, ERR_PROTOCOL,
                       "the answer to CreateApiSession lacks the UUID of a user or institution");
    return 0;
}
