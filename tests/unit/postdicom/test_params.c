#include "postdicom/frame.h"
#include "postdicom/pd_params.h"
#include "vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define USER        "11111111-1111-4111-8111-111111111111"
#define INSTITUTION "22222222-2222-4222-8222-222222222222"
#define SESSION     "33333333-3333-4333-8333-333333333333"
#define ACCOUNT     "44444444-4444-4444-8444-444444444444"
#define API         "55555555-5555-4555-8555-555555555555"
#define ORDER       "66666666-6666-4666-8666-666666666666"
#define FOLDER      "88888888-8888-4888-8888-888888888888"
#define KEYS        "\"ApiKey\":\"" API "\",\"AccountKey\":\"" ACCOUNT "\"}"

static const struct pd_keys keys = {ACCOUNT, API};

static void expect(char *json, const char *expected)
{
    assert_non_null(json);
    assert_string_equal(json, expected);
    free(json);
}

/* The vendor's bytes, by hand. */
static void test_golden(void **state)
{
    (void)state;
    expect(pd_params_router(&keys, PD_ADDRESS_WEB_SERVICE),
           "{\"RouterKey\":\"" ACCOUNT "\",\"AddressType\":\"1\",\"AdapterType\":\"2\"}");
    expect(pd_params_router(&keys, PD_ADDRESS_WEB_SOCKET),
           "{\"RouterKey\":\"" ACCOUNT "\",\"AddressType\":\"2\",\"AdapterType\":\"2\"}");
    expect(pd_params_region(&keys, NULL),
           "{\"TransactionType\":\"3\",\"AccountKey\":\"" ACCOUNT "\",\"ApiKey\":\"" API "\"}");
    expect(pd_params_region(&keys, "host"),
           "{\"TransactionType\":\"3\",\"AccountKey\":\"" ACCOUNT "\",\"ApiKey\":\"" API
           "\",\"ClientHostName\":\"host\"}");
    expect(pd_params_session(&keys, SESSION),
           "{\"SessionUuid\":\"" SESSION "\",\"OtherParameterList\":[\"Api=" SESSION
           "\",\"ApiKey=" API "\"]}");
    expect(pd_params_create_folder(&keys, USER, "", "Radiology/CT/2026"),
           "{\"UserUuid\":\"" USER
           "\",\"ParentFolderUuid\":\"00000000-0000-0000-0000-000000000000\","
           "\"FolderName\":\"Radiology/CT/2026\"," KEYS);
    expect(pd_params_create_folder(&keys, USER, FOLDER, "S\xc3\xb8ndag \"quoted\" \\ back"),
           "{\"UserUuid\":\"" USER "\",\"ParentFolderUuid\":\"" FOLDER "\","
           "\"FolderName\":\"S\xc3\xb8ndag \\\"quoted\\\" \\\\ back\"," KEYS);
    expect(pd_params_folder_list(&keys, USER, FOLDER, "sub", false),
           "{\"UserUuid\":\"" USER "\",\"ParentFolderUuid\":\"" FOLDER "\",\"FolderName\":\"sub\","
           "\"GetOrdersInFolder\":false," KEYS);
    expect(pd_params_delete_folder(&keys, USER, FOLDER),
           "{\"UserUuid\":\"" USER "\",\"FolderUuid\":\"" FOLDER "\"," KEYS);
    expect(pd_params_delete_order(&keys, USER, INSTITUTION, ORDER),
           "{\"UserUuid\":\"" USER "\",\"PatientOrderInstitutionUuid\":\"" INSTITUTION
           "\",\"PatientOrderUuid\":\"" ORDER "\"," KEYS);
    const char *folders[] = {FOLDER, ORDER};
    expect(pd_params_add_order_to_folder(&keys, USER, INSTITUTION, ORDER, folders, 2),
           "{\"UserUuid\":\"" USER "\",\"PatientOrderInstitutionUuid\":\"" INSTITUTION
           "\",\"PatientOrderUuid\":\"" ORDER "\",\"FolderUuidList\":[\"" FOLDER "\",\"" ORDER
           "\"]," KEYS);
    expect(pd_params_initialize(&keys, USER, INSTITUTION, 526, "U U"),
           "{\"UserUuid\":\"" USER "\",\"InstitutionUuid\":\"" INSTITUTION
           "\",\"TotalFileSize\":0.513671875,\"UploaderUuid\":\"" USER
           "\",\"UploaderName\":\"U U - API\"," KEYS);
    expect(pd_params_process_file(&keys, SESSION, INSTITUTION, USER, 1, 0, 3, FOLDER),
           "{\"SessionUniqueUuid\":\"" SESSION "\",\"InstitutionUuid\":\"" INSTITUTION
           "\",\"UserUuid\":\"" USER "\",\"FileIndex\":1,\"CurrentFilePartIndex\":0,"
           "\"CurrentFileTotalPartCount\":3,\"FolderUuidList\":[\"" FOLDER "\"]," KEYS);
    struct pd_params_instance instance = {"1.2", "DOE^JANE", "PID-1", "1.2.3", "1.2.3.4"};
    expect(pd_params_check_file_exist(&keys, SESSION, INSTITUTION, USER, NULL, &instance),
           "{\"SessionUniqueUuid\":\"" SESSION "\",\"InstitutionUuid\":\"" INSTITUTION
           "\",\"UserUuid\":\"" USER
           "\",\"StudyInstanceUid\":\"1.2\",\"PatientName\":\"DOE^JANE\",\"PatientId\":\"PID-1\","
           "\"SeriesInstanceUid\":\"1.2.3\",\"SopInstanceUid\":\"1.2.3.4\"," KEYS);
}

static void test_kib(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1, "0.0009765625"},
        {526, "0.513671875"},
        {1024, "1"},
        {20, "0.01953125"},
        {15, "0.0146484375"},
        {1301064, "1270.5703125"},
        {UINT64_C(4) << 30, "4194304"},
        {(UINT64_C(4) << 30) + 1, "4194304.0009765625"},
    };
    char out[32];
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        pd_params_kib(cases[i].bytes, out);
        assert_string_equal(out, cases[i].text);
    }
}

static const char *arg(const cJSON *vector, int i)
{
    const cJSON *a = cJSON_GetArrayItem(cJSON_GetObjectItem(vector, "args"), i);
    return cJSON_IsString(a) ? a->valuestring : NULL;
}

/* Whether `json` is what a recorded frame carries; freed. */
static bool carries(const cJSON *frame, char *json, unsigned type)
{
    size_t size, whole;
    uint8_t *bytes = vectors_bytes(frame, &size, &whole);
    struct frame_request r;
    assert_non_null(bytes);
    assert_non_null(json);
    frame_decode_request(bytes, size, &r,
                         NULL); /* of some only the beginning is there, with the JSON */
    bool same = r.type == type && r.json && r.json_size == strlen(json) &&
                memcmp(r.json, json, r.json_size) == 0;
    free(bytes);
    free(json);
    return same;
}

/* What our functions make of the recorded arguments is what the vendor's client sent. */
static void test_vectors(void **state)
{
    (void)state;
    cJSON *root = vectors_load();
    if (!root)
        return; /* not at hand: test_golden holds the same facts */
    unsigned n = 0, uploads = 0;
    const cJSON *vector, *frame;
    cJSON_ArrayForEach(vector, cJSON_GetObjectItem(root, "vectors"))
    {
        const char *method = cJSON_GetObjectItem(vector, "method")->valuestring;
        const cJSON *args = cJSON_GetObjectItem(vector, "args");
        const cJSON *frames = cJSON_GetObjectItem(vector, "frames");
        frame = cJSON_GetArrayItem(frames, 0);
        if (strcmp(method, "CreateFolder") == 0) {
            assert_true(carries(
                frame,
                pd_params_create_folder(&keys, arg(vector, 0), arg(vector, 1), arg(vector, 2)),
                FRAME_GENERAL));
            n++;
        } else if (strcmp(method, "GetFolderList") == 0) {
            assert_true(
                carries(frame,
                        pd_params_folder_list(&keys, arg(vector, 0), arg(vector, 1), arg(vector, 2),
                                              cJSON_IsTrue(cJSON_GetArrayItem(args, 3))),
                        FRAME_GENERAL));
            n++;
        } else if (strcmp(method, "DeleteFolder") == 0) {
            assert_true(carries(frame,
                                pd_params_delete_folder(&keys, arg(vector, 0), arg(vector, 1)),
                                FRAME_GENERAL));
            n++;
        } else if (strcmp(method, "DeleteOrder") == 0) {
            assert_true(carries(
                frame,
                pd_params_delete_order(&keys, arg(vector, 0), arg(vector, 1), arg(vector, 2)),
                FRAME_GENERAL));
            n++;
        } else if (strcmp(method, "AddOrderToFolder") == 0) {
            const char *folders[2] = {FOLDER, "99999999-9999-4999-8999-999999999999"};
            assert_true(carries(frame,
                                pd_params_add_order_to_folder(&keys, arg(vector, 0), arg(vector, 1),
                                                              arg(vector, 2), folders, 2),
                                FRAME_GENERAL));
            n++;
        } else if (strcmp(method, "UploadDicomFilesIntoFolder") == 0) {
            struct pd_params_instance instance = {"1.2.826.0.1.3680043.10.999.1", "DOE^JANE",
                                                  "PID-1", "1.2.826.0.1.3680043.10.999.1.1",
                                                  "1.2.826.0.1.3680043.10.999.1.1.1"};
            bool large = cJSON_GetArraySize(frames) > 4;
            bool initialized = false, checked = false, registered = false;
            unsigned parts = 0;
            cJSON_ArrayForEach(frame, frames)
            {
                initialized |= carries(
                    frame,
                    pd_params_initialize(&keys, USER, INSTITUTION, large ? 1301064 : 526, "U U"),
                    FRAME_UPLOAD);
                checked |= carries(frame,
                                   pd_params_check_file_exist(&keys, SESSION, INSTITUTION, USER,
                                                              FOLDER, &instance),
                                   FRAME_UPLOAD);
                registered |= carries(frame, pd_params_session(&keys, SESSION), FRAME_SESSION);
                for (unsigned part = 0; part < 3; part++)
                    parts += carries(frame,
                                     pd_params_process_file(&keys, SESSION, INSTITUTION, USER, 0,
                                                            part, large ? 3 : 1, FOLDER),
                                     FRAME_UPLOAD);
                parts += large && carries(frame,
                                          pd_params_process_file(&keys, SESSION, INSTITUTION, USER,
                                                                 1, 0, 1, FOLDER),
                                          FRAME_UPLOAD);
            }
            assert_true(initialized && checked && registered);
            assert_int_equal(parts, large ? 4 : 1);
            uploads++;
        }
    }
    assert_int_equal(n, 7);
    assert_int_equal(uploads, 2);
    cJSON_Delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_kib),
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
