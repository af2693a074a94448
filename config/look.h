/* What the file system says of the paths of a configuration: all are looked at at once, with one
 * deadline (base/probe.h), so that one that does not answer holds up nothing for long. */
#ifndef CONFIG_LOOK_H
#define CONFIG_LOOK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define LOOK_DEADLINE_MS 5000

/* errno values; 0: all is well. */
struct look_answer {
    int error;   /* stat */
    bool folder; /* else something else */
    dev_t device;
    ino_t inode;
    int enter_error; /* of a folder: to list it and go in */
    int open_error;  /* of something else: to read it; EISDIR: not a regular file */
    /* The path as far as it exists, or a failure other than that it does not. */
    size_t length;
    int length_error;
    bool length_folder;
    int write_error; /* to make something in there */
    bool network;
    char real[PATH_MAX]; /* that part without symbolic links; "" if that cannot be told */
};

struct look {
    char *path;
    bool answered; /* else there is no answer */
    struct look_answer answer;
};

struct looks;

struct looks *looks_new(void); /* NULL: no memory */
/* The path is copied. NULL is passed over. False: no memory. */
bool looks_add(struct looks *l, const char *path);
/* Blocks, LOOK_DEADLINE_MS at most. `daemon`: in threads, not processes. False: neither they
 * nor memory are to be had. */
bool looks_run(struct looks *l, bool daemon);
/* NULL if that path was not added. */
const struct look *looks_get(const struct looks *l, const char *path);
void looks_free(struct looks *l);

#endif
