/* What the module has beside the core: the server's TLS connections, and its trust store. No part of
 * Redis's API is known in tls.c, doors.c and trust.c either. */
#ifndef CERTAUTH_TLS_H
#define CERTAUTH_TLS_H

#include <limits.h>

#include "../core/internal.h"

/* ---- tls.c: the client's SSL object ---- */

/* An IP address as 4 or 16 bytes; an IPv4 address mapped into IPv6 counts as IPv4. */
typedef struct {
    uint8_t bytes[16];
    size_t len;
} ip;
bool ip_parse(const char *text, ip *out);
struct ssl_st; /* libssl's SSL */
struct sockaddr_storage;
bool ip_of_socket(const struct sockaddr_storage *, ip *, uint16_t *port);

/* What a handshake left. `chain` is the leaf and, after a full handshake, the verified path above it;
 * empty without a certificate. Borrowed: valid as long as the connection. `socket`: -1 where it is not
 * known. `version`: as SSL_version(3) has it, 0 where it is not known. */
typedef struct {
    X509 *chain[PATH_LENGTH + 1];
    size_t count;
    void *ssl;
    int socket, version;
} peer;

/* Has libcrypto tell of every SSL object that is made on this thread and freed from now on. False where it
 * cannot. `is_new` is called behind each that is made, which nobody has been given yet. */
bool tls_watch(void (*is_new)(void));

/* The peer of the connection that has just finished its handshake with this address and port. False
 * where not exactly one SSL object can be the one: the caller must then ask the server. */
bool tls_claim(const ip *address, uint16_t port, peer *out);

/* How many SSL objects are nobody's: handshakes under way, links of the cluster bus. */
size_t tls_unclaimed(void);

/* Ends each handshake of a client, or of the cluster bus, that is not finished though it has been seen by
 * more than so many calls. It is not for the clock to say how old one is: where the main thread was held,
 * none could go on. Main thread only. */
void tls_end_unfinished(unsigned looks);

/* Ends so many handshakes of clients, less those that are ending: those from addresses that are spared
 * last; of each, first those whose peer has not said a whole hello, the oldest first. Main thread only. */
void tls_make_room(size_t count);

/* An administrator has come from there; the last few such addresses count. Main thread only. */
void tls_spare(const ip *address);

/* From now on nothing that this peer has sent is read, in whichever thread: SSL_read(3) returns 0
 * before it looks at a byte. Does nothing where the SSL object is not known. */
void tls_silence(const peer *);

/* Sends a few bytes to a peer whose handshake has ended and to which nothing was sent yet. What does not go
 * out at once does not go at all. */
void tls_tell(const peer *, const char *text, size_t len);

/* Calls `take` for each SSL object whose handshake has ended and that is not a client's. */
void tls_each(void (*take)(struct ssl_st *));

/* ---- doors.c: who comes in, before it is a client ---- */

/* The clients' door; the cluster bus, as others come to it; and whatever this server connects to: the
 * bus of others, its master, a target of MIGRATE. */
typedef enum { DOOR_CLIENT, DOOR_BUS, DOOR_LINK } door;

/* As the server alone would have it; only looking; only nodes that are known. */
typedef enum { DOORS_OPEN, DOORS_WATCHED, DOORS_GUARDED } doors_mode;

/* To be called for each SSL object that is made. */
void doors_watch(struct ssl_st *);
/* Is it at the clients' door? Asks the socket where there is a cluster bus. */
bool doors_is_client(const struct ssl_st *);
/* Does libcrypto ask us about handshakes? Makes an SSL object to see. */
bool doors_can_guard(void);
bool doors_asked(void); /* It has, of one of the server's. */

/* Around each change of a policy, and of the mode: both policies are looked into by handshakes, in other
 * threads too. Borrowed until the next call. */
void doors_lock(void);
void doors_unlock(const policy *, const policy *bootstrap, doors_mode);

/* What tells the doors apart: does this server have a cluster bus, and at which ports are clients? A port
 * that was the clients' once stays theirs. */
void doors_cluster(bool);
void doors_client_port(uint16_t);
/* The PEM file of the certificate that this server shows where it accepts, or where it `connects`: its own
 * key counts as known. Later ones are seen in handshakes. */
void doors_own(bool connects, const char *file);

/* What a node with this policy would say of the certificate that this one showed it: its own present key
 * counts as known. */
reason doors_would_say(X509 *leaf);
/* The key that this server shows where it accepts, or where it `connects`; false: none was seen yet. And
 * does a line know the first? */
bool doors_own_key(bool connects, uint8_t out[HASH_BYTES]);
bool doors_own_is_bound(void);

/* Cuts the links whose other end is not, or no longer, a known node. On the main thread. */
void doors_sweep(void);

/* At the clients' door, a handshake takes what the policy trusts beside roots, where trust is managed: the
 * certificates of its `pin` lines, and its `ca` lines below a root that is not known. */
void doors_take(bool managed);
bool doors_takes(void);
/* A verify callback of libcrypto's that does so: what it says of an error, or of none. What is pinned keeps
 * its error (X509_STORE_CTX_get_error(3)): nobody vouches for the path above it. */
struct x509_store_ctx_st;
int doors_verify(int good, struct x509_store_ctx_st *);

doors_mode doors_now(void);
uint64_t doors_refused(void); /* how many since the start */
/* How many handshakes of clients have failed for this reason since the start; REASON_UNDECIDED: those that
 * ended before a certificate was shown or refused, as scanners' do. */
uint64_t doors_failed(reason);

/* What happened at a door. The certificates are the caller's to free; NULL: none, or not known. */
typedef enum { DOOR_REFUSED, DOOR_WOULD_REFUSE, DOOR_JOINED, DOOR_HANDSHAKE } door_event;
enum { DOOR_DETAIL = 128 };
typedef struct {
    door at;
    door_event event;
    reason why;
    ip address; /* of the other end */
    uint16_t port;
    X509 *leaf, *issuer;
    char detail[DOOR_DETAIL]; /* of a handshake: what libcrypto says */
} door_note;
bool doors_next(door_note *); /* False where there is none. */

/* ---- handshake.c: what a new connection's handshake would say ---- */

/* Has libcrypto tell of every SSL_CTX made and freed from now on. On the main thread, once. */
bool handshake_watch(void);

/* Is our libssl what the server's program itself is linked with? False also where that is not
 * known, as with TLS in a module. */
bool handshake_is_servers(void);

/* How many contexts have been made that libcrypto has told of. */
uint64_t handshake_contexts(void);
/* A client's SSL object: its context is the server's. On the main thread. */
void handshake_seen(struct ssl_st *);

/* Verifies what a client would present as the server's own context does now: its trust store, security
 * level, purpose and clock. Returns the answer; `issuers` is the path that it verified, if any, untouched
 * where it was not asked or refuses. On the main thread, and not from within a handshake. */
handshake handshake_ask(X509 *leaf, X509 *const *extra, size_t count, path *issuers);
/* policy_rootless in the trust store that the server has now; none where that is not known. */
size_t handshake_rootless(const policy *, X509 **first);

/* ---- shown.c: the certificates that this server shows, in their files ---- */

/* As the server's settings say, where it accepts and where it connects; "": not set. */
typedef struct {
    char certificate[PATH_MAX], key[PATH_MAX], password[256];
} shown_pair;
typedef struct {
    shown_pair pairs[2];
} shown_files;
/* What tells a file from its predecessor; zeros: none. */
typedef struct {
    uint64_t number, size;
    int64_t seconds, nanoseconds;
} file_state;
typedef struct {
    file_state files[4];
} shown_state;

/* All of these in any thread. */
void shown_stat(const shown_files *, shown_state *out);
bool shown_same(const shown_state *, const shown_state *);
/* The certificates of both pairs, to be freed; the second is NULL where there is no such pair. False where
 * one cannot be shown: a key that is not the certificate's, one that has ended. */
bool shown_read(const shown_files *, X509 *leaves[2], fault *why);

/* ---- trust.c: the directory behind tls-ca-cert-dir ---- */

/* Makes `directory` hold the `ca` and `anchor` certificates of both policies (either may be NULL)
 * under their hash names; with `only`, nothing else of its kind. `changed` is set where a file came or
 * went; `stale` where libcrypto, which keeps what it has read, would not find that by itself. In any
 * thread, one at a time. */
typedef struct {
    bool only, changed, stale;
} trust_work;
bool trust_write(const char *directory, const policy *, const policy *bootstrap, trust_work *,
                 fault *why);

/* Does it hold certificates of the policy that the bootstrap file has not as well? */
bool trust_holds(const char *directory, const policy *, const policy *bootstrap);

/* ---- memory.c ---- */

/* Bytes that this process could still take: of its RLIMIT_AS, of its control groups, of the machine's
 * MemAvailable. UINT64_MAX where nothing limits it. Reads files of /proc and /sys: for a thread. */
uint64_t memory_left(void);

#endif
