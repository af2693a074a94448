#include "instance.h"

#include "base/uuid.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define SECONDARY_CAPTURE    "1.2.840.10008.5.1.4.1.1.7"
#define EXPLICIT_VR_LE       "1.2.840.10008.1.2.1"
#define IMPLEMENTATION_CLASS "2.25.173465934850438237021945307281546217373"

void instance_uid(char out[INSTANCE_UID_SIZE])
{
    unsigned char bytes[16];
    char uuid[UUID_TEXT_SIZE], digits[40];
    size_t n = 0, nibble = 0;
    uuid_generate(uuid);
    for (const char *c = uuid; *c; c++) {
        if (*c == '-')
            continue;
        unsigned digit = (unsigned)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
        bytes[nibble / 2] = (unsigned char)(nibble % 2 ? bytes[nibble / 2] | digit : digit << 4);
        nibble++;
    }
    /* Divided by ten until nothing is left. */
    for (bool zero = false; !zero;) {
        unsigned rest = 0;
        zero = true;
        for (size_t i = 0; i < sizeof(bytes); i++) {
            rest = rest << 8 | bytes[i];
            bytes[i] = (unsigned char)(rest / 10);
            rest %= 10;
            zero = zero && bytes[i] == 0;
        }
        digits[n++] = (char)('0' + rest);
    }
    memcpy(out, "2.25.", 5);
    for (size_t i = 0; i < n; i++)
        out[5 + i] = digits[n - 1 - i];
    out[5 + n] = '\0';
}

/* PS3.5, 7.1.2: short values. Padded to an even length, UIDs with NUL. */
static void put(struct buf *b, unsigned group, unsigned element, const char *vr, const void *value,
                size_t size)
{
    buf_put_u16le(b, (uint16_t)group);
    buf_put_u16le(b, (uint16_t)element);
    buf_put(b, vr, 2);
    buf_put_u16le(b, (uint16_t)(size + size % 2));
    if (size > 0)
        buf_put(b, value, size);
    if (size % 2)
        buf_put_u8(b, strcmp(vr, "UI") == 0 ? 0 : ' ');
}

static void put_text(struct buf *b, unsigned group, unsigned element, const char *vr,
                     const char *text)
{
    put(b, group, element, vr, text, strlen(text));
}

static void put_short(struct buf *b, unsigned element, unsigned value)
{
    uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    put(b, 0x0028, element, "US", bytes, sizeof(bytes));
}

/* OB and OW have 32-bit lengths. */
static void put_long(struct buf *b, unsigned group, unsigned element, const char *vr, size_t size)
{
    buf_put_u16le(b, (uint16_t)group);
    buf_put_u16le(b, (uint16_t)element);
    buf_put(b, vr, 2);
    buf_put_u16le(b, 0);
    buf_put_u32le(b, (uint32_t)size);
}

static void write_meta(const struct instance *in, struct buf *out)
{
    struct buf meta = {0};
    uint8_t size[4], *preamble;
    put_long(&meta, 0x0002, 0x0001, "OB", 2);
    buf_put(&meta, "\0\1", 2);
    put_text(&meta, 0x0002, 0x0002, "UI", SECONDARY_CAPTURE);
    put_text(&meta, 0x0002, 0x0003, "UI", in->sop);
    put_text(&meta, 0x0002, 0x0010, "UI", EXPLICIT_VR_LE);
    put_text(&meta, 0x0002, 0x0012, "UI", IMPLEMENTATION_CLASS);
    put_text(&meta, 0x0002, 0x0013, "SH", "DCMFERRY");
    preamble = buf_extend(out, 128);
    if (preamble)
        memset(preamble, 0, 128);
    buf_put(out, "DICM", 4);
    for (unsigned i = 0; i < 4; i++)
        size[i] = (uint8_t)(meta.size >> 8 * i);
    put(out, 0x0002, 0x0000, "UL", size, sizeof(size));
    if (!buf_failed(&meta))
        buf_put(out, meta.data, meta.size);
    out->failed = out->failed || buf_failed(&meta);
    buf_free(&meta);
}

static void write_pixels(const struct instance *in, struct buf *out)
{
    size_t size = (size_t)in->rows * in->columns;
    uint8_t *pixel;
    put_short(out, 0x0002, 1); /* SamplesPerPixel */
    put_text(out, 0x0028, 0x0004, "CS", "MONOCHROME2");
    put_short(out, 0x0010, in->rows);
    put_short(out, 0x0011, in->columns);
    put_short(out, 0x0100, 8); /* BitsAllocated, BitsStored, HighBit, PixelRepresentation */
    put_short(out, 0x0101, 8);
    put_short(out, 0x0102, 7);
    put_short(out, 0x0103, 0);
    put_long(out, 0x7fe0, 0x0010, "OB", size + size % 2);
    pixel = buf_extend(out, size + size % 2);
    for (size_t i = 0; pixel && i < size + size % 2; i++)
        pixel[i] = (uint8_t)(i % in->columns + i / in->columns);
}

void instance_write(const struct instance *in, int64_t now, struct buf *out)
{
    time_t seconds = (time_t)now;
    struct tm tm;
    char date[16], clock[16], number[16];
    gmtime_r(&seconds, &tm);
    strftime(date, sizeof(date), "%Y%m%d", &tm);
    strftime(clock, sizeof(clock), "%H%M%S", &tm);
    snprintf(number, sizeof(number), "%u", in->number);
    write_meta(in, out);
    put_text(out, 0x0008, 0x0005, "CS", "ISO_IR 100");
    put_text(out, 0x0008, 0x0016, "UI", SECONDARY_CAPTURE);
    put_text(out, 0x0008, 0x0018, "UI", in->sop);
    put_text(out, 0x0008, 0x0020, "DA", date);
    put_text(out, 0x0008, 0x0030, "TM", clock);
    put_text(out, 0x0008, 0x0050, "SH", ""); /* AccessionNumber */
    put_text(out, 0x0008, 0x0060, "CS", "OT");
    put_text(out, 0x0008, 0x0064, "CS", "SYN"); /* ConversionType */
    put_text(out, 0x0008, 0x0070, "LO", "dcmferry");
    put_text(out, 0x0008, 0x0090, "PN", ""); /* ReferringPhysicianName */
    put_text(out, 0x0008, 0x1030, "LO", "dcmferry doctor: synthetic, may be deleted");
    put_text(out, 0x0008, 0x103e, "LO", "dcmferry doctor");
    put_text(out, 0x0010, 0x0010, "PN", INSTANCE_PATIENT_NAME);
    put_text(out, 0x0010, 0x0020, "LO", in->patient_id);
    put_text(out, 0x0010, 0x0030, "DA", "");
    put_text(out, 0x0010, 0x0040, "CS", "O");
    put_text(out, 0x0020, 0x000d, "UI", in->study);
    put_text(out, 0x0020, 0x000e, "UI", in->series);
    put_text(out, 0x0020, 0x0010, "SH", "DOCTOR"); /* StudyID */
    put_text(out, 0x0020, 0x0011, "IS", "1");
    put_text(out, 0x0020, 0x0013, "IS", number);
    put_text(out, 0x0020, 0x0020, "CS", ""); /* PatientOrientation */
    write_pixels(in, out);
}
