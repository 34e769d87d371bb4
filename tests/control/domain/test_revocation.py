"""From a revocation to the nodes: sessions end within a second on every node, resumed ones and new
ones are refused, and all others stay."""

import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from control import service
from control.domain import issuing, revocation
from control.pki import crl
from control.pki.pem import pem_to_ders
from control.policy import core
from control.store import InventoryFilter
from tests.kit import crls
from tests.kit.node import Start, reasons, who
from tests.kit.plane import SOON, Https, Plane, enrolled_node, initialised, operator
from tests.kit.servers import Server
from tests.kit.site import Site
from tests.kit.support import Cert, Pki, RedisServer, TlsConnection, TlsPeer, wait_until
from tests.kit.tls_client import RESUMPTIONS

REVOCATIONS, CRLS = "/v1/certauth/revocations", "/v1/certauth/crls"
ALICE = "CN=alice,OU=eng,O=acme"


@pytest.fixture
def plane(tmp_path: Path, pki: Pki) -> Iterator[Plane]:
    made = Plane(tmp_path)
    made.trust(pki.ca)
    yield made
    made.close()


def peer(node: RedisServer, cert: Cert, how: str) -> TlsPeer:
    version, tickets = RESUMPTIONS[how]
    made = node.tls(cert, version)
    if not tickets:
        made.context.options |= ssl.OP_NO_TICKET
    return made


def closed(connection: TlsConnection) -> bool:
    try:
        connection.command("PING")
    except redis.ResponseError:
        return False  # its session is over, and it is closed in a moment
    except OSError:
        return True
    return False


def refused(node: RedisServer, one: TlsPeer, session: ssl.SSLSession | None) -> bool:
    """Whether a connection that resumes a session gets nothing."""
    try:
        with one.connect(session) as connection:
            connection.command("PING")
    except OSError:
        return True
    except Exception as error:
        return "NOPERM" in str(error)
    return False


def test_a_revoked_certificate_ends_everywhere_and_comes_back_nowhere(
    server_kind: Server, start: Start, plane: Plane, pki: Pki
) -> None:
    """One certificate, all of a user's, a key, and a list of the CA: live sessions on two nodes are
    closed, sessions of each kind are not resumed, new connections are refused, REST logins too;
    another certificate of the same user goes on until all of them are meant."""
    nodes = [enrolled_node(start, server_kind, plane.config.home, pki) for _ in range(2)]
    plane.register(*nodes)
    uid = plane.user(pki.alice, "alice")
    others = pki.ca.issue(ALICE)
    plane.in_step()
    kinds = ("certificate", "key", "list", "user")
    with ExitStack() as stack:
        staying = [stack.enter_context(node.tls(others).connect()) for node in nodes]
        for number, kind in enumerate(kinds, 1):
            cert = pki.ca.issue(ALICE)
            peers = {(at, how): peer(node, cert, how)
                     for at, node in enumerate(nodes) for how in RESUMPTIONS}  # fmt: skip
            live: dict[tuple[int | str, str], TlsConnection] = {
                at: stack.enter_context(one.connect()) for at, one in peers.items()
            }
            for connection in live.values():
                assert connection.command("ACL", "WHOAMI") == b"alice"
            sessions = {at: connection.session for at, connection in live.items()}
            assert plane("GET /v1/users/role", cert=cert).status == 200

            began = time.monotonic()
            match kind:
                case "certificate":
                    body = {"certificate": cert.pem.decode()}
                    plane.ok(f"POST {REVOCATIONS}", body)
                case "key":
                    plane.ok(f"POST {REVOCATIONS}", {"key": cert.key_id})
                case "user":
                    wait_until(lambda c=cert: {c.fingerprint, others.fingerprint} <= known(plane),
                               "the inventory has seen both")  # fmt: skip
                    began = time.monotonic()
                    plane.ok(f"POST {REVOCATIONS}", {"user_uid": uid})
                    live |= {("other", str(at)): one for at, one in enumerate(staying)}
                case "list":
                    der = crls.crl(pki.ca, cert, number=number)
                    plane.ok(f"POST {CRLS}", {"crl": crls.text(der)})
            assert plane("GET /v1/users/role", cert=cert).code == "revoked"
            for at, connection in live.items():
                wait_until(lambda c=connection: closed(c), f"{at} is closed: {kind}", SOON)
            assert time.monotonic() - began < SOON
            for at, one in peers.items():
                assert refused(nodes[at[0]], one, sessions[at]), (kind, at)
            assert [who(node, cert) for node in nodes] == [None, None]
            for connection in staying if kind != "user" else ():
                assert connection.command("ACL", "WHOAMI") == b"alice", kind
        for node in nodes:
            assert reasons(operator(node))["revoked"] >= len(kinds) * (1 + len(RESUMPTIONS))


def known(plane: Plane) -> set[str]:
    """The certificates of alice that the inventory has, from the nodes' own logs."""
    return {
        one.cert for one in plane.store.inventory.find(InventoryFilter(of_user="alice"), limit=99)
    }


def test_an_overdue_list_that_refuses_ends_a_ca_until_the_next(
    server_kind: Server, start: Start, plane: Plane, pki: Pki
) -> None:
    """The line that does it reaches the nodes like any other, ends sessions, and goes again; what
    comes from another CA is not touched, nor is the control plane."""
    node = enrolled_node(start, server_kind, plane.config.home, pki)
    between = pki.ca.authority("CN=Between")
    plane.register(node)
    plane.user(pki.alice, "alice")
    cert = between.issue(ALICE)
    first = {"crl": crls.text(crls.crl(between, number=1)), "authorities": between.pem.decode()}
    plane.ok(f"POST {CRLS}", {**first, "stale": "refuse"})
    plane.in_step()
    with node.tls(cert).connect() as live, node.tls(pki.alice).connect() as staying:
        assert live.command("ACL", "WHOAMI") == b"alice"
        revocation.look(plane.store, lambda: (), int(time.time()) + 2 * 86400)
        wait_until(lambda: closed(live), "the session under the CA has ended", SOON)
        assert who(node, cert) is None
        assert reasons(operator(node))["ca_revoked"] >= 1
        assert staying.command("ACL", "WHOAMI") == b"alice"
        plane.ok(f"POST {CRLS}", {"crl": crls.text(crls.crl(between, number=2))})
        plane.in_step()
        assert who(node, cert) == "alice"


def test_a_large_list_reaches_a_node_and_its_next_one_is_a_line(
    installed: Server, start: Start, plane: Plane, pki: Pki
) -> None:
    """Twenty thousand entries in one write, the next list in one line each way; the session that
    it names ends."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    plane.user(pki.alice, "alice")
    many = [crls.entry(2**150 + number) for number in range(20_000)]
    revocation.take(plane.store, crls.crl(pki.ca, *many), revocation.Wish({}), int(time.time()))
    plane.in_step(deadline=30)
    with node.tls(pki.alice).connect() as live:
        assert live.command("ACL", "WHOAMI") == b"alice"
        before = plane.store.policies.target(1)
        der = crls.crl(pki.ca, *many[1:], pki.alice, number=2)
        revocation.take(plane.store, der, revocation.Wish({}), int(time.time()))
        wait_until(lambda: closed(live), "the session has ended", 2 * SOON)
        changes = plane.store.policies.changes(1, before.generation, before.digest) or ()
        sizes = [(len(one.added), len(one.removed)) for one in changes]
        assert sizes == [(1, 0), (0, 1)]  # what takes rights away goes first
    plane.in_step()


def test_the_service_publishes_its_own_list(tmp_path: Path) -> None:
    """`serve` signs the list of its CA of clients at the start and at each revocation; anybody may
    have it."""
    config = initialised(tmp_path)
    service.create_ca(config, "acme", "ec", again=False)
    (der, *_) = pem_to_ders(issuing.certificate_of((tmp_path / issuing.CLIENTS).read_text()))
    key = core.identity(der).key
    path = f"/v1/certauth/ca/{key}.crl"

    def published() -> frozenset[str]:
        with Https(config) as anybody:
            anybody.connection.request("GET", path)
            response = anybody.connection.getresponse()
            content = response.read()
        if response.status != 200:
            return frozenset({str(response.status)})
        return crl.read(content, [der], int(time.time())).serials

    with service.running(config), Https(config) as api:
        wait_until(lambda: published() == frozenset(), "the list is there")
        api(f"POST {REVOCATIONS}", {"ca": key, "serial": "0A"})
        wait_until(lambda: published() == {"0a"}, "the list has the certificate", SOON)


# ---- The commands ----


def test_the_commands_revoke_and_take_back(site: Site) -> None:
    """By file, by user, by hash and by key; what they list is what the API has."""
    site.ok("cert", "request", "--user", "alice")
    file = site.folder / "alice.crt"
    found = core.identity(file.read_bytes())
    for words, line in (
        ((str(file), "--reason", "superseded"), "revoke serial"),
        (("--user", "alice"), "revoke serial"),
        (("--fingerprint", found.cert), f"revoke cert {found.cert}"),
        (("--key-id", found.key), f"revoke key {found.key}"),
    ):
        (made,) = json.loads(site.ok("cert", "revoke", *words, "--json"))
        assert made["line"].startswith(line)
        assert json.loads(site.ok("cert", "revoked", "--json")) == [made]
        site.ok("cert", "unrevoke", made["uid"])
    assert site.ok("cert", "revoked", "--json").strip() == "[]"
    for words in ((), (str(file), "--user", "alice")):
        assert site.run("cert", "revoke", *words).exit_code == 2


def test_the_commands_for_lists(site: Site) -> None:
    """Our own list, fetched by curl, is one that we take; a file that is none says why."""
    key = core.identity(
        issuing.certificate_of((site.config.home / issuing.CLIENTS).read_text()).encode()
    ).key
    place = f"{site.url}/v1/certauth/ca/{key}"
    authority = str(site.config.home / "ca.crt")

    def fetched(kind: str) -> bool:
        name = str(site.folder / f"list.{kind}")
        fetch = ["curl", "-sS", "--fail", "--cacert", authority, "-o", name, f"{place}.{kind}"]
        return subprocess.run(fetch, capture_output=True).returncode == 0

    for kind in ("crl", "pem"):
        wait_until(lambda kind=kind: fetched(kind), "our list is there")
        made = json.loads(site.ok("crl", "import", f"list.{kind}", "--stale", "refuse", "--json"))
        assert (made["ca"], made["stale"]) == (key, "refuse")
    assert json.loads(site.ok("crl", "list", "--json")) == [made]
    changed = json.loads(site.ok("crl", "update", made["uid"], "--stale", "warn", "--json"))
    assert changed["stale"] == "warn"
    assert site.run("crl", "update", made["uid"]).exit_code == 2
    bad = site.run("crl", "import", site.config.home / "ca.crt")
    assert bad.exit_code == 1, bad.output
    assert "certificate" in bad.output
    site.ok("crl", "delete", made["uid"], "--yes")
    assert site.ok("crl", "list", "--json").strip() == "[]"
    assert "SESSIONS" in site.ok("ca", "list")
    told = json.loads(site.ok("ca", "list", "--json"))
    assert key in [one["ca"] for one in told["cas"]]
