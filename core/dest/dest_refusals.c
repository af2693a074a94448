#include "dest/dest_refusals.h"

#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define MAX_COUNTED 4096
#define ALL_IN_ROW  4

struct dest_refusal {
    uint64_t delivery;
    uint64_t since_ms, last_ms;
    unsigned times;
    UT_hash_handle hh;
};

static struct dest_refusal *find(const struct dest_refusals *r, uint64_t delivery)
{
    struct dest_refusal *n;
    HASH_FIND(hh, r->table, &delivery, sizeof(delivery), n);
    return n;
}

static void drop(struct dest_refusals *r, struct dest_refusal *n)
{
    HASH_DEL(r->table, n);
    free(n);
}

/* Those that are there stay, so that they come to their end and make room; but one that was not
 * tried again for so long is over. */
static struct dest_refusal *add_new(struct dest_refusals *r, uint64_t delivery, uint64_t now_ms)
{
    if (HASH_COUNT(r->table) >= MAX_COUNTED && now_ms - r->table->last_ms > r->most_ms)
        drop(r, r->table);
    if (HASH_COUNT(r->table) >= MAX_COUNTED)
        return NULL;
    struct dest_refusal *n = calloc(1, sizeof(*n));
    if (n) {
        n->delivery = delivery;
        n->since_ms = now_ms;
    }
    return n;
}

bool dest_refusals_add(struct dest_refusals *r, uint64_t delivery, uint64_t now_ms)
{
    struct dest_refusal *n = find(r, delivery);
    r->in_row++;
    if (n)
        HASH_DEL(r->table, n); /* and added again: the last one */
    else
        n = add_new(r, delivery, now_ms);
    if (!n)
        return false;
    n->times++;
    n->last_ms = now_ms;
    HASH_ADD(hh, r->table, delivery, sizeof(n->delivery), n);
    if (!n->hh.tbl) {
        free(n);
        return false;
    }
    uint64_t lasted = now_ms - n->since_ms;
    bool others = r->accepted && r->accepted_ms >= n->since_ms;
    return n->times >= r->least && lasted >= (others ? r->least_ms : r->most_ms);
}

void dest_refusals_accepted(struct dest_refusals *r, uint64_t now_ms)
{
    r->accepted = true;
    r->accepted_ms = now_ms;
    r->in_row = 0;
}

void dest_refusals_forget(struct dest_refusals *r, uint64_t delivery)
{
    struct dest_refusal *n = find(r, delivery);
    if (n)
        drop(r, n);
}

bool dest_refusals_has(const struct dest_refusals *r, uint64_t delivery)
{
    return find(r, delivery) != NULL;
}

bool dest_refusals_all(const struct dest_refusals *r)
{
    return r->in_row >= ALL_IN_ROW;
}

void dest_refusals_clear(struct dest_refusals *r)
{
    while (r->table)
        drop(r, r->table);
}
