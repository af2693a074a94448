/* Addresses: what may be shown of them, and what they name. Parsed by the same code that opens the
 * connection. */
#include "net/net.h"

#include "base/buf.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN "…"

static void put_hidden_query(struct buf *b, const char *query)
{
    while (*query) {
        size_t n = strcspn(query, "&");
        const char *equals = memchr(query, '=', n);
        if (equals)
            buf_put(b, query, (size_t)(equals - query) + 1);
        if (n > 0 && !(equals && equals + 1 == query + n))
            buf_put_str(b, HIDDEN);
        query += n;
        if (*query == '&') {
            buf_put_u8(b, '&');
            query++;
        }
    }
}

char *net_redact_url(const char *url)
{
    CURLU *u = curl_url();
    if (!u)
        return NULL;
    if (curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME)) {
        curl_url_cleanup(u);
        return strdup("(not an address)");
    }
    char *scheme = NULL, *user = NULL, *password = NULL, *host = NULL, *port = NULL, *path = NULL;
    char *query = NULL;
    curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
    curl_url_get(u, CURLUPART_USER, &user, 0);
    curl_url_get(u, CURLUPART_PASSWORD, &password, 0);
    curl_url_get(u, CURLUPART_HOST, &host, 0);
    curl_url_get(u, CURLUPART_PORT, &port, 0);
    curl_url_get(u, CURLUPART_PATH, &path, 0);
    curl_url_get(u, CURLUPART_QUERY, &query, 0);
    struct buf b = {0};
    buf_printf(&b, "%s://%s%s%s%s%s", scheme ? scheme : "", user || password ? HIDDEN "@" : "",
               host ? host : "", port ? ":" : "", port ? port : "", path ? path : "");
    if (query) {
        buf_put_u8(&b, '?');
        put_hidden_query(&b, query);
    }
    curl_free(scheme);
    curl_free(user);
    curl_free(password);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    curl_url_cleanup(u);
    char *text = buf_failed(&b) ? NULL : strdup(buf_cstr(&b));
    buf_free(&b);
    return text;
}

/* curl_easy_escape escapes more than JavaScript does (ECMA-262, 19.2.6.4). */
char *net_url_encode(const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = strlen(s);
    char *out = malloc(3 * n + 1);
    if (!out)
        return NULL;
    char *p = out;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c < 0x80 && isalnum(c)) || strchr("-_.!~*'()", c)) {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p = 0;
    return out;
}

bool net_url_host(const char *url, char *out, size_t size, bool *ret_tls)
{
    CURLU *u = curl_url();
    if (!u)
        return false;
    char *scheme = NULL, *host = NULL;
    bool tls = false, ok = false;
    if (!curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) &&
        !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
        !curl_url_get(u, CURLUPART_HOST, &host, 0)) {
        tls = !strcmp(scheme, "https") || !strcmp(scheme, "wss");
        ok = (tls || !strcmp(scheme, "http") || !strcmp(scheme, "ws")) && *host &&
             strlen(host) < size;
    }
    if (ok) {
        size_t i;
        for (i = 0; host[i]; i++)
            out[i] = (char)tolower((unsigned char)host[i]);
        out[i] = 0;
        if (ret_tls)
            *ret_tls = tls;
    }
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(u);
    return ok;
}
