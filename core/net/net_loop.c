/* curl's multi interface on a libuv loop.
 *
 * curl tells which sockets it waits for (on_socket) and when it wants to be called at the latest
 * (on_timeout); both are answered with curl_multi_socket_action, after which finished transfers are
 * taken from its message queue. A socket's context lives until its poll handle's close callback. */
#include "net/net_internal.h"

#include <stdlib.h>

struct net_socket {
    uv_poll_t poll;
    struct net *net;
    curl_socket_t fd;
};

void net_hold(struct net *n)
{
    n->held++;
}

void net_release(struct net *n)
{
    if (--n->held > 0 || !n->closing)
        return;
    void (*closed)(void *) = n->closed;
    void *ctx = n->closed_ctx;
    net_free(n);
    if (closed)
        closed(ctx);
}

/* The message is copied before its owner removes the easy handle, which frees it. An owner may stop
 * other transfers from within; curl drops their messages then. */
static void take_finished(struct net *n)
{
    CURLMsg *msg;
    int left;
    while ((msg = curl_multi_info_read(n->multi, &left))) {
        if (msg->msg != CURLMSG_DONE)
            continue;
        CURLcode result = msg->data.result;
        struct net_transfer *t = NULL;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        if (t)
            t->done(t, result);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct net_socket *s = poll->data;
    struct net *n = s->net;
    int flags = 0;
    if (status < 0)
        flags = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    int running;
    curl_multi_socket_action(n->multi, s->fd, flags, &running);
    take_finished(n);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct net_socket *s = handle->data;
    struct net *n = s->net;
    free(s);
    net_release(n);
}

/* Without memory or a poll handle the transfer runs into its timeout: a failure returned from here
 * would make the multi handle useless for all others. */
static struct net_socket *new_socket(struct net *n, curl_socket_t fd)
{
    struct net_socket *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->net = n;
    s->fd = fd;
    if (uv_poll_init_socket(n->loop, &s->poll, fd)) {
        free(s);
        return NULL;
    }
    s->poll.data = s;
    net_hold(n);
    curl_multi_assign(n->multi, fd, s);
    return s;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    struct net *n = ctx;
    struct net_socket *s = socket_ctx;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            curl_multi_assign(n->multi, fd, NULL);
            uv_poll_stop(&s->poll);
            uv_close((uv_handle_t *)&s->poll, on_poll_closed);
        }
        return 0;
    }
    if (!s)
        s = new_socket(n, fd);
    if (!s)
        return 0;
    int events = 0;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= UV_READABLE;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= UV_WRITABLE;
    if (events)
        uv_poll_start(&s->poll, events, on_poll);
    else
        uv_poll_stop(&s->poll);
    return 0;
}

static void on_timer(uv_timer_t *timer)
{
    struct net *n = timer->data;
    int running;
    curl_multi_socket_action(n->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    take_finished(n);
}

/* curl forbids to be called back from here; a timeout of 0 fires in the loop's next round. */
static int on_timeout(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    struct net *n = ctx;
    if (timeout_ms < 0 || n->closing)
        uv_timer_stop(&n->timer);
    else
        uv_timer_start(&n->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

int net_loop_open(struct net *n, struct err *e)
{
    n->multi = curl_multi_init();
    if (!n->multi)
        return err_set(e, ERR_NOMEM, "no memory for network connections");
    curl_multi_setopt(n->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(n->multi, CURLMOPT_SOCKETDATA, n);
    curl_multi_setopt(n->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(n->multi, CURLMOPT_TIMERDATA, n);
    uv_timer_init(n->loop, &n->timer);
    n->timer.data = n;
    net_hold(n);
    return 0;
}

/* Not in net_loop_close: that may be called from within take_finished. Kept connections are closed
 * here, each with CURL_POLL_REMOVE for what is still polled. */
static void on_timer_closed(uv_handle_t *handle)
{
    struct net *n = handle->data;
    curl_multi_cleanup(n->multi);
    n->multi = NULL;
    net_release(n);
}

void net_loop_close(struct net *n)
{
    n->closing = true;
    uv_timer_stop(&n->timer);
    uv_close((uv_handle_t *)&n->timer, on_timer_closed);
}

int net_transfer_start(struct net_transfer *t, struct err *e)
{
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    CURLMcode rc = curl_multi_add_handle(t->net->multi, t->easy);
    if (!rc)
        return 0;
    curl_easy_cleanup(t->easy);
    t->easy = NULL;
    return err_set(e, ERR_NOMEM, "cannot start a transfer: %s", curl_multi_strerror(rc));
}

void net_transfer_stop(struct net_transfer *t)
{
    if (!t->easy)
        return;
    curl_multi_remove_handle(t->net->multi, t->easy);
    curl_easy_cleanup(t->easy);
    t->easy = NULL;
}
