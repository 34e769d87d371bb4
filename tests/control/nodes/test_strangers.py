"""Seen is not enforced: servers without the module, and others that are named as nodes, get nothing
on the strength of being named."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from control.policy import peers as policy
from control.reports import Node
from tests.kit.node import show, who
from tests.kit.peers import SLOTS
from tests.kit.plane import Plane, authority_of, enrolled_node, operator
from tests.kit.policies import OPERATOR
from tests.kit.servers import Server, servers
from tests.kit.support import CLIENT, SERVER, Cert, Pki, RedisServer, free_port, wait_until
from tests.kit.topologies import (
    KIND,
    KINDS,
    MakeNode,
    Shards,
    address,
    call,
    crc_slot,
    events,
    finds,
    key_of,
    link,
    linked,
    own_key,
    replica_of,
    said_of,
)
from tests.kit.topologies import TLS_LINKS as LINKS

SAYS = "MODULE this server runs without certauth"


@pytest.fixture
def make_node(start: Any, plane: Plane, pki: Pki) -> MakeNode:
    """`make_node(kind, *config)`: an enrolled server, with a key of its own but for `pki`."""

    def make(kind: Server, *config: str, **options: Any) -> RedisServer:
        own = options.pop("pki", None) or own_key(pki)
        return enrolled_node(start, kind, plane.config.home, own, config=list(config), **options)

    return make


@pytest.fixture
def make_stock(start: Any, plane: Plane, pki: Pki) -> MakeNode:
    """`make_stock(kind, *config)`: a server without the module, which trusts whom the others do."""

    def make(kind: Server, *config: str, **options: Any) -> RedisServer:
        trusted = [pki.ca, authority_of(plane.config)]
        more = [f"user {OPERATOR} on >{OPERATOR} ~* &* +@all", *config]
        own = options.pop("pki", None) or own_key(pki)
        made: RedisServer = start(kind, pki=own, trust=trusted, config=more, **options)
        return made

    return make


def gets(server: RedisServer, cert: Cert, name: str) -> Any:
    """What this client reads there, None also where it is not let in."""
    with suppress(OSError, redis.RedisError), server.tls(cert).connect() as connection:
        return connection.command("GET", name)
    return None


# ---- What follows from what was seen -------------------------------------------------------------


def node(key: str = "k", **fields: Any) -> Node:
    usual = {"role": "replica", "module": "1", "key": key, "software": "redis 8.6.3"}
    return Node(1, f"10.0.0.1:{len(fields)}", 1, True, **{**usual, **fields})


def test_a_key_without_the_module_lets_nobody_in() -> None:
    """Neither one that a node shows nor one that the database names, for it was seen on a server
    that holds no policy; a Sentinel has no module and needs none."""
    assert set(policy.peers_of([node(), node("stock", module="")]).kinds) == {"k"}
    stock = node("stock", module="", origin="found")
    assert policy.peers_of([node(), stock], ["stock", "late"]).kinds.keys() == {"k", "late"}
    watcher = node("watcher", role="sentinel", module="")
    assert policy.peers_of([watcher]).kinds == {"watcher": {"sentinel"}}


def test_a_key_of_two_servers_is_the_enrolled_one_s() -> None:
    """Cutting it off would cut the enrolled one off as well."""
    two = [node("both", module=""), node("both", role="master"), node("other")]
    assert policy.peers_of(two).kinds.keys() == {"both", "other"}


def test_named_keys_wait_for_endpoints_that_nobody_has_looked_at() -> None:
    """They may be a stock server's, which would get all data within the second. Where no server
    holds the policy, none keeps anybody out; one that was only found nobody has named."""
    unseen = node("", origin="endpoint", role="", module="")
    stock = node("stock", origin="endpoint", module="")
    for other in (unseen, stock):
        assert policy.peers_of([node(), other], ["late", "k"]).kinds.keys() == {"k"}
        assert policy.waits_for([node(), other]) == [other.address]
    for nodes in (
        [unseen],
        [node(), node("", origin="found")],
        [node(), node("e", origin="endpoint")],
    ):
        assert "late" in policy.peers_of(nodes, ["late"]).kinds
        assert policy.waits_for(nodes) == []


# ---- Real servers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_without_the_module_gets_no_data(
    kind: Server, plane: Plane, make_node: MakeNode, make_stock: MakeNode, pki: Pki
) -> None:
    """An administrator registers one that replicates from an enforced primary. The primary refuses
    it, everything says why, and the others are served; taken out, it is forgotten."""
    master = make_node(kind, *LINKS)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master)
    operator(master).set("secret", "v")
    stock = make_stock(kind, *replica_of(master))
    ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in (master, stock)]
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends, "node_keys": [key_of(stock)]})
    assert plane.says(SAYS).startswith(f"{address(stock)}: ")
    assert said_of(plane, stock).endswith("load the module, or take it out of the topology")
    bob = plane.user(pki.bob, "bob")
    wait_until(lambda: who(master, pki.bob) == "bob", "the primary follows")
    plane.ok(f"DELETE /v1/users/{bob}")
    wait_until(lambda: who(master, pki.bob) is None, "the primary follows")
    assert not [line for line in show(operator(master)) if key_of(stock) in line]
    wait_until(lambda: link(stock) == "down", "its link is cut")
    assert gets(stock, pki.bob, "secret") is None
    assert call(stock, "DBSIZE") == 0
    (told,) = events(plane, "node_without_module")
    assert (told["address"], told["severity"]) == (address(stock), "WARNING")
    text = plane.client.get("/metrics", auth=("admin", "the administrator's password")).text
    found = f'certauth_node_error{{bdb="orders",code="MODULE",node="{address(stock)}"}} 1.0'
    assert found in text
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends[:1]})
    finds(plane, master)
    assert link(stock) == "down"
    assert key_of(stock) not in str(plane.lines())


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_key_of_a_server_that_nobody_could_look_at_gets_no_data(
    kind: Server, plane: Plane, make_node: MakeNode, make_stock: MakeNode, pki: Pki
) -> None:
    """The control plane cannot log in to this stock server, and so never learns what it is. The
    status says what the key waits for; a node that was named before it is up is let in when it has
    been seen; taken out of the endpoints, it holds up nobody else."""
    master = make_node(kind, *LINKS)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master)
    operator(master).set("secret", "v")
    stock = make_stock(kind, "user default off", *replica_of(master))
    late = make_node(kind, *LINKS)
    late.stop()
    ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in (master, stock, late)]
    keys = [key_of(stock), key_of(late)]
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends, "node_keys": keys})
    waits = sorted((address(stock), address(late)))
    wait_until(
        lambda: said_of(plane, master).startswith(f"KEYS keys of node_keys let nobody in until "
                                                  f"{', '.join(waits)} was seen"),
        "the status says what they wait for",
    )  # fmt: skip
    wait_until(lambda: stock.log.count(" sync started") > 2, "it has tried", 30)
    late.start()
    linked_after(late, master)
    assert not [line for line in plane.lines() if key_of(stock) in line]
    assert operator(stock).dbsize() == 0
    plane.ok("PUT /v1/bdbs/1", {"endpoints": [ends[0], ends[2]], "node_keys": keys[1:]})
    plane.ok(f"DELETE /v1/bdbs/1/nodes/{address(stock)}")
    finds(plane, master, late)
    another = make_node(kind, *replica_of(master))
    plane.ok("PUT /v1/bdbs/1", {"node_keys": [*keys[1:], key_of(another)]})
    finds(plane, master, late, another)
    linked(another)


def linked_after(late: RedisServer, master: RedisServer) -> None:
    """It becomes a replica, and has what there is."""
    with suppress(redis.RedisError):  # who changes its role closes all its clients
        operator(late).replicaof("127.0.0.1", master.port)
    linked(late, 30)
    assert operator(late).get("secret") == "v"


def test_a_replica_that_loses_the_module_is_cut_off(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """One that was enrolled comes back as a stock server, with the key that it had: its data goes
    no further, and with the module it is let in again."""
    master = make_node(KIND, *LINKS)
    replica = make_node(KIND, *replica_of(master))
    linked(replica)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master, replica)
    module, replica.module = replica.module, None
    replica.trust.append(authority_of(plane.config))
    replica.stop()
    replica.start()
    plane.says(SAYS)
    wait_until(lambda: link(replica) == "down", "its link is cut")
    operator(master).set("later", "v")
    assert gets(replica, pki.alice, "later") is None
    replica.module = module
    replica.stop()
    replica.start()
    wait_until(lambda: key_of(replica) in str(show(operator(master))), "its key is bound again", 20)
    finds(plane, master, replica)
    linked(replica)


def test_a_key_that_two_servers_have_is_named(
    plane: Plane, make_node: MakeNode, make_stock: MakeNode
) -> None:
    """A stock server with an enrolled one's key cannot be told from it by the others: the status
    says so, and cuts nobody off who is enrolled."""
    master = make_node(KIND, *LINKS)
    replica = make_node(KIND, *replica_of(master))
    linked(replica)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master, replica)
    make_stock(KIND, *replica_of(master), pki=replica.pki)
    assert f"its key is also that of {address(replica)}" in plane.says(SAYS)
    linked(replica)


def test_enforcement_waits_for_a_server_without_the_module(
    plane: Plane, make_node: MakeNode, make_stock: MakeNode, pki: Pki
) -> None:
    """A database that begins with one says who is in the way and why; `allow_unbound_peers` is the
    operator's word to cut it off."""
    master = make_node(KIND, *LINKS)
    stock = make_stock(KIND, *replica_of(master))
    linked(stock)
    plane.register(master, allow_trust_on_internal_links=True)
    why = f"PEERS {address(stock)} ({SAYS}"
    wait_until(lambda: said_of(plane, master).startswith(why), "the primary says what it waits for")
    assert who(master, pki.alice) != "alice"
    plane.ok("PUT /v1/bdbs/1", {"allow_unbound_peers": True})
    wait_until(lambda: who(master, pki.alice) == "alice", "it is enforced")
    wait_until(lambda: link(stock) == "down", "the stock server is cut off")
    finds(plane, master)  # nobody names it any more


def test_a_stranger_with_default_off_is_said_in_plain_words(
    plane: Plane, make_stock: MakeNode
) -> None:
    """It answers the control plane with NOAUTH, which tells nobody what to do."""
    plane.register(make_stock(KIND, "user default off"))
    said = plane.says("NOAUTH this server does not know the control plane")
    assert "without the control plane's bootstrap file" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", list({kind.name: kind for kind in servers()}.values()), ids=str)
def test_a_server_without_the_module_in_a_cluster(
    kind: Server, plane: Plane, make_node: MakeNode, make_stock: MakeNode, pki: Pki
) -> None:
    """CLUSTER MEET of a stock server whose key was named, then CLUSTER REPLICATE: it keeps no key;
    the nodes that are enrolled go on; FORGET and RESET end it at once."""

    def make(kind: Server, *config: str) -> RedisServer:
        return makers[-1](kind, *config)

    makers: list[Callable[..., RedisServer]] = [make_node]
    cluster = Shards(make, kind)
    plane.register(cluster.nodes[1], allow_trust_on_internal_links=True)
    finds(plane, *cluster.nodes)
    mine = f"key{{{next(tag for tag in map(str, range(999)) if owner(tag) == 0)}}}"
    call(cluster.nodes[0], "SET", mine, "v")
    makers.append(make_stock)
    stock = cluster.node()
    plane.ok("PUT /v1/bdbs/1?wait_for_sync=10", {"node_keys": [key_of(stock)]})

    def is_seen() -> bool:
        cluster.meet(stock)  # again: its links are cut as soon as it is seen
        return any(one["address"] == address(stock) for one in events(plane, "node_without_module"))

    wait_until(is_seen, "it is seen to be without the module", 60)
    with suppress(redis.ResponseError):  # it may not have been told of that node before
        call(stock, "CLUSTER", "REPLICATE", call(cluster.nodes[0], "CLUSTER", "MYID"))
    bob = plane.user(pki.bob, "bob")
    wait_until(lambda: who(cluster.nodes[0], pki.bob) == "bob", "the others follow")
    assert key_of(stock) not in str(plane.lines())
    assert call(stock, "DBSIZE") == 0  # nor before it was seen
    call(cluster.nodes[0], "SET", f"another{mine}", "v")
    plane.ok(f"DELETE /v1/users/{bob}")
    wait_until(lambda: who(cluster.nodes[0], pki.bob) is None, "the others follow")
    assert call(stock, "DBSIZE") == 0
    cluster.nodes.append(stock)
    cluster.leave(stock)
    finds(plane, *cluster.nodes, deadline=15)


def owner(tag: str) -> int:
    """Which of three masters has the keys of this tag."""
    return crc_slot(tag) * 3 // SLOTS


# ---- At the doors of the nodes -------------------------------------------------------------------


def test_who_is_refused_at_the_cluster_bus_is_in_the_status_and_the_log(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """By whom, where and why, as long as it goes on; the node is in step all the while. A node that
    comes in is an event as well, and once its key is known nobody calls it a stranger."""
    bus = free_port()
    node = make_node(KIND, "cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}")
    uid = plane.register(node)
    plane.in_step()
    cert = pki.server_ca.issue("CN=stranger", eku=(SERVER, CLIENT))
    other = node.tls(cert)
    other.address = ("127.0.0.1", bus)

    def knock() -> bool:
        """Is it let in? Nothing is said to it either way."""
        with suppress(OSError), other.connect() as connection:
            connection.socket.settimeout(0.2)
            try:
                return bool(connection.socket.recv(1)) and False
            except TimeoutError:
                return True
        return False

    def said() -> str:
        assert knock() is False
        status = plane.status()
        return status if "DOOR" in status else ""

    status = wait_until(said, "the status says who is refused")
    assert f"DOOR refused: CN=stranger (key {cert.key_id}, 127.0.0.1) at the cluster bus" in status
    assert "no_binding" in status
    assert "node enrol --db" in status
    (shown,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    assert shown["generation"]
    plane.in_step()  # nobody knocks any more
    (one,) = events(plane, "peer_refused")
    assert (one["severity"], one["door"], one["key"]) == ("WARNING", "bus", cert.key_id)
    plane.ok(f"PUT /v1/bdbs/{uid}", {"node_keys": [cert.key_id]})
    wait_until(knock, "it is let in")
    (one,) = wait_until(lambda: events(plane, "peer_joined"), "that is told")
    assert (one["severity"], one["door"], one["key"]) == ("INFO", "bus", cert.key_id)
    assert plane.status() == "active"
