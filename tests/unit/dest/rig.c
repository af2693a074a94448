#include "rig.h"

#include "base/clock.h"
#include "base/text.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 60000U

uv_loop_t rig_loop;
char rig_folder[64];
struct config_destination rig_config;
struct dest *rig_dest;
void (*rig_on_done)(void);

static struct job_queue *jobs;
static struct dicom_reader *reader;
static pid_t sandbox;
static int port;

extern char **environ;

void rig_sandbox(const char *option, ...)
{
    char state[96], number[16], line[512];
    const char *argv[40] = {
        SANDBOX,          "--state",       state,       "--port",          number,
        "--account-key",  RIG_ACCOUNT_KEY, "--api-key", RIG_API_KEY,       "--user",
        "up@example.org", "--institution", "Main",      "--dicom-program", DICOM_PROGRAM};
    size_t n = 15;
    va_list args;
    int out[2];
    va_start(args, option);
    for (; option; option = va_arg(args, const char *))
        argv[n++] = option;
    va_end(args);
    snprintf(state, sizeof(state), "%s/sandbox", rig_folder);
    snprintf(number, sizeof(number), "%d", port);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    assert_int_equal(posix_spawn(&sandbox, SANDBOX, &actions, NULL, (char *const *)argv, environ),
                     0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    bool ready = false;
    while (!ready && fgets(line, sizeof(line), f))
        ready = strncmp(line, "listening on ", 13) == 0;
    assert_true(ready);
    port = atoi(strrchr(line, ':') + 1);
    fclose(f);
}

void rig_sandbox_kill(void)
{
    if (sandbox > 0) {
        kill(sandbox, SIGKILL);
        waitpid(sandbox, NULL, 0);
    }
    sandbox = 0;
}

void rig_sandbox_hang(bool hang)
{
    kill(sandbox, hang ? SIGSTOP : SIGCONT);
}

void rig_faults(const char *json)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char request[2048], answer[2048];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    int n = snprintf(
        request, sizeof(request),
        "POST /_sandbox/faults HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
        port, strlen(json), json);
    assert_int_equal(write(fd, request, (size_t)n), n);
    ssize_t got = read(fd, answer, sizeof(answer) - 1);
    assert_true(got > 0);
    answer[got] = '\0';
    if (!strstr(answer, " 200 "))
        fail_msg("faults: %s", answer);
    close(fd);
}

cJSON *rig_tree(void)
{
    char command[512];
    size_t size = 0, capacity = 4 << 20;
    char *text = malloc(capacity + 1);
    snprintf(command, sizeof(command), "%s ls --state %s/sandbox --json", SANDBOX, rig_folder);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(text);
    size = fread(text, 1, capacity, f);
    assert_int_equal(pclose(f), 0);
    cJSON *root = cJSON_ParseWithLength(text, size);
    assert_non_null(root);
    free(text);
    return root;
}

/* Every order with the folder it was found in; one that is in several folders comes several times.
 */
struct placed {
    const cJSON *order;
    const char *uuid, *study, *folder;
};

static size_t collect(const cJSON *holder, const char *path, struct placed *out, size_t n)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(holder, "Orders"))
    {
        assert_true(n < 1000);
        out[n++] =
            (struct placed){item, cJSON_GetObjectItem(item, "PatientOrderUuid")->valuestring,
                            cJSON_GetObjectItem(item, "StudyInstanceUid")->valuestring, path};
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(holder, "Folders"))
    {
        n = collect(item, cJSON_GetObjectItem(item, "Path")->valuestring, out, n);
    }
    return n;
}

static bool seen_before(const struct placed *all, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(all[i].uuid, all[j].uuid) == 0)
            return true;
    return false;
}

int rig_receipts(const struct rig_file *f)
{
    static struct placed all[1000];
    cJSON *tree = rig_tree();
    size_t n = collect(tree, "", all, 0);
    const cJSON *instance;
    char sha[2 * SOURCE_SHA256_SIZE + 1];
    int receipts = 0;
    text_hex(f->sha256, SOURCE_SHA256_SIZE, sha);
    for (size_t i = 0; i < n; i++) {
        if (seen_before(all, i))
            continue;
        cJSON_ArrayForEach(instance, cJSON_GetObjectItem(all[i].order, "Instances"))
        {
            if (strcmp(cJSON_GetObjectItem(instance, "SopInstanceUid")->valuestring, f->sop) != 0 ||
                !cJSON_IsTrue(cJSON_GetObjectItem(instance, "Current")))
                continue;
            if (strcmp(cJSON_GetObjectItem(instance, "Sha256")->valuestring, sha) != 0)
                receipts = -1000000;
            receipts += cJSON_GetObjectItem(instance, "Receipts")->valueint;
        }
    }
    cJSON_Delete(tree);
    return receipts < 0 ? -1 : receipts;
}

bool rig_in_folder(const char *study, const char *folder)
{
    static struct placed all[1000];
    cJSON *tree = rig_tree();
    size_t n = collect(tree, "", all, 0);
    bool found = false;
    for (size_t i = 0; i < n; i++)
        found = found || (strcmp(all[i].study, study) == 0 && strcmp(all[i].folder, folder) == 0);
    cJSON_Delete(tree);
    return found;
}

unsigned rig_orders(void)
{
    static struct placed all[1000];
    cJSON *tree = rig_tree();
    size_t n = collect(tree, "", all, 0);
    unsigned orders = 0;
    for (size_t i = 0; i < n; i++)
        orders += !seen_before(all, i);
    cJSON_Delete(tree);
    return orders;
}

/* ---- files ---- */

static void element(FILE *f, unsigned group, unsigned number, const char *vr, const char *value)
{
    size_t n = strlen(value), padded = n + (n & 1);
    unsigned char head[8] = {(unsigned char)group,  (unsigned char)(group >> 8),
                             (unsigned char)number, (unsigned char)(number >> 8),
                             (unsigned char)vr[0],  (unsigned char)vr[1],
                             (unsigned char)padded, (unsigned char)(padded >> 8)};
    fwrite(head, 1, 8, f);
    fwrite(value, 1, n, f);
    if (n & 1)
        fputc(strcmp(vr, "UI") == 0 ? 0 : ' ', f);
}

static void write_dicom(FILE *f, const struct rig_file *file, size_t size, unsigned seed)
{
    char zeros[128] = {0};
    size_t sop = strlen(file->sop) + (strlen(file->sop) & 1);
    unsigned length = (unsigned)(8 + 26 + 8 + sop + 8 + 20);
    fwrite(zeros, 1, 128, f);
    fwrite("DICM\2\0\0\0UL\4\0", 1, 12, f);
    unsigned char le[4] = {(unsigned char)length, (unsigned char)(length >> 8), 0, 0};
    fwrite(le, 1, 4, f);
    element(f, 2, 2, "UI", "1.2.840.10008.5.1.4.1.1.7");
    element(f, 2, 3, "UI", file->sop);
    element(f, 2, 0x10, "UI", "1.2.840.10008.1.2.1");
    element(f, 8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.7");
    element(f, 8, 0x18, "UI", file->sop);
    element(f, 8, 0x60, "CS", "OT");
    element(f, 0x10, 0x10, "PN", "DOE^JANE");
    element(f, 0x10, 0x20, "LO", "PID-1");
    element(f, 0x20, 0xd, "UI", file->study);
    element(f, 0x20, 0xe, "UI", "1.2.826.0.1.3680043.10.999.7.1");
    fwrite("\xe0\x7f\x10\x00OW\0\0", 1, 8, f);
    size_t pixels = size & ~(size_t)1;
    unsigned char l[4] = {(unsigned char)pixels, (unsigned char)(pixels >> 8),
                          (unsigned char)(pixels >> 16), (unsigned char)(pixels >> 24)};
    fwrite(l, 1, 4, f);
    for (size_t i = 0; i < pixels; i++)
        fputc((int)((7 * i + i / 251 + seed) % 256), f);
}

static void on_done(struct dest_delivery *d, const struct dest_result *r)
{
    struct rig_file *f = d->ctx;
    f->result = *r;
    f->done++;
    if (rig_on_done)
        rig_on_done();
}

void rig_make(struct rig_file *f, const char *name, const char *study, const char *sop, size_t size,
              unsigned seed)
{
    static uint64_t id;
    struct stat st;
    memset(f, 0, sizeof(*f));
    snprintf(f->path, sizeof(f->path), "%s/%s.dcm", rig_folder, name);
    snprintf(f->sop, sizeof(f->sop), "%s", sop);
    snprintf(f->study, sizeof(f->study), "%s", study);
    FILE *out = fopen(f->path, "w+e");
    assert_non_null(out);
    write_dicom(out, f, size, seed);
    fflush(out);
    assert_int_equal(fstat(fileno(out), &st), 0);
    unsigned char *bytes = malloc((size_t)st.st_size);
    assert_non_null(bytes);
    rewind(out);
    assert_int_equal(fread(bytes, 1, (size_t)st.st_size, out), st.st_size);
    EVP_Digest(bytes, (size_t)st.st_size, f->sha256, NULL, EVP_sha256(), NULL);
    free(bytes);
    fclose(out);
    f->delivery = (struct dest_delivery){
        .id = ++id,
        .path = f->path,
        .size = (uint64_t)st.st_size,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
        .sop_class_uid = "1.2.840.10008.5.1.4.1.1.7",
        .sop_instance_uid = f->sop,
        .study_instance_uid = f->study,
        .series_instance_uid = "1.2.826.0.1.3680043.10.999.7.1",
        .transfer_syntax_uid = "1.2.840.10008.1.2.1",
        .folder = "",
        .cb = on_done,
        .ctx = f,
    };
}

void rig_send(struct rig_file *f)
{
    f->done = 0;
    dest_send(rig_dest, &f->delivery);
    assert_int_equal(f->done, 0); /* never from within */
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

/* Something that makes the loop turn. */
static uv_timer_t tick;

void rig_run_ms(uint64_t ms)
{
    uint64_t end = clock_monotonic_ms() + ms;
    while (clock_monotonic_ms() < end)
        uv_run(&rig_loop, UV_RUN_ONCE);
}

void rig_wait(struct rig_file *files, size_t n)
{
    uint64_t end = clock_monotonic_ms() + PATIENCE_MS;
    for (;;) {
        size_t done = 0;
        for (size_t i = 0; i < n; i++) {
            assert_true(files[i].done <= 1);
            done += files[i].done;
        }
        if (done == n)
            return;
        if (clock_monotonic_ms() > end)
            fail_msg("only %zu of %zu deliveries ended", done, n);
        uv_run(&rig_loop, UV_RUN_ONCE);
    }
}

void rig_deliver(struct rig_file *f)
{
    rig_send(f);
    rig_wait(f, 1);
}

/* ---- the destination ---- */

void rig_open(void)
{
    static char router[64];
    struct dest_env env = {.loop = &rig_loop, .jobs = jobs, .reader = reader};
    struct err e;
    snprintf(router, sizeof(router), "http://127.0.0.1:%d/router/", port);
    if (!rig_config.postdicom.router)
        rig_config.postdicom.router = router;
    if (dest_open(&rig_dest, &env, &rig_config, &e))
        fail_msg("%s", e.text);
}

static void on_closed(void *ctx)
{
    *(bool *)ctx = true;
}

void rig_close(uint64_t deadline_ms)
{
    bool closed = false;
    uint64_t end = clock_monotonic_ms() + PATIENCE_MS;
    if (!rig_dest)
        return;
    dest_close(rig_dest, deadline_ms, on_closed, &closed);
    assert_false(closed);
    while (!closed) {
        if (clock_monotonic_ms() > end)
            fail_msg("the destination does not close");
        uv_run(&rig_loop, UV_RUN_ONCE);
    }
    rig_dest = NULL;
}

int rig_setup(void **state)
{
    struct err e;
    (void)state;
    snprintf(rig_folder, sizeof(rig_folder), "/tmp/dcmferry-dest-XXXXXX");
    assert_non_null(mkdtemp(rig_folder));
    port = 0;
    rig_on_done = NULL;
    job_setup(4);
    assert_int_equal(uv_loop_init(&rig_loop), 0);
    assert_int_equal(job_queue_open(&jobs, &rig_loop, 4), 0);
    assert_int_equal(dicom_reader_open(&reader, &rig_loop, DICOM_PROGRAM, 1, &e), 0);
    uv_timer_init(&rig_loop, &tick);
    uv_timer_start(&tick, on_tick, 20, 20);
    rig_config = (struct config_destination){
        .name = (char *)"cloud",
        .postdicom = {.account_key = {SECRET_LITERAL, (char *)RIG_ACCOUNT_KEY},
                      .api_key = {SECRET_LITERAL, (char *)RIG_API_KEY},
                      .connections = 4,
                      .pipeline = 1,
                      .session_files = 500,
                      .session_idle_ms = 30000},
        .proxy = (char *)"",
        .connect_timeout_ms = 10000,
        .idle_timeout_ms = 30000,
        .ping_interval_ms = 30000,
        .idle_close_ms = 60000,
        .retry_min_ms = 50,
        .retry_max_ms = 400,
    };
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

int rig_teardown(void **state)
{
    bool closed = false;
    (void)state;
    rig_close(0);
    dicom_reader_close(reader, on_closed, &closed);
    while (!closed)
        uv_run(&rig_loop, UV_RUN_ONCE);
    /* A read whose delivery was given up ends in its own time. */
    while (job_queue_pending(jobs) > 0)
        uv_run(&rig_loop, UV_RUN_ONCE);
    job_queue_close(jobs);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&rig_loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig_loop), 0);
    rig_sandbox_kill();
    nftw(rig_folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}
