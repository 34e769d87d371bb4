/* A policy: a set of lines in a hash table, a change to it, and the decision under it. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/x509.h>

/* As in the server: without memory there is nothing better to do than to stop (zmalloc.c). */
static void *must(void *p) {
    if (p == NULL) {
        fputs("certauth: out of memory\n", stderr);
        abort();
    }
    return p;
}

/* ---- Tables ---- */

/* Rules in a dense array, found by their keys through `slots` (index + 1; 0 is free), which are probed
 * linearly and kept at most half full. No two rules of a table have one key. The keys are SHA-256, so
 * their first bytes serve as the hash. */
typedef struct {
    rule **rules;
    uint32_t *slots;
    size_t count, room;
} table;

static size_t home(const table *t, const uint8_t *key) {
    size_t hash;
    memcpy(&hash, key, sizeof hash);
    return hash & (t->room * 2 - 1);
}
static size_t after(const table *t, size_t slot) { return (slot + 1) & (t->room * 2 - 1); }

static void put_slot(table *t, size_t index) {
    size_t slot = home(t, t->rules[index]->key);
    while (t->slots[slot]) slot = after(t, slot);
    t->slots[slot] = (uint32_t)index + 1;
}

static void table_reserve(table *t, size_t count) {
    if (count <= t->room) return;
    size_t room = t->room ? t->room : 8;
    while (room < count) room *= 2;
    free(t->slots);
    t->rules = must(realloc(t->rules, room * sizeof *t->rules));
    t->slots = must(calloc(room * 2, sizeof *t->slots));
    t->room = room;
    for (size_t i = 0; i < t->count; i++) put_slot(t, i);
}

static void table_add(table *t, rule *r) {
    table_reserve(t, t->count + 1);
    t->rules[t->count] = r;
    put_slot(t, t->count++);
}

/* The slot of the rule with that key, or -1. */
static long find_slot(const table *t, const uint8_t *key) {
    if (t->count == 0) return -1;
    for (size_t slot = home(t, key); t->slots[slot]; slot = after(t, slot)) {
        if (memcmp(t->rules[t->slots[slot] - 1]->key, key, HASH_BYTES) == 0) return (long)slot;
    }
    return -1;
}

static rule *table_find(const table *t, const uint8_t *key) {
    long slot = find_slot(t, key);
    return slot < 0 ? NULL : t->rules[t->slots[slot] - 1];
}

/* Frees a slot and moves up those that had been pushed past it (Knuth 6.4, algorithm R). */
static void free_slot(table *t, size_t hole) {
    size_t mask = t->room * 2 - 1;
    for (size_t slot = after(t, hole); t->slots[slot]; slot = after(t, slot)) {
        size_t start = home(t, t->rules[t->slots[slot] - 1]->key);
        if (((slot - start) & mask) < ((slot - hole) & mask)) continue;
        t->slots[hole] = t->slots[slot];
        hole = slot;
    }
    t->slots[hole] = 0;
}

/* Takes `r` out; the last rule of the array takes its place. */
static void table_remove(table *t, const rule *r) {
    long slot = find_slot(t, r->key);
    if (slot < 0) return;
    size_t index = t->slots[slot] - 1, last = t->count - 1;
    long moved = find_slot(t, t->rules[last]->key);
    t->rules[index] = t->rules[last];
    t->slots[moved] = (uint32_t)index + 1;
    t->count = last;
    free_slot(t, (size_t)slot);
}

static void table_free(table *t, bool rules) {
    for (size_t i = 0; rules && i < t->count; i++) rule_free(t->rules[i]);
    free(t->rules);
    free(t->slots);
}

/* A table of how many rules have an alias: each entry is no line, but a key and a count (`number`). */
static void tally(table *t, const uint8_t *alias, int change) {
    rule *entry = alias ? table_find(t, alias) : NULL;
    if (alias == NULL) return;
    if (entry == NULL) {
        entry = must(calloc(1, sizeof *entry));
        memcpy(entry->key, alias, HASH_BYTES);
        table_add(t, entry);
    }
    entry->number += (uint32_t)change;
    if (entry->number) return;
    table_remove(t, entry);
    rule_free(entry);
}

static uint32_t tallied(const table *t, const uint8_t *alias) {
    const rule *entry = table_find(t, alias);
    return entry ? entry->number : 0;
}

/* ---- Digest ---- */

static uint64_t counted(const rule *r) { return r->type != LINE_WAS; }

static void digest_change(digest *d, const rule *r, bool add) {
    uint8_t hash[HASH_BYTES];
    if (!counted(r)) return;
    sha256(rule_text(r), hash);
    d->lines += add ? 1 : UINT64_MAX;
    int carry = add ? 0 : 1; /* subtraction adds the complement */
    for (size_t i = HASH_BYTES; i-- > 0;) {
        carry += d->sum[i] + (add ? hash[i] : 0xff - hash[i]);
        d->sum[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

void digest_print(const digest *d, char out[DIGEST_TEXT]) {
    int len = snprintf(out, DIGEST_TEXT, "%llu:", (unsigned long long)d->lines);
    writer w = {(uint8_t *)out + len, 0, (size_t)(DIGEST_TEXT - len - 1), false};
    put_hex(&w, span_of(d->sum, HASH_BYTES));
    out[(size_t)len + w.len] = 0;
}

/* ---- The policy ---- */

struct policy {
    table lines;   /* every rule, owned */
    table aliases; /* how many `ca` lines have a key, how many `allow` lines a CN */
    digest sum;
    int settings[SETTINGS];
    size_t binds[BIND_KINDS], limits;
    X509_STORE *store;
};

policy *policy_new(void) {
    policy *p = must(calloc(1, sizeof *p));
    return p;
}

void policy_free(policy *p) {
    if (p == NULL) return;
    table_free(&p->aliases, true);
    table_free(&p->lines, true);
    X509_STORE_free(p->store);
    free(p);
}

void policy_swap(policy *a, policy *b) {
    policy kept = *a;
    *a = *b;
    *b = kept;
}

digest policy_digest(const policy *p) { return p->sum; }
int policy_setting(const policy *p, setting s) { return p->settings[s]; }
size_t policy_rules(const policy *p) { return p->lines.count; }
const rule *policy_rule(const policy *p, size_t index) { return p->lines.rules[index]; }
X509_STORE *policy_store(const policy *p) { return p->store; }

const rule *policy_user(const policy *p, line_type type, span name) {
    uint8_t key[HASH_BYTES];
    key_of(key, type, 0, name, span_of(NULL, 0));
    return table_find(&p->lines, key);
}

static void build_store(policy *p) {
    X509_STORE_free(p->store);
    p->store = NULL;
    for (size_t i = 0; i < p->lines.count; i++) {
        X509 *certificate = p->lines.rules[i]->certificate;
        if (certificate == NULL) continue;
        if (p->store == NULL) p->store = must(X509_STORE_new());
        X509_STORE_add_cert(p->store, certificate);
    }
}

static void policy_put(policy *p, rule *r) {
    table_add(&p->lines, r);
    tally(&p->aliases, rule_alias(r), 1);
    if (r->type == LINE_SET) p->settings[r->kind] = r->value;
    if (r->type == LINE_BIND) p->binds[r->kind]++;
    if (r->type == LINE_LIMIT) p->limits++; /* of a bootstrap file, which never changes */
}

static void policy_take(policy *p, rule *r) {
    if (r->type == LINE_SET) p->settings[r->kind] = 0;
    if (r->type == LINE_BIND) p->binds[r->kind]--;
    tally(&p->aliases, rule_alias(r), -1);
    table_remove(&p->lines, r);
    rule_free(r);
}

/* ---- Changes ---- */

enum { PROBLEMS = 32 };

struct patch {
    const policy *base;
    patch_source source;
    table added;   /* owned */
    table removed; /* rules of `base` */
    table aliases; /* by how much their counts change, modulo 2^32 */
    digest sum;
    size_t problems;
    struct {
        size_t number;
        fault why;
    } problem[PROBLEMS];
};

patch *patch_new(const policy *base, patch_source source) {
    patch *p = must(calloc(1, sizeof *p));
    p->base = base;
    p->source = source;
    return p;
}

void patch_free(patch *p) {
    if (p == NULL) return;
    table_free(&p->aliases, true);
    table_free(&p->added, true);
    table_free(&p->removed, false);
    free(p);
}

void patch_problem(patch *p, size_t number, const char *text) {
    if (p->problems < PROBLEMS) {
        p->problem[p->problems].number = number;
        fail(&p->problem[p->problems].why, "%s", text);
    }
    p->problems++;
}

size_t patch_problems(const patch *p) { return p->problems; }

const char *patch_problem_text(const patch *p, size_t index, size_t *number) {
    if (index >= p->problems || index >= PROBLEMS) return NULL;
    *number = p->problem[index].number;
    return p->problem[index].why.text;
}

/* Which lines may come from where. */
static const char *out_of_place(patch_source source, line_type type) {
    switch (source) {
    case FROM_JOURNAL:
        return type == LINE_LIMIT ? "limit lines belong into the bootstrap file" : NULL;
    case FROM_BOOTSTRAP:
        return type == LINE_CA || type == LINE_ANCHOR || type == LINE_BIND || type == LINE_USER ||
                       type == LINE_LIMIT
                   ? NULL
                   : "a bootstrap file holds ca, anchor, bind, user and limit lines only";
    case FROM_WIRE: break;
    }
    if (type == LINE_LIMIT) return "limit lines belong into the bootstrap file";
    return type == LINE_WAS ? "was lines are the node's own notes" : NULL;
}

/* The parsed line, or NULL with the problem kept. */
static rule *patch_parse(patch *p, span text, size_t number) {
    fault why;
    rule *r = rule_parse(text, &why);
    if (r == NULL) {
        patch_problem(p, number, why.text);
        return NULL;
    }
    const char *misplaced = number ? out_of_place(p->source, rule_type(r)) : NULL;
    if (misplaced == NULL) {
        r->number = (uint32_t)number;
        return r;
    }
    patch_problem(p, number, misplaced);
    rule_free(r);
    return NULL;
}

void patch_add(patch *p, span text, size_t number) {
    rule *r = patch_parse(p, text, number);
    if (r == NULL) return;
    const rule *twin = table_find(&p->added, r->key);
    if (twin == NULL) {
        table_add(&p->added, r);
        return;
    }
    fault why;
    bool same = span_equal(rule_text(r), rule_text(twin));
    fail(&why,
         same ? "the same line as line %u"
              : "says something else than line %u, which has the same key",
         twin->number);
    patch_problem(p, number, why.text);
    rule_free(r);
}

void patch_remove(patch *p, span text, size_t number) {
    rule *r = patch_parse(p, text, number);
    if (r == NULL) return;
    rule *held = table_find(&p->base->lines, r->key);
    if (held == NULL || !span_equal(rule_text(held), rule_text(r))) {
        patch_problem(p, number, "the policy does not hold this line");
    } else if (table_find(&p->removed, r->key)) {
        patch_problem(p, number, "this line is removed twice");
    } else {
        table_add(&p->removed, held);
    }
    rule_free(r);
}

/* LOAD: what stays as it is is no change; all else goes, but for the node's own notes. */
static void patch_whole(patch *p) {
    const table *base = &p->base->lines;
    for (size_t i = 0; i < base->count; i++) {
        rule *held = base->rules[i], *twin = table_find(&p->added, held->key);
        if (held->type == LINE_WAS) continue;
        if (twin && span_equal(rule_text(held), rule_text(twin))) {
            table_remove(&p->added, twin);
            rule_free(twin);
        } else {
            table_add(&p->removed, held);
        }
    }
}

/* A line may come only where none with its key stays. */
static void patch_check(patch *p) {
    for (size_t i = 0; i < p->added.count; i++) {
        const rule *r = p->added.rules[i], *held = table_find(&p->base->lines, r->key);
        if (held == NULL || table_find(&p->removed, r->key)) continue;
        patch_problem(p, r->number,
                      span_equal(rule_text(held), rule_text(r))
                          ? "the policy holds this line already"
                          : "the policy holds another line with the same key: remove it in the "
                            "same patch");
    }
}

bool patch_finish(patch *p, bool whole) {
    if (whole) patch_whole(p);
    patch_check(p);
    p->sum = p->base->sum;
    for (size_t i = 0; i < p->removed.count; i++) {
        digest_change(&p->sum, p->removed.rules[i], false);
        tally(&p->aliases, rule_alias(p->removed.rules[i]), -1);
    }
    for (size_t i = 0; i < p->added.count; i++) {
        digest_change(&p->sum, p->added.rules[i], true);
        tally(&p->aliases, rule_alias(p->added.rules[i]), 1);
    }
    return p->problems == 0;
}

size_t patch_count(const patch *p, bool added) { return added ? p->added.count : p->removed.count; }

const rule *patch_rule(const patch *p, bool added, size_t index, size_t *number) {
    const rule *r = added ? p->added.rules[index] : p->removed.rules[index];
    if (number) *number = r->number;
    return r;
}

digest patch_digest(const patch *p) { return p->sum; }

const rule *patch_user(const patch *p, line_type type, span name) {
    uint8_t key[HASH_BYTES];
    key_of(key, type, 0, name, span_of(NULL, 0));
    return view_find(&(view){p->base, p}, key);
}

int patch_setting(const patch *p, setting s) { return view_setting(&(view){p->base, p}, s); }

void policy_commit(policy *base, patch *p) {
    bool authorities = false;
    for (size_t i = 0; i < p->removed.count; i++) {
        authorities = authorities || p->removed.rules[i]->certificate;
        policy_take(base, p->removed.rules[i]);
    }
    table_reserve(&base->lines, base->lines.count + p->added.count);
    for (size_t i = 0; i < p->added.count; i++) {
        authorities = authorities || p->added.rules[i]->certificate;
        policy_put(base, p->added.rules[i]);
    }
    base->sum = p->sum;
    p->added.count = p->removed.count = 0; /* they are base's now, or gone */
    patch_free(p);
    if (authorities) build_store(base);
}

/* ---- Views ---- */

const rule *view_find(const view *v, const uint8_t key[HASH_BYTES]) {
    if (v->pending) {
        const rule *added = table_find(&v->pending->added, key);
        if (added) return added;
        if (table_find(&v->pending->removed, key)) return NULL;
    }
    return table_find(&v->base->lines, key);
}

bool view_alias(const view *v, const uint8_t alias[HASH_BYTES]) {
    uint32_t change = v->pending ? tallied(&v->pending->aliases, alias) : 0;
    return tallied(&v->base->aliases, alias) + change != 0;
}

int view_setting(const view *v, setting s) {
    uint8_t key[HASH_BYTES];
    key_of(key, LINE_SET, (int)s, span_of(NULL, 0), span_of(NULL, 0));
    const rule *r = v->pending ? view_find(v, key) : NULL;
    return v->pending ? (r ? r->value : 0) : v->base->settings[s];
}

bool view_binds(const view *v, bind_kind kind) { return v->pending || v->base->binds[kind]; }

/* ---- The decision ---- */

/* One judgement: under which lines, and what the leaf maps to, gathered in one pass over what it can
 * be bound by. */
typedef struct {
    const view *lines;
    const view *revocations; /* the policy's, also where the bootstrap file is judged */
    const policy
        *bootstrap; /* whose users are not the policy's to give; NULL while it is judged itself */
    const request *r;
    const rule *line; /* the first that matched */
    bool ambiguous, conflict, elsewhere, peer;
    uint32_t session;
} match;

/* Is it the policy that is judged, and not the bootstrap file? */
static bool is_policy(const match *m) { return m->bootstrap || m->lines == m->revocations; }

/* The gate is for people and programs: neither the bootstrap file nor a node's peers stand before it. */
static bool is_gated(const match *m) { return is_policy(m) && !m->peer; }

static bool same_users(const rule *a, const rule *b) {
    for (size_t i = 0;; i++) {
        span user = rule_user(a, i), other = rule_user(b, i);
        if (!span_equal(user, other)) return false;
        if (user.len == 0) return true;
    }
}

static void take_line(match *m, const rule *line, bool repeated) {
    if (line == NULL) return;
    if (m->line == NULL) m->line = line;
    m->ambiguous = m->ambiguous || repeated;
    m->conflict = m->conflict || !same_users(m->line, line);
    m->elsewhere = m->elsewhere || !rule_covers(line, m->r->address);
    m->peer = m->peer || rule_binds_peer(line);
    if (line->session && (m->session == 0 || line->session < m->session))
        m->session = line->session;
}

/* A line without ca= binds whichever trusted CA vouches; one with it, only where that CA's key is
 * in the path. */
static bool take_binding(bind_kind kind, span value, bool repeated, void *data) {
    match *m = data;
    uint8_t key[HASH_BYTES];
    if (!view_binds(m->lines, kind)) return true;
    key_of(key, LINE_BIND, kind, value, span_of(NULL, 0));
    take_line(m, view_find(m->lines, key), repeated);
    const path *issuers = m->r->issuers;
    for (size_t i = 0; issuers->known && i < issuers->count; i++) {
        key_of(key, LINE_BIND, kind, value, span_of(issuers->ca[i].key, HASH_BYTES));
        take_line(m, view_find(m->lines, key), repeated);
    }
    return true;
}

static bool is_revoked(const view *revocations, const uint8_t *issuer, span serial,
                       const uint8_t *cert, const uint8_t *own) {
    const span none = {0};
    uint8_t key[HASH_BYTES];
    key_of(key, LINE_REVOKE, REVOKE_SERIAL, span_of(issuer, HASH_BYTES), serial);
    if (view_find(revocations, key)) return true;
    key_of(key, LINE_REVOKE, REVOKE_CERT, span_of(cert, HASH_BYTES), none);
    if (view_find(revocations, key)) return true;
    key_of(key, LINE_REVOKE, REVOKE_KEY, span_of(own, HASH_BYTES), none);
    return view_find(revocations, key) != NULL;
}

/* A node's peer comes from the CA of the servers, which need not be one of clients: its own key is
 * known, and the handshake has verified it. */
static reason check_path(const match *m) {
    const request *r = m->r;
    const path *p = r->issuers;
    uint8_t alias[HASH_BYTES];
    bool trusted = false;
    for (size_t i = 0; p->known && i < p->count && !trusted; i++) {
        alias_authority(alias, p->ca[i].key);
        trusted = view_alias(m->lines, alias);
    }
    if (!trusted && !m->peer) return REASON_UNTRUSTED_ISSUER;
    for (size_t i = 0; p->known && i < p->count; i++) {
        const authority *ca = &p->ca[i], *issuer = i + 1 < p->count ? &p->ca[i + 1] : ca;
        if (r->now < ca->not_before || r->now > ca->not_after) return REASON_CA_EXPIRED;
        if (is_revoked(m->revocations, issuer->key, span_of(ca->serial, ca->serial_len), ca->cert,
                       ca->key)) {
            return REASON_CA_REVOKED;
        }
    }
    return REASON_UNDECIDED;
}

static bool passes_gate(const view *lines, const identity *leaf) {
    uint8_t key[HASH_BYTES];
    bind_kind kind;
    span value;
    int gate = view_setting(lines, SET_GATE);
    if (gate == GATE_DISABLED) return true;
    if (gate == GATE_FULL_SUBJECT) return key_allow(key, leaf->subject) && view_find(lines, key);
    if (name_common_names(leaf->subject, &value) == 1) {
        alias_common_name(key, value);
        if (view_alias(lines, key)) return true;
    }
    for (size_t at = 0; identity_next_san(leaf, &at, &kind, &value);) {
        alias_common_name(key, value);
        if (kind == BIND_DNS && view_alias(lines, key)) return true;
    }
    return false;
}

/* An OpenSSL command line, or a habit of another server, has the subject the other way round. */
static const char *near_miss(const view *lines, const identity *leaf) {
    uint8_t key[HASH_BYTES], reversed[NAME_BYTES];
    if (leaf->subject.len == 0 || leaf->subject.len > sizeof reversed) return NULL;
    name_reverse(leaf->subject, reversed);
    key_of(key, LINE_BIND, BIND_SUBJECT, span_of(reversed, leaf->subject.len), span_of(NULL, 0));
    return view_find(lines, key)
               ? "a `bind subject` line has the same attributes in the opposite order"
               : NULL;
}

/* May the policy give this user at all? Not one of the bootstrap file; and where that limits users, only
 * such as have a `user` line, for nothing limits the others. */
static bool is_for_policy(const match *m, const rule *line, span user) {
    if (m->bootstrap == NULL) return true;
    return !policy_user(m->bootstrap, LINE_USER, user) && (line || !m->bootstrap->limits);
}

/* `user` lines that are not applied yet say what the server's users will be: those of a change, and
 * all of a policy that is not enforced. */
static reason check_user(const match *m, span user) {
    const request *r = m->r;
    uint8_t key[HASH_BYTES];
    key_of(key, LINE_USER, 0, user, span_of(NULL, 0));
    bool on = !is_policy(m) || view_setting(m->lines, SET_ENFORCE) == ENFORCE_ON;
    bool applied = r->ask && !r->pending && on;
    const rule *line = view_find(m->lines, key);
    if (!is_for_policy(m, line, user)) return REASON_USER_MISSING;
    if (line == NULL && r->pending && table_find(&m->lines->base->lines, key))
        return REASON_USER_MISSING;
    if (applied) line = NULL;
    user_state state = line     ? (line->on ? USER_ON : USER_OFF)
                       : r->ask ? r->ask(user, r->data)
                                : USER_UNKNOWN;
    return state == USER_MISSING ? REASON_USER_MISSING
           : state == USER_OFF   ? REASON_USER_OFF
                                 : REASON_MATCHED;
}

/* The checks of the certificate itself, in the order of enum reason. */
static reason check_leaf(const match *m) {
    const request *r = m->r;
    const identity *leaf = r->leaf;
    span cn;
    if (leaf->refusal) return leaf->refusal;
    bool by_name = is_gated(m) && view_setting(m->lines, SET_GATE) == GATE_SAN_CN;
    if (m->ambiguous || (by_name && name_common_names(leaf->subject, &cn) > 1))
        return REASON_AMBIGUOUS;
    reason bad = check_path(m);
    if (bad) return bad;
    if (r->now < leaf->not_before) return REASON_NOT_YET_VALID;
    if (r->now > leaf->not_after) return REASON_EXPIRED;
    if (!leaf->client) return REASON_KEY_USAGE;
    static const uint8_t unknown[HASH_BYTES];
    const uint8_t *issuer = r->issuers->known ? r->issuers->ca[0].key : unknown;
    if (is_revoked(m->revocations, issuer, leaf->serial, leaf->cert, leaf->key)) {
        return REASON_REVOKED;
    }
    return is_gated(m) && !passes_gate(m->lines, leaf) ? REASON_GATE : REASON_UNDECIDED;
}

/* One of several is asked about when it is chosen; but none may be one that is not to be given. */
static reason check_choice(const match *m) {
    span user;
    uint8_t key[HASH_BYTES];
    for (size_t i = 0; (user = rule_user(m->line, i)).len; i++) {
        key_of(key, LINE_USER, 0, user, span_of(NULL, 0));
        if (!is_for_policy(m, view_find(m->lines, key), user)) return REASON_USER_MISSING;
    }
    return REASON_MATCHED;
}

static reason check_match(const match *m) {
    if (m->line == NULL) return REASON_NO_BINDING;
    if (m->conflict) return REASON_CONFLICT;
    if (m->elsewhere) return REASON_ADDRESS;
    return rule_user(m->line, 1).len ? check_choice(m) : check_user(m, rule_user(m->line, 0));
}

static int64_t path_end(const request *r) {
    int64_t end = r->leaf->not_after;
    for (size_t i = 0; i < r->issuers->count; i++) {
        if (r->issuers->ca[i].not_after < end) end = r->issuers->ca[i].not_after;
    }
    return end;
}

static const char *why_missing(const match *m) {
    if (m->bootstrap == NULL) return NULL;
    if (policy_user(m->bootstrap, LINE_USER, rule_user(m->line, 0)))
        return "the user belongs to the bootstrap file, and is not the policy's to give";
    return m->bootstrap->limits ? "the bootstrap file has limits, so only a user with a `user` line "
                                  "can be bound"
                                : NULL;
}

/* `bound`: some line names this leaf, whatever else is wrong with it. */
static decision judge(match m, bool *bound) {
    const request *r = m.r;
    decision d = {.act = ACTION_REFUSE, .detail = r->leaf->detail};
    if (!r->leaf->refusal) identity_bindings(r->leaf, take_binding, &m);
    *bound = m.line != NULL;
    d.why = check_leaf(&m);
    if (d.why) return d;
    d.why = check_match(&m);
    d.line = m.line;
    if (d.why == REASON_NO_BINDING) d.detail = near_miss(m.lines, r->leaf);
    if (d.why == REASON_USER_MISSING) d.detail = why_missing(&m);
    if (d.why != REASON_MATCHED) return d;
    d.act = rule_user(m.line, 1).len ? ACTION_CHOOSE : ACTION_LOGIN;
    d.until = path_end(r);
    d.session = m.session;
    return d;
}

static decision decide_on(const view *lines, const policy *bootstrap, const request *r) {
    bool bound;
    decision d = {.act = ACTION_REFUSE, .why = REASON_NO_CERTIFICATE};
    if (r->leaf == NULL) {
        if (view_setting(lines, SET_PLAIN) == PLAIN_LEAVE) d.act = ACTION_LEAVE;
        return d;
    }
    d = judge((match){.lines = lines, .revocations = lines, .bootstrap = bootstrap, .r = r},
              &bound);
    bool nobody = d.why == REASON_UNTRUSTED_ISSUER || d.why == REASON_NO_BINDING;
    if (nobody && view_setting(lines, SET_UNMATCHED) == UNMATCHED_LEAVE) d.act = ACTION_LEAVE;
    return d;
}

decision policy_decide(const policy *p, const policy *bootstrap, const request *r) {
    view lines = {p, r->pending}, own = {bootstrap, NULL};
    if (r->leaf && bootstrap) {
        bool bound;
        decision d = judge((match){.lines = &own, .revocations = &lines, .r = r}, &bound);
        /* Who is bound there is the node's own: refused there, it is not the policy's to let in. */
        if (d.why > REASON_NO_BINDING || (bound && d.why > REASON_UNTRUSTED_ISSUER)) return d;
    }
    if (r->no_journal) return (decision){.act = ACTION_REFUSE, .why = REASON_NO_JOURNAL};
    if (r->no_policy && !r->pending)
        return (decision){.act = ACTION_LEAVE, .why = REASON_NO_POLICY};
    int enforce = view_setting(&lines, SET_ENFORCE);
    if (enforce == ENFORCE_OFF) return (decision){.act = ACTION_LEAVE, .why = REASON_OFF};
    decision d = decide_on(&lines, bootstrap, r);
    d.shadow = enforce == ENFORCE_SHADOW;
    return d;
}
