/* Opening the journal whatever state it was left in.
 *
 * journal.db appears by a rename only, complete with its schema: an empty or missing one beside a
 * backup is damage, not a beginning. Damage is first written down in `journal.damaged`, which holds
 * the name that the damaged files get. Then they are renamed, the last backup (or an empty journal)
 * is prepared as journal.db.new and renamed into place, and the mark is removed. A crash at any
 * point leaves the mark, and the next start goes on from there. Nothing damaged is deleted. */
#include "journal/journal_internal.h"

#include "base/clock.h"
#include "base/fsutil.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CACHE_KIB     6144
#define LOG_PAGES_MIN 64
#define LOG_PAGES_MAX 4000 /* as journal_db_open has it */

struct names {
    char db[PATH_MAX + 32], new_db[PATH_MAX + 32], backup[PATH_MAX + 32], mark[PATH_MAX + 32];
};

static void names_of(const char *folder, struct names *n)
{
    snprintf(n->db, sizeof(n->db), "%s/journal.db", folder);
    snprintf(n->new_db, sizeof(n->new_db), "%s/journal.db.new", folder);
    snprintf(n->backup, sizeof(n->backup), "%s/backup.db", folder);
    snprintf(n->mark, sizeof(n->mark), "%s/journal.damaged", folder);
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

int journal_recover_mark(const char *folder, struct err *e)
{
    struct names n;
    char name[64], path[PATH_MAX + 128], when[25];
    int64_t now = clock_realtime_ms();

    names_of(folder, &n);
    if (exists(n.mark))
        return 0;
    clock_format(now, when);
    for (int i = 0;; i++) {
        /* 2026-11-23T21:57:00.000Z without what file names had better not hold */
        snprintf(name, sizeof(name), "journal.db.damaged-%.4s%.2s%.2sT%.2s%.2s%.2sZ", when,
                 when + 5, when + 8, when + 11, when + 14, when + 17);
        if (i > 0)
            snprintf(name + strlen(name), sizeof(name) - strlen(name), ".%d", i);
        snprintf(path, sizeof(path), "%s/%s", folder, name);
        if (!exists(path))
            break;
    }
    return fsutil_write_file(n.mark, name, strlen(name), 0600, e);
}

int journal_recover_check(struct journal_db *db, struct err *e)
{
    sqlite3_stmt *stmt;
    int rc = journal_query(db, e, &stmt, "PRAGMA quick_check(1)");

    if (rc == 1) {
        const char *found = (const char *)sqlite3_column_text(stmt, 0);

        rc = found != NULL && strcmp(found, "ok") == 0
                 ? 0
                 : err_set(e, ERR_DAMAGED, "journal: the database is damaged");
        journal_db_done(stmt);
    }
    return rc;
}

/* Renames the damaged files as the mark says; those that are renamed already are not there any
 * more. *ret_in_place: all of it was done, and the restored database put in place: only the mark
 * was left. */
static int set_aside(const char *folder, const struct names *n, char *ret_name, size_t size,
                     bool *ret_in_place, struct err *e)
{
    /* The database last: while it is there its log has to be beside it or be gone with it. */
    static const char *const suffixes[] = {"-shm", "-wal", "-journal", ""};
    char *name = NULL, aside[PATH_MAX + 256];
    size_t length;
    int rc = fsutil_read_file(n->mark, 128, &name, &length, e);

    if (rc != 0)
        return rc;
    if (strncmp(name, "journal.db.damaged-", 19) != 0 || strchr(name, '/') != NULL) {
        free(name);
        return err_set(
            e, ERR_DAMAGED,
            "journal: journal.damaged in the state folder does not hold a name: remove it");
    }
    snprintf(ret_name, size, "%s", name);
    snprintf(aside, sizeof(aside), "%s/%s", folder, name);
    *ret_in_place = exists(aside) && exists(n->db);
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]) && rc == 0 && !*ret_in_place;
         i++) {
        char from[PATH_MAX + 64], to[PATH_MAX + 256];

        snprintf(from, sizeof(from), "%s%s", n->db, suffixes[i]);
        snprintf(to, sizeof(to), "%s/%s%s", folder, name, suffixes[i]);
        if (exists(from))
            rc = fsutil_rename_new(from, to, e);
    }
    free(name);
    return rc;
}

/* A database at n->new_db, as `build` makes it, becomes journal.db. */
static int put_in_place(const struct names *n, struct err *e)
{
    int rc = journal_backup_publish(n->new_db, n->db, e);

    return rc != 0 ? err_wrap(e, "journal: cannot put the database in place") : 0;
}

static int prepare_restored(struct journal_db *db, struct err *e)
{
    int rc = journal_schema_update(db, e);

    /* What was sent since the backup is not known. */
    if (rc == 0)
        rc =
            journal_db_exec(db,
                            "BEGIN; UPDATE delivery SET uncertain = 1 WHERE state NOT IN (3, 6, 8);"
                            "INSERT INTO meta VALUES ('rebuilding', 1) ON CONFLICT (key) DO UPDATE "
                            "SET value = 1; COMMIT",
                            e);
    return rc;
}

/* Prepares journal.db.new: from the backup, or empty. */
static int build(const struct names *n, const char *source, bool restored, struct err *e)
{
    struct journal_db from = {0}, db = {0};
    int rc;

    if (source == NULL) {
        rc = journal_backup_create(n->new_db, e);
    } else {
        rc = journal_db_open(&from, source, CACHE_KIB, e);
        if (rc != 0)
            return rc;
        rc = journal_recover_check(&from, e);
        if (rc == 0)
            rc = journal_backup_copy(&from, n->new_db, NULL, NULL, e);
        journal_db_close(&from, NULL);
    }
    if (rc == 0)
        rc = journal_db_open(&db, n->new_db, CACHE_KIB, e);
    if (rc != 0)
        return rc;
    rc = restored ? prepare_restored(&db, e) : journal_schema_update(&db, e);
    if (journal_db_close(&db, rc == 0 ? e : NULL) != 0 && rc == 0)
        rc = ERR_IO;
    return rc;
}

/* The backup may be damaged as well: it is kept under another name, and the journal begins empty.
 */
static int restore(const char *folder, const struct names *n, struct err *e)
{
    char aside[PATH_MAX + 64];
    int rc = ERR_NOT_FOUND;

    if (exists(n->backup)) {
        rc = build(n, n->backup, true, e);
        if (rc == ERR_DAMAGED) {
            snprintf(aside, sizeof(aside), "%s/backup.db.damaged-%lld", folder,
                     (long long)clock_realtime_ms());
            rc = fsutil_rename_new(n->backup, aside, e);
            if (rc == 0)
                rc = ERR_NOT_FOUND;
        }
    }
    if (rc == ERR_NOT_FOUND)
        rc = build(n, NULL, true, e);
    if (rc == 0)
        rc = put_in_place(n, e);
    if (rc == 0 && exists(n->mark))
        rc = fsutil_unlink(n->mark, e);
    return rc;
}

static int use_wal(struct journal_db *db, struct err *e)
{
    sqlite3_stmt *stmt;
    bool wal;
    int rc = journal_query(db, e, &stmt, "PRAGMA journal_mode = WAL");

    if (rc <= 0)
        return rc;
    wal = strcmp((const char *)sqlite3_column_text(stmt, 0), "wal") == 0;
    journal_db_done(stmt);
    if (!wal)
        return err_set(
            e, ERR_UNSUPPORTED,
            "journal: the file system of the state folder cannot hold it (no shared memory "
            "files): choose a local one");
    return 0;
}

/* On a small file system the log is emptied the earlier: a sixteenth of it is the log's. */
static int limit_log(struct journal_db *db, const struct names *n, struct err *e)
{
    struct statvfs st;
    char pragma[64];
    uint64_t pages;

    if (statvfs(n->db, &st) < 0)
        return err_set_errno(e, errno, "journal: cannot look at the file system of the database");
    pages = (uint64_t)st.f_blocks * st.f_frsize / 16 / 4096;
    if (pages >= LOG_PAGES_MAX)
        return 0;
    snprintf(pragma, sizeof(pragma), "PRAGMA wal_autocheckpoint = %d",
             pages < LOG_PAGES_MIN ? LOG_PAGES_MIN : (int)pages);
    return journal_db_exec(db, pragma, e);
}

/* Opens and makes ready a journal.db that is in place. Everything here that meets damage says so.
 */
static int open_database(struct journal_db *db, const struct names *n,
                         struct journal_opened *opened, struct err *e)
{
    struct stat st;
    int64_t clean = 0, rebuilding = 0;
    int rc;

    if (stat(n->db, &st) < 0)
        return err_set_errno(e, errno, "journal: cannot open the database");
    if (st.st_size == 0)
        return err_set(e, ERR_DAMAGED, "journal: the database is empty");
    rc = journal_db_open(db, n->db, CACHE_KIB, e);
    if (rc != 0)
        return rc;
    rc = use_wal(db, e);
    if (rc == 0)
        rc = limit_log(db, n, e);
    if (rc == 0)
        rc = journal_schema_update(db, e);
    if (rc == 0)
        rc = journal_counts_watch(db, e);
    if (rc == 0)
        rc = journal_meta_get(db, "clean", &clean, e);
    if (rc == 0)
        rc = journal_meta_get(db, "rebuilding", &rebuilding, e);
    if (rc == 0)
        rc = journal_db_exec(db, "BEGIN IMMEDIATE", e);
    if (rc == 0)
        rc = journal_meta_set(db, "clean", 0, e);
    /* Those whose file left meanwhile have nothing to be sent. */
    if (rc == 0)
        rc = journal_run(db, e,
                         "UPDATE delivery INDEXED BY delivery_sending SET state = 8 WHERE state = 1"
                         " AND (SELECT past FROM file WHERE file.id = file_id) <> 0");
    if (rc == 0)
        rc = journal_run(db, e,
                         "UPDATE delivery INDEXED BY delivery_sending SET state = 0, uncertain = 1 "
                         "WHERE state = 1");
    if (rc == 0)
        opened->requeued = (uint64_t)sqlite3_changes64(db->sqlite);
    if (rc == 0)
        rc = journal_run(
            db, e, "UPDATE delivery INDEXED BY delivery_blocked SET blocked = 0 WHERE blocked = 1");
    if (rc == 0)
        rc = journal_counts_store(db, e);
    if (rc == 0)
        rc = journal_db_exec(db, "COMMIT", e);
    if (rc != 0) {
        journal_db_close(db, NULL);
        return rc;
    }
    opened->unclean = clean == 0 && !opened->created && !opened->restored;
    opened->rebuilding = rebuilding != 0;
    return 0;
}

int journal_recover(struct journal_db *db, const char *folder, struct journal_opened *opened,
                    struct err *e)
{
    struct names n;
    char wal[PATH_MAX + 40];
    int rc;

    names_of(folder, &n);
    snprintf(wal, sizeof(wal), "%s-wal", n.db);
    rc = journal_backup_discard(n.new_db, e);
    /* A log without its database would be taken for that of the next one. */
    if (rc == 0 && !exists(n.db) && exists(wal))
        rc = journal_recover_mark(folder, e);
    for (int tries = 0; rc == 0; tries++) {
        bool marked = exists(n.mark), in_place = false;

        if (marked)
            rc = set_aside(folder, &n, opened->set_aside, sizeof(opened->set_aside), &in_place, e);
        if (rc == 0 && in_place) {
            rc = fsutil_unlink(n.mark, e);
            opened->restored = true;
        } else if (rc == 0 && (marked || (!exists(n.db) && exists(n.backup)))) {
            rc = restore(folder, &n, e);
            opened->restored = true;
        } else if (rc == 0 && !exists(n.db)) {
            rc = build(&n, NULL, false, e);
            if (rc == 0)
                rc = put_in_place(&n, e);
            opened->created = true;
        }
        if (rc == 0)
            rc = open_database(db, &n, opened, e);
        if (rc != ERR_DAMAGED || tries > 0)
            break;
        rc = journal_recover_mark(folder, e);
    }
    return rc;
}
