#include "pipeline/trouble.h"

#include "base/log.h"

#include <stdlib.h>
#include <utlist.h>

#define TRY_AGAIN_MS 1000

struct trouble {
    uv_timer_t timer;
    struct trouble_waiter *waiters;
    bool present;
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
    if (!t->present) {
        t->present = true;
        t->err = *e;
        log_error("paused: local trouble, trying again every second",
                  LOG_STR("reason", t->err.text));
    }
    w->waiting = true;
    DL_APPEND(t->waiters, w);
    if (!uv_is_active((uv_handle_t *)&t->timer))
        uv_timer_start(&t->timer, try_again, TRY_AGAIN_MS, 0);
}

void trouble_forget(struct trouble *t, struct trouble_waiter *w)
{
    if (!w->waiting)
        return;
    w->waiting = false;
    DL_DELETE(t->waiters, w);
}

void trouble_over(struct trouble *t)
{
    if (!t->present)
        return;
    t->present = false;
    log_notice("resumed: the local trouble is over");
}

const char *trouble_text(const struct trouble *t)
{
    return t->present ? t->err.text : NULL;
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
