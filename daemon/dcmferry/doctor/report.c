#include "report.h"

#include "base/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *standard, *claim;
} rows[REPORT_N_ROWS] = {
#define X(enumerator, name, standard, claim) {name, standard, claim},
    REPORT_ROWS(X)
#undef X
};

/* What a value that does not hold means, and what dcmferry does about it or what to set. */
static const struct {
    enum report_row row;
    const char *value; /* NULL: any */
    const char *text, *advice;
} others[] = {
    {REPORT_PARTS_IN_FLIGHT, "one", "it closes a connection that carries two",
     "leave `pipeline: 1`, the default"},
    {REPORT_EXISTS_MEANS, "any-part", "one part is enough for \"it exists\"",
     "nothing to set: after a doubt files of several parts are sent again"},
    {REPORT_EXISTS_SCOPE, "folder", "it looks at the folder it names only",
     "nothing to set: what is said not to exist is sent again"},
    {REPORT_EXISTS_ORDER, "none", "the answer names no order",
     "nothing to set: after a doubt a file for a folder is sent again"},
    {REPORT_EXISTS_DELAY, NULL, "it takes that many milliseconds",
     "nothing to set: a false \"no\" costs a second send"},
    {REPORT_PART_ANSWER, "last", "only that to the last part does", "nothing to set"},
    {REPORT_PART_ANSWER, "none", "none does",
     "nothing to set, but a duplicate cannot be put into another folder without being sent again"},
    {REPORT_REPEATED_PART, "refuse", "it is refused",
     "nothing to set: the whole file is sent anew under a fresh upload session"},
    {REPORT_PARTS_SURVIVE, "no", "they are lost with it, although they were acknowledged",
     "leave `check_existing: uncertain`, the default: the file is asked for and sent anew"},
    {REPORT_SESSION_UUID, "initialize", "only under that which Initialize answered",
     "nothing to set: that one is sent"},
    {REPORT_SESSION_LOST, "close", "the connection is closed",
     "nothing to set: the session is renewed"},
    {REPORT_DISPLACE, "close", "the first one's connections are closed",
     "give every client (each dcmferryd, each script) an API key of its own"},
    {REPORT_DISPLACE, "forget", "the first one's session is forgotten",
     "give every client (each dcmferryd, each script) an API key of its own"},
    {REPORT_PONG, "no", "they are not", "set `ping_interval: off`"},
    {REPORT_ORDERS_MERGE, "session", "each upload session makes one",
     "raise `session_files` and `session_idle`, so that a study is sent in one upload session"},
    {REPORT_FOLDER_LIST, "first", "only the file that makes the order does",
     "nothing to set: the order is added to the folder by itself"},
    {REPORT_FOLDER_SEARCH, "contains", "parts of names match too",
     "nothing to set: names are compared again"},
    {REPORT_CREATE_EXISTING, "error", "it is an error",
     "nothing to set: folders are looked for first"},
    {REPORT_CREATE_EXISTING, "twin", "a second one of that name is made",
     "nothing to set: folders are looked for first"},
    {REPORT_CREATE_ANSWER, "none", "it does not", "nothing to set: the folder is listed"},
    {REPORT_FOLDER_GONE, "ignore", "it is taken, without a folder",
     "do not delete folders that routes lead to while files are sent"},
    {REPORT_SAME_INSTANCE, "keep", "the first stay",
     "nothing to set, but `dcmferry retry --anyway` of a conflict does not replace what is there"},
    {REPORT_ANSWER_TYPE, NULL, "theirs is that one",
     "nothing to set: answers are told by the request's id"},
};

int report_row_find(const char *name)
{
    for (unsigned i = 0; i < REPORT_N_ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return (int)i;
    return -1;
}

const char *report_row_name(enum report_row row)
{
    return rows[row].name;
}

int report_init(struct report *r, struct transcript *t)
{
    r->transcript = t;
    r->steps = cJSON_CreateArray();
    return r->steps ? 0 : ERR_NOMEM;
}

void report_free(struct report *r)
{
    cJSON_Delete(r->steps);
}

/* ---- steps ---- */

void report_step(struct report *r, enum report_result result, const char *name, const char *advice,
                 const char *format, ...)
{
    static const char *const words[] = {"ok", "warning", "failed"};
    char text[640], line[1400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(line, sizeof(line), "%-8s %s: %s", words[result], name, text);
    transcript_text(r->transcript, line);
    if (advice) {
        snprintf(line, sizeof(line), "%-8s %s", "", advice);
        transcript_text(r->transcript, line);
    }
    r->failed += result == REPORT_FAILED;
    r->warnings += result == REPORT_WARNING;
    cJSON *step = cJSON_CreateObject();
    cJSON_AddStringToObject(step, "step", name);
    cJSON_AddStringToObject(step, "result", words[result]);
    cJSON_AddStringToObject(step, "text", text);
    if (advice)
        cJSON_AddStringToObject(step, "advice", advice);
    cJSON_AddItemToArray(r->steps, step);
}

/* ---- rows ---- */

bool report_holds(const struct report *r, enum report_row row)
{
    return r->rows[row].told && strcmp(r->rows[row].found, rows[row].standard) == 0;
}

static void set_found(struct report *r, enum report_row row, const char *value)
{
    struct report_verdict *v = &r->rows[row];
    v->told = true;
    v->must = false;
    v->text[0] = v->advice[0] = '\0';
    text_copy(v->found, sizeof(v->found), value);
    for (size_t i = 0; !report_holds(r, row) && i < sizeof(others) / sizeof(others[0]); i++) {
        if (others[i].row != row || (others[i].value && strcmp(others[i].value, value) != 0))
            continue;
        text_copy(v->text, sizeof(v->text), others[i].text);
        text_copy(v->advice, sizeof(v->advice), others[i].advice);
    }
    transcript_say(r->transcript, "= %s: %s=%s", report_holds(r, row) ? "holds" : "does not hold",
                   rows[row].name, value);
}

void report_found(struct report *r, enum report_row row, const char *value, const char *format, ...)
{
    va_list args;
    set_found(r, row, value);
    if (!format)
        return;
    va_start(args, format);
    vsnprintf(r->rows[row].text, sizeof(r->rows[row].text), format, args);
    va_end(args);
}

void report_found_number(struct report *r, enum report_row row, uint64_t value, const char *format,
                         ...)
{
    char text[24];
    va_list args;
    snprintf(text, sizeof(text), "%" PRIu64, value);
    set_found(r, row, text);
    if (!format)
        return;
    va_start(args, format);
    vsnprintf(r->rows[row].text, sizeof(r->rows[row].text), format, args);
    va_end(args);
}

void report_advise(struct report *r, enum report_row row, bool must, const char *format, ...)
{
    struct report_verdict *v = &r->rows[row];
    va_list args;
    va_start(args, format);
    vsnprintf(v->advice, sizeof(v->advice), format, args);
    va_end(args);
    v->must = must;
}

void report_untold(struct report *r, enum report_row row, const char *format, ...)
{
    struct report_verdict *v = &r->rows[row];
    va_list args;
    if (v->told || v->text[0])
        return;
    va_start(args, format);
    vsnprintf(v->text, sizeof(v->text), format, args);
    va_end(args);
}

static const char *result_of(const struct report *r, enum report_row row)
{
    return !r->rows[row].told     ? "could not be told"
           : report_holds(r, row) ? "holds"
                                  : "does not hold";
}

/* "--assume-row=value" of all that differ: the sandbox then is like this server. */
static void put_switches(const struct report *r)
{
    char line[1600] = "  dcmferry-sandbox …";
    bool any = false;
    for (unsigned i = 0; i < REPORT_N_ROWS; i++) {
        if (!r->rows[i].told || report_holds(r, i))
            continue;
        size_t n = strlen(line);
        snprintf(line + n, sizeof(line) - n, " --assume-%s=%s", rows[i].name, r->rows[i].found);
        any = true;
    }
    if (!any)
        return;
    transcript_text(r->transcript, "");
    transcript_text(r->transcript, "The sandbox behaves like this server with:");
    transcript_text(r->transcript, line);
}

void report_table(const struct report *r)
{
    char line[1000];
    transcript_text(r->transcript, "");
    transcript_text(r->transcript,
                    "What is assumed of the server (docs/postdicom-assumptions.md):");
    for (unsigned i = 0; i < REPORT_N_ROWS; i++) {
        const struct report_verdict *v = &r->rows[i];
        if (!v->wanted)
            continue;
        snprintf(line, sizeof(line), "%-18s %s%s%s: %s", result_of(r, i), rows[i].name,
                 v->told ? "=" : "", v->found, rows[i].claim);
        transcript_text(r->transcript, line);
        if (v->text[0]) {
            snprintf(line, sizeof(line), "%-18s   %s%s", "", v->told ? "" : "why: ", v->text);
            transcript_text(r->transcript, line);
        }
        if (v->advice[0]) {
            snprintf(line, sizeof(line), "%-18s   -> %s%s", "", v->must ? "TO DO: " : "",
                     v->advice);
            transcript_text(r->transcript, line);
        }
    }
    put_switches(r);
}

unsigned report_faults(const struct report *r)
{
    unsigned n = r->failed;
    for (unsigned i = 0; i < REPORT_N_ROWS; i++)
        n += r->rows[i].must;
    return n;
}

void report_json(const struct report *r, cJSON *object)
{
    cJSON_AddBoolToObject(object, "ok", report_faults(r) == 0);
    cJSON_AddItemToObject(object, "steps", cJSON_Duplicate(r->steps, true));
    cJSON *list = cJSON_AddArrayToObject(object, "assumptions");
    for (unsigned i = 0; i < REPORT_N_ROWS; i++) {
        const struct report_verdict *v = &r->rows[i];
        if (!v->wanted)
            continue;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "row", rows[i].name);
        cJSON_AddStringToObject(row, "result", result_of(r, i));
        if (v->told)
            cJSON_AddStringToObject(row, "found", v->found);
        cJSON_AddStringToObject(row, "means", rows[i].claim);
        if (v->text[0])
            cJSON_AddStringToObject(row, "text", v->text);
        if (v->advice[0])
            cJSON_AddStringToObject(row, "advice", v->advice);
        cJSON_AddBoolToObject(row, "must_change", v->must);
        cJSON_AddItemToArray(list, row);
    }
}
