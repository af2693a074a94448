#include "config/match.h"

#include "dicom/dict/dicom_dict.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct subject {
    const char *modality, *station, *type, *comments;
};

static const char *lookup(uint32_t tag, void *ctx)
{
    const struct subject *s = ctx;

    switch (tag) {
    case 0x00080060:
        return s->modality;
    case 0x00081010:
        return s->station;
    case 0x00080008:
        return s->type;
    case 0x00324000:
        return s->comments;
    default:
        return NULL;
    }
}

static const struct subject CT = {"CT", "CT1", "ORIGINAL\\PRIMARY \\AXIAL", "a\\b"};

static bool test_one(const char *keyword, const char *const *values, size_t n, bool negate,
                     const struct subject *subject, const char *path)
{
    struct match *m = match_new();
    struct template_values v = {lookup, (void *)(uintptr_t)subject, path};
    struct err e = {0};
    uint32_t tag = 0;
    bool hit = true;

    assert_non_null(m);
    if (strcmp(keyword, "path") == 0) {
        assert_int_equal(match_add_path(m, values, n, negate, &e), 0);
    } else {
        assert_true(dicom_dict_tag(keyword, &tag));
        assert_int_equal(match_add_attribute(m, tag, values, n, negate, &e), 0);
    }
    bool result = match_test(m, &v, &hit);
    assert_false(hit);
    match_free(m);
    return result;
}

static void test_conditions(void **state)
{
    static const struct {
        const char *keyword, *value;
        bool expected;
    } CASES[] = {
        {"Modality", "CT", true},
        {"Modality", "ct", false},
        {"Modality", "C", false},
        {"Modality", "CTX", false},
        {"Modality", "", false},
        {"Modality", "/C/", true},
        {"Modality", "/^C$/", false},
        {"Modality", "/c/", false},
        {"Modality", "/c/i", true},
        {"Modality", "/", false},
        {"Modality", "/CT", false},
        {"Modality", "CT/", false},
        {"StationName", "/^CT[12]$/", true},
        {"ImageType", "PRIMARY", true},
        {"ImageType", "AXIAL", true},
        {"ImageType", "ORIGINAL\\PRIMARY", false},
        {"ImageType", "/^PRIMARY$/", true},
        {"ImageType", "/L.*P/", false},
        {"StudyComments", "a", false}, /* LT: a backslash is text */
        {"StudyComments", "a\\b", true},
        {"PatientID", "", true},
        {"PatientID", "x", false},
        {"PatientID", "/^$/", true},
        {"path", "trials/**", true},
        {"path", "Trials/**", false},
        {"path", "x.dcm", true},
        {"path", "*.dcm", true},
        {"path", "trials/*", false},
        {"path", "/^trials\\/b/", true},
        {"path", "/B/i", true},
        {"path", "other/**", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        const char *values[] = {CASES[i].value};

        for (int negate = 0; negate < 2; negate++) {
            if (test_one(CASES[i].keyword, values, 1, negate, &CT, "trials/b/x.dcm") !=
                (CASES[i].expected != (bool)negate))
                fail_msg("%s: %s", CASES[i].keyword, CASES[i].value);
        }
    }
    const char *several[] = {"MR", "/^CT$/", "PT"};
    assert_true(test_one("Modality", several, 3, false, &CT, ""));
    assert_false(test_one("Modality", several, 3, true, &CT, ""));
    const char *others[] = {"MR", "PT"};
    assert_false(test_one("Modality", others, 2, false, &CT, ""));
    assert_true(test_one("Modality", others, 2, true, &CT, ""));
    const char *umlaut[] = {"/^.$/"};
    const struct subject utf8 = {.modality = "\xC3\xA4"};
    assert_true(test_one("Modality", umlaut, 1, false, &utf8, ""));
}

static void count(uint32_t tag, void *ctx)
{
    assert_true(tag == 0x00080060 || tag == 0x00081010);
    ++*(int *)ctx;
}

static void test_several_conditions(void **state)
{
    const char *ct[] = {"CT"}, *station[] = {"CT2"}, *path[] = {"*.dcm"};
    struct template_values v = {lookup, (void *)(uintptr_t)&CT, "x.dcm"};
    struct match *m = match_new();
    int n = 0;

    (void)state;
    assert_true(match_test(m, &v, NULL)); /* none: everything */
    assert_int_equal(match_add_attribute(m, 0x00080060, ct, 1, false, NULL), 0);
    assert_int_equal(match_add_path(m, path, 1, false, NULL), 0);
    assert_true(match_test(m, &v, NULL));
    assert_int_equal(match_add_attribute(m, 0x00081010, station, 1, false, NULL), 0);
    assert_false(match_test(m, &v, NULL));
    match_each_tag(m, count, &n);
    assert_int_equal(n, 2);
    match_free(m);
    match_free(NULL);
}

static void test_faults(void **state)
{
    static const struct {
        const char *value;
        size_t offset;
        const char *message;
    } CASES[] = {
        {"/a(b/", 4, "missing closing parenthesis at offset 3"},
        {"/[a/", 3, "missing terminating ] for character class at offset 2"},
        {"//", 1, "empty regular expression"},
        {"//i", 1, "empty regular expression"},
        {"/a\\C/", 4, "\\C"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct err e = {0};
        size_t offset = 0;
        struct match *m = match_new();

        assert_int_equal(match_check_value(CASES[i].value, &offset, &e), ERR_INVALID);
        if (offset != CASES[i].offset || strstr(e.text, CASES[i].message) == NULL)
            fail_msg("%s: '%s' at %zu", CASES[i].value, e.text, offset);
        assert_int_equal(match_add_path(m, &CASES[i].value, 1, false, &e), ERR_INVALID);
        assert_int_equal(match_add_attribute(m, 1, &CASES[i].value, 1, true, &e), ERR_INVALID);
        assert_int_equal(match_add_path(m, NULL, 0, false, &e), ERR_INVALID);
        assert_int_equal(match_add_attribute(m, 1, NULL, 0, false, &e), ERR_INVALID);
        match_free(m);
    }
    char *large = malloc(10000);
    memset(large, 'a', 9999);
    large[0] = large[9998] = '/';
    large[9999] = '\0';
    size_t offset = 0;
    assert_int_equal(match_check_value(large, &offset, NULL), ERR_INVALID);
    free(large);
    assert_int_equal(match_check_value("/ok/", &offset, NULL), 0);
    assert_int_equal(match_check_value("(", &offset, NULL), 0); /* no regex */
}

static void test_limits(void **state)
{
    char text[64];
    const char *regex[] = {"/^(a+)+$/"};
    struct subject s = {.modality = text};
    struct template_values v = {lookup, &s, ""};

    (void)state;
    memset(text, 'a', 60);
    strcpy(text + 60, "!");
    for (int negate = 0; negate < 2; negate++) {
        struct match *m = match_new();
        bool hit = false;

        assert_int_equal(match_add_attribute(m, 0x00080060, regex, 1, negate, NULL), 0);
        assert_false(match_test(m, &v, &hit)); /* undecided: neither way */
        assert_true(hit);
        assert_false(match_test(m, &v, NULL));
        match_free(m);
    }
}

static void test_not_utf8(void **state)
{
    const char *regex[] = {"/dcm$/"};

    (void)state;
    assert_true(test_one("path", regex, 1, false, &CT, "a\xFF\xFE/x\xC3.dcm"));
    const struct subject s = {.modality = "\xFF\xC3"};
    assert_false(test_one("Modality", regex, 1, false, &s, ""));
}

struct thread {
    const struct match *m;
    int good;
};

static void *run(void *ctx)
{
    struct thread *t = ctx;
    struct template_values v = {lookup, (void *)(uintptr_t)&CT, "x/y.dcm"};

    for (int i = 0; i < 2000; i++)
        t->good += match_test(t->m, &v, NULL);
    return NULL;
}

static void test_threads(void **state)
{
    const char *regex[] = {"/^(CT|MR)[0-9]+$/"};
    struct match *m = match_new();
    struct thread threads[4];
    pthread_t ids[4];

    (void)state;
    assert_int_equal(match_add_attribute(m, 0x00081010, regex, 1, false, NULL), 0);
    for (int i = 0; i < 4; i++) {
        threads[i] = (struct thread){m, 0};
        assert_int_equal(pthread_create(&ids[i], NULL, run, &threads[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(ids[i], NULL);
        assert_int_equal(threads[i].good, 2000);
    }
    match_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conditions), cmocka_unit_test(test_several_conditions),
        cmocka_unit_test(test_faults),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_not_utf8),   cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
