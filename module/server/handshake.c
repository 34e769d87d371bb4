/* Asking the handshake: explain is to say what the server does, and before a policy sees a client,
 * libssl has verified its certificate, by a trust store and parameters that are not ours. The server's
 * SSL_CTX is found through ex_data and through its clients, and asked in the way of libssl's own
 * ssl_verify_cert_chain (ssl/ssl_cert.c, OpenSSL 3.0). */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <stdio.h>

#include <dlfcn.h>
#include <pthread.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

/* The servers make a context for clients, and one for their own links where tls-client-cert-file is set,
 * with one trust store and one security level (createSSLContext in their tls.c), so that either will do. */
static SSL_CTX *shown; /* of the client that came last; owned */
static SSL_CTX
    *made; /* the newest, as by CONFIG SET, until it is freed; borrowed from the server */
static uintptr_t contexts; /* how many were made; each keeps its number as ex_data, 0: before us */
static int ex_index = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t main_thread;

/* ---- Watching ---- */

/* One that another thread makes (Valkey 9.1 reloads in the background) may not come into use at all: a
 * client has to show it first. */
static void on_new(void *context, void *none, CRYPTO_EX_DATA *data, int index, long argl,
                   void *argp) {
    (void)none, (void)argl, (void)argp;
    pthread_mutex_lock(&lock);
    CRYPTO_set_ex_data(data, index, (void *)++contexts);
    if (pthread_equal(pthread_self(), main_thread)) made = context;
    pthread_mutex_unlock(&lock);
}

static void on_free(void *context, void *none, CRYPTO_EX_DATA *data, int index, long argl,
                    void *argp) {
    (void)none, (void)data, (void)index, (void)argl, (void)argp;
    pthread_mutex_lock(&lock);
    if (made == context) made = NULL;
    pthread_mutex_unlock(&lock);
}

bool handshake_is_servers(void) {
    void *program = dlopen(NULL, RTLD_LAZY);
    uintptr_t theirs = program ? (uintptr_t)dlsym(program, "SSL_CTX_new") : 0;
    if (program) dlclose(program);
    return theirs == (uintptr_t)SSL_CTX_new;
}

uint64_t handshake_contexts(void) {
    pthread_mutex_lock(&lock);
    uint64_t count = contexts;
    pthread_mutex_unlock(&lock);
    return count;
}

bool handshake_watch(void) {
    main_thread = pthread_self();
    ex_index = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, on_new, NULL, on_free);
    return ex_index >= 0;
}

void handshake_seen(SSL *client) {
    SSL_CTX *context = SSL_get_SSL_CTX(client), *old = NULL;
    if (context == shown || SSL_CTX_up_ref(context) != 1) return;
    old = shown;
    shown = context;
    SSL_CTX_free(old);
}

static uintptr_t number_of(const SSL_CTX *context) {
    return context && ex_index >= 0 ? (uintptr_t)SSL_CTX_get_ex_data(context, ex_index) : 0;
}

/* The context of now, to be freed; NULL: not known. Anyone who frees `made` is on this thread. */
static SSL_CTX *context_of_now(void) {
    pthread_mutex_lock(&lock);
    SSL_CTX *now = made && number_of(made) > number_of(shown) ? made : shown;
    pthread_mutex_unlock(&lock);
    return now && SSL_CTX_up_ref(now) == 1 ? now : NULL;
}

/* ---- Asking ---- */

static bool verified(X509_STORE_CTX *store, SSL_CTX *context, X509 *leaf, STACK_OF(X509) * extra) {
    if (X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(context), leaf, extra) != 1) return false;
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(store);
    X509_VERIFY_PARAM_set_auth_level(param, SSL_CTX_get_security_level(context));
    X509_STORE_CTX_set_default(store, "ssl_client");
    X509_VERIFY_PARAM_set1(param, SSL_CTX_get0_param(context));
    X509_STORE_CTX_set_verify_cb(store, doors_verify);
    return X509_verify_cert(store) == 1;
}

/* In TLS 1.3 only, and SLH-DSA in none (providers/common/capabilities.c, OpenSSL 3.5). */
static bool is_ml_dsa(const EVP_PKEY *key) {
    return EVP_PKEY_is_a(key, "ML-DSA-44") || EVP_PKEY_is_a(key, "ML-DSA-65") ||
           EVP_PKEY_is_a(key, "ML-DSA-87");
}

/* Can a client show in TLS 1.2 or 1.3 that it has this key? Not by a curve outside libssl's default groups,
 * which no server of ours changes, nor by DSA in TLS 1.3 (RFC 8446 4.2.3): then it shows no certificate
 * at all (ssl3_check_client_certificate, ssl/statem/statem_clnt.c). */
static bool key_can_sign(SSL_CTX *context, X509 *leaf) {
    const EVP_PKEY *key = X509_get0_pubkey(leaf);
    char group[64] = "";
    size_t len;
    long most = SSL_CTX_get_max_proto_version((SSL_CTX *)context);
    switch (key ? EVP_PKEY_get_base_id(key) : EVP_PKEY_NONE) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
    case EVP_PKEY_ED25519:
    case EVP_PKEY_ED448: return true;
    case EVP_PKEY_DSA: return most && most < TLS1_3_VERSION;
    case EVP_PKEY_EC: break;
    default: return key && (!most || most >= TLS1_3_VERSION) && is_ml_dsa(key);
    }
    int nid = EVP_PKEY_get_group_name(key, group, sizeof group, &len) == 1 ? OBJ_sn2nid(group) : 0;
    return nid == NID_X9_62_prime256v1 || nid == NID_secp384r1 || nid == NID_secp521r1;
}

static void refuse(handshake *out, reason why, const char *text, int depth) {
    out->refused = why;
    snprintf(out->text, sizeof out->text, "%.100s, at depth %d", text, depth);
}

static void take_path(const STACK_OF(X509) * chain, path *issuers) {
    X509 *certificates[PATH_LENGTH + 1];
    int count = sk_X509_num(chain);
    for (int i = 0; i < count && i <= PATH_LENGTH; i++) certificates[i] = sk_X509_value(chain, i);
    path_of_chain(certificates, count > PATH_LENGTH + 1 ? 0 : (size_t)count, issuers);
}

static void ask(SSL_CTX *context, X509 *leaf, STACK_OF(X509) * extra, handshake *out,
                path *issuers) {
    fault unknown = {"a client can sign none with a key of this type or curve"};
    if (!key_can_sign(context, leaf)) {
        out->state = HANDSHAKE_WITHOUT;
        if (X509_get0_pubkey(leaf) == NULL) algorithm_unknown(leaf, &unknown);
        snprintf(out->text, sizeof out->text, "%.*s", (int)sizeof out->text - 1, unknown.text);
        return;
    }
    X509_STORE_CTX *store = X509_STORE_CTX_new();
    out->state = HANDSHAKE_ASKED;
    out->level = SSL_CTX_get_security_level(context);
    if (store == NULL || !verified(store, context, leaf, extra)) {
        int error = store ? X509_STORE_CTX_get_error(store) : X509_V_ERR_OUT_OF_MEM;
        int depth = store ? X509_STORE_CTX_get_error_depth(store) : 0;
        const STACK_OF(X509) *found = store ? X509_STORE_CTX_get0_chain(store) : NULL;
        bool new = chain_unknown(found, &unknown);
        refuse(out, new ? REASON_UNKNOWN_ALGORITHM : reason_of_error(error, depth),
               new ? unknown.text : X509_verify_cert_error_string(error), depth);
    } else {
        bool vouched = X509_STORE_CTX_get_error(store) == X509_V_OK;
        take_path(vouched ? X509_STORE_CTX_get0_chain(store) : NULL, issuers);
    }
    X509_STORE_CTX_free(store);
}

handshake handshake_ask(X509 *leaf, X509 *const *extra, size_t count, path *issuers) {
    handshake out = {HANDSHAKE_NOT_ASKED, REASON_UNDECIDED, 0, "no client has come over TLS yet"};
    SSL_CTX *context = context_of_now();
    if (context == NULL) return out;
    ERR_set_mark();
    STACK_OF(X509) *presented = sk_X509_new_null();
    for (size_t i = 0; i < count && presented; i++) sk_X509_push(presented, extra[i]);
    ask(context, leaf, presented, &out, issuers);
    sk_X509_free(presented);
    ERR_pop_to_mark();
    SSL_CTX_free(context);
    return out;
}

size_t handshake_rootless(const policy *p, X509 **first) {
    SSL_CTX *context = context_of_now();
    size_t count = context ? policy_rootless(p, SSL_CTX_get_cert_store(context), first) : 0;
    SSL_CTX_free(context);
    return count;
}
