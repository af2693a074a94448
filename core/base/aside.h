/* Setting a file aside before it is removed or moved away for good: renamed, in its folder, to a
 * hidden name, so that what is looked at last is what goes, and not another version that took the
 * path in between. A crash leaves the hidden name; who scans the folder puts it back. Thread-safe;
 * blocks. */
#ifndef BASE_ASIDE_H
#define BASE_ASIDE_H

#include "base/err.h"

#include <stdbool.h>

/* The hidden name of `path`, as a path; malloc'ed, NULL when out of memory. */
char *aside_name(const char *path);
/* Whether a name of a folder's entry is such a one. */
bool aside_is(const char *name);

/* Renames `path` to its hidden name `aside`, which another one must not hold. Not durable: after a
 * power loss it may have either name. ERR_VANISHED: it was not there; ERR_EXISTS; ERR_TOO_LARGE:
 * the hidden name would be too long; else as errno says. */
int aside_take(const char *path, const char *aside, struct err *e);

/* Durably gives what stands at a hidden name its own name back, or, if that is taken by now, that
 * name with "~1" and so on. ERR_VANISHED: nothing stands there. */
int aside_put_back(const char *aside, struct err *e);

#endif
