#include "base/aside.h"

#include "base/fsutil.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX     ".dcmferry-leaving."
#define NUMBER_MAX 1000

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *aside_name(const char *path)
{
    const char *name = name_of(path);
    char *aside;
    return asprintf(&aside, "%.*s" PREFIX "%s", (int)(name - path), path, name) < 0 ? NULL : aside;
}

bool aside_is(const char *name)
{
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0 && name[strlen(PREFIX)] != '\0';
}

int aside_take(const char *path, const char *aside, struct err *e)
{
    struct stat st;
    if (strlen(name_of(aside)) > NAME_MAX || strlen(aside) >= PATH_MAX)
        return err_set(e, ERR_TOO_LARGE, "the name is too long to set the file aside");
    if (lstat(aside, &st) == 0)
        return err_set(e, ERR_EXISTS, "another file was set aside under this name");
    if (rename(path, aside) != 0)
        return err_set_errno(e, errno, "cannot set the file aside");
    return 0;
}

int aside_put_back(const char *aside, struct err *e)
{
    const char *name = name_of(aside);
    int rc = ERR_EXISTS;
    for (unsigned i = 0; i < NUMBER_MAX && rc == ERR_EXISTS; i++) {
        char number[16] = "", *path;
        if (i > 0)
            snprintf(number, sizeof number, "~%u", i);
        if (asprintf(&path, "%.*s%s%s", (int)(name - aside), aside, name + strlen(PREFIX), number) <
            0)
            return err_set(e, ERR_NOMEM, "out of memory");
        rc = fsutil_rename_new(aside, path, e);
        free(path);
    }
    return rc;
}
