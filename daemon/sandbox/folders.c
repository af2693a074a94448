#include "sandbox/folders.h"

#include "sandbox/orders.h"

#include <stdlib.h>
#include <string.h>

int64_t folders_find(struct request *r, struct store *s, const char *uuid)
{
    int64_t id;

    if (uuid[0] == '\0' || strcmp(uuid, UUID_NIL) == 0)
        return FOLDERS_ROOT;
    id = store_get_int(s, FOLDERS_UNKNOWN, "SELECT id FROM folders WHERE uuid = lower(?)", "s",
                       uuid);
    if (id == FOLDERS_UNKNOWN && r->sandbox->options.permissive && uuid_valid(uuid)) {
        store_exec(s, "INSERT INTO folders(uuid, parent, name) VALUES(lower(?1), 0, ?1)", "s",
                   uuid);
        id = store_last_id(s);
    }
    return id;
}

bool folders_put_order(struct store *s, int64_t folder, int64_t order)
{
    return store_exec(s, "INSERT OR IGNORE INTO folder_orders(folder, order_id) VALUES(?, ?)", "ii",
                      folder, order) != 0;
}

static int64_t find_child(struct store *s, int64_t parent, const char *name)
{
    return store_get_int(s, FOLDERS_UNKNOWN,
                         "SELECT id FROM folders WHERE parent = ? AND name = ? ORDER BY id LIMIT 1",
                         "is", parent, name);
}

static int64_t make_child(struct store *s, int64_t parent, const char *name,
                          const char *description)
{
    char uuid[UUID_TEXT_SIZE];

    uuid_generate(uuid);
    store_exec(s, "INSERT INTO folders(uuid, parent, name, description) VALUES(?, ?, ?, ?)", "siss",
               uuid, parent, name, description);
    return store_last_id(s);
}

/* FolderUuid, FolderName … of one folder. */
static cJSON *folder_json(struct store *s, int64_t id)
{
    static const char sql[] =
        "WITH RECURSIVE below(id) AS (SELECT id FROM folders WHERE parent = ?1 UNION ALL"
        " SELECT f.id FROM folders f JOIN below b ON f.parent = b.id)"
        " SELECT uuid, name, description,"
        " (SELECT count(*) FROM folder_orders fo JOIN orders o ON o.id = fo.order_id"
        "  WHERE fo.folder = ?1 AND o.deleted = 0),"
        " (SELECT count(*) FROM folder_orders fo JOIN orders o ON o.id = fo.order_id"
        "  WHERE fo.folder IN below AND o.deleted = 0),"
        " (SELECT count(*) FROM folders WHERE parent = ?1), (SELECT count(*) FROM below)"
        " FROM folders WHERE id = ?1";
    struct store_sql *q = store_sql(s, sql, "i", id);
    cJSON *folder = cJSON_CreateObject();
    int64_t own;

    if (!store_row(q))
        return folder;
    own = store_int(q, 3);
    cJSON_AddStringToObject(folder, "FolderUuid", store_text(q, 0));
    cJSON_AddStringToObject(folder, "FolderName", store_text(q, 1));
    cJSON_AddStringToObject(folder, "FolderDescription", store_text(q, 2));
    cJSON_AddFalseToObject(folder, "IsShared");
    cJSON_AddNumberToObject(folder, "OrderCount", (double)own);
    cJSON_AddNumberToObject(folder, "AllSubOrderCount", (double)(own + store_int(q, 4)));
    cJSON_AddNumberToObject(folder, "SubFolderCount", (double)store_int(q, 5));
    cJSON_AddNumberToObject(folder, "AllSubFolderCount", (double)store_int(q, 6));
    store_end(q);
    return folder;
}

static int create_last(struct request *r, struct store *s, int64_t *id, const char *name)
{
    const char *description = request_text(r, "FolderDescription");
    int64_t existing = find_child(s, *id, name);

    if (existing != FOLDERS_UNKNOWN && r->sandbox->assume.create_existing == ASSUME_CREATE_ERROR)
        return request_fail(r, "A folder of that name exists already.");
    if (existing != FOLDERS_UNKNOWN && r->sandbox->assume.create_existing != ASSUME_CREATE_TWIN)
        *id = existing;
    else
        *id = make_child(s, *id, name, description);
    return 0;
}

int folders_create(struct request *r, struct store *s, cJSON *answer)
{
    int64_t id = folders_find(r, s, request_text(r, "ParentFolderUuid"));
    char *path = strdup(request_text(r, "FolderName"));
    char *rest = NULL, *name, *next;
    int rc = 0;

    if (!path)
        return request_fail(r, "out of memory");
    name = strtok_r(path, "/", &rest);
    if (id == FOLDERS_UNKNOWN)
        rc = request_fail(r, "The parent folder is not known.");
    else if (!name)
        rc = request_fail(r, "The folder has no name.");
    for (; rc == 0 && name; name = next) {
        int64_t child;

        next = strtok_r(NULL, "/", &rest);
        if (!next) {
            rc = create_last(r, s, &id, name);
            break;
        }
        child = find_child(s, id, name);
        id = child == FOLDERS_UNKNOWN ? make_child(s, id, name, "") : child;
    }
    free(path);
    if (rc == 0 && r->sandbox->assume.create_answer != ASSUME_CREATE_NO_UUID)
        cJSON_AddItemToObject(answer, "Folder", folder_json(s, id));
    return rc;
}

int folders_search(struct request *r, struct store *s, cJSON *answer)
{
    static const char sql[] =
        "SELECT id FROM folders WHERE parent = ?1 AND (?2 = '' OR name = ?2 OR"
        " (?3 AND instr(lower(name), lower(?2)) > 0)) ORDER BY name, id";
    int64_t parent = folders_find(r, s, request_text(r, "ParentFolderUuid"));
    cJSON *folder, *list;
    struct store_sql *q;

    if (parent == FOLDERS_UNKNOWN)
        return request_fail(r, "The folder is not known.");
    folder = cJSON_AddObjectToObject(answer, "Folder");
    if (parent != FOLDERS_ROOT)
        cJSON_AddStringToObject(folder, "FolderUuid", request_text(r, "ParentFolderUuid"));
    list = cJSON_AddArrayToObject(folder, "SubFolderList");
    q = store_sql(s, sql, "isi", parent, request_text(r, "FolderName"),
                  (int64_t)(r->sandbox->assume.folder_search == ASSUME_SEARCH_CONTAINS));
    while (store_row(q))
        cJSON_AddItemToArray(list, folder_json(s, store_int(q, 0)));
    list = cJSON_AddArrayToObject(folder, "PatientOrderList");
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(r->params, "GetOrdersInFolder")))
        orders_list_in_folder(s, parent, list);
    return 0;
}

int folders_delete(struct request *r, struct store *s, cJSON *answer)
{
    int64_t id = folders_find(r, s, request_text(r, "FolderUuid"));

    (void)answer;
    if (id == FOLDERS_UNKNOWN || id == FOLDERS_ROOT)
        return request_fail(r, "The folder is not known.");
    store_exec(s,
               "WITH RECURSIVE below(id) AS (SELECT ?1 UNION ALL SELECT f.id FROM folders f"
               " JOIN below b ON f.parent = b.id) DELETE FROM folder_orders WHERE folder IN below",
               "i", id);
    store_exec(s,
               "WITH RECURSIVE below(id) AS (SELECT ?1 UNION ALL SELECT f.id FROM folders f"
               " JOIN below b ON f.parent = b.id) DELETE FROM folders WHERE id IN below",
               "i", id);
    return 0;
}

int folders_update(struct request *r, struct store *s, cJSON *answer)
{
    int64_t id = folders_find(r, s, request_text(r, "FolderUuid"));
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(r->params, "JsonParameters");
    const cJSON *identity = cJSON_GetObjectItemCaseSensitive(parameters, "IdentityInformation");
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(identity, "Name");
    const cJSON *description = cJSON_GetObjectItemCaseSensitive(identity, "Description");

    if (id == FOLDERS_UNKNOWN || id == FOLDERS_ROOT)
        return request_fail(r, "The folder is not known.");
    if (cJSON_IsString(name) && name->valuestring[0] != '\0')
        store_exec(s, "UPDATE folders SET name = ? WHERE id = ?", "si", name->valuestring, id);
    if (cJSON_IsString(description))
        store_exec(s, "UPDATE folders SET description = ? WHERE id = ?", "si",
                   description->valuestring, id);
    cJSON_AddItemToObject(answer, "Folder", folder_json(s, id));
    return 0;
}

int folders_add_order(struct request *r, struct store *s, cJSON *answer)
{
    int64_t order = orders_find(r, s, request_text(r, "PatientOrderUuid"));
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(r->params, "FolderUuidList");
    const cJSON *item;

    (void)answer;
    if (order == 0)
        return request_fail(r, "The order is not known.");
    if (!cJSON_IsArray(list))
        return request_fail(r, "FolderUuidList is missing.");
    cJSON_ArrayForEach(item, list)
    {
        int64_t folder = folders_find(r, s, cJSON_IsString(item) ? item->valuestring : "");

        if (folder == FOLDERS_UNKNOWN || folder == FOLDERS_ROOT)
            return request_fail(r, "A folder is not known.");
        folders_put_order(s, folder, order);
    }
    return 0;
}

int folders_remove_orders(struct request *r, struct store *s, cJSON *answer)
{
    int64_t folder = folders_find(r, s, request_text(r, "FolderUuid"));
    const cJSON *item;

    (void)answer;
    if (folder == FOLDERS_UNKNOWN || folder == FOLDERS_ROOT)
        return request_fail(r, "The folder is not known.");
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(r->params, "PatientOrderUuidList"))
    {
        int64_t order = orders_find(r, s, cJSON_IsString(item) ? item->valuestring : "");

        if (order == 0)
            return request_fail(r, "An order is not known.");
        store_exec(s, "DELETE FROM folder_orders WHERE folder = ? AND order_id = ?", "ii", folder,
                   order);
    }
    return 0;
}
