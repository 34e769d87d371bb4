"""Sentinels know no certificates: what `redis-certauth sentinel enrol` makes of one, what is said
of one that is not enrolled, and whose word about the master counts."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.nodes import client, placement
from control.service.redis_conf import SENTINEL_RULES, sentinel_edited, sentinel_users
from tests.kit.node import status, who
from tests.kit.peers import sentinel_cert
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.servers import Server
from tests.kit.support import ROOT, Cert, Pki, RedisServer, wait_until
from tests.kit.topologies import (
    KIND,
    KINDS,
    NEWEST,
    TLS_LINKS,
    MakeNode,
    Shards,
    Watcher,
    address,
    addresses,
    ends,
    finds,
    linked,
    own_key,
    replica_of,
)

# What only an administrator may do.
FORBIDDEN = (
    "SENTINEL REMOVE master", "SENTINEL FAILOVER master", "SENTINEL SET master quorum 1",
    "SENTINEL MONITOR other 127.0.0.1 6666 1", "SENTINEL RESET *", "SENTINEL CONFIG GET *",
    "SENTINEL FLUSHCONFIG", "SHUTDOWN NOSAVE", "ACL LIST", "ACL SETUSER x on",
    "PUBLISH __sentinel__:hello x", "CLIENT KILL TYPE normal", "DEBUG SLEEP 0",
)  # fmt: skip


# ---- Its files -----------------------------------------------------------------------------------

REWRITTEN = """port 0
tls-port 26379
sentinel monitor master 10.0.0.5 6379 2
user default on nopass sanitize-payload ~* &* +@all
user monitor on #ab +ping
sentinel sentinel-pass old
"""


def test_its_configuration_has_each_line_once() -> None:
    """Users that it has written into its configuration move to the aclfile, but for `default`; a
    second time, and after the Sentinel has written its file again, there is nothing to do."""
    text, users = sentinel_edited(REWRITTEN, Path("/etc/s.acl"), "pass")
    assert text.splitlines() == [
        "port 0", "tls-port 26379", "sentinel monitor master 10.0.0.5 6379 2",
        "aclfile /etc/s.acl", "sentinel sentinel-user certauth-sentinel",
        "sentinel sentinel-pass pass",
    ]  # fmt: skip
    content = sentinel_users({"certauth-control": "x"}, users)
    lines = content.splitlines()
    assert lines[0] == "user default off resetpass"
    assert lines[-1] == "user monitor on #ab +ping"
    assert sentinel_users({"certauth-control": "x"}, content) == content
    again = 'aclfile "/etc/s.acl"\n' + text.replace("aclfile /etc/s.acl\n", "")
    assert sentinel_edited(again, Path("/etc/s.acl"), "pass") == (again, "")


def test_only_who_needs_a_secret_has_one() -> None:
    """Passwords stand in the aclfile as their hashes; what applications may read is for all whose
    certificate the handshake trusts."""
    lines = sentinel_users({"certauth-control": "x", "certauth-sentinel": "y"}).splitlines()
    passwords = {line.split()[1]: line.split()[3] for line in lines[1:]}
    assert passwords.keys() == SENTINEL_RULES.keys()
    assert passwords["certauth-application"] == "nopass"
    assert all(one.startswith("#") for name, one in passwords.items() if "application" not in name)


# ---- Real Sentinels ------------------------------------------------------------------------------


@pytest.fixture
def make_node(start: Any, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> MakeNode:
    """`make_node(kind, *config)`: an enrolled server with a key of its own. The control plane comes
    again each second, and anyone who has left, has after one."""
    monkeypatch.setattr(client, "RECONNECT_SECONDS", 1.0)
    monkeypatch.setattr(placement, "LEAVE_SECONDS", 1.0)

    def make(kind: Server, *config: str) -> RedisServer:
        home = plane.config.home
        return enrolled_node(start, kind, home, own_key(pki), config=list(config))

    return make


def comes(one: Watcher, cert: Cert, user: str = "", password: str = "any") -> redis.Redis:
    """A client of the Sentinel."""
    crt, key = cert.files
    login = {"username": user, "password": password} if user else {}
    return redis.Redis(
        host="127.0.0.1", port=one.port, ssl=True, ssl_ca_certs=str(one.directory / "ca"),
        ssl_certfile=crt, ssl_keyfile=key, decode_responses=True, retry=Retry(NoBackoff(), 0),
        **login,
    )  # fmt: skip


def ran(folder: Path, pki: Pki, word: str, ports: dict[int, int]) -> str:
    """What the snippet of docs/clients.md with this word in it prints, for alice."""
    text = (ROOT / "docs/clients.md").read_text()
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in one]
    for shown, real in ports.items():
        code = code.replace(str(shown), str(real))
    (folder / "ca.crt").write_bytes(pki.server_ca.pem)
    (folder / "alice.crt").write_bytes(pki.alice.pem)
    (folder / "alice.key").write_bytes(pki.alice.key_pem)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def at(one: Watcher) -> str:
    return f"127.0.0.1:{one.port}"


def said(plane: Plane, one: Watcher) -> str:
    """What the REST API says of a Sentinel."""
    return str(addresses(plane).get(at(one), {}).get("status", ""))


def followed(plane: Plane, *nodes: RedisServer, watchers: tuple[Watcher, ...]) -> None:
    """Waits until the database has just these, and all is well."""
    every = {*map(address, nodes), *map(at, watchers)}
    wait_until(lambda: set(addresses(plane)) == every and plane.status() == "active",
               "they are known and in step", 30)  # fmt: skip


def set_master(one: Watcher, cert: Cert, port: int) -> None:
    """As anyone who administrates an open Sentinel does it."""
    client = comes(one, cert)
    client.execute_command("SENTINEL", "REMOVE", "master")
    client.execute_command("SENTINEL", "MONITOR", "master", "127.0.0.1", port, "1")


@pytest.mark.parametrize("kind", KINDS)
def test_an_enrolled_sentinel_is_for_reading(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path
) -> None:
    """Who shows a certificate and does not log in is nobody there; an application finds master and
    replicas, and may change nothing; the control plane comes in and follows."""
    master = make_node(kind, *TLS_LINKS)
    replica = make_node(kind, *replica_of(master))
    linked(replica)
    with Watcher(kind, pki, sentinel_cert(pki), master, 1, plane) as one:
        plane.register(master, endpoints=ends(one.port), allow_trust_on_internal_links=True)
        followed(plane, master, replica, watchers=(one,))
        for words in ("PING", *FORBIDDEN):
            with pytest.raises(redis.AuthenticationError):
                comes(one, pki.alice).execute_command(*words.split())
        application = comes(one, pki.alice, "certauth-application")
        for words in FORBIDDEN:
            with pytest.raises(redis.ResponseError, match=r"no permissions|unknown command"):
                application.execute_command(*words.split())
        with pytest.raises(redis.AuthenticationError):
            comes(one, pki.alice, "certauth-control").ping()
        assert ran(tmp_path, pki, "redis.sentinel", {26379: one.port}) == "alice\n"
        assert "nothing to do" in one.enrol(plane)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_sentinel_is_said(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """Anyone whom its handshake trusts administrates it, revoked or not: the status says so until
    it is enrolled, which needs it stopped."""
    master = make_node(kind, *TLS_LINKS)
    one = Watcher(kind, pki, sentinel_cert(pki), master, 1, plane, plain=True)
    with one:
        plane.register(
            master, endpoints=ends(one.port, master.port), allow_trust_on_internal_links=True
        )
        text = plane.says("OPEN this Sentinel lets anybody whose certificate it trusts")
        assert text.startswith(f"{at(one)}: ")
        assert comes(one, pki.bob).execute_command("SENTINEL", "SET", "master", "quorum", "1")
        with pytest.raises(AssertionError, match="stop the Sentinel first"):
            one.enrol(plane)
    one.enrol(plane)
    with one:
        followed(plane, master, watchers=(one,))


@pytest.mark.parametrize(
    "named",
    [pytest.param("nobody", marks=pytest.mark.slow), "a stock server",
     pytest.param("another database's", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_forged_master_is_not_followed(
    plane: Plane, start: Any, make_node: MakeNode, pki: Pki, named: str
) -> None:
    """Somebody points an open Sentinel at another server: that one becomes no node, the true master
    keeps its policy, and the status says what the Sentinel tells clients."""
    master = make_node(KIND, *TLS_LINKS)
    others = {
        "nobody": lambda: 6666,
        "a stock server": lambda: start(KIND, pki=own_key(pki)).port,
        "another database's": lambda: registered(plane, make_node(KIND)),
    }
    with Watcher(KIND, pki, sentinel_cert(pki), master, 1, plane, plain=True) as one:
        plane.register(master, endpoints=ends(one.port), allow_trust_on_internal_links=True)
        wait_until(lambda: address(master) in addresses(plane), "the master is known")
        wait_until(lambda: who(master, pki.alice) == "alice", "it is enforced")
        port = others[named]()
        set_master(one, pki.bob, port)
        why = f"SENTINEL this Sentinel tells clients that 127.0.0.1:{port}"
        wait_until(lambda: said(plane, one).startswith(why), "the Sentinel's status says so", 20)
        assert plane.status() != "active"
        bob = plane.user(pki.bob, "bob")
        wait_until(lambda: who(master, pki.bob) == "bob", "the true master follows")
        assert status(operator(master))["owner"] != ""
        stock = [node for node in plane.store.nodes.of(1) if node.address == f"127.0.0.1:{port}"]
        assert not [node for node in stock if node.is_peer]
        plane.ok(f"DELETE /v1/users/{bob}")
        set_master(one, pki.bob, master.port)
        wait_until(lambda: said(plane, one).startswith("OPEN"), "it is followed again", 20)


def registered(plane: Plane, node: RedisServer) -> int:
    uid = plane.register(node, name="other")
    plane.in_step(uid)
    return node.port


def test_a_master_by_another_name_is_followed(plane: Plane, make_node: MakeNode, pki: Pki) -> None:
    """The Sentinel tells of a host name, the database of an address: it is one server."""
    master = make_node(KIND, *TLS_LINKS)
    one = Watcher(KIND, pki, sentinel_cert(pki), master, 1, plane)
    conf = one.directory / "conf"
    conf.write_text(
        "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        + conf.read_text().replace("monitor master 127.0.0.1", "monitor master localhost")
    )
    with one:
        plane.register(master, endpoints=ends(master.port), allow_trust_on_internal_links=True)
        finds(plane, master)
        plane.ok("PUT /v1/bdbs/1", {"endpoints": ends(master.port, one.port)})
        followed(plane, master, watchers=(one,))


def test_a_storm_of_strangers_holds_up_nobody(
    plane: Plane, make_node: MakeNode, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of servers that do not exist are named: few of them are looked at, few at a time,
    and a change arrives as fast as ever."""
    monkeypatch.setattr(placement, "MAX_STRANGERS", 50)
    master = make_node(KIND)
    plane.register(master)
    plane.in_step()
    seen = client.Node.read_info

    def storm(self: client.Node, wide: bool, name: str = "") -> Any:
        found = seen(self, wide, name)
        more = {f"127.0.0.1:{port}" for port in range(1, 3000)}
        return replace(found, names=found.names | more)

    monkeypatch.setattr(client.Node, "read_info", storm)
    wait_until(lambda: len(addresses(plane)) > 10, "strangers are named")
    for name in ("u1", "u2", "u3"):
        cert = pki.ca.issue(f"CN={name}")
        plane.user(cert, name)
        wait_until(lambda: who(master, cert) == name, "it arrives", 5)  # noqa: B023
    assert len(addresses(plane)) <= 51


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEWEST, ids=str)
def test_a_client_of_a_cluster_comes_by_certificate(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki, tmp_path: Path
) -> None:
    """It asks for the slots, and is its user on each node that it then goes to; with what
    docs/clients.md says that it needs, and not without."""
    cluster = Shards(make_node, kind)
    plane.register(cluster.nodes[0], allow_trust_on_internal_links=True)
    finds(plane, *cluster.nodes)
    ports = {6379: cluster.nodes[1].port}
    needs = "+cluster|slots +cluster|shards +readonly +command"
    rules = f"~* +set +get +acl|whoami {needs}"
    acl = plane.ok("POST /v1/redis_acls", {"name": "cluster", "acl": rules})["uid"]
    given = [{"role_uid": 1, "redis_acl_uid": acl}]
    plane.ok("PUT /v1/bdbs/1?wait_for_sync=10", {"roles_permissions": given})
    finds(plane, *cluster.nodes)
    assert ran(tmp_path, pki, "RedisCluster", ports) == "alice\n"
    plane.ok(f"PUT /v1/redis_acls/{acl}?wait_for_sync=10", {"acl": rules.replace(needs, "+ping")})
    finds(plane, *cluster.nodes)
    with pytest.raises(AssertionError, match="no permissions"):
        ran(tmp_path, pki, "RedisCluster", ports)
