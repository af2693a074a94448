/* dcmferry check: every fault of the configuration, and what the service's user may do in each
 * folder. */
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

/* The service sees the file system read-only but for what its unit names (systemd.exec(5),
 * ProtectSystem=strict). */
static void print_drop_in(const struct config *c)
{
    bool any = false;
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        if (!writes_sources(w))
            continue;
        if (!any)
            puts("\nthe service needs this drop-in, "
                 "/etc/systemd/system/dcmferryd.service.d/paths.conf "
                 "(then: systemctl daemon-reload):\n[Service]");
        any = true;
        printf("ReadWritePaths=%s\n", w->path);
        if (w->rejected)
            printf("ReadWritePaths=%s\n", w->rejected);
        if (w->move_to) {
            const char *text = template_text(w->move_to);
            int literal = (int)strcspn(text, "{");
            while (literal > 1 && text[literal - 1] != '/' && text[literal])
                literal--;
            printf("ReadWritePaths=%.*s\n", literal, text);
        }
    }
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
    print_drop_in(config);
    config_free(config);
    return code != 0;
}
