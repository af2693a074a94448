/* Routes held files again (those that no route took): all of them after a start or reload, those of
 * a study when that was bound. A page at a time: memory holds no more of them. Loop thread only. */
#ifndef PIPELINE_HELD_H
#define PIPELINE_HELD_H

#include "pipeline/env.h"
#include "pipeline/intake.h"

struct held;

int held_open(struct held **ret, const struct pipeline_env *env, struct intake *intake);
/* Those of that Study Instance UID; NULL: all. */
void held_route(struct held *h, const char *study);
/* Pages that are being read; those being taken in count as the intake's. */
size_t held_pending(const struct held *h);
/* After intake_close was called: what it takes in is not called back any more. Freed before cb. */
void held_close(struct held *h, void (*cb)(void *ctx), void *ctx);

#endif
