/* The running daemon stands aside: it uploads with the same API key, which is ClientUniqueId on the
 * wire, so that two clients might displace each other. */
#ifndef DCMFERRY_DOCTOR_PAUSE_H
#define DCMFERRY_DOCTOR_PAUSE_H

#include "peer.h"
#include "report.h"

struct pause {
    const char *socket_path, *destination;
    struct peer *peer;
    bool held;
    uv_timer_t again; /* runs exactly while held, on the peer's loop */
};

/* Returns once the daemon is quiet, or there is none. The pause is kept up from the peer's loop; if
 * this process dies it ends by itself. On failure the reason was reported. */
int pause_begin(struct pause *ret, struct report *r, struct peer *p, const char *socket_path,
                const char *destination);
void pause_end(struct pause *p);

#endif
