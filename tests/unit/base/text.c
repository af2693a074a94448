#include "base/text.h"

#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Unicode table 3-7, from the definition instead of the ranges of bytes: decode, then ask what was
 * decoded. */
static bool is_utf8_character(const unsigned char *s, size_t n)
{
    uint32_t value;
    if (n == 1)
        return s[0] < 0x80;
    if (n == 2 && (s[0] & 0xE0) == 0xC0)
        value = s[0] & 0x1Fu;
    else if (n == 3 && (s[0] & 0xF0) == 0xE0)
        value = s[0] & 0x0Fu;
    else if (n == 4 && (s[0] & 0xF8) == 0xF0)
        value = s[0] & 0x07u;
    else
        return false;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return false;
        value = value << 6 | (s[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return value >= least[n] && value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF);
}

/* All sequences of 1, 2 and 3 bytes, and those of 4 whose last byte is at an edge. */
static void test_utf8(void **state)
{
    (void)state;
    unsigned char s[4];
    assert_true(text_utf8_valid("", 0));
    for (unsigned a = 0; a < 256; a++) {
        s[0] = (unsigned char)a;
        bool one = is_utf8_character(s, 1);
        assert_int_equal(text_utf8_valid((char *)s, 1), one);
        for (unsigned b = 0; b < 256; b++) {
            s[1] = (unsigned char)b;
            bool two = is_utf8_character(s, 2) || (one && b < 0x80);
            if (text_utf8_valid((char *)s, 2) != two)
                fail_msg("%02x %02x", a, b);
            for (unsigned c = 0; c < 256; c++) {
                s[2] = (unsigned char)c;
                bool three = is_utf8_character(s, 3) || (two && c < 0x80) ||
                             (one && is_utf8_character(s + 1, 2));
                if (text_utf8_valid((char *)s, 3) != three)
                    fail_msg("%02x %02x %02x", a, b, c);
                if (a < 0xE0)
                    continue;
                static const unsigned char edges[] = {0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xFF};
                for (size_t i = 0; i < sizeof(edges); i++) {
                    s[3] = edges[i];
                    bool four = is_utf8_character(s, 4) || (three && s[3] < 0x80);
                    if (text_utf8_valid((char *)s, 4) != four)
                        fail_msg("%02x %02x %02x %02x", a, b, c, s[3]);
                }
            }
        }
    }
}

static void test_copy(void **state)
{
    (void)state;
    char out[32];
    static const char text[] = "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80z";
    static const size_t ends[] = {0, 1, 3, 6, 10, 11}; /* where a character ends */
    for (size_t size = 1; size <= sizeof(text) + 2; size++) {
        memset(out, '#', sizeof(out));
        bool fits = text_copy(out, size, text);
        assert_int_equal(fits, size >= sizeof(text));
        size_t want = 0;
        for (size_t i = 0; i < 6; i++)
            if (ends[i] < size)
                want = ends[i];
        assert_int_equal(strlen(out), want);
        assert_memory_equal(out, text, want);
        assert_int_equal(out[size], '#');
    }
    out[0] = '#';
    assert_false(text_copy(out, 0, "x"));
    assert_int_equal(out[0], '#');
    assert_false(text_copy(out, 4, "\xFF\xFF\xFF\xFF\xFF")); /* not UTF-8: cut where it must be */
    assert_int_equal(strlen(out), 3);
}

static void test_closest(void **state)
{
    (void)state;
    static const char *const words[] = {"destinations", "routes", "watch", "state", "to", "settle"};
#define CLOSEST(word) text_closest(word, words, sizeof(words) / sizeof(words[0]))
    assert_string_equal(CLOSEST("destination"), "destinations");
    assert_string_equal(CLOSEST("DESTINATIONS"), "destinations");
    assert_string_equal(CLOSEST("wacth"), "watch"); /* a swap is one mistake */
    assert_string_equal(CLOSEST("rotues"), "routes");
    assert_string_equal(CLOSEST("stat"), "state");
    assert_string_equal(CLOSEST("setle"), "settle");
    assert_string_equal(CLOSEST("to"), "to");
    assert_null(CLOSEST("xo"));
    assert_null(CLOSEST("priority"));
    assert_null(CLOSEST(""));
    assert_null(text_closest("x", words, 0));
    char longest[200];
    memset(longest, 'a', sizeof(longest));
    longest[199] = '\0';
    assert_null(CLOSEST(longest));
    const char *long_word[] = {longest};
    assert_null(text_closest("aaaa", long_word, 1));
    longest[64] = '\0';
    assert_ptr_equal(text_closest(longest, long_word, 1), longest);
}

static void test_glob(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path;
        bool match;
    } cases[] = {
        {"*.tmp", "a.tmp", true},
        {"*.tmp", "b/c/a.tmp", true}, /* without a slash: the last component */
        {"*.tmp", "a.tmp/b", false},
        {"*", ".hidden", true}, /* FNM_PERIOD is off */
        {"DICOMDIR", "x/DICOMDIR", true},
        {"DICOMDIR", "x/dicomdir", false},
        {"[ab]?", "x/bz", true},
        {"[!ab]?", "x/bz", false},
        {"\\*", "*", true},
        {"\\*", "x", false},
        {"trials/*", "trials/a", true},
        {"trials/*", "trials/a/b", false},
        {"trials/*", "x/trials/a", false},
        {"/trials/*", "trials/a", true},
        {"trials/", "trials", true},
        {"trials//a", "trials/a", true},
        {"trials/**", "trials", true}, /* none included */
        {"trials/**", "trials/a", true},
        {"trials/**", "trials/a/b/c", true},
        {"trials/**", "trial/a", false},
        {"**/a", "a", true},
        {"**/a", "x/y/a", true},
        {"**/a", "x/y/ab", false},
        {"**", "anything/at/all", true},
        {"a/**/z", "a/z", true},
        {"a/**/z", "a/b/c/z", true},
        {"a/**/z", "a/b/c/y", false},
        {"a/**/m/**/z", "a/1/m/2/m/3/z", true},
        {"a/**/m/**/z", "a/1/2/3/z", false},
        {"**/b/c", "b/b/c", true},
        {"**/b/c", "b/c/b", false},
        {"**/**", "x", true},
        {"a**", "ab/c", false}, /* no component of its own: as `*` */
        {"x/a**", "x/abc", true},
        {"a/b", "a", false},
        {"a", "a", true},
        {"", "", true},
        {"a/*", "a", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (text_glob(cases[i].pattern, cases[i].path, false) != cases[i].match)
            fail_msg("%s on %s", cases[i].pattern, cases[i].path);
    assert_true(text_glob("*.DCM", "a/b.dcm", true));
    assert_true(text_glob("A/*.DCM", "a/b.dcm", true));
    assert_false(text_glob("A/*.DCM", "a/b.dcm", false));
    /* Many `**` cost no more than a few. */
    char deep[2000] = "";
    for (int i = 0; i < 900; i++)
        strcat(deep, "a/");
    assert_false(text_glob("**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/b", deep, false));
    char *giant = malloc(20000);
    assert_non_null(giant);
    memset(giant, 'a', 19999);
    giant[19999] = '\0';
    memcpy(giant, "a/", 2);
    assert_false(text_glob("a/b", giant, false));
    assert_false(text_glob(giant, "a/b", false));
    free(giant);
}

static void expect_duration(const char *text, int status, uint64_t want)
{
    uint64_t ms = 99;
    if (text_parse_duration(text, &ms) != status || (status == 0 && ms != want))
        fail_msg("%s gave %llu", text, (unsigned long long)ms);
}

static void test_duration(void **state)
{
    (void)state;
    expect_duration("0", 0, 0);
    expect_duration("500ms", 0, 500);
    expect_duration("2s", 0, 2000);
    expect_duration("5m", 0, 300000);
    expect_duration("5min", 0, 300000);
    expect_duration("1h", 0, 3600000);
    expect_duration("90d", 0, UINT64_C(7776000000));
    expect_duration("2w", 0, 1209600000);
    expect_duration("007s", 0, 7000);
    expect_duration("18446744073709551615ms", 0, UINT64_MAX);
    static const char *const wrong[] = {"",
                                        "5",
                                        "s",
                                        "-1s",
                                        "+1s",
                                        " 1s",
                                        "1 s",
                                        "1.5h",
                                        "1x",
                                        "1ss",
                                        "1s ",
                                        "0x1s",
                                        "18446744073709551616ms",
                                        "18446744073709551615s"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_duration(wrong[i], ERR_INVALID, 0);
}

static void expect_size(const char *text, int status, uint64_t want)
{
    uint64_t bytes = 99;
    if (text_parse_size(text, &bytes) != status || (status == 0 && bytes != want))
        fail_msg("%s gave %llu", text, (unsigned long long)bytes);
}

static void test_size(void **state)
{
    (void)state;
    expect_size("4096", 0, 4096);
    expect_size("0", 0, 0);
    expect_size("7B", 0, 7);
    expect_size("3kB", 0, 3000);
    expect_size("3KB", 0, 3000);
    expect_size("20MB", 0, 20000000);
    expect_size("20MB/s", 0, 20000000);
    expect_size("20/s", 0, 20);
    expect_size("1GB", 0, 1000000000);
    expect_size("2TB", 0, UINT64_C(2000000000000));
    expect_size("512KiB", 0, 524288);
    expect_size("3MiB", 0, 3145728);
    expect_size("4GiB", 0, UINT64_C(4294967296));
    expect_size("1TiB", 0, UINT64_C(1099511627776));
    static const char *const wrong[] = {"",
                                        "/s",
                                        "MB",
                                        "-1",
                                        "1.5GB",
                                        "1 MB",
                                        "1M",
                                        "1MBs",
                                        "1Mbit",
                                        "20000000000000TB",
                                        "18446744073709551616",
                                        "00000000000000000000000000000000000000000000000001"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_size(wrong[i], ERR_INVALID, 0);
}

static void test_format_size(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {312, "312 B"},
                 {999, "999 B"},
                 {1000, "1 kB"},
                 {1234, "1.23 kB"},
                 {999499, "999 kB"},
                 {999500, "1 MB"},
                 {1500000, "1.5 MB"},
                 {12345678, "12.3 MB"},
                 {4294967296, "4.29 GB"},
                 {UINT64_MAX, "18.4 EB"}};
    char out[16];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_format_size(cases[i].bytes, out);
        assert_string_equal(out, cases[i].text);
    }
    for (uint64_t v = 1; v < UINT64_MAX / 3; v = v * 3 + 1) {
        text_format_size(v, out); /* always fits, never in the e+ notation */
        assert_true(strlen(out) <= 7);
        assert_null(strchr(out, 'e'));
    }
}

static void test_hex(void **state)
{
    (void)state;
    uint8_t all[256];
    char out[513];
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    text_hex(all, 256, out);
    assert_int_equal(strlen(out), 512);
    for (int i = 0; i < 256; i++) {
        char two[3];
        snprintf(two, sizeof(two), "%02x", i);
        assert_memory_equal(out + 2 * i, two, 2);
    }
    text_hex(all, 0, out);
    assert_string_equal(out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_closest),     cmocka_unit_test(test_glob),
        cmocka_unit_test(test_duration),    cmocka_unit_test(test_size),
        cmocka_unit_test(test_format_size), cmocka_unit_test(test_hex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
