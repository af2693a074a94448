#include "dest/dest_bucket.h"

/* A burst may be that long. */
#define BURST_MS 250

void dest_bucket_init(struct dest_bucket *b, uint64_t rate, uint64_t now_ms)
{
    /* Far beyond any line, and far from overflow. */
    const uint64_t most = UINT64_C(1) << 40;
    b->rate = rate > most ? most : rate;
    b->level = 0;
    b->filled_ms = now_ms;
}

uint64_t dest_bucket_take(struct dest_bucket *b, uint64_t bytes, uint64_t now_ms)
{
    if (b->rate == 0)
        return 0;
    int64_t rate = (int64_t)b->rate; /* bytes a second are thousandths of a byte a millisecond */
    int64_t most = rate * BURST_MS;
    uint64_t elapsed = now_ms > b->filled_ms ? now_ms - b->filled_ms : 0;
    uint64_t needed = b->level < most ? (uint64_t)((most - b->level) / rate + 1) : 0;
    b->level = elapsed >= needed ? most : b->level + (int64_t)elapsed * rate;
    if (b->level > most)
        b->level = most;
    b->filled_ms = now_ms;
    if (b->level < 0)
        return (uint64_t)((-b->level + rate - 1) / rate);
    b->level -= (int64_t)bytes * 1000;
    return 0;
}
