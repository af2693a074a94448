/* Values of DICOM's date and time attributes, read and written in another form. Pure, thread-safe.
 */
#ifndef CONFIG_MOMENT_H
#define CONFIG_MOMENT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

/* Year, month, day, hour, minute, second; -1 where the value has none. */
struct moment {
    int field[6];
};

/* The letters of strftime's conversions that a value representation can fill; NULL unless DA, TM or
 * DT. */
const char *moment_conversions(const char *vr);

/* PS3.5 table 6.2-1: DA YYYYMMDD (YYYY.MM.DD before 1993), TM HH[MM[SS[.F]]] (HH:MM:SS before
 * 1993), DT YYYY[MM[DD[HH[MM[SS[.F]]]]]][&ZZXX]. False if it is none, or no day of the calendar. */
bool moment_parse(struct moment *m, const char *vr, const char *s, size_t n);

/* Appends it; every conversion in `format` must be one of %Y %y %m %d %j %H %M %S %%. False if it
 * lacks what is asked for (some may have been appended). */
bool moment_format(const struct moment *m, const char *format, struct buf *b);

#endif
