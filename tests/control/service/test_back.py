"""Nothing comes back by accident: restores, two control planes with one identity, databases of
another version, nodes that went back in time, and nodes of a control plane that is gone."""

import io
import json
import sqlite3
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from control import service, store
from control.cli.main import main
from control.errors import Refusal
from control.nodes.audit import follow
from control.policy import core
from control.records import API
from control.service import Config, ServiceError, backups, enrolment
from control.store import Store
from tests.kit.browser import Browser
from tests.kit.node import load, show, status, who
from tests.kit.plane import NAMES, Plane, enrolled_node, operator
from tests.kit.rest import ADMIN, ControlPlane, database
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, free_port, wait_until

MakeNode = Callable[..., RedisServer]


class Restored(Plane):
    """The control plane that a restore has made."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.open()


@pytest.fixture
def make_node(start: Any, installed: Server, plane: Plane, pki: Pki) -> MakeNode:
    return lambda **more: enrolled_node(start, installed, plane.config.home, pki, **more)


def elsewhere(tmp_path: Path, name: str = "there") -> Config:
    return Config(tmp_path / name, "127.0.0.1", free_port())


@pytest.fixture
def there(plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path) -> Iterator["Story"]:
    made = Story(plane, make_node(), pki, tmp_path)
    yield made
    for one in made.opened:
        one.close()


class Story:
    """A backup; then bob comes, alice's certificate is revoked, and the backup is restored."""

    def __init__(self, plane: Plane, server: RedisServer, pki: Pki, tmp_path: Path) -> None:
        self.plane, self.server, self.pki, self.opened = plane, server, pki, list[Plane]()
        self.carol = pki.ca.issue("CN=carol,O=acme")
        plane.register(server)
        plane.user(self.carol, "carol")
        plane.in_step()
        self.file, self.config = tmp_path / "backup", elsewhere(tmp_path)
        service.backup(plane.config, self.file)
        self.older = copied(plane.config.home / "control.db", tmp_path / "older")
        plane.user(pki.bob, "bob")
        pem = self.carol.pem.decode()
        plane.ok("POST /v1/certauth/revocations", {"certificate": pem, "reason": "keyCompromise"})
        plane.in_step()
        assert (who(server, pki.bob), who(server, self.carol)) == ("bob", None)

    def lost(self) -> None:
        """The machine with the control plane."""
        self.plane.worker.stop()

    def restored(self) -> Plane:
        service.restore(self.config, self.file)
        return self.open()

    def open(self) -> Plane:
        made = Restored(self.config)
        self.opened.append(made)
        return made


def copied(source: Path, to: Path) -> Path:
    """A database as it is now, in place of another one, also where that is open."""
    with sqlite3.connect(source) as old, sqlite3.connect(to) as new:
        old.backup(new)
    old.close()
    new.close()
    return to


def revoked_at(server: RedisServer) -> str:
    """The one `revoke` line that it holds."""
    (line,) = [one for one in show(operator(server)) if one.startswith("revoke ")]
    return line


def held(server: RedisServer) -> tuple[int, str, int]:
    """What it holds, by whom."""
    now = status(operator(server))
    return now["generation"], now["digest"], now["epoch"]


def events(plane: ControlPlane, kind: str) -> Any:
    return plane.ok(f"GET /v1/logs?type={kind}")


# ---- A restore begins on hold ----


def test_a_restore_sends_nothing_and_shows_what_it_would_take_back(there: Story) -> None:
    """bob, who came after the backup, stays in until somebody has seen that he would not. The
    revocation that the node holds is kept, there and here; who was restored, and how old the backup
    is, is in the event log."""
    there.lost()
    before = held(there.server)
    plane = there.restored()
    said = plane.says("HELD")
    assert "would go: bind subject" in said
    assert "bob" in said
    (line,) = [one for one in show(operator(there.server)) if one.startswith("revoke ")]
    (kept,) = plane.ok("GET /v1/certauth/revocations")
    assert kept["line"] == line
    assert events(plane, "revocations_kept")[0]["lines"] == [line]
    (event,) = events(plane, "restored")
    assert event["backup_age"] >= 0
    assert event["backup_time"].endswith("Z")
    found = plane.ok("GET /v1/certauth/nodes")
    assert found["hold"].startswith("restored from a backup of ")
    assert not found["nodes"][0]["in_step"]
    browser = Browser(plane)
    browser.log_in()
    assert "Nothing is sent to the servers (restored from a backup of" in browser.get("/ui/").text
    plane.certificate_user("dora", "CN=dora", role="admin")  # changes wait as well
    plane.says("HELD")
    assert held(there.server) == before
    assert who(there.server, there.pki.bob) == "bob"

    service.release(there.config, force=False)
    plane.in_step()
    assert (who(there.server, there.pki.bob), who(there.server, there.carol)) == (None, None)
    assert set(show(operator(there.server))) == plane.lines()
    assert line in plane.lines()
    assert events(plane, "released")
    with pytest.raises(ServiceError, match="not on hold"):
        service.release(there.config, force=False)


def test_a_hold_outlives_a_restart(there: Story) -> None:
    """It is the store's, and not the process's."""
    there.lost()
    plane = there.restored()
    plane.says("HELD")
    plane.close()
    plane.open()
    plane.says("HELD")
    assert who(there.server, there.pki.bob) == "bob"


def test_what_was_not_seen_is_not_released(there: Story) -> None:
    """A server that does not answer may hold what nobody has looked at; by force it is."""
    there.lost()
    service.restore(there.config, there.file)
    with pytest.raises(ServiceError, match="not reached yet"):
        service.release(there.config, force=False)
    there.server.stop()
    plane = there.open()
    plane.says("UNREACHABLE")
    with pytest.raises(ServiceError, match="UNREACHABLE"):
        service.release(there.config, force=False)
    assert plane.ok("GET /v1/certauth/nodes")["hold"]


def test_a_server_that_was_away_at_a_forced_release_is_looked_at_first(there: Story) -> None:
    """It alone may hold what was taken away since the backup. What it holds as revoked is revoked
    everywhere; what else differs is shown, and waits for a release; nothing is overwritten unseen,
    after a restart of the control plane either."""
    there.lost()
    before, line = held(there.server), revoked_at(there.server)
    there.server.stop()
    plane = there.restored()
    assert "nobody has seen what it holds (restored from a backup of" in plane.says("UNREACHABLE")
    service.release(there.config, force=True)
    with pytest.raises(ServiceError, match="not on hold"):  # there is nothing that was seen
        service.release(there.config, force=False)
    plane.close()
    there.server.start()
    plane.open()
    said = plane.says("HELD")
    assert said.endswith("then: redis-certauth release")
    assert "would go: bind subject" in said
    (node,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    assert node["hold"].startswith("restored from a backup of ")
    (kept,) = plane.ok("GET /v1/certauth/revocations")
    (event,) = events(plane, "node_held")
    told = events(plane, "revocations_kept")[0]
    assert kept["line"] == line
    assert told["lines"] == [line]
    assert [one for one in event["unknown_lines"] if "bob" in one]
    assert held(there.server) == before
    browser = Browser(plane)
    browser.log_in()
    assert "would go: bind subject" in browser.get("/ui/").text

    service.release(there.config, force=False)
    plane.in_step()
    assert (who(there.server, there.pki.bob), who(there.server, there.carol)) == (None, None)
    assert plane.ok("GET /v1/certauth/nodes")["nodes"][0]["hold"] == ""
    assert set(show(operator(there.server))) == plane.lines()
    assert plane.store.holds.all() == ()


def test_a_server_that_is_given_back_unseen_is_looked_at_before(there: Story) -> None:
    """It is emptied; what it alone held as revoked stays revoked."""
    there.lost()
    line = revoked_at(there.server)
    there.server.stop()
    plane = there.restored()
    plane.says("UNREACHABLE")
    service.release(there.config, force=True)
    plane.ok("DELETE /v1/bdbs/1")
    there.server.start()
    wait_until(lambda: plane("GET /v1/bdbs/1").status == 404, "it is given back", 30)
    assert [one["line"] for one in plane.ok("GET /v1/certauth/revocations")] == [line]
    assert show(operator(there.server)) == []
    assert plane.store.holds.all() == ()


def test_a_server_that_is_merely_behind_is_not_held(
    plane: Plane, make_node: MakeNode, tmp_path: Path
) -> None:
    """Nothing is in it that the control plane does not know."""
    server, config = make_node(), elsewhere(tmp_path)
    plane.register(server)
    plane.in_step()
    server.stop()
    plane.certificate_user("dora", "CN=dora", role="admin")
    service.backup(plane.config, tmp_path / "backup")
    plane.worker.stop()
    service.restore(config, tmp_path / "backup")
    restored = Restored(config)
    try:
        service.release(config, force=True)
        server.start()
        restored.in_step()
        assert events(restored, "node_held") == []
        assert restored.store.holds.all() == ()
    finally:
        restored.close()


# ---- The database went back to an older state ----


@pytest.mark.parametrize("how", ["running", "late", "started"])
def test_a_database_that_went_back_is_on_hold(
    there: Story, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a point-in-time recovery, or a failover to a lagging standby: nobody said `restore`.
    A process that has seen more says so itself; one that is started later, by what its servers
    hold. What they hold as revoked is lost in neither case."""
    plane, server, running = there.plane, there.server, how != "started"
    if not running:
        plane.close()
    if how == "late":  # its server is looked at before it sees so itself
        monkeypatch.setattr("control.store.holds.Holds.begin_if_older", lambda _: None)
    line, before = revoked_at(server), held(server)
    copied(there.older, plane.config.home / "control.db")
    if not running:
        plane.open()
    if how == "late":
        plane.says("HELD the control plane's database is older than what this server holds")
        monkeypatch.undo()
    if running:
        plane.says("HELD the database went back to an older state")
    said = plane.says("HELD")
    assert "would go: bind subject" in said
    assert "redis-certauth release" in said
    general = plane.ok("GET /v1/certauth/nodes")["hold"]
    if running:
        assert general.startswith("the database went back to an older state")
        (event,) = events(plane, "database_went_back")
        assert event["revision"] < event["seen_revision"] < plane.store.revision()
    else:
        assert general == ""
        assert "the control plane's database is older than what this server holds" in said
        (event,) = events(plane, "node_held")
        assert line in event["unknown_lines"]
        # A server that says so by itself has revoked nothing on others before somebody looked.
        assert plane.ok("GET /v1/certauth/revocations") == []
    assert held(server) == before
    assert who(server, there.pki.bob) == "bob"
    service.release(plane.config, force=False)
    plane.in_step()
    assert [one["line"] for one in plane.ok("GET /v1/certauth/revocations")] == [line]
    assert (who(server, there.pki.bob), who(server, there.carol)) == (None, None)
    with pytest.raises(ServiceError, match="not on hold"):
        service.release(plane.config, force=False)


def test_what_is_changed_by_hand_is_still_set_right(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """A control plane that has seen the server in step knows that its database is not older."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    now = status(operator(server))
    load(operator(server), now["generation"] + 9, ["set enforce off"], "OWNER", now["owner"])
    wait_until(lambda: events(plane, "node_drift"), "it is told", 30)
    plane.in_step()
    assert plane.store.holds.all() == ()
    assert events(plane, "node_held") == []


def test_a_dry_run_asks_the_servers_and_makes_nothing(there: Story) -> None:
    """The same as the status says afterwards; of a server that is away, that it is."""
    command = ["restore", str(there.file), "--home", str(there.config.home), "--dry-run"]
    before = held(there.server)
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0, told.output
    assert "would go: bind subject" in told.output
    assert "1 revoked or locked, and kept: revoke " in told.output
    assert held(there.server) == before
    assert not there.config.home.exists()
    there.server.stop()
    assert "UNREACHABLE" in CliRunner().invoke(main, command).output


def test_a_revocation_that_is_taken_back_on_hold_stays_so(there: Story) -> None:
    """Anyone who looks decides: it is not kept a second time."""
    there.lost()
    plane = there.restored()
    plane.says("HELD")
    (kept,) = plane.ok("GET /v1/certauth/revocations")
    plane.ok(f"DELETE /v1/certauth/revocations/{kept['uid']}")
    plane.certificate_user("dora", "CN=dora", role="admin")
    plane.says("CN=dora")  # it was looked at again
    assert len(events(plane, "revocations_kept")) == 1
    assert plane.ok("GET /v1/certauth/revocations") == []
    service.release(there.config, force=False)
    plane.in_step()
    assert who(there.server, there.carol) == "carol"


def test_restored_under_another_name_the_api_shows_it(plane: Plane, tmp_path: Path) -> None:
    """Its certificate is for the names that --api-name gives, from the same CA; what is not a name
    makes nothing."""
    service.backup(plane.config, tmp_path / "backup")
    config = elsewhere(tmp_path)
    with pytest.raises(ServiceError, match="--api-name"):
        service.restore(config, tmp_path / "backup", ["a..b" * 100])
    assert not config.home.exists()
    service.restore(config, tmp_path / "backup", ["new.example", "10.0.0.7"])
    opened = Store(config.url)
    shown = opened.settings.certificates()[API]
    opened.close()
    names = core.identity(shown.certificate.encode()).sans
    assert {("dns", "new.example"), ("ip", "10.0.0.7")} == set(names), names
    assert shown.certificate.endswith((plane.config.home / "ca.crt").read_text())


# ---- What cannot be restored ----


def repacked(file: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A backup whose rows were changed."""
    with tarfile.open(file, "r:gz") as old, tarfile.open(to, "w:gz") as new:
        for entry in old.getmembers():
            raw = old.extractfile(entry)
            assert raw is not None
            content = raw.read()
            if entry.name == backups.ROWS_FILE:
                rows = json.loads(content)
                change(rows)
                content = json.dumps(rows).encode()
                entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return to


def newer(rows: dict[str, Any]) -> None:
    rows["schema"] = "9999"


def torn(rows: dict[str, Any]) -> None:
    rows["tables"]["users"]["columns"] = ["uid", "nonsense"]


def half(rows: dict[str, Any]) -> None:
    rows["tables"]["users"] = []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (newer, "the backup was made by a newer version of redis-certauth (its schema is 9999"),
        (torn, "its rows do not fit together: "),
        (half, "is not a backup, or a damaged one"),
    ],
)
def test_a_backup_that_cannot_be_read_makes_nothing(
    plane: Plane, tmp_path: Path, change: Any, text: str
) -> None:
    """A sentence, no folder, no database; and a good one is taken afterwards."""
    service.backup(plane.config, tmp_path / "backup")
    bad = repacked(tmp_path / "backup", tmp_path / "bad", change)
    config = elsewhere(tmp_path)
    for more in ([], ["--dry-run"]):
        told = CliRunner().invoke(main, ["restore", str(bad), "--home", str(config.home), *more])
        assert told.exit_code == 1
        assert text in told.output
        assert "Traceback" not in told.output
        assert len(told.output.splitlines()) == 1
        assert not config.home.exists()
    service.restore(config, tmp_path / "backup")
    assert not list(config.home.glob(".*"))
    assert stat.S_IMODE((config.home / "ca.key").stat().st_mode) == 0o600


# ---- Databases of another version, or of something else ----


def commands(config: Config, tmp_path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    enrolment = service.Enrolment("127.0.0.1", 1, Path("/module"), database="orders")
    yield "serve", lambda: service.running(config).__enter__()
    yield "backup", lambda: service.backup(config, tmp_path / "file")
    yield "allow-passwords", lambda: service.allow_passwords(config)
    yield "set-password", lambda: service.set_password(config, "admin", "x")
    yield "node enrol", lambda: service.enrol(config, enrolment)
    yield "release", lambda: service.release(config, force=True)


def content(config: Config) -> list[str]:
    """Every row, and every table."""
    with sqlite3.connect(config.home / "control.db") as connection:
        return list(connection.iterdump())


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = elsewhere(tmp_path, "home")
    service.init(made, "acme", *ADMIN, NAMES)
    return made


def execute(config: Config, *statements: str) -> None:
    engine = sa.create_engine(config.url)
    with engine.begin() as connection:
        for one in statements:
            connection.exec_driver_sql(one)
    engine.dispose()


@pytest.mark.parametrize("kind", ["gone", "empty", "foreign", "newer"])
def test_a_database_that_is_not_ours_is_named_and_left_alone(
    config: Config, tmp_path: Path, kind: str
) -> None:
    """Each command says so in a sentence. But for a backup of a newer version's, which only
    reads."""
    file = config.home / "control.db"
    if kind == "newer":
        execute(config, "UPDATE alembic_version SET version_num = '9999'")
    else:
        for left in config.home.glob("control.db*"):
            left.unlink()
    if kind == "empty":
        file.touch()
    if kind == "foreign":
        execute(config, "CREATE TABLE songs (name TEXT)")
    texts = {
        "gone": "there is no file",
        "empty": "the database is empty: there is no control plane in it",
        "foreign": r"it holds other tables \(songs\) and no control plane",
        "newer": "was made by a newer version of redis-certauth",
    }
    before = content(config) if file.exists() else []
    for name, command in commands(config, tmp_path):
        if (name, kind) == ("backup", "newer"):
            command()
            continue
        with pytest.raises(ServiceError, match=texts[kind]):
            command()
    assert file.exists() == (kind != "gone")
    assert (content(config) if file.exists() else []) == before
    if kind == "foreign":
        (config.home / "ca.key").unlink()
        with pytest.raises(ServiceError, match=texts[kind]):
            service.init(config, "acme", *ADMIN, NAMES)


def test_a_backup_before_the_upgrade_changes_nothing(config: Config, tmp_path: Path) -> None:
    """An older database is backed up as it is, and restored into this version; all other commands
    leave it to `serve`, which brings it up to date."""
    execute(
        config,
        "DROP TABLE holds",
        f"UPDATE alembic_version SET version_num = '{store.versions.known_versions()[1]}'",
    )
    before = content(config)
    for name, command in commands(config, tmp_path):
        if name == "backup":
            command()
        elif name != "serve":
            with pytest.raises(ServiceError, match="older version .schema .*: `serve`"):
                command()
    assert content(config) == before
    service.restore(elsewhere(tmp_path), tmp_path / "file")
    Store(config.url).close()
    service.allow_passwords(config)


def test_an_older_process_writes_nothing_beside_a_newer_one(config: Config) -> None:
    """The schema is looked at in each change: the API answers 503 with the reason, and nobody gets
    the lease. What it reads goes on."""
    opened = Store(config.url)
    opened.events.note("before")
    assert opened.lease.take("us", 3)
    execute(config, "UPDATE alembic_version SET version_num = '9999'")
    before = content(config)
    for change in (
        lambda: opened.events.note("after"),
        lambda: opened.lease.take("us", 3),
        lambda: opened.lease.raise_epoch("us", 1, 7),
        lambda: opened.settings.configure(lambda now: now),
        lambda: opened.logins.failed(0, 1),
        lambda: opened.rehearse().__enter__(),
    ):
        with pytest.raises(Refusal, match="another version of redis-certauth has changed") as told:
            change()
        assert (told.value.status, told.value.error_code) == (503, "other_schema")
    assert opened.settings.cluster().name == "acme"
    assert content(config) == before
    opened.close()


def test_an_older_process_sends_nothing_to_the_servers(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """It lets go of them when the database is another version's, and takes them back when it is
    its own again."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    execute(plane.config, "UPDATE alembic_version SET version_num = '9999'")
    wait_until(lambda: not plane.worker.fleet.all(), "it looks after nobody")
    answer = plane("POST /v1/roles", {"name": "x"})
    assert (answer.status, answer.code) == (503, "other_schema")
    own = store.versions.known_versions()[0]
    execute(plane.config, f"UPDATE alembic_version SET version_num = '{own}'")
    plane.user(pki.bob, "bob")
    plane.in_step()
    assert who(server, pki.bob) == "bob"


def test_commands_on_the_machine_compute_nothing_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines of all databases, while everybody waits: a backup is not an outage, and an
    emergency is not a time for it."""
    opened = Store(config.url)
    opened.objects.create(database(ports=(1,)))
    opened.close()
    asked = []
    refresh = store.lines.refresh_databases

    def counted(connection: Any, uids: Any, own: bool = False) -> None:
        asked.append(own)
        refresh(connection, uids, own)

    for room in ("policies", "objects", "settings", "nodes"):
        monkeypatch.setattr(f"control.store.{room}.refresh_databases", counted)
    service.backup(config, tmp_path / "backup")
    service.allow_passwords(config)
    service.set_password(config, "admin", "another")
    assert asked == []
    shown = (config.home / "control.crt").read_bytes()
    monkeypatch.setattr(enrolment, "_server_certificate", lambda *_: shown)
    service.enrol(config, service.Enrolment("127.0.0.1", 1, Path("/module"), database="db1"))
    assert asked == [True]  # the lines that do not depend on the users


# ---- Two control planes with one identity ----


def sights(plane: Plane) -> bool:
    """Whether its worker has looked at all of its servers since it was opened."""
    nodes = plane.worker.fleet.all()
    return bool(nodes) and all(tracked.info for tracked in nodes)


@pytest.mark.parametrize("last", ["TWICE", "UNREACHABLE it did not answer", ""])
def test_the_one_that_is_outbid_stops_and_says_so(there: Story, last: str) -> None:
    """The machine that was lost comes back beside the restored one. The released one has the
    servers; the other sends nothing any more, after a restart either, whatever it saw `last` of the
    server: no revocation flickers."""
    old, server = there.plane, there.server
    new = there.restored()
    new.says("HELD")
    service.release(there.config, force=False)
    new.in_step()
    said = old.says("TWICE")
    assert "another control plane with this one's identity" in said
    (event,) = events(old, "other_control_plane")
    assert event["description"].startswith("another control plane with this one's identity")
    old.ok("DELETE /v1/users/2")
    after = held(server)
    old.close()
    if last != "TWICE":
        execute(old.config, f"UPDATE nodes SET error = '{last}'")
    old.open()
    wait_until(lambda: sights(old), "it has looked at the server")
    old.says("TWICE")
    new.in_step()
    assert held(server) == after
    assert events(old, "other_control_plane") == [event]
    with pytest.raises(ServiceError, match="TWICE"):
        service.release(old.config, force=False)

    service.release(old.config, force=True)  # the old one is to stay, after all
    old.in_step()
    new.says("TWICE")
    assert events(new, "other_control_plane")


def test_a_restored_one_that_waits_sees_that_the_other_goes_on(there: Story) -> None:
    """What the servers hold moves while it sends nothing: it is not released without force."""
    new = there.restored()
    new.says("HELD")
    there.plane.certificate_user("dora", "CN=dora", role="admin")
    said = new.says("TWICE")
    assert "goes on writing to this server" in said
    assert events(new, "other_control_plane")
    with pytest.raises(ServiceError, match="goes on writing to this server"):
        service.release(there.config, force=False)


def test_attack_a_node_that_lies_about_its_epoch_costs_itself_alone(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Anyone who owns one server cannot keep revocations from the others."""
    liar, honest = make_node(), make_node()
    plane.register(liar, honest)
    bob = plane.user(pki.bob, "bob")
    plane.in_step()
    owner = status(operator(liar))["owner"]
    load(operator(liar), 50, show(operator(liar)), "OWNER", owner, "EPOCH", "41")
    plane.says("TWICE")
    plane.ok(f"DELETE /v1/users/{bob}")
    wait_until(lambda: who(honest, pki.bob) is None, "bob is out on the other one")


# ---- Nodes that went back, or were away ----


def test_a_node_that_went_back_in_time_is_told(
    plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path
) -> None:
    """As a virtual machine from last week's snapshot: it let in clients that were revoked since.
    Healed, and an event; a node that was merely down is none."""
    server = make_node()
    plane.register(server)
    bob = plane.user(pki.bob, "bob")
    plane.in_step()
    assert server.module is not None
    journal = Path(server.module[1]) / "policy"
    old, was = journal.read_bytes(), status(operator(server))["generation"]
    plane.ok(f"DELETE /v1/users/{bob}")
    plane.in_step()
    now = status(operator(server))["generation"]
    server.stop()
    server.start()
    plane.in_step()
    assert events(plane, "node_went_back") == []
    server.stop()
    plane.says("UNREACHABLE")
    journal.write_bytes(old)
    server.start()
    plane.in_step()
    (event,) = events(plane, "node_went_back")
    assert (event["seen_generation"], event["generation"]) == (now, was)
    assert who(server, pki.bob) is None
    assert events(plane, "node_drift") == []


def test_a_node_that_was_away_for_long_has_not_drifted(
    plane: Plane, make_node: MakeNode, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What led from its policy to this one is not kept any more: it gets the whole, and that is no
    alarm. What was changed by hand is one."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    server.stop()
    plane.says("UNREACHABLE")
    monkeypatch.setattr("control.store.lines.POLICY_LOG_GENERATIONS", 3)
    monkeypatch.setattr("control.nodes.reconcile.POLICY_LOG_GENERATIONS", 3)
    for number in range(6):
        plane.certificate_user(f"u{number}", f"CN=u{number}", role="admin")
    server.start()
    plane.in_step()
    assert set(show(operator(server))) == plane.lines()
    assert events(plane, "node_drift") == []
    now = status(operator(server))
    load(operator(server), now["generation"] + 1, ["set enforce off"], "OWNER", now["owner"])
    wait_until(lambda: events(plane, "node_drift"), "what was changed by hand is told")


# ---- Nodes of a control plane that is gone ----


def test_a_node_of_a_lost_control_plane_is_taken_over(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """The status names the command. Taking over changes nobody's rights by itself; then the node is
    brought to what is known here."""
    server = make_node()
    bound = f'bind subject "{pki.alice.certificate.subject.rfc4514_string()}" alice'
    lines = ["set enforce off", bound]
    load(operator(server), 7, lines, "OWNER", "deadbeef/1", "EPOCH", "9")
    plane.register(server)
    assert "redis-certauth node take HOST:PORT" in plane.says("OWNED")
    command = ["node", "take", f"127.0.0.1:{server.port}", "--home", str(plane.config.home)]
    assert CliRunner().invoke(main, command, input="n\n").exit_code == 1
    assert status(operator(server))["owner"] == "deadbeef/1"
    told = CliRunner().invoke(main, [*command, "--yes"])
    assert told.exit_code == 0, told.output
    assert "belonged to 'deadbeef/1'" in told.output
    plane.in_step()
    assert set(show(operator(server))) == plane.lines()
    (event,) = events(plane, "node_taken")
    assert event["previous_owner"] == "deadbeef/1"
    again = CliRunner().invoke(main, [*command, "--yes"])
    assert "is the control plane's already" in again.output


def test_a_node_that_is_somebodys_here_is_not_taken(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Nor one that no database has."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    operator(server).config_set("bind", "127.0.0.1 127.0.0.2")
    twice = [{"addr": ["127.0.0.2"], "port": server.port}]
    plane.register(server, name="carts", endpoints=twice, tls_server_name="127.0.0.1")
    plane.says("OWNED", uid=2)
    with pytest.raises(ServiceError, match="belongs to bdb 1 .'orders'. of this control plane"):
        service.take_node(plane.config, f"127.0.0.2:{server.port}")
    with pytest.raises(ServiceError, match="register it first"):
        service.take_node(plane.config, "10.0.0.1:6379")
    assert plane.status() == "active"


# ---- The audit file ----


def test_the_audit_file_says_which_store_an_entry_is_from(plane: Plane, tmp_path: Path) -> None:
    """A file that was kept goes on behind what the backup has, and no two events have one id."""
    kept, fresh = tmp_path / "kept", tmp_path / "fresh"
    service.backup(plane.config, tmp_path / "backup")
    plane.ok("POST /v1/roles", {"name": "lost"})
    follow(plane.store, kept)
    config = elsewhere(tmp_path)
    service.restore(config, tmp_path / "backup")
    restored = Store(config.url)
    restored.events.note("found")
    for path in (kept, fresh):
        follow(restored, path)
        follow(restored, path)
    restored.close()
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    keys = [(line["store"], line["id"]) for line in lines]
    assert len(set(keys)) == len(keys)
    assert len({store for store, _ in keys}) == 2
    types = [line["type"] for line in lines]
    assert types[-2:] == ["restored", "found"]
    assert types.count("cluster_created") == 1
    assert "role_created" in types
    again = [json.loads(line) for line in fresh.read_text().splitlines()]
    assert [line for line in again if line not in lines] == []
    assert [line["type"] for line in again if line["store"] == keys[-1][0]] == types[-2:]
