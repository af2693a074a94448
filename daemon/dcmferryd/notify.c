#include "notify.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#ifdef HAVE_SYSTEMD

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-daemon.h>
#define SD_JOURNAL_SUPPRESS_LOCATION /* it would always be that of the sink */
#include <systemd/sd-journal.h>
#include <unistd.h>

#define FIELDS_MAX 32

void notify_state(const char *state)
{
    sd_notify(0, state);
}

void notify_reloading(void)
{
    char state[80];
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_monotonic_us());
    sd_notify(0, state);
}

void notify_stopping(uint64_t ms)
{
    char state[80];
    snprintf(state, sizeof state, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64, ms * 1000);
    sd_notify(0, state);
}

uint64_t notify_watchdog_ms(void)
{
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us / 2000 : 0;
}

/* $JOURNAL_STREAM names device and inode of the stream that systemd connected (systemd.exec(5)). */
bool notify_under_journald(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && (unsigned long long)st.st_dev == dev &&
           (unsigned long long)st.st_ino == ino;
}

/* DCMFERRY_KEY=value, to be freed; NULL: it is not to be written, or out of memory. */
static char *field_text(const struct log_field *f)
{
    char *text = NULL, key[64];
    size_t i;
    int rc = -1;
    for (i = 0; f->key[i] && i < sizeof key - 1; i++)
        key[i] = (char)toupper((unsigned char)f->key[i]);
    key[i] = '\0';
    switch (f->type) {
    case LOG_TYPE_PATH:
    case LOG_TYPE_STR:
        if (f->value.str && (f->type == LOG_TYPE_STR || log_paths_wanted()))
            rc = asprintf(&text, "DCMFERRY_%s=%s", key, f->value.str);
        break;
    case LOG_TYPE_INT:
        rc = asprintf(&text, "DCMFERRY_%s=%" PRId64, key, f->value.i);
        break;
    case LOG_TYPE_UINT:
        rc = asprintf(&text, "DCMFERRY_%s=%" PRIu64, key, f->value.u);
        break;
    case LOG_TYPE_DOUBLE:
        rc = asprintf(&text, "DCMFERRY_%s=%g", key, f->value.d);
        break;
    }
    return rc < 0 ? NULL : text;
}

/* journalctl shows people nothing but the message: it holds the fields too. */
static void sink(enum log_level level, const char *message, const struct log_field *fields,
                 void *ctx)
{
    static const char *const priorities[] = {"PRIORITY=3", "PRIORITY=4", "PRIORITY=5", "PRIORITY=6",
                                             "PRIORITY=7"};
    struct iovec iov[2 + FIELDS_MAX];
    char *texts[FIELDS_MAX];
    struct buf line = {0};
    int n = 0;
    (void)ctx;
    buf_put_str(&line, "MESSAGE=");
    log_put_text(&line, message, fields);
    for (const struct log_field *f = fields; f && f->key && n < FIELDS_MAX; f++)
        if ((texts[n] = field_text(f)))
            n++;
    iov[0] = (struct iovec){.iov_base = line.data, .iov_len = line.size};
    iov[1] = (struct iovec){.iov_base = (void *)(uintptr_t)priorities[level],
                            .iov_len = strlen(priorities[level])};
    for (int i = 0; i < n; i++)
        iov[2 + i] = (struct iovec){.iov_base = texts[i], .iov_len = strlen(texts[i])};
    if (!buf_failed(&line))
        sd_journal_sendv(iov, 2 + n);
    for (int i = 0; i < n; i++)
        free(texts[i]);
    buf_free(&line);
}

void notify_log_to_journald(void)
{
    log_set_sink(sink, NULL);
}

#else

void notify_state(const char *state)
{
    (void)state;
}

void notify_reloading(void)
{
}

void notify_stopping(uint64_t ms)
{
    (void)ms;
}

uint64_t notify_watchdog_ms(void)
{
    return 0;
}

bool notify_under_journald(void)
{
    return false;
}

void notify_log_to_journald(void)
{
}

#endif
