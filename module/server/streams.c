/* What a client has begun, such as MONITOR or a subscription, ends with the right to it. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- What a client has begun ---- */

/* What goes on by itself once it has begun: by its flag in CLIENT LIST, or by a count there, and the
 * commands of which one begins it. */
typedef struct {
    char flag;
    const char *count;
    const char *begin[2];
} stream;
static const stream STREAMS[] = {
    {'O', NULL, {"monitor", NULL}},
    {'S', NULL, {"psync ? -1", "sync"}},
    {'t', NULL, {"client tracking on", NULL}},
    {0, "sub=", {"subscribe x", NULL}},
    {0, "psub=", {"psubscribe x", NULL}},
    {0, "ssub=", {"ssubscribe x", NULL}},
};
enum { STREAM_KINDS = sizeof STREAMS / sizeof *STREAMS };
enum { UNTOLD = 1 << 0 | 1 << 1 }; /* MONITOR and replicas: the module API does not tell of them */

static bool has_stream(span line, const stream *kind) {
    if (kind->flag) return has_flag(line, kind->flag);
    span count = client_field(line, kind->count);
    return count.len && !span_equal(count, LITERAL("0"));
}

/* May the user run the command, whatever it is about? Of its keys and channels the server says " to
 * access the '…' key" (acl.c, ACL DRYRUN), and an error where there is no such command. */
static bool user_may_run(span user, const char *command) {
    RedisModuleCallReply *reply = answer("ACL", "DRYRUN", user, text_span(command));
    size_t len = 0;
    bool told = reply && RedisModule_CallReplyType(reply) == REDISMODULE_REPLY_STRING;
    const char *text = told ? RedisModule_CallReplyStringPtr(reply, &len) : NULL;
    char copy[512] = "";
    if (text) memcpy(copy, text, len < sizeof copy ? len : sizeof copy - 1);
    if (reply) RedisModule_FreeCallReply(reply);
    return strcmp(copy, "OK") == 0 || strstr(copy, " to access the ") != NULL;
}

/* Does each word of `before` that starts with one of these stand in `after` as well, and the selectors as
 * a whole? */
static bool keeps_words(span before, span after, const char *starts) {
    while (before.len) {
        span rest = before, word = take_word(&before);
        if (word.len && word.ptr[0] == '(')
            return rest.len <= after.len &&
                   span_equal(span_skip(after, after.len - rest.len), rest);
        if (word.len && strchr(starts, word.ptr[0]) && !has_word(after, word)) return false;
    }
    return true;
}

/* Is all that the user could reach of keys surely still there? */
static bool keeps_keys(span before, span after) {
    return before.len && keeps_words(before, after, has_word(after, LITERAL("~*")) ? "" : "~%");
}

static bool keeps_commands(span before, span after) {
    return before.len && keeps_words(before, after, "+-") && keeps_words(after, before, "+-");
}

/* May a user of the module's own run these words? */
static bool is_allowed(RedisModuleUser *user, span words) {
    RedisModuleString *argv[4];
    int argc = 0;
    while (words.len && argc < 4) argv[argc++] = string_of(take_word(&words));
    bool allowed = RedisModule_ACLCheckCommandPermissions(user, argv, argc) == REDISMODULE_OK;
    while (argc) RedisModule_FreeString(NULL, argv[--argc]);
    return allowed;
}

static bool may_begin(span user, const stream *kind) {
    return user_may_run(user, kind->begin[0]) ||
           (kind->begin[1] && user_may_run(user, kind->begin[1]));
}

/* Could these rules begin it? Where that cannot be told, they could: subscriptions depend on channels,
 * and the server splits the text at its quotes (sds.c, sdssplitargs). */
static bool could_begin(span rules, const stream *kind) {
    static const char quotes[] = {0x22, 0x27, 0}; /* of both kinds */
    bool could = rules.len == 0 || kind->count || strpbrk((const char *)rules.ptr, quotes);
    text_buffer b = {NULL, 0};
    text_add(&b, LITERAL("reset "));
    text_add(&b, rules);
    text_add(&b, LITERAL(" resetchannels")); /* as in try_acl */
    could = could ||
            RedisModule_SetModuleUserACLString(NULL, node.scratch, b.text, NULL) == REDISMODULE_ERR;
    for (size_t i = 0; !could && i < 2 && kind->begin[i]; i++)
        could = is_allowed(node.scratch, text_span(kind->begin[i]));
    free(b.text);
    return could;
}

static void judge_rights(rights *r, span user) {
    RedisModuleString *rules = user_rules(user);
    span before = string_span(r->before), after = rules ? string_span(rules) : span_of("", 0);
    r->judged = true;
    r->keys = !keeps_keys(before, after);
    r->commands = !keeps_commands(before, after);
    for (unsigned i = 0; i < STREAM_KINDS; i++) {
        const stream *kind = &STREAMS[i];
        if (could_begin(before, kind) && !may_begin(user, kind)) r->lost |= 1U << i;
    }
    if (rules) RedisModule_FreeString(NULL, rules);
}

/* What the user that a client holds has lost; NULL: nothing that is not known. */
static const rights *rights_lost(const session *s) {
    RedisModuleString *name =
        s->closing ? NULL : RedisModule_GetClientUserNameById(node.ctx, s->id);
    span user = name ? string_span(name) : span_of("", 0);
    rights *r = RedisModule_DictGetC(node.changed, (void *)(uintptr_t)user.ptr, user.len, NULL);
    if (r && !r->judged) judge_rights(r, user);
    if (name) RedisModule_FreeString(node.ctx, name);
    return r;
}

/* A command that waits is not looked at again when it goes on (7.0; later servers do). */
static bool waits_unseen(const rights *r) {
    return node.version < 0x070200 && (r->keys || r->commands);
}

/* Has it begun what its user may not any more? Not what waits for us. */
static bool has_lost(span line, const rights *r) {
    for (size_t i = 0; i < STREAM_KINDS; i++) {
        if (r->lost >> i & 1 && has_stream(line, &STREAMS[i])) return true;
    }
    return (r->keys && has_flag(line, 't')) ||
           (waits_unseen(r) && has_flag(line, 'b') &&
            !span_starts(client_field(line, "cmd="), LITERAL("certauth.")));
}

/* May has_lost be true? What the module API tells is cheaper than CLIENT LIST. */
static bool may_have_lost(const session *s, const rights *r) {
    RedisModuleClientInfo client = {.version = 1};
    if (r == NULL) return false;
    if (r->lost & UNTOLD && (s->listens || !node.stops_threads)) return true;
    if (r->lost == 0 && !r->keys && !waits_unseen(r)) return false;
    return RedisModule_GetClientInfoById(&client, s->id) == REDISMODULE_OK &&
           client.flags &
               (REDISMODULE_CLIENTINFO_FLAG_PUBSUB | REDISMODULE_CLIENTINFO_FLAG_BLOCKED |
                REDISMODULE_CLIENTINFO_FLAG_TRACKING);
}

static void end_stream(span line, void *data) {
    slice *now = data;
    session *s = session_find(client_id(line));
    const rights *r = s ? rights_lost(s) : NULL;
    if (r == NULL || !has_lost(line, r)) return;
    now->closings++;
    if (node.order) node.order->closed++;
    if (node.order && node.order->sender == s->id) node.order->close_sender = true;
    else end_session(s, "closed", s->why);
}

/* The first of them goes. False where there is none. */
static bool forget_changed(void) {
    size_t len;
    rights *r;
    RedisModuleDictIter *at = RedisModule_DictIteratorStartC(node.changed, "^", NULL, 0);
    const char *key = RedisModule_DictNextC(at, &len, (void **)&r);
    RedisModuleString *name = key ? string_of(span_of(key, len)) : NULL;
    RedisModule_DictIteratorStop(at);
    if (name == NULL) return false;
    RedisModule_DictDelC(node.changed, (void *)(uintptr_t)string_span(name).ptr, len, NULL);
    RedisModule_FreeString(NULL, r->before);
    RedisModule_FreeString(NULL, name);
    free(r);
    return true;
}

static RedisModuleString *id_text(uint64_t id) {
    char text[24];
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)id);
    return string_of(span_of(text, (size_t)len));
}

/* The next sessions that may have lost what they have begun, up to `most`; how many. */
static size_t next_to_ask(RedisModuleString **ids, size_t most, const slice *now, bool *more) {
    uint64_t from = session_key(node.streams_seen);
    size_t found = 0;
    session *s = NULL;
    *more = true;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.sessions, ">", &from, sizeof from);
    while (found < most && slice_goes_on(now) &&
           (*more = RedisModule_DictNextC(at, NULL, (void **)&s) != NULL)) {
        node.streams_seen = s->id;
        if (may_have_lost(s, rights_lost(s))) ids[found++] = id_text(s->id);
    }
    RedisModule_DictIteratorStop(at);
    return found;
}

/* Looks at sessions whose user's rules have changed, for a slice: what they had begun must not go on
 * where the right to it is gone, for the server asks about rights only when something begins. True where
 * there is more. */
bool end_streams(slice *now) {
    enum { MOST = 8 };
    RedisModuleString *ids[MOST];
    bool more = RedisModule_DictSize(node.changed) > 0;
    while (more && node.streams_seen != UINT64_MAX && slice_goes_on(now)) {
        size_t found = next_to_ask(ids, MOST, now, &more);
        if (found) each_client_of(ids, found, end_stream, now);
        while (found) RedisModule_FreeString(NULL, ids[--found]);
        if (!more) node.streams_seen = UINT64_MAX; /* all were looked at */
    }
    while (node.streams_seen == UINT64_MAX && slice_goes_on(now) && forget_changed()) continue;
    return RedisModule_DictSize(node.changed) > 0;
}

static void find_stream(span line, void *found) {
    for (size_t i = 0; i < STREAM_KINDS; i++) {
        if (has_stream(line, &STREAMS[i])) *(bool *)found = true;
    }
}

/* May it become another user? Not with what it has begun as its present user: that would go on as the
 * other's. */
bool may_switch(const session *s, span user, fault *why) {
    RedisModuleString *name = RedisModule_GetClientUserNameById(node.ctx, s->id);
    bool same = name && span_equal(string_span(name), user), begun = false;
    RedisModuleString *id = id_text(s->id);
    if (!same) each_client_of(&id, 1, find_stream, &begun);
    RedisModule_FreeString(NULL, id);
    if (name) RedisModule_FreeString(node.ctx, name);
    return !begun || fail(why, "what this connection has begun (MONITOR, replication, tracking, "
                               "subscriptions) is another user's: send RESET first");
}
