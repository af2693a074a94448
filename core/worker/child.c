/* The worker program's side of worker.h. */
#include "worker/worker.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORKER_FD 3

static int send_message(const void *data, size_t size)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t n;
    do
        n = sendmsg(WORKER_FD, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 0;
    return errno == EPIPE || errno == ECONNRESET ? ERR_CLOSED : err_from_errno(errno);
}

static void take_fds(struct msghdr *message, int fds[WORKER_MAX_FDS], size_t *n_fds)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(message); h; h = CMSG_NXTHDR(message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
            if (*n_fds < WORKER_MAX_FDS)
                fds[(*n_fds)++] = fd;
            else
                close(fd);
        }
    }
}

long worker_receive(void *buffer, size_t capacity, int fds[WORKER_MAX_FDS], size_t *n_fds)
{
    static bool said_ready;
    *n_fds = 0;
    if (!said_ready) {
        int r = send_message("", 1);
        if (r < 0)
            return r == ERR_CLOSED ? 0 : r;
        said_ready = true;
    }
    union {
        char bytes[CMSG_SPACE(sizeof(int) * WORKER_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = buffer, .iov_len = capacity};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t n;
    do
        n = recvmsg(WORKER_FD, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? 0 : err_from_errno(errno);
    take_fds(&message, fds, n_fds);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        while (*n_fds > 0)
            close(fds[--*n_fds]);
        return ERR_TOO_LARGE;
    }
    return n;
}

int worker_answer(const void *data, size_t size)
{
    return send_message(data, size);
}
