"""Anyone who holds all connections can be revoked all the same: those who administrate get in."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.faults import environment
from tests.kit.node import (
    Start,
    authority,
    bind,
    bootstrap,
    enrolled,
    is_open,
    mapping,
    patch,
    status,
    who,
)
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.servers import Server
from tests.kit.support import (
    ROOT,
    Cert,
    Pki,
    RedisServer,
    TlsConnection,
    free_port,
    root,
    wait_until,
)

pytestmark = pytest.mark.few_servers

MOST, KEPT = 40, 8  # maxclients, and how many of them are kept: one in a hundred, at least eight
FULL = "connections (maxclients) are taken"


@pytest.fixture
def ops() -> Cert:
    return root("CN=Control CA").issue("CN=ops")


@pytest.fixture
def module(tmp_path: Path, ops: Cert) -> tuple[str, ...]:
    """Bound by the bootstrap file, as a control plane is."""
    return bootstrap(tmp_path, authority(ops.above[0]), bind(ops, "ops"), "user ops on ~* &* +@all")


def full(start: Start, kind: Server, pki: Pki, module: Any, ops: Cert, **how: Any) -> RedisServer:
    """A server with room for few; alice's policy in force and `default` off."""
    return enrolled(
        start, kind, pki, "user default adopt off", module=module, trust=[pki.ca, ops.above[0]],
        config=[f"maxclients {MOST}"], **how,
    )  # fmt: skip


def fill(server: RedisServer, cert: Cert, stack: ExitStack) -> list[TlsConnection]:
    """As many sessions as there can be."""
    held: list[TlsConnection] = []
    for _ in range(MOST):
        try:
            one = stack.enter_context(server.tls(cert).connect())
            one.command("PING")
        except (OSError, redis.ResponseError):
            break
        held.append(one)
    return held


def is_over(connection: TlsConnection) -> bool:
    connection.socket.settimeout(0.05)
    try:
        return connection.socket.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@contextmanager
def silent(port: int, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say nothing, or not enough."""
    with ExitStack() as stack:
        held = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            one.sendall(said)
            held.append(one)
        yield held


def events(admin: redis.Redis) -> list[dict[str, Any]]:
    reply = mapping(admin.execute_command("CERTAUTH.LOG"))
    return [mapping(entry) for entry in reply["entries"]]


@pytest.mark.parametrize("threads", [1, 4])
def test_who_holds_all_connections_can_be_revoked(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert, threads: int
) -> None:
    """Alice takes all that she gets: the next is turned away by name, while the administrator of
    the machine and one whom the bootstrap file binds come in, and end every session of hers."""
    server = full(start, server_kind, pki, module, ops, io_threads=threads)
    with ExitStack() as stack:
        held = fill(server, pki.alice, stack)
        assert MOST - KEPT - 2 <= len(held) <= MOST - KEPT
        assert who(server, pki.alice) is None
        admin = server.client(ops)
        assert admin.acl_whoami() == "ops"
        local = server.admin()
        with pytest.raises(redis.AuthenticationError):  # let in, to log in
            local.ping()
        turned = [one for one in events(admin) if one["event"] == "full" and one["client"]]
        assert turned
        assert all((one["user"], one["reason"]) == ("alice", "matched") for one in turned)
        assert admin.info("certauth")["certauth_no_room"] == len(turned)
        assert not any(is_over(one) for one in held)
        assert patch(admin, 1, 2, [f"-{bind(pki.alice, 'alice')}"])["closed"] == len(held)
        for one in held:
            wait_until(lambda one=one: is_over(one), "her session is over")
    wait_until(lambda: FULL in server.log, "the log says that it was full")


HALVES = {"nothing": b"", "half a record": b"\x16\x03\x01\x02\x00\x01"}


@pytest.mark.parametrize("said", HALVES.values(), ids=HALVES)
def test_handshakes_that_do_not_go_on_make_room(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert, said: bytes
) -> None:
    """More of them than there are connections: they are ended, and those who come next get in. The
    session that alice had from before stays."""
    server = full(start, server_kind, pki, module, ops, io_threads=4)
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    with silent(server.port, MOST + 10, said):
        wait_until(lambda: who(server, ops) == "ops", "the administrator is in", 20)
        wait_until(lambda: who(server, pki.alice) == "alice", "and so is everybody", 20)
        assert is_open(alice)


def hello() -> bytes:
    """What a client says first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="redis").do_handshake()
    return outgoing.read()


def sends(server: RedisServer, cert: Cert, *words: str) -> bool:
    """Whether it could connect, and was answered."""
    with suppress(OSError), server.tls(cert).connect() as one:
        one.command(*words)
        return True
    return False


class Crowd:
    """Strangers who come again a moment after they were ended."""

    def __init__(self, port: int, count: int, said: bytes) -> None:
        self.port, self.said = port, said
        self.came = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.come) for _ in range(count)]

    def come(self) -> None:
        while not self.over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as one:
                one.sendall(self.said)
                one.settimeout(2)
                while one.recv(65536):
                    pass
            self.came += 1
            self.over.wait(0.1)

    def __enter__(self) -> "Crowd":
        for one in self.threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for one in self.threads:
            one.join()


@pytest.mark.parametrize("said", {**HALVES, "a hello": hello()}.values(), ids=[*HALVES, "a hello"])
def test_strangers_who_come_again_and_again_keep_no_administrator_out(
    installed: Server, start: Start, pki: Pki, module: Any, ops: Cert, said: bytes
) -> None:
    """More of them than there are connections, beside all that alice gets: a handshake that goes on
    outlives theirs now and then, and every session of hers ends."""
    server = full(start, installed, pki, module, ops)
    with ExitStack() as stack:
        held = fill(server, pki.alice, stack)
        crowd = stack.enter_context(Crowd(server.port, MOST, said))
        wait_until(lambda: crowd.came > MOST, "they come again and again", 30)
        ins = [who(server, ops) for _ in range(30)]
        assert ins.count("ops") >= 3, ins
        change = ("PATCH", "1", "2", "LINES", f"-{bind(pki.alice, 'alice')}")
        wait_until(lambda: sends(server, ops, "CERTAUTH.POLICY", *change), "the change is in", 30)
        for one in held:
            wait_until(lambda one=one: is_over(one), "her session is over", 30)


def test_a_handshake_that_does_not_go_on_is_ended_where_there_is_room(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """After seconds: they would add up."""
    server = full(start, server_kind, pki, module, ops)
    with silent(server.port, 3) as held:
        for one in held:
            one.settimeout(20)
            assert one.recv(1) == b""
    assert FULL not in server.log


def test_strangers_on_a_plain_port_make_room(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """They connect and never log in: an administrator gets in, alice within seconds; a user
    who has logged in by a password stays, and so does alice's session."""
    server = full(start, server_kind, pki, module, ops, plain=True)
    admin = server.client(ops)
    admin.acl_setuser("bob", enabled=True, passwords=["+pw"], commands=["+@all"], keys=["*"])
    bob = server.plain_client(username="bob", password="pw", single_connection_client=True)
    alice = server.client(pki.alice, single_connection_client=True)
    assert (bob.acl_whoami(), alice.acl_whoami()) == ("bob", "alice")
    with silent(server.plain_port, MOST + 10):
        wait_until(lambda: who(server, ops) == "ops", "the administrator is in")
        wait_until(lambda: who(server, pki.alice) == "alice", "there is room again", 20)
        assert is_open(bob)
        assert is_open(alice)
    assert status(admin)["generation"] == 1


@pytest.mark.parametrize("strangers", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_revocation_arrives_where_all_connections_are_taken(
    installed: Server, start: Start, plane: Plane, pki: Pki, strangers: int
) -> None:
    """Alice holds what she can and strangers the rest, and the control plane has lost its
    connection: every session of hers ends. (The bar is 3 s from the revocation on.)"""
    server = enrolled_node(start, installed, plane.config.home, pki, config=[f"maxclients {MOST}"])
    plane.register(server)
    plane.in_step()
    with ExitStack() as stack:
        held = fill(server, pki.alice, stack)
        assert len(held) >= 20
        own = operator(server)
        own.ping()
        stack.enter_context(silent(server.port, strangers))
        own.execute_command(
            "CLIENT", "KILL", "TYPE", "normal", "USER", "certauth-control", "SKIPME", "yes"
        )
        plane.ok("DELETE /v1/users/2")
        for one in held:
            wait_until(lambda one=one: is_over(one), "her session is over", 10)


# ---- Whose handshakes are ended ------------------------------------------------------------------


def begin(port: int, source: str, stack: ExitStack) -> socket.socket:
    """A handshake that gets as far as the server's answer, and no further."""
    one = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
    stack.enter_context(one)
    one.sendall(hello())
    assert one.recv(1)
    return one


def is_ended(one: socket.socket) -> bool:
    one.settimeout(0.02)
    try:
        while one.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def outlives_strangers(server: RedisServer, port: int, source: str) -> bool:
    """Whether a handshake that was begun first at this port was going on when a stranger's at the
    clients' port had been ended, which was begun later."""
    with ExitStack() as stack:
        first = begin(port, source, stack)
        strangers: list[socket.socket] = []
        for _ in range(2 * KEPT):
            with suppress(OSError, AssertionError):
                strangers.append(begin(server.port, "127.0.0.3", stack))
            if any(is_ended(one) for one in strangers[:2]):
                return not is_ended(first)
        return False


def any_outlives_strangers(server: RedisServer, pki: Pki, port: int, source: str) -> bool:
    """In one of a few tries: where the machine is slow, all of them become too old at once. Alice
    holds the rest."""
    with ExitStack() as stack:
        assert len(fill(server, pki.alice, stack)) > KEPT
        return any(outlives_strangers(server, port, source) for _ in range(10))


@pytest.mark.slow
def test_a_flood_from_elsewhere_does_not_end_an_administrators_handshake(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """One that takes its time, from where an administrator has come before; one from elsewhere is
    the next to be ended, for it is the oldest."""
    server = full(start, server_kind, pki, module, ops, io_threads=4)
    assert who(server, ops) == "ops"
    assert any_outlives_strangers(server, pki, server.port, "127.0.0.1")
    assert not any_outlives_strangers(server, pki, server.port, "127.0.0.2")


@pytest.mark.slow
def test_a_flood_of_clients_does_not_end_handshakes_at_the_cluster_bus(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """They take no connection of a client's, and without them a node is failing."""
    bus = free_port()
    config = [f"maxclients {MOST}", "cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}"]
    server = enrolled(
        start, server_kind, pki, "user default adopt off", module=module,
        trust=[pki.ca, ops.above[0]], config=config,
    )  # fmt: skip
    assert any_outlives_strangers(server, pki, bus, "127.0.0.2")


def test_connections_of_another_module_are_none_of_ours(
    installed: Server, start: Start, pki: Pki, module: Any, ops: Cert, tmp_path: Path
) -> None:
    """What it makes in threads of its own does not count, and is not looked at."""
    made = tmp_path / "foreign.so"
    source = ROOT / "tests/kit/foreign.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source, "-lssl", "-lcrypto"], check=True)
    with environment({"LD_PRELOAD": f"{made} {os.environ.get('LD_PRELOAD', '')}"}):
        server = full(start, installed, pki, module, ops)
    for _ in range(20):
        assert who(server, pki.alice) == "alice"
    assert server.client(ops).info("certauth")["certauth_no_room"] == 0
