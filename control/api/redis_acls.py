"""/v1/redis_acls: rights on a database, in Redis's own ACL syntax."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from control import policy
from control.errors import conflict
from control.models import NewRedisAclBody, RedisAclBody
from control.records import FULL_ACCESS, RedisAcl
from control.web import answer, body, dry_run, in_field, needs, store

blueprint = Blueprint("redis_acls", __name__)


@blueprint.get("/v1/redis_acls")
@needs("view_all_redis_acls_info")
def read_all() -> Response:
    return answer([render(acl) for acl in store().all(RedisAcl)])


@blueprint.get("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("view_redis_acl_info")
def read(uid: int) -> Response:
    return answer(render(store().get(RedisAcl, uid)))


@blueprint.post("/v1/redis_acls")
@needs("create_redis_acl")
def create() -> Response:
    sent = body(NewRedisAclBody)
    in_field("acl", lambda: policy.check_acl(sent.acl))
    return answer(render(store().create(RedisAcl(sent.uid, sent.name, sent.acl), dry_run())))


@blueprint.put("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("update_redis_acl")
def update(uid: int) -> Response:
    changes = body(RedisAclBody).sent()
    check_custom(uid)
    if "acl" in changes:
        in_field("acl", lambda: policy.check_acl(changes["acl"]))
    changed = store().update(RedisAcl, uid, lambda acl: replace(acl, **changes), dry_run())
    return answer(render(changed))


@blueprint.delete("/v1/redis_acls/<int(max=2147483647):uid>")
@needs("delete_redis_acl")
def delete(uid: int) -> Response:
    check_custom(uid)
    store().delete(RedisAcl, uid)
    return answer({})


def check_custom(uid: int) -> None:
    if uid == FULL_ACCESS.uid:
        raise conflict("read_only", f"'{FULL_ACCESS.name}' stays as it is: make an ACL of your own")


def render(acl: RedisAcl) -> dict[str, Any]:
    return {"uid": acl.uid, "name": acl.name, "acl": acl.acl}
