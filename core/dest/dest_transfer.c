/* A delivery's way: wait for memory -> open the source and read its first part -> (hash, compare
 * with the sibling) -> the type sends it, part by part -> check the source again -> one result. */
#include "dest/dest_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define MAX_ATTEMPTS 4

/* ---- the end of a delivery ---- */

static void drop_source(struct dest_transfer *t)
{
    uint8_t *buffer = t->buffer;
    size_t reserved = t->line == MEMORY_LINE ? 0 : t->reserved; /* there it is only waited for */
    dest_line_leave(t);
    t->buffer = NULL;
    t->reserved = 0;
    t->reading = false;
    if (t->source)
        source_close_free(t->source, buffer);
    else
        free(buffer);
    t->source = NULL;
    if (reserved)
        dest_line_unreserve(t->dest, reserved);
}

static void finish(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    struct dest_delivery *delivery = t->delivery;
    struct dest_result result = t->result;
    drop_source(t);
    DL_DELETE(d->transfers, t);
    if (t->hh.tbl)
        HASH_DELETE(hh, d->instances, t);
    d->in_flight--;
    d->bytes_sent += result.bytes;
    if (d->breaker.probing && d->in_flight == 0)
        dest_breaker_unprobed(&d->breaker);
    if (result.verdict != DEST_RETRY && result.verdict != DEST_ABANDONED)
        dest_refusals_forget(&d->refusals, delivery->id);
    delivery->state = NULL;
    free(t);
    delivery->cb(delivery, &result);
    dest_changed(d);
    dest_maybe_close(d);
}

static void finish_with(struct dest_transfer *t, enum dest_verdict verdict, const struct err *e)
{
    t->result.verdict = verdict;
    if (e)
        t->result.err = *e;
    finish(t);
}

static enum dest_verdict verdict_of(int status)
{
    switch (status) {
    case ERR_VANISHED:
        return DEST_VANISHED;
    case ERR_CHANGED:
        return DEST_CHANGED;
    case ERR_CANCELED:
        return DEST_ABANDONED;
    case ERR_ACCESS:
        return DEST_RETRY; /* rights come back */
    default:
        return err_class(status) == ERR_CLASS_PERMANENT ? DEST_FAILED : DEST_RETRY;
    }
}

/* Trouble of ours with the file while the type has it. */
void dest_transfer_fail(struct dest_transfer *t, const struct err *e)
{
    struct dest *d = t->dest;
    if (t->with_type) {
        t->result.uncertain = t->result.uncertain || d->type->begun(t);
        t->with_type = false;
        d->type->abort(d->impl, t);
    }
    t->result.uncertain = t->result.uncertain || t->sent_before || t->result.bytes > 0;
    finish_with(t, verdict_of(e->code), e);
}

static void fail_nomem(struct dest_transfer *t)
{
    struct err e;
    err_set(&e, ERR_NOMEM, "no memory to send a file");
    dest_transfer_fail(t, &e);
}

/* ---- the source is checked a last time ---- */

static void on_checked(struct source *s, int status, size_t bytes_read, const struct err *e,
                       void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)bytes_read;
    t->reading = false;
    /* Gone since: what was sent is what was journalled, and there is nothing left to compare. */
    if (status && status != ERR_VANISHED) {
        struct err why = *e;
        dest_transfer_fail(t, &why);
        return;
    }
    source_sha256(s, t->result.sha256);
    finish_with(t, t->check_verdict_duplicate ? DEST_DUPLICATE : DEST_DELIVERED, NULL);
}

static void check(struct dest_transfer *t)
{
    t->state = CHECKING;
    t->reading = true;
    int status = source_check(t->source, on_checked, t);
    if (status) {
        struct err e;
        t->reading = false;
        err_set(&e, status, "%s", err_text(status));
        dest_transfer_fail(t, &e);
    }
}

/* ---- between us and the type ---- */

void dest_transfer_hand_over(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    uint8_t *buffer = t->buffer;
    size_t size = t->buffer_size;
    t->buffer = NULL;
    t->reserved = 0; /* goes with the buffer: dest_release */
    t->wanted = false;
    d->type->part(d->impl, t, buffer, size);
}

static void on_read(struct source *s, int status, size_t bytes_read, const struct err *e, void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)s;
    t->reading = false;
    if (status) {
        struct err why = *e;
        dest_transfer_fail(t, &why);
        return;
    }
    t->buffer_size = bytes_read;
    t->offset += bytes_read;
    if (t->wanted)
        dest_line_rate(t);
}

void dest_want(struct dest_transfer *t)
{
    t->wanted = true;
    if (t->buffer && !t->reading)
        dest_line_rate(t); /* the first part */
    else
        dest_line_memory(t);
}

static void begin(struct dest_transfer *t)
{
    t->state = OPENING;
    dest_line_memory(t);
}

static void restart(struct dest_transfer *t)
{
    t->attempt++;
    t->offset = 0;
    t->wanted = false;
    drop_source(t);
    begin(t);
}

static void send_compared(struct dest_transfer *t);

void dest_done(struct dest_transfer *t, const struct dest_outcome *o)
{
    struct dest *d = t->dest;
    t->with_type = false;
    t->result.bytes += o->bytes;
    memcpy(t->result.remote_id, o->remote_id, sizeof(t->result.remote_id));
    if (o->status == 0) {
        dest_refusals_accepted(&d->refusals, clock_monotonic_ms());
        check(t);
        return;
    }
    if (t->check_verdict_duplicate && o->status == ERR_REFUSED) {
        send_compared(t); /* the sibling's order is not there any more */
        return;
    }
    bool doubt = t->sent_before;
    t->sent_before = t->sent_before || o->uncertain || o->bytes > 0;
    if (o->again && t->attempt + 1 < MAX_ATTEMPTS && !d->closing) {
        restart(t);
        return;
    }
    if (o->status == ERR_REFUSED) { /* this time nothing is left there */
        t->result.uncertain = doubt;
        bool over = dest_refusals_add(&d->refusals, t->delivery->id, clock_monotonic_ms());
        finish_with(t, over ? DEST_FAILED : DEST_RETRY, &o->err);
        return;
    }
    t->result.uncertain = o->uncertain || t->sent_before;
    t->result.retry_after_ms = d->retry_after_ms;
    finish_with(t, verdict_of(o->status), &o->err);
}

static void send_it(struct dest_transfer *t)
{
    t->state = SENDING;
    t->with_type = true;
    t->dest->type->send(t->dest->impl, t);
}

/* ---- duplicates ---- */

static void on_reread(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    on_read(s, status, bytes_read, e, t);
    if (status == 0)
        send_it(t);
}

/* Sends it, although the destination had it once. */
static void send_compared(struct dest_transfer *t)
{
    t->check_verdict_duplicate = false;
    if (t->delivery->size <= t->buffer_size) {
        send_it(t);
        return;
    }
    /* Hashing went over the whole file: the first part is the next one again. */
    t->state = REREADING;
    t->offset = 0;
    t->reading = true;
    if (source_read(t->source, t->buffer, t->reserved, on_reread, t)) {
        t->reading = false;
        fail_nomem(t);
    }
}

/* The whole file is hashed: against the sibling. */
static void compare(struct dest_transfer *t)
{
    const struct dest_delivery *delivery = t->delivery;
    uint8_t own[SOURCE_SHA256_SIZE];
    if (!source_sha256(t->source, own)) {
        fail_nomem(t);
        return;
    }
    if (memcmp(own, delivery->sibling_sha256, sizeof(own)) != 0) {
        struct err e;
        err_set(&e, ERR_EXISTS,
                "the destination has other bytes under this SOP Instance UID, from an earlier "
                "delivery");
        memcpy(t->result.sha256, own, sizeof(own));
        finish_with(t, DEST_CONFLICT, &e);
        return;
    }
    const char *folder = delivery->folder ? delivery->folder : "";
    const char *sibling = delivery->sibling_folder ? delivery->sibling_folder : "";
    const char *remote = delivery->sibling_remote_id ? delivery->sibling_remote_id : "";
    t->check_verdict_duplicate = true;
    if (!*folder || strcmp(folder, sibling) == 0) {
        strncpy(t->result.remote_id, remote, sizeof(t->result.remote_id) - 1);
        check(t);
    } else if (*remote) {
        t->state = SENDING;
        t->with_type = true;
        t->dest->type->file_sibling(t->dest->impl, t);
    } else {
        /* Which order it is can be found out only by asking for the file, or by sending it. */
        t->known_whole = true;
        send_compared(t);
    }
}

static void on_hashed(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    (void)s;
    (void)bytes_read;
    t->reading = false;
    if (status) {
        struct err why = *e;
        dest_transfer_fail(t, &why);
        return;
    }
    compare(t);
}

static void on_opened(struct source *s, int status, size_t bytes_read, const struct err *e,
                      void *ctx)
{
    struct dest_transfer *t = ctx;
    on_read(s, status, bytes_read, e, t);
    if (status)
        return;
    if (!t->delivery->has_sibling || t->delivery->send_anyway) {
        send_it(t);
        return;
    }
    t->state = HASHING;
    if (source_sha256(t->source, t->result.sha256)) {
        compare(t);
        return;
    }
    t->reading = true;
    if (source_hash(t->source, on_hashed, t)) {
        t->reading = false;
        fail_nomem(t);
    }
}

/* ---- reading ---- */

void dest_transfer_read(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    const struct dest_delivery *delivery = t->delivery;
    int status;
    t->buffer = malloc(t->reserved);
    t->reading = true;
    if (!t->buffer) {
        t->reading = false;
        fail_nomem(t);
        return;
    }
    if (t->source)
        status = source_read(t->source, t->buffer, t->reserved, on_read, t);
    else
        status =
            source_open(&t->source, d->env.jobs, delivery->mount, delivery->path, delivery->size,
                        delivery->mtime_ns, t->buffer, t->reserved, on_opened, t);
    if (status) {
        t->reading = false;
        fail_nomem(t);
    }
}

/* The journal hands out one delivery of an instance at a time, but one that has ended (its file
 * vanished or was rewritten) may still be on its way: what it leaves at the destination must be
 * known before the next is compared with it. */
void dest_transfer_start(struct dest_transfer *t)
{
    struct dest *d = t->dest;
    const char *sop = t->delivery->sop_instance_uid;
    struct dest_transfer *other;
    struct err e;
    HASH_FIND_STR(d->instances, sop, other);
    if (other) {
        err_set(&e, ERR_BUSY, "an older delivery of this instance is still on its way");
        finish_with(t, DEST_RETRY, &e);
        return;
    }
    /* What is known of folder and upload session was made anew after its first refusal. */
    t->attempt = dest_refusals_has(&d->refusals, t->delivery->id) ? 1 : 0;
    HASH_ADD_KEYPTR(hh, d->instances, sop, strlen(sop), t);
    if (t->hh.tbl)
        begin(t);
    else
        fail_nomem(t);
}
