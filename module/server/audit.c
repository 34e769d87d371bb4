/* Does each client still hold what it may? A walk over all sessions. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

/* True where it had to be closed. */
bool audit_session(session *s) {
    const regime now = regime_now();
    decision d = decide(s, &now);
    if (may_stay(&now, s, &d)) return false;
    RedisModule_Log(node.ctx, "notice",
                    "client %llu closed: its certificate does not allow that user (%s)",
                    (unsigned long long)s->id, reason_name(d.why));
    end_session(s, "strayed", d.why);
    return true;
}

/* Does it still have the user that it was given, or none that matters? Without a decision. */
static bool is_as_it_was(const session *s) {
    RedisModuleString *name = RedisModule_GetClientUserNameById(node.ctx, s->id);
    span user = name ? string_span(name) : span_of(NULL, 0);
    bool same = s->local || s->closing || user.len == 0 ||
                (s->user ? span_equal(user, string_span(s->user))
                         : s->act == ACTION_LEAVE && span_equal(user, LITERAL("default")));
    if (name) RedisModule_FreeString(node.ctx, name);
    return same;
}

/* It may have AUTH in its queue, or HELLO. */
static bool in_multi(const session *s) {
    RedisModuleClientInfo client = {.version = 1};
    return RedisModule_GetClientInfoById(&client, s->id) == REDISMODULE_OK &&
           client.flags & REDISMODULE_CLIENTINFO_FLAG_MULTI;
}

/* Looks at live sessions for a slice, going on where it stopped: each is what it may be, whatever it did
 * that nobody told us of. True where there are more. */
bool audit(const slice *now) {
    static bool queued;
    uint64_t from = session_key(node.audited);
    session *s = NULL;
    bool more;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.sessions, ">", &from, sizeof from);
    if (node.audited == 0) queued = false;
    while ((more = RedisModule_DictNextC(at, NULL, (void **)&s) != NULL) && slice_goes_on(now)) {
        node.audited = s->id;
        queued = queued || (node.auth_queued && in_multi(s));
        if (!is_as_it_was(s)) audit_session(s);
    }
    RedisModule_DictIteratorStop(at);
    if (more) return true;
    node.audited = 0;
    node.auth_queued = queued || node.audit_again;
    return false;
}

/* All sessions, from the first on. */
bool audit_all(const slice *now) {
    if (!node.audit_due || audit(now)) return node.audit_due;
    node.audit_due = node.audit_again;
    node.audit_again = false;
    return node.audit_due;
}

void ask_for_audit(void) {
    if (node.audit_due) node.audit_again = true;
    else node.audited = 0;
    node.audit_due = true;
    act_in(0);
}
