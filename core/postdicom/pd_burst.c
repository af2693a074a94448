#include "postdicom/pd_burst.h"

#include <stdlib.h>
#include <string.h>

#define MAX_IDLE 256 /* without users */

static void burst_free(struct pd_burst *b)
{
    free(b->study);
    free(b);
}

void pd_bursts_end(struct pd_bursts *t, struct pd_burst *b)
{
    if (b->state == PD_BURST_ENDED)
        return;
    HASH_DEL(t->table, b);
    b->state = PD_BURST_ENDED;
    if (b->users == 0)
        burst_free(b);
}

void pd_bursts_forget(struct pd_bursts *t, const char *study)
{
    struct pd_burst *b;
    HASH_FIND(hh, t->table, study, strlen(study), b);
    if (b)
        pd_bursts_end(t, b);
}

void pd_bursts_release(struct pd_bursts *t, struct pd_burst *b)
{
    (void)t;
    if (--b->users == 0 && b->state == PD_BURST_ENDED)
        burst_free(b);
}

/* The oldest go when there are too many. */
static void trim(struct pd_bursts *t)
{
    struct pd_burst *b, *next;
    HASH_ITER(hh, t->table, b, next)
    {
        if (HASH_COUNT(t->table) < MAX_IDLE)
            return;
        if (b->users == 0)
            pd_bursts_end(t, b);
    }
}

static struct pd_burst *burst_new(struct pd_bursts *t, const char *study, unsigned generation)
{
    struct pd_burst *b = calloc(1, sizeof(*b));
    if (b && (b->study = strdup(study)) != NULL) {
        b->generation = generation;
        HASH_ADD_KEYPTR(hh, t->table, b->study, strlen(b->study), b);
        if (b->hh.tbl)
            return b;
        free(b->study);
    }
    free(b);
    return NULL;
}

struct pd_burst *pd_bursts_get(struct pd_bursts *t, const char *study, unsigned generation,
                               uint64_t now_ms)
{
    struct pd_burst *b;
    HASH_FIND(hh, t->table, study, strlen(study), b);
    if (b && (b->generation != generation || b->given >= t->max_files ||
              (b->users == 0 && now_ms - b->used_ms >= t->idle_ms))) {
        pd_bursts_end(t, b);
        b = NULL;
    }
    if (!b) {
        trim(t);
        b = burst_new(t, study, generation);
        if (!b)
            return NULL;
    }
    b->users++;
    b->given++;
    b->used_ms = now_ms;
    return b;
}

void pd_bursts_clear(struct pd_bursts *t)
{
    struct pd_burst *b, *next;
    HASH_ITER(hh, t->table, b, next)
    {
        pd_bursts_end(t, b);
    }
}
