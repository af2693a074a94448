/* Files made to hurt: each costs a worker a bounded time and size, the daemon one reject. */
#include "make.h"
#include "read.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define MAX_RSS_KB 262144 /* 256 MiB, a promise of the release build */
#define MAX_MS     10000

/* A line "Key:  123 kB" of our only child's /proc/PID/status; -1 if there is none. */
static long child_status(const char *key)
{
    char path[64], line[256];
    long pid = 0, value = -1;
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%ld", &pid) != 1) {
            pid = 0;
        }
        fclose(f);
    }
    snprintf(path, sizeof(path), "/proc/%ld/status", pid);
    f = pid > 0 ? fopen(path, "re") : NULL;
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':') {
            value = strtol(line + strlen(key) + 1, NULL, 10);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return value;
}

static const char *const syntaxes[] = {MAKE_EXPLICIT, MAKE_IMPLICIT, MAKE_BIG_ENDIAN};

static void assert_alive(void)
{
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_image(&m);
    const struct result *r = read_bytes(m.bytes.data, m.bytes.size, NULL, 0);
    assert_int_equal(r->status, 0);
    make_free(&m);
}

/* Reads it, checks time and the worker's greatest size; the worker must not have crashed. */
static const struct result *read_bounded(const struct make *m)
{
    const uint64_t start = clock_monotonic_ms();
    const struct result *r = read_bytes(m->bytes.data, m->bytes.size, NULL, 0);
    const uint64_t took = clock_monotonic_ms() - start;
    const long rss = child_status("VmHWM");
    if (getenv("VERBOSE") != NULL) {
        print_message("%zu bytes: %d %s: %llu ms, %ld KiB\n", m->bytes.size, r->status, r->text,
                      (unsigned long long)took, rss);
    }
    assert_true(rss > 0);
    if (!SANITIZED) {
        assert_true(took <= MAX_MS);
        assert_true(rss <= MAX_RSS_KB);
    }
    return r;
}

static void test_locked_in(void **state)
{
    (void)state;
    assert_alive();
    assert_int_equal(child_status("NoNewPrivs"), 1);
    if (!SANITIZED) {
        assert_int_equal(child_status("Seccomp"), 2);
    }
}

static void test_deep(void **state)
{
    (void)state;
    enum { DEEP = 100000 };
    for (size_t s = 0; s < 3; s++) {
        /* without lengths */
        struct make m = make_begin(syntaxes[s]);
        make_meta(&m, syntaxes[s]);
        make_identity(&m);
        for (unsigned i = 0; i < DEEP; i++) {
            make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
            make_item(&m, MAKE_UNDEFINED);
        }
        assert_int_equal(read_bounded(&m)->status, ERR_HOSTILE);
        for (unsigned i = 0; i < DEEP; i++) {
            make_item_end(&m);
            make_sequence_end(&m);
        }
        const struct result *r = read_bounded(&m);
        assert_int_equal(r->status, ERR_HOSTILE);
        assert_non_null(strstr(r->text, "deep"));
        make_free(&m);
        /* with */
        m = make_begin(syntaxes[s]);
        make_meta(&m, syntaxes[s]);
        make_identity(&m);
        const uint32_t level = s == 1 ? 16 : 20;
        for (uint32_t left = DEEP; left > 0; left--) {
            make_header(&m, 0x0040a730, "SQ", left * level - (level - 8));
            make_item(&m, left * level - level);
        }
        assert_int_equal(read_bounded(&m)->status, ERR_HOSTILE);
        make_free(&m);
    }
    /* disguised as UN, of a tag that is asked for: DCMTK itself would recurse into it */
    for (size_t s = 0; s < 3; s++) {
        struct make m = make_begin(syntaxes[s]), inner = make_begin(MAKE_IMPLICIT);
        for (uint32_t left = DEEP; left > 0; left--) {
            make_header(&inner, 0x0040a730, "SQ", left * 16 - 8);
            make_item(&inner, left * 16 - 16);
        }
        make_meta(&m, syntaxes[s]);
        make_identity(&m);
        make_bytes(&m, 0x0040a730, "UN", inner.bytes.data + 8, inner.bytes.size - 8);
        static const uint32_t tags[] = {0x0040a730};
        assert_int_equal(read_bytes(m.bytes.data, m.bytes.size, tags, 1)->status, ERR_HOSTILE);
        assert_non_null(strstr(read_bytes(m.bytes.data, m.bytes.size, tags, 1)->text, "deep"));
        make_free(&m);
        make_free(&inner);
    }
    /* as deep as real files go, and more */
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_identity(&m);
    for (unsigned i = 0; i < 100; i++) {
        make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
        make_item(&m, MAKE_UNDEFINED);
    }
    for (unsigned i = 0; i < 100; i++) {
        make_item_end(&m);
        make_sequence_end(&m);
    }
    assert_int_equal(read_bounded(&m)->status, 0);
    make_free(&m);
    assert_alive();
}

static void test_lengths(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {0xfffffffe, 0xfffffff0, 0x80000000, 0x7fffffff, 0x10000000};
    static const struct {
        uint32_t tag;
        const char *vr;
    } elements[] = {{0x7fe00010, "OW"}, {0x0040a160, "UT"}, {0x00420011, "OB"},
                    {0x0040a730, "SQ"}, {0x00411001, "UN"}, {0x00282110, "UC"}};
    for (size_t s = 0; s < 3; s++) {
        for (size_t e = 0; e < sizeof(elements) / sizeof(elements[0]); e++) {
            for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                struct make m = make_begin(syntaxes[s]);
                make_meta(&m, syntaxes[s]);
                make_identity(&m);
                make_header(&m, elements[e].tag, elements[e].vr, lengths[i]);
                buf_put_str(&m.bytes, "01234567");
                assert_int_equal(read_bounded(&m)->status, ERR_TRUNCATED);
                make_free(&m);
                /* within an item that ends */
                m = make_begin(syntaxes[s]);
                make_meta(&m, syntaxes[s]);
                make_identity(&m);
                make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
                make_item(&m, MAKE_UNDEFINED);
                make_header(&m, elements[e].tag, elements[e].vr, lengths[i]);
                make_item_end(&m);
                make_sequence_end(&m);
                assert_int_equal(read_bounded(&m)->status, ERR_TRUNCATED);
                make_free(&m);
            }
        }
        /* that of the element that is asked for, and the meta header's */
        struct make m = make_begin(syntaxes[s]);
        make_meta(&m, syntaxes[s]);
        make_header(&m, 0x00080018, "UN", 0xfffffffe);
        assert_int_equal(read_bounded(&m)->status, ERR_TRUNCATED);
        m.bytes.size = 132;
        m.implicit = false;
        m.big_endian = false;
        make_header(&m, 0x00020001, "OB", 0xfffffffe);
        assert_int_equal(read_bounded(&m)->status, ERR_TRUNCATED);
        make_free(&m);
    }
    assert_alive();
}

/* A hole of 6 GiB in which elements claim 4 GiB and get them: nothing of it is loaded. */
static void test_sparse(void **state)
{
    (void)state;
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_identity(&m);
    make_header(&m, 0x0040a160, "UT", 0xfffffffe);
    const int fd = memfd_create("dicom", MFD_CLOEXEC);
    static const uint32_t tags[] = {0x0040a160};
    assert_true(fd >= 0);
    assert_int_equal(write(fd, m.bytes.data, m.bytes.size), (ssize_t)m.bytes.size);
    if (ftruncate(fd, (off_t)m.bytes.size + 0xfffffffeLL) == 0) {
        const struct result *r = read_fd(fd, tags, 1);
        assert_int_equal(r->status, 0);
        assert_string_equal(r->value[0], "");
        assert_true(SANITIZED || child_status("VmHWM") <= MAX_RSS_KB);
    }
    close(fd);
    make_free(&m);
}

static void test_many_elements(void **state)
{
    (void)state;
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_identity(&m);
    make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
    for (unsigned i = 0; i < 400000; i++) {
        make_item(&m, MAKE_UNDEFINED);
        make_text(&m, 0x00080100, "SH", "C");
        make_item_end(&m);
    }
    make_sequence_end(&m);
    assert_int_equal(read_bounded(&m)->status, 0);
    make_free(&m);
    m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_identity(&m);
    for (unsigned i = 0; i < 400000; i++) {
        make_text(&m, 0x00210010, "LO", "");
    }
    assert_int_equal(read_bounded(&m)->status, 0);
    make_free(&m);
}

/* Pixel data of 4 GiB in a deflated file of 5 MB: inflated up to a limit, never kept. */
static void test_bomb(void **state)
{
    (void)state;
    struct make m = make_begin(MAKE_DEFLATED), block = {0};
    make_meta(&m, MAKE_DEFLATED);
    make_identity(&block);
    make_header(&block, 0x7fe00010, "OW", 0xfffffff0);
    /* a stored block (RFC 1951 3.2.4), not the last */
    buf_put_u8(&m.bytes, 0);
    buf_put_u16le(&m.bytes, (uint16_t)block.bytes.size);
    buf_put_u16le(&m.bytes, (uint16_t)~block.bytes.size);
    buf_put(&m.bytes, block.bytes.data, block.bytes.size);
    struct make zeros = {0};
    uint8_t *megabytes = calloc(16, 1 << 20);
    assert_non_null(megabytes);
    buf_put(&zeros.bytes, megabytes, 16u << 20);
    free(megabytes);
    make_deflate_part(&zeros);
    for (unsigned i = 0; i < 300; i++) {
        buf_put(&m.bytes, zeros.bytes.data, zeros.bytes.size);
    }
    const struct result *r = read_bounded(&m);
    assert_int_equal(r->status, ERR_HOSTILE);
    assert_non_null(strstr(r->text, "inflate"));
    make_free(&m);
    make_free(&block);
    make_free(&zeros);
    assert_alive();
}

static uint32_t random_state = 20260102;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* Valid files with bytes changed, removed, doubled: any fate but a crash. */
static void test_mutations(void **state)
{
    (void)state;
    static const uint32_t tags[] = {0x00080005, 0x00080008, 0x00080060, 0x00100010, 0x00280010,
                                    0x00081140, 0x7fe00010, 0x00020010, 0x00280103};
    for (unsigned round = 0; round < 1500; round++) {
        const char *syntax = round % 4 < 3 ? syntaxes[round % 4] : MAKE_DEFLATED;
        struct make m = make_begin(syntax);
        make_meta(&m, syntax);
        const size_t start = m.bytes.size;
        make_image(&m);
        if (round % 4 == 3) {
            make_deflate(&m, start, -15);
        }
        for (unsigned n = 1 + next_random() % 8; n > 0; n--) {
            const size_t at = 128 + next_random() % (m.bytes.size - 128);
            const size_t length = 1 + next_random() % 16;
            switch (next_random() % 4) {
            case 0:
                m.bytes.data[at] = (uint8_t)next_random();
                break;
            case 1:
                m.bytes.data[at] = next_random() % 2 ? 0xff : 0;
                break;
            case 2:
                if (at + length < m.bytes.size) {
                    memmove(m.bytes.data + at, m.bytes.data + at + length,
                            m.bytes.size - at - length);
                    m.bytes.size -= length;
                }
                break;
            default:
                if (at + length < m.bytes.size) {
                    memmove(m.bytes.data + at,
                            m.bytes.data + 128 + next_random() % (m.bytes.size - 128 - length),
                            length);
                }
                break;
            }
        }
        const struct result *r =
            read_bytes(m.bytes.data, m.bytes.size, tags, sizeof(tags) / sizeof(tags[0]));
        if (r->status == ERR_HOSTILE && strstr(r->text, "deep") == NULL &&
            strstr(r->text, "inflate") == NULL) {
            fail_msg("round %u: %s", round, r->text);
        }
        make_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_locked_in),     cmocka_unit_test(test_deep),
        cmocka_unit_test(test_lengths),       cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_many_elements), cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_mutations),
    };
    if (getenv("ONLY") != NULL) {
        cmocka_set_test_filter(getenv("ONLY"));
    }
    return cmocka_run_group_tests(tests, read_setup, read_teardown);
}
