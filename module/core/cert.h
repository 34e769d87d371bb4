/* What the files that read a certificate share. For cert.c, san.c, signature.c alone. */
#ifndef CERTAUTH_CERT_H
#define CERTAUTH_CERT_H

#include "internal.h"

#include <openssl/x509.h>

/* A certificate as libcrypto encodes it: the shortest headers, and the TBSCertificate byte by byte as it
 * was signed, which need not be DER. */
typedef struct {
    span whole, tbs, algorithm; /* what is behind them is the signature */
} encoding;

/* ---- cert.c ---- */

span asn1_span(const ASN1_STRING *s);
bool encode(X509 *certificate, encoding *e);
/* Says why the certificate is refused, and returns `why`. */
reason refuse(identity *id, reason why, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void put_oddity(writer *w, int tag, span raw, size_t clean);
bool note_odd(identity *id, unsigned bits, const char *field, size_t number, writer *w);
void detail_end(identity *id, const writer *w);

/* ---- san.c ---- */

/* Reads the names behind the others of `w`. REASON_UNDECIDED, or why the certificate is refused. */
reason read_sans(identity *id, X509 *leaf, writer *w);

/* ---- signature.c ---- */

bool time_seconds(const ASN1_TIME *time, int64_t *out);

#endif
