#include "config/config.h"

#include "base/fsutil.h"
#include "config/read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define C(field) offsetof(struct config, field)
#define SECOND   1000
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24LL * HOUR)

#define MAX_WORKERS 8

static void read_log_format(struct reading *r, const struct node *node, const char *path,
                            void *target);
static void read_workers(struct reading *r, const struct node *node, const char *path,
                         void *target);

static const char *const LEVELS[] = {"error", "warning", "notice", "info", "debug", NULL};
static const char *const FORMATS[] = {"human", "json", "journald", "auto", NULL};
static const char *const OTHER_KEYS[] = {"deid", "profiles", NULL};

static const struct table_key LOG_KEYS[] = {
    {.name = "level",
     .type = TABLE_CHOICE,
     .offset = C(log_level),
     .fallback = "info",
     .choices = LEVELS,
     .help = "the least important events that are written"},
    {.name = "format",
     .type = TABLE_CUSTOM,
     .read = read_log_format,
     .fallback = "auto",
     .choices = FORMATS,
     .expected = "word",
     .help = "how the log is written"},
    {.name = "paths",
     .type = TABLE_BOOL,
     .offset = C(log_paths),
     .fallback = "false",
     .help = "whether paths of files get into the log"},
};

static const struct table_section LOG = {"log", LOG_KEYS, sizeof(LOG_KEYS) / sizeof(LOG_KEYS[0]),
                                         NULL};

static const struct table_key KEYS[] = {
    {.name = "state",
     .type = TABLE_PATH,
     .offset = C(state),
     .required = true,
     .expected = "folder",
     .help = "the folder of the journal"},
    {.name = "control",
     .type = TABLE_PATH,
     .offset = C(control_socket),
     .expected = "path",
     .help = "the control socket; control.sock in the state folder without it"},
    {.name = "log", .type = TABLE_TABLE, .table = &LOG, .help = "what is logged, and how"},
    {.name = "workers",
     .type = TABLE_CUSTOM,
     .read = read_workers,
     .offset = C(workers),
     .min = 1,
     .max = 64,
     .expected = "number",
     .help = "processes that read DICOM; as many as processors, at most 8, without it"},
    {.name = "history",
     .type = TABLE_DURATION,
     .offset = C(history_ms),
     .fallback = "90d",
     .min = MINUTE,
     .max = 36500 * DAY,
     .help = "how long delivered files are remembered after they left the drop folder"},
    {.name = "shutdown_timeout",
     .type = TABLE_DURATION,
     .offset = C(shutdown_timeout_ms),
     .fallback = "30s",
     .min = SECOND,
     .max = HOUR,
     .help = "how long a stop waits for what is in flight"},
    {.name = "journal_backup",
     .type = TABLE_DURATION,
     .offset = C(backup_ms),
     .fallback = "1h",
     .min = MINUTE,
     .max = 30 * DAY,
     .zero = "off",
     .help = "time between backups of the journal"},
    {.name = "watch",
     .type = TABLE_CUSTOM,
     .read = read_watches,
     .required = true,
     .expected = "list",
     .help = "the drop folders"},
    {.name = "destinations",
     .type = TABLE_CUSTOM,
     .read = read_destinations,
     .required = true,
     .expected = "mapping",
     .help = "where files are sent, by name"},
    {.name = "routes",
     .type = TABLE_CUSTOM,
     .read = read_routes,
     .required = true,
     .expected = "list",
     .help = "which files go where"},
};

static const struct table_section TOP = {"", KEYS, sizeof(KEYS) / sizeof(KEYS[0]), OTHER_KEYS};

const struct table_section *const READ_SECTIONS[] = {
    &TOP, &LOG, &READ_WATCH, &READ_DESTINATION, &READ_RETRY, &READ_ROUTE, NULL,
};

/* The target is the whole configuration: `auto` is a flag of its own. */
static void read_log_format(struct reading *r, const struct node *node, const char *path,
                            void *target)
{
    struct config *c = target;
    char quote[FAULT_QUOTE_SIZE];

    c->log_format_auto = node == NULL;
    c->log_format = LOG_FORMAT_HUMAN;
    if (node == NULL)
        return;
    for (size_t i = 0; FORMATS[i] != NULL && node->type == NODE_SCALAR; i++) {
        if (strcmp(node->text, FORMATS[i]) == 0) {
            c->log_format_auto = strcmp(FORMATS[i], "auto") == 0;
            if (!c->log_format_auto)
                c->log_format = (enum log_format)i;
            return;
        }
    }
    fault_add(r->faults, node->mark, path, "expected one of auto, human, json, journald, found %s",
              node_describe(node, quote));
}

static void read_workers(struct reading *r, const struct node *node, const char *path, void *target)
{
    unsigned *workers = target;
    char quote[FAULT_QUOTE_SIZE];
    char *end = NULL;
    long value;

    if (node == NULL) {
        value = sysconf(_SC_NPROCESSORS_ONLN);
        *workers = value < 1 ? 1 : value > MAX_WORKERS ? MAX_WORKERS : (unsigned)value;
        return;
    }
    errno = 0;
    value =
        node->type == NODE_SCALAR && node->style == NODE_PLAIN ? strtol(node->text, &end, 10) : 0;
    if (end == NULL || *end != '\0' || errno != 0 || value < 1 || value > 64)
        fault_add(r->faults, node->mark, path, "expected a whole number from 1 to 64, found %s",
                  node_describe(node, quote));
    else
        *workers = (unsigned)value;
}

struct tags {
    uint32_t *items;
    size_t n;
    bool nomem;
};

static void add_tag(uint32_t tag, void *ctx)
{
    struct tags *t = ctx;

    for (size_t i = 0; i < t->n; i++) {
        if (t->items[i] == tag)
            return;
    }
    uint32_t *items = realloc(t->items, (t->n + 1) * sizeof(*items));
    if (items == NULL) {
        t->nomem = true;
        return;
    }
    t->items = items;
    items[t->n++] = tag;
}

static void collect_tags(struct reading *r, const struct node *root)
{
    struct config *c = r->config;
    struct tags t = {0};

    for (size_t i = 0; i < c->n_routes; i++) {
        if (c->routes[i].match != NULL)
            match_each_tag(c->routes[i].match, add_tag, &t);
        if (c->routes[i].folder != NULL)
            template_each_tag(c->routes[i].folder, add_tag, &t);
    }
    for (size_t i = 0; i < c->n_watches; i++) {
        if (c->watches[i].move_to != NULL)
            template_each_tag(c->watches[i].move_to, add_tag, &t);
    }
    c->tags = t.items;
    c->n_tags = t.n;
    r->faults->nomem = r->faults->nomem || t.nomem;
    if (t.n > CONFIG_MAX_TAGS)
        fault_add(r->faults, node_mark(root, "routes"), "routes",
                  "%zu different attributes are used, %d are possible", t.n, CONFIG_MAX_TAGS);
}

int config_tag_index(const struct config *c, uint32_t tag)
{
    for (size_t i = 0; i < c->n_tags; i++) {
        if (c->tags[i] == tag)
            return (int)i;
    }
    return -1;
}

static void read_root(struct reading *r, const struct node *root)
{
    struct config *c = r->config;

    table_read(r, &TOP, root, "", c);
    if (root->type != NODE_MAP)
        return;
    if (c->control_socket == NULL && c->state != NULL && node_get(root, "control") == NULL &&
        asprintf(&c->control_socket, "%s/control.sock", c->state) < 0) {
        c->control_socket = NULL;
        r->faults->nomem = true;
    }
    collect_tags(r, root);
    if (!r->faults->nomem) /* what was read is all there */
        check_config(r, root);
}

static int parse(const char *name, const char *text, size_t size, enum config_paths paths,
                 bool exposed, struct config **ret_config, struct config_faults *ret_faults,
                 char **ret_socket)
{
    struct fault_list faults = {0};
    struct reading r = {.faults = &faults, .paths = paths, .exposed = exposed};
    struct node *root;
    bool nomem;

    *ret_config = NULL;
    *ret_faults = (struct config_faults){0};
    r.config = calloc(1, sizeof(*r.config));
    if (r.config == NULL)
        return ERR_NOMEM;
    r.config->path = table_strdup(&r, name);
    root = node_parse(text, size, &faults);
    if (root != NULL)
        read_root(&r, root);
    node_free(root);
    nomem = faults.nomem;
    fault_finish(&faults, ret_faults);
    if (!nomem && ret_faults->n == 0) {
        *ret_config = r.config;
        return 0;
    }
    if (ret_socket != NULL) {
        *ret_socket = r.config->control_socket;
        r.config->control_socket = NULL;
    }
    config_free(r.config);
    return nomem ? ERR_NOMEM : ERR_CONFIG;
}

int config_parse(const char *name, const char *text, size_t size, enum config_paths paths,
                 struct config **ret_config, struct config_faults *ret_faults)
{
    return parse(name, text, size, paths, false, ret_config, ret_faults, NULL);
}

/* *ret_socket, if asked for, is set when there are faults, and to NULL if it is not known then. */
static int load(const char *path, enum config_paths paths, struct config **ret_config,
                struct config_faults *ret_faults, char **ret_socket)
{
    struct stat st = {0};
    char *text = NULL;
    size_t size = 0;
    struct err e = {0};
    int status = fsutil_read_file(path, NODE_MAX_SIZE + 4, &text, &size, &e);

    *ret_config = NULL;
    *ret_faults = (struct config_faults){0};
    if (status == 0 && stat(path, &st) != 0)
        status = err_set_errno(&e, errno, "cannot look at the file");
    if (status != 0) {
        struct fault_list faults = {0};

        free(text);
        fault_add(&faults, (struct config_mark){0}, "", "%s", e.text);
        fault_finish(&faults, ret_faults);
        return status == ERR_NOMEM ? ERR_NOMEM : ERR_CONFIG;
    }
    status = parse(path, text, size, paths, (st.st_mode & (S_IRGRP | S_IROTH)) != 0, ret_config,
                   ret_faults, ret_socket);
    explicit_bzero(text, size); /* it may hold keys */
    free(text);
    return status;
}

int config_load(const char *path, enum config_paths paths, struct config **ret_config,
                struct config_faults *ret_faults)
{
    return load(path, paths, ret_config, ret_faults, NULL);
}

char *config_control_socket(const char *path)
{
    struct config *c;
    struct config_faults faults;
    char *found = NULL;

    if (load(path, CONFIG_PATHS_UNSEEN, &c, &faults, &found) == 0) {
        found = c->control_socket;
        c->control_socket = NULL;
    }
    config_free(c);
    config_faults_free(&faults);
    return found;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->n_watches; i++)
        read_free_watch(&c->watches[i]);
    for (size_t i = 0; i < c->n_destinations; i++)
        read_free_destination(&c->destinations[i]);
    for (size_t i = 0; i < c->n_routes; i++)
        read_free_route(&c->routes[i]);
    free(c->watches);
    free(c->destinations);
    free(c->routes);
    free(c->tags);
    free(c->control_socket);
    free(c->state);
    free(c->path);
    free(c);
}

void config_faults_free(struct config_faults *f)
{
    for (size_t i = 0; i < f->n; i++)
        free(f->items[i].text);
    free(f->items);
    *f = (struct config_faults){0};
}
