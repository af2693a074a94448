/* A destination: something that can receive a file. One table of operations per type (postdicom;
 * others follow), one front for all: breaker, rate limit, duplicate check. Loop thread only.
 *
 * The front opens the source, checks it against what was journalled, finds out duplicates
 * and conflicts, hands the delivery to the type, checks the source again after the last byte was
 * acknowledged, and reports one result. */
#ifndef DEST_DEST_H
#define DEST_DEST_H

#include "base/err.h"
#include "config/config.h"
#include "dicom/dicom_reader.h"
#include "worker/job.h"
#include "worker/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct dest;

enum dest_verdict {
    DEST_DELIVERED, /* it is there, whole, in its folder */
    DEST_DUPLICATE, /* the destination has an instance with this UID and these bytes (from us), in
                       its folder */
    DEST_CONFLICT,  /* the destination has other bytes under this UID (from us) */
    DEST_RETRY,     /* transient: later */
    DEST_FAILED,    /* permanent: not this delivery. A refusal counts as permanent only after many:
                       dest_refusals.h */
    DEST_VANISHED,  /* the source is gone */
    DEST_CHANGED,   /* the source is another one now: take it in again */
    DEST_ABANDONED, /* not begun or safely given up (dest_cancel, destination stopped): queue it
                       again as it was */
};

struct dest_result {
    enum dest_verdict verdict;
    struct err err; /* for RETRY, FAILED, CONFLICT…: one sentence without patient data */
    bool uncertain; /* bytes were sent whose receipt is not known: ask before the next try */
    uint64_t retry_after_ms;            /* what the server asked for; 0: nothing */
    uint64_t bytes;                     /* file bytes sent */
    uint8_t sha256[SOURCE_SHA256_SIZE]; /* of what was sent (DELIVERED, DUPLICATE) */
    char remote_id[64]; /* the destination's own id (PatientOrderUuid), "" if unknown */
};

/* One delivery. Owned by the caller until cb; every pointer must live until then. */
struct dest_delivery {
    uint64_t id;
    const char *path;
    uint64_t mount; /* for job caps */
    uint64_t size;
    int64_t mtime_ns;
    const char *sop_class_uid, *sop_instance_uid, *study_instance_uid, *series_instance_uid,
        *transfer_syntax_uid;
    const char *folder; /* "A/B/C", "" for none */
    bool uncertain;     /* an earlier try may have arrived */
    bool send_anyway;   /* an operator said so: skip the duplicate/conflict check */
    /* The newest other delivery of this SOP Instance UID to this destination that is there, if any.
     */
    bool has_sibling;
    uint8_t sibling_sha256[SOURCE_SHA256_SIZE];
    const char *sibling_folder;
    const char *sibling_remote_id;
    void (*cb)(struct dest_delivery *d, const struct dest_result *result);
    void *ctx;
    /* private to core/dest */
    void *state;
};

enum dest_health {
    DEST_HEALTHY,
    DEST_CONNECTING,
    DEST_BROKEN /* breaker open, probing */,
    DEST_AUTH_FAILED
};

struct dest_status {
    enum dest_health health;
    struct err last_error;
    uint64_t next_probe_ms; /* milliseconds from now; 0: none planned */
    unsigned in_flight;
    uint64_t bytes_sent; /* since the destination was opened */
    bool paused;
};

struct dest_env {
    uv_loop_t *loop;
    struct job_queue *jobs;
    struct dicom_reader *reader; /* for attributes that an existence check needs */
    /* Called whenever dest_capacity may have grown or the health changed. */
    void (*changed)(struct dest *d, void *ctx);
    void *ctx;
};

/* `config` must live until dest_close's callback. Connects lazily. */
int dest_open(struct dest **ret, const struct dest_env *env,
              const struct config_destination *config, struct err *e);
const char *dest_name(const struct dest *d);
/* How many more deliveries it takes now; 0 while the breaker is open (but 1 when it is time for the
 * probe). */
unsigned dest_capacity(const struct dest *d);
void dest_send(struct dest *d, struct dest_delivery *delivery);
void dest_get_status(const struct dest *d, struct dest_status *ret);
/* Probe now (the operator said retry; the secrets changed). */
void dest_poke(struct dest *d);
/* No new deliveries; those not yet begun come back ABANDONED at once, those begun may finish; after
 * deadline_ms the rest is abandoned (uncertain where bytes were sent). Frees before cb. Reads on
 * the pool may outlast it: the job queue is idle only when job_queue_pending says so. */
void dest_close(struct dest *d, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx);

/* Makes room for another client with the same keys (`dcmferry doctor`): for for_ms milliseconds no
 * deliveries are taken; when those under way are over, the connections are closed. Returns whether
 * all is quiet: if not, ask again. 0 ends it. */
bool dest_pause(struct dest *d, uint64_t for_ms);

#endif
