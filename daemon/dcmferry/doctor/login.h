/* Opening sessions for `dcmferry doctor`, step by step (wire protocol, section 1). */
#ifndef DCMFERRY_DOCTOR_LOGIN_H
#define DCMFERRY_DOCTOR_LOGIN_H

#include "peer.h"

struct login {
    char session_uuid[PD_UUID_SIZE];
    char *socket_url; /* holds the API key */
    struct pd_account account;
    struct peer_line *line;  /* CreateApiSession was answered on it */
    enum pd_login_step step; /* that succeeded last; or, on failure, that failed */
    int64_t skew_s;          /* the server's clock is that much ahead of ours */
    bool skew_known;
};

/* `step` (NULL) is told each step that succeeded. On failure *e has the reason and login->step the
 * step; nothing is to be closed. */
int login_open(struct login *ret, struct peer *p, void (*step)(enum pd_login_step step, void *ctx),
               void *ctx, struct err *e);
void login_close(struct login *l); /* of a zeroed or closed one: nothing */

/* One more WebSocket of the session, registered; whatever the server says to that means registered
 * (wire protocol, section 1), but a refusal makes the line doubtful. */
int login_line(struct login *l, struct peer *p, uint64_t ping_ms, struct peer_line **ret,
               struct err *e);
/* The same under any session GUID. */
int login_line_as(struct login *l, struct peer *p, const char *session_uuid, uint64_t ping_ms,
                  struct peer_line **ret, struct err *e);

#endif
