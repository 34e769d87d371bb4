/* ACL LOAD, so that it takes none of the policy's users away. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- ACL LOAD ----
 *
 * The server's own puts the users of its file in place of all that there are. Ours would be gone, and
 * clients closed: before Redis 7.4 and Valkey 8 those of every user but `default`, later those whose user
 * is not in the file (acl.c, ACLLoadFromFile). So it becomes CERTAUTH.ACL LOAD, which makes the operator's
 * users what the file says, one by one, and touches no user of ours. */

/* On which rules are tried; it is there only while that is done. */
static const char TRIAL[] = "certauth-acl-load";

typedef struct {
    text_buffer file;
    RedisModuleDict *names; /* of the users in it */
    fault why;
} acl_file;

/* Not what may be said of it: the policy's, the bootstrap file's, or what we made of `default`. */
static bool is_ours(span name) {
    const regime now = regime_now();
    return is_managed(&now, name) ||
           RedisModule_DictGetC(node.managed, (void *)(uintptr_t)name.ptr, name.len, NULL);
}

static bool read_acl_file(text_buffer *b, fault *why) {
    static char bytes[1 << 16];
    char name[PATH_MAX];
    if (!config_get("aclfile", name, sizeof name) || name[0] == 0)
        return fail(why, "there is no aclfile");
    FILE *file = fopen(name, "re");
    if (file == NULL)
        return fail(why, "Error loading ACLs, opening file '%.120s': %s", name, strerror(errno));
    for (size_t len; (len = fread(bytes, 1, sizeof bytes, file)) > 0;)
        text_add(b, span_of(bytes, len));
    bool good = !ferror(file);
    fclose(file);
    return good || fail(why, "Error loading ACLs, reading file '%.120s'", name);
}

/* The next word, as the server cuts a line: at blanks, and what is at its ends taken off. */
static span next_acl_word(span *line) {
    span word = {0};
    while (word.len == 0 && line->len) {
        const uint8_t *blank = memchr(line->ptr, ' ', line->len);
        word = span_of(line->ptr, blank ? (size_t)(blank - line->ptr) : line->len);
        *line = span_skip(*line, word.len + (blank != NULL));
        while (word.len && memchr("\t\r", word.ptr[0], 2)) word = span_skip(word, 1);
        while (word.len && memchr("\t\r", word.ptr[word.len - 1], 2)) word.len--;
    }
    return word;
}

/* What stands behind a name, for ACL SETUSER; to be freed. */
static text_buffer acl_rules(span line) {
    text_buffer rules = {NULL, 0};
    text_add(&rules, LITERAL("reset"));
    for (span one; (one = next_acl_word(&line)).len;) {
        text_add(&rules, LITERAL(" "));
        text_add(&rules, one);
    }
    return rules;
}

/* Nothing that ACL SETUSER would refuse (acl.c, ACLStringHasSpaces); a blank is in no word. */
static bool is_acl_name(span name) {
    static const char wrong[] = "\t\r\v\f"; /* and NUL */
    for (size_t i = 0; i < name.len; i++) {
        if (memchr(wrong, name.ptr[i], sizeof wrong)) return false;
    }
    return name.len > 0;
}

static bool set_acl_user(acl_file *f, span name, span line, span more) {
    text_buffer rules = acl_rules(line);
    text_add(&rules, more);
    bool good = call("ACL", "SETUSER", name, span_of(rules.text, rules.len), &f->why);
    free(rules.text);
    return good;
}

/* A copy of a user of ours says nothing of the operator's users, one of the same name included. */
static bool is_copy(span line) {
    for (span one; (one = next_acl_word(&line)).len;) {
        if (span_equal(one, LITERAL("#" MARK))) return true;
    }
    return false;
}

/* Is it a line that the server could load? Its rules are tried on a user of ours; see try_acl. */
static bool try_acl_line(acl_file *f, span word, span name, span line) {
    void *key = (void *)(uintptr_t)name.ptr;
    int shown = name.len < 80 ? (int)name.len : 80;
    if (!span_equal(word, LITERAL("user")) || !is_acl_name(name))
        return fail(&f->why, "should start with user keyword followed by the username");
    if (RedisModule_DictSetC(f->names, key, name.len, NULL) != REDISMODULE_OK)
        return fail(&f->why, "Duplicate user '%.*s' found", shown, (const char *)name.ptr);
    return is_ours(name) || is_copy(line) ||
           set_acl_user(f, text_span(TRIAL), line, LITERAL(" resetchannels"));
}

static bool take_acl_line(acl_file *f, span word, span name, span line) {
    (void)word;
    return is_ours(name) || is_copy(line) || set_acl_user(f, name, line, LITERAL(""));
}

/* False at the first line that `take` does not take; that is told with its number. */
static bool each_acl_line(acl_file *f, bool (*take)(acl_file *, span word, span name, span line)) {
    span rest = span_of(f->file.text, f->file.len);
    for (size_t number = 1; rest.len; number++) {
        const uint8_t *newline = memchr(rest.ptr, '\n', rest.len);
        span line = span_of(rest.ptr, newline ? (size_t)(newline - rest.ptr) : rest.len);
        rest = span_skip(rest, line.len + (newline != NULL));
        span word = next_acl_word(&line), name = next_acl_word(&line);
        if (word.len == 0 || take(f, word, name, line)) continue;
        fault why = f->why;
        return fail(&f->why, "line %zu of the ACL file: %.180s", number, why.text);
    }
    return true;
}

static void drop_unlisted_user(span name, void *data) {
    acl_file *f = data;
    fault why;
    int missing = 0;
    RedisModule_DictGetC(f->names, (void *)(uintptr_t)name.ptr, name.len, &missing);
    if (missing && !is_ours(name) && !span_equal(name, LITERAL("default")))
        call("ACL", "DELUSER", name, span_of(NULL, 0), &why);
}

/* All of the file or nothing of it. Without a `default` of its own it brings the server's. */
static bool take_acl_file(acl_file *f) {
    fault why;
    bool good = each_acl_line(f, try_acl_line);
    call("ACL", "DELUSER", text_span(TRIAL), span_of(NULL, 0), &why);
    if (!good || !each_acl_line(f, take_acl_line)) return false;
    each_user(drop_unlisted_user, f);
    int missing = 0;
    RedisModule_DictGetC(f->names, (void *)(uintptr_t)"default", 7, &missing);
    return !missing || is_ours(LITERAL("default")) ||
           set_acl_user(f, LITERAL("default"), LITERAL("on nopass ~* &* +@all"), LITERAL(""));
}

int acl_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    char text[320];
    if (argc != 2 || !string_is(argv[1], "LOAD")) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "LOAD")) return deny(ctx, "LOAD");
    acl_file f = {.names = RedisModule_CreateDict(NULL)};
    bool good = read_acl_file(&f.file, &f.why) && take_acl_file(&f);
    RedisModule_FreeDict(NULL, f.names);
    free(f.file.text);
    if (good) return RedisModule_ReplyWithSimpleString(ctx, "OK");
    snprintf(text, sizeof text, "ERR %s. Nothing was changed", f.why.text);
    return RedisModule_ReplyWithError(ctx, text);
}

/* Has this client logged in? One that has not is `default`; so is one that has, as `default`. */
static bool has_surely_logged_in(uint64_t id) {
    const regime now = regime_now();
    RedisModuleString *name = RedisModule_GetClientUserNameById(node.ctx, id);
    bool sure = name && (!span_equal(string_span(name), LITERAL("default")) ||
                         (default_is_free(&now) && !default_is_off(&now)));
    if (name) RedisModule_FreeString(node.ctx, name);
    return sure;
}

/* For those who may ACL LOAD, and perhaps not this command: the server is not to ask about it, and then
 * does not ask either whether the client has logged in. */
int acl_load_unasked(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return has_surely_logged_in(RedisModule_GetClientId(ctx))
               ? acl_load(ctx, argv, argc)
               : RedisModule_ReplyWithError(ctx, "NOAUTH Authentication required.");
}

/* Before 7.2 it is not known here whose command it is: where `default` has a password, the server asks
 * about our command. */
static bool must_ask(RedisModuleCommandFilterCtx *filter) {
    const regime now = regime_now();
    if (RedisModule_CommandFilterGetClientId == NULL) return !default_is_free(&now);
    return !has_surely_logged_in(RedisModule_CommandFilterGetClientId(filter));
}

static void on_acl_load(RedisModuleCommandFilterCtx *filter) {
    const RedisModuleString *word = RedisModule_CommandFilterArgGet(filter, 0);
    if (word == NULL || !string_is(word, "ACL")) return;
    const RedisModuleString *verb = RedisModule_CommandFilterArgGet(filter, 1);
    if (verb == NULL || !string_is(verb, "LOAD")) return;
    if (RedisModule_CommandFilterArgGet(filter, 2)) return; /* the server knows what is wrong */
    const char *ours = must_ask(filter) ? "certauth.acl" : "certauth.acl_load";
    RedisModule_CommandFilterArgReplace(filter, 0, string_of(text_span(ours)));
}

/* The filter costs every command a little, so it is there only where ACL LOAD is: an `aclfile` is set
 * before the start or never. */
void watch_acl_load(RedisModuleCtx *ctx) {
    char name[PATH_MAX];
    if (config_get("aclfile", name, sizeof name) && name[0])
        RedisModule_RegisterCommandFilter(ctx, on_acl_load, 0);
}
