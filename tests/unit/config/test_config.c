#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* The design's example, as it stands but for what this build does not have. */
static const char EXAMPLE[] =
    "state: /var/lib/dcmferry\n"
    "watch:\n"
    "  - path: /srv/dicom/inbox          # recursive, inotify or poll by file system\n"
    "    settle: 2s\n"
    "    after_upload: {move: /srv/dicom/sent/{StudyDate}}   # or delete; default: keep\n"
    "    rejected: /srv/dicom/rejected\n"
    "destinations:\n"
    "  cloud:\n"
    "    type: postdicom\n"
    "    router: https://developer.postdicom.com/wssShellService/\n"
    "    account_key: {file: /etc/dcmferry/account_key}      # or credential:, or env:\n"
    "    api_key: {credential: api_key}\n"
    "    user: radiology@example.org\n"
    "    institution: Main Hospital\n"
    "    connections: 4\n"
    "routes:\n"
    "  - name: ct\n"
    "    match: {Modality: CT, StationName: /^CT[12]$/}\n"
    "    to: [cloud]\n"
    "    folder: Radiology/{Modality}/{StudyDate:%Y-%m}/{PatientID}\n"
    "  - name: research\n"
    "    match: {path: trials/**}\n"
    "    to: cloud\n"
    "    folder: Trials/{path:1}\n";

static struct config *parse(const char *text)
{
    struct config *c = NULL;
    struct config_faults f;
    int r = config_parse("test.yaml", text, strlen(text), CONFIG_PATHS_UNSEEN, &c, &f);

    if (r != 0)
        fail_msg("%u:%u: %s", f.items[0].mark.line, f.items[0].mark.column, f.items[0].text);
    assert_int_equal(f.n, 0);
    return c;
}

static const char *lookup(uint32_t tag, void *ctx)
{
    (void)ctx;
    return tag == 0x00080060 ? "CT" : tag == 0x00081010 ? "CT2" : NULL;
}

static void test_example(void **state)
{
    struct config *c = parse(EXAMPLE);
    struct template_values v = {lookup, NULL, "a/b.dcm"};

    (void)state;
    assert_string_equal(c->path, "test.yaml");
    assert_string_equal(c->state, "/var/lib/dcmferry");
    assert_string_equal(c->control_socket, "/var/lib/dcmferry/control.sock");
    assert_int_equal(c->n_watches, 1);
    const struct config_watch *w = &c->watches[0];
    assert_string_equal(w->path, "/srv/dicom/inbox");
    assert_int_equal(w->mark.line, 3);
    assert_int_equal(w->mark.column, 5);
    assert_int_equal(w->settle_ms, 2000);
    assert_int_equal(w->after_upload, CONFIG_MOVE);
    assert_string_equal(template_text(w->move_to), "/srv/dicom/sent/{StudyDate}");
    assert_string_equal(w->rejected, "/srv/dicom/rejected");
    assert_int_equal(c->n_destinations, 1);
    const struct config_destination *d = &c->destinations[0];
    assert_string_equal(d->name, "cloud");
    assert_int_equal(d->type, CONFIG_DESTINATION_POSTDICOM);
    assert_string_equal(d->postdicom.router, "https://developer.postdicom.com/wssShellService/");
    assert_int_equal(d->postdicom.account_key.source, SECRET_FILE);
    assert_string_equal(d->postdicom.account_key.reference, "/etc/dcmferry/account_key");
    assert_int_equal(d->postdicom.api_key.source, SECRET_CREDENTIAL);
    assert_string_equal(d->postdicom.api_key.reference, "api_key");
    assert_string_equal(d->postdicom.user, "radiology@example.org");
    assert_string_equal(d->postdicom.institution, "Main Hospital");
    assert_int_equal(c->n_routes, 2);
    assert_string_equal(c->routes[0].name, "ct");
    assert_int_equal(c->routes[0].n_to, 1);
    assert_int_equal(c->routes[0].to[0], 0);
    assert_true(match_test(c->routes[0].match, &v, NULL));
    assert_false(match_test(c->routes[1].match, &v, NULL));
    assert_string_equal(template_text(c->routes[1].folder), "Trials/{path:1}");
    assert_int_equal(c->n_tags, 4);
    assert_true(config_tag_index(c, 0x00080020) >= 0); /* StudyDate: folder and move */
    assert_true(config_tag_index(c, 0x00100020) >= 0);
    assert_int_equal(config_tag_index(c, 0x00100010), -1);
    config_free(c);
    config_free(NULL);
}

static void test_defaults(void **state)
{
    struct config *c = parse("state: /s\n"
                             "watch: [{path: /w}]\n"
                             "destinations: {d: {type: postdicom, router: 'https://r/', "
                             "account_key: {env: A}, api_key: {env: B}}}\n"
                             "routes: [{name: r, to: d}]\n");
    const struct config_watch *w = &c->watches[0];
    const struct config_destination *d = &c->destinations[0];
    bool tmp = false;

    (void)state;
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_true(c->log_format_auto);
    assert_false(c->log_paths);
    assert_in_range(c->workers, 1, 8);
    assert_int_equal(c->history_ms, 90ull * 86400000);
    assert_int_equal(c->shutdown_timeout_ms, 30000);
    assert_int_equal(c->backup_ms, 3600000);
    assert_int_equal(w->mode, CONFIG_WATCH_AUTO);
    assert_true(w->recursive);
    assert_false(w->follow_symlinks);
    assert_int_equal(w->settle_ms, 2000);
    assert_int_equal(w->settle_timeout_ms, 300000);
    assert_int_equal(w->poll_ms, 10000);
    assert_int_equal(w->rescan_ms, 900000);
    assert_int_equal(w->n_include, 0);
    assert_true(w->n_exclude > 20);
    for (size_t i = 0; i < w->n_exclude; i++) {
        assert_true(w->exclude[i][0] != ' ' && w->exclude[i][0] != '\0');
        tmp = tmp || strcmp(w->exclude[i], "*.tmp") == 0;
    }
    assert_true(tmp);
    assert_int_equal(w->custody, CONFIG_CUSTODY_NONE);
    assert_int_equal(w->after_upload, CONFIG_KEEP);
    assert_null(w->move_to);
    assert_int_equal(w->retention_ms, 0);
    assert_null(w->rejected);
    assert_false(w->prune_empty);
    assert_null(d->postdicom.user);
    assert_null(d->postdicom.institution);
    assert_int_equal(d->postdicom.connections, 4);
    assert_int_equal(d->postdicom.pipeline, 1);
    assert_int_equal(d->postdicom.check_existing, CONFIG_CHECK_UNCERTAIN);
    assert_null(d->postdicom.client_host_name);
    assert_int_equal(d->postdicom.n_allowed_hosts, 0);
    assert_false(d->postdicom.allow_http);
    assert_int_equal(d->postdicom.session_files, 500);
    assert_int_equal(d->postdicom.session_idle_ms, 30000);
    assert_null(d->ca_file);
    assert_null(d->client_cert);
    assert_null(d->client_key);
    assert_null(d->proxy);
    assert_int_equal(d->proxy_password.source, SECRET_NONE);
    assert_int_equal(d->rate_limit, 0);
    assert_int_equal(d->connect_timeout_ms, 30000);
    assert_int_equal(d->idle_timeout_ms, 60000);
    assert_int_equal(d->ping_interval_ms, 30000);
    assert_int_equal(d->idle_close_ms, 60000);
    assert_int_equal(d->give_up_after_ms, 0);
    assert_int_equal(d->retry_min_ms, 1000);
    assert_int_equal(d->retry_max_ms, 600000);
    assert_non_null(c->routes[0].match);
    assert_null(c->routes[0].folder);
    assert_null(c->routes[0].reject);
    assert_false(c->routes[0].all);
    assert_int_equal(c->routes[0].scope, CONFIG_SCOPE_STUDY);
    assert_int_equal(c->routes[0].priority, 0);
    assert_int_equal(c->n_tags, 0);
    config_free(c);
}

static void test_all_keys(void **state)
{
    struct config *c = parse(
        "state: /s/../state//\n"
        "control: /run/c.sock\n"
        "log: {level: debug, format: json, paths: true}\n"
        "workers: 3\nhistory: 10d\nshutdown_timeout: 5s\njournal_backup: off\n"
        "watch:\n"
        "  - path: /w/\n"
        "    mode: poll\n    recursive: false\n    follow_symlinks: true\n    settle: 500ms\n"
        "    settle_timeout: 1m\n    poll_interval: 1s\n    rescan: off\n    include: '*.dcm'\n"
        "    exclude: [a, b]\n    custody: rename\n    after_upload: {move: '/m/{path}'}\n"
        "    retention: 30d\n    rejected: /r\n    prune_empty: true\n"
        "  - {path: /w2, after_upload: delete, mode: inotify}\n"
        "  - {path: /w3, after_upload: keep, retention: forever}\n"
        "destinations:\n"
        "  a.b-c_1:\n"
        "    {type: postdicom, router: 'http://127.0.0.1:8080/x', account_key: 'literal', api_key: "
        "{file: /k},\n"
        "     user: 5, institution: I, connections: 32, pipeline: 2, check_existing: always,\n"
        "     client_host_name: h, allowed_hosts: ['*.example.org', e.org], allow_http: true,\n"
        "     session_files: 10, session_idle: 1s, ca_file: /ca, client_cert: /c, client_key: /k,\n"
        "     proxy: 'http://p:3128', proxy_user: u, proxy_password: {env: P}, rate_limit: "
        "20MB/s,\n"
        "     connect_timeout: 1s, idle_timeout: 2s, ping_interval: off, idle_close: 4s,\n"
        "     give_up_after: 7d, retry: {min: 500ms, max: 1h}}\n"
        "  other: {type: postdicom, router: 'http://[::1]/', account_key: {env: A}, api_key: {env: "
        "B}, proxy: none, check_existing: never}\n"
        "routes:\n"
        "  - {name: x, match: {Modality: [CT, 'MR'], SeriesNumber: 1, '0010,0020': '', not: {path: "
        "[t/**, /x/i], PatientID: ''}}, to: [other, a.b-c_1], folder: '/A/{Modality}', all: true, "
        "scope: series, priority: -5}\n"
        "  - {name: y, match: {Modality: SR}, reject: no SRs here}\n"
        "  - {name: z, to: other, scope: instance, priority: 100}\n");
    const struct config_watch *w = c->watches;
    const struct config_destination *d = c->destinations;
    const struct config_route *r = c->routes;

    (void)state;
    assert_string_equal(c->state, "/state");
    assert_string_equal(c->control_socket, "/run/c.sock");
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c->log_format, LOG_FORMAT_JSON);
    assert_false(c->log_format_auto);
    assert_true(c->log_paths);
    assert_int_equal(c->workers, 3);
    assert_int_equal(c->history_ms, 10ull * 86400000);
    assert_int_equal(c->shutdown_timeout_ms, 5000);
    assert_int_equal(c->backup_ms, 0);
    assert_string_equal(w->path, "/w");
    assert_int_equal(w->mode, CONFIG_WATCH_POLL);
    assert_false(w->recursive);
    assert_true(w->follow_symlinks);
    assert_int_equal(w->settle_ms, 500);
    assert_int_equal(w->settle_timeout_ms, 60000);
    assert_int_equal(w->poll_ms, 1000);
    assert_int_equal(w->rescan_ms, 0);
    assert_int_equal(w->n_include, 1);
    assert_string_equal(w->include[0], "*.dcm");
    assert_int_equal(w->n_exclude, 2);
    assert_string_equal(w->exclude[1], "b");
    assert_int_equal(w->custody, CONFIG_CUSTODY_RENAME);
    assert_string_equal(template_text(w->move_to), "/m/{path}");
    assert_int_equal(w->retention_ms, 30ull * 86400000);
    assert_true(w->prune_empty);
    assert_int_equal(w[1].after_upload, CONFIG_DELETE);
    assert_int_equal(w[1].mode, CONFIG_WATCH_INOTIFY);
    assert_int_equal(w[2].after_upload, CONFIG_KEEP);
    assert_string_equal(d->name, "a.b-c_1");
    assert_string_equal(d->postdicom.router, "http://127.0.0.1:8080/x");
    assert_int_equal(d->postdicom.account_key.source, SECRET_LITERAL);
    assert_string_equal(d->postdicom.account_key.reference, "literal");
    assert_string_equal(d->postdicom.user, "5");
    assert_int_equal(d->postdicom.connections, 32);
    assert_int_equal(d->postdicom.pipeline, 2);
    assert_int_equal(d->postdicom.check_existing, CONFIG_CHECK_ALWAYS);
    assert_string_equal(d->postdicom.client_host_name, "h");
    assert_int_equal(d->postdicom.n_allowed_hosts, 2);
    assert_string_equal(d->postdicom.allowed_hosts[0], "*.example.org");
    assert_true(d->postdicom.allow_http);
    assert_int_equal(d->postdicom.session_files, 10);
    assert_int_equal(d->postdicom.session_idle_ms, 1000);
    assert_string_equal(d->ca_file, "/ca");
    assert_string_equal(d->client_cert, "/c");
    assert_string_equal(d->client_key, "/k");
    assert_string_equal(d->proxy, "http://p:3128");
    assert_string_equal(d->proxy_user, "u");
    assert_int_equal(d->proxy_password.source, SECRET_ENV);
    assert_int_equal(d->rate_limit, 20000000);
    assert_int_equal(d->connect_timeout_ms, 1000);
    assert_int_equal(d->idle_timeout_ms, 2000);
    assert_int_equal(d->ping_interval_ms, 0);
    assert_int_equal(d->idle_close_ms, 4000);
    assert_int_equal(d->give_up_after_ms, 7ull * 86400000);
    assert_int_equal(d->retry_min_ms, 500);
    assert_int_equal(d->retry_max_ms, 3600000);
    assert_string_equal(d[1].proxy, "");
    assert_int_equal(d[1].postdicom.check_existing, CONFIG_CHECK_NEVER);
    assert_int_equal(r->n_to, 2);
    assert_int_equal(r->to[0], 1);
    assert_int_equal(r->to[1], 0);
    assert_string_equal(template_text(r->folder), "A/{Modality}");
    assert_true(r->all);
    assert_int_equal(r->scope, CONFIG_SCOPE_SERIES);
    assert_int_equal(r->priority, -5);
    assert_string_equal(r[1].reject, "no SRs here");
    assert_int_equal(r[1].n_to, 0);
    assert_int_equal(r[2].scope, CONFIG_SCOPE_INSTANCE);
    assert_int_equal(r[2].priority, 100);
    assert_int_equal(c->n_tags, 3);
    config_free(c);
}

/* Key `log:` with nothing but comments beneath it. */
static void test_nothing_below(void **state)
{
    char text[2048];

    (void)state;
    snprintf(text, sizeof(text), "log:\n%s", EXAMPLE);
    struct config *c = parse(text);
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    config_free(c);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_load(void **state)
{
    char dir[] = "/tmp/dcmferry-config-XXXXXX", path[64], key[64], inbox[64], text[1024];
    struct config *c = NULL;
    struct config_faults f;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c.yaml", dir);
    snprintf(key, sizeof(key), "%s/key", dir);
    snprintf(inbox, sizeof(inbox), "%s/inbox", dir);
    snprintf(text, sizeof(text),
             "state: %s/state\n"
             "watch:\n"
             "  - {path: %s/inbox, rejected: %s/rejected, after_upload: {move: '%s/sent/{path}'}}\n"
             "destinations: {d: {type: postdicom, router: 'https://r/', account_key: 'swordfish', "
             "api_key: {file: %s/key}}}\n"
             "routes: [{name: r, to: d}]\n",
             dir, dir, dir, dir, dir);
    assert_int_equal(mkdir(inbox, 0700), 0);
    write_file(key, "secret\n", 0600);
    write_file(path, text, 0600);
    if (config_load(path, CONFIG_PATHS_CHECK, &c, &f) != 0)
        fail_msg("%u:%u: %s", f.items[0].mark.line, f.items[0].mark.column, f.items[0].text);
    assert_string_equal(c->path, path);
    config_free(c);
    /* A literal key that others can read, told without the key. */
    const mode_t modes[] = {0640, 0604, 0644};
    for (size_t i = 0; i < 3; i++) {
        write_file(path, text, modes[i]);
        assert_int_equal(config_load(path, CONFIG_PATHS_UNSEEN, &c, &f), ERR_CONFIG);
        assert_null(c);
        assert_int_equal(f.n, 1);
        assert_int_equal(f.items[0].mark.line, 4);
        assert_int_equal(f.items[0].mark.column, 72);
        assert_non_null(strstr(f.items[0].text, "destinations.d.account_key"));
        assert_non_null(strstr(f.items[0].text, "others can read: chmod 0600"));
        assert_null(strstr(f.items[0].text, "swordfish"));
        config_faults_free(&f);
    }
    write_file(path, text, 0620); /* to write is not to read */
    assert_int_equal(config_load(path, CONFIG_PATHS_UNSEEN, &c, &f), 0);
    config_free(c);
    unlink(path);
    assert_int_equal(config_load(path, CONFIG_PATHS_CHECK, &c, &f), ERR_CONFIG);
    assert_int_equal(f.n, 1);
    assert_int_equal(f.items[0].mark.line, 0);
    config_faults_free(&f);
    assert_int_equal(config_load(dir, CONFIG_PATHS_CHECK, &c, &f), ERR_CONFIG);
    config_faults_free(&f);
    unlink(key);
    rmdir(inbox);
    assert_int_equal(rmdir(dir), 0);
}

static void check_socket(const char *path, const char *text, const char *expected)
{
    write_file(path, text, 0600);
    char *found = config_control_socket(path);
    if (expected != NULL)
        assert_string_equal(found, expected);
    else
        assert_null(found);
    free(found);
}

/* Whatever else is wrong, a running daemon is to be found. */
static void test_control_socket(void **state)
{
    char dir[] = "/tmp/dcmferry-config-XXXXXX", path[64];

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c.yaml", dir);
    assert_null(config_control_socket(path));
    check_socket(path, EXAMPLE, "/var/lib/dcmferry/control.sock");
    check_socket(path, "state: /srv/s\nwotch: []\n", "/srv/s/control.sock");
    check_socket(path, "state: /srv/s\nroutes: 3\ncontrol: /run/d/c.sock\n", "/run/d/c.sock");
    check_socket(path, "control: /run/d/c.sock\n", "/run/d/c.sock");
    check_socket(path, "state: /srv/s\ncontrol: [x]\n", NULL);
    check_socket(path, "state: relative\n", NULL);
    check_socket(path, "watch: []\n", NULL);
    check_socket(path, "- 3\n", NULL);
    check_socket(path, "state: {\n", NULL);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example),  cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_all_keys), cmocka_unit_test(test_nothing_below),
        cmocka_unit_test(test_load),     cmocka_unit_test(test_control_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
