/* A write of the policy: checked, to the journal, answered. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- Writing a policy ---- */

/* True where there is more to do. */
bool advance(write_order *order, slice *now) {
    progress made = STEP_OVER;
    if (order == NULL || !order->here) return false;
    do made = order->next_step(order, now);
    while (made == STEP_NEXT);
    return made == STEP_AGAIN;
}

/* ---- Checking a write ---- */

static void text_add_token(text_buffer *b, span token) {
    char text[8192];
    size_t len = token_print(token, text, sizeof text);
    text_add(b, LITERAL(" "));
    text_add(b, len ? span_of(text, len) : token);
}

/* A problem with a line of the change; without a number, with one that the policy holds. */
static void line_problem(patch *change, const rule *line, size_t number, const char *text) {
    fault why;
    span held = rule_text(line);
    if (number == 0)
        fail(&why, "the policy's line '%.*s%s': %.150s", held.len < 60 ? (int)held.len : 60,
             (const char *)held.ptr, held.len < 60 ? "" : "...", text);
    patch_problem(change, number, number ? text : why.text);
}

/* Keeps what a user was before the line that adopts it takes effect. */
static bool note_user(patch *change, span name, span rules, fault *why) {
    text_buffer was = {NULL, 0};
    text_add(&was, LITERAL("was"));
    text_add_token(&was, name);
    while (rules.len) {
        const uint8_t *blank = memchr(rules.ptr, ' ', rules.len);
        size_t len = blank ? (size_t)(blank - rules.ptr) : rules.len;
        if (len) text_add_token(&was, span_of(rules.ptr, len));
        rules = span_skip(rules, len + (blank != NULL));
    }
    rule *note = rule_parse(span_of(was.text, was.len), why);
    if (note) patch_add(change, rule_text(note), 0);
    rule_free(note);
    free(was.text);
    return note != NULL;
}

bool try_acl(const rule *line, span user, bool limited, fault *why) {
    RedisModuleString *error = NULL;
    text_buffer b = acl_text(line, user, limited);
    text_add(&b,
             LITERAL(
                 " resetchannels")); /* or the next try looks through all clients for channels */
    bool good =
        RedisModule_SetModuleUserACLString(NULL, node.scratch, b.text, &error) == REDISMODULE_OK;
    if (!good) fail(why, "%s", error ? (const char *)string_span(error).ptr : "not ACL rules");
    if (error) RedisModule_FreeString(NULL, error);
    free(b.text);
    return good;
}

/* Whose the user is that a line is about: nobody's yet, or the operator's who gives it up. A note of what
 * it was before an earlier line is over. */
static bool check_owner(patch *change, const rule *line, span name, fault *why) {
    if ((enforced() && policy_user(node.policy, LINE_USER, name)) || made_find(name)) return true;
    const rule *was = policy_user(node.policy, LINE_WAS, name);
    if (was) patch_remove(change, rule_text(was), 0);
    RedisModule_DictDelC(node.spent, (void *)(uintptr_t)name.ptr, name.len, NULL);
    RedisModuleString *rules = user_rules(name);
    if (rules == NULL) return true;
    bool good =
        rule_adopts(line)
            ? note_user(change, name, string_span(rules), why)
            : fail(why, "the server has a user of this name already: write `adopt` behind the "
                        "name to take it over (what it was is kept, and comes back)");
    RedisModule_FreeString(NULL, rules);
    return good;
}

/* One user line that would take effect: whether its rules are rules, and whose the user is. */
static void check_user_line(write_order *order, const rule *user, size_t number) {
    patch *change = order->change;
    span name = rule_user(user, 0);
    fault why;
    if (is_bootstrap_user(name)) {
        line_problem(change, user, number, "this user belongs to the bootstrap file");
        return;
    }
    if (!try_acl(user, name, true, &why)) line_problem(change, user, number, why.text);
    if (!check_owner(change, user, name, &why)) line_problem(change, user, number, why.text);
}

static void check_pattern_line(write_order *order, const rule *line, size_t number) {
    uint8_t bytes[USER_BYTES];
    span sample = span_of(bytes, rule_sample(line, bytes));
    fault why;
    order->remakes = true;
    if (order->when == OFF_ON || !policy_owns_word(node.policy, sample)) order->patterns = true;
    if (!try_acl(line, sample, true, &why)) line_problem(order->change, line, number, why.text);
}

static void check_added(write_order *order, const rule *line, size_t number) {
    if (rule_type(line) == LINE_USER) check_user_line(order, line, number);
    else check_pattern_line(order, line, number);
}

/* A line that counts once enforcement comes on: a typo is said now, and not on that day. */
static void check_waiting(write_order *order, const rule *line, size_t number) {
    uint8_t bytes[USER_BYTES];
    span name = rule_is_maker(line) ? span_of(bytes, rule_sample(line, bytes)) : rule_user(line, 0);
    fault why;
    if (!try_acl(line, name, true, &why)) line_problem(order->change, line, number, why.text);
}

/* Lines that were there and begin to count: enforcement comes on. */
static void check_kept(write_order *order, const rule *line, size_t number) {
    if (rule_type(line) == LINE_PATTERN) order->patterns = true;
    else if (patch_user(order->change, LINE_USER, rule_user(line, 0)) == line)
        check_user_line(order, line, number);
}

/* The server's own users keep their names: a `pattern` line that would make one of them is refused. */
static void check_server_user(span name, void *data) {
    write_order *order = data;
    fault why;
    if (made_find(name) || !patch_owns_word(order->change, name)) return;
    fail(&why,
         "the server has the user '%.*s' already, whose name belongs to a pattern line: remove it, "
         "or give the line another word",
         name.len < 80 ? (int)name.len : 80, (const char *)name.ptr);
    patch_problem(order->change, 0, why.text);
}

/* Notes that no file of the server gives a reason to keep. */
static void forget_spent_notes(patch *change) {
    char *name;
    size_t len;
    RedisModuleDictIter *at = RedisModule_DictIteratorStartC(node.spent, "^", NULL, 0);
    while ((name = RedisModule_DictNextC(at, &len, NULL)) != NULL) {
        const rule *was = policy_user(node.policy, LINE_WAS, span_of(name, len));
        bool lined = patch_user(change, LINE_USER, span_of(name, len));
        if (was && !lined) patch_remove(change, rule_text(was), 0);
    }
    RedisModule_DictIteratorStop(at);
}

/* What only the server knows to be wrong with a change, and what goes with it. */
static const visit CHECKS[] = {
    {OFF_ON | ON_ON, ADDED, OF_USER | OF_PATTERN, check_added},
    {OFF_OFF, ADDED, OF_USER | OF_PATTERN, check_waiting},
    {OFF_ON, HELD, OF_USER | OF_PATTERN, check_kept},
};

/* Somebody who came by certificate must not saw off the branch. Who has no user by it may lose what
 * it has, and comes in again. */
static bool locks_out(uint64_t sender, const regime *after) {
    const session *s = session_find(sender);
    if (s == NULL || s->leaf == NULL) return false;
    decision d = decide(s, after);
    return s->user ? !may_hold(after, s, &d, string_span(s->user))
                   : d.act == ACTION_REFUSE && !d.shadow;
}

/* A copy: what the server keeps of a call may be freed by a thread of its own. */
given_lines keep_lines(RedisModuleString **texts, int count) {
    size_t heads = (size_t)count * sizeof(span);
    given_lines kept = {must(malloc(heads + bytes_of(texts, count) + 1)), (size_t)count, 0};
    uint8_t *to = (uint8_t *)kept.lines + heads;
    for (int i = 0; i < count; i++) {
        span text = string_span(texts[i]);
        if (text.len) memcpy(to, text.ptr, text.len);
        kept.lines[i] = span_of(to, text.len);
        to += text.len;
    }
    return kept;
}

bool has_journal(fault *why) {
    return !damaged() || fail(why, "NOJOURNAL %.200s", journal_state());
}

/* Whose policy it is, and whether the sender knows what is in force. */
bool check_stamp(const options *o, fault *why) {
    span owner = span_of(node.stamp.owner, strlen(node.stamp.owner));
    if (o->owner.len >= sizeof node.stamp.owner || !text_clean(o->owner)) {
        return fail(why, "ERR the owner is longer than %zu bytes, or no clean text",
                    sizeof node.stamp.owner - 1);
    }
    if (owner.len && !span_equal(owner, o->owner) && !(o->force && o->whole)) {
        return fail(why,
                    "OWNED this node's policy belongs to '%s': only LOAD … FORCE takes it over",
                    node.stamp.owner);
    }
    if (o->has_epoch && (uint64_t)o->epoch < node.stamp.epoch) {
        return fail(why, "EPOCH %lld is stale: the current epoch is %llu", o->epoch,
                    (unsigned long long)node.stamp.epoch);
    }
    if (!o->whole && (!node.ever || (uint64_t)o->base != node.stamp.generation)) {
        return fail(why, "BASE generation %lld is not current: the node has %llu", o->base,
                    (unsigned long long)node.stamp.generation);
    }
    bool goes_back = node.ever && (uint64_t)o->generation <= node.stamp.generation;
    if (o->generation == 0 || (goes_back && !(o->force && o->whole))) {
        return fail(why, "GENERATION %lld must be above the current generation %llu", o->generation,
                    (unsigned long long)node.stamp.generation);
    }
    return true;
}

static void read_line(patch *change, bool whole, span line, size_t number) {
    if (whole) patch_add(change, line, number);
    else if (line.len && line.ptr[0] == '+') patch_add(change, span_skip(line, 1), number);
    else if (line.len && line.ptr[0] == '-') patch_remove(change, span_skip(line, 1), number);
    else patch_problem(change, number, "a patch has + or - before each line");
}

/* Until the slice ends; without one, all. True where there are more. `first`: the number of the first. */
bool read_lines(patch *change, bool whole, given_lines *given, size_t first, const slice *now) {
    for (; given->at < given->count; given->at++) {
        if (now && !slice_goes_on(now)) return true;
        read_line(change, whole, given->lines[given->at], first + given->at);
    }
    return false;
}

/* What only the server knows to be wrong with the lines of a change, and what goes with it. For a
 * write and for a change that is asked about. True where there is more to do. */
bool check_lines(write_order *order, const slice *now) {
    if (walk(order, CHECKS, sizeof CHECKS / sizeof *CHECKS, now)) return true;
    if (order->patterns) each_user(check_server_user, order);
    forget_spent_notes(order->change);
    return false;
}

/* What is wrong with a change whose lines are good. For both, as well. */
bool check_change(write_order *order) {
    char text[DIGEST_TEXT];
    digest sum = patch_digest(order->change);
    digest_print(&sum, text);
    if (order->has_digest && strcmp(order->digest, text) != 0) {
        return fail(&order->why,
                    "DIGEST the change leads to %s, not to the one given: base and sender differ",
                    text);
    }
    const regime after = regime_after(order->change);
    return order->force || !locks_out(order->sender, &after) ||
           fail(&order->why,
                "LOCKOUT after this change your own certificate could not log in as the same "
                "user: send FORCE if you want that");
}

static bool check_login_of_server(write_order *order) {
    return patch_setting(order->change, SET_ENFORCE) != ENFORCE_ON ||
           switch_off_native_login(&order->why);
}

/* What the change brings, and what goes with it. */
static void weigh(write_order *order) {
    for (int added = 0; added < 2; added++) {
        for (size_t i = 0; i < patch_count(order->change, added); i++) {
            const rule *line = patch_rule(order->change, added, i, NULL);
            uint64_t *sum = added ? &order->brings : &order->frees;
            *sum += line_memory(line);
        }
    }
    order->left = order->brings > order->frees + WEIGHS_LITTLE ? memory_left() : UINT64_MAX;
}

/* A policy that is on the disk and cannot be applied would end each start. The lines themselves have been
 * read by now; but the next start reads them again, beside the file. What takes away, or brings little,
 * is never refused: nor is it where memory is short anyway. */
static bool check_memory(write_order *order) {
    enum { MEBIBYTE = 1 << 20 };
    char text[32];
    uint64_t after = memory_after(order);
    if (order->brings <= order->frees + WEIGHS_LITTLE) return true;
    uint64_t most = config_get("maxmemory", text, sizeof text) ? strtoull(text, NULL, 10) : 0;
    if (order->brings - order->frees > order->left)
        return fail(&order->why,
                    "MEMORY the change takes about %llu MB more, and this node has %llu MB left: "
                    "give it more (RLIMIT_AS, its control group, the machine), or fewer lines",
                    (unsigned long long)(order->brings - order->frees) / MEBIBYTE + 1,
                    (unsigned long long)order->left / MEBIBYTE);
    return most == 0 || after <= most / 4 ||
           fail(&order->why,
                "MEMORY the policy would take about %llu MB, which is more than a quarter of "
                "maxmemory (%llu MB): its users would displace the data. Raise maxmemory, or give "
                "it "
                "fewer lines",
                (unsigned long long)after / MEBIBYTE + 1, (unsigned long long)most / MEBIBYTE);
}

static progress refuse_order(write_order *order, slice *now) {
    (void)now;
    tell_journal();
    tell_unwritten(order->why.text);
    node.look.next = 0;
    end_order(order);
    return STEP_OVER;
}

static void *write_in_thread(void *data) {
    write_order *order = data;
    fault why;
    if (make_markers(&why) &&
        journal_append(node.journal, node.policy, order->change, &order->next, &why)) {
        patch_prepare(order->change);
        order->next_step = commit;
    } else {
        fail(&order->why, "JOURNAL %.200s; the old policy stays in force", why.text);
        order->next_step = refuse_order;
    }
    RedisModule_EventLoopAddOneShot(take_back, order);
    return NULL;
}

static void hand_over(write_order *order, void *(*work)(void *)) {
    order->here = false;
    if (in_thread(work, order)) return;
    fail(&order->why, "JOURNAL no thread could be started; the old policy stays in force");
    end_order(order);
}

/* A look at the journal may write it again, from the policy in force. */
static progress write_down(write_order *order, slice *now) {
    (void)now;
    if (node.look.under_way) return STEP_AGAIN;
    hand_over(order, write_in_thread);
    return STEP_OVER;
}

/* Also after problems with the lines: all are named at once. */
static progress check(write_order *order, slice *now) {
    order->when = transition_of(order->change);
    if (check_lines(order, now)) return STEP_AGAIN;
    if (patch_problems(order->change) || !check_change(order) || !check_memory(order) ||
        !check_login_of_server(order)) {
        end_order(order);
        return STEP_OVER;
    }
    order->next_step = write_down;
    return STEP_NEXT;
}

static void *finish_in_thread(void *data) {
    write_order *order = data;
    read_lines(order->change, order->whole, &order->given, 1, NULL);
    patch_finish(order->change, order->whole);
    weigh(order);
    order->next_step = check;
    RedisModule_EventLoopAddOneShot(take_back, order);
    return NULL;
}

/* A sender that may cut itself off (FORCE) leaves its user for the time being: with the user its
 * connection would go, before the reply. */
static void step_aside(RedisModuleCtx *ctx, write_order *order) {
    session *s = session_find(order->sender);
    if (!order->force || s == NULL || s->user == NULL) return;
    order->sender_user = string_of(string_span(s->user));
    sit_on_nobody(ctx, s);
}

static stamp next_stamp(const options *o) {
    stamp next = {.generation = (uint64_t)o->generation,
                  .epoch = o->has_epoch ? (uint64_t)o->epoch : node.stamp.epoch};
    if (o->owner.len) memcpy(next.owner, o->owner.ptr, o->owner.len);
    return next;
}

/* Takes `change` and `given`. */
int start_order(RedisModuleCtx *ctx, patch *change, given_lines given, const options *o) {
    write_order *order = must(calloc(1, sizeof *order));
    order->change = change;
    order->given = given;
    order->whole = o->whole;
    order->force = o->force;
    order->has_digest = o->has_digest;
    snprintf(order->digest, sizeof order->digest, "%.*s", (int)o->digest.len,
             o->digest.len ? (const char *)o->digest.ptr : "");
    order->next = next_stamp(o);
    order->sender = RedisModule_GetClientId(ctx);
    step_aside(ctx, order);
    order->client = RedisModule_BlockClient(ctx, reply_order, NULL, free_order, 0);
    node.order = order;
    hand_over(order, finish_in_thread);
    return REDISMODULE_OK;
}

/* Where a client may not wait for its answer: in MULTI and in scripts; and while a dataset is loaded, when
 * no timer of ours runs. */
bool may_wait(RedisModuleCtx *ctx) {
    int never = REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA |
                REDISMODULE_CTX_FLAGS_DENY_BLOCKING | REDISMODULE_CTX_FLAGS_LOADING;
    return (RedisModule_GetContextFlags(ctx) & never) == 0;
}
