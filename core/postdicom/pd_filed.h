/* Which orders are known to be in which folders: the newest thousand. Pure; not thread-safe. */
#ifndef POSTDICOM_PD_FILED_H
#define POSTDICOM_PD_FILED_H

#include <stdbool.h>

struct pd_filed_entry;

/* Zero-initialise. */
struct pd_filed {
    struct pd_filed_entry *entries;
};

bool pd_filed_has(const struct pd_filed *f, const char *order, const char *folder);
/* Where memory is short it is not remembered, which costs one request. */
void pd_filed_add(struct pd_filed *f, const char *order, const char *folder);
void pd_filed_clear(struct pd_filed *f);

#endif
