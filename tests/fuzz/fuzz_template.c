/* The first line is a template, the second a path, the rest the value of every attribute. Whatever
 * they are, the result is a path of good names. */
#include "config/template.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *value_of(uint32_t tag, void *ctx)
{
    (void)tag;
    return ctx;
}

/* The line at *p, ended with a NUL; *p moves behind it. */
static char *line(char **p)
{
    char *start = *p, *end = strchr(start, '\n');

    if (end == NULL) {
        *p = start + strlen(start);
        return start;
    }
    *end = '\0';
    *p = end + 1;
    return start;
}

static void check_names(const char *path)
{
    for (;;) {
        size_t n = strcspn(path, "/");

        if ((n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.') || n > 255)
            abort();
        for (size_t i = 0; i < n; i++) {
            if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f)
                abort();
        }
        if (path[n] == '\0')
            return;
        path += n + 1;
        if (*path == '/' || *path == '\0')
            abort(); /* an empty name */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1), *rest = copy;
    struct template *t = NULL;
    size_t offset = 0;

    if (copy == NULL)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    const char *text = line(&rest), *path = line(&rest);
    if (template_parse(&t, text, &offset, NULL) == 0) {
        struct template_values values = {value_of, rest, path};
        char *result = template_expand(t, &values), *prefix = template_literal_prefix(t);

        if (result == NULL || prefix == NULL || (text[0] == '/') != (result[0] == '/') ||
            !text_utf8_valid(result, strlen(result)) || strncmp(text, prefix, strlen(prefix)) != 0)
            abort();
        if (strcmp(result, "/") != 0)
            check_names(result + (result[0] == '/'));
        free(result);
        free(prefix);
        template_free(t);
    } else if (t != NULL || offset > strlen(text)) {
        abort();
    }
    free(copy);
    return 0;
}
