/* Reads files with the real worker program, one at a time, for the tests. */
#ifndef TESTS_DICOM_READ_H
#define TESTS_DICOM_READ_H

#include "base/buf.h"
#include "dicom/dicom_reader.h"

#include <stddef.h>
#include <stdint.h>

struct result {
    int status;
    char text[512];             /* of the error */
    struct dicom_header header; /* values: use `value` */
    char value[DICOM_MAX_TAGS][DICOM_MAX_VALUE + 1];
    bool present[DICOM_MAX_TAGS];
};

/* One reader of one worker for all tests of a program (cmocka group set-up and tear-down). */
int read_setup(void **state);
int read_teardown(void **state);

/* Static storage, until the next call. */
const struct result *read_fd(int fd, const uint32_t *tags, size_t n_tags);
const struct result *read_bytes(const void *data, size_t n, const uint32_t *tags, size_t n_tags);
/* The first value of read_bytes for one tag; NULL if absent; fails the test on other trouble than
 * ERR_NO_UID. */
const char *read_value(const struct buf *file, uint32_t tag);

struct dicom_reader *read_reader(void);
uv_loop_t *read_loop(void);

#endif
