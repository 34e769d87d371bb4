"""What explain says is what was decided, and a stranger's certificate cannot write in it."""

import random
import shlex
from dataclasses import replace
from typing import Any

import pytest

from control._core import ffi, lib
from control.policy import core
from control.reports import ClientCertificate
from tests.kit import certs as raw
from tests.kit.certs import (
    BMP,
    CN,
    NOW,
    OU,
    UID,
    UTF8,
    VALIDITY,
    O,
    authority_line,
    ca,
    certificate,
    decide,
    dns,
    intermediate,
    ip,
    long_root,
    name,
    person,
    policy,
    purposes,
    sans,
    trusting,
    upn,
    uri,
    utc,
)
from tests.kit.reasons import reasons

ALICE = person("alice")
BIND = "bind subject CN=alice,O=acme alice"
TRUST = ["set enforce on", authority_line(ca())]

# A way to each reason: lines, leaf, further arguments of `decide`.
WAYS: dict[str, tuple[list[str], bytes | None, dict[str, Any]]] = {
    "no_journal": (TRUST, certificate(ALICE), {"no_journal": True}),
    "no_policy": (TRUST, certificate(ALICE), {"no_policy": True}),
    "off": ([], certificate(ALICE), {}),
    "no_certificate": (TRUST, None, {}),
    "handshake": (
        TRUST,
        certificate(ALICE),
        {"tls": {"state": lib.HANDSHAKE_ASKED, "refused": lib.REASON_HANDSHAKE, "text": b"no"}},
    ),
    "weak": (
        TRUST,
        certificate(ALICE),
        {"tls": {"state": lib.HANDSHAKE_ASKED, "refused": lib.REASON_WEAK, "text": b"no"}},
    ),
    "unknown_algorithm": (
        TRUST,
        certificate(ALICE),
        {
            "tls": {
                "state": lib.HANDSHAKE_ASKED,
                "refused": lib.REASON_UNKNOWN_ALGORITHM,
                "text": b"no",
            }
        },
    ),
    "malformed": (TRUST, certificate(name([(O, "acme")], [])), {}),
    "too_large": (TRUST, certificate(person("a" * 5000)), {}),
    "bad_string": (TRUST, certificate(person("a\0b")), {}),
    "ambiguous": (
        [*TRUST, "bind cn alice alice"],
        certificate(name([(CN, "alice")], [(CN, "bob")])),
        {},
    ),
    "locked": ([*TRUST, "lock cn alice"], certificate(ALICE), {}),
    "untrusted_issuer": (["set enforce on", BIND], certificate(ALICE), {}),
    "ca_expired": (TRUST, certificate(ALICE), {"now": 2_600_000_000}),
    "ca_revoked": ([*TRUST, f"revoke key {ca().key_id}"], certificate(ALICE), {}),
    "not_yet_valid": (TRUST, certificate(ALICE, validity=(utc("400101000000Z"), VALIDITY[1])), {}),
    "expired": (TRUST, certificate(ALICE, validity=(VALIDITY[0], utc("210101000000Z"))), {}),
    "key_usage": (TRUST, certificate(ALICE, extensions=[purposes(raw.SERVER_AUTH)]), {}),
    "revoked": ([*TRUST, f"revoke serial {ca().key_id} 01"], certificate(ALICE), {}),
    "gate": ([*TRUST, "set gate san_cn"], certificate(ALICE), {}),
    "no_binding": (TRUST, certificate(ALICE), {}),
    "conflict": ([*TRUST, BIND, "bind cn alice bob"], certificate(ALICE), {}),
    "address": ([*TRUST, BIND + " from=10.0.0.0/8"], certificate(ALICE), {}),
    "lifetime": ([*TRUST, BIND, "set max-lifetime 90d"], certificate(ALICE), {}),
    "required_eku": ([*TRUST, BIND, "set require-eku codeSigning"], certificate(ALICE), {}),
    "required_policy": ([*TRUST, BIND, "set require-policy 1.2.3"], certificate(ALICE), {}),
    "key_too_small": ([*TRUST, BIND, "set min-key-bits 4096"], certificate(ALICE), {}),
    "tls_version": (
        [*TRUST, BIND, "set min-tls 1.3"],
        certificate(ALICE),
        {"tls_version": 0x0303},
    ),
    "user_missing": ([*TRUST, BIND], certificate(ALICE), {"ask": lambda _: lib.USER_MISSING}),
    "user_off": ([*TRUST, BIND, "user alice off"], certificate(ALICE), {}),
    "matched": ([*TRUST, BIND], certificate(ALICE), {}),
}


@pytest.mark.parametrize("reason", reasons()[1:])
def test_the_trace_claims_the_reason_of_the_decision(reason: str) -> None:
    """Once, behind every step that was passed, and with what to change unless all is well."""
    lines, leaf, options = WAYS[reason]
    found = decide(policy(lines), leaf, **options)
    assert found.reason == reason
    names = reasons()
    claims = [line for line in found.trace if line.split(":")[0] in names]
    assert len(claims) == 1
    assert claims[0].startswith(f"{reason}: ")
    assert len(claims[0]) > len(reason) + 2
    behind = found.trace[found.trace.index(claims[0]) + 1 :]
    behind = tuple(line for line in behind if not line.startswith(("by the line: ", "nearest: ")))
    assert [line.split(":")[0] for line in behind] == (
        ["decided by the line"] * (found.line is not None)
        + ["to change it"] * (reason != "matched")
    )
    assert all(line.strip() for line in found.trace)


PASSED = {
    "malformed": "the certificate parses",
    "bad_string": "its names are clean text",
    "ambiguous": "it names one identity",
    "untrusted_issuer": "it comes from a trusted CA",
    "ca_expired": "the CAs of its path are within their validity",
    "ca_revoked": "no CA of its path is revoked",
    "not_yet_valid": "its validity has begun",
    "expired": "it has not expired",
    "key_usage": "it may be used by a TLS client",
    "revoked": "it is not revoked",
    "gate": "it passes the gate",
    "no_binding": "a line binds it",
    "address": "its address is allowed",
    "user_off": "the user is there and on",
}


@pytest.mark.parametrize("reason", reasons()[1:])
def test_the_trace_shows_the_steps_before_the_reason_and_no_other(reason: str) -> None:
    """Nothing that was not looked at is said to be well."""
    lines, leaf, options = WAYS[reason]
    trace = decide(policy(lines), leaf, **options).trace
    order = reasons()
    wanted = [text for step, text in PASSED.items() if order.index(step) < order.index(reason)]
    if leaf is None or order.index(reason) < order.index("malformed"):
        wanted = []
    assert [line for line in trace if line in PASSED.values()] == wanted


def test_the_trace_of_a_login_in_full() -> None:
    """The leaf, its names, its path, each step, the outcome and the line."""
    leaf = certificate(
        ALICE, sans(uri("spiffe://x/a"), dns("a.example"), ip(b"\n\0\0\1")), serial=b"\1\2"
    )
    found = decide(policy([*TRUST, BIND]), leaf)
    assert found.trace == (
        "subject CN=alice,O=acme, issued by CN=Root CA,O=acme, serial 0102, "
        "valid 2020-01-01T00:00:00Z to 2049-12-31T23:59:59Z",
        "its RDN O=acme",
        "its RDN CN=alice",
        "its SAN uri spiffe://x/a",
        "its SAN dns a.example",
        "its SAN ip 10.0.0.1",
        f"path: the CA with key id {ca().key_id}",
        *list(PASSED.values())[:4],
        f"by the `ca` line of the CA with key id {ca().key_id}",
        *list(PASSED.values())[4:],
        "matched: it is that user",
        f"decided by the line: {BIND}",
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["set gate full_subject", "allow CN=alice O=acme"], "allow CN=alice O=acme"),
        ([f"revoke serial {ca().key_id} 01"], f"revoke serial {ca().key_id} 01"),
        ([f"revoke key {ca().key_id}"], f"revoke key {ca().key_id}"),
    ],
    ids=["allow", "revoke serial", "revoke key"],
)
def test_each_step_names_the_line_behind_it(more: list[str], line: str) -> None:
    """The entry of the gate that let it pass; the revocation, of itself or of a CA above it."""
    found = decide(policy([*TRUST, BIND, *more]), certificate(ALICE))
    assert f"by the line: {line}" in found.trace


BOB = ["bind subject CN=bob,OU=eng,O=acme bob"]
ENG = name([(O, "acme")], [(OU, "eng")], [(CN, "bob")])


@pytest.mark.parametrize(
    ("lines", "subject", "told"),
    [
        (BOB, name([(O, "acme")], [(OU, "ops")], [(CN, "bob")]),
         "the certificate has OU=ops, the line has OU=eng"),
        (BOB, name([(O, "acme")], [(CN, "bob")]),
         "the certificate has nothing else, the line has OU=eng"),
        (BOB, name([(O, "acme")], [(OU, "eng")], [(CN, "bob")], [(UID, "7")]),
         "the certificate has UID=7, the line has nothing else"),
        (BOB, name([(O, "acme")], [(OU, "eng")], [(CN, "Bob")]),
         "the certificate has CN=Bob, the line has CN=bob"),
        (BOB, name([(O, "acme")], [(CN, "bob")], [(OU, "eng")]),
         "it has the same attributes in another order"),
        ([f"{BOB[0]} ca={'ab' * 32}"], ENG, "it asks for another CA"),
        ([*BOB, "bind subject CN=bob,OU=eng,O=other bob"],
         name([(O, "acme")], [(OU, "ops")], [(CN, "bob")]),
         "the certificate has OU=ops, the line has OU=eng"),
        (BOB, name([(O, "else")], [(CN, "zoe")]), None),
        ([], ENG, None),
    ],
)  # fmt: skip
def test_the_nearest_binding_and_by_what_it_failed(
    lines: list[str], subject: bytes, told: str | None
) -> None:
    """The line with the fewest attributes that differ; none where nothing is in common."""
    found = decide(policy([*TRUST, *lines]), certificate(subject))
    assert found.reason == "no_binding"
    nearest = [line for line in found.trace if line.startswith("nearest: ")]
    assert nearest == ([f"nearest: {lines[0]}: {told}"] if told else [])


def test_only_so_much_is_looked_at_for_the_nearest() -> None:
    """A server's main thread has other things to do."""
    lines = policy([*TRUST, *(f"bind subject CN=u{n},OU=x,O=acme u" for n in range(20))])
    request = ffi.new("request *")
    identity, path = ffi.new("identity *"), ffi.new("path *", {"known": True, "count": 1})
    leaf = raw.x509(certificate(ENG))
    lib.identity_read(leaf, identity)
    lib.path_verify(lines, leaf, ffi.NULL, 0, NOW, path, ffi.NULL)
    request.leaf, request.issuers, request.now = identity, path, NOW
    decided = lib.policy_decide(lines, ffi.NULL, request)
    for most, there in ((0, False), (1 << 15, True)):
        trace = raw.explain(lines, request, decided, most=most)
        assert any(line.startswith("nearest: ") for line in trace) == there


def test_every_rdn_is_told_with_its_types() -> None:
    """In the order of the certificate; one that has several attributes is one."""
    leaf = certificate(name([(O, "acme")], [(CN, "a"), (UID, "7")]))
    trace = decide(policy(TRUST), leaf).trace
    assert [line for line in trace if line.startswith("its RDN ")] == [
        "its RDN O=acme", "its RDN CN=a+UID=7",
    ]  # fmt: skip


def test_what_core_tells_is_the_same_trace() -> None:
    """core.Decision.trace, line by line; but first that no handshake was asked, and what it would
    want, unless the certificate is for the REST API itself, which has no other handshake."""
    under, same = trusting(BIND), decide(policy([*TRUST, BIND]), certificate(ALICE)).trace
    first, *rest = under.decide(certificate(ALICE), now=NOW).trace
    assert first == (
        "the TLS handshake was not asked (CERTAUTH.EXPLAIN on a server asks its own): it also "
        "wants a root of the path in the server's trust store, and keys and signatures of its "
        "security level"
    )
    assert tuple(rest) == same
    assert under.decide(certificate(ALICE), now=NOW, own=True).trace == same


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("bind subject O=acme,OU=eng,CN=alice alice", True),
        ("bind subject /CN=alice/OU=eng/O=acme alice", True),
        ("bind subject O=acme,CN=alice,OU=eng alice", False),
        ("bind subject CN=alice,O=acme alice", False),
    ],
)
def test_the_opposite_order_is_named(line: str, near: bool) -> None:
    """The commonest slip: the same attributes the other way round."""
    leaf = certificate(name([(O, "acme")], [(OU, "eng")], [(CN, "alice")]))
    found = decide(policy([*TRUST, line]), leaf)
    assert found.reason == "no_binding"
    hint = "a `bind subject` line has the same attributes in the opposite order"
    assert (found.detail == hint) == near
    assert any(hint in told for told in found.trace) == near


SUBJECTS = [
    ALICE,
    person('a,b+c"d\\e<f>g;h'),
    person(" alice "),
    person("#x"),
    person("John Doe"),
    person("it's"),
    person("josé"),
    name([(CN, "a"), (UID, "7")], [(O, 'A "quoted" B')]),
    name([(raw.oid("1.2.3.4"), "x")], [(CN, "a")]),
    person("josé", BMP),
    name(*([(raw.oid("1.2" + ".127" * 40), "x")] for _ in range(49))),
]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_line_that_is_advised_binds_the_certificate(subject: bytes) -> None:
    """Copied with a user's name, it parses and matches."""
    leaf = certificate(subject)
    cure = decide(policy(TRUST), leaf).trace[-1]
    assert cure.startswith("to change it: add the line: bind subject ")
    line = cure.removeprefix("to change it: add the line: ").replace("<user>", "alice")
    assert decide(policy([*TRUST, line]), leaf).action == "login"


def test_nobody_is_advised_to_bind_a_subject_too_long_for_a_line() -> None:
    """The advice would be a line that is refused, or one that binds another name: its key will
    do."""
    leaf = certificate(name(*([(raw.oid("1.2" + ".127" * 40), "x")] for _ in range(50))))
    found = decide(policy(TRUST), leaf)
    by_key = f"bind key {core.identity(leaf).key} alice"
    cure = "to change it: add the line: " + by_key.replace("alice", "<user>")
    assert (found.reason, found.trace[-1]) == ("no_binding", cure)
    assert decide(policy([*TRUST, by_key]), leaf).action == "login"


def test_nobody_is_advised_to_bind_an_empty_subject() -> None:
    """There is no such line."""
    trace = decide(policy(TRUST), certificate(name(), sans(uri("spiffe://x")))).trace
    assert trace[0].startswith("subject (empty), issued by ")
    assert "bind subject" not in trace[-1]


def test_shadow_is_said() -> None:
    """Else a person would wonder why nothing happens."""
    told = "shadow: the policy only records this, nothing is done"
    assert (
        told
        in decide(
            policy(["set enforce shadow", authority_line(ca()), BIND]), certificate(ALICE)
        ).trace
    )
    assert told not in decide(policy([*TRUST, BIND]), certificate(ALICE)).trace


def test_a_client_that_may_choose_is_not_said_to_be_somebody() -> None:
    """It is nobody until it picks one of the users, which are told."""
    trace = decide(policy([*TRUST, "bind cn alice alice bob"]), certificate(ALICE)).trace
    assert "matched: it is that user" not in trace
    assert "decided by the line: bind cn alice alice bob" in trace


def test_a_path_that_nobody_vouches_for_is_said() -> None:
    """With the caveat that the handshake may know more than explain was given."""
    middle = intermediate(long_root("CN=Top"))
    trace = trusting(BIND).decide(certificate(ALICE, by=middle), now=NOW).trace
    assert any(
        line.startswith("path: nobody vouches for it; if its intermediate CAs were not given")
        for line in trace
    )


# ---- Where and what ------------------------------------------------------------------------------

EXTRA = raw.oid("1.2.3")
# What is wrong with a certificate, and what is said of it.
FAULTS: dict[str, tuple[bytes, str]] = {
    "a NUL": (
        certificate(person("alice\0.evil")),
        "bad_string: a name in it is not clean text: the subject's attribute 2, CN, is not clean "
        "text: byte 6 (0x00) of the UTF8STRING 'alice\\x00.evil'",
    ),
    "T61": (
        certificate(name([(O, "Société".encode("latin-1"), raw.T61)], [(CN, "x")])),
        "bad_string: a name in it is not clean text: the subject's attribute 1, O, is not clean "
        "text: byte 5 (0xe9) of the T61STRING 'Soci\\xe9t\\xe9'",
    ),
    "an empty OU": (
        certificate(name([(OU, "a")], [(OU, "")], [(CN, "x")])),
        "bad_string: a name in it is not clean text: the subject's attribute 2, OU, is empty",
    ),
    "no text": (
        certificate(name([(raw.oid("2.5.4.45"), b"\0\1", 3)], [(CN, "x")])),
        "bad_string: a name in it is not clean text: the subject's attribute 1, 2.5.4.45, is a "
        "BIT STRING, and no text",
    ),
    "an invisible character": (
        certificate(person("\u0645\u06cc\u200c\u062e")),
        "bad_string: a name in it is not clean text: the subject's attribute 2, CN, is not clean "
        "text: byte 5 (0xe2) of the UTF8STRING "
        "'\\xd9\\x85\\xdb\\x8c\\xe2\\x80\\x8c\\xd8\\xae'",
    ),
    "an empty e-mail": (
        certificate(ALICE, sans(uri("spiffe://x"), raw.email(""))),
        "bad_string: a name in it is not clean text: subject alternative name 2, email, is empty",
    ),
    "an address of 5 bytes": (
        certificate(ALICE, sans(ip(b"12345"))),
        "bad_string: a name in it is not clean text: subject alternative name 1, ip, has 5 bytes, "
        "not 4 or 16",
    ),
    "a UPN of another type": (
        certificate(ALICE, sans(upn("a@n", raw.T61))),
        "bad_string: a name in it is not clean text: subject alternative name 1, upn, is a "
        "T61STRING, and no text",
    ),
    "an empty RDN": (
        certificate(name([(O, "acme")], [], [(CN, "x")])),
        "malformed: the certificate does not parse as it has to: the subject has an empty RDN, "
        "number 2",
    ),
    "an attribute twice": (
        certificate(name([(O, "acme")], [(CN, "x"), (CN, "x")])),
        "malformed: the certificate does not parse as it has to: the subject has an attribute "
        "twice in the RDN of attribute 2",
    ),
    "an extension twice": (
        certificate(ALICE, purposes(raw.CLIENT_AUTH)),
        "malformed: the certificate does not parse as it has to: extension 2, 2.5.29.37, stands "
        "twice",
    ),
    "an extension that does not parse": (
        certificate(ALICE, raw.extension(raw.KEY_USAGE, b"\4\1\0")),
        "malformed: the certificate does not parse as it has to: extension 3, 2.5.29.15, does not "
        "parse",
    ),
    "an unknown critical extension": (
        certificate(ALICE, raw.extension(EXTRA, b"\5\0", True)),
        "malformed: the certificate does not parse as it has to: extension 3, 1.2.3, is critical, "
        "and libcrypto does not know it",
    ),
    "a SAN that does not parse": (
        certificate(ALICE, raw.extension(raw.SAN, b"\x30\x05\x82\1a\5\0")),
        "malformed: the certificate does not parse as it has to: extension 3, 2.5.29.17, does not "
        "parse",
    ),
    "a SAN in BER": (
        certificate(ALICE, raw.extension(raw.SAN, b"\x30\x04\x82\x81\1a")),
        "malformed: the certificate does not parse as it has to: the subject alternative names "
        "are not DER",
    ),
    "a time": (
        certificate(ALICE, validity=(VALIDITY[0], utc("4901010000Z"))),
        "malformed: the certificate does not parse as it has to: notAfter is not a time to the "
        "second in UTC (RFC 5280 4.1.2.5)",
    ),
    "a long subject": (
        certificate(person("a" * 5000)),
        "too_large: the certificate is larger than anybody needs: the subject is longer than 4096 "
        "bytes",
    ),
    "two DNS names": (
        certificate(ALICE, sans(dns("a.n"), dns("b.n"))),
        "ambiguous: it names several identities of a kind that the policy binds: it has "
        "different DNS names",
    ),
    "two CNs": (
        certificate(name([(CN, "a")], [(CN, "b")])),
        "ambiguous: it names several identities of a kind that the policy binds: it has "
        "different CNs",
    ),
}


@pytest.mark.parametrize("which", FAULTS)
def test_a_reason_says_where_and_what(which: str) -> None:
    """The field, the attribute and the byte; the bytes in hex where they are not plain text."""
    leaf, said = FAULTS[which]
    found = decide(policy([*TRUST, "bind dns a.n alice", "bind cn a alice"]), leaf)
    assert said in found.trace
    assert core.identity(leaf).detail == (None if found.reason == "ambiguous" else found.detail)


# Odd names, and what of the same certificate decides nevertheless.
SOCIETE = (O, "Société".encode("latin-1"), raw.T61)
GOOD = sans(uri("spiffe://x/a"))
ODD: dict[str, tuple[bytes, str]] = {
    "T61 in the issuer, by its subject": (
        certificate(ALICE, issuer=name([SOCIETE])), "subject CN=alice,O=acme",
    ),
    "T61 in the subject, by a URI": (certificate(name([SOCIETE]), GOOD), "uri spiffe://x/a"),
    "an empty OU, by a URI": (
        certificate(name([(OU, "")], [(CN, "x")]), GOOD), "uri spiffe://x/a",
    ),
    "an empty OU, by its CN": (certificate(name([(OU, "")], [(CN, "x")])), "cn x"),
    "a control character in a UPN, by its subject": (
        certificate(ALICE, sans(upn("a\n"))), "subject CN=alice,O=acme",
    ),
    "two odd OUs in one RDN, by its CN": (
        certificate(name([(OU, ""), (OU, "a\0")], [(CN, "x")])), "cn x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", ODD)
def test_what_is_odd_refuses_nobody_whom_something_else_names(which: str) -> None:
    """Bound by its key, its hash or a clean name, and said in the trace; an odd value that might
    count refuses: of the kind that is bound, in the gate, and where nothing else names it."""
    leaf, value = ODD[which]
    own = core.identity(leaf)
    for one in (value, f"key {own.key}", f"cert {own.cert}"):
        found = decide(policy([*TRUST, f"bind {one} alice"]), leaf)
        assert (found.action, found.users) == ("login", ("alice",))
        odd = f"what is not clean text in its names binds it nowhere: {own.detail}"
        assert odd in found.trace
    whole = decide(policy([*TRUST, f"bind {value} alice", "set gate full_subject"]), leaf)
    assert whole.reason == ("bad_string" if "subject" in own.odd else "gate")
    for leave in ([], ["set unmatched leave"]):
        stranger = decide(policy([*TRUST, *leave]), leaf)
        nobody = ("leave" if leave else "refuse", "no_binding")
        assert (stranger.action, stranger.reason) == (
            ("refuse", "bad_string") if own.odd else nobody
        )


@pytest.mark.parametrize(
    ("kind", "template"),
    [(dns, "{id}.n"), (uri, "n/{id}"), (raw.email, "{id}@n"), (upn, "{id}@n")],
)
def test_attack_an_odd_name_beside_the_one_that_is_bound(kind: Any, template: str) -> None:
    """Anyone who else reads the certificate may take the other."""
    word, evil, good = kind.__name__, kind(b"admin\0.x"), template.replace("{id}", "a")
    lines = f"bind {word} {good} alice", f"pattern {word} {template} p:{{id}} on"
    for line in lines:
        for names in ([kind(good), evil], [evil, kind(good)]):
            leaf = certificate(ALICE, sans(*names))
            assert decide(policy([*TRUST, line]), leaf).reason == "bad_string"
        assert decide(policy([*TRUST, line]), certificate(ALICE, sans(kind(good)))).users
    two = certificate(name([(CN, "a")], [(CN, "a\0b")]))
    assert decide(policy([*TRUST, "bind cn a alice"]), two).reason == "bad_string"
    gated = [*TRUST, f"bind key {core.identity(two).key} alice", "set gate san_cn", "allow CN=a"]
    assert decide(policy(gated), two).reason == "bad_string"


def test_of_an_odd_certificate_in_the_event_log_the_hashes_decide() -> None:
    """Its subject is shown with an empty value, or empty, and decides nothing; it is not an
    error."""
    odd = certificate(name([(OU, "")], [(CN, "alice")]))
    for leaf in (odd, certificate(name(), sans(uri("spiffe://x")))):
        found = core.identity(leaf)
        known = ClientCertificate(
            cert=found.cert, key=found.key, ca=ca().key_id, issuer="", serial=found.serial,
            subject=found.subject, user="", not_before=0, not_after=0, first=0,
        )  # fmt: skip
        by_key = trusting(f"bind key {found.key} alice").decide_known(known, now=NOW)
        assert (by_key.action, by_key.users) == ("login", ("alice",))
        by_name = trusting("bind cn alice alice").decide_known(known, now=NOW)
        assert by_name.reason == ("bad_string" if found.odd else "no_binding")
    with pytest.raises(core.CoreError, match="'=' is missing"):
        trusting().decide_known(replace(known, subject="no name"), now=NOW)
    assert core.common_names("") == []


def test_no_line_can_say_what_is_odd() -> None:
    """It stands as an empty value, and every parser of lines refuses that."""
    leaf = certificate(name([(OU, "")], [(CN, "alice\0")]))
    text = core.identity(leaf).subject
    assert text == "CN=,OU="
    for line in (
        f"bind subject {text} alice", 'bind subject "CN=\\00" alice', 'bind cn "" alice',
        "allow CN=", f"pattern subject {text} p:x on", "pattern cn {id} p:{id} on",
    ):  # fmt: skip
        try:
            found = decide(policy([*TRUST, line]), leaf)
        except ValueError:
            continue
        assert found.reason == "bad_string", line


# ---- Cures ---------------------------------------------------------------------------------------

USAGES = {
    "keyEncipherment alone": (
        [raw.constraints(False), raw.key_usage(b"\5\x20"), purposes(raw.CLIENT_AUTH)],
        "its key usage has not digitalSignature",
        "issue one with digitalSignature in its key usage",
    ),
    "serverAuth alone": (
        [raw.constraints(False), purposes(raw.SERVER_AUTH)],
        "its extended key usage has not clientAuth",
        "issue one with the extended key usage clientAuth and without CA:TRUE",
    ),
    "a CA's": (
        [raw.constraints(True), purposes(raw.CLIENT_AUTH)],
        "its basic constraints say CA:TRUE",
        "issue one with the extended key usage clientAuth and without CA:TRUE",
    ),
}


@pytest.mark.parametrize("which", USAGES)
def test_what_a_certificate_lacks_is_named(which: str) -> None:
    """AD CS has templates for encryption, whose keys sign nothing."""
    extensions, why, cure = USAGES[which]
    found = decide(policy([*TRUST, BIND]), certificate(ALICE, extensions=extensions))
    assert (found.reason, found.detail) == ("key_usage", why)
    assert found.trace[-1] == f"to change it: {cure}"


def test_a_missing_intermediate_is_for_the_client_to_send() -> None:
    """Nobody knows whether it is one; both cures are told."""
    middle = intermediate(ca())
    leaf = certificate(ALICE, by=middle)
    told = trusting(BIND).decide(leaf, now=NOW).trace[-1]
    assert told == (
        "to change it: where an intermediate CA issued it, the client has to send that with its "
        "certificate; else add a `ca` line for the CA that issued it, or a `pin` line for it alone"
    )
    known = decide(policy(["set enforce on", BIND]), certificate(ALICE)).trace[-1]
    assert known == (
        "to change it: add a `ca` line for the CA that issued it, or a `pin` line for it alone"
    )


def test_a_subject_that_no_gate_can_say() -> None:
    """Names of Active Directory have two CNs and DCs: the cure is not an `allow` line."""
    leaf = certificate(
        name([(raw.DC, "example")], [(raw.DC, "acme")], [(CN, "Users")], [(CN, "Alice Miller")])
    )
    bind = f"bind subject {core.quote(core.identity(leaf).subject)} alice"
    gates = {
        "full_subject": "no `allow` line can say this subject, which has other attributes than "
        "one CN, OUs and one of O, L, ST and C: take the gate away",
        "san_cn": "the gate looks at the CN, so issue one with a single CN, or take the gate away",
    }
    for gate, cure in gates.items():
        trace = decide(policy([*TRUST, bind, f"set gate {gate}"]), leaf).trace
        assert trace[-1] == f"to change it: {cure}"
    assert decide(policy([*TRUST, bind]), leaf).action == "login"


LOOKS = ["Jean\xa0Dupont", "Mu\u0308ller", "a\u2003b", "x\u2800y", "\u3000z", "caf\u0301"]


@pytest.mark.parametrize("common_name", LOOKS)
def test_what_is_offered_for_pasting_can_be_pasted(common_name: str) -> None:
    """A no-break space, NFD and the like are shown as bytes in hex, and the line that is advised
    binds the certificate; so does the subject of the command."""
    leaf = certificate(person(common_name))
    trace = decide(policy([*TRUST, "bind subject CN=Jean?Dupont,O=acme x"]), leaf).trace
    assert all(line.isprintable() for line in trace)
    line = trace[-1].removeprefix("to change it: add the line: ").replace("<user>", "alice")
    assert line.isascii()
    assert decide(policy([*TRUST, line]), leaf).action == "login"
    again = decide(policy([*TRUST, line]), leaf).trace[-1]
    assert again.isascii()
    told = trusting().decide(leaf, now=NOW, managed=True).trace[-1]
    command = told.removeprefix("to change it: ").removesuffix(
        ", where a role of that user has an ACL here"
    )
    *words, subject = shlex.split(command.replace("<user>", "alice"))
    assert words == ["redis-certauth", "user", "identity", "add", "alice", "--subject"]
    assert core.parse_name(subject) == core.identity(leaf).subject


def test_lines_are_shown_so_that_they_can_be_pasted() -> None:
    """Those that decide, revoke or are near as well, values of every kind."""
    for value in ('a"b\\c\xa0d', "e\u0301"):
        leaf = certificate(person("x"), sans(upn(value)))
        line = f"bind upn {core.quote(value)} alice"
        decided = decide(policy([*TRUST, line]), leaf).trace[-1]
        assert decided.startswith("decided by the line: bind upn ")
        assert decided.isascii()
        pasted = decided.removeprefix("decided by the line: ")
        assert core.canonical(pasted) == core.canonical(line)


def test_with_a_control_plane_the_cure_is_a_command() -> None:
    """A line that is added by hand is taken back within a second."""
    cases: list[tuple[list[str], bytes, str]] = [
        ([], certificate(ALICE), "redis-certauth db update <database> --tls-mode enabled"),
        (TRUST, certificate(name([(CN, "o'neil")])),
         "redis-certauth user identity add <user> --subject 'CN=o'\\''neil', where a role of that "
         "user has an ACL here"),
        (["set enforce on"], certificate(ALICE),
         "where an intermediate CA issued it, the client has to send that with its certificate; "
         "else redis-certauth ca set <file with all CAs> --trust-grows, or "
         "authentication_ssl_client_certs of the database"),
        ([*TRUST, "set gate san_cn"], certificate(ALICE),
         "redis-certauth db update <database> --validation disabled, or add it to "
         "authorized_subjects of the database"),
    ]  # fmt: skip
    for lines, leaf, cure in cases:
        under = core.Policy(lines)
        assert under.decide(leaf, now=NOW, managed=True).trace[-1] == f"to change it: {cure}"
        assert "redis-certauth" not in under.decide(leaf, now=NOW).trace[-1]


def test_the_network_that_is_lacking_is_named() -> None:
    """Of an address that was said, where that is what is lacking."""
    under = core.Policy([*TRUST, BIND + " from=10.0.0.0/8"])
    for address, cure in (
        ("192.0.2.7", "add to from= of the line: 192.0.2.7, or connect from an allowed address"),
        (None, "connect from an allowed address, or widen from="),
    ):
        found = under.decide(certificate(ALICE), now=NOW, address=address)
        assert (found.reason, found.trace[-1]) == ("address", f"to change it: {cure}")
    line = "pattern cn {id} user:{id} from=10.0.0.0/8 on"
    found = core.Policy([*TRUST, line]).decide(
        certificate(ALICE), now=NOW, address="192.0.2.7", managed=True
    )
    assert (found.reason, found.trace[-1].partition(",")[0]) == (
        "address", "to change it: redis-certauth pattern update <pattern> --add-from 192.0.2.7",
    )  # fmt: skip


def test_of_a_certificate_in_the_event_log_only_what_is_known_is_told() -> None:
    """Neither an issuer that is empty nor a year that nobody wrote."""
    found = core.identity(certificate(ALICE))
    known = ClientCertificate(
        cert=found.cert, key=found.key, ca=ca().key_id, issuer="", serial="01",
        subject=found.subject, user="", not_before=0, not_after=0, first=0,
    )  # fmt: skip
    for not_after, told in ((0, ""), (NOW, ", valid to 2027-01-15T08:00:00Z")):
        one = replace(known, not_after=not_after)
        trace = trusting(BIND).decide_known(one, now=NOW).trace
        assert trace[0] == f"subject CN=alice,O=acme, serial 01{told}"


# ---- The nearest ---------------------------------------------------------------------------------

NEAR: dict[str, tuple[bytes, list[str], str]] = {
    "DNS in capitals": (
        certificate(person("x"), sans(dns("HOST1.acme.com"))),
        ["bind dns host1.acme.com web"],
        "bind dns host1.acme.com web: the certificate has HOST1.acme.com",
    ),
    "a URI": (
        certificate(person("x"), sans(uri("spiffe://ACME.com/x"))),
        ["bind uri spiffe://acme.com/x app"],
        "bind uri spiffe://acme.com/x app: the certificate has spiffe://ACME.com/x",
    ),
    "an e-mail address": (
        certificate(person("x"), sans(raw.email("Alice@ACME.com"))),
        ["bind email alice@acme.com alice"],
        "bind email alice@acme.com alice: the certificate has Alice@ACME.com",
    ),
    "a UPN": (
        certificate(person("x"), sans(upn("alice@CORP.acme"))),
        ["bind upn alice@corp.acme alice"],
        "bind upn alice@corp.acme alice: the certificate has alice@CORP.acme",
    ),
    "a CN": (
        certificate(person("X  y")),
        ["bind cn x\xa0y alice".replace("x\xa0y", '"x y"')],
        'bind cn "x y" alice: the certificate has "X  y"',
    ),
    "the same CN, before one attribute less that differs": (
        certificate(name([(O, "acme")], [(OU, "ops")], [(CN, "bob")])),
        ["bind subject CN=ann,OU=ops,O=acme ann", "bind subject CN=bob,OU=x,O=other bob"],
        "bind subject CN=bob,OU=x,O=other bob: the certificate has O=acme, OU=ops, the line has "
        "O=other, OU=x",
    ),
    "case and order, before another OU": (
        certificate(name([(O, "Acme")], [(OU, "eng")], [(CN, "bob")])),
        ["bind subject CN=bob,OU=ops,O=Acme one", "bind subject O=ACME,OU=eng,CN=Bob two"],
        "bind subject O=ACME,OU=eng,CN=Bob two: the certificate has O=Acme, CN=bob, the line has "
        "CN=Bob, O=ACME",
    ),
    "no CN": (
        certificate(name([(O, "Acme")], [(OU, "eng")])),
        ["bind subject O=acme,OU=eng app"],
        "bind subject O=acme,OU=eng app: the certificate has O=Acme, the line has O=acme",
    ),
    "NFD": (
        certificate(person("Mu\u0308ller")),
        ["bind subject CN=M\u00fcller,O=acme m"],
        "bind subject CN=M\u00fcller,O=acme m: the certificate has CN=Mu\\cc\\88ller, the line "
        "has CN=M\u00fcller",
    ),
}


@pytest.mark.parametrize("which", NEAR)
def test_the_nearest_line_is_the_one_that_was_meant(which: str) -> None:
    """Of every kind: the same but for case, blanks and order first, then the same CN, then others;
    also where it is the last of 20,000 lines."""
    leaf, lines, told = NEAR[which]
    crowd = [f"bind subject CN=u{n},OU=ops,O=acme u" for n in range(20_000 if "CN" in which else 9)]
    for order in ([*lines, *crowd], [*crowd, *lines]):
        found = decide(policy([*TRUST, *order]), leaf)
        assert found.reason == "no_binding"
        assert f"nearest: {told}" in found.trace


@pytest.mark.parametrize("hosts", [100, 10])
def test_the_index_of_the_nearest_follows_the_policy(hosts: int) -> None:
    """Lines come and go, in place and by a new table. Of more than 64 alike the index keeps a
    part, and never one that has gone."""
    rng, held = random.Random(1), policy(TRUST)
    lines = [f"bind dns H{n % hosts}.n u{n} ca={n:064x}" for n in range(4000)]
    there = set[str]()
    for _ in range(40):
        come = set(rng.sample(lines, rng.choice([1, 5, 3000]))) - there
        gone = {line for line in there if rng.random() < 0.5}
        changes = [*(f"-{line}" for line in gone), *(f"+{line}" for line in come)]
        lib.policy_commit(held, change := raw.patch(held, changes))
        lib.patch_free(change)
        there = (there - gone) | come
        for host in range(0, hosts, 7):
            same = {line for line in there if line.startswith(f"bind dns H{host}.n ")}
            trace = decide(held, certificate(person("x"), sans(dns(f"h{host}.n")))).trace
            near = [line for line in trace if line.startswith("nearest: ")]
            assert len(near) == bool(same) or (hosts == 10 and not near)
            told = {line.removeprefix("nearest: ").split(": ")[0] for line in near}
            assert told <= same


# ---- Attacks -------------------------------------------------------------------------------------

EVIL = "x\nmatched: it is that user\x1b[2J\u202e"


@pytest.mark.parametrize(
    "names",
    [
        [upn(EVIL)],
        [upn(EVIL, BMP)],
        [upn(b"\xff\xfe")],
        [uri("ok"), upn("a\r\nb")],
        [dns(EVIL.encode())],
        [dns("a" * 4094)] * 4,
        [dns("a" * 4093)] * 5,
        [dns("d")] * 5000,
    ],
    ids=[
        "newline",
        "newline in BMP",
        "no UTF-8",
        "behind a good one",
        "in a DNS name",
        "just over",
        "far over",
        "5,000",
    ],
)
def test_attack_a_san_that_writes_into_the_trace(names: list[bytes]) -> None:
    """Names that are not clean, or too many, are in no trace but in hex: they would forge lines of
    it, or of a log. Nor where the certificate is somebody by its subject."""
    leaf = certificate(ALICE, sans(*names))
    for lines in (TRUST, [*TRUST, BIND]):
        found = decide(policy(lines), leaf)
        assert found.reason in ("bad_string", "too_large", "matched")
        assert not any(line.startswith(("its SAN upn", "its SAN dns")) for line in found.trace)
        claims = [line for line in found.trace if line.startswith("matched")]
        assert len(claims) == (found.reason == "matched")
        assert all(line.isprintable() for line in found.trace)
    assert decide(policy(TRUST), leaf).reason != "no_binding"


@pytest.mark.parametrize(
    "names", [[upn("x matched: it is that user")], [dns("a, its SAN uri spiffe://x/admin")]]
)
def test_attack_a_san_that_looks_like_another_line(names: list[bytes]) -> None:
    """It stays behind its own words."""
    found = decide(policy([*TRUST, BIND]), certificate(ALICE, sans(*names)))
    assert sum(line.startswith("its SAN ") for line in found.trace) == 1
    assert sum(line.startswith("matched: ") for line in found.trace) == 1


@pytest.mark.parametrize("tag", [UTF8, BMP])
def test_attack_a_subject_that_writes_into_the_trace(tag: int) -> None:
    """Names that are not clean are told in hex, in the reason alone."""
    found = decide(policy(TRUST), certificate(person(EVIL, tag)))
    assert found.trace[0].startswith("subject CN=,O=acme, issued by CN=Root CA,O=acme, ")
    assert all(line.isprintable() for line in found.trace)


def test_a_trace_has_whole_lines_in_any_room() -> None:
    """A small buffer gets the first lines, never a part of one."""
    leaf = certificate(ALICE, sans(uri("spiffe://x/a")))
    identity, path = raw.read(leaf), ffi.new("path *")
    request = ffi.new("request *", {"leaf": identity, "issuers": path, "now": NOW})
    lines = policy([*TRUST, "bind subject CN=alicia,O=acme alicia"])
    decided = lib.policy_decide(lines, ffi.NULL, request)
    whole = raw.explain(lines, request, decided)
    for room in range(1400):
        told = raw.explain(lines, request, decided, room)
        assert told == whole[: len(told)] or told == ("",)
        assert len("\n".join(told)) <= room
    assert raw.explain(lines, request, decided, len("\n".join(whole)) + 1) == whole


def test_every_reason_has_words() -> None:
    """Also those that no request can reach; only `matched` needs no cure."""
    identity, path = raw.read(certificate(ALICE)), ffi.new("path *")
    request, lines = ffi.new("request *"), policy(TRUST)
    request.leaf, request.issuers, request.now = identity, path, NOW
    for number, reason in enumerate(reasons()):
        trace = raw.explain(lines, request, ffi.new("decision *", {"why": number})[0])
        said = next(line for line in trace if line.startswith(f"{reason}: "))
        assert len(said) > len(reason) + 5
        assert trace[-1].startswith("to change it: ") == (reason != "matched")
        assert len(trace[-1]) > 15


def test_the_words_are_the_keys_of_their_reasons() -> None:
    """The oracle of this file knows all reasons."""
    assert tuple(WAYS) == reasons()[1:]
