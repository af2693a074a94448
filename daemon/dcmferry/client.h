/* Asks the running daemon through its control socket. Blocking; one call at a time. */
#ifndef DCMFERRY_CLIENT_H
#define DCMFERRY_CLIENT_H

#include "base/err.h"

#include <cjson/cJSON.h>
#include <stdint.h>

/* `path` with its query, e.g. "/status". On success *ret is the answer's JSON (cJSON_Delete it) and
 * *ret_text, unless it is NULL, what was parsed (malloc'ed): cJSON's numbers are doubles, so large
 * ones cannot be printed again. An answer that is an error gives its text. `idle_ms`: how long to
 * wait without a byte. */
int client_call(const char *socket_path, const char *method, const char *path, uint64_t idle_ms,
                cJSON **ret, char **ret_text, struct err *e);

/* The socket: --socket, else that of the configuration (which may have other faults), else that of
 * the default state folder. malloc'ed. */
char *client_socket(const char *option, const char *config_path);

#endif
