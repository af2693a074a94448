/* Which names count: dot names never, then the exclude globs, then the include globs. Pure. */
#ifndef WATCH_WATCH_FILTER_H
#define WATCH_WATCH_FILTER_H

#include "watch/watch.h"

struct watch_filter {
    char **include;
    size_t n_include;
    char **exclude;
    size_t n_exclude;
};

/* Copies the globs of `o`. ERR_NOMEM (nothing to free then). */
int watch_filter_init(struct watch_filter *f, const struct watch_options *o);
void watch_filter_free(struct watch_filter *f);

/* The glob of `exclude` that the path matches, NULL if none. */
const char *watch_filter_excluded(const struct watch_filter *f, const char *rel);
/* `rel` is the path relative to the drop folder. The folders above it have passed before. */
bool watch_filter_file(const struct watch_filter *f, const char *rel);
/* Whether the folder is gone into at all: `include` speaks of files and does not count here. */
bool watch_filter_folder(const struct watch_filter *f, const char *rel);

#endif
