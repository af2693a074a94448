#include "config/table.h"

#include "base/fsutil.h"
#include "base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define EXPECTED_DURATION "a duration such as 500ms, 2s, 5m, 1h or 90d"
#define EXPECTED_SIZE     "a size such as 512KiB or 20MB"

static const char *const TYPE_NAMES[] = {
    [TABLE_BOOL] = "true or false", [TABLE_INT] = "number",    [TABLE_UINT] = "number",
    [TABLE_DURATION] = "duration",  [TABLE_SIZE] = "size",     [TABLE_TEXT] = "text",
    [TABLE_TEXTS] = "text or list", [TABLE_PATH] = "path",     [TABLE_CHOICE] = "word",
    [TABLE_SECRET] = "secret",      [TABLE_TABLE] = "mapping", [TABLE_CUSTOM] = "value",
};

const char *table_type_name(const struct table_key *key)
{
    return key->expected != NULL ? key->expected : TYPE_NAMES[key->type];
}

char *table_strdup(struct reading *r, const char *text)
{
    char *copy = strdup(text);

    if (copy == NULL)
        r->faults->nomem = true;
    return copy;
}

static void expected(struct reading *r, const struct node *node, const char *path, const char *what)
{
    char quote[FAULT_QUOTE_SIZE];
    const char *hint = "";

    /* {Modality} and {Modality}/x are mappings to YAML. */
    if (node->type == NODE_MAP && node->n == 1 && node_is_null(node->items[0]))
        hint = "; put quotes around a value that begins with {";
    fault_add(r->faults, node->mark, path, "expected %s, found %s%s", what,
              node_describe(node, quote), hint);
}

const char *table_text(struct reading *r, const struct node *node, const char *path,
                       const char *what)
{
    if (node->type != NODE_SCALAR || node_is_null(node) || node->text[0] == '\0') {
        expected(r, node, path, what);
        return NULL;
    }
    return node->text;
}

void table_texts_free(char **texts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

bool table_texts(struct reading *r, const struct node *node, const char *path, const char *what,
                 bool empty, char ***ret, size_t *ret_n)
{
    bool one = node->type == NODE_SCALAR;
    size_t n = one ? 1 : node->n;
    bool good = true;

    if (node->type == NODE_MAP || (n == 0 && !one)) {
        if (node->type == NODE_LIST)
            fault_add(r->faults, node->mark, path, "expected %s, found an empty list", what);
        else
            expected(r, node, path, what);
        return false;
    }
    char **texts = calloc(n, sizeof(*texts));
    if (texts == NULL) {
        r->faults->nomem = true;
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const struct node *item = one ? node : node->items[i];
        bool blank = empty && item->type == NODE_SCALAR && item->style != NODE_PLAIN;

        if (!blank && table_text(r, item, path, what) == NULL)
            good = false;
        else
            texts[i] = table_strdup(r, item->text);
        good = good && texts[i] != NULL;
    }
    if (!good) {
        table_texts_free(texts, n);
        return false;
    }
    *ret = texts;
    *ret_n = n;
    return true;
}

static void read_bool(struct reading *r, const struct node *node, const char *path, void *target)
{
    bool value = node->type == NODE_SCALAR && strcasecmp(node->text, "true") == 0;

    if (node->type != NODE_SCALAR || node->style != NODE_PLAIN ||
        (!value && strcasecmp(node->text, "false") != 0)) {
        expected(r, node, path, "true or false");
        return;
    }
    *(bool *)target = value;
}

static void read_number(struct reading *r, const struct table_key *key, const struct node *node,
                        const char *path, void *target)
{
    long long value = 0;
    char *end = NULL;

    errno = 0;
    if (node->type == NODE_SCALAR && node->style == NODE_PLAIN)
        value = strtoll(node->text, &end, 10);
    if (end == NULL || end == node->text || *end != '\0' || errno != 0 || value < key->min ||
        value > key->max) {
        char what[80];

        snprintf(what, sizeof(what), "a whole number from %lld to %lld", (long long)key->min,
                 (long long)key->max);
        expected(r, node, path, what);
        return;
    }
    if (key->type == TABLE_INT)
        *(int *)target = (int)value;
    else
        *(unsigned *)target = (unsigned)value;
}

static void format_duration(char out[24], int64_t ms)
{
    static const struct {
        int64_t ms;
        const char *unit;
    } UNITS[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};

    for (size_t i = 0; i < sizeof(UNITS) / sizeof(UNITS[0]); i++) {
        if (ms % UNITS[i].ms == 0 && ms >= UNITS[i].ms) {
            snprintf(out, 24, "%lld%s", (long long)(ms / UNITS[i].ms), UNITS[i].unit);
            return;
        }
    }
    snprintf(out, 24, "0s");
}

static void read_quantity(struct reading *r, const struct table_key *key, const struct node *node,
                          const char *path, void *target)
{
    uint64_t value = 0;
    bool duration = key->type == TABLE_DURATION;
    char what[128];

    snprintf(what, sizeof(what), "%s%s%s%s", duration ? EXPECTED_DURATION : EXPECTED_SIZE,
             key->zero != NULL ? ", or '" : "", key->zero != NULL ? key->zero : "",
             key->zero != NULL ? "'" : "");
    /* `off` and the like are words to us, whatever YAML 1.1 makes of them. */
    if (key->zero != NULL && node->type == NODE_SCALAR && strcmp(node->text, key->zero) == 0) {
        *(uint64_t *)target = 0;
        return;
    }
    if (node->type != NODE_SCALAR || (duration ? text_parse_duration(node->text, &value)
                                               : text_parse_size(node->text, &value)) != 0) {
        expected(r, node, path, what);
        return;
    }
    if (key->max != 0 && (value < (uint64_t)key->min || value > (uint64_t)key->max)) {
        char low[24], high[24];

        if (duration) {
            format_duration(low, key->min);
            format_duration(high, key->max);
        } else {
            text_format_size((uint64_t)key->min, low);
            text_format_size((uint64_t)key->max, high);
        }
        snprintf(what, sizeof(what), "a %s from %s to %s%s%s%s", duration ? "duration" : "size",
                 low, high, key->zero != NULL ? ", or '" : "", key->zero != NULL ? key->zero : "",
                 key->zero != NULL ? "'" : "");
        expected(r, node, path, what);
        return;
    }
    *(uint64_t *)target = value;
}

static void read_choice(struct reading *r, const struct table_key *key, const struct node *node,
                        const char *path, void *target)
{
    char what[160] = "one of ";
    const char *closest = NULL;
    size_t n = 0;
    char quote[FAULT_QUOTE_SIZE];

    for (; key->choices[n] != NULL; n++) {
        if (node->type == NODE_SCALAR && strcmp(node->text, key->choices[n]) == 0) {
            *(int *)target = (int)n; /* enums without negative values are as wide as int */
            return;
        }
        size_t used = strlen(what);
        snprintf(what + used, sizeof(what) - used, "%s%s", n > 0 ? ", " : "", key->choices[n]);
    }
    if (node->type == NODE_SCALAR)
        closest = text_closest(node->text, key->choices, n);
    if (closest != NULL)
        fault_add(r->faults, node->mark, path, "expected %s, found %s; did you mean '%s'?", what,
                  node_describe(node, quote), closest);
    else
        expected(r, node, path, what);
}

static void read_path(struct reading *r, const struct node *node, const char *path, void *target)
{
    const char *text = table_text(r, node, path, "an absolute path");

    if (text == NULL)
        return;
    if (text[0] != '/') {
        expected(r, node, path, "an absolute path (it begins with /)");
        return;
    }
    char *normal = fsutil_normalise(text);
    if (normal == NULL)
        r->faults->nomem = true;
    free(*(char **)target);
    *(char **)target = normal;
}

static void read_secret(struct reading *r, const struct node *node, const char *path,
                        struct secret *target)
{
    static const char *const KINDS[] = {"file", "env", "credential"};
    static const enum secret_source SOURCES[] = {SECRET_FILE, SECRET_ENV, SECRET_CREDENTIAL};
    static const char EXPECTED[] = "{file: PATH}, {env: NAME} or {credential: NAME}";
    size_t kind = 0;

    /* Nothing of the value may get into a message: it may be the key itself. */
    if (node->type == NODE_SCALAR && !node_is_null(node) && node->text[0] != '\0') {
        if (r->exposed) {
            fault_add(r->faults, node->mark, path,
                      "a key stands in this file, which others can read: chmod 0600 the file, or "
                      "use %s",
                      EXPECTED);
            return;
        }
        target->reference = table_strdup(r, node->text);
        target->source = target->reference != NULL ? SECRET_LITERAL : SECRET_NONE;
        return;
    }
    if (node->type != NODE_MAP || node->n != 1) {
        fault_add(r->faults, node->mark, path, "expected %s", EXPECTED);
        return;
    }
    while (kind < 3 && strcmp(node->keys[0]->text, KINDS[kind]) != 0)
        kind++;
    if (kind == 3) {
        char quote[FAULT_QUOTE_SIZE];
        const char *closest = text_closest(node->keys[0]->text, KINDS, 3);

        fault_add(r->faults, node->keys[0]->mark, path, "unknown key %s; expected %s%s%s%s",
                  fault_quote(quote, node->keys[0]->text), EXPECTED,
                  closest != NULL ? "; did you mean '" : "", closest != NULL ? closest : "",
                  closest != NULL ? "'?" : "");
        return;
    }
    char below[FAULT_PATH_SIZE];
    const struct node *value = node->items[0];
    fault_path(below, path, KINDS[kind]);
    if (SOURCES[kind] == SECRET_FILE) {
        read_path(r, value, below, &target->reference);
    } else {
        const char *text = table_text(r, value, below, "a name");
        if (text != NULL && strchr(text, '/') != NULL)
            expected(r, value, below, "a name without /");
        else if (text != NULL)
            target->reference = table_strdup(r, text);
    }
    if (target->reference != NULL)
        target->source = SOURCES[kind];
}

static void read_value(struct reading *r, const struct table_key *key, const struct node *node,
                       const char *path, void *base)
{
    void *target = (char *)base + key->offset;

    switch (key->type) {
    case TABLE_BOOL:
        read_bool(r, node, path, target);
        break;
    case TABLE_INT:
    case TABLE_UINT:
        read_number(r, key, node, path, target);
        break;
    case TABLE_DURATION:
    case TABLE_SIZE:
        read_quantity(r, key, node, path, target);
        break;
    case TABLE_TEXT: {
        const char *text = table_text(r, node, path, table_type_name(key));
        if (text != NULL)
            *(char **)target = table_strdup(r, text);
        break;
    }
    case TABLE_TEXTS:
        if (key->zero != NULL && node->type == NODE_LIST && node->n == 0)
            break;
        table_texts(r, node, path, table_type_name(key), false, target,
                    (size_t *)(void *)((char *)base + key->offset_n));
        break;
    case TABLE_PATH:
        read_path(r, node, path, target);
        break;
    case TABLE_CHOICE:
        read_choice(r, key, node, path, target);
        break;
    case TABLE_SECRET:
        read_secret(r, node, path, target);
        break;
    case TABLE_TABLE: {
        struct node nothing = {.type = NODE_MAP};
        /* `log:` with all its keys commented out is null to YAML. */
        table_read(r, key->table, node_is_null(node) ? &nothing : node, path, target);
        break;
    }
    case TABLE_CUSTOM:
        key->read(r, node, path, target);
        break;
    }
}

/* Splits "a, b" in place of a list. */
static void fallback_texts(struct reading *r, const struct table_key *key, void *base)
{
    struct node list = {.type = NODE_LIST};
    struct node *items[64], scalars[64];
    char *text = table_strdup(r, key->fallback), *rest = NULL;

    if (text == NULL)
        return;
    memset(scalars, 0, sizeof(scalars));
    for (char *p = strtok_r(text, ",", &rest); p != NULL && list.n < 64;
         p = strtok_r(NULL, ",", &rest)) {
        scalars[list.n].text = p + (p[0] == ' ');
        items[list.n] = &scalars[list.n];
        list.n++;
    }
    list.items = items;
    read_value(r, key, &list, key->name, base);
    free(text);
}

static void fall_back(struct reading *r, const struct table_key *key, const char *path, void *base)
{
    if (key->type == TABLE_CUSTOM) {
        key->read(r, NULL, path, (char *)base + key->offset);
    } else if (key->type == TABLE_TABLE) {
        struct node nothing = {.type = NODE_MAP};
        table_read(r, key->table, &nothing, path, (char *)base + key->offset);
    } else if (key->type == TABLE_TEXTS && key->fallback != NULL) {
        fallback_texts(r, key, base);
    } else if (key->fallback != NULL) {
        char *text = table_strdup(r, key->fallback);
        struct node scalar = {.type = NODE_SCALAR, .text = text};
        if (text != NULL)
            read_value(r, key, &scalar, path, base);
        free(text);
    }
}

static void unknown_key(struct reading *r, const struct table_section *section,
                        const struct node *key, const char *path)
{
    const char *names[64];
    char known[512] = "";
    size_t n = 0;

    for (size_t i = 0; section->unavailable != NULL && section->unavailable[i] != NULL; i++) {
        if (strcmp(section->unavailable[i], key->text) == 0) {
            fault_add(r->faults, key->mark, path, "not available in this build");
            return;
        }
    }
    for (size_t i = 0; i < section->n && n < 64; i++) {
        size_t used = strlen(known);
        names[n++] = section->keys[i].name;
        snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "",
                 section->keys[i].name);
    }
    const char *closest = text_closest(key->text, names, n);
    if (closest != NULL)
        fault_add(r->faults, key->mark, path, "unknown key; did you mean '%s'?", closest);
    else
        fault_add(r->faults, key->mark, path, "unknown key; expected one of %s", known);
}

void table_read(struct reading *r, const struct table_section *section, const struct node *map,
                const char *path, void *target)
{
    char below[FAULT_PATH_SIZE];

    if (map->type != NODE_MAP) {
        expected(r, map, path, "a mapping (key: value)");
        return;
    }
    for (size_t i = 0; i < map->n; i++) {
        bool known = false;
        for (size_t k = 0; k < section->n; k++)
            known = known || strcmp(section->keys[k].name, map->keys[i]->text) == 0;
        if (!known) {
            fault_path(below, path, map->keys[i]->text);
            unknown_key(r, section, map->keys[i], below);
        }
    }
    for (size_t k = 0; k < section->n; k++) {
        const struct table_key *key = &section->keys[k];
        const struct node *node = node_get(map, key->name);

        fault_path(below, path, key->name);
        if (node != NULL)
            read_value(r, key, node, below, target);
        else if (key->required)
            fault_add(r->faults, map->mark, below, "missing: %s", key->help);
        else
            fall_back(r, key, below, target);
    }
}
