"""Certificates byte by byte, and the core without control/policy/core.py between: for tests that
send what no builder would make, or that ask what Python does not show."""

import base64
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control._core import ffi, lib
from control.policy.core import Policy
from tests.kit import certs as raw
from tests.kit.support import Cert, der, root, signed_tbs

# No test of the core looks at the clock: its certificates are valid from 2020 to 2049.
NOW = 1_800_000_000
BEGIN, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

# ---- DER -----------------------------------------------------------------------------------------

UTF8, NUMERIC, PRINTABLE, T61, IA5, VISIBLE, UNIVERSAL, BMP = 12, 18, 19, 20, 22, 26, 28, 30


def oid(dotted: str) -> bytes:
    """Content of the DER of an object identifier."""
    first, second, *arcs = map(int, dotted.split("."))
    out = b""
    for arc in (40 * first + second, *arcs):
        septets = [arc >> shift & 127 for shift in range(0, max(arc.bit_length(), 1), 7)][::-1]
        out += bytes([*(septet | 128 for septet in septets[:-1]), septets[-1]])
    return out


CN, SURNAME, SERIAL_NUMBER = oid("2.5.4.3"), oid("2.5.4.4"), oid("2.5.4.5")
C, L, ST, O, OU = (oid(f"2.5.4.{last}") for last in (6, 7, 8, 10, 11))  # noqa: E741
DC, UID = oid("0.9.2342.19200300.100.1.25"), oid("0.9.2342.19200300.100.1.1")
EMAIL = oid("1.2.840.113549.1.9.1")
UPN = oid("1.3.6.1.4.1.311.20.2.3")
BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SAN, CERTIFICATE_POLICIES = map(
    oid, ("2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17", "2.5.29.32")
)
CLIENT_AUTH, SERVER_AUTH = oid("1.3.6.1.5.5.7.3.2"), oid("1.3.6.1.5.5.7.3.1")
ANY_USAGE = oid("2.5.29.37.0")
ECDSA_SHA256 = der(0x30, der(6, oid("1.2.840.10045.4.3.2")))

# (type, value[, string tag]); a str is encoded as its tag asks.
Attribute = tuple[bytes, str | bytes] | tuple[bytes, str | bytes, int]
WIDE = {BMP: "utf-16-be", UNIVERSAL: "utf-32-be", T61: "latin-1"}


def encode(value: str | bytes, tag: int) -> bytes:
    return value if isinstance(value, bytes) else value.encode(WIDE.get(tag, "utf-8"))


def attribute(kind: bytes, value: str | bytes, tag: int = UTF8) -> bytes:
    return der(0x30, der(6, kind), der(tag, encode(value, tag)))


def name(*rdns: Sequence[Attribute]) -> bytes:
    """DER of a name, its RDNs in the order of the certificate. Sorts nothing, checks nothing."""
    return der(0x30, *(der(0x31, *(attribute(*one) for one in rdn)) for rdn in rdns))


def person(common_name: str | bytes, tag: int = UTF8) -> bytes:
    """CN=`common_name`,O=acme."""
    return name([(O, "acme")], [(CN, common_name, tag)])


def encoded(*rdns: Sequence[tuple[bytes, str]]) -> bytes:
    """The core's encoding of a name, as name.h describes it."""
    out = b""
    for rdn in rdns:
        for index, one in enumerate(sorted(_encoded(*one) for one in rdn)):
            out += bytes([index == 0]) + one
    return out


def _encoded(kind: bytes, value: str) -> bytes:
    text = value.encode()
    return bytes([len(kind)]) + kind + len(text).to_bytes(2) + text


def extension(kind: bytes, content: bytes, critical: bool = False) -> bytes:
    flag = [der(1, b"\xff")] if critical else []
    return der(0x30, der(6, kind), *flag, der(4, content))


def purposes(*kinds: bytes, critical: bool = False) -> bytes:
    """The extended key usage extension."""
    return extension(EXTENDED_KEY_USAGE, der(0x30, *(der(6, one) for one in kinds)), critical)


def policies(*kinds: bytes, critical: bool = False) -> bytes:
    """The certificate policies extension, without qualifiers."""
    listed = der(0x30, *(der(0x30, der(6, one)) for one in kinds))
    return extension(CERTIFICATE_POLICIES, listed, critical)


def key_usage(bits: bytes) -> bytes:
    """`bits`: how many of the last byte are unused, then the bytes of the BIT STRING."""
    return extension(KEY_USAGE, der(3, bits), True)


def constraints(ca: bool) -> bytes:
    return extension(BASIC_CONSTRAINTS, der(0x30, *([der(1, b"\xff")] if ca else [])), True)


def sans(*names: bytes) -> bytes:
    """The subject alternative names extension."""
    return extension(SAN, der(0x30, *names))


def email(value: str | bytes) -> bytes:
    return der(0x81, encode(value, IA5))


def dns(value: str | bytes) -> bytes:
    return der(0x82, encode(value, IA5))


def uri(value: str | bytes) -> bytes:
    return der(0x86, encode(value, IA5))


def ip(value: bytes) -> bytes:
    return der(0x87, value)


def upn(value: str | bytes, tag: int = UTF8) -> bytes:
    return der(0xA0, der(6, UPN), der(0xA0, der(tag, encode(value, tag))))


def utc(text: str) -> bytes:
    return der(23, text.encode())


def generalized(text: str) -> bytes:
    return der(24, text.encode())


# ---- Certificates --------------------------------------------------------------------------------

VALIDITY = (utc("200101000000Z"), utc("491231235959Z"))
USUAL = (constraints(False), purposes(CLIENT_AUTH))
CA_USUAL = (constraints(True),)


@cache
def leaf_key() -> ec.EllipticCurvePrivateKey:
    """The key of all leaves but those that bring their own."""
    return ec.generate_private_key(ec.SECP256R1())


def spki_of(key: Any) -> bytes:
    """DER of the SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    spki: bytes = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return spki


def spki_on(curve: str) -> bytes:
    """DER of the SubjectPublicKeyInfo of a key on a curve, by its OID: its point is not on it."""
    algorithm = der(0x30, der(6, oid("1.2.840.10045.2.1")), der(6, oid(curve)))
    return der(0x30, algorithm, der(3, b"\0\4" + b"\1" * 64))


@cache
def ca() -> Cert:
    """The CA of most tests: CN=Root CA,O=acme."""
    return long_root("CN=Root CA,O=acme")


def long_root(subject: str) -> Cert:
    return root(subject, not_before=BEGIN, not_after=END)


def intermediate(issuer: Cert, subject: str = "CN=Intermediate CA", **options: Any) -> Cert:
    return issuer.authority(subject, **{"not_before": BEGIN, "not_after": END, **options})


def certificate(
    subject: bytes,
    *more: bytes,
    by: Cert | None = None,
    serial: bytes = b"\x01",
    validity: tuple[bytes, bytes] = VALIDITY,
    extensions: Iterable[bytes] = USUAL,
    spki: bytes | None = None,
    issuer: bytes | None = None,
) -> bytes:
    """DER of a certificate that `by` signs (`ca()` if not given): an ordinary leaf but for what is
    asked. `more` extensions stand behind the `extensions`; `serial` is the content of its INTEGER,
    `issuer` another name than the signer's."""
    by = by or ca()
    listed = [*extensions, *more]
    elements = [
        der(0xA0, der(2, b"\2")),
        der(2, serial),
        ECDSA_SHA256,
        by.certificate.subject.public_bytes() if issuer is None else issuer,
        der(0x30, *validity),
        subject,
        spki_of(leaf_key()) if spki is None else spki,
    ]
    if listed:
        elements.append(der(0xA3, der(0x30, *listed)))
    return signed_tbs(elements, by.key)


def pem(*certificates: bytes) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in certificates).encode()


def authority_line(cert: Cert | bytes, word: str = "ca") -> str:
    """The `ca` line (or `anchor`) of a certificate."""
    raw = cert if isinstance(cert, bytes) else cert.der
    return f"{word} {base64.b64encode(raw).decode()}"


def trusting(*lines: str, trust: Sequence[Cert] | None = None) -> Policy:
    """A policy that is enforced and trusts `trust` (`ca()` if not given)."""
    cas = [authority_line(cert) for cert in (trust if trust is not None else [ca()])]
    return Policy(["set enforce on", *cas, *lines])


# ---- The core ------------------------------------------------------------------------------------


_alive: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def span(data: bytes) -> Any:
    """A span of these bytes, which live as long as it does."""
    value = ffi.new("span *", {"ptr": ffi.from_buffer("uint8_t[]", data), "len": len(data)})[0]
    _alive[value] = data
    return value


def bytes_of(value: Any) -> bytes:
    return bytes(ffi.buffer(value.ptr, value.len)) if value.len else b""


def text_of(chars: Any) -> str:
    return str(ffi.string(chars).decode())


def parse_name(text: str) -> bytes:
    """The encoding of a name; ValueError with the core's message."""
    out, length, why = ffi.new("uint8_t[]", lib.NAME_BYTES), ffi.new("size_t *"), ffi.new("fault *")
    if not lib.name_parse(span(text.encode()), out, length, why):
        raise ValueError(text_of(why.text))
    return bytes(ffi.buffer(out, length[0]))


def print_name(name: bytes, room: int = 65536) -> str:
    out = ffi.new("char[]", room)
    return bytes(ffi.buffer(out, lib.name_print(span(name), out, room))).decode()


def x509(der_or_pem: bytes) -> Any:
    """libcrypto's first certificate of it, freed with the object."""
    out, why = ffi.new("X509 *[]", 16), ffi.new("fault *")
    count = lib.certificates_parse(span(der_or_pem), out, 16, why)
    if count == 0:
        raise ValueError(text_of(why.text))
    first, *_ = [ffi.gc(out[index], lib.certificate_free) for index in range(count)]
    return first


def read(leaf: bytes) -> Any:
    """The raw identity, its hashes made while the certificate lives."""
    raw, certificate = ffi.new("identity *"), x509(leaf)
    lib.identity_read(certificate, raw)
    lib.identity_cert(raw)
    lib.identity_key(raw)
    return raw


def policy(lines: Iterable[str], source: int = lib.FROM_WIRE) -> Any:
    """The raw policy of these lines, freed with the object."""
    made = ffi.gc(lib.policy_new(), lib.policy_free)
    lib.policy_commit(made, patch(made, [f"+{line}" for line in lines], source))
    return made


def patch(base: Any, changes: Iterable[str], source: int = lib.FROM_WIRE) -> Any:
    """A finished patch that has no problems; the caller commits or frees it."""
    made = lib.patch_new(base, source)
    for number, change in enumerate(changes, 1):
        add = lib.patch_add if change[0] == "+" else lib.patch_remove
        add(made, span(change[1:].encode()), number)
    if not lib.patch_finish(made, False):
        text = text_of(lib.patch_problem_text(made, 0, ffi.new("size_t *")))
        lib.patch_free(made)
        raise ValueError(text)
    return made


@dataclass(frozen=True)
class Verdict:
    """A raw decision; `trace` is what decision_explain says of it, `users` are those of the line
    that decided, `compared` how many `pattern` lines were tried."""

    action: str
    reason: str
    line: str | None
    until: int
    session: int
    shadow: bool
    detail: str | None
    trace: tuple[str, ...]
    users: tuple[str, ...]
    compared: int


def decide(
    lines: Any,
    leaf: bytes | None,
    chain: Sequence[bytes | Cert] | None = (),
    *,
    bootstrap: Any = ffi.NULL,
    now: int = NOW,
    address: bytes = b"",
    pending: Any = ffi.NULL,
    ask: Callable[[str], int] | None = None,
    no_journal: bool = False,
    no_policy: bool = False,
    tls: dict[str, Any] | None = None,
    tls_version: int = 0,
) -> Verdict:
    """The decision under a raw policy. `chain`: the CAs that the handshake verified above the leaf,
    its issuer first; None where there was none, so that the core verifies by itself. `tls`: what
    explain was told of a handshake; `tls_version` as in the handshake, 0x0303 for TLS 1.2."""
    raw, path, certificates = ffi.NULL, ffi.new("path *"), []
    if leaf is not None:
        certificates = [x509(leaf)]
        raw = ffi.new("identity *")
        lib.identity_read(certificates[0], raw)
        if chain is None:
            lib.path_verify(lines, certificates[0], ffi.NULL, 0, now, path, ffi.NULL)
        else:
            above = [one if isinstance(one, bytes) else one.der for one in chain or [ca()]]
            certificates += [x509(one) for one in above]
            array = ffi.new("X509 *[]", certificates)
            lib.path_after_handshake(lines, raw, array, len(certificates), path)
    callback = ffi.NULL
    if ask is not None:
        asked = ask

        def answer(user: Any, _data: Any) -> int:
            return asked(bytes_of(user).decode())

        callback = ffi.callback("user_state(span, void *)", answer)

    request = ffi.new(
        "request *",
        {"leaf": raw, "issuers": path, "now": now, "address": span(address), "ask": callback}
        | {"pending": pending, "no_journal": no_journal, "no_policy": no_policy, "tls": tls or {}}
        | {"tls_version": tls_version},
    )
    decided = lib.policy_decide(lines, bootstrap, request)
    return Verdict(
        action=text_of(lib.action_name(decided.act)),
        reason=text_of(lib.reason_name(decided.why)),
        line=None if decided.line == ffi.NULL else bytes_of(lib.rule_text(decided.line)).decode(),
        until=decided.until,
        session=decided.session,
        shadow=decided.shadow,
        detail=bytes_of(decided.detail).decode() or None,
        trace=explain(lines, request, decided),
        users=_users(decided),
        compared=decided.compared,
    )


def _users(decided: Any) -> tuple[str, ...]:
    one, found = ffi.new("decision *", decided), list[str]()
    while user := bytes_of(lib.decision_user(one, len(found))).decode():
        found.append(user)
    return tuple(found)


def explain(
    lines: Any, request: Any, decided: Any, room: int = 65536, most: int = 1 << 20
) -> tuple[str, ...]:
    out, one = ffi.new("char[]", room), ffi.new("decision *", decided)
    length = lib.decision_explain(lines, request, one, most, out, room)
    return tuple(bytes(ffi.buffer(out, length)).decode().split("\n"))


def resumed(lines: object, leaf: bytes) -> str:
    """What a node decides on a connection whose session shows the leaf and no chain."""
    certificate = x509(leaf)
    identity, path = ffi.new("identity *"), ffi.new("path *")
    lib.identity_read(certificate, identity)
    lib.path_after_handshake(lines, identity, ffi.new("X509 *[]", [certificate]), 1, path)
    request = ffi.new("request *", {"leaf": identity, "issuers": path, "now": NOW})
    return raw.text_of(lib.reason_name(lib.policy_decide(lines, ffi.NULL, request).why))
