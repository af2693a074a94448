#include "pipeline/unread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void once_a_path(void **state)
{
    struct unread u = {0};
    (void)state;
    unread_add(&u, "/in/a");
    unread_add(&u, "/in/b");
    unread_add(&u, "/in/a");
    assert_int_equal(u.n, 2);
    assert_string_equal(u.paths[0], "/in/a");
    assert_string_equal(u.paths[1], "/in/b");
    unread_clear(&u);
    assert_int_equal(u.n, 0);
}

static void a_file_that_is_read_clears_what_is_above_it(void **state)
{
    struct unread u = {0};
    (void)state;
    unread_add(&u, "/in/sub");
    unread_add(&u, "/in/sub/a");
    unread_add(&u, "/in/sub2");
    unread_read(&u, "/in/sub/b");
    assert_int_equal(u.n, 2);
    assert_string_equal(u.paths[0], "/in/sub/a");
    unread_read(&u, "/in/sub/a");
    assert_int_equal(u.n, 1);
    assert_string_equal(u.paths[0], "/in/sub2");
    unread_clear(&u);
}

static void a_folder_that_is_gone_takes_what_is_below_it(void **state)
{
    struct unread u = {0};
    (void)state;
    unread_add(&u, "/in/sub");
    unread_add(&u, "/in/sub/a");
    unread_add(&u, "/in/sub2");
    unread_gone(&u, "/in/sub");
    assert_int_equal(u.n, 1);
    assert_string_equal(u.paths[0], "/in/sub2");
    unread_gone(&u, "/in/sub2/a");
    assert_int_equal(u.n, 1);
    unread_clear(&u);
}

static void of_many_it_knows_that_there_are_more(void **state)
{
    struct unread u = {0};
    char path[32];
    (void)state;
    for (int i = 0; i < UNREAD_KEPT + 5; i++) {
        assert_false(u.more && i < UNREAD_KEPT);
        snprintf(path, sizeof path, "/in/%d", i);
        unread_add(&u, path);
    }
    assert_int_equal(u.n, UNREAD_KEPT);
    assert_true(u.more);
    unread_read(&u, "/in/3");
    assert_true(u.more);
    unread_gone(&u, "/in");
    assert_int_equal(u.n, 0);
    assert_false(u.more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(once_a_path),
        cmocka_unit_test(a_file_that_is_read_clears_what_is_above_it),
        cmocka_unit_test(a_folder_that_is_gone_takes_what_is_below_it),
        cmocka_unit_test(of_many_it_knows_that_there_are_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
