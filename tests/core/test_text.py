"""Distinguished names and tokens: every spelling of a name is one name, and no two names are."""

import ctypes
import re
import string
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509 as pyca
from hypothesis import given, settings
from hypothesis import strategies as st

from control._core import ffi, lib
from control.policy import core
from tests.kit.certs import (
    CN,
    DC,
    EMAIL,
    OU,
    ST,
    SURNAME,
    UID,
    C,
    L,
    O,
    bytes_of,
    encoded,
    oid,
    parse_name,
    print_name,
    span,
    text_of,
)
from tests.kit.names import INVISIBLE, NAMES, TREACHEROUS, VALUES
from tests.kit.reasons import reasons

ALICE = encoded([(O, "acme")], [(OU, "eng")], [(CN, "alice")])
INVISIBLE += [0xFEFF, *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0xE0001, 0xE0FFF]
# The rest of Unicode's Default_Ignorable_Code_Point: fillers, joiners, selectors.
INVISIBLE += [0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164]
INVISIBLE += [*range(0xFE00, 0xFE10), 0xFFA0, *range(0xFFF0, 0xFFF9), 0x1BCA0, 0x1D173, 0xE0100]


@settings(deadline=None, max_examples=400)
@given(NAMES)
def test_parsing_what_was_printed_gives_the_name_back(name: bytes) -> None:
    """Printing loses nothing, so two names never print alike."""
    assert parse_name(print_name(name)) == name


@settings(deadline=None, max_examples=100)
@given(NAMES)
def test_the_canonical_text_is_its_own_canonical_text(name: bytes) -> None:
    """core.parse_name changes nothing that it made."""
    assert core.parse_name(print_name(name)) == print_name(name)


@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([CN, OU, O, L, ST]), VALUES),
            min_size=1,
            max_size=2,
            unique=True,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_name_that_cryptography_writes_is_read_as_the_same_name(rdns: Any) -> None:
    """Another writer of RFC 4514 text and our reader agree on every attribute and their order."""
    kinds = {
        oid(kind.dotted_string): kind
        for kind in (
            pyca.NameOID.COMMON_NAME,
            pyca.NameOID.ORGANIZATIONAL_UNIT_NAME,
            pyca.NameOID.ORGANIZATION_NAME,
            pyca.NameOID.LOCALITY_NAME,
            pyca.NameOID.STATE_OR_PROVINCE_NAME,
        )
    }
    name = pyca.Name(
        pyca.RelativeDistinguishedName(
            pyca.NameAttribute(kinds[kind], value, _validate=False) for kind, value in rdn
        )
        for rdn in rdns
    )
    assert parse_name(name.rfc4514_string()) == encoded(*rdns)


@settings(deadline=None, max_examples=200)
@given(NAMES, st.integers(0, 200))
def test_a_name_is_printed_whole_or_not_at_all(name: bytes, room: int) -> None:
    """A buffer that is too small gets nothing, never a shorter name."""
    whole = print_name(name)
    assert print_name(name, room) == (whole if len(whole.encode()) <= room else "")


@pytest.mark.parametrize(
    "text",
    [
        "CN=alice,OU=eng,O=acme",
        "CN=alice, OU=eng, O=acme",
        "CN = alice , OU = eng , O = acme",
        "  CN=alice  ,  OU=eng,O=acme  ",
        "CN=alice;OU=eng;O=acme",
        "cn=alice,Ou=eng,o=acme",
        "2.5.4.3=alice,OID.2.5.4.11=eng,O=acme",
        'CN="alice",OU="eng",O="acme"',
        "CN=\\61lice,OU=e\\6Eg,O=acme",
        "CN=#0c05616c696365,OU=eng,O=acme",
        "CN=#1305616C696365,OU=eng,O=acme",
        "CN=#1e0a0061006c006900630065,OU=eng,O=acme",
        "/O=acme/OU=eng/CN=alice",
        "/O = acme/OU = eng/CN = alice",
    ],
)
def test_spellings_of_one_name(text: str) -> None:
    """Blanks, case of types, quotes, escapes, #hex of any string type and OpenSSL's form do not
    matter."""
    assert parse_name(text) == ALICE


@pytest.mark.parametrize(
    ("text", "rdns"),
    [
        ("CN=Alice", [[(CN, "Alice")]]),
        ("CN=a=b", [[(CN, "a=b")]]),
        ("CN=a\\,b", [[(CN, "a,b")]]),
        ("CN=a\\+b", [[(CN, "a+b")]]),
        ('CN="a,b+c;d<e>f"', [[(CN, "a,b+c;d<e>f")]]),
        ('CN="a\\"b\\\\c"', [[(CN, 'a"b\\c')]]),
        ("CN=\\ alice\\ ", [[(CN, " alice ")]]),
        ('CN=" alice "', [[(CN, " alice ")]]),
        ("CN=a  b", [[(CN, "a  b")]]),
        ("CN=\\#a", [[(CN, "#a")]]),
        ("CN=a#b", [[(CN, "a#b")]]),
        ("CN=jos\\C3\\A9", [[(CN, "josé")]]),
        ("CN=josé", [[(CN, "josé")]]),
        ("CN=a\\/b", [[(CN, "a/b")]]),
        ("CN=a/b", [[(CN, "a/b")]]),
        ("/CN=a\\/b", [[(CN, "a/b")]]),
        ("/CN=host/a.b", [[(CN, "host/a.b")]]),
        ("/CN=a/", [[(CN, "a/")]]),
        ("/O=b//CN=a", [[(O, "b/")], [(CN, "a")]]),
        ("/O= b /CN=joe+x@y", [[(O, " b ")], [(CN, "joe+x@y")]]),
        ("/CN=#0c0161", [[(CN, "#0c0161")]]),
        ("/CN=jos\\xC3\\xA9", [[(CN, "josé")]]),
        ("CN=\\U0433\\W0001f600", [[(CN, "г\U0001f600")]]),
        ('O="a ""q"" b"', [[(O, 'a "q" b')]]),
        ("commonName=a,organizationName=b", [[(O, "b")], [(CN, "a")]]),
        ("oid.2.5.4.3=a", [[(CN, "a")]]),
        ("/CN=a,b<c>", [[(CN, "a,b<c>")]]),
        ("/C=US/CN=a+UID=7", [[(C, "US")], [(CN, "a"), (UID, "7")]]),
        ("CN=a+UID=7,C=US", [[(C, "US")], [(CN, "a"), (UID, "7")]]),
        ("UID=7+CN=a,C=US", [[(C, "US")], [(CN, "a"), (UID, "7")]]),
        ("DC=a,DC=b", [[(DC, "b")], [(DC, "a")]]),
        ("S=x", [[(ST, "x")]]),
        ("E=a@b", [[(EMAIL, "a@b")]]),
        ("surname=x", [[(SURNAME, "x")]]),
        ("1.3.6.1.4.1.99999999999=x", [[(oid("1.3.6.1.4.1.99999999999"), "x")]]),
    ],
)
def test_what_a_text_means(text: str, rdns: Any) -> None:
    """Each text is exactly this list of RDNs, in the order of the certificate."""
    assert parse_name(text) == encoded(*rdns)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=alice", "CN=Alice"),
        ("CN=alice", 'CN="alice "'),
        ("CN=alice", 'CN=" alice"'),
        ("CN=josé", "CN=jose\u0301"),
        ("CN=alice", "CN=аlice"),
        ("CN=alice", "CN=ａlice"),
        ("CN=a,O=b", "O=b,CN=a"),
        ("CN=a,O=b", "CN=a+O=b"),
        ("DC=a,DC=b", "DC=b,DC=a"),
        ("OU=a,OU=a", "OU=a"),
        ("CN=a,O=b", 'CN="a,O=b"'),
        ("CN=a\\\\x00", "CN=ax00"),
        ("CN=a  b", "CN=a b"),
        ("UID=a", "CN=a"),
    ],
)
def test_names_that_are_not_the_same(one: str, other: str) -> None:
    """Case, blanks, Unicode forms, look-alikes, order and the borders of RDNs all count."""
    assert parse_name(one) != parse_name(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an attribute type is missing at the end of the subject"),
        (",", "an attribute type is missing at character 1 (',') of the subject"),
        ("alice", "'=' is missing at the end of the subject"),
        ("CN=a,b", "'=' is missing at the end of the subject"),
        ("CN=a,", "an attribute type is missing at the end of the subject"),
        ("CN=a,,O=b", "an attribute type is missing at character 6 (',') of the subject"),
        ("CN=", "an empty value at the end of the subject"),
        ("CN=,O=b", "an empty value at character 4 (',') of the subject"),
        ('CN="",O=b', "an empty value at character 4 ('\"') of the subject"),
        ("CN=a,XY=b", "unknown attribute type at character 6 ('X') of the subject"),
        ("9.1=a", "unknown attribute type at character 1 ('9') of the subject"),
        ("OID.=a", "unknown attribute type at character 1 ('O') of the subject"),
        ("SN=7", "attribute SN at character 1 of the subject is read as surname by some"),
        (
            "C\N{CYRILLIC CAPITAL LETTER EN}=a",
            "'=' is missing at character 2 (byte 0xd0) of the subject",
        ),
        ("CN=a\\", "'\\' escapes nothing at the end of the subject"),
        ("CN=a\\z", "'\\' before a character that needs none at character 6 ('z') of the subject"),
        (
            'CN=a"b',
            "a character that must be escaped with '\\' at character 5 ('\"') of the subject",
        ),
        (
            "CN=a<b",
            "a character that must be escaped with '\\' at character 5 ('<') of the subject",
        ),
        (
            "CN=a>b",
            "a character that must be escaped with '\\' at character 5 ('>') of the subject",
        ),
        ('CN="a', "a closing '\"' is missing at the end of the subject"),
        ('CN="a"b', "',' or '+' is missing at character 7 ('b') of the subject"),
        ("CN=#zz", "a #hex value is not the DER of a string"),
        ("CN=#0c0", "a hex digit is missing at character 7 ('0') of the subject"),
        ("CN=#0c0561", "a #hex value is not the DER of a string"),
        ("CN=#0c0161ff", "a #hex value is not the DER of a string"),
        ("CN=#020101", "a #hex value is not the DER of a string"),
        ("CN=#0101ff", "a #hex value is not the DER of a string"),
        ("CN=#0500", "a #hex value is not the DER of a string"),
        ("CN=#06032a0304", "a #hex value is not the DER of a string"),
        ("CN=#3000", "a #hex value is not the DER of a string"),
        ("CN=#1401e9", "a #hex value is not the DER of a string"),
        ("CN=#0c03610062", "a #hex value is not the DER of a string"),
        ("CN=#" + "0c" * 1025, "a #hex value is too long"),
        (
            "CN=a\\00b",
            "a control or invisible character, or invalid UTF-8, in the value at character 4",
        ),
        (
            "CN=\\ff",
            "a control or invisible character, or invalid UTF-8, in the value at character 4",
        ),
        (
            "CN=\\C3",
            "a control or invisible character, or invalid UTF-8, in the value at character 4",
        ),
        ("1.3..61=a", "unknown attribute type at character 1 ('1')"),
        ("1.3.61.=a", "unknown attribute type at character 1 ('1')"),
        (".1.3.61=a", "unknown attribute type at character 1 ('.')"),
        ("1.3.061=a", "unknown attribute type at character 1 ('1')"),
        ("1.3.00=a", "unknown attribute type at character 1 ('1')"),
        ("1.3.6-1=a", "unknown attribute type at character 1 ('1')"),
        ("CN=a+CN=a", "an attribute stands twice in one RDN"),
        ("CN=a+cn=\\61", "an attribute stands twice in one RDN"),
        ("/", "an attribute type is missing at the end of the subject"),
    ],
)
def test_a_bad_name_is_refused_with_the_character_named(text: str, message: str) -> None:
    """The message says what is wrong and where."""
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_name(text)


@pytest.mark.parametrize("char", TREACHEROUS, ids=lambda char: f"U+{ord(char):04X}")
def test_a_name_with_an_invisible_or_control_character(char: str) -> None:
    """Characters that make two names look alike, or end a line, are in no name."""
    with pytest.raises(ValueError, match="a control or invisible character"):
        parse_name(f"CN=al{char}ice")


@pytest.mark.parametrize(
    "raw",
    [
        "C080",
        "C1BF",
        "E08080",
        "F0808080",
        "EDA080",
        "EDBFBF",
        "F4908080",
        "F5808080",
        "80",
        "E282",
        "FE",
    ],
)
def test_invalid_utf8_is_in_no_name(raw: str) -> None:
    """Overlong forms, surrogates, cut sequences and what is behind U+10FFFF are refused."""
    pairs = "".join(f"\\{raw[at : at + 2]}" for at in range(0, len(raw), 2))
    with pytest.raises(ValueError, match="invalid UTF-8"):
        parse_name(f"CN=a{pairs}")


def test_the_bounds_of_a_name() -> None:
    """64 RDNs and 4,096 bytes are a name; one more is none."""
    assert len(parse_name(",".join(["O=a"] * 64))) == 64 * 8
    with pytest.raises(ValueError, match="the subject has more than 64 attributes"):
        parse_name(",".join(["O=a"] * 65))
    longest = "a" * (lib.NAME_BYTES - 7)
    assert print_name(parse_name(f"CN={longest}")) == f"CN={longest}"
    with pytest.raises(ValueError, match="longer than 4096 bytes"):
        parse_name(f"CN={longest}a")
    with pytest.raises(ValueError, match="longer than 4096 bytes"):
        parse_name(f"CN={'a' * 100_000}")


def test_a_name_of_as_many_attributes_as_a_certificate_may_have() -> None:
    """The bound is one of attributes, whether they share an RDN or not."""
    parse_name("+".join(f"O={number}" for number in range(64)))
    for more in ("+".join(f"O={number}" for number in range(65)), "O=a," * 64 + "O=a+O=b"):
        with pytest.raises(ValueError, match="the subject has more than 64 attributes"):
            parse_name(more)


def test_every_type_name_is_read_as_it_is_printed() -> None:
    """The names that core prints are names that it reads."""
    printed = [print_name(encoded([(oid(f"2.5.4.{last}"), "x")])) for last in range(100)]
    printed += [print_name(encoded([(kind, "x")])) for kind in (DC, UID, EMAIL)]
    assert len(set(printed)) == 103
    assert [print_name(parse_name(text)) for text in printed] == printed


def test_an_oid_of_any_length_that_is_printed_is_read() -> None:
    """What explain advises to write is a line that parses."""
    for arcs in (10, 40, 60, 120, 126, 127, 253, 254):
        name = encoded([(oid("1.2" + ".127" * arcs), "x")])
        assert parse_name(print_name(name)) == name


# ---- Tokens --------------------------------------------------------------------------------------


def acl_tokens(line: bytes) -> list[bytes]:
    """The rules of a `was` line, which keeps its tokens as they are."""
    why = ffi.new("fault *")
    rule = lib.rule_parse(span(line), why)
    assert rule != ffi.NULL, text_of(why.text)
    at, token, found = ffi.new("size_t *"), ffi.new("span *"), []
    while lib.rule_acl_next(rule, at, token):
        found.append(bytes_of(token[0]))
    lib.rule_free(rule)
    return found


def quoted(token: bytes) -> bytes:
    out = ffi.new("char[]", 4 * len(token) + 2)
    return bytes(ffi.buffer(out, lib.token_print(span(token), out, 4 * len(token) + 2)))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=12) | st.text(" \"'\\~\n\0x").map(str.encode), max_size=4))
def test_a_quoted_token_is_read_as_it_was(tokens: list[bytes]) -> None:
    """Quoting and reading are inverse on all bytes."""
    wanted = [b"~" + token for token in tokens]
    assert acl_tokens(b" ".join([b"was alice", *map(quoted, wanted)])) == wanted


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (b'"~a b"', b"~a b"),
        (b"'~a b'", b"~a b"),
        (b"'~a\\'b\\n'", b"~a'b\\n"),
        (b'"~\\n\\r\\t\\b\\a\\x00\\xfF\\"\\\\\\q"', b'~\n\r\t\b\a\0\xff"\\q'),
        (b'"~\\xg"', b"~xg"),
        (b'~a"b c"', b"~ab c"),
        (b"~a'b c'", b"~ab c"),
        (b"~a\\n", b"~a\\n"),
    ],
)
def test_tokens_are_quoted_as_in_redis_conf(text: bytes, token: bytes) -> None:
    """The forms of sdssplitargs, each as Redis 7 reads it."""
    assert acl_tokens(b"was alice " + text + b"\t on") == [token, b"on"]


@pytest.mark.parametrize(
    "text", ['"~a', "'~a", '"~a"b', "'~a'b", '"', "'", '"~a\\"', '~a"b"c', '""~']
)
def test_unbalanced_quotes_are_refused(text: str) -> None:
    """A token ends where its quotes end."""
    with pytest.raises(core.CoreError, match="unbalanced quotes"):
        core.canonical(f"user alice {text}")


@pytest.mark.parametrize("room", range(6))
def test_a_token_is_printed_whole_or_not_at_all(room: int) -> None:
    """A buffer that is too small gets nothing."""
    out = ffi.new("char[]", 6)
    assert lib.token_print(span(b"a b"), out, room) == (5 if room >= 5 else 0)


def test_core_quotes_a_token_as_a_line_needs_it() -> None:
    """core.quote: bare where that is possible."""
    assert [core.quote(text) for text in ("alice", "John Doe", "", 'a"b', "josé", "a\n")] == [
        "alice",
        '"John Doe"',
        '""',
        '"a\\"b"',
        "josé",
        '"a\\x0a"',
    ]


# ---- Names of things -----------------------------------------------------------------------------


def test_reasons_have_names_of_their_own() -> None:
    """One spelling each, lower case with underscores."""
    names = reasons()
    assert len(set(names)) == len(names) == lib.REASON_COUNT
    assert all(set(name) <= set(string.ascii_lowercase + "_") for name in names)
    assert (names[0], names[-1]) == ("undecided", "matched")


def test_what_is_no_reason_and_no_action_reads_as_a_refusal() -> None:
    """A number that nothing is behind admits nobody."""
    assert text_of(lib.reason_name(lib.REASON_COUNT)) == "undecided"
    assert [text_of(lib.action_name(act)) for act in (0, 1, 2, 3)] == [
        "refuse",
        "leave",
        "choose",
        "login",
    ]
    assert text_of(lib.action_name(4)) == "refuse"


@pytest.mark.parametrize("text", ["foo=bar", "CN=#0c", "CN=#3003", "1.=a", "CN=a"])
def test_no_error_stays_in_the_queue_of_libcrypto(text: str) -> None:
    """Else the thread's next SSL_read would take it for its own failure (SSL_get_error(3))."""
    libcrypto = ctypes.CDLL("libcrypto.so.3")
    libcrypto.ERR_peek_error.restype = ctypes.c_ulong
    libcrypto.ERR_clear_error()
    with suppress(core.CoreError):
        core.parse_name(text)
    assert libcrypto.ERR_peek_error() == 0
