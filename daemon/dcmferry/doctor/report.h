/* What `dcmferry doctor` found: the steps on the way to the server, and which rows of
 * docs/postdicom-assumptions.md hold. */
#ifndef DCMFERRY_DOCTOR_REPORT_H
#define DCMFERRY_DOCTOR_REPORT_H

#include "transcript.h"

#include <stdint.h>

/*    enumerator, row, the value with which it holds, and then what that says */
#define REPORT_ROWS(X)                                                                             \
    X(PARTS_IN_FLIGHT, "parts-in-flight", "any",                                                   \
      "a connection takes further parts before the first is answered")                             \
    X(EXISTS_MEANS, "exists-means", "whole", "\"it exists\" means that every part arrived")        \
    X(EXISTS_SCOPE, "exists-scope", "account",                                                     \
      "an existence check looks beyond the folder it names")                                       \
    X(EXISTS_ORDER, "exists-order", "uuid", "an existence check names the order")                  \
    X(EXISTS_DELAY, "exists-delay", "0", "what was acknowledged exists at once")                   \
    X(PART_ANSWER, "part-answer", "each", "the answer to each part names the order")               \
    X(REPEATED_PART, "repeated-part", "accept", "a part may be sent a second time")                \
    X(PARTS_SURVIVE, "parts-survive", "yes", "parts outlive the connection that carried them")     \
    X(SESSION_UUID, "session-uuid", "both",                                                        \
      "files are taken under the API session's GUID too, as the vendor's client sends them")       \
    X(UPLOAD_SESSION_IDLE, "upload-session-idle", "0", "an upload session outlives a pause")       \
    X(SESSION_LIFETIME, "session-lifetime", "0", "an API session lasts")                           \
    X(SESSION_LOST, "session-lost", "refuse", "an unknown session is refused, not cut off")        \
    X(DISPLACE, "displace", "none",                                                                \
      "a second client with the same API key leaves the first alone")                              \
    X(IDLE_CLOSE, "idle-close", "0", "a connection without traffic stays open")                    \
    X(PONG, "pong", "yes", "WebSocket pings are answered")                                         \
    X(MAX_CONNECTIONS, "max-connections", "0",                                                     \
      "a session may have as many connections as we want")                                         \
    X(ORDERS_MERGE, "orders-merge", "study",                                                       \
      "instances of one study become one order, whatever upload session they come in")             \
    X(FOLDER_LIST, "folder-list", "add", "a file puts its order into the folder it names")         \
    X(FOLDER_SEARCH, "folder-search", "exact", "folders are searched by their whole name")         \
    X(CREATE_EXISTING, "create-existing", "same",                                                  \
      "creating a folder that is there gives that one")                                            \
    X(CREATE_ANSWER, "create-answer", "uuid", "creating a folder tells its UUID")                  \
    X(FOLDER_GONE, "folder-gone", "refuse", "a file for a deleted folder is refused")              \
    X(SAME_INSTANCE, "same-instance", "replace",                                                   \
      "other bytes under a SOP Instance UID replace the first")                                    \
    X(ANSWER_TYPE, "answer-type", "24", "answers to uploads have message type 24")

enum report_row {
#define X(name, ...) REPORT_##name,
    REPORT_ROWS(X)
#undef X
        REPORT_N_ROWS
};

/* The row of that name, -1 if there is none. */
int report_row_find(const char *name);
const char *report_row_name(enum report_row row);

struct report {
    struct transcript *transcript;
    unsigned failed, warnings; /* steps */
    cJSON *steps;
    struct report_verdict {
        bool wanted; /* it is to be tried */
        bool told;
        char found[24];   /* the value; "" if it could not be told */
        char text[200];   /* why not, or more about it */
        char advice[300]; /* what to set; "" nothing */
        bool must;        /* the configuration as it is does not fit */
    } rows[REPORT_N_ROWS];
};

/* Of a zeroed one, in which `wanted` may be set already. */
int report_init(struct report *r, struct transcript *t);
void report_free(struct report *r);

enum report_result { REPORT_OK, REPORT_WARNING, REPORT_FAILED };
/* A step of the way; `advice` (NULL: none) is what to do. */
void report_step(struct report *r, enum report_result result, const char *name, const char *advice,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

/* What was found; the row's own advice goes with it. `format` (NULL) tells more. */
void report_found(struct report *r, enum report_row row, const char *value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void report_found_number(struct report *r, enum report_row row, uint64_t value, const char *format,
                         ...) __attribute__((format(printf, 4, 5)));
/* In place of the row's own advice; `must`: the configuration does not fit. */
void report_advise(struct report *r, enum report_row row, bool must, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Why it could not be told; nothing if it was, or if that was said already. */
void report_untold(struct report *r, enum report_row row, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool report_holds(const struct report *r, enum report_row row);

/* The table of the rows that were wanted, through the transcript. */
void report_table(const struct report *r);
/* Steps that failed and rows whose settings must change: 0 is all well. */
unsigned report_faults(const struct report *r);
/* {"ok", "steps": […], "assumptions": […]} into object. */
void report_json(const struct report *r, cJSON *object);

#endif
