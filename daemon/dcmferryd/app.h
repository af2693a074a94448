/* The daemon as a whole: configuration, journal, pipeline, control socket, and how they start,
 * reload and stop. */
#ifndef DCMFERRYD_APP_H
#define DCMFERRYD_APP_H

#include "base/err.h"
#include "config/config.h"
#include "journal/journal.h"
#include "pipeline/pipeline.h"

#include <stdbool.h>
#include <uv.h>

struct app;

struct app_options {
    const char *config_path;
    const char *dicom_program; /* NULL: where it is installed */
    bool once;                 /* drain what is there and stop */
};

/* Takes `config` over. Blocks for the journal's recovery. */
int app_start(struct app **ret, uv_loop_t *loop, const struct app_options *options,
              struct config *config, struct err *e);
/* Reads the configuration again (SIGHUP): wholly or not at all; `done` (may be NULL) tells how it
 * went, with every fault. */
void app_reload(struct app *a, void (*done)(int status, const char *text, void *ctx), void *ctx);
/* Begins the orderly end (SIGTERM); when all is closed the loop has nothing left to run. */
void app_stop(struct app *a);
/* After the loop ended: 0, or 1 if something failed (with once: also if a delivery failed). Frees.
 */
int app_finish(struct app *a);

/* For the control socket. */
struct journal *app_journal(const struct app *a);
struct pipeline *app_pipeline(const struct app *a); /* NULL while it is being replaced */

#endif
