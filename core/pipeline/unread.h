/* What of a drop folder cannot be read, for the operator. Bounded: of many it only knows that there
 * are more. What disappears from a folder that is polled, where nothing tells so, stays in it until
 * the next start. Loop thread only. */
#ifndef PIPELINE_UNREAD_H
#define PIPELINE_UNREAD_H

#include <stdbool.h>
#include <stddef.h>

#define UNREAD_KEPT 64

/* Zero-initialise; free with unread_clear. */
struct unread {
    char *paths[UNREAD_KEPT];
    size_t n;
    bool more; /* than could be kept */
};

/* A file or folder cannot be read; one that is known already changes nothing. */
void unread_add(struct unread *u, const char *path);
/* The file was read: neither it nor a folder above it is unreadable any more. */
void unread_read(struct unread *u, const char *path);
/* It is no longer there, nor anything below it. */
void unread_gone(struct unread *u, const char *path);
void unread_clear(struct unread *u);

#endif
