/* Text of a DICOM file as UTF-8: Specific Character Set (0008,0005), PS3.3 C.12.1.1.2 and
 * PS3.5 6.1, code extensions of ISO 2022 included.
 *
 * Own code, on glibc's iconv: DCMTK 3.6.7 as Debian builds it asks glibc for "ISO-IR-87",
 * "ISO-IR-159", names glibc does not have, and so fails on every Japanese name. Not thread-safe
 * (the worker has one thread). */
#ifndef DICOM_CHARSET_H
#define DICOM_CHARSET_H

#include <stddef.h>

/* Opens all conversions there are, so that none is opened later, behind the sandbox. 0 or
 * ERR_UNSUPPORTED if glibc's conversion modules are missing. */
int dicom_charset_init(void);

/* Converts `n` bytes of an element with value representation `vr` ("PN") of a data set with this
 * Specific Character Set (its value as in the file, several values separated by backslashes; "" or
 * NULL if absent) to UTF-8 in out[size], cut at a character, NUL-terminated; stops at a NUL byte.
 * Never fails: an unknown character set is read as UTF-8 where it is that and else as Latin-1;
 * bytes that are no character become U+FFFD. Returns the length. */
size_t dicom_charset_convert(const char *specific, const char *vr, const char *in, size_t n,
                             char *out, size_t size);

#endif
