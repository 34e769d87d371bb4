"""Replicas, cluster nodes and Sentinels are clients of each other: each is bound by its key to a
user `certauth-peer-…` with just what such a peer sends (tests/kit/peers.py has seen it). Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from control.reports import Node

Peer = Literal["replica", "cluster", "joining", "sentinel"]
PEER_RULES: dict[Peer, str] = {
    "replica": "+ping +replconf +psync",
    "cluster": "~* +ping +replconf +psync +select +restore-asking",
    # At a cluster's bus the key alone counts; gossip says where its server is.
    "joining": "+ping",
    "sentinel": "&__sentinel__:hello +ping +info +subscribe +publish +client|setname +client|kill "
    "+config|rewrite +multi +exec +slaveof +script|kill",
}
SECOND_CHANNEL = "+sync"  # Valkey 8: dual-channel-replication-enabled
WHOLE_SLOTS = "+@write +cluster|syncslots"  # Valkey 9: CLUSTER MIGRATESLOTS sends the writes


@dataclass(frozen=True)
class Peers:
    """Who connects to the nodes of a database as one of them: what each key is, and whether all of
    the servers have what only newer ones know."""

    kinds: dict[str, frozenset[Peer]]
    second_channel: bool = False
    whole_slots: bool = False


def peers_of(nodes: Iterable[Node], keys: Iterable[str] = ()) -> Peers:
    """`keys` are of further servers, which are not known yet: see `waits_for`; in a cluster they
    open the bus and copy nothing before their server was looked at. A key that was seen on a server
    without the module lets nobody in. Servers that have nothing to do with each other are not
    peers."""
    nodes = list(nodes)
    reached = [node for node in nodes if node.is_peer and node.role and node.origin != "leaving"]
    servers = [node for node in reached if node.role != "sentinel"]
    in_cluster = any(node.role.startswith("cluster") for node in servers)
    kind: Peer = "cluster" if in_cluster else "replica"
    stock = {node.key for node in nodes if not node.is_peer}
    named = () if waits_for(nodes) else keys
    # An older module does not say its server's key of tls-client-cert-file: it may be among these.
    told = in_cluster and all(node.client_key for node in servers)
    unseen: Peer = "joining" if told else kind
    kinds: dict[str, set[Peer]] = {key: {unseen} for key in named if key not in stock}
    related = in_cluster or kinds or any(node.role == "replica" for node in servers)
    for node in servers if related else ():
        for key in node.keys:
            kinds[key] = {kind}
    for node in reached:
        if node.role == "sentinel":
            kinds.setdefault(node.key, set()).add("sentinel")
    valkey = [major if name == "valkey" else 0 for name, major in map(_release, servers)]
    oldest = min(valkey, default=0)
    frozen = {key: frozenset(found) for key, found in kinds.items()}
    return Peers(frozen, oldest >= 8, oldest >= 9 and in_cluster)


def waits_for(nodes: Iterable[Node]) -> list[str]:
    """The endpoints (host:port) that were not seen to hold the policy yet, or have no module, while
    another server holds it. A key that is only named may be theirs, and would let such a server
    copy all data before anybody has looked at it: none is bound until they were seen."""
    nodes = list(nodes)
    if not any(node.is_peer for node in nodes):
        return []
    return sorted(one.address for one in nodes if one.origin == "endpoint" and not one.is_peer)


def _release(node: Node) -> tuple[str, int]:
    """Name and major version of a node's software."""
    name, _, version = node.software.partition(" ")
    major = version.partition(".")[0]
    return name, int(major) if major.isdecimal() else 0


def peer_lines(peers: Peers) -> list[str]:
    """The `bind` and `user` lines of nodes."""
    lines = {}
    for key, kinds in peers.kinds.items():
        user = f"certauth-peer-{'-'.join(sorted(kinds))}"
        rules = [PEER_RULES[kind] for kind in sorted(kinds)]
        rules += [SECOND_CHANNEL] * (peers.second_channel and kinds != {"sentinel"})
        rules += [WHOLE_SLOTS] * (peers.whole_slots and "cluster" in kinds)
        lines[f"bind key {key} {user}"] = f"user {user} on {' '.join(rules)}"
    return [*lines, *dict.fromkeys(lines.values())]
