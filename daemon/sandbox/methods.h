/* The API's general methods (type 17): the table of all, and those that touch no table of the store
 * but only check what they name. The others are in folders.c and orders.c. */
#ifndef SANDBOX_METHODS_H
#define SANDBOX_METHODS_H

#include "sandbox/dispatch.h"

/* A general method (type 17): runs on the store's thread inside the transaction. Adds to `answer`,
 * the object the documented callback receives; returns 0, or request_fail(): then what it wrote is
 * undone. */
struct general_method {
    int32_t management;
    const char *name;
    int (*run)(struct request *r, struct store *s, cJSON *answer);
    bool read_only;
};

/* Answers the request. Loop thread only. */
void methods_handle(struct request *r);

#endif
