/* The whole way of a file, put together from a configuration: watches, intake, schedules, disposal,
 * sweep, progress. A reload closes one pipeline and opens the next on the same journal. Loop thread
 * only. */
#ifndef PIPELINE_PIPELINE_H
#define PIPELINE_PIPELINE_H

#include "config/config.h"
#include "dest/dest.h"
#include "journal/journal.h"
#include "pipeline/progress.h"
#include "pipeline/unread.h"
#include "pipeline/where.h"

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct pipeline;

struct pipeline_options {
    uv_loop_t *loop;
    const struct config *config; /* must outlive the pipeline */
    struct journal *journal;     /* likewise */
    const char *dicom_program;   /* dcmferry-dicom; NULL: where it is installed */
    bool rebuilding; /* the journal was restored: tell it when all drop folders were read again */
    /* One line on what is going on, every 10 s while there is work (for systemd's status). */
    void (*told)(const char *text, void *ctx);
    void *ctx;
};

/* After a failure *ret, unless it is NULL, has to be closed with pipeline_close all the same. */
int pipeline_open(struct pipeline **ret, const struct pipeline_options *options, struct err *e);

/* Whether nothing is under way but what waits in the journal: everything in the drop folders has
 * been journalled. */
bool pipeline_idle(const struct pipeline *p);

/* The operator changed rows: look for due deliveries, probe broken destinations. */
void pipeline_kick(struct pipeline *p);
/* Scan all drop folders again (rejected files were forgotten on request), and dispose of what is to
 * be disposed of. */
void pipeline_rescan(struct pipeline *p);

const struct config *pipeline_config(const struct pipeline *p);
/* The destination of that index in the configuration. */
struct dest *pipeline_dest(const struct pipeline *p, size_t index);
size_t pipeline_in_flight(const struct pipeline *p, size_t index);
void pipeline_totals(const struct pipeline *p, struct progress_totals *ret);
/* Files being taken in, and of them those that wait to become whole. */
void pipeline_intake(const struct pipeline *p, size_t *ret_pending, size_t *ret_settling);
/* Why a file that the journal does not know has no fate yet (where.h). */
int pipeline_where(struct pipeline *p, const char *path, where_cb cb, void *ctx);
/* The text of the present local trouble (a full disk…), NULL if there is none. */
const char *pipeline_trouble(const struct pipeline *p);
/* Whether that drop folder is there. */
bool pipeline_watch_present(const struct pipeline *p, size_t index);
/* What of it cannot be read. */
const struct unread *pipeline_watch_unread(const struct pipeline *p, size_t index);

/* Whether work hangs on a drop folder that does not answer: to close would take until it does. */
bool pipeline_stuck(const struct pipeline *p);

/* Stops taking in, lets uploads finish until deadline_ms, writes every verdict (schedule.h); freed
 * before cb. */
void pipeline_close(struct pipeline *p, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx);

#endif
