#include "make.h"
#include "read.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const struct result *read_make(const struct make *m)
{
    static const uint32_t tags[] = {0x00080060, 0x00100010, 0x00280010};
    return read_bytes(m->bytes.data, m->bytes.size, tags, N(tags));
}

static void assert_status(const struct result *r, int status)
{
    if (r->status != status) {
        fail_msg("status %d (%s), expected %d", r->status, r->text, status);
    }
}

static void assert_image(const struct result *r, const char *transfer_syntax)
{
    assert_status(r, 0);
    assert_string_equal(r->header.sop_class_uid, MAKE_SOP_CLASS);
    assert_string_equal(r->header.sop_instance_uid, MAKE_SOP_INSTANCE);
    assert_string_equal(r->header.study_instance_uid, MAKE_STUDY);
    assert_string_equal(r->header.series_instance_uid, MAKE_SERIES);
    assert_string_equal(r->header.transfer_syntax_uid, transfer_syntax);
    assert_string_equal(r->value[0], "CT");
    assert_string_equal(r->value[1], "Bücher^Anna");
    assert_string_equal(r->value[2], "16");
}

static const char *const plain_syntaxes[] = {MAKE_EXPLICIT, MAKE_IMPLICIT, MAKE_BIG_ENDIAN};

static struct make make_file(const char *transfer_syntax)
{
    struct make m = make_begin(transfer_syntax);
    make_meta(&m, transfer_syntax);
    make_image(&m);
    return m;
}

static struct make make_encapsulated(const char *transfer_syntax, unsigned frames,
                                     const char *last_bytes)
{
    struct make m = make_begin(transfer_syntax);
    make_meta(&m, transfer_syntax);
    make_identity(&m);
    char text[16];
    snprintf(text, sizeof(text), "%u", frames);
    make_text(&m, 0x00280008, "IS", text);
    make_end(&m);
    make_header(&m, 0x7fe00010, "OB", MAKE_UNDEFINED);
    make_item(&m, 0);
    for (unsigned i = 0; i < frames; i++) {
        make_item(&m, 100 + (uint32_t)strlen(last_bytes) + strlen(last_bytes) % 2);
        for (unsigned j = 0; j < 100; j++) {
            buf_put_u8(&m.bytes, 0x11);
        }
        buf_put_str(&m.bytes, last_bytes);
        if (strlen(last_bytes) % 2 != 0) {
            buf_put_u8(&m.bytes, 0);
        }
    }
    return m;
}

static void test_transfer_syntaxes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(plain_syntaxes); i++) {
        struct make m = make_file(plain_syntaxes[i]);
        assert_image(read_make(&m), plain_syntaxes[i]);
        make_free(&m);
    }
    /* deflated, as the standard has it and with zlib's header */
    static const int window_bits[] = {-15, 15};
    for (size_t i = 0; i < N(window_bits); i++) {
        struct make m = make_begin(MAKE_DEFLATED);
        make_meta(&m, MAKE_DEFLATED);
        const size_t start = m.bytes.size;
        make_image(&m);
        make_deflate(&m, start, window_bits[i]);
        assert_image(read_make(&m), MAKE_DEFLATED);
        make_free(&m);
    }
    /* encapsulated */
    static const char *const encapsulated[] = {MAKE_JPEG, MAKE_RLE, "1.2.840.10008.1.2.4.91",
                                               "1.2.840.10008.1.2.4.201"};
    for (size_t i = 0; i < N(encapsulated); i++) {
        struct make m = make_encapsulated(encapsulated[i], 3, "\xff\xd9");
        make_sequence_end(&m);
        const struct result *r = read_make(&m);
        assert_status(r, 0);
        assert_string_equal(r->header.transfer_syntax_uid, encapsulated[i]);
        make_free(&m);
    }
    /* private ones: the data tell; GE's is implicit */
    static const char *const private_ones[] = {"1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1"};
    for (size_t i = 0; i < N(private_ones); i++) {
        struct make m = make_begin(i == 0 ? MAKE_IMPLICIT : MAKE_EXPLICIT);
        make_meta(&m, private_ones[i]);
        make_image(&m);
        assert_image(read_make(&m), private_ones[i]);
        make_free(&m);
    }
}

/* Declared wrongly: what the data look like counts. */
static void test_wrong_transfer_syntax(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(plain_syntaxes); i++) {
        for (size_t j = 0; j < N(plain_syntaxes); j++) {
            struct make m = make_begin(plain_syntaxes[i]);
            make_meta(&m, plain_syntaxes[j]);
            make_image(&m);
            assert_image(read_make(&m), plain_syntaxes[j]);
            make_free(&m);
        }
    }
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_DEFLATED);
    make_image(&m);
    assert_image(read_make(&m), MAKE_DEFLATED);
    make_free(&m);
}

static void test_no_preamble(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(plain_syntaxes); i++) {
        struct make m = make_file(plain_syntaxes[i]);
        /* the meta header without preamble and prefix; and with the prefix alone */
        m.bytes.data += 132;
        m.bytes.size -= 132;
        assert_image(read_make(&m), plain_syntaxes[i]);
        m.bytes.data -= 4;
        m.bytes.size += 4;
        assert_image(read_make(&m), plain_syntaxes[i]);
        m.bytes.data -= 128;
        make_free(&m);

        /* no meta header either: the transfer syntax is guessed */
        m = make_begin(plain_syntaxes[i]);
        make_image(&m);
        assert_image(read_make(&m), plain_syntaxes[i]);
        make_free(&m);
    }
    /* the letters DICM at 128 by chance */
    struct make m = make_begin(MAKE_EXPLICIT);
    make_text(&m, 0x00080008, "CS",
              "ORIGINAL\\PRIMARY\\AXIAL\\0123456789\\0123456789\\0123456789\\0123456789\\0123456789"
              "\\0123456789\\012345DICMXYZ");
    assert_memory_equal(m.bytes.data + 112 - 1, "DICM", 0);
    while (memcmp(m.bytes.data + 128, "DICM", 4) != 0) {
        char text[200];
        const size_t n =
            (size_t)((uint8_t *)memmem(m.bytes.data, m.bytes.size, "DICM", 4) - m.bytes.data);
        assert_true(n < 128);
        memset(text, 'x', 128 - 8);
        memcpy(text + 128 - 8, "DICMXYZ", 8);
        buf_clear(&m.bytes);
        make_text(&m, 0x00080008, "CS", text);
    }
    make_text(&m, 0x00080016, "UI", MAKE_SOP_CLASS);
    make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
    const struct result *r = read_make(&m);
    assert_status(r, 0);
    assert_string_equal(r->header.sop_instance_uid, MAKE_SOP_INSTANCE);
    make_free(&m);
}

/* The elements are believed, not (0002,0000): a vendor's sample says 836 where 222 is right. */
static void test_meta_length(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {0, 1, 13, 222, 836, 65535, 0x7fffffff, 0xffffffff};
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        for (size_t i = 0; i < N(lengths); i++) {
            struct make m = make_file(plain_syntaxes[s]);
            for (unsigned b = 0; b < 4; b++) {
                m.bytes.data[140 + b] = (uint8_t)(lengths[i] >> 8 * b);
            }
            assert_image(read_make(&m), plain_syntaxes[s]);
            /* and without that element */
            memmove(m.bytes.data + 132, m.bytes.data + 144, m.bytes.size - 144);
            m.bytes.size -= 12;
            assert_image(read_make(&m), plain_syntaxes[s]);
            make_free(&m);
        }
        /* no transfer syntax in it */
        struct make m = make_begin(plain_syntaxes[s]);
        struct make meta = {0};
        make_meta(&m, "");
        make_text(&meta, 0x00020010, "UI", "");
        m.bytes.size = 132;
        make_text(&meta, 0x00020002, "UI", MAKE_SOP_CLASS);
        buf_put(&m.bytes, meta.bytes.data + 8, meta.bytes.size - 8);
        make_image(&m);
        assert_image(read_make(&m), plain_syntaxes[s]);
        make_free(&m);
        make_free(&meta);
    }
}

static void test_values(void **state)
{
    (void)state;
    char uid_list[3000] = "1.2.3";
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        struct make m = make_begin(plain_syntaxes[s]);
        make_meta(&m, plain_syntaxes[s]);
        make_text(&m, 0x00080008, "CS", "ORIGINAL\\PRIMARY ");
        make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
        make_text(&m, 0x00080020, "DA", "20260102");
        make_text(&m, 0x00080050, "SH", "");
        make_text(&m, 0x00081030, "LO", "  two blanks  ");
        make_header(&m, 0x00081140, "SQ", 0);
        make_text(&m, 0x00104000, "LT", "  line\r\nnext  ");
        make_bytes(&m, 0x00180050, "DS", "2.50\0\0", 6);
        make_text(&m, 0x0020000d, "UI", MAKE_STUDY);
        for (unsigned i = 0; strlen(uid_list) < 2900; i++) {
            strcat(uid_list, "\\1.2.3.4");
        }
        make_text(&m, 0x00280009, "AT", "");
        make_u16(&m, 0x00280010, 512);
        make_header(&m, 0x00281052, "DS", 8);
        buf_put_str(&m.bytes, "-1024.0 ");
        make_text(&m, 0x0040a160, "UT", uid_list);
        make_end(&m);

        static const uint32_t tags[] = {0x00080008, 0x00080020, 0x00080050, 0x00081030, 0x00081140,
                                        0x00104000, 0x00180050, 0x00280010, 0x00281052, 0x0040a160,
                                        0x00020016, 0x00080060, 0x00080020};
        const struct result *r = read_bytes(m.bytes.data, m.bytes.size, tags, N(tags));
        assert_status(r, 0);
        assert_string_equal(r->value[0], "ORIGINAL\\PRIMARY");
        assert_string_equal(r->value[1], "20260102");
        assert_true(r->present[2]);
        assert_string_equal(r->value[2], "");
        assert_string_equal(r->value[3], "two blanks");
        assert_false(r->present[4]);
        assert_string_equal(r->value[5], "  line\r\nnext");
        assert_string_equal(r->value[6], "2.50");
        assert_string_equal(r->value[7], "512");
        assert_string_equal(r->value[8], "-1024.0");
        assert_int_equal(strlen(r->value[9]), DICOM_MAX_VALUE);
        assert_memory_equal(r->value[9], uid_list, DICOM_MAX_VALUE);
        assert_string_equal(r->value[10], "MODALITY1");
        assert_false(r->present[11]);
        assert_string_equal(r->value[12], "20260102");
        make_free(&m);
        uid_list[5] = '\0';
    }
}

/* A text larger than what is loaded at once: read from the file where it lies, deflated or not. */
static void test_large_value(void **state)
{
    (void)state;
    static char text[300000];
    for (size_t i = 0; i + 1 < sizeof(text); i++) {
        text[i] = (char)('a' + i % 26);
    }
    for (unsigned deflated = 0; deflated < 2; deflated++) {
        struct make m = make_begin(MAKE_EXPLICIT);
        make_meta(&m, deflated ? MAKE_DEFLATED : MAKE_EXPLICIT);
        const size_t start = m.bytes.size;
        make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
        make_text(&m, 0x00080120, "UR", text);
        make_text(&m, 0x00100010, "PN", "Behind");
        if (deflated) {
            make_deflate(&m, start, -15);
        }
        static const uint32_t tags[] = {0x00080120, 0x00100010};
        const struct result *r = read_bytes(m.bytes.data, m.bytes.size, tags, 2);
        assert_status(r, 0);
        assert_int_equal(strlen(r->value[0]), DICOM_MAX_VALUE);
        assert_memory_equal(r->value[0], text, DICOM_MAX_VALUE);
        assert_string_equal(r->value[1], "Behind");
        make_free(&m);
    }
}

static void test_identity(void **state)
{
    (void)state;
    static const struct {
        const char *uid; /* NULL: absent */
        int status;
        const char *read, *reason;
    } cases[] = {
        {"1.2.3", 0, "1.2.3", ""},
        {" 1.2.3 ", 0, "1.2.3", ""},
        {"1.02.3", 0, "1.02.3", ""},
        {NULL, ERR_NO_UID, "", "missing"},
        {"", ERR_NO_UID, "", "empty"},
        {"1.2.3a", ERR_NO_UID, "", "no UID"},
        {"1.2.3\\1.2.4", ERR_NO_UID, "", "no UID"},
        {"../../etc/passwd", ERR_NO_UID, "", "no UID"},
        {"1.23456789012345678901234567890123456789012345678901234567890123", 0,
         "1.23456789012345678901234567890123456789012345678901234567890123", ""},
        {"1.2345678901234567890123456789012345678901234567890123456789012345", ERR_NO_UID, "",
         "no UID"},
    };
    for (size_t i = 0; i < N(cases); i++) {
        struct make m = make_begin(MAKE_EXPLICIT);
        make_meta(&m, MAKE_EXPLICIT);
        make_text(&m, 0x00080016, "UI", MAKE_SOP_CLASS);
        if (cases[i].uid != NULL) {
            make_text(&m, 0x00080018, "UI", cases[i].uid);
        }
        make_text(&m, 0x00080060, "CS", "CT");
        const struct result *r = read_make(&m);
        assert_status(r, cases[i].status);
        assert_string_equal(r->header.sop_instance_uid, cases[i].read);
        assert_string_equal(r->header.sop_class_uid, MAKE_SOP_CLASS);
        assert_string_equal(r->value[0], "CT");
        assert_non_null(strstr(r->text, cases[i].reason));
        make_free(&m);
    }
}

static void test_not_dicom(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        int status;
        const char *reason;
    } cases[] = {
        {"", 0, ERR_NOT_DICOM, "empty"},
        {"x", 1, ERR_NOT_DICOM, "text"},
        {"Hello, world.\nThis is a text, and a longer one than eight bytes.\n", 63, ERR_NOT_DICOM,
         "text"},
        {"\x1f\x8b\x08\0\0\0\0\0\0\3 zip", 14, ERR_NOT_DICOM, "gzip"},
        {"PK\3\4\x14\0\0\0\x08\0abcdef", 16, ERR_NOT_DICOM, "zip"},
        {"\xff\xd8\xff\xe0\0\x10JFIF\0\1", 12, ERR_NOT_DICOM, "JPEG"},
        {"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16, ERR_NOT_DICOM, "PNG"},
        {"%PDF-1.4\n%\xe2\xe3\xcf\xd3", 14, ERR_NOT_DICOM, "PDF"},
        {"\x7f"
         "ELF\2\1\1\0\0\0\0\0",
         12, ERR_NOT_DICOM, "program"},
        {"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89", 10, ERR_NOT_DICOM, "neither"},
        /* a beginning that could be one, and then not */
        {"\x08\0\x05\0CS\x04\0ABCD\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 24,
         ERR_NOT_DICOM, "no data set"},
        {"\x10\0\x10\0\x20\0\0\0", 8, ERR_NOT_DICOM, "no data set"},
        {"\2\0\2\0\2\0\2\0\2\0\2\0\2\0\2\0", 16, ERR_TRUNCATED, ""},
    };
    for (size_t i = 0; i < N(cases); i++) {
        const struct result *r = read_bytes(cases[i].bytes, cases[i].n, NULL, 0);
        if (r->status != cases[i].status || strstr(r->text, cases[i].reason) == NULL) {
            fail_msg("case %zu: %d %s", i, r->status, r->text);
        }
    }
    static uint8_t zeros[4096];
    assert_status(read_bytes(zeros, sizeof(zeros), NULL, 0), ERR_TRUNCATED);
    memcpy(zeros + 128, "DICM", 4);
    assert_true(read_bytes(zeros, sizeof(zeros), NULL, 0)->status != 0);
    assert_true(read_bytes(zeros, 132, NULL, 0)->status == ERR_TRUNCATED);
}

static void test_directory(void **state)
{
    (void)state;
    struct make m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    uint8_t *at = memmem(m.bytes.data, m.bytes.size, MAKE_SOP_CLASS, strlen(MAKE_SOP_CLASS));
    assert_non_null(at);
    memset(at, 0, strlen(MAKE_SOP_CLASS) + 1);
    memcpy(at, "1.2.840.10008.1.3.10", 20);
    make_header(&m, 0x00041220, "SQ", 0);
    const struct result *r = read_make(&m);
    assert_status(r, ERR_NOT_DICOM);
    assert_non_null(strstr(r->text, "DICOMDIR"));
    make_free(&m);
    /* by its records alone */
    m = make_begin(MAKE_EXPLICIT);
    make_meta(&m, MAKE_EXPLICIT);
    make_text(&m, 0x00041130, "CS", "DISC1");
    make_header(&m, 0x00041220, "SQ", 0);
    make_text(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE);
    assert_status(read_make(&m), ERR_NOT_DICOM);
    make_free(&m);
}

static bool ends_at(const struct make *m, size_t position)
{
    for (size_t i = 0; i < m->n_ends; i++) {
        if (m->ends[i] == position) {
            return true;
        }
    }
    return false;
}

/* Every cut of every kind of file: whole only where an element ends behind the UID, else truncated.
 */
static void check_cuts(const struct make *m, size_t dataset)
{
    for (size_t cut = 1; cut < m->bytes.size; cut++) {
        const struct result *r = read_bytes(m->bytes.data, cut, NULL, 0);
        bool at_end = ends_at(m, cut);
        /* one zero byte may be the group's high byte of big endian, and is padding where it is seen
         */
        at_end = at_end ||
                 (m->big_endian && cut > 0 && m->bytes.data[cut - 1] == 0 && ends_at(m, cut - 1));
        if (cut >= 132 && !at_end && r->status != ERR_TRUNCATED) {
            fail_msg("cut at %zu of %zu (data set at %zu): status %d %s", cut, m->bytes.size,
                     dataset, r->status, r->text);
        }
        if (ends_at(m, cut) && r->status != 0 && r->status != ERR_NO_UID) {
            fail_msg("cut at the end %zu of an element: status %d %s", cut, r->status, r->text);
        }
        assert_true(r->status != 0 || r->header.sop_instance_uid[0] != '\0');
        assert_true(cut >= 132 || r->status == ERR_NOT_DICOM || r->status == ERR_TRUNCATED);
    }
}

static void test_cut_plain(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(plain_syntaxes); i++) {
        struct make m = make_begin(plain_syntaxes[i]);
        make_meta(&m, plain_syntaxes[i]);
        const size_t dataset = m.bytes.size;
        make_image(&m);
        check_cuts(&m, dataset);
        make_free(&m);
    }
}

static void test_cut_deflated(void **state)
{
    (void)state;
    struct make m = make_begin(MAKE_DEFLATED);
    make_meta(&m, MAKE_DEFLATED);
    const size_t dataset = m.bytes.size;
    make_image(&m);
    m.n_ends = 0;
    make_deflate(&m, dataset, -15);
    check_cuts(&m, dataset);
    make_free(&m);
}

static void test_cut_encapsulated(void **state)
{
    (void)state;
    struct make m = make_encapsulated(MAKE_JPEG, 2, "\x11\x22");
    make_sequence_end(&m);
    check_cuts(&m, 0);
    make_free(&m);
}

/* The delimiter at the end of encapsulated pixel data is missing: whole if every frame is there. */
static void test_missing_delimiter(void **state)
{
    (void)state;
    struct make m = make_encapsulated(MAKE_JPEG, 2, "\xff\xd9");
    assert_status(read_make(&m), 0);
    m.bytes.size -= 110; /* one frame less */
    assert_status(read_make(&m), ERR_TRUNCATED);
    make_free(&m);
    m = make_encapsulated(MAKE_JPEG, 2, "\xff\xd9\0");
    assert_status(read_make(&m), 0);
    make_free(&m);
    m = make_encapsulated(MAKE_JPEG, 2,
                          "\x11\x22"); /* no end of image: more fragments may have followed */
    assert_status(read_make(&m), ERR_TRUNCATED);
    make_free(&m);
    m = make_encapsulated(MAKE_RLE, 2, "\x11\x22"); /* one fragment a frame */
    assert_status(read_make(&m), 0);
    make_free(&m);
    /* that of a sequence */
    for (size_t i = 0; i < N(plain_syntaxes); i++) {
        m = make_begin(plain_syntaxes[i]);
        make_meta(&m, plain_syntaxes[i]);
        make_identity(&m);
        make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
        make_item(&m, MAKE_UNDEFINED);
        make_text(&m, 0x00080100, "SH", "CODE");
        make_item_end(&m);
        assert_status(read_make(&m), ERR_TRUNCATED);
        make_sequence_end(&m);
        assert_status(read_make(&m), 0);
        make_free(&m);
    }
}

static void test_sequences(void **state)
{
    (void)state;
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        for (unsigned kind = 0; kind < 6; kind++) {
            struct make m = make_begin(plain_syntaxes[s]);
            make_meta(&m, plain_syntaxes[s]);
            make_identity(&m);
            struct make inner = make_begin(plain_syntaxes[s]);
            make_text(&inner, 0x00080100, "SH", "CODE");
            make_text(&inner, 0x00080104, "LO", "meaning");
            const uint32_t n = (uint32_t)inner.bytes.size;
            switch (kind) {
            case 0: /* both lengths defined */
                make_header(&m, 0x0040a730, "SQ", 2 * (n + 8));
                make_item(&m, n);
                buf_put(&m.bytes, inner.bytes.data, n);
                make_item(&m, n);
                buf_put(&m.bytes, inner.bytes.data, n);
                break;
            case 1: /* the item's */
                make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
                make_item(&m, n);
                buf_put(&m.bytes, inner.bytes.data, n);
                make_sequence_end(&m);
                break;
            case 2: /* the sequence's */
                make_header(&m, 0x0040a730, "SQ", n + 16);
                make_item(&m, MAKE_UNDEFINED);
                buf_put(&m.bytes, inner.bytes.data, n);
                make_item_end(&m);
                break;
            case 3: /* none, and an item delimiter too few */
                make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
                make_item(&m, MAKE_UNDEFINED);
                buf_put(&m.bytes, inner.bytes.data, n);
                make_sequence_end(&m);
                break;
            case 4: /* a sequence delimiter too many */
                make_header(&m, 0x0040a730, "SQ", MAKE_UNDEFINED);
                make_sequence_end(&m);
                make_sequence_end(&m);
                break;
            default: /* private, as UN of undefined length: implicit VR within */
                make_text(&m, 0x00410010, "LO", "VENDOR");
                make_header(&m, 0x00411001, "UN", MAKE_UNDEFINED);
                make_item(&m, MAKE_UNDEFINED);
                m.implicit = true;
                make_text(&m, 0x00080100, "SH", "CODE");
                m.implicit = inner.implicit;
                make_item_end(&m);
                make_sequence_end(&m);
                break;
            }
            make_text(&m, 0x00880130, "SH", "behind it");
            static const uint32_t tags[] = {0x00880130, 0x0040a730};
            const struct result *r = read_bytes(m.bytes.data, m.bytes.size, tags, 2);
            if (r->status != 0 || strcmp(r->value[0], "behind it") != 0) {
                fail_msg("%s, kind %u: %d %s", plain_syntaxes[s], kind, r->status, r->text);
            }
            assert_false(r->present[1]);
            make_free(&m);
            make_free(&inner);
        }
    }
}

/* Lengths within a sequence that reach beyond it: its own is believed. Data that only look like a
 * sequence: stepped over. */
static void test_bad_sequences(void **state)
{
    (void)state;
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        for (unsigned kind = 0; kind < 4; kind++) {
            struct make m = make_begin(plain_syntaxes[s]);
            make_meta(&m, plain_syntaxes[s]);
            make_identity(&m);
            switch (kind) {
            case 0:
                make_header(&m, 0x0040a730, "SQ", 32);
                make_item(&m, 24);
                make_header(&m, 0x00080100, "SH", 5000);
                break;
            case 1:
                make_header(&m, 0x0040a730, "SQ", 32);
                make_item(&m, MAKE_UNDEFINED);
                make_header(&m, 0x00080100, "SH", 5000);
                break;
            case 2:
                make_text(&m, 0x00410010, "LO", "VENDOR");
                make_header(&m, 0x00411001, "UN", 32);
                make_item(&m, MAKE_UNDEFINED);
                make_header(&m, 0x12345678, "OB", 0x12345678);
                break;
            default:
                make_header(&m, 0x0040a730, "SQ", 32);
                make_header(&m, 0x00080100, "SH", 8);
                break;
            }
            while (m.bytes.size <
                   m.ends[m.n_ends - 1] + (kind == 2 ? 14u : 0u) + (s == 1 ? 40 : 44)) {
                buf_put_u8(&m.bytes, 'x');
            }
            static const uint32_t tags[] = {0x00880130};
            make_text(&m, 0x00880130, "SH", "behind it");
            const struct result *r = read_bytes(m.bytes.data, m.bytes.size, tags, 1);
            if (r->status != 0 || strcmp(r->value[0], "behind it") != 0) {
                fail_msg("%s, kind %u: %d %s", plain_syntaxes[s], kind, r->status, r->text);
            }
            make_free(&m);
        }
    }
}

/* Odd lengths are against the standard and in the files. */
static void test_odd_lengths(void **state)
{
    (void)state;
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        struct make m = make_begin(plain_syntaxes[s]);
        make_meta(&m, plain_syntaxes[s]);
        make_bytes(&m, 0x00080016, "UI", MAKE_SOP_CLASS, strlen(MAKE_SOP_CLASS));
        make_bytes(&m, 0x00080018, "UI", MAKE_SOP_INSTANCE, strlen(MAKE_SOP_INSTANCE));
        make_bytes(&m, 0x00080060, "CS", "CT ", 3);
        make_bytes(&m, 0x00100010, "PN", "Odd^E", 5);
        make_bytes(&m, 0x7fe00010, "OB", "12345", 5);
        const struct result *r = read_make(&m);
        assert_status(r, 0);
        assert_string_equal(r->value[0], "CT");
        assert_string_equal(r->value[1], "Odd^E");
        m.bytes.size--;
        assert_status(read_make(&m), ERR_TRUNCATED);
        make_free(&m);
    }
}

/* Padding and rubbish behind the last element; but no hole instead of the pixel data. */
static void test_trailing(void **state)
{
    (void)state;
    for (size_t s = 0; s < N(plain_syntaxes); s++) {
        for (size_t n = 1; n < 300; n += n < 20 ? 1 : 97) {
            struct make m = make_file(plain_syntaxes[s]);
            for (size_t i = 0; i < n; i++) {
                buf_put_u8(&m.bytes, 0);
            }
            assert_image(read_make(&m), plain_syntaxes[s]);
            memset(m.bytes.data + m.bytes.size - n, 0xff, n);
            assert_image(read_make(&m), plain_syntaxes[s]);
            memset(m.bytes.data + m.bytes.size - n, 0x20, n);
            assert_image(read_make(&m), plain_syntaxes[s]);
            make_free(&m);
        }
        /* (FFFC,FFFC) Data Set Trailing Padding */
        struct make m = make_file(plain_syntaxes[s]);
        make_bytes(&m, 0xfffcfffc, "OB", "\0\0\0\0", 4);
        assert_image(read_make(&m), plain_syntaxes[s]);
        make_free(&m);
        /* no image, padded to a block */
        m = make_begin(plain_syntaxes[s]);
        make_meta(&m, plain_syntaxes[s]);
        make_identity(&m);
        while (m.bytes.size % 4096 != 0) {
            buf_put_u8(&m.bytes, 0);
        }
        assert_status(read_make(&m), 0);
        make_free(&m);
        /* allocated, begun, and never finished */
        m = make_file(plain_syntaxes[s]);
        memset(m.bytes.data + m.ends[m.n_ends - 2], 0, m.bytes.size - m.ends[m.n_ends - 2]);
        assert_status(read_make(&m), ERR_TRUNCATED);
        make_free(&m);
        m = make_begin(plain_syntaxes[s]);
        make_meta(&m, plain_syntaxes[s]);
        make_identity(&m);
        for (size_t i = 0; i < 200000; i++) {
            buf_put_u8(&m.bytes, 0);
        }
        assert_status(read_make(&m), ERR_TRUNCATED);
        make_free(&m);
    }
}

static void test_descriptors(void **state)
{
    (void)state;
    struct make m = make_file(MAKE_EXPLICIT);
    char name[] = "/tmp/dicom-reader-XXXXXX";
    const int fd = mkostemp(name, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, m.bytes.data, m.bytes.size), (ssize_t)m.bytes.size);
    /* at any position, which it leaves alone */
    assert_int_equal(lseek(fd, 17, SEEK_SET), 17);
    assert_status(read_fd(fd, NULL, 0), 0);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 17);
    close(fd);
    unlink(name);
    /* a folder, a pipe */
    const int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(folder >= 0);
    assert_status(read_fd(folder, NULL, 0), ERR_IO);
    close(folder);
    int pipe_fds[2];
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    assert_status(read_fd(pipe_fds[0], NULL, 0), ERR_IO);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    /* not open at all: a failure of ours, told as such and not as the file's */
    const struct result *r = read_fd(-1, NULL, 0);
    assert_true(r->status != 0 && r->status != ERR_HOSTILE && r->status != ERR_NOT_DICOM);
    make_free(&m);
}

static unsigned n_called;
static uv_loop_t *many_loop;

static void on_many(struct dicom_read *r, int status, const struct dicom_header *header,
                    const struct err *e)
{
    (void)e;
    (void)header;
    *(int *)r->ctx = status;
    n_called++;
    uv_stop(many_loop);
}

/* Many at once, more tags than there may be among them: each comes back once. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 40 };
    static struct dicom_read reads[MANY];
    static int statuses[MANY];
    static const uint32_t too_many[DICOM_MAX_TAGS + 1];
    struct make m = make_file(MAKE_EXPLICIT);
    char name[] = "/tmp/dicom-reader-XXXXXX";
    const int fd = mkostemp(name, O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(name);
    assert_int_equal(write(fd, m.bytes.data, m.bytes.size), (ssize_t)m.bytes.size);
    n_called = 0;
    many_loop = read_loop();
    for (unsigned i = 0; i < MANY; i++) {
        statuses[i] = 12345;
        reads[i] = (struct dicom_read){.fd = fd, .cb = on_many, .ctx = &statuses[i]};
        if (i == 7) {
            reads[i].tags = too_many;
            reads[i].n_tags = DICOM_MAX_TAGS + 1;
        }
        dicom_reader_read(read_reader(), &reads[i]);
    }
    assert_int_equal(n_called, 0);
    assert_int_equal(dicom_reader_pending(read_reader()), MANY);
    while (n_called < MANY) {
        uv_run(read_loop(), UV_RUN_DEFAULT);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(statuses[i], i == 7 ? ERR_INVALID : 0);
    }
    assert_int_equal(dicom_reader_pending(read_reader()), 0);
    close(fd);
    make_free(&m);
}

static void on_close(void *ctx)
{
    *(bool *)ctx = true;
}

/* Closing cancels, every callback comes, and then the reader's own. */
static void test_close(void **state)
{
    (void)state;
    static struct dicom_read reads[5];
    static int statuses[5];
    struct dicom_reader *reader;
    struct err e;
    uv_loop_t loop;
    bool closed = false;
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    uv_loop_init(&loop);
    many_loop = &loop;
    assert_int_equal(dicom_reader_open(&reader, &loop, NULL, 2, &e), 0);
    n_called = 0;
    for (unsigned i = 0; i < 5; i++) {
        statuses[i] = 0;
        reads[i] = (struct dicom_read){.fd = fd, .cb = on_many, .ctx = &statuses[i]};
        dicom_reader_read(reader, &reads[i]);
    }
    dicom_reader_close(reader, on_close, &closed);
    assert_int_equal(n_called, 0);
    assert_false(closed);
    while (!closed) {
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    assert_int_equal(n_called, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(statuses[i], ERR_CANCELED);
    }
    assert_int_equal(uv_loop_close(&loop), 0);
    close(fd);
}

/* A program that is not there is local trouble. */
static void test_no_program(void **state)
{
    (void)state;
    static struct dicom_read read;
    struct dicom_reader *reader;
    struct err e;
    uv_loop_t loop;
    int status = 0;
    bool closed = false;
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    uv_loop_init(&loop);
    many_loop = &loop;
    assert_int_equal(dicom_reader_open(&reader, &loop, "/nonexistent/dcmferry-dicom", 1, &e), 0);
    read = (struct dicom_read){.fd = fd, .cb = on_many, .ctx = &status};
    n_called = 0;
    dicom_reader_read(reader, &read);
    while (n_called == 0) {
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    assert_int_equal(err_class(status), ERR_CLASS_LOCAL);
    dicom_reader_close(reader, on_close, &closed);
    while (!closed) {
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    assert_int_equal(uv_loop_close(&loop), 0);
    close(fd);
}

static void test_program(void **state)
{
    (void)state;
    const char *saved = getenv("DCMFERRY_DICOM");
    assert_non_null(saved);
    char copy[4096];
    snprintf(copy, sizeof(copy), "%s", saved);
    assert_string_equal(dicom_reader_program(), copy);
    unsetenv("DCMFERRY_DICOM");
    assert_non_null(strstr(dicom_reader_program(), "dcmferry-dicom"));
    assert_int_equal(dicom_reader_program()[0], '/');
    setenv("DCMFERRY_DICOM", copy, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transfer_syntaxes),
        cmocka_unit_test(test_wrong_transfer_syntax),
        cmocka_unit_test(test_no_preamble),
        cmocka_unit_test(test_meta_length),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_large_value),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_not_dicom),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_cut_plain),
        cmocka_unit_test(test_cut_deflated),
        cmocka_unit_test(test_cut_encapsulated),
        cmocka_unit_test(test_missing_delimiter),
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_bad_sequences),
        cmocka_unit_test(test_odd_lengths),
        cmocka_unit_test(test_trailing),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_program),
    };
    if (getenv("ONLY") != NULL) {
        cmocka_set_test_filter(getenv("ONLY"));
    }
    return cmocka_run_group_tests(tests, read_setup, read_teardown);
}
