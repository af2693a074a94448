/* The conditions of a route: which files it takes. Pure, thread-safe for reading. */
#ifndef CONFIG_MATCH_H
#define CONFIG_MATCH_H

#include "base/err.h"
#include "config/template.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct match;

struct match *match_new(void); /* takes everything; NULL when out of memory */
void match_free(struct match *m);

/* Adds a condition on an attribute. `values`: n alternatives, each either exact text, "/regex/" or
 * "/regex/i" (PCRE2, UTF, with match and depth limits; searched, not anchored), or "" for empty or
 * absent. Any value of a multi-valued attribute may match. `negate`: none may. ERR_INVALID with the
 * regex's fault in *e. */
int match_add_attribute(struct match *m, uint32_t tag, const char *const *values, size_t n,
                        bool negate, struct err *e);
/* Adds a condition on the path below the drop folder: text_glob patterns, or "/regex/". */
int match_add_path(struct match *m, const char *const *patterns, size_t n, bool negate,
                   struct err *e);

/* Whether `value` is none that the two above refuse: else ERR_INVALID, and where in it (bytes from
 * 0). */
int match_check_value(const char *value, size_t *ret_offset, struct err *e);

void match_each_tag(const struct match *m, void (*each)(uint32_t tag, void *ctx), void *ctx);

/* Whether all conditions hold. A regex that hits its limits does not match and sets *ret_limit_hit;
 * the condition then does not hold, negated or not: such a file is rather held than sent astray. An
 * absent attribute is tested as an empty one; blanks around a value do not count. Want of memory
 * while matching counts as a limit. */
bool match_test(const struct match *m, const struct template_values *values, bool *ret_limit_hit);

#endif
