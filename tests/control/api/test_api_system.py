"""control/api/system.py: what clients ask about the cluster itself, and the truth about it."""

import time

import pytest

from control.reports import Node
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki


def test_bootstrap_is_over(api: ControlPlane) -> None:
    """It was done on the machine itself, since when is told to whoever is logged in."""
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


def test_there_is_no_licence(api: ControlPlane) -> None:
    """404, which Redis Enterprise answers where none is installed."""
    assert (api("GET /v1/license").status, api("GET /v1/license").code) == (404, "not_found")


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
    assert (health["fqdn"], health["status"], health["license"]) == ("acme", "ok", None)
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
    assert "connection refused" in health["active_alerts"][0]
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
