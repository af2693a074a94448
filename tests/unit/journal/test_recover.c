/* Damage, crashes, restores, schema versions, locks. */
#include "journal_fixture.h"

#include "journal/journal_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
    struct fixture *f = fixture_new();

    *state = f;
    assert_int_equal(fixture_open(f), 0);
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void admit_many(struct fixture *f, int from, int to)
{
    char path[32], sop[32];

    for (int i = from; i < to; i++) {
        snprintf(path, sizeof(path), "/in/%d", i);
        snprintf(sop, sizeof(sop), "1.%d", i);
        fixture_admit(f, path, sop, 0);
    }
}

static void back_up(struct fixture *f)
{
    struct journal_backup b = {0};

    assert_int_equal(fixture_do(f, backup, &b), 0);
}

static void overwrite(const char *path, off_t offset, size_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    char *garbage = malloc(size);

    assert_true(fd >= 0);
    assert_non_null(garbage);
    memset(garbage, 0x5a, size);
    assert_int_equal(pwrite(fd, garbage, size, offset), size);
    free(garbage);
    close(fd);
}

static int vanish(struct fixture *f, uint64_t file)
{
    struct journal_vanish v = {.file_id = file, .reason = "x"};

    return fixture_do(f, vanish, &v);
}

static off_t size_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_size : -1;
}

static bool exists(struct fixture *f, const char *name)
{
    return access(fixture_path(f, name), F_OK) == 0;
}

static void header(struct fixture *f)
{
    overwrite(fixture_path(f, "journal.db"), 0, 100);
}

static void half(struct fixture *f)
{
    const char *path = fixture_path(f, "journal.db");

    assert_int_equal(truncate(path, size_of(path) / 2 / 4096 * 4096), 0);
}

static void nothing(struct fixture *f)
{
    assert_int_equal(truncate(fixture_path(f, "journal.db"), 0), 0);
}

static void text(struct fixture *f)
{
    assert_int_equal(truncate(fixture_path(f, "journal.db"), 0), 0);
    overwrite(fixture_path(f, "journal.db"), 0, 5000);
}

static void missing(struct fixture *f)
{
    assert_int_equal(unlink(fixture_path(f, "journal.db")), 0);
}

/* Damage that shows when the journal is opened: set aside, and the backup takes its place. */
static void test_damaged_at_open(void **state)
{
    static void (*const damages[])(struct fixture * f) = {header, half, nothing, text, missing};
    struct fixture *f = *state;

    admit_many(f, 0, 50);
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        int64_t before;
        struct journal_rebuilt rebuilt = {0};
        uint64_t id;

        back_up(f);
        before = fixture_number(f, "SELECT count(*) FROM file");
        admit_many(f, 1000 * (int)(i + 1), 1000 * (int)(i + 1) + 20); /* lost with the damage */
        fixture_close(f);
        damages[i](f);
        assert_int_equal(fixture_open(f), 0);
        assert_true(f->opened.restored);
        assert_true(f->opened.rebuilding);
        assert_false(f->opened.created);
        assert_int_equal(f->opened.set_aside[0] != '\0', damages[i] != missing);
        if (damages[i] != missing) {
            assert_int_equal(strncmp(f->opened.set_aside, "journal.db.damaged-20", 21), 0);
            assert_true(exists(f, f->opened.set_aside));
        }
        assert_false(exists(f, "journal.damaged"));
        assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), before);
        /* What the backup knew as queued may have been sent since. */
        assert_int_equal(
            fixture_number(f, "SELECT count(*) FROM delivery WHERE state = 0 AND NOT uncertain"),
            0);
        /* And so may what is found anew, also after one more crash, until the folders were read. */
        fixture_crash(f);
        assert_false(f->opened.restored);
        assert_true(f->opened.rebuilding);
        id = fixture_admit(f, "/in/new", "2.1", 0);
        assert_int_equal(
            fixture_number(f, "SELECT uncertain FROM delivery ORDER BY id DESC LIMIT 1"), 1);
        assert_int_equal(fixture_do(f, rebuilt, &rebuilt), 0);
        assert_int_equal(vanish(f, id), 0);
        fixture_admit(f, "/in/newer", "2.2", 0);
        assert_int_equal(
            fixture_number(f, "SELECT uncertain FROM delivery ORDER BY id DESC LIMIT 1"), 0);
        assert_int_equal(vanish(f, id + 1), 0);
        fixture_check_counts(f);
        fixture_close(f);
        assert_int_equal(fixture_open(f), 0);
        assert_false(f->opened.rebuilding);
        assert_false(f->opened.unclean);
    }
}

/* No backup: an empty journal takes its place; with a damaged backup too, and that is kept as well.
 */
static void test_nothing_to_restore(void **state)
{
    struct fixture *f = *state;
    DIR *dir;
    struct dirent *entry;
    unsigned kept = 0;

    admit_many(f, 0, 50);
    fixture_close(f);
    header(f);
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 0);
    admit_many(f, 0, 50);
    back_up(f);
    fixture_close(f);
    header(f);
    overwrite(fixture_path(f, "backup.db"), 8192, 20000);
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 0);
    dir = opendir(f->folder);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        kept += strstr(entry->d_name, ".damaged-") != NULL;
    closedir(dir);
    assert_int_equal(kept, 3);
}

/* Overwrites a page that opening the journal does not read. */
static void damage_rows(struct fixture *f)
{
    int64_t page =
        fixture_number(f, "SELECT pageno FROM dbstat WHERE name = 'file' AND pagetype = 'leaf'"
                          " ORDER BY pageno LIMIT 1 OFFSET 3");

    fixture_close(f);
    overwrite(fixture_path(f, "journal.db"), (off_t)(page - 1) * 4096, 4096);
}

/* Damage in the middle that a crash left: the check in the background finds it, and the next start
 * restores. */
static void test_damage_found_by_check(void **state)
{
    struct fixture *f = *state;
    struct journal_counts c;
    bool found = false;

    admit_many(f, 0, 300);
    back_up(f);
    damage_rows(f);
    assert_int_equal(fixture_open(f), 0); /* closed cleanly: no check */
    assert_false(f->opened.unclean);
    fixture_crash(f);
    assert_true(f->opened.unclean);
    for (int i = 0; i < 600 && !found; i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        found = f->damaged > 0;
        if (!found)
            usleep(100000);
    }
    assert_true(found);
    assert_int_equal(f->damaged, 1);
    assert_true(exists(f, "journal.damaged"));
    assert_int_equal(fixture_do(f, counts, &c), ERR_DAMAGED);
    fixture_close(f);
    assert_int_equal(f->close_status, ERR_DAMAGED);
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 300);
    fixture_check_counts(f);
}

/* What is in `name`; malloc'ed. */
static char *contents(struct fixture *f, const char *name, size_t *size)
{
    const char *path = fixture_path(f, name);
    off_t length = size_of(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *data = malloc(length > 0 ? (size_t)length : 1);

    assert_true(fd >= 0 && length >= 0);
    assert_non_null(data);
    assert_int_equal(read(fd, data, (size_t)length), length);
    close(fd);
    *size = (size_t)length;
    return data;
}

/* Opening found it damaged, with commits in its log alone: both are set aside byte for byte. */
static void test_log_of_damaged_is_kept(void **state)
{
    struct fixture *f = *state;
    char name[320], *before[2], *after[2];
    size_t size_before[2], size_after[2];
    int64_t page;

    admit_many(f, 0, 50);
    /* Opening reads it, and nothing has written it since it was made: no delivery was blocked. */
    page = fixture_number(f, "SELECT rootpage FROM sqlite_schema WHERE name = 'delivery_blocked'");
    assert_true(page > 1);
    fixture_close(f);
    assert_int_equal(fixture_open(f), 0);
    admit_many(f, 50, 80);
    fixture_crash(f);
    admit_many(f, 80, 90);
    overwrite(fixture_path(f, "journal.db"), (off_t)(page - 1) * 4096, 4096);
    before[0] = contents(f, "journal.db", &size_before[0]);
    before[1] = contents(f, "journal.db-wal", &size_before[1]);
    assert_true(size_before[1] > 32);
    /* As a crash would leave it. */
    fixture_close(f);
    for (size_t i = 0; i < 2; i++) {
        const char *path = fixture_path(f, i == 0 ? "journal.db" : "journal.db-wal");
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, before[i], size_before[i]), size_before[i]);
        close(fd);
    }
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    snprintf(name, sizeof(name), "%s-wal", f->opened.set_aside);
    after[0] = contents(f, f->opened.set_aside, &size_after[0]);
    after[1] = contents(f, name, &size_after[1]);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(size_after[i], size_before[i]);
        assert_memory_equal(after[i], before[i], size_before[i]);
        free(before[i]);
        free(after[i]);
    }
}

/* Damage found while it runs: what was committed since the last checkpoint stays in the log. */
static void test_log_is_kept_when_damage_is_found(void **state)
{
    struct fixture *f = *state;
    struct journal_backup b = {0};
    size_t size;
    char *log;

    admit_many(f, 0, 300);
    damage_rows(f);
    assert_int_equal(fixture_open(f), 0); /* closed cleanly: no check */
    admit_many(f, 300, 310);
    assert_int_equal(fixture_do(f, backup, &b), ERR_DAMAGED);
    fixture_close(f);
    log = contents(f, "journal.db-wal", &size);
    assert_true(size > 32); /* a header and frames */
    free(log);
}

/* A damaged journal does not become the backup. */
static void test_damage_found_by_backup(void **state)
{
    struct fixture *f = *state;
    struct journal_backup b = {0};

    admit_many(f, 0, 300);
    back_up(f);
    admit_many(f, 300, 310);
    damage_rows(f);
    assert_int_equal(fixture_open(f), 0); /* closed cleanly: no check */
    assert_false(f->opened.unclean);
    assert_int_equal(fixture_do(f, backup, &b), ERR_DAMAGED);
    assert_int_equal(f->damaged, 1);
    assert_false(exists(f, "backup.db.new"));
    fixture_close(f);
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 300);
}

/* A crash between any two steps of setting aside and restoring: the mark tells how to go on. */
static void test_crash_while_restoring(void **state)
{
    static const char mark[] = "journal.db.damaged-20200101T000000Z";
    struct fixture *f = *state;
    FILE *file;

    admit_many(f, 0, 50);
    back_up(f);
    for (int step = 0; step < 3; step++) {
        fixture_close(f);
        file = fopen(fixture_path(f, "journal.damaged"), "we");
        assert_non_null(file);
        fputs(mark, file);
        fclose(file);
        file = fopen(fixture_path(f, "journal.db-wal"), "we"); /* beside the damaged one */
        assert_non_null(file);
        fputs("log", file);
        fclose(file);
        if (step >= 1)
            assert_int_equal(
                rename(fixture_path(f, "journal.db-wal"), fixture_path(f, "aside-wal")), 0);
        if (step >= 2)
            assert_int_equal(rename(fixture_path(f, "journal.db"), fixture_path(f, "aside")), 0);
        file = fopen(fixture_path(f, "journal.db.new"), "we"); /* half made */
        assert_non_null(file);
        fputs("new", file);
        fclose(file);
        assert_int_equal(fixture_open(f), 0);
        assert_true(f->opened.restored);
        assert_string_equal(f->opened.set_aside, mark);
        assert_int_equal(exists(f, mark), step < 2);
        assert_false(exists(f, "journal.damaged"));
        assert_false(exists(f, "journal.db.new"));
        assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 50);
        unlink(fixture_path(f, mark));
        unlink(fixture_path(f, "journal.db.damaged-20200101T000000Z-wal"));
        unlink(fixture_path(f, "journal.db.damaged-20200101T000000Z-shm"));
    }
}

/* A log whose database is gone is not taken for that of the next one. */
static void test_orphaned_log(void **state)
{
    struct fixture *f = *state;

    admit_many(f, 0, 20);
    fixture_crash(f);
    fixture_close(f);
    assert_int_equal(fixture_open(f), 0);
    admit_many(f, 20, 40);
    /* Its log and its main file change places with nothing. */
    assert_int_equal(link(fixture_path(f, "journal.db-wal"), fixture_path(f, "kept-wal")), 0);
    fixture_close(f);
    assert_int_equal(unlink(fixture_path(f, "journal.db")), 0);
    assert_int_equal(rename(fixture_path(f, "kept-wal"), fixture_path(f, "journal.db-wal")), 0);
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.restored);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 0);
    admit_many(f, 0, 20);
    fixture_check_counts(f);
}

static void test_second_opener(void **state)
{
    struct fixture *f = *state;
    pid_t child;
    int status;

    fixture_close(f);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) { /* holds it until killed */
        if (fixture_open(f) != 0)
            _exit(1);
        close(creat(fixture_path(f, "held"), 0600));
        uv_run(&f->loop, UV_RUN_DEFAULT);
        _exit(1);
    }
    for (int i = 0; i < 600 && !exists(f, "held"); i++)
        usleep(100000);
    assert_true(exists(f, "held"));
    assert_int_equal(fixture_open(f), ERR_LOCKED);
    assert_null(f->journal);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(fixture_open(f), 0);
    assert_true(f->opened.unclean);
}

static void test_modes(void **state)
{
    static const char *const names[] = {"journal.db", "journal.db-wal", "journal.db-shm",
                                        "backup.db"};
    struct fixture *f = *state;
    struct stat st;

    admit_many(f, 0, 3);
    back_up(f);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(stat(fixture_path(f, names[i]), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    fixture_close(f);
    assert_false(exists(f, "journal.db-wal")); /* checkpointed */
}

static void test_newer_schema(void **state)
{
    struct fixture *f = *state;
    sqlite3 *db;

    admit_many(f, 0, 3);
    fixture_close(f);
    assert_int_equal(sqlite3_open(fixture_path(f, "journal.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 1000", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(fixture_open(f), ERR_UNSUPPORTED);
    assert_int_equal(sqlite3_open(fixture_path(f, "journal.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(fixture_open(f), 0); /* it was left as it is */
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM file"), 3);
}

/* Steps run once each, in order; one that fails leaves the version before it. */
static void test_migrations(void **state)
{
    static const char *const steps[] = {
        "CREATE TABLE a (x); INSERT INTO a VALUES (1);",
        "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;",
        "INSERT INTO a VALUES (5, 5); INSERT INTO nowhere VALUES (1);",
    };
    struct fixture *f = *state;
    struct journal_db db;
    struct err e;
    sqlite3_stmt *stmt;

    close(creat(fixture_path(f, "other.db"), 0600));
    assert_int_equal(journal_db_open(&db, fixture_path(f, "other.db"), 1024, &e), 0);
    assert_int_equal(journal_schema_migrate(&db, steps, 1, &e), 0);
    assert_int_equal(journal_schema_migrate(&db, steps, 1, &e), 0);
    assert_int_not_equal(journal_schema_migrate(&db, steps, 3, &e), 0);
    assert_int_equal(journal_query(&db, &e, &stmt, "PRAGMA user_version"), 1);
    assert_int_equal(sqlite3_column_int(stmt, 0), 2);
    journal_db_done(stmt);
    assert_int_equal(journal_query(&db, &e, &stmt, "SELECT sum(y) FROM a"), 1);
    assert_int_equal(sqlite3_column_int(stmt, 0), 2);
    journal_db_done(stmt);
    assert_int_equal(journal_schema_migrate(&db, steps, 1, &e), ERR_UNSUPPORTED);
    assert_int_equal(journal_db_close(&db, &e), 0);
}

/* The guard: SQL that would change a state against the table fails, whoever wrote it. */
static void test_guard(void **state)
{
    struct fixture *f = *state;
    struct journal_db db;
    struct err e;

    admit_many(f, 0, 2);
    fixture_close(f);
    assert_int_equal(journal_db_open(&db, fixture_path(f, "journal.db"), 1024, &e), 0);
    assert_int_equal(journal_counts_watch(&db, &e), 0);
    assert_int_not_equal(journal_db_exec(&db, "UPDATE delivery SET state = 3", &e), 0);
    assert_int_not_equal(journal_db_exec(&db, "UPDATE file SET state = 3", &e), 0);
    assert_int_equal(journal_db_exec(&db, "UPDATE delivery SET state = 1 WHERE id = 1", &e), 0);
    assert_int_equal(journal_db_exec(&db, "UPDATE delivery SET state = 3 WHERE id = 1", &e), 0);
    assert_int_not_equal(journal_db_exec(&db, "UPDATE delivery SET state = 0 WHERE id = 1", &e), 0);
    assert_string_equal(e.text + strlen(e.text) - strlen("(illegal change of a state)"),
                        "(illegal change of a state)");
    assert_int_equal(journal_db_close(&db, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_damaged_at_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_to_restore, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_found_by_check, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_found_by_backup, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_of_damaged_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_is_kept_when_damage_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crash_while_restoring, setup, teardown),
        cmocka_unit_test_setup_teardown(test_orphaned_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_opener, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_schema, setup, teardown),
        cmocka_unit_test_setup_teardown(test_migrations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guard, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
