#include "worker/source.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static uv_loop_t loop;
static struct job_queue *jobs;
static char folder[64], path[128], other[128];

struct seen {
    unsigned calls;
    int status;
    size_t bytes_read;
};

static void on_event(struct source *s, int status, size_t bytes_read, const struct err *e,
                     void *ctx)
{
    struct seen *seen = ctx;
    (void)s;
    seen->calls++;
    seen->status = status;
    seen->bytes_read = bytes_read;
    assert_int_equal(e->code, status);
    assert_true(status == 0 || e->text[0]);
    assert_null(strstr(e->text, folder)); /* rule 6: texts are logged */
}

static int wait_for(struct seen *seen)
{
    assert_int_equal(seen->calls, 0); /* never from within */
    while (!seen->calls)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(seen->calls, 1);
    seen->calls = 0;
    return seen->status;
}

static void write_to(const char *name, const void *data, size_t size)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);
}

static void set_mtime(const char *name, int64_t ns)
{
    struct timespec times[2] = {{ns / 1000000000, ns % 1000000000},
                                {ns / 1000000000, ns % 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, name, times, 0), 0);
}

#define MTIME INT64_C(1700000000123456789)

static uint8_t *make_file(size_t size)
{
    uint8_t *data = malloc(size + 1);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 8) * 7);
    write_to(path, data, size);
    set_mtime(path, MTIME);
    return data;
}

static void expect_sha256(const struct source *s, const uint8_t *data, size_t size)
{
    uint8_t have[SOURCE_SHA256_SIZE], want[SOURCE_SHA256_SIZE];
    assert_true(source_sha256(s, have));
    SHA256(data, size, want);
    assert_memory_equal(have, want, sizeof(want));
}

/* Every way a size can meet a part size. */
static void test_parts(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 999, 1000, 1001, 2000, 5000, 300001};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t size = sizes[i], at = 0;
        uint8_t *data = make_file(size), part[1000], sha256[SOURCE_SHA256_SIZE];
        struct source *s;
        struct seen seen = {0};
        assert_int_equal(
            source_open(&s, jobs, 1, path, size, MTIME, part, sizeof(part), on_event, &seen), 0);
        assert_false(source_sha256(s, sha256));
        assert_int_equal(wait_for(&seen), 0);
        for (;;) {
            assert_memory_equal(part, data + at, seen.bytes_read);
            at += seen.bytes_read;
            if (at == size)
                break;
            assert_int_equal(seen.bytes_read, sizeof(part));
            assert_false(source_sha256(s, sha256));
            assert_int_equal(source_read(s, part, sizeof(part), on_event, &seen), 0);
            assert_int_equal(wait_for(&seen), 0);
        }
        expect_sha256(s, data, size);
        assert_int_equal(source_read(s, part, sizeof(part), on_event, &seen), 0);
        assert_int_equal(wait_for(&seen), 0);
        assert_int_equal(seen.bytes_read, 0);
        assert_int_equal(source_check(s, on_event, &seen), 0);
        assert_int_equal(wait_for(&seen), 0);
        expect_sha256(s, data, size);
        source_close_free(s, NULL);
        free(data);
    }
}

static void test_hash(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 10, 600000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t size = sizes[i], at = 0;
        uint8_t *data = make_file(size), part[65536];
        struct source *s;
        struct seen seen = {0};
        source_open(&s, jobs, 1, path, size, MTIME, part, 100, on_event, &seen);
        assert_int_equal(wait_for(&seen), 0);
        assert_int_equal(source_hash(s, on_event, &seen), 0);
        assert_int_equal(wait_for(&seen), 0);
        expect_sha256(s, data, size);
        /* From the front again. */
        do {
            assert_int_equal(source_read(s, part, sizeof(part), on_event, &seen), 0);
            assert_int_equal(wait_for(&seen), 0);
            assert_memory_equal(part, data + at, seen.bytes_read);
            at += seen.bytes_read;
        } while (seen.bytes_read > 0);
        assert_int_equal(at, size);
        expect_sha256(s, data, size);
        source_close_free(s, NULL);
        free(data);
    }
}

/* Other bytes under the same size and time: what is sent would not be what was hashed. */
static void test_bytes_change_after_hash(void **state)
{
    (void)state;
    uint8_t *data = make_file(5000), part[5000];
    struct source *s;
    struct seen seen = {0};
    source_open(&s, jobs, 1, path, 5000, MTIME, part, 100, on_event, &seen);
    assert_int_equal(wait_for(&seen), 0);
    source_hash(s, on_event, &seen);
    assert_int_equal(wait_for(&seen), 0);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "changed", 7, 4000), 7);
    close(fd);
    set_mtime(path, MTIME);
    source_read(s, part, sizeof(part), on_event, &seen);
    assert_int_equal(wait_for(&seen), ERR_CHANGED);
    source_close_free(s, NULL);
    free(data);
}

static int open_only(const char *name, uint64_t size, int64_t mtime)
{
    char part[64];
    struct source *s;
    struct seen seen = {0};
    assert_int_equal(
        source_open(&s, jobs, 1, name, size, mtime, part, sizeof(part), on_event, &seen), 0);
    int r = wait_for(&seen);
    source_close_free(s, NULL);
    return r;
}

static void test_refused(void **state)
{
    (void)state;
    free(make_file(50));
    assert_int_equal(open_only(path, 50, MTIME), 0);
    assert_int_equal(open_only(path, 49, MTIME), ERR_CHANGED);
    assert_int_equal(open_only(path, 51, MTIME), ERR_CHANGED);
    assert_int_equal(open_only(path, 50, MTIME + 1), ERR_CHANGED);
    assert_int_equal(open_only(folder, 50, MTIME), ERR_CHANGED);
    assert_int_equal(symlink(path, other), 0);
    assert_int_equal(open_only(other, 50, MTIME), ERR_CHANGED);
    unlink(other);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(open_only(other, 0, MTIME), ERR_CHANGED); /* and does not hang */
    unlink(other);
    assert_int_equal(open_only(other, 50, MTIME), ERR_VANISHED);
    char below[160];
    snprintf(below, sizeof(below), "%s/below", path);
    assert_int_equal(open_only(below, 50, MTIME), ERR_VANISHED);
    if (geteuid() != 0) {
        chmod(path, 0);
        assert_int_equal(open_only(path, 50, MTIME), ERR_ACCESS);
    }
}

static struct source *open_first_part(size_t size, uint8_t *part, size_t capacity)
{
    struct source *s;
    struct seen seen = {0};
    source_open(&s, jobs, 1, path, size, MTIME, part, capacity, on_event, &seen);
    assert_int_equal(wait_for(&seen), 0);
    return s;
}

static int check(struct source *s)
{
    struct seen seen = {0};
    assert_int_equal(source_check(s, on_event, &seen), 0);
    return wait_for(&seen);
}

static int read_next(struct source *s, uint8_t *part, size_t capacity)
{
    struct seen seen = {0};
    assert_int_equal(source_read(s, part, capacity, on_event, &seen), 0);
    return wait_for(&seen);
}

static void test_changes_meanwhile(void **state)
{
    (void)state;
    uint8_t *data = make_file(3000), part[4000];

    struct source *s = open_first_part(3000, part, 1000);
    assert_int_equal(truncate(path, 1500), 0);
    set_mtime(path, MTIME);
    assert_int_equal(check(s), ERR_CHANGED);
    assert_int_equal(read_next(s, part, sizeof(part)), ERR_CHANGED);
    source_close_free(s, NULL);

    write_to(path, data, 3000); /* grows while it is read, found at the last byte */
    set_mtime(path, MTIME);
    s = open_first_part(3000, part, 1000);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(read_next(s, part, sizeof(part)), ERR_CHANGED);
    source_close_free(s, NULL);

    write_to(path, data, 3000); /* rewritten in place, same size */
    set_mtime(path, MTIME);
    s = open_first_part(3000, part, sizeof(part));
    assert_int_equal(check(s), 0);
    write_to(path, data, 3000);
    assert_int_equal(check(s), ERR_CHANGED);
    source_close_free(s, NULL);

    set_mtime(path, MTIME); /* replaced by one of the same size and time */
    s = open_first_part(3000, part, 1000);
    write_to(other, data, 3000);
    set_mtime(other, MTIME);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(check(s), ERR_CHANGED);
    source_close_free(s, NULL);

    s = open_first_part(3000, part, 1000); /* gone */
    unlink(path);
    assert_int_equal(check(s), ERR_VANISHED);
    source_close_free(s, NULL);
    free(data);
}

/* Freed while an operation runs: no callback, and the buffer lives as long as it is written to
 * (ASan looks). */
static void test_close_in_flight(void **state)
{
    (void)state;
    free(make_file(200000));
    for (int i = 0; i < 20; i++) {
        struct source *s;
        struct seen seen = {0};
        uint8_t *part = malloc(200000);
        assert_non_null(part);
        source_open(&s, jobs, 1, path, 200000, MTIME, part, i % 2 ? 200000 : 1000, on_event, &seen);
        uint8_t sha256[SOURCE_SHA256_SIZE];
        assert_false(source_sha256(s, sha256));
        assert_int_equal(source_read(s, part, 1, on_event, &seen), ERR_BUSY);
        source_close_free(s, part);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(seen.calls, 0);
        assert_int_equal(job_queue_pending(jobs), 0);
    }
    source_close_free(NULL, malloc(1));
}

static void on_close_within(struct source *s, int status, size_t bytes_read, const struct err *e,
                            void *ctx)
{
    (void)bytes_read;
    (void)e;
    assert_int_equal(status, 0);
    source_close_free(s, *(void **)ctx);
    *(void **)ctx = NULL;
}

static void test_close_within_callback(void **state)
{
    (void)state;
    free(make_file(20000));
    static const size_t capacities[] = {100, 20000};
    for (int i = 0; i < 2; i++) {
        struct source *s;
        void *part = malloc(20000);
        assert_non_null(part);
        source_open(&s, jobs, 1, path, 20000, MTIME, part, capacities[i], on_close_within, &part);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_null(part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_bytes_change_after_hash),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_changes_meanwhile),
        cmocka_unit_test(test_close_in_flight),
        cmocka_unit_test(test_close_within_callback),
    };
    snprintf(folder, sizeof(folder), "/tmp/source-test-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/file", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
    uv_loop_init(&loop);
    if (job_queue_open(&jobs, &loop, 2) < 0)
        return 1;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    job_queue_close(jobs);
    uv_run(&loop, UV_RUN_DEFAULT);
    unlink(path);
    unlink(other);
    rmdir(folder);
    return uv_loop_close(&loop) == 0 ? r : 1;
}
