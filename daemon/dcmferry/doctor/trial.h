/* The trials: each finds out what holds of one or more rows of docs/postdicom-assumptions.md, with
 * synthetic instances in a folder of its own. What they share is here; trial.c runs them. */
#ifndef DCMFERRY_DOCTOR_TRIAL_H
#define DCMFERRY_DOCTOR_TRIAL_H

#include "instance.h"
#include "login.h"
#include "report.h"

struct trial {
    struct peer *peer;
    struct report *report;
    const struct config_destination *config;
    uint64_t wait_ms; /* how long the trials of idle times wait; 0: not at all */
    bool keep;        /* leave it all there */
    int64_t now_s;
    struct login session;
    bool session_open;
    /* The folders, once they are made. */
    const char *path;            /* what the run's folder is made in: "A/B" */
    char run[40];                /* name of the run's folder */
    char top[PD_UUID_SIZE];      /* of `path` */
    char top_made[PD_UUID_SIZE]; /* the first folder of `path` that was made, "" if none was */
    char folder[PD_UUID_SIZE];   /* of the run */
    char a[PD_UUID_SIZE], b[PD_UUID_SIZE]; /* two folders in it */
    unsigned left_before;                  /* folders of earlier runs in `path` */
    char patient_id[64];
    unsigned n_folders, n_instances;
    uint64_t bytes;     /* of file bytes sent */
    uint64_t exists_ms; /* until an acknowledged file exists for CheckFileExist */
};

/* A synthetic file in memory. */
struct trial_file {
    struct instance instance;
    struct buf bytes;
    unsigned n_parts;
};

/* Each trial returns 0, or why it could not go on (its rows that are not told yet then could not be
 * told). After a failure it is run once more, in a new session. */
typedef int trial_fn(struct trial *t, struct err *e);
trial_fn trial_create, trial_folder_search, trial_create_existing,
    trial_folder_gone; /* _folder.c */
trial_fn trial_existence, trial_parts, trial_repeated, trial_survive,
    trial_session_uuid;                                                              /* _file.c */
trial_fn trial_merge, trial_folder_list, trial_same_instance;                        /* _order.c */
trial_fn trial_in_flight, trial_connections, trial_pong, trial_lost, trial_displace; /* _line.c */
trial_fn trial_time;                                                                 /* _time.c */

/* Makes the folder and runs all trials of wanted rows. */
void trial_run(struct trial *t);
/* Removes what was made (unless `keep`), and reports what is left. */
void trial_remove(struct trial *t);
/* Closes the session. */
void trial_end(struct trial *t);

/* ---- what trials use (trial_tools.c) ---- */

/* The session, opened if there is none or its connection is gone. */
int trial_session(struct trial *t, struct err *e);
void trial_drop_session(struct trial *t);
/* A request on the session's first connection; as peer_ask, and ERR_REFUSED for a refusal unless
 * `refusable`. */
struct peer_request *trial_ask(struct trial *t, uint16_t type, int32_t management, char *json,
                               bool refusable, struct err *e);
/* One more connection for uploads. */
int trial_line(struct trial *t, struct peer_line **ret, struct err *e);
/* Whether the session is still good, after something was refused: else ERR_SESSION. */
int trial_alive(struct trial *t, struct err *e);

int trial_initialize(struct trial *t, uint64_t bytes, char ret_uuid[PD_UUID_SIZE], struct err *e);
/* About what size: a small file, and ones of two and three parts. */
enum trial_size {
    TRIAL_SMALL = 64,
    TRIAL_MIDDLE = 300,
    TRIAL_TWO_PARTS = 800,
    TRIAL_THREE_PARTS = 1100
};
/* A new instance of `study`. */
int trial_file_make(struct trial *t, const char study[INSTANCE_UID_SIZE], enum trial_size size,
                    struct trial_file *ret, struct err *e);
void trial_file_free(struct trial_file *f);
/* Sends one part, without waiting. NULL when out of memory. */
struct peer_request *trial_part(struct trial *t, struct peer_line *l, const char *upload,
                                const struct trial_file *f, unsigned index, unsigned part,
                                const char *folder);
/* Sends one part and waits for its answer; refusals are answers. NULL with *e. */
struct peer_request *trial_put(struct trial *t, struct peer_line *l, const char *upload,
                               const struct trial_file *f, unsigned index, unsigned part,
                               const char *folder, struct err *e);
/* Sends all parts, one after the other, from `from` on; ERR_REFUSED. ret_order (NULL) gets
 * the order's UUID, "" if no answer named it. */
int trial_send(struct trial *t, struct peer_line *l, const char *upload, const struct trial_file *f,
               unsigned index, unsigned from, const char *folder, char *ret_order, struct err *e);
/* CheckFileExist. ret_order (NULL) as above. */
int trial_exists(struct trial *t, const char *upload, const struct trial_file *f,
                 const char *folder, bool *ret_exists, char *ret_order, struct err *e);
/* The same again and again until it exists, or `ms` are over. */
int trial_exists_within(struct trial *t, const char *upload, const struct trial_file *f,
                        uint64_t ms, bool *ret_exists, uint64_t *ret_ms, char *ret_order,
                        struct err *e);
/* CreateFolder; *ret_uuid "" if the answer does not tell. */
int trial_create_folder(struct trial *t, const char *parent, const char *name,
                        char ret_uuid[PD_UUID_SIZE], struct err *e);
/* GetFolderList; the caller's to peer_request_free. *ret_list: SubFolderList, or PatientOrderList
 * with `orders`. */
struct peer_request *trial_list(struct trial *t, const char *parent, const char *name, bool orders,
                                const cJSON **ret_list, struct err *e);
/* A folder for one trial alone, in the run's. */
int trial_own_folder(struct trial *t, const char *name, char ret_uuid[PD_UUID_SIZE], struct err *e);
/* The folder of exactly this name, "" if there is none. */
int trial_find_folder(struct trial *t, const char *parent, const char *name,
                      char ret_uuid[PD_UUID_SIZE], struct err *e);

#endif
