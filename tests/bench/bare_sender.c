/* The bare sender: what the same frames over the same connections cost without watching, parsing or
 * journal. Sends every file below FOLDER (one sub-folder a study) into the folder Bench/CT with
 * core/postdicom, reading with plain pread, and prints one line of JSON.
 *
 *   bare_sender ROUTER ACCOUNT_KEY API_KEY CONNECTIONS PIPELINE FOLDER [COUNT]
 *
 * COUNT: that many files at most. Like the daemon it opens a session, an upload session per study
 * and 500 files, and sends parts of 512 KiB; nothing is hashed or checked. */
#include "base/clock.h"
#include "postdicom/pd_folder.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#define SESSION_FILES 500
#define FOLDER        "Bench/CT"

struct file {
    char *path;
    size_t size;
    unsigned study;
};

/* A part that is being sent, or free. */
struct slot {
    struct pd_call call;
    uint8_t buffer[PD_PART_SIZE];
    char *json;
    uint64_t begun_us;
    bool last;
    struct slot *next;
};

static uv_loop_t loop;
static struct pd_session *session;
static struct pd_folders *folders;
static struct pd_waiter ready;
static struct pd_folder_request folder_request;
static char folder_uuid[PD_UUID_SIZE];

static struct file *files;
static size_t n_files, room, limit = SIZE_MAX;
static unsigned n_studies;
static char study_path[4096];

static size_t current, done; /* files begun and acknowledged */
static size_t parts_left;    /* of the current file */
static unsigned part, n_parts;
static int fd = -1;
static struct slot *idle;
static struct pd_call initialize;
static char *initialize_json;
static bool initializing;
static char upload_uuid[PD_UUID_SIZE];
static unsigned upload_study = UINT32_MAX, upload_files;

static uint64_t *latencies_us;
static uint64_t bytes, parts;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bare_sender: %s: %s\n", what, why);
    exit(1);
}

static int found(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    size_t folder = (size_t)ftw->base;
    if (type != FTW_F || n_files == limit)
        return 0;
    if (strncmp(study_path, path, folder) != 0 || study_path[folder] != '\0') {
        n_studies++;
        snprintf(study_path, sizeof study_path, "%.*s", (int)folder, path);
    }
    if (n_files == room) {
        room = room ? room * 2 : 1024;
        files = realloc(files, room * sizeof *files);
    }
    char *copy = strdup(path);
    if (!files || !copy)
        die(path, "out of memory");
    files[n_files++] = (struct file){.path = copy, .size = (size_t)st->st_size, .study = n_studies};
    return 0;
}

static void send_more(void);

static void acknowledged(struct pd_call *c, int status, const struct pd_answer *a,
                         const struct err *e)
{
    struct slot *s = c->ctx;
    if (status != 0 || !a->ok)
        die("a part was not taken", status ? e->text : a->text);
    latencies_us[parts++] = clock_monotonic_us() - s->begun_us;
    bytes += c->request.bytes_size;
    done += s->last;
    free(s->json);
    LL_PREPEND(idle, s);
    if (done == n_files)
        uv_stop(&loop);
    else
        send_more();
}

static void initialized(struct pd_call *c, int status, const struct pd_answer *a,
                        const struct err *e)
{
    (void)c;
    initializing = false;
    free(initialize_json);
    if (status != 0 || !a->ok ||
        (!pd_answer_id(a->root, "SessionUniqueUuid", upload_uuid) &&
         !pd_answer_id(a->result, "SessionUniqueUuid", upload_uuid)))
        die("no upload session", status ? e->text : a->text);
    send_more();
}

/* An upload session for the current file; false while it is being opened. */
static bool have_upload_session(void)
{
    const struct pd_account *account = pd_session_account(session);
    const struct file *f = &files[current];
    if (upload_study == f->study && upload_files < SESSION_FILES)
        return true;
    upload_study = f->study;
    upload_files = 0;
    initializing = true;
    initialize_json = pd_params_initialize(pd_session_keys(session), account->user_uuid,
                                           account->institution_uuid, f->size, account->full_name);
    initialize = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                              .management = FRAME_INITIALIZE,
                                              .json = initialize_json,
                                              .user = account->user_uuid},
                                  .cb = initialized};
    pd_session_send(session, &initialize);
    return false;
}

static void read_part(struct slot *s, size_t size, off_t offset)
{
    size_t n = 0;
    while (n < size) {
        ssize_t r = pread(fd, s->buffer + n, size - n, offset + (off_t)n);
        if (r <= 0)
            die(files[current].path, "cannot be read");
        n += (size_t)r;
    }
}

static void send_part(struct slot *s)
{
    const struct pd_account *account = pd_session_account(session);
    const struct file *f = &files[current];
    off_t offset = (off_t)part * PD_PART_SIZE;
    size_t left = f->size - (size_t)offset, size = left < PD_PART_SIZE ? left : PD_PART_SIZE;
    s->begun_us = clock_monotonic_us();
    read_part(s, size, offset);
    s->json =
        pd_params_process_file(pd_session_keys(session), upload_uuid, account->institution_uuid,
                               account->user_uuid, upload_files, part, n_parts, folder_uuid);
    s->last = part + 1 == n_parts;
    s->call = (struct pd_call){.request = {.type = FRAME_UPLOAD,
                                           .management = FRAME_PROCESS_FILE,
                                           .json = s->json,
                                           .bytes = s->buffer,
                                           .bytes_size = size,
                                           .user = account->user_uuid},
                               .upload = true,
                               .cb = acknowledged,
                               .ctx = s};
    pd_session_send(session, &s->call);
}

static void send_more(void)
{
    while (idle && !initializing && (parts_left > 0 || current < n_files)) {
        if (parts_left == 0) {
            const struct file *f = &files[current];
            if (!have_upload_session())
                return;
            fd = open(f->path, O_RDONLY | O_CLOEXEC);
            if (fd < 0)
                die(f->path, "cannot be opened");
            n_parts = (unsigned)((f->size + PD_PART_SIZE - 1) / PD_PART_SIZE);
            parts_left = n_parts;
            part = 0;
        }
        struct slot *s = idle;
        LL_DELETE(idle, s);
        send_part(s);
        part++;
        if (--parts_left == 0) {
            close(fd);
            upload_files++;
            current++;
        }
    }
}

static void folder_known(struct pd_folder_request *r, int status, const char *uuid,
                         const struct err *e)
{
    (void)r;
    if (status != 0)
        die("no folder", e->text);
    snprintf(folder_uuid, sizeof folder_uuid, "%s", uuid);
    send_more();
}

static void opened(struct pd_waiter *w, int status, const struct err *e)
{
    (void)w;
    if (status != 0)
        die("no session", e->text);
    folder_request = (struct pd_folder_request){.cb = folder_known};
    pd_folders_resolve(folders, FOLDER, &folder_request);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static unsigned number(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || n < 1 || n > 1000000000)
        die(text, "not a number that makes sense here");
    return (unsigned)n;
}

int main(int argc, char **argv)
{
    if (argc < 7 || argc > 8) {
        fprintf(stderr,
                "usage: %s ROUTER ACCOUNT_KEY API_KEY CONNECTIONS PIPELINE FOLDER [COUNT]\n",
                argv[0]);
        return 2;
    }
    struct pd_keys keys = {argv[2], argv[3]};
    struct pd_options options = {.router = argv[1],
                                 .connections = number(argv[4]),
                                 .pipeline = number(argv[5]),
                                 .session_files = SESSION_FILES,
                                 .session_idle_ms = 30000,
                                 .idle_timeout_ms = 60000,
                                 .ping_interval_ms = 30000,
                                 .net = {.proxy = "", .idle_timeout_ms = 60000}};
    struct err e;
    if (argc == 8)
        limit = number(argv[7]);
    nftw(argv[6], found, 64, FTW_PHYS);
    if (n_files == 0)
        die(argv[6], "no files");
    uint64_t all_parts = 0;
    for (size_t i = 0; i < n_files; i++)
        all_parts += (files[i].size + PD_PART_SIZE - 1) / PD_PART_SIZE;
    latencies_us = calloc(all_parts, sizeof *latencies_us);
    /* As many again as can be in flight: what comes next is read ahead. One at a time is for
     * measuring the round trip. */
    unsigned window = options.connections * options.pipeline;
    for (unsigned i = 0; i < (window == 1 ? 1 : 2 * window); i++) {
        struct slot *s = calloc(1, sizeof *s);
        if (!s || !latencies_us)
            die("start", "out of memory");
        LL_PREPEND(idle, s);
    }
    uv_loop_init(&loop);
    if (pd_session_new(&session, &loop, &options, NULL, &e) != 0)
        die("no session", e.text);
    if (pd_session_set_keys(session, &keys) != 0 || pd_folders_new(&folders, session) != 0)
        die("start", "out of memory");
    uint64_t begin_us = clock_monotonic_us(), begin_cpu_us = cpu_us();
    ready = (struct pd_waiter){.cb = opened};
    pd_session_ready(session, &ready);
    uv_run(&loop, UV_RUN_DEFAULT);
    double seconds = (double)(clock_monotonic_us() - begin_us) / 1e6;
    double cpu = (double)(cpu_us() - begin_cpu_us) / (double)n_files;
    qsort(latencies_us, parts, sizeof *latencies_us, by_value);
    printf("{\"files\": %zu, \"bytes\": %llu, \"seconds\": %.4f, \"cpu_us_per_file\": %.1f,"
           " \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n",
           n_files, (unsigned long long)bytes, seconds, cpu, (double)latencies_us[parts / 2] / 1e3,
           (double)latencies_us[parts * 99 / 100] / 1e3);
    return 0;
}
