/* What becomes of a source file once its fate is on disk: deleted, moved, or left (rule 1). Loop
 * thread only.
 *
 * Memory holds a window of what is to be done; the journal has all of it. A drop folder whose mount
 * hangs, or whose target is full, holds up its own files only.
 *
 * A file is touched only if it is still the version that was journalled. Never overwrites: a taken
 * name gets a number. A source that may not be changed (read-only) is marked in the journal and
 * left. */
#ifndef PIPELINE_DISPOSAL_H
#define PIPELINE_DISPOSAL_H

#include "pipeline/env.h"

struct disposal;

int disposal_open(struct disposal **ret, const struct pipeline_env *env);

/* Whether a delivered (or rejected) file of that drop folder is to be touched at all. */
bool disposal_wanted(const struct config_watch *w, bool rejected);

/* Disposes of one file; the strings are copied. */
void disposal_file(struct disposal *d, size_t watch, uint64_t file_id, const char *path,
                   uint64_t size, int64_t mtime_ns, bool rejected);
/* Finds the files whose disposal a crash left open, and disposes of them, a few at a time. */
void disposal_resume(struct disposal *d);

size_t disposal_pending(const struct disposal *d);
/* Lets what is under way finish (work on a pool thread cannot be stopped); freed before cb. */
void disposal_close(struct disposal *d, void (*cb)(void *ctx), void *ctx);

#endif
