#include "pipeline/retry.h"

#define RETRY_AFTER_MAX_MS (60 * 60 * 1000)

uint64_t retry_delay_ms(unsigned attempts, uint64_t min_ms, uint64_t max_ms,
                        uint64_t retry_after_ms, uint32_t random)
{
    if (max_ms < min_ms)
        max_ms = min_ms;
    uint64_t ceiling = min_ms;
    for (unsigned i = 0; i < attempts && ceiling < max_ms; i++)
        ceiling = ceiling > max_ms / 2 ? max_ms : ceiling * 2;
    uint64_t floor = min_ms / 2;
    uint64_t delay = floor + (ceiling - floor) * random / UINT32_MAX;
    if (retry_after_ms > RETRY_AFTER_MAX_MS)
        retry_after_ms = RETRY_AFTER_MAX_MS;
    return delay < retry_after_ms ? retry_after_ms : delay;
}
