"""A policy as a set of lines, changes to it, and the decision: by attacks. Laws over random
policies are in test_properties.py."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from control._core import ffi, lib
from control.policy import core
from control.policy.core import Policy, PolicyError
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    CLIENT_AUTH,
    CN,
    DC,
    NOW,
    OU,
    PRINTABLE,
    UID,
    UNIVERSAL,
    UTF8,
    VALIDITY,
    O,
    authority_line,
    ca,
    certificate,
    constraints,
    decide,
    dns,
    email,
    intermediate,
    ip,
    long_root,
    name,
    patch,
    person,
    policy,
    purposes,
    sans,
    spki_of,
    trusting,
    upn,
    uri,
    utc,
)
from tests.kit.oracle import digest_of
from tests.kit.reasons import reasons
from tests.kit.support import Cert, root

ALICE = person("alice")
BIND = "bind subject CN=alice,O=acme alice"
KEY = "0" * 64


def outcome(under: Policy, leaf: bytes | None, **options: Any) -> tuple[str, str]:
    decision = under.decide(leaf, now=options.pop("now", NOW), **options)
    return decision.action, decision.reason


def user_of(leaf: bytes, *lines: str) -> str | None:
    """Who logs in with it, or None."""
    return trusting(*lines).decide(leaf, now=NOW).user


def reason_of(leaf: bytes, *lines: str, **options: Any) -> str:
    return outcome(trusting(*lines), leaf, **options)[1]


# ---- A set of lines ------------------------------------------------------------------------------

POOL = (
    [f"bind cn {name} {name}" for name in "abcdefgh"]
    + [f"user {name} on ~{name}*" for name in "abcdefgh"]
    + [f"revoke serial {KEY} 0{n}" for n in range(1, 8)]
    + [f"allow CN=x O={name}" for name in "abcd"]  # one alias for all of them
    + ["set enforce on", "set gate san_cn", "set plain refuse", authority_line(ca())]
)


def test_a_large_policy_grows_and_shrinks() -> None:
    """Tables are rebuilt and holes are closed: nothing is lost among 20,000 lines."""
    rng = random.Random(1)
    lines = [f"bind cn u{n} u{n}" for n in range(20_000)]
    held = Policy(lines[:15_000])
    gone = rng.sample(lines[:15_000], 9_000)
    held.patch([f"-{line}" for line in gone] + [f"+{line}" for line in lines[15_000:]])
    wanted = set(lines) - set(gone)
    assert (set(held.lines), held.digest) == (wanted, digest_of(wanted))
    for line in sorted(wanted)[::2]:  # one by one, so that each is found among what is left
        held.patch([f"-{line}"])
    held.patch([f"-{line}" for line in sorted(wanted)[1::2]])
    assert (held.lines, held.digest) == ((), digest_of(()))


LOUD = st.lists(st.tuples(st.sampled_from("+-"), st.sampled_from(POOL)), max_size=8)


@settings(deadline=None, max_examples=150)
@given(st.sets(st.sampled_from(POOL)), LOUD)
def test_a_patch_that_does_not_fit_changes_nothing(start: set[str], changes: Any) -> None:
    """What is there cannot come, what is not there cannot go, and neither comes nor goes twice; a
    refused patch leaves the policy as it was."""
    held, fits = Policy(start), True
    added: set[str] = set()
    removed: set[str] = set()
    for sign, line in changes:
        mine = added if sign == "+" else removed
        fits = fits and line not in mine and (sign == "+" or line in start)
        mine.add(line)
    fits = fits and not (added & start) - removed
    given = [sign + line for sign, line in changes]
    if fits:
        held.patch(given)
        assert set(held.lines) == (start - removed) | added
        return
    with pytest.raises(PolicyError) as refused:
        held.patch(given)
    assert refused.value.count >= len(refused.value.problems) >= 1
    assert held.lines == tuple(sorted(start))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["set enforce on", "set enforce off"],
            "line 2: says something else than line 1, which has the same key",
        ),
        (["set enforce on", "set  enforce on"], "line 2: the same line as line 1"),
        (["user a on", "user a off"], "line 2: says something else than line 1"),
        (["bind cn a x", "bind cn a y"], "line 2: says something else than line 1"),
        (
            ["bind subject CN=a,O=b x", "bind subject /O=b/CN=a y"],
            "line 2: says something else than line 1",
        ),
        (
            [f"bind cn a x ca={KEY}", f"bind cn a y ca={KEY.upper()}"],
            "line 2: says something else than line 1",
        ),
        (
            [authority_line(ca()), authority_line(ca(), "anchor")],
            "line 2: says something else than line 1",
        ),
        (["allow CN=a O=b", "allow O=b CN=a"], "line 2: the same line as line 1"),
        (["bogus", "set enforce on", "bind"], "line 1: a line starts with"),
        (["set enforce on", "bogus", "bind"], "line 3: what to bind is missing"),
        (["limit -@admin"], "line 1: limit lines belong into the bootstrap file"),
        (["was alice on"], "line 1: was lines are the node's own notes"),
    ],
)
def test_lines_that_make_no_policy(lines: list[str], message: str) -> None:
    """Two values for one key, and every other problem, named with the number of its line."""
    with pytest.raises(PolicyError) as refused:
        Policy(lines)
    assert message in str(refused.value)


def test_lines_that_look_like_twins_and_are_none() -> None:
    """Another kind, issuer, order of OUs or serial number is another line."""
    Policy(
        [
            "bind cn a x",
            "bind uri a y",
            f"bind cn a z ca={KEY}",
            "bind cn ab x",
            "bind dns a x",
            f"bind cn x{'a' * 32} x",
            f"bind cn x x ca={'61' * 32}",  # the bytes of the line above, split elsewhere
            "allow CN=a OU=b OU=c",
            "allow CN=a OU=c OU=b",
            "allow CN=a O=bc",
            "allow CN=a O=b OU=c",
            f"revoke serial {KEY} 01",
            f"revoke serial {KEY} 0100",
            f"revoke cert {KEY}",
            f"revoke key {KEY}",
            "user a on",
            "user ab on",
        ]
    )


def test_a_thousand_bad_lines() -> None:
    """All are counted, the first 32 are told."""
    with pytest.raises(PolicyError, match="; 968 more") as refused:
        Policy([f"bogus {number}" for number in range(1000)])
    assert [number for number, _ in refused.value.problems] == list(range(1, 33))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["+set enforce off"],
            "line 1: the policy holds another line with the same key: remove it in the same patch",
        ),
        (["+set enforce on"], "line 1: the policy holds this line already"),
        (["-set enforce off"], "line 1: the policy does not hold this line"),
        (["-set gate san_cn"], "line 1: the policy does not hold this line"),
        (["-set enforce on", "-set enforce on"], "line 2: this line is removed twice"),
        (["-bogus"], "line 1: a line starts with"),
    ],
)
def test_changes_that_do_not_fit(changes: list[str], message: str) -> None:
    """Each is named; the policy stays."""
    held = Policy(["set enforce on"])
    with pytest.raises(PolicyError) as refused:
        held.patch(changes)
    assert message in str(refused.value)
    assert held.lines == ("set enforce on",)


def test_a_line_is_replaced_in_one_patch() -> None:
    """In either order, and by itself."""
    for changes in (
        ["-set enforce on", "+set enforce off"],
        ["+set enforce off", "-set enforce on"],
    ):
        held = Policy(["set enforce on"])
        held.patch(changes)
        assert held.lines == ("set enforce off",)
        held.patch(["-set enforce off", "+set enforce off"])
        assert held.lines == ("set enforce off",)


def test_what_a_patch_says_before_it_is_committed() -> None:
    """Digest, settings and counts of the policy after it, while the policy is as it was."""
    base = policy(["set enforce on", "user a on"])
    change = patch(
        base, ["-set enforce on", "+set enforce shadow", "+set gate san_cn", "-user a on"]
    )
    out, of = ffi.new("char[]", lib.DIGEST_TEXT), ffi.new("digest *")
    of[0] = lib.patch_digest(change)
    lib.digest_print(of, out)
    assert raw.text_of(out) == digest_of({"set enforce shadow", "set gate san_cn"})
    assert (lib.patch_count(change, True), lib.patch_count(change, False)) == (2, 2)
    assert lib.patch_setting(change, lib.SET_ENFORCE) == lib.ENFORCE_SHADOW
    assert lib.policy_setting(base, lib.SET_ENFORCE) == lib.ENFORCE_ON
    lib.policy_commit(base, change)
    assert lib.policy_setting(base, lib.SET_ENFORCE) == lib.ENFORCE_SHADOW
    assert lib.policy_setting(base, lib.SET_GATE) == lib.GATE_SAN_CN
    assert lib.policy_rules(base) == 2


@pytest.mark.parametrize(
    ("source", "taken", "refused"),
    [
        (
            lib.FROM_WIRE,
            ["set enforce on", "user a on", "bind cn a a"],
            ["limit -@all", "was a on"],
        ),
        (lib.FROM_JOURNAL, ["set enforce on", "user a on", "was a on >x"], ["limit -@all"]),
        (
            lib.FROM_BOOTSTRAP,
            [
                "bind cn a a",
                "user a on",
                "limit -@all",
                authority_line(ca()),
                authority_line(long_root("CN=x"), "anchor"),
            ],
            ["set enforce on", "allow CN=a", f"revoke cert {KEY}", "was a on"],
        ),
    ],
)
def test_which_lines_may_come_from_where(source: int, taken: list[str], refused: list[str]) -> None:
    """The wire brings no notes and no limits, a bootstrap file no settings."""
    policy(taken, source)
    for line in refused:
        with pytest.raises(ValueError, match=r"lines|holds"):
            policy([line], source)


def test_notes_stay_out_of_the_digest_and_over_a_load() -> None:
    """`was` lines are the node's own: a LOAD replaces all but them."""
    base = policy(["set enforce on", "was a on >x"], lib.FROM_JOURNAL)
    change = lib.patch_new(base, lib.FROM_WIRE)
    lib.patch_add(change, raw.span(b"user b on"), 1)
    assert lib.patch_finish(change, True)
    lib.policy_commit(base, change)
    assert lib.policy_digest(base).lines == 1
    texts = {
        raw.bytes_of(lib.rule_text(lib.policy_rule(base, n))) for n in range(lib.policy_rules(base))
    }
    assert texts == {b"user b on", b"was a on >x"}


# ---- The order of the checks ---------------------------------------------------------------------


def test_the_checks_come_in_the_order_of_the_reasons() -> None:
    """Everything is wrong at first; what is named is mended, one thing at a time."""
    top = long_root("CN=Top")
    old = intermediate(top, not_after=datetime(2021, 1, 1, tzinfo=UTC))
    good = intermediate(top)
    twice = name([(CN, "bob")], [(O, "acme")], [(CN, "alice")])
    late, past = utc("400101000000Z"), utc("210101000000Z")
    server, usual = [constraints(False), purposes(raw.SERVER_AUTH)], raw.USUAL
    evil = sans(dns("a\0b"))
    state: dict[str, Any] = {
        "no_journal": True,
        "no_policy": True,
        "leaf": None,
        "by": old,
        "address": b"\1\1\1\1",
    }
    cert: dict[str, Any] = {
        "subject": twice,
        "san": evil,
        "extensions": server,
        "validity": (late, past),
    }
    lines = {
        "set enforce off",
        "bind cn alice alice",
        "set gate san_cn",
        "user bob off",
        "set plain refuse",
        "lock cn alice",
        "set max-lifetime 1d",
        "set require-eku codeSigning",
        "set require-policy 1.2.3",
        "set min-key-bits 4096",
        "set min-tls 1.3",
    }
    mended: list[str] = []

    def step() -> str:
        leaf = (
            certificate(
                cert["subject"],
                *([cert["san"]] if cert["san"] else []),
                by=state["by"],
                extensions=cert["extensions"],
                validity=cert["validity"],
            )
            if state["leaf"]
            else None
        )
        options = {key: state[key] for key in ("no_journal", "no_policy", "address")}
        found = decide(
            policy(sorted(lines)), leaf, [state["by"], top], ask=state.get("ask"), **options
        )
        mended.append(found.reason)
        return found.reason

    alone = name([(O, "acme")], [(CN, "alice")])
    repairs: dict[str, Any] = {
        "no_journal": lambda: state.update(no_journal=False),
        "no_policy": lambda: state.update(no_policy=False),
        "off": lambda: (lines.remove("set enforce off"), lines.add("set enforce on")),
        "no_certificate": lambda: state.update(leaf=True),
        "bad_string": lambda: cert.update(san=None),
        "ambiguous": lambda: (cert.update(subject=alone), lines.remove("bind cn alice alice")),
        "locked": lambda: lines.remove("lock cn alice"),
        "untrusted_issuer": lambda: (
            lines.add(authority_line(top)),
            lines.add(f"revoke key {good.key_id}"),
        ),
        "ca_expired": lambda: state.update(by=good),
        "ca_revoked": lambda: (
            lines.remove(f"revoke key {good.key_id}"),
            lines.add(f"revoke serial {good.key_id} 01"),
        ),
        "not_yet_valid": lambda: cert.update(validity=(VALIDITY[0], past)),
        "expired": lambda: cert.update(validity=VALIDITY),
        "key_usage": lambda: cert.update(extensions=usual),
        "revoked": lambda: lines.remove(f"revoke serial {good.key_id} 01"),
        "gate": lambda: lines.add("allow CN=alice"),
        "no_binding": lambda: lines.update(
            ["bind cn alice bob from=10.0.0.0/8", "bind subject CN=alice,O=acme alice"]
        ),
        "conflict": lambda: lines.remove("bind subject CN=alice,O=acme alice"),
        "address": lambda: state.update(address=b"\n\0\0\1", ask=lambda _: lib.USER_MISSING),
        "lifetime": lambda: lines.remove("set max-lifetime 1d"),
        "required_eku": lambda: lines.remove("set require-eku codeSigning"),
        "required_policy": lambda: lines.remove("set require-policy 1.2.3"),
        "key_too_small": lambda: lines.remove("set min-key-bits 4096"),
        "tls_version": lambda: lines.remove("set min-tls 1.3"),
        "user_missing": lambda: state.update(ask=lambda _: lib.USER_OFF),
        "user_off": lambda: state.update(ask=lambda _: lib.USER_ON),
    }
    while (reason := step()) != "matched":
        repairs.pop(reason)()
    assert not repairs
    ranks = [reasons().index(reason) for reason in mended]
    assert ranks == sorted(ranks)
    others = ("undecided", "handshake", "weak", "unknown_algorithm", "malformed", "too_large")
    assert mended == [reason for reason in reasons() if reason not in others]


# ---- Ambiguity -----------------------------------------------------------------------------------

TWO_NAMES = {
    "alice first": name([(CN, "alice")], [(CN, "mallory")]),
    "alice last": name([(CN, "mallory")], [(CN, "alice")]),
    "apart": name([(CN, "mallory")], [(O, "acme")], [(CN, "alice")]),
    "in one RDN": name([(CN, "alice"), (CN, "mallory")]),
    "in one RDN, the other way round": name([(CN, "mallory"), (CN, "alice")]),
    "of two string types": name([(CN, "alice", PRINTABLE)], [(CN, "mallory", BMP)]),
    "once more, in another case": name([(CN, "alice")], [(CN, "Alice")]),
}


@pytest.mark.parametrize("which", TWO_NAMES)
def test_attack_two_common_names(which: str) -> None:
    """Alice at one server is mallory at the next. Where one CN counts, two are a refusal; the exact
    subject and other kinds are not concerned."""
    leaf = certificate(TWO_NAMES[which], sans(uri("spiffe://x/alice")))
    assert reason_of(leaf, "bind cn alice alice") == "ambiguous"
    assert reason_of(leaf, "bind cn alice alice", "bind cn mallory alice") == "ambiguous"
    assert reason_of(leaf, "bind cn bob bob") == "no_binding"
    exact = f"bind subject {core.quote(core.identity(leaf).subject)} alice"
    assert user_of(leaf, exact) == "alice"
    assert user_of(leaf, "bind uri spiffe://x/alice alice") == "alice"
    assert reason_of(leaf, exact, "bind cn alice alice") == "ambiguous"
    assert reason_of(leaf, exact, "set gate san_cn", "allow CN=alice") == "ambiguous"
    assert reason_of(leaf, exact, "set gate full_subject", "allow CN=alice") == "gate"


def test_a_value_that_stands_twice_is_one() -> None:
    """Many tools copy the CN into the SANs, or a name twice: there is nothing to choose between."""
    for kind in (dns, uri, email, upn):
        leaf = certificate(ALICE, sans(kind("alice"), kind("alice")))
        assert user_of(leaf, f"bind {kind.__name__} alice alice") == "alice"
    leaf = certificate(name([(CN, "alice")], [(CN, "alice", BMP)]), sans(dns("a.n"), dns("a.n")))
    gated = ["set gate san_cn", "allow CN=alice"]
    assert user_of(leaf, "bind cn alice alice", *gated) == "alice"
    assert user_of(leaf, "pattern cn {id} p:{id} on") == "p:alice"
    assert user_of(leaf, "pattern dns {id}.n p:{id} on") == "p:a"
    three = certificate(ALICE, sans(dns("alice"), dns("alice"), dns("bob")))
    assert reason_of(three, "bind dns alice alice") == "ambiguous"


@pytest.mark.parametrize("kind", [dns, uri, email, upn], ids=lambda kind: kind.__name__)
def test_attack_two_sans_of_a_kind(kind: Any) -> None:
    """Whichever of them is bound; unbound kinds do not matter, other kinds neither."""
    word = kind.__name__
    for names in (("alice", "mallory"), ("mallory", "alice"), ("alice", "alicia")):
        leaf = certificate(ALICE, sans(*map(kind, names)))
        assert reason_of(leaf, f"bind {word} alice alice") == "ambiguous"
        assert reason_of(leaf, BIND, f"bind {word} alice alice") == "ambiguous"
        assert user_of(leaf, BIND) == "alice"
        assert user_of(leaf, BIND, f"bind {word} carol carol") == "alice"
    others = [other("mallory") for other in (dns, uri, email, upn) if other is not kind]
    assert (
        user_of(certificate(ALICE, sans(kind("alice"), *others)), f"bind {word} alice alice")
        == "alice"
    )


def test_attack_two_addresses() -> None:
    """IPv4 and IPv6 SANs are of one kind."""
    leaf = certificate(ALICE, sans(ip(b"\n\0\0\1"), ip(b"\0" * 15 + b"\1")))
    assert reason_of(leaf, "bind ip 10.0.0.1 alice") == "ambiguous"
    assert user_of(certificate(ALICE, sans(ip(b"\n\0\0\1"))), "bind ip 10.0.0.1 alice") == "alice"


def test_the_gate_by_name_takes_any_dns_name_and_one_cn() -> None:
    """san_cn: the CN or one of the DNS SANs is an entry's CN (Redis Enterprise 8.0)."""
    gate = ("set gate san_cn", "allow CN=web O=whatever", BIND)
    assert user_of(certificate(ALICE, sans(dns("other"), dns("web"))), *gate) == "alice"
    for names in ([uri("web")], [email("web")], [upn("web")], [dns("web.evil")], [dns("WEB")], []):
        assert reason_of(certificate(ALICE, *([sans(*names)] if names else [])), *gate) == "gate"
    assert user_of(certificate(ALICE), "set gate san_cn", "allow CN=alice", BIND) == "alice"
    assert (
        reason_of(certificate(name([(O, "alice")])), "set gate san_cn", "allow CN=alice") == "gate"
    )


@pytest.mark.parametrize(
    ("subject", "allow", "passes"),
    [
        (name([(O, "acme")], [(OU, "b")], [(OU, "a")], [(CN, "x")]), "CN=x OU=a OU=b O=acme", True),
        (
            name([(O, "acme")], [(OU, "b")], [(OU, "a")], [(CN, "x")]),
            "CN=x OU=b OU=a O=acme",
            False,
        ),
        (name([(CN, "x")], [(OU, "b")], [(O, "acme")], [(OU, "a")]), "CN=x OU=a OU=b O=acme", True),
        (name([(O, "acme"), (OU, "a")], [(CN, "x")]), "CN=x OU=a O=acme", True),
        (name([(O, "acme")], [(CN, "x")]), "CN=x OU=a O=acme", False),
        (name([(O, "acme")], [(OU, "a")], [(CN, "x")]), "CN=x O=acme", False),
        (name([(O, "acme")], [(UID, "7")], [(CN, "x")]), "CN=x O=acme", False),
        (name([(O, "acme")], [(O, "acme")], [(CN, "x")]), "CN=x O=acme", False),
        (name([(O, "Acme")], [(CN, "x")]), "CN=x O=acme", False),
        (name([(O, "acme")], [(DC, "x")], [(CN, "x")]), "CN=x O=acme", False),
        (name([(O, "acme")]), "CN=x O=acme", False),
        (name(), "CN=x", False),
        (
            name(
                [(raw.C, "US", PRINTABLE)], [(raw.ST, "s")], [(raw.L, "l")], [(CN, "John Doe", BMP)]
            ),
            'CN="John Doe" L=l ST=s C=US',
            True,
        ),
    ],
)
def test_the_gate_by_full_subject(subject: bytes, allow: str, passes: bool) -> None:
    """Exactly the attributes of an entry, no more; OUs in their order, the others in any."""
    leaf = certificate(subject, sans(uri("spiffe://x")))
    wanted = "matched" if passes else "gate"
    assert (
        reason_of(leaf, "set gate full_subject", f"allow {allow}", "bind uri spiffe://x alice")
        == wanted
    )


# ---- Attacks on names ----------------------------------------------------------------------------


def test_attack_a_nul_in_the_name_of_alice() -> None:
    """`alice\\0.evil` is refused before anything is looked up."""
    for tag in (UTF8, BMP, UNIVERSAL):
        leaf = certificate(person("alice\0.evil", tag))
        assert outcome(trusting("bind cn alice alice", BIND, "set unmatched leave"), leaf) == (
            "refuse",
            "bad_string",
        )


@pytest.mark.parametrize(
    "value",
    [
        "ALICE",
        "Alice",
        " alice",
        "alice ",
        "alice\xa0",
        "аlice",
        "ａlice",
        "alıce",
        "alice.",
        "alic",
    ],
)
def test_attack_a_name_that_is_nearly_alice(value: str) -> None:
    """Case, blanks and look-alikes are other users."""
    leaf = certificate(person(value))
    assert reason_of(leaf, "bind cn alice alice", BIND) == "no_binding"
    assert user_of(leaf, f"bind cn {core.quote(value)} other", "bind cn alice alice") == "other"


def test_attack_josé_twice() -> None:
    """NFC and NFD are two users, each exactly itself, in every string type."""
    lines = ("bind cn jos\u00e9 one", "bind cn jose\u0301 two")
    for tag in (UTF8, BMP, UNIVERSAL):
        assert user_of(certificate(person("jos\u00e9", tag)), *lines) == "one"
        assert user_of(certificate(person("jose\u0301", tag)), *lines) == "two"


def test_attack_a_wildcard_in_the_certificate() -> None:
    """`*` in a value is a star, in the certificate and in the line."""
    star = certificate(ALICE, sans(dns("*.example.com")))
    plain = certificate(ALICE, sans(dns("a.example.com")))
    assert reason_of(star, "bind dns a.example.com alice") == "no_binding"
    assert reason_of(plain, "bind dns *.example.com alice") == "no_binding"
    assert user_of(star, "bind dns *.example.com alice") == "alice"
    assert reason_of(certificate(person("*")), "bind cn alice alice") == "no_binding"


@pytest.mark.parametrize(
    "text", ["a, URI:spiffe://x/admin", "a,URI:spiffe://x/admin", "spiffe://x/admin"]
)
@pytest.mark.parametrize("kind", [dns, email, upn], ids=lambda kind: kind.__name__)
def test_attack_a_san_that_spells_a_uri(kind: Any, text: str) -> None:
    """CVE-2021-44532's class and plain confusion of kinds: only a URI is a URI."""
    leaf = certificate(ALICE, sans(kind(text)))
    assert reason_of(leaf, "bind uri spiffe://x/admin admin") == "no_binding"
    assert user_of(leaf, f"bind {kind.__name__} {core.quote(text)} odd") == "odd"


@pytest.mark.parametrize(
    "value",
    [
        "mallory,O=x CN=admin",
        "mallory,CN=admin",
        "CN=admin",
        "mallory+CN=admin",
        'x" admin "',
        "x on nopass +@all ~*",
    ],
)
def test_attack_a_name_that_spells_another_name(value: str) -> None:
    """Kafka's published rule takes the first for admin; here a value is just a value."""
    admin = (
        "bind cn admin admin",
        "bind subject CN=admin,O=acme admin",
        "bind subject O=acme,CN=admin admin",
    )
    for subject in (person(value), name([(O, value)], [(CN, "mallory")])):
        assert reason_of(certificate(subject), *admin) == "no_binding"
        exact = core.identity(certificate(subject)).subject
        assert (
            user_of(certificate(subject), *admin, f"bind subject {core.quote(exact)} odd") == "odd"
        )


@pytest.mark.parametrize(
    "subject",
    [
        name([(CN, "alice")], [(O, "acme")]),
        name([(O, "acme"), (CN, "alice")]),
        name([(O, "acme")], [(CN, "alice")], [(OU, "x")]),
        name([(OU, "x")], [(O, "acme")], [(CN, "alice")]),
        name([(O, "acme")], [(O, "acme")], [(CN, "alice")]),
        name([(O, "acme")], [(CN, "alice"), (UID, "7")]),
        name([(CN, "alice")]),
        name([(OU, "acme")], [(CN, "alice")]),
    ],
)
def test_attack_a_subject_with_more_less_or_another_order(subject: bytes) -> None:
    """Only the whole subject, in its order and with its RDNs, is the subject."""
    assert reason_of(certificate(subject), BIND) == "no_binding"


@pytest.mark.parametrize("length", [255, 256, 4000])
def test_attack_a_name_cut_to_255(length: int) -> None:
    """A longer CN is not the user of its beginning."""
    lines = ("bind cn " + "a" * 255 + " short", "bind cn " + "a" * 4000 + " long")
    wanted = {255: "short", 4000: "long"}.get(length)
    assert user_of(certificate(person("a" * length)), *lines) == wanted


def test_every_kind_of_binding_binds() -> None:
    """And nobody else: each line with its own leaf, against another leaf."""
    leaf = certificate(ALICE, sans(uri("u"), dns("d"), email("e"), upn("p"), ip(b"\n\0\0\1")))
    other = certificate(
        person("bob"), serial=b"\2", spki=spki_of(ec.generate_private_key(ec.SECP256R1()))
    )
    said = core.identity(leaf)
    for line in (
        BIND,
        "bind cn alice alice",
        "bind uri u alice",
        "bind dns d alice",
        "bind email e alice",
        "bind upn p alice",
        "bind ip 10.0.0.1 alice",
        f"bind cert {said.cert} alice",
        f"bind key {said.key} alice",
    ):
        assert user_of(leaf, line) == "alice"
        assert trusting(line).decide(leaf, now=NOW).line == line
        assert reason_of(other, line) == "no_binding"


# ---- Usage, times, revocation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ([constraints(False)], "matched"),
        ([], "matched"),
        ([constraints(False), purposes(CLIENT_AUTH)], "matched"),
        ([constraints(False), purposes(raw.SERVER_AUTH)], "key_usage"),
        ([constraints(False), purposes(raw.ANY_USAGE)], "key_usage"),
        ([constraints(False), purposes(raw.oid("1.2.3"), critical=True)], "key_usage"),
        ([constraints(False), raw.key_usage(b"\x05\x20")], "key_usage"),
        ([constraints(True), purposes(CLIENT_AUTH)], "key_usage"),
        ([raw.extension(raw.oid("1.2.3"), b"\5\0", True)], "malformed"),
    ],
    ids=[
        "no EKU",
        "nothing",
        "clientAuth",
        "serverAuth",
        "any",
        "critical unknown EKU",
        "no digitalSignature",
        "CA",
        "critical unknown",
    ],
)
def test_attack_a_certificate_for_something_else(extensions: list[bytes], reason: str) -> None:
    """A server's or a CA's certificate is not a client."""
    assert reason_of(certificate(ALICE, extensions=extensions), BIND) == reason


def test_boundary_seconds_are_valid() -> None:
    """notBefore and notAfter themselves are inside (RFC 5280 4.1.2.5)."""
    leaf = certificate(ALICE, validity=(utc("270115080000Z"), utc("270115080010Z")))
    found = {
        now - NOW: reason_of(leaf, BIND, now=now) for now in (NOW - 1, NOW, NOW + 10, NOW + 11)
    }
    assert found == {-1: "not_yet_valid", 0: "matched", 10: "matched", 11: "expired"}


def test_a_certificate_that_never_expires() -> None:
    """99991231235959Z; what is told as its end is then the CA's."""
    leaf = certificate(ALICE, validity=(VALIDITY[0], raw.generalized("99991231235959Z")))
    assert reason_of(leaf, BIND, now=2**31) == "matched"
    assert (
        decide(policy(["set enforce on", authority_line(ca()), BIND]), leaf).until == 2_524_607_999
    )
    assert reason_of(leaf, BIND, now=253_402_300_800) == "ca_expired"


def test_when_a_login_ends_and_how_long_its_session_may_last() -> None:
    """The first end of the path, and the shortest session= of the lines that matched."""
    leaf = certificate(ALICE, validity=(VALIDITY[0], utc("300101000000Z")))
    lines = [
        "set enforce on",
        authority_line(ca()),
        f"{BIND} session=2h",
        "bind cn alice alice session=30m",
    ]
    found = decide(policy(lines), leaf)
    assert (found.until, found.session) == (1_893_456_000, 1800)
    assert decide(policy([*lines[:2], BIND]), leaf).session == 0


def test_attack_the_serial_number_of_another_ca() -> None:
    """Serial numbers repeat: revoked is the one of this CA's key."""
    one, other = long_root("CN=One"), long_root("CN=Other")
    mine, theirs = (
        certificate(ALICE, by=one, serial=b"\x05"),
        certificate(ALICE, by=other, serial=b"\x05"),
    )
    under = trusting(BIND, f"revoke serial {one.key_id} 05", trust=[one, other])
    assert (outcome(under, mine)[1], outcome(under, theirs)[1]) == ("revoked", "matched")
    assert outcome(under, certificate(ALICE, by=one, serial=b"\x05\x00"))[1] == "matched"


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"\0\xff", "ff"), (b"\x0a", "A"), (b"\1\0", "01:00"), (b"\0", "0"), (b"\0\x80\0", "008000")],
)
def test_serial_numbers_are_revoked_however_they_are_written(content: bytes, text: str) -> None:
    """Leading zeros, colons and case do not matter; zero is a number too."""
    line = f"revoke serial {ca().key_id} {text}"
    assert reason_of(certificate(ALICE, serial=content), BIND, line) == "revoked"
    assert reason_of(certificate(ALICE, serial=b"\x77"), BIND, line) == "matched"


def test_a_certificate_is_revoked_by_hash_and_by_key() -> None:
    """The key holds for each certificate that it is in."""
    leaf, renewed = certificate(ALICE), certificate(ALICE, serial=b"\2")
    said = core.identity(leaf)
    assert reason_of(leaf, BIND, f"revoke cert {said.cert}") == "revoked"
    assert reason_of(renewed, BIND, f"revoke cert {said.cert}") == "matched"
    assert reason_of(renewed, BIND, f"revoke key {said.key}") == "revoked"


# ---- Lines against lines -------------------------------------------------------------------------


def test_lines_that_name_different_users_are_a_conflict() -> None:
    """Whichever comes first; the same user twice is none."""
    leaf = certificate(ALICE)
    assert reason_of(leaf, BIND, "bind cn alice bob") == "conflict"
    assert reason_of(leaf, BIND, "bind cn alice alice bob") == "conflict"
    assert user_of(leaf, BIND, "bind cn alice alice") == "alice"
    assert (
        reason_of(leaf, "bind cn alice alice", f"bind cn alice bob ca={ca().key_id}") == "conflict"
    )
    assert user_of(leaf, "bind cn alice alice", f"bind cn alice bob ca={KEY}") == "alice"


def test_a_line_with_several_users_lets_the_client_choose() -> None:
    """Nobody until then."""
    decision = trusting("bind cn alice alice bob", "user alice off").decide(
        certificate(ALICE), now=NOW
    )
    assert (decision.action, decision.reason, decision.users, decision.user) == (
        "choose",
        "matched",
        ("alice", "bob"),
        None,
    )


@pytest.mark.parametrize(
    ("nets", "address", "inside"),
    [
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/8", None, False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("0.0.0.0/0", "255.1.2.3", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "::1", True),
        ("::/0", "10.0.0.1", False),
        ("2001:db8::/33", "2001:db8:7fff::1", True),
        ("2001:db8::/33", "2001:db8:8000::1", False),
        ("10.0.0.0/8,::1", "::1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("128.0.0.0/1", "127.255.255.255", False),
        ("128.0.0.0/1", "128.0.0.0", True),
    ],
)
def test_from_covers_networks_to_the_bit(nets: str, address: str | None, inside: bool) -> None:
    """IPv4 and IPv6 apart; an unknown address is outside of every network."""
    found = reason_of(certificate(ALICE), f"{BIND} from={nets}", address=address)
    assert found == ("matched" if inside else "address")


def test_every_line_that_matches_must_cover_the_address() -> None:
    """A second line without from= does not open the door."""
    lines = (f"{BIND} from=10.0.0.0/8", "bind cn alice alice")
    assert reason_of(certificate(ALICE), *lines, address="192.0.2.1") == "address"
    assert reason_of(certificate(ALICE), *lines, address="10.0.0.1") == "matched"


def test_an_address_that_is_none_is_an_error() -> None:
    """core.Policy.decide says so."""
    with pytest.raises(core.CoreError, match="not an IP address: localhost"):
        trusting(BIND).decide(certificate(ALICE), now=NOW, address="localhost")


def test_user_lines_answer_where_there_is_no_server() -> None:
    """On, off by word, off because nobody said on; without a line nobody knows."""
    leaf = certificate(ALICE)
    found = [
        reason_of(leaf, BIND, *lines)
        for lines in (
            ["user alice on"],
            ["user alice off"],
            ["user alice ~x"],
            ["user alice on off"],
            ["user bob off"],
        )
    ]
    assert found == ["matched", "user_off", "user_off", "user_off", "matched"]


def test_the_server_is_asked_about_the_user() -> None:
    """What it says counts, not the line; of a pending policy the line."""
    lines, leaf = (
        ["set enforce on", authority_line(ca()), BIND, "user alice on"],
        certificate(ALICE),
    )
    asked: list[str] = []
    for state, reason in (
        (lib.USER_MISSING, "user_missing"),
        (lib.USER_OFF, "user_off"),
        (lib.USER_ON, "matched"),
        (lib.USER_UNKNOWN, "matched"),
    ):
        assert (
            decide(
                policy(lines), leaf, ask=lambda user, state=state: asked.append(user) or state
            ).reason
            == reason
        )
    assert asked == ["alice"] * 4
    base = policy(lines[:3])
    change = patch(base, ["+user alice off"])
    assert decide(base, leaf, pending=change, ask=lambda _: lib.USER_ON).reason == "user_off"
    lib.patch_free(change)


# ---- Actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "leaf", "action", "reason"),
    [
        (["set enforce on"], None, "leave", "no_certificate"),
        (["set enforce on", "set plain refuse"], None, "refuse", "no_certificate"),
        (
            ["set enforce on", "set unmatched leave", authority_line(ca())],
            certificate(ALICE),
            "leave",
            "no_binding",
        ),
        (
            ["set enforce on", "set unmatched leave"],
            certificate(ALICE),
            "leave",
            "untrusted_issuer",
        ),
        (["set enforce on", authority_line(ca())], certificate(ALICE), "refuse", "no_binding"),
        (
            ["set enforce on", "set unmatched leave", authority_line(ca())],
            certificate(person("a\0")),
            "refuse",
            "bad_string",
        ),
        (
            [
                "set enforce on",
                "set unmatched leave",
                authority_line(ca()),
                "bind cn alice a",
                "bind subject CN=alice,O=acme b",
            ],
            certificate(ALICE),
            "refuse",
            "conflict",
        ),
        (
            ["set enforce on", "set unmatched leave", authority_line(ca()), "set gate san_cn"],
            certificate(ALICE),
            "refuse",
            "gate",
        ),
        ([BIND, authority_line(ca())], certificate(ALICE), "leave", "off"),
        (["set enforce off", "set plain refuse"], None, "leave", "off"),
        ([], None, "leave", "off"),
    ],
)
def test_who_is_left_alone_and_who_is_refused(
    lines: list[str], leaf: bytes | None, action: str, reason: str
) -> None:
    """`unmatched leave` is for certificates that map to nobody, not for bad ones."""
    assert outcome(Policy(lines), leaf) == (action, reason)


def test_shadow_decides_and_says_that_it_is_for_the_record() -> None:
    """The decision is the one of `on`."""
    lines = [authority_line(ca()), BIND]
    on, shadow = (
        Policy([f"set enforce {word}", *lines]).decide(certificate(ALICE), now=NOW)
        for word in ("on", "shadow")
    )
    assert (on.action, on.reason, on.shadow) == ("login", "matched", False)
    assert (shadow.action, shadow.reason, shadow.shadow) == ("login", "matched", True)


@pytest.mark.parametrize("unmatched", ["refuse", "leave"])
def test_a_node_without_its_policy_refuses_all_but_bootstrap(unmatched: str) -> None:
    """A journal that cannot be read closes the door, whatever the empty policy says; a first
    install has no door yet."""
    lines, leaf = (
        policy(["set enforce on", f"set unmatched {unmatched}", authority_line(ca()), BIND]),
        certificate(ALICE),
    )
    for who in (leaf, None):
        assert (
            decide(lines, who, no_journal=True).action,
            decide(lines, who, no_journal=True).reason,
        ) == ("refuse", "no_journal")
        assert (
            decide(lines, who, no_policy=True).action,
            decide(lines, who, no_policy=True).reason,
        ) == ("leave", "no_policy")
    own = policy([authority_line(ca()), "bind cn alice rescue"], lib.FROM_BOOTSTRAP)
    for state in ({"no_journal": True}, {"no_policy": True}, {}):
        found = decide(lines, leaf, bootstrap=own, **state)
        assert (found.action, found.line) == ("login", "bind cn alice rescue")
        assert decide(lines, certificate(person("bob")), bootstrap=own, **state).action != "login"


def test_bootstrap_lines_are_exempt_from_the_gate_and_from_nothing_else() -> None:
    """Validity, key usage, issuer and the policy's own revocations hold for them."""
    own = policy([authority_line(ca()), "bind cn alice rescue"], lib.FROM_BOOTSTRAP)
    closed = ["set enforce on", "set gate full_subject", "set plain refuse"]

    def reason(leaf: bytes, *more: str, by: Cert | None = None) -> tuple[str, str]:
        found = decide(policy([*closed, *more]), leaf, [by or ca()], bootstrap=own)
        return found.action, found.reason

    leaf, stranger = certificate(ALICE), long_root("CN=Stranger")
    assert reason(leaf) == ("login", "matched")
    for bad in (
        certificate(ALICE, validity=(VALIDITY[0], utc("210101000000Z"))),
        certificate(ALICE, extensions=[purposes(raw.SERVER_AUTH)]),
        certificate(person("alice\0")),
        certificate(name([(CN, "alice")], [(CN, "bob")])),
    ):
        assert reason(bad)[0] == "refuse"
    assert reason(certificate(ALICE, by=stranger), by=stranger) == ("refuse", "untrusted_issuer")
    said = core.identity(leaf)
    for line in (
        f"cert {said.cert}",
        f"key {said.key}",
        f"serial {ca().key_id} {said.serial}",
        f"key {ca().key_id}",
    ):
        assert reason(leaf, f"revoke {line}")[0] == "refuse"


def test_a_nodes_peer_is_known_by_its_key_alone() -> None:
    """A `bind key` line to a user `certauth-peer-…` needs no `ca` line and stands before no gate;
    validity, key usage and revocation hold for it, and no other kind of line does as much."""
    peer, leaf = "certauth-peer-replica", certificate(ALICE)
    key = core.identity(leaf).key
    closed = ["set enforce on", "set gate full_subject", "set plain refuse"]

    def reason(leaf: bytes, line: str, *more: str) -> tuple[str, str]:
        lines = [*closed, line, f"user {peer} on +ping", "user alice on +ping", *more]
        found = decide(policy(lines), leaf, [ca()])
        return found.action, found.reason

    line = f"bind key {key} {peer}"
    assert reason(leaf, line) == ("login", "matched")
    assert reason(leaf, f"bind key {key} alice") == ("refuse", "untrusted_issuer")
    assert reason(leaf, f"bind key {key} {peer} alice") == ("refuse", "untrusted_issuer")
    assert reason(leaf, f"bind cn alice {peer}") == ("refuse", "untrusted_issuer")
    trusted = authority_line(ca())
    assert reason(leaf, f"bind key {key} alice", trusted) == ("refuse", "gate")
    assert reason(leaf, f"bind cn alice {peer}", trusted) == ("refuse", "gate")
    assert reason(leaf, line, "bind cn alice alice") == ("refuse", "conflict")
    for bad, why in (
        (certificate(ALICE, validity=(VALIDITY[0], utc("210101000000Z"))), "expired"),
        (certificate(ALICE, extensions=[purposes(raw.SERVER_AUTH)]), "key_usage"),
        (certificate(name([])), "malformed"),
    ):
        assert reason(bad, line) == ("refuse", why)
    assert reason(certificate(person("alice\0")), line) == ("login", "matched")
    said = core.identity(leaf)
    for revoked in (f"cert {said.cert}", f"key {said.key}"):
        assert reason(leaf, line, f"revoke {revoked}") == ("refuse", "revoked")


def test_a_revoked_bootstrap_certificate_is_not_left_alone() -> None:
    """`unmatched leave` is not a way around: revoked is revoked, and the reason says so."""
    own = policy([authority_line(ca()), "bind cn alice rescue"], lib.FROM_BOOTSTRAP)
    leaf = certificate(ALICE)
    lines = policy(
        ["set enforce on", "set unmatched leave", f"revoke cert {core.identity(leaf).cert}"]
    )
    found = decide(lines, leaf, bootstrap=own)
    assert (found.action, found.reason) == ("refuse", "revoked")


RESCUE = ["user rescue on", "bind cn alice rescue"]


@pytest.mark.parametrize(
    ("lines", "options", "reason"),
    [
        (["bind cn alice rescue from=10.0.0.0/8"], {"address": b"\1\1\1\1"}, "address"),
        ([*RESCUE[1:], "bind subject CN=alice,O=acme other"], {}, "conflict"),
        (["bind cn alice rescue", "user rescue off"], {}, "user_off"),
        (
            RESCUE,
            {"ask": lambda user: lib.USER_ON if user == "alice" else lib.USER_OFF},
            "user_off",
        ),
        (
            RESCUE,
            {"ask": lambda user: lib.USER_ON if user == "alice" else lib.USER_MISSING},
            "user_missing",
        ),
    ],
    ids=["address", "conflict", "off by its line", "off", "missing"],
)
def test_attack_around_a_refusal_of_the_bootstrap_file(
    lines: list[str], options: dict[str, Any], reason: str
) -> None:
    """Who is bound there and refused is not let in by the policy: it would be somebody else, or
    from somewhere else. Where the file binds somebody else, or trusts another CA, the policy has
    its say."""
    leaf = certificate(ALICE)
    under = policy(["set enforce on", authority_line(ca()), BIND])
    alone = decide(under, leaf, **options)
    assert (alone.action, alone.line) == ("login", BIND)
    own = policy([authority_line(ca()), *lines], lib.FROM_BOOTSTRAP)
    found = decide(under, leaf, bootstrap=own, **options)
    assert (found.action, found.reason, found.shadow) == ("refuse", reason, False)
    assert found.line in lines
    for others in (
        [authority_line(ca()), *(line.replace("alice", "bob") for line in lines)],
        [authority_line(long_root("CN=Else")), *lines],
    ):
        found = decide(under, leaf, bootstrap=policy(others, lib.FROM_BOOTSTRAP), **options)
        assert (found.action, found.line) == ("login", BIND)


BAD_LEAVES: dict[str, dict[str, Any]] = {
    "expired": {"validity": (VALIDITY[0], utc("210101000000Z"))},
    "not_yet_valid": {"validity": (utc("400101000000Z"), VALIDITY[1])},
    "key_usage": {"extensions": [constraints(False), purposes(raw.SERVER_AUTH)]},
}


@pytest.mark.parametrize("reason", BAD_LEAVES)
@pytest.mark.parametrize(
    ("lines", "state", "otherwise"),
    [
        (["set enforce on", "set unmatched leave"], {}, ("leave", "untrusted_issuer")),
        ([], {}, ("leave", "off")),
        ([], {"no_policy": True}, ("leave", "no_policy")),
        (["set enforce on"], {"no_journal": True}, ("refuse", "no_journal")),
    ],
    ids=["left alone", "off", "no policy", "no journal"],
)
def test_attack_a_bad_certificate_that_the_bootstrap_file_binds(
    reason: str, lines: list[str], state: dict[str, Any], otherwise: tuple[str, str]
) -> None:
    """No policy, and none that would leave strangers alone, makes a refused one a stranger; one
    that the file does not bind is the policy's."""
    own = policy([authority_line(ca()), *RESCUE], lib.FROM_BOOTSTRAP)
    bound, unbound = (certificate(person(who), **BAD_LEAVES[reason]) for who in ("alice", "bob"))
    found = decide(policy(lines), bound, bootstrap=own, **state)
    assert (found.action, found.reason) == ("refuse", reason)
    found = decide(policy(lines), unbound, bootstrap=own, **state)
    assert (found.action, found.reason) == otherwise
    good = decide(policy(lines), certificate(ALICE), bootstrap=own, **state)
    assert (good.action, good.line) == ("login", "bind cn alice rescue")


ANSWERS = pytest.mark.parametrize(
    "ask", [None, lambda _: lib.USER_ON, lambda _: lib.USER_UNKNOWN], ids=["none", "on", "unknown"]
)


@ANSWERS
@pytest.mark.parametrize("users", ["rescue", "rescue bob", "bob rescue", "bob carol rescue"])
def test_attack_a_policy_that_binds_a_user_of_the_bootstrap_file(ask: Any, users: str) -> None:
    """The node's own users are not the control plane's to give, whatever `user` lines it writes and
    wherever the user stands; enforced or in shadow, applied or still a patch."""
    own = policy(
        [authority_line(ca()), "user rescue on", "bind cn root rescue"], lib.FROM_BOOTSTRAP
    )
    leaf, bind = certificate(ALICE), f"bind cn alice {users}"
    several = " " in users
    rest = [authority_line(ca()), "user bob on", "user carol on"]
    for more in ([], ["user rescue on"], ["user rescue adopt on"]):
        for enforce in ("on", "shadow"):
            under = policy([f"set enforce {enforce}", *rest, *more, bind])
            found = decide(under, leaf, bootstrap=own, ask=ask)
            assert (found.action, found.reason, found.line) == ("refuse", "user_missing", bind)
            taken = decide(under, leaf, ask=ask)
            assert (taken.action, taken.reason) == ("choose" if several else "login", "matched")
        base = policy(["set enforce on", *rest])
        change = patch(base, [f"+{line}" for line in [*more, bind]])
        found = decide(base, leaf, bootstrap=own, ask=ask, pending=change)
        assert (found.action, found.reason) == ("refuse", "user_missing")
        lib.patch_free(change)
    free = policy(["set enforce on", *rest, bind.replace("rescue", "dave"), "user dave on"])
    assert decide(free, leaf, bootstrap=own, ask=ask).reason == "matched"
    found = decide(free, certificate(person("root")), bootstrap=own, ask=ask)
    assert (found.action, found.line) == ("login", "bind cn root rescue")


@ANSWERS
@pytest.mark.parametrize("users", ["alice", "alice bob", "bob alice"])
def test_attack_a_user_that_no_limit_reaches(ask: Any, users: str) -> None:
    """Limits hold for `user` lines: where the bootstrap file has some, a policy binds nobody who
    has none, however the server's own user of that name may look."""
    own = policy([authority_line(ca()), "limit -@admin -@dangerous"], lib.FROM_BOOTSTRAP)
    unlimited = policy([authority_line(ca())], lib.FROM_BOOTSTRAP)
    leaf, bind = certificate(ALICE), f"bind cn alice {users}"
    fine = "choose" if " " in users else "login"
    for enforce in ("on", "shadow"):
        lines = [f"set enforce {enforce}", authority_line(ca()), bind, "user bob on"]
        under, made = policy(lines), policy([*lines, "user alice on"])

        def verdict(under: Any, bootstrap: Any, pending: Any = ffi.NULL) -> tuple[str, str]:
            found = decide(under, leaf, bootstrap=bootstrap, ask=ask, pending=pending)
            return found.action, found.reason

        assert verdict(under, own) == ("refuse", "user_missing")
        assert verdict(made, own) == (fine, "matched")
        assert verdict(under, unlimited) == verdict(under, ffi.NULL) == (fine, "matched")
        for base, change, wanted in (
            (under, "+user alice on", (fine, "matched")),
            (made, "-user alice on", ("refuse", "user_missing")),
        ):
            pending = patch(base, [change])
            assert verdict(base, own, pending) == wanted
            lib.patch_free(pending)


def test_limits_do_not_concern_who_the_bootstrap_file_binds() -> None:
    """They are for the policy; an operator may bind a user of the server's own."""
    own = policy([authority_line(ca()), "limit -@admin", "bind cn alice ops"], lib.FROM_BOOTSTRAP)
    found = decide(policy(["set enforce on"]), certificate(ALICE), bootstrap=own)
    assert (found.action, found.line) == ("login", "bind cn alice ops")


# ---- Many lines of one alias ---------------------------------------------------------------------


def test_many_entries_of_one_common_name_come_and_go() -> None:
    """The gate by name is open exactly as long as one of them is there, or will be there when a
    change is made; committed, pending, refused or dropped."""
    rng = random.Random(3)
    entries = [f"allow CN=alice O=o{number}" for number in range(4000)]
    under = policy(["set enforce on", authority_line(ca()), BIND, "set gate san_cn"])
    alice = certificate(ALICE)
    named, other = (
        certificate(person(who), sans(*names), serial=b"\2")
        for who, names in (("web", [dns("alice")]), ("bob", [dns("o1"), uri("alice")]))
    )
    held: set[str] = set()
    for turn in range(40):
        toggled = set(held) if turn % 5 == 4 else set(rng.sample(entries, 1500))
        if turn % 5 == 0:
            toggled = {entries[turn]}
        after = held ^ toggled
        signs = [("-" if entry in held else "+") + entry for entry in sorted(toggled)]
        rng.shuffle(signs)
        if held and turn % 2:  # one that goes and comes again changes nothing
            same = min(held - toggled or toggled)
            signs = signs if same in toggled else [f"-{same}", *signs, f"+{same}"]
        dropped, change = patch(under, signs), patch(under, signs)
        lib.patch_free(dropped)
        for pending, open_ in ((ffi.NULL, held), (change, after)):
            assert decide(under, alice, pending=pending).reason == ("matched" if open_ else "gate")
            assert decide(under, named, pending=pending).reason == (
                "no_binding" if open_ else "gate"
            )
            assert decide(under, other, pending=pending).reason == "gate"
        lib.policy_commit(under, change)
        held = after
    assert lib.policy_rules(under) == 4 + len(held)


def test_entries_of_one_common_name_go_one_by_one() -> None:
    """The last one closes the door, whichever it is; a change that is refused closes nothing."""
    rng = random.Random(4)
    entries = [f"allow CN=alice O=o{number}" for number in range(300)]
    under = trusting(BIND, "set gate san_cn", *entries)
    rng.shuffle(entries)
    while entries:
        with pytest.raises(PolicyError, match="bogus"):
            under.patch([*(f"-{entry}" for entry in entries), "+bogus"])
        assert outcome(under, certificate(ALICE)) == ("login", "matched")
        under.patch([f"-{entries.pop()}"])
    assert outcome(under, certificate(ALICE)) == ("refuse", "gate")
    under.patch(["+allow CN=alice"])
    assert outcome(under, certificate(ALICE)) == ("login", "matched")


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_load_that_leaves_few_of_many_entries(left: int) -> None:
    """What stays as it is counts once: neither twice nor not at all."""
    rest = ["set enforce on", authority_line(ca()), BIND, "set gate san_cn"]
    entries = [f"allow CN=alice O=o{number}" for number in range(500)]
    under = policy([*rest, *entries])
    change = lib.patch_new(under, lib.FROM_WIRE)
    for number, line in enumerate([*rest, *entries[:left], "allow CN=bob"], 1):
        lib.patch_add(change, raw.span(line.encode()), number)
    assert lib.patch_finish(change, True)
    wanted = "matched" if left else "gate"
    assert decide(under, certificate(ALICE)).reason == "matched"
    assert decide(under, certificate(ALICE), pending=change).reason == wanted
    lib.policy_commit(under, change)
    assert decide(under, certificate(ALICE)).reason == wanted
    for entry in entries[:left]:
        assert decide(under, certificate(ALICE)).reason == "matched"
        lib.policy_commit(under, patch(under, [f"-{entry}"]))
    assert decide(under, certificate(ALICE)).reason == "gate"


def test_two_ca_lines_of_one_key() -> None:
    """A renewed CA is trusted while one certificate of its key is a `ca`; an anchor is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    old, new = (
        root(f"CN={which}", not_before=raw.BEGIN, not_after=raw.END, key=key)
        for which in ("Old", "New")
    )
    leaf = certificate(ALICE, by=new)
    under = policy(["set enforce on", BIND])
    gone, going, anchor = (
        authority_line(old),
        authority_line(new),
        authority_line(long_root("CN=x"), "anchor"),
    )
    for changes, reason in (
        ([f"+{gone}", f"+{going}", f"+{anchor}"], "matched"),
        ([f"-{gone}"], "matched"),
        ([f"-{going}", f"+{gone}"], "matched"),
        ([f"-{gone}", f"+{authority_line(old, 'anchor')}"], "untrusted_issuer"),
        ([f"+{going}"], "matched"),
        ([f"-{going}"], "untrusted_issuer"),
    ):
        change = patch(under, changes)
        assert decide(under, leaf, [new], pending=change).reason == reason
        lib.policy_commit(under, change)
        assert decide(under, leaf, [new]).reason == reason


def test_a_policy_decided_while_it_is_a_patch_is_decided_as_afterwards() -> None:
    """Also a line that goes, and one that shares its alias with one that stays."""
    leaf = certificate(ALICE)
    base = policy(
        [
            "set enforce on",
            authority_line(ca()),
            BIND,
            "set gate san_cn",
            "allow CN=alice O=a",
            "allow CN=alice O=b",
        ]
    )
    for changes, reason in (
        (["-allow CN=alice O=a"], "matched"),
        (["-allow CN=alice O=b"], "matched"),
        (["-allow CN=alice O=a", "-allow CN=alice O=b"], "gate"),
        ([f"-{BIND}"], "no_binding"),
        ([f"-{authority_line(ca())}"], "untrusted_issuer"),
        (["-set enforce on"], "off"),
        ([f"-{BIND}", f"+{BIND} from=10.0.0.0/8"], "address"),
        ([f"+revoke key {ca().key_id}"], "ca_revoked"),
    ):
        change = patch(base, changes)
        assert decide(base, leaf, pending=change).reason == reason
        assert decide(base, leaf).reason == "matched"
        lib.patch_free(change)


def test_the_certificates_of_a_policy_come_and_go() -> None:
    """A `ca` line that is removed vouches no more, one that is added does."""
    one, other = long_root("CN=One"), long_root("CN=Other")
    under = trusting(BIND, trust=[one])
    mine, theirs = certificate(ALICE, by=one), certificate(ALICE, by=other)
    under.patch([f"-{authority_line(one)}", f"+{authority_line(other)}"])
    assert (outcome(under, mine)[1], outcome(under, theirs)[1]) == ("untrusted_issuer", "matched")
    under.patch([f"-{authority_line(other)}"])
    assert outcome(under, theirs)[1] == "untrusted_issuer"
