#include "net/ws_handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" /* RFC 6455, 1.3 */
#define OK     "HTTP/1.1 101 Switching Protocols\r\n"
#define UP     "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define SEC    "Sec-WebSocket-Accept: " ACCEPT "\r\n"

static void test_keys(void **state)
{
    (void)state;
    char accept[WS_ACCEPT_SIZE], a[WS_KEY_SIZE], b[WS_KEY_SIZE];
    assert_int_equal(ws_handshake_accept("dGhlIHNhbXBsZSBub25jZQ==", accept), 0);
    assert_string_equal(accept, ACCEPT);
    assert_int_equal(ws_handshake_accept("longer than any key can be", accept), ERR_INVALID);
    assert_int_equal(ws_handshake_key(a), 0);
    assert_int_equal(ws_handshake_key(b), 0);
    assert_int_equal(strlen(a), WS_KEY_SIZE - 1);
    assert_string_not_equal(a, b);
}

static void test_request(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(ws_handshake_request(&b, "h:1", "/p?q", "KEY", "agent"), 0);
    assert_string_equal(buf_cstr(&b),
                        "GET /p?q HTTP/1.1\r\nHost: h:1\r\nUser-Agent: agent\r\n"
                        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: KEY\r\nSec-WebSocket-Version: 13\r\n\r\n");
    static const char *const bad[] = {"/a b", "/a\r\nX: y", "/\n", "/\x7f", "/\t"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ws_handshake_request(&b, "h", bad[i], "KEY", "agent"), ERR_INVALID);
        assert_int_equal(ws_handshake_request(&b, bad[i], "/", "KEY", "agent"), ERR_INVALID);
    }
    buf_free(&b);
}

/* From memory of just that size, so that ASan sees a byte too many read. */
static int parse(const char *data, size_t size, int *status, struct err *e)
{
    char *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    *e = (struct err){0};
    int rc = ws_handshake_parse(copy, size, ACCEPT, status, e);
    free(copy);
    return rc;
}

static void test_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        OK UP SEC "\r\n",
        "HTTP/1.1 101\r\n" UP SEC "\r\n",
        "HTTP/1.1 101 \r\n" UP SEC "\r\n",
        OK
        "upgrade:WebSocket\r\nCONNECTION: keep-alive ,\tUPGRADE\r\nsec-websocket-accept:\t" ACCEPT
        "  \r\n\r\n",
        OK "Connection: keep-alive\r\n" UP "Server: x\r\nX-Empty:\r\n" SEC "\r\n",
        OK UP SEC "Sec-WebSocket-Extensions:\r\n\r\n",
        OK UP SEC SEC "\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" OK UP SEC "\r\n",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct err e;
        int status;
        size_t size = strlen(good[i]);
        for (size_t n = 0; n < size; n++)
            assert_int_equal(parse(good[i], n, &status, &e), 0);
        if (parse(good[i], size, &status, &e) != (int)size)
            fail_msg("%s: %s", good[i], e.text);
        assert_int_equal(status, 101);
        char *longer;
        assert_true(asprintf(&longer, "%s\x82\x01\r\n\r\n", good[i]) > 0);
        assert_int_equal(parse(longer, size + 6, &status, &e), size);
        free(longer);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        int rc, status;
    } vectors[] = {
        {"HTTP/1.1 401 x\r\n\r\n", ERR_AUTH, 401},
        {"HTTP/1.1 403 x\r\n\r\nbody", ERR_AUTH, 403},
        {"HTTP/1.0 503 x\r\n\r\n", ERR_BUSY, 503},
        {"HTTP/1.1 429 x\r\n\r\n", ERR_BUSY, 429},
        {"HTTP/1.1 200 OK\r\n\r\n", ERR_PROTOCOL, 200},
        {"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n", ERR_PROTOCOL, 302},
        {"HTTP/1.1 400 x\r\n\r\n", ERR_PROTOCOL, 400},
        {"HTTP/2 101 x\r\n\r\n", ERR_PROTOCOL, 0},
        {"HTTP/1.1  101 x\r\n\r\n", ERR_PROTOCOL, 0},
        {"HTTP/1.1 1010\r\n\r\n", ERR_PROTOCOL, 0},
        {"HTTP/1.1 abc x\r\n\r\n", ERR_PROTOCOL, 0},
        {"HTTP/1.1\r\n\r\n", ERR_PROTOCOL, 0},
        {"X", ERR_PROTOCOL, 0},
        {"HTTX", ERR_PROTOCOL, 0},
        {"HTTP/1.1 100 x\r\n\r\nX", ERR_PROTOCOL, 0},
        {OK SEC "Connection: Upgrade\r\n\r\n", ERR_PROTOCOL, 101},
        {OK SEC "Upgrade: websocket\r\n\r\n", ERR_PROTOCOL, 101},
        {OK SEC "Upgrade: websockets\r\nConnection: Upgrade\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP "\r\n", ERR_PROTOCOL, 101},
        {OK UP "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "Sec-WebSocket-Accept: x\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "Sec-WebSocket-Protocol: chat\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC " folded\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "no colon\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC ": no name\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "blank : x\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "bare: lf\n\r\n\r\n", ERR_PROTOCOL, 101},
        {OK UP SEC "bare: c\rr\r\n\r\n", ERR_PROTOCOL, 101},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct err e;
        int status;
        int rc = parse(vectors[i].data, strlen(vectors[i].data), &status, &e);
        if (rc != vectors[i].rc || status != vectors[i].status || e.code != rc)
            fail_msg("%s: %d, %d: %s", vectors[i].data, rc, status, e.text);
    }
    struct err e;
    int status;
    static const char nul[] = OK UP SEC "a: \0\r\n\r\n";
    assert_int_equal(parse(nul, sizeof nul - 1, &status, &e), ERR_PROTOCOL);
}

static void test_bounded(void **state)
{
    (void)state;
    struct err e;
    int status;
    struct buf b = {0};
    buf_put_str(&b, OK UP SEC);
    while (b.size < WS_MAX_HANDSHAKE - 100)
        buf_put_str(&b, "X-Filler: yes\r\n");
    assert_int_equal(parse((char *)b.data, b.size, &status, &e), 0);
    size_t size = b.size;
    buf_put_str(&b, "\r\n");
    assert_int_equal(parse((char *)b.data, b.size, &status, &e), b.size);
    b.size = size;
    while (b.size < WS_MAX_HANDSHAKE + 100)
        buf_put_str(&b, "X-Filler: yes\r\n");
    buf_put_str(&b, "\r\n");
    assert_int_equal(parse((char *)b.data, b.size, &status, &e), ERR_PROTOCOL);
    assert_int_equal(parse((char *)b.data, WS_MAX_HANDSHAKE, &status, &e), ERR_PROTOCOL);
    buf_free(&b);
}

/* Any byte changed: no crash, and never accepted unless the change is harmless. */
static void test_mutated(void **state)
{
    (void)state;
    static const char good[] = OK UP SEC "\r\n";
    char data[sizeof good];
    size_t accepted = 0;
    for (size_t i = 0; i < sizeof good - 1; i++) {
        for (int c = 0; c < 256; c++) {
            memcpy(data, good, sizeof good);
            data[i] = (char)c;
            struct err e;
            int status, rc = parse(data, sizeof good - 1, &status, &e);
            assert_true(rc <= (int)sizeof good - 1);
            accepted += rc > 0;
        }
    }
    /* The bytes themselves, the reason phrase, the minor version, other case, and blanks: few of
     * all 33,000. */
    assert_in_range(accepted, sizeof good - 1, 6000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),     cmocka_unit_test(test_request),
        cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounded),  cmocka_unit_test(test_mutated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
