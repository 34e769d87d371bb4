"""Roles: what their holders may do here, and a name to give rights on databases to."""

from collections.abc import Iterator
from typing import Any

from control.records import BUILTIN_ROLES
from control.ui import objects
from control.ui.ask import ask, may
from control.ui.changes import Item
from control.ui.fields import Field, Pick
from control.ui.objects import Column, Kind


def managements() -> Iterator[tuple[str, str]]:
    for one in sorted({role.management for role in BUILTIN_ROLES}, key=lambda it: it != "none"):
        yield one, one.replace("_", " ")


def more(role: Item) -> dict[str, Any]:
    """Where it counts, and as what."""
    return {"used": used("role_uid", role["uid"]), "holders": holders(role["uid"])}


def used(field: str, uid: int) -> list[tuple[Item, Item, Item]]:
    """The grants of databases that have this role or ACL: database, role, ACL."""
    needed = ("view_all_bdbs_info", "view_all_roles_info", "view_all_redis_acls_info")
    if not all(map(may, needed)):
        return []
    names = {one["uid"]: one for one in ask("GET /v1/roles")}
    acls = {one["uid"]: one for one in ask("GET /v1/redis_acls")}
    return [
        (one, names[grant["role_uid"]], acls[grant["redis_acl_uid"]])
        for one in ask("GET /v1/bdbs", fields="uid,name,roles_permissions")
        for grant in one["roles_permissions"]
        if grant[field] == uid
    ]


HOLDERS = 20  # that are shown


def holders(uid: int) -> tuple[list[Item], bool]:
    """The first users who hold a role, and whether there are more."""
    if not may("view_all_users_info"):
        return [], False
    found = ask("GET /v1/users", role_uid=uid, limit=HOLDERS + 1)
    return found[:HOLDERS], len(found) > HOLDERS


KIND = Kind(
    "role",
    "Roles",
    "What users may do here (management), and a name that databases give rights to. The first "
    "seven stay as they are.",
    "roles",
    "/v1/roles",
    ("create_role", "update_role", "delete_role"),
    (Column("Management", lambda role: role["management"].replace("_", " "), sort="management"),),
    (
        Field("name", "Name", required=True),
        Pick(
            "management",
            "Management",
            "What its holders may do here; none is right for programs.",
            choices=managements,
        ),
    ),
    "used.html",
    more,
    noun_in_log="role",
)
blueprint = objects.blueprint_of(KIND)
