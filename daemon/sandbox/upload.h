/* File uploads (type 23): upload sessions, parts in any order over any connection, receipts.
 *
 * Parts of unfinished files live in DIR/incoming and are forgotten by a restart, with the sessions
 * they belong to. What was sent with an API session's own GUID begins anew with that session's next
 * Initialize, because the vendor's client counts FileIndex from 0 again there. Loop thread only. */
#ifndef SANDBOX_UPLOAD_H
#define SANDBOX_UPLOAD_H

#include "sandbox/dispatch.h"

int uploads_open(struct uploads **ret, struct sandbox *sb);
/* Requests whose files are being stored. */
unsigned uploads_pending(const struct uploads *u);
/* Only when nothing is pending. */
void uploads_close(struct uploads *u);

void uploads_handle(struct request *r);
void uploads_session_forgotten(struct uploads *u, const char *session);
void uploads_connection_lost(struct uploads *u, uint32_t connection);

#endif
