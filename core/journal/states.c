#include "journal/states.h"

#include <stddef.h>

#define BIT(s) (1u << (s))

static const unsigned file_moves[FILE_STATE_MAX] = {
    [FILE_FOUND] = BIT(FILE_QUEUED) | BIT(FILE_REJECTED) | BIT(FILE_VANISHED) | BIT(FILE_HELD),
    /* held: taken in again after its route went */
    [FILE_QUEUED] = BIT(FILE_DELIVERED) | BIT(FILE_VANISHED) | BIT(FILE_HELD),
    [FILE_DELIVERED] = BIT(FILE_DISPOSED),
    [FILE_DISPOSED] = 0,
    /* taken in again; that it was moved away is a column, it stays rejected */
    [FILE_REJECTED] = BIT(FILE_QUEUED) | BIT(FILE_HELD),
    [FILE_VANISHED] = 0,
    [FILE_HELD] = BIT(FILE_QUEUED) | BIT(FILE_REJECTED) | BIT(FILE_VANISHED),
};

static const unsigned delivery_moves[DELIVERY_STATE_MAX] = {
    [DELIVERY_QUEUED] = BIT(DELIVERY_SENDING) | BIT(DELIVERY_HELD) | BIT(DELIVERY_DUPLICATE) |
                        BIT(DELIVERY_CONFLICT) | BIT(DELIVERY_ENDED),
    [DELIVERY_SENDING] = BIT(DELIVERY_DELIVERED) | BIT(DELIVERY_WAITING) | BIT(DELIVERY_FAILED) |
                         BIT(DELIVERY_QUEUED) | BIT(DELIVERY_DUPLICATE) | BIT(DELIVERY_CONFLICT) |
                         BIT(DELIVERY_HELD) | BIT(DELIVERY_ENDED),
    [DELIVERY_WAITING] = BIT(DELIVERY_QUEUED) | BIT(DELIVERY_HELD) | BIT(DELIVERY_ENDED),
    [DELIVERY_DELIVERED] = 0,
    [DELIVERY_FAILED] = BIT(DELIVERY_QUEUED) | BIT(DELIVERY_HELD) | BIT(DELIVERY_ENDED),
    [DELIVERY_HELD] = BIT(DELIVERY_QUEUED) | BIT(DELIVERY_ENDED),
    [DELIVERY_DUPLICATE] = 0,
    /* queued: the operator sends it anyway; ended: its file was taken in again */
    [DELIVERY_CONFLICT] = BIT(DELIVERY_QUEUED) | BIT(DELIVERY_ENDED),
    /* it was under way when its file vanished, and arrived after all */
    [DELIVERY_ENDED] = BIT(DELIVERY_DELIVERED) | BIT(DELIVERY_DUPLICATE),
};

static const char *const file_names[FILE_STATE_MAX] = {
    [FILE_FOUND] = "found",       [FILE_QUEUED] = "queued",     [FILE_DELIVERED] = "delivered",
    [FILE_DISPOSED] = "disposed", [FILE_REJECTED] = "rejected", [FILE_VANISHED] = "vanished",
    [FILE_HELD] = "held",
};

static const char *const delivery_names[DELIVERY_STATE_MAX] = {
    [DELIVERY_QUEUED] = "queued",       [DELIVERY_SENDING] = "sending",
    [DELIVERY_WAITING] = "waiting",     [DELIVERY_DELIVERED] = "delivered",
    [DELIVERY_FAILED] = "failed",       [DELIVERY_HELD] = "held",
    [DELIVERY_DUPLICATE] = "duplicate", [DELIVERY_CONFLICT] = "conflict",
    [DELIVERY_ENDED] = "ended",
};

bool file_state_may(enum file_state from, enum file_state to)
{
    return (unsigned)from < FILE_STATE_MAX && (unsigned)to < FILE_STATE_MAX &&
           (file_moves[from] & BIT(to)) != 0;
}

bool delivery_state_may(enum delivery_state from, enum delivery_state to)
{
    return (unsigned)from < DELIVERY_STATE_MAX && (unsigned)to < DELIVERY_STATE_MAX &&
           (delivery_moves[from] & BIT(to)) != 0;
}

const char *file_state_name(enum file_state s)
{
    return (unsigned)s < FILE_STATE_MAX ? file_names[s] : "unknown";
}

const char *delivery_state_name(enum delivery_state s)
{
    return (unsigned)s < DELIVERY_STATE_MAX ? delivery_names[s] : "unknown";
}
