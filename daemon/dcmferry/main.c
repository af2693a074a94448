/* dcmferry: what people ask the daemon. See dcmferry(1). */
#include "dcmferry.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(const struct command_options *o, int argc, char **argv);
    const char *arguments, *help;
} commands[] = {
    {"status", command_status, "[--watch]", "what is going on: drop folders, destinations, counts"},
    {"files", command_files,
     "[--study UID] [--instance UID] [--path PATH] [--destination NAME] [--problems] [--limit N]",
     "where is this study? files with their deliveries, newest first"},
    {"retry", command_retry,
     "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--anyway] [--all]",
     "try failed, waiting and rejected ones again now (--anyway: conflicts too)"},
    {"hold", command_hold, "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--all]",
     "keep deliveries from being sent"},
    {"release", command_release,
     "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--all]",
     "send held deliveries"},
    {"reload", command_reload, "", "read the configuration again, wholly or not at all"},
    {"doctor", command_doctor, "--destination NAME",
     "try a destination step by step, changing nothing there"},
    {"check", command_check, "[--user NAME]",
     "check the configuration and what the service may do with its folders"},
};

static void usage(FILE *out)
{
    fputs("Usage: dcmferry [--config FILE] [--socket PATH] [--json] COMMAND [ARGUMENTS]\n\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %s %s\n      %s\n", commands[i].name, commands[i].arguments,
                commands[i].help);
    fputs(
        "\n  -c, --config FILE  the daemon's configuration (default /etc/dcmferry/dcmferry.yaml)\n"
        "      --socket PATH  the daemon's control socket (default: as the configuration says)\n"
        "      --json         print the daemon's answer as it is\n"
        "      --version      print the version and exit\n",
        out);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"socket", required_argument, NULL, 's'},
        {"json", no_argument, NULL, 'j'},         {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {0}};
    struct command_options o = {.config_path = "/etc/dcmferry/dcmferry.yaml"};
    int c;
    signal(SIGPIPE, SIG_IGN);
    while ((c = getopt_long(argc, argv, "+c:h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            o.config_path = optarg;
            break;
        case 's':
            o.socket_path = optarg;
            break;
        case 'j':
            o.json = true;
            break;
        case 'V':
            printf("dcmferry %s\n", DCMFERRY_VERSION);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (optind == argc) {
        usage(stderr);
        return 2;
    }
    const char *name = argv[optind];
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, name) != 0)
            continue;
        int first = optind;
        optind = 0; /* getopt starts anew on what follows */
        return commands[i].run(&o, argc - first, argv + first);
    }
    fprintf(stderr, "dcmferry: no command '%s'\n\n", name);
    usage(stderr);
    return 2;
}
