/* A worker program that does what a request's first byte says. */
#include "worker/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void answer_text(const char *text)
{
    worker_answer(text, strlen(text) + 1);
}

/* The start-up behaviour is in the environment, since no request has come yet. */
static void misbehave_at_start(void)
{
    const char *how = getenv("DCMFERRY_WORKER_START");
    if (!how)
        return;
    if (strcmp(how, "exit") == 0)
        _exit(7);
    if (strncmp(how, "exit-once:", 10) == 0 && access(how + 10, F_OK) == 0) {
        unlink(how + 10);
        _exit(7);
    }
}

int main(void)
{
    static char request[WORKER_MAX_MESSAGE], huge[2 * WORKER_MAX_MESSAGE];
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    misbehave_at_start();
    unsigned served = 0;
    for (;;) {
        int fds[WORKER_MAX_FDS];
        size_t n_fds;
        long size = worker_receive(request, sizeof(request), fds, &n_fds);
        if (size <= 0)
            return size < 0;
        served++;
        char text[256];
        struct rlimit limit;
        switch (request[0]) {
        case 'e': /* echo */
            worker_answer(request, (size_t)size);
            break;
        case 'c': /* crash */
            signal(SIGSEGV, SIG_DFL);
            raise(SIGSEGV);
            break;
        case 'x': /* exit */
            _exit(3);
        case 'b': /* busy for ever */
            for (volatile unsigned i = 0;; i++)
                continue;
        case 'w': /* waits for ever, without CPU */
            for (;;)
                pause_ms(1000);
        case 's': /* slow: as many ms as the text says */
            pause_ms(atol(request + 1));
            worker_answer(request, (size_t)size);
            break;
        case 'h': /* an answer that is too long, should the kernel take it */
            if (send(3, huge, WORKER_MAX_MESSAGE + 1, 0) < 0)
                _exit(9);
            break;
        case '2': /* two answers */
            worker_answer(request, (size_t)size);
            worker_answer(request, (size_t)size);
            break;
        case 'o': /* crash unless alone and fresh: the first time in another's company */
            if (served > 1)
                raise(SIGKILL);
            answer_text("alone");
            break;
        case 'p': /* process id */
            snprintf(text, sizeof(text), "%ld", (long)getpid());
            answer_text(text);
            break;
        case 'f': { /* reads each descriptor from its start */
            size_t used = 0;
            for (size_t i = 0; i < n_fds; i++) {
                ssize_t n = pread(fds[i], text + used, 16, 0);
                used += n > 0 ? (size_t)n : 0;
            }
            text[used] = '\0';
            answer_text(text);
            break;
        }
        case 'l': /* limits */
            getrlimit(RLIMIT_AS, &limit);
            snprintf(text, sizeof(text), "%llu", (unsigned long long)limit.rlim_cur);
            getrlimit(RLIMIT_CORE, &limit);
            if (limit.rlim_max != 0)
                answer_text("core files are possible");
            else
                answer_text(text);
            break;
        case 'm': { /* whether that many bytes can be had */
            void *p = mmap(NULL, (size_t)atol(request + 1), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            answer_text(p == MAP_FAILED ? "no" : "yes");
            break;
        }
        case 'v': /* a variable of the environment */
            answer_text(getenv(request + 1) ? getenv(request + 1) : "(none)");
            break;
        default:
            _exit(4);
        }
        for (size_t i = 0; i < n_fds; i++)
            close(fds[i]);
    }
}
