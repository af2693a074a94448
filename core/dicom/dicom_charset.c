#include "dicom/dicom_charset.h"

#include "base/err.h"
#include "base/text.h"

#include <ctype.h>
#include <iconv.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define ESC         0x1b

/* Sets that a code element (G0 for bytes below 0x80, G1 above) can hold. The numbers of the
 * single-byte ones are their index in single_sets. */
enum charset {
    SET_LATIN1,
    SET_LATIN2,
    SET_LATIN3,
    SET_LATIN4,
    SET_CYRILLIC,
    SET_ARABIC,
    SET_GREEK,
    SET_HEBREW,
    SET_LATIN5,
    SET_LATIN9,
    SET_THAI,
    SET_KATAKANA,
    N_SINGLE_SETS,
    SET_ASCII = N_SINGLE_SETS,
    SET_JISX0208,
    SET_JISX0212,
    SET_KSX1001,
    SET_GB2312,
    /* whole encodings, without code extensions */
    SET_UTF8,
    SET_GB18030,
    SET_GBK,
    SET_UNKNOWN,
};

/* The upper halves of single-byte sets: the defined terms' registration numbers (ISO_IR 100, ISO
 * 2022 IR 100), the final byte of ESC 2/13 F (PS3.3 table C.12-3), glibc's name. */
static const struct {
    unsigned ir;
    char final;
    const char *name;
} single_sets[N_SINGLE_SETS] = {
    [SET_LATIN1] = {100, 'A', "ISO-8859-1"},   [SET_LATIN2] = {101, 'B', "ISO-8859-2"},
    [SET_LATIN3] = {109, 'C', "ISO-8859-3"},   [SET_LATIN4] = {110, 'D', "ISO-8859-4"},
    [SET_CYRILLIC] = {144, 'L', "ISO-8859-5"}, [SET_ARABIC] = {127, 'G', "ISO-8859-6"},
    [SET_GREEK] = {126, 'F', "ISO-8859-7"},    [SET_HEBREW] = {138, 'H', "ISO-8859-8"},
    [SET_LATIN5] = {148, 'M', "ISO-8859-9"},   [SET_LATIN9] = {203, 'b', "ISO-8859-15"},
    [SET_THAI] = {166, 'T', "TIS-620"},        [SET_KATAKANA] = {13, 0, "SHIFT_JIS"},
};

static char single_utf8[N_SINGLE_SETS][128][4]; /* "" where the set has no character */
static iconv_t eucjp = (iconv_t)-1, euckr = (iconv_t)-1, euccn = (iconv_t)-1;
static iconv_t gb18030 = (iconv_t)-1, gbk = (iconv_t)-1;
static bool initialised;

/* Converts one character of `in`; returns the length of its UTF-8, 0 if it is none. */
static size_t convert_one(iconv_t cd, const char *in, size_t n, char *out, size_t size)
{
    char *from = (char *)(uintptr_t)in;
    char *to = out;
    size_t left = size;
    if (cd == (iconv_t)-1) {
        return 0;
    }
    iconv(cd, NULL, NULL, NULL, NULL);
    if (iconv(cd, &from, &n, &to, &left) == (size_t)-1) {
        return 0;
    }
    iconv(cd, NULL, NULL, &to, &left);
    return size - left;
}

static iconv_t open_converter(const char *name, bool *ok)
{
    const iconv_t cd = iconv_open("UTF-8", name);
    *ok = *ok && cd != (iconv_t)-1;
    return cd;
}

int dicom_charset_init(void)
{
    bool ok = true;
    if (initialised) {
        return 0;
    }
    initialised = true;
    for (unsigned set = 0; set < N_SINGLE_SETS; set++) {
        const iconv_t cd = open_converter(single_sets[set].name, &ok);
        for (unsigned i = 0; i < 128 && cd != (iconv_t)-1; i++) {
            const char c = (char)(0x80 + i);
            const size_t n =
                convert_one(cd, &c, 1, single_utf8[set][i], sizeof(single_utf8[set][i]) - 1);
            single_utf8[set][i][n] = '\0';
        }
        if (cd != (iconv_t)-1) {
            iconv_close(cd);
        }
    }
    eucjp = open_converter("EUC-JP", &ok);
    euckr = open_converter("EUC-KR", &ok);
    euccn = open_converter("GB2312", &ok);
    gb18030 = open_converter("GB18030", &ok);
    gbk = open_converter("GBK", &ok);
    return ok ? 0 : ERR_UNSUPPORTED;
}

/* One defined term. Tolerant of the spellings found in files: "ISO_IR 100", "ISO-IR 100", "ISO 2022
 * IR 100", "ISO_2022_IR_100", "ISO IR100"; the number tells. */
static enum charset parse_term(const char *s, size_t n)
{
    char term[32];
    size_t length = 0;
    for (size_t i = 0; i < n && length + 1 < sizeof(term); i++) {
        if (isalnum((unsigned char)s[i])) {
            term[length++] = (char)toupper((unsigned char)s[i]);
        }
    }
    term[length] = '\0';
    if (length == 0) {
        return SET_ASCII;
    }
    if (strcmp(term, "GB18030") == 0) {
        return SET_GB18030;
    }
    if (strcmp(term, "GBK") == 0) {
        return SET_GBK;
    }
    if (strcmp(term, "UTF8") == 0) {
        return SET_UTF8;
    }
    const char *ir = strstr(term, "IR");
    if (strncmp(term, "ISO", 3) != 0 || ir == NULL) {
        return SET_UNKNOWN;
    }
    char *end;
    const unsigned long number = strtoul(ir + 2, &end, 10);
    if (*end != '\0' || end == ir + 2) {
        return SET_UNKNOWN;
    }
    switch (number) {
    case 6:
        return SET_ASCII;
    case 87:
        return SET_JISX0208;
    case 159:
        return SET_JISX0212;
    case 149:
        return SET_KSX1001;
    case 58:
        return SET_GB2312;
    case 192:
        return SET_UTF8;
    default:
        break;
    }
    for (unsigned set = 0; set < N_SINGLE_SETS; set++) {
        if (single_sets[set].ir == number) {
            return (enum charset)set;
        }
    }
    return SET_UNKNOWN;
}

struct output {
    char *data;
    size_t size; /* of data, with the NUL */
    size_t length;
    bool full;
};

/* Whole characters only. */
static void put(struct output *out, const char *utf8, size_t n)
{
    if (out->full || n > out->size - 1 - out->length) {
        out->full = true;
        return;
    }
    memcpy(out->data + out->length, utf8, n);
    out->length += n;
}

/* The bytes of one UTF-8 character at `s`, 0 if there is none. */
static size_t utf8_length(const char *s, size_t n)
{
    for (size_t length = 1; length <= 4 && length <= n; length++) {
        if (text_utf8_valid(s, length)) {
            return length;
        }
    }
    return 0;
}

static void convert_utf8(struct output *out, const char *in, size_t n)
{
    while (n > 0) {
        const size_t length = utf8_length(in, n);
        if (length == 0) {
            put(out, REPLACEMENT, 3);
        } else {
            put(out, in, length);
        }
        in += length == 0 ? 1 : length;
        n -= length == 0 ? 1 : length;
    }
}

/* GB18030 and GBK: one, two or four bytes a character. */
static void convert_gb(struct output *out, iconv_t cd, const char *in, size_t n)
{
    while (n > 0) {
        static const size_t lengths[] = {1, 2, 4};
        char utf8[8];
        size_t used = 0;
        for (size_t i = 0; i < 3 && used == 0; i++) {
            const size_t length = lengths[i];
            const size_t m = length <= n ? convert_one(cd, in, length, utf8, sizeof(utf8)) : 0;
            if (m > 0) {
                put(out, utf8, m);
                used = length;
            }
        }
        if (used == 0) {
            put(out, REPLACEMENT, 3);
            used = 1;
        }
        in += used;
        n -= used;
    }
}

struct iso2022 {
    enum charset g0, g1; /* now */
    enum charset initial_g1;
};

/* Reads an escape sequence at s[0] == ESC; returns its length (1 if it is unknown: the ESC alone is
 * dropped). Sets are switched to whether they were declared or not. */
static size_t escape(struct iso2022 *state, const char *s, size_t n)
{
    if (n >= 3 && s[1] == '(' && (s[2] == 'B' || s[2] == 'J')) {
        state->g0 =
            SET_ASCII; /* of JIS X 0201's two differing characters one is the value delimiter */
        return 3;
    }
    if (n >= 3 && s[1] == ')' && s[2] == 'I') {
        state->g1 = SET_KATAKANA;
        return 3;
    }
    if (n >= 3 && s[1] == '-') {
        for (unsigned set = 0; set < N_SINGLE_SETS; set++) {
            if (single_sets[set].final == s[2]) {
                state->g1 = (enum charset)set;
                return 3;
            }
        }
    }
    if (n >= 3 && s[1] == '$' && (s[2] == 'B' || s[2] == '@')) {
        state->g0 = SET_JISX0208;
        return 3;
    }
    if (n >= 4 && s[1] == '$' && s[2] == '(' && s[3] == 'D') {
        state->g0 = SET_JISX0212;
        return 4;
    }
    if (n >= 4 && s[1] == '$' && s[2] == ')' && (s[3] == 'C' || s[3] == 'A')) {
        state->g1 = s[3] == 'C' ? SET_KSX1001 : SET_GB2312;
        return 4;
    }
    return 1;
}

/* A character of two bytes of a 94x94 set, each in 0x21..0x7e once its high bit is off. */
static void put_double(struct output *out, enum charset set, const char *s)
{
    char euc[3] = {(char)0x8f, (char)(s[0] | 0x80), (char)(s[1] | 0x80)};
    char utf8[8];
    size_t n;
    switch (set) {
    case SET_JISX0208:
        n = convert_one(eucjp, euc + 1, 2, utf8, sizeof(utf8));
        break;
    case SET_JISX0212:
        n = convert_one(eucjp, euc, 3, utf8, sizeof(utf8));
        break;
    case SET_KSX1001:
        n = convert_one(euckr, euc + 1, 2, utf8, sizeof(utf8));
        break;
    default:
        n = convert_one(euccn, euc + 1, 2, utf8, sizeof(utf8));
        break;
    }
    if (n > 0) {
        put(out, utf8, n);
    } else {
        put(out, REPLACEMENT, 3);
    }
}

/* PS3.5 6.1.2.5.3: the sets of the first value hold again after these. */
static bool is_delimiter(char c, const char *vr)
{
    if (c == '\n' || c == '\r' || c == '\f' || c == '\t') {
        return true;
    }
    if (strcmp(vr, "PN") == 0) {
        return c == '\\' || c == '^' || c == '=';
    }
    return c == '\\' && strcmp(vr, "LT") != 0 && strcmp(vr, "ST") != 0 && strcmp(vr, "UT") != 0;
}

static void convert_iso2022(struct output *out, enum charset first, const char *vr, const char *in,
                            size_t n)
{
    struct iso2022 state = {.g0 = SET_ASCII, .g1 = first, .initial_g1 = first};
    while (n > 0) {
        const unsigned char c = (unsigned char)*in;
        const enum charset set = c < 0x80 ? state.g0 : state.g1;
        size_t used = 1;
        if (c == ESC) {
            used = escape(&state, in, n);
        } else if (c <= 0x20 || c == 0x7f) {
            if (is_delimiter(*in, vr)) {
                state.g0 = SET_ASCII;
                state.g1 = state.initial_g1;
            }
            put(out, in, 1);
        } else if (set >= SET_JISX0208 && set <= SET_GB2312) {
            const bool whole = n >= 2 && (in[1] & 0x7f) > 0x20 && (in[1] & 0x7f) < 0x7f &&
                               ((in[0] ^ in[1]) & 0x80) == 0;
            if (whole) {
                put_double(out, set, in);
                used = 2;
            } else {
                put(out, REPLACEMENT, 3);
            }
        } else if (c < 0x80) {
            if (is_delimiter(*in, vr)) {
                state.g1 = state.initial_g1;
            }
            put(out, in, 1);
        } else {
            /* No set for this half was declared: Latin-1 is what writers mean most. */
            const char *utf8 = single_utf8[set < N_SINGLE_SETS ? set : SET_LATIN1][c - 0x80];
            put(out, utf8[0] != '\0' ? utf8 : REPLACEMENT, utf8[0] != '\0' ? strlen(utf8) : 3);
        }
        in += used;
        n -= used;
    }
}

/* The set that the data begin with. The first value says; where it says ASCII and others follow,
 * bytes above 0x7f that no escape sequence announces are taken for the first set among them that
 * has such. */
static enum charset initial_set(const char *terms)
{
    for (;;) {
        const size_t length = strcspn(terms, "\\");
        const enum charset set = parse_term(terms, length);
        if (set != SET_ASCII || terms[length] == '\0') {
            return set;
        }
        terms += length + 1;
    }
}

size_t dicom_charset_convert(const char *specific, const char *vr, const char *in, size_t n,
                             char *out, size_t size)
{
    struct output output = {.data = out, .size = size};
    enum charset set = initial_set(specific != NULL ? specific : "");

    dicom_charset_init();
    n = strnlen(in, n);
    /* Not declared, but well-formed UTF-8 is nothing else by chance. */
    if ((set == SET_UNKNOWN || set == SET_ASCII) && text_utf8_valid(in, n) &&
        memchr(in, ESC, n) == NULL) {
        set = SET_UTF8;
    }
    switch (set) {
    case SET_UTF8:
        convert_utf8(&output, in, n);
        break;
    case SET_GB18030:
        convert_gb(&output, gb18030, in, n);
        break;
    case SET_GBK:
        convert_gb(&output, gbk, in, n);
        break;
    default:
        convert_iso2022(&output, set, vr, in, n);
        break;
    }
    out[output.length] = '\0';
    return output.length;
}
