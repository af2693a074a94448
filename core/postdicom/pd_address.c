#include "postdicom/pd_address.h"

#include "net/net.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HOST_SIZE 256

char *pd_address_request(const char *address, int request_type, const char *parameters,
                         const char *api_key, int64_t now_ms)
{
    char *encoded = net_url_encode(parameters), *key = net_url_encode(api_key), *out = NULL;
    if (encoded && key &&
        asprintf(&out, "%s?RequestType=%d&Parameters=%s&ClientUniqueId=%s&Cache=%" PRId64, address,
                 request_type, encoded, key, now_ms) < 0)
        out = NULL;
    free(encoded);
    free(key);
    return out;
}

char *pd_address_socket(const char *address, const char *api_key)
{
    size_t n = strlen(address);
    char *key = net_url_encode(api_key), *out = NULL;
    while (n > 0 && address[n - 1] == '/')
        n--;
    if (key && asprintf(&out, "%.*s/?ClientUniqueId=%s", (int)n, address, key) < 0)
        out = NULL;
    free(key);
    return out;
}

/* "[::1]" without its brackets. */
static void unbracket(char *host)
{
    size_t n = strlen(host);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
    }
}

static bool is_numeric(const char *host)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

static bool is_loopback(const char *host)
{
    unsigned char bytes[4];
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (inet_pton(AF_INET, host, bytes) == 1 && bytes[0] == 127);
}

static bool looks_like_registry(const char *domain)
{
    const char *dot = strchr(domain, '.');
    return dot && !strchr(dot + 1, '.') && dot - domain <= 3 && strlen(dot + 1) == 2;
}

/* The router's own domain, a pointer into `host`. */
static const char *own_domain(const char *host)
{
    const char *dot = strchr(host, '.');
    if (is_numeric(host) || !dot || !strchr(dot + 1, '.') || looks_like_registry(dot + 1))
        return host;
    return dot + 1;
}

static bool below(const char *host, const char *domain)
{
    size_t n = strlen(host), m = strlen(domain);
    return n > m + 1 && host[n - m - 1] == '.' && strcasecmp(host + n - m, domain) == 0;
}

int pd_address_check(const char *router, const char *address, const char *const *hosts,
                     size_t n_hosts, struct err *e)
{
    char own[HOST_SIZE], host[HOST_SIZE];
    bool own_tls, tls;
    if (!net_url_host(router, own, sizeof(own), &own_tls))
        return err_set(e, ERR_CONFIG, "the router's address is not a URL");
    if (!net_url_host(address, host, sizeof(host), &tls))
        return err_set(e, ERR_PROTOCOL, "the router handed out something that is not an address");
    unbracket(own);
    unbracket(host);
    if (own_tls && !tls)
        return err_set(e, ERR_TLS,
                       "the router handed out an address of %s without TLS; not used, since the "
                       "router itself was reached by https",
                       host);
    const char *domain = own_domain(own);
    if (strcmp(host, own) == 0 || (is_loopback(own) && is_loopback(host)))
        return 0;
    if (!is_numeric(own) && (strcmp(host, domain) == 0 || below(host, domain)))
        return 0;
    for (size_t i = 0; i < n_hosts; i++) {
        bool wild = strncmp(hosts[i], "*.", 2) == 0;
        if (wild ? below(host, hosts[i] + 2) : strcasecmp(host, hosts[i]) == 0)
            return 0;
    }
    return err_set(
        e, ERR_TLS,
        "the router handed out an address of %s, which is neither in its own domain (%s) "
        "nor in allowed_hosts",
        host, domain);
}
