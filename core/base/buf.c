#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_free(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->size = 0;
    b->failed = false;
}

bool buf_failed(const struct buf *b)
{
    return b->failed;
}

/* Room for n more bytes; at least one byte is allocated, so that data is not NULL. */
static bool reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return false;
    if (b->data && n <= b->capacity - b->size)
        return true;
    if (n > (size_t)PTRDIFF_MAX - b->size) {
        b->failed = true;
        return false;
    }
    size_t need = b->size + n;
    size_t capacity = b->capacity < 64 ? 64 : b->capacity;
    while (capacity < need)
        capacity += capacity / 2;
    uint8_t *data = realloc(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void *buf_extend(struct buf *b, size_t n)
{
    if (!reserve(b, n))
        return NULL;
    void *at = b->data + b->size;
    b->size += n;
    return at;
}

void buf_put(struct buf *b, const void *data, size_t n)
{
    if (n == 0)
        return;
    void *at = buf_extend(b, n);
    if (at)
        memcpy(at, data, n);
}

void buf_put_str(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, 1);
}

static void put_le(struct buf *b, uint64_t v, size_t n)
{
    uint8_t *at = buf_extend(b, n);
    if (!at)
        return;
    for (size_t i = 0; i < n; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

void buf_put_u16le(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}

void buf_put_u32le(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}

void buf_put_u64le(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        b->failed = true;
    else if (reserve(b, (size_t)n + 1)) { /* vsnprintf's NUL is not counted */
        vsnprintf((char *)b->data + b->size, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    }
    va_end(again);
}

const char *buf_cstr(struct buf *b)
{
    if (!reserve(b, 1))
        return "";
    b->data[b->size] = 0;
    return (const char *)b->data;
}

struct buf_reader buf_reader(const void *data, size_t size)
{
    return (struct buf_reader){.data = data, .size = size};
}

const uint8_t *buf_get(struct buf_reader *r, size_t n)
{
    if (r->failed || n > r->size - r->pos) {
        r->failed = true;
        return NULL;
    }
    /* Zero bytes of an empty reader over NULL: any non-NULL pointer will do. */
    const uint8_t *at = r->data ? r->data + r->pos : (const uint8_t *)"";
    r->pos += n;
    return at;
}

static uint64_t get_le(struct buf_reader *r, size_t n)
{
    const uint8_t *at = buf_get(r, n);
    if (!at)
        return 0;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)at[i] << (8 * i);
    return v;
}

uint8_t buf_get_u8(struct buf_reader *r)
{
    return (uint8_t)get_le(r, 1);
}

uint16_t buf_get_u16le(struct buf_reader *r)
{
    return (uint16_t)get_le(r, 2);
}

uint32_t buf_get_u32le(struct buf_reader *r)
{
    return (uint32_t)get_le(r, 4);
}

uint64_t buf_get_u64le(struct buf_reader *r)
{
    return get_le(r, 8);
}

size_t buf_left(const struct buf_reader *r)
{
    return r->failed ? 0 : r->size - r->pos;
}
