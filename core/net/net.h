/* libcurl's multi interface on a libuv loop, shared by all HTTP requests and WebSockets of one
 * peer. Loop thread only. */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct net;

/* How to reach a server: the same for HTTP and WebSocket. TLS verification is always on, no
 * redirects are followed. All strings are copied by net_open. */
struct net_options {
    const char *ca_file;     /* PEM bundle in place of the system's; NULL: the system's */
    const char *client_cert; /* PEM; NULL: none */
    const char *client_key;  /* PEM; NULL: in client_cert */
    const char *proxy;       /* URL; NULL: from the environment (http_proxy, …); "": none */
    const char *proxy_user, *proxy_password; /* NULL: none */
    const char *unix_socket; /* path of a Unix socket to talk to in place of TCP; NULL */
    const char *user_agent;  /* NULL: "dcmferry/VERSION" */
    /* DNS, TCP, proxy and TLS together; 0: 30 s */
    uint64_t connect_timeout_ms;
    /* No byte in either direction for that long while an answer is awaited; 0: for ever. */
    uint64_t idle_timeout_ms;
};

int net_open(struct net **ret, uv_loop_t *loop, const struct net_options *options, struct err *e);
/* In place of the one in the options; copied, counts from the next connection on. 0 or ERR_NOMEM.
 */
int net_set_proxy_password(struct net *n, const char *password);
/* Everything of it must have been closed or canceled; cb when its handles are closed; freed before
 * cb. */
void net_close(struct net *n, void (*cb)(void *ctx), void *ctx);

/* `url` with user info and the values of query parameters replaced by "…", for messages (keys
 * travel in URLs). malloc'ed; NULL when out of memory. */
char *net_redact_url(const char *url);

/* Percent-encodes as JavaScript's encodeURIComponent does. malloc'ed. */
char *net_url_encode(const char *s);

/* The host of an http(s)/ws(s) URL in lower case into out; returns false if there is none.
 * *ret_tls: https or wss. */
bool net_url_host(const char *url, char *out, size_t size, bool *ret_tls);

#endif
