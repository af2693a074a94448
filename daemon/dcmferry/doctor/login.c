#include "login.h"

#include "base/clock.h"
#include "postdicom/pd_address.h"

#include <stdlib.h>
#include <string.h>

/* One HTTP step: the answer's text into *ret. */
static int ask(struct login *l, struct peer *p, const char *address, int type, char *parameters,
               char **ret, struct err *e)
{
    struct pd_answer a = {0};
    int64_t date_s = 0, before_s = clock_realtime_ms() / 1000;
    int status = peer_get(p, address, type, parameters, &a, &date_s, e);
    if (date_s > 0 && !l->skew_known) {
        /* Of whole seconds, somewhere between the question and the answer. */
        int64_t after_s = clock_realtime_ms() / 1000;
        l->skew_known = true;
        l->skew_s = date_s < before_s ? date_s - before_s : date_s > after_s ? date_s - after_s : 0;
    }
    if (status == 0 && !a.ok)
        status = err_set(e, l->step == PD_LOGIN_ROUTER_WS ? ERR_PROTOCOL : ERR_AUTH,
                         "the server refused: %s", a.text[0] ? a.text : "(it gives no reason)");
    else if (status == 0 && !a.value)
        status = err_set(e, ERR_PROTOCOL, "the answer's ResponseMessage is not text");
    else if (status == 0 && !(*ret = strdup(a.value)))
        status = err_set(e, ERR_NOMEM, "out of memory");
    pd_answer_free(&a);
    return status;
}

static int ask_address(struct login *l, struct peer *p, enum pd_address_type type, char **ret,
                       struct err *e)
{
    const struct pd_options *o = &p->options;
    int status = ask(l, p, o->router, 4, pd_params_router(&p->keys, type), ret, e);
    return status ? status
                  : pd_address_check(o->router, *ret, o->allowed_hosts, o->n_allowed_hosts, e);
}

static int create_session(struct login *l, struct peer *p, struct err *e)
{
    struct peer_request *r = peer_ask(l->line, FRAME_SESSION, FRAME_CREATE_API_SESSION,
                                      pd_params_session(&p->keys, l->session_uuid), NULL, e);
    if (!r)
        return e->code;
    int status =
        r->answer.ok
            ? pd_answer_account(&r->answer, p->options.user, p->options.institution, &l->account, e)
            : err_set(e, ERR_AUTH, "the server refused: %s",
                      r->answer.text[0] ? r->answer.text : "(it gives no reason)");
    peer_request_free(r);
    return status;
}

static int run(struct login *l, struct peer *p, void (*step)(enum pd_login_step step, void *ctx),
               void *ctx, struct err *e)
{
    char *region = NULL, *guid = NULL, *address = NULL;
    int status = 0;
    for (l->step = PD_LOGIN_ROUTER; status == 0 && l->step != PD_LOGIN_DONE;) {
        switch (l->step) {
        case PD_LOGIN_ROUTER:
            status = ask_address(l, p, PD_ADDRESS_WEB_SERVICE, &region, e);
            break;
        case PD_LOGIN_REGION:
            status = ask(l, p, region, 7, pd_params_region(&p->keys, p->options.client_host_name),
                         &guid, e);
            if (status == 0 && (!*guid || strlen(guid) >= sizeof(l->session_uuid)))
                status = err_set(e, ERR_PROTOCOL, "the answer holds no session");
            if (status == 0)
                memcpy(l->session_uuid, guid, strlen(guid) + 1);
            break;
        case PD_LOGIN_ROUTER_WS:
            status = ask_address(l, p, PD_ADDRESS_WEB_SOCKET, &address, e);
            break;
        case PD_LOGIN_WEBSOCKET:
            l->socket_url = pd_address_socket(address, p->keys.api_key);
            status = l->socket_url ? peer_line_open(p, l->socket_url, 0, &l->line, e)
                                   : err_set(e, ERR_NOMEM, "out of memory");
            break;
        default:
            status = create_session(l, p, e);
        }
        if (status)
            break;
        if (step)
            step(l->step, ctx);
        l->step++;
    }
    free(region);
    free(guid);
    free(address);
    return status;
}

int login_open(struct login *ret, struct peer *p, void (*step)(enum pd_login_step step, void *ctx),
               void *ctx, struct err *e)
{
    memset(ret, 0, sizeof(*ret));
    int status = run(ret, p, step, ctx, e);
    if (status) {
        enum pd_login_step failed = ret->step;
        struct login seen = *ret;
        login_close(ret);
        ret->step = failed;
        ret->skew_s = seen.skew_s;
        ret->skew_known = seen.skew_known;
        ret->account = seen.account;
    }
    return status;
}

void login_close(struct login *l)
{
    peer_line_close(l->line);
    secret_wipe(l->socket_url);
    memset(l, 0, sizeof(*l));
}

int login_line_as(struct login *l, struct peer *p, const char *session_uuid, uint64_t ping_ms,
                  struct peer_line **ret, struct err *e)
{
    struct peer_line *line;
    *ret = NULL;
    int status = peer_line_open(p, l->socket_url, ping_ms, &line, e);
    if (status)
        return status;
    struct peer_request *r = peer_ask(line, FRAME_SESSION, FRAME_REGISTER_SESSION,
                                      pd_params_session(&p->keys, session_uuid), NULL, e);
    if (!r)
        status = e->code;
    else
        line->doubtful = !r->answer.ok;
    peer_request_free(r);
    if (status) {
        peer_line_close(line);
        return status;
    }
    *ret = line;
    return 0;
}

int login_line(struct login *l, struct peer *p, uint64_t ping_ms, struct peer_line **ret,
               struct err *e)
{
    return login_line_as(l, p, l->session_uuid, ping_ms, ret, e);
}
