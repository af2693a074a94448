#include "notify.h"

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

static void sink(enum log_level level, const char *message, const struct log_field *fields,
                 void *ctx)
{
    static const char priorities[] = {'3', '4', '5', '6', '7'};
    struct iovec iov[FIELDS_MAX + 2];
    char *texts[FIELDS_MAX + 2];
    int n = 0;
    (void)ctx;
    if (asprintf(&texts[0], "MESSAGE=%s", message) < 0)
        return;
    n = 1;
    if (asprintf(&texts[n], "PRIORITY=%c", priorities[level]) >= 0)
        n++;
    for (; fields->key && n < FIELDS_MAX; fields++) {
        char key[64];
        size_t i;
        int rc = -1;
        for (i = 0; fields->key[i] && i < sizeof key - 1; i++)
            key[i] = (char)toupper((unsigned char)fields->key[i]);
        key[i] = '\0';
        if (fields->type == LOG_TYPE_STR || (fields->type == LOG_TYPE_PATH && log_paths_wanted())) {
            if (fields->value.str)
                rc = asprintf(&texts[n], "DCMFERRY_%s=%s", key, fields->value.str);
        } else if (fields->type == LOG_TYPE_INT) {
            rc = asprintf(&texts[n], "DCMFERRY_%s=%" PRId64, key, fields->value.i);
        } else if (fields->type == LOG_TYPE_UINT) {
            rc = asprintf(&texts[n], "DCMFERRY_%s=%" PRIu64, key, fields->value.u);
        } else if (fields->type == LOG_TYPE_DOUBLE) {
            rc = asprintf(&texts[n], "DCMFERRY_%s=%g", key, fields->value.d);
        }
        if (rc >= 0)
            n++;
    }
    for (int i = 0; i < n; i++)
        iov[i] = (struct iovec){.iov_base = texts[i], .iov_len = strlen(texts[i])};
    sd_journal_sendv(iov, n);
    for (int i = 0; i < n; i++)
        free(texts[i]);
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
