#include "dicom/dicom_reader.h"

#include "base/buf.h"
#include "dicom/dicom_codec.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READER_DEPTH         4 /* so that a worker need not wait for the loop between files */
#define READER_IDLE_MS       60000
#define READER_TIMEOUT_MS    10000        /* what a hostile file may cost */
#define READER_ADDRESS_SPACE (256u << 20) /* bounds the resident size too */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

struct dicom_reader {
    struct worker_pool *pool;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

int dicom_reader_open(struct dicom_reader **ret, uv_loop_t *loop, const char *program,
                      unsigned workers, struct err *e)
{
    const char *const argv[] = {program != NULL ? program : dicom_reader_program(), NULL};
    const struct worker_options options = {
        .argv = argv,
        .max = workers,
        .depth = READER_DEPTH,
        .idle_ms = READER_IDLE_MS,
        .request_timeout_ms = READER_TIMEOUT_MS,
        .address_space = SANITIZED ? 0 : READER_ADDRESS_SPACE,
    };
    struct dicom_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL) {
        return err_set(e, ERR_NOMEM, "cannot start reading DICOM: out of memory");
    }
    const int result = worker_pool_open(&reader->pool, loop, &options, e);
    if (result != 0) {
        free(reader);
        return result;
    }
    *ret = reader;
    return 0;
}

static void finish(struct dicom_read *r, int status, const struct dicom_header *header,
                   const struct err *e)
{
    free(r->message);
    r->message = NULL;
    r->cb(r, status, header, e);
}

static void on_answer(struct worker_request *request, int status, const uint8_t *bytes, size_t size,
                      const struct err *e)
{
    struct dicom_read *r = request->ctx;
    struct dicom_answer answer;
    struct err fault = {0};
    memset(&answer, 0, sizeof(answer));
    answer.header.n_values = r->n_tags;

    if (status != 0) {
        fault = *e;
    } else if (dicom_codec_get_answer(bytes, size, r->n_tags, &answer) != 0) {
        memset(&answer, 0, sizeof(answer));
        answer.header.n_values = r->n_tags;
        status =
            err_set(&fault, ERR_HOSTILE, "the DICOM reader gave an answer that makes no sense");
    } else if (answer.status != 0) {
        /* (the code's own text speaks of a crash) */
        status = answer.status == ERR_HOSTILE ? err_set(&fault, answer.status, "%s", answer.reason)
                                              : err_set(&fault, answer.status, "%s: %s",
                                                        err_text(answer.status), answer.reason);
    }
    finish(r, status, &answer.header, &fault);
}

void dicom_reader_read(struct dicom_reader *reader, struct dicom_read *r)
{
    struct buf message = {0};
    /* An empty request is the pool's way to fail from the loop: nothing may be called back from
     * here. */
    if (dicom_codec_put_request(&message, r->tags, r->n_tags) != 0) {
        buf_free(&message);
    }
    r->message = message.data;
    r->request = (struct worker_request){
        .data = message.data,
        .size = message.size,
        .fds = {r->fd},
        .n_fds = 1,
        .cb = on_answer,
        .ctx = r,
    };
    worker_submit(reader->pool, &r->request);
}

unsigned dicom_reader_pending(const struct dicom_reader *reader)
{
    return worker_pending(reader->pool);
}

static void on_closed(void *ctx)
{
    struct dicom_reader *reader = ctx;
    void (*cb)(void *) = reader->closed;
    void *cb_ctx = reader->closed_ctx;
    free(reader);
    cb(cb_ctx);
}

void dicom_reader_close(struct dicom_reader *reader, void (*cb)(void *ctx), void *ctx)
{
    reader->closed = cb;
    reader->closed_ctx = ctx;
    worker_pool_close(reader->pool, on_closed, reader);
}

const char *dicom_reader_program(void)
{
    static const char *const places[] = {"dcmferry-dicom", "../dcmferry-dicom/dcmferry-dicom"};
    static char path[PATH_MAX];
    const char *environment = getenv("DCMFERRY_DICOM");
    if (environment != NULL && environment[0] != '\0') {
        snprintf(path, sizeof(path), "%s", environment);
        return path;
    }
    char self[PATH_MAX - 64];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        *slash = '\0';
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
            snprintf(path, sizeof(path), "%s/%s", self, places[i]);
            if (access(path, X_OK) == 0) {
                return path;
            }
        }
    }
    return DICOM_READER_INSTALLED;
}
