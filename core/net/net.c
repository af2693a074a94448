/* How a server is reached: the options that every transfer of one peer shares, and what its errors
 * mean. */
#include "net/net_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#define DEFAULT_CONNECT_TIMEOUT_MS 30000

static bool copy(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void net_free(struct net *n)
{
    free(n->ca_file);
    free(n->client_cert);
    free(n->client_key);
    free(n->proxy);
    free(n->proxy_user);
    wipe(n->proxy_password);
    free(n->unix_socket);
    free(n->user_agent);
    free(n);
    curl_global_cleanup();
}

/* A proxy that curl cannot read would appear with its password in curl's own message. */
static int check_options(const struct net_options *o, struct err *e)
{
    if (o->proxy && *o->proxy) {
        CURLU *u = curl_url();
        if (!u)
            return err_set(e, ERR_NOMEM, "no memory for the proxy's address");
        CURLUcode rc = curl_url_set(u, CURLUPART_URL, o->proxy,
                                    CURLU_DEFAULT_SCHEME | CURLU_NON_SUPPORT_SCHEME);
        char *scheme = NULL;
        if (!rc)
            rc = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
        bool known = !rc && (!strcmp(scheme, "http") || !strcmp(scheme, "https") ||
                             !strncmp(scheme, "socks", 5));
        /* Without a scheme curl means http. */
        known = known || (!rc && !strstr(o->proxy, "://"));
        curl_free(scheme);
        curl_url_cleanup(u);
        if (!known)
            return err_set(e, ERR_CONFIG,
                           "the proxy's address is not understood: expected http://HOST:PORT, "
                           "https:// or socks5h://");
    }
    if (o->client_key && !o->client_cert)
        return err_set(e, ERR_CONFIG, "a client key is given without a client certificate");
    if (o->unix_socket && strlen(o->unix_socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return err_set(e, ERR_CONFIG,
                       "the path of the Unix socket is too long (at most 107 bytes)");
    return 0;
}

int net_open(struct net **ret, uv_loop_t *loop, const struct net_options *options, struct err *e)
{
    int rc = check_options(options, e);
    if (rc)
        return rc;
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        return err_set(e, ERR_NOMEM, "libcurl cannot be initialised");
    struct net *n = calloc(1, sizeof *n);
    if (!n) {
        curl_global_cleanup();
        return err_set(e, ERR_NOMEM, "no memory for network connections");
    }
    n->loop = loop;
    n->connect_timeout_ms =
        options->connect_timeout_ms ? options->connect_timeout_ms : DEFAULT_CONNECT_TIMEOUT_MS;
    n->idle_timeout_ms = options->idle_timeout_ms;
    if (!copy(&n->ca_file, options->ca_file) || !copy(&n->client_cert, options->client_cert) ||
        !copy(&n->client_key, options->client_key) || !copy(&n->proxy, options->proxy) ||
        !copy(&n->proxy_user, options->proxy_user) ||
        !copy(&n->proxy_password, options->proxy_password) ||
        !copy(&n->unix_socket, options->unix_socket) ||
        !copy(&n->user_agent,
              options->user_agent ? options->user_agent : "dcmferry/" DCMFERRY_VERSION)) {
        net_free(n);
        return err_set(e, ERR_NOMEM, "no memory for network connections");
    }
    rc = net_loop_open(n, e);
    if (rc) {
        net_free(n);
        return rc;
    }
    *ret = n;
    return 0;
}

int net_set_proxy_password(struct net *n, const char *password)
{
    char *copied;
    if (!copy(&copied, password))
        return ERR_NOMEM;
    wipe(n->proxy_password);
    n->proxy_password = copied;
    return 0;
}

void net_close(struct net *n, void (*cb)(void *ctx), void *ctx)
{
    n->closed = cb;
    n->closed_ctx = ctx;
    net_loop_close(n);
}

int net_transfer_init(struct net_transfer *t, struct net *n, const char *url, struct err *e)
{
    t->net = n;
    t->tls = !strncasecmp(url, "https:", 6);
    t->easy = curl_easy_init();
    if (!t->easy)
        return err_set(e, ERR_NOMEM, "no memory for a network connection");
    CURLcode rc = CURLE_OK;
#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (!rc)                                                                                   \
            rc = curl_easy_setopt(t->easy, option, value);                                         \
    } while (0)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_ERRORBUFFER, t->message);
    SET(CURLOPT_USERAGENT, n->user_agent);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    /* Without this, giving up while a name is looked up waits for the resolver's thread, on the
     * loop. */
    SET(CURLOPT_QUICK_EXIT, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)n->connect_timeout_ms);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    /* A WebSocket cannot start on HTTP/2 and a single request gains nothing from it: ALPN
     * offers 1.1 alone. */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_PROXY_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_PROXY_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (n->ca_file) {
        SET(CURLOPT_CAINFO, n->ca_file);
        SET(CURLOPT_CAPATH, NULL);
    }
    if (n->client_cert) {
        SET(CURLOPT_SSLCERT, n->client_cert);
        SET(CURLOPT_SSLKEY, n->client_key ? n->client_key : n->client_cert);
    }
    if (n->unix_socket) {
        SET(CURLOPT_UNIX_SOCKET_PATH, n->unix_socket);
        SET(CURLOPT_PROXY, "");
    } else if (n->proxy) {
        SET(CURLOPT_PROXY, n->proxy);
        SET(CURLOPT_NOPROXY, ""); /* what is configured holds, whatever no_proxy says */
    }
    if (n->proxy_user || n->proxy_password) {
        SET(CURLOPT_PROXYUSERNAME, n->proxy_user ? n->proxy_user : "");
        SET(CURLOPT_PROXYPASSWORD, n->proxy_password ? n->proxy_password : "");
    }
    SET(CURLOPT_PROXYAUTH, (long)(CURLAUTH_BASIC | CURLAUTH_DIGEST | CURLAUTH_NTLM));
#undef SET
    if (!rc)
        return 0;
    curl_easy_cleanup(t->easy);
    t->easy = NULL;
    return err_set(e, rc == CURLE_OUT_OF_MEMORY ? ERR_NOMEM : ERR_UNSUPPORTED,
                   "cannot set up a connection: %s", curl_easy_strerror(rc));
}

/* TLS 1.3 servers refuse a client's certificate only after the handshake, as an alert on the first
 * read. */
static bool is_certificate_alert(const char *m)
{
    return strstr(m, "alert") && (strstr(m, "certificate") || strstr(m, "unknown ca"));
}

static int tls_error(const struct net *n, const char *message, const char *what, struct err *e)
{
    if (is_certificate_alert(message) || strstr(message, "alert handshake failure"))
        return err_set(e, ERR_TLS, "%s: the server %s (%s); %s", what,
                       n->client_cert ? "refused the client certificate"
                                      : "wants a client certificate",
                       message, n->client_cert ? "check client_cert" : "set client_cert");
    return err_set(e, ERR_TLS, "%s: %s; certificates are checked against %s", what, message,
                   n->ca_file ? n->ca_file
                              : "the system's CA certificates (set ca_file for another)");
}

int net_transfer_error(struct net_transfer *t, CURLcode result, const char *what, struct err *e)
{
    const struct net *n = t->net;
    const char *m = *t->message ? t->message : curl_easy_strerror(result);
    /* The one kind of message in which curl repeats a proxy's address as given (here: by the
     * environment). */
    if (strstr(m, "Unsupported proxy"))
        m = "the proxy's address is not understood";
    long proxy_status = 0;
    if (t->easy)
        curl_easy_getinfo(t->easy, CURLINFO_HTTP_CONNECTCODE, &proxy_status);
    if (proxy_status == 407 || proxy_status == 401) /* tinyproxy says 401 to a wrong password */
        return err_set(e, ERR_AUTH, "%s: the proxy %s", what,
                       n->proxy_user ? "refused its user and password"
                                     : "wants a user and password (set proxy_user and "
                                       "proxy_password)");
    if (proxy_status >= 300)
        return err_set(e, ERR_CONNECT, "%s: the proxy answered %ld", what, proxy_status);

    switch (result) {
    case CURLE_OUT_OF_MEMORY:
        return err_set(e, ERR_NOMEM, "%s: no memory for a network connection", what);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(e, ERR_INVALID, "%s: not a usable address", what);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
        return err_set(e, ERR_CONNECT, "%s: %s", what, m);
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(e, ERR_TIMEOUT, "%s: %s", what, m);
    case CURLE_SSL_CERTPROBLEM:
        return err_set(e, ERR_TLS, "%s: the client certificate cannot be used: %s", what, m);
    case CURLE_SSL_CONNECT_ERROR:
        /* The network failed during the handshake, not the trust. */
        if (strstr(m, "SSL_ERROR_SYSCALL") || strstr(m, "Connection reset"))
            return err_set(e, ERR_CONNECT, "%s: %s", what, m);
        return tls_error(n, m, what, e);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return tls_error(n, m, what, e);
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return err_set(e, ERR_PROTOCOL, "%s: %s", what, m);
    default: /* send and receive errors, empty replies, cut bodies */
        if (is_certificate_alert(m))
            return tls_error(n, m, what, e);
        return net_transfer_lost(t, m, what, e);
    }
}

/* Many servers close without an alert when they miss a client certificate. */
int net_transfer_lost(const struct net_transfer *t, const char *message, const char *what,
                      struct err *e)
{
    return err_set(e, ERR_CLOSED, "%s: %s%s", what, message,
                   t->tls && !t->answered && !t->net->client_cert
                       ? " (if it wants a client certificate, set client_cert)"
                       : "");
}
