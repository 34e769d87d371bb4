/* The decision (decide.c) and its explanation (explain.c). A part of core.h. */

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
        *line; /* the `bind` or `pattern` line that decided, or NULL; borrowed from the policy */
    const rule *lock; /* LOCKED: the `lock` line; borrowed from the policy */
    span detail;   /* one more clause for a person, or empty; borrowed from the leaf, or static */
    int64_t until; /* LOGIN, CHOOSE: when the first certificate of the path ends */
    uint32_t session;  /* the shortest session= of the lines matched, seconds; 0 without */
    uint32_t compared; /* `pattern` lines that were compared with the leaf */
    uint16_t made_len; /* the user that a `pattern` line made */
    uint8_t made[USER_BYTES];
} decision;

/* The users of the line that decided: the `bind` line's, or at 0 the user that was made. Empty past the
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
