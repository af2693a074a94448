#include "config/read.h"

#include <stdlib.h>
#include <string.h>

#define W(field) offsetof(struct config_watch, field)
#define SECOND   1000
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24LL * HOUR)

/* What is not yet a file, what systems leave behind, and what comes along on patient CDs. */
#define DEFAULT_EXCLUDE                                                                            \
    "*.tmp, *.temp, *.part, *.partial, *.filepart, *.crdownload, *.download, *.swp, *~, ~$*, "     \
    "Thumbs.db, desktop.ini, DICOMDIR, autorun.inf, *.exe, *.dll, *.ocx, *.sys, *.msi, *.jar, "    \
    "*.bat, *.cmd, *.com, *.app, **/*.app/**, *.lnk, *.htm, *.html, *.css, *.js, *.ico, *.chm, "   \
    "lost+found/**, **/$RECYCLE.BIN/**, **/System Volume Information/**, **/@eaDir/**, "           \
    "**/#recycle/**, **/__MACOSX/**"

static void read_after_upload(struct reading *r, const struct node *node, const char *path,
                              void *target);

static const char *const MODES[] = {"auto", "inotify", "poll", NULL};
static const char *const CUSTODIES[] = {"none", "rename", NULL};

static const struct table_key KEYS[] = {
    {.name = "path",
     .type = TABLE_PATH,
     .offset = W(path),
     .required = true,
     .expected = "folder",
     .help = "the drop folder"},
    {.name = "mode",
     .type = TABLE_CHOICE,
     .offset = W(mode),
     .fallback = "auto",
     .choices = MODES,
     .help = "how it is watched"},
    {.name = "recursive",
     .type = TABLE_BOOL,
     .offset = W(recursive),
     .fallback = "true",
     .help = "folders in it too"},
    {.name = "follow_symlinks",
     .type = TABLE_BOOL,
     .offset = W(follow_symlinks),
     .fallback = "false",
     .help = "symbolic links to targets inside the drop folder"},
    {.name = "settle",
     .type = TABLE_DURATION,
     .offset = W(settle_ms),
     .fallback = "2s",
     .max = HOUR,
     .help = "how long a file must stand still before it counts as complete"},
    {.name = "settle_timeout",
     .type = TABLE_DURATION,
     .offset = W(settle_timeout_ms),
     .fallback = "5m",
     .min = SECOND,
     .max = 30 * DAY,
     .help = "how long a file that is cut short may still grow before it is rejected"},
    {.name = "poll_interval",
     .type = TABLE_DURATION,
     .offset = W(poll_ms),
     .fallback = "10s",
     .min = 100,
     .max = DAY,
     .help = "time between two looks in poll mode"},
    {.name = "rescan",
     .type = TABLE_DURATION,
     .offset = W(rescan_ms),
     .fallback = "15m",
     .min = SECOND,
     .max = 30 * DAY,
     .zero = "off",
     .help = "time between two whole scans, the safety net"},
    {.name = "include",
     .type = TABLE_TEXTS,
     .offset = W(include),
     .offset_n = W(n_include),
     .expected = "glob or list",
     .help = "only these files"},
    {.name = "exclude",
     .type = TABLE_TEXTS,
     .offset = W(exclude),
     .offset_n = W(n_exclude),
     .fallback = DEFAULT_EXCLUDE,
     .zero = "[]",
     .expected = "glob or list",
     .help = "not these files"},
    {.name = "custody",
     .type = TABLE_CHOICE,
     .offset = W(custody),
     .fallback = "none",
     .choices = CUSTODIES,
     .help = "whether a file is renamed out of sight when it is taken in"},
    {.name = "after_upload",
     .type = TABLE_CUSTOM,
     .read = read_after_upload,
     .fallback = "keep",
     .expected = "keep, delete or {move: TEMPLATE}",
     .help = "what becomes of a delivered file"},
    {.name = "retention",
     .type = TABLE_DURATION,
     .offset = W(retention_ms),
     .fallback = "forever",
     .min = HOUR,
     .max = 36500 * DAY,
     .zero = "forever",
     .help = "how long files stay in the folder moved to"},
    {.name = "rejected",
     .type = TABLE_PATH,
     .offset = W(rejected),
     .expected = "folder",
     .help = "where rejected files are moved"},
    {.name = "prune_empty",
     .type = TABLE_BOOL,
     .offset = W(prune_empty),
     .fallback = "false",
     .help = "whether emptied sub-folders are removed"},
};

const struct table_section READ_WATCH = {"watch[]", KEYS, sizeof(KEYS) / sizeof(KEYS[0]), NULL};

/* The target is the whole struct config_watch. */
static void read_after_upload(struct reading *r, const struct node *node, const char *path,
                              void *target)
{
    struct config_watch *w = target;
    char quote[FAULT_QUOTE_SIZE], below[FAULT_PATH_SIZE], *prefix;
    const struct node *move;

    w->after_upload = CONFIG_KEEP;
    if (node == NULL)
        return;
    if (node->type == NODE_SCALAR && strcmp(node->text, "keep") == 0)
        return;
    if (node->type == NODE_SCALAR && strcmp(node->text, "delete") == 0) {
        w->after_upload = CONFIG_DELETE;
        return;
    }
    move = node_get(node, "move");
    if (move == NULL || node->n != 1) {
        fault_add(r->faults, node->mark, path,
                  "expected keep, delete or {move: FOLDER}, found %s%s", node_describe(node, quote),
                  node->type == NODE_SCALAR && strcmp(node->text, "move") == 0
                      ? "; say where to: {move: /srv/dicom/sent/{StudyDate}}"
                      : "");
        return;
    }
    fault_path(below, path, "move");
    const char *text = table_text(r, move, below, "a folder template");
    if (text == NULL)
        return;
    if (text[0] != '/') {
        fault_add(r->faults, move->mark, below,
                  "expected an absolute path (it begins with /), found %s",
                  fault_quote(quote, text));
        return;
    }
    w->move_to = read_template(r, move, below, text, 0);
    if (w->move_to == NULL)
        return;
    w->after_upload = CONFIG_MOVE;
    prefix = template_literal_prefix(w->move_to);
    if (prefix == NULL)
        r->faults->nomem = true;
    else if (prefix[strspn(prefix, "/")] == '\0')
        fault_add(r->faults, move->mark, below,
                  "must begin with the name of a folder, such as /srv/dicom/sent/…");
    free(prefix);
}

void read_watches(struct reading *r, const struct node *node, const char *path, void *target)
{
    struct config *c = target;
    char below[FAULT_PATH_SIZE], quote[FAULT_QUOTE_SIZE];

    if (node->type != NODE_LIST || node->n == 0) {
        fault_add(r->faults, node->mark, path,
                  "expected a list of drop folders (- path: …), found %s",
                  node->type == NODE_LIST ? "an empty list" : node_describe(node, quote));
        return;
    }
    c->watches = calloc(node->n, sizeof(*c->watches));
    if (c->watches == NULL) {
        r->faults->nomem = true;
        return;
    }
    c->n_watches = node->n;
    for (size_t i = 0; i < node->n; i++) {
        fault_path_index(below, path, i);
        c->watches[i].mark = node->items[i]->mark;
        table_read(r, &READ_WATCH, node->items[i], below, &c->watches[i]);
    }
}

void read_free_watch(struct config_watch *w)
{
    free(w->path);
    table_texts_free(w->include, w->n_include);
    table_texts_free(w->exclude, w->n_exclude);
    template_free(w->move_to);
    free(w->rejected);
}
