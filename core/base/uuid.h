/* UUIDs as 36-character lower-case text (RFC 9562). Thread-safe. */
#ifndef BASE_UUID_H
#define BASE_UUID_H

#include <stdbool.h>

#define UUID_TEXT_SIZE 37
#define UUID_NIL       "00000000-0000-0000-0000-000000000000"

/* A random UUID (version 4) from getrandom(2). */
void uuid_generate(char out[UUID_TEXT_SIZE]);

/* Whether `s` is 8-4-4-4-12 hex with version digit 1-5 and variant 8, 9, a or b, or the nil UUID;
 * either case. */
bool uuid_valid(const char *s);

#endif
