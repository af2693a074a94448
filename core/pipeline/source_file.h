/* What is done to one source file whose fate is on disk: removed or moved, if it is still the
 * version that was journalled. Blocks: on a pool thread. */
#ifndef PIPELINE_SOURCE_FILE_H
#define PIPELINE_SOURCE_FILE_H

#include "config/config.h"

#include <stdbool.h>
#include <stdint.h>

struct source_file {
    const struct config_watch *watch; /* in */
    const char *path;                 /* in */
    uint64_t size;
    int64_t mtime_ns;
    bool remove;               /* in: else it is moved */
    const char *target_folder; /* in: where to, absolute */
    bool gone;                 /* out: it (or that version of it) does not stand there any more */
    char *target;              /* out: where it was moved to, malloc'ed, else NULL */
    const char *note;          /* out, static: why it was left, else NULL */
    bool read_only;            /* out: because its folder lets nothing go */
    struct err err;            /* out: it may be tried again */
};

/* What goes is set aside under a hidden name first (base/aside.h), so that it is what was looked
 * at. Never overwrites: a taken name gets a number. Prunes empty folders where the drop folder
 * wants it. */
void source_file_dispose(struct source_file *f);

#endif
