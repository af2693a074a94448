/* dcmferry-dicom: reads DICOM files for dcmferryd and the others, who start it (core/worker). */
#include "sandbox.h"

#include "base/buf.h"
#include "base/err.h"
#include "dicom/dicom_codec.h"
#include "dicom/dicom_shim.h"
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORKER_SOCKET 3

static bool has_socket(void)
{
    struct stat st;
    return fstat(WORKER_SOCKET, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int complain(const struct err *e)
{
    fprintf(stderr, "dcmferry-dicom: %s\n", e->text);
    return EXIT_FAILURE;
}

/* One message; false if there can be no next one. */
static bool serve(const uint8_t *message, size_t size, const int *fds, size_t n_fds,
                  struct buf *out)
{
    static struct dicom_request request;
    static struct dicom_answer answer;

    if (dicom_codec_get_request(message, size, &request) != 0 || n_fds != 1) {
        return false; /* not of the same build */
    }
    dicom_shim_read(fds[0], &request, &answer);
    buf_clear(out);
    return dicom_codec_put_answer(out, &answer) == 0 && worker_answer(out->data, out->size) == 0;
}

int main(int argc, char **argv)
{
    static uint8_t message[WORKER_MAX_MESSAGE];
    struct err e = {0};
    struct buf out = {0};

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("dcmferry-dicom %s\n", DCMFERRY_VERSION);
        return EXIT_SUCCESS;
    }
    if (argc != 1 || !has_socket()) {
        fprintf(stderr,
                "dcmferry-dicom reads DICOM files for dcmferryd and dcmferry, which start it;\n"
                "it does nothing by itself.\n");
        return 2;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
        err_set_errno(&e, errno, "cannot tie itself to its parent");
        return complain(&e);
    }
    signal(SIGPIPE, SIG_IGN);
    /* Also what exceptions need at their first throw: the sandbox lets nothing be loaded. */
    if (dicom_shim_init(&e) != 0 || sandbox_enter(&e) != 0) {
        return complain(&e);
    }

    for (;;) {
        int fds[WORKER_MAX_FDS];
        size_t n_fds = 0;
        const long size = worker_receive(message, sizeof(message), fds, &n_fds);
        const bool more = size > 0 && serve(message, (size_t)size, fds, n_fds, &out);
        for (size_t i = 0; i < n_fds; i++) {
            close(fds[i]);
        }
        if (!more) {
            buf_free(&out);
            return size == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        }
    }
}
