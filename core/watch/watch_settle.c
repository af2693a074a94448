#include "watch/watch_settle.h"

#include <stdlib.h>
#include <string.h>

/* Looks are gathered into ticks, so that many files due one after the other are not as many
 * wakeups. */
#define TICK_MS UINT64_C(32)

static uint64_t round_up(uint64_t ms)
{
    return (ms + TICK_MS - 1) / TICK_MS * TICK_MS;
}

void watch_settle_init(struct watch_settle *l, size_t max)
{
    *l = (struct watch_settle){.max = max, .next_due_ms = UINT64_MAX};
}

static void drop(struct watch_settle *l, struct watch_settle_file *f)
{
    HASH_DEL(l->files, f);
    free(f);
    l->count--;
    if (l->count == 0)
        l->next_due_ms = UINT64_MAX;
}

void watch_settle_free(struct watch_settle *l)
{
    struct watch_settle_file *f, *next;
    HASH_ITER(hh, l->files, f, next)
    drop(l, f);
}

bool watch_settle_put(struct watch_settle *l, const struct watch_settle_file *file,
                      const char *path)
{
    struct watch_settle_file *f;
    size_t length = strlen(path);
    HASH_FIND(hh, l->files, path, length, f);
    if (f == NULL) {
        if (l->count >= l->max)
            return false;
        f = malloc(sizeof *f + length + 1);
        if (f == NULL)
            return false;
        *f = *file;
        memcpy(f->path, path, length + 1);
        f->hh.tbl = NULL;
        HASH_ADD_KEYPTR(hh, l->files, f->path, length, f);
        if (f->hh.tbl == NULL) {
            free(f);
            return false;
        }
        l->count++;
    } else {
        if (f->size != file->size || f->mtime_ns != file->mtime_ns) {
            f->size = file->size;
            f->mtime_ns = file->mtime_ns;
            f->since_ms = file->since_ms;
        }
        f->due_ms = file->due_ms;
        f->polled = file->polled;
        f->again |= file->again;
    }
    f->due_ms = round_up(f->due_ms);
    if (f->due_ms < l->next_due_ms)
        l->next_due_ms = f->due_ms;
    return true;
}

void watch_settle_remove(struct watch_settle *l, const char *path)
{
    struct watch_settle_file *f;
    HASH_FIND(hh, l->files, path, strlen(path), f);
    if (f != NULL)
        drop(l, f);
}

void watch_settle_visit(struct watch_settle *l, uint64_t now_ms,
                        enum watch_settle_verdict (*look)(struct watch_settle_file *file,
                                                          void *ctx),
                        void *ctx)
{
    struct watch_settle_file *f, *next;
    uint64_t earliest = UINT64_MAX;
    bool stopped = false;
    HASH_ITER(hh, l->files, f, next)
    {
        if (!stopped && f->due_ms <= now_ms) {
            enum watch_settle_verdict verdict = look(f, ctx);
            if (verdict == WATCH_SETTLE_DROP) {
                drop(l, f);
                continue;
            }
            stopped = verdict == WATCH_SETTLE_STOP;
            if (!stopped)
                f->due_ms = round_up(f->due_ms);
        }
        if (f->due_ms < earliest)
            earliest = f->due_ms;
    }
    l->next_due_ms = earliest;
}
