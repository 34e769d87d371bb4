"""Locks go to servers before all else; and on servers that do not know their lines nobody stays in
whom one may concern."""

import pytest

from control._core import lib
from control.policy import core, refusals, taking
from control.reports import Refused
from tests.kit.certs import authority_line, ca, certificate, decide, dns, person, policy, sans, uri

SPIFFE = "spiffe://acme/sa/cart"
LINES = [
    "set enforce on",
    "set unmatched leave",
    authority_line(ca()),
    "bind subject CN=alice,O=acme alice",
    "bind subject CN=both,O=acme alice bob session=8h",
    f"bind uri {SPIFFE} cart",
    "bind dns cart.acme cart",
    "pattern dns {host}.edge.acme edge:{host} on ~{host}:* +@read",
    f"bind key {'a' * 64} certauth-peer-replica",
    "user alice on ~* +@read",
    "user bob on ~* +@read",
    "user cart on ~* +@read",
    "user certauth-peer-replica on +psync",
]
ALICE = certificate(person("alice"))
BOTH = certificate(person("both"))
CART = certificate(person("x"), sans(uri(SPIFFE)))
BY_DNS = certificate(person("y"), sans(dns("cart.acme")))
TWICE = certificate(person("alice"), sans(uri(SPIFFE)))
EDGE = certificate(person("z"), sans(dns("h1.edge.acme")))
OTHER = certificate(person("w"), sans(dns("h2.edge.acme")))
WHO = {"alice": ALICE, "both": BOTH, "cart": CART, "by dns": BY_DNS, "edge": EDGE, "other": OTHER}
WHY = "a line starts with set, ca, bind, revoke or user, not: 'lock'"


def test_a_lock_goes_first_and_comes_back_last() -> None:
    changes = ["+user eve on ~* +@all", "+lock user alice", "-revoke key " + "b" * 64]
    assert taking.parts(changes)[0] == ("+lock user alice",)
    first, rest = taking.parts(["-lock user alice", "-user bob on ~* +@read"])
    assert (first, rest) == (("-user bob on ~* +@read",), ("-lock user alice",))


def refused_by(lines: list[str], *locks: str) -> tuple[Refused, ...]:
    """What a server refuses that knows none of these locks."""
    refused: tuple[Refused, ...] | None = ()
    for lock in locks:
        sent = tuple(refusals.plus(dict.fromkeys(lines, 1), refusals.deviation(refused or ())))
        text = f"1 lines: ; line {sent.index(lock) + 1}: {WHY}"
        refused = refusals.blamed(text, sent, refused or (), lines)
        assert refused is not None
    return refused or ()


def held(lines: list[str], refused: tuple[Refused, ...]) -> list[str]:
    """What that server holds: lines that it can hold, each once."""
    signs = refusals.plus(dict.fromkeys(lines, 1), refusals.deviation(refused))
    assert set(signs.values()) == {1}
    assert not any(line.startswith("lock ") for line in signs)
    core.Policy(signs)
    return list(signs)


def is_out(have: list[str], leaf: bytes) -> bool:
    """Whether a server with these lines refuses it."""

    def state(user: str) -> int:
        found = [line for line in have if line.startswith(f"user {user} ")]
        return (
            lib.USER_MISSING if not found else lib.USER_ON if " on " in found[0] else lib.USER_OFF
        )

    found = decide(policy(have), leaf, ask=state)
    if found.action == "choose":
        return all(state(user) != lib.USER_ON for user in found.users)
    return found.action == "refuse"


@pytest.mark.parametrize(
    ("lock", "out"),
    [
        ("lock user alice", {"alice", "both"}),
        ("lock user cart", {"cart", "by dns"}),
        ("lock user edge:h1", {"edge", "other"}),  # the line that makes it makes the other one too
        ("lock user nobody", set()),
        (f"lock uri {SPIFFE}", {"cart"}),
        ("lock dns cart.acme", {"by dns"}),
        ("lock dns h1.edge.acme", {"edge"}),
        ("lock cn alice", {"alice"}),
        ("lock subject CN=alice,O=acme", {"alice"}),
        (f"lock ca {ca().key_id}", set(WHO)),
        ("lock network 10.0.0.0/8", set(WHO)),
    ],
)
def test_a_server_that_knows_no_locks_lets_nobody_stay_whom_one_may_concern(
    lock: str, out: set[str]
) -> None:
    """Nor as `default`, where strangers may stay; its peers stay what they are."""
    lines = [*map(core.canonical, LINES), core.canonical(lock)]
    refused = refused_by(lines, lines[-1])
    have = held(lines, refused)
    found = {name for name, leaf in WHO.items() if is_out(have, leaf)}
    assert out <= found
    assert found == out
    assert LINES[-1] in have
    assert f"bind key {'a' * 64} certauth-peer-replica" in have
    assert refusals.said(refused).startswith(f"REFUSED '{lock[:80]}' is kept by leaving out whom")


def test_two_locks_about_one_line_go_together() -> None:
    """One line of the server's stands for both."""
    lines = [*map(core.canonical, LINES), "lock user cart", f"lock uri {SPIFFE}"]
    refused = refused_by(lines, "lock user cart", f"lock uri {SPIFFE}")
    have = held(lines, refused)
    assert is_out(have, CART)
    assert is_out(have, TWICE)


def test_attack_a_line_that_comes_behind_the_lock_lets_nobody_in() -> None:
    """A second certificate for the locked user, or another user for the locked name."""
    lines = list(map(core.canonical, [*LINES, "lock user alice", "lock dns new.acme"]))
    refused = refused_by(lines, "lock user alice", "lock dns new.acme")
    more = ["bind cn w alice", "bind dns new.acme bob"]
    refused = refusals.unbound(refused, more)
    have = held([*lines, *more], refused)
    assert is_out(have, certificate(person("w")))
    assert is_out(have, certificate(person("q"), sans(dns("new.acme"))))


def test_when_the_lock_goes_all_that_went_with_it_is_tried_again() -> None:
    lines = [*map(core.canonical, LINES), "lock user alice"]
    refused = refused_by(lines, "lock user alice")
    assert len(refused) > 1
    assert refusals.still(refused, {"lock user alice": -1}) == ()
    assert refusals.still(refused, {"user bob on ~* +@read": -1}) == refused
