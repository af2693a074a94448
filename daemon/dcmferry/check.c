/* dcmferry check: every fault of the configuration, and what the service's user may do with the
 * keys and folders it names. */
#include "base/clock.h"
#include "base/fsutil.h"
#include "base/probe.h"
#include "base/text.h"
#include "config/config.h"
#include "dcmferry.h"
#include "drop_in.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATE_ROOM_MIN (32ULL << 20)
#define FOLDER_WAIT_MS 5000

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

/* Whether the daemon can make the folder itself: a failure of what is above says no. */
static bool can_be_made(const char *path)
{
    char at[4096];
    if ((size_t)snprintf(at, sizeof at, "%s", path) >= sizeof at)
        return false;
    for (char *slash; (slash = strrchr(at, '/')) && slash > at;) {
        *slash = '\0';
        if (faccessat(AT_FDCWD, at, W_OK | X_OK, AT_EACCESS) == 0)
            return true;
        if (errno != ENOENT)
            return false;
    }
    return false;
}

enum access { TO_READ, TO_WRITE, TO_MAKE, TO_OWN }; /* each with those before it */

static int check_missing(const char *what, const char *path, enum access to, const char *user)
{
    bool made = to >= TO_MAKE && (can_be_made(path) || fsutil_path_within(path, UNIT_STATE));
    printf("%s %s: is not there%s\n", what, path, made ? " yet" : "");
    if (made)
        return 0;
    if (to >= TO_MAKE) {
        printf("  make it with: install -d -o %s -m %s ", user, to == TO_OWN ? "0700" : "0750");
        drop_in_print_word(path);
        puts("");
    }
    return 1;
}

static int check_folder(const char *what, const char *path, enum access to, const char *user)
{
    const char *fault = NULL;
    if (faccessat(AT_FDCWD, path, R_OK | X_OK, AT_EACCESS) != 0) {
        if (errno == ENOENT)
            return check_missing(what, path, to, user);
        fault = strerror(errno);
    }
    if (fault) {
        printf("%s %s: cannot be read: %s\n", what, path, fault);
    } else if (to != TO_READ && (fault = try_write(path))) {
        printf("%s %s: files in it cannot be made, renamed or removed: %s\n", what, path, fault);
    } else {
        printf("%s %s: good\n", what, path);
        return 0;
    }
    if (to == TO_OWN)
        printf("  mend it with: chown -R %s ", user);
    else
        printf("  mend it with: setfacl -R -m u:%s:%s -m d:u:%s:%s ", user,
               to == TO_READ ? "rX" : "rwX", user, to == TO_READ ? "rX" : "rwX");
    drop_in_print_word(path);
    puts("");
    return 1;
}

/* No fault: it works, until the disk is full. */
static void check_room(const char *state)
{
    struct statvfs st;
    char size[16];
    uint64_t left;
    if (statvfs(state, &st) != 0)
        return;
    left = (uint64_t)st.f_bavail * st.f_frsize;
    if (left >= STATE_ROOM_MIN)
        return;
    text_format_size(left, size);
    printf("  warning: only %s are left on its file system, where the journal takes some 1.5 KB a "
           "file, and three times that while it is backed up: nothing is sent while it is full\n",
           size);
}

/* One of them, in a process of its own, which may hang. */
struct folder {
    const char *what, *path, *user;
    enum access to;
};

struct verdict {
    int faults;
    char text[16384];
};

static void look_at_folder(const void *in, void *out)
{
    const struct folder *f = in;
    struct verdict *v = out;
    FILE *text = fmemopen(v->text, sizeof v->text, "w");
    if (!text)
        _exit(1);
    stdout = text;
    v->faults = check_folder(f->what, f->path, f->to, f->user);
    if (f->to == TO_OWN)
        check_room(f->path);
    fclose(text);
}

static int try_folder(const char *what, const char *path, enum access to, const char *user)
{
    const struct folder f = {.what = what, .path = path, .user = user, .to = to};
    struct verdict *v = calloc(1, sizeof *v);
    struct probe p;
    int faults = 1;
    if (v && probe_start(&p, PROBE_PROCESS, look_at_folder, &f, sizeof f, v, sizeof *v) &&
        probe_wait(&p, v, sizeof *v, clock_monotonic_ms() + FOLDER_WAIT_MS)) {
        fputs(v->text, stdout);
        faults = v->faults;
    } else {
        printf("%s %s: does not answer within %d s\n", what, path, FOLDER_WAIT_MS / 1000);
    }
    free(v);
    return faults;
}

static int check_folders(const struct config *c, const char *user)
{
    int faults = try_folder("state folder", c->state, TO_OWN, user);
    for (size_t i = 0; i < c->n_watches; i++) {
        const struct config_watch *w = &c->watches[i];
        char *move = drop_in_move_folder(w);
        faults += try_folder("drop folder", w->path, drop_in_writes_sources(w) ? TO_WRITE : TO_READ,
                             user);
        if (w->rejected)
            faults += try_folder("rejected", w->rejected, TO_MAKE, user);
        if (move)
            faults += try_folder("moved to", move, TO_MAKE, user);
        free(move);
    }
    return faults;
}

static void print_fault(const char *path, const struct config_fault *f)
{
    if (f->mark.line > 0)
        fprintf(stderr, "%s:%u:%u: %s\n", path, f->mark.line, f->mark.column, f->text);
    else
        fprintf(stderr, "%s: %s\n", path, f->text);
}

/* Whether it is so here only: systemd makes the state folder and hands over credentials when it
 * starts the service. `c` may be NULL. */
static bool is_systemds(const struct config *c, const char *fault)
{
    if (strstr(fault, "$CREDENTIALS_DIRECTORY is not set"))
        return true;
    return c && strncmp(fault, "state: cannot write in ", 23) == 0 &&
           fsutil_path_within(c->state, UNIT_STATE) && access(UNIT_STATE, F_OK) != 0 &&
           errno == ENOENT;
}

/* As who runs this: the file again, now with keys, certificates and folders. `c` is NULL if the
 * file alone is faulty. */
static bool look(const struct command_options *o, const struct config *c, const char *user)
{
    struct config *again = NULL;
    struct config_faults faults = {0};
    bool bad =
        config_load(o->config_path, CONFIG_PATHS_CHECK, &again, &faults) != 0 && faults.n == 0;
    for (size_t i = 0; i < faults.n; i++) {
        if (is_systemds(c, faults.items[i].text)) {
            printf("not tried, as systemd sees to it: %s\n", faults.items[i].text);
            continue;
        }
        print_fault(o->config_path, &faults.items[i]);
        bad = true;
    }
    config_faults_free(&faults);
    config_free(again);
    bad = (c && check_folders(c, user) > 0) || bad;
    fflush(stdout);
    return bad;
}

/* The groups of the user, and those that the unit gives the service beside them. */
static int take_groups(const struct passwd *pw, const struct unit *u)
{
    gid_t groups[256];
    int n = 256;
    if (getgrouplist(pw->pw_name, pw->pw_gid, groups, &n) < 0)
        return -1;
    for (size_t i = 0; i < u->groups.n && n < 256; i++) {
        const struct group *gr = getgrnam(u->groups.items[i]);
        if (gr)
            groups[n++] = gr->gr_gid;
        else
            printf("the unit's SupplementaryGroups= names a group that is not there: %s\n",
                   u->groups.items[i]);
    }
    return setgroups((size_t)n, groups);
}

/* As the service's user where we may become it: what that user may is what counts. */
static int look_as(const struct command_options *o, const struct config *c, const struct passwd *pw,
                   const struct unit *u)
{
    if (geteuid() != 0) {
        if (pw->pw_uid != geteuid())
            printf("not run as root: looking as you, who may do other things than %s\n",
                   pw->pw_name);
        return look(o, c, pw->pw_name);
    }
    printf("as user %s:\n", pw->pw_name);
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        perror("dcmferry check");
        return 1;
    }
    if (pid == 0) {
        if (take_groups(pw, u) != 0 || setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0) {
            perror("dcmferry check: cannot become the user");
            _exit(1);
        }
        _exit(look(o, c, pw->pw_name));
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int check(const struct command_options *o, const char *user, const struct unit *u)
{
    struct config *config = NULL;
    struct config_faults faults = {0};
    const struct passwd *pw = getpwnam(user);
    int code = config_load(o->config_path, CONFIG_PATHS_UNSEEN, &config, &faults) != 0;
    if (pw) {
        code = look_as(o, config, pw, u) || code;
    } else {
        for (size_t i = 0; i < faults.n; i++)
            print_fault(o->config_path, &faults.items[i]);
        fprintf(stderr,
                "dcmferry check: there is no user '%s', so the service cannot start: make it with "
                "systemd-sysusers, or name the service's user with --user\n",
                user);
        code = 1;
    }
    config_faults_free(&faults);
    if (config && drop_in_print(config, u, user) > 0)
        code = 1;
    config_free(config);
    puts(code == 0 ? "\nno faults" : "\nthere are faults: see above");
    return code;
}

int command_check(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"user", required_argument, NULL, 'u'}, {0}};
    const char *user = NULL;
    int c, code;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'u')
            return 2;
        user = optarg;
    }
    if ((code = command_no_more(optind, argc, argv)) != 0)
        return code;
    struct unit u;
    unit_load(&u);
    code = check(o, user ? user : u.user ? u.user : "dcmferry", &u);
    unit_free(&u);
    return code;
}
