"""Demands on certificates on real servers: who comes in, who stays, and what was foretold."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kit.certs import authority_line
from tests.kit.node import bootstrap, show
from tests.kit.peers import REPLICA, linked, node_cert, peer_node, strict
from tests.kit.policies import (
    CLOSED,
    LOGIN,
    Node,
    Start,
    client_id,
    closed,
    make_node,
    pairs,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import CLIENT, Cert, Pki, TlsConnection, days

GOLD = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
EMAIL = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.4")
ALICE = "CN=alice,OU=eng,O=acme"


def good(pki: Pki) -> Cert:
    """What meets all of DEMANDS."""
    asserted = x509.CertificatePolicies([x509.PolicyInformation(GOLD, None)])
    return pki.ca.issue(
        ALICE, eku=(CLIENT, EMAIL), key=ec.generate_private_key(ec.SECP384R1()),
        extensions=[(asserted, False)], not_before=days(-1), not_after=days(1),
    )  # fmt: skip


# Line → reason of those that lack it: alice's usual certificate, over TLS 1.2.
DEMANDS = {
    "set max-lifetime 2d": "lifetime",
    "set require-eku clientAuth,emailProtection": "required_eku",
    "set require-policy 1.3.6.1.4.1.99999.1": "required_policy",
    "set min-key-bits 4096": "key_too_small",
    "set min-tls 1.3": "tls_version",
}


def events(node: Node) -> list[dict[str, Any]]:
    """What CERTAUTH.LOG holds, the oldest first."""
    return [pairs(one) for one in pairs(node.call("CERTAUTH.LOG"))["entries"]]


def text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def foretold(node: Node, *lines: str) -> dict[int, dict[str, Any]]:
    """What would become of each session."""
    reply = pairs(node.call("CERTAUTH.SESSIONS", "LINES", *lines))
    return {one["id"]: one for one in map(pairs, reply["sessions"])}


def test_a_demand_lets_in_what_meets_it(server_kind: Server, start: Start, pki: Pki) -> None:
    """And refuses by name what does not, in INFO, in ACL LOG and in CERTAUTH.LOG; explain, asked
    about that connection, says the same. Without the line both are let in."""
    node, best, usual = make_node(start, server_kind, *policy_of(pki)), good(pki), pki.alice
    for line, reason in DEMANDS.items():
        old = node.server.tls(usual, "TLSv1_2")
        assert node.outcome(usual, old) == LOGIN, line
        node.patch(f"+{line}")
        assert node.outcome(best, node.server.tls(best, "TLSv1_3")) == LOGIN, line
        assert node.outcome(usual, old) == refuse(reason), line
        assert (events(node)[-1]["event"], events(node)[-1]["reason"]) == ("refused", reason)
        told = node.explain(usual.pem, "127.0.0.1", "TLS", "1.2")
        assert (text(told["decision"]), text(told["reason"])) == ("refuse", reason)
        told = node.explain(best.pem, "TLS", "1.3")
        assert (text(told["decision"]), text(told["user"])) == ("login", "alice")
        node.patch(f"-{line}")


def test_explain_is_told_of_a_connection(installed: Server, start: Start, pki: Pki) -> None:
    """Or says that it was not; what is not a version is refused with what to write."""
    node = make_node(start, installed, *policy_of(pki, "set min-tls 1.3"))
    for words in ((), ("127.0.0.1",)):
        told = node.explain(pki.alice.pem, *words)
        assert text(told["decision"]) == "login"
        assert "not known here is whether the TLS version of its connection is new enough" in [
            text(one) for one in told["trace"]
        ]
    for bad in (("TLS", "1.1"), ("tsl", "1.2"), ("127.0.0.1", "TLS", "")):
        with pytest.raises(redis.ResponseError, match="stands TLS 1.2 or TLS 1.3"):
            node.explain(pki.alice.pem, *bad)
    with pytest.raises(redis.ResponseError, match="not an IP address"):
        node.explain(pki.alice.pem, "TLS")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        node.explain(pki.alice.pem, "127.0.0.1", "TLS", "1.2", "x")


def enter(node: Node, stack: ExitStack, cert: Cert, version: str) -> TlsConnection:
    return stack.enter_context(node.server.tls(cert, version).connect())


def test_a_demand_that_comes_ends_the_sessions_that_lack_it(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Those, and no other; as was foretold, and with their reason in the log. Who comes back on a
    resumed TLS session is refused as well."""
    node, best = make_node(start, server_kind, *policy_of(pki)), good(pki)
    for line, reason in DEMANDS.items():
        with ExitStack() as stack:
            old = node.server.tls(pki.alice, "TLSv1_2")
            bad = stack.enter_context(old.connect())
            stays = enter(node, stack, best, "TLSv1_3")
            plain = stack.enter_context(node.connect())
            ids = {name: client_id(one) for name, one in
                   {"bad": bad, "stays": stays, "plain": plain}.items()}  # fmt: skip
            session = bad.socket.session
            told = foretold(node, f"+{line}")
            assert [told[ids[name]]["stays"] for name in ids] == [0, 1, 1], line
            assert told[ids["bad"]]["then_reason"] == reason
            assert node.patch(f"+{line}")["closed"] == 1, line
            assert closed(bad)
            assert [client_id(stays), client_id(plain)] == [ids["stays"], ids["plain"]], line
            ended = [one for one in events(node) if one["client"] == ids["bad"]][-1]
            assert (ended["event"], ended["reason"]) == ("closed", reason), line
            with suppress(*CLOSED), old.connect(session) as again:
                assert again.resumed
                whoami(again)
                raise AssertionError(line)
            assert events(node)[-1]["reason"] == reason
        node.patch(f"-{line}")


def test_a_demand_concerns_neither_peers_nor_administrators(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Their sessions go on, and they come in again, over TLS 1.2; so the one takes the demand back.
    A person with the same certificate as a peer has would be refused."""
    keeper, peer = pki.ca.issue("CN=keeper"), pki.ca.issue("CN=peer")
    lines = [authority_line(pki.ca), f"bind key {keeper.key_id} keeper"]
    file = bootstrap(tmp_path, *lines, "user keeper on ~* &* +@all")[2:]
    bound = f"bind key {peer.key_id} certauth-peer-one"
    user = "user certauth-peer-one on ~* +@all"
    node = make_node(start, server_kind, *policy_of(pki, bound, user), module=file)
    demands = [f"+{line}" for line in DEMANDS]
    with ExitStack() as stack:
        live = [enter(node, stack, one, "TLSv1_2") for one in (keeper, peer, pki.alice)]
        ids = [client_id(one) for one in live]
        told = foretold(node, *demands)
        assert [told[one]["stays"] for one in ids] == [1, 1, 0]
        assert node.patch(*demands)["closed"] == 1
        assert closed(live[2])
        assert [client_id(one) for one in live[:2]] == ids[:2]
    with node.server.tls(peer, "TLSv1_2").connect() as again:
        assert whoami(again)["user"] == "certauth-peer-one"
    node.patch(f"-{bound}", f"+{bound.replace('certauth-peer-one', 'alice')}")
    assert node.outcome(peer, node.server.tls(peer, "TLSv1_2")) == refuse("lifetime")
    with node.server.tls(keeper, "TLSv1_2").connect() as admin:
        gone = [f"-{line}" for line in DEMANDS]
        number = str(node.generation)
        admin.command("CERTAUTH.POLICY", "PATCH", number, str(node.generation + 1), "LINES", *gone)
    assert node.outcome(pki.alice) == LOGIN


def test_a_demand_does_not_cut_replication(server_kind: Server, start: Start, pki: Pki) -> None:
    """A replica bound by the bootstrap file, whose certificate meets none of the demands: its link
    stays, and comes back after it was cut."""
    cert = node_cert(pki)
    lines = strict(pki, *DEMANDS)
    master = peer_node(start, server_kind, pki, {REPLICA: cert}, lines=lines)
    replica = peer_node(
        start, server_kind, pki, {REPLICA: cert}, f"replicaof 127.0.0.1 {master.server.port}"
    )
    linked(replica)
    master.call("CLIENT", "KILL", "TYPE", "replica")
    linked(replica)
    with pytest.raises(CLOSED), master.connect(pki.alice) as refused:
        whoami(refused)


def test_who_would_lock_itself_out_by_a_demand_is_told(
    installed: Server, start: Start, pki: Pki
) -> None:
    """LOCKOUT, for the preview and the change alike; with FORCE it is done."""
    node = make_node(start, installed, *policy_of(pki))
    with node.connect(pki.alice) as alice:
        for words in (("SESSIONS",), ("POLICY", "PATCH", "1", "2")):
            with pytest.raises(redis.ResponseError, match="LOCKOUT"):
                alice.command(f"CERTAUTH.{words[0]}", *words[1:], "LINES", "+set max-lifetime 2d")
        words = ("CERTAUTH.POLICY", "PATCH", "1", "2", "FORCE", "LINES", "+set max-lifetime 2d")
        assert pairs(alice.command(*words))["closed"] == 1
        assert closed(alice)


def test_a_version_that_nobody_can_tell_is_too_old(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Where certificates come through the server; the other demands are asked as ever."""
    node = make_node(start, server_kind, *policy_of(pki), module=["certificates", "api"])
    assert node.outcome(pki.alice) == LOGIN
    node.patch("+set min-tls 1.2")
    assert node.outcome(pki.alice) == refuse("tls_version")
    node.patch("-set min-tls 1.2", "+set min-key-bits 3072", "+set require-eku clientAuth")
    assert node.outcome(pki.alice) == LOGIN
    node.patch("-set min-key-bits 3072", "+set min-key-bits 3073")
    assert node.outcome(pki.alice) == refuse("key_too_small")


def test_a_demand_survives_a_restart(server_kind: Server, start: Start, pki: Pki) -> None:
    """The journal has it, with names and times in one spelling."""
    node = make_node(start, server_kind, *policy_of(pki), "set require-eku emailProtection",
                     "set max-lifetime 48h", "set min-tls 1.3")  # fmt: skip
    node.server.stop()
    node.server.start()
    shown = set(show(node.admin))
    assert shown > {"set require-eku 1.3.6.1.5.5.7.3.4", "set max-lifetime 2d", "set min-tls 1.3"}
    assert node.outcome(pki.alice) == refuse("lifetime")
    assert node.outcome(good(pki)) == LOGIN


def test_shadow_says_what_a_demand_would_do(installed: Server, start: Start, pki: Pki) -> None:
    """Nobody is refused for it."""
    lines = [line.replace("enforce on", "enforce shadow") for line in policy_of(pki)]
    node = make_node(start, installed, *lines, "set max-lifetime 2d")
    with node.connect(pki.alice) as alice:
        assert whoami(alice)["reason"] == "lifetime"
    assert events(node)[-1]["event"] == "would-refuse"
