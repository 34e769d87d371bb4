/* What the module has beside the core: the server's TLS connections, and its trust store. No part of
 * Redis's API is known in tls.c and trust.c either. */
#ifndef CERTAUTH_NODE_H
#define CERTAUTH_NODE_H

#include "internal.h"

/* ---- tls.c: the client's SSL object ---- */

/* An IP address as 4 or 16 bytes; an IPv4 address mapped into IPv6 counts as IPv4. */
typedef struct { uint8_t bytes[16]; size_t len; } ip;
bool ip_parse(const char *text, ip *out);
struct ssl_st; /* libssl's SSL */

/* What a handshake left. `chain` is the leaf and, after a full handshake, the verified path above it;
 * empty without a certificate. Borrowed: valid as long as the connection. `socket`: -1 where it is not
 * known. */
typedef struct { X509 *chain[PATH_LENGTH + 1]; size_t count; void *ssl; int socket; } peer;

/* Has libcrypto tell of every SSL object made and freed from now on. False where it cannot. */
bool tls_watch(void);

/* The peer of the connection that has just finished its handshake with this address and port. False
 * where not exactly one SSL object can be the one: the caller must then ask the server. */
bool tls_claim(const ip *address, uint16_t port, peer *out);

/* From now on nothing that this peer has sent is read, in whichever thread: SSL_read(3) returns 0
 * before it looks at a byte. Does nothing where the SSL object is not known. */
void tls_silence(const peer *);

/* ---- handshake.c: what a new connection's handshake would say ---- */

/* Has libcrypto tell of every SSL_CTX made and freed from now on. On the main thread, once. */
bool handshake_watch(void);
/* A client's SSL object: its context is the server's. On the main thread. */
void handshake_seen(struct ssl_st *);

/* Verifies what a client would present as the server's own context does now: its trust store, security
 * level, purpose and clock. Returns the answer; `issuers` is the path that it verified, untouched where it
 * was not asked or refuses. On the main thread, and not from within a handshake. */
handshake handshake_ask(X509 *leaf, X509 *const *extra, size_t count, path *issuers);

/* ---- trust.c: the directory behind tls-ca-cert-dir ---- */

/* Makes `directory` hold the `ca` and `anchor` certificates of both policies (either may be NULL)
 * under their hash names; with `only`, nothing else of its kind. `changed` is set where a file came or
 * went. With `goes_on`, it stops as soon as that says so, and `more` tells that it has to be called again:
 * what was done is not done twice. Main thread only. */
typedef struct { bool only, changed, more; bool (*goes_on)(const void *); const void *clock; } trust_work;
bool trust_write(const char *directory, const policy *, const policy *bootstrap, trust_work *, fault *why);

#endif
