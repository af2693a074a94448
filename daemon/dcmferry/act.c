/* dcmferry retry, hold, release, acknowledge, reload: orders to the daemon. */
#include "ask.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct order {
    const char *path;
    const char *done; /* how many what */
    bool bare_ids;    /* words without an option are files */
};

static int give(const struct command_options *o, const struct order *order, struct buf *query)
{
    int code;
    cJSON *json = ask(o, "POST", query, &code);
    if (json) {
        printf("%.0f %s\n", ask_number(json, "changed"), order->done);
        if (cJSON_IsTrue(cJSON_GetObjectItem(json, "and_later")))
            puts("what comes later is held too, until: dcmferry release --destination NAME");
        if (cJSON_IsTrue(cJSON_GetObjectItem(json, "still_held")))
            puts("but nothing is sent to a destination that is held as a whole (see dcmferry "
                 "status) until: dcmferry release --destination NAME");
    }
    cJSON_Delete(json);
    return code;
}

/* One file after the other; the worst status. */
static int give_each(const struct command_options *o, const struct order *order,
                     const struct buf *query, char **ids)
{
    int worst = 0;
    for (; *ids; ids++) {
        struct buf one = {0};
        buf_put(&one, query->data, query->size);
        one.failed = one.failed || query->failed;
        ask_argument(&one, "file", *ids);
        int code = give(o, order, &one);
        buf_free(&one);
        worst = code > worst ? code : worst;
    }
    return worst;
}

static bool all_numbers(char **words)
{
    for (; *words; words++)
        if (strspn(*words, "0123456789") != strlen(*words) || !**words)
            return false;
    return true;
}

static int act(const struct command_options *o, const struct order *order, int argc, char **argv)
{
    static const struct option options[] = {{"delivery", required_argument, NULL, 0},
                                            {"file", required_argument, NULL, 0},
                                            {"destination", required_argument, NULL, 0},
                                            {"study", required_argument, NULL, 0},
                                            {"anyway", no_argument, NULL, 0},
                                            {"all", no_argument, NULL, 'a'},
                                            {0}};
    struct buf query = {0};
    bool filtered = false;
    int c, index, code;
    buf_put_str(&query, order->path);
    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'a') {
            filtered = true;
            continue;
        }
        if (c != 0) {
            buf_free(&query);
            return 2;
        }
        ask_argument(&query, options[index].name, optarg ? optarg : "1");
        filtered = filtered || index < 4;
    }
    bool bare = order->bare_ids && !filtered && optind < argc && all_numbers(argv + optind);
    if (bare) {
        code = give_each(o, order, &query, argv + optind);
    } else if ((code = command_no_more(optind, argc, argv)) == 0 && !filtered) {
        fprintf(stderr, "%s: say which: --delivery, --file, --destination, --study or --all\n",
                argv[0]);
        code = 2;
    } else if (code == 0) {
        code = give(o, order, &query);
    }
    buf_free(&query);
    return code;
}

int command_retry(const struct command_options *o, int argc, char **argv)
{
    static const struct order order = {.path = "/retry", .done = "to be tried again"};
    return act(o, &order, argc, argv);
}

int command_hold(const struct command_options *o, int argc, char **argv)
{
    static const struct order order = {.path = "/hold", .done = "held"};
    return act(o, &order, argc, argv);
}

int command_release(const struct command_options *o, int argc, char **argv)
{
    static const struct order order = {.path = "/release", .done = "released"};
    return act(o, &order, argc, argv);
}

int command_acknowledge(const struct command_options *o, int argc, char **argv)
{
    static const struct order order = {
        .path = "/acknowledge", .done = "acknowledged", .bare_ids = true};
    return act(o, &order, argc, argv);
}

int command_reload(const struct command_options *o, int argc, char **argv)
{
    struct buf query = {0};
    int code;
    if (getopt_long(argc, argv, "", (const struct option[]){{0}}, NULL) != -1)
        return 2;
    if ((code = command_no_more(optind, argc, argv)) != 0)
        return code;
    buf_put_str(&query, "/reload");
    char *text;
    cJSON *json = ask_both(o, "POST", &query, &text, &code);
    buf_free(&query);
    if (json) {
        bool ok = cJSON_IsTrue(cJSON_GetObjectItem(json, "ok"));
        code = ok ? 0 : 1;
        if (o->json)
            puts(text);
        else
            fprintf(ok ? stdout : stderr, "%s\n", ask_text(json, "text"));
    }
    free(text);
    cJSON_Delete(json);
    return code;
}
