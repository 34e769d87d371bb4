/* Distinguished names, as the core compares and prints them. */
#include "text.h"

#include <ctype.h>

#include <openssl/err.h>
#include <openssl/objects.h>

/* ---- Distinguished names ---- */

/* OIDs by the names that people write. The first name of an OID is the one printed; RFC 4514
 * section 3 requires the first nine, the others are OpenSSL's. `SN` is left out on purpose: OpenSSL
 * means surname by it, most people serialNumber. */
static const struct {
    const char *name;
    uint8_t len;
    uint8_t oid[10];
} ATTRIBUTES[] = {
    {"CN", 3, {0x55, 4, 3}},
    {"OU", 3, {0x55, 4, 11}},
    {"O", 3, {0x55, 4, 10}},
    {"L", 3, {0x55, 4, 7}},
    {"ST", 3, {0x55, 4, 8}},
    {"C", 3, {0x55, 4, 6}},
    {"STREET", 3, {0x55, 4, 9}},
    {"DC", 10, {0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25}},
    {"UID", 10, {0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1}},
    {"emailAddress", 9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1}},
    {"serialNumber", 3, {0x55, 4, 5}},
    {"title", 3, {0x55, 4, 12}},
    {"surname", 3, {0x55, 4, 4}},
    {"givenName", 3, {0x55, 4, 42}},
    {"initials", 3, {0x55, 4, 43}},
    {"generationQualifier", 3, {0x55, 4, 44}},
    {"dnQualifier", 3, {0x55, 4, 46}},
    {"pseudonym", 3, {0x55, 4, 65}},
    {"businessCategory", 3, {0x55, 4, 15}},
    {"postalCode", 3, {0x55, 4, 17}},
    {"organizationIdentifier", 3, {0x55, 4, 97}},
    {"S", 3, {0x55, 4, 8}},
    {"E", 9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1}},
    {"GN", 3, {0x55, 4, 42}},
};
enum { ATTRIBUTE_NAMES = sizeof ATTRIBUTES / sizeof ATTRIBUTES[0] };

/* What else OpenSSL, Java, .NET, Windows, GnuTLS and LDAP write. Only read, since a server with an older
 * module would refuse a line that has one. */
static const struct {
    const char *name, *dotted;
} OTHER_NAMES[] = {
    {"commonName", "2.5.4.3"},
    {"countryName", "2.5.4.6"},
    {"localityName", "2.5.4.7"},
    {"stateOrProvinceName", "2.5.4.8"},
    {"streetAddress", "2.5.4.9"},
    {"organizationName", "2.5.4.10"},
    {"organizationalUnitName", "2.5.4.11"},
    {"domainComponent", "0.9.2342.19200300.100.1.25"},
    {"userId", "0.9.2342.19200300.100.1.1"},
    {"mail", "0.9.2342.19200300.100.1.3"},
    {"rfc822Mailbox", "0.9.2342.19200300.100.1.3"},
    {"email", "1.2.840.113549.1.9.1"},
    {"unstructuredName", "1.2.840.113549.1.9.2"},
    {"unstructuredAddress", "1.2.840.113549.1.9.8"},
    {"T", "2.5.4.12"},
    {"G", "2.5.4.42"},
    {"I", "2.5.4.43"},
    {"GENERATION", "2.5.4.44"},
    {"DNQ", "2.5.4.46"},
    {"description", "2.5.4.13"},
    {"postalAddress", "2.5.4.16"},
    {"telephoneNumber", "2.5.4.20"},
    {"name", "2.5.4.41"},
    {"houseIdentifier", "2.5.4.51"},
    {"role", "2.5.4.72"},
    {"jurisdictionL", "1.3.6.1.4.1.311.60.2.1.1"},
    {"jurisdictionLocalityName", "1.3.6.1.4.1.311.60.2.1.1"},
    {"jurisdictionST", "1.3.6.1.4.1.311.60.2.1.2"},
    {"jurisdictionStateOrProvinceName", "1.3.6.1.4.1.311.60.2.1.2"},
    {"jurisdictionC", "1.3.6.1.4.1.311.60.2.1.3"},
    {"jurisdictionCountryName", "1.3.6.1.4.1.311.60.2.1.3"},
};

const span OID_CN = {(const uint8_t *)"\x55\x04\x03", 3};
const span GATE_OIDS[GATE_TYPES] = {
    [GATE_CN] = {(const uint8_t *)"\x55\x04\x03", 3},
    [GATE_OU] = {(const uint8_t *)"\x55\x04\x0b", 3},
    [GATE_O] = {(const uint8_t *)"\x55\x04\x0a", 3},
    [GATE_L] = {(const uint8_t *)"\x55\x04\x07", 3},
    [GATE_ST] = {(const uint8_t *)"\x55\x04\x08", 3},
    [GATE_C] = {(const uint8_t *)"\x55\x04\x06", 3},
};

bool name_next(span name, size_t *at, attribute *out) {
    if (*at >= name.len) return false;
    const uint8_t *p = name.ptr + *at;
    out->starts = p[0] == 1;
    out->oid = span_of(p + 2, p[1]);
    p += 2 + p[1];
    out->value = span_of(p + 2, get_u16(p));
    *at = (size_t)(out->value.ptr - name.ptr) + out->value.len;
    return true;
}

void put_attribute(writer *w, bool starts, span oid, span value) {
    if (oid.len > UINT8_MAX) w->full = true;
    put_byte(w, starts);
    put_byte(w, (uint8_t)oid.len);
    put_span(w, oid);
    put_u16(w, value.len);
    put_span(w, value);
}

size_t name_common_names(span name, span *cn) {
    size_t at = 0, count = 0;
    attribute a;
    while (name_next(name, &at, &a)) {
        if (!span_equal(a.oid, OID_CN) || (count && span_equal(a.value, *cn))) continue;
        if (count++ == 0) *cn = a.value;
    }
    return count;
}

/* Insertion sort over the few attributes of one RDN. Without the mark of the start, the encodings
 * compare as (length of OID, OID, length, value): any total order does. */
bool name_close_rdn(writer *w, size_t from) {
    if (w->full) return true;
    uint8_t sorted[NAME_BYTES];
    writer out = {sorted, 0, sizeof sorted, false};
    span rdn = span_of(w->ptr + from, w->len - from), last = {0};
    for (;;) {
        span least = {0};
        attribute a;
        for (size_t at = 0; at < rdn.len;) {
            size_t start = at;
            if (!name_next(rdn, &at, &a)) break;
            span one = span_of(rdn.ptr + start + 1, at - start - 1);
            if (last.ptr && span_compare(one, last) <= 0) continue;
            if (least.ptr == NULL || span_compare(one, least) < 0) least = one;
        }
        if (least.ptr == NULL) break;
        put_byte(&out, last.ptr == NULL);
        put_span(&out, least);
        last = least;
    }
    if (out.len != rdn.len) return false; /* a twin was skipped */
    memcpy(w->ptr + from, sorted, out.len);
    return true;
}

/* Where the RDN that ends at `end` starts. */
static size_t rdn_start(span name, size_t end) {
    size_t at = 0, start = 0;
    attribute a;
    for (size_t here = 0; at < end && name_next(name, &at, &a); here = at) {
        if (a.starts) start = here;
    }
    return start;
}

bool name_reverse(span name, uint8_t *out) {
    size_t len = 0;
    for (size_t end = name.len; end > 0;) {
        size_t start = rdn_start(name, end);
        memcpy(out + len, name.ptr + start, end - start);
        len += end - start;
        end = start;
    }
    return len == name.len;
}

/* 255 bytes of DER are at most so many characters of dotted decimal. */
enum { DOTTED = 4 * UINT8_MAX + 8 };

void put_dotted(writer *w, span oid) {
    uint8_t der[3 + UINT8_MAX], *content = der;
    ASN1_put_object(&content, 0, (int)oid.len, V_ASN1_OBJECT, V_ASN1_UNIVERSAL);
    memcpy(content, oid.ptr, oid.len);
    const uint8_t *at = der;
    char dotted[DOTTED];
    ASN1_OBJECT *object = d2i_ASN1_OBJECT(NULL, &at, content - der + (long)oid.len);
    int len = object ? OBJ_obj2txt(dotted, sizeof dotted, object, 1) : -1;
    ASN1_OBJECT_free(object);
    if (len <= 0 || (size_t)len >= sizeof dotted) {
        w->full = true;
        return;
    }
    put(w, dotted, (size_t)len);
}

void put_oid(writer *w, span oid) {
    for (size_t i = 0; i < ATTRIBUTE_NAMES; i++) {
        if (!span_equal(oid, span_of(ATTRIBUTES[i].oid, ATTRIBUTES[i].len))) continue;
        put_string(w, ATTRIBUTES[i].name);
        return;
    }
    put_dotted(w, oid);
}

/* RFC 4514 section 2.4. */
static void put_escaped(writer *w, span value) {
    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.ptr[i];
        bool edge = c == ' ' && (i == 0 || i + 1 == value.len);
        bool special = c == ',' || c == '+' || c == '"' || c == '\\' || c == '<' || c == '>' ||
                       c == ';' || (c == '#' && i == 0);
        if (edge || special) put_byte(w, '\\');
        put_byte(w, c);
    }
}

size_t name_print(span name, char *out, size_t room) {
    writer w = {(uint8_t *)out, 0, room, false};
    for (size_t end = name.len; end > 0;) {
        size_t start = rdn_start(name, end), at = start;
        attribute a;
        while (at < end && name_next(name, &at, &a)) {
            if (!a.starts) put_byte(&w, '+');
            put_oid(&w, a.oid);
            put_byte(&w, '=');
            put_escaped(&w, a.value);
        }
        if (start) put_byte(&w, ',');
        end = start;
    }
    return w.full ? 0 : w.len;
}

/* The text of a name while it is being read. */
typedef struct {
    span text;
    size_t at;
    bool slashes;
    bool spaced; /* a blank before the last '=' */
    fault *why;
} reader;

/* `cure`: "" or a colon and what to do. */
static bool reader_cure(reader *r, const char *what, const char *cure) {
    if (r->at >= r->text.len) return fail(r->why, "%s at the end of the subject%s", what, cure);
    uint8_t c = r->text.ptr[r->at];
    const char *format = c > ' ' && c < 0x7f ? "%s at character %zu ('%c') of the subject%s"
                                             : "%s at character %zu (byte 0x%02x) of the subject%s";
    return fail(r->why, format, what, r->at + 1, c, cure);
}

static bool reader_fail(reader *r, const char *what) { return reader_cure(r, what, ""); }

static bool at_end(const reader *r) { return r->at >= r->text.len; }
static uint8_t peek(const reader *r) { return at_end(r) ? 0 : r->text.ptr[r->at]; }
static uint8_t peek_second(const reader *r) {
    return r->at + 1 < r->text.len ? r->text.ptr[r->at + 1] : 0;
}
static void skip_blanks(reader *r) {
    while (!at_end(r) && peek(r) == ' ') r->at++;
}

/* numericoid of RFC 4512 1.4. libcrypto would take "1.3..61" for 1.3.0.61. */
static bool is_dotted(span type) {
    bool starts = true; /* an arc; one that starts with 0 is 0 */
    for (size_t i = 0; i < type.len; i++) {
        uint8_t c = type.ptr[i];
        bool zero = !starts && type.ptr[i - 1] == '0' && (i < 2 || type.ptr[i - 2] == '.');
        if (c == '.' ? starts : !isdigit(c) || zero) return false;
        starts = c == '.';
    }
    return !starts;
}

static bool dotted_oid(span type, uint8_t *out, size_t *len);

static bool named_oid(span type, uint8_t *out, size_t *len) {
    for (size_t i = 0; i < sizeof OTHER_NAMES / sizeof *OTHER_NAMES; i++) {
        const char *name = OTHER_NAMES[i].name, *dotted = OTHER_NAMES[i].dotted;
        if (span_equal_nocase(type, span_of(name, strlen(name))))
            return dotted_oid(span_of(dotted, strlen(dotted)), out, len);
    }
    for (size_t i = 0; i < ATTRIBUTE_NAMES; i++) {
        if (!span_equal_nocase(type, span_of(ATTRIBUTES[i].name, strlen(ATTRIBUTES[i].name))))
            continue;
        *len = ATTRIBUTES[i].len;
        memcpy(out, ATTRIBUTES[i].oid, *len);
        return true;
    }
    return false;
}

/* Dotted decimal, by libcrypto. */
static bool dotted_oid(span type, uint8_t *out, size_t *len) {
    uint8_t der[UINT8_MAX];
    int n = type.len < DOTTED && is_dotted(type)
                ? a2d_ASN1_OBJECT(der, sizeof der, (const char *)type.ptr, (int)type.len)
                : 0;
    if (n <= 0) return false;
    memcpy(out, der, (size_t)n);
    *len = (size_t)n;
    return true;
}

/* The name that is left out of ATTRIBUTES on purpose. */
bool is_two_types(span type) { return span_equal_nocase(type, LITERAL("SN")); }

bool oid_parse(span text, bool names, uint8_t out[UINT8_MAX], size_t *len) {
    return (names && named_oid(text, out, len)) || dotted_oid(text, out, len);
}

static bool is_of_type(uint8_t c) { return isalnum(c) || c == '.' || c == '-'; }

/* A value may hold what separates values of OpenSSL's form, which escapes nothing: /CN=host/a.example. A
 * type has to stand behind a separator. */
static bool begins_type(const reader *r, size_t at) {
    size_t start = at;
    while (at < r->text.len && r->text.ptr[at] == ' ') at++;
    while (at < r->text.len && is_of_type(r->text.ptr[at])) at++;
    while (at < r->text.len && at > start && r->text.ptr[at] == ' ') at++;
    return at > start && at < r->text.len && r->text.ptr[at] == '=';
}

static bool ends_value(const reader *r, uint8_t c) {
    if (!r->slashes) return c == ',' || c == ';' || c == '+';
    return (c == '/' || c == '+') && begins_type(r, r->at + 1);
}

static bool read_dotted_oid(reader *r, span type, uint8_t *out, size_t *len) {
    span prefix = LITERAL("OID.");
    if (type.len > prefix.len && span_equal_nocase(span_of(type.ptr, prefix.len), prefix))
        type = span_skip(type, prefix.len);
    if (!dotted_oid(type, out, len)) {
        if (is_two_types(type)) {
            return fail(r->why,
                        "attribute SN at character %zu of the subject is read as surname by some "
                        "and as serial number by others: write surname or serialNumber",
                        r->at + 1);
        }
        return reader_cure(r, "unknown attribute type",
                           r->slashes
                               ? ": write its OID, such as 2.5.4.13; or, of a / or + within a "
                                 "value, \\/ or \\+"
                               : ": write its OID, such as 2.5.4.13");
    }
    return true;
}

static bool read_type(reader *r, uint8_t *oid, size_t *len) {
    skip_blanks(r);
    size_t start = r->at;
    while (!at_end(r) && is_of_type(peek(r))) r->at++;
    span type = span_of(r->text.ptr + start, r->at - start);
    if (type.len == 0) return reader_fail(r, "an attribute type is missing");
    size_t behind = r->at;
    skip_blanks(r);
    r->spaced = r->at > behind;
    if (peek(r) != '=') {
        return reader_cure(r, "'=' is missing",
                           start && !r->slashes ? ": write \\, for a comma within a value" : "");
    }
    if (named_oid(type, oid, len)) {
        r->at++;
        return true;
    }
    size_t equals = r->at;
    r->at = start;
    if (!read_dotted_oid(r, type, oid, len)) return false;
    r->at = equals + 1;
    return true;
}

#define NOT_HEX ": write \\# for a value that begins with it"

/* #hex: BER of the value (RFC 4514 2.4). */
static bool read_hex_value(reader *r, writer *value) {
    uint8_t der[1024];
    size_t len = 0;
    for (r->at++; hex_digit(peek(r)) >= 0; r->at += 2) {
        if (len == sizeof der) return reader_fail(r, "a #hex value is too long");
        if (!hex_byte(span_skip(r->text, r->at), der + len++)) {
            return reader_cure(r, "a hex digit is missing", NOT_HEX);
        }
    }
    const uint8_t *at = der;
    ASN1_TYPE *any = d2i_ASN1_TYPE(NULL, &at, (long)len);
    bool text = any && at == der + len && any->type != V_ASN1_BOOLEAN && any->type != V_ASN1_NULL &&
                any->type != V_ASN1_OBJECT;
    if (text) {
        span content = span_of(ASN1_STRING_get0_data(any->value.asn1_string),
                               (size_t)ASN1_STRING_length(any->value.asn1_string));
        text = put_asn1_text(value, any->type, content) == content.len;
    }
    ASN1_TYPE_free(any);
    return text || reader_cure(r, "a #hex value is not the DER of a string", NOT_HEX);
}

/* What OpenSSL prints for a character that it cannot show: \xHH for a byte, \UHHHH and \WHHHHHHHH for a
 * character (X509_NAME_oneline; do_esc_char of crypto/asn1/a_strex.c). */
static bool read_openssl_escape(reader *r, writer *value) {
    span digits = span_skip(r->text, r->at + 1);
    uint8_t c = peek(r), bytes[4] = {0};
    size_t count = c == 'x' ? 1 : c == 'U' ? 2 : c == 'W' ? 4 : 0;
    if (count == 0) return false;
    for (size_t i = 0; i < count; i++) {
        if (!hex_byte(span_skip(digits, 2 * i), bytes + i)) return false;
    }
    if (c == 'x') put_byte(value, bytes[0]);
    else if (put_asn1_text(value, c == 'U' ? V_ASN1_BMPSTRING : V_ASN1_UNIVERSALSTRING,
                           span_of(bytes, count)) != count)
        return false;
    r->at += 1 + 2 * count;
    return true;
}

/* One character of a value, after its backslash where it has one. */
static bool read_character(reader *r, writer *value) {
    if (peek(r) == '\\') {
        r->at++;
        uint8_t byte;
        if (at_end(r)) return reader_fail(r, "'\\' escapes nothing");
        if (hex_byte(span_skip(r->text, r->at), &byte)) {
            put_byte(value, byte);
            r->at += 2;
            return true;
        }
        if (read_openssl_escape(r, value)) return true;
        if (memchr(" \"#+,;<=>\\/", peek(r), 11) == NULL) {
            return reader_fail(r, "'\\' before a character that needs none");
        }
    }
    put_byte(value, peek(r));
    r->at++;
    return true;
}

static bool read_quoted_value(reader *r, writer *value) {
    r->at++;
    while (!at_end(r) && (peek(r) != '"' || peek_second(r) == '"')) {
        if (peek(r) == '"') r->at++; /* doubled, as .NET writes it */
        if (!read_character(r, value)) return false;
    }
    if (at_end(r)) return reader_fail(r, "a closing '\"' is missing");
    r->at++;
    return true;
}

static bool read_plain_value(reader *r, writer *value) {
    size_t solid = 0; /* up to the last character that is not an unescaped blank */
    while (!at_end(r) && !ends_value(r, peek(r))) {
        uint8_t c = peek(r);
        if (c == '"' || (!r->slashes && (c == '<' || c == '>'))) {
            return reader_fail(r, "a character that must be escaped with '\\'");
        }
        if (!read_character(r, value)) return false;
        if (c != ' ') solid = value->len;
    }
    if (r->slashes && solid && r->text.ptr[r->at - 1 - (value->len - solid)] == ',' && !at_end(r))
        return reader_fail(r, "either / or , stands between attributes, not both");
    if (!value->full && !r->slashes) value->len = solid;
    return true;
}

/* In OpenSSL's form everything is part of the value. */
static bool read_any_value(reader *r, writer *value) {
    if (r->slashes) return read_plain_value(r, value);
    bool ok = peek(r) == '#'   ? read_hex_value(r, value)
              : peek(r) == '"' ? read_quoted_value(r, value)
                               : read_plain_value(r, value);
    if (ok) skip_blanks(r);
    return ok;
}

static bool read_value(reader *r, writer *value) {
    if (!r->slashes || r->spaced) skip_blanks(r);
    size_t start = r->at;
    if (!read_any_value(r, value)) return false;
    if (!at_end(r) && !ends_value(r, peek(r))) return reader_fail(r, "',' or '+' is missing");
    if (value->full) return fail(r->why, "the subject is longer than %d bytes", NAME_BYTES);
    if (value->len && text_clean(span_of(value->ptr, value->len))) return true;
    size_t clean = clean_length(span_of(r->text.ptr + start, r->at - start));
    r->at = start + (start + clean < r->at ? clean : 0); /* of what is escaped, where it begins */
    return reader_fail(r, value->len
                              ? "a control or invisible character, or invalid UTF-8, in the value"
                              : "an empty value");
}

/* One RDN: attributes joined by '+'. */
static bool read_rdn(reader *r, writer *out) {
    size_t from = out->len;
    for (;;) {
        uint8_t oid[UINT8_MAX], bytes[NAME_BYTES];
        size_t oid_len = 0;
        writer value = {bytes, 0, sizeof bytes, false};
        if (!read_type(r, oid, &oid_len) || !read_value(r, &value)) return false;
        put_attribute(out, out->len == from, span_of(oid, oid_len), span_of(bytes, value.len));
        if (peek(r) != '+') break;
        r->at++;
    }
    return name_close_rdn(out, from) || reader_fail(r, "an attribute stands twice in one RDN");
}

static size_t count_attributes(span name) {
    size_t count = 0, at = 0;
    attribute a;
    while (name_next(name, &at, &a)) count++;
    return count;
}

static bool parse_name(span text, uint8_t *out, size_t *len, fault *why) {
    uint8_t bytes[NAME_BYTES];
    writer w = {bytes, 0, sizeof bytes, false};
    reader r = {.text = text, .slashes = text.len && text.ptr[0] == '/', .why = why};
    if (r.slashes) r.at = 1;
    for (;;) {
        if (!read_rdn(&r, &w)) return false;
        if (w.full) return fail(why, "the subject is longer than %d bytes", NAME_BYTES);
        if (count_attributes(span_of(bytes, w.len)) > NAME_ATTRIBUTES) {
            return fail(why, "the subject has more than %d attributes", NAME_ATTRIBUTES);
        }
        if (at_end(&r)) break;
        r.at++; /* the separator: read_value stopped at it */
    }
    *len = w.len;
    if (r.slashes) memcpy(out, bytes, w.len);
    else name_reverse(span_of(bytes, w.len), out);
    return true;
}

bool name_parse(span text, uint8_t *out, size_t *len, fault *why) {
    ERR_set_mark(); /* see identity_read */
    bool good = parse_name(text, out, len, why);
    ERR_pop_to_mark();
    return good;
}
