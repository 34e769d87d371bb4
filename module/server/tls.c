/* The SSL object of a client, found without the server's help: the module API gives the leaf as PEM
 * and no chain, leaks it on most servers, and costs a second parse (docs/decisions.md). Server and
 * module share one libssl, so an ex_data index of ours sees every SSL object made and freed. */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <stdlib.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

/* An SSL object that no client was found for yet: a handshake under way, a link of the cluster bus,
 * a connection that this server made. In a ring, which IO threads change too. */
typedef struct watched {
    struct watched *before, *behind;
    SSL *ssl;
    bool resolved;  /* `address` and `port` were looked up */
    bool ended;     /* its socket is shut: the server frees it when it has heard */
    unsigned looks; /* of tls_end_unfinished */
    ip address;
    uint16_t port;
} watched;

static watched ring = {.before = &ring, .behind = &ring};
static size_t unclaimed;
static void (*tell_of_new)(void);
static pthread_t main_thread;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int ex_index = -1;

/* ---- Addresses ---- */

static void ip_from(ip *out, const uint8_t *bytes, size_t len) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    bool is_mapped = len == 16 && memcmp(bytes, mapped, sizeof mapped) == 0;
    out->len = is_mapped ? 4 : len;
    memcpy(out->bytes, is_mapped ? bytes + 12 : bytes, out->len);
}

bool ip_parse(const char *text, ip *out) {
    uint8_t bytes[16];
    size_t len = inet_pton(AF_INET, text, bytes) == 1    ? 4
                 : inet_pton(AF_INET6, text, bytes) == 1 ? 16
                                                         : 0;
    ip_from(out, bytes, len);
    return len > 0;
}

bool ip_of_socket(const struct sockaddr_storage *name, ip *address, uint16_t *port) {
    address->len = 0;
    *port = 0;
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)name;
        ip_from(address, (const uint8_t *)&v4->sin_addr, 4);
        *port = ntohs(v4->sin_port);
    } else if (name->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)name;
        ip_from(address, (const uint8_t *)&v6->sin6_addr, 16);
        *port = ntohs(v6->sin6_port);
    }
    return address->len > 0;
}

static void resolve(watched *w) {
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    w->resolved = true;
    w->address.len = 0;
    if (getpeername(SSL_get_fd(w->ssl), (struct sockaddr *)&name, &len) != 0) return;
    ip_of_socket(&name, &w->address, &w->port);
}

/* ---- Watching ---- */

static void unlink_watched(watched *w) {
    w->before->behind = w->behind;
    w->behind->before = w->before;
    unclaimed--;
}

static void on_new(void *ssl, void *none, CRYPTO_EX_DATA *data, int index, long argl, void *argp) {
    (void)none, (void)argl, (void)argp;
    doors_watch(ssl);
    /* The server makes its own on the main thread. Others are another module's: they take none of the
     * server's connections, are not ours to end, and in their threads nothing of ours may be looked at. */
    if (!pthread_equal(pthread_self(), main_thread)) return;
    watched *w = calloc(1, sizeof *w);
    if (w == NULL) return; /* this client's certificate comes from the server then */
    w->ssl = ssl;
    CRYPTO_set_ex_data(data, index, w);
    pthread_mutex_lock(&lock);
    w->before = ring.before;
    w->behind = &ring;
    w->before->behind = ring.before = w;
    unclaimed++;
    pthread_mutex_unlock(&lock);
    if (tell_of_new) tell_of_new();
}

static void on_free(void *ssl, void *entry, CRYPTO_EX_DATA *data, int index, long argl,
                    void *argp) {
    (void)ssl, (void)data, (void)index, (void)argl, (void)argp;
    if (entry == NULL) return;
    pthread_mutex_lock(&lock);
    unlink_watched(entry);
    pthread_mutex_unlock(&lock);
    free(entry);
}

bool tls_watch(void (*is_new)(void)) {
    tell_of_new = is_new;
    main_thread = pthread_self();
    ex_index = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, NULL, on_new, NULL, on_free);
    return ex_index >= 0;
}

/* Only finished handshakes of ours are looked at closely: an IO thread may be at work on the rest. SSL
 * objects are freed on the main thread (connTLSClose, Redis 7.0 to 8.6 and Valkey 8.1 to 9.1), which
 * is where we are, so none of them goes away under this. */
static bool is_candidate(watched *w, const ip *address, uint16_t port) {
    if (!SSL_is_server(w->ssl) || !SSL_is_init_finished(w->ssl)) return false;
    if (!w->resolved) resolve(w);
    /* A peer that has gone has no address, for the server and here alike. */
    return w->port == port && w->address.len == address->len &&
           memcmp(w->address.bytes, address->bytes, address->len) == 0;
}

/* The one candidate, out of the ring; NULL for none, and for two: peers behind one NAT may share an
 * address and port as seen from two of our own addresses. */
static SSL *take_only(const ip *address, uint16_t port) {
    watched *found = NULL;
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (watched *w = ring.behind; w != &ring; w = w->behind) {
        if (is_candidate(w, address, port) && ++count) found = w;
    }
    SSL *ssl = count == 1 ? found->ssl : NULL;
    if (ssl) unlink_watched(found);
    pthread_mutex_unlock(&lock);
    if (ssl == NULL) return NULL;
    SSL_set_ex_data(ssl, ex_index, NULL);
    free(found);
    return ssl;
}

bool tls_claim(const ip *address, uint16_t port, peer *out) {
    SSL *ssl = take_only(address, port);
    if (ssl == NULL) return false;
    handshake_seen(ssl);
    out->count = 0;
    out->ssl = ssl;
    out->socket = SSL_get_fd(ssl);
    out->version = SSL_version(ssl);
    X509 *leaf = SSL_get0_peer_certificate(ssl);
    if (leaf == NULL) return true;
    out->chain[out->count++] = leaf;
    const STACK_OF(X509) *verified = SSL_get0_verified_chain(ssl); /* NULL on a resumed session */
    int count = verified && SSL_get_verify_result(ssl) == X509_V_OK ? sk_X509_num(verified) : 0;
    if (count > PATH_LENGTH + 1) return true; /* as good as none: no path, no trusted issuer */
    for (int i = 1; i < count; i++) out->chain[out->count++] = sk_X509_value(verified, i);
    return true;
}

void tls_each(void (*take)(SSL *)) {
    pthread_mutex_lock(&lock);
    for (watched *w = ring.behind; w != &ring; w = w->behind) {
        if (SSL_is_init_finished(w->ssl)) take(w->ssl);
    }
    pthread_mutex_unlock(&lock);
}

size_t tls_unclaimed(void) {
    pthread_mutex_lock(&lock);
    size_t count = unclaimed;
    pthread_mutex_unlock(&lock);
    return count;
}

/* A handshake that somebody else began, and that may go on. A connection of ours that is not through yet
 * looks like one (libssl takes it for a server's until SSL_connect), but has no peer; what was made just
 * now has no socket yet, and its peer is to be looked up later. */
static bool is_under_way(watched *w) {
    if (w->ended || !SSL_is_server(w->ssl) || SSL_is_init_finished(w->ssl)) return false;
    if (!w->resolved && SSL_get_fd(w->ssl) < 0) return false;
    if (!w->resolved) resolve(w);
    return w->address.len > 0;
}

/* Nothing but the socket is touched: an IO thread may be in the handshake. The socket is there as long as
 * the SSL object, which is freed first, and on this thread (see is_candidate). */
static void end_handshake(watched *w) {
    w->ended = true;
    shutdown(SSL_get_fd(w->ssl), SHUT_RDWR);
}

void tls_end_unfinished(unsigned looks) {
    pthread_mutex_lock(&lock);
    for (watched *w = ring.behind; w != &ring; w = w->behind) {
        if (is_under_way(w) && ++w->looks > looks) end_handshake(w);
    }
    pthread_mutex_unlock(&lock);
}

/* Where administrators have come from, the last ones: a flood from elsewhere does not end their
 * handshakes. Main thread only. */
enum { ADDRESSES = 32 };
static ip spared[ADDRESSES];

static bool is_spared(const ip *address) {
    for (size_t i = 0; i < ADDRESSES; i++) {
        if (spared[i].len == address->len && !memcmp(spared[i].bytes, address->bytes, address->len))
            return true;
    }
    return false;
}

void tls_spare(const ip *address) {
    static size_t next;
    if (address->len == 0 || is_spared(address)) return;
    spared[next] = *address;
    next = (next + 1) % ADDRESSES;
}

/* The oldest first; none at the cluster bus, which takes no connection of a client. Returns how many are
 * still to be ended. */
static size_t end_oldest(size_t count, bool silent, bool known) {
    for (watched *w = ring.behind; w != &ring && count; w = w->behind) {
        bool said = SSL_get_state(w->ssl) != TLS_ST_BEFORE;
        if ((silent && said) || !is_under_way(w) || is_spared(&w->address) != known) continue;
        if (!doors_is_client(w->ssl)) continue;
        end_handshake(w);
        count--;
    }
    return count;
}

void tls_make_room(size_t count) {
    pthread_mutex_lock(&lock);
    for (watched *w = ring.behind; w != &ring && count; w = w->behind) count -= w->ended;
    for (int i = 0; i < 4 && count; i++) count = end_oldest(count, i % 2 == 0, i >= 2);
    pthread_mutex_unlock(&lock);
}

void tls_tell(const peer *p, const char *text, size_t len) {
    if (p->ssl == NULL || !SSL_is_init_finished(p->ssl)) return;
    ERR_set_mark();
    SSL_write(p->ssl, text, (int)len);
    ERR_pop_to_mark();
}

void tls_silence(const peer *p) {
    if (p->ssl) SSL_set_shutdown(p->ssl, SSL_RECEIVED_SHUTDOWN);
}
