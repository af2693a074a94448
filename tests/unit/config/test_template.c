#include "config/template.h"

#include "base/text.h"
#include "dicom/dict/dicom_dict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct attribute {
    const char *keyword;
    const char *value;
};

static const char *lookup(uint32_t tag, void *ctx)
{
    for (const struct attribute *a = ctx; a->keyword != NULL; a++) {
        uint32_t known = 0;
        assert_true(dicom_dict_tag(a->keyword, &known));
        if (known == tag)
            return a->value;
    }
    return NULL;
}

static char *expand(const char *text, const struct attribute *attributes, const char *path)
{
    struct template *t = NULL;
    size_t offset = 0;
    struct err e = {0};
    struct template_values values = {lookup, (void *)(uintptr_t)attributes, path};

    if (template_parse(&t, text, &offset, &e) != 0)
        fail_msg("%s: %s at %zu", text, e.text, offset);
    assert_string_equal(template_text(t), text);
    char *result = template_expand(t, &values);
    template_free(t);
    assert_non_null(result);
    return result;
}

static void check(const char *text, const struct attribute *attributes, const char *path,
                  const char *expected)
{
    char *result = expand(text, attributes, path);

    if (strcmp(result, expected) != 0)
        fail_msg("%s gives '%s', not '%s'", text, result, expected);
    free(result);
}

static const struct attribute STUDY[] = {
    {"Modality", "CT"},
    {"StudyDate", "20260207"},
    {"StudyTime", "070809.123"},
    {"AcquisitionDateTime", "20241231235960.5+0100"},
    {"PatientID", "A/17\\B"},
    {"PatientName", "Doe^Jane^^Dr"},
    {"ImageType", "ORIGINAL\\PRIMARY"},
    {"StationName", ""},
    {"StudyComments", "one\\two"},
    {NULL, NULL},
};

static void test_values(void **state)
{
    (void)state;
    check("Radiology/{Modality}/{StudyDate:%Y-%m}/{PatientID}", STUDY, "",
          "Radiology/CT/2026-02/A_17");
    check("{Modality}", STUDY, "", "CT");
    check("{0008,0060}", STUDY, "", "CT");
    check("{PatientName}", STUDY, "", "Doe Jane  Dr");
    check("{ImageType}", STUDY, "", "ORIGINAL");
    check("{StudyComments}", STUDY, "", "one_two"); /* LT: a backslash is text */
    check("x{Modality}y{Modality}z", STUDY, "", "xCTyCTz");
    check("{{{Modality}}}", STUDY, "", "{CT}");
    check("a{{b}}c", STUDY, "", "a{b}c");
}

static void test_empty(void **state)
{
    (void)state;
    check("{StationName}", STUDY, "", "unknown");
    check("{StationName|none}/x", STUDY, "", "none/x");
    check("a/{StationName|}/b", STUDY, "", "a/b");
    check("{StationName|}", STUDY, "", "");
    check("{SeriesDescription}", STUDY, "", "unknown");
    check("{Modality|MR}", STUDY, "", "CT");
    check("a-{StationName}-b", STUDY, "", "a-unknown-b");
    check("//a///b//", STUDY, "", "/a/b");
    check("a/b/", STUDY, "", "a/b");
    const struct attribute none[] = {{NULL, NULL}};
    check("{StudyDate:%Y|undated}", none, "", "undated");
    const struct template_values nothing = {0};
    struct template *t = NULL;
    assert_int_equal(template_parse(&t, "{Modality}/{path}x/{filename}y", NULL, NULL), 0);
    char *text = template_expand(t, &nothing);
    assert_string_equal(text, "unknown/x/y");
    free(text);
    template_free(t);
}

static void test_dates(void **state)
{
    static const struct {
        const char *keyword, *value, *format, *expected;
    } CASES[] = {
        {"StudyDate", "20260207", "%Y%y%m%d", "2026260207"},
        {"StudyDate", "20260207", "%j", "038"},
        {"StudyDate", "20241231", "%j", "366"},
        {"StudyDate", "2024.02.29", "%Y-%m-%d", "2024-02-29"},
        {"StudyDate", "20260207 ", "%d", "07"},
        {"StudyDate", "20260207", "%%%d%%", "%07%"},
        {"StudyDate", "20260207\\20250101", "%Y", "2026"},
        {"StudyDate", "20230229", "%Y", "unknown"},
        {"StudyDate", "20261301", "%Y", "unknown"},
        {"StudyDate", "20260001", "%Y", "unknown"},
        {"StudyDate", "20260100", "%Y", "unknown"},
        {"StudyDate", "20260132", "%Y", "unknown"},
        {"StudyDate", "00000000", "%Y", "unknown"},
        {"StudyDate", "202602", "%Y", "unknown"},
        {"StudyDate", "2026020", "%Y", "unknown"},
        {"StudyDate", "202602071", "%Y", "unknown"},
        {"StudyDate", "2026.0207", "%Y", "unknown"},
        {"StudyDate", "2026-02-07", "%Y", "unknown"},
        {"StudyDate", "20260101-20260201", "%Y", "unknown"},
        {"StudyDate", "x", "%Y", "unknown"},
        {"StudyDate", "", "%Y", "unknown"},
        {"StudyTime", "070809", "%H%M%S", "070809"},
        {"StudyTime", "070809.123456", "%S", "09"},
        {"StudyTime", "07:08:09", "%H-%M", "07-08"},
        {"StudyTime", "0708", "%H%M", "0708"},
        {"StudyTime", "07", "%H", "07"},
        {"StudyTime", "07", "%H%M", "unknown"},
        {"StudyTime", "24", "%H", "unknown"},
        {"StudyTime", "0760", "%H", "unknown"},
        {"StudyTime", "070861", "%H", "unknown"},
        {"StudyTime", "235960", "%S", "60"},
        {"StudyTime", "070809.", "%H", "unknown"},
        {"StudyTime", "070809.1234567", "%H", "unknown"},
        {"StudyTime", "0708.5", "%H", "unknown"},
        {"StudyTime", "7", "%H", "unknown"},
        {"AcquisitionDateTime", "20241231235960.5+0100", "%Y%m%d %H%M%S", "20241231 235960"},
        {"AcquisitionDateTime", "2024", "%Y", "2024"},
        {"AcquisitionDateTime", "2024-0500", "%Y", "2024"},
        {"AcquisitionDateTime", "2024", "%m", "unknown"},
        {"AcquisitionDateTime", "202402", "%Y%m", "202402"},
        {"AcquisitionDateTime", "202402", "%j", "unknown"},
        {"AcquisitionDateTime", "20240230", "%Y", "unknown"},
        {"AcquisitionDateTime", "20240229+010", "%Y", "unknown"},
        {"AcquisitionDateTime", "2024022912", "%H", "12"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        const struct attribute a[] = {{CASES[i].keyword, CASES[i].value}, {NULL, NULL}};
        char text[128];

        snprintf(text, sizeof(text), "{%s:%s}", CASES[i].keyword, CASES[i].format);
        char *result = expand(text, a, "");
        if (strcmp(result, CASES[i].expected) != 0)
            fail_msg("%s of '%s' gives '%s', not '%s'", text, CASES[i].value, result,
                     CASES[i].expected);
        free(result);
    }
}

static void test_path(void **state)
{
    (void)state;
    check("Trials/{path:1}", STUDY, "alpha/beta/x.dcm", "Trials/alpha");
    check("Trials/{path:2}", STUDY, "alpha/beta/x.dcm", "Trials/beta");
    check("Trials/{path:3}", STUDY, "alpha/beta/x.dcm", "Trials");
    check("Trials/{path:3|none}", STUDY, "alpha/beta/x.dcm", "Trials/none");
    check("Trials/{path:1}", STUDY, "x.dcm", "Trials");
    check("/s/{path}", STUDY, "alpha/beta/x.dcm", "/s/alpha/beta");
    check("/s/a{path}b/c", STUDY, "alpha/beta/x.dcm", "/s/aalpha/betab/c");
    check("/s/{path}", STUDY, "x.dcm", "/s");
    check("{filename}", STUDY, "alpha/x.dcm", "x.dcm");
    check("{filename}", STUDY, "x.dcm", "x.dcm");
    check("{path}/{filename}", STUDY, "../../etc/passwd", "etc/passwd");
    check("{path:1}/{path:2}", STUDY, "a\xff/b\x01/x", "a_/b_");
    check("a/{path:1}", STUDY, "../x", "a");
}

static void test_cleaning(void **state)
{
    static const struct {
        const char *value, *expected;
    } CASES[] = {
        {"a/b", "a_b"},
        {"a:*?\"<>|b", "a_______b"},
        {"..", "unknown"},
        {".", "unknown"},
        {" . . ", "unknown"},
        {"...a...", "a"},
        {"  a b  ", "a b"},
        {"\xC2\xA0x\xE3\x80\x80", "x"},
        {"a\nb\tc\x7f", "a_b_c_"},
        {"a\xC2\x85z", "a_z"},
        {"a\xE2\x80\xAEz", "a_z"}, /* right-to-left override */
        {"a\xEF\xBB\xBFz", "a_z"},
        {"\xC3\xA4\xE5\xB1\xB1\xF0\x9F\x98\x80", "\xC3\xA4\xE5\xB1\xB1\xF0\x9F\x98\x80"},
        {"a\xFFz", "a_z"},
        {"a\xE5\xB1", "a__"},
        {"\xED\xA0\x80", "___"}, /* a surrogate */
        {"a^b", "a^b"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        const struct attribute a[] = {{"SeriesDescription", CASES[i].value}, {NULL, NULL}};
        check("{SeriesDescription}", a, "", CASES[i].expected);
    }
    /* Literal components stay as they are; with a value in them they do not. */
    check("/srv/.hidden/a: b ", STUDY, "", "/srv/.hidden/a: b ");
    check(".{Modality}.", STUDY, "", "CT");
    check("..{path:1}/x", STUDY, "f", "x");
}

static void test_length(void **state)
{
    char value[301], *result;

    (void)state;
    memset(value, 'a', 300);
    value[300] = '\0';
    const struct attribute a[] = {{"SeriesDescription", value}, {NULL, NULL}};
    result = expand("x/{SeriesDescription}/y", a, "");
    assert_int_equal(strlen(result), 2 + 100 + 2);
    free(result);
    for (size_t i = 0; i < 300; i += 3)
        memcpy(value + i, "\xE5\xB1\xB1", 3);
    result = expand("{SeriesDescription}", a, "");
    assert_int_equal(strlen(result), 99);
    assert_true(text_utf8_valid(result, 99));
    free(result);
    memset(value, 'a', 300);
    value[99] = ' '; /* the cut leaves no blank at the end */
    result = expand("{SeriesDescription}", a, "");
    assert_int_equal(strlen(result), 99);
    free(result);
}

static void test_faults(void **state)
{
    static const struct {
        const char *text;
        size_t offset;
        const char *message;
    } CASES[] = {
        {"", 0, "names no folder"},
        {"//", 0, "names no folder"},
        {"a/{Modalty}", 3, "'Modalty' is no attribute; did you mean 'Modality'?"},
        {"a/{Xqzzy}", 3, "'Xqzzy' is no attribute (a keyword"},
        {"a/{", 2, "no '}' for this '{'"},
        {"a/{Modality", 2, "no '}' for this '{'"},
        {"a}b", 1, "no '{' for this '}'"},
        {"a/{}", 2, "expected an attribute"},
        {"a/{|x}", 2, "expected an attribute"},
        {"{Mod{ality}", 4, "a '{' within"},
        {"{ Modality}", 1, "a blank"},
        {"{Modality }", 9, "a blank"},
        {"{StudyDate:%Q}", 11, "%Q is not possible here; a DA has %Y %y %m %d %j"},
        {"{StudyDate:%Y%H}", 13, "%H is not possible here; a DA has"},
        {"{StudyTime:x%Y}", 12, "%Y is not possible here; a TM has %H %M %S"},
        {"{StudyDate:%Y/%m}", 13, "a format holds no '/': write {StudyDate:%Y}/{StudyDate:%m}"},
        {"{StudyDate:%Y%}", 13, "a lone '%'"},
        {"{StudyDate:}", 11, "the format after ':' is empty"},
        {"{Modality:%Y}", 10, "Modality is not a date or time"},
        {"{Modality|a/b}", 11, "a default holds no '/'"},
        {"{PixelData}", 1, "PixelData has no text"},
        {"{ReferencedStudySequence}", 1, "ReferencedStudySequence has no text"},
        {"{path:0}", 6, "expected the number of a folder"},
        {"{path:65}", 6, "expected the number of a folder"},
        {"{path:x}", 6, "expected the number of a folder"},
        {"{path:}", 6, "expected the number of a folder"},
        {"{path:99999999999999999999}", 6, "expected the number of a folder"},
        {"{Path:1}", 1, "did you mean 'path'"},
        {"{filename:1}", 10, "filename takes no ':'"},
        {"{FileName}", 1, "did you mean 'filename'"},
        {"a/../b", 2, "'.' and '..' are no folder names"},
        {"./b", 0, "'.' and '..' are no folder names"},
        {"a/..", 2, "'.' and '..' are no folder names"},
        {"a\nb", 1, "a control character"},
        {"a\xFF", 0, "not UTF-8"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct template *t = NULL;
        struct err e = {0};
        size_t offset = 12345;

        assert_int_equal(template_parse(&t, CASES[i].text, &offset, &e), ERR_INVALID);
        assert_null(t);
        if (strstr(e.text, CASES[i].message) == NULL || offset != CASES[i].offset)
            fail_msg("%s: '%s' at %zu", CASES[i].text, e.text, offset);
    }
    char long_name[300];
    memset(long_name, 'a', sizeof(long_name));
    long_name[299] = '\0';
    struct template *t = NULL;
    assert_int_equal(template_parse(&t, long_name, NULL, NULL), ERR_INVALID);
    char many[129 * 11 + 1] = "";
    for (size_t i = 0; i < 129; i++)
        memcpy(many + i * 11, "{Modality}-", 12);
    assert_int_equal(template_parse(&t, many, NULL, NULL), ERR_INVALID);
}

static void count_tag(uint32_t tag, void *ctx)
{
    uint32_t *sum = ctx;

    *sum += tag;
}

static void test_questions(void **state)
{
    static const struct {
        const char *text, *prefix;
        bool path;
    } CASES[] = {
        {"/srv/sent/{StudyDate}", "/srv/sent", false},
        {"/srv/sent/x{path}", "/srv/sent", true},
        {"/srv/sent", "/srv/sent", false},
        {"/srv/sent/", "/srv/sent", false},
        {"/{Modality}", "/", false},
        {"{filename}", "", true},
        {"/srv/{{/{Modality}", "/srv", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct template *t = NULL;

        assert_int_equal(template_parse(&t, CASES[i].text, NULL, NULL), 0);
        char *prefix = template_literal_prefix(t);
        assert_string_equal(prefix, CASES[i].prefix);
        assert_int_equal(template_uses_path(t), CASES[i].path);
        free(prefix);
        template_free(t);
    }
    struct template *t = NULL;
    uint32_t sum = 0;
    assert_int_equal(template_parse(&t, "{Modality}{path}{PatientID}", NULL, NULL), 0);
    template_each_tag(t, count_tag, &sum);
    assert_int_equal(sum, 0x00080060u + 0x00100020u);
    template_free(t);
    template_free(NULL);
}

/* What template.h promises of every component, for any value and path. */
static void check_safe(const char *result)
{
    const char *p = result;

    assert_true(text_utf8_valid(result, strlen(result)));
    if (*p == '\0')
        return;
    for (;;) {
        size_t n = strcspn(p, "/");
        assert_in_range(n, 1, 255);
        assert_false(n == 1 && p[0] == '.');
        assert_false(n == 2 && p[0] == '.' && p[1] == '.');
        assert_true(p[0] != '.' && p[0] != ' ' && p[n - 1] != '.' && p[n - 1] != ' ');
        for (size_t i = 0; i < n; i++)
            assert_true((unsigned char)p[i] >= 0x20 && strchr("\\:*?\"<>|\x7f", p[i]) == NULL);
        if (p[n] == '\0')
            return;
        p += n + 1;
    }
}

static void test_any_value_is_safe(void **state)
{
    static const char ALPHABET[] = "a./\\ ^:*\n\x7f\xC3\xA4\xE3\x80\xFF%{}=\x01~";
    static const char *const TEMPLATES[] = {
        "A/{PatientName}/{PatientID}{Modality}/{path}",
        "{path:1}{path:2}/{filename}",
        "{PatientName|}-{StudyDate:%Y}/x{path}y",
        "{PatientID}",
        "{StudyComments| . }",
    };
    uint32_t seed = 20260207;

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        char values[5][160];

        for (size_t v = 0; v < 5; v++) {
            seed = seed * 1664525u + 1013904223u;
            size_t n = (seed >> 8) % (round % 10 == 0 ? 159 : 8);
            for (size_t i = 0; i < n; i++) {
                seed = seed * 1664525u + 1013904223u;
                values[v][i] = ALPHABET[(seed >> 16) % (sizeof(ALPHABET) - 1)];
            }
            values[v][n] = '\0';
        }
        const struct attribute a[] = {{"PatientName", values[0]},   {"PatientID", values[1]},
                                      {"Modality", values[2]},      {"StudyDate", values[3]},
                                      {"StudyComments", values[3]}, {NULL, NULL}};
        char *result =
            expand(TEMPLATES[round % (sizeof(TEMPLATES) / sizeof(TEMPLATES[0]))], a, values[4]);
        check_safe(result);
        free(result);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_path),
        cmocka_unit_test(test_cleaning),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_any_value_is_safe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
