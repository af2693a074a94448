#include "pipeline/route.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A binding is lines: a route's name, and, where its folder is the whole study's (series'), the
 * template and what it was for the first instance, after tabs. */

static const char *next_line(const char *line)
{
    line += strcspn(line, "\n");
    return *line ? line + 1 : line;
}

/* The line of a route; NULL if it is not bound. */
static const char *find_line(const char *lines, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = lines; p && *p; p = next_line(p))
        if (strcspn(p, "\t\n") == length && memcmp(p, name, length) == 0)
            return p;
    return NULL;
}

static bool has_line(const char *lines, const char *line)
{
    size_t length = strcspn(line, "\n");
    for (const char *p = lines; p && *p; p = next_line(p))
        if (strcspn(p, "\n") == length && memcmp(p, line, length) == 0)
            return true;
    return false;
}

static int add_line(char **lines, const char *name, const char *template, const char *folder)
{
    size_t old = *lines ? strlen(*lines) : 0;
    size_t size = old + strlen(name) + strlen(template) + strlen(folder) + 4;
    char *grown = realloc(*lines, size);
    if (!grown)
        return ERR_NOMEM;
    *lines = grown;
    const char *separator = old > 0 ? "\n" : "";
    if (template[0])
        snprintf(grown + old, size - old, "%s%s\t%s\t%s", separator, name, template, folder);
    else
        snprintf(grown + old, size - old, "%s%s", separator, name);
    return 0;
}

bool route_adds(const char *bound, const char *more)
{
    for (const char *p = more; p && *p; p = next_line(p))
        if (!has_line(bound, p))
            return true;
    return false;
}

/* The text of a template that is expanded once for all that is bound, "" if it is not: where a
 * person put a file says where that one shall go. */
static const char *shared_template(const struct config_route *r)
{
    if (r->scope == CONFIG_SCOPE_INSTANCE || !r->folder || template_uses_path(r->folder))
        return "";
    const char *text = template_text(r->folder);
    return strpbrk(text, "\t\n") ? "" : text;
}

/* What the first instance's folder was, if the route's template is still the same; malloc'ed. */
static int bound_folder(const char *bound, const struct config_route *r, char **ret)
{
    const char *template = shared_template(r), *line = find_line(bound, r->name);
    size_t length = strlen(template);
    *ret = NULL;
    if (!line || length == 0)
        return 0;
    line += strcspn(line, "\t\n");
    if (*line != '\t' || strncmp(line + 1, template, length) != 0 || line[1 + length] != '\t')
        return 0;
    line += 2 + length;
    *ret = strndup(line, strcspn(line, "\n"));
    return *ret ? 0 : ERR_NOMEM;
}

bool route_has_scope(const struct config *c, enum config_scope scope)
{
    for (size_t i = 0; i < c->n_routes; i++)
        if (!c->routes[i].reject && c->routes[i].scope == scope)
            return true;
    return false;
}

static int take(const struct config *c, size_t index, const struct template_values *values,
                const char *bound, struct route_decision *d)
{
    const struct config_route *r = &c->routes[index];
    struct route_delivery *grown = realloc(d->deliveries, (d->n + r->n_to) * sizeof *grown);
    char *folder;
    if (!grown)
        return ERR_NOMEM;
    d->deliveries = grown;
    if (bound_folder(bound, r, &folder) != 0)
        return ERR_NOMEM;
    if (!folder)
        folder = r->folder ? template_expand(r->folder, values) : strdup("");
    if (!folder)
        return ERR_NOMEM;
    int rc = 0;
    if (r->scope == CONFIG_SCOPE_STUDY)
        rc = add_line(&d->bind_study, r->name, shared_template(r), folder);
    else if (r->scope == CONFIG_SCOPE_SERIES)
        rc = add_line(&d->bind_series, r->name, shared_template(r), folder);
    for (size_t i = 0; i < r->n_to && rc == 0; i++) {
        char *own = strdup(folder);
        if (!own)
            rc = ERR_NOMEM;
        else
            d->deliveries[d->n++] =
                (struct route_delivery){.destination = r->to[i], .route = index, .folder = own};
    }
    free(folder);
    return rc;
}

/* Whether one of those names is a route that ends the walk: no other one comes in question then. */
static bool is_settled(const struct config *c, const char *names, enum config_scope scope)
{
    for (size_t i = 0; names && i < c->n_routes; i++)
        if (c->routes[i].scope == scope && !c->routes[i].all && find_line(names, c->routes[i].name))
            return true;
    return false;
}

int route_decide(const struct config *c, const struct template_values *values,
                 const char *bound_study, const char *bound_series, struct route_decision *ret)
{
    *ret = (struct route_decision){.fate = ROUTE_HELD};
    bool study = is_settled(c, bound_study, CONFIG_SCOPE_STUDY);
    bool series = is_settled(c, bound_series, CONFIG_SCOPE_SERIES);
    bool limit_hit = false;
    for (size_t i = 0; i < c->n_routes; i++) {
        const struct config_route *r = &c->routes[i];
        bool by_study = !r->reject && r->scope == CONFIG_SCOPE_STUDY;
        bool by_series = !r->reject && r->scope == CONFIG_SCOPE_SERIES;
        const char *bound = by_study ? bound_study : by_series ? bound_series : NULL;
        bool takes = find_line(bound, r->name) != NULL;
        if (!takes && (r->all || !((by_study && study) || (by_series && series))))
            takes = match_test(r->match, values, &limit_hit);
        if (!takes)
            continue;
        if (r->reject) {
            /* What an earlier `all` route took stays taken. */
            if (ret->n == 0) {
                ret->fate = ROUTE_REJECTED;
                ret->reason = r->reject;
            }
            return 0;
        }
        int rc = take(c, i, values, bound, ret);
        if (rc != 0)
            return rc;
        ret->fate = ROUTE_QUEUED;
        if (!r->all)
            return 0;
    }
    if (ret->fate == ROUTE_HELD)
        ret->reason = limit_hit ? "no route takes it (a regular expression ran into its limits)"
                                : "no route takes it";
    return 0;
}

void route_decision_clear(struct route_decision *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->deliveries[i].folder);
    free(d->deliveries);
    free(d->bind_study);
    free(d->bind_series);
    *d = (struct route_decision){0};
}
