/* API sessions: made by RequestType 7, known by their GUID, in memory only: a restart forgets them,
 * as a real server may at any time. Loop thread only. */
#ifndef SANDBOX_SESSIONS_H
#define SANDBOX_SESSIONS_H

#include "sandbox/dispatch.h"
#include "sandbox/sandbox.h"

int sessions_open(struct sessions **ret, struct sandbox *sb);
void sessions_close(struct sessions *s);

/* A new session's GUID into out. */
int sessions_create(struct sessions *s, char out[UUID_TEXT_SIZE]);
/* Whether the session is known (and not past its lifetime). */
bool sessions_known(struct sessions *s, const char *uuid);
void sessions_forget(struct sessions *s, const char *uuid);
/* As a second client's CreateApiSession does it to all sessions but `by` (NULL: to all), whatever
 * the assumption. */
void sessions_displace(struct sessions *s, const char *by, bool forget);

/* Session management frames (type 3): answers the request. */
void sessions_handle(struct request *r);

#endif
