#include "pipeline/roots.h"

#include <stdlib.h>
#include <sys/stat.h>

struct root {
    bool known;
    dev_t device;
};

struct roots {
    size_t n;
    struct root root[];
};

void root_look(const char *path, struct root_look *ret)
{
    struct stat st;
    ret->there = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    ret->device = ret->there ? st.st_dev : 0;
}

int roots_open(struct roots **ret, size_t n)
{
    *ret = calloc(1, sizeof **ret + n * sizeof(struct root));
    if (!*ret)
        return ERR_NOMEM;
    (*ret)->n = n;
    return 0;
}

bool roots_trust(struct roots *r, size_t watch, const struct root_look *look, bool others_found)
{
    if (!look->there)
        return false;
    if (watch >= r->n)
        return true; /* no longer configured */
    struct root *root = &r->root[watch];
    if (root->known && root->device != look->device && !others_found)
        return false;
    root->known = true;
    root->device = look->device;
    return true;
}

void roots_learn(struct roots *r, size_t watch, dev_t device)
{
    if (!r->root[watch].known)
        r->root[watch] = (struct root){.known = true, .device = device};
}

void roots_close(struct roots *r)
{
    free(r);
}
