/* Clearly synthetic DICOM instances for `dcmferry doctor`: Secondary Capture, Explicit VR Little
 * Endian, a grey ramp as pixel data, fresh UIDs. Pure but for the random UIDs. */
#ifndef DCMFERRY_DOCTOR_INSTANCE_H
#define DCMFERRY_DOCTOR_INSTANCE_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

#define INSTANCE_PATIENT_NAME "DCMFERRY^DOCTOR"
#define INSTANCE_UID_SIZE     65

/* A new UID below 2.25: a random UUID as a decimal number (PS3.5, B.2). */
void instance_uid(char out[INSTANCE_UID_SIZE]);

struct instance {
    char study[INSTANCE_UID_SIZE], series[INSTANCE_UID_SIZE], sop[INSTANCE_UID_SIZE];
    const char *patient_id;
    unsigned number;        /* InstanceNumber */
    unsigned rows, columns; /* one byte a pixel */
};

/* Appends the whole file (PS3.10). `now` is the study's date and time, seconds since the epoch. */
void instance_write(const struct instance *in, int64_t now, struct buf *out);

#endif
