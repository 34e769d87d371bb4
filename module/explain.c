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

static void put_string(writer *w, const char *text) { put(w, text, strlen(text)); }

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
    tell_sans(w, leaf);
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
}

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
    if (d->detail) {
        put_string(w, ": ");
        put_string(w, d->detail);
    }
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

size_t decision_explain(const request *r, const decision *d, char *out, size_t room) {
    writer w = {(uint8_t *)out, 0, room, false};
    if (r->leaf) tell_leaf(&w, r->leaf);
    if (r->leaf && !r->leaf->refusal) tell_path(&w, r);
    for (int step = REASON_MALFORMED; r->leaf && step < (int)d->why; step++) {
        if (STEPS[step].passed[0] == 0) continue;
        put_string(&w, STEPS[step].passed);
        put_byte(&w, '\n');
    }
    tell_end(&w, d);
    if (STEPS[d->why].cure[0]) tell_cure(&w, r, d);
    while (w.len && out[w.len - 1] != '\n') w.len--;
    return w.len ? w.len - 1 : 0;
}
