#include "transcript.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/uuid.h"
#include "postdicom/pd_answer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ITEMS 3 /* of a list that are shown */
#define MAX_DEPTH 6

struct transcript {
    FILE *file;
    bool print, failed;
    struct pd_keys keys;
    cJSON *lines;
    char **known;
    size_t n_known;
};

int transcript_open(struct transcript **ret, const char *path, bool print, struct err *e)
{
    struct transcript *t = calloc(1, sizeof(*t));
    int fd = -1;
    *ret = NULL;
    if (!t || !(t->lines = cJSON_CreateArray())) {
        free(t);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    t->print = print;
    if (path) {
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        /* One that was there already may have been readable for others. */
        if (fd < 0 || fchmod(fd, 0600) != 0 || !(t->file = fdopen(fd, "w"))) {
            int status = err_set_errno(e, errno, "%s: the transcript cannot be written", path);
            if (fd >= 0)
                close(fd);
            transcript_close(t, NULL);
            return status;
        }
    }
    *ret = t;
    return 0;
}

void transcript_keys(struct transcript *t, const struct pd_keys *keys)
{
    t->keys = *keys;
}

static bool is_known(const struct transcript *t, const char *text)
{
    for (size_t i = 0; i < t->n_known; i++)
        if (strcmp(t->known[i], text) == 0)
            return true;
    return false;
}

void transcript_known(struct transcript *t, const char *text)
{
    if (!*text || is_known(t, text))
        return;
    char **grown = realloc(t->known, (t->n_known + 1) * sizeof(*grown));
    if (!grown)
        return; /* it is hidden then */
    t->known = grown;
    if ((t->known[t->n_known] = strdup(text)) != NULL)
        t->n_known++;
}

/* ---- redaction ---- */

static bool one_of(const char *name, const char *const *names, size_t n)
{
    for (size_t i = 0; name && i < n; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

#define ONE_OF(name, names) one_of(name, names, sizeof(names) / sizeof((names)[0]))

static void put_string(const struct transcript *t, struct buf *b, const char *name, const char *s)
{
    static const char *const plain[] = {"AddressType", "AdapterType", "TransactionType"};
    static const char *const ids[] = {"FolderUuid", "ParentFolderUuid", "FolderUuidList",
                                      "PatientOrderUuid"};
    if (!*s || strcmp(s, UUID_NIL) == 0 || ONE_OF(name, plain) || is_known(t, s))
        buf_printf(b, "\"%s\"", s);
    else if (ONE_OF(name, ids) && uuid_valid(s))
        buf_printf(b, "\"%.8s…\"", s); /* enough to tell one from another */
    else
        buf_put_str(b, "\"…\"");
}

static void put_number(struct buf *b, const char *name, double value)
{
    static const char *const counts[] = {
        "ResponseCode",      "FileIndex",  "CurrentFilePartIndex", "CurrentFileTotalPartCount",
        "TotalFileSize",     "OrderCount", "AllSubOrderCount",     "SubFolderCount",
        "AllSubFolderCount", "OrderSize",  "ImagesCount",          "DocumentsCount"};
    if (ONE_OF(name, counts))
        buf_printf(b, "%.10g", value);
    else
        buf_put_str(b, "…");
}

/* `name` is that of the member, or of the list that holds it. */
static void put_value(const struct transcript *t, struct buf *b, const char *name,
                      const cJSON *item, unsigned depth)
{
    const cJSON *child;
    int n = 0, size = cJSON_GetArraySize(item);
    if (cJSON_IsString(item)) {
        put_string(t, b, name, item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        put_number(b, name, item->valuedouble);
    } else if (cJSON_IsBool(item)) {
        buf_put_str(b, cJSON_IsTrue(item) ? "true" : "false");
    } else if (cJSON_IsNull(item)) {
        buf_put_str(b, "null");
    } else if (depth == MAX_DEPTH) {
        buf_put_str(b, "…");
    } else if (cJSON_IsArray(item)) {
        buf_put_u8(b, '[');
        cJSON_ArrayForEach(child, item)
        {
            if (n++ > 0)
                buf_put_u8(b, ',');
            if (n > MAX_ITEMS) {
                buf_printf(b, "… %d more", size - MAX_ITEMS);
                break;
            }
            put_value(t, b, name, child, depth + 1);
        }
        buf_put_u8(b, ']');
    } else {
        buf_put_u8(b, '{');
        cJSON_ArrayForEach(child, item)
        {
            buf_printf(b, "%s\"%s\":", n++ > 0 ? "," : "", child->string ? child->string : "");
            put_value(t, b, child->string, child, depth + 1);
        }
        buf_put_u8(b, '}');
    }
}

/* ---- lines ---- */

static void write_line(struct transcript *t, const char *text)
{
    if (t->print)
        puts(text);
    if (t->file && fprintf(t->file, "%s\n", text) < 0)
        t->failed = true;
}

static void put_line(struct transcript *t, struct buf *b)
{
    char time[25], *shown = malloc(b->size + 64), *cleaned;
    size_t n;
    const char *text = buf_cstr(b);
    clock_format(clock_realtime_ms(), time);
    cleaned = malloc(b->size + 1);
    if (shown && cleaned && !buf_failed(b)) {
        pd_answer_clean(text, b->size, &t->keys, cleaned, b->size + 1);
        n = b->size + 64;
        snprintf(shown, n, "%s  %s", time, cleaned);
        write_line(t, shown);
        cJSON *line = cJSON_CreateObject();
        cJSON_AddStringToObject(line, "time", time);
        cJSON_AddStringToObject(line, "text", cleaned);
        cJSON_AddItemToArray(t->lines, line);
    }
    free(shown);
    free(cleaned);
    buf_free(b);
}

__attribute__((format(printf, 2, 0))) static void put_formatted(struct buf *b, const char *format,
                                                                va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        b->failed = true;
    else
        buf_put_str(b, text);
    free(text);
}

void transcript_say(struct transcript *t, const char *format, ...)
{
    struct buf b = {0};
    va_list args;
    va_start(args, format);
    put_formatted(&b, format, args);
    va_end(args);
    put_line(t, &b);
}

void transcript_json(struct transcript *t, const char *json, size_t size, const char *format, ...)
{
    struct buf b = {0};
    va_list args;
    va_start(args, format);
    put_formatted(&b, format, args);
    va_end(args);
    cJSON *root = json && size > 0 ? cJSON_ParseWithLength(json, size) : NULL;
    if (root) {
        buf_put_u8(&b, ' ');
        put_value(t, &b, NULL, root, 0);
    } else if (size > 0) {
        buf_put_str(&b, " (not JSON)");
    }
    cJSON_Delete(root);
    put_line(t, &b);
}

void transcript_text(struct transcript *t, const char *text)
{
    write_line(t, text);
    if (t->print)
        fflush(stdout);
}

cJSON *transcript_lines(const struct transcript *t)
{
    return cJSON_Duplicate(t->lines, true);
}

int transcript_close(struct transcript *t, struct err *e)
{
    bool failed = t->failed;
    if (t->file && (ferror(t->file) || fclose(t->file) != 0))
        failed = true;
    for (size_t i = 0; i < t->n_known; i++)
        free(t->known[i]);
    free(t->known);
    cJSON_Delete(t->lines);
    free(t);
    return failed ? err_set(e, ERR_IO, "the transcript could not be written entirely") : 0;
}
