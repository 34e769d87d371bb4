"""control/api/roles.py: /v1/roles."""

import re
from typing import Any, cast

import pytest

from control.api.openapi import declared
from control.cli import apply
from control.cli.client import Client
from tests.kit.rest import ControlPlane


def test_the_built_in_roles_have_redis_enterprises_uids(api: ControlPlane) -> None:
    """Clients name them by uid."""
    found = api.ok("GET /v1/roles")
    assert [(role["uid"], role["management"]) for role in found] == [
        (1, "admin"), (2, "cluster_member"), (3, "cluster_viewer"), (4, "db_member"),
        (5, "db_viewer"), (6, "none"), (7, "user_manager"),
    ]  # fmt: skip
    assert api.ok("GET /v1/roles/4") == {"uid": 4, "name": "DB Member", "management": "db_member"}


def test_a_role_comes_changes_and_goes(api: ControlPlane) -> None:
    """With the fields that answers must have."""
    made = api.ok("POST /v1/roles", {"name": "ops [1]", "management": "db_member"})
    assert made == {"uid": 8, "name": "ops [1]", "management": "db_member"}
    changed = api.ok("PUT /v1/roles/8", {**made, "management": "none", "resources": []})
    assert changed == {**made, "management": "none", "ignored": ["uid"]}
    api.ok("DELETE /v1/roles/8")
    assert api("GET /v1/roles/8").status == 404


def test_a_role_that_manages_nothing_is_the_default(api: ControlPlane) -> None:
    """What is not said gives no rights."""
    assert api.ok("POST /v1/roles", {"name": "ops"})["management"] == "none"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({}, "missing_field", "name: "),
        ({"name": "a/b"}, "invalid_schema", "name: "),
        ({"name": 1}, "invalid_schema", "name: "),
        ({"name": "a", "management": "root"}, "invalid_schema", "management: "),
        ({"name": "a", "managment": "admin"}, "unknown_field", "managment: "),
    ],
)
def test_a_bad_role_is_a_400_with_the_field(
    api: ControlPlane, body: Any, code: str, text: str
) -> None:
    """And none was made."""
    answer = api("POST /v1/roles", body)
    assert (answer.status, answer.code) == (400, code)
    assert answer.text.startswith(text)
    assert len(api.ok("GET /v1/roles")) == 7


@pytest.mark.parametrize(
    ("management", "resources", "status", "code"),
    [
        ("db_viewer", [{"type": "node", "uids": ["1"]}], 501, "unsupported_resource"),
        ("db_viewer", [{"type": "db", "uids": ["7"]}], 400, "invalid_param"),
        ("db_viewer", [{"type": "db", "uids": []}], 400, "invalid_schema"),
        ("db_viewer", [{"type": "db", "uids": [1]}], 400, "invalid_schema"),
        ("db_viewer", [{"type": "db", "uids": ["01"]}], 400, "invalid_schema"),
        ("db_viewer", [{"type": "db"}], 400, "missing_field"),
        ("db_viewer", [{"uids": ["1"]}], 400, "missing_field"),
        ("db_viewer", [{"type": "db", "uids": ["1"], "only": True}], 400, "unknown_field"),
        ("db_viewer", {"type": "db", "uids": ["1"]}, 400, "invalid_schema"),
        ("admin", [{"type": "db", "uids": ["1"]}], 400, "invalid_param"),
        ("cluster_member", [{"type": "db", "uids": ["1"]}], 400, "invalid_param"),
        ("none", [{"type": "db", "uids": ["1"]}], 400, "invalid_param"),
    ],
)
def test_a_restriction_that_cannot_be_kept_is_refused(
    api: ControlPlane, management: str, resources: Any, status: int, code: str
) -> None:
    """Ignoring it would give more than was asked for; none is made, and none is changed so."""
    api.database()
    body = {"name": "a", "management": management, "resources": resources}
    assert (api("POST /v1/roles", body).status, api("POST /v1/roles", body).code) == (status, code)
    api.ok("POST /v1/roles", {"name": "b", "management": management})
    answer = api("PUT /v1/roles/8", {"resources": resources})
    assert (answer.status, answer.code) == (status, code)
    assert "resources" not in api.ok("GET /v1/roles/8")


SCOPE = [{"type": "db", "uids": ["1"]}]
# All that a role for some databases opens: whatever else there is, is not about one database.
SCOPED = {
    "GET /v1/bdbs", "GET /v1/bdbs/<uid>", "PUT /v1/bdbs/<uid>", "DELETE /v1/bdbs/<uid>",
    "DELETE /v1/bdbs/<uid>/nodes/<address>", "PUT /v1/bdbs/<uid>/passwords",
    "POST /v1/bdbs/<uid>/passwords", "DELETE /v1/bdbs/<uid>/passwords", "GET /v1/cluster",
    "GET /v1/license", "GET /v1/bdbs/certificates", "GET /v1/bdbs/<uid>/certificates",
    "POST /v1/bdbs/<uid>/certificates", "DELETE /v1/bdbs/<uid>/certificates",
}  # fmt: skip


@pytest.fixture
def scoped(api: ControlPlane) -> tuple[str, str]:
    """Somebody who has a role for the first of two databases, and only that."""
    api.database()
    api.database("carts", 6381)
    api.ok("POST /v1/roles", {"name": "ops", "management": "db_member", "resources": SCOPE})
    api.ok("POST /v1/users", {"name": "sam", "password": "sam's", "role_uids": [8]})
    return "sam", "sam's"


def test_a_role_for_some_databases_is_for_those(api: ControlPlane, scoped: tuple[str, str]) -> None:
    """They are seen, changed and given back; of others it is not even said that they exist."""
    assert [one["uid"] for one in api.ok("GET /v1/bdbs", auth=scoped)] == [1]
    assert [one["uid"] for one in api.ok("GET /v1/bdbs?search=a&limit=9", auth=scoped)] == []
    assert api.ok("PUT /v1/bdbs/1", {"name": "new"}, auth=scoped)["name"] == "new"
    for call, body in (
        ("GET", None), ("PUT", {"name": "x"}), ("DELETE", None), ("PUT?dry_run", {"name": "x"}),
    ):  # fmt: skip
        method, _, query = call.partition("?")
        there = api(f"{method} /v1/bdbs/2{'?' if query else ''}{query}", body, auth=scoped)
        absent = api(f"{method} /v1/bdbs/99", body, auth=scoped)
        assert (there.status, there.code) == (absent.status, absent.code) == (404, "not_found")
        assert there.text == absent.text.replace("99", "2")
    assert api("DELETE /v1/bdbs/2/nodes/a:1", auth=scoped).status == 404
    taken = api("PUT /v1/bdbs/1", {"endpoints": [{"addr": ["127.0.0.1"], "port": 6381}]},
                auth=scoped)  # fmt: skip
    assert (taken.status, taken.code, "carts" in taken.text) == (406, "port_unavailable", False)
    assert api.ok("GET /v1/bdbs/2")["name"] == "carts"
    assert api.ok("DELETE /v1/bdbs/1", auth=scoped)["action_uid"]
    assert api.ok("GET /v1/bdbs/1", auth=scoped)["status"] == "delete-pending"


def test_a_role_for_some_databases_opens_nothing_else(
    api: ControlPlane, scoped: tuple[str, str]
) -> None:
    """Every other call is a 403 for who has only that: those that are about all databases, too."""
    opened = set()
    for route, rule, _ in declared(api.app):
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"<\1>", route.rule)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.scoped:
                opened.add(f"{method} {path}")
            elif rule.permission not in ("any", "nobody's"):
                asked = re.sub(r"<uid>", "1", path).replace("<", "").replace(">", "")
                answer = api(f"{method} {asked}", {} if rule.takes else None, auth=scoped)
                assert answer.status == 403, (method, path, answer.json)
    assert opened == SCOPED


def test_what_a_role_is_for_can_be_changed(api: ControlPlane, scoped: tuple[str, str]) -> None:
    """At once; sent back as it was read it is not a change, and left out it stays. It cannot become
    more than a member of those databases; with a role for all of them, all are there."""
    shown = api.ok("GET /v1/roles/8")
    assert shown == {"uid": 8, "name": "ops", "management": "db_member", "resources": SCOPE}
    shown.pop("uid")
    assert api.ok("PUT /v1/roles/8", shown)["resources"] == SCOPE
    assert api.ok("PUT /v1/roles/8", {"name": "x"})["resources"] == SCOPE
    refused = api("PUT /v1/roles/8", {"management": "admin"})
    assert (refused.status, refused.code) == (400, "invalid_param")
    api.ok("PUT /v1/roles/8", {"management": "db_viewer"})
    assert api("PUT /v1/bdbs/1", {"name": "x"}, auth=scoped).status == 403
    assert api("GET /v1/bdbs/1", auth=scoped).status == 200
    api.ok("PUT /v1/roles/8", {"resources": [{"type": "db", "uids": ["2"]}]})
    assert [one["uid"] for one in api.ok("GET /v1/bdbs", auth=scoped)] == [2]
    api.ok("PUT /v1/users/2", {"role_uids": [5, 8]})
    assert [one["uid"] for one in api.ok("GET /v1/bdbs", auth=scoped)] == [1, 2]
    api.ok("PUT /v1/users/2", {"role_uids": [8]})
    api.ok("PUT /v1/roles/8", {"resources": []})
    assert [one["uid"] for one in api.ok("GET /v1/bdbs", auth=scoped)] == [1, 2]


def test_a_file_of_all_that_there_is_gives_no_more(
    api: ControlPlane, scoped: tuple[str, str]
) -> None:
    """A file does not say which databases a role is for, so there it manages nothing."""

    def ask(method: str, path: str) -> Any:
        return api.ok(f"{method} {path}")

    found = apply.fetch(cast(Client, ask))
    assert found["roles"]["ops"]["management"] == "none"
    assert found["roles"]["DB Member"]["management"] == "db_member"


def test_names_are_unique(api: ControlPlane) -> None:
    """Built-in ones count."""
    answer = api("POST /v1/roles", {"name": "Admin"})
    assert (answer.status, answer.code) == (409, "name_already_exists")


def test_built_in_roles_stay_as_they_are(api: ControlPlane) -> None:
    """The old `role` field of users is a name for them."""
    assert api("PUT /v1/roles/5", {"management": "admin"}).code == "builtin_role"
    assert api("DELETE /v1/roles/6").code == "builtin_role"


def test_a_role_that_is_held_is_not_deleted(api: ControlPlane) -> None:
    """406, naming who holds it."""
    api.ok("POST /v1/roles", {"name": "ops"})
    api.ok("POST /v1/users", {"name": "bob", "password": "x", "role_uids": [8]})
    answer = api("DELETE /v1/roles/8")
    assert (answer.status, answer.code) == (406, "role_in_use")
    assert "bob" in answer.text


def test_the_role_of_the_last_administrator_stays_one(api: ControlPlane) -> None:
    """Changing the role is changing its holders."""
    api.ok("POST /v1/roles", {"name": "chiefs", "management": "admin"})
    api.ok("PUT /v1/users/1", {"role_uids": [8]})
    answer = api("PUT /v1/roles/8", {"management": "none"})
    assert (answer.status, answer.code) == (406, "change_last_admin_role_not_allowed")


def test_a_user_manager_makes_no_administrators_role(api: ControlPlane) -> None:
    """Not a new one, not out of one that it holds, and none is taken from others."""
    manager = api.password_user("manager", "user_manager")
    api.ok("POST /v1/roles", {"name": "mine", "management": "none"}, auth=manager)
    api.ok("POST /v1/roles", {"name": "chiefs", "management": "admin"})
    attempts: list[tuple[str, Any]] = [
        ("POST /v1/roles", {"name": "x", "management": "admin"}),
        ("PUT /v1/roles/8", {"management": "admin"}),
        ("PUT /v1/roles/9", {"management": "none"}),
        ("DELETE /v1/roles/9", None),
    ]
    for request, body in attempts:
        assert api(request, body, auth=manager).status == 403, request


def test_a_dry_run_makes_no_role(api: ControlPlane) -> None:
    """But answers as if."""
    assert api.ok("POST /v1/roles?dry_run", {"name": "ops"})["uid"] == 8
    assert api("GET /v1/roles/8").status == 404
