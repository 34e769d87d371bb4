"""Certificates: making them, and judging those that administrators upload.

The decision about a client is never made here (that is the core's); this is the control plane's own
small CA, and the check that an upload can be what it is said to be. Only this file knows
`cryptography`.
"""

import contextlib
import ipaddress
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import cryptography
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPublicKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

from control.policy import core
from control.records import Trust

# Attribute types that `new_ca` and `issue` take in a subject.
ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
}
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
KeyType = Literal["ec", "rsa", "ed25519"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
RSA_BITS = (2048, 8192)  # the least and the most of a requester's key
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of libcrypto
BUNDLE = 100  # certificates in one upload
KINDS = "keys are of the kinds EC, RSA and Ed25519"
SKEW = timedelta(minutes=5)  # how late another machine's clock may be


class CertificateError(ValueError):
    """What is wrong with which certificate of an upload. `expired` tells being out of date, which
    has a status of its own, from everything else."""

    def __init__(self, text: str, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


class Issued(NamedTuple):
    """A certificate and its private key, both PEM. Behind the certificate there may be others."""

    certificate: str
    key: str


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


# ---- Making certificates ----


def new_ca(
    subject: Sequence[tuple[str, str]],
    lifetime: timedelta,
    key_type: KeyType = "ec",
    root: Issued | None = None,
) -> Issued:
    """A CA with a new key: self-signed, or one that `root` has issued and that issues leaves only.
    `subject` is (type, value) pairs in the order of the certificate, such as
    [("O", "acme"), ("CN", "acme CA")]. It ends with its root at the latest."""
    key = _new_key(key_type)
    usage = _usage("key_cert_sign", "crl_sign")
    name, above = _name(subject), _load(root.certificate) if root else None
    builder = (
        _builder(name, above.subject if above else name, key.public_key(), None, lifetime, above)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if root else None), True)
        .add_extension(usage, critical=True)
    )
    if above:
        builder = builder.add_extension(_above(above), critical=False)
    return Issued(_sign(builder, _signer(root.key) if root else key), _key_pem(key))


def issue(
    ca: Issued,
    subject: Sequence[tuple[str, str]],
    *,
    server_names: Sequence[str] = (),
    client: bool = False,
    lifetime: timedelta,
    start: datetime | None = None,
) -> Issued:
    """A certificate from `ca` with a new EC P-256 key: for a TLS server where `server_names` (DNS
    names and IP addresses) are given, for a client where `client` is true, for both where both are.
    `subject` as for `new_ca`; valid for `lifetime` from `start`, by default from now."""
    issuer, key = _load(ca.certificate), _new_key("ec")
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] if server_names else []
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    builder = (
        _builder(_name(subject), issuer.subject, key.public_key(), start, lifetime, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(_above(issuer), critical=False)
    )
    if server_names:
        names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
        builder = builder.add_extension(names, critical=False)
    return Issued(_sign(builder, _signer(ca.key)), _key_pem(key))


def renew(ca: Issued, old: Issued, lifetime: timedelta) -> str:
    """PEM of a certificate that says what `old` says, for the same key, valid from now on. What
    stands behind the first certificate of `old` is left out."""
    return _again(ca, old.certificate, _signer(old.key).public_key(), lifetime)


def reissue(ca: Issued, old: str, lifetime: timedelta) -> Issued:
    """As `renew`, but with a new key; `old` is PEM."""
    key = _new_key("ec")
    return Issued(_again(ca, old, key.public_key(), lifetime), _key_pem(key))


def _again(ca: Issued, old: str, key: PublicKey, lifetime: timedelta) -> str:
    was, issuer = _load(old), _load(ca.certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(was.subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - SKEW)
        .not_valid_after(datetime.now(UTC) + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    for extension in was.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return _sign(builder, _signer(ca.key))


# ---- CAs in files ----


def seal_key(key_pem: str, passphrase: str) -> str:
    """A private key's PEM, encrypted where there is a passphrase."""
    return _key_pem(_signer(key_pem), passphrase)


def open_key(key_pem: str, passphrase: str) -> str:
    """The PEM of a private key without its encryption. Raises CertificateError."""
    return _key_pem(_signer(key_pem, passphrase))


def seal(authority: Issued, passphrase: str) -> str:
    """The PEM text of a CA: its key, encrypted where there is a passphrase, and its certificate
    with those above it. One file, so that whoever reads it gets a pair that fits."""
    return seal_key(authority.key, passphrase) + authority.certificate


def unseal(text: str, passphrase: str) -> Issued:
    """The CA of a text that `seal` has made. Raises CertificateError."""
    key = open_key(text, passphrase)
    found = x509.load_pem_x509_certificates(text.encode())
    return Issued("".join(_pem(certificate) for certificate in found), key)


def check_authority(pem: str, key_pem: str, passphrase: str) -> Issued:
    """Checks a CA from elsewhere that is to issue here: its certificate first, then those above it
    up to a root. Raises CertificateError."""
    chain, key_pem = "".join(check_trust(pem)), open_key(key_pem, passphrase)
    certificates = _parse(chain)
    if not belongs(chain, key_pem):
        raise CertificateError(
            f"the key is not the key of {_which(certificates, 0)}: the CA that is to issue comes "
            "first, then those above it"
        )
    return Issued(chain, key_pem)


def presented(authority: Issued) -> str:
    """The certificates that a client of this CA presents above its own: PEM, without the root."""
    found = x509.load_pem_x509_certificates(authority.certificate.encode())
    return "".join(_pem(one) for one in found if one.issuer != one.subject)


# ---- Certificates by request ----


def new_request(key_type: KeyType, key_pem: str = "") -> Issued:
    """A CSR in the place of a certificate, and the key that it is for: a new one unless one is
    given. It asks for no name: those are the issuer's to give. Raises CertificateError."""
    key = _signer(key_pem) if key_pem else _new_key(key_type)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = builder.sign(key, _hash(key)).public_bytes(serialization.Encoding.PEM).decode()
    return Issued(pem, _key_pem(key))


def belongs(certificate: str, key_pem: str) -> bool:
    """Whether the first certificate of a PEM text is for this key."""
    return _public_bytes(_load(certificate).public_key()) == _public_bytes(
        _signer(key_pem).public_key()
    )


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
        key = _checked(csr.public_key())  # first: verifying with a huge one takes long
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


def _checked(key: object) -> PublicKey:
    """A requester's key, where it is good enough. Raises CertificateError."""
    if isinstance(key, rsa.RSAPublicKey):
        least, most = RSA_BITS
        if not least <= key.key_size <= most or key.public_numbers().e < 65537:
            raise CertificateError(
                f"an RSA key of {key.key_size} bits: from {least} to {most} bits, with an exponent "
                "of 65537 or more, are taken"
            )
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, CURVES):
            raise CertificateError("an EC key that is on none of the curves P-256, P-384, P-521")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise CertificateError(KINDS)
    return key


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
    issuer = _load(ca.certificate)
    if datetime.now(UTC) >= issuer.not_valid_after_utc:
        raise CertificateError("the CA that issues here has expired", expired=True)
    try:
        subject = x509.Name.from_rfc4514_string(leaf.subject, MORE_ATTRIBUTES)
        sans = [_san(text) for text in leaf.sans]
    except ValueError as error:
        raise CertificateError(f"no certificate can say '{leaf.subject}': {error}") from error
    _check_asked(request, subject, sans)
    builder = (
        _builder(subject, issuer.subject, request.key, start, leaf.lifetime, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(*leaf.key_usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_above(issuer), critical=False)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return _sign(builder, _signer(ca.key))


def _check_asked(request: Request, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> None:
    if request.subject not in (x509.Name([]), subject):
        raise CertificateError(
            f"the CSR asks for the subject '{_shown(request.subject)}', and this certificate has "
            f"'{_shown(subject)}': ask for that, or for none"
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


# ---- Files ----


def secret_of(key_pem: str, purpose: str) -> str:
    """A password that follows from a private key and from nothing else: the key is enough for it,
    and no file holds it. Hex."""
    key = _signer(key_pem).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return HKDF(hashes.SHA256(), 32, None, purpose.encode()).derive(key).hex()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, in one step: a reader sees the old content or the
    new, and after a crash one of them is there."""
    _write_whole(path, text, None)


def rewrite(path: Path, text: str) -> None:
    """The same for a file that is there: whoever could read it can read it still. A symbolic link
    goes on leading to it."""
    path = path.resolve(strict=True)
    _write_whole(path, text, path.stat())


def _write_whole(path: Path, text: str, like: os.stat_result | None) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:  # mkstemp's mode is 0600
            if like:
                os.fchown(handle, like.st_uid, like.st_gid)
                os.fchmod(handle, stat.S_IMODE(like.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    start: datetime | None,
    lifetime: timedelta,
    above: x509.Certificate | None,
) -> x509.CertificateBuilder:
    """`above` is the issuer's certificate, which ends no earlier than what it has issued."""
    start = start or datetime.now(UTC)
    end = min(start + lifetime, above.not_valid_after_utc) if above else start + lifetime
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(subject: Sequence[tuple[str, str]]) -> x509.Name:
    return x509.Name([x509.NameAttribute(ATTRIBUTES[kind], value) for kind, value in subject])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def _above(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How a certificate names its issuer's key: as the issuer does itself."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public = cast(CertificateIssuerPublicKeyTypes, issuer.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _new_key(kind: KeyType) -> PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 3072)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> str:
    return _pem(builder.sign(key, _hash(key)))


def _hash(key: PrivateKey) -> hashes.SHA256 | None:
    """Ed25519 has its own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _signer(key_pem: str, passphrase: str = "") -> PrivateKey:
    password = passphrase.encode() or None
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password)
    except TypeError as error:
        if password:  # given, and the key is not encrypted
            return _signer(key_pem)
        raise CertificateError("the key is encrypted, and there is no passphrase for it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        more = ", or has another passphrase" if password else ""
        raise CertificateError(f"the key is not a private key in PEM form{more}") from error
    if not isinstance(key, PrivateKey):
        raise CertificateError(KINDS)
    return key


def _key_pem(key: PrivateKey, passphrase: str = "") -> str:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def _public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(*form)


def _load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


# ---- Judging uploads ----

# The certificates of an upload, and for each those of them that have signed it.
Issuers = Mapping[x509.Certificate, Sequence[x509.Certificate]]


def check_trust(pem: str) -> tuple[str, ...]:
    """Checks an upload of CA certificates for clients: roots, or intermediates with their roots.
    Returns each certificate as clean PEM; raises CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        which = _which(certificates, index)
        _check_ca(certificate, which)
        _check_known(certificate, which)
        _check_dates(certificate, which)
    issuers = _all_issuers(certificates)
    for index, certificate in enumerate(certificates):
        _check_complete(certificate, issuers, _which(certificates, index))
        _check_length(certificate, issuers, _which(certificates, index))
    _check_paths(certificates, issuers)
    return tuple(_pem(certificate) for certificate in certificates)


def read_trust(pem: str) -> Trust:
    """What PEM that has passed `check_trust` admits where nobody has said what its certificates are
    for, whatever the date is now: one that has issued no other of them is a `ca`, those above it
    are anchors. So a root alone admits all that it issued, and an intermediate with its root admits
    only what the intermediate did."""
    certificates = _parse(pem) if pem else []
    issuers = {
        issuer
        for certificate in certificates
        for issuer in _issuers(certificate, certificates)
        if issuer != certificate
    }
    return Trust(
        tuple(_der(certificate) for certificate in certificates if certificate not in issuers),
        tuple(_der(certificate) for certificate in certificates if certificate in issuers),
    )


def issued_by(ders: Sequence[bytes], issuers: Sequence[bytes]) -> list[bytes]:
    """Those of some CA certificates that one of `issuers` has issued, or another of them that one
    of `issuers` stands above."""
    left = [x509.load_der_x509_certificate(der) for der in ders]
    todo = [x509.load_der_x509_certificate(der) for der in issuers]
    found: list[bytes] = []
    while todo:
        above = todo.pop()
        below = [one for one in left if _signed(one, above)]
        left = [one for one in left if one not in below]
        found += map(_der, below)
        todo += below
    return found


def together(first: str, second: str) -> str:
    """The certificates of two PEM texts, each once."""
    found = [*(_parse(first) if first else []), *_parse(second)]
    return "".join(map(_pem, dict.fromkeys(found)))


def check_server(pem: str, key_pem: str) -> Issued:
    """Checks a certificate for a TLS server, leaf first, and its key. Returns both as clean PEM;
    raises CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        _check_known(certificate, _which(certificates, index))
        _check_dates(certificate, _which(certificates, index))
    for index, certificate in enumerate(certificates[1:], start=1):
        if not _signed(certificates[index - 1], certificate):
            below = _which(certificates, index - 1)
            raise CertificateError(
                f"{_which(certificates, index)} has not issued {below}: the leaf "
                "comes first, then each certificate's issuer"
            )
    key = _signer(key_pem)
    if _public_bytes(certificates[0].public_key()) != _public_bytes(key.public_key()):
        raise CertificateError(f"the key is not the key of {_which(certificates, 0)}")
    return Issued("".join(_pem(certificate) for certificate in certificates), _key_pem(key))


def check_authorities(pem: str) -> str:
    """Checks CA certificates that servers are verified with. Returns clean PEM; raises
    CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        _check_ca(certificate, _which(certificates, index))
        _check_known(certificate, _which(certificates, index))
        _check_dates(certificate, _which(certificates, index))
    return "".join(_pem(certificate) for certificate in certificates)


def ders(pem: str) -> tuple[bytes, ...]:
    """Each certificate of a PEM text as DER; none of an empty one. Raises CertificateError."""
    return tuple(map(_der, _parse(pem))) if pem else ()


def _parse(pem: str) -> list[x509.Certificate]:
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
    if len(certificates) > BUNDLE:
        raise CertificateError(f"more than {BUNDLE} certificates")
    for index, certificate in enumerate(certificates):
        if certificate in certificates[:index]:
            raise CertificateError(f"{_which(certificates, index)} is there twice")
    return certificates


def _which(certificates: Sequence[x509.Certificate], index: int) -> str:
    """How messages name a certificate of an upload."""
    name = _shown(certificates[index].subject) or "without a subject"
    return f"certificate {index + 1} of {len(certificates)} ({name})"


def _shown(name: x509.Name) -> str:
    """A name in a message: without what would steer a terminal, and not too long."""
    return "".join(c if c.isprintable() else "?" for c in name.rfc4514_string())[:200]


def _check_ca(certificate: x509.Certificate, which: str) -> None:
    constraints = _extension(
        certificate, lambda all_: all_.get_extension_for_class(x509.BasicConstraints).value.ca
    )
    if not constraints:
        raise CertificateError(
            f"{which} is not a CA certificate: its basic constraints do not say "
            "CA:TRUE. A leaf is never trusted; send the CA that issued it"
        )
    signs = _extension(
        certificate, lambda all_: all_.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    )
    if signs is False:
        raise CertificateError(f"{which} may not sign certificates: its key usage does not say so")


def _extension(
    certificate: x509.Certificate, read: Callable[[x509.Extensions], bool]
) -> bool | None:
    try:
        return read(certificate.extensions)
    except x509.ExtensionNotFound:
        return None


def _check_known(certificate: x509.Certificate, which: str) -> None:
    try:
        certificate.public_key()
    except UnsupportedAlgorithm as error:
        name = core.algorithm_of_key(_der(certificate))
        library = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
        raise CertificateError(
            f"{which} cannot be checked here: this control plane does not know {name} (its "
            f"cryptography is {cryptography.__version__}, with {library})"
        ) from error


def _check_dates(certificate: x509.Certificate, which: str) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        when = certificate.not_valid_after_utc.isoformat()
        raise CertificateError(f"{which} expired at {when}", expired=True)
    if now < certificate.not_valid_before_utc:
        when = certificate.not_valid_before_utc.isoformat()
        raise CertificateError(f"{which} is not valid before {when}", expired=True)


def _check_complete(certificate: x509.Certificate, issuers: Issuers, which: str) -> None:
    """Each path up from `certificate` must reach a root within the upload."""
    reached, todo = {certificate}, [certificate]
    while todo:
        current = todo.pop()
        if current in issuers[current]:
            return
        fresh = [issuer for issuer in issuers[current] if issuer not in reached]
        reached.update(fresh)
        todo.extend(fresh)
    lacking = [found for found in reached if not issuers[found]]
    above = lacking[0].issuer.rfc4514_string() if lacking else certificate.issuer.rfc4514_string()
    raise CertificateError(
        f"{which} is an intermediate, and the upload does not lead up to its root: "
        f"the certificate of the CA '{above}' is missing, or has another key"
    )


def _check_length(certificate: x509.Certificate, issuers: Issuers, which: str) -> None:
    """RFC 5280, 4.2.1.9: how many CAs may stand below one, those that it has issued to itself not
    counted. libcrypto says so of a leaf only, and there is none here."""
    todo, seen, certificates = [(certificate, 0)], {certificate}, list(issuers)
    for current, below in todo:
        count = below + (current.subject != current.issuer)
        for above in issuers[current]:
            most = above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
            if above != current and most is not None and count > most:
                by = _which(certificates, certificates.index(above))
                raise CertificateError(
                    f"{which} issues what nobody verifies: {by} has a path length of {most}, and "
                    f"there are {count} CAs below it"
                )
            if above not in seen:
                seen.add(above)
                todo.append((above, count))


def _check_paths(certificates: Sequence[x509.Certificate], issuers: Issuers) -> None:
    """Each certificate as a TLS server will verify it, up to a root: name constraints and critical
    extensions are libcrypto's to judge, here as there."""
    roots = [one for one in certificates if one in issuers[one]]
    between = [crypto.X509.from_cryptography(one) for one in certificates if one not in roots]
    store = crypto.X509Store()
    store.set_flags(NO_CHECK_TIME)  # dates have been looked at, by name
    for one in roots:
        store.add_cert(crypto.X509.from_cryptography(one))
    for index, one in enumerate(certificates):
        try:
            given = crypto.X509.from_cryptography(one)
            crypto.X509StoreContext(store, given, between).verify_certificate()
        except crypto.X509StoreContextError as error:
            which = _which(certificates, index)
            at = certificates.index(error.certificate.to_cryptography())
            where = "" if at == index else f", by {_which(certificates, at)}"
            text = f"{which} would verify nowhere{where}: {error}"
            raise CertificateError(text) from error


def _all_issuers(certificates: Sequence[x509.Certificate]) -> Issuers:
    """Once for an upload: a hundred of one name are 10,000 signatures to check."""
    return {one: _issuers(one, certificates) for one in certificates}


def _issuers(
    certificate: x509.Certificate, certificates: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Those of `certificates` that have signed this one; itself, if it is a root."""
    return [issuer for issuer in certificates if _signed(certificate, issuer)]


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
