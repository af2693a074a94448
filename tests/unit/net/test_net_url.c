#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_redact(void **state)
{
    (void)state;
    static const char *const vectors[][2] = {
        {"https://h/p", "https://h/p"},
        {"https://h", "https://h/"},
        {"https://H.Example:8443/a%20b/", "https://H.Example:8443/a%20b/"},
        {"wss://h/?ClientUniqueId=k3y", "wss://h/?ClientUniqueId=…"},
        {"https://h/?RequestType=4&Parameters=%7B%22k%22%7D&Cache=1",
         "https://h/?RequestType=…&Parameters=…&Cache=…"},
        {"https://h/?a=&b&&c=d=e", "https://h/?a=&…&&c=…"},
        {"https://h/?k3y", "https://h/?…"},
        {"https://h/?", "https://h/?"},
        {"https://u:k3y@h/p#k3y", "https://…@h/p"},
        {"https://k3y@h/p", "https://…@h/p"},
        {"ws://[::1]:99/x", "ws://[::1]:99/x"},
        {"k3y", "(not an address)"},
        {"https://h:k3y/", "(not an address)"},
        {"", "(not an address)"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        char *shown = net_redact_url(vectors[i][0]);
        assert_string_equal(shown, vectors[i][1]);
        free(shown);
    }
}

static void test_encode(void **state)
{
    (void)state;
    static const char *const vectors[][2] = {
        {"", ""},
        {"abc XYZ 019", "abc%20XYZ%20019"},
        {"-_.!~*'()", "-_.!~*'()"},
        {"{\"A\": \"1\"}", "%7B%22A%22%3A%20%221%22%7D"},
        {";,/?:@&=+$#%", "%3B%2C%2F%3F%3A%40%26%3D%2B%24%23%25"},
        {"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "%C3%BC%E2%82%AC%F0%9F%98%80"},
        {"\x01\x7f[]\\^`|<>\n", "%01%7F%5B%5D%5C%5E%60%7C%3C%3E%0A"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        char *encoded = net_url_encode(vectors[i][0]);
        assert_string_equal(encoded, vectors[i][1]);
        free(encoded);
    }
}

static void test_host(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host;
        bool tls;
    } vectors[] = {
        {"https://Developer.PostDICOM.com/x/", "developer.postdicom.com", true},
        {"wss://h:444", "h", true},
        {"ws://h/?a", "h", false},
        {"http://u:p@h/", "h", false},
        {"http://[::1]:80/", "[::1]", false},
        {"http://127.0.0.1/", "127.0.0.1", false},
        {"HTTPS://h/", "h", true},
        /* Where a careless parser sees another host than the one that is connected to. */
        {"https://good.example@bad.example/", "bad.example", true},
        {"https://bad.example/@good.example", "bad.example", true},
        {"https://bad.example?@good.example", "bad.example", true},
        {"https://bad.example#@good.example", "bad.example", true},
    };
    char host[64];
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        bool tls = !vectors[i].tls;
        assert_true(net_url_host(vectors[i].url, host, sizeof host, &tls));
        assert_string_equal(host, vectors[i].host);
        assert_int_equal(tls, vectors[i].tls);
    }
    static const char *const bad[] = {
        "ftp://h/", "h", "", "https://", "https://a b/", "file:///etc/passwd", "javascript:x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (net_url_host(bad[i], host, sizeof host, NULL))
            fail_msg("%s: %s", bad[i], host);
    assert_true(net_url_host("http://seven77/", host, 8, NULL));
    assert_false(net_url_host("http://seven777/", host, 8, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_redact),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
