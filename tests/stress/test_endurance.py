"""Long runs and large numbers: memory stays flat, everybody right is closed, nobody is mistaken."""

import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any

import pytest

from tests.kit.node import patch
from tests.kit.policies import (
    LOGIN,
    OPERATOR,
    USER_BOB,
    Handshake,
    Node,
    Start,
    closed,
    make_node,
    policy_of,
)
from tests.kit.servers import Server
from tests.kit.storm import pairs, peer_of, resident, storm
from tests.kit.support import Cert, Pki, TlsConnection, TlsPeer, wait_until

# ---- 100,000 logins ------------------------------------------------------------------------------


def logins(server: Any, cert: Any, count: int) -> int:
    """Logs in so often, one after the other: of five times once by a full handshake. Returns how
    many were alice."""
    peer = TlsPeer(server, cert, "TLSv1_3")
    session, good = None, 0
    for number in range(count):
        with peer.connect(None if number % 5 == 0 else session) as connection:
            good += connection.command("ACL", "WHOAMI") == b"alice"
            session = connection.session
    return good


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_a_hundred_thousand_logins(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """What a login takes comes back at its end, with IO threads making and freeing the connections.
    The server's API alone would leave 5 kB a login behind on most servers: 450 MB here."""
    config = ["tls-session-cache-size 1000"]
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4, config=config)
    whom, workers = peer_of(node.server, pki.alice), 2
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def run(count: int) -> float:
            share = count // workers
            made = [pool.submit(logins, whom[0], whom[1], share) for _ in range(workers)]
            assert sum(one.result() for one in made) == count
            return resident(node.server.pid)

        warm, end = run(10_000), run(90_000)
    counters = node.counters()
    seconds = time.monotonic() - begun
    print(f"\n{server_kind}: {warm:.1f} MiB after 10,000, {end:.1f} after 100,000; {seconds:.0f} s")
    assert (counters["logins"], counters["refused"]) == (100_000, 0)
    assert counters["api_certificates"] == 0
    assert end - warm < 8
    wait_until(lambda: node.counters()["sessions"] == 1, "none of them is left")
    assert node.outcome(pki.alice) == LOGIN


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_where_one_login_in_twenty_is_ended_by_force(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """By a revocation and by a line that goes, in turn, while others log in, with IO threads: what
    a session and a change take comes back, after 100,000 logins as after 20,000."""
    bob = f"bind key {pki.bob.key_id} bob"
    # Clients come from 127.0.0.2 too; and the server's cache of TLS sessions is not to fill yet.
    config = ["protected-mode no", "tls-session-cache-size 1000"]
    lines = policy_of(pki, bob, USER_BOB)
    node = make_node(start, server_kind, *lines, io_threads=4, config=config)
    alice, peer = pairs([pki.alice]), node.server.tls(pki.bob, "TLSv1_2")
    revoke, ended, begun = f"revoke key {pki.bob.key_id}", 0, time.monotonic()
    ways = ((f"+{revoke}", f"-{revoke}"), (f"-{bob}", f"+{bob}"))

    def run(rounds: int, pool: ThreadPoolExecutor) -> tuple[float, float]:
        nonlocal ended
        for take, give in ways * (rounds // 2):
            others = pool.submit(storm, node.server, alice, 950)
            held = [peer.connect() for _ in range(50)]
            assert {one.command("ACL", "WHOAMI") for one in held} == {b"bob"}
            ended += node.patch(take)["closed"]
            assert all(closed(one) for one in held)
            for one in held:
                one.close()
            node.patch(give)
            assert (others.result().failed, others.result().others) == (0, 0)
        used = node.admin.info("memory")["used_memory"] / (1 << 20)
        return resident(node.server.pid), used

    with ThreadPoolExecutor(1) as pool:
        warm, end = run(20, pool), run(80, pool)
    print(
        f"\n{server_kind}: RSS and used_memory {warm[0]:.1f} and {warm[1]:.2f} MiB after 20,000, "
        f"{end[0]:.1f} and {end[1]:.2f} after 100,000; {time.monotonic() - begun:.0f} s"
    )
    counters = node.counters()
    assert (counters["logins"], counters["refused"], ended) == (100_000, 0, 5_000)
    assert end[0] - warm[0] < 8
    assert end[1] - warm[1] < 1
    wait_until(lambda: node.counters()["sessions"] == 1, "none of them is left")


# ---- 10,000 connections --------------------------------------------------------------------------


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """So many open files are allowed to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), max(hard, count)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Pinging:
    """Asks again and again, on a unix socket of its own, and keeps how long each answer took."""

    def __init__(self, node: Node) -> None:
        self.path = str(node.server.socket)
        self.took: list[float] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as ping:
            ping.connect(self.path)
            while not self.stop.is_set():
                begun = time.perf_counter()
                ping.sendall(b"PING\r\n")
                ping.recv(100)
                self.took.append((time.perf_counter() - begun) * 1000)

    def __enter__(self) -> "Pinging":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def __str__(self) -> str:
        took = sorted(self.took)
        return (
            f"{len(took)} PINGs: median {took[len(took) // 2]:.2f} ms, "
            f"99 % below {took[int(len(took) * 0.99)]:.2f} ms, longest {took[-1]:.2f} ms"
        )


def connections(stack: ExitStack, node: Node, cert: Cert, count: int) -> list[TlsConnection]:
    peer = node.server.tls(cert)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: peer.connect(), range(count)))
    for one in made:
        stack.callback(one.close)
    return made


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("io_threads", [1, 4])
def test_ten_thousand_sessions_are_decided_again(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """A revoked certificate ends its 5,000 sessions and none of the 5,000 others, all before the
    write is answered; meanwhile the server goes on answering (how fast is printed)."""
    lines = policy_of(pki, f"bind key {pki.bob.key_id} bob", USER_BOB)
    node = make_node(start, server_kind, *lines, io_threads=io_threads, config=["maxclients 10300"])
    with many_files(11_000), ExitStack() as stack:
        before = resident(node.server.pid)
        alice = connections(stack, node, pki.alice, 5_000)
        bob = connections(stack, node, pki.bob, 5_000)
        assert node.counters()["sessions"] == 10_001
        each = (resident(node.server.pid) - before) / 10_000 * 1024
        print(f"\n{server_kind}: 10,000 sessions, {each:.1f} KiB each with all that TLS keeps")
        with Pinging(node) as quiet:
            time.sleep(0.3)
        with Pinging(node) as busy:
            begun = time.monotonic()
            patient = node.server.admin(username=OPERATOR, password=OPERATOR, socket_timeout=300)
            reply = patch(patient, 1, 2, [f"+revoke cert {pki.alice.fingerprint}"])
            seconds = time.monotonic() - begun
        print(
            f"\n{server_kind}, io-threads {io_threads}: {seconds:.2f} s; {busy} (before: {quiet})"
        )
        assert reply["closed"] == 5_000
        assert all(closed(one) for one in alice)
        assert {one.command("ACL", "WHOAMI") for one in bob} == {b"bob"}
        assert node.counters()["sessions"] == 5_002  # two of them are the operator's


# ---- Half-open handshakes ------------------------------------------------------------------------


@pytest.mark.parametrize("io_threads", [1, 4])
def test_half_open_handshakes_mix_nobody_up(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """Among 200 handshakes that stand still each client is told by its own connection, and when
    those go on, in any order, so is each of them; half of them never do. Nothing is left of any."""
    lines = policy_of(pki, f"bind key {pki.bob.key_id} bob", USER_BOB)
    node = make_node(start, server_kind, *lines, io_threads=io_threads)
    whom = {pki.alice: "alice", pki.bob: "bob"}
    with ExitStack() as stack:
        held = []
        for number in range(200):
            cert = (pki.alice, pki.bob)[number % 2]
            held.append((whom[cert], Handshake(node.server.tls(cert))))
            stack.callback(held[-1][1].close)
            held[-1][1].begin()
        wait_until(lambda: node.admin.info("clients")["connected_clients"] == 201, "all are there")
        for cert, user in list(whom.items()) * 50:
            with node.connect(cert) as connection:
                assert connection.command("ACL", "WHOAMI") == user.encode()
        random.Random(1).shuffle(held)
        for _, shake in held[:100]:
            shake.close()
        for _, shake in held[100:]:
            shake.finish(b"ACL WHOAMI\r\nQUIT\r\n")
        for user, shake in held[100:]:
            assert shake.receive() == b"$%d\r\n%s\r\n+OK\r\n" % (len(user), user.encode())
    counters = node.counters()
    assert (counters["logins"], counters["refused"], counters["api_certificates"]) == (200, 0, 0)
    wait_until(lambda: node.counters()["sessions"] == 1, "none of them is left")
