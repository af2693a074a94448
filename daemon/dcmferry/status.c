/* dcmferry status: one look, or with --watch a look a second. */
#include "ask.h"
#include "base/text.h"

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define UNREADABLE_SHOWN 5

#define LEFT_MAX 1000 /* as far as the daemon counts */

static void print_counts(const cJSON *counts, const char *what)
{
    const cJSON *c;
    bool any = false;
    printf("%-12s", what);
    cJSON_ArrayForEach(c, counts)
    {
        if (c->valuedouble > 0) {
            printf("%s%s %.0f", any ? ", " : "", c->string, c->valuedouble);
            any = true;
        }
    }
    puts(any ? "" : "none");
}

static void print_unreadable(const cJSON *folder)
{
    const cJSON *paths = cJSON_GetObjectItem(folder, "unreadable"), *path;
    int n = cJSON_GetArraySize(paths), shown = 0;
    if (n == 0)
        return;
    printf("%-12s  %d%s of it cannot be read, check owner and mode:\n", "", n,
           cJSON_IsTrue(cJSON_GetObjectItem(folder, "more_unreadable")) ? " or more" : "");
    cJSON_ArrayForEach(path, paths)
    {
        if (shown++ == UNREADABLE_SHOWN) {
            printf("%-12s    and others\n", "");
            break;
        }
        printf("%-12s    %s\n", "", path->valuestring);
    }
}

static void print_status(const cJSON *s)
{
    const cJSON *x;
    char size[16];
    if (cJSON_IsTrue(cJSON_GetObjectItem(s, "reloading")))
        puts("reloading the configuration");
    if (*ask_text(s, "trouble"))
        printf("TROUBLE      %s\n", ask_text(s, "trouble"));
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(s, "drop_folders"))
    {
        printf("%-12s%s%s\n", "folder", ask_text(x, "path"),
               cJSON_IsFalse(cJSON_GetObjectItem(x, "present")) ? "  GONE" : "");
        print_unreadable(x);
    }
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(s, "destinations"))
    {
        text_format_size((uint64_t)ask_number(x, "bytes_sent"), size);
        printf("%-12s%s: %s%s, %.0f under way, %s sent since the start", "destination",
               ask_text(x, "name"), ask_text(x, "health"),
               cJSON_IsTrue(cJSON_GetObjectItem(x, "paused")) ? ", paused for dcmferry doctor" : "",
               ask_number(x, "in_flight"), size);
        if (*ask_text(x, "held_since"))
            printf("\n%-12s  held by an operator since %s", "", ask_text(x, "held_since"));
        if (*ask_text(x, "error"))
            printf("\n%-12s  %s (next try in %.0f s)", "", ask_text(x, "error"),
                   ask_number(x, "next_probe_ms") / 1000);
        puts("");
    }
    print_counts(cJSON_GetObjectItem(s, "files"), "files");
    print_counts(cJSON_GetObjectItem(s, "deliveries"), "deliveries");
    if (ask_number(s, "left") > 0)
        printf("%-12s%.0f%s delivered file%s could not be deleted or moved as after_upload says "
               "(dcmferry files --problems)\n",
               "left", ask_number(s, "left"), ask_number(s, "left") >= LEFT_MAX ? " or more" : "",
               ask_s(ask_number(s, "left")));
    if (ask_number(s, "reading") > 0)
        printf("%-12s%.0f file%s being read, %.0f of them not yet whole\n", "intake",
               ask_number(s, "reading"), ask_s(ask_number(s, "reading")),
               ask_number(s, "incomplete"));
    if (ask_number(s, "oldest_open_seconds") > 0)
        printf("%-12s%.0f s ago\n", "oldest open", ask_number(s, "oldest_open_seconds"));
}

int command_status(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"watch", no_argument, NULL, 'w'}, {0}};
    bool watch = false;
    int c, code;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'w')
            return 2;
        watch = true;
    }
    if ((code = command_no_more(optind, argc, argv)) != 0)
        return code;
    bool clear = watch && isatty(STDOUT_FILENO);
    do {
        struct buf query = {0};
        buf_put_str(&query, "/status");
        cJSON *json = ask(o, "GET", &query, &code);
        buf_free(&query);
        if (clear && json)
            fputs("\033[H\033[2J", stdout);
        if (json)
            print_status(json);
        cJSON_Delete(json);
        fflush(stdout);
        if (watch && code == 0)
            sleep(1);
        if (watch && !clear && code == 0 && !o->json)
            puts("");
    } while (watch && code == 0);
    return code;
}
