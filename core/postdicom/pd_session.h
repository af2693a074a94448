/* A session with its connections: opened when it is needed, reopened when they are lost, renewed
 * when the server no longer knows it. One connection for general requests, up to `connections` for
 * uploads. Loop thread only.
 *
 * The policy of trying again is not here: an attempt to open that fails is reported, and the next
 * one is made when somebody asks again. */
#ifndef POSTDICOM_PD_SESSION_H
#define POSTDICOM_PD_SESSION_H

#include "postdicom/pd_answer.h"
#include "postdicom/pd_connection.h"
#include "postdicom/pd_login.h"
#include "postdicom/pd_options.h"

struct pd_session;

/* May all be NULL. Called from the loop. */
struct pd_session_events {
    /* The server answered a request of a session. */
    void (*up)(void *ctx);
    /* A session could not be opened, was lost soon after it was opened again and again
     * (ERR_DISPLACED), or a connection ended before it had answered anything. */
    void (*down)(int status, uint64_t retry_after_ms, const struct err *e, void *ctx);
    void *ctx;
};

/* Waits for the session to be open. Owned by the caller until cb, exactly once and never from
 * within. */
struct pd_waiter {
    void (*cb)(struct pd_waiter *w, int status, const struct err *e);
    void *ctx;
    /* private */
    struct pd_waiter *prev, *next;
    bool being_told;
};

/* A request of an open session; owned by the caller until cb, exactly once and never from within.
 */
struct pd_call {
    struct pd_request request; /* type, management, json, bytes, user: as pd_connection.h says; cb
                                  is the session's */
    bool upload;               /* goes over one of the upload connections */
    /* status 0: it was answered, perhaps with a refusal. Else: ERR_SESSION: the session is gone,
     * wait for the next one and make the parameters anew; ERR_CLOSED, ERR_TIMEOUT…: the connection
     * is, the call may be sent again; ERR_CANCELED: pd_session_close. */
    void (*cb)(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e);
    void *ctx;
    bool carried; /* with status != 0: it was handed to a connection, so it may have been carried
                     out */
    /* private */
    struct pd_session *session;
    struct pd_slot *slot;
    enum { PD_CALL_GONE, PD_CALL_QUEUED, PD_CALL_FAILING, PD_CALL_ENDING } place; /* its list */
    struct err why;
    struct pd_call *prev, *next;
};

int pd_session_new(struct pd_session **ret, uv_loop_t *loop, const struct pd_options *options,
                   const struct pd_session_events *events, struct err *e);
/* Before the first use, and after ERR_AUTH; copied. They count from the next opening on. */
int pd_session_set_keys(struct pd_session *s, const struct pd_keys *keys);
/* The same for the password at the proxy. */
int pd_session_set_proxy_password(struct pd_session *s, const char *password);
const struct pd_keys *pd_session_keys(const struct pd_session *s);

/* Opens the session if there is none. */
void pd_session_ready(struct pd_session *s, struct pd_waiter *w);
/* The waiter's callback will not come. */
void pd_session_unwait(struct pd_session *s, struct pd_waiter *w);

bool pd_session_is_open(const struct pd_session *s);
/* Of the open session; changes with every opening, so that what was made for an older one can be
 * told. Counts from 1. */
unsigned pd_session_generation(const struct pd_session *s);
const struct pd_account *pd_session_account(const struct pd_session *s);
const char *pd_session_uuid(const struct pd_session *s);

void pd_session_send(struct pd_session *s, struct pd_call *c);
/* Takes back a call that was not yet handed to a connection: its callback will not come. False: it
 * was, and will. */
bool pd_session_cancel(struct pd_session *s, struct pd_call *c);
/* The server does not know the session of that generation any more; nothing if it is another one by
 * now. */
void pd_session_renew(struct pd_session *s, unsigned generation);
/* Upload connections that ended by themselves, ever: what they carried may be forgotten. */
uint64_t pd_session_losses(const struct pd_session *s);
/* Connections that are open. */
unsigned pd_session_connected(const struct pd_session *s);

/* Closes the connections of a session in which nothing is under way, as after idle_close; the next
 * call opens it again. Returns whether it is closed. */
bool pd_session_rest(struct pd_session *s);

/* Ends it: all that waits or is in flight fails with ERR_CANCELED, from within. cb when the loop
 * has let go; freed before. */
void pd_session_close(struct pd_session *s, void (*cb)(void *ctx), void *ctx);

#endif
