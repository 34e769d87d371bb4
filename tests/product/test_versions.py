"""Versions beside each other: a control plane of now and nodes of the version before, forwards and
back, and what an older program says of a newer database."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control import service
from control.cli.main import main
from control.nodes.protocol import LACKS, PROTOCOL
from control.service import ServiceError
from tests.kit.node import Start, status, who
from tests.kit.plane import Plane, enrolled_node, initialised, operator
from tests.kit.servers import Server
from tests.kit.support import ROOT, Pki, RedisServer, wait_until
from tests.kit.versions import FIRST_RELEASE, module_of


def restarted(server: RedisServer, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another module, as an upgrade puts it instead of the present one."""
    monkeypatch.setattr("tests.kit.support.MODULE", module)
    server.stop()
    server.start()


def seen(plane: Plane) -> dict[str, Any]:
    (node,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    return dict(node)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_module_of_the_version_before_is_upgraded_and_taken_back(
    plane: Plane, start: Start, installed: Server, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the policy, its log is read, and what it cannot do is said; with its own journal the
    new one holds the policy at once, and the old one again. Alice comes in all the time, bob, who
    was removed meanwhile, nowhere."""
    now = ROOT / "module" / "certauth.so"
    before = module_of(FIRST_RELEASE)
    monkeypatch.setattr("tests.kit.support.MODULE", before)
    server = enrolled_node(start, installed, plane.config.home, pki)
    alice, bob = pki.alice, pki.ca.issue("CN=bob")
    uid = plane.user(bob, "bob")
    plane.register(server)
    plane.in_step(deadline=60)
    assert (who(server, alice), who(server, bob)) == ("alice", "bob")
    node = seen(plane)
    assert (node["module"], node["protocol"]) == ("1", 1)
    assert node["cannot"] == [*LACKS[1]]
    kinds = "GET /v1/logs?type=client_login"
    wait_until(lambda: len(plane.ok(kinds)) >= 2, "its log is read", 30)
    for body in ({"user": "alice"}, {"identity": {"cn": "alice"}}, {"network": "10.0.0.0/8"}):
        lock = plane.ok("POST /v1/certauth/locks", body)
        assert "the module on this server is too old for locks" in lock["warnings"][0]
        wait_until(lambda: who(server, alice) is None, f"{body} is kept there all the same", 30)
        assert who(server, bob) == (None if "network" in body else "bob")
        plane.ok(f"DELETE /v1/certauth/locks/{lock['uid']}")
        wait_until(lambda: who(server, alice) == "alice", f"{body} is over", 30)
        assert who(server, bob) == "bob"
    plane.in_step(deadline=60)
    generation = status(operator(server))["generation"]

    restarted(server, now, monkeypatch)
    assert status(operator(server))["generation"] == generation
    assert (who(server, alice), who(server, bob)) == ("alice", "bob")
    plane.in_step(deadline=60)
    wait_until(lambda: seen(plane)["protocol"] == PROTOCOL, "it is seen", 30)
    node = seen(plane)
    assert (node["module"], node["cannot"]) == (status(operator(server))["version"], [])
    plane.ok(f"DELETE /v1/users/{uid}?wait_for_sync=20")
    assert (who(server, alice), who(server, bob)) == ("alice", None)

    restarted(server, before, monkeypatch)
    assert (who(server, alice), who(server, bob)) == ("alice", None)
    plane.in_step(deadline=60)
    wait_until(lambda: seen(plane)["protocol"] == 1, "it is seen", 30)
    assert (who(server, alice), who(server, bob)) == ("alice", None)


def test_an_older_program_touches_no_newer_database(tmp_path: Path) -> None:
    """Each command says so in a sentence, and leaves every byte as it is."""
    config = initialised(tmp_path / "control")
    made = sqlite3.connect(config.home / "control.db", isolation_level=None)
    made.execute("UPDATE alembic_version SET version_num = '9999'")
    made.close()  # the last one, which empties the log of writes
    file = config.home / "control.db"
    before = file.read_bytes()
    home = ["--home", str(config.home)]
    for words in (
        ["config", "check", *home],
        ["allow-passwords", *home],
        ["release", *home],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1
        assert "the database was made by a newer version of redis-certauth" in done.output
        assert "Traceback" not in done.output
    with pytest.raises(ServiceError, match="by a newer version"), service.running(config):
        pass
    assert file.read_bytes() == before
