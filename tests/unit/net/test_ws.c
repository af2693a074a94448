/* WebSockets against real servers (server.py). */
#include "net/ws.h"
#include "servers.h"

#include <dlfcn.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW_NAME "slow-name.invalid"

static atomic_int slow_lookups;

/* In place of libc's, for libcurl too: a name server that does not answer for a while. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
    *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!strcmp(name, SLOW_NAME)) {
        slow_lookups++;
        sleep(3);
        slow_lookups--;
        return EAI_AGAIN;
    }
    return next(name, service, hints, ret);
}

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
    assert_int_equal(ws_send(w, NULL, 0, 9), ERR_CLOSED);
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

static void test_one_frame_each(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    struct peer p = {0};
    static const uint8_t zeros[200000];
    begin(&p, n, ws_url("frames"));
    for (uint64_t i = 0; i < 3; i++) {
        struct ws_piece pieces[] = {{zeros, 11}, {zeros, i * 90000}, {zeros, 37}};
        assert_int_equal(ws_send(p.ws, pieces, 3, i + 1), 0);
    }
    await(&p, 3);
    /* FIN and binary in the first byte, a mask, and another one in each frame. */
    assert_string_equal((char *)p.data,
                        "{\"first\": 130, \"masked\": true, \"masks\": 3, \"size\": 180048}");
    end(&p);
    net_end(n);
}

static void test_ends(void **state)
{
    (void)state;
    expect_end("refuse", ERR_AUTH, 403, "403");
    expect_end("busy", ERR_BUSY, 503, "503");
    expect_end("no-such-thing/../../x", ERR_PROTOCOL, 404, "404");
    expect_end("wrong-accept", ERR_PROTOCOL, 0, "Sec-WebSocket-Accept");
    expect_end("silent", ERR_TIMEOUT, 0, "sign of life");
    expect_end("not-http", ERR_PROTOCOL, 0, "not HTTP");
    expect_end("long-header", ERR_PROTOCOL, 0, "longer than");
    expect_end("eof", ERR_CLOSED, 0, "closed");
    expect_end("mid-frame", ERR_CLOSED, 0, "closed");
    expect_end("garbage", ERR_PROTOCOL, 0, "not a WebSocket frame");
    expect_end("masked", ERR_PROTOCOL, 0, "not a WebSocket frame");
    expect_end("announce", ERR_PROTOCOL, 0, "longer than 65536");
    expect_end("fragment-flood", ERR_PROTOCOL, 0, "longer than 65536");
}

static void test_answers_in_odd_pieces(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    struct peer dribble = {0}, early = {0};
    begin(&dribble, n, ws_url("dribble"));
    begin(&early, n, ws_url("early"));
    await(&early, 1);
    assert_string_equal((char *)early.data, "with the answer");
    await(&dribble, 2);
    assert_int_equal(dribble.size, 200);
    end(&dribble);
    end(&early);
    net_end(n);
}

static void test_kinds_of_messages(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    struct peer p = {0};
    begin_with(&p, n, text("ws://127.0.0.1:%d/a/b?ClientUniqueId=k%%7Bey&x", servers_port("ws")),
               (struct ws_options){.max_message = 100000});
    wait_opened(&p);
    command(&p, "text");
    await(&p, 1);
    assert_false(p.binary);
    assert_string_equal((char *)p.data, "gr\xc3\xbc\xc3\x9f dich");
    command(&p, "ping");
    await(&p, 2);
    assert_true(p.binary);
    assert_string_equal((char *)p.data, "pong came");
    command(&p, "fragments");
    await(&p, 3);
    assert_string_equal((char *)p.data, "one two three");
    command(&p, "info");
    await(&p, 4);
    assert_non_null(strstr((char *)p.data, "\"path\": \"/a/b?ClientUniqueId=k%7Bey&x\""));
    assert_non_null(strstr((char *)p.data, text("\"host\": \"127.0.0.1:%d\"", servers_port("ws"))));
    assert_non_null(strstr((char *)p.data, "\"agent\": \"dcmferry/" DCMFERRY_VERSION "\""));
    command(&p, "send:100000");
    await(&p, 5);
    assert_int_equal(p.size, 100000);
    assert_true(ws_silent_ms(p.ws) < 5000);
    command(&p, "send:100001");
    wait_for(&p.closed);
    assert_int_equal(p.status, ERR_PROTOCOL);
    assert_non_null(strstr(p.error, "ClientUniqueId=…&…"));
    assert_null(strstr(p.error, "k%7Bey"));
    end(&p);
    net_end(n);
}

static void test_close_by_the_peer(void **state)
{
    (void)state;
    static const char *const words[][2] = {{"close:1000", "(1000, normal closure)"},
                                           {"close:1008", "(1008, policy violation)"},
                                           {"close:4321", "(4321, private use)"}};
    struct net *n = net_begin(NULL);
    for (size_t i = 0; i < 3; i++) {
        struct peer p = {0};
        begin(&p, n, text("ws://127.0.0.1:%d/", servers_port("ws")));
        wait_opened(&p);
        command(&p, words[i][0]);
        wait_for(&p.closed);
        assert_int_equal(p.status, ERR_CLOSED);
        assert_non_null(strstr(p.error, words[i][1]));
        assert_null(strstr(p.error, "reason"));
        end(&p);
    }
    net_end(n);
}

static void test_close_frame(void **state)
{
    (void)state;
    const char *path = servers_path("close-frame");
    unlink(path);
    struct net *n = net_begin(NULL);
    struct peer p = {0};
    begin(&p, n, ws_url("count-close"));
    wait_opened(&p);
    end(&p);
    char line[32] = "";
    for (int i = 0; i < 1000 && !*line; i++) {
        run_for(10);
        FILE *f = fopen(path, "r");
        if (f) {
            if (!fgets(line, sizeof line, f))
                *line = 0;
            fclose(f);
        }
    }
    assert_string_equal(line, "88 03e8");
    net_end(n);
}

static void test_pings(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 800});
    struct peer flood = {0}, pongs = {0}, mute = {0}, no_pings = {0};
    begin(&no_pings, n, ws_url("mute"));
    begin_with(&mute, n, ws_url("mute"), (struct ws_options){.ping_interval_ms = 200});
    begin_with(&pongs, n, ws_url("pongs"), (struct ws_options){.ping_interval_ms = 200});
    begin(&flood, n, ws_url("pings"));
    await(&flood, 2);
    assert_string_equal((char *)flood.data, "all pongs came");
    await(&pongs, 1);
    assert_string_equal((char *)pongs.data, "three pings");
    wait_for(&mute.closed);
    assert_int_equal(mute.status, ERR_TIMEOUT);
    /* Nothing awaited, no pings: it stays. */
    run_for(1000);
    assert_true(no_pings.opened);
    assert_false(no_pings.closed);
    end(&no_pings);
    end(&mute);
    end(&pongs);
    end(&flood);
    net_end(n);
}

static void test_deaf_peer(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 700});
    struct peer p = {0};
    size_t size = 32 << 20;
    uint8_t *data = calloc(1, size);
    begin(&p, n, ws_url("deaf"));
    wait_opened(&p);
    struct ws_piece piece = {data, size};
    assert_int_equal(ws_send(p.ws, &piece, 1, 1), 0);
    wait_for(&p.closed);
    assert_int_equal(p.status, ERR_TIMEOUT);
    assert_int_equal(p.sent, 0);
    end(&p);
    free(data);
    net_end(n);
}

/* What was sent is still in our own socket's buffer for longer than the idle time: the peer's TCP
 * takes it bit by bit, which is a sign of life, though no byte comes and the pings wait behind. */
static void test_slow_is_not_dead(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 1500});
    struct peer p = {0};
    size_t size = 3 << 20;
    uint8_t *data = calloc(1, size);
    begin_with(&p, n, text("ws://127.0.0.1:%d/ws/slow", servers_port("narrow")),
               (struct ws_options){.ping_interval_ms = 300});
    wait_opened(&p);
    uint64_t before = uv_now(&loop);
    struct ws_piece piece = {data, size};
    assert_int_equal(ws_send(p.ws, &piece, 1, 1), 0);
    await(&p, 1);
    assert_string_equal((char *)p.data, "took it all");
    assert_true(uv_now(&loop) - before > 3000);
    end(&p);
    free(data);
    net_end(n);
}

/* Time that our own loop was held up is not the peer's silence. */
static void test_stalled_loop(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 500});
    struct peer p = {0};
    begin_with(&p, n, text("http://127.0.0.1:%d/", servers_port("ws")),
               (struct ws_options){.ping_interval_ms = 100});
    wait_opened(&p);
    for (int i = 0; i < 3; i++) {
        run_for(150);
        usleep(800000);
    }
    assert_false(p.closed);
    command(&p, "text");
    usleep(800000);
    await(&p, 1);
    end(&p);
    net_end(n);
}

static void check_info(const char *url, const struct net_options *o, const char *words)
{
    struct net *n = net_begin(o);
    struct peer p = {0};
    begin(&p, n, url);
    wait_opened(&p);
    command(&p, "info");
    await(&p, 1);
    if (!strstr((char *)p.data, words))
        fail_msg("%s: %s", url, (char *)p.data);
    /* Larger than a TLS record and than any buffer in between. */
    command(&p, "send:3000000");
    await(&p, 2);
    assert_int_equal(p.size, 3000000);
    end(&p);
    net_end(n);
}

static void check_failure(const char *url, const struct net_options *o, int status,
                          const char *words)
{
    struct net *n = net_begin(o);
    struct peer p = {0};
    begin(&p, n, url);
    wait_for(&p.closed);
    if (p.status != status || !strstr(p.error, words) || strstr(p.error, "s3cret"))
        fail_msg("%s: %d %s", url, p.status, p.error);
    end(&p);
    net_end(n);
}

static void test_tls(void **state)
{
    (void)state;
    const char *url = text("wss://localhost:%d/", servers_port("wss"));
    struct net_options ours = {.ca_file = servers_path("ca.pem")};
    struct net_options other = {.ca_file = servers_path("other-ca.pem")};
    struct net_options missing = {.ca_file = servers_path("no-such.pem")};
    /* The server offers h2 before http/1.1. */
    check_info(url, &ours, "\"alpn\": \"http/1.1\"");
    check_failure(url, &other, ERR_TLS, "other-ca.pem");
    check_failure(url, &missing, ERR_TLS, "no-such.pem");
    check_failure(url, NULL, ERR_TLS, "the system's CA certificates");
    check_failure(text("wss://127.0.0.1:%d/", servers_port("wss")), &ours, ERR_TLS, "127.0.0.1");
    /* TLS spoken to a server that does not. */
    check_failure(text("wss://localhost:%d/", servers_port("banner")), &ours, ERR_TLS, "localhost");
    check_failure(text("wss://localhost:%d/", servers_port("tls_closing")), &ours, ERR_CLOSED,
                  "set client_cert");
}

static void test_client_certificate(void **state)
{
    (void)state;
    const char *url = text("wss://localhost:%d/", servers_port("wss_client"));
    struct net_options o = {.ca_file = servers_path("ca.pem")};
    check_failure(url, &o, ERR_TLS, "wants a client certificate");
    o.client_cert = servers_path("client.pem");
    o.client_key = servers_path("client.key");
    check_info(url, &o, "\"peer\"");
    o.client_cert = servers_path("stranger.pem");
    o.client_key = servers_path("stranger.key");
    check_failure(url, &o, ERR_TLS, "refused the client certificate");
    o.client_cert = servers_path("no-such.pem");
    check_failure(url, &o, ERR_TLS, "no-such.pem");
}

static void test_proxy(void **state)
{
    (void)state;
    const char *ws = text("ws://127.0.0.1:%d/", servers_port("ws"));
    const char *wss = text("wss://localhost:%d/", servers_port("wss"));
    struct net_options o = {.ca_file = servers_path("ca.pem")};
    check_info(ws, &o, "\"peer\": \"127.0.0.1\"");
    o.proxy = text("http://127.0.0.1:%d", servers_port("proxy"));
    check_info(ws, &o, "\"peer\": \"127.0.0.2\"");
    check_info(wss, &o, "\"peer\": \"127.0.0.2\"");
    o.proxy = text("http://127.0.0.1:%d", servers_port("proxy_auth"));
    check_failure(ws, &o, ERR_AUTH, "wants a user and password");
    o.proxy_user = "ferry";
    o.proxy_password = "s3cret and wrong";
    check_failure(wss, &o, ERR_AUTH, "refused its user and password");
    o.proxy_password = "s3cret";
    check_info(ws, &o, "\"peer\": \"127.0.0.2\"");
    check_info(wss, &o, "\"alpn\": \"http/1.1\"");
    /* The password in the address. */
    o.proxy_user = o.proxy_password = NULL;
    o.proxy = text("http://ferry:s3cret@127.0.0.1:%d", servers_port("proxy_auth"));
    check_info(ws, &o, "\"peer\": \"127.0.0.2\"");
    /* A proxy that cannot reach the server, and none at all. */
    check_failure(text("ws://127.0.0.1:%d/", servers_port("closed")), &o, ERR_CONNECT,
                  "the proxy answered");
    o.proxy = text("http://ferry:s3cret@127.0.0.1:%d", servers_port("closed"));
    check_failure(ws, &o, ERR_CONNECT, "127.0.0.1");
    /* From the environment, unless the configuration says none. */
    o.proxy = NULL;
    setenv("http_proxy", text("http://127.0.0.1:%d", servers_port("proxy")), 1);
    check_info(ws, &o, "\"peer\": \"127.0.0.2\"");
    o.proxy = "";
    check_info(ws, &o, "\"peer\": \"127.0.0.1\"");
    unsetenv("http_proxy");
}

static void test_cannot_connect(void **state)
{
    (void)state;
    check_failure(text("ws://127.0.0.1:%d/?k=1", servers_port("closed")), NULL, ERR_CONNECT,
                  "?k=…");
    check_failure("ws://no-such-host.invalid/", NULL, ERR_CONNECT, "no-such-host.invalid");
    struct net *n = net_begin(NULL);
    struct ws *w;
    struct err e;
    static const struct ws_handler handler = {on_opened, on_message, on_sent, on_closed, NULL};
    static const char *const bad[] = {"ftp://h/",     "h", "", "ws://", "ws://user@h/",
                                      "ws://h:99999/"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (ws_open(&w, n, bad[i], &(struct ws_options){0}, &handler, &e) != ERR_INVALID)
            fail_msg("%s", bad[i]);
    net_end(n);
}

/* A server whose queue of connections is full answers no SYN. */
static void test_connect_timeout(void **state)
{
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    assert_int_equal(bind(fd, (struct sockaddr *)&a, size), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    struct peer fill[4] = {0}, p = {0};
    struct net *n = net_begin(NULL);
    const char *url = text("ws://127.0.0.1:%d/", ntohs(a.sin_port));
    for (int i = 0; i < 4; i++)
        begin(&fill[i], n, url);
    run_for(200);
    struct net *m = net_begin(&(struct net_options){.connect_timeout_ms = 300});
    begin(&p, m, url);
    wait_for(&p.closed);
    assert_int_equal(p.status, ERR_TIMEOUT);
    for (int i = 0; i < 4; i++)
        end(&fill[i]);
    end(&p);
    close(fd);
    net_close(n, NULL, NULL);
    net_end(m);
}

static void test_close_in_each_phase(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.ca_file = servers_path("ca.pem")});
    struct peer p[8] = {0};
    const char *ws = text("ws://127.0.0.1:%d/", servers_port("ws"));
    const char *wss = text("wss://localhost:%d/", servers_port("wss"));
    static const uint8_t data[1 << 20];
    struct ws_piece piece = {data, sizeof data};

    begin(&p[0], n, ws); /* at once */
    end(&p[0]);
    begin(&p[1], n,
          "ws://" SLOW_NAME "/"); /* while the name is looked up: without waiting for it */
    begin(&p[2], n, wss);         /* during the TLS handshake, or thereabouts */
    while (slow_lookups == 0)
        uv_run(&loop, UV_RUN_NOWAIT);
    uint64_t before = uv_hrtime();
    end(&p[1]);
    assert_true(uv_hrtime() - before < 1000000000);
    assert_int_equal(slow_lookups, 1);
    end(&p[2]);
    begin(&p[3], n, ws_url("silent")); /* while the upgrade is awaited */
    run_for(200);
    assert_false(p[3].opened || p[3].closed);
    end(&p[3]);
    p[4].close_in_opened = true;
    begin(&p[4], n, ws);
    p[5].close_in_message = true;
    begin(&p[5], n, ws_url("early"));
    p[6].close_in_sent = true;
    begin(&p[6], n, ws);
    assert_int_equal(ws_send(p[6].ws, &piece, 1, 1), 0);
    begin(&p[7], n, ws_url("deaf")); /* half a message written */
    wait_opened(&p[7]);
    for (int i = 0; i < 16; i++)
        assert_int_equal(ws_send(p[7].ws, &piece, 1, (uint64_t)i + 1), 0);
    run_for(300);
    assert_true(ws_unsent(p[7].ws) > 0);
    ws_close(p[7].ws);
    for (int i = 0; i < 1000 && !(p[4].opened && p[5].messages && p[6].sent); i++)
        run_for(10);
    assert_true(p[4].opened);
    assert_int_equal(p[5].messages, 1);
    assert_int_equal(p[6].sent, 1);
    for (int i = 0; i < 8; i++) {
        if (p[i].closed)
            fail_msg("%d: %s", i, p[i].error);
        free(p[i].data);
    }
    net_end(n);
    while (slow_lookups > 0)
        run_for(10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_many_in_flight),
        cmocka_unit_test(test_one_frame_each),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_answers_in_odd_pieces),
        cmocka_unit_test(test_kinds_of_messages),
        cmocka_unit_test(test_close_by_the_peer),
        cmocka_unit_test(test_close_frame),
        cmocka_unit_test(test_pings),
        cmocka_unit_test(test_deaf_peer),
        cmocka_unit_test(test_slow_is_not_dead),
        cmocka_unit_test(test_stalled_loop),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_client_certificate),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_cannot_connect),
        cmocka_unit_test(test_connect_timeout),
        cmocka_unit_test(test_close_in_each_phase),
    };
    return cmocka_run_group_tests(tests, servers_setup, servers_teardown);
}
