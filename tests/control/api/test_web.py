"""control/api/web.py: ETags and what two editors see, the state's number, ignored fields."""

from typing import Any

import pytest

from tests.kit.rest import ControlPlane


@pytest.fixture
def objects(api: ControlPlane) -> dict[str, Any]:
    """One path for each kind of object that is edited, and a change for it."""
    api.password_user("bob", "none")
    api.ok("POST /v1/roles", {"name": "ops"})
    api.ok("POST /v1/redis_acls", {"name": "get", "acl": "+get ~*"})
    api.database()
    return {
        "/v1/users/2": {"name": "robert"},
        "/v1/roles/8": {"name": "dev"},
        "/v1/redis_acls/4": {"acl": "+set ~*"},
        "/v1/bdbs/1": {"name": "bills"},
        "/v1/cluster": {"password_min_length": 9},
        "/v1/cluster/policy": {"login_lockout_threshold": 9},
    }


def test_of_two_editors_the_second_is_told(api: ControlPlane, objects: dict[str, Any]) -> None:
    """Both read, both write: the first one's change stays, the second one gets a 409."""
    for path, change in objects.items():
        seen = {"If-Match": api(f"GET {path}").headers["ETag"]}
        first = api(f"PUT {path}", change, headers=seen)
        assert first.status == 200, path
        answer = api(f"PUT {path}", change, headers=seen)
        assert (answer.status, answer.code) == (409, "config_edit_conflict"), path
        assert first.headers["ETag"] == api(f"GET {path}").headers["ETag"] != seen["If-Match"]
        assert api(f"PUT {path}", change, headers={"If-Match": first.headers["ETag"]}).status == 200


def test_what_somebody_else_changed_is_not_deleted(
    api: ControlPlane, objects: dict[str, Any]
) -> None:
    """Where the deletion says what it has seen."""
    for path, change in list(objects.items())[:4]:
        seen = {"If-Match": api(f"GET {path}").headers["ETag"]}
        api.ok(f"PUT {path}", change)
        assert api(f"DELETE {path}", headers=seen).code == "config_edit_conflict"
        seen = {"If-Match": api(f"GET {path}").headers["ETag"]}
        assert api(f"DELETE {path}", headers=seen).status == 200, path


def test_without_if_match_the_last_one_wins(api: ControlPlane, objects: dict[str, Any]) -> None:
    """As on Redis Enterprise; a star means whatever there is, and nonsense never fits."""
    for path, change in objects.items():
        api.ok(f"PUT {path}", change)
        assert api(f"PUT {path}", change, headers={"If-Match": "*"}).status == 200
        for nonsense in ("", "x", '"x"'):
            assert api(f"PUT {path}", change, headers={"If-Match": nonsense}).status == 409


def test_a_login_is_no_edit(api: ControlPlane) -> None:
    """The user's ETag stays."""
    bob = api.password_user("bob", "none")
    before = api("GET /v1/users/2").headers["ETag"]
    api.ok("GET /v1/users/role", auth=bob)
    assert api.ok("GET /v1/users/2")["last_login"] > 0
    assert api("GET /v1/users/2").headers["ETag"] == before


def test_the_state_has_a_number_that_counts_changes(api: ControlPlane) -> None:
    """The answer to a change has the number after it; strangers are told none."""
    before = int(api("GET /v1/cluster").headers["cluster-state-id"])
    assert int(api("GET /v1/users").headers["cluster-state-id"]) == before
    after = api("PUT /v1/cluster", {"password_min_length": 9}).headers["cluster-state-id"]
    assert int(after) == before + 1
    assert int(api("GET /v1/nothing").headers.get("cluster-state-id", 0)) == 0
    assert int(api("GET /v1/users/99").headers["cluster-state-id"]) == before + 1
    assert "cluster-state-id" not in api("GET /v1/cluster", auth=None).headers


def test_fields_narrow_an_answer(api: ControlPlane) -> None:
    """Those that are not there are left out, as on Redis Enterprise; extended changes nothing."""
    api.database()
    assert api.ok("GET /v1/bdbs?fields=uid,name,shards_count") == [{"uid": 1, "name": "orders"}]
    assert api.ok("GET /v1/bdbs/1?fields=status") == {"status": "active-change-pending"}
    assert api.ok("GET /v1/bdbs/1?extended=true") == api.ok("GET /v1/bdbs/1")


def test_a_database_comes_by_both_versions(api: ControlPlane) -> None:
    """v2 wraps the same object."""
    endpoints = [{"addr": ["127.0.0.1"], "port": 1}]
    body = {"bdb": {"name": "x", "endpoints": endpoints, "memory_size": 1}, "recovery_plan": {}}
    made = api.ok("POST /v2/bdbs", body)
    assert made.pop("ignored") == ["memory_size", "recovery_plan"]
    assert made == api.ok("GET /v1/bdbs/1")
    assert api("POST /v2/bdbs", {"bdb": {"name": "y"}}).text.startswith("bdb.endpoints: ")
    assert api("POST /v2/bdbs", {}).status == 400


def test_passwords_of_databases_are_not_managed_here(api: ControlPlane) -> None:
    """Said with a 406, and a 404 where there is no database."""
    api.database()
    for method in ("PUT", "POST", "DELETE"):
        answer = api(f"{method} /v1/bdbs/1/passwords", {"password": "x"})
        assert (answer.status, answer.code) == (406, "passwords_not_managed")
        assert api(f"{method} /v1/bdbs/2/passwords", {"password": "x"}).status == 404


def test_an_acl_is_validated_by_the_older_path_too(api: ControlPlane) -> None:
    """Nothing is kept, and what is wrong is said."""
    body = {"name": "get", "acl": "+get ~*"}
    assert api.ok("POST /v1/redis_acls/validate", body)["acl"] == "+get ~*"
    assert len(api.ok("GET /v1/redis_acls")) == 3
    answer = api("POST /v1/redis_acls/validate", {"name": "get", "acl": ">password"})
    assert (answer.status, answer.code) == (400, "invalid_param")
