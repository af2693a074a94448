/* Removes files from the folders that delivered ones were moved to, when `retention` has passed
 * since then: only files that the journal says we moved there, and only while they are what we
 * moved; and the folders below the one named in the configuration that are empty then. An hourly
 * look, at all drop folders at once, if any drop folder wants it; no timer otherwise. Loop thread
 * only. */
#ifndef PIPELINE_RETENTION_H
#define PIPELINE_RETENTION_H

#include "pipeline/env.h"

struct retention;

/* The first look comes at once. */
int retention_open(struct retention **ret, const struct pipeline_env *env);
/* Lets what is under way finish; freed before cb. */
void retention_close(struct retention *r, void (*cb)(void *ctx), void *ctx);

#endif
