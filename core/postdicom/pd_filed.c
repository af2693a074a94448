#include "postdicom/pd_filed.h"

#define HASH_NONFATAL_OOM 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define MAX_ENTRIES 1024

struct pd_filed_entry {
    char *key;
    UT_hash_handle hh;
};

static char *make_key(const char *order, const char *folder)
{
    char *key = NULL;
    return asprintf(&key, "%s %s", order, folder) < 0 ? NULL : key;
}

bool pd_filed_has(const struct pd_filed *f, const char *order, const char *folder)
{
    struct pd_filed_entry *n = NULL;
    char *key = make_key(order, folder);
    if (key)
        HASH_FIND_STR(f->entries, key, n);
    free(key);
    return n != NULL;
}

static void forget(struct pd_filed *f, struct pd_filed_entry *n)
{
    HASH_DEL(f->entries, n);
    free(n->key);
    free(n);
}

void pd_filed_add(struct pd_filed *f, const char *order, const char *folder)
{
    if (pd_filed_has(f, order, folder))
        return;
    if (HASH_COUNT(f->entries) >= MAX_ENTRIES)
        forget(f, f->entries); /* the oldest */
    struct pd_filed_entry *n = calloc(1, sizeof(*n));
    if (!n)
        return;
    n->key = make_key(order, folder);
    if (n->key)
        HASH_ADD_KEYPTR(hh, f->entries, n->key, strlen(n->key), n);
    if (!n->key || !n->hh.tbl) {
        free(n->key);
        free(n);
    }
}

void pd_filed_clear(struct pd_filed *f)
{
    while (f->entries)
        forget(f, f->entries);
}
