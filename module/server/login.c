/* Becoming an ACL user, and being closed. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <errno.h>
#include <stdio.h>

#include <sys/socket.h>

/* ---- Becoming somebody, and being closed ---- */

static void on_user_changed(uint64_t id, void *none);

/* The name cannot be an ACL user's, and is what the client is told: ACL LOAD looks users up by name,
 * so one that an ACL user could have would hand its rights over. */
void sit_on_nobody(RedisModuleCtx *ctx, session *s) {
    node.switching = true;
    RedisModule_AuthenticateClientWithUser(ctx, node.nobody, on_user_changed, NULL, NULL);
    node.switching = false;
    session_user(s, span_of(NULL, 0));
}

/* The user that is about to log in as its line says: false where it would change under a script that
 * runs as it. Who is not there yet runs none. */
static bool ready_user(span user) {
    const rule *pattern = policy_pattern_of(node.policy, user);
    const rule *line = node.settling ? policy_user(node.policy, LINE_USER, user) : NULL;
    if (!enforced() || is_bootstrap_user(user) || (pattern == NULL && line == NULL)) return true;
    if (line == NULL && is_as_made(pattern, user)) return true;
    if (script_runs() && server_user(user) != USER_MISSING) return false;
    if (line) apply_user(line, true);
    else if (!leave_out(pattern, user)) make_user(pattern, user);
    return true;
}

bool become(RedisModuleCtx *ctx, session *s, span user) {
    if (!ready_user(user)) return false;
    node.switching = true;
    int result = RedisModule_AuthenticateClientWithACLUser(ctx, (const char *)user.ptr, user.len,
                                                           on_user_changed, NULL, NULL);
    node.switching = false;
    if (result == REDISMODULE_OK) {
        session_user(s, user);
        s->strayed = false;
    }
    return result == REDISMODULE_OK;
}

/* It is decided again, or closed where it is over, in so many ms. */
static void look_at_later(session *s, int64_t ms) {
    session_moves(node.due, s, &s->due, now_us() + ms * 1000 + 1);
    watch_commands();
    act_in(ms);
}

/* From now on it runs nothing; closed in so many ms. Touches no client. */
void session_over(session *s, int64_t ms) {
    if (s->closing) return;
    s->closing = true;
    node.closing++;
    session_ends_at(s, 0);
    look_at_later(s, s->id == node.loader ? 50
                                          : ms); /* that waits for the answer to its MODULE LOAD */
}

/* Redis 8 with io-threads stops a client's thread, and waits until that stands, for each client that is
 * closed, and CLIENT KILL looks through all clients: thousands take seconds. A socket that is shut down
 * has the server find out by itself, as if the peer had gone. It is the client's as long as there is the
 * session. Where that takes more than a second, it is closed after all. */
static bool can_hang_up(const session *s) {
    return (node.stops_threads || must_kill()) && s->socket >= 0;
}

static bool hang_up(session *s) {
    if (!can_hang_up(s)) return false;
    shutdown(s->socket, SHUT_RDWR);
    s->socket = -1;
    look_at_later(s, 1000);
    return true;
}

/* The server frees in one go all whose end its threads have found meanwhile, some 0.1 ms each: so there are
 * never many. Where it finds none for 50 ms, the next ones may be hung up. Those that are refused when they
 * connect take no turns: a stream of them would keep all others waiting. */
bool takes_turn(session *s) {
    enum { MOST = 64 };
    if (!can_hang_up(s)) return true;
    if (node.hung_up >= MOST && now_us() < node.hung_up_at + 50000) return false;
    if (node.hung_up >= MOST) node.hung_up = 0;
    s->hung_up = true;
    node.hung_up++;
    node.hung_up_at = now_us();
    return true;
}

/* Not within a command: it becomes `default`, and what runs would go on with the rights of that. Nor
 * within its own connect event, nor while walking over the sessions where it frees at once. */
void close_client(session *s) {
    char id[24];
    uint64_t number = s->id;
    if (hang_up(s)) return;
    session_moves(node.due, s, &s->due, 0);
    node.switching = true;
    if (must_kill())
        kill_clients("ID", span_of(id, (size_t)snprintf(id, sizeof id, "%llu",
                                                        (unsigned long long)number)));
    else RedisModule_DeauthenticateAndCloseClient(node.ctx, number);
    node.switching = false;
}

/* Not where act has been first: a second time would be the slow way, see hang_up. */
static void close_refused(void *id) {
    session *s = session_find((uint64_t)(uintptr_t)id);
    if (s && s->closing && s->act == ACTION_REFUSE && s->due <= now_us()) close_client(s);
}

/* Redis 8 with io-threads aborts when the client is closed within its own connect event, for it is
 * handed to an IO thread right after (iothread.c, Redis 8.0.6). A timer does not run while an RDB
 * loads, and a one-shot alone lets an answer through with io-threads: whichever runs first. The one-shot
 * may come while a script runs; but not while one of this client's does, which has never run anything.
 * On Valkey a timer would leave room for one read, and closing at once is safe: nothing has been read. */
static void close_at_connect(session *s) {
    if (closes_late()) {
        RedisModule_EventLoopAddOneShot(close_refused, as_data(s->id));
        return;
    }
    session_moves(node.due, s, &s->due, 0);
    s->turned_away = true;
    node.turned_away++;
    node.switching = true;
    RedisModule_DeauthenticateAndCloseClient(node.ctx, s->id);
    node.switching = false;
}

void set_end(session *s, const decision *d) { session_ends_at(s, end_of(s, d)); }

/* Who is left is decided again when its certificate, or a CA above it, ends; if that is to come. */
void set_end_of_left(session *s) {
    if (s->leaf == NULL) return;
    int64_t last = s->leaf->not_after;
    for (size_t i = 0; s->issuers->known && i < s->issuers->count; i++) {
        if (s->issuers->ca[i].not_after < last) last = s->issuers->ca[i].not_after;
    }
    session_ends_at(s, last < INT64_MAX && last >= now_seconds() ? last + 1 : 0);
}

/* What CERTAUTH.LOG calls a decision, with and without `set enforce shadow`. */
static const char *const EVENTS[2][ACTION_LOGIN + 1] = {
    {"refused", "left", "choose", "login"},
    {"would-refuse", "would-leave", "would-choose", "would-login"},
};

/* What a refused client may know: why its own certificate is no good, or what a line that names it asks
 * for. All strangers are told the same, whatever CA issued their certificate and whatever else is known of
 * it: who could tell those apart would find out which names the policy has. */
static reason told_reason(const decision *d) {
    switch (d->why) {
    case REASON_NO_CERTIFICATE:
    case REASON_MALFORMED:
    case REASON_CA_EXPIRED:
    case REASON_NOT_YET_VALID:
    case REASON_EXPIRED:
    case REASON_KEY_USAGE: return d->why;
    default: return d->line && d->why > REASON_NO_BINDING ? d->why : REASON_NO_BINDING;
    }
}

/* One RESP error into the client's TLS session, behind the server's back: a reply would go through its
 * buffers, which Redis 8.0 with io-threads does not survive in the connect event , and would
 * be sent when the client is gone. No other thread has the session yet. */
static void tell_client(const peer *p, log_entry *e, const decision *d) {
    char ticket[TICKET_TEXT], line[128];
    if (!node.tells || p->ssl == NULL) return;
    give_ticket(e);
    ticket_text(e, ticket);
    int len = snprintf(line, sizeof line, "-NOPERM certauth %s %s\r\n", reason_name(told_reason(d)),
                       ticket);
    tls_tell(p, line, (size_t)len);
}

void refuse_client(RedisModuleCtx *ctx, session *s, const peer *p) {
    sit_on_nobody(ctx, s);
    session_over(s, 0);
    tls_silence(p);
    close_at_connect(s);
}

/* Does what was decided for a client that has just connected. */
void enact(RedisModuleCtx *ctx, session *s, const peer *p, decision d) {
    if (d.act == ACTION_LOGIN && !d.shadow && !become(ctx, s, decision_user(&d, 0))) {
        bool missing = server_user(decision_user(&d, 0)) == USER_MISSING;
        d.act = ACTION_REFUSE;
        d.why = missing ? REASON_USER_MISSING : REASON_USER_OFF;
    }
    count(&d);
    bool named = d.act == ACTION_LOGIN;
    log_entry *e =
        record(s, EVENTS[d.shadow][d.act], d.why, named ? decision_user(&d, 0) : span_of(NULL, 0));
    if (d.act == ACTION_REFUSE) log_refusal(ctx, e, d.shadow);
    s->act = d.shadow ? ACTION_LEAVE : d.act;
    s->why = d.why;
    if (s->act == ACTION_LOGIN || s->act == ACTION_CHOOSE) set_end(s, &d);
    if (s->act == ACTION_LEAVE && !d.shadow && enforced()) set_end_of_left(s);
    if (s->act == ACTION_REFUSE) log_to_acl(ctx, e);
    if (s->act == ACTION_CHOOSE) sit_on_nobody(ctx, s);
    if (s->act == ACTION_REFUSE) tell_client(p, e, &d);
    if (s->act == ACTION_REFUSE) refuse_client(ctx, s, p);
}

/* Ends a live session, for the record. */
void end_session(session *s, const char *event, reason why) {
    record(s, event, why, s->user ? string_span(s->user) : span_of(NULL, 0));
    session_over(s, 0);
}

/* Within this callback no client may be touched: the server calls it again for each touch, without
 * end (module.c, moduleNotifyUserChanged). */
static void on_user_changed(uint64_t id, void *none) {
    (void)none;
    session *s = session_find(id);
    if (s == NULL || node.switching) return;
    session_user(s, span_of(NULL, 0));
    s->strayed = true;
    if (!s->closing) look_at_later(s, 0);
}
