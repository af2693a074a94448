/* Whether a drop folder is the one we know: what is missing in a folder that is gone, or in the
 * empty mount point of a share that is not mounted, has not left it. Loop thread only. */
#ifndef PIPELINE_ROOTS_H
#define PIPELINE_ROOTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct roots;

/* What stat(2) of a drop folder said, on a pool thread. */
struct root_look {
    bool there;
    dev_t device;
};
void root_look(const char *path, struct root_look *ret);

int roots_open(struct roots **ret, size_t n);
/* Whether files of drop folder `watch` that were not found, as the look that came after says, have
 * left it. `others_found`: other files of it were found. Its device is remembered from the first
 * look on; one on another device is believed only if files are found in it (mounted anew). */
bool roots_trust(struct roots *r, size_t watch, const struct root_look *look, bool others_found);
/* A file on that device was found in the drop folder: its device, if it is not known yet. */
void roots_learn(struct roots *r, size_t watch, dev_t device);
void roots_close(struct roots *r);

#endif
