"""MODULE LOAD into a server that runs, UNLOAD, and what becomes of the clients that are there."""

import hashlib
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.policies import (
    LOGIN,
    USER_BOB,
    Handshake,
    Start,
    bare,
    closed,
    load,
    make_node,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server, servers
from tests.kit.support import MODULE, Pki, RedisServer, TlsConnection, wait_until

LEAKS = "which leaks memory each time before Redis 8.6.2"


def name(connection: TlsConnection) -> Any:
    return connection.command("ACL", "WHOAMI")


@pytest.mark.parametrize("io_threads", [1, 4])
def test_a_policy_takes_force_in_a_running_server(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """The journal that is there decides from now on. With `default` off anyone who holds it is
    closed, with TLS and without; anyone who came by a password of the operator's goes on; and the
    client who has loaded it reads his answer."""
    node = bare(start, server_kind, pki, "user default adopt off", io_threads=io_threads)
    plain: Any = node.server.plain_client(single_connection_client=True)
    worker: Any = node.server.plain_client(
        single_connection_client=True, username="worker", password="secret"
    )
    before = worker.client_id()
    assert plain.ping()
    with node.connect(pki.alice) as certified, node.connect() as without:
        assert (name(certified), name(without)) == (b"default", b"default")
        load(node)
        assert (closed(certified), closed(without)) == (True, True)
    with pytest.raises(redis.ConnectionError):
        plain.ping()
    assert worker.client_id() == before
    assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))
    assert node.counters()["api_certificates"] == 0


def test_whoever_loads_it_is_answered(server_kind: Server, start: Start, pki: Pki) -> None:
    """Even where the client who loads the module holds `default`, which its policy switches off."""
    node = bare(start, server_kind, pki, "user default adopt off")
    answer: Any = node.server.admin().execute_command
    assert answer("MODULE", "LOAD", str(MODULE), "journal", "certauth") in ("OK", True)
    assert node.outcome(pki.alice) == LOGIN


def test_a_client_from_before_gains_nothing(server_kind: Server, start: Start, pki: Pki) -> None:
    """Its certificate was never shown to the module: it stays what it is, is in no list of
    sessions, and becomes no user of the policy. When it comes again it is decided."""
    node = bare(start, server_kind, pki, USER_BOB)
    with node.connect(pki.alice) as alice, node.connect(pki.bob) as bob:
        assert (name(alice), name(bob)) == (b"default", b"default")
        load(node)
        for connection in (alice, bob):
            known = whoami(connection)
            assert (known["user"], known["reason"]) == ("default", "undecided")
            assert known["subject"] is None
            for attempt in (("CERTAUTH.LOGIN",), ("CERTAUTH.LOGIN", "alice"), ("AUTH", "bob", "x")):
                with pytest.raises(redis.ResponseError):
                    connection.command(*attempt)
            assert name(connection) == b"default"
        listed = node.call("CERTAUTH.SESSIONS")
        assert "CN=alice" not in str(listed)
    assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))


def test_nobody_stays_a_user_that_the_policy_takes_over(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A client that was alice by a password, before the module made alice who her certificate is,
    is closed."""
    node = bare(start, server_kind, pki)
    node.call("ACL", "SETUSER", "alice", "on", ">old", "+@all", "~*")
    with node.connect() as connection:
        assert connection.command("AUTH", "alice", "old") == b"OK"
        assert name(connection) == b"alice"
        load(node)
        assert node.outcome(pki.alice) == LOGIN
        assert closed(connection)


@pytest.mark.parametrize("io_threads", [1, 4])
def test_a_handshake_under_way_is_decided_when_it_ends(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """Its TLS connection is older than the module, so that the certificate comes through the
    server: the right one, with one warning that counts them."""
    node = bare(start, server_kind, pki, io_threads=io_threads)
    shakes = {}
    with ExitStack() as stack:
        for cert, count in ((pki.alice, 20), (pki.bob, 20)):
            shakes[cert] = [Handshake(node.server.tls(cert)) for _ in range(count)]
            for shake in shakes[cert]:
                stack.callback(shake.close)
                shake.begin()
        wait_until(lambda: node.admin.info("clients")["connected_clients"] == 41, "all are there")
        load(node)
        for mine, others in zip(shakes[pki.alice], shakes[pki.bob], strict=True):
            others.finish(b"ACL WHOAMI\r\n")
            mine.finish(b"ACL WHOAMI\r\nQUIT\r\n")
        assert {shake.receive() for shake in shakes[pki.alice]} == {b"$5\r\nalice\r\n+OK\r\n"}
        # A refused client may hear that before its end, and nothing else.
        over = b"-ERR unknown command 'certauth:session-is-over'"
        heard = {shake.receive() for shake in shakes[pki.bob]} - {b""}
        assert all(one.startswith(over) and one.count(b"\r\n") == 1 for one in heard), heard
    counters = node.counters()
    assert (counters["logins"], counters["refused_no_binding"]) == (20, 20)
    assert counters["api_certificates"] == 40
    assert node.server.log.count(LEAKS) == 1
    assert node.outcome(pki.alice) == LOGIN
    assert node.counters()["api_certificates"] == 40


def test_handshakes_under_way_end_with_default(server_kind: Server, start: Start, pki: Pki) -> None:
    """With `default` off they are decided, or closed; none is `default`, and the server lives."""
    node = bare(start, server_kind, pki, "user default adopt off", io_threads=4)
    shakes = [Handshake(node.server.tls(pki.alice)) for _ in range(20)]
    for shake in shakes:
        shake.begin()
    wait_until(lambda: node.admin.info("clients")["connected_clients"] == 21, "all are there")
    load(node)
    heard = set()
    for shake in shakes:
        try:
            shake.finish(b"ACL WHOAMI\r\nQUIT\r\n")
            heard.add(shake.receive())
        except OSError:
            heard.add(b"")
        shake.close()
    assert heard <= {b"", b"$5\r\nalice\r\n+OK\r\n"}
    assert node.outcome(pki.alice) == LOGIN


def test_the_leak_is_told_once_and_counted(server_kind: Server, start: Start, pki: Pki) -> None:
    """Certificates that come through the server are counted in INFO; the log warns at the first."""
    node = make_node(start, server_kind, *policy_of(pki), module=["certificates", "api"])
    for count in range(1, 6):
        assert node.outcome(pki.alice) == LOGIN
        assert node.counters()["api_certificates"] == count
    assert node.server.log.count(LEAKS) == 1


# ---- Not unloaded, not loaded twice --------------------------------------------------------------


def test_it_is_not_unloaded(server_kind: Server, start: Start, pki: Pki) -> None:
    """UNLOAD is an error, in the server's words (a module whose timer runs is not unloaded);
    sessions, users, policy and decisions are what they were."""
    node = bare(start, server_kind, pki, "user default adopt off")
    load(node)
    with node.connect(pki.alice) as alice:
        assert name(alice) == b"alice"
        for _ in range(3):
            with pytest.raises(redis.RedisError, match="timer"):
                node.call("MODULE", "UNLOAD", "certauth")
        assert name(alice) == b"alice"
    assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))


@pytest.mark.parametrize("copied", [False, True])
def test_it_is_not_loaded_twice(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, copied: bool
) -> None:
    """Neither the same file nor a copy of it; the first goes on, and its journal is untouched."""
    path = Path(shutil.copy(MODULE, tmp_path / "another.so")) if copied else MODULE
    node = bare(start, server_kind, pki)
    load(node)
    kept = (node.server.directory / "certauth" / "policy").read_bytes()
    for _ in range(2):
        with pytest.raises(redis.ResponseError):
            load(node, path)
    assert "certauth is loaded already" in node.server.log
    assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))
    assert (node.server.directory / "certauth" / "policy").read_bytes() == kept
    node.patch("+set plain refuse")


@pytest.mark.parametrize("arguments", ["", "certauth bootstrap /nowhere", "certauth what 1"])
def test_a_failed_load_leaves_the_server_as_it_was(
    server_kind: Server, start: Start, pki: Pki, arguments: str
) -> None:
    """An argument that is wrong is an error with its reason in the log: nothing decides then, all
    clients stay, and a right one loads."""
    node = bare(start, server_kind, pki, io_threads=4)
    for _ in range(3):
        with pytest.raises(redis.ResponseError):
            node.call("MODULE", "LOAD", str(MODULE), "journal", *arguments.split())
    assert "certauth cannot be loaded" in node.server.log
    with node.connect(pki.alice) as alice:
        assert name(alice) == b"default"
        assert alice.command("SET", "k", "v") == b"OK"
    load(node)
    assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))


def test_one_file_serves_all(start: Start, pki: Pki) -> None:
    """The same bytes are mapped in each Redis and each Valkey, and decide the same."""
    whole = hashlib.sha256(MODULE.read_bytes()).hexdigest()
    mapped = {}
    for kind in servers():
        node = make_node(start, kind, *policy_of(pki))
        assert (node.outcome(pki.alice), node.outcome(pki.bob)) == (LOGIN, refuse("no_binding"))
        mapped[str(kind)] = hashlib.sha256(module_of(node.server).read_bytes()).hexdigest()
    assert mapped == {str(kind): whole for kind in servers()}


def module_of(server: RedisServer) -> Path:
    """The file that the process has mapped, by the kernel's word."""
    maps = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
    span = next(line.split()[0] for line in maps if line.endswith("certauth.so"))
    first, last = (part.lstrip("0") for part in span.split("-"))
    return Path(f"/proc/{server.pid}/map_files/{first}-{last}")


# The first release of a line without the published faults in closing TLS clients; "": it has none.
MENDED = {
    "redis-7.0": "", "redis-8.0": "", "redis-8.6": "8.6.6",
    "valkey-8.1": "8.1.9", "valkey-9.1": "9.1.1",
}  # fmt: skip


def test_the_module_says_what_it_runs_on(server_kind: Server, start: Start, pki: Pki) -> None:
    """One line of the log at load: the server's version, and of one with a published fault in
    closing TLS clients, which it is and what is without it."""
    log = make_node(start, server_kind, *policy_of(pki)).server.log
    (told,) = re.findall(r"certauth runs on (\w+ [\d.]+\b.*)", log)
    name, least = server_kind.name.capitalize(), MENDED[server_kind.line]
    assert told.startswith(f"{name} {server_kind.version}")
    if least and server_kind.release >= tuple(map(int, least.split("."))):
        assert "CVE" not in told
        return
    assert ("CVE-2026-56684" if name == "Valkey" else "CVE-2026-81934") in told
    assert f"has the fix, use {least or 'a later line'}" in told
