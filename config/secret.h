/* A secret by reference: {file: PATH}, {env: NAME}, {credential: NAME} (systemd's
 * $CREDENTIALS_DIRECTORY), or a literal (allowed only in a configuration file that others cannot
 * read). Blocks for a file read; thread-safe. */
#ifndef CONFIG_SECRET_H
#define CONFIG_SECRET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum secret_source { SECRET_NONE, SECRET_LITERAL, SECRET_FILE, SECRET_ENV, SECRET_CREDENTIAL };

struct secret {
    enum secret_source source;
    char *reference; /* the path or name, or the literal itself; never log it where source is
                        LITERAL */
};

/* Reads the value now, blanks and line ends around it trimmed; fails if it is empty or over 16 KiB.
 * *ret is malloc'ed: wipe with secret_wipe. The message names the reference, never the value. */
int secret_read(const struct secret *s, char **ret, struct err *e);
/* Overwrites and frees; NULL is fine. */
void secret_wipe(char *value);

#endif
