/* What the pool of worker processes reads by itself: every file below FOLDER (at most COUNT) is
 * opened and its header read through core/dicom/dicom_reader, with the attributes that a usual
 * route asks for. Prints one line of JSON.
 *
 *   bare_pool PROGRAM WORKERS FOLDER [COUNT]
 *
 * PROGRAM: dcmferry-dicom. The processes run before the clock starts. */
#include "base/clock.h"
#include "dicom/dicom_reader.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN_FLIGHT 64 /* as many as the daemon takes in at a time */

static const uint32_t tags[] = {0x00080060, 0x00080020}; /* Modality, StudyDate */
static uv_loop_t loop;
static struct dicom_reader *reader;
static char **paths;
static size_t n_paths, room, limit = SIZE_MAX, next, done;
static struct dicom_read slots[IN_FLIGHT];

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bare_pool: %s: %s\n", what, why);
    exit(1);
}

static int found(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if (type != FTW_F || n_paths == limit)
        return 0;
    if (n_paths == room) {
        room = room ? room * 2 : 1024;
        paths = realloc(paths, room * sizeof *paths);
    }
    if (!paths || !(paths[n_paths++] = strdup(path)))
        die(path, "out of memory");
    return 0;
}

static void read_next(struct dicom_read *r);

static void was_read(struct dicom_read *r, int status, const struct dicom_header *header,
                     const struct err *e)
{
    (void)header;
    close(r->fd);
    if (status != 0)
        die("a file cannot be read", e->text);
    done++;
    read_next(r);
}

static void read_next(struct dicom_read *r)
{
    if (next == n_paths)
        return;
    const char *path = paths[next++];
    *r = (struct dicom_read){
        .fd = open(path, O_RDONLY | O_CLOEXEC), .tags = tags, .n_tags = 2, .cb = was_read};
    if (r->fd < 0)
        die(path, "cannot be opened");
    dicom_reader_read(reader, r);
}

static void closed(void *ctx)
{
    (void)ctx;
}

/* Reads up to `to` of the files. */
static void read_until(size_t to)
{
    size_t all = n_paths;
    n_paths = to;
    for (size_t i = 0; i < IN_FLIGHT; i++)
        read_next(&slots[i]);
    while (done < to)
        uv_run(&loop, UV_RUN_ONCE);
    n_paths = all;
}

int main(int argc, char **argv)
{
    struct err e;
    if (argc < 4) {
        fprintf(stderr, "usage: %s PROGRAM WORKERS FOLDER [COUNT]\n", argv[0]);
        return 2;
    }
    if (argc > 4)
        limit = strtoul(argv[4], NULL, 10);
    nftw(argv[3], found, 64, FTW_PHYS);
    if (n_paths < 2 * IN_FLIGHT)
        die(argv[3], "too few files");
    uv_loop_init(&loop);
    if (dicom_reader_open(&reader, &loop, argv[1], (unsigned)atoi(argv[2]), &e) != 0)
        die("no reader", e.text);
    read_until(IN_FLIGHT);
    uint64_t begin_us = clock_monotonic_us();
    read_until(n_paths);
    double seconds = (double)(clock_monotonic_us() - begin_us) / 1e6;
    printf("{\"files\": %zu, \"seconds\": %.4f}\n", n_paths - IN_FLIGHT, seconds);
    dicom_reader_close(reader, closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return 0;
}
