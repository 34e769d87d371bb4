/* What the files that read a certificate share. For cert.c, signature.c alone. */
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

/* ---- signature.c ---- */

bool time_seconds(const ASN1_TIME *time, int64_t *out);

#endif
