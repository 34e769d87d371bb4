/* CERTAUTH.POLICY SHOW and STATUS, and INFO. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>

/* ---- CERTAUTH.POLICY SHOW and STATUS ---- */

/* SHOW_BYTES: of the lines that a call looks at, a millisecond or two. */
enum { SHOW_LINES = 1000, SHOW_MOST = 10000, SHOW_BYTES = 1 << 20 };

/* A cursor is good for one edition of the policy: a change moves lines. */
static bool read_cursor(span text, page *p, fault *why) {
    unsigned long long edition = 0, from = 0;
    char copy[64];
    int used = 0;
    if (span_equal(text, LITERAL("0"))) return true;
    snprintf(copy, sizeof copy, "%.*s", (int)text.len, (const char *)text.ptr);
    if (sscanf(copy, "%llu-%llu%n", &edition, &from, &used) != 2 || (size_t)used != text.len)
        return fail(why, "ERR not a cursor: start with 0, then send the cursor of the last reply");
    p->edition = edition;
    p->from = from;
    return edition == node.edition ||
           fail(why, "CURSOR the policy has changed: start again with cursor 0");
}

static bool read_show(RedisModuleString **argv, int argc, page *p, fault *why) {
    memset(p, 0, sizeof *p);
    p->count = SHOW_LINES;
    if (argc % 2) return fail(why, "ERR takes MATCH glob, COUNT n and CURSOR c");
    for (int i = 2; i < argc; i += 2) {
        if (string_is(argv[i], "MATCH")) {
            p->matches = string_span(argv[i + 1]).len > 0;
            if (!glob_read(string_span(argv[i + 1]), &p->match))
                return fail(why, "ERR MATCH takes at most %d characters", GLOB_PLACES);
        } else if (string_is(argv[i], "CURSOR")) {
            if (!read_cursor(string_span(argv[i + 1]), p, why)) return false;
        } else if (string_is(argv[i], "COUNT")) {
            if (!read_number(argv[i + 1], &p->count, why)) return false;
        } else return fail(why, "ERR takes MATCH glob, COUNT n and CURSOR c");
    }
    if (p->count < 1 || p->count > SHOW_MOST) p->count = SHOW_MOST;
    return true;
}

/* SHOW [MATCH glob] [COUNT n] [CURSOR c]: the cursor that goes on from here, 0 at the end; and of the next
 * n lines, or as many as are a mebibyte, those that match. */
int policy_show(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    page p;
    fault why;
    char cursor[64] = "0";
    const rule *shown[SHOW_MOST];
    size_t found = 0, total = policy_rules(node.policy), at, bytes = 0;
    if (!may_administer(ctx, "LIST")) return deny(ctx, "LIST");
    if (!read_show(argv, argc, &p, &why)) return RedisModule_ReplyWithError(ctx, why.text);
    for (at = p.from; at < total && at < p.from + (uint64_t)p.count && bytes < SHOW_BYTES; at++) {
        const rule *r = policy_rule(node.policy, at);
        bytes += rule_text(r).len;
        if (rule_type(r) != LINE_WAS && (!p.matches || glob_matches(&p.match, rule_text(r))))
            shown[found++] = r;
    }
    if (at < total)
        snprintf(cursor, sizeof cursor, "%llu-%zu", (unsigned long long)node.edition, at);
    RedisModule_ReplyWithArray(ctx, 2);
    RedisModule_ReplyWithStringBuffer(ctx, cursor, strlen(cursor));
    RedisModule_ReplyWithArray(ctx, (long)found);
    for (size_t i = 0; i < found; i++) {
        span text = rule_text(shown[i]);
        RedisModule_ReplyWithStringBuffer(ctx, (const char *)text.ptr, text.len);
    }
    return REDISMODULE_OK;
}

/* The keys that are shown, the key that waits to be shown, and what is wrong. */
static void reply_own(RedisModuleCtx *ctx) {
    static const char *const names[] = {"key", "client_key"};
    const own_certificate *o = &node.own;
    for (int i = 0; i < 2; i++) {
        uint8_t key[HASH_BYTES];
        size_t len = doors_own_key(i, key) ? HASH_BYTES : 0;
        reply_hex(ctx, names[i], span_of(key, len));
    }
    reply_hex(ctx, "next_key", span_of(o->next, o->waits ? HASH_BYTES : 0));
    reply_named(ctx, "certificate", o->wrong.text[0] ? o->wrong.text : "ok");
}

int policy_status(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    static const char *const enforce[] = {"off", "shadow", "on"};
    (void)argv;
    if (argc != 2) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "LIST")) return deny(ctx, "LIST");
    char text[DIGEST_TEXT];
    digest sum = policy_digest(node.policy);
    digest_print(&sum, text);
    RedisModule_ReplyWithMap(ctx, 17);
    reply_named(ctx, "version", CERTAUTH_VERSION);
    reply_number(ctx, "protocol", PROTOCOL);
    reply_number(ctx, "generation", node.stamp.generation);
    reply_named(ctx, "digest", text);
    reply_number(ctx, "lines", sum.lines);
    reply_named(ctx, "owner", node.stamp.owner);
    reply_number(ctx, "epoch", node.stamp.epoch);
    reply_named(ctx, "enforce", enforce[policy_setting(node.policy, SET_ENFORCE)]);
    reply_named(ctx, "journal", journal_state());
    reply_named(ctx, "trust", node.trust_state.text);
    reply_named(ctx, "unverified", node.unverified.text);
    reply_named(ctx, "untaken", node.untaken.text);
    reply_own(ctx);
    reply_number(ctx, "sessions", RedisModule_DictSize(node.sessions));
    return REDISMODULE_OK;
}

/* ---- INFO ---- */

/* Those that a handshake can fail for. */
static void info_handshakes(RedisModuleInfoCtx *ctx) {
    static const reason whys[] = {
        REASON_NO_CERTIFICATE,    REASON_HANDSHAKE,  REASON_WEAK,
        REASON_UNKNOWN_ALGORITHM, REASON_MALFORMED,  REASON_KEY_USAGE,
        REASON_UNTRUSTED_ISSUER,  REASON_CA_EXPIRED, REASON_NOT_YET_VALID,
        REASON_EXPIRED,
    };
    char field[64];
    for (size_t i = 0; i < sizeof whys / sizeof *whys; i++) {
        snprintf(field, sizeof field, "handshakes_refused_%s", reason_name(whys[i]));
        RedisModule_InfoAddFieldULongLong(ctx, field, doors_failed(whys[i]));
    }
    RedisModule_InfoAddFieldULongLong(ctx, "handshakes_broken", doors_failed(REASON_UNDECIDED));
}

void info(RedisModuleInfoCtx *ctx, int for_crash_report) {
    static const char *const doors[] = {"open", "watched", "guarded"};
    (void)for_crash_report;
    char text[DIGEST_TEXT], field[64];
    digest sum = policy_digest(node.policy);
    digest_print(&sum, text);
    const char *state = damaged() ? "damaged" : node.lost.text[0] ? "lost" : "ok";
    RedisModule_InfoAddSection(ctx, "");
    RedisModule_InfoAddFieldCString(ctx, "version", CERTAUTH_VERSION);
    RedisModule_InfoAddFieldULongLong(ctx, "protocol", PROTOCOL);
    RedisModule_InfoAddFieldULongLong(ctx, "logins", node.logins);
    RedisModule_InfoAddFieldULongLong(ctx, "refused", node.refused);
    for (int why = REASON_UNDECIDED; why < REASON_MATCHED; why++) {
        snprintf(field, sizeof field, "refused_%s", reason_name((reason)why));
        RedisModule_InfoAddFieldULongLong(ctx, field, node.reasons[why]);
    }
    RedisModule_InfoAddFieldULongLong(ctx, "generation", node.stamp.generation);
    RedisModule_InfoAddFieldCString(ctx, "digest", text);
    RedisModule_InfoAddFieldCString(ctx, "journal", state);
    RedisModule_InfoAddFieldULongLong(ctx, "sessions", RedisModule_DictSize(node.sessions));
    RedisModule_InfoAddFieldULongLong(ctx, "memory", node.memory);
    RedisModule_InfoAddFieldULongLong(ctx, "no_room", node.no_room);
    RedisModule_InfoAddFieldULongLong(ctx, "api_certificates", node.api_reads);
    bool guards = !internal_links() || is_known_to_guard();
    RedisModule_InfoAddFieldCString(ctx, "doors", doors[guards ? doors_now() : DOORS_OPEN]);
    RedisModule_InfoAddFieldULongLong(ctx, "peers_refused", doors_refused());
    info_handshakes(ctx);
}
