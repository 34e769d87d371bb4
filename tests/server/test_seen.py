"""Whom the TLS handshake refuses, before the module is asked: each leaves its reason in
CERTAUTH.LOG and INFO, nobody floods them, and no verdict is another one for being seen."""

import socket
import ssl
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

import pytest
from cryptography import x509

from tests.kit.chains import Shown, table
from tests.kit.node import mapping
from tests.kit.policies import LOGIN, Node, Start, make_node, pairs, policy_of
from tests.kit.presented import COUNTED, chains_node, peer, shake, sources, told_of, without
from tests.kit.servers import Server
from tests.kit.storm import resident
from tests.kit.support import SERVER, Cert, Pki, TlsPeer, days, root, wait_until

VERSIONS = ["TLSv1_2", "TLSv1_3"]


def seen(node: Node, since: int = 0) -> list[dict[str, Any]]:
    """What CERTAUTH.LOG holds of handshakes, oldest first."""
    told = mapping(node.call("CERTAUTH.LOG", "SINCE", since, "COUNT", 1000))
    entries = [mapping(one) for one in told["entries"]]
    return [one for one in entries if one["event"] == "handshake"]


def counted(node: Node) -> dict[str, int]:
    """Handshakes that failed, by reason; `broken` are those of no client."""
    found = {name.removeprefix(COUNTED): value for name, value in node.counters().items()
             if name.startswith(COUNTED) and value}  # fmt: skip
    return found | {"broken": node.counters()["handshakes_broken"]}


def knock(node: Node, sent: bytes) -> None:
    """Sends these bytes, and nothing more, to the server's TLS port."""
    plain = socket.create_connection(("127.0.0.1", node.server.port), 10)
    with suppress(OSError), closing(plain):
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(999):
            pass


def told(node: Node, number: int) -> None:
    wait_until(lambda: len(seen(node)) >= number, f"{number} handshakes are told of")


def counts(node: Node, **expected: int) -> None:
    wait_until(lambda: counted(node) == {"broken": 0} | expected, f"counted are {expected}")


def text(name: x509.Name) -> str:
    return name.rfc4514_string()


def kinds(pki: Pki) -> dict[str, tuple[Cert, str]]:
    """Certificates, and the reasons that the handshake refuses them for."""
    gone = pki.ca.authority("CN=Gone", not_before=days(-9), not_after=days(-1))
    return {
        "ended": (pki.ca.issue("CN=a", not_before=days(-9), not_after=days(-1)), "expired"),
        "future": (pki.ca.issue("CN=b", not_before=days(1)), "not_yet_valid"),
        "stranger": (root("CN=Stranger").issue("CN=c"), "untrusted_issuer"),
        "server": (pki.ca.issue("CN=d", eku=(SERVER,)), "key_usage"),
        "below": (gone.issue("CN=e"), "ca_expired"),
    }


@pytest.mark.parametrize("io_threads", [1, 4])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal_in_the_handshake_leaves_a_trace(
    server_kind: Server, start: Start, pki: Pki, version: str, io_threads: int
) -> None:
    """Its reason, what libcrypto says, who it was and from where; in the server's log too, beside
    the server's own line. Who comes in is in none of it."""
    config: Any = {"io_threads": io_threads, "tls_auth_clients": "yes"}
    node = make_node(start, server_kind, *policy_of(pki), **config)
    expected = dict[str, int]()
    for cert, reason in kinds(pki).values():
        before = len(seen(node))
        shake(node.server.tls(cert, version))
        told(node, before + 1)
        entry = seen(node)[-1]
        assert (entry["reason"], entry["address"], entry["user"]) == (reason, "127.0.0.1", "")
        assert (entry["subject"], entry["door"], entry["client"]) == (
            text(cert.certificate.subject), None, 0,
        )  # fmt: skip
        assert entry["issuer"] == text(cert.certificate.issuer)
        assert entry["serial"] == cert.serial
        assert (entry["cert"], entry["key"]) == (cert.fingerprint, cert.key_id)
        vouched = reason in ("expired", "not_yet_valid")
        assert entry["ca"] == (pki.ca.key_id if vouched else None)
        assert entry["detail"].endswith(f"at depth {int(reason == 'ca_expired')}") or (
            reason == "untrusted_issuer"
        )
        assert entry["port"] > 0
        expected[reason] = 1
        assert counted(node) == expected | {"broken": 0}
    shake(without(node, version))
    expected["no_certificate"] = 1
    counts(node, **expected)
    assert (seen(node)[-1]["reason"], seen(node)[-1]["subject"]) == ("no_certificate", "")
    line = "127.0.0.1:%s, has failed: expired (certificate has expired, at depth 0; subject CN=a, "
    assert line % seen(node)[0]["port"] in node.server.log
    assert node.server.log.count("Error accepting a client connection") >= len(expected)
    before = len(seen(node))
    assert node.outcome(pki.alice) == LOGIN
    assert len(seen(node)) == before
    assert node.counters()["refused"] == 0


# ---- What explain says ---------------------------------------------------------------------------


def untold(node: Node, shown: Sequence[Shown]) -> dict[str, str]:
    """Where explain says that the handshake refuses, and the server's log and counters do not say
    the same of it."""
    found, last = {}, 0
    for one, source in zip(shown, sources(), strict=False):
        with suppress(ssl.SSLError):
            client, before = peer(node, one), counted(node)
            decision, reason, _, first = told_of(node, one)
            if decision != "refuse" or not first.startswith("the TLS handshake "):
                continue
            if first.startswith("the TLS handshake takes"):
                reason = ""
            shake(client, source)
            moved = {name for name, value in counted(node).items() if value != before.get(name, 0)}
            entries = [(e["reason"], e["address"]) for e in seen(node, last)]
            last = pairs(node.call("CERTAUTH.LOG", "SINCE", 0, "COUNT", 1))["last"]
            expected = [(reason, source)] if reason else []
            if entries != expected or moved != {name for name, _ in expected}:
                found[one.name] = f"explain {reason or 'takes it'}, log {entries}, counters {moved}"
    return found


@pytest.mark.parametrize("managed", [False, True], ids=["file", "managed"])
def test_what_explain_says_of_a_handshake_stands_in_the_log(
    installed: Server, start: Start, managed: bool
) -> None:
    """Every fifth kind of chain: the same reason, with the address; nothing of whom the handshake
    lets through."""
    made = table()
    node = chains_node(start, installed, made, managed)
    assert untold(node, made.shown[::5]) == {}
    assert len(counted(node)) > 5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("managed", [False, True], ids=["file", "managed"])
def test_what_explain_says_of_each_handshake_stands_in_the_log(
    server_kind: Server, start: Start, managed: bool
) -> None:
    """All kinds, on each server."""
    made = table()
    node = chains_node(start, server_kind, made, managed)
    assert untold(node, made.shown) == {}
    assert len(counted(node)) > 8


# ---- Who is not a client, and who has the fault on our side --------------------------------------


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_who_is_no_client_is_counted_and_not_told(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Port scanners, health checks, HTTP, another TLS version, a hello and then nothing, a client
    that shows a certificate and hangs up. Whom the server does not ask for one comes in."""
    node = make_node(start, server_kind, *policy_of(pki))
    hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
    for broken, sent in enumerate([b"", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 600, hello], 1):
        knock(node, sent)
        counts(node, broken=broken)
    old = without(node, "TLSv1_2")
    old.context.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.context.minimum_version = old.context.maximum_version = ssl.TLSVersion.TLSv1_1
    shake(old)
    counts(node, broken=5)
    assert seen(node) == []
    assert node.outcome(pki.alice) == LOGIN
    node.admin.config_set("tls-auth-clients", "no")
    with without(node).connect() as connection:
        assert connection.command("PING") == b"PONG"
    assert counted(node) == {"broken": 5}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_may_break_off_at_each_flight(
    server_kind: Server, start: Start, pki: Pki, version: str
) -> None:
    """At each flight that a client sends, and in its middle, of a good certificate and of one that
    has ended: no event but the one of the certificate that was refused, and the server goes on."""
    node = make_node(start, server_kind, *policy_of(pki))
    for cert in (pki.alice, kinds(pki)["ended"][0]):
        sent = len(flights(node.server.tls(cert, version)))
        for halves in range(2 * sent + 1):
            flights(node.server.tls(cert, version), halves / 2)
    wait_until(lambda: counted(node)["broken"] >= 2, "they are counted")
    assert {one["reason"] for one in seen(node)} == {"expired"}
    assert node.outcome(pki.alice) == LOGIN


def flights(made: TlsPeer, most: float = 99) -> list[bytes]:
    """Shakes hands, but hangs up after so many flights of its own; what it has sent. Half a
    flight is the first half of its bytes."""
    incoming, outgoing, sent = ssl.MemoryBIO(), ssl.MemoryBIO(), list[bytes]()
    tls = made.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with closing(socket.create_connection(made.address, 10)) as plain, suppress(OSError):
        while len(sent) < most:
            done = True
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            if flight := outgoing.read():
                share = min(1, most - len(sent))
                sent.append(flight[: int(len(flight) * share)])
                plain.sendall(sent[-1])
            if done:
                break
            if len(sent) < most:
                answer = plain.recv(1 << 16)
                assert answer, "the server has hung up"
                incoming.write(answer)
    return sent


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_refuses_the_server_is_told_of(
    server_kind: Server, start: Start, pki: Pki, version: str
) -> None:
    """Of this server's certificate, which is what an operator has to look at then."""
    node = make_node(start, server_kind, *policy_of(pki))
    client = node.server.tls(pki.alice, version)
    client.context.check_hostname = False
    strange = ssl.create_default_context()
    strange.minimum_version = strange.maximum_version = ssl.TLSVersion[version]
    client.context = strange
    shake(client)
    told(node, 1)
    (entry,) = seen(node)
    assert (entry["reason"], entry["subject"]) == ("handshake", "")
    assert entry["detail"] == "the client refuses this server's certificate: tlsv1 alert unknown ca"
    assert counted(node) == {"handshake": 1, "broken": 0}


# ---- Floods --------------------------------------------------------------------------------------


def test_one_address_is_told_of_a_few_times_a_minute(
    installed: Server, start: Start, pki: Pki
) -> None:
    """However many keys it makes; each is counted. Another address is told of all the same."""
    node = make_node(start, installed, *policy_of(pki))
    stranger = root("CN=Stranger")
    for number in range(60):
        shake(node.server.tls(stranger.issue(f"CN={number}")))
    assert counted(node) == {"untrusted_issuer": 60, "broken": 0}
    few = seen(node)
    assert 20 < len(few) <= 32
    again = few[0]["subject"]
    shake(node.server.tls(stranger.issue("CN=another")), "127.0.0.2")
    assert [one["address"] for one in seen(node)[len(few) :]] == ["127.0.0.2"]
    assert [one["subject"] for one in seen(node)].count(again) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("io_threads", [1, 4])
def test_a_flood_of_refusals_neither_storms_nor_leaks(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """10,000, with an expired certificate, without TLS, and broken off at each flight and within
    it: a few events of the first, all counted, and the server's memory is what it was."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=io_threads)
    ended = [node.server.tls(kinds(pki)["ended"][0], version) for version in VERSIONS]
    good = [node.server.tls(pki.alice, version) for version in VERSIONS]
    waves = []
    for _ in range(4):
        for _ in range(250):
            for version in (0, 1):
                shake(ended[version])
                knock(node, b"GET / HTTP/1.0\r\n\r\n")
                for most in (0, 1, 1.5):
                    flights(good[version], most)
        waves.append(resident(node.server.pid))
    counts(node, expired=2000, broken=8000)
    assert 1 <= len(seen(node)) <= 20  # one a minute
    assert waves[-1] - waves[0] < 3, waves
    assert node.outcome(pki.alice) == LOGIN
