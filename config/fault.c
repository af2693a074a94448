#include "config/fault.h"

#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fault_add(struct fault_list *f, struct config_mark mark, const char *path, const char *format,
               ...)
{
    char text[1024];
    size_t n = 0;
    va_list ap;

    if (f->n >= FAULT_MAX) {
        f->dropped++;
        return;
    }
    if (path[0] != '\0') {
        int written = snprintf(text, sizeof(text), "%s: ", path);
        n = written > 0 ? (size_t)written : 0; /* FAULT_PATH_SIZE is far below sizeof(text) */
    }
    va_start(ap, format);
    vsnprintf(text + n, sizeof(text) - n, format, ap);
    va_end(ap);

    struct config_fault *items = realloc(f->items, (f->n + 1) * sizeof(*items));
    if (items == NULL) {
        f->nomem = true;
        return;
    }
    f->items = items;
    items[f->n].mark = mark;
    items[f->n].text = strdup(text);
    if (items[f->n].text == NULL) {
        f->nomem = true;
        return;
    }
    f->n++;
}

/* Cuts at a character and takes the control characters out: keys come from the file. */
static void clean(char *out, size_t size, const char *text)
{
    text_copy(out, size, text);
    for (char *p = out; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
}

void fault_path(char out[FAULT_PATH_SIZE], const char *parent, const char *key)
{
    char name[FAULT_QUOTE_SIZE], joined[2 * FAULT_PATH_SIZE];

    clean(name, sizeof(name), key);
    snprintf(joined, sizeof(joined), "%s%s%s", parent, parent[0] != '\0' ? "." : "", name);
    text_copy(out, FAULT_PATH_SIZE, joined);
}

void fault_path_index(char out[FAULT_PATH_SIZE], const char *parent, size_t index)
{
    char joined[2 * FAULT_PATH_SIZE];

    snprintf(joined, sizeof(joined), "%s[%zu]", parent, index);
    text_copy(out, FAULT_PATH_SIZE, joined);
}

const char *fault_quote(char out[FAULT_QUOTE_SIZE], const char *text)
{
    char cleaned[FAULT_QUOTE_SIZE - 6];

    clean(cleaned, sizeof(cleaned), text);
    snprintf(out, FAULT_QUOTE_SIZE, "'%s%s'", cleaned, strlen(cleaned) < strlen(text) ? "..." : "");
    return out;
}

static int compare(const void *a, const void *b)
{
    const struct config_fault *x = a, *y = b;

    if (x->mark.line != y->mark.line)
        return x->mark.line < y->mark.line ? -1 : 1;
    if (x->mark.column != y->mark.column)
        return x->mark.column < y->mark.column ? -1 : 1;
    return strcmp(x->text, y->text);
}

void fault_finish(struct fault_list *f, struct config_faults *ret)
{
    if (f->n > 0)
        qsort(f->items, f->n, sizeof(f->items[0]), compare);
    if (f->dropped > 0 && f->n > 0) {
        char text[64];

        snprintf(text, sizeof(text), "%zu more faults are not shown", f->dropped + 1);
        char *last = strdup(text);
        if (last != NULL) {
            free(f->items[f->n - 1].text);
            f->items[f->n - 1].text = last;
        }
    }
    ret->items = f->items;
    ret->n = f->n;
    *f = (struct fault_list){0};
}
