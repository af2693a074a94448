/* Makes folders durable, and takes empty ones away. All block: call them on the thread pool or a
 * thread of one's own, never on the loop (but at start). Thread-safe. Return 0 or a negative ERR_
 * code with *e filled; its text names no path (rule 6: texts are logged). */
#ifndef BASE_FOLDER_H
#define BASE_FOLDER_H

#include "base/err.h"

#include <limits.h>
#include <sys/types.h>

/* For folders that others read too: mode, group and set-group-ID of the folder each is made in,
 * whatever the umask; but always all for its owner, and no writing for others. The group stays the
 * process's own where it may not give that one. */
#define FOLDER_AS_ABOVE ((mode_t)-1)

/* Makes `path` and the folders above it that are missing, with `mode` (less the umask, as mkdir(2))
 * or FOLDER_AS_ABOVE. When it returns, the path is durable: every name on it, whoever made the
 * folder, is fsynced in the folder above (rule 5), but for those in folders that may not be read. A
 * folder of which this is known is not fsynced again. */
int folder_make(const char *path, mode_t mode, struct err *e);

/* fsync of a folder; of the one that holds `path`. */
int folder_sync(const char *path, struct err *e);
int folder_sync_above(const char *path, struct err *e);
/* The path of the folder that holds `path`, by its text. */
int folder_above(const char *path, char out[PATH_MAX], struct err *e);

/* Removes the folders above `path` as long as they are empty; `stop`, below which all of them lie,
 * stays. Nothing if `path` is not below `stop`. Not made durable: empty folders may come back. */
void folder_prune_above(const char *path, const char *stop);

#endif
