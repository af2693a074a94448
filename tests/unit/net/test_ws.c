/* WebSockets against real servers (server.py). */
#include "net/ws.h"
#include "servers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* What one connection has seen. */
struct peer {
    struct ws *ws;
    bool opened, closed;
    int status, http_status;
    char error[512];
    size_t messages, sent;
    uint64_t last_tag;
    bool tags_in_order;
    bool binary;
    uint8_t *data; /* the last message */
    size_t size;
    bool arrived; /* as many messages as awaited */
    size_t awaited;
    bool all_sent;
    size_t sent_awaited;
    bool close_in_message, close_in_opened, close_in_sent;
};

static void on_opened(struct ws *w, void *ctx)
{
    struct peer *p = ctx;
    assert_false(p->opened);
    p->opened = true;
    if (p->close_in_opened)
        ws_close(w);
}

static void on_message(struct ws *w, bool binary, const uint8_t *data, size_t size, void *ctx)
{
    struct peer *p = ctx;
    assert_true(p->opened);
    assert_false(p->closed);
    p->messages++;
    p->binary = binary;
    free(p->data);
    p->data = malloc(size + 1);
    memcpy(p->data, data, size);
    p->data[size] = 0;
    p->size = size;
    if (p->messages == p->awaited)
        p->arrived = true;
    if (p->close_in_message)
        ws_close(w);
}

static void on_sent(struct ws *w, uint64_t tag, void *ctx)
{
    struct peer *p = ctx;
    if (tag != p->last_tag + 1)
        p->tags_in_order = false;
    p->last_tag = tag;
    p->sent++;
    if (p->sent == p->sent_awaited)
        p->all_sent = true;
    if (p->close_in_sent)
        ws_close(w);
}

static void on_closed(struct ws *w, int status, int http_status, const struct err *e, void *ctx)
{
    struct peer *p = ctx;
    assert_ptr_equal(w, p->ws);
    assert_false(p->closed);
    p->closed = true;
    p->status = status;
    p->http_status = http_status;
    assert_int_equal(e->code, status);
    snprintf(p->error, sizeof p->error, "%s", e->text);
    ws_close(w); /* does nothing any more */
}

static void begin_with(struct peer *p, struct net *n, const char *url, struct ws_options options)
{
    static const struct ws_handler handler = {on_opened, on_message, on_sent, on_closed, NULL};
    struct ws_handler h = handler;
    h.ctx = p;
    struct err e = {0};
    p->tags_in_order = true;
    if (!options.max_message)
        options.max_message = 16 << 20;
    if (ws_open(&p->ws, n, url, &options, &h, &e))
        fail_msg("%s", e.text);
}

static void begin(struct peer *p, struct net *n, const char *url)
{
    begin_with(p, n, url, (struct ws_options){0});
}

static void end(struct peer *p)
{
    if (!p->closed)
        ws_close(p->ws);
    free(p->data);
}

static void wait_opened(struct peer *p)
{
    bool *flags[] = {&p->opened, &p->closed};
    for (int i = 0; i < 3000 && !*flags[0] && !*flags[1]; i++)
        run_for(10);
    if (p->closed)
        fail_msg("%s", p->error);
    assert_true(p->opened);
}

static void await(struct peer *p, size_t messages)
{
    p->awaited = messages;
    p->arrived = p->messages >= messages;
    wait_for(&p->arrived);
}

static void command(struct peer *p, const char *what)
{
    const char *message = text("CMD:%s", what);
    struct ws_piece piece = {message, strlen(message)};
    assert_int_equal(ws_send(p->ws, &piece, 1, p->last_tag + 1), 0);
}

static const char *ws_url(const char *what)
{
    return text("ws://127.0.0.1:%d/ws/%s", servers_port("http"), what);
}

/* Opens, and checks how it ends. */
static void expect_end(const char *what, int status, int http_status, const char *words)
{
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 1000});
    struct peer p = {0};
    begin_with(&p, n, ws_url(what), (struct ws_options){.max_message = 1 << 16});
    wait_for(&p.closed);
    if (p.status != status || p.http_status != http_status || !strstr(p.error, words))
        fail_msg("%s: %d, HTTP %d: %s", what, p.status, p.http_status, p.error);
    assert_null(strstr(p.error, "1234"));
    end(&p);
    net_end(n);
}

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 31 + i / 253);
}

static void test_echo(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,      1,     125,   126,   127,   4095,           4096,
                                   65521,  65535, 65536, 65537, 81920, 512 * 1024 + 7, 1 << 20,
                                   5 << 20};
    struct net *n = net_begin(NULL);
    struct peer p = {0};
    begin(&p, n, text("ws://127.0.0.1:%d/", servers_port("ws")));
    wait_opened(&p);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        uint8_t *data = malloc(size + 1);
        for (size_t k = 0; k < size; k++)
            data[k] = pattern(k);
        size_t a = size / 3, b = size / 2;
        struct ws_piece pieces[] = {{data, a}, {data + a, b - a}, {data + b, size - b}};
        assert_int_equal(ws_send(p.ws, pieces, 3, i + 1), 0);
        memset(pieces, 0, sizeof pieces); /* was copied */
        assert_int_equal(ws_unsent(p.ws), size);
        await(&p, i + 1);
        assert_true(p.binary);
        assert_int_equal(p.size, size);
        assert_memory_equal(p.data, data, size);
        assert_int_equal(ws_unsent(p.ws), 0);
        assert_int_equal(p.last_tag, i + 1);
        free(data);
    }
    assert_true(p.tags_in_order);
    end(&p);
    net_end(n);
}

static void test_many_in_flight(void **state)
{
    (void)state;
    enum { CONNECTIONS = 4, MESSAGES = 500, SIZE = 10000 };
    struct net *n = net_begin(NULL);
    struct peer peers[CONNECTIONS] = {0};
    uint8_t *data = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        data[i] = pattern(i);
    for (int c = 0; c < CONNECTIONS; c++) {
        begin(&peers[c], n, text("ws://127.0.0.1:%d/", servers_port("ws")));
        peers[c].sent_awaited = MESSAGES;
        /* Before the connection stands, and each of another size. */
        for (size_t i = 0; i < MESSAGES; i++) {
            struct ws_piece pieces[] = {{data, i}, {data, SIZE - i}};
            assert_int_equal(ws_send(peers[c].ws, pieces, 2, i + 1), 0);
        }
        assert_int_equal(ws_unsent(peers[c].ws), MESSAGES * SIZE);
    }
    for (int c = 0; c < CONNECTIONS; c++) {
        await(&peers[c], MESSAGES);
        assert_true(peers[c].all_sent);
        assert_true(peers[c].tags_in_order);
        assert_int_equal(peers[c].size, SIZE);
        assert_memory_equal(peers[c].data, data, MESSAGES - 1);
        assert_memory_equal(peers[c].data + MESSAGES - 1, data, SIZE - MESSAGES + 1);
        end(&peers[c]);
    }
    free(data);
    net_end(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_many_in_flight),
    };
    return cmocka_run_group_tests(tests, servers_setup, servers_teardown);
}
