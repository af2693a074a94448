/* Folders and the orders in them. On the store's thread. */
#ifndef SANDBOX_FOLDERS_H
#define SANDBOX_FOLDERS_H

#include "sandbox/dispatch.h"

#define FOLDERS_ROOT    0
#define FOLDERS_UNKNOWN (-1)

/* The row of a folder's UUID; nil and "" are the root. */
int64_t folders_find(struct request *r, struct store *s, const char *uuid);
/* Whether the order was not in it before. */
bool folders_put_order(struct store *s, int64_t folder, int64_t order);

int folders_create(struct request *r, struct store *s, cJSON *answer);
int folders_search(struct request *r, struct store *s, cJSON *answer);
int folders_delete(struct request *r, struct store *s, cJSON *answer);
int folders_update(struct request *r, struct store *s, cJSON *answer);
int folders_add_order(struct request *r, struct store *s, cJSON *answer);
int folders_remove_orders(struct request *r, struct store *s, cJSON *answer);

#endif
