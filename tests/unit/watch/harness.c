#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void *must(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

static void on_batch(struct watch *w, unsigned token, const struct watch_file *files, size_t n,
                     void *ctx)
{
    struct rig *r = ctx;
    assert_ptr_equal(w, r->w);
    assert_in_range(n, 1, WATCH_BATCH);
    r->out++;
    assert_in_range(r->out, 1, 3); /* one an origin */
    if (n > r->max_batch)
        r->max_batch = n;
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(r->root);
        assert_memory_equal(files[i].path, r->root, length);
        assert_int_equal(files[i].path[length], '/');
        if (r->n == r->capacity) {
            r->capacity = r->capacity == 0 ? 256 : r->capacity * 2;
            r->offers = must(realloc(r->offers, r->capacity * sizeof *r->offers));
        }
        r->offers[r->n++] = (struct offer){.path = must(strdup(files[i].path + length + 1)),
                                           .size = files[i].size,
                                           .mtime_ns = files[i].mtime_ns,
                                           .at_ms = uv_hrtime() / 1000000};
    }
    if (r->hold) {
        assert_in_range(r->n_held, 0, 7);
        r->held[r->n_held++] = token;
    } else {
        r->out--;
        watch_batch_done(w, token);
    }
    if (r->close_in_batch) {
        r->close_in_batch = false;
        rig_close(r);
    }
}

static void on_notice(struct watch *w, enum watch_notice notice, const char *path, uint64_t n,
                      void *ctx)
{
    struct rig *r = ctx;
    (void)w;
    r->notices[notice]++;
    r->notice_n[notice] = n;
    free(r->last_path[notice]);
    r->last_path[notice] = must(strdup(path));
    if (notice == WATCH_NOTICE_REMOVED) {
        r->removed = must(realloc(r->removed, (r->n_removed + 1) * sizeof *r->removed));
        r->removed[r->n_removed++] = must(strdup(path + strlen(r->root) + 1));
    }
}

void rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    strcpy(r->root, "/tmp/dcmferry-watch-XXXXXX");
    assert_non_null(mkdtemp(r->root));
    assert_int_equal(uv_loop_init(&r->loop), 0);
    r->o = (struct watch_options){.path = r->root,
                                  .mode = WATCH_MODE_INOTIFY,
                                  .recursive = true,
                                  .settle_ms = 300,
                                  .poll_ms = 100};
}

void rig_open(struct rig *r)
{
    struct err e = {0};
    const struct watch_handler handler = {.batch = on_batch, .notice = on_notice, .ctx = r};
    int rc = watch_open(&r->w, &r->loop, &r->o, &handler, &e);
    if (rc != 0)
        fail_msg("%s", e.text);
}

static void on_closed(void *ctx)
{
    struct rig *r = ctx;
    r->closed = true;
    r->w = NULL;
}

void rig_close_within(struct rig *r, uint64_t deadline_ms)
{
    watch_close(r->w, deadline_ms, on_closed, r);
    assert_false(r->closed);
}

void rig_close(struct rig *r)
{
    rig_close_within(r, 30000);
}

void rig_forget(struct rig *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->offers[i].path);
    r->n = 0;
    for (size_t i = 0; i < r->n_removed; i++)
        free(r->removed[i]);
    r->n_removed = 0;
    memset(r->notices, 0, sizeof r->notices);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void remove_tree(const char *path)
{
    nftw(path, remove_one, 64, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void rig_end(struct rig *r)
{
    if (r->w != NULL && !r->closed)
        rig_close(r);
    uint64_t deadline = rig_deadline();
    while (!r->closed && uv_hrtime() < deadline)
        rig_turn(r);
    assert_true(r->closed);
    assert_int_equal(uv_run(&r->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    rig_forget(r);
    free(r->offers);
    free(r->removed);
    for (size_t i = 0; i < sizeof r->last_path / sizeof r->last_path[0]; i++)
        free(r->last_path[i]);
    remove_tree(r->root);
}

uint64_t rig_deadline(void)
{
    return uv_hrtime() + UINT64_C(30000000000);
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer;
}

static void on_timer_closed(uv_handle_t *handle)
{
    *(bool *)handle->data = true;
}

void rig_turn(struct rig *r)
{
    uv_timer_t timer;
    bool gone = false;
    uv_timer_init(&r->loop, &timer);
    timer.data = &gone;
    uv_timer_start(&timer, on_timer, 20, 0);
    uv_run(&r->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&timer, on_timer_closed);
    while (!gone)
        uv_run(&r->loop, UV_RUN_NOWAIT);
}

void rig_run_ms(struct rig *r, uint64_t ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000;
    while (uv_hrtime() < until)
        rig_turn(r);
}

bool rig_quiet(struct rig *r)
{
    return watch_idle(r->w) && watch_settling(r->w) == 0;
}

size_t rig_count(const struct rig *r, const char *rel)
{
    size_t count = 0;
    for (size_t i = 0; i < r->n; i++)
        count += strcmp(r->offers[i].path, rel) == 0;
    return count;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

size_t rig_distinct(const struct rig *r)
{
    if (r->n == 0)
        return 0;
    char **paths = must(calloc(r->n, sizeof *paths));
    for (size_t i = 0; i < r->n; i++)
        paths[i] = r->offers[i].path;
    qsort(paths, r->n, sizeof *paths, compare);
    size_t count = 1;
    for (size_t i = 1; i < r->n; i++)
        count += strcmp(paths[i - 1], paths[i]) != 0;
    free(paths);
    return count;
}

const struct offer *rig_last(const struct rig *r, const char *rel)
{
    for (size_t i = r->n; i > 0; i--)
        if (strcmp(r->offers[i - 1].path, rel) == 0)
            return &r->offers[i - 1];
    return NULL;
}

void rig_release(struct rig *r)
{
    while (r->n_held > 0) {
        r->out--;
        watch_batch_done(r->w, r->held[--r->n_held]);
    }
}

bool rig_removed(const struct rig *r, const char *rel)
{
    for (size_t i = 0; i < r->n_removed; i++)
        if (strcmp(r->removed[i], rel) == 0)
            return true;
    return false;
}

void full(const struct rig *r, const char *rel, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/%s", r->root, rel);
    assert_in_range(n, 0, (int)size - 1);
}

void put(const struct rig *r, const char *rel, const char *content)
{
    char path[4096];
    full(r, rel, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_in_range(fd, 0, 1 << 20);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    close(fd);
}

void put_old(const struct rig *r, const char *rel, const char *content)
{
    char path[4096];
    put(r, rel, content);
    full(r, rel, path, sizeof path);
    const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

void make(const struct rig *r, const char *rel)
{
    char path[4096];
    full(r, rel, path, sizeof path);
    assert_int_equal(mkdir(path, 0755), 0);
}

void shift(const struct rig *r, const char *from, const char *to)
{
    char a[4096], b[4096];
    full(r, from, a, sizeof a);
    full(r, to, b, sizeof b);
    assert_int_equal(rename(a, b), 0);
}

void drop(const struct rig *r, const char *rel)
{
    char path[4096];
    full(r, rel, path, sizeof path);
    assert_int_equal(remove(path), 0);
}
