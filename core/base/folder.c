#include "base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int folder_above(const char *path, char out[PATH_MAX], struct err *e)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (!slash)
        strcpy(out, ".");
    else if (n == 0)
        strcpy(out, "/");
    else if (n < PATH_MAX) {
        memcpy(out, path, n);
        out[n] = '\0';
    } else
        return err_set_errno(e, ENAMETOOLONG, "the path cannot be used");
    return 0;
}

int folder_sync(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot open the folder to make it durable");
    int r = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    /* EINVAL: this file system has no fsync of folders; there is nothing more to do for it. */
    if (r != 0 && r != EINVAL)
        return err_set_errno(e, r, "cannot make the folder durable");
    return 0;
}

int folder_sync_above(const char *path, struct err *e)
{
    char parent[PATH_MAX];
    int r = folder_above(path, parent, e);
    return r < 0 ? r : folder_sync(parent, e);
}

/* --- folders whose name is known to be durable --- */

#define KNOWN_MAX 256

/* A folder that is removed and made again under the same inode number has another birth time. */
struct known {
    uint64_t path; /* hash */
    uint64_t inode;
    uint32_t dev_major, dev_minor;
    struct statx_timestamp born;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct known known[KNOWN_MAX]; /* by hash; the newest of each place */

static bool identify(const char *path, const struct statx *st, struct known *ret)
{
    if (!(st->stx_mask & STATX_BTIME))
        return false;
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (; *path != '\0'; path++)
        hash = (hash ^ (unsigned char)*path) * 0x100000001b3;
    memset(ret, 0, sizeof(*ret)); /* it is compared as bytes */
    ret->path = hash;
    ret->inode = st->stx_ino;
    ret->dev_major = st->stx_dev_major;
    ret->dev_minor = st->stx_dev_minor;
    ret->born.tv_sec = st->stx_btime.tv_sec;
    ret->born.tv_nsec = st->stx_btime.tv_nsec;
    return true;
}

static bool is_known(const char *path, const struct statx *st)
{
    struct known k;
    if (!identify(path, st, &k))
        return false;
    pthread_mutex_lock(&lock);
    bool found = memcmp(&known[k.path % KNOWN_MAX], &k, sizeof(k)) == 0;
    pthread_mutex_unlock(&lock);
    return found;
}

static void remember(const char *path, const struct statx *st)
{
    struct known k;
    if (!identify(path, st, &k))
        return;
    pthread_mutex_lock(&lock);
    known[k.path % KNOWN_MAX] = k;
    pthread_mutex_unlock(&lock);
}

/* --- making --- */

static bool stat_folder(const char *path, struct statx *ret)
{
    return statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, ret) == 0;
}

/* As far as the file system, and who we are, allow it.
 *
 * The kernel hands the group of a set-group-ID folder on, and the bit; to set it is another matter
 * (it needs the group, and systemd's RestrictSUIDSGID= forbids it). So the mode is given to mkdir,
 * without a umask: that of this thread, which no longer shares it with the others. */
static int make_as_above(const char *path, const struct statx *above)
{
    mode_t mode = (above->stx_mode & (S_IRWXG | S_IROTH | S_IXOTH)) | S_IRWXU;
    bool alone = unshare(CLONE_FS) == 0;
    mode_t mask = alone ? umask(0) : 0;
    int r = mkdir(path, alone ? mode : 0700);
    int errnum = errno;
    if (alone)
        umask(mask);
    errno = errnum;
    if (r != 0)
        return r;
    /* Not by name: who may write in the folder above could put another one there meanwhile. */
    struct stat st;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid()) {
        if (st.st_gid != above->stx_gid && fchown(fd, (uid_t)-1, above->stx_gid) != 0)
            errno = 0; /* not ours to give: what the group may, ours may */
        if ((st.st_mode & 0777) != mode && fchmod(fd, mode | (above->stx_mode & S_ISGID)) != 0)
            errno = 0;
    }
    if (fd >= 0)
        close(fd);
    return 0;
}

/* One folder, in one that is there: *st is that one's, then its own. */
static int make_one(const char *path, mode_t mode, struct statx *st, struct err *e)
{
    struct statx above = *st;
    bool made = false;
    if (!stat_folder(path, st) || !S_ISDIR(st->stx_mode)) {
        made = (mode == FOLDER_AS_ABOVE ? make_as_above(path, &above) : mkdir(path, mode)) == 0;
        if (!made && errno != EEXIST)
            return err_set_errno(e, errno, "cannot make the folder");
        if (!stat_folder(path, st))
            return err_set_errno(e, errno, "cannot make the folder");
        if (!S_ISDIR(st->stx_mode))
            return err_set(e, ERR_EXISTS, "a file stands where a folder should be");
    }
    bool mounted = st->stx_dev_major != above.stx_dev_major ||
                   st->stx_dev_minor != above.stx_dev_minor; /* its name is not what leads to it */
    if (mounted || is_known(path, st))
        return 0;
    /* Also if it was there: who made it may not have come to its fsync, or have none. */
    int r = folder_sync_above(path, e);
    if (r < 0 && (made || r != ERR_ACCESS))
        return r;
    remember(path, st);
    return 0;
}

int folder_make(const char *path, mode_t mode, struct err *e)
{
    char part[PATH_MAX];
    struct statx st;
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(part))
        return err_set_errno(e, n ? ENAMETOOLONG : ENOENT, "cannot make the folder");
    if (!stat_folder(path[0] == '/' ? "/" : ".", &st))
        return err_set_errno(e, errno, "cannot make the folder");
    for (size_t i = 1; i <= n; i++) {
        if ((path[i] != '/' && path[i] != '\0') || path[i - 1] == '/')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        int r = make_one(part, mode, &st, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- taking away --- */

void folder_prune_above(const char *path, const char *stop)
{
    char part[PATH_MAX], *slash;
    size_t least = strlen(stop);
    if (strlen(path) >= sizeof(part) || strncmp(path, stop, least) != 0 || path[least] != '/')
        return;
    strcpy(part, path);
    while ((slash = strrchr(part, '/')) && (size_t)(slash - part) > least) {
        *slash = '\0';
        if (rmdir(part) != 0 && errno != ENOENT)
            return;
    }
}
