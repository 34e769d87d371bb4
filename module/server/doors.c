/* The doors of a server. Clients have one, where the server decides and we learn why it refuses. The
 * others are the cluster bus, the link to its master, whatever it connects to by itself. They share one
 * trust store with the clients' door, so the handshake alone lets in anyone who has a certificate of any CA
 * in there. Here the key at the other end has to be a node's.
 *
 * libcrypto's info callback tells of each handshake that begins, before a byte of it was read; a
 * verify callback then decides, behind libcrypto's own verification. Both may run in IO threads
 * (Valkey 8.1 and later, for clients). */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include <pthread.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

/* ---- What is known ---- */

/* The policy is read under it, and committed to. */
static pthread_rwlock_t rules = PTHREAD_RWLOCK_INITIALIZER;
static const policy *lines, *fixed;
static _Atomic int mode = DOORS_OPEN;

/* Ports that have been the clients' once: each other port of a cluster node is its bus. A bit a
 * port. */
static _Atomic uint8_t client_ports[UINT16_MAX / 8 + 1];
static atomic_bool in_cluster;

/* The server's own certificates, as it accepts and as it connects, and their keys, under `rules`
 * as well. Many clusters have one for all. */
static X509 *_Atomic own[2];
static uint8_t own_keys[2][HASH_BYTES];

void doors_lock(void) { pthread_rwlock_wrlock(&rules); }
void doors_unlock(const policy *p, const policy *bootstrap, doors_mode how) {
    lines = p;
    fixed = bootstrap;
    mode = how;
    pthread_rwlock_unlock(&rules);
}

doors_mode doors_now(void) { return (doors_mode)mode; }

void doors_client_port(uint16_t port) { client_ports[port / 8] |= (uint8_t)(1 << port % 8); }
void doors_cluster(bool yes) { in_cluster = yes; }

/* Another than a moment ago: the server has read its files again. */
static void own_is(bool connects, X509 *certificate) {
    if (certificate == NULL || own[connects] == certificate) return;
    pthread_rwlock_wrlock(&rules);
    if (own[connects] != certificate && X509_up_ref(certificate) == 1) {
        X509_free(own[connects]);
        own[connects] = certificate;
        if (!certificate_key(certificate, own_keys[connects]))
            memset(own_keys[connects], 0, HASH_BYTES);
    }
    pthread_rwlock_unlock(&rules);
}

void doors_own(bool connects, const char *file) {
    FILE *stream = fopen(file, "re");
    X509 *certificate = stream ? PEM_read_X509(stream, NULL, NULL, NULL) : NULL;
    own_is(connects, certificate);
    X509_free(certificate);
    if (stream) fclose(stream);
    ERR_clear_error();
}

/* ---- Which door ---- */

/* The end of the connection that is ours (`getsockname`) or the other one. False where it has
 * gone. */
static bool end_of(const SSL *ssl, int (*which)(int, struct sockaddr *, socklen_t *), ip *address,
                   uint16_t *port) {
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    return which(SSL_get_fd(ssl), (struct sockaddr *)&name, &len) == 0 &&
           ip_of_socket(&name, address, port);
}

static door door_of(const SSL *ssl) {
    ip address;
    uint16_t port;
    if (!SSL_is_server(ssl)) return DOOR_LINK;
    if (!in_cluster) return DOOR_CLIENT;
    bool known = end_of(ssl, getsockname, &address, &port);
    return known && client_ports[port / 8] & 1 << port % 8 ? DOOR_CLIENT : DOOR_BUS;
}

bool doors_is_client(const SSL *ssl) { return door_of(ssl) == DOOR_CLIENT; }

/* ---- What is to be told ---- */

/* A stranger who comes a thousand times a second is told of once a minute, and counted each time.
 * In sets, so that two that share a place do not make each other news again. */
enum { NOTES = 64, SETS = 128, WAYS = 8, SECONDS = 60, STRANGERS = 32 };
static pthread_mutex_t notes_lock = PTHREAD_MUTEX_INITIALIZER;
static door_note notes[NOTES];
static size_t first_note, note_count;
typedef struct {
    uint8_t what[KEY_BYTES];
    int64_t until;
} telling;
static telling told[SETS][WAYS];
static _Atomic uint64_t refused;

uint64_t doors_refused(void) { return refused; }

static int64_t now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* Was it told, and is that so lately that it need not be again? What is over soonest makes room. */
static bool was_told(const uint8_t what[KEY_BYTES], int64_t until) {
    telling *set = told[get_u16(what) % SETS], *oldest = set;
    for (telling *one = set; one < set + WAYS; one++) {
        if (memcmp(one->what, what, KEY_BYTES) == 0 && now_seconds() < one->until) return true;
        if (one->until < oldest->until) oldest = one;
    }
    memcpy(oldest->what, what, KEY_BYTES);
    oldest->until = until;
    return false;
}

/* What tells one certificate from another. A stranger makes as many keys as he likes: those that
 * libcrypto has not verified are one, or few at the clients' door, since clients share addresses. */
static void kind_of_key(const door_note *n, bool verified, uint8_t out[KEY_BYTES]) {
    const ASN1_BIT_STRING *key = n->leaf ? X509_get0_pubkey_bitstr(n->leaf) : NULL;
    if (key == NULL || (!verified && n->at != DOOR_CLIENT)) return;
    lookup_key(span_of(ASN1_STRING_get0_data(key), (size_t)ASN1_STRING_length(key)), out);
    if (verified) return;
    out[0] %= STRANGERS;
    memset(out + 1, 0, KEY_BYTES - 1);
}

/* Once and for all where a node is known. */
static bool is_news(const door_note *n, bool verified) {
    struct {
        uint8_t event, at, why, address[16], key[KEY_BYTES];
    } it = {.event = (uint8_t)n->event, .at = (uint8_t)n->at, .why = (uint8_t)n->why};
    uint8_t what[KEY_BYTES];
    kind_of_key(n, verified, it.key);
    if (n->event != DOOR_JOINED) memcpy(it.address, n->address.bytes, n->address.len);
    lookup_key(span_of(&it, sizeof it), what);
    return !was_told(what, n->event == DOOR_JOINED ? INT64_MAX : now_seconds() + SECONDS);
}

static X509 *keep(X509 *certificate) {
    return certificate && X509_up_ref(certificate) == 1 ? certificate : NULL;
}

/* Of the leaf, where there is one, and of the path that libcrypto has verified, or NULL. Both
 * certificates are kept until the note is read. Clients leave room for nodes. */
static void note(door_note n, X509 *leaf, const STACK_OF(X509) * chain) {
    size_t room = n.event == DOOR_HANDSHAKE ? NOTES / 2 : NOTES;
    if (n.event == DOOR_REFUSED) refused++;
    n.leaf = leaf;
    pthread_mutex_lock(&notes_lock);
    if (note_count < room && is_news(&n, leaf && chain)) {
        n.leaf = keep(leaf);
        n.issuer = keep(sk_X509_num(chain) > 1 ? sk_X509_value(chain, 1) : NULL);
        notes[(first_note + note_count++) % NOTES] = n;
    }
    pthread_mutex_unlock(&notes_lock);
}

bool doors_next(door_note *out) {
    pthread_mutex_lock(&notes_lock);
    bool any = note_count > 0;
    if (any) {
        *out = notes[first_note];
        first_note = (first_note + 1) % NOTES;
        note_count--;
    }
    pthread_mutex_unlock(&notes_lock);
    return any;
}

/* ---- The decision ---- */

static door_note note_of(const SSL *ssl, door at, door_event event) {
    door_note n = {.at = at, .event = event, .why = REASON_NO_CERTIFICATE};
    end_of(ssl, getpeername, &n.address, &n.port);
    return n;
}

static reason judge(const STACK_OF(X509) * verified, const ip *address) {
    X509 *chain[PATH_LENGTH + 2];
    size_t count = 0;
    for (int i = 0; i < sk_X509_num(verified) && count < PATH_LENGTH + 2; i++)
        chain[count++] = sk_X509_value(verified, i);
    pthread_rwlock_rdlock(&rules);
    reason why =
        policy_node(lines, fixed, chain, count, own_keys, span_of(address->bytes, address->len));
    pthread_rwlock_unlock(&rules);
    return why;
}

/* Why libcrypto finds a path wrong. What it does not know, it calls one or another. */
static reason why_refused(X509_STORE_CTX *context, fault *unknown) {
    if (chain_unknown(X509_STORE_CTX_get0_chain(context), unknown)) return REASON_UNKNOWN_ALGORITHM;
    return reason_of_error(X509_STORE_CTX_get_error(context),
                           X509_STORE_CTX_get_error_depth(context));
}

/* Of one that no handshake has brought, from any address; NULL: what this server shows. */
static reason judge_own(X509 *leaf, uint8_t (*keys)[HASH_BYTES]) {
    pthread_rwlock_rdlock(&rules);
    X509 *const one = leaf ? leaf : own[0];
    reason why = policy_node(lines, fixed, &one, one ? 1 : 0, keys, span_of(NULL, 0));
    pthread_rwlock_unlock(&rules);
    return why == REASON_ADDRESS ? REASON_MATCHED : why;
}

reason doors_would_say(X509 *leaf) { return judge_own(leaf, own_keys); }

bool doors_own_is_bound(void) {
    static uint8_t none[2][HASH_BYTES];
    return judge_own(NULL, none) == REASON_MATCHED;
}

bool doors_own_key(bool connects, uint8_t out[HASH_BYTES]) {
    pthread_rwlock_rdlock(&rules);
    bool known = own[connects] != NULL;
    memcpy(out, own_keys[connects], HASH_BYTES);
    pthread_rwlock_unlock(&rules);
    return known;
}

/* Called for each certificate of a path that libcrypto finds good, the leaf last, or for what it
 * finds wrong; where this fails, the handshake does. */
static int verify_node(int good, X509_STORE_CTX *context) {
    const SSL *ssl = X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx());
    int how = mode, depth = X509_STORE_CTX_get_error_depth(context);
    fault unknown;
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(context);
    if (how == DOORS_OPEN || (good && depth > 0)) return good;
    bool lets = good && how == DOORS_WATCHED;
    door_note n = note_of(ssl, door_of(ssl), lets ? DOOR_WOULD_REFUSE : DOOR_REFUSED);
    n.why = good ? judge(chain, &n.address) : why_refused(context, &unknown);
    if (n.why == REASON_MATCHED) return 1;
    note(n, X509_STORE_CTX_get0_cert(context), good ? chain : NULL);
    if (lets || !good) return good;
    X509_STORE_CTX_set_error(context, n.why == REASON_REVOKED ? X509_V_ERR_CERT_REVOKED
                                                              : X509_V_ERR_CERT_REJECTED);
    return 0;
}

/* Nothing goes through it any more, in whichever thread: SSL_read(3) and SSL_write(3) look at these
 * before they touch a byte. */
static void cut(SSL *ssl) {
    SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    shutdown(SSL_get_fd(ssl), SHUT_RDWR);
}

/* A resumed session brings no path to verify, and one of the clients' door would open the others:
 * no session resumes behind a door, since each handshake there has a session context of its own
 * (SSL_set_session_id_context(3); a miss is a full handshake). */
static void resume_nothing(SSL *ssl) {
    static _Atomic uint64_t last;
    uint64_t context = ++last;
    SSL_set_session_id_context(ssl, (const unsigned char *)&context, sizeof context);
}

/* ---- What the policy trusts beside roots ---- */

/* Not by libcrypto's X509_V_FLAG_PARTIAL_CHAIN, under which no certificate of the trust store has its root
 * asked about any more; nor by the trust store, which all doors have. */
static atomic_bool takes;
void doors_take(bool managed) { takes = managed; }
bool doors_takes(void) { return takes; }

/* Of a path above a leaf, and not of the leaf itself. Its signature is part of that. */
static bool is_above(int error, int depth) {
    return depth > 0 || error == X509_V_ERR_CA_MD_TOO_WEAK ||
           reason_of_error(error, 0) == REASON_UNTRUSTED_ISSUER;
}

static bool is_pinned(X509 *leaf) {
    pthread_rwlock_rdlock(&rules);
    bool pinned = lines && policy_has_pin(lines, leaf);
    pthread_rwlock_unlock(&rules);
    return pinned;
}

static bool is_ca(X509 *certificate) {
    pthread_rwlock_rdlock(&rules);
    bool admits = lines && (policy_has_ca(lines, certificate) || policy_has_ca(fixed, certificate));
    pthread_rwlock_unlock(&rules);
    return admits;
}

/* It has come to a certificate of the trust store, from which one on all are of there, but to no root. */
static bool ends_at_ca(X509_STORE_CTX *context) {
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(context);
    if (X509_STORE_CTX_get_error(context) != X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT) return false;
    for (int i = X509_STORE_CTX_get_num_untrusted(context); i < sk_X509_num(chain); i++) {
        if (is_ca(sk_X509_value(chain, i))) return true;
    }
    return false;
}

int doors_verify(int good, X509_STORE_CTX *context) {
    int error = X509_STORE_CTX_get_error(context), depth = X509_STORE_CTX_get_error_depth(context);
    if (good || !takes || !is_above(error, depth)) return good;
    bool pinned = is_pinned(X509_STORE_CTX_get0_cert(context));
    bool partial = !pinned && ends_at_ca(context);
    if (partial) { /* its end is looked at as well then, see forgive in issuer.c */
        X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
        X509_STORE_CTX_set_error(context, X509_V_OK);
    }
    return pinned || partial;
}

/* ---- Clients whose handshake fails ---- */

/* The server decides about them, and tells its log little; here it is only learned why. */
static _Atomic uint64_t failed[REASON_COUNT];
uint64_t doors_failed(reason why) { return failed[why]; }

static void client_failed(const SSL *ssl, reason why, X509 *leaf, const STACK_OF(X509) * verified,
                          const char *detail) {
    door_note n = note_of(ssl, DOOR_CLIENT, DOOR_HANDSHAKE);
    failed[why]++;
    n.why = why;
    snprintf(n.detail, sizeof n.detail, "%s", detail);
    if (why != REASON_UNDECIDED) note(n, leaf, verified);
}

/* SSL_set_verify(3) takes no callback away. */
static int see_no_more(int good, X509_STORE_CTX *context) { return (void)context, good; }
static void seen(SSL *ssl) { SSL_set_verify(ssl, SSL_get_verify_mode(ssl), see_no_more); }

/* The first fault ends the handshake. Where it is the leaf's time, libcrypto has verified all signatures
 * (internal_verify, crypto/x509/x509_vfy.c, OpenSSL 3.0), if not of what is pinned. */
static int see_client(int good, X509_STORE_CTX *context) {
    fault unknown;
    if (doors_verify(good, context)) return 1;
    SSL *ssl = X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx());
    int error = X509_STORE_CTX_get_error(context), depth = X509_STORE_CTX_get_error_depth(context);
    reason why = why_refused(context, &unknown);
    bool timely = why == REASON_EXPIRED || why == REASON_NOT_YET_VALID;
    bool verified = timely && !is_pinned(X509_STORE_CTX_get0_cert(context));
    char detail[DOOR_DETAIL];
    snprintf(detail, sizeof detail, "%.100s, at depth %d",
             why == REASON_UNKNOWN_ALGORITHM ? unknown.text : X509_verify_cert_error_string(error),
             depth);
    seen(ssl);
    client_failed(ssl, why, X509_STORE_CTX_get0_cert(context),
                  verified ? X509_STORE_CTX_get0_chain(context) : NULL, detail);
    return good;
}

/* An alert by which a client refuses the certificate of this server (RFC 8446 6.2). */
static bool refuses_ours(int code) {
    int alert = code - SSL_AD_REASON_OFFSET;
    return (alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN) ||
           alert == SSL_AD_UNKNOWN_CA;
}

/* Of what is not a fault of a certificate's path. Undecided: nobody who has shown or refused one. The flags
 * that libcrypto puts above 18 bits of a code differ between its versions. */
static reason reason_of_failure(const SSL *ssl, unsigned long error) {
    int code = ERR_GET_REASON(error) & 0x3ffff;
    bool shows = SSL_get_state(ssl) == TLS_ST_SR_CERT || SSL_get0_peer_certificate(ssl);
    if (ERR_GET_LIB(error) != ERR_LIB_SSL || code == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return REASON_UNDECIDED;
    if (code == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) return REASON_NO_CERTIFICATE;
    if (code == ERR_LIB_ASN1) return REASON_MALFORMED;
    return shows || refuses_ours(code) ? REASON_HANDSHAKE : REASON_UNDECIDED;
}

/* At the end of each SSL_accept(3): has it failed? What libssl has to say is in this thread's queue. */
static void look_at_end(SSL *ssl, int value) {
    if (value > 0 || SSL_get_verify_callback(ssl) != see_client) return;
    int how = SSL_get_error(ssl, value);
    if (how == SSL_ERROR_WANT_READ || how == SSL_ERROR_WANT_WRITE) return;
    unsigned long error = ERR_peek_last_error();
    const char *text = ERR_reason_error_string(error);
    char detail[DOOR_DETAIL];
    snprintf(detail, sizeof detail, "%s%s",
             refuses_ours(ERR_GET_REASON(error)) ? "the client refuses this server's certificate: "
                                                 : "",
             text ? text : "unknown error");
    seen(ssl);
    client_failed(ssl, reason_of_failure(ssl, error), SSL_get0_peer_certificate(ssl), NULL, detail);
}

/* ---- The events of libssl ---- */

static atomic_bool asked;
bool doors_asked(void) { return asked; }

static void begin(SSL *ssl) {
    asked = true;
    own_is(!SSL_is_server(ssl), SSL_get_certificate(ssl));
    if (door_of(ssl) == DOOR_CLIENT) {
        if (SSL_get_verify_callback(ssl) == NULL)
            SSL_set_verify(ssl, SSL_get_verify_mode(ssl), see_client);
        return;
    }
    if (mode == DOORS_OPEN) return;
    int asks = mode == DOORS_GUARDED ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                                     : SSL_get_verify_mode(ssl);
    SSL_set_verify(ssl, asks, verify_node);
    if (SSL_is_server(ssl) && mode == DOORS_GUARDED) resume_nothing(ssl);
}

/* Only now the peer has shown that the certificate is its own. Where none was verified (an
 * anonymous cipher), nobody comes in. SSL_get0_verified_chain(3) has none of a resumed session. */
static void finish(SSL *ssl) {
    if (SSL_get_verify_callback(ssl) == see_client) seen(ssl);
    if (mode != DOORS_GUARDED || SSL_get_verify_callback(ssl) != verify_node) return;
    X509 *leaf = SSL_get0_peer_certificate(ssl);
    const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    bool good = leaf && chain;
    door_note n = note_of(ssl, door_of(ssl), good ? DOOR_JOINED : DOOR_REFUSED);
    if (good) n.why = REASON_MATCHED;
    else cut(ssl);
    note(n, leaf, chain);
}

static void on_info(const SSL *ssl, int where, int value) {
    if (where & SSL_CB_HANDSHAKE_START) begin((SSL *)(uintptr_t)ssl);
    if (where & SSL_CB_HANDSHAKE_DONE) finish((SSL *)(uintptr_t)ssl);
    if (where == SSL_CB_ACCEPT_EXIT) look_at_end((SSL *)(uintptr_t)ssl, value);
}

void doors_watch(SSL *ssl) { SSL_set_info_callback(ssl, on_info); }

/* OpenSSL 3.2 and later hands an SSL object to those who watch before it is made: does what was set
 * then last? */
bool doors_can_guard(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    SSL *ssl = context ? SSL_new(context) : NULL;
    bool good = ssl && SSL_get_info_callback(ssl) == on_info;
    SSL_free(ssl);
    SSL_CTX_free(context);
    ERR_clear_error();
    return good;
}

/* ---- Links that are up ---- */

static void look_again(SSL *ssl) {
    door at = door_of(ssl);
    const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    if (at == DOOR_CLIENT || SSL_get_shutdown(ssl)) return; /* cut, and not freed yet */
    door_note n = note_of(ssl, at, DOOR_REFUSED);
    if (chain) n.why = judge(chain, &n.address);
    if (n.why == REASON_MATCHED) return;
    cut(ssl);
    note(n, SSL_get0_peer_certificate(ssl), chain);
}

void doors_sweep(void) {
    if (mode == DOORS_GUARDED) tls_each(look_again);
}
