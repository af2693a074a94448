/* Finds out which files have left their drop folder: delivered ones begin their `history`,
 * undelivered ones are an alarm. Pages through the journal and looks at each path on the thread
 * pool. Loop thread only. */
#ifndef PIPELINE_SWEEP_H
#define PIPELINE_SWEEP_H

#include "pipeline/env.h"

struct sweep;

int sweep_open(struct sweep **ret, const struct pipeline_env *env);
/* That drop folder was scanned: its files are looked at, with those of others that were, and what
 * left longer than `history` ago is forgotten. Soon, or as soon as the last sweep is long enough
 * ago: a folder that is polled every second is not swept every second. One that is not there itself
 * is passed over: a share that is not mounted has not lost its files (roots.h); one that hangs
 * holds up nothing but its own. */
void sweep_start(struct sweep *s, size_t watch);
void sweep_close(struct sweep *s, void (*cb)(void *ctx), void *ctx);

#endif
