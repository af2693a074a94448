/* What the files of core/net share: one multi handle, its transfers and the uv handles that must be
 * closed. */
#ifndef NET_NET_INTERNAL_H
#define NET_NET_INTERNAL_H

#include "net/net.h"

#include <curl/curl.h>

struct net {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer; /* curl's one timeout */
    size_t held;      /* uv handles and owners of such that are not yet closed */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;

    char *ca_file, *client_cert, *client_key;
    char *proxy, *proxy_user, *proxy_password;
    char *unix_socket, *user_agent;
    uint64_t connect_timeout_ms;
    uint64_t idle_timeout_ms;
};

/* One easy handle in the multi. Embedded in its owner; zero before net_transfer_init. */
struct net_transfer {
    struct net *net;
    CURL *easy;
    char message[CURL_ERROR_SIZE];
    bool tls;      /* an https URL */
    bool answered; /* set by the owner at the first byte from the server */
    /* curl is through with it: called from the loop, outside of curl's own callbacks. */
    void (*done)(struct net_transfer *t, CURLcode result);
};

/* net_loop.c */
int net_loop_open(struct net *n, struct err *e);
/* Ends the multi handle; n->closed is called and n freed when the last held handle is gone. */
void net_loop_close(struct net *n);
/* Owners of uv handles keep the net alive until those are closed. */
void net_hold(struct net *n);
void net_release(struct net *n);
int net_transfer_start(struct net_transfer *t, struct err *e);
/* Takes it out of the multi and frees the easy handle; `done` will not come. Safe to call again. */
void net_transfer_stop(struct net_transfer *t);

/* net.c */
void net_free(struct net *n);
/* Makes the easy handle for an http(s) URL with all that net_options say. */
int net_transfer_init(struct net_transfer *t, struct net *n, const char *url, struct err *e);
/* Fills *e with the ERR_ code and the sentence for a failed transfer; `what` (a redacted URL) comes
 * first. */
int net_transfer_error(struct net_transfer *t, CURLcode result, const char *what, struct err *e);

/* The same where the server closed the connection: ERR_CLOSED. `message` says how it showed. */
int net_transfer_lost(const struct net_transfer *t, const char *message, const char *what,
                      struct err *e);

#endif
