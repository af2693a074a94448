/* dcmferry check: every fault of the configuration, and what the service's user may do in each
 * folder. */
#include "base/fsutil.h"
#include "config/config.h"
#include "dcmferry.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool writes_sources(const struct config_watch *w)
{
    return w->after_upload != CONFIG_KEEP || w->rejected || w->custody != CONFIG_CUSTODY_NONE;
}

/* Makes, renames and removes a file as the daemon would; dot files are never taken for images. */
static const char *try_write(const char *folder)
{
    char from[4096], to[4096];
    if ((size_t)snprintf(from, sizeof from, "%s/.dcmferry-check-%ld", folder, (long)getpid()) >=
            sizeof from ||
        (size_t)snprintf(to, sizeof to, "%s/.dcmferry-check-%ld-renamed", folder, (long)getpid()) >=
            sizeof to)
        return "its path is too long";
    int fd = open(from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return strerror(errno);
    close(fd);
    if (rename(from, to) != 0) {
        const char *text = strerror(errno);
        unlink(from);
        return text;
    }
    return unlink(to) == 0 ? NULL : strerror(errno);
}

static int check_folder(const char *what, const char *path, bool write, const char *user)
{
    const char *fault = NULL;
    if (faccessat(AT_FDCWD, path, R_OK | X_OK, AT_EACCESS) != 0)
        fault = strerror(errno);
    if (fault) {
        printf("%s %s: cannot be read: %s\n", what, path, fault);
    } else if (write && (fault = try_write(path))) {
        printf("%s %s: files in it cannot be renamed or removed: %s\n", what, path, fault);
    } else {
        printf("%s %s: good\n", what, path);
        return 0;
    }
    if (user)
        printf("  mend it with: setfacl -R -m u:%s:%s -m d:u:%s:%s '%s'\n", user,
               write ? "rwX" : "rX", user, write ? "rwX" : "rX", path);
    return 1;
}

static int check_folders(const struct config *c, const char *user)
{
    int faults = 0;
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        faults += check_folder("drop folder", w->path, writes_sources(w), user);
        if (w->rejected)
            faults += check_folder("rejected", w->rejected, true, user);
    }
    return faults;
}

/* As the service's user where we may become it: permissions are what that user sees. */
static int check_as(const struct config *c, const char *user)
{
    const struct passwd *pw = geteuid() == 0 ? getpwnam(user) : NULL;
    if (!pw) {
        if (geteuid() == 0)
            printf(
                "there is no user '%s' here: looking as root, who may do more than the service\n",
                user);
        return check_folders(c, NULL);
    }
    printf("as user %s:\n", user);
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        perror("dcmferry check");
        return 1;
    }
    if (pid == 0) {
        if (initgroups(pw->pw_name, pw->pw_gid) != 0 || setgid(pw->pw_gid) != 0 ||
            setuid(pw->pw_uid) != 0) {
            perror("dcmferry check: cannot become the user");
            _exit(1);
        }
        int faults = check_folders(c, user);
        fflush(stdout);
        _exit(faults > 0);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- What the unit lets the service write ---- */

struct paths {
    char **items;
    size_t n;
};

static void add_path(struct paths *p, const char *path, size_t length)
{
    char **grown = realloc(p->items, (p->n + 1) * sizeof *grown);
    char *copy = strndup(path, length);
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

/* The words of one line of `systemctl show`; "-" before a path means that it may be missing, "+"
 * that it is below the unit's root. systemd escapes what would part a word. */
static void add_words(struct paths *p, const char *line, const char *prefix)
{
    for (line += strspn(line, " \n"); *line; line += strspn(line, " \n")) {
        size_t n = strcspn(line, " \n");
        size_t skip = strspn(line, "-+");
        char path[4096];
        int length = snprintf(path, sizeof path, "%s%.*s", prefix, (int)(n - skip), line + skip);
        if (skip < n && length > 0 && (size_t)length < sizeof path)
            add_path(p, path, (size_t)length);
        line += n;
    }
}

/* What the unit as loaded may write; false if systemd is not there or does not know the unit. */
static bool unit_paths(struct paths *writable, bool *ret_protected)
{
    bool loaded = false;
    char line[16384];
    if (access("/run/systemd/system", F_OK) != 0)
        return false;
    FILE *f =
        popen("systemctl show dcmferryd.service -p LoadState -p ProtectSystem -p ReadWritePaths "
              "-p StateDirectory 2>/dev/null",
              "re");
    if (!f)
        return false;
    *ret_protected = false;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "LoadState=", 10) == 0)
            loaded = strncmp(line + 10, "loaded", 6) == 0;
        else if (strncmp(line, "ProtectSystem=", 14) == 0)
            *ret_protected = strncmp(line + 14, "strict", 6) == 0;
        else if (strncmp(line, "ReadWritePaths=", 15) == 0)
            add_words(writable, line + 15, "");
        else if (strncmp(line, "StateDirectory=", 15) == 0)
            add_words(writable, line + 15, "/var/lib/");
    }
    return pclose(f) == 0 && loaded;
}

static bool is_writable(const struct paths *p, const char *path)
{
    for (size_t i = 0; i < p->n; i++)
        if (fsutil_path_within(path, p->items[i]))
            return true;
    return false;
}

/* Every folder that the service writes to. */
static void wanted_paths(const struct config *c, struct paths *p)
{
    add_path(p, c->state, strlen(c->state));
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        if (!writes_sources(w))
            continue;
        add_path(p, w->path, strlen(w->path));
        if (w->rejected)
            add_path(p, w->rejected, strlen(w->rejected));
        if (w->move_to) { /* as far as it is the same for all files */
            const char *text = template_text(w->move_to);
            size_t literal = strcspn(text, "{");
            while (text[literal] != '\0' && literal > 1 && text[literal - 1] != '/')
                literal--;
            while (literal > 1 && text[literal - 1] == '/')
                literal--;
            add_path(p, text, literal);
        }
    }
}

/* The service sees the file system read-only but for what its unit names (systemd.exec(5),
 * ProtectSystem=strict): what is missing there. */
static int print_drop_in(const struct config *c)
{
    struct paths wanted = {0}, writable = {0};
    bool protected = true;
    bool known = unit_paths(&writable, &protected);
    int missing = 0;
    if (!known)
        add_path(&writable, "/var/lib/dcmferry",
                 strlen("/var/lib/dcmferry")); /* the unit we ship */
    wanted_paths(c, &wanted);
    for (size_t i = 0; protected && i < wanted.n; i++) {
        if (is_writable(&writable, wanted.items[i]))
            continue;
        if (missing++ == 0)
            printf("\n%s:\n[Service]\n",
                   known ? "the service may not write everywhere it has to: this is missing in "
                           "/etc/systemd/system/dcmferryd.service.d/paths.conf (then: systemctl "
                           "daemon-reload && systemctl restart dcmferryd)"
                         : "run by systemd, the service needs this drop-in, "
                           "/etc/systemd/system/dcmferryd.service.d/paths.conf (then: systemctl "
                           "daemon-reload)");
        printf("ReadWritePaths=%s\n", wanted.items[i]);
        add_path(&writable, wanted.items[i], strlen(wanted.items[i]));
    }
    free_paths(&wanted);
    free_paths(&writable);
    return known ? missing : 0;
}

int command_check(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"user", required_argument, NULL, 'u'}, {0}};
    const char *user = "dcmferry";
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'u')
            return 2;
        user = optarg;
    }
    struct config *config = NULL;
    struct config_faults faults = {0};
    int rc = config_load(o->config_path, true, &config, &faults);
    for (size_t i = 0; i < faults.n; i++)
        fprintf(stderr, "%s:%u:%u: %s\n", o->config_path, faults.items[i].mark.line,
                faults.items[i].mark.column, faults.items[i].text);
    config_faults_free(&faults);
    if (rc != 0)
        return 1;
    printf("%s: no faults\n", o->config_path);
    int code = check_as(config, user);
    if (print_drop_in(config) > 0)
        code = 1;
    config_free(config);
    return code != 0;
}
