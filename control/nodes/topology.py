"""Who belongs to a deployment: what servers, Sentinels and clusters say of themselves and of each
other. Pure: texts and replies in, records out.

Addresses are `host:port`. Others are named by the addresses that they announce, which need not be
those by which we reach them: `Database.node_addresses` says how they are reached.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from control.records import NodeRole

SECTIONS = ("server", "replication", "cluster", "modules")  # of INFO
UNKNOWN_HOSTS = ("", "?")  # what a cluster says of a node whose address it does not know


@dataclass(frozen=True)
class NodeInfo:
    """What one server said of itself, and whom it named."""

    role: NodeRole
    run: str  # of this process: one server may have several addresses
    software: str  # "redis 8.6.3"
    module: str = ""  # the version of certauth, as the server counts; "" on Sentinels
    names: frozenset[str] = frozenset()
    master: str = ""  # a replica's, or the master that a Sentinel tells clients of
    failed: frozenset[str] = frozenset()  # whom of a cluster it says that about
    is_cut: bool = False  # a replica's link is down, and nothing is being done about it

    @property
    def in_cluster(self) -> bool:
        """Whether cluster mode is on; what peers are, the node then learns from CLUSTER SHARDS."""
        return self.role.startswith("cluster")

    def reached_by(self, addresses: Mapping[str, str]) -> "NodeInfo":
        """With the names by which we reach those whom it named."""
        names, failed = (
            frozenset(addresses.get(name, name) for name in found)
            for found in (self.names, self.failed)
        )
        master = addresses.get(self.master, self.master)
        return replace(self, names=names, failed=failed, master=master)


# ---- What servers answer -------------------------------------------------------------------------


def fields(info: str) -> dict[str, str]:
    """The lines of INFO; `module` is the version of certauth, where it is loaded."""
    pairs = (line.split(":", 1) for line in info.splitlines() if ":" in line and line[0] != "#")
    found = {}
    for name, value in pairs:
        if name != "module":
            found[name] = value
        elif words(value).get("name") == "certauth":
            found["module"] = words(value).get("ver", "")
    return found


def node_info(info: Mapping[str, str]) -> NodeInfo:
    """From INFO of a server (the SECTIONS) or of a Sentinel."""
    if "sentinel" in (info.get("redis_mode"), info.get("server_mode")):  # the latter on Valkey
        role: NodeRole = "sentinel"
    elif info.get("cluster_enabled") == "1":
        role = "cluster replica" if info.get("role") == "slave" else "cluster master"
    else:
        role = "replica" if info.get("role") == "slave" else "master"
    run, module = info.get("run_id", ""), info.get("module", "")
    (master,) = tuple(_master_of(info)) or ("",)
    down = info.get("master_link_status") == "down"
    is_cut = down and info.get("master_sync_in_progress", "0") == "0"
    names = frozenset(peers(info))
    return NodeInfo(role, run, software(info), module, names, master, is_cut=is_cut)


def software(info: Mapping[str, str]) -> str:
    """Valkey says that it is Redis 7.2.4 as well."""
    valkey = info.get("valkey_version")
    return f"valkey {valkey}" if valkey else f"redis {info.get('redis_version', '?')}"


def peers(info: Mapping[str, str]) -> Iterable[str]:
    """The master of a replica, and the replicas of a master, of INFO replication."""
    yield from _master_of(info)
    for name, value in info.items():
        if name.startswith("slave") and name[5:].isdecimal():
            said = words(value)
            yield from address(said.get("ip", ""), said.get("port", ""))


def _master_of(info: Mapping[str, str]) -> Iterable[str]:
    """The address `host:port` of the master of a replica, by INFO replication; nothing of
    others."""
    if info.get("role") == "slave":
        yield from address(info.get("master_host", ""), info.get("master_port", ""))


def words(text: str) -> dict[str, str]:
    """`a=1,b=2`."""
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def address(host: object, port: object) -> Iterable[str]:
    """One address, or none where that is not known."""
    if host and host not in UNKNOWN_HOSTS and str(port).isdecimal() and int(str(port)):
        yield f"{host}:{port}"


def mapping(reply: Any) -> dict[str, Any]:
    """A map of RESP3, or of RESP2, where it is a list."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def shards(reply: Sequence[Any], failed: bool = False) -> frozenset[str]:
    """The nodes that CLUSTER SHARDS tells of, also those that have failed, or only those: for
    clients of TLS."""
    found: set[str] = set()
    for shard in reply:
        for one in mapping(shard)["nodes"]:
            node = mapping(one)
            if failed and node.get("health") != "fail":
                continue
            endpoint = node.get("endpoint")
            host = node.get("ip") if endpoint in (None, *UNKNOWN_HOSTS) else endpoint
            found.update(address(host, node.get("tls-port") or node.get("port", 0)))
    return frozenset(found)


def watched(masters: Sequence[Any], wanted: str) -> str:
    """The name of the master that a database means, of SENTINEL MASTERS: the name that it gives, or
    the only one there is. Raises ValueError for a person."""
    names = sorted(mapping(one)["name"] for one in masters)
    if wanted in names:
        return wanted
    if not wanted and len(names) == 1:
        return str(names[0])
    there = ", ".join(names) or "none"
    if wanted:
        raise ValueError(f"this Sentinel watches no master '{wanted}', but {there}")
    raise ValueError(
        f"this Sentinel watches several masters: set sentinel_master to one of {there}"
    )


def listed(*replies: Sequence[Any]) -> frozenset[str]:
    """The addresses in answers of SENTINEL MASTERS, REPLICAS and SENTINELS."""
    nodes = (mapping(one) for reply in replies for one in reply)
    return frozenset(one for node in nodes for one in address(node["ip"], node["port"]))


@dataclass(frozen=True)
class Status:
    """What CERTAUTH.POLICY STATUS answers. `generation` 0: the node never had a policy.
    `unverified` is what its OpenSSL does not know of the policy's CAs, `untaken` what its
    handshakes do not take of what the policy trusts; the last three are of the certificate that it
    shows. An older module does not say these, nor its version and protocol."""

    generation: int
    digest: str
    lines: int
    owner: str
    epoch: int
    enforce: str
    journal: str
    trust: str
    unverified: str = ""
    untaken: str = ""
    key: str | None = None
    next_key: str | None = None
    client_key: str | None = None
    certificate: str = "ok"
    version: str = ""
    protocol: int = 0
