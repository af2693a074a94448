#include "servers.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

uv_loop_t loop;

static char folder[] = "/tmp/dcmferry-net-XXXXXX";
static pid_t server;
static int server_stdin;
static cJSON *ports;

const char *text(const char *format, ...)
{
    static char texts[64][512];
    static unsigned next;
    char *out = texts[next++ % 64];
    va_list ap;
    va_start(ap, format);
    vsnprintf(out, sizeof texts[0], format, ap);
    va_end(ap);
    return out;
}

const char *servers_path(const char *name)
{
    return text("%s/%s", folder, name);
}

int servers_port(const char *name)
{
    cJSON *port = cJSON_GetObjectItem(ports, name);
    assert_non_null(port);
    return port->valueint;
}

int servers_setup(void **state)
{
    (void)state;
    /* What the machine's owner uses as proxy is not for these servers. */
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
                                        "ALL_PROXY",  "no_proxy",    "NO_PROXY"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(folder) || uv_loop_init(&loop))
        return -1;
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return -1;
    server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl("/usr/bin/python3", "python3", TEST_SERVER, folder, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    server_stdin = in[1];
    FILE *f = fdopen(out[0], "r");
    char line[1024];
    if (server < 0 || !f || !fgets(line, sizeof line, f))
        return -1;
    fclose(f);
    ports = cJSON_Parse(line);
    return ports ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

int servers_teardown(void **state)
{
    (void)state;
    close(server_stdin);
    waitpid(server, NULL, 0);
    cJSON_Delete(ports);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return uv_loop_close(&loop);
}

static void on_guard(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

static void wait_until(const bool *flag, uint64_t ms, bool *over)
{
    uv_timer_t guard;
    uv_timer_init(&loop, &guard);
    guard.data = over;
    uv_update_time(&loop);
    uv_timer_start(&guard, on_guard, ms, 0);
    while (!*flag && !*over)
        uv_run(&loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&guard, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
}

void wait_for(const bool *flag)
{
    bool over = false;
    wait_until(flag, 30000, &over);
    assert_true(*flag);
}

void run_for(uint64_t ms)
{
    bool never = false, over = false;
    wait_until(&never, ms, &over);
}

struct net *net_begin(const struct net_options *options)
{
    struct net_options o = options ? *options : (struct net_options){0};
    if (!o.connect_timeout_ms)
        o.connect_timeout_ms = 20000;
    if (!o.idle_timeout_ms)
        o.idle_timeout_ms = 20000;
    struct net *n = NULL;
    struct err e = {0};
    if (net_open(&n, &loop, &o, &e))
        fail_msg("%s", e.text);
    return n;
}

static void on_net_closed(void *ctx)
{
    *(bool *)ctx = true;
}

void net_end(struct net *n)
{
    bool closed = false;
    net_close(n, on_net_closed, &closed);
    wait_for(&closed);
    assert_false(uv_loop_alive(&loop));
}
