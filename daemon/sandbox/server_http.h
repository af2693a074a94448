/* The HTTP side: router and region addresses, WebSocket upgrades, the control of faults.
 * libmicrohttpd without threads of its own: its epoll descriptor is polled by the loop. Loop thread
 * only. */
#ifndef SANDBOX_SERVER_HTTP_H
#define SANDBOX_SERVER_HTTP_H

#include "sandbox/sandbox.h"

#include <microhttpd.h>

struct server_http;

/* Listens; options.port 0 takes a free port. */
int server_http_open(struct server_http **ret, struct sandbox *sb, struct err *e);
/* "http://127.0.0.1:8080/" */
const char *server_http_url(const struct server_http *h);
/* Gives an upgraded socket back: closes it. */
void server_http_give_back(struct server_http *h, struct MHD_UpgradeResponseHandle *urh);
/* Stops listening; frees when libuv's handles are closed. All WebSockets must have been given back.
 */
void server_http_close(struct server_http *h);

#endif
