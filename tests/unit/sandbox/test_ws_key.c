#include "sandbox/server_ws.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The example of RFC 6455, 1.3. */
static void accept_key(void **state)
{
    char out[29];

    (void)state;
    ws_accept_key("dGhlIHNhbXBsZSBub25jZQ==", out);
    assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accept_key)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
