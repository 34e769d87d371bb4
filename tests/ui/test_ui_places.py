"""control/ui: sessions, explain, certificates and audit, on a real server; and the calls of the API
that they need."""

from pathlib import Path
from typing import Any

import pytest
import redis

from control import service
from control.domain import issuing
from control.domain.issuing import Authority
from control.pki.request import new_request
from control.policy import core
from tests.kit.browser import Browser
from tests.kit.node import Start
from tests.kit.plane import Plane, enrolled_node
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until


@pytest.fixture
def node(plane: Plane, start: Start, installed: Server, pki: Pki) -> RedisServer:
    """A server that knows alice."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    return server


def logged_in(plane: ControlPlane) -> Browser:
    browser = Browser(plane)
    browser.log_in()
    return browser


def test_a_session_is_seen_and_ended(plane: Plane, node: RedisServer, pki: Pki) -> None:
    """With its user, its certificate and its address; another number, or another certificate under
    that number, ends nothing."""
    alice = node.tls(pki.alice).connect()
    assert alice.command("ACL", "WHOAMI") == b"alice"
    (told,) = plane.ok("GET /v1/certauth/sessions?user=alice")["sessions"]
    assert (told["user"], told["cert"]) == ("alice", core.identity(pki.alice.pem).cert)
    assert plane.ok("GET /v1/certauth/sessions?user=bob&bdb=1")["sessions"] == []
    sent = {name: told[name] for name in ("bdb_uid", "node", "id", "cert")}
    for wrong in ({"cert": "0" * 64}, {"cert": ""}, {"id": told["id"] + 1000}, {"node": "x:1"}):
        assert plane("DELETE /v1/certauth/sessions", {**sent, **wrong}).status == 404
    assert alice.command("ACL", "WHOAMI") == b"alice"
    browser = logged_in(plane)
    page = browser.get("/ui/sessions/?user=alice")
    assert f"alice orders, {told['node']} 127.0.0.1 CN=alice,OU=eng,O=acme" in page.text
    page = browser.send(page, "/ui/sessions/end")
    assert f"The session {told['id']} on {told['node']} is ended." in page.text
    assert "Nobody is connected as alice" in browser.get("/ui/sessions/?user=alice").text
    with alice, pytest.raises(ConnectionError):
        alice.command("PING")
    (event,) = plane.ok("GET /v1/logs?type=session_ended")
    assert (event["node"], event["originating_username"]) == (told["node"], "admin")


def test_a_refused_login_leads_to_its_explanation(
    plane: Plane, node: RedisServer, pki: Pki
) -> None:
    """By one link of the audit: the decision is the server's."""
    with pytest.raises(redis.ConnectionError):
        node.client(pki.bob).ping()
    wait_until(lambda: plane.ok("GET /v1/logs?type=client_refused"), "the refusal is told")
    browser = logged_in(plane)
    page = browser.get("/ui/audit/?kind=client_refused,login_failed")
    assert "no_binding" in page.text
    link = page.html.partition('<a href="/ui/explain/?')[2].partition('"')[0]
    page = browser.get("/ui/explain/?" + link.replace("&amp;", "&"))
    assert "A client showed CN=bob,OU=eng,O=acme from 127.0.0.1." in page.text
    assert "is refused : no_binding" in page.text
    assert "redis-certauth user identity add <user> --subject 'CN=bob,OU=eng,O=acme'" in page.text
    plane.user(pki.bob, "bob")
    page = browser.get("/ui/explain/?" + link.replace("&amp;", "&"))
    assert "logs in as bob : matched" in page.text


def test_what_a_change_ends_is_shown_first(plane: Plane, node: RedisServer, pki: Pki) -> None:
    """The session of a user that goes, before it goes."""
    alice = node.tls(pki.alice).connect()
    assert alice.command("ACL", "WHOAMI") == b"alice"
    browser = logged_in(plane)
    page = browser.send(browser.get("/ui/users/2"), "/ui/users/2/remove")
    assert "1 session ends on" in page.text
    assert "alice 127.0.0.1 CN=alice,OU=eng,O=acme refuse: no_binding" in page.text
    assert alice.command("ACL", "WHOAMI") == b"alice"
    assert "was removed." in browser.send(page, "/ui/users/2/remove").text
    with alice, pytest.raises(ConnectionError):
        alice.command("PING")


def test_a_server_that_is_silent_is_named(plane: Plane, node: RedisServer) -> None:
    """On its database, on the overview, and among the sessions."""
    node.stop()
    plane.says("UNREACHABLE")
    browser = logged_in(plane)
    address = f"127.0.0.1:{node.port}"
    assert f"broken orders, {address}: UNREACHABLE" in browser.get("/ui/").text
    assert "UNREACHABLE" in browser.get("/ui/databases/1").text
    assert f"orders, {address} does not say" in browser.get("/ui/sessions/").text


# ---- Without a server ----------------------------------------------------------------------------


def test_explain_says_what_the_api_says(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """On each database and here; a file does as well as a text; what is not a certificate is
    said."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice,OU=eng,O=acme", role="admin")
    grant = {"role_uid": 1, "redis_acl_uid": 1}
    api.database(tls_mode="enabled", roles_permissions=[grant])
    page = admin.send(admin.get("/ui/explain/"), "/ui/explain/", pem=pki.alice.pem.decode())
    said = api.ok(
        "POST /v1/certauth/explain", {"certificate": pki.alice.pem.decode(), "bdb_uid": 1}
    )
    assert page.html.count('<ol class="steps">') == 2
    assert page.text.count("logs in as alice : matched") == 2
    assert all(step in page.text for step in said["trace"])
    for sent in ({"pem": ""}, {"pem": "x"}, {"pem": pki.alice.pem.decode(), "address": "x"}):
        page = admin.send(admin.get("/ui/explain/"), "/ui/explain/", **sent)
        assert (page.status, "It cannot be explained" in page.text) == (400, True)
    assert admin.get("/ui/explain/?cert=x").status == 400


def test_what_the_log_knows_is_explained_on_a_database_only(api: ControlPlane, pki: Pki) -> None:
    """The REST API's own decision needs the certificate."""
    api.trust(pki.ca)
    api.database(tls_mode="enabled")
    found = core.identity(pki.bob.pem)
    known = {"subject": found.subject, "serial": found.serial, "cert": found.cert,
             "key": found.key, "ca": pki.ca.key_id}  # fmt: skip
    told = api.ok("POST /v1/certauth/explain", {"known": known, "bdb_uid": 1})
    assert told["reason"] == "no_binding"
    api.ok(
        "POST /v1/users",
        {
            "name": "pod",
            "auth_method": "certificate",
            "role_uids": [4],
            "certificate_identities": [{"uri": "urn:pod"}, {"ip": "10.0.0.1"}],
        },
    )
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [{"role_uid": 4, "redis_acl_uid": 2}]})
    for sans, reason in (
        (["uri:urn:pod"], "matched"), (["ip:10.0.0.1"], "matched"), (["uri:urn:x"], "no_binding"),
        (["uri:urn:pod", "uri:urn:x"], "ambiguous"), (["uri:urn:pod", "..."], "no_binding"),
    ):  # fmt: skip
        more = {"known": {**known, "subject": "", "sans": sans}, "bdb_uid": 1}
        assert api.ok("POST /v1/certauth/explain", more)["reason"] == reason, sans
    del known["ca"]
    told = api.ok("POST /v1/certauth/explain", {"known": known, "bdb_uid": 1})
    assert told["reason"] == "untrusted_issuer"
    assert api("POST /v1/certauth/explain", {"known": known}).status == 404
    assert api("POST /v1/certauth/explain", {"bdb_uid": 1}).code == "missing_field"
    bad = {**known, "subject": "no name"}
    assert api("POST /v1/certauth/explain", {"known": bad, "bdb_uid": 1}).status == 400


def test_a_certificate_is_issued_and_revoked(
    api: ControlPlane, admin: Browser, pki: Pki, tmp_path: Path
) -> None:
    """From a CSR; it is revoked with a reason, that is taken back, and then all of the user are."""
    issuing.create(tmp_path, "acme", "", "ec", lambda pem: service.trust_too(api.store, pem))
    api.app.extensions["authority"] = Authority(tmp_path, lambda: "")
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    api.certificate_user("carol", "CN=carol,O=acme", role="cluster_viewer")
    request = new_request("ec")
    page = admin.send(admin.get("/ui/certificates/"), "/ui/certificates/", csr="x", user="carol")
    assert page.status == 400
    assert "No certificate was issued" in page.text
    page = admin.send(page, "/ui/certificates/", csr=request.certificate, user="carol")
    assert "It is issued: CN=carol,O=acme" in page.text
    assert "-----BEGIN CERTIFICATE-----" in page.text
    (known,) = api.ok("GET /v1/certauth/certificates?user=carol")
    address = f"/ui/certificates/{known['cert']}"
    page = admin.get(address)
    assert admin.get(f"{address}/pem").html.startswith("-----BEGIN CERTIFICATE-----")
    page = admin.send(page, f"{address}/revoke", reason="superseded")
    assert page.title == "Revoke CN=carol,O=acme?"
    page = admin.send(page, f"{address}/revoke")
    assert "CN=carol,O=acme is revoked." in page.text
    (revoked,) = api.ok("GET /v1/certauth/revocations")
    assert revoked["reason"] == "superseded"
    address = f"/ui/certificates/revocations/{revoked['uid']}/restore"
    page = admin.send(admin.send(page, address), address)
    assert "The revocation is taken back." in page.text
    assert api.ok("GET /v1/certauth/revocations") == []
    page = admin.send(admin.get("/ui/users/2"), "/ui/certificates/of/2/revoke")
    page = admin.send(page, "/ui/certificates/of/2/revoke")
    assert "All certificates of carol are revoked." in page.text


def test_who_manages_nobody_gets_one_for_oneself_only(api: ControlPlane) -> None:
    """The form has no place for another name, and the API refuses one."""
    bob = api.password_user("bob", "none")
    browser = Browser(api)
    browser.log_in(*bob)
    page = browser.get("/ui/certificates/")
    assert page.status == 200
    assert "user" not in page.form("/ui/certificates/")
    page = browser.send(page, "/ui/certificates/", csr="x", user="admin")
    assert page.status in (403, 406)
    assert "No certificate was issued" in page.text


def test_the_log_is_filtered_in_the_database(api: ControlPlane, admin: Browser) -> None:
    """By beginnings of types, and by who did it or whom it is about."""
    api.password_user("bob", "admin")
    api.ok("POST /v1/roles", {"name": "ops"}, auth=("bob", "bob's"))
    api.ok("POST /v1/roles", {"name": "dev"})
    types = [one["type"] for one in api.ok("GET /v1/logs?user=bob")]
    assert types == ["user_created", "login", "role_created"]
    assert len(api.ok("GET /v1/logs?type=role_")) == 2
    assert len(api.ok("GET /v1/logs?type=role_,user_")) == 3
    assert api.ok("GET /v1/logs?type=%25") == []
    page = admin.get("/ui/audit/?type=role_&user=bob")
    assert page.html.count('<th scope="row">') == 1
    assert admin.get("/ui/audit/?since=x").status == 400
    assert 'http-equiv="refresh"' not in page.html
    assert 'http-equiv="refresh" content="5"' in admin.get("/ui/audit/?follow=on").html


def test_history_counts_what_the_log_has(api: ControlPlane, admin: Browser) -> None:
    """Logins and refusals by reason and span; the overview shows the sums."""
    for _ in range(3):
        assert api("GET /v1/users", auth=("nobody", "x")).status == 401
    found = api.ok("GET /v1/certauth/history")
    counts: dict[str, int] = {}
    for one in found:
        counts[one["reason"]] = counts.get(one["reason"], 0) + one["count"]
    events: list[Any] = api.ok("GET /v1/logs?type=login")
    assert counts["invalid_credentials"] == 3
    assert counts[""] == sum(one["type"] == "login" for one in events)
    assert api.ok("GET /v1/certauth/history?etime=2020-01-01") == []
    for query in ("step=0", "step=1&stime=2020-01-01", "stime=2999-01-01", "step=x"):
        assert api(f"GET /v1/certauth/history?{query}").status == 400, query
    page = admin.get("/ui/")
    assert f"{counts['']} logins, 3 refusals" in page.text
    assert "invalid_credentials 3" in page.text
