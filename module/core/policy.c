/* A policy: a set of lines in a hash table, a change to it, and the decision under it. */
#include "policy.h"

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

/* ---- The policy ---- */

policy *policy_new(void) {
    policy *p = must(calloc(1, sizeof *p));
    return p;
}

void policy_free(policy *p) {
    if (p == NULL) return;
    table_free(&p->aliases, true);
    table_free(&p->authorities, false);
    table_free(&p->pins, false);
    table_free(&p->lines, true);
    patterns_free(&p->patterns);
    shapes_free(&p->shapes);
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
const rule *policy_authority_rule(const policy *p, size_t index) {
    return p->authorities.rules[index];
}
X509 *policy_authority(const policy *p, size_t index) {
    return p->authorities.rules[index]->certificate;
}
X509_STORE *policy_store(const policy *p) { return p->store; }

const near_lines *policy_near(const policy *p) { return &p->near; }

size_t policy_pins(const policy *p, X509 **first) {
    if (first == NULL) return p->pins.count;
    const rule *r = p->pins.count ? p->pins.rules[0] : NULL;
    X509 *read[2] = {NULL, NULL};
    fault why;
    span text = r ? span_skip(rule_text(r), sizeof "pin") : span_of(NULL, 0);
    uint8_t *der = text.len ? malloc(text.len) : NULL;
    if (der) certificates_parse(span_of(der, base64_decode(text, der)), read, 2, &why);
    free(der);
    *first = read[0];
    return p->pins.count;
}

static const rule *find_certificate(const policy *p, line_type type, X509 *certificate) {
    uint8_t cert[HASH_BYTES], tbs[HASH_BYTES], key[KEY_BYTES];
    const table *among = type == LINE_PIN ? &p->pins : &p->authorities;
    if (among->count == 0 || !certificate_hashes(certificate, cert, tbs)) return NULL;
    key_of(key, type, 0, span_of(cert, HASH_BYTES), span_of(NULL, 0));
    return table_find(among, key);
}

bool policy_has_pin(const policy *p, X509 *certificate) {
    return find_certificate(p, LINE_PIN, certificate);
}

/* `ca` and `anchor` lines have one key. */
bool policy_has_ca(const policy *p, X509 *certificate) {
    const rule *r = find_certificate(p, LINE_CA, certificate);
    return r && r->type == LINE_CA;
}

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
    if (r->type == LINE_PIN) table_add(&p->pins, r);
    if (r->type == LINE_PATTERN) patterns_add(&p->patterns, r);
    if (is_attributes(r)) shapes_add(&p->shapes, r);
    near_add(&p->near, r);
    if (r->type == LINE_SET) p->settings[r->kind] = rule_setting(r);
    if (r->type == LINE_BIND) p->binds[r->kind]++;
    if (r->type == LINE_BIND && r->scoped) p->scoped[r->kind]++;
    if (r->type == LINE_REVOKE) p->revokes[r->kind]++;
    if (r->type == LINE_LOCK) p->locks++;
    if (r->type == LINE_LIMIT) p->limits++; /* of a bootstrap file, which never changes */
}

static void policy_take(policy *p, const rule *r) {
    if (r->type == LINE_SET) p->settings[r->kind] = 0;
    if (r->type == LINE_BIND) p->binds[r->kind]--;
    if (r->type == LINE_BIND && r->scoped) p->scoped[r->kind]--;
    if (r->type == LINE_REVOKE) p->revokes[r->kind]--;
    if (r->type == LINE_LOCK) p->locks--;
    if (r->type == LINE_PATTERN) patterns_remove(&p->patterns, r);
    if (is_attributes(r)) shapes_remove(&p->shapes, r);
    near_remove(&p->near, r);
    tally_rule(&p->aliases, r, -1);
    if (r->certificate) table_remove(&p->authorities, r);
    if (r->type == LINE_PIN) table_remove(&p->pins, r);
    table_remove(&p->lines, r);
}

/* ---- Changes ---- */

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
    shapes_free(&p->shapes);
    table_free(&p->added, !p->committed);
    table_free(&p->removed, p->committed);
    if (p->next)
        p->next->lines.count = 0; /* the rules are the other policy's, or were just freed */
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
static const char *out_of_place(patch_source source, const rule *r) {
    line_type type = rule_type(r);
    switch (source) {
    case FROM_JOURNAL:
        return type == LINE_LIMIT ? "limit lines belong into the bootstrap file" : NULL;
    case FROM_BOOTSTRAP:
        if (is_attributes(r))
            return "a bootstrap file names those whom it admits: bind attributes belongs into the "
                   "policy";
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
    const char *misplaced = number ? out_of_place(p->source, r) : NULL;
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

/* LOAD: what stays as it is is not a change; all else goes, but for the node's own notes. */
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
    p->pins = p->pins || r->type == LINE_PIN;
    p->locks = p->locks || (add && r->type == LINE_LOCK);
}

/* How many lines will have an alias. */
static uint32_t view_tallied(const view *v, const uint8_t alias[KEY_BYTES]) {
    uint32_t change = v->pending ? tallied(&v->pending->aliases, alias) : 0;
    return tallied(&v->base->aliases, alias) + change;
}

/* What is wrong with a `pattern` line that makes users beside the other lines, or NULL. `count`: of its
 * aliases, as line.c has put them: anchor, word, state. */
static const char *maker_clash(const view *v, span word, const uint32_t count[3]) {
    uint8_t named[KEY_BYTES];
    alias_named(named, word);
    if (count[1] != count[2])
        return "another pattern line has the same word with another user or other ACL rules";
    if (view_tallied(v, named))
        return "a `user` line has a name that starts with the same word, or the user of a pattern "
               "line "
               "that names one";
    return count[1] > PATTERN_TWINS ? "too many pattern lines have the same word: at most 1000"
                                    : NULL;
}

/* Names that start with the word of a `pattern` line are nobody else's. */
static const char *name_clash(const view *v, span word) {
    uint8_t owner[KEY_BYTES];
    if (word.len) alias_word(owner, word);
    return word.len && view_tallied(v, owner)
               ? "the name starts with the word of a `pattern` line, whose users it belongs to"
               : NULL;
}

static const char *pattern_clash(const view *v, const rule *r) {
    uint32_t count[3] = {0};
    span alias;
    size_t at = 0;
    for (int i = 0; i < 3 && rule_field(r, FIELD_ALIAS, &at, &alias); i++)
        count[i] = view_tallied(v, alias.ptr);
    if (count[0] > PATTERN_TWINS)
        return "too many pattern lines have the same literal at the end by which they are found: "
               "at "
               "most 1000";
    return r->makes ? maker_clash(v, rule_word(r), count) : name_clash(v, rule_word(r));
}

static void patch_check_words(patch *p) {
    view v = {p->base, p};
    for (size_t i = 0; i < p->added.count; i++) {
        const rule *r = p->added.rules[i];
        if (r->type != LINE_PATTERN && r->type != LINE_USER) continue;
        const char *clash =
            r->type == LINE_PATTERN ? pattern_clash(&v, r) : name_clash(&v, rule_word(r));
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
    patch_check_shapes(p);
    return p->problems == 0;
}

size_t patch_count(const patch *p, bool added) { return added ? p->added.count : p->removed.count; }

const rule *patch_rule(const patch *p, bool added, size_t index, size_t *number) {
    const rule *r = added ? p->added.rules[index] : p->removed.rules[index];
    if (number) *number = r->number;
    return r;
}

digest patch_digest(const patch *p) { return p->sum; }
bool patch_changes_trust(const patch *p) { return p->authorities || p->pins; }

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

/* A table that has to grow is made again beside the table that is read; so is all that changes much. */
void patch_prepare(patch *p) {
    const table *lines = &p->base->lines;
    size_t count = lines->count - p->removed.count + p->added.count;
    bool fits =
        count <= lines->room && p->base->aliases.count + p->aliases.count <= p->base->aliases.room;
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
    return r ? rule_setting(r) : 0;
}

const rule *view_demand(const view *v, reason why) {
    static const setting settings[REASON_COUNT] = {
        [REASON_LIFETIME] = SET_MAX_LIFETIME,
        [REASON_REQUIRED_EKU] = SET_REQUIRE_EKU,
        [REASON_REQUIRED_POLICY] = SET_REQUIRE_POLICY,
        [REASON_KEY_TOO_SMALL] = SET_MIN_KEY_BITS,
        [REASON_TLS_VERSION] = SET_MIN_TLS,
    };
    const setting demand = settings[why]; /* of any other reason: SET_ENFORCE, which is none */
    uint8_t key[KEY_BYTES];
    if (demand == SET_ENFORCE || (!v->pending && !v->base->settings[demand])) return NULL;
    key_of(key, LINE_SET, (int)demand, span_of(NULL, 0), span_of(NULL, 0));
    return view_find(v, key);
}

bool view_binds(const view *v, bind_kind kind) { return v->pending || v->base->binds[kind]; }
bool view_binds_scoped(const view *v, bind_kind kind) {
    return v->pending || v->base->scoped[kind];
}
bool view_pins(const view *v) { return v->pending || v->base->pins.count; }
bool view_revokes(const view *v, revoke_kind kind) { return v->pending || v->base->revokes[kind]; }
bool view_locks(const view *v) { return v->base->locks || (v->pending && v->pending->locks); }
