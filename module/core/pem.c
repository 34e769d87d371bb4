/* Certificates out of PEM and DER, for the control plane and for explain: a handshake brings its own. */
#include "cert.h"

#include <openssl/err.h>
#include <openssl/pem.h>

static size_t free_all(X509 **out, size_t count) {
    while (count) {
        X509_free(out[--count]);
        out[count] = NULL;
    }
    return 0;
}

/* The next certificate of a PEM text, other blocks being skipped; NULL at its end (`*ended`) or where
 * it is broken. Never through PEM_read_bio_X509, which takes bytes behind the DER and asks for the
 * password of an encrypted block on the terminal. */
static X509 *next_pem(BIO *bio, bool *ended) {
    for (;;) {
        char *name = NULL, *header = NULL;
        unsigned char *der = NULL;
        long len = 0;
        if (PEM_read_bio(bio, &name, &header, &der, &len) != 1) {
            *ended = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
            return NULL;
        }
        bool wanted = strcmp(name, PEM_STRING_X509) == 0;
        const unsigned char *at = der;
        X509 *certificate = wanted && header[0] == 0 ? d2i_X509(NULL, &at, len) : NULL;
        bool whole = at == der + len;
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(der);
        if (!wanted) continue;
        if (certificate && whole) return certificate;
        X509_free(certificate);
        return NULL;
    }
}

static size_t parse_pem(span text, X509 **out, size_t room, fault *why) {
    BIO *bio = BIO_new_mem_buf(text.ptr, (int)text.len);
    size_t count = 0;
    bool ended = false;
    while (bio && count < room && (out[count] = next_pem(bio, &ended)) != NULL) count++;
    BIO_free(bio);
    if (ended && count) return count;
    if (ended) fail(why, "no certificate in the PEM text");
    else if (count == room) fail(why, "%zu certificates or more; at most %zu", room, room - 1);
    else fail(why, "certificate %zu of the PEM text does not parse", count + 1);
    return free_all(out, count);
}

static size_t parse_der(span bytes, X509 **out, fault *why) {
    const uint8_t *at = bytes.ptr;
    out[0] = d2i_X509(NULL, &at, (long)bytes.len);
    if (out[0] && at == bytes.ptr + bytes.len) return 1;
    fail(why, "not the DER of one certificate");
    return free_all(out, 1);
}

size_t certificates_parse(span bytes, X509 **out, size_t room, fault *why) {
    if (bytes.len == 0 || bytes.len > (size_t)CERTIFICATE_BYTES * 16 || room < 2) {
        fail(why, "neither PEM nor the DER of one certificate, or too large");
        return 0;
    }
    ERR_set_mark();
    size_t count =
        bytes.ptr[0] == 0x30 ? parse_der(bytes, out, why) : parse_pem(bytes, out, room, why);
    ERR_pop_to_mark();
    return count;
}

void certificate_free(X509 *certificate) { X509_free(certificate); }
