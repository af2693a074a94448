/* A growing byte buffer and a bounds-checked reader. Not thread-safe; no I/O. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; free with buf_free. Memory failure is sticky: further calls do nothing and
 * buf_failed tells. */
struct buf {
    uint8_t *data;
    size_t size;
    size_t capacity;
    bool failed;
};

void buf_free(struct buf *b);         /* releases the memory and zeroes *b; NULL is fine */
void buf_clear(struct buf *b);        /* size = 0, memory kept, failure forgotten */
bool buf_failed(const struct buf *b); /* out of memory at some time since the last clear */
void *buf_extend(struct buf *b,
                 size_t n); /* n uninitialised bytes at the end; NULL when out of memory */
void buf_put(struct buf *b, const void *data, size_t n);
void buf_put_str(struct buf *b, const char *s); /* without its NUL */
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16le(struct buf *b, uint16_t v);
void buf_put_u32le(struct buf *b, uint32_t v);
void buf_put_u64le(struct buf *b, uint64_t v);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the data with a NUL that is not counted in size; returns the data as text, "" when out of
 * memory. */
const char *buf_cstr(struct buf *b);

/* Reads forward over bytes it does not own. Reading past the end is sticky: zero values, `failed`
 * set. */
struct buf_reader {
    const uint8_t *data;
    size_t size;
    size_t pos;
    bool failed;
};

struct buf_reader buf_reader(const void *data, size_t size);
uint8_t buf_get_u8(struct buf_reader *r);
uint16_t buf_get_u16le(struct buf_reader *r);
uint32_t buf_get_u32le(struct buf_reader *r);
uint64_t buf_get_u64le(struct buf_reader *r);
/* n bytes in place, NULL past the end. */
const uint8_t *buf_get(struct buf_reader *r, size_t n);
size_t buf_left(const struct buf_reader *r);

#endif
