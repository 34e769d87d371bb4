/* One policy line: text → rule. What a line means is said here and nowhere else. */
#include "line.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

/* ---- Keys ---- */

static void put_key(writer *w, line_type type, int kind, span a) {
    put_byte(w, (uint8_t)type);
    put_byte(w, (uint8_t)kind);
    put_byte(w, (uint8_t)(a.len >> 16)); /* the length keeps (a, b) apart from every other split */
    put_u16(w, a.len & UINT16_MAX);
    put_span(w, a);
}

void key_of(uint8_t out[KEY_BYTES], line_type type, int kind, span a, span b) {
    uint8_t bytes[NAME_BYTES + SAN_BYTES];
    writer w = {bytes, 0, sizeof bytes, false};
    put_key(&w, type, kind, a);
    put_span(&w, b);
    /* Too long to be a line's: whatever key it gets must be no line's. */
    lookup_key(w.full ? LITERAL("too long") : span_of(bytes, w.len), out);
}

void alias_authority(uint8_t out[KEY_BYTES], const uint8_t *key) {
    key_of(out, LINE_ANCHOR, 0, span_of(key, HASH_BYTES), span_of(NULL, 0));
}

void alias_common_name(uint8_t out[KEY_BYTES], span cn) {
    key_of(out, LINE_ALLOW, GATE_CN, cn, span_of(NULL, 0));
}

void alias_extension(uint8_t out[KEY_BYTES], span oid) {
    key_of(out, LINE_BIND, BIND_EXTENSION, oid, span_of(NULL, 0));
}

enum { OF_WORD, OF_STATE, OF_ANCHOR };

void alias_word(uint8_t out[KEY_BYTES], span word) {
    key_of(out, LINE_PATTERN, OF_WORD, word, span_of(NULL, 0));
}

void alias_state(uint8_t out[KEY_BYTES], span user, span acl) {
    uint8_t hash[KEY_BYTES];
    lookup_key(acl, hash);
    key_of(out, LINE_PATTERN, OF_STATE, user, span_of(hash, sizeof hash));
}

void alias_anchor(uint8_t out[KEY_BYTES], bind_kind kind, span anchor) {
    key_of(out, LINE_PATTERN, OF_ANCHOR + (int)kind, anchor, span_of(NULL, 0));
}

void alias_named(uint8_t out[KEY_BYTES], span word) {
    key_of(out, LINE_USER, 0, word, span_of(NULL, 0));
}

void line_key(line *l, int kind, span a, span b) {
    put_key(&l->key, l->head.type, kind, a);
    put_span(&l->key, b);
}

/* ---- Fields ---- */

/* A u24 length: an ACL rule may be as long as a line. */
void put_field(line *l, enum field tag, span value) {
    put_byte(&l->fields, (uint8_t)tag);
    put_byte(&l->fields, (uint8_t)(value.len >> 16));
    put_u16(&l->fields, value.len & UINT16_MAX);
    put_span(&l->fields, value);
}

bool rule_field(const rule *r, enum field tag, size_t *at, span *value) {
    const uint8_t *fields = rule_bytes(r) + r->text_len;
    while (*at < r->fields_len) {
        const uint8_t *p = fields + *at;
        *value = span_of(p + 4, (size_t)p[1] << 16 | get_u16(p + 2));
        *at += 4 + value->len;
        if (p[0] == tag) return true;
    }
    return false;
}

/* ---- Reading ---- */

/* The next token, false at the end of the line or where it is not a token (told apart by `why`). */
bool next(line *l) {
    size_t len = 0;
    token_result result = token_read(&l->rest, l->token_bytes, &len);
    l->token = span_of(l->token_bytes, len);
    if (result == TOKEN_BAD)
        fail(l->why, "unbalanced quotes, or text right behind a closing quote");
    return result == TOKEN_READ;
}

bool need(line *l, const char *what) {
    l->why->text[0] = 0;
    return next(l) || (l->why->text[0] ? false : fail(l->why, "%s is missing", what));
}

/* The token in a message: only clean text is shown, and not much of it. */
int shown(span token) { return !text_clean(token) ? 0 : token.len > 80 ? 80 : (int)token.len; }

bool bad_token(line *l, const char *what) {
    return fail(l->why, "%s: '%.*s'", what, shown(l->token), (const char *)l->token.ptr);
}

void say(line *l, span token) {
    if (l->text.len) put_byte(&l->text, ' ');
    put_token(&l->text, token);
}

static bool token_is(const line *l, const char *word) {
    return span_equal(l->token, span_of(word, strlen(word)));
}

int one_of(const line *l, const char *const *words, int count) {
    for (int i = 0; i < count; i++) {
        if (token_is(l, words[i])) return i;
    }
    return -1;
}

/* ---- set ---- */

static const struct {
    const char *name, *values[3], *allowed;
} SETTING[SETTINGS] = {
    [SET_ENFORCE] = {"enforce", {"off", "shadow", "on"}, "off, shadow or on"},
    [SET_GATE] = {"gate",
                  {"disabled", "san_cn", "full_subject"},
                  "disabled, san_cn or full_subject"},
    [SET_UNMATCHED] = {"unmatched", {"refuse", "leave"}, "refuse or leave"},
    [SET_SEVERAL_NAMES] = {"several-names", {"refuse", "same"}, "refuse or same"},
    [SET_PLAIN] = {"plain", {"leave", "refuse"}, "leave or refuse"},
    [SET_PASSWORD_AUTH] = {"password-auth", {"refuse", "allow"}, "refuse or allow"},
    [SET_TLS_CLIENT_AUTH] = {"tls-client-auth", {NULL, "yes", "optional"}, "yes or optional"},
    [SET_INTERNAL_TRUST] = {"internal-trust", {"refuse", "allow"}, "refuse or allow"},
    [SET_MAX_LIFETIME] = {"max-lifetime",
                          {NULL},
                          "a whole number above 0 with s, m, h or d, up to 24855d"},
    [SET_REQUIRE_EKU] =
        {"require-eku",
         {NULL},
         "OIDs, or names such as clientAuth, joined by commas, each once, 32 at most"},
    [SET_REQUIRE_POLICY] = {"require-policy",
                            {NULL},
                            "dotted OIDs joined by commas, each once, 32 at most"},
    [SET_MIN_KEY_BITS] = {"min-key-bits", {NULL}, "a whole number of RSA bits from 1024 to 16384"},
    [SET_MIN_TLS] = {"min-tls", {NULL, "1.2", "1.3"}, "1.2 or 1.3"},
};

static bool read_word(line *l, const char *const words[3]) {
    for (uint8_t v = 0; v < 3; v++) {
        if (words[v] == NULL || !token_is(l, words[v])) continue;
        say(l, l->token);
        l->head.value = v;
        return true;
    }
    return false;
}

static bool read_set(line *l) {
    if (!need(l, "the name of a setting")) return false;
    for (int i = 0; i < SETTINGS; i++) {
        if (!token_is(l, SETTING[i].name)) continue;
        say(l, l->token);
        line_key(l, i, span_of(NULL, 0), span_of(NULL, 0));
        if (!need(l, "the value of the setting")) return false;
        l->head.kind = (uint8_t)i;
        l->why->text[0] = 0;
        if (read_word(l, SETTING[i].values) || read_demand(l)) return true;
        return l->why->text[0]
                   ? false
                   : fail(l->why, "set %s takes %s, not '%.*s'", SETTING[i].name,
                          SETTING[i].allowed, shown(l->token), (const char *)l->token.ptr);
    }
    return bad_token(l, "there is no such setting");
}

/* ---- ca, anchor, pin ---- */

/* EVP_DecodeBlock wants whole groups of four and counts the padding as bytes. */
size_t base64_decode(span text, uint8_t *out) {
    size_t padding = 0;
    while (padding < 2 && padding < text.len && text.ptr[text.len - 1 - padding] == '=') padding++;
    int len = text.len % 4 ? -1 : EVP_DecodeBlock(out, text.ptr, (int)text.len);
    return len < (int)padding ? 0 : (size_t)len - padding;
}

/* The certificate of the next word. Its DER stands where the fields are written later. */
static bool read_certificate(line *l, const char *what, size_t *len) {
    if (!need(l, what)) return false;
    const uint8_t *at = l->field_bytes;
    *len = base64_decode(l->token, l->field_bytes);
    l->head.certificate =
        *len && *len <= CERTIFICATE_BYTES ? d2i_X509(NULL, &at, (long)*len) : NULL;
    return (l->head.certificate && at == l->field_bytes + *len) ||
           fail(l->why, "not the base64 DER of one certificate");
}

/* Says it; and the line's key, one for each certificate and `type`. */
static bool take_certificate(line *l, size_t len, line_type type, uint8_t key[HASH_BYTES]) {
    X509 *certificate = l->head.certificate;
    uint8_t hash[HASH_BYTES], serial[SERIAL_BYTES];
    size_t serial_len;
    int64_t from, to;
    if (!certificate_key(certificate, key) || !certificate_times(certificate, &from, &to) ||
        !certificate_serial(certificate, serial, &serial_len)) {
        return fail(l->why,
                    "its key, its validity or its serial number is nothing that could be checked");
    }
    sha256(span_of(l->field_bytes, len), hash);
    int text_len = EVP_EncodeBlock(l->token_bytes, l->field_bytes,
                                   (int)len); /* base64 has several spellings */
    say(l, span_of(l->token_bytes, (size_t)text_len));
    put_key(&l->key, type, 0, span_of(hash, sizeof hash));
    return true;
}

/* Whatever it is, CA or not: nobody is asked who has signed it, and it vouches for nobody. The rule keeps
 * no X509, which would have it be one of the authorities. */
static bool read_pin(line *l) {
    uint8_t key[HASH_BYTES];
    size_t len;
    if (!read_certificate(l, "the base64 DER of a client's certificate", &len) ||
        !take_certificate(l, len, LINE_PIN, key))
        return false;
    X509_free(l->head.certificate);
    l->head.certificate = NULL;
    return true;
}

static bool read_authority(line *l) {
    uint8_t key[HASH_BYTES], alias[KEY_BYTES];
    size_t len;
    if (!read_certificate(l, "the base64 DER of a CA certificate", &len)) return false;
    if (X509_check_ca(l->head.certificate) != 1) {
        return fail(l->why,
                    "not a CA certificate: its basic constraints do not say CA:TRUE, or its "
                    "key usage does not let it sign certificates");
    }
    if (!take_certificate(l, len, LINE_CA, key)) return false; /* one is `ca` or `anchor` */
    alias_authority(alias, key);
    if (l->head.type == LINE_CA) put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
    unsigned long file = X509_subject_name_hash(l->head.certificate); /* 32 bits */
    const uint8_t bytes[] = {(uint8_t)(file >> 24), (uint8_t)(file >> 16), (uint8_t)(file >> 8),
                             (uint8_t)file};
    put_field(l, FIELD_FILE, span_of(bytes, sizeof bytes));
    return true;
}

/* ---- allow ---- */

static const char *const GATE_NAMES[GATE_TYPES] = {"CN", "OU", "O", "L", "ST", "C"};

/* The key of a gate entry: its attributes in the order of GATE_NAMES, OUs in the order in which
 * RFC 4514 text has them. Any number of OU, one of the others at the most. */
static bool put_gate_values(writer *w, span name, int type, size_t *count) {
    uint8_t reversed[NAME_BYTES];
    if (name.len > sizeof reversed) return false;
    name_reverse(name, reversed);
    attribute a;
    *count = 0;
    for (size_t at = 0; name_next(span_of(reversed, name.len), &at, &a);) {
        if (!span_equal(a.oid, GATE_OIDS[type])) continue;
        put_byte(w, (uint8_t)type);
        put_u16(w, a.value.len);
        put_span(w, a.value);
        ++*count;
    }
    return type == GATE_OU || *count <= 1;
}

/* The attributes of `name` as the key of an `allow` line; false where none can say them. */
static bool put_gate_entry(writer *w, span name) {
    size_t total = 0, known = 0, at = 0, count;
    attribute a;
    while (name_next(name, &at, &a)) total++;
    for (int type = 0; type < GATE_TYPES; type++) {
        if (!put_gate_values(w, name, type, &count)) return false;
        known += count;
    }
    return known == total && !w->full;
}

bool key_allow(uint8_t out[KEY_BYTES], span subject) {
    uint8_t bytes[NAME_BYTES * 2];
    writer w = {bytes, 0, sizeof bytes, false};
    put_byte(&w, LINE_ALLOW);
    if (!put_gate_entry(&w, subject)) return false;
    lookup_key(span_of(bytes, w.len), out);
    return true;
}

/* One TYPE=value token of an `allow` line, appended to `name` in the order of writing. */
static bool read_gate_value(line *l, writer *name) {
    for (int type = 0; type < GATE_TYPES; type++) {
        span word = span_of(GATE_NAMES[type], strlen(GATE_NAMES[type]));
        if (l->token.len <= word.len || l->token.ptr[word.len] != '=') continue;
        if (!span_equal_nocase(span_of(l->token.ptr, word.len), word)) continue;
        span value = span_skip(l->token, word.len + 1);
        if (value.len == 0 || !text_clean(value)) break;
        put_attribute(name, true, GATE_OIDS[type], value);
        return true;
    }
    return bad_token(l,
                     "allow takes CN=, OU=, O=, L=, ST= and C= with a clean, non-empty value, not");
}

/* The canonical text of a gate entry: CN first, OUs in their order. */
static void say_gate_entry(line *l, span name) {
    attribute a;
    for (int type = 0; type < GATE_TYPES; type++) {
        for (size_t at = 0; name_next(name, &at, &a);) {
            if (!span_equal(a.oid, GATE_OIDS[type])) continue;
            put_byte(&l->text, ' ');
            put_span(&l->text, span_of(GATE_NAMES[type], strlen(GATE_NAMES[type])));
            put_byte(&l->text, '=');
            put_token(&l->text, a.value);
        }
    }
}

static bool read_allow(line *l) {
    uint8_t bytes[NAME_BYTES], reversed[NAME_BYTES];
    writer name = {bytes, 0, sizeof bytes, false};
    l->why->text[0] = 0;
    while (next(l)) {
        if (!read_gate_value(l, &name)) return false;
    }
    if (l->why->text[0]) return false;
    if (name.full) return fail(l->why, "the entry is longer than %d bytes", NAME_BYTES);
    span cn = {0}, written = span_of(bytes, name.len);
    if (name_common_names(written, &cn) != 1) return fail(l->why, "allow takes exactly one CN");
    name_reverse(written, reversed); /* names are kept in the order of a certificate */
    put_byte(&l->key, LINE_ALLOW);
    if (!put_gate_entry(&l->key, span_of(reversed, name.len))) {
        return fail(l->why, "only OU may stand more than once in an allow line");
    }
    say_gate_entry(l, written);
    uint8_t alias[KEY_BYTES];
    alias_common_name(alias, cn);
    put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
    return true;
}

/* ---- revoke ---- */

/* A serial number in hex, as `openssl x509 -serial` prints it; leading zeros do not count. */
static bool read_serial(line *l, uint8_t *out, size_t *len) {
    if (!need(l, "the serial number in hex")) return false;
    uint8_t digits[2 * SERIAL_BYTES + 1];
    size_t count = 0;
    for (size_t i = 0; i < l->token.len; i++) {
        uint8_t c = l->token.ptr[i];
        if (c == ':' || (c == '0' && count == 0)) continue;
        if (count == 2 * SERIAL_BYTES) return fail(l->why, "the serial number is too long");
        digits[count++] = c;
    }
    if (l->token.len == 0 || (count == 0 && memchr(l->token.ptr, '0', l->token.len) == NULL)) {
        return bad_token(l, "not a serial number in hex");
    }
    if (count == 0) digits[count++] = '0'; /* zero is one byte */
    bool odd = count % 2 == 1;
    if (odd) memmove(digits + 1, digits, count++);
    if (odd) digits[0] = '0';
    *len = count / 2;
    return hex_parse(span_of(digits, count), out, *len) ||
           bad_token(l, "not a serial number in hex");
}

static bool read_revoke(line *l) {
    static const char *const kinds[REVOKE_KINDS] = {"serial", "cert", "key"};
    uint8_t hash[HASH_BYTES], serial[SERIAL_BYTES];
    size_t len = 0;
    if (!need(l, "what to revoke")) return false;
    int kind = one_of(l, kinds, REVOKE_KINDS);
    if (kind < 0) return bad_token(l, "revoke takes serial, cert or key, not");
    l->head.kind = (uint8_t)kind;
    say(l, l->token);
    if (!read_hash(l, kind == REVOKE_SERIAL ? "the issuer's key id" : "the SHA-256", hash))
        return false;
    say_hex(l, span_of(hash, sizeof hash));
    if (kind == REVOKE_SERIAL) {
        if (!read_serial(l, serial, &len)) return false;
        say_hex(l, span_of(serial, len));
    }
    line_key(l, kind, span_of(hash, sizeof hash), span_of(serial, len));
    return true;
}

/* ---- user, was, limit ---- */

/* Rules that would let somebody in by password, or undo the state that a line stands for. */
static bool is_password_rule(span acl) {
    return memchr("<>#!", acl.ptr[0], 4) != NULL || span_equal_nocase(acl, LITERAL("nopass")) ||
           span_equal_nocase(acl, LITERAL("reset"));
}

/* One rule without blanks or quotes: what the server splits at blanks again must not become more rules
 * than were looked at here. */
static bool take_acl_rule(line *l, span acl) {
    bool ours = l->head.type != LINE_WAS; /* which tells an operator's user word by word */
    if (ours && (!text_clean(acl) || memchr(acl.ptr, '"', acl.len) ||
                 memchr(acl.ptr, '\'', acl.len) || memchr(acl.ptr, '\\', acl.len))) {
        return bad_token(l, "an ACL rule holds no quote, no backslash, no control or invisible "
                            "character");
    }
    if (!is_one_more(l, LINE_RULES, "ACL rules")) return false;
    bool makes = l->head.type == LINE_PATTERN, state = makes || l->head.type == LINE_USER;
    if (state && is_password_rule(acl)) {
        return fail(l->why,
                    "a user line takes no nopass, no password and no reset: its users come by "
                    "certificate, and it is their whole state");
    }
    if (l->head.type == LINE_USER && span_equal(acl, LITERAL("adopt"))) {
        return bad_token(l, "adopt stands right behind the name, without quotes");
    }
    if (makes && (is_option(acl) || span_equal(acl, LITERAL("adopt")))) {
        return bad_token(l,
                         "not an ACL rule: ca=, from= and session= stand before the rules, and a "
                         "pattern adopts nobody");
    }
    if (makes && !pattern_check_acl(l->makes, acl, l->why)) return false;
    if (l->head.type == LINE_LIMIT && acl.ptr[0] != '-') {
        return bad_token(l, "a limit line takes rules that take away, such as -@admin, not");
    }
    if (span_equal_nocase(acl, LITERAL("on"))) l->head.on = true;
    if (span_equal_nocase(acl, LITERAL("off"))) l->head.on = false;
    put_field(l, FIELD_ACL, acl);
    say(l, acl);
    return true;
}

/* A token may be a quoted selector, "(~x +@read)": it is taken word by word, as ACL SETUSER does. */
static bool read_acl_rules(line *l) {
    span rest = l->token;
    bool any = false;
    while (rest.len) {
        const uint8_t *blank = l->head.type == LINE_WAS ? NULL : memchr(rest.ptr, ' ', rest.len);
        size_t len = blank ? (size_t)(blank - rest.ptr) : rest.len;
        if (len && !take_acl_rule(l, span_of(rest.ptr, len))) return false;
        any = any || len;
        rest = span_skip(rest, len + (blank != NULL));
    }
    return any || fail(l->why, "an empty ACL rule");
}

static bool read_acl(line *l) {
    l->why->text[0] = 0;
    while (next(l)) {
        if (!read_acl_rules(l)) return false;
    }
    return l->why->text[0] == 0;
}

static bool read_user(line *l) {
    if (!need(l, "the name of the user") || !read_user_name(l)) return false;
    line_key(l, 0, l->token, span_of(NULL, 0));
    span rest = l->rest, word = word_of(l->token);
    if (l->head.type == LINE_USER && word.len) {
        uint8_t alias[KEY_BYTES];
        alias_named(alias, word);
        put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
    }
    if (l->head.type == LINE_USER && next(l) && token_is(l, "adopt")) {
        l->head.adopt = true;
        say(l, l->token);
    } else {
        l->rest = rest;
    }
    return read_acl(l);
}

static bool read_limit(line *l) {
    if (!read_acl(l)) return false;
    if (l->fields.len == 0) return fail(l->why, "a limit line names no rule");
    line_key(l, 0, span_of(l->text_bytes, l->text.len), span_of(NULL, 0));
    return true;
}

/* ---- pattern ---- */

static bool read_pattern_kind(line *l) {
    if (!need(l, "the kind of name to match")) return false;
    int kind = one_of(l, BIND_NAMES, BIND_KINDS);
    if (kind < 0 || kind == BIND_IP || kind > BIND_UPN)
        return bad_token(l, "pattern takes subject, cn, uri, dns, email or upn, not");
    say(l, l->token);
    l->head.kind = (uint8_t)kind;
    return true;
}

static bool read_pattern_user(line *l, span template) {
    if (!need(l, "the user of the pattern")) return false;
    if (is_option(l->token)) return fail(l->why, "the user of the pattern is missing");
    if (!is_user_name(l->token)) return bad_token(l, "not the name of an ACL user");
    if (!pattern_check_user((bind_kind)l->head.kind, template, l->token, l->why)) return false;
    l->head.makes = has_placeholder(l->token);
    put_field(l, l->head.makes ? FIELD_MAKES : FIELD_USER, l->token);
    l->makes = span_of(l->field_bytes + l->fields.len - l->token.len, l->token.len);
    say(l, l->token);
    return true;
}

static bool read_pattern_options(line *l, options *o) {
    span rest = l->rest;
    while (next(l) && is_option(l->token)) {
        if (!read_bind_option(l, o)) return false;
        rest = l->rest;
    }
    l->rest = rest;
    say_bind_options(l, o);
    if (o->ca.len) put_field(l, FIELD_CA, span_of(o->ca_bytes, o->ca.len));
    return true;
}

static void put_pattern_aliases(line *l, span template, span acl) {
    uint8_t alias[KEY_BYTES];
    span word = word_of(l->makes);
    alias_anchor(alias, l->head.kind, pattern_anchor(l->head.kind, template));
    put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
    if (word.len == 0) return;
    if (l->head.makes) alias_word(alias, word);
    else alias_named(alias, word);
    put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
    if (!l->head.makes) return;
    alias_state(alias, l->makes, acl);
    put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
}

static bool read_pattern_rules(line *l) {
    if (l->head.makes) return read_acl(l);
    l->why->text[0] = 0;
    if (next(l))
        return bad_token(l,
                         "a user without a placeholder is named as by bind, and its rules stand in "
                         "its `user` line: not here");
    return l->why->text[0] == 0;
}

static bool read_pattern(line *l) {
    uint8_t bytes[NAME_BYTES];
    size_t len = 0;
    options o;
    options_start(&o);
    if (!read_pattern_kind(l) || !read_bind_value(l, l->head.kind, bytes, &len)) return false;
    span template = span_of(bytes, len);
    if (!pattern_check_template(l->head.kind, template, l->why)) return false;
    put_field(l, FIELD_TEMPLATE, template);
    if (!read_pattern_user(l, template) || !read_pattern_options(l, &o)) return false;
    size_t said = l->text.len;
    if (!read_pattern_rules(l)) return false;
    put_pattern_aliases(l, template, span_of(l->text_bytes + said, l->text.len - said));
    line_key(l, l->head.kind, template, span_of(o.ca_bytes, o.ca.len));
    return true;
}

/* ---- Lines ---- */

static const struct {
    const char *name;
    bool (*read)(line *);
} TYPES[LINE_TYPES] = {
    [LINE_SET] = {"set", read_set},
    [LINE_CA] = {"ca", read_authority},
    [LINE_ANCHOR] = {"anchor", read_authority},
    [LINE_PIN] = {"pin", read_pin},
    [LINE_ALLOW] = {"allow", read_allow},
    [LINE_BIND] = {"bind", read_bind},
    [LINE_PATTERN] = {"pattern", read_pattern},
    [LINE_REVOKE] = {"revoke", read_revoke},
    [LINE_LOCK] = {"lock", read_lock},
    [LINE_USER] = {"user", read_user},
    [LINE_LIMIT] = {"limit", read_limit},
    [LINE_WAS] = {"was", read_user},
};

static bool read_line(line *l) {
    if (!need(l, "a word")) return false;
    for (int type = 0; type < LINE_TYPES; type++) {
        if (!token_is(l, TYPES[type].name)) continue;
        l->head.type = (uint8_t)type;
        say(l, l->token);
        if (!TYPES[type].read(l)) return false;
        l->why->text[0] = 0;
        if (next(l)) return bad_token(l, "one word too many");
        if (l->why->text[0]) return false;
        bool fits = !l->text.full && !l->key.full && !l->fields.full;
        return fits || fail(l->why, "the line is longer than %d bytes", LINE_BYTES);
    }
    return bad_token(l, "a line starts with set, ca, anchor, pin, allow, bind, pattern, revoke, "
                        "lock or user, not");
}

static rule *rule_of(const line *l) {
    rule *r = malloc(sizeof *r + l->text.len + l->fields.len);
    if (r == NULL) return NULL;
    *r = l->head;
    r->text_len = (uint32_t)l->text.len;
    r->fields_len = (uint32_t)l->fields.len;
    lookup_key(span_of(l->key_bytes, l->key.len), r->key);
    uint8_t *bytes = (uint8_t *)(r + 1);
    memcpy(bytes, l->text_bytes, l->text.len);
    if (l->fields.len) memcpy(bytes + l->text.len, l->field_bytes, l->fields.len);
    return r;
}

static rule *parse(span text, bool held, fault *why) {
    line l; /* not cleared: its buffers are large */
    l.held = held;
    l.counted = 0;
    l.rest = text;
    l.head = (rule){0};
    l.text = (writer){l.text_bytes, 0, LINE_BYTES, false};
    l.key = (writer){l.key_bytes, 0, LINE_BYTES, false};
    l.fields = (writer){l.field_bytes, 0, sizeof l.field_bytes, false};
    l.why = why;
    ERR_set_mark();
    bool good = text.len <= LINE_BYTES ? read_line(&l)
                                       : fail(why, "the line is longer than %d bytes", LINE_BYTES);
    ERR_pop_to_mark();
    rule *r = good ? rule_of(&l) : NULL;
    if (good && r == NULL) fail(why, "out of memory");
    if (r == NULL) X509_free(l.head.certificate);
    return r;
}

rule *rule_parse(span text, fault *why) { return parse(text, false, why); }
rule *rule_parse_held(span text, fault *why) { return parse(text, true, why); }

void rule_free(rule *r) {
    if (r == NULL) return;
    X509_free(r->certificate);
    free(r);
}

line_type rule_type(const rule *r) { return (line_type)r->type; }
span rule_text(const rule *r) { return span_of(rule_bytes(r), r->text_len); }
bool rule_adopts(const rule *r) { return r->adopt; }
bool rule_on(const rule *r) { return r->on; }
X509 *rule_certificate(const rule *r) { return r->certificate; }
bool rule_acl_next(const rule *r, size_t *at, span *token) {
    return rule_field(r, FIELD_ACL, at, token);
}

bool rule_binds_peer(const rule *r) {
    return r->type == LINE_BIND && r->kind == BIND_KEY &&
           span_starts(rule_user(r, 0), LITERAL("certauth-peer-")) && rule_user(r, 1).len == 0;
}

span rule_user(const rule *r, size_t index) {
    span user;
    for (size_t at = 0; rule_field(r, FIELD_USER, &at, &user);) {
        if (index-- == 0) return user;
    }
    return span_of(NULL, 0);
}
