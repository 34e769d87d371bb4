/* From an X509 to an identity (cert.c). A part of core.h. */

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
    span ocsp;       /* URL of the first OCSP responder that it names, for whom a CA is asked */
    span serial;     /* big-endian, no leading zeros */
    int64_t not_before, not_after; /* seconds since 1970 */
    bool client; /* usable by a TLS client: key usage, extended key usage, not a CA */
    bool fits;   /* the same, for a CA or not */
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
                  OCSP_BYTES + DETAIL_BYTES];
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
