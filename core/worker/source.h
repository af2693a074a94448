/* A source file that is being sent: read in order in parts on the thread pool, hashed as it is
 * read, and compared with what was journalled before and after (rule 2). Loop thread only; one
 * operation at a time per source. */
#ifndef WORKER_SOURCE_H
#define WORKER_SOURCE_H

#include "base/err.h"
#include "worker/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOURCE_SHA256_SIZE 32

struct source;

/* status: 0 or ERR_VANISHED, ERR_CHANGED, ERR_ACCESS, ERR_IO…; `e` is valid during the call only.
 */
typedef void (*source_cb)(struct source *s, int status, size_t bytes_read, const struct err *e,
                          void *ctx);

/* Opens `path` (O_RDONLY|O_NOFOLLOW|O_NONBLOCK, regular files only), checks size and mtime against
 * the expected ones (ERR_CHANGED) and reads the first part of up to `capacity` bytes into `buffer`
 * (which must live until cb): one trip to the pool for a small file. *ret is valid at once, for
 * source_close. The path is copied. */
int source_open(struct source **ret, struct job_queue *jobs, uint64_t mount, const char *path,
                uint64_t expected_size, int64_t expected_mtime_ns, void *buffer, size_t capacity,
                source_cb cb, void *ctx);

/* Reads the next `capacity` bytes (fewer only at the end of the file; fewer than the expected size
 * says is ERR_CHANGED) into `buffer`. */
int source_read(struct source *s, void *buffer, size_t capacity, source_cb cb, void *ctx);

/* Reads and hashes the whole file once, then starts over at the front: for duplicate checks before
 * a large file is sent. Bounded buffer. */
int source_hash(struct source *s, source_cb cb, void *ctx);

/* Whether size and mtime of the open file, and device, inode, size and mtime of what stands at the
 * path now, are still those of the start: ERR_CHANGED, ERR_VANISHED. */
int source_check(struct source *s, source_cb cb, void *ctx);

/* The SHA-256 of all bytes, once everything was read (or after source_hash); false before. */
bool source_sha256(const struct source *s, uint8_t out[SOURCE_SHA256_SIZE]);

/* Closes; an operation that is under way finishes unseen (its callback does not come, its buffer
 * must live on until then: pass ownership with source_close_free, which free()s `buffer` when it is
 * safe, at once if nothing runs). */
void source_close_free(struct source *s, void *buffer);

#endif
