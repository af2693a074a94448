/* HTTP requests against real servers (server.py). */
#include "net/http.h"
#include "servers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct result {
    struct http_request *request;
    bool done;
    int status; /* ERR_ */
    int http_status;
    char *body;
    size_t size;
    uint64_t retry_after_ms;
    char error[512];
    bool cancel_within;
};

static void on_answer(struct http_request *r, int status, const struct http_answer *answer,
                      const struct err *e, void *ctx)
{
    struct result *result = ctx;
    assert_false(result->done);
    if (result->request)
        assert_ptr_equal(r, result->request);
    assert_int_equal(status == 0, answer != NULL);
    assert_int_equal(status, e->code);
    result->done = true;
    result->status = status;
    if (answer) {
        assert_int_equal(answer->body[answer->size], 0);
        result->http_status = answer->status;
        result->size = answer->size;
        result->body = strdup(answer->body);
        result->retry_after_ms = answer->retry_after_ms;
    } else {
        snprintf(result->error, sizeof result->error, "%s", e->text);
    }
    if (result->cancel_within)
        http_cancel(r);
}

static void end(struct result *r)
{
    free(r->body);
    *r = (struct result){0};
}

static void begin(struct result *r, struct net *n, const char *url, size_t max)
{
    assert_int_equal(http_send(&r->request, n, "GET", url, NULL, NULL, 0, max, on_answer, r), 0);
    assert_false(r->done);
}

static void get(struct result *r, struct net *n, const char *url, size_t max)
{
    end(r);
    begin(r, n, url, max);
    wait_for(&r->done);
}

static const char *http_url(const char *path)
{
    return text("http://127.0.0.1:%d%s", servers_port("http"), path);
}

static void test_get(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    struct result r = {0};
    get(&r, n, http_url("/hello"), 5);
    assert_int_equal(r.status, 0);
    assert_int_equal(r.http_status, 200);
    assert_string_equal(r.body, "hello");
    assert_int_equal(r.retry_after_ms, 0);
    get(&r, n, http_url("/hello"), 4);
    assert_int_equal(r.status, ERR_TOO_LARGE);
    get(&r, n, http_url("/bytes?3000000"), 3000000);
    assert_int_equal(r.size, 3000000);
    get(&r, n, http_url("/bytes?0"), 0);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.body, "");
    get(&r, n, http_url("/unbounded"), 1000000);
    assert_int_equal(r.status, ERR_TOO_LARGE);
    get(&r, n, http_url("/headers"), 1000000);
    assert_int_equal(r.status, ERR_TOO_LARGE);
    get(&r, n, http_url("/redirect"), 1000);
    assert_int_equal(r.http_status, 302);
    end(&r);
    net_end(n);
}

static void test_methods(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.user_agent = "a test"});
    struct result r = {0};
    char *body = malloc(2000001);
    memset(body, 'b', 2000000);
    body[2000000] = 0;
    assert_int_equal(http_send(&r.request, n, "POST", http_url("/echo"), "application/dicom+json",
                               body, 2000000, 3000000, on_answer, &r),
                     0);
    memset(body, 'c', 2000000); /* was copied */
    wait_for(&r.done);
    assert_int_equal(strncmp(r.body, "POST\nPOST /echo HTTP/1.1\r\n", 26), 0);
    assert_non_null(strstr(r.body, "\r\nContent-Type: application/dicom+json\r\n"));
    assert_non_null(strstr(r.body, "\r\nUser-Agent: a test\r\n"));
    assert_null(strstr(r.body, "Expect"));
    memset(body, 'b', 2000000);
    assert_string_equal(strstr(r.body, "\r\n\r\n\n") + 5, body);
    free(body);
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE"};
    for (size_t i = 0; i < 4; i++) {
        end(&r);
        assert_int_equal(
            http_send(NULL, n, methods[i], http_url("/echo"), NULL, NULL, 0, 10000, on_answer, &r),
            0);
        wait_for(&r.done);
        assert_int_equal(strncmp(r.body, methods[i], strlen(methods[i])), 0);
        assert_null(strstr(r.body, "Content-Type"));
    }
    end(&r);
    net_end(n);
}

static void test_statuses(void **state)
{
    (void)state;
    static const int statuses[] = {200, 201, 204, 304, 400, 401, 403, 404, 500, 503};
    struct net *n = net_begin(NULL);
    struct result r = {0};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        get(&r, n, http_url(text("/status/%d", statuses[i])), 1000);
        assert_int_equal(r.status, 0);
        assert_int_equal(r.http_status, statuses[i]);
    }
    get(&r, n, http_url("/later?7"), 1000);
    assert_int_equal(r.http_status, 503);
    assert_int_equal(r.retry_after_ms, 7000);
    get(&r, n, http_url("/later?date"), 1000);
    assert_in_range(r.retry_after_ms, 60000, 101000);
    get(&r, n, http_url("/later?nonsense"), 1000);
    assert_int_equal(r.retry_after_ms, 0);
    get(&r, n, http_url("/later?-5"), 1000);
    assert_int_equal(r.retry_after_ms, 0);
    get(&r, n, http_url("/later?Sun,%2006%20Nov%201994%2008:49:37%20GMT"), 1000);
    assert_int_equal(r.retry_after_ms, 0);
    end(&r);
    net_end(n);
}

static void test_idle(void **state)
{
    (void)state;
    struct net *n = net_begin(&(struct net_options){.idle_timeout_ms = 1000});
    struct result silent = {0}, stall = {0}, drip = {0}, cut = {0};
    begin(&silent, n, http_url("/silent?key=1234"), 1000);
    begin(&stall, n, http_url("/stall"), 1000);
    begin(&drip, n, http_url("/drip"), 1000); /* 2 s in all */
    begin(&cut, n, http_url("/cut"), 1000);
    wait_for(&silent.done);
    wait_for(&stall.done);
    wait_for(&drip.done);
    wait_for(&cut.done);
    assert_int_equal(silent.status, ERR_TIMEOUT);
    assert_non_null(strstr(silent.error, "GET http://127.0.0.1"));
    assert_non_null(strstr(silent.error, "/silent?key=…"));
    assert_null(strstr(silent.error, "1234"));
    assert_int_equal(stall.status, ERR_TIMEOUT);
    assert_int_equal(drip.status, 0);
    assert_int_equal(drip.size, 20);
    assert_int_equal(cut.status, ERR_CLOSED);
    end(&silent);
    end(&stall);
    end(&drip);
    end(&cut);
    /* Time that our own loop was held up is not the server's silence. */
    begin(&silent, n, http_url("/delay?0.5"), 1000);
    run_for(200);
    usleep(1500000);
    wait_for(&silent.done);
    assert_int_equal(silent.status, 0);
    end(&silent);
    net_end(n);
}

static void check(const char *url, const struct net_options *o, int status, const char *words)
{
    struct net *n = net_begin(o);
    struct result r = {0};
    get(&r, n, url, 10000);
    const char *shown = r.status ? r.error : r.body;
    if (r.status != status || !strstr(shown, words) || strstr(shown, "s3cret"))
        fail_msg("%s: %d %s", url, r.status, shown);
    end(&r);
    net_end(n);
}

static void test_tls(void **state)
{
    (void)state;
    const char *url = text("https://localhost:%d/hello", servers_port("https"));
    struct net_options o = {.ca_file = servers_path("ca.pem")};
    check(url, &o, 0, "hello");
    check(text("https://127.0.0.1:%d/hello", servers_port("https")), &o, ERR_TLS, "127.0.0.1");
    check(text("https://localhost:%d/", servers_port("banner")), &o, ERR_TLS, "localhost");
    check(text("https://localhost:%d/", servers_port("tls_closing")), &o, ERR_CLOSED,
          "set client_cert");
    o.ca_file = servers_path("other-ca.pem");
    check(url, &o, ERR_TLS, "other-ca.pem");
    check(url, NULL, ERR_TLS, "system's CA");

    url = text("https://localhost:%d/hello", servers_port("https_client"));
    o.ca_file = servers_path("ca.pem");
    check(url, &o, ERR_TLS, "wants a client certificate");
    o.client_cert = servers_path("client.pem");
    o.client_key = servers_path("client.key");
    check(url, &o, 0, "hello");
    o.client_cert = servers_path("stranger.pem");
    o.client_key = servers_path("stranger.key");
    check(url, &o, ERR_TLS, "refused the client certificate");
    o.client_key = servers_path("client.key"); /* of another certificate */
    check(url, &o, ERR_TLS, "client certificate cannot be used");
}

static void test_proxy(void **state)
{
    (void)state;
    const char *http = http_url("/peer");
    const char *https = text("https://localhost:%d/peer", servers_port("https"));
    struct net_options o = {.ca_file = servers_path("ca.pem")};
    check(http, &o, 0, "127.0.0.1");
    o.proxy = text("127.0.0.1:%d", servers_port("proxy"));
    check(http, &o, 0, "127.0.0.2");
    check(https, &o, 0, "127.0.0.2");
    setenv("no_proxy", "*", 1);
    check(http, &o, 0, "127.0.0.2");
    unsetenv("no_proxy");
    o.proxy = text("http://127.0.0.1:%d", servers_port("proxy_auth"));
    check(http, &o, ERR_AUTH, "wants a user and password");
    check(https, &o, ERR_AUTH, "wants a user and password");
    o.proxy_user = "ferry";
    o.proxy_password = "s3cret:@ no";
    check(https, &o, ERR_AUTH, "refused");
    o.proxy_password = "s3cret";
    check(http, &o, 0, "127.0.0.2");
    check(https, &o, 0, "127.0.0.2");
    o.proxy = text("http://127.0.0.1:%d", servers_port("closed"));
    check(http, &o, ERR_CONNECT, "127.0.0.1");
    /* An address that curl cannot read would be repeated by it. */
    o.proxy = NULL;
    setenv("http_proxy", "gopher://ferry:s3cret@127.0.0.1:1", 1);
    check(http, &o, ERR_CONNECT, "the proxy's address");
    unsetenv("http_proxy");
}

static void test_unix_socket(void **state)
{
    (void)state;
    struct net_options o = {.unix_socket = servers_path("http.sock")};
    setenv("http_proxy", "http://127.0.0.1:1", 1); /* has no say here */
    check("http://localhost/hello", &o, 0, "hello");
    unsetenv("http_proxy");
    o.unix_socket = servers_path("no.sock");
    check("http://localhost/hello", &o, ERR_CONNECT, "localhost");
}

static void test_bad_options(void **state)
{
    (void)state;
    static const struct net_options bad[] = {
        {.proxy = "gopher://ferry:s3cret@h"},
        {.proxy = "http://ferry:s3cret@:99999"},
        {.client_key = "/k"},
        {.unix_socket = "/var/lib/a/folder/a/path/that/is/longer/than/one/hundred/and/seven/bytes/"
                        "which/is/what/"
                        "Linux/allows/for/"
                        "the/path/of/a/socket"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct net *n;
        struct err e;
        if (net_open(&n, &loop, &bad[i], &e) != ERR_CONFIG)
            fail_msg("%zu", i);
        assert_null(strstr(e.text, "s3cret"));
    }
}

static void test_cannot_connect(void **state)
{
    (void)state;
    check(text("http://127.0.0.1:%d/?a=s3cret", servers_port("closed")), NULL, ERR_CONNECT, "?a=…");
    check("http://no-such-host.invalid/", NULL, ERR_CONNECT, "no-such-host.invalid");
    check("ftp://127.0.0.1/?a=s3cret", NULL, ERR_INVALID, "not a usable address");
    check("file:///etc/hostname", NULL, ERR_INVALID, "not a usable address");
    check("", NULL, ERR_INVALID, "not a usable address");
}

static void test_cancel(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    struct result r[5] = {0};
    begin(&r[0], n, http_url("/hello"), 100); /* at once */
    http_cancel(r[0].request);
    begin(&r[1], n, http_url("/hello"), 100); /* on the way */
    uv_run(&loop, UV_RUN_NOWAIT);
    http_cancel(r[1].request);
    begin(&r[2], n, http_url("/silent"), 100); /* the answer is awaited */
    begin(&r[3], n, http_url("/drip"), 100);   /* the answer is arriving */
    r[4].cancel_within = true;
    begin(&r[4], n, http_url("/hello"), 100);
    run_for(300);
    http_cancel(r[2].request);
    http_cancel(r[3].request);
    wait_for(&r[4].done);
    run_for(300);
    for (int i = 0; i < 4; i++)
        assert_false(r[i].done);
    end(&r[4]);
    net_end(n);
}

static void test_many(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    static struct result r[100];
    for (size_t i = 0; i < 100; i++)
        begin(&r[i], n, http_url(text("/bytes?%zu", i * 1000)), 100000);
    for (size_t i = 0; i < 100; i++) {
        wait_for(&r[i].done);
        assert_int_equal(r[i].status, 0);
        assert_int_equal(r[i].size, i * 1000);
        end(&r[i]);
    }
    net_end(n);
}

/* The request's end may be the net's end. */
static bool net_closed;

static void on_net_closed(void *ctx)
{
    (void)ctx;
    net_closed = true;
}

static void on_last_answer(struct http_request *r, int status, const struct http_answer *answer,
                           const struct err *e, void *ctx)
{
    (void)r;
    (void)answer;
    (void)e;
    assert_int_equal(status, 0);
    net_close(ctx, on_net_closed, NULL);
}

static void test_close_within(void **state)
{
    (void)state;
    struct net *n = net_begin(NULL);
    assert_int_equal(
        http_send(NULL, n, "GET", http_url("/hello"), NULL, NULL, 0, 100, on_last_answer, n), 0);
    wait_for(&net_closed);
    assert_false(uv_loop_alive(&loop));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_cannot_connect),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_close_within),
    };
    return cmocka_run_group_tests(tests, servers_setup, servers_teardown);
}
