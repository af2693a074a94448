#include "base/probe.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct task {
    probe_work work;
    int fd;
    size_t out_size;
    size_t in_at;
    _Alignas(16) char data[]; /* out, then in */
};

static struct task *make_task(int fd, probe_work work, const void *in, size_t in_size,
                              const void *out, size_t out_size)
{
    size_t at = (out_size + 15) & ~(size_t)15; /* aligned for whatever it is */
    struct task *t = calloc(1, sizeof(*t) + at + in_size);
    if (!t)
        return NULL;
    *t = (struct task){.work = work, .fd = fd, .out_size = out_size, .in_at = at};
    memcpy(t->data, out, out_size);
    memcpy(t->data + at, in, in_size);
    return t;
}

static void run(struct task *t)
{
    size_t sent = 0;
    t->work(t->data + t->in_at, t->data);
    while (sent < t->out_size) {
        ssize_t n = send(t->fd, t->data + sent, t->out_size - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return; /* nobody waits any more */
        sent += n > 0 ? (size_t)n : 0;
    }
}

/* Not ours to wait for: init does, whenever it ends. While it hangs it must not hold a lock of
 * ours, nor a pipe whose end others wait for. */
static bool start_process(struct task *t)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid != 0)
            _exit(pid < 0);
        if (t->fd > 0)
            close_range(0, (unsigned)t->fd - 1, 0);
        close_range((unsigned)t->fd + 1, ~0U, 0);
        run(t);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (pid > 0 && status != 0)
        errno = EAGAIN;
    return pid > 0 && status == 0;
}

static void *thread_main(void *arg)
{
    struct task *t = arg;
    run(t);
    close(t->fd);
    free(t);
    return NULL;
}

static bool start_thread(struct task *t)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    errno = pthread_create(&thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (errno != 0)
        return false;
    pthread_detach(thread);
    return true;
}

bool probe_start(struct probe *p, enum probe_where where, probe_work work, const void *in,
                 size_t in_size, const void *out, size_t out_size)
{
    int ends[2];
    p->fd = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return false;
    struct task *t = make_task(ends[1], work, in, in_size, out, out_size);
    if (t && where == PROBE_THREAD && start_thread(t)) {
        p->fd = ends[0];
        return true;
    }
    bool started = t && where == PROBE_PROCESS && start_process(t);
    int errnum = errno;
    free(t);
    close(ends[1]);
    if (started)
        p->fd = ends[0];
    else
        close(ends[0]);
    errno = errnum;
    return started;
}

bool probe_wait(struct probe *p, void *out, size_t out_size, uint64_t deadline_ms)
{
    size_t used = 0;
    while (used < out_size) {
        uint64_t now = clock_monotonic_ms();
        struct pollfd event = {.fd = p->fd, .events = POLLIN};
        int n = poll(&event, 1, deadline_ms > now ? (int)(deadline_ms - now) : 0);
        if (n < 0 && errno == EINTR)
            continue;
        ssize_t got = n > 0 ? read(p->fd, (char *)out + used, out_size - used) : 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break; /* too late, or it died */
        used += (size_t)got;
    }
    close(p->fd);
    p->fd = -1;
    return used == out_size;
}
