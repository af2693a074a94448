/* What the server's JSON answers say (wire protocol, sections 1, 2, 4, 5). Liberal: the real
 * server's answers were never seen. Pure; thread-safe. */
#ifndef POSTDICOM_PD_ANSWER_H
#define POSTDICOM_PD_ANSWER_H

#include "base/err.h"
#include "postdicom/frame.h"
#include "postdicom/pd_params.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#define PD_TEXT_SIZE 160
#define PD_UUID_SIZE 64 /* of the server's ids: UUIDs, but that is for it to decide */

struct pd_answer {
    bool ok;             /* ResponseCode 1, and no "Success": false */
    cJSON *root;         /* the whole JSON; NULL if there was none */
    const cJSON *result; /* ResponseMessage where it is an object (or text that holds one), else the
                            root; in root */
    const char *value;   /* ResponseMessage where it is text, else NULL */
    /* On failure the server's reason, for operators: cleaned and cut. It is never logged: it may
     * hold anything. */
    char text[PD_TEXT_SIZE];
};

/* ERR_PROTOCOL if it is not JSON, ERR_NOMEM. *ret is the caller's to pd_answer_free, on failure
 * too. `keys` are blanked out of the text. */
int pd_answer_parse(const char *json, size_t size, const struct pd_keys *keys,
                    struct pd_answer *ret, struct err *e);
int pd_answer_parse_frame(const struct frame_answer *frame, const struct pd_keys *keys,
                          struct pd_answer *ret, struct err *e);
void pd_answer_free(struct pd_answer *a);

/* A text member, NULL if it is absent or of another type. */
const char *pd_answer_string(const cJSON *object, const char *name);
/* Copies an id of the server into out; false (and "") if it is absent, empty, too long or has
 * control characters. */
bool pd_answer_id(const cJSON *object, const char *name, char out[PD_UUID_SIZE]);
/* PatientOrder.PatientOrderUuid of an answer; false if there is none. */
bool pd_answer_order(const struct pd_answer *a, char out[PD_UUID_SIZE]);

/* Who uploads, where to. */
struct pd_account {
    char user_uuid[PD_UUID_SIZE];
    char institution_uuid[PD_UUID_SIZE];
    char full_name[256];
    size_t n_users, n_institutions; /* of the account; of the user */
};

/* Finds user and institution, each given by name or UUID, or NULL for the only one, in
 * CreateApiSession's answer. ERR_AUTH with counts where there is none or more than one. */
int pd_answer_account(const struct pd_answer *a, const char *user, const char *institution,
                      struct pd_account *ret, struct err *e);

/* Copies text of the server, control characters blanked, keys replaced, cut to `size`. */
void pd_answer_clean(const char *text, size_t n, const struct pd_keys *keys, char *out,
                     size_t size);

#endif
