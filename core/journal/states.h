/* The states of files and deliveries and the one table of legal moves (architecture, "The way of a
 * file"). Pure. */
#ifndef JOURNAL_STATES_H
#define JOURNAL_STATES_H

#include <stdbool.h>

/* The numbers are stored: never change one, append new ones. */
enum file_state {
    FILE_FOUND,
    FILE_QUEUED,    /* its deliveries are under way */
    FILE_DELIVERED, /* all of them are delivered or duplicate; disposal may be pending */
    FILE_DISPOSED,  /* the source was deleted or moved as configured */
    FILE_REJECTED,  /* not DICOM, unreadable, or a rejecting route */
    FILE_VANISHED,  /* left the drop folder undelivered: an alarm */
    FILE_HELD,      /* no route takes it */
    FILE_STATE_MAX,
};

enum delivery_state {
    DELIVERY_QUEUED,
    DELIVERY_SENDING,
    DELIVERY_WAITING, /* until next_ms */
    DELIVERY_DELIVERED,
    DELIVERY_FAILED,
    DELIVERY_HELD,
    DELIVERY_DUPLICATE,
    DELIVERY_CONFLICT,
    DELIVERY_ENDED, /* its file vanished or was rewritten before it was delivered */
    DELIVERY_STATE_MAX,
};

/* Whether the move is in the table. A state may not move to itself. */
bool file_state_may(enum file_state from, enum file_state to);
bool delivery_state_may(enum delivery_state from, enum delivery_state to);
const char *file_state_name(enum file_state s);         /* "queued"…; static */
const char *delivery_state_name(enum delivery_state s); /* "sending"…; static */

#endif
