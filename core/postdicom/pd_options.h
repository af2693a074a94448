/* Everything libpostdicom wants to know. Plain data; what it points to must live as long as the
 * session. */
#ifndef POSTDICOM_PD_OPTIONS_H
#define POSTDICOM_PD_OPTIONS_H

#include "net/net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of a file part (wire protocol, section 5). */
#define PD_PART_SIZE (512U * 1024)

struct pd_options {
    const char *router;           /* URL */
    const char *user;             /* name or UUID; NULL: the only one */
    const char *institution;      /* name or UUID; NULL: the only one */
    const char *client_host_name; /* NULL: not sent */
    const char *const *allowed_hosts;
    size_t n_allowed_hosts;
    unsigned connections;     /* for uploads, >= 1; one more is for everything else */
    unsigned pipeline;        /* parts in flight on each, >= 1 */
    unsigned session_files;   /* files of one upload session at most, >= 1 */
    uint64_t session_idle_ms; /* an upload session without a new file ends after that */
    uint64_t idle_timeout_ms; /* of an answer that does not come */
    uint64_t ping_interval_ms;
    uint64_t idle_close_ms; /* all connections are closed after that time without work; 0: never */
    struct net_options net;
};

#endif
