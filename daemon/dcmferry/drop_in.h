/* What the service's unit lets it write, and the drop-in that it lacks. */
#ifndef DCMFERRY_DROP_IN_H
#define DCMFERRY_DROP_IN_H

#include "config/config.h"
#include "unit.h"

/* Whether the service removes, renames or moves files of that drop folder. */
bool drop_in_writes_sources(const struct config_watch *w);
/* The part of the folder that files are moved to which is the same for all; NULL: none, or out of
 * memory. malloc'ed. */
char *drop_in_move_folder(const struct config_watch *w);

/* Prints what the unit lacks for this configuration, with what has to be done before. Returns how
 * much the unit as systemd has it lacks; 0 if systemd is not there or does not know the unit. */
int drop_in_print(const struct config *c, const struct unit *u, const char *user);

/* Prints the text as one word of a shell. */
void drop_in_print_word(const char *text);

#endif
