#include "config/read.h"

#include "base/text.h"
#include "dicom/dict/dicom_dict.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define R(field) offsetof(struct config_route, field)

static void read_match(struct reading *r, const struct node *node, const char *path, void *target);
static void read_to(struct reading *r, const struct node *node, const char *path, void *target);
static void read_folder(struct reading *r, const struct node *node, const char *path, void *target);
static void read_name(struct reading *r, const struct node *node, const char *path, void *target);

static const char *const SCOPES[] = {"study", "series", "instance", NULL};
static const char *const OTHER_KEYS[] = {"deid", NULL};

static const struct table_key KEYS[] = {
    {.name = "name",
     .type = TABLE_CUSTOM,
     .offset = R(name),
     .read = read_name,
     .required = true,
     .expected = "name",
     .help = "the route's name"},
    {.name = "match",
     .type = TABLE_CUSTOM,
     .offset = R(match),
     .read = read_match,
     .expected = "conditions",
     .help = "which files it takes; all without it"},
    {.name = "to",
     .type = TABLE_CUSTOM,
     .read = read_to,
     .expected = "destination or list",
     .help = "the destinations, each of which gets the file"},
    {.name = "folder",
     .type = TABLE_CUSTOM,
     .offset = R(folder),
     .read = read_folder,
     .expected = "template",
     .help = "the folder at the destination"},
    {.name = "reject",
     .type = TABLE_TEXT,
     .offset = R(reject),
     .expected = "reason",
     .help = "reject the files for this reason instead of sending them"},
    {.name = "all",
     .type = TABLE_BOOL,
     .offset = R(all),
     .fallback = "false",
     .help = "whether the next routes may take the file too"},
    {.name = "scope",
     .type = TABLE_CHOICE,
     .offset = R(scope),
     .fallback = "study",
     .choices = SCOPES,
     .help = "what the first instance taken binds to this route"},
    {.name = "priority",
     .type = TABLE_INT,
     .offset = R(priority),
     .fallback = "0",
     .min = -100,
     .max = 100,
     .help = "higher goes first"},
};

const struct table_section READ_ROUTE = {"routes[]", KEYS, sizeof(KEYS) / sizeof(KEYS[0]),
                                         OTHER_KEYS};

struct template *read_template(struct reading *r, const struct node *node, const char *path,
                               const char *text, size_t skipped)
{
    struct template *t = NULL;
    struct err e = {0};
    size_t offset = 0;
    int status = template_parse(&t, text, &offset, &e);

    if (status == ERR_NOMEM)
        r->faults->nomem = true;
    else if (status != 0)
        fault_add(r->faults, node_mark_within(node, skipped + offset), path, "%s", e.text);
    return t;
}

static void read_name(struct reading *r, const struct node *node, const char *path, void *target)
{
    const char *text;
    char quote[FAULT_QUOTE_SIZE];

    if (node == NULL)
        return;
    text = table_text(r, node, path, "a name");
    if (text == NULL)
        return;
    if (!read_is_name(text))
        fault_add(r->faults, node->mark, path,
                  "a name has letters, digits, '.', '_' and '-' only, 64 at most; found %s",
                  fault_quote(quote, text));
    else
        *(char **)target = table_strdup(r, text);
}

static void read_folder(struct reading *r, const struct node *node, const char *path, void *target)
{
    const char *text = node != NULL ? table_text(r, node, path, "a folder template") : NULL;
    size_t skipped;

    if (text == NULL)
        return;
    skipped = strspn(text, "/"); /* folders of a destination have no root to name */
    if (text[skipped] == '\0')
        skipped = 0;
    *(struct template **)target = read_template(r, node, path, text + skipped, skipped);
}

static bool read_tag(struct reading *r, const struct node *key, const char *path, uint32_t *ret)
{
    const char *closest, *vr;

    if (!dicom_dict_tag(key->text, ret)) {
        closest = strcasecmp(key->text, "path") == 0  ? "path"
                  : strcasecmp(key->text, "not") == 0 ? "not"
                                                      : dicom_dict_closest(key->text);
        if (strlen(key->text) == 4 && strspn(key->text, "0123456789abcdefABCDEF") == 4)
            fault_add(r->faults, key->mark, path,
                      "no such attribute; within braces a tag needs quotes: '0008,0060'");
        else if (closest != NULL)
            fault_add(r->faults, key->mark, path, "no such attribute; did you mean '%s'?", closest);
        else
            fault_add(r->faults, key->mark, path,
                      "no such attribute; expected a keyword such as Modality, a tag as gggg,eeee, "
                      "path or not");
        return false;
    }
    vr = dicom_dict_vr(*ret);
    if (strcmp(vr, "SQ") == 0 || (vr[0] == 'O' && strchr("BWFDLV", vr[1]) != NULL)) {
        fault_add(r->faults, key->mark, path, "has no text: its value representation is %s", vr);
        return false;
    }
    return true;
}

static void read_condition(struct reading *r, const struct node *key, const struct node *node,
                           const char *path, bool negate, struct match *m)
{
    bool is_path = strcmp(key->text, "path") == 0, good = true;
    uint32_t tag = 0;
    char **values = NULL;
    size_t n = 0, offset;
    struct err e = {0};
    int status;

    if (!is_path && !read_tag(r, key, path, &tag))
        return;
    if (!table_texts(r, node, path,
                     is_path ? "a glob, /regex/ or a list of them"
                             : "a value, /regex/ or a list of them (\"\" for an empty value)",
                     !is_path, &values, &n))
        return;
    for (size_t i = 0; i < n; i++) {
        const struct node *item = node->type == NODE_LIST ? node->items[i] : node;
        status = match_check_value(values[i], &offset, &e);
        if (status == ERR_NOMEM)
            r->faults->nomem = true;
        else if (status != 0)
            fault_add(r->faults, node_mark_within(item, offset), path, "%s", e.text);
        good = good && status == 0;
    }
    if (good) {
        const char *const *list = (const char *const *)(void *)values;
        status = is_path ? match_add_path(m, list, n, negate, &e)
                         : match_add_attribute(m, tag, list, n, negate, &e);
        if (status == ERR_NOMEM)
            r->faults->nomem = true;
        else if (status != 0)
            fault_add(r->faults, node->mark, path, "%s", e.text);
    }
    table_texts_free(values, n);
}

static void read_conditions(struct reading *r, const struct node *node, const char *path,
                            bool negate, struct match *m)
{
    char below[FAULT_PATH_SIZE], quote[FAULT_QUOTE_SIZE];

    if (node->type != NODE_MAP) {
        fault_add(r->faults, node->mark, path,
                  "expected conditions ({Modality: CT, path: trials/**}), found %s",
                  node_describe(node, quote));
        return;
    }
    for (size_t i = 0; i < node->n; i++) {
        fault_path(below, path, node->keys[i]->text);
        if (strcmp(node->keys[i]->text, "not") != 0)
            read_condition(r, node->keys[i], node->items[i], below, negate, m);
        else if (negate)
            fault_add(r->faults, node->keys[i]->mark, below, "'not' within 'not'");
        else
            read_conditions(r, node->items[i], below, true, m);
    }
}

static void read_match(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct match *m = match_new();

    if (m == NULL) {
        r->faults->nomem = true;
        return;
    }
    *(struct match **)target = m;
    if (node != NULL)
        read_conditions(r, node, path, false, m);
}

/* The target is the whole route. */
static void read_to(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct config_route *route = target;
    char **names = NULL;
    const char *known[32];
    size_t n = 0, n_known = 0;
    char quote[FAULT_QUOTE_SIZE];

    if (node == NULL ||
        !table_texts(r, node, path, "a destination's name or a list of them", false, &names, &n))
        return;
    route->to = calloc(n, sizeof(*route->to));
    if (route->to == NULL) {
        r->faults->nomem = true;
        table_texts_free(names, n);
        return;
    }
    for (size_t k = 0; k < r->config->n_destinations && n_known < 32; k++) {
        if (r->config->destinations[k].name != NULL)
            known[n_known++] = r->config->destinations[k].name;
    }
    for (size_t i = 0; i < n; i++) {
        struct config_mark mark = node->type == NODE_LIST ? node->items[i]->mark : node->mark;
        const char *closest;
        bool twice = false;
        size_t k = 0;

        while (k < r->config->n_destinations &&
               (r->config->destinations[k].name == NULL ||
                strcmp(r->config->destinations[k].name, names[i]) != 0))
            k++;
        if (k == r->config->n_destinations && k == 0)
            continue; /* what is wrong with the destinations was said there */
        if (k == r->config->n_destinations) {
            closest = text_closest(names[i], known, n_known);
            fault_add(r->faults, mark, path, "no destination is called %s%s%s%s",
                      fault_quote(quote, names[i]), closest != NULL ? "; did you mean '" : "",
                      closest != NULL ? closest : "", closest != NULL ? "'?" : "");
            continue;
        }
        for (size_t j = 0; j < route->n_to; j++)
            twice = twice || route->to[j] == k;
        if (twice)
            fault_add(r->faults, mark, path, "%s is given twice", fault_quote(quote, names[i]));
        else
            route->to[route->n_to++] = k;
    }
    table_texts_free(names, n);
}

static void check_route(struct reading *r, const struct node *node, const char *path)
{
    static const char *const USELESS[] = {"to", "folder", "all"};
    char below[FAULT_PATH_SIZE];

    if (node->type != NODE_MAP)
        return;
    if (node_get(node, "reject") == NULL) {
        if (node_get(node, "to") == NULL)
            fault_add(r->faults, node->mark, path,
                      "needs 'to' (destinations) or 'reject' (a reason)");
        return;
    }
    for (size_t i = 0; i < sizeof(USELESS) / sizeof(USELESS[0]); i++) {
        if (node_get(node, USELESS[i]) == NULL)
            continue;
        fault_path(below, path, USELESS[i]);
        fault_add(r->faults, node_mark(node, USELESS[i]), below,
                  "has no place beside 'reject': what is rejected goes nowhere");
    }
}

void read_routes(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct config *c = target;
    char below[FAULT_PATH_SIZE], quote[FAULT_QUOTE_SIZE];

    if (node->type != NODE_LIST || node->n == 0) {
        fault_add(r->faults, node->mark, path, "expected a list of routes (- name: …), found %s",
                  node->type == NODE_LIST ? "an empty list" : node_describe(node, quote));
        return;
    }
    c->routes = calloc(node->n, sizeof(*c->routes));
    if (c->routes == NULL) {
        r->faults->nomem = true;
        return;
    }
    c->n_routes = node->n;
    for (size_t i = 0; i < node->n; i++) {
        fault_path_index(below, path, i);
        c->routes[i].mark = node->items[i]->mark;
        table_read(r, &READ_ROUTE, node->items[i], below, &c->routes[i]);
        check_route(r, node->items[i], below);
    }
}

void read_free_route(struct config_route *route)
{
    free(route->name);
    match_free(route->match);
    free(route->to);
    template_free(route->folder);
    free(route->reject);
}
