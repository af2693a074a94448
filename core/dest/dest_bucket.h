/* A token bucket: bytes per second over time, with short bursts. Pure: time comes from outside. */
#ifndef DEST_DEST_BUCKET_H
#define DEST_DEST_BUCKET_H

#include <stdint.h>

struct dest_bucket {
    uint64_t rate; /* bytes per second; 0: no limit */
    /* private; thousandths of a byte, below zero while a debt is paid off */
    int64_t level;
    uint64_t filled_ms;
};

void dest_bucket_init(struct dest_bucket *b, uint64_t rate, uint64_t now_ms);
/* Takes `bytes` and returns 0 if the level is not negative (it may be afterwards: a part larger
 * than the level is never held up for ever), else takes nothing and returns the milliseconds to
 * wait. */
uint64_t dest_bucket_take(struct dest_bucket *b, uint64_t bytes, uint64_t now_ms);

#endif
