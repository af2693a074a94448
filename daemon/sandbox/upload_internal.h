/* What upload.c (upload sessions) and assembly.c (files in parts) share. Loop thread only. */
#ifndef SANDBOX_UPLOAD_INTERNAL_H
#define SANDBOX_UPLOAD_INTERNAL_H

#include "sandbox/receive.h"
#include "sandbox/upload.h"

#include <uthash.h>

enum assembly_state { ASSEMBLY_OPEN, ASSEMBLY_FINISHING, ASSEMBLY_COMPLETE };

struct waiter;

struct assembly {
    int64_t index; /* FileIndex */
    uint32_t total;
    enum assembly_state state;
    struct upload *upload; /* NULL when the upload session was forgotten */
    unsigned refs;
    uint32_t received;
    uint32_t *connections; /* a part's connection, 0: missing (or, when complete, not come again) */
    unsigned writing;
    char *path;
    int fd;
    struct receive_meta *meta; /* of the first part, then of the whole file */
    cJSON *order;              /* for the answers, as soon as it is known */
    struct waiter *waiting;
    struct assembly *prev, *next; /* complete ones, oldest first */
    UT_hash_handle hh;
};

struct upload {
    char uuid[UUID_TEXT_SIZE];
    char session[UUID_TEXT_SIZE]; /* the API session */
    char order[UUID_TEXT_SIZE];   /* what --discard says */
    uint64_t used_ms;
    struct assembly *files;
    struct assembly *complete;
    unsigned n_complete;
    UT_hash_handle hh;
};

struct uploads {
    struct sandbox *sandbox;
    struct upload *all;
    unsigned pending;
};

/* The upload session that a request names; NULL if it is not known. */
struct upload *upload_find(struct request *r);

/* ProcessFile and ProcessDocuments: one part; answers the request. */
void assembly_handle(struct request *r, bool document);
/* Takes it out of its upload session; requests under way still hold it. */
void assembly_remove(struct assembly *a);
/* Forgets the parts of an unfinished file that a connection carried. */
void assembly_connection_lost(struct assembly *a, uint32_t connection);

#endif
