"""From the store to the nodes: the change that is sent, and the worker that sends it, on real
servers."""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import service
from control.nodes.client import Access, Node, NodeError
from control.nodes.lease import Lease
from control.nodes.plan import merged
from control.nodes.reconcile import detach, reconcile
from control.policy import core
from control.records import Change, Target
from tests.kit.faults import Disk
from tests.kit.node import load, patch, reasons, rules, show, status, turned_away, who
from tests.kit.plane import SOON, Plane, authority_of, enrolled_node, frozen, operator
from tests.kit.servers import Server
from tests.kit.support import CLIENT, SERVER, Pki, RedisServer, root, wait_until

# ---- The change ----------------------------------------------------------------------------------


def change(generation: int, added: Iterable[str] = (), removed: Iterable[str] = ()) -> Change:
    return Change(generation, f"digest {generation}", tuple(added), tuple(removed))


LINES = st.frozensets(st.sampled_from([f"line {letter}" for letter in "abcdefg"]))


@given(st.lists(LINES, min_size=1, max_size=8))
def test_the_merged_changes_lead_from_the_first_policy_to_the_last(
    policies: list[frozenset[str]],
) -> None:
    """Whatever came and went between: each line is named once, and only what differs."""
    steps = itertools.pairwise(policies)
    changes = [change(n, new - old, old - new) for n, (old, new) in enumerate(steps, 2)]
    found = merged(changes)
    signed = {line[1:]: line[0] for line in found}
    assert len(signed) == len(found)
    assert {line for line, sign in signed.items() if sign == "+"} == policies[-1] - policies[0]
    assert {line for line, sign in signed.items() if sign == "-"} == policies[0] - policies[-1]


# ---- The worker ----------------------------------------------------------------------------------

MakeNode = Callable[..., RedisServer]


@pytest.fixture
def make_node(start: Any, installed: Server, plane: Plane, pki: Pki) -> MakeNode:
    """`make_node(**options)`: a running server that takes its policy from the control plane."""

    def make(**options: Any) -> RedisServer:
        return enrolled_node(
            start, installed, plane.config.home, options.pop("pki", pki), **options
        )

    return make


def becomes(server: RedisServer, cert: Any, expected: str | None, deadline: float = SOON) -> None:
    wait_until(lambda: who(server, cert) == expected, f"the client is {expected}", deadline)


def folder(server: RedisServer) -> Path:
    assert server.module is not None
    return Path(server.module[1])


def test_a_change_is_on_the_node_at_once(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """A new database, a new user and a removed one take effect without anybody asking."""
    server = make_node()
    plane.register(server)
    becomes(server, pki.alice, "alice")
    assert turned_away(server, pki.bob, operator(server)) == "no_binding"
    bob = plane.user(pki.bob, "bob")
    becomes(server, pki.bob, "bob")
    plane.ok(f"DELETE /v1/users/{bob}")
    becomes(server, pki.bob, None)
    assert turned_away(server, pki.bob, operator(server)) == "no_binding"
    assert who(server, pki.alice) == "alice"
    plane.in_step()


def test_only_what_changed_is_sent(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """The node's lines are the store's, and its sessions outlive a change that is about others."""
    server = make_node()
    uid = plane.register(server)
    plane.in_step()
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    plane.user(pki.bob, "bob")
    plane.in_step()
    assert set(show(operator(server))) == plane.lines(uid)
    assert status(operator(server))["digest"] == core.digest(plane.lines(uid))
    assert alice.ping()


def test_the_control_plane_leaves_no_trace_of_denied_commands(
    server_kind: Server, start: Any, plane: Plane, pki: Pki
) -> None:
    """It runs nothing on a node but what the bootstrap file allows it."""
    server = enrolled_node(start, server_kind, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    assert operator(server).execute_command("ACL", "LOG") == []


def test_a_node_that_was_down_is_brought_up_to_date(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """The change is kept, the database says which node is behind, and the other node goes on."""
    down, up = make_node(), make_node()
    plane.register(down, up)
    plane.in_step()
    down.stop()
    plane.user(pki.bob, "bob")
    becomes(up, pki.bob, "bob")
    said = plane.says("UNREACHABLE")
    assert said.startswith(f"127.0.0.1:{down.port}: ")

    def other() -> str:
        nodes = {node["address"]: node for node in plane.ok("GET /v1/bdbs/1")["nodes"]}
        return str(nodes[f"127.0.0.1:{up.port}"]["status"])

    wait_until(lambda: other() == "active", "the other node is in step")
    down.start()
    plane.in_step()
    assert who(down, pki.bob) == "bob"


def test_a_node_that_hangs_holds_up_no_other(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """While a server does not answer, changes reach the others as fast as ever, one after the
    other; the database shows it as not done."""
    hangs, works = make_node(), make_node()
    plane.register(hangs)
    other = plane.register(works, name="other")
    plane.in_step()
    plane.in_step(other)
    with frozen(hangs):
        plane.user(pki.bob, "bob")
        becomes(works, pki.bob, "bob")
        carol = pki.ca.issue("CN=carol")
        plane.user(carol, "carol")
        becomes(works, carol, "carol")
        plane.in_step(other, SOON)
        assert plane.status() != "active"
    plane.in_step()
    assert who(hangs, carol) == "carol"


def test_a_database_that_is_removed_waits_for_a_node_that_hangs(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """What the node was before the removal does not count as its having been detached."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    with frozen(server):
        plane.ok("DELETE /v1/bdbs/1")
        plane.says("delete-pending")
        plane.register(make_node(), name="other")  # the worker has been round
        plane.in_step(2)
        assert plane.status() == "delete-pending"
    wait_until(lambda: plane("GET /v1/bdbs/1").status == 404, "the database is gone")
    assert status(operator(server))["owner"] == ""


def test_a_node_of_another_control_plane_is_left_alone(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Anyone who stamped it first keeps it; the database says so."""
    server = make_node()
    lines = ["set enforce off"]
    load(operator(server), 7, lines, "OWNER", "somebody else/1")
    plane.register(server)
    said = plane.says("OWNED")
    assert "'somebody else/1'" in said
    assert show(operator(server)) == lines
    assert status(operator(server))["generation"] == 7


def test_a_node_of_another_database_here_is_said_by_name(plane: Plane, make_node: MakeNode) -> None:
    """Two names of one server, of which nobody can tell that they are: it belongs to the first, and
    the second says to which database of this very control plane."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    twice = [{"addr": ["127.0.0.2"], "port": server.port}]
    operator(server).config_set("bind", "127.0.0.1 127.0.0.2")
    plane.register(server, name="carts", endpoints=twice, tls_server_name="127.0.0.1")
    said = plane.says("OWNED", uid=2)
    assert "belongs to bdb 1 ('orders') of this control plane" in said
    assert plane.status() == "active"


def test_a_wiped_node_gets_the_whole_policy(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """As one that is new, or whose disk was replaced."""
    server = make_node()
    plane.register(server)
    plane.user(pki.bob, "bob")
    plane.in_step()
    server.stop()
    for left in folder(server).parent.glob(f"{folder(server).name}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    (folder(server) / "ca").mkdir(parents=True)
    server.start()
    admin = operator(server)  # one connection: new ones are `default` at first, who is closed
    wait_until(lambda: status(admin)["generation"] > 0, "the node has a policy")
    plane.in_step()
    assert set(show(operator(server))) == plane.lines()
    assert who(server, pki.bob) == "bob"


def test_a_restored_control_plane_is_right_again(
    plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path
) -> None:
    """A node that is ahead of an old copy of the store gets what that copy says, once somebody has
    seen what it would lose."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    plane.close()
    database = plane.config.home / "control.db"
    shutil.copy(database, tmp_path / "copy")
    plane.open()
    plane.user(pki.bob, "bob")
    plane.user(pki.ca.issue("CN=carol"), "carol")
    plane.in_step()
    ahead = status(operator(server))["generation"]
    assert who(server, pki.bob) == "bob"
    plane.close()
    for left in plane.config.home.glob("control.db*"):
        left.unlink()
    shutil.copy(tmp_path / "copy", database)
    plane.open()
    plane.says("HELD the control plane's database is older than what this server holds")
    assert who(server, pki.bob) == "bob"
    service.release(plane.config, force=False)
    becomes(server, pki.bob, None)
    plane.in_step()
    assert status(operator(server))["generation"] < ahead
    assert set(show(operator(server))) == plane.lines()
    assert who(server, pki.alice) == "alice"


def test_what_was_changed_by_hand_is_repaired(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """An administrator of the node adds a user to its policy: a second later that is gone."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    admin = operator(server)
    now = status(admin)
    bob = f'bind subject "{pki.bob.certificate.subject.rfc4514_string()}" bob'
    by_hand = [f"+{bob}", "+user bob on ~* +@all"]
    after = now["generation"] + 1
    patch(admin, now["generation"], after, by_hand, "OWNER", now["owner"])
    wait_until(lambda: set(show(admin)) == plane.lines(), "the lines are the store's again")
    assert who(server, pki.bob) is None
    assert rules(admin, "bob") is None
    plane.in_step()


# ---- To whom it speaks ---------------------------------------------------------------------------


@pytest.mark.parametrize("issuer", ["another CA", "the right CA"])
def test_a_node_must_be_who_it_should_be(
    plane: Plane, make_node: MakeNode, pki: Pki, issuer: str
) -> None:
    """A server whose certificate is from another CA, or for another name, is told nothing."""
    right = issuer == "the right CA"
    wrong = Pki(pki.ca, pki.server_ca if right else root("CN=Another CA"))
    names = ("dns:elsewhere.example",) if right else ("ip:127.0.0.1",)
    wrong.__dict__["server"] = wrong.server_ca.issue("CN=x", san=names, eku=(SERVER, CLIENT))
    server = make_node(pki=wrong)
    plane.register(server, tls_server_ca=pki.server_ca.pem.decode())
    said = plane.says("UNREACHABLE")
    assert "certificate verify failed" in said
    assert ("127.0.0.1" in said.split("verify failed")[1]) is right
    assert status(operator(server))["generation"] == 0
    assert sum(reasons(operator(server)).values()) == 0


def test_the_name_that_is_expected_can_be_another_than_the_address(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """`dns_name` is what the certificate must show, `addr` where the server is."""
    named = Pki(pki.ca, pki.server_ca)
    names = ("dns:redis-1.example",)
    named.__dict__["server"] = pki.server_ca.issue("CN=x", san=names, eku=(SERVER, CLIENT))
    server = make_node(pki=named)

    def endpoint(name: str) -> list[dict[str, Any]]:
        return [{"addr": ["127.0.0.1"], "port": server.port, "dns_name": name}]

    plane.register(server, endpoints=endpoint("redis-2.example"))
    assert "redis-2.example" in plane.says("certificate verify failed")
    plane.ok("PUT /v1/bdbs/1", {"endpoints": endpoint("redis-1.example")})
    plane.in_step()
    assert status(operator(server))["generation"] > 0


def test_nodes_certificates_come_from_the_own_ca_by_default(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Without `tls_server_ca` a database's nodes show what the control plane's CA has issued."""
    ours = Pki(pki.ca, authority_of(plane.config))
    server = make_node(pki=ours)
    plane.register(server, tls_server_ca="")
    plane.in_step()
    assert who(server, pki.alice) == "alice"


def test_a_node_is_told_nothing_by_who_is_not_in_its_bootstrap_file(
    plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path
) -> None:
    """Another control plane, whose CA the node does not know, is turned away and says so."""
    server = make_node()
    stranger = Plane(tmp_path / "stranger")
    try:
        stranger.trust(pki.ca)
        stranger.register(server)
        stranger.says("UNREACHABLE")
    finally:
        stranger.close()
    assert status(operator(server))["generation"] == 0


# ---- Databases come and go -----------------------------------------------------------------------


def test_a_removed_database_gives_its_nodes_back(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Users and CAs are gone, `default` is what it was, and another database may have the node."""
    server = make_node()
    admin = operator(server)
    default = rules(admin, "default")
    plane.register(server)
    plane.in_step()
    assert rules(admin, "default") != default
    assert rules(admin, "alice") is not None
    plane.ok("DELETE /v1/bdbs/1")
    wait_until(lambda: plane("GET /v1/bdbs/1").status == 404, "the database is gone")
    assert show(admin) == []
    assert rules(admin, "alice") is None
    # What is the default for payloads is written out since the user was touched.
    assert (rules(admin, "default") or "").replace("sanitize-payload ", "") == default
    assert status(admin)["owner"] == ""
    again = plane.register(server, name="again")
    plane.in_step(again)
    assert who(server, pki.alice) == "alice"
    assert status(admin)["owner"].endswith(f"/{again}")


def test_a_removed_database_takes_no_foreign_policy_with_it(
    plane: Plane, make_node: MakeNode
) -> None:
    """A node that was never ours keeps what it has, and does not keep the database from going."""
    server = make_node()
    load(operator(server), 7, ["set enforce off"], "OWNER", "somebody else/1")
    plane.register(server)
    plane.says("OWNED")
    plane.ok("DELETE /v1/bdbs/1")
    wait_until(lambda: plane("GET /v1/bdbs/1").status == 404, "the database is gone")
    assert show(operator(server)) == ["set enforce off"]


def test_a_node_that_is_ahead_is_given_back_too(plane: Plane, make_node: MakeNode) -> None:
    """A generation above ours does not keep a removed database from going."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    plane.close()
    admin = operator(server)
    load(admin, 1000, ["set enforce off"], "OWNER", status(admin)["owner"])
    plane.open()
    plane.ok("DELETE /v1/bdbs/1")
    wait_until(lambda: plane("GET /v1/bdbs/1").status == 404, "the database is gone")
    assert (status(admin)["owner"], show(admin)) == ("", [])


def test_a_server_that_is_named_twice_is_one_node(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Neither this database nor any other stops being served."""
    server = make_node()
    twice = [{"addr": ["127.0.0.1"], "port": server.port}] * 2
    plane.register(server, endpoints=twice)
    other = make_node()
    plane.register(other, name="other")
    plane.in_step(1)
    plane.in_step(2)
    assert len(plane.ok("GET /v1/bdbs/1")["nodes"]) == 1
    assert who(other, pki.alice) == "alice"


# ---- One node ------------------------------------------------------------------------------------


def test_a_change_during_the_look_is_no_error(
    plane: Plane, make_node: MakeNode, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of the target before somebody changed it does not have to fit the changes that
    are read after it."""
    server = make_node()
    uid = plane.register(server)
    plane.in_step()
    plane.worker.stop()
    lease = Lease(plane.store)
    assert lease.hold()
    store, read = plane.store, plane.store.policies.target
    plane.user(pki.bob, "bob")

    def overtaken(bdb_uid: int) -> Target:
        found = read(bdb_uid)
        monkeypatch.undo()
        plane.user(pki.ca.issue("CN=carol"), "carol")
        return found

    monkeypatch.setattr(store.policies, "target", overtaken)
    node = plane.node(server)
    owner = status(operator(server))["owner"]
    held, _ = reconcile(store, uid, owner, node, lease)
    assert (held.generation, held.digest) == (read(uid).generation, read(uid).digest)
    node.close()


def test_a_node_without_a_journal_is_an_error(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """A server that cannot read its policy is not written to, and the database says why."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    server.stop()
    file = folder(server) / "policy"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    server.start()
    plane.says("NOJOURNAL")
    assert who(server, pki.alice) is None


def test_errors_name_their_code(plane: Plane, make_node: MakeNode) -> None:
    """What a node answers is told by its first word; what is not an answer is UNREACHABLE."""
    server = make_node()
    node = plane.node(server)
    with pytest.raises(NodeError) as refusal:
        node.patch(3, Target(4, ""), ["+set enforce on"], "us/1", 1)
    assert refusal.value.code == "BASE"
    with pytest.raises(NodeError, match="^ERR"):
        node.command("CERTAUTH.POLICY", "NOSUCH")
    with pytest.raises(NodeError, match="^ERR .* no permissions"):
        node.command("GET", "x")
    node.close()
    server.stop()
    with pytest.raises(NodeError) as down:
        node.status()
    assert down.value.code == "UNREACHABLE"


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64])
def test_a_name_that_is_none_is_unreachable(
    plane: Plane, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Anyone who registers it, or announces it in a cluster, fills no log: it was a traceback each
    second."""
    plane.database(endpoints=[{"addr": [host], "port": 1}])
    said = plane.says("UNREACHABLE")
    assert "label" in said
    assert "Traceback" not in caplog.text


def test_a_slow_disk_is_not_a_node_that_is_away(
    disk: Disk, plane: Plane, make_node: MakeNode
) -> None:
    """A node that does not confirm a change within the timeout, but answers others meanwhile, is
    said to wait for its disk; the change comes through."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    plane.worker.stop()
    target, lines = plane.store.policies.whole(1)
    owner = status(operator(server))["owner"]
    authorities = server.pki.server_ca.pem.decode()
    node = Node(Access("127.0.0.1", server.port, authorities), plane.config.identity, timeout=1)
    disk.hold()
    after = Target(target.generation + 1, target.digest)
    with pytest.raises(NodeError, match="^SLOW this server answers"):
        node.load(after, lines, owner, 9)
    disk.release()
    wait_until(lambda: status(operator(server))["generation"] == after.generation, "it is there")
    with frozen(server), pytest.raises(NodeError, match="^UNREACHABLE"):
        node.load(after, lines, owner, 9)
    node.close()


def test_detaching_takes_only_what_is_ours(plane: Plane, make_node: MakeNode) -> None:
    """A node with another owner, or without any policy, stays as it is."""
    server = make_node()
    node, lease = plane.node(server), plane.worker.lease
    empty = Target(3, core.digest([]))
    assert detach(node, empty, "us/1", lease).generation == 0
    load(operator(server), 5, ["set enforce off"], "OWNER", "them/1")
    assert detach(node, empty, "us/1", lease).owner == "them/1"
    assert show(operator(server)) == ["set enforce off"]
    gone = detach(node, empty, "them/1", lease)
    assert (gone.owner, gone.lines, gone.generation) == ("", 0, 6)
    node.close()


def test_the_worker_stops_at_once(plane: Plane, make_node: MakeNode) -> None:
    """No thread of it is left, and no connection to a node."""
    server = make_node()
    plane.register(server)
    plane.in_step()
    plane.worker.stop()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("sync")]
    users = [client["user"] for client in operator(server).client_list()]
    wait_until(lambda: "certauth-control" not in users, "the node has no connection of ours")
