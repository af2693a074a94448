#include "worker/worker.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 60000

struct fixture {
    uv_loop_t loop;
    uv_timer_t guard;
    struct worker_pool *pool;
    bool closed;
};

struct ask {
    struct worker_request request;
    struct fixture *f;
    unsigned calls;
    int status;
    char *answer;
    size_t size;
    char reason[512];
};

static const char *argv_of_worker[2];

static void on_guard(uv_timer_t *t)
{
    (void)t;
    fprintf(stderr, "the test waited too long\n");
    abort();
}

static void on_answer(struct worker_request *r, int status, const uint8_t *answer, size_t size,
                      const struct err *e)
{
    struct ask *a = r->ctx;
    a->calls++;
    a->status = status;
    free(a->answer);
    a->answer = malloc(size + 1);
    assert_non_null(a->answer);
    if (size)
        memcpy(a->answer, answer, size);
    a->answer[size] = '\0';
    a->size = size;
    if (status < 0) {
        assert_non_null(e);
        assert_int_equal(e->code, status);
        snprintf(a->reason, sizeof(a->reason), "%s", e->text);
    } else
        assert_null(e);
}

static struct worker_options defaults(void)
{
    return (struct worker_options){.argv = argv_of_worker,
                                   .max = 1,
                                   .depth = 4,
                                   .idle_ms = 60000,
                                   .request_timeout_ms = 30000};
}

static void open_pool(struct fixture *f, struct worker_options options)
{
    struct err e;
    memset(f, 0, sizeof(*f));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->guard);
    uv_timer_start(&f->guard, on_guard, WAIT_MS, 0);
    uv_unref((uv_handle_t *)&f->guard);
    assert_int_equal(worker_pool_open(&f->pool, &f->loop, &options, &e), 0);
}

static void on_closed(void *ctx)
{
    struct fixture *f = ctx;
    assert_false(f->closed);
    f->closed = true;
}

static void close_pool(struct fixture *f)
{
    worker_pool_close(f->pool, on_closed, f);
    assert_false(f->closed);
    while (!f->closed)
        uv_run(&f->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&f->guard, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    /* Nothing of ours is left, not even a zombie. */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void submit(struct fixture *f, struct ask *a, const char *text)
{
    memset(a, 0, sizeof(*a));
    a->f = f;
    a->request =
        (struct worker_request){.data = text, .size = strlen(text) + 1, .cb = on_answer, .ctx = a};
    worker_submit(f->pool, &a->request);
    assert_int_equal(a->calls, 0);
}

static void wait_for(struct ask *a)
{
    /* Not UV_RUN_ONCE: it runs the timers and then waits for the next event, even if the callback
     * came from one. */
    while (!a->calls) {
        uv_run(&a->f->loop, UV_RUN_NOWAIT);
        usleep(500);
    }
    assert_int_equal(a->calls, 1);
}

static void expect_answer(struct ask *a, const char *text)
{
    wait_for(a);
    assert_int_equal(a->status, 0);
    assert_string_equal(a->answer, text);
    free(a->answer);
}

static void expect_failure(struct ask *a, int status)
{
    wait_for(a);
    assert_int_equal(a->status, status);
    free(a->answer);
}

static void spin(struct fixture *f, uint64_t ms)
{
    uint64_t end = clock_monotonic_ms() + ms;
    while (clock_monotonic_ms() < end) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
}

static void test_echo(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a;
    open_pool(&f, defaults());
    submit(&f, &a, "e hello");
    assert_int_equal(worker_pending(f.pool), 1);
    expect_answer(&a, "e hello");
    assert_int_equal(worker_pending(f.pool), 0);
    close_pool(&f);
}

/* Answers come in order from one process, and a message may be as long as allowed. */
static void test_many_and_large(void **state)
{
    (void)state;
    struct fixture f;
    static struct ask asks[200];
    static char text[200][16];
    open_pool(&f, defaults());
    for (int i = 0; i < 200; i++) {
        snprintf(text[i], sizeof(text[i]), "e%d", i);
        submit(&f, &asks[i], text[i]);
    }
    assert_int_equal(worker_pending(f.pool), 200);
    for (int i = 199; i >= 0; i--)
        expect_answer(&asks[i], text[i]);

    struct ask large[3];
    char *data = malloc(WORKER_MAX_MESSAGE);
    assert_non_null(data);
    memset(data, 'e', WORKER_MAX_MESSAGE);
    for (int i = 0; i < 3; i++) {
        memset(&large[i], 0, sizeof(large[i]));
        large[i].f = &f;
        large[i].request = (struct worker_request){
            .data = data, .size = WORKER_MAX_MESSAGE, .cb = on_answer, .ctx = &large[i]};
        worker_submit(f.pool, &large[i].request);
    }
    for (int i = 0; i < 3; i++) {
        wait_for(&large[i]);
        assert_int_equal(large[i].status, 0);
        assert_int_equal(large[i].size, WORKER_MAX_MESSAGE);
        assert_memory_equal(large[i].answer, data, WORKER_MAX_MESSAGE);
        free(large[i].answer);
    }
    free(data);
    close_pool(&f);
}

static void test_invalid_requests(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a = {.f = &f}, b = {.f = &f}, c = {.f = &f}, d;
    open_pool(&f, defaults());
    a.request = (struct worker_request){.data = "", .size = 0, .cb = on_answer, .ctx = &a};
    b.request = (struct worker_request){
        .data = "", .size = WORKER_MAX_MESSAGE + 1, .cb = on_answer, .ctx = &b};
    c.request =
        (struct worker_request){.data = "f", .size = 2, .n_fds = 1, .cb = on_answer, .ctx = &c};
    c.request.fds[0] = 9999; /* not open */
    worker_submit(f.pool, &a.request);
    worker_submit(f.pool, &b.request);
    worker_submit(f.pool, &c.request);
    submit(&f, &d, "e");
    assert_int_equal(a.calls + b.calls + c.calls, 0);
    expect_failure(&a, ERR_INVALID);
    expect_failure(&b, ERR_TOO_LARGE);
    expect_failure(&c, ERR_IO);
    expect_answer(&d, "e");
    close_pool(&f);
}

static void test_descriptors(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a;
    open_pool(&f, defaults());
    int fds[WORKER_MAX_FDS];
    memset(&a, 0, sizeof(a));
    a.f = &f;
    a.request = (struct worker_request){
        .data = "f", .size = 2, .n_fds = WORKER_MAX_FDS, .cb = on_answer, .ctx = &a};
    for (int i = 0; i < WORKER_MAX_FDS; i++) {
        fds[i] = memfd_create("test", MFD_CLOEXEC);
        char text[2] = {(char)('A' + i), '\0'};
        assert_int_equal(write(fds[i], text, 1), 1);
        a.request.fds[i] = fds[i];
    }
    worker_submit(f.pool, &a.request);
    expect_answer(&a, "ABCD");
    for (int i = 0; i < WORKER_MAX_FDS; i++)
        close(fds[i]);
    close_pool(&f);
}

static void test_crash(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a, b;
    open_pool(&f, defaults());
    submit(&f, &a, "c");
    expect_failure(&a, ERR_HOSTILE);
    assert_non_null(strstr(a.reason, "signal 11"));
    submit(&f, &b, "x");
    expect_failure(&b, ERR_HOSTILE);
    assert_non_null(strstr(b.reason, "status 3"));
    submit(&f, &a, "e after");
    expect_answer(&a, "e after");
    close_pool(&f);
}

/* Those that share the process with guilty ones get their answers, however many guilty ones there
 * are. */
static void test_innocent(void **state)
{
    (void)state;
    for (unsigned max = 1; max <= 3; max++) {
        struct fixture f;
        static struct ask asks[60];
        struct worker_options options = defaults();
        options.max = max;
        open_pool(&f, options);
        for (int i = 0; i < 60; i++)
            submit(&f, &asks[i], i % 5 == 2 ? "c" : "e fine");
        for (int i = 0; i < 60; i++) {
            if (i % 5 == 2)
                expect_failure(&asks[i], ERR_HOSTILE);
            else
                expect_answer(&asks[i], "e fine");
        }
        assert_int_equal(worker_pending(f.pool), 0);
        close_pool(&f);
    }
}

/* The second try is in a fresh process, alone. */
static void test_second_try(void **state)
{
    (void)state;
    struct fixture f;
    struct ask asks[8];
    open_pool(&f, defaults());
    submit(&f, &asks[0], "e");
    expect_answer(&asks[0], "e"); /* not fresh any more */
    for (int i = 0; i < 8; i++)
        submit(&f, &asks[i], i % 2 ? "o" : "e");
    for (int i = 0; i < 8; i++)
        expect_answer(&asks[i], i % 2 ? "alone" : "e");
    close_pool(&f);
}

/* With all processes in use a second try still finds its turn. */
static void test_second_try_makes_room(void **state)
{
    (void)state;
    struct fixture f;
    struct ask busy[4], crash;
    struct worker_options options = defaults();
    options.max = 2;
    options.depth = 1;
    open_pool(&f, options);
    submit(&f, &busy[0], "s100");
    submit(&f, &crash, "c");
    for (int i = 1; i < 4; i++)
        submit(&f, &busy[i], "s100");
    expect_failure(&crash, ERR_HOSTILE);
    for (int i = 0; i < 4; i++)
        expect_answer(&busy[i], "s100");
    close_pool(&f);
}

static void test_protocol(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a, b, c;
    open_pool(&f, defaults());
    submit(&f, &a, "h");
    expect_failure(&a, ERR_HOSTILE);
    /* A second answer to one request is nobody's: the process goes, the request was answered. */
    submit(&f, &b, "2");
    expect_answer(&b, "2");
    submit(&f, &c, "e");
    expect_answer(&c, "e");
    close_pool(&f);
}

static void test_hung(void **state)
{
    (void)state;
    struct fixture f;
    struct ask hung, other;
    struct worker_options options = defaults();
    options.request_timeout_ms = 400;
    open_pool(&f, options);
    uint64_t start = clock_monotonic_ms();
    submit(&f, &hung, "b");
    submit(&f, &other, "e");
    wait_for(&hung);
    /* Starved of CPU by other programs it counts as waiting; either way it is killed. */
    assert_true(hung.status == ERR_HOSTILE || hung.status == ERR_TIMEOUT);
    if (hung.status == ERR_HOSTILE)
        assert_true(clock_monotonic_ms() - start >= 800); /* two tries */
    assert_non_null(strstr(hung.reason, "400 ms"));
    free(hung.answer);
    expect_answer(&other, "e");
    close_pool(&f);
}

/* A file that cannot be read in time is not a hostile one. */
static void test_waiting_is_not_hostile(void **state)
{
    (void)state;
    struct fixture f;
    struct ask waits, other;
    struct worker_options options = defaults();
    options.request_timeout_ms = 300;
    open_pool(&f, options);
    submit(&f, &waits, "w");
    submit(&f, &other, "e");
    expect_failure(&waits, ERR_TIMEOUT);
    expect_answer(&other, "e");
    close_pool(&f);
}

/* The limit counts from when a request is the oldest in its process. */
static void test_time_is_per_request(void **state)
{
    (void)state;
    struct fixture f;
    struct ask asks[4];
    struct worker_options options = defaults();
    options.request_timeout_ms = 3000;
    open_pool(&f, options);
    for (int i = 0; i < 4; i++)
        submit(&f, &asks[i], "s1000");
    for (int i = 0; i < 4; i++)
        expect_answer(&asks[i], "s1000");
    close_pool(&f);
}

/* The loop stood still for longer than the limit while the answer was there already. */
static void test_late_loop(void **state)
{
    (void)state;
    struct fixture f;
    struct ask first, a;
    struct worker_options options = defaults();
    options.request_timeout_ms = 500;
    open_pool(&f, options);
    submit(&f, &first, "e");
    expect_answer(&first, "e");
    submit(&f, &a, "e late");
    usleep(1000000);
    expect_answer(&a, "e late");
    close_pool(&f);
}

static void test_limits(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a, b;
    struct worker_options options = defaults();
    open_pool(&f, options);
    submit(&f, &a, "l");
    expect_answer(&a, "18446744073709551615");
    close_pool(&f);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    options.address_space = 256u << 20;
    open_pool(&f, options);
    submit(&f, &a, "l");
    submit(&f, &b, "m268435456");
    expect_answer(&a, "268435456");
    expect_answer(&b, "no");
    submit(&f, &b, "m16777216");
    expect_answer(&b, "yes");
    close_pool(&f);
#else
    (void)b;
#endif
}

static void test_environment(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a, b, c;
    setenv("PACS_API_KEY", "secret", 1);
    setenv("TZ", "UTC", 1);
    setenv("DCMFERRY_WORKER_X", "kept", 1);
    open_pool(&f, defaults());
    submit(&f, &a, "vPACS_API_KEY");
    submit(&f, &b, "vTZ");
    submit(&f, &c, "vDCMFERRY_WORKER_X");
    expect_answer(&a, "(none)");
    expect_answer(&b, "UTC");
    expect_answer(&c, "kept");
    close_pool(&f);
}

static void test_idle(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a;
    struct worker_options options = defaults();
    options.idle_ms = 100;
    open_pool(&f, options);
    submit(&f, &a, "p");
    wait_for(&a);
    pid_t pid = (pid_t)atol(a.answer);
    free(a.answer);
    assert_int_equal(kill(pid, 0), 0);
    uint64_t end = clock_monotonic_ms() + 20000;
    while (kill(pid, 0) == 0 && clock_monotonic_ms() < end)
        spin(&f, 20);
    assert_int_equal(kill(pid, 0), -1);
    /* With no process and no work nothing keeps the loop awake. */
    spin(&f, 50);
    assert_false(uv_run(&f.loop, UV_RUN_NOWAIT));
    submit(&f, &a, "e again");
    expect_answer(&a, "e again");
    close_pool(&f);
}

/* No more processes than there is work for, and never more than allowed. */
static void test_number_of_processes(void **state)
{
    (void)state;
    struct fixture f;
    struct ask asks[12];
    struct worker_options options = defaults();
    options.max = 3;
    open_pool(&f, options);
    char first[32];
    submit(&f, &asks[0], "p");
    wait_for(&asks[0]);
    snprintf(first, sizeof(first), "%s", asks[0].answer);
    free(asks[0].answer);
    for (int i = 0; i < 5; i++) {
        submit(&f, &asks[0], "p");
        expect_answer(&asks[0], first);
    }
    for (int i = 0; i < 12; i++)
        submit(&f, &asks[i], i < 3 ? "s300" : "p");
    char pids[12][32];
    int distinct = 0;
    for (int i = 0; i < 12; i++) {
        wait_for(&asks[i]);
        assert_int_equal(asks[i].status, 0);
        if (i >= 3) {
            int j = 0;
            while (j < distinct && strcmp(pids[j], asks[i].answer) != 0)
                j++;
            if (j == distinct)
                snprintf(pids[distinct++], sizeof(pids[0]), "%s", asks[i].answer);
        }
        free(asks[i].answer);
    }
    assert_in_range(distinct, 1, 3);
    close_pool(&f);
}

static void test_cancel(void **state)
{
    (void)state;
    struct fixture f;
    struct ask begun, second, third, queued, done;
    struct worker_options options = defaults();
    options.depth = 2;
    open_pool(&f, options);
    submit(&f, &begun, "e");
    expect_answer(&begun, "e");
    submit(&f, &begun, "w");
    submit(&f, &second, "e second");
    submit(&f, &third, "e third");
    submit(&f, &queued, "e queued");
    worker_cancel(f.pool, &queued.request);
    worker_cancel(f.pool, &queued.request); /* is on its way */
    worker_cancel(f.pool, &begun.request);
    assert_int_equal(queued.calls + begun.calls, 0);
    expect_failure(&queued, ERR_CANCELED);
    expect_failure(&begun, ERR_CANCELED);
    expect_answer(&second, "e second");
    expect_answer(&third, "e third");
    /* One that was handed over but has not begun: the others' answers stay theirs. */
    submit(&f, &begun, "s200");
    submit(&f, &second, "e second");
    submit(&f, &third, "e third");
    worker_cancel(f.pool, &second.request);
    expect_failure(&second, ERR_CANCELED);
    expect_answer(&begun, "s200");
    expect_answer(&third, "e third");
    submit(&f, &done, "e done");
    expect_answer(&done, "e done");
    assert_int_equal(worker_pending(f.pool), 0);
    close_pool(&f);
}

static void test_close_with_work(void **state)
{
    (void)state;
    struct fixture f;
    struct ask asks[10];
    struct worker_options options = defaults();
    options.max = 2;
    options.depth = 2;
    open_pool(&f, options);
    submit(&f, &asks[0], "e");
    expect_answer(&asks[0], "e");
    for (int i = 0; i < 10; i++)
        submit(&f, &asks[i], i < 2 ? "w" : "e");
    spin(&f, 100);
    close_pool(&f);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(asks[i].calls, 1);
        assert_true(asks[i].status == ERR_CANCELED || asks[i].status == 0);
        free(asks[i].answer);
    }
    assert_int_equal(asks[0].status, ERR_CANCELED);
}

struct chain {
    struct fixture *f;
    struct worker_request request;
    unsigned left;
    bool close;
};

static void on_chain(struct worker_request *r, int status, const uint8_t *answer, size_t size,
                     const struct err *e)
{
    struct chain *c = r->ctx;
    (void)answer;
    (void)size;
    (void)e;
    assert_int_equal(status, 0);
    if (--c->left > 0)
        worker_submit(c->f->pool, r);
    else if (c->close)
        worker_pool_close(c->f->pool, on_closed, c->f);
}

/* Callbacks may submit the same request again, and close the pool. */
static void test_from_within_callback(void **state)
{
    (void)state;
    struct fixture f;
    open_pool(&f, defaults());
    struct chain c = {.f = &f, .left = 50, .close = true};
    c.request = (struct worker_request){.data = "e", .size = 2, .cb = on_chain, .ctx = &c};
    worker_submit(f.pool, &c.request);
    while (!f.closed)
        uv_run(&f.loop, UV_RUN_ONCE);
    assert_int_equal(c.left, 0);
    uv_close((uv_handle_t *)&f.guard, NULL);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f.loop), 0);
}

static void test_program_missing(void **state)
{
    (void)state;
    static const char *const nothing[] = {"/nonexistent/program", NULL};
    struct fixture f;
    struct ask asks[3];
    struct worker_options options = defaults();
    options.argv = nothing;
    open_pool(&f, options);
    for (int i = 0; i < 3; i++)
        submit(&f, &asks[i], "e");
    for (int i = 0; i < 3; i++) {
        expect_failure(&asks[i], ERR_IO); /* local: no file is to blame */
        assert_non_null(strstr(asks[i].reason, "No such file"));
    }
    close_pool(&f);
}

static void test_start_fails(void **state)
{
    (void)state;
    struct fixture f;
    struct ask asks[3];
    setenv("DCMFERRY_WORKER_START", "exit", 1);
    open_pool(&f, defaults());
    for (int i = 0; i < 3; i++)
        submit(&f, &asks[i], "e");
    for (int i = 0; i < 3; i++) {
        expect_failure(&asks[i], ERR_IO);
        assert_non_null(strstr(asks[i].reason, "status 7"));
    }
    /* Mended, it works again without the pool being opened anew. */
    unsetenv("DCMFERRY_WORKER_START");
    uint64_t end = clock_monotonic_ms() + 30000;
    do {
        spin(&f, 50);
        submit(&f, &asks[0], "e");
        wait_for(&asks[0]);
        free(asks[0].answer);
    } while (asks[0].status == ERR_IO && clock_monotonic_ms() < end);
    assert_int_equal(asks[0].status, 0);
    close_pool(&f);
}

static void test_start_fails_once(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a;
    char path[] = "/tmp/worker-test-XXXXXX", variable[64];
    close(mkstemp(path));
    snprintf(variable, sizeof(variable), "exit-once:%s", path);
    setenv("DCMFERRY_WORKER_START", variable, 1);
    open_pool(&f, defaults());
    submit(&f, &a, "e");
    expect_answer(&a, "e");
    assert_int_equal(access(path, F_OK), -1);
    unsetenv("DCMFERRY_WORKER_START");
    close_pool(&f);
}

static unsigned count_descriptors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void test_no_leaked_descriptors(void **state)
{
    (void)state;
    struct fixture f;
    struct ask a;
    for (int round = 0; round < 2; round++) {
        static unsigned before;
        open_pool(&f, defaults());
        submit(&f, &a, "c");
        expect_failure(&a, ERR_HOSTILE);
        submit(&f, &a, "e");
        expect_answer(&a, "e");
        close_pool(&f);
        if (round == 0)
            before = count_descriptors(); /* libuv keeps its signal pipe */
        else
            assert_int_equal(count_descriptors(), before);
    }
}

/* kill -9 of the parent takes a worker along that does not look at its socket. */
static void test_dies_with_parent(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t parent = fork();
    assert_true(parent >= 0);
    if (parent == 0) {
        struct fixture f;
        struct ask a, b;
        open_pool(&f, defaults());
        submit(&f, &a, "p");
        wait_for(&a);
        submit(&f, &b, "w");
        uv_run(&f.loop, UV_RUN_NOWAIT);
        if (write(ends[1], a.answer, a.size) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    char pid[32] = "";
    assert_true(read(ends[0], pid, sizeof(pid) - 1) > 0);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    uint64_t end = clock_monotonic_ms() + 20000;
    /* Whoever inherits it may be slow to reap: a zombie is dead enough. */
    char path[64], line[256];
    bool alive = true;
    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    while (alive && clock_monotonic_ms() < end) {
        FILE *stat = fopen(path, "re");
        alive = stat && fgets(line, sizeof(line), stat) && !strstr(line, ") Z");
        if (stat)
            fclose(stat);
        usleep(10000);
    }
    assert_false(alive);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    argv_of_worker[0] = getenv("TEST_WORKER");
    if (!argv_of_worker[0])
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_many_and_large),
        cmocka_unit_test(test_invalid_requests),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_innocent),
        cmocka_unit_test(test_second_try),
        cmocka_unit_test(test_second_try_makes_room),
        cmocka_unit_test(test_protocol),
        cmocka_unit_test(test_hung),
        cmocka_unit_test(test_waiting_is_not_hostile),
        cmocka_unit_test(test_time_is_per_request),
        cmocka_unit_test(test_late_loop),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_number_of_processes),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close_with_work),
        cmocka_unit_test(test_from_within_callback),
        cmocka_unit_test(test_program_missing),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_start_fails_once),
        cmocka_unit_test(test_no_leaked_descriptors),
        cmocka_unit_test(test_dies_with_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
