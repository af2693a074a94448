/* Patient orders: their rows, and the methods that find, make and remove them. On the store's
 * thread. */
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

/* A new order; `key` is what makes two instances one order, NULL: made by hand. Its row. */
int64_t orders_make(struct store *s, int64_t institution, const char *key,
                    const struct orders_instance *in);

/* General methods (type 17). */
int orders_search(struct request *r, struct store *s, cJSON *answer);
int orders_create(struct request *r, struct store *s, cJSON *answer);
int orders_create_json(struct request *r, struct store *s, cJSON *answer);
int orders_delete(struct request *r, struct store *s, cJSON *answer);
int orders_properties(struct request *r, struct store *s, cJSON *answer);

#endif
