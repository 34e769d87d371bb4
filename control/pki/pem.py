"""Certificates as text and as bytes: reading, writing and naming them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

MAX_CERTIFICATES = 100  # in one upload
PEM_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL
)


class CertificateError(ValueError):
    """What is wrong with which certificate of an upload. `expired`: it is out of date, which has
    a status of its own."""

    def __init__(self, text: str, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


class Issued(NamedTuple):
    """A certificate and its private key, both PEM. Behind the certificate there may be others."""

    certificate: str
    key: str


def load_certificate(pem: str) -> x509.Certificate:
    """The first certificate of a PEM text. Raises ValueError."""
    return x509.load_pem_x509_certificate(pem.encode())


def to_pem(certificate: x509.Certificate) -> str:
    """One certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_to_ders(pem: str) -> tuple[bytes, ...]:
    """Each certificate of a PEM text as DER; none of an empty one. Raises CertificateError."""
    return tuple(map(to_der, parse_bundle(pem))) if pem else ()


def parse_bundle(pem: str) -> list[x509.Certificate]:
    """The certificates of an upload, each of which can be read. Raises CertificateError."""
    if "PRIVATE KEY-----" in pem:
        raise CertificateError(
            "a private key was sent among the certificates: it is compromised "
            "wherever this request was logged; send certificates only"
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        for certificate in certificates:
            _ = certificate.extensions, certificate.subject, certificate.issuer
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise CertificateError(f"not a certificate in PEM form: {error}") from error
    if len(certificates) > MAX_CERTIFICATES:
        raise CertificateError(f"more than {MAX_CERTIFICATES} certificates")
    for index, certificate in enumerate(certificates):
        if certificate in certificates[:index]:
            raise CertificateError(f"{name_in_bundle(certificates, index)} is there twice")
    return certificates


def name_in_bundle(certificates: Sequence[x509.Certificate], index: int) -> str:
    """How messages name a certificate of an upload."""
    name = printable_name(certificates[index].subject) or "without a subject"
    return f"certificate {index + 1} of {len(certificates)} ({name})"


def printable_name(name: x509.Name) -> str:
    """A name in a message: without control characters, and not too long."""
    return "".join(c if c.isprintable() else "?" for c in name.rfc4514_string())[:200]


def issuers_within(
    certificate: x509.Certificate, certificates: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """The certificates that have signed this one; itself, if it is a root."""
    return [issuer for issuer in certificates if is_issued_by(certificate, issuer)]


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` has this name, and its key signed the certificate."""
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign certificates, by its basic constraints and, where it has one, its key
    usage."""
    found = {one.oid: one.value for one in certificate.extensions}
    constraints = found.get(x509.BasicConstraints.oid)
    usage = found.get(x509.KeyUsage.oid)
    signs = not isinstance(usage, x509.KeyUsage) or usage.key_cert_sign
    return isinstance(constraints, x509.BasicConstraints) and constraints.ca and signs


def to_der(certificate: x509.Certificate) -> bytes:
    """One certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def split_pem(text: str) -> list[str]:
    """Each certificate within a text, as it stands there; nothing is checked."""
    return PEM_CERTIFICATE.findall(text)
