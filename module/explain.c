/* A decision told to a person: what was read, each step, and what would have to change. The module,
 * the REST API and the command line all print what this file writes. */
#define _POSIX_C_SOURCE 200809L /* gmtime_r */
#include "internal.h"

#include <stdio.h>
#include <time.h>

/* One row a reason, in the order of the checks. `passed` is empty where a check has no step of its
 * own to show. docs/reasons.md says the same at more length; a test holds them together. */
static const struct {
    const char *passed, *failed, *cure;
} STEPS[REASON_COUNT] = {
    [REASON_UNDECIDED] = {"", "nobody decided", "this is a bug: please report it"},
    [REASON_NO_JOURNAL] =
        {"", "the node cannot read its policy, so only the bootstrap file counts",
         "see CERTAUTH.POLICY STATUS on the node for what is wrong with the journal"},
    [REASON_NO_POLICY] = {"", "the node has no policy yet, so nobody logs in by certificate",
                          "load one with CERTAUTH.POLICY LOAD"},
    [REASON_OFF] = {"", "the policy is not enforced", "add the line: set enforce on"},
    [REASON_NO_CERTIFICATE] = {"", "the connection brought no certificate",
                               "give the client its certificate and key"},
    [REASON_HANDSHAKE] = {"", "the TLS handshake refuses it",
                          "issue a certificate that this server's TLS takes"},
    [REASON_WEAK] = {"", "a key or a signature of its path is too weak",
                     "issue it, and the CAs above it, with RSA keys of 2048 bits or EC keys and "
                     "SHA-256"},
    [REASON_MALFORMED] = {"the certificate parses", "the certificate does not parse as it has to",
                          "issue a new certificate"},
    [REASON_TOO_LARGE] = {"", "the certificate is larger than anybody needs",
                          "issue a smaller certificate"},
    [REASON_BAD_STRING] = {"its names are clean text", "a name in it is not clean text",
                           "issue a certificate without such characters"},
    [REASON_AMBIGUOUS] = {"it names one identity",
                          "it names several identities of a kind that the policy "
                          "binds",
                          "bind its whole subject or its key, or issue one with a single name"},
    [REASON_UNTRUSTED_ISSUER] = {"it comes from a trusted CA",
                                 "no `ca` line of the policy is in its path",
                                 "add a `ca` line for the CA that issued it"},
    [REASON_CA_EXPIRED] = {"the CAs of its path are within their validity",
                           "a CA of its path is outside its validity", "renew the CA"},
    [REASON_CA_REVOKED] = {"no CA of its path is revoked", "a CA of its path is revoked",
                           "issue the certificate from another CA"},
    [REASON_NOT_YET_VALID] = {"its validity has begun", "its validity has not begun",
                              "wait, or check the clocks of issuer and server"},
    [REASON_EXPIRED] = {"it has not expired", "it has expired", "renew the certificate"},
    [REASON_KEY_USAGE] = {"it may be used by a TLS client",
                          "it is no certificate for a TLS client, or a CA's",
                          "issue one with the extended key usage clientAuth and without CA:TRUE"},
    [REASON_REVOKED] = {"it is not revoked", "it is revoked",
                        "issue a new certificate with a new key"},
    [REASON_GATE] = {"it passes the gate", "no `allow` line fits it",
                     "add an `allow` line for it, or: set gate disabled"},
    [REASON_NO_BINDING] = {"a line binds it", "no `bind` or `pattern` line names it", "bind it"},
    [REASON_CONFLICT] = {"", "lines that bind it name different users",
                         "let one `bind` line of this certificate go"},
    [REASON_ADDRESS] = {"its address is allowed", "its address is outside from= of the line",
                        "connect from an allowed address, or widen from="},
    [REASON_USER_MISSING] = {"", "the server has no such user", "add a `user` line for it"},
    [REASON_USER_OFF] = {"the user is there and on", "the user is off",
                         "write on in its `user` line"},
    [REASON_MATCHED] = {"", "it is that user", ""},
};

static void put_name(writer *w, span name) {
    char text[2 * NAME_BYTES];
    size_t len = name_print(name, text, sizeof text);
    put_string(w, name.len ? "" : "(empty)");
    put(w, text, len);
}

/* "2026-11-24T21:54:13Z". */
static void put_time(writer *w, int64_t seconds) {
    char text[64];
    struct tm tm;
    time_t at = (time_t)seconds;
    size_t len = gmtime_r(&at, &tm) ? strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) : 0;
    put(w, text, len);
}

/* Each RDN by itself, with the types of its attributes: what is compared. */
static void tell_rdns(writer *w, span subject) {
    attribute a;
    for (size_t from = 0, end; from < subject.len; from = end) {
        end = from;
        name_next(subject, &end, &a);
        for (size_t next = end; name_next(subject, &next, &a) && !a.starts;) end = next;
        put_string(w, "its RDN ");
        put_name(w, span_of(subject.ptr + from, end - from));
        put_byte(w, '\n');
    }
}

static void tell_sans(writer *w, const identity *leaf) {
    bind_kind kind;
    span value;
    for (size_t at = 0; identity_next_san(leaf, &at, &kind, &value);) {
        put_string(w, "its SAN ");
        put_string(w, bind_kind_name(kind));
        put_byte(w, ' ');
        if (kind == BIND_IP) put_address(w, value);
        else put_span(w, value);
        put_byte(w, '\n');
    }
}

static void tell_leaf(writer *w, const identity *leaf) {
    put_string(w, "subject ");
    put_name(w, leaf->subject);
    put_string(w, ", issued by ");
    put_name(w, leaf->issuer);
    put_string(w, ", serial ");
    put_hex(w, leaf->serial);
    put_string(w, ", valid ");
    put_time(w, leaf->not_before);
    put_string(w, " to ");
    put_time(w, leaf->not_after);
    put_byte(w, '\n');
    if (!leaf->refusal) tell_rdns(w, leaf->subject);
    tell_sans(w, leaf);
}

/* What a new connection goes through before a policy sees it. */
static void tell_handshake(writer *w, const handshake *tls) {
    char level[128];
    switch (tls->state) {
    case HANDSHAKE_UNSAID: return;
    case HANDSHAKE_NOT_ASKED:
        put_string(w, "the TLS handshake was not asked (");
        put_string(w, tls->text);
        put_string(w, "): it also wants a root of the path in the server's trust store, and keys and "
                      "signatures of its security level\n");
        return;
    case HANDSHAKE_WITHOUT:
        put_string(w, "the TLS handshake is without this certificate: ");
        put_string(w, tls->text);
        put_byte(w, '\n');
        return;
    case HANDSHAKE_ASKED: break;
    }
    put(w, level,
        (size_t)snprintf(level, sizeof level, "the TLS handshake %s it, at security level %d",
                         tls->refused ? "refuses" : "takes", tls->level));
    put_string(w, tls->refused ? ": " : "");
    put_string(w, tls->refused ? tls->text : "");
    put_byte(w, '\n');
}

/* What the path has that another verification may see in another way. */
static void tell_unasked(writer *w, const request *r) {
    if (r->tls.state != HANDSHAKE_NOT_ASKED || !r->issuers->known) return;
    if (r->issuers->weak)
        put_string(w, "path: a key or a signature in it is below security level 2, at which a server "
                      "refuses it: RSA keys want 2048 bits, signatures SHA-256\n");
    if (r->issuers->partial)
        put_string(w, "path: it ends at a `ca` line, and the root above that is not known here: the "
                      "TLS handshake wants that as well, by an `anchor` line or of the server\n");
}

static void tell_path(writer *w, const request *r) {
    if (!r->issuers->known) {
        put_string(w,
                   "path: nobody vouches for it; if its intermediate CAs were not given, the TLS "
                   "handshake may know more\n");
    }
    for (size_t i = 0; r->issuers->known && i < r->issuers->count; i++) {
        put_string(w, "path: the CA with key id ");
        put_hex(w, span_of(r->issuers->ca[i].key, HASH_BYTES));
        put_byte(w, '\n');
    }
    tell_unasked(w, r);
}

/* ---- The lines behind a step ---- */

static void tell_line(writer *w, const rule *line) {
    if (line == NULL) return;
    put_string(w, "by the line: ");
    put_span(w, rule_text(line));
    put_byte(w, '\n');
}

/* The first CA of the path that a `ca` line names; its DER is too long to be told. */
static void tell_trust(writer *w, const view *lines, const path *issuers) {
    uint8_t alias[KEY_BYTES];
    for (size_t i = 0; i < issuers->count; i++) {
        alias_authority(alias, issuers->ca[i].key);
        if (!view_alias(lines, alias)) continue;
        put_string(w, "by the `ca` line of the CA with key id ");
        put_hex(w, span_of(issuers->ca[i].key, HASH_BYTES));
        put_byte(w, '\n');
        return;
    }
}

static void tell_gate(writer *w, const view *lines, const identity *leaf) {
    uint8_t key[KEY_BYTES];
    if (view_setting(lines, SET_GATE) != GATE_FULL_SUBJECT) return;
    if (key_allow(key, leaf->subject)) tell_line(w, view_find(lines, key));
}

static const rule *revocation(const view *lines, revoke_kind kind, span a, span b) {
    uint8_t key[KEY_BYTES];
    key_of(key, LINE_REVOKE, (int)kind, a, b);
    return view_find(lines, key);
}

/* The `revoke` lines that name a certificate, in any of their ways. */
static void tell_revocations(writer *w, const view *lines, const uint8_t *issuer, span serial,
                             const uint8_t *cert, const uint8_t *own) {
    const span none = {0};
    tell_line(w, revocation(lines, REVOKE_SERIAL, span_of(issuer, HASH_BYTES), serial));
    tell_line(w, revocation(lines, REVOKE_CERT, span_of(cert, HASH_BYTES), none));
    tell_line(w, revocation(lines, REVOKE_KEY, span_of(own, HASH_BYTES), none));
}

static void tell_revoked_path(writer *w, const view *lines, const path *p) {
    for (size_t i = 0; i < p->count; i++) {
        const authority *ca = &p->ca[i], *issuer = i + 1 < p->count ? &p->ca[i + 1] : ca;
        tell_revocations(w, lines, issuer->key, span_of(ca->serial, ca->serial_len), ca->cert,
                         ca->key);
    }
}

static void tell_passed(writer *w, const view *lines, const request *r, int step) {
    bool odd = step == REASON_BAD_STRING && r->leaf->odd;
    put_string(w, odd ? "what is not clean text in its names binds it nowhere: "
                      : STEPS[step].passed);
    if (odd) put_span(w, r->leaf->detail);
    put_byte(w, '\n');
    if (step == REASON_UNTRUSTED_ISSUER) tell_trust(w, lines, r->issuers);
    if (step == REASON_GATE) tell_gate(w, lines, r->leaf);
}

static void tell_failed(writer *w, const view *lines, const request *r, const decision *d) {
    identity *leaf = r->leaf;
    if (d->why == REASON_CA_REVOKED) tell_revoked_path(w, lines, r->issuers);
    if (d->why == REASON_REVOKED)
        tell_revocations(w, lines, issuer_key(r->issuers), leaf->serial, identity_cert(leaf),
                         identity_key(leaf));
}

/* ---- The nearest binding ---- */

/* A `bind subject` line, and how far its subject is from the leaf's. */
typedef struct {
    const rule *line;
    size_t distance; /* attributes that only one of the two has */
    size_t len;
    uint8_t subject[NAME_BYTES];
} candidate;

static bool has_attribute(span name, const attribute *wanted) {
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) {
        if (span_equal(a.oid, wanted->oid) && span_equal(a.value, wanted->value)) return true;
    }
    return false;
}

/* The attributes of `name` that `other` does not have; with `w`, each is told. */
static size_t missing_in(span other, span name, writer *w) {
    size_t count = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) {
        uint8_t bytes[NAME_BYTES];
        writer one = {bytes, 0, sizeof bytes, false};
        if (has_attribute(other, &a)) continue;
        put_attribute(&one, true, a.oid, a.value);
        if (w && count) put_string(w, ", ");
        if (w) put_name(w, span_of(one.ptr, one.len));
        count++;
    }
    return count;
}

static size_t attributes_of(span name) {
    size_t count = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) count++;
    return count;
}

/* The subject of a `bind subject` line, which stands in its text only. */
static bool read_subject(const rule *line, candidate *out) {
    uint8_t token[4 * NAME_BYTES];
    span text = rule_text(line);
    fault why;
    size_t len;
    if (rule_type(line) != LINE_BIND || line->kind != BIND_SUBJECT || text.len > sizeof token)
        return false;
    for (int i = 0; i < 3; i++) {
        if (token_read(&text, token, &len) != TOKEN_READ) return false;
    }
    out->line = line;
    return name_parse(span_of(token, len), out->subject, &out->len, &why);
}

static bool is_nearer(const candidate *one, const candidate *best) {
    if (best->line == NULL || one->distance != best->distance)
        return best->line == NULL || one->distance < best->distance;
    return span_compare(rule_text(one->line), rule_text(best->line)) < 0;
}

/* Of the first `most` lines of the policy; a subject with nothing in common is not near. */
static void find_nearest(const policy *p, span subject, size_t most, candidate *best) {
    candidate one;
    size_t rules = p ? policy_rules(p) : 0, own = attributes_of(subject);
    best->line = NULL;
    for (size_t i = 0; i < rules && i < most; i++) {
        if (!read_subject(policy_rule(p, i), &one)) continue;
        span other = span_of(one.subject, one.len);
        size_t only_here = missing_in(other, subject, NULL);
        if (only_here == own) continue;
        one.distance = only_here + missing_in(subject, other, NULL);
        if (is_nearer(&one, best)) *best = one;
    }
}

static void tell_nearest(writer *w, const policy *p, const identity *leaf, size_t most) {
    candidate best;
    find_nearest(p, leaf->subject, most, &best);
    if (best.line == NULL) return;
    span other = span_of(best.subject, best.len);
    put_string(w, "nearest: ");
    put_span(w, rule_text(best.line));
    if (best.distance == 0) {
        put_string(w, span_equal(other, leaf->subject)
                          ? ": it asks for another CA"
                          : ": it has the same attributes in another order");
    } else {
        put_string(w, ": the certificate has ");
        if (missing_in(other, leaf->subject, w) == 0) put_string(w, "nothing else");
        put_string(w, ", the line has ");
        if (missing_in(leaf->subject, other, w) == 0) put_string(w, "nothing else");
    }
    put_byte(w, '\n');
}

/* ---- The end ---- */

static void tell_cure(writer *w, const request *r, const decision *d) {
    char text[2 * NAME_BYTES];
    bool unbound = d->why == REASON_NO_BINDING;
    size_t len = unbound ? name_print(r->leaf->subject, text, sizeof text) : 0;
    put_string(w, "to change it: ");
    if (len) {
        put_string(w, "add the line: bind subject ");
        put_token(w, span_of(text, len));
        put_string(w, " <user>");
    } else {
        put_string(w, STEPS[d->why].cure);
    }
    put_byte(w, '\n');
}

static void tell_made(writer *w, const decision *d) {
    if (d->made_len == 0) return;
    put_string(w, "it makes the user: ");
    put_span(w, decision_user(d, 0));
    put_byte(w, '\n');
}

static void tell_end(writer *w, const decision *d) {
    put_string(w, reason_name(d->why));
    put_string(w, ": ");
    put_string(w, d->act == ACTION_CHOOSE ? "it may be any user of the line, and has to choose"
                                          : STEPS[d->why].failed);
    if (d->detail.len) put_string(w, ": ");
    put_span(w, d->detail);
    put_byte(w, '\n');
    if (d->line) {
        put_string(w, "decided by the line: ");
        put_span(w, rule_text(d->line));
        put_byte(w, '\n');
        tell_made(w, d);
    }
    if (d->why == REASON_NO_BINDING && d->compared) {
        char count[64];
        put(w, count,
            (size_t)snprintf(count, sizeof count, "`pattern` lines that were compared: %u\n",
                             d->compared));
    }
    if (d->shadow) put_string(w, "shadow: the policy only records this, nothing is done\n");
}

size_t decision_explain(const policy *p, const request *r, const decision *d, size_t most,
                        char *out, size_t room) {
    writer w = {(uint8_t *)out, 0, room, false};
    view lines = {p, r->pending};
    bool decided = r->leaf && !r->tls.refused && r->tls.state != HANDSHAKE_WITHOUT;
    if (r->leaf) tell_handshake(&w, &r->tls);
    if (r->leaf) tell_leaf(&w, r->leaf);
    if (r->leaf && !r->leaf->refusal) tell_path(&w, r);
    for (int step = REASON_MALFORMED; decided && step < (int)d->why; step++) {
        if (STEPS[step].passed[0]) tell_passed(&w, &lines, r, step);
    }
    tell_end(&w, d);
    if (decided) tell_failed(&w, &lines, r, d);
    if (d->why == REASON_NO_BINDING) tell_nearest(&w, p, r->leaf, most);
    if (STEPS[d->why].cure[0]) tell_cure(&w, r, d);
    while (w.len && out[w.len - 1] != '\n') w.len--;
    return w.len ? w.len - 1 : 0;
}
