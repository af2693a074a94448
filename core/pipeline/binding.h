/* Which routes a study or series is bound to: a bounded memory of the latest ones before the
 * journal. Two instances of one new study may be taken in at once: what the first decided is
 * remembered here before it is durable, so the second follows it. Loop thread only. */
#ifndef PIPELINE_BINDING_H
#define PIPELINE_BINDING_H

#include "journal/journal.h"

#include <stdbool.h>

#define BINDING_KEY_SIZE 80

struct binding_cache;

struct binding_lookup {
    char key[BINDING_KEY_SIZE];
    /* status 0: `routes`, the text of route.h, as stored, NULL if unbound; valid during the call.
     */
    void (*cb)(struct binding_lookup *l, int status, const char *routes, const struct err *e);
    /* private */
    struct binding_cache *cache;
    struct journal_binding op;
};

int binding_cache_open(struct binding_cache **ret, struct journal *journal);
/* l->key and l->cb are set; the caller owns *l until cb, which may come from within when the answer
 * is known. */
void binding_find(struct binding_cache *c, struct binding_lookup *l);
/* Remembers a binding unless the key is bound already; returns whether it was new. `routes` is
 * copied. */
bool binding_remember(struct binding_cache *c, const char *key, const char *routes);
/* Forgets what was remembered for a key (its admission failed). */
void binding_forget(struct binding_cache *c, const char *key);
/* No lookup may be under way. */
void binding_cache_close(struct binding_cache *c);

#endif
