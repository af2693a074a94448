/* One whole file on its way into the store: written and hashed on the thread pool, read by the
 * DICOM worker, then placed and recorded by the store. Loop thread only. */
#ifndef SANDBOX_RECEIVE_H
#define SANDBOX_RECEIVE_H

#include "sandbox/orders.h"

/* What is known of a stored (or recognised) file. One reference is the receiver's. */
struct receive_meta {
    unsigned refs;
    char to[96]; /* relative to the state folder; "" before it was stored */
    char sha256[65];
    int64_t size;
    char upload_session[UUID_TEXT_SIZE];
    bool document;
    struct orders_instance instance; /* texts point into `texts` */
    char *texts;
};

void receive_meta_unref(struct receive_meta *m);

struct receive {
    struct request
        *request; /* whose answer it will be; its parameters name user, institution, folders */
    char upload_session[UUID_TEXT_SIZE];
    bool document;
    /* Either bytes to write to a file of the receiver's own, or an assembled file that is taken
     * over. */
    const uint8_t *bytes;
    size_t size;
    char *path;       /* owned; NULL: made */
    int fd;           /* owned; -1: opened */
    bool header_only; /* the first part of a longer file: finds the order, stores nothing, leaves
                         path and fd */
    /* code RESPONSE_OK: meta (a reference), order as JSON (owned by the callee). Otherwise
     * request->failure is set. */
    void (*cb)(struct receive *rc, enum response_code code, struct receive_meta *meta,
               cJSON *order);
    void *ctx;
    /* private */
    uv_work_t work;
    struct dicom_read read;
    struct store_op op;
    struct store_file file;
    struct receive_meta *meta;
    cJSON *order;
    struct err error;
    int status;
};

/* `rc` was allocated with calloc and is freed after cb, which never comes from within. */
void receive_start(struct receive *rc);
/* Counts one more receipt of a file that is stored. */
void receive_again(struct receive *rc, struct receive_meta *meta);

#endif
