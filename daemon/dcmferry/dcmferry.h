/* The command's parts: one file a sub-command. Each takes what follows its name (argv[0] is
 * "dcmferry NAME", for messages) and returns the exit status: 0, 1 (it failed, said why on stderr)
 * or 2 (wrong use). */
#ifndef DCMFERRY_DCMFERRY_H
#define DCMFERRY_DCMFERRY_H

#include <stdbool.h>

struct command_options {
    const char *config_path;
    const char *socket_path; /* NULL: from the configuration */
    bool json;
};

int command_status(const struct command_options *o, int argc, char **argv);
int command_files(const struct command_options *o, int argc, char **argv);
int command_where(const struct command_options *o, int argc, char **argv);
int command_retry(const struct command_options *o, int argc, char **argv);
int command_hold(const struct command_options *o, int argc, char **argv);
int command_release(const struct command_options *o, int argc, char **argv);
int command_acknowledge(const struct command_options *o, int argc, char **argv);
int command_reload(const struct command_options *o, int argc, char **argv);
int command_doctor(const struct command_options *o, int argc, char **argv);
int command_check(const struct command_options *o, int argc, char **argv);

/* 0 if nothing is left from argv[at] on; else says that it was not expected: 2. */
int command_no_more(int at, int argc, char **argv);

#endif
