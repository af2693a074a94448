/* dcmferry retry, hold, release, reload: orders to the daemon. */
#include "ask.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

/* `note` goes below a success, NULL: nothing to note. */
static int act(const struct command_options *o, const char *path, const char *done,
               const char *note, int argc, char **argv)
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
    buf_put_str(&query, path);
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
    if ((code = command_no_more(optind, argc, argv)) != 0) {
        buf_free(&query);
        return code;
    }
    if (!filtered) {
        fprintf(stderr, "%s: say which: --delivery, --file, --destination, --study or --all\n",
                argv[0]);
        buf_free(&query);
        return 2;
    }
    cJSON *json = ask(o, "POST", &query, &code);
    buf_free(&query);
    if (json) {
        printf("%.0f %s\n", ask_number(json, "changed"), done);
        if (note)
            puts(note);
    }
    cJSON_Delete(json);
    return code;
}

int command_retry(const struct command_options *o, int argc, char **argv)
{
    return act(o, "/retry", "to be tried again", NULL, argc, argv);
}

int command_hold(const struct command_options *o, int argc, char **argv)
{
    return act(o, "/hold", "held",
               "only what is queued now: files that are taken in later are sent", argc, argv);
}

int command_release(const struct command_options *o, int argc, char **argv)
{
    return act(o, "/release", "released", NULL, argc, argv);
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
