/* The table of requests in flight, over a WebSocket that is played here. */
#include "postdicom/pd_connection.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the WebSocket ---- */

struct ws {
    struct ws_handler handler;
    size_t unsent;
    uint64_t tags[64];
    size_t n_sent;
    uint8_t last[256];
    size_t last_size;
    bool closed;
    int fail_send;
};

static struct ws *ws;

int ws_open(struct ws **ret, struct net *net, const char *url, const struct ws_options *options,
            const struct ws_handler *handler, struct err *e)
{
    (void)net;
    (void)url;
    (void)options;
    (void)e;
    ws = calloc(1, sizeof(*ws));
    ws->handler = *handler;
    *ret = ws;
    return 0;
}

int ws_send(struct ws *w, const struct ws_piece *pieces, size_t n, uint64_t tag)
{
    if (w->fail_send)
        return w->fail_send;
    w->last_size = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(w->last + w->last_size, pieces[i].data, pieces[i].size);
        w->last_size += pieces[i].size;
    }
    w->unsent += w->last_size;
    w->tags[w->n_sent++] = tag;
    return 0;
}

size_t ws_unsent(const struct ws *w)
{
    return w->unsent;
}

uint64_t ws_silent_ms(const struct ws *w)
{
    (void)w;
    return 0;
}

void ws_close(struct ws *w)
{
    w->closed = true;
}

static void sent(size_t i)
{
    ws->handler.sent(ws, ws->tags[i], ws->handler.ctx);
}

static void answer(uint32_t id, const char *json)
{
    struct frame_answer a = {.type = 18,
                             .id = 1000,
                             .request_id = id,
                             .success = true,
                             .management = 3,
                             .json = json,
                             .json_size = strlen(json)};
    struct buf b = {0};
    frame_encode_answer(&a, &b);
    ws->handler.message(ws, true, b.data, b.size, ws->handler.ctx);
    buf_free(&b);
}

/* ---- requests ---- */

struct asked {
    struct pd_request r;
    unsigned called;
    int status;
    char json[64];
};

static struct pd_connection *connection;
static unsigned closed_calls;
static int closed_status;
static uv_loop_t loop;

static void on_answer(struct pd_request *r, int status, const struct frame_answer *a,
                      const struct err *e)
{
    struct asked *q = (struct asked *)r;
    q->called++;
    q->status = status;
    if (status == 0)
        memcpy(q->json, a->json, a->json_size);
    else
        assert_true(e->text[0]);
}

static void on_opened(struct pd_connection *c, void *ctx)
{
    (void)ctx;
    assert_ptr_equal(c, connection);
}

static void on_closed(struct pd_connection *c, int status, int http_status, const struct err *e,
                      void *ctx)
{
    (void)c;
    (void)http_status;
    (void)e;
    (void)ctx;
    closed_calls++;
    closed_status = status;
    connection = NULL;
}

static void open_it(uint64_t idle_timeout_ms)
{
    struct pd_connection_options o = {.idle_timeout_ms = idle_timeout_ms};
    struct pd_connection_handler h = {.opened = on_opened, .closed = on_closed};
    closed_calls = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(pd_connection_open(&connection, &loop, NULL, "ws://x", &o, &h, NULL), 0);
}

static void open_ready(uint64_t idle_timeout_ms)
{
    open_it(idle_timeout_ms);
    ws->handler.opened(ws, ws->handler.ctx);
}

static void end(void)
{
    if (connection)
        pd_connection_close(connection, ERR_CANCELED, "the test is over");
    connection = NULL;
    assert_true(ws->closed || closed_calls);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    free(ws);
}

static void ask(struct asked *q)
{
    *q = (struct asked){
        .r = {.type = FRAME_GENERAL, .management = 3, .json = "{}", .cb = on_answer}};
    assert_int_equal(pd_connection_send(connection, &q->r), 0);
    assert_int_equal(q->called, 0);
}

/* ---- tests ---- */

static void test_not_open(void **state)
{
    struct asked q = {.r = {.type = FRAME_GENERAL, .json = "{}", .cb = on_answer}};
    (void)state;
    open_it(1000);
    assert_int_equal(pd_connection_send(connection, &q.r), ERR_CLOSED);
    end();
    assert_int_equal(q.called, 0);
}

/* Ids count from 1; answers find their requests in any order. */
static void test_any_order(void **state)
{
    struct asked q[4];
    char json[] = "{\"n\":0}";
    (void)state;
    open_ready(1000);
    for (int i = 0; i < 4; i++) {
        ask(&q[i]);
        sent((size_t)i);
        assert_int_equal(ws->tags[i], i + 1);
        assert_int_equal(ws->last[2], i + 1);
    }
    assert_int_equal(pd_connection_in_flight(connection), 4);
    static const uint32_t order[] = {3, 1, 4, 2};
    for (int i = 0; i < 4; i++) {
        json[5] = (char)('0' + order[i]);
        answer(order[i], json);
        assert_int_equal(q[order[i] - 1].called, 1);
        assert_int_equal(q[order[i] - 1].json[5], '0' + (int)order[i]);
        assert_int_equal(pd_connection_in_flight(connection), 3 - i);
    }
    /* Twice, unknown, and text: of no consequence. */
    answer(1, "{}");
    answer(77, "{}");
    ws->handler.message(ws, false, (const uint8_t *)"hello", 5, ws->handler.ctx);
    assert_int_equal(pd_connection_answered(connection), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(q[i].called, 1);
    end();
}

/* The bytes are lent until they were sent: the answer has to wait for that. */
static void test_early_answer(void **state)
{
    struct asked q;
    (void)state;
    open_ready(1000);
    ask(&q);
    answer(1, "{\"early\":1}");
    assert_int_equal(q.called, 0);
    sent(0);
    assert_int_equal(q.called, 1);
    assert_string_equal(q.json, "{\"early\":1}");
    ask(&q);
    answer(2, "{}");
    pd_connection_close(connection, ERR_CANCELED, "closed");
    assert_int_equal(q.called, 1);
    assert_int_equal(q.status, ERR_CANCELED);
    connection = NULL;
    end();
}

/* Each fails exactly once, whatever ended the connection. */
static void test_failures(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct asked q[3];
        struct err e;
        open_ready(1000);
        for (int i = 0; i < 3; i++)
            ask(&q[i]);
        sent(0);
        answer(1, "{}");
        err_set(&e, ERR_CLOSED, "lost");
        if (how == 0)
            ws->handler.closed(ws, ERR_CLOSED, 0, &e, ws->handler.ctx);
        else if (how == 1)
            ws->handler.message(ws, true, (const uint8_t *)"garbage", 7, ws->handler.ctx);
        else
            pd_connection_close(connection, ERR_SESSION, "lost");
        assert_int_equal(closed_calls, how == 2 ? 0 : 1);
        assert_int_equal(q[0].status, 0);
        for (int i = 1; i < 3; i++) {
            assert_int_equal(q[i].called, 1);
            assert_int_equal(q[i].status, how == 0   ? ERR_CLOSED
                                          : how == 1 ? ERR_PROTOCOL
                                                     : ERR_SESSION);
        }
        connection = NULL;
        end();
    }
}

static void test_send_fails(void **state)
{
    struct asked q = {.r = {.type = FRAME_GENERAL, .json = "{}", .cb = on_answer}};
    (void)state;
    open_ready(1000);
    ws->fail_send = ERR_NOMEM;
    assert_int_equal(pd_connection_send(connection, &q.r), ERR_NOMEM);
    assert_int_equal(pd_connection_in_flight(connection), 0);
    ws->fail_send = 0;
    end();
    assert_int_equal(q.called, 0);
}

static uint64_t now_us;

static uint64_t fake_now(void)
{
    return now_us;
}

/* Lets the timer look once, at a time of ours. */
static void look_at(uint64_t ms)
{
    now_us = ms * 1000;
    uint64_t end = uv_hrtime() + 100 * 1000000ULL;
    while (uv_hrtime() < end) {
        uv_run(&loop, UV_RUN_NOWAIT);
        uv_sleep(5);
    }
}

static void test_idle_timeout(void **state)
{
    struct asked q[3];
    (void)state;
    now_us = 0;
    clock_set_source(fake_now, NULL);
    open_ready(160);
    ask(&q[0]);
    ask(&q[1]);
    /* Still being written: bytes that leave are life. */
    look_at(150);
    ws->unsent--;
    look_at(300);
    ws->unsent--;
    look_at(440);
    assert_int_equal(closed_calls, 0);
    sent(0);
    sent(1);
    /* An answer to the first is life for the second, which had to wait for it. */
    look_at(590);
    answer(1, "{}");
    look_at(740);
    assert_int_equal(closed_calls, 0);
    /* But not the other way round, and no answer to nobody. */
    ask(&q[2]);
    sent(2);
    answer(99, "{}");
    look_at(760);
    assert_int_equal(closed_calls, 1);
    assert_int_equal(closed_status, ERR_TIMEOUT);
    assert_int_equal(q[1].status, ERR_TIMEOUT);
    assert_int_equal(q[2].status, ERR_TIMEOUT);
    assert_int_equal(q[1].called, 1);
    clock_set_source(NULL, NULL);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_open),     cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_early_answer), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_send_fails),   cmocka_unit_test(test_idle_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
