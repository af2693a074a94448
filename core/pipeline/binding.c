#include "pipeline/binding.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define CACHE_MAX 4096

struct entry {
    char key[BINDING_KEY_SIZE];
    UT_hash_handle hh;
    char routes[];
};

struct binding_cache {
    struct journal *journal;
    struct entry *entries; /* the latest used at the end */
};

int binding_cache_open(struct binding_cache **ret, struct journal *journal)
{
    struct binding_cache *c = calloc(1, sizeof *c);
    if (!c)
        return ERR_NOMEM;
    c->journal = journal;
    *ret = c;
    return 0;
}

static struct entry *find(struct binding_cache *c, const char *key)
{
    struct entry *e;
    HASH_FIND_STR(c->entries, key, e);
    if (e) {
        HASH_DEL(c->entries, e);
        HASH_ADD_STR(c->entries, key, e);
    }
    return e;
}

static void looked_up(struct journal_op *op, int status, const struct err *err)
{
    struct binding_lookup *l = op->ctx;
    char *stored = l->op.routes;
    if (status == 0 && stored)
        binding_remember(l->cache, l->key, stored);
    /* Another instance may have bound it while we asked. */
    struct entry *e = find(l->cache, l->key);
    l->cb(l, status, e ? e->routes : stored, err);
    free(stored);
}

void binding_find(struct binding_cache *c, struct binding_lookup *l)
{
    struct entry *e = find(c, l->key);
    if (e) {
        l->cb(l, 0, e->routes, NULL);
        return;
    }
    l->cache = c;
    l->op = (struct journal_binding){.op = {.cb = looked_up, .ctx = l}, .key = l->key};
    journal_binding(c->journal, &l->op);
}

bool binding_remember(struct binding_cache *c, const char *key, const char *routes)
{
    if (find(c, key))
        return false;
    size_t size = strlen(routes) + 1;
    struct entry *e = malloc(sizeof *e + size);
    if (!e)
        return true; /* the journal's own copy decides */
    memset(e, 0, sizeof *e);
    memcpy(e->key, key, strlen(key) + 1);
    memcpy(e->routes, routes, size);
    HASH_ADD_STR(c->entries, key, e);
    if (HASH_COUNT(c->entries) > CACHE_MAX) {
        struct entry *oldest = c->entries;
        HASH_DEL(c->entries, oldest);
        free(oldest);
    }
    return true;
}

void binding_forget(struct binding_cache *c, const char *key)
{
    struct entry *e;
    HASH_FIND_STR(c->entries, key, e);
    if (e) {
        HASH_DEL(c->entries, e);
        free(e);
    }
}

void binding_cache_close(struct binding_cache *c)
{
    struct entry *e, *next;
    if (!c)
        return;
    HASH_ITER(hh, c->entries, e, next)
    {
        HASH_DEL(c->entries, e);
        free(e);
    }
    free(c);
}
