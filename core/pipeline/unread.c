#include "unread.h"

#include "base/fsutil.h"

#include <stdlib.h>
#include <string.h>

void unread_add(struct unread *u, const char *path)
{
    for (size_t i = 0; i < u->n; i++)
        if (strcmp(u->paths[i], path) == 0)
            return;
    char *copy = u->n < UNREAD_KEPT ? strdup(path) : NULL;
    if (copy)
        u->paths[u->n++] = copy;
    else
        u->more = true;
}

static void drop(struct unread *u, size_t i)
{
    free(u->paths[i]);
    memmove(&u->paths[i], &u->paths[i + 1], (--u->n - i) * sizeof u->paths[0]);
    if (u->n == 0)
        u->more = false;
}

void unread_read(struct unread *u, const char *path)
{
    for (size_t i = u->n; i-- > 0;)
        if (fsutil_path_within(path, u->paths[i]))
            drop(u, i);
}

void unread_gone(struct unread *u, const char *path)
{
    for (size_t i = u->n; i-- > 0;)
        if (fsutil_path_within(u->paths[i], path))
            drop(u, i);
}

void unread_clear(struct unread *u)
{
    for (size_t i = 0; i < u->n; i++)
        free(u->paths[i]);
    *u = (struct unread){0};
}
