/* Addresses: the query of the HTTP requests that open a session (wire protocol, section 1), and
 * which addresses a router may hand out. Pure; thread-safe. */
#ifndef POSTDICOM_PD_ADDRESS_H
#define POSTDICOM_PD_ADDRESS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `address` with ?RequestType=…&Parameters=…&ClientUniqueId=…&Cache=…; malloc'ed, NULL when out of
 * memory. It holds keys: never show it unredacted. */
char *pd_address_request(const char *address, int request_type, const char *parameters,
                         const char *api_key, int64_t now_ms);

/* `<address>/?ClientUniqueId=<apiKey>`; malloc'ed. */
char *pd_address_socket(const char *address, const char *api_key);

/* Whether `address`, handed out by the router, may be used; else ERR_TLS (the destination stops, an
 * operator is told).
 *
 * - A router reached over https hands out https and wss only.
 * - The host is the router's, or lies in the router's domain, or is in `hosts` ("a.example.org", or
 * "*.example.org" for every host below example.org). A router on loopback may name any loopback
 * host. The router's domain is its host without the first label, if that leaves two labels or more
 * and does not look like a registry's (two labels, the first of at most three letters, the second a
 * country's: "co.uk"); else its host itself. Of numeric addresses it is the address. */
int pd_address_check(const char *router, const char *address, const char *const *hosts,
                     size_t n_hosts, struct err *e);

#endif
