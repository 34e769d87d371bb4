"""From the first moment on: what journal, bootstrap file and arguments make of a start."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from control.policy import core
from control.policy.lines import MARK
from tests.kit.node import (
    ALICE,
    JOURNAL,
    Start,
    authority,
    bind,
    bootstrap,
    enrolled,
    is_open,
    journal,
    keep_configuration,
    load,
    nothing_changes,
    patch,
    reasons,
    refused,
    rules,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import MODULE, Cert, Pki, RedisServer, ServerDied, days, root, wait_until

# Off, with rights that somebody would have who held it all the same.
DEFAULT_OFF = "user default adopt off ~* &* +@all"
BOB_BY_PASSWORD = "user bob on >pw ~* &* +@all"


@contextmanager
def observed(server: RedisServer, *certs: Cert | None) -> Iterator[dict[Cert | None, set[Any]]]:
    """While this lasts, clients of these certificates (None: without) come again and again, as soon
    as the port is open; the sets hold what became of them, see `who`."""
    seen: dict[Cert | None, set[Any]] = {cert: set() for cert in certs}
    done = threading.Event()

    def knock(cert: Cert | None) -> None:
        while not done.is_set():
            try:
                server.tls(cert).connect().close()
            except OSError:
                continue  # the port is not open yet
            seen[cert].add(who(server, cert))

    threads = [threading.Thread(target=knock, args=(cert,)) for cert in certs]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()


def restarted(server: RedisServer, *certs: Cert | None) -> dict[Cert | None, set[Any]]:
    """Starts it again and tells what became of clients that came from the first moment on."""
    with observed(server, *certs) as seen:
        server.start()
        wait_until(lambda: all(seen.values()), "each client came once")
    return seen


def assert_undisputed(seen: dict[Cert | None, set[Any]], pki: Pki) -> None:
    """Alice was alice each time, and nobody else anybody: without a certificate one may log in, or
    is closed if one held `default` before it went off."""
    assert seen.keys() == {pki.alice, pki.bob, None}
    assert seen[pki.alice] == {"alice"}
    assert seen[pki.bob] == {None}
    assert seen[None] <= {"", None}


# ---- The policy is in force before the first client ----------------------------------------------


@pytest.mark.parametrize("crash", [False, True], ids=["stop", "kill"])
def test_the_first_client_is_decided_by_the_journal(
    server_kind: Server, start: Start, pki: Pki, crash: bool
) -> None:
    """Anyone who comes as soon as the port opens finds policy and users as they were
    acknowledged."""
    server = enrolled(start, server_kind, pki, DEFAULT_OFF)
    alice = server.client(pki.alice)
    assert patch(alice, 1, 2, ["+bind cn x alice"])["generation"] == 2
    server.kill() if crash else server.stop()
    seen = restarted(server, pki.alice, pki.bob, None)
    assert_undisputed(seen, pki)
    again = status(server.client(pki.alice))
    lines = [*usual(pki), DEFAULT_OFF, "bind cn x alice"]
    assert (again["generation"], again["digest"]) == (2, core.digest(lines))


def test_acknowledged_is_there_after_every_kill(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Killed right after each reply, the server comes back with what it had replied."""
    server = enrolled(start, server_kind, pki)
    for generation in range(2, 7):
        sign = "+-"[generation % 2]
        patch(server.admin(), generation - 1, generation, [f"{sign}{bind(pki.bob, 'alice')}"])
        server.kill()
        server.start()
        assert status(server.admin())["generation"] == generation
        assert who(server, pki.bob) == ("alice" if sign == "+" else None)
        assert who(server, pki.alice) == "alice"


def test_the_first_plain_client_is_decided_by_the_journal(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """On a plain port too, `default` is off before anybody can use it."""
    server = enrolled(start, server_kind, pki, DEFAULT_OFF, plain=True)
    for _ in range(5):
        server.kill()
        server.start(wait=False)
        address = ("127.0.0.1", server.plain_port)

        def connected(address: tuple[str, int] = address) -> socket.socket | None:
            try:
                return socket.create_connection(address, timeout=10)
            except OSError:
                return None

        with wait_until(connected, "the port is open") as connection, suppress(ConnectionError):
            connection.sendall(b"PING\r\n")
            answer = connection.recv(100)
            assert answer == b"" or answer.startswith(b"-NOAUTH")
        server.wait_ready()


def test_clients_are_decided_while_the_data_loads(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """No timer runs then, yet alice is alice, a stranger gets no answer, nobody is a `default` that
    is off, and the policy cannot be written."""
    slow = ["key-load-delay 1000", "loading-process-events-interval-bytes 1024"]
    server = enrolled(start, server_kind, pki, DEFAULT_OFF, config=slow, io_threads=4)
    alice = server.client(pki.alice)
    alice.execute_command("DEBUG", "POPULATE", "1500", "key", "100")
    alice.save()
    server.stop()
    with observed(server, pki.alice, pki.bob, None) as seen:
        server.start(wait=False)
        wait_until(lambda: all(seen.values()), "each client came once")
        alice = server.client(pki.alice)
        with pytest.raises(redis.exceptions.BusyLoadingError):
            load(alice, 2, [])
        assert status(alice)["generation"] == 1
        assert alice.info("persistence")["loading"] == 1
        server.wait_ready()
    assert_undisputed(seen, pki)
    assert reasons(server.client(pki.alice))["no_binding"] > 0
    assert server.client(pki.alice).dbsize() == 1500


# ---- Whatever the configuration holds ------------------------------------------------------------


def test_a_user_of_the_configuration_is_the_policys(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """redis.conf's user of the same name neither ends the start nor keeps its password."""
    config = ["user alice on >pw ~* &* +@all", BOB_BY_PASSWORD]
    policy = ["set enforce on", authority(pki.ca), bind(pki.alice, "alice")]
    server = start(server_kind, module=JOURNAL, config=config)
    load(server.admin(), 1, [*policy, "user alice adopt on ~a:* +@read +acl|whoami"])
    for _ in range(2):
        found = rules(server.admin(), "alice")
        assert found
        assert re.findall("#([0-9a-f]{64})", found) == [MARK]  # and no password
        assert "~a:*" in found
        assert who(server, pki.alice) == "alice"
        with pytest.raises(redis.AuthenticationError):
            server.admin(username="alice", password="pw").ping()
        assert server.admin(username="bob", password="pw").acl_whoami() == "bob"
        server.stop()
        assert restarted(server, pki.alice)[pki.alice] == {"alice"}


def test_a_user_of_the_aclfile_is_the_policys(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Also after ACL SAVE, which writes the policy's users into the file."""
    file = tmp_path / "users.acl"
    file.write_text(
        f"user default on nopass ~* &* +@all\nuser alice on >pw ~* &* +@all\n{BOB_BY_PASSWORD}\n"
    )
    server = start(server_kind, module=JOURNAL, config=[f"aclfile {file}"])
    policy = ["set enforce on", authority(pki.ca), bind(pki.alice, "alice")]
    load(server.admin(), 1, [*policy, "user alice adopt on ~a:* +@read +acl|whoami"])
    for _ in range(3):
        found = rules(server.admin(), "alice")
        assert found
        assert re.findall("#([0-9a-f]{64})", found) == [MARK]  # and no password
        assert "~a:*" in found
        server.admin().acl_save()
        server.stop()
        assert restarted(server, pki.alice)[pki.alice] == {"alice"}
    patch(server.admin(), 1, 2, ["-user alice adopt on ~a:* +@read +acl|whoami"])
    assert server.admin(username="alice", password="pw").acl_whoami() == "alice"
    assert server.admin(username="bob", password="pw").acl_whoami() == "bob"


def test_a_rewritten_configuration_starts_again(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """CONFIG REWRITE writes our users and the loadmodule line: the next start takes both back."""
    module = bootstrap(tmp_path, "limit -flushall")
    server = enrolled(start, server_kind, pki, DEFAULT_OFF, module=module)
    for generation in range(2, 4):
        admin = server.client(pki.alice)
        patch(admin, generation - 1, generation, [f"+bind cn x{generation} alice"])
        admin.config_rewrite()
        assert "user alice on" in server.conf.read_text()
        server.stop()
        keep_configuration(server)
        seen = restarted(server, pki.alice, pki.bob, None)
        assert_undisputed(seen, pki)
        with pytest.raises(redis.exceptions.NoPermissionError):
            server.client(pki.alice).flushall()
    assert status(server.client(pki.alice))["generation"] == 3


def test_a_rewritten_cluster_node_starts_again(server_kind: Server, start: Start, pki: Pki) -> None:
    """What the cluster has written, nodes.conf, and what CONFIG REWRITE has: its slots and its
    policy are there at the next start."""

    def serves() -> bool:
        return "cluster_state:ok" in str(server.admin().execute_command("CLUSTER", "INFO"))

    server = enrolled(start, server_kind, pki, config=["cluster-enabled yes"])
    server.admin().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(serves, "it has all slots", 30)
    server.admin().config_rewrite()
    assert server.conf.read_text().count("loadmodule ") == 1
    server.stop()
    keep_configuration(server)
    server.start()
    wait_until(serves, "it has them again", 30)
    assert (who(server, pki.alice), who(server, pki.bob)) == ("alice", None)


def test_default_lines_of_the_configuration_do_not_win(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """`default` is what the policy says, with a password in redis.conf as without."""
    config = ["user default on >pw ~* &* +@all"]
    server = start(server_kind, module=JOURNAL, config=config)
    load(server.admin(password="pw"), 1, [*usual(pki), DEFAULT_OFF])
    server.stop()
    seen = restarted(server, pki.alice, None)
    assert seen[pki.alice] == {"alice"}
    assert seen[None] <= {"", None}
    with pytest.raises(redis.AuthenticationError):
        server.admin(password="pw").ping()
    patch(server.client(pki.alice), 1, 2, ["-" + DEFAULT_OFF])
    assert server.admin(password="pw").ping()


# ---- Journals that are not as they were left -----------------------------------------------------


@pytest.fixture
def ops(pki: Pki) -> Cert:
    return pki.ca.issue("CN=ops,O=acme")


@pytest.fixture
def ops_lines(pki: Pki, ops: Cert) -> tuple[str, ...]:
    return (authority(pki.ca), bind(ops, "ops"), "user ops on ~* &* +@all")


@pytest.fixture
def module(tmp_path: Path, ops_lines: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments with a bootstrap file by which `ops` comes in."""
    return bootstrap(tmp_path, *ops_lines)


def flip(server: RedisServer) -> str:
    text = journal(server).read_bytes()
    journal(server).write_bytes(text.replace(b"alice on", b"alicf on", 1))
    return "record 1 "


def cut_front(server: RedisServer) -> str:
    first, _, rest = journal(server).read_bytes().partition(b"record 1 ")
    journal(server).write_bytes(first + rest[rest.index(b"record 2 ") :])
    return "record 1 "


def other_text(server: RedisServer) -> str:
    journal(server).write_text("user alice on nopass ~* +@all\n")
    return "not a journal"


def remove_file(server: RedisServer) -> str:
    journal(server).unlink()
    return "enrolled"


def empty_file(server: RedisServer) -> str:
    journal(server).write_bytes(b"")
    return "enrolled"


def remove_directory(server: RedisServer) -> str:
    shutil.rmtree(server.directory / "journal")
    return "enrolled"


def a_file_in_its_place(server: RedisServer) -> str:
    remove_directory(server)
    (server.directory / "journal").write_text("")
    return "journal"


DAMAGES = [
    flip, cut_front, other_text, remove_file, empty_file, remove_directory, a_file_in_its_place
]  # fmt: skip


def assert_only_ops_decides(server: RedisServer, pki: Pki, ops: Cert, said: str) -> None:
    admin = server.client(ops)
    assert admin.acl_whoami() == "ops"
    assert said in status(admin)["journal"]
    assert "only the bootstrap file decides" in server.log
    assert said in server.log
    assert turned_away(server, pki.alice, admin) == "no_journal"
    assert (rules(admin, "default") or "").startswith("off ")
    assert who(server) is None
    with pytest.raises(redis.AuthenticationError):
        server.admin().ping()
    with refused("NOJOURNAL .*"):
        load(admin, 9, usual(pki), "FORCE")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_journal_leaves_bootstrap_alone(
    installed: Server, start: Start, pki: Pki, module: Any, ops: Cert,
    damage: Callable[[RedisServer], str],
) -> None:  # fmt: skip
    """Only ops comes in, to repair it; nobody else does, by certificate or by `default`; STATUS and
    the log say what is wrong; and the damage is still there at the next start."""
    server = enrolled(start, installed, pki, module=module)
    patch(server.admin(), 1, 2, ["+bind cn x alice"])
    server.stop()
    good = journal(server).read_bytes()
    said = damage(server)
    for _ in range(2):
        server.start()
        assert_only_ops_decides(server, pki, ops, said)
        assert server.client(ops).info("certauth")["certauth_journal"] == "damaged"
        server.stop()
    if (server.directory / "journal").is_file():
        (server.directory / "journal").unlink()
    (server.directory / "journal").mkdir(exist_ok=True)
    journal(server).write_bytes(good)
    server.start()
    assert status(server.admin())["generation"] == 2
    assert server.admin().info("certauth")["certauth_journal"] == "ok"
    assert who(server, pki.alice) == "alice"


def test_damage_refuses_from_the_first_moment(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """On every server, no matter who comes first."""
    server = enrolled(start, server_kind, pki, module=module)
    server.stop()
    said = flip(server)
    seen = restarted(server, ops, pki.alice, None)
    assert seen == {ops: {"ops"}, pki.alice: {None}, None: {None}}
    assert_only_ops_decides(server, pki, ops, said)


def test_a_journal_that_cannot_be_made_leaves_bootstrap_alone(
    installed: Server, start: Start, pki: Pki, tmp_path: Path, ops_lines: Any, ops: Cert
) -> None:
    """A path that leads nowhere is no empty policy."""
    arguments = bootstrap(tmp_path, *ops_lines)[2:]
    server = start(installed, module=["journal", "no/such/place", *arguments])
    assert_only_ops_decides(server, pki, ops, "no/such/place")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_torn_tail_is_dropped(installed: Server, start: Start, pki: Pki, kept: float) -> None:
    """A record without its end was never acknowledged: the policy before it is in force, and the
    log says so."""
    server = enrolled(start, installed, pki)
    before = journal(server).read_bytes()
    patch(server.admin(), 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    record = journal(server).read_bytes()[len(before) :]
    server.kill()
    journal(server).write_bytes(before + record[: int(len(record) * kept)])
    server.start()
    assert status(server.admin())["generation"] == 1
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob) == "no_binding"
    assert "dropped" in server.log
    assert journal(server).read_bytes() == before
    patch(server.admin(), 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    assert who(server, pki.bob) == "alice"


def test_without_journal_and_marker_it_is_a_first_install(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Nobody is logged in by certificate and nobody is closed."""
    server = enrolled(start, server_kind, pki)
    server.stop()
    remove_directory(server)
    (server.directory / "journal.enrolled").unlink()
    server.start()
    admin = server.admin()
    told = status(admin)
    assert (told["generation"], told["lines"], told["journal"]) == (0, 0, "ok")
    assert who(server, pki.alice) == who(server, pki.bob) == who(server) == "default"
    assert not any(reasons(admin).values())
    load(admin, 1, usual(pki))
    assert turned_away(server, pki.bob) == "no_binding"


def test_one_journal_has_one_server(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, ops_lines: Any, ops: Cert
) -> None:
    """The second one refuses certificates and says who holds it; the first goes on; and when the
    first has ended, the second may have it."""
    first = enrolled(start, server_kind, pki)
    arguments = bootstrap(tmp_path, *ops_lines)[2:]
    place = str(first.directory / "journal")
    second = start(server_kind, module=["journal", place, *arguments])
    assert_only_ops_decides(second, pki, ops, f"another server (process {first.pid}) holds")
    assert patch(first.admin(), 1, 2, ["+bind cn x alice"])["generation"] == 2
    assert who(first, pki.alice) == "alice"
    first.kill()
    second.stop()
    second.start()
    assert status(second.client(ops))["generation"] == 2
    assert who(second, pki.alice) == "alice"


# ---- Arguments -----------------------------------------------------------------------------------

ARGUMENTS = {
    "none": ([], "the journal is missing"),
    "no value": (["journal"], "'journal' lacks its value"),
    "unknown": (["journal", "journal", "policy", "x"], "'policy x' is not an argument"),
    "no bootstrap": (
        ["journal", "journal", "bootstrap", "nosuch"],
        "bootstrap file nosuch: No such",
    ),
    "bootstrap is a directory": (["journal", "journal", "bootstrap", "."], "directory"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_bad_argument_ends_the_start(installed: Server, start: Start, name: str) -> None:
    """A server that would run without its policy does not run; the log says what to change."""
    module, said = ARGUMENTS[name]
    with pytest.raises(ServerDied, match=f"certauth cannot be loaded: .*{said}"):
        start(installed, module=module)


BOOTSTRAPS = {
    "does not parse": ("bind cn x", "the user is missing"),
    "set": ("set enforce on", "bootstrap file holds"),
    "allow": ("allow CN=x", "bootstrap file holds"),
    "revoke": (f"revoke key {'0' * 64}", "bootstrap file holds"),
    "was": ("was alice on", "bootstrap file holds"),
    "two users": ("user a off", "key"),
    "a password": ("user b on >pw", "no password"),
    "a rule that nobody knows": ("user b on +@nosuch", "nosuch"),
    "a limit that nobody knows": ("limit -@nosuch", "nosuch"),
    "a limit that gives": ("limit +@all", "take away"),
}


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_a_bad_bootstrap_line_ends_the_start(
    installed: Server, start: Start, tmp_path: Path, name: str
) -> None:
    """Its number is named; comments and empty lines count as lines and are none."""
    line, said = BOOTSTRAPS[name]
    module = bootstrap(tmp_path, "# People who come in always.", "", "user a on +@all", line)
    with pytest.raises(ServerDied, match=f"cannot be loaded: .*bootstrap.*, line 4: .*{said}"):
        start(installed, module=module)
    start(installed, module=bootstrap(tmp_path, "# Nobody.", "", "user a on +@all"))


def test_the_module_stays_and_is_there_once(server_kind: Server, start: Start, pki: Pki) -> None:
    """Without it nobody would decide: it can neither be unloaded nor loaded over itself."""
    server = enrolled(start, server_kind, pki, config=["enable-module-command local"])
    for call in ("UNLOAD certauth", f"LOAD {MODULE} journal other"):
        with pytest.raises(redis.RedisError):
            server.admin().execute_command("MODULE", *call.split())
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob) == "no_binding"


# ---- Bootstrap -----------------------------------------------------------------------------------

POLICIES: dict[str, Callable[[Pki], list[str] | None]] = {
    "never any": lambda _: None,
    "empty": lambda _: [],
    "off": lambda pki: ["set enforce off", authority(pki.ca), bind(pki.alice, "alice")],
    "shadow": lambda pki: ["set enforce shadow", authority(pki.ca), bind(pki.alice, "alice")],
    "on": usual,
    "without its CA": lambda _: ["set enforce on", authority(root("CN=Another CA"))],
    "gate": lambda pki: [*usual(pki), "set gate full_subject", "allow CN=alice OU=eng O=acme"],
    "default off": lambda pki: [*usual(pki), DEFAULT_OFF],
    "plain refused": lambda pki: [*usual(pki), "set plain refuse"],
}


@pytest.mark.parametrize("name", POLICIES)
def test_bootstrap_lines_are_always_in_force(
    installed: Server, start: Start, pki: Pki, module: Any, ops: Cert, name: str
) -> None:
    """Whatever the policy says or does not say, ops is ops, now and after a restart."""
    server = start(installed, module=module)
    lines = POLICIES[name](pki)
    assert who(server, ops) == "ops"
    if lines is not None:
        load(server.client(ops), 1, lines)
    for _ in range(2):
        assert who(server, ops) == "ops"
        told = status(server.client(ops))
        assert told["lines"] == len(lines or [])
        assert told["digest"] == core.digest(lines or [])
        server.stop()
        server.start()
    assert who(server, pki.ca.issue("CN=ops,O=acme")) != "ops"


def test_the_policy_may_revoke_a_bootstrap_certificate(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """A stolen key is stolen: open sessions go, new ones are refused, until the line goes."""
    server = enrolled(start, server_kind, pki, module=module)
    serial = f"serial {pki.ca.key_id} {ops.serial}"
    for base, what in ((1, f"cert {ops.fingerprint}"), (3, f"key {ops.key_id}"), (5, serial)):
        session = server.client(ops, single_connection_client=True)
        assert session.acl_whoami() == "ops"
        patch(server.admin(), base, base + 1, [f"+revoke {what}"])
        wait_until(lambda session=session: not is_open(session), "the session is closed")
        assert turned_away(server, ops) == "revoked"
        patch(server.admin(), base + 1, base + 2, [f"-revoke {what}"])
        assert who(server, ops) == "ops"


def test_a_bootstrap_certificate_ends(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Its session is closed when its time is over."""
    short = pki.ca.issue("CN=ops", not_after=days(2 / 86400))
    lines = (authority(pki.ca), bind(short, "ops"), "user ops on ~* &* +@all")
    server = start(installed, module=bootstrap(tmp_path, *lines))
    session = server.client(short, single_connection_client=True)
    assert session.acl_whoami() == "ops"
    wait_until(lambda: not is_open(session), "the session is closed")
    assert short.certificate.not_valid_after_utc.timestamp() < time.time()


LIMITED = (
    "user alice on ~* &* +@all",
    "user alice on ~* &* -@all +@admin +@dangerous +config +config|get",
    "user alice on ~* &* +@all allcommands",
    "user alice on (~* &* +@all)",
    'user alice on ~x +ping "(~* +@all)" "(~y +config +config|get +@admin)"',
)


def test_limits_cap_every_user_of_the_policy(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, ops_lines: Any, ops: Cert
) -> None:
    """Whatever comes after it in a line, inside selectors too, and after a restart; ops itself is
    not capped."""
    limits = ("limit -@admin -@dangerous", "limit -flushall")
    server = start(server_kind, module=bootstrap(tmp_path, *ops_lines, *limits))

    def assert_capped() -> None:
        for command in (("CONFIG", "GET", "x"), ("FLUSHALL",), ("ACL", "LIST"), ("KEYS", "*")):
            said = server.client(ops).execute_command("ACL", "DRYRUN", "alice", *command)
            assert "no permissions" in str(said), (command, said)
        assert server.client(ops).config_get("port")
        with pytest.raises(redis.exceptions.NoPermissionError):
            status(server.client(pki.alice))

    for generation, line in enumerate(LIMITED, 1):
        load(server.client(ops), generation, [*usual(pki)[:3], line])
        assert who(server, pki.alice) in ("alice", None)
        assert_capped()
    server.stop()
    server.start()
    assert_capped()


def test_a_patch_does_not_undo_a_limit(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """A line that replaces another is capped as well."""
    server = enrolled(start, installed, pki, module=bootstrap(tmp_path, "limit -config"))
    patch(server.admin(), 1, 2, [f"-{ALICE}", f"+{ALICE} +config +config|get"])
    with pytest.raises(redis.exceptions.NoPermissionError):
        server.client(pki.alice).config_get("port")
    assert server.client(pki.alice).set("key", "value")


def test_the_policy_has_no_say_about_a_bootstrap_user(
    server_kind: Server, start: Start, pki: Pki, module: Any, ops: Cert
) -> None:
    """Neither its line nor an adoption; a note says whose the user is."""
    server = enrolled(start, server_kind, pki, module=module)
    for line in ("user ops off", "user ops adopt off", "user ops adopt on ~* +@all"):
        with nothing_changes(server, pki), refused("LINES 1 bad.*belongs to the bootstrap file"):
            patch(server.admin(), 1, 2, [f"+{line}"])
        with nothing_changes(server, pki), refused("LINES 1 bad.*belongs to the bootstrap file"):
            load(server.admin(), 2, [*usual(pki), line])
    assert who(server, ops) == "ops"


def test_a_bootstrap_user_cannot_be_changed_by_hand(
    installed: Server, start: Start, module: Any, ops: Cert
) -> None:
    """It is repaired as the policy's users are, with no policy at all."""
    server = start(installed, module=module)
    admin = server.admin()
    wait_until(lambda: rules(admin, "ops"), "ops is there")
    good = rules(admin, "ops")
    for change in (["off"], ["nopass"], [">pw"], ["-@all"]):
        admin.execute_command("ACL", "SETUSER", "ops", *change)
        wait_until(lambda: rules(admin, "ops") == good, f"ops is repaired after {change}")
    admin.acl_deluser("ops")
    wait_until(lambda: rules(admin, "ops") == good, "ops is back")
    assert who(server, ops) == "ops"


def test_a_user_of_the_configuration_gives_way_to_bootstrap(
    server_kind: Server, start: Start, module: Any, ops: Cert
) -> None:
    """A password of the same name in redis.conf opens nothing."""
    server = start(server_kind, module=module, config=["user ops on >pw ~* &* +@all"])
    assert who(server, ops) == "ops"
    with suppress(redis.ConnectionError), pytest.raises(redis.AuthenticationError):
        server.admin(username="ops", password="pw").ping()
    server.admin().config_rewrite()
    server.stop()
    keep_configuration(server)
    assert restarted(server, ops)[ops] == {"ops"}
