#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int saved_stderr, log_fd;
static char output[65536];

/* stderr goes to a file between these two. */
static void capture(void)
{
    fflush(stderr);
    assert_int_equal(ftruncate(log_fd, 0), 0);
    assert_int_equal(lseek(log_fd, 0, SEEK_SET), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(log_fd, STDERR_FILENO);
}

static const char *captured(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t n = pread(log_fd, output, sizeof(output) - 1, 0);
    assert_true(n >= 0);
    output[n] = '\0';
    return output;
}

static int64_t at_zero(void)
{
    return 0;
}

static void test_human(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN, false);
    capture();
    log_info("plain");
    log_warning("all kinds", LOG_STR("s", "word"), LOG_STR("none", NULL), LOG_INT("i", -7),
                LOG_UINT("u", UINT64_MAX), LOG_DOUBLE("d", 0.25), LOG_DOUBLE("nan", NAN));
    log_error("quoted", LOG_STR("a", ""), LOG_STR("b", "two words"), LOG_STR("c", "a\"b\\c"),
              LOG_STR("d", "k=v"));
    assert_string_equal(
        captured(), "1970-01-01T00:00:00.000Z info    plain\n"
                    "1970-01-01T00:00:00.000Z warning all kinds s=word i=-7 u=18446744073709551615 "
                    "d=0.25 nan=nan\n"
                    "1970-01-01T00:00:00.000Z error   quoted a=\"\" b=\"two words\" "
                    "c=\"a\\\"b\\\\c\" d=\"k=v\"\n");
}

/* No value can begin a line of its own or reach a terminal's controls. */
static void test_one_line(void **state)
{
    (void)state;
    static const enum log_format formats[] = {LOG_FORMAT_HUMAN, LOG_FORMAT_JSON,
                                              LOG_FORMAT_JOURNALD};
    for (int f = 0; f < 3; f++)
        for (int c = 1; c < 256; c++) {
            char text[] = {'a', (char)c, 'b', '\0'};
            log_setup(LOG_LEVEL_INFO, formats[f], true);
            capture();
            log_info(text, LOG_STR("key", text), LOG_PATH("path", text));
            const char *line = captured();
            size_t n = strlen(line);
            assert_true(n > 10 && line[n - 1] == '\n');
            for (size_t i = 0; i < n - 1; i++)
                if ((unsigned char)line[i] < 0x20 || line[i] == 0x7F)
                    fail_msg("format %d lets %02x through", f, c);
        }
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN, false);
    capture();
    log_info("m", LOG_STR("k", "\xC2\x9Bx\xC3\xA4\xFF"));
    assert_non_null(strstr(captured(), "k=\\xc2\\x9bx\xC3\xA4\\xff\n"));
}

static void test_json(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON, true);
    capture();
    log_debug("say \"hi\"\n", LOG_STR("s", "tab\t\\ \xE2\x82\xAC\xFF"), LOG_INT("i", INT64_MIN),
              LOG_DOUBLE("d", INFINITY), LOG_DOUBLE("e", 1.5), LOG_PATH("p", "/x"));
    assert_string_equal(
        captured(), "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"debug\",\"message\":\"say "
                    "\\\"hi\\\"\\u000a\",\"s\":\"tab\\u0009\\\\ \xE2\x82\xAC\xEF\xBF\xBD\","
                    "\"i\":-9223372036854775808,\"d\":null,\"e\":1.5,\"p\":\"/x\"}\n");
}

static void test_journald_prefix(void **state)
{
    (void)state;
    static const char *const want[] = {"<3>m\n", "<4>m\n", "<5>m\n", "<6>m\n", "<7>m\n"};
    log_setup(LOG_LEVEL_DEBUG, LOG_FORMAT_JOURNALD, false);
    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        capture();
        log_event((enum log_level)level, "m", NULL);
        assert_string_equal(captured(), want[level]);
    }
}

static void test_levels(void **state)
{
    (void)state;
    for (int set = LOG_LEVEL_ERROR; set <= LOG_LEVEL_DEBUG; set++)
        for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
            log_setup((enum log_level)set, LOG_FORMAT_HUMAN, false);
            assert_int_equal(log_enabled((enum log_level)level), level <= set);
            capture();
            log_event((enum log_level)level, "m", NULL);
            assert_int_equal(captured()[0] != '\0', level <= set);
        }
}

/* Rule 6: paths only where the operator asked for them. */
static void test_paths(void **state)
{
    (void)state;
    for (int format = LOG_FORMAT_HUMAN; format <= LOG_FORMAT_JOURNALD; format++)
        for (int paths = 0; paths < 2; paths++) {
            log_setup(LOG_LEVEL_INFO, (enum log_format)format, paths);
            assert_int_equal(log_paths_wanted(), paths);
            capture();
            log_info("m", LOG_PATH("path", "/srv/secret"), LOG_STR("after", "x"));
            const char *line = captured();
            assert_int_equal(strstr(line, "secret") != NULL, paths);
            assert_int_equal(strstr(line, "path") != NULL, paths);
            assert_non_null(strstr(line, "after"));
        }
}

static unsigned sunk;

static void sink(enum log_level level, const char *message, const struct log_field *fields,
                 void *ctx)
{
    assert_int_equal(level, LOG_LEVEL_NOTICE);
    assert_string_equal(message, "to the sink");
    assert_string_equal(fields[0].key, "k");
    assert_null(fields[1].key);
    assert_ptr_equal(ctx, &sunk);
    sunk++;
}

static void test_sink(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN, false);
    log_set_sink(sink, &sunk);
    capture();
    log_notice("to the sink", LOG_STR("k", "v"));
    log_debug("below the level", LOG_STR("k", "v"));
    assert_string_equal(captured(), "");
    assert_int_equal(sunk, 1);
    log_set_sink(NULL, NULL);
    capture();
    log_notice("back");
    assert_non_null(strstr(captured(), "back"));
}

static void test_keeps_errno(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN, false);
    capture();
    close(STDERR_FILENO); /* nowhere to write to */
    errno = ENOSPC;
    log_info("lost");
    int errnum = errno;
    captured();
    assert_int_equal(errnum, ENOSPC);
}

static void *many(void *arg)
{
    for (int i = 0; i < 100; i++)
        log_info("a line of some length, so that pieces would show", LOG_STR("thread", arg),
                 LOG_INT("n", i));
    return NULL;
}

/* Lines of several threads are whole. */
static void test_threads(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_HUMAN, false);
    capture();
    assert_true(fcntl(log_fd, F_SETFL, O_APPEND) == 0);
    pthread_t threads[4];
    static char names[4][2] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, many, names[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    char *save = NULL;
    int lines = 0;
    captured();
    for (char *line = strtok_r(output, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int n;
        char thread;
        assert_int_equal(
            sscanf(line,
                   "1970-01-01T00:00:00.000Z info    a line of some length, so that pieces would "
                   "show thread=%c n=%d",
                   &thread, &n),
            2);
        lines++;
    }
    assert_int_equal(lines, 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_human),   cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_json),    cmocka_unit_test(test_journald_prefix),
        cmocka_unit_test(test_levels),  cmocka_unit_test(test_paths),
        cmocka_unit_test(test_sink),    cmocka_unit_test(test_keeps_errno),
        cmocka_unit_test(test_threads),
    };
    FILE *file = tmpfile();
    if (!file)
        return 1;
    log_fd = fileno(file);
    clock_set_source(NULL, at_zero);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    fclose(file);
    return r;
}
