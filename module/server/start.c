/* The journal and the bootstrap file, read at a start. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <errno.h>
#include <stdio.h>

/* A journal that is not there although it must be, or that cannot be read, is not an empty policy. */
void open_journal(span path_text) {
    fault why;
    if (!set_directory(path_text, &why)) {
        node.damage = why;
        return;
    }
    node.journal = journal_open(node.directory, node.policy, &node.stamp, &why);
    if (node.journal == NULL) {
        node.damage = why;
        return;
    }
    const char *damage = journal_damage(node.journal), *notice = journal_notice(node.journal);
    if (damage) fail(&node.damage, "%s", damage);
    if (notice) RedisModule_Log(node.ctx, "warning", "%s", notice);
    node.ever = !journal_empty(node.journal);
    for (size_t i = 0; i < policy_rules(node.policy); i++)
        node.memory += line_memory(policy_rule(node.policy, i));
    const char *marker = damage || node.ever ? NULL : found_marker();
    if (marker) {
        fail(&node.damage,
             "%.120s/policy is gone or empty, but %.80s says that it was there: bring it back, "
             "or remove that file",
             node.directory, marker);
    }
    if (node.ever && damage == NULL && !make_markers(&why))
        RedisModule_Log(node.ctx, "warning", "%s", why.text);
}

/* Only when our own commands are known: the file gives them to somebody. */
static bool check_bootstrap(const char *name, fault *why) {
    fault error;
    for (size_t i = 0; i < policy_rules(node.bootstrap); i++) {
        const rule *r = policy_rule(node.bootstrap, i);
        if ((rule_type(r) != LINE_USER && rule_type(r) != LINE_LIMIT) ||
            try_acl(r, rule_user(r, 0), false, &error))
            continue;
        return fail(why, "%.80s, line %u: %.130s (modules it names come before this one)", name,
                    r->number, error.text);
    }
    return true;
}

/* Not by getline(3): what libc allocates may come from the server's allocator, and our free is libc's
 * where the module is bound to it first (Valkey 8.1: RTLD_DEEPBIND). */
static span read_file(const char *name, char *bytes, size_t room, fault *why) {
    FILE *file = fopen(name, "re");
    size_t len = file ? fread(bytes, 1, room, file) : 0;
    bool good = file && !ferror(file);
    int error = errno;
    if (file) fclose(file);
    if (good && len < room) return span_of(bytes, len);
    fail(why, "cannot read the bootstrap file %.160s: %s", name,
         good ? "it is too large" : strerror(error));
    return span_of(NULL, 0);
}

static void add_bootstrap_lines(patch *change, span text) {
    for (size_t number = 1; text.len; number++) {
        const uint8_t *newline = memchr(text.ptr, '\n', text.len);
        size_t len = newline ? (size_t)(newline - text.ptr) : text.len;
        if (len && text.ptr[0] != '#') patch_add(change, span_of(text.ptr, len), number);
        text = span_skip(text, len + (newline != NULL));
    }
}

bool read_bootstrap(const char *name, fault *why) {
    static char bytes[1 << 20];
    size_t number;
    span text = read_file(name, bytes, sizeof bytes, why);
    if (text.ptr == NULL) return false;
    patch *change = patch_new(node.bootstrap, FROM_BOOTSTRAP);
    add_bootstrap_lines(change, text);
    if (patch_finish(change, true)) {
        policy_commit(node.bootstrap, change);
        patch_free(change);
        return check_bootstrap(name, why);
    }
    const char *problem = patch_problem_text(change, 0, &number);
    fail(why, "%.80s, line %zu: %.140s", name, number, problem);
    patch_free(change);
    return false;
}
