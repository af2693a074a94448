/* Preloaded into the daemon (LD_PRELOAD) by the power-loss test: writes down, in the order in which
 * they happen, everything that changes files below DCMFERRY_POWERLOSS_ROOTS (folders, ':' between
 * them), and every fsync with its call stack, into the file DCMFERRY_POWERLOSS_TRACE.
 *
 * Each call and its record are one step under a lock, so every prefix of the trace is an instant at
 * which the power may fail. powerloss.py replays it. fsync and fdatasync only leave their record:
 * what they have made durable is decided in the replay, and the real disk need not wait.
 *
 * Writes through mmap are not seen: only SQLite's -shm is written so, and it is rebuilt after every
 * crash. Nor are those that libc makes for stdio, which the daemon uses for its log alone. */
/* Both open and open64 are defined here: the one must not be made the other. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FRAMES_MAX 24
#define PUBLIC     __attribute__((visibility("default")))

/* As powerloss.py knows them; DROP and what follows are written by the test itself. */
enum op { WRITE = 1, TRUNCATE, SYNC, CREATE, MKDIR, RENAME, UNLINK, RMDIR, LINK, MTIME };

struct record {
    uint32_t total, op, first_size, second_size;
    int64_t time_us;
    uint64_t dev, ino;
    int64_t a; /* offset, size, time, or the thread */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static char roots[4 * PATH_MAX];

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_futimens)(int, const struct timespec[2]);
static int (*real_rename)(const char *, const char *);
static int (*real_renameat2)(int, const char *, int, const char *, unsigned);
static int (*real_link)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_rmdir)(const char *);
static int (*real_mkdir)(const char *, mode_t);

static void *next(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol)
        abort();
    return symbol;
}

static void resolve(void)
{
    *(void **)&real_open = next("open64");
    *(void **)&real_openat = next("openat64");
    *(void **)&real_write = next("write");
    *(void **)&real_writev = next("writev");
    *(void **)&real_pwrite = next("pwrite64");
    *(void **)&real_ftruncate = next("ftruncate64");
    *(void **)&real_futimens = next("futimens");
    *(void **)&real_rename = next("rename");
    *(void **)&real_renameat2 = next("renameat2");
    *(void **)&real_link = next("link");
    *(void **)&real_unlink = next("unlink");
    *(void **)&real_rmdir = next("rmdir");
    *(void **)&real_mkdir = next("mkdir");
}

/* Not in the constructor alone: those of other libraries may write before ours ran. */
static void prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, resolve);
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("DCMFERRY_POWERLOSS_TRACE");
    const char *where = getenv("DCMFERRY_POWERLOSS_ROOTS");
    void *frames[2];
    prepare();
    if (!path || !where || strlen(where) >= sizeof(roots))
        return;
    strcpy(roots, where);
    trace = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    backtrace(frames, 2); /* loads what it needs now */
    unsetenv("LD_PRELOAD");
}

static int traced_path(const char *path)
{
    if (trace < 0)
        return 0;
    for (const char *root = roots; *root;) {
        size_t n = strcspn(root, ":");
        if (strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0'))
            return 1;
        root += n + (root[n] == ':');
    }
    return 0;
}

/* Whether a descriptor may be one of those the test follows; the replay knows which are. */
static int traced_fd(int fd, struct stat *st)
{
    return trace >= 0 && fd > 2 && fd != trace && fstat(fd, st) == 0 &&
           (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode));
}

static void note(enum op op, const struct stat *st, int64_t a, const char *first,
                 const char *second, const void *data, size_t size)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct record r = {.op = op,
                       .first_size = (uint32_t)strlen(first),
                       .second_size = (uint32_t)strlen(second),
                       .time_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000,
                       .dev = st ? st->st_dev : 0,
                       .ino = st ? st->st_ino : 0,
                       .a = a};
    r.total = (uint32_t)(sizeof(r) + r.first_size + r.second_size + size);
    struct iovec parts[4] = {{&r, sizeof(r)},
                             {(void *)(uintptr_t)first, r.first_size},
                             {(void *)(uintptr_t)second, r.second_size},
                             {(void *)(uintptr_t)data, size}};
    if (syscall(SYS_writev, trace, parts, 4) != (long)r.total)
        abort(); /* a trace with a hole proves nothing */
}

/* ---- Contents ---- */

static ssize_t write_traced(int fd, const void *data, size_t size, const struct stat *st)
{
    pthread_mutex_lock(&lock);
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (fcntl(fd, F_GETFL) & O_APPEND)
        at = lseek(fd, 0, SEEK_END);
    ssize_t n = real_write(fd, data, size);
    int errnum = errno;
    if (n > 0)
        note(WRITE, st, at, "", "", data, (size_t)n);
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return n;
}

PUBLIC ssize_t write(int fd, const void *data, size_t size)
{
    struct stat st;
    prepare();
    return traced_fd(fd, &st) ? write_traced(fd, data, size, &st) : real_write(fd, data, size);
}

PUBLIC ssize_t writev(int fd, const struct iovec *parts, int n)
{
    struct stat st;
    prepare();
    if (n < 1 || !traced_fd(fd, &st))
        return real_writev(fd, parts, n);
    return write_traced(fd, parts[0].iov_base, parts[0].iov_len, &st); /* a short write is legal */
}

static ssize_t pwrite_traced(int fd, const void *data, size_t size, off_t at)
{
    struct stat st;
    prepare();
    if (!traced_fd(fd, &st))
        return real_pwrite(fd, data, size, at);
    pthread_mutex_lock(&lock);
    ssize_t n = real_pwrite(fd, data, size, at);
    int errnum = errno;
    if (n > 0)
        note(WRITE, &st, at, "", "", data, (size_t)n);
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return n;
}

PUBLIC ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return pwrite_traced(fd, data, size, at);
}

PUBLIC ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return pwrite_traced(fd, data, size, at);
}

static int truncate_traced(int fd, off_t size)
{
    struct stat st;
    prepare();
    if (!traced_fd(fd, &st))
        return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    int r = real_ftruncate(fd, size), errnum = errno;
    if (r == 0)
        note(TRUNCATE, &st, size, "", "", NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return r;
}

PUBLIC int ftruncate(int fd, off_t size)
{
    return truncate_traced(fd, size);
}

PUBLIC int ftruncate64(int fd, off64_t size)
{
    return truncate_traced(fd, size);
}

PUBLIC int futimens(int fd, const struct timespec times[2])
{
    struct stat st;
    prepare();
    if (!traced_fd(fd, &st))
        return real_futimens(fd, times);
    pthread_mutex_lock(&lock);
    int r = real_futimens(fd, times), errnum = errno;
    if (r == 0 && fstat(fd, &st) == 0)
        note(MTIME, &st, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec, "", "", NULL,
             0);
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return r;
}

/* What the replay does not know how to replay must not happen unseen. */
PUBLIC ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size,
                               unsigned flags)
{
    (void)in, (void)in_at, (void)out, (void)out_at, (void)size, (void)flags;
    errno = ENOSYS;
    return -1;
}

/* ---- fsync ---- */

static int synced(int fd)
{
    struct stat st;
    void *frames[FRAMES_MAX];
    char text[FRAMES_MAX * 64] = "";
    prepare();
    if (!traced_fd(fd, &st))
        return fstat(fd, &st);
    int n = backtrace(frames, FRAMES_MAX);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        Dl_info info;
        if (!dladdr(frames[i], &info) || !info.dli_fname)
            continue;
        const char *slash = strrchr(info.dli_fname, '/');
        int written =
            snprintf(text + at, sizeof(text) - at, "%s+%zx ", slash ? slash + 1 : info.dli_fname,
                     (size_t)((char *)frames[i] - (char *)info.dli_fbase));
        if (written < 0 || (size_t)written >= sizeof(text) - at)
            break;
        at += (size_t)written;
    }
    pthread_mutex_lock(&lock);
    note(SYNC, &st, gettid(), "", text, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

PUBLIC int fsync(int fd)
{
    return synced(fd);
}

PUBLIC int fdatasync(int fd)
{
    return synced(fd);
}

/* ---- Names ---- */

/* The absolute path of a file that is opened. */
static const char *full_path(int folder, const char *path, char out[PATH_MAX])
{
    char link_path[64], base[PATH_MAX];
    if (path[0] == '/' || folder == AT_FDCWD)
        return path;
    snprintf(link_path, sizeof(link_path), "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link_path, base, sizeof(base) - 1);
    if (n <= 0 || snprintf(out, PATH_MAX, "%.*s/%s", (int)n, base, path) >= PATH_MAX)
        return path;
    return out;
}

static int open_traced(int folder, const char *path, int flags, mode_t mode)
{
    char absolute[PATH_MAX];
    struct stat st;
    prepare();
    const char *full = flags & (O_CREAT | O_TRUNC) ? full_path(folder, path, absolute) : path;
    if (!(flags & (O_CREAT | O_TRUNC)) || !traced_path(full))
        return real_openat(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = lstat(full, &st) == 0;
    int fd = real_openat(folder, path, flags, mode), errnum = errno;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        if (!existed)
            note(CREATE, &st, 0, full, "", NULL, 0);
        else if (flags & O_TRUNC)
            note(TRUNCATE, &st, 0, "", "", NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return fd;
}

static mode_t mode_of(int flags, va_list more)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    PUBLIC int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        return open_traced(AT_FDCWD, path, flags, mode);                                           \
    }
#define OPENAT(name)                                                                               \
    PUBLIC int name(int folder, const char *path, int flags, ...)                                  \
    {                                                                                              \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        return open_traced(folder, path, flags, mode);                                             \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* One change of names, done and written down as one step. */
#define STEP(call, traced, ...)                                                                    \
    do {                                                                                           \
        prepare();                                                                                 \
        if (!(traced))                                                                             \
            return (call);                                                                         \
        pthread_mutex_lock(&lock);                                                                 \
        int r = (call), errnum = errno;                                                            \
        if (r == 0)                                                                                \
            note(__VA_ARGS__, NULL, 0);                                                            \
        pthread_mutex_unlock(&lock);                                                               \
        errno = errnum;                                                                            \
        return r;                                                                                  \
    } while (0)

PUBLIC int rename(const char *from, const char *to)
{
    STEP(real_rename(from, to), traced_path(from) || traced_path(to), RENAME, NULL, gettid(), from,
         to);
}

PUBLIC int renameat2(int from_folder, const char *from, int to_folder, const char *to,
                     unsigned flags)
{
    STEP(real_renameat2(from_folder, from, to_folder, to, flags),
         traced_path(from) || traced_path(to), RENAME, NULL, gettid(), from, to);
}

PUBLIC int link(const char *from, const char *to)
{
    STEP(real_link(from, to), traced_path(to), LINK, NULL, 0, from, to);
}

PUBLIC int unlink(const char *path)
{
    STEP(real_unlink(path), traced_path(path), UNLINK, NULL, 0, path, "");
}

PUBLIC int rmdir(const char *path)
{
    STEP(real_rmdir(path), traced_path(path), RMDIR, NULL, 0, path, "");
}

PUBLIC int mkdir(const char *path, mode_t mode)
{
    struct stat st;
    prepare();
    if (!traced_path(path))
        return real_mkdir(path, mode);
    pthread_mutex_lock(&lock);
    int r = real_mkdir(path, mode), errnum = errno;
    if (r == 0 && stat(path, &st) == 0)
        note(MKDIR, &st, 0, path, "", NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = errnum;
    return r;
}
