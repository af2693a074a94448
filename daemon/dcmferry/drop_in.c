#include "drop_in.h"

#include "base/fsutil.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "/etc/systemd/system/dcmferryd.service.d/drop-folders.conf"

struct paths {
    char **items;
    size_t n;
};

struct unit {
    struct paths writable;
    bool known, strict, private_tmp, home_read_only, home_hidden;
};

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

static void add_path(struct paths *p, const char *path)
{
    char **grown = realloc(p->items, (p->n + 1) * sizeof *grown);
    char *copy = path ? strdup(path) : NULL;
    if (grown)
        p->items = grown;
    if (grown && copy)
        p->items[p->n++] = copy;
    else
        free(copy);
}

static void free_paths(struct paths *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->items[i]);
    free(p->items);
}

/* The next word of a line of `systemctl show`, unquoted; false: there is none. */
static bool next_word(const char **line, char *word, size_t size)
{
    const char *p = *line + strspn(*line, " \n");
    size_t n = 0;
    bool quoted = false;
    if (*p == '\0')
        return false;
    for (; *p && (quoted || (*p != ' ' && *p != '\n')); p++) {
        unsigned byte = (unsigned char)*p;
        if (byte == '"') {
            quoted = !quoted;
            continue;
        }
        if (byte == '\\' && p[1] == 'x' && sscanf(p + 2, "%2x", &byte) == 1 &&
            isxdigit((unsigned char)p[3]))
            p += 3;
        else if (byte == '\\' && p[1])
            byte = (unsigned char)*++p;
        if (n + 1 < size)
            word[n++] = (char)byte;
    }
    word[n] = '\0';
    *line = p;
    return true;
}

/* "-" before a path means that it may be missing, "+" that it is below the unit's root. */
static void add_words(struct paths *p, const char *line, const char *prefix)
{
    char word[4096], path[4096 + 32];
    while (next_word(&line, word, sizeof word)) {
        snprintf(path, sizeof path, "%s%s", prefix, word + strspn(word, "-+"));
        add_path(p, path);
    }
}

/* What the unit as loaded may do; that of the unit we ship if systemd is not there or does not know
 * it. */
static void look_at_unit(struct unit *u)
{
    struct unit loaded = {0};
    char line[16384];
    *u = (struct unit){.strict = true, .private_tmp = true, .home_read_only = true};
    FILE *f = access("/run/systemd/system", F_OK) != 0
                  ? NULL
                  : popen("systemctl show dcmferryd.service -p LoadState -p ProtectSystem -p "
                          "ReadWritePaths -p StateDirectory -p PrivateTmp -p ProtectHome "
                          "2>/dev/null",
                          "re");
    while (f && fgets(line, sizeof line, f)) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = '\0';
        if (strcmp(line, "LoadState") == 0)
            loaded.known = strcmp(value, "loaded\n") == 0;
        else if (strcmp(line, "ProtectSystem") == 0)
            loaded.strict = strcmp(value, "strict\n") == 0;
        else if (strcmp(line, "PrivateTmp") == 0)
            loaded.private_tmp = strcmp(value, "no\n") != 0;
        else if (strcmp(line, "ProtectHome") == 0) {
            loaded.home_read_only = strcmp(value, "no\n") != 0;
            loaded.home_hidden = loaded.home_read_only && strcmp(value, "read-only\n") != 0;
        } else if (strcmp(line, "ReadWritePaths") == 0)
            add_words(&loaded.writable, value, "");
        else if (strcmp(line, "StateDirectory") == 0)
            add_words(&loaded.writable, value, "/var/lib/");
    }
    if (f && pclose(f) == 0 && loaded.known) {
        *u = loaded;
        return;
    }
    free_paths(&loaded.writable);
    add_path(&u->writable, DROP_IN_STATE);
}

static bool is_within(const struct paths *p, const char *path)
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

/* Every folder that the service writes to. */
static void wanted_paths(const struct config *c, struct paths *p)
{
    add_path(p, c->state);
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        char *move = drop_in_move_folder(w);
        if (drop_in_writes_sources(w))
            add_path(p, w->path);
        add_path(p, w->rejected);
        add_path(p, move);
        free(move);
    }
}

/* Folders that the service would not see, or only read: it has a /tmp of its own, and homes are
 * protected from it. One of each kind, or NULL. */
static void find_hidden(const struct config *c, const struct paths *wanted, const struct unit *u,
                        const char **ret_tmp, const char **ret_home)
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

static void print_missing_folders(const struct config *c, const struct paths *lacking,
                                  const char *user)
{
    struct stat st;
    bool any = false;
    for (size_t i = 0; i < lacking->n; i++) {
        if (stat(lacking->items[i], &st) == 0 || errno != ENOENT)
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
 * ProtectSystem=strict): what is missing there. */
int drop_in_print(const struct config *c, const char *user)
{
    struct paths wanted = {0}, lacking = {0};
    struct unit u;
    look_at_unit(&u);
    wanted_paths(c, &wanted);
    for (size_t i = 0; u.strict && i < wanted.n; i++)
        if (!is_within(&u.writable, wanted.items[i]) && !is_within(&lacking, wanted.items[i]))
            add_path(&lacking, wanted.items[i]);
    const char *in_tmp, *in_home;
    find_hidden(c, &wanted, &u, &in_tmp, &in_home);
    int missing = (int)lacking.n + (in_tmp != NULL) + (in_home != NULL);
    if (missing > 0) {
        puts("");
        print_missing_folders(c, &lacking, user);
        printf("%s\n%s\n(then: systemctl daemon-reload && systemctl restart dcmferryd):\n\n"
               "[Service]\n",
               u.known ? "the service may not do all it has to; this is missing in"
                       : "run by systemd, the service needs this drop-in,",
               FILE_NAME);
    }
    for (size_t i = 0; i < lacking.n; i++) {
        fputs("ReadWritePaths=", stdout);
        print_unit_path(lacking.items[i]);
    }
    if (in_tmp)
        printf("# It has a /tmp and a /var/tmp of its own and does not see %s:\n"
               "# better put that elsewhere.\nPrivateTmp=no\n",
               in_tmp);
    if (in_home)
        printf("# Homes are protected from it, and so is %s:\n"
               "# better put that elsewhere.\nProtectHome=no\n",
               in_home);
    free_paths(&wanted);
    free_paths(&lacking);
    free_paths(&u.writable);
    return u.known ? missing : 0;
}
