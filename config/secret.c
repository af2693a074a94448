#include "config/secret.h"

#include "base/fsutil.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SECRET (16 * 1024)

void secret_wipe(char *value)
{
    if (value == NULL)
        return;
    explicit_bzero(value, strlen(value));
    free(value);
}

static void wipe(char *data, size_t size)
{
    explicit_bzero(data, size);
    free(data);
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Takes `data` over. */
static int trimmed(char *data, size_t size, const char *what, const char *name, char **ret,
                   struct err *e)
{
    size_t from = 0, to = size;

    while (to > 0 && blank(data[to - 1]))
        to--;
    while (from < to && blank(data[from]))
        from++;
    if (from == to || memchr(data + from, '\0', to - from) != NULL) {
        wipe(data, size);
        return err_set(e, ERR_INVALID, "the secret of %s %s %s", what, name,
                       from == to ? "is empty" : "holds a NUL byte");
    }
    char *value = malloc(to - from + 1);
    if (value == NULL) {
        wipe(data, size);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    memcpy(value, data + from, to - from);
    value[to - from] = '\0';
    wipe(data, size);
    *ret = value;
    return 0;
}

static int from_text(const char *text, const char *what, const char *name, char **ret,
                     struct err *e)
{
    size_t size = strlen(text);

    if (size > MAX_SECRET)
        return err_set(e, ERR_TOO_LARGE, "the secret of %s %s is longer than 16 KiB", what, name);
    char *copy = strdup(text);
    if (copy == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    return trimmed(copy, size, what, name, ret, e);
}

static int from_file(const char *path, const char *what, const char *name, char **ret,
                     struct err *e)
{
    char *data = NULL;
    size_t size = 0;
    int r = fsutil_read_file(path, MAX_SECRET, &data, &size, e);

    if (r != 0)
        return err_wrap(e, "cannot read the secret of %s %s", what, name);
    return trimmed(data, size, what, name, ret, e);
}

int secret_read(const struct secret *s, char **ret, struct err *e)
{
    const char *value;

    *ret = NULL;
    switch (s->source) {
    case SECRET_LITERAL:
        return from_text(s->reference, "the configuration", "file", ret, e);
    case SECRET_FILE:
        return from_file(s->reference, "file", s->reference, ret, e);
    case SECRET_ENV:
        value = getenv(s->reference);
        if (value == NULL)
            return err_set(e, ERR_NOT_FOUND, "the environment variable %s is not set",
                           s->reference);
        return from_text(value, "environment variable", s->reference, ret, e);
    case SECRET_CREDENTIAL: {
        char path[4096];

        value = getenv("CREDENTIALS_DIRECTORY");
        if (value == NULL)
            return err_set(e, ERR_NOT_FOUND,
                           "credential %s: $CREDENTIALS_DIRECTORY is not set; systemd sets it for "
                           "services with LoadCredential=",
                           s->reference);
        if (strchr(s->reference, '/') != NULL || s->reference[0] == '.' ||
            (size_t)snprintf(path, sizeof(path), "%s/%s", value, s->reference) >= sizeof(path))
            return err_set(e, ERR_INVALID, "credential %s: not a name", s->reference);
        return from_file(path, "credential", s->reference, ret, e);
    }
    case SECRET_NONE:
        break;
    }
    return err_set(e, ERR_NOT_FOUND, "no secret is given");
}
