/* Memory runs out at every single allocation in turn: ERR_NOMEM, and nothing leaks. The linker puts
 * the functions below in the place of the allocator's. */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static long left = -1; /* allocations until one fails; negative: none does */

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
    return fails() ? NULL : __real_strndup(s, n);
}

static void check(const char *text, int expected)
{
    for (long n = 0;; n++) {
        struct config *c = NULL;
        struct config_faults f;

        left = n;
        int r = config_parse("x", text, strlen(text), CONFIG_PATHS_CHECK, &c, &f);
        bool failed = left < 0;
        left = -1;
        /* What is only looked at, such as whether a path lies in another, may do without. */
        if (failed)
            assert_true(r == ERR_NOMEM);
        else
            assert_int_equal(r, expected);
        assert_int_equal(c != NULL, r == 0);
        config_free(c);
        config_faults_free(&f);
        if (!failed) {
            assert_true(n > 100);
            return;
        }
    }
}

static void test_nomem(void **state)
{
    (void)state;
    check("state: /tmp/dcmferry-nomem/state\n"
          "log: {level: debug}\n"
          "watch: [{path: /usr, after_upload: {move: /tmp/x/{path}/y}, include: [a, b], rejected: "
          "/tmp/r}]\n"
          "destinations: {d: {type: postdicom, router: 'https://r/', account_key: a, api_key: b, "
          "allowed_hosts: a.org, proxy: none}}\n"
          "routes:\n"
          "  - {name: r, to: d, match: {Modality: [CT, /^M/], not: {path: x/**}}, folder: "
          "A/{PatientID|x}}\n"
          "  - {name: q, reject: why}\n",
          0);
    check("stat: /tmp\n"
          "watch: [{path: usr, after_upload: {move: /tmp/x/{pat}/y}, include: [a, []], rejected: "
          "/tmp/r}]\n"
          "destinations: {d: {type: postdicom, router: 'x://r/', account_key: {file: x}, api_key: "
          "b}}\n"
          "routes:\n  - {name: r, to: e, match: {Modality: /(/}, folder: A/{Patient}}\n",
          ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nomem)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
