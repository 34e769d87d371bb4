/* Reasons and actions: the answers of the core. A part of core.h. */

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
    REASON_LOCKED,            /* a `lock` line is for its user, names, CA or address */
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
