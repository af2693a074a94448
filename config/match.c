#include "config/match.h"

#include "base/text.h"
#include "dicom/dict/dicom_dict.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REGEX   4096 /* bytes */
#define MATCH_LIMIT 100000
#define DEPTH_LIMIT 1000
#define HEAP_LIMIT  2048 /* KiB */

struct pattern {
    char *text;       /* exact text, or a glob */
    pcre2_code *code; /* NULL: not a regex */
};

struct condition {
    bool path;
    uint32_t tag;
    bool negate;
    struct pattern *patterns;
    size_t n;
};

struct match {
    struct condition *conditions;
    size_t n;
    pcre2_match_context *limits; /* only read once it is made, so threads share it */
};

struct match *match_new(void)
{
    struct match *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return NULL;
    m->limits = pcre2_match_context_create(NULL);
    if (m->limits == NULL) {
        free(m);
        return NULL;
    }
    pcre2_set_match_limit(m->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(m->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(m->limits, HEAP_LIMIT);
    return m;
}

static void condition_free(struct condition *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->patterns[i].text);
        pcre2_code_free(c->patterns[i].code);
    }
    free(c->patterns);
}

void match_free(struct match *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->n; i++)
        condition_free(&m->conditions[i]);
    free(m->conditions);
    pcre2_match_context_free(m->limits);
    free(m);
}

/* Whether `text` is "/regex/" or "/regex/i"; where the regex ends. */
static bool is_regex(const char *text, size_t *ret_end, bool *ret_fold)
{
    const char *end = strrchr(text, '/');

    if (text[0] != '/' || end == text)
        return false;
    *ret_fold = strcmp(end, "/i") == 0;
    *ret_end = (size_t)(end - text);
    return *ret_fold || end[1] == '\0';
}

/* No JIT: it needs memory that is writable and executable, which the service's sandbox denies. */
static int compile(struct pattern *p, size_t *ret_offset, struct err *e)
{
    size_t end = 0;
    bool fold = false;
    int code = 0;
    PCRE2_SIZE offset = 0;
    PCRE2_UCHAR text[160];

    if (!is_regex(p->text, &end, &fold))
        return 0;
    *ret_offset = 1;
    if (end == 1)
        return err_set(e, ERR_INVALID, "an empty regular expression");
    if (end > MAX_REGEX)
        return err_set(e, ERR_INVALID, "a regular expression longer than %d bytes", MAX_REGEX);
    /* MATCH_INVALID_UTF: file names need not be UTF-8. */
    p->code = pcre2_compile((PCRE2_SPTR)(p->text + 1), end - 1,
                            PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C |
                                (fold ? PCRE2_CASELESS : 0u),
                            &code, &offset, NULL);
    if (p->code != NULL)
        return 0;
    if (code == PCRE2_ERROR_NOMEMORY || code == 121) /* 121: failed to allocate heap memory */
        return err_set(e, ERR_NOMEM, "out of memory");
    pcre2_get_error_message(code, text, sizeof(text));
    *ret_offset = (size_t)offset + 1;
    return err_set(e, ERR_INVALID, "regular expression: %s at offset %zu", (const char *)text,
                   (size_t)offset);
}

static int add(struct match *m, struct condition *c, const char *const *values, size_t n,
               struct err *e)
{
    int r = 0;
    size_t ignored = 0;
    struct condition *grown;

    c->patterns = calloc(n, sizeof(*c->patterns));
    if (c->patterns == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    c->n = n;
    for (size_t i = 0; i < n && r == 0; i++) {
        c->patterns[i].text = strdup(values[i]);
        r = c->patterns[i].text == NULL ? err_set(e, ERR_NOMEM, "out of memory")
                                        : compile(&c->patterns[i], &ignored, e);
    }
    if (r == 0) {
        grown = realloc(m->conditions, (m->n + 1) * sizeof(*grown));
        if (grown != NULL) {
            m->conditions = grown;
            grown[m->n++] = *c;
            return 0;
        }
        r = err_set(e, ERR_NOMEM, "out of memory");
    }
    condition_free(c);
    return r;
}

int match_check_value(const char *value, size_t *ret_offset, struct err *e)
{
    struct pattern p = {.text = (char *)(uintptr_t)value}; /* only read */
    int r;

    *ret_offset = 0;
    r = compile(&p, ret_offset, e);
    pcre2_code_free(p.code);
    return r;
}

int match_add_attribute(struct match *m, uint32_t tag, const char *const *values, size_t n,
                        bool negate, struct err *e)
{
    struct condition c = {.tag = tag, .negate = negate};

    if (n == 0)
        return err_set(e, ERR_INVALID, "no value to match");
    return add(m, &c, values, n, e);
}

int match_add_path(struct match *m, const char *const *patterns, size_t n, bool negate,
                   struct err *e)
{
    struct condition c = {.path = true, .negate = negate};

    if (n == 0)
        return err_set(e, ERR_INVALID, "no pattern to match");
    return add(m, &c, patterns, n, e);
}

void match_each_tag(const struct match *m, void (*each)(uint32_t tag, void *ctx), void *ctx)
{
    for (size_t i = 0; i < m->n; i++) {
        if (!m->conditions[i].path)
            each(m->conditions[i].tag, ctx);
    }
}

static bool search(const struct match *m, const struct pattern *p, const char *s, size_t n,
                   bool *limit_hit)
{
    /* Of its own for each call: match data is written to. One pair: only whether it matches counts.
     */
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    int r = PCRE2_ERROR_NOMEMORY;

    if (data != NULL)
        r = pcre2_match(p->code, (PCRE2_SPTR)s, n, 0, 0, data, m->limits);
    pcre2_match_data_free(data);
    if (r < 0 && r != PCRE2_ERROR_NOMATCH)
        *limit_hit = true;
    return r >= 0;
}

static bool blank(char c)
{
    return c == ' ' || c == '\0';
}

static bool test_value(const struct match *m, const struct condition *c, const char *s, size_t n,
                       bool *limit_hit)
{
    while (n > 0 && blank(s[n - 1]))
        n--;
    while (n > 0 && blank(s[0])) {
        s++;
        n--;
    }
    for (size_t i = 0; i < c->n; i++) {
        const struct pattern *p = &c->patterns[i];
        if (p->code != NULL ? search(m, p, s, n, limit_hit)
                            : strlen(p->text) == n && memcmp(p->text, s, n) == 0)
            return true;
    }
    return false;
}

static bool test_attribute(const struct match *m, const struct condition *c,
                           const struct template_values *values, bool *limit_hit)
{
    const char *value = values->attribute != NULL ? values->attribute(c->tag, values->ctx) : NULL;
    const char *vr = dicom_dict_vr(c->tag);
    /* There a backslash is text, not a separator (PS3.5, 6.2). */
    bool one = strcmp(vr, "ST") == 0 || strcmp(vr, "LT") == 0 || strcmp(vr, "UT") == 0 ||
               strcmp(vr, "UR") == 0;

    if (value == NULL)
        value = "";
    if (one)
        return test_value(m, c, value, strlen(value), limit_hit);
    for (;;) {
        size_t n = strcspn(value, "\\");
        if (test_value(m, c, value, n, limit_hit))
            return true;
        if (value[n] == '\0')
            return false;
        value += n + 1;
    }
}

static bool test_path(const struct match *m, const struct condition *c, const char *path,
                      bool *limit_hit)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct pattern *p = &c->patterns[i];
        if (p->code != NULL ? search(m, p, path, strlen(path), limit_hit)
                            : text_glob(p->text, path, false))
            return true;
    }
    return false;
}

bool match_test(const struct match *m, const struct template_values *values, bool *ret_limit_hit)
{
    const char *path = values->relative_path != NULL ? values->relative_path : "";
    bool hit = false, all = true;

    for (size_t i = 0; i < m->n && all; i++) {
        const struct condition *c = &m->conditions[i];
        bool hit_here = false;
        bool holds =
            c->path ? test_path(m, c, path, &hit_here) : test_attribute(m, c, values, &hit_here);
        /* What could not be decided holds neither way: such a file is rather held than sent astray.
         */
        all = holds ? !c->negate : c->negate && !hit_here;
        hit = hit || hit_here;
    }
    if (ret_limit_hit != NULL)
        *ret_limit_hit = hit;
    return all;
}
