/* Users and institutions of the one account. On the store's thread (or before it has work). */
#ifndef SANDBOX_ACCOUNTS_H
#define SANDBOX_ACCOUNTS_H

#include "sandbox/sandbox.h"

#include <cjson/cJSON.h>

/* Adds the users and institutions of the options that are not there yet; where there are none at
 * all, one of each. */
void accounts_setup(struct store *store, const struct sandbox_options *options);
/* {"UserList": [{…, "InstitutionList": […]}]} */
cJSON *accounts_json(struct store *store);
/* The row of a UUID, 0 if unknown; with `permissive` it is made. */
int64_t accounts_user(struct store *store, const char *uuid, bool permissive);
int64_t accounts_institution(struct store *store, const char *uuid, bool permissive);
/* For the line at start. */
void accounts_print(struct store *store, FILE *out);

#endif
