/* DCMTK for the worker program, behind a C interface: no exception crosses it. One thread. */
#ifndef DICOM_SHIM_H
#define DICOM_SHIM_H

struct err;
struct dicom_request;
struct dicom_answer;

#ifdef __cplusplus
extern "C" {
#endif

/* Silences DCMTK's log (it prints attribute values), loads its dictionary and all character set
 * conversions: what needs to open files. 0 or ERR_UNSUPPORTED with *e filled: some of it
 * is not installed. */
int dicom_shim_init(struct err *e);

/* Reads the header of the file open at fd (not closed, its offset neither used nor moved). Fills
 * *answer, whose strings are valid until the next call. */
void dicom_shim_read(int fd, const struct dicom_request *request, struct dicom_answer *answer);

#ifdef __cplusplus
}
#endif

#endif
