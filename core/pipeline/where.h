/* Why a file that the journal does not know has no fate yet. Found out when somebody asks: nothing
 * is kept for files that are left out. Loop thread only. */
#ifndef PIPELINE_WHERE_H
#define PIPELINE_WHERE_H

#include "pipeline/env.h"
#include "pipeline/intake.h"

/* `state` is one word ("excluded"), `why` a sentence for people, which may hold the path's parts
 * and patterns of the configuration; both valid during the call. */
typedef void (*where_cb)(const char *state, const char *why, void *ctx);

/* `path`, absolute and normalised, is copied. `present`: whether its drop folder (by index)
 * answers, as the watch knows. The intake, if it is still there when the file was looked at, comes
 * from `intake`. cb once, never from within; ERR_NOMEM: not at all. */
struct where_handler {
    bool (*present)(size_t watch, void *ctx);
    const struct intake *(*intake)(void *ctx); /* NULL: it is closing */
    where_cb cb;
    void *ctx;
};
int where_ask(const struct pipeline_env *env, const char *path,
              const struct where_handler *handler);

#endif
