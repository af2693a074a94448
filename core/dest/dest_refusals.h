/* Which deliveries the destination refused, how often and since when: whether one is given up. What
 * a server says when it refuses is not known well enough to tell a file that it will never take
 * from trouble of its own, so it is asked again and again: a file is given up when it was refused
 * `least` times over `least_ms` and others were taken meanwhile, or after `most_ms` in any case.
 * Pure: time comes from outside. It is kept in memory only: after a restart counting begins anew.
 */
#ifndef DEST_DEST_REFUSALS_H
#define DEST_DEST_REFUSALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dest_refusal;

struct dest_refusals {
    /* set by the owner */
    unsigned least;
    uint64_t least_ms, most_ms;
    /* private */
    struct dest_refusal *table; /* the one refused longest ago first; bounded */
    uint64_t accepted_ms;       /* when the destination last took something */
    bool accepted;
    unsigned in_row; /* refusals since then */
};

/* It was refused; returns whether for good. Where memory is short, or too many are counted, it is
 * as if it were the first time. */
bool dest_refusals_add(struct dest_refusals *r, uint64_t delivery, uint64_t now_ms);
/* The destination took something. */
void dest_refusals_accepted(struct dest_refusals *r, uint64_t now_ms);
/* The delivery is over. */
void dest_refusals_forget(struct dest_refusals *r, uint64_t delivery);
bool dest_refusals_has(const struct dest_refusals *r, uint64_t delivery);
/* So many in a row, of whatever deliveries, that the destination seems to refuse everything. */
bool dest_refusals_all(const struct dest_refusals *r);
void dest_refusals_clear(struct dest_refusals *r);

#endif
