/* Any bytes are a configuration or have faults; nothing else happens. */
#include "config/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *c = NULL;
    struct config_faults f;
    int r = config_parse("fuzz", (const char *)data, size, CONFIG_PATHS_UNSEEN, &c, &f);

    if ((r == 0) != (c != NULL) || (r == 0) != (f.n == 0))
        abort();
    for (size_t i = 0; i < f.n; i++) {
        if (f.items[i].mark.line == 0 || f.items[i].mark.column == 0 || f.items[i].text[0] == '\0')
            abort();
    }
    config_free(c);
    config_faults_free(&f);
    return 0;
}
