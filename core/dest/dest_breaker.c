#include "dest/dest_breaker.h"

static uint64_t delay(const struct dest_breaker *b, uint64_t random)
{
    uint64_t first = b->auth ? b->auth_min_ms : b->min_ms;
    uint64_t most = first;
    if (first < 1)
        first = most = 1;
    for (unsigned i = 1; i < b->opened && most < b->max_ms; i++)
        most *= 2;
    if (most > b->max_ms)
        most = b->max_ms;
    /* Full jitter, but never below the first delay. */
    return most <= first ? most : first + random % (most - first + 1);
}

bool dest_breaker_failure(struct dest_breaker *b, bool auth, uint64_t at_least_ms, uint64_t now_ms,
                          uint64_t random)
{
    bool was_open = b->open, was_probe = b->probing;
    b->failures++;
    b->probing = false;
    if (was_open && !was_probe && b->auth == auth && at_least_ms == 0)
        return false; /* an echo of what opened it */
    if (!was_open && !auth && b->failures < b->threshold && at_least_ms == 0)
        return false;
    if (b->auth != auth)
        b->opened = 0;
    b->auth = auth;
    b->open = true;
    b->opened++;
    uint64_t wait = delay(b, random);
    b->probe_at_ms = now_ms + (wait > at_least_ms ? wait : at_least_ms);
    return !was_open;
}

bool dest_breaker_success(struct dest_breaker *b)
{
    bool was_open = b->open;
    b->open = b->auth = b->probing = false;
    b->failures = b->opened = 0;
    return was_open;
}

bool dest_breaker_allows(const struct dest_breaker *b, uint64_t now_ms)
{
    return !b->open || (!b->probing && now_ms >= b->probe_at_ms);
}

void dest_breaker_begin(struct dest_breaker *b)
{
    if (b->open)
        b->probing = true;
}

void dest_breaker_unprobed(struct dest_breaker *b)
{
    b->probing = false;
}

uint64_t dest_breaker_wait(const struct dest_breaker *b, uint64_t now_ms)
{
    return !b->open || b->probing || now_ms >= b->probe_at_ms ? 0 : b->probe_at_ms - now_ms;
}

void dest_breaker_poke(struct dest_breaker *b, uint64_t now_ms)
{
    if (b->open && b->probe_at_ms > now_ms)
        b->probe_at_ms = now_ms;
}
