"""Our identity against two other readers, over every certificate of the vectors of `cryptography`
(NIST's PKITS among them) and over generated ones of all string types: `cryptography`, whose parser
is its own, and libcrypto's functions behind `openssl x509` (X509_NAME_print_ex with RFC 2253's
flags, i2s_ASN1_INTEGER, ASN1_TIME_diff), called through ctypes, since a process for each would take
hours. Generated certificates are signed by nobody: no reader looks at the signature.

Whatever is not read alike is in DIFFERENCES with the reason; what is there has to occur.
"""

import ctypes
import hashlib
import random
import re
import ssl
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control._core import lib
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    IA5,
    NUMERIC,
    PRINTABLE,
    T61,
    UNIVERSAL,
    UTF8,
    VISIBLE,
    bytes_of,
    encoded,
    oid,
    parse_name,
    text_of,
)
from tests.kit.support import der

Reading = dict[str, Any]  # field → value; what a reader does not tell is left out
UNREAD = "is not read"

# ---- Ours ----------------------------------------------------------------------------------------


def ours(leaf: bytes) -> Reading | str:
    """The fields, or why there are none."""
    try:
        found = raw.read(leaf)
    except ValueError:
        return "no certificate to libcrypto"
    detail = bytes_of(found.detail).decode()
    if found.refusal or found.odd:
        return next((short for short, form in REFUSALS.items() if re.search(form, detail)), detail)
    at, kind, value = (raw.ffi.new(one) for one in ("size_t *", "bind_kind *", "span *"))
    sans = []
    while lib.identity_next_san(found, at, kind, value):
        sans.append((text_of(lib.bind_kind_name(kind[0])), bytes_of(value[0])))
    return {
        "subject": bytes_of(found.subject),
        "issuer": bytes_of(found.issuer),
        "serial": int.from_bytes(bytes_of(found.serial)),
        "not_before": found.not_before,
        "not_after": found.not_after,
        "sans": sans,
        "extensions": bytes_of(found.extensions),
        "cert": bytes(raw.ffi.buffer(found.cert)),
        "key": bytes(raw.ffi.buffer(found.key)),
    }


# ---- `cryptography` ------------------------------------------------------------------------------


def folded(name: pyca.Name) -> bytes:
    return encoded(*([(oid(a.oid.dotted_string), a.value) for a in rdn] for rdn in name.rdns))


def san(one: pyca.GeneralName) -> tuple[str, bytes] | None:
    match one:
        case pyca.DNSName():
            return "dns", one.value.encode()
        case pyca.UniformResourceIdentifier():
            return "uri", one.value.encode()
        case pyca.RFC822Name():
            return "email", one.value.encode()
        case pyca.IPAddress():
            return "ip", one.value.packed
    return None


def sans_of(made: pyca.Certificate) -> list[tuple[str, bytes]]:
    try:
        names = made.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    except pyca.ExtensionNotFound:
        return []
    return [found for one in names if (found := san(one))]


def extensions_of(made: pyca.Certificate) -> bytes:
    """Those that a `bind extension` line may name, as leaf.h encodes them."""
    found = []
    for one in made.extensions:
        if not one.oid.dotted_string.startswith(("2.5.29.", "1.3.6.1.5.5.7.1.")):
            unknown = isinstance(one.value, pyca.UnrecognizedExtension)
            content = one.value.value if unknown else one.value.public_bytes()
            found.append([(oid(one.oid.dotted_string), text_in(content))])
    return encoded(*found)


def text_in(content: bytes) -> str:
    """The text that docs/policy.md says an extension is; "" for none."""
    tag = content[0] if content else 0
    if tag in (UTF8, PRINTABLE, IA5, VISIBLE):
        bodies = [content[at:] for at in (2, 3, 4) if content == der(tag, content[at:])]
        if not bodies:
            return ""
        content = bodies[0]
    try:
        text = content.decode("utf-8" if tag == UTF8 or tag > 31 else "ascii")
    except UnicodeDecodeError:
        return ""
    hidden = any(unicodedata.category(one) in ("Cc", "Cf") for one in text)
    return "" if hidden or len(content) > 1024 else text


def seconds(time: datetime) -> int:
    return int(time.timestamp())


FIELDS: dict[str, Callable[[pyca.Certificate], Any]] = {
    "subject": lambda made: folded(made.subject),
    "issuer": lambda made: folded(made.issuer),
    "serial": lambda made: made.serial_number,
    "not_before": lambda made: seconds(made.not_valid_before_utc),
    "not_after": lambda made: seconds(made.not_valid_after_utc),
    "sans": sans_of,
    "extensions": extensions_of,
    "key": lambda made: hashlib.sha256(
        made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).digest(),
}


def by_cryptography(leaf: bytes) -> Reading:
    """A field that it cannot read is UNREAD."""
    try:
        made = pyca.load_der_x509_certificate(leaf)
    except (ValueError, pyca.InvalidVersion):
        return {"certificate": UNREAD}
    found: Reading = {"cert": hashlib.sha256(leaf).digest()}
    for name, get in FIELDS.items():
        try:
            found[name] = get(made)
        except Exception:  # of many kinds
            found[name] = UNREAD
    return found


# ---- openssl -------------------------------------------------------------------------------------

# As `openssl x509 -nameopt RFC2253,-esc_msb,-dump_unknown,oid`. By names it would write SN for
# surname, which our parser refuses, since many take it for serialNumber.
RFC2253 = 0x1110317 & ~0x1000004 | 0x400000


@cache
def openssl() -> ctypes.CDLL:
    found = ctypes.CDLL("libcrypto.so.3")
    for name in (
        "d2i_X509", "X509_get_subject_name", "X509_get_issuer_name", "X509_get0_serialNumber",
        "X509_get0_notBefore", "X509_get0_notAfter", "X509_get_X509_PUBKEY", "BIO_new", "BIO_s_mem",
        "ASN1_TIME_set", "i2s_ASN1_INTEGER",
    ):  # fmt: skip
        getattr(found, name).restype = ctypes.c_void_p
    return found


def pointer(value: int | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


def written(name: ctypes.c_void_p) -> bytes | str:
    """A name's text as `openssl x509` prints it, in the core's encoding."""
    bio = pointer(openssl().BIO_new(pointer(openssl().BIO_s_mem())))
    try:
        if openssl().X509_NAME_print_ex(bio, name, 0, ctypes.c_ulong(RFC2253)) < 0:
            return UNREAD
        room = ctypes.create_string_buffer(1 << 20)
        length = openssl().BIO_read(bio, room, len(room))
        text = room.raw[: max(length, 0)]
    finally:
        openssl().BIO_free(bio)
    try:
        return parse_name(text.decode()) if text else b""
    except ValueError:
        return UNREAD


def since_1970(time: ctypes.c_void_p) -> int | str:
    epoch = pointer(openssl().ASN1_TIME_set(None, ctypes.c_long(0)))
    days, rest = ctypes.c_int(), ctypes.c_int()
    good = openssl().ASN1_TIME_diff(ctypes.byref(days), ctypes.byref(rest), epoch, time)
    openssl().ASN1_STRING_free(epoch)
    return days.value * 86400 + rest.value if good else UNREAD


def number(serial: ctypes.c_void_p) -> int:
    text = pointer(openssl().i2s_ASN1_INTEGER(None, serial))
    found = int(ctypes.string_at(text), 0)
    openssl().CRYPTO_free(text, None, 0)
    return found


def key_of(certificate: ctypes.c_void_p) -> bytes:
    out = ctypes.c_void_p()
    key = pointer(openssl().X509_get_X509_PUBKEY(certificate))
    length = openssl().i2d_X509_PUBKEY(key, ctypes.byref(out))
    spki = ctypes.string_at(out, length)
    openssl().CRYPTO_free(out, None, 0)
    return hashlib.sha256(spki).digest()


def by_openssl(leaf: bytes) -> Reading:
    at = ctypes.c_char_p(leaf)
    made = pointer(openssl().d2i_X509(None, ctypes.byref(at), ctypes.c_long(len(leaf))))
    openssl().ERR_clear_error()
    if not made:
        return {"certificate": UNREAD}

    def part(name: str) -> ctypes.c_void_p:
        return pointer(getattr(openssl(), name)(made))

    try:
        return {
            "subject": written(part("X509_get_subject_name")),
            "issuer": written(part("X509_get_issuer_name")),
            "serial": number(part("X509_get0_serialNumber")),
            "not_before": since_1970(part("X509_get0_notBefore")),
            "not_after": since_1970(part("X509_get0_notAfter")),
            "key": key_of(made),
        }
    finally:
        openssl().X509_free(made)
        openssl().ERR_clear_error()


READERS = {"cryptography": by_cryptography, "openssl": by_openssl}

# ---- Certificates --------------------------------------------------------------------------------

VECTORS = Path(str(files("cryptography_vectors"))) / "x509"
BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def vectors() -> Iterator[bytes]:
    """Each certificate of the package's X.509 set; a file of something else is none."""
    for path in sorted(VECTORS.rglob("*")):
        if path.suffix in (".crt", ".der"):
            yield path.read_bytes()
        elif path.suffix == ".pem":
            for block in BLOCK.findall(path.read_text(errors="replace")):
                yield ssl.PEM_cert_to_DER_cert(block)


KINDS = [
    oid(f"2.5.4.{last}") for last in (3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 17, 42, 46, 65, 97)
]
KINDS += [raw.DC, raw.UID, raw.EMAIL, oid("1.3.6.1.4.1.99999.1"), oid("2.999.1"), oid("1.2")]
TYPES = [UTF8, UTF8, PRINTABLE, T61, BMP, UNIVERSAL, IA5, NUMERIC]
VALUES = [
    "alice", "John Doe", "0", "a=b", "a,b", 'a"b', "a\\b", "#a", "<a>", "a;b", "a+b", " a ", "  ",
    ',=+"\\#<>;', "a\\00", "CN=admin", "/CN=admin", "a/b", "'", "@*&_", "x" * 300, "a" * 1500,
]  # fmt: skip
FOREIGN = ["josé", "jose\u0301", "爱丽丝", "алиса", "😀", "ﷺ", "ß", "\xa0", "é" * 200]
HOSTILE = ["", "a\0", "alice\0.evil", "\r\n", "a\tb", "\x7f", "\x85", "\u200b", "\u202e", "\ufeff"]
BYTES = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\xe9", b"\0a\0", b"\xd8\x00", b"\0\0\xd8\0"]
BYTES += [b"\xd8\x3d\xde\x00", b"\0\x11\0\0", b"\0\0"]


def some_value(rng: random.Random, tag: int) -> bytes:
    if rng.random() < 0.01:
        return rng.choice(BYTES)
    hostile = rng.random() < 0.02
    text = rng.choice(HOSTILE if hostile else VALUES + (FOREIGN if rng.random() < 0.3 else []))
    try:
        return raw.encode(text, tag) if tag != T61 else text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def some_name(rng: random.Random) -> bytes:
    """Its RDNs hold one attribute or several, in any order, the same type again and again."""

    def attribute() -> bytes:
        tag = rng.choice(TYPES) if rng.random() < 0.99 else VISIBLE
        return der(0x30, der(6, rng.choice(KINDS)), der(tag, some_value(rng, tag)))

    rdns: list[bytes] = []
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4])):
        parts = [attribute() for _ in range(rng.choice([1, 1, 1, 1, 2, 3]))]
        if rng.random() < 0.005:
            parts = rng.choice([[], parts + parts[:1]])
        rdns.append(der(0x31, *sorted(parts)))
        if rng.random() < 0.05:
            rdns.append(rdns[0])
    return der(0x30, *rdns)


def some_sans(rng: random.Random) -> list[bytes]:
    tags = [0x81, 0x82, 0x86]
    names = ["a.example", "*.b", "x@y", "spiffe://x/a", "a, URI:b", "a\0b", "é", ""]
    weights = [30, 20, 20, 20, 10, 1, 1, 1]
    parts = [
        der(rng.choice(tags), rng.choices(names, weights)[0].encode()) if rng.random() < 0.8
        else der(0x87, rng.randbytes(rng.choice([4, 4, 4, 16, 16, 16, 5])))
        for _ in range(rng.choice([0, 0, 1, 2, 5]))
    ]  # fmt: skip
    return [raw.sans(*parts)] if parts else []


def some_extensions(rng: random.Random) -> list[bytes]:
    """None twice, which `cryptography` does not read."""
    found = []
    for kind in rng.sample(["1.3.6.1.4.1.99999.1", "2.999.1", "2.5.4.5"], rng.choice([0, 1, 2])):
        tag = rng.choice([*TYPES, VISIBLE])
        content = some_value(rng, tag)
        wrapped = [der(tag, content), der(tag, content), content, der(tag, content) + b"\0"]
        wrapped += [bytes([tag, 0x81, len(content) % 256]) + content]
        found.append(raw.extension(oid(kind), rng.choice(wrapped)))
    return found


@cache
def spki() -> bytes:
    return raw.spki_of(raw.leaf_key())


def generated(count: int) -> Iterator[bytes]:
    rng = random.Random(10)
    for _ in range(count):
        begin, end = (
            raw.utc(f"{rng.randrange(100):02}0228235959Z") if rng.random() < 0.7
            else raw.generalized(f"{rng.randrange(2050, 10000)}1231000000Z")
            for _ in "ab"
        )  # fmt: skip
        serial = rng.choice([b"\1", b"\0", b"\x7f" + rng.randbytes(rng.randrange(40)), b"\xff"])
        tbs = der(
            0x30, der(0xA0, der(2, b"\2")), der(2, serial), raw.ECDSA_SHA256, some_name(rng),
            der(0x30, begin, end), some_name(rng), spki(),
            *(
                der(0xA3, der(0x30, *found))
                for found in [some_sans(rng) + some_extensions(rng)]
                if found
            ),
        )  # fmt: skip
        yield der(0x30, tbs, raw.ECDSA_SHA256, der(3, b"\0" + der(0x30, der(2, b"\1") * 2)))


# ---- What is not read alike ----------------------------------------------------------------------


def differences(leaves: Iterable[bytes]) -> dict[tuple[str, str], int]:
    """(other reader, what) → in how many certificates. `what` is our refusal of a certificate that
    the other reads whole, or a field of which the two say different things."""
    count: dict[tuple[str, str], int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for leaf in leaves:
            mine = ours(leaf)
            for name, read in READERS.items():
                for what in compared(mine, read(leaf)):
                    count[name, what] = count.get((name, what), 0) + 1
    return count


def compared(mine: Reading | str, other: Reading) -> Iterator[str]:
    unread = [field for field, value in other.items() if value == UNREAD]
    if isinstance(mine, str):
        if not unread:
            yield mine
        return
    for field in unread:
        yield f"{field} {UNREAD}"
    for field, value in other.items():
        if value != UNREAD and value != mine[field]:
            yield field


NAME = "a value of a name is not clean text"
NAMES = "a subject alternative name is not clean text"
NUMBER = "the serial number is negative or longer than 32 bytes"
CRITICAL = "a critical extension that libcrypto does not know"
TWICE = "an extension does not parse or stands twice"
EMPTY, LONG = "an empty RDN", "a long name"
# What each refusal names besides is not what the readers differ by.
REFUSALS = {
    NAME: r"'s attribute \d+, \S+, is (empty|not clean text|a .*, and no text)",
    NAMES: r"^subject alternative name \d+, \w+, (is (empty|not clean text)|has \d+ bytes)",
    CRITICAL: r"^extension \d+, [\d.]+, is critical",
    TWICE: r"^extension \d+, [\d.]+, (stands twice|does not parse)|^its extensions contradict",
    EMPTY: r"^the (subject|issuer) has an empty RDN",
    LONG: r"^the (subject|issuer) (is longer|has more)",
}
STRICT = "We refuse by name what could pass for somebody else; the other reads it for display."
RANGE = "RFC 5280 4.1.2.2 wants a positive number of at most 20 bytes; the other reads any."
UNKNOWN = "RFC 5280 4.2 has a verifier refuse it; to read a certificate is not to verify it."
VECTOR, MADE = "vectors", "generated"
DIFFERENCES: dict[tuple[str, str], tuple[set[str], str]] = {
    **{(other, NAME): ({MADE}, STRICT) for other in READERS},
    **{(other, NAMES): ({VECTOR, MADE}, STRICT) for other in READERS},
    **{(other, NUMBER): ({VECTOR, MADE}, RANGE) for other in READERS},
    **{(other, CRITICAL): ({VECTOR}, UNKNOWN) for other in READERS},
    ("openssl", TWICE): ({VECTOR}, "X509_NAME_print_ex and its like look at no extension."),
    ("openssl", EMPTY): (
        {MADE},
        "libcrypto drops an empty RDN, so that two names are printed alike; X.501 9.2 forbids it.",
    ),
    ("cryptography", LONG): (
        {MADE},
        "It is over NAME_BYTES. libcrypto prints it, but as text we do not take it either.",
    ),
    ("cryptography", "no certificate to libcrypto"): (
        {MADE},
        "libcrypto takes no VisibleString in a name and checks the length of wide strings; such a "
        "certificate ends the handshake.",
    ),
    ("cryptography", f"certificate {UNREAD}"): (
        {VECTOR, MADE},
        "Its parser is stricter: PrintableString with other characters, defaults that are encoded, "
        "versions that do not exist. libcrypto, and with it the handshake, takes them; the text is "
        "ASCII, and is compared as it is.",
    ),
    ("cryptography", f"key {UNREAD}"): (
        {VECTOR},
        "It has no such algorithm; a key id is a hash of the bytes.",
    ),
    ("cryptography", "key"): (
        {VECTOR},
        "It writes the key again, without the parameters of RSASSA-PSS and with an EC point in its "
        "own form; a key id is a hash of the bytes in the certificate.",
    ),
    **{
        ("cryptography", f"{field} {UNREAD}"): (
            {VECTOR},
            "It reads all extensions or none, and one that we do not need is not to its liking.",
        )
        for field in ("sans", "extensions")
    },
}


def named(where: str) -> set[tuple[str, str]]:
    return {one for one, (places, _) in DIFFERENCES.items() if where in places}


def test_the_vectors_are_read_alike() -> None:
    """NIST's 405 certificates and those of `cryptography` itself."""
    leaves = list(vectors())
    assert len(leaves) > 500
    assert set(differences(leaves)) == named(VECTOR)


@pytest.mark.parametrize(
    "count",
    [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_generated_certificates_are_read_alike(count: int) -> None:
    """All string types, odd contents, names of several attributes, repeated and unknown ones."""
    assert set(differences(generated(count))) == named(MADE)


def test_a_difference_would_be_seen() -> None:
    """Each field that is compared, changed by itself."""
    mine = ours(raw.certificate(raw.person("alice"), raw.sans(raw.dns("a.example"))))
    assert isinstance(mine, dict)
    for field in mine:
        assert list(compared(mine, {**mine, field: "another"})) == [field]
        assert list(compared(mine, {**mine, field: UNREAD})) == [f"{field} {UNREAD}"]
    assert list(compared("refused", mine)) == ["refused"]
