/* The other side of `dcmferry doctor`: a loop of its own, on which each question is asked and
 * waited for, and WebSockets that show what a session (pd_session.h) hides. Single thread. */
#ifndef DCMFERRY_DOCTOR_PEER_H
#define DCMFERRY_DOCTOR_PEER_H

#include "config/config.h"
#include "postdicom/pd_answer.h"
#include "postdicom/pd_connection.h"
#include "postdicom/pd_login.h"
#include "postdicom/pd_options.h"
#include "transcript.h"

#include <uv.h>

struct peer {
    uv_loop_t loop;
    uv_timer_t wake;
    uv_signal_t signals[3];
    bool interrupted; /* by SIGINT, SIGTERM or SIGHUP: waiting ends at once, requests fail */
    struct net *net;
    struct pd_options options;
    char *account_key, *api_key;
    struct pd_keys keys;
    struct transcript *transcript;
    uint64_t answer_ms; /* how long an answer is waited for */
    unsigned n_lines;
};

/* Reads the destination's secrets: ERR_… with the reason. `config` and `t` must outlive it. */
int peer_open(struct peer *p, const struct config_destination *config, struct transcript *t,
              struct err *e);
/* All lines must be closed. */
void peer_close(struct peer *p);

/* Runs the loop until *flag (NULL: nothing to wait for) or the time is over; false then, and when
 * interrupted. */
bool peer_wait(struct peer *p, const bool *flag, uint64_t ms);

/* An HTTP question (wire protocol, section 1). On success *ret is the caller's to pd_answer_free.
 * A refusal is an answer (ret->ok). *ret_date_s: the server's clock, 0 if it did not say. */
int peer_get(struct peer *p, const char *address, int request_type, char *parameters,
             struct pd_answer *ret, int64_t *ret_date_s, struct err *e);

/* One WebSocket. */
struct peer_line {
    struct peer *peer;
    struct pd_connection *connection; /* NULL: not open any more */
    unsigned number;
    bool opened, ended, settled; /* settled: one of the two */
    bool doubtful;               /* RegisterSession was refused */
    struct err why;              /* it ended */
    uint64_t opened_ms, ended_ms;
};

/* Connects; ping_ms 0: no pings. *ret is the caller's to peer_line_close. */
int peer_line_open(struct peer *p, const char *url, uint64_t ping_ms, struct peer_line **ret,
                   struct err *e);
void peer_line_close(struct peer_line *l); /* NULL is fine */

/* A request under way. */
struct peer_request {
    struct pd_request request;
    struct peer_line *line;
    char *json;
    bool done;
    int status; /* 0: answered, perhaps with a refusal */
    struct err err;
    struct pd_answer answer;
    uint16_t type; /* of the answer's frame */
    uint64_t sent_ms;
};

/* Takes `json` over (NULL: out of memory); `bytes` must live until it is freed. NULL when out of
 * memory. */
struct peer_request *peer_send(struct peer_line *l, uint16_t type, int32_t management, char *json,
                               const struct pd_account *user, const void *bytes, size_t size);
/* Waits for it; where no answer comes in time the line is given up. Returns its status. */
int peer_receive(struct peer_request *r);
void peer_request_free(struct peer_request *r); /* NULL is fine */

/* peer_send and peer_receive. The result is the caller's to peer_request_free; *e tells why there
 * is none, or why it was not answered (NULL then). */
struct peer_request *peer_ask(struct peer_line *l, uint16_t type, int32_t management, char *json,
                              const struct pd_account *user, struct err *e);

#endif
