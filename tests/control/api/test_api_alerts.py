"""control/api/alerts.py, control/api/bdb_certificates.py: certificates that end, and those that the
servers of a database show."""

from typing import Any

import pytest

from control.reports import Node
from tests.kit.rest import ControlPlane
from tests.kit.support import Cert, Pki, days, root

CERTS, CAS = "cluster_certs_about_to_expire", "cluster_ca_cert_about_to_expire"


def show(api: ControlPlane, cert: Cert, address: str = "127.0.0.1:6380", bdb: int = 1) -> None:
    """A server of a database shows this certificate."""
    others = [one for one in api.store.nodes.of(bdb) if one.address != address]
    node = Node(bdb, address, 1, True, certificate=cert.pem.decode())
    api.store.nodes.report(bdb, [*others, node])


def test_a_ca_that_ends_soon_is_an_alert(api: ControlPlane) -> None:
    """As soon as `alert_settings` say; where the alert is not enabled only for who asks."""
    off = api.ok("GET /v1/cluster/alerts")
    assert {name: off[name]["state"] for name in (CERTS, CAS)} == {CERTS: False, CAS: False}
    api.trust(root("CN=Old", not_after=days(60)), root("CN=New", not_after=days(600)))
    on = api.ok(f"GET /v1/cluster/alerts/{CAS}")
    assert (on["state"], on["enabled"], on["threshold"], on["severity"]) == (
        True, True, "90", "WARNING",
    )  # fmt: skip
    assert [one["name"] for one in on["change_value"]["certificates"]] == ["CN=Old"]
    assert api.ok("GET /v1/cluster/alerts")[CAS] == on
    api.ok("PUT /v1/cluster", {"alert_settings": {CAS: {"threshold": "30"}}})
    assert api.ok(f"GET /v1/cluster/alerts/{CAS}")["state"] is False
    api.ok("PUT /v1/cluster", {"alert_settings": {CAS: {"enabled": False, "threshold": "90"}}})
    assert api.ok(f"GET /v1/cluster/alerts/{CAS}")["change_value"]["certificates"] == []
    assert api.ok(f"GET /v1/cluster/alerts/{CAS}?ignore_settings")["state"] is True


def test_what_a_server_shows_is_among_the_certificates(api: ControlPlane, pki: Pki) -> None:
    """By database and server; one that has ended too."""
    api.database()
    show(api, pki.server_ca.issue("CN=s", not_before=days(-9), not_after=days(-1)))
    (one,) = api.ok(f"GET /v1/cluster/alerts/{CERTS}")["change_value"]["certificates"]
    assert one["name"] == "orders 127.0.0.1:6380"
    show(api, pki.server_ca.issue("CN=s", not_after=days(21)))
    assert api.ok(f"GET /v1/cluster/alerts/{CERTS}")["state"] is False


def test_an_alert_that_there_is_not_is_a_404(api: ControlPlane) -> None:
    assert api("GET /v1/cluster/alerts/node_memory").status == 404
    nobody = api.password_user("n", "none")
    assert api("GET /v1/cluster/alerts", auth=nobody).status == 403


@pytest.mark.parametrize(
    "sent",
    [{CAS: {"threshold": 90}}, {CAS: {"threshold": "-1"}}, {CAS: {"threshold": "x"}}, {CAS: True},
     {CAS: {"enabled": "yes"}}, {"no_such_alert": True}, [], None],
)  # fmt: skip
def test_settings_of_alerts_are_kept_or_refused(api: ControlPlane, sent: Any) -> None:
    """Those of other alerts are ignored by name; a misspelt one is refused."""
    before = api.ok("GET /v1/cluster")["alert_settings"]
    assert api("PUT /v1/cluster", {"alert_settings": sent}).status == 400
    assert api.ok("GET /v1/cluster")["alert_settings"] == before
    shown = api.ok("PUT /v1/cluster", {"alert_settings": {"node_memory": {"enabled": True}}})
    assert (shown["ignored"], shown["alert_settings"]) == (["node_memory"], before)


# ---- Certificates of servers ---------------------------------------------------------------------


def test_the_certificates_of_a_database_are_those_of_its_servers(
    api: ControlPlane, pki: Pki
) -> None:
    """The certificate that ends first, and all; from all databases, as the query wants them."""
    api.database()
    assert api("GET /v1/bdbs/1/certificates").code == "not_found"
    late = pki.server_ca.issue("CN=late", not_after=days(300))
    soon = pki.server_ca.issue("CN=soon", not_after=days(3))
    show(api, late)
    show(api, soon, "127.0.0.1:6381")
    found = api.ok("GET /v1/bdbs/1/certificates")
    assert (found["bdb_uid"], found["cert"]) == ("1", soon.pem.decode())
    assert found["not_before"] < found["not_after"]
    assert [one["address"] for one in found["servers"]] == ["127.0.0.1:6380", "127.0.0.1:6381"]
    assert api.ok("GET /v1/bdbs/certificates") == found["servers"]
    until = found["not_after"]
    ending = api.ok(f"GET /v1/bdbs/certificates?expires_before={until}")
    assert [one["address"] for one in ending] == ["127.0.0.1:6381"]
    assert api.ok("GET /v1/bdbs/certificates?tls_mode=enabled") == []
    assert api.ok("GET /v1/bdbs/certificates?page=2&page_size=1") == found["servers"][1:]
    for query in ("tls_mode=on", "page=0", "expires_before=soon", "page_size=-1"):
        assert api(f"GET /v1/bdbs/certificates?{query}").status == 400
    assert api("GET /v1/bdbs/2/certificates").status == 404


def test_a_servers_key_is_not_taken(api: ControlPlane, pki: Pki) -> None:
    """406 that says where it is made; 404 where there is no such database."""
    api.database()
    sent = {"cert": pki.server.pem.decode(), "private_key": pki.server.key_pem.decode()}
    for call in ("POST", "DELETE"):
        answer = api(f"{call} /v1/bdbs/1/certificates", sent if call == "POST" else None)
        assert (answer.status, answer.code) == (406, "server_certificates_not_managed")
        assert api(f"{call} /v1/bdbs/2/certificates").status == 404


def test_a_role_for_some_databases_sees_their_certificates(api: ControlPlane, pki: Pki) -> None:
    api.database()
    api.database("carts", 6381)
    show(api, pki.server, "127.0.0.1:6380")
    show(api, pki.server, "127.0.0.1:6381", 2)
    only = {"name": "two", "management": "db_viewer", "resources": [{"type": "db", "uids": ["2"]}]}
    role = api.ok("POST /v1/roles", only)["uid"]
    api.ok("POST /v1/users", {"name": "u", "password": "u's", "role_uids": [role]})
    seen = api.ok("GET /v1/bdbs/certificates", auth=("u", "u's"))
    assert [one["bdb_uid"] for one in seen] == ["2"]
    assert api("GET /v1/bdbs/1/certificates", auth=("u", "u's")).status == 404
    assert api("POST /v1/bdbs/2/certificates", {}, auth=("u", "u's")).status == 403
