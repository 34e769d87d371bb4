"""control/api/redis_acls.py: /v1/redis_acls."""

from typing import Any

import pytest

from tests.kit.rest import ControlPlane


def test_the_first_acls_are_redis_enterprises(api: ControlPlane) -> None:
    """With channels in Full Access, since stock servers give none by themselves."""
    found = api.ok("GET /v1/redis_acls")
    assert [(acl["uid"], acl["name"], acl["acl"]) for acl in found] == [
        (1, "Full Access", "+@all ~* &*"),
        (2, "Read Only", "+@read ~*"),
        (3, "Not Dangerous", "+@all -@dangerous ~*"),
    ]


def test_an_acl_comes_changes_and_goes(api: ControlPlane) -> None:
    """Its text is answered as it was sent."""
    made = api.ok("POST /v1/redis_acls", {"name": "geo", "acl": "~geo:*  +@geo"})
    assert made == {"uid": 4, "name": "geo", "acl": "~geo:*  +@geo"}
    changed = api.ok("PUT /v1/redis_acls/4", {"acl": "+get"})
    assert changed == {**made, "acl": "+get"} == api.ok("GET /v1/redis_acls/4")
    api.ok("DELETE /v1/redis_acls/4")
    assert api("GET /v1/redis_acls/4").status == 404


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"acl": "+get"}, "missing_field", "name: "),
        ({"name": "a"}, "missing_field", "acl: "),
        ({"name": "a", "acl": ""}, "invalid_schema", "acl: "),
        ({"name": "a", "acl": " "}, "invalid_param", "acl: "),
        ({"name": "a", "acl": "+get nopass"}, "invalid_param", "acl: 'nopass'"),
        ({"name": "a", "acl": "+get >secret"}, "invalid_param", "acl: '>secret'"),
        ({"name": "a", "acl": "(+get (+set))"}, "invalid_param", "acl: "),
        ({"name": "a", "acl": "+get\nuser b on +@all"}, "invalid_param", "acl: 'user'"),
        ({"name": "a", "acl": "~a\u202e +get"}, "invalid_param", "acl: "),
        ({"name": "a", "acl": "~a\0 +get"}, "invalid_param", "acl: "),
        ({"name": "a", "acl": "+get", "redis_acl": "x"}, "unknown_field", "redis_acl: "),
    ],
)
def test_a_bad_acl_is_a_400_with_the_field(
    api: ControlPlane, body: Any, code: str, text: str
) -> None:
    """And none was made."""
    answer = api("POST /v1/redis_acls", body)
    assert (answer.status, answer.code) == (400, code), answer.json
    assert answer.text.startswith(text)
    assert len(api.ok("GET /v1/redis_acls")) == 3


def test_full_access_is_read_only(api: ControlPlane) -> None:
    """409, as on Redis Enterprise."""
    for request, body in (
        ("PUT /v1/redis_acls/1", {"acl": "+get"}),
        ("DELETE /v1/redis_acls/1", None),
    ):
        answer = api(request, body)
        assert (answer.status, answer.code) == (409, "read_only")


def test_names_are_unique(api: ControlPlane) -> None:
    """As everywhere."""
    answer = api("POST /v1/redis_acls", {"name": "Full Access", "acl": "+get"})
    assert (answer.status, answer.code) == (409, "name_already_exists")


def test_an_acl_in_use_is_not_deleted(api: ControlPlane) -> None:
    """406, naming the database."""
    api.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])
    answer = api("DELETE /v1/redis_acls/2")
    assert (answer.status, answer.code) == (406, "redis_acl_in_use")
    assert "orders" in answer.text


def test_a_changed_acl_changes_the_lines_of_its_users(api: ControlPlane) -> None:
    """On each database that names it."""
    api.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])
    api.certificate_user("alice", "CN=alice", role="none")
    api.ok("PUT /v1/redis_acls/2", {"acl": "+get ~x"})
    assert "user alice on +get ~x" in api.lines()


def test_a_dry_run_makes_no_acl(api: ControlPlane) -> None:
    """But finds what is wrong."""
    api.ok("POST /v1/redis_acls?dry_run", {"name": "a", "acl": "+get"})
    assert api("POST /v1/redis_acls?dry_run", {"name": "a", "acl": "nopass"}).status == 400
    assert len(api.ok("GET /v1/redis_acls")) == 3
