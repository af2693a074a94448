/* The journal thread: takes all operations that wait, runs them in one transaction, and gives them
 * back when it is on disk.
 *
 * An operation that fails before it changed anything just fails. When one fails after a change, or
 * SQLite gives the transaction up, everything is rolled back and the group runs again with a
 * savepoint each (rare, and the savepoints' copies of pages are not paid for otherwise). When the
 * commit fails all that wanted to change something fail with its error, and those that only read
 * run again. */
#include "journal/journal_internal.h"

#include "base/clock.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_MAX 2048
#define IDLE_MS   3000  /* quiet for so long: give memory back and empty the log, once */
#define LATE_MS   65000 /* after that once more: connections and workers end after a minute */

/* Submitted after journal_close: it fails, in its turn. */
static int run_refused(struct journal *j, struct journal_op *op, struct err *e)
{
    (void)j;
    (void)op;
    return err_set(e, ERR_CANCELED, "journal: it is closing");
}

const struct journal_kind_table journal_kinds[JOURNAL_KIND_MAX] = {
    [JOURNAL_KIND_LOOKUP] = {journal_run_lookup, NULL, true},
    [JOURNAL_KIND_BINDING] = {journal_run_binding, journal_reset_binding, true},
    [JOURNAL_KIND_ADMIT] = {journal_run_admit, NULL, false},
    [JOURNAL_KIND_TOUCH] = {journal_run_touch, NULL, false},
    [JOURNAL_KIND_FILES] = {journal_run_files, journal_reset_files, true},
    [JOURNAL_KIND_CLAIM] = {journal_run_claim, journal_reset_claim, false},
    [JOURNAL_KIND_SETTLE] = {journal_run_settle, NULL, false},
    [JOURNAL_KIND_VANISH] = {journal_run_vanish, NULL, false},
    [JOURNAL_KIND_DISPOSED] = {journal_run_disposed, NULL, false},
    [JOURNAL_KIND_STANDING] = {journal_run_standing, journal_reset_standing, true},
    [JOURNAL_KIND_GONE] = {journal_run_gone, NULL, false},
    [JOURNAL_KIND_PRUNE] = {journal_run_prune, NULL, false},
    [JOURNAL_KIND_MOVED] = {journal_run_moved, journal_reset_moved, true},
    [JOURNAL_KIND_UNMOVED] = {journal_run_unmoved, NULL, false},
    [JOURNAL_KIND_STUDY] = {journal_run_study, NULL, true},
    [JOURNAL_KIND_ACT] = {journal_run_act, NULL, false},
    [JOURNAL_KIND_COUNTS] = {journal_run_counts, NULL, true},
    [JOURNAL_KIND_HOLDS] = {journal_run_holds, journal_reset_holds, true},
    [JOURNAL_KIND_LIST] = {journal_run_list, journal_reset_list, true},
    [JOURNAL_KIND_REBUILT] = {journal_run_rebuilt, NULL, false},
    [JOURNAL_KIND_REFUSED] = {run_refused, NULL, true},
    /* JOURNAL_KIND_BACKUP does not run here */
};

void journal_queue_init(struct journal_queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

void journal_queue_put(struct journal_queue *q, struct journal_op *op)
{
    op->next = NULL;
    *q->tail = op;
    q->tail = &op->next;
}

struct journal_op *journal_queue_take(struct journal_queue *q)
{
    struct journal_op *op = q->head;

    if (op == NULL)
        return NULL;
    q->head = op->next;
    if (q->head == NULL)
        q->tail = &q->head;
    op->next = NULL;
    return op;
}

static void fail(struct journal_op *op, const struct err *e)
{
    op->status = e->code;
    op->err = *e;
}

static void reset(struct journal_op *op)
{
    if (journal_kinds[op->kind].reset != NULL)
        journal_kinds[op->kind].reset(op);
}

/* From now on nothing succeeds: a damaged database must not be written to, and what it says is not
 * to be believed. */
static void set_damaged(struct journal *j, const struct err *e)
{
    if (j->damaged)
        return;
    j->damaged = true;
    /* If even the mark cannot be written, the next start checks the database as after any unclean
     * stop. */
    journal_recover_mark(j->folder, NULL);
    uv_mutex_lock(&j->mutex);
    j->damage = *e;
    j->tell_damaged = true;
    uv_mutex_unlock(&j->mutex);
}

static void run_one(struct journal *j, struct journal_op *op)
{
    op->status = journal_kinds[op->kind].run(j, op, &op->err);
    if (op->status == 0) {
        op->err = (struct err){0}; /* of what it did not mind */
    } else {
        reset(op);
        if (op->status == ERR_DAMAGED)
            set_damaged(j, &op->err);
    }
}

static void roll_back(struct journal *j)
{
    journal_counts_drop(&j->db);
    if (!sqlite3_get_autocommit(j->db.sqlite))
        journal_run(&j->db, NULL, "ROLLBACK");
}

/* All at once; false if it has to be run again with savepoints. */
static bool run_together(struct journal *j, struct journal_op *group)
{
    for (struct journal_op *op = group; op != NULL; op = op->next) {
        int64_t before = sqlite3_total_changes64(j->db.sqlite);

        run_one(j, op);
        if (sqlite3_get_autocommit(j->db.sqlite) ||
            (op->status != 0 && sqlite3_total_changes64(j->db.sqlite) != before))
            return false;
    }
    return true;
}

/* Each in its savepoint; an error if the transaction as a whole is lost. */
static int run_apart(struct journal *j, struct journal_op *group, struct err *e)
{
    for (struct journal_op *op = group; op != NULL; op = op->next) {
        struct journal_counted counted[JOURNAL_COUNTS];
        int rc = journal_run(&j->db, e, "SAVEPOINT op");

        if (rc != 0)
            return rc;
        memcpy(counted, j->db.counted, sizeof(counted));
        run_one(j, op);
        if (sqlite3_get_autocommit(j->db.sqlite)) {
            *e = op->err;
            return op->status != 0 ? op->status
                                   : err_set(e, ERR_IO, "journal: the transaction was lost");
        }
        if (op->status != 0) {
            memcpy(j->db.counted, counted, sizeof(counted));
            rc = journal_run(&j->db, e, "ROLLBACK TO op");
        }
        if (rc == 0)
            rc = journal_run(&j->db, e, "RELEASE op");
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void reset_all(struct journal_op *group)
{
    for (struct journal_op *op = group; op != NULL; op = op->next) {
        reset(op);
        op->status = 0;
        op->err.code = 0;
        op->err.text[0] = '\0';
    }
}

/* Runs a group in one transaction. Afterwards each has its status. */
static int transact(struct journal *j, struct journal_op *group, bool reads, struct err *e)
{
    int rc = reads ? journal_run(&j->db, e, "BEGIN") : journal_run(&j->db, e, "BEGIN IMMEDIATE");

    if (rc == 0 && !run_together(j, group)) {
        roll_back(j);
        reset_all(group);
        rc = j->damaged ? err_set(e, ERR_DAMAGED, "journal: the database is damaged")
                        : journal_run(&j->db, e, "BEGIN IMMEDIATE");
        if (rc == 0)
            rc = run_apart(j, group, e);
    }
    if (rc == 0)
        rc = journal_counts_store(&j->db, e);
    if (rc == 0)
        rc = journal_run(&j->db, e, "COMMIT");
    if (rc != 0)
        roll_back(j);
    return rc;
}

static void refuse_all(struct journal_op *group, const struct err *e, bool reads_too)
{
    for (struct journal_op *op = group; op != NULL; op = op->next)
        if (reads_too || !journal_kinds[op->kind].reads)
            fail(op, e);
}

static void housekeeping(struct journal *j)
{
    if (j->housekeeping_due)
        sqlite3_wal_checkpoint_v2(j->db.sqlite, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    j->housekeeping_due = false;
    j->memory_held = false;
    journal_db_forget_statements(&j->db);
    sqlite3_db_release_memory(j->db.sqlite);
    /* Else what the burst took stays with the process, in this thread's arena and the loop's. */
    malloc_trim(0);
    j->trim_at_ms = clock_monotonic_ms() + LATE_MS;
}

/* By now the connections and the workers went that had nothing to do. */
static bool trim_late(struct journal *j)
{
    if (j->trim_at_ms == 0 || clock_monotonic_ms() < j->trim_at_ms)
        return false;
    j->trim_at_ms = 0;
    malloc_trim(0);
    return true;
}

/* The disk was full: until all was quiet once, what room there is goes to emptying the log, which
 * gives back much more. Else the log would take it, and those who try again every second would keep
 * the thread from its quiet time. */
static void make_room(struct journal *j)
{
    if (j->no_space && j->background.kind == JOURNAL_BACKGROUND_NONE) {
        j->housekeeping_due = true;
        housekeeping(j);
    }
}

static void run_group(struct journal *j, struct journal_op *group)
{
    bool reads = true;
    int64_t before = sqlite3_total_changes64(j->db.sqlite);
    struct err e = {0};
    int rc;

    if (j->damaged) {
        err_set(&e, ERR_DAMAGED, "journal: the database is damaged: restart to restore it");
        refuse_all(group, &e, true);
        return;
    }
    j->memory_held = true;
    for (struct journal_op *op = group; op != NULL; op = op->next)
        reads &= journal_kinds[op->kind].reads;
    if (!reads)
        make_room(j);
    rc = transact(j, group, reads, &e);
    if (rc == 0) {
        if (sqlite3_total_changes64(j->db.sqlite) != before) {
            j->changed = true;
            j->housekeeping_due = true;
        }
    } else {
        reset_all(group);
        if (rc == ERR_DAMAGED)
            set_damaged(j, &e);
        j->no_space = j->no_space || rc == ERR_NOSPACE;
        refuse_all(group, &e, true);
        for (struct journal_op *op = group; op != NULL && !j->damaged && !reads; op = op->next)
            if (journal_kinds[op->kind].reads) {
                op->err = (struct err){0};
                run_one(j, op);
            }
    }
    for (struct journal_op *op = group; op != NULL; op = op->next) {
        if (op->kind == JOURNAL_KIND_ADMIT && op->status == 0)
            ((struct journal_admit *)op)->file_id = op->result;
        if (op->kind == JOURNAL_KIND_REBUILT && op->status == 0)
            j->rebuilding = false;
    }
}

static void post(struct journal *j, struct journal_op *list)
{
    if (list == NULL)
        return;
    uv_mutex_lock(&j->mutex);
    while (list != NULL) {
        struct journal_op *op = list;

        list = op->next;
        journal_queue_put(&j->done, op);
    }
    uv_async_send(&j->async);
    uv_mutex_unlock(&j->mutex);
}

/* The next operations, in order; those that wait for a backup are set apart. */
static struct journal_op *take_group(struct journal *j, struct journal_queue *backups)
{
    struct journal_queue group;
    struct journal_op *op;

    journal_queue_init(&group);
    for (size_t n = 0; n < GROUP_MAX && (op = journal_queue_take(&j->queue)) != NULL; n++) {
        op->status = 0;
        op->err = (struct err){0};
        journal_queue_put(op->kind == JOURNAL_KIND_BACKUP ? backups : &group, op);
    }
    return group.head;
}

static void backups_done(struct journal *j, struct journal_queue *waiting, int status,
                         const struct err *e)
{
    for (struct journal_op *op = waiting->head; op != NULL; op = op->next)
        if (status != 0)
            fail(op, e);
    post(j, waiting->head);
    journal_queue_init(waiting);
}

/* What the background does next, if it is free: the check first, then a backup that is asked for or
 * due. */
static void background_next(struct journal *j, struct journal_queue *asked)
{
    bool due = j->backup_ms > 0 && j->changed && clock_monotonic_ms() >= j->backup_at_ms;
    struct err e = {0};
    int rc;

    if (j->background.kind != JOURNAL_BACKGROUND_NONE)
        return;
    if (j->damaged) {
        err_set(&e, ERR_DAMAGED, "journal: the database is damaged: it is not backed up");
        backups_done(j, asked, ERR_DAMAGED, &e);
        return;
    }
    if (j->check_due) {
        /* If no thread can be had the check is made by the next backup. */
        j->check_due = false;
        journal_background_start(j, JOURNAL_BACKGROUND_CHECK, NULL);
    } else if (due || asked->head != NULL) {
        j->backups = *asked;
        if (j->backups.head == NULL)
            j->backups.tail = &j->backups.head;
        journal_queue_init(asked);
        j->backup_at_ms = clock_monotonic_ms() + j->backup_ms;
        j->changed = false;
        rc = journal_background_start(j, JOURNAL_BACKGROUND_BACKUP, &e);
        if (rc != 0) {
            j->changed = true;
            backups_done(j, &j->backups, rc, &e);
        }
    }
}

static void background_reap(struct journal *j)
{
    bool backup = j->background.kind == JOURNAL_BACKGROUND_BACKUP;
    struct err e = {0};
    int rc = journal_background_join(j, &e);

    if (rc == ERR_DAMAGED)
        set_damaged(j, &e);
    if (!backup && rc == 0)
        j->unchecked = false;
    if (backup && rc != 0)
        j->changed = true;
    if (backup)
        backups_done(j, &j->backups, rc, &e);
    uv_async_send(&j->async);
}

/* Not while another connection reads: emptying the log would wait for it. */
static bool housekeeping_may(const struct journal *j)
{
    return (j->housekeeping_due || j->memory_held) &&
           j->background.kind == JOURNAL_BACKGROUND_NONE && !j->damaged;
}

/* Milliseconds until the thread wants to wake up by itself; UINT64_MAX: when it is called. */
static uint64_t sleep_ms(const struct journal *j)
{
    uint64_t now = clock_monotonic_ms();
    uint64_t ms = UINT64_MAX;

    if (j->damaged)
        return ms;
    if (j->backup_ms > 0 && j->changed && j->background.kind == JOURNAL_BACKGROUND_NONE)
        ms = j->backup_at_ms > now ? j->backup_at_ms - now : 0;
    if (housekeeping_may(j) && ms > IDLE_MS)
        ms = IDLE_MS;
    if (j->trim_at_ms > 0 && ms > (j->trim_at_ms > now ? j->trim_at_ms - now : 0))
        ms = j->trim_at_ms > now ? j->trim_at_ms - now : 0;
    return ms;
}

/* With the mutex held. */
static void take_interval(struct journal *j)
{
    if (j->backup_ms == j->wanted_backup_ms)
        return;
    j->backup_ms = j->wanted_backup_ms;
    j->backup_at_ms = clock_monotonic_ms() + j->backup_ms;
}

/* Waits for something to do; true when there is nothing any more and the journal is to close. */
static bool wait_for_work(struct journal *j, struct journal_op **group, struct journal_queue *asked,
                          bool *reap)
{
    bool idle = false, end = false;

    uv_mutex_lock(&j->mutex);
    while (!j->background.finished && j->queue.head == NULL && !j->closing && !idle) {
        uint64_t ms;

        take_interval(j);
        ms = sleep_ms(j);
        if (ms == UINT64_MAX)
            uv_cond_wait(&j->cond, &j->mutex);
        else if (ms == 0 || uv_cond_timedwait(&j->cond, &j->mutex, ms * 1000000) == UV_ETIMEDOUT)
            idle = true;
    }
    *group = take_group(j, asked);
    *reap = j->background.finished;
    j->background.finished = false;
    end = j->closing && *group == NULL;
    uv_mutex_unlock(&j->mutex);
    if (idle && *group == NULL && !trim_late(j) && housekeeping_may(j)) {
        housekeeping(j);
        j->no_space = false;
    }
    return end;
}

static int finish(struct journal *j, struct journal_queue *asked)
{
    struct err e = {0};
    int rc = 0;

    if (j->background.kind != JOURNAL_BACKGROUND_NONE) {
        journal_background_stop(j);
        background_reap(j);
    }
    err_set(&e, ERR_CANCELED, "journal: it is closing");
    backups_done(j, asked, ERR_CANCELED, &e);
    if (j->damaged) {
        rc = ERR_DAMAGED;
    } else if (!j->unchecked) { /* else the next start checks */
        make_room(j);
        rc = journal_meta_set(&j->db, "clean", 1, &e);
        if (rc == 0)
            journal_db_trust(&j->db);
    }
    if (journal_db_close(&j->db, &e) != 0 && rc == 0)
        rc = ERR_IO;
    return rc;
}

void journal_thread(void *arg)
{
    struct journal *j = arg;
    struct journal_queue asked; /* backups asked for */
    struct journal_op *group, *op;
    bool reap;
    int rc;

    journal_queue_init(&asked);
    while (background_next(j, &asked), !wait_for_work(j, &group, &asked, &reap)) {
        if (reap)
            background_reap(j);
        if (group != NULL) {
            run_group(j, group);
            post(j, group);
        }
    }
    if (reap)
        background_reap(j);
    rc = finish(j, &asked);
    uv_mutex_lock(&j->mutex);
    while ((op = journal_queue_take(&j->queue)) != NULL) { /* came since it was found empty */
        op->status = err_set(&op->err, ERR_CANCELED, "journal: it is closing");
        journal_queue_put(&j->done, op);
    }
    j->close_status = rc;
    j->ended = true;
    uv_async_send(&j->async);
    uv_mutex_unlock(&j->mutex);
}
