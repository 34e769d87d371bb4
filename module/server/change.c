/* A policy comes into force: users, trust, lines, and the sweep over all sessions. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <stdlib.h>

#include <arpa/inet.h>

/* ---- A policy comes into force ---- */

/* Clients from before the module: known without a certificate. Not our link to a master (M). */
void adopt_client(span line, void *none) {
    (void)none;
    char address[INET6_ADDRSTRLEN + 2] = "";
    span at = client_field(line, "addr=");
    while (at.len && at.ptr[at.len - 1] != ':') at.len--; /* the port */
    if (at.len) at.len--;
    if (at.len > 1 && at.ptr[0] == '[') at = span_of(at.ptr + 1, at.len - 2);
    if (at.len && at.len < sizeof address) memcpy(address, at.ptr, at.len);
    if (span_starts(client_field(line, "cmd="), LITERAL("module"))) node.loader = client_id(line);
    if (has_flag(line, 'M')) return;
    session *s = session_new(client_id(line), address, has_flag(line, 'U'));
    s->listens = has_flag(line, 'O') || has_flag(line, 'S');
}

/* Clients that hold `default` keep it when it is switched off, so they are closed by name. Not those
 * still in their handshake: they are decided when it ends, by then as clients from before. */
static void close_default_client(span line, void *data) {
    write_order *order = data;
    uint64_t id = client_id(line);
    if (id > node.before) node.before = id;
    session *s = session_find(id);
    if (!span_equal(client_field(line, "user="), LITERAL("default"))) return;
    if (s == NULL || s->closing) return;
    if (order && order->sender == id) order->close_sender = true;
    else end_session(s, "closed", REASON_USER_OFF);
    if (order) order->closed++;
}

void close_default(write_order *order) { each_client(close_default_client, order); }

static void apply_bootstrap_users(void) {
    for (size_t i = 0; i < policy_rules(node.bootstrap); i++) {
        const rule *r = policy_rule(node.bootstrap, i);
        if (rule_type(r) == LINE_USER) apply_user(r, false);
    }
}

/* `default` cannot wait for the others: anyone who has no certificate is it. */
static void apply_default(void) {
    const rule *line = policy_user(node.policy, LINE_USER, LITERAL("default"));
    if (line && enforced()) apply_user(line, true);
}

/* The users of the policy, at a start. Meanwhile no change of it is taken: see may_write. True where there
 * are more. */
bool settle_at_start(const slice *now) {
    static size_t at;
    for (; at < policy_rules(node.policy); at++) {
        const rule *r = policy_rule(node.policy, at);
        if ((rule_type(r) == LINE_USER || at % 256 == 0) && !slice_goes_on(now)) return true;
        if (rule_type(r) == LINE_USER) apply_user(r, true);
    }
    node.settling = false;
    return false;
}

/* At start, once: users are made here and not in OnLoad, which runs before the server's own users are
 * loaded; redis.conf's user of the same name would end it (acl.c, ACLLoadConfiguredUsers). The first
 * look of act comes here, or the first client. */
void put_in_force(void) {
    if (node.started) return;
    node.started = true;
    fault why;
    if (enforced() && !switch_off_native_login(&why)) {
        fail(&node.damage, "tls-auth-clients-user cannot be switched off: %.120s", why.text);
    }
    const regime now = regime_now();
    bool was_off = default_is_off(&now);
    clean_saved_users();
    apply_bootstrap_users();
    apply_default();
    if (enforced()) {
        slice most = {now_us() + 200000, 0}; /* anyone who asks first finds most of them there */
        node.starting = settle_at_start(&most);
    } else node.settling = false;
    /* resetpass too: protected mode asks for nopass even of a user that is off (networking.c) */
    if (damaged()) set_user(LITERAL("default"), LITERAL("resetpass off"));
    commit_to_doors(NULL);
    learn_openssl();
    learn_unverified();
    plan_trust();
    write_trust();
    take_trust();
    apply_client_auth();
    if ((damaged() || enforced()) && !was_off && default_is_off(&now)) close_default(NULL);
    ask_for_audit();
}

/* ---- Walking over lines, a slice at a time ---- */

static size_t walk_length(const write_order *order, walked from) {
    return from == HELD ? policy_rules(node.policy) : patch_count(order->change, from == ADDED);
}

static const rule *walk_rule(const write_order *order, walked from, size_t *number) {
    *number = 0;
    return from == HELD ? policy_rule(node.policy, order->at)
                        : patch_rule(order->change, from == ADDED, order->at, number);
}

/* A `pattern` line that names a user is to the server what a `bind` line is. */
static bool is_visited(const visit *row, const rule *line) {
    return row->types & 1 << rule_type(line) &&
           (rule_type(line) != LINE_PATTERN || rule_is_maker(line));
}

/* True where there is more to do. */
bool walk(write_order *order, const visit *rows, size_t count, const slice *now) {
    for (; order->row < count; order->row++, order->at = 0) {
        const visit *row = &rows[order->row];
        if (!(row->when & order->when)) continue;
        for (; order->at < walk_length(order, row->from); order->at++) {
            size_t number;
            const rule *line = walk_rule(order, row->from, &number);
            bool counts = is_visited(row, line);
            if ((counts || order->at % 256 == 0) && !slice_goes_on(now)) return true;
            if (counts) row->visit(order, line, number);
        }
    }
    order->row = 0;
    return false;
}

/* ---- A change comes into force ---- */

void tell_journal(void) {
    const char *notice = journal_notice(node.journal);
    if (notice) tell("journal", notice);
}

/* A change that could not be written, each reason once; empty: one was. */
void tell_unwritten(const char *text) {
    static fault last;
    if (text[0] && strcmp(last.text, text) != 0) tell("journal", text);
    fail(&last, "%s", text);
}

/* Lines that came with the change were never applied. */
static void undo_held(write_order *order, const rule *line, size_t number) {
    (void)number;
    if (!patch_has(order->change, true, line)) undo_user(rule_user(line, 0));
}

static void undo_removed(write_order *order, const rule *line, size_t number) {
    (void)order, (void)number;
    if (enforced() && policy_user(node.policy, LINE_USER, rule_user(line, 0))) return;
    undo_user(rule_user(line, 0));
}

static void apply_line(write_order *order, const rule *line, size_t number) {
    (void)order, (void)number;
    apply_user(line, true);
}

static const visit USERS[] = {
    {ON_OFF, HELD, OF_USER, undo_held},
    {ON_OFF | ON_ON, REMOVED, OF_USER, undo_removed},
    {OFF_ON, HELD, OF_USER, apply_line},
    {ON_ON, ADDED, OF_USER, apply_line},
};

/* `pattern` lines may give their users other rules now. ACL SETUSER may close clients, and so change what
 * a walk over sessions or users stands on: each step starts again, with a name of its own. */
static bool remake(write_order *order, const slice *now) {
    while (slice_goes_on(now)) {
        span last = order->remade ? string_span(order->remade) : span_of("", 0);
        size_t len;
        RedisModuleDictIter *at =
            RedisModule_DictIteratorStartC(node.made, order->remade ? ">" : "^",
                                           (void *)(uintptr_t)last.ptr, last.len);
        const char *name = RedisModule_DictNextC(at, &len, NULL);
        RedisModuleString *copy = name ? string_of(span_of(name, len)) : NULL;
        RedisModule_DictIteratorStop(at);
        if (order->remade) RedisModule_FreeString(NULL, order->remade);
        order->remade = copy;
        if (copy == NULL) return false;
        const rule *pattern = policy_pattern_of(node.policy, string_span(copy));
        if (pattern && enforced()) make_user(pattern, string_span(copy));
    }
    return true;
}

/* Are there sessions that the change has ended, and that are not closed yet? Those that others make us
 * look at meanwhile stand behind them in node.due, so that nobody can keep a change waiting. */
static bool waits_for_ends(const write_order *order) {
    const session *s = session_first(node.due);
    return s && s->due <= order->decided;
}

/* What sessions have begun without the right to it any more ends before the write is answered. */
static progress settle_streams(write_order *order, slice *now) {
    uint64_t closed = order->closed;
    bool more = end_streams(now);
    if (order->closed > closed) order->decided = now_us() + 1;
    if (more || waits_for_ends(order) || node.trust_files.under_way) return STEP_AGAIN;
    end_order(order);
    return STEP_OVER;
}

/* Users become what the lines say after the sweep, for until then there may be clients that hold one and
 * should not: they must not get what it will be. Who comes meanwhile does not wait, see become. */
static progress settle(write_order *order, slice *now) {
    if (waits_for_ends(order)) return STEP_AGAIN;
    if (walk(order, USERS, sizeof USERS / sizeof *USERS, now)) return STEP_AGAIN;
    if (order->remakes && remake(order, now)) return STEP_AGAIN;
    node.settling = false;
    order->next_step = settle_streams;
    return STEP_NEXT;
}

static step sweep;

/* What is staged was held against a policy that is gone. */
void drop_stage(void) {
    drop_patch(node.stage.change);
    node.stage.change = NULL;
}

/* `default` cannot wait for the others: anyone who has no certificate is it. */
static void settle_default(const regime *after) {
    const rule *line = default_line(after);
    if (line && rule_type(line) == LINE_USER) apply_default();
    else if (line) undo_user(LITERAL("default"));
}

static progress sweep(write_order *order, slice *now);

/* The step that nothing interrupts: after it, nobody is decided by the old lines. */
progress commit(write_order *order, slice *now) {
    const regime after = regime_after(order->change);
    bool switched = order->when == OFF_ON || order->when == ON_OFF;
    bool trusts = switched || patch_changes_trust(order->change);
    (void)now;
    tell_journal();
    tell_unwritten("");
    drop_stage();
    commit_to_doors(order->change);
    node.memory = memory_after(order);
    if (patch_changes_trust(order->change)) learn_unverified();
    order->done = node.settling = node.sweeping = node.ever = true;
    watch_commands();
    node.stamp = order->next;
    node.edition++;
    settle_default(&after);
    apply_client_auth();
    if (after.ends_default) close_default(order);
    if (moved_trust() || trusts) start_trust();
    order->next_step = sweep;
    return STEP_NEXT;
}

/* A thread has done its part. Its one-shot may come in the middle of somebody's command, so it does
 * nothing but ask. */
void take_back(void *data) {
    write_order *order = data;
    order->here = true;
    act_in(0);
}

int reply_order(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    write_order *order = RedisModule_GetBlockedClientPrivateData(ctx);
    char text[DIGEST_TEXT];
    digest sum = policy_digest(node.policy);
    come_back(ctx, order);
    if (!order->done) {
        reply_error(ctx, order);
        return REDISMODULE_OK;
    }
    digest_print(&sum, text);
    const char *unverified = node.unverified.text, *untaken = node.untaken.text;
    RedisModule_ReplyWithMap(ctx, 3 + (unverified[0] != 0) + (untaken[0] != 0));
    reply_number(ctx, "generation", order->next.generation);
    reply_named(ctx, "digest", text);
    reply_number(ctx, "closed", order->closed);
    if (unverified[0]) reply_named(ctx, "unverified", unverified);
    if (untaken[0]) reply_named(ctx, "untaken", untaken);
    return REDISMODULE_OK;
}

/* Also where no reply was asked for: the sender has gone, or Redis 7.0 has told it CLUSTERDOWN while it
 * waited (cluster.c, clusterRedirectBlockedClientIfNeeded). */
void free_order(RedisModuleCtx *ctx, void *data) {
    write_order *order = data;
    come_back(ctx, order);
    session *sender = order->close_sender ? session_find(order->sender) : NULL;
    if (sender) session_over(sender, 50); /* when the reply has gone out */
    drop_patch(order->change);
    if (order->remade) RedisModule_FreeString(NULL, order->remade);
    if (order->sender_user) RedisModule_FreeString(NULL, order->sender_user);
    free(order->given.lines);
    free(order);
}

void end_order(write_order *order) {
    node.order = NULL;
    RedisModule_UnblockClient(order->client, order);
}

void sweep_session(write_order *order, session *s) {
    if (s->closing) return;
    const regime now = regime_now(), *r = &now;
    decision d = decide(s, r);
    if (survives(r, s, &d)) {
        session_ends_at(s, end_under(r, s, &d));
        if (s->user == NULL && d.act == ACTION_LEAVE && enforced()) set_end_of_left(s);
        return;
    }
    order->closed++;
    if (s->id == order->sender) order->close_sender = true;
    else end_session(s, "closed", d.why);
}

/* Looks at each session again; users change when those that are over have been closed. */
static progress sweep(write_order *order, slice *now) {
    uint64_t from = session_key(order->swept);
    session *s = NULL;
    bool more;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.sessions, ">", &from, sizeof from);
    while ((more = RedisModule_DictNextC(at, NULL, (void **)&s) != NULL) && slice_goes_on(now)) {
        order->swept = s->id;
        sweep_session(order, s);
    }
    RedisModule_DictIteratorStop(at);
    node.sweeping = more;
    order->decided = now_us() + 1;
    if (!more) order->next_step = settle;
    return STEP_AGAIN;
}

size_t bytes_of(RedisModuleString **texts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += string_span(texts[i]).len;
    return bytes;
}

/* All problems in one line, as an error reply has to be. */
void reply_problems(RedisModuleCtx *ctx, const patch *change) {
    text_buffer b = {NULL, 0};
    char head[64];
    const char *text;
    size_t number;
    int len = snprintf(head, sizeof head, "LINES %zu bad, nothing changed", patch_problems(change));
    text_add(&b, span_of(head, (size_t)len));
    for (size_t i = 0; (text = patch_problem_text(change, i, &number)) != NULL; i++) {
        len = snprintf(head, sizeof head, "; line %zu: ", number);
        text_add(&b, number ? span_of(head, (size_t)len) : LITERAL("; ")); /* 0: no line sent */
        text_add(&b, text_span(text));
    }
    for (size_t i = 0; i < b.len; i++) {
        if (b.text[i] == '\r' || b.text[i] == '\n') b.text[i] = ' ';
    }
    RedisModule_ReplyWithError(ctx, b.text);
    free(b.text);
}

void reply_error(RedisModuleCtx *ctx, write_order *order) {
    if (patch_problems(order->change)) reply_problems(ctx, order->change);
    else RedisModule_ReplyWithError(ctx, order->why.text);
}

/* Bytes, about: of a line, and of the user that the server has by it (measured: 530-600 and its rules, and
 * some 110 of its mark). */
uint64_t line_memory(const rule *line) {
    uint64_t text = rule_text(line).len;
    return 200 + 2 * text + (rule_type(line) == LINE_USER ? 800 + text : 0);
}

/* What the policy takes when the change has been made. Notes of users that are adopted come later, and
 * are not weighed. */
uint64_t memory_after(const write_order *order) {
    uint64_t sum = node.memory + order->brings;
    return sum > order->frees ? sum - order->frees : 0;
}
