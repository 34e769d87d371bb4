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

/* How one version of control groups says what a group may take: its root, where every group is a folder
 * (cgroups(7)), and its files. What is cached of files goes when memory is short. */
typedef struct {
    const char *root, *most, *used, *cached;
} groups;

static const groups VERSION_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                 "memory.usage_in_bytes", "total_inactive_file "};
static const groups VERSION_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                 "inactive_file "};

static uint64_t number_of_group(const char *folder, const char *file, const char *name) {
    char place[PATH_MAX + 32];
    snprintf(place, sizeof place, "%s/%s", folder, file);
    return number_in(place, name);
}

static uint64_t left_of_group(const groups *kind, const char *folder) {
    uint64_t most = number_of_group(folder, kind->most, "");
    if (most == UINT64_MAX) return most;
    uint64_t used = number_of_group(folder, kind->used, "");
    uint64_t cached = number_of_group(folder, "memory.stat", kind->cached);
    return less(most, cached == UINT64_MAX ? used : less(used, cached));
}

/* Of this group and all above it. In a container with a view of its own, ours is the root. */
static uint64_t left_of_groups(const groups *kind, const char *group) {
    char folder[PATH_MAX];
    const size_t root = strlen(kind->root);
    uint64_t left = UINT64_MAX;
    snprintf(folder, sizeof folder, "%s%s", kind->root, group);
    for (char *end = folder + strlen(folder); end != NULL && (size_t)(end - folder) >= root;
         end = strrchr(folder, '/')) {
        *end = 0;
        uint64_t here = left_of_group(kind, folder);
        if (here < left) left = here;
    }
    return left;
}

/* Is it in a list with commas? */
static bool names_memory(const char *list) {
    const size_t len = strlen("memory");
    for (const char *at = list; (at = strstr(at, "memory")) != NULL; at += len) {
        bool begins = at == list || at[-1] == ',';
        if (begins && (at[len] == 0 || at[len] == ',')) return true;
    }
    return false;
}

/* A line of /proc/self/cgroup is NUMBER:CONTROLLERS:GROUP, without controllers in version 2. Changes it. */
static uint64_t left_by_line(char *line) {
    char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
    if (group == NULL || group[1] != '/') return UINT64_MAX;
    group[strcspn(group, "\n")] = 0;
    *group = 0;
    const groups *kind = list[1] == 0 ? &VERSION_2 : &VERSION_1;
    if (list[1] != 0 && !names_memory(list + 1)) return UINT64_MAX;
    return left_of_groups(kind, group + 1);
}

static uint64_t left_of_all_groups(void) {
    char line[PATH_MAX - 32];
    uint64_t left = left_of_groups(&VERSION_2, "");
    FILE *stream = fopen("/proc/self/cgroup", "re");
    while (stream && fgets(line, sizeof line, stream)) {
        uint64_t here = left_by_line(line);
        if (here < left) left = here;
    }
    if (stream) fclose(stream);
    return left;
}

uint64_t memory_left(void) {
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:");
    uint64_t left = machine == UINT64_MAX ? machine : machine * 1024;
    uint64_t limit = left_of_limit(), grouped = left_of_all_groups();
    if (limit < left) left = limit;
    return grouped < left ? grouped : left;
}
