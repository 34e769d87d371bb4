/* AUTH, RESET and CERTAUTH.LOGIN. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>

/* ---- AUTH, RESET and choosing ---- */

/* Becomes `user`, or the only one there is where it is empty; else says why not. */
bool choose(RedisModuleCtx *ctx, session *s, span user, fault *why) {
    const regime now = regime_now();
    decision d = s ? decide(s, &now) : (decision){0};
    if (user.len == 0 && d.act == ACTION_LOGIN) user = decision_user(&d, 0);
    if (user.len == 0)
        return fail(why, "say which user: this certificate may be several, or none (%s)",
                    reason_name(d.why));
    if (!permits(&now, &d, user)) {
        return fail(why, "this certificate may not be that user (%s)", reason_name(d.why));
    }
    if (!may_switch(s, user, why)) return false;
    if (!become(ctx, s, user)) return fail(why, "that user is off, gone, or about to change");
    s->act = ACTION_LOGIN;
    s->why = d.why;
    node.logins++;
    set_end(s, &d);
    record(s, "login", d.why, user);
    return true;
}

/* A replica with `masterauth` sends it, and gives its link up if it is refused: it stays what it is. */
static bool keep_peer(RedisModuleCtx *ctx, const regime *r, session *s, const decision *d) {
    if (!is_peer(d) || s->user == NULL) return false;
    RedisModuleString *user = string_of(string_span(s->user));
    bool kept = permits(r, d, string_span(user)) && become(ctx, s, string_span(user));
    RedisModule_FreeString(NULL, user);
    return kept;
}

/* The server asks before it looks at a password (7.2 and later), for AUTH and HELLO alike. */
int on_auth(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString *password,
            RedisModuleString **error) {
    (void)password, (void)error;
    session *s = session_find(RedisModule_GetClientId(ctx));
    span user = string_span(name);
    if (s == NULL || s->local) return REDISMODULE_AUTH_NOT_HANDLED;
    const regime now = regime_now();
    decision d = decide(s, &now);
    fault why;
    bool by_password =
        !permits(&now, &d, user) && !is_managed(&now, user) && may_become(&now, s, &d, user);
    if (by_password && (s->leaf == NULL || may_switch(s, user, &why)))
        return REDISMODULE_AUTH_NOT_HANDLED;
    if (!by_password && (choose(ctx, s, user, &why) || keep_peer(ctx, &now, s, &d)))
        return REDISMODULE_AUTH_HANDLED;
    char text[320];
    snprintf(text, sizeof text, "ERR certauth: %s", why.text);
    /* Not by *error: Redis from 7.2 on, and Valkey below 8.1.3, leave that out while earlier replies
     * wait to be sent (acl.c, addAuthErrReply). Beside a reply of ours none of them adds one. */
    RedisModule_ReplyWithError(ctx, text);
    return REDISMODULE_AUTH_HANDLED;
}
