/* Templates such as "Radiology/{Modality|unknown}/{StudyDate:%Y-%m}/{PatientID}". Pure,
 * thread-safe.
 *
 * {Keyword} or {gggg,eeee}: an attribute's first value; {Keyword|default}; {Keyword:%Y-%m}: a DA,
 * TM or DT value through strftime's conversions %Y %y %m %d %H %M %S %j %%; {path:N}: the N-th
 * component of the file's folder below the drop folder, from 1; {path}: all of them; {filename}:
 * the file's name; "{{" and "}}" stand for braces. Every literal '/' separates folders; a '/' or
 * '\' within a value does not: values are cleaned.
 *
 * {path:N|default} and {filename|default} work too; an empty default, {Keyword|}, leaves the
 * attribute out. Formats and defaults hold no '/'. A format needs an attribute of VR DA (%Y %y %m
 * %d %j), TM (%H %M %S) or DT (all); a value that is invalid, or lacks what the format asks for,
 * counts as empty. */
#ifndef CONFIG_TEMPLATE_H
#define CONFIG_TEMPLATE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct template;

/* Parses; on failure *e says what is wrong and *ret_offset where in `text` (bytes from 0). The text
 * is copied. */
int template_parse(struct template **ret, const char *text, size_t *ret_offset, struct err *e);
void template_free(struct template *t);
const char *template_text(const struct template *t);

/* Calls `each` for every attribute tag it uses. */
void template_each_tag(const struct template *t, void (*each)(uint32_t tag, void *ctx), void *ctx);
/* Whether it uses {path…} or {filename}. */
bool template_uses_path(const struct template *t);

/* The part of the text before the first component that holds a brace, without trailing slash:
 * "/srv/sent" of
 * "/srv/sent/{StudyDate}"; "/" or "" if there is none. malloc'ed; NULL when out of memory. */
char *template_literal_prefix(const struct template *t);

struct template_values {
    /* The attribute's UTF-8 value, NULL if absent; several values are separated by backslashes. */
    const char *(*attribute)(uint32_t tag, void *ctx);
    void *ctx;
    const char *relative_path; /* of the file below the drop folder, "" if unknown */
};

/* Expands into a folder path: each component that holds a value is cleaned for use as a name (no
 * control characters, no '/', '\', ':', '*',
 * '?', '"', '<', '>', '|' – replaced by '_' –, no leading or trailing blanks or dots, at most 100
 * bytes cut at a character; bytes that are not UTF-8 replaced), person names' '^' by a blank; an
 * empty attribute without default gives "unknown"; empty components are left out. Components that
 * are literal only stay as they are (template_parse refuses "." and ".."). The result begins with
 * '/' if the text does. malloc'ed; NULL when out of memory. */
char *template_expand(const struct template *t, const struct template_values *values);

#endif
