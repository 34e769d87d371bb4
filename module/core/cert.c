/* X509 → identity, through libcrypto's accessors: the handshake has parsed the certificate, and no
 * parser of ours looks at it again. */
#include "cert.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

span asn1_span(const ASN1_STRING *s) {
    int len = ASN1_STRING_length(s);
    return span_of(ASN1_STRING_get0_data(s), len > 0 ? (size_t)len : 0);
}

/* ---- Parts of a certificate ---- */

/* To be freed with OPENSSL_free((void *)e->whole.ptr). */
bool encode(X509 *certificate, encoding *e) {
    const ASN1_BIT_STRING *signature;
    const X509_ALGOR *algorithm;
    uint8_t *der = NULL;
    long content;
    int tag, class, len = i2d_X509(certificate, &der);
    const uint8_t *at = der;
    if (len <= 0) return false;
    X509_get0_signature(&signature, &algorithm, certificate);
    ASN1_get_object(&at, &content, &tag, &class, len);
    size_t named = (size_t)i2d_X509_ALGOR(algorithm, NULL);
    size_t sealed = (size_t)i2d_ASN1_BIT_STRING(signature, NULL);
    e->whole = span_of(der, (size_t)len);
    e->tbs = span_of(at, (size_t)content - named - sealed);
    e->algorithm = span_of(at + e->tbs.len, named);
    return true;
}

bool certificate_hashes(X509 *certificate, uint8_t cert[HASH_BYTES], uint8_t tbs[HASH_BYTES]) {
    encoding e;
    if (!encode(certificate, &e)) return false;
    sha256(e.whole, cert);
    sha256(e.tbs, tbs);
    OPENSSL_free((void *)(uintptr_t)e.whole.ptr);
    return true;
}

bool certificate_key(X509 *certificate, uint8_t out[HASH_BYTES]) {
    uint8_t *der = NULL;
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
    if (len <= 0) return false;
    sha256(span_of(der, (size_t)len), out);
    OPENSSL_free(der);
    return true;
}

/* ---- Refusals and oddities ---- */

/* A detail goes behind all that can be read into the bytes. What strangers wrote is put there by
 * put_shown only. */
static writer detail_writer(identity *id) {
    return (writer){id->bytes + sizeof id->bytes - DETAIL_BYTES, 0, DETAIL_BYTES, false};
}

void detail_end(identity *id, const writer *w) { id->detail = span_of(w->ptr, w->len); }

reason refuse(identity *id, reason why, const char *format, ...) {
    writer w = detail_writer(id);
    char text[DETAIL_BYTES];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(&w, text, len < (int)sizeof text ? (size_t)len : sizeof text - 1);
    detail_end(id, &w);
    return id->refusal = why;
}

/* Bytes that strangers wrote: up to 48 of them, in hex what is not plain. */
static void put_shown(writer *w, span raw) {
    enum { MOST = 48 };
    for (size_t i = 0; i < raw.len && i < MOST; i++) {
        uint8_t c = raw.ptr[i];
        if (c >= ' ' && c < 0x7f && c != '\\' && c != '\'') {
            put_byte(w, c);
        } else {
            put_text(w, "\\x");
            put_hex(w, span_of(&c, 1));
        }
    }
    if (raw.len > MOST) put_text(w, "...");
}

/* Why a value is odd of which `clean` bytes are good, see put_asn1_text. */
void put_oddity(writer *w, int tag, span raw, size_t clean) {
    const char *type = ASN1_tag2str(tag);
    char text[128];
    int len = 0;
    if (clean == NO_TEXT) len = snprintf(text, sizeof text, "is a %.40s, and no text", type);
    else if (raw.len == 0) len = snprintf(text, sizeof text, "is empty");
    else {
        len = snprintf(text, sizeof text, "is not clean text: byte %zu (0x%02x) of the %.40s '",
                       clean + 1, raw.ptr[clean], type);
    }
    put(w, text, (size_t)len);
    if (clean == NO_TEXT || raw.len == 0) return;
    put_shown(w, raw);
    put_byte(w, '\'');
}

/* Begins the detail of an odd value: "the subject's attribute 2, CN, ". False where another one is told
 * already; those of the issuer give way to what may count. */
bool note_odd(identity *id, unsigned bits, const char *field, size_t number, writer *w) {
    unsigned before = id->odd, counts = ~(unsigned)ODD_ISSUER;
    char text[64];
    id->odd |= bits;
    if (before & counts || (before && bits == ODD_ISSUER)) return false;
    *w = detail_writer(id);
    put(w, text, (size_t)snprintf(text, sizeof text, "%.40s %zu, ", field, number));
    return true;
}

/* ---- Names ---- */

/* A name while it is read. */
typedef struct {
    identity *id;
    writer *w;
    const char *field; /* "the subject" */
    bool issuer;
} name_reader;

static reason refuse_name(const name_reader *r, reason why, const char *what) {
    return refuse(r->id, why, "%s %s", r->field, what);
}

/* The RDN, from 1, that holds nothing; 0: none. libcrypto drops an empty RDN, so two different names
 * would read alike (X.501 9.2 wants at least one attribute in each). */
static size_t empty_rdn(const X509_NAME *name) {
    const unsigned char *at;
    size_t len;
    if (X509_NAME_get0_der((X509_NAME *)(uintptr_t)name, &at, &len) != 1 || len > LONG_MAX)
        return 1;
    const unsigned char *end = at + len;
    for (size_t depth = 0; at < end; depth++) {
        long content;
        int tag, class;
        if (ASN1_get_object(&at, &content, &tag, &class, end - at) & 0x80) return depth + 1;
        if (depth == 0) continue; /* the SEQUENCE of RDNs */
        if (content == 0) return depth;
        at += content;
    }
    return 0;
}

static void note_odd_entry(const name_reader *r, int number, span oid, int tag, span raw,
                           size_t clean) {
    bool cn = span_equal(oid, OID_CN);
    unsigned bits = r->issuer ? ODD_ISSUER : 1u << BIND_SUBJECT | (cn ? 1u << BIND_CN : 0);
    const char *field = r->issuer ? "the issuer's attribute" : "the subject's attribute";
    writer w;
    if (!note_odd(r->id, bits, field, (size_t)number + 1, &w)) return;
    put_oid(&w, oid);
    put_text(&w, ", ");
    put_oddity(&w, tag, raw, clean);
    detail_end(r->id, &w);
}

/* An odd value stands as an empty one. */
static bool put_entry(const name_reader *r, const X509_NAME *name, int number, bool starts) {
    uint8_t bytes[NAME_BYTES];
    writer value = {bytes, 0, sizeof bytes, false};
    const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, number);
    const ASN1_OBJECT *type = X509_NAME_ENTRY_get_object(entry);
    const ASN1_STRING *text = X509_NAME_ENTRY_get_data(entry);
    span raw = asn1_span(text), oid = span_of(OBJ_get0_data(type), OBJ_length(type));
    size_t clean = put_asn1_text(&value, ASN1_STRING_type(text), raw);
    bool odd = clean != raw.len || value.len == 0;
    if (odd && !value.full) note_odd_entry(r, number, oid, ASN1_STRING_type(text), raw, clean);
    put_attribute(r->w, starts, oid, span_of(bytes, odd ? 0 : value.len));
    return !r->w->full && !value.full;
}

/* Where an RDN ends: the attribute behind its last one. */
static int rdn_end(const X509_NAME *name, int from) {
    int set = X509_NAME_ENTRY_set(X509_NAME_get_entry(name, from));
    int count = X509_NAME_entry_count(name), to = from;
    while (to < count && X509_NAME_ENTRY_set(X509_NAME_get_entry(name, to)) == set) to++;
    return to;
}

/* Sorted, unless a value of the name is odd: then nobody compares it, and odd values would be twins. */
static reason put_rdn(const name_reader *r, const X509_NAME *name, int from, int to, size_t start) {
    size_t rdn = r->w->len;
    for (int i = from; i < to; i++) {
        if (!put_entry(r, name, i, i == from) || r->w->len - start > NAME_BYTES)
            return refuse_name(r, REASON_TOO_LARGE, "is longer than 4096 bytes");
    }
    bool odd = r->id->odd & (r->issuer ? (unsigned)ODD_ISSUER : 1u << BIND_SUBJECT);
    if (odd || name_close_rdn(r->w, rdn)) return REASON_UNDECIDED;
    return refuse(r->id, REASON_MALFORMED, "%s has an attribute twice in the RDN of attribute %d",
                  r->field, from + 1);
}

/* Encodes a name. Leaves id->refusal alone and returns REASON_UNDECIDED where it is fine. */
static reason read_name(const name_reader *r, const X509_NAME *name, span *out) {
    size_t start = r->w->len, empty = empty_rdn(name);
    int count = X509_NAME_entry_count(name);
    if (count > NAME_ATTRIBUTES)
        return refuse_name(r, REASON_TOO_LARGE, "has more than 64 attributes");
    if (empty)
        return refuse(r->id, REASON_MALFORMED, "%s has an empty RDN, number %zu", r->field, empty);
    for (int from = 0, to; from < count; from = to) {
        to = rdn_end(name, from);
        reason bad = put_rdn(r, name, from, to, start);
        if (bad) return bad;
    }
    *out = span_of(r->w->ptr + start, r->w->len - start);
    return REASON_UNDECIDED;
}

/* ---- Other extensions ---- */

/* Those of X.509 (id-ce) and PKIX (id-pe). */
bool is_structure(span oid) {
    return span_starts(oid, LITERAL("\x55\x1d")) ||
           span_starts(oid, LITERAL("\x2b\x06\x01\x05\x05\x07\x01"));
}

/* The text that the content of an extension is, or empty: one string in DER where it begins with the tag of
 * one, else the content itself. Clean text begins with no such tag, so each content is one text at most. */
static span extension_text(span content) {
    uint8_t bytes[EXTENSION_TEXT];
    writer w = {bytes, 0, sizeof bytes, false};
    const uint8_t *at = content.ptr;
    int tag = content.len ? content.ptr[0] : 0, class;
    bool string = tag == V_ASN1_UTF8STRING || tag == V_ASN1_PRINTABLESTRING ||
                  tag == V_ASN1_IA5STRING || tag == V_ASN1_VISIBLESTRING;
    span text = content;
    if (string) {
        long len;
        if (ASN1_get_object(&at, &len, &tag, &class, (long)content.len) & 0x81)
            return span_of(NULL, 0);
        text = span_of(at, (size_t)len);
        /* With the shortest header, and nothing behind it. */
        if ((size_t)ASN1_object_size(0, (int)len, tag) != content.len) return span_of(NULL, 0);
    }
    size_t clean = text.len > sizeof bytes
                       ? NO_TEXT
                       : put_asn1_text(&w, string ? tag : V_ASN1_UTF8STRING, text);
    return clean == text.len ? text : span_of(NULL, 0);
}

/* What lines may name is kept, also what is not text: a line may name it. */
static void read_extensions(identity *id, X509 *leaf, writer *w) {
    writer all = {w->ptr + w->len, 0, EXTENSION_BYTES, false}, detail;
    for (int i = 0; i < X509_get_ext_count(leaf); i++) {
        X509_EXTENSION *one = X509_get_ext(leaf, i);
        const ASN1_OBJECT *type = X509_EXTENSION_get_object(one);
        span oid = span_of(OBJ_get0_data(type), OBJ_length(type));
        if (is_structure(oid)) continue;
        span text = extension_text(asn1_span(X509_EXTENSION_get_data(one)));
        if (oid.len <= UINT8_MAX && all.len + 4 + oid.len + text.len <= EXTENSION_BYTES) {
            put_attribute(&all, true, oid, text);
        } else if (note_odd(id, 1u << BIND_EXTENSION, "extension", (size_t)i + 1, &detail)) {
            put_text(&detail, "is behind too many others: 4096 bytes of them are read");
            detail_end(id, &detail);
        }
    }
    id->extensions = span_of(all.ptr, all.len);
    w->len += all.len;
}

/* ---- The whole ---- */

/* Does the extension parse, as far as libcrypto knows it? */
static bool extension_parses(X509_EXTENSION *extension) {
    const X509V3_EXT_METHOD *method = X509V3_EXT_get(extension);
    void *value = method ? X509V3_EXT_d2i(extension) : NULL;
    if (value && method->it) ASN1_item_free(value, ASN1_ITEM_ptr(method->it));
    else if (value) method->ext_free(value);
    return method == NULL || value != NULL;
}

/* What is wrong with an extension, or NULL. `flag`: what libcrypto found wrong with one of them. */
static const char *extension_fault(X509 *leaf, int index, uint32_t flag) {
    X509_EXTENSION *one = X509_get_ext(leaf, index);
    if (flag == EXFLAG_CRITICAL) {
        bool unknown = X509_EXTENSION_get_critical(one) && !X509_supported_extension(one);
        return unknown ? "is critical, and libcrypto does not know it" : NULL;
    }
    if (X509_get_ext_by_OBJ(leaf, X509_EXTENSION_get_object(one), index) >= 0)
        return "stands twice";
    return extension_parses(one) ? NULL : "does not parse";
}

static reason refuse_extension(identity *id, X509 *leaf, uint32_t flag) {
    char oid[128];
    for (int i = 0; i < X509_get_ext_count(leaf); i++) {
        const char *what = extension_fault(leaf, i, flag);
        if (what == NULL) continue;
        OBJ_obj2txt(oid, sizeof oid, X509_EXTENSION_get_object(X509_get_ext(leaf, i)), 1);
        return refuse(id, REASON_MALFORMED, "extension %d, %.100s, %s", i + 1, oid, what);
    }
    return refuse(id, REASON_MALFORMED, "its extensions contradict each other or its version");
}

/* ---- What demands ask for ---- */

static bool put_object(writer *w, const ASN1_OBJECT *object) {
    size_t len = OBJ_length(object);
    if (len > UINT8_MAX) return false;
    put_byte(w, (uint8_t)len);
    put(w, OBJ_get0_data(object), len);
    return !w->full;
}

/* Without the extension it has none: to be asked for a usage is to be asked for this extension. */
static bool put_usages(writer *w, X509 *leaf) {
    EXTENDED_KEY_USAGE *usages = X509_get_ext_d2i(leaf, NID_ext_key_usage, NULL, NULL);
    bool fits = true;
    for (int i = 0; fits && i < sk_ASN1_OBJECT_num(usages); i++)
        fits = put_object(w, sk_ASN1_OBJECT_value(usages, i));
    EXTENDED_KEY_USAGE_free(usages);
    return fits;
}

/* libcrypto looks at this extension only where somebody asks for policies: where it does not parse, or
 * stands twice, the leaf asserts none. */
static bool put_policies(writer *w, X509 *leaf) {
    CERTIFICATEPOLICIES *policies = X509_get_ext_d2i(leaf, NID_certificate_policies, NULL, NULL);
    bool fits = true;
    for (int i = 0; fits && i < sk_POLICYINFO_num(policies); i++)
        fits = put_object(w, sk_POLICYINFO_value(policies, i)->policyid);
    CERTIFICATEPOLICIES_free(policies);
    return fits;
}

static reason read_oids(identity *id, X509 *leaf, writer *w, span *out,
                        bool (*put_all)(writer *, X509 *), const char *what) {
    writer list = {w->ptr + w->len, 0, OIDS_BYTES, false};
    if (!put_all(&list, leaf))
        return refuse(id, REASON_TOO_LARGE, "%s are longer than %d bytes", what, OIDS_BYTES);
    *out = span_of(list.ptr, list.len);
    w->len += list.len;
    return REASON_UNDECIDED;
}

/* NIST SP 800-57 part 1, table 2: which RSA key is as strong. */
static uint32_t rsa_bits(int strength) {
    return strength >= 256   ? 15360
           : strength >= 192 ? 7680
           : strength >= 128 ? 3072
           : strength >= 112 ? 2048
           : strength >= 80  ? 1024
                             : 0;
}

/* 0 where libcrypto does not know the key. */
static uint32_t key_bits(X509 *leaf) {
    const EVP_PKEY *key = X509_get0_pubkey(leaf);
    if (key == NULL) return 0;
    int kind = EVP_PKEY_get_base_id(key), bits = EVP_PKEY_get_bits(key);
    if (kind == EVP_PKEY_RSA || kind == EVP_PKEY_RSA_PSS) return bits > 0 ? (uint32_t)bits : 0;
    return rsa_bits(EVP_PKEY_get_security_bits(key));
}

/* ---- Who answers for it ---- */

/* Printable ASCII: what it is shown in, and fetched from, takes nothing else. */
static bool is_http(span url) {
    static const char HTTP[] = "http://", HTTPS[] = "https://";
    size_t plain = sizeof HTTP - 1, tls = sizeof HTTPS - 1;
    if (url.len >= OCSP_BYTES) return false;
    for (size_t i = 0; i < url.len; i++) {
        if (url.ptr[i] <= ' ' || url.ptr[i] > '~') return false;
    }
    return (url.len > plain && memcmp(url.ptr, HTTP, plain) == 0) ||
           (url.len > tls && memcmp(url.ptr, HTTPS, tls) == 0);
}

/* Nobody is refused for it: where it cannot be read, the leaf names nobody. */
static void read_responder(identity *id, X509 *leaf, writer *w) {
    AUTHORITY_INFO_ACCESS *access = X509_get_ext_d2i(leaf, NID_info_access, NULL, NULL);
    for (int i = 0; id->ocsp.len == 0 && i < sk_ACCESS_DESCRIPTION_num(access); i++) {
        const ACCESS_DESCRIPTION *one = sk_ACCESS_DESCRIPTION_value(access, i);
        if (OBJ_obj2nid(one->method) != NID_ad_OCSP || one->location->type != GEN_URI) continue;
        span url = asn1_span(one->location->d.uniformResourceIdentifier);
        if (!is_http(url)) continue;
        id->ocsp = span_of(w->ptr + w->len, url.len);
        put_span(w, url);
    }
    AUTHORITY_INFO_ACCESS_free(access);
}

static reason read_demanded(identity *id, X509 *leaf, writer *w) {
    id->key_bits = key_bits(leaf);
    reason bad = read_oids(id, leaf, w, &id->usages, put_usages, "the extended key usages");
    return bad ? bad
               : read_oids(id, leaf, w, &id->policies, put_policies, "the certificate policies");
}

/* What libcrypto found out when it looked at the extensions. */
static reason read_usage(identity *id, X509 *leaf) {
    int client = X509_check_purpose(leaf, X509_PURPOSE_SSL_CLIENT, 0);
    uint32_t flags = X509_get_extension_flags(leaf);
    id->ca = (flags & EXFLAG_CA) != 0;
    id->fits = client == 1;
    id->client = id->fits && !id->ca;
    /* Without the extension every bit is set. */
    id->serves = X509_get_extended_key_usage(leaf) & (XKU_SSL_SERVER | XKU_SGC | XKU_ANYEKU);
    id->signs = X509_get_key_usage(leaf) & (X509v3_KU_DIGITAL_SIGNATURE | X509v3_KU_KEY_AGREEMENT);
    if (flags & EXFLAG_INVALID) return refuse_extension(id, leaf, EXFLAG_INVALID);
    if (flags & EXFLAG_CRITICAL) return refuse_extension(id, leaf, EXFLAG_CRITICAL);
    return REASON_UNDECIDED;
}

static reason read_names(identity *id, X509 *leaf, writer *w) {
    name_reader issuer = {id, w, "the issuer", true}, subject = {id, w, "the subject", false};
    reason bad = read_name(&issuer, X509_get_issuer_name(leaf), &id->issuer);
    if (!bad) bad = read_name(&subject, X509_get_subject_name(leaf), &id->subject);
    if (!bad) bad = read_sans(id, leaf, w);
    if (!bad) read_extensions(id, leaf, w);
    return bad;
}

static reason read_fields(identity *id, X509 *leaf) {
    writer w = {id->bytes, 0, sizeof id->bytes - DETAIL_BYTES, false};
    uint8_t serial[SERIAL_BYTES];
    size_t serial_len;
    if (!certificate_times(leaf, &id->not_before, &id->not_after)) {
        bool begins = time_seconds(X509_get0_notBefore(leaf), &id->not_before);
        return refuse(id, REASON_MALFORMED,
                      "%s is not a time to the second in UTC (RFC 5280 4.1.2.5)",
                      begins ? "notAfter" : "notBefore");
    }
    if (!certificate_serial(leaf, serial, &serial_len)) {
        return refuse(id, REASON_MALFORMED,
                      "the serial number is negative or longer than 32 bytes");
    }
    id->serial = span_of(id->bytes, serial_len);
    put(&w, serial, serial_len);
    reason bad = read_usage(id, leaf);
    if (!bad) bad = read_names(id, leaf, &w);
    if (!bad) bad = read_demanded(id, leaf, &w);
    if (!bad) read_responder(id, leaf, &w);
    return bad;
}

static reason read_leaf(identity *id, X509 *leaf) {
    uint8_t *der = NULL;
    int len = i2d_X509(leaf, &der);
    id->leaf = leaf;
    if (len <= 0) return refuse(id, REASON_MALFORMED, "the certificate cannot be encoded");
    lookup_key(span_of(der, (size_t)len), id->lookup);
    OPENSSL_free(der);
    if (len > CERTIFICATE_BYTES)
        return refuse(id, REASON_TOO_LARGE, "it has %d bytes, and %d are the most", len,
                      CERTIFICATE_BYTES);
    return read_fields(id, leaf);
}

/* What libcrypto could not parse it also puts in the thread's error queue, where the server would
 * take it for a failure of its next SSL_read (SSL_get_error(3)): hence the mark, here and in each
 * function of the core that strangers' bytes go through. */
reason identity_read(X509 *leaf, identity *id) {
    memset(id, 0, offsetof(identity, bytes));
    ERR_set_mark();
    read_leaf(id, leaf);
    ERR_pop_to_mark();
    return id->refusal;
}

/* What was encoded once fails to be for want of memory only; what never was is nobody, and has zeros. */
static void need_hashes(identity *id) {
    if (id->hashed) return;
    bool good = certificate_hashes(id->leaf, id->cert, id->tbs);
    good = certificate_key(id->leaf, id->key) && good;
    must(good || id->refusal ? id : NULL);
    id->hashed = true;
}

const uint8_t *identity_cert(identity *id) {
    need_hashes(id);
    return id->cert;
}

const uint8_t *identity_tbs(identity *id) {
    need_hashes(id);
    return id->tbs;
}

const uint8_t *identity_key(identity *id) {
    need_hashes(id);
    return id->key;
}

identity *identity_keep(identity *id) {
    /* As they stand in bytes. */
    const span parts[] = {id->serial,     id->issuer, id->subject,  id->sans,
                          id->extensions, id->usages, id->policies, id->ocsp};
    size_t used = 0, count = sizeof parts / sizeof *parts;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len) used = (size_t)(parts[i].ptr - id->bytes) + parts[i].len;
    }
    need_hashes(id);
    identity *kept = must(malloc(offsetof(identity, bytes) + used + id->detail.len));
    memcpy(kept, id, offsetof(identity, bytes) + used);
    kept->leaf = NULL;
    if (id->detail.len) memcpy(kept->bytes + used, id->detail.ptr, id->detail.len);
    kept->detail.ptr = kept->bytes + used;
    span *own[] = {&kept->serial,     &kept->issuer, &kept->subject,  &kept->sans,
                   &kept->extensions, &kept->usages, &kept->policies, &kept->ocsp};
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len) own[i]->ptr = kept->bytes + (parts[i].ptr - id->bytes);
    }
    return kept;
}

void identity_free(identity *kept) { free(kept); }

typedef struct {
    identity *id;
    bind_taker take;
    void *data;
    span first[BIND_KINDS];   /* of the values of each kind */
    bool several[BIND_KINDS]; /* are there others than the first? */
    bool done;
} giver;

static void note_value(giver *g, bind_kind kind, span value) {
    if (g->first[kind].ptr == NULL) g->first[kind] = value;
    else if (!span_equal(g->first[kind], value)) g->several[kind] = true;
}

static void give(giver *g, bind_kind kind, span value) {
    if (!g->done) g->done = !g->take(kind, value, g->several[kind], g->data);
}

/* Odd values are none: what stands in their place is empty. */
static void each_value(giver *g, void (*take)(giver *, bind_kind, span)) {
    attribute a;
    bind_kind kind;
    span value;
    for (size_t at = 0; name_next(g->id->subject, &at, &a);) {
        if (a.value.len && span_equal(a.oid, OID_CN)) take(g, BIND_CN, a.value);
    }
    for (size_t at = 0; identity_next_san(g->id, &at, &kind, &value);) take(g, kind, value);
}

void identity_bindings(identity *id, bind_taker take, void *data) {
    giver g = {.id = id, .take = take, .data = data};
    bool odd = id->odd & 1u << BIND_SUBJECT;
    each_value(&g, note_value);
    if (id->subject.len && !odd) give(&g, BIND_SUBJECT, id->subject);
    each_value(&g, give);
    give(&g, BIND_CERT, span_of(identity_cert(id), HASH_BYTES));
    give(&g, BIND_KEY, span_of(identity_key(id), HASH_BYTES));
}
