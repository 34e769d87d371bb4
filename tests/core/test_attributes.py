"""`bind attributes`, `bind attribute`, `bind extension` and `set several-names`: by attacks. The
laws are in test_properties.py, what a line may say in test_line.py."""

from itertools import combinations
from typing import Any

import pytest

from control._core import ffi, lib
from control.policy.core import Policy, PolicyError
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    CN,
    IA5,
    NOW,
    NUMERIC,
    OU,
    PRINTABLE,
    SERIAL_NUMBER,
    T61,
    UID,
    UNIVERSAL,
    UTF8,
    VISIBLE,
    L,
    O,
    authority_line,
    bytes_of,
    ca,
    certificate,
    decide,
    dns,
    email,
    encoded,
    extension,
    intermediate,
    long_root,
    name,
    oid,
    patch,
    person,
    policy,
    sans,
    trusting,
    uri,
)
from tests.kit.support import der

LINE = "bind attributes OU=analytics,O=acme reader"
DOTTED = "1.3.6.1.4.1.99999.1"
OID = oid(DOTTED)
Rdns = list[list[Any]]


def subject(*rdns: list[Any]) -> bytes:
    return certificate(name(*rdns))


def user_of(leaf: bytes, *lines: str) -> str | None:
    """Who logs in with it, or None."""
    return trusting(*lines).decide(leaf, now=NOW).user


def reason_of(leaf: bytes, *lines: str) -> str:
    return trusting(*lines).decide(leaf, now=NOW).reason


def told(leaf: bytes, *lines: str) -> str:
    return "\n".join(trusting(*lines).decide(leaf, now=NOW).trace)


# ---- Part of a subject ---------------------------------------------------------------------------

FITS: dict[str, Rdns] = {
    "nothing else": [[(O, "acme")], [(OU, "analytics")]],
    "in the other order": [[(OU, "analytics")], [(O, "acme")]],
    "with a CN": [[(O, "acme")], [(OU, "analytics")], [(CN, "x")]],
    "with another OU behind it": [[(O, "acme")], [(OU, "analytics")], [(OU, "eng")]],
    "with another OU before it": [[(OU, "eng")], [(O, "acme")], [(OU, "analytics")]],
    "twice": [[(OU, "analytics")], [(O, "acme")], [(OU, "analytics")]],
    "with two CNs": [[(O, "acme")], [(OU, "analytics")], [(CN, "x")], [(CN, "y")]],
    "with two Os": [[(O, "acme")], [(O, "other")], [(OU, "analytics")]],
    "in one RDN": [[(O, "acme"), (OU, "analytics")]],
    "in one RDN with others": [[(CN, "x"), (O, "acme"), (UID, "1")], [(OU, "analytics"), (L, "y")]],
    "of other string types": [[(O, "acme", BMP)], [(OU, "analytics", PRINTABLE)]],
    "as T61": [[(O, "acme", T61)], [(OU, "analytics", T61)]],
    "as UniversalString": [[(O, "acme", UNIVERSAL)], [(OU, "analytics")]],
    "beside an odd OU": [[(O, "acme")], [(OU, "analytics")], [(OU, "analytics\0")]],
    "beside an odd CN": [[(O, "acme")], [(OU, "analytics")], [(CN, "a\0")]],
    "beside T61 that is not ASCII": [[(O, "acme")], [(OU, "analytics")], [(OU, b"\xe9", T61)]],
    "in an odd RDN": [[(O, "acme"), (OU, "analytics"), (UID, "")]],
}
MISSES: dict[str, tuple[Rdns, str]] = {
    "one lacks": ([[(O, "acme")], [(CN, "analytics")]], "no_binding"),
    "another case": ([[(O, "acme")], [(OU, "Analytics")]], "no_binding"),
    "a blank": ([[(O, "acme")], [(OU, "analytics ")]], "no_binding"),
    "a longer value": ([[(O, "acme")], [(OU, "analyticsx")]], "no_binding"),
    "both in one value": ([[(OU, "analytics,O=acme")]], "no_binding"),
    "values exchanged": ([[(OU, "acme")], [(O, "analytics")]], "no_binding"),
    "no subject": ([], "no_binding"),
    "a NUL behind it": ([[(O, "acme")], [(OU, "analytics\0")]], "bad_string"),
    "a NUL within": ([[(O, "acme")], [(OU, "ana\0lytics")]], "bad_string"),
    "T61 that is not ASCII": ([[(O, "acme")], [(OU, b"analytics\xe9", T61)]], "bad_string"),
    "an invisible character": ([[(O, "acme")], [(OU, "analytics\u200b")]], "bad_string"),
}  # fmt: skip


@pytest.mark.parametrize("which", FITS)
def test_what_else_a_subject_has_does_not_count(which: str) -> None:
    """Neither other attributes, nor order, nor RDNs, nor string types."""
    assert user_of(subject(*FITS[which]), LINE) == "reader"


@pytest.mark.parametrize("which", MISSES)
def test_each_attribute_is_compared_byte_for_byte(which: str) -> None:
    """What is not clean text is not a value, and then the certificate is nobody's by name."""
    rdns, reason = MISSES[which]
    assert reason_of(subject(*rdns), LINE) == reason


def test_an_ou_may_stand_there_twice() -> None:
    """A line with two OUs wants both, in any order."""
    both, one = [[(OU, "a")], [(O, "x")], [(OU, "b")]], [[(OU, "a")], [(OU, "a")], [(OU, "c")]]
    for line in ("bind attributes OU=a,OU=b reader", "bind attributes OU=b,O=x,OU=a reader"):
        assert user_of(subject(*both), line) == "reader"
        assert user_of(subject(*both[::-1]), line) == "reader"
        assert reason_of(subject(*one), line) == "no_binding"


def test_exact_lines_win_and_then_patterns() -> None:
    """A line that names the certificate is not in conflict with one that fits many."""
    leaf = certificate(
        name([(O, "acme")], [(OU, "analytics")], [(CN, "alice")]),
        sans(uri("spiffe://x/a")),
        extension(OID, b"cart"),
    )
    pattern = "pattern cn {id} app:{id} on"
    exact = [
        "bind cn alice alice",
        "bind subject CN=alice,OU=analytics,O=acme alice",
        "bind attribute O=acme alice",
        "bind extension 1.3.6.1.4.1.99999.1=cart alice",
        "bind uri spiffe://x/a alice",
    ]
    for line in exact:
        assert user_of(leaf, LINE, pattern, line) == "alice"
    assert user_of(leaf, LINE, pattern) == "app:alice"
    assert user_of(leaf, LINE) == "reader"


def test_a_line_that_wins_is_not_passed_over() -> None:
    """Refused by an exact line or a pattern, a certificate is not admitted by its OU."""
    leaf = certificate(name([(O, "acme")], [(OU, "analytics")], [(CN, "alice")]))
    away, inside = "bind cn alice alice from=10.0.0.0/8", "pattern cn {id} app:{id} from=10.0.0.0/8"
    assert reason_of(leaf, LINE, away) == "address"
    assert reason_of(leaf, LINE, inside) == "address"
    many = certificate(name([(O, "acme")], [(OU, "analytics")]), sans(dns("a"), dns("b")))
    assert reason_of(many, LINE, "bind dns a alice") == "ambiguous"
    assert reason_of(many, LINE, "pattern dns {x} app:{x}") == "ambiguous"
    assert user_of(many, LINE, "bind dns c alice") == "reader"


def test_lines_that_fit_have_to_agree() -> None:
    """On the users and their order; options of all of them count. The line that is told is the same
    whatever came first."""
    leaf = subject([(O, "acme")], [(OU, "analytics")], [(OU, "eng")])
    assert reason_of(leaf, LINE, "bind attributes OU=eng writer") == "conflict"
    assert reason_of(leaf, LINE, "bind attributes OU=eng reader other") == "conflict"
    one, other = "bind attributes OU=eng reader session=1h", f"{LINE} session=2h"
    for lines in ([one, other], [other, one]):
        found = decide(policy(["set enforce on", authority_line(ca()), *lines]), leaf)
        assert (found.action, found.session, found.line) == ("login", 3600, other)
    assert reason_of(leaf, LINE, "bind attributes OU=eng reader from=10.0.0.0/8") == "address"
    assert user_of(leaf, LINE, "bind attributes OU=ops writer") == "reader"


def test_a_line_that_names_the_cn_is_for_one_cn() -> None:
    """As for every line that binds a CN: who picks the value would pick the user."""
    line = "bind attributes CN=alice,OU=analytics alice"
    one, two = [[(OU, "analytics")], [(CN, "alice")]], [[(CN, "bob")]]
    assert user_of(subject(*one), line) == "alice"
    assert user_of(subject(*one, [(CN, "alice")]), line) == "alice"
    assert reason_of(subject(*one, *two), line) == "ambiguous"
    assert reason_of(subject(*two, *one), line) == "ambiguous"
    assert reason_of(subject(*one, [(CN, "a\0")]), line) == "bad_string"
    assert user_of(subject(*one, *two), "bind attributes OU=analytics alice") == "alice"


def test_ca_keeps_a_line_to_one_ca() -> None:
    """Explain tells the key id where a line has none."""
    mine, other = long_root("CN=Analytics CA"), long_root("CN=Other CA")
    below = intermediate(mine)
    rdns = [[(O, "acme")], [(OU, "analytics")]]
    under = trusting(f"{LINE} ca={mine.key_id}", trust=[mine, other])
    for issuer, chain in ((mine, []), (below, [below.der])):
        leaf = raw.pem(certificate(name(*rdns), by=issuer), *chain)
        decision = under.decide(leaf, now=NOW)
        assert decision.user == "reader"
        assert "every CA" not in "\n".join(decision.trace)
    leaf = certificate(name(*rdns), by=other)
    refused = under.decide(leaf, now=NOW)
    assert refused.reason == "no_binding"
    assert f"nearest: {LINE} ca={mine.key_id}: it asks for another CA" in refused.trace
    open_to_all = trusting(LINE, trust=[mine, other]).decide(leaf, now=NOW)
    assert open_to_all.user == "reader"
    assert open_to_all.trace[-1].endswith(f"add to the line: ca={other.key_id}")


def test_explain_says_which_line_and_what_lacks() -> None:
    """The nearest has most of its attributes in the subject, or one that differs by case alone."""
    crowd = [f"bind attributes OU=team{n},O=acme u{n}" for n in range(200)]
    leaf = subject([(O, "acme")], [(OU, "analytics")], [(CN, "x")])
    assert f"decided by the line: {LINE}" in told(leaf, LINE, *crowd)
    cases: list[tuple[str, Rdns, str]] = [
        (LINE, [[(O, "Acme")], [(OU, "analytics")]], "O=acme"),
        (LINE, [[(O, "x")], [(OU, "Analytics ")]], "O=acme, OU=analytics"),
        ("bind attributes OU=a,O=b,CN=x r", [[(O, "acme")], [(CN, "X")]], "CN=x, O=b, OU=a"),
    ]
    for line, rdns, lacks in cases:
        trace = told(subject(*rdns), line, *crowd)
        assert f"nearest: {line}: the certificate lacks {lacks}" in trace


def test_a_bootstrap_file_takes_no_part_of_a_subject() -> None:
    """Its lines stand before no gate, and hold whatever the policy says."""
    with pytest.raises(ValueError, match="a bootstrap file names those whom it admits"):
        policy([LINE], lib.FROM_BOOTSTRAP)
    own = policy(
        [authority_line(ca()), "bind attribute O=acme alice", f"bind extension {DOTTED}=a bob"],
        lib.FROM_BOOTSTRAP,
    )
    found = decide(policy([]), certificate(person("x")), bootstrap=own)
    assert found.users == ("alice",)


# ---- How lines are found -------------------------------------------------------------------------

TYPES = [f"1.3.{n}" for n in range(10)]
SHAPES = [",".join(f"{one}=x" for one in pair) for pair in combinations(TYPES, 2)]


def test_the_33rd_list_of_types_is_refused() -> None:
    """By the number of its line. One that goes makes room, in the same change as well, and more
    lines of the same types need none."""
    lines = [f"bind attributes {shape} alice" for shape in SHAPES[:34]]
    message = "at most 32 different lists of attribute types"
    with pytest.raises(PolicyError) as refused:
        Policy(lines)
    assert [number for number, _ in refused.value.problems] == [33, 34]
    assert all(message in text for _, text in refused.value.problems)
    held = Policy(lines[:32])
    with pytest.raises(PolicyError, match=message):
        held.patch([f"+{lines[32]}"])
    held.patch([f"+bind attributes {SHAPES[0].replace('x', 'y')} alice"])
    with pytest.raises(PolicyError, match=message):
        held.patch([f"-{lines[0]}", f"+{lines[32]}"])  # another line has the types
    held.patch([f"-{lines[1]}", f"+{lines[32]}"])
    with pytest.raises(PolicyError, match=message):
        held.patch([f"+{lines[1]}"])


def test_all_32_lists_of_types_are_looked_up() -> None:
    """In a subject that has them all, each line is found; also those of a change that is pending,
    and none that goes with it."""
    types = [oid(one) for one in TYPES]
    leaf = subject(*([(one, "x")] for one in types))
    base = ["set enforce on", authority_line(ca())]
    lines = [f"bind attributes {shape} u{n}" for n, shape in enumerate(SHAPES[:32])]
    for number, line in enumerate(lines):
        found = decide(policy([*base, line, *others(lines, number)]), leaf)
        assert found.users == (f"u{number}",)
    held = policy([*base, *lines[:16]])
    changes = [*(f"-{line}" for line in lines[:16]), *(f"+{line}" for line in lines[31:])]
    pending = ffi.gc(patch(held, changes), lib.patch_free)
    assert decide(held, leaf, pending=pending).users == ("u31",)
    assert decide(held, leaf).reason == "conflict"
    gone = ffi.gc(patch(held, [f"-{line}" for line in lines[:16]]), lib.patch_free)
    assert decide(held, leaf, pending=gone).reason == "no_binding"


def test_a_list_of_types_goes_with_its_last_line() -> None:
    """In place, in a change that is pending, and for the number of lookups."""
    leaf = subject([(OU, "b")], *([(L, f"l{n}")] for n in range(40)))
    one, other, pair = (f"bind attributes {part} alice" for part in ("OU=a", "OU=b", "L=x,L=y"))
    held = policy(["set enforce on", authority_line(ca()), one, other, pair])
    assert decide(held, leaf).reason == "too_large"
    pending = ffi.gc(patch(held, [f"-{one}", f"-{pair}"]), lib.patch_free)
    assert decide(held, leaf, pending=pending).users == ("alice",)
    lib.policy_commit(held, pending)
    assert decide(held, leaf).users == ("alice",)
    last = ffi.gc(patch(held, [f"-{other}"]), lib.patch_free)
    lib.policy_commit(held, last)
    assert decide(held, leaf).reason == "no_binding"


def others(lines: list[str], but: int) -> list[str]:
    """The other lines, with values that no subject has."""
    return [line.replace("x", "y") for n, line in enumerate(lines) if n != but]


@pytest.mark.parametrize("count", [22, 23, 64])
def test_attack_a_subject_of_many_ous(count: int) -> None:
    """Of 23, there are 253 pairs and as many of another type: over 512 lookups it is refused, and
    nobody is left as what it is without us. A line for one OU alone does not care."""
    leaf = subject(*([(OU, f"u{n}")] for n in range(count)))
    pairs = ["bind attributes OU=u0,OU=u1 alice", "bind attributes OU=u2,OU=u1 alice"]
    assert user_of(leaf, "bind attributes OU=u1 alice") == "alice"
    for line in pairs:
        under = trusting(line, "bind attributes OU=u7 alice", "set unmatched leave")
        found = under.decide(leaf, now=NOW)
        if count < 33:
            assert found.user == "alice"
        else:
            assert (found.action, found.reason) == ("refuse", "too_large")
            assert "more than 512 lists of attributes" in "\n".join(found.trace)


def test_the_bound_of_lookups_is_exact() -> None:
    """16 OUs and 32 Os make 512 pairs."""
    rdns = [[(OU, f"u{n}")] for n in range(16)] + [[(O, f"o{n}")] for n in range(32)]
    line = "bind attributes OU=u15,O=o31 alice"
    assert user_of(subject(*rdns), line) == "alice"
    assert reason_of(subject(*rdns, [(O, "o32")]), line) == "too_large"
    assert user_of(subject(*rdns, [(O, "o31")]), line) == "alice"  # twice is one
    assert reason_of(subject(*rdns), line, "bind attributes L=x bob", LINE) != "too_large"
    assert reason_of(subject(*rdns), line, "bind attributes OU=none bob") == "too_large"


def test_attack_a_thousand_rdns() -> None:
    """Refused when it is read."""
    leaf = subject(*([(OU, f"u{n}")] for n in range(1000)))
    assert reason_of(leaf, "bind attributes OU=u1 alice") == "too_large"


def test_the_longest_values_are_found() -> None:
    """A list of attributes as long as a name may be."""
    values = [(OU, letter * 1010) for letter in "abcd"]
    line = "bind attributes " + ",".join(f"OU={value}" for _, value in values) + " alice"
    assert user_of(subject(*([one] for one in values)), line) == "alice"


# ---- One attribute -------------------------------------------------------------------------------


def test_one_attribute_is_a_value_of_its_own() -> None:
    """Whatever else the subject has, of one value."""
    line = "bind attribute 2.5.4.5=12345 device"
    usual = [[(O, "acme")], [(CN, "x")], [(CN, "y")]]
    assert user_of(subject(*usual, [(SERIAL_NUMBER, "12345", PRINTABLE)]), line) == "device"
    assert user_of(subject([(CN, "x"), (SERIAL_NUMBER, "12345")]), line) == "device"
    assert user_of(subject(*[[(SERIAL_NUMBER, "12345")]] * 2), line) == "device"
    assert reason_of(subject(*usual, [(SERIAL_NUMBER, "1234")]), line) == "no_binding"
    assert reason_of(subject(*usual, [(UID, "12345")]), line) == "no_binding"
    assert reason_of(subject([(SERIAL_NUMBER, "12345\0")]), line) == "bad_string"


def test_attack_several_attributes_of_a_type() -> None:
    """Ambiguous where a line names one; others of another type do no harm."""
    line = "bind attribute serialNumber=1 device"
    two = [[(SERIAL_NUMBER, "1")], [(SERIAL_NUMBER, "2")]]
    for rdns in (two, two[::-1], [[*two[0], *two[1]]]):
        assert reason_of(subject(*rdns), line) == "ambiguous"
        assert "different attributes of a type" in told(subject(*rdns), line)
    assert user_of(subject(two[0], [(UID, "2")], [(UID, "3")]), line) == "device"
    assert reason_of(subject(two[0], [(SERIAL_NUMBER, "\t")]), line) == "bad_string"
    assert user_of(subject(two[0], [(UID, "\t")]), line) == "device"
    assert reason_of(subject(two[0], [(UID, "2")]), line, "bind attribute UID=2 x") == "conflict"


# ---- Extensions ----------------------------------------------------------------------------------

TEXTS: dict[str, bytes] = {
    "UTF8String": der(UTF8, "josé".encode()),
    "raw text": "josé".encode(),
}
ASCII: dict[str, bytes] = {
    "PrintableString": der(PRINTABLE, b"a@b"),
    "IA5String": der(IA5, b"a@b"),
    "VisibleString": der(VISIBLE, b"a@b"),
    "UTF8String": der(UTF8, b"a@b"),
    "raw": b"a@b",
}
LONG = "x" * 1024
NO_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "an empty string": der(UTF8),
    "bytes behind the string": der(UTF8, b"cart") + b"\0",
    "a long form of the length": b"\x0c\x81\x04cart",
    "an indefinite length": b"\x2c\x80\x0c\x04cart\0\0",
    "a length of too much": b"\x0c\x05cart",
    "a tag alone": b"\x0c",
    "a NUL in the string": der(UTF8, b"cart\0"),
    "a NUL in raw text": b"cart\0",
    "an invisible character": der(UTF8, "cart\u200b".encode()),
    "invalid UTF-8": b"cart\xff",
    "Latin-1 in an IA5String": der(IA5, b"cart\xe9"),
    "a BMPString": der(BMP, "cart".encode("utf-16-be")),
    "a T61String": der(T61, b"cart"),
    "a NumericString": der(NUMERIC, b"1"),
    "an OCTET STRING": der(4, b"cart"),
    "a SEQUENCE": der(0x30, der(UTF8, b"cart")),
    "a string of another class": der(0x8C, b"cart"),
    "too long": der(UTF8, b"x" * 1025),
    "too long as raw text": b"x" * 1025,
}


def holding(*contents: bytes, kind: bytes = OID) -> bytes:
    """A leaf with an extension of each content."""
    return certificate(person("x"), *(extension(kind, content) for content in contents))


@pytest.mark.parametrize(
    ("content", "text"),
    [*((one, "josé") for one in TEXTS.values()), *((one, "a@b") for one in ASCII.values()),
     (der(UTF8, LONG.encode()), LONG), (LONG.encode(), LONG),
     (b"0 " + b"y" * 32, f"0 {'y' * 32}"), (der(UTF8, b"0\"x=1"), '0"x=1')],
    ids=[*TEXTS, *(f"{one} of ASCII" for one in ASCII), "the longest", "the longest as raw text",
         "text that parses as a SEQUENCE", "text with = and quotes"],
)  # fmt: skip
def test_the_text_of_an_extension(content: bytes, text: str) -> None:
    """It is that user's whose line has the text, and nobody's where one byte differs."""
    word = f"{DOTTED}={text}".replace('"', '\\"')
    assert user_of(holding(content), f'bind extension "{word}" cart') == "cart"
    assert user_of(holding(content, content), f'bind extension "{word}" cart') == "cart"
    other = word[:-1] + ("z" if len(text) == 1024 else "zz")
    assert reason_of(holding(content), f'bind extension "{other}" cart') == "no_binding"
    wrong = f'bind extension "1.3.6.1.4.1.99999.2={text}"'.replace('="', '=\\"')
    if '"' not in text:
        assert reason_of(holding(content), f"{wrong} cart") == "no_binding"


@pytest.mark.parametrize("which", NO_TEXTS)
def test_what_is_no_text_counts_where_a_line_names_it(which: str) -> None:
    """Refused where a line names the OID and nothing else the certificate; elsewhere it is of no
    account, also to `set unmatched leave`."""
    leaf, named = holding(NO_TEXTS[which]), f"bind extension {DOTTED}=cart cart"
    under = trusting(named, "set unmatched leave").decide(leaf, now=NOW)
    assert (under.action, under.reason) == ("refuse", "bad_string")
    assert reason_of(leaf, "bind extension 1.2.3=cart cart") == "no_binding"
    assert reason_of(leaf) == "no_binding"
    assert user_of(leaf, named, "bind cn x alice") == "alice"
    beside = holding(NO_TEXTS[which], b"cart")
    assert reason_of(beside, named) == "bad_string"
    assert user_of(beside, named, "bind cn x alice") is None
    assert user_of(beside, "bind cn x alice") == "alice"


def test_attack_an_extension_twice() -> None:
    """Of two texts, who picks one would pick the user."""
    line = f"bind extension {DOTTED}=cart cart"
    for contents in ((b"cart", b"shop"), (der(UTF8, b"shop"), der(IA5, b"cart"))):
        assert reason_of(holding(*contents), line) == "ambiguous"
        assert "different extensions of an OID" in told(holding(*contents), line)
    assert user_of(holding(b"cart", der(UTF8, b"cart")), line) == "cart"


def test_a_critical_extension_is_malformed() -> None:
    """libcrypto does not know it; nor does a line make it known."""
    leaf = certificate(person("x"), extension(OID, b"cart", critical=True))
    assert reason_of(leaf, f"bind extension {DOTTED}=cart cart") == "malformed"


def test_attack_more_extensions_than_are_read() -> None:
    """What is behind 4,096 bytes of them counts as not clean text; other lines do not care."""
    kinds = [oid(f"1.3.6.1.4.1.99999.2.{n}") for n in range(4)]
    filled = [extension(kind, b"x" * 1024) for kind in kinds]
    line = f"bind extension {DOTTED}=cart cart"
    for more, reason in ((filled[:3], "matched"), (filled, "bad_string")):
        leaf = certificate(person("x"), *more, extension(OID, b"cart"))
        assert reason_of(leaf, line) == reason
        assert user_of(leaf, "bind cn x alice") == "alice"
    leaf = certificate(person("x"), extension(OID, b"cart"), *filled)
    assert reason_of(leaf, line) == "bad_string"
    assert "extension 7, is behind too many others" in told(leaf, line)


def test_explain_shows_extensions_and_the_nearest() -> None:
    """By OID and text, as a line says them; what is not text is not shown."""
    leaf = certificate(person("x"), extension(OID, b"Cart\xc2\xa0"), extension(oid("1.2.3"), b"\0"))
    trace = told(leaf, f"bind extension {DOTTED}=cart cart")
    assert f"its extension {DOTTED}=Cart\\xc2\\xa0" in trace
    assert "1.2.3=" not in trace
    nearest = f"nearest: bind extension {DOTTED}=cart cart: the certificate has {DOTTED}=Cart"
    assert nearest in trace
    trace = told(subject([(UID, "A 1")]), "bind attribute UID=a1 a")
    assert "nearest: bind attribute UID=a1 a: the certificate has UID=A 1" in trace


def test_what_is_kept_of_a_leaf_has_its_extensions() -> None:
    """A session is decided again without its certificate. Kept as a name is: type and text."""
    found = raw.read(holding(b"cart", der(UTF8, b"x\n")))
    kept = ffi.gc(lib.identity_keep(found), lib.identity_free)
    assert bytes_of(kept.extensions) == encoded([(OID, "cart")], [(OID, "")])


# ---- Several names -------------------------------------------------------------------------------

SAME = "set several-names same"
SEVERAL: dict[str, tuple[bytes, str, str]] = {
    "URIs": (
        certificate(person("x"), sans(uri("spiffe://a/b"), uri("spiffe://a/c"))),
        "bind uri spiffe://a/b", "bind uri spiffe://a/c",
    ),
    "DNS names": (certificate(person("x"), sans(dns("a"), dns("b"))), "bind dns a", "bind dns b"),
    "e-mail addresses": (
        certificate(person("x"), sans(email("a@b"), email("c@b"))),
        "bind email a@b", "bind email c@b",
    ),
    "CNs": (subject([(CN, "a")], [(CN, "b")]), "bind cn a", "bind cn b"),
    "attributes": (
        subject([(UID, "a")], [(UID, "b")]), "bind attribute UID=a", "bind attribute UID=b",
    ),
    "extensions": (
        holding(b"a", b"b"),
        f"bind extension {DOTTED}=a", f"bind extension {DOTTED}=b",
    ),
    "the CN of a part": (
        subject([(CN, "a")], [(CN, "b")], [(O, "x")]),
        "bind attributes CN=a,O=x", "bind attributes CN=b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", SEVERAL)
def test_several_names_of_the_same_users(which: str) -> None:
    """Refused unless the policy says otherwise, and then where all lines that match agree on the
    users and their order."""
    leaf, one, other = SEVERAL[which]
    assert reason_of(leaf, f"{one} alice", f"{other} alice") == "ambiguous"
    assert reason_of(leaf, f"{one} alice", "set several-names refuse") == "ambiguous"
    assert user_of(leaf, f"{one} alice", f"{other} alice", SAME) == "alice"
    assert user_of(leaf, f"{other} alice", SAME) == "alice"
    assert reason_of(leaf, f"{one} alice", f"{other} bob", SAME) == "conflict"
    assert reason_of(leaf, f"{one} alice bob", f"{other} bob alice", SAME) == "conflict"
    assert reason_of(leaf, f"{one} alice", f"{other} alice from=10.0.0.0/8", SAME) == "address"


def test_several_names_in_patterns() -> None:
    """Those that make one user, or none; two users stay a conflict."""
    leaf = certificate(person("x"), sans(dns("a.n"), dns("b.n"), dns("c")))
    assert reason_of(leaf, "pattern dns {x}.n app:{x} on") == "ambiguous"
    assert reason_of(leaf, "pattern dns {x}.n app:{x} on", SAME) == "conflict"
    one = certificate(person("x"), sans(dns("a.n"), dns("c")))
    assert user_of(one, "pattern dns {x}.n app:{x} on", SAME) == "app:a"
    assert reason_of(one, "pattern dns {x}.n app:{x} on") == "ambiguous"


def test_the_gate_looks_at_one_cn_all_the_same() -> None:
    """And an odd value beside the bound one stays one too many."""
    two = subject([(CN, "a")], [(CN, "b")])
    gate = ["set gate san_cn", "allow CN=a", "allow CN=b"]
    assert user_of(two, "bind cn a alice", SAME) == "alice"
    assert reason_of(two, "bind cn a alice", SAME, *gate) == "ambiguous"
    assert reason_of(subject([(CN, "a")], [(CN, "\0")]), "bind cn a alice", SAME) == "bad_string"


def test_a_bootstrap_file_refuses_several_names() -> None:
    """What the policy says of several names is not said of the node's own lines."""
    own = policy([authority_line(ca()), "bind dns a root"], lib.FROM_BOOTSTRAP)
    two = certificate(person("x"), sans(dns("a"), dns("b")))
    lines = policy(["set enforce on", SAME, authority_line(ca())])
    assert decide(lines, two, bootstrap=own).users == ()
    assert decide(lines, certificate(person("x"), sans(dns("a"))), bootstrap=own).users == ("root",)


def test_a_preview_knows_the_setting() -> None:
    """Of a change that is not made, in both directions."""
    leaf = certificate(person("x"), sans(dns("a"), dns("b")))
    base = ["set enforce on", authority_line(ca()), "bind dns a alice"]
    held = policy(base)
    come = ffi.gc(patch(held, [f"+{SAME}"]), lib.patch_free)
    assert decide(held, leaf, pending=come).users == ("alice",)
    assert decide(held, leaf).reason == "ambiguous"
    held = policy([*base, SAME])
    gone = ffi.gc(patch(held, [f"-{SAME}"]), lib.patch_free)
    assert decide(held, leaf, pending=gone).reason == "ambiguous"
    assert decide(held, leaf).users == ("alice",)
