/* From a complete-looking file to the journal: open, read the header in a worker, route, admit.
 * Loop thread only.
 *
 * Happy path of one file: offered in a batch → the journal does not know it → opened and looked at
 * on the thread pool → its header read in a worker → the routes of its study found → admitted,
 * durable → the batch is done when all of its files are. A file that is cut short (or empty, or not
 * readable) waits and is looked at again until `settle_timeout` has passed since it last changed;
 * then it is rejected with that reason; for local trouble (no memory, a share that gives errors)
 * none is rejected. A path is in the works once at a time. With `custody: rename` a file is renamed
 * when its header shows it whole. */
#ifndef PIPELINE_INTAKE_H
#define PIPELINE_INTAKE_H

#include "pipeline/env.h"
#include "watch/watch.h"

struct intake;

struct intake_handler {
    /* A file has its fate, on disk. `watch` is an index in the configuration. Valid during the
     * call. */
    void (*admitted)(size_t watch, const struct journal_admit *a, void *ctx);
    /* Too many files wait to become whole: offer the tree of that drop folder again later. */
    void (*crowded)(size_t watch, void *ctx);
    void *ctx;
};

int intake_open(struct intake **ret, const struct pipeline_env *env,
                const struct intake_handler *handler);

/* Files that a watch of drop folder `watch` offers; `done` comes once when all were dealt with,
 * never from within. */
void intake_offer(struct intake *in, size_t watch, const struct watch_file *files, size_t n,
                  void (*done)(void *ctx, unsigned token), void *ctx, unsigned token);
/* Looks at one path again: it changed while it was sent. */
void intake_again(struct intake *in, size_t watch, const char *path);

/* A row that no route took. */
struct intake_held {
    size_t watch;
    uint64_t file_id;
    const char *path;
};
/* Routes held rows again; `done` as with intake_offer, but perhaps from within. Strings are copied.
 */
void intake_reroute(struct intake *in, const struct intake_held *held, size_t n,
                    void (*done)(void *ctx, unsigned token), void *ctx, unsigned token);

/* The hidden folder below a drop folder into which `custody: rename` takes files. */
#define INTAKE_CUSTODY ".dcmferry"

/* The part of an absolute path below its drop folder (or its custody folder); points into `path`.
 */
const char *intake_relative(const struct config_watch *w, const char *path);

/* Files in the works, and of them those that wait to become whole. */
size_t intake_pending(const struct intake *in);
size_t intake_settling(const struct intake *in);
enum intake_place { INTAKE_NOT_THERE, INTAKE_WORKING, INTAKE_SETTLING };
/* Whether that path is in the works; SETTLING also tells why it is not taken for whole. */
enum intake_place intake_find(const struct intake *in, const char *path, char *reason, size_t size);
/* What is not yet admitted is dropped (a scan finds it again); batches are not called back. cb when
 * all is quiet. */
void intake_close(struct intake *in, void (*cb)(void *ctx), void *ctx);

#endif
