/* Mappings of the configuration as tables: name, type, default, where it goes, one line of help.
 * The tables drive the reading; a test holds the example file and the man page against them. */
#ifndef CONFIG_TABLE_H
#define CONFIG_TABLE_H

#include "config/node.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum table_type {
    TABLE_BOOL,     /* bool */
    TABLE_INT,      /* int, min..max */
    TABLE_UINT,     /* unsigned, min..max */
    TABLE_DURATION, /* uint64_t milliseconds, min..max; `zero` is a word for 0 */
    TABLE_SIZE,     /* uint64_t bytes; `zero` likewise */
    TABLE_TEXT,     /* char * */
    TABLE_TEXTS,  /* char ** and at offset_n size_t; one text or a list; `zero` is "[]" where it may
                     be empty */
    TABLE_PATH,   /* char *, absolute, normalised */
    TABLE_CHOICE, /* enum: index into choices */
    TABLE_SECRET, /* struct secret */
    TABLE_TABLE,  /* a mapping with its own keys; targets of it count from the same base */
    TABLE_CUSTOM, /* read() does it */
};

struct reading {
    struct config *config;
    struct fault_list *faults;
    enum config_paths paths;
    bool exposed; /* others can read the file: no literal secrets in it */
};

struct table_section;

struct table_key {
    const char *name;
    enum table_type type;
    const char *fallback; /* the default as one would write it (a list: "a, b"); NULL: none */
    const char *help;
    size_t offset, offset_n;
    int64_t min, max; /* both 0: any */
    const char *zero;
    const char *const *choices; /* NULL-terminated */
    const struct table_section *table;
    /* Custom keys; `node` is NULL where the key is not given. Adds its own faults. */
    void (*read)(struct reading *r, const struct node *node, const char *path, void *target);
    bool required;
    const char *expected; /* of custom keys: their type, for people */
};

struct table_section {
    const char *name; /* as the man page has it: "watch[]", "destinations.NAME" */
    const struct table_key *keys;
    size_t n;
    const char *const *unavailable; /* keys of other builds, NULL-terminated; may be NULL */
};

/* Reads a mapping into `target`. What is faulty is left zero; strings belong to the target. */
void table_read(struct reading *r, const struct table_section *section, const struct node *map,
                const char *path, void *target);

/* "a duration", "text", … as the man page has it. */
const char *table_type_name(const struct table_key *key);

/* For custom keys. A scalar's text (of any style, not null, not empty), else a fault. */
const char *table_text(struct reading *r, const struct node *node, const char *path,
                       const char *expected);
/* strdup with the failure recorded. */
char *table_strdup(struct reading *r, const char *text);
/* The texts of a scalar or of a list of scalars; `empty`: whether "" may be one. False on a fault.
 */
bool table_texts(struct reading *r, const struct node *node, const char *path, const char *expected,
                 bool empty, char ***ret, size_t *ret_n);
void table_texts_free(char **texts, size_t n);

#endif
