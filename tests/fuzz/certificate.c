/* DER or PEM from a stranger: parsed, read, verified, decided and explained. */
#include "fuzz.h"

enum { CERTIFICATES = 4, TRACE_BYTES = 65536, NOW = 1800000000 };

/* CN=Root CA,O=acme, the name of the CA of the seeds, but not its key: every signature is checked, and
 * none is good. */
#define CA_LINE                                                                                    \
    "ca "                                                                                          \
    "MIIBVjCB/aADAgECAhRFPJaeAZ6SI2QrTzjlbvHs6udhSTAKBggqhkjOPQQDAjAhMQ0wCwYDVQQKDARhY21lMRAwDgYD" \
    "VQQDDAdSb290IENBMB4XDTIwMDEwMTAwMDAwMFoXDTQ5MTIzMTIzNTk1OVowITENMAsGA1UECgwEYWNtZTEQMA4GA1UE" \
    "AwwHUm9vdCBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHfhHBTF86P+3S2lLAKcHjqlRHR6AWI5JsUAih8Qievc" \
    "ZDxwySsQFcLaWhL024ryQRQYTgrLczqZtaeQoDx6hUOjEzARMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAw" \
    "RQIhALTaMaU9xDK/KQS1ggYqMTnEB3b2vICWZ4BqZSL6AbxRAiAV7fLHHoQZU/wPdZBr43pjp6qLqx/DDPPwVlO1CNcV" \
    "YA=="

static const char *const LINES[] = {
    "set enforce on",
    CA_LINE,
    "bind cn alice alice",
    "bind uri spiffe://x/a bob",
    "bind ip 10.0.0.1 bob",
    "bind subject CN=x,O=acme carol dave",
    "bind attribute serialNumber=1 erin",
    "bind extension 1.3.6.1.4.1.99999.1=cart frank",
    "bind attributes OU=eng,OU=ops grace",
    "bind attributes O=acme,L=x heidi",
    "set several-names same",
    "pattern uri spiffe://{td}/{id} uri:{td}:{id} on",
    "pattern dns {a}.{b} dns:{a}:{b} on",
    "pattern email {a}@{b} mail:{a}:{b} on",
    "pattern upn {a}@{b} mail:{a}:{b} on",
    "pattern subject CN={id} cn:{id} on",
    "pattern cn {id} cn:{id} on",
    "pattern uri spiffe://y/{id} bob",
    "set max-lifetime 20000d",
    "set require-eku clientAuth",
    "set require-policy 1.2.3",
    "set min-key-bits 2048",
};

static policy *lines(void) {
    static policy *made;
    if (made) return made;
    made = policy_new();
    patch *all = patch_new(made, FROM_WIRE);
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++)
        patch_add(all, span_of(LINES[i], strlen(LINES[i])), i + 1);
    LAW(patch_finish(all, false));
    policy_commit(made, all);
    patch_free(all);
    return made;
}

/* ---- Laws ---- */

static void check_name(const identity *id, span name) {
    uint8_t again[NAME_BYTES];
    char text[5 * NAME_BYTES];
    size_t len = 0, size = name_print(name, text, sizeof text);
    fault why;
    if (name.len == 0) return;
    LAW(name.ptr >= id->bytes && name.ptr + name.len <= id->bytes + sizeof id->bytes);
    /* A type that libcrypto cannot write, or an RDN that no text can say, is printed as nothing. */
    if (size == 0) return;
    LAW(text_clean(span_of(text, size)));
    if (name_parse(span_of(text, size), again, &len, &why))
        LAW(span_equal(name, span_of(again, len)));
}

static void check_extensions(const identity *id) {
    attribute one;
    size_t at = 0;
    LAW(id->extensions.len <= EXTENSION_BYTES);
    while (name_next(id->extensions, &at, &one)) {
        LAW(at <= id->extensions.len && one.starts && one.oid.len);
        LAW(one.value.len <= EXTENSION_TEXT && text_clean(one.value));
    }
}

static void check_identity(const identity *id) {
    size_t at = 0;
    bind_kind kind;
    span value;
    LAW((id->refusal || id->odd) == (id->detail.len > 0) && text_clean(id->detail));
    check_name(id, id->subject);
    check_name(id, id->issuer);
    check_extensions(id);
    while (identity_next_san(id, &at, &kind, &value)) {
        LAW(at <= id->sans.len && kind < BIND_KINDS);
        LAW(kind == BIND_IP ? value.len == 4 || value.len == 16 : text_clean(value));
    }
}

static void check_decision(const policy *p, const request *r) {
    static char trace[TRACE_BYTES];
    decision d = policy_decide(p, NULL, r);
    LAW(d.why != REASON_UNDECIDED && d.why < REASON_COUNT);
    LAW((d.act == ACTION_LOGIN || d.act == ACTION_CHOOSE) == (d.why == REASON_MATCHED));
    if (r->leaf->refusal) LAW(d.act == ACTION_REFUSE && d.why == r->leaf->refusal);
    if (d.made_len) LAW(rule_makes(d.line, decision_user(&d, 0)));
    span told = span_of(trace, decision_explain(p, r, &d, 1 << 15, trace, sizeof trace)), line;
    LAW(told.len > 0);
    while (next_line(&told, &line)) LAW(text_clean(line));
}

/* What is kept of a leaf is what it says, without the leaf. */
static void check_kept(const policy *p, request r) {
    identity *read = r.leaf, *kept = identity_keep(read);
    LAW(span_equal(kept->subject, read->subject) && span_equal(kept->issuer, read->issuer));
    LAW(span_equal(kept->serial, read->serial) && span_equal(kept->sans, read->sans));
    LAW(span_equal(kept->usages, read->usages) && span_equal(kept->policies, read->policies));
    LAW(span_equal(kept->extensions, read->extensions));
    r.leaf = kept;
    check_decision(p, &r);
    LAW(memcmp(identity_cert(kept), identity_cert(read), HASH_BYTES) == 0);
    identity_free(kept);
}

/* What is remembered of a leaf is what it is. */
static void check_memory(const policy *p, X509 *leaf, identity *id) {
    static identity again;
    static path issuers;
    identity_read(leaf, &again);
    path_after_handshake(p, &again, &leaf, 1, &issuers);
    LAW(memcmp(identity_cert(&again), identity_cert(id), HASH_BYTES) == 0);
    LAW(memcmp(identity_key(&again), identity_key(id), HASH_BYTES) == 0);
}

/* Once as libcrypto verifies it, and once as if a handshake had: no mutant has a good signature. */
static void check_leaf(X509 *const *given, size_t count) {
    static identity id;
    static path issuers;
    const policy *p = lines();
    LAW(identity_read(given[0], &id) == id.refusal);
    check_identity(&id);
    request r = {.leaf = &id, .issuers = &issuers, .now = NOW};
    path_verify(p, given[0], given + 1, count - 1, NOW, &issuers, NULL);
    check_decision(p, &r);
    X509 *chain[] = {given[0], policy_authority(p, 0)};
    path_after_handshake(p, &id, chain, 2, &issuers);
    check_decision(p, &r);
    check_kept(p, r);
    check_memory(p, given[0], &id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    X509 *found[CERTIFICATES];
    fault why;
    span input = exact(span_of(data, size));
    size_t count = certificates_parse(input, found, CERTIFICATES, &why);
    release(input);
    LAW(count < CERTIFICATES);
    if (count) check_leaf(found, count);
    else LAW(why.text[0]);
    while (count) certificate_free(found[--count]);
    return 0;
}
