/* Opens a session (wire protocol, section 1): router, region, router, WebSocket, CreateApiSession.
 * One attempt; who calls decides when to try again. Loop thread only. */
#ifndef POSTDICOM_PD_LOGIN_H
#define POSTDICOM_PD_LOGIN_H

#include "postdicom/pd_answer.h"
#include "postdicom/pd_connection.h"
#include "postdicom/pd_options.h"

struct pd_login;

enum pd_login_step {
    PD_LOGIN_ROUTER,    /* address of the region's web service */
    PD_LOGIN_REGION,    /* the session's GUID */
    PD_LOGIN_ROUTER_WS, /* address of the WebSocket server */
    PD_LOGIN_WEBSOCKET, /* connected */
    PD_LOGIN_SESSION,   /* CreateApiSession answered */
    PD_LOGIN_DONE,
};

struct pd_login_result {
    char session_uuid[PD_UUID_SIZE];
    char *socket_url; /* for further connections; the receiver's to free; holds the API key */
    struct pd_account account;
    struct pd_connection *connection; /* open and registered; the receiver's */
};

/* status 0: `result` holds. Else ERR_CONNECT, ERR_TLS, ERR_AUTH, ERR_BUSY (retry_after_ms may be
 * set), ERR_TIMEOUT, ERR_PROTOCOL…; *e names the step. The login is freed after the call. */
typedef void (*pd_login_cb)(int status, struct pd_login_result *result, uint64_t retry_after_ms,
                            const struct err *e, void *ctx);

/* cb never comes from within. `keys` are copied. `handler` is the connection's after success: its
 * `closed` is told when that one ends. */
int pd_login_start(struct pd_login **ret, uv_loop_t *loop, struct net *net,
                   const struct pd_options *options, const struct pd_keys *keys,
                   const struct pd_connection_handler *handler, pd_login_cb cb, void *ctx,
                   struct err *e);
/* The callback will not come. */
void pd_login_cancel(struct pd_login *l);

/* The name of a step, for people. */
const char *pd_login_step_name(enum pd_login_step step);

/* What an HTTP status other than 200 of router or region means. */
int pd_login_http_error(int http_status, struct err *e);

#endif
