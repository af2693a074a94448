/* What the sub-commands share: their filters as a query, and one question to the daemon. */
#ifndef DCMFERRY_ASK_H
#define DCMFERRY_ASK_H

#include "base/buf.h"
#include "dcmferry.h"

#include <cjson/cJSON.h>

/* Appends "name=value", percent-encoded, with the right separator. */
void ask_argument(struct buf *query, const char *name, const char *value);

/* Asks; prints the answer as it is with --json (and returns NULL with *ret_code 0); on failure says
 * why on stderr and sets *ret_code to 1. The JSON is the caller's to cJSON_Delete. */
cJSON *ask(const struct command_options *o, const char *method, struct buf *query, int *ret_code);
/* Its two parts, for who may have to ask twice. */
cJSON *ask_first(const struct command_options *o, const char *method, struct buf *query,
                 int *ret_code);
cJSON *ask_raw(const struct command_options *o, cJSON *json); /* takes the JSON */

const char *ask_s(double n);                                   /* the plural's "s", or "" */
const char *ask_text(const cJSON *object, const char *member); /* "" if absent */
double ask_number(const cJSON *object, const char *member);    /* 0 if absent */

#endif
