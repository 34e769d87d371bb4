"""A cluster of six under load by certificate: what operators do to it fails no command of a client,
and the certificates of all its nodes are renewed by docs/howto-node-certificates.md."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.node import Start
from tests.kit.node_keys import rsa_key
from tests.kit.pages import page
from tests.kit.peers import Load, Repeating
from tests.kit.plane import Plane, enrolled_node
from tests.kit.servers import Server, servers
from tests.kit.support import CLIENT, SERVER, Cert, Key, Pki, RedisServer, wait_until
from tests.kit.topologies import Shards, address, call, crc_slot, events, finds, linked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KINDS = [kind for kind in servers() if kind.line in ("redis-7.0", "redis-8.6", "valkey-9.1")]
EC, RSA = "-newkey ec -pkeyopt ec_paramgen_curve:P-256", "-newkey rsa:2048"
NAMES = ("dns:localhost", "ip:127.0.0.1")


class Files:
    """The folder of one node's certificate and key, with the CA of the servers, as the page has
    it."""

    def __init__(self, folder: Path, pki: Pki, key: Key | None) -> None:
        folder.mkdir()
        self.folder, self.key = folder, key
        made = pki.server_ca.issue("CN=localhost", san=NAMES, eku=(SERVER, CLIENT), key=key)
        for name, content in (("redis.crt", made.pem), ("redis.key", made.key_pem),
                              ("servers.crt", pki.server_ca.pem),
                              ("servers.key", pki.server_ca.key_pem)):  # fmt: skip
            (folder / name).write_bytes(content)
        made.__dict__["files"] = (str(folder / "redis.crt"), str(folder / "redis.key"))
        self.pki = Pki(pki.ca, pki.server_ca)
        self.pki.__dict__["server"] = made

    def renew(self) -> None:
        """By the commands of the page, with a key of the other type."""
        commands = page("docs/howto-node-certificates.md")
        block = commands.split("```sh\n")[1].split("```")[0]
        shown = ("/etc/redis/tls", EC, "redis-1.example", "10.0.0.5")
        real = (str(self.folder), RSA if self.key is None else EC, "localhost", "127.0.0.1")
        for one, other in zip(shown, real, strict=True):
            assert one in block
            block = block.replace(one, other)
        done = subprocess.run(["bash", "-e", "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class Comers(Repeating):
    """Clients that come again to each node, one after the other, and are alice each time."""

    def __init__(self, nodes: list[RedisServer], cert: Cert) -> None:
        super().__init__(pause=0.01)
        self.nodes, self.cert = nodes, cert

    def once(self) -> None:
        node = self.nodes[self.done % len(self.nodes)]
        try:
            client: Any = node.client(self.cert)
            assert client.acl_whoami() == "alice"
            client.close()
        except (redis.RedisError, AssertionError) as error:
            raise AssertionError(f"{address(node)}: {error!r}") from error


class Six(Shards):
    """Three masters and their replicas, the first of which has an EC key, the next one an RSA key,
    and so on."""

    def __init__(self, start: Start, plane: Plane, kind: Server, pki: Pki, folder: Path) -> None:
        self.files: dict[int, Files] = {}

        def make(kind: Server, *config: str) -> RedisServer:
            number = len(self.files)
            key = rsa_key() if number % 2 else None
            files = Files(folder / str(number), pki, key)
            made = enrolled_node(start, kind, plane.config.home, files.pki, config=list(config))
            self.files[made.port] = files
            return made

        super().__init__(make, kind)
        for master in list(self.nodes):
            replica = self.join()
            wait_until(lambda: self.is_known(replica, master), "it knows the master")  # noqa: B023
            call(replica, "CLUSTER", "REPLICATE", call(master, "CLUSTER", "MYID"))
            linked(replica)

    @staticmethod
    def is_known(node: RedisServer, other: RedisServer) -> bool:
        return str(call(other, "CLUSTER", "MYID")) in str(call(node, "CLUSTER", "NODES"))

    def roles(self) -> dict[str, str]:
        return {address(node): str(call(node, "ROLE")[0]) for node in self.nodes}

    def fails_over(self, replica: RedisServer, master: RedisServer, *how: str) -> None:
        """Asked once all is well: else it may be denied."""
        linked(replica)
        self.agree()

        call(replica, "CLUSTER", "FAILOVER", *how)
        linked(master, 30)

    def agree(self) -> None:
        """Waits until all nodes tell the same of each other, and nothing bad."""

        def told(node: RedisServer) -> list[tuple[str, str, str]]:
            rows = [line.split() for line in str(call(node, "CLUSTER", "NODES")).splitlines()]
            return sorted((row[0], row[2].replace("myself,", ""), row[3]) for row in rows)

        def sound() -> bool:
            found = [told(node) for node in self.nodes]
            flat = str(found)
            return all(one == found[0] for one in found) and "fail" not in flat

        wait_until(sound, "all tell the same of each other", 30)

    def reshard(self, source: RedisServer, target: RedisServer, cert: Cert, slots: int) -> None:
        """As an operator does it, by redis-cli, who comes by certificate."""
        ids = [str(call(node, "CLUSTER", "MYID")) for node in (source, target)]
        done = source.cli(
            "--cluster", "reshard", address(source), "--cluster-from", ids[0], "--cluster-to",
            ids[1], "--cluster-slots", str(slots), "--cluster-yes", cert=cert, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.fixture
def six(start: Start, plane: Plane, pki: Pki, tmp_path: Path, kind: Server) -> Six:
    return Six(start, plane, kind, pki, tmp_path)


def renewed(plane: Plane, node: RedisServer, before: str) -> bool:
    """Whether the control plane has seen another certificate there, and the database is well."""
    return serial(plane, node) not in ("", before) and plane.status() == "active"


def serial(plane: Plane, node: RedisServer) -> str:
    """Of the certificate that the control plane has seen there."""
    found = plane.ok("GET /v1/certauth/nodes")["nodes"]
    (one,) = [one for one in found if one["address"] == address(node)]
    return str(one["certificate_serial"])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nothing_that_an_operator_does_fails_a_command(
    kind: Server, six: Six, plane: Plane, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slots move there and back, a replica is asked to take over and another one takes over by
    itself, and every node gets another certificate with a key of another type, by the page: no
    command fails, anyone who comes again is let in, and no node refuses another one."""
    plane.register(six.nodes[0], allow_trust_on_internal_links=True)
    finds(plane, *six.nodes, deadline=60)
    before = {node.key for node in plane.store.nodes.of(1)}
    one, two, three = six.nodes[:3]
    names = [f"k{n}" for n in range(1000)]
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(one, pki.alice)) for _ in range(2)]
        comers = stack.enter_context(Comers(six.nodes, pki.alice))
        wait_until(lambda: min(load.done for load in loads) > 1000, "all keys are there", 60)
        assert len({crc_slot(name) for name in names}) > 500
        six.reshard(one, two, pki.alice, 300)
        six.reshard(two, one, pki.alice, 300)
        six.fails_over(six.nodes[3], one)
        six.fails_over(one, six.nodes[3], "TAKEOVER")
        for node in six.nodes:
            was = serial(plane, node)
            six.files[node.port].renew()
            wait_until(lambda: renewed(plane, node, was), "it is shown", 40)  # noqa: B023
        six.reshard(two, three, pki.alice, 100)
        six.fails_over(six.nodes[4], two)
        six.agree()
    keys = {node.key for node in plane.store.nodes.of(1)}
    assert len(keys) == 6
    assert {line.split()[2] for line in plane.lines() if line.startswith("bind key")} >= keys
    refused = {event["key"] for event in events(plane, "peer_refused")}
    assert refused <= before  # whose links were cut when they were bound no more
    told = [one for one in events(plane, "node_certificate") if "from now on" in one["description"]]
    assert sorted(one["node"] for one in told) == sorted(map(address, six.nodes))
    with capsys.disabled():
        done = [load.done for load in loads]
        print(f"\n{kind}: {sum(done)} writes and reads, {comers.done} logins, 0 failed")
