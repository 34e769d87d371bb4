/* Faults of the disk and of the clock, for a process that has this in LD_PRELOAD. What is wrong is
 * said by files in the folder $FAULTS, see faults.py: it may change while the process runs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const char *path_of(const char *name, char out[4096]) {
    snprintf(out, 4096, "%s/%s", getenv("FAULTS"), name);
    return out;
}

/* Valkey loads modules so that they find libc before they find this (RTLD_DEEPBIND). */
void *dlopen(const char *file, int flags) {
    void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    return next(file, flags & ~RTLD_DEEPBIND);
}

/* ---- The disk ---- */

static int is_there(const char *name) {
    char path[4096];
    return access(path_of(name, path), F_OK) == 0;
}

/* The errno that the file of this name holds for calls on what $FAULTS_FILE ends the name of, or 0. */
static int fault(const char *name, int file) {
    const char *end = getenv("FAULTS_FILE");
    char link[64], target[4096], path[4096], text[16] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t len = readlink(link, target, sizeof target - 1);
    size_t tail = end ? strlen(end) : 0;
    if (tail == 0 || len < (ssize_t)tail || memcmp(target + len - tail, end, tail) != 0) return 0;
    if (strcmp(name, "fsync") == 0 && is_there("hold")) {
        close(open(path_of("held", path), O_WRONLY | O_CREAT, 0600));
        while (is_there("hold")) usleep(2000);
    }
    int told = open(path_of(name, path), O_RDONLY);
    if (told < 0) return 0;
    ssize_t got = read(told, text, sizeof text - 1);
    close(told);
    if (strcmp(name, "fsync") == 0) unlink(path); /* once, so that a write can be taken back */
    return got > 0 ? atoi(text) : 0;
}

int fsync(int file) {
    errno = fault("fsync", file);
    return errno ? -1 : (int)syscall(SYS_fsync, file);
}
int fdatasync(int file) {
    errno = fault("fsync", file);
    return errno ? -1 : (int)syscall(SYS_fdatasync, file);
}
ssize_t pwrite(int file, const void *bytes, size_t len, off_t at) {
    int error = fault("pwrite", file);
    /* As a disk that fills up: first the half, then nothing. */
    if (error == 0 || len > 1) return syscall(SYS_pwrite64, file, bytes, error ? len / 2 : len, at);
    errno = error;
    return -1;
}
ssize_t pwrite64(int file, const void *bytes, size_t len, off_t at) {
    return pwrite(file, bytes, len, at);
}

/* ---- libcrypto ---- */

/* Without memory for a hash, or without the algorithm. */
int EVP_DigestInit_ex(void *context, const void *digest, void *engine) {
    static int (*next)(void *, const void *, void *);
    if (is_there("digest")) return 0;
    /* Python loads libcrypto for its own module alone, where RTLD_NEXT does not find it. */
    void *handle = next ? NULL : dlopen("libcrypto.so.3", RTLD_LAZY | RTLD_NOLOAD);
    if (next == NULL)
        next = (int (*)(void *, const void *, void *))dlsym(handle ? handle : RTLD_NEXT,
                                                            "EVP_DigestInit_ex");
    return next(context, digest, engine);
}

/* ---- The clock ---- */

/* Seconds that the wall clock is ahead of the machine's. */
static int64_t ahead(void) {
    static const volatile int64_t *seconds;
    static const int64_t none;
    if (seconds == NULL) {
        char path[4096];
        int file = open(path_of("clock", path), O_RDONLY);
        void *mapped = MAP_FAILED;
        if (file >= 0) {
            mapped = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
            close(file);
        }
        seconds = mapped == MAP_FAILED ? &none : mapped;
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int bad = (int)syscall(SYS_clock_gettime, clock, out);
    if (!bad && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += ahead();
    return bad;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
