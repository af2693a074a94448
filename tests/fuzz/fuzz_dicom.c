/* The header reader of dcmferry-dicom: the whole of what a worker does with a file, and that its
 * answer is one the daemon's decoder takes. And that decoder with the input itself as answer. */
#include "dicom/dicom_codec.h"
#include "dicom/dicom_shim.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct dicom_request request = {
    .n_tags = 10,
    .tags = {0x00080005, 0x00080008, 0x00080060, 0x00081140, 0x00100010, 0x00104000, 0x00280010,
             0x00020016, 0x00091001, 0x7fe00010},
};

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static struct dicom_answer answer, decoded;
    struct buf bytes = {0};

    if (fd < 0) {
        struct err e;
        fd = memfd_create("dicom", MFD_CLOEXEC);
        require(fd >= 0 && dicom_shim_init(&e) == 0);
    }
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    dicom_shim_read(fd, &request, &answer);
    require(answer.status != ERR_IO && answer.status != ERR_NOMEM);
    require(dicom_codec_put_answer(&bytes, &answer) == 0);
    require(dicom_codec_get_answer(bytes.data, bytes.size, request.n_tags, &decoded) == 0);
    require(decoded.status == answer.status);
    buf_free(&bytes);

    (void)dicom_codec_get_answer(data, size, size > 0 ? data[size - 1] % 4u : 0, &decoded);
    return 0;
}
