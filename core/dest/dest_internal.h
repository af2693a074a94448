/* Between the pieces of the front: dest (its life, breaker), dest_transfer (a delivery's way),
 * dest_line (who waits for memory, who for the rate limit). Loop thread only. */
#ifndef DEST_DEST_INTERNAL_H
#define DEST_DEST_INTERNAL_H

#include "dest/dest_breaker.h"
#include "dest/dest_bucket.h"
#include "dest/dest_refusals.h"
#include "dest/dest_type.h"

enum dest_transfer_state { OPENING, HASHING, REREADING, SENDING, CHECKING };
enum dest_line { NO_LINE, START_LINE, MEMORY_LINE, RATE_LINE };

struct dest {
    struct dest_env env;
    const struct config_destination *config;
    const struct dest_type *type;
    void *impl;
    size_t part_size, memory, memory_used;
    unsigned limit;
    struct dest_transfer *transfers;
    struct dest_transfer *instances; /* those begun, by SOP Instance UID */
    unsigned in_flight;
    struct dest_transfer *start_line, *memory_line, *rate_line;
    struct dest_delivery *unstarted; /* no memory for a transfer; chained by their `state` */
    struct dest_breaker breaker;
    struct dest_bucket bucket;
    struct dest_refusals refusals;
    struct err last_error;
    bool was_up;
    uint64_t retry_after_ms; /* of the last failure */
    uint64_t bytes_sent;
    uv_timer_t soon;     /* runs exactly while there is something to start */
    uv_timer_t probe;    /* runs while the breaker is open */
    uv_timer_t rate;     /* runs exactly while the rate line is not empty */
    uv_timer_t deadline; /* runs while closing with transfers begun */
    uv_timer_t pause;    /* runs exactly while paused */
    unsigned handles;
    bool closing, type_closing;
    void (*closed_cb)(void *ctx);
    void *closed_ctx;
};

/* dest.c */

void dest_changed(struct dest *d);
/* Goes on with closing when the last delivery is over. */
void dest_maybe_close(struct dest *d);

/* dest_line.c */

/* Memory for the next part, then dest_transfer_read. */
void dest_line_memory(struct dest_transfer *t);
void dest_line_unreserve(struct dest *d, size_t bytes);
/* The part that was read may go, then dest_transfer_hand_over. */
void dest_line_rate(struct dest_transfer *t);
void dest_line_leave(struct dest_transfer *t);

/* dest_transfer.c */

/* It comes back at once where another delivery of its instance is on its way. */
void dest_transfer_start(struct dest_transfer *t);
void dest_transfer_read(struct dest_transfer *t);
void dest_transfer_hand_over(struct dest_transfer *t);
/* Ends it for a reason that is not the type's. */
void dest_transfer_fail(struct dest_transfer *t, const struct err *e);

#endif
