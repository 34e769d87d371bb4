"""Certificates: making them, and judging those that administrators upload.

The decision about a client is never made here (that is the core's); this is the control plane's own
small CA, and the check that an upload can be what it is said to be. Only this file knows
`cryptography`.
"""

import contextlib
import ipaddress
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Attribute types that `new_ca` and `issue` take in a subject.
ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
}
BUNDLE = 100  # certificates in one upload
SKEW = timedelta(minutes=5)  # how late another machine's clock may be


class CertificateError(ValueError):
    """What is wrong with which certificate of an upload. `expired` tells being out of date, which
    has a status of its own, from everything else."""

    def __init__(self, text: str, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


class Issued(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Trust:
    """What an upload admits, as DER: leaves that come from `cas` may become users; `anchors` are
    the certificates above those, which the TLS handshake needs to verify them."""

    cas: tuple[bytes, ...] = ()
    anchors: tuple[bytes, ...] = ()


# ---- Making certificates ----


def new_ca(subject: Sequence[tuple[str, str]], lifetime: timedelta) -> Issued:
    """A self-signed CA with a new EC P-256 key. `subject` is (type, value) pairs in the order of
    the certificate, such as [("O", "acme"), ("CN", "acme CA")]."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(subject)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key.public_key(), datetime.now(UTC), lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    return Issued(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


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
    issuer = x509.load_pem_x509_certificate(ca.certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] if server_names else []
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    public = issuer.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 (new_ca makes no other)
    builder = (
        _builder(_name(subject), issuer.subject, key.public_key(), start, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    if server_names:
        names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
        builder = builder.add_extension(names, critical=False)
    return Issued(_pem(builder.sign(_signer(ca.key), hashes.SHA256())), _key_pem(key))


def renew(ca: Issued, old: Issued, lifetime: timedelta) -> str:
    """PEM of a certificate that says what `old` says, for the same key, valid from now on. What
    stands behind the first certificate of `old` is left out."""
    return _again(ca, old.certificate, _signer(old.key).public_key(), lifetime)


def reissue(ca: Issued, old: str, lifetime: timedelta) -> Issued:
    """As `renew`, but with a new key; `old` is PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Issued(_again(ca, old, key.public_key(), lifetime), _key_pem(key))


def _again(ca: Issued, old: str, key: ec.EllipticCurvePublicKey, lifetime: timedelta) -> str:
    was = x509.load_pem_x509_certificate(old.encode())
    issuer = x509.load_pem_x509_certificate(ca.certificate.encode())
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
    return _pem(builder.sign(_signer(ca.key), hashes.SHA256()))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, in one step: a reader sees the old content or the
    new, and after a crash one of them is there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:  # mkstemp's mode is 0600
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
    key: ec.EllipticCurvePublicKey,
    start: datetime | None,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    start = start or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - SKEW)
        .not_valid_after(start + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(subject: Sequence[tuple[str, str]]) -> x509.Name:
    return x509.Name([x509.NameAttribute(ATTRIBUTES[kind], value) for kind, value in subject])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signer(key_pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 (new_ca makes no other)
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


# ---- Judging uploads ----


def check_trust(pem: str) -> tuple[str, ...]:
    """Checks an upload of CA certificates for clients: roots, or intermediates with their roots.
    Returns each certificate as clean PEM; raises CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        which = _which(certificates, index)
        _check_ca(certificate, which)
        _check_dates(certificate, which)
    for index, certificate in enumerate(certificates):
        _check_complete(certificate, certificates, _which(certificates, index))
    return tuple(_pem(certificate) for certificate in certificates)


def read_trust(pem: str) -> Trust:
    """What PEM that has passed `check_trust` admits, whatever the date is now: a certificate that
    has issued no other of the upload is a `ca`, those above it are anchors. So a root alone admits
    all that it issued, and an intermediate with its root admits only what the intermediate did."""
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


def check_server(pem: str, key_pem: str) -> Issued:
    """Checks a certificate for a TLS server, leaf first, and its key. Returns both as clean PEM;
    raises CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        _check_dates(certificate, _which(certificates, index))
    for index, certificate in enumerate(certificates[1:], start=1):
        if not _signed(certificates[index - 1], certificate):
            below = _which(certificates, index - 1)
            raise CertificateError(
                f"{_which(certificates, index)} has not issued {below}: the leaf "
                "comes first, then each certificate's issuer"
            )
    key = _parse_key(key_pem)
    public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if certificates[0].public_key().public_bytes(*public) != key.public_key().public_bytes(*public):
        raise CertificateError(f"the key is not the key of {_which(certificates, 0)}")
    clean = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Issued("".join(_pem(certificate) for certificate in certificates), clean.decode())


def check_authorities(pem: str) -> str:
    """Checks CA certificates that servers are verified with. Returns clean PEM; raises
    CertificateError."""
    certificates = _parse(pem)
    for index, certificate in enumerate(certificates):
        _check_ca(certificate, _which(certificates, index))
        _check_dates(certificate, _which(certificates, index))
    return "".join(_pem(certificate) for certificate in certificates)


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


def _parse_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """Typed as one kind of key; only what all kinds have is used."""
    try:
        return serialization.load_pem_private_key(pem.encode(), password=None)  # type: ignore[return-value]
    except TypeError as error:
        raise CertificateError("the key is encrypted: send it without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError("the key is not a private key in PEM form") from error


def _which(certificates: Sequence[x509.Certificate], index: int) -> str:
    """How messages name a certificate of an upload."""
    name = certificates[index].subject.rfc4514_string() or "without a subject"
    shown = "".join(c if c.isprintable() else "?" for c in name)[:200]
    return f"certificate {index + 1} of {len(certificates)} ({shown})"


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


def _check_dates(certificate: x509.Certificate, which: str) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        when = certificate.not_valid_after_utc.isoformat()
        raise CertificateError(f"{which} expired at {when}", expired=True)
    if now < certificate.not_valid_before_utc:
        when = certificate.not_valid_before_utc.isoformat()
        raise CertificateError(f"{which} is not valid before {when}", expired=True)


def _check_complete(
    certificate: x509.Certificate, certificates: Sequence[x509.Certificate], which: str
) -> None:
    """Each path up from `certificate` must reach a root within the upload."""
    reached, todo = {certificate}, [certificate]
    while todo:
        current = todo.pop()
        issuers = _issuers(current, certificates)
        if current in issuers:
            return
        fresh = [issuer for issuer in issuers if issuer not in reached]
        reached.update(fresh)
        todo.extend(fresh)
    lacking = [found for found in reached if not _issuers(found, certificates)]
    above = lacking[0].issuer.rfc4514_string() if lacking else certificate.issuer.rfc4514_string()
    raise CertificateError(
        f"{which} is an intermediate, and the upload does not lead up to its root: "
        f"the certificate of the CA '{above}' is missing, or has another key"
    )


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
