/* The decision: what a certificate is to a policy. From the first check to the last. */
#include "policy.h"

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
    const rule *lock;
    bool odd, ambiguous, conflict, elsewhere, peer;
    bool pinned;       /* a `pin` line of `lines` holds the leaf itself */
    bool unread;       /* an extension that a line names is not clean text */
    bind_kind several; /* ambiguous: of which kind */
    uint32_t session, compared;
    writer made; /* the user of the first `pattern` line: bytes of the decision */
} match;

span decision_user(const decision *d, size_t index) {
    if (d->line == NULL) return span_of(NULL, 0);
    if (d->line->makes) return span_of(d->made, index ? 0 : d->made_len);
    return rule_user(d->line, index);
}

/* Is it the policy that is judged, and not the bootstrap file? */
static bool is_policy(const match *m) { return m->bootstrap || m->lines == m->revocations; }

/* The gate and demands are for people and programs: neither the bootstrap file nor a node's peers stand
 * before them. A demand that cut replication, or locked out anyone who could take it back, would harm more than
 * the certificate that it refuses. */
static bool is_gated(const match *m) { return is_policy(m) && !m->peer; }

static bool same_users(const rule *a, const rule *b) {
    span user, other;
    for (size_t at = 0, beside = 0;;) {
        bool more = rule_field(a, FIELD_USER, &at, &user);
        if (rule_field(b, FIELD_USER, &beside, &other) != more) return false;
        if (!more || !span_equal(user, other)) return !more;
    }
}

/* The leaf has several values of a kind of which a line names one. */
static void note_several(match *m, bind_kind kind) {
    if (view_setting(m->lines, SET_SEVERAL_NAMES) == SEVERAL_NAMES_SAME) return;
    if (!m->ambiguous) m->several = kind;
    m->ambiguous = true;
}

/* Of `bind attributes` lines, which are found in no order, the first by its text is told. */
static bool is_told(const match *m, const rule *line) {
    return m->line == NULL ||
           (is_attributes(line) && span_compare(rule_text(line), rule_text(m->line)) < 0);
}

static void take_line(match *m, const rule *line, bool repeated) {
    if (is_told(m, line)) m->line = line;
    m->odd = m->odd || m->r->leaf->odd & 1u << line->kind;
    if (repeated) note_several(m, (bind_kind)line->kind);
    m->elsewhere = m->elsewhere || !rule_covers(line, m->r->address);
    m->peer = m->peer || rule_binds_peer(line);
    if (line->session && (m->session == 0 || line->session < m->session))
        m->session = line->session;
}

static bool take_bind(match *m, const rule *line, bool repeated) {
    if (line == NULL) return false;
    m->conflict = m->conflict || (m->line && !same_users(m->line, line));
    take_line(m, line, repeated);
    return true;
}

/* A line without ca= binds whichever trusted CA vouches; one with it, only where that CA's key is
 * in the path. Returns whether there is any. */
static bool take_value(match *m, bind_kind kind, span value, bool repeated) {
    uint8_t key[KEY_BYTES];
    if (!view_binds(m->lines, kind)) return false;
    key_of(key, LINE_BIND, kind, value, span_of(NULL, 0));
    bool any = take_bind(m, view_find(m->lines, key), repeated);
    if (!view_binds_scoped(m->lines, kind)) return any;
    const path *issuers = m->r->issuers;
    for (size_t i = 0; issuers->known && i < issuers->count; i++) {
        key_of(key, LINE_BIND, kind, value, span_of(issuers->ca[i].key, HASH_BYTES));
        any = take_bind(m, view_find(m->lines, key), repeated) || any;
    }
    return any;
}

static bool take_binding(bind_kind kind, span value, bool repeated, void *data) {
    take_value(data, kind, value, repeated);
    return true;
}

/* What else of its type stands beside a value that a line names. An odd value is empty. */
static void note_beside(match *m, bind_kind kind, span name, const attribute *named) {
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) {
        if (!span_equal(a.oid, named->oid) || span_equal(a.value, named->value)) continue;
        if (a.value.len) note_several(m, kind);
        else m->odd = true;
    }
}

/* By the single attributes of the subject, or the extensions. */
static void take_typed(match *m, bind_kind kind, span name) {
    attribute a;
    if (!view_binds(m->lines, kind)) return;
    for (size_t at = 0; name_next(name, &at, &a);) {
        uint8_t bytes[NAME_BYTES], alias[KEY_BYTES];
        writer one = {bytes, 0, sizeof bytes, false};
        put_attribute(&one, true, a.oid, a.value);
        if (a.value.len == 0 && kind == BIND_EXTENSION) {
            alias_extension(alias, a.oid);
            m->unread = m->unread || view_alias(m->lines, alias);
        }
        if (a.value.len && take_value(m, kind, span_of(bytes, one.len), false))
            note_beside(m, kind, name, &a);
    }
}

static void take_exact(match *m) {
    const identity *leaf = m->r->leaf;
    identity_bindings(m->r->leaf, take_binding, m);
    take_typed(m, BIND_ATTRIBUTE, leaf->subject);
    take_typed(m, BIND_EXTENSION, leaf->extensions);
}

/* By several attributes of the subject; a CN among them is one that the certificate has alone. */
static void take_attributes(span value, bool cn, void *data) {
    match *m = data;
    span first;
    if (!take_value(m, BIND_ATTRIBUTES, value, false) || !cn) return;
    if (name_common_names(m->r->leaf->subject, &first) > 1) note_several(m, BIND_CN);
    m->odd = m->odd || m->r->leaf->odd & 1u << BIND_CN;
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
    span user = line->makes ? span_of(name, made.len) : rule_user(line, 0);
    if (m->line == NULL) put_span(&m->made, user);
    m->conflict = m->conflict || !span_equal(user, span_of(m->made.ptr, m->made.len));
    take_line(m, line, repeated);
}

/* A certificate of many names, under many lines that are found by one literal, is not worth more of
 * everybody's time: some 2 ms. */
enum { COMPARISONS = 4096 };
#define TOO_MANY_PATTERNS "more than 4096 `pattern` lines may fit it"
#define TOO_MANY_COMBINATIONS                                                                      \
    "its subject has more than 512 lists of attributes that `bind attributes` lines may name"

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

/* Of what signs itself, the key is known also where no path is. */
revocable revocable_leaf(const request *r) {
    bool own = !r->issuers->known && span_equal(r->leaf->subject, r->leaf->issuer);
    const uint8_t *issuer = own ? identity_key(r->leaf) : issuer_key(r->issuers);
    return (revocable){issuer,
                       identity_cert(r->leaf),
                       identity_tbs(r->leaf),
                       identity_key(r->leaf),
                       &r->issuers->leaf,
                       r->leaf->serial};
}

revocable revocable_authority(const path *p, size_t i) {
    const authority *ca = &p->ca[i], *issuer = i + 1 < p->count ? ca + 1 : ca;
    return (revocable){issuer->key, ca->cert,  ca->tbs,
                       ca->key,     &ca->seal, span_of(ca->serial, ca->serial_len)};
}

static const rule *find_revocation(const view *v, revoke_kind kind, const uint8_t *hash,
                                   span serial) {
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

bool is_revoked(const view *revocations, revocable c) {
    for (int way = 0; way < REVOKE_WAYS; way++) {
        if (view_revocation(revocations, &c, (revoke_way)way)) return true;
    }
    return false;
}

/* By the hash of all of it, so that anyone who holds it cannot make another of it. */
bool view_pins_leaf(const view *v, identity *leaf) {
    uint8_t key[KEY_BYTES];
    if (!view_pins(v) || leaf->refusal) return false;
    key_of(key, LINE_PIN, 0, span_of(identity_cert(leaf), HASH_BYTES), span_of(NULL, 0));
    return view_find(v, key);
}

bool policy_pinned(const policy *p, identity *leaf) {
    return view_pins_leaf(&(view){p, NULL}, leaf);
}

/* A node's peer comes from the CA of the servers, which need not be one of clients: its own key is
 * known, and the handshake has verified it. A pinned leaf needs no CA, so that none of them ends it;
 * but what is revoked is. */
static reason check_path(const match *m) {
    const request *r = m->r;
    const path *p = r->issuers;
    uint8_t alias[KEY_BYTES];
    bool trusted = false;
    for (size_t i = 0; p->known && i < p->count && !trusted; i++) {
        alias_authority(alias, p->ca[i].key);
        trusted = view_alias(m->lines, alias);
    }
    if (!trusted && !m->peer && !m->pinned) return REASON_UNTRUSTED_ISSUER;
    for (size_t i = 0; p->known && i < p->count; i++) {
        const authority *ca = &p->ca[i];
        bool valid = r->now >= ca->not_before && r->now <= ca->not_after;
        if (!valid && !m->pinned) return REASON_CA_EXPIRED;
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
    if (m->line->makes) return m->line;
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
static reason check_leaf(match *m) {
    const request *r = m->r;
    identity *leaf = r->leaf;
    span cn;
    if (leaf->refusal) return leaf->refusal;
    if (is_altered(r->issuers)) return REASON_MALFORMED;
    if (m->odd || leaf->odd & gate_kinds(m)) return REASON_BAD_STRING;
    bool by_name = is_gated(m) && view_setting(m->lines, SET_GATE) == GATE_SAN_CN;
    if (m->ambiguous || (by_name && name_common_names(leaf->subject, &cn) > 1))
        return REASON_AMBIGUOUS;
    if (is_gated(m) && (m->lock = view_lock(m->lines, r)) != NULL) return REASON_LOCKED;
    reason bad = check_path(m);
    if (bad) return bad;
    if (r->now < leaf->not_before) return REASON_NOT_YET_VALID;
    if (r->now > leaf->not_after) return REASON_EXPIRED;
    if (!leaf->client && !(m->pinned && leaf->fits)) return REASON_KEY_USAGE;
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

/* Behind the binding, since anyone who is nobody's is nobody of whom the policy could demand anything. */
static reason check_demands(const match *m) {
    for (int why = REASON_LIFETIME; is_gated(m) && why <= REASON_TLS_VERSION; why++) {
        const rule *line = view_demand(m->lines, (reason)why);
        if (line && !demand_met(line, m->r)) return (reason)why;
    }
    return REASON_UNDECIDED;
}

/* Of any user that it may be: who holds the certificate of several is not asked who it is. */
static reason check_locks(match *m, const decision *d) {
    span user;
    for (size_t i = 0; is_gated(m) && (user = decision_user(d, i)).len && !m->lock; i++)
        m->lock = view_lock_user(m->lines, user);
    return m->lock ? REASON_LOCKED : REASON_UNDECIDED;
}

static reason check_match(match *m, const decision *d) {
    if (m->line == NULL) return REASON_NO_BINDING;
    if (m->conflict) return REASON_CONFLICT;
    reason locked = check_locks(m, d);
    if (locked) return locked;
    if (m->elsewhere) return REASON_ADDRESS;
    reason unmet = check_demands(m);
    if (unmet) return unmet;
    return decision_user(d, 1).len ? check_choice(m) : check_user(m, decision_user(d, 0));
}

static int64_t path_end(const match *m) {
    const request *r = m->r;
    int64_t end = r->leaf->not_after;
    for (size_t i = 0; i < r->issuers->count && !m->pinned; i++) {
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

/* Where no pattern fits either. */
static reason match_attributes(match *m) {
    if (m->line || !view_binds(m->lines, BIND_ATTRIBUTES)) return REASON_UNDECIDED;
    if (!view_combinations(m->lines, m->r->leaf->subject, take_attributes, m))
        return REASON_TOO_LARGE;
    return m->odd ? REASON_BAD_STRING : m->ambiguous ? REASON_AMBIGUOUS : REASON_UNDECIDED;
}

/* Nobody knows what an odd value would have said: who is nobody by what is clean is refused for it, and
 * never left. */
static reason check_odd(const match *m, reason why) {
    bool nobody = why == REASON_UNTRUSTED_ISSUER || why == REASON_NO_BINDING;
    bool odd = m->unread || m->r->leaf->odd & ~(uint32_t)ODD_ISSUER;
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
    case BIND_ATTRIBUTE: return LITERAL("it has different attributes of a type that a line names");
    case BIND_EXTENSION: return LITERAL("it has different extensions of an OID that a line names");
    default: return LITERAL("it has different CNs");
    }
}

#define CUT_SIGNATURE                                                                              \
    "a signature of the path is shorter than the key that made it: its holder has cut it"

static span detail_of(const match *m, const decision *d) {
    const identity *leaf = m->r->leaf;
    switch (d->why) {
    case REASON_MALFORMED: return leaf->refusal ? leaf->detail : LITERAL(CUT_SIGNATURE);
    case REASON_BAD_STRING:
        return leaf->detail.len ? leaf->detail
                                : LITERAL("an extension that a line names is not clean text");
    case REASON_TOO_LARGE:
        return leaf->refusal               ? leaf->detail
               : m->compared > COMPARISONS ? LITERAL(TOO_MANY_PATTERNS)
                                           : LITERAL(TOO_MANY_COMBINATIONS);
    case REASON_KEY_USAGE:
        return leaf->ca && !m->pinned ? LITERAL("its basic constraints say CA:TRUE")
               : !leaf->signs         ? LITERAL("its key usage has not digitalSignature")
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
    if (!why) why = match_attributes(m);
    if (why) return why;
    d->line = m->line;
    if (m->line && m->line->makes) d->made_len = (uint16_t)m->made.len;
    return check_match(m, d);
}

/* `bound`: some line names this leaf, whatever else is wrong with it. */
static decision judge(match m, bool *bound) {
    const request *r = m.r;
    decision d = {.act = ACTION_REFUSE};
    m.made = (writer){d.made, 0, sizeof d.made, false};
    m.pinned = view_pins_leaf(m.lines, r->leaf);
    if (!r->leaf->refusal) take_exact(&m);
    *bound = m.line != NULL;
    d.why = check_odd(&m, check_all(&m, &d));
    d.exempt = !is_gated(&m);
    d.lock = m.lock;
    d.detail = detail_of(&m, &d);
    if (d.why != REASON_MATCHED) return d;
    d.act = decision_user(&d, 1).len ? ACTION_CHOOSE : ACTION_LOGIN;
    d.until = path_end(&m);
    d.session = m.session;
    return d;
}

static decision decide_on(const view *lines, const policy *bootstrap, const request *r) {
    bool bound;
    decision d = {.act = ACTION_REFUSE, .why = REASON_NO_CERTIFICATE};
    if (r->leaf == NULL) {
        d.lock = view_lock_network(lines, r->address);
        if (d.lock) d.why = REASON_LOCKED;
        else if (view_setting(lines, SET_PLAIN) == PLAIN_LEAVE) d.act = ACTION_LEAVE;
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
