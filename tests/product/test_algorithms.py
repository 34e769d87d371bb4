"""Each OpenSSL judges for itself. What that of a node, or of the control plane, does not know of a
certificate's algorithms is said by name, and refused; what that of a node knows is let in."""

import ssl
import time
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kit.browser import Browser
from tests.kit.certs import authority_line
from tests.kit.later import NOBODYS, SINCE, later_root, later_user, ml_dsa, openssl_of, renamed
from tests.kit.node import mapping, who
from tests.kit.plane import Plane, enrolled_node
from tests.kit.policies import LOGIN, Node, Start, make_node, pairs, policy_of
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server, servers
from tests.kit.support import Cert, Pki, RedisServer, wait_until

OPENSSL = ssl.OPENSSL_VERSION_INFO[:2]  # what the core here is linked with
BINDS = [f"bind cn {name} alice" for name in ("pure", "mixed", "leaf", "below", "odd")]


@dataclass
class Cast:
    """A CA of ML-DSA, and clients of it and of the usual CA."""

    pki: Pki
    root: Cert
    pure: Cert  # a key of ML-DSA, by the CA of ML-DSA
    mixed: Cert  # an EC key, by that CA
    leaf: Cert  # a key of ML-DSA, by the usual CA
    below: Cert  # all EC, below an intermediate CA whose root has a key of ML-DSA


@pytest.fixture
def cast(pki: Pki) -> Cast:
    made = later_root()
    return Cast(
        pki, made, made.issue("CN=pure", key=ml_dsa()), made.issue("CN=mixed"),
        pki.ca.issue("CN=leaf", key=ml_dsa(87)), made.authority("CN=Between").issue("CN=below"),
    )  # fmt: skip


def told(node: Node, cert: Cert) -> tuple[str, str, str]:
    """What the node explains: decision, reason, and the first line."""
    found = node.explain(cert.presented or cert.pem)
    return found["decision"], found["reason"], found["trace"][0]


def events(node: Node, kind: str) -> list[dict[str, Any]]:
    found = [mapping(one) for one in mapping(node.call("CERTAUTH.LOG"))["entries"]]
    return [one for one in found if one["event"] == kind]


def test_a_node_lets_in_what_its_openssl_knows_and_names_what_it_does_not(
    server_kind: Server, start: Start, cast: Cast
) -> None:
    """Leaves and CAs of ML-DSA, on their own and mixed with EC: where OpenSSL is new enough they
    log in, and can be revoked; elsewhere the handshake refuses them, and explain, the log and the
    counters say which algorithm is not known, and nothing else. Others log in as ever."""
    line = authority_line(cast.root)
    node = make_node(
        start, server_kind, *policy_of(cast.pki, line, *BINDS),
        pki=cast.pki, trust=[cast.pki.ca, cast.root],
    )  # fmt: skip
    assert node.outcome(cast.pki.alice) == LOGIN
    version = openssl_of(node.server)
    for name in ("pure", "mixed", "leaf", "below"):
        cert = getattr(cast, name)
        who, (decision, reason, first) = later_user(node.server, cert), told(node, cert)
        if version >= SINCE:
            assert (name, who, decision, reason) == (name, "alice", "login", "matched")
            assert first.startswith("the TLS handshake takes it")
            continue
        # A client that has no algorithm in common with the server shows no certificate.
        without = name in ("pure", "leaf")
        assert (name, who) == (name, "default" if without else "")
        said = ("leave", "no_certificate") if without else ("refuse", "unknown_algorithm")
        assert (name, decision, reason) == (name, *said)
        assert "this OpenSSL (3.0." in first
        assert "does not know ML-DSA-" in first
        assert "malformed" not in first
    if version < SINCE:
        entries = events(node, "handshake")
        assert {one["reason"] for one in entries} == {"unknown_algorithm"}
        assert all("does not know ML-DSA-65" in one["detail"] for one in entries)
        assert node.counters()["handshakes_refused_unknown_algorithm"] == 2
    else:
        node.patch(f"+revoke cert {cast.pure.fingerprint}", f"+revoke key {cast.mixed.key_id}")
        assert later_user(node.server, cast.pure) == ""
        assert later_user(node.server, cast.mixed) == ""
        assert told(node, cast.pure)[:2] == ("refuse", "revoked")
        assert later_user(node.server, cast.leaf) == "alice"
        assert pairs(node.call("CERTAUTH.POLICY", "STATUS"))["unverified"] == ""
    assert node.outcome(cast.pki.alice) == LOGIN


def test_a_ca_line_that_a_node_cannot_verify_is_told(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """In the reply to the change that brings it, in STATUS and in the log: its clients cannot come
    in here. It goes with the line, and nothing is said of CAs that can be verified."""
    strange = renamed(later_root("CN=Strange Root"))
    node = make_node(start, server_kind, *policy_of(pki), pki=pki)
    status = lambda: pairs(node.call("CERTAUTH.POLICY", "STATUS"))["unverified"]  # noqa: E731
    assert status() == ""
    reply = node.patch(f"+{authority_line(strange)}")
    text = f"does not know {NOBODYS}: nothing below the CA /CN=Strange Root can be verified here"
    assert text in reply["unverified"]
    assert reply["unverified"] == status()
    assert [one["detail"] for one in events(node, "trust")] == [reply["unverified"]]
    assert node.outcome(pki.alice) == LOGIN
    reply = node.patch(f"-{authority_line(strange)}")
    assert "unverified" not in reply
    assert status() == ""
    node.patch(f"+{authority_line(strange, 'anchor')}")
    node.server.stop()
    node.server.start()
    assert text in status()


# ---- With a control plane ------------------------------------------------------------------------

EXPLAIN = "POST /v1/certauth/explain"


@pytest.fixture
def later(plane: Plane, start: Start, cast: Cast) -> Any:
    """Alice and a user by the CA of ML-DSA, on the newest server that there is."""
    kind = servers()[-1]
    if kind == servers()[0]:
        pytest.skip("only the installed server is here")
    node = enrolled_node(start, kind, plane.config.home, cast.pki)
    plane.trust(cast.pki.ca, cast.root)
    plane.certificate_user("pure", "CN=pure", role="admin")
    plane.certificate_user("mixed", "CN=mixed", role="admin")
    plane.register(node)
    plane.in_step()
    return node


def test_explain_asks_the_servers_where_the_openssl_here_does_not_know_an_algorithm(
    plane: Plane, later: RedisServer, cast: Cast
) -> None:
    """The control plane's own OpenSSL may be older than those of the servers: what they say counts,
    and is what they do. Where none can be asked, or not of this moment, the algorithm is named, and
    nobody is told to trust a CA that is trusted already."""
    assert openssl_of(later) >= SINCE
    for cert, name in ((cast.pure, "pure"), (cast.mixed, "mixed")):
        sent = {"certificate": cert.presented.decode(), "bdb_uid": 1}
        assert later_user(later, cert) == name
        found = plane.ok(EXPLAIN, sent)
        assert (found["action"], found["user"], found["users"]) == ("login", name, [name])
        assert found["line"] == f"bind subject CN={name} {name}"
        assert "takes it" in found["trace"][0]
        assert "path: the CA with key id " + cast.root.key_id in found["trace"]
        unasked = plane.ok(EXPLAIN, {**sent, "time": int(time.time())})
        if OPENSSL >= SINCE:
            assert unasked["action"] == "login"
            continue
        text = "\n".join(unasked["trace"])
        assert (unasked["action"], unasked["reason"]) == ("refuse", "unknown_algorithm")
        assert "this OpenSSL (3.0." in text
        assert "does not know ML-DSA-" in text
        assert "vouches" not in text
        assert "ca set" not in text


def test_a_certificate_of_ml_dsa_is_revoked(plane: Plane, later: RedisServer, cast: Cast) -> None:
    """By itself, as any other: refused from then on, and explained so."""
    for cert in (cast.pure, cast.mixed):
        assert later_user(later, cert)
        sent = {"certificate": cert.presented.decode()}
        plane.ok("POST /v1/certauth/revocations", sent)
        wait_until(lambda cert=cert: not later_user(later, cert), "it is refused")
        found = plane.ok(EXPLAIN, {**sent, "bdb_uid": 1})
        assert (found["action"], found["reason"]) == ("refuse", "revoked")
    assert who(later, cast.pki.alice) == "alice"


def test_a_server_that_is_to_choose_says_among_whom(plane: Plane, cast: Cast) -> None:
    """Its answer names one user, and its line all of them."""
    if OPENSSL >= SINCE:
        pytest.skip("the OpenSSL here knows ML-DSA, so no server is asked for a decision")
    plane.trust(cast.root)
    plane.database("orders")
    takes = {"decision": "choose", "reason": "matched", "user": "a", "line": "bind cn pure a b",
             "trace": ["the TLS handshake takes it", "x"]}  # fmt: skip
    without = {**takes, "decision": "leave", "reason": "no_certificate", "user": None, "line": None,
               "trace": ["the TLS handshake is without this certificate: x", "y"]}  # fmt: skip
    plane.app.extensions["ask"] = lambda uid, question: {"old": without, "new": takes}
    found = plane.ok(EXPLAIN, {"certificate": cast.pure.presented.decode(), "bdb_uid": 1})
    assert (found["action"], found["user"], found["users"]) == ("choose", None, ["a", "b"])
    assert found["trace"] == [
        "on old, the TLS handshake is without this certificate: x",
        "on new, the TLS handshake takes it", "x",
    ]  # fmt: skip


def test_a_node_that_cannot_verify_a_ca_is_in_the_status(
    plane: Plane, start: Start, installed: Server, pki: Pki
) -> None:
    """It is in step, and clients of that CA cannot come in there: so the database's status says,
    with the algorithm and the CA, until the CA goes."""
    if OPENSSL >= SINCE:
        pytest.skip("every OpenSSL here knows it")
    node = enrolled_node(start, installed, plane.config.home, pki)
    known = later_root()
    plane.trust(pki.ca, known)
    plane.register(node)
    said = plane.says("ALGORITHM this OpenSSL (3.0.")
    assert "does not know ML-DSA-65: nothing below the CA /CN=Later Root" in said
    (shown,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    assert shown["error"].startswith("ALGORITHM ")
    plane.trust(pki.ca)
    plane.in_step()


def test_a_rest_client_of_an_unknown_algorithm_is_refused_by_name(plane: Plane, cast: Cast) -> None:
    """As on a server; and never with a 500."""
    plane.trust(cast.pki.ca, cast.root)
    plane.certificate_user("mixed", "CN=mixed", role="admin")
    answer = plane("GET /v1/users/role", cert=cast.mixed)
    if OPENSSL >= SINCE:
        assert answer.status == 200
    else:
        assert (answer.status, answer.code) == (401, "unknown_algorithm")
        assert "does not know ML-DSA-65" in answer.text


# ---- Uploads -------------------------------------------------------------------------------------

BDB = {"name": "orders", "endpoints": [{"addr": ["127.0.0.1"], "port": 6380}]}
NAMES = {20: "SLH-DSA-SHA2-128s", 99: NOBODYS}


@pytest.mark.parametrize("last", NAMES)
def test_an_upload_of_an_unknown_algorithm_is_refused_by_name(
    api: ControlPlane, admin: Browser, last: int
) -> None:
    """A CA whose key is of an algorithm that the control plane does not know is refused with its
    name wherever one is uploaded, alone or below a root; a root of ML-DSA is taken."""
    known = later_root("CN=Strange Root")
    strange = renamed(known, last)
    between = renamed(known.authority("CN=Between"), last, (strange,))
    for pem in (strange.pem, between.pem + strange.pem):
        text = f"this control plane does not know {NAMES[last]} ("
        body = {"name": "mtls_trusted_ca", "certificate": pem.decode()}
        for request, sent in (
            ("PUT /v1/cluster/update_cert", body),
            ("PUT /v1/cluster/certificates", {"certificates": [body]}),
            ("POST /v1/bdbs", {**BDB, "tls_server_ca": pem.decode()}),
            ("POST /v1/bdbs", {**BDB, "authentication_ssl_client_certs": [
                {"client_cert": pem.decode()}]}),
        ):  # fmt: skip
            answer = api(request, sent)
            assert answer.status == 400, (request, answer.text)
            assert text in answer.text
            assert "(CN=Strange Root)" in answer.text
            assert "missing" not in answer.text
        page = admin.send(admin.get("/ui/cas/"), "/ui/cas/add", pem=pem.decode())
        assert text in page.text
    api.trust(known)
    assert "BEGIN" in api.ok("GET /v1/cluster/certificates")["mtls_trusted_ca_cert"]
