"""Clients' certificates by request: reading a CSR, and issuing what the profile says."""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.pki.issue import (
    authority_key_identifier,
    key_usage_of,
    sign_certificate,
    start_builder,
)
from control.pki.keys import (
    KINDS,
    KeyType,
    PublicKey,
    check_requested_key,
    hash_for,
    load_key,
    new_key,
    render_key,
)
from control.pki.pem import CertificateError, Issued, load_certificate, printable_name

# Attribute types in RFC 4514 text that `cryptography` does not know by the core's names.
MORE_ATTRIBUTES = {
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "title": NameOID.TITLE,
    "initials": NameOID.INITIALS,
    "generationQualifier": NameOID.GENERATION_QUALIFIER,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "pseudonym": NameOID.PSEUDONYM,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "postalCode": NameOID.POSTAL_CODE,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "givenName": NameOID.GIVEN_NAME,
    "surname": NameOID.SURNAME,
    "STREET": NameOID.STREET_ADDRESS,
}
UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")


@dataclass(frozen=True)
class Request:
    """What a CSR asks for, and for which key."""

    key: PublicKey
    subject: x509.Name
    sans: tuple[x509.GeneralName, ...]


@dataclass(frozen=True)
class Leaf:
    """What a client's certificate is to say: `subject` is RFC 4514 text, `sans` are kind:value,
    `key_usage` names of KeyUsage's fields."""

    subject: str
    sans: tuple[str, ...]
    key_usage: tuple[str, ...]
    lifetime: timedelta


def new_request(key_type: KeyType, key_pem: str = "") -> Issued:
    """A CSR in the place of a certificate, and the key that it is for: a new one unless one is
    given. It asks for no name: those are the issuer's to give. Raises CertificateError."""
    key = load_key(key_pem) if key_pem else new_key(key_type)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = builder.sign(key, hash_for(key)).public_bytes(serialization.Encoding.PEM).decode()
    return Issued(pem, render_key(key))


# What `cryptography` raises for what it cannot read, one way or another.
UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip


def read_request(pem: str) -> Request:
    """What a CSR (PEM) asks for. Its signature shows that its sender holds the key. Raises
    CertificateError."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = check_requested_key(csr.public_key())  # first: verifying with a huge one takes long
        if not csr.is_signature_valid:
            raise CertificateError("the CSR is not signed with its own key")
        subject, sans = csr.subject, tuple(_requested(csr.extensions))
    except CertificateError:
        raise
    except UnsupportedAlgorithm as error:
        raise CertificateError(KINDS) from error
    except UNREADABLE as error:
        raise CertificateError(f"not a certificate signing request in PEM form: {error}") from error
    return Request(key, subject, sans)


def _requested(extensions: x509.Extensions) -> Iterator[x509.GeneralName]:
    """The SANs that a CSR asks for. What it asks for in usage is not looked at: the profile says
    it. To be a CA is no slip."""
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise CertificateError("the CSR asks for the certificate of a CA")
        if isinstance(extension.value, x509.SubjectAlternativeName):
            yield from extension.value


def issue_requested(ca: Issued, request: Request, leaf: Leaf, start: datetime | None = None) -> str:
    """PEM of a client's certificate for the key of a CSR, valid from `start`, by default from now.
    What the CSR says has no part in it; but one that asks for another name is refused, rather than
    answered with something else. Raises CertificateError."""
    issuer = load_certificate(ca.certificate)
    if datetime.now(UTC) >= issuer.not_valid_after_utc:
        raise CertificateError("the CA that issues here has expired", expired=True)
    try:
        subject = x509.Name.from_rfc4514_string(leaf.subject, MORE_ATTRIBUTES)
        sans = [_san(text) for text in leaf.sans]
    except ValueError as error:
        raise CertificateError(f"no certificate can say '{leaf.subject}': {error}") from error
    _check_asked(request, subject, sans)
    builder = (
        start_builder(subject, issuer.subject, request.key, start, leaf.lifetime, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage_of(*leaf.key_usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(authority_key_identifier(issuer), critical=False)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return sign_certificate(builder, load_key(ca.key))


def _check_asked(request: Request, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> None:
    if request.subject not in (x509.Name([]), subject):
        asked, given = printable_name(request.subject), printable_name(subject)
        raise CertificateError(
            f"the CSR asks for the subject '{asked}', and this certificate has '{given}': ask for "
            "that, or for none"
        )
    for name in request.sans:
        if name not in sans:
            raise CertificateError(
                f"the CSR asks for the name {name}, which the profile does not give"
            )


def check_sans(sans: Iterable[str]) -> None:
    """Raises ValueError where one, kind:value, can stand in no certificate."""
    for text in sans:
        _san(text)


def _san(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    made: dict[str, Callable[[], x509.GeneralName]] = {
        "dns": lambda: x509.DNSName(value),
        "uri": lambda: x509.UniformResourceIdentifier(value),
        "email": lambda: x509.RFC822Name(value),
        "ip": lambda: x509.IPAddress(ipaddress.ip_address(value)),
        "upn": lambda: x509.OtherName(UPN, b"\x0c" + _length(value.encode()) + value.encode()),
    }
    if kind not in made or not value:
        raise ValueError(f"'{text}' is none of dns:…, uri:…, email:…, ip:…, upn:…")
    return made[kind]()


def _length(content: bytes) -> bytes:
    """Of a DER value, as short as it must be."""
    if len(content) > 127:
        raise ValueError("a UPN of more than 127 bytes")
    return bytes([len(content)])
