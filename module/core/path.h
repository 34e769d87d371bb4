/* Which CAs vouch for a leaf (issuer.c, peer.c, signature.c). A part of core.h. */

/* The signature of a certificate: the only bytes of it that nobody has signed, so anyone who holds the
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
