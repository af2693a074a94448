/* Between the pieces of a session: pd_session (its life), pd_slot (its connections), pd_call (the
 * requests that wait for one). Which answer belongs to which request is for pd_connection to know.
 * Loop thread only. */
#ifndef POSTDICOM_PD_SESSION_INTERNAL_H
#define POSTDICOM_PD_SESSION_INTERNAL_H

#include "postdicom/pd_session.h"

enum pd_session_state { SESSION_CLOSED, SESSION_OPENING, SESSION_OPEN, SESSION_CLOSING };
enum pd_slot_state { SLOT_NONE, SLOT_CONNECTING, SLOT_REGISTERING, SLOT_READY };

struct pd_slot {
    struct pd_session *session;
    enum pd_slot_state state;
    struct pd_connection *connection; /* non-NULL unless SLOT_NONE */
    struct pd_request request;        /* RegisterSession */
    unsigned in_flight;
    bool doubtful;          /* RegisterSession was answered with a refusal */
    uint64_t carried;       /* calls handed to this connection */
    uint64_t not_before_ms; /* no new attempt before that, while others work */
    uint64_t backoff_ms;
};

struct pd_session {
    uv_loop_t *loop;
    struct net *net;
    const struct pd_options *options;
    struct pd_session_events events;
    enum pd_session_state state;
    char *account_key, *api_key;
    struct pd_keys keys;
    struct pd_login *login; /* non-NULL exactly while SESSION_OPENING */
    unsigned generation;
    char uuid[PD_UUID_SIZE];
    char *socket_url;
    char *register_json;
    struct pd_account account;
    uint64_t opened_ms;
    unsigned young_losses;  /* in a row */
    bool progress;          /* a part of a file was taken since it was opened */
    uint64_t hold_until_ms; /* displaced: no opening before that */
    uint64_t losses;        /* upload connections that ended by themselves */
    unsigned barren[2]; /* connections in a row that ended without an answer: general, uploads */
    struct pd_waiter *waiters, *told; /* told: being called back just now */
    struct pd_call *queue[2];         /* general, uploads */
    struct pd_call *failing;          /* their callbacks come with the next turn of the loop */
    struct pd_call *ending;           /* theirs come just now */
    unsigned active;                  /* calls queued and in flight */
    struct pd_slot *slots;
    size_t n_slots;
    uv_timer_t soon; /* runs exactly while waiters or failing calls are to be told */
    uv_timer_t idle; /* runs while open without work */
    unsigned handles;
    void (*closed_cb)(void *ctx);
    void *closed_ctx;
};

/* pd_session.c */

void pd_session_tell_down(struct pd_session *s, int status, uint64_t retry_after_ms,
                          const struct err *e);
/* The timer runs with the next turn of the loop. */
void pd_session_soon(struct pd_session *s);
void pd_session_watch_idle(struct pd_session *s);
/* The session is gone: everything fails with ERR_SESSION. */
void pd_session_lose(struct pd_session *s, const char *why);
/* The server cannot be reached: the next attempt begins with the router, which may send us
 * elsewhere. */
void pd_session_drop(struct pd_session *s, int status, const struct err *error);

/* pd_slot.c */

int pd_slot_open(struct pd_slot *slot, struct err *e);
/* For a connection that was opened by a login. */
struct pd_connection_handler pd_slot_handler(struct pd_slot *slot);
/* An attempt to open one failed, or one ended without an answer. */
void pd_slot_failed(struct pd_slot *slot, bool opening, int status, int http_status,
                    const struct err *e);
/* The upload connection that takes the next request; NULL: none now. */
struct pd_slot *pd_slots_best(struct pd_session *s);
/* Opens as many upload connections as the requests that wait may use. */
void pd_slots_open(struct pd_session *s);
void pd_slots_close(struct pd_session *s, int status, const char *why);

/* pd_call.c */

/* Hands what waits to the connections that can take it. */
void pd_calls_pump(struct pd_session *s);
/* All that waits for a connection fails. */
void pd_calls_fail_queued(struct pd_session *s, int status, const struct err *e);
/* All that is not yet handed to a connection ends: the session is being closed. */
void pd_calls_cancel(struct pd_session *s, const struct err *e);
/* Tells those that failed within the call that sent them. */
void pd_calls_tell_failed(struct pd_session *s);

#endif
