/* Shared by intake.c (batches, the table of files in the works, waiting), intake_file.c (the steps
 * of one file) and intake_custody.c (one of them). */
#ifndef PIPELINE_INTAKE_INTERNAL_H
#define PIPELINE_INTAKE_INTERNAL_H

#include "pipeline/binding.h"
#include "pipeline/intake.h"
#include "pipeline/route.h"
#include "worker/source.h"

#include <uthash.h>

/* Files of a drop folder being opened, read and admitted at a time: a batch of the watch. The more
 * there are, the more one commit serves. */
#define INTAKE_ACTIVE_MAX   WATCH_BATCH
#define INTAKE_SETTLING_MAX 4096 /* files waiting to become whole */

struct intake_batch {
    struct intake *intake;
    size_t watch;
    struct journal_lookup lookup;
    struct journal_lookup_entry *entries;
    size_t n, left;
    void (*done)(void *ctx, unsigned token);
    void *ctx;
    unsigned token;
    struct trouble_waiter waiter;
};

/* One file in the works. Invariants: it is in intake.files by its path; it is in exactly one of the
 * lists `ready` of its drop folder (waiting for its turn), `settling` (waiting to become whole), or
 * active (a step is under way). While a job is under way the pool writes `found_…`, `moved`, `fd`,
 * `status` and `err`, nothing else. */
struct intake_file {
    struct intake *intake;
    struct intake_batch *batch; /* NULL: no one waits for it */
    size_t watch;
    char *path;
    uint64_t size;
    int64_t mtime_ns;
    uint64_t file_id;  /* row to re-admit, 0 */
    uint64_t replaces; /* row of another version, 0 */
    bool known_size;   /* size and mtime are those that the journal was asked about */
    bool compare; /* the row's bytes are known and the size is equal: perhaps only the mtime changed
                   */
    uint8_t sha256[SOURCE_SHA256_SIZE];
    bool again; /* offered once more meanwhile */
    bool in_settling;
    uint64_t unchanged_since_ms, due_ms; /* settling */
    uint64_t found_size;                 /* by the job */
    int64_t found_mtime_ns;
    char *moved; /* by the job: where it is now */
    int fd;
    int status;
    struct err err;
    struct job job;
    struct dicom_read read;
    struct source *source;
    struct binding_lookup study, series;
    char *bound_series; /* the routes that the series is bound to, malloc'ed */
    struct route_decision decision;
    struct journal_new_delivery *deliveries;
    union {
        struct journal_lookup lookup;
        struct journal_touch touch;
        struct journal_admit admit;
    } op;
    struct journal_lookup_entry entry;
    struct dicom_header header; /* values are copies in `values` */
    char *values;
    bool has_header;
    struct journal_bind bind[2]; /* by this file's admission */
    size_t n_bind;
    struct trouble_waiter waiter;
    struct intake_file *prev, *next;
    UT_hash_handle hh;
};

/* A drop folder: one whose mount hangs holds up its own files only. */
struct intake_watch {
    struct intake_file *ready;
    unsigned n_active;
    bool told_custody; /* that its files cannot be renamed */
};

struct intake {
    struct pipeline_env env;
    struct intake_handler handler;
    bool closing;
    struct binding_cache *bindings;
    struct intake_file *files; /* by path */
    struct intake_watch *watches;
    struct intake_file *settling; /* soonest due first */
    size_t n_settling, n_batches;
    uv_timer_t timer; /* the first of settling is due */
    void (*closed)(void *ctx);
    void *closed_ctx;
    bool timer_closed;
};

/* intake_file.c: begins the steps of a file. */
void intake_file_start(struct intake_file *f);

/* intake_file.c: with the header known, and the file where it stays: finds its routes, and on. */
void intake_file_route(struct intake_file *f);
/* intake_file.c: `again` comes when the local trouble may be over. */
void intake_file_wait(struct intake_file *f, void (*again)(struct trouble_waiter *w),
                      const struct err *e);
/* intake_custody.c: renames the file into custody, and on. */
void intake_custody_take(struct intake_file *f);

static inline struct intake_file *intake_file_of_waiter(struct trouble_waiter *w)
{
    return (struct intake_file *)((char *)w - offsetof(struct intake_file, waiter));
}

static inline struct intake_file *intake_file_of_job(struct job *job)
{
    return (struct intake_file *)((char *)job - offsetof(struct intake_file, job));
}

static inline const struct config_watch *intake_watch_of(const struct intake_file *f)
{
    return &f->intake->env.config->watches[f->watch];
}

/* intake.c: the file is through (admitted, known, gone, dropped). */
void intake_file_finish(struct intake_file *f);
/* intake.c: look at it again in a while, because `reason`; the caller has set f->err to what to
 * reject it with. Returns false if it has waited long enough. */
bool intake_file_settle(struct intake_file *f);
/* intake.c: the file is at f->moved now; false if another one is in the works there. */
bool intake_file_moved(struct intake_file *f);
void intake_file_clear(struct intake_file *f); /* releases what the steps have gathered */

#endif
