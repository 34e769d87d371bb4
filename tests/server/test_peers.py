"""Replicas, Sentinels and cluster nodes come by certificate alone, and may do what they are for."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import redis

from tests.kit.node import keep_configuration, who
from tests.kit.peers import (
    CLUSTER,
    REPLICA,
    RULES,
    SENTINEL,
    Cluster,
    Sentinel,
    calls,
    denials,
    linked,
    node_cert,
    peer_node,
    replication,
    rules,
    sentinel_cert,
    strict,
)
from tests.kit.policies import (
    CLOSED,
    LOGIN,
    OPERATOR,
    Node,
    Start,
    closed,
    pairs,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server, servers
from tests.kit.support import Cert, Pki, wait_until


def asks(kind: Server) -> bool:
    """Does the server ask modules before it looks at a password? (Redis 7.2; Valkey always.)"""
    return kind.name == "valkey" or kind.release >= (7, 2)


@pytest.fixture(scope="module")
def cert(pki: Pki) -> Cert:
    return node_cert(pki)


def links(node: Node) -> list[dict[str, str]]:
    """The replicas of a master, of CLIENT LIST."""
    found: Any = node.admin.client_list()
    return [client for client in found if "S" in client["flags"]]


def replica_of(master: Node) -> str:
    return f"replicaof 127.0.0.1 {master.server.port}"


def in_step(master: Node, replica: Node, key: str) -> None:
    """What is written here is there."""
    master.admin.set(key, "v")
    wait_until(lambda: replica.admin.get(key) == "v", f"{key} has been replicated")


# ---- Replicas ------------------------------------------------------------------------------------

# Ways to synchronize, and which servers have them.
SYNCS: dict[str, tuple[str, Callable[[Server], bool]]] = {
    "usual": ("repl-backlog-size 1mb", lambda _: True),
    "from disk": ("repl-diskless-sync no", lambda _: True),
    "second channel": ("dual-channel-replication-enabled yes", lambda k: k.name == "valkey"),
    "rdb channel": ("repl-rdb-channel yes", lambda k: k.name == "redis" and k.release >= (8,)),
    "swapped in": ("repl-diskless-load swapdb", lambda _: True),
}


def syncs() -> list[Any]:
    return [
        pytest.param(kind, line, id=f"{kind}-{name}", marks=pytest.mark.servers)
        for kind in servers()
        for name, (line, has) in SYNCS.items()
        if has(kind)
    ]


@pytest.mark.parametrize(("kind", "line"), syncs())
def test_a_replica_needs_no_password(
    kind: Server, line: str, start: Start, pki: Pki, cert: Cert
) -> None:
    """Full and partial synchronization under a policy that leaves nothing to anybody else,
    `default` off, as a user that may do just that; a change of the policy cuts no link."""
    peers = {REPLICA: cert}
    master = peer_node(start, kind, pki, peers, line)
    in_place = peer_node(start, kind, pki, peers, line, replica_of(master))
    linked(in_place)
    in_step(master, in_place, "full")
    assert {client["user"] for client in links(master)} == {REPLICA}
    before = [client["id"] for client in links(master)]
    master.patch(f"+revoke cert {pki.bob.fingerprint}")
    in_step(master, in_place, "after a change")
    assert [client["id"] for client in links(master)] == before
    stats: Any = master.admin.info("stats")
    master.call("CLIENT", "KILL", "TYPE", "replica")
    wait_until(
        lambda: master.admin.info("stats")["sync_partial_ok"] > stats["sync_partial_ok"],
        "the link came back by partial synchronization",
    )
    in_step(master, in_place, "partial")
    assert denials(master) == []
    # Its links were told for certain, and the other end's own links are nobody's sessions.
    assert (master.counters()["api_certificates"], in_place.counters()["api_certificates"]) == (
        0,
        0,
    )
    assert in_place.counters()["sessions"] == 1
    # The module keeps no way to load a dataset out of use.
    assert "not aware of async replication" not in in_place.server.log


def test_a_replica_has_a_policy_of_its_own(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """Policies are not replicated: bob is somebody on the replica alone, before and after it is
    promoted; and then it takes replicas itself."""
    peers = {REPLICA: cert}
    master = peer_node(start, server_kind, pki, peers)
    own = strict(pki, f"bind key {pki.bob.key_id} alice", "allow CN=bob OU=eng O=acme")
    replica = peer_node(start, server_kind, pki, peers, replica_of(master), lines=own)
    linked(replica)
    for _ in range(2):
        assert (replica.outcome(pki.alice), replica.outcome(pki.bob)) == (LOGIN, LOGIN)
        assert (master.outcome(pki.alice), master.outcome(pki.bob)) == (LOGIN, refuse("gate"))
        replica.call("REPLICAOF", "NO", "ONE")
    with replica.connect(pki.alice) as alice:
        assert alice.command("SET", "promoted", "1") == b"OK"
    master.call("REPLICAOF", "127.0.0.1", replica.server.port)
    linked(master)
    in_step(replica, master, "the other way round")
    assert (master.outcome(pki.alice), master.outcome(pki.bob)) == (LOGIN, refuse("gate"))


def loads_aside(node: Node) -> bool:
    return bool(node.admin.info("persistence")["async_loading"])


def fall_behind(master: Node, replica: Node) -> None:
    """The replica misses more than its master remembers, so it gets the whole data set of the
    history that it has; meanwhile it serves what it had (`swapdb`)."""
    assert replica.server.process
    replica.server.process.send_signal(signal.SIGSTOP)
    master.call("CLIENT", "KILL", "TYPE", "replica")
    with master.admin.pipeline(transaction=False) as pipe:
        for number in range(20_000):
            pipe.set(f"key:{number}", "v" * 100)
        pipe.execute()
    replica.server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: loads_aside(replica), "the replica loads beside its old data", 30)


@pytest.mark.slow
@pytest.mark.parametrize("io_threads", [1, 4])
def test_closed_is_closed_while_a_replica_loads_beside_its_data(
    server_kind: Server, start: Start, pki: Pki, cert: Cert, io_threads: int
) -> None:
    """Clients are served for as long as that takes and no timer of the server runs: they log in,
    are refused, are closed by one change of the policy and by the next, and when their time is
    over, though nobody sends anything. The servers answer no blocked client meanwhile: the senders
    of the changes hear of them later."""
    peers = {REPLICA: cert}
    master = peer_node(start, server_kind, pki, peers, "repl-backlog-size 16kb")
    bound = f"bind key {pki.bob.key_id} short session=4s"
    slowly = ("key-load-delay 1000", "loading-process-events-interval-bytes 1024")
    config = ("repl-diskless-load swapdb", *slowly, replica_of(master))
    own = policy_of(pki, "user short on ~* +@all", bound)
    replica = peer_node(start, server_kind, pki, peers, *config, lines=own, io_threads=io_threads)
    linked(replica)
    in_step(master, replica, "old")

    def change(line: str) -> dict[str, Any]:
        admin = replica.server.admin(username=OPERATOR, password=OPERATOR, socket_timeout=60)
        words = (replica.generation, replica.generation + 1, "LINES", line)
        return pairs(admin.execute_command("CERTAUTH.POLICY", "PATCH", *words))

    with ExitStack() as held, ThreadPoolExecutor() as pool:
        before, idle = (held.enter_context(replica.connect(pki.alice)) for _ in range(2))
        fall_behind(master, replica)
        assert before.command("GET", "old") == b"v"
        assert replica.outcome(pki.alice) == LOGIN
        assert replica.outcome(pki.ca.issue("CN=nobody")) == refuse("no_binding")
        assert closed(held.enter_context(replica.connect(pki.bob)))
        sent = [pool.submit(change, f"+revoke key {pki.alice.key_id}")]
        assert closed(before)
        assert closed(idle)
        assert replica.outcome(pki.alice) == refuse("revoked")
        replica.generation += 1
        late = held.enter_context(replica.connect(pki.bob))
        assert late.command("GET", "old") == b"v"
        sent.append(pool.submit(change, f"-{bound}"))
        assert closed(late)
        assert replica.outcome(pki.bob) == refuse("no_binding")
        assert loads_aside(replica)
        assert not replica.admin.exists("key:1")
        replica.admin.config_set("key-load-delay", 0)
        assert [one.result()["closed"] for one in sent] == [2, 1]
    linked(replica)
    assert replica.admin.get("key:1") == "v" * 100
    assert replica.outcome(pki.alice) == refuse("revoked")
    assert replica.outcome(pki.bob) == refuse("no_binding")


def test_a_replica_that_is_not_bound_is_refused(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """Its link stays down, nothing reaches it, and the master's log says why."""
    master = peer_node(start, server_kind, pki, {REPLICA: cert})
    master.admin.set("secret", "v")
    other = node_cert(pki, "other")
    stranger = peer_node(start, server_kind, pki, {REPLICA: cert}, replica_of(master), own=other)
    wait_until(lambda: master.counters()["refused"] >= 3, "it has tried three times")
    assert replication(stranger)["master_link_status"] == "down"
    assert stranger.admin.get("secret") is None
    assert links(master) == []
    assert "refused: untrusted_issuer (subject CN=other)" in master.server.log
    assert denials(master)[0].endswith(": untrusted_issuer")


def test_a_stolen_node_key_is_cut(server_kind: Server, start: Start, pki: Pki, cert: Cert) -> None:
    """A `revoke` line of the policy ends the link at once and refuses it from then on."""
    master = peer_node(start, server_kind, pki, {REPLICA: cert})
    replica = peer_node(start, server_kind, pki, {REPLICA: cert}, replica_of(master))
    linked(replica)
    master.patch(f"+revoke key {cert.key_id}")
    assert links(master) == []
    wait_until(lambda: master.counters()["refused_revoked"] > 0, "it is refused")
    assert replication(replica)["master_link_status"] == "down"
    master.patch(f"-revoke key {cert.key_id}")
    linked(replica)


@pytest.mark.parametrize("rule", RULES[REPLICA].split())
def test_a_replica_needs_each_of_its_rules(
    installed: Server, start: Start, pki: Pki, cert: Cert, rule: str
) -> None:
    """Without one of them ACL LOG tells of the command that was denied."""
    less = {REPLICA: RULES[REPLICA].replace(rule, "")}
    master = peer_node(start, installed, pki, {REPLICA: cert}, allowed=less)
    peer_node(start, installed, pki, {REPLICA: cert}, replica_of(master))
    wait_until(lambda: f"{REPLICA}: {rule[1:]}" in denials(master), f"{rule} was asked for")


# What no peer has any business with.
FOREIGN = (
    "GET k", "SET k v", "KEYS *", "ACL LIST", "CONFIG GET *", "CONFIG SET maxmemory 1", "FLUSHALL",
    "EVAL return(1) 0", "CLIENT LIST", "DEBUG SLEEP 0", "CERTAUTH.POLICY SHOW", "CERTAUTH.LOG",
    "CERTAUTH.POLICY LOAD 9 LINES", "MONITOR", "SAVE", "PUBLISH other x", "CLUSTER RESET",
)  # fmt: skip


@pytest.mark.parametrize("user", RULES)
def test_a_peer_may_do_nothing_else(
    server_kind: Server, start: Start, pki: Pki, cert: Cert, user: str
) -> None:
    """Anyone who holds a node's key may do what the node does, and read no key with it."""
    node = peer_node(start, server_kind, pki, {user: cert})
    with node.connect(cert) as connection:
        assert whoami(connection)["user"] == user
        for command in FOREIGN:
            if command.split()[0] in ("SET", "FLUSHALL") and "@write" in rules(user, server_kind):
                continue
            with pytest.raises(redis.ResponseError, match="NOPERM"):
                connection.command(*command.split())
        assert connection.command("PING") == b"PONG"


# A password that was there before certificates: of the master's `default`, of a user of its own,
# and of a `default` that the policy has switched off since. (Lines of the master, of the replica,
# and more policy.)
PASSWORDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "requirepass": (["requirepass old"], ["masterauth old"], []),
    "masteruser": (
        [f"user repl on >old {RULES[REPLICA]}"], ["masteruser repl", "masterauth old"], [],
    ),
    "default off": (["requirepass old"], ["masterauth old"], ["user default adopt off"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSWORDS)
def test_masterauth_left_in_place(
    server_kind: Server, start: Start, pki: Pki, cert: Cert, name: str
) -> None:
    """A replica that is bound and sends its old password as well is let in as before. (Below 7.2
    the server does not ask: with `default` off the password is wrong, and has to go first.)"""
    there, here, more = PASSWORDS[name]
    lines = policy_of(pki, *more)
    master = peer_node(start, server_kind, pki, {REPLICA: cert}, *there, lines=lines)
    replica = peer_node(start, server_kind, pki, {REPLICA: cert}, replica_of(master), *here)
    if name == "default off" and not asks(server_kind):
        wait_until(
            lambda: "Unable to AUTH to MASTER: -WRONGPASS" in replica.server.log, "it says so"
        )
        replica.call("CONFIG", "SET", "masterauth", "")
    linked(replica)
    in_step(master, replica, "k")
    master.patch(f"+revoke cert {pki.bob.fingerprint}")
    in_step(master, replica, "still there after a change of the policy")
    master.patch(f"+revoke key {cert.key_id}")
    wait_until(lambda: links(master) == [], "the password outlives no revocation")


def test_a_wrong_masterauth_stays_wrong(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """A certificate does not make a wrong password of the operator's own user right."""
    there = f"user repl on >new {RULES[REPLICA]}"
    here = ("masteruser repl", "masterauth old")
    master = peer_node(start, server_kind, pki, {REPLICA: cert}, there)
    replica = peer_node(start, server_kind, pki, {REPLICA: cert}, replica_of(master), *here)
    wait_until(lambda: "Unable to AUTH" in replica.server.log, "the replica says so")
    assert links(master) == []


def test_an_old_password_gives_no_managed_user(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """A node's AUTH makes it nobody that the policy made."""
    node = peer_node(start, server_kind, pki, {REPLICA: cert})
    for words in (("alice", "x"), ("alice", ""), ("certauth-replica", "x"), ("nobody", "x")):
        with node.connect(cert) as connection, suppress(*CLOSED, redis.ResponseError):
            connection.command("AUTH", *words)
            assert whoami(connection)["user"] == REPLICA
    assert node.outcome(pki.alice) == LOGIN


# ---- Sentinel ------------------------------------------------------------------------------------


def sentinels(stack: ExitStack, kind: Server, pki: Pki, cert: Cert, master: Node) -> list[Sentinel]:
    """Three of them, which have found one replica and each other."""
    made = [stack.enter_context(Sentinel(kind, pki, cert, master, quorum=2)) for _ in range(3)]
    wait_until(lambda: all(one.knows(1, 2) for one in made), "they have found each other", 30)
    return made


@pytest.mark.slow
def test_sentinels_fail_over_without_a_password(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """The master is killed: its replica is promoted, clients log in there by certificate, and the
    old master comes back as a replica. Every command that they are allowed is one they send."""
    watcher = sentinel_cert(pki)
    peers = {REPLICA: cert, SENTINEL: watcher}
    master = peer_node(start, server_kind, pki, peers)
    replica = peer_node(start, server_kind, pki, peers, replica_of(master))
    linked(replica)
    with ExitStack() as stack:
        three = sentinels(stack, server_kind, pki, watcher, master)
        in_step(master, replica, "before")
        ran = calls([master, replica])
        master.server.kill()
        master.server.stop()
        port = str(replica.server.port)
        wait_until(lambda: all(one.master() == port for one in three), "they agree", 60)
        assert replication(replica)["role"] == "master"
        assert who(replica.server, pki.alice) == "alice"
        ran |= calls([replica])
        master.server.start()
        linked(master, 60)
        ran |= calls([master])
        in_step(replica, master, "after")
        assert (who(master.server, pki.alice), who(master.server, pki.bob)) == ("alice", None)
        assert (denials(master)[1:], denials(replica)) == ([], [])
        allowed = {rule[1:] for rule in RULES[SENTINEL].split() if rule[0] == "+"}
        assert allowed - ran == {"script|kill"}


@pytest.mark.slow
def test_what_a_failover_writes_starts_again(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """Sentinels send CONFIG REWRITE at a failover, and write their own file: each server starts
    with its file again, in its new role and with its policy, and the Sentinel knows them."""
    watcher = sentinel_cert(pki)
    peers = {REPLICA: cert, SENTINEL: watcher}
    master = peer_node(start, server_kind, pki, peers)
    replica = peer_node(start, server_kind, pki, peers, replica_of(master))
    linked(replica)
    with Sentinel(server_kind, pki, watcher, master, quorum=1) as one:
        wait_until(lambda: one.knows(1, 0), "it has found the replica", 60)
        wait_until(lambda: one.ask("failover", "master")[0] == "OK", "it fails over", 60)
        wait_until(lambda: replication(replica)["role"] == "master", "it is promoted", 60)
        linked(master, 60)
        wait_until(lambda: f"{replica.server.port}" in rewritten(master), "it is written down", 60)
    for node in (replica, master):
        assert rewritten(node).count("loadmodule ") == 1
        keep_configuration(node.server)
        node.server.stop()
        node.server.start()
    linked(master, 60)
    assert replication(replica)["role"] == "master"
    for node in (replica, master):
        assert (who(node.server, pki.alice), who(node.server, pki.bob)) == ("alice", None)
    with one:
        port = str(replica.server.port)
        wait_until(lambda: one.knows(1, 0) and one.master() == port, "it knows them again", 60)


def rewritten(node: Node) -> str:
    return node.server.conf.read_text()


@pytest.mark.slow
def test_a_sentinel_ends_a_script_that_hangs(
    server_kind: Server, start: Start, pki: Pki, cert: Cert
) -> None:
    """It kills the script of a master that answers nobody, which it needs a rule for."""
    watcher = sentinel_cert(pki)
    peers = {REPLICA: cert, SENTINEL: watcher}
    master = peer_node(start, server_kind, pki, peers, "busy-reply-threshold 200")
    with Sentinel(server_kind, pki, watcher, master, quorum=1) as one:
        wait_until(lambda: one.knows(0, 0), "it has found the master", 30)
        with pytest.raises(redis.ResponseError, match="[Ss]cript killed"):
            master.server.admin(username="operator", password="operator", socket_timeout=30).eval(
                "while true do end", 0
            )
    assert denials(master) == []


# ---- Cluster -------------------------------------------------------------------------------------

NEWEST = {kind.name: kind for kind in servers()}


def clusters(condition: Callable[[Server], bool] = lambda _: True) -> list[Any]:
    """The newest server of each name; the others are slow tests."""
    return [
        pytest.param(
            kind, id=str(kind),
            marks=[pytest.mark.servers, *([] if kind in NEWEST.values() else [pytest.mark.slow])],
        )
        for kind in servers()
        if condition(kind)
    ]  # fmt: skip


def make_cluster(start: Start, kind: Server, pki: Pki, cert: Cert) -> Cluster:
    return Cluster(lambda *config: peer_node(start, kind, pki, {CLUSTER: cert}, *config))


@pytest.mark.parametrize("kind", clusters())
def test_a_cluster_needs_no_password(kind: Server, start: Start, pki: Pki, cert: Cert) -> None:
    """Replication, a slot that MIGRATE moves key by key, and a failover, all by certificate."""
    cluster = make_cluster(start, kind, pki, cert)
    index = cluster.owner("{a}")
    to = (index + 1) % 3
    source, target = cluster.masters[index], cluster.masters[to]
    for number in range(20):
        source.call("SET", f"{{a}}{number}", "v" * 100)
    slot = cluster.slot("{a}")
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.ids[index])
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.ids[to])
    keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
    assert len(keys) == 20
    where = ("127.0.0.1", target.server.port, "", 0, 5000, "KEYS")
    assert source.call("MIGRATE", *where, *keys) in ("OK", True)
    for node in (target, source):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", cluster.ids[to])
    assert target.call("GET", "{a}7") == "v" * 100
    takes_over(cluster)
    assert [denials(node) for node in cluster.nodes] == [[]] * 4
    assert all(node.outcome(pki.alice) == LOGIN for node in cluster.nodes)
    assert all(node.outcome(pki.bob) == refuse("gate") for node in cluster.nodes)
    # Connections of the cluster bus, which are TLS too, are taken for no client's.
    assert {node.counters()["api_certificates"] for node in cluster.nodes} == {0}


def takes_over(cluster: Cluster) -> None:
    """The master of the replica is killed."""
    cluster.masters[0].server.kill()
    cluster.masters[0].server.stop()
    promoted = cluster.replica
    wait_until(lambda: replication(promoted)["role"] == "master", "the replica takes over", 30)
    cluster.masters[0].server.start()
    linked(cluster.masters[0], 30)


def moves_whole_slots(kind: Server) -> bool:
    return kind.release >= ((9,) if kind.name == "valkey" else (8, 4))


@pytest.mark.parametrize("kind", clusters(moves_whole_slots))
def test_slots_move_at_once(kind: Server, start: Start, pki: Pki, cert: Cert) -> None:
    """Redis 8.4 and Valkey 9 move a slot as one; neither loses that to the module."""
    cluster = make_cluster(start, kind, pki, cert)
    index = cluster.owner("{a}")
    to, slot = (index + 1) % 3, cluster.slot("{a}")
    source, target = cluster.masters[index], cluster.masters[to]
    for number in range(500):
        source.call("HSET", f"{{a}}{number}", "f", "v" * 100)
    source.call("RPUSH", "{a}list", 1, 2)
    source.call("XADD", "{a}stream", "*", "f", "v")
    if kind.name == "valkey":
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.ids[to])
    else:
        target.call("CLUSTER", "MIGRATION", "IMPORT", slot, slot)
    wait_until(lambda: has_key(target, "{a}499"), "the slot has moved", 20)
    assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 502
    assert [denials(node) for node in cluster.nodes] == [[]] * 4


def has_key(node: Node, key: str) -> bool:
    with suppress(redis.ResponseError):
        return bool(node.call("HGET", key, "f"))
    return False
