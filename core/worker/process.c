#include "worker/process.h"

#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct process {
    uv_process_t handle;
    uv_poll_t poll;
    int fd; /* -1 once ended */
    bool exited;
    bool want_write;
    bool abandoned; /* nobody knows of it; it only has to be reaped */
    unsigned open_handles;
    struct process_options options;
};

static const char *const kept_variables[] = {
    "LANG",         "LC_ALL",       "LC_CTYPE",      "TZ",           "DCMDICTPATH",
    "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS",
};
static const char kept_prefix[] = "DCMFERRY_WORKER_";

#define MAX_VARIABLES 32

extern char **environ;

static void keep_environment(char *out[MAX_VARIABLES + 1])
{
    size_t n = 0;
    for (char **v = environ; v && *v && n < MAX_VARIABLES; v++) {
        bool keep = strncmp(*v, kept_prefix, sizeof(kept_prefix) - 1) == 0;
        for (size_t i = 0; !keep && i < sizeof(kept_variables) / sizeof(kept_variables[0]); i++) {
            size_t length = strlen(kept_variables[i]);
            keep = strncmp(*v, kept_variables[i], length) == 0 && (*v)[length] == '=';
        }
        if (keep)
            out[n++] = *v;
    }
    out[n] = NULL;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct process *pr = handle->data;
    if (--pr->open_handles == 0)
        free(pr);
}

void process_end(struct process *pr)
{
    if (pr->fd < 0)
        return;
    uv_close((uv_handle_t *)&pr->poll, on_handle_closed);
    close(pr->fd);
    pr->fd = -1;
}

void process_kill(struct process *pr)
{
    process_end(pr);
    if (!pr->exited)
        uv_process_kill(&pr->handle, SIGKILL);
}

void process_drain(struct process *pr)
{
    while (pr->fd >= 0) {
        ssize_t n =
            recv(pr->fd, pr->options.buffer, pr->options.capacity, MSG_DONTWAIT | MSG_TRUNC);
        /* unix(7): when the peer closed with something unread, that is told first, and what it had
         * sent comes after. */
        if (n < 0 && (errno == EINTR || errno == ECONNRESET))
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || (size_t)n > pr->options.capacity) {
            pr->options.events->broken(pr, pr->options.ctx);
            return;
        }
        pr->options.events->message(pr, pr->options.buffer, (size_t)n, pr->options.ctx);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct process *pr)
{
    uv_poll_start(&pr->poll, UV_READABLE | (pr->want_write ? UV_WRITABLE : 0), on_poll);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct process *pr = poll->data;
    if ((events & UV_READABLE) || status < 0)
        process_drain(pr);
    if (pr->fd >= 0 && (events & UV_WRITABLE) && pr->want_write) {
        pr->want_write = false;
        watch(pr);
        pr->options.events->writable(pr, pr->options.ctx);
    }
}

static void on_exit_status(uv_process_t *handle, int64_t status, int signal)
{
    struct process *pr = handle->data;
    pr->exited = true;
    process_drain(pr);
    process_end(pr);
    uv_close((uv_handle_t *)&pr->handle, on_handle_closed);
    if (!pr->abandoned)
        pr->options.events->exited(pr, status, signal, pr->options.ctx);
}

static int set_limits(pid_t pid, uint64_t address_space)
{
    struct rlimit none = {0, 0};
    struct rlimit space = {address_space, address_space};
    if (prlimit(pid, RLIMIT_CORE, &none, NULL) != 0)
        return errno;
    if (address_space && prlimit(pid, RLIMIT_AS, &space, NULL) != 0)
        return errno;
    return 0;
}

static int make_pair(int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return errno;
    /* A message must fit whole; the kernel's bookkeeping counts too. */
    int size = 2 * WORKER_MAX_MESSAGE;
    for (int i = 0; i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    return 0;
}

int process_start(struct process **ret, uv_loop_t *loop, const struct process_options *options,
                  struct err *e)
{
    int pair[2];
    struct process *pr = calloc(1, sizeof(*pr));
    if (!pr)
        return err_set(e, ERR_NOMEM, "cannot start a worker: out of memory");
    pr->options = *options;
    int r = make_pair(pair);
    if (r != 0) {
        free(pr);
        return err_set_errno(e, r, "cannot start a worker");
    }
    char *environment[MAX_VARIABLES + 1];
    keep_environment(environment);
    uv_stdio_container_t stdio[4] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = pair[1]},
    };
    uv_process_options_t spawn = {
        .exit_cb = on_exit_status,
        .file = options->argv[0],
        .args = (char **)(uintptr_t)options->argv, /* libuv does not write to them */
        .env = environment,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 4,
        .stdio = stdio,
    };
    pr->fd = pair[0];
    pr->handle.data = pr;
    pr->poll.data = pr;
    pr->open_handles = 1;
    int spawned = uv_spawn(loop, &pr->handle, &spawn);
    close(pair[1]);
    r = spawned;
    if (r == 0)
        r = -set_limits(pr->handle.pid, options->address_space);
    if (r == 0)
        r = uv_poll_init(loop, &pr->poll, pr->fd);
    if (r != 0) {
        close(pr->fd);
        pr->fd = -1;
        pr->abandoned = true;
        if (spawned == 0)
            uv_process_kill(&pr->handle, SIGKILL);
        else
            uv_close((uv_handle_t *)&pr->handle, on_handle_closed);
        return err_set_errno(e, -r, "cannot start a worker");
    }
    pr->open_handles = 2;
    watch(pr);
    *ret = pr;
    return 0;
}

int process_send(struct process *pr, const void *data, size_t size, const int *fds, size_t n_fds)
{
    if (pr->fd < 0)
        return ERR_CLOSED;
    union {
        char bytes[CMSG_SPACE(sizeof(int) * WORKER_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (n_fds > 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * n_fds);
    }
    ssize_t n;
    do
        n = sendmsg(pr->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 0;
    if (errno == EAGAIN) {
        pr->want_write = true;
        watch(pr);
        return 1;
    }
    return errno == EPIPE || errno == ECONNRESET ? ERR_CLOSED : err_from_errno(errno);
}

uint64_t process_cpu_ms(const struct process *pr)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pr->handle.pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
