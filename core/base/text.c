#include "base/text.h"

#include "base/err.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Length of the well-formed character at s (Unicode table 3-7), 0 if there is none. */
static size_t utf8_character(const unsigned char *s, size_t n)
{
    if (n == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    unsigned char low = 0x80, high = 0xBF;
    size_t length;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        length = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        length = 3;
        if (s[0] == 0xE0)
            low = 0xA0;
        else if (s[0] == 0xED)
            high = 0x9F;
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        length = 4;
        if (s[0] == 0xF0)
            low = 0x90;
        else if (s[0] == 0xF4)
            high = 0x8F;
    } else
        return 0;
    if (length > n || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (s[i] < 0x80 || s[i] > 0xBF)
            return 0;
    return length;
}

bool text_utf8_valid(const char *s, size_t n)
{
    const unsigned char *at = (const unsigned char *)s;
    while (n > 0) {
        size_t length = utf8_character(at, n);
        if (length == 0)
            return false;
        at += length;
        n -= length;
    }
    return true;
}

bool text_copy(char *out, size_t size, const char *s)
{
    if (size == 0)
        return false;
    size_t n = strlen(s);
    bool fits = n < size;
    if (!fits) {
        n = size - 1;
        /* Back to where a character begins; text that is not UTF-8 is cut where it must be. */
        size_t back = 0;
        while (back < 3 && back < n && ((unsigned char)s[n - back] & 0xC0) == 0x80)
            back++;
        if (((unsigned char)s[n - back] & 0xC0) != 0x80)
            n -= back;
    }
    memcpy(out, s, n);
    out[n] = '\0';
    return fits;
}

#define CLOSEST_MAX 64

static unsigned char lower(char c)
{
    return (unsigned char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

/* Optimal string alignment: insert, delete, replace, and swap of neighbours cost 1 each. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t rows[3][CLOSEST_MAX + 1];
    size_t *before = rows[0], *previous = rows[1], *current = rows[2];
    for (size_t j = 0; j <= nb; j++)
        previous[j] = j;
    for (size_t i = 1; i <= na; i++) {
        current[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned char ca = lower(a[i - 1]), cb = lower(b[j - 1]);
            size_t best = previous[j - 1] + (ca == cb ? 0 : 1);
            if (previous[j] + 1 < best)
                best = previous[j] + 1;
            if (current[j - 1] + 1 < best)
                best = current[j - 1] + 1;
            if (i > 1 && j > 1 && ca == lower(b[j - 2]) && cb == lower(a[i - 2]) &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            current[j] = best;
        }
        size_t *spare = before;
        before = previous;
        previous = current;
        current = spare;
    }
    return previous[nb];
}

const char *text_closest(const char *word, const char *const *words, size_t n)
{
    size_t length = strlen(word);
    if (length == 0 || length > CLOSEST_MAX)
        return NULL;
    const char *closest = NULL;
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        size_t other = strlen(words[i]);
        if (other > CLOSEST_MAX)
            continue;
        size_t d = distance(word, length, words[i], other);
        size_t longer = length > other ? length : other;
        if (d * 3 <= longer && d < best) {
            best = d;
            closest = words[i];
        }
    }
    return closest;
}

/* The component that begins at *at, as text in out; *at goes on to the next. False at the end. */
static bool next_component(const char **at, char *out, size_t size, bool *too_long)
{
    const char *from = *at;
    while (*from == '/')
        from++;
    if (*from == '\0')
        return false;
    size_t n = strcspn(from, "/");
    *at = from + n;
    *too_long = n >= size;
    if (*too_long)
        n = size - 1;
    memcpy(out, from, n);
    out[n] = '\0';
    return true;
}

bool text_glob(const char *pattern, const char *path, bool fold_case)
{
    char want[PATH_MAX], have[PATH_MAX];
    bool long_want = false, long_have = false;
    int flags = fold_case ? FNM_CASEFOLD : 0;
    if (!strchr(pattern, '/')) {
        const char *last = strrchr(path, '/');
        return fnmatch(pattern, last ? last + 1 : path, flags) == 0;
    }
    /* As with `*` in a name: only the last `**` need ever be widened. */
    const char *retry_pattern = NULL, *retry_path = NULL;
    for (;;) {
        const char *next_pattern = pattern, *next_path = path;
        bool more_pattern = next_component(&next_pattern, want, sizeof(want), &long_want);
        if (more_pattern && strcmp(want, "**") == 0) {
            retry_pattern = pattern = next_pattern;
            retry_path = path;
            continue;
        }
        bool more_path = next_component(&next_path, have, sizeof(have), &long_have);
        if (!more_pattern && !more_path)
            return true;
        if (more_pattern && more_path && !long_want && !long_have &&
            fnmatch(want, have, flags) == 0) {
            pattern = next_pattern;
            path = next_path;
            continue;
        }
        if (!retry_pattern || !next_component(&retry_path, have, sizeof(have), &long_have))
            return false;
        pattern = retry_pattern;
        path = retry_path;
    }
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* digits, then one of the units (or the end, where an empty one is listed). */
static int parse_with_unit(const char *s, const struct unit *units, size_t n, uint64_t *ret)
{
    uint64_t value = 0;
    const char *at = s;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return ERR_INVALID;
    if (at == s)
        return ERR_INVALID;
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(at, units[i].name) == 0)
            return __builtin_mul_overflow(value, units[i].factor, ret) ? ERR_INVALID : 0;
    return ERR_INVALID;
}

int text_parse_duration(const char *s, uint64_t *ret_ms)
{
    static const struct unit units[] = {{"ms", 1},          {"s", 1000},    {"m", 60000},
                                        {"min", 60000},     {"h", 3600000}, {"d", 86400000},
                                        {"w", 7 * 86400000}};
    if (strcmp(s, "0") == 0) {
        *ret_ms = 0;
        return 0;
    }
    return parse_with_unit(s, units, sizeof(units) / sizeof(units[0]), ret_ms);
}

int text_parse_size(const char *s, uint64_t *ret_bytes)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"kB", 1000},
        {"MB", 1000 * 1000},
        {"GB", 1000 * 1000 * 1000},
        {"TB", UINT64_C(1000) * 1000 * 1000 * 1000},
        {"KiB", 1 << 10},
        {"MiB", 1 << 20},
        {"GiB", 1 << 30},
        {"TiB", UINT64_C(1) << 40},
    };
    char text[40];
    size_t n = strlen(s);
    if (n > 2 && strcmp(s + n - 2, "/s") == 0)
        n -= 2;
    if (n >= sizeof(text))
        return ERR_INVALID;
    memcpy(text, s, n);
    text[n] = '\0';
    return parse_with_unit(text, units, sizeof(units) / sizeof(units[0]), ret_bytes);
}

void text_format_size(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= (unit == 0 ? 1000.0 : 999.5) && unit < 6) {
        value /= 1000.0;
        unit++;
    }
    snprintf(out, 16, "%.3g %s", value, units[unit]);
}

void text_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}
