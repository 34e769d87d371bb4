/* What the module has beside the core: the server's TLS connections, and its trust store. No part of
 * Redis's API is known in tls.c and trust.c either. */
#ifndef CERTAUTH_NODE_H
#define CERTAUTH_NODE_H

#include "internal.h"

/* ---- tls.c: the client's SSL object ---- */

/* An IP address as 4 or 16 bytes; an IPv4 address mapped into IPv6 counts as IPv4. */
typedef struct { uint8_t bytes[16]; size_t len; } ip;
bool ip_parse(const char *text, ip *out);

/* What a handshake left. `chain` is the leaf and, after a full handshake, the verified path above it;
 * empty without a certificate. Borrowed: valid as long as the connection. `socket`: -1 where it is not
 * known. */
typedef struct { X509 *chain[PATH_LENGTH + 1]; size_t count; void *ssl; int socket; } peer;

/* Has libcrypto tell of every SSL object made and freed from now on. False where it cannot. */
bool tls_watch(void);

/* The peer of the connection that has just finished its handshake with this address and port. False
 * where not exactly one SSL object can be the one: the caller must then ask the server. */
bool tls_claim(const ip *address, uint16_t port, peer *out);

/* How many SSL objects are nobody's: handshakes under way, links of the cluster bus. */
size_t tls_unclaimed(void);

/* Ends each handshake of a client, or of the cluster bus, that is not finished though it has been seen by
 * more than so many calls. It is not for the clock to say how old one is: where the main thread was held,
 * none could go on. Main thread only. */
void tls_end_unfinished(unsigned looks);

/* From now on nothing that this peer has sent is read, in whichever thread: SSL_read(3) returns 0
 * before it looks at a byte. Does nothing where the SSL object is not known. */
void tls_silence(const peer *);

/* ---- trust.c: the directory behind tls-ca-cert-dir ---- */

/* Makes `directory` hold the `ca` and `anchor` certificates of both policies (either may be NULL)
 * under their hash names; with `only`, nothing else of its kind. `changed` is set where a file came or
 * went. With `goes_on`, it stops as soon as that says so, and `more` tells that it has to be called again:
 * what was done is not done twice. Main thread only. */
typedef struct { bool only, changed, more; bool (*goes_on)(const void *); const void *clock; } trust_work;
bool trust_write(const char *directory, const policy *, const policy *bootstrap, trust_work *, fault *why);

/* ---- memory.c ---- */

/* Bytes that this process could still take: of its RLIMIT_AS, of its control groups (version 2), of the
 * machine's MemAvailable. UINT64_MAX where nothing limits it. Reads files of /proc and /sys: for a thread. */
uint64_t memory_left(void);

#endif
