/* Preloaded into a process: the n-th operation on a path below a folder fails, or is the process's last.

   Read from the environment at each call, so that a forked child can set them:
     FAULT_BELOW  the folder; without it nothing is counted
     FAULT_OPS    which operations count: o open to read, c open to write, w write, s fsync, r rename, m mkdir,
                  u unlink and rmdir, p chmod
     FAULT_AT     which of them fails, from 1 on; 0: none, they are only counted
     FAULT_ERROR  the errno; 0: the process is killed, and a write is cut in half before
     FAULT_ON     if set, all later ones fail too */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long counted, counted_of[128];

long faults_counted(char op) { return counted_of[(int)op]; }

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int below(int folder, const char *path) {
    const char *wanted = getenv("FAULT_BELOW");
    char whole[2 * PATH_MAX], link[64];
    if (!wanted) return 0;
    if (path && path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        ssize_t length;
        if (folder == AT_FDCWD) {
            if (!getcwd(whole, PATH_MAX)) return 0;
            length = strlen(whole);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            length = readlink(link, whole, PATH_MAX);
            if (length < 0) return 0;
        }
        snprintf(whole + length, sizeof whole - length, "%s%s", path ? "/" : "", path ? path : "");
    }
    size_t length = strlen(wanted);
    return !strncmp(whole, wanted, length) && (whole[length] == '/' || !whole[length]);
}

/* Whether this operation is to fail; errno says how. `half` are bytes to write before a kill. */
static int fails(char op, int folder, const char *path, const void *half, size_t size) {
    int kept = errno;
    const char *ops = getenv("FAULT_OPS");
    if (!ops || !strchr(ops, op) || !below(folder, path)) { errno = kept; return 0; }
    long at = number("FAULT_AT");
    counted++;
    counted_of[(int)op]++;
    if (!at || counted < at || (counted > at && !getenv("FAULT_ON"))) { errno = kept; return 0; }
    const char *log = getenv("FAULT_LOG");
    if (log) {
        static int (*opens)(const char *, int, ...);
        static ssize_t (*writes)(int, const void *, size_t);
        if (!opens) opens = dlsym(RTLD_NEXT, "open");
        if (!writes) writes = dlsym(RTLD_NEXT, "write");
        char line[2 * PATH_MAX], link[64], name[PATH_MAX] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        if (!path && readlink(link, name, sizeof name - 1) < 0) name[0] = 0;
        int length = snprintf(line, sizeof line, "%c %s\n", op, path ? path : name);
        int file = opens(log, O_WRONLY | O_APPEND | O_CREAT, 0666);
        if (file >= 0) { if (writes(file, line, length)) {} close(file); }
    }
    errno = number("FAULT_ERROR");
    if (!errno) {
        if (half) {
            static ssize_t (*writes)(int, const void *, size_t);
            if (!writes) writes = dlsym(RTLD_NEXT, "write");
            if (writes(folder, half, size / 2)) {}
        }
        kill(getpid(), SIGKILL);
    }
    return 1;
}

#define REAL(result, name, ...)                                                                                        \
    static result (*real)(__VA_ARGS__);                                                                                \
    if (!real) real = dlsym(RTLD_NEXT, name)

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, #name, const char *, int, ...);                                                                      \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        return fails(flags & O_ACCMODE ? 'c' : 'o', AT_FDCWD, path, NULL, 0) ? -1 : real(path, flags, mode);            \
    }
#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(int, #name, int, const char *, int, ...);                                                                 \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        return fails(flags & O_ACCMODE ? 'c' : 'o', folder, path, NULL, 0) ? -1 : real(folder, path, flags, mode);      \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fails('w', file, NULL, bytes, size) ? -1 : real(file, bytes, size);
}
ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return fails('w', file, NULL, NULL, 0) ? -1 : real(file, parts, number);
}
int posix_fallocate(int file, off_t from, off_t size) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return fails('w', file, NULL, NULL, 0) ? errno : real(file, from, size);
}
int posix_fallocate64(int file, off64_t from, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    return fails('w', file, NULL, NULL, 0) ? errno : real(file, from, size);
}
int ftruncate64(int file, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return fails('w', file, NULL, NULL, 0) ? -1 : real(file, size);
}
int fsync(int file) {
    REAL(int, "fsync", int);
    return fails('s', file, NULL, NULL, 0) ? -1 : real(file);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails('r', AT_FDCWD, to, NULL, 0) ? -1 : real(from, to);
}
int renameat(int before, const char *from, int after, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return fails('r', after, to, NULL, 0) ? -1 : real(before, from, after, to);
}
int renameat2(int before, const char *from, int after, const char *to, unsigned int flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned int);
    return fails('r', after, to, NULL, 0) ? -1 : real(before, from, after, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return fails('m', AT_FDCWD, path, NULL, 0) ? -1 : real(path, mode);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return fails('u', AT_FDCWD, path, NULL, 0) ? -1 : real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return fails('u', folder, path, NULL, 0) ? -1 : real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return fails('u', AT_FDCWD, path, NULL, 0) ? -1 : real(path);
}
int chmod(const char *path, mode_t mode) {
    REAL(int, "chmod", const char *, mode_t);
    return fails('p', AT_FDCWD, path, NULL, 0) ? -1 : real(path, mode);
}
int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    REAL(int, "fchmodat", int, const char *, mode_t, int);
    return fails('p', folder, path, NULL, 0) ? -1 : real(folder, path, mode, flags);
}
