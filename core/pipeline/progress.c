#include "pipeline/progress.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define TOTALS_MS   10000
#define QUIET_MS    5000  /* a study without news for that long is asked about */
#define ASK_MAX_MS  60000 /* …and again, less and less often, while deliveries of it are open */
#define STUDIES_MAX 512
#define TELL_MAX    10 /* studies under way told with the totals */

struct study {
    char key[160]; /* destination, a blank, Study Instance UID */
    uint64_t files, bytes, first_ms, last_ms, ask_ms;
    uint64_t told_files; /* with the last totals */
    UT_hash_handle hh;
};

struct progress {
    struct pipeline_env env;
    struct progress_totals totals;
    uint64_t told_bytes, told_files, told_ms;
    struct progress_handler handler;
    struct study *studies; /* the longest quiet first */
    struct journal_study ask;
    char ask_key[160], ask_destination[96];
    bool asking;
    struct journal_counts counts;
    bool counting, closing, timer_closed;
    uv_timer_t timer;
    uint64_t next_totals_ms;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void tick(uv_timer_t *timer);

int progress_open(struct progress **ret, const struct pipeline_env *env,
                  const struct progress_handler *handler)
{
    struct progress *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    p->env = *env;
    p->handler = *handler;
    uv_timer_init(env->loop, &p->timer);
    p->timer.data = p;
    *ret = p;
    return 0;
}

static void tell_study(struct study *s, const char *message)
{
    char size[16], rate[24], destination[96];
    size_t n = strcspn(s->key, " ");
    uint64_t ms = s->last_ms - s->first_ms;
    snprintf(destination, sizeof destination, "%.*s", (int)n, s->key);
    text_format_size(s->bytes * 1000 / (ms > 0 ? ms : 1), size);
    snprintf(rate, sizeof rate, "%s/s", size);
    text_format_size(s->bytes, size);
    log_info(message, LOG_STR("study", s->key + n + 1), LOG_STR("destination", destination),
             LOG_UINT("files", s->files), LOG_STR("size", size),
             LOG_DOUBLE("seconds", (double)ms / 1000.0), LOG_STR("rate", ms > 0 ? rate : NULL));
    s->told_files = s->files;
}

static void end_study(struct progress *p, struct study *s, const char *message)
{
    tell_study(s, message);
    HASH_DEL(p->studies, s);
    free(s);
}

static void maybe_closed(struct progress *p);

static void asked(struct journal_op *op, int status, const struct err *e)
{
    struct progress *p = op->ctx;
    uint64_t now = clock_monotonic_ms();
    struct study *s;
    (void)e;
    p->asking = false;
    if (p->closing) {
        maybe_closed(p);
        return;
    }
    HASH_FIND_STR(p->studies, p->ask_key, s);
    if (s && status == 0 && !p->ask.open && s->ask_ms <= now) {
        end_study(p, s, "study delivered");
    } else if (s && s->ask_ms <= now) {
        uint64_t quiet = now - s->last_ms;
        s->ask_ms = now + (quiet < ASK_MAX_MS ? quiet : ASK_MAX_MS);
    }
    uv_timer_start(&p->timer, tick, 0, 0);
}

/* Asks about the first study that has been quiet long enough; one at a time. */
static void ask_study(struct progress *p, uint64_t now)
{
    struct study *s, *next;
    if (p->asking)
        return;
    HASH_ITER(hh, p->studies, s, next)
    {
        if (s->ask_ms > now)
            continue;
        size_t n = strcspn(s->key, " ");
        memcpy(p->ask_key, s->key, sizeof s->key);
        snprintf(p->ask_destination, sizeof p->ask_destination, "%.*s", (int)n, s->key);
        p->ask = (struct journal_study){.op = {.cb = asked, .ctx = p},
                                        .study = p->ask_key + n + 1,
                                        .destination = p->ask_destination};
        p->asking = true;
        journal_study(p->env.journal, &p->ask);
        return;
    }
}

/* No timer runs while nothing moves: an idle daemon has no wakeups. */
static void wake(struct progress *p)
{
    if (p->closing || uv_is_active((uv_handle_t *)&p->timer))
        return;
    uint64_t now = clock_monotonic_ms();
    if (p->next_totals_ms < now) {
        p->next_totals_ms = now + TOTALS_MS;
        p->told_ms = now;
    }
    uv_timer_start(&p->timer, tick, 1000, 0);
}

void progress_outcome(struct progress *p, const struct schedule_outcome *o)
{
    uint64_t now = clock_monotonic_ms();
    const char *state = delivery_state_name(o->state);
    log_debug("delivery settled", LOG_UINT("delivery", o->row->id),
              LOG_STR("destination", o->destination), LOG_STR("study", o->row->study_instance_uid),
              LOG_STR("state", state), LOG_UINT("bytes", o->result->bytes),
              LOG_PATH("path", o->row->path));
    wake(p);
    switch (o->state) {
    case DELIVERY_DUPLICATE:
        p->totals.duplicates++;
        return;
    case DELIVERY_CONFLICT:
        p->totals.conflicts++;
        log_warning("conflict: the destination has other bytes under this SOP Instance UID",
                    LOG_UINT("delivery", o->row->id), LOG_STR("destination", o->destination),
                    LOG_STR("instance", o->row->sop_instance_uid),
                    LOG_STR("action",
                            "dcmferry files --problems shows it, dcmferry retry --anyway sends it"),
                    LOG_PATH("path", o->row->path));
        return;
    case DELIVERY_FAILED:
        p->totals.failed++;
        log_error(
            "delivery failed", LOG_UINT("delivery", o->row->id),
            LOG_STR("destination", o->destination), LOG_STR("study", o->row->study_instance_uid),
            LOG_STR("error", err_text(o->result->err.code)),
            LOG_STR("action", "dcmferry files --problems tells why, dcmferry retry tries again"));
        return;
    case DELIVERY_ENDED:
        p->totals.vanished++;
        log_error("a file left the drop folder before it was delivered",
                  LOG_UINT("file", o->row->file_id), LOG_STR("study", o->row->study_instance_uid),
                  LOG_PATH("path", o->row->path));
        return;
    case DELIVERY_DELIVERED:
        break;
    default:
        return;
    }
    p->totals.files++;
    p->totals.bytes += o->row->size;
    char key[160];
    snprintf(key, sizeof key, "%.90s %.64s", o->destination, o->row->study_instance_uid);
    struct study *s;
    HASH_FIND_STR(p->studies, key, s);
    if (s) {
        HASH_DEL(p->studies, s);
    } else {
        if (HASH_COUNT(p->studies) >= STUDIES_MAX)
            end_study(p, p->studies, "study under way");
        s = calloc(1, sizeof *s);
        if (!s)
            return;
        memcpy(s->key, key, sizeof s->key);
        s->first_ms = now;
    }
    s->files++;
    s->bytes += o->row->size;
    s->last_ms = now;
    s->ask_ms = now + QUIET_MS;
    HASH_ADD_STR(p->studies, key, s);
}

void progress_admitted(struct progress *p, const struct journal_admit *a)
{
    wake(p);
    if (a->state == FILE_REJECTED) {
        p->totals.rejected++;
        log_warning("rejected", LOG_UINT("file", a->file_id), LOG_STR("reason", a->reason),
                    LOG_PATH("path", a->path));
    } else if (a->state == FILE_HELD) {
        p->totals.held++;
        log_warning("held", LOG_UINT("file", a->file_id), LOG_STR("study", a->study_instance_uid),
                    LOG_STR("reason", a->reason), LOG_PATH("path", a->path));
    } else {
        log_debug("queued", LOG_UINT("file", a->file_id), LOG_STR("study", a->study_instance_uid),
                  LOG_UINT("deliveries", a->n_deliveries), LOG_PATH("path", a->path));
    }
}

void progress_get(const struct progress *p, struct progress_totals *ret)
{
    *ret = p->totals;
}

static void maybe_closed(struct progress *p)
{
    if (!p->closing || p->counting || p->asking || !p->timer_closed)
        return;
    void (*closed)(void *) = p->closed;
    void *ctx = p->closed_ctx;
    free(p);
    closed(ctx);
}

static void counted(struct journal_op *op, int status, const struct err *e)
{
    struct progress *p = op->ctx;
    const struct journal_counts *c = &p->counts;
    (void)e;
    p->counting = false;
    if (p->closing || status != 0) {
        maybe_closed(p);
        return;
    }
    struct study *s, *next;
    unsigned n = 0;
    HASH_ITER(hh, p->studies, s, next)
    {
        if (s->files > s->told_files && n++ < TELL_MAX)
            tell_study(s, "study under way");
    }
    uint64_t now = clock_monotonic_ms(), elapsed = now > p->told_ms ? now - p->told_ms : 1;
    uint64_t open = c->deliveries[DELIVERY_QUEUED] + c->deliveries[DELIVERY_SENDING] +
                    c->deliveries[DELIVERY_WAITING];
    uint64_t open_bytes = c->delivery_bytes[DELIVERY_QUEUED] + c->delivery_bytes[DELIVERY_SENDING] +
                          c->delivery_bytes[DELIVERY_WAITING];
    if (p->totals.files == p->told_files && open == 0)
        return;
    char rate[24], size[16], left[16], why[256] = "";
    if (open > 0)
        p->handler.why(why, sizeof why, p->handler.ctx);
    text_format_size((p->totals.bytes - p->told_bytes) * 1000 / elapsed, size);
    snprintf(rate, sizeof rate, "%s/s", size);
    text_format_size(p->totals.bytes, size);
    text_format_size(open_bytes, left);
    int64_t oldest =
        c->oldest_open_ms == INT64_MAX ? 0 : (clock_realtime_ms() - c->oldest_open_ms) / 1000;
    log_info("progress", LOG_UINT("delivered", p->totals.files), LOG_STR("size", size),
             LOG_STR("rate", rate), LOG_UINT("open", open), LOG_STR("open_size", left),
             LOG_UINT("waiting", c->deliveries[DELIVERY_WAITING]),
             LOG_UINT("failed", c->deliveries[DELIVERY_FAILED]),
             LOG_UINT("conflicts", c->deliveries[DELIVERY_CONFLICT]),
             LOG_UINT("held", c->files[FILE_HELD]), LOG_INT("oldest_seconds", oldest),
             LOG_STR("why", why[0] ? why : NULL), LOG_STR("trouble", trouble_text(p->env.trouble)));
    char line[256];
    snprintf(line, sizeof line, "%" PRIu64 " files delivered (%s, %s), %" PRIu64 " open (%s)%s%s",
             p->totals.files, size, rate, open, left, why[0] ? ": " : "", why);
    p->handler.told(line, p->handler.ctx);
    p->told_files = p->totals.files;
    p->told_bytes = p->totals.bytes;
    p->told_ms = now;
    if (open > 0)
        uv_timer_start(&p->timer, tick, 1000, 0);
}

static void tick(uv_timer_t *timer)
{
    struct progress *p = timer->data;
    uint64_t now = clock_monotonic_ms(), next_ms = UINT64_MAX;
    struct study *s, *next;
    ask_study(p, now);
    if (now >= p->next_totals_ms && !p->counting) {
        p->counting = true;
        p->counts.op = (struct journal_op){.cb = counted, .ctx = p};
        journal_counts(p->env.journal, &p->counts);
        p->next_totals_ms = now + TOTALS_MS;
    } else if (!p->counting) {
        next_ms = p->next_totals_ms;
    }
    HASH_ITER(hh, p->studies, s, next)
    {
        if (s->ask_ms < next_ms)
            next_ms = s->ask_ms;
    }
    /* An answer comes back here by itself. */
    if (next_ms != UINT64_MAX && !(p->asking && next_ms <= now))
        uv_timer_start(&p->timer, tick, next_ms > now ? next_ms - now : 1, 0);
}

static void timer_closed(uv_handle_t *handle)
{
    struct progress *p = handle->data;
    p->timer_closed = true;
    maybe_closed(p);
}

void progress_close(struct progress *p, void (*cb)(void *ctx), void *ctx)
{
    p->closing = true;
    p->closed = cb;
    p->closed_ctx = ctx;
    while (p->studies)
        end_study(p, p->studies, "study under way");
    uv_close((uv_handle_t *)&p->timer, timer_closed);
}
