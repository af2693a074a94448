/* The recorded frames of the vendor's client, where they are at hand (../shared beside the source
 * tree). */
#ifndef TEST_POSTDICOM_VECTORS_H
#define TEST_POSTDICOM_VECTORS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NULL where the file is not there: the tests' own golden bytes must do. */
static inline cJSON *vectors_load(void)
{
    FILE *f = fopen(SOURCE_ROOT "/../shared/reference/vendor-frames.json", "re");
    if (!f)
        return NULL;
    size_t capacity = 1 << 20;
    char *text = malloc(capacity + 1);
    size_t n = text ? fread(text, 1, capacity, f) : 0;
    fclose(f);
    cJSON *root = text ? cJSON_ParseWithLength(text, n) : NULL;
    free(text);
    return root;
}

/* The bytes of a recorded frame, malloc'ed; of a long one its beginning. *ret_whole: the frame's
 * full length. */
static inline uint8_t *vectors_bytes(const cJSON *frame, size_t *ret_size, size_t *ret_whole)
{
    const cJSON *hex = cJSON_IsString(frame) ? frame : NULL, *length = NULL;
    if (!hex) {
        const cJSON *member;
        cJSON_ArrayForEach(member, frame)
        {
            if (cJSON_IsString(member) && strlen(member->valuestring) > 100)
                hex = member;
            if (cJSON_IsNumber(member))
                length = member;
        }
    }
    size_t n = strlen(hex->valuestring) / 2;
    uint8_t *out = malloc(n + 1);
    for (size_t i = 0; out && i < n; i++) {
        unsigned v;
        sscanf(hex->valuestring + 2 * i, "%2x", &v);
        out[i] = (uint8_t)v;
    }
    *ret_size = n;
    *ret_whole = length ? (size_t)length->valuedouble : n;
    return out;
}

#endif
