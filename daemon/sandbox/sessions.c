#include "sandbox/sessions.h"

#include "base/clock.h"
#include "base/log.h"
#include "sandbox/accounts.h"
#include "sandbox/upload.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uthash.h>
#include <utlist.h>

struct session {
    char uuid[UUID_TEXT_SIZE];
    uint64_t created_ms;
    UT_hash_handle hh;
};

struct sessions {
    struct sandbox *sandbox;
    struct session *all;
};

int sessions_open(struct sessions **ret, struct sandbox *sb)
{
    struct sessions *s = calloc(1, sizeof *s);

    if (!s)
        return ERR_NOMEM;
    s->sandbox = sb;
    *ret = s;
    return 0;
}

static void remove_session(struct sessions *s, struct session *session)
{
    uploads_session_forgotten(s->sandbox->uploads, session->uuid);
    HASH_DEL(s->all, session);
    free(session);
}

void sessions_close(struct sessions *s)
{
    struct session *session, *next;

    if (!s)
        return;
    HASH_ITER(hh, s->all, session, next)
    {
        HASH_DEL(s->all, session);
        free(session);
    }
    free(s);
}

static int add(struct sessions *s, const char *uuid)
{
    struct session *session = calloc(1, sizeof *session);

    if (!session)
        return ERR_NOMEM;
    memcpy(session->uuid, uuid, UUID_TEXT_SIZE);
    session->created_ms = clock_monotonic_ms();
    HASH_ADD_STR(s->all, uuid, session);
    return 0;
}

int sessions_create(struct sessions *s, char out[UUID_TEXT_SIZE])
{
    uuid_generate(out);
    return add(s, out);
}

bool sessions_known(struct sessions *s, const char *uuid)
{
    uint64_t lifetime_ms = s->sandbox->assume.session_lifetime * (uint64_t)1000;
    struct session *session;

    HASH_FIND_STR(s->all, uuid, session);
    if (!session)
        return s->sandbox->options.permissive && uuid_valid(uuid) && add(s, uuid) == 0;
    if (lifetime_ms != 0 && clock_monotonic_ms() - session->created_ms > lifetime_ms) {
        remove_session(s, session);
        return false;
    }
    return true;
}

void sessions_forget(struct sessions *s, const char *uuid)
{
    struct session *session;

    HASH_FIND_STR(s->all, uuid, session);
    if (session)
        remove_session(s, session);
}

void sessions_displace(struct sessions *s, const char *by, bool forget)
{
    struct session *session, *next;
    struct conn *c, *next_conn;

    DL_FOREACH_SAFE(s->sandbox->conns, c, next_conn)
    {
        if (!forget && c->session[0] != '\0' && (!by || strcmp(c->session, by) != 0))
            conn_drop(c, 1008);
    }
    HASH_ITER(hh, s->all, session, next)
    {
        if (forget && (!by || strcmp(session->uuid, by) != 0))
            remove_session(s, session);
    }
}

/* "ApiKey=<key>" of OtherParameterList. */
static bool names_key(const cJSON *list, const char *key)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, list)
    {
        if (cJSON_IsString(item) && strncmp(item->valuestring, "ApiKey=", 7) == 0 &&
            strcasecmp(item->valuestring + 7, key) == 0)
            return true;
    }
    return false;
}

static unsigned count_uploaders(struct sandbox *sb, const char *session)
{
    struct conn *c;
    unsigned n = 0;

    DL_FOREACH(sb->conns, c)
    {
        if (c->counts && strcmp(c->session, session) == 0)
            n++;
    }
    return n;
}

struct account_op {
    struct store_op op;
    struct request *request;
    cJSON *account;
};

static int run_account(struct store *store, struct store_op *op)
{
    struct account_op *a = (struct account_op *)op;

    a->account = accounts_json(store);
    return 0;
}

static void account_done(struct store_op *op, int status, const struct err *e)
{
    struct account_op *a = (struct account_op *)op;
    struct request *r = a->request;
    cJSON *message;

    if (status < 0) {
        request_refuse(r, RESPONSE_FAILED, e->text);
    } else {
        message = cJSON_CreateObject();
        cJSON_AddItemToObject(message, "Account", a->account);
        a->account = NULL;
        request_answer(r, RESPONSE_OK, message);
    }
    cJSON_Delete(a->account);
    free(a);
}

/* CreateApiSession's answer is the account. */
static void answer_account(struct request *r)
{
    struct account_op *a = calloc(1, sizeof *a);

    if (!a) {
        request_refuse(r, RESPONSE_FAILED, "out of memory");
        return;
    }
    a->request = r;
    a->op.run = run_account;
    a->op.done = account_done;
    a->op.read_only = true;
    store_submit(r->sandbox->store, &a->op);
}

void sessions_handle(struct request *r)
{
    struct sandbox *sb = r->sandbox;
    struct conn *c = r->conn;
    const char *uuid = request_text(r, "SessionUuid");
    uint32_t displace = sb->assume.displace;

    if (!names_key(cJSON_GetObjectItemCaseSensitive(r->params, "OtherParameterList"),
                   sb->options.api_key) ||
        faults_strike(&sb->faults, FAULT_REFUSE_AUTH, FAULT_ON_SESSION, NULL)) {
        request_refuse(r, RESPONSE_AUTH, "The API key is not valid.");
        return;
    }
    if (!sessions_known(sb->sessions, uuid)) {
        request_session_lost(r);
        return;
    }
    switch (r->frame.management) {
    case FRAME_CREATE_API_SESSION:
        if (displace != 0)
            sessions_displace(sb->sessions, uuid, displace == ASSUME_DISPLACE_FORGET);
        memcpy(c->session, uuid, UUID_TEXT_SIZE);
        log_debug("session opened", LOG_UINT("connection", c->number));
        answer_account(r);
        return;
    case FRAME_REGISTER_SESSION:
    case FRAME_FORCE_REGISTER:
    case FRAME_CREATE_SESSION:
        if (c->session[0] == '\0' && sb->assume.max_connections != 0 &&
            count_uploaders(sb, uuid) >= sb->assume.max_connections) {
            conn_drop(c, 1008);
            request_free(r);
            return;
        }
        c->counts = c->session[0] == '\0' || c->counts;
        memcpy(c->session, uuid, UUID_TEXT_SIZE);
        request_answer(r, RESPONSE_OK, cJSON_CreateObject());
        return;
    default:
        request_refuse(r, RESPONSE_INVALID, "This session management type is not known.");
    }
}
