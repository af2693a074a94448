#include "sandbox.h"

#include "base/log.h"

#include <errno.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 64

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static int limit(int resource, rlim_t value, struct err *e)
{
    const struct rlimit rlimit = {.rlim_cur = value, .rlim_max = value};
    if (setrlimit((__rlimit_resource_t)resource, &rlimit) != 0) {
        return err_set_errno(e, errno, "the DICOM worker cannot limit itself");
    }
    return 0;
}

/* All rights of the file system that the kernel knows, granted for nothing. */
static int forbid_files(struct err *e)
{
    const long version =
        syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) {
        log_debug("this kernel has no Landlock, seccomp alone keeps the DICOM worker from files");
        return 0;
    }
    /* Rights of the first version: all that opens a file or lists a folder; seccomp has no open at
     * all. */
    const struct landlock_ruleset_attr attr = {.handled_access_fs =
                                                   (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    const int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0u);
    if (ruleset < 0) {
        return err_set_errno(e, errno, "the DICOM worker cannot make its Landlock rules");
    }
    const long result = syscall(SYS_landlock_restrict_self, ruleset, 0u);
    const int saved = errno;
    close(ruleset);
    return result == 0
               ? 0
               : err_set_errno(e, saved, "the DICOM worker cannot lock itself in with Landlock");
}

static int filter(struct err *e)
{
    static const int allowed[] = {
        SCMP_SYS(read),           SCMP_SYS(pread64),      SCMP_SYS(lseek),
        SCMP_SYS(fstat),          SCMP_SYS(newfstatat),   SCMP_SYS(statx),
        SCMP_SYS(recvmsg),        SCMP_SYS(sendmsg),      SCMP_SYS(close),
        SCMP_SYS(munmap),         SCMP_SYS(mremap),       SCMP_SYS(brk),
        SCMP_SYS(madvise),        SCMP_SYS(futex),        SCMP_SYS(exit),
        SCMP_SYS(exit_group),     SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),  SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_getres),   SCMP_SYS(gettimeofday), SCMP_SYS(time),
        SCMP_SYS(getrandom),      SCMP_SYS(getpid),       SCMP_SYS(gettid),
        SCMP_SYS(sched_yield),    SCMP_SYS(getrusage),    SCMP_SYS(restart_syscall),
    };
    int failed = 0;
    const scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (ctx == NULL) {
        return err_set(e, ERR_NOMEM, "the DICOM worker cannot make its seccomp filter");
    }
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && failed == 0; i++) {
        failed = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
        if (failed == -EDOM) {
            failed = 0; /* this architecture has no such call */
        }
    }
    /* Memory, but none that runs; abort() sends its signal to itself alone; messages go to stderr.
     */
    if (failed == 0) {
        failed = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    }
    if (failed == 0) {
        failed = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    }
    if (failed == 0) {
        failed = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    }
    if (failed == 0) {
        failed = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                                  SCMP_A0(SCMP_CMP_EQ, STDERR_FILENO));
    }
    /* The answer may not go astray either: no descriptor but the socket is written to. */
    if (failed == 0) {
        failed = seccomp_load(ctx);
    }
    seccomp_release(ctx);
    return failed == 0
               ? 0
               : err_set_errno(e, -failed, "the DICOM worker cannot lock itself in with seccomp");
}

int sandbox_enter(struct err *e)
{
    int result = limit(RLIMIT_CORE, 0, e);
    if (result == 0) {
        result = limit(RLIMIT_NOFILE, MAX_DESCRIPTORS, e);
    }
    if (result != 0) {
        return result;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) != 0) {
        return err_set_errno(e, errno, "the DICOM worker cannot give up privileges");
    }
    if (SANITIZED) {
        return 0;
    }
    if (prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) != 0) {
        return err_set_errno(e, errno, "the DICOM worker cannot forbid tracing");
    }
    result = forbid_files(e);
    return result == 0 ? filter(e) : result;
}
