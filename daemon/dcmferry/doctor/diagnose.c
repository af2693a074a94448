#include "diagnose.h"

#include "base/clock.h"
#include "base/uuid.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEARCH_FOLDER 3
#define CONNECT_MS    10000
#define SKEW_WARN_S   60

/* ---- name and network ---- */

/* "scheme://[user@]host[:port]/…", or a proxy's without a scheme. */
struct place {
    char host[256];
    char port[8];
};

static bool place_of(const char *url, const char *standard_port, struct place *ret)
{
    char with_scheme[600];
    bool tls;
    if (!strstr(url, "://")) {
        if ((size_t)snprintf(with_scheme, sizeof(with_scheme), "http://%s", url) >=
            sizeof(with_scheme))
            return false;
        url = with_scheme;
    }
    const char *authority = strstr(url, "://") + 3;
    size_t n = strcspn(authority, "/?#");
    const char *at = memrchr(authority, '@', n);
    if (at) {
        n -= (size_t)(at + 1 - authority);
        authority = at + 1;
    }
    const char *colon = memrchr(authority, ':', n), *bracket = memrchr(authority, ']', n);
    if (bracket && colon && colon < bracket)
        colon = NULL;
    size_t host = colon ? (size_t)(colon - authority) : n;
    size_t port = colon ? n - host - 1 : 0;
    if (*authority == '[' && host > 2) { /* [::1] */
        authority++;
        host -= 2;
    }
    if (host == 0 || host >= sizeof(ret->host) || port >= sizeof(ret->port))
        return false;
    memcpy(ret->host, authority, host);
    ret->host[host] = '\0';
    if (port > 0) {
        memcpy(ret->port, colon + 1, port);
        ret->port[port] = '\0';
    } else {
        tls = strncasecmp(url, "https:", 6) == 0;
        snprintf(ret->port, sizeof(ret->port), "%s",
                 standard_port ? standard_port
                 : tls         ? "443"
                               : "80");
    }
    return true;
}

/* Whether no_proxy names the host, as libcurl reads it: names with or without a leading dot, "*".
 */
static bool is_excepted(const char *host)
{
    const char *list = getenv("no_proxy");
    if (!list || !*list)
        list = getenv("NO_PROXY");
    while (list && *list) {
        list += strspn(list, ", \t.");
        size_t n = strcspn(list, ", \t"), m = strlen(host);
        if (n == 1 && *list == '*')
            return true;
        if (n > 0 && m >= n && strncasecmp(host + m - n, list, n) == 0 &&
            (m == n || host[m - n - 1] == '.'))
            return true;
        list += n;
    }
    return false;
}

/* The proxy of the environment for the router; *ret_name is the variable's. */
static const char *environment_proxy(const struct config_destination *c, const char *host,
                                     const char **ret_name)
{
    bool tls = strncasecmp(c->postdicom.router, "https:", 6) == 0;
    static const char *const for_tls[] = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};
    static const char *const plain[] = {"http_proxy", "all_proxy", "ALL_PROXY"};
    const char *const *names = tls ? for_tls : plain;
    size_t n = tls ? 4 : 3;
    for (size_t i = 0; i < n; i++) {
        const char *value = getenv(names[i]);
        *ret_name = names[i];
        if (value && *value)
            return is_excepted(host) ? NULL : value;
    }
    return NULL;
}

/* 0 or the errno of the last address. */
static int try_addresses(const struct addrinfo *list, char shown[NI_MAXHOST])
{
    int fault = EHOSTUNREACH;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t size = sizeof(fault);
        if (fd < 0)
            continue;
        if (getnameinfo(a->ai_addr, a->ai_addrlen, shown, NI_MAXHOST, NULL, 0, NI_NUMERICHOST))
            shown[0] = '\0';
        fault = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
        if (fault == EINPROGRESS) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (poll(&wait, 1, CONNECT_MS) != 1)
                fault = ETIMEDOUT;
            else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &size) != 0)
                fault = errno;
        }
        close(fd);
        if (fault == 0)
            return 0;
    }
    return fault;
}

static int try_place(struct report *r, const char *what, const struct place *at)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char step[32], shown[NI_MAXHOST] = "";
    uint64_t start = clock_monotonic_ms();
    int fault = getaddrinfo(at->host, at->port, &hints, &list);
    snprintf(step, sizeof(step), "name of the %s", what);
    if (fault) {
        report_step(r, REPORT_FAILED, step,
                    "check the name in the configuration, /etc/resolv.conf, and whether names of "
                    "the internet are resolved here (getent hosts NAME)",
                    "%s: %s", at->host, gai_strerror(fault));
        return ERR_CONNECT;
    }
    report_step(r, REPORT_OK, step, NULL, "%s, %llu ms", at->host,
                (unsigned long long)(clock_monotonic_ms() - start));
    start = clock_monotonic_ms();
    fault = try_addresses(list, shown);
    freeaddrinfo(list);
    snprintf(step, sizeof(step), "connection to the %s", what);
    if (fault) {
        report_step(r, REPORT_FAILED, step,
                    fault == ECONNREFUSED ? "nobody listens there: check address and port, and "
                                            "whether a proxy is needed (`proxy:`)"
                                          : "a firewall may be in the way: ask for this host and "
                                            "port to be opened, or for the proxy to use (`proxy:`)",
                    "%s port %s (%s): %s", at->host, at->port, shown, strerror(fault));
        return ERR_CONNECT;
    }
    report_step(r, REPORT_OK, step, NULL, "%s port %s (%s), %llu ms", at->host, at->port, shown,
                (unsigned long long)(clock_monotonic_ms() - start));
    return 0;
}

int diagnose_network(struct report *r, const struct config_destination *c)
{
    struct place router, proxy;
    const char *variable = NULL, *through = c->proxy && *c->proxy ? c->proxy : NULL;
    if (!place_of(c->postdicom.router, NULL, &router)) {
        report_step(r, REPORT_FAILED, "router", "write it as https://host/path/",
                    "its address is not understood");
        return ERR_CONFIG;
    }
    if (!c->proxy)
        through = environment_proxy(c, router.host, &variable);
    if (!through)
        return try_place(r, "router", &router);
    if (!place_of(through, "1080", &proxy)) {
        report_step(r, REPORT_FAILED, "proxy", "write it as http://host:port",
                    "its address is not understood");
        return ERR_CONFIG;
    }
    if (variable)
        report_step(r, REPORT_WARNING, "proxy",
                    "the service has another environment: write it into the configuration as "
                    "`proxy:` (or `proxy: none`)",
                    "%s port %s, from $%s of this shell", proxy.host, proxy.port, variable);
    return try_place(r, "proxy", &proxy);
}

/* ---- session ---- */

/* What to do about a failure of opening a session. */
static const char *advice_for(int status, enum pd_login_step step)
{
    switch (status) {
    case ERR_TLS:
        return "the certificate must be valid now, name this host and come from a known authority; "
               "one of a proxy that looks into TLS, or of your own authority, goes into `ca_file`; "
               "allowed_hosts names further hosts that the router may hand out";
    case ERR_AUTH:
        return "check that account_key and api_key are not mixed up, are of the same account and "
               "not "
               "revoked (PostDICOM: API Settings); if there is a proxy, also its user and password";
    case ERR_TIMEOUT:
    case ERR_CONNECT:
    case ERR_CLOSED:
        return step == PD_LOGIN_WEBSOCKET
                   ? "HTTP works and the WebSocket does not: a proxy or firewall may not let "
                     "WebSockets through"
                   : "the server or what is between cuts the connection: try again later, check "
                     "proxy and firewall";
    case ERR_BUSY:
        return "the server is busy: try again later";
    case ERR_PROTOCOL:
        return "whoever answers there may not be PostDICOM: check `router:`, and whether a proxy's "
               "own page comes in between";
    default:
        return NULL;
    }
}

struct progress {
    struct report *report;
    const struct login *login;
    const char *router;
    uint64_t since_ms;
};

static void on_step(enum pd_login_step step, void *ctx)
{
    struct progress *g = ctx;
    uint64_t now = clock_monotonic_ms();
    if (step == PD_LOGIN_ROUTER && strncasecmp(g->router, "https:", 6) == 0)
        report_step(g->report, REPORT_OK, "TLS", NULL, "the certificate is trusted");
    report_step(g->report, REPORT_OK, pd_login_step_name(step), NULL, "%llu ms",
                (unsigned long long)(now - g->since_ms));
    g->since_ms = now;
}

static void report_clock(struct report *r, const struct login *l)
{
    long long skew = (long long)l->skew_s;
    if (!l->skew_known)
        report_step(r, REPORT_WARNING, "clock", NULL,
                    "the server does not say what time it is there");
    else if (skew > SKEW_WARN_S || skew < -SKEW_WARN_S)
        report_step(r, REPORT_WARNING, "clock",
                    "set it, and keep it right with NTP (timedatectl set-ntp true): certificates "
                    "and dates depend on it",
                    "it is %lld s %s the server's", skew > 0 ? skew : -skew,
                    skew > 0 ? "behind" : "ahead of");
    else
        report_step(r, REPORT_OK, "clock", NULL, "within %d s of the server's", SKEW_WARN_S);
}

static int list_folders(struct report *r, struct peer *p, struct login *l)
{
    struct err e = {0};
    uint64_t start = clock_monotonic_ms();
    struct peer_request *q =
        peer_ask(l->line, FRAME_GENERAL, SEARCH_FOLDER,
                 pd_params_folder_list(&p->keys, l->account.user_uuid, NULL, "", false), NULL, &e);
    if (!q) {
        report_step(r, REPORT_FAILED, "folder list", advice_for(e.code, PD_LOGIN_DONE), "%s",
                    e.text);
        return e.code;
    }
    int status = 0;
    const cJSON *folder = cJSON_GetObjectItemCaseSensitive(q->answer.result, "Folder");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(folder, "SubFolderList");
    if (!q->answer.ok) {
        report_step(r, REPORT_FAILED, "folder list",
                    "the user may lack the right to see folders: try another `user:`",
                    "the server refused: %s",
                    q->answer.text[0] ? q->answer.text : "(it gives no reason)");
        status = ERR_REFUSED;
    } else if (!cJSON_IsArray(list)) {
        report_step(r, REPORT_WARNING, "folder list", "uploads into folders may fail",
                    "answered, but not in the form that is expected (Folder.SubFolderList)");
    } else {
        report_step(r, REPORT_OK, "folder list", NULL, "%d folders at the top, %llu ms",
                    cJSON_GetArraySize(list), (unsigned long long)(clock_monotonic_ms() - start));
    }
    peer_request_free(q);
    return status;
}

static void look_at_key(struct report *r, const char *name, const char *key)
{
    if (!uuid_valid(key))
        report_step(r, REPORT_WARNING, name, "is it the right file? look at API Settings again",
                    "not a GUID (36 characters, such as 1b4e28ba-2fa1-11d2-883f-0016d3cca427)");
}

int diagnose_session(struct report *r, struct peer *p, struct login *ret)
{
    struct err e = {0};
    struct progress progress = {r, ret, p->options.router, clock_monotonic_ms()};
    look_at_key(r, "account_key", p->keys.account_key);
    look_at_key(r, "api_key", p->keys.api_key);
    int status = login_open(ret, p, on_step, &progress, &e);
    if (status) {
        bool user = ret->step == PD_LOGIN_SESSION && ret->account.n_users > 0;
        report_step(r, REPORT_FAILED, user ? "user and institution" : pd_login_step_name(ret->step),
                    user ? "set `user:` and `institution:`" : advice_for(status, ret->step), "%s",
                    e.text);
        if (ret->skew_known || status == ERR_TLS)
            report_clock(r, ret);
        return status;
    }
    report_step(r, REPORT_OK, "user", NULL, "found, 1 of %zu of the account", ret->account.n_users);
    report_step(r, REPORT_OK, "institution", NULL, "found, 1 of %zu of the user",
                ret->account.n_institutions);
    report_clock(r, ret);
    status = list_folders(r, p, ret);
    if (status)
        login_close(ret);
    return status;
}
