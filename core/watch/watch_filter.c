#include "watch/watch_filter.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

static void free_list(char **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

static int copy_list(char ***ret, const char *const *list, size_t n)
{
    *ret = NULL;
    if (n == 0)
        return 0;
    char **copy = calloc(n, sizeof *copy);
    if (copy == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        copy[i] = strdup(list[i]);
        if (copy[i] == NULL) {
            free_list(copy, i);
            return ERR_NOMEM;
        }
    }
    *ret = copy;
    return 0;
}

int watch_filter_init(struct watch_filter *f, const struct watch_options *o)
{
    memset(f, 0, sizeof *f);
    if (copy_list(&f->include, o->include, o->n_include) != 0)
        return ERR_NOMEM;
    f->n_include = o->n_include;
    if (copy_list(&f->exclude, o->exclude, o->n_exclude) != 0) {
        watch_filter_free(f);
        return ERR_NOMEM;
    }
    f->n_exclude = o->n_exclude;
    return 0;
}

void watch_filter_free(struct watch_filter *f)
{
    free_list(f->include, f->n_include);
    free_list(f->exclude, f->n_exclude);
    memset(f, 0, sizeof *f);
}

static const char *first_match(char *const *globs, size_t n, const char *rel)
{
    for (size_t i = 0; i < n; i++)
        if (text_glob(globs[i], rel, true))
            return globs[i];
    return NULL;
}

const char *watch_filter_excluded(const struct watch_filter *f, const char *rel)
{
    return first_match(f->exclude, f->n_exclude, rel);
}

bool watch_filter_folder(const struct watch_filter *f, const char *rel)
{
    const char *slash = strrchr(rel, '/');
    if ((slash != NULL ? slash[1] : rel[0]) == '.')
        return false;
    return watch_filter_excluded(f, rel) == NULL;
}

bool watch_filter_file(const struct watch_filter *f, const char *rel)
{
    return watch_filter_folder(f, rel) &&
           (f->n_include == 0 || first_match(f->include, f->n_include, rel) != NULL);
}
