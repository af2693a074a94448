#include "postdicom/pd_params.h"

#include "base/uuid.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An object under construction; failure is sticky. */
struct params {
    cJSON *object;
    bool failed;
};

static struct params params_begin(void)
{
    struct params p = {.object = cJSON_CreateObject()};
    p.failed = !p.object;
    return p;
}

static void text(struct params *p, const char *name, const char *value)
{
    if (value && !p->failed)
        p->failed = !cJSON_AddStringToObject(p->object, name, value);
}

static void number(struct params *p, const char *name, unsigned value)
{
    if (!p->failed)
        p->failed = !cJSON_AddNumberToObject(p->object, name, value);
}

static void strings(struct params *p, const char *name, const char *const *values, size_t n)
{
    cJSON *list = p->failed ? NULL : cJSON_AddArrayToObject(p->object, name);
    p->failed = p->failed || !list;
    for (size_t i = 0; i < n && !p->failed; i++) {
        cJSON *item = cJSON_CreateString(values[i]);
        p->failed = !item;
        cJSON_AddItemToArray(list, item);
    }
}

static char *params_end(struct params *p)
{
    char *out = p->failed ? NULL : cJSON_PrintUnformatted(p->object);
    cJSON_Delete(p->object);
    return out;
}

static char *params_end_keys(struct params *p, const struct pd_keys *keys)
{
    text(p, "ApiKey", keys->api_key);
    text(p, "AccountKey", keys->account_key);
    return params_end(p);
}

char *pd_params_router(const struct pd_keys *keys, enum pd_address_type type)
{
    struct params p = params_begin();
    text(&p, "RouterKey", keys->account_key);
    text(&p, "AddressType", type == PD_ADDRESS_WEB_SERVICE ? "1" : "2");
    text(&p, "AdapterType", "2");
    return params_end(&p);
}

char *pd_params_region(const struct pd_keys *keys, const char *client_host_name)
{
    struct params p = params_begin();
    text(&p, "TransactionType", "3");
    text(&p, "AccountKey", keys->account_key);
    text(&p, "ApiKey", keys->api_key);
    text(&p, "ClientHostName", client_host_name);
    return params_end(&p);
}

char *pd_params_session(const struct pd_keys *keys, const char *session_uuid)
{
    struct params p = params_begin();
    char *api = NULL, *key = NULL;
    if (asprintf(&api, "Api=%s", session_uuid) < 0)
        api = NULL;
    if (asprintf(&key, "ApiKey=%s", keys->api_key) < 0)
        key = NULL;
    p.failed = p.failed || !api || !key;
    text(&p, "SessionUuid", session_uuid);
    strings(&p, "OtherParameterList", (const char *const[]){api, key}, 2);
    free(api);
    free(key);
    return params_end(&p);
}

static const char *parent_or_top(const char *parent)
{
    return parent && *parent ? parent : UUID_NIL;
}

char *pd_params_folder_list(const struct pd_keys *keys, const char *user, const char *parent,
                            const char *name, bool orders)
{
    struct params p = params_begin();
    text(&p, "UserUuid", user);
    text(&p, "ParentFolderUuid", parent_or_top(parent));
    text(&p, "FolderName", name);
    if (!p.failed)
        p.failed = !cJSON_AddBoolToObject(p.object, "GetOrdersInFolder", orders);
    return params_end_keys(&p, keys);
}

char *pd_params_create_folder(const struct pd_keys *keys, const char *user, const char *parent,
                              const char *name)
{
    struct params p = params_begin();
    text(&p, "UserUuid", user);
    text(&p, "ParentFolderUuid", parent_or_top(parent));
    text(&p, "FolderName", name);
    return params_end_keys(&p, keys);
}

char *pd_params_delete_folder(const struct pd_keys *keys, const char *user, const char *folder)
{
    struct params p = params_begin();
    text(&p, "UserUuid", user);
    text(&p, "FolderUuid", folder);
    return params_end_keys(&p, keys);
}

char *pd_params_delete_order(const struct pd_keys *keys, const char *user, const char *institution,
                             const char *order)
{
    struct params p = params_begin();
    text(&p, "UserUuid", user);
    text(&p, "PatientOrderInstitutionUuid", institution);
    text(&p, "PatientOrderUuid", order);
    return params_end_keys(&p, keys);
}

char *pd_params_add_order_to_folder(const struct pd_keys *keys, const char *user,
                                    const char *institution, const char *order,
                                    const char *const *folders, size_t n_folders)
{
    struct params p = params_begin();
    text(&p, "UserUuid", user);
    text(&p, "PatientOrderInstitutionUuid", institution);
    text(&p, "PatientOrderUuid", order);
    strings(&p, "FolderUuidList", folders, n_folders);
    return params_end_keys(&p, keys);
}

void pd_params_kib(uint64_t bytes, char out[32])
{
    /* A double has at most 10 decimals here; JavaScript prints the fewest that read back as the
     * same number. */
    double value = (double)bytes / 1024;
    for (int decimals = 0; decimals <= 10; decimals++) {
        snprintf(out, 32, "%.*f", decimals, value);
        if (strtod(out, NULL) == value)
            break;
    }
    for (char *c = out; *c; c++) /* a locale's decimal comma */
        if (*c < '0' || *c > '9')
            *c = '.';
}

char *pd_params_initialize(const struct pd_keys *keys, const char *user, const char *institution,
                           uint64_t total_bytes, const char *full_name)
{
    struct params p = params_begin();
    char kib[32], *uploader = NULL;
    pd_params_kib(total_bytes, kib);
    if (asprintf(&uploader, "%s - API", full_name) < 0)
        uploader = NULL;
    p.failed = p.failed || !uploader;
    text(&p, "UserUuid", user);
    text(&p, "InstitutionUuid", institution);
    if (!p.failed)
        p.failed = !cJSON_AddRawToObject(p.object, "TotalFileSize", kib);
    text(&p, "UploaderUuid", user);
    text(&p, "UploaderName", uploader);
    free(uploader);
    return params_end_keys(&p, keys);
}

char *pd_params_check_file_exist(const struct pd_keys *keys, const char *session,
                                 const char *institution, const char *user, const char *folder,
                                 const struct pd_params_instance *instance)
{
    struct params p = params_begin();
    text(&p, "SessionUniqueUuid", session);
    text(&p, "InstitutionUuid", institution);
    text(&p, "UserUuid", user);
    text(&p, "FolderUuid", folder);
    text(&p, "StudyInstanceUid", instance->study);
    text(&p, "PatientName", instance->patient_name);
    text(&p, "PatientId", instance->patient_id);
    text(&p, "SeriesInstanceUid", instance->series);
    text(&p, "SopInstanceUid", instance->sop);
    return params_end_keys(&p, keys);
}

char *pd_params_process_file(const struct pd_keys *keys, const char *session,
                             const char *institution, const char *user, unsigned file,
                             unsigned part, unsigned n_parts, const char *folder)
{
    struct params p = params_begin();
    text(&p, "SessionUniqueUuid", session);
    text(&p, "InstitutionUuid", institution);
    text(&p, "UserUuid", user);
    number(&p, "FileIndex", file);
    number(&p, "CurrentFilePartIndex", part);
    number(&p, "CurrentFileTotalPartCount", n_parts);
    if (folder)
        strings(&p, "FolderUuidList", &folder, 1);
    return params_end_keys(&p, keys);
}
