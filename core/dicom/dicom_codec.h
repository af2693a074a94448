/* The bytes of a request to dcmferry-dicom and of its answer. Pure; thread-safe.
 *
 * Both sides are built together, so there is no versioning beyond one byte that must match. The
 * daemon decodes what a worker sent that may have been taken over by a hostile file: every length
 * is checked, text must be UTF-8, UIDs digits and dots; nothing is allocated. */
#ifndef DICOM_CODEC_H
#define DICOM_CODEC_H

#include "base/buf.h"
#include "dicom/dicom_reader.h"

#include <stddef.h>
#include <stdint.h>

#define DICOM_MAX_REASON 400 /* bytes of the sentence that says what is wrong with a file */

/* Read the header of the file whose descriptor comes with the message: which attributes. */
struct dicom_request {
    size_t n_tags; /* <= DICOM_MAX_TAGS */
    uint32_t tags[DICOM_MAX_TAGS];
};

struct dicom_answer {
    int status;         /* 0 or ERR_ code, as struct dicom_read's cb has it */
    const char *reason; /* one sentence, without attribute values; "" if status is 0 */
    struct dicom_header header;
};

/* Appends a request; ERR_INVALID for too many tags, ERR_NOMEM. */
int dicom_codec_put_request(struct buf *out, const uint32_t *tags, size_t n_tags);
/* Decodes; ERR_PROTOCOL if the bytes are not exactly one request. */
int dicom_codec_get_request(const void *data, size_t size, struct dicom_request *ret);

/* Appends an answer. Values longer than DICOM_MAX_VALUE and reasons longer than DICOM_MAX_REASON
 * are cut at a character, UIDs that are none become "". ERR_NOMEM. */
int dicom_codec_put_answer(struct buf *out, const struct dicom_answer *answer);
/* Decodes an answer to a request for n_tags tags; strings of *ret point into `data`. ERR_PROTOCOL
 * if the bytes are not exactly one valid answer. */
int dicom_codec_get_answer(const void *data, size_t size, size_t n_tags, struct dicom_answer *ret);

/* Whether `s` is a UID (PS3.5 chapter 9): 1 to 64 digits and dots. Leading zeros of components,
 * which the standard forbids and modalities write, are let pass. */
bool dicom_codec_is_uid(const char *s);

#endif
