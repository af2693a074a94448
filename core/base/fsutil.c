#include "base/fsutil.h"

#include "base/folder.h"
#include "base/text.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#define COPY_SIZE  (256 * 1024)
#define MOVE_TRIES 10

/* Messages name what failed, not the path: the caller knows it, and messages are logged (rule 6).
 */

static int write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static ssize_t read_some(int fd, void *data, size_t size)
{
    ssize_t n;
    do
        n = read(fd, data, size);
    while (n < 0 && errno == EINTR);
    return n;
}

static int join(char out[PATH_MAX], const char *folder, const char *name, struct err *e)
{
    int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    if (n < 0 || n >= PATH_MAX)
        return err_set_errno(e, ENAMETOOLONG, "the path cannot be used");
    return 0;
}

int fsutil_write_file(const char *path, const void *data, size_t size, mode_t mode, struct err *e)
{
    char parent[PATH_MAX], temporary[PATH_MAX], id[UUID_TEXT_SIZE], name[64];
    int r = folder_above(path, parent, e);
    if (r < 0)
        return r;
    uuid_generate(id);
    snprintf(name, sizeof(name), ".dcmferry-%s.tmp", id);
    r = join(temporary, parent, name, e);
    if (r < 0)
        return r;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot create a file");
    if (fchmod(fd, mode) != 0 || write_all(fd, data, size) != 0 || fsync(fd) != 0)
        r = err_set_errno(e, errno, "cannot write a file");
    if (close(fd) != 0 && r == 0)
        r = err_set_errno(e, errno, "cannot write a file");
    if (r == 0 && rename(temporary, path) != 0)
        r = err_set_errno(e, errno, "cannot replace a file");
    if (r < 0) {
        unlink(temporary);
        return r;
    }
    return folder_sync(parent, e);
}

int fsutil_read_file(const char *path, size_t max, char **ret_data, size_t *ret_size, struct err *e)
{
    *ret_data = NULL;
    /* O_NONBLOCK: opening a FIFO must not hang. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot open the file");
    struct stat st;
    char *data = NULL;
    size_t size = 0, capacity = 0;
    int r = 0;
    if (fstat(fd, &st) != 0)
        r = err_set_errno(e, errno, "cannot read the file");
    else if (!S_ISREG(st.st_mode))
        r = err_set(e, ERR_INVALID, "not a regular file");
    else if ((uint64_t)st.st_size > max)
        r = err_set(e, ERR_TOO_LARGE, "the file is larger than %zu bytes", max);
    while (r == 0) {
        /* Files of /proc and growing ones are longer than stat says. */
        if (size + 1 >= capacity) {
            size_t more = capacity == 0 ? (size_t)st.st_size + 2 : capacity * 2;
            char *grown = realloc(data, more);
            if (!grown) {
                r = err_set(e, ERR_NOMEM, "cannot read the file: out of memory");
                break;
            }
            data = grown;
            capacity = more;
        }
        ssize_t n = read_some(fd, data + size, capacity - size - 1);
        if (n < 0)
            r = err_set_errno(e, errno, "cannot read the file");
        if (n <= 0)
            break;
        size += (size_t)n;
        if (size > max)
            r = err_set(e, ERR_TOO_LARGE, "the file is larger than %zu bytes", max);
    }
    close(fd);
    if (r < 0) {
        free(data);
        return r;
    }
    data[size] = '\0';
    *ret_data = data;
    *ret_size = size;
    return 0;
}

/* File systems without RENAME_NOREPLACE (NFS, some FUSE ones): a hard link refuses to overwrite
 * too. */
static int link_and_unlink(const char *from, const char *to)
{
    struct stat a, b;
    if (link(from, to) != 0) {
        int errnum = errno;
        /* A crash between link and unlink leaves both names of the one file. */
        bool same = errnum == EEXIST && lstat(from, &a) == 0 && lstat(to, &b) == 0 &&
                    a.st_dev == b.st_dev && a.st_ino == b.st_ino;
        if (!same)
            return errnum;
    }
    return unlink(from) == 0 ? 0 : errno;
}

/* And those without hard links: take the name first, then replace what is ours. */
static int claim_and_rename(const char *from, const char *to)
{
    struct stat st;
    if (lstat(from, &st) != 0)
        return errno;
    if (!S_ISREG(st.st_mode))
        return EINVAL;
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    close(fd);
    if (rename(from, to) == 0)
        return 0;
    int errnum = errno;
    unlink(to);
    return errnum;
}

/* Returns 0 or an errno value. */
static int rename_noreplace(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return errno;
    int r = link_and_unlink(from, to);
    if (r == EPERM || r == EOPNOTSUPP || r == ENOSYS)
        r = claim_and_rename(from, to);
    return r;
}

/* What left `path` is not to come back. Once its folder is removed too, the one above knows. */
static int sync_left(const char *path, struct err *e)
{
    char folder[PATH_MAX];
    int r = folder_above(path, folder, e);
    if (r == 0)
        r = folder_sync(folder, e);
    while (r == ERR_VANISHED && strchr(folder, '/') && strcmp(folder, "/") != 0) {
        char above[PATH_MAX];
        r = folder_above(folder, above, e);
        if (r == 0)
            r = folder_sync(strcpy(folder, above), e);
    }
    return r;
}

/* The new name first: a crash in between shows the file twice rather than not at all. */
static int sync_both(const char *from, const char *to, struct err *e)
{
    char from_parent[PATH_MAX], to_parent[PATH_MAX];
    int r = folder_above(from, from_parent, e);
    if (r == 0)
        r = folder_above(to, to_parent, e);
    if (r == 0)
        r = folder_sync(to_parent, e);
    if (r == 0 && strcmp(from_parent, to_parent) != 0)
        r = sync_left(from, e);
    return r;
}

static int rename_error(int errnum, struct err *e)
{
    if (errnum == EXDEV)
        return err_set(e, ERR_UNSUPPORTED, "cannot rename to another file system");
    return err_set_errno(e, errnum, "cannot rename");
}

int fsutil_rename_new(const char *from, const char *to, struct err *e)
{
    int errnum = rename_noreplace(from, to);
    return errnum ? rename_error(errnum, e) : sync_both(from, to, e);
}

int fsutil_rename_replace(const char *from, const char *to, struct err *e)
{
    if (rename(from, to) != 0)
        return rename_error(errno, e);
    return sync_both(from, to, e);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static int copy_bytes(int from, int to, struct err *e)
{
    char *data = malloc(COPY_SIZE);
    if (!data)
        return err_set(e, ERR_NOMEM, "cannot copy the file: out of memory");
    int r = 0;
    for (;;) {
        ssize_t n = read_some(from, data, COPY_SIZE);
        if (n < 0)
            r = err_set_errno(e, errno, "cannot read the file to move");
        else if (n > 0 && write_all(to, data, (size_t)n) != 0)
            r = err_set_errno(e, errno, "cannot write the copy of the file to move");
        if (n <= 0 || r < 0)
            break;
    }
    free(data);
    return r;
}

/* Whether `to` is the whole copy that an earlier, interrupted move left: same size, time and bytes.
 * Then it is made durable (again). */
static bool is_finished_copy(int from, const struct stat *st, const char *to)
{
    int fd = open(to, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct stat other;
    char *data = malloc((size_t)2 * COPY_SIZE);
    bool same = data && fstat(fd, &other) == 0 && S_ISREG(other.st_mode) && same_file(st, &other);
    off_t at = 0;
    while (same && at < st->st_size) {
        ssize_t n = pread(from, data, COPY_SIZE, at);
        same = n > 0 && pread(fd, data + COPY_SIZE, (size_t)n, at) == n &&
               memcmp(data, data + COPY_SIZE, (size_t)n) == 0;
        at += n;
    }
    same = same && fsync(fd) == 0;
    free(data);
    close(fd);
    return same;
}

/* The copy, durable under `temporary`, with the mode and times of the source. */
static int make_copy(int from, const struct stat *st, const char *temporary, struct err *e)
{
    /* Named after the source, so that a copy which a crash cut short is not left for ever. */
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot create the copy of the file to move");
    int r = copy_bytes(from, fd, e);
    struct stat now, named;
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    if (r == 0 && (fstat(from, &now) != 0 || !same_file(st, &now)))
        r = err_set(e, ERR_CHANGED, "the file changed while it was moved");
    /* The owner is kept where we may set it; only root may. */
    if (r == 0 && fchown(fd, st->st_uid, st->st_gid) != 0 && errno != EPERM && errno != EINVAL)
        r = err_set_errno(e, errno, "cannot keep the owner of the file to move");
    if (r == 0 && (fchmod(fd, st->st_mode & 0777) != 0 || futimens(fd, times) != 0))
        r = err_set_errno(e, errno, "cannot keep mode and times of the file to move");
    if (r == 0 && fsync(fd) != 0)
        r = err_set_errno(e, errno, "cannot write the copy of the file to move");
    if (r == 0 && (fstat(fd, &now) != 0 || lstat(temporary, &named) != 0 ||
                   now.st_ino != named.st_ino || now.st_size != st->st_size))
        r = err_set(e, ERR_BUSY, "the file is being moved by another process too");
    if (close(fd) != 0 && r == 0)
        r = err_set_errno(e, errno, "cannot write the copy of the file to move");
    if (r < 0)
        unlink(temporary);
    return r;
}

/* Unlinks the source if it is still the file that was copied. */
static int unlink_copied(const char *from, const struct stat *st, struct err *e)
{
    struct stat now;
    if (lstat(from, &now) != 0)
        return err_set_errno(e, errno, "the file was copied but is no longer there");
    if (now.st_dev != st->st_dev || now.st_ino != st->st_ino || !same_file(st, &now))
        return err_set(e, ERR_CHANGED, "the file was replaced while it was moved");
    return fsutil_unlink(from, e);
}

static int move_by_copy(const char *from, const char *to, struct err *e)
{
    char parent[PATH_MAX], temporary[PATH_MAX], name[80];
    int r = folder_above(from, parent, e);
    /* Where the source cannot be removed, a copy would only fill the other file system. */
    if (r == 0 && access(parent, W_OK | X_OK) != 0)
        r = err_set_errno(e, errno, "cannot remove the file to move");
    if (r == 0)
        r = folder_above(to, parent, e);
    if (r < 0)
        return r;
    int fd = open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot open the file to move");
    struct stat st;
    if (fstat(fd, &st) != 0)
        r = err_set_errno(e, errno, "cannot read the file to move");
    else if (!S_ISREG(st.st_mode))
        r = err_set(e, ERR_INVALID, "not a regular file");
    if (r == 0) {
        snprintf(name, sizeof(name), ".dcmferry-%llx-%llx.tmp", (unsigned long long)st.st_dev,
                 (unsigned long long)st.st_ino);
        r = join(temporary, parent, name, e);
    }
    struct stat there;
    int errnum = 0;
    bool done = false;
    if (r == 0 && lstat(to, &there) == 0)
        errnum = EEXIST; /* before gigabytes are copied in vain */
    if (r == 0 && errnum == 0)
        r = make_copy(fd, &st, temporary, e);
    if (r == 0 && errnum == 0) {
        errnum = rename_noreplace(temporary, to);
        if (errnum)
            unlink(temporary);
        done = errnum == 0;
    }
    if (r == 0 && errnum == EEXIST)
        done = is_finished_copy(fd, &st, to);
    close(fd);
    if (r < 0)
        return r;
    if (!done)
        return rename_error(errnum, e);
    r = folder_sync(parent, e);
    return r < 0 ? r : unlink_copied(from, &st, e);
}

static int move_once(const char *from, const char *to, mode_t mode, bool copy, struct err *e)
{
    char parent[PATH_MAX];
    int r = folder_above(to, parent, e);
    if (r == 0)
        r = folder_make(parent, mode, e);
    if (r < 0)
        return r;
    int errnum = rename_noreplace(from, to);
    if (errnum == EXDEV && copy)
        return move_by_copy(from, to, e);
    return errnum ? rename_error(errnum, e) : sync_both(from, to, e);
}

/* What vanishes may be the folder moved to, empty as it is, and not the file. */
static int move_into(const char *from, const char *to, mode_t mode, bool copy, struct err *e)
{
    struct stat st;
    for (unsigned i = 0; i < MOVE_TRIES; i++) {
        int r = move_once(from, to, mode, copy, e);
        if (r != ERR_VANISHED || lstat(from, &st) != 0)
            return r;
    }
    return err_set(e, ERR_BUSY, "the folder to move to vanishes again and again");
}

int fsutil_rename_into(const char *from, const char *to, mode_t mode, struct err *e)
{
    return move_into(from, to, mode, false, e);
}

int fsutil_move(const char *from, const char *to, struct err *e)
{
    struct stat st;
    if (lstat(from, &st) != 0)
        return err_set_errno(e, errno, "cannot move");
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "not a regular file");
    return move_into(from, to, FOLDER_AS_ABOVE, true, e);
}

int fsutil_unlink(const char *path, struct err *e)
{
    if (unlink(path) != 0)
        return err_set_errno(e, errno, "cannot remove the file");
    return sync_left(path, e);
}

int fsutil_is_network(const char *path, bool *ret, struct err *e)
{
    /* Those that linux/magic.h lacks; statfs(2) lists them. */
    static const unsigned long network[] = {
        NFS_SUPER_MAGIC,       SMB_SUPER_MAGIC,
        SMB2_SUPER_MAGIC,      CIFS_SUPER_MAGIC,
        AFS_SUPER_MAGIC,       AFS_FS_MAGIC,
        CEPH_SUPER_MAGIC,      V9FS_MAGIC,
        FUSE_SUPER_MAGIC,      CODA_SUPER_MAGIC,
        NCP_SUPER_MAGIC,       OCFS2_SUPER_MAGIC,
        0x01161970 /* GFS2 */, 0x0BD00BD0 /* Lustre */,
        0x47504653 /* GPFS */, 0x786F4256 /* vboxsf */,
    };
    struct statfs fs;
    int n;
    do
        n = statfs(path, &fs);
    while (n != 0 && errno == EINTR);
    if (n != 0)
        return err_set_errno(e, errno, "cannot tell the kind of file system");
    *ret = false;
    for (size_t i = 0; i < sizeof(network) / sizeof(network[0]); i++)
        if (((unsigned long)fs.f_type & 0xFFFFFFFFul) == network[i])
            *ret = true;
    return 0;
}

bool fsutil_path_within(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    if (n == 1 && folder[0] == '/')
        return path[0] == '/';
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

char *fsutil_normalise(const char *path)
{
    char *cwd = NULL;
    if (path[0] != '/') {
        cwd = getcwd(NULL, 0);
        if (!cwd)
            return NULL;
    }
    size_t n = (cwd ? strlen(cwd) + 1 : 0) + strlen(path);
    char *whole = malloc(n + 1), *out = malloc(n + 2);
    if (!whole || !out) {
        free(cwd);
        free(whole);
        free(out);
        return NULL;
    }
    snprintf(whole, n + 1, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path);
    free(cwd);
    size_t used = 0;
    char *save = NULL;
    for (char *part = strtok_r(whole, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
        if (strcmp(part, ".") == 0)
            continue;
        if (strcmp(part, "..") == 0) {
            while (used > 0 && out[--used] != '/')
                continue;
            continue;
        }
        size_t length = strlen(part);
        out[used++] = '/';
        memcpy(out + used, part, length);
        used += length;
    }
    if (used == 0)
        out[used++] = '/';
    out[used] = '\0';
    free(whole);
    return out;
}

int fsutil_lock(const char *path, int *ret_fd, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(e, errno, "cannot open the lock file");
    char pid[24] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int r, errnum = errno;
        if (errnum == EWOULDBLOCK) {
            ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
            pid[n > 0 ? n : 0] = '\0';
            pid[strspn(pid, "0123456789")] = '\0';
            if (pid[0])
                r = err_set(e, ERR_LOCKED, "in use by process %s", pid);
            else
                r = err_set(e, ERR_LOCKED, "in use by another process");
        } else
            r = err_set_errno(e, errnum, "cannot lock the lock file");
        close(fd);
        return r;
    }
    snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    /* For people only: a full disk must not keep the lock from working. */
    if (ftruncate(fd, 0) != 0 || write_all(fd, pid, strlen(pid)) != 0)
        pid[0] = '\0';
    *ret_fd = fd;
    return 0;
}
