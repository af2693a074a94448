/* Folder paths ("A/B/C") to folder UUIDs: GetFolderList level by level, CreateFolder for what is
 * missing, a cache, and one look-up for all who ask for the same folder at the same time. Names are
 * compared exactly. Loop thread only. */
#ifndef POSTDICOM_PD_FOLDER_H
#define POSTDICOM_PD_FOLDER_H

#include "postdicom/pd_session.h"

struct pd_folders;

/* Owned by the caller until cb, exactly once; from within only where memory is short or the path
 * has no name. */
struct pd_folder_request {
    /* ERR_SESSION: the session is gone, ask again with the next one. ERR_REFUSED: e has the
     * server's reason. */
    void (*cb)(struct pd_folder_request *r, int status, const char *uuid, const struct err *e);
    void *ctx;
    struct pd_folder_request *prev, *next; /* private */
};

int pd_folders_new(struct pd_folders **ret, struct pd_session *session);
/* Known from before and not too old; NULL otherwise. Valid until the loop goes on. */
const char *pd_folders_cached(struct pd_folders *f, const char *path);
/* Needs an open session. `path` must have a name in it. */
void pd_folders_resolve(struct pd_folders *f, const char *path, struct pd_folder_request *r);
/* Looks afresh next time, at this folder and those it lies in. */
void pd_folders_forget(struct pd_folders *f, const char *path);
/* After pd_session_close was called: nothing is under way any more. */
void pd_folders_free(struct pd_folders *f);

#endif
