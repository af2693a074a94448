/* An entry a path, in a tree of entries; states: UNKNOWN -> RESOLVING -> KNOWN. Resolving "A/B"
 * waits for "A", lists A's folders by the name B, and creates B where it is not among them; where
 * that is refused (someone was faster) it lists all of A's folders once more. */
#include "postdicom/pd_folder.h"

#include "base/clock.h"
#include "base/uuid.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define MAX_AGE_MS  (10U * 60 * 1000)
#define MAX_ENTRIES 4096
#define MAX_TRIES   3

enum { LIST_FOLDER = 3, CREATE_FOLDER = 2 }; /* management types of type 17 */

enum entry_state { UNKNOWN, RESOLVING, KNOWN };
enum entry_step { FIND, CREATE, FIND_CREATED };

struct entry {
    struct pd_folders *folders;
    char *path;
    const char *name;     /* the last component, in path */
    struct entry *parent; /* NULL: the top */
    enum entry_state state;
    enum entry_step step;
    unsigned tries;
    char uuid[PD_UUID_SIZE];
    uint64_t known_ms;
    unsigned children; /* entries below that exist: it stays */
    struct pd_folder_request *waiters;
    struct pd_folder_request for_parent; /* ours, while the parent is resolved */
    struct pd_call call;
    char *json;
    struct err refusal; /* of CreateFolder */
    UT_hash_handle hh;
};

struct pd_folders {
    struct pd_session *session;
    struct entry *entries;
};

static void look(struct entry *n);

static bool fresh(const struct entry *n)
{
    return n->state == KNOWN && clock_monotonic_ms() - n->known_ms < MAX_AGE_MS;
}

static void finish(struct entry *n, int status, const struct err *e)
{
    struct pd_folder_request *r, *list = n->waiters;
    char uuid[PD_UUID_SIZE];
    n->waiters = NULL;
    n->state = status ? UNKNOWN : KNOWN;
    n->known_ms = clock_monotonic_ms();
    memcpy(uuid, n->uuid, sizeof(uuid));
    while ((r = list) != NULL) {
        DL_DELETE(list, r);
        r->cb(r, status, status ? NULL : uuid, e);
    }
}

/* What was known of the folders above may be what is wrong. */
static void finish_refused(struct entry *n, const struct pd_answer *a, const char *what)
{
    struct err e;
    for (struct entry *p = n->parent; p; p = p->parent)
        if (p->state == KNOWN)
            p->state = UNKNOWN;
    err_set(&e, ERR_REFUSED, "%s: %s", what, a->text[0] ? a->text : "(it gives no reason)");
    finish(n, e.code, &e);
}

static void on_answer(struct pd_call *c, int status, const struct pd_answer *a,
                      const struct err *e);

static void request(struct entry *n, enum entry_step step)
{
    const struct pd_keys *keys = pd_session_keys(n->folders->session);
    const char *user = pd_session_account(n->folders->session)->user_uuid;
    const char *parent = n->parent ? n->parent->uuid : UUID_NIL;
    n->step = step;
    n->json = step == CREATE
                  ? pd_params_create_folder(keys, user, parent, n->name)
                  : pd_params_folder_list(keys, user, parent, step == FIND ? n->name : "", false);
    if (!n->json) {
        struct err e;
        err_set(&e, ERR_NOMEM, "no memory to look up a folder");
        finish(n, e.code, &e);
        return;
    }
    n->call =
        (struct pd_call){.request = {.type = FRAME_GENERAL,
                                     .management = step == CREATE ? CREATE_FOLDER : LIST_FOLDER,
                                     .json = n->json},
                         .cb = on_answer,
                         .ctx = n};
    pd_session_send(n->folders->session, &n->call);
}

/* The folder of exactly this name in the answer of GetFolderList. */
static bool find(struct entry *n, const struct pd_answer *a)
{
    const cJSON *folder = cJSON_GetObjectItemCaseSensitive(a->result, "Folder");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(folder, "SubFolderList"), *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *name = pd_answer_string(item, "FolderName");
        if (name && strcmp(name, n->name) == 0 && pd_answer_id(item, "FolderUuid", n->uuid))
            return true;
    }
    return false;
}

static void on_found(struct entry *n, const struct pd_answer *a)
{
    if (!a->ok)
        finish_refused(n, a, "the server does not list the folder's parent");
    else if (find(n, a))
        finish(n, 0, NULL);
    else if (n->step == FIND)
        request(n, CREATE);
    else
        finish(n, ERR_REFUSED, &n->refusal);
}

static void on_created(struct entry *n, const struct pd_answer *a)
{
    const cJSON *folder = cJSON_GetObjectItemCaseSensitive(a->result, "Folder");
    if (a->ok && (pd_answer_id(folder, "FolderUuid", n->uuid) ||
                  pd_answer_id(a->result, "FolderUuid", n->uuid))) {
        finish(n, 0, NULL);
        return;
    }
    if (a->ok)
        err_set(&n->refusal, ERR_REFUSED, "the server created a folder and does not list it");
    else
        err_set(&n->refusal, ERR_REFUSED, "the server does not create the folder: %s",
                a->text[0] ? a->text : "(it gives no reason)");
    request(n, FIND_CREATED);
}

static void on_answer(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct entry *n = c->ctx;
    free(n->json);
    n->json = NULL;
    if (status == 0 && n->step == CREATE)
        on_created(n, a);
    else if (status == 0)
        on_found(n, a);
    else if (c->carried && err_class(status) == ERR_CLASS_TRANSIENT && status != ERR_SESSION &&
             status != ERR_CANCELED && ++n->tries < MAX_TRIES)
        request(n, FIND); /* a folder whose creation was not answered may be there */
    else
        finish(n, status, e);
}

static void on_parent(struct pd_folder_request *r, int status, const char *uuid,
                      const struct err *e)
{
    struct entry *n = r->ctx;
    (void)uuid;
    if (status)
        finish(n, status, e);
    else
        request(n, FIND);
}

static void look(struct entry *n)
{
    n->state = RESOLVING;
    n->tries = 0;
    if (!n->parent || fresh(n->parent)) {
        request(n, FIND);
        return;
    }
    n->for_parent = (struct pd_folder_request){.cb = on_parent, .ctx = n};
    DL_APPEND(n->parent->waiters, &n->for_parent);
    if (n->parent->state != RESOLVING)
        look(n->parent);
}

static void entry_free(struct pd_folders *f, struct entry *n)
{
    HASH_DEL(f->entries, n);
    if (n->parent)
        n->parent->children--;
    free(n->path);
    free(n);
}

/* Makes room: the oldest that nobody needs. */
static void trim(struct pd_folders *f)
{
    struct entry *n, *next;
    if (HASH_COUNT(f->entries) < MAX_ENTRIES)
        return;
    HASH_ITER(hh, f->entries, n, next)
    {
        if (n->state != RESOLVING && n->children == 0 && !n->waiters) {
            entry_free(f, n);
            return;
        }
    }
}

static struct entry *lookup(struct pd_folders *f, const char *path, size_t size)
{
    struct entry *n;
    HASH_FIND(hh, f->entries, path, size, n);
    return n;
}

/* The entry of the first `size` bytes of a path without empty components, made with those above it.
 */
static struct entry *entry_get(struct pd_folders *f, const char *path, size_t size)
{
    struct entry *n = lookup(f, path, size), *parent = NULL;
    if (n)
        return n;
    const char *slash = memrchr(path, '/', size);
    if (slash && !(parent = entry_get(f, path, (size_t)(slash - path))))
        return NULL;
    if (parent)
        parent->children++; /* it must not be trimmed */
    trim(f);
    n = calloc(1, sizeof(*n));
    if (n && (n->path = strndup(path, size)) != NULL) {
        n->folders = f;
        n->parent = parent;
        n->name = slash ? n->path + (slash - path) + 1 : n->path;
        HASH_ADD_KEYPTR(hh, f->entries, n->path, size, n);
        if (n->hh.tbl)
            return n;
        free(n->path);
    }
    free(n);
    if (parent)
        parent->children--;
    return NULL;
}

/* Without empty components; malloc'ed. */
static char *clean(const char *path)
{
    char *out = malloc(strlen(path) + 1), *end = out;
    if (!out)
        return NULL;
    for (const char *p = path; *p; p++)
        if (*p != '/' || (end > out && end[-1] != '/'))
            *end++ = *p;
    if (end > out && end[-1] == '/')
        end--;
    *end = '\0';
    return out;
}

const char *pd_folders_cached(struct pd_folders *f, const char *path)
{
    struct entry *n = lookup(f, path, strlen(path));
    if (!n) {
        char *cleaned = clean(path);
        n = cleaned ? lookup(f, cleaned, strlen(cleaned)) : NULL;
        free(cleaned);
    }
    return n && fresh(n) ? n->uuid : NULL;
}

void pd_folders_resolve(struct pd_folders *f, const char *path, struct pd_folder_request *r)
{
    char *cleaned = clean(path);
    struct entry *n = cleaned && *cleaned ? entry_get(f, cleaned, strlen(cleaned)) : NULL;
    if (!n) {
        struct err e;
        err_set(&e, cleaned && !*cleaned ? ERR_INVALID : ERR_NOMEM,
                cleaned && !*cleaned ? "the folder has no name" : "no memory to look up a folder");
        free(cleaned);
        r->cb(r, e.code, NULL, &e);
        return;
    }
    free(cleaned);
    DL_APPEND(n->waiters, r);
    if (n->state != RESOLVING)
        look(n);
}

void pd_folders_forget(struct pd_folders *f, const char *path)
{
    char *cleaned = clean(path);
    struct entry *n = cleaned ? lookup(f, cleaned, strlen(cleaned)) : NULL;
    free(cleaned);
    for (; n; n = n->parent)
        if (n->state == KNOWN)
            n->state = UNKNOWN;
}

int pd_folders_new(struct pd_folders **ret, struct pd_session *session)
{
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return ERR_NOMEM;
    (*ret)->session = session;
    return 0;
}

void pd_folders_free(struct pd_folders *f)
{
    struct entry *n, *next;
    if (!f)
        return;
    HASH_ITER(hh, f->entries, n, next)
    {
        HASH_DEL(f->entries, n);
        free(n->path);
        free(n);
    }
    free(f);
}
