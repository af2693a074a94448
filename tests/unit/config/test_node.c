#include "config/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct node *parse(const char *text)
{
    struct fault_list f = {0};
    struct config_faults faults;
    struct node *root = node_parse(text, strlen(text), &f);

    fault_finish(&f, &faults);
    if (faults.n > 0)
        fail_msg("%s: %u:%u: %s", text, faults.items[0].mark.line, faults.items[0].mark.column,
                 faults.items[0].text);
    assert_non_null(root);
    config_faults_free(&faults);
    return root;
}

static void test_tree(void **state)
{
    struct node *root =
        parse("\xEF\xBB\xBF# c\na: 1\r\nb:\n  - x\n  - 'it''s'\n  - \"\\u00e4\"\nc: {d: e}\n");
    (void)state;
    node_free(root);

    root = parse("a: 1\nb:\n  - x\n  - 'it''s'\n  - \"\\u00e4\"\n  - |\n    two\n    lines\nc: {d: "
                 "~, e: }\n");
    assert_int_equal(root->type, NODE_MAP);
    assert_int_equal(root->n, 3);
    assert_string_equal(node_get(root, "a")->text, "1");
    const struct node *b = node_get(root, "b");
    assert_int_equal(b->n, 4);
    assert_string_equal(b->items[1]->text, "it's");
    assert_string_equal(b->items[2]->text, "\xC3\xA4");
    assert_string_equal(b->items[3]->text, "two\nlines\n");
    assert_int_equal(b->items[1]->mark.line, 4);
    assert_int_equal(b->items[1]->mark.column, 5);
    assert_true(node_is_null(node_get(node_get(root, "c"), "d")));
    assert_true(node_is_null(node_get(node_get(root, "c"), "e")));
    assert_null(node_get(root, "z"));
    assert_null(node_get(b, "z"));
    assert_int_equal(node_mark(root, "b").line, 3);
    assert_int_equal(node_mark(root, "z").line, 1);
    node_free(root);
    node_free(NULL);
}

static void test_braces(void **state)
{
    static const struct {
        const char *text, *value;
    } CASES[] = {
        {"k: {v: /srv/sent/{StudyDate}}", "/srv/sent/{StudyDate}"},
        {"k: {v: /s/{A}/{B:%Y}/c}", "/s/{A}/{B:%Y}/c"},
        {"k: {v: /^CT[12]$/}", "/^CT[12]$/"},
        {"k: {v: /^[*&!]x$/ }", "/^[*&!]x$/"},
        {"k: {v: /a{1,2}b[^{]c/, w: x}", "/a{1,2}b[^{]c/"},
        {"k: {v: x[a]}", "x[a]"},
        {"k: {w: [a{b}, c[d]], v: \xC3\xA4{e}}", "\xC3\xA4{e}"},
        {"k:\n  {w: \xE5\xB1\xB1[1],\n   v: x{y}}", "x{y}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct node *root = parse(CASES[i].text);
        assert_string_equal(node_get(node_get(root, "k"), "v")->text, CASES[i].value);
        node_free(root);
    }
    /* Places behind what was repaired stay right. */
    struct node *root = parse("k: {a: x{1}y{2}[3], b: \xC3\xA4{4}, c: [z]}");
    assert_int_equal(node_mark(node_get(root, "k"), "b").column, 24);
    assert_int_equal(node_mark(node_get(root, "k"), "c").column, 33);
    node_free(root);
}

static void test_place_within(void **state)
{
    static const struct {
        const char *text;
        size_t offset;
        unsigned line, column;
    } CASES[] = {
        {"k: abc", 0, 1, 4},
        {"k: abc", 2, 1, 6},
        {"k: \xC3\xA4\xC3\xB6z", 4, 1, 6},
        {"k: 'abc'", 2, 1, 7},
        {"k: 'a''b''c'", 2, 1, 8}, /* the b: behind a doubled quote */
        {"k: 'a''b''c'", 4, 1, 11},
        {"k: \"abc\"", 2, 1, 7},
        {"k: \"a\\tc\"", 2, 1, 4}, /* escapes: the start */
        {"k: ab\n  cd", 3, 1, 4},  /* several lines: the start */
        {"k: |\n  cd", 1, 1, 4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct node *root = parse(CASES[i].text);
        struct config_mark mark = node_mark_within(node_get(root, "k"), CASES[i].offset);
        if (mark.line != CASES[i].line || mark.column != CASES[i].column)
            fail_msg("%s: %u:%u", CASES[i].text, mark.line, mark.column);
        node_free(root);
    }
}

static void refuse(const char *text, size_t size, unsigned line, unsigned column,
                   const char *message)
{
    struct fault_list f = {0};
    struct config_faults faults;
    struct node *root = node_parse(text, size, &f);

    fault_finish(&f, &faults);
    node_free(root);
    if (faults.n != 1)
        fail_msg("%.40s: %zu faults", text, faults.n);
    if (faults.items[0].mark.line != line || faults.items[0].mark.column != column ||
        strstr(faults.items[0].text, message) == NULL)
        fail_msg("%.40s: %u:%u: %s", text, faults.items[0].mark.line, faults.items[0].mark.column,
                 faults.items[0].text);
    config_faults_free(&faults);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        unsigned line, column;
        const char *message;
    } CASES[] = {
        {"", 1, 1, "the file is empty"},
        {"# only a comment\n", 1, 1, "the file is empty"},
        {"---\n...\n", 1, 1, "the file is empty"},
        {"a: &x 1\nb: 2\n", 1, 4, "anchors (&name) are not supported"},
        {"a: &x [1]\n", 1, 4, "anchors"},
        {"a: &x {b: c}\n", 1, 4, "anchors"},
        {"a: 1\nb: *x\n", 2, 4, "aliases (*name) are not supported"},
        {"*x : 1\n", 1, 1, "aliases"},
        {"a: *.dcm\n", 1, 5, "not valid YAML"},
        {"<<: {a: b}\n", 1, 1, "merge keys"},
        {"a: !!str 1\n", 1, 4, "tags (!name) are not supported"},
        {"a: !x [1]\n", 1, 4, "tags"},
        {"a: 1\n---\nb: 2\n", 2, 1, "only one document"},
        {"a: 1\nb: [1, 2\nc: 3\n", 3, 2, "not valid YAML: while parsing a flow sequence"},
        {"a: 1\n\tb: 2\n", 2, 1, "not tabs"},
        {"a: \"x\n", 2, 1, "not valid YAML: while scanning a quoted scalar"},
        {"a: {v: {A}/x}\n", 1, 11, "quote values"},
        {"a: {v: x{A}\n", 2, 1, "not valid YAML"},
        {"a: {v: x{A\n}}\n", 1, 9, "quote values"},
        {"a: {v: x{b: c}}\n", 1, 11, "quote values"},
        {"[a]: 1\n", 1, 1, "a key must be plain text"},
        {"? {a: b}\n: 1\n", 1, 3, "a key must be plain text"},
        {"a: 1\nb: x\xFFy\n", 2, 5, "not UTF-8"},
        {"a: 1\nb: x\x01y\n", 2, 5, "a control character (0x01)"},
        {"a: \xC3\xA4\xEF\xA3\xB0\n", 1, 5, "private use"},
        {"a: \"x\\0y\"\n", 1, 4, "NUL"},
        {"a: 1\nb: 2\na: 3\n", 3, 1, "a: given twice; first in line 1"},
        {"a: [{b: 1, b: 2}]\n", 1, 12, "a[0].b: given twice"},
        {"a: [[[[[[[[[[[[[[1]]]]]]]]]]]]]]\n", 1, 15, "nested too deep"},
        {"a: @x\n", 1, 4, "not valid YAML"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++)
        refuse(CASES[i].text, strlen(CASES[i].text), CASES[i].line, CASES[i].column,
               CASES[i].message);
    refuse("a: \0b\n", 6, 1, 4, "a control character (0x00)");
    refuse("\xFF\xFE"
           "a\0:\0",
           6, 1, 1, "not UTF-8");
}

static void test_bounds(void **state)
{
    char *text = malloc(400 * 1024);
    size_t n = 0;

    (void)state;
    memset(text, '#', 300 * 1024);
    refuse(text, 300 * 1024, 1, 1, "larger than 256 KiB");
    memset(text, '[', 200 * 1024);
    refuse(text, 200 * 1024, 1, 13, "nested too deep");
    n = 0;
    for (int i = 0; i < 2000; i++)
        n += (size_t)sprintf(text + n, "- %d\n", i);
    refuse(text, n, 1025, 3, "too many items");
    n = 0;
    for (int i = 0; i < 1100; i++)
        n += (size_t)sprintf(text + n, "k%d: v\n", i);
    refuse(text, n, 1025, 1, "too many items");
    /* More repairs than are made end in a fault, soon. */
    n = (size_t)sprintf(text, "a: [");
    for (int i = 0; i < 1000; i++)
        n += (size_t)sprintf(text + n, "x{y}, ");
    struct fault_list f = {0};
    struct config_faults faults;
    assert_null(node_parse(text, n, &f));
    fault_finish(&f, &faults);
    if (faults.n != 1)
        fail_msg("%.40s: %zu faults", text, faults.n);
    config_faults_free(&faults);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),         cmocka_unit_test(test_braces),
        cmocka_unit_test(test_place_within), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
