/* What the parts of dcmferry-sandbox share. Everything belongs to the loop's thread but the store's
 * operations.
 *
 *   server_http   router, region, upgrade to a WebSocket, faults     tls   TLS for it
 *   server_ws     connections: messages in and out
 *   dispatch      a message is a request, its answer a message; keys, faults
 *   sessions      type 3: API sessions
 *   methods       type 17: the general methods, with folders, orders, accounts
 *   upload        type 23: upload sessions; assembly: files in parts; receive: one whole file;
 *                 receipts: its row, its order, its folders
 *   store         what is on disk: operations in order; store_sql, store_files
 *   assume        what is assumed of the real server, each a switch; faults: trouble on purpose */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include "base/uuid.h"
#include "dicom/dicom_reader.h"
#include "sandbox/assume.h"
#include "sandbox/faults.h"
#include "sandbox/store.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define SANDBOX_PART_SIZE   524288
#define SANDBOX_MAX_MESSAGE (16 * 1024 * 1024)
#define SANDBOX_MAX_NAMES   32

struct sandbox_options {
    const char *state;
    const char *listen;
    uint16_t port;
    char account_key[UUID_TEXT_SIZE];
    char api_key[UUID_TEXT_SIZE];
    const char *tls_cert, *tls_key, *tls_client_ca; /* paths */
    const char *dicom_program;
    unsigned workers;
    const char *users[SANDBOX_MAX_NAMES];
    const char *institutions[SANDBOX_MAX_NAMES];
    size_t n_users, n_institutions;
    bool discard;
    bool no_fsync;
    bool permissive;
};

struct sandbox {
    uv_loop_t *loop;
    struct sandbox_options options;
    struct assume assume;
    struct faults faults;
    struct store *store;
    struct dicom_reader *reader; /* NULL with --discard */
    struct sessions *sessions;
    struct uploads *uploads;
    struct server_http *http;
    struct conn *conns; /* all WebSockets, a list */
};

#endif
