/* Policy lines and a change of them: what a change makes is what a load of its result makes, and both
 * decide alike. The input is text: lines, then a NUL, then lines of a change with + or - before each. */
#include "fuzz.h"

enum { LONGEST_INPUT = 65536 };

/* ---- A leaf of many names, whom lines may bind ---- */

static void name_into(const char *text, uint8_t *at, span *out) {
    size_t len;
    fault why;
    LAW(name_parse(span_of(text, strlen(text)), at, &len, &why));
    *out = span_of(at, len);
}

static void add_san(identity *id, size_t *at, bind_kind kind, const char *value) {
    writer w = {id->bytes + 2 * NAME_BYTES + *at, 0, SAN_BYTES - *at, false};
    put_byte(&w, (uint8_t)kind);
    put_u16(&w, strlen(value));
    put_span(&w, span_of(value, strlen(value)));
    *at += w.len;
    id->sans = span_of(id->bytes + 2 * NAME_BYTES, *at);
}

static identity *leaf(void) {
    static identity id;
    size_t sans = 0;
    if (id.client) return &id;
    name_into("CN=alice,OU=eng,O=acme", id.bytes, &id.subject);
    name_into("CN=Root CA,O=acme", id.bytes + NAME_BYTES, &id.issuer);
    add_san(&id, &sans, BIND_URI, "spiffe://x/a");
    add_san(&id, &sans, BIND_DNS, "a.example");
    add_san(&id, &sans, BIND_EMAIL, "a@example.org");
    writer w = {id.bytes + 2 * NAME_BYTES + SAN_BYTES, 0, EXTENSION_BYTES, false};
    put_attribute(&w, true, LITERAL("\x2a\x03"), LITERAL("cart")); /* 1.2.3 */
    id.extensions = span_of(w.ptr, w.len);
    id.serial = span_of("\1", 1);
    id.not_after = INT64_MAX;
    id.client = id.hashed = true; /* hashes of zeros: there is no certificate */
    return &id;
}

/* ---- Laws ---- */

/* Adds lines; with `signs`, each is added or removed as its first character says. */
static void fill(patch *change, span text, bool signs) {
    span line;
    for (size_t number = 1; next_line(&text, &line); number++) {
        bool gone = signs && line.len && line.ptr[0] == '-';
        span own = exact(signs && line.len ? span_skip(line, 1) : line);
        (gone ? patch_remove : patch_add)(change, own, number);
        release(own);
    }
}

static void check_problems(const patch *change, bool good) {
    LAW(good == (patch_problems(change) == 0));
    for (size_t i = 0, number; i < patch_problems(change) && i < 32; i++)
        LAW(patch_problem_text(change, i, &number)[0]);
}

/* The text of a rule is a line that is the same rule. */
static void check_rule(const rule *r) {
    fault why;
    span text = exact(rule_text(r));
    rule *again = rule_parse(text, &why);
    LAW(text_clean(text) && again);
    LAW(span_equal(rule_text(again), text) && rule_type(again) == rule_type(r));
    rule_free(again);
    release(text);
}

/* The policy that a load of these rules makes. */
static policy *loaded(const policy *p) {
    policy *made = policy_new();
    patch *all = patch_new(made, FROM_WIRE);
    for (size_t i = policy_rules(p); i > 0; i--)
        patch_add(all, rule_text(policy_rule(p, i - 1)), i);
    LAW(patch_finish(all, true));
    policy_commit(made, all);
    patch_free(all);
    return made;
}

static void check_decision(const policy *p, const policy *q) {
    static char trace[65536];
    path issuers = {.known = true, .count = 1};
    issuers.ca[0].not_after = INT64_MAX;
    for (int last = 0; last < 2; last++) {
        request r = {.leaf = last ? leaf() : NULL, .issuers = &issuers, .now = 1800000000};
        decision d = policy_decide(p, NULL, &r), e = policy_decide(q, NULL, &r);
        LAW(d.act == e.act && d.why == e.why && d.shadow == e.shadow && d.session == e.session);
        LAW(span_equal(decision_user(&d, 0), decision_user(&e, 0)));
        LAW((d.act == ACTION_LOGIN || d.act == ACTION_CHOOSE) == (d.why == REASON_MATCHED));
        LAW(decision_explain(p, &r, &d, 1 << 15, trace, sizeof trace) > 0);
    }
}

static void check_policy(const policy *p) {
    policy *q = loaded(p);
    LAW(digest_equal(policy_digest(p), policy_digest(q)));
    for (setting s = 0; s < SETTINGS; s++) LAW(policy_setting(p, s) == policy_setting(q, s));
    for (size_t i = 0; i < policy_rules(p); i++) check_rule(policy_rule(p, i));
    check_decision(p, q);
    policy_free(q);
}

/* Makes the change where it is sound: true then, and the policy is what the change foretold. */
static bool change(policy *p, span text, bool whole, bool prepare) {
    digest before = policy_digest(p);
    patch *made = patch_new(p, FROM_WIRE);
    fill(made, text, !whole);
    bool good = patch_finish(made, whole);
    check_problems(made, good);
    LAW(digest_equal(before, policy_digest(p)));
    if (good) {
        digest after = patch_digest(made);
        if (prepare) patch_prepare(made);
        policy_commit(p, made);
        LAW(digest_equal(after, policy_digest(p)));
    }
    patch_free(made);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > LONGEST_INPUT) return -1;
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    span base = span_of(data, end ? (size_t)(end - data) : size);
    span rest = end ? span_of(end + 1, size - base.len - 1) : span_of(NULL, 0);
    policy *p = policy_new();
    change(p, base, true, false);
    check_policy(p);
    if (change(p, rest, false, size % 2)) check_policy(p);
    policy_free(p);
    return 0;
}
