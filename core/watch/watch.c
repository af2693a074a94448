/* The loop's side of a watch: reads inotify's descriptor, gives out batches and notices, watches
 * over the thread. */
#include "watch/watch.h"
#include "watch/watch_scanner.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define OPEN_WAIT_MS                                                                               \
    2000                /* for the first look at the drop folder; a mount that takes longer hangs */
#define TICK_MS    2000 /* of the watchdog, while the thread works */
#define HANG_MS    10000 /* one system call this long: the mount hangs */
#define EVENT_ROOM 4096  /* inotify wants room for one event of the longest name at least */

struct watch {
    struct watch_scanner *s;
    struct watch_handler handler;
    uv_loop_t *loop;
    pthread_t thread;
    uv_async_t async;
    uv_timer_t timer; /* the watchdog; the deadline once closing */
    uv_poll_t poll;
    enum watch_mode mode;
    bool polling; /* `poll` is initialised */
    bool started; /* the folder answered: inotify or not is decided */
    unsigned open_handles;
    unsigned generation;
    unsigned tokens[WATCH_ORIGINS]; /* of the batch that is out, or 0 */
    unsigned last_beat;
    unsigned quiet_ticks;
    bool hung;
    bool said_gone;
    bool delivering;
    bool closing, ending;
    void (*close_cb)(void *ctx);
    void *close_ctx;
};

/* --- closing
 * ----------------------------------------------------------------------------------------------------
 */

static void handle_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    if (--w->open_handles > 0)
        return;
    void (*cb)(void *) = w->close_cb;
    void *ctx = w->close_ctx;
    free(w);
    if (cb != NULL)
        cb(ctx);
}

/* The thread has ended, or is left behind. */
static void end(struct watch *w)
{
    w->ending = true;
    pthread_mutex_lock(&w->s->ch.lock);
    bool ended = w->s->ch.ended;
    w->s->ch.async = NULL; /* if it runs on, it frees itself when it comes back */
    pthread_mutex_unlock(&w->s->ch.lock);
    if (ended) {
        pthread_join(w->thread, NULL);
        watch_scanner_free(w->s);
    } else {
        pthread_detach(w->thread);
    }
    w->s = NULL;
    uv_close((uv_handle_t *)&w->async, handle_closed);
    uv_close((uv_handle_t *)&w->timer, handle_closed);
}

static void on_deadline(uv_timer_t *timer)
{
    end(timer->data);
}

void watch_close(struct watch *w, uint64_t deadline_ms, void (*cb)(void *ctx), void *ctx)
{
    w->closing = true;
    w->close_cb = cb;
    w->close_ctx = ctx;
    if (w->polling)
        uv_close((uv_handle_t *)&w->poll, handle_closed);
    uv_timer_stop(&w->timer);
    uv_timer_start(&w->timer, on_deadline, deadline_ms, 0);
    pthread_mutex_lock(&w->s->ch.lock);
    w->s->ch.stop = true;
    w->s->ch.attention = true;
    pthread_cond_broadcast(&w->s->ch.wake);
    uv_async_send(&w->async); /* it may have ended already */
    pthread_mutex_unlock(&w->s->ch.lock);
}

/* --- the watchdog
 * -----------------------------------------------------------------------------------------------
 */

static void say_gone(struct watch *w, bool missing)
{
    bool gone = missing || w->hung;
    if (gone == w->said_gone || w->closing)
        return;
    w->said_gone = gone;
    w->handler.notice(w, gone ? WATCH_NOTICE_GONE : WATCH_NOTICE_BACK, w->s->root, 0,
                      w->handler.ctx);
}

static void on_tick(uv_timer_t *timer)
{
    struct watch *w = timer->data;
    pthread_mutex_lock(&w->s->ch.lock);
    bool working = w->s->ch.working, gone = w->s->ch.gone;
    pthread_mutex_unlock(&w->s->ch.lock);
    unsigned beat = atomic_load(&w->s->ch.beat);
    w->quiet_ticks = working && beat == w->last_beat ? w->quiet_ticks + 1 : 0;
    w->last_beat = beat;
    w->hung = w->quiet_ticks * TICK_MS >= HANG_MS;
    if (!working)
        uv_timer_stop(&w->timer);
    say_gone(w, gone);
}

static void watch_over(struct watch *w)
{
    if (uv_is_active((uv_handle_t *)&w->timer))
        return;
    w->last_beat = atomic_load(&w->s->ch.beat);
    w->quiet_ticks = 0;
    uv_timer_start(&w->timer, on_tick, TICK_MS, TICK_MS);
}

/* --- events
 * ------------------------------------------------------------------------------------------------------
 */

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    struct watch_channel *ch = &w->s->ch;
    (void)status;
    (void)events;
    pthread_mutex_lock(&ch->lock);
    for (;;) {
        if (WATCH_RELAY_SIZE - ch->relay_size < EVENT_ROOM) {
            ch->relay_stalled =
                true; /* the kernel's queue holds the rest, or overflows and says so */
            uv_poll_stop(&w->poll);
            break;
        }
        ssize_t n =
            read(w->s->folders.fd, ch->relay + ch->relay_size, WATCH_RELAY_SIZE - ch->relay_size);
        if (n <= 0)
            break;
        ch->relay_size += (size_t)n;
    }
    ch->idle = ch->idle && ch->relay_size == 0;
    ch->attention = true;
    pthread_cond_broadcast(&ch->wake);
    pthread_mutex_unlock(&ch->lock);
    watch_over(w);
}

/* The folder answered: the thread may go on. */
static void start(struct watch *w)
{
    struct watch_channel *ch = &w->s->ch;
    pthread_mutex_lock(&ch->lock);
    bool network = ch->check_network;
    pthread_mutex_unlock(&ch->lock);
    bool poll = w->mode == WATCH_MODE_POLL || (w->mode == WATCH_MODE_AUTO && network);
    int fd = poll ? -1 : inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd >= 0 && uv_poll_init(w->loop, &w->poll, fd) == 0) {
        w->polling = true;
        w->open_handles++;
        uv_poll_start(&w->poll, UV_READABLE, on_readable);
    } else if (fd >= 0) {
        close(fd);
        fd = -1;
    }
    w->started = true;
    w->hung = false;
    pthread_mutex_lock(&ch->lock);
    w->s->poll = poll;
    w->s->folders.fd = fd; /* none though wanted: the walk finds that nothing can be watched */
    ch->go = true;
    pthread_cond_broadcast(&ch->wake);
    pthread_mutex_unlock(&ch->lock);
    watch_over(w);
}

/* --- giving out
 * --------------------------------------------------------------------------------------------------
 */

static void give_notes(struct watch *w)
{
    struct watch_channel *ch = &w->s->ch;
    pthread_mutex_lock(&ch->lock);
    struct watch_note *notes = ch->notes;
    ch->notes = ch->notes_end = NULL;
    if (ch->n_notes > 0) {
        ch->n_notes = 0;
        ch->attention = true; /* events may wait for room */
        pthread_cond_broadcast(&ch->wake);
    }
    pthread_mutex_unlock(&ch->lock);
    while (notes != NULL) {
        struct watch_note *note = notes;
        notes = note->next;
        if (!w->closing)
            w->handler.notice(w, note->what, note->path != NULL ? note->path : w->s->root, note->n,
                              w->handler.ctx);
        free(note->path);
        free(note);
    }
}

static void give_batch(struct watch *w, enum watch_origin origin)
{
    struct watch_channel *ch = &w->s->ch;
    pthread_mutex_lock(&ch->lock);
    struct watch_batch *b = NULL;
    if (!ch->slots[origin].out && ch->slots[origin].posted != NULL) {
        b = ch->slots[origin].posted;
        ch->slots[origin].posted = NULL;
        ch->slots[origin].out = true;
        ch->attention = true; /* there is room for the next */
        pthread_cond_broadcast(&ch->wake);
    }
    pthread_mutex_unlock(&ch->lock);
    if (b == NULL)
        return;
    w->generation = (w->generation + 1) & (UINT32_MAX >> 2);
    w->tokens[origin] = (w->generation << 2) | (unsigned)(origin + 1);
    w->handler.batch(w, w->tokens[origin], b->files, b->n, w->handler.ctx);
    watch_batch_free(b);
}

static void on_async(uv_async_t *async)
{
    struct watch *w = async->data;
    if (w->ending)
        return;
    struct watch_channel *ch = &w->s->ch;
    pthread_mutex_lock(&ch->lock);
    bool working = ch->working, gone = ch->gone, ended = ch->ended, checked = ch->checked;
    bool resume = ch->relay_stalled && ch->relay_size == 0;
    ch->relay_stalled = ch->relay_stalled && !resume;
    pthread_mutex_unlock(&ch->lock);
    if (w->closing) {
        if (ended)
            end(w);
        return;
    }
    if (!w->started && checked)
        start(w);
    if (resume)
        uv_poll_start(&w->poll, UV_READABLE, on_readable);
    if (working)
        watch_over(w);
    say_gone(w, gone);
    if (!w->closing)
        give_notes(w);
    for (int i = 0; i < WATCH_ORIGINS && !w->closing; i++)
        give_batch(w, (enum watch_origin)i);
}

void watch_batch_done(struct watch *w, unsigned token)
{
    unsigned origin = (token & 3) - 1;
    if (w->closing || origin >= WATCH_ORIGINS || w->tokens[origin] != token)
        return;
    w->tokens[origin] = 0;
    struct watch_channel *ch = &w->s->ch;
    pthread_mutex_lock(&ch->lock);
    ch->slots[origin].out = false;
    if (ch->slots[origin].posted != NULL)
        uv_async_send(&w->async);
    ch->attention = true;
    pthread_cond_broadcast(&ch->wake);
    pthread_mutex_unlock(&ch->lock);
}

/* --- opening
 * -----------------------------------------------------------------------------------------------------
 */

bool watch_idle(const struct watch *w)
{
    struct watch_channel *ch = &w->s->ch;
    int unread = 0;
    if (w->polling && ioctl(w->s->folders.fd, FIONREAD, &unread) != 0)
        unread = 0;
    pthread_mutex_lock(&ch->lock);
    bool idle = ch->idle && unread == 0 && !ch->rescan && ch->relay_size == 0 && ch->notes == NULL;
    for (int i = 0; i < WATCH_ORIGINS; i++)
        idle = idle && ch->slots[i].posted == NULL && !ch->slots[i].out;
    pthread_mutex_unlock(&ch->lock);
    return idle;
}

size_t watch_settling(const struct watch *w)
{
    return atomic_load(&w->s->ch.settling);
}

const char *watch_path(const struct watch *w)
{
    return w->s->root;
}

void watch_rescan(struct watch *w)
{
    if (w->closing)
        return;
    pthread_mutex_lock(&w->s->ch.lock);
    w->s->ch.rescan = true;
    w->s->ch.attention = true;
    pthread_cond_broadcast(&w->s->ch.wake);
    pthread_mutex_unlock(&w->s->ch.lock);
}

static struct watch_scanner *make_scanner(const struct watch_options *o)
{
    struct watch_scanner *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->opened_ms = clock_realtime_ms();
    s->folders.fd = -1;
    s->recursive = o->recursive;
    s->follow = o->follow_symlinks;
    s->make = o->make;
    s->settle_ms = o->settle_ms;
    s->poll_ms = o->poll_ms != 0 ? o->poll_ms : 1;
    s->rescan_ms = o->rescan_ms;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->ch.wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&s->ch.lock, NULL);
    s->root = strdup(o->path);
    s->ch.relay = malloc(WATCH_RELAY_SIZE);
    s->parse = malloc(WATCH_RELAY_SIZE);
    if (s->root == NULL || s->ch.relay == NULL || s->parse == NULL ||
        watch_filter_init(&s->filter, o) != 0) {
        watch_scanner_free(s);
        return NULL;
    }
    s->root_prefix = strcmp(s->root, "/") == 0 ? 0 : strlen(s->root);
    return s;
}

static int start_thread(struct watch *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    int rc = pthread_create(&w->thread, NULL, watch_scanner_main, w->s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* Waits, but not for ever, for the thread's first look at the folder. */
static int first_look(struct watch *w, uint64_t wait_ms, bool *answered, struct err *e)
{
    struct watch_channel *ch = &w->s->ch;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(wait_ms / 1000);
    pthread_mutex_lock(&ch->lock);
    while (!ch->checked && pthread_cond_timedwait(&ch->wake, &ch->lock, &until) == 0)
        ;
    *answered = ch->checked;
    ch->late = !ch->checked;
    int rc = ch->checked ? ch->check_code : 0;
    if (rc != 0 && e != NULL)
        *e = ch->check_err;
    pthread_mutex_unlock(&ch->lock);
    return rc;
}

int watch_open(struct watch **ret, uv_loop_t *loop, const struct watch_options *options,
               const struct watch_handler *handler, struct err *e)
{
    *ret = NULL;
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory to watch a folder");
    w->s = make_scanner(options);
    if (w->s == NULL) {
        free(w);
        return err_set(e, ERR_NOMEM, "not enough memory to watch a folder");
    }
    w->handler = *handler;
    w->loop = loop;
    w->mode = options->mode;
    uv_async_init(loop, &w->async, on_async);
    uv_timer_init(loop, &w->timer);
    w->open_handles = 2;
    w->async.data = w->timer.data = w->poll.data = w;
    w->s->ch.async = &w->async;
    int errnum = start_thread(w);
    if (errnum != 0) {
        watch_scanner_free(w->s);
        uv_close((uv_handle_t *)&w->async, handle_closed);
        uv_close((uv_handle_t *)&w->timer, handle_closed);
        return err_set_errno(e, errnum, "cannot start the thread of a watch");
    }
    bool answered;
    int rc = first_look(w, options->silent ? 0 : OPEN_WAIT_MS, &answered, e);
    if (rc != 0) {
        watch_close(w, OPEN_WAIT_MS, NULL, NULL);
        return rc;
    }
    if (answered) {
        start(w);
    } else {
        w->hung = true;
        uv_async_send(&w->async); /* says so */
    }
    *ret = w;
    return 0;
}
