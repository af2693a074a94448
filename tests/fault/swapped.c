/* Preloaded into the daemon (LD_PRELOAD): at the last instant before it renames or unlinks
 * DCMFERRY_SWAP_PATH, another program renames DCMFERRY_SWAP_FILE there. Once. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_renameat2)(int, const char *, int, const char *, unsigned);

__attribute__((constructor)) static void find_real(void)
{
    *(void **)&real_rename = dlsym(RTLD_NEXT, "rename");
    *(void **)&real_unlink = dlsym(RTLD_NEXT, "unlink");
    *(void **)&real_renameat2 = dlsym(RTLD_NEXT, "renameat2");
}

static void swap(const char *path)
{
    const char *at = getenv("DCMFERRY_SWAP_PATH"), *file = getenv("DCMFERRY_SWAP_FILE");

    if (at != NULL && file != NULL && strcmp(at, path) == 0)
        real_rename(file, at); /* the second time there is nothing left to rename */
}

PUBLIC int unlink(const char *path)
{
    swap(path);
    return real_unlink(path);
}

PUBLIC int rename(const char *from, const char *to)
{
    swap(from);
    return real_rename(from, to);
}

PUBLIC int renameat2(int from_folder, const char *from, int to_folder, const char *to,
                     unsigned flags)
{
    swap(from);
    return real_renameat2(from_folder, from, to_folder, to, flags);
}
