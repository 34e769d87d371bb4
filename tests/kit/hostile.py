"""Thousands of mutants through the core, each ending where memory ends: `python -m
tests.kit.hostile WHAT SEED COUNT`. A read or a write behind a buffer is a SIGSEGV of this process,
which is why test_core_hostile.py gives it one of its own."""

import ctypes
import mmap
import random
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import tests.conftest  # noqa: F401  (the core of another build, if one is asked for)
from control._core import ffi, lib
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    CN,
    NOW,
    UID,
    UNIVERSAL,
    UTF8,
    O,
    authority_line,
    bytes_of,
    ca,
    certificate,
    dns,
    email,
    ip,
    name,
    person,
    policy,
    sans,
    text_of,
    upn,
    uri,
)
from tests.kit.support import der, der_content, der_elements, signed_tbs

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE


class Guarded:
    """Memory with an unreadable page behind it."""

    def __init__(self, room: int) -> None:
        size = (room + PAGE - 1) // PAGE * PAGE
        self.memory = mmap.mmap(-1, size + PAGE)
        self.end = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + size
        if LIBC.mprotect(ctypes.c_void_p(self.end), ctypes.c_size_t(PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def at(self, kind: str, length: int) -> Any:
        """A pointer to `length` bytes that end at the page."""
        return ffi.cast(kind, self.end - length)

    def span(self, data: bytes) -> Any:
        """The bytes, ending at the page."""
        ctypes.memmove(self.end - len(data), data, len(data))
        return ffi.new("span *", {"ptr": self.at("uint8_t *", len(data)), "len": len(data)})[0]


INPUT, OUTPUT, NAME = Guarded(1 << 18), Guarded(1 << 16), Guarded(lib.NAME_BYTES)
IDENTITY = Guarded(ffi.sizeof("identity"))


def mutant(rng: random.Random, data: bytes, tokens: list[bytes]) -> bytes:
    """One to four changes: bits, bytes, cuts, copies, insertions of what the format may hold."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice([0, 1, 0x7F, 0x80, 0x81, 0x84, 0xFF, rng.randrange(256)])
            case 2:
                del out[at:]
            case 3:
                del out[at : at + rng.randrange(1, 9)]
            case 4:
                out[at:at] = rng.choice(tokens)
            case 5:
                out[at:at] = out[at : at + rng.randrange(40)] * rng.choice([1, 1, 20])
            case 6:
                out[at : at + 2] = rng.randbytes(rng.randrange(4))
    return bytes(out)


# ---- Certificates --------------------------------------------------------------------------------

BASES = [
    certificate(person("alice")),
    certificate(name([(O, "acme")], [(CN, "jos\u00e9", BMP), (UID, "7")], [(CN, "x", UNIVERSAL)])),
    certificate(
        person("x"),
        sans(
            uri("spiffe://x/a"),
            dns("a.b"),
            email("a@b"),
            ip(b"\n\0\0\1"),
            upn("\u00e9@x", BMP),
            upn("b@x"),
        ),
    ),
    certificate(person("x"), sans(*(dns("a" * 4000) for _ in range(4)), upn("x"))),
    certificate(person("a" * 4000), issuer=person("b" * 4000)),
    certificate(
        person("x"),
        sans(der(0xA4, person("y")), der(0xA0, der(6, b"\x2a\x03"), der(0xA0, der(UTF8, b"z")))),
    ),
    certificate(
        person("x"),
        raw.key_usage(b"\x07\x80"),
        serial=b"\x7f" + b"\xff" * 31,
        validity=(raw.utc("500101000000Z"), raw.generalized("99991231235959Z")),
    ),
]
BASES.append(
    certificate(
        person("alice"),
        raw.purposes(raw.CLIENT_AUTH, raw.SERVER_AUTH),
        raw.policies(raw.oid("1.2.3"), raw.oid("2.999.1")),
        extensions=[],
    )
)
DER_TOKENS = [
    b"\0",
    b"\x30\x80",
    b"\0\0",
    b"\x31\0",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x0c\1\0",
    b"\x1e\2\0\0",
    b"\x1c\4\0\0\0\0",
    person("evil"),
    dns("x"),
    upn("x\n"),
    upn(b"\xff"),
    sans(dns("q")),
    b"\x82\x82\x0f\xff",
    b"\xff" * 40,
]
JUDGED = [
    "set enforce on",
    authority_line(ca()),
    "bind cn alice alice",
    "bind uri spiffe://x/a bob",
    "bind subject CN=x,O=acme carol",
    "pattern uri spiffe://{td}/{id} uri:{td}:{id} on",
    "pattern dns {a}.{b} dns:{a}:{b} on",
    "pattern email {a}@{b} mail:{a}:{b} on",
    "pattern upn {a}@{b} mail:{a}:{b} on",
    "pattern subject CN={id} cn:{id} on",
    "pattern cn {id} cn:{id} on",
    "pattern uri spiffe://y/{id} bob",
    "set max-lifetime 20000d",
    "set require-eku clientAuth",
    "set require-policy 1.2.3",
    "set min-key-bits 2048",
]
LINES = policy(JUDGED)
REASONS = {text_of(lib.reason_name(number)) for number in range(1, lib.REASON_COUNT)}


def judge(data: bytes, extra: Any) -> str:
    """Parses, reads, verifies, decides and explains one input. Returns what became of it."""
    found, why = ffi.new("X509 *[]", 4), ffi.new("fault *")
    count = lib.certificates_parse(INPUT.span(data), found, 4, why)
    if count == 0:
        assert text_of(why.text)
        return "no certificate"
    identity, path = IDENTITY.at("identity *", ffi.sizeof("identity")), ffi.new("path *")
    ffi.memmove(
        IDENTITY.at("uint8_t *", ffi.sizeof("identity")),
        b"\xa5" * ffi.sizeof("identity"),
        ffi.sizeof("identity"),
    )
    assert lib.identity_read(found[0], identity) == identity.refusal
    check_identity(identity)
    lib.path_verify(LINES, found[0], found + 1, count - 1, NOW, path, ffi.NULL)
    if not path.known:  # so that the later checks are reached as well
        lib.path_after_handshake(LINES, identity, ffi.new("X509 *[]", [found[0], extra]), 2, path)
    request = ffi.new("request *", {"leaf": identity, "issuers": path, "now": NOW})
    decided = lib.policy_decide(LINES, ffi.NULL, request)
    check_trace(request, decided)
    for index in range(count):
        lib.certificate_free(found[index])
    return text_of(lib.reason_name(decided.why))


def check_identity(identity: Any) -> None:
    """Each span lies inside and is clean text; a refusal says why."""
    begin = int(ffi.cast("uintptr_t", identity.bytes))
    lists = (identity.usages, identity.policies)
    for one in (identity.subject, identity.issuer, identity.sans, identity.serial, *lists):
        start = int(ffi.cast("uintptr_t", one.ptr))
        assert one.len == 0 or begin <= start <= start + one.len <= begin + len(identity.bytes)
    for one in lists:
        held = bytes_of(one)
        while held:  # each record ends within the list
            assert len(held) > held[0] > 0
            held = held[1 + held[0] :]
    for one in (identity.subject, identity.issuer):
        printed = OUTPUT.at("char *", 20_000)
        bytes(ffi.buffer(printed, lib.name_print(one, printed, 20_000))).decode()
    at, kind, value = ffi.new("size_t *"), ffi.new("bind_kind *"), ffi.new("span *")
    while lib.identity_next_san(identity, at, kind, value):
        assert at[0] <= identity.sans.len
        if kind[0] != lib.BIND_IP:
            assert is_clean(bytes_of(value[0]).decode())
    assert bool(identity.refusal or identity.odd) == bool(identity.detail.len)
    assert is_clean(bytes_of(identity.detail).decode())


def is_clean(text: str) -> bool:
    """Printable; a character of no Unicode yet, or of somebody's own, hides nothing."""
    return all(one.isprintable() or unicodedata.category(one) in ("Cn", "Co") for one in text)


def check_trace(request: Any, decided: Any) -> None:
    """Clean lines in any room, one of which is the reason."""
    one = ffi.new("decision *", decided)
    for room in (1 << 16, 700):
        out = OUTPUT.at("char *", room)
        told = (
            bytes(ffi.buffer(out, lib.decision_explain(LINES, request, one, 1 << 15, out, room)))
            .decode()
            .split("\n")
        )
        assert all(is_clean(line) for line in told)
    reason = text_of(lib.reason_name(decided.why))
    assert reason in REASONS
    assert decided.act != lib.ACTION_LOGIN or reason == "matched"
    if decided.made_len:
        assert lib.rule_makes(decided.line, lib.decision_user(one, 0))


def certificates(rng: random.Random, count: int) -> set[str]:
    """Mutants as they are, and mutants of the signed part signed again."""
    seen = set()
    extra = raw.x509(ca().der)
    for turn in range(count):
        base = rng.choice(BASES)
        data = signed_again(rng, base) if turn % 2 else mutant(rng, base, DER_TOKENS)
        seen.add(judge(data, extra))
    return seen


def signed_again(rng: random.Random, base: bytes) -> bytes:
    """A mutant of the signed part, under a good signature."""
    elements = list(der_elements(der_content(next(der_elements(der_content(base))))))
    at = rng.choice([1, 3, 4, 5, 5, 6, 7, 7])
    elements[at] = inside(rng, elements[at])
    return signed_tbs(elements, ca().key)


def inside(rng: random.Random, element: bytes) -> bytes:
    """A mutant whose lengths still fit, most of the time: what is changed lies deep inside."""
    if element[0] & 0x20 and len(element) > 2 and rng.random() < 0.9:
        try:
            parts = list(der_elements(der_content(element)))
            at = rng.randrange(len(parts))
            parts[at] = inside(rng, parts[at])
            return der(element[0], *parts)
        except (IndexError, ValueError):
            pass
    if element[0] in (4, 3) and rng.random() < 0.8 and der_content(element)[:1] == b"\x30":
        return der(element[0], inside(rng, der_content(element)))
    if rng.random() < 0.8:
        return der(
            element[0], mutant(rng, der_content(element) if len(element) > 1 else b"", DER_TOKENS)
        )
    return mutant(rng, element, DER_TOKENS)


def pems(rng: random.Random, count: int) -> set[str]:
    """Mutants of texts with one to three certificates."""
    tokens = [
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----END CERTIFICATE-----\n",
        b"-----",
        b"=",
        b"\n",
        b"\0",
        b"M" * 70,
    ]
    tokens += [
        b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
    ]
    extra = raw.x509(ca().der)
    texts = [raw.pem(BASES[-1], *BASES[:size]) for size in range(3)]
    return {judge(mutant(rng, rng.choice(texts), tokens), extra) for _ in range(count)}


# ---- Lines and names -----------------------------------------------------------------------------

KEY = "0123456789abcdef" * 4
TEXTS = [
    "pattern uri spiffe://x/{a}/{b} shop from=::1 session=1h",
    "set max-lifetime 90d",
    "set require-eku clientAuth,1.3.6.1.5.5.7.3.4,2.999.1",
    "set require-policy 1.2.3,2.23.140.1.2.1",
    "set min-key-bits 2048",
    "set min-tls 1.3",
    "set tls-client-auth optional",
    'allow CN="John Doe" OU=a OU=b O=acme',
    "bind subject 'CN=a,OU=\"b, c\"+UID=7,O=#0c03616263' alice bob",
    f"bind cn x alice ca={KEY} from=10.0.0.0/8,::1,2001:db8::/32 session=8h",
    f"bind key {KEY} alice",
    "bind ip ::ffff:10.0.0.1 alice",
    f"revoke serial {KEY} 00:ff:01",
    f"revoke cert {KEY}",
    "pattern uri spiffe://x/{a}/{b} app:{b}:x{a} session=1h on ~{a}:* (~{{b}} +get)",
    "pattern subject CN={a},OU=x-{b}:{c},O=acme d:{a}:{b}:{c} ~{a} %RW~k:{b}:{c}:* &{a}",
    f"pattern email x.{{a}}@{{b}}.com mail:{{a}}:{{b}} ca={KEY} from=::1 off ~{{a}}:*",
    "user alice adopt on ~orders:* (+get ~x) \"(~a:*  +set)\" '~a ~b' +@read",
    "limit -@admin",
    "was alice on #abc >x \"~\\x00\\n\" '~a b'",
    authority_line(ca()),
    authority_line(ca(), "anchor"),
    authority_line(ca(), "pin"),
]
LINE_TOKENS = [
    b'"',
    b"'",
    b"\\",
    b"\\x",
    b"\\x4",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b",",
    b"+",
    b"=",
    b"#",
    b"/",
    b"\xe2\x80\x8b",
    b"1.2.3=",
    b"CN=",
    b"from=",
    b"session=",
    b"ca=",
    b"99999999999999999999",
    b"\xf0\x9f\x98",
    b":",
    b"adopt",
    b",1.2.3",
    b"clientAuth",
    b"nopass",
    b"{a}",
    b"{b}",
    b"{",
    b"}",
    b"*",
]


def check_made(rule: Any) -> None:
    """A pattern makes its sample, and no more of its rules than are written in it; others make
    nobody."""
    sample = NAME.at("uint8_t *", lib.USER_BYTES)
    length = lib.rule_sample(rule, sample)
    user = ffi.new("span *", {"ptr": sample, "len": length})[0]
    assert bool(length) == lib.rule_makes(rule, user) == lib.rule_is_maker(rule)
    at, token, out = (
        ffi.new("size_t *"),
        ffi.new("span *"),
        OUTPUT.at("uint8_t *", lib.MADE_RULE_BYTES),
    )
    made = 0
    while lib.rule_acl_made(rule, user, at, out, token):
        assert bytes_of(token[0]).decode().isprintable()
        made += 1
    at[0] = 0
    while length and lib.rule_acl_next(rule, at, token):
        made -= 1
    assert made == 0


def lines(rng: random.Random, count: int) -> set[str]:
    """A mutant is refused with a message, or its canonical text is a line that says the same."""
    seen = set()
    for _ in range(count):
        data, why = mutant(rng, rng.choice(TEXTS).encode(), LINE_TOKENS), ffi.new("fault *")
        if rng.random() < 0.01:
            data += b" ~" + b"k\\" * rng.randrange(60_000, 66_000)
        rule = lib.rule_parse(INPUT.span(data), why)
        seen.add("refused" if rule == ffi.NULL else "taken")
        if rule == ffi.NULL:
            assert text_of(why.text)
            continue
        text = bytes_of(lib.rule_text(rule))
        again = lib.rule_parse(INPUT.span(text), why)
        assert again != ffi.NULL, (data, text, text_of(why.text))
        assert bytes_of(lib.rule_text(again)) == text
        assert (fields(again), lib.rule_type(again)) == (fields(rule), lib.rule_type(rule))
        assert lib.rule_adopts(again) == lib.rule_adopts(rule)
        check_made(rule)
        lib.rule_free(rule)
        lib.rule_free(again)
    return seen


def fields(rule: Any) -> list[bytes]:
    found: list[bytes] = []
    while user := bytes_of(lib.rule_user(rule, len(found))):
        found.append(user)
    at, token = ffi.new("size_t *"), ffi.new("span *")
    while lib.rule_acl_next(rule, at, token):
        found.append(bytes_of(token[0]))
    return found


NAMES = [
    "CN=alice,OU=eng,O=acme",
    "/C=US/O=a\\/b/CN=x+UID=7",
    'CN="a, b",O=\\,\\+\\"\\\\\\<\\>\\;\\#',
    "1.2.3.4=#0c03616263,SN=x",
    "CN=jos\u00e9,2.999.1=x,DC=a,DC=b",
]

# Signs that stand before a number in Arabic and Syriac: they are seen, and Python calls them format
# characters (Unicode 15, Prepended_Concatenation_Mark).
SEEN = dict.fromkeys(
    [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD], "x"
)


def names(rng: random.Random, count: int) -> set[str]:
    """A mutant is refused with a message, or printing and parsing give the same name."""
    seen, length, why = set(), ffi.new("size_t *"), ffi.new("fault *")
    for _ in range(count):
        data = mutant(rng, rng.choice(NAMES).encode(), LINE_TOKENS)
        if rng.random() < 0.02:
            data = rng.choice([b",", b"+", b"/"]).join([data] * rng.randrange(300))
        encoding = NAME.at("uint8_t *", lib.NAME_BYTES)
        good = lib.name_parse(INPUT.span(data), encoding, length, why)
        seen.add("taken" if good else "refused")
        if not good:
            assert text_of(why.text)
            continue
        name = bytes(ffi.buffer(encoding, length[0]))
        out = OUTPUT.at("char *", 40_000)
        text = bytes(ffi.buffer(out, lib.name_print(INPUT.span(name), out, 40_000)))
        assert text.decode().translate(SEEN).isprintable(), data
        assert lib.name_parse(INPUT.span(text), encoding, length, why), (
            data,
            text,
            text_of(why.text),
        )
        assert bytes(ffi.buffer(encoding, length[0])) == name
        small = rng.randrange(60)
        assert lib.name_print(INPUT.span(name), OUTPUT.at("char *", small), small) in (0, len(text))
    return seen


WHAT: dict[str, Callable[[random.Random, int], set[str]]] = {
    "certificates": certificates,
    "pems": pems,
    "lines": lines,
    "names": names,
}

if __name__ == "__main__":
    if sys.argv[1] == "overrun":  # the guard itself: a read behind the end
        print(bytes(ffi.buffer(INPUT.at("uint8_t *", 0), 1)))
    print(" ".join(sorted(WHAT[sys.argv[1]](random.Random(int(sys.argv[2])), int(sys.argv[3])))))
