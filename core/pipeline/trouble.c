#include "pipeline/trouble.h"

#include "base/log.h"

#include <stdlib.h>
#include <utlist.h>

#define TRY_AGAIN_MS 1000

struct trouble {
    uv_timer_t timer;
    struct trouble_waiter *waiters;
    unsigned n_troubled;
    struct err err;
};

int trouble_open(struct trouble **ret, uv_loop_t *loop)
{
    struct trouble *t = calloc(1, sizeof *t);
    if (!t)
        return ERR_NOMEM;
    uv_timer_init(loop, &t->timer);
    t->timer.data = t;
    *ret = t;
    return 0;
}

static void try_again(uv_timer_t *timer)
{
    struct trouble *t = timer->data;
    /* Only those that wait now: `again` may wait anew, or forget others. */
    unsigned n = 0;
    struct trouble_waiter *w;
    DL_COUNT(t->waiters, w, n);
    while (n-- > 0 && t->waiters) {
        w = t->waiters;
        DL_DELETE(t->waiters, w);
        w->waiting = false;
        w->again(w);
    }
}

void trouble_wait(struct trouble *t, struct trouble_waiter *w, const struct err *e)
{
    if (!w->troubled && t->n_troubled++ == 0) {
        t->err = *e;
        log_error("local trouble: what it concerns is paused and tried again every second",
                  LOG_STR("reason", t->err.text));
    }
    w->troubled = true;
    w->waiting = true;
    DL_APPEND(t->waiters, w);
    if (!uv_is_active((uv_handle_t *)&t->timer))
        uv_timer_start(&t->timer, try_again, TRY_AGAIN_MS, 0);
}

void trouble_over(struct trouble *t, struct trouble_waiter *w)
{
    if (!w->troubled)
        return;
    w->troubled = false;
    if (--t->n_troubled == 0)
        log_notice("the local trouble is over");
}

void trouble_forget(struct trouble *t, struct trouble_waiter *w)
{
    if (w->waiting)
        DL_DELETE(t->waiters, w);
    if (w->troubled)
        t->n_troubled--;
    w->waiting = w->troubled = false;
}

const char *trouble_text(const struct trouble *t)
{
    return t->n_troubled > 0 ? t->err.text : NULL;
}

static void closed(uv_handle_t *handle)
{
    free(handle->data);
}

void trouble_close(struct trouble *t)
{
    if (t)
        uv_close((uv_handle_t *)&t->timer, closed);
}
