/* What the parts of a pipeline share. All of it outlives them. */
#ifndef PIPELINE_ENV_H
#define PIPELINE_ENV_H

#include "config/config.h"
#include "dicom/dicom_reader.h"
#include "journal/journal.h"
#include "pipeline/roots.h"
#include "pipeline/trouble.h"
#include "worker/job.h"

#include <uv.h>

struct pipeline_env {
    uv_loop_t *loop;
    const struct config *config;
    struct journal *journal;
    struct job_queue *jobs;
    struct dicom_reader *reader;
    struct trouble *trouble;
    struct roots *roots;
};

/* The number that counts a drop folder's jobs (job.h): its index in the configuration, from 1. */
static inline uint64_t pipeline_mount(size_t watch)
{
    return (uint64_t)watch + 1;
}

#endif
