#include "config/template.h"

#include "base/buf.h"
#include "base/text.h"
#include "config/moment.h"
#include "dicom/dict/dicom_dict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_PARTS     128
#define MAX_COMPONENT 100 /* bytes of a component that holds a value */
#define MAX_LITERAL   255 /* bytes of one that does not: NAME_MAX */
#define UNKNOWN       "unknown"

enum part_type { PART_LITERAL, PART_SLASH, PART_ATTRIBUTE, PART_PATH, PART_FILENAME };

struct part {
    enum part_type type;
    char *text;     /* of LITERAL; the format of ATTRIBUTE, or NULL */
    char *fallback; /* NULL: none */
    uint32_t tag;
    unsigned number; /* of PATH; 0: all */
};

struct template
{
    char *text;
    struct part *parts;
    size_t n;
};

struct parser {
    struct template *t;
    const char *text;
    size_t pos;
    size_t *ret_offset;
    struct err *e;
};

void template_free(struct template *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->n; i++) {
        free(t->parts[i].text);
        free(t->parts[i].fallback);
    }
    free(t->parts);
    free(t->text);
    free(t);
}

const char *template_text(const struct template *t)
{
    return t->text;
}

static int out_of_memory(struct parser *p)
{
    return err_set(p->e, ERR_NOMEM, "out of memory");
}

#define FAULT_AT(p, offset, ...)                                                                   \
    (*(p)->ret_offset = (offset), err_set((p)->e, ERR_INVALID, __VA_ARGS__))

/* A new part, or the last one if both are literal. */
static struct part *add_part(struct parser *p, enum part_type type)
{
    struct template *t = p->t;

    if (t->n == MAX_PARTS)
        return NULL;
    struct part *parts = realloc(t->parts, (t->n + 1) * sizeof(*parts));
    if (parts == NULL)
        return NULL;
    t->parts = parts;
    parts[t->n] = (struct part){.type = type};
    return &parts[t->n++];
}

static int add_literal(struct parser *p, const char *text, size_t n)
{
    struct template *t = p->t;
    struct part *part = t->n > 0 && t->parts[t->n - 1].type == PART_LITERAL
                            ? &t->parts[t->n - 1]
                            : add_part(p, PART_LITERAL);
    if (part == NULL)
        return out_of_memory(p);
    size_t old = part->text != NULL ? strlen(part->text) : 0;
    char *grown = realloc(part->text, old + n + 1);
    if (grown == NULL)
        return out_of_memory(p);
    memcpy(grown + old, text, n);
    grown[old + n] = '\0';
    part->text = grown;
    return 0;
}

static int check_format(struct parser *p, const char *format, size_t offset, const char *vr,
                        const char *keyword)
{
    const char *allowed = moment_conversions(vr);

    if (allowed == NULL)
        return FAULT_AT(p, offset, "%s is not a date or time and takes no format", keyword);
    if (format[0] == '\0')
        return FAULT_AT(p, offset, "the format after ':' is empty");
    for (size_t i = 0; format[i] != '\0'; i++) {
        if (format[i] == '/')
            return FAULT_AT(p, offset + i,
                            "a format holds no '/': write {%s:%%Y}/{%s:%%m} for two folders",
                            keyword, keyword);
        if (format[i] != '%')
            continue;
        i++;
        if (format[i] == '\0')
            return FAULT_AT(p, offset + i - 1, "a lone '%%' at the end of the format");
        if (strchr(allowed, format[i]) == NULL) {
            bool printable = (unsigned char)format[i] > 0x20 && (unsigned char)format[i] < 0x7f;
            return FAULT_AT(p, offset + i - 1, "%%%c is not possible here; a %s has %s",
                            printable ? format[i] : '?', vr,
                            vr[0] == 'T'   ? "%H %M %S"
                            : vr[1] == 'A' ? "%Y %y %m %d %j"
                                           : "%Y %y %m %d %j %H %M %S");
        }
    }
    return 0;
}

static bool has_text(const char *vr)
{
    static const char *const WITHOUT[] = {"SQ", "OB", "OW", "OF", "OD", "OL", "OV"};

    for (size_t i = 0; i < sizeof(WITHOUT) / sizeof(WITHOUT[0]); i++) {
        if (strcmp(vr, WITHOUT[i]) == 0)
            return false;
    }
    return true;
}

/* path, path:N, filename. `argument` is what follows the ':', or NULL. */
static int parse_place(struct parser *p, const char *name, const char *argument, size_t offset)
{
    struct part *part = &p->t->parts[p->t->n - 1];
    unsigned number = 0;

    part->type = name[0] == 'p' ? PART_PATH : PART_FILENAME;
    if (argument == NULL)
        return 0;
    if (part->type == PART_FILENAME)
        return FAULT_AT(p, offset, "filename takes no ':'");
    for (const char *c = argument; *c >= '0' && *c <= '9' && number < 100; c++)
        number = number * 10 + (unsigned)(*c - '0');
    if (number < 1 || number > 64 || argument[strspn(argument, "0123456789")] != '\0')
        return FAULT_AT(p, offset, "expected the number of a folder from 1 to 64 after 'path:'");
    part->number = number;
    return 0;
}

static int parse_attribute(struct parser *p, const char *name, size_t name_offset,
                           const char *format, size_t format_offset)
{
    struct part *part = &p->t->parts[p->t->n - 1];
    char shown[64];

    part->type = PART_ATTRIBUTE;
    text_copy(shown, sizeof(shown), name);
    if (!dicom_dict_tag(name, &part->tag)) {
        const char *closest = dicom_dict_closest(name);
        if (strcmp(name, "Path") == 0 || strcmp(name, "PATH") == 0)
            closest = "path";
        else if (strcasecmp(name, "filename") == 0)
            closest = "filename";
        return FAULT_AT(p, name_offset, "'%s' is no attribute%s%s%s", shown,
                        closest != NULL ? "; did you mean '" : "", closest != NULL ? closest : "",
                        closest != NULL ? "'?" : " (a keyword such as StudyDate, or gggg,eeee)");
    }
    const char *vr = dicom_dict_vr(part->tag);
    if (!has_text(vr))
        return FAULT_AT(p, name_offset, "%s has no text: its value representation is %s", shown,
                        vr);
    if (format == NULL)
        return 0;
    int r = check_format(p, format, format_offset, vr, shown);
    if (r == 0) {
        part->text = strdup(format);
        if (part->text == NULL)
            return out_of_memory(p);
    }
    return r;
}

/* At '{'. {name[:argument][|default]} */
static int parse_placeholder(struct parser *p)
{
    size_t open = p->pos, close = open + 1, i;
    char inner[512];
    char *colon, *bar;
    int r;

    while (p->text[close] != '\0' && p->text[close] != '}' && p->text[close] != '{')
        close++;
    if (p->text[close] == '\0')
        return FAULT_AT(p, open, "no '}' for this '{' (a brace itself is written twice)");
    if (p->text[close] == '{')
        return FAULT_AT(p, close, "a '{' within {…}");
    if (close - open - 1 >= sizeof(inner))
        return FAULT_AT(p, open, "too long");
    memcpy(inner, p->text + open + 1, close - open - 1);
    inner[close - open - 1] = '\0';

    bar = strchr(inner, '|');
    if (bar != NULL)
        *bar = '\0';
    colon = strchr(inner, ':');
    if (colon != NULL)
        *colon = '\0';
    for (i = 0; inner[i] != '\0' && inner[i] != ' '; i++)
        ;
    if (inner[0] == '\0')
        return FAULT_AT(p, open, "expected an attribute between '{' and '}'");
    if (inner[i] == ' ')
        return FAULT_AT(p, open + 1 + i, "a blank within {…}");
    if (p->t->n == MAX_PARTS)
        return FAULT_AT(p, open, "too many parts");
    struct part *part = add_part(p, PART_ATTRIBUTE);
    if (part == NULL)
        return out_of_memory(p);
    if (bar != NULL) {
        char *slash = strchr(bar + 1, '/');
        if (slash != NULL)
            return FAULT_AT(p, open + 1 + (size_t)(slash - inner), "a default holds no '/'");
        part->fallback = strdup(bar + 1);
        if (part->fallback == NULL)
            return out_of_memory(p);
    }
    size_t argument = colon != NULL ? open + 1 + (size_t)(colon + 1 - inner) : 0;
    if (strcmp(inner, "path") == 0 || strcmp(inner, "filename") == 0)
        r = parse_place(p, inner, colon != NULL ? colon + 1 : NULL, argument);
    else
        r = parse_attribute(p, inner, open + 1, colon != NULL ? colon + 1 : NULL, argument);
    p->pos = close + 1;
    return r;
}

static int parse_parts(struct parser *p)
{
    int r = 0;

    while (r == 0 && p->text[p->pos] != '\0') {
        const char *at = p->text + p->pos;

        if (p->t->n == MAX_PARTS)
            return FAULT_AT(p, p->pos, "too many parts");
        if (at[0] == '{' && at[1] != '{') {
            r = parse_placeholder(p);
        } else if (at[0] == '}' && at[1] != '}') {
            r = FAULT_AT(p, p->pos, "no '{' for this '}' (a brace itself is written twice)");
        } else if (at[0] == '/') {
            if (add_part(p, PART_SLASH) == NULL)
                r = out_of_memory(p);
            p->pos++;
        } else if (at[0] == '{' || at[0] == '}') {
            r = add_literal(p, at, 1);
            p->pos += 2;
        } else {
            size_t n = strcspn(at, "{}/");
            for (size_t i = 0; i < n; i++) {
                if ((unsigned char)at[i] < 0x20 || at[i] == 0x7f)
                    return FAULT_AT(p, p->pos + i, "a control character");
            }
            r = add_literal(p, at, n);
            p->pos += n;
        }
    }
    return r;
}

/* Components that are literal only are used as they stand, so they must be good names. */
static int check_literals(struct parser *p)
{
    size_t from = 0;

    for (size_t i = 0; p->text[i] != '\0' || from <= i; i++) {
        if (p->text[i] != '/' && p->text[i] != '\0')
            continue;
        size_t n = i - from;
        const char *component = p->text + from;
        if ((n == 1 && component[0] == '.') ||
            (n == 2 && component[0] == '.' && component[1] == '.'))
            return FAULT_AT(p, from, "'.' and '..' are no folder names here");
        if (n > MAX_LITERAL && memchr(component, '{', n) == NULL)
            return FAULT_AT(p, from, "a folder name longer than %d bytes", MAX_LITERAL);
        from = i + 1;
        if (p->text[i] == '\0')
            break;
    }
    return 0;
}

int template_parse(struct template **ret, const char *text, size_t *ret_offset, struct err *e)
{
    size_t ignored = 0;
    struct parser p = {.text = text, .ret_offset = ret_offset ? ret_offset : &ignored, .e = e};
    int r;

    *ret = NULL;
    *p.ret_offset = 0;
    if (text[strspn(text, "/")] == '\0')
        return FAULT_AT(&p, 0, "names no folder");
    if (!text_utf8_valid(text, strlen(text)))
        return FAULT_AT(&p, 0, "not UTF-8 text");
    p.t = calloc(1, sizeof(*p.t));
    if (p.t == NULL)
        return out_of_memory(&p);
    p.t->text = strdup(text);
    r = p.t->text == NULL ? out_of_memory(&p) : parse_parts(&p);
    if (r == 0)
        r = check_literals(&p);
    if (r != 0) {
        template_free(p.t);
        return r;
    }
    *ret = p.t;
    return 0;
}

void template_each_tag(const struct template *t, void (*each)(uint32_t tag, void *ctx), void *ctx)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->parts[i].type == PART_ATTRIBUTE)
            each(t->parts[i].tag, ctx);
    }
}

bool template_uses_path(const struct template *t)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->parts[i].type == PART_PATH || t->parts[i].type == PART_FILENAME)
            return true;
    }
    return false;
}

char *template_literal_prefix(const struct template *t)
{
    size_t n = strcspn(t->text, "{}");

    if (t->text[n] != '\0') { /* the component with the brace is not wholly literal */
        while (n > 0 && t->text[n - 1] != '/')
            n--;
    }
    while (n > 1 && t->text[n - 1] == '/')
        n--;
    return strndup(t->text, n);
}

/* --- values --- */

/* The length of the character at s (n bytes left); 0: not UTF-8. */
static size_t character(const char *s, size_t n)
{
    for (size_t k = 1; k <= 4 && k <= n; k++) {
        if (text_utf8_valid(s, k))
            return k;
    }
    return 0;
}

/* C0 and C1 controls, line separators, and what changes the direction or is not seen. */
static bool is_control(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;

    if (n == 1)
        return u[0] < 0x20 || u[0] == 0x7f;
    if (n == 2)
        return u[0] == 0xC2 && u[1] < 0xA0;
    if (n == 3 && u[0] == 0xE2 && u[1] == 0x80)
        return (u[2] >= 0x8B && u[2] <= 0x8F) || (u[2] >= 0xA8 && u[2] <= 0xAE);
    if (n == 3 && u[0] == 0xE2 && u[1] == 0x81)
        return u[2] >= 0xA0 && u[2] <= 0xAF;
    return n == 3 && u[0] == 0xEF && u[1] == 0xBB && u[2] == 0xBF;
}

/* The length of a blank or dot at the front (or, at the end, of one that ends there); 0: none. */
static size_t trimmable(const char *s, size_t n, bool at_end)
{
    static const char *const BLANKS[] = {" ", ".", "\xC2\xA0", "\xE3\x80\x80"};

    for (size_t i = 0; i < sizeof(BLANKS) / sizeof(BLANKS[0]); i++) {
        size_t k = strlen(BLANKS[i]);
        if (k <= n && memcmp(at_end ? s + n - k : s, BLANKS[i], k) == 0)
            return k;
    }
    return 0;
}

static void trim(const char **s, size_t *n)
{
    size_t k;

    while ((k = trimmable(*s, *n, false)) > 0) {
        *s += k;
        *n -= k;
    }
    while ((k = trimmable(*s, *n, true)) > 0)
        *n -= k;
}

/* Appends n bytes of a value, cleaned; whether anything was left of it. */
static bool put_clean(struct buf *b, const char *s, size_t n, bool person_name)
{
    struct buf cleaned = {0};

    for (size_t i = 0; i < n;) {
        size_t k = character(s + i, n - i);
        if (k == 0 || is_control(s + i, k) || (k == 1 && strchr("/\\:*?\"<>|", s[i]) != NULL))
            buf_put_u8(&cleaned, '_');
        else if (person_name && s[i] == '^')
            buf_put_u8(&cleaned, ' ');
        else
            buf_put(&cleaned, s + i, k);
        i += k > 0 ? k : 1;
    }
    const char *left = cleaned.size > 0 ? (const char *)cleaned.data : "";
    size_t size = cleaned.size;
    trim(&left, &size);
    if (buf_failed(&cleaned))
        b->failed = true;
    buf_put(b, left, size);
    buf_free(&cleaned);
    return size > 0;
}

static bool put_attribute(struct buf *b, const struct part *part,
                          const struct template_values *values)
{
    const char *value =
        values->attribute != NULL ? values->attribute(part->tag, values->ctx) : NULL;
    const char *vr = dicom_dict_vr(part->tag);
    struct buf formatted = {0};
    struct moment moment;
    bool one = strcmp(vr, "ST") == 0 || strcmp(vr, "LT") == 0 || strcmp(vr, "UT") == 0 ||
               strcmp(vr, "UR") == 0; /* there a backslash is text */
    bool put;

    if (value == NULL)
        return false;
    size_t n = one ? strlen(value) : strcspn(value, "\\");
    if (part->text == NULL)
        return put_clean(b, value, n, strcmp(vr, "PN") == 0);
    put = moment_parse(&moment, vr, value, n) && moment_format(&moment, part->text, &formatted) &&
          put_clean(b, (const char *)formatted.data, formatted.size, false);
    if (buf_failed(&formatted))
        b->failed = true;
    buf_free(&formatted);
    return put;
}

/* --- expansion --- */

struct expansion {
    struct buf out;
    struct buf component;
    bool literal; /* no value is in the component */
};

static void end_component(struct expansion *x)
{
    const char *s = x->component.size > 0 ? (const char *)x->component.data : "";
    size_t n = x->component.size;

    if (!x->literal) {
        trim(&s, &n);
        if (n > MAX_COMPONENT) {
            n = MAX_COMPONENT;
            while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80)
                n--;
            trim(&s, &n);
        }
    }
    if (n > 0) {
        if (x->out.size > 0 && x->out.data[x->out.size - 1] != '/')
            buf_put_u8(&x->out, '/');
        buf_put(&x->out, s, n);
    }
    if (x->component.failed)
        x->out.failed = true;
    buf_clear(&x->component);
    x->literal = true;
}

/* {path} (number 0) and {path:N}; whether there was anything. */
static bool put_path(struct expansion *x, const char *path, unsigned number)
{
    const char *end;
    unsigned i = 0;
    bool any = false;

    while ((end = strchr(path, '/')) != NULL) { /* what follows the last one is the file */
        size_t n = (size_t)(end - path);
        if (n > 0) {
            i++;
            if (number == 0 && any)
                end_component(x);
            if (number == 0 || i == number) {
                x->literal = false;
                any = put_clean(&x->component, path, n, false) || any;
            }
        }
        path = end + 1;
    }
    return any;
}

static void put_part(struct expansion *x, const struct part *part,
                     const struct template_values *values)
{
    const char *path = values->relative_path != NULL ? values->relative_path : "";
    const char *slash = strrchr(path, '/'), *fallback = part->fallback;
    const char *name = slash != NULL ? slash + 1 : path;
    bool put = false;

    switch (part->type) {
    case PART_LITERAL:
        buf_put_str(&x->component, part->text);
        return;
    case PART_SLASH:
        end_component(x);
        return;
    case PART_ATTRIBUTE:
        put = put_attribute(&x->component, part, values);
        if (fallback == NULL)
            fallback = UNKNOWN;
        break;
    case PART_PATH:
        put = put_path(x, path, part->number);
        break;
    case PART_FILENAME:
        put = put_clean(&x->component, name, strlen(name), false);
        break;
    }
    x->literal = false;
    if (!put && fallback != NULL)
        put_clean(&x->component, fallback, strlen(fallback), false);
}

char *template_expand(const struct template *t, const struct template_values *values)
{
    struct expansion x = {.literal = true};
    char *result = NULL;

    if (t->parts[0].type == PART_SLASH)
        buf_put_u8(&x.out, '/');
    for (size_t i = 0; i < t->n; i++)
        put_part(&x, &t->parts[i], values);
    end_component(&x);
    const char *text = buf_cstr(&x.out);
    if (!buf_failed(&x.out))
        result = strdup(text);
    buf_free(&x.out);
    buf_free(&x.component);
    return result;
}
