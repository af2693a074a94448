/* Local trouble: a full disk, no memory. Work that met it waits and is tried again every second;
 * the log says once when it begins and once when it is over. Loop thread only. */
#ifndef PIPELINE_TROUBLE_H
#define PIPELINE_TROUBLE_H

#include "base/err.h"

#include <stdbool.h>
#include <uv.h>

struct trouble;

/* Embedded in the work that waits; zero-initialise. `again` is called once per trouble_wait. */
struct trouble_waiter {
    void (*again)(struct trouble_waiter *w);
    struct trouble_waiter *prev, *next;
    bool waiting;
    bool troubled; /* since its first wait, until it succeeded or was forgotten */
};

int trouble_open(struct trouble **ret, uv_loop_t *loop);
/* `w` is tried again in a second. The first wait after good times is logged as an error with e's
 * text. */
void trouble_wait(struct trouble *t, struct trouble_waiter *w, const struct err *e);
/* What `w` waited for succeeded; when that is so for all that met trouble, it is over. Fine if it
 * met none. */
void trouble_over(struct trouble *t, struct trouble_waiter *w);
/* Forgets a waiter that is given up; fine if it met no trouble. */
void trouble_forget(struct trouble *t, struct trouble_waiter *w);
/* The text of the present trouble, NULL in good times. */
const char *trouble_text(const struct trouble *t);
/* No one may wait any more; freed when the timer is closed. */
void trouble_close(struct trouble *t);

#endif
