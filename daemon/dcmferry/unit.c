#include "unit.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_SIZE 16384

void unit_words_add(struct unit_words *w, const char *word)
{
    char **grown = realloc(w->items, (w->n + 1) * sizeof *grown);
    char *copy = word ? strdup(word) : NULL;
    if (grown)
        w->items = grown;
    if (grown && copy)
        w->items[w->n++] = copy;
    else
        free(copy);
}

bool unit_words_has(const struct unit_words *w, const char *word)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->items[i], word) == 0)
            return true;
    return false;
}

void unit_words_free(struct unit_words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->items[i]);
    free(w->items);
    *w = (struct unit_words){0};
}

void unit_free(struct unit *u)
{
    free(u->user);
    unit_words_free(&u->groups);
    unit_words_free(&u->writable);
    unit_words_free(&u->credentials);
}

/* The next word of a line of `systemctl show`, unquoted; false: there is none. */
static bool next_word(const char **line, char *word, size_t size)
{
    const char *p = *line + strspn(*line, " ");
    size_t n = 0;
    bool quoted = false;
    if (*p == '\0')
        return false;
    for (; *p && (quoted || *p != ' '); p++) {
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
static void add_words(struct unit_words *w, const char *line, const char *prefix)
{
    char word[4096], full[4096 + 32];
    while (next_word(&line, word, sizeof word)) {
        snprintf(full, sizeof full, "%s%s", prefix, word + strspn(word, "-+"));
        unit_words_add(w, full);
    }
}

static void take_property(struct unit *u, const char *name, const char *value)
{
    if (strcmp(name, "LoadState") == 0)
        u->known = strcmp(value, "loaded") == 0;
    else if (strcmp(name, "User") == 0 && *value && !u->user)
        u->user = strdup(value);
    else if (strcmp(name, "SupplementaryGroups") == 0)
        add_words(&u->groups, value, "");
    else if (strcmp(name, "ProtectSystem") == 0)
        u->strict = strcmp(value, "strict") == 0;
    else if (strcmp(name, "PrivateTmp") == 0)
        u->private_tmp = strcmp(value, "no") != 0;
    else if (strcmp(name, "ProtectHome") == 0) {
        u->home_read_only = strcmp(value, "no") != 0;
        u->home_hidden = u->home_read_only && strcmp(value, "read-only") != 0;
    } else if (strcmp(name, "ReadWritePaths") == 0)
        add_words(&u->writable, value, "");
    else if (strcmp(name, "StateDirectory") == 0)
        add_words(&u->writable, value, "/var/lib/");
}

/* `systemctl show` does not print credentials. */
static void take_credential(struct unit *u, const char *name, const char *value)
{
    static const char *const names[] = {"LoadCredential", "LoadCredentialEncrypted",
                                        "SetCredential", "SetCredentialEncrypted"};
    char credential[256];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) != 0)
            continue;
        snprintf(credential, sizeof credential, "%.*s", (int)strcspn(value, ":"), value);
        if (*credential)
            unit_words_add(&u->credentials, credential);
    }
}

/* The command's lines of the form NAME=VALUE; false: it failed. */
static bool each_line(const char *command, struct unit *u,
                      void (*take)(struct unit *u, const char *name, const char *value))
{
    char line[LINE_MAX_SIZE];
    FILE *f = popen(command, "re");
    while (f && fgets(line, sizeof line, f)) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = '\0';
        value[strcspn(value, "\n")] = '\0';
        take(u, line, value);
    }
    return f && pclose(f) == 0;
}

void unit_load(struct unit *ret)
{
    *ret = (struct unit){0};
    if (access("/run/systemd/system", F_OK) == 0 &&
        each_line("systemctl show dcmferryd.service -p LoadState -p User -p SupplementaryGroups "
                  "-p ProtectSystem -p ReadWritePaths -p StateDirectory -p PrivateTmp "
                  "-p ProtectHome 2>/dev/null",
                  ret, take_property) &&
        ret->known) {
        if (!ret->user)
            ret->user = strdup("root");
        each_line("systemctl cat dcmferryd.service 2>/dev/null", ret, take_credential);
        return;
    }
    unit_free(ret);
    *ret = (struct unit){.strict = true, .private_tmp = true, .home_read_only = true};
    ret->user = strdup("dcmferry");
    unit_words_add(&ret->writable, UNIT_STATE);
}
