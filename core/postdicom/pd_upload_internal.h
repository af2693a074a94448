/* Between the pieces of an upload: pd_upload (the way of a file), pd_initialize (upload sessions),
 * pd_exists (existence checks), pd_part (the bytes), pd_filing (orders into folders). Loop thread
 * only. */
#ifndef POSTDICOM_PD_UPLOAD_INTERNAL_H
#define POSTDICOM_PD_UPLOAD_INTERNAL_H

#include "postdicom/pd_burst.h"
#include "postdicom/pd_filed.h"
#include "postdicom/pd_folder.h"
#include "postdicom/pd_upload.h"

enum pd_transfer_state { WAIT_SESSION, WAIT_FOLDER, WAIT_BURST, IDENTIFY, CHECK, SEND, FILE_ORDER };

/* A file (or an order to be filed) on its way. It outlives its file while callbacks are pending for
 * it (`pending`); `file` is then NULL. */
struct pd_transfer {
    struct pd_upload *upload;
    struct pd_upload_file *file;     /* NULL: done or given up */
    struct pd_upload_filing *filing; /* in place of a file */
    enum pd_transfer_state state;
    unsigned pending;
    unsigned generation;
    char folder_uuid[PD_UUID_SIZE];
    struct pd_waiter waiter;
    bool waiting;
    struct pd_folder_request folder_request;
    struct pd_burst *burst;
    unsigned index; /* FileIndex */
    unsigned n_parts, next_part, acknowledged, parts_out;
    struct pd_part *parts;   /* those out */
    struct pd_part *doubted; /* of them: its answer was lost, and the server is asked */
    bool wanting;
    bool refiled;    /* the folder was looked up again after all parts were sent */
    bool verifying;  /* the check comes after the parts */
    uint64_t losses; /* of connections, when it began */
    bool carried;    /* bytes were handed to a connection, those of the parts out aside */
    uint64_t bytes;
    struct err refusal; /* code != 0: only the session is asked about yet */
    char order[PD_UUID_SIZE];
    struct pd_call call; /* CheckFileExist, AddOrderToFolder */
    char *json;
    unsigned sends;
    struct pd_transfer *prev, *next; /* waits for the burst */
};

struct pd_upload {
    struct pd_session *session;
    const struct pd_options *options;
    struct pd_folders *folders;
    struct pd_bursts bursts;
    struct pd_filed filed;
    uint64_t renewed_ms; /* a refused Initialize renewed the session; 0: not since one was taken */
    void (*release)(uint8_t *buffer, size_t size, void *ctx);
    void *ctx;
};

/* pd_upload.c */

/* The end; t may be gone afterwards. `again`: the file starts over at once. */
void pd_transfer_finish(struct pd_transfer *t, int status, const struct err *e, bool again);
void pd_transfer_finish_nomem(struct pd_transfer *t);
/* The server said no. */
void pd_transfer_refused(struct pd_transfer *t, const struct err *e);
void pd_transfer_refused_answer(struct pd_transfer *t, const struct pd_answer *a, const char *what);
/* A call failed that cannot, or no longer, be sent again. */
void pd_transfer_failed(struct pd_transfer *t, int status, const struct err *e);
/* Frees it if nothing is pending for it and it has no file. */
void pd_transfer_unref(struct pd_transfer *t);
unsigned pd_transfer_attempt(const struct pd_transfer *t);
/* Whether a call that failed so may be sent again on another connection. */
bool pd_transfer_resendable(const struct pd_call *c, int status, unsigned sends);
/* While the caller read, the session may have become another one: true, and finished. */
bool pd_transfer_outdated(struct pd_transfer *t);
/* Looks the folder up again: it may be another one by now. */
void pd_transfer_refile(struct pd_transfer *t);

/* pd_initialize.c: an upload session for the file's study; goes on when it is open. */
void pd_initialize_join(struct pd_transfer *t);
void pd_initialize_leave(struct pd_transfer *t);

/* pd_exists.c: asks whether the server has the file, and goes on with the answer. */
void pd_exists_ask(struct pd_transfer *t);

/* pd_part.c */

/* Sends all of the file, and goes on when all of it is acknowledged. */
void pd_part_send_all(struct pd_transfer *t);
/* The server was asked about the part whose answer was lost. */
void pd_part_settle_doubt(struct pd_transfer *t, bool arrived);
/* Takes back the parts that no connection has yet. */
void pd_part_withdraw(struct pd_transfer *t);
/* Whether a byte of it was handed to a connection. */
bool pd_part_carried(const struct pd_transfer *t);

/* pd_filing.c */

/* The file is there; its order must be in the folder. */
void pd_filing_make_sure(struct pd_transfer *t);
/* Adds the order to the folder. */
void pd_filing_send(struct pd_transfer *t);

#endif
