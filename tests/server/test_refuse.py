"""Refusing is safe: a refused client never runs a command, and no number stops the server."""

import re
import socket
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.policies import (
    CHOOSE,
    CLOSED,
    LOGIN,
    NOBODY,
    OPERATOR,
    USER_BOB,
    Handshake,
    Node,
    Start,
    closed,
    make_node,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Pki, TlsPeer, root, wait_until

# What a client sends that does not wait to hear whether it is welcome. RESET leaves `default`,
# which may do everything here; AUTH and HELLO ask for it by name; no ACL is in their way.
ATTACK = b"".join(
    line + b"\r\n"
    for line in (
        b"INCR leak", b"RESET", b"INCR leak", b"AUTH default x", b"INCR leak",
        b"HELLO 3 AUTH default x", b"INCR leak", b"CERTAUTH.LOGIN", b"INCR leak",
        b"MULTI", b"INCR leak", b"EXEC", b"PUBLISH leak 1", b"INCR leak",
    )
)  # fmt: skip
RUN = ("incr", "reset", "auth", "hello", "certauth.login", "multi", "exec", "publish")


def attack(peer: TlsPeer, session: ssl.SSLSession | None = None) -> bytes:
    """One connection that brings commands in the packet that ends its handshake. What it heard."""
    shake = Handshake(peer, session)
    try:
        shake.begin()
        with suppress(ConnectionError, ssl.SSLError):
            shake.finish(ATTACK)
        return shake.receive()
    finally:
        shake.close()


def plain_attack(node: Node) -> bytes:
    """The same without TLS: the commands are on their way before the server accepts."""
    with socket.create_connection(("127.0.0.1", node.server.plain_port), 10) as plain:
        heard = b""
        with suppress(ConnectionError):
            plain.sendall(ATTACK)
            while chunk := plain.recv(65536):
                heard += chunk
        return heard


def flood(one: Callable[[], Any], count: int, threads: int = 8) -> list[Any]:
    """Does it so often, some at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda _: one(), range(count)))


def ran(node: Node) -> dict[str, int]:
    """The calls of the commands of the attack, as the server counts them: refused ones are none."""
    stats = node.admin.info("commandstats")
    calls = {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in RUN}
    return {name: count for name, count in calls.items() if count}


def nothing_ran(node: Node, heard: Iterable[bytes], count: int) -> None:
    """These refused clients have heard nothing and run nothing, and the server is well."""
    assert set(heard) == {b""}
    assert node.admin.get("leak") is None
    wait_until(lambda: node.admin.info("clients")["connected_clients"] == 1, "they are gone")
    assert node.counters()["sessions"] == 1
    assert ran(node) == {}
    assert node.counters()["refused"] == count


def calm(node: Node) -> None:
    """What the operator's connection needed to come about is not counted."""
    node.admin.info()
    node.admin.config_resetstat()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("io_threads", [1, 4])
def test_commands_sent_with_the_handshake_never_run(
    server_kind: Server, start: Start, pki: Pki, io_threads: int, version: str
) -> None:
    """Hundreds of refused clients bring their commands along with the end of the handshake, with
    `default` allowed everything: not one runs, on neither kind of thread."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=io_threads)
    calm(node)
    peer = node.server.tls(pki.bob, version)
    nothing_ran(node, flood(lambda: attack(peer), 200), 200)
    assert node.outcome(pki.alice) == LOGIN


def test_the_attack_runs_where_nobody_refuses(installed: Server, start: Start, pki: Pki) -> None:
    """The same commands are seen to run without a policy: the tests above can fail."""
    node = make_node(start, installed)
    calm(node)
    assert attack_and_leave(node.server.tls(pki.bob)) != b""
    assert int(node.admin.get("leak") or 0) == 7
    assert set(ran(node)) >= {"incr", "reset", "auth", "hello", "multi", "exec", "publish"}


def attack_and_leave(peer: TlsPeer) -> bytes:
    """The server closes only after QUIT."""
    shake = Handshake(peer)
    shake.begin()
    shake.finish(ATTACK + b"QUIT\r\n")
    heard = shake.receive()
    shake.close()
    return heard


def test_commands_sent_with_a_resumed_handshake_never_run(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """On a resumed TLS 1.2 session it is the client that ends the handshake."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    peer = node.server.tls(pki.alice, "TLSv1_2")
    with peer.connect() as connection:
        assert connection.command("PING") == b"PONG"
        session = connection.session
    node.patch(f"+revoke cert {pki.alice.fingerprint}")
    calm(node)
    nothing_ran(node, flood(lambda: attack(peer, session), 200), 200)


def test_nothing_of_a_refused_client_shows_in_monitor(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """MONITOR, which shows what is about to run, shows nothing of it."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    peer = node.server.tls(pki.bob)
    watch: Any = node.admin.monitor
    with watch() as monitor:
        assert set(flood(lambda: attack(peer), 100)) == {b""}
        node.admin.echo("end")
        for seen in monitor.listen():
            assert "leak" not in seen["command"]
            if seen["command"] == "ECHO end":
                break


@pytest.mark.parametrize("reason", ["untrusted_issuer", "no_certificate", "bad_string"])
def test_every_kind_of_refusal_runs_nothing(
    server_kind: Server, start: Start, pki: Pki, reason: str
) -> None:
    """Whatever the reason, no certificate included."""
    stranger = root("CN=Stranger")
    certs = {
        "untrusted_issuer": stranger.issue(),
        "bad_string": pki.ca.issue([[("CN", "alice\0.evil")]]),
    }
    node = make_node(
        start, server_kind, *policy_of(pki, "set plain refuse"), trust=[pki.ca, stranger],
        io_threads=4, plain=True,
    )  # fmt: skip
    calm(node)
    peer = node.server.tls(certs.get(reason))
    nothing_ran(node, flood(lambda: attack(peer), 50), 50)
    assert node.counters()[f"refused_{reason}"] == 50


# What a client hears whose session is over.
OVER = re.compile(
    rb"-ERR unknown command 'certauth:session-is-over'(?:, with args beginning with: .*?)?\r\n"
)


def unmuzzled(heard: bytes) -> bytes:
    """What else a client heard: where IO threads read, Redis 8 may answer before the end, and then
    that is all it says (act.c, muzzle). Without TLS nothing can silence that."""
    return OVER.sub(b"", heard)


def test_a_refused_plain_client_runs_nothing(server_kind: Server, start: Start, pki: Pki) -> None:
    """A plain TCP client has its commands on the way before it is accepted."""
    node = make_node(
        start, server_kind, *policy_of(pki, "set plain refuse"), io_threads=4, plain=True
    )
    calm(node)

    nothing_ran(node, map(unmuzzled, flood(lambda: plain_attack(node), 400)), 400)


def knocking(peer: TlsPeer) -> bool:
    with peer.connect() as connection:
        return closed(connection)


def survives(node: Node, pki: Pki, count: int) -> None:
    """Half of the clients send at once, half wait to hear; some others log in meanwhile."""
    peer, friend = node.server.tls(pki.bob), node.server.tls(pki.alice)
    pid = node.server.pid

    def one() -> bool:
        return attack(peer) == b"" and knocking(peer)

    with ThreadPoolExecutor(8) as pool:
        refused = [pool.submit(one) for _ in range(count // 2)]
        for _ in range(20):
            with friend.connect() as connection:
                assert connection.command("ACL", "WHOAMI") == b"alice"
        assert all(future.result() for future in refused)
    assert node.admin.get("leak") is None
    assert (node.server.running, node.server.pid) == (True, pid)
    assert node.counters()["refused"] == count
    assert node.outcome(pki.alice) == LOGIN


def test_refusals_leave_the_server_up(server_kind: Server, start: Start, pki: Pki) -> None:
    """Hundreds of refused connections, with IO threads: Redis 8 aborts where a client is closed in
    its own connect event."""
    survives(make_node(start, server_kind, *policy_of(pki), io_threads=4), pki, 600)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("io_threads", [1, 4])
def test_ten_thousand_refusals_leave_the_server_up(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """The same, 10,000 of them."""
    survives(make_node(start, server_kind, *policy_of(pki), io_threads=io_threads), pki, 10_000)


def test_refused_clients_that_break_off_leave_the_server_up(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """They reset the connection right after the handshake, before or while they are closed."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    peer = node.server.tls(pki.bob)

    def one() -> None:
        shake = Handshake(peer)
        shake.begin()
        shake.finish(ATTACK)
        shake.close()

    flood(one, 400)
    wait_until(lambda: node.admin.info("clients")["connected_clients"] == 1, "they are gone")
    assert node.admin.get("leak") is None
    assert node.outcome(pki.alice) == LOGIN


# ---- While an RDB loads --------------------------------------------------------------------------


def loading(node: Node) -> bool:
    try:
        return bool(node.admin.info("persistence")["loading"])
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False


def test_clients_are_decided_while_an_rdb_loads(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """No timer fires then, yet the policy is in force: its users log in, others run nothing."""
    config = ["save 3600 1000000", "loading-process-events-interval-bytes 1024"]
    node = make_node(
        start, server_kind, *policy_of(pki, "set plain refuse"), io_threads=4, config=config,
        plain=True,
    )  # fmt: skip
    node.call("DEBUG", "POPULATE", 30_000)
    node.admin.save()
    node.server.stop()
    node.server.config.append("key-load-delay 50")
    node.server.start(wait=False)
    wait_until(lambda: loading(node), "it loads")
    calm(node)
    peer, friend = node.server.tls(pki.bob), node.server.tls(pki.alice)
    with friend.connect() as connection:
        assert whoami(connection)["user"] == "alice"
        with pytest.raises(redis.ResponseError, match="LOADING"):
            connection.command("GET", "k")
        attacks = {"TLS": lambda: attack(peer), "TCP": lambda: plain_attack(node)}
        for name, one in attacks.items():
            assert set(flood(one, 200)) == {b""}, name
            assert ran(node) == {}, name
        assert loading(node), "the dataset is too small for this test"
    counters = node.counters()
    assert (counters["logins"], counters["refused_no_binding"]) == (1, 200)
    assert counters["refused_no_certificate"] == 200
    node.server.wait_ready()
    assert node.admin.get("leak") is None
    assert node.outcome(pki.alice) == LOGIN


# ---- The user without rights ---------------------------------------------------------------------


def test_a_client_library_reads_the_acl_log(installed: Server, start: Start, pki: Pki) -> None:
    """redis-py takes the entries of ACL LOG apart; one of a refused client does not break that."""
    node = make_node(start, installed, *policy_of(pki))
    assert node.outcome(pki.bob) == refuse("no_binding")
    entry: Any = node.admin.acl_log()[0]
    assert (entry["object"], entry["client-info"]["addr"][:10]) == ("no_binding", "127.0.0.1:")


def test_acl_load_gives_no_rights_to_who_has_none(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """ACL LOAD looks every client's user up by name again; the user without rights has a name that
    no ACL user can have."""
    everything = "on nopass ~* &* +@all"
    users = tmp_path / "users.acl"
    users.write_text(
        f"user {OPERATOR} on >{OPERATOR} ~* &* +@all\nuser default {everything}\n"
        f"user certauth {everything}\nuser refused {everything}\n"
    )
    node = Node(start(server_kind, module=["journal", "certauth"], config=[f"aclfile {users}"]))
    node.load(policy_of(pki, USER_BOB, f"bind key {pki.bob.key_id} alice bob"))
    with pytest.raises(redis.ResponseError, match="spaces"):
        node.call("ACL", "SETUSER", NOBODY, "on", "nopass", "+@all")
    assert node.outcome(pki.bob) == CHOOSE
    with node.connect(pki.bob) as connection:
        assert whoami(connection)["user"] == NOBODY
        node.admin.acl_load()
        # Kept, or closed because its user is in no file: either way it may do nothing.
        with suppress(*CLOSED):
            with pytest.raises(redis.ResponseError, match="permissions"):
                connection.command("SET", "leak", "1")
            assert whoami(connection)["user"] == NOBODY
    assert node.admin.get("leak") is None
    wait_until(lambda: node.outcome(pki.alice) == LOGIN, "alice, whom the file lacks, is back")


def test_unix_clients_are_never_closed(server_kind: Server, start: Start, pki: Pki) -> None:
    """Whatever the policy says of plain clients, the operator gets in by the unix socket."""
    node = make_node(start, server_kind, *policy_of(pki))
    local = node.server.admin()
    before = local.client_id()
    node.patch("+set plain refuse")
    assert local.client_id() == before
    assert node.server.admin(db=1).ping()
