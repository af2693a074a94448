/* The servers of server.py for a test program, and a loop to wait on. */
#ifndef TEST_NET_SERVERS_H
#define TEST_NET_SERVERS_H

#include "net/net.h"

/* cmocka's group fixtures: start and end the servers; make and free the folder. */
int servers_setup(void **state);
int servers_teardown(void **state);

int servers_port(const char *name);
/* "<folder>/<name>"; static storage, several may be in use at once. */
const char *servers_path(const char *name);
/* printf into static storage, likewise. */
const char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

extern uv_loop_t loop;
/* Runs the loop until *flag, or fails the test after 30 s. */
void wait_for(const bool *flag);
/* Runs the loop for that long. */
void run_for(uint64_t ms);

/* Opens with timeouts for tests where they are 0; net_end closes and checks that nothing is left on
 * the loop. */
struct net *net_begin(const struct net_options *options);
void net_end(struct net *n);

#endif
