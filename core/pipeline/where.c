#include "pipeline/where.h"

#include "base/clock.h"
#include "base/fsutil.h"
#include "watch/watch_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct where {
    const struct pipeline_env *env;
    struct where_handler handler;
    struct job job;
    char *path;
    const struct config_watch *watch; /* whose drop folder it lies in, NULL: in none */
    const char *state;                /* NULL: nothing keeps it from being taken in */
    char why[512];
};

__attribute__((format(printf, 3, 4))) static void say(struct where *w, const char *state,
                                                      const char *format, ...)
{
    va_list arguments;
    w->state = state;
    va_start(arguments, format);
    vsnprintf(w->why, sizeof w->why, format, arguments);
    va_end(arguments);
}

/* Whether a name on the way, or the file's own, keeps it out. */
static void look_at_names(struct where *w)
{
    const struct config_watch *c = w->watch;
    const struct watch_filter filter = {.include = c->include,
                                        .n_include = c->n_include,
                                        .exclude = c->exclude,
                                        .n_exclude = c->n_exclude};
    char *relative = strdup(intake_relative(c, w->path));
    for (char *slash = relative; slash && !w->state;) {
        slash = strchr(slash, '/');
        if (slash)
            *slash = '\0';
        const char *name = strrchr(relative, '/'), *glob;
        name = name ? name + 1 : relative;
        if (slash && !c->recursive)
            say(w, "excluded", "it lies in a sub-folder, and the drop folder is not `recursive`");
        else if (name[0] == '.')
            say(w, "excluded", "names that begin with a dot are not taken in: %s", name);
        else if ((glob = watch_filter_excluded(&filter, relative)))
            say(w, "excluded", "excluded by the pattern %s", glob);
        else if (!slash && !watch_filter_file(&filter, relative))
            say(w, "excluded", "no pattern of `include` matches it");
        if (slash)
            *slash++ = '/';
    }
    free(relative);
}

/* ---- On the pool ---- */

static void look_at_age(struct where *w, const struct stat *st)
{
    const struct timespec *t =
        st->st_ctim.tv_sec > st->st_mtim.tv_sec ? &st->st_ctim : &st->st_mtim;
    int64_t age_ms = clock_realtime_ms() - ((int64_t)t->tv_sec * 1000 + t->tv_nsec / 1000000);
    if (st->st_size == 0)
        say(w, "empty", "it is empty: waiting for what is written into it");
    else if (age_ms < (int64_t)w->watch->settle_ms)
        say(w, "settling",
            "it changed %.1f s ago: it is looked at when it stood still for %.1f s (`settle`)",
            (double)(age_ms > 0 ? age_ms : 0) / 1000.0, (double)w->watch->settle_ms / 1000.0);
}

static bool may_read(struct where *w, const char *path, bool folder)
{
    if (faccessat(AT_FDCWD, path, folder ? R_OK | X_OK : R_OK, AT_EACCESS) == 0)
        return true;
    say(w, "unreadable", "the service may not read %s: %s (see: dcmferry check)",
        folder ? "a folder above it" : "it", strerror(errno));
    return false;
}

/* The drop folder and those between it and the file. */
static bool may_come_to(struct where *w)
{
    for (char *slash = w->path + strlen(w->watch->path); (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        bool may = may_read(w, w->path, true);
        *slash = '/';
        if (!may)
            return false;
    }
    return true;
}

static void look_work(struct job *job)
{
    struct where *w = job->data;
    struct stat st;
    if (lstat(w->path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR))
        say(w, "absent", "no file stands there");
    else if (!may_come_to(w))
        return;
    else if (lstat(w->path, &st) != 0)
        say(w, "unreadable", "it cannot be looked at: %s", strerror(errno));
    else if (S_ISDIR(st.st_mode))
        say(w, "folder", "it is a folder, which is looked into: ask for a file in it");
    else if (S_ISLNK(st.st_mode))
        say(w, "link",
            w->watch->follow_symlinks
                ? "it is a symbolic link: what it points to within the drop folder is taken in "
                  "under its own name"
                : "it is a symbolic link, and `follow_symlinks` is not set");
    else if (!S_ISREG(st.st_mode))
        say(w, "special", "it is not a regular file");
    else if (may_read(w, w->path, false))
        look_at_age(w, &st);
}

/* ---- On the loop ---- */

static void nothing_work(struct job *job)
{
    (void)job;
}

static void looked(struct job *job)
{
    struct where *w = job->data;
    const struct intake *in = w->handler.intake(w->handler.ctx);
    char reason[400];
    switch (in ? intake_find(in, w->path, reason, sizeof reason) : INTAKE_NOT_THERE) {
    case INTAKE_WORKING:
        say(w, "reading", "it is being read");
        break;
    case INTAKE_SETTLING:
        say(w, "incomplete", "it is not whole, and looked at again until `settle_timeout`: %s",
            reason);
        break;
    case INTAKE_NOT_THERE:
        if (!w->state)
            say(w, "unseen",
                "nothing keeps it from being taken in: that comes with the next look at the folder "
                "(at the latest with the next `rescan`)");
        break;
    }
    w->handler.cb(w->state, w->why, w->handler.ctx);
    free(w->path);
    free(w);
}

int where_ask(const struct pipeline_env *env, const char *path, const struct where_handler *handler)
{
    struct where *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return ERR_NOMEM;
    }
    w->env = env;
    w->handler = *handler;
    size_t i = 0;
    while (i < env->config->n_watches && !fsutil_path_within(path, env->config->watches[i].path))
        i++;
    w->watch = i < env->config->n_watches ? &env->config->watches[i] : NULL;
    if (!w->watch)
        say(w, "outside", "it lies in no drop folder of the configuration");
    else if (!handler->present(i, handler->ctx))
        say(w, "gone", "its drop folder is gone or does not answer");
    else if (strcmp(path, w->watch->path) == 0)
        say(w, "folder", "it is a drop folder: ask for a file in it");
    else
        look_at_names(w);
    w->job = (struct job){.work = w->state ? nothing_work : look_work,
                          .done = looked,
                          .mount = w->state ? 0 : pipeline_mount(i),
                          .data = w};
    job_submit(env->jobs, &w->job);
    return 0;
}
