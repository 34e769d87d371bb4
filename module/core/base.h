/* Bytes, faults and bounds. A part of core.h. */

/* Bytes that somebody else owns. Certificate bytes are never C strings: a NUL is a byte like any
 * other, and a name that holds one is refused rather than cut. */
typedef struct {
    const uint8_t *ptr;
    size_t len;
} span;

/* What a control plane and a node say to each other: its number goes up with each line, option or field
 * that the other one has to know. Each speaks with the number before its own. docs/servers.md has the
 * table. */
enum { PROTOCOL = 2 };

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
    OCSP_BYTES = 256,    /* the URL of an OCSP responder, with a byte behind it */
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
