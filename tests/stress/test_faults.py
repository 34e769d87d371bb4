"""Disks, clocks, networks and neighbours that fail: nothing that was acknowledged is lost, no node
accepts whom the truth refuses, everything converges, and the logs say what happened.

What is killed is in test_chaos.py, what a journal says after each flipped bit in test_journal.py.
"""

import dataclasses
import errno
import random
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from control import store
from control.nodes import client
from control.nodes.lease import Lease
from control.nodes.worker import Worker
from control.policy import core
from control.store import Store
from tests.kit.faults import Clock, Cut, Disk, Proxy, Silence, Silent, under
from tests.kit.node import (
    Start,
    enrolled,
    load,
    patch,
    refused,
    show,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.plane import (
    SOON,
    Https,
    Plane,
    Serving,
    authority_of,
    certificate_user,
    database,
    enrolled_node,
    initialised,
    operator,
)
from tests.kit.policies import (
    HANDSHAKE,
    LOGIN,
    Node,
    client_id,
    closed,
    make_node,
    pairs,
    policy_of,
    refuse,
)
from tests.kit.servers import Server, servers
from tests.kit.support import Cert, Pki, RedisServer, days, root, wait_until

# CPython 3.11's wrap_socket leaves a socket open whose peer has sent RST by then (ssl.py, _create).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


# ---- Writes to a node, and its disk --------------------------------------------------------------

KEPT = 3  # changing lines in force
SAID = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


def line_of(generation: int) -> str:
    """Now and then longer than what is written at a time, so that a kill can fall between."""
    size = 90_000 if generation % 7 == 0 else 10
    return f"user u{generation} on ~{'k' * size}"


def lines_at(generation: int, pki: Pki) -> set[str]:
    """The policy that `Writer` has made by then."""
    changing = {line_of(g) for g in range(max(2, generation - KEPT + 1), generation + 1)}
    return {core.canonical(line) for line in {*usual(pki), *changing, revoked(pki)}}


def revoked(pki: Pki) -> str:
    return f"revoke cert {pki.bob.fingerprint}"


class Writer:
    """Changes a node's policy again and again, in a thread of its own, until it is stopped or the
    node ends; keeps what was acknowledged, and what was refused for the journal."""

    def __init__(self, server: RedisServer) -> None:
        self._admin = server.admin()
        self.generation = status(self._admin)["generation"]
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(redis.ConnectionError):
            while not self._stop.is_set():
                self._write(self.generation + 1)

    def _write(self, generation: int) -> None:
        changes = [f"+{line_of(generation)}"]
        if generation > KEPT + 1:
            changes.append(f"-{line_of(generation - KEPT)}")
        try:
            patch(self._admin, generation - 1, generation, changes)
        except redis.ResponseError as error:
            self.refused.append(str(error))
        else:
            self.generation = generation


def holds_what_was_acknowledged(server: RedisServer, last: int, pki: Pki) -> int:
    """The generation, which is the last acknowledged one or what was under way; and the
    policy is that of it, in force and by its digest."""
    admin = server.admin()
    now = status(admin)
    reached = int(now["generation"])
    assert last <= reached <= last + 1
    assert now["journal"] == "ok"
    assert set(show(admin)) == lines_at(reached, pki)
    assert now["digest"] == core.digest(lines_at(reached, pki))
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob, admin) == "revoked"
    return reached


# The installed server is enough for `make test`.
KINDS = [
    pytest.param(
        kind, id=str(kind), marks=[pytest.mark.servers, *([pytest.mark.slow] if number else [])]
    )
    for number, kind in enumerate(servers())
]
each_server = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.timeout(600)
@each_server
@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_within_writes_loses_nothing(
    kind: Server, start: Start, pki: Pki, rng: random.Random, rounds: int
) -> None:
    """At any moment of any write: after the restart it has the last policy that it acknowledged, or
    what was under way, whole; it refuses whom that refuses from the first connection on."""
    server = enrolled(start, kind, pki, revoked(pki))
    reached, torn = 1, 0
    for _ in range(rounds):
        with Writer(server) as writer:
            time.sleep(rng.uniform(0, 0.2))
            server.kill()
        server.stop()  # its clients
        server.start()
        torn += "journal: dropped" in server.log
        reached = holds_what_was_acknowledged(server, writer.generation, pki)
    print(f"\n{kind}: {rounds} kills, {reached} generations, {torn} torn records")
    assert reached > rounds


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_fails_at_random_loses_nothing(
    server_kind: Server, disk: Disk, start: Start, pki: Pki, rng: random.Random
) -> None:
    """Full, or with errors of fsync, at any moment, for a while or once, then killed: each refusal
    tells the system's reason, and nothing but what was acknowledged is there in the end."""
    server = enrolled(start, server_kind, pki, revoked(pki))
    refusals = 0
    for _ in range(15):
        with Writer(server) as writer:
            for _ in range(rng.randint(1, 4)):
                call, error = rng.choice([("pwrite", errno.ENOSPC), ("fsync", errno.EIO)])
                before = len(writer.refused)
                disk.fail(call, error)
                wait_until(lambda: len(writer.refused) > before, "a write is refused")  # noqa: B023
                assert writer.refused[-1].startswith("JOURNAL ")
                assert SAID[error] in writer.refused[-1]
                time.sleep(rng.uniform(0, 0.02))
                disk.heal()
                done = writer.generation
                wait_until(lambda: writer.generation > done, "it writes again")  # noqa: B023
            if rng.random() < 0.5:
                server.kill()
        refusals += len(writer.refused)
        if not server.running:
            server.stop()
            server.start()
        holds_what_was_acknowledged(server, writer.generation, pki)
    print(f"\n{server_kind}: {refusals} writes refused, generation {writer.generation}")


# ---- Journals that come back damaged -------------------------------------------------------------


def cut(rng: random.Random, whole: bytes) -> bytes:
    return whole[: rng.randrange(len(whole))]


def flipped(rng: random.Random, whole: bytes) -> bytes:
    changed = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 50])):
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(rng: random.Random, whole: bytes) -> bytes:
    """A page that never came, behind one that did."""
    at = rng.randrange(len(whole))
    return whole[:at] + bytes(min(4096, len(whole) - at)) + whole[at + 4096 :]


def has_policy_of(plane: Plane, server: RedisServer) -> bool:
    """A policy that is a server's first closes the clients that are `default` as it comes: on Redis
    7.0 one of them may still log in before it is closed."""
    with suppress(redis.ConnectionError):
        return set(show(operator(server))) == plane.lines()
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_journal_that_was_damaged_while_the_node_was_down(
    installed: Server, start: Start, plane: Plane, pki: Pki, rng: random.Random, rounds: int
) -> None:
    """Cut, flipped or zeroed anywhere: the node comes back with a policy that it once had, or says
    that its journal is damaged and lets nobody in but whom the bootstrap file names. The control
    plane then brings it up to date, or says what to do; once the file is moved away, that does."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    assert server.module is not None
    file = Path(server.module[1], "policy")
    plane.register(server)
    seen: dict[str, int] = {}
    for number in range(rounds):
        plane.user(pki.ca.issue(f"CN=u{number}"), f"u{number}")
        plane.in_step()
        server.stop()
        how = rng.choice([cut, flipped, zeroed])
        file.write_bytes(how(rng, file.read_bytes()))
        server.start()
        found = "whole" if status(operator(server))["journal"] == "ok" else "damaged"
        seen[found] = seen.get(found, 0) + 1
        if found == "damaged":
            assert who(server, pki.alice) is None
            assert "NOJOURNAL" in plane.says("NOJOURNAL")
            assert "only the bootstrap file decides" in server.log
            server.stop()
            file.unlink()
            for left in file.parent.parent.glob(f"{file.parent.name}.*"):
                left.unlink()
            server.start()
        wait_until(lambda: has_policy_of(plane, server), "it has the policy")
        plane.in_step()
        assert who(server, pki.alice) == "alice"
    print(f"\n{seen}")


# ---- Clocks --------------------------------------------------------------------------------------

HOUR = 3600


def hours(count: float) -> Any:
    """So many hours from now."""
    return days(count / 24)


@dataclass
class Watched:
    """A certificate, and the connection that came by it."""

    cert: Cert
    connection: Any = None
    ends: float = field(init=False)
    begins: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends = self.cert.certificate.not_valid_after_utc.timestamp()
        self.begins = self.cert.certificate.not_valid_before_utc.timestamp()

    def valid(self, now: float) -> bool:
        return self.begins <= now <= self.ends


@pytest.fixture
def old_pki(pki: Pki) -> Pki:
    """With a CA that has been there for long."""
    return Pki(root("CN=Old CA", not_before=days(-9)), pki.server_ca)


def events(node: Node) -> list[tuple[str, str]]:
    """What became of sessions, as CERTAUTH.LOG has it."""
    entries = [pairs(entry) for entry in pairs(node.call("CERTAUTH.LOG"))["entries"]]
    return [(one["event"], one["reason"]) for one in entries if one["event"] == "ended"]


@each_server
def test_a_clock_that_steps_over_the_end_of_a_certificate(
    kind: Server, clock: Clock, start: Start, old_pki: Pki
) -> None:
    """Forward: the session ends within seconds, and neither a new nor a resumed connection comes
    in. Back: the old session stays closed; a new one comes in, for the certificate is valid then.
    Back behind its beginning: nobody comes in."""
    short = old_pki.ca.issue(not_before=hours(-2), not_after=hours(0.02))  # a TLS session: 0.08
    node = make_node(start, kind, *policy_of(old_pki), pki=old_pki)
    peer = node.server.tls(short, "TLSv1_2")
    with node.connect(old_pki.alice) as other, peer.connect() as connection:
        numbers = client_id(other), client_id(connection)
        session = connection.session
        clock.step(73)
        assert closed(connection)
        assert node.outcome(short) == HANDSHAKE
        assert node.outcome(peer=peer, session=session) == refuse("expired")
        clock.set(0)
        assert closed(connection)
        assert node.outcome(short) == LOGIN
        with peer.connect() as again:
            assert client_id(again) > numbers[1]
            clock.set(-3 * HOUR)
            assert node.outcome(short) == HANDSHAKE
        assert client_id(other) == numbers[0]
    assert events(node) == [("ended", "expired")]


@each_server
def test_a_clock_that_was_set_back_still_ends_sessions(
    kind: Server, clock: Clock, start: Start, old_pki: Pki
) -> None:
    """After a step back of an hour a session ends when its certificate does, by the clock as it is
    now, and not an hour later; and users that were changed by hand are repaired as before."""
    node = make_node(start, kind, *policy_of(old_pki), pki=old_pki)
    clock.step(-HOUR)
    end = int(time.time()) - HOUR + 3
    short = old_pki.ca.issue(
        not_before=hours(-2), not_after=days(0).fromtimestamp(end, days(0).tzinfo)
    )
    with node.connect(short) as connection:
        assert client_id(connection)
        assert closed(connection)
        assert time.time() - HOUR > end
    node.admin.execute_command("ACL", "SETUSER", "alice", "nopass")
    wait_until(lambda: "was changed by hand" in node.server.log, "it is repaired")


@each_server
def test_a_write_that_meets_a_clock_set_back_is_answered(
    disk: Disk, kind: Server, start: Start, pki: Pki
) -> None:
    """Within its fsync, and in the steps after that."""
    clock = Clock(disk.folder)
    server = enrolled(start, kind, pki)
    with server.tls(None).connect() as connection:
        disk.hold()
        connection.send("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", "+bind cn x alice")
        disk.wait_held()
        clock.step(-HOUR)
        disk.release()
        assert connection.read()
    admin = server.admin()
    assert status(admin)["generation"] == 2
    assert patch(admin, 2, 3, ["+bind cn y alice"])["generation"] == 3


@each_server
def test_what_a_clock_set_back_meets_between_two_slices_goes_on(
    kind: Server, tmp_path: Path, start: Start, pki: Pki
) -> None:
    """A write, or the users at a start, whose next slice has a timer that is an hour late then: it
    is done within seconds. Nothing comes twice, when timers see the clock set forward."""
    disk, clock = Disk(tmp_path), Clock(tmp_path)
    keys = " ".join(f"~{n}" for n in range(100))

    def meet(step: int) -> None:
        """The main thread is held in an fsync of the data, and has more to do."""
        admin = server.admin()
        with server.tls(None).connect() as connection:
            disk.hold()
            connection.send("SET", "x", "1")
            disk.wait_held()
            clock.step(step)
            disk.release()
            assert connection.read() == b"OK"
        with refused("BUSY"):
            load(admin, 9, [], "FORCE")

    with under(tmp_path, ".incr.aof"):
        server = enrolled(start, kind, pki, config=["appendonly yes", "appendfsync always"])
        admin = server.admin()
        with server.tls(None).connect() as writer:
            writer.socket.settimeout(40)
            for base, step in ((1, -HOUR), (2, HOUR)):
                users = [f"+user {base}-{n} on {keys}" for n in range(5_000)]
                writer.send("CERTAUTH.POLICY", "PATCH", f"{base}", f"{base + 1}", "LINES", *users)
                wait_until(
                    lambda: status(admin)["generation"] > base,  # noqa: B023
                    "it is in force",
                    40,
                )
                meet(step)
                assert writer.read()
        server.stop()
        server.start()
    meet(-HOUR)
    admin = server.admin()
    wait_until(lambda: len(admin.acl_list()) > 10_000, "its users are there", 40)
    assert patch(admin, 3, 4, ["+bind cn x alice"])["generation"] == 4


@each_server
def test_who_is_to_go_after_the_answer_goes_though_the_clock_is_set_back(
    kind: Server, tmp_path: Path, start: Start, pki: Pki
) -> None:
    """Anyone who takes `default` from itself has 50 ms to read that it did, by a timer."""
    disk, clock = Disk(tmp_path), Clock(tmp_path)
    with under(tmp_path, ".incr.aof"):
        server = enrolled(start, kind, pki, config=["appendonly yes", "appendfsync always"])
        with server.tls(None).connect() as sender, server.tls(pki.alice).connect() as other:
            disk.hold()
            line = "+user default adopt off"
            assert sender.command("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", line)
            other.send("SET", "x", "1")
            disk.wait_held()
            clock.step(-HOUR)
            disk.release()
            assert closed(sender)


def test_who_is_to_go_goes_though_the_server_has_answered_for_us(
    installed: Server, disk: Disk, start: Start, pki: Pki
) -> None:
    """Redis 7.0 tells clients that wait in a cluster which is down so, and asks for no reply."""
    if installed.release >= (7, 2):
        pytest.skip(f"{installed} tells them nothing")
    server = enrolled(start, installed, pki, config=["cluster-enabled yes"])
    with server.tls(None).connect() as sender:
        disk.hold()
        line = "+user default adopt off"
        sender.send("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", line)
        disk.wait_held()
        with pytest.raises(redis.ResponseError, match="cluster is down"):
            sender.read()
        disk.release()
        assert closed(sender)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("io_threads", [1, 4])
def test_a_clock_that_jumps_about(
    server_kind: Server,
    clock: Clock,
    start: Start,
    old_pki: Pki,
    rng: random.Random,
    io_threads: int,
) -> None:
    """Of certificates that begin and end at different times, after each of 25 steps to anywhere:
    a client whose certificate has ended is closed and never comes back by itself; a good one
    stays, and comes in again; a bad one does not."""
    spans = [(rng.randint(-48, -1), rng.randint(1, 48)) for _ in range(8)]
    certs = [old_pki.ca.issue(not_before=hours(a), not_after=hours(b)) for a, b in spans]
    node = make_node(start, server_kind, *policy_of(old_pki), pki=old_pki, io_threads=io_threads)
    with ExitStack() as stack:
        watched = [Watched(cert) for cert in certs]
        for _ in range(25):
            clock.set(rng.randint(-50 * HOUR, 50 * HOUR))
            now = time.time() + clock.ahead
            if any(abs(now - at) < 30 for one in watched for at in (one.begins, one.ends)):
                continue
            for one in watched:
                if one.connection and now > one.ends:
                    assert closed(one.connection)
                    one.connection = None
                elif one.connection:
                    assert client_id(one.connection)
                assert node.outcome(one.cert) == (LOGIN if one.valid(now) else HANDSHAKE)
                if one.connection is None and one.valid(now):
                    one.connection = stack.enter_context(node.connect(one.cert))
                    assert client_id(one.connection)
    assert node.admin.ping()


@pytest.mark.slow
def test_clocks_of_the_control_plane(
    tmp_path: Path, installed: Server, start: Start, old_pki: Pki, rng: random.Random
) -> None:
    """A request by certificate is answered while that is valid by the clock of now, on a connection
    that is kept too; and after each step, to either side, changes reach the nodes as before."""
    config = initialised(tmp_path / "control")
    clock = Clock(tmp_path)
    with under(tmp_path):
        serving = Serving(config)
    try:
        trust = {"name": "mtls_trusted_ca", "certificate": old_pki.ca.pem.decode()}
        serving.ok("PUT /v1/cluster/update_cert", trust)
        serving.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
        serving.ok("POST /v1/users", certificate_user("alice"))
        alice = old_pki.ca.issue("CN=alice", not_before=hours(-2), not_after=hours(2))
        node = enrolled_node(start, installed, config.home, old_pki)
        serving.ok("POST /v1/bdbs?wait_for_sync=20", database(node))
        with Https(config, alice) as api:
            for number, ahead in enumerate([0, 3, 1, -3, -1, *rng.choices(range(-9, 10), k=5)]):
                clock.set(ahead * HOUR + 60)
                answer = api("GET /v1/users/role")
                code = "" if abs(ahead) < 2 else "expired" if ahead > 0 else "not_yet_valid"
                assert (answer.status, answer.code) == (401 if code else 200, code)
                made = certificate_user(f"user{number}")
                assert "pending" not in serving.ok("POST /v1/users?wait_for_sync=10", made)
    finally:
        serving.kill()


# ---- Networks and neighbours ---------------------------------------------------------------------


SILENCES: list[Silence] = ["accepts", "shakes hands", "answers a byte at a time"]


@pytest.mark.slow
@pytest.mark.parametrize("how", SILENCES)
def test_nodes_that_accept_and_never_answer(
    installed: Server,
    start: Start,
    plane: Plane,
    pki: Pki,
    how: Silence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty of them, more than there are threads: changes reach the node that answers as fast as
    ever, from the first moment on, and the database names each as UNREACHABLE."""
    monkeypatch.setattr(client, "COMMAND_SECONDS", 8.0)
    works = enrolled_node(start, installed, plane.config.home, pki)
    other = plane.register(works)
    plane.in_step(other)
    with ExitStack() as stack:
        silent = [stack.enter_context(Silent(pki.server, how)) for _ in range(20)]
        ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in silent]
        plane.register(works, name="silent", endpoints=ends)

        def told() -> list[str]:
            nodes = plane.ok("GET /v1/certauth/nodes")["nodes"]
            return [node["error"] for node in nodes if node["bdb_uid"] != other]

        wait_until(lambda: sum(one.accepted > 0 for one in silent) > 10, "they were asked")
        number = 0
        while not all("UNREACHABLE" in one for one in told()):
            number += 1
            cert = pki.ca.issue(f"CN=user{number}")
            plane.user(cert, f"user{number}")
            wait_until(lambda: who(works, cert) == f"user{number}", "it is there", SOON)  # noqa: B023
            assert number < 1000, told()
        plane.in_step(other, SOON)
        assert number > 1


CUTS = ["the handshake", "the first bytes", "the middle", "the end", "the answer", "anywhere"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("lines", "rounds"),
    [(1, 1), *(pytest.param(lines, 8, marks=pytest.mark.slow) for lines in (1, 1200))],
)
def test_a_connection_that_is_cut_in_the_middle_of_a_patch(
    installed: Server,
    start: Start,
    plane: Plane,
    pki: Pki,
    rng: random.Random,
    lines: int,
    rounds: int,
) -> None:
    """Within the handshake, at the first byte of a write, its middle, its last byte, in its answer,
    or anywhere, by FIN, by RST or by silence, in one call or staged in several: the node holds the
    policy from before, from after, or that without what goes, and the next try brings it up to
    date."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    admin = operator(server)
    with Proxy(server.port) as proxy:
        plane.register(server, endpoints=[{"addr": ["127.0.0.1"], "port": proxy.port}])
        plane.in_step()
        proxy.measure()
        aim, held = replaced(plane, lines, 0)
        policies = {aim: held}
        plane.in_step()
        sizes = dict(proxy.passed)
        for number, at in enumerate(CUTS * rounds, 1):
            cut = cut_of(rng, at, sizes)
            if rounds == 1 and cut.how == "stall":
                cut = dataclasses.replace(cut, how="reset")
            if at == "the handshake":
                proxy.drop()
            proxy.measure(cut)
            before = held
            aim, held = replaced(plane, lines, number)
            policies.update({aim: held, aim - 1: before & held})  # what goes, goes first

            def there(aim: int = aim) -> bool:
                now = status(admin)
                assert now["digest"] == core.digest(policies[now["generation"]])
                return bool(now["generation"] == aim and proxy.has_cut)

            wait_until(there, f"it is in step after {cut}", 30)
            assert set(show(admin)) == held
        plane.in_step()
        (node,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
        # Where a connection falls silent in a write, others are answered: the node is then slow.
        codes = ("UNREACHABLE",) if rounds == 1 else ("UNREACHABLE", "SLOW")
        assert node["last_error"].startswith(codes), node["last_error"]


def replaced(plane: Plane, count: int, number: int) -> tuple[int, set[str]]:
    """Other lines in place of as many; the generation with them, and the whole policy."""
    with plane.store._kernel.change() as connection:
        rows = connection.execute(store.statements.LINES_OF, {"owners": [999]})
        before = {(row.owner, row.line): row.id for row in rows}
        after = {(999, f"user x{number}-{one} on -@all") for one in range(count)}
        store.lines.move_lines(connection, 1, before, after)
        aim = store.lines.read_target(connection, 1).generation
    return aim, plane.lines()


def cut_of(rng: random.Random, at: str, sizes: dict[str, int]) -> Cut:
    """`sizes`: the bytes of a whole write, to the node and from it."""
    how: Any = rng.choice(["close", "close", "reset", "reset", "stall"])
    direction: Any = rng.choice(["to", "from"])
    match at:
        case "the handshake":
            return Cut(direction, rng.randint(0, 1500), how)
        case "the first bytes":
            return Cut("to", rng.randint(1, 60), how)
        case "the middle":
            return Cut("to", sizes["to"] // 2 + rng.randint(-20, 20), how)
        case "the end":
            return Cut("to", sizes["to"] - rng.randint(0, 40), how)
        case "the answer":
            return Cut("from", rng.randint(1, 120), how)
    return Cut(direction, rng.randint(1, sizes[direction]), how)


# ---- Who leads -----------------------------------------------------------------------------------


class Deluded(Lease):
    """Once it has had the lease, it is certain to have it for ever."""

    def hold(self) -> bool:
        return self._epoch > 0 or super().hold()

    def lose(self) -> None:
        pass

    @property
    def epoch(self) -> int:
        return self._epoch


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_control_planes_that_all_think_they_lead(
    installed: Server, start: Start, plane: Plane, pki: Pki, rng: random.Random
) -> None:
    """Five, each of which has had the lease and does not know that it is over: the node takes the
    last one's writes alone, its epoch and its generation never fall, and it holds what the store
    says; the others' logs say why they did nothing."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    admin = operator(node)
    plane.register(node)
    plane.in_step()
    plane.worker.stop()
    authorities = authority_of(plane.config).pem.decode()
    workers: list[Worker] = []
    stores: list[Store] = []
    before = status(admin)
    try:
        for number in range(5):
            stores.append(Store(plane.config.url))
            lease = Deluded(stores[-1])
            workers.append(Worker(stores[-1], plane.config.identity, authorities, lease=lease))
            workers[-1].start()
            wait_until(lambda: workers[-1].lease._epoch, "it leads")
            plane.store.lease.end(workers[-1].lease.holder)  # and the next one takes it
            for change in range(10):
                plane.user(pki.ca.issue(f"CN=u{number}-{change}"), f"u{number}-{change}")
                time.sleep(rng.uniform(0, 0.1))
                now = status(admin)
                assert (now["epoch"], now["generation"]) >= (before["epoch"], before["generation"])
                assert now["epoch"] <= workers[-1].lease.epoch
                before = now
        wait_until(lambda: set(show(admin)) == plane.lines(), "the node has it all")
        now = status(admin)
        assert now["epoch"] == workers[-1].lease.epoch
        assert now["generation"] == plane.store.policies.target(1).generation
        assert len({worker.lease.epoch for worker in workers}) == 5
    finally:
        for worker in workers:
            worker.stop()
        for one in stores:
            one.close()


# ---- The control plane's own disk ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_disk_that_fails_below_the_control_plane(
    tmp_path: Path, installed: Server, start: Start, pki: Pki, rng: random.Random
) -> None:
    """Full, or with errors of fsync, below SQLite's log of writes: such a change is a 503 and not
    made, its log says why, the next one is; after `kill -9` every one that was acknowledged is
    there, and on the node. One whose fsync failed right before the kill may be there as well."""
    config, disk = initialised(tmp_path / "control"), Disk(tmp_path)
    with under(tmp_path, "/control.db-wal"):
        serving = Serving(config)
    try:
        trust = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        serving.ok("PUT /v1/cluster/update_cert", trust)
        node = enrolled_node(start, installed, config.home, pki)
        serving.ok("POST /v1/bdbs?wait_for_sync=20", database(node))
        made, refused, unsure = set[str](), set[str](), set[str]()
        for number in range(60):
            bad = rng.random() < 0.4
            if bad:
                disk.fail(*rng.choice([("pwrite", errno.ENOSPC), ("fsync", errno.EIO)]))
            answer = serving.api("POST /v1/users", certificate_user(f"user{number}"))
            disk.heal()
            (made if answer.status == 200 else refused).add(f"user{number}")
            assert answer.status in (200, 503), answer.json
            assert answer.status == 200 or bad, answer.json
            if number % 20 == 19:
                unsure |= {f"user{number}"} & refused
                serving.kill()
                with under(tmp_path, "/control.db-wal"):
                    serving.start()
        assert made
        assert refused
        assert serving.ok("POST /v1/users?wait_for_sync=20", certificate_user("last"))
        there = {one["name"] for one in serving.ok("GET /v1/users")}
        assert made <= there
        assert not (refused - unsure) & there
        users = {one.split()[1] for one in operator(node).acl_list()}
        assert made <= users
        assert not (refused - unsure) & users
        log = (config.home / "log").read_text()
        assert "disk is full" in log or "disk I/O error" in log
        print(f"\n{len(made)} made, {len(refused)} refused")
    finally:
        serving.kill()
