#include "base/aside.h"

#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char top[64], path[PATH_MAX];
static struct err e;

static const char *in_top(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", top, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(in_top(name), "we");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void assert_holds(const char *name, const char *text)
{
    char found[64] = "";
    FILE *f = fopen(in_top(name), "re");
    assert_non_null(f);
    assert_non_null(fgets(found, sizeof found, f));
    fclose(f);
    assert_string_equal(found, text);
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(name);
}

static int setup(void **state)
{
    (void)state;
    strcpy(top, "/tmp/dcmferry-aside-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void a_file_goes_and_comes_back(void **state)
{
    (void)state;
    write_file("a.dcm", "one");
    char *aside = aside_name(in_top("a.dcm"));
    assert_string_equal(aside + strlen(top), "/.dcmferry-leaving.a.dcm");
    assert_true(aside_is(aside + strlen(top) + 1));
    assert_false(aside_is("a.dcm"));
    assert_false(aside_is(".dcmferry-leaving."));
    assert_int_equal(aside_take(in_top("a.dcm"), aside, &e), 0);
    assert_int_equal(access(in_top("a.dcm"), F_OK), -1);
    assert_int_equal(aside_take(in_top("b.dcm"), in_top(".dcmferry-leaving.b.dcm"), &e),
                     ERR_VANISHED);
    assert_int_equal(aside_put_back(aside, &e), 0);
    assert_holds("a.dcm", "one");
    assert_int_equal(aside_put_back(aside, &e), ERR_VANISHED);
    free(aside);
}

static void nothing_is_overwritten(void **state)
{
    (void)state;
    write_file("a.dcm", "one");
    char *aside = aside_name(in_top("a.dcm"));
    assert_int_equal(aside_take(in_top("a.dcm"), aside, &e), 0);
    write_file("a.dcm", "two");
    assert_int_equal(aside_take(in_top("a.dcm"), aside, &e), ERR_EXISTS);
    write_file("a.dcm~1", "other");
    assert_int_equal(aside_put_back(aside, &e), 0);
    assert_holds("a.dcm", "two");
    assert_holds("a.dcm~1", "other");
    assert_holds("a.dcm~2", "one");
    free(aside);
}

static void a_name_may_be_too_long(void **state)
{
    char name[NAME_MAX + 1];
    (void)state;
    memset(name, 'x', NAME_MAX);
    name[NAME_MAX] = '\0';
    write_file(name, "one");
    char *aside = aside_name(in_top(name));
    assert_int_equal(aside_take(in_top(name), aside, &e), ERR_TOO_LARGE);
    assert_holds(name, "one");
    free(aside);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_goes_and_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_overwritten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_name_may_be_too_long, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
