/* What of a certificate is signed, and by which algorithms. */
#include "cert.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/params.h>

/* ---- Algorithms ---- */

/* A name for what this libcrypto may have none for: those of FIPS 204 and 205 are known from OpenSSL 3.5
 * on. The last arcs under 2.16.840.1.101.3.4.3 (RFC 9881 2, RFC 9909 3). */
static void name_algorithm(const ASN1_OBJECT *algorithm, char out[ALGORITHM_TEXT]) {
    enum { FIRST = 17 };
    static const char *const names[] = {
        "ML-DSA-44",          "ML-DSA-65",          "ML-DSA-87",          "SLH-DSA-SHA2-128s",
        "SLH-DSA-SHA2-128f",  "SLH-DSA-SHA2-192s",  "SLH-DSA-SHA2-192f",  "SLH-DSA-SHA2-256s",
        "SLH-DSA-SHA2-256f",  "SLH-DSA-SHAKE-128s", "SLH-DSA-SHAKE-128f", "SLH-DSA-SHAKE-192s",
        "SLH-DSA-SHAKE-192f", "SLH-DSA-SHAKE-256s", "SLH-DSA-SHAKE-256f",
    };
    span oid = span_of(OBJ_get0_data(algorithm), OBJ_length(algorithm));
    const span above = LITERAL("\x60\x86\x48\x01\x65\x03\x04\x03");
    size_t last = oid.len == above.len + 1 ? oid.ptr[above.len] - (size_t)FIRST : SIZE_MAX;
    if (span_starts(oid, above) && last < sizeof names / sizeof *names)
        snprintf(out, ALGORITHM_TEXT, "%s", names[last]);
    else OBJ_obj2txt(out, ALGORITHM_TEXT, algorithm, 0);
}

static bool knows_key(const ASN1_OBJECT *algorithm) {
    char oid[ALGORITHM_TEXT];
    OBJ_obj2txt(oid, sizeof oid, algorithm, 1);
    EVP_KEYMGMT *known = EVP_KEYMGMT_fetch(NULL, oid, NULL);
    EVP_KEYMGMT_free(known);
    return known != NULL;
}

/* One of a digest and a key is in a table of libcrypto's; one of its own goes by the name of its key. */
static bool knows_signature(const ASN1_OBJECT *algorithm) {
    return OBJ_find_sigid_algs(OBJ_obj2nid(algorithm), NULL, NULL) == 1 || knows_key(algorithm);
}

static bool knows_curve(const ASN1_OBJECT *curve) {
    EC_GROUP *known = EC_GROUP_new_by_curve_name(OBJ_obj2nid(curve));
    EC_GROUP_free(known);
    return known != NULL;
}

/* The algorithm of a key or, where that has curves with names, the curve: `knows` says whether this
 * libcrypto has it. */
static const ASN1_OBJECT *key_algorithm(X509 *certificate, bool (**knows)(const ASN1_OBJECT *)) {
    ASN1_OBJECT *key = NULL;
    X509_ALGOR *algorithm = NULL;
    const void *curve;
    int type;
    X509_PUBKEY_get0_param(&key, NULL, NULL, &algorithm, X509_get_X509_PUBKEY(certificate));
    X509_ALGOR_get0(NULL, &type, &curve, algorithm);
    bool named = OBJ_obj2nid(key) == NID_X9_62_id_ecPublicKey && type == V_ASN1_OBJECT;
    *knows = named ? knows_curve : knows_key;
    return named ? curve : key;
}

void algorithm_of_key(X509 *certificate, char out[ALGORITHM_TEXT]) {
    bool (*knows)(const ASN1_OBJECT *);
    name_algorithm(key_algorithm(certificate, &knows), out);
}

bool algorithm_unknown(X509 *certificate, fault *why) {
    bool (*knows)(const ASN1_OBJECT *);
    const ASN1_OBJECT *key = key_algorithm(certificate, &knows), *signature;
    const X509_ALGOR *algorithm;
    char name[ALGORITHM_TEXT];
    X509_get0_signature(NULL, &algorithm, certificate);
    X509_ALGOR_get0(&signature, NULL, NULL, algorithm);
    ERR_set_mark();
    bool known = X509_get0_pubkey(certificate) || knows(key);
    if (!known) name_algorithm(key, name);
    else if (!(known = knows_signature(signature))) name_algorithm(signature, name);
    ERR_pop_to_mark();
    return !known && !fail(why, "this OpenSSL (%.32s) does not know %s",
                           OpenSSL_version(OPENSSL_VERSION_STRING), name);
}

bool chain_unknown(const STACK_OF(X509) * chain, fault *why) {
    for (int i = 0; i < sk_X509_num(chain); i++) {
        if (algorithm_unknown(sk_X509_value(chain, i), why)) return true;
    }
    return false;
}

/* ---- Signatures ---- */

/* Not by EVP_PKEY_get_bn_param, which takes 60,000 instructions for its 2,048 bytes of room. No curve of
 * libcrypto's is over 661 bits (OPENSSL_ECC_MAX_FIELD_BITS). NULL: not to be had. */
static BIGNUM *group_order(EVP_PKEY *key) {
    uint8_t room[96];
    BIGNUM *order = NULL;
    OSSL_PARAM wanted[] = {OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_EC_ORDER, room, sizeof room),
                           OSSL_PARAM_construct_end()};
    bool good = EVP_PKEY_get_params(key, wanted) == 1 && OSSL_PARAM_modified(wanted);
    return good && OSSL_PARAM_get_BN(wanted, &order) == 1 ? order : NULL;
}

/* (r, n - s) for (r, s): DER, to be freed with OPENSSL_free. Returns its length; 0 for what is no
 * signature, which no handshake takes. */
static int other_signature(EVP_PKEY *key, const ASN1_BIT_STRING *signature, uint8_t **der) {
    const uint8_t *at = ASN1_STRING_get0_data(signature);
    BIGNUM *order = group_order(key);
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &at, ASN1_STRING_length(signature));
    if (pair == NULL || order == NULL) {
        BN_free(order);
        ECDSA_SIG_free(pair);
        return 0;
    }
    BIGNUM *r = must(BN_dup(ECDSA_SIG_get0_r(pair)));
    must(BN_sub(order, order, ECDSA_SIG_get0_s(pair)) == 1 ? order : NULL);
    ECDSA_SIG_set0(pair, r, order); /* takes both */
    int len = i2d_ECDSA_SIG(pair, der);
    ECDSA_SIG_free(pair);
    return len > 0 ? len : 0; /* s was not a number of that group */
}

static span put_header(uint8_t *room, int constructed, size_t len, int tag) {
    uint8_t *end = room;
    ASN1_put_object(&end, constructed, (int)len, tag, V_ASN1_UNIVERSAL);
    return span_of(room, (size_t)(end - room));
}

/* The hash of the certificate with another signature in place of its own. */
static void hash_with(X509 *certificate, span signature, uint8_t out[HASH_BYTES]) {
    uint8_t outer[16], inner[16];
    encoding e;
    must(encode(certificate, &e) ? &e : NULL); /* a handshake has sent it */
    span bits = put_header(inner, 0, signature.len + 1, V_ASN1_BIT_STRING);
    size_t len = e.tbs.len + e.algorithm.len + bits.len + 1 + signature.len;
    const span parts[] = {put_header(outer, 1, len, V_ASN1_SEQUENCE), e.tbs,    e.algorithm, bits,
                          LITERAL("\0") /* no unused bits */,         signature};
    sha256_of(parts, sizeof parts / sizeof *parts, out);
    OPENSSL_free((void *)(uintptr_t)e.whole.ptr);
}

/* libcrypto's verification wants the one DER of an ECDSA or DSA signature (crypto/ec/ecdsa_ossl.c:
 * ossl_ecdsa_verify, OpenSSL 3.0.19), and an EdDSA signature is unique; an RSA-PSS signature it takes
 * without leading zeros too (crypto/rsa/rsa_ossl.c: rsa_ossl_public_decrypt). */
void certificate_seal(X509 *certificate, X509 *issuer, seal *out) {
    const ASN1_BIT_STRING *signature;
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    int type = key ? EVP_PKEY_get_base_id(key) : EVP_PKEY_NONE;
    uint8_t *other = NULL;
    X509_get0_signature(&signature, NULL, certificate);
    bool rsa = type == EVP_PKEY_RSA || type == EVP_PKEY_RSA_PSS;
    out->altered = rsa && ASN1_STRING_length(signature) != EVP_PKEY_get_size(key);
    int len = type == EVP_PKEY_EC ? other_signature(key, signature, &other) : 0;
    out->twinned = len > 0;
    if (len) hash_with(certificate, span_of(other, (size_t)len), out->twin);
    OPENSSL_free(other);
}

/* Days since 1970 of a date of the Gregorian calendar. POSIX's formula counts from March, so that
 * the leap day ends a year. */
static int64_t days_since_1970(int64_t year, int64_t month, int64_t day) {
    year -= month <= 2;
    int64_t era = year / 400, year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719468;
}

/* RFC 5280 4.1.2.5: to the second, and in UTC. It is what X509_cmp_time takes in the handshake, which
 * reads the clock and prints it each time. */
static bool is_strict_time(const ASN1_TIME *time) {
    span text = asn1_span(time);
    size_t digits = ASN1_STRING_type(time) == V_ASN1_UTCTIME ? 12 : 14;
    if (text.len != digits + 1 || text.ptr[digits] != 'Z') return false;
    for (size_t i = 0; i < digits; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9') return false;
    }
    return true;
}

bool time_seconds(const ASN1_TIME *time, int64_t *out) {
    struct tm tm;
    if (time == NULL || !is_strict_time(time) || ASN1_TIME_to_tm(time, &tm) != 1) return false;
    *out = days_since_1970(tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday) * 86400 +
           tm.tm_hour * 3600 + tm.tm_min * 60 + tm.tm_sec;
    return true;
}

bool certificate_times(X509 *certificate, int64_t *not_before, int64_t *not_after) {
    return time_seconds(X509_get0_notBefore(certificate), not_before) &&
           time_seconds(X509_get0_notAfter(certificate), not_after);
}

bool certificate_serial(X509 *certificate, uint8_t out[SERIAL_BYTES], size_t *len) {
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    span bytes = asn1_span(serial);
    while (bytes.len > 1 && bytes.ptr[0] == 0) bytes = span_skip(bytes, 1);
    if (ASN1_STRING_type(serial) == V_ASN1_NEG_INTEGER || bytes.len > SERIAL_BYTES) return false;
    out[0] = 0; /* zero is one byte, here and in `revoke serial` */
    if (bytes.len) memcpy(out, bytes.ptr, bytes.len);
    *len = bytes.len ? bytes.len : 1;
    return true;
}
