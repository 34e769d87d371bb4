"""The one reader for every file and upload: certificates, revocation lists, requests and keys,
however a program or a person has stored them.

Text may stand around PEM blocks, in any encoding; lines may end as they like; DER is told by what
it holds. PKCS#7 is opened. What cannot be taken is refused by what it is, with the command that
converts it. All objects count: nothing behind the first one is dropped.

Nothing is verified here, and no library is asked: what stands where is told by the outermost
DER."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from control.pki.guarded import CertificateError

Kind = Literal[
    "certificate", "revocation list", "certificate signing request", "private key",
    "encrypted private key", "public key", "trusted certificate", "PKCS#7", "PKCS#12", "",
]  # fmt: skip
LABELS: dict[str, Kind] = {
    "CERTIFICATE": "certificate",
    "X509 CERTIFICATE": "certificate",
    "TRUSTED CERTIFICATE": "trusted certificate",
    "X509 CRL": "revocation list",
    "CERTIFICATE REQUEST": "certificate signing request",
    "NEW CERTIFICATE REQUEST": "certificate signing request",
    "PKCS7": "PKCS#7",
    "CMS": "PKCS#7",
    "PKCS12": "PKCS#12",
    "PUBLIC KEY": "public key",
    "RSA PUBLIC KEY": "public key",
    "ENCRYPTED PRIVATE KEY": "encrypted private key",
}
PARAMETERS = ("EC PARAMETERS", "DH PARAMETERS", "DSA PARAMETERS")  # they come before keys
BEGIN, END, DASHES = b"-----BEGIN ", b"-----END ", b"-----"
SEQUENCE, INTEGER, BITS, OCTETS, OID, TIMES = 0x30, 2, 3, 4, 6, (0x17, 0x18)
SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
STORES = {b"\xfe\xed\xfe\xed": "a Java keystore", b"\xce\xce\xce\xce": "a Java keystore"}
CURES: dict[str, str] = {
    "trusted certificate": "`openssl x509 -in FILE -out plain.pem` makes a plain one of it",
    "PKCS#12": "`openssl pkcs12 -in FILE -nokeys -out certificates.pem` takes the certificates out "
    "of it, `-nocerts -noenc` the key",
    "certificate signing request": "it is what a CA makes a certificate of: send that",
    "revocation list": "`redis-certauth crl import` takes it",
    "certificate": "",
    "public key": "",
    "encrypted private key": "`openssl pkey -in FILE -out plain.key` decrypts it",
}


class PrivateKeyError(CertificateError):
    """A private key is where only certificates should be."""


class Object(NamedTuple):
    """One object of a file: its kind and DER. Of a private key in PEM also that, which may have
    the headers of its encryption."""

    kind: Kind
    der: bytes
    pem: str = ""


# ---- DER -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """An element of DER: its tag, and where it and its content stand."""

    of: bytes
    tag: int
    start: int
    begin: int
    end: int

    @property
    def content(self) -> bytes:
        """Its bytes without tag and length."""
        return self.of[self.begin : self.end]

    @property
    def whole(self) -> bytes:
        """Its bytes with tag and length."""
        return self.of[self.start : self.end]

    def elements(self) -> list["Element"]:
        """What stands within; nothing where that is not DER."""
        found, at = list[Element](), self.begin
        while at < self.end:
            one = element(self.of, at, self.end)
            if one is None:
                return []
            found.append(one)
            at = one.end
        return found


def element(of: bytes, at: int, end: int) -> Element | None:
    """The element at a place; None where it is not one, or goes beyond `end`."""
    if at + 2 > end or of[at] & 0x1F == 0x1F:
        return None
    length, begin = of[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or begin + count > end:
            return None
        length, begin = int.from_bytes(of[begin : begin + count]), begin + count
    return Element(of, of[at], at, begin, begin + length) if begin + length <= end else None


def kind_of(one: Element) -> Kind:
    """What the DER of an object is, by its shape."""
    parts = one.elements() if one.tag == SEQUENCE else []
    tags = [part.tag for part in parts]
    if tags[:1] == [OID]:
        return "PKCS#7" if parts[0].content == SIGNED_DATA else ""
    if tags[:1] == [INTEGER]:
        if tags[1:2] == [SEQUENCE] and parts[0].content == b"\3":
            return "PKCS#12"
        return "private key" if parts[0].content in (b"\0", b"\1") else ""
    if tags == [SEQUENCE, OCTETS]:
        return "encrypted private key"
    if tags == [SEQUENCE, BITS]:
        return "public key"
    return _signed_kind(parts[0]) if tags == [SEQUENCE, SEQUENCE, BITS] else ""


def _signed_kind(signed: Element) -> Kind:
    tags = [part.tag for part in signed.elements()]
    if (tags[2:3] and tags[2] in TIMES) or (tags[3:4] and tags[3] in TIMES):
        return "revocation list"
    if tags[:1] == [0xA0] or tags[:6] == [INTEGER, *[SEQUENCE] * 5]:
        return "certificate"
    return "certificate signing request" if tags[:3] == [INTEGER, SEQUENCE, SEQUENCE] else ""


def _opened(der: bytes) -> list[Object]:
    """The certificates and lists of a PKCS#7 file. Raises CertificateError."""
    outer = element(der, 0, len(der))
    wrapped = outer.elements()[1:2] if outer else []
    data = wrapped[0].elements() if wrapped else []
    inner = data[0].elements() if data else []
    found: list[Object] = []
    for one in inner:
        kinds: dict[int, Kind] = {0xA0: "certificate", 0xA1: "revocation list"}
        if one.tag in kinds:
            found += [Object(kinds[one.tag], part.whole) for part in one.elements()]
    if not found:
        raise CertificateError(
            "a PKCS#7 file that cannot be opened here, or that holds no certificate: "
            "`openssl pkcs7 -in FILE -print_certs` (-inform DER where it is not text) takes the "
            "certificates out of it"
        )
    return found


# ---- Files ---------------------------------------------------------------------------------------


def objects(content: bytes) -> list[Object]:
    """All that a file or upload holds, in its order; nothing of what is neither PEM nor DER.
    Raises CertificateError where a part of it cannot be read."""
    if _is_der(content):  # first: a name within it may look like text
        return _ders(content)
    content = _as_bytes_of_text(content)
    if BEGIN in content:
        return [found for block in _blocks(content) for found in block]
    if content[:4] in STORES:
        raise CertificateError(
            f"{STORES[content[:4]]}: `keytool -exportcert -rfc -keystore FILE -alias NAME` takes a "
            "certificate out of it"
        )
    found = _ders(content)
    return found or _ders(_base64(content) or b"")


def _is_der(content: bytes) -> bool:
    one = element(content, 0, len(content))
    return one is not None and bool(kind_of(one))


def _as_bytes_of_text(content: bytes) -> bytes:
    """Without what a text's encoding adds; DER as it is."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace").encode()
    for encoding, dash in (("utf-16-le", b"-\0"), ("utf-16-be", b"\0-")):
        if dash * 5 in content:
            return content.decode(encoding, "replace").encode()
    return content.removeprefix(b"\xef\xbb\xbf")


def _base64(content: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _ders(content: bytes) -> list[Object]:
    """Objects in DER, one after the other."""
    found, at = list[Object](), 0
    while at < len(content):
        one = element(content, at, len(content))
        kind = kind_of(one) if one else ""
        if one is None or not kind:
            if found and content[at:].strip():
                raise CertificateError("what stands behind the first object is not DER")
            return found or _indefinite(content)
        found += _opened(one.whole) if kind == "PKCS#7" else [Object(kind, one.whole)]
        at = one.end
    return found


def _indefinite(content: bytes) -> list[Object]:
    """BER with lengths that only its end tells, as some write PKCS#7 and PKCS#12."""
    if content[:2] == b"\x30\x80":
        return _opened(b"") if SIGNED_DATA in content[:20] else [Object("PKCS#12", content)]
    return []


def _blocks(text: bytes) -> Iterator[list[Object]]:
    """The blocks of a PEM text. One look at each byte: who sends it may be anybody."""
    at, number = text.find(BEGIN), 0
    while at >= 0:
        number += 1
        behind = text.find(DASHES, at + len(BEGIN))
        label = text[at + len(BEGIN) : behind].decode("ascii", "replace") if behind > 0 else ""
        where = f"block {number} of the PEM text ({_shown(label)})"
        stop = text.find(END, behind) if behind > 0 else -1
        following = text.find(BEGIN, at + 1)
        if stop < 0 or 0 <= following < stop:
            raise CertificateError(f"{where} does not end: a part of the file is missing")
        tail = END + label.encode() + DASHES
        if not text.startswith(tail, stop):
            raise CertificateError(f"{where} ends as something else")
        end = stop + len(tail)
        yield _block(label, text[behind + len(DASHES) : stop], text[at:end], where)
        at = following


def _shown(label: str) -> str:
    return "".join(c for c in label if c.isprintable())[:40]


def _block(label: str, body: bytes, whole: bytes, where: str) -> list[Object]:
    body = body.replace(b"\\r", b"").replace(b"\\n", b"\n")  # written out, as in JSON
    if label in PARAMETERS:
        return []
    if label.endswith("PRIVATE KEY") and label not in LABELS:
        sealed = b"ENCRYPTED" in body
        pem = whole.replace(b"\\r", b"").replace(b"\\n", b"\n").decode("ascii", "replace")
        return [Object("encrypted private key" if sealed else "private key", b"", pem)]
    if label not in LABELS:
        raise CertificateError(f"{where} is not taken here: certificates, revocation lists, "
                               "requests and keys in PEM or DER are")  # fmt: skip
    der = _base64(body)
    if der is None:
        raise CertificateError(f"{where} is not whole: what stands in it is not base64")
    return _object(label, der)


def _object(label: str, der: bytes) -> list[Object]:
    """What it holds counts: Windows writes PKCS#7 as a CERTIFICATE."""
    kind, one = LABELS[label], element(der, 0, len(der))
    said = kind_of(one) if one and one.end == len(der) else ""
    if said and kind in ("certificate", "revocation list", "certificate signing request"):
        kind = said
    if kind == "PKCS#7":
        return _opened(der)
    pem = render(der, label) if kind == "encrypted private key" else ""
    return [Object(kind, der, pem)]


# ---- What is wanted of one -----------------------------------------------------------------------


def certificates_in(content: bytes) -> tuple[bytes, ...]:
    """The certificates of a file that holds nothing else, DER, in its order. Raises
    CertificateError."""
    return tuple(one.der for one in _wanted(content, "certificate"))


def lists_in(content: bytes) -> tuple[bytes, ...]:
    """The same of revocation lists."""
    return tuple(one.der for one in _wanted(content, "revocation list"))


def request_in(content: bytes) -> bytes:
    """The DER of the one certificate signing request. Raises CertificateError."""
    found = _wanted(content, "certificate signing request")
    if len(found) > 1:
        raise CertificateError(f"{len(found)} certificate requests: send one at a time")
    return found[0].der


def key_in(content: bytes) -> str:
    """PEM of the one private key of a file, encrypted or not; certificates beside it are left.
    Raises CertificateError."""
    found = [one for one in objects(content) if one.kind.endswith("private key")]
    if len(found) != 1:
        others = [one.kind for one in objects(content)]
        what = f"{len(found)} private keys" if found else _described(others, "private key")
        more = f": {what}" if others else ""
        raise CertificateError(f"the key is not a private key in PEM form{more}")
    (key,) = found
    label = "ENCRYPTED PRIVATE KEY" if key.kind == "encrypted private key" else _key_label(key.der)
    return key.pem or render(key.der, label)


def _key_label(der: bytes) -> str:
    whole = element(der, 0, len(der))
    tags = [part.tag for part in whole.elements()] if whole else []
    if tags[1:2] == [OCTETS]:
        return "EC PRIVATE KEY"
    return "RSA PRIVATE KEY" if tags[1:2] == [INTEGER] else "PRIVATE KEY"


def _wanted(content: bytes, kind: Kind) -> list[Object]:
    found = objects(content)
    for one in found:
        if one.kind == kind:
            continue
        if one.kind.endswith("private key") and kind != "certificate signing request":
            raise PrivateKeyError(f"a private key is where a {kind} belongs: it belongs nowhere "
                                  "but to its owner")  # fmt: skip
        raise CertificateError(f"not a {kind}: {_described([one.kind], kind)}")
    if not found:
        raise CertificateError(f"not a {kind} in PEM or DER form")
    return found


def _described(kinds: list[Kind], wanted: str) -> str:
    if not kinds:
        return "neither PEM nor DER"
    cure = CURES.get(kinds[0], "")
    if (kinds[0], wanted) == ("certificate", "revocation list"):
        cure = "CAs that lead to a trusted one are given apart (authorities)"
    article = "an" if kinds[0].startswith("e") else "a"
    return f"it holds {article} {kinds[0]}{f': {cure}' if cure else ''}"


def as_text(content: bytes) -> str:
    """A file as the text that a JSON upload has room for: as it is, or the base64 of DER."""
    text = _as_bytes_of_text(content)
    if not _is_der(content) and (BEGIN in text or _base64(text)):
        return text.decode("utf-8", "replace")
    return base64.b64encode(content).decode()


def render(der: bytes, label: str = "CERTIFICATE") -> str:
    """An object as PEM."""
    body = base64.b64encode(der).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def render_all(ders: tuple[bytes, ...] | list[bytes]) -> str:
    """Certificates as PEM, one after the other."""
    return "".join(render(der) for der in ders)
