"""control/api/bdbs.py: /v1/bdbs."""

from datetime import timedelta
from typing import Any

import pytest

from control.pki.issue import new_ca
from control.reports import Node
from tests.kit.rest import ControlPlane
from tests.kit.support import SERVER, Pki, days, root

ENDPOINTS = [{"addr": ["127.0.0.1"], "port": 6380}]
UNAUDITED = {
    "audit_mode": "disabled",
    "username_filter": {
        "enabled": False,
        "usernames": [],
        "filter_type": "inclusive",
        "allow_while_username_unknown": False,
    },
    "source_ip_filter": {
        "enabled": False,
        "ip_addresses": [],
        "cidr_ranges": [],
        "filter_type": "inclusive",
    },
    "max_total_key_bytes": 131_072,
}


def test_a_database_as_the_issue_writes_it(api: ControlPlane, pki: Pki) -> None:
    """Every field that was sent is answered, and what it means is in the policy."""
    body = {
        "name": "orders",
        "endpoints": ENDPOINTS,
        "tls_mode": "enabled",
        "enforce_client_authentication": "enabled",
        "client_cert_subject_validation_type": "full_subject",
        "authorized_subjects": [{"CN": "alice", "OU": ["eng"], "O": "acme"}],
        "authentication_ssl_client_certs": [{"client_cert": pki.ca.pem.decode()}],
        "roles_permissions": [{"role_uid": 6, "redis_acl_uid": 1}],
        "default_user": True,
    }
    made = api.ok("POST /v1/bdbs", body)
    assert len(made["action_uid"]) == 32
    endpoint = {"uid": "1:1", "addr": ["127.0.0.1"], "port": 6380, "dns_name": ""}
    assert made == {
        "uid": 1,
        "status": "active-change-pending",
        "status_text": "",
        "created_time": made["created_time"],
        "action_uid": made["action_uid"],
        **body,
        "type": "redis",
        "port": 6380,
        "version": "",
        "endpoints": [endpoint],
        "pinned_certificates": [],
        "tls_server_ca": "",
        "tls_server_name": "",
        "node_addresses": {},
        "node_keys": [],
        "sentinel_master": "",
        "allow_unbound_peers": False,
        "allow_trust_on_internal_links": False,
        "enforcement": "refuse",
        "adopt_users": False,
        "audit_settings": UNAUDITED,
        "db_conns_auditing": False,
        "max_certificate_lifetime": None,
        "required_extended_key_usages": None,
        "required_certificate_policies": None,
        "min_key_bits": None,
        "min_tls_version": None,
        "several_names": None,
        "generation": 1,
        "nodes": [],
        "refused": [],
        "not_synced": [],
    }
    assert api.ok("GET /v1/bdbs/1") == made
    assert api.ok("GET /v1/bdbs") == [made]
    assert {line.split()[0] for line in api.lines()} == {"set", "ca", "allow"}


def test_the_defaults_are_redis_enterprises_but_for_the_default_user(api: ControlPlane) -> None:
    """TLS off, demanding certificates once it is on; `default` off, which is safer."""
    made = api.database()
    assert (made["tls_mode"], made["enforce_client_authentication"]) == ("disabled", "enabled")
    assert made["client_cert_subject_validation_type"] == "disabled"
    assert made["default_user"] is False


def test_fields_that_mean_nothing_here_are_listed(api: ControlPlane) -> None:
    """Also those inside of an endpoint."""
    endpoint = {**ENDPOINTS[0], "proxy_policy": "single"}
    made = api.ok(
        "POST /v1/bdbs",
        {"name": "x", "memory_size": 10**9, "sharding": False, "endpoints": [endpoint]},
    )
    assert made["ignored"] == ["memory_size", "proxy_policy", "sharding"]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"endpoints": ENDPOINTS}, "missing_db_name", "name: "),
        ({"name": "x"}, "missing_field", "endpoints: "),
        ({"name": "x", "endpoints": []}, "invalid_schema", "endpoints: "),
        ({"name": "x", "endpoints": [{"port": 1}]}, "missing_field", "endpoints.0.addr: "),
        ({"name": "x", "endpoints": [{"addr": ["a"]}]}, "missing_field", "endpoints.0.port: "),
        (
            {"name": "x", "endpoints": [{"addr": ["a"], "port": 65536}]},
            "invalid_schema",
            "endpoints.0.port: ",
        ),
        (
            {"name": "x", "endpoints": [{"addr": ["a b"], "port": 1}]},
            "invalid_schema",
            "endpoints.0.addr.0: ",
        ),
        ({"name": "a b", "endpoints": ENDPOINTS}, "invalid_schema", "name: "),
        (
            {"name": "x", "endpoints": ENDPOINTS, "authorised_subjects": ["a"]},
            "unknown_field",
            "authorised_subjects: ",
        ),
        ({"name": "x", "endpoints": ENDPOINTS, "tls_mode": True}, "invalid_schema", "tls_mode: "),
        (
            {"name": "x", "endpoints": ENDPOINTS, "enforce_client_authentication": True},
            "invalid_schema",
            "enforce_client_authentication: ",
        ),
        (
            {"name": "x", "endpoints": ENDPOINTS, "roles_permissions": [{"role_uid": 1}]},
            "missing_field",
            "roles_permissions.0.redis_acl_uid: ",
        ),
        (
            {"name": "x", "endpoints": ENDPOINTS, "authorized_subjects": [{"CN": "\x07"}]},
            "invalid_param",
            "authorized_subjects: ",
        ),
        ({"name": "x", "endpoints": ENDPOINTS, "tls_server_ca": "x"}, "invalid_certificate", "not"),
        (
            {
                "name": "x",
                "endpoints": ENDPOINTS,
                "roles_permissions": [{"role_uid": 9, "redis_acl_uid": 1}],
            },
            "invalid_param",
            "roles_permissions: there is no role 9",
        ),
    ],
)
def test_a_bad_database_is_a_400_with_the_field(
    api: ControlPlane, body: Any, code: str, text: str
) -> None:
    """And none was made."""
    answer = api("POST /v1/bdbs", body)
    assert (answer.status, answer.code) == (400, code), answer.json
    assert answer.text.startswith(text)
    assert api.ok("GET /v1/bdbs") == []


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda pki: [pki.ca.issue(eku=(SERVER,))], 400, "invalid_certificate"),
        (lambda pki: [root(not_before=days(-9), not_after=days(-1))], 406, "certificate_expired"),
    ],
)
def test_a_bad_client_ca_is_refused(
    api: ControlPlane, pki: Pki, make: Any, status: int, code: str
) -> None:
    """Also a leaf that no client can log in by."""
    api.database()
    certs = [{"client_cert": cert.pem.decode()} for cert in make(pki)]
    answer = api("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": certs})
    assert (answer.status, answer.code) == (status, code)
    assert api.ok("GET /v1/bdbs/1")["authentication_ssl_client_certs"] == []


def test_a_chain_may_be_spread_over_entries(api: ControlPlane, pki: Pki) -> None:
    """The intermediate in one, its root in the next, with or without a line end."""
    certs = [pki.ca.authority().pem.decode().strip(), pki.ca.pem.decode().strip()]
    api.database(authentication_ssl_client_certs=[{"client_cert": pem} for pem in certs])
    kinds = sorted(line.split()[0] for line in api.lines() if not line.startswith(("set", "user")))
    assert kinds == ["anchor", "ca"]


def test_an_expired_client_ca_does_not_block_other_changes(
    api: ControlPlane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was valid when it came may expire; a change of the name has nothing to do with it."""
    old = root(not_before=days(-9), not_after=days(-1))
    with monkeypatch.context() as patched:
        patched.setattr("control.pki.uploads._check_dates", lambda *_: None)
        api.database(authentication_ssl_client_certs=[{"client_cert": old.pem.decode()}])
    assert api.ok("PUT /v1/bdbs/1", {"name": "renamed"})["name"] == "renamed"


def test_demanding_certificates_needs_a_ca(api: ControlPlane, pki: Pki) -> None:
    """The cluster's is enough."""
    api.database()
    body = {"tls_mode": "enabled"}
    answer = api("PUT /v1/bdbs/1", body)
    assert (answer.status, answer.code) == (406, "missing_certificate")
    api.trust(pki.ca, login=False)
    assert api.ok("PUT /v1/bdbs/1", body)["tls_mode"] == "enabled"
    assert {"set enforce on", "set tls-client-auth yes"} <= api.lines()


def test_a_server_belongs_to_one_database(api: ControlPlane) -> None:
    """409, naming the other one."""
    api.database("one")
    answer = api("POST /v1/bdbs", {"name": "two", "endpoints": ENDPOINTS})
    assert (answer.status, answer.code) == (406, "port_unavailable")
    assert "'one'" in answer.text


@pytest.mark.parametrize(
    ("one", "same"),
    [("::1", "0:0:0:0:0:0:0:1"), ("10.0.0.5", "::ffff:10.0.0.5"), ("db.example", "DB.example."),
     ("127.0.0.1", "localhost")],
)  # fmt: skip
def test_another_spelling_is_no_other_server(api: ControlPlane, one: str, same: str) -> None:
    """409 as for the same one; another port is another server."""
    api.database("one", endpoints=[{"addr": [one], "port": 6380}])
    answer = api("POST /v1/bdbs", {"name": "two", "endpoints": [{"addr": [same], "port": 6380}]})
    assert (answer.status, answer.code) == (406, "port_unavailable")
    api.ok("POST /v1/bdbs", {"name": "two", "endpoints": [{"addr": [same], "port": 6381}]})


def test_roles_permissions_are_replaced_as_a_whole(api: ControlPlane) -> None:
    """And their users come and go with them."""
    api.certificate_user("alice", "CN=alice", role="none")
    api.certificate_user("bob", "CN=bob", role="db_viewer")
    api.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 1}])
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [{"role_uid": 5, "redis_acl_uid": 2}]})
    binds = {line for line in api.lines() if line.startswith("bind")}
    assert binds == {"bind subject CN=bob bob"}


def test_password_users_are_listed_as_not_synced(api: ControlPlane) -> None:
    """They log in to this API only; their rights on the database reach nobody."""
    api.password_user("bob", "none")
    api.certificate_user("alice", "CN=alice", role="none")
    made = api.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 1}])
    assert made["not_synced"] == [{"uid": 2, "name": "bob"}]


def test_the_status_says_what_the_nodes_do(api: ControlPlane) -> None:
    """Active where all hold the policy; pending; or why one is behind."""
    api.database()
    one, two = Node(1, "127.0.0.1:6380", 1, True), Node(1, "127.0.0.1:6381", 1, True)
    api.store.nodes.report(1, [one, two])
    found = api.ok("GET /v1/bdbs/1")
    assert found["status"] == "active"
    assert [node["status"] for node in found["nodes"]] == ["active", "active"]
    assert found["nodes"][0]["address"] == "127.0.0.1:6380"
    down = Node(1, "127.0.0.1:6381", 0, False, "connection refused")
    api.store.nodes.report(1, [one, down])
    found = api.ok("GET /v1/bdbs/1")
    assert found["status"] == "active-change-pending"
    assert found["status_text"] == "127.0.0.1:6381: connection refused"
    assert [node["status"] for node in found["nodes"]] == ["active", "connection refused"]


def test_a_change_makes_an_active_database_pending(api: ControlPlane) -> None:
    """Until the nodes have it: the report is of an older generation."""
    api.database()
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 1, True)])
    assert api.ok("PUT /v1/bdbs/1", {"default_user": True})["status"] == "active-change-pending"
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 2, True)])
    assert api.ok("GET /v1/bdbs/1")["status"] == "active"


def test_a_removed_database_detaches_first_and_goes_at_the_second_call(api: ControlPlane) -> None:
    """The second is for nodes that never come back."""
    api.database()
    api.ok("DELETE /v1/bdbs/1")
    assert api.ok("GET /v1/bdbs/1")["status"] == "delete-pending"
    assert api.lines() == set()
    api.ok("DELETE /v1/bdbs/1")
    assert api("GET /v1/bdbs/1").status == 404
    assert api("DELETE /v1/bdbs/1").status == 404


def test_a_database_sent_back_as_it_was_read_is_taken(api: ControlPlane, pki: Pki) -> None:
    """Clients read, change one field and send the whole."""
    certs = [{"client_cert": pki.ca.pem.decode()}]
    subjects = [{"CN": "a", "OU": ["b"]}]
    made = api.database(authentication_ssl_client_certs=certs, authorized_subjects=subjects)
    again = api.ok("PUT /v1/bdbs/1", made)
    assert again.pop("ignored") == [
        "action_uid", "created_time", "generation", "nodes", "not_synced", "port", "refused",
        "status", "status_text", "type", "uid", "version",
    ]  # fmt: skip
    assert again.pop("action_uid") != made.pop("action_uid")
    assert again == made


def test_dry_runs_change_nothing(api: ControlPlane) -> None:
    """But answer as if."""
    body = {"name": "x", "endpoints": ENDPOINTS}
    assert api.ok("POST /v1/bdbs?dry_run", body)["name"] == "x"
    assert api.ok("GET /v1/bdbs") == []
    api.database()
    assert api.ok("PUT /v1/bdbs/1?dry_run", {"name": "y"})["name"] == "y"
    assert api.ok("GET /v1/bdbs/1")["name"] == "orders"


def test_the_ca_of_the_servers_is_kept_as_certificates(api: ControlPlane, pki: Pki) -> None:
    """For the control plane's own links; a leaf is not a CA."""
    made = api.database(tls_server_ca=pki.server_ca.pem.decode())
    again = api.ok("PUT /v1/bdbs/1", {"tls_server_ca": pki.server_ca.pem.decode()})
    assert again["warnings"] == [
        "tls_server_ca: certificate 1 of 1 (CN=Server CA) has no key usage and no subject key "
        "identifier: it is taken here, and strict clients, such as those of Python 3.13, refuse it"
    ]
    whole = new_ca([("CN", "whole")], timedelta(days=1)).certificate
    assert "warnings" not in api.ok("PUT /v1/bdbs/1", {"tls_server_ca": whole})
    assert made["tls_server_ca"] == pki.server_ca.pem.decode()
    assert api("PUT /v1/bdbs/1", {"tls_server_ca": pki.server.pem.decode()}).status == 400
    assert api.ok("PUT /v1/bdbs/1", {"tls_server_ca": ""})["tls_server_ca"] == ""
