#include "pipeline/schedule.h"

#include "base/clock.h"
#include "base/log.h"
#include "pipeline/retry.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#define CLAIM_MIN 32
#define ROOT_GONE_MS                                                                               \
    30000 /* a delivery whose drop folder is not there is tried again after that                   \
           */

#define LATE_TRIES 3 /* of a verdict that cannot be written, while closing */

/* One claimed delivery, until its verdict is on disk. */
struct sending {
    struct schedule *schedule;
    struct journal_delivery_row *row;
    struct dest_delivery delivery;
    struct dest_result result;
    struct journal_settle settle;
    struct journal_vanish vanish;
    struct job job; /* looks for the drop folder of a source that is gone */
    struct root_look root;
    size_t watch;
    bool gone; /* with its drop folder: it has not vanished */
    unsigned late_tries;
    struct trouble_waiter waiter;
    struct sending *prev, *next; /* in `ready` until handed to the destination, then in `out` */
};

struct schedule {
    struct pipeline_env env;
    const struct config_destination *config;
    struct schedule_handler handler;
    struct dest *dest;
    struct journal_claim claim;
    bool claiming, claim_again, closing, dest_closed, timer_closed;
    bool held; /* by an operator, as of the last claim */
    struct trouble_waiter claim_waiter;
    struct sending *ready, *out;
    size_t n_ready, n_unsettled;
    uv_timer_t timer;      /* the next waiting delivery is due */
    enum dest_health told; /* what the log said last */
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void pump(struct schedule *s);
static void submit_verdict(struct sending *x);

static uint32_t random32(void)
{
    uint32_t r = 0;
    if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
        r = (uint32_t)clock_monotonic_us();
    return r;
}

static void maybe_closed(struct schedule *s)
{
    if (!s->closing || !s->dest_closed || !s->timer_closed || s->claiming || s->n_unsettled > 0)
        return;
    void (*closed)(void *) = s->closed;
    void *ctx = s->closed_ctx;
    trouble_forget(s->env.trouble, &s->claim_waiter);
    free(s);
    closed(ctx);
}

/* ---- Verdicts ---- */

static void end_sending(struct sending *x)
{
    struct schedule *s = x->schedule;
    trouble_forget(s->env.trouble, &x->waiter);
    journal_delivery_row_free(x->row);
    free(x);
    /* What waited behind another delivery of its instance is free by now: one look when all is
     * quiet. */
    if (--s->n_unsettled == 0)
        s->claim_again = true;
    if (s->closing)
        maybe_closed(s); /* frees it */
    else
        pump(s);
}

static void verdict_again(struct trouble_waiter *w)
{
    submit_verdict((struct sending *)((char *)w - offsetof(struct sending, waiter)));
}

/* Whether the verdict has to be submitted again. */
static bool verdict_failed(struct sending *x, int status, const struct err *e)
{
    if (status == 0) {
        trouble_over(x->schedule->env.trouble, &x->waiter);
        return false;
    }
    if (err_class(status) == ERR_CLASS_LOCAL && status != ERR_DAMAGED) {
        if (x->schedule->closing && x->late_tries++ == LATE_TRIES) {
            log_notice("a verdict cannot be written: the next start asks the destination",
                       LOG_UINT("delivery", x->row->id), LOG_STR("reason", e->text));
            return false; /* the row stays `sending` */
        }
        x->waiter.again = verdict_again;
        trouble_wait(x->schedule->env.trouble, &x->waiter, e);
        return true;
    }
    /* The row moved on without us (its file was rewritten, an operator held it): nothing to write.
     */
    log_debug("a verdict came too late", LOG_UINT("delivery", x->row->id),
              LOG_STR("reason", e->text));
    return false;
}

static void settled(struct journal_op *op, int status, const struct err *e)
{
    struct sending *x = op->ctx;
    struct schedule *s = x->schedule;
    if (verdict_failed(x, status, e))
        return;
    if (status == 0) {
        struct schedule_outcome outcome = {.row = x->row,
                                           .destination = s->config->name,
                                           .result = &x->result,
                                           .state = x->settle.state,
                                           .file_delivered = x->settle.file_delivered};
        s->handler.settled(&outcome, s->handler.ctx);
        if (x->settle.state == DELIVERY_QUEUED || x->settle.state == DELIVERY_WAITING)
            s->claim_again = true;
        if (x->result.verdict == DEST_CHANGED && !s->closing)
            s->handler.changed(x->row, s->handler.ctx);
    }
    end_sending(x);
}

static void vanished(struct journal_op *op, int status, const struct err *e)
{
    struct sending *x = op->ctx;
    struct schedule *s = x->schedule;
    if (verdict_failed(x, status, e))
        return;
    if (status == 0) {
        struct schedule_outcome outcome = {.row = x->row,
                                           .destination = s->config->name,
                                           .result = &x->result,
                                           .state = DELIVERY_ENDED};
        s->handler.settled(&outcome, s->handler.ctx);
    }
    end_sending(x);
}

static void decide_retry(const struct schedule *s, const struct sending *x,
                         struct journal_settle *settle)
{
    const struct config_destination *c = s->config;
    int64_t now = clock_realtime_ms();
    struct dest_status status;
    settle->uncertain = x->result.uncertain;
    if (c->give_up_after_ms > 0 && now - x->row->created_ms > (int64_t)c->give_up_after_ms) {
        settle->state = DELIVERY_FAILED;
        settle->count_attempt = true;
        return;
    }
    if (s->dest)
        dest_get_status(s->dest, &status);
    if (!s->dest || status.health == DEST_BROKEN || status.health == DEST_AUTH_FAILED) {
        settle->state = DELIVERY_QUEUED;
        return;
    }
    settle->state = DELIVERY_WAITING;
    settle->count_attempt = true;
    settle->next_ms =
        now + (int64_t)retry_delay_ms(x->row->attempts + 1, c->retry_min_ms, c->retry_max_ms,
                                      x->result.retry_after_ms, random32());
}

static void submit_verdict(struct sending *x)
{
    struct schedule *s = x->schedule;
    const struct dest_result *r = &x->result;
    if (r->verdict == DEST_VANISHED && !x->gone) {
        x->vanish =
            (struct journal_vanish){.op = {.cb = vanished, .ctx = x},
                                    .file_id = x->row->file_id,
                                    .reason = "left the drop folder before it was delivered"};
        journal_vanish(s->env.journal, &x->vanish);
        return;
    }
    struct journal_settle *settle = &x->settle;
    *settle = (struct journal_settle){.op = {.cb = settled, .ctx = x},
                                      .delivery_id = x->row->id,
                                      .reason = r->err.text[0] ? r->err.text : NULL,
                                      .bytes = r->bytes,
                                      .remote_id = r->remote_id[0] ? r->remote_id : NULL};
    switch (r->verdict) {
    case DEST_DELIVERED:
    case DEST_DUPLICATE:
        settle->state = r->verdict == DEST_DELIVERED ? DELIVERY_DELIVERED : DELIVERY_DUPLICATE;
        settle->count_attempt = true;
        settle->has_sha256 = true;
        memcpy(settle->sha256, r->sha256, sizeof settle->sha256);
        break;
    case DEST_CONFLICT:
        settle->state = DELIVERY_CONFLICT;
        settle->count_attempt = true;
        settle->has_sha256 = true;
        memcpy(settle->sha256, r->sha256, sizeof settle->sha256);
        break;
    case DEST_FAILED:
        settle->state = DELIVERY_FAILED;
        settle->count_attempt = true;
        break;
    case DEST_CHANGED: /* intake replaces the row; until then do not spin on it */
        settle->state = DELIVERY_WAITING;
        settle->uncertain = r->uncertain;
        settle->next_ms = clock_realtime_ms() + 5000;
        break;
    case DEST_RETRY:
        decide_retry(s, x, settle);
        break;
    case DEST_VANISHED:
        settle->state = DELIVERY_WAITING;
        settle->uncertain = r->uncertain;
        settle->reason = "its drop folder is not there";
        settle->next_ms = clock_realtime_ms() + ROOT_GONE_MS;
        break;
    case DEST_ABANDONED:
        settle->state = DELIVERY_QUEUED;
        settle->uncertain = r->uncertain;
        settle->reason = NULL;
        break;
    }
    journal_settle(s->env.journal, settle);
}

static void look_work(struct job *job)
{
    struct sending *x = job->data;
    root_look(x->row->watch, &x->root);
}

static void looked(struct job *job)
{
    struct sending *x = job->data;
    x->gone = !roots_trust(x->schedule->env.roots, x->watch, &x->root, false);
    submit_verdict(x);
}

static void sent(struct dest_delivery *d, const struct dest_result *result)
{
    struct sending *x = d->ctx;
    struct schedule *s = x->schedule;
    x->result = *result;
    DL_DELETE(s->out, x);
    if (result->verdict == DEST_VANISHED) {
        x->job = (struct job){
            .work = look_work, .done = looked, .mount = pipeline_mount(x->watch), .data = x};
        job_submit(s->env.jobs, &x->job);
    } else {
        submit_verdict(x);
    }
    if (!s->closing)
        pump(s);
}

/* ---- Claims ---- */

static void due(uv_timer_t *timer)
{
    struct schedule *s = timer->data;
    schedule_kick(s);
}

static void claim(struct schedule *s);

static void claim_waited(struct trouble_waiter *w)
{
    struct schedule *s = (struct schedule *)((char *)w - offsetof(struct schedule, claim_waiter));
    s->claiming = false;
    if (s->closing)
        maybe_closed(s);
    else
        pump(s);
}

static void make_ready(struct schedule *s, struct journal_delivery_row *row)
{
    struct sending *x = calloc(1, sizeof *x);
    if (!x) {
        /* It stays `sending` until the next start: rare enough to be honest about it. */
        log_error("out of memory: a delivery is put off until the next start",
                  LOG_UINT("delivery", row->id));
        journal_delivery_row_free(row);
        return;
    }
    x->schedule = s;
    x->row = row;
    s->n_unsettled++;
    s->n_ready++;
    DL_APPEND(s->ready, x);
}

static void give_back(struct sending *x)
{
    DL_DELETE(x->schedule->ready, x);
    x->schedule->n_ready--;
    x->result = (struct dest_result){.verdict = DEST_ABANDONED, .uncertain = x->row->uncertain};
    submit_verdict(x);
}

static void claimed(struct journal_op *op, int status, const struct err *e)
{
    struct schedule *s = op->ctx;
    if (status != 0 && err_class(status) == ERR_CLASS_LOCAL && status != ERR_DAMAGED) {
        s->claim_again = true;
        s->claim_waiter.again = claim_waited;
        trouble_wait(s->env.trouble, &s->claim_waiter, e);
        return; /* claiming stays set */
    }
    s->claiming = false;
    if (status == 0)
        trouble_over(s->env.trouble, &s->claim_waiter);
    if (status != 0) {
        if (!s->closing)
            log_error("no deliveries can be claimed", LOG_STR("destination", s->config->name),
                      LOG_STR("reason", e->text));
        maybe_closed(s);
        return;
    }
    if (s->claim.n == s->claim.limit)
        s->claim_again = true;
    s->held = s->claim.held;
    for (size_t i = 0; i < s->claim.n; i++)
        make_ready(s, s->claim.rows[i]);
    free(s->claim.rows);
    s->claim.rows = NULL;
    if (s->closing || s->held)
        while (s->ready)
            give_back(s->ready);
    if (s->closing) {
        maybe_closed(s);
        return;
    }
    if (s->claim.next_due_ms != INT64_MAX) {
        int64_t wait = s->claim.next_due_ms - clock_realtime_ms();
        uv_timer_start(&s->timer, due, wait < 1 ? 1 : (uint64_t)wait, 0);
    }
    pump(s);
}

static void claim(struct schedule *s)
{
    unsigned room = dest_capacity(s->dest);
    s->claiming = true;
    s->claim_again = false;
    s->claim = (struct journal_claim){.op = {.cb = claimed, .ctx = s},
                                      .destination = s->config->name,
                                      .limit = room == 1          ? 1
                                               : room < CLAIM_MIN ? CLAIM_MIN
                                                                  : room,
                                      .now_ms = clock_realtime_ms()};
    journal_claim(s->env.journal, &s->claim);
}

static void hand_over(struct schedule *s, struct sending *x)
{
    const struct journal_delivery_row *row = x->row;
    size_t watch = 0;
    while (watch < s->env.config->n_watches &&
           strcmp(s->env.config->watches[watch].path, row->watch) != 0)
        watch++;
    x->watch = watch;
    x->delivery = (struct dest_delivery){
        .id = row->id,
        .path = row->path,
        .mount = pipeline_mount(watch),
        .size = row->size,
        .mtime_ns = row->mtime_ns,
        .sop_class_uid = row->sop_class_uid,
        .sop_instance_uid = row->sop_instance_uid,
        .study_instance_uid = row->study_instance_uid,
        .series_instance_uid = row->series_instance_uid,
        .transfer_syntax_uid = row->transfer_syntax_uid,
        .folder = row->folder,
        .uncertain = row->uncertain,
        .send_anyway = row->send_anyway,
        .has_sibling = row->has_sibling,
        .sibling_folder = row->sibling_folder,
        .sibling_remote_id = row->sibling_remote_id,
        .cb = sent,
        .ctx = x,
    };
    memcpy(x->delivery.sibling_sha256, row->sibling_sha256, sizeof x->delivery.sibling_sha256);
    DL_APPEND(s->out, x);
    dest_send(s->dest, &x->delivery);
}

static void pump(struct schedule *s)
{
    while (s->ready && dest_capacity(s->dest) > 0) {
        struct sending *x = s->ready;
        DL_DELETE(s->ready, x);
        s->n_ready--;
        hand_over(s, x);
    }
    if (dest_capacity(s->dest) == 0) {
        /* Nothing may stay claimed while the destination is down: a crash would make all of it
         * uncertain. */
        struct dest_status status;
        dest_get_status(s->dest, &status);
        if (status.health == DEST_BROKEN || status.health == DEST_AUTH_FAILED)
            while (s->ready)
                give_back(s->ready);
        return;
    }
    if (!s->claiming && s->claim_again && s->n_ready < CLAIM_MIN / 2)
        claim(s);
}

void schedule_kick(struct schedule *s)
{
    if (s->closing)
        return;
    s->claim_again = true;
    pump(s);
}

/* Once a change, not once a try. */
static void tell_health(struct schedule *s)
{
    struct dest_status status;
    dest_get_status(s->dest, &status);
    if (status.health == s->told)
        return;
    bool was_down = s->told == DEST_BROKEN || s->told == DEST_AUTH_FAILED;
    s->told = status.health;
    if (status.health == DEST_BROKEN)
        log_error("a destination cannot be reached: its deliveries wait, one at a time is tried",
                  LOG_STR("destination", s->config->name),
                  LOG_STR("error", err_text(status.last_error.code)),
                  LOG_STR("action", "dcmferry doctor --destination NAME tells more"));
    else if (status.health == DEST_AUTH_FAILED)
        log_error("a destination refuses our keys or certificate: its deliveries wait",
                  LOG_STR("destination", s->config->name),
                  LOG_STR("error", err_text(status.last_error.code)),
                  LOG_STR("action",
                          "mend the keys (they are read again by themselves), then: dcmferry "
                          "retry --destination NAME"));
    else if (was_down)
        log_notice("a destination is back", LOG_STR("destination", s->config->name));
}

static void dest_changed(struct dest *d, void *ctx)
{
    struct schedule *s = ctx;
    (void)d;
    if (!s->dest)
        return;
    tell_health(s);
    if (!s->closing)
        pump(s);
}

/* ---- Open, close ---- */

int schedule_open(struct schedule **ret, const struct pipeline_env *env,
                  const struct config_destination *config, const struct schedule_handler *handler,
                  struct err *e)
{
    struct schedule *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    s->env = *env;
    s->config = config;
    s->handler = *handler;
    struct dest_env dest_env = {.loop = env->loop,
                                .jobs = env->jobs,
                                .reader = env->reader,
                                .changed = dest_changed,
                                .ctx = s};
    int rc = dest_open(&s->dest, &dest_env, config, e);
    if (rc != 0) {
        free(s);
        return rc;
    }
    uv_timer_init(env->loop, &s->timer);
    s->timer.data = s;
    *ret = s;
    return 0;
}

struct dest *schedule_dest(const struct schedule *s)
{
    return s->dest;
}

const char *schedule_why(const struct schedule *s)
{
    struct dest_status status;
    if (s->held)
        return "held by an operator";
    if (!s->dest)
        return NULL;
    dest_get_status(s->dest, &status);
    return status.health == DEST_BROKEN || status.health == DEST_AUTH_FAILED
               ? err_text(status.last_error.code)
               : NULL;
}

size_t schedule_in_flight(const struct schedule *s)
{
    return s->n_unsettled;
}

bool schedule_sends_from(const struct schedule *s, size_t watch)
{
    const struct sending *x;
    DL_FOREACH(s->out, x)
    if (x->watch == watch)
        return true;
    return false;
}

static void timer_closed(uv_handle_t *handle)
{
    struct schedule *s = handle->data;
    s->timer_closed = true;
    maybe_closed(s);
}

static void dest_closed(void *ctx)
{
    struct schedule *s = ctx;
    s->dest = NULL;
    s->dest_closed = true;
    maybe_closed(s);
}

void schedule_close(struct schedule *s, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx)
{
    s->closing = true;
    s->closed = cb;
    s->closed_ctx = ctx;
    while (s->ready)
        give_back(s->ready);
    uv_close((uv_handle_t *)&s->timer, timer_closed);
    dest_close(s->dest, deadline_ms, dest_closed, s);
}
