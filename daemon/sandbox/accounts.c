#include "sandbox/accounts.h"

static void add_user(struct store *s, const char *name)
{
    char uuid[UUID_TEXT_SIZE];

    if (store_get_int(s, 0, "SELECT id FROM users WHERE name = ?", "s", name) != 0)
        return;
    uuid_generate(uuid);
    store_exec(s, "INSERT INTO users(uuid, name, full_name) VALUES(?, ?, ?)", "sss", uuid, name,
               name);
}

static void add_institution(struct store *s, const char *name)
{
    char uuid[UUID_TEXT_SIZE];

    if (store_get_int(s, 0, "SELECT id FROM institutions WHERE name = ?", "s", name) != 0)
        return;
    uuid_generate(uuid);
    store_exec(s, "INSERT INTO institutions(uuid, name) VALUES(?, ?)", "ss", uuid, name);
}

void accounts_setup(struct store *s, const struct sandbox_options *options)
{
    for (size_t i = 0; i < options->n_users; i++)
        add_user(s, options->users[i]);
    for (size_t i = 0; i < options->n_institutions; i++)
        add_institution(s, options->institutions[i]);
    if (store_get_int(s, 0, "SELECT count(*) FROM users", "") == 0)
        add_user(s, "sandbox@localhost");
    if (store_get_int(s, 0, "SELECT count(*) FROM institutions", "") == 0)
        add_institution(s, "Sandbox Hospital");
}

cJSON *accounts_json(struct store *s)
{
    cJSON *account = cJSON_CreateObject();
    cJSON *users = cJSON_AddArrayToObject(account, "UserList");
    cJSON *institutions = cJSON_CreateArray();
    struct store_sql *q = store_sql(s, "SELECT uuid, name FROM institutions ORDER BY id", "");

    while (store_row(q)) {
        cJSON *one = cJSON_CreateObject();

        cJSON_AddStringToObject(one, "InstitutionUuid", store_text(q, 0));
        cJSON_AddStringToObject(one, "InstitutionName", store_text(q, 1));
        cJSON_AddItemToArray(institutions, one);
    }
    q = store_sql(s, "SELECT uuid, name, full_name FROM users ORDER BY id", "");
    while (store_row(q)) {
        cJSON *one = cJSON_CreateObject();

        cJSON_AddStringToObject(one, "UserUuid", store_text(q, 0));
        cJSON_AddStringToObject(one, "UserName", store_text(q, 1));
        cJSON_AddStringToObject(one, "FullName", store_text(q, 2));
        cJSON_AddItemToObject(one, "InstitutionList", cJSON_Duplicate(institutions, true));
        cJSON_AddItemToArray(users, one);
    }
    cJSON_Delete(institutions);
    return account;
}

int64_t accounts_user(struct store *s, const char *uuid, bool permissive)
{
    int64_t id = store_get_int(s, 0, "SELECT id FROM users WHERE uuid = lower(?)", "s", uuid);

    if (id == 0 && permissive && uuid_valid(uuid)) {
        store_exec(s, "INSERT INTO users(uuid, name, full_name) VALUES(lower(?1), ?1, ?1)", "s",
                   uuid);
        id = store_last_id(s);
    }
    return id;
}

int64_t accounts_institution(struct store *s, const char *uuid, bool permissive)
{
    int64_t id =
        store_get_int(s, 0, "SELECT id FROM institutions WHERE uuid = lower(?)", "s", uuid);

    if (id == 0 && permissive && uuid_valid(uuid)) {
        store_exec(s, "INSERT INTO institutions(uuid, name) VALUES(lower(?1), ?1)", "s", uuid);
        id = store_last_id(s);
    }
    return id;
}

void accounts_print(struct store *s, FILE *out)
{
    struct store_sql *q = store_sql(s, "SELECT uuid, name FROM users ORDER BY id", "");

    while (store_row(q))
        fprintf(out, "user %s \"%s\"\n", store_text(q, 0), store_text(q, 1));
    q = store_sql(s, "SELECT uuid, name FROM institutions ORDER BY id", "");
    while (store_row(q))
        fprintf(out, "institution %s \"%s\"\n", store_text(q, 0), store_text(q, 1));
}
