/* A compact memory of file versions (path, size, mtime): 16 bytes each, bounded, forgetful when
 * full.
 *
 * Polling needs to know when it saw a version first and whether it offered it already, for as many
 * files as stand in the folder; paths would cost ten times as much. Forgetting is harmless (the
 * version is looked at twice or offered again); taking one version for another needs equal 64-bit
 * hashes under a random seed. Not thread-safe. */
#ifndef WATCH_WATCH_SEEN_H
#define WATCH_WATCH_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct watch_seen_entry {
    uint64_t hash;       /* 0: free */
    uint32_t since : 30; /* first seen, in WATCH_SEEN_TICK_MS, wrapping */
    uint32_t offered : 1;
    uint32_t round : 1; /* of the last round that met it */
};

#define WATCH_SEEN_TICK_MS 10

struct watch_seen {
    struct watch_seen_entry *entries;
    size_t capacity; /* a power of two, or 0 */
    size_t used;
    size_t max; /* no more entries than this (a power of two) */
    uint64_t seed;
    uint32_t round : 1;
};

void watch_seen_init(struct watch_seen *t, size_t max);
/* Forgets everything; the table may be used on. */
void watch_seen_free(struct watch_seen *t);

uint64_t watch_seen_hash(const struct watch_seen *t, const char *path, uint64_t size,
                         int64_t mtime_ns);
/* NULL if unknown. Counts as met in this round. Valid until the next call that adds. */
struct watch_seen_entry *watch_seen_find(struct watch_seen *t, uint64_t hash);
/* Adds an unknown hash, not offered; may push out another one when full. NULL when out of memory.
 */
struct watch_seen_entry *watch_seen_add(struct watch_seen *t, uint64_t hash, uint64_t now_ms);
/* Milliseconds since the entry was added, rounded down. */
uint64_t watch_seen_age(const struct watch_seen_entry *e, uint64_t now_ms);

/* A round is one walk over everything: what was not met between begin and end is forgotten at the
 * end. */
void watch_seen_round_begin(struct watch_seen *t);
void watch_seen_round_end(struct watch_seen *t);

/* Everything is to be offered again (when it was first seen is kept). */
void watch_seen_reoffer(struct watch_seen *t);

#endif
