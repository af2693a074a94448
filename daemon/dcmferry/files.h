/* What the commands about files share. */
#ifndef DCMFERRY_FILES_H
#define DCMFERRY_FILES_H

#include "base/buf.h"
#include "dcmferry.h"

#include <cjson/cJSON.h>

bool files_is_uid(const char *text);
/* Adds the argument "path", made absolute: the journal knows whole paths only. */
void files_path_argument(struct buf *query, const char *path);
/* Asks for files by the query; a `uid` (or NULL) is that of a study or else of an instance. As
 * ask(). */
cJSON *files_find(const struct command_options *o, struct buf *query, const char *uid,
                  int *ret_code);
/* A file with its deliveries, for people. */
void files_print(const cJSON *file);

#endif
