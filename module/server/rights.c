/* Who may hold which user: the one rule, asked about the policy in force and about a change alike. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

/* ---- What is asked about: the policy in force, or a change of it ---- */

int transition_of(const patch *change) {
    bool after = patch_setting(change, SET_ENFORCE) == ENFORCE_ON;
    return enforced() ? (after ? ON_ON : ON_OFF) : (after ? OFF_ON : OFF_OFF);
}

static int regime_setting(const regime *r, setting s) {
    return r->pending ? patch_setting(r->pending, s) : policy_setting(node.policy, s);
}

static const rule *regime_user(const regime *r, span name) {
    return r->pending ? patch_user(r->pending, LINE_USER, name)
                      : policy_user(node.policy, LINE_USER, name);
}

static bool regime_owns_word(const regime *r, span name) {
    return r->pending ? patch_owns_word(r->pending, name) : policy_owns_word(node.policy, name);
}

/* Is this user ours to say who may be it? */
bool is_managed(const regime *r, span name) {
    return is_bootstrap_user(name) ||
           (r->enforced && (regime_user(r, name) || regime_owns_word(r, name)));
}

/* Does the change take this user from the policy's hands? Then the server gets back what it was
 * before (`was`), or loses it, and with it anyone who holds it. */
static bool gives_up(const regime *r, span name, const rule **was) {
    if (!(r->when & (ON_OFF | ON_ON)) || is_bootstrap_user(name)) return false;
    const rule *line = regime_user(r, name);
    bool had =
        patch_removed(r->change, LINE_USER, name) || (line && !patch_has(r->change, true, line));
    *was = patch_user(r->change, LINE_WAS, name);
    return had && !(r->enforced && line);
}

/* While users are becoming what the policy says, and for a change that is asked about, the lines
 * say what they are, not the server: anyone who comes makes its user at once (see become). */
static user_state user_under(const regime *r, span name) {
    const rule *line = r->enforced && (r->change || node.settling) ? regime_user(r, name) : NULL;
    const rule *was = NULL;
    if (is_bootstrap_user(name) || (line == NULL && !gives_up(r, name, &was)))
        return server_user(name);
    if (line == NULL) line = was;
    return line == NULL ? USER_MISSING : rule_on(line) ? USER_ON : USER_OFF;
}

user_state ask_server(span name, void *under) { return user_under(under, name); }

/* The line that makes `default` what it will be after a change: the one of its user, or the note of
 * what it was before; NULL: it stays what the server says. */
const rule *default_line(const regime *r) {
    const span name = LITERAL("default");
    const rule *line = regime_user(r, name), *was = NULL;
    if (r->change == NULL || is_bootstrap_user(name)) return NULL;
    return line && r->enforced ? line : gives_up(r, name, &was) ? was : NULL;
}

bool default_is_off(const regime *r) {
    const rule *line = default_line(r);
    return line ? !rule_on(line) : server_user(LITERAL("default")) == USER_OFF;
}

/* `default` is what RESET leaves: harmless where it is off, and everybody's where it asks for nothing. */
bool default_is_free(const regime *r) {
    const rule *line = default_line(r);
    RedisModuleString *rules = line ? NULL : user_rules(LITERAL("default"));
    bool is_free = default_is_off(r) || (rules && has_word(string_span(rules), LITERAL("nopass")));
    span token;
    for (size_t at = 0; !is_free && line && rule_acl_next(line, &at, &token);)
        is_free = span_equal(token, LITERAL("nopass"));
    if (rules) RedisModule_FreeString(NULL, rules);
    return is_free;
}

regime regime_now(void) {
    const write_order *order = node.order && node.order->done ? node.order : NULL;
    return (regime){.change = order ? order->change : NULL,
                    .when = order ? order->when : 0,
                    .enforced = enforced()};
}

/* As if the change had been made. Switching `default` off cuts nobody who holds it, so that is for
 * the change to do. */
regime regime_after(const patch *change) {
    const regime now = regime_now();
    regime r = {change, change, transition_of(change), false, false};
    r.enforced = patch_setting(change, SET_ENFORCE) == ENFORCE_ON;
    r.ends_default =
        r.enforced && default_is_off(&r) && (r.when == OFF_ON || !default_is_off(&now));
    return r;
}

/* ---- Decisions ---- */

request request_for(const session *s, const regime *r) {
    return (request){
        .leaf = s->leaf,
        .issuers = s->issuers,
        .now = now_seconds(),
        .address = span_of(s->address.bytes, s->address.len),
        .tls_version = s->tls_version,
        .no_journal = damaged(),
        .no_policy = !node.ever,
        .pending = r->pending,
        .ask = ask_server,
        .data = (void *)(uintptr_t)r,
    };
}

decision decide(const session *s, const regime *r) {
    request asked = request_for(s, r);
    return policy_decide(node.policy, node.bootstrap, &asked);
}

/* ---- Who may hold which user ---- */

/* May the certificate be this user? */
bool permits(const regime *r, const decision *d, span user) {
    if (d->shadow || (d->act != ACTION_LOGIN && d->act != ACTION_CHOOSE)) return false;
    span named;
    bool asked = d->act == ACTION_LOGIN; /* by the decision: it had one user to ask about */
    for (size_t i = 0; (named = decision_user(d, i)).len; i++) {
        if (span_equal(named, user)) return asked || user_under(r, user) == USER_ON;
    }
    return false;
}

/* A replica, a Sentinel, another node of the cluster; or anyone else whom the bootstrap file binds. */
bool is_peer(const decision *d) {
    if (d->line && rule_binds_peer(d->line)) return true;
    for (size_t i = 0; d->line && i < policy_rules(node.bootstrap); i++) {
        if (policy_rule(node.bootstrap, i) == d->line) return true;
    }
    return false;
}

static bool may_use_password(const regime *r, const session *s, const decision *d) {
    return !r->enforced || s->leaf == NULL || is_peer(d) ||
           regime_setting(r, SET_PASSWORD_AUTH) == PASSWORD_AUTH_ALLOW;
}

/* The one rule for clients that are connected: may this one hold `user`, if `d` is what is decided
 * about it under `r`? The first line that fits:
 *
 *     the change closes anyone who holds `user`                      no
 *     a unix socket                                               yes
 *     `d` makes it that user, or lets it choose that user         yes
 *     `user` is ours to give, and not `default`                   no
 *     nothing is enforced, nor damaged                            not as what we made of it
 *     `d` refuses it                                              no
 *     we made it a user                                           no: `d` would have named it
 *     it has to choose, and has become nobody by itself           while it still has to choose
 *     any user but `default`                                      where it may use passwords
 *     `default`, and `d` leaves it                                yes
 *     `default`, by AUTH or RESET                                 where `default` asks for
 *                                                                 nothing, or it may use passwords
 *     `default`, from before it was anybody's business            no
 */
bool may_hold(const regime *r, const session *s, const decision *d, span user) {
    bool is_default = span_equal(user, LITERAL("default"));
    const rule *was = NULL;
    if (is_default ? r->ends_default : gives_up(r, user, &was) && was == NULL) return false;
    if (s->local || permits(r, d, user)) return true;
    if (!is_default && is_managed(r, user)) return false;
    if (!r->enforced && !damaged()) return s->user == NULL && s->act != ACTION_CHOOSE;
    if (d->act == ACTION_REFUSE || s->user) return false;
    if (s->act == ACTION_CHOOSE && !s->strayed) return d->act == ACTION_CHOOSE;
    if (!is_default) return may_use_password(r, s, d);
    if (d->act == ACTION_LEAVE) return true;
    return s->strayed && (default_is_free(r) || may_use_password(r, s, d));
}

/* As may_hold, of a user that it becomes by a password. */
bool may_become(const regime *r, const session *s, const decision *d, span user) {
    session then = *s;
    then.user = NULL;
    then.strayed = true;
    return may_hold(r, &then, d, user);
}

/* The sender of a change with FORCE sits on the permissionless user until the reply, see step_aside. */
static bool is_aside(const session *s) {
    return node.order && node.order->sender_user && s->id == node.order->sender;
}

/* As may_hold, of the user that it has now. */
bool may_stay(const regime *r, const session *s, const decision *d) {
    if (is_aside(s)) return true;
    RedisModuleString *name = RedisModule_GetClientUserNameById(node.ctx, s->id);
    bool good = name == NULL || may_hold(r, s, d, string_span(name));
    if (name) RedisModule_FreeString(node.ctx, name);
    return good;
}

/* When it is over, in seconds since 1970; 0: never. */
int64_t end_under(const regime *r, const session *s, const decision *d) {
    return s->user && permits(r, d, string_span(s->user)) ? end_of(s, d) : s->end;
}

/* May it go on, as what it is and from now on? */
bool survives(const regime *r, const session *s, const decision *d) {
    int64_t end = end_under(r, s, d);
    return may_stay(r, s, d) && (end == 0 || end > now_seconds());
}

int64_t end_of(const session *s, const decision *d) {
    int64_t end =
        d->until < INT64_MAX ? d->until + 1 : d->until; /* notAfter is the last good second */
    int64_t limit = s->since + d->session;
    return d->session && limit < end ? limit : end;
}
