#include "sandbox/ls.h"

#include "sandbox/store.h"

#include <cjson/cJSON.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everything is read into one JSON tree (the --json output); the text is printed from that.
 * {"Folders": [{"FolderUuid", "FolderName", "Path", "Folders": […], "Orders": […]}], "Orders": […
 * in no folder]} Order: {"PatientOrderUuid", "StudyInstanceUid", "Institution", …, "Instances":
 * […], "Documents": […]} */

static cJSON *instances(struct store *s, int64_t order)
{
    cJSON *list = cJSON_CreateArray();
    struct store_sql *q =
        store_sql(s,
                  "SELECT sop_uid, series_uid, sha256, size, receipts, current,"
                  " transfer_syntax FROM instances WHERE order_id = ? ORDER BY id",
                  "i", order);

    while (store_row(q)) {
        cJSON *one = cJSON_CreateObject();
        char path[96];

        cJSON_AddStringToObject(one, "SopInstanceUid", store_text(q, 0));
        cJSON_AddStringToObject(one, "SeriesInstanceUid", store_text(q, 1));
        cJSON_AddStringToObject(one, "Sha256", store_text(q, 2));
        cJSON_AddNumberToObject(one, "Size", (double)store_int(q, 3));
        cJSON_AddNumberToObject(one, "Receipts", (double)store_int(q, 4));
        cJSON_AddBoolToObject(one, "Current", store_int(q, 5) != 0);
        cJSON_AddStringToObject(one, "TransferSyntaxUid", store_text(q, 6));
        snprintf(path, sizeof path, "instances/%.2s/%s.dcm", store_text(q, 2), store_text(q, 2));
        cJSON_AddStringToObject(one, "File", path);
        cJSON_AddItemToArray(list, one);
    }
    return list;
}

static cJSON *documents(struct store *s, int64_t order)
{
    cJSON *list = cJSON_CreateArray();
    struct store_sql *q = store_sql(
        s,
        "SELECT name, type, sha256, size, receipts FROM documents WHERE order_id = ? ORDER BY id",
        "i", order);

    while (store_row(q)) {
        cJSON *one = cJSON_CreateObject();

        cJSON_AddStringToObject(one, "FileName", store_text(q, 0));
        cJSON_AddStringToObject(one, "FileType", store_text(q, 1));
        cJSON_AddStringToObject(one, "Sha256", store_text(q, 2));
        cJSON_AddNumberToObject(one, "Size", (double)store_int(q, 3));
        cJSON_AddNumberToObject(one, "Receipts", (double)store_int(q, 4));
        cJSON_AddItemToArray(list, one);
    }
    return list;
}

/* The row stands on: order id, uuid, study, institution, modality, description, patient id,
 * deleted, patient name. */
static void add_order(struct store *s, struct store_sql *q, cJSON *list)
{
    cJSON *one = cJSON_CreateObject();
    int64_t id = store_int(q, 0);

    cJSON_AddStringToObject(one, "PatientOrderUuid", store_text(q, 1));
    cJSON_AddStringToObject(one, "StudyInstanceUid", store_text(q, 2));
    cJSON_AddStringToObject(one, "InstitutionName", store_text(q, 3));
    cJSON_AddStringToObject(one, "OrderModality", store_text(q, 4));
    cJSON_AddStringToObject(one, "StudyDescription", store_text(q, 5));
    cJSON_AddStringToObject(one, "PatientId", store_text(q, 6));
    cJSON_AddBoolToObject(one, "Deleted", store_int(q, 7) != 0);
    cJSON_AddStringToObject(one, "PatientName", store_text(q, 8));
    cJSON_AddItemToObject(one, "Instances", instances(s, id));
    cJSON_AddItemToObject(one, "Documents", documents(s, id));
    cJSON_AddItemToArray(list, one);
}

#define ORDERS_SELECT                                                                              \
    "SELECT o.id, o.uuid, o.study_uid, coalesce(i.name, ''), o.modality, o.description,"           \
    " o.patient_id, o.deleted, o.patient_name FROM orders o"                                       \
    " LEFT JOIN institutions i ON i.id = o.institution"

static cJSON *folder_orders(struct store *s, int64_t folder)
{
    cJSON *list = cJSON_CreateArray();
    struct store_sql *q = store_sql(s,
                                    ORDERS_SELECT " JOIN folder_orders fo ON fo.order_id = o.id"
                                                  " WHERE fo.folder = ? ORDER BY o.id",
                                    "i", folder);

    while (store_row(q))
        add_order(s, q, list);
    return list;
}

/* Ids first: a statement cannot be nested in itself. */
static cJSON *folders(struct store *s, int64_t parent, const char *path)
{
    cJSON *list = cJSON_CreateArray(), *one;
    struct store_sql *q = store_sql(
        s, "SELECT id, uuid, name, description FROM folders WHERE parent = ? ORDER BY name, id",
        "i", parent);

    while (store_row(q)) {
        one = cJSON_CreateObject();
        cJSON_AddNumberToObject(one, "id", (double)store_int(q, 0));
        cJSON_AddStringToObject(one, "FolderUuid", store_text(q, 1));
        cJSON_AddStringToObject(one, "FolderName", store_text(q, 2));
        cJSON_AddStringToObject(one, "FolderDescription", store_text(q, 3));
        cJSON_AddItemToArray(list, one);
    }
    cJSON_ArrayForEach(one, list)
    {
        int64_t id = (int64_t)cJSON_GetObjectItem(one, "id")->valuedouble;
        const char *name = cJSON_GetObjectItem(one, "FolderName")->valuestring;
        char *below;

        cJSON_DeleteItemFromObject(one, "id");
        if (asprintf(&below, "%s%s%s", path, path[0] ? "/" : "", name) < 0)
            continue;
        cJSON_AddStringToObject(one, "Path", below);
        cJSON_AddItemToObject(one, "Orders", folder_orders(s, id));
        cJSON_AddItemToObject(one, "Folders", folders(s, id, below));
        free(below);
    }
    return list;
}

static cJSON *tree(struct store *s)
{
    cJSON *all = cJSON_CreateObject();
    cJSON *list;
    struct store_sql *q;

    cJSON_AddItemToObject(all, "Folders", folders(s, 0, ""));
    list = cJSON_AddArrayToObject(all, "Orders");
    q = store_sql(
        s, ORDERS_SELECT " WHERE o.id NOT IN (SELECT order_id FROM folder_orders) ORDER BY o.id",
        "");
    while (store_row(q))
        add_order(s, q, list);
    return all;
}

/* ---- Text ---- */

static const char *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItem(object, name)->valuestring;
}

static void print_order(const cJSON *order, int depth, bool details)
{
    const cJSON *list = cJSON_GetObjectItem(order, "Instances"), *one;
    double receipts = 0;

    cJSON_ArrayForEach(one, list) receipts += cJSON_GetObjectItem(one, "Receipts")->valuedouble;
    printf("%*sorder %s  study %s  %s  %d instances, %.0f receipts, %d documents%s\n", 2 * depth,
           "", member(order, "PatientOrderUuid"), member(order, "StudyInstanceUid"),
           member(order, "OrderModality"), cJSON_GetArraySize(list), receipts,
           cJSON_GetArraySize(cJSON_GetObjectItem(order, "Documents")),
           cJSON_IsTrue(cJSON_GetObjectItem(order, "Deleted")) ? " (deleted)" : "");
    if (!details)
        return;
    cJSON_ArrayForEach(one, list)
        printf("%*s%s  %10.0f  %3.0f  %s%s\n", 2 * depth + 2, "", member(one, "Sha256"),
               cJSON_GetObjectItem(one, "Size")->valuedouble,
               cJSON_GetObjectItem(one, "Receipts")->valuedouble, member(one, "SopInstanceUid"),
               cJSON_IsTrue(cJSON_GetObjectItem(one, "Current")) ? "" : "  (other version)");
    cJSON_ArrayForEach(one, cJSON_GetObjectItem(order, "Documents"))
        printf("%*s%s  %10.0f  %3.0f  %s\n", 2 * depth + 2, "", member(one, "Sha256"),
               cJSON_GetObjectItem(one, "Size")->valuedouble,
               cJSON_GetObjectItem(one, "Receipts")->valuedouble, member(one, "FileName"));
}

static void print_folders(const cJSON *list, int depth, bool details)
{
    const cJSON *folder, *order;

    cJSON_ArrayForEach(folder, list)
    {
        printf("%*s%s/\n", 2 * depth, "", member(folder, "FolderName"));
        cJSON_ArrayForEach(order, cJSON_GetObjectItem(folder, "Orders"))
            print_order(order, depth + 1, details);
        print_folders(cJSON_GetObjectItem(folder, "Folders"), depth + 1, details);
    }
}

static void print_tree(const cJSON *all, bool details)
{
    const cJSON *orders = cJSON_GetObjectItem(all, "Orders"), *order;

    print_folders(cJSON_GetObjectItem(all, "Folders"), 0, details);
    if (cJSON_GetArraySize(orders) != 0)
        printf("(in no folder)\n");
    cJSON_ArrayForEach(order, orders) print_order(order, 1, details);
}

static int usage(FILE *out, int status)
{
    fputs("usage: dcmferry-sandbox ls --state DIR [-l] [--json]\n"
          "  -l      each instance: SHA-256, bytes, receipts, SOP Instance UID\n"
          "  --json  everything, for programs\n",
          out);
    return status;
}

int ls_main(int argc, char **argv)
{
    static const struct option options[] = {{"state", required_argument, NULL, 's'},
                                            {"long", no_argument, NULL, 'l'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *state = NULL;
    bool details = false, json = false;
    struct store *s;
    struct err e;
    cJSON *all;
    char *text;
    int c, rc = 0;

    while ((c = getopt_long(argc, argv, "lh", options, NULL)) != -1) {
        if (c == 's')
            state = optarg;
        else if (c == 'l')
            details = true;
        else if (c == 'j')
            json = true;
        else
            return usage(c == 'h' ? stdout : stderr, c == 'h' ? 0 : 2);
    }
    if (!state || optind < argc)
        return usage(stderr, 2);
    if (store_open_reader(&s, state, &e) != 0) {
        fprintf(stderr, "dcmferry-sandbox: %s\n", e.text);
        return 1;
    }
    store_exec(s, "BEGIN", ""); /* one moment's picture */
    all = tree(s);
    if (store_failed(s, &e)) {
        fprintf(stderr, "dcmferry-sandbox: %s\n", e.text);
        rc = 1;
    } else if (json) {
        text = cJSON_Print(all);
        rc = text && puts(text) >= 0 ? 0 : 1;
        free(text);
    } else {
        print_tree(all, details);
    }
    cJSON_Delete(all);
    store_close(s);
    return rc;
}
