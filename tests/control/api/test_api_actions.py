"""control/api/actions.py: /v1/actions and /v2/actions."""

from typing import Any

import pytest

from control.reports import Node
from tests.kit.rest import ControlPlane


def node(generation: int, error: str = "", port: int = 6380) -> Node:
    return Node(1, f"127.0.0.1:{port}", generation, not error, error)


def action(api: ControlPlane, uid: str) -> dict[str, Any]:
    """The same by both versions; that of v1."""
    one, two = api.ok(f"GET /v1/actions/{uid}"), api.ok(f"GET /v2/actions/{uid}")
    assert one in api.ok("GET /v1/actions")["actions"]
    assert two in api.ok("GET /v2/actions")
    states = {"active": "running", "completed": "completed"}
    assert states[one["status"]] == two["status"]
    for name in ("action_uid", "name", "progress", "creation_time"):
        assert one[name] == two[name]
    assert two["additional_info"]["object_name"] == one["object_name"] == "bdb:1"
    assert isinstance(one, dict)
    return one


def test_an_action_is_done_when_every_server_has_followed(api: ControlPlane) -> None:
    """Half-way it is half done; a later change does not make it undone."""
    uid = api.database()["action_uid"]
    found = action(api, uid)
    assert (found["name"], found["status"], found["progress"]) == ("create_bdb", "active", 0)
    api.store.nodes.report(1, [node(1), node(0, port=6381)])
    assert (action(api, uid)["status"], action(api, uid)["progress"]) == ("active", 50)
    api.store.nodes.report(1, [node(1), node(1, port=6381)])
    assert (action(api, uid)["status"], action(api, uid)["progress"]) == ("completed", 100)
    later = api.ok("PUT /v1/bdbs/1", {"default_user": True})["action_uid"]
    assert later != uid
    assert action(api, uid)["status"] == "completed"
    assert (action(api, later)["name"], action(api, later)["status"]) == ("update_bdb", "active")


def test_a_server_that_cannot_be_reached_is_named(api: ControlPlane) -> None:
    """It is tried again, so nothing has failed for good."""
    uid = api.database()["action_uid"]
    api.store.nodes.report(1, [node(1), node(1, "connection refused", 6381)])
    found = action(api, uid)
    assert (found["status"], found["progress"]) == ("active", 50)
    assert found["error"] == "127.0.0.1:6381: connection refused"


def test_other_servers_have_to_follow_anew(api: ControlPlane) -> None:
    """What the old ones held says nothing about the new ones."""
    api.database()
    api.store.nodes.report(1, [node(9)])
    endpoints = [{"addr": ["127.0.0.1"], "port": 6399}]
    uid = api.ok("PUT /v1/bdbs/1", {"endpoints": endpoints})["action_uid"]
    assert action(api, uid)["status"] == "active"


def test_a_deletion_is_done_when_the_database_is_gone(api: ControlPlane) -> None:
    """Its other actions are gone with it."""
    made = api.database()["action_uid"]
    uid = api.ok("DELETE /v1/bdbs/1")["action_uid"]
    assert (action(api, uid)["name"], action(api, uid)["status"]) == ("delete_bdb", "active")
    api.store.nodes.report(1, [node(2)])
    assert action(api, uid)["progress"] == 99
    api.store.nodes.forget_database(1)
    assert action(api, uid)["status"] == "completed"
    assert api(f"GET /v1/actions/{made}").status == 404


def test_an_unknown_action_is_a_404(api: ControlPlane) -> None:
    """In both versions; and a rehearsal is none."""
    for version in (1, 2):
        assert api(f"GET /v{version}/actions/{'0' * 32}").status == 404
    endpoints = [{"addr": ["127.0.0.1"], "port": 1}]
    assert api.ok("POST /v1/bdbs?dry_run", {"name": "x", "endpoints": endpoints})["uid"] == 1
    assert api.ok("GET /v1/actions") == {"actions": [], "state-machines": []}


def test_old_actions_go(api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest come first."""
    monkeypatch.setattr("control.store.actions.ACTIONS_KEPT", 10)
    monkeypatch.setattr("control.store.actions.TRIM_BATCH", 5)
    last = api.database()["action_uid"]
    for number in range(29):
        last = api.ok("PUT /v1/bdbs/1", {"name": f"db{number}"})["action_uid"]
    found = api.store.actions.recent(limit=1000)
    assert len(found) == 10
    assert found[0].uid == last
