/* dcmferry files: where is this study? */
#include "ask.h"

#include <getopt.h>
#include <stdio.h>

static void print_delivery(const cJSON *d)
{
    printf("    %-10s %s", ask_text(d, "state"), ask_text(d, "destination"));
    if (*ask_text(d, "folder"))
        printf(" : %s", ask_text(d, "folder"));
    printf("  (delivery %.0f, %.0f tries)", ask_number(d, "id"), ask_number(d, "attempts"));
    if (*ask_text(d, "reason"))
        printf("\n               %s", ask_text(d, "reason"));
    puts("");
}

int command_files(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {
        {"study", required_argument, NULL, 0}, {"instance", required_argument, NULL, 0},
        {"path", required_argument, NULL, 0},  {"destination", required_argument, NULL, 0},
        {"limit", required_argument, NULL, 0}, {"offset", required_argument, NULL, 0},
        {"problems", no_argument, NULL, 0},    {0}};
    struct buf query = {0};
    int c, index, code;
    buf_put_str(&query, "/files");
    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c != 0) {
            buf_free(&query);
            return 2;
        }
        ask_argument(&query, options[index].name, optarg ? optarg : "1");
    }
    cJSON *json = ask(o, "GET", &query, &code);
    buf_free(&query);
    const cJSON *f, *d;
    if (json && cJSON_GetArraySize(json) == 0)
        puts("no files");
    cJSON_ArrayForEach(f, json)
    {
        printf("%.0f %s  %s\n", ask_number(f, "id"), ask_text(f, "state"), ask_text(f, "path"));
        if (*ask_text(f, "reason"))
            printf("    %s\n", ask_text(f, "reason"));
        cJSON_ArrayForEach(d, cJSON_GetObjectItem(f, "deliveries")) print_delivery(d);
    }
    cJSON_Delete(json);
    return code;
}
