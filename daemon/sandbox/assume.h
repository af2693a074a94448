/* The switches of docs/postdicom-assumptions.md: how the sandbox behaves where the real server was
 * never seen. */
#ifndef SANDBOX_ASSUME_H
#define SANDBOX_ASSUME_H

#include "base/err.h"

#include <stdint.h>
#include <stdio.h>

/* Rows with words, the default first:  field, row, words separated by blanks */
#define ASSUME_WORDS(X)                                                                            \
    X(parts_in_flight, "parts-in-flight", "any one")                                               \
    X(exists_means, "exists-means", "whole any-part")                                              \
    X(exists_scope, "exists-scope", "account folder")                                              \
    X(exists_order, "exists-order", "uuid none")                                                   \
    X(part_answer, "part-answer", "each last")                                                     \
    X(repeated_part, "repeated-part", "accept refuse")                                             \
    X(parts_survive, "parts-survive", "yes no")                                                    \
    X(session_uuid, "session-uuid", "both initialize")                                             \
    X(session_lost, "session-lost", "refuse close")                                                \
    X(displace, "displace", "none close forget")                                                   \
    X(pong, "pong", "yes no")                                                                      \
    X(orders_merge, "orders-merge", "study session")                                               \
    X(folder_list, "folder-list", "add first")                                                     \
    X(folder_search, "folder-search", "exact contains")                                            \
    X(create_existing, "create-existing", "same error twin")                                       \
    X(create_answer, "create-answer", "uuid none")                                                 \
    X(folder_gone, "folder-gone", "refuse ignore")                                                 \
    X(same_instance, "same-instance", "replace keep")

/* Rows with a number:  field, row, default, unit */
#define ASSUME_NUMBERS(X)                                                                          \
    X(exists_delay, "exists-delay", 0, "milliseconds")                                             \
    X(upload_session_idle, "upload-session-idle", 0, "seconds")                                    \
    X(session_lifetime, "session-lifetime", 0, "seconds")                                          \
    X(idle_close, "idle-close", 0, "seconds")                                                      \
    X(max_connections, "max-connections", 0, "number")                                             \
    X(answer_type, "answer-type", 24, "number")

/* A word's index in its row; 0 is always the default. */
enum {
    ASSUME_PARTS_ONE = 1,
    ASSUME_EXISTS_ANY_PART = 1,
    ASSUME_SCOPE_FOLDER = 1,
    ASSUME_EXISTS_NO_ORDER = 1,
    ASSUME_ANSWER_LAST = 1,
    ASSUME_REPEAT_REFUSE = 1,
    ASSUME_PARTS_LOST = 1,
    ASSUME_UUID_INITIALIZE = 1,
    ASSUME_LOST_CLOSE = 1,
    ASSUME_DISPLACE_CLOSE = 1,
    ASSUME_DISPLACE_FORGET = 2,
    ASSUME_PONG_NO = 1,
    ASSUME_MERGE_SESSION = 1,
    ASSUME_LIST_FIRST = 1,
    ASSUME_SEARCH_CONTAINS = 1,
    ASSUME_CREATE_ERROR = 1,
    ASSUME_CREATE_TWIN = 2,
    ASSUME_CREATE_NO_UUID = 1,
    ASSUME_GONE_IGNORE = 1,
    ASSUME_INSTANCE_KEEP = 1,
};

struct assume {
#define X(field, ...) uint32_t field;
    ASSUME_WORDS(X)
    ASSUME_NUMBERS(X)
#undef X
};

void assume_init(struct assume *a);
/* "row=value"; ERR_INVALID with what would be right. */
int assume_set(struct assume *a, const char *text, struct err *e);
/* The rows and their values, for --help. */
void assume_print(FILE *out);

#endif
