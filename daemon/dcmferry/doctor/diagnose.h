/* The way to the server, a step at a time, changing nothing there. */
#ifndef DCMFERRY_DOCTOR_DIAGNOSE_H
#define DCMFERRY_DOCTOR_DIAGNOSE_H

#include "login.h"
#include "report.h"

/* Before the keys are read: the name, the network, the proxy. Blocks. ERR_CONNECT: it ends here. */
int diagnose_network(struct report *r, const struct config_destination *config);
/* Router, region, WebSocket, session, user, clock, folders. On success *ret is the session; on
 * failure the reason was reported. */
int diagnose_session(struct report *r, struct peer *p, struct login *ret);

#endif
