/* The parser is strict where RFC 9112 lets a client be (bare LF, folded lines, NUL are refused) and
 * reads nothing past WS_MAX_HANDSHAKE. */
#include "net/ws_handshake.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

struct text {
    const char *data;
    size_t size;
};

int ws_handshake_key(char out[WS_KEY_SIZE])
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return ERR_IO;
    EVP_EncodeBlock((unsigned char *)out, random, sizeof random);
    return 0;
}

int ws_handshake_accept(const char *key, char out[WS_ACCEPT_SIZE])
{
    char text[WS_KEY_SIZE + sizeof GUID];
    unsigned char digest[20];
    size_t n = strlen(key);
    if (n >= WS_KEY_SIZE)
        return ERR_INVALID;
    memcpy(text, key, n);
    memcpy(text + n, GUID, sizeof GUID);
    if (!EVP_Digest(text, strlen(text), digest, NULL, EVP_sha1(), NULL))
        return ERR_NOMEM;
    EVP_EncodeBlock((unsigned char *)out, digest, sizeof digest);
    return 0;
}

static bool is_safe(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || *s == 0x7f)
            return false;
    return true;
}

int ws_handshake_request(struct buf *b, const char *host, const char *target, const char *key,
                         const char *user_agent)
{
    if (!is_safe(host) || !is_safe(target))
        return ERR_INVALID;
    buf_printf(b,
               "GET %s HTTP/1.1\r\n"
               "Host: %s\r\n"
               "User-Agent: %s\r\n"
               "Upgrade: websocket\r\n"
               "Connection: Upgrade\r\n"
               "Sec-WebSocket-Key: %s\r\n"
               "Sec-WebSocket-Version: 13\r\n\r\n",
               target, host, user_agent, key);
    return buf_failed(b) ? ERR_NOMEM : 0;
}

static struct text trim(struct text t)
{
    while (t.size > 0 && (*t.data == ' ' || *t.data == '\t')) {
        t.data++;
        t.size--;
    }
    while (t.size > 0 && (t.data[t.size - 1] == ' ' || t.data[t.size - 1] == '\t'))
        t.size--;
    return t;
}

static bool is_text(struct text t, const char *s)
{
    return t.size == strlen(s) && !strncasecmp(t.data, s, t.size);
}

/* Whether a comma-separated list holds a token. */
static bool has_token(struct text list, const char *token)
{
    while (list.size > 0) {
        const char *comma = memchr(list.data, ',', list.size);
        size_t n = comma ? (size_t)(comma - list.data) : list.size;
        if (is_text(trim((struct text){list.data, n}), token))
            return true;
        n += comma != NULL;
        list.data += n;
        list.size -= n;
    }
    return false;
}

/* Takes a line without its CRLF; false if it is malformed. The caller knows that an end of line
 * comes. */
static bool next_line(struct text *rest, struct text *line)
{
    const char *end = memchr(rest->data, '\n', rest->size);
    if (!end || end == rest->data || end[-1] != '\r')
        return false;
    *line = (struct text){rest->data, (size_t)(end - rest->data) - 1};
    rest->size -= line->size + 2;
    rest->data = end + 1;
    return !memchr(line->data, '\r', line->size) && !memchr(line->data, 0, line->size);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "HTTP/1.1 101 reason"; 0 if it is something else. */
static int parse_status(struct text line)
{
    const char *s = line.data;
    if (line.size < 12 || memcmp(s, "HTTP/1.", 7) || !is_digit(s[7]) || s[8] != ' ' ||
        !is_digit(s[9]) || !is_digit(s[10]) || !is_digit(s[11]) || (line.size > 12 && s[12] != ' '))
        return 0;
    return (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
}

static int refused(int status, struct err *e)
{
    switch (status) {
    case 401:
    case 403:
    case 407:
        return err_set(e, ERR_AUTH, "the server refused the WebSocket with HTTP status %d", status);
    case 429:
    case 503:
        return err_set(e, ERR_BUSY, "the server has no room for the WebSocket now: HTTP status %d",
                       status);
    default:
        return err_set(e, ERR_PROTOCOL, "the server does not open a WebSocket here: HTTP status %d",
                       status);
    }
}

static int check_headers(struct text rest, const char *accept, struct err *e)
{
    bool upgrade = false, connection = false, accepted = false;
    struct text line;
    while (rest.size > 0) {
        if (!next_line(&rest, &line))
            return err_set(e, ERR_PROTOCOL, "the server's WebSocket answer is not HTTP");
        if (line.size == 0)
            break;
        const char *colon = memchr(line.data, ':', line.size);
        if (!colon || colon == line.data || *line.data == ' ' || *line.data == '\t' ||
            colon[-1] == ' ' || colon[-1] == '\t')
            return err_set(e, ERR_PROTOCOL, "the server's WebSocket answer is not HTTP");
        struct text name = {line.data, (size_t)(colon - line.data)};
        struct text value = trim((struct text){colon + 1, line.size - name.size - 1});
        if (is_text(name, "Upgrade")) {
            upgrade = upgrade || has_token(value, "websocket");
        } else if (is_text(name, "Connection")) {
            connection = connection || has_token(value, "upgrade");
        } else if (is_text(name, "Sec-WebSocket-Accept")) {
            /* Base64: case counts. A second one may not differ. */
            if (value.size != strlen(accept) || memcmp(value.data, accept, value.size))
                return err_set(e, ERR_PROTOCOL,
                               "the server's Sec-WebSocket-Accept does not belong to our key");
            accepted = true;
        } else if ((is_text(name, "Sec-WebSocket-Extensions") ||
                    is_text(name, "Sec-WebSocket-Protocol")) &&
                   value.size > 0) {
            return err_set(
                e, ERR_PROTOCOL,
                "the server chose a WebSocket extension or protocol that was not offered");
        }
    }
    if (!upgrade || !connection || !accepted)
        return err_set(e, ERR_PROTOCOL, "the server's WebSocket answer lacks its %s header",
                       !upgrade      ? "Upgrade"
                       : !connection ? "Connection"
                                     : "Sec-WebSocket-Accept");
    return 0;
}

int ws_handshake_parse(const char *data, size_t size, const char *accept, int *ret_status,
                       struct err *e)
{
    *ret_status = 0;
    size_t begin = 0;
    if (size > WS_MAX_HANDSHAKE)
        size = WS_MAX_HANDSHAKE;
    for (;;) {
        static const char http[] = "HTTP/1.";
        size_t known = size - begin < sizeof http - 1 ? size - begin : sizeof http - 1;
        if (memcmp(data + begin, http, known))
            return err_set(e, ERR_PROTOCOL, "the server's WebSocket answer is not HTTP");
        const char *end = memmem(data + begin, size - begin, "\r\n\r\n", 4);
        if (!end) {
            if (size < WS_MAX_HANDSHAKE)
                return 0;
            return err_set(e, ERR_PROTOCOL,
                           "the header of the server's WebSocket answer is longer "
                           "than %d bytes",
                           WS_MAX_HANDSHAKE);
        }
        struct text rest = {data + begin, (size_t)(end - data) + 4 - begin};
        struct text line;
        int status = next_line(&rest, &line) ? parse_status(line) : 0;
        if (status == 0)
            return err_set(e, ERR_PROTOCOL, "the server's WebSocket answer is not HTTP");
        begin = (size_t)(end - data) + 4;
        if (status >= 100 && status < 200 && status != 101)
            continue; /* RFC 9110, 15.2: the final answer follows */
        *ret_status = status;
        if (status != 101)
            return refused(status, e);
        int rc = check_headers(rest, accept, e);
        return rc ? rc : (int)begin;
    }
}
