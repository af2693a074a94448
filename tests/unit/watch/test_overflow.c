/* The kernel's event queue overflows. Its length is fixed when the descriptor is made, so the limit
 * is lowered for that moment only. */
#include "harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LIMIT "/proc/sys/fs/inotify/max_queued_events"

static bool exchange(const char *text, char old[32])
{
    int fd = open(LIMIT, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, old, 31);
    old[n > 0 ? n : 0] = '\0';
    bool ok = n > 0 && pwrite(fd, text, strlen(text), 0) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

static void overflow_becomes_a_rescan(void **state)
{
    (void)state;
    int lock = open("/tmp/dcmferry-test-inotify.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    assert_in_range(lock, 0, 1 << 20);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    char before[32], ours[32];
    if (!exchange("32", before)) {
        print_message("skipped: " LIMIT " is not writable\n");
        skip();
    }
    struct rig r;
    rig_init(&r);
    r.o.settle_ms = 50;
    rig_open(&r);
    assert_true(exchange(before, ours));
    close(lock);
    RUN_UNTIL(&r, r.notices[WATCH_NOTICE_SCAN_DONE] == 1 && rig_quiet(&r));
    char rel[64];
    for (int i = 0; i < 20; i++) {
        snprintf(rel, sizeof rel, "d%d", i);
        make(&r, rel);
        RUN_UNTIL(&r, rig_quiet(&r));
    }
    for (int i = 0; i < 20; i++) {
        for (int k = 0; k < 50; k++) {
            snprintf(rel, sizeof rel, "d%d/%d", i, k);
            put(&r, rel, "x");
        }
    }
    RUN_UNTIL(&r, rig_distinct(&r) == 1000 && rig_quiet(&r));
    assert_in_range(r.notices[WATCH_NOTICE_OVERFLOW], 1, 100);
    assert_in_range(r.notices[WATCH_NOTICE_SCAN_DONE], 2, 101);
    put(&r, "d19/after", "x"); /* and all is watched */
    RUN_UNTIL(&r, rig_count(&r, "d19/after") == 1);
    rig_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(overflow_becomes_a_rescan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
