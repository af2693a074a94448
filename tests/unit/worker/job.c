#include "worker/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct gate {
    uv_sem_t open; /* posted once for each job that may go on */
    uv_sem_t entered;
};

struct work {
    struct job job;
    struct gate *gate; /* where it waits; NULL: nowhere */
    bool worked, done;
    unsigned number;
    unsigned again;
    struct job_queue *queue;
};

static uv_loop_t loop;
static unsigned order[64], n_done;
static atomic_int running, most_running;

static void on_work(struct job *job)
{
    struct work *w = job->data;
    int now = atomic_fetch_add(&running, 1) + 1;
    int most = atomic_load(&most_running);
    while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
        continue;
    if (w->gate) {
        uv_sem_post(&w->gate->entered);
        uv_sem_wait(&w->gate->open);
    }
    w->worked = true;
    atomic_fetch_sub(&running, 1);
}

static void on_done(struct job *job)
{
    struct work *w = job->data;
    assert_true(w->worked);
    assert_false(w->done);
    w->done = true;
    order[n_done++] = w->number;
}

static void prepare(struct work *w, uint64_t mount, struct gate *gate, unsigned number)
{
    *w = (struct work){
        .job = {.work = on_work, .done = on_done, .mount = mount}, .gate = gate, .number = number};
    w->job.data = w;
}

static void reset(void)
{
    n_done = 0;
    atomic_store(&most_running, 0);
}

/* Two of four threads may hang on one mount; another mount's jobs pass all the same. */
static void test_hung_mount(void **state)
{
    (void)state;
    struct job_queue *q;
    struct gate gate;
    struct work hung[10], other[20];
    reset();
    uv_sem_init(&gate.open, 0);
    uv_sem_init(&gate.entered, 0);
    assert_int_equal(job_queue_open(&q, &loop, 2), 0);
    for (unsigned i = 0; i < 10; i++) {
        prepare(&hung[i], 7, &gate, 100 + i);
        job_submit(q, &hung[i].job);
    }
    for (unsigned i = 0; i < 20; i++) {
        prepare(&other[i], i % 2 ? 8 : 0, NULL, i);
        job_submit(q, &other[i].job);
    }
    assert_int_equal(n_done, 0); /* never from within */
    assert_int_equal(job_queue_pending(q), 30);
    uv_sem_wait(&gate.entered);
    uv_sem_wait(&gate.entered);
    while (n_done < 20)
        uv_run(&loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < 20; i++)
        assert_true(other[i].done);
    for (unsigned i = 0; i < 10; i++)
        assert_false(hung[i].done);
    assert_int_equal(job_queue_pending(q), 10);
    assert_int_equal(job_queue_pending_of(q, hung[0].job.mount), 10);
    assert_int_equal(job_queue_pending_of(q, 8), 0);
    assert_int_equal(job_queue_pending_of(q, 12345), 0);
    assert_int_not_equal(uv_sem_trywait(&gate.entered), 0); /* a third one has not started */
    for (unsigned i = 0; i < 10; i++)
        uv_sem_post(&gate.open);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_done, 30);
    assert_int_equal(job_queue_pending(q), 0);
    job_queue_close(q);
    uv_sem_destroy(&gate.open);
    uv_sem_destroy(&gate.entered);
}

/* One job after the other hangs, and each time the next one of the same mount passes all the same,
 * until the cap is reached. */
static void test_stuck(void **state)
{
    (void)state;
    struct job_queue *q;
    struct gate gate;
    struct work hung[3], other[4];
    reset();
    uv_sem_init(&gate.open, 0);
    uv_sem_init(&gate.entered, 0);
    assert_int_equal(job_queue_open(&q, &loop, 3), 0);
    for (unsigned i = 0; i < 3; i++) {
        prepare(&other[i], 7, NULL, i);
        job_submit(q, &other[i].job);
        while (n_done <= i)
            uv_run(&loop, UV_RUN_ONCE);
        prepare(&hung[i], 7, &gate, 100 + i);
        job_submit(q, &hung[i].job);
        while (uv_sem_trywait(&gate.entered) != 0)
            uv_run(&loop, UV_RUN_NOWAIT);
    }
    prepare(&other[3], 7, NULL, 3);
    job_submit(q, &other[3].job);
    for (uint64_t end = uv_hrtime() + 50000000; uv_hrtime() < end;)
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_false(other[3].done);
    assert_int_equal(job_queue_pending(q), 4);
    for (unsigned i = 0; i < 3; i++)
        uv_sem_post(&gate.open);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_done, 7);
    job_queue_close(q);
    uv_sem_destroy(&gate.open);
    uv_sem_destroy(&gate.entered);
}

/* A queue may be closed while work of those that left it runs: it goes with the last job. */
static void test_closed_early(void **state)
{
    (void)state;
    struct job_queue *q;
    struct gate gate;
    struct work work[3];
    uv_sem_init(&gate.open, 0);
    uv_sem_init(&gate.entered, 0);
    reset();
    assert_int_equal(job_queue_open(&q, &loop, 1), 0);
    for (unsigned i = 0; i < 3; i++) {
        prepare(&work[i], 5, &gate, i);
        job_submit(q, &work[i].job);
    }
    uv_sem_wait(&gate.entered);
    job_queue_close(q);
    for (unsigned i = 0; i < 3; i++)
        uv_sem_post(&gate.open);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_done, 3);
    uv_sem_destroy(&gate.open);
    uv_sem_destroy(&gate.entered);
}

/* With a cap of one the jobs of a mount run one after the other, in order. */
static void test_order(void **state)
{
    (void)state;
    struct job_queue *q;
    struct work work[40];
    reset();
    assert_int_equal(job_queue_open(&q, &loop, 1), 0);
    for (unsigned i = 0; i < 40; i++) {
        prepare(&work[i], 3, NULL, i);
        job_submit(q, &work[i].job);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_done, 40);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(order[i], i);
    assert_int_equal(atomic_load(&most_running), 1);
    job_queue_close(q);
}

static void on_done_again(struct job *job)
{
    struct work *w = job->data;
    n_done++;
    if (w->again > 0) {
        w->again--;
        job_submit(w->queue, job);
    } else
        free(w);
}

/* `done` may submit its job again, and free it. */
static void test_again(void **state)
{
    (void)state;
    struct job_queue *q;
    reset();
    assert_int_equal(job_queue_open(&q, &loop, 1), 0);
    for (unsigned i = 0; i < 3; i++) {
        struct work *w = calloc(1, sizeof(*w));
        assert_non_null(w);
        w->job = (struct job){.work = on_work, .done = on_done_again, .mount = i, .data = w};
        w->queue = q;
        w->again = 9;
        job_submit(q, &w->job);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_done, 30);
    assert_int_equal(job_queue_pending(q), 0);
    job_queue_close(q);
    job_queue_close(NULL);
}

static void test_setup(void **state)
{
    (void)state;
    unsetenv("UV_THREADPOOL_SIZE");
    job_setup(9);
    assert_string_equal(getenv("UV_THREADPOOL_SIZE"), "9");
    job_setup(12); /* what the operator set stands */
    assert_string_equal(getenv("UV_THREADPOOL_SIZE"), "9");
}

int main(void)
{
    setenv("UV_THREADPOOL_SIZE", "4", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hung_mount), cmocka_unit_test(test_closed_early),
        cmocka_unit_test(test_stuck),      cmocka_unit_test(test_order),
        cmocka_unit_test(test_again),      cmocka_unit_test(test_setup),
    };
    uv_loop_init(&loop);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) == 0 ? r : 1;
}
