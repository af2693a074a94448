#include "config/secret.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/dcmferry-secret-XXXXXX";
static char file[64];

static void write_file(const void *data, size_t n)
{
    FILE *f = fopen(file, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void check(enum secret_source source, const char *reference, const char *expected)
{
    struct secret s = {source, (char *)(uintptr_t)reference};
    struct err e = {0};
    char *value = NULL;
    int r = secret_read(&s, &value, &e);

    if (r != 0)
        fail_msg("%s", e.text);
    assert_string_equal(value, expected);
    secret_wipe(value);
}

static void refuse(enum secret_source source, const char *reference, const char *message)
{
    struct secret s = {source, (char *)(uintptr_t)reference};
    struct err e = {0};
    char *value = (char *)1;

    assert_true(secret_read(&s, &value, &e) < 0);
    assert_null(value);
    if (strstr(e.text, message) == NULL)
        fail_msg("'%s' lacks '%s'", e.text, message);
    assert_null(strstr(e.text, "swordfish"));
}

static void test_sources(void **state)
{
    (void)state;
    write_file(" \tswordfish\r\n\n", 14);
    check(SECRET_FILE, file, "swordfish");
    check(SECRET_LITERAL, " swordfish ", "swordfish");
    setenv("DCMFERRY_TEST_SECRET", "sword fish\n", 1);
    check(SECRET_ENV, "DCMFERRY_TEST_SECRET", "sword fish");
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    check(SECRET_CREDENTIAL, "key", "swordfish");
    write_file("another", 7); /* read anew each time */
    check(SECRET_FILE, file, "another");
}

static void test_faults(void **state)
{
    char *large = malloc(16 * 1024 + 2);

    (void)state;
    refuse(SECRET_NONE, NULL, "no secret");
    refuse(SECRET_FILE, "/nowhere/at/all", "cannot read the secret of file /nowhere/at/all");
    refuse(SECRET_FILE, dir, dir);
    write_file(" \n\t ", 4);
    refuse(SECRET_FILE, file, "is empty");
    write_file("", 0);
    refuse(SECRET_FILE, file, "is empty");
    write_file("sword\0fish", 10);
    refuse(SECRET_FILE, file, "NUL");
    memset(large, 'x', 16 * 1024 + 1);
    large[16 * 1024 + 1] = '\0';
    write_file(large, 16 * 1024 + 1);
    refuse(SECRET_FILE, file, file);
    setenv("DCMFERRY_TEST_SECRET", large, 1);
    refuse(SECRET_ENV, "DCMFERRY_TEST_SECRET", "longer than 16 KiB");
    write_file(large, 16 * 1024);
    large[16 * 1024] = '\0';
    check(SECRET_FILE, file, large);
    free(large);
    unsetenv("DCMFERRY_TEST_SECRET");
    refuse(SECRET_ENV, "DCMFERRY_TEST_SECRET", "DCMFERRY_TEST_SECRET is not set");
    setenv("DCMFERRY_TEST_SECRET", "", 1);
    refuse(SECRET_ENV, "DCMFERRY_TEST_SECRET", "is empty");
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    refuse(SECRET_CREDENTIAL, "other", "credential other");
    refuse(SECRET_CREDENTIAL, "../key", "not a name");
    refuse(SECRET_CREDENTIAL, "..", "not a name");
    unsetenv("CREDENTIALS_DIRECTORY");
    refuse(SECRET_CREDENTIAL, "key", "$CREDENTIALS_DIRECTORY is not set");
    secret_wipe(NULL);
}

static int set_up(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(file, sizeof(file), "%s/key", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_faults),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
