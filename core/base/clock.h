/* Time. Thread-safe. Tests may replace both clocks. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t clock_monotonic_ms(void); /* CLOCK_MONOTONIC, milliseconds */
uint64_t clock_monotonic_us(void); /* the same, microseconds */
int64_t clock_realtime_ms(void);   /* since the epoch, UTC, milliseconds */

/* Writes `realtime_ms` as RFC 3339 UTC with milliseconds ("2026-11-23T21:57:00.000Z") into out[25].
 */
void clock_format(int64_t realtime_ms, char out[25]);

/* For tests: values that the functions above return until called with NULLs. Not thread-safe. */
void clock_set_source(uint64_t (*monotonic_us)(void), int64_t (*realtime_ms)(void));

#endif
