"""Certificates of uploads: reading, naming and relating them. They are DER; what they say, and
which of them has issued which, is read by libcrypto (control/policy/core.py), as on servers."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from control.pki.guarded import CertificateError as CertificateError
from control.pki.guarded import guarded
from control.pki.reading import PrivateKeyError, certificates_in, render
from control.policy import core

MAX_CERTIFICATES = 100  # in one upload
PEM_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL
)


class Issued(NamedTuple):
    """A certificate and its private key, both PEM. Behind the certificate there may be others. Of a
    CA, `url` is where the control plane is reached from outside, which certificates name."""

    certificate: str
    key: str
    url: str = ""


def load_certificate(pem: str) -> x509.Certificate:
    """The first certificate of a PEM text. Raises CertificateError."""
    with guarded("the certificate cannot be read"):
        return x509.load_pem_x509_certificate(pem.encode())


def load_der(der: bytes, which: str = "the certificate") -> x509.Certificate:
    """A certificate for `cryptography`. Raises CertificateError."""
    with guarded(f"{which} cannot be read"):
        return x509.load_der_x509_certificate(der)


def to_pem(certificate: x509.Certificate) -> str:
    """One certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def certs_only(pem: str) -> bytes:
    """Certificates as PKCS#7 that holds nothing else (RFC 8551 3.2.2), DER. Raises
    CertificateError."""
    with guarded("the certificates cannot be read"):
        found = x509.load_pem_x509_certificates(pem.encode())
        return pkcs7.serialize_certificates(found, serialization.Encoding.DER)


def pem_to_ders(pem: str) -> tuple[bytes, ...]:
    """Each certificate of a PEM text as DER; none of an empty one. Raises CertificateError."""
    return tuple(parse_bundle(pem)) if pem else ()


def parse_bundle(text: str) -> list[bytes]:
    """The certificates of an upload, DER, each of which libcrypto can read; one that is there
    twice, twice. Raises CertificateError."""
    try:
        certificates = list(certificates_in(text.encode("utf-8", "replace")))
    except PrivateKeyError:
        raise CertificateError(
            "a private key was sent among the certificates: it is compromised "
            "wherever this request was logged; send certificates only"
        ) from None
    if len(certificates) > MAX_CERTIFICATES:
        raise CertificateError(f"more than {MAX_CERTIFICATES} certificates")
    for index, certificate in enumerate(certificates, 1):
        try:
            identity_of(certificate)
        except core.CoreError as error:
            which = f"certificate {index} of {len(certificates)}"
            raise CertificateError(f"{which} is not a certificate in DER: {error}") from error
    return certificates


@lru_cache(maxsize=1024)
def identity_of(der: bytes) -> core.Identity:
    """What a certificate says. Raises core.CoreError."""
    return core.identity(der)


def name_in_bundle(certificates: Sequence[bytes], index: int) -> str:
    """How messages name a certificate of an upload."""
    name = printable(subject_of(certificates[index]))
    return f"certificate {index + 1} of {len(certificates)} ({name})"


def subject_of(der: bytes) -> str:
    """For a message, in words where there is none: also that of a certificate in which something
    else is wrong."""
    try:
        with guarded("the name"):
            found = identity_of(der).subject or load_der(der).subject.rfc4514_string()
            return found or "without a subject"
    except CertificateError:
        return "with a subject that is not read here"


def printable(text: str) -> str:
    """A name in a message: without control characters, and not too long."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def printable_name(name: x509.Name) -> str:
    """The same of a name of `cryptography`."""
    return printable(name.rfc4514_string())


def issuers_within(certificate: bytes, certificates: Sequence[bytes]) -> list[bytes]:
    """The certificates that have signed this one; itself, if it is a root."""
    return [issuer for issuer in certificates if is_issued_by(certificate, issuer)]


def is_issued_by(certificate: bytes, issuer: bytes) -> bool:
    """Whether `issuer` has issued the certificate, by its name, key identifier and signature. Of a
    root the name and key are enough, where its own signature is of an algorithm that cannot be
    checked here: nobody who verifies looks at that."""
    return core.issued(certificate, issuer) in ((True, None) if certificate == issuer else (True,))


def is_authority(certificate: bytes) -> bool:
    """Whether it may sign certificates, by its basic constraints and, where it has one, its key
    usage."""
    powers = core.powers(certificate)
    return powers.ca and powers.certificates


def split_pem(text: str) -> list[str]:
    """Each certificate within a text, as it stands there; nothing is checked."""
    return PEM_CERTIFICATE.findall(text)


def rendered(certificates: Sequence[bytes]) -> tuple[str, ...]:
    """Each as clean PEM."""
    return tuple(map(render, certificates))
