"""control/policy/bindings.py: identities of users, from JSON to `bind` lines and back."""

from typing import Any

import pytest

from control.policy import bindings, core, taking
from control.records import Binding, User
from tests.kit.support import Pki

HASH = "ab" * 32
GIVEN: list[dict[str, Any]] = [
    {"subject": "CN=alice,O=acme"},
    {"subject": 'CN=John \\"J\\" Doe\\, jr,O=acme', "comment": "the elder"},
    {"cn": 'a "b\\ c'},
    {"uri": "spiffe://acme/ns/shop/sa/cart", "ca": HASH, "session": "8h"},
    {"dns": "cart.acme.com", "from": ["10.0.0.0/8", "fd00::/8"]},
    {"email": "alice@acme.com"},
    {"ip": "fd00::1"},
    {"upn": "alice@corp.acme.com", "shared": True},
    {"key": HASH},
    {"cert": HASH},
    {"attributes": "OU=analytics,O=acme", "ca": HASH},
    {"attribute": {"oid": "serialNumber", "value": "a b=c"}},
    {"extension": {"oid": "1.3.6.1.4.1.57264.1.8", "value": "https://issuer.example"}},
]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: next(iter(given)))
def test_json_and_back_is_the_same(given: dict[str, Any]) -> None:
    """And the line is one that a node takes."""
    binding = bindings.read(given)
    assert bindings.shown(binding) == given
    assert bindings.read(bindings.shown(binding)) == binding
    line = core.canonical(bindings.line_of(binding, ["alice"]))
    assert taking.users_of(line) == ("alice",)


@pytest.mark.parametrize(
    ("given", "spelling"),
    [
        ({"subject": "/O=acme/CN=alice"}, {"subject": "CN=alice,O=acme"}),
        ({"key": HASH.upper()}, {"key": HASH}),
        (
            {"attribute": {"oid": "2.5.4.5", "value": "7"}},
            {"attribute": {"oid": "serialNumber", "value": "7"}},
        ),
        ({"ip": "FD00:0::1"}, {"ip": "fd00::1"}),
    ],
)
def test_a_value_is_kept_in_its_canonical_spelling(given: Any, spelling: Any) -> None:
    """So that two spellings are one identity."""
    assert bindings.shown(bindings.read(given)) == spelling


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "exactly one of subject, cn"),
        ({"cn": "a", "uri": "b:c"}, "exactly one of subject, cn"),
        ({"subject": "alice"}, "distinguished|type|=|name"),
        ({"key": "ab"}, "64 hex digits"),
        ({"ip": "10.0.0.256"}, "10.0.0.256"),
        ({"cn": "a", "ca": "the CA"}, "ca"),
        ({"cn": "a", "from": ["10.0.0.1/8"]}, "10.0.0.1/8"),
        ({"cn": "a", "session": "8"}, "session"),
        ({"cn": "a\nuser x on"}, "cn|character"),
    ],
)
def test_what_no_line_can_say_is_refused_with_why(given: Any, why: str) -> None:
    """In the core's words; no line is ever made of two."""
    with pytest.raises(ValueError, match=why):
        bindings.read(given)


def test_the_plain_subject_is_the_subject_line() -> None:
    """The first one without options; one with options stays beside it."""
    plain, other = Binding("subject", "CN=a"), Binding("subject", "CN=b")
    at_night = Binding("subject", "CN=a", session="8h")
    assert bindings.parted([at_night, plain, other]) == ("CN=a", (at_night, other))
    assert bindings.parted([at_night]) == ("", (at_night,))


def test_a_certificate_is_looked_up_by_all_that_it_has(pki: Pki) -> None:
    """Its subject in both orders, where escaped commas end no RDN; its names, its key, itself."""
    leaf = pki.ca.issue("CN=a\\,b,OU=x+L=y,O=acme", san=("uri:spiffe://acme/a", "ip:fd00::1"))
    shown = core.identity(leaf.der)
    found = bindings.of_certificate(shown)
    assert {("subject", shown.subject), ("cn", "a,b"), ("uri", "spiffe://acme/a")} <= set(found)
    assert {("ip", "fd00::1"), ("key", shown.key), ("cert", shown.cert)} <= set(found)
    back = [value for kind, value in found if kind == "subject"][1]
    assert back.split(",")[0] == "O=acme"
    assert core.parse_name(back) == back


@pytest.mark.parametrize("address", ["fd00::1", "::ffff:0:1", "10.0.0.1", "::ffff:10.0.0.1"])
def test_an_address_is_found_however_it_is_written(pki: Pki, address: str) -> None:
    """What a line says and what a certificate is looked up by have one spelling."""
    shown = core.identity(pki.ca.issue("CN=host", san=(f"ip:{address}",)).der)
    binding = bindings.read({"ip": address})
    assert ("ip", binding.value) in bindings.of_certificate(shown)


def test_identities_overlap_unless_their_cas_differ() -> None:
    """Under one CA alone and under every CA: a certificate may have both."""
    one, other = Binding("cn", "a", ca=HASH), Binding("cn", "a", ca="cd" * 32)
    assert bindings.overlap(one, Binding("cn", "a"))
    assert not bindings.overlap(one, other)
    assert not bindings.overlap(Binding("cn", "a"), Binding("dns", "a"))


def test_a_shared_line_has_all_who_share_it_by_uid() -> None:
    """Those who have it without sharing are not in it."""
    shared = Binding("cn", "team", shared=True)
    users = [
        User(uid, f"u{uid}", "certificate", (), bindings=(binding,))
        for uid, binding in ((3, shared), (2, shared), (4, Binding("cn", "team")))
    ]
    assert [one.uid for one in bindings.sharing(shared, users[0], users)] == [2, 3]


@pytest.mark.parametrize(
    ("given", "likely"),
    [
        ({"uri": "SPIFFE://Acme.org/ns"}, "spiffe://acme.org/ns"),
        ({"uri": "spiffe://acme.org/"}, "spiffe://acme.org"),
        ({"uri": "urn:a b"}, "urn:a%20b"),
        ({"dns": "Cart.acme.com"}, "cart.acme.com"),
        ({"uri": "spiffe://acme.org/ns/shop"}, ""),
    ],
)
def test_a_value_that_certificates_rarely_hold_is_doubted(given: Any, likely: str) -> None:
    """It is taken as it is, for comparison is byte for byte; the canonical form is named."""
    said = bindings.doubt(bindings.read(given))
    assert (f"'{likely}'" in said) if likely else said == ""
