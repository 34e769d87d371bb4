/* A policy: a set of lines in a hash table, a change to it, and the decision under it. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/x509.h>

/* As in the server: without memory there is nothing better to do than to stop (zmalloc.c). */
void (*must_tell)(const char *text);
void *must(void *p) {
    static const char text[] = "certauth: out of memory, or a hash could not be made";
    if (p == NULL) {
        fprintf(stderr, "%s\n", text);
        if (must_tell) must_tell(text);
        abort();
    }
    return p;
}

/* ---- Tables ---- */

/* Rules in a dense array, found by their keys through `slots`, which are probed linearly and kept at
 * most half full. No two rules of a table have one key. The first bytes of a key serve as the hash; a
 * slot has it too, so that neither a miss nor growing touches a rule. */
typedef struct { uint32_t hash, at; } slot; /* at: index + 1; 0: free */
typedef struct {
    rule **rules;
    slot *slots;
    size_t count, room;
} table;

static uint32_t hash_of(const uint8_t *key) {
    uint32_t hash;
    memcpy(&hash, key, sizeof hash);
    return hash;
}
static size_t home(const table *t, uint32_t hash) { return hash & (t->room * 2 - 1); }
static size_t after(const table *t, size_t at) { return (at + 1) & (t->room * 2 - 1); }

static void put_slot(table *t, slot s) {
    size_t at = home(t, s.hash);
    while (t->slots[at].at) at = after(t, at);
    t->slots[at] = s;
}

static void table_reserve(table *t, size_t count) {
    if (count <= t->room) return;
    slot *old = t->slots;
    size_t slots = t->room * 2, room = t->room ? t->room : 8;
    while (room < count) room *= 2;
    t->rules = must(realloc(t->rules, room * sizeof *t->rules));
    t->slots = must(calloc(room * 2, sizeof *t->slots));
    t->room = room;
    for (size_t i = 0; i < slots; i++) {
        if (old[i].at) put_slot(t, old[i]);
    }
    free(old);
}

static void table_add(table *t, rule *r) {
    table_reserve(t, t->count + 1);
    t->rules[t->count++] = r;
    put_slot(t, (slot){hash_of(r->key), (uint32_t)t->count});
}

/* The slot of the rule with that key, or -1. */
static long find_slot(const table *t, const uint8_t *key) {
    uint32_t hash = hash_of(key);
    if (t->count == 0) return -1;
    for (size_t at = home(t, hash); t->slots[at].at; at = after(t, at)) {
        if (t->slots[at].hash != hash) continue;
        if (memcmp(t->rules[t->slots[at].at - 1]->key, key, KEY_BYTES) == 0) return (long)at;
    }
    return -1;
}

static rule *table_find(const table *t, const uint8_t *key) {
    long at = find_slot(t, key);
    return at < 0 ? NULL : t->rules[t->slots[at].at - 1];
}

/* Frees a slot and moves up those that had been pushed past it (Knuth 6.4, algorithm R). */
static void free_slot(table *t, size_t hole) {
    size_t mask = t->room * 2 - 1;
    for (size_t at = after(t, hole); t->slots[at].at; at = after(t, at)) {
        size_t start = home(t, t->slots[at].hash);
        if (((at - start) & mask) < ((at - hole) & mask)) continue;
        t->slots[hole] = t->slots[at];
        hole = at;
    }
    t->slots[hole] = (slot){0};
}

/* Takes `r` out; the last rule of the array takes its place. */
static void table_remove(table *t, const rule *r) {
    long at = find_slot(t, r->key);
    if (at < 0) return;
    size_t index = t->slots[at].at - 1, last = t->count - 1;
    long moved = find_slot(t, t->rules[last]->key);
    t->rules[index] = t->rules[last];
    t->slots[moved].at = (uint32_t)index + 1;
    t->count = last;
    free_slot(t, (size_t)at);
}

static void table_free(table *t, bool rules) {
    for (size_t i = 0; rules && i < t->count; i++) rule_free(t->rules[i]);
    free(t->rules);
    free(t->slots);
}

/* A table of how many rules have an alias: each entry is no line, but a key and a count (`number`). */
static void tally(table *t, const uint8_t *alias, int change) {
    rule *entry = table_find(t, alias);
    if (entry == NULL) {
        entry = must(calloc(1, sizeof *entry));
        memcpy(entry->key, alias, KEY_BYTES);
        table_add(t, entry);
    }
    entry->number += (uint32_t)change;
    if (entry->number) return;
    table_remove(t, entry);
    rule_free(entry);
}

static void tally_rule(table *t, const rule *r, int change) {
    span alias;
    for (size_t at = 0; rule_field(r, FIELD_ALIAS, &at, &alias);) tally(t, alias.ptr, change);
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
    table authorities; /* those of them with a certificate */
    table aliases; /* how many lines have a FIELD_ALIAS */
    patterns patterns;
    near_lines near;
    digest sum;
    int settings[SETTINGS];
    size_t binds[BIND_KINDS], scoped[BIND_KINDS], revokes[REVOKE_KINDS], limits; /* how many lines */
    X509_STORE *store;
};

policy *policy_new(void) {
    policy *p = must(calloc(1, sizeof *p));
    return p;
}

void policy_free(policy *p) {
    if (p == NULL) return;
    table_free(&p->aliases, true);
    table_free(&p->authorities, false);
    table_free(&p->lines, true);
    patterns_free(&p->patterns);
    near_free(&p->near);
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
size_t policy_authorities(const policy *p) { return p->authorities.count; }
const rule *policy_authority_rule(const policy *p, size_t index) { return p->authorities.rules[index]; }
X509 *policy_authority(const policy *p, size_t index) { return p->authorities.rules[index]->certificate; }
X509_STORE *policy_store(const policy *p) { return p->store; }

const near_lines *policy_near(const policy *p) { return &p->near; }

const rule *policy_user(const policy *p, line_type type, span name) {
    uint8_t key[KEY_BYTES];
    if (p->lines.count == 0) return NULL;
    key_of(key, type, 0, name, span_of(NULL, 0));
    return table_find(&p->lines, key);
}

const rule *policy_pattern_of(const policy *p, span user) {
    span word = word_of(user);
    const rule *r = word.len ? patterns_of_word(&p->patterns, word) : NULL;
    return r && rule_makes(r, user) ? r : NULL;
}

bool policy_owns_word(const policy *p, span user) {
    span word = word_of(user);
    return word.len && patterns_of_word(&p->patterns, word);
}

/* Not by X509_STORE_add_cert(3), which looks for a twin first and so sorts all there are for each. */
static void build_store(policy *p) {
    X509_STORE_free(p->store);
    p->store = p->authorities.count ? must(X509_STORE_new()) : NULL;
    for (size_t i = 0; i < p->authorities.count; i++) {
        X509_OBJECT *object = must(X509_OBJECT_new());
        X509_OBJECT_set1_X509(object, p->authorities.rules[i]->certificate);
        must(sk_X509_OBJECT_push(X509_STORE_get0_objects(p->store), object) > 0 ? object : NULL);
    }
}

static void policy_put(policy *p, rule *r) {
    table_add(&p->lines, r);
    tally_rule(&p->aliases, r, 1);
    if (r->certificate) table_add(&p->authorities, r);
    if (r->type == LINE_PATTERN) patterns_add(&p->patterns, r);
    near_add(&p->near, r);
    if (r->type == LINE_SET) p->settings[r->kind] = r->value;
    if (r->type == LINE_BIND) p->binds[r->kind]++;
    if (r->type == LINE_BIND && r->scoped) p->scoped[r->kind]++;
    if (r->type == LINE_REVOKE) p->revokes[r->kind]++;
    if (r->type == LINE_LIMIT) p->limits++; /* of a bootstrap file, which never changes */
}

static void policy_take(policy *p, const rule *r) {
    if (r->type == LINE_SET) p->settings[r->kind] = 0;
    if (r->type == LINE_BIND) p->binds[r->kind]--;
    if (r->type == LINE_BIND && r->scoped) p->scoped[r->kind]--;
    if (r->type == LINE_REVOKE) p->revokes[r->kind]--;
    if (r->type == LINE_PATTERN) patterns_remove(&p->patterns, r);
    near_remove(&p->near, r);
    tally_rule(&p->aliases, r, -1);
    if (r->certificate) table_remove(&p->authorities, r);
    table_remove(&p->lines, r);
}

/* ---- Changes ---- */

enum { PROBLEMS = 32 };

struct patch {
    const policy *base;
    patch_source source;
    table added;   /* owned until the commit */
    table removed; /* rules of `base`; owned after the commit */
    table aliases; /* by how much their counts change, modulo 2^32 */
    patterns patterns; /* of those added */
    digest sum;
    policy *next; /* what `base` will be, see patch_prepare; after the commit, what it was */
    bool authorities, committed;
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

void patch_expect(patch *p, size_t lines) { table_reserve(&p->added, lines); }

void patch_free(patch *p) {
    if (p == NULL) return;
    table_free(&p->aliases, true);
    patterns_free(&p->patterns);
    table_free(&p->added, !p->committed);
    table_free(&p->removed, p->committed);
    if (p->next) p->next->lines.count = 0; /* the rules are the other policy's, or were just freed */
    policy_free(p->next);
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
static rule *patch_parse(patch *p, span text, size_t number, bool held) {
    fault why;
    rule *r = held ? rule_parse_held(text, &why) : rule_parse(text, &why);
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

/* A journal may hold lines that an earlier version took: it must be read, or nobody could log in. */
static bool may_add(patch *p, const rule *r, size_t number) {
    fault why;
    if (p->source == FROM_JOURNAL || rule_lasts(r, &why)) return true;
    patch_problem(p, number, why.text);
    return false;
}

void patch_add(patch *p, span text, size_t number) {
    rule *r = patch_parse(p, text, number, p->source == FROM_JOURNAL);
    if (r == NULL) return;
    if (!may_add(p, r, number)) {
        rule_free(r);
        return;
    }
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
    rule *r = patch_parse(p, text, number, true);
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

static void patch_count_rule(patch *p, const rule *r, bool add) {
    digest_change(&p->sum, r, add);
    tally_rule(&p->aliases, r, add ? 1 : -1);
    if (add && r->type == LINE_PATTERN) patterns_add(&p->patterns, r);
    p->authorities = p->authorities || r->certificate;
}

/* How many lines will have an alias. */
static uint32_t view_tallied(const view *v, const uint8_t alias[KEY_BYTES]) {
    uint32_t change = v->pending ? tallied(&v->pending->aliases, alias) : 0;
    return tallied(&v->base->aliases, alias) + change;
}

/* What is wrong with a `pattern` line beside the other lines, or NULL. Its aliases, as line.c has put them:
 * word, state, anchor. */
static const char *pattern_clash(const view *v, const rule *r, span word) {
    uint8_t named[KEY_BYTES];
    uint32_t count[3];
    span alias;
    size_t at = 0;
    for (int i = 0; i < 3 && rule_field(r, FIELD_ALIAS, &at, &alias); i++)
        count[i] = view_tallied(v, alias.ptr);
    alias_named(named, word);
    if (count[0] != count[1])
        return "another pattern line has the same word with another user or other ACL rules";
    if (view_tallied(v, named)) return "a `user` line has a name that starts with the same word";
    return count[0] > PATTERN_TWINS || count[2] > PATTERN_TWINS
               ? "too many pattern lines have the same word, or the same literal at the end by which "
                 "they are found: at most 1000"
               : NULL;
}

/* Names that start with the word of a `pattern` line are nobody else's. */
static void patch_check_words(patch *p) {
    view v = {p->base, p};
    uint8_t owner[KEY_BYTES];
    for (size_t i = 0; i < p->added.count; i++) {
        const rule *r = p->added.rules[i];
        span word = rule_word(r);
        if (word.len == 0) continue;
        alias_word(owner, word);
        const char *clash = r->type == LINE_PATTERN ? pattern_clash(&v, r, word)
                            : view_tallied(&v, owner)
                                ? "the name starts with the word of a `pattern` line, whose users it "
                                  "belongs to"
                                : NULL;
        if (clash) patch_problem(p, r->number, clash);
    }
}

bool patch_finish(patch *p, bool whole) {
    if (whole) patch_whole(p);
    patch_check(p);
    p->sum = p->base->sum;
    for (size_t i = 0; i < p->removed.count; i++) patch_count_rule(p, p->removed.rules[i], false);
    for (size_t i = 0; i < p->added.count; i++) patch_count_rule(p, p->added.rules[i], true);
    patch_check_words(p);
    return p->problems == 0;
}

size_t patch_count(const patch *p, bool added) { return added ? p->added.count : p->removed.count; }

const rule *patch_rule(const patch *p, bool added, size_t index, size_t *number) {
    const rule *r = added ? p->added.rules[index] : p->removed.rules[index];
    if (number) *number = r->number;
    return r;
}

digest patch_digest(const patch *p) { return p->sum; }
bool patch_changes_trust(const patch *p) { return p->authorities; }

bool patch_has(const patch *p, bool added, const rule *r) {
    return table_find(added ? &p->added : &p->removed, r->key) == r;
}

const rule *patch_removed(const patch *p, line_type type, span name) {
    uint8_t key[KEY_BYTES];
    key_of(key, type, 0, name, span_of(NULL, 0));
    return table_find(&p->removed, key);
}

const rule *patch_user(const patch *p, line_type type, span name) {
    uint8_t key[KEY_BYTES];
    key_of(key, type, 0, name, span_of(NULL, 0));
    return view_find(&(view){p->base, p}, key);
}

int patch_setting(const patch *p, setting s) { return view_setting(&(view){p->base, p}, s); }

/* What nobody would notice on the thread that decides: 1,000 lines take some 0.2 ms. */
enum { SMALL_CHANGE = 1000 };

bool patch_is_large(const patch *p) {
    return p->next || p->added.count + p->removed.count > SMALL_CHANGE;
}

/* A table that has to grow is made anew beside the one that is read; so is all that changes much. */
void patch_prepare(patch *p) {
    const table *lines = &p->base->lines;
    size_t count = lines->count - p->removed.count + p->added.count;
    bool fits = count <= lines->room && p->base->aliases.count + p->aliases.count <= p->base->aliases.room;
    if (!patch_is_large(p) && (fits || lines->count <= SMALL_CHANGE)) return;
    policy *next = p->next = policy_new();
    table_reserve(&next->lines, count);
    for (size_t i = 0; i < lines->count; i++) {
        if (!table_find(&p->removed, lines->rules[i]->key)) policy_put(next, lines->rules[i]);
    }
    for (size_t i = 0; i < p->added.count; i++) policy_put(next, p->added.rules[i]);
    next->sum = p->sum;
    build_store(next);
}

static void commit_in_place(policy *base, const patch *p) {
    for (size_t i = 0; i < p->removed.count; i++) policy_take(base, p->removed.rules[i]);
    for (size_t i = 0; i < p->added.count; i++) policy_put(base, p->added.rules[i]);
    base->sum = p->sum;
    if (p->authorities) build_store(base);
}

bool patch_owns_word(const patch *p, span user) {
    uint8_t alias[KEY_BYTES];
    span word = word_of(user);
    if (word.len == 0) return false;
    alias_word(alias, word);
    return view_tallied(&(view){p->base, p}, alias);
}

void policy_commit(policy *base, patch *p) {
    if (p->next) policy_swap(base, p->next);
    else commit_in_place(base, p);
    p->committed = true;
}

/* ---- Views ---- */

const rule *view_find(const view *v, const uint8_t key[KEY_BYTES]) {
    if (v->pending) {
        const rule *added = table_find(&v->pending->added, key);
        if (added) return added;
        if (table_find(&v->pending->removed, key)) return NULL;
    }
    return table_find(&v->base->lines, key);
}

bool view_alias(const view *v, const uint8_t alias[KEY_BYTES]) {
    return view_tallied(v, alias) != 0;
}

int view_setting(const view *v, setting s) {
    uint8_t key[KEY_BYTES];
    if (v->pending == NULL) return v->base->settings[s];
    key_of(key, LINE_SET, (int)s, span_of(NULL, 0), span_of(NULL, 0));
    const rule *r = view_find(v, key);
    return r ? r->value : 0;
}

bool view_binds(const view *v, bind_kind kind) { return v->pending || v->base->binds[kind]; }
static bool view_binds_scoped(const view *v, bind_kind kind) {
    return v->pending || v->base->scoped[kind];
}
static bool view_revokes(const view *v, revoke_kind kind) {
    return v->pending || v->base->revokes[kind];
}

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
    bool odd, ambiguous, conflict, elsewhere, peer;
    bind_kind several; /* ambiguous: of which kind */
    uint32_t session, compared;
    writer made; /* the user of a `pattern` line: bytes of the decision */
} match;

span decision_user(const decision *d, size_t index) {
    if (d->line == NULL) return span_of(NULL, 0);
    if (d->line->type == LINE_PATTERN) return span_of(d->made, index ? 0 : d->made_len);
    return rule_user(d->line, index);
}

/* Is it the policy that is judged, and not the bootstrap file? */
static bool is_policy(const match *m) { return m->bootstrap || m->lines == m->revocations; }

/* The gate is for people and programs: neither the bootstrap file nor a node's peers stand before it. */
static bool is_gated(const match *m) { return is_policy(m) && !m->peer; }

static bool same_users(const rule *a, const rule *b) {
    span user, other;
    for (size_t at = 0, beside = 0;;) {
        bool more = rule_field(a, FIELD_USER, &at, &user);
        if (rule_field(b, FIELD_USER, &beside, &other) != more) return false;
        if (!more || !span_equal(user, other)) return !more;
    }
}

static void take_line(match *m, const rule *line, bool repeated) {
    if (m->line == NULL) m->line = line;
    m->odd = m->odd || m->r->leaf->odd & 1u << line->kind;
    if (repeated && !m->ambiguous) m->several = (bind_kind)line->kind;
    m->ambiguous = m->ambiguous || repeated;
    m->elsewhere = m->elsewhere || !rule_covers(line, m->r->address);
    m->peer = m->peer || rule_binds_peer(line);
    if (line->session && (m->session == 0 || line->session < m->session))
        m->session = line->session;
}

static void take_bind(match *m, const rule *line, bool repeated) {
    if (line == NULL) return;
    m->conflict = m->conflict || (m->line && !same_users(m->line, line));
    take_line(m, line, repeated);
}

/* A line without ca= binds whichever trusted CA vouches; one with it, only where that CA's key is
 * in the path. */
static bool take_binding(bind_kind kind, span value, bool repeated, void *data) {
    match *m = data;
    uint8_t key[KEY_BYTES];
    if (!view_binds(m->lines, kind)) return true;
    key_of(key, LINE_BIND, kind, value, span_of(NULL, 0));
    take_bind(m, view_find(m->lines, key), repeated);
    if (!view_binds_scoped(m->lines, kind)) return true;
    const path *issuers = m->r->issuers;
    for (size_t i = 0; issuers->known && i < issuers->count; i++) {
        key_of(key, LINE_BIND, kind, value, span_of(issuers->ca[i].key, HASH_BYTES));
        take_bind(m, view_find(m->lines, key), repeated);
    }
    return true;
}

static bool has_authority(const path *issuers, span key) {
    for (size_t i = 0; issuers->known && i < issuers->count; i++) {
        if (span_equal(span_of(issuers->ca[i].key, HASH_BYTES), key)) return true;
    }
    return false;
}

static void take_pattern(match *m, const rule *line, span value, bool repeated) {
    uint8_t name[USER_BYTES];
    writer made = {name, 0, sizeof name, false};
    span key;
    size_t at = 0;
    m->compared++;
    if (rule_field(line, FIELD_CA, &at, &key) && !has_authority(m->r->issuers, key)) return;
    if (!pattern_match(line, value, &made)) return;
    span user = span_of(name, made.len);
    if (m->line == NULL) put_span(&m->made, user);
    m->conflict = m->conflict || !span_equal(user, span_of(m->made.ptr, m->made.len));
    take_line(m, line, repeated);
}

/* A certificate of many names, under many lines that are found by one literal, is not worth more of
 * everybody's time: some 2 ms. */
enum { COMPARISONS = 4096 };
#define TOO_MANY_PATTERNS "more than 4096 `pattern` lines may fit it"

static bool take_patterns(bind_kind kind, span value, bool repeated, void *data) {
    match *m = data;
    if (m->ambiguous) return false;
    const patch *pending = m->lines->pending;
    const rule *line;
    pattern_search held = pattern_search_of(&m->lines->base->patterns, kind, value);
    while (m->compared <= COMPARISONS && (line = pattern_search_next(&held)) != NULL) {
        if (pending && table_find(&pending->removed, line->key)) continue;
        take_pattern(m, line, value, repeated);
    }
    if (pending == NULL) return true;
    pattern_search added = pattern_search_of(&pending->patterns, kind, value);
    while (m->compared <= COMPARISONS && (line = pattern_search_next(&added)) != NULL)
        take_pattern(m, line, value, repeated);
    return true;
}

revocable revocable_leaf(const request *r) {
    return (revocable){issuer_key(r->issuers), identity_cert(r->leaf), identity_tbs(r->leaf),
                       identity_key(r->leaf), &r->issuers->leaf, r->leaf->serial};
}

revocable revocable_authority(const path *p, size_t i) {
    const authority *ca = &p->ca[i], *issuer = i + 1 < p->count ? ca + 1 : ca;
    return (revocable){issuer->key, ca->cert, ca->tbs, ca->key, &ca->seal,
                       span_of(ca->serial, ca->serial_len)};
}

static const rule *find_revocation(const view *v, revoke_kind kind, const uint8_t *hash, span serial) {
    uint8_t key[KEY_BYTES];
    if (!view_revokes(v, kind)) return NULL;
    key_of(key, LINE_REVOKE, kind, span_of(hash, HASH_BYTES), serial);
    return view_find(v, key);
}

const rule *view_revocation(const view *v, const revocable *c, revoke_way way) {
    const span none = {0};
    switch (way) {
    case BY_SERIAL: return find_revocation(v, REVOKE_SERIAL, c->issuer, c->serial);
    case BY_CERT: return find_revocation(v, REVOKE_CERT, c->cert, none);
    case BY_TBS: return find_revocation(v, REVOKE_CERT, c->tbs, none);
    case BY_TWIN:
        return c->seal->twinned ? find_revocation(v, REVOKE_CERT, c->seal->twin, none) : NULL;
    case BY_KEY: return find_revocation(v, REVOKE_KEY, c->key, none);
    case REVOKE_WAYS: break;
    }
    return NULL;
}

static bool is_revoked(const view *revocations, revocable c) {
    for (int way = 0; way < REVOKE_WAYS; way++) {
        if (view_revocation(revocations, &c, (revoke_way)way)) return true;
    }
    return false;
}

/* A node's peer comes from the CA of the servers, which need not be one of clients: its own key is
 * known, and the handshake has verified it. */
static reason check_path(const match *m) {
    const request *r = m->r;
    const path *p = r->issuers;
    uint8_t alias[KEY_BYTES];
    bool trusted = false;
    for (size_t i = 0; p->known && i < p->count && !trusted; i++) {
        alias_authority(alias, p->ca[i].key);
        trusted = view_alias(m->lines, alias);
    }
    if (!trusted && !m->peer) return REASON_UNTRUSTED_ISSUER;
    for (size_t i = 0; p->known && i < p->count; i++) {
        const authority *ca = &p->ca[i];
        if (r->now < ca->not_before || r->now > ca->not_after) return REASON_CA_EXPIRED;
        if (is_revoked(m->revocations, revocable_authority(p, i))) return REASON_CA_REVOKED;
    }
    return REASON_UNDECIDED;
}

static bool passes_gate(const view *lines, const identity *leaf) {
    uint8_t key[KEY_BYTES];
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
static span near_miss(const view *lines, const identity *leaf) {
    uint8_t key[KEY_BYTES], reversed[NAME_BYTES];
    const span none = {0};
    if (leaf->subject.len == 0 || leaf->subject.len > sizeof reversed) return none;
    name_reverse(leaf->subject, reversed);
    key_of(key, LINE_BIND, BIND_SUBJECT, span_of(reversed, leaf->subject.len), none);
    return view_find(lines, key)
               ? LITERAL("a `bind subject` line has the same attributes in the opposite order")
               : none;
}

static bool is_made(const view *policy_lines, span user) {
    uint8_t alias[KEY_BYTES];
    span word = word_of(user);
    if (word.len) alias_word(alias, word);
    return word.len && view_alias(policy_lines, alias);
}

/* The line that says what a user of the match is, or NULL. */
static const rule *line_of(const match *m, span user) {
    uint8_t key[KEY_BYTES];
    if (m->line->type == LINE_PATTERN) return m->line;
    key_of(key, LINE_USER, 0, user, span_of(NULL, 0));
    return view_find(m->lines, key);
}

/* May this user be given at all? Not one whose name is for a pattern to make. By the policy, not one of
 * the bootstrap file either; and where that limits users, only such as have a line, for nothing limits the
 * others. */
static bool is_for_policy(const match *m, const rule *line, span user) {
    if (line == NULL && is_made(m->revocations, user)) return false;
    if (m->bootstrap == NULL) return true;
    return !policy_user(m->bootstrap, LINE_USER, user) && (line || !m->bootstrap->limits);
}

/* `user` lines that are not applied yet say what the server's users will be: those of a change, and
 * all of a policy that is not enforced. */
static reason check_user(const match *m, span user) {
    const request *r = m->r;
    bool on = !r->pending && view_setting(m->lines, SET_ENFORCE) == ENFORCE_ON;
    bool applied = r->ask && (on || !is_policy(m));
    const rule *line = line_of(m, user);
    if (!is_for_policy(m, line, user)) return REASON_USER_MISSING;
    if (line == NULL && r->pending && !r->ask && policy_user(m->lines->base, LINE_USER, user))
        return REASON_USER_MISSING;
    if (applied && line != m->line) line = NULL;
    user_state state = line     ? (line->on ? USER_ON : USER_OFF)
                       : r->ask ? r->ask(user, r->data)
                                : USER_UNKNOWN;
    return state == USER_MISSING ? REASON_USER_MISSING
           : state == USER_OFF   ? REASON_USER_OFF
                                 : REASON_MATCHED;
}

static bool is_altered(const path *p) {
    bool altered = p->leaf.altered;
    for (size_t i = 0; i < p->count; i++) altered = altered || p->ca[i].seal.altered;
    return altered;
}

/* What the gate looks at, as bits of identity.odd. */
static uint32_t gate_kinds(const match *m) {
    static const uint32_t kinds[] = {
        [GATE_SAN_CN] = 1u << BIND_CN | 1u << BIND_DNS,
        [GATE_FULL_SUBJECT] = 1u << BIND_SUBJECT,
    };
    return is_gated(m) ? kinds[view_setting(m->lines, SET_GATE)] : 0;
}

/* The checks of the certificate itself, in the order of enum reason. */
static reason check_leaf(const match *m) {
    const request *r = m->r;
    identity *leaf = r->leaf;
    span cn;
    if (leaf->refusal) return leaf->refusal;
    if (is_altered(r->issuers)) return REASON_MALFORMED;
    if (m->odd || leaf->odd & gate_kinds(m)) return REASON_BAD_STRING;
    bool by_name = is_gated(m) && view_setting(m->lines, SET_GATE) == GATE_SAN_CN;
    if (m->ambiguous || (by_name && name_common_names(leaf->subject, &cn) > 1))
        return REASON_AMBIGUOUS;
    reason bad = check_path(m);
    if (bad) return bad;
    if (r->now < leaf->not_before) return REASON_NOT_YET_VALID;
    if (r->now > leaf->not_after) return REASON_EXPIRED;
    if (!leaf->client) return REASON_KEY_USAGE;
    if (is_revoked(m->revocations, revocable_leaf(r))) return REASON_REVOKED;
    return is_gated(m) && !passes_gate(m->lines, leaf) ? REASON_GATE : REASON_UNDECIDED;
}

/* One of several is asked about when it is chosen; but none may be one that is not to be given. */
static reason check_choice(const match *m) {
    span user;
    for (size_t at = 0; rule_field(m->line, FIELD_USER, &at, &user);) {
        if (!is_for_policy(m, line_of(m, user), user)) return REASON_USER_MISSING;
    }
    return REASON_MATCHED;
}

static reason check_match(const match *m, const decision *d) {
    if (m->line == NULL) return REASON_NO_BINDING;
    if (m->conflict) return REASON_CONFLICT;
    if (m->elsewhere) return REASON_ADDRESS;
    return decision_user(d, 1).len ? check_choice(m) : check_user(m, decision_user(d, 0));
}

static int64_t path_end(const request *r) {
    int64_t end = r->leaf->not_after;
    for (size_t i = 0; i < r->issuers->count; i++) {
        if (r->issuers->ca[i].not_after < end) end = r->issuers->ca[i].not_after;
    }
    return end;
}

static span why_missing(const match *m, const decision *d) {
    const span none = {0};
    span user;
    for (size_t i = 0; (user = decision_user(d, i)).len; i++) {
        if (line_of(m, user) == NULL && is_made(m->revocations, user))
            return LITERAL(
                "the user's name starts with the word of a `pattern` line, and only that makes it");
    }
    if (m->bootstrap == NULL) return none;
    if (policy_user(m->bootstrap, LINE_USER, decision_user(d, 0)))
        return LITERAL("the user belongs to the bootstrap file, and is not the policy's to give");
    return m->bootstrap->limits ? LITERAL("the bootstrap file has limits, so only a user with a "
                                          "`user` line can be bound")
                                : none;
}

/* Where no line binds the leaf itself, and only when all else about it is good: nobody whose certificate
 * is no good makes us search. */
static reason match_patterns(match *m) {
    if (m->line) return REASON_UNDECIDED;
    identity_bindings(m->r->leaf, take_patterns, m);
    if (m->compared > COMPARISONS) return REASON_TOO_LARGE;
    if (m->ambiguous) return REASON_AMBIGUOUS; /* the search ended there */
    return m->odd ? REASON_BAD_STRING : REASON_UNDECIDED;
}

/* Nobody knows what an odd value would have said: who is nobody by what is clean is refused for it, and
 * never left. */
static reason check_odd(const match *m, reason why) {
    bool nobody = why == REASON_UNTRUSTED_ISSUER || why == REASON_NO_BINDING;
    bool odd = m->r->leaf->odd & ~(uint32_t)ODD_ISSUER;
    return nobody && odd && m->line == NULL ? REASON_BAD_STRING : why;
}

static span several_of(const match *m) {
    if (!m->ambiguous) return LITERAL("it has different CNs, and the gate looks at one");
    switch (m->several) {
    case BIND_URI: return LITERAL("it has different URIs");
    case BIND_DNS: return LITERAL("it has different DNS names");
    case BIND_EMAIL: return LITERAL("it has different e-mail addresses");
    case BIND_IP: return LITERAL("it has different IP addresses");
    case BIND_UPN: return LITERAL("it has different UPNs");
    default: return LITERAL("it has different CNs");
    }
}

#define CUT_SIGNATURE \
    "a signature of the path is shorter than the key that made it: its holder has cut it"

static span detail_of(const match *m, const decision *d) {
    const identity *leaf = m->r->leaf;
    switch (d->why) {
    case REASON_MALFORMED: return leaf->refusal ? leaf->detail : LITERAL(CUT_SIGNATURE);
    case REASON_BAD_STRING: return leaf->detail;
    case REASON_TOO_LARGE: return leaf->refusal ? leaf->detail : LITERAL(TOO_MANY_PATTERNS);
    case REASON_KEY_USAGE:
        return leaf->ca       ? LITERAL("its basic constraints say CA:TRUE")
               : !leaf->signs ? LITERAL("its key usage has not digitalSignature")
                              : LITERAL("its extended key usage has not clientAuth");
    case REASON_AMBIGUOUS: return several_of(m);
    case REASON_NO_BINDING: return near_miss(m->lines, leaf);
    case REASON_USER_MISSING: return why_missing(m, d);
    default: return span_of(NULL, 0);
    }
}

/* Steps until a reason is found. */
static reason check_all(match *m, decision *d) {
    reason why = check_leaf(m);
    if (why) return why;
    why = match_patterns(m);
    d->compared = m->compared;
    if (why) return why;
    d->line = m->line;
    d->made_len = (uint16_t)m->made.len;
    return check_match(m, d);
}

/* `bound`: some line names this leaf, whatever else is wrong with it. */
static decision judge(match m, bool *bound) {
    const request *r = m.r;
    decision d = {.act = ACTION_REFUSE};
    m.made = (writer){d.made, 0, sizeof d.made, false};
    if (!r->leaf->refusal) identity_bindings(r->leaf, take_binding, &m);
    *bound = m.line != NULL;
    d.why = check_odd(&m, check_all(&m, &d));
    d.detail = detail_of(&m, &d);
    if (d.why != REASON_MATCHED) return d;
    d.act = decision_user(&d, 1).len ? ACTION_CHOOSE : ACTION_LOGIN;
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

/* Whom the handshake refuses, no policy sees. */
static decision refused_by_handshake(const request *r) {
    const char *end = memchr(r->tls.text, 0, sizeof r->tls.text);
    span text = span_of(r->tls.text, end ? (size_t)(end - r->tls.text) : 0);
    return (decision){.act = ACTION_REFUSE, .why = r->tls.refused, .detail = text};
}

decision policy_decide(const policy *p, const policy *bootstrap, const request *r) {
    view lines = {p, r->pending}, own = {bootstrap, NULL};
    if (r->leaf && r->tls.refused) return refused_by_handshake(r);
    if (r->leaf && r->tls.state == HANDSHAKE_WITHOUT) {
        request plain = *r;
        plain.leaf = NULL;
        return policy_decide(p, bootstrap, &plain);
    }
    if (r->leaf && bootstrap && bootstrap->lines.count) {
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

/* ---- Nodes ---- */

/* The key's own line, and those that want a CA of the path (`ca=`). `keys`: of the chain, leaf first. */
static const rule *binds_node(const view *lines, uint8_t (*keys)[HASH_BYTES], size_t count,
                              bool peers) {
    uint8_t key[KEY_BYTES];
    for (size_t i = 0; i < count; i++) {
        span issuer = i ? span_of(keys[i], HASH_BYTES) : span_of(NULL, 0);
        key_of(key, LINE_BIND, BIND_KEY, span_of(keys[0], HASH_BYTES), issuer);
        const rule *line = view_find(lines, key);
        if (line && (!peers || rule_binds_peer(line))) return line;
    }
    return NULL;
}

static reason node_revoked(const view *lines, X509 *const *chain, uint8_t (*keys)[HASH_BYTES],
                           size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint8_t cert[HASH_BYTES], tbs[HASH_BYTES], serial[SERIAL_BYTES];
        const size_t above = i + 1 < count ? i + 1 : i;
        seal own = {0};
        size_t len;
        if (!certificate_serial(chain[i], serial, &len) ||
            !certificate_hashes(chain[i], cert, tbs))
            return REASON_MALFORMED;
        if (above > i) certificate_seal(chain[i], chain[above], &own);
        if (own.altered) return REASON_MALFORMED;
        if (is_revoked(lines, (revocable){keys[above], cert, tbs, keys[i], &own,
                                          span_of(serial, len)}))
            return i ? REASON_CA_REVOKED : REASON_REVOKED;
    }
    return REASON_UNDECIDED;
}

reason policy_node(const policy *p, const policy *bootstrap, X509 *const *chain, size_t count,
                   uint8_t (*own)[HASH_BYTES], span address) {
    uint8_t keys[PATH_LENGTH + 1][HASH_BYTES];
    view lines = {p, NULL}, fixed = {bootstrap, NULL};
    bool revokes = p->revokes[REVOKE_SERIAL] || p->revokes[REVOKE_CERT] || p->revokes[REVOKE_KEY];
    bool scoped = p->scoped[BIND_KEY] || bootstrap->scoped[BIND_KEY];
    if (count == 0) return REASON_NO_CERTIFICATE;
    if (count > PATH_LENGTH + 1) return REASON_TOO_LARGE;
    for (size_t i = 0; i < (revokes || scoped ? count : 1); i++) {
        if (!certificate_key(chain[i], keys[i])) return REASON_MALFORMED;
    }
    reason bad = revokes ? node_revoked(&lines, chain, keys, count) : REASON_UNDECIDED;
    if (bad) return bad;
    for (int i = 0; i < 2; i++) {
        if (memcmp(own[i], keys[0], HASH_BYTES) == 0) return REASON_MATCHED;
    }
    const rule *line = binds_node(&fixed, keys, scoped ? count : 1, false);
    if (line == NULL) line = binds_node(&lines, keys, scoped ? count : 1, true);
    if (line == NULL) return REASON_NO_BINDING;
    return rule_covers(line, address) ? REASON_MATCHED : REASON_ADDRESS;
}
