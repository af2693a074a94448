#include "read.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static uv_loop_t loop;
static struct dicom_reader *reader;
static struct result result;
static bool done;

int read_setup(void **state)
{
    struct err e = {0};
    (void)state;
    uv_loop_init(&loop);
    if (dicom_reader_open(&reader, &loop, NULL, 1, &e) != 0) {
        print_error("%s\n", e.text);
        return 1;
    }
    return 0;
}

static void on_close(void *ctx)
{
    *(bool *)ctx = true;
}

int read_teardown(void **state)
{
    bool closed = false;
    (void)state;
    dicom_reader_close(reader, on_close, &closed);
    uv_run(&loop, UV_RUN_DEFAULT);
    return closed && uv_loop_close(&loop) == 0 ? 0 : 1;
}

struct dicom_reader *read_reader(void)
{
    return reader;
}

uv_loop_t *read_loop(void)
{
    return &loop;
}

static void on_read(struct dicom_read *r, int status, const struct dicom_header *header,
                    const struct err *e)
{
    assert_false(done);
    assert_int_equal(header->n_values, r->n_tags);
    memset(&result, 0, sizeof(result));
    result.status = status;
    result.header = *header;
    snprintf(result.text, sizeof(result.text), "%s", status != 0 ? e->text : "");
    for (size_t i = 0; i < header->n_values; i++) {
        result.present[i] = header->values[i] != NULL;
        result.header.values[i] = NULL;
        if (result.present[i]) {
            assert_true(strlen(header->values[i]) <= DICOM_MAX_VALUE);
            strcpy(result.value[i], header->values[i]);
        }
    }
    done = true;
    uv_stop(&loop); /* UV_RUN_ONCE would wait for more when a timer brought this */
}

const struct result *read_fd(int fd, const uint32_t *tags, size_t n_tags)
{
    struct dicom_read r = {.fd = fd, .tags = tags, .n_tags = n_tags, .cb = on_read};
    done = false;
    dicom_reader_read(reader, &r);
    assert_false(done);
    while (!done) {
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    return &result;
}

const struct result *read_bytes(const void *data, size_t n, const uint32_t *tags, size_t n_tags)
{
    const int fd = memfd_create("dicom", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(n == 0 || write(fd, data, n) == (ssize_t)n);
    const struct result *r = read_fd(fd, tags, n_tags);
    close(fd);
    return r;
}

const char *read_value(const struct buf *file, uint32_t tag)
{
    const struct result *r = read_bytes(file->data, file->size, &tag, 1);
    if (r->status != 0 && r->status != ERR_NO_UID) {
        fail_msg("%s", r->text);
    }
    return r->present[0] ? r->value[0] : NULL;
}
