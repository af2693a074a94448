/* dcmferry where: one file, or what is known by a UID; also what has no fate yet, and why. */
#include "ask.h"
#include "files.h"

#include <getopt.h>
#include <stdio.h>

static void print_files(const cJSON *files)
{
    const cJSON *f;
    cJSON_ArrayForEach(f, files) files_print(f);
}

static int where_path(const struct command_options *o, const char *path)
{
    struct buf query = {0};
    int code;
    buf_put_str(&query, "/where");
    files_path_argument(&query, path);
    cJSON *json = ask(o, "GET", &query, &code);
    buf_free(&query);
    print_files(cJSON_GetObjectItem(json, "files"));
    if (json && *ask_text(json, "state"))
        printf("%s  %s\n    %s\n", ask_text(json, "state"), path, ask_text(json, "why"));
    cJSON_Delete(json);
    return code;
}

/* A file's UIDs are known when it was read. */
static int tell_unread(const struct command_options *o)
{
    struct buf query = {0};
    int code;
    buf_put_str(&query, "/status");
    cJSON *json = ask(o, "GET", &query, &code);
    buf_free(&query);
    if (json)
        printf(
            "no file of that study or instance was read yet; %.0f are being read or settle, %.0f "
            "of them are not whole: dcmferry where PATH tells of one\n",
            ask_number(json, "reading"), ask_number(json, "incomplete"));
    cJSON_Delete(json);
    return code;
}

static int where_uid(const struct command_options *o, const char *uid)
{
    struct buf query = {0};
    int code;
    buf_put_str(&query, "/files");
    cJSON *json = files_find(o, &query, uid, &code);
    buf_free(&query);
    print_files(json);
    if (json && cJSON_GetArraySize(json) == 0)
        code = tell_unread(o);
    cJSON_Delete(json);
    return code;
}

int command_where(const struct command_options *o, int argc, char **argv)
{
    int code;
    if (getopt_long(argc, argv, "", (const struct option[]){{0}}, NULL) != -1)
        return 2;
    if (optind == argc) {
        fprintf(stderr, "%s: a path or a UID is missing\n", argv[0]);
        return 2;
    }
    const char *what = argv[optind];
    if ((code = command_no_more(optind + 1, argc, argv)) != 0)
        return code;
    return files_is_uid(what) ? where_uid(o, what) : where_path(o, what);
}
