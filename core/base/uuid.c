#include "base/uuid.h"

#include "base/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

void uuid_generate(char out[UUID_TEXT_SIZE])
{
    uint8_t b[16];
    ssize_t n;
    do
        n = getrandom(b, sizeof(b), 0);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(b))
        abort(); /* up to 256 bytes come whole; without getrandom nothing here may go on */
    b[6] = (uint8_t)((b[6] & 0x0F) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3F) | 0x80);
    char hex[33];
    text_hex(b, sizeof(b), hex);
    static const struct {
        size_t from, n;
    } groups[] = {{0, 8}, {8, 4}, {12, 4}, {16, 4}, {20, 12}};
    char *at = out;
    for (size_t i = 0; i < 5; i++) {
        if (i > 0)
            *at++ = '-';
        memcpy(at, hex + groups[i].from, groups[i].n);
        at += groups[i].n;
    }
    *at = '\0';
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool uuid_valid(const char *s)
{
    for (size_t i = 0; i < UUID_TEXT_SIZE - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !is_hex(s[i]))
            return false;
    }
    if (s[UUID_TEXT_SIZE - 1] != '\0')
        return false;
    if (strcmp(s, UUID_NIL) == 0)
        return true;
    return s[14] >= '1' && s[14] <= '5' && strchr("89abAB", s[19]) != NULL;
}
