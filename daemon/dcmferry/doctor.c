/* dcmferry doctor: tries a destination step by step through the daemon and prints the transcript.
 */
#include "ask.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

int command_doctor(const struct command_options *o, int argc, char **argv)
{
    static const struct option options[] = {{"destination", required_argument, NULL, 'd'}, {0}};
    const char *destination = NULL;
    int c, code;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'd')
            return 2;
        destination = optarg;
    }
    if ((code = command_no_more(optind, argc, argv)) != 0)
        return code;
    if (!destination) {
        fprintf(stderr, "dcmferry doctor: --destination NAME is missing\n");
        return 2;
    }
    struct buf query = {0};
    buf_put_str(&query, "/doctor");
    ask_argument(&query, "destination", destination);
    char *text;
    cJSON *json = ask_both(o, "POST", &query, &text, &code);
    buf_free(&query);
    if (json)
        code = cJSON_IsTrue(cJSON_GetObjectItem(json, "ok")) ? 0 : 1;
    if (json && o->json) {
        puts(text);
    } else if (json) {
        const cJSON *line;
        cJSON_ArrayForEach(line, cJSON_GetObjectItem(json, "lines"))
        {
            if (cJSON_IsString(line))
                puts(line->valuestring);
        }
        puts(code == 0 ? "all well" : "something is wrong: see above");
    }
    free(text);
    cJSON_Delete(json);
    return code;
}
