#include "pipeline/route.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static bool names_hold(const char *names, const char *name, size_t length)
{
    for (const char *p = names; p && *p;) {
        size_t n = strcspn(p, "\n");
        if (n == length && memcmp(p, name, n) == 0)
            return true;
        p += n;
        if (*p)
            p++;
    }
    return false;
}

static bool names_contain(const char *names, const char *name)
{
    return names_hold(names, name, strlen(name));
}

static int names_add(char **names, const char *name)
{
    size_t old = *names ? strlen(*names) : 0, length = strlen(name);
    char *grown = realloc(*names, old + length + 2);
    if (!grown)
        return ERR_NOMEM;
    *names = grown;
    if (old > 0)
        grown[old++] = '\n';
    memcpy(grown + old, name, length + 1);
    return 0;
}

bool route_adds(const char *names, const char *more)
{
    for (const char *p = more; p && *p;) {
        size_t n = strcspn(p, "\n");
        if (!names_hold(names, p, n))
            return true;
        p += n;
        if (*p)
            p++;
    }
    return false;
}

bool route_has_scope(const struct config *c, enum config_scope scope)
{
    for (size_t i = 0; i < c->n_routes; i++)
        if (!c->routes[i].reject && c->routes[i].scope == scope)
            return true;
    return false;
}

static int take(const struct config *c, size_t index, const struct template_values *values,
                struct route_decision *d)
{
    const struct config_route *r = &c->routes[index];
    struct route_delivery *grown = realloc(d->deliveries, (d->n + r->n_to) * sizeof *grown);
    if (!grown)
        return ERR_NOMEM;
    d->deliveries = grown;
    for (size_t i = 0; i < r->n_to; i++) {
        char *folder = r->folder ? template_expand(r->folder, values) : strdup("");
        if (!folder)
            return ERR_NOMEM;
        d->deliveries[d->n++] =
            (struct route_delivery){.destination = r->to[i], .route = index, .folder = folder};
    }
    if (r->scope == CONFIG_SCOPE_STUDY)
        return names_add(&d->bind_study, r->name);
    if (r->scope == CONFIG_SCOPE_SERIES)
        return names_add(&d->bind_series, r->name);
    return 0;
}

/* Whether one of those names is a route that ends the walk: no other one comes in question then. */
static bool is_settled(const struct config *c, const char *names, enum config_scope scope)
{
    for (size_t i = 0; names && i < c->n_routes; i++)
        if (c->routes[i].scope == scope && !c->routes[i].all &&
            names_contain(names, c->routes[i].name))
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
        bool takes = (by_study && names_contain(bound_study, r->name)) ||
                     (by_series && names_contain(bound_series, r->name));
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
        int rc = take(c, i, values, ret);
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
