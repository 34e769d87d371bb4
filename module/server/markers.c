/* The files that tell a lost journal from a first start. */
#define _XOPEN_SOURCE 700
#include "server.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <fcntl.h>
#include <sys/stat.h>

static bool sync_file(const char *name, int flags) {
    int file = open(name, flags | O_CLOEXEC, 0600);
    bool good = file >= 0 && fsync(file) == 0;
    int error = errno;
    if (file >= 0) close(file);
    errno = error;
    return good;
}

static bool make_marker(const char *name) {
    char parent[sizeof node.markers[0]];
    if (access(name, F_OK) == 0) return true;
    snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(name, '/') - name), name);
    return sync_file(name, O_WRONLY | O_CREAT | O_NOFOLLOW) &&
           sync_file(parent[0] ? parent : "/", O_RDONLY);
}

/* They stand beside the journal's directory, so that they outlive that: a volume not mounted. Where a
 * symbolic link leads to it, beside both; and one of the two may be where we are not to write. */
bool make_markers(fault *why) {
    bool there = make_marker(node.markers[0]);
    int error = errno;
    there = make_marker(node.markers[1]) || there;
    return there ||
           fail(why, "cannot write %.120s: %s (it tells a lost journal from a first install)",
                node.markers[0], strerror(error));
}

/* The sender has its user again, if its certificate still is that user. */
void come_back(RedisModuleCtx *ctx, write_order *order) {
    session *s = order->sender_user ? session_find(order->sender) : NULL;
    if (s == NULL) return;
    span user = string_span(order->sender_user);
    const regime now = regime_now();
    decision d = decide(s, &now);
    if (permits(&now, &d, user) && become(ctx, s, user)) {
        set_end(s, &d);
    } else {
        order->close_sender = true;
        order->closed++;
    }
    RedisModule_FreeString(NULL, order->sender_user);
    order->sender_user = NULL;
}

/* Beside the path as it was given, which a symbolic link may have taken since. */
static bool name_marker(const char *given) {
    char here[PATH_MAX] = "";
    size_t len = strlen(given), room = sizeof node.markers[1];
    while (len > 1 && given[len - 1] == '/') len--;
    if (given[0] != '/' && getcwd(here, sizeof here) == NULL) return false;
    return (size_t)snprintf(node.markers[1], room, "%s%s%.*s.enrolled", here, here[0] ? "/" : "",
                            (int)len, given) < room;
}

/* Of the markers that are there, the first; or NULL. */
const char *found_marker(void) {
    for (size_t i = 0; i < 2; i++) {
        if (access(node.markers[i], F_OK) == 0) return node.markers[i];
    }
    return NULL;
}

bool set_directory(span path_text, fault *why) {
    char given[PATH_MAX];
    if (path_text.len == 0 || path_text.len >= sizeof given)
        return fail(why, "the path of the journal is too long");
    memcpy(given, path_text.ptr, path_text.len);
    given[path_text.len] = 0;
    if (mkdir(given, 0700) != 0 && errno != EEXIST) {
        return fail(why, "cannot make the directory %.160s: %s", given, strerror(errno));
    }
    if (realpath(given, node.directory) == NULL)
        return fail(why, "%.160s: %s", given, strerror(errno));
    snprintf(node.trust, sizeof node.trust, "%s/ca", node.directory);
    snprintf(node.markers[0], sizeof node.markers[0], "%s.enrolled", node.directory);
    if (!name_marker(given)) return fail(why, "the path of the journal is too long");
    if (mkdir(node.trust, 0755) == 0 || errno == EEXIST) return true;
    return fail(why, "cannot make the directory %.160s: %s", node.trust, strerror(errno));
}
