/* Rows about orders. */
#include "trial.h"

#include "base/clock.h"

#include <string.h>

#define SETTLE_MS 5000U /* lists may lag behind */
#define GROWN_KB  100   /* TRIAL_MIDDLE is larger than TRIAL_SMALL by 300 KB */

/* Two files of one study. */
struct pair {
    struct peer_line *line;
    char upload[PD_UUID_SIZE];
    struct trial_file first, second;
};

static int pair_make(struct pair *p, struct trial *t, enum trial_size size, struct err *e)
{
    char study[INSTANCE_UID_SIZE];
    memset(p, 0, sizeof(*p));
    instance_uid(study);
    int status = trial_file_make(t, study, TRIAL_SMALL, &p->first, e);
    if (status == 0)
        status = trial_file_make(t, study, size, &p->second, e);
    if (status == 0)
        status = trial_line(t, &p->line, e);
    return status ? status : trial_initialize(t, p->first.bytes.size, p->upload, e);
}

static void pair_free(struct pair *p)
{
    peer_line_close(p->line);
    trial_file_free(&p->first);
    trial_file_free(&p->second);
}

static int count_orders(struct trial *t, const char *folder, int *ret, struct err *e)
{
    const cJSON *list;
    struct peer_request *r = trial_list(t, folder, "", true, &list, e);
    if (!r)
        return e->code;
    *ret = cJSON_GetArraySize(list);
    peer_request_free(r);
    return 0;
}

/* ---- orders-merge ---- */

static int merge(struct trial *t, struct pair *p, struct err *e)
{
    char first[PD_UUID_SIZE], second[PD_UUID_SIZE], folder[PD_UUID_SIZE];
    bool merged;
    int n = 0;
    int status = trial_own_folder(t, "merge", folder, e);
    if (status == 0)
        status = trial_send(t, p->line, p->upload, &p->first, 0, 0, folder, first, e);
    if (status == 0)
        status = trial_initialize(t, p->second.bytes.size, p->upload, e);
    if (status == 0)
        status = trial_send(t, p->line, p->upload, &p->second, 0, 0, folder, second, e);
    if (status)
        return status;
    if (first[0] && second[0]) {
        merged = strcmp(first, second) == 0;
    } else { /* no answer names the order: they are counted */
        peer_wait(t->peer, NULL, SETTLE_MS);
        if ((status = count_orders(t, folder, &n, e)) != 0)
            return status;
        if (n == 0)
            return err_set(e, ERR_PROTOCOL, "the orders are not listed in their folder");
        merged = n == 1;
    }
    report_found(t->report, REPORT_ORDERS_MERGE, merged ? "study" : "session", NULL);
    return 0;
}

int trial_merge(struct trial *t, struct err *e)
{
    struct pair p;
    int status = pair_make(&p, t, TRIAL_SMALL, e);
    if (status == 0)
        status = merge(t, &p, e);
    pair_free(&p);
    return status;
}

/* ---- folder-list ---- */

static int folder_list(struct trial *t, struct pair *p, struct err *e)
{
    char folder[PD_UUID_SIZE];
    int n = 0;
    int status = trial_own_folder(t, "second", folder, e);
    if (status == 0)
        status = trial_send(t, p->line, p->upload, &p->first, 0, 0, t->a, NULL, e);
    if (status == 0)
        status = trial_send(t, p->line, p->upload, &p->second, 1, 0, folder, NULL, e);
    for (uint64_t end = clock_monotonic_ms() + SETTLE_MS; status == 0 && n == 0;) {
        status = count_orders(t, folder, &n, e);
        if (clock_monotonic_ms() >= end || t->peer->interrupted)
            break;
        if (n == 0)
            peer_wait(t->peer, NULL, 500);
    }
    if (status == 0)
        report_found(t->report, REPORT_FOLDER_LIST, n > 0 ? "add" : "first", NULL);
    return status;
}

int trial_folder_list(struct trial *t, struct err *e)
{
    struct pair p;
    int status = pair_make(&p, t, TRIAL_SMALL, e);
    if (status == 0)
        status = folder_list(t, &p, e);
    pair_free(&p);
    return status;
}

/* ---- same-instance ---- */

/* Of the only order in the folder; -1 where the list does not tell. */
static int order_size(struct trial *t, const char *folder, double *ret_kb, double *ret_images,
                      struct err *e)
{
    const cJSON *list;
    struct peer_request *r = trial_list(t, folder, "", true, &list, e);
    if (!r)
        return e->code;
    const cJSON *order = cJSON_GetArrayItem(list, 0);
    const cJSON *kb = cJSON_GetObjectItemCaseSensitive(order, "OrderSize");
    const cJSON *images = cJSON_GetObjectItemCaseSensitive(order, "ImagesCount");
    *ret_kb = cJSON_IsNumber(kb) ? kb->valuedouble : -1;
    *ret_images = cJSON_IsNumber(images) ? images->valuedouble : -1;
    peer_request_free(r);
    return 0;
}

static int wait_size(struct trial *t, const char *folder, double at_least, double *ret_kb,
                     double *ret_images, struct err *e)
{
    uint64_t end = clock_monotonic_ms() + SETTLE_MS;
    for (;;) {
        int status = order_size(t, folder, ret_kb, ret_images, e);
        if (status || *ret_kb >= at_least || clock_monotonic_ms() >= end || t->peer->interrupted)
            return status;
        peer_wait(t->peer, NULL, 500);
    }
}

static int same_instance(struct trial *t, struct pair *p, struct err *e)
{
    char folder[PD_UUID_SIZE];
    double before, after, images;
    int status = trial_own_folder(t, "same", folder, e);
    if (status == 0)
        status = trial_send(t, p->line, p->upload, &p->first, 0, 0, folder, NULL, e);
    if (status == 0)
        status = wait_size(t, folder, 1, &before, &images, e);
    if (status)
        return status;
    if (before < 1)
        return err_set(e, ERR_UNSUPPORTED, "the list of orders does not tell their size");
    status = trial_send(t, p->line, p->upload, &p->second, 1, 0, folder, NULL, e);
    if (status == ERR_REFUSED) {
        if ((status = trial_alive(t, e)) == 0)
            report_found(t->report, REPORT_SAME_INSTANCE, "keep", "the second is refused");
        return status;
    }
    if (status == 0)
        status = wait_size(t, folder, before + GROWN_KB, &after, &images, e);
    if (status)
        return status;
    if (images > 1)
        return err_set(e, ERR_UNSUPPORTED, "both are kept: the order has %.0f images", images);
    report_found(t->report, REPORT_SAME_INSTANCE, after >= before + GROWN_KB ? "replace" : "keep",
                 NULL);
    return 0;
}

int trial_same_instance(struct trial *t, struct err *e)
{
    struct pair p;
    int status = pair_make(&p, t, TRIAL_MIDDLE, e);
    if (status == 0) { /* the second again, under the first one's UID */
        memcpy(p.second.instance.series, p.first.instance.series, INSTANCE_UID_SIZE);
        memcpy(p.second.instance.sop, p.first.instance.sop, INSTANCE_UID_SIZE);
        buf_clear(&p.second.bytes);
        instance_write(&p.second.instance, t->now_s, &p.second.bytes);
        status = buf_failed(&p.second.bytes) ? err_set(e, ERR_NOMEM, "out of memory")
                                             : same_instance(t, &p, e);
    }
    pair_free(&p);
    return status;
}
