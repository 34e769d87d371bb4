"""Finding the client's SSL object: whatever else goes on, each client is its own certificate, and
the way through the server's API decides the same."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.kit.policies import (
    BIND_BOB,
    LOGIN,
    USER_BOB,
    Handshake,
    Node,
    Start,
    make_node,
    policy_of,
    refuse,
    table,
    table_node,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Pki, TlsPeer, free_port, wait_until

API = ["certificates", "api"]
ASK = b"CERTAUTH.WHOAMI\r\nQUIT\r\n"


def pair(start: Start, kind: Server, pki: Pki, **options: Any) -> Node:
    """alice and bob are users, carol is nobody."""
    return make_node(start, kind, *policy_of(pki, BIND_BOB, USER_BOB), **options)


def told(heard: bytes) -> str | None:
    """The user in the reply to CERTAUTH.WHOAMI; None without a reply."""
    words = heard.split(b"\r\n")
    return words[words.index(b"user") + 2].decode() if b"user" in words else None


def by_ssl(node: Node) -> bool:
    """Has every certificate been read from its own SSL object?"""
    return node.counters()["api_certificates"] == 0


# ---- The way of the API --------------------------------------------------------------------------


@pytest.mark.parametrize("io_threads", [1, 4])
def test_both_ways_decide_alike(server_kind: Server, start: Start, io_threads: int) -> None:
    """For each certificate of the table GetClientCertificate leads to what the SSL object does, and
    a counter says which way it was. Only the path over an intermediate that the policy does not
    hold is not in what the API gives: there nobody vouches for the leaf, and it is refused."""
    ways = {way: table_node(start, server_kind, module=module, io_threads=io_threads)
            for way, module in (("ssl", []), ("api", API))}  # fmt: skip
    handshakes = 0
    for case in table().cases:
        found = {way: node.outcome(case.cert) for way, node in ways.items()}
        assert found["ssl"] == case.expected, case.name
        unseen = refuse("untrusted_issuer") if case.unlisted else case.expected
        assert found["api"] == unseen, case.name
        handshakes += found["api"].action != "handshake"
    assert by_ssl(ways["ssl"])
    assert ways["api"].counters()["api_certificates"] == handshakes


def test_without_a_certificate_both_ways_see_none(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Neither way finds a certificate where there is none."""
    for module in ([], API):
        node = make_node(start, server_kind, *policy_of(pki, "set plain refuse"), module=module)
        assert node.outcome() == refuse("no_certificate")
        assert node.outcome(pki.alice) == LOGIN


def test_the_api_is_warned_of_once(installed: Server, start: Start, pki: Pki) -> None:
    """It leaks memory on most servers: the log says so, once, and the counter counts."""
    node = pair(start, installed, pki, module=API)
    for _ in range(3):
        assert node.outcome(pki.alice) == LOGIN
    assert node.server.log.count("certauth_api_certificates") == 1
    assert node.counters()["api_certificates"] == 3


# ---- Under attack --------------------------------------------------------------------------------


@contextmanager
def half_open(peer: TlsPeer, count: int) -> Iterator[list[Handshake]]:
    """Connections that have sent their first message, and wait."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            shake = Handshake(peer)
            stack.callback(shake.close)
            shake.begin()
            made.append(shake)
        yield made


@pytest.mark.parametrize("io_threads", [1, 4])
def test_half_open_handshakes_are_in_nobodys_way(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """While fifty handshakes hang and fifty connections say nothing, each login is who it is; the
    fifty, once they go on, in another order, are too."""
    node = pair(start, server_kind, pki, io_threads=io_threads)
    peers = {"alice": node.server.tls(pki.alice), "bob": node.server.tls(pki.bob)}
    with ExitStack() as stack:
        for _ in range(50):
            silent = socket.create_connection(("127.0.0.1", node.server.port), 10)
            stack.callback(silent.close)
        first = stack.enter_context(half_open(peers["alice"], 25))
        second = stack.enter_context(half_open(peers["bob"], 25))
        for _ in range(10):
            for name, peer in peers.items():
                with peer.connect() as connection:
                    assert whoami(connection)["user"] == name
        for one, two in zip(reversed(first), second, strict=True):
            two.finish(ASK)
            one.finish(ASK)
            assert (told(one.receive()), told(two.receive())) == ("alice", "bob")
    assert by_ssl(node)


@pytest.mark.parametrize("io_threads", [1, 4])
def test_handshakes_that_end_all_at_once(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """The last messages of sixty clients are there before the server looks at the first: Valkey's
    IO threads end several handshakes before any of the clients is known. Each is who it is."""
    node = pair(start, server_kind, pki, io_threads=io_threads)
    peers = {"alice": node.server.tls(pki.alice), "bob": node.server.tls(pki.bob)}
    with ExitStack() as stack:
        shakes = [
            (name, shake)
            for name, peer in peers.items()
            for shake in stack.enter_context(half_open(peer, 30))
        ]
        for _, shake in shakes:
            shake.answer()
        os.kill(node.server.pid, signal.SIGSTOP)
        try:
            for _, shake in shakes:
                shake.finish(ASK)
        finally:
            os.kill(node.server.pid, signal.SIGCONT)
        assert all(told(shake.receive()) == name for name, shake in shakes)
    assert by_ssl(node)


def test_links_of_the_cluster_bus_are_nobodys(server_kind: Server, start: Start, pki: Pki) -> None:
    """A link to the bus is a finished handshake that never becomes a client: it stays there, and no
    client is taken for it."""
    bus = free_port()
    config = ["cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}"]
    node = pair(start, server_kind, pki, config=config)
    link = node.server.tls(pki.bob)
    link.address = (link.address[0], bus)
    with link.connect(), link.connect():
        for _ in range(5):
            assert node.outcome(pki.alice) == LOGIN
        assert by_ssl(node)


def test_handshakes_that_break_off_leave_nothing(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Half-open connections that are cut, garbage, and refused handshakes are forgotten: logins
    after them find their own."""
    node = pair(start, server_kind, pki, io_threads=4)
    stranger = Pki().alice
    for _ in range(5):
        with half_open(node.server.tls(pki.alice), 20):
            pass
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", node.server.port), 10) as garbage:
                garbage.sendall(b"\x16\x03\x01\x00\x05hello")
        assert node.outcome(stranger).action == "handshake"
        assert node.outcome(pki.alice) == LOGIN
    assert by_ssl(node)


def test_one_source_port_to_two_addresses(server_kind: Server, start: Start, pki: Pki) -> None:
    """Two clients behind one NAT may show the same address and port at two addresses of the server,
    at the same time: each is its own certificate, in either order."""
    node = pair(
        start,
        server_kind,
        pki,
        io_threads=4,
        config=["bind 127.0.0.1 127.0.0.2", "protected-mode no"],
    )
    alice, bob = node.server.tls(pki.alice), node.server.tls(pki.bob)
    for turn in range(20):
        with ExitStack() as stack:
            one = Handshake(alice, source=("127.0.0.9", 0), host="127.0.0.1")
            stack.callback(one.close)
            source = one.socket.getsockname()
            two = Handshake(bob, source=source, host="127.0.0.2")
            stack.callback(two.close)
            assert two.socket.getsockname() == source
            for shake in (one, two):
                shake.begin()
            order = (one, two) if turn % 2 else (two, one)
            for shake in order:
                shake.finish(ASK)
            assert (told(one.receive()), told(two.receive())) == ("alice", "bob")


def test_ipv6(server_kind: Server, start: Start, pki: Pki) -> None:
    """A client over IPv6 is found by its address as well, and `from=` means that address."""
    lines = policy_of(pki, f"{BIND_BOB} from=::1/128", USER_BOB)
    node = make_node(start, server_kind, *lines, config=["bind 127.0.0.1 ::1"], io_threads=4)
    users = {}
    for name, cert in (("alice", pki.alice), ("bob", pki.bob)):
        for host in ("127.0.0.1", "::1"):
            shake = Handshake(node.server.tls(cert), host=host)
            shake.begin()
            shake.finish(ASK)
            users[name, host] = told(shake.receive())
            shake.close()
    assert users == {
        ("alice", "127.0.0.1"): "alice", ("alice", "::1"): "alice",
        ("bob", "127.0.0.1"): None, ("bob", "::1"): "bob",
    }  # fmt: skip
    assert node.counters()["refused_address"] == 1
    assert by_ssl(node)


def test_links_that_the_server_makes_are_nobodys(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A replica's link to its master is a TLS connection of this process too: no client is taken
    for it, nor it for a client, and policy changes leave it alone."""
    master = start(server_kind, config=["repl-diskless-sync-delay 0"])
    node = pair(
        start, server_kind, pki, io_threads=4,
        config=["tls-replication yes", f"replicaof 127.0.0.1 {master.port}"],
    )  # fmt: skip

    def link() -> bool:
        return bool(node.admin.info("replication")["master_link_status"] == "up")

    wait_until(link, "it replicates", 20)
    for _ in range(5):
        assert node.outcome(pki.alice) == LOGIN
    node.patch("+set plain refuse", "+user default adopt off")
    assert master.admin().set("k", "v")
    wait_until(lambda: node.admin.get("k") == "v", "what is written there arrives here")
    assert link()
    assert by_ssl(node)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("io_threads", [1, 4])
def test_logins_leave_no_memory_behind(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """Thousands of logins and refusals, and the process is as large as before, on servers whose own
    API leaks 5 kB a certificate. The first of them fill the log's 4,096 entries."""
    node = pair(start, server_kind, pki, io_threads=io_threads, config=["tls-session-caching no"])
    peers = [node.server.tls(cert) for cert in (pki.alice, pki.ca.issue("CN=carol"))]

    def churn(count: int) -> int:
        for _ in range(count):
            for peer in peers:
                shake = Handshake(peer)
                shake.begin()
                shake.finish(ASK)
                shake.receive()
                shake.close()
        return resident(node.server.pid)

    before = churn(2100)
    after = churn(1000)
    assert after - before < 1_500_000, f"{before} {after}"
    assert node.counters()["logins"] == 3100
    assert by_ssl(node)


def resident(pid: int) -> int:
    """Bytes of RSS."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096
