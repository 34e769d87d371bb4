"""Certificates as their holders may change them: nobody has signed the signature."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from tests.kit.certs import oid, spki_of
from tests.kit.support import Cert, Name, der, der_content, der_elements

SHA256 = der(0x30, der(6, oid("2.16.840.1.101.3.4.2.1")), der(5))
MGF1 = der(0x30, der(6, oid("1.2.840.113549.1.1.8")), SHA256)
PSS = der(0x30, der(0xA0, SHA256), der(0xA1, MGF1), der(0xA2, der(2, b"\x20")))


def algorithm(dotted: str, *parameters: bytes) -> bytes:
    return der(0x30, der(6, oid(dotted)), *parameters)


@dataclass(frozen=True)
class Kind:
    """A kind of signature: what stands in the certificate, who signs, and how. `order`: of the
    curve, or 0."""

    algorithm: bytes
    key: Callable[[], Any]
    sign: Callable[[Any, bytes], bytes]
    order: int = 0


@cache
def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def _dsa() -> dsa.DSAPrivateKey:
    return dsa.generate_private_key(2048)


def _ecdsa(curve: ec.EllipticCurve, order: int) -> Kind:
    def sign(key: ec.EllipticCurvePrivateKey, tbs: bytes) -> bytes:
        return key.sign(tbs, ec.ECDSA(hashes.SHA256()))

    make = cache(lambda: ec.generate_private_key(curve))
    return Kind(algorithm("1.2.840.10045.4.3.2"), make, sign, order)


def _pss(key: rsa.RSAPrivateKey, tbs: bytes) -> bytes:
    """One that starts with a zero, as each 256th does."""
    while True:
        made = key.sign(tbs, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if made[0] == 0:
            return made


# SEC 2, version 2.0, sections 2.4.2, 2.5.1 and 2.6.1.
P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384 = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)  # fmt: skip
P521 = int(
    "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"
    "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", 16
)  # fmt: skip
KINDS = {
    "RSA": Kind(
        algorithm("1.2.840.113549.1.1.11", der(5)), _rsa,
        lambda key, tbs: key.sign(tbs, padding.PKCS1v15(), hashes.SHA256()),
    ),
    "RSA-PSS": Kind(algorithm("1.2.840.113549.1.1.10", PSS), _rsa, _pss),
    "P-256": _ecdsa(ec.SECP256R1(), P256),
    "P-384": _ecdsa(ec.SECP384R1(), P384),
    "P-521": _ecdsa(ec.SECP521R1(), P521),
    "Ed25519": Kind(
        algorithm("1.3.101.112"), cache(ed25519.Ed25519PrivateKey.generate),
        lambda key, tbs: key.sign(tbs),
        2**252 + 27742317777372353535851937790883648493,
    ),
    "Ed448": Kind(
        algorithm("1.3.101.113"), cache(ed448.Ed448PrivateKey.generate),
        lambda key, tbs: key.sign(tbs),
    ),
    "DSA": Kind(
        algorithm("2.16.840.1.101.3.4.3.2"), _dsa,
        lambda key, tbs: key.sign(tbs, hashes.SHA256()),
    ),
}  # fmt: skip


def resigned(made: Cert, kind: Kind, signer: Any, key: Any = None) -> Cert:
    """The certificate with a signature of this kind, and `key` for its own if given."""
    elements = list(der_elements(der_content(made.certificate.tbs_certificate_bytes)))
    elements[2] = kind.algorithm
    if key:
        elements[6] = spki_of(key)
    tbs = der(0x30, *elements)
    whole = der(0x30, tbs, kind.algorithm, der(3, b"\0" + kind.sign(signer, tbs)))
    return Cert(x509.load_der_x509_certificate(whole), key or made.key, made.above)


def authority(kind: Kind, made: Cert) -> Cert:
    """The self-signed CA with a key of this kind."""
    return resigned(made, kind, kind.key(), kind.key())


def issue(kind: Kind, by: Cert, subject: Name = "CN=alice,OU=eng,O=acme", ca: bool = False) -> Cert:
    """A certificate that a CA of this kind signs: a client's, or an intermediate's (EC key)."""
    own = Cert(by.certificate, ec.generate_private_key(ec.SECP256R1()), by.above)
    made = own.authority(subject) if ca else own.issue(subject)
    signed = resigned(made, kind, by.key)
    return Cert(signed.certificate, signed.key, (by, *by.above))


# ---- What a holder can do ------------------------------------------------------------------------


def parts(whole: bytes) -> tuple[bytes, bytes, bytes]:
    """The TBSCertificate, the algorithm, and the signature without its BIT STRING."""
    tbs, signed_by, bits = der_elements(der_content(whole))
    return tbs, signed_by, der_content(bits)[1:]


def put_together(tbs: bytes, signed_by: bytes, signature: bytes, unused: int = 0) -> bytes:
    return der(0x30, tbs, signed_by, der(3, bytes([unused]) + signature))


def twin(cert: Cert, order: int = P256) -> Cert:
    """The certificate with the other ECDSA signature; a path with it stays as it was."""
    tbs, signed_by, signature = parts(cert.der)
    r, s = decode_dss_signature(signature)
    whole = put_together(tbs, signed_by, encode_dss_signature(r, order - s))
    return Cert(x509.load_der_x509_certificate(whole), cert.key, cert.above)


def cut(cert: Cert) -> Cert:
    """An RSA-PSS signature without its first zero."""
    tbs, signed_by, signature = parts(cert.der)
    assert signature[0] == 0
    whole = put_together(tbs, signed_by, signature[1:])
    return Cert(x509.load_der_x509_certificate(whole), cert.key, cert.above)


def _pairs(r: int, s: int, order: int) -> Iterator[tuple[str, bytes]]:
    """Of a signature (r, s) in DER."""

    def integer(value: int, zeros: int = 0) -> bytes:
        return der(2, bytes(zeros) + value.to_bytes(value.bit_length() // 8 + 1))

    good = encode_dss_signature(r, s)
    yield "n - s", encode_dss_signature(r, order - s)
    yield "s + n", encode_dss_signature(r, s + order)
    yield "r + n", encode_dss_signature(r + order, s)
    yield "-s", der(0x30, integer(r), der(2, (-s).to_bytes(s.bit_length() // 8 + 1, signed=True)))
    yield "zeros before r", der(0x30, integer(r, 1), integer(s))
    yield "zeros before s", der(0x30, integer(r), integer(s, 1))
    yield "a long length", b"\x30\x81" + good[1:] if good[1] < 128 else b"\x30\x82\0" + good[2:]
    yield "no length", b"\x30\x80" + der_content(good) + b"\0\0"
    yield "a third number", der(0x30, der_content(good), der(2, b"\0"))


def changed(cert: Cert, kind: Kind) -> Iterator[tuple[str, bytes]]:
    """Every way that we know to write the certificate again without the CA's key, with its name."""
    tbs, signed_by, signature = parts(cert.der)
    name, *parameters = der_elements(der_content(signed_by))
    for bits in (1, 7):
        yield f"{bits} unused bits", put_together(tbs, signed_by, signature, bits)
    yield "a byte behind", put_together(tbs, signed_by, signature + b"\0")
    yield "a zero before", put_together(tbs, signed_by, b"\0" + signature)
    yield "a byte less before", put_together(tbs, signed_by, signature[1:])
    yield "a byte less behind", put_together(tbs, signed_by, signature[:-1])
    other = [] if parameters else [der(5)]
    yield "other parameters", put_together(tbs, der(0x30, name, *other), signature)
    content = der_content(cert.der)
    yield "a long outer length", b"\x30\x83" + len(content).to_bytes(3) + content
    yield "no outer length", b"\x30\x80" + content + b"\0\0"
    long = b"\x03\x83" + (len(signature) + 1).to_bytes(3) + b"\0" + signature
    yield "a long length of the bits", der(0x30, tbs, signed_by, long)
    pieces = der(3, b"\0" + signature[:9]), der(3, signature[9:])
    yield "bits in pieces", der(0x30, tbs, signed_by, der(0x23, *pieces))
    long = b"\x30\x82" + len(der_content(signed_by)).to_bytes(2) + der_content(signed_by)
    yield "a long length of the algorithm", put_together(tbs, long, signature)
    key = kind.key()
    if isinstance(key, rsa.RSAPrivateKey):
        modulus, number = key.private_numbers().public_numbers.n, int.from_bytes(signature)
        for what, value in (("s + n", number + modulus), ("n - s", modulus - number)):
            yield what, put_together(tbs, signed_by, value.to_bytes(257).lstrip(b"\0"))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        scalar = int.from_bytes(signature[32:], "little") + kind.order
        yield "S + L", put_together(tbs, signed_by, signature[:32] + scalar.to_bytes(32, "little"))
    elif not isinstance(key, ed448.Ed448PrivateKey):
        is_dsa = isinstance(key, dsa.DSAPrivateKey)
        order = key.private_numbers().public_numbers.parameter_numbers.q if is_dsa else kind.order
        for what, pair in _pairs(*decode_dss_signature(signature), order):
            yield what, put_together(tbs, signed_by, pair)
