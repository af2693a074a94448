/* Collects the faults of one configuration file. Not thread-safe. */
#ifndef CONFIG_FAULT_H
#define CONFIG_FAULT_H

#include "config/config.h"

#include <stdbool.h>
#include <stddef.h>

#define FAULT_MAX        100 /* more are counted, not kept */
#define FAULT_PATH_SIZE  192
#define FAULT_QUOTE_SIZE 64

struct fault_list {
    struct config_fault *items;
    size_t n;
    size_t dropped;
    bool nomem; /* sticky: the list, or what is being read, is incomplete */
};

/* Adds "path: text"; no "path: " if the path is empty. */
void fault_add(struct fault_list *f, struct config_mark mark, const char *path, const char *format,
               ...) __attribute__((format(printf, 4, 5)));

/* Writes parent.key (key alone below the root) into out, and parent[index]; cut to fit. */
void fault_path(char out[FAULT_PATH_SIZE], const char *parent, const char *key);
void fault_path_index(char out[FAULT_PATH_SIZE], const char *parent, size_t index);

/* Writes 'text' for a message: cut, control characters replaced; returns out. */
const char *fault_quote(char out[FAULT_QUOTE_SIZE], const char *text);

/* Hands the faults over, sorted by place; *f is empty then. */
void fault_finish(struct fault_list *f, struct config_faults *ret);

#endif
