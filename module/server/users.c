/* The server's ACL users, and what the policy makes of them. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdlib.h>

/* ---- The server's users ---- */

void text_add(text_buffer *b, span s) {
    b->text = must(realloc(b->text, b->len + s.len + 1));
    if (s.len) memcpy(b->text + b->len, s.ptr, s.len);
    b->len += s.len;
    b->text[b->len] = 0;
}

/* The server's user, to be freed with FreeModuleUser, which frees the handle; NULL: there is none. */
static RedisModuleUser *user_handle(span name) {
    RedisModuleString *text = string_of(name);
    RedisModuleUser *user = RedisModule_GetModuleUserFromUserName(text);
    RedisModule_FreeString(NULL, text);
    return user;
}

static bool server_has(span name) {
    RedisModuleUser *user = user_handle(name);
    if (user) RedisModule_FreeModuleUser(user);
    return user != NULL;
}

/* The ACL rules of a user as the server tells them, to be freed; NULL where there is no such user. */
RedisModuleString *user_rules(span name) {
    RedisModuleUser *user = user_handle(name);
    RedisModuleString *rules = user ? RedisModule_GetModuleUserACLString(user) : NULL;
    if (user) RedisModule_FreeModuleUser(user);
    return rules;
}

/* ACLDescribeUser starts with the flags, `on` or `off` first (acl.c, ACLUserFlags). */
user_state server_user(span name) {
    RedisModuleString *rules = user_rules(name);
    if (rules == NULL) return USER_MISSING;
    bool off = span_starts(string_span(rules), LITERAL("off"));
    RedisModule_FreeString(NULL, rules);
    return off ? USER_OFF : USER_ON;
}

/* What the bootstrap file takes away from every user of the policy, put behind the rules of the user
 * and into each selector, since a selector is not touched by what stands outside of it. */
static void add_limits(text_buffer *b) {
    for (size_t i = 0; i < policy_rules(node.bootstrap); i++) {
        const rule *limit = policy_rule(node.bootstrap, i);
        span token;
        if (rule_type(limit) != LINE_LIMIT) continue;
        for (size_t at = 0; rule_acl_next(limit, &at, &token);) {
            text_add(b, LITERAL(" "));
            text_add(b, token);
        }
    }
}

/* Not `default`, which no start may remove. */
static span mark_of(const rule *line, span user) {
    bool marked = rule_type(line) != LINE_WAS && !span_equal(user, LITERAL("default"));
    return marked ? LITERAL(" #" MARK) : LITERAL("");
}

/* Takes the mark from the server's user: true where it had one. Telling its rules takes far longer. */
static bool take_mark(span name) {
    RedisModuleUser *user = user_handle(name);
    bool had =
        user && RedisModule_SetModuleUserACLString(NULL, user, "!" MARK, NULL) == REDISMODULE_OK;
    if (user) RedisModule_FreeModuleUser(user);
    return had;
}

static bool is_marked(span name) {
    RedisModuleString *rules = user_rules(name);
    bool marked = rules && has_word(string_span(rules), LITERAL("#" MARK));
    if (rules) RedisModule_FreeString(NULL, rules);
    return marked;
}

/* The ACL rules of `user` by its own line, or by the `pattern` line that makes it. */
static bool next_acl_rule(const rule *line, span user, size_t *at, span *token) {
    static uint8_t bytes[MADE_RULE_BYTES];
    return rule_type(line) == LINE_PATTERN ? rule_acl_made(line, user, at, bytes, token)
                                           : rule_acl_next(line, at, token);
}

/* What ACL SETUSER takes, blank separated. Starts from nothing, so that a line is the whole state. */
text_buffer acl_text(const rule *line, span user, bool limited) {
    text_buffer b = {NULL, 0};
    bool selector = false;
    span token;
    text_add(&b, LITERAL("reset"));
    for (size_t at = 0; next_acl_rule(line, user, &at, &token);) {
        selector = selector || token.ptr[0] == '(';
        bool closes = selector && token.ptr[token.len - 1] == ')';
        text_add(&b, LITERAL(" "));
        text_add(&b, span_of(token.ptr, token.len - (closes && limited)));
        if (closes && limited) add_limits(&b);
        if (closes && limited) text_add(&b, LITERAL(" )"));
        selector = selector && !closes;
    }
    if (limited) add_limits(&b);
    text_add(&b, mark_of(line, user));
    return b;
}

/* The answer to ACL or CONFIG with the words of `text`, to be freed; NULL: none. */
RedisModuleCallReply *answer(const char *command, const char *verb, span name, span text) {
    RedisModuleString **argv = NULL;
    size_t argc = 0;
    while (text.len) {
        argv = must(realloc(argv, (argc + 1) * sizeof *argv));
        argv[argc++] = string_of(take_word(&text));
    }
    RedisModuleCallReply *reply =
        RedisModule_Call(node.ctx, command, "cbv", verb, name.ptr, name.len, argv, argc);
    for (size_t i = 0; i < argc; i++) RedisModule_FreeString(NULL, argv[i]);
    free(argv);
    return reply;
}

/* False where the server answers with an error, whose text goes into `why`. */
bool call(const char *command, const char *verb, span name, span text, fault *why) {
    RedisModuleCallReply *reply = answer(command, verb, name, text);
    bool good = reply && RedisModule_CallReplyType(reply) != REDISMODULE_REPLY_ERROR;
    size_t len = 0;
    const char *error =
        good || reply == NULL ? "no answer" : RedisModule_CallReplyStringPtr(reply, &len);
    if (!good) fail(why, "%.*s", len ? (int)len : 9, error);
    if (reply) RedisModule_FreeCallReply(reply);
    return good;
}

/* CLIENT KILL of those that `field` names: at once, where the other way leaves them to the server. */
void kill_clients(const char *field, span value) {
    RedisModuleCallReply *reply =
        RedisModule_Call(node.ctx, "CLIENT", "ccb", "KILL", field, value.ptr, value.len);
    if (reply) RedisModule_FreeCallReply(reply);
}

/* Valkey before 9.1 has no word for "later" that its IO threads respect: one that reads for a client
 * which is to be freed later goes on as if it had read, and the server crashes (networking.c,
 * readToQueryBuf; Valkey PR 3458). From 9.0 on io-threads may be set at runtime. */
bool must_kill(void) {
    return node.is_valkey && node.version < 0x090100 &&
           (node.version >= 0x090000 || node.io_threads);
}

/* The server closes anyone who holds the user, later. */
static bool delete_user(span name, fault *why) {
    if (must_kill()) kill_clients("USER", name);
    return call("ACL", "DELUSER", name, span_of(NULL, 0), why);
}

static void forget_user(span name) {
    RedisModuleString *expected = NULL;
    if (RedisModule_DictDelC(node.managed, (void *)(uintptr_t)name.ptr, name.len, &expected) ==
        REDISMODULE_OK) {
        RedisModule_FreeString(NULL, expected);
    }
}

/* Takes `rules`: what the user looks like, to find drift by; NULL: it is not there. */
static void expect_rules(span name, RedisModuleString *rules) {
    forget_user(name);
    if (rules) RedisModule_DictSetC(node.managed, (void *)(uintptr_t)name.ptr, name.len, rules);
}

void know_user(span name) { expect_rules(name, user_rules(name)); }

/* It takes Redis 7.0 up to 1 ms to tell a user's rules: of many, at the first look, see repair_user. */
static bool tells_slowly(void) {
    return node.version < 0x070200 && RedisModule_DictSize(node.managed) > 1000;
}

/* What a user is before its rules change, if that matters to anybody: empty where it takes too long to
 * ask, NULL where nobody holds it, or what it was is known to have changed already. */
static RedisModuleString *rules_before(span name) {
    const RedisModuleString *told =
        RedisModule_DictGetC(node.managed, (void *)(uintptr_t)name.ptr, name.len, NULL);
    if (RedisModule_DictSize(node.sessions) == 0 || (told && string_span(told).len == 0))
        return NULL;
    if (!tells_slowly()) return user_rules(name);
    return server_has(name) ? string_of(span_of("", 0)) : NULL;
}

/* The rules of a user have changed: what its clients have begun is to be looked at, from the first one
 * on. Takes `before`. What changes again until then is not known any more. */
static void note_changed(span name, RedisModuleString *before) {
    void *key = (void *)(uintptr_t)name.ptr;
    const RedisModuleString *now = RedisModule_DictGetC(node.managed, key, name.len, NULL);
    bool same =
        before && now && string_span(now).len && span_equal(string_span(now), string_span(before));
    if (before && same) RedisModule_FreeString(NULL, before);
    if (before == NULL || same) return;
    rights *r = RedisModule_DictGetC(node.changed, key, name.len, NULL);
    bool again = r != NULL;
    if (again) RedisModule_FreeString(NULL, r->before);
    else RedisModule_DictSetC(node.changed, key, name.len, r = must(calloc(1, sizeof *r)));
    if (again) RedisModule_FreeString(NULL, before);
    *r = (rights){.before = again ? string_of(span_of("", 0)) : before};
    node.streams_seen = 0;
}

/* Makes the server's user what `rules` says, and keeps what that looks like, to find drift by. A user
 * that cannot be made what its line says keeps nothing of what it was. */
bool set_user(span name, span rules) {
    fault why, again;
    RedisModuleString *before = rules_before(name);
    bool good = call("ACL", "SETUSER", name, rules, &why);
    if (!good) {
        RedisModule_Log(node.ctx, "warning", "user '%.*s' could not be set and is switched off: %s",
                        (int)name.len, (const char *)name.ptr, why.text);
        bool marked = !span_equal(name, LITERAL("default"));
        call("ACL", "SETUSER", name, marked ? LITERAL("reset #" MARK) : LITERAL("reset"), &again);
    }
    if (tells_slowly()) expect_rules(name, string_of(span_of("", 0)));
    else know_user(name);
    note_changed(name, before);
    return good;
}

/* A user of the bootstrap file is not the policy's, whatever a line of it says. */
bool is_bootstrap_user(span name) { return policy_user(node.bootstrap, LINE_USER, name) != NULL; }

/* A line of a journal from before such names were refused: its user is not there, so that no file of
 * the server gets to hold it. Anyone whom it binds is refused as `user_missing`. */
bool leave_out(const rule *line, span user) {
    fault why, none;
    if (rule_lasts(line, &why)) return false;
    RedisModule_Log(node.ctx, "warning", "user '%.*s' is left out: %.200s", (int)user.len,
                    (const char *)user.ptr, why.text);
    delete_user(user, &none);
    return true;
}

void apply_user(const rule *line, bool limited) {
    span user = rule_user(line, 0);
    if (limited && (is_bootstrap_user(user) || leave_out(line, user))) return;
    text_buffer b = acl_text(line, user, limited);
    set_user(user, span_of(b.text, b.len));
    free(b.text);
}

made_user *made_find(span user) {
    return RedisModule_DictGetC(node.made, (void *)(uintptr_t)user.ptr, user.len, NULL);
}

/* Is it what its `pattern` line makes it now? */
bool is_as_made(const rule *pattern, span user) {
    const made_user *m = made_find(user);
    if (m == NULL) return false;
    text_buffer b = acl_text(pattern, user, true);
    bool same = strcmp(m->rules, b.text) == 0;
    free(b.text);
    return same;
}

/* The user as its `pattern` line makes it now. */
made_user *make_user(const rule *pattern, span user) {
    made_user *m = made_find(user);
    text_buffer b = acl_text(pattern, user, true);
    if (m && strcmp(m->rules, b.text) == 0) {
        free(b.text);
        return m;
    }
    if (m == NULL) {
        m = must(calloc(1, sizeof *m));
        RedisModule_DictSetC(node.made, (void *)(uintptr_t)user.ptr, user.len, m);
        node.idle++;
    }
    free(m->rules);
    m->rules = b.text;
    set_user(user, span_of(b.text, b.len));
    return m;
}

/* A user whose line has gone: what it was before us, or nothing. */
void undo_user(span name) {
    fault why;
    if (is_bootstrap_user(name)) return;
    const rule *was = policy_user(node.policy, LINE_WAS, name);
    if (was) {
        apply_user(was, false);
    } else if (!delete_user(name, &why)) {
        RedisModule_Log(node.ctx, "warning", "user '%.*s' could not be removed: %s", (int)name.len,
                        (const char *)name.ptr, why.text);
    }
    forget_user(name);
}

bool enforced(void) { return !damaged() && policy_setting(node.policy, SET_ENFORCE) == ENFORCE_ON; }

/* A user without sessions goes, unless a `user` line has its name now. */
static void unmake_user(span user) {
    made_user *m = NULL;
    fault why;
    RedisModule_DictDelC(node.made, (void *)(uintptr_t)user.ptr, user.len, &m);
    node.idle--;
    if (!enforced() || policy_user(node.policy, LINE_USER, user) == NULL) {
        delete_user(user, &why);
        forget_user(user);
    }
    free(m->rules);
    free(m);
}

/* A slice of them, going on where it stopped. True where there is more. */
bool unmake_idle(const slice *now) {
    enum { MOST = 64 };
    static char last[USER_BYTES];
    static size_t last_len;
    RedisModuleString *idle[MOST];
    size_t found = 0, len;
    made_user *m;
    char *name = NULL;
    if (node.idle == 0) return false;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.made, last_len ? ">" : "^", last, last_len);
    while (found < MOST && slice_goes_on(now) &&
           (name = RedisModule_DictNextC(at, &len, (void **)&m)) != NULL) {
        memcpy(last, name, last_len = len);
        if (m->sessions == 0) idle[found++] = string_of(span_of(name, len));
    }
    RedisModule_DictIteratorStop(at); /* before it is changed */
    if (name == NULL) last_len = 0;
    for (size_t i = 0; i < found; i++) {
        unmake_user(string_span(idle[i]));
        RedisModule_FreeString(NULL, idle[i]);
    }
    return name != NULL;
}

/* Calls `take` for the name of each of the server's users, which it may remove. */
void each_user(void (*take)(span name, void *data), void *data) {
    RedisModuleCallReply *reply = RedisModule_Call(node.ctx, "ACL", "c", "USERS");
    for (size_t i = 0; reply && i < RedisModule_CallReplyLength(reply); i++) {
        size_t len;
        const char *name =
            RedisModule_CallReplyStringPtr(RedisModule_CallReplyArrayElement(reply, i), &len);
        take(span_of(name, len), data);
    }
    if (reply) RedisModule_FreeCallReply(reply);
}

/* A file is saved whole, so one copy tells of all. An adopted user may be there as the operator made it. */
static void look_for_old_copies(span name) {
    static bool looked;
    if (looked || policy_user(node.policy, LINE_WAS, name) || span_equal(name, LITERAL("default")))
        return;
    looked = true;
    if (is_marked(name)) return;
    RedisModule_Log(
        node.ctx, "warning",
        "the server's own files have user '%.*s', which has a user line, as an earlier certauth "
        "or the operator made it: it would stay when the line goes. Send ACL SAVE or CONFIG "
        "REWRITE once",
        (int)name.len, (const char *)name.ptr);
}

/* A copy of what was made before a restart, and has been saved (CONFIG REWRITE, ACL SAVE): no line makes it
 * now, or a `pattern` line does when its client comes. */
static void drop_saved_user(span name, void *none) {
    fault why;
    (void)none;
    if (is_bootstrap_user(name)) return;
    if (enforced() && policy_user(node.policy, LINE_USER, name)) {
        look_for_old_copies(name);
        return;
    }
    if (!take_mark(name) && !(enforced() && policy_owns_word(node.policy, name))) return;
    RedisModule_Log(node.ctx, "notice",
                    "user '%.*s' was in the server's files and has been removed: a line had made "
                    "it, or a pattern "
                    "line makes it",
                    (int)name.len, (const char *)name.ptr);
    delete_user(name, &why);
}

/* An adopted user without its line was given back, and perhaps is in the server's files as the line had it:
 * its note stays until a start finds that it is not. */
static void give_back_again(const rule *was) {
    span name = rule_user(was, 0);
    if (enforced() && policy_user(node.policy, LINE_USER, name)) return;
    if (take_mark(name)) apply_user(was, false);
    else RedisModule_DictSetC(node.spent, (void *)(uintptr_t)name.ptr, name.len, NULL);
}

/* The users that the server has read from its files are the operator's, or have a line. */
void clean_saved_users(void) {
    for (size_t i = 0; i < policy_rules(node.policy); i++) {
        const rule *r = policy_rule(node.policy, i);
        if (rule_type(r) == LINE_WAS) give_back_again(r);
    }
    each_user(drop_saved_user, NULL);
}

const char *journal_state(void) {
    const char *damage = node.journal && damaged() ? journal_damage(node.journal) : NULL;
    if (damaged()) return damage ? damage : node.damage.text;
    return node.lost.text[0] ? node.lost.text : "ok";
}
