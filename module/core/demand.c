/* What a policy demands of the certificates that it maps: the `set` lines that say it, and whether a leaf
 * has it. */
#include "line.h"

#include <stdio.h>

/* ---- Lines ---- */

/* A setting is an int. */
static bool read_max_lifetime(line *l) {
    if (!duration_parse(l->token, &l->head.session) || l->head.session > INT32_MAX) return false;
    put_byte(&l->text, ' ');
    put_duration(&l->text, l->head.session);
    return true;
}

/* Fewer bits than 1024 are nobody's RSA key, but the size of an EC key, which is counted otherwise: a line
 * that says 256 would demand nothing. libcrypto takes no RSA key above 16384 (OPENSSL_RSA_MAX_MODULUS_BITS). */
static bool read_min_key_bits(line *l) {
    uint32_t bits = 0;
    char text[16];
    for (size_t i = 0; i < l->token.len; i++) {
        uint8_t c = l->token.ptr[i];
        if (c < '0' || c > '9' || bits > 16384) return false;
        bits = bits * 10 + (uint32_t)(c - '0');
    }
    if (bits < 1024 || bits > 16384) return false;
    l->head.session = bits;
    say(l, span_of(text, (size_t)snprintf(text, sizeof text, "%u", bits)));
    return true;
}

/* OpenSSL's names of usages; few, since the names that a libcrypto knows are not those of the next. */
static const struct {
    const char *name, *oid;
} USAGES[] = {
    {"serverAuth", "1.3.6.1.5.5.7.3.1"},
    {"clientAuth", "1.3.6.1.5.5.7.3.2"},
    {"codeSigning", "1.3.6.1.5.5.7.3.3"},
    {"emailProtection", "1.3.6.1.5.5.7.3.4"},
    {"timeStamping", "1.3.6.1.5.5.7.3.8"},
    {"OCSPSigning", "1.3.6.1.5.5.7.3.9"},
    {"msSmartcardLogin", "1.3.6.1.4.1.311.20.2.2"},
    {"pkInitClientAuth", "1.3.6.1.5.2.3.4"},
    {"anyExtendedKeyUsage", "2.5.29.37.0"},
};

static span usage_oid(span text) {
    for (size_t i = 0; i < sizeof USAGES / sizeof *USAGES; i++) {
        if (span_equal(text, span_of(USAGES[i].name, strlen(USAGES[i].name))))
            return span_of(USAGES[i].oid, strlen(USAGES[i].oid));
    }
    return text;
}

/* The lists of a line, in the order of their bytes: their order means nothing. */
typedef struct {
    size_t count;
    struct {
        size_t len;
        uint8_t bytes[UINT8_MAX];
    } of[LINE_OIDS + 1];
} oids;

static span oid_at(const oids *list, size_t i) {
    return span_of(list->of[i].bytes, list->of[i].len);
}

/* Moves the last one to its place. False where it is there already. */
static bool put_in_order(oids *list) {
    size_t at = list->count - 1;
    for (; at > 0; at--) {
        int order = span_compare(oid_at(list, at - 1), oid_at(list, at));
        if (order <= 0) return order < 0;
        list->of[LINE_OIDS] = list->of[at]; /* free, and read by nobody */
        list->of[at] = list->of[at - 1];
        list->of[at - 1] = list->of[LINE_OIDS];
    }
    return true;
}

/* One that stands for all (RFC 5280 4.2.1.4, 4.2.1.12) says nothing about what a certificate is for. */
static bool stands_for_all(span oid) {
    return span_equal(oid, LITERAL("\x55\x1d\x25\x00")) ||
           span_equal(oid, LITERAL("\x55\x1d\x20\x00"));
}

static bool read_oid(line *l, span text, oids *list) {
    if (list->count == LINE_OIDS) return false;
    size_t at = list->count++;
    span dotted = l->head.kind == SET_REQUIRE_EKU ? usage_oid(text) : text;
    if (!oid_parse(dotted, false, list->of[at].bytes, &list->of[at].len)) return false;
    if (stands_for_all(oid_at(list, at)))
        return fail(l->why,
                    "'%.*s' stands for all of them, and says nothing of what it is for: write "
                    "those that a certificate is to have",
                    shown(text), (const char *)text.ptr);
    return put_in_order(list);
}

static bool read_oids(line *l) {
    oids list;
    list.count = 0;
    for (span rest = l->token;;) {
        const uint8_t *comma = rest.len ? memchr(rest.ptr, ',', rest.len) : NULL;
        size_t len = comma ? (size_t)(comma - rest.ptr) : rest.len;
        if (!read_oid(l, span_of(rest.ptr, len), &list)) return false;
        if (comma == NULL) break;
        rest = span_skip(rest, len + 1);
    }
    for (size_t i = 0; i < list.count; i++) {
        put_byte(&l->text, i ? ',' : ' ');
        put_dotted(&l->text, oid_at(&list, i));
        put_field(l, FIELD_OID, oid_at(&list, i));
    }
    l->head.value = 1;
    return true;
}

/* False without a fault where it is not what the setting takes, which line.c then says. */
bool read_demand(line *l) {
    switch (l->head.kind) {
    case SET_MAX_LIFETIME: return read_max_lifetime(l);
    case SET_REQUIRE_EKU:
    case SET_REQUIRE_POLICY: return read_oids(l);
    case SET_MIN_KEY_BITS: return read_min_key_bits(l);
    default: return false;
    }
}

/* ---- A leaf ---- */

static bool has_oid(span list, span oid) {
    while (list.len) {
        size_t len = list.ptr[0];
        if (span_equal(span_of(list.ptr + 1, len), oid)) return true;
        list = span_skip(list, 1 + len);
    }
    return false;
}

/* One that stands for all is none of them: a CA that does not say what a certificate is for has not said
 * that it is for this. */
static bool has_all(span list, const rule *demand) {
    span oid;
    for (size_t at = 0; rule_field(demand, FIELD_OID, &at, &oid);) {
        if (!has_oid(list, oid)) return false;
    }
    return true;
}

static int least_version(const rule *demand) {
    return demand->value == MIN_TLS_1_3 ? 0x0304 : 0x0303;
}

bool demand_asked(const rule *demand, const request *r) {
    const bool explains = r->tls.state != HANDSHAKE_UNSAID;
    switch (demand->kind) {
    case SET_MAX_LIFETIME:
        return !r->recalled ||
               (is_known_time(r->leaf->not_before) && is_known_time(r->leaf->not_after));
    case SET_MIN_TLS: return r->tls_version || !(explains || r->recalled);
    default: return !r->recalled;
    }
}

/* Of a connection whose version cannot be told, nobody knows that it is new enough: refused. */
bool demand_met(const rule *demand, const request *r) {
    const identity *leaf = r->leaf;
    if (!demand_asked(demand, r)) return true;
    switch (demand->kind) {
    case SET_MAX_LIFETIME: return leaf->not_after - (int64_t)demand->session <= leaf->not_before;
    case SET_REQUIRE_EKU: return has_all(leaf->usages, demand);
    case SET_REQUIRE_POLICY: return has_all(leaf->policies, demand);
    case SET_MIN_KEY_BITS: return leaf->key_bits >= demand->session;
    case SET_MIN_TLS: return r->tls_version >= least_version(demand);
    default: return false;
    }
}

/* ---- For a person ---- */

static void put_missing(writer *w, span list, const rule *demand) {
    const char *before = ": it lacks ";
    span oid;
    for (size_t at = 0; rule_field(demand, FIELD_OID, &at, &oid);) {
        if (has_oid(list, oid)) continue;
        put_string(w, before);
        put_dotted(w, oid);
        before = ", ";
    }
}

static const char *version_name(int version) {
    switch (version) {
    case 0: return ": it is not known, since its certificate came by the server's module API";
    case 0x0304: return ": it is TLS 1.3";
    case 0x0303: return ": it is TLS 1.2";
    default: return ": it is older than TLS 1.2";
    }
}

void put_lack(writer *w, const rule *demand, const request *r) {
    const identity *leaf = r->leaf;
    char text[96];
    switch (demand->kind) {
    case SET_MAX_LIFETIME:
        put_string(w, ": from notBefore to notAfter it has ");
        put_duration(w, (uint64_t)(leaf->not_after - leaf->not_before));
        break;
    case SET_REQUIRE_EKU: put_missing(w, leaf->usages, demand); break;
    case SET_REQUIRE_POLICY: put_missing(w, leaf->policies, demand); break;
    case SET_MIN_KEY_BITS:
        put(w, text,
            (size_t)snprintf(text, sizeof text, ": it counts as %u bits of RSA", leaf->key_bits));
        break;
    default: put_string(w, version_name(r->tls_version)); break;
    }
}
