/* Writes DICOM files into memory for the tests, well-formed and otherwise. */
#ifndef TESTS_DICOM_MAKE_H
#define TESTS_DICOM_MAKE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAKE_IMPLICIT   "1.2.840.10008.1.2"
#define MAKE_EXPLICIT   "1.2.840.10008.1.2.1"
#define MAKE_DEFLATED   "1.2.840.10008.1.2.1.99"
#define MAKE_BIG_ENDIAN "1.2.840.10008.1.2.2"
#define MAKE_JPEG       "1.2.840.10008.1.2.4.50"
#define MAKE_RLE        "1.2.840.10008.1.2.5"

#define MAKE_SOP_CLASS    "1.2.840.10008.5.1.4.1.1.2"
#define MAKE_SOP_INSTANCE "1.2.3.4.5"
#define MAKE_STUDY        "1.2.3.4"
#define MAKE_SERIES       "1.2.3.4.6"
#define MAKE_UNDEFINED    0xffffffffu

struct make {
    struct buf bytes;
    bool implicit;
    bool big_endian;
    size_t ends[64]; /* where top-level elements end, with make_end */
    size_t n_ends;
};

/* How `transfer_syntax` writes a data set. */
struct make make_begin(const char *transfer_syntax);
void make_free(struct make *m);

/* Preamble, prefix and meta header with a right group length. */
void make_meta(struct make *m, const char *transfer_syntax);
/* One header; length may be a lie. */
void make_header(struct make *m, uint32_t tag, const char *vr, uint32_t length);
/* FFFE elements. */
void make_item(struct make *m, uint32_t length);
void make_item_end(struct make *m);
void make_sequence_end(struct make *m);
void make_bytes(struct make *m, uint32_t tag, const char *vr, const void *data, size_t n);
/* Padded to an even length as the VR has it. */
void make_text(struct make *m, uint32_t tag, const char *vr, const char *text);
void make_u16(struct make *m, uint32_t tag, uint16_t value);
/* Here ends a top-level element. */
void make_end(struct make *m);
/* UIDs, modality, name, a sequence, rows and columns and 512 bytes of pixel data, with make_end
 * after each. */
void make_image(struct make *m);
void make_identity(struct make *m);
/* Replaces the bytes from `start` by their deflated form. */
void make_deflate(struct make *m, size_t start, int window_bits);
/* Replaces all bytes by deflated blocks that end at a byte and after which others may follow. */
void make_deflate_part(struct make *m);

#endif
