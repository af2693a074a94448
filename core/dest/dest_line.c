/* The lines that deliveries wait in.
 *
 * Memory for parts is one sum per destination: who wants to read waits in line for it. It cannot
 * lock up, since a part that was read needs no more of it to be sent and released. */
#include "dest/dest_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <utlist.h>

void dest_line_leave(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    if (t->line == START_LINE)
        DL_DELETE2(d->start_line, t, line_prev, line_next);
    else if (t->line == MEMORY_LINE)
        DL_DELETE2(d->memory_line, t, line_prev, line_next);
    else if (t->line == RATE_LINE)
        DL_DELETE2(d->rate_line, t, line_prev, line_next);
    t->line = NO_LINE;
}

/* One reader at least, whatever the sum is. */
static bool memory_fits(const struct dest *d, size_t bytes)
{
    return d->memory_used == 0 || d->memory_used + bytes <= d->memory;
}

static void grant_memory(struct dest *d)
{
    struct dest_transfer *t;
    while ((t = d->memory_line) != NULL && memory_fits(d, t->reserved)) {
        dest_line_leave(t);
        d->memory_used += t->reserved;
        dest_transfer_read(t);
    }
}

void dest_line_memory(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    uint64_t left = t->delivery->size - t->offset;
    t->reserved = left < d->part_size ? (size_t)left : d->part_size;
    if (t->reserved == 0)
        t->reserved = 1; /* an empty file still has one part */
    t->line = MEMORY_LINE;
    DL_APPEND2(d->memory_line, t, line_prev, line_next);
    grant_memory(d);
}

void dest_line_unreserve(struct dest *d, size_t bytes)
{
    d->memory_used -= bytes;
    grant_memory(d);
}

void dest_release(struct dest *d, uint8_t *buffer, size_t size)
{
    free(buffer);
    dest_line_unreserve(d, size ? size : 1);
}

static void on_rate(uv_timer_t *timer)
{
    struct dest *d = timer->data;
    struct dest_transfer *t;
    while ((t = d->rate_line) != NULL) {
        uint64_t wait = dest_bucket_take(&d->bucket, t->buffer_size, clock_monotonic_ms());
        if (wait > 0) {
            uv_timer_start(&d->rate, on_rate, wait, 0);
            return;
        }
        dest_line_leave(t);
        dest_transfer_hand_over(t);
    }
}

void dest_line_rate(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    if (d->bucket.rate == 0) {
        dest_transfer_hand_over(t);
        return;
    }
    t->line = RATE_LINE;
    DL_APPEND2(d->rate_line, t, line_prev, line_next);
    if (!uv_is_active((uv_handle_t *)&d->rate))
        on_rate(&d->rate);
}
