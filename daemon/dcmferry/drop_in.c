#include "drop_in.h"

#include "base/clock.h"
#include "base/fsutil.h"
#include "base/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PLACE_WAIT_MS 2000
#define FILE_NAME     "/etc/systemd/system/dcmferryd.service.d/drop-folders.conf"

bool drop_in_writes_sources(const struct config_watch *w)
{
    return w->after_upload != CONFIG_KEEP || w->rejected || w->custody != CONFIG_CUSTODY_NONE;
}

char *drop_in_move_folder(const struct config_watch *w)
{
    char *literal = w->move_to ? template_literal_prefix(w->move_to) : NULL;
    char *folder = literal ? fsutil_normalise(literal) : NULL;
    free(literal);
    if (folder && strcmp(folder, "/") == 0) { /* nothing is the same for all */
        free(folder);
        return NULL;
    }
    return folder;
}

static bool is_within(const struct unit_words *p, const char *path)
{
    for (size_t i = 0; i < p->n; i++)
        if (fsutil_path_within(path, p->items[i]))
            return true;
    return false;
}

static bool is_below(const char *path, const char *const *folders)
{
    for (; *folders; folders++)
        if (fsutil_path_within(path, *folders))
            return true;
    return false;
}

/* Every folder of that drop folder's that the service writes to. */
static void watch_paths(const struct config_watch *w, struct unit_words *p)
{
    char *move = drop_in_move_folder(w);
    if (drop_in_writes_sources(w))
        unit_words_add(p, w->path);
    unit_words_add(p, w->rejected);
    unit_words_add(p, move);
    free(move);
}

static void wanted_paths(const struct config *c, struct unit_words *p)
{
    unit_words_add(p, c->state);
    for (size_t i = 0; i < c->n_watches; i++)
        watch_paths(&c->watches[i], p);
}

struct place {
    bool missing;
    dev_t device; /* that it is on or will be made on; 0: unknown */
};

static void look(const void *in, void *out)
{
    struct place *place = out;
    char at[4096];
    struct stat st;
    if ((size_t)snprintf(at, sizeof at, "%s", (const char *)in) >= sizeof at)
        return;
    while (stat(at, &st) != 0) {
        char *slash = strrchr(at, '/');
        if (errno != ENOENT)
            return;
        place->missing = true;
        if (!slash || slash == at)
            return;
        *slash = '\0';
    }
    place->device = st.st_dev;
}

/* As far as it answers (base/probe.h). */
static struct place place_of(const char *path)
{
    struct place place = {0};
    struct probe p;
    if (!probe_start(&p, PROBE_PROCESS, look, path, strlen(path) + 1, &place, sizeof place) ||
        !probe_wait(&p, &place, sizeof place, clock_monotonic_ms() + PLACE_WAIT_MS))
        place = (struct place){0};
    return place;
}

/* Each path of ReadWritePaths= becomes a mount, and between two of them files can only be copied,
 * not renamed: the folder above all of them, if they are on one file system and it is nobody
 * else's. malloc'ed, or NULL. */
static char *folder_above(const struct unit_words *p)
{
    static const char *const others[] = {
        "/",    "/etc", "/home", "/mnt", "/media",   "/opt",       "/root",    "/run",
        "/srv", "/tmp", "/usr",  "/var", "/var/lib", "/var/spool", "/var/tmp", NULL};
    char *above = p->n > 1 ? strdup(p->items[0]) : NULL;
    for (size_t i = 1; above && i < p->n; i++) {
        while (!fsutil_path_within(p->items[i], above)) {
            char *slash = strrchr(above, '/');
            slash[slash == above] = '\0';
        }
        if (place_of(p->items[i]).device != place_of(p->items[0]).device)
            above[1] = '\0';
    }
    for (size_t i = 0; above && others[i]; i++)
        if (strcmp(above, others[i]) == 0) {
            free(above);
            above = NULL;
        }
    return above;
}

static void add_lacking(const struct unit *u, const struct unit_words *wanted,
                        struct unit_words *lacking)
{
    char *above = folder_above(wanted);
    for (size_t i = 0; i < wanted->n; i++) {
        const char *path = above ? above : wanted->items[i];
        if (!is_within(&u->writable, wanted->items[i]) && !is_within(lacking, path))
            unit_words_add(lacking, path);
    }
    free(above);
}

/* What the unit must let the service write, and does not. */
static void lacking_paths(const struct config *c, const struct unit *u, struct unit_words *lacking)
{
    if (!u->strict)
        return;
    if (!is_within(&u->writable, c->state))
        unit_words_add(lacking, c->state);
    for (size_t i = 0; i < c->n_watches; i++) {
        struct unit_words wanted = {0};
        watch_paths(&c->watches[i], &wanted);
        add_lacking(u, &wanted, lacking);
        unit_words_free(&wanted);
    }
}

static void add_credential(const struct secret *s, const struct unit *u, struct unit_words *lacking)
{
    if (s->source == SECRET_CREDENTIAL && !unit_words_has(&u->credentials, s->reference) &&
        !unit_words_has(lacking, s->reference))
        unit_words_add(lacking, s->reference);
}

static void lacking_credentials(const struct config *c, const struct unit *u,
                                struct unit_words *lacking)
{
    for (size_t i = 0; i < c->n_destinations; i++) {
        const struct config_destination *d = &c->destinations[i];
        add_credential(&d->postdicom.account_key, u, lacking);
        add_credential(&d->postdicom.api_key, u, lacking);
        add_credential(&d->proxy_password, u, lacking);
    }
}

/* Folders that the service would not see, or only read: it has a /tmp of its own, and homes are
 * protected from it. One of each kind, or NULL. */
static void find_hidden(const struct config *c, const struct unit_words *wanted,
                        const struct unit *u, const char **ret_tmp, const char **ret_home)
{
    static const char *const tmp[] = {"/tmp", "/var/tmp", NULL};
    static const char *const home[] = {"/home", "/root", "/run/user", NULL};
    *ret_tmp = *ret_home = NULL;
    for (size_t i = 0; i < wanted->n + c->n_watches; i++) {
        bool write = i < wanted->n;
        const char *path = write ? wanted->items[i] : c->watches[i - wanted->n].path;
        if (u->private_tmp && is_below(path, tmp))
            *ret_tmp = path;
        if ((u->home_hidden || (write && u->home_read_only)) && is_below(path, home))
            *ret_home = path;
    }
}

/* As a unit wants a path (systemd.syntax(7)): in quotes, within which ReadWritePaths= knows no
 * escapes, and without specifiers. */
static void print_unit_path(const char *path)
{
    if (!path[strcspn(path, " \t\"'\\%;#")]) {
        puts(path);
        return;
    }
    putchar('"');
    for (; *path; path++) {
        if (*path == '"')
            fputs("\"'\"'\"", stdout);
        else if (*path == '%')
            fputs("%%", stdout);
        else
            putchar(*path);
    }
    puts("\"");
}

void drop_in_print_word(const char *text)
{
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*text);
    }
    putchar('\'');
}

/* Who makes a drop folder makes it for those who write into it, and what lies above with it. */
static bool is_drop_folder(const struct config *c, const char *path)
{
    for (size_t i = 0; i < c->n_watches; i++)
        if (strcmp(c->watches[i].path, path) == 0)
            return true;
    return false;
}

static void print_missing_folders(const struct config *c, const struct unit_words *wanted,
                                  const struct unit_words *lacking, const char *user)
{
    bool any = false;
    for (size_t i = 0; i < lacking->n; i++) {
        if (is_drop_folder(c, lacking->items[i]) || !unit_words_has(wanted, lacking->items[i]) ||
            !place_of(lacking->items[i]).missing)
            continue;
        if (!any)
            puts("make the folders first that are missing, or the service does not start:");
        any = true;
        printf("  install -d -o %s -m %s ", user,
               strcmp(lacking->items[i], c->state) == 0 ? "0700" : "0750");
        drop_in_print_word(lacking->items[i]);
        puts("");
    }
}

/* The service sees the file system read-only but for what its unit names (systemd.exec(5),
 * ProtectSystem=strict), and has the credentials that its unit names: what is missing there. */
int drop_in_print(const struct config *c, const struct unit *u, const char *user)
{
    struct unit_words wanted = {0}, lacking = {0}, credentials = {0};
    const char *in_tmp, *in_home;
    wanted_paths(c, &wanted);
    lacking_paths(c, u, &lacking);
    lacking_credentials(c, u, &credentials);
    find_hidden(c, &wanted, u, &in_tmp, &in_home);
    int missing = (int)lacking.n + (int)credentials.n + (in_tmp != NULL) + (in_home != NULL);
    if (missing > 0) {
        puts("");
        print_missing_folders(c, &wanted, &lacking, user);
        printf("%s\n%s\n(then: systemctl daemon-reload && systemctl restart dcmferryd):\n\n"
               "[Service]\n",
               u->known ? "the service may not do all it has to; this is missing in"
                        : "run by systemd, the service needs this drop-in,",
               FILE_NAME);
    }
    for (size_t i = 0; i < lacking.n; i++) {
        fputs("ReadWritePaths=", stdout);
        print_unit_path(lacking.items[i]);
    }
    if (credentials.n > 0)
        puts("# Name where they are; the files may be root's alone.");
    for (size_t i = 0; i < credentials.n; i++)
        printf("LoadCredential=%s:/etc/dcmferry/%s\n", credentials.items[i], credentials.items[i]);
    if (in_tmp)
        printf("# It has a /tmp and a /var/tmp of its own and does not see %s:\n"
               "# better put that elsewhere.\nPrivateTmp=no\n",
               in_tmp);
    if (in_home)
        printf("# Homes are protected from it, and so is %s:\n"
               "# better put that elsewhere.\nProtectHome=no\n",
               in_home);
    unit_words_free(&wanted);
    unit_words_free(&lacking);
    unit_words_free(&credentials);
    return u->known ? missing : 0;
}
