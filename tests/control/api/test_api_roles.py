"""control/api/roles.py: /v1/roles."""

from typing import Any

import pytest

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


def test_a_role_for_some_databases_is_refused(api: ControlPlane) -> None:
    """Ignoring the restriction would give more than was asked for."""
    body = {"name": "a", "management": "db_viewer", "resources": [{"type": "db", "uids": ["1"]}]}
    answer = api("POST /v1/roles", body)
    assert (answer.status, answer.code) == (501, "unsupported_resource")


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
