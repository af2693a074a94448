/* What a WebSocket server sends: the answer to the upgrade, then frames. The first byte says how it
 * is cut to pieces. */
#include "net/ws_codec.h"
#include "net/ws_handshake.h"

#include <stdlib.h>

#define MAX_MESSAGE 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_message(bool binary, const uint8_t *data, size_t size, void *ctx)
{
    (void)binary;
    (void)ctx;
    if (size > MAX_MESSAGE || !data)
        abort();
}

static void write_all(struct ws_codec *c)
{
    static uint8_t out[65536 + WS_CODEC_CONTROL_ROOM];
    ssize_t n;
    while ((n = ws_codec_produce(c, out, sizeof out)) > 0)
        ws_codec_flushed(c);
    if (n < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t step = (size_t)data[0] + 1;
    data++;
    size--;
    struct err e = {0};
    int status;
    int header =
        ws_handshake_parse((const char *)data, size, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &status, &e);
    if (header > (int)size || (header < 0) != (e.code != 0))
        abort();
    if (header > 0) {
        data += header;
        size -= (size_t)header;
    }
    struct ws_codec *c = ws_codec_new(MAX_MESSAGE, on_message, NULL);
    if (!c)
        return 0;
    int rc = 0;
    while (size > 0 && !rc) {
        size_t n = size < step ? size : step;
        rc = ws_codec_feed(c, data, n, &e);
        data += n;
        size -= n;
        if (!rc && ws_codec_congested(c)) {
            write_all(c);
            if (ws_codec_congested(c))
                abort();
        }
    }
    if (rc > 0)
        abort();
    write_all(c);
    ws_codec_free(c);
    return 0;
}
