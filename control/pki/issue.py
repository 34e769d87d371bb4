"""The control plane's own small CA: making CAs and certificates."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.pki.guarded import guarded
from control.pki.keys import (
    KeyType,
    PrivateKey,
    PublicKey,
    hash_for,
    load_key,
    new_key,
    open_key,
    render_key,
    seal_key,
)
from control.pki.pem import Issued, load_certificate, to_pem

# Attribute types that `new_ca` and `issue` take in a subject.
ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
}
CLOCK_SKEW = timedelta(minutes=5)  # how late another machine's clock may be


def new_ca(
    subject: Sequence[tuple[str, str]],
    lifetime: timedelta,
    key_type: KeyType = "ec",
    root: Issued | None = None,
) -> Issued:
    """A CA with a new key: self-signed, or one that `root` has issued and that issues leaves only.
    `subject` is (type, value) pairs in the order of the certificate, such as
    [("O", "acme"), ("CN", "acme CA")]. It ends with its root at the latest."""
    key = new_key(key_type)
    usage = key_usage_of("key_cert_sign", "crl_sign")
    name, above = _name(subject), load_certificate(root.certificate) if root else None
    issuer = above.subject if above else name
    builder = (
        start_builder(name, issuer, key.public_key(), None, lifetime, above)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if root else None), True)
        .add_extension(usage, critical=True)
    )
    if above:
        builder = builder.add_extension(authority_key_identifier(above), critical=False)
    return Issued(sign_certificate(builder, load_key(root.key) if root else key), render_key(key))


def issue_certificate(
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
    issuer, key = load_certificate(ca.certificate), new_key("ec")
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] if server_names else []
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    builder = (
        start_builder(_name(subject), issuer.subject, key.public_key(), start, lifetime, issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage_of("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(authority_key_identifier(issuer), critical=False)
    )
    if server_names:
        names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
        builder = builder.add_extension(names, critical=False)
    return Issued(sign_certificate(builder, load_key(ca.key)), render_key(key))


def renew_certificate(ca: Issued, old: Issued, lifetime: timedelta) -> str:
    """PEM of a certificate that says what `old` says, for the same key, valid from now on. What
    stands behind the first certificate of `old` is left out."""
    return _again(ca, old.certificate, load_key(old.key).public_key(), lifetime)


def reissue_certificate(ca: Issued, old: str, lifetime: timedelta) -> Issued:
    """As `renew_certificate`, but with a new key; `old` is PEM."""
    key = new_key("ec")
    return Issued(_again(ca, old, key.public_key(), lifetime), render_key(key))


def _again(ca: Issued, old: str, key: PublicKey, lifetime: timedelta) -> str:
    was, issuer = load_certificate(old), load_certificate(ca.certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(was.subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - CLOCK_SKEW)
        .not_valid_after(datetime.now(UTC) + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    for extension in was.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return sign_certificate(builder, load_key(ca.key))


def seal_authority(authority: Issued, passphrase: str) -> str:
    """The PEM text of a CA: its key, encrypted where there is a passphrase, and its certificate
    with those above it. One file, so that anyone who reads it gets a pair that fits."""
    return seal_key(authority.key, passphrase) + authority.certificate


def open_authority(text: str, passphrase: str) -> Issued:
    """The CA of a text that `seal_authority` has made. Raises CertificateError."""
    key = open_key(text, passphrase)
    with guarded("the certificates of the CA cannot be read"):
        found = x509.load_pem_x509_certificates(text.encode())
    return Issued("".join(to_pem(certificate) for certificate in found), key)


def chain_to_present(authority: Issued) -> str:
    """The certificates that a client of this CA presents above its own: PEM, without the root."""
    found = x509.load_pem_x509_certificates(authority.certificate.encode())
    return "".join(to_pem(one) for one in found if one.issuer != one.subject)


def start_builder(
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
        .not_valid_before(start - CLOCK_SKEW)
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


def key_usage_of(*names: str) -> x509.KeyUsage:
    """The extension of RFC 5280 4.2.1.3 with these bits on, by their names in `cryptography`."""
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How a certificate names its issuer's key: as the issuer does itself."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public = cast(CertificateIssuerPublicKeyTypes, issuer.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def sign_certificate(builder: x509.CertificateBuilder, key: PrivateKey) -> str:
    """PEM of what a CA's key has signed. Raises CertificateError."""
    with guarded("no certificate can be issued that says this"):
        return to_pem(builder.sign(key, hash_for(key)))
