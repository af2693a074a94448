#include "watch/watch_seen.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define WINDOW     64 /* linear probing, but no further than this */
#define FIRST      1024
#define SINCE_MASK ((UINT32_C(1) << 30) - 1)

static uint32_t tick(uint64_t ms)
{
    return (uint32_t)(ms / WATCH_SEEN_TICK_MS) & SINCE_MASK;
}

void watch_seen_init(struct watch_seen *t, size_t max)
{
    memset(t, 0, sizeof *t);
    t->max = max < FIRST ? FIRST : max;
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != (ssize_t)sizeof t->seed)
        t->seed = (uint64_t)(uintptr_t)t;
}

void watch_seen_free(struct watch_seen *t)
{
    free(t->entries);
    t->entries = NULL;
    t->capacity = 0;
    t->used = 0;
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= UINT64_C(0xff51afd7ed558ccd);
    h ^= h >> 33;
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ (h >> 33);
}

/* FNV-1a from a seed, then the finaliser of MurmurHash3 over the numbers. */
uint64_t watch_seen_hash(const struct watch_seen *t, const char *path, uint64_t size,
                         int64_t mtime_ns)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ t->seed;
    for (const unsigned char *p = (const unsigned char *)path; *p != 0; p++)
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    h = mix(mix(h ^ size) ^ (uint64_t)mtime_ns);
    return h == 0 ? 1 : h;
}

static struct watch_seen_entry *at(const struct watch_seen *t, uint64_t hash, size_t i)
{
    return &t->entries[(hash + i) & (t->capacity - 1)];
}

struct watch_seen_entry *watch_seen_find(struct watch_seen *t, uint64_t hash)
{
    if (t->capacity == 0)
        return NULL;
    for (size_t i = 0; i < WINDOW; i++) {
        struct watch_seen_entry *e = at(t, hash, i);
        if (e->hash == hash) {
            e->round = t->round;
            return e;
        }
        if (e->hash == 0)
            break;
    }
    return NULL;
}

static struct watch_seen_entry *place(struct watch_seen *t, uint64_t hash)
{
    for (size_t i = 0; i < WINDOW; i++) {
        struct watch_seen_entry *e = at(t, hash, i);
        if (e->hash == 0)
            return e;
    }
    return NULL;
}

/* Moves the entries, or only those met in this round, into a table of `capacity`; false when out of
 * memory. */
static bool rebuild(struct watch_seen *t, size_t capacity, bool only_met)
{
    struct watch_seen next = *t;
    next.entries = calloc(capacity, sizeof *next.entries);
    if (next.entries == NULL)
        return false;
    next.capacity = capacity;
    next.used = 0;
    for (size_t i = 0; i < t->capacity; i++) {
        const struct watch_seen_entry *e = &t->entries[i];
        if (e->hash == 0 || (only_met && e->round != t->round))
            continue;
        struct watch_seen_entry *to = place(&next, e->hash);
        if (to != NULL) {
            *to = *e;
            next.used++;
        }
    }
    free(t->entries);
    *t = next;
    return true;
}

struct watch_seen_entry *watch_seen_add(struct watch_seen *t, uint64_t hash, uint64_t now_ms)
{
    if (t->used * 2 >= t->capacity && t->capacity < t->max)
        (void)rebuild(t, t->capacity == 0 ? FIRST : t->capacity * 2, false);
    if (t->capacity == 0)
        return NULL;
    struct watch_seen_entry *e = place(t, hash);
    if (e == NULL)
        e = at(t, hash, (size_t)(hash >> 58)); /* full: some neighbour is forgotten */
    else
        t->used++;
    *e = (struct watch_seen_entry){.hash = hash, .since = tick(now_ms) & SINCE_MASK};
    e->round = t->round;
    return e;
}

uint64_t watch_seen_age(const struct watch_seen_entry *e, uint64_t now_ms)
{
    /* since was rounded down, so a whole tick less is certain */
    uint32_t ticks = (tick(now_ms) - e->since) & SINCE_MASK;
    return ticks == 0 ? 0 : (uint64_t)(ticks - 1) * WATCH_SEEN_TICK_MS;
}

void watch_seen_round_begin(struct watch_seen *t)
{
    t->round = !t->round;
}

void watch_seen_round_end(struct watch_seen *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->capacity; i++)
        kept += t->entries[i].hash != 0 && t->entries[i].round == t->round;
    if (kept == t->used)
        return;
    size_t capacity = FIRST;
    while (capacity < t->max && capacity < kept * 3)
        capacity *= 2;
    if (!rebuild(t, capacity, true))
        watch_seen_free(t); /* no memory: better look at everything twice than know wrong things */
}

void watch_seen_reoffer(struct watch_seen *t)
{
    for (size_t i = 0; i < t->capacity; i++)
        t->entries[i].offered = 0;
}
