/* The subject alternative names of a certificate, as far as somebody can be bound by them. */
#include "cert.h"

#include <openssl/x509v3.h>

/* The kind by which a GENERAL_NAME can be bound; BIND_KINDS for one that nobody can be. */
static bind_kind san_kind(const GENERAL_NAME *name, int *tag, span *value) {
    *tag = V_ASN1_IA5STRING;
    switch (name->type) {
    case GEN_DNS: *value = asn1_span(name->d.dNSName); return BIND_DNS;
    case GEN_URI: *value = asn1_span(name->d.uniformResourceIdentifier); return BIND_URI;
    case GEN_EMAIL: *value = asn1_span(name->d.rfc822Name); return BIND_EMAIL;
    case GEN_IPADD: *value = asn1_span(name->d.iPAddress); return BIND_IP;
    case GEN_OTHERNAME: break;
    default: return BIND_KINDS;
    }
    const OTHERNAME *other = name->d.otherName;
    if (OBJ_obj2nid(other->type_id) != NID_ms_upn) return BIND_KINDS;
    *tag = other->value->type;
    bool text = *tag == V_ASN1_UTF8STRING || *tag == V_ASN1_BMPSTRING ||
                *tag == V_ASN1_UNIVERSALSTRING || *tag == V_ASN1_IA5STRING ||
                *tag == V_ASN1_PRINTABLESTRING;
    *value = text ? asn1_span(other->value->value.asn1_string) : span_of(NULL, 0);
    return BIND_UPN;
}

static void note_odd_san(identity *id, bind_kind kind, size_t number, int tag, span raw,
                         size_t clean) {
    writer w;
    char text[64];
    if (!note_odd(id, 1u << kind, "subject alternative name", number, &w)) return;
    put_string(&w, bind_kind_name(kind));
    put_text(&w, ", ");
    if (kind == BIND_IP)
        put(&w, text, (size_t)snprintf(text, sizeof text, "has %zu bytes, not 4 or 16", raw.len));
    else put_oddity(&w, tag, raw, clean);
    detail_end(id, &w);
}

/* One that is odd leaves no record. */
static bool put_san(identity *id, writer *w, const GENERAL_NAME *name, size_t number) {
    uint8_t bytes[NAME_BYTES];
    writer value = {bytes, 0, sizeof bytes, false};
    int tag;
    span raw;
    bind_kind kind = san_kind(name, &tag, &raw);
    if (kind == BIND_KINDS) return true;
    size_t clean = raw.ptr ? raw.len : NO_TEXT; /* no bytes: a type that no UPN may have */
    if (kind != BIND_IP && raw.ptr) clean = put_asn1_text(&value, tag, raw);
    else if (raw.len == 4 || raw.len == 16) put_span(&value, raw);
    if (value.full) return false;
    if (clean != raw.len || value.len == 0) {
        note_odd_san(id, kind, number, tag, raw, clean);
        return true;
    }
    put_byte(w, (uint8_t)kind);
    put_u16(w, value.len);
    put_span(w, span_of(bytes, value.len));
    return !w->full;
}

static reason put_sans(identity *id, writer *w, const GENERAL_NAMES *names) {
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        if (!put_san(id, w, sk_GENERAL_NAME_value(names, i), (size_t)i + 1))
            return refuse(id, REASON_TOO_LARGE,
                          "the subject alternative names are longer than 16384 bytes, or one of "
                          "them "
                          "than 4096: number %d",
                          i + 1);
    }
    return REASON_UNDECIDED;
}

static span san_extension(X509 *leaf) {
    int index = X509_get_ext_by_NID(leaf, NID_subject_alt_name, -1);
    return index < 0 ? span_of(NULL, 0)
                     : asn1_span(X509_EXTENSION_get_data(X509_get_ext(leaf, index)));
}

/* The names; NULL where they do not parse or bytes are left behind them: DER has one length for them,
 * BER does not. */
static GENERAL_NAMES *parse_sans(span der) {
    const uint8_t *at = der.ptr;
    GENERAL_NAMES *names = d2i_GENERAL_NAMES(NULL, &at, (long)der.len);
    if (names && at == der.ptr + der.len && i2d_GENERAL_NAMES(names, NULL) == (int)der.len)
        return names;
    GENERAL_NAMES_free(names);
    return NULL;
}

reason read_sans(identity *id, X509 *leaf, writer *w) {
    span der = san_extension(leaf);
    if (X509_get_ext_by_NID(leaf, NID_subject_alt_name, -1) < 0) return REASON_UNDECIDED;
    GENERAL_NAMES *names = parse_sans(der);
    if (names == NULL)
        return refuse(id, REASON_MALFORMED, "the subject alternative names are not DER");
    writer sans = {w->ptr + w->len, 0, SAN_BYTES, false};
    reason bad = put_sans(id, &sans, names);
    GENERAL_NAMES_free(names);
    if (bad) return bad; /* a record may be cut: nobody is to see it */
    id->sans = span_of(sans.ptr, sans.len);
    w->len += sans.len;
    return REASON_UNDECIDED;
}

bool identity_next_san(const identity *id, size_t *at, bind_kind *kind, span *value) {
    if (*at >= id->sans.len) return false;
    const uint8_t *p = id->sans.ptr + *at;
    *kind = (bind_kind)p[0];
    *value = span_of(p + 3, get_u16(p + 1));
    *at += 3 + value->len;
    return true;
}
