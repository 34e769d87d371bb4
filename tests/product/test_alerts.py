"""docs/alerts.yml: each rule fires in its outage, brought about on real processes, and falls silent
after the cure."""

import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control import service, store
from control.domain import responders
from control.nodes import client
from control.nodes.audit import UNSAID, Follower
from control.nodes.auditing import Auditor
from control.records import Database
from tests.kit.alerts import Prometheus, promtool_test, rules, samples, scraped, seconds
from tests.kit.crls import crl, text
from tests.kit.node import load, patch, show, status, who
from tests.kit.node_keys import own_pki, put, renew, server_cert
from tests.kit.ocsp import responder, said
from tests.kit.peers import sentinel_cert
from tests.kit.plane import (
    Plane,
    Serving,
    authority_of,
    enrolled_node,
    frozen,
    initialised,
    operator,
)
from tests.kit.servers import Server
from tests.kit.support import (
    CLIENT,
    ROOT,
    SERVER,
    Pki,
    RedisServer,
    days,
    free_port,
    root,
    wait_until,
)
from tests.kit.topologies import Watcher, ends

Minute = Callable[[], Any]  # what goes wrong between two looks


@dataclass
class World:
    """A control plane and a node in step with it."""

    plane: Plane
    start: Any
    kind: Server
    pki: Pki

    def node(self, **options: Any) -> RedisServer:
        made = enrolled_node(self.start, self.kind, self.plane.config.home, self.pki, **options)
        self.plane.register(made)
        self.plane.in_step()
        return made

    def back_up(self) -> None:
        number = len(list(self.plane.config.home.glob("backup*")))
        service.backup(self.plane.config, self.plane.config.home / f"backup{number}")

    def counted(self, name: str, **labels: str) -> float:
        return sum(
            value for (found, have), value in scraped(self.plane).items()
            if found == name and labels.items() <= dict(have).items()
        )  # fmt: skip

    def counting(self, cause: Minute, count: int, name: str, **labels: str) -> Minute:
        """Causes it so often, and waits until it is counted."""

        def once() -> None:
            before = self.counted(name, **labels)
            for _ in range(count):
                cause()
            enough = before + count
            wait_until(lambda: self.counted(name, **labels) >= enough, f"{name} is {enough}")

        return once


def nothing() -> None:
    pass


# Each brings its outage about, yields what happens while it lasts, and then cures it.


def node_down(world: World) -> Iterator[Minute]:
    node = world.node()
    node.stop()
    wait_until(lambda: world.counted("certauth_node_up") == 0, "it is down")
    yield nothing
    node.start()
    world.plane.in_step()


def node_behind(world: World) -> Iterator[Minute]:
    with frozen(world.node()):
        world.plane.user(world.pki.bob, "bob")
        yield nothing
    world.plane.in_step()


def refusals(world: World) -> Iterator[Minute]:
    node = world.node()
    refused = "certauth_node_refused_total"
    yield world.counting(lambda: who(node, world.pki.bob), 40, refused, reason="no_binding")


def expired(world: World) -> Iterator[Minute]:
    node = world.node()
    cert = world.pki.ca.issue("CN=late", not_before=days(-9), not_after=days(-1))
    yield world.counting(
        lambda: who(node, cert), 1, "certauth_node_refused_total", reason="expired"
    )


def client_expiring(world: World) -> Iterator[Minute]:
    node = world.node()
    subject = world.pki.alice.certificate.subject.rfc4514_string()

    def login(begin: float, end: float) -> None:
        cert = world.pki.ca.issue(subject, not_before=days(begin), not_after=days(end))
        assert who(node, cert) == "alice"

    login(-30, 1)
    state = {"state": "expiring"}
    name = "certauth_client_certificates"
    wait_until(lambda: world.counted(name, **state) == 1, "it is known")
    yield nothing

    def followed() -> bool:
        """By one that was first used later, in seconds."""
        login(-1, 60)
        return world.counted(name, **state) == 0

    wait_until(followed, "its successor is known")


def certificate_expiring(world: World) -> Iterator[Minute]:
    world.plane.trust(world.pki.ca, root("CN=Soon", not_before=days(-30), not_after=days(20)))
    yield nothing
    world.plane.trust(world.pki.ca)


def node_certificate_expiring(world: World) -> Iterator[Minute]:
    cert = server_cert(world.pki, not_before=days(-60), not_after=days(20))
    node = enrolled_node(world.start, world.kind, world.plane.config.home, own_pki(world.pki, cert))
    world.plane.register(node)
    world.plane.in_step()
    yield nothing
    renew(cert.files, server_cert(world.pki))
    shows_end = "certauth_node_certificate_not_after_seconds"
    wait_until(lambda: world.counted(shows_end) > time.time() + 21 * 86400, "it is renewed", 30)


def node_unsound(world: World) -> Iterator[Minute]:
    cert = server_cert(world.pki)
    node = enrolled_node(world.start, world.kind, world.plane.config.home, own_pki(world.pki, cert))
    world.plane.register(node)
    world.plane.in_step()
    put(cert.files[0], server_cert(world.pki).pem)  # without its key
    wrong = {"code": "CERTIFICATE"}
    wait_until(lambda: world.counted("certauth_node_error", **wrong) == 1, "it is told", 30)
    yield nothing
    put(cert.files[0], cert.pem)
    wait_until(lambda: world.counted("certauth_node_error", **wrong) == 0, "it is mended", 30)


def guessing(world: World) -> Iterator[Minute]:
    auth = ("nobody", "wrong")
    refused = "certauth_api_refused_total"
    cause = lambda: world.plane("GET /v1/cluster", auth=auth)  # noqa: E731
    cause()  # a counter that is new has not climbed
    yield world.counting(cause, 60, refused, reason="invalid_credentials")


def leak(world: World) -> Iterator[Minute]:
    node = world.node(module=("certificates", "api"))
    slow = "certauth_node_api_certificates_total"
    yield world.counting(lambda: who(node, world.pki.alice), 1, slow)


def without_module(world: World) -> Iterator[Minute]:
    stock = world.start(
        world.kind,
        pki=world.pki,
        trust=[world.pki.ca, authority_of(world.plane.config)],
        module=None,
    )
    uid = world.plane.register(stock)
    wait_until(lambda: world.counted("certauth_node_error", code="MODULE") == 1, "it is seen")
    yield nothing
    world.plane.ok(f"DELETE /v1/bdbs/{uid}")
    wait_until(lambda: world.counted("certauth_node_error", code="MODULE") == 0, "it has gone")


def twice(world: World) -> Iterator[Minute]:
    node = world.node()
    owner = status(operator(node))["owner"]
    load(operator(node), 50, show(operator(node)), "OWNER", owner, "EPOCH", "41")
    world.plane.says("TWICE")
    yield nothing
    service.release(world.plane.config, force=True)
    world.plane.in_step()


def sentinel_open(world: World) -> Iterator[Minute]:
    config = ["tls-replication yes"]
    master = enrolled_node(
        world.start, world.kind, world.plane.config.home, world.pki, config=config
    )
    one = Watcher(
        world.kind, world.pki, sentinel_cert(world.pki), master, 1, world.plane, plain=True
    )
    with one:
        world.plane.register(
            master, endpoints=ends(one.port, master.port), allow_trust_on_internal_links=True
        )
        world.plane.says("OPEN this Sentinel")
        yield nothing
    one.enrol(world.plane)
    with one:
        wait_until(lambda: world.counted("certauth_node_error", code="OPEN") == 0, "it is shut", 30)


def peers_refused(world: World) -> Iterator[Minute]:
    """A server of the right CA that nobody has made known comes to the cluster bus."""
    bus = free_port()
    node = world.node(config=["cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}"])
    stranger = node.tls(world.pki.server_ca.issue("CN=stranger", eku=(SERVER, CLIENT)))
    stranger.address = ("127.0.0.1", bus)

    def knock() -> None:
        with suppress(OSError), stranger.connect() as connection:
            connection.socket.recv(1)

    yield world.counting(knock, 1, "certauth_node_peers_refused_total")
    world.plane.in_step()


def no_leader(world: World) -> Iterator[Minute]:
    """Somebody locks the database."""
    world.node()
    held = sqlite3.connect(world.plane.config.home / "control.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    wait_until(lambda: world.counted("certauth_lease_age_seconds") > 30, "it is silent", 60)
    yield nothing
    held.execute("ROLLBACK")
    held.close()
    wait_until(lambda: world.counted("certauth_lease_age_seconds") < 5, "it is not any more", 60)
    world.plane.in_step(deadline=60)


def stands_still(world: World) -> Iterator[Minute]:
    """The audit file cannot be written."""
    file = world.plane.config.home / "audit.jsonl"
    file.mkdir()
    pulse = world.plane.app.extensions["pulse"]
    follower = Follower(world.plane.store, file, pulse)
    follower.start()
    try:
        wait_until(lambda: pulse.ages().get("audit", 0) > 3, "it stands still")
        pulse._beats["audit"] -= 300  # time goes on
        yield nothing
        file.rmdir()
        wait_until(lambda: pulse.ages()["audit"] < 3, "it goes on")
    finally:
        follower.stop()


def backup_old(world: World) -> Iterator[Minute]:
    """Three days later."""
    with world.plane.store._kernel.transaction() as connection:
        events = store.schema.events
        then = sa.update(events).where(events.c.type == "backup_made")
        connection.execute(then.values(time=events.c.time - 3 * 86400))
    yield nothing
    world.back_up()


def node_error(world: World) -> Iterator[Minute]:
    """A user's rules are refused there."""
    node = world.node()
    admin = operator(node)
    admin.acl_setuser("bob", enabled=True, nopass=True)
    uid = world.plane.user(world.pki.bob, "bob")
    wait_until(lambda: world.counted("certauth_node_error", code="REFUSED") == 1, "it is seen")
    yield nothing
    world.plane.ok(f"DELETE /v1/users/{uid}")
    wait_until(lambda: world.counted("certauth_node_error", code="REFUSED") == 0, "it is over")


def drift(world: World) -> Iterator[Minute]:
    """Its administrator writes to a node's policy."""
    admin = operator(world.node())
    now = status(admin)
    patch(admin, now["generation"], now["generation"] + 1, ["+user mallory on"], "OWNER",
          now["owner"])  # fmt: skip
    last = {"type": "node_drift"}
    wait_until(lambda: world.counted("certauth_last_event_time_seconds", **last) > 0, "it is seen")
    yield nothing


def list_overdue(world: World) -> Iterator[Minute]:
    world.plane.trust(world.pki.ca)
    taken = text(crl(world.pki.ca, end=days(3 / 86400)))
    uid = world.plane.ok("POST /v1/certauth/crls", {"crl": taken})["uid"]
    wait_until(lambda: world.counted("certauth_crl_next_update_seconds") < time.time(), "it is due")
    yield nothing
    world.plane.ok(f"DELETE /v1/certauth/crls/{uid}")


def responder_overdue(world: World) -> Iterator[Minute]:
    """It has answered once, and is gone when the next answer is due."""
    plane, cert, day = world.plane, world.pki.alice, 86400
    plane.trust(world.pki.ca)
    assert plane.role(cert) == "admin"
    with responder(lambda _: said(cert, world.pki.ca)) as site:
        body = {"name": "gone", "ca": world.pki.ca.key_id, "url": site.url}
        uid = plane.ok("POST /v1/certauth/responders", body)["uid"]
        responders.look(plane.store, int(time.time()))
    assert world.counted("certauth_ocsp_certificates", state="overdue") == 0
    responders.look(plane.store, int(time.time()) + 2 * day)
    yield nothing
    plane.ok(f"DELETE /v1/certauth/responders/{uid}")


@contextmanager
def told_to_nobody(world: World, queue: int) -> Iterator[Callable[[], None]]:
    """An auditor where nobody listens, and what tells it of a login; somebody listens again at the
    end, and all that waits is heard."""
    port = free_port()
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": port}
    world.plane.ok("PUT /v1/cluster/auditing/db_conns", {**sink, "audit_queue_max_bytes": queue})
    world.plane.database(audit_settings={"audit_mode": "connection"})
    auditor = Auditor(world.plane.store)
    world.plane.app.extensions["sink"] = auditor.figures
    auditor.start()
    usual = {"time_us": 1, "event": "login", "client": 1, "user": "alice", "address": "10.0.0.1"}
    database = world.plane.store.objects.get(Database, 1)
    try:
        yield lambda: auditor.queue_records(database, "127.0.0.1:6380", [{**UNSAID, **usual}])
        with socket.create_server(("127.0.0.1", port)):
            pending = "audit_sink_pending_bytes"
            wait_until(lambda: world.counted(pending) == 0, "it is heard", 30)
    finally:
        auditor.stop()


def auditor_away(world: World) -> Iterator[Minute]:
    """For an hour."""
    with told_to_nobody(world, 1 << 20) as tell:
        tell()
        world.plane.app.extensions["sink"].waiting_since -= 3600
        yield nothing
    assert world.counted("audit_sink_sent_messages") == 2


def records_dropped(world: World) -> Iterator[Minute]:
    with told_to_nobody(world, 100) as tell:
        yield world.counting(tell, 1, "audit_sink_dropped_messages")


OUTAGES: dict[str, Callable[[World], Iterator[Minute]]] = {
    "CertauthNodeDown": node_down,
    "CertauthNoLeader": no_leader,
    "CertauthStandsStill": stands_still,
    "CertauthBackupOld": backup_old,
    "CertauthNodeError": node_error,
    "CertauthNodeDrift": drift,
    "CertauthListOverdue": list_overdue,
    "CertauthResponderOverdue": responder_overdue,
    "CertauthNodeWithoutModule": without_module,
    "CertauthTwice": twice,
    "CertauthSentinelOpen": sentinel_open,
    "CertauthPeersRefused": peers_refused,
    "CertauthNodeBehind": node_behind,
    "CertauthRefusals": refusals,
    "CertauthClientCertificatesExpired": expired,
    "CertauthClientCertificatesExpiring": client_expiring,
    "CertauthCertificateExpiring": certificate_expiring,
    "CertauthNodeCertificateExpiring": node_certificate_expiring,
    "CertauthNodeUnsound": node_unsound,
    "CertauthAuditorAway": auditor_away,
    "CertauthAuditRecordsDropped": records_dropped,
    "CertauthApiGuessing": guessing,
    "CertauthLeak": leak,
}
QUICK = {"CertauthNodeDown", "CertauthRefusals", "CertauthClientCertificatesExpired"}


def some_slow() -> Iterator[Any]:
    for rule in rules():
        name = rule["alert"]
        if name != "CertauthDown":
            yield pytest.param(rule, id=name, marks=[] if name in QUICK else pytest.mark.slow)


def test_each_rule_has_its_outage() -> None:
    """A rule that nobody has seen fire may be one that cannot."""
    assert {*OUTAGES, "CertauthDown"} == {rule["alert"] for rule in rules()}


@pytest.fixture
def world(plane: Plane, start: Any, installed: Server, pki: Pki) -> Iterator[World]:
    """Its control plane comes to each node again every second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "RECONNECT_SECONDS", 1.0)
        yield World(plane, start, installed, pki)


def lived_through(rule: dict[str, Any], world: World) -> Prometheus:
    """Silent before, silent until the outage has lasted, firing then, silent when it is over. Only
    the clock is the test's own."""
    prometheus, plane = Prometheus(rule), world.plane
    world.back_up()
    outage = OUTAGES[rule["alert"]](world)
    lasts, now = seconds(rule["for"]), time.time()
    prometheus.take(now - 3600, scraped(plane))
    assert not prometheus.fires
    minute = next(outage)
    prometheus.take(now, scraped(plane))
    assert not prometheus.fires
    for part in range(1, 9):  # a rate is of its whole range
        minute()
        prometheus.take(now + part * lasts / 4, scraped(plane))
    assert prometheus.fires, prometheus.pending
    assert next(outage, None) is None
    for later in (300, 600, 900):
        prometheus.take(now + 2 * lasts + later, scraped(plane))
    assert not prometheus.fires
    return prometheus


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rule", [*some_slow()])
def test_a_rule_fires_in_its_outage_and_no_longer(rule: dict[str, Any], world: World) -> None:
    """Each on real processes."""
    lived_through(rule, world)


# ---- promtool ------------------------------------------------------------------------------------

ALERTS = ROOT / "docs/alerts.yml"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool here: it is part of Debian's package prometheus, which is large",
)


def promtool(*words: str | Path) -> str:
    """What it prints; fails where it does not say that all is well."""
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@pytest.mark.slow
def test_promtool_takes_the_rules() -> None:
    """As `promtool check rules` reads them, all of them."""
    assert f"{len(rules())} rules found" in promtool("check", "rules", ALERTS)


@needs_promtool
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rule", [one for one in rules() if one["alert"] != "CertauthDown"],
                         ids=lambda rule: rule["alert"])  # fmt: skip
def test_promtool_says_the_same_of_an_outage(
    rule: dict[str, Any], world: World, tmp_path: Path
) -> None:
    """Each minute of it: the same alerts, with the same labels and words."""
    asked = promtool_test(rule, str(ALERTS), lived_through(rule, world).scraped)
    assert '"exp_labels"' in asked
    (tmp_path / "test.yml").write_text(asked)
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")


@pytest.mark.slow
def test_a_control_plane_that_is_down_is_missed(tmp_path: Path) -> None:
    """A process that ended is not scraped; when it is back, the rule is silent."""
    (rule,) = (one for one in rules() if one["alert"] == "CertauthDown")
    prometheus, serving = Prometheus(rule), Serving(initialised(tmp_path / "control"))
    try:
        prometheus.take(0, samples(serving))
        serving.kill()
        for now in (60, 300, 420):
            prometheus.take(now, samples(serving))
            assert prometheus.fires == (now - 60 >= 300)
        serving.start()
        prometheus.take(480, samples(serving))
        assert not prometheus.fires
    finally:
        serving.kill()
