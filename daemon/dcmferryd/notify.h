/* systemd's side: readiness, status, watchdog, journal fields. Everything does nothing where
 * systemd is not there. */
#ifndef DCMFERRYD_NOTIFY_H
#define DCMFERRYD_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* sd_notify(3) with one state ("READY=1"). */
void notify_state(const char *state);
/* RELOADING=1 with MONOTONIC_USEC, as Type=notify-reload wants it. */
void notify_reloading(void);
/* STOPPING=1, and that the end may take so long, whatever TimeoutStopSec= says. */
void notify_stopping(uint64_t ms);
/* The interval at which WATCHDOG=1 is expected, in milliseconds, halved; 0: none. */
uint64_t notify_watchdog_ms(void);
/* Whether stderr goes to systemd's journal, so that fields may be sent to it natively. */
bool notify_under_journald(void);
/* A log sink (log.h) that writes fields natively to the journal. */
void notify_log_to_journald(void);

#endif
