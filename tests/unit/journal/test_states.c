#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "journal/states.h"

#include <string.h>

/* The numbers are in journals out there. */
static void test_numbers(void **state)
{
    (void)state;
    assert_int_equal(FILE_FOUND, 0);
    assert_int_equal(FILE_QUEUED, 1);
    assert_int_equal(FILE_DELIVERED, 2);
    assert_int_equal(FILE_DISPOSED, 3);
    assert_int_equal(FILE_REJECTED, 4);
    assert_int_equal(FILE_VANISHED, 5);
    assert_int_equal(FILE_HELD, 6);
    assert_int_equal(DELIVERY_QUEUED, 0);
    assert_int_equal(DELIVERY_SENDING, 1);
    assert_int_equal(DELIVERY_WAITING, 2);
    assert_int_equal(DELIVERY_DELIVERED, 3);
    assert_int_equal(DELIVERY_FAILED, 4);
    assert_int_equal(DELIVERY_HELD, 5);
    assert_int_equal(DELIVERY_DUPLICATE, 6);
    assert_int_equal(DELIVERY_CONFLICT, 7);
    assert_int_equal(DELIVERY_ENDED, 8);
}

/* All moves, drawn: a row per state, a column per state. */
static void test_file_moves(void **state)
{
    static const char *const may[FILE_STATE_MAX] = {
        /*            FQDXRVH (X: disposed) */
        [FILE_FOUND] = ".Q..RVH",    [FILE_QUEUED] = "..D..VH",   [FILE_DELIVERED] = "...X...",
        [FILE_DISPOSED] = ".......", [FILE_REJECTED] = ".Q....H", [FILE_VANISHED] = ".......",
        [FILE_HELD] = ".Q..RV.",
    };

    (void)state;
    for (int from = 0; from < FILE_STATE_MAX; from++)
        for (int to = 0; to < FILE_STATE_MAX; to++)
            assert_int_equal(file_state_may((enum file_state)from, (enum file_state)to),
                             may[from][to] != '.');
}

static void test_delivery_moves(void **state)
{
    static const char *const may[DELIVERY_STATE_MAX] = {
        /*                QSWDFHUCE (U: duplicate) */
        [DELIVERY_QUEUED] = ".S...HUCE",    [DELIVERY_SENDING] = "Q.WDFHUCE",
        [DELIVERY_WAITING] = "Q....H..E",   [DELIVERY_DELIVERED] = ".........",
        [DELIVERY_FAILED] = "Q....H..E",    [DELIVERY_HELD] = "Q.......E",
        [DELIVERY_DUPLICATE] = ".........", [DELIVERY_CONFLICT] = "Q.......E",
        [DELIVERY_ENDED] = "...D..U..",
    };

    (void)state;
    for (int from = 0; from < DELIVERY_STATE_MAX; from++)
        for (int to = 0; to < DELIVERY_STATE_MAX; to++)
            assert_int_equal(delivery_state_may((enum delivery_state)from, (enum delivery_state)to),
                             may[from][to] != '.');
}

static void test_out_of_range(void **state)
{
    (void)state;
    assert_false(file_state_may(FILE_STATE_MAX, FILE_QUEUED));
    assert_false(file_state_may(FILE_FOUND, FILE_STATE_MAX));
    assert_false(file_state_may((enum file_state) - 1, FILE_QUEUED));
    assert_false(delivery_state_may(DELIVERY_STATE_MAX, DELIVERY_QUEUED));
    assert_false(delivery_state_may(DELIVERY_QUEUED, DELIVERY_STATE_MAX));
    assert_false(delivery_state_may(DELIVERY_QUEUED, (enum delivery_state) - 1));
    assert_string_equal(file_state_name(FILE_STATE_MAX), "unknown");
    assert_string_equal(delivery_state_name((enum delivery_state) - 1), "unknown");
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(file_state_name(FILE_VANISHED), "vanished");
    assert_string_equal(delivery_state_name(DELIVERY_ENDED), "ended");
    for (int a = 0; a < FILE_STATE_MAX; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(file_state_name((enum file_state)a),
                                    file_state_name((enum file_state)b));
    for (int a = 0; a < DELIVERY_STATE_MAX; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(delivery_state_name((enum delivery_state)a),
                                    delivery_state_name((enum delivery_state)b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),        cmocka_unit_test(test_file_moves),
        cmocka_unit_test(test_delivery_moves), cmocka_unit_test(test_out_of_range),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
