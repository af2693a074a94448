/* Hands due deliveries of one destination from the journal to it, and its verdicts back. Loop
 * thread only.
 *
 * A delivery is claimed (durably `sending`) only when the destination has room, in small windows,
 * so that a crash leaves few to be asked about; a verdict is done with only when it is on disk.
 * While the breaker is open nothing is claimed, and what comes back goes to the queue again without
 * counting a try: the breaker sets the pace then. */
#ifndef PIPELINE_SCHEDULE_H
#define PIPELINE_SCHEDULE_H

#include "dest/dest.h"
#include "pipeline/env.h"

struct schedule;

/* A verdict that is on disk. Texts are valid during the call. */
struct schedule_outcome {
    const struct journal_delivery_row *row;
    const char *destination;
    const struct dest_result *result;
    enum delivery_state state;
    bool file_delivered; /* every delivery of the file is there: dispose of the source */
};

struct schedule_handler {
    void (*settled)(const struct schedule_outcome *o, void *ctx);
    /* The source is another one now: take it in again. */
    void (*changed)(const struct journal_delivery_row *row, void *ctx);
    void *ctx;
};

int schedule_open(struct schedule **ret, const struct pipeline_env *env,
                  const struct config_destination *config, const struct schedule_handler *handler,
                  struct err *e);
/* There may be new due deliveries. */
void schedule_kick(struct schedule *s);
struct dest *schedule_dest(const struct schedule *s);
/* Why its deliveries wait, in a few words without patient data; NULL: for their turn. */
const char *schedule_why(const struct schedule *s);
/* Claimed deliveries that are not yet settled. */
size_t schedule_in_flight(const struct schedule *s);
/* Whether the destination is being sent a file of that drop folder. */
bool schedule_sends_from(const struct schedule *s, size_t watch);
/* Gives back what is not begun, lets the rest finish until deadline_ms, writes every verdict; freed
 * before cb. A verdict that local trouble (a full disk) keeps from being written for some seconds
 * is given up: its delivery stays `sending`, which the next start takes for uncertain. */
void schedule_close(struct schedule *s, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx);

#endif
