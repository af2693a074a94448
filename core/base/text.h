/* Small text helpers. Pure, thread-safe. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether n bytes are well-formed UTF-8 (Unicode table 3-7: no overlong forms, no surrogates). */
bool text_utf8_valid(const char *s, size_t n);

/* Copies `s` into out[size], cut at a character boundary, always ended with NUL; returns whether
 * all fitted. */
bool text_copy(char *out, size_t size, const char *s);

/* The closest of n words to `word` (Damerau-Levenshtein, at most a third of the letters differ,
 * case ignored), for "did you mean"; NULL if none is close. */
const char *text_closest(const char *word, const char *const *words, size_t n);

/* Path globs for relative paths: within a component as fnmatch(3) with FNM_PERIOD off (`*`, `?`,
 * `[...]`); `**` as a whole component matches any number of components, none included. A pattern
 * without `/` is matched against the last component alone. `fold_case` ignores case. */
bool text_glob(const char *pattern, const char *path, bool fold_case);

/* Parses a non-negative decimal count with unit: "2s", "500ms", "5m", "1h", "90d" into
 * milliseconds. */
int text_parse_duration(const char *s, uint64_t *ret_ms);
/* "20MB", "512KiB", "4096": bytes (decimal and binary units; a trailing "/s" is allowed).
 * ERR_INVALID otherwise. */
int text_parse_size(const char *s, uint64_t *ret_bytes);

/* "1.5 MB", "312 B" (decimal units, 3 digits) into out. */
void text_format_size(uint64_t bytes, char out[16]);

/* Lower-case hex of n bytes into out[2 * n + 1]. */
void text_hex(const uint8_t *bytes, size_t n, char *out);

#endif
