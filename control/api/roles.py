"""/v1/roles: what their holders may do in this API, and a name to give rights on databases to."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import Field, StringConstraints

from control.api.models import MOST, Answer, Body, Many, ObjectName, Uid, words
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
from control.errors import Refusal, forbidden, invalid, refused
from control.records import BUILTIN_ROLES, Database, Management, Role

BdbUid = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]


class ResourceBody(Body):
    """Some databases. An empty list would be read as all of them, so it is an error."""

    type: Annotated[str, StringConstraints(max_length=64)]
    uids: Annotated[Many[BdbUid], Field(min_length=1, max_length=MOST)]


class RoleBody(Body):
    name: ObjectName = ""
    management: Management = "none"
    resources: Annotated[Many[ResourceBody], Field(max_length=MOST)] = []

    IGNORED = words("uid account_id action_uid")


class NewRoleBody(RoleBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = RoleBody.IGNORED - {"uid"}


class RoleAnswer(Answer):
    """`resources`: the databases that the role is for; absent where it is for everything."""

    uid: int
    name: str
    management: Management
    resources: list[ResourceBody] = []


blueprint = Blueprint("roles", __name__)
SCOPED = ("db_member", "db_viewer")  # what a role for some databases may manage there
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
    role = Role(sent.uid, sent.name, sent.management, resources(sent))
    check_resources(role, role.resources)
    check_administrator(role)
    return shown(synced(store().objects.create(role)))


@blueprint.put("/v1/roles/<int(max=2147483647):uid>")
@needs("update_role", takes=RoleBody, answers=RoleAnswer, query=CHANGING)
def update(uid: int, sent: RoleBody) -> Response:
    check_custom(uid)
    changes = sent.sent()
    if "resources" in changes:
        changes["resources"] = resources(sent)

    def change(role: Role) -> Role:
        changed = replace(unchanged(role), **changes)
        check_resources(changed, set(changed.resources) - set(role.resources))
        check_administrator(role, changed)
        return changed

    return shown(synced(store().objects.update(Role, uid, change)))


@blueprint.delete("/v1/roles/<int(max=2147483647):uid>")
@needs("delete_role", query=CHANGING)
def delete(uid: int) -> Response:
    check_custom(uid)
    store().objects.delete(Role, uid, lambda role: check_administrator(unchanged(role)))
    return answer(synced({}))


def resources(sent: RoleBody) -> tuple[int, ...]:
    """The databases of a request, by uid. Raises Refusal 501 for resources of another kind, which
    would otherwise be taken for none."""
    for one in sent.resources:
        if one.type != "db":
            text = f"resources: the type must be db, not '{one.type}'"
            raise Refusal(501, "unsupported_resource", text)
    return tuple(sorted({int(uid) for one in sent.resources for uid in one.uids}))


def check_resources(role: Role, new: Iterable[int]) -> None:
    """Raises Refusal 400 where a role cannot be for some databases only, or one that is new among
    them does not exist: anyone who makes it later would make it the role's."""
    if role.resources and role.management not in SCOPED:
        text = f"resources: only {' and '.join(SCOPED)} can be limited to some databases"
        raise invalid("invalid_param", f"{text}, and not {role.management}")
    known = {database.uid for database in store().objects.all(Database)} if new else set()
    for uid in sorted(set(new) - known):
        raise invalid("invalid_param", f"resources: bdb {uid} does not exist")


def check_custom(uid: int) -> None:
    if uid in BUILTIN:
        raise refused("builtin_role", "built-in roles cannot be changed: create a role of your own")


def check_administrator(*roles: Role) -> None:
    """Who manages users must not thereby become an administrator."""
    if any(role.management == "admin" for role in roles) and not caller().may("update_cluster"):
        raise forbidden(
            "insufficient_permissions",
            "only an administrator may give, change or remove administrator rights",
        )


def shown(role: Role) -> Response:
    return answer(render(role), role)


def render(role: Role) -> dict[str, Any]:
    told = {"uid": role.uid, "name": role.name, "management": role.management}
    if not role.resources:
        return told
    return {**told, "resources": [{"type": "db", "uids": [str(uid) for uid in role.resources]}]}
