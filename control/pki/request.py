"""Clients' certificates by request: reading a CSR, and issuing what the profile says."""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from control.pki.guarded import CertificateError, guarded
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
    public_bytes,
    render_key,
    weakness_of,
)
from control.pki.pem import Issued, load_certificate, printable_name
from control.pki.reading import request_in
from control.policy import core

# String types of attributes that are not UTF8String (RFC 5280, appendix A). A value that has none
# of their characters is UTF8String all the same: a device number may have a `_`.
PRINTABLE = {
    NameOID.COUNTRY_NAME, NameOID.SERIAL_NUMBER, NameOID.DN_QUALIFIER,
    NameOID.JURISDICTION_COUNTRY_NAME,
}  # fmt: skip
IA5 = {NameOID.EMAIL_ADDRESS, NameOID.DOMAIN_COMPONENT, NameOID.UNSTRUCTURED_NAME}
PRINTABLE_TEXT = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
MOST = {NameOID.COMMON_NAME: 64, NameOID.EMAIL_ADDRESS: 255}  # characters, not bytes
COUNTRIES = (NameOID.COUNTRY_NAME, NameOID.JURISDICTION_COUNTRY_NAME)
UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")


@dataclass(frozen=True)
class Request:
    """What a CSR asks for, and for which key."""

    key: PublicKey
    subject: x509.Name
    sans: tuple[x509.GeneralName, ...]

    @property
    def key_id(self) -> str:
        """SHA-256 of the key, in hex, as core.Identity has it."""
        return hashlib.sha256(public_bytes(self.key)).hexdigest()


@dataclass(frozen=True)
class Leaf:
    """What a client's certificate is to say: `subject` is RFC 4514 text, `sans` are kind:value,
    `key_usage` names of KeyUsage's fields."""

    subject: str
    sans: tuple[str, ...]
    key_usage: tuple[str, ...]
    lifetime: timedelta


def new_request(key_type: KeyType, key_pem: str = "") -> Issued:
    """A CSR in place of a certificate, and the key that it is for: a new one unless one is
    given. It asks for no name: those are the issuer's to give. Raises CertificateError."""
    key = load_key(key_pem) if key_pem else new_key(key_type)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with guarded("the CSR cannot be signed"):
        csr = builder.sign(key, hash_for(key))
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    return Issued(pem, render_key(key))


def read_request(pem: str) -> Request:
    """What a CSR (PEM, or the base64 of DER) asks for. Its signature shows that its sender holds
    the key. Raises CertificateError."""
    der = request_in(pem.encode("utf-8", "replace"))
    with guarded("not a certificate signing request that can be read"):
        csr = x509.load_der_x509_csr(der)
        try:
            key = check_requested_key(csr.public_key())  # first: verifying with a huge one is slow
        except UnsupportedAlgorithm as error:
            raise CertificateError(KINDS) from error
        weak = weakness_of(csr)
        if weak:
            raise CertificateError(
                f"the CSR is signed with {weak}, which is not taken here: make it again with "
                "SHA-256 (openssl req -sha256; certreq: HashAlgorithm = sha256)"
            )
        if not csr.is_signature_valid:
            raise CertificateError("the CSR is not signed with its own key")
        return Request(key, csr.subject, tuple(_requested(csr.extensions)))


def _requested(extensions: x509.Extensions) -> Iterator[x509.GeneralName]:
    """The SANs that a CSR asks for. What it asks for in usage is not looked at: the profile says
    it. To be a CA is not a slip."""
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
    with guarded(f"no certificate can say '{leaf.subject}'"):
        subject = _name(leaf.subject) if leaf.subject else x509.Name([])
        sans = [_san(text) for text in leaf.sans]
    _check_asked(request, subject, sans)
    builder = (
        start_builder(subject, issuer.subject, request.key, start, leaf.lifetime, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage_of(*leaf.key_usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(authority_key_identifier(issuer), critical=False)
    )
    if sans:
        alone = not subject.rdns  # RFC 5280, 4.2.1.6: then the extension is critical
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=alone)
    for pointer in _pointers(ca):
        builder = builder.add_extension(pointer, critical=False)
    return sign_certificate(builder, load_key(ca.key))


def _pointers(ca: Issued) -> Iterator[x509.ExtensionType]:
    """Where others learn what this CA has revoked (RFC 5280, 4.2.1.13 and 4.2.2.1)."""
    if not ca.url:
        return
    place = f"{ca.url}/v1/certauth/ca/{core.identity(ca.certificate.encode()).key}"
    answers, lists = (x509.UniformResourceIdentifier(f"{place}{end}") for end in ("/ocsp", ".crl"))
    asked = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, answers)
    yield x509.AuthorityInformationAccess([asked])
    yield x509.CRLDistributionPoints([x509.DistributionPoint([lists], None, None, None)])


def _name(subject: str) -> x509.Name:
    return x509.Name(
        x509.RelativeDistinguishedName([_attribute(kind, value) for kind, value in rdn])
        for rdn in core.rdns(subject)
    )


def _attribute(kind: str, value: str) -> x509.NameAttribute[str]:
    oid = x509.ObjectIdentifier(kind)
    if oid in COUNTRIES and not re.fullmatch("[A-Za-z]{2}", value):
        raise ValueError(f"a country has two letters, unlike '{value}'")
    if len(value) > MOST.get(oid, len(value)):
        raise ValueError(f"'{value}' has {len(value)} characters, and {MOST[oid]} are the most")
    if oid in PRINTABLE and PRINTABLE_TEXT.fullmatch(value):
        tag = _ASN1Type.PrintableString
    else:
        tag = _ASN1Type.IA5String if oid in IA5 and value.isascii() else _ASN1Type.UTF8String
    made = x509.NameAttribute(oid, value[:2], tag)  # it would count the bytes
    made._value = value
    return made


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


def check_same_names(request: Request, pem: str) -> None:
    """Raises CertificateError unless a CSR asks for the very names of a certificate (RFC 7030
    4.2.2)."""
    was = load_certificate(pem)
    with guarded("the names of the certificate cannot be read"):
        sans = [
            name
            for extension in was.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
            for name in extension.value
        ]
    if request.subject != was.subject:
        asked, given = printable_name(request.subject), printable_name(was.subject)
        raise CertificateError(
            f"the CSR asks for the subject '{asked}', and the certificate that is renewed has "
            f"'{given}': both must be the same (RFC 7030 4.2.2)"
        )
    if set(request.sans) != set(sans):
        raise CertificateError(
            "the CSR asks for other subject alternative names than the certificate that is "
            "renewed has: both must be the same (RFC 7030 4.2.2)"
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
