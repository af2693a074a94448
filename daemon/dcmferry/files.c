/* dcmferry files: where is this study? */
#include "files.h"

#include "ask.h"
#include "base/fsutil.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UID_MAX_LENGTH 64 /* PS3.5 section 9.1 */

bool files_is_uid(const char *text)
{
    size_t n = strspn(text, "0123456789.");
    return text[n] == '\0' && n <= UID_MAX_LENGTH && strchr(text, '.');
}

void files_path_argument(struct buf *query, const char *path)
{
    struct buf whole = {0};
    char *folder = path[0] == '/' ? NULL : getcwd(NULL, 0);
    if (path[0] != '/' && !folder) {
        query->failed = true;
        return;
    }
    buf_printf(&whole, "%s/%s", folder ? folder : "", path);
    char *normal = buf_failed(&whole) ? NULL : fsutil_normalise(buf_cstr(&whole));
    if (normal)
        ask_argument(query, "path", normal);
    else
        query->failed = true;
    free(normal);
    free(folder);
    buf_free(&whole);
}

/* What a delivery's trouble makes of a file whose own state does not tell it; NULL: none. */
static const char *trouble(const cJSON *file)
{
    static const char *const troubles[] = {"conflict", "failed", "held", "waiting"};
    const cJSON *d;
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++)
        cJSON_ArrayForEach(d, cJSON_GetObjectItem(file, "deliveries"))
        {
            if (strcmp(ask_text(d, "state"), troubles[i]) == 0 &&
                strcmp(ask_text(file, "state"), troubles[i]) != 0)
                return troubles[i];
        }
    return NULL;
}

static void print_delivery(const cJSON *d)
{
    double tries = ask_number(d, "attempts");
    printf("    %-10s %s", ask_text(d, "state"), ask_text(d, "destination"));
    if (*ask_text(d, "folder"))
        printf(" : %s", ask_text(d, "folder"));
    printf("  (delivery %.0f, %.0f tr%s)%s", ask_number(d, "id"), tries, tries == 1 ? "y" : "ies",
           *ask_text(d, "acknowledged") ? "  acknowledged" : "");
    if (*ask_text(d, "reason"))
        printf("\n               %s", ask_text(d, "reason"));
    puts("");
}

void files_print(const cJSON *f)
{
    const cJSON *d;
    const char *also = trouble(f);
    printf("%.0f %s", ask_number(f, "id"), ask_text(f, "state"));
    if (also)
        printf(" (%s)", also);
    printf("  %s%s\n", ask_text(f, "path"), *ask_text(f, "acknowledged") ? "  acknowledged" : "");
    if (*ask_text(f, "target"))
        printf("    moved to %s\n", ask_text(f, "target"));
    if (*ask_text(f, "reason"))
        printf("    %s\n", ask_text(f, "reason"));
    if (*ask_text(f, "note"))
        printf("    %s\n", ask_text(f, "note"));
    cJSON_ArrayForEach(d, cJSON_GetObjectItem(f, "deliveries")) print_delivery(d);
}

cJSON *files_find(const struct command_options *o, struct buf *query, const char *uid,
                  int *ret_code)
{
    static const char *const kinds[] = {"study", "instance"};
    cJSON *json = NULL;
    char *text = NULL;
    if (!uid)
        return ask(o, "GET", query, ret_code);
    for (size_t i = 0; i < 2 && cJSON_GetArraySize(json) == 0; i++) {
        struct buf one = {0};
        buf_put_str(&one, buf_cstr(query));
        one.failed = one.failed || query->failed;
        ask_argument(&one, kinds[i], uid);
        cJSON_Delete(json);
        free(text);
        json = ask_both(o, "GET", &one, &text, ret_code);
        buf_free(&one);
        if (!json)
            return NULL;
    }
    if (o->json) {
        puts(text);
        cJSON_Delete(json);
        json = NULL;
    }
    free(text);
    return json;
}

int command_files(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"path", required_argument, NULL, 'p'},
                                            {"study", required_argument, NULL, 0},
                                            {"instance", required_argument, NULL, 0},
                                            {"destination", required_argument, NULL, 0},
                                            {"limit", required_argument, NULL, 0},
                                            {"offset", required_argument, NULL, 0},
                                            {"problems", no_argument, NULL, 0},
                                            {"acknowledged", no_argument, NULL, 0},
                                            {0}};
    struct buf query = {0};
    const char *uid = NULL;
    int c, index, code;
    buf_put_str(&query, "/files");
    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'p') {
            files_path_argument(&query, optarg);
            continue;
        }
        if (c != 0) {
            buf_free(&query);
            return 2;
        }
        ask_argument(&query, options[index].name, optarg ? optarg : "1");
    }
    if (optind < argc && files_is_uid(argv[optind]))
        uid = argv[optind++];
    else if (optind < argc)
        files_path_argument(&query, argv[optind++]);
    if ((code = command_no_more(optind, argc, argv)) != 0) {
        buf_free(&query);
        return code;
    }
    cJSON *json = files_find(o, &query, uid, &code);
    buf_free(&query);
    const cJSON *f;
    if (json && cJSON_GetArraySize(json) == 0)
        puts("no files");
    cJSON_ArrayForEach(f, json) files_print(f);
    cJSON_Delete(json);
    return code;
}
