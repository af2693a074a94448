/* One HTTP request on the shared multi handle.
 *
 * Happy path: http_send -> connected (on_request) -> headers and body arrive -> on_done -> callback
 * -> timer closed -> freed. Failure: curl's result, an answer that is too large, or the idle timer,
 * which counts from when the connection stands (before that curl's connect timeout rules). */
#include "net/http.h"

#include "base/buf.h"
#include "net/net_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES 65536

struct http_request {
    struct net_transfer transfer;
    uv_timer_t timer;
    char *shown_url; /* redacted, with the method */
    struct curl_slist *headers;
    struct buf body;
    size_t max_answer;
    size_t header_bytes;
    int64_t date_s;
    bool too_large;
    bool connected;
    bool suspect;     /* the idle time is over; one more look at the socket */
    uint64_t last_ms; /* of a byte in either direction */
    curl_off_t bytes; /* moved so far in both directions */
    http_cb cb;       /* NULL once called or canceled */
    void *ctx;
};

static void on_closed(uv_handle_t *handle)
{
    struct http_request *r = handle->data;
    struct net *n = r->transfer.net;
    buf_free(&r->body);
    free(r->shown_url);
    free(r);
    net_release(n);
}

/* After this the request lives only until its timer is closed. */
static void end(struct http_request *r)
{
    net_transfer_stop(&r->transfer);
    curl_slist_free_all(r->headers);
    r->headers = NULL;
    uv_timer_stop(&r->timer);
    uv_close((uv_handle_t *)&r->timer, on_closed);
}

static void finish(struct http_request *r, int status, const struct http_answer *answer,
                   const struct err *e)
{
    http_cb cb = r->cb;
    r->cb = NULL;
    end(r);
    cb(r, status, answer, e, r->ctx);
}

static void touch(struct http_request *r)
{
    r->last_ms = uv_now(r->transfer.net->loop);
    r->suspect = false;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
    struct http_request *r = ctx;
    touch(r);
    if (size * n > r->max_answer - r->body.size) {
        r->too_large = true;
        return 0;
    }
    buf_put(&r->body, data, size * n);
    return buf_failed(&r->body) ? 0 : size * n;
}

/* RFC 9110, 6.6.1. */
static void read_date(struct http_request *r, const char *line, size_t size)
{
    char text[64];
    if (size <= 5 || size >= sizeof text || strncasecmp(line, "date:", 5) != 0)
        return;
    memcpy(text, line + 5, size - 5);
    text[size - 5] = 0;
    time_t date = curl_getdate(text, NULL);
    r->date_s = date > 0 ? date : 0;
}

static size_t on_header(char *data, size_t size, size_t n, void *ctx)
{
    struct http_request *r = ctx;
    touch(r);
    r->transfer.answered = true;
    r->header_bytes += size * n;
    if (r->header_bytes > MAX_HEADER_BYTES) {
        r->too_large = true;
        return 0;
    }
    read_date(r, data, size * n);
    return size * n;
}

static int on_progress(void *ctx, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    (void)down_total;
    (void)up_total;
    struct http_request *r = ctx;
    if (down + up != r->bytes) {
        r->bytes = down + up;
        touch(r);
    }
    return 0;
}

/* The connection stands, the request is about to be sent. */
static int on_request(void *ctx, char *remote, char *local, int remote_port, int local_port)
{
    (void)remote;
    (void)local;
    (void)remote_port;
    (void)local_port;
    struct http_request *r = ctx;
    r->connected = true;
    touch(r);
    return CURL_PREREQFUNC_OK;
}

static void on_done(struct net_transfer *t, CURLcode result)
{
    struct http_request *r =
        (struct http_request *)((char *)t - offsetof(struct http_request, transfer));
    struct err e;
    struct http_answer answer = {0};
    if (r->too_large || result == CURLE_FILESIZE_EXCEEDED) {
        err_set(&e, ERR_TOO_LARGE, "%s: the answer is longer than %zu bytes", r->shown_url,
                r->max_answer);
    } else if (buf_failed(&r->body)) {
        err_set(&e, ERR_NOMEM, "%s: no memory for the answer", r->shown_url);
    } else if (result) {
        net_transfer_error(t, result, r->shown_url, &e);
    } else {
        long status = 0;
        curl_off_t retry_after = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after);
        if (status == 407) {
            err_set(&e, ERR_AUTH, "%s: the proxy %s", r->shown_url,
                    t->net->proxy_user ? "refused its user and password"
                                       : "wants a user and password (set proxy_user and "
                                         "proxy_password)");
        } else {
            answer.status = (int)status;
            answer.body = buf_cstr(&r->body);
            answer.size = r->body.size;
            answer.date_s = r->date_s;
            if (retry_after > 0)
                answer.retry_after_ms = (uint64_t)retry_after * 1000;
            if (buf_failed(&r->body))
                err_set(&e, ERR_NOMEM, "%s: no memory for the answer", r->shown_url);
            else
                e = (struct err){0};
        }
    }
    finish(r, e.code, e.code ? NULL : &answer, &e);
}

/* A loop that was held up sees its timers before its sockets: so one more round before an idle time
 * counts. */
static void on_idle(uv_timer_t *timer)
{
    struct http_request *r = timer->data;
    uint64_t now = uv_now(timer->loop), idle = r->transfer.net->idle_timeout_ms;
    if (!r->connected)
        r->last_ms = now;
    uint64_t due = r->last_ms + idle;
    if (due > now) {
        uv_timer_start(timer, on_idle, due - now, 0);
    } else if (!r->suspect) {
        r->suspect = true;
        uv_timer_start(timer, on_idle, 1, 0);
    } else {
        struct err e;
        err_set(&e, ERR_TIMEOUT, "%s: no byte for %.3g s", r->shown_url, (double)idle / 1000);
        finish(r, e.code, NULL, &e);
    }
}

static bool append_header(struct http_request *r, const char *line)
{
    struct curl_slist *headers = curl_slist_append(r->headers, line);
    if (headers)
        r->headers = headers;
    return headers != NULL;
}

static int set_request(struct http_request *r, const char *method, const char *content_type,
                       const void *body, size_t body_size, struct err *e)
{
    CURL *easy = r->transfer.easy;
    CURLcode rc = CURLE_OK;
#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (!rc)                                                                                   \
            rc = curl_easy_setopt(easy, option, value);                                            \
    } while (0)
    bool get = !strcmp(method, "GET"), head = !strcmp(method, "HEAD");
    if (head)
        SET(CURLOPT_NOBODY, 1L);
    else if (!get || body_size > 0) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_size);
        SET(CURLOPT_COPYPOSTFIELDS, body_size > 0 ? body : "");
        SET(CURLOPT_CUSTOMREQUEST, method);
    }
    /* On a kept connection that turns out dead curl sends the request again: not what may act
     * twice. */
    if (!get && !head)
        SET(CURLOPT_FRESH_CONNECT, 1L);
    struct buf line = {0};
    if (content_type)
        buf_printf(&line, "Content-Type: %s", content_type);
    else
        buf_put_str(&line, "Content-Type:");
    bool ok =
        append_header(r, buf_cstr(&line)) && !buf_failed(&line) && append_header(r, "Expect:");
    buf_free(&line);
    SET(CURLOPT_HTTPHEADER, r->headers);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, r);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, r);
    SET(CURLOPT_PREREQFUNCTION, on_request);
    SET(CURLOPT_PREREQDATA, r);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, r);
    SET(CURLOPT_NOPROGRESS, 0L);
    if (!head) /* announces the length of what will not be sent */
        SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)r->max_answer);
#undef SET
    return rc || !ok ? err_set(e, ERR_NOMEM, "no memory for a request") : 0;
}

int http_send(struct http_request **ret, struct net *net, const char *method, const char *url,
              const char *content_type, const void *body, size_t body_size, size_t max_answer,
              http_cb cb, void *ctx)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_NOMEM;
    r->cb = cb;
    r->ctx = ctx;
    r->max_answer = max_answer;
    char *redacted = net_redact_url(url);
    if (redacted && asprintf(&r->shown_url, "%s %s", method, redacted) < 0)
        r->shown_url = NULL;
    free(redacted);
    int rc = r->shown_url ? net_transfer_init(&r->transfer, net, url, NULL) : ERR_NOMEM;
    if (!rc)
        rc = set_request(r, method, content_type, body, body_size, NULL);
    r->transfer.done = on_done;
    if (!rc)
        rc = net_transfer_start(&r->transfer, NULL);
    if (rc) {
        if (r->transfer.easy)
            curl_easy_cleanup(r->transfer.easy);
        curl_slist_free_all(r->headers);
        free(r->shown_url);
        free(r);
        return rc;
    }
    uv_timer_init(net->loop, &r->timer);
    r->timer.data = r;
    net_hold(net);
    if (net->idle_timeout_ms)
        uv_timer_start(&r->timer, on_idle, net->idle_timeout_ms, 0);
    if (ret)
        *ret = r;
    return 0;
}

void http_cancel(struct http_request *r)
{
    if (!r || !r->cb)
        return;
    r->cb = NULL;
    end(r);
}
