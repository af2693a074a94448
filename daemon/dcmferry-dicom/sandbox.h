/* Locks the process in: what a hostile file makes of the parser can compute and answer, nothing
 * else. */
#ifndef DCMFERRY_DICOM_SANDBOX_H
#define DCMFERRY_DICOM_SANDBOX_H

#include "base/err.h"

/* No core files, no tracing, no new privileges, few descriptors; Landlock without any right to
 * files where the kernel has it; seccomp: memory, time, the descriptors it has, its socket;
 * everything else kills the process. Call it when everything that opens files was done. Built with
 * a sanitizer, which needs more system calls, it leaves out seccomp. 0 or a negative code with *e
 * filled: then do not go on. */
int sandbox_enter(struct err *e);

#endif
