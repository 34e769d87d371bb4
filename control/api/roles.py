"""/v1/roles: what their holders may do in this API, and a name to give rights on databases to."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from control.api.models import Answer, Body, Many, ObjectName, Uid, words
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    caller,
    found,
    needs,
    store,
    synced,
    unchanged,
)
from control.errors import Refusal, forbidden, refused
from control.records import BUILTIN_ROLES, Management, Role


class RoleBody(Body):
    name: ObjectName = ""
    management: Management = "none"
    resources: Many[dict[str, Any]] = []

    IGNORED = words("uid account_id action_uid")


class NewRoleBody(RoleBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = RoleBody.IGNORED - {"uid"}


class RoleAnswer(Answer):
    uid: int
    name: str
    management: Management


blueprint = Blueprint("roles", __name__)
BUILTIN = {role.uid for role in BUILTIN_ROLES}


@blueprint.get("/v1/roles")
@needs("view_all_roles_info", answers=list[RoleAnswer], query=LISTING)
def read_all() -> Response:
    return answer([render(role) for role in found(Role)])


@blueprint.get("/v1/roles/<int(max=2147483647):uid>")
@needs("view_role_info", answers=RoleAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(Role, uid))


@blueprint.post("/v1/roles")
@needs("create_role", takes=NewRoleBody, answers=RoleAnswer, query=CHANGING)
def create(sent: NewRoleBody) -> Response:
    check_resources(sent)
    role = Role(sent.uid, sent.name, sent.management)
    check_administrator(role)
    return shown(synced(store().objects.create(role)))


@blueprint.put("/v1/roles/<int(max=2147483647):uid>")
@needs("update_role", takes=RoleBody, answers=RoleAnswer, query=CHANGING)
def update(uid: int, sent: RoleBody) -> Response:
    check_resources(sent)
    check_custom(uid)
    changes = {name: value for name, value in sent.sent().items() if name != "resources"}

    def change(role: Role) -> Role:
        changed = replace(unchanged(role), **changes)
        check_administrator(role, changed)
        return changed

    return shown(synced(store().objects.update(Role, uid, change)))


@blueprint.delete("/v1/roles/<int(max=2147483647):uid>")
@needs("delete_role", query=CHANGING)
def delete(uid: int) -> Response:
    check_custom(uid)
    store().objects.delete(Role, uid, lambda role: check_administrator(unchanged(role)))
    return answer(synced({}))


def check_resources(sent: RoleBody) -> None:
    """A role for some databases only would be taken for one for all of them."""
    if sent.resources:
        raise Refusal(
            501,
            "unsupported_resource",
            "resources: roles for some databases only are not supported",
        )


def check_custom(uid: int) -> None:
    if uid in BUILTIN:
        raise refused("builtin_role", "built-in roles stay as they are: make a role of your own")


def check_administrator(*roles: Role) -> None:
    """Who manages users must not thereby become an administrator."""
    if any(role.management == "admin" for role in roles) and not caller().may("update_cluster"):
        raise forbidden(
            "insufficient_permissions",
            "only an administrator may give, change or take away what makes an administrator",
        )


def shown(role: Role) -> Response:
    return answer(render(role), role)


def render(role: Role) -> dict[str, Any]:
    return {"uid": role.uid, "name": role.name, "management": role.management}
