#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int code;
    enum err_class class;
    const char *text;
} codes[] = {
#define X(name, code, class, text) {code, ERR_CLASS_##class, text},
    ERR_MAP(X)
#undef X
};

const char *err_text(int code)
{
    if (code == ERR_OK)
        return "no error";
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (codes[i].code == code)
            return codes[i].text;
    return "unknown error";
}

enum err_class err_class(int code)
{
    if (code == ERR_OK)
        return ERR_CLASS_NONE;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (codes[i].code == code)
            return codes[i].class;
    return ERR_CLASS_PERMANENT;
}

int err_from_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case ENOENT:
        return ERR_VANISHED;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_ACCESS;
    case ENOMEM:
        return ERR_NOMEM;
    case EEXIST:
        return ERR_EXISTS;
    default:
        return ERR_IO;
    }
}

/* A message that was cut must not end within a UTF-8 character: it goes into JSON. */
static void trim_cut_character(char *text, size_t size)
{
    size_t n = size - 1;
    size_t start = n;
    while (start > 0 && n - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (want > n - start + 1)
        text[start - 1] = '\0';
}

__attribute__((format(printf, 3, 0))) static void format_text(char *out, size_t size,
                                                              const char *format, va_list args)
{
    int n = vsnprintf(out, size, format, args);
    if (n < 0)
        out[0] = '\0';
    else if ((size_t)n >= size)
        trim_cut_character(out, size);
}

static void append(char *out, size_t size, const char *between, const char *tail)
{
    size_t used = strlen(out);
    int n = snprintf(out + used, size - used, "%s%s", between, tail);
    if (n >= 0 && (size_t)n >= size - used)
        trim_cut_character(out, size);
}

int err_set(struct err *e, int code, const char *format, ...)
{
    if (e) {
        /* Built aside: an argument may be e->text itself. */
        char text[sizeof(e->text)];
        va_list args;
        va_start(args, format);
        format_text(text, sizeof(text), format, args);
        va_end(args);
        memcpy(e->text, text, sizeof(text));
        e->code = code;
    }
    return code;
}

int err_set_errno(struct err *e, int errnum, const char *format, ...)
{
    int code = err_from_errno(errnum);
    if (e) {
        char text[sizeof(e->text)];
        char buffer[128];
        va_list args;
        va_start(args, format);
        format_text(text, sizeof(text), format, args);
        va_end(args);
        append(text, sizeof(text), ": ", strerror_r(errnum, buffer, sizeof(buffer)));
        memcpy(e->text, text, sizeof(text));
        e->code = code;
    }
    return code;
}

int err_wrap(struct err *e, const char *format, ...)
{
    if (!e)
        return ERR_IO;
    char text[sizeof(e->text)];
    va_list args;
    va_start(args, format);
    format_text(text, sizeof(text), format, args);
    va_end(args);
    append(text, sizeof(text), ": ", e->text);
    memcpy(e->text, text, sizeof(text));
    return e->code;
}
