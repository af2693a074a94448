/* Each row of docs/postdicom-assumptions.md, both ways: whatever the server does, all files are
 * there, in their folders. */
#include "postdicom/pd_session.h"
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PART (512U * 1024)

static void file(struct rig_file *f, unsigned n, size_t size, const char *folder)
{
    char name[16], sop[80];
    snprintf(name, sizeof(name), "f%u", n);
    snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, n + 1);
    rig_make(f, name, RIG_STUDY, sop, size, n);
    f->delivery.folder = folder;
}

/* Sends until it is delivered. */
static void deliver(struct rig_file *f)
{
    for (int i = 0; i < 10; i++) {
        while (dest_capacity(rig_dest) == 0)
            uv_run(&rig_loop, UV_RUN_ONCE);
        rig_deliver(f);
        if (f->result.verdict == DEST_DELIVERED)
            return;
        assert_verdict(f, DEST_RETRY);
        f->delivery.uncertain = f->delivery.uncertain || f->result.uncertain;
    }
    fail_msg("not delivered: %s", f->result.err.text);
}

static void scenario(const char *assumption, uint64_t pause_ms)
{
    static struct rig_file f[6];
    rig_sandbox(assumption, NULL);
    rig_config.idle_timeout_ms = 5000;
    rig_open();
    file(&f[0], 0, 1000, "A/B");
    file(&f[1], 1, 5 * PART + 9, "A/B");
    file(&f[2], 2, 2000, "A/B");
    for (int i = 0; i < 3; i++)
        rig_send(&f[i]);
    rig_wait(f, 3);
    for (int i = 0; i < 3; i++)
        if (f[i].result.verdict != DEST_DELIVERED)
            deliver(&f[i]);
    assert_true(rig_in_folder(RIG_STUDY, "A/B"));
    rig_run_ms(pause_ms);

    /* The same study into another folder, large and small, by who knows nothing of the first. */
    rig_close(5000);
    rig_open();
    file(&f[3], 3, 3 * PART, "A/C");
    deliver(&f[3]);
    assert_true(rig_in_folder(RIG_STUDY, "A/C"));
    rig_run_ms(pause_ms);
    file(&f[4], 4, 10, "A/B");
    deliver(&f[4]);

    /* An earlier try may have arrived; it did. */
    f[0].delivery.uncertain = true;
    f[0].delivery.folder = "Late/Er";
    deliver(&f[0]);
    assert_true(rig_in_folder(RIG_STUDY, "Late/Er"));

    /* One that did not. */
    file(&f[5], 5, 700, "A/B");
    f[5].delivery.uncertain = true;
    deliver(&f[5]);
    for (int i = 0; i < 6; i++)
        if (rig_receipts(&f[i]) < 1)
            fail_msg("file %d is not there", i);
}

#define ROW(name, assumption, pause_ms)                                                            \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        scenario("--assume-" assumption, pause_ms);                                                \
    }
ROW(defaults, "answer-type=24", 0)
ROW(parts_in_flight, "parts-in-flight=one", 0)
ROW(exists_means, "exists-means=any-part", 0)
ROW(exists_scope, "exists-scope=folder", 0)
ROW(exists_order, "exists-order=none", 0)
ROW(exists_delay, "exists-delay=60000", 0)
ROW(part_answer, "part-answer=last", 0)
ROW(repeated_part, "repeated-part=refuse", 0)
ROW(parts_survive, "parts-survive=no", 0)
ROW(session_uuid, "session-uuid=initialize", 0)
ROW(upload_session_idle, "upload-session-idle=1", 1500)
ROW(session_lifetime, "session-lifetime=1", 1500)
ROW(session_lost, "session-lost=close", 0)
ROW(idle_close, "idle-close=1", 1500)
ROW(max_connections, "max-connections=2", 0)
ROW(orders_merge, "orders-merge=session", 0)
ROW(folder_list, "folder-list=first", 0)
ROW(folder_search, "folder-search=contains", 0)
ROW(create_existing_error, "create-existing=error", 0)
ROW(create_existing_twin, "create-existing=twin", 0)
ROW(create_answer, "create-answer=none", 0)
ROW(same_instance, "same-instance=keep", 0)
ROW(answer_type, "answer-type=6", 0)

/* The pipeline that the server does not take: it closes the connection each time, and we say so. */
static void test_pipeline_refused(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox("--assume-parts-in-flight=one", NULL);
    rig_config.postdicom.connections = 1;
    rig_config.postdicom.pipeline = 4;
    rig_open();
    file(&f, 0, 8 * PART, "");
    rig_deliver(&f);
    if (f.result.verdict == DEST_DELIVERED)
        assert_int_equal(rig_receipts(&f) >= 1, 1);
    else
        assert_verdict(&f, DEST_RETRY);
}

/* Pings that are not answered end connections that have no work, and only those that wait in vain.
 */
static void test_no_pong(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox("--assume-pong=no", NULL);
    rig_config.ping_interval_ms = 200;
    rig_config.idle_timeout_ms = 700;
    rig_open();
    file(&f, 0, 1000, "A");
    deliver(&f);
    rig_run_ms(2500);
    file(&f, 1, 1000, "A");
    deliver(&f);
    assert_int_equal(rig_receipts(&f), 1);
}

/* Two destinations with the same API key, at work in turns. */
static void displace(const char *how)
{
    struct rig_file f;
    struct dest *both[2];
    rig_sandbox(how, NULL);
    for (int i = 0; i < 2; i++) {
        rig_open();
        both[i] = rig_dest;
    }
    for (unsigned i = 0; i < 8; i++) {
        rig_dest = both[i % 2];
        file(&f, i, 1000, "A");
        deliver(&f);
        assert_true(rig_receipts(&f) >= 1);
    }
    for (int i = 0; i < 2; i++) {
        rig_dest = both[i];
        rig_close(1000);
    }
}

static void test_displace_close(void **state)
{
    (void)state;
    displace("--assume-displace=close");
}

static void test_displace_forget(void **state)
{
    (void)state;
    displace("--assume-displace=forget");
}

/* ---- a folder is deleted while its UUID is in our cache ---- */

struct asking {
    struct pd_waiter waiter;
    struct pd_call call;
    struct pd_session *session;
    char json[1000];
    const char *folder; /* at the top */
    char uuid[PD_UUID_SIZE];
    bool ended;
};

static void on_deleted(struct pd_call *c, int status, const struct pd_answer *a,
                       const struct err *e)
{
    struct asking *ask = c->ctx;
    (void)e;
    assert_int_equal(status, 0);
    assert_true(a->ok);
    ask->ended = true;
}

static void ask(struct asking *ask, int management, const char *members,
                void (*cb)(struct pd_call *, int, const struct pd_answer *, const struct err *))
{
    snprintf(ask->json, sizeof(ask->json),
             "{\"UserUuid\":\"%s\",%s,\"ApiKey\":\"%s\",\"AccountKey\":\"%s\"}",
             pd_session_account(ask->session)->user_uuid, members, RIG_API_KEY, RIG_ACCOUNT_KEY);
    ask->call = (struct pd_call){
        .request = {.type = FRAME_GENERAL, .management = management, .json = ask->json},
        .cb = cb,
        .ctx = ask};
    pd_session_send(ask->session, &ask->call);
}

static void on_listed(struct pd_call *c, int status, const struct pd_answer *a, const struct err *e)
{
    struct asking *asking = c->ctx;
    const cJSON *item;
    char members[200];
    (void)e;
    assert_int_equal(status, 0);
    assert_true(a->ok);
    cJSON_ArrayForEach(
        item, cJSON_GetObjectItem(cJSON_GetObjectItem(a->result, "Folder"), "SubFolderList"))
    {
        if (strcmp(cJSON_GetObjectItem(item, "FolderName")->valuestring, asking->folder) == 0)
            assert_true(pd_answer_id(item, "FolderUuid", asking->uuid));
    }
    assert_true(asking->uuid[0]);
    snprintf(members, sizeof(members), "\"FolderUuid\":\"%s\"", asking->uuid);
    ask(asking, 4, members, on_deleted);
}

static void on_asking_ready(struct pd_waiter *w, int status, const struct err *e)
{
    struct asking *asking = w->ctx;
    (void)e;
    assert_int_equal(status, 0);
    ask(asking, 3,
        "\"ParentFolderUuid\":\"00000000-0000-0000-0000-000000000000\",\"FolderName\":\"\","
        "\"GetOrdersInFolder\":false",
        on_listed);
}

static void on_flag(void *ctx)
{
    *(bool *)ctx = true;
}

static void delete_folder(const char *name)
{
    static struct asking asking;
    static struct pd_options options;
    struct pd_keys keys = {RIG_ACCOUNT_KEY, RIG_API_KEY};
    struct err e;
    bool closed = false;
    options = (struct pd_options){
        .router = rig_config.postdicom.router,
        .connections = 1,
        .pipeline = 1,
        .session_files = 1,
        .idle_timeout_ms = 5000,
        .net = {.proxy = "", .connect_timeout_ms = 5000, .idle_timeout_ms = 5000}};
    memset(&asking, 0, sizeof(asking));
    asking.folder = name;
    assert_int_equal(pd_session_new(&asking.session, &rig_loop, &options, NULL, &e), 0);
    assert_int_equal(pd_session_set_keys(asking.session, &keys), 0);
    asking.waiter = (struct pd_waiter){.cb = on_asking_ready, .ctx = &asking};
    pd_session_ready(asking.session, &asking.waiter);
    while (!asking.ended)
        uv_run(&rig_loop, UV_RUN_ONCE);
    pd_session_close(asking.session, on_flag, &closed);
    while (!closed)
        uv_run(&rig_loop, UV_RUN_ONCE);
}

static void folder_gone(const char *how)
{
    struct rig_file f;
    rig_sandbox(how, NULL);
    rig_open();
    file(&f, 0, 1000, "Top/Sub");
    deliver(&f);
    delete_folder("Top");
    file(&f, 1, 1000, "Top/Sub");
    deliver(&f);
    assert_int_equal(rig_receipts(&f), 1);
    assert_true(rig_in_folder(RIG_STUDY, "Top/Sub"));
}

/* Stored without its folder: AddOrderToFolder tells. */
static void test_folder_gone_ignore(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox("--assume-folder-gone=ignore", NULL);
    rig_open();
    file(&f, 0, 1000, "Top/Sub");
    deliver(&f);
    delete_folder("Top");
    rig_make(&f, "other", RIG_STUDY ".2", RIG_STUDY ".2.1.1", 1000, 1);
    f.delivery.folder = "Top/Sub";
    deliver(&f);
    assert_int_equal(rig_receipts(&f), 1);
    assert_true(rig_in_folder(RIG_STUDY ".2", "Top/Sub"));
}

static void test_folder_gone_refuse(void **state)
{
    (void)state;
    folder_gone("--assume-folder-gone=refuse");
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, rig_setup, rig_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(defaults),
        T(parts_in_flight),
        T(exists_means),
        T(exists_scope),
        T(exists_order),
        T(exists_delay),
        T(part_answer),
        T(repeated_part),
        T(parts_survive),
        T(session_uuid),
        T(upload_session_idle),
        T(session_lifetime),
        T(session_lost),
        T(idle_close),
        T(max_connections),
        T(orders_merge),
        T(folder_list),
        T(folder_search),
        T(create_existing_error),
        T(create_existing_twin),
        T(create_answer),
        T(same_instance),
        T(answer_type),
        T(pipeline_refused),
        T(no_pong),
        T(displace_close),
        T(displace_forget),
        T(folder_gone_refuse),
        T(folder_gone_ignore),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
