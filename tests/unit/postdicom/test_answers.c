/* What is read from the server's answers, which addresses are taken, and which upload session a
 * file goes into. */
#include "postdicom/pd_address.h"
#include "postdicom/pd_answer.h"
#include "postdicom/pd_burst.h"
#include "postdicom/pd_filed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct pd_keys keys = {"44444444-4444-4444-8444-444444444444",
                                    "55555555-5555-4555-8555-555555555555"};

static struct pd_answer parse(const char *json)
{
    struct pd_answer a;
    struct err e;
    if (pd_answer_parse(json, strlen(json), &keys, &a, &e))
        fail_msg("%s: %s", json, e.text);
    return a;
}

static void test_codes(void **state)
{
    static const struct {
        const char *json;
        bool ok;
        const char *text;
    } cases[] = {
        {"{\"ResponseCode\":1,\"ResponseMessage\":\"x\"}", true, ""},
        {"{\"ResponseCode\":\"1\",\"ResponseMessage\":{}}", true, ""},
        {"{\"SessionUniqueUuid\":\"x\"}", true, ""},
        {"{\"ResponseCode\":2,\"ResponseMessage\":\"no\\nway\"}", false, "no way"},
        {"{\"ResponseCode\":0,\"Message\":\"no\"}", false, "no"},
        {"{\"ResponseCode\":1,\"ResponseMessage\":{\"Success\":false,\"Message\":\"no\"}}", false,
         "no"},
        {"{\"ResponseCode\":1,\"ResponseMessage\":{\"Success\":true,\"Message\":\"fine\"}}", true,
         ""},
        {"{\"ResponseCode\":null,\"ResponseMessage\":\"x\"}", false, "x"},
        {"{\"ResponseCode\":3,\"ResponseMessage\":\"key 55555555-5555-4555-8555-555555555555 "
         "bad\"}",
         false, "key ************************************ bad"},
        {"{\"ResponseCode\":3}", false, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pd_answer a = parse(cases[i].json);
        assert_int_equal(a.ok, cases[i].ok);
        assert_string_equal(a.text, cases[i].text);
        pd_answer_free(&a);
    }
    static const char *const bad[] = {"", "x", "[]", "1", "{", "null", "\"{}\""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pd_answer a;
        assert_int_equal(pd_answer_parse(bad[i], strlen(bad[i]), &keys, &a, NULL), ERR_PROTOCOL);
        pd_answer_free(&a);
    }
}

/* A long reason is cut, at a character. */
static void test_long_reason(void **state)
{
    char json[2000] = "{\"ResponseCode\":2,\"Message\":\"";
    (void)state;
    for (int i = 0; i < 400; i++)
        strcat(json, "\xc3\xb8");
    strcat(json, "\"}");
    struct pd_answer a = parse(json);
    assert_in_range(strlen(a.text), PD_TEXT_SIZE - 3, PD_TEXT_SIZE - 1);
    assert_int_equal(strlen(a.text) % 2, 0);
    pd_answer_free(&a);
}

static void test_frame_success(void **state)
{
    struct frame_answer f = {.success = false,
                             .message = "down",
                             .message_size = 4,
                             .json = "{\"ResponseCode\":1}",
                             .json_size = 18};
    struct pd_answer a;
    (void)state;
    assert_int_equal(pd_answer_parse_frame(&f, &keys, &a, NULL), 0);
    assert_false(a.ok);
    assert_string_equal(a.text, "down");
    pd_answer_free(&a);
    f.success = true;
    f.json_size = 0;
    assert_int_equal(pd_answer_parse_frame(&f, &keys, &a, NULL), ERR_PROTOCOL);
    pd_answer_free(&a);
}

/* 70 characters where 63 fit. */
#define LONG_UUID                                                                                  \
    "{\"ResponseMessage\":{\"PatientOrder\":{\"PatientOrderUuid\":"                                \
    "\"0123456789012345678901234567890123456789012345678901234567890123456789\"}}}"

static void test_order(void **state)
{
    char id[PD_UUID_SIZE];
    (void)state;
    struct pd_answer a = parse(
        "{\"ResponseCode\":1,\"ResponseMessage\":{\"PatientOrder\":{\"PatientOrderUuid\":\"o\"}}}");
    assert_true(pd_answer_order(&a, id));
    assert_string_equal(id, "o");
    pd_answer_free(&a);
    static const char *const none[] = {
        "{\"ResponseCode\":1}",
        "{\"ResponseMessage\":{\"PatientOrder\":null}}",
        "{\"ResponseMessage\":{\"PatientOrder\":{\"PatientOrderUuid\":\"\"}}}",
        "{\"ResponseMessage\":{\"PatientOrder\":{\"PatientOrderUuid\":\"a b\"}}}",
        "{\"ResponseMessage\":{\"PatientOrder\":{\"PatientOrderUuid\":5}}}",
        LONG_UUID,
    };
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        a = parse(none[i]);
        assert_false(pd_answer_order(&a, id));
        pd_answer_free(&a);
    }
    /* JSON within text. */
    a = parse("{\"ResponseCode\":1,\"ResponseMessage\":\"{\\\"PatientOrder\\\":{"
              "\\\"PatientOrderUuid\\\":\\\"p\\\"}}\"}");
    assert_true(pd_answer_order(&a, id));
    pd_answer_free(&a);
}

#define ACCOUNT_JSON                                                                               \
    "{\"ResponseCode\":1,\"ResponseMessage\":{\"Account\":{\"UserList\":["                         \
    "{\"UserUuid\":\"u1\",\"UserName\":\"a@x\",\"FullName\":\"A A\",\"InstitutionList\":["         \
    "{\"InstitutionUuid\":\"i1\",\"InstitutionName\":\"Main\"},{\"InstitutionUuid\":\"i2\","       \
    "\"InstitutionName\":"                                                                         \
    "\"Side\"}]},"                                                                                 \
    "{\"UserUuid\":\"u2\",\"UserName\":\"b@x\",\"FullName\":\"B B\",\"InstitutionList\":["         \
    "{\"InstitutionUuid\":\"i3\",\"InstitutionName\":\"Only\"}]}]}}}"

static void test_account(void **state)
{
    struct pd_answer a = parse(ACCOUNT_JSON);
    struct pd_account account;
    struct err e;
    (void)state;
    assert_int_equal(pd_answer_account(&a, "a@x", "Side", &account, &e), 0);
    assert_string_equal(account.user_uuid, "u1");
    assert_string_equal(account.institution_uuid, "i2");
    assert_string_equal(account.full_name, "A A");
    assert_int_equal(pd_answer_account(&a, "U2", NULL, &account, &e), 0);
    assert_string_equal(account.institution_uuid, "i3");
    assert_int_equal(pd_answer_account(&a, NULL, NULL, &account, &e), ERR_AUTH);
    assert_non_null(strstr(e.text, "2"));
    assert_null(strstr(e.text, "a@x"));
    assert_int_equal(pd_answer_account(&a, "a@x", NULL, &account, &e), ERR_AUTH);
    assert_int_equal(pd_answer_account(&a, "a@x", "main", &account, &e), ERR_AUTH);
    assert_int_equal(pd_answer_account(&a, "c@x", NULL, &account, &e), ERR_AUTH);
    assert_non_null(strstr(e.text, "0 of 2"));
    pd_answer_free(&a);
    a = parse("{\"ResponseCode\":1}");
    assert_int_equal(pd_answer_account(&a, NULL, NULL, &account, &e), ERR_PROTOCOL);
    pd_answer_free(&a);
}

static void test_addresses(void **state)
{
    static const char *const hosts[] = {"other.example.net", "*.cloud.example.net"};
    static const struct {
        const char *router, *address;
        bool ok;
    } cases[] = {
        {"https://developer.postdicom.com/wssShellService/", "https://eu.postdicom.com/ws/", true},
        {"https://developer.postdicom.com/wssShellService/", "wss://a.b.postdicom.com:8443", true},
        {"https://developer.postdicom.com/", "https://postdicom.com/", true},
        {"https://developer.postdicom.com/", "https://DEVELOPER.PostDicom.com/", true},
        {"https://developer.postdicom.com/", "http://eu.postdicom.com/", false},
        {"https://developer.postdicom.com/", "ws://eu.postdicom.com/", false},
        {"https://developer.postdicom.com/", "https://evilpostdicom.com/", false},
        {"https://developer.postdicom.com/", "https://postdicom.com.evil.org/", false},
        {"https://developer.postdicom.com/", "https://postdicom.com@evil.org/", false},
        {"https://postdicom.com/", "https://eu.postdicom.com/", true},
        {"https://postdicom.com/", "https://other.com/", false},
        {"https://pacs.co.uk/", "https://evil.co.uk/", false},
        {"https://a.pacs.co.uk/", "https://b.pacs.co.uk/", true},
        {"https://developer.postdicom.com/", "https://other.example.net/", true},
        {"https://developer.postdicom.com/", "https://sub.other.example.net/", false},
        {"https://developer.postdicom.com/", "https://a.cloud.example.net/", true},
        {"https://developer.postdicom.com/", "https://cloud.example.net/", false},
        {"https://developer.postdicom.com/", "ws://other.example.net/", false},
        {"http://127.0.0.1:9000/router/", "ws://127.0.0.1:9001/", true},
        {"http://127.0.0.1:9000/router/", "http://localhost:9001/", true},
        {"http://127.0.0.1:9000/router/", "ws://10.0.0.1/", false},
        {"http://10.0.0.1/", "ws://10.0.0.1/", true},
        {"http://10.0.0.1/", "ws://11.0.0.1/", false},
        {"https://10.1.2.3/", "https://x.1.2.3/", false},
        {"https://[::1]:9000/", "wss://[::1]:9001/", true},
        {"https://developer.postdicom.com/", "not an address", false},
        {"https://developer.postdicom.com/", "", false},
        {"https://developer.postdicom.com/", "file:///etc/passwd", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err e = {0};
        int status = pd_address_check(cases[i].router, cases[i].address, hosts, 2, &e);
        if ((status == 0) != cases[i].ok)
            fail_msg("%s -> %s: %d %s", cases[i].router, cases[i].address, status, e.text);
    }
}

static void test_urls(void **state)
{
    (void)state;
    char *url = pd_address_request("http://h/router/", 4, "{\"a\":\"\xc3\xb8 1\"}", "k", 12);
    assert_string_equal(url,
                        "http://h/router/?RequestType=4&Parameters=%7B%22a%22%3A%22%C3%B8%201%22%7D"
                        "&ClientUniqueId=k&Cache=12");
    free(url);
    url = pd_address_socket("wss://h/x//", "k");
    assert_string_equal(url, "wss://h/x/?ClientUniqueId=k");
    free(url);
}

/* ---- upload sessions ---- */

static void test_bursts(void **state)
{
    struct pd_bursts t = {.max_files = 3, .idle_ms = 100};
    (void)state;
    struct pd_burst *a = pd_bursts_get(&t, "1", 1, 0), *b = pd_bursts_get(&t, "2", 1, 0);
    assert_ptr_not_equal(a, b);
    assert_int_equal(a->state, PD_BURST_NEW);
    a->state = b->state = PD_BURST_READY;
    assert_ptr_equal(pd_bursts_get(&t, "1", 1, 10), a);
    assert_ptr_equal(pd_bursts_get(&t, "1", 1, 20), a);
    /* Three files are enough. */
    struct pd_burst *c = pd_bursts_get(&t, "1", 1, 30);
    assert_ptr_not_equal(c, a);
    assert_int_equal(a->state, PD_BURST_ENDED);
    for (int i = 0; i < 3; i++)
        pd_bursts_release(&t, a);
    /* Another API session. */
    c->state = PD_BURST_READY;
    struct pd_burst *d = pd_bursts_get(&t, "1", 2, 40);
    assert_ptr_not_equal(d, c);
    pd_bursts_release(&t, c);
    /* Idle: not while a file is on its way, however long. */
    d->state = PD_BURST_READY;
    assert_ptr_equal(pd_bursts_get(&t, "1", 2, 10000), d);
    pd_bursts_release(&t, d);
    pd_bursts_release(&t, d);
    assert_ptr_equal(pd_bursts_get(&t, "1", 2, 10099), d);
    pd_bursts_release(&t, d);
    unsigned before = HASH_COUNT(t.table);
    struct pd_burst *e = pd_bursts_get(&t, "1", 2, 10200);
    assert_int_equal(e->state, PD_BURST_NEW);
    assert_int_equal(e->files, 0);
    assert_int_equal(HASH_COUNT(t.table), before);
    pd_bursts_release(&t, e);
    pd_bursts_release(&t, b);
    pd_bursts_clear(&t);
    assert_int_equal(HASH_COUNT(t.table), 0);
}

/* Memory does not grow with the number of studies. */
static void test_bursts_bounded(void **state)
{
    struct pd_bursts t = {.max_files = 500, .idle_ms = 1000000};
    char study[16];
    (void)state;
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(study, sizeof(study), "%u", i);
        struct pd_burst *b = pd_bursts_get(&t, study, 1, i);
        b->state = PD_BURST_READY;
        pd_bursts_release(&t, b);
    }
    assert_in_range(HASH_COUNT(t.table), 1, 256);
    pd_bursts_clear(&t);
}

static void test_filed(void **state)
{
    struct pd_filed f = {0};
    char order[16];
    (void)state;
    assert_false(pd_filed_has(&f, "o", "f"));
    pd_filed_add(&f, "o", "f");
    pd_filed_add(&f, "o", "f");
    assert_true(pd_filed_has(&f, "o", "f"));
    assert_false(pd_filed_has(&f, "o", "g"));
    for (int i = 0; i < 5000; i++) {
        snprintf(order, sizeof(order), "%d", i);
        pd_filed_add(&f, order, "f");
    }
    assert_false(pd_filed_has(&f, "o", "f")); /* bounded: the oldest went */
    assert_true(pd_filed_has(&f, "4999", "f"));
    pd_filed_clear(&f);
    assert_false(pd_filed_has(&f, "4999", "f"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),       cmocka_unit_test(test_filed),
        cmocka_unit_test(test_long_reason), cmocka_unit_test(test_frame_success),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_account),
        cmocka_unit_test(test_addresses),   cmocka_unit_test(test_urls),
        cmocka_unit_test(test_bursts),      cmocka_unit_test(test_bursts_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
