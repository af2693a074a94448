/* Tables, example file and man page say the same. */
#include "config/read.h"

#include "base/fsutil.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *man, *example;

static char *load(const char *path)
{
    char *text = NULL;
    size_t size = 0;
    struct err e = {0};

    if (fsutil_read_file(path, 1 << 20, &text, &size, &e) != 0)
        fail_msg("%s: %s", path, e.text);
    return text;
}

/* "#key: value" and "#  - item" become settings; prose comments have a blank behind the '#'. */
static char *uncommented(const char *text)
{
    char *result = malloc(strlen(text) + 1), *out = result;

    assert_non_null(result);
    while (*text != '\0') {
        size_t n = strcspn(text, "\n"), blanks = strspn(text, " ");
        bool setting = text[blanks] == '#' &&
                       (text[blanks + 1] > ' ' || strncmp(text + blanks, "#  - ", 5) == 0);
        memcpy(out, text, blanks);
        out += blanks;
        memcpy(out, text + blanks + setting, n - blanks - setting);
        out += n - blanks - setting;
        *out++ = '\n';
        text += n + (text[n] == '\n');
    }
    *out = '\0';
    return result;
}

static struct node *parse(const char *text)
{
    struct fault_list f = {0};
    struct node *root = node_parse(text, strlen(text), &f);

    assert_int_equal(f.n, 0);
    assert_non_null(root);
    return root;
}

/* The mappings of the example that a section is about: the i-th one, NULL behind the last. */
static const struct node *mapping(const struct node *root, const char *section, size_t i)
{
    const struct node *node = NULL;

    if (strcmp(section, "routes[]") == 0 || strcmp(section, "watch[]") == 0) {
        node = node_get(root, section[0] == 'r' ? "routes" : "watch");
        return i < node->n ? node->items[i] : NULL;
    }
    if (i > 0)
        return NULL;
    if (section[0] == '\0')
        return root;
    if (strcmp(section, "log") == 0)
        return node_get(root, "log");
    node = node_get(node_get(root, "destinations"), "cloud");
    return strcmp(section, "destinations.NAME") == 0 ? node : node_get(node, "retry");
}

static void check_fallback(const struct table_key *key, const struct node *value)
{
    char text[2048] = "";

    for (size_t i = 0; i < (value->type == NODE_LIST ? value->n : 1); i++) {
        const struct node *one = value->type == NODE_LIST ? value->items[i] : value;
        size_t used = strlen(text);
        assert_int_equal(one->type, NODE_SCALAR);
        snprintf(text + used, sizeof(text) - used, "%s%s", i > 0 ? ", " : "", one->text);
    }
    if (strcmp(text, key->fallback) != 0)
        fail_msg("the example has %s: %s; the default is %s", key->name, text, key->fallback);
}

static void test_example_has_every_key(void **state)
{
    char *text = uncommented(example);
    struct node *root = parse(text);

    (void)state;
    for (const struct table_section *const *s = READ_SECTIONS; *s != NULL; s++) {
        for (size_t k = 0; k < (*s)->n; k++) {
            const struct table_key *key = &(*s)->keys[k];
            const struct node *map, *value = NULL;

            for (size_t i = 0; (map = mapping(root, (*s)->name, i)) != NULL && value == NULL; i++)
                value = node_get(map, key->name);
            if (value == NULL)
                fail_msg("the example lacks %s of '%s'", key->name, (*s)->name);
            if (key->fallback != NULL)
                check_fallback(key, value);
        }
    }
    node_free(root);
    free(text);
}

/* As it is, and with all that is commented out. Unknown keys would be faults. */
static void test_example_is_valid(void **state)
{
    char *all = uncommented(example);
    const char *texts[] = {example, all};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct config *c = NULL;
        struct config_faults f;

        if (config_parse("example", texts[i], strlen(texts[i]), CONFIG_PATHS_UNSEEN, &c, &f) != 0)
            fail_msg("%u:%u: %s", f.items[0].mark.line, f.items[0].mark.column, f.items[0].text);
        config_free(c);
    }
    assert_true(strlen(all) < strlen(example));
    free(all);
}

static char *man_section(const char *name)
{
    char title[80];

    snprintf(title, sizeof(title), "\n.SS \"%s\"\n", name[0] != '\0' ? name : "Top level");
    char *from = strstr(man, title);
    if (from == NULL)
        fail_msg("the man page lacks the section '%s'", name);
    from += strlen(title);
    const char *end = strstr(from, "\n.S"); /* .SS or .SH */
    assert_non_null(end);
    return strndup(from, (size_t)(end - from) + 1);
}

/* What stands between the key's line and the next key's. */
static void check_words(const struct table_key *key, const char *paragraph)
{
    const char *end = strstr(paragraph, "\n.TP\n");
    char *text = end != NULL ? strndup(paragraph, (size_t)(end - paragraph)) : strdup(paragraph);

    for (size_t i = 0; key->choices != NULL && key->choices[i] != NULL; i++) {
        if (strstr(text, key->choices[i]) == NULL)
            fail_msg("the man page does not say that %s may be %s", key->name, key->choices[i]);
    }
    if (key->zero != NULL && strstr(text, key->zero) == NULL)
        fail_msg("the man page does not say that %s may be %s", key->name, key->zero);
    if (key->type == TABLE_TEXTS && key->fallback != NULL) {
        char plain[4096], *out = plain;
        for (const char *p = text; *p != '\0' && out < plain + sizeof(plain) - 1; p++) {
            bool tilde = strncmp(p, "\\(ti", 4) == 0;
            *out++ = tilde ? '~' : *p;
            p += tilde ? 3 : 0;
        }
        *out = '\0';
        if (strstr(plain, key->fallback) == NULL)
            fail_msg("the man page has another default of %s", key->name);
    }
    free(text);
}

static void test_man_page_has_every_key(void **state)
{
    (void)state;
    for (const struct table_section *const *s = READ_SECTIONS; *s != NULL; s++) {
        char *text = man_section((*s)->name);
        size_t n = 0;

        for (size_t k = 0; k < (*s)->n; k++) {
            const struct table_key *key = &(*s)->keys[k];
            bool list = key->type == TABLE_TEXTS && key->fallback != NULL;
            char line[160];

            assert_non_null(key->help);
            assert_true(key->help[0] != '\0');
            snprintf(line, sizeof(line), ".TP\n.BR %s \" (%s%s%s%s)\"\n", key->name,
                     table_type_name(key), key->required ? ", required" : "",
                     key->fallback != NULL ? ", default " : "",
                     list                    ? "below"
                     : key->fallback != NULL ? key->fallback
                                             : "");
            const char *at = strstr(text, line);
            if (at == NULL)
                fail_msg("the man page's section '%s' lacks %s", (*s)->name, line);
            check_words(key, at + strlen(line));
        }
        /* …and no other key. */
        for (const char *p = text; (p = strstr(p, ".TP\n.BR ")) != NULL; p++)
            n++;
        if (n != (*s)->n)
            fail_msg("the man page's section '%s' has %zu keys, the table %zu", (*s)->name, n,
                     (*s)->n);
        free(text);
    }
}

static void test_tables(void **state)
{
    (void)state;
    for (const struct table_section *const *s = READ_SECTIONS; *s != NULL; s++) {
        for (size_t k = 0; k < (*s)->n; k++) {
            for (size_t j = 0; j < k; j++)
                assert_string_not_equal((*s)->keys[j].name, (*s)->keys[k].name);
            assert_false((*s)->keys[k].required && (*s)->keys[k].fallback != NULL);
        }
    }
}

static int set_up(void **state)
{
    (void)state;
    man = load(MAN_PAGE);
    example = load(EXAMPLE_FILE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(man);
    free(example);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_example_has_every_key),
        cmocka_unit_test(test_example_is_valid),
        cmocka_unit_test(test_man_page_has_every_key),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
