#include "sandbox/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <utlist.h>

#define CHUNK             65536
#define HANDSHAKE_SECONDS 10

struct tls_pump {
    struct tls *tls;
    struct tls_pump *prev, *next;
    pthread_t thread;
    int net; /* the client's socket */
    int app; /* our end of the pair */
};

struct tls {
    SSL_CTX *ctx;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    struct tls_pump *pumps; /* under lock */
};

static int ssl_error(struct err *e, const char *what, const char *path)
{
    char text[160];

    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    return err_set(e, ERR_INVALID, "%s %s: %s", what, path, text);
}

int tls_open(struct tls **ret, const char *cert, const char *key, const char *client_ca,
             struct err *e)
{
    struct tls *t = calloc(1, sizeof *t);
    int rc = 0;

    if (!t || !(t->ctx = SSL_CTX_new(TLS_server_method()))) {
        free(t);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->ended, NULL);
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    /* After a record that holds no data (a session ticket, a key update) the other direction must
     * not wait. */
    SSL_CTX_clear_mode(t->ctx, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_id_context(t->ctx, (const unsigned char *)"sandbox", 7);
    if (SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1)
        rc = ssl_error(e, "cannot use the certificate", cert);
    else if (SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1)
        rc = ssl_error(e, "cannot use the key", key);
    else if (client_ca && SSL_CTX_load_verify_locations(t->ctx, client_ca, NULL) != 1)
        rc = ssl_error(e, "cannot use the clients' CA", client_ca);
    if (rc) {
        tls_close(t);
        return rc;
    }
    if (client_ca) {
        SSL_CTX_set_client_CA_list(t->ctx, SSL_load_client_CA_file(client_ca));
        SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    *ret = t;
    return 0;
}

/* ---- A connection's thread ---- */

static bool write_app(int fd, const char *data, size_t size)
{
    while (size != 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

static bool from_net(struct tls_pump *p, SSL *ssl, char *buffer)
{
    int n = SSL_read(ssl, buffer, CHUNK);

    if (n > 0)
        return write_app(p->app, buffer, (size_t)n);
    return SSL_get_error(ssl, n) == SSL_ERROR_WANT_READ;
}

static bool from_app(struct tls_pump *p, SSL *ssl, char *buffer)
{
    ssize_t n = recv(p->app, buffer, CHUNK, 0);

    if (n < 0 && errno == EINTR)
        return true;
    return n > 0 && SSL_write(ssl, buffer, (int)n) == (int)n;
}

/* Both descriptors block; only one that poll(2) named is read. The loop at the other end of the
 * pair never waits for us in a write, so neither do we for ever. */
static void pump(struct tls_pump *p, SSL *ssl)
{
    struct pollfd fds[2] = {{.fd = p->net, .events = POLLIN}, {.fd = p->app, .events = POLLIN}};
    char *buffer = malloc(CHUNK);
    bool goes_on = buffer != NULL;

    while (goes_on) {
        if (poll(fds, 2, SSL_pending(ssl) > 0 ? 0 : -1) < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        if (fds[1].revents != 0)
            goes_on = from_app(p, ssl, buffer);
        if (goes_on && (fds[0].revents != 0 || SSL_pending(ssl) > 0))
            goes_on = from_net(p, ssl, buffer);
    }
    free(buffer);
}

static void set_timeout(int fd, time_t seconds)
{
    struct timeval t = {.tv_sec = seconds};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

/* The alert that says what was wrong is on its way; closing with input unread would take it back.
 */
static void let_alert_arrive(int fd)
{
    char rest[1024];

    shutdown(fd, SHUT_WR);
    while (recv(fd, rest, sizeof rest, 0) > 0)
        ;
}

static void *thread_main(void *arg)
{
    struct tls_pump *p = arg;
    struct tls *t = p->tls;
    SSL *ssl = SSL_new(t->ctx);

    if (ssl && SSL_set_fd(ssl, p->net) == 1) {
        set_timeout(p->net, HANDSHAKE_SECONDS);
        if (SSL_accept(ssl) == 1) {
            set_timeout(p->net, 0);
            pump(p, ssl);
            SSL_shutdown(ssl);
        } else {
            let_alert_arrive(p->net);
        }
    }
    SSL_free(ssl);
    ERR_clear_error();
    pthread_mutex_lock(&t->lock);
    DL_DELETE(t->pumps, p);
    close(p->net);
    close(p->app);
    pthread_cond_signal(&t->ended);
    pthread_mutex_unlock(&t->lock);
    free(p);
    return NULL;
}

static bool start_thread(struct tls_pump *p)
{
    pthread_attr_t attributes;
    int rc;

    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    rc = pthread_create(&p->thread, &attributes, thread_main, p);
    pthread_attr_destroy(&attributes);
    return rc == 0;
}

int tls_wrap(struct tls *t, int fd)
{
    struct tls_pump *p = calloc(1, sizeof *p);
    int pair[2];

    if (!p || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        free(p);
        close(fd);
        return -1;
    }
    p->tls = t;
    p->net = fd;
    p->app = pair[0];
    pthread_mutex_lock(&t->lock);
    DL_APPEND(t->pumps, p);
    if (!start_thread(p)) {
        DL_DELETE(t->pumps, p);
        pthread_mutex_unlock(&t->lock);
        close(fd);
        close(pair[0]);
        close(pair[1]);
        free(p);
        return -1;
    }
    pthread_mutex_unlock(&t->lock);
    return pair[1];
}

void tls_close(struct tls *t)
{
    struct tls_pump *p;

    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    DL_FOREACH(t->pumps, p)
    {
        shutdown(p->net, SHUT_RDWR);
        shutdown(p->app, SHUT_RDWR);
    }
    while (t->pumps)
        pthread_cond_wait(&t->ended, &t->lock);
    pthread_mutex_unlock(&t->lock);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->ended);
    SSL_CTX_free(t->ctx);
    free(t);
}
