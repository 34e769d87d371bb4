"""control/api/web.py: ETags and what two editors see, the state's number, ignored fields."""

from collections.abc import Callable, Sequence
from copy import copy
from threading import Barrier, Thread
from typing import Any

import pytest

from control.reports import Node
from tests.kit.rest import ADMIN, Answer, ControlPlane

Call = Callable[[ControlPlane], Answer]


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


def at_once(api: ControlPlane, calls: Sequence[Call]) -> list[Answer]:
    """The answers to calls that begin together, each by a client of its own."""
    ready, found = Barrier(len(calls)), list[Answer]()

    def run(call: Call) -> None:
        mine = copy(api)
        mine.client = api.app.test_client()
        ready.wait(30)
        found.append(call(mine))

    threads = [Thread(target=run, args=(call,)) for call in calls]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found


def test_two_clients_at_once(api: ControlPlane, objects: dict[str, Any]) -> None:
    """With If-Match one of them is told; without it both are done, one after the other, and nothing
    of either is lost that the other did not send."""

    def put(path: str, change: Any, **options: Any) -> Call:
        return lambda one: one(f"PUT {path}", change, **options)

    for path, change in objects.items():
        tag = {"If-Match": api(f"GET {path}").headers["ETag"]}
        found = at_once(api, [put(path, change, headers=tag)] * 2)
        assert sorted(one.status for one in found) == [200, 409], path
    given = [{"role_uid": 8, "redis_acl_uid": 4}]
    each: list[Any] = [{"roles_permissions": given}, {"default_user": True}]
    found = at_once(api, [put("/v1/bdbs/1", change) for change in each])
    assert [one.status for one in found] == [200, 200]
    shown = api.ok("GET /v1/bdbs/1")
    assert (shown["roles_permissions"], shown["default_user"]) == (given, True)


def test_without_if_match_the_last_one_wins(api: ControlPlane, objects: dict[str, Any]) -> None:
    """As on Redis Enterprise; a star means whatever there is, and nonsense never fits."""
    for path, change in objects.items():
        api.ok(f"PUT {path}", change)
        assert api(f"PUT {path}", change, headers={"If-Match": "*"}).status == 200
        for nonsense in ("", "x", '"x"'):
            assert api(f"PUT {path}", change, headers={"If-Match": nonsense}).status == 409


def test_a_login_is_no_edit(api: ControlPlane) -> None:
    """The user's ETag is still good for a change."""
    bob = api.password_user("bob", "none")
    before = api("GET /v1/users/2").headers["ETag"]
    api.ok("GET /v1/users/role", auth=bob)
    assert api.ok("GET /v1/users/2")["last_login"] > 0
    changed = api("PUT /v1/users/2", {"name": "robert"}, headers={"If-Match": before})
    assert changed.status == 200


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


def test_who_has_this_very_answer_is_told_so(api: ControlPlane) -> None:
    """304 to If-None-Match, as long as nothing that is shown has changed: not only what is stored,
    but what its servers say. The same tag is good for If-Match."""
    api.database()
    first = api("GET /v1/bdbs/1")
    headers = {"If-None-Match": first.headers["ETag"]}
    unchanged = api.client.get("/v1/bdbs/1", auth=ADMIN, headers=headers)
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 0, False, "UNREACHABLE x")])
    other = api("GET /v1/bdbs/1", headers=headers)
    assert other.status == 200
    tag = {"If-Match": first.headers["ETag"]}
    changed = api("PUT /v1/bdbs/1", {"name": "x"}, headers=tag)
    assert changed.status == 200
    assert api("PUT /v1/bdbs/1", {"name": "y"}, headers=tag).code == "config_edit_conflict"


def test_a_database_that_goes_is_not_changed(api: ControlPlane) -> None:
    """409 `busy`, also as a dry run; what is set then would never be so."""
    api.database()
    api.ok("DELETE /v1/bdbs/1")
    for query in ("", "?dry_run"):
        refused = api(f"PUT /v1/bdbs/1{query}", {"name": "x"})
        assert (refused.status, refused.code) == (409, "busy")


def test_a_user_without_a_name_is_told_of_it(api: ControlPlane) -> None:
    """As Redis Enterprise's page has it, with a subject and no name."""
    sent = {"auth_method": "certificate", "certificate_subject_line": "CN=noname,O=x"}
    refused = api("POST /v1/users", sent)
    assert (refused.status, refused.code) == (400, "missing_field")
    assert refused.text == "name: this field is missing; email can replace it"
