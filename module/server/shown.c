/* The certificates that this server shows, and their keys, in the files that it has them from: Redis reads
 * them at the start and at CONFIG SET, so that a renewed one is shown only then. Here they are read before
 * the server reads them: Redis 7.0 to 8.6 and Valkey 8.1 take a certificate and a key that are not of one
 * pair where they are not of one type (createSSLContext in their tls.c), and nobody comes in any more. */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <stdio.h>

#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

static file_state state_of(const char *file) {
    struct stat now;
    if (file[0] == 0 || stat(file, &now) != 0) return (file_state){0};
    return (file_state){(uint64_t)now.st_ino, (uint64_t)now.st_size, now.st_mtim.tv_sec,
                        now.st_mtim.tv_nsec};
}

void shown_stat(const shown_files *files, shown_state *out) {
    for (int i = 0; i < 2; i++) {
        out->files[2 * i] = state_of(files->pairs[i].certificate);
        out->files[2 * i + 1] = state_of(files->pairs[i].key);
    }
}

bool shown_same(const shown_state *a, const shown_state *b) {
    for (int i = 0; i < 4; i++) {
        const file_state *one = &a->files[i], *other = &b->files[i];
        if (one->number != other->number || one->size != other->size ||
            one->seconds != other->seconds || one->nanoseconds != other->nanoseconds)
            return false;
    }
    return true;
}

static int give_password(char *out, int room, int writing, void *password) {
    size_t len = strlen(password);
    (void)writing;
    if (len > (size_t)room) return -1;
    memcpy(out, password, len);
    return (int)len;
}

/* As the server does it, and by no stricter rule; but that the key has to be the certificate's. */
static bool load_pair(SSL_CTX *context, const shown_pair *p, fault *why) {
    const char *at = p->certificate;
    SSL_CTX_set_security_level(context, 0);
    SSL_CTX_set_default_passwd_cb(context, give_password);
    SSL_CTX_set_default_passwd_cb_userdata(context, (void *)(uintptr_t)p->password);
    bool good = SSL_CTX_use_certificate_chain_file(context, at) == 1;
    if (good) {
        at = p->key;
        good = SSL_CTX_use_PrivateKey_file(context, at, SSL_FILETYPE_PEM) == 1;
    }
    if (good && SSL_CTX_check_private_key(context) == 1) return true;
    const char *text = good ? NULL : ERR_reason_error_string(ERR_peek_error());
    int said = ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_X509 ? ERR_GET_REASON(ERR_peek_error()) : 0;
    if (good || said == X509_R_KEY_VALUES_MISMATCH || said == X509_R_KEY_TYPE_MISMATCH)
        return fail(why, "%.120s is not the key of %.120s", p->key, p->certificate);
    return fail(why, "%.200s cannot be read: %s", at, text ? text : "no such file, or no PEM");
}

static bool is_of_now(X509 *leaf, const char *file, fault *why) {
    if (X509_cmp_current_time(X509_get0_notAfter(leaf)) <= 0)
        return fail(why, "the certificate in %.200s has ended", file);
    if (X509_cmp_current_time(X509_get0_notBefore(leaf)) > 0)
        return fail(why, "the certificate in %.200s has not begun", file);
    return true;
}

static X509 *read_pair(const shown_pair *p, fault *why) {
    X509 *leaf = NULL;
    ERR_set_mark();
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    if (context == NULL) fail(why, "out of memory");
    if (context && load_pair(context, p, why)) leaf = SSL_CTX_get0_certificate(context);
    if (leaf && (!is_of_now(leaf, p->certificate, why) || X509_up_ref(leaf) != 1)) leaf = NULL;
    SSL_CTX_free(context);
    ERR_pop_to_mark();
    return leaf;
}

bool shown_read(const shown_files *files, X509 *leaves[2], fault *why) {
    leaves[0] = leaves[1] = NULL;
    why->text[0] = 0;
    for (int i = 0; i < 2; i++) {
        const shown_pair *p = &files->pairs[i];
        if (i && (p->certificate[0] == 0 || p->key[0] == 0)) continue; /* one pair for both */
        if ((leaves[i] = read_pair(p, why)) != NULL) continue;
        X509_free(leaves[0]);
        leaves[0] = NULL;
        return false;
    }
    return true;
}
