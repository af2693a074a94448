/* What the sub-commands share: their filters as a query, and one question to the daemon. */
#ifndef DCMFERRY_ASK_H
#define DCMFERRY_ASK_H

#include "base/buf.h"
#include "dcmferry.h"

#include <cjson/cJSON.h>

/* Appends "name=value", percent-encoded, with the right separator. */
void ask_argument(struct buf *query, const char *name, const char *value);

/* Asks; on failure says why on stderr, sets *ret_code to 1 and returns NULL. *ret_text is the
 * answer as it is (malloc'ed; NULL after a failure), the JSON the caller's to cJSON_Delete. */
cJSON *ask_both(const struct command_options *o, const char *method, struct buf *query,
                char **ret_text, int *ret_code);
/* The same; prints the answer as it is with --json, and returns NULL with *ret_code 0. */
cJSON *ask(const struct command_options *o, const char *method, struct buf *query, int *ret_code);

const char *ask_s(double n);                                   /* the plural's "s", or "" */
const char *ask_text(const cJSON *object, const char *member); /* "" if absent */
double ask_number(const cJSON *object, const char *member);    /* 0 if absent */

#endif
