#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_int log_level = LOG_LEVEL_INFO;
static atomic_int log_format = LOG_FORMAT_HUMAN;
static atomic_bool log_paths;
static log_sink current_sink;
static void *current_ctx;

static const char *const level_names[] = {"error", "warning", "notice", "info", "debug"};
static const char level_prefix[] = "34567"; /* syslog's numbers, for sd-daemon(3) prefixes */

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void log_setup(enum log_level level, enum log_format format, bool paths)
{
    atomic_store(&log_level, (int)level);
    atomic_store(&log_format, (int)format);
    atomic_store(&log_paths, paths);
}

void log_set_sink(log_sink sink, void *ctx)
{
    current_sink = sink;
    current_ctx = ctx;
}

bool log_paths_wanted(void)
{
    return atomic_load_explicit(&log_paths, memory_order_relaxed);
}

static bool is_written(const struct log_field *f)
{
    if (f->type == LOG_TYPE_PATH && !log_paths_wanted())
        return false;
    return (f->type != LOG_TYPE_STR && f->type != LOG_TYPE_PATH) || f->value.str;
}

/* The next character of s, in bytes; what is not UTF-8 is taken byte by byte, *ok false. */
static size_t character(const char *s, bool *ok)
{
    size_t left = strnlen(s, 4);
    for (size_t n = 1; n <= left; n++)
        if (text_utf8_valid(s, n)) {
            *ok = true;
            return n;
        }
    *ok = false;
    return 1;
}

/* RFC 8259, section 7; bytes that are not UTF-8 become U+FFFD. */
static void put_json_string(struct buf *out, const char *s)
{
    buf_put_u8(out, '"');
    while (*s) {
        bool ok;
        size_t n = character(s, &ok);
        unsigned char c = (unsigned char)*s;
        if (!ok)
            buf_put_str(out, "\xEF\xBF\xBD");
        else if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            buf_printf(out, "\\u%04x", c);
        else
            buf_put(out, s, n);
        s += n;
    }
    buf_put_u8(out, '"');
}

/* No text may begin a new line or move a terminal's cursor. */
static void put_plain(struct buf *out, const char *s, bool quoted)
{
    while (*s) {
        bool ok;
        size_t n = character(s, &ok);
        unsigned char c = (unsigned char)*s;
        /* C1 controls are U+0080..U+009F: C2 80..C2 9F */
        bool c1 = n == 2 && c == 0xC2 && (unsigned char)s[1] < 0xA0;
        if (!ok || c < 0x20 || c == 0x7F || c1)
            for (size_t i = 0; i < n; i++)
                buf_printf(out, "\\x%02x", (unsigned char)s[i]);
        else if (quoted && (c == '"' || c == '\\'))
            buf_printf(out, "\\%c", c);
        else
            buf_put(out, s, n);
        s += n;
    }
}

static void put_number(struct buf *out, const struct log_field *f, const char *not_finite)
{
    if (f->type == LOG_TYPE_INT)
        buf_printf(out, "%" PRId64, f->value.i);
    else if (f->type == LOG_TYPE_UINT)
        buf_printf(out, "%" PRIu64, f->value.u);
    else if (isfinite(f->value.d))
        buf_printf(out, "%.6g", f->value.d);
    else
        buf_put_str(out, not_finite);
}

static bool is_text(const struct log_field *f)
{
    return f->type == LOG_TYPE_STR || f->type == LOG_TYPE_PATH;
}

static void put_json(struct buf *out, enum log_level level, const char *time, const char *message,
                     const struct log_field *fields)
{
    buf_printf(out, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":", time, level_names[level]);
    put_json_string(out, message);
    for (const struct log_field *f = fields; f && f->key; f++) {
        if (!is_written(f))
            continue;
        buf_put_u8(out, ',');
        put_json_string(out, f->key);
        buf_put_u8(out, ':');
        if (is_text(f))
            put_json_string(out, f->value.str);
        else
            put_number(out, f, "null");
    }
    buf_put_str(out, "}\n");
}

void log_put_text(struct buf *out, const char *message, const struct log_field *fields)
{
    put_plain(out, message, false);
    for (const struct log_field *f = fields; f && f->key; f++) {
        if (!is_written(f))
            continue;
        buf_printf(out, " %s=", f->key);
        if (!is_text(f))
            put_number(out, f, "nan");
        else if (f->value.str[0] && !strpbrk(f->value.str, " \"\\="))
            put_plain(out, f->value.str, false);
        else {
            buf_put_u8(out, '"');
            put_plain(out, f->value.str, true);
            buf_put_u8(out, '"');
        }
    }
}

/* One line, one write: lines of several threads or processes do not mix. */
static void write_line(const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDERR_FILENO, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nowhere to tell it */
        data += n;
        size -= (size_t)n;
    }
}

void log_event(enum log_level level, const char *message, const struct log_field *fields)
{
    if (!log_enabled(level))
        return;
    if (current_sink) {
        current_sink(level, message, fields, current_ctx);
        return;
    }
    int errnum = errno;
    struct buf line = {0};
    char time[25];
    clock_format(clock_realtime_ms(), time);
    switch ((enum log_format)atomic_load_explicit(&log_format, memory_order_relaxed)) {
    case LOG_FORMAT_JSON:
        put_json(&line, level, time, message, fields);
        break;
    case LOG_FORMAT_JOURNALD: /* no sink: systemd reads stderr and has the time itself */
        buf_printf(&line, "<%c>", level_prefix[level]);
        log_put_text(&line, message, fields);
        buf_put_u8(&line, '\n');
        break;
    case LOG_FORMAT_HUMAN:
        buf_printf(&line, "%s %-7s ", time, level_names[level]);
        log_put_text(&line, message, fields);
        buf_put_u8(&line, '\n');
        break;
    }
    if (!buf_failed(&line))
        write_line(line.data, line.size);
    else { /* out of memory: at least the constant text */
        write_line((const uint8_t *)message, strlen(message));
        write_line((const uint8_t *)"\n", 1);
    }
    buf_free(&line);
    errno = errnum;
}
