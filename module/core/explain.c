/* A decision told to a person: what was read, each step, and what would have to change. The module,
 * the REST API and the command line all print what this file writes. */
#include "explain.h"

#include <stdio.h>

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
    [REASON_UNKNOWN_ALGORITHM] =
        {"", "it cannot be verified",
         "use an OpenSSL here that knows it, or issue it and its CAs with RSA or EC keys"},
    [REASON_MALFORMED] = {"the certificate parses", "the certificate does not parse as it has to",
                          "issue a new certificate"},
    [REASON_TOO_LARGE] = {"", "the certificate is larger than anybody needs",
                          "issue a smaller certificate"},
    [REASON_BAD_STRING] = {"its names are clean text", "a name in it is not clean text",
                           "issue a certificate without such characters"},
    [REASON_AMBIGUOUS] = {"it names one identity",
                          "it names several identities of a kind that the policy "
                          "binds",
                          "issue one with a single name, or, where its lines agree, add: set "
                          "several-names same"},
    [REASON_LOCKED] = {"", "a lock is on it", "wait until that line goes, or take it away"},
    [REASON_UNTRUSTED_ISSUER] =
        {"it comes from a trusted CA",
         "no `ca` line of the policy is in its path, and no `pin` line holds it",
         "add a `ca` line for the CA that issued it, or a `pin` line for it alone"},
    [REASON_CA_EXPIRED] = {"the CAs of its path are within their validity",
                           "a CA of its path is outside its validity",
                           "renew the CA, and put its new certificate into the client's chain and "
                           "the policy"},
    [REASON_CA_REVOKED] = {"no CA of its path is revoked", "a CA of its path is revoked",
                           "issue the certificate from another CA"},
    [REASON_NOT_YET_VALID] = {"its validity has begun", "its validity has not begun",
                              "wait, or check the clocks of issuer and server"},
    [REASON_EXPIRED] = {"it has not expired", "it has expired", "renew the certificate"},
    [REASON_KEY_USAGE] = {"it may be used by a TLS client",
                          "it is not a certificate for a TLS client, or a CA's",
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
    [REASON_LIFETIME] = {"its lifetime is short enough", "it lives longer than the policy allows",
                         "issue one that ends sooner, or change `set max-lifetime`"},
    [REASON_REQUIRED_EKU] =
        {"it has the extended key usages that the policy asks for",
         "it has not all extended key usages that the policy asks for",
         "issue one with these extended key usages, or change `set require-eku`"},
    [REASON_REQUIRED_POLICY] =
        {"it has the certificate policies that the policy asks for",
         "it has not all certificate policies that the policy asks for",
         "issue one with these certificate policies, or change `set require-policy`"},
    [REASON_KEY_TOO_SMALL] = {"its key is large enough",
                              "its key is smaller than the policy allows",
                              "issue one with a larger key, or change `set min-key-bits`"},
    [REASON_TLS_VERSION] = {"the TLS version of its connection is new enough",
                            "the TLS version of its connection is older than the policy allows",
                            "let the client use a newer TLS version, or change `set min-tls`"},
    [REASON_USER_MISSING] = {"", "the server has no such user", "add a `user` line for it"},
    [REASON_USER_OFF] = {"the user is there and on", "the user is off",
                         "write on in its `user` line"},
    [REASON_MATCHED] = {"", "it is that user", ""},
};

/* For the cases in which a control plane writes the policy. */
static const char *const MANAGED[REASON_COUNT] = {
    [REASON_NO_POLICY] = "register this server: redis-certauth db create",
    [REASON_OFF] = "redis-certauth db update <database> --tls-mode enabled",
    [REASON_AMBIGUOUS] =
        "issue one with a single name, or, where all that its names are is one user: "
        "redis-certauth db update <database> --several-names same",
    [REASON_LOCKED] = "redis-certauth lock list has why and until when, and redis-certauth lock "
                      "delete ends it",
    [REASON_UNTRUSTED_ISSUER] = "redis-certauth ca set <file with all CAs> --trust-grows, or "
                                "authentication_ssl_client_certs "
                                "of the database",
    [REASON_GATE] = "redis-certauth db update <database> --validation disabled, or add it to "
                    "authorized_subjects of the database",
    [REASON_NO_BINDING] = "give a user what it has: redis-certauth user identity add",
    [REASON_CONFLICT] = "let one user have what this certificate is named by",
    [REASON_LIFETIME] = "issue one that ends sooner",
    [REASON_REQUIRED_EKU] = "issue one with these extended key usages",
    [REASON_REQUIRED_POLICY] = "issue one with these certificate policies",
    [REASON_KEY_TOO_SMALL] = "issue one with a larger key",
    [REASON_TLS_VERSION] = "let the client use a newer TLS version",
    [REASON_USER_MISSING] =
        "give a role of the user an ACL here: redis-certauth db update <database> "
        "--grant <role>=<acl>, and --grant for each that it has already",
    [REASON_USER_OFF] = "see what the user's roles have here: redis-certauth user show <user>",
};

/* RFC 4514 text with what the eye cannot tell in hex, so that it can be pasted. */
static size_t visible_name(span name, char *out, size_t room) {
    char text[2 * NAME_BYTES];
    writer w = {(uint8_t *)out, 0, room, false};
    put_visible(&w, span_of(text, name_print(name, text, sizeof text)), "\\");
    return w.full ? 0 : w.len;
}

void put_name(writer *w, span name) {
    char text[4 * NAME_BYTES];
    size_t len = visible_name(name, text, sizeof text);
    put_string(w, name.len ? "" : "(empty)");
    put(w, text, len);
}

/* A word of a policy line that can be pasted. */
void put_visible_token(writer *w, span token) {
    if (text_visible(token)) {
        put_token(w, token);
        return;
    }
    put_byte(w, '"');
    for (size_t i = 0; i < token.len; i++) {
        size_t run = i;
        while (run < token.len && token.ptr[run] != '"' && token.ptr[run] != '\\') run++;
        put_visible(w, span_of(token.ptr + i, run - i), "\\x");
        if (run < token.len) put_byte(w, '\\');
        if (run < token.len) put_byte(w, token.ptr[run]);
        i = run;
    }
    put_byte(w, '"');
}

void put_line(writer *w, span text) {
    uint8_t token[LINE_BYTES];
    size_t len;
    if (text_visible(text) || text.len > sizeof token) {
        put_span(w, text);
        return;
    }
    for (bool first = true; token_read(&text, token, &len) == TOKEN_READ; first = false) {
        if (!first) put_byte(w, ' ');
        put_visible_token(w, span_of(token, len));
    }
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
        else put_visible(w, value, "\\x");
        put_byte(w, '\n');
    }
}

/* OID=text of an extension. */
void put_extension(writer *w, const attribute *one) {
    put_dotted(w, one->oid);
    put_byte(w, '=');
    put_visible(w, one->value, "\\x");
}

static void tell_extensions(writer *w, span extensions) {
    attribute one;
    for (size_t at = 0; name_next(extensions, &at, &one);) {
        if (one.value.len == 0) continue;
        put_string(w, "its extension ");
        put_extension(w, &one);
        put_byte(w, '\n');
    }
}

static void tell_leaf(writer *w, const identity *leaf) {
    put_string(w, "subject ");
    put_name(w, leaf->subject);
    if (leaf->issuer.len) put_string(w, ", issued by ");
    if (leaf->issuer.len) put_name(w, leaf->issuer);
    put_string(w, ", serial ");
    put_hex(w, leaf->serial);
    if (is_known_time(leaf->not_before)) {
        put_string(w, ", valid ");
        put_time(w, leaf->not_before);
    }
    if (is_known_time(leaf->not_after)) {
        put_string(w, is_known_time(leaf->not_before) ? " to " : ", valid to ");
        put_time(w, leaf->not_after);
    }
    put_byte(w, '\n');
    if (leaf->client && leaf->serves)
        put_string(w,
                   "its extended key usage is not clientAuth alone: where only the TLS handshake "
                   "decides, it is good enough for a node\n");
    if (!leaf->refusal) tell_rdns(w, leaf->subject);
    tell_sans(w, leaf);
    tell_extensions(w, leaf->extensions);
}

/* What a new connection goes through before a policy sees it. */
static void tell_handshake(writer *w, const handshake *tls) {
    char level[128];
    switch (tls->state) {
    case HANDSHAKE_UNSAID: return;
    case HANDSHAKE_NOT_ASKED:
        put_string(w, "the TLS handshake was not asked (");
        put_string(w, tls->text);
        put_string(w, tls->refused
                          ? ")\n"
                          : "): it also wants a root of the path in the server's trust store, "
                            "and keys and signatures of its security level\n");
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
static void tell_unasked(writer *w, const request *r, bool pinned) {
    if (r->tls.state != HANDSHAKE_NOT_ASKED) return;
    if (pinned)
        put_string(w, "path: the TLS handshake takes what is pinned where trust is managed\n");
    if (pinned || !r->issuers->known) return;
    if (r->issuers->weak)
        put_string(w,
                   "path: a key or a signature in it is below security level 2, at which a server "
                   "refuses it: RSA keys want 2048 bits, signatures SHA-256\n");
    if (r->issuers->partial)
        put_string(w,
                   "path: it ends at a `ca` line, and the root above that is not known here: the "
                   "TLS handshake takes that where trust is managed, and else wants the root\n");
}

static void tell_path(writer *w, const view *lines, const request *r) {
    bool pinned = view_pins_leaf(lines, r->leaf);
    if (pinned) put_string(w, "path: none is needed, a `pin` line holds this certificate\n");
    if (!r->issuers->known && !pinned && r->tls.refused != REASON_UNKNOWN_ALGORITHM) {
        put_string(w,
                   "path: nobody vouches for it; if its intermediate CAs were not given, the TLS "
                   "handshake may know more\n");
    }
    for (size_t i = 0; r->issuers->known && i < r->issuers->count; i++) {
        put_string(w, "path: the CA with key id ");
        put_hex(w, span_of(r->issuers->ca[i].key, HASH_BYTES));
        put_byte(w, '\n');
    }
    tell_unasked(w, r, pinned);
}

/* ---- The lines behind a step ---- */

static void tell_line(writer *w, const rule *line) {
    if (line == NULL) return;
    put_string(w, "by the line: ");
    put_line(w, rule_text(line));
    put_byte(w, '\n');
}

/* The first CA of the path that a `ca` line names, or the `pin` line; their DER is too long to be told. */
static void tell_trust(writer *w, const view *lines, const request *r) {
    const path *issuers = r->issuers;
    uint8_t alias[KEY_BYTES];
    if (view_pins_leaf(lines, r->leaf)) {
        put_string(w, "by the `pin` line of the certificate with SHA-256 ");
        put_hex(w, span_of(identity_cert(r->leaf), HASH_BYTES));
        put_byte(w, '\n');
        return;
    }
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

/* The `revoke` lines that name a certificate, in any of their ways. */
static void tell_revocations(writer *w, const view *lines, revocable c) {
    for (int way = 0; way < REVOKE_WAYS; way++)
        tell_line(w, view_revocation(lines, &c, (revoke_way)way));
}

static void tell_revoked_path(writer *w, const view *lines, const path *p) {
    for (size_t i = 0; i < p->count; i++) tell_revocations(w, lines, revocable_authority(p, i));
}

/* Has a check a step to show? A demand has, where the policy makes it of this client. */
static bool is_step(const view *lines, const decision *d, int step) {
    bool demand = step >= REASON_LIFETIME && step <= REASON_TLS_VERSION;
    return demand ? !d->exempt && view_demand(lines, (reason)step) : STEPS[step].passed[0] != 0;
}

static void tell_passed(writer *w, const view *lines, const request *r, int step) {
    const rule *demand = view_demand(lines, (reason)step);
    if (demand && !demand_asked(demand, r)) put_string(w, "not known here is whether ");
    bool odd = step == REASON_BAD_STRING && r->leaf->odd;
    bool pinned = step == REASON_UNTRUSTED_ISSUER && view_pins_leaf(lines, r->leaf);
    put_string(w, odd      ? "what is not clean text in its names binds it nowhere: "
                  : pinned ? "it is pinned, no matter who issued it"
                           : STEPS[step].passed);
    if (odd) put_span(w, r->leaf->detail);
    put_byte(w, '\n');
    tell_line(w, view_demand(lines, (reason)step));
    if (step == REASON_UNTRUSTED_ISSUER) tell_trust(w, lines, r);
    if (step == REASON_GATE) tell_gate(w, lines, r->leaf);
}

static void tell_failed(writer *w, const view *lines, const request *r, const decision *d) {
    if (d->why == REASON_CA_REVOKED) tell_revoked_path(w, lines, r->issuers);
    if (d->why == REASON_REVOKED) tell_revocations(w, lines, revocable_leaf(r));
    tell_line(w, view_demand(lines, d->why));
}

/* ---- The end ---- */

/* Where the server's own TLS is what a certificate does not get past; else NULL. */
static const char *handshake_cure(const view *lines, const request *r, reason why) {
    if (why == REASON_NO_CERTIFICATE && r->tls.state == HANDSHAKE_WITHOUT)
        return "where the server asks for none, set tls-auth-clients to yes or optional; else "
               "issue "
               "it with an RSA key or an EC key of P-256, P-384 or P-521";
    if (why == REASON_UNTRUSTED_ISSUER && r->tls.refused && view_pins_leaf(lines, r->leaf))
        return "a `pin` line holds it, and a handshake takes that where trust is managed: let "
               "tls-ca-cert-dir be the journal's ca directory, see CERTAUTH.POLICY STATUS";
    if (why == REASON_UNTRUSTED_ISSUER && r->tls.refused && r->issuers->known &&
        r->issuers->partial)
        return "the policy trusts its CA without its root, and a handshake takes that where trust "
               "is "
               "managed: let tls-ca-cert-dir be the journal's ca directory, or add the root as an "
               "`anchor` line or to tls-ca-cert-file";
    if (why == REASON_UNTRUSTED_ISSUER && r->tls.refused && r->issuers->known)
        return "the policy trusts its CA, and the server does not: let its tls-ca-cert-file or "
               "tls-ca-cert-dir hold the root of the path";
    return NULL;
}

/* A cure by what is known of this certificate; NULL: the reason's own. */
static const char *own_cure(const view *lines, const request *r, const decision *d) {
    const identity *leaf = r->leaf;
    uint8_t key[KEY_BYTES];
    span cn;
    switch (d->why) {
    case REASON_KEY_USAGE:
        return leaf->ca || leaf->signs ? NULL : "issue one with digitalSignature in its key usage";
    case REASON_AMBIGUOUS:
        return name_common_names(leaf->subject, &cn) > 1 &&
                       view_setting(lines, SET_GATE) == GATE_SAN_CN
                   ? "the gate looks at the CN, so issue one with a single CN, or take the gate "
                     "away"
                   : NULL;
    case REASON_GATE:
        return view_setting(lines, SET_GATE) == GATE_FULL_SUBJECT && !key_allow(key, leaf->subject)
                   ? "no `allow` line can say this subject, which has other attributes than one "
                     "CN, "
                     "OUs and one of O, L, ST and C: take the gate away"
                   : NULL;
    default: return handshake_cure(lines, r, d->why);
    }
}

/* The first SAN that is the only one of its kind and can be written; false where there is none. */
static bool only_san(const identity *leaf, bind_kind *kind, span *value) {
    bind_kind other;
    span one;
    for (size_t at = 0; identity_next_san(leaf, &at, kind, value);) {
        size_t count = 0;
        for (size_t next = 0; identity_next_san(leaf, &next, &other, &one);)
            count += other == *kind;
        if (count == 1 && (*kind == BIND_IP || text_visible(*value)) && !(leaf->odd & 1u << *kind))
            return true;
    }
    return false;
}

/* What a user can be known by: the subject, or a SAN, or the key. */
static bind_kind name_to_bind(identity *leaf, writer *w) {
    char text[4 * NAME_BYTES];
    bind_kind kind;
    span value, subject = span_of(text, visible_name(leaf->subject, text, sizeof text));
    if (subject.len && !(leaf->odd & 1u << BIND_SUBJECT)) {
        put_span(w, subject);
        return BIND_SUBJECT;
    }
    if (!only_san(leaf, &kind, &value)) {
        put_hex(w, span_of(identity_key(leaf), HASH_BYTES));
        return BIND_KEY;
    }
    if (kind == BIND_IP) put_address(w, value);
    else put_span(w, value);
    return kind;
}

/* The option of a command for an identity: --email, --key and --cert are something else there. */
static void put_option(writer *w, bind_kind kind) {
    put_string(w, " --");
    switch (kind) {
    case BIND_KEY: put_string(w, "key-id"); return;
    case BIND_CERT: put_string(w, "fingerprint"); return;
    default: put_string(w, bind_kind_name(kind));
    }
    if (kind == BIND_EMAIL) put_string(w, "-san");
    if (kind == BIND_ATTRIBUTE || kind == BIND_EXTENSION) put_string(w, "-oid");
}

/* The line, or the command, that binds it. */
static void tell_binding(writer *w, const request *r) {
    uint8_t bytes[4 * NAME_BYTES];
    writer name = {bytes, 0, sizeof bytes, false};
    bind_kind kind = name_to_bind(r->leaf, &name);
    put_string(w, r->managed ? "redis-certauth user identity add <user>" : "add the line: bind ");
    if (r->managed) put_option(w, kind);
    else put_string(w, bind_kind_name(kind));
    put_byte(w, ' ');
    if (r->managed) put_shell_word(w, span_of(bytes, name.len));
    else put_token(w, span_of(bytes, name.len));
    put_string(w, r->managed ? ", where a role of that user has an ACL here" : " <user>");
}

/* The command that adds or removes the identity of a `bind` line; false where several users have it,
 * or it cannot be written. */
static bool put_edit(writer *w, const rule *line, const char *verb) {
    uint8_t value[LINE_BYTES];
    size_t at = 0, len = 0;
    span text = rule_text(line), user, other;
    for (int i = 0; i < 3; i++) token_read(&text, value, &len); /* bind, its kind, its value */
    if (!rule_field(line, FIELD_USER, &at, &user) || rule_field(line, FIELD_USER, &at, &other) ||
        !text_visible(user) || !text_visible(span_of(value, len)))
        return false;
    put_string(w, "redis-certauth user identity ");
    put_string(w, verb);
    put_byte(w, ' ');
    put_shell_word(w, user);
    put_option(w, (bind_kind)line->kind);
    put_byte(w, ' ');
    put_shell_word(w, span_of(value, len));
    return true;
}

/* What stands before one more network of a line. The control plane alone knows the name of a
 * pattern, and replaces the word. */
static bool put_widening(writer *w, const request *r, const rule *line) {
    if (!r->managed) put_string(w, "add to from= of the line: ");
    else if (line->type == LINE_PATTERN)
        put_string(w, "redis-certauth pattern update <pattern> --add-from ");
    else if (put_edit(w, line, "add")) put_string(w, " --from ");
    else return false;
    return true;
}

static bool tell_widening(writer *w, const request *r, const decision *d) {
    if (d->why != REASON_ADDRESS || d->line == NULL || r->address.len == 0 ||
        rule_covers(d->line, r->address) || !put_widening(w, r, d->line))
        return false;
    put_address(w, r->address);
    put_string(w, ", or connect from an allowed address");
    return true;
}

/* Lines that name the certificate exactly win over patterns and parts of a subject: of those, no
 * line has to go. */
static bool tell_certain(writer *w, const request *r, const decision *d) {
    bool nobody = d->why == REASON_NO_BINDING;
    if (!nobody && (d->why != REASON_CONFLICT || d->line == NULL)) return false;
    if (!nobody && d->line->type != LINE_PATTERN && !is_attributes(d->line)) {
        if (!r->managed || !put_edit(w, d->line, "remove")) return false;
        put_string(w, ", or that of the other user");
        return true;
    }
    tell_binding(w, r);
    return true;
}

static void tell_cure(writer *w, const view *lines, const request *r, const decision *d) {
    const char *cure = r->leaf ? own_cure(lines, r, d) : NULL;
    put_string(w, "to change it: ");
    if (r->leaf && (tell_certain(w, r, d) || tell_widening(w, r, d))) {
        put_byte(w, '\n');
        return;
    }
    if (d->why == REASON_UNTRUSTED_ISSUER && r->leaf && !r->issuers->known)
        put_string(w, "where an intermediate CA issued it, the client has to send that with its "
                      "certificate; else ");
    if (cure == NULL && r->managed) cure = MANAGED[d->why];
    put_string(w, cure ? cure : STEPS[d->why].cure);
    put_byte(w, '\n');
}

static void tell_made(writer *w, const decision *d) {
    if (d->made_len == 0) return;
    put_string(w, "it makes the user: ");
    put_span(w, decision_user(d, 0));
    put_byte(w, '\n');
}

/* Anyone who issues a certificate writes its OUs, and no CA has them alone. */
static void tell_danger(writer *w, const request *r, const decision *d) {
    if (!is_attributes(d->line) || d->line->scoped || r->issuers->count == 0) return;
    put_string(w,
               "every CA that the policy trusts may write these attributes into a subject; for the "
               "issuer of this certificate alone, ");
    put_string(w, r->managed ? "give the identity --issued-by " : "add to the line: ca=");
    put_hex(w, span_of(r->issuers->ca[0].key, HASH_BYTES));
    put_byte(w, '\n');
}

static void tell_end(writer *w, const view *lines, const request *r, const decision *d) {
    const rule *demand = view_demand(lines, d->why);
    put_string(w, reason_name(d->why));
    put_string(w, ": ");
    put_string(w, d->act == ACTION_CHOOSE ? "it may be any user of the line, and has to choose"
                                          : STEPS[d->why].failed);
    if (d->detail.len) put_string(w, ": ");
    put_span(w, d->detail);
    if (demand) put_lack(w, demand, r);
    put_byte(w, '\n');
    if (d->line) {
        put_string(w, "decided by the line: ");
        put_line(w, rule_text(d->line));
        put_byte(w, '\n');
        tell_made(w, d);
        tell_danger(w, r, d);
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
    if (r->leaf && !r->leaf->refusal) tell_path(&w, &lines, r);
    for (int step = REASON_MALFORMED; decided && step < (int)d->why; step++) {
        if (is_step(&lines, d, step)) tell_passed(&w, &lines, r, step);
    }
    tell_end(&w, &lines, r, d);
    tell_line(&w, d->lock);
    if (decided) tell_failed(&w, &lines, r, d);
    if (d->why == REASON_NO_BINDING) tell_nearest(&w, p, r->leaf, most);
    if (STEPS[d->why].cure[0]) tell_cure(&w, &lines, r, d);
    while (w.len && out[w.len - 1] != '\n') w.len--;
    return w.len ? w.len - 1 : 0;
}
