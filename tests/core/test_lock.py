"""`lock` lines: who is out for the time being, whatever the other lines say; and everything is as
it was when they go."""

import hashlib
from typing import Any

import pytest

from control._core import lib
from control.policy import core
from control.policy.core import CoreError
from tests.kit.certs import (
    authority_line,
    ca,
    certificate,
    decide,
    intermediate,
    leaf_key,
    patch,
    person,
    policy,
    sans,
    spki_of,
    uri,
)

ALICE = person("alice")
BIND = "bind subject CN=alice,O=acme alice"
TRUST = ["set enforce on", "set unmatched leave", authority_line(ca()), BIND]
KEY = hashlib.sha256(spki_of(leaf_key())).hexdigest()
CA_KEY = ca().key_id
SPIFFE = "spiffe://acme/sa/cart"


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("lock user alice", "lock user alice"),
        ("lock user 'app:shop'", "lock user app:shop"),
        (f"lock ca {CA_KEY.upper()}", f"lock ca {CA_KEY}"),
        ("lock network 10.0.0.0/8", "lock network 10.0.0.0/8"),
        ("lock network 10.1.2.3/32", "lock network 10.1.2.3"),
        ("lock network ::/0", "lock network ::/0"),
        ("lock subject /O=acme/CN=alice", "lock subject CN=alice,O=acme"),
        ("lock cn 'John Doe'", 'lock cn "John Doe"'),
        (f"lock uri {SPIFFE}", f"lock uri {SPIFFE}"),
        ("lock ip 10.0.0.1", "lock ip 10.0.0.1"),
        (f"lock key {KEY.upper()}", f"lock key {KEY}"),
    ],
)
def test_a_lock_and_its_canonical_text(line: str, canonical: str) -> None:
    assert core.canonical(line) == canonical
    assert core.canonical(canonical) == canonical


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("lock", "what to lock is missing"),
        ("lock attributes OU=eng", "lock takes user, ca, network, subject"),
        ("lock extension 1.2.3=x", "lock takes user, ca, network, subject"),
        ("lock user", "the name of the user is missing"),
        ("lock user 'a b'", "not the name of an ACL user"),
        ('lock user "o\'brien"', "holds a quote"),
        ("lock user alice bob", "one word too many"),
        ("lock ca 00", "the CA's key id is not 64 hex digits"),
        ("lock network", "the address or the network is missing"),
        ("lock network 10.0.0.0/8,::1", "lock network takes an address or a network; not"),
        ("lock network 10.0.0.1/8", "has bits set behind its prefix"),
        ("lock network ::ffff:10.0.0.1", "as the IPv4 network that it is"),
        ("lock network 10.0.0.0/33", "lock network takes an address or a network"),
        ("lock ip 10.0.0.0/8", "not an IP address"),
    ],
)
def test_no_lock(line: str, problem: str) -> None:
    with pytest.raises(CoreError, match=problem):
        core.canonical(line) if "quote" not in problem else core.Policy([line])


def decided(lines: Any, leaf: bytes | None, **options: Any) -> tuple[str, str]:
    found = decide(lines, leaf, **options)
    return found.action, found.reason


LEAF = certificate(ALICE, sans(uri(SPIFFE)))
CONCERNED = [
    "lock user alice",
    f"lock ca {CA_KEY}",
    "lock network 10.0.0.0/8",
    "lock network 10.1.2.3",
    "lock network 0.0.0.0/0",
    "lock subject CN=alice,O=acme",
    "lock cn alice",
    f"lock uri {SPIFFE}",
    f"lock key {KEY}",
    f"lock cert {hashlib.sha256(LEAF).hexdigest()}",
]
ADDRESS = bytes([10, 1, 2, 3])


@pytest.mark.parametrize("line", CONCERNED)
def test_whom_a_lock_concerns_is_out_and_back_when_it_goes(line: str) -> None:
    """As soon as the change is seen through, and once it is made; explain names the line."""
    base = policy(TRUST)
    good = ("login", "matched")
    assert decided(base, LEAF, address=ADDRESS) == good
    change = patch(base, [f"+{line}"])
    assert decided(base, LEAF, address=ADDRESS, pending=change) == ("refuse", "locked")
    found = decide(policy([*TRUST, line]), LEAF, address=ADDRESS)
    assert (found.action, found.reason) == ("refuse", "locked")
    assert f"by the line: {line}" in found.trace
    locked = policy([*TRUST, line])
    assert decided(locked, LEAF, address=ADDRESS, pending=patch(locked, [f"-{line}"])) == good


@pytest.mark.parametrize(
    "line",
    [
        "lock user bob",
        "lock user alic",
        f"lock ca {'0' * 64}",
        "lock network 10.1.2.2",
        "lock network 11.0.0.0/8",
        "lock network a00::/8",  # the same bytes, and another family
        "lock network ::/0",
        "lock subject CN=bob,O=acme",
        "lock dns alice",
        f"lock uri {SPIFFE}2",
        f"lock cert {KEY}",
    ],
)
def test_nobody_else_notices_a_lock(line: str) -> None:
    assert decided(policy([*TRUST, line]), LEAF, address=ADDRESS) == ("login", "matched")


def test_a_lock_holds_ipv6_to_the_bit() -> None:
    address = bytes.fromhex("20010db8000000000000000000000001")
    for net, out in [("2001:db8::/32", True), ("2001:db8::/127", True), ("2001:db8::1", True),
                     ("2001:db8::2/127", False), ("::/0", True), ("0.0.0.0/0", False)]:  # fmt: skip
        found = decided(policy([*TRUST, f"lock network {net}"]), LEAF, address=address)
        assert found == (("refuse", "locked") if out else ("login", "matched")), net


def test_an_unknown_address_is_in_no_network() -> None:
    assert decided(policy([*TRUST, "lock network 0.0.0.0/0"]), LEAF) == ("login", "matched")


def test_attack_a_locked_stranger_does_not_stay_as_default() -> None:
    """`set unmatched leave` leaves those whom no line binds, and those of another CA: not where a
    lock names them."""
    stranger = certificate(person("mallory"))
    assert decided(policy(TRUST), stranger)[0] == "leave"
    assert decided(policy([*TRUST, "lock cn mallory"]), stranger) == ("refuse", "locked")
    untrusted = ["set enforce on", "set unmatched leave"]
    assert decided(policy(untrusted), stranger) == ("leave", "untrusted_issuer")
    found = decided(policy([*untrusted, "lock cn mallory"]), stranger)
    assert found == ("refuse", "locked")


def test_a_lock_of_a_network_holds_connections_without_a_certificate() -> None:
    lines = policy([*TRUST, "lock network 10.0.0.0/8"])
    found = decide(lines, None, address=ADDRESS)
    assert (found.action, found.reason) == ("refuse", "locked")
    assert "by the line: lock network 10.0.0.0/8" in found.trace
    assert decided(lines, None, address=bytes(4)) == ("leave", "no_certificate")


def test_attack_of_several_users_another_one_is_taken() -> None:
    """Who holds a certificate that may be a locked user does not choose the other one."""
    lines = [*TRUST[:3], "bind subject CN=alice,O=acme alice audit"]
    assert decided(policy(lines), LEAF) == ("choose", "matched")
    assert decided(policy([*lines, "lock user audit"]), LEAF) == ("refuse", "locked")


def test_a_lock_holds_users_that_a_pattern_makes() -> None:
    line = "pattern uri spiffe://acme/sa/{sa} app:{sa} on ~{sa}:* +@read"
    lines = [*TRUST[:3], line]
    assert decided(policy(lines), LEAF) == ("login", "matched")
    assert decided(policy([*lines, "lock user app:cart"]), LEAF) == ("refuse", "locked")
    assert decided(policy([*lines, "lock user app:shop"]), LEAF) == ("login", "matched")


def test_a_lock_of_a_ca_holds_what_is_below_it() -> None:
    between = intermediate(ca())
    leaf = certificate(ALICE, by=between)
    lines = policy([*TRUST, f"lock ca {between.key_id}"])
    assert decided(lines, leaf, chain=[between, ca()]) == ("refuse", "locked")
    assert decided(lines, LEAF) == ("login", "matched")


def test_peers_and_the_bootstrap_file_are_exempt() -> None:
    """A lock never cuts replication, nor locks out anyone who could take it back."""
    everybody = "lock network 0.0.0.0/0"
    peer = policy([*TRUST[:3], f"bind key {KEY} certauth-peer-replica",
                   "user certauth-peer-replica on +psync", everybody])  # fmt: skip
    assert decided(peer, LEAF, address=ADDRESS)[1] == "matched"
    own = policy([authority_line(ca()), BIND, "user alice on +@all"], lib.FROM_BOOTSTRAP)
    lines = policy([*TRUST, everybody, "lock user alice"])
    assert decided(lines, LEAF, address=ADDRESS, bootstrap=own) == ("login", "matched")
    with pytest.raises(ValueError, match="a bootstrap file holds"):
        policy(["lock user alice"], lib.FROM_BOOTSTRAP)


def test_shadow_records_a_lock_and_off_knows_none() -> None:
    for enforce, action in (("shadow", "refuse"), ("off", "leave")):
        lines = [f"set enforce {enforce}", *TRUST[1:], "lock user alice"]
        found = decide(policy(lines), LEAF)
        assert (found.action, found.shadow) == (action, enforce == "shadow")


def test_a_policy_says_a_lock_once() -> None:
    base = policy([*TRUST, "lock network 10.0.0.0/8"])
    with pytest.raises(ValueError, match="holds this line already"):
        patch(base, ["+lock network 10.0.0.0/8"])
