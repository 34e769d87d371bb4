/* Which trusted CA a leaf comes from. The handshake has verified it; here its answer is read, or
 * remembered, and only where neither is to be had is a signature checked again. */
#include "internal.h"

#include <stdlib.h>

#include <openssl/err.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

/* `issuer` is NULL at the end of a path: that one is a trusted copy, which nobody sends. */
static bool read_authority(X509 *certificate, X509 *issuer, authority *out) {
    size_t len;
    memset(&out->seal, 0, sizeof out->seal);
    if (issuer) certificate_seal(certificate, issuer, &out->seal);
    if (!certificate_key(certificate, out->key) ||
        !certificate_serial(certificate, out->serial, &len) ||
        !certificate_times(certificate, &out->not_before, &out->not_after)) {
        return false;
    }
    out->serial_len = (uint8_t)len;
    return certificate_hashes(certificate, out->cert, out->tbs);
}

typedef bool authority_reader(X509 *certificate, X509 *issuer, authority *out);

static void path_unknown(path *out) { memset(out, 0, offsetof(path, ca)); }

/* The seal of the leaf costs more than all else of a login, and is the same below the same key. `before`:
 * the path that the same leaf had, or NULL. */
static void seal_leaf(X509 *const *chain, const path *before, path *out) {
    bool same = before && memcmp(before->ca[0].key, out->ca[0].key, HASH_BYTES) == 0;
    if (same) out->leaf = before->leaf;
    else certificate_seal(chain[0], chain[1], &out->leaf);
}

/* Out of a chain that somebody has verified, leaf first, into a path that is unknown. */
static void path_from_chain(X509 *const *chain, size_t count, authority_reader *read,
                            const path *before, path *out) {
    if (count < 2 || count > PATH_LENGTH + 1)
        return; /* a leaf that vouches for itself has no issuer */
    ERR_set_mark();
    bool good = true;
    for (size_t i = 1; i < count && good; i++)
        good = read(chain[i], i + 1 < count ? chain[i + 1] : NULL, &out->ca[i - 1]);
    if (good) seal_leaf(chain, before, out);
    ERR_pop_to_mark();
    if (!good) return;
    out->count = count - 1;
    out->partial = !(X509_get_extension_flags(chain[count - 1]) & EXFLAG_SS);
    out->known = true;
}

void certificate_powers(X509 *certificate, powers *out) {
    ERR_set_mark();                                   /* see identity_read */
    uint32_t usage = X509_get_key_usage(certificate); /* without the extension every bit is set */
    out->ca = (X509_get_extension_flags(certificate) & EXFLAG_CA) != 0;
    out->certificates = (usage & X509v3_KU_KEY_CERT_SIGN) != 0;
    out->lists = (usage & X509v3_KU_CRL_SIGN) != 0;
    out->path_length = X509_get_pathlen(certificate);
    ERR_pop_to_mark();
}

/* X509_check_issued compares the names and the key identifiers first, then asks for the key and the
 * algorithm (crypto/x509/v3_purp.c, ossl_x509_likely_issued). */
issued certificate_issued(X509 *certificate, X509 *issuer) {
    fault unknown;
    ERR_set_mark();
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    int named = X509_check_issued(issuer, certificate);
    int good = named == X509_V_OK && key ? X509_verify(certificate, key) : 0;
    bool cannot = named == X509_V_ERR_NO_ISSUER_PUBLIC_KEY ||
                  named == X509_V_ERR_UNSUPPORTED_SIGNATURE_ALGORITHM ||
                  (named == X509_V_OK &&
                   (key == NULL || good < 0 || algorithm_unknown(certificate, &unknown)));
    ERR_pop_to_mark();
    return good == 1 ? ISSUED_YES : cannot ? ISSUED_UNKNOWN : ISSUED_NO;
}

void path_of_chain(X509 *const *chain, size_t count, path *out) {
    path_unknown(out);
    path_from_chain(chain, count, read_authority, NULL, out);
}

reason reason_of_error(int error, int depth) {
    switch (error) {
    case X509_V_ERR_CERT_NOT_YET_VALID: return depth ? REASON_CA_EXPIRED : REASON_NOT_YET_VALID;
    case X509_V_ERR_CERT_HAS_EXPIRED: return depth ? REASON_CA_EXPIRED : REASON_EXPIRED;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK: return REASON_WEAK;
    case X509_V_ERR_INVALID_PURPOSE: return depth ? REASON_UNTRUSTED_ISSUER : REASON_KEY_USAGE;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_INVALID_CA:
    case X509_V_ERR_CERT_UNTRUSTED: return REASON_UNTRUSTED_ISSUER;
    case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
    case X509_V_ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD:
    case X509_V_ERR_ERROR_IN_CERT_NOT_AFTER_FIELD:
        return depth ? REASON_UNTRUSTED_ISSUER : REASON_MALFORMED;
    default: return REASON_HANDSHAKE;
    }
}

/* What the decision has names of its own for does not end the verification: times, and the leaf's key
 * usage. The CAs must be for TLS clients, as the handshake asks.
 *
 * Up to a root where there is one, as the handshake goes: else what a root says (revoked, constraints)
 * would pass unseen. The error is that of a path whose last certificate is one of the policy's, and below a
 * root that is not. With the flag from there on, that one is looked at as well (internal_verify,
 * crypto/x509/x509_vfy.c, OpenSSL 3.0). */
static int forgive(int good, X509_STORE_CTX *context) {
    path *out = X509_STORE_CTX_get_app_data(context);
    if (!good && X509_STORE_CTX_get_error(context) == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT) {
        X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
        return 1;
    }
    reason why =
        reason_of_error(X509_STORE_CTX_get_error(context), X509_STORE_CTX_get_error_depth(context));
    if (good) return good;
    out->weak = out->weak || why == REASON_WEAK;
    return why == REASON_WEAK || why == REASON_CA_EXPIRED || why == REASON_EXPIRED ||
           why == REASON_NOT_YET_VALID || why == REASON_KEY_USAGE;
}

enum { LEVEL = 2 }; /* Debian's and OpenSSL 3.2's own; at 1 RSA keys of 1,024 bits and SHA-1 pass */

/* The end of the year 9999: libcrypto compares with no later time, and no certificate has one. */
#define LAST_TIME INT64_C(253402300799)

/* With the clock, since libcrypto prefers a CA that is valid to one of its name and key that is not. */
static bool verify(X509_STORE_CTX *context, const policy *p, X509 *leaf, STACK_OF(X509) * extra,
                   int64_t now, path *out) {
    if (X509_STORE_CTX_init(context, policy_store(p), leaf, extra) != 1) return false;
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(context);
    if (now) X509_VERIFY_PARAM_set_time(param, (time_t)(now < LAST_TIME ? now : LAST_TIME));
    X509_VERIFY_PARAM_set_depth(param, PATH_LENGTH);
    X509_VERIFY_PARAM_set_auth_level(param, LEVEL);
    X509_STORE_CTX_set_purpose(context, X509_PURPOSE_SSL_CLIENT);
    X509_STORE_CTX_set_app_data(context, out);
    X509_STORE_CTX_set_verify_cb(context, forgive);
    return X509_verify_cert(context) == 1;
}

static void take_chain(const STACK_OF(X509) * chain, path *out) {
    X509 *certificates[PATH_LENGTH + 1];
    int count = sk_X509_num(chain);
    if (count > PATH_LENGTH + 1) return;
    for (int i = 0; i < count; i++) certificates[i] = sk_X509_value(chain, i);
    path_from_chain(certificates, (size_t)count, read_authority, NULL, out);
}

const uint8_t *issuer_key(const path *p) {
    static const uint8_t unknown[HASH_BYTES];
    return p->known ? p->ca[0].key : unknown;
}

/* Not the CAs that are not there: each login copies a path, and a whole one is a kilobyte. */
static size_t path_size(const path *p) { return offsetof(path, ca) + p->count * sizeof *p->ca; }
static void path_copy(path *to, const path *from) { memcpy(to, from, path_size(from)); }

path *path_keep(const path *p) {
    path *kept = must(malloc(path_size(p)));
    path_copy(kept, p);
    return kept;
}

void path_free(path *kept) { free(kept); }

/* ---- What handshakes have shown ---- */

/* Resumed TLS sessions bring the leaf and no chain. Each leaf has one place, found by its DER, and a
 * new leaf takes it over; what it keeps of the leaf's hashes is for every login. The CAs are kept
 * beside it, so that a leaf that lost its place can be verified again, and what was read of them,
 * since every path has one of a few. Only what a handshake has verified comes in here, so nobody
 * fills the tables without certificates from a trusted CA. The references keep an address from
 * becoming another certificate's. */
enum { PLACES = 4096, AUTHORITIES = 64 };
typedef struct {
    uint8_t leaf[KEY_BYTES];
    uint8_t cert[HASH_BYTES], tbs[HASH_BYTES], key[HASH_BYTES];
    path issuers; /* not known: the place is empty */
} place;
static place places[PLACES];
static X509 *seen[AUTHORITIES];
static authority seen_as[AUTHORITIES];
static bool
    seen_last[AUTHORITIES]; /* at the end of a path: what its own issuer says is not known */
static size_t oldest;

static bool known_authority(X509 *certificate, X509 *issuer, authority *out) {
    for (size_t i = 0; i < AUTHORITIES && seen[i]; i++) {
        if (seen_last[i] != (issuer == NULL) || X509_cmp(seen[i], certificate) != 0) continue;
        *out = seen_as[i];
        return true;
    }
    if (!read_authority(certificate, issuer, out)) return false;
    if (X509_up_ref(certificate) != 1) return true;
    X509_free(seen[oldest]);
    seen[oldest] = certificate;
    seen_as[oldest] = *out;
    seen_last[oldest] = issuer == NULL;
    oldest = (oldest + 1) % AUTHORITIES;
    return true;
}

static place *place_of(const identity *id) { return &places[get_u16(id->lookup) % PLACES]; }

/* Its place, or NULL; the leaf has its hashes then. */
static const place *recall(identity *id) {
    const place *p = place_of(id);
    if (!p->issuers.known || memcmp(p->leaf, id->lookup, KEY_BYTES) != 0) return NULL;
    memcpy(id->cert, p->cert, HASH_BYTES);
    memcpy(id->tbs, p->tbs, HASH_BYTES);
    memcpy(id->key, p->key, HASH_BYTES);
    id->hashed = true;
    return p;
}

static void remember(identity *id, const path *issuers) {
    place *p = place_of(id);
    memcpy(p->leaf, id->lookup, KEY_BYTES);
    memcpy(p->cert, identity_cert(id), HASH_BYTES);
    memcpy(p->tbs, identity_tbs(id), HASH_BYTES);
    memcpy(p->key, identity_key(id), HASH_BYTES);
    path_copy(&p->issuers, issuers);
}

/* ---- Paths ---- */

size_t policy_unverified(const policy *p, fault *why) {
    size_t count = 0;
    fault first, other;
    char name[100] = "";
    for (size_t i = 0; i < policy_authorities(p); i++) {
        X509 *ca = policy_authority(p, i);
        if (!algorithm_unknown(ca, count ? &other : &first) || count++) continue;
        X509_NAME_oneline(X509_get_subject_name(ca), name, sizeof name);
    }
    if (count)
        fail(why, "%.100s: nothing below the CA %.99s can be verified here%s", first.text, name,
             count > 1 ? ", nor below others" : "");
    return count;
}

/* By its names: of a key whose algorithm is not known, libcrypto does not say EXFLAG_SS. */
static bool is_root(X509 *certificate) { return X509_get_extension_flags(certificate) & EXFLAG_SI; }

bool reaches_root(X509_STORE *store, X509 *ca) {
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    X509 *at = ca, *above = NULL;
    bool good = context && X509_STORE_CTX_init(context, store, ca, NULL) == 1;
    for (int i = 0; good && i <= PATH_LENGTH && !is_root(at); i++) {
        X509 *below = above;
        above = NULL;
        good = X509_STORE_CTX_get1_issuer(&above, context, at) == 1;
        at = above;
        X509_free(below);
    }
    good = good && is_root(at);
    X509_free(above);
    X509_STORE_CTX_free(context);
    return good;
}

size_t policy_rootless(const policy *p, X509_STORE *store, X509 **first) {
    size_t count = 0;
    ERR_set_mark();
    for (size_t i = 0; i < policy_authorities(p); i++) {
        X509 *ca = policy_authority(p, i);
        bool admits = rule_type(policy_authority_rule(p, i)) == LINE_CA;
        if (!admits || reaches_root(store ? store : policy_store(p), ca)) continue;
        if (count++ == 0) *first = ca;
    }
    ERR_pop_to_mark();
    return count;
}

void path_verify(const policy *p, X509 *leaf, X509 *const *extra, size_t count, int64_t now,
                 path *out, fault *unknown) {
    path_unknown(out);
    if (unknown) unknown->text[0] = 0;
    if (policy_store(p) == NULL && policy_pins(p, NULL) == 0) return;
    ERR_set_mark();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    STACK_OF(X509) *untrusted = sk_X509_new_null();
    for (size_t i = 0; i < count && untrusted; i++) {
        if (extra[i]) sk_X509_push(untrusted, extra[i]);
    }
    if (context && untrusted && verify(context, p, leaf, untrusted, now, out)) {
        take_chain(X509_STORE_CTX_get0_chain(context), out);
    } else if (context && untrusted && unknown) {
        chain_unknown(X509_STORE_CTX_get0_chain(context), unknown);
    }
    sk_X509_free(untrusted);
    X509_STORE_CTX_free(context);
    ERR_pop_to_mark();
}

void path_after_handshake(const policy *p, identity *leaf, X509 *const *chain, size_t count,
                          path *out) {
    const place *known = recall(leaf);
    path_unknown(out);
    const path *before = known ? &known->issuers : NULL;
    if (count != 1) path_from_chain(chain, count, known_authority, before, out);
    else if (known) path_copy(out, &known->issuers);
    else path_verify(p, chain[0], seen, AUTHORITIES, 0, out, NULL);
    /* What is above the end of a partial path may be known the next time, and revoked. */
    if (count != 1 && out->known && !out->partial) remember(leaf, out);
}
