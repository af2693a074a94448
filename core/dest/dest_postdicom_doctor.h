/* What `dcmferry doctor` finds out about a PostDICOM destination without writing to it. Loop thread
 * only. */
#ifndef DEST_DEST_POSTDICOM_DOCTOR_H
#define DEST_DEST_POSTDICOM_DOCTOR_H

#include "postdicom/pd_session.h"

struct postdicom_doctor;

/* Reports each step through `line` (with line_ctx) and ends with done, once; freed before. NULL
 * when out of memory. Goes on when it is told about the keys. */
struct postdicom_doctor *postdicom_doctor_new(struct pd_session *session,
                                              void (*line)(const char *text, void *ctx),
                                              void *line_ctx, void (*done)(int status, void *ctx),
                                              void *done_ctx);
/* The keys were read (NULL), or could not be. */
void postdicom_doctor_keys(struct postdicom_doctor *d, const struct err *e);
/* The session is a step further. */
void postdicom_doctor_step(struct postdicom_doctor *d, enum pd_login_step step);

#endif
