/* What was sent and what was answered, a line each, without keys, session ids or anything that is
 * of the account: of JSON the names of members are shown, and of values only those that are ours
 * (transcript_known), true and false, and numbers that count something. */
#ifndef DCMFERRY_DOCTOR_TRANSCRIPT_H
#define DCMFERRY_DOCTOR_TRANSCRIPT_H

#include "base/err.h"
#include "postdicom/pd_params.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

struct transcript;

/* To stdout with `print`; to `path` (0600, replaced), unless NULL; kept for transcript_lines. */
int transcript_open(struct transcript **ret, const char *path, bool print, struct err *e);
/* Blanked out of every line, wherever they might stand. Must outlive the transcript. */
void transcript_keys(struct transcript *t, const struct pd_keys *keys);
/* A text of ours: shown where a member holds exactly this. */
void transcript_known(struct transcript *t, const char *text);

/* A line with the time before it. */
void transcript_say(struct transcript *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same, and the JSON behind it, redacted; `json` may be NULL. */
void transcript_json(struct transcript *t, const char *json, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Text for people between the lines, as it is. */
void transcript_text(struct transcript *t, const char *text);

/* [{"time", "text"}]; the caller's. */
cJSON *transcript_lines(const struct transcript *t);
/* ERR_IO if the file could not be written. */
int transcript_close(struct transcript *t, struct err *e);

#endif
