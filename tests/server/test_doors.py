"""The doors that are not the clients': only a node that is known comes in at the cluster bus, and
only such a node is connected to. Anyone who is refused there leaves a trace."""

import ssl
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit import support
from tests.kit.node import mapping
from tests.kit.peers import SLOTS, Cluster, Load, linked
from tests.kit.policies import LOGIN, Node, Start, make_node, pairs, policy_of, refuse
from tests.kit.servers import Server, servers
from tests.kit.support import (
    CLIENT,
    MODULE,
    SERVER,
    Cert,
    Pki,
    TlsPeer,
    days,
    free_port,
    root,
    scratch,
    wait_until,
)

BOTH = (SERVER, CLIENT)
PEER = "user certauth-peer-cluster on ~* +ping +replconf +psync +select +restore-asking +sync"
VERSIONS = ["TLSv1_2", "TLSv1_3"]


def peer(cert: Cert, *more: str) -> str:
    """The line by which the policy knows a node."""
    return " ".join([f"bind key {cert.key_id} certauth-peer-cluster", *more])


def node_of(pki: Pki, name: str = "CN=node", **options: Any) -> Cert:
    return pki.server_ca.issue(
        name, **{"eku": BOTH, "san": ["dns:localhost", "ip:127.0.0.1"], **options}
    )


def own_pki(pki: Pki, server: Cert | None = None) -> Pki:
    """The same CAs, another server certificate."""
    made = Pki(pki.ca, pki.server_ca)
    if server:
        made.__dict__["server"] = server
    return made


def events(node: Node, *kinds: str) -> list[dict[str, Any]]:
    """What CERTAUTH.LOG holds of the doors, oldest first."""
    found = mapping(node.call("CERTAUTH.LOG"))["entries"]
    entries = [mapping(one) for one in found]
    return [one for one in entries if one["event"] in (kinds or ("peer-refused", "peer-joined"))]


def enforce(node: Node, how: str, *lines: str) -> None:
    """Writes, and waits until that is in force: Redis 7.0 tells who waits for the journal that the
    cluster is down, instead of the answer."""
    base = [node.generation] if how == "PATCH" else []
    node.generation += 1
    with suppress(redis.exceptions.ClusterDownError):
        node.write(how, *base, node.generation, "LINES", *lines)

    def there() -> bool:
        found: int = pairs(node.call("CERTAUTH.POLICY", "STATUS"))["generation"]
        return found == node.generation

    wait_until(there, "the policy is in force")


# ---- Knocking at the bus -------------------------------------------------------------------------


class Bus:
    """A cluster node alone, and its bus."""

    def __init__(self, start: Start, kind: Server, pki: Pki, *lines: str, **options: Any) -> None:
        self.port = free_port()
        config = [
            "cluster-enabled yes", "tls-cluster yes", f"cluster-port {self.port}",
            *options.pop("config", ()),
        ]  # fmt: skip
        self.node = make_node(start, kind, pki=pki, config=config, **options)
        if lines:
            enforce(self.node, "LOAD", *lines)

    def peer(self, cert: Cert | None, version: str = "TLSv1_2") -> TlsPeer:
        made = self.node.server.tls(cert, version)
        made.address = ("127.0.0.1", self.port)
        return made

    def knock(self, made: TlsPeer, session: ssl.SSLSession | None = None) -> bool:
        """Is the connection still there when the server has had its say? Whom it lets in, it tells
        nothing before it is asked: a message that is none ends the link without an alert."""
        try:
            with made.connect(session) as connection:
                assert connection.resumed is False
                connection.socket.sendall(b"x" * 16)
                return connection.socket.recv(1) == b""
        except (ConnectionError, ssl.SSLError):
            return False

    def says(self, cert: Cert | None, version: str = "TLSv1_2") -> tuple[bool, str]:
        """Knocks; and what the node's log has of it."""
        before = len(events(self.node))
        taken = self.knock(self.peer(cert, version))
        news = events(self.node)[before:]
        return taken, " ".join(f"{one['event']}:{one['reason']}" for one in news)


JOINED = (True, "peer-joined:matched")


def refused(reason: str) -> tuple[bool, str]:
    return False, f"peer-refused:{reason}"


@pytest.mark.parametrize("version", VERSIONS)
def test_who_comes_in_at_the_bus(server_kind: Server, start: Start, pki: Pki, version: str) -> None:
    """A bound peer and anyone who has this node's own key; no client, revoked or not, no stranger
    from the CA of the servers, no peer that is revoked in whatever way. Each refusal has its
    reason."""
    between = pki.server_ca.authority("CN=Between", serial=77)
    names = ["known", "scoped", "there", "here", "cert", "key", "serial", "user"]
    nodes = {name: node_of(pki, f"CN={name}", serial=5000 + n) for n, name in enumerate(names)}
    nodes["below"] = between.issue("CN=below", eku=BOTH)
    nodes["expired"] = node_of(pki, not_after=days(-0.5))
    binds = [peer(one) for name, one in nodes.items() if name in ("known", "cert", "key", "serial",
             "below", "expired")]  # fmt: skip
    lines = [
        *binds, PEER, peer(nodes["scoped"], f"ca={pki.server_ca.key_id}"),
        peer(nodes["here"], "from=127.0.0.0/8"), peer(nodes["there"], "from=10.0.0.0/8"),
        f"bind key {nodes['user'].key_id} alice", f"revoke cert {nodes['cert'].fingerprint}",
        f"revoke key {nodes['key'].key_id}",
        f"revoke serial {pki.server_ca.key_id} {nodes['serial'].serial}",
        f"revoke serial {pki.server_ca.key_id} {between.serial}",
    ]  # fmt: skip
    bus = Bus(start, server_kind, pki, *policy_of(pki, *lines))
    expected = {
        "known": JOINED, "scoped": JOINED, "here": JOINED, "there": refused("address"),
        "cert": refused("revoked"), "key": refused("revoked"), "serial": refused("revoked"),
        "below": refused("ca_revoked"), "expired": refused("expired"),
        "user": refused("no_binding"),
    }  # fmt: skip
    for name, outcome in expected.items():
        assert (name, bus.says(nodes[name], version)) == (name, outcome)
        # Said once a minute and a peer; refused each time.
        assert (name, bus.says(nodes[name], version)) == (name, (outcome[0], ""))
    both = pki.ca.issue("CN=alice,OU=eng,O=acme", eku=BOTH)
    assert bus.says(both, version) == refused("no_binding")
    assert bus.says(pki.server, version) == JOINED
    assert bus.says(node_of(pki, "CN=stranger"), version) == refused("no_binding")
    assert bus.says(root("CN=Other").issue("CN=x"), version) == refused("untrusted_issuer")
    assert bus.says(None, version)[0] is False
    # The clients' door is what it was: also for who was refused at the other one.
    assert bus.node.outcome(pki.alice) == LOGIN
    assert bus.node.server.client(both).acl_whoami() == "alice"
    counters = bus.node.counters()
    assert counters["peers_refused"] >= 16
    assert counters["api_certificates"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_the_clients_door_opens_no_other(
    server_kind: Server, start: Start, pki: Pki, version: str
) -> None:
    """A resumed session is not verified again, and each client has one to resume: behind the other
    doors none does."""
    bus = Bus(start, server_kind, pki, *policy_of(pki))
    client = bus.node.server.tls(pki.alice, version)
    with client.connect() as connection:
        assert connection.command("PING") == b"PONG"
        session = connection.session
    with client.connect(session) as connection:
        assert connection.resumed
    client.address = ("127.0.0.1", bus.port)
    assert bus.knock(client, session) is False
    assert [one["reason"] for one in events(bus.node)] == ["no_binding"]


@pytest.mark.parametrize("how", ["no policy", "off", "shadow", "api"])
def test_where_nothing_is_enforced_the_doors_are_the_servers(
    installed: Server, start: Start, pki: Pki, how: str
) -> None:
    """A policy that is tried out changes nothing there either, but says whom it would refuse. Nor
    where the server alone can read certificates; INFO says which."""
    module = ["certificates", "api"] if how == "api" else []
    enforce = {"off": ["set enforce off"], "shadow": ["set enforce shadow"]}.get(how, [])
    lines = [*enforce, *policy_of(pki)[1 if enforce else 0 :]] if how != "no policy" else []
    bus = Bus(start, installed, pki, *lines, module=module)
    stranger = node_of(pki, "CN=stranger")
    assert bus.knock(bus.peer(stranger))
    told = events(bus.node, "peer-would-refuse", "peer-refused", "peer-joined")
    reasons = [(one["event"], one["reason"]) for one in told]
    assert reasons == ([("peer-would-refuse", "no_binding")] if how == "shadow" else [])
    info: Any = bus.node.admin.info("certauth")
    assert info["certauth_doors"] == ("watched" if how == "shadow" else "open")
    assert info["certauth_peers_refused"] == 0


def test_clients_have_their_door_wherever_it_moves(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """`tls-port` of a cluster node is set to another while it runs: clients come in there at once,
    and the bus stays the bus."""
    bus = Bus(start, server_kind, pki, *policy_of(pki))
    before = bus.node.server.port
    for _ in range(3):
        bus.node.server.port = free_port()
        bus.node.admin.config_set("tls-port", bus.node.server.port)
        assert bus.node.outcome(pki.alice) == LOGIN
    assert bus.node.server.port != before
    assert bus.knock(bus.peer(node_of(pki))) is False
    assert bus.knock(bus.peer(pki.server))


def test_enforcement_begins_and_ends_for_links_that_are_up(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A stranger's connection from before ends with the change that enforces, a node's with the one
    that revokes it or takes its line; nobody else's does."""
    known, stranger, other = (node_of(pki, f"CN={name}") for name in ("known", "stranger", "other"))
    lines = policy_of(pki, peer(known), peer(other), PEER)
    bus = Bus(start, server_kind, pki, "set enforce off", *lines[1:])
    links = {
        name: bus.peer(one).connect()
        for name, one in {"known": known, "stranger": stranger, "other": other}.items()
    }
    ends = {
        "stranger": ("-set enforce off", "+set enforce on"),
        "known": (f"+revoke cert {known.fingerprint}",),
        "other": (f"-{peer(other)}",),
    }
    for name, changes in ends.items():
        for one in links.values():
            one.socket.settimeout(0.05)
            with pytest.raises(TimeoutError):
                one.socket.recv(1)
        enforce(bus.node, "PATCH", *changes)
        link = links.pop(name)
        link.socket.settimeout(10)
        with suppress(ConnectionError, ssl.SSLError):
            assert link.socket.recv(1) == b""
        link.close()
    for one in links.values():
        one.close()


# ---- Clusters ------------------------------------------------------------------------------------


def some_slow(*hows: str) -> list[Any]:
    """Each server in each way; but for the installed one in the first, slow."""
    first = servers()[0], hows[0]
    return [
        pytest.param(kind, how, id=f"{kind}-{how}",
                     marks=[pytest.mark.servers] if (kind, how) == first else pytest.mark.slow)
        for kind in servers()
        for how in hows
    ]  # fmt: skip


class Shards(Cluster):
    """Nodes that have a certificate each, and know one another by their keys."""

    def __init__(self, start: Start, kind: Server, pki: Pki, managed: bool, *lines: str) -> None:
        self.certs = [node_of(pki, f"CN=node {n}") for n in range(4)]
        self.policy = policy_of(pki, *map(peer, self.certs), PEER, *lines)
        self.kind, left = kind, iter(self.certs)

        def make(*config: str) -> Node:
            trust = ["tls-ca-cert-dir certauth/ca"] if managed else []
            node = make_node(
                start, kind, pki=own_pki(pki, next(left)), trust=[] if managed else [pki.ca],
                config=["tls-replication yes", "repl-diskless-sync-delay 0", *trust, *config],
            )  # fmt: skip
            enforce(node, "LOAD", *self.policy)
            return node

        super().__init__(make)

    def patch(self, *changes: str) -> None:
        for node in self.nodes:
            enforce(node, "PATCH", *changes)

    def drops_its_links(self) -> None:
        """Every node shakes hands with every other one again. (Redis 7.0 crashes where a link is
        not there just now: debug.c, freeClusterLink of NULL.)"""
        for node in self.nodes if self.kind.release >= (8,) else ():
            for one in self.ids:
                with suppress(redis.ResponseError):  # its own
                    node.call("DEBUG", "CLUSTERLINK", "KILL", "ALL", one)

    def whole(self) -> None:
        """Waits until each node has a link to each other one, and one from it."""

        def sound(node: Node) -> bool:
            node.call("PING")  # what was cut by the last command, the server sees behind it
            told = str(node.call("CLUSTER", "NODES"))
            links = node.call("CLUSTER", "LINKS")
            return "fail" not in told and "disconnected" not in told and len(links) == 6

        for node in self.nodes:
            node.call("PING")
            wait_until(lambda: sound(node), "they are linked", 30)  # noqa: B023


def rogue(start: Start, kind: Server, pki: Pki, cert: Cert, cluster: Shards) -> tuple[Any, int]:
    """A server without the module, and the port of its bus, that calls itself the newest owner of
    all slots of the first master and meets every node."""
    bus = free_port()
    server = start(
        kind, pki=own_pki(pki, cert),
        config=["cluster-enabled yes", "tls-cluster yes", "tls-replication yes",
                f"cluster-port {bus}", "cluster-node-timeout 2000"],
    )  # fmt: skip
    admin: Any = server.admin()
    for _ in range(9):
        admin.execute_command("CLUSTER", "BUMPEPOCH")
    admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 3 - 1)
    for node, port in zip(cluster.nodes, cluster.ports, strict=True):
        admin.execute_command("CLUSTER", "MEET", "127.0.0.1", node.server.port, port)
    return server, bus


@pytest.mark.parametrize(("kind", "how"), some_slow("by hand", "managed"))
def test_no_client_takes_slots(kind: Server, how: str, start: Start, pki: Pki) -> None:
    """A revoked certificate, one that is bound to nobody and one of the servers' own CA, each good
    for servers too: a stock server that shows it is met by no node, nor meets one, and no key is
    lost."""
    rogues = {
        "revoked": pki.ca.issue("CN=mallory", eku=BOTH, san=["ip:127.0.0.1"]),
        "no_binding": pki.ca.issue("CN=nobody", eku=BOTH, san=["ip:127.0.0.1"]),
        "no_binding ": node_of(pki, "CN=slip"),
    }
    revoked = f"revoke cert {rogues['revoked'].fingerprint}"
    cluster = Shards(start, kind, pki, how == "managed", revoked)
    assert [node.outcome(pki.alice) for node in cluster.nodes] == [LOGIN] * 4
    names = [f"k{n}" for n in range(200)]
    for name in names:
        cluster.masters[cluster.owner(name)].admin.set(name, "v")
    sizes = [node.admin.dbsize() for node in (*cluster.masters, cluster.masters[0])]
    assert sum(sizes[:3]) == 200
    wait_until(lambda: cluster.replica.admin.dbsize() == sizes[0], "they are replicated")
    for cert in rogues.values():
        server, bus = rogue(start, kind, pki, cert, cluster)
        # The slip of an administrator, too: the other way round.
        cluster.nodes[1].call("CLUSTER", "MEET", "127.0.0.1", server.port, bus)

    def told(node: Node, at: str) -> set[tuple[str, str]]:
        return {(one["reason"], one["key"]) for one in events(node, "peer-refused")
                if one["door"] == at}  # fmt: skip

    expected = {(reason.strip(), cert.key_id) for reason, cert in rogues.items()}
    for node in cluster.nodes:
        wait_until(lambda: told(node, "bus") == expected, "all were refused")  # noqa: B023
    wait_until(lambda: told(cluster.nodes[1], "link") == expected, "the other way round")
    cluster.whole()
    for node in cluster.nodes:
        assert (
            "cluster_known_nodes:4" in str(node.call("CLUSTER", "INFO")) or node is cluster.nodes[1]
        )
        assert len(events(node, "peer-refused")) <= 9
    assert [node.admin.dbsize() for node in cluster.nodes] == sizes
    assert [node.call("ROLE")[0] for node in cluster.nodes] == ["master"] * 3 + ["slave"]


def fails_over(cluster: Shards, replica: Node, master: Node) -> None:
    """Asked when all links are up and all know whose replica it is: else it is lost, or denied."""
    ids = [str(node.call("CLUSTER", "MYID")) for node in (replica, master)]
    cluster.whole()

    def known(node: Node) -> bool:
        lines = str(node.call("CLUSTER", "NODES")).splitlines()
        return any(line.startswith(ids[0]) and f"slave {ids[1]}" in line for line in lines)

    wait_until(lambda: all(map(known, cluster.nodes)), "all know the replica")
    replica.call("CLUSTER", "FAILOVER")
    linked(master)


@pytest.mark.slow
@pytest.mark.parametrize("kind", servers(), ids=str)
def test_keys_are_renewed_one_by_one(kind: Server, start: Start, pki: Pki) -> None:
    """Each node gets another key while the old one is bound as well: no command of a client fails,
    and all are linked all the time. One that then comes back with its old key is refused; and all
    of them find together from nothing but their journals."""
    cluster = Shards(start, kind, pki, managed=False)
    with Load(cluster.nodes[0].server, pki.alice) as load:
        for index, node in enumerate(cluster.nodes):
            old, new = cluster.certs[index], node_of(pki, f"CN=renewed {index}")
            cluster.patch(f"+{peer(new)}")
            crt, key = new.files
            node.admin.config_set("tls-cert-file", crt, "tls-key-file", key)
            cluster.drops_its_links()
            cluster.whole()
            cluster.patch(f"-{peer(old)}")
            cluster.whole()
            node.server.pki = own_pki(pki, new)
            done = load.done
            wait_until(lambda: load.done > done + 20, "it goes on")  # noqa: B023
        replica = cluster.replica
        moved = cluster.masters[0]
        for one, other in ((replica, moved), (moved, replica)):
            fails_over(cluster, one, other)
        replica.server.stop()
    replica.server.pki = own_pki(pki, cluster.certs[3])
    replica.server.start()
    old = cluster.certs[3].key_id

    def told(one: dict[str, Any]) -> bool:
        return (one["key"], one["reason"]) == (old, "no_binding")

    for node in cluster.masters:
        wait_until(lambda: any(map(told, events(node))), "its old key is refused")  # noqa: B023
    replica.server.pki = own_pki(pki, new)
    for node in cluster.nodes:
        node.server.stop()
    for node in cluster.nodes:
        node.server.start()
    cluster.whole()
    linked(replica)
    assert [node.outcome(pki.alice) for node in cluster.nodes] == [LOGIN] * 4
    assert [one["reason"] for node in cluster.nodes for one in events(node, "peer-refused")] == []


def test_strangers_who_knock_a_thousand_times_are_one_entry(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Counted each time, told of once: neither the ring nor the server's log belongs to anyone who
    knocks most."""
    bus = Bus(start, installed, pki, *policy_of(pki))
    stranger = bus.peer(node_of(pki, "CN=stranger"))
    for _ in range(300):
        assert bus.knock(stranger) is False
    own = root("CN=Other")
    for number in range(100):
        assert bus.knock(bus.peer(own.issue(f"CN={number}"))) is False
    assert [one["reason"] for one in events(bus.node)] == ["no_binding", "untrusted_issuer"]
    assert bus.node.counters()["peers_refused"] == 400
    assert bus.node.server.log.count("peer-refused") == 2
    # Nor do many that are told of make one another news again.
    many = [bus.peer(node_of(pki, f"CN={number}")) for number in range(60)]
    for _ in range(2):
        for one in many:
            assert bus.knock(one) is False
            assert len(events(bus.node)) >= 3
    assert len(events(bus.node)) == 62


# ---- Replicas ------------------------------------------------------------------------------------


def test_a_replica_follows_no_stranger(server_kind: Server, start: Start, pki: Pki) -> None:
    """Anyone who poses as the master, with a client's certificate or a stranger's of the servers'
    CA, gets no link and sends no data; the master is followed once its key is known, and not once
    that is revoked."""
    cert, own = node_of(pki, "CN=master"), node_of(pki, "CN=replica")
    config = ["tls-replication yes", "repl-diskless-sync-delay 0"]
    known = policy_of(pki, peer(own), PEER)
    master = make_node(start, server_kind, *known, pki=own_pki(pki, cert), config=config)
    follows = [*config, f"replicaof 127.0.0.1 {master.server.port}"]
    replica = make_node(start, server_kind, *known, pki=own_pki(pki, own), config=follows)
    master.admin.set("k", "v")

    def refused(why: str) -> None:
        def told() -> bool:
            reasons = [one["reason"] for one in events(replica, "peer-refused")]
            return bool(reasons) and reasons[-1] == why

        wait_until(told, why)
        (one, *_) = events(replica, "peer-refused")
        assert (one["door"], one["key"], one["port"]) == ("link", cert.key_id, master.server.port)
        assert one["subject"] == "CN=master"

    refused("no_binding")
    assert replica.admin.info("replication")["master_link_status"] == "down"
    replica.patch(f"+{peer(cert)}")
    linked(replica)
    assert [one["key"] for one in events(replica, "peer-joined")] == [cert.key_id]
    wait_until(lambda: replica.admin.get("k") == "v", "it has the data")
    replica.patch(f"+revoke key {cert.key_id}")
    refused("revoked")
    wait_until(
        lambda: replica.admin.info("replication")["master_link_status"] == "down", "it is cut"
    )


# ---- A server with an OpenSSL of its own ---------------------------------------------------------


def with_own_openssl(kind: Server, folder: Path, patch: pytest.MonkeyPatch) -> Server:
    """As if the server were linked with a static OpenSSL: the module gets another copy of libssl
    and libcrypto, under names of its own. Valkey alone looks there first (RTLD_DEEPBIND)."""
    loader, option, libraries, program = kind.argv
    for name in ("libssl.so.3", "libcrypto.so.3"):
        copied = Path(libraries, name).read_bytes()
        (folder / name.replace("so.3", "so.X")).write_bytes(copied.replace(b".so.3\0", b".so.X\0"))
    module = MODULE.read_bytes()
    for name in (b"libssl", b"libcrypto"):
        assert name + b".so.3\0" in module
        module = module.replace(name + b".so.3\0", name + b".so.X\0")
    (folder / "certauth.so").write_bytes(module)
    (folder / "certauth.so").chmod(0o755)
    patch.setattr(support, "MODULE", folder / "certauth.so")
    return replace(kind, argv=(loader, option, f"{folder}:{libraries}", program))


@pytest.fixture
def own_openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    kinds = [kind for kind in servers()[1:] if kind.name == "valkey"]
    if not kinds:
        pytest.skip("no Valkey in the cache: make servers")
    return with_own_openssl(kinds[-1], tmp_path, monkeypatch)


def test_a_server_with_an_openssl_of_its_own_is_trusted_with_no_ca(
    own_openssl: Server, start: Start, pki: Pki
) -> None:
    """Nobody sees who comes to its cluster bus. So the policy's CAs stay out of its trust store
    from the first moment on, before any client has come, and after a restart; and it says why. A
    client whose certificate is good enough for a node gets nowhere."""
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    (folder / "ca").mkdir()
    options = {"module": ["journal", str(folder)], "config": [f"tls-ca-cert-dir {folder}/ca"]}
    bus = Bus(start, own_openssl, own_pki(pki), trust=[], **options)
    enforce(bus.node, "LOAD", *policy_of(pki))
    mallory = bus.peer(pki.ca.issue("CN=mallory", eku=BOTH))
    for _ in range(2):
        status = pairs(bus.node.call("CERTAUTH.POLICY", "STATUS"))
        assert status["trust"].startswith(
            "not managed: cluster-enabled is on, and this server has an OpenSSL of its own"
        )
        assert list((folder / "ca").iterdir()) == []
        assert bus.node.admin.info("certauth")["certauth_doors"] == "open"
        assert bus.knock(mallory) is False
        assert "this server has an OpenSSL of its own: the cluster bus" in bus.node.server.log
        bus.node.server.stop()
        bus.node.server.start()


def test_a_server_with_an_openssl_of_its_own_decides_about_clients(
    own_openssl: Server, start: Start, pki: Pki
) -> None:
    """As any other: it hands out their certificates itself. Explain says that it asked no
    handshake."""
    node = make_node(start, own_openssl, *policy_of(pki), pki=pki)
    assert node.outcome(pki.alice) == LOGIN
    assert node.outcome(pki.bob) == refuse("no_binding")
    assert node.counters()["api_certificates"] == 2
    assert node.explain(pki.alice.pem)["trace"][0].startswith("the TLS handshake was not asked")
