/* A YAML file as a tree with places: what libyaml parses, less what a configuration does not need.
 * Refused are anchors, aliases, merge keys and tags, more than one document, and excess in depth,
 * size or number.
 *
 * Beyond YAML: within {…} and […] a plain value may hold braces and brackets that are closed on the
 * same line, as in {move: /srv/sent/{StudyDate}} and {StationName: /^CT[12]$/}; YAML itself would
 * want quotes there. The value must not begin with them. */
#ifndef CONFIG_NODE_H
#define CONFIG_NODE_H

#include "config/fault.h"

#include <stdbool.h>
#include <stddef.h>

#define NODE_MAX_SIZE  (256 * 1024) /* bytes of a file */
#define NODE_MAX_DEPTH 12
#define NODE_MAX_ITEMS 1024 /* of one list or mapping */

enum node_type { NODE_SCALAR, NODE_LIST, NODE_MAP };
enum node_style { NODE_PLAIN, NODE_SINGLE_QUOTED, NODE_DOUBLE_QUOTED, NODE_BLOCK };

struct node {
    enum node_type type;
    enum node_style style;
    struct config_mark mark, end; /* end: just behind it */
    char *text;                   /* of a scalar; no NUL within */
    struct node **keys;           /* of a map: scalars */
    struct node **items;          /* values of a map or list, never NULL */
    size_t n;
};

/* NULL on a fault (or when out of memory), which is added. Duplicate keys are faults too. */
struct node *node_parse(const char *text, size_t size, struct fault_list *faults);
void node_free(struct node *node);

/* The value of a key, NULL if the map has none (or is not a map). */
const struct node *node_get(const struct node *map, const char *key);
/* The place of a key's value, or of the map if it has no such key. */
struct config_mark node_mark(const struct node *map, const char *key);
/* The place of the byte at `offset` of a scalar's text; its start where that cannot be told
 * (several lines, escapes). */
struct config_mark node_mark_within(const struct node *scalar, size_t offset);

/* Whether nothing was written (an empty plain scalar, ~ or null). */
bool node_is_null(const struct node *node);
/* For messages: "'text'", "nothing", "a list", "a mapping". */
const char *node_describe(const struct node *node, char out[FAULT_QUOTE_SIZE]);

#endif
