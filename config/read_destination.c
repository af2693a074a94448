#include "config/read.h"

#include "base/text.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define D(field) offsetof(struct config_destination, field)
#define P(field) offsetof(struct config_destination, postdicom.field)
#define SECOND   1000
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24LL * HOUR)

static void read_router(struct reading *r, const struct node *node, const char *path, void *target);
static void read_hosts(struct reading *r, const struct node *node, const char *path, void *target);
static void read_proxy(struct reading *r, const struct node *node, const char *path, void *target);

static const char *const CHECKS[] = {"uncertain", "always", "never", NULL};
static const char *const TYPES[] = {"postdicom", NULL};
static const char *const OTHER_TYPES[] = {"stow", "cstore", "folder"};
static const char *const OTHER_KEYS[] = {"deid", NULL};

static const struct table_key RETRY_KEYS[] = {
    {.name = "min",
     .type = TABLE_DURATION,
     .offset = D(retry_min_ms),
     .fallback = "1s",
     .min = 100,
     .max = DAY,
     .help = "delay before the first repetition"},
    {.name = "max",
     .type = TABLE_DURATION,
     .offset = D(retry_max_ms),
     .fallback = "10m",
     .min = SECOND,
     .max = 7 * DAY,
     .help = "longest delay"},
};

const struct table_section READ_RETRY = {"destinations.NAME.retry", RETRY_KEYS,
                                         sizeof(RETRY_KEYS) / sizeof(RETRY_KEYS[0]), NULL};

static const struct table_key KEYS[] = {
    {.name = "type",
     .type = TABLE_CHOICE,
     .offset = D(type),
     .required = true,
     .choices = TYPES,
     .help = "postdicom"},
    {.name = "router",
     .type = TABLE_CUSTOM,
     .offset = P(router),
     .read = read_router,
     .required = true,
     .expected = "URL",
     .help = "the account's router, an https URL"},
    {.name = "account_key",
     .type = TABLE_SECRET,
     .offset = P(account_key),
     .required = true,
     .help = "the PostDICOM account's key"},
    {.name = "api_key",
     .type = TABLE_SECRET,
     .offset = P(api_key),
     .required = true,
     .help = "the API key"},
    {.name = "user",
     .type = TABLE_TEXT,
     .offset = P(user),
     .help = "user by name or UUID; needed if the account has several"},
    {.name = "institution",
     .type = TABLE_TEXT,
     .offset = P(institution),
     .help = "institution by name or UUID; needed if the user has several"},
    {.name = "connections",
     .type = TABLE_UINT,
     .offset = P(connections),
     .fallback = "4",
     .min = 1,
     .max = 32,
     .help = "upload connections at a time"},
    {.name = "pipeline",
     .type = TABLE_UINT,
     .offset = P(pipeline),
     .fallback = "1",
     .min = 1,
     .max = 32,
     .help = "parts in flight on each connection"},
    {.name = "check_existing",
     .type = TABLE_CHOICE,
     .offset = P(check_existing),
     .fallback = "uncertain",
     .choices = CHECKS,
     .help = "when the server is asked whether it has an instance before it is sent"},
    {.name = "client_host_name",
     .type = TABLE_TEXT,
     .offset = P(client_host_name),
     .help = "the name this machine gives to the server"},
    {.name = "allowed_hosts",
     .type = TABLE_CUSTOM,
     .read = read_hosts,
     .expected = "host or list",
     .help = "hosts the router may name beside those of its own domain"},
    {.name = "allow_http",
     .type = TABLE_BOOL,
     .offset = P(allow_http),
     .fallback = "false",
     .help = "whether connections without TLS are allowed to other machines"},
    {.name = "session_files",
     .type = TABLE_UINT,
     .offset = P(session_files),
     .fallback = "500",
     .min = 1,
     .max = 100000,
     .help = "files of one upload session at most"},
    {.name = "session_idle",
     .type = TABLE_DURATION,
     .offset = P(session_idle_ms),
     .fallback = "30s",
     .min = SECOND,
     .max = HOUR,
     .help = "an upload session ends after this time without a new file"},
    {.name = "ca_file",
     .type = TABLE_PATH,
     .offset = D(ca_file),
     .expected = "file",
     .help = "certificates of the authorities to trust instead of the system's (PEM)"},
    {.name = "client_cert",
     .type = TABLE_PATH,
     .offset = D(client_cert),
     .expected = "file",
     .help = "client certificate (PEM)"},
    {.name = "client_key",
     .type = TABLE_PATH,
     .offset = D(client_key),
     .expected = "file",
     .help = "its key (PEM), if not in the same file"},
    {.name = "proxy",
     .type = TABLE_CUSTOM,
     .offset = D(proxy),
     .read = read_proxy,
     .expected = "URL or none",
     .help = "proxy for HTTP and WebSocket"},
    {.name = "proxy_user",
     .type = TABLE_TEXT,
     .offset = D(proxy_user),
     .help = "user name at the proxy"},
    {.name = "proxy_password",
     .type = TABLE_SECRET,
     .offset = D(proxy_password),
     .help = "password at the proxy"},
    {.name = "rate_limit",
     .type = TABLE_SIZE,
     .offset = D(rate_limit),
     .fallback = "none",
     .min = 1024,
     .max = 1000000000000LL,
     .zero = "none",
     .expected = "size per second",
     .help = "bandwidth for uploads at most"},
    {.name = "connect_timeout",
     .type = TABLE_DURATION,
     .offset = D(connect_timeout_ms),
     .fallback = "30s",
     .min = SECOND,
     .max = HOUR,
     .help = "for one attempt to connect"},
    {.name = "idle_timeout",
     .type = TABLE_DURATION,
     .offset = D(idle_timeout_ms),
     .fallback = "60s",
     .min = SECOND,
     .max = HOUR,
     .help = "without a byte in either direction while an answer is awaited"},
    {.name = "ping_interval",
     .type = TABLE_DURATION,
     .offset = D(ping_interval_ms),
     .fallback = "30s",
     .min = SECOND,
     .max = HOUR,
     .zero = "off",
     .help = "between WebSocket pings on an open connection"},
    {.name = "idle_close",
     .type = TABLE_DURATION,
     .offset = D(idle_close_ms),
     .fallback = "60s",
     .min = SECOND,
     .max = DAY,
     .help = "connections without work are closed after it"},
    {.name = "give_up_after",
     .type = TABLE_DURATION,
     .offset = D(give_up_after_ms),
     .fallback = "never",
     .min = MINUTE,
     .max = 3650 * DAY,
     .zero = "never",
     .help = "transient errors are retried for so long"},
    {.name = "retry",
     .type = TABLE_TABLE,
     .table = &READ_RETRY,
     .help = "delays between repetitions"},
};

const struct table_section READ_DESTINATION = {"destinations.NAME", KEYS,
                                               sizeof(KEYS) / sizeof(KEYS[0]), OTHER_KEYS};

/* A name, an IPv4 address, or an IPv6 address without its brackets. */
static bool is_host(const char *s, size_t n)
{
    char text[256];
    struct in6_addr six;

    if (n == 0 || n >= sizeof(text))
        return false;
    memcpy(text, s, n);
    text[n] = '\0';
    if (inet_pton(AF_INET6, text, &six) == 1)
        return true;
    return text[strspn(text,
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")] ==
               '\0' &&
           text[0] != '.' && text[0] != '-' && strstr(text, "..") == NULL;
}

static bool is_loopback(const char *host, size_t n)
{
    char text[256];
    struct in_addr four;
    struct in6_addr six;

    if (n >= sizeof(text))
        return false;
    memcpy(text, host, n);
    text[n] = '\0';
    if (strcasecmp(text, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, text, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, text, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

/* RFC 3986's scheme://host[:port][/path], no user. NULL if fine, else what is wrong; never the text
 * itself, which may hold a password. */
static const char *check_url(const char *url, const char *const *schemes, const char **ret_scheme,
                             const char **ret_host, size_t *ret_n)
{
    const char *host = strstr(url, "://"), *end, *port;
    size_t n;

    *ret_scheme = NULL;
    for (size_t i = 0; host != NULL && schemes[i] != NULL; i++) {
        if (strlen(schemes[i]) == (size_t)(host - url) &&
            strncasecmp(url, schemes[i], (size_t)(host - url)) == 0)
            *ret_scheme = schemes[i];
    }
    if (*ret_scheme == NULL)
        return "its scheme is not one of these";
    host += 3;
    for (const char *p = url; *p != '\0'; p++) {
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || strchr("\"<>\\^`{|}", *p))
            return "it holds a character that URLs do not have";
    }
    n = strcspn(host, "/?#");
    if (memchr(host, '@', n) != NULL)
        return "it must not hold a user or password";
    end = host + n;
    if (host[0] == '[') {
        const char *bracket = memchr(host, ']', n);
        if (bracket == NULL)
            return "its host is not valid";
        *ret_host = host + 1;
        *ret_n = (size_t)(bracket - host - 1);
        port = bracket + 1;
    } else {
        port = memchr(host, ':', n);
        port = port != NULL ? port : end;
        *ret_host = host;
        *ret_n = (size_t)(port - host);
        if (memchr(port + (port < end), ':', (size_t)(end - port - (port < end))) != NULL)
            return "its host is not valid (IPv6 addresses stand in brackets)";
    }
    if (!is_host(*ret_host, *ret_n))
        return "its host is not valid";
    if (port < end) {
        unsigned long number = strtoul(port + 1, NULL, 10);
        if (*port != ':' || strspn(port + 1, "0123456789") != (size_t)(end - port - 1) ||
            number < 1 || number > 65535)
            return "its port is not a number from 1 to 65535";
    }
    return NULL;
}

static void read_router(struct reading *r, const struct node *node, const char *path, void *target)
{
    static const char *const SCHEMES[] = {"https", "http", NULL};
    const char *scheme, *host, *fault, *text;
    size_t n;

    if (node == NULL)
        return;
    text = table_text(r, node, path, "an https URL");
    if (text == NULL)
        return;
    fault = check_url(text, SCHEMES, &scheme, &host, &n);
    if (fault == NULL && strpbrk(text, "?#") != NULL)
        fault = "it must not hold a query or fragment";
    if (fault != NULL)
        fault_add(r->faults, node->mark, path,
                  "expected a URL such as https://developer.postdicom.com/wssShellService/: %s",
                  fault);
    else
        *(char **)target = table_strdup(r, text);
}

static void read_proxy(struct reading *r, const struct node *node, const char *path, void *target)
{
    static const char *const SCHEMES[] = {"http", "https", "socks5", "socks5h", NULL};
    const char *scheme, *host, *fault, *text;
    size_t n;

    if (node == NULL)
        return;
    text = table_text(r, node, path, "the proxy's URL, or none");
    if (text == NULL)
        return;
    if (strcmp(text, "none") == 0) {
        *(char **)target = table_strdup(r, "");
        return;
    }
    fault = check_url(text, SCHEMES, &scheme, &host, &n);
    if (fault != NULL)
        fault_add(r->faults, node->mark, path,
                  "expected none or a URL such as http://proxy.example.org:3128 (http, https, "
                  "socks5, socks5h; proxy_user and proxy_password are keys of their own): %s",
                  fault);
    else
        *(char **)target = table_strdup(r, text);
}

/* The target is the whole destination. */
static void read_hosts(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct config_postdicom *p = &((struct config_destination *)target)->postdicom;
    char quote[FAULT_QUOTE_SIZE];

    if (node == NULL || !table_texts(r, node, path, "a host name or a list of them", false,
                                     &p->allowed_hosts, &p->n_allowed_hosts))
        return;
    for (size_t i = 0; i < p->n_allowed_hosts; i++) {
        const char *host = p->allowed_hosts[i];
        size_t skipped = strncmp(host, "*.", 2) == 0 ? 2 : 0;
        if (!is_host(host + skipped, strlen(host + skipped)))
            fault_add(r->faults, node->type == NODE_LIST ? node->items[i]->mark : node->mark, path,
                      "expected a host such as eu.example.org or *.example.org, found %s",
                      fault_quote(quote, host));
    }
}

static void check_destination(struct reading *r, const struct node *node, const char *path,
                              const struct config_destination *d)
{
    static const char *const SCHEMES[] = {"https", "http", NULL};
    char below[FAULT_PATH_SIZE];
    const char *scheme, *host;
    size_t n;

    if (d->postdicom.router != NULL &&
        check_url(d->postdicom.router, SCHEMES, &scheme, &host, &n) == NULL &&
        strcmp(scheme, "http") == 0 && !d->postdicom.allow_http && !is_loopback(host, n)) {
        fault_path(below, path, "router");
        fault_add(r->faults, node_mark(node, "router"), below,
                  "http to another machine sends keys and patient data unprotected: use https, or "
                  "set allow_http: true");
    }
    if (d->client_key != NULL && d->client_cert == NULL) {
        fault_path(below, path, "client_key");
        fault_add(r->faults, node_mark(node, "client_key"), below, "needs client_cert beside it");
    }
    if (d->proxy_password.source != SECRET_NONE && d->proxy_user == NULL) {
        fault_path(below, path, "proxy_password");
        fault_add(r->faults, node_mark(node, "proxy_password"), below,
                  "needs proxy_user beside it");
    }
    if (d->retry_min_ms > d->retry_max_ms && d->retry_max_ms != 0) {
        fault_path(below, path, "retry");
        fault_add(r->faults, node_mark(node, "retry"), below, "min is greater than max");
    }
}

bool read_is_name(const char *text)
{
    size_t n = strlen(text);

    return n > 0 && n <= 64 &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static bool other_type(const struct node *node)
{
    const struct node *type = node_get(node, "type");

    for (size_t i = 0; i < sizeof(OTHER_TYPES) / sizeof(OTHER_TYPES[0]); i++) {
        if (type != NULL && type->type == NODE_SCALAR && strcmp(type->text, OTHER_TYPES[i]) == 0)
            return true;
    }
    return false;
}

void read_destinations(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct config *c = target;
    char below[FAULT_PATH_SIZE], type[FAULT_PATH_SIZE], quote[FAULT_QUOTE_SIZE];

    if (node->type != NODE_MAP || node->n == 0) {
        fault_add(r->faults, node->mark, path,
                  "expected destinations by name (cloud: {type: postdicom, …}), found %s",
                  node->type == NODE_MAP ? "an empty mapping" : node_describe(node, quote));
        return;
    }
    c->destinations = calloc(node->n, sizeof(*c->destinations));
    if (c->destinations == NULL) {
        r->faults->nomem = true;
        return;
    }
    c->n_destinations = node->n;
    for (size_t i = 0; i < node->n; i++) {
        struct config_destination *d = &c->destinations[i];

        fault_path(below, path, node->keys[i]->text);
        d->mark = node->keys[i]->mark;
        d->name = table_strdup(r, node->keys[i]->text);
        if (!read_is_name(node->keys[i]->text))
            fault_add(r->faults, d->mark, below,
                      "a name has letters, digits, '.', '_' and '-' only, 64 at most");
        if (other_type(node->items[i])) {
            fault_path(type, below, "type");
            fault_add(r->faults, node_mark(node->items[i], "type"), type,
                      "%s is not available in this build; expected postdicom",
                      node_get(node->items[i], "type")->text);
            continue; /* its keys are another type's */
        }
        table_read(r, &READ_DESTINATION, node->items[i], below, d);
        check_destination(r, node->items[i], below, d);
    }
}

void read_free_destination(struct config_destination *d)
{
    struct secret *secrets[] = {&d->postdicom.account_key, &d->postdicom.api_key,
                                &d->proxy_password};

    for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++) {
        if (secrets[i]->source == SECRET_LITERAL)
            secret_wipe(secrets[i]->reference);
        else
            free(secrets[i]->reference);
    }
    table_texts_free(d->postdicom.allowed_hosts, d->postdicom.n_allowed_hosts);
    free(d->postdicom.router);
    free(d->postdicom.user);
    free(d->postdicom.institution);
    free(d->postdicom.client_host_name);
    free(d->name);
    free(d->ca_file);
    free(d->client_cert);
    free(d->client_key);
    free(d->proxy);
    free(d->proxy_user);
}
