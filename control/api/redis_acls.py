"""/v1/redis_acls: rights on a database, in Redis's own ACL syntax."""

from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import StringConstraints

from control.api.models import Answer, Body, ObjectName, Uid, words
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    found,
    in_field,
    needs,
    store,
    synced,
    unchanged,
)
from control.errors import conflict
from control.policy import lines as policy
from control.records import FULL_ACCESS, RedisAcl


class RedisAclBody(Body):
    name: ObjectName = ""
    acl: Annotated[str, StringConstraints(min_length=1, max_length=65536)] = ""

    IGNORED = words("uid account_id action_uid min_version max_version")


class NewRedisAclBody(RedisAclBody):
    name: ObjectName
    acl: Annotated[str, StringConstraints(min_length=1, max_length=65536)]
    uid: Uid = 0

    IGNORED = RedisAclBody.IGNORED - {"uid"}


class RedisAclAnswer(Answer):
    uid: int
    name: str
    acl: str


blueprint = Blueprint("redis_acls", __name__)


@blueprint.get("/v1/redis_acls")
@needs("view_all_redis_acls_info", answers=list[RedisAclAnswer], query=LISTING)
def read_all() -> Response:
    return answer([render(acl) for acl in found(RedisAcl)])


@blueprint.get("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("view_redis_acl_info", answers=RedisAclAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(RedisAcl, uid))


@blueprint.post("/v1/redis_acls")
@needs("create_redis_acl", takes=NewRedisAclBody, answers=RedisAclAnswer, query=CHANGING)
def create(sent: NewRedisAclBody) -> Response:
    return created(sent)


@blueprint.post("/v1/redis_acls/validate")
@needs("create_redis_acl", takes=NewRedisAclBody, answers=RedisAclAnswer)
def validate(sent: NewRedisAclBody) -> Response:
    """The older spelling of POST /v1/redis_acls?dry_run."""
    with store().request.dry_run():
        return created(sent)


def created(sent: NewRedisAclBody) -> Response:
    in_field("acl", lambda: policy.check_acl(sent.acl))
    return shown(synced(store().objects.create(RedisAcl(sent.uid, sent.name, sent.acl))))


@blueprint.put("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("update_redis_acl", takes=RedisAclBody, answers=RedisAclAnswer, query=CHANGING)
def update(uid: int, sent: RedisAclBody) -> Response:
    changes = sent.sent()
    check_custom(uid)
    if "acl" in changes:
        in_field("acl", lambda: policy.check_acl(changes["acl"]))

    def change(acl: RedisAcl) -> RedisAcl:
        return replace(unchanged(acl), **changes)

    return shown(synced(store().objects.update(RedisAcl, uid, change)))


@blueprint.delete("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("delete_redis_acl", query=CHANGING)
def delete(uid: int) -> Response:
    check_custom(uid)
    store().objects.delete(RedisAcl, uid, unchanged)
    return answer(synced({}))


def check_custom(uid: int) -> None:
    if uid == FULL_ACCESS.uid:
        raise conflict(
            "read_only", f"'{FULL_ACCESS.name}' cannot be changed: create an ACL of your own"
        )


def shown(acl: RedisAcl) -> Response:
    return answer(render(acl), acl)


def render(acl: RedisAcl) -> dict[str, Any]:
    return {"uid": acl.uid, "name": acl.name, "acl": acl.acl}
