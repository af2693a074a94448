/* Reads the header of a DICOM file in a worker process (dcmferry-dicom): UIDs, transfer syntax,
 * whether the file is whole, and any attributes as UTF-8. Pixel data is never loaded. Loop thread
 * only. */
#ifndef DICOM_READER_H
#define DICOM_READER_H

#include "base/err.h"
#include "worker/worker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DICOM_UID_SIZE 65
#define DICOM_MAX_TAGS 64
#define DICOM_MAX_VALUE                                                                            \
    1024 /* bytes of one attribute's text; longer ones are cut at a character                      \
          */

struct dicom_header {
    char sop_class_uid[DICOM_UID_SIZE]; /* "" where absent */
    char sop_instance_uid[DICOM_UID_SIZE];
    char study_instance_uid[DICOM_UID_SIZE];
    char series_instance_uid[DICOM_UID_SIZE];
    char transfer_syntax_uid[DICOM_UID_SIZE];
    /* Values of the tags that were asked for, in that order: UTF-8, padding off, several values
     * joined by a backslash, binary ones as DCMTK prints them ("512", "(0008,0018)"), "" if those
     * are larger than 4 KiB. NULL where the attribute is absent, a sequence or encapsulated pixel
     * data; "" where it is empty. */
    size_t n_values;
    const char *values[DICOM_MAX_TAGS];
};

/* status and `header`:
 * - 0: a whole DICOM file with a SOP Instance UID
 * - ERR_TRUNCATED: it ends before its last element does; header holds what was read (perhaps none)
 * - ERR_NOT_DICOM: not DICOM, or a DICOMDIR (e says which)
 * - ERR_NO_UID: DICOM without a SOP Instance UID; header holds the rest
 * - ERR_HOSTILE: the reader crashed, hung or grew too large on it, twice; or it found the file to
 * be made for that (e says how)
 * - other: local trouble, or ERR_CANCELED
 *
 * `header` and `e` are valid during the call only. e->text is one sentence with the fault, without
 * attribute values. */
struct dicom_read {
    int fd; /* open for reading, at any position; the caller closes it after cb */
    const uint32_t *tags;
    size_t n_tags; /* <= DICOM_MAX_TAGS; both must live until cb */
    void (*cb)(struct dicom_read *r, int status, const struct dicom_header *header,
               const struct err *e);
    void *ctx;
    /* private */
    struct worker_request request;
    uint8_t *message;
};

struct dicom_reader;

/* `program`: path of dcmferry-dicom, or NULL for dicom_reader_program(). `workers` processes at
 * most. */
int dicom_reader_open(struct dicom_reader **ret, uv_loop_t *loop, const char *program,
                      unsigned workers, struct err *e);
/* Caller owns *r until cb, which comes exactly once and never from within. */
void dicom_reader_read(struct dicom_reader *reader, struct dicom_read *r);
unsigned dicom_reader_pending(const struct dicom_reader *reader);
/* Cancels what is under way (ERR_CANCELED); frees the reader before cb. */
void dicom_reader_close(struct dicom_reader *reader, void (*cb)(void *ctx), void *ctx);

/* Where dcmferry-dicom is: $DCMFERRY_DICOM, beside the running program, in
 * ../dcmferry-dicom/ from there (the build tree), else the installed path. Static storage. */
const char *dicom_reader_program(void);

#endif
