"""control/api/system.py: what clients ask about the cluster itself, and the truth about it."""

import time

import pytest

from control.reports import Node
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki


def test_bootstrap_is_over(api: ControlPlane) -> None:
    """It was done on the machine itself, since when is told to anyone who is logged in."""
    found = api.ok("GET /v1/bootstrap")
    created = api.ok("GET /v1/cluster")["created_time"]
    done = {"state": "completed", "start_time": created, "end_time": created}
    assert found["bootstrap_status"] == done
    assert found["local_node_info"] == api.ok("GET /v1/nodes/1")
    assert api("GET /v1/bootstrap", auth=None).status == 401


def test_nobody_becomes_an_administrator_by_bootstrap(api: ControlPlane) -> None:
    """409 where Enterprise says that it runs already, 406 where it validates; 401 for strangers."""
    body = {
        "action": "create_cluster",
        "cluster": {"nodes": [], "name": "c"},
        "credentials": {"username": "mallory", "password": "x"},
    }
    for action, status in (("create_cluster", 409), ("validate/create_cluster", 406)):
        answer = api(f"POST /v1/bootstrap/{action}", body)
        assert (answer.status, answer.code) == (status, "already_initialised")
        assert api(f"POST /v1/bootstrap/{action}", body, auth=None).status == 401
    assert api("GET /v1/users/role", auth=("mallory", "x")).status == 401


def test_the_only_node_is_the_control_plane(api: ControlPlane) -> None:
    """With what clients must find: uid and status; and no shards."""
    api.store.lease.take("the test", 3)
    (node,) = api.ok("GET /v1/nodes")
    assert (node["uid"], node["status"], node["shard_count"]) == (1, "active", 0)
    assert api.ok("GET /v1/nodes/1") == node
    assert api("GET /v1/nodes/2").status == 404


def test_the_licence_has_no_limit_and_no_end(api: ControlPlane) -> None:
    """So that tools which look at it go on."""
    found = api.ok("GET /v1/license")
    assert (found["expired"], found["shards_limit"]) == (False, 2**31 - 1)
    assert found["expiration_date"].startswith("9999")
    assert api("GET /v1/license", auth=api.password_user("nobody", "none")).status == 403


def test_the_health_has_what_redis_enterprises_schema_demands(api: ControlPlane) -> None:
    """Of each part, the fields that its OpenAPI file requires, and its enumerations."""
    epoch = api.store.lease.take("the test", 3)
    api.database()
    nodes = [
        Node(1, "127.0.0.1:6380", 1, True, role="master", software="valkey 10.0.1"),
        Node(1, "127.0.0.1:6381", 1, True, role="replica", software="redis 8.6.3"),
        Node(1, "127.0.0.1:6382", 0, False, "UNREACHABLE refused"),
    ]
    api.store.nodes.report(1, nodes, epoch)
    found = api.ok("GET /v4/cluster/health")
    kinds = ("", "ram_", "flex_")
    assert found["license"].keys() == {"expired", "valid_until"}.union(
        *({f"{kind}shards_in_use", f"{kind}shards_limit"} for kind in kinds)
    )
    (node,) = found["nodes"]
    assert {
        "id", "status", "detailed_status", "role", "version", "in_maintenance", "quorum_only",
        "observed_at", "services", "shards", "memory", "ephemeral_memory_path",
        "ephemeral_memory_size", "persistent_memory_path", "persistent_memory_size",
    } <= node.keys()  # fmt: skip
    (info,) = found["database_infos"]
    assert info["detailed_status"] == "active-change-pending"
    assert "UNREACHABLE" in info["description"]
    assert (info["id"], info["status"], info["version"]) == ("1", "warning", "8.6.3")
    assert info["high_availability"] == {"status": "up"}
    (alert,) = found["active_alerts"]
    assert (alert["name"], alert["severity"]) == ("bdb_not_in_step", "WARNING")
    assert alert.keys() == {"name", "severity", "active_since", "description"}
    shown = api.ok("GET /v1/bdbs/1")
    assert (shown["type"], shown["port"], shown["version"]) == ("redis", 6380, "8.6.3")


def test_a_directory_is_refused_by_name(api: ControlPlane) -> None:
    """Each of its calls, and not as an address that there is not."""
    for call in ("GET /v1/cluster/ldap", "DELETE /v1/cluster/ldap", "GET /v1/ldap_mappings",
                 "GET /v1/ldap_mappings/1", "DELETE /v1/ldap_mappings/1"):  # fmt: skip
        assert (api(call).status, api(call).code) == (406, "ldap_unsupported")
    for call in (
        "PUT /v1/cluster/ldap",
        "POST /v1/ldap_mappings",
        "PUT /v1/ldap_mappings/1",
    ):
        refused = api(call, {"cba": True, "cba_identity_source": "subject_cn"})
        assert (refused.status, refused.code) == (406, "ldap_unsupported")
    assert api("PUT /v1/cluster/ldap", {"nonsense": 1}).code == "unknown_field"


def test_every_schema_at_once(api: ControlPlane) -> None:
    """Without `object`, as Redis Enterprise has it optional."""
    found = api.ok("GET /v1/jsonschema")
    assert found["user"] == api.ok("GET /v1/jsonschema?object=user")


def test_the_health_check_needs_a_login_unless_the_policy_says_otherwise(
    api: ControlPlane,
) -> None:
    """And then only it does not."""
    path = "GET /v1/local/node/master_healthcheck"
    api.store.lease.take("the test", 3)
    nothing = api.password_user("nothing", "none")
    assert api.ok(path) == {"status": "active"}
    assert api(path, auth=None).status == 401
    assert api(path, auth=nothing).status == 403
    api.ok("PUT /v1/cluster/policy", {"master_healthcheck_api_auth": False})
    assert api.ok(path, auth=None) == {"status": "active"}
    assert api("GET /v1/nodes", auth=None).status == 401


def test_the_check_says_what_is_wrong(
    api: ControlPlane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is behind, a certificate that has expired; and that nothing is."""
    epoch = api.store.lease.take("the test", 3)
    assert api.ok("GET /v1/cluster/check") == {
        "cluster_test_result": True,
        "nodes": [{"node_uid": 1, "result": True}],
    }
    health = api.ok("GET /v4/cluster/health")
    assert (health["fqdn"], health["status"]) == ("acme", "ok")
    api.trust(pki.ca)
    api.database()
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 1, True)], epoch)
    assert api.ok("GET /v1/cluster/check")["cluster_test_result"] is True
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 0, False, "connection refused")], epoch)
    found = api.ok("GET /v1/cluster/check")
    assert found["cluster_test_result"] is found["nodes"][0]["result"] is False
    assert "connection refused" in found["nodes"][0]["error"]
    health = api.ok("GET /v4/cluster/health")
    assert health["status"] == "warning"
    assert "connection refused" in health["active_alerts"][0]["description"]
    assert health["database_infos"][0]["name"] == "orders"
    (certificate,) = health["certificates"]
    assert (certificate["type"], certificate["expired"]) == ("mtls_trusted_ca", False)
    later = time.time() + 50 * 365 * 86400
    monkeypatch.setattr("control.api.system.time.time", lambda: later)
    assert "mtls_trusted_ca" in api.ok("GET /v1/cluster/check")["nodes"][0]["error"]
    assert api.ok("GET /v4/cluster/health")["status"] == "error"


def test_the_numbers_are_those_of_the_moment(api: ControlPlane) -> None:
    """Counted, not made up."""
    api.password_user("bob", "none")
    api.database()
    seen = [Node(1, "a:1", 1, True), Node(1, "a:2", 0, False)]
    api.store.nodes.report(1, seen)
    found = api.ok("GET /v1/cluster/stats")
    assert found.pop("time").endswith("Z")
    assert found == {
        "users": 2, "roles": 7, "redis_acls": 3, "bdbs": 1, "servers": 2, "servers_in_step": 1,
    }  # fmt: skip
