"""Replicas, clusters and Sentinels that a control plane looks after, and strangers among them."""

import binascii
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from control.cli.main import main
from tests.kit.node import execute, show
from tests.kit.peers import SLOTS, Sentinel
from tests.kit.plane import Plane, operator
from tests.kit.servers import Server, servers
from tests.kit.support import Cert, Pki, RedisServer, free_port, wait_until

# ---- Real servers --------------------------------------------------------------------------------

MakeNode = Callable[..., RedisServer]


TLS_LINKS = ("tls-replication yes", "repl-diskless-sync-delay 0")


KIND = servers()[-1]  # of tests that need but one: another one than test_sync.py has


def own_key(pki: Pki) -> Pki:
    """The same CAs, and a server certificate of its own."""
    return Pki(pki.ca, pki.server_ca)


def replica_of(master: RedisServer) -> tuple[str, ...]:
    return (*TLS_LINKS, f"replicaof 127.0.0.1 {master.port}")


def linked(replica: RedisServer, deadline: float = 20) -> None:
    def up() -> bool:
        # Who changes its role closes all its clients, and refuses them until it has.
        with suppress(redis.ConnectionError, redis.ResponseError):
            found: Any = operator(replica).info("replication")
            return (found["role"], found.get("master_link_status")) == ("slave", "up")
        return False

    wait_until(up, "the replica is linked to its master", deadline)


def addresses(plane: Plane, uid: int = 1) -> dict[str, dict[str, Any]]:
    return {node["address"]: node for node in plane.ok(f"GET /v1/bdbs/{uid}")["nodes"]}


def at(*nodes: RedisServer) -> set[str]:
    return {f"127.0.0.1:{node.port}" for node in nodes}


def finds(plane: Plane, *nodes: RedisServer, uid: int = 1, deadline: float = 20) -> None:
    """Waits until the database has just these nodes, and all of them hold its policy."""

    def found() -> bool:
        if set(addresses(plane, uid)) != at(*nodes) or plane.status(uid) != "active":
            return False
        # Keys that were learned just now may have become lines since.
        return all(set(show(operator(node))) == plane.lines(uid) for node in nodes)

    try:
        wait_until(found, "the nodes are known and in step", deadline)
    except AssertionError as error:
        raise AssertionError(f"{error}: {plane.status(uid)} {addresses(plane, uid)}") from None


class Watcher(Sentinel):
    """One that is enrolled, unless it is `plain`: it lets the control plane ask."""

    def __init__(
        self, kind: Server, pki: Pki, cert: Cert, master: RedisServer, quorum: int, plane: Plane,
        plain: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kind, pki, cert, StandIn(master), quorum)  # type: ignore[arg-type]
        with open(self.directory / "ca", "ab") as trusted:
            trusted.write((plane.config.home / "ca.crt").read_bytes() + pki.ca.pem)
        if not plain:
            self.enrol(plane)

    def enrol(self, plane: Plane) -> str:
        """By the command; it must not run."""
        self.login = ["--user", "certauth-application", "--pass", "any", "--no-auth-warning"]
        words = ["sentinel", "enrol", f"127.0.0.1:{self.port}", "--home", str(plane.config.home)]
        done = CliRunner().invoke(main, [*words, "--config", str(self.directory / "conf")])
        assert done.exit_code == 0, done.output
        return str(done.output)


class StandIn:
    """What Sentinel asks of a node: its server."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server


# ---- Clusters ------------------------------------------------------------------------------------


class Shards:
    """A cluster of enrolled servers, the slots shared by its masters."""

    def __init__(self, make: MakeNode, kind: Server, count: int = 3) -> None:
        self.make, self.kind = make, kind
        self.buses: dict[int, int] = {}
        self.nodes = [self.node() for _ in range(count)]
        for index, node in enumerate(self.nodes):
            first, last = SLOTS * index // count, SLOTS * (index + 1) // count - 1
            call(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
            call(node, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in self.nodes[1:]:
            self.meet(node)
        self.whole()

    def node(self) -> RedisServer:
        bus = free_port()
        config = ("cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}",
                  "cluster-node-timeout 2000", "cluster-require-full-coverage no",
            "cluster-allow-replica-migration no")  # fmt: skip
        made = self.make(self.kind, *TLS_LINKS, *config)
        self.buses[made.port] = bus
        return made

    def meet(self, node: RedisServer) -> None:
        call(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, self.buses[node.port])

    def whole(self) -> None:
        known = f"cluster_known_nodes:{len(self.nodes)}"

        def joined() -> bool:
            told = [str(call(node, "CLUSTER", "INFO")) for node in self.nodes]
            return all("cluster_state:ok" in one and known in one for one in told)

        wait_until(joined, "the cluster is whole", 30)

    def join(self, plane: Plane | None = None) -> RedisServer:
        """A node more. Where a `plane` looks after the cluster, it is told the node's key first:
        without that the others refuse the node at their bus."""
        made = self.node()
        self.nodes.append(made)
        if plane:
            plane.ok("PUT /v1/bdbs/1?wait_for_sync=10", {"node_keys": [key_of(made)]})
        self.meet(made)
        self.whole()
        return made

    def leave(self, node: RedisServer) -> None:
        """As `redis-cli --cluster del-node` does it."""
        self.nodes.remove(node)
        one = call(node, "CLUSTER", "MYID")
        for other in self.nodes:
            call(other, "CLUSTER", "FORGET", one)
        call(node, "CLUSTER", "RESET", "HARD")


def call(node: RedisServer, *words: Any) -> Any:
    client = operator(node)
    client.response_callbacks.clear()
    return execute(client, *words)


def crc_slot(key: str) -> int:
    """CRC-16/XMODEM, as the cluster specification has it."""
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


def events(plane: Plane, kind: str) -> list[dict[str, Any]]:
    return [one for one in plane.ok("GET /v1/logs") if one["type"] == kind]


# What is asked of servers here, all do alike; one is enough for every day.
KINDS = [
    pytest.param(kind, id=str(kind), marks=[] if kind == KIND else [pytest.mark.slow])
    for kind in servers()
]


def key_of(server: RedisServer) -> str:
    return str(server.pki.server.key_id)


def address(server: RedisServer) -> str:
    return next(iter(at(server)))


def said_of(plane: Plane, server: RedisServer) -> str:
    """What the REST API says of one node; "" where it does not show it."""
    return str(addresses(plane).get(address(server), {}).get("status", ""))


def link(replica: RedisServer) -> str:
    found: Any = operator(replica).info("replication")
    return str(found.get("master_link_status"))


def ends(*ports: int) -> list[dict[str, Any]]:
    return [{"addr": ["127.0.0.1"], "port": port} for port in ports]


NEWEST = list({kind.name: kind for kind in servers()}.values())
