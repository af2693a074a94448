/* When a delivery is tried again. Pure, thread-safe. */
#ifndef PIPELINE_RETRY_H
#define PIPELINE_RETRY_H

#include <stdint.h>

/* Exponential with full jitter: a random time in [min/2, min * 2^attempts], capped at max, but
 * never sooner than the server asked for (retry_after_ms, itself capped at one hour). `attempts`
 * counts the tries that ended; `random` is any 32 random bits. Milliseconds. */
uint64_t retry_delay_ms(unsigned attempts, uint64_t min_ms, uint64_t max_ms,
                        uint64_t retry_after_ms, uint32_t random);

#endif
