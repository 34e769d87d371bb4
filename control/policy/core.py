"""The C core of the module, for Python: the same compiled code that decides in the server.

Nothing else of the project imports `control._core`, but control/http/tls.py for one callback. Every
function here is safe to call from several threads: a `Policy` is only ever read after it was made.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from control._core import ffi, lib
from control.reports import ClientCertificate

_ROOM = 65536
_CERTIFICATES = 16
PROTOCOL: int = lib.PROTOCOL
FOREVER = 2**62  # seconds since 1970
_UNASKED = b"CERTAUTH.EXPLAIN on a server asks its own"
_TLS_VERSIONS = {None: 0, "1.2": 0x0303, "1.3": 0x0304}  # as in the handshake
_SAN_KINDS = ("uri", "dns", "email", "ip", "upn")
_PLAIN_TOKEN = re.compile(r"""[^\x00-\x20"'\\\x7f]+""")  # stands in a line as it is, see put_token
_ODD_VALUE = re.compile(r"(?:^|(?<!\\)[,+])[A-Za-z0-9.]+=(?=[,+]|$)")


class CoreError(ValueError):
    """A name, a certificate or a line that does not parse; the message says what is wrong where."""


class PolicyError(CoreError):
    """Lines that make no policy. `problems` holds (line number from 1, message) of the first 32."""

    def __init__(self, problems: tuple[tuple[int, str], ...], count: int) -> None:
        more = f"; {count - len(problems)} more" if count > len(problems) else ""
        super().__init__("; ".join(f"line {number}: {text}" for number, text in problems) + more)
        self.problems = problems
        self.count = count


@dataclass(frozen=True)
class Identity:
    """What a leaf says. Times are seconds since 1970; `serial`, `cert` (SHA-256 of the DER) and
    `key` (SHA-256 of the SubjectPublicKeyInfo, the "key id") are lower-case hex; `refusal` is the
    reason why it can be nobody, or None. `serves`: its extended key usage lets it pass for a node's
    certificate where nobody asks more. `ocsp`: the URL of the OCSP responder that it names. `odd`
    are the kinds of `bind` lines that cannot name it, since a value of that kind is not clean text;
    `detail` says which value, or what is refused."""

    subject: str
    issuer: str
    serial: str
    not_before: int
    not_after: int
    client: bool
    serves: bool
    ca: bool
    sans: tuple[tuple[str, str], ...]
    ocsp: str
    cert: str
    key: str
    refusal: str | None
    odd: tuple[str, ...]
    detail: str | None


@dataclass(frozen=True)
class Decision:
    """`action` is login, choose, leave or refuse; `users` whom the leaf may become (one for a
    login); `line` the `bind` or `pattern` line that decided, `named` the users that it names for
    this leaf, also where it is refused; `trace` the steps, for a person; `ca` the key id of the
    leaf's issuer, where it is trusted."""

    action: str
    reason: str
    users: tuple[str, ...]
    line: str | None
    shadow: bool
    trace: tuple[str, ...]
    leaf: Identity | None
    ca: str | None
    named: tuple[str, ...]

    @property
    def user(self) -> str | None:
        """The user of a login."""
        return self.users[0] if self.action == "login" else None


def _span(data: bytes) -> tuple[Any, Any]:
    """A span and what keeps its bytes alive. Exactly as long as the data, so that a sanitizer sees
    every read behind it."""
    memory = ffi.new("uint8_t[]", len(data)) if data else ffi.NULL
    if data:
        ffi.memmove(memory, data, len(data))
    span = ffi.new("span *", {"ptr": memory, "len": len(data)})
    return span[0], (span, memory)


def _bytes(span: Any) -> bytes:
    return bytes(ffi.buffer(span.ptr, span.len)) if span.len else b""


def _text(span: Any) -> str:
    return _bytes(span).decode()


def _string(chars: Any) -> str:
    return str(ffi.string(chars).decode(errors="replace"))


def _printed(function: Any, value: Any) -> str:
    out = ffi.new("char[]", _ROOM * 4)
    length = function(value, out, _ROOM * 4)
    return bytes(ffi.buffer(out, length)).decode("utf-8", "surrogatepass")  # as it came


def parse_name(text: str) -> str:
    """The canonical RFC 4514 text of a distinguished name as people write it.

    Raises CoreError that names the character where it does not parse.
    """
    name, _alive = _encoded_name(text)
    return _printed(lib.name_print, name)


def _encoded_name(text: str) -> tuple[Any, Any]:
    given, _alive = _span(text.encode("utf-8", "surrogatepass"))
    out, length, why = ffi.new("uint8_t[]", lib.NAME_BYTES), ffi.new("size_t *"), ffi.new("fault *")
    if not lib.name_parse(given, out, length, why):
        raise CoreError(_string(why.text))
    return _span(bytes(ffi.buffer(out, length[0])))


def rdns(text: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The RDNs of a name in the order of a certificate, each of (OID, value). Raises CoreError."""
    name, _alive = _encoded_name(text)
    data, at, found = _bytes(name), 0, list[list[tuple[str, str]]]()
    while at < len(data):  # see core.h for the encoding
        starts, oid_end = data[at], at + 2 + data[at + 1]
        oid, length = data[at + 2 : oid_end], int.from_bytes(data[oid_end : oid_end + 2])
        at = oid_end + 2 + length
        one = (_dotted(oid), data[oid_end + 2 : at].decode())
        if starts:
            found.append([one])
        else:
            found[-1].append(one)
    return tuple(map(tuple, found))


def _dotted(oid: bytes) -> str:
    arcs, value = list[int](), 0
    for byte in oid:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def _shown_name(text: str) -> tuple[Any, Any, int]:
    """As `_encoded_name`, of the subject of a certificate as it is printed: it may be empty; and
    where a value is shown as empty, which was not clean text, nothing of it counts. Also the bits
    of identity.odd."""
    if text and not _ODD_VALUE.search(text):
        return (*_encoded_name(text), 0)
    return (*_span(b""), 1 << lib.BIND_SUBJECT | 1 << lib.BIND_CN if text else 0)


def common_names(subject: str) -> list[str]:
    """The CN of a certificate's subject, where it has one and no other."""
    name, _alive, _odd = _shown_name(subject)
    found = ffi.new("span *")
    return [_text(found[0])] if lib.name_common_names(name, found) == 1 else []


def quote(token: str) -> str:
    """`token` as it stands in a policy line: quoted as in redis.conf where that is needed."""
    if _PLAIN_TOKEN.fullmatch(token):
        return token  # most are, and the way through C takes 20 times as long
    value, _alive = _span(token.encode("utf-8", "surrogatepass"))
    return _printed(lib.token_print, value)


def canonical(line: str) -> str:
    """The canonical text of one policy line. Raises CoreError, also for a line that no node takes
    any more (rule_lasts in core.h)."""
    given, _alive = _span(line.encode("utf-8", "surrogatepass"))
    why = ffi.new("fault *")
    rule = lib.rule_parse(given, why)
    if rule == ffi.NULL:
        raise CoreError(_string(why.text))
    text = _text(lib.rule_text(rule)) if lib.rule_lasts(rule, why) else None
    lib.rule_free(rule)
    if text is None:
        raise CoreError(_string(why.text))
    return text


def digest(lines: Iterable[str]) -> str:
    """The digest of a set of policy lines, as `CERTAUTH.POLICY STATUS` gives it."""
    return Policy(lines).digest


class _Certificates:
    """Parsed certificates, the leaf first, freed with this object."""

    def __init__(self, der_or_pem: bytes) -> None:
        given, _alive = _span(der_or_pem)
        why = ffi.new("fault *")
        self.array = ffi.new("X509 *[]", _CERTIFICATES)
        self.count = lib.certificates_parse(given, self.array, _CERTIFICATES, why)
        if self.count == 0:
            raise CoreError(_string(why.text))

    def __del__(self) -> None:
        for index in range(getattr(self, "count", 0)):
            lib.certificate_free(self.array[index])


def _san_value(kind: int, value: bytes) -> str:
    return str(ip_address(value)) if kind == lib.BIND_IP else value.decode()


def _sans(raw: Any) -> tuple[tuple[str, str], ...]:
    at, kind, value = ffi.new("size_t *"), ffi.new("bind_kind *"), ffi.new("span *")
    found: list[tuple[str, str]] = []
    while lib.identity_next_san(raw, at, kind, value):
        name = _string(lib.bind_kind_name(kind[0]))
        found.append((name, _san_value(kind[0], _bytes(value[0]))))
    return tuple(found)


def _identity(raw: Any) -> Identity:
    return Identity(
        subject=_printed(lib.name_print, raw.subject),
        issuer=_printed(lib.name_print, raw.issuer),
        serial=_bytes(raw.serial).hex(),
        not_before=raw.not_before,
        not_after=raw.not_after,
        client=raw.client,
        serves=raw.serves,
        ca=raw.ca,
        sans=() if raw.refusal else _sans(raw),
        ocsp=_text(raw.ocsp),
        cert=bytes(ffi.buffer(raw.cert)).hex(),
        key=bytes(ffi.buffer(raw.key)).hex(),
        refusal=_string(lib.reason_name(raw.refusal)) if raw.refusal else None,
        odd=tuple(
            _string(lib.bind_kind_name(kind))
            for kind in range(lib.BIND_KINDS)
            if raw.odd & 1 << kind
        ),
        detail=_text(raw.detail) or None,
    )


def _read(certificates: _Certificates, index: int = 0) -> Any:
    raw = ffi.new("identity *")
    lib.identity_read(certificates.array[index], raw)
    lib.identity_cert(raw)  # while the certificate lives
    return raw


def identity(der_or_pem: bytes) -> Identity:
    """What the first certificate of a DER or PEM text says. Raises CoreError for anything else."""
    return _identity(_read(_Certificates(der_or_pem)))


def identities(der_or_pem: bytes) -> tuple[Identity, ...]:
    """What each certificate of a text says. Raises CoreError."""
    certificates = _Certificates(der_or_pem)
    return tuple(_identity(_read(certificates, i)) for i in range(certificates.count))


def signed_as(presented: bytes, trusted: Iterable[bytes]) -> tuple[str, ...]:
    """By what the certificates of a PEM are revoked, beside the hash of their DER: SHA-256 of what
    is signed in each, and of its DER with the other signature that the ECDSA key of another one, or
    of one of `trusted` (DER), takes. Raises CoreError."""
    shown, above = _Certificates(presented), [_Certificates(der) for der in trusted]
    issuers = [shown.array[i] for i in range(shown.count)] + [one.array[0] for one in above]
    cert, tbs = ffi.new("uint8_t[]", lib.HASH_BYTES), ffi.new("uint8_t[]", lib.HASH_BYTES)
    seal, found = ffi.new("seal *"), dict[str, None]()
    for index in range(shown.count):
        if lib.certificate_hashes(shown.array[index], cert, tbs):
            found[bytes(ffi.buffer(tbs)).hex()] = None
        for issuer in issuers:
            lib.certificate_seal(shown.array[index], issuer, seal)
            if seal.twinned:
                found[bytes(ffi.buffer(seal.twin)).hex()] = None
    return tuple(found)


def _address(text: str | None) -> bytes:
    """The 4 or 16 bytes of an address; an IPv4 one mapped into IPv6 counts as IPv4."""
    if text is None:
        return b""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise CoreError(f"not an IP address: {text}") from error
    return (getattr(address, "ipv4_mapped", None) or address).packed


def _records(sans: Iterable[str]) -> bytes:
    """As identity.sans in core.h; nothing where one is shown in part, or with an escape."""
    kinds = {_string(lib.bind_kind_name(kind)): kind for kind in range(lib.BIND_KINDS)}
    found = b""
    for kind, colon, text in (one.partition(":") for one in sans):
        if not colon or kind not in _SAN_KINDS or "\\" in text:
            return b""
        value = _address(text) if kind == "ip" else text.encode("utf-8", "surrogatepass")
        found += bytes([kinds[kind]]) + len(value).to_bytes(2) + value
    return found if len(found) <= lib.SAN_BYTES else b""


class Policy:
    """A set of policy lines. Raises PolicyError, which names each bad line."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._raw = ffi.gc(lib.policy_new(), lib.policy_free)
        self._change([f"+{line}" for line in lines], whole=True)

    def patch(self, changes: Iterable[str]) -> None:
        """Makes a change of `+line`s and `-line`s, or none. Not while another thread reads."""
        self._change(list(changes), whole=False)

    def _change(self, changes: list[str], whole: bool) -> None:
        patch = lib.patch_new(self._raw, lib.FROM_WIRE)
        for number, change in enumerate(changes, 1):
            line, _alive = _span(change[1:].encode("utf-8", "surrogatepass"))
            (lib.patch_add if change[0] == "+" else lib.patch_remove)(patch, line, number)
        try:
            if not lib.patch_finish(patch, whole):
                raise PolicyError(_problems(patch), lib.patch_problems(patch))
            lib.policy_commit(self._raw, patch)
        finally:
            lib.patch_free(patch)

    @property
    def lines(self) -> tuple[str, ...]:
        """The canonical lines, sorted."""
        rules = (lib.policy_rule(self._raw, i) for i in range(lib.policy_rules(self._raw)))
        return tuple(sorted(_text(lib.rule_text(rule)) for rule in rules))

    @property
    def digest(self) -> str:
        """ "<number of lines>:<64 hex digits>"."""
        value, out = ffi.new("digest *"), ffi.new("char[]", lib.DIGEST_TEXT)
        value[0] = lib.policy_digest(self._raw)
        lib.digest_print(value, out)
        return _string(out)

    @property
    def applied(self) -> frozenset[str]:
        """The users that it sets on a server: those of `user` lines, where it is enforced."""
        if lib.policy_setting(self._raw, lib.SET_ENFORCE) != lib.ENFORCE_ON:
            return frozenset()
        rules = (lib.policy_rule(self._raw, i) for i in range(lib.policy_rules(self._raw)))
        users = (rule for rule in rules if lib.rule_type(rule) == lib.LINE_USER)
        return frozenset(_text(lib.rule_user(rule, 0)) for rule in users)

    def decide(
        self,
        chain: bytes | None,
        now: int | None = None,
        address: str | None = None,
        own: bool = False,
        managed: bool = False,
        tls_version: str | None = None,
    ) -> Decision:
        """Decides for a PEM (the leaf first, then the intermediates it is presented with) or one
        DER; None is a connection without a certificate. `now` is in seconds since 1970. On a
        server a TLS handshake looks at the certificate first: the trace says that it was not asked.

        `own`: for a client of ours, whom no handshake has verified. So its path has to go up to a
        root, and to be of security level 2, as Debian's servers want it.

        `tls_version`: of the connection, "1.2" or "1.3"; None: not known, so that `set min-tls` is
        not asked, or, of a client of ours, refuses it.

        `managed`: the cures are for those who have this control plane, and not for a file of lines.

        Raises CoreError where the certificate or the address does not parse.
        """
        tls: dict[str, Any] = {} if own else {"state": lib.HANDSHAKE_NOT_ASKED, "text": _UNASKED}
        raw, path = ffi.NULL, ffi.new("path *")
        if chain is not None:
            certificates = _Certificates(chain)
            raw, leaf = _read(certificates), certificates.array[0]
            extra, count = certificates.array + 1, certificates.count - 1
            unknown = ffi.new("fault *")
            lib.path_verify(self._raw, leaf, extra, count, 0 if now is None else now, path, unknown)
            if text := ffi.string(unknown.text):
                tls |= {"refused": lib.REASON_UNKNOWN_ALGORITHM, "text": text}
            path.known = path.known and not (own and path.partial)
            vouched = path.known or lib.policy_pinned(self._raw, raw)
            if own and vouched and path.weak:
                tls = {"refused": lib.REASON_WEAK, "text": b"it is below security level 2"}
        from_where, _alive = _span(_address(address))
        request = ffi.new(
            "request *",
            {"leaf": raw, "issuers": path, "address": from_where, "tls": tls}
            | {"managed": own or managed, "tls_version": _TLS_VERSIONS[tls_version]}
            | {"now": int(time.time()) if now is None else now},
        )
        return _decision(self._raw, request, raw)

    def decide_known(
        self, known: ClientCertificate, now: int | None = None, address: str | None = None
    ) -> Decision:
        """As `decide`, for a certificate of which only this is known. Its extensions are not, nor
        are the CAs above its issuer, nor what a policy may demand beside a lifetime;
        and of its SANs none, where not all of them are."""
        subject, _alive, odd = _shown_name(known.subject)
        sans, _sans_held = _span(_records(known.sans))
        serial, _held = _span(bytes.fromhex(known.serial.zfill(len(known.serial) + 1 & ~1)))
        raw = ffi.new(
            "identity *",
            {"subject": subject, "serial": serial, "sans": sans, "client": True, "odd": odd},
        )
        raw.hashed = True
        raw.not_before = known.not_before or -FOREVER
        raw.not_after = known.not_after or FOREVER
        for name in (raw.cert, raw.tbs):  # what was signed is not known
            ffi.memmove(name, bytes.fromhex(known.cert), lib.HASH_BYTES)
        ffi.memmove(raw.key, bytes.fromhex(known.key), lib.HASH_BYTES)
        path = ffi.new("path *", {"known": bool(known.ca), "count": 1 if known.ca else 0})
        if known.ca:
            ffi.memmove(path.ca[0].key, bytes.fromhex(known.ca), lib.HASH_BYTES)
            path.ca[0].not_after = FOREVER
        from_where, _kept = _span(_address(address))
        request = ffi.new("request *", {"leaf": raw, "issuers": path, "address": from_where})
        request.now = int(time.time()) if now is None else now
        request.managed = request.recalled = True
        return _decision(self._raw, request, raw)


@dataclass(frozen=True)
class Powers:
    """What a certificate says that it may do: be a CA, sign certificates, sign revocation lists;
    and how many CAs may stand below it, None for any number."""

    ca: bool
    certificates: bool
    lists: bool
    path_length: int | None


def powers(certificate: bytes) -> Powers:
    """As libcrypto reads them, which is what verifies. Raises CoreError."""
    one, found = _Certificates(certificate), ffi.new("powers *")
    lib.certificate_powers(one.array[0], found)
    length = None if found.path_length < 0 else int(found.path_length)
    return Powers(found.ca, found.certificates, found.lists, length)


def issued(certificate: bytes, issuer: bytes) -> bool | None:
    """Whether one certificate (DER) has issued another, as libcrypto finds a path; None where all
    but the signature says so, and the signature cannot be checked here. Raises CoreError."""
    below, above = _Certificates(certificate), _Certificates(issuer)
    found = lib.certificate_issued(below.array[0], above.array[0])
    return None if found == lib.ISSUED_UNKNOWN else bool(found == lib.ISSUED_YES)


def algorithm_of_key(certificate: bytes) -> str:
    """What the algorithm of a certificate's key is called, known or not. Raises CoreError."""
    certificates, name = _Certificates(certificate), ffi.new("char[]", lib.ALGORITHM_TEXT)
    lib.algorithm_of_key(certificates.array[0], name)
    return _string(name)


def users_of(line: str) -> tuple[str, ...]:
    """The users that a `bind` line names. Raises PolicyError."""
    policy = Policy([line])  # which the rule is of
    rule, found = lib.policy_rule(policy._raw, 0), list[str]()
    while user := _text(lib.rule_user(rule, len(found))):
        found.append(user)
    return tuple(found)


def _problems(patch: Any) -> tuple[tuple[int, str], ...]:
    number = ffi.new("size_t *")
    found: list[tuple[int, str]] = []
    while (text := lib.patch_problem_text(patch, len(found), number)) != ffi.NULL:
        found.append((number[0], _string(text)))
    return tuple(found)


def _named(decided: Any) -> tuple[str, ...]:
    found: list[str] = []
    while user := _text(lib.decision_user(decided, len(found))):
        found.append(user)
    return tuple(found)


def _decision(policy: Any, request: Any, raw: Any) -> Decision:
    decided = lib.policy_decide(policy, ffi.NULL, request)
    out, one = ffi.new("char[]", _ROOM), ffi.new("decision *", decided)
    named = _named(one)
    length = lib.decision_explain(policy, request, one, FOREVER, out, _ROOM)
    return Decision(
        action=_string(lib.action_name(decided.act)),
        reason=_string(lib.reason_name(decided.why)),
        users=named if decided.act in (lib.ACTION_LOGIN, lib.ACTION_CHOOSE) else (),
        line=None if decided.line == ffi.NULL else _text(lib.rule_text(decided.line)),
        shadow=decided.shadow,
        trace=tuple(bytes(ffi.buffer(out, length)).decode().split("\n")),
        leaf=None if raw == ffi.NULL else _identity(raw),
        ca=_key_id(request.issuers),
        named=named,
    )


def _key_id(path: Any) -> str | None:
    return bytes(ffi.buffer(path.ca[0].key)).hex() if path.known and path.count else None
