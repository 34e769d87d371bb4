"""Node peers without a password: replicas, Sentinels and cluster nodes, each bound by the key of
its certificate in the bootstrap file of the nodes it connects to."""

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.kit.certs import authority_line
from tests.kit.policies import Node, Start, make_node, policy_of
from tests.kit.servers import Server
from tests.kit.support import (
    CLIENT,
    SERVER,
    Cert,
    Pki,
    RedisServer,
    free_port,
    scratch,
    wait_until,
)

REPLICA, SENTINEL, CLUSTER = "certauth-replica", "certauth-sentinel", "certauth-cluster"
# What each kind of peer sends, and nothing more: docs/operating.md has the same lines. A cluster
# node is a replica as well, and its MIGRATE selects database 0 and restores.
RULES = {
    REPLICA: "+ping +replconf +psync",
    SENTINEL: "&__sentinel__:hello +ping +info +subscribe +publish +client|setname +client|kill"
    " +config|rewrite +multi +exec +slaveof +script|kill",
    CLUSTER: "~* +ping +replconf +psync +select +restore-asking",
}
# Valkey 8: `dual-channel-replication-enabled yes` asks for the dataset with SYNC.
SECOND_CHANNEL = "+sync"
# Valkey 9: CLUSTER MIGRATESLOTS moves a slot as the writes that make its keys, and each is checked.
# (Redis 8.4 does such things as a user of its own, "internal connection".)
WHOLE_SLOTS = "+@write +cluster|syncslots"


def rules(user: str, kind: Server) -> str:
    """All that a peer of this kind may want of this server."""
    valkey = kind.release if kind.name == "valkey" else (0,)
    more = [SECOND_CHANNEL] if valkey >= (8,) and user in (REPLICA, CLUSTER) else []
    more += [WHOLE_SLOTS] if valkey >= (9,) and user == CLUSTER else []
    return " ".join([RULES[user], *more])


def bootstrap(pki: Pki, peers: dict[str, Cert], allowed: dict[str, str]) -> tuple[str, str]:
    """Arguments of the module: a bootstrap file in which each user of `peers` is who has that
    certificate's key, and may do what `allowed` says."""
    lines = [authority_line(pki.server_ca)]
    for user, cert in peers.items():
        lines += [f"bind key {cert.key_id} {user}", f"user {user} on {allowed[user]}"]
    file = Path(tempfile.mkdtemp(dir=scratch())) / "bootstrap"
    file.write_text("\n".join(lines) + "\n")
    return ("bootstrap", str(file))


def presents(cert: Cert) -> list[str]:
    """Configuration of a server whose own links show `cert`."""
    crt, key = cert.files
    return [
        "tls-replication yes", f"tls-client-cert-file {crt}", f"tls-client-key-file {key}",
        "repl-diskless-sync-delay 0",
    ]  # fmt: skip


def strict(pki: Pki, *lines: str) -> list[str]:
    """A policy in which nothing is left to who is not bound: no `default`, no plain clients, a gate
    that the peers do not pass."""
    gate = ("set gate full_subject", "allow CN=alice OU=eng O=acme")
    return policy_of(pki, "user default adopt off", "set plain refuse", *gate, *lines)


def peer_node(
    start: Start, kind: Server, pki: Pki, peers: dict[str, Cert], *config: str, **options: Any
) -> Node:
    """A node under the strict policy (or `lines`) that knows these peers, and shows the first one's
    certificate on its own links."""
    allowed = options.pop("allowed", {user: rules(user, kind) for user in peers})
    lines = options.pop("lines", strict(pki))
    own = presents(options.pop("own", next(iter(peers.values()))))
    module = bootstrap(pki, peers, allowed)
    return make_node(start, kind, *lines, module=module, config=[*own, *config], **options)


def replication(node: Node) -> dict[str, Any]:
    """INFO replication, also while somebody closes our connection: anyone who promotes a replica
    closes all its clients."""
    for _ in range(3):
        with suppress(redis.ConnectionError):
            found: dict[str, Any] = node.admin.info("replication")
            return found
    raise AssertionError(f"{node.server.server} does not answer")


def linked(node: Node, deadline: float = 20) -> None:
    """Waits until this replica is in step with its master."""

    def up() -> bool:
        found = replication(node)
        return (found["role"], found.get("master_link_status")) == ("slave", "up")

    wait_until(up, "the replica is linked to its master", deadline)


def denials(node: Node) -> list[str]:
    """What ACL LOG holds, newest first: users and commands, or subjects and reasons."""
    found = []
    for entry in node.call("ACL", "LOG"):
        fields = (
            entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        )
        found.append(f"{fields['username']}: {fields['object']}")
    return found


def calls(nodes: Iterable[Node]) -> set[str]:
    """Commands that were run on any of these nodes, as ACL rules name them."""
    names: set[str] = set()
    for node in nodes:
        stats = node.admin.info("commandstats")
        names |= {name.removeprefix("cmdstat_") for name, one in stats.items() if one["calls"]}
    return names


# ---- Sentinel ------------------------------------------------------------------------------------


class Sentinel:
    """One process of Sentinel over TLS, which shows `cert`; ended with the `with`."""

    def __init__(self, kind: Server, pki: Pki, cert: Cert, master: Node, quorum: int) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(dir=scratch()))
        self.pki, self.kind, self.cert = pki, kind, cert
        crt, key = cert.files
        (self.directory / "ca").write_bytes(pki.server_ca.pem)
        (self.directory / "conf").write_text(
            f"port 0\ntls-port {self.port}\nbind 127.0.0.1\nprotected-mode no\n"
            f"tls-replication yes\ntls-cert-file {crt}\ntls-key-file {key}\n"
            f"tls-ca-cert-file {self.directory}/ca\ndir {self.directory}\n"
            f"sentinel monitor master 127.0.0.1 {master.server.port} {quorum}\n"
            # Above the second in which Sentinel does not connect again (SENTINEL_PING_PERIOD): in
            # that the new master would count as down, before it was ever asked.
            "sentinel down-after-milliseconds master 2500\n"
            "sentinel failover-timeout master 20000\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.login: list[str] = []  # options of redis-cli

    def __enter__(self) -> Self:
        conf = str(self.directory / "conf")
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.kind.argv, conf, "--sentinel"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def ask(self, *words: str) -> list[str]:
        """What a SENTINEL command answers, a value a line; empty before it listens."""
        crt, key = self.cert.files
        command = [
            "redis-cli", "--tls", "--cacert", str(self.directory / "ca"), "--cert", crt,
            "--key", key, "-p", str(self.port), *self.login, "sentinel", *words,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split(
            "\n"
        )

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Has it found so many replicas and others of its kind?"""
        fields = self.ask("master", "master")
        found = dict(zip(fields[::2], fields[1::2], strict=False))
        wanted = (str(replicas), str(sentinels))
        return wanted == (found.get("num-slaves"), found.get("num-other-sentinels"))

    def master(self) -> str:
        """The port of the master that it tells clients of."""
        return self.ask("get-master-addr-by-name", "master")[1]


def sentinel_cert(pki: Pki) -> Cert:
    names = ("ip:127.0.0.1", "dns:localhost")
    return pki.server_ca.issue("CN=sentinel", san=names, eku=(CLIENT, SERVER))


def node_cert(pki: Pki, name: str = "node") -> Cert:
    """What a server shows on its own links: good for that and nothing else."""
    return pki.server_ca.issue(f"CN={name}", eku=(CLIENT,))


# ---- Cluster -------------------------------------------------------------------------------------

SLOTS = 16384


class Cluster:
    """Masters that share the slots, and one replica of the first."""

    def __init__(self, make: Callable[..., Node], masters: int = 3) -> None:
        self.masters, self.ports = [], []
        count = masters + 1
        nodes = []
        for _ in range(count):
            self.ports.append(free_port())
            nodes.append(make(
                "cluster-enabled yes", "tls-cluster yes", f"cluster-port {self.ports[-1]}",
                "cluster-node-timeout 2000",
            ))  # fmt: skip
        self.nodes, self.masters, self.replica = nodes, nodes[:masters], nodes[masters]
        self._join()
        self.ids = [str(node.call("CLUSTER", "MYID")) for node in nodes]
        self.replica.call("CLUSTER", "REPLICATE", self.ids[0])
        linked(self.replica)

    def _join(self) -> None:
        count = len(self.masters)
        for index, node in enumerate(self.masters):
            first, last = SLOTS * index // count, SLOTS * (index + 1) // count - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        for index, node in enumerate(self.nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for index, node in enumerate(self.nodes[1:], 1):
            meet = ("127.0.0.1", node.server.port, self.ports[index])
            self.nodes[0].call("CLUSTER", "MEET", *meet)
        known = f"cluster_known_nodes:{len(self.nodes)}"

        def joined() -> bool:
            told = [str(node.call("CLUSTER", "INFO")) for node in self.nodes]
            return all("cluster_state:ok" in one and known in one for one in told)

        wait_until(joined, "the cluster is whole", 30)

    def slot(self, key: str) -> int:
        found: int = self.nodes[0].call("CLUSTER", "KEYSLOT", key)
        return found

    def owner(self, key: str) -> int:
        """Index of the master that this key was given to first."""
        return self.slot(key) * len(self.masters) // SLOTS


class Repeating:
    """A client that does `once` again and again beside a test, and forgets no error."""

    def __init__(self, pause: float) -> None:
        self.pause = pause  # seconds between two times
        self.done, self.errors = 0, list[str]()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def once(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        while not self.stopping.wait(self.pause):
            try:
                self.once()
            except Exception as error:
                self.errors.append(repr(error))
            self.done += 1

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()
        assert self.errors == []
        assert self.done > 100


class Load(Repeating):
    """A client of the cluster that writes and reads all the time. It tries again as it does by
    itself, for it has to follow a slot that moves."""

    def __init__(self, server: RedisServer, cert: Cert) -> None:
        super().__init__(pause=0.002)
        crt, key = cert.files
        self.client = redis.RedisCluster(
            host="127.0.0.1", port=server.port, ssl=True, ssl_certfile=crt, ssl_keyfile=key,
            ssl_ca_certs=str(server.directory / "trust.pem"), retry=Retry(NoBackoff(), 3),
        )  # fmt: skip

    def once(self) -> None:
        self.client.set(f"k{self.done % 1000}", self.done)
        self.client.get(f"k{self.done % 1000}")

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self.client.close()
