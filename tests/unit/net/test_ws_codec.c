#include "net/ws_codec.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROOM (65536 + WS_CODEC_CONTROL_ROOM)

/* The messages received, each as "t" or "b", length, ":", bytes. */
static struct buf seen;
static struct ws_codec *stop_at_message;

static void on_message(bool binary, const uint8_t *data, size_t size, void *ctx)
{
    (void)ctx;
    buf_printf(&seen, "%c%zu:", binary ? 'b' : 't', size);
    buf_put(&seen, data, size);
    if (stop_at_message)
        ws_codec_stop(stop_at_message);
}

static struct ws_codec *begin(size_t max)
{
    buf_clear(&seen);
    struct ws_codec *c = ws_codec_new(max, on_message, NULL);
    assert_non_null(c);
    return c;
}

static void end(struct ws_codec *c)
{
    ws_codec_free(c);
    buf_free(&seen);
}

static int feed(struct ws_codec *c, const void *data, size_t size, size_t step, struct err *e)
{
    const uint8_t *p = data;
    for (size_t n; size > 0; p += n, size -= n) {
        n = size < step ? size : step;
        int rc = ws_codec_feed(c, p, n, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Everything it wants to write, as a server unmasks it: each frame as "opcode,length:bytes;". */
static void produce(struct ws_codec *c, size_t room, struct buf *out)
{
    struct buf wire = {0};
    uint8_t *part = malloc(room);
    ssize_t n;
    while ((n = ws_codec_produce(c, part, room)) > 0) {
        assert_true((size_t)n <= room);
        buf_put(&wire, part, (size_t)n);
        ws_codec_flushed(c);
    }
    assert_int_equal(n, 0);
    assert_false(ws_codec_wants_write(c));
    free(part);
    struct buf_reader r = buf_reader(wire.data, wire.size);
    while (buf_left(&r) > 0) {
        unsigned first = buf_get_u8(&r), second = buf_get_u8(&r);
        assert_int_equal(first & 0xf0, 0x80);  /* whole, no extensions */
        assert_int_equal(second & 0x80, 0x80); /* masked */
        size_t size = second & 0x7f, more = size == 126 ? 2 : size == 127 ? 8 : 0;
        if (more > 0)
            size = 0;
        for (size_t i = 0; i < more; i++)
            size = size << 8 | buf_get_u8(&r);
        const uint8_t *mask = buf_get(&r, 4), *data = buf_get(&r, size);
        assert_false(r.failed);
        buf_printf(out, "%x,%zu:", first & 15, size);
        for (size_t i = 0; i < size; i++)
            buf_put_u8(out, data[i] ^ mask[i % 4]);
        buf_put_u8(out, ';');
    }
    buf_free(&wire);
}

static void expect_produced(struct ws_codec *c, const char *frames)
{
    struct buf out = {0};
    produce(c, ROOM, &out);
    assert_string_equal(buf_cstr(&out), frames);
    buf_free(&out);
}

static void test_receive(void **state)
{
    (void)state;
    /* Text, an empty message, a message of 200, one in three fragments with a ping and a pong
     * between. */
    static const char head[] = "\x81\x02hi"
                               "\x82\x00"
                               "\x82\x7e\x00\xc8";
    static const char tail[] = "\x02\x01"
                               "a"
                               "\x89\x03png"
                               "\x00\x00"
                               "\x8a\x00"
                               "\x80\x02"
                               "bc";
    struct buf wire = {0}, want = {0};
    buf_put(&wire, head, sizeof head - 1);
    buf_put_str(&want, "t2:hib0:b200:");
    for (int i = 0; i < 200; i++) {
        buf_put_u8(&wire, 'x');
        buf_put_u8(&want, 'x');
    }
    buf_put(&wire, tail, sizeof tail - 1);
    buf_put_str(&want, "b3:abc");
    for (size_t step = 1; step <= wire.size; step++) {
        struct ws_codec *c = begin(200);
        struct err e;
        assert_int_equal(feed(c, wire.data, wire.size, step, &e), 0);
        assert_string_equal(buf_cstr(&seen), buf_cstr(&want));
        expect_produced(c, "a,3:png;");
        end(c);
    }
    buf_free(&wire);
    buf_free(&want);
}

static void test_receive_large(void **state)
{
    (void)state;
    struct ws_codec *c = begin(1 << 20);
    struct buf wire = {0};
    buf_put(&wire, "\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x00", 10);
    for (size_t i = 0; i < 1 << 20; i++)
        buf_put_u8(&wire, (uint8_t)(i * 7));
    struct err e;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(feed(c, wire.data, wire.size, WS_CODEC_FEED_MAX, &e), 0);
        assert_int_equal(seen.size, 9 + (1 << 20));
        assert_memory_equal(seen.data, "b1048576:", 9);
        assert_memory_equal(seen.data + 9, wire.data + 10, 1 << 20);
        buf_clear(&seen);
    }
    buf_free(&wire);
    end(c);
}

static void test_ends(void **state)
{
    (void)state;
#define BYTES(s) s, sizeof s - 1
    static const struct {
        const char *wire;
        size_t size;
        int rc;
        const char *words, *answer;
    } vectors[] = {
        {BYTES("\x88\x00"), ERR_CLOSED, "(1005, without a code)", "8,0:;"},
        {BYTES("\x88\x02\x03\xe8"), ERR_CLOSED, "(1000, normal closure)", "8,2:\x03\xe8;"},
        {BYTES("\x88\x06\x03\xf0name"), ERR_CLOSED, "(1008, policy violation)", NULL},
        {BYTES("\x88\x01\x03"), ERR_CLOSED, "(1005", NULL},
        {BYTES("\x88\x02\x03\xed"), ERR_PROTOCOL, "not a WebSocket frame",
         NULL}, /* 1005 on the wire */
        {BYTES("\x82\x81\x01\x02\x03\x04\x05"), ERR_PROTOCOL, "not", "8,2:\x03\xea;"}, /* masked */
        {BYTES("\xc2\x01x"), ERR_PROTOCOL, "not", "8,2:\x03\xea;"},                    /* RSV1 */
        {BYTES("\x83\x01x"), ERR_PROTOCOL, "not", "8,2:\x03\xea;"}, /* opcode 3 */
        {BYTES("\x80\x01x"), ERR_PROTOCOL, "not", "8,2:\x03\xea;"}, /* nothing to continue */
        {BYTES("\x02\x01x\x82\x01y"), ERR_PROTOCOL, "not", "8,2:\x03\xea;"}, /* not continued */
        {BYTES("\x09\x01x"), ERR_PROTOCOL, "not", NULL},                  /* a ping in fragments */
        {BYTES("\x89\x7e\x00\x80"), ERR_PROTOCOL, "not", NULL},           /* a long ping */
        {BYTES("\x82\x7e\x00\x01x"), ERR_PROTOCOL, "not", NULL},          /* a length not minimal */
        {BYTES("\x82\x7f\x80\0\0\0\0\0\0\0"), ERR_PROTOCOL, "not", NULL}, /* 2^63 */
        {BYTES("\x81\x01\xff"), ERR_PROTOCOL, "not", "8,2:\x03\xef;"},    /* not UTF-8 */
        {BYTES("\x82\x0b"), ERR_PROTOCOL, "longer than 10", "8,2:\x03\xf1;"},
        {BYTES("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"), ERR_PROTOCOL, "longer than 10", NULL},
        {BYTES("\x02\x06"
               "abcdef\x80\x05"
               "ghijk"),
         ERR_PROTOCOL, "longer than 10", "8,2:\x03\xf1;"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct ws_codec *c = begin(10);
        struct err e = {0};
        /* Some ends show only with the first byte of the payload. */
        int rc = feed(c, vectors[i].wire, vectors[i].size, WS_CODEC_FEED_MAX, &e);
        if (rc == 0)
            rc = feed(c, "x", 1, 1, &e);
        if (rc != vectors[i].rc || e.code != rc || !strstr(e.text, vectors[i].words))
            fail_msg("%zu: %d %s", i, rc, e.text);
        assert_null(strstr(e.text, "name"));
        assert_int_equal(seen.size, 0);
        if (vectors[i].answer)
            expect_produced(c, vectors[i].answer);
        end(c);
    }
}

static void test_stop(void **state)
{
    (void)state;
    struct ws_codec *c = begin(10);
    struct err e;
    stop_at_message = c;
    assert_int_equal(feed(c, "\x82\x01x\x82\x01y", 6, 6, &e), 0);
    stop_at_message = NULL;
    assert_string_equal(buf_cstr(&seen), "b1:x");
    end(c);
}

static void test_send(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,     1,     125,   126,   127,   4095,  4096,   4097,
                                   65507, 65521, 65522, 65535, 65536, 65537, 131072, 200000};
    static const size_t rooms[] = {WS_CODEC_CONTROL_ROOM + 15, WS_CODEC_CONTROL_ROOM + 4100, ROOM};
    static uint8_t data[200000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 11 + i / 251);
    for (size_t k = 0; k < 3; k++) {
        struct ws_codec *c = begin(10);
        struct buf want = {0}, got = {0};
        size_t n = sizeof sizes / sizeof *sizes, total = 0;
        for (size_t i = 0; i < n; i++) {
            size_t a = i % 3 ? sizes[i] / 3 : 0, b = i % 2 ? sizes[i] / 2 : sizes[i];
            if (a > b)
                a = b;
            struct ws_piece pieces[] = {{data, a}, {data + a, b - a}, {data + b, sizes[i] - b}};
            assert_int_equal(ws_codec_send(c, pieces, 3, i), 0);
            total += sizes[i];
            buf_printf(&want, "2,%zu:", sizes[i]);
            buf_put(&want, data, sizes[i]);
            buf_put_u8(&want, ';');
        }
        assert_int_equal(ws_codec_unsent(c), total);
        uint64_t tag;
        assert_false(ws_codec_sent(c, &tag));
        produce(c, rooms[k], &got);
        assert_int_equal(got.size, want.size);
        assert_memory_equal(got.data, want.data, want.size);
        assert_int_equal(ws_codec_unsent(c), 0);
        for (size_t i = 0; i < n; i++) {
            assert_true(ws_codec_sent(c, &tag));
            assert_int_equal(tag, i);
        }
        assert_false(ws_codec_sent(c, &tag));
        struct ws_piece four[4] = {0};
        assert_int_equal(ws_codec_send(c, four, 4, 1), ERR_INVALID);
        buf_free(&want);
        buf_free(&got);
        end(c);
    }
}

/* Control frames go between messages, never into one; nothing follows a close frame. */
static void test_interleaving(void **state)
{
    (void)state;
    struct ws_codec *c = begin(10);
    static uint8_t data[100000];
    struct ws_piece piece = {data, sizeof data};
    uint8_t *out = malloc(ROOM);
    struct err e;
    ws_codec_send(c, &piece, 1, 1);
    ws_codec_send(c, &piece, 1, 2);
    ssize_t n = ws_codec_produce(c, out, ROOM);
    assert_int_equal(n, ROOM - WS_CODEC_CONTROL_ROOM);
    assert_int_equal(feed(c, "\x89\x01p", 3, 3, &e), 0);
    n = ws_codec_produce(c, out, ROOM);
    size_t at =
        sizeof data + 14 - (ROOM - WS_CODEC_CONTROL_ROOM); /* the rest of the first message */
    assert_true((size_t)n > at + 7 + 14);
    assert_int_equal(out[at], 0x8a);
    assert_int_equal(out[at + 1], 0x81);
    assert_int_equal(out[at + 7], 0x82);
    ws_codec_flushed(c);
    uint64_t tag;
    assert_true(ws_codec_sent(c, &tag));
    assert_false(ws_codec_sent(c, &tag));
    assert_int_equal(ws_codec_close(c, 1000), 0);
    ws_codec_send(c, &piece, 1, 3);
    size_t sent = 0;
    while ((n = ws_codec_produce(c, out, ROOM)) > 0) {
        sent += (size_t)n;
        ws_codec_flushed(c);
    }
    assert_true(sent < sizeof data);
    assert_true(ws_codec_sent(c, &tag));
    assert_int_equal(tag, 2);
    assert_false(ws_codec_sent(c, &tag));
    free(out);
    end(c);
}

/* As many pings as one feed can hold, on top of the most that does not count as congestion, fit
 * into their room. */
static void test_congestion(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 125; size++) {
        struct ws_codec *c = begin(10);
        struct buf wire = {0}, out = {0};
        struct err e;
        buf_put_u8(&wire, 0x89);
        buf_put_u8(&wire, (uint8_t)size);
        for (size_t i = 0; i < size; i++)
            buf_put_u8(&wire, 'p');
        size_t one = wire.size, n = 0;
        while (!ws_codec_congested(c)) {
            assert_int_equal(feed(c, wire.data, one, one, &e), 0);
            n++;
        }
        assert_in_range(n, 2, 1000);
        wire.size = one * (n - 1);
        ws_codec_free(c);
        c = begin(10);
        for (size_t i = 0; i + 1 < n; i++)
            assert_int_equal(feed(c, wire.data, one, one, &e), 0);
        assert_false(ws_codec_congested(c));
        struct buf many = {0};
        while (many.size + one <= WS_CODEC_FEED_MAX)
            buf_put(&many, wire.data, one);
        assert_int_equal(feed(c, many.data, many.size, WS_CODEC_FEED_MAX, &e), 0);
        produce(c, ROOM, &out);
        buf_free(&many);
        buf_free(&wire);
        buf_free(&out);
        end(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_receive),    cmocka_unit_test(test_receive_large),
        cmocka_unit_test(test_ends),       cmocka_unit_test(test_stop),
        cmocka_unit_test(test_send),       cmocka_unit_test(test_interleaving),
        cmocka_unit_test(test_congestion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
