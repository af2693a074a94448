/* Files that others wrote: those of the folder given as argument or in DCMFERRY_TEST_FILES (with
 * its MANIFEST.tsv), and those of Debian's python3-pydicom. What dcmdump or pydicom reads must be
 * read, or refused with a good reason. */
#include "read.h"

#include "base/fsutil.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PYDICOM "/usr/lib/python3/dist-packages/pydicom/data"

static const char *folder;

static const struct result *read_path(const char *path)
{
    static const uint32_t tags[] = {0x00080005, 0x00080060, 0x00100010,
                                    0x00080020, 0x00081030, 0x00280010};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    const struct result *r = read_fd(fd, tags, sizeof(tags) / sizeof(tags[0]));
    close(fd);
    if (r->status != 0 && getenv("VERBOSE") != NULL) {
        print_message("%s\t%s\n", strrchr(path, '/') + 1, r->text);
    }
    return r;
}

enum {
    COLUMN_NAME = 0,
    COLUMN_SYNTAX = 6,
    COLUMN_MODALITY = 7,
    COLUMN_SOP_CLASS = 8,
    COLUMN_DCMDUMP = 9,
    COLUMN_PYDICOM = 12,
    COLUMN_ODDITY = 21,
    COLUMNS = 22
};

static void check_row(char *const column[COLUMNS])
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, column[COLUMN_NAME]);
    const struct result *r = read_path(path);
    const char *const oddity = column[COLUMN_ODDITY];
    const bool readable =
        strcmp(column[COLUMN_DCMDUMP], "yes") == 0 || strcmp(column[COLUMN_PYDICOM], "yes") == 0;
    bool good;
    if (r->status == 0) {
        good = r->header.sop_instance_uid[0] != '\0' && r->header.transfer_syntax_uid[0] != '\0' &&
               strcmp(oddity, "truncated") * strcmp(oddity, "dicomdir") * strcmp(oddity, "gzip") *
                       strcmp(oddity, "non-dicom") * strcmp(oddity, "empty-dataset") !=
                   0;
        /* (one is called truncated because its last code stream is; its elements are whole) */
        good = good || (strcmp(oddity, "truncated") == 0 &&
                        strcmp(r->header.transfer_syntax_uid, "1.2.840.10008.1.2.4.90") == 0);
        good = good && (column[COLUMN_SYNTAX][0] == '\0' ||
                        strcmp(column[COLUMN_SYNTAX], r->header.transfer_syntax_uid) == 0);
        good = good && (column[COLUMN_SOP_CLASS][0] == '\0' ||
                        strcmp(column[COLUMN_SOP_CLASS], r->header.sop_class_uid) == 0);
        good = good && (column[COLUMN_MODALITY][0] == '\0' ||
                        strcmp(column[COLUMN_MODALITY], r->value[1]) == 0);
    } else if (r->status == ERR_NO_UID) {
        good = r->header.sop_instance_uid[0] == '\0';
    } else if (r->status == ERR_NOT_DICOM) {
        good = !readable || strcmp(oddity, "dicomdir") == 0;
    } else {
        good = r->status == ERR_TRUNCATED && (!readable || strcmp(oddity, "truncated") == 0 ||
                                              strcmp(oddity, "empty-dataset") == 0);
    }
    if (!good) {
        fail_msg("%s: %d %s (%s, %s, %s)", column[COLUMN_NAME], r->status, r->text, oddity,
                 r->header.transfer_syntax_uid, r->header.sop_class_uid);
    }
}

static void test_folder(void **state)
{
    (void)state;
    char path[4096], *data = NULL;
    size_t size;
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/MANIFEST.tsv", folder != NULL ? folder : "");
    if (folder == NULL || fsutil_read_file(path, 16u << 20, &data, &size, NULL) != 0) {
        print_message("no folder of real files with a MANIFEST.tsv: skipped\n");
        skip();
    }
    char *rest = data;
    strsep(&rest, "\n"); /* the column names */
    for (char *line; (line = strsep(&rest, "\n")) != NULL && line[0] != '\0';) {
        char *column[COLUMNS] = {0};
        for (unsigned i = 0; i < COLUMNS; i++) {
            column[i] = strsep(&line, "\t");
            assert_non_null(column[i]);
        }
        check_row(column);
        n++;
    }
    assert_true(n > 100);
    free(data);
}

/* What is not an instance among them. All others are read. */
static const struct {
    const char *name;
    int status;
} pydicom_refused[] = {
    {"MR_truncated.dcm", ERR_TRUNCATED},
    {"rtplan_truncated.dcm", ERR_TRUNCATED},
    {"no_meta.dcm",
     ERR_NOT_DICOM}, /* a stray byte before the first element; dcmdump and pydicom refuse it too */
    {"zipMR.gz", ERR_NOT_DICOM},
    /* no SOP Instance UID */
    {"UN_sequence.dcm", ERR_NO_UID},
    {"chrSQEncoding.dcm", ERR_NO_UID},
    {"chrSQEncoding1.dcm", ERR_NO_UID},
    {"empty_charset_LEI.dcm", ERR_NO_UID},
    {"meta_missing_tsyntax.dcm", ERR_NO_UID},
    {"nested_priv_SQ.dcm", ERR_NO_UID},
    {"no_meta_group_length.dcm", ERR_NO_UID},
    {"priv_SQ.dcm", ERR_NO_UID},
};

static bool ends_with(const char *s, const char *end)
{
    return strlen(s) >= strlen(end) && strcmp(s + strlen(s) - strlen(end), end) == 0;
}

static unsigned n_pydicom;

static int on_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    static const char *const other[] = {".json", ".txt", ".md", ".dump", ".py", ".pyc", "README"};
    const char *const name = path + ftw->base;
    int expected = 0;
    if (type != FTW_F || !S_ISREG(st->st_mode)) {
        return 0;
    }
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
        expected = ends_with(name, other[i]) ? ERR_NOT_DICOM : expected;
    }
    expected = strncmp(name, "DICOMDIR", 8) == 0 ? ERR_NOT_DICOM : expected;
    for (size_t i = 0; i < sizeof(pydicom_refused) / sizeof(pydicom_refused[0]); i++) {
        expected =
            strcmp(name, pydicom_refused[i].name) == 0 ? pydicom_refused[i].status : expected;
    }
    if (expected != 0 || !ends_with(name, ".gz")) {
        const struct result *r = read_path(path);
        if (r->status != expected) {
            fail_msg("%s: %d %s", name, r->status, r->text);
        }
        n_pydicom++;
    }
    return 0;
}

static void test_pydicom(void **state)
{
    (void)state;
    if (access(PYDICOM, R_OK) != 0) {
        print_message("python3-pydicom is not installed: skipped\n");
        skip();
    }
    assert_int_equal(nftw(PYDICOM, on_file, 16, FTW_PHYS), 0);
    assert_true(n_pydicom > 100);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_pydicom),
    };
    folder = getenv("DCMFERRY_TEST_FILES");
    if (folder == NULL && argc > 1) {
        folder = argv[1];
    }
    return cmocka_run_group_tests(tests, read_setup, read_teardown);
}
