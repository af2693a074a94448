#include "config/look.h"

#include "base/clock.h"
#include "base/fsutil.h"
#include "base/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct looks {
    struct look *items;
    size_t n;
};

/* --- elsewhere --- */

static int try_open(const char *path)
{
    struct stat st;
    int error = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 || fstat(fd, &st) != 0)
        error = errno;
    else if (!S_ISREG(st.st_mode))
        error = EISDIR;
    if (fd >= 0)
        close(fd);
    return error;
}

static void look(const void *in, void *out)
{
    const char *path = in;
    struct look_answer *a = out;
    char at[PATH_MAX];
    struct stat st;

    if (strlen(path) >= sizeof(at)) {
        a->error = a->length_error = ENAMETOOLONG;
        return;
    }
    strcpy(at, path);
    if (stat(at, &st) != 0) {
        a->error = errno;
    } else {
        a->folder = S_ISDIR(st.st_mode);
        a->device = st.st_dev;
        a->inode = st.st_ino;
        if (!a->folder)
            a->open_error = try_open(at);
        else if (access(at, R_OK | X_OK) != 0)
            a->enter_error = errno;
    }
    while (stat(at, &st) != 0) {
        char *slash = strrchr(at, '/');
        if (errno != ENOENT || slash == NULL || strcmp(at, "/") == 0) {
            a->length_error = errno;
            break;
        }
        slash[slash == at] = '\0';
    }
    a->length = strlen(at);
    if (a->length_error == 0) {
        a->length_folder = S_ISDIR(st.st_mode);
        if (access(at, W_OK | X_OK) != 0)
            a->write_error = errno;
        if (fsutil_is_network(at, &a->network, NULL) != 0)
            a->network = false;
    }
    if (realpath(at, a->real) == NULL)
        a->real[0] = '\0';
}

/* --- here --- */

struct looks *looks_new(void)
{
    return calloc(1, sizeof(struct looks));
}

bool looks_add(struct looks *l, const char *path)
{
    if (path == NULL || looks_get(l, path) != NULL)
        return true;
    struct look *grown = realloc(l->items, (l->n + 1) * sizeof(*grown));
    if (grown == NULL)
        return false;
    l->items = grown;
    grown[l->n] = (struct look){.path = strdup(path)};
    if (grown[l->n].path == NULL)
        return false;
    l->n++;
    return true;
}

bool looks_run(struct looks *l, bool daemon)
{
    struct probe *probes = calloc(l->n + 1, sizeof(*probes));
    uint64_t deadline = clock_monotonic_ms() + LOOK_DEADLINE_MS;

    if (probes == NULL)
        return false;
    bool ok = true;
    for (size_t i = 0; i < l->n; i++) {
        struct look *k = &l->items[i];
        probes[i].fd = -1;
        ok = ok && probe_start(&probes[i], daemon ? PROBE_THREAD : PROBE_PROCESS, look, k->path,
                               strlen(k->path) + 1, &k->answer, sizeof(k->answer));
    }
    for (size_t i = 0; i < l->n; i++) {
        struct look *k = &l->items[i];
        k->answered = probes[i].fd >= 0 &&
                      probe_wait(&probes[i], &k->answer, sizeof(k->answer), ok ? deadline : 0);
    }
    free(probes);
    return ok;
}

const struct look *looks_get(const struct looks *l, const char *path)
{
    for (size_t i = 0; l != NULL && i < l->n; i++) {
        if (strcmp(l->items[i].path, path) == 0)
            return &l->items[i];
    }
    return NULL;
}

void looks_free(struct looks *l)
{
    for (size_t i = 0; l != NULL && i < l->n; i++)
        free(l->items[i].path);
    if (l != NULL)
        free(l->items);
    free(l);
}
