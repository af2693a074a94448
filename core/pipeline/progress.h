/* What is going on, for the log: totals every 10 s while there is work, with a line for each study
 * that moved since; one line per delivered study, when it has been quiet for a while and nothing of
 * it is on its way any more. Loop thread only. */
#ifndef PIPELINE_PROGRESS_H
#define PIPELINE_PROGRESS_H

#include "pipeline/env.h"
#include "pipeline/schedule.h"

struct progress;

struct progress_totals {
    uint64_t files, bytes; /* delivered since the start */
    uint64_t duplicates, conflicts, failed, rejected, held, vanished;
};

struct progress_handler {
    /* Writes why deliveries wait ("far: cannot connect"), "" if there is no reason but their turn.
     */
    void (*why)(char *text, size_t size, void *ctx);
    /* One line for people whenever the totals were logged. */
    void (*told)(const char *text, void *ctx);
    void *ctx;
};

int progress_open(struct progress **ret, const struct pipeline_env *env,
                  const struct progress_handler *handler);
void progress_outcome(struct progress *p, const struct schedule_outcome *o);
void progress_admitted(struct progress *p, const struct journal_admit *a);
void progress_get(const struct progress *p, struct progress_totals *ret);
/* The studies under way are logged as they are; freed before cb. */
void progress_close(struct progress *p, void (*cb)(void *ctx), void *ctx);

#endif
