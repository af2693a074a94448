/* The log: one event, one line, fixed keys. Thread-safe.
 *
 * Rule 6 of the architecture: no patient names, patient IDs, paths or keys in messages or values. A
 * path goes into LOG_PATH, which is dropped unless log_paths is set. Messages are constant text;
 * what varies goes into fields. Only programs and core/pipeline log above debug; the other modules
 * return errors. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

enum log_format { LOG_FORMAT_HUMAN, LOG_FORMAT_JSON, LOG_FORMAT_JOURNALD };

struct log_field {
    const char *key; /* lower_case; NULL ends the list */
    enum { LOG_TYPE_STR, LOG_TYPE_INT, LOG_TYPE_UINT, LOG_TYPE_DOUBLE, LOG_TYPE_PATH } type;
    union {
        const char *str; /* NULL: the field is left out */
        int64_t i;
        uint64_t u;
        double d;
    } value;
};

/* clang-format off */
#define LOG_STR(k, v)    {.key = (k), .type = LOG_TYPE_STR, .value.str = (v)}
#define LOG_INT(k, v)    {.key = (k), .type = LOG_TYPE_INT, .value.i = (v)}
#define LOG_UINT(k, v)   {.key = (k), .type = LOG_TYPE_UINT, .value.u = (v)}
#define LOG_DOUBLE(k, v) {.key = (k), .type = LOG_TYPE_DOUBLE, .value.d = (v)}
#define LOG_PATH(k, v)   {.key = (k), .type = LOG_TYPE_PATH, .value.str = (v)}
/* clang-format on */

/* Writes one event; `fields` ends with a field whose key is NULL. Nothing is kept. */
void log_event(enum log_level level, const char *message, const struct log_field *fields);

#define LOG_AT(level, message, ...)                                                                \
    log_event((level), (message),                                                                  \
              (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){.key = NULL}})
#define log_error(message, ...)   LOG_AT(LOG_LEVEL_ERROR, message, __VA_ARGS__)
#define log_warning(message, ...) LOG_AT(LOG_LEVEL_WARNING, message, __VA_ARGS__)
#define log_notice(message, ...)  LOG_AT(LOG_LEVEL_NOTICE, message, __VA_ARGS__)
#define log_info(message, ...)    LOG_AT(LOG_LEVEL_INFO, message, __VA_ARGS__)
#define log_debug(message, ...)                                                                    \
    (log_enabled(LOG_LEVEL_DEBUG) ? LOG_AT(LOG_LEVEL_DEBUG, message, __VA_ARGS__) : (void)0)

/* Whether events of that level are written. */
bool log_enabled(enum log_level level);

/* Sets level, format and whether LOG_PATH fields are written. Default: info, human, no paths, to
 * stderr. */
void log_setup(enum log_level level, enum log_format format, bool log_paths);

/* Hands every written event to `sink` instead of stderr (the daemon's journald sink, tests); NULL
 * restores stderr. Call before threads start. The sink may not log. */
typedef void (*log_sink)(enum log_level level, const char *message, const struct log_field *fields,
                         void *ctx);
void log_set_sink(log_sink sink, void *ctx);

/* Whether LOG_PATH fields are wanted (for sinks). */
bool log_paths_wanted(void);

/* For sinks: message and fields on one line for people, `message key=value …`, without its end. */
void log_put_text(struct buf *out, const char *message, const struct log_field *fields);

#endif
