"""Everything shown has an age: what nobody has looked at lately is shown as unknown, and a control
plane that does not do its work says so, wherever one may look; and no longer after the cure."""

import errno
import http.cookiejar
import math
import os
import shutil
import signal
import sqlite3
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from control import store
from control.ages import AWAY, OLD, Pulse, as_of_now
from control.cli.main import main
from control.reports import Node
from control.store import Store
from tests.kit.alerts import Samples, samples
from tests.kit.browser import Browser, Form
from tests.kit.faults import Disk, under
from tests.kit.node import Start
from tests.kit.plane import (
    Serving,
    certificate_user,
    database,
    enrolled_node,
    frozen,
    initialised,
    operator,
)
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.servers import Server
from tests.kit.support import CLIENT, Pki, RedisServer, free_port, wait_until
from tests.kit.topologies import TLS_LINKS, own_key, replica_of

# ---- What is old ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "age", "unknown"),
    [
        ("", 0, False), ("", OLD, False), ("", OLD + 1, True), ("", math.inf, True),
        ("UNREACHABLE", OLD + 1, False), ("UNREACHABLE", AWAY + 1, True),
        ("not reached yet", math.inf, False),
    ],
)  # fmt: skip
def test_what_was_seen_long_ago_is_not_known(error: str, age: float, unknown: bool) -> None:
    """Longer ago, where a server does not answer and is asked less often; what it was is said."""
    node = Node(1, "a:1", 3, not error, error, age=age)
    shown = as_of_now(node)
    if not unknown:
        assert shown == node
        return
    assert (shown.in_step, shown.generation) == (False, 3)
    assert shown.error.startswith("UNKNOWN the control plane ")
    assert (f"{age:.0f} seconds ago" if age < math.inf else "not looked at it yet") in shown.error
    assert error in shown.error


def test_a_part_that_stands_still_says_since_when_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience; one that nobody expects is none, and one that goes on is none again."""
    now = 1000.0
    monkeypatch.setattr("control.ages.time.monotonic", lambda: now)
    pulse = Pulse()
    pulse.fail("other", "of no account")
    pulse.expect("sync", 10)
    now += 10
    assert pulse.faults() == []
    now += 2
    assert pulse.faults() == ["sync stands still since 12 seconds: it does not answer"]
    pulse.fail("sync", "disk full")
    assert pulse.faults() == ["sync stands still since 12 seconds: disk full"]
    assert pulse.ages() == {"sync": 12}
    pulse.beat("sync")
    assert pulse.faults() == []
    assert pulse.ages() == {"sync": 0}


def test_an_old_look_is_unknown_wherever_it_is_shown(api: ControlPlane) -> None:
    """By the clock of the database, in each answer that names the server, and on the page; a look
    without news is written down too, and by the leader alone."""
    made = api.database()
    epoch = api.store.lease.take("the test", 120)
    address = "127.0.0.1:6380"
    api.store.nodes.report(1, [Node(1, address, made["generation"], True)], epoch)

    def shown() -> tuple[str, bool, str, str]:
        (node,) = api.ok("GET /v1/certauth/nodes")["nodes"]
        bdb = api.ok("GET /v1/bdbs/1")
        assert node["age"] == pytest.approx(bdb["nodes"][0]["age"], abs=5)
        check = api.ok("GET /v1/cluster/check")["nodes"][0].get("error", "")
        assert node["error"] in bdb["status_text"]
        return bdb["status_text"], node["in_step"], node["error"], check

    assert shown() == ("", True, "", "")
    aged(api.store, OLD + 20)
    status, in_step, error, check = shown()
    assert status == f"{address}: {error}"
    assert not in_step
    assert error.startswith("UNKNOWN the control plane last looked at it 3")
    assert error.split(" seconds")[0] in check
    assert api.ok("GET /v1/cluster/stats")["servers_in_step"] == 0
    browser = Browser(api)
    browser.log_in()
    assert f"{address}: UNKNOWN the control plane last looked at it" in browser.get("/ui/").text
    api.store.nodes.record_looks({1: {address: 0.5}}, epoch)
    assert shown() == ("", True, "", "")
    with pytest.raises(store.Replaced):
        api.store.nodes.record_looks({1: {address: 0.5}}, epoch + 1)


def aged(of: Store, seconds: float) -> None:
    with of._kernel.transaction() as connection:
        looked = store.schema.nodes.c.looked
        connection.execute(
            sa.update(store.schema.nodes).values(looked=looked - int(seconds * 1000))
        )


def test_no_lease_holder_is_a_fault(api: ControlPlane) -> None:
    """Of the check, of the health of a load balancer (503), of the node that answers; whether there
    was never one, or it is silent."""
    path = "GET /v1/local/node/master_healthcheck"

    def said() -> str:
        assert not api.ok("GET /v1/cluster/check")["cluster_test_result"]
        answer = api(path)
        assert (answer.status, answer.json) == (503, {"status": "inactive"})
        assert api.ok("GET /v1/nodes/1")["status"] == "down"
        health = api.ok("GET /v4/cluster/health")
        assert health["status"] == "error"
        (fault,) = health["nodes"][0]["faults"]
        assert fault in [one["description"] for one in health["active_alerts"]]
        assert api.ok("GET /v1/certauth/nodes")["faults"] == [fault]
        return str(fault)

    assert "since the start: none holds the lease" in said()
    api.store.lease.take("the test", 120)
    assert api.ok("GET /v1/cluster/check")["cluster_test_result"]
    assert api.ok(path) == {"status": "active"}
    with api.store._kernel.transaction() as connection:
        renewed = store.schema.lease.c.renewed
        connection.execute(sa.update(store.schema.lease).values(renewed=renewed - 30_000))
    assert "no control plane speaks to the servers, since 3" in said()


def test_what_only_reads_goes_on_where_nothing_can_be_written(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: that somebody has logged in is not written down then; a change is refused
    with a 503 and made by nobody."""
    full = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is full"))

    def fails(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr(store.logins.Logins, "succeeded", fails)
    monkeypatch.setattr(store.objects.Objects, "create", fails)
    monkeypatch.setattr("control.domain.guard.LOGIN_SECONDS", 0)
    assert api.ok("GET /v1/users")
    answer = api("POST /v1/roles", {"name": "x", "management": "none"})
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert answer.headers["Retry-After"]
    assert "full" not in answer.text


# ---- Outages -------------------------------------------------------------------------------------


class Ui(Browser):
    """A browser of the page of a control plane that runs as a process."""

    def __init__(self, serving: Serving) -> None:
        context = ssl.create_default_context(cafile=str(serving.config.home / "ca.crt"))
        self.base = f"https://127.0.0.1:{serving.config.ui_port}"
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )
        form = Form()
        form.feed(self.read("/ui/login"))
        fields = dict(form.fields) | {"username": ADMIN[0], "password": ADMIN[1]}
        self.read("/ui/login", urllib.parse.urlencode(fields).encode())

    def read(self, path: str, sent: bytes | None = None) -> str:
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": self.base}
        request = urllib.request.Request(self.base + path, sent, headers)
        with self.opener.open(request, timeout=30) as answer:
            return str(answer.read().decode())


@dataclass
class World:
    """A control plane as a process, a node in step with it, and all the places to look at."""

    serving: Serving
    node: RedisServer
    ui: Ui
    start: Callable[..., RedisServer]
    folder: Path
    pki: Pki

    def cli(self) -> tuple[int, str]:
        config = self.serving.config
        words = ["--url", f"https://127.0.0.1:{config.port}", "--ca", str(config.home / "ca.crt")]
        words += ["--username", ADMIN[0]]
        done = CliRunner().invoke(main, ["status", *words], input=f"{ADMIN[1]}\n")
        return done.exit_code, done.output

    def metrics(self) -> Samples:
        return samples(self.serving)

    def metric(self, name: str, **labels: str) -> float:
        found = [value for (one, have), value in self.metrics().items()
                 if one == name and labels.items() <= dict(have).items()]  # fmt: skip
        return max(found)

    def good(self) -> bool:
        """Wherever one looks."""
        api = self.serving.api
        return (
            api("GET /v1/bdbs/1").json["status"] == "active"
            and api("GET /v1/cluster/check").json["cluster_test_result"]
            and api("GET /v1/local/node/master_healthcheck").status == 200
            and api("GET /v1/nodes/1").json["status"] == "active"
            and self.metric("certauth_node_in_step") == 1
            and self.metric("certauth_lease_age_seconds") < OLD
            and self.cli()[0] == 0
            and 'class="mark bad"' not in self.ui.read("/ui/")
        )

    def database_says(self, words: str) -> None:
        def says() -> bool:
            found = self.serving.api("GET /v1/bdbs/1").json
            return words in found["status_text"] and found["status"] != "active"

        wait_until(says, f"bdb: {words}", 120)

    def says_of_a_server(self, words: str, is_up: bool = False) -> None:
        """Everywhere where a server is shown, and the control plane itself is well."""
        api = self.serving.api
        self.database_says(words)
        (check,) = api("GET /v1/cluster/check").json["nodes"]
        assert words in check["error"]
        assert api("GET /v1/local/node/master_healthcheck").status == 200
        code = words.split()[0]
        assert self.metric("certauth_node_error", code=code) == 1
        assert (min(v for (n, _), v in self.metrics().items() if n == "certauth_node_up") == 1) is (
            is_up
        )
        exit_code, said = self.cli()
        assert exit_code == 1
        assert words in said
        assert words in self.ui.read("/ui/")

    def says_of_itself(self, words: str) -> None:
        api = self.serving.api
        path = "GET /v1/local/node/master_healthcheck"

        def told() -> bool:
            (check,) = api("GET /v1/cluster/check").json["nodes"]
            return words in check.get("error", "")

        wait_until(told, f"the check says {words}", 120)
        assert api(path).status == 503
        assert api("GET /v1/nodes/1").json["status"] == "down"
        exit_code, said = self.cli()
        assert exit_code == 1
        assert words in said
        assert words in self.ui.read("/ui/")

    def nothing_is_known(self) -> None:
        """Of any server, and that is said everywhere."""
        said = "UNKNOWN the control plane last looked at it"
        self.database_says(said)
        assert self.metric("certauth_node_up") == 0
        assert self.metric("certauth_node_in_step") == 0
        assert self.metric("certauth_node_age_seconds") > OLD
        lease = "certauth_lease_age_seconds"
        wait_until(lambda: self.metric(lease) > OLD, "the lease is old")
        assert said in self.cli()[1]
        assert said in self.ui.read("/ui/")


def database_locked(world: World) -> Iterator[None]:
    """By somebody who does not let go."""
    held = sqlite3.connect(world.serving.config.home / "control.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    world.nothing_is_known()
    world.says_of_itself("sync stands still since")
    assert world.metric("certauth_part_age_seconds", part="sync") > OLD
    yield
    held.execute("ROLLBACK")
    held.close()


def disk(world: World, error: int) -> Iterator[None]:
    below = Disk(world.folder)
    below.fail("pwrite", error)
    world.nothing_is_known()
    world.says_of_itself("sync stands still since")
    world.says_of_itself("no control plane speaks to the servers")
    answer = world.serving.api("POST /v1/users", certificate_user("x"))
    assert (answer.status, answer.code) == (503, "database_unavailable")
    yield
    below.heal()


def disk_full(world: World) -> Iterator[None]:
    return disk(world, errno.ENOSPC)


def disk_read_only(world: World) -> Iterator[None]:
    return disk(world, errno.EROFS)


# The thread that keeps the servers in step waits while there is a file of this name.
HANGS = """
import os, time
from control.nodes.lease import Lease
hold = Lease.hold
def hangs(self):
    while os.path.exists({name!r}):
        time.sleep(0.05)
    return hold(self)
Lease.hold = hangs
"""


def no_lease_holder(world: World) -> Iterator[None]:
    """The one thread that would renew it hangs; all others work, and the database takes writes."""
    (world.folder / "hangs").touch()
    world.nothing_is_known()
    world.says_of_itself("no control plane speaks to the servers, since")
    world.says_of_itself("sync stands still since")
    answer = world.serving.api("POST /v1/users?wait_for_sync=1", certificate_user("x"))
    assert answer.status == 202
    assert "UNKNOWN" in answer.json["pending"][0]
    yield
    (world.folder / "hangs").unlink()


def audit_stands_still(world: World) -> Iterator[None]:
    file = world.serving.config.home / "audit.jsonl"
    file.unlink()
    file.mkdir()
    world.says_of_itself("audit stands still since")
    assert world.metric("certauth_part_age_seconds", part="audit") > 30
    assert world.serving.ok("GET /v1/bdbs/1")["status"] == "active"
    yield
    file.rmdir()


def node_frozen(world: World) -> Iterator[None]:
    with frozen(world.node):
        world.says_of_a_server("UNREACHABLE")
        yield


def journal_lost(world: World) -> Iterator[None]:
    node = world.node
    assert node.module is not None
    file = Path(node.module[1], "policy")
    node.stop()
    file.write_bytes(b"not a journal")
    node.start()
    world.says_of_a_server("NOJOURNAL")
    yield
    node.stop()
    file.unlink()
    for left in file.parent.parent.glob(f"{file.parent.name}.*"):
        left.unlink()
    node.start()


def link_down(world: World) -> Iterator[None]:
    """The key that the replica shows its master is revoked."""
    home, own = world.serving.config.home, own_key(world.pki)
    replica = enrolled_node(
        world.start, world.node.server, home, own, config=[*replica_of(world.node)]
    )
    ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in (world.node, replica)]
    world.serving.ok("PUT /v1/bdbs/1", {"endpoints": ends})
    wait_until(lambda: link(replica) == "up", "it is linked", 60)
    wait_until(world.good, "all is well", 120)
    names = ("tls-client-cert-file", "tls-client-key-file")
    links = world.pki.server_ca.issue("CN=links", eku=(CLIENT,))
    other = links.files
    (revoked,) = world.serving.ok("POST /v1/certauth/revocations", {"key": links.key_id})[
        "revocations"
    ]
    admin, master = operator(replica), operator(world.node)
    admin.execute_command("CONFIG", "SET", names[0], str(other[0]), names[1], str(other[1]))
    master.execute_command("CLIENT", "KILL", "TYPE", "replica")
    world.says_of_a_server("LINK its link to", is_up=True)
    yield
    admin.execute_command("CONFIG", "SET", names[0], "", names[1], "")
    world.serving.ok(f"DELETE /v1/certauth/revocations/{revoked['uid']}")


def link(replica: RedisServer) -> Any:
    return operator(replica).info("replication").get("master_link_status")


OUTAGES = [
    database_locked, disk_full, disk_read_only, no_lease_holder, audit_stands_still, node_frozen,
    journal_lost, link_down,
]  # fmt: skip


@pytest.fixture
def world(start: Start, installed: Server, pki: Pki, tmp_path: Path) -> Iterator[World]:
    config = replace(initialised(tmp_path / "control"), ui_port=free_port())
    with under(tmp_path, "/control.db-wal"):
        serving = Serving(config, HANGS.format(name=str(tmp_path / "hangs")))
    try:
        trust = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        serving.ok("PUT /v1/cluster/update_cert", trust)
        serving.ok("POST /v1/users", certificate_user("alice"))
        node = enrolled_node(start, installed, config.home, pki, config=[*TLS_LINKS])
        more = {"allow_trust_on_internal_links": True}
        serving.ok("POST /v1/bdbs?wait_for_sync=20", database(node) | more)
        yield World(serving, node, Ui(serving), start, tmp_path, pki)
    finally:
        serving.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("outage", OUTAGES)
def test_each_outage_is_seen_wherever_one_looks_and_its_end_too(
    world: World, outage: Callable[[World], Iterator[None]]
) -> None:
    """REST, the health of a load balancer, metrics, `redis-certauth status` and the page turn, and
    turn back after the cure."""
    wait_until(world.good, "all is well", 120)
    going = outage(world)
    next(going)
    assert not world.good()
    assert next(going, None) is None
    wait_until(world.good, "all is well again", 120)


def stopped_outside_of_a_write(serving: Serving) -> bool:
    """SQLite takes its lock from nobody who is frozen."""
    serving.signal(signal.SIGSTOP)
    other = sqlite3.connect(serving.config.home / "control.db", timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        return True
    except sqlite3.OperationalError:
        serving.signal(signal.SIGCONT)
        return False
    finally:
        other.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_leader_that_is_frozen_leaves_no_old_news(world: World) -> None:
    """Another one takes over, and what it shows is of now; where nobody does, who is asked does not
    answer, and `status` says so. When it wakes, it shows what is now as well."""
    first = world.serving
    home = world.folder / "two"
    shutil.copytree(first.config.home, home, ignore=shutil.ignore_patterns("control.db*", "audit*"))
    config = replace(
        first.config, home=home, database=first.config.url, port=free_port(), ui_port=free_port()
    )
    second = Serving(config)
    try:
        wait_until(lambda: stopped_outside_of_a_write(first), "it is frozen", 60)
        pid = str(second.process.pid)
        wait_until(
            lambda: second.ok("GET /v1/certauth/nodes")["leader"].split(":")[1] == pid,
            "the other one leads", 60,
        )  # fmt: skip
        both = replace(world, serving=second, ui=Ui(second))
        wait_until(both.good, "all is well", 120)
        with frozen(world.node):
            both.says_of_a_server("UNREACHABLE")
            os.kill(second.process.pid, signal.SIGSTOP)
            code, said = both.cli()
            assert code == 1, said
            second.kill()  # frozen within a write, it would hold SQLite's lock
            first.signal(signal.SIGCONT)
            world.says_of_a_server("UNREACHABLE")
        wait_until(world.good, "all is well", 120)
    finally:
        second.kill()
