/* Finds out which files have left their drop folder: delivered ones begin their `history`,
 * undelivered ones are an alarm. Pages through the journal and looks at each path on the thread
 * pool. Loop thread only. */
#ifndef PIPELINE_SWEEP_H
#define PIPELINE_SWEEP_H

#include "pipeline/env.h"

struct sweep;

int sweep_open(struct sweep **ret, const struct pipeline_env *env);
/* Looks through everything once (again, if it is under way), then forgets what left longer than
 * `history` ago. A drop folder that is not there itself is passed over: a share that is not mounted
 * has not lost its files (roots.h). */
void sweep_start(struct sweep *s);
void sweep_close(struct sweep *s, void (*cb)(void *ctx), void *ctx);

#endif
