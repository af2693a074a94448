/* What became of files that were received: instances and documents in their orders, each complete
 * receipt counted, and whether an instance is there (CheckFileExist). On the store's thread. */
#ifndef SANDBOX_RECEIPTS_H
#define SANDBOX_RECEIPTS_H

#include "sandbox/orders.h"

/* Finds or makes the order of the instance's study; puts it into the request's FolderUuidList; with
 * a sha256 counts a receipt of the instance. *ret_order is the order's row. Or request_fail(). */
int receipts_instance(struct request *r, struct store *s, const struct orders_instance *in,
                      int64_t *ret_order);
/* The same for a document of an existing order. */
int receipts_document(struct request *r, struct store *s, const char *sha256, int64_t size,
                      int64_t *ret_order);

struct receipts_exists {
    bool exists;
    cJSON *order; /* NULL: the study has none, or the assumption hides it */
};
int receipts_check(struct request *r, struct store *s, struct receipts_exists *ret);

#endif
