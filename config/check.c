/* What single keys cannot tell: folders that must not lie in one another, names given twice, and,
 * if wanted, what the file system and the secrets say. */
#include "config/read.h"

#include "base/fsutil.h"
#include "config/look.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

struct check {
    struct reading *r;
    struct config *c;
    const struct node *root;
    struct looks *looks; /* NULL: paths are taken as text only */
};

static const struct node *item(const struct check *k, const char *list, size_t i)
{
    const struct node *node = node_get(k->root, list);

    return node != NULL && i < node->n ? node->items[i] : NULL;
}

/* NULL if paths are not to be looked at, or it does not answer. */
static const struct look_answer *seen(const struct check *k, const char *path)
{
    const struct look *look = looks_get(k->looks, path);

    return look != NULL && look->answered ? &look->answer : NULL;
}

/* Symbolic links resolved as far as the path exists; just a copy if it was not looked at. NULL: no
 * memory. */
static char *resolve(const struct check *k, const char *path)
{
    const struct look_answer *a = seen(k, path);
    char *result = NULL;

    if (a == NULL || a->real[0] == '\0')
        return strdup(path);
    if (asprintf(&result, "%s%s", strcmp(a->real, "/") == 0 ? "" : a->real,
                 path + (a->length == 1 ? 0 : a->length)) < 0)
        return NULL;
    if (result[0] == '\0') {
        free(result);
        result = strdup("/");
    }
    return result;
}

/* Whether one is the other or lies in it, as written or resolved. */
static bool within(const struct check *k, const char *path, const char *folder)
{
    char *a = resolve(k, path), *b = resolve(k, folder);
    bool yes = fsutil_path_within(path, folder);

    if (a == NULL || b == NULL)
        k->r->faults->nomem = true;
    else
        yes = yes || fsutil_path_within(a, b);
    free(a);
    free(b);
    return yes;
}

static bool same(const struct check *k, const char *path, const char *other)
{
    return within(k, path, other) && within(k, other, path);
}

/* --- folders within one another --- */

/* `key` is what path is the value of. */
static void check_outside_watches(const struct check *k, const char *path, struct config_mark mark,
                                  const char *key, const char *why)
{
    for (size_t i = 0; i < k->c->n_watches; i++) {
        if (k->c->watches[i].path != NULL && within(k, path, k->c->watches[i].path)) {
            fault_add(k->r->faults, mark, key, "lies inside the drop folder %s: %s",
                      k->c->watches[i].path, why);
            return;
        }
    }
}

static void check_overlap(const struct check *k, size_t i)
{
    char key[FAULT_PATH_SIZE];
    const char *path = k->c->watches[i].path;

    fault_path_index(key, "watch", i);
    fault_path(key, key, "path");
    for (size_t j = 0; j < i && path != NULL; j++) {
        const char *other = k->c->watches[j].path;
        const char *how = NULL;

        if (other == NULL)
            continue;
        const struct look_answer *a = seen(k, path), *b = seen(k, other);
        /* The same folder may be mounted twice. */
        if (same(k, path, other) || (a != NULL && b != NULL && a->error == 0 && b->error == 0 &&
                                     a->device == b->device && a->inode == b->inode))
            how = "is the same folder as";
        else if (within(k, path, other))
            how = "lies inside";
        else if (within(k, other, path))
            how = "contains";
        if (how != NULL) {
            fault_add(k->r->faults, node_mark(item(k, "watch", i), "path"), key,
                      "%s watch[%zu] (%s): files would be taken in twice", how, j, other);
            return;
        }
    }
}

/* What all folders of the template lie in. NULL: no memory. */
static char *move_folder(const struct config_watch *w)
{
    char *literal = template_literal_prefix(w->move_to);
    char *folder = literal != NULL ? fsutil_normalise(literal) : NULL;

    free(literal);
    return folder;
}

static void check_move(const struct check *k, size_t i)
{
    const struct config_watch *w = &k->c->watches[i];
    const struct node *node = item(k, "watch", i);
    struct config_mark mark = node_mark(node_get(node, "after_upload"), "move");
    char key[FAULT_PATH_SIZE], retention[FAULT_PATH_SIZE], *prefix;

    fault_path_index(key, "watch", i);
    fault_path(retention, key, "retention");
    fault_path(key, key, "after_upload.move");
    prefix = move_folder(w);
    if (prefix == NULL) {
        k->r->faults->nomem = true;
        return;
    }
    check_outside_watches(k, prefix, mark, key, "files would be taken in again");
    if (k->c->state != NULL && within(k, prefix, k->c->state))
        fault_add(k->r->faults, mark, key, "lies inside the state folder");
    if (w->retention_ms != 0) {
        /* What is old in there gets deleted: nothing else may be in it. */
        mark = node_mark(node, "retention");
        if (k->c->state != NULL && within(k, k->c->state, prefix))
            fault_add(k->r->faults, mark, retention, "the state folder lies inside %s", prefix);
        for (size_t j = 0; j < k->c->n_watches; j++) {
            const struct config_watch *other = &k->c->watches[j];
            if (other->path != NULL && within(k, other->path, prefix))
                fault_add(k->r->faults, mark, retention,
                          "the drop folder %s lies inside %s, where old files are deleted",
                          other->path, prefix);
            if (other->rejected != NULL && within(k, other->rejected, prefix))
                fault_add(k->r->faults, mark, retention,
                          "rejected files (%s) lie inside %s, where old files are deleted",
                          other->rejected, prefix);
        }
    }
    free(prefix);
}

static void check_watch(const struct check *k, size_t i)
{
    const struct config_watch *w = &k->c->watches[i];
    const struct node *node = item(k, "watch", i);
    char key[FAULT_PATH_SIZE], below[FAULT_PATH_SIZE];

    fault_path_index(key, "watch", i);
    check_overlap(k, i);
    if (w->path != NULL && strcmp(w->path, "/") == 0) {
        fault_path(below, key, "path");
        fault_add(k->r->faults, node_mark(node, "path"), below, "the root cannot be a drop folder");
    }
    if (w->rejected != NULL) {
        fault_path(below, key, "rejected");
        check_outside_watches(k, w->rejected, node_mark(node, "rejected"), below,
                              "rejected files would be taken in again");
        if (k->c->state != NULL && same(k, w->rejected, k->c->state))
            fault_add(k->r->faults, node_mark(node, "rejected"), below, "is the state folder");
    }
    if (w->move_to != NULL)
        check_move(k, i);
    if (w->retention_ms != 0 && w->after_upload != CONFIG_MOVE &&
        node_get(node_get(node, "after_upload"), "move") == NULL) {
        fault_path(below, key, "retention");
        fault_add(k->r->faults, node_mark(node, "retention"), below,
                  "needs after_upload: {move: FOLDER}; files in the drop folder are not deleted by "
                  "age");
    }
    if (w->settle_timeout_ms != 0 && w->settle_timeout_ms < w->settle_ms) {
        fault_path(below, key, "settle_timeout");
        fault_add(k->r->faults, node_mark(node, "settle_timeout"), below, "is shorter than settle");
    }
}

/* --- routes --- */

static int compare_items(const void *a, const void *b)
{
    return strcmp((*(struct node *const *)a)->text, (*(struct node *const *)b)->text);
}

/* Whether the conditions are the same ones, in whatever order. */
static bool same_conditions(const struct node *a, const struct node *b)
{
    size_t n_a = a != NULL ? a->n : 0, n_b = b != NULL ? b->n : 0;

    if (n_a != n_b)
        return false;
    for (size_t i = 0; i < n_a; i++) {
        const struct node *x = a->items[i], *y = node_get(b, a->keys[i]->text);

        if (y == NULL)
            return false;
        if (x->type == NODE_MAP || y->type == NODE_MAP) {
            if (x->type != y->type || !same_conditions(x, y))
                return false;
            continue;
        }
        size_t n_x = x->type == NODE_LIST ? x->n : 1, n_y = y->type == NODE_LIST ? y->n : 1;
        if (n_x != n_y)
            return false;
        for (size_t v = 0; v < n_x; v++) {
            const struct node *one = x->type == NODE_LIST ? x->items[v] : x;
            bool found = false;
            for (size_t u = 0; u < n_y && !found; u++) {
                const struct node *two = y->type == NODE_LIST ? y->items[u] : y;
                found = compare_items(&one, &two) == 0;
            }
            if (!found)
                return false;
        }
    }
    return true;
}

static void check_routes(const struct check *k)
{
    char key[FAULT_PATH_SIZE], below[FAULT_PATH_SIZE];

    for (size_t i = 0; i < k->c->n_routes; i++) {
        const struct config_route *route = &k->c->routes[i];
        const struct node *node = item(k, "routes", i);

        fault_path_index(key, "routes", i);
        for (size_t j = 0; j < i; j++) {
            const struct config_route *other = &k->c->routes[j];
            if (route->name != NULL && other->name != NULL &&
                strcmp(route->name, other->name) == 0) {
                fault_path(below, key, "name");
                fault_add(k->r->faults, node_mark(node, "name"), below,
                          "routes[%zu] in line %u has this name too", j, other->mark.line);
                break;
            }
        }
        for (size_t j = 0; j < i; j++) {
            const struct config_route *other = &k->c->routes[j];
            const struct node *match = node_get(item(k, "routes", j), "match");
            if (other->all || item(k, "routes", j)->type != NODE_MAP || node->type != NODE_MAP)
                continue;
            if (match == NULL || (match->type == NODE_MAP && match->n == 0)) {
                fault_add(k->r->faults, route->mark, key,
                          "never reached: routes[%zu] in line %u takes every file; put it last, or "
                          "give it all: true",
                          j, other->mark.line);
                break;
            }
            if (match->type == NODE_MAP && same_conditions(match, node_get(node, "match"))) {
                fault_add(k->r->faults, node_mark(node, "match"), key,
                          "never reached: routes[%zu] in line %u has the same match; give that one "
                          "all: true, or several destinations in 'to'",
                          j, other->mark.line);
                break;
            }
        }
    }
}

/* --- the file system --- */

/* Whether there is an answer to go by; a fault, unless what is silent now may be `awaited`. */
static bool answers(const struct check *k, const char *path, struct config_mark mark,
                    const char *key, bool awaited)
{
    if (seen(k, path) != NULL)
        return true;
    if (!awaited || k->r->paths != CONFIG_PATHS_START)
        fault_add(k->r->faults, mark, key,
                  "%s does not answer within %d s: look for a mount whose server is gone", path,
                  LOOK_DEADLINE_MS / 1000);
    return false;
}

/* A folder that is made when needed: it, or the nearest that exists above it, must be one to write
 * in. */
static void check_creatable(const struct check *k, const char *path, struct config_mark mark,
                            const char *key, bool awaited)
{
    if (!answers(k, path, mark, key, awaited))
        return;
    const struct look_answer *a = seen(k, path);
    int length = (int)a->length;
    if (a->length_error != 0)
        fault_add(k->r->faults, mark, key, "%.*s cannot be reached: %s", length, path,
                  strerror(a->length_error));
    else if (!a->length_folder)
        fault_add(k->r->faults, mark, key, "%.*s is not a folder", length, path);
    else if (a->write_error != 0)
        fault_add(k->r->faults, mark, key, "cannot write in %.*s: %s", length, path,
                  strerror(a->write_error));
}

static void check_state(const struct check *k)
{
    struct config_mark mark = node_mark(k->root, "state");
    const struct look_answer *a = seen(k, k->c->state);

    check_creatable(k, k->c->state, mark, "state", false);
    if (a != NULL && a->network)
        fault_add(k->r->faults, mark, "state",
                  "lies on a network file system, where a journal is not safe: use a local disk");
}

static void check_drop_folder(const struct check *k, size_t i)
{
    const char *path = k->c->watches[i].path;
    struct config_mark mark = node_mark(item(k, "watch", i), "path");
    char key[FAULT_PATH_SIZE];

    fault_path_index(key, "watch", i);
    fault_path(key, key, "path");
    if (!answers(k, path, mark, key, true)) {
        k->c->watches[i].silent = true;
        return;
    }
    const struct look_answer *a = seen(k, path);
    if (a->error != 0)
        fault_add(k->r->faults, mark, key, "%s cannot be reached: %s", path, strerror(a->error));
    else if (!a->folder)
        fault_add(k->r->faults, mark, key, "%s is not a folder", path);
    else if (a->enter_error != 0)
        fault_add(k->r->faults, mark, key, "%s cannot be read: %s", path, strerror(a->enter_error));
}

static void check_readable(const struct check *k, const struct node *map, const char *parent,
                           const char *name, const char *path)
{
    char key[FAULT_PATH_SIZE];

    if (path == NULL)
        return;
    fault_path(key, parent, name);
    if (!answers(k, path, node_mark(map, name), key, false))
        return;
    const struct look_answer *a = seen(k, path);
    int error = a->error != 0 ? a->error : a->folder ? EISDIR : a->open_error;
    if (error != 0)
        fault_add(k->r->faults, node_mark(map, name), key, "%s cannot be read: %s", path,
                  error == EISDIR ? "not a regular file" : strerror(error));
}

static void check_secret(const struct check *k, const struct node *map, const char *parent,
                         const char *name, const struct secret *secret)
{
    char key[FAULT_PATH_SIZE], *value = NULL;
    struct err e = {0};

    if (secret->source == SECRET_NONE)
        return;
    fault_path(key, parent, name);
    if (secret->source == SECRET_FILE &&
        !answers(k, secret->reference, node_mark(map, name), key, false))
        return;
    int status = secret_read(secret, &value, &e);
    if (status == ERR_NOMEM)
        k->r->faults->nomem = true;
    else if (status != 0)
        fault_add(k->r->faults, node_mark(map, name), key, "%s", e.text);
    secret_wipe(value);
}

static void check_file_system(const struct check *k)
{
    const struct config *c = k->c;
    char key[FAULT_PATH_SIZE];

    if (c->state != NULL)
        check_state(k);
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        const struct node *node = item(k, "watch", i);

        if (w->path != NULL)
            check_drop_folder(k, i);
        fault_path_index(key, "watch", i);
        if (w->rejected != NULL) {
            char below[FAULT_PATH_SIZE];
            fault_path(below, key, "rejected");
            check_creatable(k, w->rejected, node_mark(node, "rejected"), below, true);
        }
        if (w->move_to != NULL) {
            char below[FAULT_PATH_SIZE], *prefix = move_folder(w);
            fault_path(below, key, "after_upload.move");
            if (prefix != NULL)
                check_creatable(k, prefix, node_mark(node_get(node, "after_upload"), "move"), below,
                                true);
            else
                k->r->faults->nomem = true;
            free(prefix);
        }
    }
    for (size_t i = 0; i < c->n_destinations; i++) {
        const struct config_destination *d = &c->destinations[i];
        const struct node *node = item(k, "destinations", i);

        fault_path(key, "destinations", d->name != NULL ? d->name : "");
        check_readable(k, node, key, "ca_file", d->ca_file);
        check_readable(k, node, key, "client_cert", d->client_cert);
        check_readable(k, node, key, "client_key", d->client_key);
        check_secret(k, node, key, "account_key", &d->postdicom.account_key);
        check_secret(k, node, key, "api_key", &d->postdicom.api_key);
        check_secret(k, node, key, "proxy_password", &d->proxy_password);
    }
}

static bool add_secret(struct looks *l, const struct secret *secret)
{
    return secret->source != SECRET_FILE || looks_add(l, secret->reference);
}

/* At every path that a check asks about. */
static bool look(struct check *k)
{
    const struct config *c = k->c;
    bool ok;

    k->looks = looks_new();
    ok = k->looks != NULL && looks_add(k->looks, c->state);
    for (size_t i = 0; ok && i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        char *prefix = w->move_to != NULL ? move_folder(w) : NULL;
        ok = (w->move_to == NULL || prefix != NULL) && looks_add(k->looks, w->path) &&
             looks_add(k->looks, w->rejected) && looks_add(k->looks, prefix);
        free(prefix);
    }
    for (size_t i = 0; ok && i < c->n_destinations; i++) {
        const struct config_destination *d = &c->destinations[i];
        ok =
            looks_add(k->looks, d->ca_file) && looks_add(k->looks, d->client_cert) &&
            looks_add(k->looks, d->client_key) && add_secret(k->looks, &d->postdicom.account_key) &&
            add_secret(k->looks, &d->postdicom.api_key) && add_secret(k->looks, &d->proxy_password);
    }
    return ok && looks_run(k->looks, k->r->paths == CONFIG_PATHS_START);
}

void check_config(struct reading *r, const struct node *root)
{
    struct check k = {.r = r, .c = r->config, .root = root};
    const struct config *c = r->config;

    if (r->paths != CONFIG_PATHS_UNSEEN && !look(&k)) {
        r->faults->nomem = true;
        looks_free(k.looks);
        return;
    }
    if (c->state != NULL)
        check_outside_watches(&k, c->state, node_mark(root, "state"), "state",
                              "the journal's own files would be taken for images");
    if (c->state != NULL && strcmp(c->state, "/") == 0)
        fault_add(r->faults, node_mark(root, "state"), "state", "the root cannot be it");
    if (c->control_socket != NULL &&
        strlen(c->control_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        fault_add(r->faults, node_mark(root, node_get(root, "control") ? "control" : "state"),
                  "control", "the socket's path is longer than %zu bytes, the system's limit: %s",
                  sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
                  node_get(root, "control") ? "choose a shorter one"
                                            : "set control: to a shorter one, such as "
                                              "/run/dcmferry/control.sock");
    for (size_t i = 0; i < c->n_watches; i++)
        check_watch(&k, i);
    check_routes(&k);
    if (r->paths != CONFIG_PATHS_UNSEEN)
        check_file_system(&k);
    looks_free(k.looks);
}
