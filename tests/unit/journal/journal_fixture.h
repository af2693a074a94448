/* A journal in a folder of its own, and operations that wait for their callback. */
#ifndef TESTS_JOURNAL_FIXTURE_H
#define TESTS_JOURNAL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "journal/journal.h"

#include <sqlite3.h>

struct fixture {
    uv_loop_t loop;
    char folder[64];
    struct journal *journal; /* NULL while closed */
    struct journal_opened opened;
    uint64_t backup_ms;
    struct err err;   /* of the last operation or open */
    unsigned damaged; /* calls of the damaged callback */
    int close_status;
};

struct fixture *fixture_new(void);
void fixture_free(struct fixture *f); /* closes, removes the folder */
int fixture_open(struct fixture *f);
void fixture_close(struct fixture *f);
/* Copies the folder as it is now, as a crash would leave it, and opens that instead. */
void fixture_crash(struct fixture *f);
const char *fixture_path(const struct fixture *f,
                         const char *name); /* static buffers, four in turn */
void fixture_run_once(struct fixture *f);
/* Runs the loop until *flag; fails the test after a minute. */
void fixture_until(struct fixture *f, const bool *flag);

/* Submits and waits; the status. */
#define fixture_do(f, kind, operation)                                                             \
    (fixture_begin((f), &(operation)->op), journal_##kind((f)->journal, (operation)),              \
     fixture_end((f), &(operation)->op))
void fixture_begin(struct fixture *f, struct journal_op *op);
int fixture_end(struct fixture *f, struct journal_op *op);

/* Admits a queued file with one delivery to "cloud". Its id. */
uint64_t fixture_admit(struct fixture *f, const char *path, const char *sop, int priority);
/* Claims up to `limit` for a destination at `now`, gives the ids (of deliveries) and frees the
 * rows. */
size_t fixture_claim(struct fixture *f, const char *destination, size_t limit, int64_t now,
                     uint64_t *ids);
int fixture_settle(struct fixture *f, uint64_t delivery, enum delivery_state state,
                   bool *file_delivered);
/* One number from the database, by a connection of its own. */
int64_t fixture_number(struct fixture *f, const char *sql);
/* Compares journal_counts with a count of all rows. */
void fixture_check_counts(struct fixture *f);

#endif
