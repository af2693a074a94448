#include "sandbox/assume.h"

#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct row {
    const char *name;
    const char *words; /* NULL: a number */
    const char *unit;
    uint32_t standard;
    size_t offset;
};

static const struct row rows[] = {
#define X(field, name, words) {name, words, NULL, 0, offsetof(struct assume, field)},
    ASSUME_WORDS(X)
#undef X
#define X(field, name, standard, unit) {name, NULL, unit, standard, offsetof(struct assume, field)},
        ASSUME_NUMBERS(X)
#undef X
};

#define N_ROWS (sizeof rows / sizeof rows[0])

static uint32_t *field(struct assume *a, const struct row *row)
{
    return (uint32_t *)(void *)((char *)a + row->offset);
}

void assume_init(struct assume *a)
{
    for (size_t i = 0; i < N_ROWS; i++)
        *field(a, &rows[i]) = rows[i].standard;
}

static bool find_word(const char *words, const char *word, uint32_t *ret)
{
    size_t n = strlen(word);
    uint32_t index = 0;

    for (const char *p = words; *p; p += strspn(p, " "), index++) {
        size_t length = strcspn(p, " ");

        if (length == n && memcmp(p, word, n) == 0) {
            *ret = index;
            return true;
        }
        p += length;
    }
    return false;
}

static bool parse_number(const char *s, uint32_t *ret)
{
    char *end;
    unsigned long n;

    if (*s < '0' || *s > '9')
        return false;
    n = strtoul(s, &end, 10);
    if (*end != '\0' || n > UINT32_MAX)
        return false;
    *ret = (uint32_t)n;
    return true;
}

static int unknown(const char *name, size_t n, struct err *e)
{
    const char *names[N_ROWS];
    const char *closest;
    char copy[64];

    for (size_t i = 0; i < N_ROWS; i++)
        names[i] = rows[i].name;
    snprintf(copy, sizeof copy, "%.*s", (int)n, name);
    closest = text_closest(copy, names, N_ROWS);
    return err_set(e, ERR_INVALID, "no assumption is called '%s'%s%s%s", copy,
                   closest ? " (did you mean '" : "", closest ? closest : "", closest ? "'?)" : "");
}

int assume_set(struct assume *a, const char *text, struct err *e)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);

    for (size_t i = 0; i < N_ROWS; i++) {
        const struct row *row = &rows[i];

        if (strlen(row->name) != n || memcmp(row->name, text, n) != 0)
            continue;
        if (equals && (row->words ? find_word(row->words, equals + 1, field(a, row))
                                  : parse_number(equals + 1, field(a, row))))
            return 0;
        if (row->words)
            return err_set(e, ERR_INVALID, "%s takes one of: %s", row->name, row->words);
        return err_set(e, ERR_INVALID, "%s takes a count of %s", row->name, row->unit);
    }
    return unknown(text, n, e);
}

void assume_print(FILE *out)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        if (rows[i].words)
            fprintf(out, "  --assume-%s=%s\n", rows[i].name, rows[i].words);
        else
            fprintf(out, "  --assume-%s=%u (%s)\n", rows[i].name, (unsigned)rows[i].standard,
                    rows[i].unit);
    }
}
