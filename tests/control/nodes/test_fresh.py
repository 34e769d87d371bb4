"""What a status says is of now: the control plane comes to each node as a client does, again and
again, and who is refused is said."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from control.nodes import client, visit
from tests.kit.node import status, who
from tests.kit.plane import Plane, authority_of, enrolled_node, operator
from tests.kit.servers import Server
from tests.kit.support import CLIENT, SERVER, Pki, RedisServer, free_port, wait_until
from tests.kit.topologies import (
    KIND,
    KINDS,
    TLS_LINKS,
    MakeNode,
    address,
    events,
    finds,
    key_of,
    link,
    own_key,
    replica_of,
    said_of,
)


@pytest.fixture
def make_node(start: Any, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> MakeNode:
    """`make_node(kind, *config)`: an enrolled server with a key of its own, to which the control
    plane comes again each second instead of each minute."""
    monkeypatch.setattr(client, "RECONNECT_SECONDS", 1.0)
    monkeypatch.setattr(visit, "LINK_DOWN_SECONDS", 2.0)

    def make(kind: Server, *config: str) -> RedisServer:
        home = plane.config.home
        return enrolled_node(start, kind, home, own_key(pki), config=list(config))

    return make


def setting(server: RedisServer, name: str, value: str) -> None:
    operator(server).config_set(name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_that_clients_do_not_find_is_said(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """The connection that is open goes on, and changes arrive over it; nobody else comes in."""
    node = make_node(kind)
    plane.register(node)
    plane.in_step()
    for elsewhere in ("0", str(free_port())):
        setting(node, "tls-port", elsewhere)
        said = plane.says("HANDSHAKE a new connection fails, as a client's does")
        assert said.startswith(f"{address(node)}: HANDSHAKE")
        bob = plane.user(pki.bob, "bob")
        wait_until(lambda: "bob" in operator(node).acl_users(), "the change arrives")
        plane.ok(f"DELETE /v1/users/{bob}?wait_for_sync=5")
        assert "bob" not in operator(node).acl_users()
        setting(node, "tls-port", str(node.port))
        plane.in_step(deadline=20)


@pytest.mark.slow
def test_a_bind_that_clients_do_not_find_is_said(plane: Plane, make_node: MakeNode) -> None:
    """As a port."""
    node = make_node(KIND)
    plane.register(node)
    plane.in_step()
    setting(node, "bind", "127.0.0.2")
    plane.says("HANDSHAKE")
    setting(node, "bind", "127.0.0.1")
    plane.in_step(deadline=20)


def test_a_server_certificate_that_clients_refuse_is_said(
    plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """One that has expired, or begins by the clock of another machine, or is of another name; the
    renewed one is what its peers know it by."""
    node = make_node(KIND)
    plane.register(node)
    plane.in_step()
    for name, begin, end, words in (
        ("127.0.0.1", -9, -5, "certificate has expired"),
        ("127.0.0.1", 5, 9, "certificate is not yet valid"),
        ("127.0.0.9", -9, 9, "IP address mismatch"),
    ):
        now = datetime.now(UTC)
        bad = pki.server_ca.issue(
            "CN=bad", san=[f"ip:{name}"], eku=(SERVER, CLIENT),
            not_before=now + timedelta(minutes=begin), not_after=now + timedelta(minutes=end),
        )  # fmt: skip
        shows(node, bad)
        assert plane.says(words).startswith(f"{address(node)}: HANDSHAKE ")
    good = pki.server_ca.issue("CN=good", san=["ip:127.0.0.1"], eku=(SERVER, CLIENT))
    shows(node, good)
    plane.in_step(deadline=20)
    wait_until(lambda: plane.store.nodes.of(1)[0].key == good.key_id, "its key is known")
    shows(node, node.pki.server)  # it comes back with the old one
    wait_until(lambda: plane.store.nodes.of(1)[0].key == key_of(node), "its key is known")


def shows(server: RedisServer, cert: Any) -> None:
    crt, key = cert.files
    operator(server).config_set("tls-cert-file", crt, "tls-key-file", key)


def test_trust_that_is_no_longer_managed_is_said(plane: Plane, make_node: MakeNode) -> None:
    """Somebody takes the module's directory from the server: new clients would be refused. It is
    said until the directory is back, whatever else is the matter meanwhile."""
    node = make_node(KIND)
    plane.register(node)
    plane.in_step()
    folder = operator(node).config_get("tls-ca-cert-dir")["tls-ca-cert-dir"]
    trusted = operator(node).config_get("tls-ca-cert-file")["tls-ca-cert-file"]
    with open(trusted, "ab") as file:
        file.write((plane.config.home / "ca.crt").read_bytes())
    operator(node).config_set("tls-ca-cert-dir", "", "tls-ca-cert-file", trusted)
    assert "TRUST no longer managed: tls-ca-cert-dir is ''" in plane.says("TRUST")
    node.stop()
    plane.says("UNREACHABLE")
    node.config = [one for one in node.config if not one.startswith("tls-ca-cert-dir")]
    node.trust.append(authority_of(plane.config))
    node.start()
    plane.says("TRUST no longer managed", deadline=20)
    setting(node, "tls-ca-cert-dir", folder)
    plane.in_step(deadline=20)


def test_trust_by_hand_is_nothing_wrong(start: Any, plane: Plane, pki: Pki) -> None:
    """A node that never had a directory of ours is in step, and shows how it is."""
    home = str(plane.config.home / "bootstrap")
    node = start(KIND, pki=own_key(pki), trust=[pki.ca, authority_of(plane.config)],
                 module=("journal", "journal", "bootstrap", home),
                 config=["user operator on >operator ~* &* +@all"])  # fmt: skip
    plane.register(node)
    plane.in_step()
    (shown,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    assert shown["trust"].startswith("not managed: tls-ca-cert-dir")
    assert who(node, pki.alice) == "alice"


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_that_its_master_refuses_is_said(
    kind: Server, plane: Plane, make_node: MakeNode, pki: Pki
) -> None:
    """The key that its own links show is revoked. Without that it is linked: the key is that of
    tls-client-cert-file, which its module says and nobody has to name."""
    other = pki.server_ca.issue("CN=links", eku=(CLIENT,))
    crt, key = other.files
    shown = (f"tls-client-cert-file {crt}", f"tls-client-key-file {key}")
    master = make_node(kind, *TLS_LINKS)
    plane.register(master, allow_trust_on_internal_links=True)
    finds(plane, master)
    replica = make_node(kind, *replica_of(master), *shown)
    ends = [{"addr": ["127.0.0.1"], "port": one.port} for one in (master, replica)]
    (revoked,) = plane.ok("POST /v1/certauth/revocations", {"key": other.key_id})["revocations"]
    plane.ok("PUT /v1/bdbs/1", {"endpoints": ends})
    said = plane.says("LINK", deadline=20)
    assert said.startswith(f"{address(replica)}: LINK its link to {address(master)} is down")
    assert said_of(plane, master) == "active"
    plane.ok(f"DELETE /v1/certauth/revocations/{revoked['uid']}")
    wait_until(lambda: link(replica) == "up", "it is linked")
    plane.in_step(deadline=20)
    assert key_of(replica) in str(plane.lines())
    assert f"bind key {other.key_id} certauth-peer-replica" in plane.lines()


def test_coming_again_is_no_event(plane: Plane, make_node: MakeNode) -> None:
    """The control plane's own logins would push those of clients out of the log."""
    node = make_node(KIND)
    plane.register(node)
    plane.in_step()
    admin = operator(node)
    logins = int(admin.info("certauth")["certauth_logins"])
    wait_until(
        lambda: int(admin.info("certauth")["certauth_logins"]) >= logins + 2, "it comes again"
    )
    assert [one for one in events(plane, "client_login") if one["username"] != "alice"] == []
    assert status(admin)["owner"]
    clients = [one for one in admin.client_list() if one["user"] == "certauth-control"]
    assert len(clients) <= 2
