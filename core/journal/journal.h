/* The durable queue: files and their deliveries, in SQLite (WAL, synchronous=FULL). One journal
 * thread owns the database; operations queue up, all that wait are committed in one transaction,
 * then their callbacks run on the loop. When a callback comes with status 0 the change is on disk.
 *
 * Loop thread only. Every operation struct is the caller's until its callback, which comes exactly
 * once and never from within the call. Callbacks come in the order of the calls. Texts and blobs
 * passed in must live until then; results are valid during the callback unless said otherwise. An
 * operation that fails changes nothing; with ERR_NOSPACE or ERR_IO the journal stays usable and the
 * caller tries again later. */
#ifndef JOURNAL_JOURNAL_H
#define JOURNAL_JOURNAL_H

#include "base/err.h"
#include "journal/states.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define JOURNAL_SHA256_SIZE 32

struct journal;

/* What journal_open found. */
struct journal_opened {
    bool created;  /* a new journal */
    bool unclean;  /* the last run did not close it; quick_check runs in the background */
    bool restored; /* the journal was damaged and set aside; the last backup (or an empty one) took
                      its place */
    bool rebuilding; /* restored now or in an earlier run, and journal_rebuilt was not called since
                      */
    char set_aside[256]; /* name of the damaged file, "" if none */
    uint64_t requeued;   /* deliveries that were `sending`: now `queued` and uncertain */
};

struct journal_options {
    const char *folder; /* the state folder: journal.db, journal.db-wal, backup.db; created 0700 if
                           missing */
    uint64_t backup_ms; /* interval of the backup while there are changes; 0: none */
    /* The database was found damaged while running: no more operations succeed; the daemon should
     * restart, and the next journal_open restores. On the loop. */
    void (*damaged)(const struct err *e, void *ctx);
    void *ctx;
};

/* Blocks (recovery, migrations): call it before the loop runs. ERR_LOCKED if another process has
 * it. A newer schema than this program's is refused (ERR_UNSUPPORTED). Files are 0600. */
int journal_open(struct journal **ret, uv_loop_t *loop, const struct journal_options *options,
                 struct journal_opened *ret_opened, struct err *e);
/* Runs what was queued, marks the end as clean, checkpoints, joins the thread; cb on the loop, the
 * journal is freed before. */
void journal_close(struct journal *j, void (*cb)(int status, void *ctx), void *ctx);
/* Another interval of the backup, as `backup_ms` in the options; counted from now. */
void journal_set_backup(struct journal *j, uint64_t backup_ms);
/* Operations not yet called back. */
unsigned journal_pending(const struct journal *j);

struct journal_op;
typedef void (*journal_cb)(struct journal_op *op, int status, const struct err *e);

/* The head of every operation. */
struct journal_op {
    journal_cb cb;
    void *ctx;
    /* private */
    struct journal_op *next;
    int kind;
    int status;
    uint64_t result;
    struct err err;
};

/* ---- Intake ---- */

enum journal_seen {
    JOURNAL_UNKNOWN, /* no live row for this path */
    JOURNAL_KNOWN,   /* path, size and mtime are those of the row: nothing to do */
    JOURNAL_ALTERED, /* there is a row for the path with another size or mtime */
};

struct journal_lookup_entry {
    const char *path; /* in */
    uint64_t size;
    int64_t mtime_ns;
    enum journal_seen seen; /* out */
    uint64_t file_id;       /* out, unless UNKNOWN */
    enum file_state state;  /* out, unless UNKNOWN */
    uint64_t old_size;      /* out, ALTERED */
    bool has_sha256;        /* out, ALTERED: the bytes of the row's file are known */
    uint8_t sha256[JOURNAL_SHA256_SIZE];
};

/* Looks n paths up. A live row is one whose file has not left (states other than disposed and
 * vanished, gone_at unset). */
struct journal_lookup {
    struct journal_op op;
    struct journal_lookup_entry *entries;
    size_t n;
};
void journal_lookup(struct journal *j, struct journal_lookup *l);

/* Which routes a study (or series) is bound to: text of core/pipeline/route.h, as stored;
 * NULL if unbound. */
struct journal_binding {
    struct journal_op op;
    const char *key; /* "study:<uid>" or "series:<uid>" */
    char *routes;    /* out: malloc'ed, the caller frees it */
};
void journal_binding(struct journal *j, struct journal_binding *b);

/* Binds a study or series, if it is not yet bound. */
struct journal_bind {
    const char *key, *routes;
    bool rebind; /* none of the routes it was bound to exists any more: these take their place */
};

struct journal_new_delivery {
    const char *destination;
    const char *route;
    const char *folder; /* "" for none */
    int priority;
};

/* Takes a file in: one row with its deliveries, or rejected or held with a reason; durable as one.
 * If `replaces` is not 0 that row (same path, other version) first becomes vanished ("rewritten")
 * where it was not yet delivered, or is marked as gone where it was; if `file_id` is not 0 that row
 * itself (found, held, rejected or queued) gets the new fate and values instead of a new row, its
 * undelivered deliveries being replaced. */
struct journal_admit {
    struct journal_op op;
    uint64_t file_id;  /* in: 0 or the row to re-admit; out: the row */
    uint64_t replaces; /* in */
    const char *watch; /* the drop folder's path */
    const char *path;
    uint64_t size;
    int64_t mtime_ns;
    enum file_state state; /* FILE_QUEUED, FILE_REJECTED or FILE_HELD */
    const char *reason;    /* rejected, held: one sentence without attribute values; else NULL */
    const char *sop_class_uid, *sop_instance_uid, *study_instance_uid, *series_instance_uid,
        *transfer_syntax_uid;
    const struct journal_new_delivery *deliveries;
    size_t n_deliveries;
    const struct journal_bind *bindings;
    size_t n_bindings;
    bool uncertain; /* it may have been sent before; set by the journal itself until journal_rebuilt
                     */
    bool file_delivered; /* out, re-admission: all that is wanted had arrived before: dispose of the
                            source now */
};
void journal_admit(struct journal *j, struct journal_admit *a);

/* The file has a new mtime (or size unchanged, content equal): the same version. */
struct journal_touch {
    struct journal_op op;
    uint64_t file_id;
    int64_t mtime_ns;
};
void journal_touch(struct journal *j, struct journal_touch *t);

/* Held files to route again (after a reload, or because their study was bound since): id > after,
 * at most `limit`. */
struct journal_file_row {
    uint64_t id;
    char *watch, *path;
    uint64_t size;
    int64_t mtime_ns;
    enum file_state state;
    char *reason;
    char *study_instance_uid;
    char *sop_instance_uid;
    int64_t changed_ms;
};
struct journal_files {
    struct journal_op op;
    enum file_state state; /* in: which */
    const char *study;     /* in: only those of this Study Instance UID; NULL: all, but
                              delivered and disposed ones are not listed so */
    bool pending_disposal; /* in: only those whose disposal is not done (delivered, rejected)… */
    const char *watch;     /* in: …of this drop folder, which must be given then; else NULL */
    uint64_t after;        /* in */
    size_t limit;          /* in */
    struct journal_file_row *rows; /* out; freed with journal_files_clear */
    size_t n;
};
void journal_files(struct journal *j, struct journal_files *f);
void journal_files_clear(struct journal_files *f);

/* ---- Sending ---- */

/* One claimed delivery; strings are owned by the row. */
struct journal_delivery_row {
    uint64_t id, file_id;
    char *watch, *path;
    uint64_t size;
    int64_t mtime_ns;
    char *sop_class_uid, *sop_instance_uid, *study_instance_uid, *series_instance_uid,
        *transfer_syntax_uid;
    char *route, *folder;
    unsigned attempts;  /* tries that ended, before this one */
    int64_t created_ms; /* when it was queued, or asked for by the operator */
    bool uncertain, send_anyway;
    bool has_sibling; /* see dest.h */
    uint8_t sibling_sha256[JOURNAL_SHA256_SIZE];
    char *sibling_folder, *sibling_remote_id;
};
void journal_delivery_row_free(
    struct journal_delivery_row *row); /* the row itself too; NULL is fine */

/* Marks up to `limit` due deliveries of a destination `sending` and hands them out: highest
 * priority first, then oldest first; never two of one SOP Instance UID at a time. */
struct journal_claim {
    struct journal_op op;
    const char *destination;
    size_t limit;
    int64_t now_ms;
    struct journal_delivery_row *
        *rows; /* out: array and rows are the caller's (free, journal_delivery_row_free) */
    size_t n;
    int64_t next_due_ms; /* out: when the earliest waiting one is due; INT64_MAX: none */
    uint64_t moved;      /* out: waiting ones that became queued */
    bool held;           /* out: an operator holds the destination: what was due is held now */
};
void journal_claim(struct journal *j, struct journal_claim *c);

/* How a try ended. The delivery leaves `sending` for `state`:
 * delivered, duplicate (sha256, remote_id, bytes), conflict, failed, waiting (next_ms), queued
 * (given back), held. `uncertain` adds a doubt and never takes one away: it stays until the
 * delivery arrived. When every delivery of the file is delivered or duplicate, the file becomes
 * delivered. If the file vanished meanwhile the delivery has ended: then an arrival is recorded all
 * the same, and anything else changes nothing and succeeds. */
struct journal_settle {
    struct journal_op op;
    uint64_t delivery_id;
    enum delivery_state state;
    const char *reason; /* NULL or one sentence */
    int64_t next_ms;
    bool uncertain;
    bool count_attempt;
    bool has_sha256;
    uint8_t sha256[JOURNAL_SHA256_SIZE];
    const char *remote_id;
    uint64_t bytes;
    bool file_delivered; /* out: this was the last one: dispose of the source now */
    uint64_t file_id;    /* out */
};
void journal_settle(struct journal *j, struct journal_settle *s);

/* The file is gone or is another one now: its open deliveries end (conflicts stay to be seen), the
 * file becomes vanished with the reason. One that was delivered or rejected starts its history
 * instead; one that left before stays as it is. */
struct journal_vanish {
    struct journal_op op;
    uint64_t file_id;
    const char *reason;
};
void journal_vanish(struct journal *j, struct journal_vanish *v);

/* ---- Disposal and history ---- */

/* The source of a delivered or rejected file was dealt with. A delivered one that is gone becomes
 * disposed; one that stands (keep, read-only) stays delivered, so that its path is known; a
 * rejected one stays rejected. `target`: where it was moved to, NULL; `gone`: it no longer stands
 * at its path; `note`: why it was left (read-only source), NULL. */
struct journal_disposed {
    struct journal_op op;
    uint64_t file_id;
    bool gone;
    const char *target;
    const char *note;
};
void journal_disposed(struct journal *j, struct journal_disposed *d);

/* Files whose source still stands (gone_at unset), id > after: for the sweep that finds out which
 * have left. */
struct journal_standing {
    struct journal_op op;
    uint64_t after;
    size_t limit;
    struct journal_file_row
        *rows; /* out; id, watch, path, size, mtime_ns, state; freed with journal_standing_clear */
    size_t n;
};
void journal_standing(struct journal *j, struct journal_standing *s);
void journal_standing_clear(struct journal_standing *s);

/* These files have left the drop folder: delivered and rejected ones start their `history`, others
 * become vanished. Files that the journal no longer has, or knows to have left, are skipped. */
struct journal_gone {
    struct journal_op op;
    const uint64_t *file_ids;
    size_t n;
    const char *reason; /* for those that become vanished */
    uint64_t vanished;  /* out: how many were not yet delivered */
};
void journal_gone(struct journal *j, struct journal_gone *g);

/* Delivered files of a drop folder that were moved away before `before_ms` and are not known to
 * have left the place they were moved to, oldest first, after (after_ms, after_id): for
 * `retention`. */
struct journal_moved {
    struct journal_op op;
    const char *watch;
    int64_t before_ms;
    int64_t after_ms; /* in: changed_ms and id of the last row before, or 0 */
    uint64_t after_id;
    size_t limit;
    struct journal_file_row *rows; /* out; `path` is where it was moved to, `changed_ms` when; freed
                                      with journal_moved_clear */
    size_t n;
};
void journal_moved(struct journal *j, struct journal_moved *m);
void journal_moved_clear(struct journal_moved *m);

/* A moved file is no longer our business where it was moved to: removed there, or gone, or another
 * one. Skipped if the journal no longer has it. */
struct journal_unmoved {
    struct journal_op op;
    uint64_t file_id;
    const char *note;
};
void journal_unmoved(struct journal *j, struct journal_unmoved *u);

/* Forgets files that left before `before_ms`, and bindings no row needs any more; at most `limit`
 * files a call. Moved files of the drop folders in `retaining` are not forgotten before
 * journal_unmoved. */
struct journal_prune {
    struct journal_op op;
    int64_t before_ms;
    const char *const *retaining;
    size_t n_retaining;
    size_t limit;
    uint64_t pruned; /* out */
};
void journal_prune(struct journal *j, struct journal_prune *p);

/* Whether a study has deliveries on their way (queued, sending, waiting) to a destination. */
struct journal_study {
    struct journal_op op;
    const char *study, *destination;
    bool open; /* out */
};
void journal_study(struct journal *j, struct journal_study *s);

/* ---- Operators ---- */

enum journal_act { JOURNAL_RETRY, JOURNAL_HOLD, JOURNAL_RELEASE, JOURNAL_ACKNOWLEDGE };

/* retry: failed, waiting (and, with send_anyway, conflict) deliveries become queued, rejected files
 * found again (their rows are removed so that the next scan takes them in), and the disposal of
 * those that were left is open again; hold: queued, waiting, failed become held; release: held
 * deliveries become queued; acknowledge: rejected, vanished, held and left files and failed,
 * conflicting and held deliveries are no problem to be shown any more, until their state changes.
 * Filters that are NULL or 0 match all.
 *
 * With `and_later` hold also holds what comes later to `destination`, which is found out when it is
 * claimed, until it is released as a whole: by release with no filter but `destination`, or none.
 */
struct journal_act_on {
    struct journal_op op;
    enum journal_act act;
    uint64_t delivery_id, file_id;
    const char *destination, *study;
    bool send_anyway;
    bool and_later;
    uint64_t changed;    /* out */
    bool still_held;     /* out, retry and release: a destination in question is held as a whole */
    const char *unknown; /* out, static: "delivery", "file", "study" or "destination": the journal
                            knows none that the filter names; NULL if it knows all of them */
};
void journal_act_on(struct journal *j, struct journal_act_on *a);

#define JOURNAL_LEFT_MAX 1000

/* Counts by state, and what waits: for status and progress. Cheap (kept up to date by triggers or
 * indexes). */
struct journal_counts {
    struct journal_op op;
    uint64_t files[FILE_STATE_MAX], file_bytes[FILE_STATE_MAX];
    uint64_t deliveries[DELIVERY_STATE_MAX], delivery_bytes[DELIVERY_STATE_MAX];
    int64_t oldest_open_ms; /* when the oldest file with a queued, sending, waiting or held delivery
                               was taken in; INT64_MAX: none */
    uint64_t left;          /* delivered files that could not be deleted or moved, and are not
                               acknowledged; at most JOURNAL_LEFT_MAX */
};
void journal_counts(struct journal *j, struct journal_counts *c);

/* Files with their deliveries as JSON objects for people, newest first: by study or SOP Instance
 * UID, path, or states. */
struct journal_list {
    struct journal_op op;
    const char *study, *sop_instance, *path, *destination;
    int file_state, delivery_state; /* -1: any */
    bool problems; /* only rejected, held, vanished files, those that could not be deleted or moved,
                  and failed, conflict, held, waiting deliveries… */
    bool acknowledged; /* …also those that were acknowledged */
    size_t limit, offset;
    char *json; /* out: a JSON array, malloc'ed, the caller's */
};
void journal_list(struct journal *j, struct journal_list *l);

/* The destinations that are held, also for what comes later. */
struct journal_holds {
    struct journal_op op;
    char *json; /* out: an object, since when by destination; malloc'ed, the caller's */
};
void journal_holds(struct journal *j, struct journal_holds *h);

/* Since the journal was restored the drop folders were read again, once and wholly: what is taken
 * in from now on is not uncertain any more. */
struct journal_rebuilt {
    struct journal_op op;
};
void journal_rebuilt(struct journal *j, struct journal_rebuilt *r);

/* A copy of the database now, in addition to the periodic one; checked before it takes the place of
 * the last. It runs in the background: its callback alone may come after those of later calls. */
struct journal_backup {
    struct journal_op op;
};
void journal_backup(struct journal *j, struct journal_backup *b);

#endif
