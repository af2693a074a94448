/* The JSON parameters of requests (wire protocol, sections 1, 3, 4, 5), byte for byte as the
 * vendor's client sends them: the same members in the same order, text not ASCII-escaped, numbers
 * as JavaScript prints them.
 *
 * Pure; thread-safe. Every function returns malloc'ed text, NULL when out of memory. Optional
 * members whose value is NULL are left out. */
#ifndef POSTDICOM_PD_PARAMS_H
#define POSTDICOM_PD_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Go into every request of types 17 and 23. */
struct pd_keys {
    const char *account_key, *api_key;
};

enum pd_address_type { PD_ADDRESS_WEB_SERVICE = 1, PD_ADDRESS_WEB_SOCKET = 2 };

/* HTTP, RequestType 4 (router). */
char *pd_params_router(const struct pd_keys *keys, enum pd_address_type type);
/* HTTP, RequestType 7 (region): asks for a session. */
char *pd_params_region(const struct pd_keys *keys, const char *client_host_name);
/* Type 3, CreateApiSession and RegisterSession. */
char *pd_params_session(const struct pd_keys *keys, const char *session_uuid);

/* Type 17. An empty parent is the top. */
char *pd_params_folder_list(const struct pd_keys *keys, const char *user, const char *parent,
                            const char *name, bool orders);
char *pd_params_create_folder(const struct pd_keys *keys, const char *user, const char *parent,
                              const char *name);
char *pd_params_delete_folder(const struct pd_keys *keys, const char *user, const char *folder);
char *pd_params_delete_order(const struct pd_keys *keys, const char *user, const char *institution,
                             const char *order);
char *pd_params_add_order_to_folder(const struct pd_keys *keys, const char *user,
                                    const char *institution, const char *order,
                                    const char *const *folders, size_t n_folders);

/* Type 23. */
char *pd_params_initialize(const struct pd_keys *keys, const char *user, const char *institution,
                           uint64_t total_bytes, const char *full_name);

struct pd_params_instance {
    const char *study, *patient_name, *patient_id, *series, *sop;
};

char *pd_params_check_file_exist(const struct pd_keys *keys, const char *session,
                                 const char *institution, const char *user, const char *folder,
                                 const struct pd_params_instance *instance);
char *pd_params_process_file(const struct pd_keys *keys, const char *session,
                             const char *institution, const char *user, unsigned file,
                             unsigned part, unsigned n_parts, const char *folder);

/* bytes / 1024 as JavaScript prints that number, into out. */
void pd_params_kib(uint64_t bytes, char out[32]);

#endif
