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
    fault *why;
} reader;

static bool reader_fail(reader *r, const char *what) {
    if (r->at >= r->text.len) return fail(r->why, "%s at the end of the subject", what);
    uint8_t c = r->text.ptr[r->at];
    if (c > ' ' && c < 0x7f) {
        return fail(r->why, "%s at character %zu ('%c') of the subject", what, r->at + 1, c);
    }
    return fail(r->why, "%s at character %zu (byte 0x%02x) of the subject", what, r->at + 1, c);
}

static bool at_end(const reader *r) { return r->at >= r->text.len; }
static uint8_t peek(const reader *r) { return at_end(r) ? 0 : r->text.ptr[r->at]; }
static void skip_blanks(reader *r) {
    while (!at_end(r) && peek(r) == ' ') r->at++;
}
static bool ends_value(const reader *r, uint8_t c) {
    return r->slashes ? c == '/' || c == '+' : c == ',' || c == ';' || c == '+';
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

static bool named_oid(span type, uint8_t *out, size_t *len) {
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

static bool read_dotted_oid(reader *r, span type, uint8_t *out, size_t *len) {
    if (span_starts(type, LITERAL("OID."))) type = span_skip(type, 4);
    if (!dotted_oid(type, out, len)) {
        if (is_two_types(type)) {
            return fail(r->why,
                        "attribute SN at character %zu of the subject is read as surname by some "
                        "and as serial number by others: write surname or serialNumber",
                        r->at + 1);
        }
        return reader_fail(r, "unknown attribute type");
    }
    return true;
}

static bool read_type(reader *r, uint8_t *oid, size_t *len) {
    skip_blanks(r);
    size_t start = r->at;
    while (!at_end(r) && (isalnum(peek(r)) || peek(r) == '.' || peek(r) == '-')) r->at++;
    span type = span_of(r->text.ptr + start, r->at - start);
    if (type.len == 0) return reader_fail(r, "an attribute type is missing");
    skip_blanks(r);
    if (peek(r) != '=') return reader_fail(r, "'=' is missing");
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

/* #hex: BER of the value (RFC 4514 2.4). */
static bool read_hex_value(reader *r, writer *value) {
    uint8_t der[1024];
    size_t len = 0;
    for (r->at++; hex_digit(peek(r)) >= 0; r->at += 2) {
        if (len == sizeof der) return reader_fail(r, "a #hex value is too long");
        if (!hex_byte(span_skip(r->text, r->at), der + len++)) {
            return reader_fail(r, "a hex digit is missing");
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
    return text || reader_fail(r, "a #hex value is not the DER of a string");
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
    while (!at_end(r) && peek(r) != '"') {
        if (!read_character(r, value)) return false;
    }
    if (at_end(r)) return reader_fail(r, "a closing '\"' is missing");
    r->at++;
    return true;
}

static bool read_plain_value(reader *r, writer *value) {
    size_t solid = 0; /* up to the last character that is no unescaped blank */
    while (!at_end(r) && !ends_value(r, peek(r))) {
        uint8_t c = peek(r);
        if (c == '"' || (!r->slashes && (c == '<' || c == '>'))) {
            return reader_fail(r, "a character that must be escaped with '\\'");
        }
        if (!read_character(r, value)) return false;
        if (c != ' ') solid = value->len;
    }
    if (!value->full) value->len = solid;
    return true;
}

static bool read_value(reader *r, writer *value) {
    skip_blanks(r);
    size_t start = r->at;
    bool ok = peek(r) == '#'   ? read_hex_value(r, value)
              : peek(r) == '"' ? read_quoted_value(r, value)
                               : read_plain_value(r, value);
    if (!ok) return false;
    skip_blanks(r);
    if (!at_end(r) && !ends_value(r, peek(r))) return reader_fail(r, "',' or '+' is missing");
    if (value->full) return fail(r->why, "the subject is longer than %d bytes", NAME_BYTES);
    if (value->len && text_clean(span_of(value->ptr, value->len))) return true;
    r->at = start;
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
    reader r = {text, 0, text.len && text.ptr[0] == '/', why};
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
