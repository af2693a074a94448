/* Who waits for better times, and what is said of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pipeline/roots.h"
#include "pipeline/trouble.h"

static uv_loop_t loop;
static unsigned tried;

static void again(struct trouble_waiter *w)
{
    (void)w;
    tried++;
}

static void test_trouble(void **state)
{
    struct trouble *t;
    struct trouble_waiter a = {.again = again}, b = {.again = again};
    struct err e;
    (void)state;
    err_set(&e, ERR_NOSPACE, "full");
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(trouble_open(&t, &loop), 0);
    assert_null(trouble_text(t));
    trouble_over(t, &a); /* it met none */
    trouble_wait(t, &a, &e);
    trouble_wait(t, &b, &e);
    assert_string_equal(trouble_text(t), "full");
    uv_run(&loop, UV_RUN_DEFAULT); /* the timer ends when no one waits */
    assert_int_equal(tried, 2);
    /* The one succeeds, the other meets it once more: it is not over. */
    trouble_over(t, &a);
    trouble_wait(t, &b, &e);
    assert_non_null(trouble_text(t));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(tried, 3);
    trouble_over(t, &b);
    assert_null(trouble_text(t));
    trouble_over(t, &b);
    /* Given up while it waits: never called. */
    trouble_wait(t, &a, &e);
    trouble_forget(t, &a);
    trouble_forget(t, &a);
    assert_null(trouble_text(t));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(tried, 3);
    trouble_close(t);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_roots(void **state)
{
    struct roots *r;
    struct root_look here = {true, 7}, gone = {false, 0}, bare = {true, 8};
    (void)state;
    assert_int_equal(roots_open(&r, 2), 0);
    assert_false(roots_trust(r, 0, &gone, false));
    assert_true(roots_trust(r, 0, &here, false));
    assert_false(roots_trust(r, 0, &gone, true));
    assert_false(roots_trust(r, 0, &bare, false)); /* its mount point */
    assert_true(roots_trust(r, 0, &here, false));  /* mounted again */
    assert_true(roots_trust(r, 0, &bare, true));   /* mounted anew: files are there */
    assert_true(roots_trust(r, 0, &bare, false));
    roots_learn(r, 1, 8);
    roots_learn(r, 1, 9);
    assert_false(roots_trust(r, 1, &here, false));
    assert_true(roots_trust(r, 1, &bare, false));
    root_look("/", &here);
    assert_true(here.there);
    root_look("/etc/passwd", &here);
    assert_false(here.there);
    roots_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trouble),
        cmocka_unit_test(test_roots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
