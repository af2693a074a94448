/* The parts of the reader, one file per top-level key: each holds its table and what the table
 * cannot say. */
#ifndef CONFIG_READ_H
#define CONFIG_READ_H

#include "config/table.h"

/* All tables, for the test that compares them with the documentation; ends with a NULL. */
extern const struct table_section *const READ_SECTIONS[];
extern const struct table_section READ_WATCH, READ_DESTINATION, READ_RETRY, READ_ROUTE;

/* Custom keys at the top; `target` is struct config. Routes come after destinations, whose names
 * they use. */
void read_watches(struct reading *r, const struct node *node, const char *path, void *target);
void read_destinations(struct reading *r, const struct node *node, const char *path, void *target);
void read_routes(struct reading *r, const struct node *node, const char *path, void *target);

/* Parses a template; faults get the exact column. NULL on a fault. */
struct template *read_template(struct reading *r, const struct node *node, const char *path,
                               const char *text, size_t skipped);
/* Whether text is a name as destinations and routes have: letters, digits, '.', '_', '-', at
 * most 64. */
bool read_is_name(const char *text);

/* Checks that need more than one key; `root` gives the places. */
void check_config(struct reading *r, const struct node *root);

void read_free_watch(struct config_watch *w);
void read_free_destination(struct config_destination *d);
void read_free_route(struct config_route *route);

#endif
