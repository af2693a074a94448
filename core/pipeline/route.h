/* Which routes take a file, and to where. Pure; thread-safe for reading. Architecture, "The way of
 * a file". */
#ifndef PIPELINE_ROUTE_H
#define PIPELINE_ROUTE_H

#include "config/config.h"

#include <stdbool.h>
#include <stddef.h>

struct route_delivery {
    size_t destination; /* index in the configuration */
    size_t route;
    char *folder; /* "" for none; malloc'ed */
};

struct route_decision {
    enum { ROUTE_QUEUED, ROUTE_REJECTED, ROUTE_HELD } fate;
    const char *reason; /* rejected, held: of the configuration or static */
    struct route_delivery *deliveries;
    size_t n;
    /* What binds the rest of the study and of the series: the routes and their folders, as text for
     * the next decision; malloc'ed; NULL if none. */
    char *bind_study, *bind_series;
};

/* Walks the routes in order. A route with `scope: study` (or series) is taken when the study
 * (series) is bound to it, or else when its conditions hold and the study (series) is not yet bound
 * to another one that ends the walk (a bound name that exists no more binds nothing); rejecting
 * routes and `scope: instance` go by their conditions alone. The first taken one ends the walk
 * unless it says `all: true`; such a one adds to what is bound, whenever its conditions hold.
 *
 * The folder, too, is the one of the first instance that the route took, as PostDICOM's folders
 * hold orders and not instances, unless its template was changed since, or says by the file's path
 * where that file shall go.
 *
 * Returns 0 or ERR_NOMEM; free with route_decision_clear in either case. */
int route_decide(const struct config *c, const struct template_values *values,
                 const char *bound_study, const char *bound_series, struct route_decision *ret);
/* Whether `more` binds something that `bound` does not. */
bool route_adds(const char *bound, const char *more);
void route_decision_clear(struct route_decision *d);

/* Whether any route has that scope: without, nothing is ever bound. */
bool route_has_scope(const struct config *c, enum config_scope scope);

#endif
