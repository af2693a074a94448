/* File system helpers: the only place that renames, and the one chain temp file -> fsync -> rename
 * -> fsync of the folder (rule 5). All block: call them on the thread pool or a thread of one's
 * own, never on the loop (but at start). Thread-safe. Descriptors are opened with O_CLOEXEC. Return
 * 0 or a negative ERR_ code with *e filled; its text names no path (rule 6: texts are logged). */
#ifndef BASE_FSUTIL_H
#define BASE_FSUTIL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Replaces `path` by a file with these bytes and mode, atomically and durably. */
int fsutil_write_file(const char *path, const void *data, size_t size, mode_t mode, struct err *e);

/* Reads a whole regular file of at most `max` bytes; *ret_data is NUL-terminated (not counted),
 * free() it. */
int fsutil_read_file(const char *path, size_t max, char **ret_data, size_t *ret_size,
                     struct err *e);

/* Durable rename on one file system; the target must not exist (RENAME_NOREPLACE): ERR_EXISTS.
 * fsyncs both folders. ERR_UNSUPPORTED across file systems. */
int fsutil_rename_new(const char *from, const char *to, struct err *e);

/* As fsutil_rename_new but replaces an existing target. */
int fsutil_rename_replace(const char *from, const char *to, struct err *e);

/* As fsutil_rename_new; missing parent folders of `to` are made first (folder_make), again if they
 * are taken away meanwhile. */
int fsutil_rename_into(const char *from, const char *to, mode_t mode, struct err *e);

/* Moves a regular file to `to`, across file systems by copy to a temporary name, fsync, rename, and
 * only then unlink of the source. Missing parent folders of `to` are made after the one above them
 * (FOLDER_AS_ABOVE). Never overwrites: ERR_EXISTS. ERR_VANISHED: `from` is gone. Keeps times and
 * mode (without set-id bits), and the owner where that is allowed. Across file systems a copy with
 * the source's size, time and bytes that stands at `to` is taken for that of an earlier move which
 * a crash interrupted, and the move is completed. */
int fsutil_move(const char *from, const char *to, struct err *e);

/* Durable unlink (fsync of the folder). ERR_VANISHED if it was not there. */
int fsutil_unlink(const char *path, struct err *e);

/* Whether the file system of `path` is a network one (NFS, CIFS/SMB, AFS, Ceph, 9p, FUSE counts as
 * one too). */
int fsutil_is_network(const char *path, bool *ret, struct err *e);

/* Whether `path` lies in `folder` or is it; both absolute and normalised (text only, no file
 * access). */
bool fsutil_path_within(const char *path, const char *folder);

/* `path` without ".", "..", repeated and trailing slashes, absolute against the working directory;
 * symbolic links are not resolved. malloc'ed; NULL when out of memory. */
char *fsutil_normalise(const char *path);

/* A lock file: created if missing, held by flock(2) until the returned descriptor is closed.
 * ERR_LOCKED if another process holds it (its pid, if readable, is named in *e). */
int fsutil_lock(const char *path, int *ret_fd, struct err *e);

#endif
