#include "pipeline/route.h"

#include "dicom/dict/dicom_dict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODALITY DICOM_TAG(0x0008, 0x0060)
#define STATION  DICOM_TAG(0x0008, 0x1010)

struct sample {
    const char *modality, *station;
};

static const char *attribute(uint32_t tag, void *ctx)
{
    const struct sample *s = ctx;
    return tag == MODALITY ? s->modality : tag == STATION ? s->station : NULL;
}

static struct config *parse(const char *routes)
{
    char text[4096];
    struct config *c = NULL;
    struct config_faults faults = {0};
    snprintf(text, sizeof text,
             "state: /nowhere/state\n"
             "watch:\n  - path: /nowhere/in\n"
             "destinations:\n"
             "  a: {type: postdicom, router: 'http://127.0.0.1:1/', account_key: {env: A}, "
             "api_key: {env: B}}\n"
             "  b: {type: postdicom, router: 'http://127.0.0.1:2/', account_key: {env: A}, "
             "api_key: {env: B}}\n"
             "routes:\n%s",
             routes);
    int rc = config_parse("test", text, strlen(text), CONFIG_PATHS_UNSEEN, &c, &faults);
    for (size_t i = 0; i < faults.n; i++)
        print_error("%u:%u: %s\n", faults.items[i].mark.line, faults.items[i].mark.column,
                    faults.items[i].text);
    assert_int_equal(rc, 0);
    config_faults_free(&faults);
    return c;
}

static void decide(const struct config *c, struct sample s, const char *path, const char *study,
                   const char *series, struct route_decision *d)
{
    struct template_values v = {.attribute = attribute, .ctx = &s, .relative_path = path};
    assert_int_equal(route_decide(c, &v, study, series, d), 0);
}

static const char two_routes[] =
    "  - {name: ct, match: {Modality: CT}, to: a, folder: 'CT/{StationName}'}\n"
    "  - {name: rest, match: {Modality: [MR, SR]}, to: [a, b], folder: 'Rest'}\n";

static void the_first_match_wins(void **state)
{
    (void)state;
    struct config *c = parse(two_routes);
    struct route_decision d;
    decide(c, (struct sample){"CT", "S1"}, "x.dcm", NULL, NULL, &d);
    assert_int_equal(d.fate, ROUTE_QUEUED);
    assert_int_equal(d.n, 1);
    assert_string_equal(d.deliveries[0].folder, "CT/S1");
    assert_string_equal(d.bind_study, "ct\tCT/{StationName}\tCT/S1");
    assert_null(d.bind_series);
    route_decision_clear(&d);
    decide(c, (struct sample){"MR", "S1"}, "x.dcm", NULL, NULL, &d);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.deliveries[1].destination, 1);
    route_decision_clear(&d);
    config_free(c);
}

static void what_no_route_takes_is_held(void **state)
{
    (void)state;
    struct config *c = parse(two_routes);
    struct route_decision d;
    decide(c, (struct sample){"US", NULL}, "x.dcm", NULL, NULL, &d);
    assert_int_equal(d.fate, ROUTE_HELD);
    assert_non_null(d.reason);
    assert_int_equal(d.n, 0);
    route_decision_clear(&d);
    config_free(c);
}

static void a_study_follows_its_first_instance(void **state)
{
    (void)state;
    struct config *c = parse(two_routes);
    struct route_decision d;
    decide(c, (struct sample){"SR", "S1"}, "x.dcm", "ct", NULL, &d);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.deliveries[0].route, 0);
    route_decision_clear(&d);
    /* Bound to routes that are no longer configured: as unbound. */
    decide(c, (struct sample){"SR", "S1"}, "x.dcm", "gone\nalso gone", NULL, &d);
    assert_int_equal(d.deliveries[0].route, 1);
    route_decision_clear(&d);
    /* A name is a whole name. */
    decide(c, (struct sample){"SR", "S1"}, "x.dcm", "c\nctx", NULL, &d);
    assert_int_equal(d.deliveries[0].route, 1);
    route_decision_clear(&d);
    config_free(c);
}

static void a_study_has_one_folder(void **state)
{
    (void)state;
    struct config *c = parse("  - {name: x, to: [a, b], folder: '{Modality}/{StationName}'}\n");
    struct config *series = parse("  - {name: x, to: a, folder: '{Modality}', scope: series}\n");
    struct config *path = parse("  - {name: x, to: a, folder: '{Modality}/{path:1}'}\n");
    struct route_decision d, again;
    decide(c, (struct sample){"CT", "S1"}, "x.dcm", NULL, NULL, &d);
    decide(c, (struct sample){"SR", NULL}, "x.dcm", d.bind_study, NULL, &again);
    assert_string_equal(again.deliveries[0].folder, "CT/S1");
    assert_string_equal(again.deliveries[1].folder, "CT/S1");
    assert_string_equal(again.bind_study, d.bind_study);
    assert_false(route_adds(d.bind_study, again.bind_study));
    route_decision_clear(&again);
    /* The template was changed since. */
    decide(c, (struct sample){"SR", "S2"}, "x.dcm", "x\t{Modality}\tCT", NULL, &again);
    assert_string_equal(again.deliveries[0].folder, "SR/S2");
    assert_true(route_adds("x\t{Modality}\tCT", again.bind_study));
    route_decision_clear(&again);
    /* Whose name begins alike is another route. */
    decide(c, (struct sample){"SR", "S2"}, "x.dcm", "xy\t{Modality}/{StationName}\tCT/S1", NULL,
           &again);
    assert_string_equal(again.deliveries[0].folder, "SR/S2");
    route_decision_clear(&again);
    route_decision_clear(&d);
    decide(series, (struct sample){"CT", NULL}, "x.dcm", NULL, NULL, &d);
    decide(series, (struct sample){"SR", NULL}, "x.dcm", NULL, d.bind_series, &again);
    assert_string_equal(again.deliveries[0].folder, "CT");
    route_decision_clear(&again);
    route_decision_clear(&d);
    decide(path, (struct sample){"CT", NULL}, "one/x.dcm", NULL, NULL, &d);
    assert_string_equal(d.bind_study, "x");
    decide(path, (struct sample){"SR", NULL}, "two/x.dcm", d.bind_study, NULL, &again);
    assert_string_equal(again.deliveries[0].folder, "SR/two");
    route_decision_clear(&again);
    route_decision_clear(&d);
    config_free(c);
    config_free(series);
    config_free(path);
}

static void scopes(void **state)
{
    (void)state;
    struct config *c = parse("  - {name: one, match: {Modality: CT}, to: a, scope: series}\n"
                             "  - {name: two, match: {Modality: SR}, to: b, scope: instance}\n");
    struct route_decision d;
    decide(c, (struct sample){"CT", NULL}, "x", NULL, NULL, &d);
    assert_null(d.bind_study);
    assert_string_equal(d.bind_series, "one");
    route_decision_clear(&d);
    decide(c, (struct sample){"SR", NULL}, "x", NULL, "one", &d);
    assert_int_equal(d.deliveries[0].route, 0);
    route_decision_clear(&d);
    decide(c, (struct sample){"SR", NULL}, "x", "two", NULL, &d);
    assert_int_equal(d.deliveries[0].route, 1);
    assert_null(d.bind_study);
    assert_null(d.bind_series);
    route_decision_clear(&d);
    assert_true(route_has_scope(c, CONFIG_SCOPE_SERIES));
    assert_false(route_has_scope(c, CONFIG_SCOPE_STUDY));
    config_free(c);
}

static void all_goes_on_and_rejection_ends(void **state)
{
    (void)state;
    struct config *c = parse("  - {name: copy, match: {Modality: CT}, to: b, all: true}\n"
                             "  - {name: no, match: {StationName: BAD}, reject: 'wrong station'}\n"
                             "  - {name: main, to: a}\n");
    struct route_decision d;
    decide(c, (struct sample){"CT", "S"}, "x", NULL, NULL, &d);
    assert_int_equal(d.n, 2);
    assert_string_equal(d.bind_study, "copy\nmain");
    route_decision_clear(&d);
    decide(c, (struct sample){"MR", "BAD"}, "x", NULL, NULL, &d);
    assert_int_equal(d.fate, ROUTE_REJECTED);
    assert_string_equal(d.reason, "wrong station");
    route_decision_clear(&d);
    /* A rejecting route goes by its conditions, not by bindings; what was taken before it stays
     * taken. */
    decide(c, (struct sample){"CT", "BAD"}, "x", "copy\nmain", NULL, &d);
    assert_int_equal(d.fate, ROUTE_QUEUED);
    assert_int_equal(d.n, 1);
    route_decision_clear(&d);
    config_free(c);
}

/* What only routes with `all: true` took so far is not bound to them alone. */
static void a_copy_keeps_nothing_from_the_others(void **state)
{
    (void)state;
    struct config *c = parse("  - {name: copy, match: {Modality: SR}, to: b, all: true}\n"
                             "  - {name: ct, match: {Modality: CT}, to: a}\n"
                             "  - {name: rest, match: {Modality: MR}, to: a}\n");
    struct route_decision d;
    decide(c, (struct sample){"SR", NULL}, "x", NULL, NULL, &d);
    assert_string_equal(d.bind_study, "copy");
    route_decision_clear(&d);
    decide(c, (struct sample){"CT", NULL}, "x", "copy", NULL, &d);
    assert_string_equal(d.bind_study, "copy\nct");
    assert_true(route_adds("copy", d.bind_study));
    assert_false(route_adds("ct\ncopy", d.bind_study));
    route_decision_clear(&d);
    decide(c, (struct sample){"MR", NULL}, "x", "copy\nct", NULL, &d);
    assert_string_equal(d.bind_study, "copy\nct");
    route_decision_clear(&d);
    /* And the copy is made whichever instance comes first. */
    decide(c, (struct sample){"SR", NULL}, "x", "ct", NULL, &d);
    assert_string_equal(d.bind_study, "copy\nct");
    route_decision_clear(&d);
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_match_wins),
        cmocka_unit_test(what_no_route_takes_is_held),
        cmocka_unit_test(a_study_follows_its_first_instance),
        cmocka_unit_test(a_study_has_one_folder),
        cmocka_unit_test(scopes),
        cmocka_unit_test(all_goes_on_and_rejection_ends),
        cmocka_unit_test(a_copy_keeps_nothing_from_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
