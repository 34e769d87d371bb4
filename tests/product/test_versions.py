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


DEMANDS = {"max_certificate_lifetime": 90 * 86400, "min_tls_version": "1.2",
           "several_names": "same"}  # fmt: skip
UNKNOWN = {
    "bind attributes OU=ops,O=acme ops": "not: 'attributes'",
    "bind attributes OU=web web": "not: 'attributes'",
    "set max-lifetime 90d": "no such setting",
    "set min-tls 1.2": "no such setting",
    "set several-names same": "no such setting",
}


def identified(plane: Plane, name: str, *identities: dict[str, Any]) -> int:
    body = {"name": name, "auth_method": "certificate", "role": "admin",
            "certificate_identities": list(identities)}  # fmt: skip
    return int(plane.ok("POST /v1/users", body)["uid"])


def refused_there(plane: Plane) -> dict[str, str]:
    return {one["line"]: one["why"] for one in plane.ok("GET /v1/bdbs/1")["refused"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_module_that_is_older_than_lines_of_its_policy_leaves_these_out(
    plane: Plane, start: Start, installed: Server, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By them nobody is anybody there; it is said of users, node and database; all others come in.
    Back from a module that knew them, whose journal it does not read, it lets nobody in, and says
    which line it is; without the journal it is where it was."""
    now, before = ROOT / "module" / "certauth.so", module_of(FIRST_RELEASE)
    monkeypatch.setattr("tests.kit.support.MODULE", before)
    server = enrolled_node(start, installed, plane.config.home, pki)
    assert server.module is not None
    plane.register(server)
    plane.in_step(deadline=60)
    clients = {
        "alice": pki.alice,
        "cart": pki.ca.issue("CN=pod", san=("uri:spiffe://acme/cart",)),
        "web": pki.ca.issue("CN=web"),
        "ops": pki.ca.issue("CN=1,OU=ops,O=acme"),
    }
    identified(plane, "cart", {"uri": "spiffe://acme/cart"})
    web = identified(plane, "web", {"cn": "web"}, {"attributes": "OU=web"})
    ops = identified(plane, "ops", {"attributes": "OU=ops,O=acme"})
    plane.ok("PUT /v1/bdbs/1", DEMANDS)

    def left_out() -> None:
        wait_until(lambda: refused_there(plane).keys() == UNKNOWN.keys(), "it is left out", 60)
        for line, why in refused_there(plane).items():
            assert UNKNOWN[line] in why
            assert f"'{line}' does not hold here" in plane.status()
            assert f"'{line}' does not hold here" in seen(plane)["error"]
        for uid, line in ((ops, "bind attributes OU=ops"), (web, "bind attributes OU=web")):
            (off,) = plane.ok(f"GET /v1/users/{uid}")["off_on"]
            assert line in off["why"]
        assert "off_on" not in plane.ok("GET /v1/users/2")
        there = {name: who(server, one) for name, one in clients.items()}
        assert there == {"alice": "alice", "cart": "cart", "web": "web", "ops": None}

    left_out()
    lock = plane.ok("POST /v1/certauth/locks", {"identity": {"cn": "web"}})
    assert "the module on this server is too old for locks" in lock["warnings"][0]
    wait_until(lambda: who(server, clients["web"]) is None, "it is held out", 30)
    assert (who(server, clients["cart"]), who(server, clients["alice"])) == ("cart", "alice")
    plane.ok(f"DELETE /v1/certauth/locks/{lock['uid']}")
    wait_until(lambda: who(server, clients["web"]) == "web", "it is over", 30)
    left_out()

    restarted(server, now, monkeypatch)
    plane.in_step(deadline=120)  # what was refused is tried again each minute
    assert {name: who(server, one) for name, one in clients.items()} == {n: n for n in clients}
    assert "off_on" not in plane.ok(f"GET /v1/users/{ops}")

    restarted(server, before, monkeypatch)
    assert {who(server, one) for one in clients.values()} == {None}
    assert "only the bootstrap file decides" in server.log
    assert "not: 'attributes'" in plane.says("NOJOURNAL", deadline=60)
    server.stop()
    Path(server.module[1], "policy").unlink()
    home = Path(server.module[1])
    for marker in home.parent.glob(f"{home.name}.*"):
        marker.unlink()
    server.start()
    left_out()


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
