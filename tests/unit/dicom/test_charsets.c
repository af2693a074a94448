/* Every character set of PS3.3 C.12.1.1.2, read by the real worker in its sandbox. */
#include "make.h"
#include "read.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct {
    const char *charset; /* Specific Character Set; NULL: absent */
    const char *vr;
    const char *in;
    const char *out;
} cases[] = {
    /* single-byte sets without code extensions */
    {NULL, "PN", "Adams^John", "Adams^John"},
    {"", "PN", "Adams^John", "Adams^John"},
    {"ISO_IR 6", "PN", "Adams^John", "Adams^John"},
    {"ISO_IR 100", "PN", "Buc^J\xe9r\xf4me", "Buc^Jérôme"},
    {"ISO_IR 101", "PN", "Wa\xb3\xeasa", "Wałęsa"},
    {"ISO_IR 109", "PN", "\xc6u \xf8i", "Ĉu ĝi"},
    {"ISO_IR 110", "PN",
     "\xc0"
     "boli\xf1\xb9",
     "Āboliņš"},
    {"ISO_IR 144", "PN",
     "\xbb\xee\xda"
     "ce\xdc\xd1yp\xd3",
     "Люкceмбypг"},
    {"ISO_IR 127", "PN", "\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"},
    {"ISO_IR 126", "PN", "\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"},
    {"ISO_IR 138", "PN", "\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"},
    {"ISO_IR 148", "PN",
     "\xc7"
     "avu\xfeo\xf0lu",
     "Çavuşoğlu"},
    {"ISO_IR 203", "LO", "\xbcuvre \xa4", "Œuvre €"},
    {"ISO_IR 166", "PN", "\xb9\xd2\xc1\xca\xa1\xd8\xc5", "นามสกุล"},
    {"ISO_IR 13", "PN", "\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"},
    /* whole encodings */
    {"ISO_IR 192", "PN", "Wang^XiaoDong=王^小東", "Wang^XiaoDong=王^小東"},
    {"GB18030", "PN", "Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"},
    {"GB18030", "LO", "\x95\x32\x82\x36", "\xf0\xa0\x80\x80"}, /* four bytes: U+20000 */
    {"GBK", "PN", "Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"},
    {"GBK", "LO", "\x81\x5c\x81\x7c", "乗亅"}, /* a second byte that looks like a backslash */
    /* the same sets with code extensions, chosen by escape sequence */
    {"ISO 2022 IR 6\\ISO 2022 IR 100", "PN", "Buc^\x1b-AJ\xe9r\xf4me", "Buc^Jérôme"},
    {"ISO 2022 IR 6\\ISO 2022 IR 101", "PN", "\x1b-BWa\xb3\xeasa", "Wałęsa"},
    {"ISO 2022 IR 6\\ISO 2022 IR 109", "PN", "\x1b-C\xc6u", "Ĉu"},
    {"ISO 2022 IR 6\\ISO 2022 IR 110", "PN", "\x1b-D\xc0", "Ā"},
    {"ISO 2022 IR 6\\ISO 2022 IR 144", "PN", "\x1b-L\xbb\xee\xda", "Люк"},
    {"ISO 2022 IR 6\\ISO 2022 IR 127", "PN", "\x1b-G\xe2\xc8", "قب"},
    {"ISO 2022 IR 6\\ISO 2022 IR 126", "PN", "\x1b-F\xc4\xe9", "Δι"},
    {"ISO 2022 IR 6\\ISO 2022 IR 138", "PN", "\x1b-H\xf9\xf8", "שר"},
    {"ISO 2022 IR 6\\ISO 2022 IR 148", "PN", "\x1b-M\xfe", "ş"},
    {"ISO 2022 IR 6\\ISO 2022 IR 203", "PN", "\x1b-b\xa4", "€"},
    {"ISO 2022 IR 6\\ISO 2022 IR 166", "PN", "\x1b-T\xb9\xd2", "นา"},
    {"ISO 2022 IR 6\\ISO 2022 IR 13", "PN", "\x1b)I\xd4\xcf", "ﾔﾏ"},
    {"ISO 2022 IR 100\\ISO 2022 IR 144", "PN", "\xe9^\x1b-L\xbb\xee^\xe9", "é^Лю^é"},
    /* PS3.5 annexes H, I, K */
    {"\\ISO 2022 IR 87", "PN",
     "Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
     "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    {"ISO 2022 IR 13\\ISO 2022 IR 87", "PN",
     "\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$"
     "m$&\x1b(J",
     "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"},
    {"\\ISO 2022 IR 159", "LO", "\x1b$(D0!\x1b(B", "丂"},
    {"\\ISO 2022 IR 87\\ISO 2022 IR 159", "LO", "\x1b$B;3\x1b$(D0!\x1b(B x", "山丂 x"},
    {"\\ISO 2022 IR 149", "PN",
     "Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
     "Hong^Gildong=洪^吉洞=홍^길동"},
    {"\\ISO 2022 IR 149", "LT", "\x1b$)C\xb1\xe6 a\r\n\x1b$)C\xb1\xe6", "길 a\r\n길"},
    {"\\ISO 2022 IR 58", "PN",
     "Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东="},
    /* several values */
    {"ISO_IR 100", "LO", "\xe9\\\xe8 \\", "é\\è \\"},
    {"\\ISO 2022 IR 87", "LO", "\x1b$B;3ED\x1b(B\\x", "山田\\x"},
    /* what is wrong in files and yet readable */
    {"ISO_IR_100", "PN", "J\xe9r", "Jér"},
    {"ISO-IR 100", "PN", "J\xe9r", "Jér"},
    {"ISO 2022 IR 100", "PN", "J\xe9r", "Jér"},
    {"iso_ir 192", "PN", "Jér", "Jér"},
    {"UTF-8", "PN", "Jér", "Jér"},
    {"", "PN", "J\xe9r", "Jér"},          /* undeclared Latin-1 */
    {"", "PN", "Jér", "Jér"},             /* undeclared UTF-8 */
    {"KLINGON 1", "PN", "J\xe9r", "Jér"}, /* unknown */
    {"KLINGON 1", "PN", "Jér", "Jér"},
    {"ISO 2022 IR 149", "PN", "\xb1\xe6", "길"},         /* alone and without escape */
    {"\\ISO 2022 IR 149", "PN", "x^\xb1\xe6", "x^길"},   /* without escape */
    {"ISO 2022 IR 6", "PN", "\x1b$B;3ED\x1b(B", "山田"}, /* undeclared, announced */
    {"ISO 2022 IR 100\\KLINGON", "PN", "\xe9", "é"},
    /* what is no character */
    {"ISO_IR 192", "PN",
     "a\xff"
     "b\xe7\x8e",
     "a\xef\xbf\xbd"
     "b\xef\xbf\xbd\xef\xbf\xbd"},
    {"ISO_IR 127", "PN", "\xff", "\xef\xbf\xbd"},
    {"GB18030", "LO",
     "\xff"
     "a",
     "\xef\xbf\xbd"
     "a"},
    {"\\ISO 2022 IR 87", "LO", "\x1b$B;", "\xef\xbf\xbd"},
    {"\\ISO 2022 IR 87", "LO", "a\x1b", "a"},
    {"\\ISO 2022 IR 87", "LO", "a\x1b$", "a$"},
    {"\\ISO 2022 IR 149", "LO", "\x1b$)C\xb1", "\xef\xbf\xbd"},
    {"\\ISO 2022 IR 149", "LO", "\x1b$)C\xc9\xfe",
     "\xef\xbf\xbd"}, /* two bytes that KS X 1001 does not define */
};

static void test_sets(void **state)
{
    (void)state;
    static const char *const syntaxes[] = {MAKE_EXPLICIT, MAKE_IMPLICIT, MAKE_BIG_ENDIAN};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const uint32_t tag = strcmp(cases[i].vr, "PN") == 0   ? 0x00100010
                             : strcmp(cases[i].vr, "LT") == 0 ? 0x001021b0
                                                              : 0x00081030;
        struct make m = make_begin(syntaxes[i % 3]);
        make_meta(&m, syntaxes[i % 3]);
        if (cases[i].charset != NULL) {
            make_text(&m, 0x00080005, "CS", cases[i].charset);
        }
        make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
        make_text(&m, tag, cases[i].vr, cases[i].in);
        const char *value = read_value(&m.bytes, tag);
        if (value == NULL || strcmp(value, cases[i].out) != 0) {
            fail_msg("case %zu, %s: got \"%s\", not \"%s\"", i, cases[i].charset, value,
                     cases[i].out);
        }
        make_free(&m);
    }
}

/* Cut at a character, whatever the bytes. */
static void test_long(void **state)
{
    (void)state;
    char in[4000];
    for (size_t i = 0; i < sizeof(in); i += 2) {
        memcpy(in + i, "\xb1\xe6", 2);
    }
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_text(&m, 0x00080005, "CS", "ISO 2022 IR 149");
    make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
    make_bytes(&m, 0x001021b0, "LT", in, sizeof(in));
    const char *value = read_value(&m.bytes, 0x001021b0);
    assert_non_null(value);
    assert_int_equal(strlen(value), DICOM_MAX_VALUE / 3 * 3);
    for (size_t i = 0; i < strlen(value); i += 3) {
        assert_memory_equal(value + i, "길", 3);
    }
    make_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, read_setup, read_teardown);
}
