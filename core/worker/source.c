#include "worker/source.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_BUFFER_SIZE (256 * 1024)

enum operation { OP_OPEN, OP_READ, OP_HASH, OP_CHECK, OP_CLOSE };

struct source {
    struct job job;
    struct job_queue *jobs;
    char *path;
    uint64_t size; /* expected */
    int64_t mtime_ns;
    bool seen; /* device and inode are known */
    dev_t device;
    ino_t inode;

    int fd; /* closed as soon as all is read: what follows looks at the path */
    uint64_t offset;
    EVP_MD_CTX *digest; /* of the bytes before offset */
    bool digested;      /* sha256 holds that of the whole file */
    uint8_t sha256[SOURCE_SHA256_SIZE];

    enum operation operation; /* in flight while cb is set; below is its business */
    source_cb cb;
    void *ctx;
    void *buffer;
    size_t capacity;
    size_t bytes_read;
    int status;
    struct err err;
    bool busy;
    bool closed;
    void *orphan; /* to be freed after the operation in flight */
};

/* On the pool from here. */

static int open_error(struct source *s, int errnum)
{
    if (errnum == ENOTDIR || errnum == ESTALE)
        return err_set(&s->err, ERR_VANISHED, "the file is gone");
    if (errnum == ELOOP || errnum == ENXIO)
        return err_set(&s->err, ERR_CHANGED, "something else than a file stands there now");
    return err_set_errno(&s->err, errnum, "cannot read the file");
}

/* Rule 2: the file is what was journalled, and the same one all the while. */
static int compare(struct source *s, const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return err_set(&s->err, ERR_CHANGED, "something else than a file stands there now");
    int64_t mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    if ((uint64_t)st->st_size != s->size || mtime_ns != s->mtime_ns)
        return err_set(&s->err, ERR_CHANGED, "the file's size or time changed");
    if (s->seen && (st->st_dev != s->device || st->st_ino != s->inode))
        return err_set(&s->err, ERR_CHANGED, "the file was replaced");
    s->seen = true;
    s->device = st->st_dev;
    s->inode = st->st_ino;
    return 0;
}

static int compare_open(struct source *s)
{
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return open_error(s, errno);
    return compare(s, &st);
}

static int ensure_open(struct source *s)
{
    if (s->fd >= 0)
        return 0;
    do
        s->fd = open(s->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    while (s->fd < 0 && errno == EINTR);
    if (s->fd < 0)
        return open_error(s, errno);
    return compare_open(s);
}

static void close_file(struct source *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static int start_digest(struct source *s)
{
    if (EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL) != 1)
        return err_set(&s->err, ERR_NOMEM, "cannot compute SHA-256");
    return 0;
}

/* All bytes went through the digest: what they give must be what an earlier pass gave. */
static int end_digest(struct source *s)
{
    uint8_t sha256[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(s->digest, sha256, NULL) != 1)
        return err_set(&s->err, ERR_NOMEM, "cannot compute SHA-256");
    if (s->digested && memcmp(s->sha256, sha256, SOURCE_SHA256_SIZE) != 0)
        return err_set(&s->err, ERR_CHANGED, "the file's bytes changed");
    memcpy(s->sha256, sha256, SOURCE_SHA256_SIZE);
    s->digested = true;
    return 0;
}

static int read_part(struct source *s, uint8_t *out, size_t capacity, size_t *ret)
{
    *ret = 0;
    uint64_t left = s->size - s->offset;
    size_t want = left < capacity ? (size_t)left : capacity;
    int r = s->offset == 0 ? start_digest(s) : 0;
    while (r == 0 && *ret < want) {
        ssize_t n = pread(s->fd, out + *ret, want - *ret, (off_t)(s->offset + *ret));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return open_error(s, errno);
        if (n == 0)
            return err_set(&s->err, ERR_CHANGED, "the file became shorter");
        *ret += (size_t)n;
    }
    if (r == 0 && EVP_DigestUpdate(s->digest, out, *ret) != 1)
        r = err_set(&s->err, ERR_NOMEM, "cannot compute SHA-256");
    if (r < 0)
        return r;
    s->offset += *ret;
    if (s->offset < s->size)
        return 0;
    r = compare_open(s);
    return r < 0 ? r : end_digest(s);
}

static int do_read(struct source *s)
{
    /* An empty file is read once too: its digest is one. */
    if (s->offset == s->size && s->digested && s->size > 0)
        return 0;
    int r = ensure_open(s);
    if (r == 0)
        r = read_part(s, s->buffer, s->capacity, &s->bytes_read);
    if (r < 0 || s->offset == s->size)
        close_file(s);
    return r;
}

static int do_hash(struct source *s)
{
    if (!s->digested) {
        uint8_t *buffer = malloc(HASH_BUFFER_SIZE);
        if (!buffer)
            return err_set(&s->err, ERR_NOMEM, "cannot compute SHA-256: out of memory");
        s->offset = 0;
        int r = ensure_open(s);
        while (r == 0 && !s->digested) {
            size_t n;
            r = read_part(s, buffer, HASH_BUFFER_SIZE, &n);
        }
        free(buffer);
        if (r < 0 || s->size == 0)
            close_file(s);
        s->offset = 0;
        return r;
    }
    s->offset = 0;
    return 0;
}

/* What stands at the path is the file that was read, so this covers the open descriptor too. */
static int do_check(struct source *s)
{
    struct stat st;
    if (lstat(s->path, &st) != 0)
        return open_error(s, errno);
    return compare(s, &st);
}

static void on_work(struct job *job)
{
    struct source *s = job->data;
    switch (s->operation) {
    case OP_OPEN:
    case OP_READ:
        s->status = do_read(s);
        break;
    case OP_HASH:
        s->status = do_hash(s);
        break;
    case OP_CHECK:
        s->status = do_check(s);
        break;
    case OP_CLOSE:
        close_file(s);
        break;
    }
}

/* On the loop from here. */

static void destroy(struct source *s)
{
    EVP_MD_CTX_free(s->digest);
    free(s->path);
    free(s);
}

static void submit(struct source *s, enum operation operation)
{
    s->operation = operation;
    s->busy = true;
    s->status = 0;
    s->bytes_read = 0;
    s->err = (struct err){0};
    job_submit(s->jobs, &s->job);
}

/* close(2) may block on a hung share too. */
static void finish_close(struct source *s)
{
    free(s->orphan);
    s->orphan = NULL;
    if (s->fd >= 0)
        submit(s, OP_CLOSE);
    else
        destroy(s);
}

static void on_done(struct job *job)
{
    struct source *s = job->data;
    s->busy = false;
    if (s->closed) {
        finish_close(s);
        return;
    }
    s->cb(s, s->status, s->bytes_read, &s->err, s->ctx);
}

static int begin(struct source *s, enum operation operation, void *buffer, size_t capacity,
                 source_cb cb, void *ctx)
{
    if (s->busy || s->closed)
        return ERR_BUSY;
    s->buffer = buffer;
    s->capacity = capacity;
    s->cb = cb;
    s->ctx = ctx;
    submit(s, operation);
    return 0;
}

int source_open(struct source **ret, struct job_queue *jobs, uint64_t mount, const char *path,
                uint64_t expected_size, int64_t expected_mtime_ns, void *buffer, size_t capacity,
                source_cb cb, void *ctx)
{
    struct source *s = calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->job = (struct job){.work = on_work, .done = on_done, .mount = mount, .data = s};
    s->jobs = jobs;
    s->path = strdup(path);
    s->digest = EVP_MD_CTX_new();
    s->size = expected_size;
    s->mtime_ns = expected_mtime_ns;
    s->fd = -1;
    if (!s->path || !s->digest) {
        destroy(s);
        return ERR_NOMEM;
    }
    *ret = s;
    return begin(s, OP_OPEN, buffer, capacity, cb, ctx);
}

int source_read(struct source *s, void *buffer, size_t capacity, source_cb cb, void *ctx)
{
    return begin(s, OP_READ, buffer, capacity, cb, ctx);
}

int source_hash(struct source *s, source_cb cb, void *ctx)
{
    return begin(s, OP_HASH, NULL, 0, cb, ctx);
}

int source_check(struct source *s, source_cb cb, void *ctx)
{
    return begin(s, OP_CHECK, NULL, 0, cb, ctx);
}

bool source_sha256(const struct source *s, uint8_t out[SOURCE_SHA256_SIZE])
{
    /* The pool writes it while an operation runs. */
    if (s->busy || !s->digested)
        return false;
    memcpy(out, s->sha256, SOURCE_SHA256_SIZE);
    return true;
}

void source_close_free(struct source *s, void *buffer)
{
    if (!s) {
        free(buffer);
        return;
    }
    s->closed = true;
    s->orphan = buffer;
    if (!s->busy)
        finish_close(s);
}
