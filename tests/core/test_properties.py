"""Laws over random policies: what a policy is depends on its lines alone, however they came, and it
decides as the naive oracle does."""

import ipaddress
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control._core import ffi, lib
from control.policy.core import Policy
from tests.kit.certs import NOW, decide, patch, pem, policy
from tests.kit.oracle import (
    ADDRESSES,
    TLS_VERSIONS,
    Leaf,
    Outcome,
    digest_of,
    oracle,
    some,
    some_bootstrap,
    some_leaf,
    some_lines,
)
from tests.kit.reasons import reasons

MAPS = ("bind", "pattern", "allow", "revoke")
laws = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# What Hypothesis picks itself shrinks, and is plain mostly; what comes from a seed goes deep.
picked = pytest.mark.parametrize("seeded", [False, True], ids=["picked", "seeded"])


def some_policies(rng: random.Random) -> tuple[list[Leaf], list[list[str]]]:
    """Leaves, and three policies that are about them: two have many lines in common, and one says
    other things of the same."""
    leaves = [some_leaf(rng) for _ in range(4)]
    whole, other = some_lines(rng, leaves, 12)[1], some_lines(rng, leaves)[1]
    first = some_of(rng, whole)
    return leaves, [first, some_of(rng, rng.choice([first, whole])), other]


def some_of(rng: random.Random, lines: list[str]) -> list[str]:
    """Most of them, and nearly always those without which there is nobody."""
    return [line for line in lines if not some(rng, 0.3 if line.startswith(MAPS) else 0.05)]


def shuffled(rng: random.Random, items: Iterable[str]) -> list[str]:
    found = sorted(items)
    rng.shuffle(found)
    return found


def spelled(rng: random.Random, line: str) -> str:
    """Another spelling of a line without quotes."""
    return rng.choice([line, line.replace(" ", "  "), f"\t{line} "])


def change(rng: random.Random, before: Iterable[str], after: Iterable[str]) -> list[list[str]]:
    """The patches from one policy to another: all in one, or in several."""
    gone = shuffled(rng, {f"-{line}" for line in set(before) - set(after)})
    come = shuffled(rng, {f"+{line}" for line in set(after) - set(before)})
    if not some(rng, 0.7):
        return [shuffled(rng, [*gone, *come])]
    steps = [*gone, *come]  # first what goes, for what comes may be another value of it
    cuts = sorted(rng.randrange(len(steps) + 1) for _ in range(3))
    return [steps[a:b] for a, b in zip([0, *cuts], [*cuts, len(steps)], strict=True)]


def seen(under: Policy, leaves: list[Leaf], address: str | None) -> list[Any]:
    """What a policy is, and what it decides."""
    decisions = [
        under.decide(pem(leaf.der, *(one.der for one in leaf.chain)), NOW, address)
        for leaf in leaves
    ]
    plain = under.decide(None, NOW, address)
    said = [(Outcome.of(one), one.shadow) for one in (*decisions, plain)]
    return [under.lines, under.digest, under.applied, *said]


@picked
@laws
@given(data=st.data())
def test_how_lines_were_sent_leaves_no_trace(seeded: bool, data: st.DataObject) -> None:
    """A LOAD in any order and spelling, over nothing or over another policy, and patches by way of
    others: the same lines, digest and decisions."""
    rng = data.draw(st.randoms(use_true_random=seeded))
    leaves, policies = some_policies(rng)
    address = rng.choice(ADDRESSES)
    patched, over, before = Policy(), Policy(), list[str]()
    for lines in policies:
        expected = seen(Policy(lines), leaves, address)
        assert expected[:2] == [tuple(sorted(lines)), digest_of(lines)]
        other = [spelled(rng, line) for line in shuffled(rng, lines)]
        assert [Policy(other).lines, Policy(other).digest] == expected[:2]
        over._change([f"+{line}" for line in other], whole=True)
        assert seen(over, leaves, address) == expected
        for step in change(rng, before, lines):
            patched.patch([one[0] + spelled(rng, one[1:]) for one in step])
        assert seen(patched, leaves, address) == expected
        before = lines


@picked
@laws
@given(data=st.data())
def test_a_patch_and_its_reverse_change_nothing(seeded: bool, data: st.DataObject) -> None:
    """Of one patch or of several, the last one first."""
    rng = data.draw(st.randoms(use_true_random=seeded))
    leaves, (before, after, _) = some_policies(rng)
    address = rng.choice(ADDRESSES)
    held = Policy(before)
    expected = seen(held, leaves, address)
    steps = change(rng, before, after)
    for step in steps:
        held.patch(step)
    assert held.digest == digest_of(after)
    for step in reversed(steps):
        held.patch([("-" if one[0] == "+" else "+") + one[1:] for one in shuffled(rng, step)])
    assert seen(held, leaves, address) == expected


@picked
@settings(laws, max_examples=500)
@given(data=st.data())
def test_the_decision_is_the_naive_oracles(seeded: bool, data: st.DataObject) -> None:
    """Action, reason, users and session, from inside, outside or an unknown address, while part of
    the policy is still a patch, and beside a bootstrap file."""
    rng = data.draw(st.randoms(use_true_random=seeded))
    leaves = [some_leaf(rng) for _ in range(3)]
    told, text = some_lines(rng, leaves)
    own, file = some_bootstrap(rng, leaves) if some(rng, 0.3) else (None, [])
    bootstrap = policy(file, lib.FROM_BOOTSTRAP) if own else ffi.NULL
    cut = rng.randrange(len(text) + 1) if some(rng, 0.5) else len(text)
    under = policy(text[:cut])
    pending = ffi.NULL
    if cut < len(text):
        pending = ffi.gc(patch(under, [f"+{line}" for line in text[cut:]]), lib.patch_free)
    for leaf in [*leaves, *leaves, None]:
        address = rng.choice(ADDRESSES)
        packed = ipaddress.ip_address(address).packed if address else b""
        shown = (leaf.der, leaf.chain) if leaf else (None, ())
        version = rng.choice(TLS_VERSIONS)
        options = {"bootstrap": bootstrap, "pending": pending, "tls_version": version}
        found = decide(under, *shown, address=packed, **options)
        wanted = oracle(told, leaf, NOW, address, own, version)
        assert Outcome.of(found) == wanted, (text, file, leaf, address, version)


def test_the_oracle_is_asked_about_every_reason() -> None:
    """Else the test before this one would be silent about some; and about made users as well."""
    rng, found = random.Random(0), list[Outcome]()
    for _ in range(1500):
        leaf = some_leaf(rng)
        told, _ = some_lines(rng, [leaf])
        own = some_bootstrap(rng, [leaf])[0] if rng.random() < 0.3 else None
        who = rng.choice([leaf] * 20 + [None])
        version = rng.choice(TLS_VERSIONS)
        found.append(oracle(told, who, NOW, rng.choice(ADDRESSES), own, version))
    other = {"undecided", "no_journal", "no_policy", "handshake", "weak", "unknown_algorithm"}
    other |= {"malformed", "too_large", "locked"}  # of locks, see test_lock.py
    assert {one.reason for one in found} == set(reasons()) - other
    assert {one.action for one in found} == {"login", "choose", "leave", "refuse"}
    assert {one.session for one in found} == {0, 3600, 7200}
    assert {one.users for one in found} >= {("alice",), ("alice", "bob"), ("p:a",), ("p:ab",)}
    assert sum(one.reason == "matched" for one in found) > 100
