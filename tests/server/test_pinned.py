"""Certificates that are trusted by themselves: `pin` lines, and `ca` lines without their root."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kit.certs import (
    BEGIN,
    END,
    NOW,
    Policy,
    authority_line,
    decide,
    intermediate,
    long_root,
    patch,
    pem,
    policy,
    resumed,
)
from tests.kit.chains import rsa_key, sign, usage
from tests.kit.policies import (
    HANDSHAKE,
    LOGIN,
    Node,
    Start,
    client_id,
    closed,
    make_node,
    pairs,
    refuse,
)
from tests.kit.servers import Server
from tests.kit.support import SERVER, Cert, Key, Pki, days, free_port, root, wait_until

LONG: dict[str, Any] = {"begin": BEGIN, "end": END}
BIND, USER = "bind cn alice alice", "user alice on ~* &* +@all"


def pin(cert: Cert) -> str:
    return authority_line(cert, "pin")


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def alone(subject: str = "CN=alice", key: Key | None = None, **options: Any) -> Cert:
    """A client's certificate that it has signed itself."""
    return sign(None, subject, key or new_key(), **options)


# ---- The decision --------------------------------------------------------------------------------


def enforced(*lines: str) -> list[str]:
    return ["set enforce on", USER, BIND, *lines]


def reason_of(cert: Cert, *lines: str, chain: Sequence[Cert] | None = None) -> str:
    """Under an enforced policy of these lines, where the handshake has verified this chain, or none
    that anybody vouches for."""
    above = None if chain is None else [one.der for one in chain]
    return decide(policy(enforced(*lines)), cert.der, above).reason


def test_a_pin_admits_exactly_its_certificate() -> None:
    """Not another one of the same subject, nor of the same key, nor a sibling of its CA."""
    by = long_root("CN=Nobody knows it")
    leaf, sibling = (sign(by, "CN=alice", new_key(), **LONG) for _ in range(2))
    mine, namesake = alone(**LONG), alone(**LONG)
    renewed = alone(key=mine.key, **LONG)
    for cert in (leaf, mine):
        assert reason_of(cert) == "untrusted_issuer"
        assert reason_of(cert, pin(cert)) == "matched"
    for other in (sibling, namesake, renewed):
        assert reason_of(other, pin(leaf), pin(mine)) == "untrusted_issuer"
    assert reason_of(renewed, pin(mine), pin(renewed)) == "matched"


def test_a_pin_signs_nothing() -> None:
    """Whatever its basic constraints say, and anyone who has verified a path up to it."""
    mine = alone(ca=True, **LONG)
    child = sign(mine, "CN=alice", new_key(), **LONG)
    assert reason_of(mine) == "untrusted_issuer"
    assert reason_of(mine, pin(mine)) == "matched"
    for chain in (None, [mine]):
        assert reason_of(child, pin(mine), chain=chain) == "untrusted_issuer"
    assert reason_of(child, pin(mine), authority_line(mine), chain=[mine]) == "matched"
    assert reason_of(mine, authority_line(mine)) == "untrusted_issuer"
    assert reason_of(mine, authority_line(mine), pin(mine)) == "matched"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"begin": BEGIN, "end": days(-1)}, "expired"),
        ({"begin": days(400), "end": END}, "not_yet_valid"),
        ({**LONG, "eku": (SERVER,)}, "key_usage"),
        ({**LONG, "more": [usage(key_cert_sign=True)], "ca": True}, "key_usage"),
    ],
)
def test_a_pin_forgives_nothing_of_the_certificate_itself(
    options: dict[str, Any], wanted: str
) -> None:
    """Times and usage hold as for everybody, by a clock of 2027."""
    cert = alone(**options)
    assert reason_of(cert, pin(cert)) == wanted


def test_what_a_pinned_certificate_may_not_do_is_said_of_it() -> None:
    """That it is a CA is not a fault of it."""
    signs = alone(ca=True, more=[usage(key_cert_sign=True)], **LONG)
    told = [decide(policy(enforced(*lines)), signs.der, None) for lines in ([pin(signs)], [])]
    assert told[0].detail == "its key usage has not digitalSignature"
    assert told[1].reason == "untrusted_issuer"


def test_what_is_pinned_can_be_revoked() -> None:
    """By its key and its hash; by its serial number where its issuer is known, as it is itself."""
    by = long_root("CN=CA")
    mine, leaf = alone(**LONG), sign(by, "CN=alice", new_key(), **LONG)
    for cert in (mine, leaf):
        for line in (f"key {cert.key_id}", f"cert {cert.fingerprint}"):
            assert reason_of(cert, pin(cert), f"revoke {line}") == "revoked"
    own = f"revoke serial {mine.key_id} {mine.serial}"
    assert reason_of(mine, pin(mine), own) == "revoked"
    other = alone(**LONG)
    assert reason_of(other, pin(other), own) == "matched"
    serial = f"revoke serial {by.key_id} {leaf.serial}"
    assert reason_of(leaf, pin(leaf), serial) == "matched"
    known = [pin(leaf), authority_line(by, "anchor"), serial]
    assert reason_of(leaf, *known) == "revoked"
    assert reason_of(leaf, *known, chain=[by]) == "revoked"
    dead = [pin(leaf), authority_line(by, "anchor"), f"revoke key {by.key_id}"]
    assert reason_of(leaf, *dead) == "ca_revoked"


def test_no_ca_ends_what_is_pinned() -> None:
    """Its session lasts as long as itself, and longer than a CA that is known."""
    by = root("CN=CA", not_before=BEGIN, not_after=days(-1))
    leaf = sign(by, "CN=alice", new_key(), **LONG)
    lines = policy(enforced(pin(leaf), authority_line(by)))
    told = decide(lines, leaf.der, [by.der])
    assert (told.reason, told.until) == ("matched", int(END.timestamp()))
    assert reason_of(leaf, authority_line(by), chain=[by]) == "ca_expired"


def test_of_a_pinned_certificate_the_ca_counts_where_it_is_known() -> None:
    """`ca=` of a binding asks for it."""
    by = long_root("CN=CA")
    leaf = sign(by, "CN=bob", new_key(), **LONG)
    bind = f"bind cn bob alice ca={by.key_id}"
    assert reason_of(leaf, pin(leaf), bind) == "no_binding"
    assert reason_of(leaf, pin(leaf), authority_line(by, "anchor"), bind) == "matched"


def test_a_pin_comes_and_goes_with_a_change() -> None:
    """A change that is only asked about counts as if it had been made."""
    mine = alone(**LONG)
    lines = policy(enforced())
    come = patch(lines, [f"+{pin(mine)}"])
    assert decide(lines, mine.der, None, pending=come).reason == "matched"
    held = policy(enforced(pin(mine)))
    gone = patch(held, [f"-{pin(mine)}"])
    assert decide(held, mine.der, None, pending=gone).reason == "untrusted_issuer"


def test_the_gate_and_the_bindings_hold_for_what_is_pinned() -> None:
    """To be trusted is not to be somebody."""
    mine = alone("CN=carol", **LONG)
    assert reason_of(mine, pin(mine)) == "no_binding"
    lines = [pin(mine), "bind cn carol alice", "set gate san_cn", "allow CN=alice"]
    assert reason_of(mine, *lines) == "gate"
    assert reason_of(mine, *lines, "allow CN=carol") == "matched"


def test_explain_says_that_it_is_pinned() -> None:
    """By which line, and what would have to be added."""
    mine = alone(**LONG)
    told = Policy(enforced(pin(mine))).decide(pem(mine.der), now=NOW)
    assert told.reason == "matched"
    assert "path: none is needed, a `pin` line holds this certificate" in told.trace
    assert "it is pinned, no matter who issued it" in told.trace
    line = f"by the `pin` line of the certificate with SHA-256 {mine.fingerprint}"
    assert line in told.trace
    told = Policy(enforced()).decide(pem(mine.der), now=NOW)
    assert told.reason == "untrusted_issuer"
    assert told.trace[-1].endswith("or a `pin` line for it alone")


def test_attack_a_weak_key_that_is_pinned() -> None:
    """The REST API takes any certificate in its handshake: it asks what a server's would."""
    for key, wanted in ((rsa_key(1024, 7), "weak"), (rsa_key(2048, 7), "matched")):
        mine = alone(key=key, **LONG)
        for more in ([], [authority_line(long_root("CN=CA"))]):
            under = Policy(enforced(pin(mine), *more))
            assert under.decide(pem(mine.der), now=NOW, own=True).reason == wanted
        told = Policy(enforced()).decide(pem(mine.der), now=NOW, own=True)
        assert told.reason == "untrusted_issuer"


# ---- Paths without a root ------------------------------------------------------------------------


def test_a_path_without_its_root_goes_as_high_as_it_can() -> None:
    """To what the policy has highest, which may be what admits it."""
    top = long_root("CN=Top")
    high = intermediate(top, "CN=High")
    low = intermediate(high, "CN=Low")
    leaf = sign(low, "CN=alice", new_key(), **LONG)
    both = [authority_line(high), authority_line(low, "anchor")]
    assert reason_of(leaf, *both) == "matched"
    assert reason_of(leaf, authority_line(low, "anchor")) == "untrusted_issuer"
    assert reason_of(leaf, *both, f"revoke serial {high.key_id} {low.serial}") == "ca_revoked"


def test_attack_a_partial_path_is_not_remembered() -> None:
    """Once the root is known, what it has revoked is out, on resumed sessions as well."""
    top = long_root("CN=Top")
    middle = intermediate(top, "CN=Of a root that comes later")
    leaf = sign(middle, "CN=alice", new_key(), **LONG)
    before = enforced(authority_line(middle))
    assert decide(policy(before), leaf.der, [middle.der]).reason == "matched"
    assert resumed(policy(before), leaf.der) == "matched"
    known = [*before, authority_line(top, "anchor")]
    assert resumed(policy(known), leaf.der) == "matched"
    revoked = [*known, f"revoke serial {top.key_id} {middle.serial}"]
    assert resumed(policy(revoked), leaf.der) == "ca_revoked"


# ---- On servers ----------------------------------------------------------------------------------


def managed(start: Start, kind: Server, *lines: str, **options: Any) -> Node:
    """A node whose handshakes trust nobody's clients but whom the policy names."""
    node = make_node(start, kind, trust=[], **options)
    if "cluster-enabled yes" in options.get("config", ()):
        # While it is down, Redis 7.0 tells who waits for the journal so, instead of the answer.
        node.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "state:ok" in str(node.call("CLUSTER", "INFO")), "the cluster is up")
    folder = Path(node.server.directory) / "certauth" / "ca"
    node.admin.config_set("tls-ca-cert-dir", str(folder))
    node.load(enforced(*lines))
    return node


def refused_by_handshake(node: Node, cert: Cert, version: str | None = None) -> str:
    """The reason that the handshake has."""
    prefix, before = "handshakes_refused_", node.counters()
    assert node.outcome(peer=node.server.tls(cert, version)) == HANDSHAKE
    after = node.counters()
    names = [name for name in after if name.startswith(prefix)]
    moved = [name.removeprefix(prefix) for name in names if after[name] != before[name]]
    assert len(moved) == 1, moved
    return moved[0]


def verdict(node: Node, cert: Cert) -> tuple[str, str]:
    told = node.explain(cert.presented or cert.pem, "127.0.0.1")
    return told["decision"], told["reason"]


def comes_in(node: Node, cert: Cert, version: str | None = None) -> bool:
    """As alice, and explain says so."""
    outcome = node.outcome(peer=node.server.tls(cert, version))
    return (outcome, verdict(node, cert)) == (LOGIN, ("login", "matched"))


VERSIONS = ("TLSv1_2", "TLSv1_3")


def test_a_pinned_certificate_logs_in_and_nobody_else(server_kind: Server, start: Start) -> None:
    """Signed by itself, with and without CA:TRUE, or by a CA that nobody knows, whether the client
    sends that or not; in both versions of TLS, on io-threads. Not so its namesakes, siblings,
    renewals and children."""
    unknown = root("CN=Unknown")
    middle = unknown.authority("CN=Between")
    pinned = {
        "alone": alone(),
        "alone, CA:TRUE": alone(ca=True),
        "of RSA": alone(key=rsa_key(2048, 7)),
        "of a stranger": unknown.issue("CN=alice"),
        "of a stranger's CA": middle.issue("CN=alice"),
        "with its chain": middle.issue("CN=alice"),
    }
    sent = pinned["with its chain"]
    pinned["of a stranger's CA"] = Cert(
        pinned["of a stranger's CA"].certificate, pinned["of a stranger's CA"].key
    )
    node = managed(start, server_kind, *map(pin, pinned.values()), io_threads=4)
    others = {
        "namesake": alone(),
        "renewed": alone(key=pinned["alone"].key),
        "sibling": unknown.issue("CN=alice"),
        "cousin": middle.issue("CN=alice"),
        "child": pinned["alone, CA:TRUE"].issue("CN=alice"),
        "the CA": sent.above[0],
    }
    for version in VERSIONS:
        assert [name for name, one in pinned.items() if not comes_in(node, one, version)] == []
        found = {name: refused_by_handshake(node, one, version) for name, one in others.items()}
        assert found == dict.fromkeys(others, "untrusted_issuer")
    assert {verdict(node, one) for one in others.values()} == {("refuse", "untrusted_issuer")}
    assert pairs(node.call("CERTAUTH.POLICY", "STATUS"))["untaken"] == ""
    assert list((Path(node.server.directory) / "certauth" / "ca").iterdir()) == []


def test_a_pinned_certificate_that_is_no_good(server_kind: Server, start: Start) -> None:
    """Expired, not valid yet, for servers, too weak: the handshake refuses it, with the reason."""
    bad = {
        "expired": alone(begin=days(-9), end=days(-1)),
        "not_yet_valid": alone(begin=days(1), end=days(9)),
        "key_usage": alone(eku=(SERVER,)),
        "weak": alone(key=rsa_key(1024, 7)),
    }
    node = managed(start, server_kind, *map(pin, bad.values()))
    comes_in(node, alone())
    for reason, cert in bad.items():
        if reason != "weak":  # which no client of Python's loads
            assert refused_by_handshake(node, cert) == reason
        assert verdict(node, cert) == ("refuse", reason)


def test_what_is_pinned_is_revoked_and_renewed(server_kind: Server, start: Start) -> None:
    """A `revoke` line closes its session; so does the removal of its line; a renewal comes in
    beside it without an interruption."""
    mine = alone()
    renewed = alone(key=mine.key)
    node = managed(start, server_kind, pin(mine))
    with node.connect(mine) as first:
        client_id(first)
        node.patch(f"+{pin(renewed)}")
        with node.connect(renewed) as second:
            client_id(second)
            assert node.patch(f"-{pin(mine)}")["closed"] == 1
            assert closed(first)
            client_id(second)
            assert refused_by_handshake(node, mine) == "untrusted_issuer"
            revoked = f"revoke serial {renewed.key_id} {renewed.serial}"
            assert node.patch(f"+{revoked}")["closed"] == 1
            assert closed(second)
    assert node.outcome(renewed) == refuse("revoked")
    assert verdict(node, renewed) == ("refuse", "revoked")


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Connections that stay open: both sides forget a session of TLS 1.2 that breaks off."""
    with ExitStack() as stack:
        yield stack


def test_resumed_sessions_of_what_is_pinned(
    server_kind: Server, start: Start, held: ExitStack
) -> None:
    """They are who they were, and nobody once the line has gone; a path without its root too."""
    mine, middle = alone(), root("CN=Top").authority("CN=Middle")
    below = middle.issue("CN=alice")
    lines = {mine: pin(mine), below: authority_line(middle)}
    node = managed(start, server_kind, *lines.values(), io_threads=4)
    for version in VERSIONS:
        for cert, line in lines.items():
            peer = node.server.tls(cert, version)
            first = held.enter_context(peer.connect())
            client_id(first)
            session: ssl.SSLSession = first.session
            assert node.outcome(peer=peer, session=session, held=held) == LOGIN
            node.patch(f"-{line}")
            if cert is mine:
                again = node.outcome(peer=peer, session=session)
                assert again == refuse("untrusted_issuer")
            # The server has read its trust store again where a CA has gone: nothing is resumed.
            assert node.outcome(peer=peer) == HANDSHAKE
            node.patch(f"+{line}")


def test_an_intermediate_alone_admits_its_own(server_kind: Server, start: Start) -> None:
    """Below a root that is nowhere: its leaves and those of CAs below it, not the root's other
    children, nor itself; an anchor alone admits nobody."""
    top = root("CN=Top")
    middle, other = top.authority("CN=Middle"), top.authority("CN=Other")
    below = middle.authority("CN=Below")
    good = {"leaf": middle.issue("CN=alice"), "deep": below.issue("CN=alice")}
    bad = {"other": other.issue("CN=alice"), "direct": top.issue("CN=alice"), "itself": middle}
    node = managed(start, server_kind, authority_line(middle), io_threads=4)
    for version in VERSIONS:
        assert [name for name, one in good.items() if not comes_in(node, one, version)] == []
        found = {name: refused_by_handshake(node, one, version) for name, one in bad.items()}
        assert found == dict.fromkeys(bad, "untrusted_issuer")
    assert {verdict(node, one) for one in bad.values()} == {("refuse", "untrusted_issuer")}
    node.patch(f"-{authority_line(middle)}", f"+{authority_line(middle, 'anchor')}")
    for one in good.values():
        assert refused_by_handshake(node, one) == "untrusted_issuer"
        assert verdict(node, one) == ("refuse", "untrusted_issuer")


def test_an_intermediate_alone_ends_as_every_ca(server_kind: Server, start: Start) -> None:
    """By time, by revocation, with its line; a root that is known counts again."""
    top = root("CN=Top", not_before=days(-9), not_after=days(-1))
    middle = top.authority("CN=Middle")
    ended = top.authority("CN=Ended", not_before=days(-9), not_after=days(-1))
    leaf, late = middle.issue("CN=alice"), ended.issue("CN=alice")
    node = managed(start, server_kind, authority_line(middle), authority_line(ended))
    assert comes_in(node, leaf)
    assert refused_by_handshake(node, late) == "ca_expired"
    assert verdict(node, late) == ("refuse", "ca_expired")
    with node.connect(leaf) as connection:
        client_id(connection)
        assert node.patch(f"+revoke key {middle.key_id}")["closed"] == 1
        assert closed(connection)
    assert node.outcome(leaf) == refuse("ca_revoked")
    node.patch(f"-revoke key {middle.key_id}", f"+{authority_line(top, 'anchor')}")
    assert refused_by_handshake(node, leaf) == "ca_expired"
    assert verdict(node, leaf) == ("refuse", "ca_expired")
    node.patch(f"-{authority_line(top, 'anchor')}")
    with node.connect(leaf) as connection:
        client_id(connection)
        assert node.patch(f"-{authority_line(middle)}")["closed"] == 1
        assert closed(connection)
    assert refused_by_handshake(node, leaf) == "untrusted_issuer"


def test_what_is_pinned_is_trusted_from_the_first_client_on(
    server_kind: Server, start: Start
) -> None:
    """Behind a restart, by the journal."""
    mine, middle = alone(), root("CN=Top").authority("CN=Middle")
    node = managed(start, server_kind, pin(mine), authority_line(middle))
    node.server.stop()
    folder = Path(node.server.directory) / "certauth" / "ca"
    node.server.config.append(f"tls-ca-cert-dir {folder}")
    node.server.start()
    for cert in (mine, middle.issue("CN=alice")):
        with node.connect(cert) as connection:
            assert connection.command("ACL", "WHOAMI") == b"alice"
    assert refused_by_handshake(node, alone()) == "untrusted_issuer"


# ---- Other doors, other servers ------------------------------------------------------------------


def test_attack_no_pin_opens_the_bus(server_kind: Server, start: Start, pki: Pki) -> None:
    """Where the doors of nodes are open or guarded: what is pinned is for the clients' door, and so
    is an intermediate without its root."""
    port = free_port()
    config = ["cluster-enabled yes", "tls-cluster yes", f"cluster-port {port}"]
    node = managed(start, server_kind, config=config)
    mine, middle = alone(), root("CN=Top").authority("CN=Middle")
    below = middle.issue("CN=alice")

    def bus_takes(cert: Cert) -> bool:
        peer = node.server.tls(cert, "TLSv1_2")
        peer.address = ("127.0.0.1", port)
        try:
            peer.connect().close()
        except OSError:
            return False
        return True

    node.patch(f"+{pin(mine)}", f"+{authority_line(middle)}")
    for enforce in ("on", "off"):
        if enforce == "off":
            node.patch("-set enforce on", "+set internal-trust allow")
        assert pairs(node.call("CERTAUTH.POLICY", "STATUS"))["trust"] == "managed"
        for cert in (mine, below):
            with node.connect(cert) as connection:
                client_id(connection)
            assert not bus_takes(cert)
    assert bus_takes(node.server.pki.server)


UNMANAGED = (
    "the TLS handshake takes no pin line (/CN=alice), and no ca line without its root "
    "(/CN=Middle): not managed: tls-ca-cert-dir is ''"
)


def test_a_server_that_takes_none_says_so(server_kind: Server, start: Start, pki: Pki) -> None:
    """Where trust is not managed: in the reply to the change, in STATUS, in the log and in explain;
    nothing of it where the server's own files have the root, or where trust is managed."""
    mine, middle = alone(), root("CN=Top").authority("CN=Middle")
    below, rooted = middle.issue("CN=alice"), pki.ca.authority("CN=Rooted")
    node = make_node(start, server_kind, *enforced(authority_line(rooted)), pki=pki)
    status = lambda: pairs(node.call("CERTAUTH.POLICY", "STATUS"))["untaken"]  # noqa: E731
    assert node.outcome(rooted.issue("CN=alice")) == LOGIN
    assert "untaken" not in node.patch("+bind cn x alice")
    reply = node.patch(f"+{pin(mine)}", f"+{authority_line(middle)}")
    assert reply["untaken"] == status() == UNMANAGED
    entries = [pairs(one) for one in pairs(node.call("CERTAUTH.LOG"))["entries"]]
    assert [one["detail"] for one in entries if one["event"] == "trust"] == [UNMANAGED]
    for cert in (mine, below):
        assert refused_by_handshake(node, cert) == "untrusted_issuer"
        told = node.explain(cert.presented or cert.pem)
        assert told["reason"] == "untrusted_issuer"
        assert "where trust is managed" in told["trace"][-1]
    folder = Path(node.server.directory) / "certauth" / "ca"
    node.admin.config_set("tls-ca-cert-dir", str(folder))
    wait_until(lambda: status() == "", "it is taken")
    assert comes_in(node, mine)
    assert comes_in(node, below)


def test_a_server_that_nobody_answers_for_says_so(
    installed: Server, start: Start, pki: Pki
) -> None:
    """With `certificates api` the module sees no handshake, so that nobody takes what is pinned."""
    mine = alone()
    node = managed(start, installed, pin(mine), pki=pki, module=["certificates", "api"])
    told = pairs(node.call("CERTAUTH.POLICY", "STATUS"))
    assert told["untaken"] == (
        "the TLS handshake takes no pin line (/CN=alice): with certificates api nobody answers it"
    )
    assert node.outcome(mine) == HANDSHAKE


def test_a_policy_that_is_not_enforced_takes_what_is_pinned(
    installed: Server, start: Start
) -> None:
    """As its CAs; the client is then what it would be without a policy."""
    mine, middle = alone(), root("CN=Top").authority("CN=Middle")
    node = managed(start, installed)
    node.load(["set enforce shadow", pin(mine), authority_line(middle)])
    for cert in (mine, middle.issue("CN=alice")):
        with node.connect(cert) as connection:
            assert connection.command("ACL", "WHOAMI") == b"default"
    assert refused_by_handshake(node, alone()) == "untrusted_issuer"
