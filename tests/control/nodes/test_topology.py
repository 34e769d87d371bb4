"""Every node of every topology is found and kept in step: what servers say of each other, read as
pure functions, and real replicas, Sentinels and clusters under a control plane."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.nodes import client, placement, topology, worker
from control.nodes.topology import NodeInfo
from control.policy import peers as policy_peers
from control.records import Database, NodeRole, RedisAcl, RolePermission
from control.reports import Node
from tests.kit.node import load, patch, show, status, who
from tests.kit.node_keys import own_pki, renew, rsa_key, server_cert, shown
from tests.kit.peers import SLOTS, sentinel_cert
from tests.kit.plane import Plane, enrolled_node, frozen, operator
from tests.kit.servers import Server, servers
from tests.kit.support import CLIENT, SERVER, Cert, Pki, RedisServer, root, wait_until
from tests.kit.topologies import (
    KIND,
    NEWEST,
    TLS_LINKS,
    MakeNode,
    Shards,
    Watcher,
    addresses,
    at,
    call,
    crc_slot,
    events,
    finds,
    linked,
    own_key,
    replica_of,
)

# ---- What servers answer -------------------------------------------------------------------------

MASTER = """# Server\r
redis_version:8.6.3\r
redis_mode:standalone\r
run_id:aaaa\r
# Replication\r
role:master\r
connected_slaves:3\r
slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r
slave1:ip=fd00::3,port=6380,state=wait_bgsave,offset=0,lag=0\r
slave2:ip=10.0.0.9,port=0,state=online,offset=1,lag=0\r
slave_expires_tracked_keys:7\r
# Cluster\r
cluster_enabled:0\r
# Modules\r
module:name=certauth,ver=1,api=1,filters=0,usedby=[],using=[],options=[]\r
module:name=vectorset,ver=9,api=1,filters=0\r
"""


def test_a_master_names_its_replicas() -> None:
    """Also those that are still synchronizing, by IPv6 too; not one that has not said its port."""
    assert topology.node_info(topology.fields(MASTER)) == NodeInfo(
        "master", "aaaa", "redis 8.6.3", "1", frozenset({"10.0.0.2:6379", "fd00::3:6380"})
    )


def test_a_replica_names_its_master() -> None:
    """And Valkey is told from the Redis that it says it is."""
    said = "redis_version:7.2.4\nvalkey_version:9.1.2\nrole:slave\nmaster_host:db\nmaster_port:6379"
    assert topology.node_info(topology.fields(said)) == NodeInfo(
        "replica", "", "valkey 9.1.2", "", frozenset({"db:6379"}), "db:6379"
    )
    node = Node(1, "db:6379", 0, True, "", software="valkey 9.1.2")
    assert policy_peers._release(node) == ("valkey", 9)


@pytest.mark.parametrize("line", ["redis_mode:sentinel", "server_mode:sentinel"])
def test_a_sentinel_says_what_it_is(line: str) -> None:
    """Redis and Valkey have different names for it."""
    assert topology.node_info(topology.fields(f"{line}\nrun_id:x")).role == "sentinel"


SHARDS = [
    {"slots": [0, 16383], "nodes": [
        {"id": "a", "port": 1, "tls-port": 7001, "ip": "10.0.0.1", "endpoint": "10.0.0.1",
         "role": "master", "health": "online"},
        {"id": "b", "tls-port": 7002, "ip": "10.0.0.2", "endpoint": "node-2.example",
         "role": "replica", "health": "fail"},
    ]},
    {"slots": [], "nodes": [
        {"id": "c", "port": 7003, "ip": "10.0.0.3", "endpoint": None, "health": "online"},
        {"id": "d", "tls-port": 7004, "ip": "10.0.0.4", "endpoint": "?", "health": "online"},
        {"id": "e", "tls-port": 7005, "ip": "", "endpoint": "", "health": "online"},
    ]},
]  # fmt: skip


def flat(reply: Any) -> Any:
    """Maps as RESP2 has them."""
    if isinstance(reply, dict):
        return [flat(part) for pair in reply.items() for part in pair]
    return [flat(one) for one in reply] if isinstance(reply, list) else reply


@pytest.mark.parametrize("reply", [SHARDS, flat(SHARDS)], ids=["RESP3", "RESP2"])
def test_a_cluster_is_told_of_by_its_shards(reply: Any) -> None:
    """By the endpoint that is meant for clients, or the IP address; the TLS port before the other;
    nodes that have failed too, and none whose address is unknown."""
    assert topology.shards(reply) == {
        "10.0.0.1:7001", "node-2.example:7002", "10.0.0.3:7003", "10.0.0.4:7004"
    }  # fmt: skip
    assert topology.shards(reply, failed=True) == {"node-2.example:7002"}


ONE, TWO = ({"name": name, "ip": "10.0.0.1", "port": "6379"} for name in ("one", "two"))


@pytest.mark.parametrize("form", [lambda reply: reply, flat], ids=["RESP3", "RESP2"])
def test_a_sentinel_is_asked_about_the_one_master_that_is_meant(form: Callable[..., Any]) -> None:
    """The only one, or what the database names; anything else is for a person to say."""
    assert topology.watched(form([ONE]), "") == "one"
    assert topology.watched(form([ONE, TWO]), "two") == "two"
    for masters, wanted, text in (
        ([ONE, TWO], "", "set sentinel_master to one of one, two"),
        ([ONE], "three", "watches no master 'three', but one"),
        ([], "", "none"),
    ):
        with pytest.raises(ValueError, match=text):
            topology.watched(form(masters), wanted)
    assert topology.listed(form([ONE]), form([{**TWO, "port": "26379"}])) == {
        "10.0.0.1:6379", "10.0.0.1:26379"
    }  # fmt: skip


# ---- Who belongs together ------------------------------------------------------------------------


def seen(*names: str, role: NodeRole = "master", run: str = "") -> NodeInfo:
    return NodeInfo(role, run or f"run of {names}", "redis 8.6.3", "1", frozenset(names))


@pytest.mark.parametrize(
    ("seeds", "sights", "expected"),
    [
        pytest.param("a", {}, "a", id="nobody has answered"),
        pytest.param("a", {"a": seen("b")}, "ab", id="a replica"),
        pytest.param("b", {"b": seen("a", role="replica"), "a": seen("b", "c")}, "abc",
                     id="from the replica to the others"),
        pytest.param("a", {"a": seen(run="a"), "b": seen("a", role="replica")}, "ab",
                     id="a replica whose link is down"),
        pytest.param("a", {"a": seen(run="a"), "b": seen(run="b")}, "a", id="on its own now"),
        pytest.param("a", {"a": seen("b", run="a"), "b": None}, "ab", id="never reached"),
        pytest.param("a", {"a": seen("b", role="cluster master"),
                           "c": seen("a", "b", role="cluster master")}, "ab",
                     id="removed from the cluster, which it goes on naming"),
        pytest.param("a", {"a": seen(run="x"), "A": seen("b", run="x")}, "aAb",
                     id="two names of one server"),
    ],
)  # fmt: skip
def test_who_belongs_to_a_deployment(
    seeds: str, sights: Mapping[str, NodeInfo | None], expected: str
) -> None:
    """Whom members name, and who is known and names a member; in a cluster the former alone."""
    assert placement.members(seeds, sights) == set(expected)


def test_a_stranger_does_not_join_by_its_own_claim() -> None:
    """Only anyone who is known counts: a server that says it replicates from ours is not asked."""
    assert "x" not in placement.members("a", {"a": seen("b")})


def test_one_of_two_names_is_enough() -> None:
    """The name that the database has counts, then the first."""
    sights = {"a": seen(run="x"), "b": seen(run="x"), "c": seen(run="y"), "d": None}
    assert placement.aliases("", sights) == {"b"}
    assert placement.aliases("b", sights) == {"a"}


def test_who_stands_alone() -> None:
    """No master and no replica; in a cluster, it names at most itself."""
    assert placement.is_alone(seen())
    assert not placement.is_alone(seen("b"))
    assert placement.is_alone(seen("a", role="cluster master"))
    assert not placement.is_alone(seen("a", "b", role="cluster master"))


@pytest.fixture
def make_node(start: Any, plane: Plane, pki: Pki) -> MakeNode:
    """`make_node(kind, *config)`: an enrolled server with a key of its own."""

    def make(kind: Server, *config: str, **options: Any) -> RedisServer:
        home = plane.config.home
        own = options.pop("pki", None) or own_key(pki)
        return enrolled_node(start, kind, home, own, config=list(config), **options)

    return make


def users_on(node: RedisServer) -> set[str]:
    return {client["user"] for client in operator(node).client_list() if "S" in client["flags"]}


@pytest.mark.parametrize("seed", ["the primary", "a replica"])
def test_replicas_are_found_from_any_of_them(
    server_kind: Server, plane: Plane, make_node: MakeNode, pki: Pki, seed: str
) -> None:
    """Also a replica's replica; each comes in by certificate from then on, as a user that may
    replicate and nothing else, and the control plane asks for nothing that it may not have."""
    master = make_node(server_kind, *TLS_LINKS)
    first = make_node(server_kind, *replica_of(master))
    second = make_node(server_kind, *replica_of(first))
    for one in (first, second):
        linked(one)
    named = master if seed == "the primary" else second
    plane.register(named, allow_trust_on_internal_links=True)
    finds(plane, master, first, second)
    roles = {address: node["role"] for address, node in addresses(plane).items()}
    assert [roles[one] for node in (master, first, second) for one in at(node)] == [
        "master", "replica", "replica"
    ]  # fmt: skip
    for one in (first, second):
        linked(one)
    wait_until(lambda: users_on(master) == users_on(first) == {"certauth-peer-replica"},
               "replicas come in by certificate")  # fmt: skip
    operator(master).set("k", "v")
    wait_until(lambda: operator(second).get("k") == "v", "what is written arrives")
    assert [who(node, pki.alice) for node in (master, first, second)] == ["alice"] * 3
    assert [operator(node).execute_command("ACL", "LOG") for node in (master, first, second)] == [
        [], [], []
    ]  # fmt: skip


def test_a_replica_that_appears_later_is_brought_up_to_date(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """It is registered before it replicates, since its key has to be known; a change of the policy
    reaches it as all others, and when it leaves it is given back."""
    master = make_node(KIND, *TLS_LINKS)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master)
    late = make_node(KIND, *replica_of(master))
    assert operator(late).info("replication")["master_link_status"] == "down"
    ends = [{"addr": ["127.0.0.1"], "port": node.port} for node in (master, late)]
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends})
    finds(plane, master, late)
    linked(late)
    plane.user(pki.bob, "bob")
    finds(plane, master, late)
    assert who(late, pki.bob) == "bob"
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends[:1]})  # it is a replica all the same
    wait_until(lambda: addresses(plane)[next(iter(at(late)))]["origin"] == "found", "it is known")
    finds(plane, master, late)
    operator(late).replicaof("NO", "ONE")


def test_a_key_that_is_named_may_replicate_at_once(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """`node_keys` lets a server in that nobody knows yet: it is found as soon as it replicates."""
    master = make_node(KIND, *TLS_LINKS)
    late = make_node(KIND, *replica_of(master))
    key = late.pki.server.key_id
    plane.register(master, node_keys=[key], allow_trust_on_internal_links=True)
    finds(plane, master, late)
    linked(late)
    assert f"bind key {key} certauth-peer-replica" in plane.lines()


def test_a_renewed_key_is_bound_beside_the_old_one(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """The replica's files are replaced, and nothing else is done: both keys are bound for a while,
    it shows the new one only then, its link goes on, and the old key is bound no more after."""
    master = make_node(KIND, *TLS_LINKS)
    old = server_cert(pki)
    replica = make_node(KIND, *replica_of(master), pki=own_pki(pki, old))
    linked(replica)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master, replica)
    linked(replica)
    new = server_cert(pki, rsa_key())
    renew(old.files, new)
    states = set()

    def over() -> bool:
        bound = {line.split()[2] for line in plane.lines() if line.startswith("bind key")}
        states.add((old.key_id in bound, new.key_id in bound))
        return states > {(True, True)} and (old.key_id in bound) is False

    wait_until(over, "the new key alone is bound", 30)
    assert states == {(True, False), (True, True), (False, True)}
    finds(plane, master, replica)
    assert shown(replica) == new.key_id
    linked(replica)
    operator(master).set("k", "v")
    wait_until(lambda: operator(replica).get("k") == "v", "what is written arrives")
    refused = {one["key"] for one in events(plane, "peer_refused")}
    assert refused <= {old.key_id}  # whose link was cut


def test_a_dropped_endpoint_is_given_back(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """What PUT leaves out and no other node names is detached: no users, no CAs, no owner, and the
    server asks its clients for certificates as it did before."""
    keep, drop = make_node(KIND), make_node(KIND)
    before = operator(drop).config_get("tls-auth-clients")
    plane.register(keep, drop)
    finds(plane, keep, drop)
    assert operator(drop).config_get("tls-auth-clients") != before
    plane.ok("PUT /v1/bdbs/1", {"endpoints": [{"addr": ["127.0.0.1"], "port": keep.port}]})
    finds(plane, keep)
    wait_until(lambda: status(operator(drop))["owner"] == "", "it has no owner")
    assert show(operator(drop)) == []
    assert operator(drop).config_get("tls-auth-clients") == before
    assert who(keep, pki.alice) == "alice"
    other = plane.register(drop, name="other")
    finds(plane, drop, uid=other)


def test_a_dropped_endpoint_is_given_back_after_a_restart(
    plane: Plane, make_node: MakeNode
) -> None:
    """Also where the control plane was not there when it was dropped, or the node was not."""
    keep, drop = make_node(KIND), make_node(KIND)
    plane.register(keep, drop)
    finds(plane, keep, drop)
    drop.stop()
    plane.worker.stop()
    plane.ok("PUT /v1/bdbs/1", {"endpoints": [{"addr": ["127.0.0.1"], "port": keep.port}]})
    plane.close()
    plane.open()
    (address,) = at(drop)
    wait_until(lambda: addresses(plane)[address]["origin"] == "leaving", "it is to be detached")
    plane.says("UNREACHABLE")
    drop.start()
    finds(plane, keep)
    assert (status(operator(drop))["owner"], show(operator(drop))) == ("", [])


def test_a_replica_that_is_on_its_own_has_left(
    plane: Plane, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has replicated from nobody for a while, it is given back; not while its master does
    not answer, for then nobody knows who belongs together."""
    monkeypatch.setattr(placement, "LEAVE_SECONDS", 1.0)
    master = make_node(KIND, *TLS_LINKS)
    replica = make_node(KIND, *replica_of(master))
    linked(replica)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master, replica)
    linked(replica)
    master.stop()
    operator(replica).replicaof("NO", "ONE")
    plane.says("UNREACHABLE")
    bob = plane.user(replica.pki.bob, "bob")
    wait_until(lambda: status(operator(replica))["generation"] == generation(plane), "it is kept")
    plane.ok(f"DELETE /v1/users/{bob}")
    assert status(operator(replica))["owner"] != ""
    master.start()
    finds(plane, master)
    wait_until(lambda: status(operator(replica))["owner"] == "", "it is given back")


def generation(plane: Plane) -> int:
    return int(plane.ok("GET /v1/bdbs/1")["generation"])


def test_an_announced_address_is_mapped(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """A replica that announces what nobody can reach is reported and never ignored; enforcement is
    refused meanwhile; the mapping cures it."""
    master = make_node(KIND, *TLS_LINKS)
    announced = ("replica-announce-ip 127.255.0.9", "replica-announce-port 9")
    replica = make_node(KIND, *replica_of(master), *announced)
    linked(replica)
    plane.register(master, tls_mode="disabled", allow_trust_on_internal_links=True)
    assert plane.says("UNREACHABLE").startswith("127.255.0.9:9: UNREACHABLE")
    refusal = plane("PUT /v1/bdbs/1", {"tls_mode": "enabled"})
    assert (refusal.status, refusal.json["error_code"]) == (406, "peer_unbound")
    assert "127.255.0.9:9" in refusal.json["description"]
    assert who(master, pki.alice) != "alice"
    reach = {"127.255.0.9:9": f"localhost:{replica.port}"}
    plane.ok("PUT /v1/bdbs/1", {"node_addresses": reach})
    wait_until(lambda: plane.status() == "active", "the replica is reached", 20)
    assert set(addresses(plane)) == {*at(master), f"localhost:{replica.port}"}
    plane.ok("PUT /v1/bdbs/1", {"tls_mode": "enabled"})
    plane.in_step()
    linked(replica)
    assert who(replica, pki.alice) == "alice"


def test_enforcement_does_not_begin_while_a_peer_is_unbound(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """A database that is enforced from its first moment waits for the keys of those that its nodes
    name; `allow_unbound_peers` is the operator's word that one of them may be cut off."""
    master = make_node(KIND, *TLS_LINKS)
    announced = ("replica-announce-ip 127.255.0.9", "replica-announce-port 9")
    linked(make_node(KIND, *replica_of(master), *announced))
    plane.register(master, allow_trust_on_internal_links=True)
    said = plane.says("PEERS")
    assert said.startswith(f"127.0.0.1:{master.port}: PEERS 127.255.0.9:9")
    assert status(operator(master))["generation"] == 0
    plane.ok("PUT /v1/bdbs/1", {"allow_unbound_peers": True})
    wait_until(lambda: who(master, pki.alice) == "alice", "it is enforced")
    wait_until(lambda: users_on(master) == set(), "the replica is cut off")


def test_the_name_of_nodes_that_are_found(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """`tls_server_name` is what certificates must show where no endpoint has a name of its own."""
    named = own_key(pki)
    names = ("dns:redis.example",)
    named.__dict__["server"] = pki.server_ca.issue("CN=x", san=names, eku=(SERVER, CLIENT))
    master = make_node(KIND, *TLS_LINKS)
    replica = make_node(KIND, *replica_of(master), pki=named)
    linked(replica)
    plane.register(master, tls_mode="disabled", allow_trust_on_internal_links=True)
    said = plane.says("certificate verify failed")
    assert said.startswith(f"127.0.0.1:{replica.port}: UNREACHABLE")
    ends = [{"addr": ["127.0.0.1"], "port": master.port, "dns_name": "localhost"}]
    plane.ok("PUT /v1/bdbs/1", {"tls_server_name": "redis.example", "endpoints": ends})
    finds(plane, master, replica)


def test_a_node_that_has_gone_for_good_is_let_go(plane: Plane, make_node: MakeNode) -> None:
    """A replica that does not come back is reported until the operator says so; one that is there
    after all is found again; an endpoint goes by PUT."""
    master = make_node(KIND, *TLS_LINKS)
    replica = make_node(KIND, *replica_of(master))
    linked(replica)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master, replica)
    linked(replica)
    lost, kept = (next(iter(at(node))) for node in (replica, master))
    replica.stop()
    assert plane.says("UNREACHABLE").startswith(f"{lost}: ")
    refusal = plane(f"DELETE /v1/bdbs/1/nodes/{kept}")
    assert (refusal.status, refusal.json["error_code"]) == (406, "node_is_endpoint")
    assert plane(f"DELETE /v1/bdbs/1/nodes/{lost}0").status == 404
    plane.ok(f"DELETE /v1/bdbs/1/nodes/{lost}")
    finds(plane, master)
    replica.start()
    plane.ok("PUT /v1/bdbs/1", {"node_keys": [replica.pki.server.key_id]})
    finds(plane, master, replica)


def test_a_node_of_another_control_plane_is_a_conflict(plane: Plane, make_node: MakeNode) -> None:
    """Enforcement is refused while the policy of one of the nodes is somebody else's."""
    node = make_node(KIND)
    load(operator(node), 7, ["set enforce off"], "OWNER", "somebody else/1")
    plane.register(node, tls_mode="disabled")
    plane.says("OWNED")
    refusal = plane("PUT /v1/bdbs/1", {"tls_mode": "enabled"})
    assert (refusal.status, refusal.json["error_code"]) == (406, "node_owned")
    assert "somebody else/1" in refusal.json["description"]


# ---- Sentinels -----------------------------------------------------------------------------------


# CPython 3.11's wrap_socket leaves a socket open whose peer has sent RST by then (ssl.py, _create).
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.slow
@pytest.mark.parametrize("through", ["Sentinels", "a server"])
def test_a_failover_during_a_sync(
    server_kind: Server, plane: Plane, make_node: MakeNode, pki: Pki, through: str
) -> None:
    """The primary is killed while the policy changes: the promoted replica has every change, the
    Sentinels go on by certificate, and the old primary is brought up to date as a replica."""
    master = make_node(server_kind, *TLS_LINKS)
    replica = make_node(server_kind, *replica_of(master))
    linked(replica)
    watcher = sentinel_cert(pki)
    with ExitStack() as stack:
        three = [
            stack.enter_context(Watcher(server_kind, pki, watcher, master, 2, plane))
            for _ in range(3)
        ]
        wait_until(lambda: all(one.knows(1, 2) for one in three), "they know each other", 30)
        ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in three[:2]]
        if through == "a server":
            ends.append({"addr": ["127.0.0.1"], "port": master.port})
        plane.register(master, endpoints=ends, allow_trust_on_internal_links=True)
        every = {*at(master, replica), *(f"127.0.0.1:{one.port}" for one in three)}
        wait_until(lambda: set(addresses(plane)) == every, "all five are found", 20)
        plane.in_step(deadline=20)
        wait_until(lambda: "certauth-peer-sentinel" in names_on(master), "Sentinels are bound")
        linked(replica)
        master.kill()
        master.stop()
        changes = 0
        while three[0].master() != str(replica.port):
            changes += 1
            plane.user(pki.ca.issue(f"CN=u{changes}"), f"u{changes}")
            assert changes < 2000, "no failover"
        wait_until(lambda: status(operator(replica))["generation"] == generation(plane), "in step")
        assert who(replica, pki.alice) == "alice"
        assert "UNREACHABLE" in plane.status()
        master.start()
        linked(master, 60)
        plane.in_step(deadline=20)
        assert {addresses(plane)[one]["role"] for one in at(master)} == {"replica"}
        assert set(show(operator(master))) == set(show(operator(replica))) == plane.lines()


def names_on(node: RedisServer) -> set[str]:
    return {client["user"] for client in operator(node).client_list()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEWEST, ids=str)
def test_a_cluster_grows_and_shrinks(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one of its nodes all are found; one that joins is brought up to date before it has a
    slot, one that is a replica replicates by certificate, slots move, and one that is removed is
    given back."""
    monkeypatch.setattr(placement, "LEAVE_SECONDS", 1.0)
    cluster = Shards(make_node, kind)
    plane.register(cluster.nodes[1], allow_trust_on_internal_links=True)
    finds(plane, *cluster.nodes)
    assert {node["role"] for node in addresses(plane).values()} == {"cluster master"}
    fourth = cluster.join(plane)
    finds(plane, *cluster.nodes)
    assert who(fourth, pki.alice) == "alice"
    call(fourth, "CLUSTER", "REPLICATE", call(cluster.nodes[0], "CLUSTER", "MYID"))
    linked(fourth)
    wait_until(lambda: users_on(cluster.nodes[0]) == {"certauth-peer-cluster"}, "by certificate")
    fifth = cluster.join(plane)
    finds(plane, *cluster.nodes)
    moves_a_slot(cluster.nodes[2], fifth)
    plane.user(pki.bob, "bob")
    finds(plane, *cluster.nodes)
    assert [who(node, pki.bob) for node in cluster.nodes] == ["bob"] * 5
    moves_a_slot(fifth, cluster.nodes[2])
    cluster.leave(fifth)
    finds(plane, *cluster.nodes)
    wait_until(lambda: status(operator(fifth))["owner"] == "", "it is given back")
    assert show(operator(fifth)) == []
    fourth.stop()
    said = plane.says("UNREACHABLE", deadline=20)
    assert said.startswith(f"127.0.0.1:{fourth.port}: ")
    for node in cluster.nodes:
        if node is not fourth:
            assert call(node, "ACL", "LOG") == []


def moves_a_slot(source: RedisServer, target: RedisServer) -> None:
    """The last slot, with a key in it, key by key."""
    ids = [call(node, "CLUSTER", "MYID") for node in (source, target)]
    name = next(f"k{n}" for n in range(10**6) if crc_slot(f"k{n}") == SLOTS - 1)
    call(source, "SET", name, "v")
    call(target, "CLUSTER", "SETSLOT", SLOTS - 1, "IMPORTING", ids[0])
    call(source, "CLUSTER", "SETSLOT", SLOTS - 1, "MIGRATING", ids[1])
    assert call(source, "MIGRATE", "127.0.0.1", target.port, name, 0, 5000) in ("OK", True)
    for node in (target, source):
        call(node, "CLUSTER", "SETSLOT", SLOTS - 1, "NODE", ids[1])
    assert call(target, "GET", name) == "v"
    call(target, "DEL", name)


@pytest.mark.slow
def test_a_node_that_the_others_do_not_hear_is_said(plane: Plane, make_node: MakeNode) -> None:
    """Its key is revoked, so the others cut its links at the cluster bus: it answers the control
    plane as before, and the status says who has lost it. Where the key is good again, all is."""
    cluster = Shards(make_node, KIND)
    plane.register(cluster.nodes[0], allow_trust_on_internal_links=True)
    finds(plane, *cluster.nodes)
    lost = cluster.nodes[2]
    revoked = plane.ok("POST /v1/certauth/revocations", {"key": lost.pki.server.key_id})
    (made,) = revoked["revocations"]
    where = f"127.0.0.1:{lost.port}"

    def said() -> bool:
        nodes = {one["address"]: one for one in plane.ok("GET /v1/certauth/nodes")["nodes"]}
        error = nodes[where]["error"]
        return error.startswith("LINK 127.0.0.1:") and "says that it has failed" in error

    wait_until(said, "it is said of the node", 40)
    plane.ok(f"DELETE /v1/certauth/revocations/{made['uid']}")
    cluster.whole()
    finds(plane, *cluster.nodes, deadline=40)


# ---- Trust follows the policy --------------------------------------------------------------------


def bus_takes(cluster: Shards, node: RedisServer, cert: Cert) -> bool:
    """Whether the handshake of a node's cluster bus takes the certificate."""
    peer = node.tls(cert, "TLSv1_2")
    peer.address = ("127.0.0.1", cluster.buses[node.port])
    try:
        peer.connect().close()
    except OSError:
        return False
    return True


def greets(node: RedisServer, cert: Cert) -> bool:
    """Whether the handshake for clients takes the certificate."""
    try:
        node.tls(cert, "TLSv1_2").connect().close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_trust_on_every_node_of_a_cluster(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """A CA that comes by REST is taken by the handshake of each node, and by no cluster bus; one
    that goes is refused again; the bus never loses its own."""
    cluster = Shards(make_node, KIND)
    uid = plane.register(cluster.nodes[0])
    finds(plane, *cluster.nodes)
    nodes, inside = cluster.nodes, cluster.nodes[0].pki.server
    other = root("CN=Other CA,O=acme")
    carol = other.issue("CN=carol")

    def taken() -> tuple[list[bool], list[bool]]:
        assert all(bus_takes(cluster, node, inside) for node in nodes)
        return [greets(n, carol) for n in nodes], [bus_takes(cluster, n, carol) for n in nodes]

    certificates = [{"client_cert": ca.pem.decode()} for ca in (pki.ca, other)]
    both, none = [True] * 3, [False] * 3
    plane.ok(f"PUT /v1/bdbs/{uid}", {"authentication_ssl_client_certs": certificates})
    finds(plane, *nodes)
    assert taken() == (both, none)
    plane.ok(f"PUT /v1/bdbs/{uid}", {"allow_trust_on_internal_links": True})
    finds(plane, *nodes)
    assert taken() == (both, none)
    plane.ok(f"PUT /v1/bdbs/{uid}", {"authentication_ssl_client_certs": certificates[:1]})
    finds(plane, *nodes)
    assert taken() == (none, none)
    assert [who(node, pki.alice) for node in nodes] == ["alice"] * 3
    assert "cluster_state:ok" in call(nodes[0], "CLUSTER", "INFO")


def test_a_ca_that_a_node_cannot_keep_is_reported(plane: Plane, make_node: MakeNode) -> None:
    """The database says which node and why; the trust that it had holds, and it goes on once the
    cause is gone."""
    node = make_node(KIND)
    plane.register(node)
    finds(plane, node)
    folder = Path(node.module[1]) / "ca"  # type: ignore[index]
    kept, other = sorted(folder.iterdir()), root("CN=Other CA,O=acme")
    (folder / "new").mkdir()  # what a file of that name becomes first
    alice = node.pki.alice
    certificates = [{"client_cert": ca.pem.decode()} for ca in (node.pki.ca, other)]
    plane.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": certificates})
    said = plane.says("TRUST")
    assert said.startswith(f"127.0.0.1:{node.port}: TRUST ")
    assert who(node, alice) == "alice"
    assert not greets(node, other.issue("CN=carol"))
    (folder / "new").rmdir()
    assert sorted(folder.iterdir()) == kept
    plane.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": certificates[:1]})
    plane.in_step(deadline=20)


# ---- One that is not as it should be -------------------------------------------------------------


def test_drift_is_repaired_and_told(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """The event log names the node and the lines that it held and should not have, or lacked; a
    node that is only behind is not an event."""
    node = make_node(KIND)
    plane.register(node)
    finds(plane, node)
    plane.user(pki.bob, "bob")
    finds(plane, node)
    assert events(plane, "node_drift") == []
    admin = operator(node)
    now = status(admin)
    line = next(one for one in plane.lines() if one.startswith("user bob"))
    by_hand = ["+user eve on +@all", f"-{line}"]
    patch(admin, now["generation"], now["generation"] + 1, by_hand, "OWNER", now["owner"])
    wait_until(lambda: set(show(admin)) == plane.lines(), "the lines are the store's again")
    wait_until(lambda: events(plane, "node_drift"), "it is told")
    (told,) = events(plane, "node_drift")
    assert told["address"] == f"127.0.0.1:{node.port}"
    assert (told["unknown_lines"], told["missing_lines"]) == (["user eve on +@all"], [line])


@pytest.mark.skipif(servers()[0] == KIND, reason="one server alone here: make servers")
def test_a_node_that_refuses_stops_no_other(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """An ACL that only one of two servers knows: its users are off on the other one, which goes on
    all the same, and the database says who refused what."""
    old = make_node(servers()[0])  # Redis 7.0
    new = make_node(KIND)
    plane.register(old, new)
    finds(plane, old, new)
    acl = plane.store.objects.create(
        RedisAcl(0, "new", "+cluster|syncslots ~*")
    )  # as an upgrade brings it
    given = (RolePermission(1, acl.uid),)
    plane.store.objects.update(Database, 1, lambda now: replace(now, roles_permissions=given))
    said = plane.says("REFUSED")
    assert said.startswith(f"127.0.0.1:{old.port}: REFUSED")
    assert "syncslots" in said
    for node in (old, new):
        wait_until(lambda n=node: status(operator(n))["generation"] == generation(plane), "goes on")
    flags = [operator(node).acl_getuser("alice")["flags"] for node in (old, new)]
    assert ["off" in flags[0], "on" in flags[1]] == [True, True]
    assert who(old, pki.alice) is None


def test_the_control_plane_may_do_nothing_else(
    server_kind: Server, plane: Plane, make_node: MakeNode
) -> None:
    """Its user on a node has the module's commands, what those ask for, one that ends a session,
    and two that tell of the topology: no key and no configuration."""
    node = make_node(server_kind)
    rules = operator(node).acl_getuser("certauth-control")
    assert set(rules["commands"]) - {"-@all"} == {
        "+acl|setuser", "+acl|list", "+certauth.policy", "+certauth.log",
        "+certauth.sessions", "+certauth.explain", "+certauth.whoami", "+info",
        "+cluster|shards", "+client|kill",
    }  # fmt: skip
    assert (rules["keys"], rules["channels"]) in (([], []), ("", ""))
    own = plane.node(node)
    for words in ("GET k", "CONFIG GET *", "CLUSTER RESET", "PING",
                  "CLIENT LIST", "ACL GETUSER default", "REPLICAOF NO ONE"):  # fmt: skip
        with pytest.raises(client.NodeError, match="no permissions"):
            own.command(*words.split())
    own.close()


# ---- Many ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_nodes_at_once(
    plane: Plane, make_node: MakeNode, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change reaches fifty real nodes together, in no more threads than for a few; and while ten
    of them hang, the others as fast as ever."""
    nodes = [make_node(servers()[0]) for _ in range(50)]
    plane.register(*nodes)
    finds(plane, *nodes, deadline=60)
    took = []
    for number in range(5):
        begin = time.monotonic()
        plane.user(pki.ca.issue(f"CN=u{number}"), f"u{number}")
        aim = generation(plane)
        wait_until(lambda: in_step(plane, aim) == 50, "all have it")  # noqa: B023
        took.append(time.monotonic() - begin)
    with ExitStack() as stack:
        for node in nodes[:10]:
            stack.enter_context(frozen(node))
        begin = time.monotonic()
        plane.user(pki.bob, "bob")
        aim = generation(plane)
        wait_until(lambda: in_step(plane, aim) == 40, "the others have it")
        took.append(time.monotonic() - begin)
    finds(plane, *nodes, deadline=60)
    threads = [one.name for one in threading.enumerate() if one.name.startswith("sync")]
    assert len(threads) <= 2 * worker.THREADS + 1
    with capsys.disabled():
        print(f"\n50 nodes in step after {[round(one, 2) for one in took]} s")


def in_step(plane: Plane, aim: int) -> int:
    return sum(node.in_step and node.generation == aim for node in plane.store.nodes.of(1))
