/* Upload sessions: which one the next file of a study goes into, and as which file index. One per
 * burst of a study, bounded in files and in idle time, never one per file nor one for ever. Pure;
 * not thread-safe. */
#ifndef POSTDICOM_PD_BURST_H
#define POSTDICOM_PD_BURST_H

#include "postdicom/pd_answer.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

enum pd_burst_state { PD_BURST_NEW, PD_BURST_OPENING, PD_BURST_READY, PD_BURST_ENDED };

struct pd_burst {
    char *study;
    enum pd_burst_state state;
    unsigned generation;     /* of the API session it belongs to */
    char uuid[PD_UUID_SIZE]; /* once READY */
    unsigned given;          /* files that came to it */
    unsigned files;          /* file indexes used: the next one */
    unsigned users;          /* files that need it */
    uint64_t used_ms;        /* when the last file came */
    void *waiters;           /* the user's */
    UT_hash_handle hh;
};

struct pd_bursts {
    struct pd_burst *table; /* by study, those that take files, oldest first */
    unsigned max_files;
    uint64_t idle_ms;
};

/* The upload session for one more file of `study`; a NEW one must be opened (Initialize) by the
 * caller. The file is its user until pd_burst_release. NULL when out of memory. */
struct pd_burst *pd_bursts_get(struct pd_bursts *t, const char *study, unsigned generation,
                               uint64_t now_ms);
/* It takes no more files; freed with its last user. */
void pd_bursts_end(struct pd_bursts *t, struct pd_burst *b);
/* The study's, if there is one. */
void pd_bursts_forget(struct pd_bursts *t, const char *study);
void pd_bursts_release(struct pd_bursts *t, struct pd_burst *b);
/* All of them; there must be no users. */
void pd_bursts_clear(struct pd_bursts *t);

#endif
