/* How much memory this process may still take, as the system tells it. */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/resource.h>

/* The number behind `name` in a file of such lines, or at its start where that is empty; UINT64_MAX where
 * there is none: no limit. */
static uint64_t number_in(const char *file, const char *name) {
    char line[256];
    size_t len = strlen(name);
    uint64_t value = UINT64_MAX;
    FILE *stream = fopen(file, "re");
    if (stream == NULL) return value;
    while (value == UINT64_MAX && fgets(line, sizeof line, stream)) {
        char *end = line;
        if (strncmp(line, name, len) != 0) continue;
        unsigned long long number = strtoull(line + len, &end, 10);
        if (end != line + len) value = number;
    }
    fclose(stream);
    return value;
}

static uint64_t less(uint64_t most, uint64_t used) { return most > used ? most - used : 0; }

/* proc(5), /proc/self/statm: the first number is the size in pages. */
static uint64_t left_of_limit(void) {
    struct rlimit most;
    uint64_t pages = number_in("/proc/self/statm", "");
    if (getrlimit(RLIMIT_AS, &most) != 0 || most.rlim_cur == RLIM_INFINITY || pages == UINT64_MAX)
        return UINT64_MAX;
    return less(most.rlim_cur, pages * (uint64_t)sysconf(_SC_PAGESIZE));
}

/* Of one control group, version 2; what is cached of files goes when memory is short. */
static uint64_t left_of_group(const char *folder) {
    char name[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s/memory.max", folder);
    uint64_t most = number_in(name, "");
    if (most == UINT64_MAX) return most;
    snprintf(name, sizeof name, "%s/memory.current", folder);
    uint64_t used = number_in(name, "");
    snprintf(name, sizeof name, "%s/memory.stat", folder);
    uint64_t cached = number_in(name, "inactive_file ");
    return less(most, cached == UINT64_MAX ? used : less(used, cached));
}

/* Of our control group and all above it. In a container with a view of its own, ours is the root. */
static uint64_t left_of_groups(void) {
    char folder[PATH_MAX] = "/sys/fs/cgroup", line[PATH_MAX - 32];
    const size_t root = strlen(folder);
    uint64_t left = UINT64_MAX;
    FILE *stream = fopen("/proc/self/cgroup", "re");
    while (stream && fgets(line, sizeof line, stream)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::/", 4) == 0)
            snprintf(folder + root, sizeof folder - root, "%s", line + 3);
    }
    if (stream) fclose(stream);
    for (char *end = folder + strlen(folder); end != NULL && (size_t)(end - folder) >= root;
         end = strrchr(folder, '/')) {
        *end = 0;
        uint64_t here = left_of_group(folder);
        if (here < left) left = here;
    }
    return left;
}

uint64_t memory_left(void) {
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:");
    uint64_t left = machine == UINT64_MAX ? machine : machine * 1024;
    uint64_t limit = left_of_limit(), groups = left_of_groups();
    if (limit < left) left = limit;
    return groups < left ? groups : left;
}
