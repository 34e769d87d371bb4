"""Private keys: their kinds, making and reading them."""

from contextlib import suppress

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509 import ocsp

from control.pki.guarded import CertificateError, guarded
from control.pki.kinds import KEY_TYPES as KEY_TYPES
from control.pki.kinds import KeyType as KeyType
from control.pki.pem import load_certificate
from control.pki.reading import key_in

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Signed = (
    x509.Certificate | x509.CertificateRevocationList | x509.CertificateSigningRequest
    | ocsp.OCSPResponse
)  # fmt: skip
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
RSA_BITS = (2048, 8192)  # the least and the most of a requester's key
# Signature algorithms that prove nothing any more, and that `cryptography` does not verify.
WEAK = {
    "1.2.840.113549.1.1.2": "MD2", "1.2.840.113549.1.1.3": "MD4", "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1", "1.3.14.3.2.29": "SHA-1", "1.2.840.10040.4.3": "SHA-1",
    "1.2.840.10045.4.1": "SHA-1",
}  # fmt: skip
PSS = "1.2.840.113549.1.1.10"  # names its hash apart
KINDS = "keys are of the kinds EC, RSA and Ed25519"


def seal_key(key_pem: str, passphrase: str) -> str:
    """A private key's PEM, encrypted where there is a passphrase."""
    return render_key(load_key(key_pem), passphrase)


def open_key(key_pem: str, passphrase: str) -> str:
    """The PEM of a private key without its encryption. Raises CertificateError."""
    return render_key(load_key(key_pem, passphrase))


def weakness_of(signed: Signed) -> str:
    """The hash of a signature that proves nothing any more; "" of others, and where it cannot be
    told."""
    algorithm = signed.signature_algorithm_oid.dotted_string
    if algorithm != PSS:
        return WEAK.get(algorithm, "")
    with suppress(CertificateError), guarded("the signature"):
        used = signed.signature_hash_algorithm
        return {"sha1": "SHA-1", "md5": "MD5"}.get(used.name if used else "", "")
    return ""


def is_for_key(certificate: str, key_pem: str) -> bool:
    """Whether the first certificate of a PEM text is for this key."""
    with guarded("the certificate's key cannot be read"):
        public = public_bytes(load_certificate(certificate).public_key())
    return public == public_bytes(load_key(key_pem).public_key())


def check_requested_key(key: object) -> PublicKey:
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


def derive_secret(key_pem: str, purpose: str) -> str:
    """A password that follows from a private key and from nothing else: the key is enough for it,
    and no file holds it. Hex."""
    key = load_key(key_pem).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return HKDF(hashes.SHA256(), 32, None, purpose.encode()).derive(key).hex()


def new_key(kind: KeyType) -> PrivateKey:
    """Makes a private key: RSA of 3072 bits, Ed25519, or ECDSA on P-256."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 3072)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def hash_for(key: PrivateKey) -> hashes.SHA256 | None:
    """Ed25519 has its own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def load_key(key_pem: str, passphrase: str = "") -> PrivateKey:
    """The one private key of a text. Raises CertificateError."""
    pem = key_in(key_pem.encode("utf-8", "replace"))
    sealed = "ENCRYPTED" in pem
    if sealed and not passphrase:
        raise CertificateError("the key is encrypted, and there is no passphrase for it")
    password = passphrase.encode() if sealed else None
    try:
        with guarded("the key"):
            key = _loaded_key(pem.encode(), password)
    except _UnknownKeyError as error:
        raise CertificateError(KINDS) from error
    except CertificateError as error:  # without its words, which may hold a part of the key
        more = ", or has another passphrase" if sealed else ""
        raise CertificateError(f"the key is not a private key in PEM form{more}") from error
    if not isinstance(key, PrivateKey):
        raise CertificateError(KINDS)
    return key


class _UnknownKeyError(CertificateError):
    """It is of a kind that `cryptography` does not know."""


def _loaded_key(pem: bytes, password: bytes | None) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password)
    except UnsupportedAlgorithm as error:
        raise _UnknownKeyError(KINDS) from error


def render_key(key: PrivateKey, passphrase: str = "") -> str:
    """PKCS #8 in PEM, encrypted where there is a passphrase."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    """DER of SubjectPublicKeyInfo (RFC 5280 4.1.2.7), of which a key id is the SHA-256."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(*form)
