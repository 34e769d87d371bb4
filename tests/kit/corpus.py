"""Certificates, lists and requests as twenty years of programs have made them, by a generator over
structure: each oddity alone, and beside another. All are signed by `certs.ca()`."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kit import certs, crls
from tests.kit.certs import CN, UTF8, O, attribute, extension, name, oid, person
from tests.kit.support import Cert, der, der_content, der_elements, signed_tbs

TRUE, FALSE = der(1, b"\xff"), der(1, b"\0")
AKI, TLS_FEATURE, NAME_CONSTRAINTS = oid("2.5.29.35"), oid("1.3.6.1.5.5.7.1.24"), oid("2.5.29.30")
CPS_NUMBER = der(0x30, der(6, oid("1.3.6.1.5.5.7.2.1")), der(2, b"\1"))


def constraints(*content: bytes) -> bytes:
    return extension(certs.BASIC_CONSTRAINTS, der(0x30, *content), True)


# Extensions that programs write, and that one parser or another will not read.
EXTENSIONS: dict[str, bytes] = {
    "CA:FALSE in full": constraints(FALSE),
    "a path length without CA": constraints(der(2, b"\0")),
    "both": constraints(FALSE, der(2, b"\0")),
    "decipherOnly": certs.key_usage(b"\x07\x80\x80"),
    "no usage at all": certs.key_usage(b"\0"),
    "TLS feature 6": extension(TLS_FEATURE, der(0x30, der(2, b"\6"))),
    "TLS feature 17": extension(TLS_FEATURE, der(0x30, der(2, b"\x11"))),
    "no TLS feature": extension(TLS_FEATURE, der(0x30)),
    "key identifier with an issuer alone": extension(
        AKI, der(0x30, der(0xA1, der(0xA4, person("Root CA"))))
    ),
    "an empty key identifier": extension(AKI, der(0x30)),
    "x400Address": certs.sans(der(0xA3, der(0x30))),
    "ediPartyName": certs.sans(der(0xA5, der(0xA1, der(12, b"x")))),
    "registeredID": certs.sans(der(0x88, oid("1.2.3"))),
    "an IP address of five bytes": certs.sans(certs.ip(b"12345")),
    "an empty e-mail address": certs.sans(certs.email("")),
    "no name": certs.sans(),
    "a name twice": certs.sans(certs.dns("a.example"), certs.dns("a.example")),
    "a URI": certs.sans(certs.uri("spiffe://acme/cart")),
    "name constraints with a wrong address": extension(
        NAME_CONSTRAINTS, der(0x30, der(0xA0, der(0x30, der(0x87, b"123"))))
    ),
    "a policy qualifier of another type": extension(
        certs.CERTIFICATE_POLICIES,
        der(0x30, der(0x30, der(6, oid("1.2.3")), der(0x30, CPS_NUMBER))),
    ),
    "something private": extension(oid("1.3.6.1.4.1.99999.1"), b"\4\1x"),
    "what is not DER": extension(oid("1.3.6.1.4.1.99999.2"), b"\x30\x80"),
}
NAMES: dict[str, bytes] = {
    "no subject": name(),
    "PrintableString with *": person("*.acme@", certs.PRINTABLE),
    "T61String": person(b"Soci\xe9t\xe9", certs.T61),
    "BMPString": person("Müller", certs.BMP),
    "an empty value": name([(O, "")], [(CN, "alice")]),
    "a blank": name([(O, " ")], [(CN, "alice")]),
    "a BIT STRING": name([(O, "acme")], [(oid("2.5.4.45"), b"\0\1", 3)], [(CN, "alice")]),
    "two of a kind": der(0x30, der(0x31, attribute(CN, "a"), attribute(CN, "b"))),
    "twins": der(0x30, der(0x31, attribute(CN, "a"), attribute(CN, "a"))),
    "an RDN out of order": der(0x30, der(0x31, attribute(CN, "b"), attribute(CN, "a"))),
    "no RDN": der(0x30, der(0x31)),
    "200 attributes": name(*([(O, "x")] for _ in range(200))),
    "a NUL": person(b"a\0b"),
    "not UTF-8": person(b"\xff", UTF8),
}
SERIALS = {"zero": b"\0", "negative": b"\xff", "long": b"\1" * 40, "padded": b"\0\1"}
YEARS = {
    "year 0": (certs.generalized("00000101000000Z"), certs.VALIDITY[1]),
    "no seconds": (certs.utc("2001010000Z"), certs.VALIDITY[1]),
    "an offset": (certs.utc("200101000000+0100"), certs.VALIDITY[1]),
    "fractions": (certs.generalized("20200101000000.5Z"), certs.VALIDITY[1]),
    "for ever": (certs.VALIDITY[0], certs.generalized("99991231235959Z")),
    "ended": (certs.VALIDITY[0], certs.utc("210101000000Z")),
}
VERSIONS = {"v1": None, "v1 in full": 0, "v2": 1, "v4": 3, "v121": 120}


def of_version(number: int | None, *extensions: bytes) -> bytes:
    """As certs.certificate, whose version is 3."""
    by = certs.ca()
    elements = [
        *([der(0xA0, der(2, bytes([number])))] if number is not None else []),
        der(2, b"\x05"), certs.ECDSA_SHA256, by.certificate.subject.public_bytes(),
        der(0x30, *certs.VALIDITY), person("alice"), certs.spki_of(certs.leaf_key()),
        *([der(0xA3, der(0x30, *extensions))] if extensions else []),
    ]  # fmt: skip
    return signed_tbs(elements, by.key)


def leaf(subject: bytes, *more: bytes, **options: Any) -> bytes:
    """Of a client. Extensions of the usual kinds among `more` stand in their place."""
    usual = [one for one in certs.USUAL if kind(one) not in map(kind, more)]
    return certs.certificate(subject, *more, **{"serial": b"\5", **options}, extensions=usual)


def kind(one: bytes) -> bytes:
    """The OID of an extension."""
    return next(der_elements(der_content(one)))


def certificates() -> Iterator[tuple[str, bytes]]:
    """Name and DER of each."""
    for what, one in EXTENSIONS.items():
        yield what, leaf(person("alice"), one)
        yield f"{what}, without a subject", leaf(name(), one)
    for (what, one), (other, two) in pairwise(EXTENSIONS.items()):
        yield f"{what}; {other}", leaf(person("alice"), one, two)
    for what, subject in NAMES.items():
        yield what, leaf(subject)
        yield f"{what}, with a URI", leaf(subject, EXTENSIONS["a URI"])
        yield f"{what} of the issuer", certs.certificate(person("alice"), issuer=subject)
    for what, serial in SERIALS.items():
        yield f"serial {what}", leaf(person("alice"), serial=serial)
    for what, validity in YEARS.items():
        yield what, leaf(person("alice"), validity=validity)
    for what, number in VERSIONS.items():
        yield what, of_version(number)
        yield f"{what}, with extensions", of_version(number, *certs.USUAL)


def authorities() -> Iterator[tuple[str, bytes]]:
    """The same of CAs that `certs.ca()` has issued."""
    for what, one in EXTENSIONS.items():
        usual = [other for other in certs.CA_USUAL if kind(other) != kind(one)]
        yield what, certs.certificate(person("Middle CA"), one, extensions=usual)
    for what, subject in NAMES.items():
        yield what, certs.certificate(subject, extensions=certs.CA_USUAL)
    for what, validity in YEARS.items():
        ca = certs.certificate(person("Middle CA"), validity=validity, extensions=certs.CA_USUAL)
        yield what, ca


def lists(ca: Cert) -> Iterator[tuple[str, bytes]]:
    """Revocation lists of a CA: of each version, and signed as nobody signs any more."""
    signed = x509.load_der_x509_crl(crls.crl(ca)).tbs_certlist_bytes
    version, algorithm, *rest = der_elements(der_content(signed))
    for number in (0, 1, 2, 120):
        yield f"version {number}", _list(ca, der(2, bytes([number])), algorithm, *rest)
    yield "no version", _list(ca, algorithm, *rest)
    yield "no times", _list(ca, version, algorithm, rest[0])
    sha1 = der(0x30, der(6, oid("1.2.840.10045.4.1")))
    yield "SHA-1", _list(ca, version, sha1, *rest, algorithm=sha1)


def _list(ca: Cert, *elements: bytes, algorithm: bytes = certs.ECDSA_SHA256) -> bytes:
    signed = der(0x30, *elements)
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    signature = ca.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return der(0x30, signed, algorithm, der(3, b"\0", signature))


REQUESTED = {
    "nothing": [],
    "TLS feature 6": [("1.3.6.1.5.5.7.1.24", b"\x30\3\2\1\6")],
    "a SAN that is none": [("2.5.29.17", b"\x30\2\xa3\0")],
    "usage that is none": [("2.5.29.15", b"\5\0")],
    "constraints that are none": [("2.5.29.19", b"\x30\x80")],
    "something private": [("1.3.6.1.4.1.99999.1", b"x")],
}


def requests() -> Iterator[tuple[str, str]]:
    """PEM of requests that ask for what one parser or another will not read."""
    for what, asked in REQUESTED.items():
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        for kind, content in asked:
            odd = x509.UnrecognizedExtension(x509.ObjectIdentifier(kind), content)
            made = made.add_extension(odd, critical=False)
        csr = made.sign(certs.leaf_key(), hashes.SHA256())
        yield what, csr.public_bytes(serialization.Encoding.PEM).decode()
