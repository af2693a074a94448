/* Faults on purpose, for tests of clients: `--fault
 * NAME[=VALUE][:every=N][:p=0.1][:times=N][:on=KIND]`, changed at run time by POST /_sandbox/faults
 * with a JSON list of such texts. Loop thread only. */
#ifndef SANDBOX_FAULTS_H
#define SANDBOX_FAULTS_H

#include "base/err.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*    enumerator, name, what the value means ("" none), description */
#define FAULTS_MAP(X)                                                                              \
    X(DROP_AFTER, "drop-after", "N",                                                               \
      "the connection is cut when its N-th frame was carried out, unanswered")                     \
    X(DROP_BEFORE, "drop-before", "N", "the same, without carrying it out")                        \
    X(ANSWER_LATE, "answer-late", "MS", "answers wait that long")                                  \
    X(ANSWER_ERROR, "answer-error", "N", "every N-th request fails, without being carried out")    \
    X(NEVER_ANSWER, "never-answer", "N", "every N-th request is carried out and not answered")     \
    X(LOSE_REQUEST, "lose-request", "N", "every N-th request is neither carried out nor answered") \
    X(GARBAGE, "garbage-answer", "N", "every N-th answer is no frame at all")                      \
    X(TEXT, "text-answer", "N", "every N-th answer comes as a text message")                       \
    X(FORGET_SESSION, "forget-session", "N", "at every N-th frame its session is forgotten")       \
    X(DISPLACE, "displace", "N", "at every N-th frame its session is displaced by another client") \
    X(REFUSE_AUTH, "refuse-auth", "", "the keys are refused")                                      \
    X(HTTP_STATUS, "http-status", "CODE", "HTTP requests are answered with that status")           \
    X(REFUSE_UPGRADE, "refuse-upgrade", "CODE", "WebSockets are refused with that status")         \
    X(SLOW, "slow", "BYTES", "a connection is read at that many bytes a second")                   \
    X(DISK_FULL, "disk-full", "", "storing fails as on a full disk")

enum fault {
#define X(name, ...) FAULT_##name,
    FAULTS_MAP(X)
#undef X
        FAULTS_N
};

/* What a request is, for `:on=`; bits. */
enum fault_kind {
    FAULT_ON_SESSION = 1, /* type 3 */
    FAULT_ON_GENERAL = 2, /* type 17 */
    FAULT_ON_UPLOAD = 4,  /* type 23, all */
    FAULT_ON_PART = 8,    /* of them ProcessFile and ProcessDocuments */
    FAULT_ON_ANY = 15,
};

struct faults {
    struct fault_switch {
        bool on;
        uint32_t value;
        uint32_t every;     /* 0: each time */
        double probability; /* 1: each time */
        uint32_t times;     /* how often yet; 0: for ever */
        unsigned kinds;
        uint64_t seen, hits;
    } switches[FAULTS_N];
    uint64_t random;
};

void faults_init(struct faults *f);
/* Adds one switch; ERR_INVALID with what would be right. */
int faults_set(struct faults *f, const char *text, struct err *e);
/* Replaces all by a JSON list of texts; unchanged on failure. */
int faults_replace(struct faults *f, const cJSON *list, struct err *e);
/* Counts an occasion of this fault; whether it strikes now. *ret_value (may be NULL) is the
 * switch's value. */
bool faults_strike(struct faults *f, enum fault fault, unsigned kind, uint32_t *ret_value);
/* Whether it strikes on the n-th occasion of something that is counted elsewhere (a connection's
 * frames): when n is the switch's value. */
bool faults_strike_at(struct faults *f, enum fault fault, unsigned kind, uint64_t n);
/* Value of a switch that is on, without counting; 0 otherwise. */
uint32_t faults_value(const struct faults *f, enum fault fault);
/* {"name": {"value", "seen", "hits"}} of those that are on. */
cJSON *faults_json(const struct faults *f);
void faults_print(FILE *out);

#endif
