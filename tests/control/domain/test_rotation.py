"""Two CAs overlap, and the old one goes when nobody needs it any more: who depends on which, and
who would be cut."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.api.app import create_app
from control.domain import rotation
from control.domain.rotation import Dependant, Use
from control.records import Trust
from control.reports import ClientCertificate, Session
from tests.kit.node import Start, who
from tests.kit.pages import page
from tests.kit.plane import SOON, Plane, enrolled_node, frozen
from tests.kit.rest import ControlPlane, peer_cert
from tests.kit.servers import Server
from tests.kit.site import COMMAND, Site, here
from tests.kit.support import Cert, Pki, root, wait_until

CAS = "/v1/certauth/ca"
UPDATE = "/v1/cluster/update_cert"
ALICE, BOB = "CN=alice,OU=eng,O=acme", "CN=bob,O=acme"


# ---- Pure ----


def use(user: str, *path: str, place: int = 0, live: bool = False) -> Use:
    return Use(user, f"{user}'s", frozenset(path), place, live)


def certificate(user: str, ca: str) -> ClientCertificate:
    return ClientCertificate(f"{user}'s", "", ca, "", "", "", user, 0, 0, 0)


def test_a_certificate_depends_on_every_ca_above_it() -> None:
    """By what is known of CAs, and by what live sessions show of those that are only presented."""
    known = {"between": frozenset({"between", "root"}), "root": frozenset({"root"})}
    sessions = [Session(1, "n:1", "carol", "c", ("lower", "upper", "root"))]
    certificates = [
        certificate("alice", "between"), certificate("bob", "lower"), certificate("dave", "x")
    ]  # fmt: skip
    found = {one.user: one.path for one in rotation.uses(certificates, sessions, known)}
    assert found["alice"] == {"between", "root"}
    assert found["bob"] == found["carol"] == {"lower", "upper", "root"}
    assert found["dave"] == {"x"}


def test_dependants_are_counted_by_user() -> None:
    """Whether somebody has nothing else is what matters when the CA goes."""
    found = [
        use("alice", "old"), use("alice", "old", live=True), use("alice", "new"),
        use("bob", "old", live=True), use("bob", "old", live=True), use("carol", "new"),
    ]  # fmt: skip
    assert rotation.dependants(found, "old") == [
        Dependant("alice", 1, 1, only=False), Dependant("bob", 0, 2, only=True),
    ]  # fmt: skip
    assert rotation.dependants(found, "none") == []


def test_only_who_had_a_way_in_and_has_none_left_is_cut(pki: Pki) -> None:
    """At the places where the trust changes. What an intermediate admits, its root does too."""
    between, other = pki.ca.authority(), root("CN=Other")
    under = use("alice", between.key_id, pki.ca.key_id)
    narrow, wide = Trust((between.der,), (pki.ca.der,)), Trust((pki.ca.der,))
    assert rotation.cut([under], narrow, wide, {0}) == []
    assert rotation.cut([under], wide, narrow, {0}) == []
    straight = use("bob", pki.ca.key_id)
    assert rotation.cut([under, straight], wide, narrow, {0}) == [straight]
    assert rotation.cut([under, straight], wide, Trust((other.der,)), {0}) == [under, straight]
    assert rotation.cut([under], wide, Trust(), {1}) == []
    assert rotation.cut([use("eve", other.key_id)], wide, Trust(), {0}) == []


def test_a_certificate_with_a_successor_holds_up_nothing(pki: Pki) -> None:
    """One for the same key, or that came since the old one was last used; from a CA that stays, and
    of the same user. A live session has none."""
    new = root("CN=New")
    before, after = Trust((pki.ca.der, new.der)), Trust((new.der,))
    old = Use("alice", "old", frozenset({pki.ca.key_id}), 0, False, "k", first=10, last=50)
    path = frozenset({new.key_id})

    def left(*others: Use) -> bool:
        return rotation.cut([old, *others], before, after, {0}) == [old]

    assert not left(Use("alice", "new", path, 0, False, "k", first=40))
    assert not left(Use("alice", "new", path, 0, False, "other", first=60))
    assert left(Use("alice", "new", path, 0, False, "other", first=40))
    assert left(Use("bob", "new", path, 0, False, "k", first=60))
    assert left(Use("alice", "new", path, 0, True, "", first=60))
    session = Use("alice", "old", frozenset({pki.ca.key_id}), 0, True)
    renewed = Use("alice", "new", path, 0, False, "k", first=60)
    assert rotation.cut([old, session, renewed], before, after, {0}) == [session]


# ---- The REST API ----


def pem(*cas: Cert, **more: Any) -> dict[str, Any]:
    """More trust is meant, unless said otherwise."""
    text = "".join(ca.pem.decode() for ca in cas)
    return {"name": "mtls_trusted_ca", "certificate": text, "trust_grows": True, **more}


def seen(cert: Cert, user: str, bdb_uid: int = 0) -> ClientCertificate:
    """A good certificate as the inventory has it after a login at a place."""
    return ClientCertificate(
        cert.fingerprint, cert.key_id, cert.above[0].key_id, "", cert.serial, "", user, 0,
        int(time.time()) + 1000, 0, bdb_uid=bdb_uid,
    )  # fmt: skip


def of(answer: Any, ca: Cert) -> Any:
    return next(one for one in answer["cas"] if one["ca"] == ca.key_id)


def test_each_ca_tells_who_depends_on_it(api: ControlPlane, pki: Pki) -> None:
    """Where it is trusted, as what, and who has certificates of it; nobody of a new one."""
    new, other = root("CN=New"), root("CN=Other")
    api.trust(pki.ca, new)
    api.database("orders", 6380)
    chain = other.authority("CN=Between").pem.decode() + other.pem.decode()
    api.database("own", 6381, authentication_ssl_client_certs=[{"client_cert": chain}])
    api.store.inventory.record_seen(seen(pki.alice, "alice"), seen(pki.ca.issue(BOB), "bob", 1))
    answer = api.ok(f"GET {CAS}")
    old = of(answer, pki.ca)
    assert (old["users"], old["certificates"], old["sessions"]) == (2, 2, 0)
    assert [one["user"] for one in old["who"]] == ["alice", "bob"]
    assert all(one["only"] for one in old["who"])
    assert (old["subject"], old["admits"], old["anchors"]) == ("CN=Root CA,O=acme", [0, 1], [])
    assert of(answer, new) | {"not_after": ""} == {
        "ca": new.key_id, "subject": "CN=New", "not_after": "", "admits": [0, 1], "anchors": [],
        "users": 0, "certificates": 0, "sessions": 0, "who": [],
    }  # fmt: skip
    assert (of(answer, other)["admits"], of(answer, other)["anchors"]) == ([], [2])
    assert answer["silent"] == []


def test_each_pinned_certificate_tells_who_depends_on_it(api: ControlPlane, pki: Pki) -> None:
    """Where it is pinned, and who is known by it alone; it is not a CA, and its CA is not
    trusted."""
    other = root("CN=Other")
    leaf, alone = other.issue(ALICE), root("CN=device")
    api.trust(pki.ca)
    certs = [{"client_cert": one.pem.decode()} for one in (leaf, alone)]
    api.database("own", 6381, authentication_ssl_client_certs=certs,
                 pinned_certificates=[alone.fingerprint])  # fmt: skip
    api.store.inventory.record_seen(
        replace(seen(leaf, "alice", 1), last_login=1), replace(seen(pki.bob, "bob"), last_login=1)
    )
    found = api.ok(f"GET {CAS}")
    assert [one["subject"] for one in found["cas"]] == ["CN=Root CA,O=acme"]
    pins = {one["cert"]: one for one in found["pins"]}
    assert pins.keys() == {leaf.fingerprint, alone.fingerprint}
    assert pins[leaf.fingerprint]["pinned"] == pins[alone.fingerprint]["pinned"] == [1]
    assert pins[leaf.fingerprint]["who"] == [
        {"user": "alice", "certificates": 1, "sessions": 0, "only": True}
    ]
    assert pins[alone.fingerprint]["who"] == []
    api.ok("PUT /v1/bdbs/1?force", {"authentication_ssl_client_certs": certs[1:]})
    assert [one["cert"] for one in api.ok(f"GET {CAS}")["pins"]] == [alone.fingerprint]


def test_a_ca_in_use_goes_only_by_force(api: ControlPlane, pki: Pki) -> None:
    """By each call that could take it away; the refusal says who. A rehearsal says so too. Adding
    one, and taking away one that nobody uses, needs no force."""
    new = root("CN=New")
    api.trust(pki.ca)
    api.store.inventory.record_seen(seen(pki.alice, "alice"))
    api.ok(f"PUT {UPDATE}", pem(pki.ca, new))
    api.ok(f"PUT {UPDATE}", pem(pki.ca))
    for request, body in (
        (f"PUT {UPDATE}", pem(new)),
        (f"PUT {UPDATE}?dry_run", pem(new)),
        ("PUT /v1/cluster/certificates", {"certificates": [pem(new)]}),
        ("DELETE /v1/cluster/certificates/mtls_trusted_ca", None),
    ):
        answer = api(request, body)
        assert (answer.status, answer.code) == (406, "ca_in_use")
        assert "alice (1 certificates, 0 live sessions)" in answer.text
    assert of(api.ok(f"GET {CAS}"), pki.ca)
    made = api.ok("POST /v1/certauth/revocations", {"cert": pki.alice.fingerprint})["revocations"]
    api.ok(f"PUT {UPDATE}?dry_run", pem(new))  # a certificate that is revoked needs no CA
    api.ok(f"DELETE /v1/certauth/revocations/{made[0]['uid']}")
    api.ok(f"PUT {UPDATE}?force", pem(new))
    event = [one for one in api.ok("GET /v1/logs") if one["type"] == "ca_removed_in_use"]
    assert [one["users"] for one in event] == [["alice"]]
    api.ok("DELETE /v1/cluster/certificates/mtls_trusted_ca")


def test_a_database_loses_its_own_ca_only_by_force(api: ControlPlane, pki: Pki) -> None:
    """Anyone who logged in there; others' logins there do not count for the cluster's CA."""
    own = root("CN=Own")
    api.trust(pki.ca)
    api.database(authentication_ssl_client_certs=[{"client_cert": own.pem.decode()}])
    api.store.inventory.record_seen(seen(own.issue(ALICE), "alice", 1))
    change = {"authentication_ssl_client_certs": [], "trust_grows": True}
    answer = api("PUT /v1/bdbs/1", change)
    assert (answer.status, answer.code) == (406, "ca_in_use")
    assert "alice" in answer.text
    api.ok("PUT /v1/bdbs/1", {"default_user": True})
    api.ok("PUT /v1/bdbs/1?force", change)
    api.ok("DELETE /v1/cluster/certificates/mtls_trusted_ca")


# ---- On nodes ----


class Rotating(Plane):
    """With the sessions of its nodes, as the service has them."""

    def open(self) -> None:
        super().open()
        self.app = create_app(self.store, peer_cert, ask=self.worker.ask)
        self.client = self.app.test_client()


@pytest.fixture
def plane(tmp_path: Path, pki: Pki) -> Iterator[Rotating]:
    made = Rotating(tmp_path)
    made.trust(pki.ca)
    yield made
    made.close()


def test_live_sessions_keep_their_ca(
    server_kind: Server, start: Start, plane: Rotating, pki: Pki
) -> None:
    """Two CAs overlap on real nodes: the old one is held by who is connected, under intermediates
    that nobody uploaded too; once the sessions have moved, it goes, and cuts nobody."""
    nodes = [enrolled_node(start, server_kind, plane.config.home, pki) for _ in range(2)]
    plane.register(*nodes)
    plane.user(pki.alice, "alice")
    new = root("CN=New")
    below = pki.ca.authority("CN=Presented").issue(ALICE)
    plane.ok(f"PUT {UPDATE}", pem(pki.ca, new))
    plane.in_step()
    with ExitStack() as stack:
        moved = stack.enter_context(nodes[0].tls(new.issue(ALICE)).connect())
        assert moved.command("ACL", "WHOAMI") == b"alice"
        with nodes[0].tls(pki.alice).connect() as one, nodes[1].tls(below).connect() as two:
            assert one.command("ACL", "WHOAMI") == two.command("ACL", "WHOAMI") == b"alice"
            answer = plane.ok(f"GET {CAS}")
            assert (of(answer, pki.ca)["sessions"], of(answer, new)["sessions"]) == (2, 1)
            assert of(answer, pki.ca)["who"][0]["user"] == "alice"
            refusal = plane(f"PUT {UPDATE}", pem(new))
            assert (refusal.status, refusal.code) == (406, "ca_in_use")
            assert "alice" in refusal.text
            assert "2 live sessions" in refusal.text
            assert one.command("ACL", "WHOAMI") == b"alice"

        ended = int(time.time())
        wait_until(lambda: int(time.time()) > ended, "the next second has begun")
        newer = stack.enter_context(nodes[1].tls(new.issue(ALICE)).connect())
        assert newer.command("ACL", "WHOAMI") == b"alice"

        def told() -> bool:
            """Each node's log is read by itself: that she has come with a newer one since."""
            known = plane.ok("GET /v1/certauth/certificates?user=alice")
            return len(known) == 4 and of(plane.ok(f"GET {CAS}"), pki.ca)["sessions"] == 0

        wait_until(told, "the sessions under the old CA have ended", SOON)
        plane.ok(f"PUT {UPDATE}", pem(new))
        plane.in_step()
        assert moved.command("ACL", "WHOAMI") == b"alice"
        assert who(nodes[0], pki.alice) is None


def test_a_ca_that_is_taken_away_lets_nobody_in_again(
    server_kind: Server, start: Start, plane: Rotating, pki: Pki
) -> None:
    """The attack: an intermediate was stolen, and an administrator removes it; its root stays in
    the list. Any client that holds a leaf of it brings it along in the handshake. Neither that leaf
    nor those of any other CA of that root come in."""
    stolen, sister = pki.ca.authority("CN=Stolen"), pki.ca.authority("CN=Sister")
    leaf, other, straight = stolen.issue(ALICE), sister.issue(ALICE), pki.alice
    node = enrolled_node(start, server_kind, plane.config.home, pki)
    plane.register(node)
    plane.user(pki.alice, "alice")
    plane.ok("DELETE /v1/cluster/certificates/mtls_trusted_ca")
    plane.ok(f"PUT {UPDATE}", pem(stolen, pki.ca, trust_grows=False))
    plane.in_step()
    assert who(node, leaf) == "alice"
    assert who(node, other) is who(node, straight) is None
    plane.ok(f"PUT {UPDATE}?force", pem(pki.ca, trust_grows=False))
    plane.in_step()
    assert [who(node, one) for one in (leaf, other, straight)] == [None] * 3
    # Also under a root that clients come from, since somebody has said so.
    wide = pem(pki.ca, client_cas=[pki.ca.key_id])
    assert plane(f"PUT {UPDATE}", wide | {"trust_grows": False}).code == "trust_grows"
    plane.ok(f"PUT {UPDATE}", wide)
    plane.in_step()
    assert [who(node, one) for one in (leaf, other, straight)] == [None, "alice", "alice"]
    assert "revoke key " + stolen.key_id in plane.lines()
    # Until it is said to be trusted again.
    again = pem(stolen, pki.ca)
    assert "taken away before" in plane(f"PUT {UPDATE}", again | {"trust_grows": False}).text
    plane.ok(f"PUT {UPDATE}", again)
    plane.in_step()
    assert [who(node, one) for one in (leaf, other, straight)] == ["alice"] * 3


def test_a_node_that_does_not_answer_is_named(
    installed: Server, start: Start, plane: Rotating, pki: Pki
) -> None:
    """Its sessions are not known, which is not the same as none."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    plane.in_step()
    with frozen(node):
        assert plane.ok(f"GET {CAS}")["silent"] == [f"127.0.0.1:{node.port}"]
    wait_until(lambda: plane.ok(f"GET {CAS}")["silent"] == [], "it answers again", 30)


# ---- The paper ----


def test_the_rotation_of_the_paper(
    site: Site,
    installed: Server,
    start: Start,
    pki: Pki,
) -> None:
    """The commands of docs/howto-rotate-ca.md, beside a server: the last is refused while alice is
    connected by her old certificate, and then cuts nobody."""
    block = page("docs/howto-rotate-ca.md").split("```sh\n")[1].split("```")[0]
    commands = block.replace("/var/lib/certauth", str(site.config.home)).splitlines()
    node = enrolled_node(start, installed, site.config.home, pki)
    endpoint = {"addr": ["127.0.0.1"], "port": node.port}
    site.api(
        "POST /v1/bdbs",
        {
            "name": "orders", "endpoints": [endpoint], "tls_mode": "enabled",
            "tls_server_ca": pki.server_ca.pem.decode(),
            "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
        },
    )  # fmt: skip
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "the node is in step")
    site.ok("cert", "request", "--user", "alice")

    def run(command: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", command], cwd=site.folder, env={**os.environ, "PATH": path},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    with node.tls(here(site)).connect() as live:
        assert live.command("ACL", "WHOAMI") == b"alice"
        done = [run(command) for command in commands]
        assert [one.returncode for one in done] == [0] * (len(commands) - 1) + [1], done
        assert "alice (0 certificates, 1 live sessions)" in done[-1].stderr
        assert live.command("ACL", "WHOAMI") == b"alice"

    def last() -> bool:
        return run(commands[-1]).returncode == 0

    wait_until(last, "the old CA goes once the session has ended", 20)
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "the node has followed")
    assert who(node, here(site)) == "alice"
