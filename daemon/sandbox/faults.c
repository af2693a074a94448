#include "sandbox/faults.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const char *value;
    const char *text;
} names[FAULTS_N] = {
#define X(id, name, value, text) {name, value, text},
    FAULTS_MAP(X)
#undef X
};

static const struct {
    const char *name;
    unsigned kinds;
} kinds[] = {
    {"session", FAULT_ON_SESSION}, {"general", FAULT_ON_GENERAL}, {"upload", FAULT_ON_UPLOAD},
    {"part", FAULT_ON_PART},       {"any", FAULT_ON_ANY},
};

void faults_init(struct faults *f)
{
    memset(f, 0, sizeof *f);
    f->random = 0x9e3779b97f4a7c15u;
}

/* xorshift64*: the same run strikes at the same places. */
static double next_random(struct faults *f)
{
    f->random ^= f->random >> 12;
    f->random ^= f->random << 25;
    f->random ^= f->random >> 27;
    return (double)((f->random * 0x2545f4914f6cdd1du) >> 11) / 9007199254740992.0;
}

static bool parse_number(const char *s, uint32_t *ret)
{
    char *end;
    unsigned long n;

    if (*s < '0' || *s > '9')
        return false;
    n = strtoul(s, &end, 10);
    *ret = (uint32_t)n;
    return *end == '\0' && n <= UINT32_MAX;
}

static bool parse_modifier(struct fault_switch *sw, const char *name, const char *value)
{
    char *end;

    if (strcmp(name, "every") == 0)
        return parse_number(value, &sw->every);
    if (strcmp(name, "times") == 0)
        return parse_number(value, &sw->times);
    if (strcmp(name, "p") == 0) {
        sw->probability = strtod(value, &end);
        return end != value && *end == '\0' && sw->probability >= 0 && sw->probability <= 1;
    }
    if (strcmp(name, "on") == 0) {
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            if (strcmp(kinds[i].name, value) == 0) {
                sw->kinds = kinds[i].kinds;
                return true;
            }
        }
    }
    return false;
}

static int parse_switch(struct faults *f, char *text, struct err *e)
{
    char *rest, *head = strtok_r(text, ":", &rest);
    char *value = head ? strchr(head, '=') : NULL;
    struct fault_switch sw = {.on = true, .probability = 1, .kinds = FAULT_ON_ANY};
    const char *all[FAULTS_N], *closest;

    if (value)
        *value++ = '\0';
    for (size_t i = 0; i < FAULTS_N && head; i++) {
        all[i] = names[i].name;
        if (strcmp(head, names[i].name) != 0)
            continue;
        if (names[i].value[0] == '\0' ? value != NULL
                                      : !value || !parse_number(value, &sw.value) || sw.value == 0)
            return err_set(e, ERR_INVALID,
                           names[i].value[0] ? "fault %s takes a value: %s=%s"
                                             : "fault %s takes no value",
                           head, head, names[i].value);
        /* Of these the value itself says how often. */
        if (strcmp(names[i].value, "N") == 0 && i != FAULT_DROP_AFTER && i != FAULT_DROP_BEFORE)
            sw.every = sw.value;
        for (char *m = strtok_r(NULL, ":", &rest); m; m = strtok_r(NULL, ":", &rest)) {
            char *v = strchr(m, '=');

            if (v)
                *v++ = '\0';
            if (!v || !parse_modifier(&sw, m, v))
                return err_set(e, ERR_INVALID,
                               "fault %s: '%s' is none of every=N, p=0..1, times=N, "
                               "on=session|general|upload|part|any",
                               head, m);
        }
        f->switches[i] = sw;
        return 0;
    }
    closest = head ? text_closest(head, all, FAULTS_N) : NULL;
    return err_set(e, ERR_INVALID, "no fault is called '%s'%s%s%s", head ? head : "",
                   closest ? " (did you mean '" : "", closest ? closest : "", closest ? "'?)" : "");
}

int faults_set(struct faults *f, const char *text, struct err *e)
{
    char *copy = strdup(text);
    int rc;

    if (!copy)
        return err_set(e, ERR_NOMEM, "out of memory");
    rc = parse_switch(f, copy, e);
    free(copy);
    return rc;
}

int faults_replace(struct faults *f, const cJSON *list, struct err *e)
{
    struct faults fresh;
    const cJSON *item;
    int rc;

    if (!cJSON_IsArray(list))
        return err_set(e, ERR_INVALID, "a JSON list of faults is expected");
    faults_init(&fresh);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            return err_set(e, ERR_INVALID, "a JSON list of texts is expected");
        rc = faults_set(&fresh, item->valuestring, e);
        if (rc)
            return rc;
    }
    *f = fresh;
    return 0;
}

static bool strike(struct faults *f, struct fault_switch *sw, bool now)
{
    if (!now || (sw->probability < 1 && next_random(f) >= sw->probability))
        return false;
    sw->hits++;
    if (sw->times != 0 && --sw->times == 0)
        sw->on = false;
    return true;
}

bool faults_strike(struct faults *f, enum fault fault, unsigned kind, uint32_t *ret_value)
{
    struct fault_switch *sw = &f->switches[fault];

    if (!sw->on || !(sw->kinds & kind))
        return false;
    sw->seen++;
    if (ret_value)
        *ret_value = sw->value;
    return strike(f, sw, sw->every == 0 || sw->seen % sw->every == 0);
}

bool faults_strike_at(struct faults *f, enum fault fault, unsigned kind, uint64_t n)
{
    struct fault_switch *sw = &f->switches[fault];

    if (!sw->on || !(sw->kinds & kind))
        return false;
    sw->seen++;
    return strike(f, sw, n == sw->value);
}

uint32_t faults_value(const struct faults *f, enum fault fault)
{
    return f->switches[fault].on ? f->switches[fault].value : 0;
}

cJSON *faults_json(const struct faults *f)
{
    cJSON *all = cJSON_CreateObject();

    for (size_t i = 0; i < FAULTS_N; i++) {
        const struct fault_switch *sw = &f->switches[i];
        cJSON *one;

        if (!sw->on && sw->hits == 0)
            continue;
        one = cJSON_AddObjectToObject(all, names[i].name);
        cJSON_AddBoolToObject(one, "on", sw->on);
        cJSON_AddNumberToObject(one, "value", sw->value);
        cJSON_AddNumberToObject(one, "seen", (double)sw->seen);
        cJSON_AddNumberToObject(one, "hits", (double)sw->hits);
    }
    return all;
}

void faults_print(FILE *out)
{
    for (size_t i = 0; i < FAULTS_N; i++) {
        fprintf(out, "  %s%s%s\n        %s\n", names[i].name, names[i].value[0] ? "=" : "",
                names[i].value, names[i].text);
    }
}
