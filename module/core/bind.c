/* `bind` lines, and the names of users. */
#include "line.h"

#include <arpa/inet.h>

#include <openssl/x509v3.h>

/* ---- bind ---- */

const char *const BIND_NAMES[BIND_KINDS] = {
    "subject", "cn",   "uri", "dns",       "email",     "ip",
    "upn",     "cert", "key", "attribute", "extension", "attributes",
};

const char *bind_kind_name(bind_kind kind) { return kind < BIND_KINDS ? BIND_NAMES[kind] : "?"; }

/* Says and keys 32 bytes of hex. */
bool read_hash(line *l, const char *what, uint8_t out[HASH_BYTES]) {
    if (!need(l, what)) return false;
    if (!hex_parse(l->token, out, HASH_BYTES)) return fail(l->why, "%s is not 64 hex digits", what);
    return true;
}

void say_hex(line *l, span bytes) {
    put_byte(&l->text, ' ');
    put_hex(&l->text, bytes);
}

static size_t address_parse(span text, uint8_t out[16]) {
    char name[INET6_ADDRSTRLEN];
    if (text.len == 0 || text.len >= sizeof name || memchr(text.ptr, 0, text.len)) return 0;
    memcpy(name, text.ptr, text.len);
    name[text.len] = 0;
    if (inet_pton(AF_INET, name, out) == 1) return 4;
    return inet_pton(AF_INET6, name, out) == 1 ? 16 : 0;
}

void put_address(writer *w, span address) {
    char name[INET6_ADDRSTRLEN];
    const char *text =
        inet_ntop(address.len == 4 ? AF_INET : AF_INET6, address.ptr, name, sizeof name);
    if (text) put(w, text, strlen(text));
}

static bool read_bind_text(line *l, uint8_t *out, size_t *len) {
    if (l->token.len == 0 || !text_clean(l->token)) {
        return fail(l->why, "an empty value, or a control or invisible character in it");
    }
    if (l->token.len > NAME_BYTES)
        return fail(l->why, "the value is longer than %d bytes", NAME_BYTES);
    memcpy(out, l->token.ptr, *len = l->token.len);
    say(l, l->token);
    return true;
}

/* Distinguished names are said as RFC 4514 text. */
static bool say_name(line *l, span name) {
    char text[2 * NAME_BYTES];
    size_t printed = name_print(name, text, sizeof text);
    say(l, span_of(text, printed));
    return printed > 0 ||
           fail(l->why, "the subject is longer than %zu bytes when it is written out", sizeof text);
}

static size_t count_attributes(span name) {
    size_t count = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) count++;
    return count;
}

static bool read_attributes(line *l, uint8_t *out, size_t *len) {
    uint8_t name[NAME_BYTES];
    span cn;
    if (!name_parse(l->token, name, len, l->why)) return false;
    span given = span_of(name, *len);
    if (count_attributes(given) > ATTRIBUTES_MOST)
        return fail(l->why, "bind attributes takes at most %d attributes", ATTRIBUTES_MOST);
    if (!attributes_sort(given, out)) return fail(l->why, "an attribute stands twice");
    if (name_common_names(given, &cn) > 1)
        return fail(l->why, "two CNs: a certificate with both would be ambiguous");
    return say_name(l, span_of(out, *len));
}

/* What `bind attribute` and `bind extension` name, and nothing else does. */
static bool read_oid(line *l, bind_kind kind, span type, uint8_t *out, size_t *len) {
    const char *shown_type = (const char *)type.ptr;
    if (kind == BIND_ATTRIBUTE && is_two_types(type))
        return fail(l->why, "SN is read as surname by some and as serial number by others: write "
                            "surname or serialNumber");
    if (!oid_parse(type, kind == BIND_ATTRIBUTE, out, len)) {
        return fail(l->why,
                    kind == BIND_ATTRIBUTE
                        ? "neither a type of attribute nor an object identifier such as 2.5.4.5: "
                          "'%.*s'"
                        : "not an object identifier such as 1.3.6.1.4.1.99999.1: '%.*s'",
                    shown(type), shown_type);
    }
    span oid = span_of(out, *len);
    if (kind == BIND_ATTRIBUTE && span_equal(oid, OID_CN))
        return fail(l->why, "the CN has a kind of its own: bind cn");
    return kind == BIND_ATTRIBUTE || !is_structure(oid) ||
           fail(l->why, "the extension %.*s is one of RFC 5280, none of which is text", shown(type),
                shown_type);
}

/* OID=VALUE: what stands behind the first = is the value as it is. */
static bool read_typed(line *l, bind_kind kind, uint8_t *out, size_t *len) {
    uint8_t oid[UINT8_MAX], text[4 * NAME_BYTES];
    size_t oid_len;
    const uint8_t *equals = l->token.len ? memchr(l->token.ptr, '=', l->token.len) : NULL;
    if (equals == NULL)
        return bad_token(l, "takes an OID, = and the value, such as 2.5.4.5=12345, not");
    span type = span_of(l->token.ptr, (size_t)(equals - l->token.ptr));
    span value = span_skip(l->token, type.len + 1);
    size_t most = kind == BIND_EXTENSION ? EXTENSION_TEXT : NAME_BYTES - UINT8_MAX - 4;
    if (!read_oid(l, kind, type, oid, &oid_len)) return false;
    if (value.len == 0 || !text_clean(value))
        return fail(l->why, "an empty value, or a control or invisible character in it");
    if (value.len > most) return fail(l->why, "the value is longer than %zu bytes", most);
    writer bound = {out, 0, NAME_BYTES, false}, said = {text, 0, sizeof text, false};
    put_attribute(&bound, true, span_of(oid, oid_len), value);
    *len = bound.len;
    (kind == BIND_ATTRIBUTE ? put_oid : put_dotted)(&said, span_of(oid, oid_len));
    put_byte(&said, '=');
    put_span(&said, value);
    say(l, span_of(text, said.len));
    return (!bound.full && !said.full) || fail(l->why, "the object identifier is too long");
}

/* The value of a `bind` line, as a certificate is asked for it. */
bool read_bind_value(line *l, bind_kind kind, uint8_t *out, size_t *len) {
    if (!need(l, "the value to bind")) return false;
    switch (kind) {
    case BIND_SUBJECT:
        return name_parse(l->token, out, len, l->why) && say_name(l, span_of(out, *len));
    case BIND_ATTRIBUTES: return read_attributes(l, out, len);
    case BIND_ATTRIBUTE:
    case BIND_EXTENSION: return read_typed(l, kind, out, len);
    case BIND_IP: {
        *len = address_parse(l->token, out);
        if (*len == 0) return bad_token(l, "not an IP address");
        put_byte(&l->text, ' ');
        put_address(&l->text, span_of(out, *len));
        return true;
    }
    case BIND_CERT:
    case BIND_KEY:
        if (!hex_parse(l->token, out, *len = HASH_BYTES)) {
            return bad_token(l, "not the 64 hex digits of a SHA-256");
        }
        say_hex(l, span_of(out, *len));
        return true;
    default: return read_bind_text(l, out, len);
    }
}

/* ---- bind: options ---- */

enum { UNITS = 4 };
static const struct {
    char name;
    uint32_t seconds;
} UNIT[UNITS] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};

bool duration_parse(span text, uint32_t *seconds) {
    uint64_t number = 0;
    size_t i = 0;
    while (i < text.len && text.ptr[i] >= '0' && text.ptr[i] <= '9' && number <= UINT32_MAX) {
        number = number * 10 + (uint64_t)(text.ptr[i++] - '0');
    }
    for (size_t u = 0; i > 0 && i + 1 == text.len && u < UNITS; u++) {
        if (text.ptr[i] != (uint8_t)UNIT[u].name) continue;
        number *= UNIT[u].seconds;
        *seconds = (uint32_t)number;
        return number > 0 && number <= UINT32_MAX;
    }
    return false;
}

void put_duration(writer *w, uint64_t seconds) {
    size_t u = 0;
    while (seconds % UNIT[u].seconds) u++;
    char text[32];
    put(w, text,
        (size_t)snprintf(text, sizeof text, "%llu%c",
                         (unsigned long long)(seconds / UNIT[u].seconds), UNIT[u].name));
}

static bool read_session(line *l, span text) {
    return duration_parse(text, &l->head.session) ||
           fail(l->why, "session= takes a whole number above 0 with s, m, h or d, such as 8h");
}

static void say_session(line *l) {
    put_text(&l->text, " session=");
    put_duration(&l->text, l->head.session);
}

/* Bits of `address` behind the first `prefix`. */
static bool has_host_bits(span address, unsigned prefix) {
    for (unsigned bit = prefix; bit < address.len * 8; bit++) {
        if (address.ptr[bit / 8] & 0x80 >> bit % 8) return true;
    }
    return false;
}

static bool decimal(span text, unsigned most, unsigned *out) {
    *out = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9' || i > 2) return false;
        *out = *out * 10 + (unsigned)(text.ptr[i] - '0');
    }
    return text.len > 0 && *out <= most;
}

/* ADDRESS or ADDRESS/PREFIX; a field is the address and a byte for the prefix. */
static bool is_mapped(span address) {
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return address.len == 16 && memcmp(address.ptr, prefix, sizeof prefix) == 0;
}

bool read_net(line *l, const char *takes, span text, uint8_t net[NET_BYTES], size_t *len) {
    const uint8_t *slash = memchr(text.ptr, '/', text.len);
    span host = slash ? span_of(text.ptr, (size_t)(slash - text.ptr)) : text;
    *len = address_parse(host, net);
    unsigned prefix = (unsigned)*len * 8;
    if (*len == 0 || (slash && !decimal(span_skip(text, host.len + 1), prefix, &prefix))) {
        return fail(l->why, "%s; not '%.*s'", takes, shown(text), (const char *)text.ptr);
    }
    if (is_mapped(span_of(net, *len))) {
        return fail(l->why, "write '%.*s' as the IPv4 network that it is", shown(text),
                    (const char *)text.ptr);
    }
    if (has_host_bits(span_of(net, *len), prefix)) {
        return fail(l->why, "'%.*s' has bits set behind its prefix: which network is meant?",
                    shown(text), (const char *)text.ptr);
    }
    net[(*len)++] = (uint8_t)prefix;
    return true;
}

void put_net(writer *w, span net) {
    const size_t len = net.len - 1;
    char digits[8];
    put_address(w, span_of(net.ptr, len));
    if (net.ptr[len] == len * 8) return;
    put(w, digits, (size_t)snprintf(digits, sizeof digits, "/%u", net.ptr[len]));
}

static bool read_nets(line *l, writer *nets, span text) {
    static const char takes[] =
        "from= takes addresses and networks joined by commas, such as 10.0.0.0/8,::1";
    uint8_t net[NET_BYTES];
    size_t bytes;
    for (;;) {
        const uint8_t *comma = memchr(text.ptr, ',', text.len);
        size_t len = comma ? (size_t)(comma - text.ptr) : text.len;
        if (!read_net(l, takes, span_of(text.ptr, len), net, &bytes)) return false;
        put_field(l, FIELD_NET, span_of(net, bytes));
        put_net(nets, span_of(net, bytes));
        if (comma == NULL) return true;
        put_byte(nets, ',');
        text = span_skip(text, len + 1);
    }
}

bool rule_covers(const rule *r, span address) {
    span net;
    bool any = false;
    for (size_t at = 0; rule_field(r, FIELD_NET, &at, &net); any = true) {
        if (net.len != address.len + 1) continue;
        uint8_t differing[16];
        for (size_t i = 0; i < address.len; i++) differing[i] = net.ptr[i] ^ address.ptr[i];
        /* Equal in the prefix: moving the rest out of sight, nothing differs. */
        unsigned prefix = net.ptr[address.len], bit = 0;
        while (bit < prefix && !(differing[bit / 8] & 0x80 >> bit % 8)) bit++;
        if (bit == prefix) return true;
    }
    return !any;
}

/* ---- Users ---- */

/* What ACL SETUSER takes as a name: no blank, no NUL (acl.c: ACLStringHasSpaces, Redis 7.0.15);
 * and nothing that would make two names look alike. A quote is taken here, see rule_lasts. */
bool is_user_name(span name) {
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] <= ' ') return false;
    }
    return name.len > 0 && name.len <= USER_BYTES && text_clean(name);
}

bool read_user_name(line *l) {
    if (!is_user_name(l->token)) {
        return bad_token(l,
                         "not the name of an ACL user: it may hold no blank, control or invisible "
                         "character");
    }
    put_field(l, FIELD_USER, l->token);
    say(l, l->token);
    return true;
}

static bool lasts(span name, fault *why) {
    if (memchr(name.ptr, '\'', name.len) == NULL && memchr(name.ptr, '"', name.len) == NULL)
        return true;
    return fail(why,
                "the name of a user holds a quote, and redis.conf with it could not be read any "
                "more once CONFIG REWRITE has written it: '%.*s'",
                shown(name), (const char *)name.ptr);
}

bool rule_lasts(const rule *r, fault *why) {
    span name;
    for (size_t at = 0; rule_field(r, FIELD_USER, &at, &name);) {
        if (!lasts(name, why)) return false;
    }
    for (size_t at = 0; rule_field(r, FIELD_MAKES, &at, &name);) {
        if (!lasts(name, why)) return false;
    }
    return true;
}

/* Its buffers are not cleared: they are as large as a line. */
void options_start(options *o) {
    o->ca = (writer){o->ca_bytes, 0, sizeof o->ca_bytes, false};
    o->nets = (writer){o->net_bytes, 0, sizeof o->net_bytes, false};
}

bool read_bind_option(line *l, options *o) {
    if (span_starts(l->token, LITERAL("ca=")) && o->ca.len == 0) {
        o->ca.len = HASH_BYTES;
        return hex_parse(span_skip(l->token, 3), o->ca_bytes, HASH_BYTES) ||
               fail(l->why, "ca= takes a key id: the 64 hex digits of the SHA-256 of the issuer's "
                            "SubjectPublicKeyInfo");
    }
    if (span_starts(l->token, LITERAL("from=")) && o->nets.len == 0) {
        return read_nets(l, &o->nets, span_skip(l->token, 5));
    }
    if (span_starts(l->token, LITERAL("session=")) && l->head.session == 0) {
        return read_session(l, span_skip(l->token, 8));
    }
    return bad_token(l, "not an option of bind, or given twice (ca=, from= and session= follow the "
                        "users)");
}

void say_bind_options(line *l, const options *o) {
    if (o->ca.len) put_text(&l->text, " ca=");
    put_hex(&l->text, span_of(o->ca_bytes, o->ca.len));
    if (o->nets.len) put_text(&l->text, " from=");
    put_span(&l->text, span_of(o->net_bytes, o->nets.len));
    if (o->nets.full) l->text.full = true;
    if (l->head.session) say_session(l);
}

bool is_option(span token) {
    return span_starts(token, LITERAL("ca=")) || span_starts(token, LITERAL("from=")) ||
           span_starts(token, LITERAL("session="));
}

/* A sender that writes many takes the time of each reader. */
bool is_one_more(line *l, size_t most, const char *what) {
    return ++l->counted <= most || l->held || l->head.type == LINE_WAS ||
           fail(l->why, "more than %zu %s in one line", most, what);
}

/* Did this line name the token's user before? Found by its key, for a line may be all names. */
static bool is_named(line *l) {
    uint8_t key[KEY_BYTES];
    lookup_key(l->token, key);
    size_t at = get_u16(key) % NAMED;
    for (; l->is_named[at]; at = (at + 1) % NAMED) {
        if (memcmp(l->named[at], key, KEY_BYTES) == 0) return true;
    }
    l->is_named[at] = true;
    memcpy(l->named[at], key, KEY_BYTES);
    return false;
}

static bool read_users_and_options(line *l, options *o) {
    bool behind = false; /* the users */
    memset(l->is_named, 0, sizeof l->is_named);
    if (!need(l, "the user")) return false;
    do {
        behind = behind || is_option(l->token);
        if (!behind && !is_one_more(l, LINE_USERS, "users")) return false;
        if (!behind && !l->held && is_named(l)) return bad_token(l, "a user named twice");
        if (!(behind ? read_bind_option(l, o) : read_user_name(l))) return false;
        l->why->text[0] = 0;
    } while (next(l));
    if (l->why->text[0]) return false;
    return (l->fields.len && l->field_bytes[0] == FIELD_USER) ||
           fail(l->why, "the user is missing");
}

/* What the line shares with others, see FIELD_ALIAS. */
static void put_shared(line *l, bind_kind kind, span value) {
    uint8_t alias[KEY_BYTES];
    attribute a;
    size_t at = 0;
    if (kind == BIND_ATTRIBUTES) {
        put_field(l, FIELD_TEMPLATE, value);
        alias_shape(alias, value);
    } else if (kind == BIND_EXTENSION && name_next(value, &at, &a)) {
        alias_extension(alias, a.oid);
    } else {
        return;
    }
    put_field(l, FIELD_ALIAS, span_of(alias, sizeof alias));
}

bool read_bind(line *l) {
    uint8_t value[NAME_BYTES], keys[ATTRIBUTES_VALUE];
    size_t len = 0;
    options o;
    options_start(&o);
    if (!need(l, "what to bind")) return false;
    int kind = one_of(l, BIND_NAMES, BIND_KINDS);
    if (kind < 0)
        return bad_token(l,
                         "bind takes subject, cn, uri, dns, email, ip, upn, cert, key, attribute, "
                         "extension or attributes, not");
    say(l, l->token);
    l->head.kind = (uint8_t)kind;
    if (!read_bind_value(l, (bind_kind)kind, value, &len) || !read_users_and_options(l, &o))
        return false;
    say_bind_options(l, &o);
    put_shared(l, (bind_kind)kind, span_of(value, len));
    l->head.scoped = o.ca.len > 0;
    l->head.near = near_hash((bind_kind)kind, span_of(value, len));
    span bound = kind == BIND_ATTRIBUTES
                     ? span_of(keys, attributes_value(span_of(value, len), keys))
                     : span_of(value, len);
    line_key(l, kind, bound, span_of(o.ca_bytes, o.ca.len));
    return true;
}
