#include "dicom/dict/dicom_dict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint32_t tag_of(const char *keyword)
{
    uint32_t tag = 0;
    return dicom_dict_tag(keyword, &tag) ? tag : 0xffffffffu;
}

static void test_keywords(void **state)
{
    (void)state;
    assert_int_equal(tag_of("StudyDate"), 0x00080020);
    assert_int_equal(tag_of("PatientID"), 0x00100020);
    assert_int_equal(tag_of("PixelData"), 0x7fe00010);
    assert_int_equal(tag_of("TransferSyntaxUID"), 0x00020010);
    /* retired attributes go by the standard's keyword, not DCMTK's */
    assert_int_equal(tag_of("OtherPatientIDs"), 0x00101000);
    assert_int_equal(tag_of("RETIRED_OtherPatientIDs"), 0xffffffffu);
    assert_int_equal(tag_of("studydate"), 0xffffffffu);
    assert_int_equal(tag_of("StudyDat"), 0xffffffffu);
    assert_int_equal(tag_of(""), 0xffffffffu);
    assert_int_equal(tag_of("OverlayRows"), 0xffffffffu); /* a repeating group */
    assert_int_equal(tag_of("Item"), 0xffffffffu);
}

static void test_hex(void **state)
{
    (void)state;
    assert_int_equal(tag_of("0010,0020"), 0x00100020);
    assert_int_equal(tag_of("(0010,0020)"), 0x00100020);
    assert_int_equal(tag_of("(7FE0,0010)"), 0x7fe00010);
    assert_int_equal(tag_of("7fe0,001a"), 0x7fe0001a);
    static const char *const bad[] = {"0010,002",    "0010 0020", "00100020",    "(0010,0020",
                                      "0010,0020)",  "0x10,0020", "+010,0020",   "0010,00 0",
                                      "[0010,0020]", ",",         "(0010,00200)"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(tag_of(bad[i]), 0xffffffffu);
    }
}

static void test_by_tag(void **state)
{
    (void)state;
    assert_string_equal(dicom_dict_keyword(0x00080060), "Modality");
    assert_string_equal(dicom_dict_vr(0x00080060), "CS");
    assert_string_equal(dicom_dict_vr(0x00080020), "DA");
    assert_string_equal(dicom_dict_vr(0x00081140), "SQ");
    assert_string_equal(dicom_dict_vr(0x7fe00010), "OW");
    assert_null(dicom_dict_keyword(0x00091001));
    assert_string_equal(dicom_dict_vr(0x00091001), "UN");
    assert_null(dicom_dict_keyword(0x00080004));
    assert_null(dicom_dict_keyword(0xffffffffu));
}

/* Every tag's keyword leads back to the tag. */
static void test_round_trip(void **state)
{
    (void)state;
    unsigned n = 0;
    static const uint16_t groups[] = {0x0002, 0x0008, 0x0010, 0x0018, 0x0020,
                                      0x0028, 0x0040, 0x3006, 0x300a, 0x7fe0};
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        for (uint32_t element = 0; element <= 0xffff; element++) {
            const uint32_t tag = DICOM_TAG(groups[g], element);
            const char *keyword = dicom_dict_keyword(tag);
            if (keyword != NULL) {
                assert_int_equal(tag_of(keyword), tag);
                assert_int_equal(strlen(dicom_dict_vr(tag)), 2);
                n++;
            }
        }
    }
    assert_true(n > 2000);
}

static void test_closest(void **state)
{
    (void)state;
    assert_string_equal(dicom_dict_closest("StudyDaet"), "StudyDate");
    assert_string_equal(dicom_dict_closest("patientId"), "PatientID");
    assert_string_equal(dicom_dict_closest("Modalty"), "Modality");
    assert_null(dicom_dict_closest("xyzzyxyzzyxyzzyxyzzy"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keywords), cmocka_unit_test(test_hex),
        cmocka_unit_test(test_by_tag),   cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_closest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
