"""POST /v1/certauth/bulk: many users at once, all or none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.policy import lines as policy
from control.records import User
from control.store import lines
from tests.kit.rest import ControlPlane

BULK = "POST /v1/certauth/bulk"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path)
    made.database(roles_permissions=[{"role_uid": 5, "redis_acl_uid": 1}])
    yield made
    made.close()


def fields(name: str, **more: Any) -> dict[str, Any]:
    subject = {"certificate_subject_line": f"CN={name},O=acme"}
    return {"name": name, "auth_method": "certificate", "role_uids": [5], **subject, **more}


def rendered(plane: ControlPlane) -> None:
    """The lines are those that one change of everything would make."""
    target, found = plane.store.policies.whole(1)
    with plane.store._kernel.read() as connection:
        assert set(found) == {line for _, line in lines.render_lines(connection, 1, own=False)}
    assert target.digest == policy.digest_of("", found, ())


def test_users_come_with_one_change_of_the_policy(plane: ControlPlane) -> None:
    before = plane.store.policies.target(1).generation
    made = plane.ok(BULK, {"users": [fields(f"u{n}") for n in range(10)]})["users"]
    assert [one["name"] for one in made] == [f"u{n}" for n in range(10)]
    assert plane.store.policies.target(1).generation == before + 1
    rendered(plane)
    uid = made[3]["uid"]
    assert plane.ok(f"GET /v1/users/{uid}")["name"] == "u3"
    assert plane.certificate_user("next", "CN=next")["uid"] == made[-1]["uid"] + 1
    logged = plane.store.events.between(0, 2**40, True, 100, 0, ("user_created",))
    assert {one.detail["user_name"] for one in logged} >= {"u0", "u9", "next"}


def test_an_empty_choice_gives_nothing_and_is_told(plane: ControlPlane) -> None:
    """Redis Enterprise would make a user without a role a db_viewer; here it is nobody's."""
    users = [fields("u0"), fields("u1", role_uids=[]), fields("u2", role="none", role_uids=[])]
    for query in ("?dry_run", ""):
        (warning,) = plane.ok(f"{BULK}{query}", {"users": users})["warnings"]
        assert "2 of 3 users, first 'u1', have no role: no rights" in warning
    assert not [line for line in plane.lines() if "u1" in line]
    assert "warnings" not in plane.ok(BULK, {"users": [fields("u3")]})


def test_unusual_users_may_be_among_them(plane: ControlPlane) -> None:
    shared = [{"subject": "CN=team,O=acme", "shared": True}]
    users = [
        {"name": name, "auth_method": "certificate", "role_uids": [5],
         "certificate_identities": shared}
        for name in ("one", "two")
    ]  # fmt: skip
    users += [fields("word:x", uid=77), fields("plain")]
    users.append({"name": "person", "password": "a password of hers", "role": "db_viewer"})
    made = plane.ok(BULK, {"users": users})["users"]
    assert [one["name"] for one in made] == [one["name"] for one in users]
    assert made[2]["uid"] == 77
    assert "bind subject CN=team,O=acme one two" in plane.store.policies.whole(1)[1]
    rendered(plane)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is taken": (fields("old", certificate_subject_line="CN=x"),
                             "another user has the name 'old' (name_already_exists)"),
    "a subject that is taken": (fields("new", certificate_subject_line="CN=old,O=acme"),
                                "has the certificate_subject_line"),
    "a name that is there twice": (fields("u1", certificate_subject_line="CN=x"),
                                   "another user has the name 'u1'"),
    "a role that is not there": (fields("new", role_uids=[99]), "there is no role 99"),
    "a name of this product": (fields("certauth-x"), "names that start with 'certauth'"),
    "no identity": ({"name": "new", "auth_method": "certificate"}, "certificate users need this"),
    "an unknown field": (fields("new", colour="red"), "colour: unknown field"),
    "no object": ({}, "name: this field is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_one_that_is_wrong_is_named_and_none_is_made(plane: ControlPlane, what: str) -> None:
    plane.certificate_user("old", "CN=old,O=acme")
    wrong, why = WRONG[what]
    before, users = plane.store.policies.whole(1), plane.store.objects.all(User)
    sent = [*(fields(f"u{n}") for n in range(9)), wrong]
    answer = plane(BULK, {"users": sent})
    assert (answer.status, answer.code) == (406, "bulk_refused")
    assert answer.text.startswith("1 of 10 users are refused, and none is made: users.9 (")
    assert why in answer.text
    assert (plane.store.policies.whole(1), plane.store.objects.all(User)) == (before, users)


def test_a_bulk_is_made_once_by_its_key(plane: ControlPlane) -> None:
    sent = {"users": [fields("one"), fields("two")], "key": "import-1"}
    made = plane.ok(BULK, sent)
    assert plane.ok(BULK, sent)["users"] == made["users"]
    other = plane(BULK, {**sent, "users": [fields("three")]})
    assert (other.status, other.code) == (409, "key_reused")
    again = plane(BULK, {"users": sent["users"]})
    assert again.code == "bulk_refused"


def test_a_dry_run_makes_none(plane: ControlPlane) -> None:
    before = plane.store.objects.all(User)
    plane.ok(f"{BULK}?dry_run", {"users": [fields("one")], "key": "k"})
    assert plane.store.objects.all(User) == before
    plane.ok(BULK, {"users": [fields("one")], "key": "k"})


def test_who_may_not_make_users_makes_none(plane: ControlPlane) -> None:
    viewer = plane.password_user("viewer", "db_viewer")
    answer = plane(BULK, {"users": [fields("one")]}, auth=viewer)
    assert (answer.status, answer.code) == (403, "insufficient_permissions")


def test_who_manages_users_makes_no_administrator(plane: ControlPlane) -> None:
    manager = plane.password_user("manager", "user_manager")
    answer = plane(BULK, {"users": [fields("one", role_uids=[1])]}, auth=manager)
    assert (answer.status, answer.code) == (406, "bulk_refused")
    assert "only an administrator" in answer.text


# ---- Look-ups of one, and totals ----


def test_a_name_is_looked_up_and_pages_have_a_total(plane: ControlPlane) -> None:
    plane.ok(BULK, {"users": [fields(f"u{n}") for n in range(10)]})
    found = plane("GET /v1/users?name=u3")
    assert [one["name"] for one in found.json] == ["u3"]
    assert found.headers["X-Total-Count"] == "1"
    page = plane("GET /v1/users?limit=4&offset=8")
    assert (len(page.json), page.headers["X-Total-Count"]) == (3, "11")  # with the administrator
    some = plane("GET /v1/users?search=U&limit=2")
    assert (len(some.json), some.headers["X-Total-Count"]) == (2, "10")
    assert plane.ok("GET /v1/users?name=U3") == []
    assert plane.ok("GET /v1/cluster/stats")["users"] == 11
    assert "X-Total-Count" not in plane("GET /v1/users").headers


def test_totals_tell_nobody_of_databases_that_are_not_theirs(plane: ControlPlane) -> None:
    role = {"name": "scoped", "management": "db_viewer"}
    uid = plane.ok("POST /v1/roles", {**role, "resources": [{"type": "db", "uids": ["1"]}]})["uid"]
    user = {"name": "scoped", "password": "a password of hers", "role_uids": [uid]}
    plane.ok("POST /v1/users", user)
    found = plane("GET /v1/bdbs?limit=5", auth=("scoped", "a password of hers"))
    assert found.status == 200
    assert "X-Total-Count" not in found.headers
