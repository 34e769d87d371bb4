"""control/nodes/lease.py: of several control planes one speaks to the servers, and who was replaced
changes nothing. The slow tests have real processes on a real PostgreSQL."""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control import service, store
from control.nodes.client import Node, NodeError
from control.nodes.lease import LEASE_SECONDS, Lease
from control.nodes.worker import Worker
from control.records import Cluster, Target
from control.reports import Node as Seen
from control.service import Config
from control.store import Replaced, Store
from tests.kit.node import load, show, status, who
from tests.kit.plane import (  # fmt: skip
    NAMES,
    Plane,
    Serving,
    authority_of,
    certificate_user,
    database,
    enrolled_node,
    frozen,
    operator,
)
from tests.kit.postgres import Postgres, postgres
from tests.kit.rest import ADMIN
from tests.kit.rows import ADMIN as ADMINISTRATOR
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, free_port, wait_until

SOON = 5  # seconds after which a leader that is killed or frozen is replaced
MakeNode = Callable[..., RedisServer]


# ---- One process ---------------------------------------------------------------------------------


@pytest.fixture
def make_node(start: Any, installed: Server, plane: Plane, pki: Pki) -> MakeNode:
    return lambda **more: enrolled_node(start, installed, plane.config.home, pki, **more)


def test_every_write_to_a_node_carries_the_epoch(plane: Plane, make_node: MakeNode) -> None:
    """The node holds it from then on, and refuses a lower one whatever else is right."""
    server = make_node()
    admin = operator(server)
    plane.register(server)
    plane.in_step()
    now = status(admin)
    assert now["epoch"] == plane.worker.lease.epoch == 1
    load(admin, 50, show(admin), "OWNER", now["owner"], "EPOCH", "7")
    node = plane.node(server)
    with pytest.raises(NodeError, match="^EPOCH"):
        node.load(plane.store.policies.target(1), plane.lines(), now["owner"], 6, force=True)
    node.close()


def test_the_epoch_never_falls_below_what_a_node_holds(plane: Plane, make_node: MakeNode) -> None:
    """A control plane whose database was lost, or comes from a backup, counts from below: it
    raises its epoch, and the node takes its policy. (One that runs meanwhile is outbid, and a node
    that is ahead is held: test_back.py.)"""
    server = make_node()
    admin = operator(server)
    plane.register(server)
    plane.in_step()
    owner = status(admin)["owner"]
    plane.close()
    load(admin, 1, ["set enforce off"], "OWNER", owner, "EPOCH", "41", "FORCE")
    plane.open()
    plane.in_step()
    wait_until(lambda: set(show(admin)) == plane.lines(), "it has the policy again")
    assert status(admin)["epoch"] == 42
    assert plane.store.lease.leader() == (plane.worker.lease.holder, 42)
    plane.user(authority_of(plane.config).issue("CN=bob"), "bob")
    plane.in_step()


def test_who_was_replaced_writes_to_no_node(
    plane: Plane, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over for itself before anybody else can have the lease; and a raise of its epoch
    is not its to ask for."""
    wait_until(lambda: plane.worker.lease._epoch, "the worker has it")
    mine = Lease(plane.store)
    with pytest.raises(Replaced):
        _ = mine.epoch
    assert not mine.hold()
    plane.worker.stop()
    monkeypatch.setattr("control.nodes.lease.LEASE_TRY_SECONDS", 0)
    mine = Lease(plane.store)
    assert mine.hold()
    epoch = mine.epoch
    plane.store.lease.end(mine.holder)
    assert plane.store.lease.take("another", LEASE_SECONDS) == epoch + 1
    with pytest.raises(Replaced):
        mine.above(99)
    mine.lose()
    assert not mine.hold()
    with pytest.raises(Replaced):
        mine.above(0)


def test_a_lease_is_over_for_its_holder_first(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own clock, which goes on while it is frozen."""
    plane.worker.stop()
    mine = Lease(plane.store)
    assert mine.hold()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    with pytest.raises(Replaced):
        _ = mine.epoch
    assert mine.hold()  # nobody else has come
    assert mine.epoch == plane.store.lease.leader()[1]


def test_the_next_worker_begins_at_once_where_the_last_one_has_stopped(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """A lease is given up, and the next holder has a higher epoch."""
    server = make_node()
    admin = operator(server)
    plane.register(server)
    plane.in_step()
    before = plane.store.lease.leader()
    plane.close()
    plane.open()
    plane.user(pki.bob, "bob")
    wait_until(lambda: who(server, pki.bob) == "bob", "bob is on the node", 3)
    assert plane.store.lease.leader()[0] != before[0]
    assert status(admin)["epoch"] == before[1] + 1


def test_what_another_holder_has_reported_is_not_kept(
    plane: Plane, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that is frozen while another one has the lease, reports, and ends, never sees that
    it was not the holder. Its first look afterwards replaces what the other one has reported."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    mine, hold = plane.worker.lease, plane.worker.lease.hold
    is_frozen, wakes = threading.Event(), threading.Event()
    monkeypatch.setattr(mine, "hold", lambda: is_frozen.set() or (wakes.wait() and hold()))
    assert is_frozen.wait(10)
    mine._next = 0.0
    plane.store.lease.end(mine.holder)
    epoch = plane.store.lease.take("another", 60)
    (seen,) = plane.store.nodes.of(1)
    lost = replace(seen, error="UNREACHABLE as another one says", in_step=False)
    plane.store.nodes.report(1, [lost], epoch)
    plane.store.lease.end("another")
    assert "as another one says" in plane.status()
    wakes.set()
    plane.in_step()
    assert plane.store.lease.leader() == (mine.holder, epoch + 1)


def test_a_second_worker_waits(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """It has no connection to any node while the first one works, and takes over when that ends."""
    server = make_node()
    admin = operator(server)
    plane.register(server)
    plane.in_step()
    second = Worker(plane.store, plane.config.identity, authority_of(plane.config).pem.decode())
    second.start()
    plane.user(pki.bob, "bob")
    plane.in_step()
    ours = [one for one in admin.client_list() if one["user"] == "certauth-control"]
    assert len(ours) == 1
    plane.worker.stop()
    plane.user(pki.ca.issue("CN=carol"), "carol")
    plane.in_step()
    assert plane.store.lease.leader()[0] == second.lease.holder
    second.stop()


# ---- Several processes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


Pair = tuple[Serving, Serving]


@pytest.fixture
def pair(tmp_path: Path, running: Postgres, pki: Pki) -> Iterator[Pair]:
    """Two control planes on one database, that know alice."""
    first = Config(tmp_path / "one", "127.0.0.1", free_port(), running.new())
    service.init(first, "acme", *ADMIN, NAMES)
    shutil.copytree(first.home, tmp_path / "two")
    made = [Serving(first), Serving(replace(first, home=tmp_path / "two", port=free_port()))]
    ca = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    made[0].ok("PUT /v1/cluster/update_cert", ca)
    made[0].ok("POST /v1/users", certificate_user("alice"))
    yield made[0], made[1]
    for one in made:
        one.kill()


def in_turn(pair: Pair) -> Pair:
    """The leader, and the other one."""

    def leader() -> str:
        holder = pair[1].ok("GET /v1/certauth/nodes")["leader"]
        return str(holder.split(":")[1]) if holder else ""

    pids = {str(one.process.pid): one for one in pair}
    first = pids[wait_until(lambda: leader() in pids and leader(), "one of them leads")]
    return first, pair[1] if first is pair[0] else pair[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_is_killed_or_frozen_is_replaced(
    how: signal.Signals, pair: Pair, start: Any, installed: Server, pki: Pki
) -> None:
    """Within SOON seconds the other one has it, and changes go on; the frozen one, woken, changes
    nothing, and follows."""
    server = enrolled_node(start, installed, pair[0].config.home, pki)
    admin = operator(server)
    first, second = in_turn(pair)
    second.ok("POST /v1/bdbs?wait_for_sync=10", database(server))
    before = status(admin)["epoch"]
    first.signal(how)
    begun = time.monotonic()
    answer = second.ok(f"POST /v1/users?wait_for_sync={SOON}", certificate_user("bob"))
    print(f"\n{how.name}: replaced after {time.monotonic() - begun:.1f} s")
    assert "pending" not in answer
    assert who(server, pki.ca.issue("CN=bob")) == "bob"
    now = status(admin)
    assert now["epoch"] == before + 1
    if how == signal.SIGSTOP:
        leader = second.ok("GET /v1/certauth/nodes")["leader"]
        first.signal(signal.SIGCONT)
        assert first.ok("GET /v1/certauth/nodes")["leader"] == leader
        first.ok("POST /v1/users?wait_for_sync=5", certificate_user("carol"))
        again = status(admin)
        assert (again["epoch"], again["generation"]) == (now["epoch"], now["generation"] + 1)
        assert first.ok("GET /v1/certauth/nodes")["leader"] == leader


@pytest.mark.slow
def test_whoever_is_asked_waits_for_the_one_that_leads(
    pair: Pair, start: Any, installed: Server, pki: Pki
) -> None:
    """A change by the other control plane is on the node when its answer comes."""
    server = enrolled_node(start, installed, pair[0].config.home, pki)
    _, second = in_turn(pair)
    second.ok("POST /v1/bdbs?wait_for_sync=10", database(server))
    for number in range(20):
        cert = pki.ca.issue(f"CN=user{number}")
        second.ok("POST /v1/users?wait_for_sync=5", certificate_user(f"user{number}"))
        assert who(server, cert) == f"user{number}"


def is_on_hold(serving: Serving) -> bool:
    """Asked also while it finds out that its database is back."""
    answer = serving.api("GET /v1/certauth/nodes")
    return answer.status == 200 and bool(answer.json["hold"])


@pytest.mark.slow
def test_a_postgresql_that_went_back_is_on_hold_for_all(
    pair: Pair, running: Postgres, start: Any, installed: Server, pki: Pki
) -> None:
    """A point-in-time recovery under two running control planes: neither overwrites what the server
    alone still knows, and both say so; after a release both go on."""
    server = enrolled_node(start, installed, pair[0].config.home, pki)
    admin = operator(server)
    first, second = in_turn(pair)
    second.ok("POST /v1/bdbs?wait_for_sync=10", database(server))
    older = running.folder / "older"
    running.kill()
    subprocess.run(["cp", "-a", running.folder / "data", older], check=True)
    running.start()
    wait_until(lambda: second.api("PUT /v1/cluster", {}).status == 200, "it writes again", 30)
    second.ok("POST /v1/users", certificate_user("bob"))
    wait_until(lambda: who(server, pki.ca.issue("CN=bob")) == "bob", "bob is in", 30)
    gone = {"certificate": pki.alice.pem.decode()}
    (made,) = second.ok("POST /v1/certauth/revocations", gone)["revocations"]
    line = made["line"]
    wait_until(lambda: line in show(admin), "the server has it", 30)
    before = status(admin)

    running.kill()
    shutil.rmtree(running.folder / "data")
    older.rename(running.folder / "data")
    running.start()
    for one in (first, second):
        wait_until(partial(is_on_hold, one), "it is on hold", 30)
        (event,) = one.ok("GET /v1/logs?type=database_went_back")
        assert event["revision"] < event["seen_revision"]
    kept = "GET /v1/certauth/revocations"
    wait_until(lambda: [one["line"] for one in second.ok(kept)] == [line], "it is kept", 30)
    now = status(admin)
    assert (now["generation"], now["digest"]) == (before["generation"], before["digest"])
    assert who(server, pki.ca.issue("CN=bob")) == "bob"
    service.release(first.config, force=False)
    wait_until(lambda: second.ok("GET /v1/certauth/nodes")["nodes"][0]["in_step"], "in step", 30)
    assert who(server, pki.ca.issue("CN=bob")) is None
    assert line in show(admin)
    second.ok("POST /v1/users?wait_for_sync=10", certificate_user("carol"))
    assert who(server, pki.ca.issue("CN=carol")) == "carol"


@pytest.mark.slow
def test_a_leader_that_is_frozen_within_a_transaction_holds_up_nobody(running: Postgres) -> None:
    """Its locks are taken from it, on the lease and on what all writers wait for; what it had
    written is not there."""
    url = running.new()
    hangs, other = Store(url), Store(url)
    hangs.settings.initialise(Cluster("acme", "id", 1), ADMINISTRATOR)
    assert hangs.lease.take("hangs", 1) == 1

    def work() -> None:
        with hangs._kernel.change() as connection:
            store.lease.check_lease(connection, 1)
            connection.execute(sa.text("INSERT INTO counters (name, last) VALUES ('x', 1)"))
            begun = time.monotonic()
            wait_until(lambda: other.lease.take("other", 60) == 2, "the other one has it", SOON)
            other.settings.configure(lambda now: replace(now, name="changed"))
            assert time.monotonic() - begun < SOON

    with pytest.raises(sa.exc.DBAPIError):
        work()
    with pytest.raises(Replaced):
        hangs.nodes.report(1, [Seen(1, "a:1", 1, True)], 1)
    assert "x" not in {row[0] for row in other.dump()["tables"]["counters"]["rows"]}
    hangs.close()
    other.close()


# ---- A node that was away ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_that_was_away_for_9999_generations_catches_up_by_a_patch(
    plane: Plane, make_node: MakeNode, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of the policy is kept that long, and what came and went meanwhile is not sent; one
    more, and the node gets the whole policy."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    admin = operator(server)
    loads: list[int] = []
    whole, part = Node.load, Node.patch
    monkeypatch.setattr(Node, "load", lambda *a, **k: (loads.append(1), whole(*a, **k))[1])
    sizes: list[int] = []

    def patched(self: Node, base: int, target: Target, changes: Any, *more: Any) -> None:
        sizes.append(len(changes))
        part(self, base, target, changes, *more)

    monkeypatch.setattr(Node, "patch", patched)
    for missed in (store.POLICY_LOG_GENERATIONS - 1, store.POLICY_LOG_GENERATIONS):
        with frozen(server):
            target = moved(plane.store, missed)
        wait_until(partial(holds, admin, target), "it caught up", 60)
        assert loads == ([] if missed < store.POLICY_LOG_GENERATIONS else [1])
    assert set(sizes) == {1}  # again, where the frozen server answered too late


def moved(of: Store, count: int) -> Target:
    """So many generations later, of the policy of database 1: one line comes and goes."""
    with of._kernel.change() as connection:
        for number in range(count):
            rows = connection.execute(store.statements.LINES_OF, {"owners": [999]})
            before = {(row.owner, row.line): row.id for row in rows}
            after = set() if before else {(999, f"user extra{number} on -@all")}
            store.lines.move_lines(connection, 1, before, after)
        return store.lines.read_target(connection, 1)


def holds(admin: Any, target: Target) -> bool:
    now = status(admin)
    return (now["generation"], now["digest"]) == (target.generation, target.digest)
