/* Between the front (dest_internal.h) and a type of destination. Loop thread only. */
#ifndef DEST_DEST_TYPE_H
#define DEST_DEST_TYPE_H

#include "dest/dest.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct dest_transfer;

/* What a type does; `impl` is what its open made. */
struct dest_type {
    /* Sets the two sizes of the front: see dest_limits. Does not block and does not connect. */
    int (*open)(void **ret, struct dest *front, const struct dest_env *env,
                const struct config_destination *config, struct err *e);
    /* Sends; asks for bytes by dest_want, ends with dest_done, once. */
    void (*send)(void *impl, struct dest_transfer *t);
    /* The part that was wanted; `buffer` is the type's until dest_release. */
    void (*part)(void *impl, struct dest_transfer *t, uint8_t *buffer, size_t size);
    /* Puts the sibling's order into this delivery's folder; ends with dest_done. */
    void (*file_sibling)(void *impl, struct dest_transfer *t);
    /* Forgets a transfer that was given to send or file_sibling; dest_done will not come. */
    void (*abort)(void *impl, struct dest_transfer *t);
    /* Whether bytes of it were handed to a connection. */
    bool (*begun)(const struct dest_transfer *t);
    /* Try with fresh secrets. */
    void (*poke)(void *impl);
    /* Without transfers: closes the connections until the next send; false: not quite yet. */
    bool (*rest)(void *impl);
    /* All transfers are over or aborted. Frees impl before cb. */
    void (*close)(void *impl, void (*cb)(void *ctx), void *ctx);
};

extern const struct dest_type dest_postdicom;

/* One delivery on its way. The type reads delivery, attempt and known_whole, and owns `type_state`.
 */
struct dest_transfer {
    struct dest *dest;
    struct dest_delivery *delivery;
    unsigned attempt; /* counts from 0 each time the type wanted to start over */
    bool sent_before; /* bytes were sent in an earlier attempt */
    bool known_whole; /* the destination has had all of it once */
    void *type_state;
    /* private to the front */
    int state;
    struct source *source;
    uint8_t *buffer; /* read, or being read into; its bytes are reserved */
    size_t buffer_size;
    size_t reserved; /* memory that is waited for or held by `buffer` */
    uint64_t offset; /* of the next byte to read */
    bool reading, wanted, first;
    bool with_type; /* given to the type, dest_done has not come */
    bool check_verdict_duplicate;
    struct dest_result result;
    struct dest_transfer *prev, *next;           /* all */
    UT_hash_handle hh;                           /* those begun, by SOP Instance UID */
    struct dest_transfer *line_prev, *line_next; /* waits for memory or for the rate limit */
    int line;
};

/* At open: bytes of a part, memory for parts, and deliveries at a time. */
void dest_limits(struct dest *d, size_t part_size, size_t memory, unsigned deliveries);
/* The next part, please: comes by `part`, perhaps from within. One at a time. */
void dest_want(struct dest_transfer *t);
void dest_release(struct dest *d, uint8_t *buffer, size_t size);

struct dest_outcome {
    int status; /* 0: it is there (or filed); ERR_REFUSED: the destination said no */
    struct err err;
    bool again;
    bool uncertain;
    uint64_t bytes;
    char remote_id[64];
};
void dest_done(struct dest_transfer *t, const struct dest_outcome *o);

/* How the connection is. */
void dest_link_up(struct dest *d);
void dest_link_down(struct dest *d, int status, uint64_t retry_after_ms, const struct err *e);
void dest_probe_now(struct dest *d);

#endif
