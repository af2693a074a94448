/* Work in the background, one at a time, on a thread and a connection of its own: the check after
 * an unclean stop, and the backup. The backup reads one snapshot, is checked, synced, and only then
 * takes the place of the last one. */
#include "journal/journal_internal.h"

#include "base/fsutil.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define CACHE_KIB    1024
#define PAGES_A_STEP 256

int journal_backup_discard(const char *path, struct err *e)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char name[PATH_MAX + 16];

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        if (unlink(name) < 0 && errno != ENOENT)
            return err_set_errno(e, errno,
                                 "journal: cannot remove an unfinished copy of the database");
    }
    return 0;
}

int journal_backup_publish(const char *from, const char *to, struct err *e)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    int rc = 0;

    if (fd < 0 || fsync(fd) < 0)
        rc = err_set_errno(e, errno, "journal: cannot sync a copy of the database");
    if (fd >= 0)
        close(fd);
    return rc != 0 ? rc : fsutil_rename_replace(from, to, e);
}

int journal_backup_create(const char *path, struct err *e)
{
    int rc = journal_backup_discard(path, e);
    int fd;

    if (rc != 0)
        return rc;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_set_errno(e, errno, "journal: cannot create a database");
    close(fd);
    return 0;
}

static int copy_pages(struct journal_db *from, struct journal_db *to, bool (*stop)(void *ctx),
                      void *ctx, struct err *e)
{
    sqlite3_backup *backup = sqlite3_backup_init(to->sqlite, "main", from->sqlite, "main");
    int rc;

    if (backup == NULL)
        return journal_db_error(to, sqlite3_errcode(to->sqlite), e);
    do {
        rc = stop != NULL && stop(ctx) ? SQLITE_INTERRUPT
                                       : sqlite3_backup_step(backup, PAGES_A_STEP);
    } while (rc == SQLITE_OK);
    sqlite3_backup_finish(backup);
    if (rc == SQLITE_DONE)
        return 0;
    if (rc == SQLITE_INTERRUPT)
        return err_set(e, ERR_CANCELED, "journal: the backup was interrupted");
    return journal_db_error(to, rc, e);
}

int journal_backup_copy(struct journal_db *from, const char *to, bool (*stop)(void *ctx), void *ctx,
                        struct err *e)
{
    struct journal_db copy = {0};
    int rc = journal_backup_create(to, e);

    if (rc == 0)
        rc = journal_db_open(&copy, to, CACHE_KIB, e);
    if (rc != 0)
        return rc;
    /* It is synced as a whole at the end, and nobody reads it before. */
    rc = journal_db_exec(&copy, "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;", e);
    /* One read transaction: writers of another connection do not make the copy start anew. */
    if (rc == 0)
        rc = journal_db_exec(from, "BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1;", e);
    if (rc == 0)
        rc = copy_pages(from, &copy, stop, ctx, e);
    if (!sqlite3_get_autocommit(from->sqlite))
        journal_db_exec(from, "COMMIT", NULL);
    /* Out of WAL mode, which it has from the original: one file, complete in itself. */
    if (rc == 0)
        rc = journal_db_exec(&copy, "PRAGMA journal_mode = DELETE;", e);
    if (journal_db_close(&copy, rc == 0 ? e : NULL) != 0 && rc == 0)
        rc = ERR_IO;
    if (rc != 0)
        journal_backup_discard(to, NULL);
    return rc;
}

static bool stopping(void *ctx)
{
    struct journal *j = ctx;
    bool stop;

    uv_mutex_lock(&j->mutex);
    stop = j->background.stop;
    uv_mutex_unlock(&j->mutex);
    return stop;
}

static int progress(void *ctx)
{
    return stopping(ctx);
}

/* Opens a connection that journal_background_stop can interrupt. */
static int background_open(struct journal *j, struct journal_db *db, const char *path,
                           struct err *e)
{
    int rc = journal_db_open(db, path, CACHE_KIB, e);

    if (rc != 0)
        return rc;
    sqlite3_progress_handler(db->sqlite, 10000, progress, j);
    uv_mutex_lock(&j->mutex);
    j->background.connection = db->sqlite;
    uv_mutex_unlock(&j->mutex);
    return 0;
}

static void background_close(struct journal *j, struct journal_db *db)
{
    uv_mutex_lock(&j->mutex);
    j->background.connection = NULL;
    uv_mutex_unlock(&j->mutex);
    journal_db_close(db, NULL);
}

static int check_database(struct journal *j, const char *path, struct err *e)
{
    struct journal_db db;
    int rc = background_open(j, &db, path, e);

    if (rc != 0)
        return rc;
    rc = journal_recover_check(&db, e);
    background_close(j, &db);
    return rc;
}

static int back_up(struct journal *j, struct err *e)
{
    char path[PATH_MAX + 32], new_path[PATH_MAX + 32], final_path[PATH_MAX + 32];
    struct journal_db db;
    int rc;

    snprintf(path, sizeof(path), "%s/journal.db", j->folder);
    snprintf(new_path, sizeof(new_path), "%s/backup.db.new", j->folder);
    snprintf(final_path, sizeof(final_path), "%s/backup.db", j->folder);
    rc = background_open(j, &db, path, e);
    if (rc != 0)
        return rc;
    rc = journal_backup_copy(&db, new_path, stopping, j, e);
    background_close(j, &db);
    /* A copy of a damaged journal must not replace a good one: and that it is damaged is news. */
    if (rc == 0)
        rc = check_database(j, new_path, e);
    if (rc == 0)
        rc = journal_backup_publish(new_path, final_path, e);
    if (rc != 0)
        journal_backup_discard(new_path, NULL);
    return rc;
}

static void background_main(void *arg)
{
    struct journal *j = arg;
    char path[PATH_MAX + 32];
    struct err e = {0};
    int rc;

    /* `kind` was set before the thread started. */
    if (j->background.kind == JOURNAL_BACKGROUND_CHECK) {
        snprintf(path, sizeof(path), "%s/journal.db", j->folder);
        rc = check_database(j, path, &e);
    } else {
        rc = back_up(j, &e);
    }
    uv_mutex_lock(&j->mutex);
    j->background.finished = true;
    j->background.status = rc;
    j->background.err = e;
    uv_cond_signal(&j->cond);
    uv_mutex_unlock(&j->mutex);
}

int journal_background_start(struct journal *j, enum journal_background_kind kind, struct err *e)
{
    struct journal_background *b = &j->background;

    b->kind = kind;
    b->finished = false;
    b->stop = false;
    b->connection = NULL;
    if (uv_thread_create(&b->thread, background_main, j) != 0) {
        b->kind = JOURNAL_BACKGROUND_NONE;
        return err_set(e, ERR_NOMEM, "journal: cannot start a thread");
    }
    return 0;
}

void journal_background_stop(struct journal *j)
{
    uv_mutex_lock(&j->mutex);
    j->background.stop = true;
    if (j->background.connection != NULL)
        sqlite3_interrupt(j->background.connection);
    uv_mutex_unlock(&j->mutex);
}

int journal_background_join(struct journal *j, struct err *e)
{
    uv_thread_join(&j->background.thread);
    j->background.kind = JOURNAL_BACKGROUND_NONE;
    *e = j->background.err;
    return j->background.status;
}
