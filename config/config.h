/* The configuration: one YAML file read into an immutable, validated struct. All errors are found
 * at once.
 *
 * config_load blocks (files are read, paths are looked at); reading the struct is thread-safe. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/err.h"
#include "base/log.h"
#include "config/match.h"
#include "config/secret.h"
#include "config/template.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Attributes that one configuration may use; the reader of headers takes DICOM_MAX_TAGS (64), of
 * which the pipeline needs some for itself. */
#define CONFIG_MAX_TAGS 48

/* Where something stands in the file; line and column count from 1. */
struct config_mark {
    unsigned line, column;
};

enum config_watch_mode { CONFIG_WATCH_AUTO, CONFIG_WATCH_INOTIFY, CONFIG_WATCH_POLL };
enum config_custody { CONFIG_CUSTODY_NONE, CONFIG_CUSTODY_RENAME };
enum config_after_upload { CONFIG_KEEP, CONFIG_DELETE, CONFIG_MOVE };

struct config_watch {
    struct config_mark mark;
    char *path;                  /* absolute, normalised */
    enum config_watch_mode mode; /* mode: auto | inotify | poll */
    bool recursive;              /* recursive: true */
    bool follow_symlinks;        /* follow_symlinks: false */
    uint64_t settle_ms;          /* settle: 2s */
    uint64_t
        settle_timeout_ms; /* settle_timeout: 5m: a file still cut short after that is rejected */
    uint64_t poll_ms;      /* poll_interval: 10s */
    uint64_t rescan_ms;    /* rescan: 15m; 0 = "off" */
    char **include;
    size_t n_include; /* include: [globs]; default none = all */
    char **exclude;
    size_t n_exclude; /* exclude: [globs]; default: a sensible list, replaced when given */
    enum config_custody custody;           /* custody: none | rename */
    enum config_after_upload after_upload; /* after_upload: keep | delete | {move: TEMPLATE} */
    struct template *move_to;              /* absolute path template */
    uint64_t retention_ms; /* retention: 30d, for the folder moved to; 0 = for ever */
    char *rejected;        /* rejected: FOLDER; NULL: rejected files stay where they are */
    bool prune_empty;      /* prune_empty: false */
    bool silent; /* not a key: it did not answer when paths were looked at (CONFIG_PATHS_START) */
};

enum config_check_existing { CONFIG_CHECK_UNCERTAIN, CONFIG_CHECK_ALWAYS, CONFIG_CHECK_NEVER };

/* type: postdicom */
struct config_postdicom {
    char *router; /* router: URL, http only to loopback or with allow_http: true */
    struct secret account_key, api_key;
    char *user;                                /* name or UUID; NULL: the only one there is */
    char *institution;                         /* name or UUID; NULL: the only one there is */
    unsigned connections;                      /* 4 (1..32) */
    unsigned pipeline;                         /* 1 (1..32): parts in flight per connection */
    enum config_check_existing check_existing; /* uncertain | always | never */
    char *client_host_name;                    /* NULL: not sent */
    char **allowed_hosts;
    size_t n_allowed_hosts;   /* beside the router's own domain; "*.example.org" for sub-domains */
    bool allow_http;          /* allow_http: false */
    unsigned session_files;   /* 500: files of one upload session at most */
    uint64_t session_idle_ms; /* session_idle: 30s: an upload session without a new file ends */
};

enum config_destination_type { CONFIG_DESTINATION_POSTDICOM };

struct config_destination {
    struct config_mark mark;
    char *name;
    enum config_destination_type type;
    struct config_postdicom postdicom;
    /* all types */
    char *ca_file, *client_cert, *client_key; /* paths; NULL: the system's CAs, none */
    char *proxy; /* URL without password; NULL: from the environment; "" (proxy: none): direct */
    char *proxy_user;
    struct secret proxy_password;
    uint64_t rate_limit;         /* bytes per second, 0: none */
    uint64_t connect_timeout_ms; /* 30s */
    uint64_t idle_timeout_ms;    /* 60s: no byte in either direction while an answer is awaited */
    uint64_t ping_interval_ms;   /* 30s; WebSocket pings while a connection is open; 0 = "off" */
    uint64_t idle_close_ms;      /* 60s: connections without work are closed */
    uint64_t give_up_after_ms;   /* 0: never */
    uint64_t retry_min_ms, retry_max_ms; /* retry: {min: 1s, max: 10m} */
};

enum config_scope { CONFIG_SCOPE_STUDY, CONFIG_SCOPE_SERIES, CONFIG_SCOPE_INSTANCE };

struct config_route {
    struct config_mark mark;
    char *name;
    struct match *match; /* never NULL */
    size_t *to;
    size_t n_to;             /* indexes into destinations; none when reject is set */
    struct template *folder; /* NULL: no folder; has no leading '/' */
    char *reject;            /* reject: REASON; NULL: not a rejecting route */
    bool all;                /* all: true: go on with the next routes */
    enum config_scope scope;
    int priority; /* 0; higher goes first (-100..100) */
};

struct config {
    char *path;           /* of the file, as given */
    char *state;          /* state: FOLDER */
    char *control_socket; /* control: PATH; default STATE/control.sock */
    enum log_level
        log_level; /* log: {level: info, format: auto|human|json|journald, paths: false} */
    enum log_format log_format;
    bool log_format_auto; /* format: auto: journald under systemd, else human */
    bool log_paths;
    unsigned workers;             /* workers: 1..64; default: processors, at most 8 */
    uint64_t history_ms;          /* history: 90d */
    uint64_t shutdown_timeout_ms; /* shutdown_timeout: 30s */
    uint64_t backup_ms;           /* journal_backup: 1h; 0 = "off" */
    struct config_watch *watches;
    size_t n_watches;
    struct config_destination *destinations;
    size_t n_destinations;
    struct config_route *routes;
    size_t n_routes;
    /* Every attribute that a route, a folder or a move template uses, without repeats. */
    uint32_t *tags;
    size_t n_tags;
};

/* One fault of a file. */
struct config_fault {
    struct config_mark mark; /* 0:0 if it has no place */
    char *text;              /* the key, what was expected, "did you mean …" */
};

struct config_faults {
    struct config_fault *items;
    size_t n;
};

/* Paths may be told to exist, to be reachable, not to overlap and not to be on a network file
 * system where that is refused, and secrets to be readable. Each gets 5 s to answer. */
enum config_paths {
    CONFIG_PATHS_UNSEEN, /* nothing of that */
    CONFIG_PATHS_CHECK,  /* one that does not answer is a fault */
    CONFIG_PATHS_START   /* …but drop folders, and what files are moved to: they may yet answer */
};

/* Reads and checks `path`. On failure returns ERR_CONFIG (or ERR_NOMEM) and *ret_faults holds every
 * fault, in the order of the file; on success *ret_config is the caller's to config_free. */
int config_load(const char *path, enum config_paths paths, struct config **ret_config,
                struct config_faults *ret_faults);
/* The same from memory; `name` stands for the path in messages. */
int config_parse(const char *name, const char *text, size_t size, enum config_paths paths,
                 struct config **ret_config, struct config_faults *ret_faults);
/* The control socket that the file tells, whatever else is wrong with it; malloc'ed. NULL: it
 * cannot be read, is not YAML, or `state` and `control` are missing or wrong. */
char *config_control_socket(const char *path);
void config_free(struct config *c);
void config_faults_free(struct config_faults *f);

/* The index of the tag in c->tags; -1 if no one uses it. */
int config_tag_index(const struct config *c, uint32_t tag);

#endif
