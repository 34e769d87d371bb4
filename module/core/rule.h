/* One policy line (line.c), and the users that a `pattern` line makes (pattern.c). A part of core.h. */

typedef enum {
    LINE_SET,
    LINE_CA,
    LINE_ANCHOR,
    LINE_PIN,
    LINE_ALLOW,
    LINE_BIND,
    LINE_PATTERN,
    LINE_REVOKE,
    LINE_LOCK,
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

/* ---- Users that are made from certificates ---- */

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
