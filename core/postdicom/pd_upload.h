/* Uploads files: folder, upload session, existence check, parts spread over the session's
 * connections, order into its folder (wire protocol, section 5). Loop thread only.
 *
 * The bytes come from the caller, part by part, when they are wanted; a part's buffer is kept until
 * the part was acknowledged, so that one whose answer is lost is sent again. */
#ifndef POSTDICOM_PD_UPLOAD_H
#define POSTDICOM_PD_UPLOAD_H

#include "postdicom/pd_session.h"

struct pd_upload;
struct pd_upload_file;

struct pd_upload_result {
    int status; /* 0: it is there, whole, in its folder. ERR_REFUSED: not this file. Else the
                   trouble */
    struct err err;
    bool again; /* start over with the same file, at once: what was sent is of no use any more */
    bool uncertain;           /* bytes were sent whose receipt is not known */
    bool existed;             /* nothing was sent: the server said it has it */
    uint64_t bytes;           /* file bytes sent and acknowledged */
    char order[PD_UUID_SIZE]; /* PatientOrderUuid, "" if the server did not say */
};

/* Owned by the caller until `done` (or pd_upload_abort), with all it points to. */
struct pd_upload_file {
    uint64_t size;
    const char *study, *series, *sop; /* UIDs */
    const char *folder;               /* "A/B/C"; "" or NULL: none */
    bool ask;                         /* CheckFileExist first */
    bool may_ask;                     /* CheckFileExist is allowed at all */
    bool known_whole;                 /* if the server has it, it has all of it */
    unsigned attempt;                 /* 0, and one more each time after `again` */
    /* Give the next part by pd_upload_part, now or later: PD_PART_SIZE bytes, the last one what is
     * left. */
    void (*want)(struct pd_upload_file *f);
    /* Tell the patient's name and ID by pd_upload_identified, now or later: an existence check
     * needs them. */
    void (*identify)(struct pd_upload_file *f);
    /* Exactly once, never from within pd_upload_start. */
    void (*done)(struct pd_upload_file *f, const struct pd_upload_result *r);
    void *ctx;
    struct pd_transfer *transfer; /* private */
};

/* `release` takes back a part's buffer; it may come after `done`. */
int pd_upload_new(struct pd_upload **ret, struct pd_session *session,
                  const struct pd_options *options,
                  void (*release)(uint8_t *buffer, size_t size, void *ctx), void *ctx,
                  struct err *e);
/* ERR_NOMEM: `done` will not come. */
int pd_upload_start(struct pd_upload *u, struct pd_upload_file *f);
/* `buffer` is lent until it is given to `release`. `done` may come from within this and
 * pd_upload_identified, where the session was lost meanwhile or memory is short. */
void pd_upload_part(struct pd_upload_file *f, uint8_t *buffer, size_t size);
/* status 0, or why they cannot be read (the upload then fails with it). Copied for as long as the
 * check takes. */
void pd_upload_identified(struct pd_upload_file *f, int status, const char *patient_name,
                          const char *patient_id, const struct err *e);
/* `done` will not come; returns whether bytes were sent. */
bool pd_upload_abort(struct pd_upload_file *f);
/* Whether a byte of it was handed to a connection. */
bool pd_upload_begun(const struct pd_upload_file *f);

/* Puts an order into a folder by its path: for duplicates. Owned by the caller until `done`, once,
 * never from within; a refusal is ERR_REFUSED. */
struct pd_upload_filing {
    const char *order, *folder;
    void (*done)(struct pd_upload_filing *f, int status, const struct err *e);
    void *ctx;
    struct pd_transfer *transfer; /* private */
};
int pd_upload_file_order(struct pd_upload *u, struct pd_upload_filing *f);
void pd_upload_abort_filing(struct pd_upload_filing *f);

/* After pd_session_close was called, when all files are done. */
void pd_upload_free(struct pd_upload *u);

#endif
