"""One policy line: what it may say, its one canonical spelling, and why it is refused."""

import base64
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control._core import ffi, lib
from control.policy import core
from tests.kit.certs import (
    BASIC_CONSTRAINTS,
    CA_USUAL,
    OU,
    UID,
    O,
    authority_line,
    bytes_of,
    ca,
    certificate,
    constraints,
    encoded,
    extension,
    key_usage,
    oid,
    pem,
    person,
    print_name,
    span,
    text_of,
)
from tests.kit.names import CLEAN, NAMES
from tests.kit.support import der

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64


class Line:
    """A parsed line."""

    def __init__(self, text: str | bytes) -> None:
        why = ffi.new("fault *")
        rule = lib.rule_parse(span(text.encode() if isinstance(text, str) else text), why)
        if rule == ffi.NULL:
            raise ValueError(text_of(why.text))
        self.rule = ffi.gc(rule, lib.rule_free)

    @property
    def text(self) -> str:
        return bytes_of(lib.rule_text(self.rule)).decode()

    @property
    def users(self) -> list[str]:
        found: list[str] = []
        while user := bytes_of(lib.rule_user(self.rule, len(found))).decode():
            found.append(user)
        return found

    @property
    def rules(self) -> list[bytes]:
        at, token, found = ffi.new("size_t *"), ffi.new("span *"), []
        while lib.rule_acl_next(self.rule, at, token):
            found.append(bytes_of(token[0]))
        return found

    @property
    def acl(self) -> list[str]:
        return [rule.decode() for rule in self.rules]


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("set enforce on", "set enforce on"),
        ("\tset   enforce\tshadow  ", "set enforce shadow"),
        ("'set' \"enforce\" off", "set enforce off"),
        ("set gate san_cn", "set gate san_cn"),
        ("set gate full_subject", "set gate full_subject"),
        ("set gate disabled", "set gate disabled"),
        ("set unmatched leave", "set unmatched leave"),
        ("set plain refuse", "set plain refuse"),
        ("set password-auth allow", "set password-auth allow"),
        ("set tls-client-auth optional", "set tls-client-auth optional"),
        ('allow CN="John Doe" OU=a OU=b O=acme', 'allow CN="John Doe" OU=a OU=b O=acme'),
        ("allow c=US st=x l=y o=acme ou=b ou=a cn=x", "allow CN=x OU=b OU=a O=acme L=y ST=x C=US"),
        ("allow 'CN=a b'", 'allow CN="a b"'),
        ("bind subject 'CN=a, O=b' alice", "bind subject CN=a,O=b alice"),
        ("bind subject /O=b/CN=a alice", "bind subject CN=a,O=b alice"),
        ('bind subject "CN=John Doe" alice', 'bind subject "CN=John Doe" alice'),
        ("bind cn alice alice bob carol", "bind cn alice alice bob carol"),
        ("bind cn 'a b' alice", 'bind cn "a b" alice'),
        ("bind cn 'it\\'s' \"alice\"", 'bind cn "it\'s" alice'),
        ('bind cn "a\\"b\\\\\\x63" alice', 'bind cn "a\\"b\\\\c" alice'),
        ("bind uri spiffe://x/a alice", "bind uri spiffe://x/a alice"),
        ("bind dns *.example.com alice", "bind dns *.example.com alice"),
        ("bind email a@b alice", "bind email a@b alice"),
        ("bind upn a@b alice", "bind upn a@b alice"),
        ("bind ip 10.0.0.1 alice", "bind ip 10.0.0.1 alice"),
        ("bind attribute 2.5.4.5=12345 a", "bind attribute serialNumber=12345 a"),
        ("bind attribute uid=x=y a", "bind attribute UID=x=y a"),
        ("bind attribute OU=' a,b' a", 'bind attribute "OU= a,b" a'),
        ("bind attribute 1.2.3.4=x a", "bind attribute 1.2.3.4=x a"),
        ("bind extension 1.2.3.4=x a", "bind extension 1.2.3.4=x a"),
        ("bind extension '2.999.1=a b=c' a", 'bind extension "2.999.1=a b=c" a'),
        ("bind extension 2.5.4.5=x a", "bind extension 2.5.4.5=x a"),
        (f"bind extension 1.2.3={'a' * 1024} b", f"bind extension 1.2.3={'a' * 1024} b"),
        ("bind attributes O=acme,OU=a a", "bind attributes OU=a,O=acme a"),
        ("bind attributes /O=acme/OU=a a", "bind attributes OU=a,O=acme a"),
        ("bind attributes OU=a+O=acme a", "bind attributes OU=a,O=acme a"),
        ("bind attributes 'OU=b, OU=a, cn=x' a", "bind attributes OU=b,OU=a,CN=x a"),
        ("bind attributes 'OU=a, CN=x, OU=b' a", "bind attributes OU=b,OU=a,CN=x a"),
        ("bind attributes 2.5.4.11=#130161 a", "bind attributes OU=a a"),
        ("bind attributes OU=1,OU=2,OU=3,OU=4 a", "bind attributes OU=4,OU=3,OU=2,OU=1 a"),
        ("set several-names same", "set several-names same"),
        ("bind ip 2001:DB8:0::1 alice", "bind ip 2001:db8::1 alice"),
        (f"bind cert {KEY.upper()} alice", f"bind cert {KEY} alice"),
        (f"bind key {':'.join(KEY[at : at + 2] for at in range(0, 64, 2))} a", f"bind key {KEY} a"),
        (
            f"bind cn a b session=60m from=::1,10.0.0.0/8 ca={KEY.upper()}",
            f"bind cn a b ca={KEY} from=::1,10.0.0.0/8 session=1h",
        ),
        ("bind cn a b from=10.0.0.1/32,::/0,0.0.0.0/0", "bind cn a b from=10.0.0.1,::/0,0.0.0.0/0"),
        ("bind cn a b session=90s", "bind cn a b session=90s"),
        ("bind cn a b session=86400s", "bind cn a b session=1d"),
        ("bind cn a b session=4294967295s", "bind cn a b session=4294967295s"),
        (f"revoke serial {KEY.upper()} 00:0A:ff", f"revoke serial {KEY} 0aff"),
        (f"revoke serial {KEY} 1", f"revoke serial {KEY} 01"),
        (f"revoke serial {KEY} 000", f"revoke serial {KEY} 00"),
        (f"revoke serial {KEY} 0", f"revoke serial {KEY} 00"),
        (f"revoke serial {KEY} 00:00", f"revoke serial {KEY} 00"),
        (f"revoke cert {KEY}", f"revoke cert {KEY}"),
        (f"revoke key {KEY}", f"revoke key {KEY}"),
        ("user alice", "user alice"),
        ("user alice adopt on ~orders:* +@read", "user alice adopt on ~orders:* +@read"),
        (
            "was alice on '~a b' resetpass \"\\x7e\\x00\"",
            'was alice on "~a b" resetpass "~\\x00"',
        ),
        ("user alice on (~a:*\t+get)", "user alice on (~a:* +get)"),
        ('user alice on "(~x +@read)" (+get)', "user alice on (~x +@read) (+get)"),
        ("user alice adopt on '  (~x   +@read)  '", "user alice adopt on (~x +@read)"),
        ("user alice on ~a'b' \"\\x7e\\x41\"", "user alice on ~ab ~A"),
        ("user alice on ~josé", "user alice on ~josé"),
        ('limit "-@admin  -@dangerous" -get', "limit -@admin -@dangerous -get"),
        ("limit -@admin -@dangerous", "limit -@admin -@dangerous"),
        ("was alice on #abc >x nopass ~*", "was alice on #abc >x nopass ~*"),
        ("user josé on", "user josé on"),
        (f"bind cn {'a' * 4096} b", f"bind cn {'a' * 4096} b"),
        (f"bind cn a {'u' * 512}", f"bind cn a {'u' * 512}"),
    ],
)
def test_a_line_and_its_canonical_text(line: str, canonical: str) -> None:
    """Each way to say it comes to one text, which is its own canonical text."""
    assert core.canonical(line) == canonical
    assert core.canonical(canonical) == canonical


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "a word is missing"),
        (" \t", "a word is missing"),
        (
            "# comment",
            "a line starts with set, ca, anchor, pin, allow, bind, pattern, revoke, lock or user, "
            "not: '#'",
        ),
        ("Set enforce on", "a line starts with set,"),
        ("pattern ip ::1 app:{id}", "pattern takes subject, cn, uri, dns, email or upn, not: 'ip'"),
        ("set", "the name of a setting is missing"),
        ("set mode on", "there is no such setting: 'mode'"),
        ("set enforce", "the value of the setting is missing"),
        ("set enforce yes", "set enforce takes off, shadow or on, not 'yes'"),
        ("set enforce ON", "set enforce takes off, shadow or on, not 'ON'"),
        ("set gate on", "set gate takes disabled, san_cn or full_subject, not 'on'"),
        ("set unmatched x", "set unmatched takes refuse or leave"),
        ("set plain x", "set plain takes leave or refuse"),
        ("set password-auth x", "set password-auth takes refuse or allow"),
        ("set tls-client-auth no", "set tls-client-auth takes yes or optional"),
        ("set enforce on now", "one word too many: 'now'"),
        ('set enforce "on', "unbalanced quotes"),
        ("ca", "the base64 DER of a CA certificate is missing"),
        ("ca !!!!", "not the base64 DER of one certificate"),
        ("ca MIIB", "not the base64 DER of one certificate"),
        ("ca MII", "not the base64 DER of one certificate"),
        ("allow", "allow takes exactly one CN"),
        ("allow O=acme", "allow takes exactly one CN"),
        ("allow CN=a CN=b", "allow takes exactly one CN"),
        ("allow CN=a O=b O=c", "only OU may stand more than once in an allow line"),
        (
            "allow CN=",
            "allow takes CN=, OU=, O=, L=, ST= and C= with a clean, non-empty value, not: 'CN='",
        ),
        (
            "allow CN=a UID=b",
            "allow takes CN=, OU=, O=, L=, ST= and C= with a clean, non-empty value",
        ),
        ("allow alice", "allow takes CN=, OU=, O=, L=, ST= and C="),
        ("allow CN=a\N{ZERO WIDTH SPACE}", "allow takes CN=, OU=, O=, L=, ST= and C= with a clean"),
        (f"allow CN={'a' * 4096}", "the entry is longer than 4096 bytes"),
        ("bind", "what to bind is missing"),
        (
            "bind CN alice alice",
            "bind takes subject, cn, uri, dns, email, ip, upn, cert, key, attribute, extension or "
            "attributes, not: 'CN'",
        ),
        ("pattern attributes OU={x} p:{x}", "pattern takes subject, cn, uri, dns, email or upn"),
        ("pattern extension 1.2.3={x} p:{x}", "pattern takes subject, cn, uri, dns, email or upn"),
        ("set several-names first", "set several-names takes refuse or same, not 'first'"),
        *(
            (f"bind attribute {what} a", message)
            for what, message in (
                ("12345", "takes an OID, = and the value, such as 2.5.4.5=12345, not: '12345'"),
                ("=x", "neither a type of attribute nor an object identifier such as 2.5.4.5: ''"),
                ("XY=x", "neither a type of attribute nor an object identifier"),
                ("SN=x", "SN is read as surname by some and as serial number by others"),
                ("2.5.4.=x", "neither a type of attribute nor an object identifier"),
                ("3.1=x", "neither a type of attribute nor an object identifier"),
                ("1.40=x", "neither a type of attribute nor an object identifier"),
                ("2.05.4=x", "neither a type of attribute nor an object identifier"),
                ("2=x", "neither a type of attribute nor an object identifier"),
                ("OID.2.5.4.5=x", "neither a type of attribute nor an object identifier"),
                (f"1.{'2.' * 300}3=x", "neither a type of attribute nor an object identifier"),
                ("CN=x", "the CN has a kind of its own: bind cn"),
                ("2.5.4.3=x", "the CN has a kind of its own: bind cn"),
                ("OU=", "an empty value, or a control or invisible character in it"),
                ('"OU=a\x00"', "an empty value, or a control or invisible character in it"),
                ('"2.5.4.5\x00=a"', "neither a type of attribute nor an object identifier"),
                (f"OU={'a' * 3838}", "the value is longer than 3837 bytes"),
            )
        ),
        *(
            (f"bind extension {what} a", message)
            for what, message in (
                ("1.2.3", "takes an OID, = and the value"),
                ("OU=x", "not an object identifier such as 1.3.6.1.4.1.99999.1: 'OU'"),
                ("1.2.3.=x", "not an object identifier"),
                ("2.5.29.17=x", "the extension 2.5.29.17 is one of RFC 5280, none of which"),
                ("1.3.6.1.5.5.7.1.1=x", "is one of RFC 5280, none of which is text"),
                ("1.2.3=", "an empty value, or a control or invisible character in it"),
                (f"1.2.3={'a' * 1025}", "the value is longer than 1024 bytes"),
            )
        ),
        *(
            (f"bind attributes {what} a", message)
            for what, message in (
                ("OU=1,OU=2,OU=3,OU=4,OU=5", "bind attributes takes at most 4 attributes"),
                ("OU=a,O=b,OU=a", "an attribute stands twice"),
                ("OU=a+OU=a", "an attribute stands twice in one RDN"),
                ("CN=a,CN=b", "two CNs: a certificate with both would be ambiguous"),
                ("OU=", "an empty value"),
                ("analytics", "'=' is missing at the end of the subject"),
                ("''", "an attribute type is missing at the end of the subject"),
                ("XY=b", "unknown attribute type at character 1 ('X') of the subject"),
            )
        ),
        ("bind serial 1 alice", "bind takes subject, cn, uri"),
        ("bind cn", "the value to bind is missing"),
        ("bind cn alice", "the user is missing"),
        ("bind cn alice ca=" + KEY, "the user is missing"),
        ("bind cn '' alice", "an empty value, or a control or invisible character in it"),
        ('bind cn "a\\x00b" alice', "an empty value, or a control or invisible character in it"),
        ('bind cn "a\\r\\nb" alice', "an empty value, or a control or invisible character in it"),
        ('bind uri "a\\xff" alice', "an empty value, or a control or invisible character in it"),
        ("bind dns a\N{RIGHT-TO-LEFT OVERRIDE}b alice", "a control or invisible character"),
        (f"bind cn {'a' * 4097} b", "the value is longer than 4096 bytes"),
        (
            "bind subject CN=a,XY=b alice",
            "unknown attribute type at character 6 ('X') of the subject",
        ),
        ("bind subject alice alice", "'=' is missing at the end of the subject"),
        ("bind subject CN=a, O=b alice", "an attribute type is missing at the end of the subject"),
        ("bind ip 10.0.0 alice", "not an IP address: '10.0.0'"),
        ("bind ip 10.0.0.0/8 alice", "not an IP address: '10.0.0.0/8'"),
        ("bind ip 10.0.0.010 alice", "not an IP address: '10.0.0.010'"),
        ("bind ip fe80::1%eth0 alice", "not an IP address: 'fe80::1%eth0'"),
        ('bind ip "10.0.0.1\\x00" alice', "not an IP address: ''"),
        (f"bind cert {KEY[2:]} alice", "not the 64 hex digits of a SHA-256"),
        (f"bind cert {KEY}00 alice", "not the 64 hex digits of a SHA-256"),
        (f"bind key {'g' * 64} alice", "not the 64 hex digits of a SHA-256"),
        ("bind cn a b from=", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=10.0.0.0/8,", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=10.0.0.0/33", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=10.0.0.0/", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=10.0.0.0/-1", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=::/129", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=::/0128", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=localhost", "from= takes addresses and networks joined by commas"),
        ("bind cn a b from=10.0.0.1/8", "'10.0.0.1/8' has bits set behind its prefix"),
        (
            "bind cn a b from=10.0.0.0/8,2001:db8::1/64",
            "'2001:db8::1/64' has bits set behind",
        ),
        ("bind cn a b from=10.0.0.1/0", "has bits set behind its prefix"),
        ("bind cn a b from=::1 from=::2", "not an option of bind, or given twice"),
        (f"bind cn a b ca={KEY} ca={KEY}", "not an option of bind, or given twice"),
        ("bind cn a b session=1h session=2h", "not an option of bind, or given twice"),
        (f"bind cn a b ca={KEY} c", "not an option of bind, or given twice"),
        ("bind cn a b ca=acme", "ca= takes a key id: the 64 hex digits of the SHA-256"),
        ("bind cn a b ca=", "ca= takes a key id"),
        *(
            (
                f"bind cn a b session={text}",
                "session= takes a whole number above 0 with s, m, h or d",
            )
            for text in (
                "",
                "8",
                "h",
                "0s",
                "-1h",
                "8H",
                "8w",
                "1.5h",
                "8hh",
                "8 h",
                "99999999999d",
                "4294967296s",
                "1193047h",
                "18446744073709551617s",
            )
        ),
        ('bind cn a "b c"', "not the name of an ACL user"),
        ('bind cn a b "c\\x0ad"', "not the name of an ACL user"),
        ("bind cn a b ''", "not the name of an ACL user"),
        (f"bind cn a {'u' * 513}", "not the name of an ACL user"),
        ("revoke", "what to revoke is missing"),
        ("revoke user alice", "revoke takes serial, cert or key, not: 'user'"),
        ("revoke serial", "the issuer's key id is missing"),
        ("revoke serial 01", "the issuer's key id is not 64 hex digits"),
        (f"revoke serial {KEY}", "the serial number in hex is missing"),
        (f"revoke serial {KEY} 0x1f", "not a serial number in hex"),
        (f"revoke serial {KEY} -1", "not a serial number in hex"),
        (f"revoke serial {KEY} 1g", "not a serial number in hex"),
        (f"revoke serial {KEY} ''", "not a serial number in hex"),
        (f"revoke serial {KEY} ::", "not a serial number in hex"),
        (f"revoke serial {KEY} {'1' * 65}", "the serial number is too long"),
        (f"revoke cert {KEY} 01", "one word too many: '01'"),
        ("revoke key x", "the SHA-256 is not 64 hex digits"),
        ("user", "the name of the user is missing"),
        ("user 'a b' on", "not the name of an ACL user"),
        ('user "a\\x00" on', "not the name of an ACL user"),
        ('user "a\\x7f" on', "not the name of an ACL user"),
        ("user a\N{NO-BREAK SPACE}b\N{WORD JOINER} on", "not the name of an ACL user"),
        ("user alice ''", "an empty ACL rule"),
        ("user alice on '  '", "an empty ACL rule"),
        ("was alice ''", "an empty ACL rule"),
        *(
            (f"user alice on {rule}", "an ACL rule holds no quote, no backslash, no control or")
            for rule in (
                "'~a\"b'",
                '"~a\'b"',
                "~a\\b",
                '"~a\\\\b"',
                '"(~a\\"b +get)"',
                '"~a\\x00"',
                '"~a\\nb"',
                "'(~a\t+get)'",
                '"~a\\x7f"',
                "~a\N{ZERO WIDTH SPACE}",
                "~a\N{RIGHT-TO-LEFT OVERRIDE}b",
                '"~\\xff"',
                '"(~x ~\\xe2\\x82)"',
                '"~\\xed\\xa0\\x80"',
            )
        ),
        ('limit "-a\'b"', "an ACL rule holds no quote, no backslash, no control or invisible"),
        ("limit -get|a\\b", "an ACL rule holds no quote, no backslash, no control or invisible"),
        *(
            (f"user alice on {rule}", "a user line takes no nopass, no password and no reset")
            for rule in (
                "nopass",
                "NOPASS",
                "noPass",
                "reset",
                "RESET",
                ">secret",
                "<secret",
                "#" + KEY,
                "!" + KEY,
                "'>a b'",
                '"\\x3ex"',
                "'~a >secret'",
                '"(~x +get) nopass"',
                "' reset'",
            )
        ),
        ("user alice nopass", "a user line takes no nopass, no password and no reset"),
        ("user alice adopt nopass", "a user line takes no nopass, no password and no reset"),
        ("limit", "a limit line names no rule"),
        ("limit +@all", "a limit line takes rules that take away, such as -@admin, not: '+@all'"),
        ("limit -@admin on", "a limit line takes rules that take away"),
        ("limit '-@admin +@all'", "a limit line takes rules that take away"),
        ("limit ''", "an empty ACL rule"),
    ],
)
def test_a_bad_line_is_refused_and_says_why(line: str, message: str) -> None:
    """Every form that is not a line has a message for the person who wrote it."""
    with pytest.raises(core.CoreError) as refused:
        core.canonical(line)
    assert message in str(refused.value)


# ---- Every line that is taken ----

PATTERNS = [
    "pattern subject CN=dev-{id},O={o} d:{o}:{id} off",
    "pattern cn {a}:{b} c:{a}:{b}:{a}",
    "pattern uri {scheme}://x/{a}?{b}#{c} u:{a}:{b} on ~{a}:* %R~{{b}}:* (%W~{a}) +get",
    "pattern dns {a}.{b}.example.com host:{b}:{a} on &{a}:*",
    "pattern email {who}@{dept}.acme.com mail:{dept}:{who} on",
    "pattern upn svc.{who}@acme.com mail:x{who}y:z on",
]
OTHERS = [
    *(f"set enforce {word}" for word in ("off", "shadow", "on")),
    "set gate full_subject",
    "set unmatched leave",
    "set several-names same",
    "set plain refuse",
    "set password-auth allow",
    "set tls-client-auth optional",
    "set internal-trust allow",
    authority_line(ca()),
    authority_line(ca(), "anchor"),
    "limit -@admin -@dangerous -get",
]

WORDS = CLEAN.map(lambda text: text[:8])
VALUE = WORDS | st.sampled_from(["a b", 'a"b', "a'b", "a\\b", "#a", ",", "a=b", "josé"])
USER = st.sampled_from(["alice", "bob", "a,b", "josé", "x'y", "ca", "adopt"])
HASH = st.text("0123456789abcdefABCDEF", min_size=64, max_size=64)
ADDRESS = st.ip_addresses().filter(lambda one: not getattr(one, "ipv4_mapped", None))
NETS = st.builds(
    lambda address, prefix: str(ip_network((address, prefix % (address.max_prefixlen + 1)), False)),
    ADDRESS,
    st.integers(0, 128),
).filter(lambda net: not getattr(ip_network(net)[0], "ipv4_mapped", None))
OPTIONS = st.lists(
    st.one_of(
        HASH.map("ca={}".format),
        st.lists(NETS | ADDRESS.map(str), min_size=1, max_size=3)
        .map(",".join)
        .map("from={}".format),
        st.builds("session={}{}".format, st.integers(1, 40_000), st.sampled_from("smhd")),
    ),
    max_size=3,
    unique_by=lambda option: option[:2],
)
RULES = st.lists(
    st.sampled_from(
        ["on", "off", "~a*", "+@read", "-get", "(~x +get)", " ~a  b ", "&x", "ADOPT", "~josé"]
    ),
    max_size=5,
)
KEPT = st.lists(
    st.sampled_from(["on", "~a b", "~\0\n", "~a\"b'c\\", ">x", "nopass", "adopt", "#" + KEY]),
    max_size=5,
)
SERIAL = st.text("0123456789abcdefABCDEF", min_size=1, max_size=64)
PART = st.lists(
    st.tuples(st.sampled_from([OU, O, UID, oid("1.2.3")]), VALUE),
    min_size=1,
    max_size=4,
    unique=True,
).map(lambda part: encoded(*([one] for one in part)))
LINES = st.one_of(
    st.builds(
        lambda what, users, options: ["bind", *what, *users, *options],
        st.one_of(
            st.tuples(st.sampled_from(["cn", "uri", "dns", "email", "upn"]), VALUE),
            st.tuples(st.just("subject"), NAMES.map(print_name)),
            st.tuples(st.just("ip"), ADDRESS.map(str)),
            st.tuples(st.sampled_from(["cert", "key"]), HASH),
            st.tuples(
                st.just("attribute"),
                st.builds("{}={}".format, st.sampled_from(["ou", "UID", "2.5.4.5"]), VALUE),
            ),
            st.tuples(st.just("extension"), VALUE.map("1.2.3={}".format)),
            st.tuples(st.just("attributes"), PART.map(print_name)),
        ),
        st.lists(USER, min_size=1, max_size=3, unique=True),
        OPTIONS,
    ),
    st.builds(
        lambda words, options: [*words[:4], *options, *words[4:]],
        st.sampled_from(PATTERNS).map(str.split),
        OPTIONS,
    ),
    st.builds(lambda issuer, number: ["revoke", "serial", issuer, number], HASH, SERIAL),
    st.builds(lambda kind, value: ["revoke", kind, value], st.sampled_from(["cert", "key"]), HASH),
    st.sampled_from([line.split() for line in OTHERS]),
    st.builds(
        lambda name, adopt, rules: ["user", name, *adopt, *rules],
        USER,
        st.sampled_from([[], ["adopt"]]),
        RULES,
    ),
    st.builds(lambda name, rules: ["was", name, *rules], USER, KEPT),
    st.builds(
        lambda cn, ous, rest: ["allow", f"CN={cn}", *(f"OU={ou}" for ou in ous), *rest],
        VALUE,
        st.lists(VALUE, max_size=3),
        st.sampled_from([[], ["O=a b"], ["c=US", "o=x"]]),
    ),
)


def spelled(words: list[str], random: Any) -> str:
    """The words as a line, each quoted in one of the ways there are."""

    def one(word: str) -> str:
        plain = word and not set(word) & set(" \t\"'\\\n\0")
        ways = [core.quote(word), '"' + "".join(f"\\x{byte:02X}" for byte in word.encode()) + '"']
        if "\\" not in word and "'" not in word and "\0" not in word:
            ways.append(f"'{word}'")
        return str(random.choice([*ways, word] if plain else ways))

    return random.choice(["", " "]) + random.choice([" ", "\t", "   "]).join(map(one, words))


@settings(deadline=None, max_examples=400)
@given(LINES, st.randoms(use_true_random=False))
def test_the_canonical_text_is_a_line_that_says_the_same(words: list[str], random: Any) -> None:
    """It is its own canonical text, has the same users and rules, and no spelling changes it."""
    line = Line(spelled(words, random))
    again = Line(line.text)
    assert (again.text, again.users, again.acl) == (line.text, line.users, line.acl)
    assert lib.rule_type(again.rule) == lib.rule_type(line.rule)
    assert lib.rule_adopts(again.rule) == lib.rule_adopts(line.rule)
    assert Line(spelled(words, random)).text == line.text


def test_what_a_bind_line_holds() -> None:
    """Its users in their order; options are not users, and behind one there is no user."""
    line = Line(f"bind cn x alice bob ca={KEY} session=1h")
    assert line.users == ["alice", "bob"]
    assert Line("user carol on ~x").users == ["carol"]
    assert Line("set enforce on").users == []


def test_a_user_may_be_called_adopt_and_no_rule_may() -> None:
    """Only the first word behind the name adopts, and only there it may stand."""
    assert lib.rule_adopts(Line("user adopt adopt on").rule)
    assert not lib.rule_adopts(Line("user adopt on").rule)
    with pytest.raises(ValueError, match="adopt stands right behind the name"):
        Line("user adopt on adopt")
    assert Line("user alice adopt on").acl == ["on"]


@pytest.mark.parametrize("rest", ['"adopt on"', "' adopt' on", "'adopt ' on", "'  adopt  ~x'"])
def test_attack_a_rule_that_becomes_the_word_adopt(rest: str) -> None:
    """What is not an adoption when it is sent is none when the journal is read again: else a
    restart hands an operator's user over."""
    try:
        line = Line(f"user alice {rest}")
    except ValueError:
        return
    again = Line(line.text)
    assert lib.rule_adopts(again.rule) == lib.rule_adopts(line.rule)
    assert again.acl == line.acl


def test_the_words_of_a_quoted_rule_are_the_rules_of_the_line() -> None:
    """As ACL SETUSER takes a selector in one argument or in several; a note keeps its tokens."""
    assert Line("user alice on \"(~x +@read)\" '~a ~b'").acl == ["on", "(~x", "+@read)", "~a", "~b"]
    assert Line('limit "-@admin -get"').acl == ["-@admin", "-get"]
    assert Line('was alice "(~x +@read)" \'~a "b\'').acl == ["(~x +@read)", '~a "b']


@pytest.mark.parametrize(
    "line", ["bind cn a alice alice", "bind cn a alice bob alice", "bind cn a alice 'alice' ca=x"]
)
def test_a_user_named_twice_in_one_line_is_refused(line: str) -> None:
    """Anyone who has to choose between alice and alice was meant to be alice."""
    with pytest.raises(core.CoreError, match="^a user named twice: 'alice'$"):
        core.canonical(line)


@pytest.mark.parametrize("line", ["bind cn alice alice", "bind cn a alice Alice al alicea"])
def test_users_that_only_look_like_one_another_are_not_twice(line: str) -> None:
    """Neither the value bound nor a name that begins alike is the same user."""
    assert core.canonical(line) == line


@pytest.mark.parametrize(
    "net", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "::ffff:0:0/96", "0:0:0:0:0:FFFF:a00:1/128"]
)
def test_an_ipv4_network_mapped_into_ipv6_is_refused(net: str) -> None:
    """Clients' addresses are unmapped before they are compared, so such a net covers nobody."""
    for nets in (net, f"::1,{net}"):
        with pytest.raises(core.CoreError) as refused:
            core.canonical(f"bind cn a b from={nets}")
        assert str(refused.value) == f"write '{net}' as the IPv4 network that it is"


@pytest.mark.parametrize("net", ["::/0", "::1:ffff:a00:1", "::ffff:a00:1:0", "::fffe:a00:1"])
def test_an_ipv6_network_that_is_none_of_ipv4_is_taken(net: str) -> None:
    """The ffff of a mapped address stands in one place."""
    assert core.canonical(f"bind cn a b from={net}") == f"bind cn a b from={net}"


# ---- Bounds ----


def test_the_longest_line() -> None:
    """131,072 bytes are a line, one more is none."""
    line = "user alice on ~" + "k" * (lib.LINE_BYTES - 15)
    assert core.canonical(line) == line
    with pytest.raises(core.CoreError, match="the line is longer than 131072 bytes"):
        core.canonical(line + "k")


def test_a_line_whose_canonical_text_would_be_too_long() -> None:
    """Bytes that grow when they are quoted count as they are written."""
    fits, rest = divmod(lib.LINE_BYTES - 16, 4)
    line = "was alice on '~" + "\1" * fits + "k" * rest + "'"
    assert len(core.canonical(line)) == lib.LINE_BYTES
    with pytest.raises(core.CoreError, match="longer than 131072 bytes"):
        core.canonical(line[:-1] + "k'")


@pytest.mark.parametrize("count", [2_000, 30_000, 60_000])
def test_a_line_of_many_words(count: int) -> None:
    """A line within the bound is taken, however many words it has."""
    line = "user alice on" + " ~" * (count - 3)
    held = lib.rule_parse_held(span(line.encode()), ffi.new("fault *"))
    assert bytes_of(lib.rule_text(held)).decode() == line
    lib.rule_free(held)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (
            ",".join(
                "+".join(f"generationQualifier={char}" for char in "abcdefgh") for _ in range(64)
            ),
            "the subject has more than 64 attributes",
        ),
        (
            ",".join(["1.2" + ".127" * 46 + "=a"] * 64),
            "the subject is longer than 8192 bytes when it is written out",
        ),
    ],
    ids=["many attributes", "long types"],
)
def test_a_subject_whose_text_is_too_long_for_a_line(subject: str, message: str) -> None:
    """`bind subject "" alice` in a journal could never be read again."""
    with pytest.raises(core.CoreError, match=message):
        core.canonical(f"bind subject {subject} alice")


@pytest.mark.parametrize(
    "subject",
    ["CN=" + "\\," * (lib.NAME_BYTES - 7), ",".join(["O=" + "\\+" * 50] * 64)],
    ids=["one value", "many"],
)
def test_a_subject_of_nothing_but_escapes_is_written_whole(subject: str) -> None:
    """Its text is twice as long as its encoding, and quoted in the line it is longer still."""
    canonical = f"bind subject {core.quote(subject)} alice"
    assert core.canonical(canonical) == canonical


def test_the_longest_text_of_a_subject() -> None:
    """8,192 bytes are written out, one more is a fault and no cut name."""
    types = ",".join(["1.2" + ".127" * 30 + "=a"] * 63)
    longest = types + ",CN=" + "a" * (8192 - len(types) - 4)
    assert len(longest) == 8192
    assert core.canonical(f"bind subject {longest} b") == f"bind subject {longest} b"
    with pytest.raises(core.CoreError, match="longer than 8192 bytes when it is written out"):
        core.canonical(f"bind subject {longest}a b")


@pytest.mark.parametrize("rule", [rb"~\xff", rb"~\xe2\x82", rb"~\xed\xa0\x80"])
def test_a_key_pattern_of_bytes_that_are_no_text(rule: bytes) -> None:
    """Redis has keys of any bytes: a note keeps them, a line of ours is text."""
    with pytest.raises(ValueError, match="an ACL rule holds no quote"):
        Line(b'user alice on "' + rule + b'"')
    wanted = rule.decode("unicode_escape").encode("latin-1")
    for was in (b'was alice on "' + rule + b'"', b"was alice on " + wanted):
        kept = Line(was)
        assert kept.rules == Line(bytes_of(lib.rule_text(kept.rule))).rules == [b"on", wanted]


# ---- Authorities ----


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_a_ca_line_holds_a_ca() -> None:
    """The same certificate as `ca` or as `anchor`."""
    for word in ("ca", "anchor"):
        assert core.canonical(authority_line(ca(), word)) == authority_line(ca(), word)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (certificate(person("alice")), "not a CA certificate"),
        (certificate(person("x"), extensions=[]), "not a CA certificate"),
        (
            certificate(person("x"), key_usage(b"\x07\x80"), extensions=CA_USUAL),
            "not a CA certificate",
        ),
        (certificate(person("x"), constraints(True), extensions=CA_USUAL), "not a CA certificate"),
        (
            certificate(person("x"), extensions=[extension(BASIC_CONSTRAINTS, b"\x30\x05")]),
            "not a CA certificate",
        ),
        (ca().der + b"\0", "not the base64 DER of one certificate"),
        (ca().der + ca().der, "not the base64 DER of one certificate"),
        (ca().der[:-1], "not the base64 DER of one certificate"),
        (pem(ca().der), "not the base64 DER of one certificate"),
        (certificate(person("x"), serial=b"\xff", extensions=CA_USUAL), "serial"),
        (certificate(person("x"), serial=b"\x7f" + b"\0" * 32, extensions=CA_USUAL), "serial"),
    ],
    ids=[
        "a leaf",
        "no extensions",
        "without keyCertSign",
        "constraints twice",
        "broken constraints",
        "a byte behind",
        "two certificates",
        "cut",
        "PEM",
        "negative serial",
        "serial of 33 bytes",
    ],
)
def test_what_is_no_ca_is_in_no_ca_line(raw: bytes, message: str) -> None:
    """A `ca` line that could never vouch for a leaf is refused when it is written."""
    for word in ("ca", "anchor"):
        with pytest.raises(core.CoreError, match=message):
            core.canonical(authority_line(raw, word))


def test_base64_of_another_spelling_is_one_line() -> None:
    """Blanks and loose bits of base64 make no second line out of one certificate."""
    wanted = authority_line(ca())
    text = wanted[3:]
    assert core.canonical(f"ca '    {text}'") == wanted
    for raw in (certificate(person(f"x{'y' * more}"), extensions=CA_USUAL) for more in range(3)):
        text = b64(raw)
        if text.endswith("="):
            digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            at = len(text.rstrip("=")) - 1
            loose = text[:at] + digits[digits.index(text[at]) | 1] + text[at + 1 :]
            assert loose != text
            assert core.canonical(f"ca {loose}") == f"ca {text}"
    for broken in (text[:-1], text + "=", text[:40] + "=" + text[41:], text[:40] + "!" + text[41:]):
        with pytest.raises(core.CoreError, match="not the base64 DER of one certificate"):
            core.canonical(f"ca {broken}")


def test_a_certificate_of_more_than_64_kib_is_no_ca() -> None:
    """The bound on one certificate holds for lines as well."""
    padding = extension(b"\x2a\x03", der(4, b"\0" * 66_000))
    raw = certificate(person("x"), padding, extensions=CA_USUAL)
    with pytest.raises(core.CoreError, match="not the base64 DER of one certificate"):
        core.canonical(authority_line(raw))
