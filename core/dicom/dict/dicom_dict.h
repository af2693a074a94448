/* The DICOM data dictionary's keywords (PS3.6), as a table generated at build time from DCMTK's
 * dicom.dic. Pure, thread-safe, static storage. */
#ifndef DICOM_DICT_H
#define DICOM_DICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DICOM_TAG(group, element) (((uint32_t)(group) << 16) | (uint32_t)(element))

/* The tag of an attribute's keyword ("StudyDate"), case-sensitive, or of "gggg,eeee" /
 * "(gggg,eeee)" in hex. Returns false for anything else. Repeating groups (50xx, 60xx) are not in
 * the table by keyword. */
bool dicom_dict_tag(const char *keyword, uint32_t *ret_tag);

/* The keyword of a tag, NULL if the table has none. */
const char *dicom_dict_keyword(uint32_t tag);

/* The VR of a tag as two letters ("DA"), "UN" if unknown. */
const char *dicom_dict_vr(uint32_t tag);

/* The keyword nearest to a misspelt one, NULL if none is near. */
const char *dicom_dict_closest(const char *keyword);

#endif
