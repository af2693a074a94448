/* The breaker of a destination: after several connection failures in a row it opens, and one probe
 * at a time is let through, with growing delays (exponential, full jitter, capped) between them.
 * Pure: time and chance come from outside. */
#ifndef DEST_DEST_BREAKER_H
#define DEST_DEST_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

struct dest_breaker {
    /* set by the owner */
    unsigned threshold;      /* failures in a row that open it */
    uint64_t min_ms, max_ms; /* delay before the first probe; longest delay */
    uint64_t auth_min_ms;    /* the first delay where the keys were refused */
    /* private */
    bool open;
    bool auth;
    bool probing;
    unsigned failures; /* in a row */
    unsigned opened;   /* times in a row that it opened, the failed probes included */
    uint64_t probe_at_ms;
};

/* A connection failed; `auth`: the keys were refused, which opens it at once. `at_least_ms`: what
 * the server asked for (Retry-After). `random` is any 64 bits. Returns whether it opened just now.
 */
bool dest_breaker_failure(struct dest_breaker *b, bool auth, uint64_t at_least_ms, uint64_t now_ms,
                          uint64_t random);
/* The server answered. Returns whether it was open. */
bool dest_breaker_success(struct dest_breaker *b);
/* Whether something may be sent: always while it is closed, one probe when it is time. */
bool dest_breaker_allows(const struct dest_breaker *b, uint64_t now_ms);
/* What was allowed is sent; while open it is the probe. */
void dest_breaker_begin(struct dest_breaker *b);
/* The probe ended without having tried the connection. */
void dest_breaker_unprobed(struct dest_breaker *b);
/* Milliseconds until the next probe; 0 while closed, probing or due. */
uint64_t dest_breaker_wait(const struct dest_breaker *b, uint64_t now_ms);
/* The next probe may go now. */
void dest_breaker_poke(struct dest_breaker *b, uint64_t now_ms);

#endif
