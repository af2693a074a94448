/* dcmferry: what people ask the daemon. See dcmferry(1). */
#include "dcmferry.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(const struct command_options *o, int argc, char **argv);
    const char *arguments, *help;
};

static const struct command commands[] = {
    {"status", command_status, "[--watch]", "what is going on: drop folders, destinations, counts"},
    {"files", command_files,
     "[--study UID] [--instance UID] [--path PATH] [--destination NAME] [--problems "
     "[--acknowledged]] "
     "[--limit N] [--offset N] [UID | PATH]",
     "where is this study? files with their deliveries, newest first"},
    {"where", command_where, "PATH | UID",
     "where is this? also a file that is left out, not whole yet or not readable, and why"},
    {"retry", command_retry,
     "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--anyway] [--all]",
     "try failed, waiting and rejected ones again now (--anyway: conflicts too)"},
    {"hold", command_hold, "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--all]",
     "keep deliveries from being sent; with --destination alone also those that come later"},
    {"release", command_release,
     "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--all]",
     "send held deliveries"},
    {"acknowledge", command_acknowledge,
     "[--delivery ID] [--file ID] [--destination NAME] [--study UID] [--all] [ID…]",
     "take what is wrong with these off the list of problems (ID: of a file)"},
    {"reload", command_reload, "", "read the configuration again, wholly or not at all"},
    {"doctor", command_doctor,
     "--destination NAME [--read-only | [--yes] [--folder PATH] [--keep] [--only ROW,…] [--wait "
     "TIME]] [--transcript FILE]",
     "try a destination step by step, and what is assumed of its server with a synthetic patient"},
    {"check", command_check, "[--user NAME]",
     "check the configuration and what the service may do with its files and folders"},
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* Of one command, or of all with NULL. */
static void usage(FILE *out, const struct command *one)
{
    fprintf(out, "Usage: dcmferry [--config FILE] [--socket PATH] [--json] %s\n\n",
            one ? one->name : "COMMAND [ARGUMENTS]");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (!one || one == &commands[i])
            fprintf(out, "  %s %s\n      %s\n", commands[i].name, commands[i].arguments,
                    commands[i].help);
    fputs(
        "\n  -c, --config FILE  the daemon's configuration (default /etc/dcmferry/dcmferry.yaml)\n"
        "      --socket PATH  the daemon's control socket (default: as the configuration says)\n"
        "      --json         print the daemon's answer as it is\n"
        "      --version      print the version and exit\n"
        "  -h, --help         this; after a command: what that takes\n",
        out);
}

/* If argv[*i] is the option, takes it and its value (argv[*i] moves on); NULL in *ret_value: there
 * is none. */
static bool take_value(char **argv, int *i, const char *name, const char **ret_value)
{
    size_t n = strlen(name);
    if (strncmp(argv[*i], name, n) != 0 || (argv[*i][n] != '\0' && argv[*i][n] != '='))
        return false;
    *ret_value = argv[*i][n] == '=' ? argv[*i] + n + 1 : argv[*i + 1] ? argv[++*i] : NULL;
    return true;
}

/* Takes the options that all commands have, wherever they stand, out of argv; what is left is moved
 * up. Returns the new argc, -1 when a value is missing. */
static int take_common(char **argv, struct command_options *o, bool *ret_help, bool *ret_version)
{
    int left = 1;
    for (int i = 1; argv[i]; i++) {
        const char **value = NULL, *found = NULL;
        if (take_value(argv, &i, "--config", &found) || take_value(argv, &i, "-c", &found))
            value = &o->config_path;
        else if (take_value(argv, &i, "--socket", &found))
            value = &o->socket_path;
        else if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            *ret_help = true;
        else if (strcmp(argv[i], "--version") == 0)
            *ret_version = true;
        else
            argv[left++] = argv[i];
        if (value && !found) {
            fprintf(stderr, "dcmferry: %s: its value is missing\n", argv[i]);
            return -1;
        }
        if (value)
            *value = found;
    }
    argv[left] = NULL;
    return left;
}

int main(int argc, char **argv)
{
    struct command_options o = {.config_path = "/etc/dcmferry/dcmferry.yaml"};
    bool help = false, version = false;
    signal(SIGPIPE, SIG_IGN);
    if (argc < 1 || (argc = take_common(argv, &o, &help, &version)) < 0)
        return 2;
    if (version) {
        printf("dcmferry %s\n", DCMFERRY_VERSION);
        return 0;
    }
    const struct command *command = argc > 1 ? find(argv[1]) : NULL;
    if (help) {
        usage(stdout, command);
        return 0;
    }
    if (!command) {
        if (argc > 1)
            fprintf(stderr, "dcmferry: no %s '%s'\n\n", argv[1][0] == '-' ? "option" : "command",
                    argv[1]);
        usage(stderr, NULL);
        return 2;
    }
    char name[32]; /* getopt puts it before its messages */
    snprintf(name, sizeof name, "dcmferry %s", command->name);
    argv[1] = name;
    return command->run(&o, argc - 1, argv + 1);
}

int command_no_more(int at, int argc, char **argv)
{
    if (at >= argc)
        return 0;
    fprintf(stderr, "%s: unexpected argument '%s'\n", argv[0], argv[at]);
    return 2;
}
