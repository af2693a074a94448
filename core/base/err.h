/* Error codes, their class and a message for people.
 *
 * Functions return 0 or one of these negative codes. A function that takes a `struct err *` fills
 * it on failure with what, where and what to do; the pointer may be NULL. No function here logs.
 * Thread-safe. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

/* What the caller should do about it: architecture, "Errors". */
enum err_class {
    ERR_CLASS_NONE = 0,
    ERR_CLASS_TRANSIENT, /* try again later */
    ERR_CLASS_PERMANENT, /* give up on this file or delivery */
    ERR_CLASS_AUTH,      /* stop the destination, tell the operator, probe slowly */
    ERR_CLASS_LOCAL,     /* disk, memory: pause and tell */
};

/*    name, code, class, text */
#define ERR_MAP(X)                                                                                 \
    X(ERR_NOMEM, -1001, LOCAL, "out of memory")                                                    \
    X(ERR_IO, -1002, LOCAL, "input/output error")                                                  \
    X(ERR_NOSPACE, -1003, LOCAL, "no space left on the file system")                               \
    X(ERR_DAMAGED, -1004, LOCAL, "stored data is damaged")                                         \
    X(ERR_LOCKED, -1005, LOCAL, "in use by another process")                                       \
    X(ERR_INVALID, -1010, PERMANENT, "invalid value")                                              \
    X(ERR_CONFIG, -1011, PERMANENT, "the configuration is not valid")                              \
    X(ERR_NOT_FOUND, -1012, PERMANENT, "not found")                                                \
    X(ERR_EXISTS, -1013, PERMANENT, "already exists")                                              \
    X(ERR_ACCESS, -1014, PERMANENT, "permission denied")                                           \
    X(ERR_UNSUPPORTED, -1015, PERMANENT, "not supported")                                          \
    X(ERR_TOO_LARGE, -1016, PERMANENT, "too large")                                                \
    X(ERR_REFUSED, -1017, PERMANENT, "the destination refused it")                                 \
    X(ERR_NOT_DICOM, -1020, PERMANENT, "not a DICOM file")                                         \
    X(ERR_TRUNCATED, -1021, PERMANENT, "the file is cut short")                                    \
    X(ERR_NO_UID, -1022, PERMANENT, "no SOP Instance UID")                                         \
    X(ERR_HOSTILE, -1023, PERMANENT, "the DICOM reader crashed, hung or grew too large on it")     \
    X(ERR_CHANGED, -1030, TRANSIENT, "the file changed meanwhile")                                 \
    X(ERR_VANISHED, -1031, PERMANENT, "the file is gone")                                          \
    X(ERR_BUSY, -1032, TRANSIENT, "busy, try again later")                                         \
    X(ERR_CONNECT, -1040, TRANSIENT, "cannot connect")                                             \
    X(ERR_CLOSED, -1041, TRANSIENT, "the connection was lost")                                     \
    X(ERR_TIMEOUT, -1042, TRANSIENT, "no answer in time")                                          \
    X(ERR_PROTOCOL, -1043, TRANSIENT, "the server's answer is not understood")                     \
    X(ERR_SESSION, -1044, TRANSIENT, "the server no longer knows the session")                     \
    X(ERR_DISPLACED, -1045, TRANSIENT, "another client took over the session")                     \
    X(ERR_AUTH, -1050, AUTH, "the server refused the keys or the login")                           \
    X(ERR_TLS, -1051, AUTH, "the server's certificate is not trusted")                             \
    X(ERR_CANCELED, -1060, TRANSIENT, "canceled")

enum err_code {
    ERR_OK = 0,
#define X(name, code, class, text) name = code,
    ERR_MAP(X)
#undef X
};

/* A code with its message. Plain data: copy it freely. */
struct err {
    int code;
    char text[512];
};

/* The fixed text of a code ("unknown error" for others); static storage. */
const char *err_text(int code);

/* The class of a code; ERR_CLASS_NONE for 0, ERR_CLASS_PERMANENT for unknown codes. */
enum err_class err_class(int code);

/* The code for an errno value: ENOSPC and EDQUOT give ERR_NOSPACE, ENOENT ERR_VANISHED,
 * EACCES/EPERM/EROFS ERR_ACCESS, ENOMEM ERR_NOMEM, EEXIST ERR_EXISTS, all others ERR_IO. */
int err_from_errno(int errnum);

/* Fills *e (if not NULL) with code and formatted text, cut to fit; returns code. */
int err_set(struct err *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As err_set with err_from_errno(errnum); ": <strerror>" is appended to the text. */
int err_set_errno(struct err *e, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "text: " before the message that *e holds; returns e->code. */
int err_wrap(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
