/* The core of certauth: from a certificate and a policy to a decision.
 *
 *     X509 ──identity_read──▶ identity ┐
 *     chain ─path_from_chain─▶ path    ├─ policy_decide ──▶ decision: action, reason, users
 *     lines ─patch_*, commit─▶ policy  ┘
 *
 * No part of Redis is known here. The server's module, `redis-certauth explain` and the tests all
 * run this code: the C files include this page, and Python reads it word for word (cffi's cdef),
 * which is why it holds no preprocessor line. Include stdint.h, stdbool.h and stddef.h before it.
 *
 * Nothing here is thread-safe except by having one writer: a policy may be read by many threads
 * while nobody commits to it; an identity is one thread's. Nothing allocates while it decides, but for
 * the hashes of a leaf that nobody has asked for before. */

/* Bytes that somebody else owns. Certificate bytes are never C strings: a NUL is a byte like any
 * other, and a name that holds one is refused rather than cut. */
typedef struct {
    const uint8_t *ptr;
    size_t len;
} span;

/* Why a text was not taken, for the person who wrote it. Always NUL ended. */
typedef struct {
    char text[256];
} fault;

/* Bounds. Going over one is a refusal with a name, never a truncation. */
enum {
    CERTIFICATE_BYTES = 65536, /* DER of one certificate */
    NAME_BYTES = 4096,         /* one distinguished name, encoded as below */
    NAME_ATTRIBUTES = 64,      /* attributes in one distinguished name */
    SAN_BYTES = 16384,         /* all subject alternative names of a leaf, encoded */
    EXTENSION_BYTES = 4096, /* the extensions of a leaf that a line may name, encoded as a name */
    EXTENSION_TEXT = 1024,  /* the text in one of them */
    SERIAL_BYTES = 32,      /* RFC 5280 4.1.2.2 says 20 */
    OIDS_BYTES =
        2048, /* the extended key usages of a leaf, encoded; its certificate policies, too */
    DETAIL_BYTES = 384,  /* what is said of a certificate that can be nobody */
    PATH_LENGTH = 8,     /* CA certificates above a leaf */
    LINE_BYTES = 131072, /* one policy line */
    LINE_USERS = 256,    /* users of a `bind` line that comes */
    LINE_OIDS = 32,      /* object identifiers of a `set` line */
    LINE_RULES = 500,    /* ACL rules of a line that comes: the server's time for them is squared */
    USER_BYTES = 512,    /* the name of an ACL user */
    MADE_RULE_BYTES = 8192, /* one ACL rule with the values of its placeholders */
    PATTERN_TWINS = 1000,   /* `pattern` lines that share their word, or their anchor */
    ATTRIBUTES_MOST = 4,    /* attributes of a `bind attributes` line */
    ATTRIBUTES_SHAPES = 32, /* lists of types that such lines of a policy have */
    HASH_BYTES = 32,        /* SHA-256 */
    KEY_BYTES = 16          /* of a table of this process */
};

/* Every outcome, in the order of the checks: all reasons below the one returned were passed.
 * Zero is a refusal, so that a decision that nobody made admits nobody. */
typedef enum {
    REASON_UNDECIDED,  /* nobody decided: a bug, and a refusal */
    REASON_NO_JOURNAL, /* the node's policy cannot be read: only bootstrap lines count */
    REASON_NO_POLICY,  /* this node never had a policy */
    REASON_OFF,        /* set enforce off */
    REASON_NO_CERTIFICATE,
    REASON_HANDSHAKE,         /* the TLS handshake refuses it, for a reason that is none of these */
    REASON_WEAK,              /* a key or signature of its path is below the security level */
    REASON_UNKNOWN_ALGORITHM, /* a key or signature of its path is none that this libcrypto knows */
    REASON_MALFORMED,         /* DER, extensions or times that do not parse, or say two things */
    REASON_TOO_LARGE,         /* over one of the bounds above */
    REASON_BAD_STRING,        /* NUL, control or invisible character, invalid encoding in a name */
    REASON_AMBIGUOUS,         /* two CNs, or two SANs of a kind, where the policy counts on one */
    REASON_UNTRUSTED_ISSUER, /* no `ca` of the policy in the verified path, and no `pin` for itself */
    REASON_CA_EXPIRED,       /* a CA of the path is outside its validity */
    REASON_CA_REVOKED,       /* a CA of the path is named by a `revoke` line */
    REASON_NOT_YET_VALID,
    REASON_EXPIRED,
    REASON_KEY_USAGE, /* not a certificate for a TLS client, or a CA's own */
    REASON_REVOKED,
    REASON_GATE, /* no `allow` line fits */
    REASON_NO_BINDING,
    REASON_CONFLICT,        /* `bind` lines that name different users */
    REASON_ADDRESS,         /* outside the `from=` of a `bind` line */
    REASON_LIFETIME,        /* a demand of the policy: it lives longer than `set max-lifetime` */
    REASON_REQUIRED_EKU,    /* without an extended key usage of `set require-eku` */
    REASON_REQUIRED_POLICY, /* without a certificate policy of `set require-policy` */
    REASON_KEY_TOO_SMALL,   /* `set min-key-bits` */
    REASON_TLS_VERSION,     /* `set min-tls` */
    REASON_USER_MISSING,    /* the server has no such ACL user */
    REASON_USER_OFF,
    REASON_MATCHED,
    REASON_COUNT
} reason;

typedef enum { ACTION_REFUSE, ACTION_LEAVE, ACTION_CHOOSE, ACTION_LOGIN } action;

/* Names as they appear in INFO, replies, logs and docs/reasons.md ("no_binding"): one spelling
 * everywhere. Static strings. */
const char *reason_name(reason);
const char *action_name(action);

/* ---- text.c: bytes, tokens, distinguished names ------------------------------------------- */

/* A distinguished name is kept in one encoding everywhere, and two names are the same exactly
 * when these bytes are: for each attribute, in the order of the certificate,
 *     1 where it starts an RDN, else 0 | length of OID | OID (DER content) | u16 length | UTF-8
 * attributes of one RDN being sorted, since X.501 makes an RDN a set. */

/* Reads a name as people write it: RFC 4514 ("CN=alice,OU=eng,O=acme", blanks beside , + and =
 * allowed, "quoted" values, #hex), most specific RDN first; or OpenSSL's /C=…/CN=… , the other
 * way round. Writes the encoding to `out` (NAME_BYTES) and its length to `len`. False with the
 * character named in `why`. */
bool name_parse(span text, uint8_t *out, size_t *len, fault *why);

/* Writes an encoded name as RFC 4514 text, not NUL ended. Returns its length, at most `room`;
 * 0 also where it does not fit. */
size_t name_print(span name, char *out, size_t room);

/* Writes a token of a policy line, quoted as in redis.conf where that is needed. Returns its length,
 * 0 where it does not fit. */
size_t token_print(span value, char *out, size_t room);

/* What SHOW MATCH takes: `*` any characters, `?` one, `\\` the next as it is. All places of the pattern
 * are tried at once, as bits, so a text takes a step for each of its bytes, whatever the pattern. */
enum { GLOB_PLACES = 255, GLOB_WORDS = 4 };
typedef struct {
    size_t places;
    uint64_t takes[256][GLOB_WORDS]; /* by byte: the places that go on with it */
    uint64_t stays[GLOB_WORDS];      /* the places where a star stands */
} glob;
bool glob_read(span pattern, glob *); /* false where it has more places */
bool glob_matches(const glob *, span text);

/* ---- cert.c: X509 → identity --------------------------------------------------------------- */

typedef struct x509_st X509; /* libcrypto's */

typedef enum {
    BIND_SUBJECT,
    BIND_CN,
    BIND_URI,
    BIND_DNS,
    BIND_EMAIL,
    BIND_IP,
    BIND_UPN,
    BIND_CERT,
    BIND_KEY,
    BIND_ATTRIBUTE,
    BIND_EXTENSION,
    BIND_ATTRIBUTES,
    BIND_KINDS
} bind_kind;
const char *bind_kind_name(bind_kind);

/* What a leaf says. Spans point into `bytes`, so it is copied with identity_keep only.
 *
 * A value in its names that is not clean text is odd. It refuses the certificate only where it could
 * count, and nothing can match it: in a name it stands with an empty value, which no line can say, and
 * of the SANs it is left out. */
typedef struct {
    reason refusal; /* REASON_UNDECIDED, or why this certificate can be nobody */
    uint32_t odd;   /* 1 << bind_kind: a value of that kind is odd; ODD_ISSUER: one of the issuer */
    span detail;    /* of the refusal, or of the first that is odd: clean text; or empty */
    span subject, issuer; /* encoded names */
    span sans;       /* records: u8 bind_kind | u16 length | value (addresses: 4 or 16 bytes) */
    span extensions; /* a name of their OIDs and texts; empty what is not clean text */
    span usages;     /* its extended key usages; records: u8 length | OID (DER content) */
    span policies;   /* its certificate policies, alike; none where they do not parse */
    span serial;     /* big-endian, no leading zeros */
    int64_t not_before, not_after; /* seconds since 1970 */
    bool client; /* usable by a TLS client: key usage, extended key usage, not a CA */
    bool fits;   /* the same, be it a CA or not */
    bool
        serves; /* for servers as well, by its extended key usage: so it can be taken for a node's */
    bool ca;    /* basic constraints CA:TRUE */
    bool signs;        /* its key usage, if any, lets it sign a handshake */
    uint32_t key_bits; /* of its RSA key; of another key, those of an RSA key that is as strong */
    uint8_t lookup[KEY_BYTES]; /* of the DER: see path_after_handshake */
    X509 *leaf;                /* borrowed, for the hashes: they take longer than all the rest */
    bool hashed;               /* were they made? */
    uint8_t cert[HASH_BYTES], tbs[HASH_BYTES], key[HASH_BYTES]; /* read with the functions below */
    uint8_t bytes[2 * NAME_BYTES + SAN_BYTES + EXTENSION_BYTES + SERIAL_BYTES + 2 * OIDS_BYTES +
                  DETAIL_BYTES];
} identity;
enum { ODD_ISSUER = 1 << BIND_KINDS }; /* never counts: no line names an issuer by its name */

/* Reads `leaf` through libcrypto's accessors. Also returns id->refusal. */
reason identity_read(X509 *leaf, identity *id);

/* SHA-256 of the DER; of the TBSCertificate, which is what the CA has signed; and of the
 * SubjectPublicKeyInfo, the "key id". Made at the first call, which wants the leaf that was read. */
const uint8_t *identity_cert(identity *);
const uint8_t *identity_tbs(identity *);
const uint8_t *identity_key(identity *);

/* A copy that takes as much room as it says and has its hashes, so that it wants no leaf. To be freed
 * with identity_free. */
identity *identity_keep(identity *);
void identity_free(identity *);

/* Steps through id->sans: false at the end. `at` starts at 0. */
bool identity_next_san(const identity *id, size_t *at, bind_kind *kind, span *value);

/* How many different CNs an encoded name has, the first of them in `cn`. */
size_t name_common_names(span name, span *cn);

/* Certificates out of DER (one) or PEM (the leaf, then what the client would present above it), up
 * to `room` - 1. Returns how many went into `out`, to be freed by the caller with
 * certificate_free; 0 with the reason in `why`. */
size_t certificates_parse(span der_or_pem, X509 **out, size_t room, fault *why);
void certificate_free(X509 *);

/* ---- issuer.c: where a leaf comes from ----------------------------------------------------- */

/* The signature of a certificate: the only bytes of it that nobody has signed, so whoever holds the
 * certificate may write them another way. */
typedef struct {
    bool altered;             /* not as a signer writes it */
    bool twinned;             /* ECDSA takes (r, s) and (r, n - s) alike */
    uint8_t twin[HASH_BYTES]; /* SHA-256 of the DER with the other one */
} seal;

/* Of a certificate that `issuer` has signed. */
void certificate_seal(X509 *, X509 *issuer, seal *);
/* SHA-256 of the DER and of the TBSCertificate; false where it cannot be encoded. */
bool certificate_hashes(X509 *, uint8_t cert[HASH_BYTES], uint8_t tbs[HASH_BYTES]);

typedef struct {
    uint8_t key[HASH_BYTES], cert[HASH_BYTES], tbs[HASH_BYTES];
    seal seal;
    int64_t not_before, not_after;
    uint8_t serial_len, serial[SERIAL_BYTES];
} authority;

/* The CA certificates above a leaf, its issuer first. `known` is false where nobody vouches for
 * it. `partial`: it ends below a root that is not known, `weak`: a key or signature in it is below
 * security level 2 (SSL_CTX_set_security_level(3)), which path_verify alone says. */
typedef struct {
    bool known, partial, weak;
    seal leaf; /* of the leaf */
    size_t count;
    authority ca[PATH_LENGTH];
} path;

/* A copy that takes as much room as it has CAs. To be freed with path_free. */
path *path_keep(const path *);
void path_free(path *);

typedef struct policy policy;

/* By libcrypto's own verification under the policy's `ca` and `anchor` certificates; `extra` are
 * the intermediates presented with the leaf. Of two CAs with one name and key, that counts which is
 * valid at `now` (seconds since 1970; 0: this moment); what else times say is left to policy_decide.
 * `weak` is said of the leaf's key also where nobody vouches for it.
 * `unknown` (may be NULL) has the text of algorithm_unknown, where that is why nobody vouches for it. */
void path_verify(const policy *, X509 *leaf, X509 *const *extra, size_t count, int64_t now,
                 path *out, fault *unknown);

/* Is the key or the signature of this certificate of an algorithm that this libcrypto does not know? Then
 * the text says so, with the names of both: "this OpenSSL (3.0.19) does not know ML-DSA-65". */
bool algorithm_unknown(X509 *, fault *);

/* What a CA certificate says that it may do, and how many CAs may stand below it; -1: any number. */
typedef struct {
    bool ca, certificates, lists;
    int64_t path_length;
} powers;
void certificate_powers(X509 *, powers *);

/* Has `issuer` issued it: by name, key identifier, key usage and signature, as libcrypto finds a path?
 * ISSUED_UNKNOWN: all but the signature fits, and that is of an algorithm that cannot be checked here. */
typedef enum { ISSUED_NO, ISSUED_YES, ISSUED_UNKNOWN } issued;
issued certificate_issued(X509 *, X509 *issuer);

/* What the algorithm of its key is called, known or not. NUL ended. */
enum { ALGORITHM_TEXT = 100 };
void algorithm_of_key(X509 *, char out[ALGORITHM_TEXT]);

/* How many `ca` and `anchor` lines that is true of: nothing below them can be verified here. The text
 * names the first. */
size_t policy_unverified(const policy *, fault *);

/* How many `pin` lines there are; the certificate of one of them (`first` may be NULL) is to be freed by the
 * caller. And is there one for this leaf? */
size_t policy_pins(const policy *, X509 **first);
bool policy_pinned(const policy *, identity *leaf);

/* What a chain says that somebody has verified, leaf first; not known with fewer than two or too many. */
void path_of_chain(X509 *const *chain, size_t count, path *out);

/* The reason that libcrypto's error X509_V_ERR_… at this depth of a chain (0: the leaf) is called by. */
reason reason_of_error(int error, int depth);

/* After a TLS handshake: `chain` is what it verified (leaf first, as libcrypto gives it), or the leaf
 * alone where that cannot be told, as on resumed sessions. What was seen is remembered for those, and
 * the leaf's hashes with it, in tables of fixed size; what was forgotten is verified again. One thread
 * only. */
void path_after_handshake(const policy *, identity *, X509 *const *chain, size_t count, path *out);

/* ---- line.c: one policy line --------------------------------------------------------------- */

typedef enum {
    LINE_SET,
    LINE_CA,
    LINE_ANCHOR,
    LINE_PIN,
    LINE_ALLOW,
    LINE_BIND,
    LINE_PATTERN,
    LINE_REVOKE,
    LINE_USER,
    LINE_LIMIT, /* bootstrap files only: taken from every `user` line of the policy */
    LINE_WAS,   /* the node's own note, outside the digest: what an adopted user was before */
    LINE_TYPES
} line_type;
typedef enum {
    SET_ENFORCE,
    SET_GATE,
    SET_UNMATCHED,
    SET_SEVERAL_NAMES,
    SET_PLAIN,
    SET_PASSWORD_AUTH,
    SET_TLS_CLIENT_AUTH,
    SET_INTERNAL_TRUST,
    SET_MAX_LIFETIME,
    SET_REQUIRE_EKU,
    SET_REQUIRE_POLICY,
    SET_MIN_KEY_BITS,
    SET_MIN_TLS,
    SETTINGS
} setting;
enum { ENFORCE_OFF, ENFORCE_SHADOW, ENFORCE_ON };
enum { GATE_DISABLED, GATE_SAN_CN, GATE_FULL_SUBJECT };
enum { UNMATCHED_REFUSE, UNMATCHED_LEAVE };
enum { SEVERAL_NAMES_REFUSE, SEVERAL_NAMES_SAME };
enum { PLAIN_LEAVE, PLAIN_REFUSE };
enum { PASSWORD_AUTH_REFUSE, PASSWORD_AUTH_ALLOW };
enum { TLS_CLIENT_AUTH_UNSET, TLS_CLIENT_AUTH_YES, TLS_CLIENT_AUTH_OPTIONAL };
enum { INTERNAL_TRUST_REFUSE, INTERNAL_TRUST_ALLOW };
enum { MIN_TLS_UNSET, MIN_TLS_1_2, MIN_TLS_1_3 };

typedef struct rule rule; /* a parsed line */

/* Parses one line. NULL with `why`; else to be freed with rule_free. A line that is held, or was, may have
 * come before there were bounds on its users and rules. */
rule *rule_parse(span line, fault *why);
rule *rule_parse_held(span line, fault *why);
void rule_free(rule *);

line_type rule_type(const rule *);
span rule_text(const rule *);               /* canonical: what journal, digest and SHOW hold */
span rule_user(const rule *, size_t index); /* `bind`: its users, `user`, `was`: the name at 0;
                                             * empty past the last */
bool rule_adopts(const rule *);             /* `user … adopt` */
bool rule_on(const rule *);                 /* `user`, `pattern`: is the user on? */
bool rule_binds_peer(const rule *); /* `bind key` to a user `certauth-peer-…`: a node's peer */
/* Do the names that the line gives to users survive the server's own files? CONFIG REWRITE writes a name
 * as it is, where an unquoted quote begins a quoted text (config.c, rewriteConfigUserOption; sds.c,
 * sdssplitargs). False with `why`: no new line may say so, but a journal of an earlier version may. */
bool rule_lasts(const rule *, fault *why);
bool rule_acl_next(const rule *, size_t *at, span *token); /* `user`, `was`, `limit`: the ACL rules;
                                             * `at` starts at 0; `pattern`: as they are written */
X509 *rule_certificate(const rule *);                      /* `ca`, `anchor`: borrowed */

/* ---- pattern.c: users that are made from certificates ------------------------------------------ */

/* The name of such a user is word:…, and names with this word belong to no other line. What the user is
 * follows from the line and the name alone. */
bool rule_is_maker(
    const rule *); /* a `pattern` line that makes users; others name one, as `bind` does */
bool rule_makes(const rule *pattern, span user); /* may this name be one of the line's? */
/* The ACL rules of a user that the line makes, one by one; `at` starts at 0. False at the end, and at
 * once for a user that it does not make. `token` is borrowed from the rule or in `out`. */
bool rule_acl_made(const rule *pattern, span user, size_t *at, uint8_t out[MADE_RULE_BYTES],
                   span *token);
/* A user that the line could make, to try its ACL rules on. Returns the length of the name. */
size_t rule_sample(const rule *pattern, uint8_t out[USER_BYTES]);

/* ---- policy.c: a set of lines -------------------------------------------------------------- */

/* Order-free digest of a set of lines: how many, and the sum of their SHA-256 mod 2^256. It finds
 * drift; it is no security boundary. */
typedef struct {
    uint64_t lines;
    uint8_t sum[HASH_BYTES];
} digest;
enum { DIGEST_TEXT = 96 };
void digest_print(const digest *, char out[DIGEST_TEXT]); /* "<lines>:<64 hex digits>" */

policy *policy_new(void);
void policy_free(policy *);
digest policy_digest(const policy *);
/* The value; of `max-lifetime` seconds, of `min-key-bits` bits, of lists of OIDs 1; 0: not set. */
int policy_setting(const policy *, setting);
size_t policy_rules(const policy *);                   /* how many, notes (`was`) included */
const rule *policy_rule(const policy *, size_t index); /* in no order that lasts over a commit */
size_t policy_authorities(const policy *);             /* how many `ca` and `anchor` lines */
X509 *policy_authority(const policy *, size_t index);
const rule *policy_user(const policy *, line_type, span name); /* `user` or `was` line, or NULL */
/* A `pattern` line that makes this user, or NULL. Where there are several, they give it the same rules. */
const rule *policy_pattern_of(const policy *, span user);
bool policy_owns_word(const policy *,
                      span user); /* does its name start with the word of a pattern? */

/* A change being made: lines are parsed as they are added, all problems are kept, nothing happens
 * to the policy before policy_commit. */
typedef struct patch patch;
typedef enum {
    FROM_WIRE,
    FROM_BOOTSTRAP,
    FROM_JOURNAL
} patch_source; /* says which types may come */
patch *patch_new(const policy *base, patch_source);
void patch_free(patch *);
void patch_expect(patch *, size_t lines); /* makes room for so many to be added, at once */
/* A line that the policy will hold, or holds now and will not. `number` is the line's, for
 * problems: from 1, 0 for a line that nobody sent but the node itself (`was`). */
void patch_add(patch *, span line, size_t number);
void patch_remove(patch *, span line, size_t number);
/* Ends the change. `whole`: the lines added are the whole policy, every other one goes (LOAD).
 * True without problems. */
bool patch_finish(patch *, bool whole);
void patch_problem(patch *, size_t number, const char *text); /* from outside: the server's ACL */
size_t patch_problems(const patch *);                         /* how many; the first 32 are kept */
const char *patch_problem_text(const patch *, size_t index, size_t *number);
size_t patch_count(const patch *, bool added);
const rule *patch_rule(const patch *, bool added, size_t index, size_t *number);
/* Also after the commit, until patch_free: */
bool patch_has(const patch *, bool added, const rule *);
const rule *patch_removed(const patch *, line_type,
                          span name);                        /* the `user` or `was` line, or NULL */
bool patch_owns_word(const patch *, span user);              /* policy_owns_word after the commit */
digest patch_digest(const patch *);                          /* of the policy after the commit */
int patch_setting(const patch *, setting);                   /* its value after the commit */
const rule *patch_user(const patch *, line_type, span name); /* policy_user after the commit */

bool patch_changes_trust(const patch *); /* does it bring or take `ca`, `anchor` or `pin` lines? */
bool patch_is_large(const patch *); /* too large to be freed by a thread that others wait for */

/* Does beforehand what would make the commit of a large change long: in any thread, after
 * patch_finish, while nobody commits to the base. May be left out. */
void patch_prepare(patch *);

/* Makes the change, in one step that cannot fail. `base` is the one of patch_new. The patch then holds
 * what the policy held before and does not any more, until patch_free. */
void policy_commit(policy *base, patch *);

/* ---- The decision -------------------------------------------------------------------------- */

typedef enum { USER_UNKNOWN, USER_MISSING, USER_OFF, USER_ON } user_state;

/* Explanations only: what a new connection's handshake says. Unsaid where one has been made; WITHOUT: the
 * certificate is not shown in it, so that the client is one without. */
typedef enum {
    HANDSHAKE_UNSAID,
    HANDSHAKE_NOT_ASKED,
    HANDSHAKE_WITHOUT,
    HANDSHAKE_ASKED
} handshake_state;
typedef struct {
    handshake_state state;
    reason refused; /* why it refuses the client; REASON_UNDECIDED: it does not */
    int level;      /* ASKED: its security level */
    char text[160]; /* NUL ended: why it refuses, was not asked, or sees no certificate */
} handshake;

typedef struct {
    identity *leaf; /* NULL: the connection has no certificate */
    handshake tls;
    const path *issuers; /* with a leaf */
    int64_t now;         /* seconds since 1970 */
    span address;        /* of the client: 4 or 16 bytes; empty: unknown */
    int tls_version;     /* of the connection, as SSL_version(3) has it; 0: not known */
    bool
        recalled; /* the leaf is of an inventory, which keeps neither its usages, policies and key nor,
                             * maybe, its times: what is not known of it is not judged */
    bool no_journal; /* the policy could not be read: only `bootstrap` counts */
    bool no_policy;  /* there never was one */
    bool managed;    /* a control plane writes the policy: what is changed by hand comes back */
    const patch *pending; /* decide as if this had been committed; or NULL */
    /* Asks the server about a user; NULL where there is no server, then `user` lines answer. */
    user_state (*ask)(span user, void *data);
    void *data;
} request;

typedef struct {
    action act;
    reason why;
    bool shadow; /* `set enforce shadow`: for the record only, nobody is to be changed */
    bool exempt; /* a node's peer, or the bootstrap file's: no demand concerns it */
    const rule
        *line;   /* the `bind` or `pattern` line that decided, or NULL; borrowed from the policy */
    span detail; /* one more clause for a person, or empty; borrowed from the leaf, or static */
    int64_t until;     /* LOGIN, CHOOSE: when the first certificate of the path ends */
    uint32_t session;  /* the shortest session= of the lines matched, seconds; 0 without */
    uint32_t compared; /* `pattern` lines that were compared with the leaf */
    uint16_t made_len; /* the user that a `pattern` line made */
    uint8_t made[USER_BYTES];
} decision;

/* The users of the line that decided: the `bind` line's, or at 0 the one that was made. Empty past the
 * last, and without a line. A made name is borrowed from the decision. */
span decision_user(const decision *, size_t index);

/* `bootstrap` lines (may be NULL) are tried first: always in force, exempt from the gate, still
 * subject to validity and to the policy's `revoke` lines. */
decision policy_decide(const policy *, const policy *bootstrap, const request *);

/* Tells the decision to a person: one line a step, '\n' between them, each with the line of the policy
 * behind it; what to change last. Where no line binds the certificate, the nearest is told, and by what
 * it failed: `most` lines are looked at, those that an index finds first. Writes at most `room` bytes, not NUL ended, whole lines only;
 * returns how many. */
size_t decision_explain(const policy *, const request *, const decision *, size_t most, char *out,
                        size_t room);

/* ---- journal.c: the policy on disk --------------------------------------------------------- */

/* The head of a record, and of the policy after it. `owner` is NUL ended text. */
typedef struct {
    uint64_t generation, epoch;
    char owner[128];
} stamp;

typedef struct journal journal;

/* Opens (creating it, mode 0600) and locks the journal in an existing directory, and replays it
 * into `into`, which is empty. NULL with `why` where that cannot be done, or another process holds
 * it. A damaged journal is opened with `into` left empty, and journal_damage says what is wrong:
 * it takes no more records. */
journal *journal_open(const char *directory, policy *into, stamp *last, fault *why);
void journal_close(journal *);
const char *journal_damage(const journal *); /* NULL: sound */
const char *journal_notice(const journal *); /* for the log, e.g. a torn tail dropped; or NULL */
bool journal_empty(const journal *);         /* no record yet: a first install */

/* Is the journal still on the disk, and could it be written to and opened again? What was lost is
 * written again from `in_force`, the policy that the journal holds, and journal_notice says so; a
 * stranger's file in its way becomes `policy.found`. False with what is wrong. Called as journal_append
 * is, of which it is a part. */
bool journal_look(journal *, const policy *in_force, fault *why);

/* Puts the change on disk and returns when it is there (fsync). One call at a time, off the main
 * thread: it reads `base`, which nobody may commit to meanwhile. Rewrites the file once that is
 * shorter. False with the system's reason in `why`; the journal then holds what it held. */
bool journal_append(journal *, const policy *base, const patch *, const stamp *, fault *why);
