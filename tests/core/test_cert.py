"""From X.509 to an identity: checked against `cryptography`, and what is refused."""

import hashlib
import ipaddress
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import given, settings
from hypothesis import strategies as st

from control._core import lib
from control.policy import core
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    CLIENT_AUTH,
    CN,
    DC,
    IA5,
    NUMERIC,
    OU,
    PRINTABLE,
    SERVER_AUTH,
    T61,
    UID,
    UNIVERSAL,
    UTF8,
    VALIDITY,
    VISIBLE,
    O,
    bytes_of,
    ca,
    certificate,
    constraints,
    dns,
    email,
    encoded,
    extension,
    generalized,
    ip,
    key_usage,
    leaf_key,
    name,
    oid,
    parse_name,
    pem,
    person,
    purposes,
    read,
    sans,
    spki_of,
    upn,
    uri,
    utc,
)
from tests.kit.support import der, root

HIDDEN = {
    "NUL": "\0",
    "CR LF": "\r\n",
    "bidi override": "\u202e",
    "bidi isolate": "\u2066",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\xad",
    "C1 control": "\x85",
    "tag": "\U000e0041",
    "line separator": "\u2028",
    "DEL": "\x7f",
}


def identity_of(subject: bytes, *more: bytes, **options: Any) -> core.Identity:
    return core.identity(certificate(subject, *more, **options))


def subject_of(leaf: bytes) -> bytes:
    """The core's encoding of it, while the identity lives that owns its bytes."""
    identity = read(leaf)
    return bytes_of(identity.subject)


def refusal(subject: bytes, *more: bytes, **options: Any) -> str | None:
    """Why the certificate can be nobody, or not by all of its names."""
    found = identity_of(subject, *more, **options)
    return found.refusal or ("bad_string" if found.odd else None)


# ---- `cryptography` as the oracle ----------------------------------------------------------------

KINDS = {
    kind: oid(kind.dotted_string)
    for kind in (
        pyca.NameOID.COMMON_NAME,
        pyca.NameOID.ORGANIZATION_NAME,
        pyca.NameOID.ORGANIZATIONAL_UNIT_NAME,
        pyca.NameOID.LOCALITY_NAME,
        pyca.NameOID.USER_ID,
        pyca.NameOID.DOMAIN_COMPONENT,
        pyca.NameOID.EMAIL_ADDRESS,
        pyca.NameOID.SERIAL_NUMBER,
        pyca.ObjectIdentifier("1.3.6.1.4.1.99999.1"),
    )
}
PLAIN = ["alice", "John Doe", "a=b", "x", "'a'", "a/b:c", "0"]
AWKWARD = [
    "a,b",
    'a"b',
    "a\\b",
    "#a",
    "<a>",
    "a;b",
    "a+b",
    " a ",
    "  ",
    ',=+"\\#<>;',
    "a\\x00",
    "CN=admin",
]
FOREIGN = ["josé", "jose\u0301", "爱丽丝", "алиса", "😀", "ﷺ", "ß"]


def some_name(rng: random.Random) -> pyca.Name:
    def attribute(kind: pyca.ObjectIdentifier) -> pyca.NameAttribute:
        tag = rng.choice([UTF8, UTF8, PRINTABLE, IA5, T61, BMP, UNIVERSAL])
        foreign = FOREIGN if tag in (UTF8, UNIVERSAL) else FOREIGN[:4] if tag == BMP else []
        value = rng.choice(PLAIN if tag == PRINTABLE else [*PLAIN, *AWKWARD, *foreign])
        return pyca.NameAttribute(kind, value, _type=_ASN1Type(tag), _validate=False)

    def rdn() -> pyca.RelativeDistinguishedName:
        kinds = rng.sample(sorted(KINDS, key=str), rng.choice([1, 1, 1, 2, 3]))
        return pyca.RelativeDistinguishedName(map(attribute, kinds))

    return pyca.Name(rdn() for _ in range(rng.randint(0, 6)))


def some_sans(rng: random.Random) -> list[pyca.GeneralName]:
    make = [
        lambda: pyca.DNSName(rng.choice(["a.example", "*.b.example", "x"])),
        lambda: pyca.UniformResourceIdentifier(rng.choice(["spiffe://x/a", "https://a/?b=c,d"])),
        lambda: pyca.RFC822Name(rng.choice(["a@b", "x+y@z.example"])),
        lambda: pyca.IPAddress(
            ipaddress.ip_address(rng.choice(["10.0.0.1", "2001:db8::1", "::ffff:1.2.3.4"]))
        ),
        lambda: pyca.OtherName(
            pyca.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), der(UTF8, "jo@é".encode())
        ),
        lambda: pyca.OtherName(pyca.ObjectIdentifier("1.2.3.4"), der(UTF8, b"alice")),
        lambda: pyca.RegisteredID(pyca.ObjectIdentifier("1.2.3")),
        lambda: pyca.DirectoryName(some_name(rng)),
    ]
    return [rng.choice(make)() for _ in range(rng.randint(0, 5))]


def folded(whole: pyca.Name) -> bytes:
    return encoded(*([(KINDS[one.oid], one.value) for one in rdn] for rdn in whole.rdns))


def sans_by_cryptography(made: pyca.Certificate) -> list[tuple[str, str]]:
    try:
        names = made.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    except pyca.ExtensionNotFound:
        return []
    found = []
    for one in names:
        match one:
            case pyca.DNSName():
                found.append(("dns", one.value))
            case pyca.UniformResourceIdentifier():
                found.append(("uri", one.value))
            case pyca.RFC822Name():
                found.append(("email", one.value))
            case pyca.IPAddress():
                found.append(("ip", str(one.value)))
            case pyca.OtherName() if one.type_id.dotted_string == "1.3.6.1.4.1.311.20.2.3":
                found.append(("upn", one.value[2:].decode()))
    return found


@pytest.mark.parametrize("seed", range(300))
def test_an_identity_is_what_cryptography_reads(seed: int) -> None:
    """Subject, issuer, serial, validity, SANs, key and hash, over certificates with odd names."""
    rng = random.Random(seed)
    begin = datetime(rng.choice([1970, 1999, 2049, 2050]), 1, 1, tzinfo=UTC)
    end = begin + timedelta(seconds=rng.randrange(10**9))
    issuer, subject = some_name(rng), some_name(rng)
    builder = (
        pyca.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .serial_number(rng.getrandbits(rng.choice([1, 8, 63, 64, 158])) | 1)
        .not_valid_before(begin)
        .not_valid_after(end)
        .public_key(leaf_key().public_key())
    )
    if names := some_sans(rng):
        builder = builder.add_extension(pyca.SubjectAlternativeName(names), rng.random() < 0.5)
    made = builder.sign(leaf_key(), hashes.SHA256())
    leaf = made.public_bytes(Encoding.DER)
    found, same = core.identity(leaf), read(leaf)
    assert (found.refusal, found.detail) == (None, None)
    assert (bytes_of(same.subject), bytes_of(same.issuer)) == (folded(subject), folded(issuer))
    for text, whole in ((found.subject, subject), (found.issuer, issuer)):
        assert parse_name(text) == folded(whole) if whole.rdns else text == ""
    assert int(found.serial, 16) == made.serial_number
    assert (found.not_before, found.not_after) == (begin.timestamp(), end.timestamp())
    assert list(found.sans) == sans_by_cryptography(made)
    assert found.cert == hashlib.sha256(leaf).hexdigest()
    assert found.key == hashlib.sha256(spki_of(leaf_key())).hexdigest()


TAGS = {
    UTF8: "josé a",
    PRINTABLE: "jose a",
    IA5: "jose@a",
    NUMERIC: "0 1",
    T61: "jose a",
    BMP: "josé a",
    UNIVERSAL: "jo😀é",
}


@pytest.mark.parametrize("tag", TAGS)
def test_every_string_type_is_folded_to_text(tag: int) -> None:
    """One login, however its issuer encodes a name."""
    raw_identity = read(certificate(person(TAGS[tag], tag)))
    assert raw_identity.refusal == 0
    assert bytes_of(raw_identity.subject) == encoded([(O, "acme")], [(CN, TAGS[tag])])


SMALL = st.tuples(
    st.sampled_from([CN, O, UID]),
    st.sampled_from(["a", "b", "aa"]),
    st.sampled_from([UTF8, PRINTABLE, BMP, UNIVERSAL]),
)
SMALL_NAMES = st.lists(
    st.lists(SMALL, min_size=1, max_size=3, unique_by=lambda one: one[:2]), max_size=3
)


@settings(deadline=None, max_examples=300)
@given(SMALL_NAMES, SMALL_NAMES, st.booleans())
def test_two_names_are_one_exactly_if_their_der_is_up_to_sets_and_string_types(
    one: Any, other: Any, alike: bool
) -> None:
    """The encoding is injective (facts: MySQL's one-line text is not): order of RDNs and their
    borders count, the order inside an RDN and the string types do not."""
    if alike:
        other = [[(kind, value, UTF8) for kind, value, _ in reversed(rdn)] for rdn in one]
    fold = [
        [sorted((kind, value) for kind, value, _ in rdn) for rdn in which] for which in (one, other)
    ]
    first, second = (subject_of(certificate(name(*which))) for which in (one, other))
    assert (first == second) == (fold[0] == fold[1])


# ---- Names that hide something -------------------------------------------------------------------


def test_attack_a_nul_behind_the_name_of_another() -> None:
    """CN `alice\\0.evil` is nobody (CVE-2009-2408; Redis 8.6.3 takes it for alice)."""
    found = identity_of(person("alice\0.evil"))
    assert (found.odd, found.subject, found.sans) == (("subject", "cn"), "CN=,O=acme", ())
    assert refusal(person("alice.evil")) is None


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("tag", [UTF8, BMP, UNIVERSAL], ids=["UTF8", "BMP", "Universal"])
def test_attack_a_hidden_character_in_a_name(hidden: str, tag: int) -> None:
    """In CN or O, in each string type. No line names an issuer by its name, so there it is only
    told."""
    if (hidden, tag) == ("tag", BMP):  # a surrogate pair: libcrypto does not even parse it
        with pytest.raises(core.CoreError, match="not the DER of one certificate"):
            identity_of(person(HIDDEN[hidden], tag))
        return
    value = f"ali{HIDDEN[hidden]}ce"
    assert refusal(person(value, tag)) == "bad_string"
    assert refusal(name([(O, value, tag)], [(CN, "alice")])) == "bad_string"
    found = identity_of(person("alice"), issuer=person(value, tag))
    assert (found.refusal, found.odd, found.issuer) == (None, (), "CN=,O=acme")
    assert (found.detail or "").startswith("the issuer's attribute 2, CN, is not clean text: byte ")


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("tag", [UTF8, BMP, UNIVERSAL], ids=["UTF8", "BMP", "Universal"])
def test_attack_a_hidden_character_in_a_upn(hidden: str, tag: int) -> None:
    """Envoy's CVE-2025-66220 was a NUL in an otherName's BMPString."""
    assert refusal(person("x"), sans(upn(f"alice{HIDDEN[hidden]}@x", tag))) == "bad_string"
    assert identity_of(person("x"), sans(upn("alicé@x", tag))).sans == (("upn", "alicé@x"),)


@pytest.mark.parametrize("kind", [dns, uri, email], ids=["DNS", "URI", "email"])
@pytest.mark.parametrize(
    "value", [b"alice\0.evil", b"a\r\nb", b"a\x1b[0m", b"a\x7f", b"jos\xc3\xa9", b"\xff", b""]
)
def test_attack_a_san_that_is_not_printable_ascii(kind: Any, value: bytes) -> None:
    """IA5String is ASCII; NUL, controls, 8-bit characters and the empty name are refused."""
    assert refusal(person("x"), sans(kind(value))) == "bad_string"
    assert refusal(person("x"), sans(kind("alice.evil"))) is None


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (b"\xff", UTF8),
        (b"\xc0\xaf", UTF8),
        (b"\xed\xa0\x80", UTF8),
        (b"\xf4\x90\x80\x80", UTF8),
        (b"a\xc3", UTF8),
        (b"\xe9", T61),
        (b"\xe9", IA5),
        (b"\xe9", PRINTABLE),
        (b"a\0", PRINTABLE),
        (b"a\0", T61),
        (b"\t", VISIBLE),
        (b"\0a\0", BMP),
        (b"a", BMP),
        (b"\xd8\x3d\xde\x00", BMP),
        (b"\xde\x00\xd8\x3d", BMP),
        (b"\xff\xfe", BMP),
        (b"\0\0\0", UNIVERSAL),
        (b"\0\x11\0\0", UNIVERSAL),
        (b"\0\0\xd8\0", UNIVERSAL),
        (b"\xff\xff\xff\xff", UNIVERSAL),
        (b"", UTF8),
        (b"", PRINTABLE),
        (b"", BMP),
        (b"alice", 4),
        (b"alice", 24),
        (b"alice", 25),
        (b"alice", 27),
        (b"alice", 21),
        (b"\0alice", 3),
        (b"\1", 2),
        (b"\xff", 1),
        (b"\x2a\x03", 6),
        (b"", 5),
    ],
)
def test_attack_a_string_that_is_no_text_of_its_type(value: bytes, tag: int) -> None:
    """Invalid encodings, 8-bit T61, surrogates, empty values and types that are not text."""
    try:
        found = refusal(name([(O, "acme")], [(CN, value, tag)]))
    except core.CoreError:
        return  # libcrypto does not even parse it
    assert found == "bad_string"


@pytest.mark.parametrize(
    "value",
    [
        "ALICE",
        " alice",
        "alice ",
        "alice\xa0",
        "jose\u0301",
        "josé",
        "аlice",
        "ａlice",
        "ali\u0131ce",
    ],
)
def test_case_blanks_and_unicode_forms_are_kept(value: str) -> None:
    """Nothing is folded: the byte-exact name is another user than its look-alike."""
    found = subject_of(certificate(person(value)))
    assert found == encoded([(O, "acme")], [(CN, value)])
    assert found != subject_of(certificate(person("alice")))


# ---- Names that are too much, or nothing ---------------------------------------------------------


@pytest.mark.parametrize("length", [255, 256, 4000])
def test_a_long_name_is_kept_whole(length: int) -> None:
    """A CN of 256 bytes is not the user of its first 255 (Redis 8.6 cuts it)."""
    assert identity_of(person("a" * length)).subject == f"CN={'a' * length},O=acme"


@pytest.mark.parametrize("length", [4096, 5000, 60_000, 65_536])
def test_attack_a_name_of_64_kib(length: int) -> None:
    """Over the bound there is no identity, not a part of one."""
    assert refusal(person("a" * length)) == "too_large"


def test_the_bound_of_a_name_is_exact() -> None:
    """4,096 encoded bytes are a name, 4,097 none; in the issuer as well."""
    room = lib.NAME_BYTES - 7
    assert refusal(name([(CN, "a" * room)])) is None
    assert refusal(name([(CN, "a" * (room + 1))])) == "too_large"
    assert refusal(person("x"), issuer=name([(CN, "a" * room)])) is None
    assert refusal(person("x"), issuer=name([(CN, "a" * (room + 1))])) == "too_large"
    assert refusal(name([(CN, "a" * room)]), issuer=name([(CN, "a" * room)])) is None


@pytest.mark.parametrize("count", [65, 2_000])
def test_attack_thousands_of_rdns(count: int) -> None:
    """More than 64 attributes are refused, in one RDN or in many."""
    assert refusal(name(*([(OU, str(index))] for index in range(count)))) == "too_large"
    assert refusal(name([(OU, f"{index:04}") for index in range(count)])) == "too_large"
    assert refusal(name(*([(OU, str(index))] for index in range(64)))) is None
    assert refusal(name([(OU, f"{index:04}") for index in range(64)])) is None


def test_attack_thousands_of_sans() -> None:
    """2,000 SANs are refused, and none of them is to be seen."""
    names = [dns(f"{index}.example") for index in range(2_000)]
    found = identity_of(person("x"), sans(*names))
    assert (found.refusal, found.sans) == ("too_large", ())
    assert len(identity_of(person("x"), sans(*names[:900])).sans) == 900


def test_the_bounds_of_sans_are_exact() -> None:
    """16,384 bytes of records (three bytes and the value) fit, one more does not; and a value has
    4,096 bytes."""
    fill = [dns("a" * 4093)] * 3
    assert refusal(person("x"), sans(*fill, dns("a" * 4093))) is None
    assert refusal(person("x"), sans(*fill, dns("a" * 4094))) == "too_large"
    assert refusal(person("x"), sans(dns("a" * 4096))) is None
    assert refusal(person("x"), sans(dns("a" * 4097))) == "too_large"


def test_what_a_refused_certificate_said_last_is_not_there() -> None:
    """No record that is cut, unclean or not written at all is left to be read: explain, logs and
    anyone who steps through the SANs would take it for one."""
    for names, kept in (
        ([dns("a" * 4093)] * 5, False),
        ([dns("a" * 4094)] * 4, False),
        ([upn("x\nmatched: yes")], False),
        ([upn(b"\xff")], False),
        ([uri("spiffe://x/good"), dns("a\0b")], True),
        ([ip(b"\1"), uri("spiffe://x/good")], True),
    ):
        found = read(certificate(person("x"), sans(*names)))
        assert found.refusal or found.odd
        good = b"spiffe://x/good"
        record = bytes([lib.BIND_URI]) + len(good).to_bytes(2) + good
        assert bytes_of(found.sans) == (record if kept else b"")


def test_attack_a_certificate_of_more_than_64_kib() -> None:
    """Nothing of it is read."""
    padding = extension(b"\x2a\x03", der(4, b"\0" * 65_536))
    assert (refusal(person("x"), padding), identity_of(person("x"), padding).subject) == (
        "too_large",
        "",
    )


def test_a_key_of_any_size_has_its_id() -> None:
    """Also an RSA key of 160,000 bits, which no handshake takes."""

    def rsa(bits: int) -> bytes:
        number = der(2, b"\x7f" + b"\xff" * (bits // 8))
        algorithm = der(0x30, der(6, oid("1.2.840.113549.1.1.1")), der(5))
        return der(0x30, algorithm, der(3, b"\0" + der(0x30, number, der(2, b"\3"))))

    for bits in (16_384, 160_000):
        key = rsa(bits)
        found = core.identity(certificate(person("x"), spki=key))
        assert (found.refusal, found.key) == (None, hashlib.sha256(key).hexdigest())


def test_a_subject_may_be_empty() -> None:
    """RFC 5280 4.1.2.6: such a leaf is known by its SANs."""
    found = identity_of(name(), sans(uri("spiffe://x/a")))
    assert (found.refusal, found.subject, found.sans) == (None, "", (("uri", "spiffe://x/a"),))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_attack_an_empty_rdn(at: int) -> None:
    """libcrypto drops it, so two names would be one; in the issuer as well."""
    rdns: list[Any] = [[(O, "acme")], [(CN, "alice")]]
    rdns.insert(at, [])
    assert refusal(name(*rdns)) == "malformed"
    assert refusal(person("x"), issuer=name(*rdns)) == "malformed"


def test_attack_an_attribute_twice_in_one_rdn() -> None:
    """A set has no twins (X.501 9.3); in two RDNs there may be."""
    for tag in (UTF8, PRINTABLE, BMP):
        assert refusal(name([(CN, "alice"), (CN, "alice", tag)])) == "malformed"
    assert refusal(name([(CN, "alice")], [(CN, "alice")])) is None
    assert refusal(name([(CN, "alice"), (CN, "mallory")])) is None


def test_names_with_duplicate_rdns_or_another_order_are_other_names() -> None:
    """NATS (CVE-2026-33248) compared them as sets."""
    names = [
        name([(DC, "a")], [(DC, "b")]),
        name([(DC, "b")], [(DC, "a")]),
        name([(DC, "a")], [(DC, "a")], [(DC, "b")]),
        name([(DC, "a"), (DC, "b")]),
        name([(DC, "a")]),
    ]
    assert len({subject_of(certificate(one)) for one in names}) == len(names)


# ---- Subject alternative names -------------------------------------------------------------------


def test_attack_a_san_that_spells_another_san() -> None:
    """Node's CVE-2021-44532: a DNS name whose text looks like a list of names is one DNS name."""
    found = identity_of(person("x"), sans(dns("a, URI:spiffe://x/admin")))
    assert found.sans == (("dns", "a, URI:spiffe://x/admin"),)


def test_attack_the_same_text_as_another_kind_of_san() -> None:
    """Kinds are kept apart."""
    text = "spiffe://x/admin"
    found = [identity_of(person("x"), sans(kind(text))).sans for kind in (dns, uri, email, upn)]
    assert found == [((kind, text),) for kind in ("dns", "uri", "email", "upn")]


def test_attack_the_extension_twice() -> None:
    """Anyone who reads the first and anyone who reads the last of them see two people."""
    assert refusal(person("x"), sans(dns("a")), sans(dns("b"))) == "malformed"
    assert refusal(person("x"), sans(dns("a")), sans(dns("a"))) == "malformed"
    assert refusal(person("x"), purposes(CLIENT_AUTH)) == "malformed"
    assert refusal(person("x"), constraints(False)) == "malformed"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x04\x01a",
        b"\x30\x05\x82\x01a",
        b"\x30\x03\x82\x01a\0",
        b"\x30\x02\x05\x00",
        b"\x30\x80\x82\x01a\0\0",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x81\x03\x82\x01a",
        b"\x30\x04\x82\x81\x01a",
        b"\x30\x05\xa2\x03\x16\x01a",
        b"\x30\x03\x82\x01a\x30\x03\x82\x01b",
        der(0x30, der(0xA0, der(6, raw.UPN))),
    ],
)
def test_a_san_extension_that_does_not_parse(content: bytes) -> None:
    """Then there is no identity, not one without SANs: DER alone, with nothing behind it."""
    found = identity_of(person("x"), extension(raw.SAN, content))
    assert (found.refusal, found.sans) == ("malformed", ())
    assert refusal(person("x"), extension(raw.SAN, b"\x30\x03\x82\x01a")) is None


def test_names_that_nobody_can_be_bound_by_are_no_sans() -> None:
    """Directory names, registered ids, X.400, EDI and other otherNames, odd as they may be
    (CVE-2023-0286, CVE-2020-1971: they are never compared)."""
    names = [
        der(0xA4, person("alice")),
        der(0x88, b"\x2a\x03"),
        der(0xA5, der(0xA1, der(12, b"x"))),
        der(0xA0, der(6, b"\x2a\x03"), der(0xA0, der(UTF8, b"alice"))),
        der(0xA4, person("a\0b")),
    ]
    assert identity_of(person("x"), sans(*names)).sans == ()


@pytest.mark.parametrize(
    "value",
    [
        der(4, b"alice"),
        der(5),
        der(1, b"\xff"),
        der(2, b"\1"),
        der(0x30, b""),
        der(T61, b"a"),
        der(VISIBLE, b"a"),
    ],
)
def test_attack_a_upn_of_a_type_that_is_no_text(value: bytes) -> None:
    """CVE-2023-0286's class: the type is looked at before the value is."""
    assert refusal(person("x"), sans(der(0xA0, der(6, raw.UPN), der(0xA0, value)))) == "bad_string"


@pytest.mark.parametrize("length", [0, 3, 5, 8, 15, 17, 32])
def test_an_address_has_4_or_16_bytes(length: int) -> None:
    """Any other length, a network of name constraints among them, is none."""
    assert refusal(person("x"), sans(ip(b"\1" * length))) == "bad_string"


def test_addresses() -> None:
    """IPv4 and IPv6, as they stand."""
    found = identity_of(
        person("x"),
        sans(ip(b"\n\0\0\1"), ip(b"\0" * 15 + b"\1"), ip(b"\0" * 10 + b"\xff\xff\n\0\0\1")),
    )
    assert [value for _, value in found.sans] == [
        "10.0.0.1",
        "::1",
        str(ipaddress.ip_address("::ffff:10.0.0.1")),
    ]


# ---- Usage ---------------------------------------------------------------------------------------

BASIC = constraints(False)


@pytest.mark.parametrize(
    ("extensions", "client"),
    [
        ([BASIC, purposes(CLIENT_AUTH)], True),
        ([BASIC], True),
        ([], True),
        ([BASIC, purposes(SERVER_AUTH, CLIENT_AUTH)], True),
        ([BASIC, purposes(CLIENT_AUTH, critical=True)], True),
        ([BASIC, purposes(SERVER_AUTH)], False),
        ([BASIC, purposes(raw.ANY_USAGE)], False),
        ([BASIC, purposes(oid("1.2.3.4"))], False),
        ([BASIC, purposes(oid("1.2.3.4"), critical=True)], False),
        ([BASIC, key_usage(b"\x07\x80")], True),
        ([BASIC, key_usage(b"\x03\x08")], True),
        ([BASIC, key_usage(b"\x05\x20")], False),
        ([BASIC, key_usage(b"\x02\x04"), purposes(CLIENT_AUTH)], False),
        ([constraints(True), purposes(CLIENT_AUTH)], False),
        ([constraints(True)], False),
    ],
    ids=[
        "clientAuth",
        "no EKU",
        "no extension",
        "server and client",
        "critical clientAuth",
        "serverAuth",
        "anyExtendedKeyUsage",
        "unknown purpose",
        "critical unknown purpose",
        "digitalSignature",
        "keyAgreement",
        "keyEncipherment only",
        "keyCertSign only",
        "a CA for clients",
        "a CA",
    ],
)
def test_who_may_be_a_tls_client(extensions: list[bytes], client: bool) -> None:
    """RFC 5280 4.2.1.3 and 4.2.1.12 as libcrypto's handshake reads them, and no CA."""
    found = identity_of(person("x"), extensions=extensions)
    assert (found.refusal, found.client) == (None, client)
    assert found.ca == (constraints(True) in extensions)


@pytest.mark.parametrize(
    "broken",
    [
        extension(oid("1.2.3"), b"\5\0", True),
        extension(raw.BASIC_CONSTRAINTS, b"\x30\x05"),
        extension(raw.KEY_USAGE, b"\4\1\0"),
        extension(raw.EXTENDED_KEY_USAGE, b"\x30\x03\x06\x05\x2a"),
        extension(oid("2.5.29.35"), b"\xff"),
        extension(oid("2.5.29.30"), b"\xff", True),
    ],
    ids=["unknown and critical", "constraints", "key usage", "EKU", "AKI", "name constraints"],
)
def test_an_extension_that_is_not_understood_is_a_refusal(broken: bytes) -> None:
    """RFC 5280 4.2: a critical one that is not known, or one that does not parse."""
    assert refusal(person("x"), broken, extensions=[]) == "malformed"
    assert refusal(person("x"), extension(oid("1.2.3"), b"\5\0")) is None


# ---- Times and serial numbers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (utc("491231235959Z"), 2_524_607_999),
        (utc("500101000000Z"), -631_152_000),
        (generalized("20500101000000Z"), 2_524_608_000),
        (generalized("20491231235959Z"), 2_524_607_999),
        (generalized("99991231235959Z"), 253_402_300_799),
        (utc("700101000000Z"), 0),
        (utc("000229120000Z"), 951_825_600),
        (generalized("20240229000000Z"), 1_709_164_800),
        (generalized("00010101000000Z"), -62_135_596_800),
    ],
)
def test_times_to_the_second(time: bytes, seconds: int) -> None:
    """UTCTime's century turns at 50, and the year 9999 means never (RFC 5280 4.1.2.5)."""
    found = identity_of(person("x"), validity=(time, time))
    assert (found.refusal, found.not_before, found.not_after) == (None, seconds, seconds)


@pytest.mark.parametrize(
    "time",
    [
        utc("491331000000Z"),
        utc("490230000000Z"),
        utc("490101240000Z"),
        utc("x90101000000Z"),
        utc(""),
        utc("4901010000Z"),
        utc("490101000000"),
        utc("490101000000+0100"),
        utc("490101000000Z\0"),
        generalized("20490101000000.5Z"),
        generalized("20490101000000"),
        generalized("20490229000000Z"),
        generalized("2049010100Z"),
        der(5),
        der(2, b"\1"),
    ],
)
def test_a_time_that_no_certificate_may_have(time: bytes) -> None:
    """RFC 5280 4.1.2.5: to the second, in Z. The handshake refuses all others too (X509_cmp_time),
    so no identity of the REST API or of explain may have them."""
    for validity in ((VALIDITY[0], time), (time, VALIDITY[1])):
        with suppress(core.CoreError):  # libcrypto does not even parse some
            assert refusal(person("x"), validity=validity) == "malformed"


@pytest.mark.parametrize(
    ("content", "serial"),
    [
        (b"\1", "01"),
        (b"\0\xff", "ff"),
        (b"\0\x80\0", "8000"),
        (b"\x7f" + b"\xff" * 19, "7f" + "ff" * 19),
        (b"\x7f" + b"\0" * 31, "7f" + "00" * 31),
        (b"\0", "00"),
    ],
)
def test_a_serial_number_is_hex_as_in_a_revoke_line(content: bytes, serial: str) -> None:
    """Whole bytes without leading zeros; zero itself is `00`."""
    found = identity_of(person("x"), serial=content)
    assert (found.refusal, found.serial) == (None, serial)


@pytest.mark.parametrize("content", [b"\xff", b"\x80", b"\x80\0\0\0", b"\x7f" + b"\0" * 32])
def test_a_serial_number_that_is_negative_or_too_long(content: bytes) -> None:
    """-1 must not be revoked as 1, nor the other way round."""
    assert refusal(person("x"), serial=content) == "malformed"


# ---- Files ---------------------------------------------------------------------------------------


def test_der_and_pem_are_the_same_certificate() -> None:
    """And text before a PEM block, as openssl writes it, does not matter."""
    leaf = certificate(person("alice"))
    assert (
        core.identity(leaf)
        == core.identity(pem(leaf))
        == core.identity(b"Certificate:\n  Data\n" + pem(leaf))
    )
    assert core.identity(pem(leaf).replace(b"\n", b"\r\n")) == core.identity(leaf)
    assert core.identity(pem(leaf, ca().der)) == core.identity(leaf)


LEAF = certificate(person("alice"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "neither PEM nor the DER of one certificate, or too large"),
        (b"x" * (1 << 21), "neither PEM nor the DER of one certificate, or too large"),
        (LEAF + b"\0", "not the DER of one certificate"),
        (LEAF + LEAF, "not the DER of one certificate"),
        (LEAF[:-1], "not the DER of one certificate"),
        (b"\x30", "not the DER of one certificate"),
        (b"\x30\x84\xff\xff\xff\xff", "not the DER of one certificate"),
        (b"\0", "no certificate in the PEM text"),
        (b"hello", "no certificate in the PEM text"),
        (pem(LEAF)[:-30], "certificate 1 of the PEM text does not parse"),
        (pem(LEAF).replace(b"M", b"!"), "certificate 1 of the PEM text does not parse"),
        (pem(LEAF) + pem(LEAF).replace(b"M", b"!"), "certificate 2 of the PEM text does not parse"),
        (pem(LEAF) + pem(LEAF[:-1]), "certificate 2 of the PEM text does not parse"),
        (pem(LEAF) + pem(LEAF)[:-30], "certificate 2 of the PEM text does not parse"),
        (pem(LEAF + b"\0"), "certificate 1 of the PEM text does not parse"),
        (pem(*[LEAF] * 16), "16 certificates or more; at most 15"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "no certificate in the PEM text",
        ),
    ],
    ids=[
        "nothing",
        "2 MiB",
        "a byte behind",
        "two",
        "cut",
        "one byte",
        "huge length",
        "NUL",
        "no PEM",
        "cut PEM",
        "no base64",
        "second not base64",
        "second cut",
        "second without end",
        "a byte behind in PEM",
        "16",
        "a key",
    ],
)
def test_what_is_no_certificate_is_refused_by_name(given: bytes, message: str) -> None:
    """A broken second block is not the end of the text: the path would be another one."""
    with pytest.raises(core.CoreError, match=message):
        core.identity(given)


def test_a_der_that_is_written_in_ber_is_not_another_certificate() -> None:
    """CVE-2014-8275: bytes outside the signature must not make a second hash, or it does not
    parse. The outer length in long form is such a change."""
    content = LEAF[4:]
    variants = [b"\x30\x83\0" + len(content).to_bytes(2) + content, b"\x30\x80" + content + b"\0\0"]
    for variant in variants:
        try:
            found = core.identity(variant)
        except core.CoreError:
            continue
        assert found.cert == core.identity(LEAF).cert


OCSP, CA_ISSUERS = AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS
HTTP = "http://ocsp.acme.example/"
RESPONDERS: dict[str, tuple[list[tuple[pyca.ObjectIdentifier, str]], str]] = {
    "http": ([(OCSP, HTTP)], HTTP),
    "https": ([(OCSP, "https://ocsp.acme.example")], "https://ocsp.acme.example"),
    "the first that is asked by http": (
        [(CA_ISSUERS, "http://acme.example/ca"), (OCSP, "ldap://acme.example/"), (OCSP, HTTP),
         (OCSP, "http://other.example/")], HTTP,
    ),
    "only where its issuer is": ([(CA_ISSUERS, "http://acme.example/ca")], ""),
    "nothing behind the scheme": ([(OCSP, "http://"), (OCSP, "https://")], ""),
    "a blank": ([(OCSP, "http://acme.example/ x")], ""),
    "a newline": ([(OCSP, "http://acme.example/\n")], ""),
    "the longest": ([(OCSP, "http://" + "x" * 248)], "http://" + "x" * 248),
    "too long": ([(OCSP, "http://" + "x" * 249)], ""),
}  # fmt: skip


@pytest.mark.parametrize("how", RESPONDERS)
def test_the_responder_that_a_certificate_names(how: str) -> None:
    """The first one that can be asked by http or https, as it stands there or not at all; it
    refuses nobody."""
    named, expected = RESPONDERS[how]
    access = pyca.AuthorityInformationAccess(
        pyca.AccessDescription(kind, pyca.UniformResourceIdentifier(url)) for kind, url in named
    )
    leaf = root().issue("CN=alice", extensions=[(access, False)])
    found = core.identity(leaf.der)
    assert (found.ocsp, found.refusal) == (expected, None)


def test_an_access_that_does_not_parse_names_nobody() -> None:
    """Nor does it refuse anybody: nothing that decides looks at it."""
    odd = pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.3.6.1.5.5.7.1.1"), b"rubbish")
    found = core.identity(root().issue("CN=alice", extensions=[(odd, False)]).der)
    assert (found.ocsp, found.refusal) == ("", None)
