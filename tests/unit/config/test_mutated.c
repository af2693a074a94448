/* Mutated configurations: whatever the text, a configuration or faults with places; for the
 * sanitizers. */
#include "config/config.h"

#include "base/fsutil.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t seed = 20260207;

static uint32_t number(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static size_t lines_of(const char *text, size_t size)
{
    size_t n = 1;

    for (size_t i = 0; i < size; i++)
        n += text[i] == '\n';
    return n;
}

static void check(const char *text, size_t size)
{
    struct config *c = NULL;
    struct config_faults f;
    int r = config_parse("mutated", text, size, CONFIG_PATHS_UNSEEN, &c, &f);

    if (r == 0) {
        assert_non_null(c);
        assert_int_equal(f.n, 0);
        assert_true(c->n_watches > 0 && c->n_destinations > 0 && c->n_routes > 0);
        for (size_t i = 0; i < c->n_routes; i++) {
            assert_non_null(c->routes[i].match);
            assert_true((c->routes[i].n_to > 0) != (c->routes[i].reject != NULL));
        }
    } else {
        assert_int_equal(r, ERR_CONFIG);
        assert_null(c);
        assert_true(f.n > 0);
        for (size_t i = 0; i < f.n; i++) {
            assert_true(f.items[i].text[0] != '\0');
            assert_in_range(f.items[i].mark.line, 1, lines_of(text, size) + 1);
            assert_true(f.items[i].mark.column >= 1);
        }
    }
    config_free(c);
    config_faults_free(&f);
}

static char *load(size_t *ret_size)
{
    char *text = NULL;
    struct err e = {0};

    if (fsutil_read_file(EXAMPLE_FILE, 1 << 20, &text, ret_size, &e) != 0)
        fail_msg("%s", e.text);
    return text;
}

static void test_mutated(void **state)
{
    static const char *const PIECES[] = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ":",
                                         ": ",
                                         "\n",
                                         "  ",
                                         "- ",
                                         "#",
                                         "'",
                                         "\"",
                                         "|",
                                         ">\n",
                                         "&a ",
                                         "*a",
                                         "!x ",
                                         "<<: ",
                                         "%",
                                         "/",
                                         "\\",
                                         ",",
                                         "?",
                                         "~",
                                         "not: ",
                                         "\t",
                                         "\xC3\xA4",
                                         "\xFF",
                                         "\xEF\xA3\xB0",
                                         "99999999999999999999",
                                         "path: /",
                                         "{{",
                                         "{path:",
                                         "/(/"};
    size_t size = 0;
    char *text = load(&size), *mutated = malloc(size + 4096);

    (void)state;
    assert_non_null(mutated);
    for (unsigned round = 0; round < 2500; round++) {
        /* Without the comments, or it would mostly be those that are hit. */
        size_t n = 0;
        for (const char *p = text; *p != '\0';) {
            size_t line = strcspn(p, "\n") + 1;
            if (p[strspn(p, " ")] != '#' && p[0] != '\n') {
                memcpy(mutated + n, p, line);
                n += line;
            }
            p += line;
        }
        for (uint32_t i = 0, changes = 1 + number(4); i < changes; i++) {
            size_t at = number((uint32_t)n), length;
            const char *piece = PIECES[number(sizeof(PIECES) / sizeof(PIECES[0]))];

            switch (number(4)) {
            case 0: /* insert */
                length = strlen(piece);
                memmove(mutated + at + length, mutated + at, n - at);
                memcpy(mutated + at, piece, length);
                n += length;
                break;
            case 1: /* take out */
                length = number(20);
                length = length > n - at ? n - at : length;
                memmove(mutated + at, mutated + at + length, n - at - length);
                n -= length;
                break;
            case 2: /* replace */
                mutated[at] = (char)number(256);
                break;
            default: /* double */
                length = number(40);
                length = length > n - at ? n - at : length;
                memmove(mutated + at + length, mutated + at, n - at);
                n += length;
                break;
            }
        }
        check(mutated, n);
    }
    free(mutated);
    free(text);
}

static void test_cut_short(void **state)
{
    size_t size = 0;
    char *text = load(&size);

    (void)state;
    for (size_t n = 0; n < size; n += 13)
        check(text, n);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutated),
        cmocka_unit_test(test_cut_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
