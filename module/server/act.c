/* What happens between commands, and before one. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdlib.h>

/* ---- When we act ---- */

/* Nothing of ours that touches another client, a user or the policy happens within somebody's command, and
 * all of it happens in act. A timer and the server's cron come between commands; connect events, AUTH and
 * one-shots may come while a script runs, or another module's command that yields (networking.c,
 * processEventsWhileBlocked, runs file events alone): a client that is closed there becomes `default` in
 * the middle of what it does. */

static void end_or_leave(session *s) {
    session_ends_at(s, 0);
    if (s->user == NULL && s->act == ACTION_LEAVE) {
        const regime now = regime_now();
        decision d = decide(s, &now);
        if (may_stay(&now, s, &d)) set_end_of_left(s);
        else end_session(s, "ended", d.why);
    } else end_session(s, "ended", REASON_EXPIRED);
}

/* True where there are more. */
static bool end_sessions(const slice *now) {
    int64_t second = now_seconds();
    session *s = NULL;
    if (second < node.next_end) return false;
    while ((s = session_first(node.ends)) != NULL && s->end <= second) {
        if (!slice_goes_on(now)) return true;
        end_or_leave(s);
    }
    node.next_end = s ? s->end : INT64_MAX;
    return false;
}

static void look_at(session *s) {
    session_moves(node.due, s, &s->due, 0);
    audit_session(s);
}

/* True where there are more. Closing may free at once, and others with it: never under an iterator. */
static bool act_on_due(slice *now) {
    session *s;
    while ((s = session_first(node.due)) != NULL && s->due <= now_us()) {
        if (!slice_goes_on(now) || (s->closing && !takes_turn(s))) return true;
        now->closings += s->closing;
        if (s->closing) close_client(s);
        else look_at(s);
    }
    return false;
}

/* What can wait for a second. */
static void tick(void) {
    slice now = slice_start();
    node.ticked = now_us();
    repair_users();
    repair_configuration();
    tell_doors();
    watch_settings();
    watch_trust();
    look_at_room();
    start_look();
    drop_old_stage();
    node.unmaking = node.idle > 0;
    if (!node.audit_due) audit(&now);
}

/* True where there is more to do. */
static bool do_chores(const slice *now) {
    for (chore **at = &node.chores; *at;) {
        chore *c = *at;
        if (c->go_on(c->data, now)) {
            at = &c->next;
        } else {
            *at = c->next;
            free(c);
        }
    }
    return node.chores != NULL;
}

/* What clients have us do by what they send: those whose time is over, and those that have logged in as
 * somebody else. True where there is more. */
static bool follow_clients(void) {
    slice now = slice_start();
    bool more = end_sessions(&now);
    return act_on_due(&now) || more;
}

/* True where there is more. */
static bool follow_policy(void) {
    slice now = slice_start();
    end_look();
    end_trust();
    node.starting = node.starting && settle_at_start(&now);
    return advance(node.order, &now) || node.starting;
}

/* True where there is more. */
static bool follow_others(void) {
    slice now = slice_start();
    bool more = audit_all(&now);
    if (!node.settling) more = end_streams(&now) || more; /* else the change does, at its end */
    more = do_chores(&now) || more;
    node.unmaking = node.unmaking && unmake_idle(&now);
    return more || node.unmaking;
}

/* Each has a slice of its own, or clients that send RESET all the time would keep a change from coming into
 * force: there is always one of them to be looked at. True where there is more to do. */
static bool work(void) {
    bool more = follow_clients();
    more = follow_policy() || more;
    return follow_others() || more;
}

static void plan(bool more) {
    int64_t now = now_us(), at = more ? now + 1000 : node.ticked + 1000000;
    const session *next = session_first(node.due);
    if (next && next->due < at) at = next->due;
    int64_t ms = at > now ? (at - now + 999) / 1000 : 0;
    int64_t end = until_second(node.next_end);
    bool quiet = end > SCRIPT_MS && next == NULL && node.closing == 0 && !node.sweeping;
    if (quiet) leave_commands();
    else watch_commands();
    act_in(end < ms ? end : ms);
}

void act(void) {
    node.acting = true;
    put_in_force();
    bool more = work();
    if (now_us() >= node.ticked + 1000000) tick();
    node.acting = false;
    plan(more || node.chores != NULL);
}

/* Ten times a second while something is loaded: where no client sends anything, nobody else asks. */
void on_loading_progress(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data) {
    (void)ctx, (void)event, (void)sub, (void)data;
    if (now_us() > node.act_at) act_while_loading();
}

/* Timers go by the wall clock (module.c, moduleTimerHandler). Where that is set back by an hour, they
 * come an hour late: sessions would outlive their certificates by so much, and a write would hang. */
void on_cron(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data) {
    (void)ctx, (void)event, (void)sub, (void)data;
    if (now_us() <= node.act_at + 250000) return;
    if (node.timer) RedisModule_StopTimer(node.ctx, node.timer, NULL);
    node.timer = 0;
    act();
}

/* ---- Before a command ---- */

/* What is due for a session is decided before it runs another command: we may have been kept from acting,
 * by a script of its own. Touches no client. */
static bool may_run(session *s) {
    if (s->end && s->end <= now_seconds()) end_or_leave(s);
    if (s->due && !s->closing) look_at(s);
    if (node.sweeping && s->id > node.order->swept) sweep_session(node.order, s);
    return !s->closing;
}

/* There is no such command: the server refuses it, and a transaction that has it. */
static void refuse_command(RedisModuleCommandFilterCtx *filter, span name) {
    RedisModule_CommandFilterArgReplace(filter, 0, string_of(name));
}

/* A session that is over runs nothing any more, RESET and AUTH included, which need no right. */
void muzzle(RedisModuleCommandFilterCtx *filter) {
    session *s = session_find(RedisModule_CommandFilterGetClientId(filter));
    if (now_us() > node.act_at) act_while_loading();
    if (s == NULL) return;
    /* This says itself whether it may, and brings back who has sent RESET in the same breath. */
    if (!s->closing && string_is(RedisModule_CommandFilterArgGet(filter, 0), "CERTAUTH.LOGIN"))
        return;
    if (!may_run(s)) refuse_command(filter, LITERAL("certauth:session-is-over"));
}

/* Is there a session that is over and has begun something? Strangers that connect, and are refused, have
 * not: a storm of them on a busy machine must not keep others from what they do. */
static bool has_to_end(void) { return node.closing > node.turned_away; }

/* Has somebody had to go while a command held the server? Who was only to be looked at is, or a client
 * that sends RESET all the time would have everybody refused. Not on a replica: what is refused may be
 * what its master sends, and it would go on without that. Nor while a data set is loaded, for nobody
 * reads or writes meanwhile. */
static bool is_late(void) {
    const int never = REDISMODULE_CTX_FLAGS_SLAVE | REDISMODULE_CTX_FLAGS_LOADING;
    if (now_us() <= node.act_at + 50000 || script_runs()) return false;
    if (RedisModule_GetContextFlags(node.ctx) & never && !loads_aside()) return false;
    act_while_loading();
    if (has_to_end() || node.sweeping || node.next_end <= now_seconds()) return true;
    for (session *s; (s = session_first(node.due)) != NULL && !s->closing;) look_at(s);
    return has_to_end();
}

/* Of a client that may be good: its transaction must be over behind EXEC and DISCARD, and a replica that
 * is answered anything is cut off (networking.c, _addReplyToBufferOrList). */
static void refuse_for_now(RedisModuleCommandFilterCtx *filter, const RedisModuleString *name) {
    const span word = LITERAL("certauth:busy-try-again");
    if (string_is(name, "DISCARD") || string_is(name, "REPLCONF")) return;
    if (string_is(name, "EXEC")) RedisModule_CommandFilterArgInsert(filter, 1, string_of(word));
    else refuse_command(filter, word);
}

/* Of MONITOR and replication CLIENT LIST alone tells. Redis 8 with io-threads stops a client's thread for
 * its line, unless that is the main one, as it is of all that have begun something (networking.c,
 * catClientInfoString); and the lines of all 10,000 clients at once take 40 ms. So who has asked for either
 * is known, and only they are asked about. */
void on_listen(RedisModuleCommandFilterCtx *filter) {
    span name = string_span(RedisModule_CommandFilterArgGet(filter, 0));
    bool asks = span_equal_nocase(name, LITERAL("monitor")) ||
                span_equal_nocase(name, LITERAL("psync")) ||
                span_equal_nocase(name, LITERAL("sync"));
    session *s = asks ? session_find(RedisModule_CommandFilterGetClientId(filter)) : NULL;
    if (s) s->listens = true;
}

/* Before 7.2 nobody asks us about AUTH and HELLO, and who has not been logged in by us has no callback
 * either: right behind such a command, all are looked at; behind EXEC too, if one may have waited for it.
 * Nor do we hear whose command it is: when we are late, nobody runs any until we have acted, in this turn of
 * the event loop. */
void on_command(RedisModuleCommandFilterCtx *filter) {
    const RedisModuleString *name = RedisModule_CommandFilterArgGet(filter, 0);
    if (name == NULL) return;
    bool changes = string_is(name, "AUTH") || string_is(name, "HELLO");
    node.auth_queued = node.auth_queued || changes;
    if (changes || (node.auth_queued && string_is(name, "EXEC"))) ask_for_audit();
    if (now_us() > node.act_at) act_while_loading();
    if (is_late()) refuse_for_now(filter, name);
}
