/* Every kind of fault: its place and its text. */
#include "config/config.h"
#include "config/look.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Lines 1 to 4 of every case but the part that is tested; each has a good form to fall back on. */
#define STATE "state: /s\n"
#define WATCH "watch: [{path: /w}]\n"
#define DEST                                                                                       \
    "destinations: {d: {type: postdicom, router: 'https://r/', account_key: {env: A}, api_key: "   \
    "{env: B}}}\n"
#define ROUTE "routes: [{name: r, to: d}]\n"
#define KEYS  "    type: postdicom\n    account_key: {env: A}\n    api_key: {env: B}\n"

struct fault {
    unsigned line, column;
    const char *text; /* part of it */
};

static void check(const char *text, bool check_paths, const struct fault *expected, size_t n)
{
    struct config *c = NULL;
    struct config_faults f;
    int r = config_parse("test.yaml", text, strlen(text),
                         check_paths ? CONFIG_PATHS_CHECK : CONFIG_PATHS_UNSEEN, &c, &f);
    bool good = r == ERR_CONFIG && c == NULL && f.n == n;

    for (size_t i = 0; i < n && good; i++)
        good = f.items[i].mark.line == expected[i].line &&
               f.items[i].mark.column == expected[i].column &&
               strstr(f.items[i].text, expected[i].text) != NULL;
    if (!good) {
        print_error("%s\n-> %d, %zu faults:\n", text, r, f.n);
        for (size_t i = 0; i < f.n; i++)
            print_error("  %u:%u: %s\n", f.items[i].mark.line, f.items[i].mark.column,
                        f.items[i].text);
        for (size_t i = 0; i < n; i++)
            print_error("  not %u:%u: %s\n", expected[i].line, expected[i].column,
                        expected[i].text);
        fail();
    }
    config_free(c);
    config_faults_free(&f);
}

struct one {
    const char *text;
    struct fault fault;
};

#define CHECK_ALL(cases, prefix, suffix)                                                           \
    do {                                                                                           \
        for (size_t i_ = 0; i_ < sizeof(cases) / sizeof((cases)[0]); i_++) {                       \
            char text_[4096];                                                                      \
            snprintf(text_, sizeof(text_), "%s%s%s", (prefix), (cases)[i_].text, (suffix));        \
            check(text_, false, &(cases)[i_].fault, 1);                                            \
        }                                                                                          \
    } while (0)

static void test_top(void **state)
{
    static const struct one CASES[] = {
        {"stat: /s\n", {1, 1, "stat: unknown key; did you mean 'state'?"}},
        {"qqqqqq: /s\n", {1, 1, "qqqqqq: unknown key; expected one of state, control, log"}},
        {"\"a\\nb\": 1\n", {1, 1, "a?b: unknown key"}},
        {"deid: {}\n", {1, 1, "deid: not available in this build"}},
        {"profiles: {}\n", {1, 1, "profiles: not available in this build"}},
        {"control: run/x\n",
         {1, 10, "control: expected an absolute path (it begins with /), found 'run/x'"}},
        {"control:\n", {1, 9, "control: expected an absolute path, found nothing"}},
        {"control: [/a]\n", {1, 10, "control: expected an absolute path, found a list"}},
        {"control: "
         "/run/123456789012345678901234567890123456789012345678901234567890123456789012345678"
         "90123456789012345678901234\n",
         {1, 10, "control: the socket's path is longer than 107 bytes"}},
        {"log: info\n", {1, 6, "log: expected a mapping (key: value), found 'info'"}},
        {"log: {levl: info}\n", {1, 7, "log.levl: unknown key; did you mean 'level'?"}},
        {"log: {level: inof}\n",
         {1, 14,
          "log.level: expected one of error, warning, notice, info, debug, found 'inof'; did you "
          "mean 'info'?"}},
        {"log: {level: [info]}\n",
         {1, 14, "log.level: expected one of error, warning, notice, info, debug, found a list"}},
        {"log: {format: xml}\n",
         {1, 15, "log.format: expected one of auto, human, json, journald, found 'xml'"}},
        {"log: {format: [json]}\n", {1, 15, "log.format: expected one of"}},
        {"log: {paths: yes}\n", {1, 14, "log.paths: expected true or false, found 'yes'"}},
        {"log: {paths: 'true'}\n", {1, 14, "log.paths: expected true or false, found 'true'"}},
        {"log: {paths: {}}\n", {1, 14, "log.paths: expected true or false, found a mapping"}},
        {"workers: 0\n", {1, 10, "workers: expected a whole number from 1 to 64, found '0'"}},
        {"workers: 65\n", {1, 10, "workers: expected a whole number from 1 to 64"}},
        {"workers: many\n", {1, 10, "workers: expected a whole number"}},
        {"workers: '3'\n", {1, 10, "workers: expected a whole number"}},
        {"workers:\n", {1, 9, "workers: expected a whole number from 1 to 64, found nothing"}},
        {"workers: 3.5\n", {1, 10, "workers: expected a whole number"}},
        {"workers: 99999999999999999999\n", {1, 10, "workers: expected a whole number"}},
        {"history: 90\n",
         {1, 10, "history: expected a duration such as 500ms, 2s, 5m, 1h or 90d, found '90'"}},
        {"history: -1d\n", {1, 10, "history: expected a duration"}},
        {"history: 1s\n", {1, 10, "history: expected a duration from 1m to 36500d, found '1s'"}},
        {"history: 99999999999999999999d\n", {1, 10, "history: expected a duration"}},
        {"history: off\n", {1, 10, "history: expected a duration"}},
        {"history: [1d]\n",
         {1, 10, "history: expected a duration such as 500ms, 2s, 5m, 1h or 90d, found a list"}},
        {"journal_backup: of\n",
         {1, 17,
          "journal_backup: expected a duration such as 500ms, 2s, 5m, 1h or 90d, or 'off', found "
          "'of'"}},
        {"journal_backup: 1s\n",
         {1, 17, "expected a duration from 1m to 30d, or 'off', found '1s'"}},
        {"shutdown_timeout: 2h\n", {1, 19, "shutdown_timeout: expected a duration from 1s to 1h"}},
        {"history: 1d\nhistory: 2d\n", {2, 1, "history: given twice; first in line 1"}},
    };

    (void)state;
    CHECK_ALL(CASES, "", STATE WATCH DEST ROUTE);
}

static void test_missing(void **state)
{
    static const struct fault ALL[] = {
        {1, 1, "destinations: missing: where files are sent"},
        {1, 1, "routes: missing: which files go where"},
        {1, 1, "state: missing: the folder of the journal"},
        {1, 1, "watch: missing: the drop folders"},
    };
    static const struct one STATES[] = {
        {"state:\n", {1, 7, "state: expected an absolute path, found nothing"}},
        {"state: s\n", {1, 8, "state: expected an absolute path (it begins with /), found 's'"}},
        {"state: ~/s\n",
         {1, 8, "state: expected an absolute path (it begins with /), found '~/s'"}},
        {"state: /\n", {1, 8, "state: the root cannot be it"}},
        {"state: /w/.state\n",
         {1, 8, "state: lies inside the drop folder /w: the journal's own files"}},
        {"state: /x/../w\n", {1, 8, "state: lies inside the drop folder /w"}},
    };

    (void)state;
    check("workers: 1\n", false, ALL, 4);
    check("", false, &(struct fault){1, 1, "the file is empty; it needs state, watch"}, 1);
    check("- a\n", false, &(struct fault){1, 1, "expected a mapping (key: value), found a list"},
          1);
    check("hello\n", false, &(struct fault){1, 1, "expected a mapping (key: value), found 'hello'"},
          1);
    CHECK_ALL(STATES, "", WATCH DEST ROUTE);
}

static void test_watch(void **state)
{
    static const struct one CASES[] = {
        {"watch:\n", {2, 7, "watch: expected a list of drop folders (- path: …), found nothing"}},
        {"watch: []\n",
         {2, 8, "watch: expected a list of drop folders (- path: …), found an empty list"}},
        {"watch: {path: /w}\n",
         {2, 8, "watch: expected a list of drop folders (- path: …), found a mapping"}},
        {"watch: [/w]\n", {2, 9, "watch[0]: expected a mapping (key: value), found '/w'"}},
        {"watch:\n  - settle: 2s\n", {3, 5, "watch[0].path: missing: the drop folder"}},
        {"watch:\n  - path: w\n", {3, 11, "watch[0].path: expected an absolute path"}},
        {"watch:\n  - path: /w\n    bogus: 1\n",
         {4, 5, "watch[0].bogus: unknown key; expected one of path, mode"}},
        {"watch:\n  - path: /w\n    setle: 2s\n",
         {4, 5, "watch[0].setle: unknown key; did you mean 'settle'?"}},
        {"watch:\n  - path: /w\n    mode: pol\n",
         {4, 11,
          "watch[0].mode: expected one of auto, inotify, poll, found 'pol'; did you mean 'poll'?"}},
        {"watch:\n  - path: /w\n    recursive: 1\n",
         {4, 16, "watch[0].recursive: expected true or false, found '1'"}},
        {"watch:\n  - path: /w\n    settle: 2\n", {4, 13, "watch[0].settle: expected a duration"}},
        {"watch:\n  - path: /w\n    settle: 2h\n",
         {4, 13, "watch[0].settle: expected a duration from 0s to 1h"}},
        {"watch:\n  - path: /w\n    settle: 1m\n    settle_timeout: 30s\n",
         {5, 21, "watch[0].settle_timeout: is shorter than settle"}},
        {"watch:\n  - path: /w\n    poll_interval: 1ms\n",
         {4, 20, "watch[0].poll_interval: expected a duration from 100ms to 1d, found '1ms'"}},
        {"watch:\n  - path: /w\n    rescan: never\n", {4, 13, "or 'off', found 'never'"}},
        {"watch:\n  - path: /w\n    include: []\n",
         {4, 14, "watch[0].include: expected glob or list, found an empty list"}},
        {"watch:\n  - path: /w\n    include: {a: b}\n",
         {4, 14, "watch[0].include: expected glob or list, found a mapping"}},
        {"watch:\n  - path: /w\n    exclude: [a, [b]]\n",
         {4, 18, "watch[0].exclude: expected glob or list, found a list"}},
        {"watch:\n  - path: /w\n    exclude: [a, '']\n",
         {4, 18, "watch[0].exclude: expected glob or list, found ''"}},
        {"watch:\n  - path: /w\n    custody: copy\n",
         {4, 14, "watch[0].custody: expected one of none, rename, found 'copy'"}},
        {"watch:\n  - path: /w\n    after_upload: drop\n",
         {4, 19, "watch[0].after_upload: expected keep, delete or {move: FOLDER}, found 'drop'"}},
        {"watch:\n  - path: /w\n    after_upload: move\n",
         {4, 19, "found 'move'; say where to: {move: /srv/dicom/sent/{StudyDate}}"}},
        {"watch:\n  - path: /w\n    after_upload: {mov: /m}\n",
         {4, 19,
          "watch[0].after_upload: expected keep, delete or {move: FOLDER}, found a mapping"}},
        {"watch:\n  - path: /w\n    after_upload: {move: /m, keep: 1}\n",
         {4, 19, "expected keep, delete"}},
        {"watch:\n  - path: /w\n    after_upload: {move: m}\n",
         {4, 26,
          "watch[0].after_upload.move: expected an absolute path (it begins with /), found 'm'"}},
        {"watch:\n  - path: /w\n    after_upload: {move: [m]}\n",
         {4, 26, "watch[0].after_upload.move: expected a folder template, found a list"}},
        {"watch:\n  - path: /w\n    after_upload: {move: /m/{StudyDat}}\n",
         {4, 30,
          "watch[0].after_upload.move: 'StudyDat' is no attribute; did you mean 'StudyDate'?"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/m/{StudyDat}'}\n",
         {4, 31, "'StudyDat' is no attribute"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/{Modality}/x'}\n",
         {4, 26, "must begin with the name of a folder"}},
        {"watch:\n  - path: /w\n    after_upload: {move: /w/sent}\n",
         {4, 26,
          "watch[0].after_upload.move: lies inside the drop folder /w: files would be taken in "
          "again"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/w/{StudyDate}'}\n",
         {4, 26, "lies inside the drop folder /w"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/x/../w/y{StudyDate}'}\n",
         {4, 30, "'.' and '..' are no folder names"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/s/{StudyDate}'}\n",
         {4, 26, "watch[0].after_upload.move: lies inside the state folder"}},
        {"watch:\n  - path: /w\n    retention: 30d\n",
         {4, 16, "watch[0].retention: needs after_upload: {move: FOLDER}"}},
        {"watch:\n  - path: /w\n    after_upload: {move: /m}\n    retention: 1s\n",
         {5, 16, "watch[0].retention: expected a duration from 1h to 36500d, or 'forever'"}},
        {"watch:\n  - path: /m/in/w\n    after_upload: {move: '/m/{path}'}\n    retention: 1d\n",
         {5, 16,
          "watch[0].retention: the drop folder /m/in/w lies inside /m, where old files are "
          "deleted"}},
        {"watch:\n  - path: /w\n    after_upload: {move: '/m/{path}'}\n    retention: 1d\n    "
         "rejected: /m/r\n",
         {5, 16, "watch[0].retention: rejected files (/m/r) lie inside /m"}},
        {"watch:\n  - path: /w\n    rejected: r\n",
         {4, 15, "watch[0].rejected: expected an absolute path"}},
        {"watch:\n  - path: /w\n    rejected: /w/r\n",
         {4, 15,
          "watch[0].rejected: lies inside the drop folder /w: rejected files would be taken in "
          "again"}},
        {"watch:\n  - path: /w\n    rejected: /w\n",
         {4, 15, "watch[0].rejected: lies inside the drop folder /w"}},
        {"watch:\n  - path: /w\n    rejected: /s/\n",
         {4, 15, "watch[0].rejected: is the state folder"}},
        {"watch:\n  - path: /w\n  - path: /w2\n    rejected: /w/r\n",
         {5, 15, "watch[1].rejected: lies inside the drop folder /w"}},
        {"watch:\n  - path: /w\n  - path: /w/\n",
         {4, 11,
          "watch[1].path: is the same folder as watch[0] (/w): files would be taken in twice"}},
        {"watch:\n  - path: /w\n  - path: /w/x\n",
         {4, 11, "watch[1].path: lies inside watch[0] (/w)"}},
        {"watch:\n  - path: /w/x\n  - path: /w\n",
         {4, 11, "watch[1].path: contains watch[0] (/w/x)"}},
    };

    (void)state;
    CHECK_ALL(CASES, STATE, DEST ROUTE);
    /* The root as a drop folder holds everything else too. */
    const struct fault root[] = {{1, 8, "state: lies inside the drop folder /"},
                                 {2, 16, "watch[0].path: the root cannot be a drop folder"}};
    check(STATE "watch: [{path: /}]\n" DEST ROUTE, false, root, 2);
    /* Retention around the state folder. */
    check(
        "state: /m/s\nwatch: [{path: /w, after_upload: {move: '/m/{path}'}, retention: 1d}]\n" DEST
            ROUTE,
        false, &(struct fault){2, 66, "watch[0].retention: the state folder lies inside /m"}, 1);
}

static void test_destinations(void **state)
{
    static const struct one WHOLE[] = {
        {"destinations:\n",
         {3, 14,
          "destinations: expected destinations by name (cloud: {type: postdicom, …}), found "
          "nothing"}},
        {"destinations: {}\n", {3, 15, "found an empty mapping"}},
        {"destinations: [d]\n", {3, 15, "found a list"}},
        {"destinations:\n  d: stow\n",
         {4, 6, "destinations.d: expected a mapping (key: value), found 'stow'"}},
        {"destinations:\n  d: {type: stow, url: x}\n",
         {4, 13, "destinations.d.type: stow is not available in this build; expected postdicom"}},
        {"destinations:\n  d: {type: cstore}\n",
         {4, 13, "destinations.d.type: cstore is not available in this build"}},
        {"destinations:\n  d: {type: folder}\n",
         {4, 13, "destinations.d.type: folder is not available in this build"}},
    };
    static const struct one CASES[] = {
        {"    router: https://r/\n    conections: 4\n",
         {9, 5, "destinations.d.conections: unknown key; did you mean 'connections'?"}},
        {"    router: https://r/\n    deid: x\n",
         {9, 5, "destinations.d.deid: not available in this build"}},
        {"", {5, 5, "destinations.d.router: missing: the account's router"}},
        {"    router: [a]\n",
         {8, 13, "destinations.d.router: expected an https URL, found a list"}},
        {"    router: ftp://r/\n",
         {8, 13,
          "destinations.d.router: expected a URL such as "
          "https://developer.postdicom.com/wssShellService/: its scheme is not one of these"}},
        {"    router: developer.postdicom.com\n", {8, 13, "its scheme"}},
        {"    router: https://u:swordfish@r/\n", {8, 13, "it must not hold a user or password"}},
        {"    router: https://r:99999/\n", {8, 13, "its port is not a number from 1 to 65535"}},
        {"    router: https://r:/\n", {8, 13, "its port"}},
        {"    router: https://r:x/\n", {8, 13, "its port"}},
        {"    router: https:///x\n", {8, 13, "its host is not valid"}},
        {"    router: https://::1/x\n", {8, 13, "IPv6 addresses stand in brackets"}},
        {"    router: https://[::1/x\n", {8, 13, "its host is not valid"}},
        {"    router: https://[::1]x/\n", {8, 13, "its port"}},
        {"    router: https://r_!/x\n", {8, 13, "its host is not valid"}},
        {"    router: https://r/a b\n", {8, 13, "a character that URLs do not have"}},
        {"    router: https://r/?k=1\n", {8, 13, "it must not hold a query or fragment"}},
        {"    router: http://r/\n",
         {8, 13,
          "destinations.d.router: http to another machine sends keys and patient data "
          "unprotected"}},
        {"    router: http://127.0.0.1.evil.example/\n", {8, 13, "http to another machine"}},
        {"    router: http://localhost.example/\n", {8, 13, "http to another machine"}},
        {"    router: https://r/\n    connections: 0\n",
         {9, 18, "destinations.d.connections: expected a whole number from 1 to 32, found '0'"}},
        {"    router: https://r/\n    connections: 33\n",
         {9, 18, "expected a whole number from 1 to 32, found '33'"}},
        {"    router: https://r/\n    connections: '4'\n",
         {9, 18, "expected a whole number from 1 to 32"}},
        {"    router: https://r/\n    connections: 4x\n",
         {9, 18, "expected a whole number from 1 to 32"}},
        {"    router: https://r/\n    check_existing: sometimes\n",
         {9, 21, "destinations.d.check_existing: expected one of uncertain, always, never"}},
        {"    router: https://r/\n    user: [a]\n",
         {9, 11, "destinations.d.user: expected text, found a list"}},
        {"    router: https://r/\n    user:\n",
         {9, 10, "destinations.d.user: expected text, found nothing"}},
        {"    router: https://r/\n    rate_limit: fast\n",
         {9, 17,
          "destinations.d.rate_limit: expected a size such as 512KiB or 20MB, or 'none', found "
          "'fast'"}},
        {"    router: https://r/\n    rate_limit: 1\n",
         {9, 17, "expected a size from 1.02 kB to 1 TB, or 'none', found '1'"}},
        {"    router: https://r/\n    idle_timeout: 0s\n",
         {9, 19, "destinations.d.idle_timeout: expected a duration from 1s to 1h"}},
        {"    router: https://r/\n    give_up_after: 1s\n", {9, 20, "or 'never', found '1s'"}},
        {"    router: https://r/\n    retry: {min: 1h, max: 1m}\n",
         {9, 12, "destinations.d.retry: min is greater than max"}},
        {"    router: https://r/\n    retry: {mim: 1h}\n",
         {9, 13, "destinations.d.retry.mim: unknown key; did you mean 'min'?"}},
        {"    router: https://r/\n    retry: 5\n",
         {9, 12, "destinations.d.retry: expected a mapping"}},
        {"    router: https://r/\n    proxy: proxy:3128\n",
         {9, 12,
          "destinations.d.proxy: expected none or a URL such as http://proxy.example.org:3128"}},
        {"    router: https://r/\n    proxy: http://u:swordfish@p/\n",
         {9, 12, "it must not hold a user or password"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: {fil: /x}\n",
         {10, 22,
          "destinations.d.proxy_password: unknown key 'fil'; expected {file: PATH}, {env: NAME} or "
          "{credential: NAME}; did you mean 'file'?"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: {file: x}\n",
         {10, 28, "destinations.d.proxy_password.file: expected an absolute path"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: {file: /x, env: y}\n",
         {10, 21, "destinations.d.proxy_password: expected {file: PATH}"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: [swordfish]\n",
         {10, 21, "destinations.d.proxy_password: expected {file: PATH}"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: {credential: ../x}\n",
         {10, 34, "destinations.d.proxy_password.credential: expected a name without /"}},
        {"    router: https://r/\n    proxy_user: u\n    proxy_password: {env: }\n",
         {10, 27, "destinations.d.proxy_password.env: expected a name, found nothing"}},
        {"    router: https://r/\n    proxy_password: {env: x}\n",
         {9, 21, "destinations.d.proxy_password: needs proxy_user beside it"}},
        {"    router: https://r/\n    client_key: /k\n",
         {9, 17, "destinations.d.client_key: needs client_cert beside it"}},
        {"    router: https://r/\n    ca_file: ca.pem\n",
         {9, 14, "destinations.d.ca_file: expected an absolute path"}},
        {"    router: https://r/\n    allowed_hosts: [a.org, 'https://b.org']\n",
         {9, 28,
          "destinations.d.allowed_hosts: expected a host such as eu.example.org or *.example.org, "
          "found 'https://b.org'"}},
        {"    router: https://r/\n    allowed_hosts: '*'\n", {9, 20, "expected a host such as"}},
        {"    router: https://r/\n    allowed_hosts: {}\n",
         {9, 20,
          "destinations.d.allowed_hosts: expected a host name or a list of them, found a mapping"}},
        {"    router: https://r/\n  d:\n    router: https://r/\n" KEYS,
         {9, 3, "destinations.d: given twice; first in line 4"}},
    };

    (void)state;
    CHECK_ALL(WHOLE, STATE WATCH, ROUTE);
    CHECK_ALL(CASES, STATE WATCH "destinations:\n  d:\n" KEYS, ROUTE);
    check(STATE WATCH "destinations: {'a b': {type: postdicom, router: 'https://r/', account_key: "
                      "{env: A}, api_key: {env: B}}}\n"
                      "routes: [{name: r, to: 'a b'}]\n",
          false,
          &(struct fault){3, 16,
                          "destinations.a b: a name has letters, digits, '.', '_' and '-' only"},
          1);
    const struct fault type[] = {
        {3, 20, "destinations.d.account_key: missing: the PostDICOM account's key"},
        {3, 20, "destinations.d.api_key: missing"},
        {3, 20, "destinations.d.router: missing"},
        {3, 27,
         "destinations.d.type: expected one of postdicom, found 'postdicon'; did you mean "
         "'postdicom'?"}};
    check(STATE WATCH "destinations: {d:  {type: postdicon}}\n" ROUTE, false, type, 4);
}

static void test_routes(void **state)
{
    static const struct one CASES[] = {
        {"routes:\n", {4, 8, "routes: expected a list of routes (- name: …), found nothing"}},
        {"routes: []\n",
         {4, 9, "routes: expected a list of routes (- name: …), found an empty list"}},
        {"routes: {to: d}\n",
         {4, 9, "routes: expected a list of routes (- name: …), found a mapping"}},
        {"routes: [d]\n", {4, 10, "routes[0]: expected a mapping (key: value), found 'd'"}},
        {"routes:\n  - to: d\n", {5, 5, "routes[0].name: missing: the route's name"}},
        {"routes:\n  - {name: a b, to: d}\n",
         {5, 12,
          "routes[0].name: a name has letters, digits, '.', '_' and '-' only, 64 at most; found 'a "
          "b'"}},
        {"routes:\n  - {name: [a], to: d}\n",
         {5, 12, "routes[0].name: expected a name, found a list"}},
        {"routes:\n  - {name: a, too: d, reject: x}\n",
         {5, 15, "routes[0].too: unknown key; did you mean 'to'?"}},
        {"routes:\n  - {name: a, to: d, deid: x}\n",
         {5, 22, "routes[0].deid: not available in this build"}},
        {"routes:\n  - {name: a}\n",
         {5, 5, "routes[0]: needs 'to' (destinations) or 'reject' (a reason)"}},
        {"routes:\n  - {name: a, to: []}\n",
         {5, 19,
          "routes[0].to: expected a destination's name or a list of them, found an empty list"}},
        {"routes:\n  - {name: a, to: {d: x}}\n",
         {5, 19, "routes[0].to: expected a destination's name or a list of them, found a mapping"}},
        {"routes:\n  - {name: a, to: [d, archive]}\n",
         {5, 23, "routes[0].to: no destination is called 'archive'"}},
        {"routes:\n  - {name: a, to: [d, d]}\n", {5, 23, "routes[0].to: 'd' is given twice"}},
        {"routes:\n  - {name: a, reject: x, to: d}\n",
         {5, 30, "routes[0].to: has no place beside 'reject'"}},
        {"routes:\n  - {name: a, reject: x, folder: d}\n",
         {5, 34, "routes[0].folder: has no place beside 'reject'"}},
        {"routes:\n  - {name: a, reject: x, all: true}\n",
         {5, 31, "routes[0].all: has no place beside 'reject'"}},
        {"routes:\n  - {name: a, reject: }\n",
         {5, 23, "routes[0].reject: expected reason, found nothing"}},
        {"routes:\n  - {name: a, to: d, all: maybe}\n",
         {5, 27, "routes[0].all: expected true or false, found 'maybe'"}},
        {"routes:\n  - {name: a, to: d, scope: studies}\n",
         {5, 29, "routes[0].scope: expected one of study, series, instance, found 'studies'"}},
        {"routes:\n  - {name: a, to: d, priority: 101}\n",
         {5, 32, "routes[0].priority: expected a whole number from -100 to 100, found '101'"}},
        {"routes:\n  - {name: a, to: d, priority: -101}\n",
         {5, 32, "routes[0].priority: expected a whole number from -100 to 100"}},
        {"routes:\n  - name: a\n    to: d\n    folder: A/{Modalty}/x\n",
         {7, 16, "routes[0].folder: 'Modalty' is no attribute; did you mean 'Modality'?"}},
        {"routes:\n  - name: a\n    to: d\n    folder: /A/{Modalty}/x\n",
         {7, 17, "'Modalty' is no attribute"}},
        {"routes:\n  - name: a\n    to: d\n    folder: 'A/{Modalty}/x'\n",
         {7, 17, "'Modalty' is no attribute"}},
        {"routes:\n  - name: a\n    to: d\n    folder: \"\xC3\xA4/{Modalty}/x\"\n",
         {7, 17, "'Modalty' is no attribute"}},
        {"routes:\n  - name: a\n    to: d\n    folder: A/{StudyDate:%Y/%m}\n",
         {7, 28, "routes[0].folder: a format holds no '/'"}},
        {"routes:\n  - name: a\n    to: d\n    folder: {Modality}\n",
         {7, 13, "routes[0].folder: expected a folder template, found a mapping"}},
        {"routes:\n  - name: a\n    to: d\n    folder: /\n",
         {7, 13, "routes[0].folder: names no folder"}},
        {"routes:\n  - name: a\n    to: d\n    folder: ''\n",
         {7, 13, "routes[0].folder: expected a folder template, found ''"}},
        {"routes:\n  - name: a\n    to: d\n    match: CT\n",
         {7, 12,
          "routes[0].match: expected conditions ({Modality: CT, path: trials/**}), found 'CT'"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modalty: CT}\n",
         {7, 13, "routes[0].match.Modalty: no such attribute; did you mean 'Modality'?"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Qqqqqqqqqq: CT}\n",
         {7, 13,
          "no such attribute; expected a keyword such as Modality, a tag as gggg,eeee, path or "
          "not"}},
        {"routes:\n  - name: a\n    to: d\n    match: {'0008': CT}\n",
         {7, 13,
          "routes[0].match.0008: no such attribute; within braces a tag needs quotes: "
          "'0008,0060'"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Path: CT}\n",
         {7, 13, "routes[0].match.Path: no such attribute; did you mean 'path'?"}},
        {"routes:\n  - name: a\n    to: d\n    match: {PixelData: x}\n",
         {7, 13, "routes[0].match.PixelData: has no text: its value representation is OW"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modality: }\n",
         {7, 23,
          "routes[0].match.Modality: expected a value, /regex/ or a list of them (\"\" for an "
          "empty value), found nothing"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modality: {a: b}}\n",
         {7, 23, "found a mapping"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modality: [CT, []]}\n",
         {7, 28, "routes[0].match.Modality: expected a value"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modality: /C(T/}\n",
         {7, 27,
          "routes[0].match.Modality: regular expression: missing closing parenthesis at offset 3"}},
        {"routes:\n  - name: a\n    to: d\n    match: {Modality: [MR, '/C(T/']}\n",
         {7, 33, "regular expression: missing closing parenthesis"}},
        {"routes:\n  - name: a\n    to: d\n    match: {path: ''}\n",
         {7, 19, "routes[0].match.path: expected a glob, /regex/ or a list of them, found ''"}},
        {"routes:\n  - name: a\n    to: d\n    match: {not: CT}\n",
         {7, 18, "routes[0].match.not: expected conditions"}},
        {"routes:\n  - name: a\n    to: d\n    match: {not: {not: {}}}\n",
         {7, 19, "routes[0].match.not.not: 'not' within 'not'"}},
        {"routes:\n  - name: a\n    to: d\n    match: {not: {Modalty: CT}}\n",
         {7, 19, "routes[0].match.not.Modalty: no such attribute; did you mean"}},
        {"routes:\n  - {name: a, to: d, match: {Modality: CT}}\n  - {name: a, to: d}\n",
         {6, 12, "routes[1].name: routes[0] in line 5 has this name too"}},
        {"routes:\n  - {name: a, to: d}\n  - {name: b, to: d, match: {Modality: CT}}\n",
         {6, 5, "routes[1]: never reached: routes[0] in line 5 takes every file"}},
        {"routes:\n  - {name: a, to: d, match: {}}\n  - {name: b, to: d}\n",
         {6, 5, "never reached"}},
        {"routes:\n  - {name: a, to: d, match: {Modality: [CT, MR], not: {path: x}}}\n  - {name: "
         "b, to: d, match: {not: {path: [x]}, Modality: [MR, CT]}}\n",
         {6, 29, "routes[1]: never reached: routes[0] in line 5 has the same match"}},
    };
    static const char *const GOOD[] = {
        "routes:\n  - {name: a, to: d, all: true}\n  - {name: b, to: d}\n",
        "routes:\n  - {name: a, to: d, all: true, match: {Modality: CT}}\n  - {name: b, to: d, "
        "match: {Modality: CT}}\n",
        "routes:\n  - {name: a, to: d, match: {Modality: CT}}\n  - {name: b, to: d, match: {not: "
        "{Modality: CT}}}\n",
        "routes:\n  - {name: a, to: d, match: {Modality: CT}}\n  - {name: b, to: d, match: "
        "{Modality: [CT, MR]}}\n",
        "routes:\n  - {name: a, to: d, match: {Modality: CT, path: x}}\n  - {name: b, to: d, "
        "match: {Modality: CT}}\n  - {name: c, reject: x}\n",
    };

    (void)state;
    CHECK_ALL(CASES, STATE WATCH DEST, "");
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++) {
        struct config *c = NULL;
        struct config_faults f;
        char text[1024];

        snprintf(text, sizeof(text), "%s%s", STATE WATCH DEST, GOOD[i]);
        if (config_parse("x", text, strlen(text), CONFIG_PATHS_UNSEEN, &c, &f) != 0)
            fail_msg("%s: %s", GOOD[i], f.items[0].text);
        config_free(c);
    }
    /* More attributes than a header request holds. */
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof(text), "%sroutes: [{name: a, to: d, match: {",
                                STATE WATCH DEST);
    for (unsigned i = 0; i < 49; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "'0009,%04x': x, ", 0x1000 + i);
    snprintf(text + n, sizeof(text) - n, "}}]\n");
    check(text, false,
          &(struct fault){4, 9, "routes: 49 different attributes are used, 48 are possible"}, 1);
}

static void test_all_at_once(void **state)
{
    static const struct fault ALL[] = {
        {1, 8, "state: expected an absolute path"},
        {2, 1, "wrkers: unknown key; did you mean 'workers'?"},
        {5, 13, "watch[0].settle: expected a duration"},
        {6, 5, "watch[0].reject: unknown key; did you mean 'rejected'?"},
        {9, 11, "destinations.archive.type: stow is not available in this build"},
        {12, 13, "destinations.cloud.router: http to another machine"},
        {16, 5, "routes[0].name: missing"},
        {16, 13, "routes[0].match.Modalty: no such attribute"},
        {17, 10, "routes[0].to: no destination is called 'd'"},
        {17, 13, "routes[0].to: no destination is called 'cluod'; did you mean 'cloud'?"},
        {18, 26, "routes[0].folder: %Q is not possible here"},
        {19, 5, "routes[0].deid: not available in this build"},
    };

    (void)state;
    check("state: var/lib\n"
          "wrkers: 3\n"
          "watch:\n"
          "  - path: /srv/in\n"
          "    settle: soon\n"
          "    reject: /srv/rejected\n"
          "destinations:\n"
          "  archive:\n"
          "    type: stow\n"
          "  cloud:\n"
          "    type: postdicom\n"
          "    router: http://pacs.example.org/\n"
          "    account_key: {env: A}\n    api_key: {env: B}\n"
          "routes:\n"
          "  - match: {Modalty: CT}\n"
          "    to: [d, cluod]\n"
          "    folder: x/{StudyDate:%Q}\n"
          "    deid: research\n",
          false, ALL, sizeof(ALL) / sizeof(ALL[0]));
}

/* --- with paths looked at --- */

/* The linker puts this in the place of the real one: tests have no network file system, nor one
 * that does not answer. */
static const char *network_path;
static const char *hanging_path; /* and what begins with it */
int __wrap_fsutil_is_network(const char *path, bool *ret, struct err *e);
int __wrap_fsutil_is_network(const char *path, bool *ret, struct err *e)
{
    struct stat st;

    if (hanging_path != NULL && strncmp(path, hanging_path, strlen(hanging_path)) == 0)
        sleep(3 * LOOK_DEADLINE_MS / 1000); /* nobody ends it */
    if (stat(path, &st) != 0)
        return err_set(e, ERR_VANISHED, "not there");
    *ret = network_path != NULL && strcmp(path, network_path) == 0;
    return 0;
}

static char dir[] = "/tmp/dcmferry-faults-XXXXXX";

static void make(const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (text == NULL) {
        assert_int_equal(mkdir(path, 0700), 0);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* "@" in the text stands for the test's folder. */
static void check_paths(const char *text, const struct fault *expected, size_t n)
{
    char full[4096], *out = full;

    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '@')
            out = stpcpy(out, dir);
        else
            *out++ = *p;
    }
    *out = '\0';
    check(full, true, expected, n);
}

#define OK_DEST                                                                                    \
    "destinations: {d: {type: postdicom, router: 'https://r/', account_key: x, api_key: y}}\n"

static void test_paths(void **state)
{
    char link_path[128], target[128];

    (void)state;
    make("in", NULL);
    make("in/sub", NULL);
    make("file", "x");
    make("empty", "\n");
    snprintf(link_path, sizeof(link_path), "%s/link", dir);
    snprintf(target, sizeof(target), "%s/in", dir);
    assert_int_equal(symlink(target, link_path), 0);

    static const struct one CASES[] = {
        {"state: @/s\nwatch:\n  - path: @/none\n" OK_DEST ROUTE,
         {3, 11, "/none cannot be reached: No such file or directory"}},
        {"state: @/s\nwatch:\n  - path: @/file\n" OK_DEST ROUTE, {3, 11, "/file is not a folder"}},
        {"state: @/file\nwatch:\n  - path: @/in\n" OK_DEST ROUTE, {1, 8, "/file is not a folder"}},
        {"state: @/file/x\nwatch:\n  - path: @/in\n" OK_DEST ROUTE,
         {1, 8, "/file/x cannot be reached: Not a directory"}},
        {"state: @/link/s\nwatch:\n  - path: @/in\n" OK_DEST ROUTE,
         {1, 8, "state: lies inside the drop folder"}},
        {"state: @/in/../s\nwatch:\n  - path: @/link\n  - path: @/in\n" OK_DEST ROUTE,
         {4, 11, "watch[1].path: is the same folder as watch[0]"}},
        {"state: @/s\nwatch:\n  - path: @/in\n  - path: @/link/sub\n" OK_DEST ROUTE,
         {4, 11, "watch[1].path: lies inside watch[0]"}},
        {"state: @/s\nwatch:\n  - path: @/in\n    rejected: @/link/r/x\n" OK_DEST ROUTE,
         {4, 15, "watch[0].rejected: lies inside the drop folder"}},
        {"state: @/s\nwatch:\n  - path: @/in\n    rejected: @/file\n" OK_DEST ROUTE,
         {4, 15, "/file is not a folder"}},
        {"state: @/s\nwatch:\n  - path: @/in\n    after_upload: {move: '@/link/{path}'}\n" OK_DEST
             ROUTE,
         {4, 26, "watch[0].after_upload.move: lies inside the drop folder"}},
        {"state: @/s\nwatch:\n  - path: @/in\n    after_upload: {move: '@/file/{path}'}\n" OK_DEST
             ROUTE,
         {4, 26, "/file is not a folder"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: {file: @/none}\n    api_key: y\n" ROUTE,
         {8, 18, "destinations.d.account_key: cannot read the secret of file"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: {file: @/empty}\n" ROUTE,
         {9, 14, "destinations.d.api_key: the secret of file"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: {env: DCMFERRY_NOT_SET}\n" ROUTE,
         {9, 14, "destinations.d.api_key: the environment variable DCMFERRY_NOT_SET is not set"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: {credential: k}\n" ROUTE,
         {9, 14, "$CREDENTIALS_DIRECTORY is not set"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: y\n    ca_file: @/none\n" ROUTE,
         {10, 14, "destinations.d.ca_file: "}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: y\n    client_cert: @/in\n" ROUTE,
         {10, 18, "/in cannot be read: not a regular file"}},
        {"state: @/s\nwatch:\n  - path: @/in\ndestinations:\n  d:\n    type: postdicom\n    "
         "router: https://r/\n    account_key: x\n    api_key: y\n    client_cert: @/file\n    "
         "client_key: @/none\n" ROUTE,
         {11, 17, "destinations.d.client_key: "}},
    };
    unsetenv("CREDENTIALS_DIRECTORY");
    unsetenv("DCMFERRY_NOT_SET");
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++)
        check_paths(CASES[i].text, &CASES[i].fault, 1);

    /* The state folder need not be there yet: then what it will be made in counts. */
    static const char *const STATES[] = {"@", "@/a/b"};
    network_path = dir;
    for (size_t i = 0; i < 2; i++) {
        char text[512];
        snprintf(text, sizeof(text), "state: %s\nwatch: [{path: '@/in'}]\n" OK_DEST ROUTE,
                 STATES[i]);
        check_paths(text, &(struct fault){1, 8, "state: lies on a network file system"}, 1);
    }
    network_path = NULL;
}

/* A share is dead. That is a fault to tell, but no reason not to start; a dead state folder is. */
static void test_silence(void **state)
{
    char dead[128], text[1024];
    struct config *c;
    struct config_faults f;

    (void)state;
    make("alive", NULL);
    make("dead", NULL);
    make("dead-sent", NULL);
    snprintf(dead, sizeof(dead), "%s/dead", dir);
    hanging_path = dead;
    static const char TEXT[] = "state: %1$s/s\nwatch:\n  - path: %1$s/alive\n    after_upload: "
                               "{move: '%1$s/dead-sent/{Modality}'}\n    rejected: "
                               "%1$s/dead-sent/r\n  - path: %1$s/dead\n" OK_DEST ROUTE;
    static const struct fault EXPECTED[] = {
        {4, 26, "/dead-sent does not answer within 5 s"},
        {5, 15, "/dead-sent/r does not answer within 5 s"},
        {6, 11, "/dead does not answer within 5 s"},
    };
    snprintf(text, sizeof(text), TEXT, dir);
    check(text, true, EXPECTED, 3);
    assert_int_equal(config_parse("x", text, strlen(text), CONFIG_PATHS_START, &c, &f), 0);
    assert_false(c->watches[0].silent);
    assert_true(c->watches[1].silent);
    config_free(c);
    snprintf(text, sizeof(text), "state: %s\nwatch: [{path: '%s/alive'}]\n" OK_DEST ROUTE, dead,
             dir);
    assert_int_equal(config_parse("x", text, strlen(text), CONFIG_PATHS_START, &c, &f), ERR_CONFIG);
    assert_int_equal(f.n, 1);
    assert_non_null(strstr(f.items[0].text, "does not answer"));
    config_faults_free(&f);
    hanging_path = NULL;
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    static const char *const NAMES[] = {"link", "file",      "empty", "in/sub", "in",
                                        "dead", "dead-sent", "alive", ""};
    int r = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", dir, NAMES[i]);
        r = remove(path);
    }
    return r;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top),    cmocka_unit_test(test_missing),
        cmocka_unit_test(test_watch),  cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_routes), cmocka_unit_test(test_all_at_once),
        cmocka_unit_test(test_paths),  cmocka_unit_test(test_silence),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
