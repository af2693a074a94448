/* Ends TLS in front of the HTTP server: each connection has a thread that decrypts into a
 * socketpair. libmicrohttpd's own TLS is not used, because for an upgraded connection (0.9.75,
 * external epoll) it moves the bytes through a buffer of eight bytes, and does not notice by itself
 * when one is given back. */
#ifndef SANDBOX_TLS_H
#define SANDBOX_TLS_H

#include "base/err.h"

struct tls;

/* PEM files. With `client_ca` a client without a certificate of it does not get through the
 * handshake. */
int tls_open(struct tls **ret, const char *cert, const char *key, const char *client_ca,
             struct err *e);
/* Takes over an accepted socket; the descriptor returned carries the plain bytes. -1: out of
 * descriptors, memory or threads; the socket is closed. */
int tls_wrap(struct tls *t, int fd);
/* Ends all connections and waits for their threads. */
void tls_close(struct tls *t);

#endif
