/* What the core's own C files share beside core.h. Not for Python. */
#ifndef CERTAUTH_INTERNAL_H
#define CERTAUTH_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core.h"

/* ---- Spans ---- */

static inline span span_of(const void *ptr, size_t len) { return (span){ptr, len}; }
#define LITERAL(text) span_of("" text, sizeof(text) - 1)

static inline bool span_equal(span a, span b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline int span_compare(span a, span b) {
    size_t shorter = a.len < b.len ? a.len : b.len;
    int order = shorter ? memcmp(a.ptr, b.ptr, shorter) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static inline bool span_starts(span s, span prefix) {
    return s.len >= prefix.len && memcmp(s.ptr, prefix.ptr, prefix.len) == 0;
}

static inline span span_skip(span s, size_t n) { return span_of(s.ptr + n, s.len - n); }

bool span_equal_nocase(span a, span b); /* ASCII */

/* Formats into why->text, cut to fit; false, so that a parser can `return fail(why, …)`. Bytes of
 * strangers go in as %.*s only after text_clean. */
bool fail(fault *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* algorithm_unknown of one of them. A chain may be NULL. */
struct stack_st_X509;
bool chain_unknown(const struct stack_st_X509 *, fault *);

void *must(void *allocated); /* ends the process where it is NULL, as the server does */
/* Has the reason, before the process ends: stderr is nowhere where the server is a daemon. May be NULL. */
extern void (*must_tell)(const char *text);

/* ---- Bytes to write to ---- */

/* A buffer of fixed size that remembers having been too small. */
typedef struct {
    uint8_t *ptr;
    size_t len, room;
    bool full;
} writer;
void put(writer *, const void *bytes, size_t len);
static inline void put_span(writer *w, span s) { put(w, s.ptr, s.len); }
static inline void put_byte(writer *w, uint8_t byte) { put(w, &byte, 1); }
void put_u16(writer *, size_t value); /* big-endian; too large a value fills the writer */
void put_hex(writer *, span bytes);
void put_token(writer *, span value); /* quoted where the reader of tokens would need it */
void put_shell_word(writer *, span text);
void put_time(writer *, int64_t seconds); /* as "2026-11-24T21:54:13Z" */
void put_address(writer *, span address); /* 4 or 16 bytes, as inet_ntop(3) writes them */
static inline void put_string(writer *w, const char *text) { put(w, text, strlen(text)); }
#define put_text(w, text) put(w, "" text, sizeof(text) - 1)

static inline size_t get_u16(const uint8_t *p) { return (size_t)p[0] << 8 | p[1]; }

/* ---- Text ---- */

/* Valid UTF-8 without NUL, control, bidirectional or zero-width characters, non-characters: what a
 * name of a person or a machine holds. RFC 3629; Unicode's general categories Cc and Cf as far as
 * they make two names look like one. */
bool text_clean(span);

/* Appends clean text, with `escape` and two hex digits for each byte of what cannot be told from something
 * else when it is seen: blanks that are not space, and combining marks, of which NFD is made. */
void put_visible(writer *, span text, const char *escape);
bool text_visible(span);

/* Appends an ASN.1 string of universal `tag` as UTF-8: UTF8, Numeric, Printable, IA5, Visible, T61
 * (its ASCII half only: what the other half means depends on who reads), BMP, Universal. Returns how
 * many bytes of `content` are clean text of that type: all of them, or those before the first that is
 * not, and then what was written is of no use. NO_TEXT: the type is not one of these. */
#define NO_TEXT SIZE_MAX
size_t put_asn1_text(writer *, int tag, span content);

/* Hex digits of any case, colons between bytes allowed. False unless exactly `len` bytes. */
bool hex_parse(span text, uint8_t *out, size_t len);

/* Bytes written to `out`, which has three for each four of the text, and 0 where that is not base64. */
size_t base64_decode(span text, uint8_t *out);

/* Tokens of a line, quoted as in redis.conf (sdssplitargs): "…" with \n \r \t \b \a \xHH \" \\,
 * '…' with \'. Each call reads one token into `out` (LINE_BYTES at most: a token is never longer
 * than its text). TOKEN_BAD: unbalanced quotes, or text right after a closing quote. */
typedef enum { TOKEN_END, TOKEN_READ, TOKEN_BAD } token_result;
token_result token_read(span *line, uint8_t *out, size_t *len);

/* ---- Hashes ---- */

void sha256(span, uint8_t out[HASH_BYTES]);
void sha256_of(const span *parts, size_t count, uint8_t out[HASH_BYTES]); /* one behind the other */
const struct evp_md_st *md_sha256(void); /* for libcrypto's own functions */

/* By what this process finds something in its tables: keyed with a secret of its own, so that nobody
 * can make two that collide, and of no use to anybody else. */
void lookup_key(span, uint8_t out[KEY_BYTES]);
void siphash(const uint8_t key[16], span, uint8_t out[16]);

/* ---- Times ---- */

/* 8h: a whole number with s, m, h or d; and back, with the largest unit that divides it. False for all else,
 * for 0 and for more than UINT32_MAX seconds. */
bool duration_parse(span text, uint32_t *seconds);
void put_duration(writer *, uint64_t seconds);

/* Of a certificate in the event log, not all is known; years are written with four digits. */
static inline bool is_known_time(int64_t seconds) {
    return seconds > -((int64_t)1 << 40) && seconds < (int64_t)1 << 40;
}

/* ---- Certificates ---- */

/* SHA-256 of the SubjectPublicKeyInfo; false where it cannot be encoded. */
bool certificate_key(X509 *, uint8_t out[HASH_BYTES]);
/* Seconds since 1970 of notBefore and notAfter; false where they do not parse. */
bool certificate_times(X509 *, int64_t *not_before, int64_t *not_after);
/* Is it an extension of RFC 5280, none of which is text? */
bool is_structure(span oid);
/* The serial number without leading zeros; false where it is negative or too long. */
bool certificate_serial(X509 *, uint8_t out[SERIAL_BYTES], size_t *len);

/* ---- Rules ---- */

/* A parsed line: one block of memory, so that a million of them stay cheap. `key` is what makes a
 * line the same line: a policy never holds two rules with one key. Behind it, in the same block:
 * the canonical text, then the fields (tag, u24 length, value), see rule_field. */
struct rule {
    X509 *certificate; /* `ca`, `anchor`: owned */
    uint32_t text_len, fields_len;
    uint32_t session;   /* `bind … session=`, seconds; the value of a setting that is a number */
    uint32_t number;    /* of the line in the write that brings it */
    uint64_t near;      /* `bind`: see near_hash */
    uint8_t type, kind; /* kind: bind_kind, setting or revoke_kind */
    uint8_t value;      /* of a setting that is a word; 1 of a list */
    bool adopt, on;     /* `user` */
    bool scoped;        /* `bind … ca=` */
    bool makes;         /* `pattern`: has its user placeholders? Else it is named by FIELD_USER */
    uint8_t key[KEY_BYTES];
};
static inline const uint8_t *rule_bytes(const rule *r) { return (const uint8_t *)(r + 1); }
static inline bool is_attributes(const rule *r) {
    return r->type == LINE_BIND && r->kind == BIND_ATTRIBUTES;
}

/* FIELD_ALIAS: another name by which rules are counted: the key of a CA, the CN of an `allow` line, what
 * pattern lines share, the OID of a `bind extension` line, the types of a `bind attributes` line. */
enum field {
    FIELD_USER,
    FIELD_NET,
    FIELD_ACL,
    FIELD_ALIAS,
    FIELD_FILE, /* `ca`, `anchor`: OpenSSL's hash of the subject, which names files; u32, big-endian */
    FIELD_TEMPLATE, /* `pattern`: what it matches; `bind attributes`: its attributes, sorted */
    FIELD_MAKES,
    FIELD_CA, /* `pattern`: the user, ca= */
    FIELD_OID /* `set require-…`: DER content, in the order of the bytes */
};
bool rule_field(const rule *, enum field, size_t *at, span *value);
bool rule_covers(const rule *, span address); /* `bind … from=`; true without */

/* The value of a `set` line, as policy_setting has it. */
static inline int rule_setting(const rule *r) { return r->session ? (int)r->session : r->value; }

typedef enum { REVOKE_SERIAL, REVOKE_CERT, REVOKE_KEY, REVOKE_KINDS } revoke_kind;

/* The key of the line that says `a` and `b` of a type and kind; built alike when a line is parsed
 * and when a certificate is looked up. */
void key_of(uint8_t out[KEY_BYTES], line_type, int kind, span a, span b);
/* What an `allow` line with exactly the attributes of this subject would have as its key; false
 * where no line can: an attribute of another type, or of one that may stand only once, twice. */
bool key_allow(uint8_t out[KEY_BYTES], span subject);
void alias_authority(uint8_t out[KEY_BYTES], const uint8_t *key);
void alias_common_name(uint8_t out[KEY_BYTES], span cn);
void alias_extension(uint8_t out[KEY_BYTES], span oid);
/* Of `pattern` lines: by their word; by user and ACL rules, which all of one word share; by anchor. And
 * of `user` lines whose name starts with a word. */
void alias_word(uint8_t out[KEY_BYTES], span word);
void alias_state(uint8_t out[KEY_BYTES], span user, span acl);
void alias_anchor(uint8_t out[KEY_BYTES], bind_kind, span anchor);
void alias_named(uint8_t out[KEY_BYTES], span word);

/* What is in force, seen through a change that is not made yet. */
typedef struct {
    const policy *base;
    const patch *pending;
} view;

/* ---- Patterns ---- */

/* Whether the parts of a `pattern` line are what they have to be; `template` is a subject's encoding,
 * or text. All of them are clean text. */
bool has_placeholder(span text);
bool pattern_check_template(bind_kind, span template, fault *why);
bool pattern_check_user(bind_kind, span template, span user, fault *why);
bool pattern_check_acl(span user, span acl, fault *why); /* `user`: its template */

/* Does the line fit this value? Then the user that it makes, if it makes any, is written to `made`. */
bool pattern_match(const rule *, span value, writer *made);

/* What starts a user's name, without its ':'; empty where no pattern could make it. */
span word_of(span user);
span rule_word(const rule *); /* of `pattern` and `user` lines */

/* The literal at the end of a template by which it is found: the first bytes of a subject, URI or CN, the
 * last ones of the others. */
span pattern_anchor(bind_kind, span template);

/* The `pattern` lines of a policy or a patch, by anchor and by word; all zero is empty. */
typedef struct {
    const rule *line;
    uint64_t hash;
    uint32_t next;
} pattern_entry;
typedef struct {
    pattern_entry *entries; /* linked by `next`: index + 1 */
    uint32_t *heads;
    size_t count, room;
    bool lengths[BIND_KINDS][UINT8_MAX + 1]; /* has a line an anchor of that length, or had one? */
} patterns;
void patterns_add(patterns *, const rule *);
void patterns_remove(patterns *, const rule *); /* one that was added */
void patterns_free(patterns *);
const rule *patterns_of_word(const patterns *, span word); /* any; or NULL */

/* Steps through the lines whose anchor `value` has. */
typedef struct {
    const patterns *in;
    bind_kind kind;
    span value;
    uint64_t hash;
    size_t len;
    uint32_t next;
} pattern_search;
pattern_search pattern_search_of(const patterns *, bind_kind, span value);
const rule *pattern_search_next(pattern_search *); /* NULL at the end */

/* ---- Attributes ---- */

/* Sorts the attributes of a name, each an RDN of its own, so that two lists of the same ones are the same
 * bytes. False where one stands twice. */
bool attributes_sort(span name, uint8_t out[NAME_BYTES]);
/* What a sorted list of at most ATTRIBUTES_MOST is bound by: see key_of. */
enum { ATTRIBUTES_VALUE = ATTRIBUTES_MOST * KEY_BYTES };
size_t attributes_value(span sorted, uint8_t out[ATTRIBUTES_VALUE]);

/* The types of a sorted list, in its order: of all lines with these, one search finds those that fit. */
typedef struct {
    uint8_t key[KEY_BYTES]; /* alias_shape */
    size_t lines;
    size_t count, len;
    uint8_t *types; /* records: u8 length | OID */
} shape;
typedef struct {
    shape of[ATTRIBUTES_SHAPES];
    size_t count;
} shapes; /* all zero is empty */
void alias_shape(uint8_t out[KEY_BYTES], span sorted);
bool shapes_add(shapes *,
                const rule *); /* of a `bind attributes` line; false where there is no room */
void shapes_remove(shapes *, const rule *);
void shapes_free(shapes *);

/* Calls `take` for each list of attributes of the subject that a `bind attributes` line may name, with its
 * value, and whether there is a CN in it. False where there are too many. */
typedef void (*attributes_taker)(span value, bool cn, void *data);
bool view_combinations(const view *, span subject, attributes_taker take, void *data);

/* ---- Near lines ---- */

/* One for all values that a person may take for each other: of a kind, the same but for case and blanks;
 * of subjects, those with such a CN. 0: the kind has none. */
uint64_t near_hash(bind_kind, span value);
/* One for all subjects that are the same but for case, blanks and the order of their attributes. */
uint64_t near_subject(span name);

/* The `bind` lines of a policy by that, 64 of each at the most, and others do not follow where one of them
 * goes; all zero is empty. */
typedef struct {
    const rule *line;
    uint32_t next;
} near_entry;
typedef struct {
    near_entry *entries;
    uint32_t *heads;
    size_t count, room;
} near_lines;
void near_add(near_lines *, const rule *);
void near_remove(near_lines *, const rule *);
const rule *near_next(const near_lines *, uint64_t hash, uint32_t *at); /* `at` starts at 0 */
void near_free(near_lines *);

/* ---- Policy ---- */

/* By what a certificate is revoked; and the line that does it, or NULL. `cert` holds whatever its holder
 * makes of the signature: what is signed, and the DER of either signature. */
typedef enum { BY_SERIAL, BY_CERT, BY_TBS, BY_TWIN, BY_KEY, REVOKE_WAYS } revoke_way;
typedef struct {
    const uint8_t *issuer, *cert, *tbs, *key;
    const seal *seal;
    span serial;
} revocable;
revocable revocable_leaf(const request *);
revocable revocable_authority(const path *, size_t index);
const rule *view_revocation(const view *, const revocable *, revoke_way);
const rule *view_find(const view *, const uint8_t key[KEY_BYTES]);
bool view_alias(const view *, const uint8_t alias[KEY_BYTES]); /* has any rule that alias? */
int view_setting(const view *, setting);
bool view_pins_leaf(const view *, identity *leaf); /* has it a `pin` line for it? */
bool view_binds(const view *, bind_kind);          /* may there be `bind` lines of that kind? */
const near_lines *policy_near(const policy *);
struct x509_store_st;
struct x509_store_st *policy_store(const policy *); /* of its `ca` and `anchor` lines; or NULL */
const rule *policy_authority_rule(const policy *, size_t index);
/* Has it a `pin`, or a `ca`, line for exactly this certificate? In any thread, while nobody commits. */
bool policy_has_pin(const policy *, X509 *);
bool policy_has_ca(const policy *, X509 *);
/* Leads a path from this CA up to a root, by the certificates of this store? No signature is looked at. */
bool reaches_root(struct x509_store_st *, X509 *);
/* The first of a policy's `ca` lines that does not reach one in there, and how many do not. The policy's own
 * store where that is NULL. */
size_t policy_rootless(const policy *, struct x509_store_st *, X509 **first);
/* Exchanges what two policies hold. Cannot fail. */
void policy_swap(policy *, policy *);

/* The line that demands what a certificate of this reason has not, or NULL. */
const rule *view_demand(const view *, reason);

/* Has the leaf, or the connection, what the line of a demand asks for? */
bool demand_met(const rule *, const request *);
/* Is it known whether it has? */
bool demand_asked(const rule *, const request *);
/* Appends what it has instead, for a person. */
void put_lack(writer *, const rule *, const request *);

/* Calls `take` for each (kind, value) by which `leaf` can be bound, until it returns false. */
typedef bool (*bind_taker)(bind_kind, span value, bool repeated, void *data);
void identity_bindings(identity *, bind_taker take, void *data);

/* Is the other end of a link between servers a node that is known: one that a peer's line of the policy
 * binds, any key of the bootstrap file, or one of the node's two `own` keys? `chain`: as the handshake has
 * verified it, leaf first. REASON_MATCHED, or why not: what is revoked is nobody. No user is asked about,
 * and enforcement is the caller's business. In any thread, while nobody commits. */
reason policy_node(const policy *, const policy *bootstrap, X509 *const *chain, size_t count,
                   uint8_t (*own)[HASH_BYTES], span address);

/* The key of a leaf's issuer; zeros, which are nobody's, where its path is not known. */
const uint8_t *issuer_key(const path *);

/* ---- Names ---- */

typedef struct {
    bool starts;
    span oid, value;
} attribute;
bool name_next(span name, size_t *at, attribute *out);
/* Appends one attribute of an encoded name. */
void put_attribute(writer *, bool starts, span oid, span value);
/* The name of an attribute type, or dotted decimal. */
void put_oid(writer *, span oid);
void put_dotted(writer *, span oid);
/* The content of the DER of an object identifier in dotted decimal; with `names`, also of an attribute type
 * by its name. False where it is neither. */
bool is_two_types(span type); /* SN: surname to some, serialNumber to others */
bool oid_parse(span text, bool names, uint8_t out[UINT8_MAX], size_t *len);
/* Sorts the attributes of the RDN that starts at `from`; false where two are the same. */
bool name_close_rdn(writer *, size_t from);
/* The six attributes of a gate entry, in the order of an `allow` line. */
enum { GATE_CN, GATE_OU, GATE_O, GATE_L, GATE_ST, GATE_C, GATE_TYPES };
/* The same RDNs the other way round, for the commonest slip. */
bool name_reverse(span name, uint8_t *out);
extern const span OID_CN;
extern const span GATE_OIDS[GATE_TYPES];

#endif
