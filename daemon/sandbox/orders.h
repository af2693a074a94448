/* Patient orders, their instances and documents. On the store's thread. */
#ifndef SANDBOX_ORDERS_H
#define SANDBOX_ORDERS_H

#include "sandbox/dispatch.h"

/* What of an instance goes into the tables. Texts are UTF-8, not NULL. */
struct orders_instance {
    const char *sop_uid, *study_uid, *series_uid, *sop_class, *transfer_syntax;
    const char *patient_name, *patient_id, *other_patient_id, *birth_date, *sex, *modality;
    const char *description, *accession, *study_date, *study_time, *procedure, *referring;
    const char *sha256; /* "": only the order is made */
    int64_t size;
    const char *upload_session;
};

/* The row of an order's UUID, 0 if unknown or deleted. */
int64_t orders_find(struct request *r, struct store *s, const char *uuid);
/* PatientOrderUuid, PatientName … of an order. */
cJSON *orders_json(struct store *s, int64_t id);
/* The same without what has to be counted: for the answers to parts. */
cJSON *orders_brief_json(struct store *s, int64_t id);
void orders_list_in_folder(struct store *s, int64_t folder, cJSON *list);

/* Finds or makes the order of the instance's study; puts it into the request's FolderUuidList; with
 * a sha256 counts a receipt of the instance. *ret_order is the order's row. Or request_fail(). */
int orders_receive_instance(struct request *r, struct store *s, const struct orders_instance *in,
                            int64_t *ret_order);
/* The same for a document of an existing order. */
int orders_receive_document(struct request *r, struct store *s, const char *sha256, int64_t size,
                            int64_t *ret_order);

struct orders_exists {
    bool exists;
    cJSON *order; /* NULL: the study has none, or the assumption hides it */
};
/* CheckFileExist. */
int orders_check(struct request *r, struct store *s, struct orders_exists *ret);

int orders_search(struct request *r, struct store *s, cJSON *answer);
int orders_create(struct request *r, struct store *s, cJSON *answer);
int orders_create_json(struct request *r, struct store *s, cJSON *answer);
int orders_delete(struct request *r, struct store *s, cJSON *answer);
int orders_properties(struct request *r, struct store *s, cJSON *answer);
int orders_view_url(struct request *r, struct store *s, cJSON *answer);
int orders_share_url(struct request *r, struct store *s, cJSON *answer);
int orders_user_list(struct request *r, struct store *s, cJSON *answer);
int orders_empty_list(struct request *r, struct store *s, cJSON *answer);
/* Checks that the folders and orders that are named exist, and says yes. */
int orders_acknowledge(struct request *r, struct store *s, cJSON *answer);

#endif
