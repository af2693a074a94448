#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t (*monotonic_source)(void);
static int64_t (*realtime_source)(void);

uint64_t clock_monotonic_us(void)
{
    if (monotonic_source)
        return monotonic_source();
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint64_t clock_monotonic_ms(void)
{
    return clock_monotonic_us() / 1000u;
}

int64_t clock_realtime_ms(void)
{
    if (realtime_source)
        return realtime_source();
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + (int64_t)(t.tv_nsec / 1000000);
}

void clock_format(int64_t realtime_ms, char out[25])
{
    /* RFC 3339 has years 0000 to 9999. */
    const int64_t first = -62167219200000, last = 253402300799999;
    if (realtime_ms < first)
        realtime_ms = first;
    if (realtime_ms > last)
        realtime_ms = last;
    int64_t ms = realtime_ms % 1000;
    if (ms < 0)
        ms += 1000;
    time_t seconds = (time_t)((realtime_ms - ms) / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    /* The masks change nothing; they let the compiler see that it fits. */
    snprintf(out, 25, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(tm.tm_year + 1900) % 10000u,
             (unsigned)(tm.tm_mon + 1) % 100u, (unsigned)tm.tm_mday % 100u,
             (unsigned)tm.tm_hour % 100u, (unsigned)tm.tm_min % 100u, (unsigned)tm.tm_sec % 100u,
             (unsigned)ms % 1000u);
}

void clock_set_source(uint64_t (*monotonic_us)(void), int64_t (*realtime_ms)(void))
{
    monotonic_source = monotonic_us;
    realtime_source = realtime_ms;
}
