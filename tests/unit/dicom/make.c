#include "make.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

struct make make_begin(const char *transfer_syntax)
{
    return (struct make){
        .implicit = strcmp(transfer_syntax, MAKE_IMPLICIT) == 0,
        .big_endian = strcmp(transfer_syntax, MAKE_BIG_ENDIAN) == 0,
    };
}

void make_free(struct make *m)
{
    buf_free(&m->bytes);
}

static void put16(struct make *m, uint16_t v)
{
    buf_put_u16le(&m->bytes, m->big_endian ? __builtin_bswap16(v) : v);
}

static void put32(struct make *m, uint32_t v)
{
    buf_put_u32le(&m->bytes, m->big_endian ? __builtin_bswap32(v) : v);
}

static bool has_long_length(const char *vr)
{
    return strstr("OB OD OF OL OV OW SQ SV UC UN UR UT UV", vr) != NULL;
}

void make_header(struct make *m, uint32_t tag, const char *vr, uint32_t length)
{
    put16(m, (uint16_t)(tag >> 16));
    put16(m, (uint16_t)tag);
    if (m->implicit) {
        put32(m, length);
        return;
    }
    buf_put(&m->bytes, vr, 2);
    if (has_long_length(vr)) {
        put16(m, 0);
        put32(m, length);
    } else {
        put16(m, (uint16_t)length);
    }
}

static void put_delimiter(struct make *m, uint16_t element, uint32_t length)
{
    put16(m, 0xfffe);
    put16(m, element);
    put32(m, length);
}

void make_item(struct make *m, uint32_t length)
{
    put_delimiter(m, 0xe000, length);
}

void make_item_end(struct make *m)
{
    put_delimiter(m, 0xe00d, 0);
}

void make_sequence_end(struct make *m)
{
    put_delimiter(m, 0xe0dd, 0);
}

void make_bytes(struct make *m, uint32_t tag, const char *vr, const void *data, size_t n)
{
    make_header(m, tag, vr, (uint32_t)n);
    buf_put(&m->bytes, data, n);
}

void make_text(struct make *m, uint32_t tag, const char *vr, const char *text)
{
    const size_t n = strlen(text);
    make_header(m, tag, vr, (uint32_t)(n + n % 2));
    buf_put(&m->bytes, text, n);
    if (n % 2 != 0) {
        buf_put_u8(&m->bytes, strcmp(vr, "UI") == 0 ? 0 : ' ');
    }
}

void make_u16(struct make *m, uint32_t tag, uint16_t value)
{
    make_header(m, tag, "US", 2);
    put16(m, value);
}

void make_end(struct make *m)
{
    m->ends[m->n_ends++] = m->bytes.size;
}

void make_meta(struct make *m, const char *transfer_syntax)
{
    static const uint8_t preamble[128];
    struct make meta = {0};
    make_bytes(&meta, 0x00020001, "OB", "\0\1", 2);
    make_text(&meta, 0x00020002, "UI", MAKE_SOP_CLASS);
    make_text(&meta, 0x00020003, "UI", MAKE_SOP_INSTANCE);
    make_text(&meta, 0x00020010, "UI", transfer_syntax);
    make_text(&meta, 0x00020016, "AE", "MODALITY1");

    struct make head = {0};
    make_header(&head, 0x00020000, "UL", 4);
    buf_put_u32le(&head.bytes, (uint32_t)meta.bytes.size);

    buf_put(&m->bytes, preamble, sizeof(preamble));
    buf_put_str(&m->bytes, "DICM");
    buf_put(&m->bytes, head.bytes.data, head.bytes.size);
    buf_put(&m->bytes, meta.bytes.data, meta.bytes.size);
    make_free(&head);
    make_free(&meta);
}

void make_identity(struct make *m)
{
    make_text(m, 0x00080016, "UI", MAKE_SOP_CLASS);
    make_end(m);
    make_text(m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
    make_end(m);
    make_text(m, 0x00080060, "CS", "CT");
    make_end(m);
    make_text(m, 0x0020000d, "UI", MAKE_STUDY);
    make_end(m);
    make_text(m, 0x0020000e, "UI", MAKE_SERIES);
    make_end(m);
}

void make_image(struct make *m)
{
    uint8_t pixels[512];
    memset(pixels, 0x55, sizeof(pixels));
    make_text(m, 0x00080005, "CS", "ISO_IR 100");
    make_end(m);
    make_text(m, 0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL");
    make_end(m);
    make_text(m, 0x00080016, "UI", MAKE_SOP_CLASS);
    make_end(m);
    make_text(m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
    make_end(m);
    make_text(m, 0x00080060, "CS", "CT");
    make_end(m);
    make_header(m, 0x00081140, "SQ", MAKE_UNDEFINED);
    make_item(m, MAKE_UNDEFINED);
    make_text(m, 0x00081150, "UI", MAKE_SOP_CLASS);
    make_text(m, 0x00081155, "UI", "9.9.9");
    make_item_end(m);
    make_sequence_end(m);
    make_end(m);
    make_text(m, 0x00100010, "PN",
              "B\xfc"
              "cher^Anna");
    make_end(m);
    make_text(m, 0x0020000d, "UI", MAKE_STUDY);
    make_end(m);
    make_text(m, 0x0020000e, "UI", MAKE_SERIES);
    make_end(m);
    make_u16(m, 0x00280010, 16);
    make_end(m);
    make_u16(m, 0x00280011, 16);
    make_end(m);
    make_bytes(m, 0x7fe00010, "OW", pixels, sizeof(pixels));
    make_end(m);
}

static void deflate_from(struct make *m, size_t start, int window_bits, int flush)
{
    z_stream z = {0};
    const size_t n = m->bytes.size - start;
    const size_t bound = compressBound((uLong)n) + 64;
    uint8_t *out = malloc(bound);
    if (out == NULL ||
        deflateInit2(&z, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        abort();
    }
    z.next_in = m->bytes.data + start;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)bound;
    if (deflate(&z, flush) != (flush == Z_FINISH ? Z_STREAM_END : Z_OK) || z.avail_in != 0) {
        abort();
    }
    m->bytes.size = start;
    buf_put(&m->bytes, out, z.total_out);
    deflateEnd(&z);
    free(out);
}

void make_deflate(struct make *m, size_t start, int window_bits)
{
    deflate_from(m, start, window_bits, Z_FINISH);
}

void make_deflate_part(struct make *m)
{
    deflate_from(m, 0, -15, Z_FULL_FLUSH);
}
